"""What `make demo` prints: measured into results/demo.json, and from there into the README.

All but the wall time is the same on every machine (tests/nearbit/test_documents.py compares it with
a run); the wall time is that of the machine that is named beside it.
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
DEMO = "examples/demo.py"
RESULT = Path(__file__).parent / "results" / "demo.json"
BEGIN, END = "<!-- demo -->\n", "<!-- /demo -->\n"


def demo(*arguments: str) -> str:
    """Run the demonstration, and return what it prints."""
    return subprocess.run([sys.executable, DEMO, *arguments], cwd=ROOT, check=True,
                          stdout=subprocess.PIPE, encoding="utf-8").stdout


def block(result: dict) -> str:
    """The part of the README that shows a result."""
    output = "\n".join(result["output"])
    return (f"{BEGIN}```console\n$ make demo\n{output}\n```\n\n"
            f"(Wall times: {result['machine']}.)\n{END}")


def main() -> None:
    """Measure, and write the file and the README."""
    demo() # Compiles, so that the wall times are of a second run.
    result = {
        "command": f"python {DEMO}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"python": platform.python_version(), **{
            name: metadata.version(name) for name in ("amaranth", "numpy")},
            "yosys": yosys.version()},
        "output": demo().rstrip("\n").split("\n"),
        "figures": json.loads(demo("--json")),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    readme.write_text(head + block(result) + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
