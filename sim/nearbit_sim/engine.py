"""What all engines have in common: their interface and their errors."""

from typing import Protocol

from nearbit_model.errors import NearbitError
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
        """Streams of the component."""
        ...

    def run(self, program: Program, *, patience: int = 1_000_000,
            progress: Progress | None = None, vcd: str | None = None) -> Outcome:
        """Run a program from reset to its last beat.

        Parameters
        ----------
        patience
            Cycles without any transfer after which :class:`SimulationError` is raised.
        progress
            Called now and then.
        vcd
            File to write waveforms to; :class:`WaveformError` if it is not complete in the end.
        """
        ...
