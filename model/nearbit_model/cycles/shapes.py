"""Shapes of what is pushed into a core, and when it is accepted and answered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nearbit_model.config import Config
from nearbit_model.structure import Error


__all__ = ["Accepted", "Answer", "Command", "Interval", "Phase", "Timeline", "Traffic",
           "load"]


@dataclass(frozen=True)
class Command:
    """The shape of a command.

    Parameters
    ----------
    counts
        For each query, the keys that it may see.
    n, sink, recent
        Which of them are selected.
    first
        The first key that all queries see.
    exp_tables
        For each query, its exp table; exp table 0, if there are none.
    trace
        Whether the selection is to be told.
    rescore
        Whether the selected keys are rescored. Then there is a rescore query for each query among
        the
        :attr:`Phase.rescore_queries` of the same phase or one before.
    shared
        Whether the queries share a selection.
    head, sequence
        With a memory: where the keys are.
    bursts
        With a memory: for each query, of each key that it selects, in their order (by descending
        index), the beats of the first of the two bursts in which its row is read; 0, if there is
        only one, as it does not cross 4 KiB. An empty one says that none does.
    """

    counts: tuple[int, ...]
    n: int
    sink: int = 0
    recent: int = 0
    first: int = 0
    exp_tables: tuple[int, ...] = ()
    trace: bool = False
    rescore: bool = False
    shared: bool = False
    head: int = 0
    sequence: int = 0
    bursts: tuple[tuple[int, ...], ...] = ()

    @property
    def selected_most(self) -> int:
        """Keys selected of a long range."""
        return self.n + self.sink + self.recent

    def survivors(self, query: int, seen: int) -> int:
        """Keys selected of a query's range when only the first of it were seen.

        The last `recent` keys are those of the whole range.
        """
        count = self.counts[query]
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
        Tokens of the key loads, in order.
    values
        Token and beat of the value loads, in order.
    exp_tables
        Exp table, distance and weight of the exp table loads, in order. Of the weight it matters
        only whether it is 0, and only for distance 0: an exp table whose first weight is 0 is not
        usable.
    rescore_keys
        Token and beat of the loads of keys for rescoring, in order.
    rescore_queries
        Beats of rescore queries.
    commands
        Commands, in order.
    heads
        With a memory: heads that are set in its tables, in order.
    pages
        With a memory: how many pages are set in its tables; before it is asked for, each must be.
    tokens
        With a memory: sequences, and the number of tokens that they have from then on, in order.
    delay
        Cycles to wait before the phase begins.
    """

    keys: Sequence[int] = ()
    values: Sequence[tuple[int, int]] = ()
    exp_tables: Sequence[tuple[int, int, int]] = ()
    rescore_keys: Sequence[tuple[int, int]] = ()
    rescore_queries: int = 0
    commands: Sequence[Command] = ()
    delay: int = 0
    heads: Sequence[int] = ()
    pages: int = 0
    tokens: Sequence[tuple[int, int]] = ()


def load(config: Config, keys: int, *, first: int = 0, exp_tables: int = 1,
         delay: int = 0) -> Phase:
    """Shape the phase that loads tokens from ``first`` on and some whole exp tables."""
    tokens = range(first, first + keys)
    rescore_beats = 0 if config.rescore is None else config.rescore.beats
    return Phase(
        rescore_keys=[(token, beat) for token in tokens for beat in range(rescore_beats)],
        keys=tokens,
        values=[(token, beat) for token in tokens for beat in range(config.beats)],
        exp_tables=[(exp_table, distance, 1) for exp_table in range(exp_tables)
                    for distance in range(config.key_bits + 1)],
        delay=delay)


@dataclass(frozen=True)
class Accepted:
    """When a phase's transfers are accepted, in the order in which they are pushed."""

    keys: list[int] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    exp_tables: list[int] = field(default_factory=list)
    rescore_keys: list[int] = field(default_factory=list)
    rescore_queries: list[int] = field(default_factory=list)
    commands: list[int] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


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
    """A query's answer to a command.

    Parameters
    ----------
    command
        Index of the command, over all phases.
    query
        Query of the command.
    error
        Error.OK, or why there is a single beat and no result.
    words, selected
        Words of keys that were scored, and keys selected of them; 0 for an error.
    offered, accepted
        When the command was offered and accepted.
    beat_starts
        The first output of each beat of values; the single one of an error.
    outputs_per_beat, output_cycles
        Outputs of a beat of values, and cycles from one to the next.
    trace
        The beats of the trace; none, if it was not asked for.
    stages
        When each stage worked on it: ``score``, ``refine``, ``emit``, ``rescore`` (if the core has
        rescoring), ``weigh``, ``accumulate``, ``normalize``. With a memory, also ``codes``, from
        the address of the first burst to the last beat, and ``rows``, from the first key until the
        last row can be read, of each selection that is not shared with a query before. Empty for an
        error.
    """

    command: int
    query: int
    error: Error
    words: int
    selected: int
    offered: int
    accepted: int
    beat_starts: tuple[int, ...]
    outputs_per_beat: int
    output_cycles: int
    trace: tuple[int, ...]
    stages: dict[str, Interval]

    @property
    def start(self) -> int:
        """Cycle of the first beat."""
        return self.beat_starts[0]

    @property
    def end(self) -> int:
        """Cycle of the last beat."""
        return self.beat_starts[-1] + (self.outputs_per_beat - 1) * self.output_cycles

    @property
    def beats(self) -> Iterator[int]:
        """Cycles of all beats."""
        for first in self.beat_starts:
            yield from range(first, first + self.outputs_per_beat * self.output_cycles,
                             self.output_cycles)


@dataclass(frozen=True)
class Traffic:
    """What was read on a bus."""

    bursts: int
    beats: int


@dataclass(frozen=True)
class Timeline:
    """What happens when.

    Parameters
    ----------
    accepted
        For each phase, when its transfers are accepted.
    answers
        Answers in the order in which they leave: command by command, query by query.
    traffic
        With a memory: what was read on the bus of codes, and on those of rows.
    """

    accepted: list[Accepted]
    answers: list[Answer]
    traffic: tuple[Traffic, ...] = ()

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
