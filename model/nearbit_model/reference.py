"""References for binary attention, in float64.

There are two: exact attention, the softmax of q.k / sqrt(head_dim) over all keys; and the float
form of the method, which uses the method's own selection (and its distances, if they determine the
weights) but neither rounds weights nor quantizes values. The difference from the first is the
method's error; the difference from the second is the error of the integer arithmetic.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearbit_model.quantize import group_size, real_array


__all__ = ["Measures", "RelativeError", "attention", "float_form", "keys_read", "measure",
           "recall", "relative_error", "restricted", "top", "weights"]


# Elements of the largest temporary array: eight MiB.
_BLOCK = 1 << 20


def _scores(q: NDArray[np.floating], k: NDArray[np.floating],
            counts: ArrayLike | None) -> Iterator[tuple[int, slice, NDArray[np.float64]]]:
    """Yield head, queries and their q.k [queries, tokens]; -inf for keys a query may not see."""
    heads, queries, _ = q.shape
    kv_heads, tokens, _ = k.shape
    group = group_size(heads, kv_heads)
    seen = np.broadcast_to(tokens if counts is None else counts, (heads, queries))
    if seen.min() < 1 or seen.max() > tokens:
        raise ValueError(f"counts must be from 1 to {tokens}, not from {seen.min()} to "
                         f"{seen.max()}")
    block = max(1, _BLOCK // tokens)
    for head in range(heads):
        keys = k[head // group].astype(np.float64)
        for start in range(0, queries, block):
            rows = slice(start, start + block)
            scores = q[head, rows].astype(np.float64) @ keys.T
            scores[np.arange(tokens) >= seen[head, rows, None]] = -np.inf
            yield head, rows, scores


def attention(q: ArrayLike, k: ArrayLike, v: ArrayLike, *,
              counts: ArrayLike | None = None) -> NDArray[np.float64]:
    """Exact attention: ``softmax(q.k / sqrt(head_dim)) v`` in float64.

    Parameters
    ----------
    q, k, v
        Real numbers [heads, queries, head_dim], [kv_heads, tokens, head_dim] and [kv_heads,
        tokens, value_dim]; head h uses key head h // (heads // kv_heads).
    counts
        Number of keys, from key 0 on, that each query sees, integers that broadcast to [heads,
        queries], 1 to tokens; None for all.

    Returns
    -------
    float64 [heads, queries, value_dim]

    Raises
    ------
    ValueError
        A NaN, an infinity, no real numbers, heads that do not divide, or a count out of range.
    """
    queries, keys, rows_of_values = real_array(q, "q"), real_array(k, "k"), real_array(v, "v")
    group = group_size(len(queries), len(keys))
    output = np.empty((*queries.shape[:2], rows_of_values.shape[2]))
    for head, rows, shares in weights(queries, keys, counts=counts):
        output[head, rows] = shares @ rows_of_values[head // group].astype(np.float64)
    return output


def weights(q: ArrayLike, k: ArrayLike, *, counts: ArrayLike | None = None
            ) -> Iterator[tuple[int, slice, NDArray[np.float64]]]:
    """Yield weights of exact attention, ``softmax(q.k / sqrt(head_dim))``, some queries at a time.

    Parameters
    ----------
    q, k, counts
        As for :func:`attention`.

    Yields
    ------
    Head, queries, and their weights, float64 [queries, tokens]; 0 for keys that a query may not
    see. Head after head, queries in order.

    Raises
    ------
    ValueError
        A NaN, an infinity, no real numbers, heads that do not divide, or a count out of range.
    """
    queries, keys = real_array(q, "q"), real_array(k, "k")
    for head, rows, scores in _scores(queries, keys, counts):
        scores /= np.sqrt(queries.shape[2])
        scores -= scores.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=1, keepdims=True)
        yield head, rows, scores


def float_form(v: ArrayLike, selected: NDArray[np.int64], distances: NDArray[np.int32],
               logit_scale: ArrayLike) -> NDArray[np.float64]:
    """Compute the method in real numbers, on a given selection.

    Weights are the softmax of ``-2 * logit_scale * distance`` over the selected keys
    (arXiv 2502.01770), values the floats of v.

    Parameters
    ----------
    v
        Real numbers [kv_heads, tokens, value_dim].
    selected, distances
        int64 and int32 [heads, queries, m], padded with -1.
    logit_scale
        Real numbers [heads].

    Returns
    -------
    float64 [heads, queries, value_dim]

    Raises
    ------
    ValueError
        A NaN, an infinity, no real numbers, or heads that do not divide.
    """
    values = real_array(v, "v")
    heads, queries, most = selected.shape
    group = group_size(heads, len(values))
    scale = np.broadcast_to(real_array(logit_scale, "logit_scale"), (heads,))
    output = np.empty((heads, queries, values.shape[2]))
    block = max(1, _BLOCK // max(1, most * values.shape[2]))
    for head in range(heads):
        for start in range(0, queries, block):
            rows = slice(start, start + block)
            valid = selected[head, rows] >= 0
            logits = np.where(valid, -2.0 * float(scale[head]) * distances[head, rows], -np.inf)
            shares = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
            shares /= shares.sum(axis=1, keepdims=True)
            chosen = values[head // group][np.maximum(selected[head, rows], 0)]
            output[head, rows] = (shares[:, None] @ chosen.astype(np.float64))[:, 0]
    return output


def restricted(q: ArrayLike, k: ArrayLike, v: ArrayLike,
               selected: NDArray[np.int64]) -> NDArray[np.float64]:
    """Exact attention to the selected keys only: the method with rescoring, in real numbers.

    Parameters
    ----------
    q, k, v
        As for :func:`attention`.
    selected
        int64 [heads, queries, m], padded with -1.

    Returns
    -------
    float64 [heads, queries, value_dim]

    Raises
    ------
    ValueError
        A NaN, an infinity, no real numbers, or heads that do not divide.
    """
    queries, keys, values = real_array(q, "q"), real_array(k, "k"), real_array(v, "v")
    group = group_size(len(queries), len(keys))
    output = np.empty((*queries.shape[:2], values.shape[2]))
    block = max(1, _BLOCK // max(1, selected.shape[2] * max(keys.shape[2], values.shape[2])))
    for head in range(len(queries)):
        for start in range(0, queries.shape[1], block):
            rows = slice(start, start + block)
            index = np.maximum(selected[head, rows], 0)
            chosen = keys[head // group][index].astype(np.float64)
            logits = (chosen @ queries[head, rows, :, None].astype(np.float64))[..., 0]
            logits /= np.sqrt(queries.shape[2])
            logits[selected[head, rows] < 0] = -np.inf
            shares = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
            shares /= shares.sum(axis=1, keepdims=True)
            rows_of_values = values[head // group][index].astype(np.float64)
            output[head, rows] = (shares[:, None] @ rows_of_values)[:, 0]
    return output


def top(q: ArrayLike, k: ArrayLike, selected: NDArray[np.int64], *,
        counts: ArrayLike | None = None) -> NDArray[np.int64]:
    """Select the keys of largest q.k, for each query as many as a selection has.

    What remains of the error with these is what selecting so few keys costs, however they are
    found.

    Parameters
    ----------
    q, k, counts
        As for :func:`attention`.
    selected
        int64 [heads, queries, m], padded with -1.

    Returns
    -------
    int64 [heads, queries, m]
        By descending q.k, among equal ones the first; padded with -1.

    Raises
    ------
    ValueError
        A NaN, an infinity, no real numbers, heads that do not divide, or a count out of range.
    """
    queries, keys = real_array(q, "q"), real_array(k, "k")
    most = selected.shape[2]
    found = np.full(selected.shape, -1)
    for head, rows, scores in _scores(queries, keys, counts):
        best = np.argsort(-scores, axis=1, kind="stable")[:, :most]
        sizes = np.minimum((selected[head, rows] >= 0).sum(axis=1),
                           np.isfinite(scores).sum(axis=1))
        kept = np.arange(best.shape[1]) < sizes[:, None]
        found[head, rows, :best.shape[1]] = np.where(kept, best, -1)
    return found


def keys_read(selected: NDArray[np.int64], tokens: int, *, counts: ArrayLike | None = None
              ) -> NDArray[np.float64]:
    """Share of the keys that queries see whose values are read, per head.

    Parameters
    ----------
    selected
        int64 [heads, queries, m], padded with -1.
    tokens
        Keys of a head.
    counts
        As for :func:`attention`.

    Returns
    -------
    float64 [heads]
        All keys selected over all keys seen.
    """
    seen = np.broadcast_to(tokens if counts is None else counts, selected.shape[:2])
    return np.asarray((selected >= 0).sum(axis=(1, 2)) / seen.sum(axis=1))


def recall(q: ArrayLike, k: ArrayLike, selected: NDArray[np.int64], *,
           counts: ArrayLike | None = None) -> NDArray[np.float64]:
    """Compute the share of exact attention's top keys that a selection holds, per head.

    For a query that selected m keys: the share of the m keys of largest q.k that it may see which
    were selected; keys tied with the m-th count as among them. A query that selected every key it
    sees had no choice and is left out of the mean; a head with only such queries has recall NaN.

    Parameters
    ----------
    q, k, counts
        As for :func:`attention`.
    selected
        int64 [heads, queries, m], padded with -1.

    Returns
    -------
    float64 [heads]
        0 to 1, or NaN.

    Raises
    ------
    ValueError
        A NaN, an infinity, no real numbers, heads that do not divide, or a count out of range.
    """
    queries, keys = real_array(q, "q"), real_array(k, "k")
    found = np.zeros(len(queries))
    asked = np.zeros(len(queries), np.int64)
    tokens = keys.shape[1]
    for head, rows, scores in _scores(queries, keys, counts):
        chosen = selected[head, rows]
        sizes = (chosen >= 0).sum(axis=1)
        choice = sizes < np.isfinite(scores).sum(axis=1)
        if not choice.any():
            continue
        # Broken hardware may have selected nothing; then nothing is found.
        scores, chosen, sizes = scores[choice], chosen[choice], np.maximum(sizes[choice], 1)
        places = tokens - sizes
        least = np.take_along_axis(np.partition(scores, np.unique(places), axis=1),
                                   places[:, None], axis=1)
        hits = np.take_along_axis(scores, np.maximum(chosen, 0), axis=1) >= least
        found[head] += ((hits & (chosen >= 0)).sum(axis=1) / sizes).sum()
        asked[head] += len(sizes)
    return np.where(asked > 0, found / np.maximum(asked, 1), np.nan)


@dataclass(frozen=True, eq=False)
class RelativeError:
    """Relative errors of outputs: ``|a - b| / |b|``, Euclidean norms for each query.

    Parameters
    ----------
    queries
        float64 [heads, queries].
    """

    queries: NDArray[np.float64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean over the queries of each head, float64 [heads]."""
        return np.asarray(self.queries.mean(axis=-1))

    @property
    def maximum(self) -> NDArray[np.float64]:
        """Largest over the queries of each head, float64 [heads]."""
        return np.asarray(self.queries.max(axis=-1))


