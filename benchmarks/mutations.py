"""Do the benches fail when the hardware is wrong?

    python benchmarks/mutations.py [--path FILE.py ...]

tests/hw/mutations.json lists changes of one line each to files of hw/nearbit_hw, and for each the
bench that is to notice. Each is made in a copy of hw/, on which the bench is then run; first all of
these benches are run on a copy without a change. A mutation is caught if a test in the simulator
fails; a component that cannot be built any more, or a simulation that does not end, does not count.
Writes benchmarks/results/mutations.json and, from it, the table in docs/verification.md. The exit
status is 1 if a mutation survives. --path tries those of some files, and keeps the others' results.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from nearbit_hw import yosys


ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tests" / "hw" / "mutations.json"
RESULTS = ROOT / "benchmarks" / "results" / "mutations.json"
DOCUMENT = ROOT / "docs" / "verification.md"
SEED = 1
LIMIT = 300
"""Seconds after which a bench is ended."""


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A change to the hardware: where `old` is in `path`, there is to be `new`.

    `path` is relative to hw/nearbit_hw, `bench` is a test of pytest's, relative to tests/hw.
    """

    path: str
    old: str
    new: str
    bench: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a bench said of a copy of the hardware."""

    passed: bool
    failed: list[str]
    """Tests in the simulator that failed, without their parameters."""
    seconds: float


def load() -> list[Mutation]:
    return [Mutation(**entry) for entry in json.loads(LIST.read_text(encoding="utf-8"))]


def run(bench: str, mutation: Mutation | None = None) -> Outcome:
    """Run a bench on a copy of the hardware, with a change or without."""
    with tempfile.TemporaryDirectory(prefix="nearbit-mutation-") as directory:
        copy = Path(directory) / "hw"
        shutil.copytree(ROOT / "hw", copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mutation is not None:
            file = copy / "nearbit_hw" / mutation.path
            text = file.read_text(encoding="utf-8")
            if text.count(mutation.old) != 1:
                raise ValueError(f"{mutation.path}: {mutation.old!r} is there "
                                 f"{text.count(mutation.old)} times")
            file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
        environment = {name: value for name, value in os.environ.items()
                       if name not in ("NEARBIT_BENCH_DIR", "PYTEST_ADDOPTS")}
        environment["NEARBIT_SEED"] = str(SEED)
        # Before what is installed, which may be this very folder.
        environment["PYTHONPATH"] = os.pathsep.join(
            map(str, (copy, ROOT, ROOT / "model", ROOT / "sim", ROOT / "boards")))
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
             f"tests/hw/{bench}"],
            cwd=ROOT, env=environment, encoding="utf-8", start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            output, _ = process.communicate(timeout=LIMIT)
        finally:
            if process.poll() is None: # The simulator is a child of pytest's.
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        # The lines of cocotb's summary.
        names = re.findall(r"\*\* \w+\.(\w+)\S*\s+FAIL\b", output)
        return Outcome(passed=process.returncode == 0, failed=list(dict.fromkeys(names)),
                       seconds=round(time.perf_counter() - start, 1))


def caught(mutation: Mutation) -> Outcome | None:
    """Outcome of the bench of a mutation, or None if it does not fail as it should."""
    try:
        outcome = run(mutation.bench, mutation)
    except subprocess.TimeoutExpired:
        return None
    return None if outcome.passed or not outcome.failed else outcome


def document(results: dict[str, Any]) -> str:
    """The table as docs/verification.md has it."""
    lines = ["| unit | mutations | caught | by tests |", "|---|---|---|---|"]
    entries = results["mutations"]
    for path in dict.fromkeys(entry["path"] for entry in entries):
        of_path = [entry for entry in entries if entry["path"] == path]
        names = dict.fromkeys(name for entry in of_path for name in entry["failed"])
        lines.append(f"| `{path}` | {len(of_path)} | {sum(entry['caught'] for entry in of_path)} | "
                     f"{', '.join(f'`{name}`' for name in sorted(names))} |")
    total = sum(entry["seconds"] for entry in entries) + sum(results["benches"].values())
    tools = results["tools"]
    lines += [
        "",
        (f"{sum(entry['caught'] for entry in entries)} of {len(entries)} in {total / 60:.0f} "
        f"minutes, one at a time, with seed {results['seed']}, Amaranth {tools['amaranth']}, "
        f"{tools['yosys']}, cocotb {tools['cocotb']} and Icarus Verilog "
        f"{tools['icarus']}."),
    ]
    return "\n".join(lines)


def icarus() -> str:
    text = subprocess.run(["iverilog", "-V"], check=True, stdout=subprocess.PIPE,
                          encoding="utf-8").stdout
    found = re.match(r"Icarus Verilog version (\S+)", text)
    return found[1] if found else text.splitlines()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", nargs="+",
                        help="only the mutations of files, such as select/top_n.py")
    paths = parser.parse_args().path
    listed = load()
    mutations = [mutation for mutation in listed if paths is None or mutation.path in paths]

    benches: dict[str, float] = {}
    for bench in dict.fromkeys(mutation.bench for mutation in mutations):
        outcome = run(bench)
        print(f"{outcome.seconds:6.1f} s  unchanged: {bench}", flush=True)
        if not outcome.passed:
            sys.exit(f"{bench} fails without any mutation.")
        benches[bench] = outcome.seconds

    entries = {}
    for mutation in mutations:
        start = time.perf_counter()
        found = caught(mutation)
        print(f"{time.perf_counter() - start:6.1f} s  {'caught' if found else 'SURVIVES'}: "
              f"{mutation.path}: {mutation.old!r} -> {mutation.new!r}", flush=True)
        entries[mutation] = {
            **asdict(mutation), "caught": found is not None,
            "failed": found.failed if found else [],
            "seconds": round(time.perf_counter() - start, 1)}
    if paths is not None:
        before = json.loads(RESULTS.read_text(encoding="utf-8"))
        names = [field.name for field in fields(Mutation)]
        kept = {Mutation(**{name: entry[name] for name in names}): entry
                for entry in before["mutations"]}
        entries = kept | entries
        benches = before["benches"] | benches
    found_all = [entries[mutation] for mutation in listed if mutation in entries]
    results = {
        "seed": SEED,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "tools": {"python": platform.python_version(), "icarus": icarus(), **{
            name: metadata.version(name) for name in ("amaranth", "cocotb", "pytest")},
            "yosys": yosys.version()},
        "benches": {bench: benches[bench] for bench in dict.fromkeys(
            entry["bench"] for entry in found_all)},
        "mutations": found_all,
    }
    print(document(results))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(re.sub(
        r"(<!-- mutations -->\n).*?(<!-- /mutations -->)",
        lambda match: f"{match[1]}{document(results)}\n{match[2]}", text, flags=re.DOTALL),
        encoding="utf-8")
    if not all(entry["caught"] for entry in found_all):
        sys.exit(1)


if __name__ == "__main__":
    main()
