"""AXI4 buses among a component's streams: those that a memory is at the other end of."""

from dataclasses import dataclass
from typing import Any

from nearbit_model.transfers.payload import Bits, Port, Struct


__all__ = ["Bus", "split_buses"]


@dataclass(frozen=True)
class Bus:
    """The read or the write channels of an AXI4 port, as streams ``name__ar``, ``name__r`` etc.

    Parameters
    ----------
    name
        Prefix of the streams, such as ``axi_codes`` or ``axi_rows__0``.
    is_read
        Whether it is read on this bus; if not, it is written.
    address_bits, data_bits, id_bits
        Bits of an address in bytes, of a beat, and of an ID.
    """

    name: str
    is_read: bool
    address_bits: int
    data_bits: int
    id_bits: int = 0

    @property
    def beat_bytes(self) -> int:
        """Bytes of a beat."""
        return self.data_bits // 8

    @property
    def channels(self) -> dict[str, Port]:
        """Streams of the bus by the name of the channel, in AXI4's order."""
        ident, response, flag = Bits(self.id_bits), Bits(2), Bits(1)
        address = {"id": ident, "addr": Bits(self.address_bits), "len": Bits(8)}
        data = Bits(self.data_bits)
        if self.is_read:
            fields = {"ar": address, "r": {"id": ident, "data": data, "resp": response,
                                           "last": flag}}
        else:
            fields = {"aw": address, "w": {"data": data, "strb": Bits(self.beat_bytes),
                                           "last": flag},
                      "b": {"id": ident, "resp": response}}
        return {channel: Port(f"{self.name}__{channel}", channel in ("r", "b"), _struct(payload))
                for channel, payload in fields.items()}

    def offset(self, channel: str, field: str) -> int:
        """Bit of a channel's payload with which a field begins."""
        shape = self.channels[channel].shape
        assert isinstance(shape, Struct)
        return next(offset for name, offset, _ in shape.fields if name == field)

    def to_json(self) -> dict[str, Any]:
        """Describe the bus with what JSON can hold."""
        return {"name": self.name, "is_read": self.is_read, "address_bits": self.address_bits,
                "data_bits": self.data_bits, "id_bits": self.id_bits}


def _struct(fields: dict[str, Bits]) -> Struct:
    places = []
    width = 0
    for name, bits in fields.items():
        places.append((name, width, bits))
        width += bits.width
    return Struct(width, tuple(places))


def split_buses(ports: list[Port]) -> tuple[list[Bus], list[Port]]:
    """Find the buses among streams; return them and all other streams, in their order."""
    by_name = {port.name: port for port in ports}
    found: list[Bus] = []
    channels: set[str] = set()
    for port in ports:
        for first, data, is_read in (("ar", "r", True), ("aw", "w", False)):
            name = port.name.removesuffix(f"__{first}")
            if name == port.name or f"{name}__{data}" not in by_name:
                continue
            address, beat = port.shape, by_name[f"{name}__{data}"].shape
            if not isinstance(address, Struct) or not isinstance(beat, Struct):
                continue
            widths = {field: shape.width for part in (beat, address)
                      for field, _, shape in part.fields}
            if not {"id", "addr", "len", "data", "last"} <= widths.keys():
                continue
            bus = Bus(name, is_read, widths["addr"], widths["data"], widths["id"])
            if all(by_name.get(part.name) == part for part in bus.channels.values()):
                found.append(bus)
                channels |= {part.name for part in bus.channels.values()}
    return found, [port for port in ports if port.name not in channels]
