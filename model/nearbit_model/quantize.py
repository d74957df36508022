"""From floats to the integers of the numeric contract, and back.

Every function here is deterministic and works on any leading axes (heads). Inputs are refused with
a :class:`ValueError` of one sentence if they hold a NaN, an infinity, a number beyond float32's
range, or anything but real numbers.

Codes, logit_scale and weights are those of Hamming Attention Distillation (HAD,
arXiv 2502.01770); the operands of rescoring are for HashAttention (arXiv 2412.14468).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearbit_model.config import DECAY_BITS, MULTIPLIER_BITS, MULTIPLIER_SHIFT, SCALE_BITS


__all__ = ["RescoreOperands", "Values", "codes", "codes_from_ints", "codes_to_ints",
           "rescore_operands", "outputs",
           "rotate", "rotate_back", "logit_scale", "values", "exp_table"]


WORD_BITS = 64
SCALE_MAX = (1 << SCALE_BITS) - 1
FLOAT32_MAX = float(np.finfo(np.float32).max)


def real_array(x: ArrayLike, name: str) -> NDArray[Any]:
    """Return ``x`` as an array of finite real numbers in float32's range, with its own dtype.

    :class:`ValueError` names ``name`` and what is wrong. The range keeps squares and quotients
    within float64, in which everything is computed.
    """
    array = np.asarray(x)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must hold real numbers, not {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, but has {array[where]} at index {list(where)}")
    if array.dtype.itemsize > 4 and np.abs(array).max(initial=0) > FLOAT32_MAX:
        raise ValueError(f"{name} must be within the range of float32")
    return array


def codes(x: ArrayLike) -> NDArray[np.uint64]:
    """Compute sign codes: bit j is 1 where element j is greater than 0.

    Parameters
    ----------
    x
        Queries or keys, real numbers [..., dim], dim at least 1.

    Returns
    -------
    uint64 [..., ceil(dim / 64)]
        Element j is bit j % 64 of word j // 64; the bits above the last element are 0.

    Raises
    ------
    ValueError
        ``x`` holds a NaN, an infinity, or no real numbers, or has no elements.
    """
    array = real_array(x, "x")
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"x must have at least one element in its last axis, not shape "
                         f"{array.shape}")
    octets = np.packbits(array > 0, axis=-1, bitorder="little")
    padding = -octets.shape[-1] % (WORD_BITS // 8)
    octets = np.pad(octets, [(0, 0)] * (array.ndim - 1) + [(0, padding)])
    return np.ascontiguousarray(octets).view("<u8").astype(np.uint64)


def codes_from_ints(numbers: Sequence[int], key_bits: int) -> NDArray[np.uint64]:
    """Pack codes given as integers (bit j = element j) into ``uint64 [len(numbers), words]``.

    :class:`ValueError` if a number is negative or has more than ``key_bits`` bits.
    """
    for number in numbers:
        if not 0 <= number < 1 << key_bits:
            raise ValueError(f"a code must be from 0 to 2**{key_bits} - 1, not {number}")
    words = -(-key_bits // WORD_BITS)
    octets = b"".join(int(number).to_bytes(words * WORD_BITS // 8, "little")
                      for number in numbers)
    return np.frombuffer(octets, "<u8").astype(np.uint64).reshape(len(numbers), words)


def codes_to_ints(packed: NDArray[np.uint64]) -> list[int]:
    """Return the codes ``uint64 [n, words]`` as Python integers, bit j = element j."""
    return [int.from_bytes(row.astype("<u8").tobytes(), "little") for row in packed]


# Rotation of value vectors. A few elements far larger than the rest of their vector make its scale
# too coarse for all the others. In a basis that mixes all elements, no vector of a real head
# has such outliers. The rotation is a Walsh-Hadamard transform after sign changes by the
# Rudin-Shapiro sequence: without the signs, a vector of equal elements would become a single large
# element, and this sequence spreads it most evenly. All factors are +-1 until the one division at
# the end, so sums of float16 elements are exact, and the integers are the same on every machine.


def _hadamard(dim: int) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Signs [size], transform [size, size], norm for the largest power of two dividing ``dim``."""
    index = np.arange(dim & -dim)
    parity = np.array([1.0, -1.0])
    signs = parity[np.bitwise_count(index & index >> 1) & 1]
    transform = parity[np.bitwise_count(index[:, None] & index) & 1]
    return signs, transform, float(np.sqrt(len(index)))


