"""The cache that a core reads keys and values from: its stores, or a memory."""

from collections import deque

from nearbit_model.config import Config, Memory
from nearbit_model.cycles.loads import Loads, RescoreQueries
from nearbit_model.cycles.memory import (
    COMMANDS,
    CodeFetcher,
    Grants,
    ReadBus,
    RowFetcher,
    SharedBus,
    SharedPort,
    TracedBus,
)
from nearbit_model.cycles.pipeline import NEVER, Pipeline
from nearbit_model.cycles.replay import Replay, Rescorer
from nearbit_model.cycles.selection import Selection
from nearbit_model.cycles.shapes import Command, Interval, Traffic
from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.memory_trace import MemoryTrace
from nearbit_model.structure import RESCORER_DEPTH, Error, rescorer_latency


__all__ = ["MemoryCache", "Passing", "ResidentCache", "begin_bus", "tables_ready"]


_QUEUE_LATENCY = 2
"""Cycles through a queue in block RAM."""

_USES = 8
"""Selections between the one that is gathered and the one that is read, at most."""


class ResidentCache:
    """A core's own stores: what is asked for is there."""

    def __init__(self, config: Config) -> None:
        """Begin as after reset."""
        self.loads = Loads(config)
        self.selected = Rescorer(config) if config.rescore is not None else Passing()
        self.replay = Replay(config)
        self.first_word = NEVER

    def present(self, command: Command, offered: int) -> int:
        """Give when the dispatcher is offered a command."""
        return offered

    def fetch(self, command: Command, words: int, offered: int) -> int:
        """Ask for a command's words from a cycle on; gives when that is noted."""
        self.first_word = NEVER
        return NEVER

    def words(self, after: int, count: int) -> int:
        """Give when the last of some words passes, which are asked for after a cycle."""
        if self.first_word == NEVER:
            self.first_word = after + 1
        return after + count

    def wait(self, query: int, selection: Selection) -> None:
        """Keys of a query's selection are taken from it one by one."""

    def use(self, command: Command, query: int, *, keeps: bool) -> None:
        """Say whose selection comes next, and whether the one behind it has the same rows."""

    @property
    def stages(self) -> dict[str, Interval]:
        """When the codes of the command were read."""
        return {}


class Passing:
    """Keys go to Softmax as they are."""

    def __init__(self) -> None:
        """Begin as after reset."""
        self.queries = RescoreQueries(1, 1)

    def skip(self, turn: int) -> int:
        """Nothing is sent for a query that fails."""
        return turn

    def run(self, selection: Selection, turn: int, *, rescore: bool, free: int, again: bool
            ) -> tuple[int, dict[str, Interval]]:
        """Take a selection from a cycle on; gives when Softmax takes its last key."""
        selection.taken = max(turn, free)
        selection.last = selection.passed = max(
            selection.emitted + selection.latency, selection.taken + selection.selected - 1)
        return selection.last, {}


def _table_depths(config: Config, memory: Memory) -> tuple[int, int]:
    """Words of the tables of heads and pages, of which one is cleared in each cycle after reset."""
    sequences, listed = memory.sequences, config.capacity // memory.page_tokens
    # The index with the shorter waste is above.
    places = min((one - 1 << (other - 1).bit_length()) + other
                 for one, other in ((sequences, listed), (listed, sequences)))
    heads, pages = (max(2, 1 << (words - 1).bit_length()) for words in (memory.heads, places))
    return heads, pages


def tables_ready(config: Config) -> int:
    """Give the first cycle in which look-ups are taken."""
    return 0 if config.memory is None else max(_table_depths(config, config.memory))


