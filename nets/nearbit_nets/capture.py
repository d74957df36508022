"""Queries, keys and values of chosen heads of a network, as `nearbit simulate` reads them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nearbit_nets.errors import NetworkError
from nearbit_nets.network import Network, reference_attention


__all__ = ["capture"]


def capture(network: Network, ids: Sequence[int], layers: Sequence[int],
            heads: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Run a text through a network and keep what chosen heads are given.

    Parameters
    ----------
    network
        The network, with its own attention.
    ids
        Tokens of the text.
    layers, heads
        Ascending indices; the same heads of each of the layers.

    Returns
    -------
    dict
        ``q`` float32 [len(layers) * len(heads), tokens, head_dim], after the rotary embedding;
        ``k`` and ``v`` of the key heads that these use, likewise (``v`` with value_dim elements);
        ``causal``; and int64 ``layer`` and ``head`` [len(layers) * len(heads)], which ones they
        are. If the heads are unevenly spread over key heads, each has keys and values of its own.

    Raises
    ------
    NetworkError
        A layer whose queries see only a window of the text, which such a file cannot say.
    """
    group = network.heads // network.kv_heads
    kv_heads, sizes = np.unique(np.asarray(heads) // group, return_counts=True)
    if (sizes != sizes[0]).any():
        kv_heads = np.asarray(heads) // group
    kept: dict[str, list[NDArray[np.float32]]] = {"q": [], "k": [], "v": []}

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
               counts: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        if layer in layers:
            seen = torch.arange(1, len(ids) + 1) if network.kind == "decoder" else len(ids)
            if (counts != seen).any():
                # Of an encoder's window, the first query has one side alone.
                fitting = int(counts[0, 0] if network.kind == "encoder" else counts.max())
                raise NetworkError(
                    f"layer {layer} of {network.name} attends to a window of the text, which a "
                    f"file of tensors cannot express; take at most {fitting} tokens, or other "
                    f"layers")
            for name, x, chosen in (("q", q, heads), ("k", k, kv_heads), ("v", v, kv_heads)):
                kept[name].append(x[0, list(chosen)].numpy().copy())
        return reference_attention(layer, q, k, v, counts, first)

    with torch.inference_mode():
        network.run(torch.tensor([list(ids)]), attend)
    return {**{name: np.concatenate(arrays) for name, arrays in kept.items()},
            "causal": np.array(network.kind == "decoder"),
            "layer": np.repeat(np.asarray(layers, np.int64), len(heads)),
            "head": np.tile(np.asarray(heads, np.int64), len(layers))}
