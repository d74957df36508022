"""From selected keys to outputs: dot-product scores, weights, sums and their division."""

from collections import deque

from nearbit_model.config import Config
from nearbit_model.cycles.loads import RescoreQueries
from nearbit_model.cycles.pipeline import NEVER, Pipeline
from nearbit_model.cycles.selection import Selection
from nearbit_model.cycles.shapes import Interval
from nearbit_model.structure import (
    ACCUMULATOR_LATENCY,
    CLEARING_GAP,
    RESCORE_KEY_STORE_LATENCY,
    RESCORER_DEPTH,
    SCALING_GAP,
    SOFTMAX_BUFFERS,
    VALUE_STORE_LATENCY,
    rescorer_latency,
    softmax_latency,
)


__all__ = ["Replay", "Rescorer"]


class Rescorer:
    """Rescorer and RescoreKeyStore: from the selection's keys to Softmax."""

    def __init__(self, config: Config) -> None:
        """Begin as after reset."""
        unit = config.rescore
        lanes = 1 if unit is None else unit.lanes
        self._beats = 1 if unit is None else unit.beats
        self._latency = rescorer_latency(lanes)
        self.queries = RescoreQueries(self._beats, config.rescore_query_slots)
        self._store = Pipeline()
        self._pipeline = Pipeline()
        self._asked = NEVER # when the last beat, or key that needs none, began to wait
        self._taken = NEVER # move of the pipeline in which it was taken
        self._waiting: deque[int] = deque([NEVER] * RESCORER_DEPTH, maxlen=RESCORER_DEPTH)

    def _go(self, cycle: int, *, needs_beat: bool) -> int:
        """Let a beat of a key wait, from a cycle on; gives when it begins to."""
        asked = max(cycle, self._asked + 1, self._waiting[0] + 1)
        shown = asked + 1
        answered = NEVER
        if needs_beat:
            move = self._store.next_move(asked)
            asked = self._store.cycle(move)
            answered = move + RESCORE_KEY_STORE_LATENCY
            shown = max(asked + 1, self._store.shown(answered))
        self._taken = max(self._pipeline.next_move(shown), self._taken + 1)
        taken = self._pipeline.cycle(self._taken)
        if needs_beat:
            self._store.hold(answered, taken)
        self._asked = asked
        self._waiting.append(taken)
        return asked

    def skip(self, turn: int) -> int:
        """Drop a query; gives when the key that stands for it is accepted."""
        accepted = self._go(max(turn, self.queries.next_ready()), needs_beat=False)
        self.queries.free(self._waiting[-1])
        return accepted

    def run(self, selection: Selection, turn: int, *, rescore: bool, free: int, again: bool
            ) -> tuple[int, dict[str, Interval]]:
        """Take a selection from a cycle on; gives when Softmax, once free, takes the last key.

        It may be one that a query before had.
        """
        cycle = max(turn, selection.passed + 2 if again else selection.first_shown)
        each: list[int] = []
        if rescore:
            cycle = max(cycle, self.queries.next_ready())
        first = NEVER
        left = NEVER
        for key in range(selection.selected):
            for _ in range(self._beats if rescore else 1):
                cycle = self._go(cycle, needs_beat=rescore)
                first = cycle if first == NEVER else first
            each.append(cycle)
            cycle += 1
            leaves = self._taken + self._latency
            if key == 0:
                self._pipeline.hold(leaves, free)
            left = self._pipeline.cycle(leaves)
        if rescore:
            self.queries.free(self._waiting[-1])
        if not again:
            selection.taken, selection.last, selection.each = each[0], each[-1], each
        selection.passed = each[-1]
        return left, {"rescore": Interval(first, left)}