class _CachedLoads(Loads):
    """Tables and exp tables, and what commands find in them."""

    def __init__(self, config: Config, memory: Memory) -> None:
        """Begin as after reset."""
        super().__init__(config)
        self.heads_ready, self.pages_ready = _table_depths(config, memory)
        self._head_count = memory.heads
        self._heads: set[int] = set()
        self._tokens = [0] * memory.sequences
        self._has_rescore = config.rescore is not None

    def advance(self, before: int) -> None:
        """Make all transfers before a cycle."""
        super().advance(before)
        self.advance_tables(before)

    def advance_tables(self, before: int) -> None:
        """Make the transfers of tables before a cycle, that in which a command is looked up."""
        phase, done = self._phase, self._accepted
        for cycles, count, ready in ((done.heads, len(phase.heads), self.heads_ready),
                                     (done.pages, phase.pages, self.pages_ready),
                                     (done.tokens, len(phase.tokens), self.pages_ready)):
            while len(cycles) < count:
                cycle = max(self._start, ready, cycles[-1] + 1 if cycles else NEVER)
                if cycle >= before:
                    break
                cycles.append(cycle)
        self._heads |= set(phase.heads[:len(done.heads)])
        for sequence, count in phase.tokens[:len(done.tokens)]:
            self._tokens[sequence] = count

    def error(self, command: Command, query: int, top_n: int) -> Error:
        """Check a query of a command against what was in the tables when it was looked up."""
        in_tables = command.head < self._head_count and command.sequence < len(self._tokens)
        tokens = self._tokens[command.sequence] if in_tables else 0
        self._keys = self._values = self._rescore = tokens
        error = super().error(command, query, top_n)
        if error == Error.OK and command.head not in self._heads:
            return Error.NOT_SET
        return error


def _places(config: Config) -> int:
    """Places of a queue for a selection: a power of two."""
    return 1 << (config.top_n - 1).bit_length()


class _RowReader:
    """RowBuffer and RowReader from a request to a beat: two registers, each moves if it is free."""

    def __init__(self) -> None:
        """Begin as after reset."""
        self._moved = NEVER # the beat before went into the second register
        self._taken = NEVER # and left it

    def ask(self, cycle: int) -> int:
        """Give when a request that is offered from a cycle on is accepted."""
        return max(cycle, self._moved)

    def shown(self, asked: int) -> int:
        """Give when what was asked for is presented."""
        self._moved = max(asked + 1, self._taken)
        return self._moved + 1

    def take(self, cycle: int) -> None:
        """Note when that is taken."""
        self._taken = cycle


class _Uses:
    """A reader's queue of selections."""

    def __init__(self) -> None:
        """Begin as after reset."""
        self.ends: deque[int] = deque([NEVER] * _USES, maxlen=_USES)

    @property
    def ready(self) -> int:
        """When there is room for the next selection."""
        return self.ends[0] + 1

    def skip(self, noted: int) -> None:
        """Skip the next selection, which was noted in a cycle."""
        self.ends.append(max(noted, self.ends[-1]) + 1)


class _RowReplay(Replay):
    """Replay with values that come from rows."""

    def __init__(self, config: Config, rows: RowFetcher) -> None:
        """Begin as after reset."""
        super().__init__(config)
        self._rows = rows
        self._reader = _RowReader()
        self.uses = _Uses()
        self.keeps = False

    def _move_keys(self, issue: int, keys: int, beat: int, earliest: int) -> tuple[int, int]:
        first_asked = first_added = asked = NEVER
        for key in range(keys):
            weighed = issue + key + self._latency
            asked = self._reader.ask(max(
                self._softmax.shown(weighed), self._rows.available[key], self.uses.ends[-1] + 1))
            self._softmax.hold(weighed, asked)
            shown = self._reader.shown(asked)
            self._added = max(self._accumulator.next_move(shown), self._added + 1, earliest)
            self._reader.take(self._accumulator.cycle(self._added))
            if key == 0:
                first_asked, first_added = asked, self._added
        if beat == self._beats - 1:
            self.uses.ends.append(asked)
            if not self.keeps:
                self._rows.release(asked)
        return first_asked, first_added


