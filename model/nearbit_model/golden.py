"""The numeric contract: what the hardware computes, bit for bit, in NumPy integers.

Stages, each of which also serves as the oracle of its hardware block:

========================  =====================================================================
:func:`select`            distances and the exact top N (:mod:`nearbit_hw.select.top_n`)
:func:`lookup`            weights by distance (:mod:`nearbit_hw.attend.softmax`)
:func:`score`             dot-product scores of selected keys (:mod:`nearbit_hw.attend.rescorer`)
:func:`decay`             weights by dot-product score (:mod:`nearbit_hw.attend.softmax`)
:func:`accumulate`        weighted sums of values (:mod:`nearbit_hw.attend.value_accumulator`)
:func:`normalize`         exactly rounded division (:mod:`nearbit_hw.attend.normalizer`)
:func:`attend`            all of them (:mod:`nearbit_hw.core`)
========================  =====================================================================

Memory is bounded: in addition to inputs and results, a few MiB for any number of keys, heads and
queries. Head h uses key head h // (heads // kv_heads) (grouped-query attention).
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearbit_model.config import (
    DECAY_BITS,
    MULTIPLIER_BITS,
    MULTIPLIER_SHIFT,
    SCALE_BITS,
    Config,
)
from nearbit_model.popcount import distances
from nearbit_model.quantize import WORD_BITS, RescoreOperands, Values, codes_from_ints, group_size


__all__ = ["Result", "accumulate", "attend", "attend_one", "check_command", "decay",
           "error_bound", "lookup", "normalize", "score", "select", "select_one"]


# Elements of the largest temporary array: two MiB of words, which stay in the cache.
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Result:
    """The core's answer to each query of each head.

    m is the largest number of keys that any query selected; a query that selected fewer is padded
    with -1. Keys are in the reported order: ascending distance, then descending index.

    Parameters
    ----------
    output_int
        int32 [heads, queries, value_dim], ``value_bits + output_fraction_bits`` bits: units of an
        element, times 2**output_fraction_bits.
    selected
        Tokens of the store, int64 [heads, queries, m].
    distances
        int32 [heads, queries, m], 0 to key_bits; if the group's heads share a selection, the sum
        of theirs.
    weights
        int64 [heads, queries, m], 0 to 2**weight_bits - 1.
    scores
        Dot-product scores q.k in units of the quantized operands, int64 [heads, queries, m], 0
        where there is no key; None without rescoring.
    """

    output_int: NDArray[np.int32]
    selected: NDArray[np.int64]
    distances: NDArray[np.int32]
    weights: NDArray[np.int64]
    scores: NDArray[np.int64] | None = None


def check_command(*, n: int, sink: int, recent: int, top_n: int) -> None:
    """Check a command's numbers; :class:`ValueError` with one sentence if they are out of range."""
    for name, value, least in (("n", n, 1), ("sink", sink, 0), ("recent", recent, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    if n + sink + recent > top_n:
        raise ValueError(f"n + sink + recent must be at most top_n ({top_n}), "
                         f"not {n + sink + recent}")


def _check_range(counts: NDArray[np.int64], first: int, tokens: int) -> None:
    if first < 0:
        raise ValueError(f"first must be at least 0, not {first}")
    if counts.min() < 1:
        raise ValueError(f"count must be at least 1, not {counts.min()}")
    if first + counts.max() > tokens:
        raise ValueError(f"the keys from {first} to {first + counts.max() - 1} exceed the "
                         f"{tokens} keys")


def select(q_codes: NDArray[np.uint64], k_codes: NDArray[np.uint64], *, counts: ArrayLike,
           first: int = 0, n: int, sink: int = 0, recent: int = 0,
           shared: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Select each query's keys: distances and exact top N (contract, items 2 and 3).

    If ``sink + recent + n >= count``, every key is selected. Otherwise the first ``sink`` and the
    last ``recent`` keys of the range are selected, and the ``n`` nearest of the rest; among equal
    distances, the larger index wins.

    Parameters
    ----------
    q_codes
        uint64 [heads, queries, words].
    k_codes
        uint64 [kv_heads, tokens, words], at most 2**20 keys of 1,024 bits.
    counts
        Number of keys that each query may see, from ``first`` on; at least 1. Integers, broadcast
        to [heads, queries].
    first
        First token of the range.
    n, sink, recent
        See above; n at least 1, the others at least 0.
    shared
        Whether the heads of a group (those that share a key head) share one selection at each
        position, by the sum of their distances. Their counts must be equal.

    Returns
    -------
    selected, distances
        int64 and int32 [heads, queries, m], as in :class:`Result`.

    Raises
    ------
    ValueError
        The range is empty or exceeds the keys, or n, sink or recent is out of range.
    """
    heads, queries, words = q_codes.shape
    kv_heads, tokens, _ = k_codes.shape
    group = group_size(heads, kv_heads)
    check_command(n=n, sink=sink, recent=recent, top_n=n + sink + recent)
    each = np.broadcast_to(_integers(counts, "counts"), (heads, queries)).astype(np.int64)
    _check_range(each, first, tokens)
    if tokens > 1 << 20 or words * WORD_BITS > 1024:
        raise ValueError(f"at most {1 << 20} keys of 1024 bits can be selected from, not {tokens} "
                         f"of {words * WORD_BITS}")

    together = group if shared else 1
    if shared and (each.reshape(-1, group, queries) != each[::group, None]).any():
        raise ValueError("counts of heads that share a selection must be equal")
    if together * words * WORD_BITS << (tokens - 1).bit_length() > _NONE:
        raise ValueError(f"{together} heads of {words * WORD_BITS} bits cannot share a selection "
                         f"among {tokens} keys")

    most = int(min(n + sink + recent, each.max()))
    selected = np.full((heads, queries, most), -1, np.int64)
    found = np.full((heads, queries, most), -1, np.int32)
    for head in range(0, heads, together):
        heads_here = slice(head, head + together)
        keys = k_codes[head // group, first:]
        block = max(1, _BLOCK // int(each[head].max()))
        for start in range(0, queries, block):
            rows = slice(start, start + block)
            index, distance = _select_block(q_codes[heads_here, rows], keys, each[head, rows],
                                            n=n, sink=sink, recent=recent)
            width = index.shape[1]
            selected[heads_here, rows, :width] = np.where(index < 0, -1, index + first)
            found[heads_here, rows, :width] = distance
    return selected, found


# Selection by one integer per key. The SORT KEY of a key is its distance, shifted left, and below
# it its reversed position in the range (0 is the last key). So sort keys are unique, and the
# smaller one is the contract's choice: nearer first, then more recent. A FORCED key (a sink or a
# recent one) also has its sign bit set, which puts it before all others and keeps distance and
# position readable. NONE, above every sort key, marks a key that the query may not see. 1,024 bits
# and 2**20 keys still fit 31 bits, and NumPy partitions 32-bit integers fastest.
_FORCED = np.int32(-(1 << 31))
_NONE = np.int32((1 << 31) - 1)


def _select_block(q_codes: NDArray[np.uint64], k_codes: NDArray[np.uint64],
                  counts: NDArray[np.int64], *, n: int, sink: int,
                  recent: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return positions and distances of some queries' selected keys, padded with -1.

    The distances of several heads' queries [heads, queries, words] are added.
    """
    span = int(counts.max())
    position_bits = (span - 1).bit_length()
    sort_keys = distances(q_codes[0, :, None], k_codes[None, :span])
    for others in q_codes[1:]:
        sort_keys += distances(others[:, None], k_codes[None, :span])
    sort_keys <<= position_bits
    sort_keys |= np.arange(span - 1, -1, -1, dtype=np.int32)

    # A range so short that forced keys overlap, or reach beyond it, is selected as a whole, so it
    # does not matter which keys are forced then.
    if sink:
        sort_keys[:, :sink] |= _FORCED
    if recent:
        last = counts[:, None] - 1 - np.arange(min(recent, span))
        sort_keys[np.arange(len(counts))[:, None], np.maximum(last, 0)] |= _FORCED
    if counts.min() < span:
        np.copyto(sort_keys, _NONE, where=np.arange(span) >= counts[:, None])

    most = min(n + sink + recent, span)
    if most < span:
        sort_keys.partition(most - 1, axis=1)
    chosen = sort_keys[:, :most] & ~_FORCED
    chosen.sort(axis=1)
    is_none = chosen == _NONE
    index = span - 1 - (chosen & np.int32((1 << position_bits) - 1)).astype(np.int64)
    distance = chosen >> position_bits
    index[is_none] = -1
    distance[is_none] = -1
    return index, distance


def select_one(distances: ArrayLike, *, n: int, sink: int = 0,
               recent: int = 0) -> NDArray[np.int64]:
    """Select among given distances: item 3 of the contract, in as few lines as it has rules.

    Parameters
    ----------
    distances
        Distances of the keys in the range, in order: integers [count], at least one.
    n, sink, recent
        As for :func:`select`.

    Returns
    -------
    int64 [min(count, n + sink + recent)]
        Positions in ``distances``, in the reported order.

    Examples
    --------
    Of equal distances the more recent key wins:

    >>> from nearbit_model.golden import select_one
    >>> select_one([5, 3, 7, 3, 3], n=2).tolist()
    [4, 3]
    >>> select_one([5, 3, 7, 3, 3], n=1, sink=1).tolist()
    [4, 0]
    """
    given = _integers(distances, "distances").astype(np.int64)
    count = len(given)
    check_command(n=n, sink=sink, recent=recent, top_n=n + sink + recent)
    if count < 1:
        raise ValueError("count must be at least 1, not 0")
    order = np.lexsort((-np.arange(count), given))
    if sink + recent + n >= count:
        return order
    forced = (order < sink) | (order >= count - recent)
    return order[forced | (np.cumsum(~forced) <= n)]


def lookup(distances: NDArray[np.int32], exp_table: ArrayLike) -> NDArray[np.int64]:
    """Look up weights of selected keys: ``exp_table[h - h_min]`` (contract, item 4).

    Parameters
    ----------
    distances
        Integers [..., m], at least one valid in each row; -1 is padding and stays -1.
    exp_table
        Integers [key_bits + 1].

    Returns
    -------
    int64 [..., m]
    """
    valid = distances >= 0
    nearest = np.where(valid, distances, np.iinfo(distances.dtype).max).min(axis=-1)
    excess = np.where(valid, distances - nearest[..., None], 0)
    return np.where(valid, np.asarray(exp_table).astype(np.int64)[excess], -1)


def score(queries: NDArray[Any], keys: NDArray[Any]) -> NDArray[np.int64]:
    """Score selected keys by dot products: ``s[i] = sum_j q[j] * k[i][j]`` (contract, item 5).

    Parameters
    ----------
    queries
        Integers of at most 16 bits [..., head_dim].
    keys
        The selected keys, integers of at most 16 bits [..., m, head_dim]; head_dim at most 1,024.

    Returns
    -------
    int64 [..., m]
    """
    # Sums of up to 1,024 products of 30 bits are exact in float64, whose matrix products are fast.
    products = keys.astype(np.float64) @ queries.astype(np.float64)[..., None]
    return np.asarray(products[..., 0], np.int64)


def decay(scores: NDArray[np.int64], valid: NDArray[np.bool_], multipliers: NDArray[Any], *,
          weight_bits: int) -> NDArray[np.int64]:
    """Compute weights of selected keys from their dot-product scores (contract, item 5).

    ``t = ((s_max - s[i]) * multiplier) >> 24``; ``w[i] = exp2[t & 255] >> (t >> 8)``, and 0 once
    ``t >> 8 >= weight_bits``; ``exp2[f] = rint((2**weight_bits - 1) * 2**(-f / 256))``.

    Parameters
    ----------
    scores
        Integers [..., m] below 2**41 in absolute value.
    valid
        Which of them belong to a key, [..., m]; at least one in each row.
    multipliers
        Integers [...], 0 to 2**32 - 1.
    weight_bits
        Bits of a weight, 2 to 24.

    Returns
    -------
    int64 [..., m]
        -1 where there is no key.
    """
    best = np.where(valid, scores, np.iinfo(np.int64).min).max(axis=-1, keepdims=True)
    behind = np.where(valid, best - scores, 0)
    # In two halves, as the whole product has up to 74 bits.
    high, low = np.divmod(np.asarray(multipliers, np.int64)[..., None], 1 << MULTIPLIER_BITS // 2)
    octaves = ((behind * high + (behind * low >> MULTIPLIER_BITS // 2))
               >> MULTIPLIER_SHIFT - MULTIPLIER_BITS // 2)
    fractions = np.arange(1 << DECAY_BITS) / (1 << DECAY_BITS)
    exp2 = np.rint(((1 << weight_bits) - 1) * 2.0 ** -fractions).astype(np.int64)
    shift = np.minimum(octaves >> DECAY_BITS, weight_bits)
    return np.where(valid, exp2[octaves & ((1 << DECAY_BITS) - 1)] >> shift, -1)


def accumulate(weights: NDArray[np.int64], elements: NDArray[Any], scales: NDArray[Any], *,
               scale_bits: int = SCALE_BITS) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sum value vectors by weight (contract, item 7).

    ``u[i] = (w[i] * c[i] + 2**(scale_bits - 1)) >> scale_bits``, ``sums[j] = sum u[i] * v[i][j]``
    and ``total = sum w[i]``, without overflow for up to 2**20 vectors of 16 bits and weights of 24.

    Parameters
    ----------
    weights
        Integers [..., m], at least 0; -1 is padding and counts as 0.
    elements
        The selected value vectors, int8 or int16 [..., m, dim].
    scales
        Their scales, integers [..., m], 0 to 2**scale_bits - 1.

    Returns
    -------
    tuple
        The sums, int64 [..., dim], and the total, int64 [...].
    """
    weight = np.maximum(weights, 0).astype(np.int64)
    scaled = (weight * scales.astype(np.int64) + (1 << scale_bits - 1)) >> scale_bits
    # Below 2**53 every partial sum, in any order and fused or not, is an integer that float64
    # holds exactly, and matrix products of floats are many times faster than those of integers.
    exact = int(scaled.sum(axis=-1).max(initial=0)) << 15 <= 1 << 53
    kind = np.float64 if exact else np.int64
    sums = scaled.astype(kind)[..., None, :] @ elements.astype(kind)
    return sums[..., 0, :].astype(np.int64), weight.sum(axis=-1)


def normalize(sums: NDArray[np.int64], total: NDArray[np.int64],
              fraction_bits: int) -> NDArray[np.int64]:
    """Divide with exact rounding (contract, item 8).

    ``floor((sums * 2**fraction_bits + floor(total / 2)) / total)``: to nearest, ties upward.

    Parameters
    ----------
    sums
        Integers [..., dim].
    total
        Integers [...], at least 1; ``total * 2**fraction_bits`` below 2**63.
    fraction_bits
        Fraction bits of the result.

    Returns
    -------
    int64 [..., dim]
    """
    divisor = np.asarray(total, np.int64)[..., None]
    if (divisor < 1).any():
        raise ValueError(f"total must be at least 1, not {divisor.min()}")
    # Quotient first: `sums << fraction_bits` may overflow 64 bits.
    whole, rest = np.divmod(np.asarray(sums, np.int64), divisor)
    rounded = ((rest << fraction_bits) + (divisor >> 1)) // divisor
    return np.asarray((whole << fraction_bits) + rounded, np.int64)


def attend(q_codes: NDArray[np.uint64], k_codes: NDArray[np.uint64], values: Values,
           exp_tables: ArrayLike, *, config: Config, counts: ArrayLike, first: int = 0, n: int,
           sink: int = 0, recent: int = 0, rescore: RescoreOperands | None = None,
           shared: bool = False) -> Result:
    """Binary attention by the numeric contract: the golden model of :class:`nearbit_hw.core.Core`.

    Parameters
    ----------
    q_codes
        uint64 [heads, queries, words], packed as by :func:`nearbit_model.quantize.codes`.
    k_codes
        uint64 [kv_heads, tokens, words].
    values
        Value vectors: elements [kv_heads, tokens, value_dim] and scales [kv_heads, tokens].
    exp_tables
        Each query head's weights, integers [heads, key_bits + 1] of weight_bits bits; entry 0 is
        not 0.
    config
        Widths, ``top_n`` and ``capacity``.
    counts, first, n, sink, recent, shared
        As for :func:`select`; at most ``top_n`` keys may be requested.
    rescore
        Operands of rescoring, which then determine the weights; the exp tables are not used.
        None: the distances determine the weights.

    Returns
    -------
    Result
        Outputs and, for each query, selected tokens, distances and weights.

    Raises
    ------
    ValueError
        A shape, a width or a command does not fit the configuration, or the hardware would answer
        with an error code.
    """
    checked = _check_integers(q_codes, k_codes, values, exp_tables, config)
    check_command(n=n, sink=sink, recent=recent, top_n=config.top_n)
    heads, queries, _ = q_codes.shape
    group = heads // len(k_codes)
    if rescore is not None:
        _check_rescore(rescore, (heads, queries), k_codes.shape[:2], config)
    elif shared:
        raise ValueError("a shared selection needs rescoring: a sum of several distances does "
                         "not measure a single head's weight")
    selected, found = select(q_codes, k_codes, counts=counts, first=first, n=n, sink=sink,
                             recent=recent, shared=shared)
    most = selected.shape[-1]
    weights = np.empty(selected.shape, np.int64)
    scores = None if rescore is None else np.zeros(selected.shape, np.int64)
    output_int = np.empty((heads, queries, config.value_dim), np.int32)
    widest = max(config.value_dim, 0 if rescore is None else rescore.keys.shape[-1])
    block = max(1, _BLOCK // (most * widest))
    for head in range(heads):
        elements, scales = values.elements[head // group], values.scales[head // group]
        for start in range(0, queries, block):
            rows = slice(start, start + block)
            valid = selected[head, rows] >= 0
            # Padding reads token 0, with weight 0.
            index = np.where(valid, selected[head, rows], 0)
            if rescore is None or scores is None:
                weights[head, rows] = lookup(found[head, rows], checked[head])
            else:
                scores[head, rows] = np.where(valid, score(
                    rescore.queries[head, rows], rescore.keys[head // group][index]), 0)
                weights[head, rows] = decay(scores[head, rows], valid,
                                            rescore.multipliers[head, rows],
                                            weight_bits=config.weight_bits)
            sums, total = accumulate(weights[head, rows], elements[index], scales[index])
            output_int[head, rows] = normalize(sums, total, config.output_fraction_bits)
    return Result(output_int, selected, found, weights, scores)


def _check_rescore(rescore: RescoreOperands, queries: tuple[int, int], keys: tuple[int, int],
                   config: Config) -> None:
    """Check shapes and widths of the operands of rescoring."""
    unit = config.rescore
    if unit is None:
        raise ValueError("the configuration has no rescoring unit; set rescore")
    limit = 1 << unit.element_bits - 1
    for name, array, shape, least, most in (
            ("rescore queries", rescore.queries, (*queries, unit.head_dim), -limit, limit - 1),
            ("rescore keys", rescore.keys, (*keys, unit.head_dim), -limit, limit - 1),
            ("multipliers", rescore.multipliers, queries, 0, (1 << MULTIPLIER_BITS) - 1)):
        _check_array(name, array, shape, least, most)


def _integers(x: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(x)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, not {array.dtype}")
    return array


def _check_array(name: str, array: NDArray[Any], shape: tuple[int, ...], least: int,
                 most: int) -> None:
    _integers(array, name)
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, not {list(array.shape)}")
    if array.min() < least or array.max() > most:
        raise ValueError(f"{name} must be from {least} to {most}, not from {array.min()} to "
                         f"{array.max()}")


def _check_integers(q_codes: NDArray[np.uint64], k_codes: NDArray[np.uint64], values: Values,
                    exp_tables: ArrayLike, config: Config) -> NDArray[Any]:
    """Check shapes and widths of the integers for :func:`attend`; return the exp tables."""
    words = -(-config.key_bits // WORD_BITS)
    for name, packed in (("q_codes", q_codes), ("k_codes", k_codes)):
        if packed.ndim != 3 or packed.shape[2] != words or 0 in packed.shape:
            raise ValueError(f"{name} must be [heads, n, {words}] with no axis empty for "
                             f"{config.key_bits} bits, not {list(packed.shape)}")
        if packed.dtype != np.uint64:
            raise ValueError(f"{name} must be uint64, not {packed.dtype}")
        spare = words * WORD_BITS - config.key_bits
        if spare and (packed[..., -1] >> np.uint64(WORD_BITS - spare)).any():
            raise ValueError(f"{name} has bits above key_bits ({config.key_bits})")
    heads, (kv_heads, tokens, _) = len(q_codes), k_codes.shape
    group_size(heads, kv_heads)
    if tokens > config.capacity:
        raise ValueError(f"keys must be at most capacity ({config.capacity}), not {tokens}")
    checked = np.asarray(exp_tables)
    limit = 1 << config.value_bits - 1
    for name, array, shape, least, most in (
            ("elements", values.elements, (kv_heads, tokens, config.value_dim), -limit, limit - 1),
            ("scales", values.scales, (kv_heads, tokens), 0, (1 << SCALE_BITS) - 1),
            ("exp_tables", checked, (heads, config.key_bits + 1), 0,
             (1 << config.weight_bits) - 1)):
        _check_array(name, array, shape, least, most)
    if not checked[:, 0].all():
        raise ValueError("exp_tables must not have a 0 at distance 0")
    return checked


def attend_one(q_code: int, k_codes: Sequence[int], elements: ArrayLike, scales: ArrayLike,
               exp_table: ArrayLike, *, config: Config, count: int | None = None, first: int = 0,
               n: int, sink: int = 0, recent: int = 0,
               rescore: RescoreOperands | None = None) -> Result:
    """:func:`attend` for one query, with codes as Python integers: for benches of the hardware.

    Parameters
    ----------
    q_code
        The query's code.
    k_codes
        The codes in the store, one per token.
    elements, scales
        Integers [tokens, value_dim] and [tokens].
    exp_table
        Integers [key_bits + 1].
    count
        Number of keys, from ``first`` on, that the query may see; None for all of them.
    config, first, n, sink, recent
        As for :func:`attend`.
    rescore
        As for :func:`attend`, with one head and one query.

    Returns
    -------
    Result
        Without the axes of heads and queries, and without padding: output_int [value_dim] and the
        others [m].
    """
    store = codes_from_ints(k_codes, config.key_bits)
    result = attend(
        codes_from_ints([q_code], config.key_bits)[None], store[None],
        Values(_integers(elements, "elements")[None], _integers(scales, "scales")[None]),
        _integers(exp_table, "exp_table")[None], config=config, first=first,
        counts=len(k_codes) - first if count is None else operator.index(count),
        n=n, sink=sink, recent=recent, rescore=rescore)
    return Result(result.output_int[0, 0], result.selected[0, 0], result.distances[0, 0],
                  result.weights[0, 0], None if result.scores is None else result.scores[0, 0])


def error_bound(config: Config, selected: int) -> float:
    """Bound the error of an output against exact softmax (contract, items 4 to 8).

    ``|output_int / 2**F - e| <= V * (3 * m - 2) / (2 * W) + 2**-(F + 1)`` with
    ``V = 2**(value_bits - 1)``, ``W = 2**weight_bits - 1``, ``F = output_fraction_bits``, and
    ``e`` the softmax, in real numbers, of ``-2 * logit_scale * distance`` over the same m keys,
    of the same integer elements times ``scale / 65536``. docs/numerics.md derives it.

    Parameters
    ----------
    config
        Widths.
    selected
        Number of keys m that the query selected, at least 1.

    Returns
    -------
    float
        In units of an element; times the head's :attr:`nearbit_model.quantize.Values.unit` it
        bounds the dequantized output.
    """
    if selected < 1:
        raise ValueError(f"selected must be at least 1, not {selected}")
    largest_value = 1 << config.value_bits - 1
    largest_weight = (1 << config.weight_bits) - 1
    return (largest_value * (3 * selected - 2) / (2 * largest_weight)
            + 2.0 ** -(config.output_fraction_bits + 1))
