"""The command as a whole: its statuses, and one sentence for whatever goes wrong."""

import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import typer

import nearbit
from nearbit import failures
from nearbit.cli.area import area
from nearbit.cli.boards import boards
from nearbit.cli.build import build
from nearbit.cli.capture import capture
from nearbit.cli.config import config
from nearbit.cli.cycles import cycles
from nearbit.cli.distill import distill
from nearbit.cli.errors import BAD_INPUT, INTERRUPTED, UserError
from nearbit.cli.evaluate import evaluate
from nearbit.cli.flash import flash
from nearbit.cli.generate import generate
from nearbit.cli.learn_codes import learn_codes
from nearbit.cli.presets import presets
from nearbit.cli.run import run
from nearbit.cli.simulate import simulate
from nearbit.cli.verilog import verilog
from nearbit.files import OutputError
from nearbit.streams import say, standard_streams
from nearbit_model.errors import NearbitError


__all__ = ["app", "main"]


app = typer.Typer(name="nearbit", invoke_without_command=True, add_completion=False,
                  pretty_exceptions_enable=False,
                  help="Nearbit: an open attention accelerator for long contexts.")

for _command in (simulate, config, verilog, cycles, area, presets, boards, build, flash, run,
                 capture, distill, evaluate, generate, learn_codes):
    app.command()(_command)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"nearbit {nearbit.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option(
        "--version", callback=_show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; what goes wrong is one sentence."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    with standard_streams() as is_open:
        try:
            if not is_open:
                raise OutputError("standard output is closed; send it to a file, or to /dev/null")
            status = _run(given)
            sys.stdout.flush()
            return status
        except KeyboardInterrupt:
            status, sentence = INTERRUPTED, "interrupted"
        except BaseException as error:
            status, sentence = _explain(error, given)
        say(sentence)
        return status


def _run(arguments: Sequence[str]) -> int:
    """Run the command; not by Typer's own main, which ends the process where a pipe breaks."""
    command = typer.main.get_command(app)
    try:
        _check_names(command, arguments)
        with command.make_context("nearbit", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as end:
        return int(end.exit_code)
    return 0


def _check_names(command: Any, arguments: Sequence[str]) -> None:
    """Refuse an empty name of a file, which would be this folder: a shell variable is not set."""
    for parameter in getattr(command.commands.get(next(iter(arguments), "")), "params", ()):
        if re.fullmatch(r"DIR|FILE(\.\w+)?", parameter.metavar or ""):
            for option in parameter.opts:
                if f"{option}=" in arguments or (option, "") in pairwise(arguments):
                    raise UserError(f"{option} is empty; give it a name")


def _explain(error: BaseException, arguments: Sequence[str]) -> tuple[int, str]:
    """Give the status and the sentence of an exception."""
    try:
        if isinstance(error, typer.TyperException):
            # The prefix is of the library that checks types for Typer.
            return BAD_INPUT, error.format_message().replace("Value error, ", "")
        if isinstance(error, NearbitError):
            return BAD_INPUT, str(error)
        sentence = failures.of_the_machine(error)
        if sentence is not None:
            return BAD_INPUT, sentence
        return failures.FAULT, failures.report(error, arguments)
    except KeyboardInterrupt:
        return INTERRUPTED, "interrupted"
    except Exception:
        # Of the two, the first says more.
        return failures.FAULT, failures.report(error, arguments)
