"""The commands for real models: capture heads, evaluate a method, generate text."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer


if TYPE_CHECKING:
    from nearbit_nets.network import Network


__all__ = ["add_commands"]


ModelOption = Annotated[str, typer.Option(
    "--model", metavar="smollm2|minilm|hf:PATH", help=(
        "SmolLM2-135M or all-MiniLM-L6-v2, from their packages, or a folder of a Llama-like or "
        "BERT-like model."))]
TextOption = Annotated[Path, typer.Option("--text", metavar="FILE", help="A text, in UTF-8.")]
TokensOption = Annotated[int | None, typer.Option(
    "--tokens", metavar="T", help=(
        "The first T tokens of the text (default: 2048, or as many as there are)."))]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def capture(
    model: ModelOption,
    text: TextOption,
    out: Annotated[Path, typer.Option(
        "-o", "--output", metavar="FILE.npz", help="What to write.")],
    layers: Annotated[str | None, typer.Option(
        metavar="LIST", help="Which layers: 0,2 or 0-3 or 5:10 (default: all).")] = None,
    heads: Annotated[str | None, typer.Option(
        metavar="LIST", help="Which query heads of each, likewise.")] = None,
    tokens: TokensOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write queries, keys and values of a model's heads, as 'nearbit simulate' reads them.

    They are those after the rotary embedding, of the model with its own attention. The exit status
    is 2 if the input is wrong.
    """
    import numpy as np

    from nearbit import indices
    from nearbit.cli import _progress
    from nearbit.files import OutputFile

    output = OutputFile(out, keep=[text])
    with _progress("loading the model") as bar:
        network = _load(model)
        from nearbit_nets import texts
        from nearbit_nets.capture import capture as capture_heads

        ids = texts.tokens(network, text, tokens)
        chosen = [list(range(size)) if given is None else indices.parse(given, size, what).tolist()
                  for given, size, what in ((layers, network.layers, "--layers"),
                                            (heads, network.heads, "--heads"))]
        bar.say("running the model")
        arrays = capture_heads(network, ids, *chosen)
        bar.say("writing")
        with output.write() as path, path.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)
    shapes = {name: list(arrays[name].shape) for name in "qkv"}
    if as_json:
        print(json.dumps({"model": model, "text": str(text), "file": str(out), "tokens": len(ids),
                          "layers": chosen[0], "heads": chosen[1],
                          "causal": bool(arrays["causal"]), **shapes}, indent=2))
    else:
        print(f"{out}: q {shapes['q']}, k and v {shapes['k']}"
              f"{', causal' if arrays['causal'] else ''}: layers {_list(chosen[0])}, heads "
              f"{_list(chosen[1])} of {model} on the first {len(ids)} tokens of {text}")


def add_commands(app: typer.Typer) -> None:
    """Give an application these commands."""
    app.command()(capture)


def _load(name: str) -> "Network":
    """Load a network, on as many threads as there are cores for this process."""
    from nearbit_nets.errors import need_extra

    need_extra()

    import torch

    from nearbit_nets.loading import load

    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
                          else os.cpu_count() or 1)
    return load(name)


def _list(numbers: list[int]) -> str:
    """Show ascending indices in short."""
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))
