"""From what was transferred on buses to the response times that the cycle model takes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nearbit_model.config import Config
from nearbit_model.memory_trace import BusTrace, MemoryTrace, TraceError
from nearbit_model.transfers.program import Traffic


__all__ = ["memory_trace"]


def memory_trace(config: Config, traffic: Sequence[Traffic], *, timeout: int = 0) -> MemoryTrace:
    """Take the response times of a memory from the log of a run.

    Accepted is whatever AXI4 allows of answers: any latency, pauses of addresses and beats, and any
    order of beats of different IDs.

    Parameters
    ----------
    config
        A configuration with a memory.
    traffic
        What was transferred on each bus, with a log; those that are written count for nothing.
    timeout
        The core's input ``timeout``.

    Raises
    ------
    TraceError
        There is no log, or the core was in a fault: a beat was an error, bursts were not answered,
        or the memory was silent for ``timeout`` cycles.
    """
    memory = config.memory
    if memory is None:
        raise TraceError("the configuration has no memory whose response times could be taken")
    reads = [bus for bus in traffic if bus.is_read]
    expected = 1 if memory.one_bus else 1 + memory.row_ports
    if len(reads) != expected:
        raise TraceError(f"the configuration reads on {expected} buses, and the traffic is of "
                         f"{len(reads)}")
    # Codes and rows are watched by themselves, also on one bus, where the highest bit of the ID
    # says which they are.
    shift = memory.row_id_bits if memory.one_bus else 63
    limit = timeout or 1 << memory.timeout_bits
    return MemoryTrace(tuple(_bus_trace(bus, shift, limit) for bus in reads))


def _bus_trace(bus: Traffic, shift: int, limit: int) -> BusTrace:
    """Take the response times of a bus."""
    if not bus.has_log:
        raise TraceError(f"the traffic of {bus.name} has no log: simulate with log=True")
    if bus.failed:
        raise TraceError(f"{bus.failed} beats of {bus.name} were an error, and cycles are not "
                         f"predicted of faults")
    # Beats of an ID are those of its bursts in their order.
    by_number = np.argsort(bus.numbers, kind="stable")
    burst = np.empty(bus.beats, np.int64)
    owed = int(bus.lengths.sum()) - bus.beats
    if owed:
        raise TraceError(f"{owed} beats of {bus.name} had not come when the run ended")
    burst[np.argsort(bus.beat_numbers, kind="stable")] = np.repeat(
        by_number, bus.lengths[by_number])
    cycles = bus.cycles[np.argsort(burst, kind="stable")]
    for manager in np.unique(bus.numbers >> shift):
        mine = bus.numbers >> shift == manager
        silence = _silence(bus.shown[mine], bus.lengths[mine],
                           cycles[np.repeat(mine, bus.lengths)])
        # It begins to count in the cycle before an address is presented.
        if silence + 1 >= limit:
            raise TraceError(f"{bus.name} was silent for {silence} cycles, and the core gives a "
                             f"memory up after {limit} (timeout); cycles are not predicted of "
                             f"faults")
    return BusTrace(bus.name, bus.lengths, bus.asked - bus.shown,
                    cycles - np.repeat(bus.asked, bus.lengths))


def _silence(shown: NDArray[np.int64], lengths: NDArray[np.int64], cycles: NDArray[np.int64]
             ) -> int:
    """Give the most cycles without a beat while one was owed: of bursts, and of all their beats."""
    ended = np.sort(np.maximum.reduceat(cycles, np.cumsum(lengths) - lengths))
    shown, beats = np.sort(shown), np.sort(cycles)
    before = np.concatenate([[-1], beats[:-1]])
    asked = np.searchsorted(shown, before, side="right")
    owes = asked > np.searchsorted(ended, before, side="right")
    begun = np.where(owes, before, shown[np.minimum(asked, len(shown) - 1)])
    return int((beats - begun).max())
