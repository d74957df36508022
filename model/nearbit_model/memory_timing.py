"""When a simulated memory answers: the parameters that all simulations and the cycle model share.

These parameters, the seed among them, and the manager's signals determine what a memory does in
each cycle; :class:`MemoryTiming` says how.
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

    Each bus is a separate subordinate. In every cycle, in this order:

    1. **Addresses.** ``arready`` is 1 unless the channel pauses, or ``outstanding`` bursts had not
       issued their last beat by the cycle before. ``awready`` is 1 unless the channel pauses, the
       memory is silent, or ``outstanding`` bursts have not been answered.
    2. **Credit.** Every bus has credit for beats, initially 0. It grows by ``pace``, a fraction
       a / b, but stays below 1 + ``pace``: its maximum is 1 + (a - 1) / b. The credit of a bus
       that is read grows only in cycles in which no beat waits on it. With ``shared_pace``, all
       buses share one credit, which grows in every cycle.
    3. **Beats read.** A bus without a waiting beat and with a credit of at least 1 issues the next
       beat of its oldest burst, if at least ``latency`` cycles have passed since the burst's
       address was transferred; this uses up a credit of 1. So a burst's first beat comes at least
       ``latency`` cycles after its address, and at most one beat per cycle. With a shared pace,
       buses take turns, starting after the bus that issued the last beat. The data are the
       memory's bytes at the beginning of the cycle.
    4. **Pauses.** A beat is offered from the first cycle on in which its channel does not pause,
       until it is transferred. It still counts as issued: the bus issues no other beat meanwhile.
    5. **Beats written.** ``wready`` is 1 unless the channel pauses, the memory is silent
       or the bus has a credit of less than 1; a transferred beat uses up a credit of 1. A burst is
       written at the end of the cycle in which its address and all its beats are there, in the
       order of the addresses; it is answered at least ``latency`` cycles later, one burst per
       cycle, in this order.

    With ``reorder``, reads of different IDs are answered in any order, beat by beat: the due
    bursts among the oldest of each ID are candidates, and one of them is drawn.

    Beyond the memory's bytes, beats are answered with :data:`DECERR`, and nothing is written.

    With a constant ``latency``, no ``reorder`` and no pauses, nothing is drawn, and the cycles of
    the addresses and of ``rready`` determine the cycle of each beat.

    Parameters
    ----------
    latency
        Minimum number of cycles from a transferred address to its first beat, or from a written
        burst to its answer: 1 to 2^20.
    latency_to
        If not None, a latency is drawn for each burst, from ``latency`` to this.
    pace
        Most beats per cycle on a bus: more than 0, up to 1; with ``shared_pace``, up to 16. The
        nearest fraction whose denominator is at most 1,000 is used.
    shared_pace
        Whether all buses share this pace, as ports of one DRAM.
    outstanding
        Most bursts that a bus holds.
    reorder
        Whether read bursts of different IDs overtake each other.
    ar_pause, r_pause, aw_pause, w_pause, b_pause
        Probabilities that each channel pauses in a cycle: 0 to 0.99.
    faults
        Responses of the beats at these addresses, :data:`SLVERR` or :data:`DECERR`; a written
        burst is answered with that of its first beat that has one. Any address of a beat stands
        for the beat.
    silent_from
        First cycle in which the memory issues no more beats and answers, and accepts nothing to
        write. It still accepts addresses of reads. None: never.
    silent_to
        First cycle in which the memory answers again. None: never.
    silent_at
        Addresses whose bursts are not answered before ``silent_to``; whatever must follow them in
        order also waits.
    seed
        Seed of everything drawn: 0 to 2^63 - 1.
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
        """Check every parameter; :class:`TimingError` names the first invalid one."""
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
        """The pace as a fraction: a number of beats, and of cycles."""
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
        """Describe the timing in types that JSON can hold."""
        return {**dataclasses.asdict(self), "faults": sorted(self.faults.items()),
                "silent_at": list(self.silent_at)}

    @classmethod
    def from_json(cls, timing: dict[str, Any]) -> "MemoryTiming":
        """Build a timing from its description."""
        return cls(**{**timing, "faults": dict(timing["faults"]),
                      "silent_at": tuple(timing["silent_at"])})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_integer(name: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise TimingError(f"{name} must be an integer from {least} to {most}, not {value!r}")
