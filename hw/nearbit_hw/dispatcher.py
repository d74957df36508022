"""Checks commands and starts them."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from nearbit_hw.layouts import (
    Error,
    codes_layout,
    order_layout,
    query_layout,
    select_layout,
    word_layout,
)


__all__ = ["Dispatcher"]


class Dispatcher(wiring.Component):
    """Checks a command and sets the units before the values to work on it.

    A command is checked in the cycle in which it is first valid. From the next cycle on it is
    announced to :py:`o_order` and to :py:`o_select` of each row without an error. It is accepted in
    the cycle in which the last of them takes it, or the last word or the codes of the previous
    command are taken, whatever is latest. Its own codes and words follow from the next cycle on, a
    word per cycle; :py:`last` is set on its last word, that of the longest row without an error. A
    command without any good row has no codes and no words. One with :py:`shared` is a command of
    the last row alone to all but :py:`o_order`, which is to select by the sum of all rows'
    distances.

    If nothing is stalled, a command of w words occupies the block for max(w, 2) cycles, so words
    follow each other without a gap as long as no command has a single one. ScoreArray takes the
    codes later, :py:`rows + 1` cycles after the acceptance, if its words come through a KeyStore:
    then it is at least max(w, rows + 1) cycles. Reset drops the command in work.

    With :py:`block`, the words of a command are sent in blocks of so many keys, the last one
    shorter. From the cycle of a block's first word on, the next block is announced to
    :py:`o_block` of each row that selects; its words follow the block's last one without a gap, or
    in the cycle after the last row takes it. The next command's :py:`o_select` waits for the
    announcement of the last block.

    Parameters
    ----------
    key_bits, capacity, rows, lanes, top_n, tables : :class:`int`
        As in :class:`nearbit_model.Config`.
    rescore : :class:`bool`
        Whether there is a unit for exact scores.
    shared : :class:`bool`
        Whether rows may share a selection.
    block : :class:`int`
        Keys of a block, a power of two and a multiple of :py:`lanes`; 0, if there are no blocks.

    Members
    -------
    i : :py:`In(stream.Signature(query_layout(...)))`
        Commands.
    loaded : :py:`In(range(capacity + 1))`
        Rows from 0 that may be read. Must not fall.
    exact_loaded : :py:`In(range(capacity + 1))`
        Rows from 0 that may be rescored, if there is a unit for it. Must not fall.
    tables_loaded : :py:`In(tables)`
        Weight tables that may be used.
    o_order : :py:`Out(stream.Signature(order_layout(...)))`
        For each command, what is to be known of it later.
    o_select : :py:`Out(stream.Signature(...)).array(rows)`
        Commands for each row's :class:`nearbit_hw.select.TopN`.
    o_block : :py:`Out(stream.Signature(StructLayout({}))).array(rows)`
        Blocks after the first one, for each row's :class:`nearbit_hw.select.HistogramTopN`, if
        there are any.
    o_query : :py:`Out(stream.Signature(...))`
        Codes for :class:`nearbit_hw.score.ScoreArray`.
    o_words : :py:`Out(stream.Signature(...))`
        Requests to :class:`nearbit_hw.score.KeyStore`.
    """

    i: stream.Interface
    loaded: Signal
    exact_loaded: Signal
    tables_loaded: Signal
    o_order: stream.Interface
    o_select: list[stream.Interface]
    o_block: list[stream.Interface]
    o_query: stream.Interface
    o_words: stream.Interface

    def __init__(self, *, key_bits: int, capacity: int, rows: int, lanes: int, top_n: int,
                 tables: int, rescore: bool = False, shared: bool = False, block: int = 0):
        for name, value in [("Key bits", key_bits), ("Capacity", capacity), ("Rows", rows),
                            ("Top N", top_n), ("Tables", tables)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        if not isinstance(lanes, int) or lanes < 1 or lanes & (lanes - 1):
            raise TypeError(f"Lanes must be a power of two, not {lanes!r}")
        if capacity % lanes:
            raise ValueError(f"Capacity must be a multiple of lanes, not {capacity!r}")
        if top_n > capacity:
            raise ValueError(f"Top N must be at most capacity, not {top_n!r}")
        if not isinstance(block, int) or block < 0 or block & (block - 1) or block % lanes:
            raise TypeError("A block must be a power of two and a multiple of lanes, or 0, "
                            f"not {block!r}")
        self._key_bits = key_bits
        self._capacity = capacity
        self._rows = rows
        self._lanes = lanes
        self._top_n = top_n
        self._tables = tables
        self._rescore = bool(rescore)
        self._shared = bool(shared)
        self._block = block

        super().__init__({
            "i": In(stream.Signature(query_layout(
                key_bits=key_bits, capacity=capacity, rows=rows, tables=tables,
                rescore=rescore))),
            "loaded": In(range(capacity + 1)),
            **({"exact_loaded": In(range(capacity + 1))} if rescore else {}),
            "tables_loaded": In(tables),
            "o_order": Out(stream.Signature(order_layout(
                rows=rows, tables=tables, rescore=rescore, shared=shared))),
            "o_select": Out(stream.Signature(select_layout(
                capacity=capacity, lanes=lanes, top_n=top_n, shared=shared))).array(rows),
            **({"o_block": Out(stream.Signature(data.StructLayout({}))).array(rows)}
               if block else {}),
            "o_query": Out(stream.Signature(codes_layout(key_bits=key_bits, rows=rows))),
            "o_words": Out(stream.Signature(word_layout(capacity=capacity, lanes=lanes))),
        })

    @property
    def key_bits(self) -> int:
        return self._key_bits

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def lanes(self) -> int:
        return self._lanes

    @property
    def top_n(self) -> int:
        return self._top_n

    @property
    def tables(self) -> int:
        return self._tables

    @property
    def rescore(self) -> bool:
        return self._rescore

    @property
    def shared(self) -> bool:
        return self._shared

    @property
    def block(self) -> int:
        return self._block

    @property
    def latency(self) -> int:
        """Cycles from a command's first valid cycle to its first word, if all is idle."""
        return 2

    def elaborate(self, platform) -> Module:
        m = Module()

        lane_bits = exact_log2(self._lanes)
        word_shape = range(self._capacity // self._lanes)
        command = self.i.p
        first_word, skip = command.first[lane_bits:], command.first[:lane_bits]

        # ---- Check. The command stays on `i` until it is accepted.
        fire = Signal() # the command is accepted
        checked = Signal()
        errors = Signal(data.ArrayLayout(Error, self._rows), reset_less=True)
        active = Signal(self._rows, reset_less=True)
        last_word = Signal(range(self._capacity // self._lanes + 1), reset_less=True)
        m.d.sync += checked.eq(self.i.valid & ~fire)

        readable: Value = self.loaded
        if self._rescore:
            exact_readable = Mux(self.exact_loaded < self.loaded, self.exact_loaded, self.loaded)
            readable = Mux(command.rescore, exact_readable, self.loaded)

        # Whether the rows could share a selection.
        can_share = Signal()
        if self._shared:
            m.d.comb += can_share.eq(command.rescore & Cat(
                fields.count == command.rows[0].count for fields in command.rows).all())

        last_words: list[Value] = []
        for row in range(self._rows):
            fields = command.rows[row]
            error = Signal(Error, name=f"error_{row}")
            with m.If(command.n == 0):
                m.d.comb += error.eq(Error.NO_N)
            with m.Elif(command.n + command.sink + command.recent > self._top_n):
                m.d.comb += error.eq(Error.TOO_MANY)
            with m.Elif(fields.count == 0):
                m.d.comb += error.eq(Error.EMPTY)
            with m.Elif(command.first + fields.count > readable):
                m.d.comb += error.eq(Error.RANGE)
            with m.Elif(~command.rescore & ~self.tables_loaded.bit_select(fields.table, 1)):
                m.d.comb += error.eq(Error.TABLE)
            with m.Elif((command.rescore & (not self._rescore))
                        | (command.shared & (not self._shared))):
                m.d.comb += error.eq(Error.RESCORE)
            with m.Elif(command.shared & ~can_share):
                m.d.comb += error.eq(Error.SHARED)
            good = Signal(name=f"good_{row}")
            m.d.comb += good.eq(error == Error.OK)
            with m.If(~checked):
                m.d.sync += [errors[row].eq(error),
                             active[row].eq(good & (~command.shared | (row == self._rows - 1)))]

            row_last = Signal.like(last_word, name=f"last_word_{row}")
            with m.If(good):
                m.d.comb += row_last.eq((skip + fields.count - 1)[lane_bits:])
            last_words.append(row_last)
        while len(last_words) > 1:
            one, other, *last_words = last_words
            last_words.append(Mux(one > other, one, other))
        with m.If(~checked):
            m.d.sync += last_word.eq(last_words[0])

        # ---- Announce: each receiver takes the command once.
        receivers = [self.o_order, *self.o_select]
        concerned = Cat(1, active)
        taken = Signal(len(receivers))
        takes = Signal(len(receivers))
        more_blocks = Signal() # the command whose words are sent has blocks to be announced
        for index, receiver in enumerate(receivers):
            m.d.comb += [
                receiver.valid.eq(checked & concerned[index] & ~taken[index]
                                  & ~(more_blocks & (index > 0))),
                takes[index].eq(receiver.valid & receiver.ready),
            ]
        m.d.sync += taken.eq(Mux(fire, 0, taken | takes))
        m.d.comb += self.o_order.p.trace.eq(command.trace)
        if self._rescore:
            m.d.comb += self.o_order.p.rescore.eq(command.rescore)
        if self._shared:
            m.d.comb += self.o_order.p.shared.eq(command.shared)
        for row in range(self._rows):
            fields = command.rows[row]
            if self._rescore:
                m.d.comb += self.o_order.p.rows[row].multiplier.eq(fields.multiplier)
            if self._shared:
                m.d.comb += self.o_select[row].p.shared.eq(command.shared)
            m.d.comb += [
                self.o_order.p.rows[row].error.eq(errors[row]),
                self.o_order.p.rows[row].table.eq(fields.table),
                self.o_select[row].p.word.eq(first_word),
                self.o_select[row].p.skip.eq(skip),
                self.o_select[row].p.count.eq(fields.count),
                self.o_select[row].p.n.eq(command.n),
                self.o_select[row].p.sink.eq(command.sink),
                self.o_select[row].p.recent.eq(command.recent),
            ]

        # ---- Words. The codes stay until the array has taken them.
        busy = Signal()       # words are to be sent
        query_busy = Signal() # codes are to be taken
        word = Signal(word_shape, reset_less=True)
        words_left = Signal.like(last_word, reset_less=True)
        words_end, query_end = Signal(), Signal()
        paused = Signal()     # the next block is to be taken
        m.d.comb += [
            self.o_words.valid.eq(busy & ~paused),
            self.o_words.p.word.eq(word),
            self.o_words.p.last.eq(words_left == 0),
            self.o_query.valid.eq(query_busy),
            words_end.eq(~busy | (self.o_words.ready & self.o_words.p.last & ~paused)),
            query_end.eq(~query_busy | self.o_query.ready),
            fire.eq(checked & ((taken | takes | ~concerned).all()) & words_end & query_end),
            self.i.ready.eq(fire),
        ]
        with m.If(busy & ~paused & self.o_words.ready):
            m.d.sync += [word.eq(word + 1), words_left.eq(words_left - 1)]
        with m.If(words_end):
            m.d.sync += busy.eq(0)
        with m.If(query_end):
            m.d.sync += query_busy.eq(0)
        codes: Any = Signal(self.o_query.payload.shape(), reset_less=True)
        m.d.comb += self.o_query.payload.eq(codes)
        with m.If(fire):
            m.d.sync += [
                busy.eq(active.any()),
                query_busy.eq(active.any()),
                word.eq(first_word),
                words_left.eq(last_word),
                codes.active.eq(active),
            ]
            for row in range(self._rows):
                m.d.sync += codes.codes[row].eq(command.rows[row].code)
        if self._block:
            self._announce_blocks(m, fire=fire, last_word=last_word, active=codes.active,
                                  busy=busy, paused=paused, more=more_blocks)

        return m

    def _announce_blocks(self, m: Module, *, fire: Signal, last_word: Signal, active: Value,
                         busy: Signal, paused: Signal, more: Signal) -> None:
        """Announce the blocks after the first one; drive `more`, and `paused` while one waits."""
        word_bits = exact_log2(self._block // self._lanes)
        blocks_left = Signal(max(len(last_word) - word_bits, 1), reset_less=True)
        word = Signal(word_bits, name="block_word", reset_less=True)
        taken, takes = (Signal(self._rows, name=f"block_{name}") for name in ("taken", "takes"))
        ends, begins = Signal(name="block_ends"), Signal(name="block_begins")
        sends = self.o_words.valid & self.o_words.ready
        m.d.comb += [
            more.eq(busy & (blocks_left != 0)),
            ends.eq(sends & word.all() & more),
            begins.eq((ends | paused) & (taken | takes | ~active).all()),
        ]
        for row, receiver in enumerate(self.o_block):
            m.d.comb += [
                receiver.valid.eq(more & active[row] & ~taken[row]),
                takes[row].eq(receiver.valid & receiver.ready),
            ]
        m.d.sync += [
            paused.eq((ends | paused) & ~begins),
            taken.eq(Mux(begins, 0, taken | takes)),
        ]
        with m.If(sends):
            m.d.sync += word.eq(word + 1)
        with m.If(begins):
            m.d.sync += blocks_left.eq(blocks_left - 1)
        with m.If(fire):
            m.d.sync += [word.eq(0), blocks_left.eq(last_word[word_bits:])]
