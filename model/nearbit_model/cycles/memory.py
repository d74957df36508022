"""What is read from a memory: when it is looked up, asked for, and there."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from nearbit_model.config import Config, Memory
from nearbit_model.cycles.pipeline import NEVER
from nearbit_model.cycles.shapes import Traffic
from nearbit_model.memory import MemoryLayout
from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.memory_trace import BusTrace, TraceError


__all__ = ["CODES", "COMMANDS", "ROWS", "CodeFetcher", "Grants", "ReadBus", "RowFetcher",
           "SharedBus", "SharedPort", "TracedBus"]


COMMANDS, CODES, ROWS = range(3)
"""Those who look up in PlaceTable, in the order of their turns; nothing is appended."""

_READERS = 4


class Grants:
    """When look-ups of PlaceTable are taken: one a cycle, in turns among those who ask.

    A look-up of a command may get in the way of one of a command before it, though nothing else
    does. So it is assumed how long each look-up waits; then, from when all were asked for, it is
    found out how long they do. What is assumed right up to a cycle is found out right beyond it, so
    this ends with waits that are those assumed, which are the hardware's.

    Parameters
    ----------
    ready
        The first cycle in which look-ups are taken.
    """

    def __init__(self, ready: int) -> None:
        """Begin without a wait."""
        self._ready = ready
        self._waits: list[list[int]] = [[] for _ in range(_READERS)]
        self._assumed: list[list[int]] = []
        self._asked: list[list[int]] = []

    def begin(self) -> None:
        """Begin a program anew."""
        self._asked = [[] for _ in range(_READERS)]
        self._assumed = [[] for _ in range(_READERS)]

    def ask(self, reader: int, cycle: int) -> int:
        """Ask from a cycle on; gives when it is taken."""
        number = len(self._asked[reader])
        waits = self._waits[reader]
        wait = waits[number] if number < len(waits) else max(0, self._ready - cycle)
        self._asked[reader].append(cycle)
        self._assumed[reader].append(wait)
        return cycle + wait

    def settle(self) -> bool:
        """Take turns; gives whether all waits were as assumed."""
        found: list[list[int]] = [[] for _ in range(_READERS)]
        last, cycle = 0, self._ready
        while True:
            offered = [(max(asked[len(done)], cycle), reader)
                       for reader, (asked, done) in enumerate(zip(self._asked, found, strict=True))
                       if len(done) < len(asked)]
            if not offered:
                break
            cycle = min(offered)[0]
            last = min((reader for first, reader in offered if first == cycle),
                       key=lambda reader: (reader - last - 1) % _READERS)
            found[last].append(cycle - self._asked[last][len(found[last])])
            cycle += 1
        self._waits = found
        return found == self._assumed


class ReadBus:
    """The read channels of an AXI4 bus to a memory with constant latency that answers in order."""

    def __init__(self, timing: MemoryTiming) -> None:
        """Begin as after reset."""
        self._timing = timing
        self._ends: deque[int] = deque([NEVER] * timing.outstanding, maxlen=timing.outstanding)
        self._beat = NEVER    # the last beat so far
        self._beats = self._bursts = 0

    def read(self, cycle: int, beats: int) -> tuple[int, list[int]]:
        """Present a burst's address from a cycle on; gives when it is taken, and its beats."""
        taken = max(cycle, self._ends[0] + 1)
        first = max(taken + self._timing.latency, self._beat + 1)
        self._beat = first + beats - 1
        self._ends.append(self._beat)
        self._beats += beats
        self._bursts += 1
        return taken, list(range(first, first + beats))

    def check(self) -> None:
        """Of such a memory nothing can be known that does not fit."""

    @property
    def traffic(self) -> Traffic:
        """What was read."""
        return Traffic(self._bursts, self._beats)


class TracedBus:
    """The read channels of an AXI4 bus to a memory whose response times are known."""

    def __init__(self, trace: BusTrace) -> None:
        """Begin with the first burst."""
        self._trace = trace
        self._ends = np.cumsum(trace.beats).tolist()
        self._read: list[int] = [] # beats of each burst

    def read(self, cycle: int, beats: int) -> tuple[int, list[int]]:
        """Present a burst's address from a cycle on; gives when it is taken, and its beats.

        What the trace does not have is answered at once, and refused in the end.
        """
        number = len(self._read)
        self._read.append(beats)
        if number >= len(self._ends) or self._trace.beats[number] != beats:
            return cycle, list(range(cycle + 1, cycle + 1 + beats))
        taken = cycle + int(self._trace.waits[number])
        end = self._ends[number]
        return taken, [taken + delay for delay in self._trace.delays[end - beats:end].tolist()]

    def check(self) -> None:
        """Raise :class:`TraceError` if what was read is not what the trace is of."""
        known = self._trace.beats.tolist()
        if self._read != known:
            same = next((number for number, (read, beats) in enumerate(
                zip(self._read, known, strict=False)) if read != beats),
                min(len(self._read), len(known)))
            raise TraceError(f"the trace of {self._trace.name} is of other bursts than the program "
                             f"reads: they differ from burst {same} on, of {len(known)} in the "
                             f"trace and {len(self._read)} of the program")

    @property
    def traffic(self) -> Traffic:
        """What was read."""
        return Traffic(len(self._read), sum(self._read))


