"""Board designs, bitstreams, flashing, and the host driver."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from nearbit_boards.device import Device
    from nearbit_boards.simulated import PinTransport, SimulatedTransport
    from nearbit_boards.transport import DeviceError, SerialTransport


__all__ = ["Device", "DeviceError", "PinTransport", "SerialTransport", "SimulatedTransport"]


_MODULES = {
    "Device": "nearbit_boards.device",
    "DeviceError": "nearbit_boards.transport",
    "PinTransport": "nearbit_boards.simulated",
    "SerialTransport": "nearbit_boards.transport",
    "SimulatedTransport": "nearbit_boards.simulated",
}


# Imported on first use: benches in the simulator import this package, and need none of this.
def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