def rotate(v: ArrayLike) -> NDArray[np.float64]:
    """Rotate value vectors into a basis in which they have no outliers.

    An orthonormal transform of each block of elements; a block's size is the largest power of two
    that divides dim (for an odd dim, the transform is the identity). Attention commutes with it,
    because an output is a sum of value vectors: rotate the values, and :func:`rotate_back` the
    outputs. A model can fold the first into its value projection and the second into its output
    projection.

    Parameters
    ----------
    v
        Real numbers [..., dim].

    Returns
    -------
    float64 [..., dim]
        Vectors of the same Euclidean norm.
    """
    rows = np.asarray(v, np.float64)
    signs, transform, norm = _hadamard(rows.shape[-1])
    blocks = rows.reshape(*rows.shape[:-1], -1, len(signs))
    return np.asarray(((blocks * signs) @ transform / norm).reshape(rows.shape), np.float64)


def rotate_back(x: ArrayLike) -> NDArray[np.float64]:
    """Undo :func:`rotate`, real numbers [..., dim] to float64 of the same shape."""
    rows = np.asarray(x, np.float64)
    signs, transform, norm = _hadamard(rows.shape[-1])
    blocks = rows.reshape(*rows.shape[:-1], -1, len(signs))
    return np.asarray((blocks @ transform / norm * signs).reshape(rows.shape), np.float64)


@dataclass(frozen=True)
class Values:
    """Quantized value vectors: vector i stands for ``elements[i] * scales[i] / 65536 * unit``.

    Parameters
    ----------
    elements
        Integers of ``bits`` bits, two's complement [..., tokens, dim]: int8 up to 8 bits, else
        int16.
    scales
        Each vector's unsigned scale, uint16 [..., tokens].
    unit
        The value that a scale of 65,536 and an element of 1 represent, float64 [...]: one number
        per head. 0 for a head in which every value is 0.
    saturated
        Number of vectors for which a given unit was too small, int64 [...]; 0 where the unit was
        chosen here.
    rotated
        Whether the vectors, and so the outputs, are in the basis of :func:`rotate`.
    """

    elements: NDArray[Any]
    scales: NDArray[np.uint16]
    unit: NDArray[np.float64] = field(default_factory=lambda: np.ones(()))
    saturated: NDArray[np.int64] = field(default_factory=lambda: np.zeros((), np.int64))
    rotated: bool = False

    def dequantized(self) -> NDArray[np.float64]:
        """The vectors as real numbers in the basis of v, float64 [..., tokens, dim]."""
        factors = self.scales / float(1 << SCALE_BITS) * self.unit[..., None]
        rows = np.asarray(self.elements * factors[..., None], np.float64)
        return rotate_back(rows) if self.rotated else rows


