"""Time, memory and accuracy of the golden model.

    python benchmarks/golden.py [FILE.npz]

Measures, on one core, the golden model on 8 heads x 256 queries x 2,048 keys (those of the file, or
random ones), its selection of the 32 nearest keys beside FAISS's, the memory that 64 queries x
65,536 keys x 8 heads take, and the error on the real heads of tests/data and of the file. Given a
file, writes benchmarks/results/golden.json and, from it, the figures in docs/numerics.md. Without
one, both are left alone: their figures are of a file that is not in the repository.
"""

import os


# Before NumPy and FAISS start their threads.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import json
import platform
import re
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from nearbit_model import golden, reference
from nearbit_model.attention import Attention, attention
from nearbit_model.config import Config, fitting_preset
from nearbit_model.prepare import prepare


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "golden.json"
DOCUMENT = ROOT / "docs" / "numerics.md"
SEED = 1
N = 32
REPEATS = 15


def load(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {"q": file["q"], "k": file["k"], "v": file["v"], "qpos": file["qpos"],
                "causal": bool(file["causal"])}


def synthetic() -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    q, k, v = (rng.standard_normal((8, size, 64)).astype(np.float16) for size in (256, 2048, 2048))
    return {"q": q, "k": k, "v": v, "qpos": np.arange(1024, 2048, 4), "causal": True}


def preset(tensors: dict[str, Any]) -> Config:
    name = fitting_preset(tensors["q"].shape[2], tensors["v"].shape[2], tensors["k"].shape[1], N)
    if name is None:
        sys.exit("No preset fits this file.")
    return Config.preset(name)


def seconds(*functions: Callable[[], object]) -> list[float]:
    """Median time of each, taking turns, so that all see the same machine."""
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(REPEATS):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def measure_time(tensors: dict[str, Any]) -> dict[str, Any]:
    config = preset(tensors)
    prepared = prepare(config=config, n=N, **tensors)
    octets = [np.packbits(tensors[name] > 0, axis=-1, bitorder="little") for name in ("q", "k")]
    indices = []
    for keys in np.repeat(octets[1], prepared.group, axis=0):
        indices.append(faiss.IndexBinaryFlat(8 * keys.shape[1]))
        indices[-1].add(keys)

    def search() -> list[Any]:
        return [index.search(queries, N)[0]
                for index, queries in zip(indices, octets[0], strict=True)]

    def select() -> Any:
        return golden.select(prepared.q_codes, prepared.k_codes, counts=prepared.tokens, n=N)

    if not (np.stack(search()) == select()[1]).all():
        sys.exit("FAISS and the golden model differ.")
    total, selection, faiss_selection = seconds(
        lambda: attention(config=config, n=N, **tensors), select, search)
    return {
        "heads": prepared.heads, "queries": prepared.queries, "keys": prepared.tokens, "n": N,
        "attention_seconds": total, "selection_seconds": selection,
        "faiss_seconds": faiss_selection, "selection_over_faiss": selection / faiss_selection,
    }


def measure_memory() -> dict[str, Any]:
    rng = np.random.default_rng(SEED)
    heads, queries, tokens = 8, 64, 65536
    q, k, v = (rng.standard_normal((heads, size, 64), dtype=np.float32)
               for size in (queries, tokens, tokens))
    tracemalloc.start()
    attention(q, k, v, Config.preset("long"), n=N)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"heads": heads, "queries": queries, "keys": tokens, "n": N,
            "peak_mib": peak / 2**20, "inputs_mib": (q.nbytes + k.nbytes + v.nbytes) / 2**20}


def measure_error(tensors: dict[str, Any]) -> dict[str, Any]:
    config = preset(tensors)
    errors: dict[str, Any] = {"n": N}
    for name, rotate in (("rotated", True), ("not_rotated", False)):
        result: Attention = attention(config=config, n=N, rotate=rotate, **tensors)
        error = reference.relative_error(result.output, reference.float_form(
            tensors["v"], result.selected, result.distances, result.prepared.logit_scale))
        errors[name] = {"mean_of_each_head": error.mean.tolist(),
                        "mean": float(error.queries.mean()),
                        "maximum": float(error.queries.max())}
    return errors


def processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        return found[1] if found else platform.machine()
    except OSError:
        return platform.machine()


def document(results: dict[str, Any]) -> str:
    """The figures as docs/numerics.md has them."""
    took, memory = results["time"], results["memory"]
    lines = [
        "| file | mean | largest | without rotation: mean | largest |",
        "|---|---|---|---|---|",
    ]
    for name, errors in results["errors"].items():
        figures = [f"{100 * errors[basis][which]:.2f} %"
                   for basis in ("rotated", "not_rotated") for which in ("mean", "maximum")]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    lines += [
        "",
        (f"Time for {took['heads']} heads x {took['queries']} queries x {took['keys']:,} keys of "
        f"{results['input']}, from floats to floats: {1000 * took['attention_seconds']:.0f} ms; "
        f"for the distances and the {took['n']} nearest keys alone: "
        f"{1000 * took['selection_seconds']:.1f} ms, "
        f"{took['selection_over_faiss']:.2f} times that of FAISS's `IndexBinaryFlat`. "
        f"Memory for {memory['heads']} heads x {memory['queries']} queries x "
        f"{memory['keys']:,} keys, excluding inputs: {memory['peak_mib']:.0f} MiB. One core of "
        f"{results['machine']['processor']}, NumPy {results['tools']['numpy']}, FAISS "
        f"{results['tools']['faiss']}."),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path,
                        help="tensors to time; without, random ones, and nothing is written")
    path = parser.parse_args().file
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    faiss.omp_set_num_threads(1)

    tensors = synthetic() if path is None else load(path)
    files = sorted((ROOT / "tests" / "data").glob("*.npz"))
    if path is not None and path.name not in [file.name for file in files]:
        files.append(path)
    results = {
        "input": f"random tensors, seed {SEED}" if path is None else path.name,
        "seed": SEED,
        "conditions": f"one core, one thread; medians of {REPEATS} runs, taking turns",
        "machine": {"processor": processor(), "system": platform.platform()},
        "tools": {"python": platform.python_version(), "numpy": np.__version__,
                  "faiss": faiss.__version__},
        "time": measure_time(tensors),
        "memory": measure_memory(),
        "errors": {file.name: measure_error(load(file)) for file in files},
    }
    print(json.dumps({name: results[name] for name in ("input", "time", "memory")}, indent=2))
    print(document(results))
    if path is None:
        print(f"Random tensors: {RESULTS.relative_to(ROOT)} and {DOCUMENT.relative_to(ROOT)} are "
              f"left as they are.")
        return
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    text = DOCUMENT.read_text()
    DOCUMENT.write_text(re.sub(
        r"(<!-- golden -->\n).*?(<!-- /golden -->)",
        lambda match: f"{match[1]}{document(results)}\n{match[2]}", text, flags=re.DOTALL))


if __name__ == "__main__":
    main()
