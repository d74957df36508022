"""Cycles of known workloads, predicted and simulated.

    python benchmarks/cycles.py

Runs the largest preset full of keys, from nothing built, and compares every bit with the golden
model and every cycle with the cycle model: minutes on one core. Predicts the latency and the
interval of the workloads below, simulates them with the compiled engine (minutes of compiling, the
first time), and compares every cycle. Also counts the cycles of a quick-select with 16
comparators, SpAtten's way to the same selection. Writes benchmarks/results/cycles.json and, from
it, the tables in docs/cycles.md and README.md; nothing, if anything differs. The table of memories
is made of those that the commands know by name.
"""

import json
import os
import platform
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from nearbit.workloads import Workload, check, differences, measure
from nearbit_hw import yosys
from nearbit_model.attention import attention
from nearbit_model.config import Config, Rescore
from nearbit_model.memories import MEMORIES
from nearbit_model.transfers import Plan
from nearbit_sim import simulation
from nearbit_sim.cxx import compiler


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cycles.json"
DOCUMENTS = {ROOT / "docs" / "cycles.md": (
    "quoted", "stages", "long", "context", "timing", "many", "gqa", "memories"),
             ROOT / "README.md": ("quoted", "context")}
"""Tables of each document, between markers of these names."""

SEED = 1

# Name -> configuration, workload.
WORKLOADS: dict[str, tuple[Config, Workload]] = {
    "reference": (Config.preset("reference"), Workload(keys=1024, queries=64, n=32)),
    "icebreaker": (Config.preset("icebreaker"), Workload(keys=1024, queries=64, n=32)),
    "rescoring": (Config.preset("reference").replace(
        rescore=Rescore(head_dim=64, lanes=32, element_bits=12)),
        Workload(keys=1024, queries=64, n=32)),
    "64 lanes": (Config.preset("long").replace(capacity=8192, top_n=32),
                 Workload(keys=8192, queries=64, n=32)),
    "head64": (Config.preset("head64"), Workload(keys=4096, queries=63, n=32)),
    "gqa3": (Config.preset("gqa3"), Workload(keys=4096, queries=63, n=32)),
    "long": (Config.preset("long"), Workload(keys=65536, queries=64, n=2048)),
}

# Many keys selected: changes to the workload "long", and n. These are predicted.
MANY: dict[str, tuple[dict[str, Any], int]] = {
    **{f"preset `long`, n = {n:,}": ({}, n) for n in (32, 512, 1024, 2048)},
    "the same with 2 queries": ({"queries": 2}, 2048),
    "with 1,024 `refine_lanes`": ({"refine_lanes": 1024}, 2048),
    "with 32 `value_lanes`": ({"value_lanes": 32}, 2048),
}

HEADS, KEY_HEADS = 9, 3
"""Of SmolLM2-135M."""


def processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        return found[1] if found else platform.machine()
    except OSError:
        return platform.machine()


