"""Engines that run the hardware: cocotb benches, compiled simulation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from nearbit_sim.engine import SimulationError
    from nearbit_sim.simulation import simulate


__all__ = ["SimulationError", "simulate"]


_MODULES = {
    "SimulationError": "nearbit_sim.engine",
    "simulate": "nearbit_sim.simulation",
}


# On first use: a bench imports this package in the simulator, and needs none of it.
def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
