"""How far a simulation is, in a notebook."""

import sys
from collections.abc import Callable
from importlib import import_module

from nearbit_model.transfers.program import Progress


__all__ = ["notebook_progress"]


def notebook_progress(cycles: Callable[[], int | None]) -> Progress | None:
    """Show a line in a notebook's output that follows a simulation; None outside of notebooks.

    Parameters
    ----------
    cycles
        Gives all cycles that will be simulated, or None; called only in a notebook.
    """
    interactive = sys.modules.get("IPython")
    shell = None if interactive is None else interactive.get_ipython()
    # A shell on a terminal has none.
    if getattr(shell, "kernel", None) is None:
        return None
    display = import_module("IPython.display").display

    def line(text: str) -> dict[str, str]:
        return {"text/plain": text}

    handle = display(line("building the hardware, once"), raw=True, display_id=True)
    total = cycles()
    end = "" if total is None else f" of {total:,}"

    def move(cycle: int, _done: int, _total: int) -> None:
        handle.update(line(f"simulating: cycle {cycle:,}{end}"), raw=True)

    return move
