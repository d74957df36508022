"""Golden model of :mod:`nearbit_hw.score.popcount`, and distances between packed codes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


__all__ = ["distances", "hamming"]


def hamming(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Count the positions where ``a`` and ``b`` differ, element by element.

    Arrays of words (``uint64``), broadcast against each other; each result is 0 to 64.

    Examples
    --------
    >>> import numpy as np
    >>> from nearbit_model.popcount import hamming
    >>> hamming(np.uint64(0b1100), np.array([0b1010, 0b1100], np.uint64)).tolist()
    [2, 0]
    """
    return np.asarray(np.bitwise_count(a ^ b))


def distances(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.int32]:
    """Compute Hamming distances between codes of one or more words, the last axis of both arrays.

    Parameters
    ----------
    a, b
        Codes packed as by :func:`nearbit_model.quantize.codes`, ``uint64 [..., words]``; the axes
        before the last are broadcast against each other.

    Returns
    -------
    int32 [...]
        Bits that differ, 0 to 64 * words.
    """
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"codes must have equally many words, not {a.shape[-1]} and "
                         f"{b.shape[-1]}")
    # Word by word, so that no temporary array exceeds 8 bytes per element of the result.
    total: NDArray[Any] = np.zeros(np.broadcast_shapes(a.shape[:-1], b.shape[:-1]), np.int32)
    for word in range(a.shape[-1]):
        total += hamming(a[..., word], b[..., word])
    return total
