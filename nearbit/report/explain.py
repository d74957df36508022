"""Where an answer comes from: which keys, with which weight, beside those of exact attention."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nearbit.tensors import Tensors
from nearbit_model import reference
from nearbit_model.attention import ORIGINS


if TYPE_CHECKING:
    from nearbit_model.transfers import HardwareAttention


__all__ = ["HeadExplanation", "KeyExplanation", "Maps", "QueryExplanation", "explain"]


MAP_TOKENS = 512
"""Columns of a map, at most: what a screen has pixels for."""

MAP_QUERIES = 256
"""Rows of a map, at most."""

TABLE_KEYS = 8
"""Keys told of a query, at most."""

TABLE_MISSED = 3
"""Keys told of those that were not selected, at most."""


@dataclass(frozen=True, kw_only=True)
class KeyExplanation:
    """A key's part in an answer.

    Parameters
    ----------
    index
        Index of the token.
    origin
        Why it was selected: "rank", "sink" or "recent"; None if it was not.
    distance
        Bits in which its code differs from the query's; None if it was not selected. If the heads
        of a group share a selection, the sum for all of them.
    score
        Its dot-product score q.k / sqrt(head_dim), as the hardware has it; None without rescoring.
    share
        Its weight as a share of all selected keys' weights.
    reference_share
        Its weight in exact attention, whose weights add up to 1.
    reference_rank
        Its rank there; 1 has the largest weight.
    """

    index: int
    origin: str | None
    distance: int | None
    score: float | None
    share: float
    reference_share: float
    reference_rank: int


@dataclass(frozen=True, kw_only=True)
class QueryExplanation:
    """How an answer came about.

    Parameters
    ----------
    query
        Index of the query in the file.
    reason
        Why this query is told.
    seen
        Keys that it may see: 0 to seen - 1.
    selected
        Keys that were selected.
    covered
        Weight that exact attention gives to these.
    error
        Relative error of the answer against exact attention.
    keys
        The selected keys of largest weight.
    missed
        The keys of largest exact weight that were not selected.
    """

    query: int
    reason: str
    seen: int
    selected: int
    covered: float
    error: float
    keys: Sequence[KeyExplanation]
    missed: Sequence[KeyExplanation]


@dataclass(frozen=True, kw_only=True, eq=False)
class Maps:
    """Weights of a head, query by query and token by token.

    Parameters
    ----------
    queries
        Indices of the queries in the file: all, or evenly spread ones, int64 [rows].
    seen
        Keys that each may see, int64 [rows].
    tokens
        Keys of the head.
    width
        Neighbouring tokens that share a column.
    shares
        Weights of the selected keys as shares of 1, summed over a column's tokens; NaN where none
        was selected. float32 [rows, columns].
    reference
        The same of exact attention, float32 [rows, columns].
    """

    queries: NDArray[np.int64]
    seen: NDArray[np.int64]
    tokens: int
    width: int
    shares: NDArray[np.float32]
    reference: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadExplanation:
    """How a head's answers came about.

    Parameters
    ----------
    head
        Index of the head in the file.
    covered
        Weight that exact attention gives to the selected keys, mean over the queries.
    maps
        All weights.
    queries
        A few queries in detail.
    """

    head: int
    covered: float
    maps: Maps
    queries: Sequence[QueryExplanation]


def explain(tensors: Tensors, hardware: "HardwareAttention") -> list[HeadExplanation]:
    """Explain what the hardware answered, head by head."""
    return [_explain_head(tensors, hardware, head, weights)
            for head, weights in _reference_weights(tensors, hardware)]


def _reference_weights(tensors: Tensors, hardware: "HardwareAttention"
                       ) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Give each head and its weights in exact attention, [queries, tokens]."""
    queries = len(tensors.queries)
    weights = np.empty((queries, tensors.tokens), np.float32)
    for head, rows, part in reference.weights(tensors.q, tensors.k,
                                              counts=hardware.prepared.counts):
        weights[rows] = part
        if rows.stop >= queries:
            yield head, weights


