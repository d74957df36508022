"""Serial design: one query is counted or merged at a time, in half the memory.

Any block RAM will do.
"""

from typing import Any

from amaranth import *
from amaranth.lib import data
from amaranth.utils import ceil_log2

from nearbit_hw.pipeline import delay, delay_control
from nearbit_hw.ram import block_ram
from nearbit_hw.select.histogram.count import Counter, Marks
from nearbit_hw.select.histogram.design import Design
from nearbit_hw.select.histogram.merge import Merged, add_lanes, add_pair, any_of
from nearbit_hw.select.histogram.parts import Part
from nearbit_hw.select.histogram.sizes import Strobes


__all__ = ["Serial"]


class Serial(Design):
    """A query is counted and merged while the one before is scanned and leaves.

    Each lane has one memory of bins, and the turn of a word is an address bit. So a distance has
    two bins, which are read one after the other.
    """

    @property
    def bins(self) -> int:
        return 2 * self.sizes.key_bits

    @property
    def code_bits(self) -> int:
        return len(Signal(range(self.sizes.key_bits + 2)))

    @property
    def item(self) -> data.StructLayout:
        return data.StructLayout({"code": self.code_bits, "forced": 1})

    def take(self, m: Module, strobes: Strobes, asked: Any, command: Any, block: Any) -> Any:
        """A query is counted as soon as its command is accepted."""
        room = Signal()
        m.d.comb += room.eq(self.merge.uncleared != self.sizes.times.limit)
        m.d.comb += [command.ready.eq(room), strobes.claim.eq(command.valid & room),
                     strobes.load.eq(strobes.claim)]
        return asked

    def count(self, m: Module, strobes: Strobes, marks: Marks, distances: list[Value]
              ) -> tuple[list[Any], list[Signal]]:
        lanes, distance_bits = self.sizes.lanes, self.sizes.distance_bits
        merge = self.merge
        counter = Counter(self.sizes, clears=False)
        stored = [Signal(distance_bits, name=f"stored_{lane}", reset_less=True)
                  for lane in range(lanes)]
        turn = Signal()
        counts: list[Any] = []
        with m.If(strobes.arrive):
            m.d.sync += turn.eq(~turn)
        clearing = delay_control(m, merge.busy, 1, "clearing")
        wrote_turn = Signal(reset_less=True)
        side = Mux(merge.busy, merge.bin[0], turn)
        m.d.sync += wrote_turn.eq(side)
        bin_code = Cat(merge.bin[1:], Const(0, distance_bits - len(merge.bin) + 1))
        for lane in range(lanes):
            m.submodules[f"bins_{lane}"] = bins_ram = block_ram(
                shape=counter.layout, depth=2 << distance_bits)
            read, write_port = bins_ram.read_port(), bins_ram.write_port()
            address = Signal(distance_bits, name=f"bin_{lane}")
            m.d.comb += [
                address.eq(Mux(merge.busy, bin_code, distances[lane])),
                read.addr.eq(Cat(address, side)),
                write_port.addr.eq(Cat(stored[lane], wrote_turn)),
                write_port.data.eq(Mux(clearing, 0, counter.add_one(m, read.data))),
                write_port.en.eq(marks.normal[lane] | clearing),
            ]
            m.d.sync += stored[lane].eq(address)
            counts.append(read.data)
        return counts, stored

    def add(self, m: Module, counts: list[Any]) -> tuple[Value, list[Value], int]:
        """A distance's two counts, one for each turn, arrive one after the other."""
        small, many, level = add_lanes(m, self.sizes, counts, 0)
        before = delay(m, small, 1, "sum_before")
        many = any_of(m, [*many, *(delay(m, bit, 1, f"many_before_{index}")
                                   for index, bit in enumerate(many))], "many_both")
        total, over = add_pair(m, self.sizes, [small, before], "sum_both")
        return total, many + over, level + 1

    def is_whole(self) -> Value:
        return self.merge.busy & self.merge.bin[0]

    def frees(self, strobes: Strobes) -> Value:
        """Bins become free at the hand-over, together with the outcome of the search."""
        return strobes.hand

    def start_merge(self, m: Module, strobes: Strobes, marks: Marks, part: Part, *, asked: Any,
                    counted: Any, last: Value) -> Merged:
        """The query merged is always the one counted last."""
        merge = self.merge
        m.d.comb += strobes.merge_start.eq(
            merge.settled | ((merge.boot != 0) & (merge.merges == 0)))
        with m.If(strobes.claim):
            m.d.sync += [merge.threshold.eq(0), merge.found.eq(0),
                         merge.missing.eq(asked.missing)]
        with m.If(merge.merged):
            m.d.sync += strobes.merge_ready.eq(1)
        with m.Elif(strobes.hand):
            m.d.sync += strobes.merge_ready.eq(0)
        origin: Any = Signal(self.sizes.origin, name="merged_origin")
        m.d.comb += origin.word.eq(counted.first_word)
        return Merged(threshold=merge.threshold, missing=merge.missing, last=marks.word,
                      origin=origin)

    def put(self, m: Module, item: Any, *, distance: Value, normal: Value, forced: Value) -> None:
        """Saves memory: a key outside the range gets a code that is not a distance, by few ORs."""
        out_code = 0
        for bit in reversed(range(self.code_bits)):
            if out_code <= self.sizes.key_bits:
                out_code |= 1 << bit
        is_out = ~normal & ~forced
        m.d.comb += [item.code.eq(distance | Mux(is_out, out_code, 0)), item.forced.eq(forced)]

    def is_normal(self, item: Any) -> Value:
        return ~item.forced

    def hit_depth(self, most: int) -> int:
        return 1 << ceil_log2(most + 1)

    def start_emit(self, m: Module, *, ended: Value, scanned: Any, is_free: Value, take: Signal
                   ) -> Any:
        """A query is scanned only after the one before has left."""
        m.d.comb += take.eq(ended)
        return scanned

    def read_hits(self, m: Module, emit: Any) -> list[Value]:
        """Distances are read from the bank after the scan."""
        hits, bank, scan = emit.hits, emit.scan.bank, emit.scan
        hit_base = hits.read.data.word + emit.origin.word
        m.d.comb += [
            emit.hit_move.eq(~emit.hit_valid | emit.group_move),
            bank.read.addr.eq(Cat(Mux(scan.busy, scan.word, hits.read.data.word), emit.bank)),
            bank.read.en.eq(scan.busy | emit.group_move),
        ]
        with m.If(emit.group_move):
            m.d.sync += [emit.group_valid.eq(emit.hit_valid), emit.group_last.eq(emit.hit_last),
                         emit.group_keys.eq(hits.read.data.keys), emit.group_base.eq(hit_base)]
        return [bank.read.data[0][lane].code[:self.sizes.distance_bits]
                for lane in range(self.sizes.group)]
