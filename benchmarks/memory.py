"""Cycles and bytes of cores whose cache lies in memory, simulated.

    python benchmarks/memory.py

Simulates commands on random tensors with the compiled engine, from a memory with the latency that
each case names; compares every bit with the golden model; and writes
benchmarks/results/memory.json and, from it, the table in docs/memory.md. Nothing is written if an
answer differs. It fails if a case misses its bound.
"""

import json
import os
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from nearbit_model.attention import attention
from nearbit_model.config import Config, Memory
from nearbit_model.memory import MemoryLayout
from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.transfers import Plan
from nearbit_sim import simulation


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "memory.json"
DOCUMENT = ROOT / "docs" / "memory.md"
SEED = 1

DENSE_BYTES = 4 * 64
"""Bytes of a token's key and value of 64 elements each, in fp16."""


def core(*, capacity: int = 8192, queries: int = 1, block: int = 512, **memory: Any) -> Config:
    """A core with 64-bit codes, one lane and 64-byte values, that selects up to 64 keys."""
    return Config(
        key_bits=64, value_dim=64, capacity=capacity, queries=queries, lanes=1, value_lanes=8,
        top_n=64, exp_tables=queries, refine_lanes=2, selection_block=block,
        memory=Memory(**{"heads": 128, **memory}))


@dataclass(frozen=True)
class Case:
    """Commands of one kind, and the bound that their interval must keep.

    ``bound`` is what the interval is at most, as a multiple of the beats of the bus that has most;
    ``heads`` are the commands of a token, where tokens are counted.
    """

    what: str
    config: Config
    keys: int
    timing: MemoryTiming
    bound: float
    commands: int = 12
    heads: int = 0


CASES = {
    "codes": Case("codes back to back", core(), 8192, MemoryTiming(latency=100), 1.03),
    "one page": Case("the same in one page", core(page_tokens=8192), 8192,
                     MemoryTiming(latency=100), 1.03),
    "random latency": Case("codes back to back, latency 20 to 200 cycles", core(), 8192,
                           MemoryTiming(latency=20, latency_to=200, seed=SEED), 1.15,
                           commands=40),
    "one bus": Case("codes and rows on one bus", core(capacity=1024, one_bus=True), 1024,
                    MemoryTiming(latency=100), 1 / 0.92, commands=60),
    "own bus": Case("rows on a bus of their own", core(capacity=1024), 1024,
                    MemoryTiming(latency=100), 1.03, commands=60),
    "SmolLM2": Case("SmolLM2's 4,096 tokens, three queries a command",
                    core(capacity=4096, queries=3), 4096, MemoryTiming(latency=100), 1.08,
                    commands=16, heads=90),
    "long": Case("131,072 keys, blocks of 1,024",
                 core(capacity=131072, block=1024, heads=1), 131072, MemoryTiming(latency=100),
                 1.05, commands=6),
}
LIKE = {"codes": "one page"}
"""Cases of which the first takes at most 1 % longer than the second."""


def run(case: Case) -> dict[str, Any]:
    """Simulate a case; SystemExit if an answer differs."""
    config, rng = case.config, np.random.default_rng(SEED)
    q = rng.standard_normal((config.queries, case.commands, 64), dtype=np.float32)
    k, v = (rng.standard_normal((1, case.keys, 64), dtype=np.float32) for _ in range(2))
    golden = attention(q, k, v, config, n=config.top_n)
    hardware = simulation.run(Plan(golden.prepared, trace=False, seed=SEED), timing=case.timing)
    if not np.array_equal(hardware.output_int, golden.output_int):
        sys.exit(f"{case.what}: the hardware's answers are not the golden model's")

    results = hardware.outcome.outputs["o_result"]
    ends = results.cycles[np.flatnonzero(results.payloads["last"])]
    ends = ends.reshape(case.commands, config.queries)[:, -1]
    # The first commands fill queues, and codes are read ahead until there are no more commands.
    quarter = case.commands // 4
    intervals = np.diff(ends)[quarter:-quarter]
    interval = float(intervals.mean())
    layout = MemoryLayout.of(config)
    beats = {"codes": case.keys * layout.code_bytes // layout.beat_bytes,
             "rows": config.queries * config.top_n * layout.row_beats}
    read = sum(bus.bytes for bus in hardware.outcome.traffic if bus.is_read) / case.commands
    least = sum(beats.values()) if config.memory and config.memory.one_bus else max(beats.values())
    found: dict[str, Any] = {
        "what": case.what, "config": config.to_dict(), "timing": case.timing.to_json(),
        "keys": case.keys, "n": config.top_n, "commands": case.commands, "seed": SEED,
        "beats": beats, "least_cycles": least, "interval": interval,
        "times_least": interval / least, "bound": case.bound, "bytes_per_command": read,
        "dense_fp16_bytes": case.keys * DENSE_BYTES, "bit_exact": True,
    }
    if case.heads:
        found |= {"commands_per_token": case.heads, "cycles_per_token": interval * case.heads,
                  "bytes_per_token": read * case.heads,
                  "times_less_than_dense": case.keys * DENSE_BYTES / read}
    print(f"{case.what}: interval {interval:,.1f}, {interval / least:.4f} of {least:,} beats; "
          f"{read:,.0f} bytes a command", flush=True)
    return found


def table(results: dict[str, Any]) -> str:
    """The table of docs/memory.md."""
    rows = [("| | latency | beats of codes, rows | interval | of the least | bytes a command | "
            "dense fp16 |"), "|---|--:|--:|--:|--:|--:|--:|"]
    for found in results["cases"].values():
        latency, until = (found["timing"][name] for name in ("latency", "latency_to"))
        rows.append(
            f"| {found['what']} | {latency if until is None else f'{latency} to {until}'} | "
            f"{found['beats']['codes']:,}, {found['beats']['rows']:,} | {found['interval']:,.0f} | "
            f"{found['times_least']:.3f} | {found['bytes_per_command']:,.0f} | "
            f"{found['dense_fp16_bytes']:,} |")
    return "\n".join(rows)


def main() -> None:
    cases = {name: run(case) for name, case in CASES.items()}
    results = {
        "script": "benchmarks/memory.py", "load": os.getloadavg()[0],
        "versions": {package: metadata.version(package) for package in ("amaranth", "numpy")},
        "cases": cases}
    missed = [f"{name}: {found['times_least']:.4f} instead of at most {found['bound']:.4f}"
              for name, found in cases.items() if found["times_least"] > found["bound"]]
    missed += [f"{name}: {cases[name]['interval']:,.1f} cycles, more than 1 % above {other}"
               for name, other in LIKE.items()
               if cases[name]["interval"] > 1.01 * cases[other]["interval"]]
    if missed:
        sys.exit("\n".join(missed))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text, count = re.subn(r"<!-- memory -->.*?<!-- /memory -->",
                          f"<!-- memory -->\n{table(results)}\n<!-- /memory -->",
                          DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    if count != 1:
        sys.exit(f"{DOCUMENT} must have one place between <!-- memory --> and <!-- /memory -->")
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
