"""The commands for boards: list them, build, flash, and run attention on one."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import nearbit


if TYPE_CHECKING:
    from nearbit_boards.board import Board
    from nearbit_boards.transport import Transport


__all__ = ["FAILED", "add_commands"]


FAILED = 1

BoardOption = Annotated[str | None, typer.Option(
    "--board", metavar="BOARD", help="A board; 'nearbit boards' lists them.")]
PlatformOption = Annotated[str | None, typer.Option(
    "--platform", metavar="MODULE:CLASS", help=(
        "Instead of --board, any platform of amaranth-boards with an iCE40 or ECP5 and a UART; "
        "needs --config."))]
ConfigOption = Annotated[Path | None, typer.Option(
    "--config", metavar="FILE.toml", help="A configuration instead of the board's preset.")]
ClockOption = Annotated[float | None, typer.Option(
    "--clock", metavar="MHZ", help="The accelerator's clock (default: the board's).")]
BaudOption = Annotated[int | None, typer.Option(
    "--baud", metavar="RATE", help="Bits in a second of the host link (default: the board's).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def boards(as_json: JsonOption = False) -> None:
    """List the boards with their presets, and what their devices have."""
    from nearbit.boards import board_list, show_boards
    from nearbit.cli import _console

    if as_json:
        print(json.dumps(board_list(), indent=2))
    else:
        show_boards(_console())


def build(
    board: BoardOption = None,
    platform: PlatformOption = None,
    config: ConfigOption = None,
    directory: Annotated[Path | None, typer.Option(
        "-o", "--output", metavar="DIR", help="Where to (default: build/BOARD).")] = None,
    seed: Annotated[int | None, typer.Option(
        metavar="S", help=(
            "Of the placement: another one may reach a higher clock (default: the board's)."),
        )] = None,
    clock: ClockOption = None,
    baud: BaudOption = None,
    yosys: Annotated[str | None, typer.Option(
        metavar="PROGRAM", help="Your own Yosys, instead of the one from PyPI.")] = None,
    nextpnr: Annotated[str | None, typer.Option(
        metavar="PROGRAM", help="Your own nextpnr, instead of the one from PyPI.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Build a board's bitstream.

    Programs can also be named by the environment variables YOSYS, NEXTPNR_ICE40, NEXTPNR_ECP5,
    ICEPACK and ECPPACK. The exit status is 1 if the design does not fit or misses its clock, 2 if
    the input is wrong.
    """
    from nearbit.boards import show_build
    from nearbit.cli import UserError, _console, _progress
    from nearbit.files import OutputError, output_folder
    from nearbit_boards.build import BuildError, default_folder
    from nearbit_boards.build import build as build_board

    chosen = _board(board, platform, config, clock, baud)
    if seed is not None and not 0 <= seed < 1 << 31:
        raise UserError(f"--seed must be from 0 to {(1 << 31) - 1}, not {seed}")
    family = chosen.device.family
    named = {"yosys": yosys, f"nextpnr-{family}": nextpnr}
    folder = directory or default_folder(chosen)
    try:
        with output_folder(folder), _progress("preparing") as bar:
            result = build_board(
                chosen, folder, seed=seed, version=_version(), progress=bar.say,
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
        show_build(result, _console())


def flash(
    board: BoardOption = None,
    bitstream: Annotated[Path | None, typer.Option(
        metavar="FILE", help="The bitstream (default: that of the last build).")] = None,
    is_dry: Annotated[bool, typer.Option(
        "--dry-run", help="Print the command, and do nothing.")] = False,
) -> None:
    """Write a bitstream to a board, with the program that its maker recommends."""
    import shlex

    from nearbit.boards import find_board
    from nearbit.cli import UserError
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


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE.npz", help=(
        "Float arrays q (heads, queries, head_dim) and k, v (kv heads, tokens, head_dim); "
        "optional: qpos, causal, temperature."))],
    board: BoardOption = None,
    port: Annotated[str | None, typer.Option(
        metavar="PORT", help=(
            "Serial port of the board, such as /dev/ttyUSB1, or that of a server: "
            "rfc2217://HOST:PORT or socket://HOST:PORT."))] = None,
    is_virtual: Annotated[bool, typer.Option(
        "--virtual", help="Simulate the bitstream itself (iCE40 HX8K), at its UART pins.")] = False,
    is_simulated: Annotated[bool, typer.Option(
        "--simulated", help="Simulate the design of the board, at its host link.")] = False,
    bitstream: Annotated[Path | None, typer.Option(
        metavar="FILE", help="With --virtual, the bitstream (default: that of the last build).",
        )] = None,
    config: ConfigOption = None,
    baud: BaudOption = None,
    heads: Annotated[str | None, typer.Option(
        metavar="LIST", help="Which heads: 0,2 or 0-3 or 5:10 (10 not included).")] = None,
    queries: Annotated[str | None, typer.Option(
        metavar="LIST", help="Which queries, likewise; 0:64:8 is every eighth.")] = None,
    top_n: Annotated[int | None, typer.Option(
        metavar="N", help="Keys selected by distance (default: 32, or as many as fit).")] = None,
    sink: Annotated[int, typer.Option(
        metavar="S", help="First keys, selected always.")] = 0,
    recent: Annotated[int, typer.Option(
        metavar="R", help="Last keys, selected always.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Run attention tensors on a board; compare with golden model and exact attention.

    The device says what it was built from; with --config, it must be that. The exit status is 0 if
    every bit equals the golden model's, 1 if one does not, 2 if the input is wrong.
    """
    from nearbit import indices
    from nearbit.cli import NOT_EXACT, UserError, _console, _count, _progress, _say_notes
    from nearbit.report import compare, show
    from nearbit.tensors import Tensors
    from nearbit_boards.device import Device
    from nearbit_model.attention import attention
    from nearbit_model.config import Config

    if sum((port is not None, is_virtual, is_simulated)) != 1:
        raise UserError("one of --port, --virtual and --simulated must be given")
    if bitstream is not None and not is_virtual:
        raise UserError("--bitstream needs --virtual; a board has the one that is flashed")
    for option, value, least in (("--top-n", top_n, 1), ("--sink", sink, 0),
                                 ("--recent", recent, 0)):
        if value is not None and value < least:
            raise UserError(f"{option} must be at least {least}, not {value}")
    if board is None and is_virtual:
        board = "ice40-hx8k-b-evn"
    if board is None and is_simulated:
        raise UserError("--simulated needs --board; 'nearbit boards' lists the boards")
    if board is None and baud is None:
        raise UserError("--port needs --board, or --baud for what the bitstream was built with")
    chosen = None if board is None else _board(board, None, config, None, baud)
    wanted = None if config is None else Config.load(config)
    tensors = Tensors.load(file)
    part = tensors.select(
        None if heads is None else indices.parse(heads, len(tensors.heads), "--heads"),
        None if queries is None else indices.parse(queries, len(tensors.queries), "--queries"))

    with ExitStack() as stack:
        bar = stack.enter_context(_progress("opening the device"))
        transport = _transport(chosen, port, bitstream, is_virtual, baud, bar.say)
        device = stack.enter_context(Device.open(transport, config=wanted))
        accelerator = device.config
        try:
            golden = attention(
                part.q, part.k, part.v, accelerator, n=top_n, sink=sink, recent=recent,
                causal=part.causal, qpos=part.qpos, temperature=part.temperature)
        except ValueError as error:
            raise UserError(f"{file}: {error}") from None
        _say_notes(file, tensors)
        bar.say("running")
        answer = device.run(golden.prepared)
    report = compare(part, golden, answer.result)

    times = {"seconds": answer.seconds, "compute_seconds": answer.compute_seconds,
             "transfer_seconds": answer.transfer_seconds, "sent": answer.sent,
             "received": answer.received, "repeated": answer.repeated}
    prepared = golden.prepared
    if as_json:
        print(json.dumps({
            "file": str(file), "board": board, "device": transport.name,
            "config": accelerator.to_dict(), "n": prepared.n, "sink": sink, "recent": recent,
            "causal": part.causal, **report.to_dict(), "run": times}, indent=2,
            allow_nan=False))
    else:
        console = _console()
        console.print(
            f"{file}: {_count(len(part.q), 'head')}, "
            f"{_count(len(part.queries), 'query', 'queries')} each, {part.tokens} keys of "
            f"{accelerator.key_bits} bits{', causal' if part.causal else ''}\n"
            f"{transport.name}{'' if board is None else f' as {board}'}: n {prepared.n}, sink "
            f"{sink}, recent {recent}\n", highlight=False, soft_wrap=True, markup=False)
        show(report, console, is_simulated=False)
        console.print(
            f"Compute {1e3 * answer.compute_seconds:.3f} ms at "
            f"{device.identity.clock / 1e6:g} MHz; transfer "
            f"{1e3 * answer.transfer_seconds:,.0f} ms of wall time: {answer.sent:,} bytes sent, "
            f"{answer.received:,} received, {answer.repeated} requests repeated.",
            highlight=False, markup=False, soft_wrap=True)
    if not report.total.bit_exact:
        raise typer.Exit(NOT_EXACT)


def _board(name: str | None, platform: str | None, config: Path | None, clock: float | None,
           baud: int | None) -> "Board":
    from nearbit.boards import choose
    from nearbit_model.config import Config

    return choose(name, platform, None if config is None else Config.load(config), clock=clock,
                  baud=baud)


def _transport(board: "Board | None", port: str | None, bitstream: Path | None, is_virtual: bool,
               baud: int | None, say: Any) -> "Transport":
    """Open the way to the device that options name."""
    from nearbit_boards.build import find_bitstream
    from nearbit_boards.transport import SerialTransport
    from nearbit_boards.virtual import QuickTransport, VirtualTransport

    if port is not None:
        rate = baud or (board.baud if board is not None else 0)
        return SerialTransport(port, rate)
    assert board is not None
    if is_virtual:
        return VirtualTransport(find_bitstream(board, bitstream), board.baud, progress=say)
    say("building the device (minutes, once)")
    # A simulator knows no cells of a device; values and cycles are the same.
    return QuickTransport(board.config.replace(cell="generic"), version=_version(),
                          clock=board.clock)


def _version() -> tuple[int, int, int]:
    major, minor, patch = (int(part) for part in nearbit.__version__.split(".")[:3])
    return major, minor, patch


def add_commands(app: typer.Typer) -> None:
    """Add the commands to ``nearbit``."""
    for command in (boards, build, flash, run):
        app.command()(command)
