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


def _exceeds(m: Module, terms: list[Value], bound: Value, name: str) -> Signal:
    """Tell whether a sum of two or three terms is more than a bound of the same width.

    With the complement of the bound the sum is 2**width - 1 more or less than that, so it overflows
    if it exceeds the bound. Terms are joined by threes without carries, which leaves one addition
    to wait for instead of one for each term and one for the comparison.
    """
    width = len(bound)
    terms = [*terms, (~bound)[:width]]
    place = width + 2 # no sum of four terms is longer
    terms = [Cat(term, C(0, place))[:place] for term in terms]
    while len(terms) > 2:
        one, two, three, *terms = terms
        terms += [one ^ two ^ three,
                  Cat(C(0, 1), ((one & two) | (one & three) | (two & three))[:place - 1])]
    total = Signal(place, name=f"{name}_total")
    exceeds = Signal(name=f"{name}_exceeds")
    m.d.comb += [total.eq(terms[0] + terms[1]), exceeds.eq(total[width:].any())]
    return exceeds


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

    Parameters
    ----------
    key_bits, capacity, rows, lanes, top_n, tables : :class:`int`
        As in :class:`nearbit_model.Config`.
    rescore : :class:`bool`
        Whether there is a unit for exact scores.
    shared : :class:`bool`
        Whether rows may share a selection.

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
    o_query: stream.Interface
    o_words: stream.Interface

    def __init__(self, *, key_bits: int, capacity: int, rows: int, lanes: int, top_n: int,
                 tables: int, rescore: bool = False, shared: bool = False):
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
        self._key_bits = key_bits
        self._capacity = capacity
        self._rows = rows
        self._lanes = lanes
        self._top_n = top_n
        self._tables = tables
        self._rescore = bool(rescore)
        self._shared = bool(shared)

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
        m.d.sync += checked.eq(self.i.valid & ~fire)

        too_many = _exceeds(m, [command.n, command.sink, command.recent],
                            C(self._top_n, len(command.n)), "selected")

        # Whether the rows could share a selection.
        can_share = Signal()
        if self._shared:
            m.d.comb += can_share.eq(command.rescore & Cat(
                fields.count == command.rows[0].count for fields in command.rows).all())

        last_words = Signal(data.ArrayLayout(range(self._capacity // self._lanes + 1), self._rows),
                            reset_less=True)
        for row in range(self._rows):
            fields = command.rows[row]
            error = Signal(Error, name=f"error_{row}")
            beyond: Value = _exceeds(m, [command.first, fields.count], self.loaded, f"end_{row}")
            if self._rescore:
                beyond |= command.rescore & _exceeds(
                    m, [command.first, fields.count], self.exact_loaded, f"exact_end_{row}")
            with m.If(command.n == 0):
                m.d.comb += error.eq(Error.NO_N)
            with m.Elif(too_many):
                m.d.comb += error.eq(Error.TOO_MANY)
            with m.Elif(fields.count == 0):
                m.d.comb += error.eq(Error.EMPTY)
            with m.Elif(beyond):
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

            # Of a failed row too: which rows count is known when the command is accepted.
            with m.If(~checked):
                m.d.sync += last_words[row].eq((skip + fields.count - 1)[lane_bits:])

        # ---- Announce: each receiver takes the command once.
        receivers = [self.o_order, *self.o_select]
        concerned = Cat(1, active)
        taken = Signal(len(receivers))
        takes = Signal(len(receivers))
        for index, receiver in enumerate(receivers):
            m.d.comb += [
                receiver.valid.eq(checked & concerned[index] & ~taken[index]),
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
        words_left = Signal(range(self._capacity // self._lanes + 1), reset_less=True)
        words_end, query_end = Signal(), Signal()
        m.d.comb += [
            self.o_words.valid.eq(busy),
            self.o_words.p.word.eq(word),
            self.o_words.p.last.eq(words_left == 0),
            self.o_query.valid.eq(query_busy),
            words_end.eq(~busy | (self.o_words.ready & self.o_words.p.last)),
            query_end.eq(~query_busy | self.o_query.ready),
            fire.eq(checked & ((taken | takes | ~concerned).all()) & words_end & query_end),
            self.i.ready.eq(fire),
        ]
        with m.If(busy & self.o_words.ready):
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
                words_left.eq(self._longest(last_words, active)),
                codes.active.eq(active),
            ]
            for row in range(self._rows):
                m.d.sync += codes.codes[row].eq(command.rows[row].code)

        return m

    def _longest(self, last_words: Any, active: Signal) -> Value:
        """Give the highest last word of the rows that have one; of a single row it is its own."""
        if self._rows == 1:
            return last_words[0]
        words: list[Value] = [last_words[row] & active[row].replicate(len(last_words[row]))
                              for row in range(self._rows)]
        while len(words) > 1:
            one, other, *words = words
            words.append(Mux(one > other, one, other))
        return words[0]
