"""The counter of a digit: keys below each of its values, and where they are as many as wanted."""

from collections.abc import Callable, Sequence

from amaranth import *

from nearbit_hw.select.counters.banks import Sizes
from nearbit_hw.tree import sum_tree


__all__ = ["choose", "count_below"]


def count_below(m: Module, s: Sizes, below: Sequence[Value], digit: str, value: int, *,
                valid: Value, first: Value, begin: Callable[[Value], Value]) -> Signal:
    """Count the keys whose digit is below a value, while they are fewer than wanted.

    Parameters
    ----------
    below
        Of the keys of a cycle, those that are.
    digit, value
        Name of the digit, and the value.
    valid, first
        The sum of the bits is that of keys of a query, and of its first ones.
    begin
        What is counted then, of the sum: so much less as keys are wanted.
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
    """Choose the highest value with fewer keys below it than wanted, and what they lack."""
    for value, count in zip(values, counts, strict=True):
        with m.If(count < 0):
            m.d.comb += [threshold.eq(value), missing.eq(count)]
