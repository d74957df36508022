"""What real models lose by selecting keys: docs/quality.md, its tables and its plot.

    python benchmarks/quality.py [losses] [learn] [evaluate] [distil] [encoder] [decoder] [docs]
                                 [--minutes M]

losses: which loss finds most keys with codes of some layers, on texts that are in nothing else.
learn: codes of all heads of SmolLM2 (build/quality/codes.safetensors; minutes, can be continued).
evaluate: losses on texts that were not learned from, by the golden model; what
benchmarks/results/quality.json has already of the same codes is not run again.
distil: MiniLM by HAD for M minutes (57), in build/quality/minilm-had.
encoder: its embeddings and retrieval by the golden model.
decoder: SmolLM2 by HAD for M minutes (15), in build/quality/smollm2-had, and its loss.
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
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from nearbit.figures import style
from nearbit_nets import codes, distill, evaluation, texts
from nearbit_nets.golden import GoldenAttention, Method, codes_of
from nearbit_nets.loading import load
from nearbit_nets.network import Network


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "quality.json"
PAGE = ROOT / "docs" / "quality.md"
PLOT = ROOT / "docs" / "quality.svg"
BUILD = ROOT / "build" / "quality"
CODES = BUILD / "codes.safetensors"

WORDS = ("losses", "learn", "evaluate", "distil", "encoder", "decoder", "docs")
TOKENS, SCORED = 2048, 1024
SINK, RECENT = 4, 12
MAIN_N = 48
SWEEP = (16, 48, 112)
RECIPE = codes.Recipe(steps=400, sink=SINK, recent=RECENT)
# With the sinks and the recent keys, 32 times fewer than dense.
LONG_TOKENS, LONG_N = 4096, 112
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
        exact: float | None = None
        for codes_name in ("learned", "true top", "hadamard"):
            for n in numbers:
                key = f"{path.name}, {codes_name}, n {n}"
                source = made if codes_name == "learned" else codes_name
                if _read().get(_decoder(tokens), {}).get(key, {}).get("codes") == source:
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
                results.setdefault(_decoder(tokens), {})[key] = {
                    "text": path.name, "codes": source, "n": n, "sink": SINK, "recent": RECENT,
                    "tokens": len(ids), "scored": SCORED, "loss": round(loss, 4),
                    "loss_exact": round(exact, 4), "above": round(loss - exact, 4),
                    "keys_touched": attend.keys_touched, "keys_dense": attend.keys_dense,
                    "bytes_read": attend.bytes_read, "bytes_dense": attend.bytes_dense,
                    "cpu_seconds": round(time.process_time() - started)}
                _write(results)
                print(f"{key}: {loss:.4f}, {loss - exact:+.4f}", flush=True)


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
                ("as it is", network, None),
                ("true top", network, Method(name="topn", n=plan.n)),
                ("signs, untrained", network, Method(name="had", n=plan.n)),
                ("distilled", student.network,
                 Method(name="had", n=plan.n, temperature=student.temperature))):
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

    exact = embed(teacher, None)
    digest = hashlib.sha256(repr(passages).encode()).hexdigest()[:16]
    before = _read().get("encoder", {})
    # What is of the teacher's own weights is not measured again.
    rows = {key: row for key, row in before.get("rows", {}).items()
            if before["texts"] == digest and before["tools"] == _conditions()["tools"]
            and row["student"] != "distilled"}
    for name, network, method in (
            ("distilled", student, Method(
                name="had", n=1, temperature=distill.temperatures(student))),
            ("signs, untrained", teacher, Method(name="had", n=1)),
            ("true top", teacher, Method(name="topn", n=1))):
        for n in PLAN.n, 16:
            if f"{name}, n {n}" in rows:
                continue
            found = embed(network, replace(method, n=n))
            cosine = (found[:PAIRS].astype(np.float64) * exact[:PAIRS]).sum(axis=1)
            rows[f"{name}, n {n}"] = {
                "student": name, "n": n, "cosine": round(float(cosine.mean()), 4),
                "retrieval": round(retrieval(found), 4)}
            print(f"{name}, n {n}: {rows[f'{name}, n {n}']}", flush=True)
            results = _read()
            results["encoder"] = {
                **_conditions(), "held_out": list(DISTIL_HELD_OUT), "passages": PAIRS,
                "tokens": sum(map(len, passages)), "retrieval_teacher": round(retrieval(exact), 4),
                "texts": digest, "rows": {name: rows[name] for name in sorted(rows)}}
            _write(results)


def docs() -> None:
    """The page and its plot."""
    results = _read()
    learned, decoder = results["learn"], results.get("decoder", {})
    _plot(decoder)
    time_taken = "" if learned["seconds"] is None else (
        f"That took {learned['seconds'] / 60:.0f} minutes on {learned['threads']} of "
        f"{learned['cores']} cores. ")
    tokens_each = " and the first ".join(f"{tokens:,}" for tokens in learned["tokens_each"])
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
            learned from {texts_learned}, the first {tokens_each} tokens of each: loss
            `{learned["loss"]}`, {learned["steps"]} steps of {learned["queries"]} queries for each
            layer, seed {learned["seed"]}. {time_taken}Measured on {apart}, of which nothing was
            learned."""),
        _filled(f"""
            Recall of the true top 32 keys among the 32 nearest by code, averaged over all heads:
            **{learned["recall"]:.3f}**. Among the keys that {SINK} sinks, {RECENT} recent ones and
            the {MAIN_N} nearest others make: {learned["recall_selected"]:.3f}. (One query in 16 of
            the second half of both texts.) By layer, from 0:
            {", ".join(f"{x:.2f}" for x in learned["recall_layers"])}."""),
        *_losses(results.get("losses")),
        _filled(f"""
            Loss of the last {SCORED:,} of {TOKENS:,} tokens, in nats; {SINK} sinks and {RECENT}
            recent keys are always selected, n others by code:"""),
        _table(decoder),
        _filled("""
            `true top` takes as many keys of largest q·k: the best that codes can do. `hadamard` are
            codes of as many bits that nothing was learned for."""),
        *_long(results.get(_decoder(LONG_TOKENS), {})),
        "![Loss above dense against keys selected](quality.svg)"]
    if "encoder" in results:
        parts += _encoder(results["distil"], results["encoder"])
    if "decoder_had" in results:
        parts += _decoder_had(results["distil_decoder"], results["decoder_had"])
    parts += _advice(decoder, results.get("encoder"))
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8", newline="\n")


