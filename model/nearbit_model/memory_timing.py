"""When a simulated memory answers: the parameters that all simulations and the cycle model share.

What a memory does in each cycle follows from these parameters, its seed and the manager's signals;
:class:`MemoryTiming` says how.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from nearbit_model.errors import NearbitError


__all__ = ["DECERR", "SLVERR", "MemoryTiming", "TimingError"]


SLVERR = 2
"""Response of a memory that fails (AMBA AXI, IHI 0022H, A3.4.4)."""

DECERR = 3
"""Response where there is no memory."""

_CYCLES = 1 << 40
_SHARED_PACE = 16
_PACE_DENOMINATOR = 1000


class TimingError(NearbitError, ValueError):
    """A memory that cannot be simulated; the message is one sentence for the user."""


@dataclass(frozen=True, kw_only=True)
class MemoryTiming:
    """How a memory answers bursts on one or more AXI4 buses; its bytes are the same for all.

    Each bus is a subordinate of its own. In every cycle, in this order:

    1. **Addresses.** ``arready`` is 1 unless the channel pauses, or ``outstanding`` bursts have
       not given their last beat in a cycle before. ``awready`` is 1 unless the channel pauses, the
       memory is silent, or so many bursts have not been answered.
    2. **Credit.** Every bus has credit for beats, at first 0. It grows by ``pace``, a fraction
       a / b, to less than 1 + ``pace``: to 1 + (a - 1) / b at most. That of a bus that is read
       grows only in a cycle in which no beat waits on it. With ``shared_pace`` there is one credit
       for all buses, which grows in every cycle.
    3. **Beats that are read.** A bus without a beat, with credit of at least 1, gives the next
       beat of its oldest burst, if ``latency`` cycles have passed since the cycle in which its
       address was transferred; this takes 1 of the credit. So the first beat of a burst comes
       ``latency`` cycles after its address at the earliest, and one beat a cycle at most. With a
       shared pace buses take turns: first comes the one after the last that gave a beat. The data
       are the bytes as they are when the cycle begins.
    4. **Pauses.** A beat is offered in the first cycle in which its channel does not pause, and
       then until it is transferred. It was given all the same: the bus gives no other one.
    5. **Beats that are written.** ``wready`` is 1 unless the channel pauses, the memory is silent
       or the bus has less credit than 1; a beat that is transferred takes that. A burst is
       written at the end of the cycle in which its address and all its beats are there, in the
       order of the addresses; it is answered ``latency`` cycles later at the earliest, one burst
       a cycle, in this order.

    With ``reorder``, what is read of different IDs comes in any order, beat by beat: of the oldest
    burst of each ID those that are due are candidates, and one of them is drawn.

    Beyond the memory's bytes, beats are answered by :data:`DECERR`, and nothing is written.

    With a constant ``latency``, no ``reorder`` and no pauses nothing is drawn, and the cycle of
    each beat follows from the cycles of the addresses and of ``rready``.

    Parameters
    ----------
    latency
        Cycles from a transferred address to its first beat at the earliest, or from a burst that
        was written to its answer: 1 to 2^20.
    latency_to
        If it is not None, latencies are drawn for each burst, from ``latency`` to this.
    pace
        Beats a cycle on a bus, at most: more than 0, up to 1; with ``shared_pace`` up to 16. The
        nearest fraction whose denominator is at most 1,000 is taken.
    shared_pace
        Whether all buses together have this pace, as ports of one DRAM.
    outstanding
        Bursts that a bus holds, at most.
    reorder
        Whether bursts of different IDs that are read overtake each other.
    ar_pause, r_pause, aw_pause, w_pause, b_pause
        Probabilities of a pause of each channel in a cycle: 0 up to 0.99.
    faults
        Responses of the beats at these addresses, :data:`SLVERR` or :data:`DECERR`; a burst that
        is written is answered by that of its first beat that has one. Any address of a beat
        stands for the beat.
    silent_from
        First cycle in which no more beats and answers are given, and nothing to write is taken.
        Addresses of reads are. None: never.
    silent_to
        First cycle in which the memory answers again. None: it never does.
    silent_at
        Addresses whose bursts are not answered before ``silent_to``; what must come after them in
        order waits, too.
    seed
        What is drawn follows from it: 0 to 2^63 - 1.
    """

    latency: int = 100
    latency_to: int | None = None
    pace: float = 1.0
    shared_pace: bool = False
    outstanding: int = 64
    reorder: bool = False
    ar_pause: float = 0.0
    r_pause: float = 0.0
    aw_pause: float = 0.0
    w_pause: float = 0.0
    b_pause: float = 0.0
    faults: Mapping[int, int] = field(default_factory=dict)
    silent_from: int | None = None
    silent_to: int | None = None
    silent_at: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every parameter; :class:`TimingError` names the first that cannot be."""
        _check_integer("latency", self.latency, 1, 1 << 20)
        if self.latency_to is not None:
            _check_integer("latency_to", self.latency_to, 1, 1 << 20)
            if self.latency_to < self.latency:
                raise TimingError(f"latency_to must be at least latency ({self.latency}), "
                                  f"not {self.latency_to}")
        _check_integer("outstanding", self.outstanding, 1, 1 << 16)
        _check_integer("seed", self.seed, 0, (1 << 63) - 1)
        most = _SHARED_PACE if self.shared_pace else 1
        if not _is_number(self.pace) or not 1 / _PACE_DENOMINATOR <= self.pace <= most:
            raise TimingError(f"pace must be from {1 / _PACE_DENOMINATOR} to {most}"
                              f"{'' if self.shared_pace else ' on each bus'}, not {self.pace!r}")
        for name in ("ar_pause", "r_pause", "aw_pause", "w_pause", "b_pause"):
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value <= 0.99:
                raise TimingError(f"{name} must be a probability from 0 to 0.99, not {value!r}")
        for name in ("shared_pace", "reorder"):
            if not isinstance(getattr(self, name), bool):
                raise TimingError(f"{name} must be true or false, not {getattr(self, name)!r}")
        for name in ("silent_from", "silent_to"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), 0, _CYCLES)
        for address in (*self.silent_at, *self.faults):
            _check_integer("an address", address, 0, (1 << 64) - 1)
        for response in self.faults.values():
            if response not in (SLVERR, DECERR):
                raise TimingError(f"the response of a fault must be {SLVERR} (SLVERR) or {DECERR} "
                                  f"(DECERR), not {response!r}")

    @property
    def latest(self) -> int:
        """The longest latency."""
        return self.latency if self.latency_to is None else self.latency_to

    @property
    def beats_of_cycles(self) -> tuple[int, int]:
        """The pace as a fraction: so many beats in so many cycles."""
        pace = Fraction(self.pace).limit_denominator(_PACE_DENOMINATOR)
        return pace.numerator, pace.denominator

    @property
    def is_drawn(self) -> bool:
        """Whether anything is drawn; if not, the seed does not matter."""
        return (self.latest != self.latency or self.reorder
                or any((self.ar_pause, self.r_pause, self.aw_pause, self.w_pause, self.b_pause)))

    @property
    def is_constant(self) -> bool:
        """Whether it answers in order, with one latency, a beat in each cycle, and no faults."""
        return not (self.is_drawn or self.pace != 1 or self.shared_pace or self.faults
                    or self.silent_at or self.silent_from is not None)

    def is_silent(self, cycle: int) -> bool:
        """Whether the whole memory is silent in a cycle."""
        return (self.silent_from is not None and cycle >= self.silent_from
                and (self.silent_to is None or cycle < self.silent_to))

    def to_json(self) -> dict[str, Any]:
        """Describe it with what JSON can hold."""
        return {**dataclasses.asdict(self), "faults": sorted(self.faults.items()),
                "silent_at": list(self.silent_at)}

    @classmethod
    def from_json(cls, timing: dict[str, Any]) -> "MemoryTiming":
        """Make one of its description."""
        return cls(**{**timing, "faults": dict(timing["faults"]),
                      "silent_at": tuple(timing["silent_at"])})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_integer(name: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise TimingError(f"{name} must be an integer from {least} to {most}, not {value!r}")
