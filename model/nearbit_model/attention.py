"""Binary attention on float tensors, computed by the golden model."""

# Help shows `ArrayLike`, not all that it stands for.
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearbit_model import golden, reference
from nearbit_model.config import Config
from nearbit_model.mapping import Mapping
from nearbit_model.prepare import Prepared, prepare
from nearbit_model.reference import Measures


__all__ = ["ORIGINS", "Attention", "attend", "attention", "compare", "origins"]


ORIGINS = ("rank", "sink", "recent")
"""Why a key was selected: by its distance, or as one of the first or last keys."""


@dataclass(frozen=True, eq=False)
class Attention:
    """Outputs of binary attention, with the selection that led to them.

    m is the largest number of keys that any query selected; a query that selected fewer is padded
    with -1. Keys are in order of ascending distance, then descending index.

    Parameters
    ----------
    output
        float32 [heads, queries, value_dim], in the units of v.
    output_int
        The same as integers from the hardware, int32 [heads, queries, value_dim]; in the rotated
        basis if ``prepared.values.rotated``.
    selected
        Indices of the selected keys, int64 [heads, queries, m].
    distances
        Their Hamming distances to the query, int32 [heads, queries, m]; if the heads of a group
        share a selection, the sum of their distances.
    weights
        Their integer weights, int64 [heads, queries, m].
    prepared
        The integer inputs.
    scores
        With method "hash", their integer dot-product scores, int64 [heads, queries, m], 0 where
        there is no key; else None.
    """

    output: NDArray[np.float32]
    output_int: NDArray[np.int32]
    selected: NDArray[np.int64]
    distances: NDArray[np.int32]
    weights: NDArray[np.int64]
    prepared: Prepared = field(repr=False)
    scores: NDArray[np.int64] | None = None

    @property
    def origins(self) -> NDArray[np.int8]:
        """Why each key was selected; see :func:`origins`."""
        return origins(self.selected, self.prepared)

    def compare(self) -> Measures:
        """Compare with exact attention: recall, errors and keys read, see :func:`compare`."""
        return compare(self.prepared, self.output, self.selected, self.distances)


def attention(q: ArrayLike, k: ArrayLike, v: ArrayLike, config: Config | str, *,
              n: int | None = None, sink: int = 0, recent: int = 0, causal: bool = False,
              qpos: ArrayLike | None = None, logit_scale: ArrayLike | None = None,
              rotate: bool = True, method: str = "had", mapping: Mapping | None = None,
              shared: bool = False) -> Attention:
    """Attention with binary queries and keys (HAD, arXiv 2502.01770), bit for bit as in hardware.

    Each query selects the ``n`` keys whose sign codes differ from its own in the fewest bits, plus
    the first ``sink`` and last ``recent`` keys that it sees, and weights their value vectors with
    the softmax of ``logit_scale * (head_dim - 2 * distance)``. With ``method="hash"``
    (HashAttention, arXiv 2412.14468), codes, optionally from a ``mapping``, only select the keys,
    and the weights are the softmax of their ``q.k / sqrt(head_dim)``. All arithmetic is integer:
    docs/numerics.md.

    Parameters
    ----------
    q, k, v, config, n, sink, recent, causal, qpos, logit_scale, rotate, method, mapping, shared
        As for :func:`nearbit_model.prepare.prepare`: q [heads, queries, head_dim], k [kv_heads,
        tokens, head_dim], v [kv_heads, tokens, value_dim], real numbers.

    Returns
    -------
    Attention

    Raises
    ------
    TensorError
        The tensors, or the numbers of keys, do not fit each other or the configuration.
    ConfigError
        No preset has this name.

    Examples
    --------
    >>> import numpy as np
    >>> from nearbit_model.attention import attention
    >>> rng = np.random.default_rng(0)
    >>> q, k, v = (rng.standard_normal((1, size, 64)) for size in (4, 320, 320))
    >>> attention(q, k, v, "reference").compare().keys_read.tolist()
    [0.1]
    """
    return attend(prepare(q, k, v, config, n=n, sink=sink, recent=recent, causal=causal,
                          qpos=qpos, logit_scale=logit_scale, rotate=rotate, method=method,
                          mapping=mapping, shared=shared))


def compare(prepared: Prepared, output: NDArray[np.float32], selected: NDArray[np.int64],
            distances: NDArray[np.int32]) -> Measures:
    """Compare an answer with exact attention, and with the float form of its method.

    Parameters
    ----------
    prepared
        What was asked, of float tensors.
    output, selected, distances
        The answer, as in :class:`Attention`.

    Raises
    ------
    ValueError
        The problem was made of integers, or the answer has no trace.
    """
    if prepared.tensors is None:
        raise ValueError("an answer to integers cannot be compared with attention to floats")
    if not selected.shape[-1]:
        raise ValueError("an answer without a trace cannot be compared: it must tell the selected "
                         "keys")
    return reference.measure(
        *prepared.tensors, output=output, selected=selected, distances=distances,
        logit_scale=prepared.logit_scale, counts=prepared.counts,
        rescored=prepared.rescore is not None)


def origins(selected: NDArray[np.int64], prepared: Prepared) -> NDArray[np.int8]:
    """Determine why keys were selected, from their positions (contract, item 3).

    Parameters
    ----------
    selected
        Indices of selected keys, int64 [heads, queries, m], padded with -1.
    prepared
        The problem whose keys were selected.

    Returns
    -------
    int8 [heads, queries, m]
        Indices of :data:`ORIGINS`, -1 where there is no key. A key among both the first and the
        last is a sink. A query that sees no more keys than it may select selects all of them; those
        that are neither sinks nor recent keys count as selected by rank.
    """
    place = selected - prepared.first
    counts = prepared.counts[None, :, None]
    reasons = np.where(place < prepared.sink, 1, np.where(place >= counts - prepared.recent, 2, 0))
    return np.where(selected < 0, -1, reasons).astype(np.int8)


def attend(prepared: Prepared) -> Attention:
    """Run the golden model on a prepared problem."""
    result = golden.attend(
        prepared.q_codes, prepared.k_codes, prepared.values, prepared.exp_tables,
        config=prepared.config, counts=prepared.counts, first=prepared.first, n=prepared.n,
        sink=prepared.sink, recent=prepared.recent, rescore=prepared.rescore,
        shared=prepared.shared)
    return Attention(prepared.outputs(result.output_int), result.output_int, result.selected,
                     result.distances, result.weights, prepared, result.scores)
