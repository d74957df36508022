"""The command `flash`: write a bitstream to a board."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from nearbit.cli.errors import UserError
from nearbit.cli.options import BoardOption


__all__ = ["flash"]


def flash(
    board: BoardOption = None,
    bitstream: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Bitstream (default: the last build's).")] = None,
    is_dry: Annotated[bool, typer.Option(
        "--dry-run", help="Print the command without running it.")] = False,
) -> None:
    """Write a bitstream to a board with the programmer that its maker recommends."""
    from nearbit.boards import find_board
    from nearbit_boards.build import find_bitstream
    from nearbit_boards.flash import flash as flash_board
    from nearbit_boards.flash import flash_command

    if board is None:
        raise UserError("--board is missing; 'nearbit boards' lists the boards")
    chosen = find_board(board)
    file = find_bitstream(chosen, bitstream)
    command = shlex.join(flash_command(chosen, file))
    if is_dry:
        print(command)
        return
    try:
        flash_board(chosen, file)
    except KeyboardInterrupt:
        print(f"nearbit: {chosen.title} may hold a part of the bitstream; flash it again",
              file=sys.stderr)
        raise
    print(f"{file} is on {chosen.name}.")
