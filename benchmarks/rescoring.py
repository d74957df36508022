"""Accuracy of rescoring, by the bits of their elements.

    python benchmarks/rescoring.py [FILE.npz ...]

On the real heads of tests/data and of the files: HashAttention with sign codes against float64
attention to the same selection, once for each number of element bits, and with 8 bits for the other
ways that there are to round queries and keys. Given files, writes benchmarks/results/rescoring.json
and, from it, the figures in docs/numerics.md. Without, both are left alone: their figures are of a
file that is not in the repository.
"""

import argparse
import dataclasses
import json
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearbit_model import quantize, reference
from nearbit_model.attention import attend
from nearbit_model.config import Config, Rescore
from nearbit_model.prepare import Prepared, prepare


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "rescoring.json"
DOCUMENT = ROOT / "docs" / "numerics.md"
BITS = (8, 9, 10, 11, 12, 13, 14, 16)
N, SINK, RECENT = 64, 4, 12

Heads = NDArray[np.float64]


def load(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return {"q": file["q"], "k": file["k"], "v": file["v"], "qpos": file["qpos"],
                "causal": bool(file["causal"])}


def problem(tensors: dict[str, Any], bits: int) -> Prepared:
    """The file on an accelerator of its sizes, with elements of so many bits."""
    head_dim, value_dim = tensors["q"].shape[2], tensors["v"].shape[2]
    config = Config(key_bits=head_dim, value_dim=value_dim, value_lanes=value_dim, capacity=1 << 16,
                    top_n=N + SINK + RECENT,
                    rescore=Rescore(head_dim=head_dim, lanes=head_dim, element_bits=bits))
    return prepare(config=config, n=N, sink=SINK, recent=RECENT, method="hash", **tensors)


def error(tensors: dict[str, Any], output: NDArray[Any], selected: NDArray[np.int64]
          ) -> dict[str, Any]:
    """How far outputs are from float64 attention to the same selection."""
    found = reference.relative_error(output, reference.restricted(
        tensors["q"], tensors["k"], tensors["v"], selected))
    return {"mean": float(found.queries.mean()), "maximum": float(found.queries.max()),
            "mean_of_each_head": found.mean.tolist()}


# Changes of basis that leave q.k as it is. The mean of the keys is subtracted before: it adds the
# same to all scores of a query, which no softmax notices. What there is to know of keys and queries
# is taken from all of the file's, which a decode loop could not do.

def smooth(q: Heads, k: Heads) -> tuple[Heads, Heads]:
    """Scale each element so that queries and keys have equal largest ones (SmoothQuant)."""
    q, k = quantize.rotate(q), quantize.rotate(k)
    factor = np.sqrt(np.abs(k).max(axis=0) / np.abs(q).max(axis=0))
    return q * factor, k / factor


def karhunen_loeve(q: Heads, k: Heads) -> tuple[Heads, Heads]:
    """Bases in which the elements of queries and of keys are uncorrelated, then rotated."""
    def root(covariance: Heads) -> Heads:
        values, vectors = np.linalg.eigh(covariance)
        floor = 1e-6 * values.mean()
        return np.asarray((vectors * np.sqrt(values.clip(0) + floor)) @ vectors.T, np.float64)

    of_q, of_k = root(q.T @ q / len(q)), root(np.cov(k.T))
    left, sizes, right = np.linalg.svd(of_q @ of_k)
    size = np.sqrt(sizes)
    return (quantize.rotate(q @ np.linalg.solve(of_q, left) * size),
            quantize.rotate(k @ np.linalg.solve(of_k, right.T) * size))


BASES = {"smoothed": smooth, "karhunen_loeve": karhunen_loeve}


def in_basis(tensors: dict[str, Any], basis: str, bits: int) -> quantize.RescoreOperands:
    """Operands in another basis, key head by key head."""
    q, k = (tensors[name].astype(np.float64) for name in ("q", "k"))
    group = len(q) // len(k)
    for head, keys in enumerate(k):
        members = slice(head * group, (head + 1) * group)
        queries, k[head] = BASES[basis](q[members].reshape(-1, q.shape[2]),
                                        keys - keys.mean(axis=0))
        q[members] = queries.reshape(q[members].shape)
    return quantize.rescore_operands(q, k, bits, rotated=False)


def step_a_key(tensors: dict[str, Any], prepared: Prepared, bits: int) -> NDArray[np.float64]:
    """Outputs in float64 with rounded operands, of which each key has a step of its own."""
    largest = (1 << bits - 1) - 1
    rounded = []
    for name in ("q", "k"):
        rows = quantize.rotate(tensors[name])
        step = np.abs(rows).max(axis=-1, keepdims=True) / largest
        rounded.append(np.rint(rows / step) * step)
    return reference.restricted(*rounded, prepared.values.dequantized(), attend(prepared).selected)


def measure(tensors: dict[str, Any]) -> dict[str, Any]:
    bits, others = {}, {}
    for number in BITS:
        result = attend(problem(tensors, number))
        bits[str(number)] = error(tensors, result.output, result.selected)
    prepared = problem(tensors, 8)
    selected = attend(prepared).selected
    not_rotated = quantize.rescore_operands(tensors["q"], tensors["k"], 8, rotated=False)
    for name, operands in (("not_rotated", not_rotated),
                           *((basis, in_basis(tensors, basis, 8)) for basis in BASES)):
        output = attend(dataclasses.replace(prepared, rescore=operands)).output
        others[name] = error(tensors, output, selected)
    others["step_a_key"] = error(tensors, step_a_key(tensors, prepared, 8), selected)
    values = reference.restricted(tensors["q"], tensors["k"], prepared.values.dequantized(),
                                  selected)
    return {"heads": len(tensors["q"]), "queries": tensors["q"].shape[1],
            "keys": tensors["k"].shape[1], "head_dim": tensors["q"].shape[2],
            "element_bits": bits, "element_bits_8": others,
            "values_alone": error(tensors, values, selected)}


def document(results: dict[str, Any]) -> str:
    """The figures as docs/numerics.md has them."""
    files = results["files"]

    def row(name: str, figures: list[dict[str, Any]]) -> str:
        cells = [f"{100 * figure[which]:.2f} %" for figure in figures
                 for which in ("mean", "maximum")]
        return f"| {name} | {' | '.join(cells)} |"

    lines = [f"| element bits | {' | '.join(f'{name}: mean | largest' for name in files)} |",
             f"|---|{'--:|' * 2 * len(files)}"]
    lines += [row(str(bits), [file["element_bits"][str(bits)] for file in files.values()])
              for bits in BITS]
    lines += [row(title, [file["element_bits_8"][name] for file in files.values()])
              for name, title in (("not_rotated", "8, not rotated"), ("smoothed", "8, smoothed"),
                                  ("karhunen_loeve", "8, decorrelated"),
                                  ("step_a_key", "8, one step per key"))]
    lines.append(row("real scores", [file["values_alone"] for file in files.values()]))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path,
                        help="tensors beside those of tests/data; without, nothing is written")
    given = parser.parse_args().files
    paths = sorted((ROOT / "tests" / "data").glob("*.npz"))
    known = {path.name for path in paths}
    paths += [path for path in given if path.name not in known]

    results = {
        "conditions": {
            "n": N, "sink": SINK, "recent": RECENT, "codes": "sign", "value_bits": 8,
            "weight_bits": 16, "output_fraction_bits": 8, "values": "rotated",
            "error": ("against float64 attention to the same selection: length of the "
                      "difference over length of the output, over all queries and heads")},
        "tools": {"python": platform.python_version(), "numpy": np.__version__},
        "files": {path.name: measure(load(path)) for path in paths},
    }
    print(document(results))
    if not given:
        print(f"Without files, {RESULTS.relative_to(ROOT)} and {DOCUMENT.relative_to(ROOT)} are "
              f"left as they are.")
        return
    RESULTS.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(re.sub(
        r"(<!-- rescoring -->\n).*?(<!-- /rescoring -->)",
        lambda match: f"{match[1]}{document(results)}\n{match[2]}", text, flags=re.DOTALL),
        encoding="utf-8")


if __name__ == "__main__":
    main()
