"""Choice among those who ask, in turns."""

from collections.abc import Sequence

from amaranth import *


__all__ = ["round_robin"]


def round_robin(m: Module, requests: Sequence[Value], last: Value) -> Signal:
    """Number of one who asks: the next after the last one who was chosen.

    It means nothing while nobody asks.
    """
    count = len(requests)
    chosen = Signal(range(count), name="chosen")
    with m.Switch(last):
        for number in range(count):
            with m.Case(number):
                for step in range(count, 0, -1):
                    other = (number + step) % count
                    with m.If(requests[other]):
                        m.d.comb += chosen.eq(other)
    return chosen
