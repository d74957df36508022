"""Pipelined XOR-popcount: the Hamming distance between two words."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.score.cells import ecp5, ice40, xc7
from nearbit_hw.tree import sum_tree
from nearbit_model.structure import FAN_IN, tree_latency


__all__ = ["TARGETS", "XorPopcount", "operand_skew", "platform_target"]


TARGETS = ("generic", "ecp5", "ice40", "xc7")
"""Devices with a cell of their own; `generic` is for all others and for simulation."""


def platform_target(platform) -> str:
    """Return the one of :data:`TARGETS` that suits a platform; `generic` without a platform."""
    device = str(getattr(platform, "device", "")).lower()
    if device.startswith("lfe5u"):
        return "ecp5"
    if device.startswith("ice40"):
        return "ice40"
    if device.startswith("xc7"):
        return "xc7"
    return "generic"


def operand_skew(width: int, *, fan_in: int = FAN_IN, target: str) -> list[int]:
    """Return how many cycles late a skewed cell takes each bit of the operands.

    Delaying late bits once in front of many cells costs less than delaying them in each cell.

    Parameters
    ----------
    width, fan_in
        As in :class:`XorPopcount`.
    target
        One of :data:`TARGETS`.
    """
    if target == "ecp5":
        return ecp5.skew(width, latency=tree_latency(width, fan_in))
    return [0] * width


class XorPopcount(wiring.Component):
    """Pipelined Hamming distance.

    Computes :py:`popcount(a ^ b)`, or :py:`popcount(a)` of a difference computed elsewhere, with a
    tree of adders that is registered after every level. For some devices it is built from native
    cells instead; see :mod:`nearbit_hw.score.cells`. Values and cycles are the same for all
    targets.

    Throughput is one pair of operands per cycle and latency is :py:`latency` cycles; both hold
    as long as the output is not stalled, and a stall holds the whole pipeline. Distances leave in
    the order in which operands entered.

    Reference: :func:`nearbit_model.popcount.hamming`.

    Parameters
    ----------
    width : :class:`int`
        Bit width of an operand. At least 1.
    fan_in : :class:`int`
        Terms added per node of the tree. At least 2. It sets the latency for all targets: a smaller
        one reaches a higher clock frequency.
    target : :class:`str`, optional
        One of :data:`TARGETS`; by default the one that suits the platform.
    operands : :class:`int`
        2, or 1 for no :py:`b`.
    skewed : :class:`bool`
        Whether each bit of the operands arrives some cycles after :py:`i.valid`, as given by
        :func:`operand_skew`. Then the output must not be stalled.

    Members
    -------
    i : :py:`In(stream.Signature(StructLayout({"a": width, "b": width})))`
        Operands; :py:`b` only with two operands.
    o : :py:`Out(stream.Signature(range(width + 1)))`
        Distances.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, width: int, *, fan_in: int = FAN_IN, target: str | None = None,
                 operands: int = 2, skewed: bool = False):
        if not isinstance(width, int) or width < 1:
            raise TypeError(f"Width must be a positive integer, not {width!r}")
        if not isinstance(fan_in, int) or fan_in < 2:
            raise TypeError(f"Fan-in must be an integer greater than 1, not {fan_in!r}")
        if target is not None and target not in TARGETS:
            raise ValueError(f"Target must be one of {', '.join(TARGETS)}, not {target!r}")
        if operands not in (1, 2):
            raise TypeError(f"Operands must be 1 or 2, not {operands!r}")
        self._width = width
        self._operands = operands
        self._fan_in = fan_in
        self._target = target
        self._skewed = bool(skewed)

        super().__init__({
            "i": In(stream.Signature(data.StructLayout(dict.fromkeys("ab"[:operands], width)))),
            "o": Out(stream.Signature(range(width + 1))),
        })

    @property
    def width(self) -> int:
        return self._width

    @property
    def operands(self) -> int:
        return self._operands

    @property
    def fan_in(self) -> int:
        return self._fan_in

    @property
    def target(self) -> str | None:
        return self._target

    @property
    def skewed(self) -> bool:
        return self._skewed

    @property
    def latency(self) -> int:
        """Cycles from accepting operands to presenting their distance, if never stalled."""
        return tree_latency(self._width, self._fan_in)

    def elaborate(self, platform) -> Module:
        m = Module()

        # The last register is the output register; the pipeline moves whenever that is free.
        advance = Signal()
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)
        m.d.comb += self.i.ready.eq(advance)

        valid = Signal(self.latency)
        with m.If(advance):
            m.d.sync += valid.eq(Cat(self.i.valid, valid))

        # Only `valid` is reset: what the data registers hold without it is never observed.
        a = self.i.p.a
        b = self.i.p.b if self._operands == 2 else Const(0, self._width)
        match self._target or platform_target(platform):
            case "ecp5":
                distance = ecp5.distance(m, a, b, latency=self.latency, advance=advance,
                                         skewed=self._skewed)
            case "ice40":
                distance = ice40.distance(m, a, b if self._operands == 2 else None,
                                          latency=self.latency, advance=advance)
            case "xc7":
                distance = xc7.distance(m, a, b, latency=self.latency, advance=advance)
            case _:
                distance = sum_tree(m, list(a ^ b), name="sum", advance=advance,
                                    fan_in=self._fan_in)

        m.d.comb += self.o.valid.eq(valid[-1])
        m.d.comb += self.o.payload.eq(distance)

        return m
