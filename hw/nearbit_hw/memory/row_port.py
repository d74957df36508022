"""One AXI4 port of a RowFetcher: bursts of rows, and where their beats go."""

from typing import Any

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.axi import (
    BOUNDARY_BYTES,
    BURST_BEATS,
    ERROR_BIT,
    ReadSignature,
    check_bus,
    split_burst,
)
from nearbit_hw.memory.sizes import check_positive, log2
from nearbit_hw.memory.watchdog import Watchdog


__all__ = ["RowPort", "arrived_layout", "check_row_beats", "row_beat_layout", "slot_layout"]


def check_row_beats(row_beats: Any, data_bits: int) -> None:
    """Refuse rows that do not fit two bursts, of which one ends at 4 KiB."""
    check_positive(row_beats=row_beats)
    beats_max = min(BURST_BEATS, 8 * BOUNDARY_BYTES // data_bits)
    if row_beats > beats_max:
        raise ValueError(f"Row beats must be at most {beats_max}, not {row_beats}")


def slot_layout(positions: int) -> data.StructLayout:
    """Layout of a place for a row: one of two sets, and the place in it."""
    return data.StructLayout({"set": 1, "position": range(positions)})


def row_beat_layout(*, positions: int, row_beats: int, data_bits: int) -> data.StructLayout:
    """Layout of a beat of a row, and where it goes."""
    return data.StructLayout({
        "slot": slot_layout(positions), "beat": range(row_beats), "data": data_bits})


def arrived_layout() -> data.StructLayout:
    """Layout of a row that has come: of which set it is, and whether it failed."""
    return data.StructLayout({"set": 1, "failed": 1})


# How it works
# ------------
# A row has an ID, from which its beats know their slot. IDs are given in turns and taken back in
# the same order, so they are a ring: `tail` is the next to be given, `head` the oldest that is not
# taken back. What is known of an ID is in small memories, each with one writer: `slots` is written
# when the ID is given, `progress` by each beat, `done` by a row's last beat.
#
# Nobody clears `done` for the next lap around the ring: it holds the lap in which the row came, and
# the lap is a bit, as each ID is given once in each lap. A row that is given up is taken back
# before it has come, and one that is not asked for never comes, so that `done` is laps behind; then
# the ring must be cleared before a row is read again.

class RowPort(wiring.Component):
    """Reads rows over one AXI4 port, each with a burst, or with two if it crosses 4 KiB.

    Rows are asked for in the order in which they come, at most :py:`2 ** id_bits` at a time, each
    with its own ID (both bursts of a row have the same one). The memory may answer different IDs in
    any order, beat by beat. Beats go out as they come, and :py:`o_arrived` tells of the rows in the
    order in which they were asked for, each two cycles after its last beat at the earliest.

    A row that is accepted at cycle t is on the bus at cycle t + 1. One burst every two cycles;
    nothing is ever refused of what the memory gives.

    While :py:`give_up` is 1, rows are not asked for, and all that have not come are told of as
    failed, one per cycle; what comes late goes out as ever, and must not be believed. Before a row
    is read again :py:`clear` must be 1 for a cycle when the port is :py:`idle` and :py:`settled`;
    then, as after reset, no row is accepted for :py:`2 ** id_bits` cycles. Reset forgets all; the
    memory must be reset with it.

    Parameters
    ----------
    positions : :class:`int`
        Places for rows in each of the two sets. At least 1.
    row_beats : :class:`int`
        Beats of a row. 1 to 256, at most 4096 bytes.
    address_bits, data_bits : :class:`int`
        As of :class:`~nearbit_hw.memory.axi.ReadSignature`.
    id_bits : :class:`int`
        Bits of an ID. At least 1.
    timeout_bits : :class:`int`
        Bits of :py:`timeout`. At least 1.

    Members
    -------
    i : :py:`In(stream.Signature(StructLayout({"slot": ..., "address": address_bits})))`
        Rows, from addresses that are multiples of a beat.
    axi : :py:`Out(ReadSignature(...))`
        To the memory.
    o : :py:`Out(stream.Signature(StructLayout({"slot": ..., "beat": ..., "data": ...}), \
always_ready=True))`
        Beats, and where they go.
    o_arrived : :py:`Out(stream.Signature(StructLayout({"set": 1, "failed": 1}), \
always_ready=True))`
        Rows that have come; one whose beat ended in SLVERR or DECERR failed.
    timeout : :py:`In(timeout_bits)`
        Cycles of silence, as of :class:`Watchdog`.
    give_up, clear : :py:`In(1)`
        See above.
    idle : :py:`Out(1)`
        All rows that were accepted have been told of.
    settled, expired : :py:`Out(1)`
        The memory owes nothing; it is silent for too long.
    """

    i: stream.Interface
    axi: Any
    o: stream.Interface
    o_arrived: stream.Interface
    timeout: Signal
    give_up: Signal
    clear: Signal
    idle: Signal
    settled: Signal
    expired: Signal

    def __init__(self, *, positions: int, row_beats: int, address_bits: int = 32,
                 data_bits: int = 64, id_bits: int = 4, timeout_bits: int = 16):
        check_positive(positions=positions, id_bits=id_bits, timeout_bits=timeout_bits)
        check_bus(address_bits=address_bits, data_bits=data_bits)
        check_row_beats(row_beats, data_bits)
        self._positions = positions
        self._row_beats = row_beats
        self._address_bits = address_bits
        self._data_bits = data_bits
        self._id_bits = id_bits
        self._timeout_bits = timeout_bits

        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "slot": slot_layout(positions), "address": address_bits}))),
            "axi": Out(ReadSignature(
                address_bits=address_bits, data_bits=data_bits, id_bits=id_bits)),
            "o": Out(stream.Signature(row_beat_layout(
                positions=positions, row_beats=row_beats, data_bits=data_bits),
                always_ready=True)),
            "o_arrived": Out(stream.Signature(arrived_layout(), always_ready=True)),
            "timeout": In(timeout_bits),
            **dict.fromkeys(("give_up", "clear"), In(1)),
            **dict.fromkeys(("idle", "settled", "expired"), Out(1)),
        })

    @property
    def positions(self) -> int:
        return self._positions

    @property
    def row_beats(self) -> int:
        return self._row_beats

    @property
    def address_bits(self) -> int:
        return self._address_bits

    @property
    def data_bits(self) -> int:
        return self._data_bits

    @property
    def id_bits(self) -> int:
        return self._id_bits

    @property
    def timeout_bits(self) -> int:
        return self._timeout_bits

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.watchdog = watchdog = Watchdog(
            limit=1 << self._id_bits, timeout_bits=self._timeout_bits)

        def table(name: str, layout: data.StructLayout) -> Any:
            found: Any = memory.Memory(shape=layout, depth=1 << self._id_bits, init=[])
            m.submodules[name] = found
            return found

        # ---- The ring of IDs.
        head, tail = Signal(self._id_bits + 1), Signal(self._id_bits + 1)
        full, take, ready = Signal(), Signal(), Signal()
        clearing = Signal(init=1)
        cleared = Signal(self._id_bits)
        m.d.comb += [
            full.eq((head[:-1] == tail[:-1]) & (head[-1] != tail[-1])),
            ready.eq(~full & ~clearing),
            take.eq(self.i.valid & self.i.ready),
        ]
        with m.If(take):
            m.d.sync += tail.eq(tail + 1)
        with m.If(clearing):
            m.d.sync += [cleared.eq(cleared + 1), clearing.eq(~cleared.all())]
        with m.If(self.clear):
            m.d.sync += [clearing.eq(1), head.eq(0), tail.eq(0)]

        slots = table("slots", data.StructLayout({"lap": 1, "slot": slot_layout(self._positions)}))
        slots_write, slots_read = slots.write_port(), slots.read_port(domain="comb")
        sets = table("sets", data.StructLayout({"set": 1, "unread": 1}))
        sets_write, sets_read = sets.write_port(), sets.read_port(domain="comb")
        m.d.comb += [
            slots_write.addr.eq(tail),
            slots_write.data.lap.eq(~tail[-1]),
            slots_write.data.slot.eq(self.i.p.slot),
            slots_write.en.eq(take),
            sets_write.addr.eq(tail),
            sets_write.data.set.eq(self.i.p.slot.set),
            sets_write.data.unread.eq(self.give_up),
            sets_write.en.eq(take),
        ]

        self._ask(m, ready, take, tail)

        # ---- Beats.
        r = self.axi.r
        progress = table("progress", data.StructLayout({
            "beat": range(self._row_beats), "bad": 1}))
        progress_write, progress_read = progress.write_port(), progress.read_port(domain="comb")
        done = table("done", data.StructLayout({"lap": 1, "bad": 1}))
        done_write, done_read = done.write_port(), done.read_port(domain="comb")
        beat, is_last, bad = progress_read.data.beat, Signal(), Signal()
        m.d.comb += [
            r.ready.eq(1),
            slots_read.addr.eq(r.p.id),
            progress_read.addr.eq(r.p.id),
            is_last.eq(beat == self._row_beats - 1),
            bad.eq(progress_read.data.bad | r.p.resp[ERROR_BIT]),
            progress_write.addr.eq(Mux(clearing, cleared, r.p.id)),
            progress_write.data.eq(Mux(clearing | is_last, 0, Cat(
                (beat + 1)[:len(beat)], bad))),
            progress_write.en.eq(clearing | r.valid),
            done_write.addr.eq(progress_write.addr),
            done_write.data.eq(Mux(clearing, 0, Cat(slots_read.data.lap, bad))),
            done_write.en.eq(clearing | (r.valid & is_last)),
            self.o.valid.eq(r.valid),
            self.o.p.slot.eq(slots_read.data.slot),
            self.o.p.beat.eq(beat),
            self.o.p.data.eq(r.p.data),
        ]

        # ---- Rows that have come.
        has_come = (done_read.data.lap != head[-1]) & ~sets_read.data.unread
        m.d.comb += [
            done_read.addr.eq(head),
            sets_read.addr.eq(head),
            self.idle.eq(head == tail),
            self.o_arrived.valid.eq(~self.idle & (has_come | self.give_up)),
            self.o_arrived.p.set.eq(sets_read.data.set),
            self.o_arrived.p.failed.eq(~has_come | done_read.data.bad),
        ]
        with m.If(self.o_arrived.valid):
            m.d.sync += head.eq(head + 1)

        m.d.comb += [
            watchdog.timeout.eq(self.timeout),
            watchdog.begin.eq(take & ~self.give_up),
            watchdog.beat.eq(r.valid),
            watchdog.end.eq(r.valid & is_last),
            self.settled.eq(watchdog.none),
            self.expired.eq(watchdog.expired),
        ]
        return m

    def _ask(self, m: Module, ready: Signal, take: Signal, tail: Signal) -> None:
        """Put bursts on the bus."""
        ar = self.axi.ar
        low = log2(BOUNDARY_BYTES)
        at: Any = self.i.p.address
        address = Signal(self._address_bits, reset_less=True)
        less_one, rest = Signal(8, reset_less=True), Signal(8, reset_less=True)
        number = Signal(self._id_bits, reset_less=True)
        again = Signal()
        first_less_one, rest_less_one, is_split = split_burst(
            m, at, beats=self._row_beats, data_bits=self._data_bits)
        m.d.comb += [
            self.i.ready.eq(ready & (self.give_up | (~ar.valid & ~again))),
            ar.p.addr.eq(address),
            ar.p.len.eq(less_one),
            ar.p.id.eq(number),
        ]
        with m.If(ar.ready):
            m.d.sync += ar.valid.eq(0)
        with m.If(again & ~ar.valid):
            m.d.sync += [
                ar.valid.eq(1),
                again.eq(0),
                less_one.eq(rest),
                address.eq(Cat(C(0, low), address[low:] + 1)),
            ]
        with m.If(take & ~self.give_up):
            m.d.sync += [
                ar.valid.eq(1),
                again.eq(is_split),
                less_one.eq(first_less_one),
                rest.eq(rest_less_one),
                address.eq(at),
                number.eq(tail),
            ]
