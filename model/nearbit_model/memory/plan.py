"""Where the codes and rows of heads lie in a memory, and what the core's tables say of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearbit_model.config import Config
from nearbit_model.memory.layout import LayoutError, MemoryLayout


__all__ = ["HeadPlace", "MemoryPlan", "plan_memory"]


@dataclass(frozen=True)
class HeadPlace:
    """Where a head lies; all in bytes.

    Attributes
    ----------
    codes
        Address of the code of place 0, a multiple of ``memory.burst_bytes``.
    rows
        Address of the row of place 0, a multiple of 16 bytes and of a beat.
    stride
        From one row to the next, a multiple of the same.
    """

    codes: int
    rows: int
    stride: int


@dataclass(frozen=True)
class MemoryPlan:
    """Addresses of the codes and rows of heads.

    :class:`LayoutError` on construction if an address or a stride is none that the core could have
    in its tables, if one part reaches beyond the addresses, or if two parts overlap.

    Attributes
    ----------
    layout
        How codes and rows are made up.
    heads
        Where each head lies; no more than ``memory.heads``, and those that follow are not set.
    origin
        The first address that may be used.
    """

    layout: MemoryLayout
    heads: tuple[HeadPlace, ...]
    origin: int = 0

    def __post_init__(self) -> None:
        """Check that the core can be told of it."""
        memory, layout = self.layout.memory, self.layout
        if not 1 <= len(self.heads) <= memory.heads:
            raise LayoutError(f"a plan has from 1 to {memory.heads} heads (memory.heads), not "
                              f"{len(self.heads)}")
        for number, head in enumerate(self.heads):
            for name, value, unit in (("codes", head.codes, layout.code_unit),
                                      ("rows", head.rows, layout.row_unit),
                                      ("stride", head.stride, layout.row_unit)):
                if value % unit:
                    raise LayoutError(f"{name} of head {number} must be a multiple of {unit} "
                                      f"bytes, not {value}")
            _check_stride(layout, head.stride)
        self._check_parts()

    def _check_parts(self) -> None:
        """Check that codes and rows lie within the addresses, beside each other."""
        end, last = self.origin, ""
        limit = 1 << self.layout.memory.address_bits
        if not 0 <= end < limit:
            raise LayoutError(f"origin must be from 0 to {limit - 1}, not {end}")
        parts = []
        for number, head in enumerate(self.heads):
            parts += [(head.codes, self.code_bytes, f"codes of head {number}"),
                      (head.rows, self.places * head.stride, f"rows of head {number}")]
        for start, size, name in sorted(parts):
            if start < end:
                raise LayoutError(f"{name} begin at {start:#x}, but {last} reach to {end:#x}"
                                  if last else
                                  f"{name} begin at {start:#x}, before the origin, {end:#x}")
            end, last = start + size, name
        if end > limit:
            raise LayoutError(
                f"{last} reach to {end:#x}, beyond the addresses of {limit:#x} bytes: take more "
                f"memory.address_bits than {self.layout.memory.address_bits}, or fewer "
                f"heads or memory.pages")

    @property
    def config(self) -> Config:
        """The configuration."""
        return self.layout.config

    @property
    def places(self) -> int:
        """Tokens that each head has room for, in all its pages."""
        return self.config.memory_pages * self.layout.memory.page_tokens

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes of a head."""
        return self.places * self.layout.code_bytes

    @property
    def end(self) -> int:
        """The address behind the last byte."""
        return max(max(head.codes + self.code_bytes, head.rows + self.places * head.stride)
                   for head in self.heads)

    @property
    def size(self) -> int:
        """Bytes from the origin to the end."""
        return self.end - self.origin

    def places_of(self, pages: ArrayLike, first: int, count: int) -> NDArray[np.int64]:
        """Places of tokens of a sequence: ``pages[t // page_tokens] * page_tokens + t % ...``.

        Parameters
        ----------
        pages
            Numbers of the sequence's pages in their order, integers, as many as the tokens need at
            least, and each once.
        first, count
            The tokens, from ``first`` on.

        Returns
        -------
        int64 [count]
            The same for all heads.

        Raises
        ------
        LayoutError
            Tokens beyond ``capacity`` or the pages, a page beyond ``memory_pages``, or twice.
        """
        listed, most = np.asarray(pages), self.config.memory_pages
        page_tokens = self.layout.memory.page_tokens
        if listed.dtype.kind not in "iu" or listed.ndim != 1:
            raise LayoutError(f"pages must be a list of integers, not {pages!r}")
        if listed.size and not 0 <= listed.min() <= listed.max() < most:
            raise LayoutError(f"pages must be from 0 to {most - 1}, not from {listed.min()} to "
                              f"{listed.max()}")
        if len(np.unique(listed)) < len(listed):
            raise LayoutError("pages must each be listed once: tokens of two would share a place")
        if first < 0 or count < 0:
            raise LayoutError(f"first and count must be at least 0, not {first} and {count}")
        for end, what in ((self.config.capacity, "capacity"),
                          (len(listed) * page_tokens, "the pages that are listed")):
            if first + count > end:
                raise LayoutError(f"tokens {first} to {first + count - 1} reach beyond {what}, "
                                  f"{end} tokens")
        tokens = np.arange(first, first + count)
        return listed.astype(np.int64)[tokens // page_tokens] * page_tokens + tokens % page_tokens

    def code_address(self, head: int, place: int) -> int:
        """Address of a code's first byte."""
        return self.head(head).codes + place * self.layout.code_bytes

    def row_address(self, head: int, place: int) -> int:
        """Address of a row's first byte."""
        return self.head(head).rows + place * self.head(head).stride

    def head(self, number: int) -> HeadPlace:
        """Look up a head; :class:`LayoutError` if there is none of this number."""
        if not 0 <= number < len(self.heads):
            raise LayoutError(f"head must be from 0 to {len(self.heads) - 1}, not {number}")
        return self.heads[number]

    def head_entries(self) -> dict[str, Any]:
        """Payloads for the core's table of heads, ``i_head``: a dictionary of arrays [heads].

        Bases are in units of the longest burst and of :attr:`MemoryLayout.row_unit`, int64.
        """
        layout, count = self.layout, len(self.heads)

        def units(name: str, unit: int) -> NDArray[np.int64]:
            return np.array([getattr(head, name) // unit for head in self.heads], np.int64)

        return {"head": np.arange(count), "set": np.ones(count, np.int64),
                "entry": {"codes": units("codes", layout.code_unit),
                          "rows": units("rows", layout.row_unit),
                          "stride": units("stride", layout.row_unit)}}

    def page_entries(self, sequence: int, pages: Sequence[int]) -> dict[str, NDArray[np.int64]]:
        """Payloads for the core's table of pages, ``i_page``: a dictionary of arrays [pages].

        :class:`LayoutError` if there is no such sequence, or if it could not have these pages.
        """
        sequences = self.layout.memory.sequences
        if not 0 <= sequence < sequences:
            raise LayoutError(f"sequence must be from 0 to {sequences - 1}, not {sequence}")
        count = len(pages)
        self.places_of(pages, 0, count * self.layout.memory.page_tokens)
        return {"sequence": np.full(count, sequence, np.int64), "index": np.arange(count),
                "set": np.ones(count, np.int64), "page": np.asarray(pages, np.int64)}


def plan_memory(config: Config, *, heads: int | None = None, stride: int | None = None,
                origin: int = 0, memory_bytes: int | None = None) -> MemoryPlan:
    """Plan a memory with the codes of all heads, and behind them the rows of all heads.

    Nothing is left free but what bases need to be multiples of their units. If the codes of a head
    fill whole bursts, that is nothing between one head and the next.

    Parameters
    ----------
    config
        A configuration with a memory.
    heads
        Heads to plan; None is all, ``memory.heads``.
    stride
        Bytes from one row to the next; None is the least.
    origin
        The first address that may be used.
    memory_bytes
        Bytes that there are from ``origin`` on; None is as many as there are addresses.

    Returns
    -------
    MemoryPlan

    Raises
    ------
    LayoutError
        No memory in the configuration, a stride that the core could not have, or a cache that
        does not fit the addresses or the bytes.
    """
    layout = MemoryLayout.of(config)
    count = layout.memory.heads if heads is None else heads
    distance = layout.least_stride if stride is None else stride
    _check_stride(layout, distance)
    places = config.memory_pages * layout.memory.page_tokens
    code_bytes = places * layout.code_bytes
    first_code = _aligned(origin, layout.code_unit)
    code_step = _aligned(code_bytes, layout.code_unit)
    first_row = _aligned(first_code + (count - 1) * code_step + code_bytes, layout.row_unit)
    plan = MemoryPlan(layout, tuple(
        HeadPlace(codes=first_code + number * code_step,
                  rows=first_row + number * places * distance, stride=distance)
        for number in range(count)), origin)
    if memory_bytes is not None and plan.size > memory_bytes:
        raise LayoutError(f"the cache takes {plan.size} bytes, and there are {memory_bytes}: take "
                          f"fewer heads or memory.pages, or a smaller stride")
    return plan


def _check_stride(layout: MemoryLayout, stride: int) -> None:
    least, unit = layout.least_stride, layout.row_unit
    if stride % unit or not least <= stride:
        raise LayoutError(f"stride must be a multiple of {unit} bytes, and at least {least}, "
                          f"not {stride}")
    if stride > layout.most_stride:
        raise LayoutError(f"stride must be at most {layout.most_stride}, not {stride}: take more "
                          f"memory.stride_bits than {layout.memory.stride_bits}")


def _aligned(number: int, unit: int) -> int:
    return -(-number // unit) * unit
