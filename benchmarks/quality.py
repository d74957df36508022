"""What real models lose by selecting keys: docs/quality.md, its tables and its plot.

    python benchmarks/quality.py [learn] [evaluate] [distil] [docs] [--minutes M]

learn: codes of all heads of SmolLM2 (build/quality/codes.safetensors; minutes, can be continued).
evaluate: losses on texts that were not learned from, by the golden model; what
benchmarks/results/quality.json has already of the same codes is not run again.
distil: MiniLM by HAD for M minutes (10), and its embeddings by the golden model.
docs: docs/quality.md and docs/quality.svg from the JSON. Without any of these words, all of them.

Texts are those of a Debian with Python's sources, man pages and the documentation of libjpeg; the
JSON has their digests.
"""

import argparse
import gzip
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from nearbit.figures import style
from nearbit_nets import codes, distill, texts
from nearbit_nets.golden import GoldenAttention, Method, codes_of
from nearbit_nets.loading import load
from nearbit_nets.network import Network


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "quality.json"
PAGE = ROOT / "docs" / "quality.md"
PLOT = ROOT / "docs" / "quality.svg"
BUILD = ROOT / "build" / "quality"
CODES = BUILD / "codes.safetensors"

TOKENS, SCORED = 2048, 1024
SINK, RECENT = 4, 12
MAIN_N = 48
SWEEP = (16, 48, 112)
RECIPE = codes.Recipe(steps=300, sink=SINK, recent=RECENT)
GOALS = {"argparse.py": 0.10, "GPL-3": 0.17}
RECALL_GOAL = 0.60

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
LICENCES = Path("/usr/share/common-licenses")


def _manual(name: str) -> str:
    """A man page as text."""
    shown = subprocess.run(
        f"man -P cat {name} | col -bx", shell=True, check=True, capture_output=True, text=True,
        env={"MANWIDTH": "90", "PATH": os.environ["PATH"]})
    return shown.stdout


def _unpacked(path: str) -> str:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return stream.read()


def _file(path: Path) -> Callable[[], str]:
    return lambda: path.read_text(encoding="utf-8")


# None of them is a part of what is held out, or quotes it.
LEARNED: dict[str, Callable[[], str]] = {
    "GFDL-1.3": _file(LICENCES / "GFDL-1.3"),
    "bash.txt": lambda: _manual("bash"),
    "libjpeg.txt": lambda: _unpacked("/usr/share/doc/libjpeg62-turbo-dev/libjpeg.txt.gz"),
    "mailbox.py": _file(LIBRARY / "mailbox.py"),
    "subprocess.py": _file(LIBRARY / "subprocess.py"),
    "tarfile.py": _file(LIBRARY / "tarfile.py"),
}
HELD_OUT: dict[str, Callable[[], str]] = {
    "argparse.py": _file(LIBRARY / "argparse.py"), "GPL-3": _file(LICENCES / "GPL-3")}

# Prose and code for MiniLM; split by file from what it is measured on.
DISTILLED = ("bash", "curl", "git-config", "gpg", "tmux", "wget", "zip", "systemctl", "find",
             "less", "xz", "dash", "git-rebase", "valgrind", "jq")
PASSAGES_EACH = 25
DISTIL_HELD_OUT = ("git-log", "top", "ld.bfd", "as")


def _texts(made: dict[str, Callable[[], str]]) -> list[Path]:
    """Files of texts, and what they were made of is written down."""
    folder = BUILD / "texts"
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name, text in made.items():
        path = folder / name
        path.write_text(text()[:60_000 + 80_000 * name.endswith(".py")], encoding="utf-8")
        found.append(path)
    return found


def _digests(paths: list[Path]) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in paths}


def _conditions() -> dict[str, Any]:
    return {"tools": {name: metadata.version(name) for name in ("torch", "transformers", "numpy")},
            "python": platform.python_version(), "cores": len(os.sched_getaffinity(0))}


