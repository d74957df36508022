"""Counts what a memory owes, and for how long it has been silent."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.sizes import check_positive


__all__ = ["Watchdog"]


class Watchdog(wiring.Component):
    """Whether a memory owes anything, may be asked for more, and is silent for too long.

    Outputs are registers, but for :py:`room` and :py:`none`, which depend on the counter only.
    Reset forgets what is owed.

    Parameters
    ----------
    limit : :class:`int`
        What may be owed, at most. At least 1.
    timeout_bits : :class:`int`
        Bits of :py:`timeout`. At least 1.

    Members
    -------
    timeout : :py:`In(timeout_bits)`
        Cycles of silence; 0 are :py:`2 ** timeout_bits`.
    begin, end : :py:`In(1)`
        The memory is asked for something; it has given something wholly.
    beat : :py:`In(1)`
        It gives something.
    room : :py:`Out(1)`
        It owes less than :py:`limit`.
    none : :py:`Out(1)`
        It owes nothing.
    expired : :py:`Out(1)`
        It has owed something and given nothing for :py:`timeout` cycles, and still does.
    """

    timeout: Signal
    begin: Signal
    end: Signal
    beat: Signal
    room: Signal
    none: Signal
    expired: Signal

    def __init__(self, *, limit: int, timeout_bits: int):
        check_positive(limit=limit, timeout_bits=timeout_bits)
        self._limit = limit
        self._timeout_bits = timeout_bits

        super().__init__({
            "timeout": In(timeout_bits),
            **dict.fromkeys(("begin", "end", "beat"), In(1)),
            **dict.fromkeys(("room", "none", "expired"), Out(1)),
        })

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def timeout_bits(self) -> int:
        return self._timeout_bits

    def elaborate(self, platform) -> Module:
        m = Module()
        owed = Signal(range(self._limit + 1))
        m.d.comb += [self.room.eq(owed != self._limit), self.none.eq(owed == 0)]
        with m.If(self.begin != self.end):
            m.d.sync += owed.eq(owed + Mux(self.end, -1, 1))

        silent = Signal(self._timeout_bits)
        cycles = Signal(self._timeout_bits)
        m.d.comb += cycles.eq(silent + 1)
        with m.If(self.none | self.beat):
            m.d.sync += [silent.eq(0), self.expired.eq(0)]
        with m.Elif(~self.expired):
            m.d.sync += [silent.eq(cycles), self.expired.eq(cycles == self.timeout)]
        return m
