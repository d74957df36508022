"""When a memory answered: recorded response times, from which the cycle model takes its cycles."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nearbit_model.errors import NearbitError


__all__ = ["BusTrace", "MemoryTrace", "TraceError"]


class TraceError(NearbitError, ValueError):
    """Response times that say nothing of a program's cycles; the message is one sentence."""


@dataclass(frozen=True, eq=False)
class BusTrace:
    """Response times of the bursts that were read on a bus, in the order of their addresses.

    Parameters
    ----------
    name
        Name of the bus, for messages.
    beats
        Beats of each burst, int64 [bursts].
    waits
        Cycles for which each address was presented before it was taken, at least 0, int64 [bursts].
    delays
        Cycles from a taken address to each of its beats, at least 1, int64 [beats]: those of the
        first burst, then those of the next. Beats of different bursts may come in any order.
    """

    name: str
    beats: NDArray[np.int64]
    waits: NDArray[np.int64]
    delays: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check that the lengths match each other, and that nothing is answered before asked."""
        if len(self.waits) != len(self.beats) or self.beats.sum() != len(self.delays):
            raise TraceError(f"the trace of {self.name} must have a wait for each of "
                             f"{len(self.beats)} bursts and a delay for each of "
                             f"{self.beats.sum()} beats, not {len(self.waits)} and "
                             f"{len(self.delays)}")
        for what, numbers, least in (("beats", self.beats, 1), ("waits", self.waits, 0),
                                     ("delays", self.delays, 1)):
            if (numbers < least).any():
                raise TraceError(f"{what} of the trace of {self.name} must be at least {least}, "
                                 f"not {numbers.min()}")
        burst = np.repeat(np.arange(len(self.beats)), self.beats)
        wrong = (np.diff(self.delays) <= 0) & (np.diff(burst) == 0)
        if wrong.any():
            raise TraceError(f"beats of burst {burst[int(wrong.argmax())]} of the trace of "
                             f"{self.name} must come one after another")


@dataclass(frozen=True, eq=False)
class MemoryTrace:
    """Response times of a memory, on each bus that a core reads.

    Parameters
    ----------
    buses
        That of codes, then those of rows; the only one, if they share it.
    """

    buses: tuple[BusTrace, ...]
