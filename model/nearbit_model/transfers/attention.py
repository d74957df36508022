"""What hardware answers, in the form of the golden model's answer."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nearbit_model.attention import Attention, compare, origins
from nearbit_model.comparison import ARRAYS, differing
from nearbit_model.prepare import Prepared
from nearbit_model.reference import Measures
from nearbit_model.transfers.program import Outcome, Traffic


__all__ = ["HardwareAttention", "MemoryUse"]


@dataclass(frozen=True)
class MemoryUse:
    """What attention read from a memory, and how busy the buses were.

    Parameters
    ----------
    buses
        What was transferred on each bus.
    cycles
        Cycles from the first accepted command to the last transfer, both included.
    commands
        Commands.
    queries
        Queries that were answered.
    """

    buses: list[Traffic]
    cycles: int
    commands: int
    queries: int

    @property
    def bytes_read(self) -> int:
        """Bytes of all beats that were read."""
        return sum(bus.bytes for bus in self.buses if bus.is_read)

    @property
    def bytes_per_command(self) -> float:
        """Bytes that were read for a command, mean."""
        return self.bytes_read / self.commands

    @property
    def bytes_per_query(self) -> float:
        """Bytes that were read for a query, mean; queries of a command share codes."""
        return self.bytes_read / self.queries

    @property
    def shares(self) -> dict[str, float]:
        """By the name of each bus that is read, the share of the cycles that had a beat."""
        return {bus.name: bus.beats / self.cycles for bus in self.buses if bus.is_read}


@dataclass(frozen=True, eq=False)
class HardwareAttention:
    """Attention as hardware computed it, simulated or on a board, and in how many cycles.

    Its arrays have the form of the golden model's (:class:`nearbit_model.attention.Attention`).

    m is the largest number of keys that any query selected; a query that selected fewer is padded
    with -1. Keys stand in ascending distance, then descending index, as in the golden model; the
    hardware sends them by descending index. Without a trace m is 0.

    Parameters
    ----------
    output
        float32 [heads, queries, value_dim], in the units of v.
    output_int
        As the hardware gives it, int32 [heads, queries, value_dim].
    selected
        Indices of the selected keys, int64 [heads, queries, m].
    distances
        Their Hamming distances to the query, int32 [heads, queries, m].
    weights
        Their integer weights, int64 [heads, queries, m].
    errors
        Error codes (:class:`nearbit_model.structure.Error`), int64 [heads, queries]; 0 throughout,
        unless the hardware is broken.
    head_cycles
        Each head's share of all clock cycles, with loading, int64 [heads]; they add up to
        ``cycles``. Heads that are scored together share evenly, as do those of a group the loading.
    query_cycles
        From the first accepted query of each head to its last beat, int64 [heads].
    load_cycles
        From the first to the last load of each key head, int64 [kv_heads].
    prepared
        The integer inputs.
    outcome
        All transfers with their cycles.
    scores
        With method "hash", the keys' integer dot-product scores, int64 [heads, queries, m], 0 where
        there is no key; else None.
    """

    output: NDArray[np.float32]
    output_int: NDArray[np.int32]
    selected: NDArray[np.int64]
    distances: NDArray[np.int32]
    weights: NDArray[np.int64]
    errors: NDArray[np.int64]
    head_cycles: NDArray[np.int64]
    query_cycles: NDArray[np.int64]
    load_cycles: NDArray[np.int64]
    prepared: Prepared = field(repr=False)
    outcome: Outcome = field(repr=False)
    scores: NDArray[np.int64] | None = None

    @property
    def origins(self) -> NDArray[np.int8]:
        """Why each key was selected, see :func:`nearbit_model.attention.origins`."""
        return origins(self.selected, self.prepared)

    @property
    def cycles(self) -> int:
        """All clock cycles, from the first load to the last beat."""
        return self.outcome.cycles

    @property
    def seconds(self) -> float:
        """Wall time, without generating and compiling."""
        return self.outcome.seconds

    @property
    def build_seconds(self) -> float:
        """Wall time of generating and compiling before; short if the cache had it."""
        return self.outcome.build_seconds

    @property
    def engine(self) -> str:
        """Name of the engine, or ``device``."""
        return self.outcome.engine

    @property
    def cycles_per_second(self) -> float:
        """Cycles in a second of wall time."""
        return self.outcome.cycles_per_second

    @property
    def head_seconds(self) -> NDArray[np.float64]:
        """Each head's share of the wall time, by cycles: float64 [heads]."""
        return self.seconds * self.head_cycles / max(self.cycles, 1)

    @property
    def memory_use(self) -> MemoryUse | None:
        """What was read from memory; None without one, and by the engine ``golden``."""
        traffic = self.outcome.traffic
        if not traffic:
            return None
        commands = [cycles for phase in self.outcome.accepted
                    for name, cycles in phase.items() if name == "i_command"]
        return MemoryUse(traffic, self.cycles - int(commands[0][0]),
                         sum(map(len, commands)), self.errors.size)

    def compare(self) -> Measures:
        """Compare with exact attention: see :func:`nearbit_model.attention.compare`."""
        return compare(self.prepared, self.output, self.selected, self.distances)

    def difference(self, golden: Attention) -> str | None:
        """Name the first element that differs from the golden model's; None if there is none."""
        trace = self.selected.shape[-1] > 0
        for name in ARRAYS if trace else ARRAYS[-1:]:
            ours, theirs = getattr(self, name), getattr(golden, name)
            if theirs is not None and ours.shape != theirs.shape:
                return f"{name} has shape {ours.shape}, not {theirs.shape}"
        for name, wrong in differing(self, golden, trace=trace).items():
            if wrong.any():
                place = tuple(int(index) for index in np.argwhere(wrong)[0])
                return (f"{name}[{', '.join(map(str, place))}] is {getattr(self, name)[place]}, "
                        f"not {getattr(golden, name)[place]}")
        return None
