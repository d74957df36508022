"""What all engines have in common: their interface and their errors."""

from typing import Protocol

from nearbit_model.errors import NearbitError
from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.transfers.payload import Port
from nearbit_model.transfers.program import Outcome, Program, Progress


__all__ = ["Engine", "SimulationError", "WaveformError"]


class SimulationError(NearbitError, RuntimeError):
    """A simulation that cannot be built or run; the message is for the user."""


class WaveformError(OSError, SimulationError):
    """The file of waveforms cannot be written, or not to its end; made from ``errno, text, path``.
    """

    def __str__(self) -> str:
        """Return the message."""
        return f"{self.filename} cannot be written: {self.strerror}"


class Engine(Protocol):
    """A component that is ready to run programs."""

    @property
    def ports(self) -> list[Port]:
        """Streams of the component, without those of AXI4 buses."""
        ...

    def run(self, program: Program, *, patience: int = 1_000_000,
            progress: Progress | None = None, vcd: str | None = None,
            timing: MemoryTiming | None = None, log: bool = False) -> Outcome:
        """Run a program from reset to its last beat.

        At the other end of the component's AXI4 buses, if there are any, is one memory; if the
        component breaks a rule of AXI4, :class:`SimulationError` says which.

        Parameters
        ----------
        patience
            Cycles without any transfer after which :class:`SimulationError` is raised.
        progress
            Called now and then.
        vcd
            File to write waveforms to; :class:`WaveformError` if it is not complete in the end.
        timing
            When the memory answers; None is a :class:`MemoryTiming` by default.
        log
            Whether to record each burst and each beat on the buses.
        """
        ...
