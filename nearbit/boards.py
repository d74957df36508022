"""`nearbit boards`, `build`, `flash`, `run`: from a preset to answers of a board."""

import dataclasses
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from nearbit.tables import print_table
from nearbit_boards.board import Board, BoardError, can_light, reference_clock
from nearbit_boards.boards import BOARDS, find_board


if TYPE_CHECKING:
    from nearbit_boards.build import Build
    from nearbit_model.config import Config


__all__ = ["BOARDS", "baud_of", "board_list", "choose", "find_board", "show_boards", "show_build"]


_MOST_CLOCK = 400.0
_LEAST_BAUD, _MOST_BAUD = 115_200, 3_000_000


def choose(name: str | None, platform: str | None, config: "Config | None", *,
           clock: float | None = None, baud: int | None = None) -> Board:
    """Give the board that options name, with the configuration, clock and baud that they give.

    Raises
    ------
    BoardError
        Options that name no board, or two, or one that cannot be.
    """
    if clock is not None and not 0 < clock <= _MOST_CLOCK:
        raise BoardError(f"--clock is in MHz, above 0 and at most {_MOST_CLOCK:g}, not {clock:g}")
    _check_baud(baud)
    if (name is None) == (platform is None):
        raise BoardError("give either --board or --platform; 'nearbit boards' lists the boards")
    if platform is not None:
        if config is None:
            raise BoardError("--platform needs --config, as it has no preset")
        board = Board(name=platform.rpartition(":")[2] or platform, title=platform,
                      platform=platform, config=config, clock=0)
        board = dataclasses.replace(board, clock=reference_clock(board.new_platform()))
        board = _with_leds(board)
    else:
        assert name is not None
        board = find_board(name)
    changes: dict[str, Any] = {}
    if config is not None:
        changes["config"] = config if config.cell is not None else config.replace(
            cell=board.device.family)
    if clock is not None:
        changes["clock"] = round(clock * 1e6)
    if baud is not None:
        changes["baud"] = baud
    board = dataclasses.replace(board, **changes)
    board.check()
    return board


def baud_of(name: str | None, baud: int | None) -> int:
    """Bits in a second at a port: those that are given, else those of the board.

    Raises
    ------
    BoardError
        A rate that cannot be, an unknown board, or neither of both.
    """
    _check_baud(baud)
    board = None if name is None else find_board(name)
    if baud is not None:
        return baud
    if board is None:
        raise BoardError("--port needs --board, or --baud for what the bitstream was built with")
    return board.baud


def _check_baud(baud: int | None) -> None:
    if baud is not None and not _LEAST_BAUD <= baud <= _MOST_BAUD:
        raise BoardError(f"--baud must be from {_LEAST_BAUD} to {_MOST_BAUD}, not {baud}")


def _with_leds(board: Board) -> Board:
    """Leave out LEDs that a platform does not have, or whose pins clock or UART use."""
    platform = board.claim()
    activity, error = (("led", number) if can_light(platform, ("led", number)) else None
                       for number in (0, 1))
    return dataclasses.replace(board, activity=activity, error=error)


def board_list() -> list[dict[str, Any]]:
    """All boards, as JSON can hold them."""
    return [{
        "board": board.name, "title": board.title, "device": board.part,
        "config": board.config.to_dict(), "clock_mhz": board.clock / 1e6, "baud": board.baud,
        "luts": board.device.luts, "brams": board.device.brams, "sprams": board.device.sprams,
        "dsps": board.device.dsps,
        "programmer": None if board.programmer is None else board.programmer.command,
    } for board in BOARDS.values()]


def show_boards(console: Console) -> None:
    """Print the boards with their presets, and below with their devices."""
    presets = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    devices = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    presets.add_column("board", style="bold")
    for head in ("keys", "bits", "values", "lanes", "top N", "MHz"):
        presets.add_column(head, justify="right")
    devices.add_column("board", style="bold")
    devices.add_column("device")
    for head in ("LUTs", "block RAMs", "DSPs"):
        devices.add_column(head, justify="right")
    devices.add_column("programmer")
    for board in BOARDS.values():
        config, device = board.config, board.device
        presets.add_row(
            board.name, f"{config.capacity:,}", str(config.key_bits),
            f"{config.value_dim} x {config.value_bits} bits", str(config.lanes),
            str(config.top_n), f"{board.clock / 1e6:g}")
        devices.add_row(
            board.name, board.part, f"{device.luts:,}",
            f"{device.brams}{f' + {device.sprams} SPRAM' if device.sprams else ''}",
            str(device.dsps), "" if board.programmer is None else board.programmer.command)
    console.print("What each board's preset has:\n", highlight=False)
    print_table(presets, console)
    console.print("\nWhat its device has:\n", highlight=False)
    print_table(devices, console)


def show_build(result: "Build", console: Console) -> None:
    """Print what a build uses."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for head in (result.device, "used", "free", ""):
        table.add_column(head, justify="left" if head == result.device else "right")
    ice40 = result.device.startswith("iCE")
    rows = [("logic cells" if ice40 else "LUT4", result.luts, result.luts_total),
            ("block RAMs", result.brams, result.brams_total),
            ("SPRAMs", result.sprams, result.sprams_total),
            ("DSPs", result.dsps, result.dsps_total)]
    for title, used, there in rows:
        if there:
            table.add_row(title, f"{used:,}", f"{there - used:,}", f"{100 * used / there:.0f} %")
        if title in ("logic cells", "LUT4"):
            table.add_row("flip-flops", f"{result.ffs:,}", "", "")
    print_table(table, console)
    said = ", ".join(f"{name} {spent:.0f} s" for name, spent in result.seconds.items())
    clocks = (f"Fmax {result.fmax_mhz:.1f} MHz, clock {result.target_mhz:g} MHz, "
              f"host link {result.baud:,} baud, seed {result.seed}.")
    begin, end = result.slowest_path
    limit = f"The slowest path begins in {begin} and ends in {end}."
    for line in ("", clocks, limit, f"Built in {sum(result.seconds.values()):.0f} s: {said}.",
                 f"Bitstream: {result.bitstream}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
