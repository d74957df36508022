"""Selection of the nearest keys by counting."""

from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from amaranth import *
from amaranth.lib import data, memory
from amaranth.utils import ceil_log2, exact_log2

from nearbit_hw.ram import block_ram
from nearbit_hw.select.selector import Selector
from nearbit_hw.stream_fifo import StreamFifo
from nearbit_hw.tree import any_tree, sum_tree, tree_latency


__all__ = ["TopN"]


BANKS = 3
"""Queries held: one is counted, one refined, one emitted."""

EMIT_LATENCY = 7
"""Cycles from the start of emitting a query to its first key, if that is in the first word."""

REGISTERED_LANES = 16
"""Lanes above which the memories are spread over a device. What is read of the banks is registered
then before it is compared, a key between the choice of it and the queue of keys, and a load."""

EMIT_WASTE = 3
"""Cycles spent on words that were fetched just before the quota ran out."""


# How it works
# ------------
# A distance has few values, so the threshold is found by counting instead of comparing keys. The
# code of a distance is cut in two digits, `coarse` above `fine`.
#
#   count   While the distances arrive, and are written to a bank, a counter for each coarse value
#           counts the keys below it. Each starts at -n, so its sign says "fewer than n". The
#           highest coarse value with fewer than n keys below it is the threshold's coarse digit;
#           that counter then holds minus the number of keys still wanted.
#   refine  The bank is read again, `pass_lanes` keys per cycle, and the keys with that coarse digit
#           are counted by their fine digit in the same way. This gives the exact threshold and the
#           quota: how many of the keys at the threshold are taken.
#   emit    The bank is read a third time, from its end, and the keys below the threshold and the
#           last `quota` keys at it leave, one per cycle.
#
# `emit` must not crawl through words that hold nothing. `refine` therefore leaves a *summary* of
# each word: for each fine value, whether the word has a key below it. `emit` reads the summaries of
# a whole *group* of words per cycle and fetches only the words with a hit.
#
# Keys that are selected whatever their distance (sinks, recent ones) are `forced`: not counted, and
# below any threshold. Lanes outside the range have a code of all ones, which is no distance, and is
# neither below nor at any threshold.
#
# How many cycles `emit` needs depends on where the keys lie, so the last key of a query waits until
# a timer says that the worst case is over. What follows acts on the last key only. And `emit` must
# not be stalled, for how far it is by then would depend on the keys as well: it writes to a queue,
# and starts when that has room for all that it could write.

@dataclass(frozen=True)
class _Last:
    """The highest bit that is set: whether there is one, and others, its number, and it alone."""

    any: Value
    others: Value
    number: Value
    flag: Value


def _last(m: Module, bits: Value, name: str) -> _Last:
    """Find the highest bit that is set, of a power of two; by trees, as a chain is too slow."""
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
    """Give the word whose flag is set."""
    masked = [word & flag.replicate(len(word)) for word, flag in zip(words, flags, strict=True)]
    return reduce(or_, masked)


