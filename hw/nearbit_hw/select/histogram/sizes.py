"""Widths and layouts of a selection by histograms."""

from amaranth import *
from amaranth.lib import data
from amaranth.utils import ceil_log2, exact_log2

from nearbit_model.structure import HistogramTimes


__all__ = ["Sizes", "Strobes"]


class Sizes:
    """What follows from the parameters of a :class:`nearbit_hw.select.HistogramTopN`.

    Attributes
    ----------
    ratio, ratio_bits
        Words that are scanned at once; bits of a word's place among them.
    group, groups
        Lanes of a group; groups of what is scanned at once.
    word_groups
        Groups of a word.
    block
        Keys of a block, or 0: then a query is one block.
    words
        Words of a bank: those of a block.
    lane_bits, group_bits, word_bits, index_bits, bank_bits, distance_bits
        Bits of a lane's number, of a lane's number in its group, of a word's number in a bank, of
        a word's number among all, of a bank's number, of a distance.
    enough_bits
        Bits of a count that matter, as no query asks for more keys.
    missing_shape
        Minus the keys that are missing; beyond 0 goes what a word or a bin had too many of.
    query
        What is known of a query; positions are relative to the first word's lane 0.
    origin
        What goes with a block through all stages: the number of its first word and, if there are
        several, whether it is the query's last one.
    key
        A selected key and, if there are blocks, whether it was selected anyway.
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
        """Words of all banks."""
        return self.times.banks << self.word_bits

    def next_bank(self, bank: Value) -> Value:
        """Number of the bank after this one."""
        if self.times.banks == 1 << self.bank_bits:
            return bank + 1
        return Mux(bank == self.times.banks - 1, 0, bank + 1)


class Strobes:
    """Signals by which the stages of a selection tell each other of a query.

    Attributes
    ----------
    claim
        A command is taken, or a block.
    load
        A query begins to be counted.
    arrive, finish
        A word comes, or the last one of the block that is counted.
    merge_start, merge_ready
        The oldest query that is counted begins to be merged, and is merged, until :py:`hand`.
    hand
        A merged query goes to the scan, which needs its bins no more.
    scan_start
        It begins to be scanned. Other than with :py:`hand`, there is no more to clear after reset.
    late
        Queries that are scanned and emitted.
    release
        The last key of a query leaves; the oldest bank is free again.
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
