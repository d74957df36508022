"""Lists of indices as they are written on the command line."""

import re

import numpy as np
from numpy.typing import NDArray

from nearbit_model.errors import NearbitError


__all__ = ["IndexListError", "parse"]


_NUMBER = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")
_SLICE = re.compile(r"(-?[0-9]{1,18})?:(-?[0-9]{1,18})?(?::([0-9]{1,18}))?")


class IndexListError(NearbitError, ValueError):
    """A list of indices that cannot be understood; the message is one sentence."""


def parse(text: str, size: int, what: str) -> NDArray[np.int64]:
    """Read a list such as ``0,4-7,16:32:4`` into ascending indices, each once.

    Separated by commas, in any order: a number; ``a-b``, both ends included; ``a:b`` or ``a:b:s``
    as in Python, so without b, with either end left out or counted from the end (``-8:``).

    Parameters
    ----------
    text
        The list.
    size
        How many there are to choose from.
    what
        What they are, in the plural, for the message.

    Examples
    --------
    >>> from nearbit.indices import parse
    >>> parse("0,4-6,-2:", 16, "heads").tolist()
    [0, 4, 5, 6, 14, 15]
    """
    chosen: set[int] = set()
    for part in text.split(","):
        item = part.strip()
        if match := _SLICE.fullmatch(item):
            start, stop, step = (None if end is None else int(end) for end in match.groups())
            if step == 0:
                raise IndexListError(f"{what}: the step of {item!r} is 0")
            # Python is silent about an end past the last.
            if stop is not None and stop > size:
                raise IndexListError(f"{what}: there is no {stop - 1}, they are 0 to {size - 1}")
            picked = range(size)[start:stop:step]
        elif match := _RANGE.fullmatch(item):
            picked = range(int(match[1]), int(match[2]) + 1)
        elif _NUMBER.fullmatch(item):
            picked = range(int(item), int(item) + 1)
        else:
            raise IndexListError(f"{what}: {item!r} is neither a number nor a range such as "
                                 f"0-3 or 0:64:8")
        if not picked:
            raise IndexListError(f"{what}: {item!r} is empty")
        if picked[-1] >= size:
            raise IndexListError(f"{what}: there is no {picked[-1]}, they are 0 to {size - 1}")
        chosen.update(picked)
    return np.array(sorted(chosen), dtype=np.int64)
