"""Store of value vectors, written and read one beat at a time."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import (
    elements_layout,
    place_layout,
    value_layout,
    value_word_layout,
    value_write_layout,
)
from nearbit_hw.ram import Address, block_ram, single_port_ram
from nearbit_model.structure import VALUE_STORE_LATENCY


__all__ = ["ValueStore"]


class ValueStore(wiring.Component):
    """Value vectors in block RAM, each with a scale.

    A vector has :py:`beats = value_dim / value_lanes` beats; beat c holds its elements from
    :py:`c * value_lanes` on. A write is accepted in every cycle. Each of a vector's beats is
    written with the vector's scale. Answers leave in the order of the requests.

    With :py:`single_port`, elements and scales share one memory that either reads or writes in a
    cycle. The scale is read as beat 0, and the elements follow, one beat higher than they are
    written. The scale is written with the vector's last beat, which takes two cycles; in its word,
    the bits above it are those of that beat. A write must not be offered from the cycle in which a
    vector is requested until it is presented.

    The answer to a request accepted at cycle t is presented at cycle :py:`t + latency`. Throughput
    is one request per cycle; a stall of the output holds the requests after it. A write at cycle t
    is visible to requests of cycle t + 1 or later; a vector must not be written from the cycle in
    which it is requested until it is presented. Reset drops requests and answers; it does not touch
    the vectors.

    Reference: the values as given to :func:`nearbit_model.golden.attend`.

    Parameters
    ----------
    capacity : :class:`int`
        Vectors held. At least 1.
    value_dim : :class:`int`
        Elements of a vector, a multiple of :py:`value_lanes`.
    value_lanes : :class:`int`
        Elements of a beat. At least 1.
    value_bits : :class:`int`
        Bits of an element, two's complement. At least 1.
    scale_bits : :class:`int`
        Bits of a scale. At least 1.
    single_port : :class:`bool`
        Whether elements and scales are in one memory that either reads or writes in a cycle.

    Members
    -------
    i_write : :py:`In(stream.Signature(StructLayout({"token": ..., "beat": ..., "elements": ..., \
"scale": ...})))`
        A beat of a vector; always ready, unless :py:`single_port`.
    i : :py:`In(stream.Signature(StructLayout({"token": range(capacity), "beat": ...})))`
        Beats to read.
    o : :py:`Out(stream.Signature(StructLayout({"elements": ..., "scale": scale_bits})))`
        The elements of a beat, and the vector's scale; with :py:`single_port`, a UnionLayout of
        the two.
    """

    i_write: stream.Interface
    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, capacity: int, value_dim: int, value_lanes: int, value_bits: int,
                 scale_bits: int = 16, single_port: bool = False):
        for name, value in [("Capacity", capacity), ("Value lanes", value_lanes),
                            ("Value bits", value_bits), ("Scale bits", scale_bits)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        if not isinstance(value_dim, int) or value_dim < 1 or value_dim % value_lanes:
            raise TypeError(f"Value dimension must be a positive multiple of value lanes, "
                            f"not {value_dim!r}")
        self._capacity = capacity
        self._value_dim = value_dim
        self._value_lanes = value_lanes
        self._value_bits = value_bits
        self._scale_bits = scale_bits
        self._single_port = bool(single_port)

        beat = {"value_bits": value_bits, "value_lanes": value_lanes, "scale_bits": scale_bits}
        super().__init__({
            "i_write": In(stream.Signature(
                value_write_layout(capacity=capacity, beats=self.beats, **beat),
                always_ready=not self._single_port)),
            "i": In(stream.Signature(
                place_layout(capacity=capacity, beats=self.beats + self._single_port))),
            "o": Out(stream.Signature((value_word_layout if self._single_port else value_layout)(
                **beat))),
        })

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def value_dim(self) -> int:
        return self._value_dim

    @property
    def value_lanes(self) -> int:
        return self._value_lanes

    @property
    def value_bits(self) -> int:
        return self._value_bits

    @property
    def scale_bits(self) -> int:
        return self._scale_bits

    @property
    def single_port(self) -> bool:
        return self._single_port

    @property
    def beats(self) -> int:
        """Beats of a vector's elements."""
        return self._value_dim // self._value_lanes

    @property
    def latency(self) -> int:
        """Cycles from accepting a request to presenting its answer: block RAM, and a register."""
        return VALUE_STORE_LATENCY

    def elaborate(self, platform) -> Module:
        return self._elaborate_single() if self._single_port else self._elaborate_two()

    def _elaborate_single(self) -> Module:
        """Build one memory; requests arrive late in a cycle, so their places are registered."""
        m = Module()

        address = Address(self._capacity, self.beats + 1)
        m.submodules.words = words = single_port_ram(
            shape=self.o.payload.shape(), depth=address.depth)
        write, read = words.write_port(), words.read_port()

        written = self.i_write.p
        has_scale = Signal() # the scale of the vector whose last beat is offered is written
        is_scale = Signal()
        write_beat = Signal(range(self.beats + 1))
        m.d.comb += [
            is_scale.eq((written.beat == self.beats - 1) & ~has_scale),
            self.i_write.ready.eq(~is_scale),
        ]
        with m.If(self.i_write.valid):
            m.d.sync += has_scale.eq(is_scale)
        m.d.comb += write.data.elements.eq(written.elements)
        with m.If(is_scale):
            m.d.comb += write.data.scale.eq(written.scale)
        with m.Else():
            m.d.comb += write_beat.eq(written.beat + 1)

        # Both ports share an address and are never enabled together, so they are one port.
        advance = Signal()
        is_asked = Signal()
        asked = Signal(range(address.depth), reset_less=True)
        place = Signal.like(asked)
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance),
            place.eq(Mux(self.i_write.valid, address(written.token, write_beat), asked)),
            write.addr.eq(place),
            write.en.eq(self.i_write.valid),
            read.addr.eq(place),
            read.en.eq(advance & ~self.i_write.valid),
            self.o.payload.eq(read.data),
        ]
        with m.If(advance):
            m.d.sync += [
                is_asked.eq(self.i.valid),
                asked.eq(address(self.i.p.token, self.i.p.beat)),
                self.o.valid.eq(is_asked),
            ]

        return m

    def _elaborate_two(self) -> Module:
        """Build one memory of elements and one of scales."""
        m = Module()

        address = Address(self._capacity, self.beats)
        shape = elements_layout(self._value_bits, self._value_lanes)
        m.submodules.elements = elements = block_ram(shape=shape, depth=address.depth)
        m.submodules.scales = scales = block_ram(
            shape=self._scale_bits, depth=self._capacity)
        elements_write, elements_read = elements.write_port(), elements.read_port()
        scales_write, scales_read = scales.write_port(), scales.read_port()

        written = self.i_write.p
        m.d.comb += [
            elements_write.addr.eq(address(written.token, written.beat)),
            elements_write.data.eq(written.elements),
            elements_write.en.eq(self.i_write.valid),
            scales_write.addr.eq(written.token),
            scales_write.data.eq(written.scale),
            scales_write.en.eq(self.i_write.valid),
        ]

        # A scale feeds a multiplier, whose path must not include the block RAM as well, so it is
        # registered. The elements have many more bits, so they are read a cycle later instead.
        advance = Signal()
        reading = Signal()
        scale = Signal(self._scale_bits, reset_less=True)
        elements_address = Signal(range(address.depth), reset_less=True)
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance),
            scales_read.addr.eq(self.i.p.token),
            scales_read.en.eq(advance),
            elements_read.addr.eq(elements_address),
            elements_read.en.eq(advance),
            self.o.p.elements.eq(elements_read.data),
            self.o.p.scale.eq(scale),
        ]
        with m.If(advance):
            m.d.sync += [
                reading.eq(self.i.valid),
                elements_address.eq(address(self.i.p.token, self.i.p.beat)),
                self.o.valid.eq(reading),
                scale.eq(scales_read.data),
            ]

        return m
