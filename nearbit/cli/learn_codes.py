"""The command `learn-codes`: codes of a model's own queries and keys."""

import json
import shutil
import sys
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from nearbit import indices
from nearbit.cli.console import console, count, progress
from nearbit.cli.errors import UserError
from nearbit.cli.models import load_network
from nearbit.cli.options import (
    Device,
    JsonOption,
    Loss,
    MappingKind,
    ModelOption,
    Surrogate,
    TextsOption,
    TokensOption,
)
from nearbit.files import OutputFile, output_folder


__all__ = ["learn_codes"]


def learn_codes(
    model: ModelOption,
    text: TextsOption,
    out: Annotated[Path, typer.Option(
        "-o", "--output", metavar="FILE.safetensors", help="Output file.")],
    held_out: Annotated[list[Path] | None, typer.Option(
        "--held-out", metavar="FILE", help=(
            "Text to measure recall on; may be given more than once (default: the last --text, "
            "which is then excluded from training)."))] = None,
    bits: Annotated[int, typer.Option(metavar="B", help="Bits per code.")] = 64,
    kind: Annotated[MappingKind, typer.Option(
        help="linear: one map per head. mlp: the published three-layer network.",
        )] = MappingKind.LINEAR,
    loss: Annotated[Loss, typer.Option(
        help=(
            "top: cross-entropy with the true top 32 keys. kl: divergence from exact attention. "
            "bce: weighted binary cross-entropy on the true top 32, as published."))] = Loss.TOP,
    surrogate: Annotated[Surrogate, typer.Option(
        help="Surrogate gradient of the sign.",
        )] = Surrogate.STRAIGHT_THROUGH,
    steps: Annotated[int, typer.Option(
        metavar="N", help="Maximum number of steps per layer.")] = 500,
    queries: Annotated[int, typer.Option(metavar="M", help="Queries per text and step.")] = 64,
    rate: Annotated[float, typer.Option(metavar="R", help="Initial learning rate.")] = 0.02,
    sink: Annotated[int, typer.Option(
        metavar="S", help="Exclude the first S keys from loss bce.")] = 4,
    recent: Annotated[int, typer.Option(
        metavar="R", help="Exclude the last R keys from loss bce.")] = 12,
    shares_keys: Annotated[bool, typer.Option(
        "--shared-keys", help=(
            "One code per key, shared by the query heads of a group, instead of one per query "
            "head."))] = False,
    layers: Annotated[str | None, typer.Option(
        metavar="LIST", help="Layers: 0,2 or 0-3 or 5:10 (default: all).")] = None,
    tokens: TokensOption = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Random seed.")] = 0,
    device: Annotated[Device | None, typer.Option(
        help="Device to train on (default: cuda if available).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Learn codes for a model's queries and keys, and measure their recall.

    Finished layers are kept in a folder beside the output until all are done, so that the same
    command resumes after an interruption. The file is for 'evaluate' and 'generate' with --codes;
    with --layers it is for 'simulate', on heads captured with the same --layers. The exit status is
    2 if the input is wrong.
    """
    from nearbit.quality import show_recall

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: the name of a file of codes must end in .safetensors")
    if not held_out and len(text) < 2:
        raise UserError("at least two texts are needed, one of them to measure recall on; give "
                        "another --text, or --held-out")
    apart = held_out or text[-1:]
    learned = text if held_out else text[:-1]
    both = sorted({str(path) for path in learned} & {str(path) for path in apart})
    if both:
        raise UserError(f"{both[0]} is given to learn from and to measure recall on; take another "
                        f"text for one of them")
    output = OutputFile(out, keep=[*text, *apart])
    folder = out.with_name(f"{out.name}.parts")
    started = perf_counter()
    with progress("loading the model") as bar:
        network = load_network(model)
        from nearbit_nets import codes, texts

        recipe = codes.Recipe(
            bits=bits, kind=kind, loss=loss, surrogate=surrogate, steps=steps, queries=queries,
            rate=rate, seed=seed, sink=sink, recent=recent, shares_keys=shares_keys)
        where = codes.device_of(device)
        if network.kind != "decoder":
            raise UserError(f"{model} is an encoder, and codes are learned from decoders; distil "
                            f"it with 'nearbit distill'")
        chosen = list(range(network.layers)) if layers is None \
            else indices.parse(layers, network.layers, "--layers").tolist()
        ids, ids_apart = ([texts.tokens(network, path, tokens) for path in paths]
                          for paths in (learned, apart))
        with output_folder(folder):
            learner = codes.Learner(network, ids, ids_apart, recipe, chosen, folder,
                                    device=where, say=bar.say)
            try:
                mapping, found, made = learner.run()
            except KeyboardInterrupt:
                print(f"nearbit: {len(chosen) - len(learner.missing)} of "
                      f"{count(len(chosen), 'layer')} are in {folder}; run the same command to "
                      f"resume",
                      file=sys.stderr)
                raise
            with output.write() as path:
                codes.save(path, mapping, found, made)
        shutil.rmtree(folder)
    seconds = perf_counter() - started
    if as_json:
        by_layer = (len(chosen), network.heads)
        print(json.dumps({
            "model": model, "file": str(out), "texts": list(map(str, learned)),
            "held_out": list(map(str, apart)), "tokens": sum(map(len, ids)), "bits": bits,
            "kind": kind, "loss": loss, "surrogate": surrogate, "seed": seed, "device": where,
            "layers": chosen, "steps": made, "recall": found.nearest.mean(),
            "recall_selected": found.selected.mean(),
            "recall_heads": found.nearest.reshape(by_layer).tolist(),
            "recall_selected_heads": found.selected.reshape(by_layer).tolist(),
            "seconds": seconds}, indent=2))
    else:
        show_recall(chosen, found.nearest.reshape(len(chosen), -1),
                    found.selected.reshape(len(chosen), -1), made, console())
        print(f"\n{out}: codes of {bits} bits for {count(mapping.heads, 'head')} of {model}, "
              f"{seconds:.0f} s")
