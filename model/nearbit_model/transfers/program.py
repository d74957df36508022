"""What an engine is asked to do, and what it answers.

A :class:`Program` is a list of phases. In a phase, every input stream has a sequence of payloads,
and all sequences are pushed at full rate in parallel. A phase ends when all its transfers are
accepted; the next begins in the following cycle, or when some beats have come, or some cycles
later. Outputs are always ready.
Cycle 0 is the first after one cycle of reset. Then the engine goes on until it has seen as many
beats on each output as the program expects.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nearbit_model.transfers.payload import Port, Words


__all__ = ["TRAFFIC_LOG", "Beats", "Cycles", "Outcome", "Phase", "Program", "Progress",
           "Traffic"]


Cycles: TypeAlias = NDArray[np.int64]

Progress: TypeAlias = Callable[[int, int, int], None]
"""Called now and then with the cycle, the transfers and beats so far, and those of the program."""


@dataclass(frozen=True)
class Phase:
    """What is pushed in parallel: packed payloads of each input stream.

    Parameters
    ----------
    inputs
        Rows of 64-bit words for each input stream that gets any payload.
    delay
        Cycles to wait before the phase begins.
    after
        Beats of output streams, from the first on, that must have come before the wait.
    """

    inputs: Mapping[str, Words]
    delay: int = 0
    after: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Program:
    """Phases for a component, and how many beats to wait for.

    Parameters
    ----------
    ports
        Streams of the component, without those of AXI4 buses.
    phases
        What is pushed.
    beats
        Beats of output streams to wait for.
    lasts
        Beats with ``last`` of output streams to wait for, instead of ``beats`` of them: for streams
        of which it is not known how long their parts are.
    levels
        Values of ports that are no streams, from reset on; 0 where none is given.
    memory
        What is in the memory at the other end of all AXI4 buses, uint8 [bytes]; None is an empty
        one. A run works on a copy.
    """

    ports: list[Port]
    phases: list[Phase] = field(default_factory=list)
    beats: dict[str, int] = field(default_factory=dict)
    lasts: dict[str, int] = field(default_factory=dict)
    levels: dict[str, int] = field(default_factory=dict)
    memory: NDArray[np.uint8] | None = None

    def port(self, name: str, *, is_input: bool) -> Port:
        """Look up a stream by its name."""
        for port in self.ports:
            if port.name == name and port.is_input == is_input:
                return port
        raise KeyError(f"there is no {'input' if is_input else 'output'} stream {name!r}")

    def add(self, inputs: Mapping[str, Any], *, delay: int = 0,
            after: Mapping[str, int] | None = None) -> None:
        """Append a phase, with delay and beats to wait for as of :class:`Phase`.

        Each input has arrays with a first dimension of payloads: an integer array for a number, a
        dictionary of arrays for a structure, one more dimension for an array.
        """
        packed: dict[str, Words] = {}
        for name, values in inputs.items():
            packed[name] = self.port(name, is_input=True).pack(values, _count(values))
        for name in after or {}:
            self.port(name, is_input=False)
        self.phases.append(Phase(packed, delay, after or {}))

    def expect(self, beats: Mapping[str, int]) -> None:
        """Wait for some more beats of output streams."""
        for name, count in beats.items():
            self.port(name, is_input=False)
            self.beats[name] = self.beats.get(name, 0) + count

    @property
    def awaited(self) -> dict[str, int]:
        """Beats to wait for, of streams that are not waited for by ``lasts``."""
        return {name: count for name, count in self.beats.items() if name not in self.lasts}

    def contents(self) -> NDArray[np.uint8]:
        """Copy the memory, for a run."""
        if self.memory is None:
            return np.zeros(0, dtype=np.uint8)
        if self.memory.dtype != np.uint8 or self.memory.ndim != 1:
            raise ValueError(f"a memory must be uint8 [bytes], not {self.memory.dtype} of shape "
                             f"{self.memory.shape}")
        return self.memory.copy()

    @property
    def transfers(self) -> int:
        """Payloads of all phases and expected beats: what progress is measured in."""
        return (sum(len(words) for phase in self.phases for words in phase.inputs.values())
                + sum(self.beats.values()))


def _count(values: Any) -> int:
    while isinstance(values, Mapping):
        values = next(iter(values.values()))
    return len(values)


@dataclass(frozen=True)
class Beats:
    """Transfers of an output stream: packed payloads and their cycles."""

    port: Port
    words: Words
    cycles: Cycles

    def __len__(self) -> int:
        """Count the beats."""
        return len(self.cycles)

    @property
    def payloads(self) -> Any:
        """Payloads as arrays, in the form that :meth:`Program.add` takes."""
        return self.port.unpack(self.words)


@dataclass(frozen=True)
class Traffic:
    """What was transferred on an AXI4 bus.

    Parameters
    ----------
    name
        Name of the bus.
    is_read
        Whether it is read on it.
    beat_bytes
        Bytes of a beat.
    bursts
        Addresses that were transferred.
    beats
        Beats that were transferred: as many cycles of the bus were used.
    failed
        Those of them that are read, or answers to bursts that are written, that are an error.
    addresses, lengths, numbers
        Address, beats and ID of each burst, int64; empty unless a log was asked for.
    shown, asked
        The first cycle in which each burst's address was presented, and that in which it was
        transferred, int64; the same.
    cycles
        Cycle of each beat, int64; the same.
    beat_numbers
        ID of each beat that is read, int64; the same.
    """

    name: str
    is_read: bool
    beat_bytes: int
    bursts: int
    beats: int
    failed: int
    addresses: NDArray[np.int64] = field(repr=False)
    lengths: NDArray[np.int64] = field(repr=False)
    numbers: NDArray[np.int64] = field(repr=False)
    shown: Cycles = field(repr=False)
    asked: Cycles = field(repr=False)
    cycles: Cycles = field(repr=False)
    beat_numbers: NDArray[np.int64] = field(repr=False)

    @property
    def has_log(self) -> bool:
        """Whether each burst and beat is recorded."""
        return len(self.asked) == self.bursts and len(self.cycles) == self.beats

    @property
    def bytes(self) -> int:
        """Bytes of all beats, also of those whose bytes were not all used."""
        return self.beats * self.beat_bytes


TRAFFIC_LOG = ("addresses", "lengths", "numbers", "shown", "asked", "cycles", "beat_numbers")
"""Fields of :class:`Traffic` that are a log."""


@dataclass(frozen=True)
class Outcome:
    """What an engine answers; equal for all engines but for seconds and the engine's name.

    Parameters
    ----------
    accepted
        For each phase and input stream, the cycle in which each payload was accepted.
    outputs
        Beats of every output stream.
    cycles
        Cycles from the first after reset to the last transfer, both included.
    engine
        Name of the engine.
    seconds
        Wall time of the simulation, without generating and compiling.
    build_seconds
        Wall time before.
    traffic
        What was transferred on each AXI4 bus, until the run ended.
    memory
        What is in the memory at the end, uint8 [bytes]; None without one.
    """

    accepted: list[dict[str, Cycles]]
    outputs: dict[str, Beats]
    cycles: int
    engine: str
    seconds: float
    build_seconds: float
    traffic: list[Traffic] = field(default_factory=list)
    memory: NDArray[np.uint8] | None = field(default=None, repr=False)

    @property
    def cycles_per_second(self) -> float:
        """Simulated cycles in a second of wall time."""
        return self.cycles / self.seconds if self.seconds > 0 else float("inf")
