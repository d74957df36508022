"""A component whose AXI4 channels are pins of AMBA's names, as other people's models want them."""

from amaranth.hdl import Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from nearbit_hw.memory.axi import (
    ReadSignature,
    WriteSignature,
    connect_read_pins,
    connect_write_pins,
    read_pins,
    write_pins,
)


class Pins(wiring.Component):
    def __init__(self, component):
        self.component = component
        members, self.buses = {}, []
        for name, member in component.signature.members.items():
            if member.is_port or not isinstance(member.signature, ReadSignature | WriteSignature):
                members[name] = member
                continue
            buses = [name] if not member.dimensions else [
                f"{name}_{index}" for index in range(member.dimensions[0])]
            ports = [getattr(component, name)] if not member.dimensions else getattr(
                component, name)
            reads = isinstance(member.signature, ReadSignature)
            channels = member.signature.members
            data = (channels["r"] if reads else channels["w"]).signature.members["payload"].shape
            address = (channels["ar"] if reads else channels["aw"]).signature.members[
                "payload"].shape
            sizes = {"address_bits": address["addr"].width, "data_bits": data["data"].width,
                     "id_bits": address["id"].width}
            for bus, port in zip(buses, ports, strict=True):
                members |= (read_pins if reads else write_pins)(bus, **sizes)
                self.buses.append((bus, port, reads))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = self.component
        for bus, port, reads in self.buses:
            (connect_read_pins if reads else connect_write_pins)(m, port, self, bus)

        def join(outer, part, flow):
            if isinstance(outer, list):
                for one, other in zip(outer, part, strict=True):
                    join(one, other, flow)
            elif isinstance(outer, Value):
                m.d.comb += part.eq(outer) if flow is In else outer.eq(part)
            elif flow is In:
                wiring.connect(m, wiring.flipped(outer), part)
            else:
                wiring.connect(m, part, wiring.flipped(outer))

        for name, member in inner.signature.members.items():
            if name in self.signature.members:
                join(getattr(self, name), getattr(inner, name), member.flow)
        return m