def _losses(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    recall = ", ".join(f"`{loss}` {share:.3f}" for loss, share in found["recall"].items())
    return [_filled(f"""
        What the losses reach on {" and ".join(found["measured_on"])}, which are in nothing else
        here, with layers {", ".join(map(str, found["layers"]))} learned from the first
        {found["tokens_each"]:,} tokens of the same texts in {found["steps"]} steps: recall
        {recall}.""")]


def _table(decoder: dict[str, Any]) -> str:
    return "\n".join([
        "| text | codes | n | keys in all | loss | as it is | above | share of keys read |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(key, decoder[key]) for key in sorted(decoder, key=_order))])


def _long(decoder: dict[str, Any]) -> list[str]:
    if not decoder:
        return []
    return [_filled(f"""
        The same codes in texts of {LONG_TOKENS:,} tokens, of which each query selects
        {LONG_N + SINK + RECENT}:"""), _table(decoder)]


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


def _encoder(made: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        "## all-MiniLM-L6-v2 distilled by HAD",
        _filled(f"""
            {made["seconds"] / 60:.0f} minutes on {made["threads"]} of {made["cores"]} cores
            ({made["steps"]:,} steps in {made["rounds"]} rounds) on {made["passages"]:,} passages
            of up to {made["passage"]} tokens, of {len(made["pages"]):,} man pages and
            {len(made["modules"])} modules of Python's library; stages `{made["stages"]}`,
            N = {made["n"]} in training, seed {made["seed"]}. Pages are left out of which more than
            {100 * MOST_SHARED:g} % of all runs of {SHARED_WORDS} words are in a page that is
            measured on. The weights are the mean of those after each round. Measured on
            {found["passages"]:,} passages of 33 to 256 tokens of
            {len(found["held_out"])} other man pages: the mean cosine with the teacher's embedding,
            and how often the nearest second half of a passage to a first half is its own. The
            teacher finds {found["retrieval_teacher"]:.3f} of them."""),
        "\n".join(["| student | N | cosine | retrieval |", "|---|---|---|---|",
                   *(f"| {row['student']} | {row['n']} | {row['cosine']:.3f} | "
                     f"{row['retrieval']:.3f} |" for row in found["rows"].values())])]


def _decoder_had(made: dict[str, Any], found: dict[str, Any]) -> list[str]:
    rows = found["rows"]
    pieces = {row["pieces"] for row in rows.values()}

    def above(text: str, name: str) -> float:
        return float(rows[f"{text}, {name}"]["loss"] - rows[f"{text}, as it is"]["loss"])

    left = [f"{100 * above(text, 'distilled') / above(text, 'signs, untrained'):.0f} %"
            for text in HELD_OUT]
    return [
        "## SmolLM2-135M distilled by HAD",
        _filled(f"""
            A beginning: {made["minutes"]:g} minutes of training on {made["threads"]} of
            {made["cores"]} cores, which are {made["steps"]:,} steps of {made["batch"]} passages of
            {made["passage"]} tokens, in {made["rounds"]} round, N = {made["n"]}, from the same kind
            of texts ({len(made["pages"]):,} man pages and {len(made["modules"])} modules that quote
            none of what is measured on). Loss of the last {made["passage"] // 2} of
            {made["passage"]} tokens, mean of {" or ".join(map(str, sorted(pieces)))} pieces of each
            text:"""),
        "\n".join(["| text | attention | N | loss |", "|---|---|---|---|",
                   *(f"| {row['text']} | {row['student']} | {row['n'] or 'all'} | "
                     f"{row['loss']:.3f} |" for row in rows.values())]),
        _filled(f"""
            Of what untrained signs lose above dense, {" and ".join(left)} are left. On such a
            machine a decoder is better off with learned codes, which lose far less at once.""")]


def _advice(decoder: dict[str, Any], encoder: dict[str, Any] | None) -> list[str]:
    def above(name: str, n: int) -> str:
        return " and ".join(f"{decoder[f'{text}, {name}, n {n}']['above']:+.3f}"
                            for text in HELD_OUT)

    few, main, many = SWEEP
    parts = ["## What to take", _filled(f"""
        Without training, the true nearest keys alone tell what a number of keys is worth; the
        hardware finds them only by codes. Codes that nothing was learned for lose
        {above("hadamard", main)} nats (code and prose) with {main} keys beside the sinks and the
        recent ones: not enough for a decoder. Learned codes lose {above("learned", main)}: minutes
        of training for all heads together, without changing a weight of the model.
        """), _filled(f"""
        Take {many} keys and {SINK + RECENT} more ({above("learned", many)}) unless the hardware
        must be the smallest or the fastest; {few} ({above("learned", few)}) are too few for text of
        any kind. On prose the number of keys decides, on code the codes do: see how far `true top`
        is below them.""")]
    if encoder is not None:
        rows = encoder["rows"]
        parts.append(_filled(f"""
            An encoder attends by plain signs after HAD only: untrained they keep a cosine of
            {rows["signs, untrained, n 32"]["cosine"]:.3f}, distilled
            {rows["distilled, n 32"]["cosine"]:.3f} with N = 32 and
            {rows["distilled, n 16"]["cosine"]:.3f} with N = 16. A search finds
            {rows["distilled, n 32"]["retrieval"]:.3f} and
            {rows["distilled, n 16"]["retrieval"]:.3f} of the halves then, with the teacher
            {encoder["retrieval_teacher"]:.3f}."""))
    return parts


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
    if "docs" in what:
        docs()
    results = _read()
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