class SharedBus:
    """ReadMerge, and the bus behind it: bursts of codes and rows, in turns.

    When bursts are taken and answered is assumed and found out as by :class:`Grants`.

    Parameters
    ----------
    begin
        Makes a new bus.
    latency
        Cycles until a first beat, to assume at first.
    """

    def __init__(self, begin: Callable[[], ReadBus | TracedBus], latency: int) -> None:
        """Begin with no burst in the way of another."""
        self._begin, self._latency = begin, latency
        self._bus = begin()
        # For each burst of each manager, cycles until it is taken, and until each of its beats.
        self._waits: list[list[tuple[int, list[int]]]] = [[], []]
        self._assumed: list[list[tuple[int, list[int]]]] = []
        self._asked: list[list[tuple[int, int]]] = []

    def begin(self) -> None:
        """Begin a program anew."""
        self._assumed, self._asked = [[], []], [[], []]

    def read(self, manager: int, cycle: int, beats: int) -> tuple[int, list[int]]:
        """Present a burst's address from a cycle on; gives when it is taken, and its beats."""
        number = len(self._asked[manager])
        waits = self._waits[manager]
        wait = waits[number] if number < len(waits) else (
            0, list(range(self._latency + 1, self._latency + 1 + beats)))
        self._asked[manager].append((cycle, beats))
        self._assumed[manager].append(wait)
        return cycle + wait[0], [cycle + delay for delay in wait[1]]

    def settle(self) -> bool:
        """Take turns; gives whether all waits were as assumed."""
        found: list[list[tuple[int, list[int]]]] = [[], []]
        self._bus = bus = self._begin()
        last, free = 0, 0
        taken = [NEVER, NEVER]
        while True:
            offered = [(max(asked[len(done)][0], taken[manager] + 1, free), manager)
                       for manager, (asked, done) in enumerate(
                           zip(self._asked, found, strict=True)) if len(done) < len(asked)]
            if not offered:
                break
            cycle = min(offered)[0]
            managers = [manager for first, manager in offered if first == cycle]
            last = managers[0] if len(managers) == 1 else 1 - last
            asked, beats = self._asked[last][len(found[last])]
            address, cycles = bus.read(cycle + 1, beats)
            found[last].append((cycle - asked, [beat - asked for beat in cycles]))
            taken[last], free = cycle, address + 1
        self._waits = found
        return found == self._assumed

    @property
    def traffic(self) -> Traffic:
        """What was read."""
        return self._bus.traffic

    def check(self) -> None:
        """Raise :class:`TraceError` if what was read is not what a trace is of."""
        self._bus.check()


class SharedPort:
    """A manager's port of a bus that is shared."""

    def __init__(self, bus: SharedBus, manager: int) -> None:
        """Begin as after reset."""
        self._bus, self._manager = bus, manager

    def read(self, cycle: int, beats: int) -> tuple[int, list[int]]:
        """Present a burst's address from a cycle on; gives when it is taken, and its beats."""
        return self._bus.read(self._manager, cycle, beats)


Bus: TypeAlias = ReadBus | TracedBus | SharedPort