def values(v: ArrayLike, bits: int = 8, *, unit: ArrayLike | None = None,
           rotated: bool = False) -> Values:
    """Quantize value vectors with one scale per vector.

    With ``real_scale = max|v| / (2**(bits-1) - 1)``, ``elements = rint(v / real_scale)`` and
    ``scales = rint(65535 * real_scale / max real_scale of the head)``. Ties round to even. A vector
    of zeros has elements and scale 0, as has one whose real_scale is below float64's normal
    numbers.

    A decode loop fixes ``unit`` before the first append and passes it to every call; take it from
    a call on the prompt, with headroom, such as ``2 * values(prompt).unit``. Scales are then
    ``rint(65536 * real_scale / unit)``. A vector whose scale would exceed 65,535 saturates: it
    keeps the scale 65,535, its elements are clipped to +-(2**(bits-1) - 1), and it is counted.

    Parameters
    ----------
    v
        Value vectors, real numbers [..., tokens, dim], no axis empty.
    bits
        Bits of an element, 2 to 16.
    unit
        Fixed unit, positive; a number or an array that broadcasts to the axes before tokens.
    rotated
        Whether to :func:`rotate` the vectors first.

    Returns
    -------
    Values
        Integers, scales, unit and the number of saturated vectors.

    Raises
    ------
    ValueError
        A NaN, an infinity, no real numbers, an empty axis, or a unit or ``bits`` out of range.
    """
    array = real_array(v, "v")
    if array.ndim < 2 or 0 in array.shape:
        raise ValueError(f"v must be [..., tokens, dim] with no axis empty, not shape "
                         f"{array.shape}")
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must be from 2 to 16, not {bits}")
    largest = (1 << bits - 1) - 1
    heads = array.shape[:-2]

    elements = np.empty(array.shape, np.int8 if bits <= 8 else np.int16)
    scales = np.empty(array.shape[:-1], np.uint16)
    units = np.empty(heads, np.float64)
    saturated = np.zeros(heads, np.int64)
    if unit is not None:
        given = real_array(unit, "unit").astype(np.float64)
        if not (given > 0).all():
            raise ValueError(f"unit must be greater than 0, not {given.min()}")
        units[...] = given

    # Head by head, as a float64 copy of all heads would take the most memory.
    for head in np.ndindex(heads):
        rows = rotate(array[head]) if rotated else array[head].astype(np.float64)
        real_scale = np.abs(rows).max(axis=-1) / largest
        real_scale[real_scale < np.finfo(np.float64).tiny] = 0
        if unit is None:
            units[head] = real_scale.max() / SCALE_MAX * (1 << SCALE_BITS)
        step = np.where(real_scale > 0, real_scale, np.inf)
        if units[head] > 0:
            # A vector far beyond a tiny unit overflows to infinity, and is clipped like any other.
            with np.errstate(over="ignore"):
                scale = np.rint(real_scale / units[head] * (1 << SCALE_BITS))
                beyond = scale > SCALE_MAX
                saturated[head] = beyond.sum()
                scales[head] = np.minimum(scale, SCALE_MAX)
                step[beyond] = units[head] / (1 << SCALE_BITS) * SCALE_MAX
        else:
            scales[head] = 0
        with np.errstate(over="ignore"):
            elements[head] = np.clip(np.rint(rows / step[:, None]), -largest, largest)
    return Values(elements, scales, units, saturated, rotated)


# Rescoring. Rotating queries and keys alike preserves q.k and spreads the few elements that are
# much larger than all others. These limit how fine the keys' step can be: all keys must share one,
# as a query has a single multiplier for all of them. A query may have its own step, which goes into
# its multiplier.


@dataclass(frozen=True)
class RescoreOperands:
    """Quantized operands of rescoring (contract, item 5).

    Parameters
    ----------
    queries
        int8 or int16 [heads, queries, head_dim].
    keys
        int8 or int16 [kv_heads, tokens, head_dim]; head h uses ``keys[h // (heads // kv_heads)]``.
    multipliers
        uint32 [heads, queries]: the worth of a unit of the integer score, in units of
        ``2**-24 / 256`` octaves of the weight.
    step
        Step of each key head's elements, float64 [kv_heads].
    saturated
        Number of keys that a given step was too small for, and that were clipped, int64
        [kv_heads].
    rotated
        Whether queries and keys are in the basis of :func:`rotate`.
    """

    queries: NDArray[Any]
    keys: NDArray[Any]
    multipliers: NDArray[np.uint32]
    step: NDArray[np.float64] = field(default_factory=lambda: np.ones(()))
    saturated: NDArray[np.int64] = field(default_factory=lambda: np.zeros((), np.int64))
    rotated: bool = False


