"""Writes a bitstream to a board, with the program that amaranth-boards names for it."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from nearbit_boards.board import Board, BoardError


__all__ = ["FlashError", "flash", "flash_command"]


class FlashError(BoardError):
    """A board that could not be written; the message is one sentence with the remedy."""


def flash_command(board: Board, bitstream: Path) -> list[str]:
    """Give the command that writes a bitstream; :class:`BoardError` without a programmer."""
    programmer = board.programmer
    if programmer is None:
        raise BoardError(f"it is not known which program writes to {board.name}; write {bitstream} "
                         f"with the board's own")
    command = shlex.split(os.environ.get(programmer.variable) or programmer.command)
    return [*command, *programmer.arguments, str(bitstream)]


def flash(board: Board, bitstream: Path) -> None:
    """Write a bitstream to a board.

    Raises
    ------
    BoardError
        A program that is not there.
    FlashError
        A board that is not there or may not be used, or a program that fails.
    """
    programmer = board.programmer
    command = flash_command(board, bitstream)
    assert programmer is not None
    if shutil.which(command[0]) is None:
        raise BoardError(f"writing to {board.name} needs {command[0]}, which is not installed; "
                         f"type: {programmer.package}")
    try:
        result = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace",
                                check=False)
    except OSError as error:
        raise BoardError(f"{command[0]} cannot be run: {error.strerror or error}") from None
    if result.returncode != 0:
        raise FlashError(_problem(board, command[0], programmer.usb,
                                  (result.stdout + result.stderr).strip(), result.returncode))


def _problem(board: Board, command: str, usb: str, said: str, status: int) -> str:
    """One sentence on what went wrong, by what the program said."""
    low = said.lower()
    # Permissions first: libusb names them beside "unable to open".
    if any(text in low for text in ("permission", "access denied", "insufficient", "libusb_error_a",
                                    "error -3", "(-4)", "unable to open ftdi device: -8")):
        return (f"{board.name} may not be used by this user; install the udev rule for {usb} of "
                f"docs/boards.md, and plug the board in again")
    if any(text in low for text in ("can't find", "not found", "no device", "no such device",
                                    "unable to open ftdi", "cable not found", "jtag init failed")):
        return (f"no {board.title} was found (USB {usb}); plug it in with a cable that carries "
                f"data, and see it in the list of lsusb")
    lines = said.splitlines()
    return f"{command} failed: {lines[-1].strip() if lines else f'status {status}'}"
