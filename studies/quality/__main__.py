"""What real models lose by selecting keys: the tables and the plot of docs/quality.md.

    python -m studies.quality [losses] [learn] [evaluate] [distil] [encoder] [decoder] [docs]
                                 [--minutes M]

losses: which loss finds most keys with codes of some layers, on texts that are in nothing else.
learn: codes of all heads of SmolLM2 (build/quality/codes.safetensors; minutes, can be continued).
evaluate: losses on texts that were not learned from, by the golden model; what
studies/quality/results.json has already of the same codes is not run again.
distil: MiniLM by HAD for M minutes (57), in build/quality/minilm-had.
encoder: its embeddings and retrieval by the golden model.
decoder: SmolLM2 by HAD for M minutes (15), in build/quality/smollm2-had, and its loss.
docs: the tables of docs/quality.md, and docs/quality.svg, from the JSON. Without any of these
words, all of them.

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
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nearbit_nets import codes, distill, evaluation, texts
from nearbit_nets.golden import GoldenAttention, Method, codes_of
from nearbit_nets.loading import load
from nearbit_nets.network import Network
from studies.quality import page
from studies.quality.page import MAIN_N, RECENT, SINK


ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "studies" / "quality" / "results.json"
BUILD = ROOT / "build" / "quality"
CODES = BUILD / "codes.safetensors"

WORDS = ("losses", "learn", "evaluate", "distil", "encoder", "decoder", "docs")
TOKENS, SCORED = 2048, 1024
SWEEP = (16, 48, 112)
RECIPE = codes.Recipe(steps=400, sink=SINK, recent=RECENT)
# With the sinks and the recent keys, 32 times fewer than dense.
LONG_TOKENS, LONG_N = page.LONG_TOKENS, 112
LEARNED_TOKENS = (TOKENS, LONG_TOKENS)
LONG_GOAL = 0.05
GOALS = {"argparse.py": 0.10, "GPL-3": 0.17}
RECALL_GOAL = 0.60

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
LICENCES = Path("/usr/share/common-licenses")


def _manual(name: str) -> str:
    """A man page as text; of a path, that file."""
    shown = subprocess.run(
        f"man -P cat {'-l ' * name.startswith('/')}{name} | col -bx", shell=True, check=True,
        capture_output=True, text=True, env={"MANWIDTH": "90", "PATH": os.environ["PATH"]})
    return shown.stdout


def _runs(text: str) -> set[int]:
    words = text.split()
    return {hash(tuple(words[start:start + SHARED_WORDS]))
            for start in range(len(words) - SHARED_WORDS + 1)}


def _unquoted(held_out: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Man pages of this machine, and modules, that quote none of the held-out texts, by name."""
    runs_held_out = set().union(*map(_runs, held_out))

    def is_apart(text: str) -> bool:
        runs = _runs(text)
        return len(runs & runs_held_out) <= MOST_SHARED * len(runs)

    pages: dict[str, str] = {}
    for section in DISTILLED_SECTIONS:
        for path in sorted(Path(f"/usr/share/man/man{section}").glob("*.gz")):
            # Thousands of pages of one program would be most of it.
            if path.is_symlink() or path.name.startswith("gcloud") or \
                    len(gzip.decompress(path.read_bytes())) < PAGE_SIZE:
                continue
            text = _manual(str(path))
            if is_apart(text):
                pages[path.name.removesuffix(".gz")] = text
    modules = {name: (LIBRARY / f"{name}.py").read_text(encoding="utf-8")
               for name in DISTILLED_MODULES}
    return pages, {name: text for name, text in modules.items() if is_apart(text)}


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

# What losses are compared on, with these layers.
CHOSEN_BY: dict[str, Callable[[], str]] = {
    "optparse.py": _file(LIBRARY / "optparse.py"), "MPL-2.0": _file(LICENCES / "MPL-2.0")}
CHOSEN_LAYERS = (2, 11, 20, 27)

# Prose and code for HAD; split by file from what it is measured on.
DISTILLED_SECTIONS = "123578"
PAGE_SIZE = 5000
"""Least size of a man page that is learned from, in characters of its source."""
SHARED_WORDS, MOST_SHARED = 8, 0.01
"""A page is left out if more than this share of its runs of so many words is in a held-out one."""
DISTILLED_MODULES = (
    "_pydecimal", "ast", "calendar", "codecs", "configparser", "csv", "dataclasses", "datetime",
    "difflib", "doctest", "enum", "fractions", "ftplib", "functools", "imaplib", "inspect",
    "ipaddress", "mailbox", "nntplib", "optparse", "os", "pathlib", "pickle", "random", "shutil",
    "smtplib", "socket", "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap",
    "threading", "traceback", "turtle", "typing", "uuid", "zipfile")
