"""AXI4 between a cache in memory and that memory: what is used of it, as streams and as pins.

Every burst is of incrementing addresses, of whole beats of the bus, from an address that is a
multiple of a beat, and stays within 4 KiB. So a channel's payload has neither size nor type; the
pins have them, as constants (AMBA AXI, IHI 0022H, A3.4.1 and A4.4).
"""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.sizes import is_power_of_two, log2


__all__ = ["BOUNDARY_BYTES", "BURST_BEATS", "ERROR_BIT", "ReadSignature", "WriteSignature",
           "check_bus", "connect_read_pins", "connect_write_pins", "read_pins",
           "split_burst", "write_pins"]


BOUNDARY_BYTES = 4096
"""Addresses that are multiples of this are crossed by no burst (A3.4.1)."""

BURST_BEATS = 256
"""Beats of a burst, at most (A3.4.1)."""

ERROR_BIT = 1
"""Bit of a response that is 1 for SLVERR and DECERR, 0 for OKAY and EXOKAY (A3.4.4)."""

# Incrementing addresses; normal memory, not cached on the way, writes may be buffered.
_INCR = 1
_CACHE = 0b0011


def check_bus(*, address_bits: Any, data_bits: Any) -> None:
    """Refuse sizes that no AXI4 bus has."""
    if not isinstance(address_bits, int) or not 13 <= address_bits <= 64:
        raise TypeError(f"Address bits must be an integer from 13 to 64, not {address_bits!r}")
    if not is_power_of_two(data_bits) or not 8 <= data_bits <= 1024:
        raise TypeError(f"Data bits must be a power of two from 8 to 1024, not {data_bits!r}")


