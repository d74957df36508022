"""How long a newcomer waits: for a first answer, for that of a changed core, and for one again.

    python benchmarks/first_hour.py

Runs what `make demo` runs, with empty caches of everything; then `nearbit simulate` of a core like
the preset but with one field changed; then the first again. Each compares all bits, as every
simulation does. Processor seconds are of all processes, so that other work on the machine does not
count; the first table is awaited on a clock. Writes benchmarks/results/first_hour.json.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from nearbit_hw import yosys
from nearbit_sim import verilator
from nearbit_sim.cxx import compiler, identify


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "first_hour.json"
DEMO = "examples/demo.py"
TABLE = "error" # in the head of the first table
FILE = "tests/data/smollm2-argparse-512.npz"
PRESET = "reference"
CHANGE = "fan_in=3"


class Run:
    """A program of Python, with all that it starts."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        """Run it, and wait for its end."""
        before, started = _processor(), time.perf_counter()
        with subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment,
                              stdout=subprocess.PIPE, encoding="utf-8") as process:
            assert process.stdout is not None
            tables = [time.perf_counter() - started for line in process.stdout if TABLE in line]
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(arguments)} failed")
        self.processor = round(_processor() - before, 1)
        self.first_table = round(tables[0], 1)


def _processor() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(folder: Path) -> dict[str, Any]:
    caches = {name: str(folder / name) for name in (
        "NEARBIT_CACHE_DIR", "XDG_CACHE_HOME", "YOWASP_CACHE_DIR", "MPLCONFIGDIR")}
    environment = {**os.environ, **caches, "PYTHONUNBUFFERED": "1"}
    first = Run(environment, DEMO)
    changed = Run(environment, "-m", "nearbit", "simulate", FILE, "--preset", PRESET,
                  "--set", CHANGE)
    again = Run(environment, DEMO)
    return {
        "processor_seconds": {"first": first.processor, "changed": changed.processor,
                              "again": again.processor},
        "first_table_seconds": {"first": first.first_table, "changed": changed.first_table,
                                "again": again.first_table},
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        figures = measure(Path(directory))
    RESULTS.write_text(json.dumps({
        "demonstration": DEMO, "file": FILE, "preset": PRESET, "change": CHANGE,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(), "amaranth": metadata.version("amaranth"),
            "yosys": yosys.version(), "verilator": verilator.version(),
            "compiler": identify(compiler()).split("\0")[-1].splitlines()[0]},
        **figures,
    }, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
