"""Selection of the nearest keys by histograms in block RAM."""

from fractions import Fraction
from typing import Any

from amaranth import *

from nearbit_hw.pipeline import delay_control
from nearbit_hw.select.histogram.carry import Carry
from nearbit_hw.select.histogram.count import ask, mark
from nearbit_hw.select.histogram.design import Design
from nearbit_hw.select.histogram.emit import Emit, Hits
from nearbit_hw.select.histogram.merge import any_of
from nearbit_hw.select.histogram.overlapped import Overlapped
from nearbit_hw.select.histogram.parts import find_part
from nearbit_hw.select.histogram.scan import Bank, Found, Scan
from nearbit_hw.select.histogram.serial import Serial
from nearbit_hw.select.histogram.sizes import Sizes, Strobes
from nearbit_hw.select.selector import Selector
from nearbit_model.structure import HistogramTimes


__all__ = ["HistogramTopN"]


# How it works
# ------------
#   count   Each lane counts its distances in block RAM, with a bin for each distance. The distances
#           are also written to a bank, with marks: keys that are selected anyway (sinks, recent
#           ones) are `forced`, and lanes outside the range are `out`. Neither kind is counted.
#   merge   The bins are read in ascending order, all lanes at once, cleared, and summed. The first
#           bin that brings the sum to n is the threshold. The quota, how many of the keys at the
#           threshold are taken, is n minus the sum of the bins below. The bin of the largest
#           distance is never read, and so need not be cleared: if no other bin is the threshold, it
#           is.
#           Where low latency matters, logic also counts arriving keys by the highest two bits of
#           their distance. This tells which quarter of the bins has the threshold; only that
#           quarter is searched, and the others are cleared afterwards. Not with blocks, as Carry
#           needs all bins.
#   scan    The bank is read from its end and compared with the threshold. Words with a selected key
#           are noted in a list of `hits`.
#   emit    After the scan, the keys in the list leave, one per cycle.
#
# Updating a bin takes two cycles, so each lane has two memories, which take turns word by word.
# With `overlap`, one port of a memory counts in one half while the other port merges the previous
# query in the other half; the ports never collide, as one address bit of each is the inverse of the
# other's. Without `overlap` there is one memory, and the turn is a bit of the address.
#
# With blocks, a query goes through all this block by block, and each block has its own bins, bank
# and hits. The keys selected from earlier blocks take part in two ways: the merge adds their
# histogram (Carry), so that the threshold is that of all keys so far; then those still selected are
# listed after the block's own (Survivors).
#
# Where a pass reads more than one `group` of lanes, `emit` goes from group to group, and memories
# that are written a word wide are read a group wide, which saves a multiplexer.

