"""Rescoring: integer dot products of a query and its selected keys."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from nearbit_hw.layouts import elements_layout, key_layout, place_layout
from nearbit_hw.ram import block_ram
from nearbit_hw.stream_fifo import StreamFifo
from nearbit_model.structure import FAN_IN, RESCORER_DEPTH, rescorer_latency


__all__ = ["Rescorer"]


class Rescorer(wiring.Component):
    """Scores the selected keys by their dot product with the query.

    Selections arrive one after another. In a selection with :py:`rescore`, each key's :py:`score`
    is the dot product of its elements with those of the query; otherwise it is minus the key's
    distance. Keys leave in order.

    Queries arrive on :py:`i_query`, :py:`beats` beats each, in the order of the selections that
    need them; up to :py:`queries` are held. A key with :py:`skip` set stands for a selection
    that failed after its query was sent: it discards the query, and no key leaves.

    A key of a rescored selection is accepted when its last beat is requested, :py:`beats` cycles
    after the key before; the first one waits until its whole query was accepted in earlier cycles.
    Other keys, and skipped ones, take one cycle. If the store presents beats s cycles after
    accepting requests (1 for :class:`~nearbit_hw.attend.RescoreKeyStore`), and nothing is
    stalled, a key accepted at cycle t is presented at cycle :py:`t + s + latency`, and one that is
    not rescored at :py:`t + 1 + latency`. This rate is sustained if :py:`depth` is greater than s.
    A stalled output stops the pipeline at once. A query's slot is free in the cycle after the last
    beat of its last key is taken from the store. Reset drops selections and queries.

    Widths are such that nothing can overflow.

    Reference: :func:`nearbit_model.golden.score`.

    Parameters
    ----------
    capacity : :class:`int`
        Number of keys that can be indexed. At least 1.
    distance_max : :class:`int`
        The largest distance. At least 1.
    head_dim : :class:`int`
        Elements of a query and of a key, a multiple of :py:`lanes`.
    lanes : :class:`int`
        Elements multiplied per cycle. At least 1.
    element_bits : :class:`int`
        Bits of an element, two's complement. At least 1.
    queries : :class:`int`
        Queries held, a power of two, at least 2.
    depth : :class:`int`
        Keys held while they wait for their beats. At least 1.

    Members
    -------
    i_query : :py:`In(stream.Signature(ArrayLayout(signed(element_bits), lanes)))`
        Beats of queries, first elements first.
    i : :py:`In(stream.Signature(StructLayout({"index": ..., "distance": ..., "last": 1, \
"rescore": 1, "skip": 1})))`
        Selected keys; :py:`last` is set on a selection's last one; :py:`rescore` is the same for
        all keys of a selection.
    o_request : :py:`Out(stream.Signature(StructLayout({"token": ..., "beat": ...})))`
        Requests for beats of keys.
    i_beat : :py:`In(stream.Signature(ArrayLayout(signed(element_bits), lanes)))`
        The beats requested, in order.
    o : :py:`Out(stream.Signature(StructLayout({"index": ..., "distance": ..., "score": ..., \
"last": 1})))`
        Keys with their scores.
    """

    i_query: stream.Interface
    i: stream.Interface
    o_request: stream.Interface
    i_beat: stream.Interface
    o: stream.Interface

    def __init__(self, *, capacity: int, distance_max: int, head_dim: int, lanes: int,
                 element_bits: int, queries: int, depth: int = RESCORER_DEPTH):
        for name, value in [("Capacity", capacity), ("Largest distance", distance_max),
                            ("Lanes", lanes), ("Element bits", element_bits), ("Depth", depth)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        if not isinstance(head_dim, int) or head_dim < 1 or head_dim % lanes:
            raise TypeError(f"Head dimension must be a positive multiple of lanes, "
                            f"not {head_dim!r}")
        if not isinstance(queries, int) or queries < 2 or queries & (queries - 1):
            raise TypeError(f"Queries must be a power of two greater than 1, not {queries!r}")
        self._capacity = capacity
        self._distance_max = distance_max
        self._head_dim = head_dim
        self._lanes = lanes
        self._element_bits = element_bits
        self._queries = queries
        self._depth = depth

        elements = elements_layout(element_bits, lanes)
        super().__init__({
            "i_query": In(stream.Signature(elements)),
            "i": In(stream.Signature(key_layout(
                capacity=capacity, distance_max=distance_max, rescore=True))),
            "o_request": Out(stream.Signature(
                place_layout(capacity=capacity, beats=self.beats))),
            "i_beat": In(stream.Signature(elements)),
            "o": Out(stream.Signature(key_layout(
                capacity=capacity, distance_max=distance_max, score_max=self.score_max))),
        })

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def distance_max(self) -> int:
        return self._distance_max

    @property
    def head_dim(self) -> int:
        return self._head_dim

    @property
    def lanes(self) -> int:
        return self._lanes

    @property
    def element_bits(self) -> int:
        return self._element_bits

    @property
    def queries(self) -> int:
        return self._queries

    @property
    def depth(self) -> int:
        return self._depth

    @property
    def beats(self) -> int:
        """Beats of a query and of a key."""
        return self._head_dim // self._lanes

    @property
    def product_max(self) -> int:
        """Largest absolute value of a product."""
        return 1 << 2 * (self._element_bits - 1)

    @property
    def score_max(self) -> int:
        """Largest absolute value of a score."""
        return max(self._head_dim * self.product_max, self._distance_max)

    @property
    def latency(self) -> int:
        """Cycles from a key's last beat to its score: operands, products, their tree, the sum."""
        return rescorer_latency(self._lanes)

    def elaborate(self, platform) -> Module:
        m = Module()

        final_beat = self.beats - 1
        beat_shape = range(max(2, self.beats)) # Amaranth has trouble with registers of 0 bits
        waits, leaves, frees, query_read = self._hold_queries(m)
        read_slot = Signal(range(self._queries))
        read_beat = Signal(beat_shape)
        beat_bits = ceil_log2(self.beats)

        # ---- Request: the key waits for its beats.
        m.submodules.waiting = waiting = StreamFifo(self.i.payload.shape(), depth=self._depth)
        beat = Signal(beat_shape)
        is_asking, may_go, goes = Signal(), Signal(), Signal()
        m.d.comb += [
            is_asking.eq(self.i.p.rescore & ~self.i.p.skip),
            may_go.eq(self.i.valid & waiting.i.ready & (~self.i.p.rescore | (waits != 0))),
            self.o_request.valid.eq(may_go & is_asking),
            self.o_request.p.token.eq(self.i.p.index),
            self.o_request.p.beat.eq(beat),
            goes.eq(may_go & (~is_asking | self.o_request.ready)),
            self.i.ready.eq(goes & (~is_asking | (beat == final_beat))),
            leaves.eq(self.i.ready & self.i.p.rescore & (self.i.p.last | self.i.p.skip)),
            waiting.i.payload.eq(self.i.payload),
            waiting.i.valid.eq(goes),
        ]
        with m.If(goes):
            m.d.sync += beat.eq(beat + 1)
        with m.If(self.i.ready):
            m.d.sync += beat.eq(0)

        # ---- Operands: a beat of a key and the same beat of its query.
        advance = Signal()
        key = waiting.o.p
        needs_beat, takes, is_final = Signal(), Signal(), Signal()
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            needs_beat.eq(key.rescore & ~key.skip),
            takes.eq(waiting.o.valid & advance & (~needs_beat | self.i_beat.valid)),
            is_final.eq(~needs_beat | (read_beat == final_beat)),
            waiting.o.ready.eq(takes),
            self.i_beat.ready.eq(waiting.o.valid & advance & needs_beat),
            frees.eq(takes & key.rescore & is_final & (key.last | key.skip)),
            query_read.addr.eq(Cat(read_beat[:beat_bits], read_slot)),
            query_read.en.eq(advance),
        ]
        with m.If(takes):
            m.d.sync += read_beat.eq(Mux(is_final, 0, read_beat + 1))
        with m.If(frees):
            m.d.sync += read_slot.eq(read_slot + 1)

        # State that follows the numbers. A key is presented with its final beat.
        step_shape = data.StructLayout({
            "index": range(self._capacity),
            "distance": range(self._distance_max + 1),
            "last": 1,
            "rescore": 1,
            "first": 1,
        })
        valid, final = Signal(), Signal()
        step: Any = Signal(step_shape, name="step_operands", reset_less=True)
        beat = Signal(self.i_beat.payload.shape(), reset_less=True)
        with m.If(advance):
            m.d.sync += [
                valid.eq(takes & ~key.skip),
                final.eq(is_final),
                step.index.eq(key.index),
                step.distance.eq(key.distance),
                step.last.eq(key.last),
                step.rescore.eq(key.rescore),
                step.first.eq(read_beat == 0),
                beat.eq(self.i_beat.payload),
            ]

        def delay() -> None:
            nonlocal valid, final, step
            next_valid, next_final = Signal(), Signal()
            next_step = Signal(step_shape, name="step_next", reset_less=True)
            with m.If(advance):
                m.d.sync += [next_valid.eq(valid), next_final.eq(final), next_step.eq(step)]
            valid, final, step = next_valid, next_final, next_step

        # ---- Products and their sum.
        def register(value: Value, count: int, name: str) -> Signal:
            bound = count * self.product_max
            total = Signal(range(-bound, bound + 1), name=name, reset_less=True)
            with m.If(advance):
                m.d.sync += total.eq(value)
            return total

        terms = [register(beat[lane] * query_read.data[lane], 1, f"product_{lane}")
                 for lane in range(self._lanes)]
        delay()
        count, level = 1, 0
        while len(terms) > 1:
            count *= FAN_IN
            terms = [register(sum(terms[start:start + FAN_IN], Const(0)),
                              min(count, self._lanes), f"sum_{level}_{start // FAN_IN}")
                     for start in range(0, len(terms), FAN_IN)]
            level += 1
            delay()

        # ---- The sum over the beats is the output register.
        score = Signal(self.o.p.score.shape(), reset_less=True)
        o_valid = Signal()
        with m.If(advance):
            m.d.sync += o_valid.eq(valid & final)
            with m.If(valid):
                m.d.sync += [
                    score.eq(Mux(step.rescore, Mux(step.first, 0, score) + terms[0],
                                 -step.distance)),
                ]
        o_step: Any = Signal(step_shape, reset_less=True)
        with m.If(advance):
            m.d.sync += o_step.eq(step)
        m.d.comb += [
            self.o.valid.eq(o_valid),
            self.o.p.index.eq(o_step.index),
            self.o.p.distance.eq(o_step.distance),
            self.o.p.score.eq(score),
            self.o.p.last.eq(o_step.last),
        ]

        return m

    def _hold_queries(self, m: Module) -> tuple[Signal, Signal, Signal, Any]:
        """Hold queries in a ring buffer.

        A query is `complete` from its last beat until the last beat of its last key is taken; it
        `waits` until that key is accepted. Returns the number of queries that wait; two strobes for
        the caller to drive, with which a query stops waiting (`leaves`) and its slot becomes free
        (`frees`); and the port that reads beats.
        """
        final_beat = self.beats - 1
        slot_shape = range(self._queries)
        count_shape = range(self._queries + 1)
        beat_shape = range(max(2, self.beats))
        complete, waits = Signal(count_shape), Signal(count_shape)
        completes, leaves, frees = Signal(), Signal(), Signal()
        write_slot = Signal(slot_shape)
        write_beat = Signal(beat_shape)
        beat_bits = ceil_log2(self.beats)
        m.submodules.queries = queries = block_ram(
            shape=self.i_query.payload.shape(), depth=self._queries << beat_bits)
        ports: Any = (queries.write_port(), queries.read_port())
        query_write, query_read = ports
        m.d.comb += [
            self.i_query.ready.eq(complete != self._queries),
            completes.eq(self.i_query.valid & self.i_query.ready
                         & (write_beat == final_beat)),
            query_write.addr.eq(Cat(write_beat[:beat_bits], write_slot)),
            query_write.data.eq(self.i_query.payload),
            query_write.en.eq(self.i_query.valid & self.i_query.ready),
        ]
        with m.If(query_write.en):
            m.d.sync += write_beat.eq(write_beat + 1)
        with m.If(completes):
            m.d.sync += [write_beat.eq(0), write_slot.eq(write_slot + 1)]
        m.d.sync += [
            complete.eq(complete + completes - frees),
            waits.eq(waits + completes - leaves),
        ]
        return waits, leaves, frees, query_read
