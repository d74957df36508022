"""Reads the rows of selections out of a RowBuffer, as the stores of a core without memory do."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.row_gather import use_layout
from nearbit_hw.memory.sizes import check_positive, is_power_of_two, log2
from nearbit_hw.stream_fifo import StreamFifo, queue


__all__ = ["RowReader"]


USES = 8
"""Selections between the one that is gathered and the one that is read, at most."""


class RowReader(wiring.Component):
    """Reads beats of the rows of one selection after another.

    Requests name no row: the rows of a selection are read in the order in which they were gathered.
    With :py:`row_major`, all beats of a row follow each other, and :py:`last` is set with those of
    the last row; else each beat is read of all rows, with :py:`last` on the last row of each. The
    last beat of the last row ends the selection. Then its set of slots is released, but for a
    reader that does not :py:`releases`, or if the next selection has the same rows.

    A selection must not be asked for before its set of slots was given to the fetcher, which
    :class:`RowGather` sees to. A request that is accepted at cycle t, when the buffer has its row,
    presents its beat at cycle :py:`t + latency`; one request per cycle; a stall of the output holds
    the requests behind it. :py:`o_outcome` says of each selection whether a row of it failed,
    before the beat of its last row is presented for the first time. A selection that is skipped by
    a :py:`row_major` reader is not read at all.

    Reset begins with the set of number 0.

    Parameters
    ----------
    top_n : :class:`int`
        Rows of a set. At least 1.
    beats : :class:`int`
        Beats that are read of a row. At least 1.
    beat_bits : :class:`int`
        Bits of a beat. At least 1.
    word_bits : :class:`int`
        Bits of the buffer's words; a multiple of :py:`beat_bits`, by a power of two.
    tail_bits : :class:`int`
        Bits that come with each word; 0, if there are none.
    row_major, releases : :class:`bool`
        See above.

    Members
    -------
    i_use : :py:`In(stream.Signature(use_layout()))`
        Uses, as of :class:`RowGather`.
    i : :py:`In(stream.Signature(StructLayout({"beat": range(beats), "last": 1})))`
        Requests.
    o_request : :py:`Out(stream.Signature(...))`
        Words that are asked for, as of :class:`RowBuffer`.
    i_word : :py:`In(stream.Signature(...))`
        These words, as the buffer presents them.
    o : :py:`Out(stream.Signature(StructLayout({"data": beat_bits, ["tail": tail_bits]})))`
        The beats.
    o_release : :py:`Out(stream.Signature(1, always_ready=True))`
        Sets that are done with, if it releases them.
    o_outcome : :py:`Out(stream.Signature(StructLayout({"failed": 1})))`
        How each selection ended, if it releases them.
    """

    i_use: stream.Interface
    i: stream.Interface
    o_request: stream.Interface
    i_word: stream.Interface
    o: stream.Interface
    o_release: stream.Interface
    o_outcome: stream.Interface

    def __init__(self, *, top_n: int, beats: int, beat_bits: int, word_bits: int,
                 tail_bits: int = 0, row_major: bool = False, releases: bool = True):
        check_positive(top_n=top_n, beats=beats, beat_bits=beat_bits, word_bits=word_bits)
        if word_bits % beat_bits or not is_power_of_two(word_bits // beat_bits):
            raise ValueError(f"Word bits must be beat bits ({beat_bits}) times a power of two, "
                             f"not {word_bits}")
        self._top_n = top_n
        self._beats = beats
        self._beat_bits = beat_bits
        self._word_bits = word_bits
        self._tail_bits = tail_bits
        self._row_major = bool(row_major)
        self._releases = bool(releases)
        tail = {"tail": tail_bits} if tail_bits else {}
        super().__init__({
            "i_use": In(stream.Signature(use_layout())),
            "i": In(stream.Signature(data.StructLayout({"beat": range(beats), "last": 1}))),
            "o_request": Out(stream.Signature(data.StructLayout({
                "set": 1, "position": range(top_n), "word": range(self.words)}))),
            "i_word": In(stream.Signature(data.StructLayout({
                "data": word_bits, "failed": 1, **tail}))),
            "o": Out(stream.Signature(data.StructLayout({"data": beat_bits, **tail}))),
            **({"o_release": Out(stream.Signature(1, always_ready=True)),
                "o_outcome": Out(stream.Signature(data.StructLayout({"failed": 1})))}
               if releases else {}),
        })

    @property
    def top_n(self) -> int:
        return self._top_n

    @property
    def beats(self) -> int:
        return self._beats

    @property
    def word_beats(self) -> int:
        """Beats of a word."""
        return self._word_bits // self._beat_bits

    @property
    def words(self) -> int:
        """Words of a row."""
        return -(-self._beats // self.word_beats)

    @property
    def latency(self) -> int:
        """Cycles from accepting a request to presenting its beat: the buffer, and a register."""
        return 2

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.uses = uses = StreamFifo(use_layout(), depth=USES)
        queue(m, self.i_use, uses.i)
        use = uses.o.p

        # ---- Requests: the rows are counted.
        which = Signal()
        # Amaranth has trouble with registers of 0 bits.
        position = Signal(range(max(2, self._top_n)))
        asked, steps, ends, skips = Signal(), Signal(), Signal(), Signal()
        is_final = self.i.p.beat == self._beats - 1
        low = log2(self.word_beats)
        m.d.comb += [
            skips.eq(uses.o.valid & use.skips & self._row_major),
            self.o_request.valid.eq(self.i.valid & uses.o.valid & ~skips),
            self.o_request.p.set.eq(which),
            self.o_request.p.position.eq(position),
            self.o_request.p.word.eq(self.i.p.beat[low:]),
            asked.eq(self.o_request.valid & self.o_request.ready),
            self.i.ready.eq(uses.o.valid & ~skips & self.o_request.ready),
            steps.eq(asked & (is_final if self._row_major else C(1, 1))),
            ends.eq(asked & self.i.p.last & is_final),
            uses.o.ready.eq(ends | skips),
        ]
        with m.If(steps):
            m.d.sync += position.eq(Mux(self.i.p.last, 0, position + 1))
        with m.If(uses.o.valid & uses.o.ready & ~use.keeps):
            m.d.sync += which.eq(~which)

        # ---- Words, of which a beat goes into the output register.
        word: Any = self.i_word.p
        place, tells, told, move = Signal(low), Signal(), Signal(), Signal()
        beat = Signal(self._beat_bits, reset_less=True)
        with m.If(self.o_request.ready):
            m.d.sync += [place.eq(self.i.p.beat[:low]),
                         tells.eq(asked & self.i.p.last & (self.i.p.beat == 0))]
        may_pass: Value = C(1, 1)
        if self._releases:
            m.d.comb += [
                self.o_release.valid.eq(ends & ~use.keeps),
                self.o_release.payload.eq(which),
                self.o_outcome.valid.eq(self.i_word.valid & tells & ~told),
                self.o_outcome.p.failed.eq(word.failed),
            ]
            may_pass = ~tells | told | self.o_outcome.ready
            m.d.sync += told.eq(self.i_word.valid & tells & may_pass & ~move)
        m.d.comb += [
            move.eq(~self.o.valid | self.o.ready),
            self.i_word.ready.eq(move & may_pass),
            self.o.p.data.eq(beat),
        ]
        with m.If(move):
            m.d.sync += [self.o.valid.eq(self.i_word.valid & may_pass),
                         beat.eq(word.data.word_select(place, self._beat_bits))]
        if self._tail_bits:
            tail = Signal(self._tail_bits, reset_less=True)
            m.d.comb += self.o.p.tail.eq(tail)
            with m.If(move):
                m.d.sync += tail.eq(word.tail)
        return m
