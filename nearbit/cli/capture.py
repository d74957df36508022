"""The command `capture`: attention heads of a model, as tensors."""

import json
from pathlib import Path
from typing import Annotated

import typer

from nearbit import indices
from nearbit.cli.console import progress
from nearbit.cli.models import list_of, load_network
from nearbit.cli.options import (
    JsonOption,
    ModelOption,
    TextOption,
    TokensOption,
)
from nearbit.files import OutputFile


__all__ = ["capture"]


def capture(
    model: ModelOption,
    text: TextOption,
    out: Annotated[Path, typer.Option(
        "-o", "--output", metavar="FILE.npz", help="Output file.")],
    layers: Annotated[str | None, typer.Option(
        metavar="LIST", help="Layers: 0,2 or 0-3 or 5:10 (default: all).")] = None,
    heads: Annotated[str | None, typer.Option(
        metavar="LIST", help="Query heads of each layer, in the same form.")] = None,
    tokens: TokensOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write queries, keys and values of a model's heads for 'nearbit simulate'.

    They are captured after the rotary embedding, from the unmodified model. The exit status is 2 if
    the input is wrong.
    """
    import numpy as np


    output = OutputFile(out, keep=[text])
    with progress("loading the model") as bar:
        network = load_network(model)
        from nearbit_nets import texts
        from nearbit_nets.capture import capture as capture_heads
        from nearbit_nets.distill import logit_scales

        ids = texts.tokens(network, text, tokens)
        chosen = [list(range(size)) if given is None else indices.parse(given, size, what).tolist()
                  for given, size, what in ((layers, network.layers, "--layers"),
                                            (heads, network.heads, "--heads"))]
        bar.say("running the model")
        arrays = capture_heads(network, ids, *chosen)
        learned = logit_scales(network)
        if learned is not None:
            arrays["logit_scale"] = learned[np.ix_(*chosen)].reshape(-1)
        bar.say("writing")
        with output.write() as path, path.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)
    shapes = {name: list(arrays[name].shape) for name in "qkv"}
    if as_json:
        print(json.dumps({"model": model, "text": str(text), "file": str(out), "tokens": len(ids),
                          "layers": chosen[0], "heads": chosen[1],
                          "causal": bool(arrays["causal"]), **shapes}, indent=2))
    else:
        rows = f"k and v {shapes['k']}" if shapes["k"] == shapes["v"] \
            else f"k {shapes['k']}, v {shapes['v']}"
        print(f"{out}: q {shapes['q']}, {rows}"
              f"{', causal' if arrays['causal'] else ''}: layers {list_of(chosen[0])}, heads "
              f"{list_of(chosen[1])} of {model} on the first {len(ids)} tokens of {text}")
