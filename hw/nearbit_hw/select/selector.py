"""Parameters and streams common to all selectors of the nearest keys."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import distance_word_layout, key_layout, select_layout


__all__ = ["Selector"]


class Selector(wiring.Component):
    """Base of components that select the nearest keys of each query.

    :class:`nearbit_hw.select.TopN` and :class:`nearbit_hw.select.HistogramTopN` implement it; each
    documents its method and cycles.

    Parameters
    ----------
    key_bits : :class:`int`
        The largest distance. At least 1.
    lanes : :class:`int`
        Distances per word, a power of two.
    capacity : :class:`int`
        Keys in the longest range, a multiple of :py:`refine_lanes`.
    top_n : :class:`int`
        The most keys that a query selects, at most :py:`capacity`.
    refine_lanes : :class:`int`
        Distances read again per cycle: :py:`lanes` times a power of two; by default :py:`lanes`.
    block : :class:`int`
        Keys per block; 0 for no blocks.

    Members
    -------
    i_block : :py:`In(stream.Signature(StructLayout({})))`
        With blocks: announces a block after a query's first one; see
        :class:`nearbit_hw.select.HistogramTopN`.
    i_command : :py:`In(stream.Signature(...))`
        What to select: :py:`word`, the index of the first word; :py:`skip`, the number of lanes of
        that word that lie before the range; :py:`count`, the number of keys in the range, at least
        1; :py:`n`, at least 1; :py:`sink`; :py:`recent`. :py:`n + sink + recent` is at most
        :py:`top_n`.
    i : :py:`In(stream.Signature(...))`
        Words of distances, from the first to the last of the range and any number beyond; lane 0
        lowest; always ready.
    o : :py:`Out(stream.Signature(...))`
        Selected keys: :py:`index`, :py:`distance`, :py:`last`.
    """

    i_command: stream.Interface
    i_block: stream.Interface
    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, key_bits: int, lanes: int, capacity: int, top_n: int,
                 refine_lanes: int | None, block: int = 0):
        if not isinstance(key_bits, int) or key_bits < 1:
            raise TypeError(f"Key bits must be a positive integer, not {key_bits!r}")
        if not isinstance(lanes, int) or lanes < 1 or lanes & (lanes - 1):
            raise TypeError(f"Lanes must be a power of two, not {lanes!r}")
        refine_lanes = lanes if refine_lanes is None else refine_lanes
        if (not isinstance(refine_lanes, int) or refine_lanes < lanes
                or refine_lanes & (refine_lanes - 1)):
            raise TypeError("Refine lanes must be lanes times a power of two, not "
                            f"{refine_lanes!r}")
        if not isinstance(capacity, int) or capacity < 1 or capacity % refine_lanes:
            raise TypeError(f"Capacity must be a positive multiple of refine lanes, "
                            f"not {capacity!r}")
        if not isinstance(top_n, int) or not 1 <= top_n <= capacity:
            raise TypeError(f"Top N must be from 1 to capacity, not {top_n!r}")
        if not isinstance(block, int) or block < 0:
            raise TypeError(f"A block must be a number of keys, or 0, not {block!r}")
        if block and (block & (block - 1) or block < 2 * refine_lanes or block < top_n):
            raise ValueError("A block must be a power of two, at least twice refine lanes and "
                             f"at least top N, not {block!r}")
        self._key_bits = key_bits
        self._lanes = lanes
        self._capacity = capacity
        self._top_n = top_n
        self._refine_lanes = refine_lanes
        self._block = block

        super().__init__({
            "i_command": In(stream.Signature(
                select_layout(capacity=capacity, lanes=lanes, top_n=top_n))),
            **({"i_block": In(stream.Signature(data.StructLayout({})))} if block else {}),
            "i": In(stream.Signature(
                distance_word_layout(distance_max=key_bits, lanes=lanes), always_ready=True)),
            "o": Out(stream.Signature(key_layout(capacity=capacity, distance_max=key_bits))),
        })

    @property
    def key_bits(self) -> int:
        return self._key_bits

    @property
    def lanes(self) -> int:
        return self._lanes

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def top_n(self) -> int:
        return self._top_n

    @property
    def refine_lanes(self) -> int:
        return self._refine_lanes
