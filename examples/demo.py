"""What the accelerator is for, on heads of real models: `make demo`.

    python examples/demo.py [--json]

Exits with status 1 if a bit or a cycle of the hardware is not the models'.
"""

import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import nearbit
from nearbit.cli.console import building, progress
from nearbit.cli.errors import BAD_INPUT, INTERRUPTED
from nearbit.workloads import PEERS, Workload, check, measure
from nearbit_model.config import Config, Rescore
from nearbit_model.errors import NearbitError
from nearbit_model.mapping import Mapping
from nearbit_model.reference import Measures
from nearbit_model.transfers import HardwareAttention


ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
HEADS = DATA / "smollm2-argparse-512.npz"
CODES = DATA / "smollm2-argparse-512-codes.safetensors"
MODELS = ROOT / "studies" / "quality" / "results.json"

# The preset for the workload that papers quote, with a unit that gives selected keys exact
# attention, and room for more of them.
CONFIG = Config.preset("reference").replace(
    top_n=512, rescore=Rescore(head_dim=64, lanes=32, element_bits=12))
SELECTION = {"n": 64, "sink": 4, "recent": 12}
QUOTED = Workload(keys=1024, queries=64, n=32)


def decoder() -> tuple[dict[str, Any], dict[str, Any], HardwareAttention]:
    """Attention of a decoder's heads by the models: figures, what was asked, and the answer."""
    tensors = nearbit.load(HEADS)
    asked = {"q": tensors.q, "k": tensors.k, "v": tensors.v, "config": CONFIG, "method": "hash",
             "mapping": Mapping.load(CODES), **tensors.options, **SELECTION}
    answer = nearbit.simulate(**asked, engine="golden")
    dense = nearbit.attention(**{**asked, "n": tensors.tokens, "sink": 0, "recent": 0}).compare()
    found = answer.compare()
    return {
        "heads": len(tensors.heads), "queries": answer.prepared.queries, "tokens": tensors.tokens,
        "selected": sum(SELECTION.values()), "keys_read": float(found.keys_read.mean()),
        "recall": float(found.recall.mean()), "error": _error(found),
        "error_top": float(found.error_top.mean.mean()), "error_dense": _error(dense),
        "cycles": answer.cycles}, asked, answer


def encoder() -> dict[str, Any]:
    """What a whole encoder keeps that was distilled to attend by signs, as measured before."""
    measured = json.loads(MODELS.read_text(encoding="utf-8"))["encoder"]
    row = measured["rows"]["distilled, n 32"]
    return {"n": row["n"], "cosine": row["cosine"], "retrieval": row["retrieval"],
            "retrieval_teacher": measured["retrieval_teacher"], "passages": measured["passages"]}


def _error(measures: Measures) -> float:
    return float(measures.error_reference.mean.mean())


def hardware(asked: dict[str, Any], models: HardwareAttention) -> dict[str, Any]:
    """Run the same on the hardware, and the quoted workload: whether both are the models'."""
    predicted = measure(CONFIG, QUOTED)
    with progress("preparing the hardware") as bar, building(bar, CONFIG, "the accelerator",
                                                             "compiled"):
        answer = nearbit.simulate(**asked, progress=bar.to(models.cycles))
        checked = check(CONFIG, QUOTED.phases(CONFIG, predicted.latency), predicted.timeline)
    golden = nearbit.attention(**asked)
    return {"bit_exact": answer.difference(golden) is None,
            "cycle_exact": checked.equal and answer.cycles == models.cycles and all(
                np.array_equal(getattr(answer, part), getattr(models, part))
                for part in ("head_cycles", "query_cycles", "load_cycles")),
            "interval": int(predicted.interval), "latency": predicted.latency,
            "seconds": answer.seconds}


def say(text: str) -> None:
    """Print a paragraph, for terminals of 80 columns."""
    print(textwrap.fill(text, 80) + "\n", flush=True)


def show_decoder(found: dict[str, Any]) -> None:
    """Print what was read and what it cost."""
    total, selected = found["tokens"], found["selected"]
    say(f"A decoder: SmolLM2-135M reading Python's argparse, {found['heads']} heads, "
        f"{found['queries']} queries each. Learned codes of 64 bits choose {SELECTION['n']} keys "
        f"for a query, beside the first {SELECTION['sink']} and the last {SELECTION['recent']}, "
        f"and these get exact attention (HashAttention).")
    print("                                  keys read   error against exact attention")
    for what, keys, error in (
            ("learned codes", selected, found["error"]),
            (f"the true top {selected}, the floor", selected, found["error_top"]),
            ("all keys, in integers", total, found["error_dense"])):
        print(f"  {what:30}  {keys:3} of {total}   {error:6.1%}")
    print()
    say(f"(Of the keys that a query sees, up to itself, {found['keys_read']:.0%} are read on "
        f"average.)")


def show_encoder(found: dict[str, Any]) -> None:
    """Print what the encoder keeps."""
    say(f"An encoder: all-MiniLM-L6-v2, distilled to attend to {found['n']} keys by signs alone "
        f"(HAD), keeps a cosine of {found['cosine']:.3f} with its teacher's embeddings; it "
        f"retrieves {found['retrieval']:.1%} of {found['passages']:,} passages, the teacher "
        f"{found['retrieval_teacher']:.1%} (measured before: docs/quality.md).")


def show_hardware(found: dict[str, Any], answers: int, cycles: int) -> None:
    """Print what the hardware did, beside what others have published."""
    exact = "Bit-exact" if found["bit_exact"] else "NOT bit-exact"
    predicted = "all" if found["cycle_exact"] else "NOT all"
    say(f"{exact}: the generated hardware's answers to all {answers} queries, against the golden "
        f"model's. {cycles:,} cycles, {predicted} as predicted; simulated in "
        f"{found['seconds']:.1f} s.")
    print(f"""\
The workload that papers quote, 1,024 keys of 64 bits and the top 32:

                                a query every   latency   top 32 found
  this accelerator                 {found['interval']:3} cycles       {found['latency']:3}   all""")
    for peer, finds in zip(PEERS, ("97.4 %", "all"), strict=True):
        print(f"  {peer.name:30}   {peer.interval} cycles       {peer.latency or '':3}   {finds}")


def main(arguments: Sequence[str]) -> int:
    """Print the models' figures, then what the hardware makes of them."""
    as_json = "--json" in arguments
    found, asked, models = decoder()
    kept = encoder()
    if not as_json:
        show_decoder(found)
        show_encoder(kept)
    proven = hardware(asked, models)
    answers = found["heads"] * found["queries"]
    if as_json:
        print(json.dumps({"decoder": found, "encoder": kept, "hardware": proven}, indent=2))
    else:
        show_hardware(proven, answers, found["cycles"])
        print()
        say(f"{found['selected']} of {found['tokens']} keys read at an error of "
            f"{found['error']:.1%}, where {found['error_top']:.1%} is the least; a query every "
            f"{proven['interval']} cycles, where CAMformer takes {PEERS[0].interval}; every bit "
            f"and every cycle as the models say.")
    return int(not (proven["bit_exact"] and proven["cycle_exact"]))


def run() -> int:
    """Run it as a command: what goes wrong is one sentence."""
    try:
        return main(sys.argv[1:])
    except KeyboardInterrupt:
        sentence, status = "interrupted", INTERRUPTED
    except NearbitError as error:
        sentence, status = str(error), BAD_INPUT
    print("demo:", sentence, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(run())
