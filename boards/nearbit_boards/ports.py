"""The serial port of a board that is plugged in."""

from serial.tools import list_ports

from nearbit_boards.board import Board
from nearbit_boards.transport import DeviceError


__all__ = ["find_port"]


def find_port(board: Board) -> str:
    """Find a board's serial port by the vendor and product of its USB chip.

    A chip with several ports is used by its last one, as boards program themselves by the first.

    Raises
    ------
    DeviceError
        No such chip, several of them, or a board whose chip is not known.
    """
    if board.programmer is None:
        raise DeviceError(f"the USB IDs of {board.title} are not known; name its port with --port")
    usb = board.programmer.usb
    ids = tuple(int(part, 16) for part in usb.split(":"))
    chips: dict[str, list[str]] = {}
    # Ports of a chip differ in what follows the colon: 1-4:1.0, 1-4:1.1.
    for port in sorted(list_ports.comports(), key=lambda port: (port.location or "", port.device)):
        if (port.vid, port.pid) == ids:
            chip = (port.location or port.serial_number or port.device).partition(":")[0]
            chips.setdefault(chip, []).append(port.device)
    if not chips:
        raise DeviceError(f"no serial port of {board.title} was found (USB {usb}); plug it in with "
                          f"a cable that carries data, or name its port with --port")
    found = [ports[-1] for ports in chips.values()]
    if len(found) > 1:
        raise DeviceError(f"{len(found)} boards with the USB chip of {board.title} ({usb}) are "
                          f"plugged in, at {' and '.join(found)}; name one with --port")
    return found[0]
