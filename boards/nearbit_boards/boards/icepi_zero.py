"""Icepi Zero: an ECP5 25F on a board the size of a Raspberry Pi Zero."""

import dataclasses

from nearbit_boards.board import OPENFPGALOADER, Board
from nearbit_boards.boards.ulx3s import BOARDS


__all__ = ["BOARD"]


BOARD = Board(
    name="icepi-zero", title="Icepi Zero 1.3",
    platform="amaranth_boards.icepi_zero:IcepiZero1_3Platform",
    # The same device as on the ULX3S 25F.
    config=BOARDS[1].config, clock=75_000_000, baud=3_000_000,
    programmer=dataclasses.replace(OPENFPGALOADER,
                                   arguments=("-b", "icepi-zero", "--write-flash")))
