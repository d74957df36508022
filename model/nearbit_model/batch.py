"""Fast golden-model outputs for whole texts: many queries, and any selection.

With its selection, :func:`outputs` equals :func:`nearbit_model.golden.attend` bit for bit. It
differs in two ways: the selection may be any, or all keys that a query sees; and the scores of all
keys come from one matrix product, which for many queries is faster than fetching the keys of each.
These products are exact: a sum of at most 1,024 products of 30 bits has 40 bits, and float64 holds
53.
"""

import numpy as np
from numpy.typing import NDArray

from nearbit_model import golden
from nearbit_model.config import SCALE_BITS, Config
from nearbit_model.prepare import Prepared
from nearbit_model.quantize import RescoreOperands, Values


__all__ = ["nearest", "outputs"]


# Elements of the largest temporary array: eight MiB of words.
_BLOCK = 1 << 20

# Up to here, float64 represents every integer.
_EXACT = 1 << 53


def outputs(prepared: Prepared, selected: NDArray[np.int64] | None = None) -> NDArray[np.int32]:
    """Compute integer outputs from dot-product scores of given keys (contract, items 5 to 8).

    Parameters
    ----------
    prepared
        A problem with rescoring. Its codes, ``n``, ``sink`` and ``recent`` are not used.
    selected
        Keys of each query, int64 [heads, queries, m], padded with -1, each key once, at least one
        for each query. None: all keys that the query sees.

    Returns
    -------
    int32 [heads, queries, value_dim]
        As :attr:`nearbit_model.golden.Result.output_int`.

    Raises
    ------
    ValueError
        The problem has no rescoring, or the selection does not fit its queries and keys.
    """
    rescore = prepared.rescore
    if rescore is None:
        raise ValueError("the problem must have rescore operands: prepare it with method hash")
    if selected is not None:
        if selected.shape[:2] != (prepared.heads, prepared.queries) or selected.ndim != 3:
            raise ValueError(f"selected must be [{prepared.heads}, {prepared.queries}, m], not "
                             f"{list(selected.shape)}")
        if selected.min() < -1 or selected.max() >= prepared.tokens \
                or (selected < 0).all(axis=-1).any():
            raise ValueError(f"selected must hold indices from 0 to {prepared.tokens - 1}, one "
                             f"at least for each query")
    first, counts = prepared.first, prepared.counts
    output = np.empty((prepared.heads, prepared.queries, prepared.config.value_dim), np.int32)
    block = max(1, _BLOCK // prepared.tokens)
    for head in range(prepared.heads):
        kv_head = head // prepared.group
        keys = rescore.keys[kv_head].astype(np.float64)
        for start in range(0, prepared.queries, block):
            rows = slice(start, start + block)
            # Queries of a text see few keys at its beginning.
            end = first + int(counts[rows].max()) if selected is None \
                else int(selected[head, rows].max()) + 1
            begin = first if selected is None else 0
            scores = rescore.queries[head, rows].astype(np.float64) @ keys[begin:end].T
            if selected is None:
                valid = np.arange(end - begin) < counts[rows, None]
                part = slice(begin, end)
                sums, total = _dense(scores, valid, rescore, prepared.values, (head, kv_head),
                                     rows, part, prepared.config)
            else:
                chosen = selected[head, rows]
                valid = chosen >= 0
                index = np.where(valid, chosen, 0)
                of_chosen = np.take_along_axis(scores, index, axis=1).astype(np.int64)
                weights = golden.decay(np.where(valid, of_chosen, 0), valid,
                                       rescore.multipliers[head, rows],
                                       weight_bits=prepared.config.weight_bits)
                sums, total = golden.accumulate(
                    weights, prepared.values.elements[kv_head][index],
                    prepared.values.scales[kv_head][index])
            output[head, rows] = golden.normalize(sums, total,
                                                  prepared.config.output_fraction_bits)
    return output


def _dense(scores: NDArray[np.float64], valid: NDArray[np.bool_], rescore: RescoreOperands,
           values: Values,
           heads: tuple[int, int], rows: slice, part: slice, config: Config
           ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sum over all valid keys: :func:`nearbit_model.golden.accumulate` as a matrix product."""
    head, kv_head = heads
    weights = np.maximum(golden.decay(scores.astype(np.int64), valid,
                                      rescore.multipliers[head, rows],
                                      weight_bits=config.weight_bits), 0)
    scales = values.scales[kv_head, part].astype(np.int64)
    scaled = (weights * scales + (1 << SCALE_BITS - 1)) >> SCALE_BITS
    elements = values.elements[kv_head, part]
    kind = np.float64 if int(scaled.sum(axis=1).max()) << config.value_bits - 1 <= _EXACT \
        else np.int64
    sums = scaled.astype(kind) @ elements.astype(kind)
    return sums.astype(np.int64), weights.sum(axis=1)


def nearest(q: NDArray[np.floating], k: NDArray[np.floating], m: int, *,
            counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Select each query's keys of largest q.k, which codes approximate.

    Parameters
    ----------
    q, k
        Real numbers [heads, queries, head_dim] and [kv_heads, tokens, head_dim]; head h uses key
        head h // (heads // kv_heads).
    m
        Keys for each query, at least 1; all that it sees if there are fewer.
    counts
        Number of keys, from key 0 on, that each query sees, int64 [queries], 1 to tokens.

    Returns
    -------
    int64 [heads, queries, min(m, tokens)]
        Padded with -1, in no particular order. Ties are broken arbitrarily.
    """
    heads, queries, _ = q.shape
    group = heads // len(k)
    most = min(m, k.shape[1])
    chosen = np.full((heads, queries, most), -1, np.int64)
    block = max(1, _BLOCK // k.shape[1])
    for head in range(heads):
        keys = k[head // group].astype(np.float64)
        for start in range(0, queries, block):
            rows = slice(start, start + block)
            span = int(counts[rows].max())
            scores = q[head, rows].astype(np.float64) @ keys[:span].T
            scores[np.arange(span) >= counts[rows, None]] = -np.inf
            width = min(most, span)
            index = np.argpartition(scores, span - width, axis=1)[:, span - width:]
            is_seen = index < counts[rows, None]
            chosen[head, rows, :width] = np.where(is_seen, index, -1)
    return chosen
