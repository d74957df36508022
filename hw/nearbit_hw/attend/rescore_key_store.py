"""Store of rescore keys, written and read one beat at a time."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import elements_layout, place_layout, rescore_write_layout
from nearbit_hw.ram import Address, block_ram
from nearbit_model.structure import RESCORE_KEY_STORE_LATENCY


__all__ = ["RescoreKeyStore"]


class RescoreKeyStore(wiring.Component):
    """Keys in block RAM.

    A key has :py:`beats = head_dim / lanes` beats; beat c holds its elements from :py:`c * lanes`
    on. A write is accepted in every cycle. Answers leave in the order of the requests.

    The answer to a request accepted at cycle t is presented at cycle :py:`t + latency`. Throughput
    is one request per cycle; a stall of the output holds the requests after it. A write at cycle t
    is visible to requests of cycle t + 1 or later; a key must not be written in the cycle in which
    it is requested. Reset drops requests and answers; it does not touch the keys.

    Reference: the keys as given to :func:`nearbit_model.golden.score`.

    Parameters
    ----------
    capacity : :class:`int`
        Keys held. At least 1.
    head_dim : :class:`int`
        Elements of a key, a multiple of :py:`lanes`.
    lanes : :class:`int`
        Elements of a beat. At least 1.
    element_bits : :class:`int`
        Bits of an element, two's complement. At least 1.

    Members
    -------
    i_write : :py:`In(stream.Signature(StructLayout({"token": ..., "beat": ..., "elements": ...})))`
        A beat of a key; always ready.
    i : :py:`In(stream.Signature(StructLayout({"token": range(capacity), "beat": range(beats)})))`
        Beats to read.
    o : :py:`Out(stream.Signature(ArrayLayout(signed(element_bits), lanes)))`
        Their elements.
    """

    i_write: stream.Interface
    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, capacity: int, head_dim: int, lanes: int, element_bits: int):
        for name, value in [("Capacity", capacity), ("Lanes", lanes),
                            ("Element bits", element_bits)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        if not isinstance(head_dim, int) or head_dim < 1 or head_dim % lanes:
            raise TypeError(f"Head dimension must be a positive multiple of lanes, "
                            f"not {head_dim!r}")
        self._capacity = capacity
        self._head_dim = head_dim
        self._lanes = lanes
        self._element_bits = element_bits

        super().__init__({
            "i_write": In(stream.Signature(rescore_write_layout(
                capacity=capacity, beats=self.beats, element_bits=element_bits, lanes=lanes),
                always_ready=True)),
            "i": In(stream.Signature(place_layout(capacity=capacity, beats=self.beats))),
            "o": Out(stream.Signature(elements_layout(element_bits, lanes))),
        })

    @property
    def capacity(self) -> int:
        return self._capacity

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
    def beats(self) -> int:
        """Beats of a key."""
        return self._head_dim // self._lanes

    @property
    def latency(self) -> int:
        """Cycles from accepting a request to presenting its answer: block RAM."""
        return RESCORE_KEY_STORE_LATENCY

    def elaborate(self, platform) -> Module:
        m = Module()

        address = Address(self._capacity, self.beats)
        m.submodules.elements = elements = block_ram(
            shape=self.o.payload.shape(), depth=address.depth)
        write, read = elements.write_port(), elements.read_port()

        advance = Signal()
        m.d.comb += [
            write.addr.eq(address(self.i_write.p.token, self.i_write.p.beat)),
            write.data.eq(self.i_write.p.elements),
            write.en.eq(self.i_write.valid),
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance),
            read.addr.eq(address(self.i.p.token, self.i.p.beat)),
            read.en.eq(advance),
            self.o.payload.eq(read.data),
        ]
        with m.If(advance):
            m.d.sync += self.o.valid.eq(self.i.valid)

        return m
