"""Count: arriving words are marked and stored, and their coarse digits counted."""

from dataclasses import dataclass
from typing import Any

from amaranth import *
from amaranth.lib import data, stream
from amaranth.utils import exact_log2

from nearbit_hw.pipeline import delay, delay_control
from nearbit_hw.select.counters.banks import Banks, Sizes
from nearbit_hw.select.counters.digit import choose, count_below
from nearbit_hw.stream_fifo import StreamFifo
from nearbit_model.structure import BANKS, tree_latency


__all__ = ["Marked", "count_coarse", "mark", "take"]


def take(m: Module, s: Sizes, banks: Banks, i_command: stream.Interface, i: stream.Interface
         ) -> tuple[Any, Signal]:
    """Accept commands; return the query being counted, and whether its last word arrives.

    A query waits in `waiting` while the one before it is still being counted in `counted`, and
    moves there in time for its first word.
    """
    position = range(s.capacity + s.lanes)
    query = data.StructLayout({
        "skip": range(s.lanes),
        "end": position,          # positions are relative to the first word's lane 0
        "sink_end": position,
        "recent_start": position,
    })
    waiting: Any = Signal(query, reset_less=True)
    counted: Any = Signal(query, reset_less=True)
    waiting_valid, counted_valid = Signal(), Signal()
    command = i_command.p
    asked = command.n + command.sink + command.recent
    claim_bank = Signal(s.bank_shape)

    m.d.comb += [
        i_command.ready.eq(~waiting_valid & (banks.claimed != BANKS)),
        banks.claim.eq(i_command.valid & i_command.ready),
    ]
    with m.If(banks.claim):
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
        banks.origin_write.addr.eq(claim_bank),
        banks.origin_write.data.first_word.eq(command.word),
        banks.origin_write.data.selected.eq(Mux(asked < command.count, asked, command.count)),
        banks.origin_write.en.eq(banks.claim),
        banks.wanted_write.addr.eq(claim_bank),
        banks.wanted_write.data.eq(command.n),
        banks.wanted_write.en.eq(banks.claim),
    ]

    arrive = i.valid
    finish = Signal() # the last word of the query being counted arrives
    m.d.comb += finish.eq(arrive & i.p.last)
    with m.If((finish | ~counted_valid) & waiting_valid):
        m.d.sync += [counted.eq(waiting), counted_valid.eq(1), waiting_valid.eq(0)]
    with m.Elif(finish):
        m.d.sync += counted_valid.eq(0)
    return counted, finish


@dataclass(frozen=True)
class Marked:
    """The word that arrived in the cycle before: its place, and its keys' coarse digits."""

    valid: Signal
    last: Signal
    first: Signal
    bank: Signal
    word: Signal
    coarse: Any


def mark(m: Module, s: Sizes, banks: Banks, i: stream.Interface, *, counted: Any,
         finish: Signal) -> Marked:
    """Mark each lane of the arriving word, and write it to the bank."""
    count_bank = Signal(s.bank_shape)
    count_word = Signal(s.word_shape)
    with m.If(finish):
        m.d.sync += [count_word.eq(0),
                     count_bank.eq(Mux(count_bank == BANKS - 1, 0, count_bank + 1))]
    with m.Elif(i.valid):
        m.d.sync += count_word.eq(count_word + 1)

    def before(end: Value, name: str) -> Value:
        """Which lanes of the arriving word lie before a position."""
        mask = Signal(s.lanes, name=f"before_{name}")
        end_word, end_lane = end[s.lane_bits:], end[:s.lane_bits]
        for lane in range(s.lanes):
            m.d.comb += mask[lane].eq(
                (count_word < end_word) | ((count_word == end_word) & (lane < end_lane)))
        return mask

    before_end = before(counted.end, "end")
    before_sink_end = before(counted.sink_end, "sink_end")
    before_recent = before(counted.recent_start, "recent_start")
    before_begin = Signal(s.lanes)
    m.d.comb += before_begin.eq(Mux(
        count_word == 0, Cat(lane < counted.skip for lane in range(s.lanes)), 0))

    marked: Any = Signal(s.word_items, reset_less=True)
    marked_coarse = Signal(data.ArrayLayout(s.coarse_bits, s.lanes), reset_less=True)
    marked_valid = Signal()
    marked_last = Signal()
    marked_first = Signal(reset_less=True)
    marked_bank = Signal(s.bank_shape, reset_less=True)
    marked_word = Signal(s.word_shape, reset_less=True)
    m.d.sync += [
        marked_valid.eq(i.valid),
        marked_last.eq(finish),
        marked_first.eq(count_word == 0),
        marked_bank.eq(count_bank),
        marked_word.eq(count_word),
    ]
    for lane in range(s.lanes):
        out = before_begin[lane] | ~before_end[lane]
        forced = ~out & (before_sink_end[lane] | ~before_recent[lane])
        code = Signal(s.code_bits, name=f"code_{lane}")
        m.d.comb += code.eq(i.p.distances[lane] | out.replicate(s.code_bits))
        m.d.sync += [
            marked[lane].code.eq(code),
            marked[lane].forced.eq(forced),
            marked_coarse[lane].eq(code[s.fine_bits:] | forced.replicate(s.coarse_bits)),
        ]

    m.d.comb += [
        banks.emit_write.addr.eq(Cat(marked_word, marked_bank)),
        banks.emit_write.data.eq(marked),
        banks.emit_write.en.eq(marked_valid),
        banks.refine_write.addr.eq(Cat(marked_word, marked_bank)[exact_log2(s.ratio):]),
        banks.refine_write.en.eq(marked_valid << marked_word[:exact_log2(s.ratio)]),
    ]
    for part in range(s.ratio):
        m.d.comb += banks.refine_write.data[part].eq(marked)
    return Marked(marked_valid, marked_last, marked_first, marked_bank, marked_word,
                  marked_coarse)


def count_coarse(m: Module, s: Sizes, banks: Banks, marked: Marked) -> StreamFifo:
    """Count the keys below each coarse value; return a queue of queries to refine."""
    count_levels = tree_latency(s.lanes)
    add_valid = delay_control(m, marked.valid, count_levels, "add_valid")
    add_last = delay_control(m, marked.last, count_levels, "add_last")
    add_first = delay(m, marked.first, count_levels, "add_first")
    add_word = delay(m, marked.word, count_levels, "add_word")
    add_bank = delay(m, marked.bank, count_levels, "add_bank")

    wanted_read = banks.wanted_read
    m.d.comb += wanted_read.addr.eq(add_bank)
    coarse_counts = []
    for value in s.coarse_values:
        below = [marked.coarse[lane] < value for lane in range(s.lanes)]
        coarse_counts.append(count_below(
            m, s, below, "coarse", value, valid=add_valid,
            first=add_first, begin=lambda total: total - wanted_read.data))

    m.submodules.refine_queue = refine_queue = StreamFifo(s.refinement, depth=BANKS + 1)
    threshold_coarse = Signal(s.coarse_bits)
    coarse_missing = Signal(s.counter_shape)
    m.d.comb += coarse_missing.eq(-delay(m, wanted_read.data, 1, "handed_n"))
    choose(m, s.coarse_values, coarse_counts, threshold_coarse, coarse_missing)
    m.d.comb += [
        refine_queue.i.valid.eq(delay_control(m, add_last, 1, "handed")),
        refine_queue.i.payload.eq(Cat(
            delay(m, add_bank, 1, "handed_bank"), delay(m, add_word, 1, "handed_word"),
            threshold_coarse, coarse_missing)),
    ]
    return refine_queue
