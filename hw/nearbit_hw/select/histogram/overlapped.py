"""Overlapped design: one query is counted while another is merged."""

from typing import Any

from amaranth import *
from amaranth.lib import data, memory
from amaranth.utils import ceil_log2

from nearbit_hw.pipeline import delay, delay_control
from nearbit_hw.select.histogram.count import Counter, Marks
from nearbit_hw.select.histogram.design import Design
from nearbit_hw.select.histogram.merge import Merged, add_lanes
from nearbit_hw.select.histogram.parts import Part
from nearbit_hw.select.histogram.sizes import Sizes, Strobes


__all__ = ["Overlapped"]


class Overlapped(Design):
    """A query is counted while the one before is merged, and scanned while the one before leaves.

    A query's bins are read while those of the query before are summed and searched for its
    threshold. With parts, the bins of the part with the threshold are read first, and the others
    only to be cleared.

    Each lane has two memories of bins, which take turns word by word. One port of a memory counts
    in one half while the other port merges the query before in the other half; the ports never
    collide, as one address bit of each is the inverse of the other's.
    """

    def __init__(self, sizes: Sizes):
        super().__init__(sizes)
        self._read_part = Signal(2) # reset, as it is used when bins are cleared after reset
        # Bit c: a merge started c + 1 cycles ago. At the highest bit, its first bin is summed.
        self._started = Signal(sizes.lane_bits + 4, name="merge_started")

    @property
    def bins(self) -> int:
        return self.sizes.key_bits

    @property
    def code_bits(self) -> int:
        return self.sizes.distance_bits

    @property
    def item(self) -> data.StructLayout:
        return data.StructLayout({"code": self.code_bits, "normal": 1, "forced": 1})

    def take(self, m: Module, strobes: Strobes, asked: Any, command: Any, block: Any) -> Any:
        """A query or block waits in `waiting` while the one before it is still being counted."""
        times, merge = self.sizes.times, self.merge
        room = Signal()
        m.d.comb += room.eq(
            (merge.uncleared != times.limit) & (merge.unhanded != times.unhanded)
            & ~Cat((merge.unhanded == times.banks - late) & (strobes.late == late)
                   for late in range(1, times.limit + 1)
                   if times.banks - late < times.unhanded).any())
        waiting: Any = Signal(self.sizes.query, reset_less=True)
        waiting_valid, counted_valid, begins = Signal(), Signal(), Signal()
        m.d.comb += [
            command.ready.eq(room & ~waiting_valid),
            begins.eq((strobes.finish | ~counted_valid) & waiting_valid),
        ]
        if block is None:
            m.d.comb += [strobes.claim.eq(command.valid & command.ready),
                         strobes.load.eq(begins)]
        else:
            waiting_block = Signal(reset_less=True)
            m.d.comb += [
                block.ready.eq(command.ready),
                strobes.claim.eq((command.valid | block.valid) & command.ready),
                strobes.load.eq(begins & ~waiting_block),
            ]
            with m.If(strobes.claim):
                m.d.sync += waiting_block.eq(block.valid)
        with m.If(strobes.claim):
            m.d.sync += [waiting.eq(asked), waiting_valid.eq(1)]
        with m.Elif(begins):
            m.d.sync += waiting_valid.eq(0)
        with m.If(begins):
            m.d.sync += counted_valid.eq(1)
        with m.Elif(strobes.finish):
            m.d.sync += counted_valid.eq(0)
        return waiting

    def count(self, m: Module, strobes: Strobes, marks: Marks, distances: list[Value]
              ) -> tuple[list[Any], list[Signal]]:
        lanes, distance_bits = self.sizes.lanes, self.sizes.distance_bits
        merge = self.merge
        counter = Counter(self.sizes, clears=True)
        stored = [Signal(distance_bits, name=f"stored_{lane}", reset_less=True)
                  for lane in range(lanes)]
        turn = Signal()
        counts: list[Any] = []
        with m.If(strobes.arrive):
            m.d.sync += turn.eq(~turn)
        # The part with the threshold is read first.
        merge_bin: Value = Cat(merge.bin, Const(0, distance_bits - len(merge.bin)))
        if self.sizes.times.parts > 1:
            merge_bin ^= self._first_bin()
        count_bank, merge_bank = Signal(), Signal()
        with m.If(strobes.finish):
            m.d.sync += count_bank.eq(~count_bank)
        with m.If(strobes.merge_start):
            m.d.sync += merge_bank.eq(~merge_bank)
        for lane in range(lanes):
            m.d.sync += stored[lane].eq(distances[lane])
        for name, mine in [("even", ~turn), ("odd", turn)]:
            take = Signal(name=f"take_{name}")
            own_bank = Signal(name=f"bank_{name}")
            m.d.comb += take.eq(strobes.arrive & mine)
            # From the start of the merge on, the other port uses the other half.
            with m.If(strobes.merge_start):
                m.d.sync += own_bank.eq(~merge_bank)
            with m.Elif(take):
                m.d.sync += own_bank.eq(count_bank)
            taken = delay_control(m, take, 1, f"taken_{name}")
            write = Signal(lanes, name=f"write_{name}")
            with m.If(taken):
                m.d.sync += write.eq(marks.normal)
            with m.Else():
                m.d.sync += write.eq(0)
            for lane in range(lanes):
                # No attribute no_rw_check here: a bin is read in the cycle that clears it.
                bins_ram: Any = memory.Memory(
                    shape=counter.layout, depth=2 << distance_bits, init=[],
                    attrs={"ram_style": "block"})
                m.submodules[f"bins_{name}_{lane}"] = bins_ram
                address = Signal(distance_bits, name=f"bin_{name}_{lane}", reset_less=True)
                with m.If(take):
                    m.d.sync += address.eq(distances[lane])
                count_read, count_write = bins_ram.read_port(), bins_ram.write_port()
                merge_read, clear = bins_ram.read_port(), bins_ram.write_port()
                m.d.comb += [
                    count_read.addr.eq(Cat(address, own_bank)),
                    count_write.addr.eq(Cat(address, own_bank)),
                    count_write.data.eq(counter.add_one(m, count_read.data)),
                    count_write.en.eq(write[lane]),
                    merge_read.addr.eq(Cat(merge_bin[:distance_bits], ~own_bank)),
                    clear.addr.eq(merge_read.addr),
                    clear.data.eq(counter.cleared),
                    clear.en.eq(merge.busy),
                ]
                counts.append(merge_read.data)
        return counts, stored

    def add(self, m: Module, counts: list[Any]) -> tuple[Value, list[Value], int]:
        # Block RAM is slow, and so many of them lie far from the adders.
        counts = [delay(m, count, 1, f"count_{index}") for index, count in enumerate(counts)]
        return add_lanes(m, self.sizes, counts, 1)

    def _first_bin(self) -> Value:
        """Return the first bin of the part that is searched."""
        return Cat(Const(0, self.sizes.times.part_bins.bit_length() - 1), self._read_part)

    def is_whole(self) -> Value:
        """Bins of other parts are only cleared."""
        return self.merge.busy & (self.merge.bin < self.sizes.times.part_bins)

    def frees(self, strobes: Strobes) -> Value:
        """The bins are released while the last of them are still being read."""
        last_kept = self.sizes.times.last_kept
        if last_kept >= self.bins:
            return self._started[last_kept]
        return self.merge.busy & (self.merge.bin == last_kept)

    def start_merge(self, m: Module, strobes: Strobes, marks: Marks, part: Part, *, asked: Any,
                    counted: Any, last: Value) -> Merged:
        """A query counted before the one ahead of it has been merged is `pending`.

        A query's state moves with its bins: `pending` until they are read, `read` until the first
        one is summed, `found` during the search, and `ready` until the hand-over. While one query
        is ready, the next one's outcome stays in the search, and the one after does not start.
        """
        merge, limit = self.merge, self.sizes.times.limit
        query: Any = data.StructLayout({
            "missing": self.sizes.missing_shape, "last": self.sizes.word_bits,
            "origin": self.sizes.origin})
        queries: list[Any] = [Signal(query, name=f"{name}_query", reset_less=True)
                              for name in ("pending", "read", "ready")]
        pending, read, ready = queries
        pending_part = Signal.like(self._read_part, name="pending_part")
        threshold_start = self._first_bin() if self.sizes.times.parts > 1 else Const(0)
        latency = self.sizes.times.settle_latency
        settled_last = delay(m, marks.word[:self.sizes.word_bits], latency, "settled_last")
        origin: Any = Signal(self.sizes.origin, name="counted_origin")
        m.d.comb += origin.word.eq(counted.first_word)
        if self.sizes.block:
            m.d.comb += origin.final.eq(last)
        settled_origin = delay(m, origin, latency, "settled_origin")
        found_last = Signal(self.sizes.word_bits, reset_less=True)
        threshold = Signal.like(merge.threshold, name="ready_threshold", reset_less=True)
        is_pending, is_found, early = Signal(), Signal(), Signal()
        if self.sizes.times.parts > 1:
            # By the time the part is known, the last word has long been counted.
            m.d.comb += early.eq(merge.settled & ~is_pending)
        started = self._started
        m.d.sync += started.eq(Cat(strobes.merge_start, started))
        m.d.comb += strobes.merge_start.eq(
            (is_pending | early | (merge.boot != 0)) & ~merge.busy & (merge.merges != limit)
            & (~started[:-1].any() if merge.bins + 1 < len(started) else 1))
        started_early = delay_control(m, strobes.merge_start & early, 1, "started_early")
        with m.If(strobes.merge_start):
            m.d.sync += self._read_part.eq(Mux(early, part.number, pending_part))
        with m.If((strobes.merge_start & ~early) | started_early):
            m.d.sync += read.eq(pending)
        with m.If(merge.settled):
            m.d.sync += [
                is_pending.eq(~(strobes.merge_start & early)), pending_part.eq(part.number),
                pending.missing.eq(part.missing), pending.last.eq(settled_last),
                pending.origin.eq(settled_origin)]
        with m.Elif(strobes.merge_start & (merge.boot == 0)):
            m.d.sync += is_pending.eq(0)

        # The outcome leaves the search when the next query's bins arrive there, or earlier.
        keep = Signal()
        m.d.comb += keep.eq((merge.merged | is_found) & ~strobes.merge_ready)
        with m.If(started[-1]):
            m.d.sync += [merge.threshold.eq(threshold_start), merge.found.eq(0),
                         merge.missing.eq(read.missing), found_last.eq(read.last),
                         merge.origin.eq(read.origin)]
        with m.If(keep):
            m.d.sync += [
                is_found.eq(0), strobes.merge_ready.eq(1), threshold.eq(merge.threshold),
                ready.missing.eq(merge.missing), ready.last.eq(found_last),
                ready.origin.eq(merge.origin)]
        with m.Else():
            with m.If(merge.merged):
                m.d.sync += is_found.eq(1)
            with m.If(strobes.hand):
                m.d.sync += strobes.merge_ready.eq(0)
        return Merged(threshold=threshold, missing=ready.missing, last=ready.last,
                      origin=ready.origin)

    def put(self, m: Module, item: Any, *, distance: Value, normal: Value, forced: Value) -> None:
        """A separate mark for keys selected by distance costs a bit, and saves logic."""
        m.d.comb += [item.code.eq(distance), item.normal.eq(normal), item.forced.eq(forced)]

    def is_normal(self, item: Any) -> Value:
        return item.normal

    def hit_depth(self, most: int) -> int:
        return 1 << ceil_log2(2 * most)

    def start_emit(self, m: Module, *, ended: Value, scanned: Any, is_free: Value, take: Signal
                   ) -> Any:
        """A scanned query may wait until the one before has left."""
        emit_wait = Signal()
        wait = Signal.like(scanned, name="wait", reset_less=True)
        m.d.comb += take.eq(emit_wait & is_free)
        with m.If(ended):
            m.d.sync += [emit_wait.eq(1), wait.eq(scanned)]
        with m.Elif(take):
            m.d.sync += emit_wait.eq(0)
        return wait

    def read_hits(self, m: Module, emit: Any) -> list[Value]:
        """Distances are read from a separate memory, as the bank is busy with the next scan."""
        hits = emit.hits
        hit_base = hits.read.data.word + emit.origin.word
        fetch_valid, fetch_move = Signal(), Signal()
        fetch_last, fetch_keys, fetch_base = (
            Signal.like(value, name=name, reset_less=True) for value, name in (
                (emit.group_last, "fetch_last"), (emit.group_keys, "fetch_keys"),
                (emit.group_base, "fetch_base")))
        m.d.comb += [
            fetch_move.eq(~fetch_valid | emit.group_move),
            emit.hit_move.eq(~emit.hit_valid | fetch_move),
            emit.distances.addr.eq(Cat(hits.read.data.word, emit.bank)),
            emit.distances.en.eq(fetch_move),
        ]
        with m.If(fetch_move):
            m.d.sync += [fetch_valid.eq(emit.hit_valid), fetch_last.eq(emit.hit_last),
                         fetch_keys.eq(hits.read.data.keys), fetch_base.eq(hit_base)]
        if emit.survivors is not None:
            emit.survivors.follow(m, fetch=fetch_move, group=emit.group_move)
            with m.If(fetch_move & emit.survivors.hit_old):
                m.d.sync += fetch_keys.eq(1)
        with m.If(emit.group_move):
            m.d.sync += [emit.group_valid.eq(fetch_valid), emit.group_last.eq(fetch_last),
                         emit.group_keys.eq(fetch_keys), emit.group_base.eq(fetch_base),
                         emit.held.eq(emit.distances.data)]
        return [emit.held[lane] for lane in range(self.sizes.group)]