def _read() -> dict[str, Any]:
    found: dict[str, Any] = {}
    if RESULTS.exists():
        found = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def _write(results: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8", newline="\n")


def learn(network: Network) -> None:
    """Learn codes of all heads."""
    learned, apart = _texts(LEARNED), _texts(HELD_OUT)
    folder = CODES.with_name(f"{CODES.name}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    ids, ids_apart = ([texts.tokens(network, path, TOKENS) for path in paths]
                      for paths in (learned, apart))
    learner = codes.Learner(
        network, ids, ids_apart, RECIPE, list(range(network.layers)), folder,
        say=lambda doing: print(f"\r{doing:60s}", end="", file=sys.stderr, flush=True))
    missing = len(learner.missing)
    started = time.process_time()
    mapping, found, steps = learner.run()
    codes.save(CODES, mapping, found, steps)
    results = _read()
    results["learn"] = {
        **_conditions(), "texts": _digests(learned), "held_out": _digests(apart),
        "tokens_each": TOKENS, "bits": RECIPE.bits, "kind": RECIPE.kind, "loss": RECIPE.loss,
        "surrogate": RECIPE.surrogate, "steps": RECIPE.steps, "queries": RECIPE.queries,
        "rate": RECIPE.rate, "seed": RECIPE.seed, "heads": mapping.heads,
        # Only a training that was not interrupted has a time.
        "cpu_seconds": round(time.process_time() - started) if missing == network.layers else None,
        "codes": _digests([CODES])[CODES.name],
        "recall": round(float(found.nearest.mean()), 4),
        "recall_selected": round(float(found.selected.mean()), 4),
        "recall_layers": [round(float(x), 3)
                          for x in found.nearest.reshape(network.layers, -1).mean(axis=1)]}
    _write(results)
    shutil.rmtree(folder)


def evaluate(network: Network, *, numbers: tuple[int, ...], names: tuple[str, ...]) -> None:
    """Losses of SmolLM2 by the golden model."""
    made = _digests([CODES])[CODES.name]
    for path in _texts(HELD_OUT):
        if path.name not in names:
            continue
        ids = texts.tokens(network, path, TOKENS)
        exact: float | None = None
        for codes_name in ("learned", "true top", "hadamard"):
            for n in numbers:
                key = f"{path.name}, {codes_name}, n {n}"
                source = made if codes_name == "learned" else codes_name
                if _read().get("decoder", {}).get(key, {}).get("codes") == source:
                    continue
                if exact is None:
                    exact = float(network.losses(ids, scored=SCORED).mean())
                file = str(CODES) if codes_name == "learned" else codes_name
                method = Method(name="topn", n=n, sink=SINK, recent=RECENT) \
                    if codes_name == "true top" else Method(
                        name="hash", n=n, sink=SINK, recent=RECENT, codes=codes_of(network, file))
                attend = GoldenAttention(network, method)
                started = time.process_time()
                loss = float(network.losses(ids, attend, scored=SCORED).mean())
                results = _read()
                results.setdefault("decoder", {})[key] = {
                    "text": path.name, "codes": source, "n": n, "sink": SINK, "recent": RECENT,
                    "tokens": len(ids), "scored": SCORED, "loss": round(loss, 4),
                    "loss_exact": round(exact, 4), "above": round(loss - exact, 4),
                    "keys_touched": attend.keys_touched, "keys_dense": attend.keys_dense,
                    "bytes_read": attend.bytes_read, "bytes_dense": attend.bytes_dense,
                    "cpu_seconds": round(time.process_time() - started)}
                _write(results)
                print(f"{key}: {loss:.4f}, {loss - exact:+.4f}", flush=True)


def distil(minutes: float) -> None:
    """MiniLM by HAD, and its embeddings by the golden model."""
    network = load("minilm")
    manuals = [_manual(name) for name in DISTILLED]
    plan = distill.Plan(n=32, minutes=minutes)
    started = time.process_time()
    found = distill.distill(network, manuals, plan, say=lambda doing: print(
        f"\r{doing:60s}", end="", file=sys.stderr, flush=True))
    cpu = time.process_time() - started
    folder = BUILD / "minilm-had"
    folder.mkdir(parents=True, exist_ok=True)
    distill.save(folder, found, plan)
    rng = np.random.default_rng(1)
    passages: list[list[int]] = []
    for name in DISTIL_HELD_OUT:
        first, *inner, last = network.tokens(_manual(name))
        start = 0
        most = len(passages) + PASSAGES_EACH
        while len(inner) - start >= 256 and len(passages) < most:
            size = int(rng.integers(33, 257)) - 2
            passages.append([first, *inner[start:start + size], last])
            start += size
    teacher = network.embed(passages).astype(np.float64)
    rows = {}
    for n in (16, 32):
        for name, student, method in (
                ("signs, untrained", network, Method(name="had", n=n)),
                ("distilled", found.network,
                 Method(name="had", n=n, temperature=found.temperature)),
                ("true top", network, Method(name="topn", n=n))):
            given = student.embed(passages, GoldenAttention(student, method))
            cosine = float((given * teacher).sum(1).mean())
            rows[f"{name}, n {n}"] = {"student": name, "n": n, "cosine": round(cosine, 4)}
    results = _read()
    results["encoder"] = {
        **_conditions(), "minutes": minutes, "cpu_seconds": round(cpu), "steps": found.steps,
        "stages": plan.stages, "seed": plan.seed, "n_trained": plan.n,
        "passages_learned": found.passages, "passages": len(passages),
        "texts": list(DISTILLED), "held_out": list(DISTIL_HELD_OUT), "rows": rows}
    _write(results)


def docs() -> None:
    """The page and its plot."""
    results = _read()
    learned, decoder = results["learn"], results.get("decoder", {})
    _plot(decoder)
    texts_learned, apart = ", ".join(learned["texts"]), " and ".join(learned["held_out"])
    parts = [
        "# What real models lose",
        _filled("""
            Every figure here is of the golden model's integers in place of the attention of all
            layers. They are made by `benchmarks/quality.py`, whose results are in
            `benchmarks/results/quality.json` with digests of the texts and versions of the
            libraries; this page is made from it. Codes and checkpoints themselves are not
            committed; [real models](models.md) has the commands."""),
        "## SmolLM2-135M with learned codes",
        _filled(f"""
            Codes of {learned["bits"]} bits, a linear map for each of {learned["heads"]} heads,
            learned from the first {learned["tokens_each"]:,} tokens of {texts_learned}: loss
            `{learned["loss"]}`, {learned["steps"]} steps of {learned["queries"]} queries for each
            layer, seed {learned["seed"]}. Measured on {apart}, of which nothing was learned."""),
        _filled(f"""
            Recall of the true top 32 keys among the 32 nearest by code, averaged over all heads:
            **{learned["recall"]:.3f}**. Among the keys that {SINK} sinks, {RECENT} recent ones and
            the {MAIN_N} nearest others make: {learned["recall_selected"]:.3f}. (One query in 16 of
            the second half of both texts.) By layer, from 0:
            {", ".join(f"{x:.2f}" for x in learned["recall_layers"])}."""),
        _filled(f"""
            Loss of the last {SCORED:,} of {TOKENS:,} tokens, in nats; {SINK} sinks and {RECENT}
            recent keys are always selected, n others by code:"""),
        "\n".join([
            "| text | codes | n | keys in all | loss | as it is | above | share of keys read |",
            "|---|---|---|---|---|---|---|---|",
            *(_row(key, decoder[key]) for key in sorted(decoder, key=_order))]),
        _filled("""
            `true top` takes as many keys of largest q·k: the best that codes can do. `hadamard` are
            codes of as many bits that nothing was learned for."""),
        "![Loss above dense against keys selected](quality.svg)"]
    if "encoder" in results:
        parts += _encoder(results["encoder"])
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8", newline="\n")


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 105, break_on_hyphens=False,
                         break_long_words=False)


