"""Share of a DRAM's peak that a core gets through LiteDRAM, over a token of SmolLM2.

    python benchmarks/litedram.py

Simulates examples/litex/simulate_memory.py with all 90 key heads on each DRAM, in build/litedram;
compares every answer with the golden model; and writes benchmarks/results/litedram.json and, from
it, the table in docs/memory.md. It fails, and nothing is written, if an answer differs or a share
is less than its bound. A minute for each case, most of it for Verilator and the C++ compiler.
"""

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "litedram.json"
DOCUMENT = ROOT / "docs" / "memory.md"
EXAMPLE = ROOT / "examples" / "litex" / "simulate_memory.py"
HEADS = 90

CASES = [("sdr", 1), ("sdr", 2), ("ddr3", 1), ("ddr3", 2), ("ddr3", 4)]
"""DRAMs and row ports."""
BOUNDS = {("sdr", 2): 0.88, ("ddr3", 4): 0.70}
"""The least share of the peak."""


def run(dram: str, row_ports: int, build: Path) -> dict[str, Any]:
    """Simulate a token from a DRAM, with all files in a folder; SystemExit if it misses."""
    build.mkdir(parents=True, exist_ok=True)
    figures = build / f"{dram}.json"
    done = subprocess.run(
        [sys.executable, EXAMPLE, dram, "--heads", str(HEADS), "--row-ports", str(row_ports),
         "--build", build, "--json", figures], capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        sys.exit(f"{dram}: {done.stderr}")
    print(done.stdout, end="", flush=True)
    found: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    bound = BOUNDS.get((dram, row_ports), 0)
    if found["share"] < bound:
        sys.exit(f"{dram}: {found['share']:.4f} of the peak instead of at least {bound}")
    return {**found, "bound": bound}


def table(results: dict[str, Any]) -> str:
    """The table of docs/memory.md."""
    rows = [("| DRAM | `bus_bits` | `row_ports` | bytes of a row | bytes | cycles | of the peak | "
             "without padding |"), "|---|--:|--:|--:|--:|--:|--:|--:|"]
    for found in results["cases"]:
        memory = found["config"]["memory"]
        code_bytes = found["heads"] * found["tokens"] * 8
        row = (found["bytes"] - code_bytes) // (found["queries"] * found["n"])
        rows.append(
            f"| {found['what']} | {memory['bus_bits']} | {memory['row_ports']} | {row} | "
            f"{found['bytes']:,} | {found['cycles']:,} | {100 * found['share']:.1f} % | "
            f"{100 * found['share'] * found['field_bytes'] / found['bytes']:.1f} % |")
    return "\n".join(rows)


def verilator() -> str:
    """Ask Verilator for its release."""
    said = subprocess.run(["verilator", "--version"], capture_output=True, encoding="utf-8",
                          check=True).stdout
    return said.split()[1]


def main() -> None:
    cases = [run(dram, row_ports, ROOT / "build" / "litedram") for dram, row_ports in CASES]
    results = {
        "script": "benchmarks/litedram.py", "load": os.getloadavg()[0],
        "versions": {**{package: metadata.version(package) for package in
                        ("amaranth", "litedram", "litex", "migen", "numpy")},
                     "verilator": verilator()},
        "cases": cases}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text, count = re.subn(r"<!-- litedram -->.*?<!-- /litedram -->",
                          f"<!-- litedram -->\n{table(results)}\n<!-- /litedram -->",
                          DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    if count != 1:
        sys.exit(f"{DOCUMENT} must have one place between <!-- litedram --> and <!-- /litedram -->")
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
