"""How long a newcomer waits: for a first answer, for that of a changed core, and for one again.

    python benchmarks/first_hour.py

Runs what `make demo` runs, with empty caches of everything; then, on a core like the preset but
with one field changed; then the first again. Each compares all bits, as every simulation does. All
seconds are of a processor, so that other work on the machine does not count. Writes
benchmarks/results/first_hour.json.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from nearbit_hw import yosys
from nearbit_model.config import Config
from nearbit_sim import verilator
from nearbit_sim.cxx import compiler, identify


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "first_hour.json"
FILE = "tests/data/smollm2-argparse-512.npz"
PRESET = "reference" # what the demonstration takes
CHANGE: dict[str, Any] = {"fan_in": 3}


def nearbit(environment: dict[str, str], *arguments: str) -> float:
    """Run a command; processor seconds, its own and of all that it starts."""
    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    started = used()
    subprocess.run([sys.executable, "-m", "nearbit", *arguments], cwd=ROOT, check=True,
                   env=environment, stdout=subprocess.DEVNULL)
    return round(used() - started, 1)


def measure(folder: Path) -> dict[str, float]:
    caches = {name: str(folder / name) for name in (
        "NEARBIT_CACHE_DIR", "XDG_CACHE_HOME", "YOWASP_CACHE_DIR", "MPLCONFIGDIR")}
    environment = {**os.environ, **caches}
    changed = folder / "changed.toml"
    changed.write_text(Config.preset(PRESET).replace(**CHANGE).to_toml(), encoding="utf-8")
    return {
        "first": nearbit(environment, "simulate", FILE),
        "changed": nearbit(environment, "simulate", FILE, "--config", str(changed)),
        "again": nearbit(environment, "simulate", FILE),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        seconds = measure(Path(directory))
    RESULTS.write_text(json.dumps({
        "file": FILE, "preset": PRESET, "change": CHANGE,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(), "amaranth": metadata.version("amaranth"),
            "yosys": yosys.version(), "verilator": verilator.version(),
            "compiler": identify(compiler()).split("\0")[-1].splitlines()[0]},
        "processor_seconds": seconds,
    }, indent=2) + "\n", encoding="utf-8")
    print(", ".join(f"{name} {value} s" for name, value in seconds.items()))


if __name__ == "__main__":
    main()