def relative_error(a: ArrayLike, b: ArrayLike) -> RelativeError:
    """Error of ``a`` relative to ``b``, query by query.

    Parameters
    ----------
    a, b
        Outputs and their reference, real numbers [heads, queries, value_dim].

    Returns
    -------
    RelativeError
        A query where both are 0 has error 0; one where only b is 0 has an infinite error.
    """
    reference = np.asarray(b, np.float64)
    norm = np.linalg.norm(reference, axis=-1)
    error = np.linalg.norm(np.asarray(a, np.float64) - reference, axis=-1)
    return RelativeError(np.divide(error, norm, where=norm > 0,
                                   out=np.where(error > 0, np.inf, 0.0)))


@dataclass(frozen=True, eq=False)
class Measures:
    """Accuracy of binary attention on given tensors.

    Parameters
    ----------
    keys_read
        See :func:`keys_read`, float64 [heads].
    recall
        See :func:`recall`, float64 [heads].
    error_reference
        Error against :func:`attention`: the loss by the method.
    error_top
        Error of exact attention to the keys of :func:`top`, against :func:`attention`: about the
        least loss of any selection of as many keys.
    error_method
        Error against :func:`float_form` or :func:`restricted`: the loss by integer arithmetic.
    """

    keys_read: NDArray[np.float64]
    recall: NDArray[np.float64]
    error_reference: RelativeError
    error_top: RelativeError
    error_method: RelativeError


def measure(q: ArrayLike, k: ArrayLike, v: ArrayLike, *, output: ArrayLike,
            selected: NDArray[np.int64], distances: NDArray[np.int32], logit_scale: ArrayLike,
            counts: ArrayLike | None = None, rescored: bool = False) -> Measures:
    """Measure outputs and selections against both references.

    Parameters
    ----------
    q, k, v, counts
        As for :func:`attention`.
    output
        Dequantized outputs, real numbers [heads, queries, value_dim].
    selected, distances, logit_scale
        As for :func:`float_form`.
    rescored
        Whether the weights follow from dot-product scores.

    Returns
    -------
    Measures
    """
    form = restricted(q, k, v, selected) if rescored \
        else float_form(v, selected, distances, logit_scale)
    exact = attention(q, k, v, counts=counts)
    best = restricted(q, k, v, top(q, k, selected, counts=counts))
    return Measures(
        keys_read=keys_read(selected, real_array(k, "k").shape[1], counts=counts),
        recall=recall(q, k, selected, counts=counts),
        error_reference=relative_error(output, exact),
        error_top=relative_error(best, exact),
        error_method=relative_error(output, form))
