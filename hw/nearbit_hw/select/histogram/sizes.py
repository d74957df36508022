"""Widths and layouts of selection by histograms."""

from amaranth import *
from amaranth.lib import data
from amaranth.utils import ceil_log2, exact_log2

from nearbit_model.structure import HistogramTimes


__all__ = ["Sizes", "Strobes"]


class Sizes:
    """Sizes derived from the parameters of :class:`nearbit_hw.select.HistogramTopN`.

    Attributes
    ----------
    ratio, ratio_bits
        Words scanned per cycle; bits of a word's place among them.
    group, groups
        Lanes per group; groups scanned per cycle.
    word_groups
        Groups per word.
    block
        Keys per block; 0 if a query is one block.
    words
        Words per bank: those of a block.
    lane_bits, group_bits, word_bits, index_bits, bank_bits, distance_bits
        Bits of a lane number, of a lane number within its group, of a word number within a bank, of
        a word number overall, of a bank number, and of a distance.
    enough_bits
        Bits of a count that matter: a count that overflows them is enough for any query.
    missing_shape
        Minus the number of missing keys; positive values count the excess keys of a word or a bin.
    query
        State of a query; positions are relative to the first word's lane 0.
    origin
        State that follows a block through all stages: the number of its first word and, with
        blocks, whether it is the query's last one.
    key
        Distance of a selected key and, with blocks, whether the key is forced.
    """

    def __init__(self, *, key_bits: int, lanes: int, capacity: int, top_n: int, refine_lanes: int,
                 block: int, times: HistogramTimes):
        self.key_bits = key_bits
        self.lanes = lanes
        self.capacity = capacity
        self.top_n = top_n
        self.refine_lanes = refine_lanes
        self.block = block
        self.times = times

        self.ratio = refine_lanes // lanes
        self.ratio_bits = exact_log2(self.ratio)
        self.group = times.group
        self.groups = times.groups
        self.word_groups = lanes // self.group
        self.lane_bits, self.group_bits = exact_log2(lanes), exact_log2(self.group)
        self.words = (block or capacity) // lanes
        self.word_bits = max(ceil_log2(self.words), self.ratio_bits + 1)
        self.index_bits = max(ceil_log2(capacity // lanes), self.word_bits)
        self.bank_bits = ceil_log2(times.banks)
        self.distance_bits = len(Signal(range(key_bits + 1)))
        self.enough_bits = ceil_log2(top_n)
        self.missing_shape = Shape.cast(range(-top_n, max(2 * refine_lanes, 2 * top_n)))
        self.position = range(capacity + lanes)
        self.query = data.StructLayout({
            "skip": self.lane_bits,
            "end": self.position,
            "normal_start": range(lanes + top_n),
            "normal_end": self.position,
            "no_normal": 1,
            "first_word": self.index_bits,
            "missing": self.missing_shape, # -n
        })
        self.origin = data.StructLayout({
            "word": self.index_bits, **({"final": 1} if block else {})})
        self.key = data.StructLayout({
            "distance": self.distance_bits, **({"forced": 1} if block else {})})

    @property
    def bank_words(self) -> int:
        """Words in all banks together."""
        return self.times.banks << self.word_bits

    def next_bank(self, bank: Value) -> Value:
        """Number of the bank after this one."""
        if self.times.banks == 1 << self.bank_bits:
            return bank + 1
        return Mux(bank == self.times.banks - 1, 0, bank + 1)


class Strobes:
    """Signals by which the stages of a selection tell each other about a query.

    Attributes
    ----------
    claim
        A command or a block is accepted.
    load
        Counting a query starts.
    arrive, finish
        A word arrives; the last word of the block being counted arrives.
    merge_start, merge_ready
        Merging the oldest counted query starts; a merged query waits, until :py:`hand`.
    hand
        A merged query is handed to the scan, and no longer needs its bins.
    scan_start
        Its scan starts. Unlike :py:`hand`, not set for the merges that clear bins after reset.
    late
        Number of queries being scanned or emitted.
    release
        A query's last key leaves; the oldest bank is free again.
    """

    def __init__(self, times: HistogramTimes) -> None:
        self.late = Signal(range(times.limit + 1))
        self.claim = Signal()
        self.release = Signal()
        self.hand = Signal()
        self.arrive = Signal()
        self.finish = Signal()
        self.load = Signal()
        self.merge_start = Signal()
        self.merge_ready = Signal()
        self.scan_start = Signal()
