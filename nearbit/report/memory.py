"""What a report says of the memory that a core reads: bytes, cycles, and what limits."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from nearbit_model.cycles import Error, bound
from nearbit_model.memory_timing import MemoryTiming


if TYPE_CHECKING:
    from nearbit_model.prepare import Prepared
    from nearbit_model.transfers import HardwareAttention, MemoryUse, Prediction


__all__ = ["MemoryReport", "memory_report"]


@dataclass(frozen=True)
class MemoryReport:
    """How a memory was used.

    Parameters
    ----------
    use
        What was read, and how busy the buses were.
    limit
        The stage whose cycles add up to most, by :func:`nearbit_model.cycles.bound`.
    limit_cycles
        Its cycles for a command, mean.
    is_recorded
        Whether the prediction was made of recorded response times.
    """

    use: "MemoryUse"
    limit: str
    limit_cycles: float
    is_recorded: bool

    @property
    def cycles_per_command(self) -> float:
        """Cycles for a command, mean, from the first command on."""
        return self.use.cycles / self.use.commands


def memory_report(hardware: "HardwareAttention", prediction: "Prediction",
                  timing: MemoryTiming | None) -> MemoryReport | None:
    """Say how a memory was used; None for hardware without one."""
    use = hardware.memory_use
    if use is None:
        return None
    timing = MemoryTiming() if timing is None else timing
    cycles = _stages(hardware.prepared, prediction, timing)
    limit, most = max(cycles.items(), key=lambda stage: stage[1])
    return MemoryReport(use, limit, float(most / use.commands), not timing.is_constant)


def _stages(prepared: "Prepared", prediction: "Prediction", timing: MemoryTiming
            ) -> dict[str, Fraction]:
    """Add up the cycles that all commands take of each stage."""
    shapes: dict[int, tuple[int, int]] = {}
    for answer in prediction.timeline.answers:
        if answer.error == Error.OK:
            words, selected = shapes.get(answer.command, (0, 0))
            shapes[answer.command] = (max(words, answer.words), max(selected, answer.selected))
    total: dict[str, Fraction] = {}
    for (words, selected), count in Counter(shapes.values()).items():
        least = bound(prepared.config, words=words, selected=selected, timing=timing,
                      rescore=prepared.rescore is not None, shared=prepared.shared)
        for stage, cycles in least.stages.items():
            total[stage] = total.get(stage, Fraction(0)) + count * cycles
    return total