PLAN = distill.Plan(n=32, minutes=57.0, rounds=3, batch=12, passage=256)
DISTIL_HELD_OUT = ("as", "elf", "git-fast-import", "git-log", "gitcore-tutorial", "ld.bfd",
                   "perf-intel-pt", "strace", "top")
DECODER_PLAN = distill.Plan(n=64, minutes=15.0, batch=2, passage=512)
DECODER_PIECES = 8
DECODER_STUDENT = BUILD / "smollm2-had"
PAIRS = 1024
STUDENT = BUILD / "minilm-had"
COSINE_GOALS = {32: 0.955, 16: 0.945}
RETRIEVAL_GOAL = 0.02
MINUTES_GOALS = {"learn": 15, "distil": 60}


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


def losses(network: Network) -> None:
    """Compare the losses of the codes' training."""
    learned, apart = _texts(LEARNED), _texts(CHOSEN_BY)
    ids, ids_apart = ([texts.tokens(network, path, TOKENS) for path in paths]
                      for paths in (learned, apart))
    recall: dict[str, float] = {}
    for loss in codes.LOSSES:
        recipe = replace(RECIPE, loss=loss)
        with tempfile.TemporaryDirectory(prefix="losses-") as folder:
            learner = codes.Learner(network, ids, ids_apart, recipe, CHOSEN_LAYERS, Path(folder))
            recall[loss] = round(float(learner.run()[1].nearest.mean()), 4)
        print(f"{loss}: {recall[loss]}", flush=True)
    results = _read()
    results["losses"] = {
        **_conditions(), "texts": _digests(learned), "measured_on": _digests(apart),
        "tokens_each": TOKENS, "layers": list(CHOSEN_LAYERS), "steps": RECIPE.steps,
        "recall": recall}
    _write(results)


