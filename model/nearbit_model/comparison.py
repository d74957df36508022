"""Where the hardware's answer differs from the golden model's."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearbit_model.attention import Attention


__all__ = ["ARRAYS", "differing"]


ARRAYS = ("selected", "distances", "scores", "weights", "output_int")
"""Arrays that must be equal bit for bit, in the order in which they are computed."""

# Padding where a query selected fewer keys, unless it is -1.
_ABSENT = {"scores": 0}


def differing(found: Any, golden: Attention, *, heads: slice = slice(None),
              trace: bool = True) -> dict[str, NDArray[np.bool_]]:
    """Compare two answers to the same queries, element by element.

    Parameters
    ----------
    found
        An object with the arrays of :class:`~nearbit_model.attention.Attention`.
    golden
        The golden model's answer.
    heads
        Which heads to compare.
    trace
        Whether to compare selected keys, distances, scores and weights, too.

    Returns
    -------
    dict
        For each of :data:`ARRAYS` that the golden model has: bool [heads, queries, elements], true
        where the elements differ. An array with fewer elements per query is padded.
    """
    names = [name for name in (ARRAYS if trace else ARRAYS[-1:])
             if getattr(golden, name) is not None]
    return {name: np.not_equal(*_same_width(
        getattr(found, name)[heads], getattr(golden, name)[heads], _ABSENT.get(name, -1)))
        for name in names}


def _same_width(ours: NDArray[Any], theirs: NDArray[Any], absent: int
               ) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pad the narrower of two arrays [heads, queries, elements]."""
    width = max(ours.shape[-1], theirs.shape[-1])
    ours, theirs = (np.pad(x, ((0, 0), (0, 0), (0, width - x.shape[-1])), constant_values=absent)
                    for x in (ours, theirs))
    return ours, theirs
