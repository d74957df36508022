"""What the two designs of a selection by histograms do each in its own way."""

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
    """One of the designs: its memories, and what waits in front of which stage.

    Parameters
    ----------
    sizes
        Those of the selection.
    """

    def __init__(self, sizes: Sizes):
        self.sizes = sizes
        self.merge = Merge(sizes, bins=self.bins)

    @property
    @abstractmethod
    def bins(self) -> int:
        """Bins that are read of each lane's memories; the largest distance's is not."""

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
        """Take commands and blocks, and start to count queries (:py:`strobes.load`).

        Gives the query that is counted from then on.

        Parameters
        ----------
        asked
            The query that is asked for.
        command, block
            The streams; without blocks, there is none of those.
        """

    @abstractmethod
    def count(self, m: Module, strobes: Strobes, marks: Marks, distances: list[Value]
              ) -> tuple[list[Any], list[Signal]]:
        """Count distances by lane, and read bins.

        Gives the counts of the bin that was read, and the distances of the word before.
        """

    @abstractmethod
    def add(self, m: Module, counts: list[Any]) -> tuple[Value, list[Value], int]:
        """Add the counts of a distance; as :func:`~nearbit_hw.select.histogram.merge.add_lanes`."""

    @abstractmethod
    def is_whole(self) -> Value:
        """Tell whether with the bin that is read all keys of its distance are."""

    @abstractmethod
    def frees(self, strobes: Strobes) -> Value:
        """Tell whether a query's bins are free again."""

    @abstractmethod
    def start_merge(self, m: Module, strobes: Strobes, marks: Marks, part: Part, *, asked: Any,
                    counted: Any, last: Value) -> Merged:
        """Start to merge, and tell when that is done; gives what is handed over then.

        `last` is whether the word that comes is the query's last one.
        """

    @abstractmethod
    def put(self, m: Module, item: Any, *, distance: Value, normal: Value, forced: Value) -> None:
        """Make a key's item in a bank."""

    @abstractmethod
    def is_normal(self, item: Any) -> Value:
        """Tell whether a key of a bank is selected by its distance."""

    @abstractmethod
    def hit_depth(self, most: int) -> int:
        """Places for hits, of which a query has so many at most."""

    @abstractmethod
    def start_emit(self, m: Module, *, ended: Value, scanned: Any, is_free: Value, take: Signal
                   ) -> Any:
        """Start to emit a query that has been scanned.

        Gives what is known of it, which holds when it starts.

        Parameters
        ----------
        ended, scanned
            A query's scan ended, and what is known of it then.
        is_free
            Nothing leaves any more from the next cycle on.
        take
            To be driven: the query starts.
        """

    @abstractmethod
    def read_hits(self, m: Module, emit: Any) -> list[Value]:
        """Bring the hits of words with a single group to their keys; gives the distances."""