class Replay:
    """Softmax, ValueStore, ValueAccumulator and Normalizer: keys, beats, outputs."""

    def __init__(self, config: Config) -> None:
        """Begin as after reset."""
        self._beats = config.beats
        self._scale_beats = config.scale_beats
        self._lanes = config.value_lanes
        self._depth = config.normalizer_latency
        self._divider_cycles = config.divider_cycles
        self._latency = softmax_latency(scores=config.rescore is not None)
        self._softmax = Pipeline()
        self._store = Pipeline()
        self._accumulator = Pipeline()
        self._normalizer = Pipeline()
        self._freed: deque[int] = deque([NEVER] * SOFTMAX_BUFFERS,
                                        maxlen=SOFTMAX_BUFFERS)
        self._issued = NEVER   # move of Softmax in which the last key so far was read
        self._asked = NEVER    # move of ValueStore in which its beat was asked for
        self._added = NEVER    # move of ValueAccumulator in which its beat was taken
        self._started = NEVER  # move of Normalizer in which the beat before started
        self._accepted = NEVER # cycle in which that beat was accepted
        self._last_sums = NEVER # cycle in which the sums of the beat before were complete

    @property
    def free(self) -> int:
        """When the next selection's buffer is free."""
        return self._freed[0]

    def run(self, keys: int, last: int, turn: int, trace: bool
            ) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Interval]]:
        """Answer a selection whose last key is taken in a cycle.

        Its result may leave from the cycle ``turn`` on. Gives the first output of each beat, the
        trace, and the stages' cycles.
        """
        ready = last + (keys == 1)
        issue = max(self._softmax.next_move(ready), self._issued + 1)
        first, first_issue = issue, self._softmax.cycle(issue)
        outputs: list[int] = []
        traced: tuple[int, ...] = ()
        first_asked = first_entered = 0
        earliest = self._added + CLEARING_GAP if self._scale_beats else NEVER
        if self._scale_beats:
            first_asked, first_added = self._move_keys(issue, keys, 0, earliest)
            # Until the first key's scaled weight is stored.
            earliest = first_added + SCALING_GAP
            issue += keys
        for beat in range(self._beats):
            asked, _ = self._move_keys(issue, keys, beat, earliest)
            if beat == 0 and not self._scale_beats:
                first_asked = asked
            if self._scale_beats:
                earliest = self._added + CLEARING_GAP
            entered = self._move_beat()
            if beat == 0:
                # What leaves before this result holds the normalizer; only the first output is put
                # aside.
                self._normalizer.hold(self._started + self._depth + 1, turn + 1)
                first_entered = entered
                if trace:
                    traced = tuple(self._softmax.shown(first + key + self._latency)
                                   for key in range(keys))
            self._accepted = self._normalizer.cycle(
                self._started + (self._lanes - 1) * self._divider_cycles)
            outputs.append(max(self._normalizer.cycle(self._started + self._depth), turn))
            issue += keys
        self._issued = issue - 1
        self._freed.append(self._softmax.cycle(issue) + 1)
        end = outputs[-1] + (self._lanes - 1) * self._divider_cycles
        return tuple(outputs), traced, {
            "weigh": Interval(first_issue, self._softmax.cycle(self._issued)),
            "accumulate": Interval(first_asked, self._last_sums),
            "normalize": Interval(first_entered, end),
        }

    def _move_keys(self, issue: int, keys: int, beat: int, earliest: int) -> tuple[int, int]:
        """Take a beat's keys to their beats' arrival.

        The accumulator takes none before the move ``earliest``. Gives when the first key's beat is
        asked for, and the move in which the accumulator takes it.
        """
        first_asked = first_added = key = 0
        while key < keys:
            # Without a stall on the way, all keys but the last are as they should be.
            if (key or (beat and not self._scale_beats)) \
                    and self._accumulator.last_held <= self._added \
                    and self._store.last_held <= self._asked:
                key = keys - 1
            asked = self._move_key(issue + key, earliest)
            if key == 0:
                first_asked, first_added = asked, self._added
            key += 1
        return first_asked, first_added

    def _move_key(self, issue: int, earliest: int) -> int:
        """Take a key from the buffer to its beat's arrival; gives when the beat is asked for.

        The accumulator does not take it before a move.
        """
        weighed = issue + self._latency
        self._asked = self._store.next_move(self._softmax.shown(weighed))
        asked = self._store.cycle(self._asked)
        self._softmax.hold(weighed, asked)
        answered = self._asked + VALUE_STORE_LATENCY
        self._added = max(self._accumulator.next_move(self._store.shown(answered)), earliest)
        self._store.hold(answered, self._accumulator.cycle(self._added))
        return asked

    def _move_beat(self) -> int:
        """Take the sums of the last key's beat to the normalizer; gives when they enter it."""
        complete = self._added + ACCUMULATOR_LATENCY - 1
        self._accumulator.hold(complete, self._accepted)
        self._last_sums = self._accumulator.cycle(complete)
        self._started = max(self._normalizer.next_move(self._last_sums + 1),
                            self._started + self._lanes * self._divider_cycles)
        return self._normalizer.cycle(self._started)