def split_burst(m: Module, address: Value, *, beats: int,
                data_bits: int) -> tuple[Value, Value, Value]:
    """Cut beats from an address on where they cross 4 KiB, if they do.

    Returns
    -------
    tuple
        Beats of the first burst less one, those of the second less one, and whether there is one.
    """
    # Beats up to the boundary, less one; and those beyond it, less one: negative, if none are.
    room = ~address[log2(data_bits // 8):log2(BOUNDARY_BYTES)]
    beyond = Signal(signed(max(len(room), 8) + 2))
    is_split = Signal()
    m.d.comb += [beyond.eq(beats - 2 - room), is_split.eq(beyond >= 0)]
    return Mux(is_split, room, beats - 1), beyond[:8], is_split


class ReadSignature(wiring.Signature):
    """The read channels of AXI4, seen from the manager.

    Parameters
    ----------
    address_bits : :class:`int`
        Bits of an address, which is in bytes. 13 to 64.
    data_bits : :class:`int`
        Bits of a beat, a power of two from 8 to 1024.
    id_bits : :class:`int`
        Bits of an ID; 0 where all bursts are answered in order.

    Members
    -------
    ar : :py:`Out(stream.Signature(StructLayout({"id": id_bits, "addr": address_bits, "len": 8})))`
        Bursts that are asked for; :py:`len` is beats less one.
    r : :py:`In(stream.Signature(StructLayout({"id": id_bits, "data": data_bits, "resp": 2, \
"last": 1})))`
        Their beats, :py:`last` with a burst's last one.
    """

    def __init__(self, *, address_bits: int, data_bits: int, id_bits: int = 0):
        check_bus(address_bits=address_bits, data_bits=data_bits)
        super().__init__({
            "ar": Out(stream.Signature(data.StructLayout({
                "id": id_bits, "addr": address_bits, "len": 8}))),
            "r": In(stream.Signature(data.StructLayout({
                "id": id_bits, "data": data_bits, "resp": 2, "last": 1}))),
        })


class WriteSignature(wiring.Signature):
    """The write channels of AXI4, seen from the manager.

    Parameters
    ----------
    address_bits, data_bits, id_bits : :class:`int`
        As of :class:`ReadSignature`.

    Members
    -------
    aw : :py:`Out(stream.Signature(StructLayout({"id": id_bits, "addr": address_bits, "len": 8})))`
        Bursts that are to be written; :py:`len` is beats less one.
    w : :py:`Out(stream.Signature(StructLayout({"data": data_bits, "strb": data_bits // 8, \
"last": 1})))`
        Their beats, in the bursts' order, with a bit for each byte that is written.
    b : :py:`In(stream.Signature(StructLayout({"id": id_bits, "resp": 2})))`
        An answer to each burst.
    """

    def __init__(self, *, address_bits: int, data_bits: int, id_bits: int = 0):
        check_bus(address_bits=address_bits, data_bits=data_bits)
        super().__init__({
            "aw": Out(stream.Signature(data.StructLayout({
                "id": id_bits, "addr": address_bits, "len": 8}))),
            "w": Out(stream.Signature(data.StructLayout({
                "data": data_bits, "strb": data_bits // 8, "last": 1}))),
            "b": In(stream.Signature(data.StructLayout({"id": id_bits, "resp": 2}))),
        })


def _address_pins(channel: str, address_bits: int, id_bits: int) -> dict[str, Any]:
    pins: dict[str, Any] = {
        "id": Out(max(1, id_bits)), "addr": Out(address_bits), "len": Out(8), "size": Out(3),
        "burst": Out(2), "lock": Out(1), "cache": Out(4), "prot": Out(3), "qos": Out(4),
        "valid": Out(1), "ready": In(1)}
    return {channel + name: pin for name, pin in pins.items()}


def read_pins(prefix: str, *, address_bits: int, data_bits: int,
              id_bits: int = 0) -> dict[str, Any]:
    """Members of a component for the read channels, by AMBA's names behind a prefix.

    There is always an ID: subordinates ask for one, be it of a bit.
    """
    pins = _address_pins("ar", address_bits, id_bits) | {
        "rid": In(max(1, id_bits)), "rdata": In(data_bits), "rresp": In(2), "rlast": In(1),
        "rvalid": In(1), "rready": Out(1)}
    return {f"{prefix}_{name}": pin for name, pin in pins.items()}


def write_pins(prefix: str, *, address_bits: int, data_bits: int,
               id_bits: int = 0) -> dict[str, Any]:
    """Members of a component for the write channels, as :func:`read_pins`."""
    pins = _address_pins("aw", address_bits, id_bits) | {
        "wdata": Out(data_bits), "wstrb": Out(data_bits // 8), "wlast": Out(1), "wvalid": Out(1),
        "wready": In(1), "bid": In(max(1, id_bits)), "bresp": In(2), "bvalid": In(1),
        "bready": Out(1)}
    return {f"{prefix}_{name}": pin for name, pin in pins.items()}


def _connect_address_pins(m: Module, channel: Any, component: Any, prefix: str,
                          data_bits: int) -> None:
    def pin(name: str) -> Any:
        return getattr(component, f"{prefix}{name}")

    m.d.comb += [
        *(pin(name).eq(channel.p[name]) for name in ("id", "addr", "len")),
        pin("size").eq(log2(data_bits // 8)),
        pin("burst").eq(_INCR),
        pin("cache").eq(_CACHE),
        pin("valid").eq(channel.valid),
        channel.ready.eq(pin("ready")),
    ]


def connect_read_pins(m: Module, axi: Any, component: Any, prefix: str) -> None:
    """Connect the channels of :class:`ReadSignature` to the pins of a component."""
    _connect_address_pins(m, axi.ar, component, f"{prefix}_ar", len(axi.r.p.data))
    m.d.comb += [
        *(axi.r.p[name].eq(getattr(component, f"{prefix}_r{name}"))
          for name in ("id", "data", "resp", "last")),
        axi.r.valid.eq(getattr(component, f"{prefix}_rvalid")),
        getattr(component, f"{prefix}_rready").eq(axi.r.ready),
    ]


def connect_write_pins(m: Module, axi: Any, component: Any, prefix: str) -> None:
    """Connect the channels of :class:`WriteSignature` to the pins of a component."""
    _connect_address_pins(m, axi.aw, component, f"{prefix}_aw", len(axi.w.p.data))
    m.d.comb += [
        *(getattr(component, f"{prefix}_w{name}").eq(axi.w.p[name])
          for name in ("data", "strb", "last")),
        getattr(component, f"{prefix}_wvalid").eq(axi.w.valid),
        axi.w.ready.eq(getattr(component, f"{prefix}_wready")),
        *(axi.b.p[name].eq(getattr(component, f"{prefix}_b{name}")) for name in ("id", "resp")),
        axi.b.valid.eq(getattr(component, f"{prefix}_bvalid")),
        getattr(component, f"{prefix}_bready").eq(axi.b.ready),
    ]
