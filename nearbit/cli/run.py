"""The command `run`: attention on a board."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearbit import indices
from nearbit.cli.console import building, console, count, progress, say_notes
from nearbit.cli.devices import board_of, version_numbers
from nearbit.cli.errors import NOT_BIT_EXACT, UserError
from nearbit.cli.options import (
    BaudOption,
    BoardOption,
    HeadsOption,
    JsonOption,
    QueriesOption,
    check_selection,
)


if TYPE_CHECKING:
    from nearbit.tensors import Tensors
    from nearbit_boards.board import Board
    from nearbit_boards.transport import Transport
    from nearbit_model.config import Config


__all__ = ["run"]


# Without a file.
_SEED, _QUERIES, _TOKENS = 0, 8, 64


def run(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE.npz]", show_default=False, help=(
        "Float arrays q (heads, queries, head_dim) and k, v (kv heads, tokens, head_dim); optional "
        "arrays: qpos, causal, logit_scale. Without a file, random tensors that fit the device."),
        )] = None,
    board: BoardOption = None,
    port: Annotated[str | None, typer.Option(
        metavar="PORT", help=(
            "The board's serial port, such as /dev/ttyUSB1, or auto to find it by the board's USB "
            "IDs, or a server: rfc2217://HOST:PORT or socket://HOST:PORT."))] = None,
    is_virtual: Annotated[bool, typer.Option(
        "--virtual", help="Simulate the bitstream itself (iCE40 HX8K) at its UART pins.")] = False,
    is_simulated: Annotated[bool, typer.Option(
        "--simulated", help="Simulate the board's design at its host link.")] = False,
    bitstream: Annotated[Path | None, typer.Option(
        metavar="FILE", help="With --virtual, the bitstream (default: the last build's).",
        )] = None,
    config: Annotated[Path | None, typer.Option(
        "--config", metavar="FILE.toml", help=(
            "Use this configuration instead of the board's preset."))] = None,
    baud: BaudOption = None,
    heads: HeadsOption = None,
    queries: QueriesOption = None,
    n: Annotated[int | None, typer.Option(
        metavar="N", help="Keys selected by distance (default: 32, or as many as fit).")] = None,
    sink: Annotated[int, typer.Option(
        metavar="S", help="Always select the first S keys.")] = 0,
    recent: Annotated[int, typer.Option(
        metavar="R", help="Always select the last R keys.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Run attention tensors on a board; compare with golden model and exact attention.

    The device reports its configuration; --config must match it if given. The exit status is 0 if
    every bit equals the golden model's, 1 if any bit differs, 2 if the input is wrong.
    """
    from nearbit.boards import baud_of
    from nearbit.report import compare, show, show_proof
    from nearbit.tensors import Tensors
    from nearbit_boards.device import Device
    from nearbit_boards.transport import SerialTransport
    from nearbit_model.attention import attention
    from nearbit_model.config import Config

    if sum((port is not None, is_virtual, is_simulated)) != 1:
        raise UserError("one of --port, --virtual and --simulated must be given")
    if bitstream is not None and not is_virtual:
        raise UserError("--bitstream needs --virtual; a board has the one that is flashed")
    check_selection(n, sink, recent)
    if board is None and is_virtual:
        board = "ice40-hx8k-b-evn"
    board = None if board is None else board.lower()
    if board is None and is_simulated:
        raise UserError("--simulated needs --board; 'nearbit boards' lists the boards")
    # A board at a port has its bitstream: nothing of it is built here.
    rate = 0 if port is None else baud_of(board, baud)
    chosen = None if port is not None else board_of(board, None, config, None, baud)
    wanted = None if config is None else Config.load(config)
    tensors = None if file is None else Tensors.load(file)
    part = None if tensors is None else _choose(tensors, heads, queries)
    port = _find(board) if port == "auto" else port

    with ExitStack() as stack:
        bar = stack.enter_context(progress("opening the device"))
        if chosen is None:
            transport: Transport = SerialTransport(str(port), rate)
        else:
            if is_simulated:
                stack.enter_context(
                    building(bar, chosen.config, f"board {chosen.name}", "compiled"))
            transport = _simulated(chosen, bitstream, is_virtual, bar.say)
        device = stack.enter_context(Device.open(transport, config=wanted))
        accelerator = device.config
        if tensors is None or part is None:
            tensors = _random(accelerator)
            part = _choose(tensors, heads, queries)
        what = file or f"random tensors, seed {_SEED}"
        try:
            golden = attention(
                part.q, part.k, part.v, accelerator, n=n, sink=sink, recent=recent,
                causal=part.causal, qpos=part.qpos, logit_scale=part.logit_scale)
        except ValueError as error:
            raise UserError(f"{what}: {error}") from None
        say_notes(what, tensors)
        bar.say("running")
        answer = device.run(golden.prepared)
    report = compare(part, golden, answer.result)

    times = {"seconds": answer.seconds, "compute_seconds": answer.compute_seconds,
             "transfer_seconds": answer.transfer_seconds, "sent": answer.sent,
             "received": answer.received, "repeated": answer.repeated}
    prepared = golden.prepared
    if as_json:
        print(json.dumps({
            "file": None if file is None else str(file), "board": board, "device": transport.name,
            "config": accelerator.to_dict(), "n": prepared.n, "sink": sink, "recent": recent,
            "causal": part.causal, **report.to_dict(), "run": times}, indent=2,
            allow_nan=False))
    else:
        terminal = console()
        terminal.print(
            f"{what}: {count(len(part.q), 'head')}, "
            f"{count(len(part.queries), 'query', 'queries')} each, {part.tokens} keys of "
            f"{accelerator.key_bits} bits{', causal' if part.causal else ''}\n"
            f"{transport.name}{'' if board is None else f' as {board}'}: n {prepared.n}, sink "
            f"{sink}, recent {recent}\n", highlight=False, soft_wrap=True, markup=False)
        show(report, terminal)
        show_proof(report, terminal)
        terminal.print(
            f"Compute {1e3 * answer.compute_seconds:.3f} ms at "
            f"{device.identity.clock / 1e6:g} MHz; transfer "
            f"{1e3 * answer.transfer_seconds:,.0f} ms of wall time: {answer.sent:,} bytes sent, "
            f"{answer.received:,} received, {answer.repeated} requests repeated.",
            highlight=False, markup=False, soft_wrap=True)
    if not report.total.bit_exact:
        raise typer.Exit(NOT_BIT_EXACT)


