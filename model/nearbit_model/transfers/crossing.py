"""Rows that cross 4 KiB, which are read in two bursts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nearbit_model.config import Config
from nearbit_model.memory import MemoryLayout


__all__ = ["RowBursts"]


_BOUNDARY_BYTES = 4096


class RowBursts:
    """In how many bursts rows are read, by the tables of heads and pages.

    Parameters
    ----------
    config
        A configuration with a memory.
    tables
        What sets the tables, for :meth:`nearbit_model.transfers.Program.add`; each entry once.
    """

    def __init__(self, config: Config, tables: Mapping[str, Any]) -> None:
        """Note where rows are."""
        layout = MemoryLayout.of(config)
        self._page_tokens = layout.memory.page_tokens
        self._row_bytes, self._beat_bytes = layout.row_bytes, layout.beat_bytes
        heads, pages = tables.get("i_head"), tables.get("i_page")
        self._rows: dict[int, tuple[int, int]] = {}
        if heads is not None:
            self._rows = {
                head: (rows * layout.row_unit, stride * layout.row_unit)
                for head, rows, stride in zip(
                    *(np.asarray(each).tolist() for each in (
                        heads["head"], heads["entry"]["rows"], heads["entry"]["stride"])),
                    strict=True)}
        listed = config.capacity // self._page_tokens
        self._pages = np.zeros((layout.memory.sequences, listed), np.int64)
        if pages is not None:
            self._pages[pages["sequence"], pages["index"]] = pages["page"]

    @property
    def none_cross(self) -> bool:
        """Whether no row can cross: strides divide 4 KiB, and bases are multiples of them."""
        return all(rows % stride == 0 and _BOUNDARY_BYTES % stride == 0
                   for rows, stride in self._rows.values())

    def first(self, head: int, sequence: int, tokens: ArrayLike) -> tuple[int, ...]:
        """Beats of the first burst of each token's row; 0, if there is only one.

        Empty if the head is not set, or if none crosses.
        """
        if head not in self._rows:
            return ()
        base, stride = self._rows[head]
        index = np.asarray(tokens, np.int64)
        place = (self._pages[sequence, index // self._page_tokens] * self._page_tokens
                 + index % self._page_tokens)
        room = -(base + place * stride) % _BOUNDARY_BYTES
        beats = np.where((room > 0) & (room < self._row_bytes), room // self._beat_bytes, 0)
        return tuple(beats.tolist()) if beats.any() else ()