class _Gather:
    """RowGather, and Rescorer with keys that come from rows: from the selection to Softmax."""

    def __init__(self, config: Config, rows: RowFetcher, values: _Uses) -> None:
        """Begin as after reset."""
        unit = config.rescore
        self._rescores = unit is not None
        self._beats = 1 if unit is None else unit.beats
        self._latency = rescorer_latency(1 if unit is None else unit.lanes)
        self.queries = RescoreQueries(self._beats, config.rescore_query_slots)
        self._rows, self._values, self._keys = rows, values, _Uses()
        self.bursts: tuple[int, ...] = ()
        self._reader = _RowReader()
        self._pipeline = Pipeline()
        self._asked = NEVER # when the last beat, or key that needs none, began to wait
        self._taken = NEVER # move of the pipeline in which it was taken
        self._waiting: deque[int] = deque([NEVER] * RESCORER_DEPTH, maxlen=RESCORER_DEPTH)
        # When keys leave the queue in front of the rescorer.
        places = _places(config)
        self._gathered: deque[int] = deque([NEVER] * places, maxlen=places)

    def _begin(self, shown: int, *, fetches: bool, skips: bool) -> int:
        """Begin a selection whose first key is presented in a cycle; gives when all know of it."""
        cycle = max(shown, self._values.ready)
        if self._rescores:
            noted = max(shown, self._keys.ready)
            cycle = max(cycle, noted)
            if skips:
                self._keys.skip(noted)
        if fetches:
            opened = max(shown, self._rows.may_open())
            self._rows.open(opened)
            cycle = max(cycle, opened)
        return cycle

    def skip(self, turn: int) -> int:
        """Drop a query; gives when the key that stands for it passes."""
        passed = max(turn, self._gathered[0] + 1)
        accepted = self._go(max(passed + _QUEUE_LATENCY, self.queries.next_ready()),
                            needs_beat=False)
        self._gathered.append(accepted)
        self.queries.free(self._waiting[-1])
        return passed

    def _go(self, cycle: int, *, needs_beat: bool) -> int:
        """Let a beat of a key wait, from a cycle on; gives when it begins to."""
        asked = max(cycle, self._asked + 1, self._waiting[0] + 1)
        shown = asked + 1
        if needs_beat:
            asked = self._reader.ask(max(asked, self._keys.ends[-1] + 1))
            shown = self._reader.shown(asked)
        self._taken = max(self._pipeline.next_move(shown), self._taken + 1)
        taken = self._pipeline.cycle(self._taken)
        if needs_beat:
            self._reader.take(taken)
        self._asked = asked
        self._waiting.append(taken)
        return asked

    def run(self, selection: Selection, turn: int, *, rescore: bool, free: int, again: bool
            ) -> tuple[int, dict[str, Interval]]:
        """Take a selection from a cycle on; gives when Softmax, once free, takes the last key.

        It may be one that a query before had.
        """
        shown = max(turn, selection.passed + 2 if again
                    else selection.each[0] + _QUEUE_LATENCY)
        begun = self._begin(shown, fetches=not again, skips=not rescore)
        query_ready = self.queries.next_ready() if rescore else NEVER
        each: list[int] = []
        passed, first, left = begun, NEVER, NEVER
        for key in range(selection.selected):
            offered = passed + 1
            if not again:
                offered = max(offered, selection.each[key] + _QUEUE_LATENCY)
            # Fetcher and output take it, each when it can.
            passed = given = max(offered, self._gathered[0] + 1 if self._rescores else free)
            if not again:
                fetched = max(offered, self._rows.may_pass())
                self._rows.fetch(fetched, self.bursts[key] if self.bursts else 0)
                passed = max(passed, fetched)
            each.append(passed)
            if not self._rescores:
                left = given
                continue
            cycle = max(given + _QUEUE_LATENCY, query_ready,
                        self._rows.available[key] if rescore else NEVER)
            for _ in range(self._beats if rescore else 1):
                cycle = self._go(cycle, needs_beat=rescore)
                first = cycle if first == NEVER else first
            self._gathered.append(self._asked)
            leaves = self._taken + self._latency
            if key == 0:
                self._pipeline.hold(leaves, free)
            left = self._pipeline.cycle(leaves)
        if rescore:
            self._keys.ends.append(self._asked)
            self.queries.free(self._waiting[-1])
        if not again:
            selection.left.extend(each)
        selection.passed = each[-1]
        stages = {} if again else {"rows": Interval(begun, self._rows.available[-1])}
        if self._rescores:
            stages["rescore"] = Interval(first, left)
        return left, stages


