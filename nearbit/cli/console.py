"""Tables, counts and progress on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from nearbit.streams import say


if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, Task

    from nearbit.tensors import Tensors
    from nearbit_model.config import Config


__all__ = ["BUILDING", "Bar", "building", "console", "count", "progress", "say_notes",
           "seconds_to_build"]


BUILDING = "building the hardware, once"

# Seconds in which a core becomes a library, for any and for each LUT of it: measured with the
# presets tiny, reference, gqa3 and long (6, 14, 43 and 30 s on two cores, x86_64).
_SECONDS, _SECONDS_PER_LUT = 6, 0.0012


def console(is_error: bool = False) -> "Console":
    """Make a console that does not break lines at 80 columns where nobody sees them."""
    from rich.console import Console

    stream = sys.stderr if is_error else sys.stdout
    return Console(stderr=is_error, width=None if stream.isatty() else 120)


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun, in the singular or the plural."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def say_notes(file: Path | str, tensors: "Tensors") -> None:
    """Say what one might not expect of a tensor file, once nothing else is wrong."""
    for note in tensors.notes:
        say(f"{file}: {note}")


@contextmanager
def building(bar: "Bar", config: "Config", name: str, engine: str) -> Iterator[None]:
    """Say that hardware is built and about how long it takes, if the cache does not have it.

    On a terminal the bar says it, elsewhere one line on standard error.
    """
    from nearbit_sim.cache import announcing

    has_said = False

    def announce() -> None:
        nonlocal has_said
        if not has_said:
            has_said = True
            bar.announce(f"building the hardware of {name}{_about(config, engine)}, once")

    with announcing(announce):
        yield


def _about(config: "Config", engine: str) -> str:
    """Say how long a build takes, roughly; nothing of Icarus Verilog, which compiles in seconds,
    and of what nobody has measured.
    """
    from nearbit_model.errors import NearbitError

    if engine != "compiled":
        return ""
    try:
        seconds = seconds_to_build(config)
    except NearbitError:
        return ""
    return f" (about {10 * max(1, round(seconds / 10))} s)" if seconds < 100 else \
        f" (about {round(seconds / 60)} minutes)"


def seconds_to_build(config: "Config") -> float:
    """Estimate the wall time from a configuration to its library, by the size of its logic."""
    from nearbit import area

    # What was not fitted is small beside the rest.
    known = config.replace(cell="ecp5", memory=None, selection_block=0)
    return _SECONDS + _SECONDS_PER_LUT * area.estimate(known, "ecp5").total.luteq


class Bar:
    """What is done now, on a terminal; in a simulation, how far it is and how long it will take."""

    def __init__(self, progress: "Progress", doing: str) -> None:
        """Add a bar to a display."""
        self._progress = progress
        self._task = progress.add_task(doing, total=None)

    def say(self, doing: str) -> None:
        """Show what is done now, without an estimate."""
        self._progress.reset(self._task, total=None, description=doing)

    def announce(self, doing: str) -> None:
        """Show what takes long; where there is no terminal, as a line."""
        self.say(doing)
        if self._progress.disable:
            say(doing)

    def to(self, cycles: int | None) -> Callable[[int, int, int], None]:
        """Give a function that shows a simulation's way to so many cycles, as engines call it.

        None is a number that nobody knows.
        """
        def move(cycle: int, _done: int, _total: int) -> None:
            if cycles is not None and self._progress.tasks[0].total is None:
                # Only what is simulated counts for the time left.
                self._progress.reset(self._task, total=cycles)
            self._progress.update(self._task, completed=cycle,
                                  description=f"simulating: cycle {cycle:,}")

        return move


@contextmanager
def progress(doing: str) -> Iterator[Bar]:
    """Show a bar on a terminal, and nothing elsewhere."""
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.text import Text

    class TimeLeftColumn(ProgressColumn):
        max_refresh = 0.5

        def render(self, task: "Task") -> Text:
            seconds = task.time_remaining
            return Text("" if seconds is None else f"{timedelta(seconds=int(seconds))} left")

    terminal = console(is_error=True)
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20),
                  TaskProgressColumn(), TimeElapsedColumn(), TimeLeftColumn(), console=terminal,
                  transient=True, disable=not terminal.is_terminal) as display:
        yield Bar(display, doing)
