"""Reads the codes of a command's keys from memory, in long bursts."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import code_word_layout
from nearbit_hw.memory.axi import ERROR_BIT, ReadSignature
from nearbit_hw.memory.beat_fifo import BeatFifo
from nearbit_hw.memory.cache_map import CacheMap, Lookup
from nearbit_hw.memory.sizes import check_positive, check_power, log2
from nearbit_hw.memory.watchdog import Watchdog
from nearbit_hw.stream_fifo import StreamFifo


__all__ = ["CodeFetcher", "code_bits"]


def code_bits(key_bits: int) -> int:
    """Bits that a code takes in memory: the next power of two."""
    return 1 << (key_bits - 1).bit_length()


# How it works
# ------------
# A *chunk* is a beat of the bus or a word of keys, whichever is longer; a *block* is as many chunks
# as the longest burst. Commands ask for chunks, bursts are blocks or the first or last part of one,
# and blocks begin at multiples of their length, so no burst crosses 4 KiB.
#
# `_Issue` makes bursts of a command: a burst is looked up, added up, and put on the bus when its
# beats have a place in the queue of beats. What then comes goes into that queue without a word.
# `_deliver` cuts it into words; of a command it knows only how many words there are and where in
# the first chunk they begin, which waits in a queue of its own. That queue is what is in work.
#
# If something fails for good, the fetcher *drains*: it asks for nothing, takes what the memory
# still owes and drops it, and makes up the words of all commands in work, until there are neither.
# A look-up that fails first waits (`halted`) until the bursts before have come, for these are good.

class _Issue:
    """The bursts of a command.

    Attributes
    ----------
    running
        A command has bursts that are not on the bus.
    asked, found
        A burst is looked up; it has been.
    load
        A burst goes onto the bus.
    less_one
        Beats of the burst, less one.
    """

    def __init__(self, m: Module, fetcher: "CodeFetcher"):
        self._fetcher = fetcher
        self.running, self.asked, self.found = Signal(), Signal(), Signal()
        self.load, self.failed = Signal(), Signal()
        chunks = 2 * fetcher.map.capacity // fetcher.chunk_tokens
        block = fetcher.block_chunks
        beats_per_chunk = fetcher.chunk_bits // fetcher.map.data_bits

        self._head = Signal(range(fetcher.map.heads), reset_less=True)
        self._sequence = Signal(range(fetcher.map.sequences), reset_less=True)
        self._at = Signal(range(chunks), reset_less=True)
        self._final = Signal(range(chunks), reset_less=True)
        low = log2(block)
        self._is_final = Signal()
        self.less_one = Signal(range(block * beats_per_chunk))
        m.d.comb += [
            self._is_final.eq(self._at[low:] == self._final[low:]),
            self.less_one.eq(Cat(
                C(beats_per_chunk - 1, log2(beats_per_chunk)),
                # No difference has a zero for bits: of a block of one chunk there are none.
                Mux(self._is_final, self._final[:low], block - 1) - self._at[:low] if low else 0)),
        ]
        self._low = low

    def start(self, m: Module, command: Any, first: Value, final: Value) -> None:
        """Take a command; the chunks are those of its first and last token."""
        m.d.sync += [self.running.eq(1), self._head.eq(command.head),
                     self._sequence.eq(command.sequence), self._at.eq(first),
                     self._final.eq(final)]

    def run(self, m: Module, *, may_ask: Value, drop: Value) -> None:
        """Look up the next burst, add up its address, put it on the bus."""
        fetcher = self._fetcher
        request, answer, ar = fetcher.o_lookup, fetcher.i_lookup, fetcher.axi.ar
        page_chunks = fetcher.map.page_tokens // fetcher.chunk_tokens
        m.d.comb += [
            request.valid.eq(self.running & ~self.asked & ~self.found & may_ask),
            request.p.head.eq(self._head),
            request.p.page.sequence.eq(self._sequence),
            request.p.page.index.eq(self._at[log2(page_chunks):]),
        ]
        base = Signal(fetcher.map.head_layout["codes"].shape, reset_less=True)
        page = Signal(range(fetcher.map.pages), reset_less=True)
        error = Signal()
        with m.If(request.valid & request.ready):
            m.d.sync += self.asked.eq(1)
        with m.If(answer.valid):
            m.d.sync += [self.asked.eq(0), self.found.eq(~drop), base.eq(answer.p.head.codes),
                         page.eq(answer.p.page), error.eq(answer.p.error != Lookup.OK)]

        place = Cat(C(0, log2(fetcher.chunk_bits // 8)) if fetcher.chunk_bits > 8 else C(0, 0),
                    self._at[:log2(page_chunks)], page)
        unit = log2(fetcher.map.burst_bytes)
        # All pages may be less than the unit of bases.
        place = Cat(place, C(0, max(0, unit - len(place))))
        m.d.comb += [
            self.load.eq(self.found & ~error & ~ar.valid & ~drop),
            self.failed.eq(self.found & error),
        ]
        with m.If(ar.ready):
            m.d.sync += ar.valid.eq(0)
        with m.If(self.load):
            m.d.sync += [
                ar.valid.eq(1),
                self.found.eq(0),
                self._at.eq(Cat(C(0, self._low), self._at[self._low:] + 1)),
            ]
            with m.If(self._is_final):
                m.d.sync += self.running.eq(0)
        address = Signal(fetcher.map.address_bits, reset_less=True)
        beats_less_one = Signal(8, reset_less=True)
        with m.If(self.load):
            m.d.sync += [address.eq(Cat(place[:unit], base + place[unit:])),
                         beats_less_one.eq(self.less_one)]
        m.d.comb += [ar.p.addr.eq(address), ar.p.len.eq(beats_less_one)]
        with m.If(drop | self.failed):
            m.d.sync += [self.running.eq(0), self.found.eq(0)]


class CodeFetcher(wiring.Component):
    """Codes of a command's keys, read from memory.

    Has the output of :class:`nearbit_hw.score.KeyStore`, of which words are not asked for one by
    one: a command names a head, a sequence and a range of its tokens, and is answered with the
    words from that of the first token to that of the last, the last one with :py:`last`. A token's
    code takes :py:`code_bits` bits, the next power of two, at its place
    (:class:`~nearbit_hw.memory.CacheMap`), the first bit lowest; words are of :py:`lanes` tokens
    from multiples of :py:`lanes`. What the words hold beside the range is whatever is in memory.

    **Bursts.** As long as the command, the page and :py:`burst_bytes` allow, from multiples of that
    length (but for a command's first), all with one ID. A burst is put on the bus when all of its
    beats have a place in a queue of :py:`depth` beats, and no more than :py:`outstanding` are on
    the bus. So the bus is kept busy if the memory's latency in cycles is less than :py:`depth` less
    two bursts. The queue is the price: at 64 bits, 512 beats are two block RAMs of an ECP5 and
    cover a latency of 448 cycles with 16 bursts of 256 bytes; 64 such bursts would be 2,048 beats
    and eight.

    **Cycles.** One word per cycle, or a beat per cycle where a word is longer. If the memory
    answers a burst at the earliest L cycles after it was taken, the first word of a command that
    comes to an idle fetcher is presented :py:`latency + L` cycles after the command was. Bursts of
    one command are put on the bus at least three cycles apart, those of two four cycles; commands
    follow each other without a gap while the queue holds more than that. They are accepted while
    fewer than :py:`commands` are in work, when the bursts of the one before are all on the bus.

    **Faults.** A word is :py:`failed` if a beat of it or of a word before it of the same command
    ended in SLVERR or DECERR; if its page, or the head, could not be looked up; or if the memory,
    while it owed anything, was silent for :py:`timeout` cycles. A command always has all its words,
    so whether it failed is said by its last one. After a silence no burst is begun until all that
    the memory owes has come, and is dropped, and all commands in work have been answered; a command
    that comes while the silence goes on fails, too. The next one is read as if nothing had been.
    A look-up that nobody has taken when the silence is noticed is withdrawn, against the rule of
    streams.

    Reset forgets all; the memory must be reset with it, as AXI4 wants.

    Who appends tokens guarantees that those of a range are in memory, and stay what they are, from
    when the command is accepted until its last word has come.

    Parameters
    ----------
    map : :class:`CacheMap`
        Where the codes are. A page must hold a beat and a word, the longest burst a word.
    key_bits : :class:`int`
        Bits of a code. At least 1.
    lanes : :class:`int`
        Keys per word, a power of two.
    depth : :class:`int`
        Beats that are on the way or wait, a power of two; two of the longest bursts at least.
    outstanding : :class:`int`
        Bursts on the bus, at most. At least 1.
    commands : :class:`int`
        Commands in work, at most. At least 1.
    timeout_bits : :class:`int`
        Bits of :py:`timeout`. At least 1.

    Members
    -------
    i : :py:`In(stream.Signature(map.range_layout))`
        Commands; :py:`count` at least 1, :py:`first + count` at most the capacity.
    o_lookup : :py:`Out(stream.Signature(map.request_layout))`
        Look-ups of :class:`PlaceTable`.
    i_lookup : :py:`In(stream.Signature(map.answer_layout, always_ready=True))`
        Their answers, each before the next look-up.
    axi : :py:`Out(ReadSignature(...))`
        To the memory.
    o : :py:`Out(stream.Signature(StructLayout({"codes": ..., "last": 1, "failed": 1})))`
        The codes of a word, lane 0 lowest.
    timeout : :py:`In(timeout_bits)`
        Cycles of silence after which the memory is given up; 0 are :py:`2 ** timeout_bits`.
    """

    i: stream.Interface
    o_lookup: stream.Interface
    i_lookup: stream.Interface
    axi: Any
    o: stream.Interface
    timeout: Signal

    def __init__(self, map: CacheMap, *, key_bits: int, lanes: int, depth: int = 512, # noqa: A002
                 outstanding: int = 64, commands: int = 4, timeout_bits: int = 16):
        if not isinstance(map, CacheMap):
            raise TypeError(f"Map must be a CacheMap, not {map!r}")
        check_positive(key_bits=key_bits, outstanding=outstanding, commands=commands,
                       timeout_bits=timeout_bits)
        check_power(lanes=lanes, depth=depth)
        self._map = map
        self._key_bits = key_bits
        self._lanes = lanes
        self._depth = depth
        self._outstanding = outstanding
        self._commands = commands
        self._timeout_bits = timeout_bits
        page_bits = map.page_tokens * self.code_bits
        if page_bits < self.chunk_bits:
            raise ValueError(f"A page must hold a beat of the bus and a word of keys "
                             f"({self.chunk_bits} bits), not {page_bits} bits")
        if 8 * map.burst_bytes < self.chunk_bits:
            raise ValueError(f"Burst bytes must hold a word of keys ({self.chunk_bits // 8}), "
                             f"not {map.burst_bytes}")
        if depth < 2 * self.burst_beats:
            raise ValueError(f"Depth must be two bursts ({2 * self.burst_beats} beats) at least, "
                             f"not {depth}")

        super().__init__({
            "i": In(stream.Signature(map.range_layout)),
            "o_lookup": Out(stream.Signature(map.request_layout)),
            "i_lookup": In(stream.Signature(map.answer_layout, always_ready=True)),
            "axi": Out(ReadSignature(address_bits=map.address_bits, data_bits=map.data_bits)),
            "o": Out(stream.Signature(
                code_word_layout(key_bits=key_bits, lanes=lanes, fetched=True))),
            "timeout": In(timeout_bits),
        })

    @property
    def map(self) -> CacheMap:
        return self._map

    @property
    def key_bits(self) -> int:
        return self._key_bits

    @property
    def lanes(self) -> int:
        return self._lanes

    @property
    def depth(self) -> int:
        return self._depth

    @property
    def outstanding(self) -> int:
        return self._outstanding

    @property
    def commands(self) -> int:
        return self._commands

    @property
    def timeout_bits(self) -> int:
        return self._timeout_bits

    @property
    def code_bits(self) -> int:
        """Bits that a code takes in memory."""
        return code_bits(self._key_bits)

    @property
    def word_bits(self) -> int:
        """Bits that a word takes in memory."""
        return self._lanes * self.code_bits

    @property
    def chunk_bits(self) -> int:
        """Bits of a beat or a word, whichever is more."""
        return max(self._map.data_bits, self.word_bits)

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a beat or a word, whichever is more."""
        return self.chunk_bits // self.code_bits

    @property
    def block_chunks(self) -> int:
        """Chunks of the longest burst."""
        page_bits = self._map.page_tokens * self.code_bits
        return min(8 * self._map.burst_bytes, page_bits) // self.chunk_bits

    @property
    def burst_beats(self) -> int:
        """Beats of the longest burst."""
        return self.block_chunks * self.chunk_bits // self._map.data_bits

    @property
    def latency(self) -> int:
        """Cycles from a command to its first word, beside the memory's own."""
        return 6 + self.chunk_bits // self._map.data_bits - 1

    def elaborate(self, platform) -> Module:
        m = Module()
        command = self.i.p
        first, final = command.first, Signal(range(2 * self._map.capacity))
        m.d.comb += final.eq(first + command.count - 1)

        # ---- Commands in work: what of their words is known before they come.
        lane_bits, chunk_shift = log2(self._lanes), log2(self.chunk_tokens)
        layout = data.StructLayout({
            "start": range(self.chunk_tokens // self._lanes),
            "words": range(self._map.capacity // self._lanes + 1),
        })
        m.submodules.work = work = StreamFifo(layout, depth=self._commands)
        m.d.comb += [
            work.i.p.start.eq(first[lane_bits:chunk_shift]),
            work.i.p.words.eq(final[lane_bits:] - first[lane_bits:]),
        ]

        # ---- Bursts.
        m.submodules.beats = beats = BeatFifo(
            data.StructLayout({"data": self._map.data_bits, "bad": 1}), depth=self._depth)
        m.submodules.watchdog = watchdog = Watchdog(
            limit=self._outstanding, timeout_bits=self._timeout_bits)
        issue = _Issue(m, self)
        halted, draining, drained = Signal(), Signal(), Signal()
        room = Signal(range(self._depth + 1), init=self._depth)
        taken = Signal()
        m.d.comb += [
            watchdog.timeout.eq(self.timeout),
            watchdog.begin.eq(issue.load),
            watchdog.beat.eq(self.axi.r.valid),
            watchdog.end.eq(self.axi.r.valid & self.axi.r.p.last),
            self.axi.r.ready.eq(1),
            beats.i.valid.eq(self.axi.r.valid & ~draining),
            beats.i.p.data.eq(self.axi.r.p.data),
            beats.i.p.bad.eq(self.axi.r.p.resp[ERROR_BIT]),
            taken.eq(beats.o.valid & beats.o.ready),
        ]
        issue.run(m, may_ask=(room > issue.less_one) & watchdog.room,
                  drop=draining | watchdog.expired)
        with m.If(drained):
            m.d.sync += room.eq(self._depth)
        with m.Else():
            # Inverted with a sign, what is one less becomes the negative of what is asked for.
            spent = (~Cat(issue.less_one, C(0, 1))).as_signed()
            m.d.sync += room.eq(room + Mux(issue.load, spent, 0) + taken)

        # ---- Commands are started, and fail at once while the memory owes what it does not give.
        idle = Signal()
        m.d.comb += [
            idle.eq(Mux(draining, watchdog.expired, ~issue.running & ~halted)),
            self.i.ready.eq(idle & work.i.ready),
            work.i.valid.eq(self.i.valid & idle),
            drained.eq(draining & watchdog.none & ~work.o.valid & ~issue.asked),
        ]
        with m.If(self.i.valid & self.i.ready & ~draining):
            issue.start(m, command, first[chunk_shift:], final[chunk_shift:])
        with m.If(issue.failed):
            m.d.sync += halted.eq(1)
        with m.If(drained):
            m.d.sync += draining.eq(0)
        with m.If(~draining & (watchdog.expired | (halted & watchdog.none))):
            m.d.sync += [draining.eq(1), halted.eq(0)]

        self._deliver(m, work.o, beats, draining)
        return m

    def _deliver(self, m: Module, work: Any, beats: BeatFifo, draining: Signal) -> None:
        """Cut what has come into words."""
        parts = self.chunk_bits // self._map.data_bits
        words = self.chunk_bits // self.word_bits
        word = Signal(range(self._map.capacity // self._lanes + 1))
        made_up, complete, sent = Signal(), Signal(), Signal()
        bad = Signal()
        m.d.comb += [
            made_up.eq(draining & beats.empty & work.valid),
            self.o.p.last.eq(word == work.p.words),
            self.o.p.failed.eq(bad | ~beats.o.valid | beats.o.p.bad),
            self.o.valid.eq(complete | made_up),
            sent.eq(self.o.valid & self.o.ready),
            work.ready.eq(sent & self.o.p.last),
        ]
        with m.If(sent):
            m.d.sync += word.eq(Mux(self.o.p.last, 0, word + 1))
        with m.If(beats.o.valid & beats.o.ready & beats.o.p.bad):
            m.d.sync += bad.eq(1)
        with m.If(sent & self.o.p.last):
            m.d.sync += bad.eq(0)

        if parts == 1:
            place = Signal(range(words))
            chunk = beats.o.p.data.word_select(place, self.word_bits)
            m.d.comb += [
                place.eq(work.p.start + word),
                complete.eq(beats.o.valid),
                beats.o.ready.eq(self.o.ready & (self.o.p.last | (place == words - 1))),
            ]
        else:
            part = Signal(range(parts))
            gathered = Signal(self.chunk_bits - self._map.data_bits, reset_less=True)
            whole = part == parts - 1
            chunk = Cat(gathered, beats.o.p.data)
            m.d.comb += [
                complete.eq(beats.o.valid & whole),
                beats.o.ready.eq(~whole | self.o.ready),
            ]
            with m.If(beats.o.valid & ~whole):
                m.d.sync += [part.eq(part + 1), gathered.eq(chunk[self._map.data_bits:])]
            with m.If(sent):
                m.d.sync += part.eq(0)
        for lane in range(self._lanes):
            m.d.comb += self.o.p.codes[lane].eq(chunk.word_select(lane, self.code_bits))
