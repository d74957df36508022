"""Count: which lanes of a word are in a query's range, and how often each distance occurs."""

from dataclasses import dataclass
from typing import Any

from amaranth import *
from amaranth.lib import data

from nearbit_hw.select.histogram.sizes import Sizes, Strobes


__all__ = ["Counter", "Marks", "ask", "mark"]


RAM_WIDTH, RAM_DEPTH = 18, 1024
"""Bits per word, and words, of a block RAM with two full ports (ECP5, 7 series)."""


def ask(m: Module, sizes: Sizes, command: Any) -> Any:
    """Convert a command to a query."""
    asked: Any = Signal(sizes.query)
    normal_end = Signal(signed(len(Signal(sizes.position)) + 1))
    end = Signal(sizes.position)
    m.d.comb += [
        end.eq(command.skip + command.count),
        normal_end.eq(end - command.recent),
        asked.skip.eq(command.skip),
        asked.end.eq(end),
        asked.normal_start.eq(command.skip + command.sink),
        asked.normal_end.eq(normal_end),
        asked.no_normal.eq(normal_end < 0),
        asked.first_word.eq(command.word),
        asked.missing.eq(-command.n),
    ]
    return asked


@dataclass(frozen=True)
class Marks:
    """Number of the word arriving, and which lanes are counted or selected anyway.

    `word` counts from 0 at the query's first word, across blocks. `word` and `now_normal` describe
    the word arriving, if any; `normal` (counted) and `forced` (selected anyway) the one before.
    """

    word: Signal
    now_normal: Signal
    normal: Signal
    forced: Signal


def mark(m: Module, sizes: Sizes, strobes: Strobes, last: Value, *, counted: Any,
         loaded: Any) -> Marks:
    """Mark the lanes in the range, and those of them that are not forced; detect ends of blocks.

    Parameters
    ----------
    last
        Whether the word arriving is the query's last one.
    counted, loaded
        The query being counted, and the one to load into it with :py:`strobes.load`.
    """
    lanes, lane_bits = sizes.lanes, sizes.lane_bits
    arrive = strobes.arrive

    def from_lane(position: Value) -> Value:
        lane = position[:lane_bits]
        return Cat(index >= lane for index in range(lanes))

    # In the word of a position, its mask has the lanes at the position or after it; in later words
    # it is all ones.
    word = Signal(sizes.index_bits)
    m.d.comb += strobes.finish.eq(arrive & last)
    if sizes.block:
        ends = word[:sizes.word_bits].all()
        m.d.comb += strobes.finish.eq(arrive & (last | ends))
        block = counted.first_word[sizes.word_bits:]
        with m.If(arrive & ends):
            m.d.sync += block.eq(block + 1)
    from_skip, from_end, from_start, from_stop = (
        Signal(lanes, name=name, reset_less=True)
        for name in ("from_skip", "from_end", "from_start", "from_stop"))
    end_begun, start_begun, stop_begun = (
        Signal(name=name, reset_less=True)
        for name in ("end_begun", "start_begun", "stop_begun"))
    ones = Const(-1, lanes)

    def at(position: Value, begun: Value, name: str) -> Signal:
        # Kept: otherwise synthesis duplicates it for many lanes, merely to be as fast as the rest.
        here = Signal(name=f"at_{name}", attrs={"keep": 1})
        m.d.comb += here.eq((word == position[lane_bits:]) | begun)
        return here

    at_end = at(counted.end, end_begun, "end")
    at_start = at(counted.normal_start, start_begun, "start")
    at_stop = at(counted.normal_end, stop_begun, "stop")
    with m.If(arrive):
        m.d.sync += [from_skip.eq(ones),
                     end_begun.eq(at_end), start_begun.eq(at_start), stop_begun.eq(at_stop)]
        with m.If(at_end):
            m.d.sync += from_end.eq(ones)
        with m.If(at_start):
            m.d.sync += from_start.eq(ones)
        with m.If(at_stop):
            m.d.sync += from_stop.eq(ones)
        with m.If(~last):
            m.d.sync += word.eq(word + 1)
    with m.If(strobes.load):
        m.d.sync += [
            counted.eq(loaded),
            from_skip.eq(from_lane(loaded.skip)),
            from_end.eq(from_lane(loaded.end)),
            from_start.eq(from_lane(loaded.normal_start)),
            from_stop.eq(from_lane(loaded.normal_end) | loaded.no_normal.replicate(lanes)),
            word.eq(0), end_begun.eq(0), start_begun.eq(0), stop_begun.eq(loaded.no_normal),
        ]
    now_normal, now_inside = Signal(lanes), Signal(lanes)
    normal, forced = Signal(lanes, reset_less=True), Signal(lanes, reset_less=True)
    m.d.comb += [
        now_normal.eq(from_start & at_start.replicate(lanes)
                      & ~(from_stop & at_stop.replicate(lanes))),
        now_inside.eq(from_skip & ~(from_end & at_end.replicate(lanes))),
    ]
    m.d.sync += [normal.eq(now_normal), forced.eq(now_inside & ~now_normal)]
    with m.If(~arrive):
        m.d.sync += normal.eq(0)
    return Marks(word, now_normal, normal, forced)


