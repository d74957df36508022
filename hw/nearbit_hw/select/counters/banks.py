"""Widths, layouts and memories of selection by counters."""

from typing import Any

from amaranth import *
from amaranth.lib import data, memory

from nearbit_hw.ram import block_ram
from nearbit_model.structure import BANKS, CounterTimes


__all__ = ["Banks", "Sizes"]


class Sizes:
    """Sizes derived from the parameters of :class:`nearbit_hw.select.TopN`.

    Attributes
    ----------
    group, ratio
        Words whose summaries are examined per cycle, and words refined per cycle.
    words, lane_bits
        Words per bank, and bits of a lane number.
    code_bits, fine_bits, coarse_bits
        Bits of a distance's code, and of its two digits. The code of all ones, `outside`, is not a
        distance.
    coarse_values, fine_values
        Values of each digit below which keys are counted.
    item, word_items
        Layout of a key in a bank, and of a word of keys.
    counter_shape
        Keys below a value, minus the number wanted.
    bank_words, bank_groups, summary
        Words and groups that a bank takes in memory; layout of the summary of a word.
    refinement, emission
        State of a query that waits to be refined, and to be emitted.
    """

    def __init__(self, *, key_bits: int, lanes: int, capacity: int, top_n: int, refine_lanes: int,
                 gapless: bool, times: CounterTimes):
        self.lanes = lanes
        self.capacity = capacity
        self.top_n = top_n
        self.refine_lanes = refine_lanes
        self.gapless = gapless
        self.times = times
        self.registers = times.registers
        self.group, self.ratio = times.group, refine_lanes // lanes
        self.words = -(-capacity // lanes // self.group) * self.group
        self.lane_bits = len(Signal(range(lanes)))

        self.code_bits = len(Signal(range(key_bits + 2)))
        self.fine_bits = max(1, self.code_bits // 2)
        self.coarse_bits = self.code_bits - self.fine_bits
        self.coarse_values = range(1, (key_bits >> self.fine_bits) + 1)
        self.fine_values = range(1, 1 << self.fine_bits)
        self.outside = (1 << self.code_bits) - 1

        self.item = data.StructLayout({"code": self.code_bits, "forced": 1})
        self.word_items = data.ArrayLayout(self.item, lanes)
        self.counter_shape = range(-top_n, max(lanes, refine_lanes) + 1)
        self.bank_shape = range(BANKS)
        self.word_shape = range(self.words)
        self.selected_shape = range(top_n + 1)
        self.first_shape = range(capacity // lanes)

        self.bank_words = 1 << len(Signal(self.word_shape))
        self.bank_groups = -(-self.bank_words // self.group)
        self.summary = data.ArrayLayout(1, len(self.fine_values) + 2)

        self.refinement = data.StructLayout({
            "bank": self.bank_shape,
            "last_word": self.word_shape,
            "coarse": self.coarse_bits,
            "missing": self.counter_shape, # minus the number of keys wanted at the coarse value
        })
        self.emission = data.StructLayout({
            "bank": self.bank_shape,
            "last_word": self.word_shape,
            "threshold": self.code_bits,
            "missing": self.counter_shape,
        })


class Banks:
    """The memories, each divided into one part per bank.

    `items_refine` is read `ratio` words at a time, `items_emit` word by word, and `summaries` a
    group at a time. `origins` and `wanted` hold what later stages need from a command.

    Attributes
    ----------
    claim, release
        A command claims a bank; the oldest bank is free again.
    claimed
        Number of banks in use.
    """

    def __init__(self, m: Module, s: Sizes):
        m.submodules.items_refine = items_refine = block_ram(
            shape=data.ArrayLayout(s.word_items, s.ratio), depth=BANKS * s.bank_words // s.ratio)
        m.submodules.items_emit = items_emit = block_ram(
            shape=s.word_items, depth=BANKS * s.bank_words)
        m.submodules.summaries = summaries = block_ram(
            shape=data.ArrayLayout(s.summary, s.group), depth=BANKS * s.bank_groups)
        self.refine_write: Any = items_refine.write_port(granularity=1 if s.ratio > 1 else None)
        self.refine_read: Any = items_refine.read_port()
        self.emit_write: Any = items_emit.write_port()
        self.emit_read: Any = items_emit.read_port()
        self.summary_write: Any = summaries.write_port()
        self.summary_read: Any = summaries.read_port()

        self.claim = Signal()
        self.release = Signal()
        self.claimed = Signal(range(BANKS + 1))
        m.d.sync += self.claimed.eq(self.claimed + self.claim - self.release)

        origin = data.StructLayout({
            "first_word": s.first_shape,
            "selected": s.selected_shape,
        })
        origins: Any = memory.Memory(shape=origin, depth=BANKS, init=[])
        wanted: Any = memory.Memory(shape=s.selected_shape, depth=BANKS, init=[])
        m.submodules.origins, m.submodules.wanted = origins, wanted
        origin_write, wanted_write = origins.write_port(), wanted.write_port()
        self.origin_write, self.wanted_write = origin_write, wanted_write
        self.origin_read: Any = origins.read_port(domain="comb")
        self.wanted_read: Any = wanted.read_port(domain="comb")
