"""Emit: a bank is read from its end, and the selected keys leave, one per cycle."""

from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from amaranth import *
from amaranth.lib import data, memory, stream
from amaranth.utils import exact_log2

from nearbit_hw.ram import block_ram
from nearbit_hw.select.counters.banks import Banks, Sizes
from nearbit_hw.stream_fifo import StreamFifo
from nearbit_model.structure import EMIT_LATENCY, EMIT_WASTE


__all__ = ["Emit"]


@dataclass(frozen=True)
class _Last:
    """The highest set bit: whether any bit is set, whether others are, its number, and its mask."""

    any: Value
    others: Value
    number: Value
    flag: Value


def _last(m: Module, bits: Value, name: str) -> _Last:
    """Find the highest set bit of a power of two of bits, by trees, as a chain is too slow."""
    some: Value = bits
    others: Value = Const(0, len(bits))
    numbers: list[Value] = []
    halves: list[Value] = []
    while len(some) > 1:
        low, high = some[0::2], some[1::2]
        level = len(halves)
        either = Signal(len(low), name=f"{name}_some_{level}")
        both = Signal(len(low), name=f"{name}_others_{level}")
        m.d.comb += [either.eq(low | high),
                     both.eq(others[0::2] | others[1::2] | (low & high))]
        numbers = list(high) if not numbers else [
            Cat(Mux(upper, numbers[2 * node + 1], numbers[2 * node]), upper)
            for node, upper in enumerate(high)]
        halves.append(high)
        some, others = either, both
    masked: Value = Const(0, 1) # a higher bit is set
    for level, high in reversed(list(enumerate(halves))):
        mask = Signal(2 * len(high), name=f"{name}_masked_{level}")
        m.d.comb += mask.eq(Cat(*(Cat(masked[node] | high[node], masked[node])
                                  for node in range(len(high)))))
        masked = mask
    return _Last(some, others, numbers[0] if numbers else Const(0, 0), bits & ~masked)


def _chosen(words: list[Value], flags: Value) -> Value:
    """Return the word whose flag is set."""
    masked = [word & flag.replicate(len(word)) for word, flag in zip(words, flags, strict=True)]
    return reduce(or_, masked)


