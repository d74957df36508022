"""Carry: how many keys at each distance were selected from the blocks before."""

from typing import Any

from amaranth import *
from amaranth.lib import data

from nearbit_hw.pipeline import delay
from nearbit_hw.ram import block_ram
from nearbit_hw.select.histogram.merge import Merge
from nearbit_hw.select.histogram.sizes import Sizes


__all__ = ["Carry"]


class Carry:
    """A histogram of the keys selected from a query's blocks so far, except forced ones.

    The merge of the next block adds it to the block's own histogram, bin by bin, and writes the new
    one: all keys below the threshold and, of those at it, as many as were missing. The merge of the
    last block, and the one that clears bins after reset, write zeros.

    Parameters
    ----------
    level
        Registers from reading a bin to the sum of its counts.
    """

    def __init__(self, m: Module, sizes: Sizes, merge: Merge, *, level: int):
        self._merge = merge
        self._bits = len(Signal(range(sizes.top_n)))
        # A bin holds `less`, or one more if `more` is set: the number of missing keys is known
        # negated, and its complement is one less than the number, so this saves an adder.
        m.submodules.carried = carried = block_ram(
            shape=data.StructLayout({"more": 1, "less": self._bits}), depth=max(merge.bins, 2))
        read, self._write = carried.read_port(), carried.write_port()
        self._read: Any = read
        self._address = delay(m, merge.bin, level, "carried_bin")
        m.d.comb += read.addr.eq(self._address)

    def add(self, count: Value) -> Value:
        """Add the keys carried to a block's own, for the distance whose sum is present."""
        carried = self._read.data
        return (Cat(1, count) + Cat(carried.more, carried.less))[1:]

    def update(self, m: Module, total: Value) -> None:
        """Write the bin that the search examines, with `total` keys in it."""
        merge, write = self._merge, self._write
        ends: Any = merge.found | merge.origin.final | ~merge.real
        m.d.comb += [
            write.addr.eq(delay(m, self._address, 2, "carried_searched")),
            write.data.more.eq(merge.reaches & ~ends),
            write.data.less.eq(Mux(ends, 0, Mux(merge.reaches, ~merge.missing, total))),
            write.en.eq(merge.add),
        ]
