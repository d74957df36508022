"""Checks commands and starts them."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from nearbit_hw.layouts import (
    CacheError,
    Error,
    codes_layout,
    command_layout,
    order_layout,
    select_layout,
    word_layout,
)
from nearbit_hw.memory.cache_map import CacheMap, Lookup


__all__ = ["Dispatcher"]


def _exceeds(m: Module, terms: list[Value], bound: Value, name: str) -> Signal:
    """Tell whether the sum of two or three terms exceeds a bound of the same width.

    Adding the bound's complement gives sum + 2**width - 1 - bound, which overflows the width
    exactly if the sum exceeds the bound. Carry-save adders first reduce the terms to two, so the
    path has one carry chain instead of one for each term and one for the comparison.
    """
    width = len(bound)
    terms = [*terms, (~bound)[:width]]
    place = width + 2 # bits of the largest sum of four terms
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
    """Checks commands and starts scoring and selection for them.

    A command is checked in the cycle in which it is first valid. From the next cycle on it is
    announced on :py:`o_order` and on :py:`o_select` of each query without an error. It is accepted
    in the cycle of the latest of these transfers: its last announcement, and the previous command's
    last word and codes. Its own codes and words follow from the next cycle on, one word
    per cycle; :py:`last` is set on its last word, that of the longest query without an error. A
    command in which every query has an error has no codes and no words. A :py:`shared` command
    selects with the last query only, by the sum of all queries' distances: apart from
    :py:`o_order`, all outputs see it as a command of that query alone.

    If nothing is stalled, a command of w words occupies the dispatcher for max(w, 2) cycles, so
    words follow each other without a gap as long as every command has more than one. If the words
    pass through a KeyStore, ScoreArray takes the codes :py:`queries + 1` cycles after the command
    is accepted, and a command occupies the dispatcher for at least max(w, queries + 1) cycles.
    Reset drops the current command.

    With :py:`block`, the words of a command are sent in blocks of that many keys; the last block
    may be shorter. From the cycle of a block's first word on, the next block is announced on
    :py:`o_block` of each selecting query. Its words follow the current block's last word without a
    gap, or start in the cycle after the last query takes the announcement, if that is later. The
    next command's :py:`o_select` waits until the last block has been announced.

    Parameters
    ----------
    key_bits, capacity, queries, lanes, top_n, exp_tables : :class:`int`
        As in :class:`nearbit_model.Config`.
    rescore : :class:`bool`
        Whether there is a rescoring unit.
    shared : :class:`bool`
        Whether queries may share a selection.
    block : :class:`int`
        Keys per block, a power of two and a multiple of :py:`lanes`; 0 for no blocks.
    cache : :class:`nearbit_hw.memory.CacheMap`
        Where keys and values are in memory; None if they are in block RAM.

    Members
    -------
    i : :py:`In(stream.Signature(command_layout(...)))`
        Commands.
    loaded : :py:`In(range(capacity + 1))`
        Number of tokens, from token 0, that may be read. Must not decrease; with a memory, of the
        command's sequence.
    lookup : :py:`In(Lookup)`
        With a memory: the result of looking up where the command's tokens are.
    rescore_loaded : :py:`In(range(capacity + 1))`
        With a rescoring unit and no memory: number of tokens, from token 0, that may be rescored.
        Must not decrease.
    exp_tables_loaded : :py:`In(exp_tables)`
        Exp tables that may be used, one bit each.
    o_order : :py:`Out(stream.Signature(order_layout(...)))`
        For each command, what later units need to know about it.
    o_select : :py:`Out(stream.Signature(...)).array(queries)`
        Commands for each query's :class:`nearbit_hw.select.TopN`.
    o_block : :py:`Out(stream.Signature(StructLayout({}))).array(queries)`
        With blocks: those after the first one, for each query's
        :class:`nearbit_hw.select.HistogramTopN`.
    o_queries : :py:`Out(stream.Signature(...))`
        Codes for :class:`nearbit_hw.score.ScoreArray`.
    o_words : :py:`Out(stream.Signature(...))`
        Requests to :class:`nearbit_hw.score.KeyStore`.
    o_range : :py:`Out(stream.Signature(cache.range_layout))`
        With a memory: for each command with words, the tokens in them, as soon as it is checked.
    """

    i: stream.Interface
    loaded: Signal
    rescore_loaded: Signal
    exp_tables_loaded: Signal
    o_order: stream.Interface
    o_select: list[stream.Interface]
    o_block: list[stream.Interface]
    o_queries: stream.Interface
    o_words: stream.Interface
    o_range: stream.Interface
    lookup: Signal

    def __init__(self, *, key_bits: int, capacity: int, queries: int, lanes: int, top_n: int,
                 exp_tables: int, rescore: bool = False, shared: bool = False, block: int = 0,
                 cache: CacheMap | None = None):
        for name, value in [("Key bits", key_bits), ("Capacity", capacity), ("Queries", queries),
                            ("Top N", top_n), ("Exp tables", exp_tables)]:
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
        self._queries = queries
        self._lanes = lanes
        self._top_n = top_n
        self._exp_tables = exp_tables
        self._rescore = bool(rescore)
        self._shared = bool(shared)
        self._block = block
        self._cache = cache
        self._error: type[Error] | type[CacheError] = Error if cache is None else CacheError
        place = {} if cache is None else {"heads": cache.heads, "sequences": cache.sequences}
        self._has_rescore_keys = self._rescore and cache is None

        super().__init__({
            "i": In(stream.Signature(command_layout(
                key_bits=key_bits, capacity=capacity, queries=queries, exp_tables=exp_tables,
                rescore=rescore, **place))),
            "loaded": In(range(capacity + 1)),
            **({"rescore_loaded": In(range(capacity + 1))} if self._has_rescore_keys else {}),
            **({} if cache is None else {
                "lookup": In(Lookup),
                "o_range": Out(stream.Signature(cache.range_layout))}),
            "exp_tables_loaded": In(exp_tables),
            "o_order": Out(stream.Signature(order_layout(
                queries=queries, exp_tables=exp_tables, rescore=rescore, shared=shared, **place))),
            "o_select": Out(stream.Signature(select_layout(
                capacity=capacity, lanes=lanes, top_n=top_n, shared=shared))).array(queries),
            **({"o_block": Out(stream.Signature(data.StructLayout({}))).array(queries)}
               if block else {}),
            "o_queries": Out(stream.Signature(codes_layout(key_bits=key_bits, queries=queries))),
            "o_words": Out(stream.Signature(word_layout(capacity=capacity, lanes=lanes))),
        })

    @property
    def key_bits(self) -> int:
        return self._key_bits

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def queries(self) -> int:
        return self._queries

    @property
    def lanes(self) -> int:
        return self._lanes

    @property
    def top_n(self) -> int:
        return self._top_n

    @property
    def exp_tables(self) -> int:
        return self._exp_tables

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
        """Cycles from a command's first valid cycle to its first word, if nothing is in flight."""
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
        errors = Signal(data.ArrayLayout(self._error, self._queries), reset_less=True)
        active = Signal(self._queries, reset_less=True)
        m.d.sync += checked.eq(self.i.valid & ~fire)

        too_many = _exceeds(m, [command.n, command.sink, command.recent],
                            C(self._top_n, len(command.n)), "selected")

        # Whether the queries may share a selection.
        can_share = Signal()
        if self._shared:
            m.d.comb += can_share.eq(command.rescore & Cat(
                fields.count == command.queries[0].count for fields in command.queries).all())

        last_words = Signal(data.ArrayLayout(range(self._capacity // self._lanes + 1),
                                             self._queries),
                            reset_less=True)
        for query in range(self._queries):
            fields = command.queries[query]
            error = Signal(self._error, name=f"error_{query}")
            beyond: Value = _exceeds(m, [command.first, fields.count], self.loaded, f"end_{query}")
            if self._cache is not None:
                beyond |= self.lookup == Lookup.RANGE
            if self._has_rescore_keys:
                beyond |= command.rescore & _exceeds(
                    m, [command.first, fields.count], self.rescore_loaded, f"rescore_end_{query}")
            with m.If(command.n == 0):
                m.d.comb += error.eq(self._error.NO_N)
            with m.Elif(too_many):
                m.d.comb += error.eq(self._error.TOO_MANY)
            with m.Elif(fields.count == 0):
                m.d.comb += error.eq(self._error.EMPTY)
            with m.Elif(beyond):
                m.d.comb += error.eq(self._error.RANGE)
            with m.Elif(~command.rescore & ~self.exp_tables_loaded.bit_select(fields.exp_table, 1)):
                m.d.comb += error.eq(self._error.EXP_TABLE)
            with m.Elif((command.rescore & (not self._rescore))
                        | (command.shared & (not self._shared))):
                m.d.comb += error.eq(self._error.RESCORE)
            with m.Elif(command.shared & ~can_share):
                m.d.comb += error.eq(self._error.SHARED)
            if self._cache is not None:
                with m.Elif(self.lookup == Lookup.NOT_SET):
                    m.d.comb += error.eq(CacheError.NOT_SET)
            good = Signal(name=f"good_{query}")
            m.d.comb += good.eq(error == self._error.OK)
            with m.If(~checked):
                m.d.sync += [errors[query].eq(error),
                             active[query].eq(
                                 good & (~command.shared | (query == self._queries - 1)))]

            # Computed for failed queries, too: `_longest` leaves them out.
            with m.If(~checked):
                m.d.sync += last_words[query].eq((skip + fields.count - 1)[lane_bits:])

        # ---- Announce. Each receiver takes the command once.
        receivers = [self.o_order, *self.o_select]
        concerned: Value = Cat(1, active)
        if self._cache is not None:
            receivers.append(self.o_range)
            concerned = Cat(1, active, active.any())
        taken = Signal(len(receivers))
        takes = Signal(len(receivers))
        more_blocks = Signal() # the command being sent has more blocks to announce
        for index, receiver in enumerate(receivers):
            m.d.comb += [
                receiver.valid.eq(checked & concerned[index] & ~taken[index]
                                  & ~(more_blocks & (0 < index <= self._queries))),
                takes[index].eq(receiver.valid & receiver.ready),
            ]
        m.d.sync += taken.eq(Mux(fire, 0, taken | takes))
        m.d.comb += self.o_order.p.trace.eq(command.trace)
        if self._rescore:
            m.d.comb += self.o_order.p.rescore.eq(command.rescore)
        if self._shared:
            m.d.comb += self.o_order.p.shared.eq(command.shared)
        for query in range(self._queries):
            fields = command.queries[query]
            if self._rescore:
                m.d.comb += self.o_order.p.queries[query].multiplier.eq(fields.multiplier)
            if self._shared:
                m.d.comb += self.o_select[query].p.shared.eq(command.shared)
            m.d.comb += [
                self.o_order.p.queries[query].error.eq(errors[query]),
                self.o_order.p.queries[query].exp_table.eq(fields.exp_table),
                self.o_select[query].p.word.eq(first_word),
                self.o_select[query].p.skip.eq(skip),
                self.o_select[query].p.count.eq(fields.count),
                self.o_select[query].p.n.eq(command.n),
                self.o_select[query].p.sink.eq(command.sink),
                self.o_select[query].p.recent.eq(command.recent),
            ]

        # ---- Words. The codes stay until the array has taken them.
        busy = Signal()       # words remain to be sent
        query_busy = Signal() # the array has yet to take the codes
        word = Signal(word_shape, reset_less=True)
        words_left = Signal(range(self._capacity // self._lanes + 1), reset_less=True)
        words_end, query_end = Signal(), Signal()
        paused = Signal()     # some query has yet to take the next block
        m.d.comb += [
            self.o_words.valid.eq(busy & ~paused),
            self.o_words.p.word.eq(word),
            self.o_words.p.last.eq(words_left == 0),
            self.o_queries.valid.eq(query_busy),
            words_end.eq(~busy | (self.o_words.ready & self.o_words.p.last & ~paused)),
            query_end.eq(~query_busy | self.o_queries.ready),
            fire.eq(checked & ((taken | takes | ~concerned).all()) & words_end & query_end),
            self.i.ready.eq(fire),
        ]
        with m.If(busy & ~paused & self.o_words.ready):
            m.d.sync += [word.eq(word + 1), words_left.eq(words_left - 1)]
        with m.If(words_end):
            m.d.sync += busy.eq(0)
        with m.If(query_end):
            m.d.sync += query_busy.eq(0)
        last_word = self._longest(last_words, active)
        if self._cache is not None:
            self._ask(m, first_word, last_word)
        codes: Any = Signal(self.o_queries.payload.shape(), reset_less=True)
        m.d.comb += self.o_queries.payload.eq(codes)
        with m.If(fire):
            m.d.sync += [
                busy.eq(active.any()),
                query_busy.eq(active.any()),
                word.eq(first_word),
                words_left.eq(last_word),
                codes.active.eq(active),
            ]
            for query in range(self._queries):
                m.d.sync += codes.codes[query].eq(command.queries[query].code)
        if self._block:
            self._announce_blocks(m, fire=fire, last_word=last_word, active=codes.active,
                                  busy=busy, paused=paused, more=more_blocks)

        return m

    def _ask(self, m: Module, first_word: Value, last_word: Value) -> None:
        """Request whole words: tokens in them outside the range lie in the same pages."""
        lane_bits = exact_log2(self._lanes)
        m.d.comb += [
            self.o_range.p.first.eq(Cat(C(0, lane_bits), first_word)),
            self.o_range.p.count.eq(Cat(C(0, lane_bits), last_word + 1)),
            *(field.eq(self.i.p[name]) for name in ("head", "sequence")
              for field in (self.o_range.p[name], self.o_order.p[name])),
        ]

    def _announce_blocks(self, m: Module, *, fire: Signal, last_word: Value, active: Value,
                         busy: Signal, paused: Signal, more: Signal) -> None:
        """Announce the blocks after the first; drive `more`, and `paused` while one waits."""
        word_bits = exact_log2(self._block // self._lanes)
        blocks_left = Signal(max(len(last_word) - word_bits, 1), reset_less=True)
        word = Signal(word_bits, name="block_word", reset_less=True)
        taken, takes = (Signal(self._queries, name=f"block_{name}") for name in ("taken", "takes"))
        ends, begins = Signal(name="block_ends"), Signal(name="block_begins")
        sends = self.o_words.valid & self.o_words.ready
        m.d.comb += [
            more.eq(busy & (blocks_left != 0)),
            ends.eq(sends & word.all() & more),
            begins.eq((ends | paused) & (taken | takes | ~active).all()),
        ]
        for query, receiver in enumerate(self.o_block):
            m.d.comb += [
                receiver.valid.eq(more & active[query] & ~taken[query]),
                takes[query].eq(receiver.valid & receiver.ready),
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

    def _longest(self, last_words: Any, active: Signal) -> Value:
        """Return the highest last word of the active queries; with one query, simply its own."""
        if self._queries == 1:
            return last_words[0]
        words: list[Value] = [last_words[query] & active[query].replicate(len(last_words[query]))
                              for query in range(self._queries)]
        while len(words) > 1:
            one, other, *words = words
            words.append(Mux(one > other, one, other))
        return words[0]
