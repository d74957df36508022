"""What the two designs of selection by histograms implement differently."""

from abc import ABC, abstractmethod
from typing import Any

from amaranth import *
from amaranth.lib import data

from nearbit_hw.select.histogram.count import Marks
from nearbit_hw.select.histogram.merge import Merge, Merged
from nearbit_hw.select.histogram.parts import Part
from nearbit_hw.select.histogram.sizes import Sizes, Strobes


__all__ = ["Design"]


class Design(ABC):
    """A design: its memories, and what waits in front of each stage.

    Parameters
    ----------
    sizes
        Sizes of the selection.
    """

    def __init__(self, sizes: Sizes):
        self.sizes = sizes
        self.merge = Merge(sizes, bins=self.bins)

    @property
    @abstractmethod
    def bins(self) -> int:
        """Bins read from each of a lane's memories; those of the largest distance are not."""

    @property
    @abstractmethod
    def code_bits(self) -> int:
        """Bits of a distance in a bank."""

    @property
    @abstractmethod
    def item(self) -> data.StructLayout:
        """Layout of a key in a bank."""

    @abstractmethod
    def take(self, m: Module, strobes: Strobes, asked: Any, command: Any, block: Any) -> Any:
        """Accept commands and blocks, and start counting queries (:py:`strobes.load`).

        Returns the query that is counted from then on.

        Parameters
        ----------
        asked
            The query of the command on offer.
        command, block
            The streams; `block` is None without blocks.
        """

    @abstractmethod
    def count(self, m: Module, strobes: Strobes, marks: Marks, distances: list[Value]
              ) -> tuple[list[Any], list[Signal]]:
        """Count distances by lane, and read bins.

        Returns the counts in the bin that was read, and the distances of the previous word.
        """

    @abstractmethod
    def add(self, m: Module, counts: list[Any]) -> tuple[Value, list[Value], int]:
        """Add a distance's counts, like :func:`~nearbit_hw.select.histogram.merge.add_lanes`."""

    @abstractmethod
    def is_whole(self) -> Value:
        """Return whether the bin being read completes the count of a distance."""

    @abstractmethod
    def frees(self, strobes: Strobes) -> Value:
        """Return whether a query's bins become free."""

    @abstractmethod
    def start_merge(self, m: Module, strobes: Strobes, marks: Marks, part: Part, *, asked: Any,
                    counted: Any, last: Value) -> Merged:
        """Start merging, and signal when it is done; return what is then handed over.

        `last` says whether the word arriving is the query's last one.
        """

    @abstractmethod
    def put(self, m: Module, item: Any, *, distance: Value, normal: Value, forced: Value) -> None:
        """Drive a key's item in a bank."""

    @abstractmethod
    def is_normal(self, item: Any) -> Value:
        """Return whether a key in a bank is subject to selection by distance."""

    @abstractmethod
    def hit_depth(self, most: int) -> int:
        """Places for hits, of which a query has at most `most`."""

    @abstractmethod
    def start_emit(self, m: Module, *, ended: Value, scanned: Any, is_free: Value, take: Signal
                   ) -> Any:
        """Start emitting a query that has been scanned.

        Returns the query's state, valid when it starts.

        Parameters
        ----------
        ended, scanned
            Whether a query's scan has ended, and the query's state then.
        is_free
            Whether Emit is free from the next cycle on.
        take
            Driven here: whether the query starts.
        """

    @abstractmethod
    def read_hits(self, m: Module, emit: Any) -> list[Value]:
        """Read the keys of hits, where words have a single group; return their distances."""
