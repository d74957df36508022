"""The C++ compiler that makes native libraries of simulations."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nearbit_sim.engine import SimulationError


__all__ = ["compile_files", "compile_library", "compiler", "identify", "temporary_folder"]


def compiler() -> list[str]:
    """Find a C++ compiler: ``$CXX``, the system's, or the one of the ``compiler`` extra."""
    chosen = os.environ.get("CXX")
    if chosen:
        try:
            command = shlex.split(chosen)
        except ValueError:
            command = [] # quotes without an end
        if not command or shutil.which(command[0]) is None:
            raise SimulationError(f"the C++ compiler of the environment variable CXX, {chosen!r}, "
                                  f"is not found")
        return command
    for name in ("g++", "clang++", "c++"):
        found = shutil.which(name)
        if found is not None:
            return [found]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++"]
    raise SimulationError("the compiled engine needs a C++ compiler: install g++ or clang++, or "
                          "the one from PyPI with: pip install ziglang")


def identify(command: Sequence[str]) -> str:
    """Describe a compiler, for keys of what it makes; :class:`SimulationError` if it cannot run."""
    try:
        said = subprocess.run([*command, "--version"], capture_output=True, encoding="utf-8",
                              errors="replace", check=False).stdout
    except OSError as error:
        raise SimulationError(f"the C++ compiler {command[0]} cannot be run: "
                              f"{error.strerror or error}") from None
    return "\0".join((*command, said))


def compile_files(command: Sequence[str], arguments: Sequence[str | Path],
                  folder: Path) -> None:
    """Run a compiler in a folder; :class:`SimulationError` quotes it if it fails."""
    try:
        # Python may have found another place than TMPDIR, whose disk is full.
        result = subprocess.run([*command, *arguments], cwd=folder, capture_output=True,
                                encoding="utf-8", errors="replace", check=False,
                                env={**os.environ, "TMPDIR": str(folder)})
    except OSError as error:
        raise SimulationError(f"the C++ compiler {command[0]} cannot be run in {folder}: "
                              f"{error.strerror or error}") from None
    if result.returncode != 0:
        said = "\n".join(result.stderr.strip().splitlines()[:10])
        raise SimulationError(f"the C++ compiler {command[0]} failed:\n"
                              f"{said or f'status {result.returncode}, and nothing said'}")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder to compile in; :class:`SimulationError` names the place if it is no good."""
    try:
        with tempfile.TemporaryDirectory(prefix="nearbit-") as name:
            yield Path(name)
    except OSError as error:
        if tempfile.tempdir is None:
            raise # there is none
        raise SimulationError(f"the folder for temporary files {tempfile.tempdir} cannot be used: "
                              f"{error.strerror or error}; TMPDIR can name another") from None


def compile_library(command: Sequence[str], source: str, target: Path) -> None:
    """Compile a C++ text to a shared library; :class:`SimulationError` quotes the compiler."""
    with temporary_folder() as folder:
        (folder / "simulation.cc").write_text(source, encoding="utf-8")
        compile_files(command, ["simulation.cc", "-o", target], folder)