def _explain_head(tensors: Tensors, hardware: "HardwareAttention", head: int,
                  weights: NDArray[np.float32]) -> HeadExplanation:
    prepared = hardware.prepared
    indices, distances = hardware.selected[head], hardware.distances[head]
    # Hardware that differs may have selected keys that are not there, and weighted them with 0.
    valid = (indices >= 0) & (indices < tensors.tokens)
    indices = np.where(valid, indices, 0)
    shares = np.where(valid, hardware.weights[head], 0).astype(np.float64)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1)
    covered = np.where(valid, np.take_along_axis(weights, indices, axis=1), 0).sum(axis=1)
    values = tensors.v[head // prepared.group].astype(np.float64)
    errors = reference.relative_error(hardware.output[head], weights @ values).queries

    queries = []
    reasons = hardware.origins[head]
    # Where no key could be left out there is little to tell.
    had_choice = np.flatnonzero(valid.sum(axis=1) < prepared.counts)
    told = had_choice if len(had_choice) else np.arange(len(errors))
    for query, reason in _choose(told, errors).items():
        row = weights[query]
        used = np.flatnonzero(valid[query])

        def key(index: int, place: int | None = None, *, query: int = query,
                row: NDArray[np.float32] = row) -> KeyExplanation:
            return KeyExplanation(
                index=index,
                origin=None if place is None else ORIGINS[reasons[query, place]],
                distance=None if place is None else int(distances[query, place]),
                score=None if place is None else _score(hardware, head, query, place),
                share=0.0 if place is None else float(shares[query, place]),
                reference_share=float(row[index]), reference_rank=int((row > row[index]).sum()) + 1)

        # Among equal weights, the reported order: the nearest first.
        used = used[np.argsort(-shares[query, used], kind="stable")]
        keys = [key(int(indices[query, place]), int(place)) for place in used[:TABLE_KEYS]]
        others = row.copy()
        others[indices[query, used]] = -1
        others[prepared.counts[query]:] = -1
        best = np.argsort(-others, kind="stable")[:TABLE_MISSED]
        queries.append(QueryExplanation(
            query=int(tensors.queries[query]), reason=reason, seen=int(prepared.counts[query]),
            selected=len(used), covered=float(covered[query]), error=float(errors[query]),
            keys=keys, missed=[key(int(index)) for index in best if others[index] >= 0]))
    return HeadExplanation(
        head=int(tensors.heads[head]), covered=float(covered.mean()), queries=queries,
        maps=_maps(tensors, prepared.counts, indices, valid, shares, weights))


def _score(hardware: "HardwareAttention", head: int, query: int, place: int) -> float | None:
    """A key's dot-product score as a logit: that of which the softmax is made."""
    operands = hardware.prepared.rescore
    if operands is None or hardware.scores is None:
        return None
    # A multiplier counts in 2**-24 parts of a 256th of an octave.
    octaves = float(hardware.scores[head, query, place]) * operands.multipliers[head, query] / 2**32
    return float(octaves * np.log(2))


def _choose(queries: NDArray[np.int64], errors: NDArray[np.float64]) -> dict[int, str]:
    """Choose queries that are worth a look, and say why."""
    order = queries[np.argsort(errors[queries], kind="stable")]
    if len(order) == 1:
        return {int(order[0]): "error"}
    return {int(order[0]): "smallest error", int(order[len(order) // 2]): "median error",
            int(order[-1]): "largest error"}


def _maps(tensors: Tensors, counts: NDArray[np.int64], indices: NDArray[np.int64],
          valid: NDArray[np.bool_], shares: NDArray[np.float64], weights: NDArray[np.float32]
          ) -> Maps:
    asked, tokens = len(tensors.queries), tensors.tokens
    rows = np.unique(np.linspace(0, asked - 1, min(asked, MAP_QUERIES)).round().astype(np.int64))
    width = -(-tokens // MAP_TOKENS)
    starts = np.arange(0, tokens, width)
    ours = np.zeros((len(rows), len(starts)))
    is_selected = np.zeros(ours.shape, bool)
    place, element = np.nonzero(valid[rows])
    column = indices[rows][place, element] // width
    np.add.at(ours, (place, column), shares[rows][place, element])
    is_selected[place, column] = True
    return Maps(
        queries=tensors.queries[rows], seen=counts[rows], tokens=tokens, width=width,
        shares=np.where(is_selected, ours, np.nan).astype(np.float32),
        reference=np.add.reduceat(weights[rows], starts, axis=1))