class HistogramTopN(Selector):
    """The nearest keys of each query.

    Takes the distances of one query after another, :py:`lanes` per cycle without ever stalling,
    and emits the selection of the numeric contract: the first :py:`sink` and the last
    :py:`recent` keys of the range and, of the rest, the :py:`n` nearest; among equal distances, the
    larger index wins. If :py:`sink + recent + n >= count`, all keys are selected. Keys leave by
    descending index, without a gap if :py:`o` is not stalled, the last one with :py:`last` set.
    Apart from its cycles, interchangeable with :class:`nearbit_hw.select.TopN`.

    A query that has w words of distances and selects m keys, with s = :py:`refine_lanes / lanes`,
    goes through the steps below. Each starts once its previous step is done and the query before
    has left it. Cycles depend on w and m only.

    - merge: starts :py:`count_latency` cycles after the last word, at least
      :py:`merge_interval` cycles after the merge of the query before started, and only after the
      hand-over of the query before that one. It ends with the hand-over to the scan,
      :py:`merge_cycles` later or as soon as the scan can start.
    - scan: reads in the ceil(w / s) cycles after the hand-over. The next scan can start
      :py:`scan_gap` cycles after the last read, while at most one other query is scanned or
      emitted; without :py:`overlap`, while no other is.
    - emit: starts :py:`scan_latency` cycles after the last read or, with :py:`overlap`, in the
      cycle before the last key of the query before is presented, whichever is later. The first key
      is presented :py:`emit_latency` cycles later, the others in the cycles after.

    With :py:`overlap`, a command is accepted while no other waits to be counted, at most three
    queries are in flight, at most two of these are not handed over, and the merges of all but one
    started at least :py:`free_latency` cycles ago. Without it, a command is accepted from the
    cycle after the query before is handed over, a hand-over that waits until the last key of the
    query before that one is presented. A command's first distances must come at least :py:`lead`
    cycles after it is accepted. With :py:`overlap`, queries that follow each other without a pause
    are max(w, merge_interval, ceil(w / s) + scan_gap, m + emit_latency - 2) cycles apart, if
    commands are accepted in time at that rate; see :py:`interval`. After reset, the bins are
    cleared before the first command is accepted.

    With :py:`overlap`, bins need block RAM with two ports that both read and write (ECP5, but not
    iCE40); without it, any block RAM will do.

    **Blocks.** With :py:`block`, the words of a query come in blocks of that many keys, counted
    from its first word; the last one may be shorter. Each block but the first needs a transfer on
    :py:`i_block`, which must be accepted before the block's distances, as a command must before
    its own, and is accepted under the same conditions. It must be offered after the command or
    block before it and before the next command. Each block goes through the steps above and selects
    m keys from all keys so far. Emitting a block other than a query's first starts
    :py:`survivors + emit_latency + 1` cycles later, where :py:`survivors` is the number of keys
    selected from the blocks before. Only the last block's selection leaves; the others never wait
    for :py:`o`. Memory is that of one block, plus two lists of :py:`top_n` keys.

    Reference: :func:`nearbit_model.golden.select_one`.

    Members are those of :class:`~nearbit_hw.select.Selector`.

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
        Distances scanned per cycle: :py:`lanes` times a power of two.
    overlap : :class:`bool`
        Whether a query can be counted while the one before is merged, and scanned while the one
        before is emitted. Otherwise, a query can only be counted and merged while the one before is
        scanned and emitted.
    lead : :class:`int`
        Minimum number of cycles from accepting a command to its first distances. At least 2.
    block : :class:`int`
        Keys per block: a power of two, at least :py:`top_n` and twice :py:`refine_lanes`. 0 if a
        query is one block, as it must be without :py:`overlap`.
    """

    def __init__(self, *, key_bits: int, lanes: int, capacity: int, top_n: int,
                 refine_lanes: int | None = None, overlap: bool = True, lead: int = 2,
                 block: int = 0):
        super().__init__(key_bits=key_bits, lanes=lanes, capacity=capacity, top_n=top_n,
                         refine_lanes=refine_lanes, block=block)
        if not isinstance(lead, int) or lead < 2:
            raise TypeError(f"Lead must be an integer greater than 1, not {lead!r}")
        if block and not overlap:
            raise ValueError("Blocks require overlap")
        self._overlap = bool(overlap)
        self._lead = lead

    @property
    def overlap(self) -> bool:
        return self._overlap

    @property
    def lead(self) -> int:
        return self._lead

    @property
    def block(self) -> int:
        return self._block

    @property
    def times(self) -> HistogramTimes:
        """Cycles of each step."""
        return HistogramTimes(key_bits=self._key_bits, lanes=self._lanes,
                              refine_lanes=self._refine_lanes, overlap=self._overlap,
                              lead=self._lead, block=self._block, top_n=self._top_n)

    @property
    def banks(self) -> int:
        """Queries in flight at the same time."""
        return self.times.banks

    @property
    def parts(self) -> int:
        """Parts of the bins, of which only the one with the threshold is searched.

        4 if :py:`refine_lanes` exceeds :py:`lanes` and :py:`key_bits` is 4 times a power of two,
        with :py:`overlap` only and without blocks, which need all bins; otherwise 1.
        """
        return self.times.parts

    @property
    def merge_cycles(self) -> int:
        """Cycles from the start of merging a query to its hand-over, if the scan is free.

        :py:`key_bits / parts + 6 + log2(lanes)` with :py:`overlap`, else
        :py:`2 * key_bits + 5 + log2(lanes)`.
        """
        return self.times.merge_cycles

    @property
    def merge_interval(self) -> int:
        """Minimum number of cycles from the start of one merge to the start of the next.

        :py:`max(key_bits + 1, 4 + log2(lanes))` with :py:`overlap`.
        """
        return self.times.merge_interval

    @property
    def free_latency(self) -> int:
        """With overlap, cycles from the start of merging a query to the release of its bins.

        :py:`max(merge_interval - 2 - lead, 1)`.
        """
        return self.times.free_latency

    @property
    def count_latency(self) -> int:
        """Cycles from a query's last word to the start of merging it."""
        return self.times.count_latency

    @property
    def scan_gap(self) -> int:
        """Cycles from a query's last read to the earliest hand-over of the next."""
        return self.times.scan_gap

    @property
    def scan_latency(self) -> int:
        """Cycles from a query's last read to the start of emitting it, if that is free."""
        return self.times.scan_latency

    @property
    def emit_latency(self) -> int:
        """Cycles from the start of emitting a query to its first key, if never stalled."""
        return self.times.emit_latency

    def latency(self, *, words: int, selected: int, survivors: int = 0) -> int:
        """Cycles from a query's last word to its last key, if no other query is in flight.

        With blocks, `words` counts those of the last block, and `survivors` the keys selected from
        the blocks before, which have been emitted.
        """
        reads = -(-words * self._lanes // self._refine_lanes)
        return (self.count_latency + self.merge_cycles + reads + self.scan_latency
                + (self.times.filter_cycles(survivors) if survivors else 0)
                + self.emit_latency + selected - 1)

    def interval(self, *, words: int, selected: int) -> Fraction:
        """Cycles from one query to the next without pauses, if commands always wait to be accepted.

        Where the banks are the limit, this is a lower bound: with few bins and words, some queries
        take one cycle more.
        """
        times = self.times
        reads = -(-words * self._lanes // self._refine_lanes)
        merged = self._lead + words - 1 + self.count_latency # from accepting its command
        handed = merged + self.merge_cycles
        left = handed + reads + self.scan_latency + self.emit_latency + selected - 2
        if not self._overlap:
            return Fraction(max(handed, left - handed) + 1)
        return max(Fraction(left + 1, self.banks), Fraction(handed + 1, times.unhanded),
                   Fraction(merged + self.free_latency + 1, times.limit),
                   *map(Fraction, (words, self.merge_interval, reads + self.scan_gap,
                                   selected + self.emit_latency - 2)))

    def elaborate(self, platform) -> Module:
        m = Module()
        sizes = Sizes(key_bits=self._key_bits, lanes=self._lanes, capacity=self._capacity,
                      top_n=self._top_n, refine_lanes=self._refine_lanes, block=self._block,
                      times=self.times)
        design: Design = Overlapped(sizes) if self._overlap else Serial(sizes)
        strobes = Strobes(self.times)
        merge = design.merge

        # ---- Commands.
        asked = ask(m, sizes, self.i_command.p)
        m.d.comb += strobes.arrive.eq(self.i.valid)
        counted: Any = Signal(sizes.query, reset_less=True)
        loaded = design.take(m, strobes, asked, self.i_command,
                             self.i_block if self._block else None)

        # ---- Count.
        marks = mark(m, sizes, strobes, self.i.p.last, counted=counted, loaded=loaded)
        merge.settled = delay_control(m, strobes.finish, self.times.settle_latency, "settled")
        distances = [self.i.p.distances[lane] for lane in range(self._lanes)]
        counts, stored = design.count(m, strobes, marks, distances)
        part = find_part(m, sizes, strobes, marks, distances, last=self.i.p.last,
                         missing=counted.missing)

        # ---- Merge: the sum over the lanes, registered at each level. Alongside goes whether the
        # sum, or a part of it, is `enough`.
        small, many, level = design.add(m, counts)
        carry = Carry(m, sizes, merge, level=level) if self._block else None
        total = Signal(sizes.enough_bits + (carry is not None), name="small", reset_less=True)
        m.d.sync += total.eq(small if carry is None else carry.add(small))
        enough = any_of(m, many, "many")
        merge.search(m, sizes, strobes, small=total, many=enough[0] if enough else Const(0),
                     level=level + 1, is_whole=design.is_whole(), frees=design.frees(strobes))
        if carry is not None:
            carry.update(m, total)
        merged = design.start_merge(m, strobes, marks, part, asked=asked, counted=counted,
                                    last=self.i.p.last)

        # ---- Scan.
        bank = Bank(m, design)
        bank.write(m, strobes, marks, stored)
        scan = Scan(design, bank)
        scan.control(m, strobes, merged)
        found = Found(m, sizes, scan, *scan.compare(m))
        hits = Hits(m, design, scan, found)

        # ---- Emit.
        emit = Emit(m, design, scan, hits)
        emit.control(m, strobes, found, merged)
        emit.next_hit(m)
        kept: list[Value] = [Cat(stored[lane], marks.forced[lane] if self._block else ())
                             for lane in range(self._lanes)]
        emit.next_key(m, emit.next_group(m, kept), self.o)

        return m