class Counter:
    """A bin: the number of keys at a distance, in a form that increments fast.

    A count is exact until `enough` is set. From then on only that fact is kept, as no query asks
    for more keys.

    A bit may be stored together with its next values, up to where they repeat. Adding one rotates
    such a ring by one place, without a LUT. Unless it is deeper, block RAM is wide enough anyway;
    but without a separate port to clear bins, each bit would cost a LUT again.

    Parameters
    ----------
    clears
        Whether a separate port clears bins.

    Attributes
    ----------
    layout
        Layout of a bin.
    cleared
        A bin with a count of 0.
    """

    def __init__(self, sizes: Sizes, *, clears: bool):
        # Two bins of a distance take turns, word by word.
        self._limit = -(-sizes.words // 2)
        self._exact_bits = min(sizes.enough_bits, len(Signal(range(self._limit + 1))))
        # `carry` says that the bits below bit 3 are set; bit 3 and those above change only then.
        self._fast = self._exact_bits > 3
        wide_enough = clears and 2 << sizes.distance_bits <= RAM_DEPTH
        self._rings = max(
            count for count in range(min(3, self._exact_bits) + 1)
            if not count or (wide_enough and self._layout(count).size <= RAM_WIDTH))
        self.layout = self._layout(self._rings)
        # The rings of a count of 0: half a turn of zeros, the first of them in `low`, then ones.
        self.cleared = sum(
            ((1 << (1 << bit)) - 1) << ((1 << bit) - 1) << self.layout[f"ring_{bit}"].offset
            for bit in range(self._rings))

    def _layout(self, rings: int) -> data.StructLayout:
        return data.StructLayout({
            "high": max(self._exact_bits - 3, 0),
            "enough": int(self._limit >> self._exact_bits != 0),
            "carry": int(self._fast), "low": min(self._exact_bits, 3),
            **{f"ring_{bit}": (2 << bit) - 1 for bit in range(rings)}})

    def add_one(self, m: Module, old: Any) -> Any:
        """Count one more."""
        new: Any = Signal(self.layout, name="new_count")
        carries: Value = old.low.all()
        m.d.comb += new.low.eq(old.low + 1)
        for bit in range(self._rings):
            ring = Cat(old.low[bit], old[f"ring_{bit}"])
            m.d.comb += Cat(new.low[bit], new[f"ring_{bit}"]).eq(ring.rotate_right(1))
        if self._fast:
            m.d.comb += [
                new.carry.eq(old.low == 6),
                new.high.eq(Mux(old.carry, old.high + 1, old.high)),
            ]
            carries = old.high.all() & old.carry
        # If no key can follow the one that sets `enough`, it need not be held.
        stays = self._limit > 1 << self._exact_bits
        m.d.comb += new.enough.eq(carries | (old.enough if stays else 0))
        return new