def _choose(tensors: "Tensors", heads: str | None, queries: str | None) -> "Tensors":
    """Take the heads and queries that options list, or all."""
    return tensors.select(
        None if heads is None else indices.parse(heads, len(tensors.heads), "--heads"),
        None if queries is None else indices.parse(queries, len(tensors.queries), "--queries"))


def _random(config: "Config") -> "Tensors":
    """Make tensors that fit a device: a head with a few queries."""
    import numpy as np

    from nearbit.tensors import Tensors

    rng = np.random.default_rng(_SEED)
    tokens = min(_TOKENS, config.capacity)
    return Tensors.check(*(rng.standard_normal((1, count, size), np.float32) for count, size in (
        (_QUERIES, config.key_bits), (tokens, config.key_bits), (tokens, config.value_dim))))


def _find(board: str | None) -> str:
    """The serial port of a board that is plugged in."""
    from nearbit.boards import find_board
    from nearbit_boards.ports import find_port

    if board is None:
        raise UserError("--port auto needs --board, whose USB IDs it looks for")
    return find_port(find_board(board))


def _simulated(board: "Board", bitstream: Path | None, is_virtual: bool, say: Any) -> "Transport":
    """Simulate a board's bitstream, or its design."""
    from nearbit_boards.build import find_bitstream
    from nearbit_boards.virtual import QuickTransport, VirtualTransport

    if is_virtual:
        return VirtualTransport(find_bitstream(board, bitstream), board.baud, progress=say)
    # A simulator knows no cells of a device; values and cycles are the same.
    return QuickTransport(board.config.replace(cell="generic"), version=version_numbers(),
                          clock=board.clock)
