"""Refine: a bank is read again, and fine digits of keys at the coarse threshold are counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amaranth import *
from amaranth.lib import data
from amaranth.utils import exact_log2

from nearbit_hw.pipeline import delay, delay_control
from nearbit_hw.select.counters.banks import Banks, Sizes
from nearbit_hw.select.counters.digit import choose, count_below
from nearbit_hw.stream_fifo import StreamFifo
from nearbit_hw.tree import any_tree
from nearbit_model.structure import BANKS, tree_latency


__all__ = ["Split", "count_fine", "read"]


@dataclass(frozen=True)
class Split:
    """A word read from a bank, with its query, its number and its keys.

    A key is `low` if it is below the coarse threshold or forced, or `at` it; only then does `fine`
    matter.
    """

    valid: Value
    last: Value
    first: Value
    word: Value
    query: Any
    low: Signal
    at: Signal
    fine: Any


def read(m: Module, s: Sizes, banks: Banks, queue: StreamFifo) -> Split:
    """Read the bank of the next query from its start, and split the codes into digits."""
    refined: Any = Signal(s.refinement, reset_less=True)
    refine_busy = Signal()
    refine_word = Signal(s.word_shape)
    refine_step = Signal()
    refine_end = Signal()
    refine_take = Signal()
    m.d.comb += [
        refine_step.eq(refine_busy),
        refine_end.eq(refine_word[exact_log2(s.ratio):]
                      == refined.last_word[exact_log2(s.ratio):]),
        refine_take.eq(queue.o.valid & (~refine_busy | refine_end)),
        queue.o.ready.eq(refine_take),
        banks.refine_read.addr.eq(Cat(refine_word, refined.bank)[exact_log2(s.ratio):]),
    ]
    with m.If(refine_take):
        m.d.sync += [refined.eq(queue.o.p), refine_busy.eq(1), refine_word.eq(0)]
    with m.Elif(refine_step):
        m.d.sync += refine_word.eq(refine_word + s.ratio)
        with m.If(refine_end):
            m.d.sync += refine_busy.eq(0)

    # One cycle for the memory, one to split the codes, then the trees.
    reading = 1 + s.registers
    read_valid = delay_control(m, refine_step, reading, "read_valid")
    read_query = delay(m, refined, reading, "read_query")
    read_word = delay(m, refine_word, reading, "read_word")
    read_first = delay(m, refine_word == 0, reading, "read_first")
    read_last = delay_control(m, refine_step & refine_end, reading, "read_last")
    read_items: Any = delay(m, banks.refine_read.data, s.registers, "read_items")

    low = Signal(s.refine_lanes, reset_less=True)  # below the coarse value, or forced
    at = Signal(s.refine_lanes, reset_less=True)   # has the coarse value
    fine = Signal(data.ArrayLayout(s.fine_bits, s.refine_lanes), reset_less=True)
    split_valid = delay_control(m, read_valid, 1, "split_valid")
    split_last = delay_control(m, read_last, 1, "split_last")
    split_first = delay(m, read_first, 1, "split_first")
    split_word = delay(m, read_word, 1, "split_word")
    split_query = Signal(s.refinement, reset_less=True)
    m.d.sync += split_query.eq(read_query)
    for part in range(s.ratio):
        # Beyond the last word, a bank holds keys of an older query.
        stale = (read_word | part) > read_query.last_word if part else Const(0)
        for lane in range(s.lanes):
            place = part * s.lanes + lane
            source = read_items[part][lane]
            coarse = source.code[s.fine_bits:]
            m.d.sync += [
                low[place].eq(((coarse < read_query.coarse) | source.forced) & ~stale),
                at[place].eq((coarse == read_query.coarse) & ~source.forced & ~stale),
                fine[place].eq(source.code[:s.fine_bits]),
            ]
    return Split(split_valid, split_last, split_first, split_word, split_query, low, at, fine)


def count_fine(m: Module, s: Sizes, banks: Banks, split: Split) -> StreamFifo:
    """Count the keys below each fine value; return a queue of queries to emit.

    Each word leaves a summary: for each fine value, whether the word has a key below it.
    """
    low, at, fine = split.low, split.at, split.fine
    levels = tree_latency(s.refine_lanes)
    sum_valid = delay_control(m, split.valid, levels, "sum_valid")
    sum_last = delay_control(m, split.last, levels, "sum_last")
    sum_first = delay(m, split.first, levels, "sum_first")
    sum_word = delay(m, split.word, levels, "sum_word")
    sum_query = delay(m, split.query, levels, "sum_query")
    fine_counts = []
    word_summaries = [Signal(s.summary, name=f"word_summary_{part}") for part in range(s.ratio)]

    def summarize(value: int, hits: list[Value]) -> None:
        for part in range(s.ratio):
            # The trees of a word and of all lanes must have the same depth.
            found = any_tree(m, hits[part * s.lanes:][:s.lanes], name=f"any_{value}_{part}")
            found = delay(m, found, levels - tree_latency(s.lanes), f"any_{value}_{part}_d")
            m.d.comb += word_summaries[part][value].eq(found)

    summarize(0, list(low))
    summarize(len(s.fine_values) + 1, [low[key] | at[key] for key in range(s.refine_lanes)])
    for value in s.fine_values:
        below = [at[key] & (fine[key] < value) for key in range(s.refine_lanes)]
        summarize(value, [low[key] | below[key] for key in range(s.refine_lanes)])
        fine_counts.append(count_below(
            m, s, below, "fine", value, valid=sum_valid, first=sum_first,
            begin=lambda total: total + sum_query.missing))

    _gather(m, s, banks, word_summaries, valid=sum_valid, word=sum_word, bank=sum_query.bank)
    m.submodules.emit_queue = emit_queue = StreamFifo(s.emission, depth=BANKS + 1)
    _hand_over(m, s, emit_queue, fine_counts, last=sum_last, query=sum_query)
    return emit_queue


def _gather(m: Module, s: Sizes, banks: Banks, word_summaries: Sequence[Any], *, valid: Value,
            word: Value, bank: Value) -> None:
    """Collect a group of summaries; words not yet collected count as having no hit."""
    slots = s.group // s.ratio
    slot = word[exact_log2(s.ratio):exact_log2(s.group)]
    gathered = Signal(data.ArrayLayout(s.summary, s.group), reset_less=True)
    gathering = Signal(data.ArrayLayout(s.summary, s.group))
    for index in range(slots):
        for part in range(s.ratio):
            target = index * s.ratio + part
            with m.If(slot == index):
                m.d.comb += gathering[target].eq(word_summaries[part])
            with m.Elif(slot > index):
                m.d.comb += gathering[target].eq(gathered[target])
    with m.If(valid):
        m.d.sync += gathered.eq(gathering)
    # Written with every word, and complete with the last word of the group.
    m.d.comb += [
        banks.summary_write.addr.eq(Cat(word[exact_log2(s.group):], bank)),
        banks.summary_write.data.eq(gathering),
        banks.summary_write.en.eq(valid),
    ]


def _hand_over(m: Module, s: Sizes, emit_queue: StreamFifo, counts: Sequence[Signal], *,
               last: Value, query: Any) -> None:
    """Compose the threshold from its digits, and hand the query over to be emitted."""
    done_query = delay(m, query, 1, "done_query")
    threshold_fine = Signal(s.fine_bits)
    threshold = Signal(s.code_bits)
    fine_missing = Signal(s.counter_shape)
    m.d.comb += [
        threshold.eq(Cat(threshold_fine, done_query.coarse)),
        fine_missing.eq(done_query.missing),
    ]
    choose(m, s.fine_values, counts, threshold_fine, fine_missing)
    # A threshold of all ones: fewer keys than wanted lie below it, and none at it.
    with m.If(threshold == s.outside):
        m.d.comb += fine_missing.eq(0)
    m.d.comb += [
        emit_queue.i.valid.eq(delay_control(m, last, 1, "done")),
        emit_queue.i.payload.eq(Cat(
            done_query.bank, done_query.last_word, threshold, fine_missing)),
    ]
