"""What `make demo` prints: measured into results/demo.json, and from there into the README.

Cycles, recall and errors are the same on every machine (tests/nearbit/test_documents.py compares
them with a run); the wall times are those of the machine that is named beside them.
"""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from nearbit_hw import yosys


ROOT = Path(__file__).resolve().parent.parent
FILE = "tests/data/smollm2-argparse-512.npz"
RESULT = Path(__file__).parent / "results" / "demo.json"
BEGIN, END = "<!-- demo -->\n", "<!-- /demo -->\n"


def nearbit(*arguments: str) -> str:
    return subprocess.run([sys.executable, "-m", "nearbit", *arguments], cwd=ROOT, check=True,
                          stdout=subprocess.PIPE, encoding="utf-8").stdout


def block(result: dict) -> str:
    """The part of the README that shows a result."""
    output = "\n".join(result["output"])
    return (f"{BEGIN}```console\n$ make demo\n{output}\n```\n\n"
            f"(Wall times: {result['machine']}.)\n{END}")


def main() -> None:
    nearbit("simulate", FILE) # Compiles, so that the wall times are of a second run.
    result = {
        "command": f"nearbit simulate {FILE}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), **{
            name: metadata.version(name) for name in ("amaranth", "numpy")},
            "yosys": yosys.version()},
        "output": nearbit("simulate", FILE).rstrip("\n").split("\n"),
        "figures": json.loads(nearbit("simulate", FILE, "--json")),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    readme.write_text(head + block(result) + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
