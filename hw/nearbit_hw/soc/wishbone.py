"""Wishbone for the registers of a SoC core."""

from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.soc.register_file import ADDRESS_BITS, AccessSignature


__all__ = ["Wishbone", "WishboneSignature"]


class WishboneSignature(wiring.Signature):
    """Wishbone B4, classic cycles, 32 bits with a granularity of 8, seen from the initiator."""

    def __init__(self) -> None:
        super().__init__({
            "cyc": Out(1),
            "stb": Out(1),
            "we": Out(1),
            "adr": Out(ADDRESS_BITS),
            "sel": Out(4),
            "dat_w": Out(32),
            "dat_r": In(32),
            "ack": In(1),
            "err": In(1),
        })


class Wishbone(wiring.Component):
    """A Wishbone B4 target for classic cycles (Wishbone B4, 3.2).

    The address is in bytes; one that is not a multiple of 4 is answered with :py:`err`, as all that
    the registers refuse. The answer, either :py:`ack` or :py:`err`, comes in the cycle after the
    access is done, for one cycle. An initiator that ends its cycle before that ends a read; a
    write may have been done.

    Members
    -------
    wb : :py:`In(WishboneSignature())`
        From the initiator.
    bus : :py:`Out(AccessSignature())`
        Accesses.
    """

    wb: wiring.PureInterface
    bus: wiring.PureInterface

    def __init__(self) -> None:
        super().__init__({"wb": In(WishboneSignature()), "bus": Out(AccessSignature())})

    def elaborate(self, platform) -> Module:
        m = Module()
        wb: Any = self.wb
        bus: Any = self.bus
        answered, failed = Signal(), Signal(reset_less=True)
        m.d.comb += [
            bus.valid.eq(wb.cyc & wb.stb & ~answered),
            # Not even late to an initiator that has given up (rule 3.50).
            wb.ack.eq(answered & ~failed & wb.cyc & wb.stb),
            wb.err.eq(answered & failed & wb.cyc & wb.stb),
            bus.write.eq(wb.we),
            bus.address.eq(wb.adr),
            bus.data.eq(wb.dat_w),
            bus.strobe.eq(wb.sel),
        ]
        m.d.sync += answered.eq(bus.valid & bus.done)
        with m.If(bus.valid):
            m.d.sync += [wb.dat_r.eq(bus.answer), failed.eq(bus.error)]
        return m
