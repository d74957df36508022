"""AXI4-Lite for the registers of a SoC core."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.soc.register_file import ADDRESS_BITS, AccessSignature


__all__ = ["OKAY", "SLVERR", "AxiLite"]


OKAY, SLVERR = 0, 2
"""Responses (AMBA AXI, IHI 0022H, A3.4.4)."""


class AxiLite(wiring.Component):
    """An AXI4-Lite subordinate, which does one access after another.

    A write address, write data and a read address are taken as they come, one of each, in any order
    and each without the others; the next one when the access has been answered. If both a read and
    a write could begin, it is the write, unless one was done in the cycle before. An access begins
    in the cycle after all of it has come, if the response to the one before of its kind has been
    taken; its response is there in the cycle after it is done.

    All outputs are registers.

    Members
    -------
    aw, ar : :py:`In(stream.Signature(12))`
        Addresses, in bytes.
    w : :py:`In(stream.Signature(StructLayout({"data": 32, "strobe": 4})))`
        Data to write.
    b : :py:`Out(stream.Signature(2))`
        Responses to writes.
    r : :py:`Out(stream.Signature(StructLayout({"data": 32, "response": 2})))`
        Data that was read.
    bus : :py:`Out(AccessSignature())`
        Accesses.
    """

    aw: stream.Interface
    ar: stream.Interface
    w: stream.Interface
    b: stream.Interface
    r: stream.Interface
    bus: wiring.PureInterface

    def __init__(self) -> None:
        super().__init__({
            "aw": In(stream.Signature(ADDRESS_BITS)),
            "w": In(stream.Signature(data.StructLayout({"data": 32, "strobe": 4}))),
            "b": Out(stream.Signature(2)),
            "ar": In(stream.Signature(ADDRESS_BITS)),
            "r": Out(stream.Signature(data.StructLayout({"data": 32, "response": 2}))),
            "bus": Out(AccessSignature()),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        bus: Any = self.bus

        # ---- What has come and is not answered.
        held: dict[str, tuple[Signal, Any]] = {}
        for name in ("aw", "w", "ar"):
            channel = getattr(self, name)
            full = Signal(name=f"{name}_full")
            kept = Signal(channel.payload.shape(), name=f"{name}_kept", reset_less=True)
            m.d.comb += channel.ready.eq(~full)
            with m.If(channel.valid & channel.ready):
                m.d.sync += [full.eq(1), kept.eq(channel.payload)]
            held[name] = full, kept
        (aw_full, aw), (w_full, w), (ar_full, ar) = held.values()

        # ---- One access at a time.
        may_write, may_read = Signal(), Signal()
        m.d.comb += [
            may_write.eq(aw_full & w_full & ~self.b.valid),
            may_read.eq(ar_full & ~self.r.valid),
            bus.data.eq(w.data),
            bus.strobe.eq(w.strobe),
            bus.address.eq(Mux(bus.write, aw, ar)),
        ]
        with m.If(~bus.valid):
            m.d.sync += [bus.valid.eq(may_write | may_read),
                         bus.write.eq(may_write & ~(may_read & bus.write))]
        with m.Elif(bus.done):
            m.d.sync += bus.valid.eq(0)
            with m.If(bus.write):
                m.d.sync += [aw_full.eq(0), w_full.eq(0)]
            with m.Else():
                m.d.sync += ar_full.eq(0)

        # ---- Responses.
        response = Cat(C(0, 1), bus.error)
        for channel, kind in ((self.b, bus.write), (self.r, ~bus.write)):
            with m.If(channel.ready):
                m.d.sync += channel.valid.eq(0)
            with m.If(bus.valid & bus.done & kind):
                m.d.sync += channel.valid.eq(1)
        with m.If(bus.valid & bus.write):
            m.d.sync += self.b.payload.eq(response)
        with m.If(bus.valid & ~bus.write):
            m.d.sync += [self.r.p.data.eq(bus.answer), self.r.p.response.eq(response)]
        return m