def learn(network: Network) -> None:
    """Learn codes of all heads."""
    learned, apart = _texts(LEARNED), _texts(HELD_OUT)
    folder = CODES.with_name(f"{CODES.name}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    # Codes say little of keys farther away than any that they were learned from, and more of near
    # ones if most were.
    ids = [texts.tokens(network, path, size) for path in learned for size in LEARNED_TOKENS]
    ids_apart = [texts.tokens(network, path, TOKENS) for path in apart]
    learner = codes.Learner(
        network, ids, ids_apart, RECIPE, list(range(network.layers)), folder,
        say=lambda doing: print(f"\r{doing:60s}", end="", file=sys.stderr, flush=True))
    missing = len(learner.missing)
    started, started_cpu = time.monotonic(), time.process_time()
    mapping, found, steps = learner.run()
    codes.save(CODES, mapping, found, steps)
    results = _read()
    results["learn"] = {
        **_conditions(), "texts": _digests(learned), "held_out": _digests(apart),
        "tokens_each": list(LEARNED_TOKENS), "tokens_held_out": TOKENS, "bits": RECIPE.bits,
        "kind": RECIPE.kind, "loss": RECIPE.loss, "surrogate": RECIPE.surrogate,
        "steps": RECIPE.steps, "queries": RECIPE.queries, "rate": RECIPE.rate,
        "seed": RECIPE.seed, "heads": mapping.heads, "threads": torch.get_num_threads(),
        # Only a training that was not interrupted has a time.
        "seconds": round(time.monotonic() - started) if missing == network.layers else None,
        "cpu_seconds": round(time.process_time() - started_cpu) if missing == network.layers
        else None,
        "codes": _digests([CODES])[CODES.name],
        "recall": round(float(found.nearest.mean()), 4),
        "recall_selected": round(float(found.selected.mean()), 4),
        "recall_layers": [round(float(x), 3)
                          for x in found.nearest.reshape(network.layers, -1).mean(axis=1)]}
    _write(results)
    shutil.rmtree(folder)


def _decoder(tokens: int) -> str:
    """Where results are kept, of texts of that length."""
    return "decoder" if tokens == TOKENS else f"decoder_{tokens}"


def evaluate(network: Network, *, numbers: tuple[int, ...], names: tuple[str, ...],
             tokens: int) -> None:
    """Losses of SmolLM2 by the golden model."""
    made = _digests([CODES])[CODES.name]
    for path in _texts(HELD_OUT):
        if path.name not in names:
            continue
        ids = texts.tokens(network, path, tokens)
        reference: float | None = None
        for codes_name in ("learned", "true top", "hadamard"):
            for n in numbers:
                key = f"{path.name}, {codes_name}, n {n}"
                source = made if codes_name == "learned" else codes_name
                if _read().get(_decoder(tokens), {}).get(key, {}).get("codes") == source:
                    continue
                if reference is None:
                    reference = float(network.losses(ids, scored=SCORED).mean())
                file = str(CODES) if codes_name == "learned" else codes_name
                method = Method(name="topn", n=n, sink=SINK, recent=RECENT) \
                    if codes_name == "true top" else Method(
                        name="hash", n=n, sink=SINK, recent=RECENT, codes=codes_of(network, file))
                attend = GoldenAttention(network, method)
                started = time.process_time()
                loss = float(network.losses(ids, attend, scored=SCORED).mean())
                results = _read()
                results.setdefault(_decoder(tokens), {})[key] = {
                    "text": path.name, "codes": source, "n": n, "sink": SINK, "recent": RECENT,
                    "tokens": len(ids), "scored": SCORED, "loss": round(loss, 4),
                    "loss_reference": round(reference, 4), "above": round(loss - reference, 4),
                    "keys_touched": attend.keys_touched, "keys_dense": attend.keys_dense,
                    "bytes_read": attend.bytes_read, "bytes_dense": attend.bytes_dense,
                    "cpu_seconds": round(time.process_time() - started)}
                _write(results)
                print(f"{key}: {loss:.4f}, {loss - reference:+.4f}", flush=True)


def distil(minutes: float | None) -> None:
    """MiniLM by HAD."""
    _distil(load("minilm"), _lasting(PLAN, minutes), STUDENT, "distil",
            [_manual(name) for name in DISTIL_HELD_OUT])


def _lasting(plan: distill.Plan, minutes: float | None) -> distill.Plan:
    return plan if minutes is None else replace(plan, minutes=minutes)


def _distil(network: Network, plan: distill.Plan, folder: Path, name: str, held_out: list[str]
            ) -> distill.Distilled:
    pages, modules = _unquoted(held_out)
    learned = [*pages.values(), *modules.values()]
    started, started_cpu = time.monotonic(), time.process_time()
    found = distill.distill(network, learned, plan, say=lambda doing: print(
        f"\r{doing:60s}", end="", file=sys.stderr, flush=True))
    folder.mkdir(parents=True, exist_ok=True)
    distill.save(folder, found, plan)
    results = _read()
    results[name] = {
        **_conditions(), "threads": torch.get_num_threads(), "minutes": plan.minutes,
        "seconds": round(time.monotonic() - started),
        "cpu_seconds": round(time.process_time() - started_cpu), "steps": found.steps,
        "rounds": plan.rounds, "rate": plan.rate, "qk_rate": plan.qk_rate,
        "stages": plan.stages, "seed": plan.seed, "n": plan.n, "batch": plan.batch,
        "passage": plan.passage, "passages": found.passages,
        "pages": list(pages), "modules": list(modules),
        "texts": hashlib.sha256("".join(learned).encode()).hexdigest()[:16]}
    _write(results)
    return found


def decoder(minutes: float | None) -> None:
    """SmolLM2 by HAD, and its loss on pieces of texts that it was not distilled on."""
    network = load("smollm2")
    apart = _texts(HELD_OUT)
    plan = _lasting(DECODER_PLAN, minutes)
    student = _distil(network, plan, DECODER_STUDENT, "distil_decoder",
                      [path.read_text(encoding="utf-8") for path in apart])
    rows: dict[str, dict[str, Any]] = {}
    for path in apart:
        ids = texts.tokens(network, path, DECODER_PIECES * plan.passage)
        pieces = [ids[start:start + plan.passage] for start in range(0, len(ids), plan.passage)]
        for name, measured, method in (
                ("baseline", network, None),
                ("true top", network, Method(name="topn", n=plan.n)),
                ("signs, untrained", network, Method(name="had", n=plan.n)),
                ("distilled", student.network,
                 Method(name="had", n=plan.n, logit_scale=student.logit_scale))):
            attend = None if method is None else GoldenAttention(measured, method)
            loss = np.mean([measured.losses(piece, attend, scored=plan.passage // 2).mean()
                            for piece in pieces])
            rows[f"{path.name}, {name}"] = {
                "text": path.name, "student": name, "n": None if method is None else plan.n,
                "pieces": len(pieces), "loss": round(float(loss), 4)}
            print(f"{path.name}, {name}: {loss:.4f}", flush=True)
    results = _read()
    results["decoder_had"] = {**_conditions(), "held_out": _digests(apart), "rows": rows}
    _write(results)


def encoder() -> None:
    """Embeddings and retrieval of MiniLM, as it is and distilled, by the golden model."""
    teacher, student = load("minilm"), load(f"hf:{STUDENT}")
    rng = np.random.default_rng(1)
    passages: list[list[int]] = []
    for name in DISTIL_HELD_OUT:
        first, *inner, last = teacher.tokens(_manual(name))
        start = 0
        while len(inner) - start >= 256:
            size = int(rng.integers(33, 257)) - 2
            passages.append([first, *inner[start:start + size], last])
            start += size
    if len(passages) < PAIRS:
        raise SystemExit(f"the held-out texts make {len(passages)} passages, not {PAIRS}")
    passages = [passages[index] for index in sorted(rng.choice(len(passages), PAIRS, False))]
    halves = [half for ids in passages for half in evaluation.halves(ids)]

    def embed(network: Network, method: Method | None) -> np.ndarray:
        attend = None if method is None else GoldenAttention(network, method)
        return network.embed([*passages, *halves], attend)

    def retrieval(found: np.ndarray) -> float:
        first, second = found[PAIRS::2], found[PAIRS + 1::2]
        return float((np.argmax(first @ second.T, axis=1) == np.arange(PAIRS)).mean())

    reference = embed(teacher, None)
    digest = hashlib.sha256(repr(passages).encode()).hexdigest()[:16]
    before = _read().get("encoder", {})
    # What is of the teacher's own weights is not measured again.
    rows = {key: row for key, row in before.get("rows", {}).items()
            if before["texts"] == digest and before["tools"] == _conditions()["tools"]
            and row["student"] != "distilled"}
    for name, network, method in (
            ("distilled", student, Method(
                name="had", n=1, logit_scale=distill.logit_scales(student))),
            ("signs, untrained", teacher, Method(name="had", n=1)),
            ("true top", teacher, Method(name="topn", n=1))):
        for n in PLAN.n, 16:
            if f"{name}, n {n}" in rows:
                continue
            found = embed(network, replace(method, n=n))
            cosine = (found[:PAIRS].astype(np.float64) * reference[:PAIRS]).sum(axis=1)
            rows[f"{name}, n {n}"] = {
                "student": name, "n": n, "cosine": round(float(cosine.mean()), 4),
                "retrieval": round(retrieval(found), 4)}
            print(f"{name}, n {n}: {rows[f'{name}, n {n}']}", flush=True)
            results = _read()
            results["encoder"] = {
                **_conditions(), "held_out": list(DISTIL_HELD_OUT), "passages": PAIRS,
                "tokens": sum(map(len, passages)),
                "retrieval_teacher": round(retrieval(reference), 4),
                "texts": digest, "rows": {name: rows[name] for name in sorted(rows)}}
            _write(results)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", choices=list(WORDS))
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--n", type=int, nargs="*", default=list(SWEEP))
    parser.add_argument("--text", nargs="*", default=list(HELD_OUT))
    given = parser.parse_args()
    what = given.what or list(WORDS)
    torch.set_num_threads(given.threads)
    if {"losses", "learn", "evaluate"} & set(what):
        network = load("smollm2")
        if "losses" in what:
            losses(network)
        if "learn" in what:
            learn(network)
        if "evaluate" in what:
            evaluate(network, numbers=tuple(given.n), names=tuple(given.text), tokens=TOKENS)
            evaluate(network, numbers=(LONG_N,), names=tuple(given.text), tokens=LONG_TOKENS)
    if "distil" in what:
        distil(given.minutes)
    if "encoder" in what:
        encoder()
    if "decoder" in what:
        decoder(given.minutes)
    results = _read()
    if "docs" in what:
        page.write(results)
    failures = []
    for name, goal in MINUTES_GOALS.items():
        seconds = results.get(name, {}).get("seconds")
        if seconds is not None and seconds > 60 * goal:
            failures.append(f"{name} took {seconds / 60:.0f} minutes, more than {goal}")
    if results.get("learn", {}).get("recall", 1) < RECALL_GOAL:
        failures.append(f"recall is {results['learn']['recall']}, below {RECALL_GOAL}")
    for text, goal in GOALS.items():
        row = results.get("decoder", {}).get(f"{text}, learned, n {MAIN_N}")
        if row is not None and row["above"] > goal:
            failures.append(f"{text}: the loss is {row['above']} above dense, more than {goal}")
    long = results.get(_decoder(LONG_TOKENS), {})
    for text in HELD_OUT:
        rows = [long.get(f"{text}, {name}, n {LONG_N}") for name in ("learned", "true top")]
        if all(rows) and rows[0]["loss"] - rows[1]["loss"] > LONG_GOAL:
            failures.append(f"{text}, {LONG_TOKENS} tokens: the loss is more than {LONG_GOAL} "
                            f"above that of the true top")
    measured = results.get("encoder", {"rows": {}})
    for n, goal in COSINE_GOALS.items():
        row = measured["rows"].get(f"distilled, n {n}")
        if row is not None and row["cosine"] < goal:
            failures.append(f"MiniLM, n {n}: the cosine is {row['cosine']}, below {goal}")
        if row is not None and row["retrieval"] < measured["retrieval_teacher"] - RETRIEVAL_GOAL:
            failures.append(f"MiniLM, n {n}: retrieval is {row['retrieval']}, the teacher's "
                            f"{measured['retrieval_teacher']}")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
