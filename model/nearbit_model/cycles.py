"""Cycle model: when the hardware accepts every input and gives every beat, from shapes alone.

:func:`predict` takes what a program for the core pushes, without codes, values and weights, and
gives the cycles that a simulation would: the same ones, not estimates. Nothing in the hardware's
timing depends on data, so nothing else is needed.

The time of each event is the latest of the times of what it waits for, plus a constant. A command
never waits for anything that a later one does, so commands are worked through one after another,
and each block below keeps, of those before, the times that the next one may have to wait for. The
constants and rules are those in the docstrings of the blocks of :mod:`nearbit_hw` of the same name.

After the selection the blocks are pipelines that move as a whole or not at all, see
:class:`_Pipeline`; they wait for each other only where a query's columns come faster than the
normalizer takes them.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from fractions import Fraction

from nearbit_model.config import Config


__all__ = ["Accepted", "Answer", "Command", "Error", "Interval", "Phase", "Steady", "Timeline",
           "load", "predict", "steady", "tree_latency"]


# Cycles are counted from the first one after reset. Names of times say what happens then.

FAN_IN = 4
"""Terms joined per level of an adder tree (:mod:`nearbit_hw.tree`)."""

BANKS = 3
"""Queries in the selection of a row: one is counted, one refined, one emitted."""

BUFFERS = 2
"""Selections in Weights: one is filled, one replayed."""

HISTOGRAM_GROUP = 4
"""Lanes among which the selection by histograms looks for a key at once, at most."""

GROUP = 8
"""Words whose summaries the selection examines per cycle, at least."""

REGISTERED_LANES = 16
"""Lanes above which what the selection reads of its banks, and a selected key, pass a register."""

COMMANDS_IN_FLIGHT = 4
"""Places of the core's queue of commands from their start to the merging of their rows."""

RESULTS_IN_FLIGHT = 8
"""Places of the core's queue of rows from their selection to their result."""

KEY_STORE_LATENCY = 1
VALUE_STORE_LATENCY = 2
EXACT_KEY_STORE_LATENCY = 1
RESCORER_DEPTH = 2
"""Beats asked for, and keys that need none, in front of the rescorer's pipeline."""
RESCORER_LATENCY = 3
"""Without the tree of adders."""
EXACT_QUERIES = 8
"""Queries for exact scores held for each row, at least."""
WEIGHTS_LATENCY = 3
RESCORED_WEIGHTS_LATENCY = 6
"""In a core that has exact scores."""
ACCUMULATOR_LATENCY = 4

_NEVER = -(1 << 62)
_FOREVER = 1 << 62


class Error(IntEnum):
    """Why a row of a command has no result, as :class:`nearbit_hw.dispatcher.Error`."""

    OK = 0
    NO_N = 1
    TOO_MANY = 2
    EMPTY = 3
    RANGE = 4
    TABLE = 5
    RESCORE = 6
    SHARED = 7


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


@dataclass(frozen=True)
class Phase:
    """What is pushed in parallel, see :mod:`nearbit_sim.program`.

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


def predict(config: Config, phases: Sequence[Phase]) -> Timeline:
    """Predict when the core of a configuration takes its inputs and gives its results.

    Cycle 0 is the first after reset. In a phase, all sequences are offered at full rate in
    parallel; the next phase begins in the cycle after its last transfer, or ``delay`` cycles later.
    Outputs are always ready.
    """
    for phase in phases:
        for command in phase.commands:
            if len(command.counts) != config.rows:
                raise ValueError(f"a command must have {config.rows} counts, "
                                 f"not {len(command.counts)}")
    core = _Core(config)
    start = 0
    accepted = []
    for phase in phases:
        start += phase.delay
        accepted.append(core.run(phase, start))
        start = max((start - 1, *(cycles[-1] for cycles in vars(accepted[-1]).values() if cycles))
                    ) + 1
    return Timeline(accepted, core.answers)


def tree_latency(count: int, fan_in: int = FAN_IN) -> int:
    """Levels of an adder tree over some terms, each of which takes a cycle."""
    levels, terms = 1, -(-count // fan_in)
    while terms > 1:
        levels, terms = levels + 1, -(-terms // fan_in)
    return levels


def _score_latency(config: Config, row: int = 0) -> int:
    """Cycles from asking for a word to a row's distances."""
    return (KEY_STORE_LATENCY + 1 + row // config.rows_per_stage
            + tree_latency(config.key_bits, config.fan_in))


