"""A component that hands AXI4 channels through, so that a program may be any manager."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.axi import ReadSignature, WriteSignature


class Through(wiring.Component):
    """Buses whose channels are streams: what is sent to ``i_ar__0`` goes to the first bus, etc.

    With ``slow``, beats and answers of the memory are taken in some cycles only.
    """

    def __init__(self, *, reads=1, id_bits=2, data_bits=64, address_bits=16, slow=False):
        self.slow = slow
        sizes = {"address_bits": address_bits, "data_bits": data_bits, "id_bits": id_bits}
        read, write = ReadSignature(**sizes).members, WriteSignature(**sizes).members
        payload = {channel: members[channel].signature.members["payload"].shape
                   for members, channels in ((read, ("ar", "r")), (write, ("aw", "w", "b")))
                   for channel in channels}
        super().__init__({
            "axi": Out(ReadSignature(**sizes)).array(reads),
            "i_ar": In(stream.Signature(payload["ar"])).array(reads),
            "o_r": Out(stream.Signature(payload["r"])).array(reads),
            "axi_w": Out(WriteSignature(**sizes)),
            "i_aw": In(stream.Signature(payload["aw"])),
            "i_w": In(stream.Signature(payload["w"])),
            "o_b": Out(stream.Signature(payload["b"])),
            # What no manager may do: valid falls, or the payload's lowest bit changes, before a
            # transfer.
            "withdraw": In(1),
            "bend": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        count = Signal(8)
        m.d.sync += count.eq(count + 1)
        takes = Signal(init=1)
        if self.slow:
            m.d.comb += takes.eq((count % 5 != 1) & (count % 7 != 3))
        pairs = [*zip(self.i_ar, (bus.ar for bus in self.axi), strict=True),
                 (self.i_aw, self.axi_w.aw), (self.i_w, self.axi_w.w)]
        for source, target in pairs:
            bits = source.payload.as_value()
            m.d.comb += [target.payload.as_value().eq(bits ^ (self.bend & count[0])),
                         target.valid.eq(source.valid), source.ready.eq(target.ready)]
            with m.If(self.withdraw & count[0]):
                m.d.comb += [target.valid.eq(0), source.ready.eq(0)]
        for source, target in [*zip((bus.r for bus in self.axi), self.o_r, strict=True),
                               (self.axi_w.b, self.o_b)]:
            m.d.comb += [target.payload.eq(source.payload), target.valid.eq(source.valid & takes),
                         source.ready.eq(target.ready & takes)]
        return m
