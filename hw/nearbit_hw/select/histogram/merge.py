"""Merge: bins are summed over the lanes in ascending order until there are enough keys."""

from dataclasses import dataclass
from typing import Any

from amaranth import *

from nearbit_hw.pipeline import delay_control
from nearbit_hw.select.histogram.sizes import Sizes, Strobes


__all__ = ["Merge", "Merged", "add_lanes", "add_pair", "any_of"]


@dataclass(frozen=True)
class Merged:
    """What a merged query hands over.

    Its threshold, minus the number of keys that the bins below it lack, the number of its last word
    in its bank, and its origin.
    """

    threshold: Signal
    missing: Signal
    last: Signal
    origin: Any


class Merge:
    """The merge: one query's bins are read while the query before is still summed, or waits.

    Attributes
    ----------
    uncleared, unhanded
        Numbers of accepted queries that still need their bins, and that are not handed over.
    level
        Registers from reading a bin to its sum.
    bins
        Bins read and cleared in each of a lane's memories, one after another.
    bin, busy
        The bin being read, and whether one is.
    merges
        Number of queries whose merge has started and that are not handed over.
    read_end
        The last bin is being read.
    merged
        The outcome is in `missing` and `threshold`.
    real
        The bins have been cleared after reset, which merges them as if queries had been counted.
    boot
        Number of these clearing merges that have yet to start.
    settled
        The last word of a query has been counted.
    missing, threshold, found, origin
        Minus the number of keys that the bins below the threshold lack; the threshold; whether it
        has been found; where the query being searched begins.
    add, reaches
        The keys of a distance are being added; with them there are enough.
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
        """Search for the threshold: the first bin that brings the sum to the number wanted.

        Parameters
        ----------
        small, many
            Number of keys at a distance, and whether there are more than `small` can hold.
        level
            Registers from reading a bin to these.
        is_whole
            Whether the bin being read completes the count of a distance.
        frees
            Whether a query's bins become free.
        """
        self.level = level
        self.add = delay_control(m, is_whole, level + 1, "add")
        m.d.comb += self.read_end.eq(self.busy & (self.bin == self.bins - 1))
        # Later bins are only cleared.
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
    """Register the sum of one or two counts; return it, and the bits above those that matter."""
    bits = max(map(len, terms))
    total = Signal(bits + (len(terms) > 1), name=name, reset_less=True)
    m.d.sync += total.eq(sum(terms, Const(0, 1)))
    return total[:sizes.enough_bits], list(total[sizes.enough_bits:])


def any_of(m: Module, terms: list[Value], name: str) -> list[Value]:
    """Register whether any bit is set; return nothing if there are no bits."""
    found = Signal(name=name, reset_less=True)
    m.d.sync += found.eq(Cat(terms).any())
    return [found] if terms else []


def add_lanes(m: Module, sizes: Sizes, counts: list[Any], level: int
              ) -> tuple[Value, list[Value], int]:
    """Add the lanes' counts in a bin, registered at each level.

    Returns the sum, bits any of which means `enough` regardless of the sum, and the number of
    levels, including the given ones.
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
