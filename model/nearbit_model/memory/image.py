"""The bytes of a memory with the cache of all heads, written and read back token by token."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearbit_model.memory.layout import LayoutError, Octets
from nearbit_model.memory.plan import MemoryPlan


__all__ = ["MemoryImage", "Tokens"]


@dataclass(frozen=True)
class Tokens:
    """What a head's cache holds of some tokens.

    Attributes
    ----------
    codes
        uint64 [tokens, ceil(key_bits / 64)].
    values
        Elements of the value vectors, int8 or int16 [tokens, value_dim].
    scales
        Their scales, uint16 [tokens].
    keys
        Elements of the rescore keys, int8 or int16 [tokens, head_dim]; None without a rescoring
        unit.
    """

    codes: NDArray[np.uint64]
    values: NDArray[Any]
    scales: NDArray[np.uint16]
    keys: NDArray[Any] | None = None


class MemoryImage:
    """A memory's bytes.

    What was not written is not read: which places of which head were is kept beside the bytes.

    Parameters
    ----------
    plan
        Where the heads lie.
    octets
        The bytes from ``plan.origin`` on, uint8; used as they are, not copied. None makes as many
        as the plan needs, all 0.
    """

    def __init__(self, plan: MemoryPlan, octets: Octets | None = None):
        """Check that the plan fits the bytes."""
        if octets is None:
            octets = np.zeros(plan.size, np.uint8)
        if octets.dtype != np.uint8 or octets.ndim != 1:
            raise LayoutError(f"a memory must be uint8 [bytes], not {octets.dtype} of shape "
                              f"{list(octets.shape)}")
        if len(octets) < plan.size:
            raise LayoutError(f"the cache takes {plan.size} bytes, and the memory has "
                              f"{len(octets)}")
        self._plan = plan
        self._octets = octets
        self._written = np.zeros((len(plan.heads), plan.places), np.bool_)

    @property
    def plan(self) -> MemoryPlan:
        """Where the heads lie."""
        return self._plan

    @property
    def octets(self) -> Octets:
        """The bytes, from ``plan.origin`` on."""
        return self._octets

    def write(self, head: int, pages: ArrayLike, first: int, codes: NDArray[np.uint64],
              values: ArrayLike, scales: ArrayLike, keys: ArrayLike | None = None) -> None:
        """Write tokens of a sequence into a head's cache; nothing if an argument is wrong.

        Parameters
        ----------
        head
            Number of the head.
        pages
            Numbers of the sequence's pages in their order.
        first
            The first token.
        codes
            uint64 [tokens, ceil(key_bits / 64)].
        values, scales, keys
            Integers [tokens, value_dim], [tokens] and [tokens, head_dim], as of
            :meth:`MemoryLayout.pack_rows`.

        Raises
        ------
        LayoutError
            Arrays that do not fit the configuration or each other, or tokens and pages as of
            :meth:`MemoryPlan.places_of`.
        """
        layout = self._plan.layout
        code_octets, row_octets = layout.pack_codes(codes), layout.pack_rows(values, scales, keys)
        if code_octets.ndim != 2 or row_octets.ndim != 2 or len(code_octets) != len(row_octets):
            raise LayoutError(f"codes and rows must be of the same tokens, not {list(codes.shape)} "
                              f"codes and {list(np.shape(scales))} scales")
        places = self._plan.places_of(pages, first, len(code_octets))
        in_codes, in_rows = self._views(head)
        in_codes[places] = code_octets
        in_rows[places, :layout.row_bytes] = row_octets
        self._written[head, places] = True

    def mark(self, head: int, pages: ArrayLike, first: int, count: int) -> None:
        """Take tokens as written; of bytes that someone else wrote, the core for example.

        :class:`LayoutError` as of :meth:`MemoryPlan.places_of`.
        """
        self._plan.head(head)
        self._written[head, self._plan.places_of(pages, first, count)] = True

    def read(self, head: int, pages: ArrayLike, first: int, count: int) -> Tokens:
        """Read tokens of a sequence from a head's cache.

        :class:`LayoutError` as of :meth:`MemoryPlan.places_of`, or if a token was not written.
        """
        self._plan.head(head)
        places = self._plan.places_of(pages, first, count)
        is_missing = ~self._written[head, places]
        if is_missing.any():
            raise LayoutError(f"token {first + int(np.argmax(is_missing))} of head {head} was not "
                              f"written")
        layout = self._plan.layout
        in_codes, in_rows = self._views(head)
        rows = layout.unpack_rows(in_rows[places, :layout.row_bytes])
        return Tokens(layout.unpack_codes(in_codes[places]), rows.values, rows.scales, rows.keys)

    def _views(self, number: int) -> tuple[Octets, Octets]:
        """A head's codes and rows in the memory, [places, code_bytes] and [places, stride]."""
        plan, head = self._plan, self._plan.head(number)

        def part(start: int, size: int) -> Octets:
            at = start - plan.origin
            return self._octets[at:at + plan.places * size].reshape(plan.places, size)

        return part(head.codes, plan.layout.code_bytes), part(head.rows, head.stride)
