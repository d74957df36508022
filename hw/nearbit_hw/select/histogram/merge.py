"""Merge: the bins in ascending order, summed over the lanes, until there are enough keys."""

from dataclasses import dataclass
from typing import Any

from amaranth import *

from nearbit_hw.pipeline import delay_control
from nearbit_hw.select.histogram.sizes import Sizes, Strobes


__all__ = ["Merge", "Merged", "add_lanes", "add_pair", "any_of"]


@dataclass(frozen=True)
class Merged:
    """What is handed over of a query that is merged.

    Its threshold, minus the keys that the bins below lack, the number of its last word in its bank,
    and its origin.
    """

    threshold: Signal
    missing: Signal
    last: Signal
    origin: Any


class Merge:
    """Queries that are merged: one is read, and the one before may still be summed, or wait.

    Attributes
    ----------
    uncleared, unhanded
        Queries that were taken and need their bins still, and that are not handed over.
    level
        Registers from a bin that was read to its sum.
    bins
        Bins that are read and cleared of each lane's memories, one after another.
    bin, busy
        The one that is read, if any is.
    merges
        Queries whose merging started and that are not handed over.
    read_end
        The last bin is read.
    merged
        The outcome is in `missing` and `threshold`.
    real
        No more is to be cleared after reset, when all bins are, as if queries had been counted.
    boot
        How often that is still to begin.
    settled
        The last word of a query has been counted.
    missing, threshold, found, origin
        Minus the keys that the bins below the threshold lack; the threshold; whether it is one;
        where what is searched begins.
    add, reaches
        The keys of a distance are added now; with them there are enough.
    """

    def __init__(self, sizes: Sizes, *, bins: int):
        limit = sizes.times.limit
        self.uncleared = Signal(range(limit + 1), init=limit)
        self.unhanded = Signal(range(sizes.times.unhanded + 1))
        self.level = 0
        self.bins = bins
        self.bin = Signal(range(bins), name="bin_")
        self.busy = Signal(name="bin_busy")
        self.merges = Signal(range(limit + 1))
        self.read_end = Signal()
        self.merged: Value = Const(0)
        self.real = Signal(name="merge_real")
        self.boot = Signal(range(limit + 1), init=limit)
        self.settled: Value = Const(0)
        self.missing = Signal(sizes.missing_shape, reset_less=True)
        self.threshold = Signal(sizes.distance_bits, reset_less=True)
        self.found = Signal(reset_less=True)
        self.origin: Any = Signal(sizes.origin, name="found_origin", reset_less=True)
        self.add: Value = Const(0)
        self.reaches = Signal()

    def search(self, m: Module, sizes: Sizes, strobes: Strobes, *, small: Value, many: Value,
               level: int, is_whole: Value, frees: Value) -> None:
        """Look for the threshold: the first bin that brings the sum to what is missing.

        Parameters
        ----------
        small, many
            Keys of a distance, and whether they are more than `small` can say.
        level
            Registers from a bin that was read to them.
        is_whole
            Whether with the bin that is read all keys of its distance are.
        frees
            Whether a query's bins are free again.
        """
        self.level = level
        self.add = delay_control(m, is_whole, level + 1, "add")
        m.d.comb += self.read_end.eq(self.busy & (self.bin == self.bins - 1))
        # The bins that follow are only cleared.
        searched = self.busy & (self.bin == sizes.times.part_bins - 1)
        self.merged = delay_control(m, searched, level + 2, "merged")
        less = Signal.like(self.missing, name="less")
        m.d.comb += [less.eq(self.missing + small), self.reaches.eq(many | ~less[-1])]
        with m.If(self.add & ~self.found):
            with m.If(self.reaches):
                m.d.sync += self.found.eq(1)
            with m.Else():
                m.d.sync += [self.missing.eq(less), self.threshold.eq(self.threshold + 1)]
        with m.If(self.read_end):
            m.d.sync += [self.busy.eq(0), self.bin.eq(0)]
        with m.Elif(self.busy):
            m.d.sync += self.bin.eq(self.bin + 1)
        m.d.sync += [
            self.merges.eq(self.merges + strobes.merge_start - strobes.hand),
            self.unhanded.eq(self.unhanded + strobes.claim - strobes.scan_start),
        ]
        with m.If(strobes.merge_start):
            m.d.sync += self.busy.eq(1)
            with m.If(self.boot != 0):
                m.d.sync += self.boot.eq(self.boot - 1)
        with m.If(self.real):
            m.d.sync += self.uncleared.eq(self.uncleared + strobes.claim - frees)
        with m.Elif((self.boot == 0) & (self.merges == 0) & ~self.busy):
            m.d.sync += [self.uncleared.eq(0), self.real.eq(1)]


def add_pair(m: Module, sizes: Sizes, terms: list[Value], name: str
             ) -> tuple[Value, list[Value]]:
    """Add one or two counts in a register; give their sum, and the bits beyond what matters."""
    bits = max(map(len, terms))
    total = Signal(bits + (len(terms) > 1), name=name, reset_less=True)
    m.d.sync += total.eq(sum(terms, Const(0, 1)))
    return total[:sizes.enough_bits], list(total[sizes.enough_bits:])


def any_of(m: Module, terms: list[Value], name: str) -> list[Value]:
    """Tell in a register whether any bit is set; nothing of no bits."""
    found = Signal(name=name, reset_less=True)
    m.d.sync += found.eq(Cat(terms).any())
    return [found] if terms else []


def add_lanes(m: Module, sizes: Sizes, counts: list[Any], level: int
              ) -> tuple[Value, list[Value], int]:
    """Add the lanes' counts of a bin, registered at each level.

    Gives the sum, bits of which any says that it is `enough` anyway, and the levels, to which the
    given ones are added.
    """
    small: list[Value] = [Cat(term.low, term.high) for term in counts]
    many: list[Value] = [term.enough for term in counts] if len(counts[0].enough) else []
    while len(small) > 1:
        sums: list[Value] = []
        over: list[Value] = []
        for start in range(0, len(small), 2):
            total, bits = add_pair(m, sizes, small[start:start + 2], f"sum_{level}_{start}")
            sums.append(total)
            over += bits
        for start in range(0, len(many), 4):
            over += any_of(m, many[start:start + 4], f"many_{level}_{start}")
        small, many, level = sums, over, level + 1
    return small[0], many, level
