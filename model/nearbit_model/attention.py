"""Binary attention on float tensors, computed by the golden model."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearbit_model import golden
from nearbit_model.config import Config
from nearbit_model.prepare import Prepared, prepare


__all__ = ["Attention", "attend", "attention"]


@dataclass(frozen=True, eq=False)
class Attention:
    """Outputs of binary attention and how they came about.

    m is the largest number of keys that any query selected; a query that selected fewer is padded
    with -1. Keys stand in ascending distance, then descending index.

    Parameters
    ----------
    output
        float32 [heads, queries, value_dim], in the units of v.
    output_int
        The same as the hardware gives it, int32 [heads, queries, value_dim]: in the rotated basis
        if ``prepared.values.rotated``.
    selected
        Indices of the selected keys, int64 [heads, queries, m].
    distances
        Their Hamming distances to the query, int32 [heads, queries, m].
    weights
        Their integer weights, int64 [heads, queries, m].
    prepared
        The integers that went in.
    """

    output: NDArray[np.float32]
    output_int: NDArray[np.int32]
    selected: NDArray[np.int64]
    distances: NDArray[np.int32]
    weights: NDArray[np.int64]
    prepared: Prepared = field(repr=False)


def attention(q: ArrayLike, k: ArrayLike, v: ArrayLike, config: Config, *, n: int | None = None,
              sink: int = 0, recent: int = 0, causal: bool = False,
              qpos: ArrayLike | None = None, temperature: ArrayLike | None = None,
              rotate: bool = True) -> Attention:
    """Attention with binary queries and keys (HAD, arXiv 2502.01770), bit for bit as in hardware.

    Each query takes the ``n`` keys whose sign codes differ from its own in the fewest bits, and
    the first ``sink`` and last ``recent`` keys that it may see; it weights their value rows with
    the softmax of ``temperature * (head_dim - 2 * distance)``. Integers throughout:
    docs/numerics.md.

    Parameters
    ----------
    q, k, v, config, n, sink, recent, causal, qpos, temperature, rotate
        As for :func:`nearbit_model.prepare.prepare`: q [heads, queries, head_dim], k [kv_heads,
        tokens, head_dim], v [kv_heads, tokens, value_dim], real numbers.

    Returns
    -------
    Attention

    Raises
    ------
    TensorError
        Tensors, or numbers of keys, that do not fit each other or the configuration.
    """
    return attend(prepare(q, k, v, config, n=n, sink=sink, recent=recent, causal=causal,
                          qpos=qpos, temperature=temperature, rotate=rotate))


def attend(prepared: Prepared) -> Attention:
    """Run the golden model on a prepared problem."""
    result = golden.attend(
        prepared.q_codes, prepared.k_codes, prepared.values, prepared.tables,
        config=prepared.config, counts=prepared.counts, first=prepared.first, n=prepared.n,
        sink=prepared.sink, recent=prepared.recent)
    return Attention(prepared.outputs(result.output_int), result.output_int, result.selected,
                     result.distances, result.weights, prepared)