def long_context() -> dict[str, Any]:
    """The workload "long" on random tensors: is it exact, and how long does it take?

    With an empty cache of built hardware. ``build_seconds`` is everything before the first cycle:
    Verilog, C++, machine code, and the packing of the tensors; ``seconds`` is that, the simulation,
    the golden model, the cycle model and the comparisons.
    """
    config, workload = WORKLOADS["long"]
    rng = np.random.default_rng(SEED)
    q, k, v = (rng.standard_normal((1, count, size), dtype=np.float32) for count, size in (
        (workload.queries, config.key_bits), (workload.keys, config.key_bits),
        (workload.keys, config.value_dim)))
    load = os.getloadavg()[0]
    started, started_cpu = time.perf_counter(), sum(os.times()[:4])

    golden = attention(q, k, v, config, n=workload.n)
    golden_seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as cache, \
            mock.patch.dict(os.environ, NEARBIT_CACHE_DIR=cache):
        building = time.perf_counter()
        plan = Plan(golden.prepared)
        hardware = simulation.run(plan)
        build_seconds = time.perf_counter() - building - hardware.seconds
    prediction = plan.predict()
    wrong_cycles = differences(prediction.timeline, hardware.outcome)
    wrong_bits = hardware.difference(golden)
    seconds = time.perf_counter() - started
    for wrong in (wrong_bits, *wrong_cycles):
        if wrong is not None:
            print(f"long context: {wrong} differs")
    results = {
        "preset": "long", "keys": workload.keys, "queries": workload.queries, "n": workload.n,
        "data": f"normal random tensors, seed {SEED}",
        "cycles": hardware.cycles, "predicted_cycles": prediction.cycles,
        "bit_exact": wrong_bits is None, "cycle_exact": not wrong_cycles,
        "seconds": seconds, "build_seconds": build_seconds,
        "simulation_seconds": hardware.seconds, "golden_seconds": golden_seconds,
        "cpu_seconds": sum(os.times()[:4]) - started_cpu,
        "cycles_per_second": hardware.cycles_per_second,
        # Of children, Linux counts what they had of this process before they became a program.
        "peak_mib": max(resource.getrusage(who).ru_maxrss for who in (
            resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024,
        "machine": {
            "processor": processor(), "cores_used": 1, "cores": os.cpu_count(),
            "load_average_before": load, "system": platform.platform(),
            "compiler": re.sub(r" \(.*\)", "", subprocess.run(
                [*compiler(), "--version"], check=True, encoding="utf-8",
                stdout=subprocess.PIPE).stdout.splitlines()[0])},
    }
    print(f"long context: {hardware.cycles} cycles, build {build_seconds:.0f} s, simulation "
          f"{hardware.seconds:.0f} s, all {seconds:.0f} s")
    return results


def many() -> dict[str, Any]:
    """Predict what many selected keys cost."""
    config, workload = WORKLOADS["long"]
    found = {}
    for name, (changes, n) in MANY.items():
        predicted = measure(config.replace(**changes),
                            Workload(keys=workload.keys, queries=workload.queries, n=n)).to_dict()
        found[name] = {"changes": changes, "n": n, **{
            field: predicted[field] for field in (
                "latency", "interval", "interval_per_query", "stages", "limits")}}
    return found


def run(name: str) -> dict[str, Any]:
    config, workload = WORKLOADS[name]
    predicted = measure(config, workload)
    found = check(config, workload.phases(config, predicted.latency), predicted.timeline)
    print(f"{name}: latency {predicted.latency}, interval {predicted.interval}, "
          f"{'equal' if found.equal else 'NOT EQUAL'}")
    simulated = found.to_dict()
    del simulated["seconds"], simulated["build_seconds"]
    return {"config": config.to_dict(), "keys": workload.keys, "queries": workload.queries,
            "n": workload.n, **predicted.to_dict(), "simulated": simulated, "equal": found.equal}


def quick_select(count: int = 1024, top: int = 32, comparators: int = 16,
                 trials: int = 1000) -> dict[str, Any]:
    """Cycles to find the threshold of the largest by random pivots.

    Without any overhead, and with the three cycles per pass that the latency model in the
    authors' repository adds (github.com/mit-han-lab/spatten, TopKLatencyModel.scala).
    """
    overhead = 3
    rng = random.Random(SEED)
    cycles, passes = [], []
    for _ in range(trials):
        rest = rng.sample(range(1 << 20), count)
        wanted, taken, passed = top, 0, 0
        while True:
            pivot = rng.choice(rest)
            taken += -(-len(rest) // comparators)
            passed += 1
            above = [score for score in rest if score > pivot]
            if len(above) == wanted - 1:
                break
            if len(above) >= wanted:
                rest = above
            else:
                wanted -= len(above) + 1
                rest = [score for score in rest if score < pivot]
        cycles.append(taken)
        passes.append(passed)
    slower = [taken + overhead * passed for taken, passed in zip(cycles, passes, strict=True)]
    return {"count": count, "top": top, "comparators": comparators, "trials": trials,
            "mean": round(statistics.mean(cycles)), "worst": max(cycles),
            "overhead_per_pass": overhead,
            "mean_with_overhead": round(statistics.mean(slower)),
            "worst_with_overhead": max(slower)}


def tables(results: dict[str, Any]) -> dict[str, str]:
    """The tables of docs/cycles.md by their markers."""
    runs = results["workloads"]
    select = results["quick_select"]

    def row(*cells: Any) -> str:
        return "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell)
                                 for cell in cells) + " |"

    def cell(cycles: float) -> str:
        return f"{round(cycles, 1):,}" if cycles % 1 else f"{cycles:,.0f}"

    def equal(name: str) -> str:
        return "equal" if runs[name]["equal"] else "**different**"

    quoted = [
        row("", "interval", "latency", "top 32 found", "simulation"), "|---|--:|--:|--:|---|",
        *(row(f"preset `{name}`", runs[name]["interval"], runs[name]["latency"], "all",
              equal(name)) for name in ("reference", "icebreaker")),
        row(f"`reference` with rescoring, {runs['rescoring']['config']['rescore']['lanes']} "
            f"of 64 elements per cycle", runs["rescoring"]["interval"],
            runs["rescoring"]["latency"], "all", equal("rescoring")),
        row("CAMformer, as published", 327, 721, "97.4 %", ""),
        row(f"SpAtten's quick-select, {select['comparators']} comparators, "
            f"the selection alone", f"{select['mean']} on average, {select['worst']} at worst",
            "", "all", ""),
        row(f"the same with {select['overhead_per_pass']} more cycles per pass",
            f"{select['mean_with_overhead']} on average, {select['worst_with_overhead']} at worst",
            "", "all", ""),
    ]
    # Selections have stages of their own: each before those that follow it everywhere.
    order = ("score", "refine", "merge", "scan", "select", "emit", "banks", "rescore", "weigh",
             "normalize", "queues")
    found = {stage for one in runs.values() for stage in one["stages"]}
    stages = sorted(found, key=order.index)
    shares = [
        row("", "keys", "n", "interval", *stages), "|---|" + "--:|" * (len(stages) + 3),
        *(row(name, *(runs[name][field] for field in ("keys", "n", "interval")),
              *(cell(runs[name]["stages"][stage]["cycles"])
                if stage in runs[name]["stages"] else "" for stage in stages))
          for name in runs)]
    gqa = [
        row("", "keys", "interval", "queries per command", "commands per token", "cycles per token",
            "simulation"), "|---|--:|--:|--:|--:|--:|---|"]
    for name, queries in (("head64", 1), ("gqa3", 3)):
        commands = HEADS // queries
        gqa.append(row(f"preset `{name}`, {queries} {'queries' if queries > 1 else 'query'}",
                       runs[name]["keys"], runs[name]["interval"], queries, commands,
                       commands * runs[name]["interval"], equal(name)))
    long = [row("", "words", "interval", "interval / words", "latency", "simulation"),
            "|---|--:|--:|--:|--:|---|"]
    for name in ("64 lanes", "long"):
        lanes = runs[name]
        words = lanes["keys"] // lanes["config"]["lanes"]
        long.append(row(f"{lanes['keys']:,} keys, {lanes['config']['lanes']} lanes, "
                        f"n = {lanes['n']:,}", words, lanes["interval"],
                        f"{lanes['interval'] / words:.2f}", lanes["latency"], equal(name)))

    context = results["long_context"]
    machine = context["machine"]
    exact = {True: "equal", False: "**different**"}
    bits, cycles = exact[context["bit_exact"]], exact[context["cycle_exact"]]
    sentence = textwrap.fill(
        f"The preset `{context['preset']}` at full capacity: {context['queries']} queries, each "
        f"selecting {context['n']:,} of {context['keys']:,} keys, take {context['cycles']:,} "
        f"cycles including loading. Every bit is {bits} to the golden model's, and every cycle is "
        f"{cycles} to the cycle model's. The simulation takes "
        f"{context['simulation_seconds']:.0f} s, after a one-time build of "
        f"{context['build_seconds']:.0f} s, on one core of {machine['processor']}.",
        width=100, break_long_words=False, break_on_hyphens=False)
    timing = [
        row("", ""), "|---|---|",
        row("build: Verilog, C++, machine code", f"{context['build_seconds']:.1f} s"),
        row("simulation", f"{context['simulation_seconds']:.1f} s, "
            f"{context['cycles_per_second']:,.0f} cycles per second"),
        row("golden model", f"{context['golden_seconds']:.1f} s"),
        row("total, with comparisons", f"{context['seconds']:.1f} s, of which "
            f"{context['cpu_seconds']:.1f} s CPU time"),
        row("peak memory of a process", f"{context['peak_mib']:,.0f} MiB"),
        row("machine", f"one of {machine['cores']} cores of {machine['processor']}, load average "
            f"{machine['load_average_before']:.1f} before; {machine['compiler']}, "
            f"{results['versions']['yosys']}, Python {results['versions']['python']}"),
        row("data", context["data"])]

    many = [row("", "interval per query", "score", "emit", "weigh", "limits"),
            "|---|--:|--:|--:|--:|---|"]
    for name, found in results["many"].items():
        many.append(row(name, cell(found["interval_per_query"]), *(
            cell(found["stages"][stage]["cycles"]) for stage in ("score", "emit", "weigh")),
            ", ".join(f"`{limit}`" for limit in found["limits"])))
    return {"quoted": "\n".join(quoted), "stages": "\n".join(shares), "gqa": "\n".join(gqa),
            "long": "\n".join(long), "context": sentence, "timing": "\n".join(timing),
            "many": "\n".join(many), "memories": "\n".join(memories())}


def memories() -> list[str]:
    """The table of the memories that the commands know by name."""
    rows = [("| `--memory` | | peak | codes | rows of 64 bytes, 1 / 2 / 4 ports | of 128 bytes | "
             "source |"), "|---|---|--:|--:|--:|--:|---|"]
    for name, memory in MEMORIES.items():
        gathers = (" / ".join(f"{100 * memory.gather(size, ports):.3g}" for ports in (1, 2, 4))
                   for size in (64, 128))
        rows.append(f"| `{name}` | {memory.title} | {memory.peak / 1e9:g} GB/s | "
                    f"{100 * memory.linear:.3g} % | {' % | '.join(gathers)} % | "
                    f"{memory.source or 'assumed'} |")
    return rows


def write_tables(results: dict[str, Any]) -> None:
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


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    results = {
        "versions": {"python": platform.python_version(), **{
            name: metadata.version(name) for name in ("amaranth", "numpy")},
            "yosys": yosys.version()},
        "engine": "compiled", "seed": SEED,
        # First, so that the memory of the tools is that of these.
        "long_context": long_context(),
        "workloads": {name: run(name) for name in WORKLOADS},
        "many": many(),
        "quick_select": quick_select(),
    }
    context = results["long_context"]
    if not all((context["bit_exact"], context["cycle_exact"],
                *(run["equal"] for run in results["workloads"].values()))):
        sys.exit("The simulation differs; nothing is written.")
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    write_tables(results)


if __name__ == "__main__":
    main()