def _row(key: str, row: dict[str, Any]) -> str:
    return (f"| {row['text']} | {key.split(', ')[1]} | {row['n']} | "
            f"{row['n'] + row['sink'] + row['recent']} | {row['loss']:.3f} | "
            f"{row['loss_exact']:.3f} | {row['above']:+.3f} | "
            f"{row['keys_touched'] / row['keys_dense']:.3f} |")


def _order(key: str) -> tuple[str, int, str]:
    text, name, n = key.split(", ")
    return text, int(n.split()[1]), name


def _encoder(found: dict[str, Any]) -> list[str]:
    return [
        "## all-MiniLM-L6-v2 distilled by HAD",
        _filled(f"""
            {found["minutes"]:g} minutes ({found["cpu_seconds"]} CPU seconds, {found["steps"]}
            steps) on {found["passages_learned"]} passages of {len(found["texts"])} man pages,
            stages `{found["stages"]}`, N = {found["n_trained"]} in training. Mean cosine with the
            teacher's embedding on {found["passages"]} passages of 33 to 256 tokens of
            {len(found["held_out"])} other man pages:"""),
        "\n".join(["| student | N | cosine |", "|---|---|---|",
                   *(f"| {row['student']} | {row['n']} | {row['cosine']:.3f} |"
                     for row in found["rows"].values())])]


def _plot(decoder: dict[str, Any]) -> None:
    with style():
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        for axes, text in zip(figure.subplots(1, len(HELD_OUT), sharey=True), HELD_OUT,
                              strict=True):
            for name, colour in (("hadamard", "#d55e00"), ("learned", "#0072b2"),
                                 ("true top", "#666666")):
                points = sorted((row["n"] + SINK + RECENT, row["above"])
                                for key, row in decoder.items()
                                if key.split(", ")[:2] == [text, name])
                axes.plot([x for x, _ in points], [y for _, y in points], "o-", color=colour,
                          label=name)
            axes.set_title(text)
            axes.set_xlabel("keys selected by a query")
            axes.set_ylabel("loss above dense, nats a token")
            axes.legend(frameon=False)
        figure.savefig(PLOT, format="svg", metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", choices=["learn", "evaluate", "distil", "docs"])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--n", type=int, nargs="*", default=list(SWEEP))
    parser.add_argument("--text", nargs="*", default=list(HELD_OUT))
    given = parser.parse_args()
    what = given.what or ["learn", "evaluate", "distil", "docs"]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if "learn" in what or "evaluate" in what:
        network = load("smollm2")
        if "learn" in what:
            learn(network)
        if "evaluate" in what:
            evaluate(network, numbers=tuple(given.n), names=tuple(given.text))
    if "distil" in what:
        distil(given.minutes)
    if "docs" in what:
        docs()
    results = _read()
    failures = []
    if results.get("learn", {}).get("recall", 1) < RECALL_GOAL:
        failures.append(f"recall is {results['learn']['recall']}, below {RECALL_GOAL}")
    for text, goal in GOALS.items():
        row = results.get("decoder", {}).get(f"{text}, learned, n {MAIN_N}")
        if row is not None and row["above"] > goal:
            failures.append(f"{text}: the loss is {row['above']} above dense, more than {goal}")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
