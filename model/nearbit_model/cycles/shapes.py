"""Shapes of what is pushed into a core, and when it is accepted and answered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nearbit_model.config import Config
from nearbit_model.structure import Error


__all__ = ["Accepted", "Answer", "Command", "Interval", "Phase", "Timeline", "load"]


@dataclass(frozen=True)
class Command:
    """The shape of a command.

    Parameters
    ----------
    counts
        For each row, the keys that it may see.
    n, sink, recent
        Which of them are selected.
    first
        The first key that all rows see.
    tables
        For each row, its weight table; table 0, if there are none.
    trace
        Whether the selection is to be told.
    rescore
        Whether the selected keys are scored exactly. Then there is a query for each row among the
        :attr:`Phase.exact_queries` of the same phase or one before.
    shared
        Whether the rows share a selection.
    """

    counts: tuple[int, ...]
    n: int
    sink: int = 0
    recent: int = 0
    first: int = 0
    tables: tuple[int, ...] = ()
    trace: bool = False
    rescore: bool = False
    shared: bool = False

    @property
    def selected_most(self) -> int:
        """Keys selected of a long range."""
        return self.n + self.sink + self.recent

    def survivors(self, row: int, seen: int) -> int:
        """Keys selected of a row's range when only the first of it were seen.

        The last `recent` keys are those of the whole range.
        """
        count = self.counts[row]
        seen = min(seen, count)
        sinks = min(self.sink, seen)
        recent = max(0, seen - max(count - self.recent, sinks))
        others = max(0, min(seen, count - self.recent) - self.sink)
        return sinks + recent + min(self.n, others)


@dataclass(frozen=True)
class Phase:
    """What is pushed in parallel, see :mod:`nearbit_model.transfers.program`.

    Parameters
    ----------
    keys
        Rows of the key loads, in order.
    values
        Row and column of the value loads, in order.
    tables
        Table, distance and weight of the table loads, in order. Of the weight it matters only
        whether it is 0, and only for distance 0: a table whose first weight is 0 is not usable.
    exact_keys
        Row and column of the loads of keys for exact scores, in order.
    exact_queries
        Beats of queries for exact scores.
    commands
        Commands, in order.
    delay
        Cycles to wait before the phase begins.
    """

    keys: Sequence[int] = ()
    values: Sequence[tuple[int, int]] = ()
    tables: Sequence[tuple[int, int, int]] = ()
    exact_keys: Sequence[tuple[int, int]] = ()
    exact_queries: int = 0
    commands: Sequence[Command] = ()
    delay: int = 0


def load(config: Config, keys: int, *, first: int = 0, tables: int = 1, delay: int = 0) -> Phase:
    """Shape the phase that loads rows from ``first`` on and some whole tables."""
    rows = range(first, first + keys)
    exact_columns = 0 if config.rescore is None else config.rescore.columns
    return Phase(
        exact_keys=[(row, column) for row in rows for column in range(exact_columns)],
        keys=rows,
        values=[(row, column) for row in rows for column in range(config.columns)],
        tables=[(table, distance, 1) for table in range(tables)
                for distance in range(config.key_bits + 1)],
        delay=delay)


@dataclass(frozen=True)
class Accepted:
    """When a phase's transfers are accepted, in the order in which they are pushed."""

    keys: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    tables: list[int] = field(default_factory=list)
    exact_keys: list[int] = field(default_factory=list)
    exact_queries: list[int] = field(default_factory=list)
    commands: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Interval:
    """A stage's work on a query, from its first to its last cycle, both included."""

    start: int
    end: int

    def __len__(self) -> int:
        """Count the cycles."""
        return self.end - self.start + 1


@dataclass(frozen=True)
class Answer:
    """A row's answer to a command.

    Parameters
    ----------
    command
        Index of the command, over all phases.
    row
        Row of the command.
    error
        Error.OK, or why there is a single beat and no result.
    words, selected
        Words of keys that were scored, and keys selected of them; 0 for an error.
    offered, accepted
        When the command was offered and accepted.
    columns
        The first beat of each column of the result; the single beat of an error.
    beats_per_column, beat_cycles
        Beats of a column, and cycles from one to the next.
    trace
        The beats of the trace; none, if it was not asked for.
    stages
        When each stage worked on it: ``score``, ``refine``, ``emit``, ``rescore`` (if the core has
        exact scores), ``weigh``, ``accumulate``, ``normalize``. Empty for an error.
    """

    command: int
    row: int
    error: Error
    words: int
    selected: int
    offered: int
    accepted: int
    columns: tuple[int, ...]
    beats_per_column: int
    beat_cycles: int
    trace: tuple[int, ...]
    stages: dict[str, Interval]

    @property
    def start(self) -> int:
        """Cycle of the first beat."""
        return self.columns[0]

    @property
    def end(self) -> int:
        """Cycle of the last beat."""
        return self.columns[-1] + (self.beats_per_column - 1) * self.beat_cycles

    @property
    def beats(self) -> Iterator[int]:
        """Cycles of all beats."""
        for first in self.columns:
            yield from range(first, first + self.beats_per_column * self.beat_cycles,
                             self.beat_cycles)


@dataclass(frozen=True)
class Timeline:
    """What happens when.

    Parameters
    ----------
    accepted
        For each phase, when its transfers are accepted.
    answers
        Answers in the order in which they leave: command by command, row by row.
    """

    accepted: list[Accepted]
    answers: list[Answer]

    @property
    def results(self) -> list[int]:
        """Cycles of all beats of the results."""
        return [beat for answer in self.answers for beat in answer.beats]

    @property
    def trace(self) -> list[int]:
        """Cycles of all beats of the trace."""
        return [beat for answer in self.answers for beat in answer.trace]

    @property
    def cycles(self) -> int:
        """Cycles up to the last transfer, the first one after reset included."""
        ends = [cycles[-1] for phase in self.accepted
                for cycles in vars(phase).values() if cycles]
        return max((*ends, *(answer.end for answer in self.answers[-1:])), default=-1) + 1
