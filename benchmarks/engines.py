"""Speed of the two engines on the reference preset.

    python benchmarks/engines.py

Measures, in one run, the simulated cycles per second of both engines on the same core, and the time
to generate and to compile it with an empty cache. On a short program both must report the same
beats in the same cycles; the compiled engine is timed on a longer one, because it would be through
the short one before the clock has ticked. Runs alternate; what counts is the median. Writes
benchmarks/results/engines.json and, from it, the figures in docs/simulate.md.
"""

import json
import os
import platform
import re
import statistics
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from nearbit_hw import yosys
from nearbit_model.config import Config
from nearbit_model.prepare import prepare
from nearbit_model.transfers import HardwareAttention, Plan
from nearbit_sim import simulation
from nearbit_sim.compiled import compiler


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "engines.json"
DOCUMENT = ROOT / "docs" / "simulate.md"
PRESET = "reference"
SEED = 1
N = 32
SHORT, LONG = 10, 3000 # queries
REPEATS = 3


def problem(config: Config, queries: int) -> Plan:
    rng = np.random.default_rng(SEED)
    return Plan(prepare(
        rng.standard_normal((1, queries, config.key_bits)),
        rng.standard_normal((1, config.capacity, config.key_bits)),
        rng.standard_normal((1, config.capacity, config.value_dim)), config, n=N))


def version(command: list[str]) -> str:
    said = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return (said.stdout + said.stderr).splitlines()[0]


def measure() -> dict[str, Any]:
    config = Config.preset(PRESET)
    short, long = problem(config, SHORT), problem(config, LONG)
    runs: dict[str, list[HardwareAttention]] = {"compiled": [], "icarus": []}
    first = simulation.run(short, engine="compiled")
    for _ in range(REPEATS):
        runs["compiled"].append(simulation.run(long, engine="compiled"))
        runs["icarus"].append(simulation.run(short, engine="icarus"))
    for run in runs["icarus"]:
        assert run.cycles == first.cycles
        for name, beats in run.outcome.outputs.items():
            np.testing.assert_array_equal(beats.cycles, first.outcome.outputs[name].cycles)
            np.testing.assert_array_equal(beats.words, first.outcome.outputs[name].words)

    speeds = {name: statistics.median(run.cycles_per_second for run in of_engine)
              for name, of_engine in runs.items()}
    return {
        "preset": PRESET, "seed": SEED, "n": N,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {
            "python": platform.python_version(), "compiler": version([*compiler(), "--version"]),
            "icarus": version(["iverilog", "-V"]),
            **{name: metadata.version(name) for name in ("amaranth", "cocotb")},
            "yosys": yosys.version()},
        "build_seconds": first.build_seconds,
        "engines": {name: {
            "queries": LONG if name == "compiled" else SHORT,
            "cycles": runs[name][0].cycles,
            "seconds": [run.seconds for run in runs[name]],
            "cycles_per_second": speeds[name],
        } for name in runs},
        "ratio": speeds["compiled"] / speeds["icarus"],
    }


def text(results: dict[str, Any]) -> str:
    """The part of the document that shows the figures."""
    engines = results["engines"]
    return (f"On the preset `{results['preset']}`, measured by benchmarks/engines.py "
            f"({results['machine']}): `compiled` {engines['compiled']['cycles_per_second']:,.0f} "
            f"cycles per second, `icarus` {engines['icarus']['cycles_per_second']:,.0f}, a factor "
            f"of {results['ratio']:,.0f}; the first run spends {results['build_seconds']:.0f} s "
            f"generating and compiling the hardware, later runs reuse the cache.")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.environ["NEARBIT_CACHE_DIR"] = directory
        results = measure()
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
    main()