def _score_stages(config: Config) -> int:
    """Stages of the score array that a word passes."""
    return -(-config.rows // config.rows_per_stage)


class _Pipeline:
    """Stages that all move in a cycle, or none does.

    What enters in one move leaves the stage k later k moves later, whatever the cycles. Moves are
    numbered such that, without any stall, move x is made in cycle x. A stall holds a move back, and
    with it all that follow. Stalls are added in order; old ones are forgotten, as nothing asks for
    the cycle of a move that long ago.
    """

    _MEMORY = 64 # more moves than any pipeline has stages

    def __init__(self) -> None:
        self._stalls: deque[tuple[int, int]] = deque() # the move, and by how many cycles
        self._total = 0
        self.last_held = _NEVER

    def next_move(self, cycle: int) -> int:
        """The first move that is made in a cycle or after it."""
        late = self._total
        for move, cycles in reversed(self._stalls):
            if cycle > move + late:
                break
            late -= cycles
            if cycle >= move + late:
                return move
        return cycle - late

    def cycle(self, move: int) -> int:
        """The cycle in which a move is made."""
        late = self._total
        for held, cycles in reversed(self._stalls):
            if held <= move:
                break
            late -= cycles
        return move + late

    def shown(self, move: int) -> int:
        """The first cycle in which what leaves with a move is presented."""
        return self.cycle(move - 1) + 1

    def hold(self, move: int, until: int) -> None:
        """Make a move in this cycle at the earliest."""
        wait = until - self.cycle(move)
        if wait <= 0:
            return
        self._stalls.append((move, wait))
        self._total += wait
        self.last_held = move
        while self._stalls[0][0] < move - self._MEMORY:
            self._stalls.popleft()


class _Loads:
    """The stores' and tables' inputs, and what commands find loaded.

    A load below the watermark, of a table, or of values with a single port, waits until no command
    is in work: from the cycle in which it is first offered until the last beat of its last row.
    """

    def __init__(self, config: Config) -> None:
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


class _ExactQueries:
    """The rescorer's ring of queries: when each is complete.

    A beat is taken when there is a place for its query: when the one that had it is free.
    """

    def __init__(self, columns: int, places: int) -> None:
        self._columns = columns
        self._places = places
        self._offered: deque[tuple[list[int], int, int]] = deque() # accepted, start, beats to come
        self._beats = 0     # accepted
        self._last = _NEVER # when the last one was
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


@dataclass
class _Selection:
    """A query in a row's selection."""

    selected: int
    emit: int      # emitting starts
    emitted: int   # the last key goes into the queue of keys
    taken: int = 0 # the next unit begins to take keys
    last: int = 0  # and takes the last one
    each: list[int] = field(default_factory=list) # when it takes each, if not one per cycle
    latency: int = 2 # from the queue of keys to the next unit
    passed: int = 0 # the last key is taken for the last time so far, if rows share the selection

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


class _TopN:
    """A row's selection: banks, the queue in front of counting, refining, emitting."""

    def __init__(self, config: Config, row: int) -> None:
        ratio = config.pass_lanes // config.lanes
        self._ratio = ratio
        self._gapless = config.rescore is not None
        self._group = max(GROUP, ratio)
        self._score_latency = _score_latency(config, row)
        self._count_latency = 4 + tree_latency(config.lanes)
        self._registers = int(config.lanes > REGISTERED_LANES)
        self._refine_latency = 4 + tree_latency(config.pass_lanes) + self._registers
        self._key_latency = 2 + self._registers
        # Keys that may be in the queue of keys when emitting starts.
        depth = 1 << (config.top_n + 2 + self._registers).bit_length()
        self._queue_limit = depth - config.top_n - 2
        self._released: deque[int] = deque([_NEVER] * BANKS, maxlen=BANKS)
        self._counting = _NEVER # the command before goes from waiting to counting
        self._counted = _NEVER  # its last word arrives
        self._refined = _NEVER  # its last read
        self._recent: deque[_Selection] = deque(maxlen=config.top_n + 2)

    def claim(self, earliest: int) -> int:
        """When a command is taken: a bank is free and no other command waits."""
        claimed = max(earliest, self._released[0] + 1, self._counting + 1)
        self._counting = max(claimed + 1, self._counted)
        return claimed

    def select(self, last_word: int, words: int, selected: int) -> tuple[_Selection,
                                                                          dict[str, Interval]]:
        """Select; the cycle given is that in which the command's last word is asked for."""
        self._counted = last_word + self._score_latency
        scored = Interval(last_word - words + 1, self._counted)

        first_read = max(self._counted + self._count_latency, self._refined + 1)
        self._refined = first_read + -(-words // self._ratio) - 1

        emit = max(self._refined + self._refine_latency,
                   self._recent[-1].emitted if self._recent else _NEVER)
        emit = self._when_room(emit)
        # With the registers a word comes a cycle later, and two more are fetched in vain.
        emitted = emit + -(-words // self._group) + selected + 6 + 3 * self._registers
        self._released.append(emitted)
        selection = _Selection(selected, emit, emitted, latency=self._key_latency)
        self._recent.append(selection)
        return selection, {"score": scored, "refine": Interval(first_read, self._refined),
                           "emit": Interval(emit, emitted + self._key_latency)}

    def _when_room(self, cycle: int) -> int:
        """When the queue of keys has room for a selection, from a cycle on.

        It has if at most `queue_limit` of the keys that were written are still to be read. In the
        cycle in which the last key of the query before is written, that key does not count yet.
        """
        if not self._recent:
            return cycle
        if cycle == self._recent[-1].emitted and self._read(self._queue_limit + 1) < cycle:
            return cycle
        return max(cycle, self._read(self._queue_limit) + 1)

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
                    cycle = self._recent[index - 1].last if index > 0 else _NEVER
                    if self._gapless:
                        cycle = max(cycle, selection.first_shown - 1)
                return (max(cycle, selection.emitted + self._key_latency - 1) if back == 0
                        else cycle)
            back -= selection.selected
        return _NEVER


class _HistogramTopN:
    """A row's selection by histograms: counting, merging, scanning, emitting."""

    def __init__(self, config: Config, row: int) -> None:
        self._times = _HistogramTimes(config, row)
        self._ratio = config.pass_lanes // config.lanes
        self._score_latency = _score_latency(config, row)
        times = self._times
        # All bins are cleared after reset, as often as there are halves of them.
        cleared = times.limit * times.merge_cycles
        self._handed: deque[int] = deque([cleared] * times.limit, maxlen=times.limit)
        self._selections: deque[_Selection] = deque(maxlen=times.limit)
        self._counting = _NEVER # the command before goes from waiting to counting
        self._counted = _NEVER  # its last word arrives
        self._scanned = _NEVER  # the last read of the scan before

    def claim(self, earliest: int) -> int:
        """When a command is taken: bins are free, and no other command waits."""
        claimed = max(earliest, self._handed[0] + 1)
        if self._times.overlap:
            claimed = max(claimed, self._counting + 1)
            self._counting = max(claimed + 1, self._counted)
        elif self._selections:
            claimed = max(claimed, self._selections[-1].released + 1)
        return claimed

    def select(self, last_word: int, words: int, selected: int) -> tuple[_Selection,
                                                                          dict[str, Interval]]:
        """Select; the cycle given is that in which the command's last word is asked for."""
        times = self._times
        self._counted = last_word + self._score_latency
        scored = Interval(last_word - words + 1, self._counted)

        merge = self._counted + times.count_latency
        if times.overlap:
            merge = max(merge, self._handed[-1])
        handed = max(merge + times.merge_cycles, self._scanned + times.scan_rest)
        if len(self._selections) == times.limit:
            handed = max(handed, self._selections[0].released + 1)
        self._handed.append(handed)
        self._scanned = handed + -(-words // self._ratio)

        emit = self._scanned + times.scan_latency
        if self._selections:
            emit = max(emit, self._selections[-1].released)
        first = emit + times.emit_latency - 1
        if self._selections:
            first = max(first, self._selections[-1].last)
        selection = _Selection(selected, emit, first + selected - 2)
        self._selections.append(selection)
        return selection, {
            "score": scored, "merge": Interval(merge, handed),
            "scan": Interval(handed + 1, self._scanned),
            "emit": Interval(emit, first + selected)}


class _HistogramTimes:
    """What :class:`nearbit_hw.histogram_top_n.HistogramTopN` says of its cycles."""

    def __init__(self, config: Config, row: int = 0) -> None:
        shared = row == config.rows - 1
        key_bits = config.distance_max if shared else config.key_bits
        self.overlap = config.selection == "histograms"
        # Queries that are counted or merged, and that are scanned or emitted.
        self.limit = 2 if self.overlap else 1
        in_group = min(HISTOGRAM_GROUP, config.lanes)
        groups = (config.pass_lanes // in_group).bit_length() - 1
        lanes = config.lanes.bit_length() - 1
        self.count_latency = 2 if self.overlap else 1
        self.merge_cycles = key_bits + 6 + lanes if self.overlap else 2 * key_bits + 5 + lanes
        self.scan_latency = groups + (6 if self.overlap else 5)
        self.scan_rest = groups + 5
        self.emit_latency = 7 if groups else 5 if self.overlap else 4


class _Rescorer:
    """Rescorer and ExactKeyStore: from the selection's keys to Weights."""

    def __init__(self, config: Config) -> None:
        unit = config.rescore
        lanes = 1 if unit is None else unit.lanes
        self._columns = 1 if unit is None else unit.columns
        self._latency = RESCORER_LATENCY + (tree_latency(lanes) if lanes > 1 else 0)
        self.queries = _ExactQueries(
            self._columns, 1 << (EXACT_QUERIES * config.rows - 1).bit_length())
        self._store = _Pipeline()
        self._pipeline = _Pipeline()
        self._asked = _NEVER # when the last beat, or key that needs none, began to wait
        self._taken = _NEVER # move of the pipeline in which it was taken
        self._waiting: deque[int] = deque([_NEVER] * RESCORER_DEPTH, maxlen=RESCORER_DEPTH)

    def _go(self, cycle: int, *, needs_beat: bool) -> int:
        """Let a beat of a key wait, from a cycle on; gives when it begins to."""
        asked = max(cycle, self._asked + 1, self._waiting[0] + 1)
        shown = asked + 1
        answered = _NEVER
        if needs_beat:
            move = self._store.next_move(asked)
            asked = self._store.cycle(move)
            answered = move + EXACT_KEY_STORE_LATENCY
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

    def run(self, selection: _Selection, turn: int, *, rescore: bool, free: int, again: bool
            ) -> tuple[int, Interval]:
        """Take a selection from a cycle on; gives when Weights, once free, takes the last key.

        It may be one that a row before had.
        """
        cycle = max(turn, selection.passed + 2 if again else selection.first_shown)
        each: list[int] = []
        if rescore:
            cycle = max(cycle, self.queries.next_ready())
        first = _NEVER
        left = _NEVER
        for key in range(selection.selected):
            for _ in range(self._columns if rescore else 1):
                cycle = self._go(cycle, needs_beat=rescore)
                first = cycle if first == _NEVER else first
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
        return left, Interval(first, left)


class _Replay:
    """Weights, ValueStore, ValueAccumulator and Normalizer: keys, columns, outputs."""

    def __init__(self, config: Config) -> None:
        self._columns = config.columns
        self._lanes = config.value_lanes
        self._steps = config.output_bits
        self._output_cycles = config.output_cycles
        self._latency = WEIGHTS_LATENCY if config.rescore is None else RESCORED_WEIGHTS_LATENCY
        self._weights = _Pipeline()
        self._store = _Pipeline()
        self._accumulator = _Pipeline()
        self._normalizer = _Pipeline()
        self._freed: deque[int] = deque([_NEVER] * BUFFERS, maxlen=BUFFERS)
        self._issued = _NEVER   # move of Weights in which the last key so far was read
        self._asked = _NEVER    # move of ValueStore in which its beat was asked for
        self._added = _NEVER    # move of ValueAccumulator in which its beat was taken
        self._started = _NEVER  # move of Normalizer in which the column before started
        self._accepted = _NEVER # cycle in which that column was accepted
        self._last_sums = _NEVER # cycle in which the sums of the column before were complete

    @property
    def free(self) -> int:
        """When the next selection's buffer is free."""
        return self._freed[0]

    def run(self, keys: int, last: int, turn: int, trace: bool
            ) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Interval]]:
        """Answer a selection whose last key is taken in a cycle.

        Its result may leave from the cycle ``turn`` on. Gives the first output of each column, the
        trace, and the stages' cycles.
        """
        ready = last + (keys == 1)
        issue = max(self._weights.next_move(ready), self._issued + 1)
        first_issue = self._weights.cycle(issue)
        outputs: list[int] = []
        traced: tuple[int, ...] = ()
        first_asked = first_entered = 0
        for column in range(self._columns):
            key = 0
            while key < keys:
                # Without a stall on the way, all keys but the last are as they should be.
                if (key or column) and self._accumulator.last_held <= self._added \
                        and self._store.last_held <= self._asked:
                    key = keys - 1
                asked = self._move_key(issue + key)
                if key == 0 and column == 0:
                    first_asked = asked
                key += 1
            entered = self._move_column()
            if column == 0:
                # What leaves before this result holds the normalizer; only the first output is put
                # aside.
                self._normalizer.hold(self._started + self._steps + 1, turn + 1)
                first_entered = entered
                if trace:
                    traced = tuple(self._weights.shown(issue + key + self._latency)
                                   for key in range(keys))
            self._accepted = self._normalizer.cycle(
                self._started + (self._lanes - 1) * self._output_cycles)
            outputs.append(max(self._normalizer.cycle(self._started + self._steps), turn))
            issue += keys
        self._issued = issue - 1
        self._freed.append(self._weights.cycle(issue) + 1)
        end = outputs[-1] + (self._lanes - 1) * self._output_cycles
        return tuple(outputs), traced, {
            "weigh": Interval(first_issue, self._weights.cycle(self._issued)),
            "accumulate": Interval(first_asked, self._last_sums),
            "normalize": Interval(first_entered, end),
        }

    def _move_key(self, issue: int) -> int:
        """Take a key from the buffer to its beat's arrival; gives when the beat is asked for."""
        weighed = issue + self._latency
        self._asked = self._store.next_move(self._weights.shown(weighed))
        asked = self._store.cycle(self._asked)
        self._weights.hold(weighed, asked)
        answered = self._asked + VALUE_STORE_LATENCY
        self._added = self._accumulator.next_move(self._store.shown(answered))
        self._store.hold(answered, self._accumulator.cycle(self._added))
        return asked

    def _move_column(self) -> int:
        """Take the sums of the last key's column to the normalizer; gives when they enter it."""
        complete = self._added + ACCUMULATOR_LATENCY - 1
        self._accumulator.hold(complete, self._accepted)
        self._last_sums = self._accumulator.cycle(complete)
        self._started = max(self._normalizer.next_move(self._last_sums + 1),
                            self._started + self._lanes * self._output_cycles)
        return self._normalizer.cycle(self._started)


class _Core:
    """All blocks, and the queues between them."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loads = _Loads(config)
        selector = _TopN if config.selection == "counters" else _HistogramTopN
        self._selectors = [selector(config, row) for row in range(config.rows)]
        self._rescorer = _Rescorer(config)
        self._replay = _Replay(config)
        # Dispatcher
        self._free = _NEVER  # the command before may be followed by another
        # RowMerge
        self._merge_turn = _NEVER
        self._merged = deque([_NEVER] * COMMANDS_IN_FLIGHT, maxlen=COMMANDS_IN_FLIGHT)
        # Results
        self._given = deque([_NEVER] * RESULTS_IN_FLIGHT, maxlen=RESULTS_IN_FLIGHT)
        self._commands = 0
        self.answers: list[Answer] = []

    def run(self, phase: Phase, start: int) -> Accepted:
        """Offer a phase from a cycle on."""
        accepted = Accepted()
        self._loads.begin(phase, accepted, start)
        self._rescorer.queries.begin(phase, accepted, start)
        offered = start
        for command in phase.commands:
            self._loads.advance(offered)
            accepted.commands.append(self._command(command, offered))
            offered = accepted.commands[-1] + 1
        self._loads.advance(_FOREVER)
        self._rescorer.queries.finish()
        return accepted

    def _command(self, command: Command, offered: int) -> int:
        """Work on a command that is first offered in a cycle; gives when it is accepted."""
        config = self._config
        rows = range(config.rows)
        errors = [self._loads.error(command, row, config.top_n) for row in rows]
        good = [row for row in rows if errors[row] == Error.OK]
        # Rows that select; if they share, the last one does for all.
        selecting = good[-1:] if command.shared else good

        # ---- Dispatcher: checked in the cycle `offered`, then announced.
        announced = max(offered + 1, self._merged[0] + 1)
        claims = [self._selectors[row].claim(offered + 1) for row in selecting]
        accepted = max(announced, self._free, *claims) if claims else max(announced, self._free)
        words = 0
        selections: dict[int, tuple[_Selection, dict[str, Interval]]] = {}
        if good:
            skip = command.first % config.lanes
            words = -(-(skip + max(command.counts[row] for row in good)) // config.lanes)
            # The words go out in the cycles after. The score array takes the first word two cycles
            # after the command is accepted, and the codes when that word is in its last stage.
            self._free = accepted + max(words, _score_stages(config) + 1)
            for row in selecting:
                selections[row] = self._selectors[row].select(
                    accepted + words, words, min(command.selected_most, command.counts[row]))

        # ---- RowMerge: the rows in turns.
        turn = max(self._merge_turn, announced + 1)
        for row in rows:
            noted = max(turn, self._given[0] + 1)
            # A result leaves when it is noted and the one before is out.
            leave = max(noted + 1, self._given[-1] + 1)
            if errors[row] == Error.OK:
                selection, selecting_stages = selections[config.rows - 1 if command.shared else row]
                stages = dict(selecting_stages)
                commanded = max(turn, self._replay.free)
                if config.rescore is None:
                    selection.taken = commanded
                    last = selection.last = selection.passed = max(
                        selection.emitted + selection.latency,
                        selection.taken + selection.selected - 1)
                else:
                    last, stages["rescore"] = self._rescorer.run(
                        selection, turn, rescore=command.rescore, free=self._replay.free,
                        again=command.shared and row > 0)
                outputs, trace, later = self._replay.run(
                    selection.selected, last, leave, command.trace)
                answer = Answer(
                    command=self._commands, row=row, error=Error.OK, words=words,
                    selected=selection.selected, offered=offered, accepted=accepted,
                    columns=outputs, beats_per_column=config.value_lanes,
                    beat_cycles=config.output_cycles, trace=trace, stages={**stages, **later})
                turn = max(noted, commanded, selection.passed) + 1
            else:
                skipped = (self._rescorer.skip(turn)
                           if command.rescore and config.rescore is not None else turn)
                answer = Answer(
                    command=self._commands, row=row, error=errors[row], words=0, selected=0,
                    offered=offered, accepted=accepted, columns=(leave,), beats_per_column=1,
                    beat_cycles=1, trace=(), stages={})
                turn = max(noted, skipped) + 1
            self.answers.append(answer)
            self._given.append(answer.end)
        self._merge_turn = turn
        self._merged.append(turn - 1)
        self._loads.occupy(offered, self._given[-1])
        self._commands += 1
        return accepted


@dataclass(frozen=True)
class Steady:
    """Commands of one shape, one after another without a pause, by formula.

    The latency is exact. So is the interval, but where queues between the stages are full: with
    several rows, if the selection is by histograms, or if ``top_n`` is hardly more than what is
    selected, or if value rows have two or three elements. :func:`predict` knows them.

    Parameters
    ----------
    latency
        Cycles from the offer of a command to an idle core to its last beat, both included.
    interval
        Cycles from one command to the next in the long run: those of the slowest stage.
    stages
        For each stage, the cycles that a command takes of it: ``score``, ``refine``, ``emit``,
        ``rescore`` (if the core has exact scores), ``weigh`` (ValueAccumulator is as fast),
        ``normalize``. And ``banks``, no stage but the time
        from the start of a command to the end of its selection, by 3: so many of them are in work
        at the same time.
    limit
        The first of the slowest.
    """

    latency: int
    interval: Fraction
    stages: dict[str, Fraction]
    limit: str


def _steady_selection(config: Config, words: int, selected: int
                      ) -> tuple[int, dict[str, Fraction]]:
    """Cycles from the acceptance of a command to the last key into the queue, and the stages'."""
    reads = -(-words // (config.pass_lanes // config.lanes))
    scored = words + _score_latency(config)
    if config.selection == "counters":
        groups = -(-words // max(GROUP, config.pass_lanes // config.lanes))
        registers = int(config.lanes > REGISTERED_LANES)
        emit = groups + selected + 6 + 3 * registers
        return (scored + 4 + tree_latency(config.lanes) + reads - 1
                + 4 + tree_latency(config.pass_lanes) + emit + 2 * registers), {
            "refine": Fraction(reads), "emit": Fraction(emit)}
    times = _HistogramTimes(config, config.rows - 1)
    merged = scored + times.count_latency + times.merge_cycles
    emitted = times.scan_latency + times.emit_latency - 1 + selected - 1
    stages = {"merge": times.merge_cycles, "scan": reads + times.scan_rest,
              "emit": times.emit_latency + selected - 1}
    if not times.overlap:
        # One query at a time, from the acceptance of its command until its last key is presented.
        stages = {"select": merged + reads + emitted + _score_stages(config)
                  + (config.rows - 1) * selected}
    return (merged + reads + emitted - 1,
            {name: Fraction(cycles) for name, cycles in stages.items()})


def steady(config: Config, *, words: int, selected: int, rescore: bool = False) -> Steady:
    """Latency and interval of commands whose rows all have the same number of words and keys.

    Parameters
    ----------
    words
        Words of keys: the longest range by ``lanes``, rounded up, if it begins with a word.
    selected
        Keys that each row selects.
    rescore
        Whether they are scored exactly.
    """
    selection, selecting = _steady_selection(config, words, selected)
    column = config.value_lanes * config.output_cycles
    beats = config.rescore.columns if config.rescore is not None and rescore else 1
    stages = {
        "score": Fraction(max(words, _score_stages(config) + 1)),
        **selecting,
        **({} if config.rescore is None
           else {"rescore": Fraction(config.rows * beats * selected)}),
        "weigh": Fraction(config.rows * config.columns * selected),
        "normalize": Fraction(config.rows * config.columns * column),
    }
    if config.selection == "counters":
        stages["banks"] = Fraction(selection + _score_stages(config), BANKS)
    # From the last key into the queue to the last one into Weights' buffer.
    handing = 2
    weights_latency = WEIGHTS_LATENCY
    if config.rescore is not None:
        lanes = config.rescore.lanes
        handing += (selected * (beats - 1) + EXACT_KEY_STORE_LATENCY + RESCORER_LATENCY
                    + (tree_latency(lanes) if lanes > 1 else 0))
        weights_latency = RESCORED_WEIGHTS_LATENCY
    interval = max(stages.values())
    # Row 0 alone; the first column must be complete before the first output. Then the rows follow
    # each other at the pace of the slowest of these stages.
    replay = (handing + (selected == 1) + weights_latency + VALUE_STORE_LATENCY
              + ACCUMULATOR_LATENCY + selected + (config.columns - 1) * max(selected, column)
              + (config.value_lanes - 1) * config.output_cycles + config.output_bits)
    paces = [stages[name] / config.rows
             for name in ("rescore", "weigh", "normalize") if name in stages]
    following = (config.rows - 1) * int(max(paces))
    return Steady(latency=1 + selection + replay + following, interval=interval, stages=stages,
                  limit=next(name for name, cycles in stages.items() if cycles == interval))
