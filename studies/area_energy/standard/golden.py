"""Golden model of standard attention: what :mod:`studies.area_energy.standard.design` computes.

It shares no code with :mod:`nearbit_model`, and no helper with the hardware.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


__all__ = ["Operands", "attend", "multiplier_shift", "quantize"]


OCTAVE_BITS = 8 # a weight halves in 2**8 steps
MULTIPLIER_BITS = 16


def multiplier_shift(element_bits: int) -> int:
    """Fraction bits of a query's multiplier: 18 for elements of 8 bits, 34 for 16."""
    return 2 * element_bits + 2


@dataclass(frozen=True)
class Operands:
    """Quantized queries and keys.

    Parameters
    ----------
    queries
        Integers [heads, queries, head_dim].
    keys
        Integers [heads, tokens, head_dim].
    multipliers
        Integers [heads, queries], 16 bits: octaves of weight in a unit of the score, times
        ``2**(8 + shift)``, shift as in :func:`multiplier_shift`.
    """

    queries: NDArray[np.int64]
    keys: NDArray[np.int64]
    multipliers: NDArray[np.int64]


def quantize(q: NDArray[Any], k: NDArray[Any], element_bits: int) -> Operands:
    """Quantize real queries [heads, queries, head_dim] and keys [kv_heads, tokens, head_dim].

    Steps are the largest absolute value by ``2**(element_bits - 1) - 1``, of each query and of each
    key head. Elements are rounded to the nearest, ties to even. The multiplier is such that the
    weights are those of the softmax of ``q.k / sqrt(head_dim)``, and is clipped to 16 bits.
    """
    largest = 2 ** (element_bits - 1) - 1
    keys = np.repeat(np.asarray(k, np.float64), len(q) // len(k), axis=0)
    queries = np.asarray(q, np.float64)
    key_step = np.abs(keys).max(axis=(1, 2), keepdims=True) / largest
    query_step = np.abs(queries).max(axis=2, keepdims=True) / largest
    scale = 2.0 ** (OCTAVE_BITS + multiplier_shift(element_bits))
    exponent = (query_step * key_step)[..., 0] * np.log2(np.e) / np.sqrt(q.shape[2])
    return Operands(
        np.rint(queries / query_step).astype(np.int64), np.rint(keys / key_step).astype(np.int64),
        np.clip(np.rint(exponent * scale), 0, 2 ** MULTIPLIER_BITS - 1).astype(np.int64))


def attend(query: NDArray[Any], keys: NDArray[Any], multiplier: int, elements: NDArray[Any],
           scales: NDArray[Any], *, element_bits: int, weight_bits: int, scale_bits: int,
           output_fraction_bits: int) -> NDArray[np.int64]:
    """Attention of one query to all given keys, in integers.

    ``s[i] = q.k[i]``; ``t[i] = ((max(s) - s[i]) * multiplier) >> shift``;
    ``w[i] = exp2[t[i] % 256] >> (t[i] // 256)``, and 0 once ``t[i] // 256 >= weight_bits``;
    ``exp2[f] = rint((2**weight_bits - 1) * 2**(-f / 256))``; ``Z = sum w[i]``;
    ``u[i] = (w[i] * scales[i] + 2**(scale_bits - 1)) >> scale_bits``;
    ``output[j] = floor((sum_i(u[i] * elements[i, j]) * 2**F + floor(Z / 2)) / Z)``, F the output's
    fraction bits.

    Parameters
    ----------
    query
        Integers [head_dim], of ``element_bits`` bits.
    keys
        Integers [tokens, head_dim], the same; at least one key.
    multiplier
        0 to 2**16 - 1.
    elements
        Value vectors, integers [tokens, value_dim].
    scales
        Their scales, integers [tokens], 0 to 2**scale_bits - 1.

    Returns
    -------
    int64 [value_dim]
    """
    scores = keys.astype(np.int64) @ query.astype(np.int64)
    behind = (scores.max() - scores).astype(object) # the product may need more than 64 bits
    steps = behind * int(multiplier) >> multiplier_shift(element_bits)
    largest = 2 ** weight_bits - 1
    exp2 = [round(largest * 2 ** (-step / 2 ** OCTAVE_BITS)) for step in range(2 ** OCTAVE_BITS)]
    weights = np.array([exp2[step % 2 ** OCTAVE_BITS] >> min(step >> OCTAVE_BITS, weight_bits)
                        for step in steps], np.int64)
    total = int(weights.sum())
    scaled = (weights * scales.astype(np.int64) + 2 ** (scale_bits - 1)) >> scale_bits
    sums = scaled @ elements.astype(np.int64)
    return np.array([((int(x) << output_fraction_bits) + total // 2) // total for x in sums],
                    np.int64)
