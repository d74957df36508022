"""Several who read, on one AXI4 bus."""

from collections.abc import Sequence
from typing import Any

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.axi import ReadSignature, check_bus
from nearbit_hw.memory.round_robin import round_robin


__all__ = ["ReadMerge"]


class ReadMerge(wiring.Component):
    """Passes bursts of several managers on to one bus, in turns.

    The number of a manager is put above its ID, so that the bus sees different IDs of different
    managers, and beats find their way back. A burst that is accepted at cycle t is on the bus at
    cycle t + 1; one burst every two cycles. Beats pass in the cycle in which they come; one that is
    not taken holds up the others, so managers should always take what they asked for.

    Reset forgets the burst that waits for the bus.

    Parameters
    ----------
    address_bits, data_bits : :class:`int`
        As of :class:`~nearbit_hw.memory.axi.ReadSignature`.
    id_bits : sequence of :class:`int`
        Bits of the IDs of each manager, at least one manager; none has less than 0.

    Members
    -------
    i_0, i_1, ... : :py:`In(ReadSignature(...))`
        The managers.
    o : :py:`Out(ReadSignature(...))`
        The bus; its IDs have :py:`out_id_bits` bits.
    """

    o: Any

    def __init__(self, *, address_bits: int = 32, data_bits: int = 64, id_bits: Sequence[int]):
        check_bus(address_bits=address_bits, data_bits=data_bits)
        if not id_bits:
            raise ValueError("There must be at least one manager")
        for bits in id_bits:
            if not isinstance(bits, int) or bits < 0:
                raise TypeError(f"ID bits must be integers of at least 0, not {bits!r}")
        self._address_bits = address_bits
        self._data_bits = data_bits
        self._id_bits = tuple(id_bits)

        sizes = {"address_bits": address_bits, "data_bits": data_bits}
        super().__init__({
            **{f"i_{number}": In(ReadSignature(**sizes, id_bits=bits))
               for number, bits in enumerate(self._id_bits)},
            "o": Out(ReadSignature(**sizes, id_bits=self.out_id_bits)),
        })

    @property
    def address_bits(self) -> int:
        return self._address_bits

    @property
    def data_bits(self) -> int:
        return self._data_bits

    @property
    def id_bits(self) -> tuple[int, ...]:
        return self._id_bits

    @property
    def out_id_bits(self) -> int:
        """Bits of the bus's IDs: the longest of the managers', and a manager's number."""
        return max(self._id_bits) + (len(self._id_bits) - 1).bit_length()

    def elaborate(self, platform) -> Module:
        m = Module()
        managers: list[Any] = [getattr(self, f"i_{number}")
                               for number in range(len(self._id_bits))]
        low = max(self._id_bits)

        # ---- Addresses, through a register.
        ar = self.o.ar
        last = Signal(range(len(managers)))
        chosen = round_robin(m, [manager.ar.valid for manager in managers], last)
        shown: Any = Signal(ar.payload.shape(), reset_less=True)
        m.d.comb += ar.payload.eq(shown)
        with m.If(ar.ready):
            m.d.sync += ar.valid.eq(0)
        for number, manager in enumerate(managers):
            m.d.comb += manager.ar.ready.eq(~ar.valid & (chosen == number))
            with m.If(manager.ar.valid & manager.ar.ready):
                m.d.sync += [
                    ar.valid.eq(1),
                    last.eq(number),
                    shown.addr.eq(manager.ar.p.addr),
                    shown.len.eq(manager.ar.p.len),
                    shown.id.eq(Cat(manager.ar.p.id, C(0, low - len(manager.ar.p.id)),
                                    C(number, self.out_id_bits - low))),
                ]

        # ---- Beats, back to whom they belong.
        r = self.o.r
        for number, manager in enumerate(managers):
            mine = (r.p.id[low:] == number) if len(managers) > 1 else C(1, 1)
            m.d.comb += [
                manager.r.valid.eq(r.valid & mine),
                manager.r.p.id.eq(r.p.id),
                *(manager.r.p[name].eq(r.p[name]) for name in ("data", "resp", "last")),
            ]
            with m.If(mine):
                m.d.comb += r.ready.eq(manager.r.ready)
        return m