def begin_bus(memory: MemoryTiming | MemoryTrace, number: int) -> ReadBus | TracedBus:
    """Begin a bus by its number: that of codes, then those of rows."""
    if isinstance(memory, MemoryTrace):
        return TracedBus(memory.buses[number])
    return ReadBus(memory)


class MemoryCache:
    """The cache of all heads in a memory."""

    def __init__(self, config: Config, timing: MemoryTiming | MemoryTrace, grants: Grants,
                 shared: SharedBus | None) -> None:
        """Begin as after reset."""
        memory = config.memory
        assert memory is not None
        self._grants = grants
        self.loads = _CachedLoads(config, memory)
        self._buses: list[ReadBus | TracedBus | SharedBus]
        ports: list[ReadBus | TracedBus | SharedPort]
        if shared is None:
            own = [begin_bus(timing, number) for number in range(1 + memory.row_ports)]
            self._buses, ports = [*own], [*own]
        else:
            self._buses, ports = [shared], [SharedPort(shared, manager) for manager in range(2)]
        self._codes = CodeFetcher(config, memory, grants, ports[0])
        self._rows = RowFetcher(config, memory, grants, ports[1:])
        self.replay = _RowReplay(config, self._rows)
        self.selected = _Gather(config, self._rows, self.replay.uses)
        self._lanes = config.lanes
        places = _places(config)
        # When keys leave each query's queue behind its selection.
        self._queues: list[deque[int]] = [
            deque([NEVER] * places, maxlen=places) for _ in range(config.queries)]

    @property
    def first_word(self) -> int:
        """When the first word of the command passes."""
        return self._codes.first_word

    def present(self, command: Command, offered: int) -> int:
        """Give when the dispatcher is offered a command: it is looked up, and the answer noted."""
        taken = self._grants.ask(COMMANDS, offered)
        self.loads.advance_tables(taken)
        return taken + 2

    def fetch(self, command: Command, words: int, offered: int) -> int:
        """Ask for a command's words from a cycle on; gives when that is noted."""
        return self._codes.begin(offered, command.first // self._lanes * self._lanes, words)

    def words(self, after: int, count: int) -> int:
        """Give when the last of some words passes, which are asked for after a cycle."""
        return self._codes.words(after, count)

    def wait(self, query: int, selection: Selection) -> None:
        """Queue the keys of a query's selection, which leave it without a gap if there is room."""
        queue = self._queues[query]
        each: list[int] = []
        cycle = selection.first_shown - 1
        for key in range(selection.selected):
            cycle = max(cycle + 1, queue[key] + 1)
            each.append(cycle)
        selection.taken, selection.last, selection.each = each[0], each[-1], each
        selection.left = queue

    def use(self, command: Command, query: int, *, keeps: bool) -> None:
        """Say whose selection comes next, and whether the one behind it has the same rows."""
        self.replay.keeps = keeps
        self.selected.bursts = command.bursts[query] if command.bursts else ()

    def check(self) -> None:
        """Raise :class:`TraceError` if the program reads what a trace is not of."""
        for bus in self._buses:
            bus.check()

    @property
    def traffic(self) -> tuple[Traffic, ...]:
        """What was read on each bus: that of codes, then those of rows, if they have their own."""
        return tuple(bus.traffic for bus in self._buses)

    @property
    def stages(self) -> dict[str, Interval]:
        """When the codes of the command were read."""
        return {"codes": Interval(self._codes.started, self._codes.finished)}