class CodeFetcher:
    """CodeFetcher and CodeGate: bursts of codes, and the words that come of them."""

    def __init__(self, config: Config, memory: Memory, grants: Grants,
                 bus: Bus) -> None:
        """Begin as after reset."""
        code_bits = 1 << (config.key_bits - 1).bit_length()
        chunk = max(memory.bus_bits, config.lanes * code_bits)
        self._lanes = config.lanes
        self._chunk_tokens = chunk // code_bits
        self._parts = chunk // memory.bus_bits
        self._block = min(8 * memory.burst_bytes, memory.page_tokens * code_bits) // chunk
        self._depth = memory.queue_beats
        self._grants, self._bus = grants, bus
        self._loaded = NEVER     # the burst before goes onto the bus
        self._address = NEVER    # and its address is taken
        self._work: deque[int] = deque([NEVER] * 4, maxlen=4) # commands' last words
        self._ends: deque[int] = deque([NEVER] * memory.outstanding, maxlen=memory.outstanding)
        # Of the beats that may still have their place in the queue, when they leave it.
        self._left: deque[int] = deque([NEVER] * memory.queue_beats, maxlen=memory.queue_beats)
        self._bursts: deque[int] = deque() # beats of those that are not on the bus
        self._came: deque[int] = deque() # when beats that wait in the queue came
        self._place = 0          # of the next word in its chunk
        self._words = 0          # left of the command
        self._started = NEVER    # the command's first look-up can be asked for
        self.first_word = NEVER
        self.started = NEVER
        self.finished = NEVER

    def begin(self, offered: int, first: int, words: int) -> int:
        """Take a command's words from a token on, from a cycle on; gives when it is taken."""
        started = max(offered, self._loaded + 1, self._work[0] + 1)
        self._started = started + 1
        chunk = first // self._chunk_tokens
        final = (first + words * self._lanes - 1) // self._chunk_tokens
        while chunk <= final:
            end = min(final + 1, (chunk // self._block + 1) * self._block)
            self._bursts.append((end - chunk) * self._parts)
            chunk = end
        self._place = first % self._chunk_tokens // self._lanes
        self._words = words
        self.first_word = NEVER
        self.started = NEVER
        while self._bursts and self._may_load():
            self._load()
        return started

    def _may_load(self) -> bool:
        return len(self._came) + self._bursts[0] <= self._depth

    def _load(self) -> None:
        """Put the next burst on the bus."""
        beats = self._bursts.popleft()
        room = self._left[len(self._came) + beats - 1]
        asked = max(self._started, self._loaded + 1, room + 1, self._ends[0] + 1)
        taken = self._grants.ask(CODES, asked)
        self._loaded = max(taken + 2, self._address + 1)
        self._address, cycles = self._bus.read(self._loaded + 1, beats)
        self._came.extend(cycles)
        self._ends.append(cycles[-1])
        self.started = self._address if self.started == NEVER else self.started
        self.finished = cycles[-1]

    def _next_beat(self) -> int:
        """Give when the next beat is at the end of the queue."""
        while not self._came:
            self._load()
        return max(self._came[0] + 2, self._left[-1] + 1)

    def _take_beat(self, cycle: int) -> None:
        self._came.popleft()
        self._left.append(cycle)
        while self._bursts and self._may_load():
            self._load()

    def words(self, after: int, count: int) -> int:
        """Pass words on that are asked for after a cycle; gives when the last one passes."""
        cycle = after
        for _ in range(count):
            for _ in range(self._parts - 1):
                self._take_beat(self._next_beat())
            cycle = max(cycle + 1, self._next_beat())
            if self.first_word == NEVER:
                self.first_word = cycle
            self._words -= 1
            self._place += 1
            if self._parts > 1 or self._words == 0 or \
                    self._place == self._chunk_tokens // self._lanes:
                self._place = 0
                self._take_beat(cycle)
        if self._words == 0:
            self._work.append(cycle)
        return cycle


class _RowPort:
    """RowPort: bursts of rows on a bus of their own."""

    def __init__(self, memory: Memory, bus: Bus) -> None:
        """Begin as after reset."""
        ids = 1 << memory.row_id_bits
        self._bus = bus
        self._cleared = ids
        self._address = NEVER # the last address was taken
        self._told: deque[int] = deque([NEVER] * ids, maxlen=ids)

    def read(self, cycle: int, bursts: Iterable[int]) -> tuple[int, int]:
        """Offer a row from a cycle on; gives when it is taken, and can be read from the buffer."""
        taken = max(cycle, self._cleared, self._told[0] + 1, self._address + 1)
        presented, last = taken + 1, NEVER
        for beats in bursts:
            self._address, cycles = self._bus.read(presented, beats)
            presented, last = self._address + 2, cycles[-1]
        told = max(last + 1, self._told[-1] + 1)
        self._told.append(told)
        return taken, told + 1


class RowFetcher:
    """RowGather, RowFetcher and RowBuffer: which rows can be read when."""

    def __init__(self, config: Config, memory: Memory, grants: Grants,
                 buses: Sequence[Bus]) -> None:
        """Begin as after reset."""
        self._beats = MemoryLayout.of(config).row_beats
        self._grants = grants
        self._ports = [_RowPort(memory, bus) for bus in buses]
        self._passed = NEVER   # when the token before was taken by its port
        self._taken = NEVER    # when the token before left the register in front of the fetcher
        self._found = NEVER    # when it left `found`
        self._is_open = NEVER  # when the first token of the selection can be taken
        self._released: deque[int] = deque([NEVER] * 2, maxlen=2) # sets of slots
        self.started = NEVER
        self.available: list[int] = []

    def may_open(self) -> int:
        """When a selection can begin, for all that the fetcher and the buffer know."""
        return max(self._passed, self._released[0]) + 1

    def open(self, cycle: int) -> None:
        """Begin a selection."""
        self._is_open = cycle + 1
        self.started = cycle
        self.available = []

    def may_pass(self) -> int:
        """When the next key of a selection can pass."""
        return max(self._taken, self._is_open)

    def fetch(self, passed: int, first_burst: int) -> None:
        """Fetch the row of a key that passed in a cycle.

        Parameters
        ----------
        first_burst
            Beats of the first of two bursts; 0, if there is only one.
        """
        self._taken = self._grants.ask(ROWS, max(passed + 1, self._found))
        # The product is registered when the row before has gone to its port.
        self._found = max(self._taken + 2, self._passed)
        port = self._ports[len(self.available) % len(self._ports)]
        bursts = [self._beats] if not first_burst else [first_burst, self._beats - first_burst]
        self._passed, available = port.read(self._found + 1, bursts)
        self.available.append(available)

    def release(self, cycle: int) -> None:
        """Note when the rows of a selection are read for the last time."""
        self._released.append(cycle)