class Emit:
    """Emission of a query's selected keys.

    A query passes through a pipeline: the summaries of a group of words are read (`scan`, `row`),
    the words of the group with a hit are fetched one by one (`hits`, `fetched`; with registers,
    also `held`), and the keys of a word leave one by one (`word`).

    Attributes
    ----------
    query
        State of the query being emitted.
    first_word
        Number of the first word of its bank.
    busy, take, end
        A query is being emitted; the next one starts; its last key is written to the key queue.
    timer
        Minimum number of cycles until the last key may leave.
    remaining, quota
        Keys that have yet to leave: in all, and at the threshold.
    produce, consume
        Places of the key queue that are written and read next.
    """

    def __init__(self, s: Sizes, banks: Banks, queue: StreamFifo):
        self._s = s
        self._banks = banks
        self._queue = queue
        self._next = queue.o.p
        self._next_group = self._next.last_word[exact_log2(s.group):]
        self.query: Any = Signal(s.emission, name="emitted", reset_less=True)
        self.busy = Signal(name="emit_busy")
        self.take = Signal(name="emit_take")
        self.end = Signal(name="emit_end")
        self._late = 3 * s.registers # one register more, and two more words fetched in vain
        self.timer = Signal(range(
            s.times.emit_cycles(words=s.bank_words, selected=s.top_n) - s.registers))
        self.remaining = Signal(s.selected_shape, reset_less=True)
        self.quota = Signal(s.selected_shape, reset_less=True)
        depth = s.times.key_depth
        produce, consume = Signal(range(depth)), Signal(range(depth))
        self.produce, self.consume = produce, consume
        # The key queue has room for all keys of one more query.
        self._room: Value = Signal(init=1) if s.registers else \
            (produce - consume)[:len(produce)] <= s.times.queue_limit
        self.first_word = Signal(s.first_shape, name="emitted_first", reset_less=True)
        self._quota_left = Signal(name="quota_left", reset_less=True) # quota != 0

        self._scan = Signal(range(s.bank_groups), name="scan", reset_less=True)
        self._scan_valid = Signal(name="scan_valid")
        self._row_valid = Signal(name="row_valid")
        self._hits_valid = Signal(name="hits_valid")
        self._hits_group = Signal.like(self._scan, name="hits_group", reset_less=True)
        self._fetch_move = Signal(name="fetch_move")
        self._fetched_valid = Signal(name="fetched_valid")
        held_valid, spare_valid = Signal(), Signal()
        self._held_valid, self._spare_valid = held_valid, spare_valid
        self._word_move = Signal(name="word_move")
        self._word_valid = Signal(name="word_valid")

    def control(self, m: Module) -> None:
        """Start the next query if the key queue has room for all its keys."""
        m.d.comb += [
            self._banks.origin_read.addr.eq(self._next.bank),
            self.take.eq(self._queue.o.valid & (~self.busy | self.end) & self._room),
            self._queue.o.ready.eq(self.take),
            self._banks.release.eq(self.end),
        ]
        with m.If(self.timer != 0):
            m.d.sync += self.timer.eq(self.timer - 1)

    def find_words(self, m: Module) -> Any:
        """Read summaries from the last group on, one per cycle; return the group's last hit."""
        s, scan = self._s, self._scan
        summary_read = self._banks.summary_read
        scan_move = Signal()
        row_group = Signal.like(scan, reset_less=True)
        row_move = Signal()
        m.d.comb += [
            scan_move.eq(~self._row_valid | row_move),
            summary_read.addr.eq(Cat(scan, self.query.bank)),
            summary_read.en.eq(scan_move),
        ]
        with m.If(scan_move):
            m.d.sync += [self._row_valid.eq(self._scan_valid), row_group.eq(scan),
                         scan.eq(scan - 1)]
            with m.If(scan == 0):
                m.d.sync += self._scan_valid.eq(0)

        # Words of the group with a key below the threshold (`sure`) or at it (`maybe`), and words
        # already fetched, in separate registers: the memory's data pass as few gates as possible.
        sure, maybe = Signal(s.group, reset_less=True), Signal(s.group, reset_less=True)
        done = Signal(s.group, name="hits_done", reset_less=True)
        hits = Signal(s.group)
        m.d.comb += hits.eq((sure | (maybe & self._quota_left.replicate(s.group))) & ~done)
        last_hit = _last(m, hits, "hit")
        m.d.comb += row_move.eq(
            ~self._hits_valid | ~last_hit.any | (~last_hit.others & self._fetch_move))
        # The memory's data arrive late in the cycle, so the fine digit is decoded beforehand, to
        # one-hot `at_digit`. The first summary arrives in the cycle after.
        at_digit = Signal(1 << s.fine_bits, reset_less=True)
        m.d.sync += at_digit.eq(1 << self.query.threshold[:s.fine_bits])
        with m.If(row_move):
            m.d.sync += [self._hits_valid.eq(self._row_valid), self._hits_group.eq(row_group),
                         done.eq(0)]
            for index in range(s.group):
                bits = summary_read.data[index].as_value()
                m.d.sync += [sure[index].eq((bits[:-1] & at_digit).any()),
                             maybe[index].eq((bits[1:] & at_digit).any())]
        with m.Elif(self._fetch_move):
            m.d.sync += done.eq(done | last_hit.flag)
        return last_hit

    def fetch_word(self, m: Module, last_hit: Any) -> tuple[Any, ...]:
        """Fetch a word with a hit; return whether there is one, its number and its keys."""
        s, emit_read = self._s, self._banks.emit_read
        hit, word_move = last_hit.number, self._word_move
        fetched_valid, held_valid, spare_valid = (
            self._fetched_valid, self._held_valid, self._spare_valid)
        fetched_word = Signal(s.word_shape, reset_less=True)
        fetched_move = Signal() if s.registers else word_move
        m.d.comb += [
            self._fetch_move.eq(~fetched_valid | fetched_move),
            emit_read.addr.eq(Cat(hit, self._hits_group, self.query.bank)),
            emit_read.en.eq(self._fetch_move),
        ]
        with m.If(self._fetch_move):
            m.d.sync += [fetched_valid.eq(self._hits_valid & last_hit.any),
                         fetched_word.eq(Cat(hit, self._hits_group))]
        if not s.registers:
            return fetched_valid, fetched_word, emit_read.data
        # The move signal to the read stages comes from a register, so a second word may wait.
        held_word, spare_word = (Signal.like(fetched_word, reset_less=True) for _ in range(2))
        held_items, spare_items = (Signal(s.word_items, reset_less=True) for _ in range(2))
        held_move = Signal()
        m.d.comb += [fetched_move.eq(~spare_valid), held_move.eq(~held_valid | word_move)]
        m.d.sync += spare_valid.eq(~held_move & (spare_valid | fetched_valid))
        with m.If(fetched_move):
            m.d.sync += [spare_word.eq(fetched_word), spare_items.eq(emit_read.data)]
        with m.If(held_move):
            m.d.sync += [
                held_valid.eq(spare_valid | fetched_valid),
                held_word.eq(Mux(spare_valid, spare_word, fetched_word)),
                held_items.eq(Mux(spare_valid, spare_items, emit_read.data)),
            ]
        return held_valid, held_word, held_items

    def find_keys(self, m: Module, found: tuple[Any, ...], o: stream.Interface) -> None:
        """Write the selected keys of the words found to the key queue, the highest first.

        The last key of the query waits for the timer.
        """
        s, produce = self._s, self.produce
        found_valid, found_word, found_items = found
        word_valid, threshold = self._word_valid, self.query.threshold
        word = Signal(s.word_shape, reset_less=True)
        codes: Any = Signal(data.ArrayLayout(s.code_bits, s.lanes), reset_less=True)
        farther, level = Signal(s.lanes, reset_less=True), Signal(s.lanes, reset_less=True)
        done = Signal(s.lanes, name="keys_done", reset_less=True)
        keys = Signal(s.lanes)
        may_emit, emit_move = Signal(), Signal()
        m.d.comb += keys.eq((~farther | (level & self._quota_left.replicate(s.lanes))) & ~done)
        key = _last(m, keys, "key")
        m.d.comb += self._word_move.eq(~word_valid | ~key.any | (~key.others & may_emit))
        # Kept: otherwise synthesis turns these signals into a chain of gates.
        pairs = [Signal(-(-(s.code_bits + 1) // 2), name=f"pairs_{lane}", attrs={"keep": 1})
                 for lane in range(s.lanes)]
        with m.If(self._word_move):
            m.d.sync += [word_valid.eq(found_valid), word.eq(found_word), done.eq(0)]
            for lane in range(s.lanes):
                source = found_items[lane]
                # The memory's data arrive late in the cycle, so no gate follows the carry chain of
                # one comparison, and the other, by pairs of bits, does not wait for it.
                m.d.comb += pairs[lane].eq(Cat(
                    Cat(source.code, ~source.forced)[bit:bit + 2] == Cat(threshold, 1)[bit:bit + 2]
                    for bit in range(0, s.code_bits + 1, 2)))
                m.d.sync += [
                    codes[lane].eq(source.code),
                    farther[lane].eq(Cat(source.code, C(0, 1)) >= Cat(threshold, source.forced)),
                    level[lane].eq(pairs[lane].all()),
                ]
        with m.Elif(emit_move):
            m.d.sync += done.eq(done | key.flag)

        m.submodules.keys = key_queue = block_ram(
            shape=data.StructLayout({name: o.payload.shape()[name].shape
                                     for name in ("index", "distance")}),
            depth=s.times.key_depth)
        key_write, key_read = key_queue.write_port(), key_queue.read_port()
        # Whether a key is the last one steers the units that follow, so it is not in block RAM,
        # whose data arrive late in the cycle.
        lasts: Any = memory.Memory(shape=1, depth=s.times.key_depth, init=[])
        m.submodules.lasts = lasts
        last_write, last_read = lasts.write_port(), lasts.read_port(domain="comb")
        final = Signal()
        m.d.comb += [
            final.eq(self.remaining == 1),
            may_emit.eq(~final | (self.timer == 0)),
            emit_move.eq(word_valid & key.any & may_emit),
            self.end.eq(emit_move & final),
        ]
        write = m.d.sync if s.registers else m.d.comb
        write += [
            key_write.addr.eq(produce),
            key_write.data.index.eq(Cat(key.number, (word + self.first_word)[:len(word)])),
            key_write.data.distance.eq(_chosen(list(codes), key.flag)),
            last_write.data.eq(final),
            key_write.en.eq(emit_move),
        ]
        m.d.comb += [last_write.addr.eq(key_write.addr), last_write.en.eq(key_write.en)]
        with m.If(emit_move):
            m.d.sync += [produce.eq(produce + 1), self.remaining.eq(self.remaining - 1)]
            with m.If((level & key.flag).any()):
                m.d.sync += [self.quota.eq(self.quota - 1),
                             self._quota_left.eq(self.quota != 1)]
        self._let_leave(m, key_read, last_read, emit_move, o)

    def _let_leave(self, m: Module, key_read: Any, last_read: Any, emit_move: Signal,
                   o: stream.Interface) -> None:
        """Let the keys in the queue before `limit` leave.

        In the worst case, the last m keys are found in the last m cycles of the timer; once these
        begin, no key can be late.
        """
        s, produce, consume = self._s, self.produce, self.consume
        limit, limit_written = Signal.like(produce), Signal.like(produce)
        write = m.d.sync if s.registers else m.d.comb
        write += limit_written.eq(limit)
        if s.gapless:
            own_keys = Signal.like(produce, reset_less=True) # the place of the query's first key
            may_leave = Signal(init=1)
            wait = Signal(range(s.bank_groups + EMIT_LATENCY + self._late), reset_less=True)
            m.d.comb += limit.eq(Mux(may_leave, produce, own_keys))
            with m.If(wait == 0):
                m.d.sync += may_leave.eq(1)
            with m.Else():
                m.d.sync += wait.eq(wait - 1)
            with m.If(self.take):
                m.d.sync += [
                    may_leave.eq(0), own_keys.eq(produce + emit_move),
                    wait.eq(self._next_group + (EMIT_LATENCY + EMIT_WASTE - 3 + self._late))]
        else:
            m.d.comb += limit.eq(produce)

        advance, leave = Signal(), Signal()
        last = Signal(reset_less=True)
        m.d.comb += [
            leave.eq(limit_written != consume),
            advance.eq(~o.valid | o.ready),
            key_read.addr.eq(consume),
            key_read.en.eq(advance),
            last_read.addr.eq(consume),
            o.p.index.eq(key_read.data.index),
            o.p.distance.eq(key_read.data.distance),
            o.p.last.eq(last),
        ]
        with m.If(advance):
            m.d.sync += [o.valid.eq(leave), consume.eq(consume + leave), last.eq(last_read.data)]
        if s.registers:
            # Computed a cycle ahead, apart from whether a key arrives and whether one leaves.
            room: Any = self._room
            queue_limit = s.times.queue_limit
            waiting = Signal.like(produce)
            left = Signal()
            m.d.comb += left.eq(advance & leave)
            with m.If(emit_move & ~left):
                m.d.sync += [waiting.eq(waiting + 1), room.eq(waiting < queue_limit)]
            with m.Elif(left & ~emit_move):
                m.d.sync += [waiting.eq(waiting - 1), room.eq(waiting <= queue_limit + 1)]

    def start(self, m: Module) -> None:
        """Start the next query, and discard what was fetched beyond the last key."""
        origin = self._banks.origin_read.data
        with m.If(self.end | ~self.busy):
            m.d.sync += [self._scan_valid.eq(0), self._row_valid.eq(0), self._hits_valid.eq(0),
                         self._fetched_valid.eq(0), self._word_valid.eq(0)]
            if self._s.registers:
                m.d.sync += [self._held_valid.eq(0), self._spare_valid.eq(0)]
        with m.If(self.end):
            m.d.sync += self.busy.eq(0)
        with m.If(self.take):
            m.d.sync += [
                self.query.eq(self._next),
                self.busy.eq(1),
                self.remaining.eq(origin.selected),
                self.first_word.eq(origin.first_word),
                self.quota.eq(-self._next.missing),
                self._quota_left.eq(self._next.missing != 0),
                # The timer is seen one cycle later, and the key presented two after its end.
                self.timer.eq(self._next_group + origin.selected
                              + (EMIT_LATENCY + EMIT_WASTE - 4 + self._late)),
                self._scan.eq(self._next_group),
                self._scan_valid.eq(1),
            ]