def rescore_operands(q: ArrayLike, k: ArrayLike, bits: int = 8, *, step: ArrayLike | None = None,
                     rotated: bool = True) -> RescoreOperands:
    """Quantize queries, each with its own step, and keys, with one step per head.

    With ``L = 2**(bits - 1) - 1``, the step of a query is ``max|q| / L``, that of a key head
    ``max|k| / L``, and elements are ``rint(x / step)``, ties to even. A query's multiplier is
    ``rint(2**24 * 256 * log2(e) * query step * key step / sqrt(head_dim))``, so that its softmax
    is that of ``q.k / sqrt(head_dim)``.

    Parameters
    ----------
    q
        Queries, real numbers [heads, queries, head_dim].
    k
        Keys, real numbers [kv_heads, tokens, head_dim].
    bits
        Bits of an element, 2 to 16. The multiplier has 32 bits for every range of logits; with
        elements of more than 13 bits, its own rounding becomes noticeable.
    step
        The keys' step, positive, if already fixed (a decode loop fixes it with headroom before the
        first append): a number, or [kv_heads]. Keys beyond it are clipped and counted.
    rotated
        Whether to :func:`rotate` both first.

    Returns
    -------
    RescoreOperands

    Raises
    ------
    ValueError
        There is a NaN, an infinity, no real numbers, axes that do not fit, ``bits`` or ``step`` out
        of range, or queries and keys so large that a multiplier would need more than 32 bits.
    """
    queries, keys = real_array(q, "q"), real_array(k, "k")
    if queries.ndim != 3 or keys.ndim != 3 or queries.shape[2] != keys.shape[2] \
            or 0 in queries.shape or 0 in keys.shape:
        raise ValueError(f"q and k must be [heads, n, head_dim] with the same head_dim and no "
                         f"axis empty, not shapes {queries.shape} and {keys.shape}")
    group = group_size(len(queries), len(keys))
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must be from 2 to 16, not {bits}")
    largest = (1 << bits - 1) - 1
    kind = np.int8 if bits <= 8 else np.int16

    steps = np.empty(len(keys))
    if step is not None:
        given = real_array(step, "step").astype(np.float64)
        if not (given > 0).all():
            raise ValueError(f"step must be greater than 0, not {given.min()}")
        steps[...] = given
    saturated = np.zeros(len(keys), np.int64)
    key_elements = np.empty(keys.shape, kind)
    for head, rows in enumerate(keys):
        real = rotate(rows) if rotated else rows.astype(np.float64)
        if step is None:
            steps[head] = _normal(np.abs(real).max() / largest)
        # Keys far beyond a tiny step overflow to infinity, and are clipped like any other.
        with np.errstate(over="ignore"):
            elements = np.rint(real / steps[head]) if steps[head] > 0 else np.zeros(real.shape)
        saturated[head] = (np.abs(elements).max(axis=-1) > largest).sum()
        key_elements[head] = np.clip(elements, -largest, largest)

    query_elements = np.empty(queries.shape, kind)
    multipliers = np.empty(queries.shape[:2], np.uint32)
    unit = (1 << MULTIPLIER_SHIFT + DECAY_BITS) * np.log2(np.e) / np.sqrt(queries.shape[2])
    for head, rows in enumerate(queries):
        real = rotate(rows) if rotated else rows.astype(np.float64)
        query_steps = _normal(np.abs(real).max(axis=-1) / largest)
        divisors = np.where(query_steps > 0, query_steps, np.inf)
        query_elements[head] = np.rint(real / divisors[:, None])
        wanted = np.rint(query_steps * steps[head // group] * unit)
        if wanted.max() >= 1 << MULTIPLIER_BITS:
            raise ValueError(f"q and k of head {head} are too large for rescoring of "
                             f"{bits} bits: one step of a score would be worth "
                             f"{wanted.max() / (1 << MULTIPLIER_SHIFT + DECAY_BITS):.3g} octaves "
                             f"of a weight, but may be at most 1")
        multipliers[head] = wanted
    return RescoreOperands(query_elements, key_elements, multipliers, steps, saturated, rotated)


def _normal(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace steps below float64's normal numbers by 0, as their quotients would be inexact."""
    return np.where(steps < np.finfo(np.float64).tiny, 0, steps)


def logit_scale(q: ArrayLike, k: ArrayLike) -> NDArray[np.float64]:
    """Compute HAD's logit scale per head: ``std(q) * std(k) / sqrt(head_dim)`` (arXiv 2502.01770).

    The standard deviations are over all elements of the head's q and of its k, in float64. The
    logit of a key at Hamming distance h is ``logit_scale * (head_dim - 2 * h)``.

    Parameters
    ----------
    q
        Queries, real numbers [heads, queries, head_dim].
    k
        Keys, real numbers [kv_heads, tokens, head_dim]; head h uses
        ``k[h // (heads // kv_heads)]``.

    Returns
    -------
    float64 [heads]
        At least 0.

    Raises
    ------
    ValueError
        A NaN, an infinity, no real numbers, or kv_heads that do not divide heads.
    """
    queries, keys = real_array(q, "q"), real_array(k, "k")
    group = group_size(len(queries), len(keys))
    of_q = np.array([np.std(head, dtype=np.float64) for head in queries])
    of_k = np.array([np.std(head, dtype=np.float64) for head in keys])
    return np.asarray(of_q * np.repeat(of_k, group) / np.sqrt(queries.shape[-1]), np.float64)


def group_size(heads: int, kv_heads: int) -> int:
    """Return how many query heads share a key head (grouped-query attention)."""
    if kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"kv heads ({kv_heads}) must divide heads ({heads})")
    return heads // kv_heads


def exp_table(logit_scale: ArrayLike, key_bits: int,
              weight_bits: int = 16) -> NDArray[np.uint32]:
    """Compute softmax weights by distance relative to the nearest selected key.

    ``table[d] = rint((2**weight_bits - 1) * exp(-2 * logit_scale * d))``: each further bit of
    distance lowers HAD's binary logit by ``2 * logit_scale`` (arXiv 2502.01770).

    Parameters
    ----------
    logit_scale
        Real numbers of any shape [...], finite and at least 0.
    key_bits
        Bits of a code: the largest distance.
    weight_bits
        Bits of a weight, 2 to 24.

    Returns
    -------
    uint32 [..., key_bits + 1]
        Descending, 2**weight_bits - 1 at distance 0, each entry exact to half a unit.

    Raises
    ------
    ValueError
        A logit_scale that is negative or not finite.
    """
    scale = real_array(logit_scale, "logit_scale").astype(np.float64)
    if (scale < 0).any():
        raise ValueError(f"logit_scale must be at least 0, not {scale.min()}")
    exponents = -2 * scale[..., None] * np.arange(key_bits + 1)
    weights = np.rint(((1 << weight_bits) - 1) * np.exp(exponents))
    return np.asarray(weights.astype(np.uint32))


def outputs(output_int: NDArray[np.int32], unit: ArrayLike, fraction_bits: int, *,
            rotated: bool = False) -> NDArray[np.float32]:
    """Dequantize outputs: ``output_int * unit / 2**fraction_bits``.

    Parameters
    ----------
    output_int
        Integer outputs, int32 [..., queries, value_dim].
    unit
        :attr:`Values.unit` of each head [...], or one number for all.
    fraction_bits
        ``output_fraction_bits`` of the configuration.
    rotated
        :attr:`Values.rotated`: whether to :func:`rotate_back` the outputs.

    Returns
    -------
    float32 [..., queries, value_dim]
    """
    factor = np.asarray(unit, np.float64) / (1 << fraction_bits)
    real = output_int * factor[..., None, None]
    return (rotate_back(real) if rotated else real).astype(np.float32)
