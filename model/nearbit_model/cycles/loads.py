"""When the stores take their loads, and what commands find loaded."""

from collections import deque

from nearbit_model.config import Config
from nearbit_model.cycles.pipeline import NEVER
from nearbit_model.cycles.shapes import Accepted, Command, Phase
from nearbit_model.structure import Error


__all__ = ["ExactQueries", "Loads"]


class Loads:
    """The stores' and tables' inputs, and what commands find loaded.

    A load below the watermark, of a table, or of values with a single port, waits until no command
    is in work: from the cycle in which it is first offered until the last beat of its last row.
    """

    def __init__(self, config: Config) -> None:
        """Begin as after reset."""
        self._columns = config.columns
        self._single_port = config.value_ports == 1
        self._keys = 0
        self._values = 0
        self._exact_columns = 0 if config.rescore is None else config.rescore.columns
        self._shared = config.rescore is not None and config.rescore.shared
        self._exact = 0
        self._usable = [False] * config.tables
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
            row = phase.keys[len(done.keys)]
            if row < self._keys:
                cycle = self._idle(cycle)
            if cycle >= before:
                break
            done.keys.append(cycle)
            self._keys = max(self._keys, row + 1)
        while len(done.values) < len(phase.values):
            cycle = done.values[-1] + 1 if done.values else self._start
            row, column = phase.values[len(done.values)]
            if row < self._values or self._single_port:
                cycle = self._idle(cycle)
            if cycle >= before:
                break
            done.values.append(cycle)
            if column == self._columns - 1:
                self._values = max(self._values, row + 1)
        while len(done.exact_keys) < len(phase.exact_keys):
            cycle = done.exact_keys[-1] + 1 if done.exact_keys else self._start
            row, column = phase.exact_keys[len(done.exact_keys)]
            if row < self._exact:
                cycle = self._idle(cycle)
            if cycle >= before:
                break
            done.exact_keys.append(cycle)
            if column == self._exact_columns - 1:
                self._exact = max(self._exact, row + 1)
        while len(done.tables) < len(phase.tables):
            cycle = self._idle(done.tables[-1] + 1 if done.tables else self._start)
            if cycle >= before:
                break
            table, distance, weight = phase.tables[len(done.tables)]
            done.tables.append(cycle)
            if distance == 0:
                self._usable[table] = weight != 0

    def error(self, command: Command, row: int, top_n: int) -> Error:
        """Check a row of a command against what was loaded before the cycle of the check."""
        if command.n == 0:
            return Error.NO_N
        if command.selected_most > top_n:
            return Error.TOO_MANY
        if command.counts[row] == 0:
            return Error.EMPTY
        readable = min(self._keys, self._values)
        if command.rescore and self._exact_columns:
            readable = min(readable, self._exact)
        if command.first + command.counts[row] > readable:
            return Error.RANGE
        if not (command.rescore or self._usable[command.tables[row] if command.tables else 0]):
            return Error.TABLE
        if ((command.rescore and not self._exact_columns)
                or (command.shared and not self._shared)):
            return Error.RESCORE
        if command.shared and not (command.rescore and len(set(command.counts)) == 1):
            return Error.SHARED
        return Error.OK


class ExactQueries:
    """The rescorer's ring of queries: when each is complete.

    A beat is taken when there is a place for its query: when the one that had it is free.
    """

    def __init__(self, columns: int, places: int) -> None:
        """Begin as after reset."""
        self._columns = columns
        self._places = places
        self._offered: deque[tuple[list[int], int, int]] = deque() # accepted, start, beats to come
        self._beats = 0     # accepted
        self._last = NEVER # when the last one was
        self._complete: list[int] = [] # of each query, when its last beat is accepted
        self._freed: list[int] = []

    def begin(self, phase: Phase, accepted: Accepted, start: int) -> None:
        """Offer a phase's beats from a cycle on."""
        if phase.exact_queries:
            self._offered.append((accepted.exact_queries, start, phase.exact_queries))

    def free(self, cycle: int) -> None:
        """Note when the next query is no longer needed."""
        self._freed.append(cycle)

    def _accept(self) -> bool:
        """Accept a beat, if one is offered and it is known when there is a place for it."""
        query = self._beats // self._columns
        if not self._offered or query - self._places >= len(self._freed):
            return False
        accepted, start, left = self._offered.popleft()
        cycle = max(start, self._last + 1)
        if query >= self._places:
            cycle = max(cycle, self._freed[query - self._places] + 1)
        accepted.append(cycle)
        self._last = cycle
        self._beats += 1
        if self._beats % self._columns == 0:
            self._complete.append(cycle)
        if left > 1:
            self._offered.appendleft((accepted, start, left - 1))
        return True

    def next_ready(self) -> int:
        """The first cycle in which the next query, the first that is not free, can be used."""
        while len(self._complete) <= len(self._freed):
            if not self._accept():
                raise ValueError("a command is rescored without a query for each row in its phase "
                                 "or one before")
        return self._complete[len(self._freed)] + 1

    def finish(self) -> None:
        """Accept all that is offered."""
        while self._accept():
            pass
        if self._offered:
            raise ValueError("there are more queries for exact scores than commands take and the "
                             "core holds")
