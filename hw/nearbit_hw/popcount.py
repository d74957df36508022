"""Pipelined XOR-popcount: the Hamming distance between two words."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.tree import sum_tree, tree_latency


__all__ = ["XorPopcount"]


class XorPopcount(wiring.Component):
    """Pipelined Hamming distance.

    Computes :py:`popcount(a ^ b)` with a tree of adders that is registered after every level.
    Throughput is one pair of operands per cycle and latency is :py:`latency` cycles; both hold
    as long as the output is not stalled, and a stall holds the whole pipeline. Distances leave in
    the order in which operands entered.

    Reference: :func:`nearbit_model.popcount.hamming`.

    Parameters
    ----------
    width : :class:`int`
        Bit width of an operand. At least 1.
    fan_in : :class:`int`
        Terms added per node of the tree. At least 2.

    Members
    -------
    i : :py:`In(stream.Signature(StructLayout({"a": width, "b": width})))`
        Operands.
    o : :py:`Out(stream.Signature(range(width + 1)))`
        Distances.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, width: int, *, fan_in: int = 4):
        if not isinstance(width, int) or width < 1:
            raise TypeError(f"Width must be a positive integer, not {width!r}")
        if not isinstance(fan_in, int) or fan_in < 2:
            raise TypeError(f"Fan-in must be an integer greater than 1, not {fan_in!r}")
        self._width = width
        self._fan_in = fan_in

        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"a": width, "b": width}))),
            "o": Out(stream.Signature(range(width + 1))),
        })

    @property
    def width(self) -> int:
        return self._width

    @property
    def fan_in(self) -> int:
        return self._fan_in

    @property
    def latency(self) -> int:
        """Cycles from accepting operands to presenting their distance, if never stalled."""
        return tree_latency(self._width, self._fan_in)

    def elaborate(self, platform) -> Module:
        m = Module()

        # The last register is the output register; the pipeline moves whenever it is free.
        advance = Signal()
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)
        m.d.comb += self.i.ready.eq(advance)

        valid = Signal(self.latency)
        with m.If(advance):
            m.d.sync += valid.eq(Cat(self.i.valid, valid))

        # Only `valid` is reset: what the data registers hold without it is never observed.
        distance = sum_tree(m, list(self.i.p.a ^ self.i.p.b), name="sum", advance=advance,
                            fan_in=self._fan_in)

        m.d.comb += self.o.valid.eq(valid[-1])
        m.d.comb += self.o.payload.eq(distance)

        return m
