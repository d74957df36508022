"""What is proved about the hardware, at which size, by which engine, in what time?

    python benchmarks/proofs.py

Runs tests/formal, the slow ones included. Writes benchmarks/results/proofs.json and, from it, the
table in docs/verification.md. The exit status is that of pytest; nothing is written if one fails.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from nearbit_hw import yosys


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "proofs.json"
DOCUMENT = ROOT / "docs" / "verification.md"


def document(results: dict[str, Any]) -> str:
    """The table as docs/verification.md has it."""
    lines = ["| what | size | checks | for | engine | seconds | a fault is found in |",
             "|---|---|---|---|---|---|---|"]
    for proof in results["proofs"]:
        cycles = "ever" if proof["cycles"] is None else f"{proof['cycles']} cycles"
        lines.append(f"| {proof['name']} | {proof['size']} | {proof['checks']} | {cycles} "
                     f"| {proof['engine']} | {proof['seconds']} "
                     f"| cycle {proof['refuted']['cycle']} |")
    seconds = sum(proof["seconds"] for proof in results["proofs"])
    return "\n".join([
        *lines, "",
        (f"{len(results['proofs'])} proofs in {seconds:.0f} seconds of a processor, with "
         f"{results['yosys']} and Amaranth {results['amaranth']}.")])


def main() -> None:
    """Prove, and write results and table."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "proofs"
        status = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "tests/formal",
             "--ignore=tests/formal/test_harness.py"], cwd=ROOT, check=False,
            env=os.environ | {"NEARBIT_PROOFS": str(file)}).returncode
        if status:
            sys.exit(status)
        proofs = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    results = {"yosys": yosys.version(), "amaranth": metadata.version("amaranth"),
               "proofs": proofs}
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(re.sub(
        r"(<!-- proofs -->\n).*?(<!-- /proofs -->)",
        lambda found: f"{found[1]}{document(results)}\n{found[2]}", text, flags=re.DOTALL),
        encoding="utf-8")


if __name__ == "__main__":
    main()
