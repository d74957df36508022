"""Parts: counting keys by the highest bits of their distance leaves fewer bins to search."""

from dataclasses import dataclass
from typing import Any

from amaranth import *

from nearbit_hw.pipeline import delay, delay_control
from nearbit_hw.select.histogram.count import Marks
from nearbit_hw.select.histogram.sizes import Sizes, Strobes
from nearbit_hw.tree import sum_tree
from nearbit_model.structure import PART_FAN_IN


__all__ = ["Part", "find_part"]


@dataclass(frozen=True)
class Part:
    """The part of the bins with the threshold, and minus the keys that the parts below lack."""

    number: Value
    missing: Value


def find_part(m: Module, sizes: Sizes, strobes: Strobes, marks: Marks, distances: list[Value], *,
              last: Value, missing: Value) -> Part:
    """Find the part of the bins with the threshold.

    The result is valid :py:`settle_latency` cycles after the query's last word. The largest
    distance belongs to no part; if all parts together have too few keys, the last one is returned.

    Parameters
    ----------
    last
        Whether the word arriving is the query's last one.
    missing
        Minus the number of keys that the query being counted selects by distance.
    """
    times = sizes.times
    if times.parts == 1:
        return Part(Const(0, 2), delay(m, missing, times.settle_latency, "settled_missing"))
    part_bits = times.part_bins.bit_length() - 1
    levels = times.settle_latency - 2
    is_first = Signal(init=1)
    with m.If(strobes.arrive):
        m.d.sync += is_first.eq(last)
    arrived = delay_control(m, strobes.arrive, 1 + levels, "part_arrived")
    first = delay(m, is_first, 1 + levels, "part_first")
    asked = delay(m, missing, 1 + levels, "part_asked")
    found: Any = delay(m, asked, 1, "part_missing")
    number: Value = Const(0, 2)
    for part in range(1, times.parts):
        is_below = [Signal(name=f"below_{part}_{lane}", reset_less=True)
                    for lane in range(sizes.lanes)]
        for lane, distance in enumerate(distances):
            m.d.sync += is_below[lane].eq(
                marks.now_normal[lane] & (distance[part_bits:] < part))
        below = sum_tree(m, is_below, fan_in=PART_FAN_IN, name=f"below_{part}")
        lacking = Signal(sizes.missing_shape, name=f"lacking_{part}", reset_less=True)
        with m.If(arrived & (first | lacking[-1])):
            m.d.sync += lacking.eq(Mux(first, asked, lacking) + below)
        found = Mux(lacking[-1], lacking, found)
        number = Mux(lacking[-1], part, number)
    return Part(number, found)
