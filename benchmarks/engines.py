"""Speed of the two engines on the reference preset.

    python benchmarks/engines.py

Measures the simulated cycles per second of both engines on the same core, and what it takes to
generate and to compile cores. All seconds are of a processor, so that other work on the machine
does not count: this process and all that it starts. On a short program both engines must report the
same beats in the same cycles; the compiled engine is timed on a longer one, because it would be
through the short one before the clock has ticked. Runs alternate; what counts is the median. Each
build is that of a process of its own, in one cache directory: empty first, then with all that does
not depend on the core. Writes benchmarks/results/engines.json and, from it, the figures in
docs/simulate.md.
"""

import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from nearbit_hw import yosys
from nearbit_model.config import Config
from nearbit_model.prepare import prepare
from nearbit_model.transfers import HardwareAttention, Plan
from nearbit_sim import simulation, verilator
from nearbit_sim.cxx import compiler


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "engines.json"
DOCUMENT = ROOT / "docs" / "simulate.md"
PRESET = "reference"
SEED = 1
N = 32
SHORT, LONG = 10, 3000 # queries
REPEATS = 3
BUILDS = ("tiny", "reference", "memory64")


def problem(config: Config, queries: int) -> Plan:
    rng = np.random.default_rng(SEED)
    tokens = min(config.capacity, 1024)
    return Plan(prepare(
        rng.standard_normal((1, queries, config.key_bits)),
        rng.standard_normal((1, tokens, config.key_bits)),
        rng.standard_normal((1, tokens, config.value_dim)), config, n=min(N, config.top_n)))


def processor_seconds() -> float:
    """Seconds of a processor that this process and those that it started have taken."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def timed(work: Callable[[], HardwareAttention]) -> tuple[HardwareAttention, float]:
    started = processor_seconds()
    return work(), processor_seconds() - started


def build_seconds(preset: str) -> float:
    """Build a core in a process of its own, up to its first answer."""
    return float(subprocess.run([sys.executable, __file__, "--build", preset], check=True,
                                stdout=subprocess.PIPE, encoding="utf-8").stdout)


def build(preset: str) -> None:
    plan = problem(Config.preset(preset), 1)
    print(timed(lambda: simulation.run(plan))[1])


def measure_builds(cache: Path) -> dict[str, Any]:
    first = build_seconds(BUILDS[0])
    for path in cache.iterdir():
        if path.suffix in (".v", ".so"):
            path.unlink()
    return {"empty_cache": {BUILDS[0]: first},
            "own_parts": {preset: build_seconds(preset) for preset in BUILDS}}


def version(command: list[str]) -> str:
    said = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return (said.stdout + said.stderr).splitlines()[0]


def measure(cache: Path) -> dict[str, Any]:
    builds = measure_builds(cache)
    config = Config.preset(PRESET)
    short, long = problem(config, SHORT), problem(config, LONG)
    runs: dict[str, list[tuple[HardwareAttention, float]]] = {"compiled": [], "icarus": []}
    first = simulation.run(short, engine="compiled")
    simulation.core_engine(config, "icarus")
    for _ in range(REPEATS):
        runs["compiled"].append(timed(lambda: simulation.run(long, engine="compiled")))
        runs["icarus"].append(timed(lambda: simulation.run(short, engine="icarus")))
    for run, _ in runs["icarus"]:
        assert run.cycles == first.cycles
        for name, beats in run.outcome.outputs.items():
            np.testing.assert_array_equal(beats.cycles, first.outcome.outputs[name].cycles)
            np.testing.assert_array_equal(beats.words, first.outcome.outputs[name].words)

    speeds = {name: statistics.median(run.cycles / seconds for run, seconds in of_engine)
              for name, of_engine in runs.items()}
    return {
        "preset": PRESET, "seed": SEED, "n": N,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(), "compiler": version([*compiler(), "--version"]),
            "icarus": version(["iverilog", "-V"]),
            **{name: metadata.version(name) for name in ("amaranth", "cocotb")},
            "yosys": yosys.version(), "verilator": verilator.version()},
        "build_seconds": builds,
        "engines": {name: {
            "queries": LONG if name == "compiled" else SHORT,
            "cycles": runs[name][0][0].cycles,
            "seconds": [seconds for _, seconds in runs[name]],
            "cycles_per_second": speeds[name],
        } for name in runs},
        "ratio": speeds["compiled"] / speeds["icarus"],
    }


def text(results: dict[str, Any]) -> str:
    """The part of the document that shows the figures."""
    engines, builds = results["engines"], results["build_seconds"]
    own = builds["own_parts"]
    shared = builds["empty_cache"][BUILDS[0]] - own[BUILDS[0]]
    return (f"On the preset `{results['preset']}`, measured by benchmarks/engines.py "
            f"({results['machine']}; all seconds are of a processor): `compiled` "
            f"{engines['compiled']['cycles_per_second']:,.0f} cycles per second, `icarus` "
            f"{engines['icarus']['cycles_per_second']:,.0f}, a factor of {results['ratio']:,.0f}. "
            f"The first run spends {own[PRESET]:.0f} s generating and compiling the hardware, and "
            f"{shared:.0f} s more if it is the first of all; later runs reuse the cache.")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.environ["NEARBIT_CACHE_DIR"] = directory
        results = measure(Path(directory))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    document = DOCUMENT.read_text(encoding="utf-8")
    document, count = re.subn(r"(<!-- engines -->\n).*?(\n<!-- /engines -->)",
                              lambda match: match[1] + text(results) + match[2], document,
                              flags=re.DOTALL)
    assert count == 1
    DOCUMENT.write_text(document, encoding="utf-8")
    print(text(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--build"]:
        build(sys.argv[2])
    else:
        main()
