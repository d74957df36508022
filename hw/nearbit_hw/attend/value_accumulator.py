"""Weighted sums of value vectors."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import (
    elements_layout,
    place_layout,
    sums_layout,
    value_layout,
    value_word_layout,
    weighted_layout,
)
from nearbit_hw.stream_fifo import StreamFifo, register
from nearbit_model.structure import ACCUMULATOR_DEPTH, ACCUMULATOR_LATENCY


__all__ = ["ValueAccumulator"]


class ValueAccumulator(wiring.Component):
    """Weighted sums of value vectors, one beat at a time.

    A beat's keys end with the one that has :py:`last` set. With w a key's weight, c its vector's
    scale and v an element of the vector's beat, each lane sums :py:`u * v`, where
    :py:`u = (w * c + 2**(scale_bits - 1)) >> scale_bits`, and :py:`total` sums w. Widths are such
    that nothing can overflow for up to :py:`top_n` keys.

    A key is accepted, and its beat requested, in the same cycle. If the store presents beats s
    cycles after accepting requests, at least 2 (2 for :class:`~nearbit_hw.attend.ValueStore`), the
    sums of a beat whose last key is accepted at cycle t are presented at cycle
    :py:`t + s + latency`. Throughput is one key per cycle, also from one beat to the next, if
    :py:`depth` is at least s. Sums that are not accepted stop the pipeline only once the next
    beat's are complete. Reset drops everything in flight.

    Reference: :func:`nearbit_model.golden.accumulate`.

    Parameters
    ----------
    capacity : :class:`int`
        Tokens of the store. At least 1.
    beats : :class:`int`
        Beats of a vector. At least 1.
    value_lanes : :class:`int`
        Elements of a beat. At least 1.
    value_bits : :class:`int`
        Bits of an element, two's complement. At least 1.
    weight_bits : :class:`int`
        Bits of a weight. At least 1.
    scale_bits : :class:`int`
        Bits of a scale. At least 1.
    top_n : :class:`int`
        The most keys per beat. At least 1.
    depth : :class:`int`
        Weights held while they wait for their beats, not counting the next one. At least 1.

    Members
    -------
    i : :py:`In(stream.Signature(StructLayout({"index": ..., "beat": ..., "weight": ..., \
"last": 1})))`
        Keys with their weights; :py:`last` is set on a beat's last one.
    o_request : :py:`Out(stream.Signature(StructLayout({"token": ..., "beat": ...})))`
        Requests for beats.
    i_beat : :py:`In(stream.Signature(StructLayout({"elements": ..., "scale": scale_bits})))`
        The beats requested, in order.
    o : :py:`Out(stream.Signature(StructLayout({"sums": ..., "total": ...})))`
        For each beat, its sums and the sum of its weights.
    next_ready : :py:`In(1)`
        :py:`o.ready` of the next cycle.
    """

    i: stream.Interface
    o_request: stream.Interface
    i_beat: stream.Interface
    o: stream.Interface
    next_ready: Signal

    _SCALE_BEATS = 0

    def __init__(self, *, capacity: int, beats: int, value_lanes: int, value_bits: int,
                 weight_bits: int, scale_bits: int = 16, top_n: int,
                 depth: int = ACCUMULATOR_DEPTH):
        for name, value in [("Capacity", capacity), ("Beats", beats),
                            ("Value lanes", value_lanes), ("Value bits", value_bits),
                            ("Weight bits", weight_bits), ("Scale bits", scale_bits),
                            ("Top N", top_n), ("Depth", depth)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        self._capacity = capacity
        self._beats = beats
        self._value_lanes = value_lanes
        self._value_bits = value_bits
        self._weight_bits = weight_bits
        self._scale_bits = scale_bits
        self._top_n = top_n
        self._depth = depth

        super().__init__({
            "i": In(stream.Signature(weighted_layout(
                capacity=capacity, beats=beats + self._SCALE_BEATS, weight_bits=weight_bits))),
            "o_request": Out(stream.Signature(place_layout(
                capacity=capacity, beats=beats + self._SCALE_BEATS))),
            "i_beat": In(stream.Signature((
                value_word_layout if self._SCALE_BEATS else value_layout)(
                value_bits=value_bits, value_lanes=value_lanes, scale_bits=scale_bits))),
            "o": Out(stream.Signature(sums_layout(
                sum_bits=self.acc_bits, value_lanes=value_lanes, total_max=self.total_max))),
            "next_ready": In(1),
            **({"shift": In(1)} if self._SCALE_BEATS else {}),
        })

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def beats(self) -> int:
        return self._beats

    @property
    def value_lanes(self) -> int:
        return self._value_lanes

    @property
    def value_bits(self) -> int:
        return self._value_bits

    @property
    def weight_bits(self) -> int:
        return self._weight_bits

    @property
    def scale_bits(self) -> int:
        return self._scale_bits

    @property
    def top_n(self) -> int:
        return self._top_n

    @property
    def depth(self) -> int:
        return self._depth

    @property
    def scaled_max(self) -> int:
        """Largest scaled weight u; never more than the largest weight."""
        weight_max, scale_max = (1 << self._weight_bits) - 1, (1 << self._scale_bits) - 1
        return (weight_max * scale_max + (1 << self._scale_bits - 1)) >> self._scale_bits

    @property
    def acc_bits(self) -> int:
        """Bits of a sum, two's complement."""
        most_negative = self._top_n * self.scaled_max << self._value_bits - 1
        return len(Signal(range(-most_negative, most_negative)))

    @property
    def total_max(self) -> int:
        """Largest sum of weights."""
        return self._top_n * ((1 << self._weight_bits) - 1)

    @property
    def latency(self) -> int:
        """Cycles from the elements of a beat's last key to its sums: two products, two sums."""
        return ACCUMULATOR_LATENCY

    @property
    def key_layout(self) -> data.StructLayout:
        """Layout of a key that waits for its beat."""
        return data.StructLayout({"weight": self._weight_bits, "last": 1})

    def request(self, m: Module, *fields: Value) -> Any:
        """Request beats; return a stream of the keys that wait for them.

        A key's weight waits for its beat. The next weight is in a register: it feeds a multiplier,
        whose path must not include the queue as well.

        Parameters
        ----------
        fields
            Further fields of a key, after its weight and :py:`last`.
        """
        waiting_shape = self.key_layout
        m.submodules.waiting = waiting = StreamFifo(waiting_shape, depth=self._depth)
        m.d.comb += [
            self.o_request.valid.eq(self.i.valid & waiting.i.ready),
            self.o_request.p.token.eq(self.i.p.index),
            self.o_request.p.beat.eq(self.i.p.beat),
            self.i.ready.eq(self.o_request.ready & waiting.i.ready),
            waiting.i.payload.eq(Cat(self.i.p.weight, self.i.p.last, *fields)),
            waiting.i.valid.eq(self.i.valid & self.o_request.ready),
        ]
        next_key = stream.Signature(waiting_shape).create()
        register(m, waiting.o, next_key, "next_key")
        return next_key

    def elaborate(self, platform) -> Module:
        m = Module()

        # ---- Request.
        waiting_shape = self.key_layout
        next_key = self.request(m)
        key = next_key.p

        # The pipeline moves as a whole. It stops only if a beat's sums are complete while those of
        # the beat before are still in the output register. The move signal drives every register,
        # so it comes from a register itself, computed a cycle ahead.
        advance, complete = Signal(init=1), Signal()
        next_complete, next_full = Signal(), Signal()
        m.d.sync += advance.eq(~next_complete | ~next_full | self.next_ready)
        m.d.comb += [
            self.i_beat.ready.eq(next_key.valid & advance),
            next_key.ready.eq(self.i_beat.valid & advance),
        ]

        # ---- Product of weight and scale. Only its integer part and, for rounding, its first
        # fraction bit are kept.
        beat = self.i_beat.p
        elements_shape = elements_layout(self._value_bits, self._value_lanes)
        product_valid = Signal()
        product = Signal(self._weight_bits + 1, reset_less=True)
        product_elements = Signal(elements_shape, reset_less=True)
        product_key = Signal(waiting_shape, reset_less=True)
        with m.If(advance):
            m.d.sync += [
                product_valid.eq(self.i_beat.valid & next_key.valid),
                product.eq((key.weight * beat.scale) >> (self._scale_bits - 1)),
                product_elements.eq(beat.elements),
                product_key.eq(key),
            ]

        # ---- Rounding.
        scaled_valid = Signal()
        scaled = Signal(range(self.scaled_max + 1), reset_less=True)
        scaled_elements = Signal(elements_shape, reset_less=True)
        scaled_key: Any = Signal(waiting_shape, reset_less=True)
        with m.If(advance):
            m.d.sync += [
                scaled_valid.eq(product_valid),
                scaled.eq(product[1:] + product[0]),
                scaled_elements.eq(product_elements),
                scaled_key.eq(product_key),
            ]

        # ---- Products with the elements.
        terms_valid = Signal()
        terms_shape = data.ArrayLayout(
            signed(len(scaled) + self._value_bits), self._value_lanes)
        terms = Signal(terms_shape, reset_less=True)
        terms_key: Any = Signal(waiting_shape, reset_less=True)
        with m.If(advance):
            m.d.sync += [terms_valid.eq(scaled_valid), terms_key.eq(scaled_key)]
            for lane in range(self._value_lanes):
                m.d.sync += terms[lane].eq(scaled * scaled_elements[lane])

        # ---- Sums. The sum with a beat's last term goes into the output register while the sum is
        # cleared. So no adder needs a gate at its input to start a new sum, which would cost a LUT
        # per bit. As no term is treated as the first, reset must clear the sums.
        sums_shape = data.ArrayLayout(signed(self.acc_bits), self._value_lanes)
        sums = Signal(sums_shape)
        total = Signal(range(self.total_max + 1))
        o_sums = Signal(sums_shape, reset_less=True)
        o_total = Signal.like(total, reset_less=True)
        next_sums = Signal(sums_shape)
        next_total = Signal.like(total)
        m.d.comb += [
            complete.eq(terms_valid & terms_key.last),
            next_total.eq(total + terms_key.weight),
            *(next_sums[lane].eq(sums[lane] + terms[lane]) for lane in range(self._value_lanes)),
        ]
        with m.If(terms_valid & advance):
            m.d.sync += [sums.eq(next_sums), total.eq(next_total)]
        with m.If(complete & advance):
            m.d.sync += [sums.eq(0), total.eq(0), o_sums.eq(next_sums), o_total.eq(next_total)]

        m.d.comb += [
            next_complete.eq(Mux(advance, scaled_valid & scaled_key.last, complete)),
            next_full.eq(complete | (self.o.valid & ~self.o.ready)),
            self.o.p.sums.eq(o_sums),
            self.o.p.total.eq(o_total),
        ]
        m.d.sync += self.o.valid.eq(next_full)

        return m
