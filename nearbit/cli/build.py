"""The command `build`: a board's bitstream."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from nearbit.cli.console import console, progress
from nearbit.cli.devices import board_of, version_numbers
from nearbit.cli.errors import FAILED, UserError
from nearbit.cli.options import (
    BaudOption,
    BoardOption,
    ClockOption,
    JsonOption,
    SetOption,
)
from nearbit.files import OutputError, output_folder


__all__ = ["build"]


def build(
    board: BoardOption = None,
    platform: Annotated[str | None, typer.Option(
        "--platform", metavar="MODULE:CLASS", help=(
            "Instead of --board, any amaranth-boards platform with an iCE40 or ECP5 and a UART; "
            "needs --config."))] = None,
    config: Annotated[Path | None, typer.Option(
        "--config", metavar="FILE.toml", help=(
            "Use this configuration instead of the board's preset."))] = None,
    settings: SetOption = None,
    directory: Annotated[Path | None, typer.Option(
        "-o", "--output", metavar="DIR", help="Output folder (default: build/BOARD).")] = None,
    seed: Annotated[int | None, typer.Option(
        metavar="S", help=(
            "Placement seed; another one may reach a higher clock (default: the board's)."),
        )] = None,
    clock: ClockOption = None,
    baud: BaudOption = None,
    yosys: Annotated[str | None, typer.Option(
        metavar="PROGRAM", help="Yosys to use instead of the one from PyPI.")] = None,
    nextpnr: Annotated[str | None, typer.Option(
        metavar="PROGRAM", help="nextpnr to use instead of the one from PyPI.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Build a board's bitstream.

    The environment variables YOSYS, NEXTPNR_ICE40, NEXTPNR_ECP5, ICEPACK and ECPPACK also select
    programs. The exit status is 1 if the design does not fit or misses its clock, 2 if
    the input is wrong.
    """
    from nearbit.boards import show_build
    from nearbit_boards.build import BuildError, default_folder
    from nearbit_boards.build import build as build_board

    chosen = board_of(board, platform, config, clock, baud, settings)
    if seed is not None and not 0 <= seed < 1 << 31:
        raise UserError(f"--seed must be from 0 to {(1 << 31) - 1}, not {seed}")
    family = chosen.device.family
    named = {"yosys": yosys, f"nextpnr-{family}": nextpnr}
    folder = directory or default_folder(chosen)
    try:
        with output_folder(folder), progress("preparing") as bar:
            result = build_board(
                chosen, folder, seed=seed, version=version_numbers(), progress=bar.say,
                tools={name: program for name, program in named.items() if program is not None})
    except BuildError as error:
        print(f"nearbit: {error}", file=sys.stderr)
        raise typer.Exit(FAILED) from None
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"cannot write {error.filename or folder}: "
                          f"{error.strerror or error}") from None
    if as_json:
        print(json.dumps(result.to_dict(), indent=2))
    else:
        show_build(result, console())
