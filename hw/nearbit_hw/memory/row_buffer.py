"""Rows that were read from memory, until they are done with."""

from dataclasses import dataclass
from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.row_port import arrived_layout, row_beat_layout
from nearbit_hw.memory.sizes import check_positive, log2
from nearbit_hw.ram import Address, block_ram


__all__ = ["RowBuffer", "RowTail"]


@dataclass(frozen=True)
class RowTail:
    """A field of a row that is given with each of its words: some bits of one beat."""

    beat: int
    first_bit: int
    bits: int


class RowBuffer(wiring.Component):
    """Two sets of slots for rows in block RAM, filled by a :class:`RowFetcher`.

    Each port of the fetcher has a memory of its own, with the rows of every :py:`ports`-th
    position. A set is given to the fetcher as soon as it is free, the two in turns, and is free
    when it is released.

    Of a row it keeps some successive beats of the bus, which are read as *words* of
    :py:`word_beats` of them, and a :py:`tail`, which comes with each word.

    A word is asked for by set, position and number. The request is accepted once as many rows of
    the set have come over the row's port as it takes for this one to be among them, which are told
    of in order; that is when this and all rows before it have come. A request accepted at cycle t
    presents its word at cycle :py:`t + latency`; one request per cycle; a stall of the output holds
    the requests behind it. A word is :py:`failed` if any row of the set that has come by then
    failed; its data mean nothing then. So whether a selection failed is said with its last row.

    What is written at cycle t is read by requests of cycle t + 1 or later, and a row must not be
    written while it is asked for: rows that have come are not. Reset frees both sets.

    Parameters
    ----------
    top_n : :class:`int`
        Rows of a set. At least 1.
    row_beats : :class:`int`
        Beats of a row. At least 1.
    data_bits : :class:`int`
        Bits of a beat. At least 1.
    ports : :class:`int`
        Ports of the fetcher: 1, 2 or 4.
    kept : :class:`range`
        Successive beats of a row that are kept; None are all.
    word_beats : :class:`int`
        Beats of a word; divides those that are kept.
    tail : :class:`RowTail`
        What comes with each word; None, if nothing does.

    Members
    -------
    o_set : :py:`Out(stream.Signature(1))`
        Sets that are free.
    i_write : :py:`In(stream.Signature(..., always_ready=True)).array(ports)`
        Beats, as of :class:`RowFetcher`.
    i_arrived : :py:`In(stream.Signature(StructLayout({"set": 1, "failed": 1}), \
always_ready=True)).array(ports)`
        Rows that have come.
    i : :py:`In(stream.Signature(StructLayout({"set": 1, "position": range(top_n), "word": \
range(words)})))`
        Words to read; those of a free set wait until it is filled.
    o : :py:`Out(stream.Signature(StructLayout({"data": word_beats * data_bits, "failed": 1, \
["tail": tail.bits]})))`
        The words.
    i_release : :py:`In(stream.Signature(1, always_ready=True))`
        Sets that are done with, of which all rows have come.
    """

    o_set: stream.Interface
    i_write: list[stream.Interface]
    i_arrived: list[stream.Interface]
    i: stream.Interface
    o: stream.Interface
    i_release: stream.Interface

    def __init__(self, *, top_n: int, row_beats: int, data_bits: int = 64, ports: int = 1,
                 kept: range | None = None, word_beats: int = 1, tail: RowTail | None = None):
        check_positive(top_n=top_n, row_beats=row_beats, data_bits=data_bits,
                       word_beats=word_beats)
        if ports not in (1, 2, 4):
            raise ValueError(f"Ports must be 1, 2 or 4, not {ports!r}")
        kept = range(row_beats) if kept is None else kept
        if not kept or kept.step != 1 or kept[0] < 0 or kept[-1] >= row_beats:
            raise ValueError(f"Kept beats must be successive ones of {row_beats}, not {kept}")
        if len(kept) % word_beats:
            raise ValueError(f"Word beats must divide the beats that are kept ({len(kept)}), "
                             f"not {word_beats}")
        if tail is not None and (tail.beat not in range(row_beats) or tail.bits < 1
                                 or tail.first_bit < 0
                                 or tail.first_bit + tail.bits > data_bits):
            raise ValueError(f"Tail must be within one of {row_beats} beats of {data_bits} bits, "
                             f"not {tail}")
        self._top_n = top_n
        self._row_beats = row_beats
        self._data_bits = data_bits
        self._ports = ports
        self._kept = kept
        self._word_beats = word_beats
        self._tail = tail

        super().__init__({
            "o_set": Out(stream.Signature(1)),
            "i_write": In(stream.Signature(row_beat_layout(
                positions=self.positions, row_beats=row_beats, data_bits=data_bits),
                always_ready=True)).array(ports),
            "i_arrived": In(stream.Signature(
                arrived_layout(), always_ready=True)).array(ports),
            "i": In(stream.Signature(data.StructLayout({
                "set": 1, "position": range(top_n), "word": range(self.words)}))),
            "o": Out(stream.Signature(data.StructLayout({
                "data": word_beats * data_bits, "failed": 1,
                **({} if tail is None else {"tail": tail.bits})}))),
            "i_release": In(stream.Signature(1, always_ready=True)),
        })

    @property
    def top_n(self) -> int:
        return self._top_n

    @property
    def row_beats(self) -> int:
        return self._row_beats

    @property
    def data_bits(self) -> int:
        return self._data_bits

    @property
    def ports(self) -> int:
        return self._ports

    @property
    def words(self) -> int:
        """Words of a row."""
        return len(self._kept) // self._word_beats

    @property
    def positions(self) -> int:
        """Slots of a set that are of the same port."""
        return -(-self._top_n // self._ports)

    @property
    def latency(self) -> int:
        """Cycles from accepting a request to presenting its word: that of the block RAM."""
        return 1

    def elaborate(self, platform) -> Module:
        m = Module()

        # ---- Sets, in turns.
        free, following = Signal(2, init=0b11), Signal()
        opened = Signal()
        m.d.comb += [
            self.o_set.valid.eq(free.bit_select(following, 1)),
            self.o_set.payload.eq(following),
            opened.eq(self.o_set.valid & self.o_set.ready),
        ]
        with m.If(opened):
            m.d.sync += [following.eq(~following), free.bit_select(following, 1).eq(0)]
        with m.If(self.i_release.valid):
            m.d.sync += free.bit_select(self.i_release.payload, 1).eq(1)

        # ---- Rows that have come, and whether any failed.
        counts: list[list[Signal]] = [
            [Signal(range(self.positions + 1), name=f"count_{number}_{port}")
             for port in range(self._ports)] for number in range(2)]
        failed = Signal(2)
        for number in range(2):
            came = [arrived.valid & (arrived.p.set == number) for arrived in self.i_arrived]
            for count, arrives in zip(counts[number], came, strict=True):
                with m.If(arrives):
                    m.d.sync += count.eq(count + 1)
            fails = Cat(arrives & arrived.p.failed
                        for arrives, arrived in zip(came, self.i_arrived, strict=True))
            with m.If(fails.any()):
                m.d.sync += failed[number].eq(1)
            with m.If(self.i_release.valid & (self.i_release.payload == number)):
                m.d.sync += [failed[number].eq(0), *(count.eq(0) for count in counts[number])]

        # ---- Requests.
        asked = self.i.p
        port_bits = log2(self._ports)
        place = asked.position[port_bits:]
        port = asked.position[:port_bits]
        count = Signal(range(self.positions + 1))
        with m.Switch(Cat(asked.set, port)):
            for number in range(2):
                for index in range(self._ports):
                    with m.Case(number | index << 1):
                        m.d.comb += count.eq(counts[number][index])
        advance, accepted = Signal(), Signal()
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance & (count > place)),
            accepted.eq(self.i.valid & self.i.ready),
        ]
        read_failed, read_port = Signal(reset_less=True), Signal(port_bits, reset_less=True)
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(accepted), read_port.eq(port),
                         read_failed.eq(failed.bit_select(asked.set, 1))]
        m.d.comb += self.o.p.failed.eq(read_failed)

        # ---- Memories for each port: one for each beat of a word.
        slots = 1 << len(Signal(range(self.positions))) + 1
        address = Address(slots, self.words)
        words, tails = [], []
        for number, writes in enumerate(self.i_write):
            written: Any = writes.p
            slot = Cat(written.slot.position, written.slot.set)
            read_slot = Cat(place[:len(written.slot.position)], asked.set)
            beats = []
            for part in range(self._word_beats):
                rows = block_ram(shape=self._data_bits, depth=address.depth)
                m.submodules[f"rows_{number}_{part}"] = rows
                write, read = rows.write_port(), rows.read_port()
                word, is_mine = self._word_of(m, written.beat, part, f"{number}_{part}")
                m.d.comb += [
                    write.addr.eq(address(slot, word)),
                    write.data.eq(written.data),
                    write.en.eq(writes.valid & is_mine),
                    read.addr.eq(address(read_slot, asked.word)),
                    read.en.eq(advance),
                ]
                beats.append(read.data)
            words.append(Cat(beats))
            if self._tail is not None:
                rows = block_ram(shape=self._tail.bits, depth=slots)
                m.submodules[f"tails_{number}"] = rows
                write, read = rows.write_port(), rows.read_port()
                m.d.comb += [
                    write.addr.eq(slot),
                    write.data.eq(written.data >> self._tail.first_bit),
                    write.en.eq(writes.valid & (written.beat == self._tail.beat)),
                    read.addr.eq(read_slot),
                    read.en.eq(advance),
                ]
                tails.append(read.data)
        m.d.comb += self.o.p.data.eq(Array(words)[read_port] if port_bits else words[0])
        if tails:
            m.d.comb += self.o.p.tail.eq(Array(tails)[read_port] if port_bits else tails[0])
        return m

    def _word_of(self, m: Module, beat: Value, part: int, name: str) -> tuple[Value, Value]:
        """Give the word that a beat is that part of, and whether it is of any."""
        if self._word_beats == 1 and len(self._kept) == self._row_beats:
            return beat, C(1, 1)
        word = Signal(range(self.words), name=f"word_{name}")
        is_mine = Signal(name=f"is_mine_{name}")
        with m.Switch(beat):
            for number in range(self.words):
                with m.Case(self._kept[number * self._word_beats + part]):
                    m.d.comb += [word.eq(number), is_mine.eq(1)]
        return word, is_mine
