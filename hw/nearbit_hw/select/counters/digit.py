"""Counters for a digit: keys below each of its values, and the value that reaches the target."""

from collections.abc import Callable, Sequence

from amaranth import *

from nearbit_hw.select.counters.banks import Sizes
from nearbit_hw.tree import sum_tree


__all__ = ["choose", "count_below"]


def count_below(m: Module, s: Sizes, below: Sequence[Value], digit: str, value: int, *,
                valid: Value, first: Value, begin: Callable[[Value], Value]) -> Signal:
    """Count the keys whose digit is below a value, until there are as many as wanted.

    Parameters
    ----------
    below
        For each key of a cycle, whether its digit is below the value.
    digit, value
        Name of the digit, and the value.
    valid, first
        Whether the sum of these bits belongs to a query, and whether it is the query's first.
    begin
        Maps the first sum to the counter's first value: the sum minus the number of keys wanted.
    """
    total = sum_tree(m, below, name=f"below_{digit}_{value}")
    count = Signal(s.counter_shape, name=f"{digit}_count_{value}", reset_less=True)
    with m.If(valid):
        with m.If(first):
            m.d.sync += count.eq(begin(total))
        with m.Elif(count < 0):
            m.d.sync += count.eq(count + total)
    return count


def choose(m: Module, values: Sequence[int], counts: Sequence[Signal], threshold: Signal,
           missing: Signal) -> None:
    """Choose the highest value with too few keys below it; `missing` is minus the shortfall."""
    for value, count in zip(values, counts, strict=True):
        with m.If(count < 0):
            m.d.comb += [threshold.eq(value), missing.eq(count)]
