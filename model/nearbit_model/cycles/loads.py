"""When the stores take their loads, and what commands find loaded."""

from collections import deque

from nearbit_model.config import Config
from nearbit_model.cycles.pipeline import NEVER
from nearbit_model.cycles.shapes import Accepted, Command, Phase
from nearbit_model.structure import Error


__all__ = ["RescoreQueries", "Loads"]


class Loads:
    """The stores' and exp tables' inputs, and what commands find loaded.

    A load below the watermark, of an exp table, or of values with a single port, waits until no
    command is in work: from the cycle in which it is first offered until the last beat of its last
    query.
    """

    def __init__(self, config: Config) -> None:
        """Begin as after reset."""
        self._beats = config.beats
        self._single_port = config.value_ports == 1
        self._scaled = NEVER # when the scale of the vector whose last beat is next was written
        self._keys = 0
        self._values = 0
        self._rescore_beats = 0 if config.rescore is None else config.rescore.beats
        self._shared = config.rescore is not None and config.rescore.shared
        self._rescore = 0
        self._usable = [False] * config.exp_tables
        self._busy: list[tuple[int, int]] = [] # times without a cycle between commands, in order
        self._phase = Phase()
        self._accepted = Accepted()
        self._start = 0

    def begin(self, phase: Phase, accepted: Accepted, start: int) -> None:
        """Offer a phase's loads from a cycle on."""
        self._phase, self._accepted, self._start = phase, accepted, start
        self._busy = [time for time in self._busy if time[1] >= start]

    def occupy(self, offered: int, complete: int) -> None:
        """Note when a command is in work."""
        if self._busy and offered <= self._busy[-1][1] + 1:
            offered, _ = self._busy.pop()
        self._busy.append((offered, complete))

    def _idle(self, cycle: int) -> int:
        """The first cycle from this one on in which no command is in work."""
        for offered, complete in self._busy:
            if offered <= cycle <= complete:
                cycle = complete + 1
        return cycle

    def advance(self, before: int) -> None:
        """Make all transfers before a cycle, that in which the next command is offered."""
        phase, done = self._phase, self._accepted
        while len(done.keys) < len(phase.keys):
            cycle = done.keys[-1] + 1 if done.keys else self._start
            token = phase.keys[len(done.keys)]
            if token < self._keys:
                cycle = self._idle(cycle)
            if cycle >= before:
                break
            done.keys.append(cycle)
            self._keys = max(self._keys, token + 1)
        while len(done.values) < len(phase.values):
            cycle = done.values[-1] + 1 if done.values else self._start
            token, beat = phase.values[len(done.values)]
            if token < self._values or self._single_port:
                cycle = self._idle(max(cycle, self._scaled + 1))
            if cycle >= before:
                break
            if self._single_port and beat == self._beats - 1 and self._scaled == NEVER:
                # The memory takes the scale first.
                self._scaled = cycle
                continue
            self._scaled = NEVER
            done.values.append(cycle)
            if beat == self._beats - 1:
                self._values = max(self._values, token + 1)
        while len(done.rescore_keys) < len(phase.rescore_keys):
            cycle = done.rescore_keys[-1] + 1 if done.rescore_keys else self._start
            token, beat = phase.rescore_keys[len(done.rescore_keys)]
            if token < self._rescore:
                cycle = self._idle(cycle)
            if cycle >= before:
                break
            done.rescore_keys.append(cycle)
            if beat == self._rescore_beats - 1:
                self._rescore = max(self._rescore, token + 1)
        while len(done.exp_tables) < len(phase.exp_tables):
            cycle = self._idle(done.exp_tables[-1] + 1 if done.exp_tables else self._start)
            if cycle >= before:
                break
            exp_table, distance, weight = phase.exp_tables[len(done.exp_tables)]
            done.exp_tables.append(cycle)
            if distance == 0:
                self._usable[exp_table] = weight != 0

    def error(self, command: Command, query: int, top_n: int) -> Error:
        """Check a query of a command against what was loaded before the cycle of the check."""
        if command.n == 0:
            return Error.NO_N
        if command.selected_most > top_n:
            return Error.TOO_MANY
        if command.counts[query] == 0:
            return Error.EMPTY
        readable = min(self._keys, self._values)
        if command.rescore and self._rescore_beats:
            readable = min(readable, self._rescore)
        if command.first + command.counts[query] > readable:
            return Error.RANGE
        if not (command.rescore
                or self._usable[command.exp_tables[query] if command.exp_tables else 0]):
            return Error.EXP_TABLE
        if ((command.rescore and not self._rescore_beats)
                or (command.shared and not self._shared)):
            return Error.RESCORE
        if command.shared and not (command.rescore and len(set(command.counts)) == 1):
            return Error.SHARED
        return Error.OK


class RescoreQueries:
    """The rescorer's ring of queries: when each is complete.

    A beat is taken when there is a place for its query: when the one that had it is free.
    """

    def __init__(self, beats_per_query: int, places: int) -> None:
        """Begin as after reset."""
        self._beats_per_query = beats_per_query
        self._places = places
        self._offered: deque[tuple[list[int], int, int]] = deque() # accepted, start, beats to come
        self._beats = 0     # accepted
        self._last = NEVER # when the last one was
        self._complete: list[int] = [] # of each query, when its last beat is accepted
        self._freed: list[int] = []

    def begin(self, phase: Phase, accepted: Accepted, start: int) -> None:
        """Offer a phase's beats from a cycle on."""
        if phase.rescore_queries:
            self._offered.append((accepted.rescore_queries, start, phase.rescore_queries))

    def free(self, cycle: int) -> None:
        """Note when the next query is no longer needed."""
        self._freed.append(cycle)

    def _accept(self) -> bool:
        """Accept a beat, if one is offered and it is known when there is a place for it."""
        query = self._beats // self._beats_per_query
        if not self._offered or query - self._places >= len(self._freed):
            return False
        accepted, start, left = self._offered.popleft()
        cycle = max(start, self._last + 1)
        if query >= self._places:
            cycle = max(cycle, self._freed[query - self._places] + 1)
        accepted.append(cycle)
        self._last = cycle
        self._beats += 1
        if self._beats % self._beats_per_query == 0:
            self._complete.append(cycle)
        if left > 1:
            self._offered.appendleft((accepted, start, left - 1))
        return True

    def next_ready(self) -> int:
        """The first cycle in which the next query, the first that is not free, can be used."""
        while len(self._complete) <= len(self._freed):
            if not self._accept():
                raise ValueError("a command is rescored without a rescore query for each query in "
                                 "its phase "
                                 "or one before")
        return self._complete[len(self._freed)] + 1

    def finish(self) -> None:
        """Accept all that is offered."""
        while self._accept():
            pass
        if self._offered:
            raise ValueError("there are more queries for rescoring than commands take and the "
                             "core holds")
