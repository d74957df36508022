"""Reads the rows of selected tokens from memory, over several ports."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.axi import ReadSignature
from nearbit_hw.memory.cache_map import CacheMap, Lookup
from nearbit_hw.memory.row_port import (
    RowPort,
    arrived_layout,
    check_row_beats,
    row_beat_layout,
    slot_layout,
)
from nearbit_hw.memory.sizes import check_positive, log2


__all__ = ["RowFetcher"]


# How it works
# ------------
# A token goes through three stages: `asked` (its page is looked up), `found`, `ready` (its place is
# multiplied by the stride); the head's base is added on the way to the port. The token's place in
# the set is counted, and with it the ports, in turns.
#
# If something fails for good, the fetcher *drains*: what is in the stages, and the rest of the
# selection, goes to the ports, which have given up and tell of all rows as failed. It ends when no
# selection is open and the memory owes nothing. A row whose look-up failed first waits in `ready`
# until the rows before it have come, for these are good.

class RowFetcher(wiring.Component):
    """Reads the rows of selections, each row once, into the slots of a :class:`RowBuffer`.

    A selection is a head and a sequence, then its tokens, the last one with :py:`last`. The buffer
    gives a set of slots for it; its tokens take the slots from position 0 on, and position p is of
    port :py:`p % ports`. So the number of a token's slot is known to everybody who counts them. A
    row has :py:`row_beats` beats from its address on (:class:`CacheMap`), and is read as by
    :class:`RowPort`: one burst, or two if it crosses 4 KiB, with an ID of its own; answers of
    different IDs come in any order. Rows of each port are told of in the order of their tokens.

    **Cycles.** A token that is accepted at cycle t, and looked up by :class:`PlaceTable` at once,
    is on the bus at cycle :py:`t + latency`; one token every two cycles, as long as the ports have
    IDs. With rows of b beats, a port is kept busy if the memory's latency in cycles is less than
    :py:`b * (2 ** id_bits - 1)`.

    **Faults.** A row failed if a beat of it ended in SLVERR or DECERR. If a row's page, or the
    head, could not be looked up, that row and the rest of its selection fail. If the memory, while
    it owed a port anything, gave it nothing for :py:`timeout` cycles, all rows fail that are in
    work, and the rest of the selection whose tokens come. Every token is told of, as far as it is
    accepted; selections end by their last tokens as ever. The next selection is begun when all that
    is owed has come, or fails as well while the silence goes on.

    Reset forgets all; the memory must be reset with it.

    Parameters
    ----------
    map : :class:`CacheMap`
        Where the rows are.
    top_n : :class:`int`
        Tokens of a selection, at most. At least 1.
    row_beats : :class:`int`
        Beats of a row; with those, strides must be no shorter than a row.
    ports : :class:`int`
        AXI4 ports: 1, 2 or 4.
    id_bits : :class:`int`
        Bits of an ID; each port has at most :py:`2 ** id_bits` rows on the way. At least 1.
    timeout_bits : :class:`int`
        Bits of :py:`timeout`. At least 1.

    Members
    -------
    i_selection : :py:`In(stream.Signature(StructLayout({"head": ..., "sequence": ...})))`
        Selections.
    i : :py:`In(stream.Signature(StructLayout({"token": range(capacity), "last": 1})))`
        Their tokens, at most :py:`top_n`.
    i_set : :py:`In(stream.Signature(1))`
        Sets of slots that are free, as the buffer gives them.
    o_lookup : :py:`Out(stream.Signature(map.request_layout))`
        Look-ups of :class:`PlaceTable`.
    i_lookup : :py:`In(stream.Signature(map.answer_layout, always_ready=True))`
        Their answers, each before the next look-up.
    axi : :py:`Out(ReadSignature(...)).array(ports)`
        To the memory.
    o : :py:`Out(stream.Signature(..., always_ready=True)).array(ports)`
        Beats, and where they go, as of :class:`RowPort`.
    o_arrived : :py:`Out(stream.Signature(StructLayout({"set": 1, "failed": 1}), \
always_ready=True)).array(ports)`
        Rows that have come.
    timeout : :py:`In(timeout_bits)`
        Cycles of silence, as of :class:`Watchdog`.
    """

    i_selection: stream.Interface
    i: stream.Interface
    i_set: stream.Interface
    o_lookup: stream.Interface
    i_lookup: stream.Interface
    axi: list[Any]
    o: list[stream.Interface]
    o_arrived: list[stream.Interface]
    timeout: Signal

    def __init__(self, map: CacheMap, *, top_n: int, row_beats: int, # noqa: A002
                 ports: int = 1, id_bits: int = 4, timeout_bits: int = 16):
        if not isinstance(map, CacheMap):
            raise TypeError(f"Map must be a CacheMap, not {map!r}")
        check_positive(top_n=top_n, id_bits=id_bits, timeout_bits=timeout_bits)
        check_row_beats(row_beats, map.data_bits)
        if ports not in (1, 2, 4):
            raise ValueError(f"Ports must be 1, 2 or 4, not {ports!r}")
        self._map = map
        self._top_n = top_n
        self._row_beats = row_beats
        self._ports = ports
        self._id_bits = id_bits
        self._timeout_bits = timeout_bits

        super().__init__({
            "i_selection": In(stream.Signature(data.StructLayout({
                "head": range(map.heads), "sequence": range(map.sequences)}))),
            "i": In(stream.Signature(data.StructLayout({
                "token": range(map.capacity), "last": 1}))),
            "i_set": In(stream.Signature(1)),
            "o_lookup": Out(stream.Signature(map.request_layout)),
            "i_lookup": In(stream.Signature(map.answer_layout, always_ready=True)),
            "axi": Out(ReadSignature(address_bits=map.address_bits, data_bits=map.data_bits,
                                     id_bits=id_bits)).array(ports),
            "o": Out(stream.Signature(row_beat_layout(
                positions=self.positions, row_beats=row_beats, data_bits=map.data_bits),
                always_ready=True)).array(ports),
            "o_arrived": Out(stream.Signature(
                arrived_layout(), always_ready=True)).array(ports),
            "timeout": In(timeout_bits),
        })

    @property
    def map(self) -> CacheMap:
        return self._map

    @property
    def top_n(self) -> int:
        return self._top_n

    @property
    def row_beats(self) -> int:
        return self._row_beats

    @property
    def ports(self) -> int:
        return self._ports

    @property
    def id_bits(self) -> int:
        return self._id_bits

    @property
    def timeout_bits(self) -> int:
        return self._timeout_bits

    @property
    def positions(self) -> int:
        """Slots of a set that are of the same port."""
        return -(-self._top_n // self._ports)

    @property
    def latency(self) -> int:
        """Cycles from a token to its row's burst: look-up, answer, product, sum."""
        return 4

    def elaborate(self, platform) -> Module:
        m = Module()
        ports = [
            RowPort(positions=self.positions, row_beats=self._row_beats,
                    address_bits=self._map.address_bits, data_bits=self._map.data_bits,
                    id_bits=self._id_bits, timeout_bits=self._timeout_bits)
            for _ in range(self._ports)]
        for number, port in enumerate(ports):
            m.submodules[f"port_{number}"] = port
            wiring.connect(m, port.axi, wiring.flipped(self.axi[number]))
            wiring.connect(m, port.o, wiring.flipped(self.o[number]))
            wiring.connect(m, port.o_arrived, wiring.flipped(self.o_arrived[number]))
            m.d.comb += port.timeout.eq(self.timeout)

        draining = Signal()
        settled, expired = Signal(), Signal()
        m.d.comb += [
            settled.eq(Cat(port.settled & port.idle for port in ports).all()),
            expired.eq(Cat(port.expired for port in ports).any()),
            *(port.give_up.eq(draining) for port in ports),
        ]

        # ---- The selection whose tokens come.
        is_open = Signal()
        selection: Any = Signal(self.i_selection.payload.shape(), reset_less=True)
        position = Signal(range(self.positions * self._ports))
        its_set = Signal(reset_less=True)
        # Not while a row of the one before may turn out to have no page, and end all that is open.
        may_open, staged = Signal(), Signal()
        m.d.comb += [
            may_open.eq(~is_open & ~staged & (~draining | expired)),
            self.i_selection.ready.eq(may_open & self.i_set.valid),
            self.i_set.ready.eq(may_open & self.i_selection.valid),
        ]
        with m.If(self.i_selection.valid & self.i_selection.ready):
            m.d.sync += [is_open.eq(1), selection.eq(self.i_selection.payload), position.eq(0),
                         its_set.eq(self.i_set.payload)]

        # ---- Asked: a place in `found` is free when the answer comes.
        found, ready = Signal(), Signal()
        pass_found, pass_ready = Signal(), Signal()
        asked, may_ask, take = Signal(), Signal(), Signal()
        slot_shape = slot_layout(self.positions * self._ports)
        asked_slot: Any = Signal(slot_shape, reset_less=True)
        asked_offset = Signal(self._map.offset_of(self.i.p.token).shape(), reset_less=True)
        m.d.comb += [
            may_ask.eq(is_open & ~asked & (~found | pass_found)),
            self.o_lookup.valid.eq(self.i.valid & may_ask),
            self.o_lookup.p.head.eq(selection.head),
            self.o_lookup.p.page.sequence.eq(selection.sequence),
            self.o_lookup.p.page.index.eq(self._map.index_of(self.i.p.token)),
            self.i.ready.eq(may_ask & self.o_lookup.ready),
            take.eq(self.i.valid & self.i.ready),
        ]
        with m.If(take):
            m.d.sync += [
                asked.eq(1),
                asked_slot.set.eq(its_set),
                asked_slot.position.eq(position),
                asked_offset.eq(self._map.offset_of(self.i.p.token)),
                position.eq(position + 1),
                is_open.eq(~self.i.p.last),
            ]

        # ---- Found: where the token is.
        answer = self.i_lookup
        found_slot = Signal(slot_shape, reset_less=True)
        entry: Any = Signal(self._map.head_layout, reset_less=True)
        place = Signal(range(self._map.pages * self._map.page_tokens), reset_less=True)
        found_error = Signal(reset_less=True)
        with m.If(pass_found):
            m.d.sync += found.eq(0)
        with m.If(answer.valid):
            m.d.sync += [
                asked.eq(0), found.eq(1), found_slot.eq(asked_slot), entry.eq(answer.p.head),
                place.eq(Cat(asked_offset, answer.p.page)),
                found_error.eq(answer.p.error != Lookup.OK),
            ]

        # ---- Ready: to be added up and put on the bus.
        ready_slot: Any = Signal(slot_shape, reset_less=True)
        base = Signal(entry.rows.shape(), reset_less=True)
        product = Signal(len(base), reset_less=True)
        error = Signal(reset_less=True)
        with m.If(pass_ready):
            m.d.sync += ready.eq(0)
        with m.If(pass_found):
            m.d.sync += [ready.eq(1), ready_slot.eq(found_slot), base.eq(entry.rows),
                         product.eq(place * entry.stride), error.eq(found_error)]
        address = Cat(C(0, log2(self._map.row_unit)), (base + product)[:len(base)])
        port_bits = log2(self._ports)
        goes = ready & (~error | draining)
        m.d.comb += pass_found.eq(found & (~ready | pass_ready))
        for number, port in enumerate(ports):
            mine = (ready_slot.position[:port_bits] == number) if port_bits else C(1, 1)
            m.d.comb += [
                port.i.valid.eq(goes & mine),
                port.i.p.slot.set.eq(ready_slot.set),
                port.i.p.slot.position.eq(ready_slot.position[port_bits:]),
                port.i.p.address.eq(address),
            ]
            with m.If(port.i.valid & port.i.ready):
                m.d.comb += pass_ready.eq(1)

        # ---- Draining.
        drained = Signal()
        m.d.comb += [
            staged.eq(asked | found | ready),
            drained.eq(draining & settled & ~is_open & ~staged),
            *(port.clear.eq(drained) for port in ports),
        ]
        with m.If(drained):
            m.d.sync += draining.eq(0)
        with m.If(~draining & (expired | (ready & error & settled))):
            m.d.sync += draining.eq(1)
        return m
