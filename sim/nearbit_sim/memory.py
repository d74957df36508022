"""The memory at the other end of a component's AXI4 buses, in Python: for the ``icarus`` engine.

What :class:`nearbit_model.memory_timing.MemoryTiming` describes, cycle by cycle. The compiled
engine has the same in C++ (:mod:`nearbit_sim.memory_harness`), and draws the same numbers. Both
check what AXI4 asks of a manager (AMBA AXI, IHI 0022H, A3.2 to A3.4).
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nearbit_model.memory_timing import DECERR, SLVERR, MemoryTiming
from nearbit_model.transfers.buses import Bus
from nearbit_model.transfers.program import Traffic


__all__ = ["BOUNDARY_BYTES", "BrokenRule", "SimulatedMemory", "first_state", "threshold"]


BOUNDARY_BYTES = 4096
"""Addresses that are multiples of this are crossed by no burst."""

_MASK = (1 << 64) - 1
_DRAW_BITS = 32


class BrokenRule(RuntimeError):
    """The manager does what AXI4 forbids; the message is one sentence."""


def first_state(seed: int, index: int) -> int:
    """State that the draws of a bus begin with, 64 bits."""
    return (seed + (index + 1) * 0xD1342543DE82EF95) & _MASK


def threshold(probability: float) -> int:
    """Numbers below this, of those that can be drawn, are a pause."""
    return round(probability * (1 << _DRAW_BITS))


class _Draws:
    """Uniform numbers of 32 bits: the upper halves of SplitMix64 (Steele et al., OOPSLA 2014)."""

    def __init__(self, state: int) -> None:
        self._state = state

    def draw(self) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        mixed = self._state
        mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & _MASK
        return (mixed ^ (mixed >> 31)) >> _DRAW_BITS

    def below(self, count: int) -> int:
        """Draw a number below a count; nothing is drawn for a count of 1."""
        return self.draw() * count >> _DRAW_BITS if count > 1 else 0

    def pauses(self, probability: int) -> bool:
        """Draw whether a channel pauses; nothing is drawn for a probability of 0."""
        return probability > 0 and self.draw() < probability


class _Credit:
    """Beats that may be given, in so many parts of one."""

    def __init__(self, timing: MemoryTiming) -> None:
        self._grows, self._beat = timing.beats_of_cycles
        self._most = self._beat + self._grows - 1
        self._credit = 0

    def grow(self) -> None:
        self._credit = min(self._credit + self._grows, self._most)

    @property
    def suffices(self) -> bool:
        return self._credit >= self._beat

    def take(self) -> None:
        self._credit -= self._beat


@dataclass
class _Burst:
    number: int  # its ID
    address: int
    beats: int
    due: int = 0


# A channel that the manager drives: its payload in this cycle, or None without valid.
_Offered: TypeAlias = dict[str, int] | None


class _Bus:
    """What both kinds of bus share: checks, draws, and what was transferred."""

    def __init__(self, bus: Bus, index: int, timing: MemoryTiming, contents: NDArray[np.uint8],
                 credit: _Credit | None) -> None:
        self.bus = bus
        self._timing = timing
        self._contents = contents
        self._draws = _Draws(first_state(timing.seed, index))
        self._is_shared = credit is not None
        self._credit = _Credit(timing) if credit is None else credit
        self._faults = {address // bus.beat_bytes: response
                        for address, response in sorted(timing.faults.items(), reverse=True)}
        self._silent = {address // bus.beat_bytes for address in timing.silent_at}
        self._held: dict[str, _Offered] = {}
        self._since = 0 # when the address that is shown was first presented
        self._failed = 0
        self._addresses: list[int] = []
        self._lengths: list[int] = []
        self._numbers: list[int] = []
        self._shown: list[int] = []
        self._asked: list[int] = []
        self._beats: list[int] = []
        self._beat_numbers: list[int] = []

    def _broken(self, cycle: int, what: str) -> BrokenRule:
        return BrokenRule(f"the hardware breaks a rule of AXI4 on {self.bus.name} in cycle "
                          f"{cycle}: {what}")

    def _check_held(self, cycle: int, channel: str, offered: _Offered, *, ready: bool) -> None:
        """See that what is not taken stays."""
        held = self._held.get(channel)
        if held is not None and offered is None:
            raise self._broken(cycle, f"{channel}valid falls before a transfer")
        if held is not None and offered != held:
            raise self._broken(cycle, f"the payload of {channel} changes before a transfer")
        self._held[channel] = None if ready else offered

    def _check_address(self, cycle: int, channel: str, offered: _Offered, *, ready: bool) -> None:
        """See the same of the channel of addresses."""
        if self._held.get(channel) is None:
            self._since = cycle
        self._check_held(cycle, channel, offered, ready=ready)

    def _take_address(self, cycle: int, payload: dict[str, int]) -> _Burst:
        address, beats, size = payload["addr"], payload["len"] + 1, self.bus.beat_bytes
        if address % size:
            raise self._broken(cycle, f"the address {address:#x} is not that of a beat of "
                                      f"{size} bytes")
        if address % BOUNDARY_BYTES + beats * size > BOUNDARY_BYTES:
            raise self._broken(cycle, f"{beats} beats from {address:#x} on cross 4 KiB")
        self._addresses.append(address)
        self._lengths.append(beats)
        self._numbers.append(payload["id"])
        self._shown.append(self._since)
        self._asked.append(cycle)
        return _Burst(payload["id"], address, beats)

    def _latency(self) -> int:
        return self._timing.latency + self._draws.below(
            self._timing.latest - self._timing.latency + 1)

    def _waits(self, burst: _Burst, cycle: int) -> bool:
        """Whether a burst is one of those that are not answered."""
        if not self._silent or (self._timing.silent_to is not None
                                and cycle >= self._timing.silent_to):
            return False
        first = burst.address // self.bus.beat_bytes
        return any(beat in self._silent for beat in range(first, first + burst.beats))

    def _is_inside(self, address: int) -> bool:
        return address + self.bus.beat_bytes <= len(self._contents)

    @property
    def last(self) -> int:
        return max([0, *self._asked[-1:], *self._beats[-1:]])

    def traffic(self, *, log: bool) -> Traffic:
        def array(numbers: Iterable[int]) -> NDArray[np.int64]:
            return np.array(list(numbers) if log else [], dtype=np.uint64).astype(np.int64)

        return Traffic(self.bus.name, self.bus.is_read, self.bus.beat_bytes, len(self._asked),
                       len(self._beats), self._failed, *map(array, (
                           self._addresses, self._lengths, self._numbers, self._shown, self._asked,
                           self._beats, self._beat_numbers)))


class _Read(_Bus):
    """A bus that is read."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ready = False
        self.beat: dict[str, int] | None = None
        self.offered = False
        self._bursts: list[_Burst] = []
        self._ar_pause = threshold(self._timing.ar_pause)
        self._r_pause = threshold(self._timing.r_pause)

    def begin(self) -> None:
        """Say whether addresses are taken in this cycle."""
        pauses = self._draws.pauses(self._ar_pause)
        self.ready = not pauses and len(self._bursts) < self._timing.outstanding

    def give(self, cycle: int) -> bool:
        """Give a beat, if it can be; say whether it was."""
        if self.beat is not None:
            return False
        if not self._is_shared:
            self._credit.grow()
        if self._timing.is_silent(cycle) or not self._credit.suffices:
            return False
        burst = self._choose(cycle)
        if burst is None:
            return False
        self._credit.take()
        address, size = burst.address, self.bus.beat_bytes
        burst.address += size
        burst.beats -= 1
        if burst.beats == 0:
            self._bursts.remove(burst)
        inside = self._is_inside(address)
        self.beat = {
            "id": burst.number, "last": int(burst.beats == 0),
            "resp": self._faults.get(address // size, 0) if inside else DECERR,
            "data": int.from_bytes(self._contents[address:address + size].tobytes(), "little")
            if inside else 0}
        return True

    def _choose(self, cycle: int) -> _Burst | None:
        if not self._timing.reorder:
            found = self._bursts[:1]
        else:
            oldest: dict[int, _Burst] = {}
            for burst in self._bursts:
                oldest.setdefault(burst.number, burst)
            found = list(oldest.values())
        found = [burst for burst in found if burst.due <= cycle and not self._waits(burst, cycle)]
        return found[self._draws.below(len(found))] if found else None

    def end(self) -> None:
        """Say whether the beat is offered in this cycle."""
        if self.beat is not None and not self.offered:
            self.offered = not self._draws.pauses(self._r_pause)

    def sample(self, cycle: int, address: _Offered, *, ready: bool) -> None:
        self._check_address(cycle, "ar", address, ready=self.ready)
        if address is not None and self.ready:
            burst = self._take_address(cycle, address)
            burst.due = cycle + self._latency()
            self._bursts.append(burst)
        if self.offered and ready:
            assert self.beat is not None
            self._beats.append(cycle)
            self._beat_numbers.append(self.beat["id"])
            self._failed += self.beat["resp"] in (SLVERR, DECERR)
            self.beat, self.offered = None, False


class _Write(_Bus):
    """A bus that is written."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.address_ready = self.beat_ready = False
        self.answer: dict[str, int] | None = None
        self.offered = False
        self._unanswered = 0
        self._bursts: deque[_Burst] = deque()
        self._words: deque[dict[str, int]] = deque()
        self._due: deque[tuple[_Burst, int]] = deque()
        self._aw_pause = threshold(self._timing.aw_pause)
        self._w_pause = threshold(self._timing.w_pause)
        self._b_pause = threshold(self._timing.b_pause)

    def begin(self, cycle: int) -> None:
        pauses = self._draws.pauses(self._aw_pause)
        self.address_ready = (not pauses and self._unanswered < self._timing.outstanding
                              and not self._timing.is_silent(cycle))

    def end(self, cycle: int) -> None:
        """Say whether beats are taken, and answer a burst."""
        if not self._is_shared:
            self._credit.grow()
        pauses, silent = self._draws.pauses(self._w_pause), self._timing.is_silent(cycle)
        self.beat_ready = not pauses and not silent and self._credit.suffices
        if self.answer is None and self._due and not silent:
            burst, response = self._due[0]
            if burst.due <= cycle and not self._waits(burst, cycle):
                self._due.popleft()
                self._unanswered -= 1
                self.answer = {"id": burst.number, "resp": response}
        if self.answer is not None and not self.offered:
            self.offered = not self._draws.pauses(self._b_pause)

    def sample(self, cycle: int, address: _Offered, beat: _Offered, *, ready: bool) -> None:
        self._check_address(cycle, "aw", address, ready=self.address_ready)
        self._check_held(cycle, "w", beat, ready=self.beat_ready)
        if self.offered and ready:
            assert self.answer is not None
            self._failed += self.answer["resp"] in (SLVERR, DECERR)
            self.answer, self.offered = None, False
        if address is not None and self.address_ready:
            self._bursts.append(self._take_address(cycle, address))
            self._unanswered += 1
        if beat is not None and self.beat_ready:
            self._credit.take()
            self._words.append(beat)
            self._beats.append(cycle)
        while self._bursts and len(self._words) >= self._bursts[0].beats:
            self._write(self._bursts.popleft(), cycle)

    def _write(self, burst: _Burst, cycle: int) -> None:
        response, size = 0, self.bus.beat_bytes
        for beat in range(burst.beats):
            word = self._words.popleft()
            if word["last"] != (beat == burst.beats - 1):
                raise self._broken(cycle, f"wlast is {word['last']} with beat {beat + 1} of "
                                          f"{burst.beats} of the burst at {burst.address:#x}")
            address = burst.address + beat * size
            if not self._is_inside(address):
                response = response or DECERR
                continue
            response = response or self._faults.get(address // size, 0)
            for byte in range(size):
                if word["strb"] >> byte & 1:
                    self._contents[address + byte] = word["data"] >> 8 * byte & 0xff
        burst.due = cycle + self._latency()
        self._due.append((burst, response))


class SimulatedMemory:
    """A memory on some buses: its levels and payloads before each cycle, and what comes of it.

    Parameters
    ----------
    buses
        Buses that it is at the other end of.
    timing
        When it answers.
    contents
        Its bytes, uint8 [bytes]; they are written to.
    """

    def __init__(self, buses: list[Bus], timing: MemoryTiming,
                 contents: NDArray[np.uint8]) -> None:
        """Begin before cycle 0."""
        self._shared = _Credit(timing) if timing.shared_pace else None
        self._all: list[_Read | _Write] = [
            (_Read if bus.is_read else _Write)(bus, index, timing, contents, self._shared)
            for index, bus in enumerate(buses)]
        self._reads = [bus for bus in self._all if isinstance(bus, _Read)]
        self._writes = [bus for bus in self._all if isinstance(bus, _Write)]
        self._turn = 0

    def drive(self, cycle: int) -> dict[str, dict[str, int] | bool | None]:
        """Give what the memory drives in a cycle, by the name of the channel's stream.

        ``ready`` of the channels that the manager drives; of the others a payload, or None while
        none is offered.
        """
        for read in self._reads:
            read.begin()
        for write in self._writes:
            write.begin(cycle)
        if self._shared is not None:
            self._shared.grow()
        first = self._turn
        for step in range(len(self._reads)):
            index = (first + step) % len(self._reads)
            if self._reads[index].give(cycle):
                self._turn = (index + 1) % len(self._reads)
        driven: dict[str, dict[str, int] | bool | None] = {}
        for read in self._reads:
            read.end()
            driven[f"{read.bus.name}__ar"] = read.ready
            driven[f"{read.bus.name}__r"] = read.beat if read.offered else None
        for write in self._writes:
            write.end(cycle)
            driven[f"{write.bus.name}__aw"] = write.address_ready
            driven[f"{write.bus.name}__w"] = write.beat_ready
            driven[f"{write.bus.name}__b"] = write.answer if write.offered else None
        return driven

    def sample(self, cycle: int, seen: dict[str, dict[str, int] | bool | None]) -> None:
        """Take what the manager drives in the same cycle: payloads or None, and ``ready``."""
        def payload(name: str) -> _Offered:
            found = seen[name]
            assert not isinstance(found, bool)
            return found

        # Buses are read before any is written.
        for read in self._reads:
            name = read.bus.name
            read.sample(cycle, payload(f"{name}__ar"), ready=bool(seen[f"{name}__r"]))
        for write in self._writes:
            name = write.bus.name
            write.sample(cycle, payload(f"{name}__aw"), payload(f"{name}__w"),
                         ready=bool(seen[f"{name}__b"]))

    @property
    def last(self) -> int:
        """Cycle of the last transfer on any bus, 0 before the first."""
        return max((bus.last for bus in self._all), default=0)

    def traffic(self, *, log: bool) -> list[Traffic]:
        """Say what was transferred on each bus, in the order of the buses."""
        return [bus.traffic(log=log) for bus in self._all]
