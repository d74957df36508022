"""Selection of the nearest keys by counting."""

from amaranth import *

from nearbit_hw.select.counters.banks import Banks, Sizes
from nearbit_hw.select.counters.count import count_coarse, mark, take
from nearbit_hw.select.counters.emit import Emit
from nearbit_hw.select.counters.refine import count_fine, read
from nearbit_hw.select.selector import Selector
from nearbit_model.structure import CounterTimes


__all__ = ["TopN"]


# How it works
# ------------
# A distance has few values, so the threshold is found by counting instead of comparing keys. The
# code of a distance is split into two digits, `coarse` above `fine`.
#
#   count   As the distances arrive and are written to a bank, a counter for each coarse value
#           counts the keys below it. Each starts at -n, so its sign says "fewer than n". The
#           highest coarse value with fewer than n keys below it is the threshold's coarse digit;
#           that counter then holds minus the number of keys still wanted.
#   refine  The bank is read again, `refine_lanes` keys per cycle, and the keys with that coarse
#           digit are counted by their fine digit in the same way. This gives the exact threshold
#           and the quota: how many of the keys at the threshold are taken.
#   emit    The bank is read once more, from its end. The keys below the threshold, and the last
#           `quota` keys at it, leave, one per cycle.
#
# `emit` must not spend cycles on words without a selected key. `refine` therefore leaves a
# *summary* of each word: for each fine value, whether the word has a key below it. `emit` reads the
# summaries of a whole *group* of words per cycle and fetches only the words with a hit.
#
# Keys that are selected whatever their distance (sinks, recent ones) are `forced`: not counted, and
# below any threshold. Lanes outside the range have a code of all ones, which is not a distance and
# is neither below nor at any threshold.
#
# The cycles that `emit` needs depend on where the keys lie, so the last key of a query waits until
# a timer says that the worst case is over; later units act on the last key only. `emit` must not
# stall either, because its progress at a stall would also depend on the keys: it writes to a queue,
# and starts when the queue has room for everything it could write.

class TopN(Selector):
    """The nearest keys of each query.

    Takes the distances of one query after another, :py:`lanes` per cycle without ever stalling,
    and emits the selection of the numeric contract: the first :py:`sink` and the last
    :py:`recent` keys of the range and, of the rest, the :py:`n` nearest; among equal distances, the
    larger index wins. If :py:`sink + recent + n >= count`, all keys are selected. Keys leave by
    descending index, the last one with :py:`last` set.

    Counting, refining and emitting overlap: three queries are in flight at the same time. For a
    query that has w words of distances and selects m keys, with s = :py:`refine_lanes / lanes`,
    each step alone takes, if :py:`o` is not stalled,

    - count: w cycles, then :py:`count_latency`;
    - refine: ceil(w / s) cycles, then :py:`refine_latency`;
    - emit: :py:`emit_cycles(w, m)` until the last key is presented.

    A command is accepted when one of the three banks is free and the command before it is no longer
    waiting to be counted. It must be accepted at least two cycles before its first distances.
    Emitting also waits while more than :py:`queue_limit` keys are in the queue in front of
    :py:`o`. Cycles depend on w and m only, except that the distances determine when, within the
    time of :py:`emit`, the keys before the last one leave. With :py:`gapless` they do not: the
    first key waits until all m keys can leave in m cycles without a gap, and then they leave.

    Reference: :func:`nearbit_model.golden.select_one`.

    Members are those of :class:`~nearbit_hw.select.Selector`.

    Parameters
    ----------
    key_bits : :class:`int`
        The largest distance. At least 1.
    lanes : :class:`int`
        Distances per word, a power of two.
    capacity : :class:`int`
        Keys in the longest range, a multiple of :py:`refine_lanes`.
    top_n : :class:`int`
        The most keys that a query selects, at most :py:`capacity`.
    refine_lanes : :class:`int`
        Distances refined per cycle: :py:`lanes` times a power of two.
    gapless : :class:`bool`
        Whether the keys of a query leave without a gap.
    """

    def __init__(self, *, key_bits: int, lanes: int, capacity: int, top_n: int,
                 refine_lanes: int | None = None, gapless: bool = False):
        super().__init__(key_bits=key_bits, lanes=lanes, capacity=capacity, top_n=top_n,
                         refine_lanes=refine_lanes)
        self._gapless = bool(gapless)

    @property
    def gapless(self) -> bool:
        return self._gapless

    @property
    def times(self) -> CounterTimes:
        """Sizes and cycles of each step."""
        return CounterTimes(lanes=self._lanes, refine_lanes=self._refine_lanes, top_n=self._top_n)

    @property
    def group(self) -> int:
        """Words whose summaries are examined per cycle."""
        return self.times.group

    @property
    def count_latency(self) -> int:
        """Cycles from a query's last word to the first read of refining it."""
        return self.times.count_latency

    @property
    def refine_latency(self) -> int:
        """Cycles from the last read of refining a query to the start of emitting it."""
        return self.times.refine_latency

    @property
    def registers(self) -> int:
        """Registers after each bank and before the key queue."""
        return self.times.registers

    @property
    def queue_limit(self) -> int:
        """Most keys in the queue when emitting a query may start; its own then have room."""
        return self.times.queue_limit

    def emit_cycles(self, *, words: int, selected: int) -> int:
        """Cycles from the start of emitting a query to its last key, if never stalled."""
        return self.times.emit_cycles(words=words, selected=selected)

    def elaborate(self, platform) -> Module:
        m = Module()
        s = Sizes(key_bits=self._key_bits, lanes=self._lanes, capacity=self._capacity,
                  top_n=self._top_n, refine_lanes=self._refine_lanes, gapless=self._gapless,
                  times=self.times)
        banks = Banks(m, s)

        # ---- Count.
        counted, finish = take(m, s, banks, self.i_command, self.i)
        marked = mark(m, s, banks, self.i, counted=counted, finish=finish)
        refine_queue = count_coarse(m, s, banks, marked)

        # ---- Refine.
        emit_queue = count_fine(m, s, banks, read(m, s, banks, refine_queue))

        # ---- Emit.
        emit = Emit(s, banks, emit_queue)
        emit.control(m)
        emit.find_keys(m, emit.fetch_word(m, emit.find_words(m)), self.o)
        emit.start(m)

        return m
