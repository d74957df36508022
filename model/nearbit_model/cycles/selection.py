"""Scoring, and the selection of the nearest keys: by counters or by histograms."""

from collections import deque
from dataclasses import dataclass, field

from nearbit_model.config import Config
from nearbit_model.cycles.pipeline import NEVER
from nearbit_model.cycles.shapes import Interval
from nearbit_model.structure import BANKS


__all__ = ["HistogramTopN", "Selection", "TopN"]


@dataclass
class Selection:
    """A query in its selection."""

    selected: int
    emit: int      # emitting starts
    emitted: int   # the last key goes into the queue of keys
    taken: int = 0 # the next unit begins to take keys
    last: int = 0  # and takes the last one
    each: list[int] = field(default_factory=list) # when it takes each, if not one per cycle
    latency: int = 2 # from the queue of keys to the next unit
    passed: int = 0 # the last key is taken for the last time so far, if queries share the selection
    left: deque[int] = field(default_factory=deque) # when keys left the queue behind it, if any

    @property
    def first_shown(self) -> int:
        """When the first key is presented, if none before is in the way and there are no gaps."""
        return self.emitted + self.latency - (self.selected - 1)

    def take(self, key: int) -> int:
        """When a key is taken."""
        return self.each[key] if self.each else self.taken + key

    @property
    def released(self) -> int:
        """When the last key is presented next, if keys wait for the one before to be taken."""
        before = self.first_shown - 1
        if self.selected == 1:
            return before
        if self.each:
            return self.each[-2]
        return max(self.taken, self.first_shown) + self.selected - 2


class TopN:
    """A query's selection: banks, the queue in front of counting, refining, emitting."""

    def __init__(self, config: Config, query: int) -> None:
        """Begin as after reset."""
        self._times = config.counter_times
        self._ratio = config.refine_lanes // config.lanes
        self._gapless = config.rescore is not None
        self._score_latency = config.score_latency(query)
        self._released: deque[int] = deque([NEVER] * BANKS, maxlen=BANKS)
        self._counting = NEVER # the command before goes from waiting to counting
        self._counted = NEVER  # its last word arrives
        self._refined = NEVER  # its last read
        self._recent: deque[Selection] = deque(maxlen=config.top_n + 2)

    def claim(self, earliest: int) -> int:
        """When a command is taken: a bank is free and no other command waits."""
        claimed = max(earliest, self._released[0] + 1, self._counting + 1)
        self._counting = max(claimed + 1, self._counted)
        return claimed

    def select(self, last_word: int, words: int, selected: int) -> tuple[Selection,
                                                                          dict[str, Interval]]:
        """Select; the cycle given is that in which the command's last word is asked for."""
        times = self._times
        self._counted = last_word + self._score_latency
        scored = Interval(last_word - words + 1, self._counted)

        first_read = max(self._counted + times.count_latency, self._refined + 1)
        self._refined = first_read + -(-words // self._ratio) - 1

        emit = max(self._refined + times.refine_latency,
                   self._recent[-1].emitted if self._recent else NEVER)
        emit = self._when_room(emit)
        emitted = (emit + times.emit_cycles(words=words, selected=selected)
                   - times.key_latency)
        self._released.append(emitted)
        selection = Selection(selected, emit, emitted, latency=times.key_latency)
        self._recent.append(selection)
        return selection, {"score": scored, "refine": Interval(first_read, self._refined),
                           "emit": Interval(emit, emitted + times.key_latency)}

    def _when_room(self, cycle: int) -> int:
        """When the queue of keys has room for a selection, from a cycle on.

        It has if at most `queue_limit` of the keys that were written are still to be read. In the
        cycle in which the last key of the query before is written, that key does not count yet.
        """
        if not self._recent:
            return cycle
        if cycle == self._recent[-1].emitted and self._read(self._times.queue_limit + 1) < cycle:
            return cycle
        return max(cycle, self._read(self._times.queue_limit) + 1)

    def _read(self, back: int) -> int:
        """When the queue of keys was read for the last key but some.

        It is read when the key before is taken, which makes room in the register behind it.
        """
        for index in range(len(self._recent) - 1, -1, -1):
            selection = self._recent[index]
            if back < selection.selected:
                key = selection.selected - 1 - back
                if key > 0:
                    cycle = selection.take(key - 1)
                else:
                    cycle = self._recent[index - 1].last if index > 0 else NEVER
                    if self._gapless:
                        cycle = max(cycle, selection.first_shown - 1)
                return (max(cycle, selection.emitted + self._times.key_latency - 1) if back == 0
                        else cycle)
            back -= selection.selected
        return NEVER


class HistogramTopN:
    """A query's selection by histograms: counting, merging, scanning, emitting."""

    def __init__(self, config: Config, query: int) -> None:
        """Begin as after reset."""
        self._times = config.histogram_times(query)
        self._ratio = config.refine_lanes // config.lanes
        self._score_latency = config.score_latency(query)
        times = self._times
        self._merges: deque[int] = deque([NEVER] * times.limit, maxlen=times.limit) # starts
        # As if a query was handed over when all bins are cleared after reset.
        self._handed: deque[int] = deque(
            [times.clear_cycles] * times.unhanded, maxlen=times.unhanded)
        self._selections: deque[Selection] = deque(maxlen=times.banks)
        self._counting = NEVER # the command before goes from waiting to counting
        self._counted = NEVER  # its last word arrives
        self._scanned = NEVER  # the last read of the scan before

    def claim(self, earliest: int) -> int:
        """When a command is taken: bins are free, and no other command waits."""
        times = self._times
        claimed = max(earliest, self._handed[0] + 1)
        if len(self._selections) == times.banks:
            claimed = max(claimed, self._selections[0].released + 1)
        if times.overlap:
            claimed = max(claimed, self._merges[0] + times.free_latency + 1, self._counting + 1)
            self._counting = max(claimed + 1, self._counted)
        return claimed

    def select(self, last_word: int, words: int, selected: int, *, survivors: int = 0,
               final: bool = True) -> tuple[Selection, dict[str, Interval]]:
        """Select of a block, or of all that a command asks for.

        Parameters
        ----------
        last_word
            Cycle in which the last word is asked for.
        words, selected
            Words, and keys that are selected of these and those before.
        survivors
            Keys that are selected of the blocks before.
        final
            Whether the selection leaves; otherwise it only survives.
        """
        times = self._times
        self._counted = last_word + self._score_latency
        scored = Interval(last_word - words + 1, self._counted)

        merge = self._counted + times.count_latency
        if times.overlap:
            merge = max(merge, self._merges[-1] + times.merge_interval, self._handed[-2] + 1)
        handed = max(merge + times.merge_cycles, self._scanned + times.scan_gap)
        if len(self._selections) >= times.limit:
            handed = max(handed, self._selections[-times.limit].released + 1)
        self._merges.append(merge)
        self._handed.append(handed)
        self._scanned = handed + -(-words // self._ratio)

        emit = self._scanned + times.scan_latency
        if self._selections:
            emit = max(emit, self._selections[-1].released)
        if survivors:
            emit += times.filter_cycles(survivors)
        first = emit + times.emit_latency - 1
        left = self._selections[-1].last if self._selections else 0
        if final:
            first = max(first, left)
        selection = Selection(selected, emit, first + selected - 2, last=left)
        self._selections.append(selection)
        return selection, {
            "score": scored, "merge": Interval(merge, handed),
            "scan": Interval(handed + 1, self._scanned),
            "emit": Interval(emit, first + selected)}
