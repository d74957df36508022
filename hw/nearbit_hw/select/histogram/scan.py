"""Scan: a bank is read from its end, and keys that may be selected are noted."""

from typing import Any

from amaranth import *
from amaranth.lib import data

from nearbit_hw.pipeline import delay, delay_control
from nearbit_hw.ram import block_ram
from nearbit_hw.select.histogram.count import Marks
from nearbit_hw.select.histogram.design import Design
from nearbit_hw.select.histogram.merge import Merged
from nearbit_hw.select.histogram.sizes import Sizes, Strobes


__all__ = ["Bank", "Found", "Scan", "is_less"]


class Bank:
    """The distances of the queries in flight, with their marks.

    Attributes
    ----------
    read
        Port that reads all words scanned in a cycle.
    arrived, write_word, write_bank
        Whether a word is written, and where.
    """

    def __init__(self, m: Module, design: Design):
        sizes = design.sizes
        self._design = design
        word_items = data.ArrayLayout(design.item, sizes.lanes)
        self._word_items = word_items
        m.submodules.items = items = block_ram(
            shape=data.ArrayLayout(word_items, sizes.ratio), depth=sizes.bank_words // sizes.ratio)
        item_write = items.write_port(granularity=1 if sizes.ratio > 1 else None)
        item_read = items.read_port()
        self._write: Any = item_write
        self.read: Any = item_read
        self.write_bank = Signal(sizes.bank_bits, name="write_bank")
        self.arrived: Value = Const(0)
        self.write_word: Value = Const(0)

    def write(self, m: Module, strobes: Strobes, marks: Marks, stored: list[Signal]) -> None:
        """Write the word that arrived in the cycle before."""
        sizes = self._design.sizes
        item_write = self._write
        self.arrived = delay_control(m, strobes.arrive, 1, "arrived")
        finished = delay_control(m, strobes.finish, 1, "finished")
        self.write_word = delay(m, marks.word[:sizes.word_bits], 1, "write_word")
        with m.If(finished):
            m.d.sync += self.write_bank.eq(sizes.next_bank(self.write_bank))
        m.d.comb += [
            item_write.addr.eq(Cat(self.write_word, self.write_bank)[sizes.ratio_bits:]),
            item_write.en.eq(self.arrived << self.write_word[:sizes.ratio_bits]),
        ]
        marked: Any = Signal(self._word_items)
        for lane in range(sizes.lanes):
            self._design.put(m, marked[lane], distance=stored[lane], normal=marks.normal[lane],
                             forced=marks.forced[lane])
        for part in range(sizes.ratio):
            m.d.comb += item_write.data[part].eq(marked)


class Scan:
    """The scan of a query, from its last word to its first.

    Attributes
    ----------
    busy, word, origin, threshold, missing
        Whether a query is being scanned; the word being read; where the query begins; its
        threshold; minus the number of keys at the threshold still missing.
    end
        The query's last read.
    number
        The query's bank.
    """

    def __init__(self, design: Design, bank: Bank):
        sizes = design.sizes
        self._design = design
        self.bank = bank
        self.busy = Signal(name="scan_busy")
        self.word = Signal(sizes.word_bits - sizes.ratio_bits, name="scan_word", reset_less=True)
        self.origin: Any = Signal(sizes.origin, name="scan_origin", reset_less=True)
        self.threshold = Signal(sizes.distance_bits, name="scan_threshold", reset_less=True)
        self.missing = Signal(sizes.missing_shape, name="scan_missing", reset_less=True)
        self._part = Signal(sizes.ratio_bits, name="scan_part", reset_less=True)
        self._top = Signal(name="scan_top", reset_less=True)
        self.end = Signal(name="scan_end")
        self.number = Signal(sizes.bank_bits, name="scanned_bank", init=sizes.times.banks - 1)

    def control(self, m: Module, strobes: Strobes, merged: Merged) -> None:
        """Start scanning merged queries, and read their words."""
        sizes, merge, late = self._design.sizes, self._design.merge, strobes.late
        # The previous query's values stay in use for some cycles.
        scan_rest = Signal(sizes.times.scan_gap - 1)
        m.d.comb += [
            self.end.eq(self.busy & (self.word == 0)),
            strobes.scan_start.eq(strobes.merge_ready & merge.real & ~self.busy & ~scan_rest.any()
                                  & (late != sizes.times.limit)),
            strobes.hand.eq(strobes.scan_start | (strobes.merge_ready & ~merge.real)),
        ]
        m.d.sync += [late.eq(late + strobes.scan_start - strobes.release),
                     scan_rest.eq(Cat(self.end, scan_rest))]
        with m.If(strobes.scan_start):
            m.d.sync += [
                self.busy.eq(1), self.word.eq(merged.last[sizes.ratio_bits:]),
                self._part.eq(merged.last[:sizes.ratio_bits]), self._top.eq(1),
                self.origin.eq(merged.origin), self.threshold.eq(merged.threshold),
                self.number.eq(sizes.next_bank(self.number)),
            ]
        with m.Elif(self.busy):
            m.d.sync += [self.word.eq(self.word - 1), self._top.eq(0)]
            with m.If(self.end):
                m.d.sync += self.busy.eq(0)

    def compare(self, m: Module) -> tuple[Value, Value, Value]:
        """Compare the keys read with the threshold, in two cycles.

        Returns whether anything was read, one cycle ahead of the rest; the keys below the
        threshold or forced; and those at it.
        """
        sizes, design = self._design.sizes, self._design
        read_valid = delay_control(m, self.busy, 1, "read_valid")
        read_top = delay(m, self._top, 1, "read_top")
        below, level = (Signal(sizes.refine_lanes, name=name, reset_less=True)
                        for name in ("below", "level"))
        for part in range(sizes.ratio):
            # Beyond the last word, a bank holds keys of an older query.
            stale = Signal(name=f"stale_{part}")
            m.d.comb += stale.eq(read_top & (part > self._part))
            stale_1 = delay(m, stale, 1, f"stale_{part}")
            for lane in range(sizes.lanes):
                source = self.bank.read.data[part][lane]
                place = part * sizes.lanes + lane
                # Compare the lowest bit alone, the others in pairs.
                low_bit, low_eq, is_normal, is_forced = (
                    Signal(name=f"{name}_{place}", reset_less=True)
                    for name in ("low_bit", "low_eq", "is_normal", "is_forced"))
                normal_here = design.is_normal(source)
                m.d.sync += [
                    low_bit.eq(source.code[0]),
                    low_eq.eq((source.code[0] == self.threshold[0]) & normal_here),
                    is_normal.eq(normal_here),
                    is_forced.eq(source.forced),
                ]
                is_lt: Value = ~low_bit & self.threshold[0]
                is_eq: Value = low_eq
                limit_code = Cat(self.threshold, Const(0, design.code_bits - sizes.distance_bits))
                for low in range(1, design.code_bits, 2):
                    mine, other = source.code[low:low + 2], limit_code[low:low + 2]
                    lt, eq = (Signal(name=f"{name}_{place}_{low}", reset_less=True)
                              for name in ("lt", "eq"))
                    m.d.sync += [lt.eq(_is_less(mine, other)), eq.eq(mine == other)]
                    is_lt = lt | (eq & is_lt)
                    is_eq = is_eq & eq
                m.d.sync += [
                    below[place].eq(((is_lt & is_normal) | is_forced) & ~stale_1),
                    level[place].eq(is_eq & ~stale_1),
                ]
        return read_valid, below, level


def _is_less(a: Value, b: Value) -> Value:
    """Compare numbers of one or two bits."""
    less = ~a[-1] & b[-1]
    if len(a) == 2:
        less = less | ((a[1] == b[1]) & ~a[0] & b[0])
    return less


def is_less(a: Value, b: Value, *, or_equal: bool = False) -> Value:
    """Compare in LUTs; Yosys would use carry chains, which are larger."""
    less: Value = Const(or_equal, 1)
    for low in range(0, len(a), 2):
        x, y = a[low:low + 2], b[low:low + 2]
        less = _is_less(x, y) | ((x == y) & less)
    return less


class Found:
    """Result of the scan for the words read in a cycle, with one key per lane.

    Attributes
    ----------
    valid, last, word
        Whether there is a result, whether it is the query's last one, and the number of its words.
    below, level
        Keys below the threshold or forced, and keys at it.
    above
        For each group, the number of keys at the threshold in the groups above it.
    level_count
        Number of all keys at the threshold.
    groups
        Groups with a selected key.
    """

    def __init__(self, m: Module, sizes: Sizes, scan: Scan, read_valid: Value, below: Value,
                 level: Value):
        group, groups = sizes.group, sizes.groups
        noted_below, noted_level = (Signal(sizes.refine_lanes, name=name, reset_less=True)
                                    for name in ("noted_below", "noted_level"))
        m.d.sync += [noted_below.eq(below), noted_level.eq(level)]
        group_below, group_level = (
            [Signal(name=f"{name}_{index}", reset_less=True) for index in range(groups)]
            for name in ("group_has_below", "group_has_level"))
        group_count: list[Any] = [
            Signal(range(group + 1), name=f"group_count_{index}", reset_less=True)
            for index in range(groups)]
        for index in range(groups):
            part_lanes = slice(index * group, (index + 1) * group)
            m.d.sync += [group_below[index].eq(below[part_lanes].any()),
                         group_level[index].eq(level[part_lanes].any()),
                         group_count[index].eq(sum(level[part_lanes]))]
        # Number of keys at the threshold in a group and those above it.
        steps = sizes.times.steps
        for step in range(steps):
            through_sums: list[Any] = []
            for index, term in enumerate(group_count):
                upper = (index >> step | 1) << step
                most = group * min(groups - index, 2 << step)
                through = Signal(range(most + 1), name=f"through_{step}_{index}", reset_less=True)
                m.d.sync += through.eq(
                    term if index >= upper else term + group_count[upper])
                through_sums.append(through)
            group_count = through_sums
        group_below = [delay(m, value, steps, f"group_below_{index}")
                       for index, value in enumerate(group_below)]
        group_level = [delay(m, value, steps, f"group_level_{index}")
                       for index, value in enumerate(group_level)]
        self.below = delay(m, noted_below, steps, "noted_below")
        self.level = delay(m, noted_level, steps, "noted_level")
        self.valid = delay_control(m, read_valid, 3 + steps, "note_valid")
        self.word = delay(m, scan.word, 4 + steps, "note_word")
        self.last = delay_control(m, scan.end, 4 + steps, "note_last")
        self.above = [*group_count[1:], Const(0, 1)]
        self.level_count = group_count[0]
        self.groups = Signal(groups, name="note_groups")
        for index in range(groups):
            more = self.above[index] # more keys than this must be missing
            covered = (scan.missing[len(more):-1].all()
                       & ~is_less(more, ~scan.missing[:len(more)], or_equal=True))
            m.d.comb += self.groups[index].eq(group_below[index] | (
                group_level[index] & scan.missing[-1] & ~covered))