class TopN(Selector):
    """The nearest keys of each query.

    Takes the distances of one query after another, :py:`lanes` per cycle without ever stalling,
    and emits the selection of the numeric contract: the first :py:`sink` and the last
    :py:`recent` keys of the range and, of the rest, the :py:`n` nearest, among equal distances
    those with the larger index; all keys if :py:`sink + recent + n >= count`. Keys leave by
    descending index, the last one with :py:`last` set.

    Counting, refining and emitting overlap: three queries are in work at the same time. For a
    query whose distances come in w words, s of them per :py:`pass_lanes`, and which selects m keys,
    each alone takes, if :py:`o` is not stalled,

    - count: w cycles, then :py:`count_latency`;
    - refine: ceil(w / s) cycles, then :py:`refine_latency`;
    - emit: :py:`emit_cycles(w, m)` until the last key is presented.

    A command is taken when one of the three banks is free and the command before it is no longer
    waiting to be counted. It must be accepted at least two cycles before its first distances.
    Emitting waits as well while more than :py:`queue_limit` keys are in the queue in front of
    :py:`o`. Cycles depend on w and m only; when keys but the last leave within the time of
    :py:`emit` depends on the distances. If :py:`gapless`, it does not: the first key waits until
    all can leave in m cycles without a gap, and that is when they leave.

    Reference: :func:`nearbit_model.golden.select_one`.

    Members are those of :class:`~nearbit_hw.select.Selector`.

    Parameters
    ----------
    key_bits : :class:`int`
        The largest distance. At least 1.
    lanes : :class:`int`
        Distances per word, a power of two.
    capacity : :class:`int`
        Keys of the longest range, a multiple of :py:`pass_lanes`.
    top_n : :class:`int`
        The most keys that a query selects, at most :py:`capacity`.
    pass_lanes : :class:`int`
        Distances refined per cycle: :py:`lanes` times a power of two.
    gapless : :class:`bool`
        Whether the keys of a query are presented one after another without a gap.
    """

    def __init__(self, *, key_bits: int, lanes: int, capacity: int, top_n: int,
                 pass_lanes: int | None = None, gapless: bool = False):
        super().__init__(key_bits=key_bits, lanes=lanes, capacity=capacity, top_n=top_n,
                         pass_lanes=pass_lanes)
        self._gapless = bool(gapless)

    @property
    def gapless(self) -> bool:
        return self._gapless

    @property
    def group(self) -> int:
        """Words whose summaries are examined per cycle."""
        return max(8, self._pass_lanes // self._lanes)

    @property
    def count_latency(self) -> int:
        """Cycles from a query's last word to the first read of refining it."""
        return 4 + tree_latency(self._lanes)

    @property
    def refine_latency(self) -> int:
        """Cycles from the last read of refining a query to the start of emitting it."""
        return 4 + tree_latency(self._pass_lanes) + self.registers

    @property
    def registers(self) -> int:
        """Registers behind each bank and in front of the queue of keys."""
        return int(self._lanes > REGISTERED_LANES)

    @property
    def _key_depth(self) -> int:
        """Places of the queue of keys.

        One stays free, so that a full queue differs from an empty one, and one is for the key that
        may be written in the cycle in which emitting the next query is decided on. Keys that are on
        the way out then must not hold it up, as that depends on when they were found.
        """
        return 1 << ceil_log2(self._top_n + 3 + self.registers)

    @property
    def queue_limit(self) -> int:
        """Keys that may wait to be taken when emitting a query starts; then its own have room."""
        return self._key_depth - self._top_n - 2

    def emit_cycles(self, *, words: int, selected: int) -> int:
        """Cycles from the start of emitting a query to its last key, if never stalled."""
        return (-(-words // self.group) + selected - 2 + EMIT_LATENCY + EMIT_WASTE
                + 4 * self.registers)

    def elaborate(self, platform) -> Module:
        m = Module()

        lanes, group, ratio = self._lanes, self.group, self._pass_lanes // self._lanes
        words = -(-self._capacity // lanes // group) * group
        lane_bits = len(Signal(range(lanes)))

        # The code of all ones must be no distance.
        code_bits = len(Signal(range(self._key_bits + 2)))
        fine_bits = max(1, code_bits // 2)
        coarse_bits = code_bits - fine_bits
        coarse_values = range(1, (self._key_bits >> fine_bits) + 1)
        fine_values = range(1, 1 << fine_bits)
        outside = (1 << code_bits) - 1

        item = data.StructLayout({"code": code_bits, "forced": 1})
        word_items = data.ArrayLayout(item, lanes)
        counter_shape = range(-self._top_n, max(self._lanes, self._pass_lanes) + 1)

        bank_shape = range(BANKS)
        word_shape = range(words)
        selected_shape = range(self._top_n + 1)

        # ---- Banks. `items_refine` is read `ratio` words at a time, `items_emit` word by word, and
        # `summaries` a group at a time; all three have a part for each bank.
        bank_words = 1 << len(Signal(word_shape))
        bank_groups = -(-bank_words // group)
        summary = data.ArrayLayout(1, len(fine_values) + 2)

        m.submodules.items_refine = items_refine = block_ram(
            shape=data.ArrayLayout(word_items, ratio), depth=BANKS * bank_words // ratio)
        m.submodules.items_emit = items_emit = block_ram(
            shape=word_items, depth=BANKS * bank_words)
        m.submodules.summaries = summaries = block_ram(
            shape=data.ArrayLayout(summary, group), depth=BANKS * bank_groups)
        refine_write = items_refine.write_port(granularity=1 if ratio > 1 else None)
        refine_read = items_refine.read_port()
        emit_write = items_emit.write_port()
        emit_read = items_emit.read_port()
        summary_write = summaries.write_port()
        summary_read = summaries.read_port()

        claim = Signal()   # a bank is taken by a command
        release = Signal() # the oldest bank is free again
        claimed = Signal(range(BANKS + 1))
        m.d.sync += claimed.eq(claimed + claim - release)

        # ---- What later stages need of a command, by bank.
        origin = data.StructLayout({
            "first_word": range(self._capacity // lanes),
            "selected": selected_shape,
        })
        origins: Any = memory.Memory(shape=origin, depth=BANKS, init=[])
        wanted: Any = memory.Memory(shape=selected_shape, depth=BANKS, init=[])
        m.submodules.origins, m.submodules.wanted = origins, wanted
        origin_write, wanted_write = origins.write_port(), wanted.write_port()
        origin_read = origins.read_port(domain="comb")
        wanted_read = wanted.read_port(domain="comb")

        # ---- Count: commands. One waits in `waiting` while the query before it is still counted in
        # `counted`, which changes in time for the first word.
        position = range(self._capacity + lanes)
        query = data.StructLayout({
            "skip": range(lanes),
            "end": position,          # positions are relative to the first word's lane 0
            "sink_end": position,
            "recent_start": position,
        })
        waiting: Any = Signal(query, reset_less=True)
        counted: Any = Signal(query, reset_less=True)
        waiting_valid, counted_valid = Signal(), Signal()
        command = self.i_command.p
        asked = command.n + command.sink + command.recent
        claim_bank = Signal(bank_shape)

        m.d.comb += [
            self.i_command.ready.eq(~waiting_valid & (claimed != BANKS)),
            claim.eq(self.i_command.valid & self.i_command.ready),
        ]
        with m.If(claim):
            m.d.sync += [
                waiting_valid.eq(1),
                waiting.skip.eq(command.skip),
                waiting.end.eq(command.skip + command.count),
                waiting.sink_end.eq(command.skip + command.sink),
                waiting.recent_start.eq(Mux(command.recent < command.count,
                                            command.skip + command.count - command.recent, 0)),
                claim_bank.eq(Mux(claim_bank == BANKS - 1, 0, claim_bank + 1)),
            ]
        m.d.comb += [
            origin_write.addr.eq(claim_bank),
            origin_write.data.first_word.eq(command.word),
            origin_write.data.selected.eq(Mux(asked < command.count, asked, command.count)),
            origin_write.en.eq(claim),
            wanted_write.addr.eq(claim_bank),
            wanted_write.data.eq(command.n),
            wanted_write.en.eq(claim),
        ]

        arrive = self.i.valid
        finish = Signal() # the last word of the counted query arrives
        m.d.comb += finish.eq(arrive & self.i.p.last)
        with m.If((finish | ~counted_valid) & waiting_valid):
            m.d.sync += [counted.eq(waiting), counted_valid.eq(1), waiting_valid.eq(0)]
        with m.Elif(finish):
            m.d.sync += counted_valid.eq(0)

        # ---- Count: mark each lane of the arriving word, and write it to the bank.
        count_bank = Signal(bank_shape)
        count_word = Signal(word_shape)
        with m.If(finish):
            m.d.sync += [count_word.eq(0),
                         count_bank.eq(Mux(count_bank == BANKS - 1, 0, count_bank + 1))]
        with m.Elif(arrive):
            m.d.sync += count_word.eq(count_word + 1)

        def before(end: Value, name: str) -> Value:
            """Which lanes of the arriving word lie before a position."""
            mask = Signal(lanes, name=f"before_{name}")
            end_word, end_lane = end[lane_bits:], end[:lane_bits]
            for lane in range(lanes):
                m.d.comb += mask[lane].eq(
                    (count_word < end_word) | ((count_word == end_word) & (lane < end_lane)))
            return mask

        before_end = before(counted.end, "end")
        before_sink_end = before(counted.sink_end, "sink_end")
        before_recent = before(counted.recent_start, "recent_start")
        before_begin = Signal(lanes)
        m.d.comb += before_begin.eq(Mux(
            count_word == 0, Cat(lane < counted.skip for lane in range(lanes)), 0))

        marked: Any = Signal(word_items, reset_less=True)
        marked_coarse = Signal(data.ArrayLayout(coarse_bits, lanes), reset_less=True)
        marked_valid = Signal()
        marked_last = Signal()
        marked_first = Signal(reset_less=True)
        marked_bank = Signal(bank_shape, reset_less=True)
        marked_word = Signal(word_shape, reset_less=True)
        m.d.sync += [
            marked_valid.eq(arrive),
            marked_last.eq(finish),
            marked_first.eq(count_word == 0),
            marked_bank.eq(count_bank),
            marked_word.eq(count_word),
        ]
        for lane in range(lanes):
            out = before_begin[lane] | ~before_end[lane]
            forced = ~out & (before_sink_end[lane] | ~before_recent[lane])
            code = Signal(code_bits, name=f"code_{lane}")
            m.d.comb += code.eq(self.i.p.distances[lane] | out.replicate(code_bits))
            m.d.sync += [
                marked[lane].code.eq(code),
                marked[lane].forced.eq(forced),
                marked_coarse[lane].eq(code[fine_bits:] | forced.replicate(coarse_bits)),
            ]

        m.d.comb += [
            emit_write.addr.eq(Cat(marked_word, marked_bank)),
            emit_write.data.eq(marked),
            emit_write.en.eq(marked_valid),
            refine_write.addr.eq(Cat(marked_word, marked_bank)[exact_log2(ratio):]),
            refine_write.en.eq(marked_valid << marked_word[:exact_log2(ratio)]),
        ]
        for part in range(ratio):
            m.d.comb += refine_write.data[part].eq(marked)

        # ---- Count: keys below each coarse value. What travels beside the trees of adders:
        def delay(value: Any, cycles: int, name: str) -> Any:
            for cycle in range(cycles):
                delayed = Signal.like(value, name=f"{name}_{cycle}", reset_less=True)
                m.d.sync += delayed.eq(value)
                value = delayed
            return value

        def delay_control(value: Value, cycles: int, name: str) -> Value:
            pipe = Signal(cycles, name=name)
            m.d.sync += pipe.eq(Cat(value, pipe))
            return pipe[-1]

        count_levels = tree_latency(lanes)
        add_valid = delay_control(marked_valid, count_levels, "add_valid")
        add_last = delay_control(marked_last, count_levels, "add_last")
        add_first = delay(marked_first, count_levels, "add_first")
        add_word = delay(marked_word, count_levels, "add_word")
        add_bank = delay(marked_bank, count_levels, "add_bank")

        m.d.comb += wanted_read.addr.eq(add_bank)
        coarse_counts = []
        for value in coarse_values:
            below = [marked_coarse[lane] < value for lane in range(lanes)]
            total = sum_tree(m, below, name=f"below_coarse_{value}")
            count = Signal(counter_shape, name=f"coarse_count_{value}", reset_less=True)
            with m.If(add_valid):
                with m.If(add_first):
                    m.d.sync += count.eq(total - wanted_read.data)
                with m.Elif(count < 0):
                    m.d.sync += count.eq(count + total)
            coarse_counts.append(count)

        # ---- Count -> refine.
        refinement = data.StructLayout({
            "bank": bank_shape,
            "last_word": word_shape,
            "coarse": coarse_bits,
            "missing": counter_shape,  # minus the number of keys wanted at the coarse value
        })
        m.submodules.refine_queue = refine_queue = StreamFifo(refinement, depth=BANKS + 1)
        threshold_coarse = Signal(coarse_bits)
        coarse_missing = Signal(counter_shape)
        m.d.comb += coarse_missing.eq(-delay(wanted_read.data, 1, "handed_n"))
        for value, count in zip(coarse_values, coarse_counts, strict=True):
            with m.If(count < 0):
                m.d.comb += [threshold_coarse.eq(value), coarse_missing.eq(count)]
        m.d.comb += [
            refine_queue.i.valid.eq(delay_control(add_last, 1, "handed")),
            refine_queue.i.payload.eq(Cat(
                delay(add_bank, 1, "handed_bank"), delay(add_word, 1, "handed_word"),
                threshold_coarse, coarse_missing)),
        ]

        # ---- Refine: read the bank from its start.
        refined: Any = Signal(refinement, reset_less=True)
        refine_busy = Signal()
        refine_word = Signal(word_shape)
        refine_step = Signal()
        refine_end = Signal()
        refine_take = Signal()
        m.d.comb += [
            refine_step.eq(refine_busy),
            refine_end.eq(refine_word[exact_log2(ratio):]
                          == refined.last_word[exact_log2(ratio):]),
            refine_take.eq(refine_queue.o.valid & (~refine_busy | refine_end)),
            refine_queue.o.ready.eq(refine_take),
            refine_read.addr.eq(Cat(refine_word, refined.bank)[exact_log2(ratio):]),
        ]
        with m.If(refine_take):
            m.d.sync += [refined.eq(refine_queue.o.p), refine_busy.eq(1), refine_word.eq(0)]
        with m.Elif(refine_step):
            m.d.sync += refine_word.eq(refine_word + ratio)
            with m.If(refine_end):
                m.d.sync += refine_busy.eq(0)

        # One cycle for the memory, one to split the codes, then the trees.
        reading = 1 + self.registers
        read_valid = delay_control(refine_step, reading, "read_valid")
        read_query = delay(refined, reading, "read_query")
        read_word = delay(refine_word, reading, "read_word")
        read_first = delay(refine_word == 0, reading, "read_first")
        read_last = delay_control(refine_step & refine_end, reading, "read_last")
        read_items: Any = delay(refine_read.data, self.registers, "read_items")

        low = Signal(self._pass_lanes, reset_less=True)  # below the coarse value, or forced
        at = Signal(self._pass_lanes, reset_less=True)   # has the coarse value
        fine = Signal(data.ArrayLayout(fine_bits, self._pass_lanes), reset_less=True)
        split_valid = delay_control(read_valid, 1, "split_valid")
        split_last = delay_control(read_last, 1, "split_last")
        split_first = delay(read_first, 1, "split_first")
        split_word = delay(read_word, 1, "split_word")
        split_query = Signal(refinement, reset_less=True)
        m.d.sync += split_query.eq(read_query)
        for part in range(ratio):
            # What a bank holds beyond the last word is of an older query.
            stale = (read_word | part) > read_query.last_word if part else Const(0)
            for lane in range(lanes):
                place = part * lanes + lane
                source = read_items[part][lane]
                coarse = source.code[fine_bits:]
                m.d.sync += [
                    low[place].eq(((coarse < read_query.coarse) | source.forced) & ~stale),
                    at[place].eq((coarse == read_query.coarse) & ~source.forced & ~stale),
                    fine[place].eq(source.code[:fine_bits]),
                ]

        refine_levels = tree_latency(self._pass_lanes)
        sum_valid = delay_control(split_valid, refine_levels, "sum_valid")
        sum_last = delay_control(split_last, refine_levels, "sum_last")
        sum_first = delay(split_first, refine_levels, "sum_first")
        sum_word = delay(split_word, refine_levels, "sum_word")
        sum_query = delay(split_query, refine_levels, "sum_query")
        fine_counts = []
        word_summaries = [Signal(summary, name=f"word_summary_{part}") for part in range(ratio)]

        def summarize(value: int, hits: list[Value]) -> None:
            for part in range(ratio):
                # The trees of a word and of all lanes must have the same depth.
                found = any_tree(m, hits[part * lanes:][:lanes], name=f"any_{value}_{part}")
                found = delay(found, refine_levels - tree_latency(lanes), f"any_{value}_{part}_d")
                m.d.comb += word_summaries[part][value].eq(found)

        summarize(0, list(low))
        summarize(len(fine_values) + 1, [low[key] | at[key] for key in range(self._pass_lanes)])
        for value in fine_values:
            below = [at[key] & (fine[key] < value) for key in range(self._pass_lanes)]
            summarize(value, [low[key] | below[key] for key in range(self._pass_lanes)])
            total = sum_tree(m, below, name=f"below_fine_{value}")
            count = Signal(counter_shape, name=f"fine_count_{value}", reset_less=True)
            with m.If(sum_valid):
                with m.If(sum_first):
                    m.d.sync += count.eq(total + sum_query.missing)
                with m.Elif(count < 0):
                    m.d.sync += count.eq(count + total)
            fine_counts.append(count)

        # ---- Refine: gather a group of summaries; what is not gathered counts as without a hit.
        slots = group // ratio
        slot = sum_word[exact_log2(ratio):exact_log2(group)]
        gathered = Signal(data.ArrayLayout(summary, group), reset_less=True)
        gathering = Signal(data.ArrayLayout(summary, group))
        for index in range(slots):
            for part in range(ratio):
                target = index * ratio + part
                with m.If(slot == index):
                    m.d.comb += gathering[target].eq(word_summaries[part])
                with m.Elif(slot > index):
                    m.d.comb += gathering[target].eq(gathered[target])
        with m.If(sum_valid):
            m.d.sync += gathered.eq(gathering)
        # Written with every word, complete with the last of the group.
        m.d.comb += [
            summary_write.addr.eq(Cat(sum_word[exact_log2(group):],
                                      sum_query.bank)),
            summary_write.data.eq(gathering),
            summary_write.en.eq(sum_valid),
        ]

        # ---- Refine -> emit.
        emission = data.StructLayout({
            "bank": bank_shape,
            "last_word": word_shape,
            "threshold": code_bits,
            "missing": counter_shape,
        })
        m.submodules.emit_queue = emit_queue = StreamFifo(emission, depth=BANKS + 1)
        done_query = delay(sum_query, 1, "done_query")
        threshold_fine = Signal(fine_bits)
        threshold = Signal(code_bits)
        fine_missing = Signal(counter_shape)
        m.d.comb += [
            threshold.eq(Cat(threshold_fine, done_query.coarse)),
            fine_missing.eq(done_query.missing),
        ]
        for value, count in zip(fine_values, fine_counts, strict=True):
            with m.If(count < 0):
                m.d.comb += [threshold_fine.eq(value), fine_missing.eq(count)]
        # Fewer keys than asked for lie below a threshold of all ones; there are none at it.
        with m.If(threshold == outside):
            m.d.comb += fine_missing.eq(0)
        m.d.comb += [
            emit_queue.i.valid.eq(delay_control(sum_last, 1, "done")),
            emit_queue.i.payload.eq(Cat(
                done_query.bank, done_query.last_word, threshold, fine_missing)),
        ]

        # ---- Emit: control.
        next_emission = emit_queue.o.p
        next_group = next_emission.last_word[exact_log2(group):]
        emitted: Any = Signal(emission, reset_less=True)
        emit_busy = Signal()
        emit_take = Signal()
        emit_end = Signal()
        late = 3 * self.registers # one more, and two more words fetched in vain
        timer = Signal(range(self.emit_cycles(words=bank_words, selected=self._top_n)
                             - self.registers))
        remaining = Signal(selected_shape, reset_less=True)
        quota = Signal(selected_shape, reset_less=True)
        produce, consume = Signal(range(self._key_depth)), Signal(range(self._key_depth))
        # Room for all keys of one more query.
        room = Signal(init=1) if self.registers else \
            (produce - consume)[:len(produce)] <= self.queue_limit
        emitted_first = Signal(range(self._capacity // lanes), reset_less=True)
        m.d.comb += [
            origin_read.addr.eq(next_emission.bank),
            emit_take.eq(emit_queue.o.valid & (~emit_busy | emit_end) & room),
            emit_queue.o.ready.eq(emit_take),
            release.eq(emit_end),
        ]
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        quota_left = Signal(reset_less=True) # quota != 0

        # ---- Emit: summaries, a group per cycle from the last one.
        scan = Signal(range(bank_groups), reset_less=True)
        scan_valid = Signal()
        scan_move = Signal()
        row_valid = Signal()
        row_group = Signal.like(scan, reset_less=True)
        row_move = Signal()
        m.d.comb += [
            scan_move.eq(~row_valid | row_move),
            summary_read.addr.eq(Cat(scan, emitted.bank)),
            summary_read.en.eq(scan_move),
        ]
        with m.If(scan_move):
            m.d.sync += [row_valid.eq(scan_valid), row_group.eq(scan), scan.eq(scan - 1)]
            with m.If(scan == 0):
                m.d.sync += scan_valid.eq(0)

        # Words of the group with a key below the threshold (`sure`), or at it (`maybe`).
        sure, maybe = Signal(group, reset_less=True), Signal(group, reset_less=True)
        hits_group = Signal.like(scan, reset_less=True)
        hits_valid = Signal()
        hits = Signal(group)
        fetch_move = Signal()
        m.d.comb += hits.eq(sure | (maybe & quota_left.replicate(group)))
        last_hit = _last(m, hits, "hit")
        hit = last_hit.number
        m.d.comb += row_move.eq(~hits_valid | ~last_hit.any | (~last_hit.others & fetch_move))
        threshold_low = emitted.threshold[:fine_bits]
        with m.If(row_move):
            m.d.sync += [hits_valid.eq(row_valid), hits_group.eq(row_group)]
            for index in range(group):
                bits = summary_read.data[index].as_value()
                m.d.sync += [sure[index].eq(bits.bit_select(threshold_low, 1)),
                             maybe[index].eq(bits[1:].bit_select(threshold_low, 1))]
        with m.Elif(fetch_move):
            m.d.sync += [sure.eq(sure & ~last_hit.flag), maybe.eq(maybe & ~last_hit.flag)]

        # ---- Emit: fetch a word with a hit.
        fetched_valid = Signal()
        fetched_word = Signal(word_shape, reset_less=True)
        word_move = Signal()
        fetched_move = Signal() if self.registers else word_move
        m.d.comb += [
            fetch_move.eq(~fetched_valid | fetched_move),
            emit_read.addr.eq(Cat(hit, hits_group, emitted.bank)),
            emit_read.en.eq(fetch_move),
        ]
        with m.If(fetch_move):
            m.d.sync += [fetched_valid.eq(hits_valid & last_hit.any),
                         fetched_word.eq(Cat(hit, hits_group))]

        found: tuple[Any, ...] = (fetched_valid, fetched_word, emit_read.data)
        held_valid, spare_valid = Signal(), Signal()
        if self.registers:
            # Whether the words behind move is a register: a second word may wait.
            held_word, spare_word = (Signal.like(fetched_word, reset_less=True) for _ in range(2))
            held_items, spare_items = (Signal(word_items, reset_less=True) for _ in range(2))
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
            found = held_valid, held_word, held_items
        found_valid, found_word, found_items = found

        word_valid = Signal()
        word = Signal(word_shape, reset_less=True)
        codes: Any = Signal(data.ArrayLayout(code_bits, lanes), reset_less=True)
        nearer, level = Signal(lanes, reset_less=True), Signal(lanes, reset_less=True)
        keys = Signal(lanes)
        may_emit, emit_move = Signal(), Signal()
        m.d.comb += keys.eq(nearer | (level & quota_left.replicate(lanes)))
        key = _last(m, keys, "key")
        m.d.comb += word_move.eq(~word_valid | ~key.any | (~key.others & may_emit))
        with m.If(word_move):
            m.d.sync += [word_valid.eq(found_valid), word.eq(found_word)]
            for lane in range(lanes):
                source = found_items[lane]
                m.d.sync += [
                    codes[lane].eq(source.code),
                    nearer[lane].eq((source.code < emitted.threshold) | source.forced),
                    level[lane].eq((source.code == emitted.threshold) & ~source.forced),
                ]
        with m.Elif(emit_move):
            m.d.sync += [nearer.eq(nearer & ~key.flag), level.eq(level & ~key.flag)]

        # ---- Emit: one key per cycle into the queue; the last one waits for the timer.
        m.submodules.keys = key_queue = block_ram(
            shape=self.o.payload.shape(), depth=self._key_depth)
        key_write, key_read = key_queue.write_port(), key_queue.read_port()
        final = Signal()
        m.d.comb += [
            final.eq(remaining == 1),
            may_emit.eq(~final | (timer == 0)),
            emit_move.eq(word_valid & key.any & may_emit),
            emit_end.eq(emit_move & final),
        ]
        write = m.d.sync if self.registers else m.d.comb
        write += [
            key_write.addr.eq(produce),
            key_write.data.index.eq(Cat(key.number, (word + emitted_first)[:len(word)])),
            key_write.data.distance.eq(_chosen(list(codes), key.flag)),
            key_write.data.last.eq(final),
            key_write.en.eq(emit_move),
        ]
        with m.If(emit_move):
            m.d.sync += [produce.eq(produce + 1), remaining.eq(remaining - 1)]
            with m.If((level & key.flag).any()):
                m.d.sync += [quota.eq(quota - 1), quota_left.eq(quota != 1)]

        # Keys before `limit` may leave. In the worst case the last m keys are found in the last m
        # cycles of the timer; from then on nothing can be late.
        limit, limit_written = Signal.like(produce), Signal.like(produce)
        write += limit_written.eq(limit)
        if self._gapless:
            own_keys = Signal.like(produce, reset_less=True) # where those of the query begin
            may_leave = Signal(init=1)
            wait = Signal(range(bank_groups + EMIT_LATENCY + late), reset_less=True)
            m.d.comb += limit.eq(Mux(may_leave, produce, own_keys))
            with m.If(wait == 0):
                m.d.sync += may_leave.eq(1)
            with m.Else():
                m.d.sync += wait.eq(wait - 1)
            with m.If(emit_take):
                m.d.sync += [may_leave.eq(0), own_keys.eq(produce + emit_move),
                             wait.eq(next_group + (EMIT_LATENCY + EMIT_WASTE - 3 + late))]
        else:
            m.d.comb += limit.eq(produce)

        advance, leave = Signal(), Signal()
        m.d.comb += [
            leave.eq(limit_written != consume),
            advance.eq(~self.o.valid | self.o.ready),
            key_read.addr.eq(consume),
            key_read.en.eq(advance),
            self.o.payload.eq(key_read.data),
        ]
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(leave), consume.eq(consume + leave)]
        if self.registers:
            # Known a cycle ahead but for whether a key comes and whether one leaves.
            waiting = Signal.like(produce)
            left = Signal()
            m.d.comb += left.eq(advance & leave)
            with m.If(emit_move & ~left):
                m.d.sync += [waiting.eq(waiting + 1), room.eq(waiting < self.queue_limit)]
            with m.Elif(left & ~emit_move):
                m.d.sync += [waiting.eq(waiting - 1), room.eq(waiting <= self.queue_limit + 1)]

        # What was fetched ahead of the last key is of no use to the next query.
        with m.If(emit_end | ~emit_busy):
            m.d.sync += [scan_valid.eq(0), row_valid.eq(0), hits_valid.eq(0),
                         fetched_valid.eq(0), word_valid.eq(0)]
            if self.registers:
                m.d.sync += [held_valid.eq(0), spare_valid.eq(0)]
        with m.If(emit_end):
            m.d.sync += emit_busy.eq(0)
        with m.If(emit_take):
            m.d.sync += [
                emitted.eq(next_emission),
                emit_busy.eq(1),
                remaining.eq(origin_read.data.selected),
                emitted_first.eq(origin_read.data.first_word),
                quota.eq(-next_emission.missing),
                quota_left.eq(next_emission.missing != 0),
                # The timer is seen one cycle later, and the key presented two after its end.
                timer.eq(next_group + origin_read.data.selected
                         + (EMIT_LATENCY + EMIT_WASTE - 4 + late)),
                scan.eq(next_group),
                scan_valid.eq(1),
            ]

        return m
