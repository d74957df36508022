"""Selection of the nearest keys by histograms in block RAM."""

from typing import Any

from amaranth import *
from amaranth.lib import data, memory
from amaranth.utils import ceil_log2, exact_log2

from nearbit_hw.ram import block_ram
from nearbit_hw.select.selector import Selector


__all__ = ["HistogramTopN"]


# How it works
# ------------
#   count   Each lane counts its distances in block RAM, a bin for each distance. The distances are
#           also written to a bank, with marks: keys that are selected anyway (sinks, recent ones)
#           are `forced`, and what lies outside the range is `out`. Neither is counted.
#   merge   The bins are read in ascending order, all lanes at once, cleared, and summed. The first
#           bin that brings the sum to n is the threshold; what the bins below lack of n is the
#           quota: how many of the keys at the threshold are taken. The bin of the largest distance
#           is never read, and so need not be cleared: if no other is the threshold, it is.
#   scan    The bank is read from its end and compared with the threshold. Words with a selected key
#           are noted in a list of `hits`.
#   emit    When the scan has ended, the keys in the list leave, one per cycle.
#
# A bin is read and written again two cycles later, so lanes have two memories, and words go to the
# one and the other in turn. With `overlap` one port of a memory counts while the other merges the
# query before, in the other half; the ports never meet, as their addresses differ in a bit that is
# the inverse of the other's. Without it there is one memory, and the turn is a bit of the address.
#
# Where the words of a pass have more than one `group` of lanes, `emit` goes from group to group,
# and memories that are written a word wide are read a group wide, which saves a multiplexer.

GROUP = 4
"""Lanes among which a selected key is looked for at once."""

RAM_WIDTH, RAM_DEPTH = 18, 1024
"""Bits of a word, and words, of a block RAM with two full ports (ECP5, 7 series)."""


class HistogramTopN(Selector):
    """The nearest keys of each query.

    Takes the distances of one query after another, :py:`lanes` per cycle without ever stalling,
    and emits the selection of the numeric contract: the first :py:`sink` and the last
    :py:`recent` keys of the range and, of the rest, the :py:`n` nearest, among equal distances
    those with the larger index; all keys if :py:`sink + recent + n >= count`. Keys leave by
    descending index, without a gap if :py:`o` is not stalled, the last one with :py:`last` set.
    Interchangeable with :class:`nearbit_hw.select.TopN`, but for its cycles.

    A query whose distances come in w words, s of them per :py:`pass_lanes`, and which selects m
    keys, goes through these steps, each of which starts when both the one before and the query
    before have let go. Cycles depend on w and m only.

    - merge: starts :py:`count_latency` cycles after the last word, or in the cycle in which the
      query before is handed over. :py:`merge_cycles` later it is handed to the scan, or as soon as
      that can start.
    - scan: reads in the ceil(w / s) cycles after the hand-over. The next can start
      :py:`scan_gap` cycles after the last read, while at most one other query is scanned or
      emitted.
    - emit: starts :py:`scan_latency` cycles after the last read, or, with :py:`overlap`, in the
      cycle before the last key of the query before is presented. The first key is presented
      :py:`emit_latency` cycles later, the others in the cycles after.

    With :py:`overlap`, a command is taken when no other waits to be counted and at most one query
    is not handed over; otherwise, from the cycle on in which the last key of the query before is
    presented. It must be accepted at least two cycles before its first distances. Queries that
    follow each other without a pause are
    max(w, merge_cycles, ceil(w / s) + scan_gap, m + emit_latency - 1) cycles apart with
    :py:`overlap`, as long as the commands come early enough. After reset, the bins are cleared
    before the first command is taken.

    Bins are in block RAM with two ports that read and write, if :py:`overlap` (ECP5, but not
    iCE40); otherwise any will do.

    Reference: :func:`nearbit_model.golden.select_one`.

    Members are those of :class:`~nearbit_hw.select.Selector`.

    Parameters
    ----------
    key_bits : :class:`int`
        The largest distance. At least 1.
    lanes : :class:`int`
        Distances per word, a power of two.
    capacity : :class:`int`
        Keys of the longest range, a multiple of :py:`pass_lanes`.
    top_n : :class:`int`
        The most keys that a query selects, at most :py:`capacity`.
    pass_lanes : :class:`int`
        Distances scanned per cycle: :py:`lanes` times a power of two.
    overlap : :class:`bool`
        Whether a query can be counted while the one before is merged, and scanned while the one
        before is emitted; otherwise one query is in work at a time.
    """

    def __init__(self, *, key_bits: int, lanes: int, capacity: int, top_n: int,
                 pass_lanes: int | None = None, overlap: bool = True):
        super().__init__(key_bits=key_bits, lanes=lanes, capacity=capacity, top_n=top_n,
                         pass_lanes=pass_lanes)
        self._overlap = bool(overlap)

    @property
    def overlap(self) -> bool:
        return self._overlap

    @property
    def banks(self) -> int:
        """Queries in work at the same time."""
        return 4 if self._overlap else 1

    @property
    def _levels(self) -> int:
        """Registers from a bin that was read to the sum that is compared with what is missing."""
        return ceil_log2(self._lanes) + (3 if self._overlap else 2)

    @property
    def merge_cycles(self) -> int:
        """Cycles from the start of merging a query to its hand-over, if the scan is free.

        :py:`key_bits + 6 + log2(lanes)` with :py:`overlap`, else
        :py:`2 * key_bits + 5 + log2(lanes)`.
        """
        return self._key_bits * (1 if self._overlap else 2) + self._levels + 3

    @property
    def count_latency(self) -> int:
        """Cycles from a query's last word to the start of merging it."""
        return 2 if self._overlap else 1

    @property
    def scan_gap(self) -> int:
        """Cycles from a query's last read to the earliest hand-over of the next."""
        return 5 + exact_log2(self._pass_lanes // min(GROUP, self._lanes))

    @property
    def scan_latency(self) -> int:
        """Cycles from a query's last read to the start of emitting it, if that is free."""
        groups = self._pass_lanes // min(GROUP, self._lanes)
        return (6 if self._overlap else 5) + exact_log2(groups)

    @property
    def emit_latency(self) -> int:
        """Cycles from the start of emitting a query to its first key, if never stalled."""
        if self._pass_lanes > min(GROUP, self._lanes):
            return 7
        return 5 if self._overlap else 4

    def latency(self, *, words: int, selected: int) -> int:
        """Cycles from a query's last word to its last key, if nothing else is in work."""
        reads = -(-words * self._lanes // self._pass_lanes)
        return (self.count_latency + self.merge_cycles + reads + self.scan_latency
                + self.emit_latency + selected - 1)

    def elaborate(self, platform) -> Module:
        m = Module()
        overlap = self._overlap
        lanes, ratio = self._lanes, self._pass_lanes // self._lanes
        ratio_bits = exact_log2(ratio)
        group = min(GROUP, lanes)          # lanes of a group
        groups = self._pass_lanes // group # groups of what is scanned at once
        word_groups = lanes // group
        lane_bits, group_bits = exact_log2(lanes), exact_log2(group)
        words = self._capacity // lanes
        word_bits = max(ceil_log2(words), ratio_bits + 1)
        bank_bits = exact_log2(self.banks)
        hist_limit = 2 if overlap else 1
        late_limit = 2 if overlap else 1

        distance_bits = len(Signal(range(self._key_bits + 1)))

        def delay(value: Any, cycles: int, name: str) -> Any:
            for cycle in range(cycles):
                delayed = Signal.like(value, name=f"{name}_{cycle}", reset_less=True)
                m.d.sync += delayed.eq(value)
                value = delayed
            return value

        def delay_control(value: Value, cycles: int, name: str) -> Value:
            if not cycles:
                return value
            pipe = Signal(cycles, name=name)
            m.d.sync += pipe.eq(Cat(value, pipe))
            return pipe[-1]

        # ---- Commands. Positions are relative to the first word's lane 0.
        position = range(self._capacity + lanes)
        # Minus the keys that are missing; beyond 0 goes what a word or a bin had too many of.
        missing_shape = Shape.cast(range(-self._top_n, max(2 * self._pass_lanes, 2 * self._top_n)))
        query = data.StructLayout({
            "skip": lane_bits,
            "end": position,
            "normal_start": range(lanes + self._top_n),
            "normal_end": position,
            "no_normal": 1,
            "first_word": word_bits,
            "missing": missing_shape, # -n
        })
        command = self.i_command.p
        asked: Any = Signal(query)
        normal_end = Signal(signed(len(Signal(position)) + 1))
        end = Signal(position)
        m.d.comb += [
            end.eq(command.skip + command.count),
            normal_end.eq(end - command.recent),
            asked.skip.eq(command.skip),
            asked.end.eq(end),
            asked.normal_start.eq(command.skip + command.sink),
            asked.normal_end.eq(normal_end),
            asked.no_normal.eq(normal_end < 0),
            asked.first_word.eq(command.word),
            asked.missing.eq(-command.n),
        ]

        claim = Signal()   # a command is taken
        release = Signal() # the oldest bank is free again
        hand = Signal()    # a merged query goes to the scan, which needs its bins no more
        # There is a bank for each query that is not merged, and each that is scanned or emitted.
        unmerged = Signal(range(hist_limit + 1), init=hist_limit)
        m.d.comb += claim.eq(self.i_command.valid & self.i_command.ready)

        arrive, finish = Signal(), Signal()
        m.d.comb += [arrive.eq(self.i.valid), finish.eq(arrive & self.i.p.last)]
        counted: Any = Signal(query, reset_less=True)
        load = Signal()
        room = Signal()
        m.d.comb += room.eq(unmerged != hist_limit)
        if overlap:
            waiting: Any = Signal(query, reset_less=True)
            waiting_valid, counted_valid = Signal(), Signal()
            m.d.comb += [
                self.i_command.ready.eq(room & ~waiting_valid),
                load.eq((finish | ~counted_valid) & waiting_valid),
            ]
            with m.If(claim):
                m.d.sync += [waiting.eq(asked), waiting_valid.eq(1)]
            with m.Elif(load):
                m.d.sync += waiting_valid.eq(0)
            with m.If(load):
                m.d.sync += counted_valid.eq(1)
            with m.Elif(finish):
                m.d.sync += counted_valid.eq(0)
            loaded = waiting
        else:
            m.d.comb += [self.i_command.ready.eq(room), load.eq(claim)]
            loaded = asked

        # ---- Count: which lanes are in the range, and which of those are not forced.
        def from_lane(position: Value) -> Value:
            lane = position[:lane_bits]
            return Cat(index >= lane for index in range(lanes))

        # A mask says which lanes come at a position or after it, in the word of the position. In
        # the words after it is all ones.
        word = Signal(word_bits)
        from_skip, from_end, from_start, from_stop = (
            Signal(lanes, name=name, reset_less=True)
            for name in ("from_skip", "from_end", "from_start", "from_stop"))
        end_begun, start_begun, stop_begun = (
            Signal(name=name, reset_less=True)
            for name in ("end_begun", "start_begun", "stop_begun"))
        ones = Const(-1, lanes)

        def at(position: Value, begun: Value, name: str) -> Signal:
            here = Signal(name=f"at_{name}")
            m.d.comb += here.eq((word == position[lane_bits:]) | begun)
            return here

        at_end = at(counted.end, end_begun, "end")
        at_start = at(counted.normal_start, start_begun, "start")
        at_stop = at(counted.normal_end, stop_begun, "stop")
        with m.If(arrive):
            m.d.sync += [from_skip.eq(ones),
                         end_begun.eq(at_end), start_begun.eq(at_start), stop_begun.eq(at_stop)]
            with m.If(at_end):
                m.d.sync += from_end.eq(ones)
            with m.If(at_start):
                m.d.sync += from_start.eq(ones)
            with m.If(at_stop):
                m.d.sync += from_stop.eq(ones)
            with m.If(~self.i.p.last):
                m.d.sync += word.eq(word + 1)
        with m.If(load):
            m.d.sync += [
                counted.eq(loaded),
                from_skip.eq(from_lane(loaded.skip)),
                from_end.eq(from_lane(loaded.end)),
                from_start.eq(from_lane(loaded.normal_start)),
                from_stop.eq(from_lane(loaded.normal_end) | loaded.no_normal.replicate(lanes)),
                word.eq(0), end_begun.eq(0), start_begun.eq(0), stop_begun.eq(loaded.no_normal),
            ]
        now_normal, now_inside = Signal(lanes), Signal(lanes)
        normal, forced = Signal(lanes, reset_less=True), Signal(lanes, reset_less=True)
        m.d.comb += [
            now_normal.eq(from_start & at_start.replicate(lanes)
                          & ~(from_stop & at_stop.replicate(lanes))),
            now_inside.eq(from_skip & ~(from_end & at_end.replicate(lanes))),
        ]
        m.d.sync += [normal.eq(now_normal), forced.eq(now_inside & ~now_normal)]
        with m.If(~arrive):
            m.d.sync += normal.eq(0)

        # ---- Merge: control. After reset all bins are cleared, as if queries had been counted.
        bins = self._key_bits * (1 if overlap else 2)
        bin_ = Signal(range(bins))
        bin_busy = Signal()
        merging = Signal()              # until the query is handed to the scan
        merge_real = Signal()           # no more is to be cleared after reset
        merge_start, merge_ready = Signal(), Signal()
        boot = Signal(range(hist_limit + 1), init=hist_limit)
        settled = delay_control(finish, 1, "settled")

        # ---- Count: the bins of each lane.
        # A count below `enough` is exact; as no more keys are asked for, of one above it is only
        # known that it is.
        enough_bits = ceil_log2(self._top_n)
        limit = -(-words // 2)
        exact_bits = min(enough_bits, len(Signal(range(limit + 1))))
        # Bit 3 and those above it change if `carry`, which says that the bits below are set.
        fast = exact_bits > 3

        def counter_with(rings: int) -> data.StructLayout:
            return data.StructLayout({
                "high": max(exact_bits - 3, 0), "enough": int(limit >> exact_bits != 0),
                "carry": int(fast), "low": min(exact_bits, 3),
                **{f"ring_{bit}": (2 << bit) - 1 for bit in range(rings)}})

        # A bit may be stored with those that it will have next, until they repeat. Adding one turns
        # such a ring by a place, without a LUT. Block RAM is that wide anyway, if not deeper; but
        # without a port of their own to clear them, each bit would cost a LUT again.
        wide_enough = overlap and 2 << distance_bits <= RAM_DEPTH
        rings = max(count for count in range(min(3, exact_bits) + 1)
                    if not count or (wide_enough and counter_with(count).size <= RAM_WIDTH))
        counter = counter_with(rings)
        # A ring of a count of 0: half a turn of zeros, of which `low` has the first, then ones.
        cleared = sum(((1 << (1 << bit)) - 1) << ((1 << bit) - 1) << counter[f"ring_{bit}"].offset
                      for bit in range(rings))

        def add_one(old: Any) -> Any:
            new: Any = Signal(counter, name="new_count")
            carries: Value = old.low.all()
            m.d.comb += new.low.eq(old.low + 1)
            for bit in range(rings):
                ring = Cat(old.low[bit], old[f"ring_{bit}"])
                m.d.comb += Cat(new.low[bit], new[f"ring_{bit}"]).eq(ring.rotate_right(1))
            if fast:
                m.d.comb += [
                    new.carry.eq(old.low == 6),
                    new.high.eq(Mux(old.carry, old.high + 1, old.high)),
                ]
                carries = old.high.all() & old.carry
            # If no key can follow the one that makes it enough, that bit need not stay.
            m.d.comb += new.enough.eq(carries | (old.enough if limit > 1 << exact_bits else 0))
            return new

        distances = [self.i.p.distances[lane] for lane in range(lanes)]
        terms: list[Any] = [] # counts of a bin, by lane
        stored = [Signal(distance_bits, name=f"stored_{lane}", reset_less=True)
                  for lane in range(lanes)]
        turn = Signal()

        if overlap:
            with m.If(arrive):
                m.d.sync += turn.eq(~turn)
            count_bank, merge_bank = Signal(), Signal()
            with m.If(finish):
                m.d.sync += count_bank.eq(~count_bank)
            with m.If(merge_start):
                m.d.sync += merge_bank.eq(~merge_bank)
            for lane in range(lanes):
                m.d.sync += stored[lane].eq(distances[lane])
            for name, mine in [("even", ~turn), ("odd", turn)]:
                take = Signal(name=f"take_{name}")
                own_bank = Signal(name=f"bank_{name}")
                m.d.comb += take.eq(arrive & mine)
                # The other port has the other half from the start of merging on.
                with m.If(merge_start):
                    m.d.sync += own_bank.eq(~merge_bank)
                with m.Elif(take):
                    m.d.sync += own_bank.eq(count_bank)
                taken = delay_control(take, 1, f"taken_{name}")
                write = Signal(lanes, name=f"write_{name}")
                with m.If(taken):
                    m.d.sync += write.eq(normal)
                with m.Else():
                    m.d.sync += write.eq(0)
                for lane in range(lanes):
                    # Without the attribute no_rw_check: a bin is read while it is cleared.
                    bins_ram: Any = memory.Memory(
                        shape=counter, depth=2 << distance_bits, init=[],
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
                        count_write.data.eq(add_one(count_read.data)),
                        count_write.en.eq(write[lane]),
                        merge_read.addr.eq(Cat(bin_[:distance_bits],
                                               Const(0, distance_bits - len(bin_)), ~own_bank)),
                        clear.addr.eq(merge_read.addr),
                        clear.data.eq(cleared),
                        clear.en.eq(bin_busy),
                    ]
                    terms.append(merge_read.data)
        else:
            with m.If(arrive):
                m.d.sync += turn.eq(~turn)
            clearing = delay_control(bin_busy, 1, "clearing")
            wrote_turn = Signal(reset_less=True)
            side = Mux(bin_busy, bin_[0], turn)
            m.d.sync += wrote_turn.eq(side)
            bin_code = Cat(bin_[1:], Const(0, distance_bits - len(bin_) + 1))
            for lane in range(lanes):
                m.submodules[f"bins_{lane}"] = bins_ram = block_ram(
                    shape=counter, depth=2 << distance_bits)
                read, write_port = bins_ram.read_port(), bins_ram.write_port()
                address = Signal(distance_bits, name=f"bin_{lane}")
                m.d.comb += [
                    address.eq(Mux(bin_busy, bin_code, distances[lane])),
                    read.addr.eq(Cat(address, side)),
                    write_port.addr.eq(Cat(stored[lane], wrote_turn)),
                    write_port.data.eq(Mux(clearing, 0, add_one(read.data))),
                    write_port.en.eq(normal[lane] | clearing),
                ]
                m.d.sync += stored[lane].eq(address)
                terms.append(read.data)

        # ---- Merge: the sum over the lanes, registered at each level. Beside it goes whether it,
        # or a part of it, is `enough`.
        if overlap:
            # Block RAM is slow, and so wide that it is far from the adders.
            terms = [delay(term, 1, f"count_{index}") for index, term in enumerate(terms)]
        small_terms: list[Value] = [Cat(term.low, term.high) for term in terms]
        many_terms: list[Value] = [term.enough for term in terms] if len(terms[0].enough) else []

        def add_pair(terms: list[Value], name: str) -> tuple[Value, list[Value]]:
            bits = max(map(len, terms))
            total = Signal(bits + (len(terms) > 1), name=name, reset_less=True)
            m.d.sync += total.eq(sum(terms, Const(0, 1)))
            return total[:enough_bits], list(total[enough_bits:])

        def any_of(terms: list[Value], name: str) -> list[Value]:
            found = Signal(name=name, reset_less=True)
            m.d.sync += found.eq(Cat(terms).any())
            return [found] if terms else []

        level = int(overlap)
        while len(small_terms) > 1:
            sums: list[Value] = []
            many: list[Value] = []
            for start in range(0, len(small_terms), 2):
                total, over = add_pair(small_terms[start:start + 2], f"sum_{level}_{start}")
                sums.append(total)
                many += over
            for start in range(0, len(many_terms), 4):
                many += any_of(many_terms[start:start + 4], f"many_{level}_{start}")
            small_terms, many_terms, level = sums, many, level + 1
        if not overlap:
            # The other turn's count follows.
            before = delay(small_terms[0], 1, "sum_before")
            many_terms = any_of([*many_terms, *(delay(many, 1, f"many_before_{index}")
                                                for index, many in enumerate(many_terms))],
                                "many_both")
            total, over = add_pair([small_terms[0], before], "sum_both")
            small_terms, many_terms, level = [total], many_terms + over, level + 1
        small = Signal(enough_bits, reset_less=True)
        m.d.sync += small.eq(small_terms[0])
        enough: list[Value] = any_of(many_terms, "many")
        many_found = enough[0] if enough else Const(0)
        level += 1

        add = delay_control(bin_busy if overlap else bin_busy & bin_[0], level + 1, "add")
        merge_end = Signal()
        m.d.comb += merge_end.eq(bin_busy & (bin_ == bins - 1))
        merged = delay_control(merge_end, level + 2, "merged")
        missing = Signal(missing_shape, reset_less=True)
        threshold = Signal(distance_bits, reset_less=True)
        found = Signal(reset_less=True)
        less = Signal.like(missing)
        m.d.comb += less.eq(missing + small)
        with m.If(add & ~found):
            with m.If(many_found | ~less[-1]):
                m.d.sync += found.eq(1)
            with m.Else():
                m.d.sync += [missing.eq(less), threshold.eq(threshold + 1)]
        with m.If(merge_end):
            m.d.sync += [bin_busy.eq(0), bin_.eq(0)]
        with m.Elif(bin_busy):
            m.d.sync += bin_.eq(bin_ + 1)
        with m.If(merged):
            m.d.sync += merge_ready.eq(1)
        with m.If(hand):
            m.d.sync += [merge_ready.eq(0), merging.eq(0)]
        with m.If(merge_start):
            m.d.sync += [merging.eq(1), bin_busy.eq(1)]
            with m.If(boot != 0):
                m.d.sync += boot.eq(boot - 1)
        with m.If(merge_real):
            m.d.sync += unmerged.eq(unmerged + claim - (hand if overlap else release))
        with m.Elif(hand & (boot == 0)):
            m.d.sync += [unmerged.eq(0), merge_real.eq(1)]

        if overlap:
            # The next query may be counted before this one is merged.
            pending = Signal()
            pending_missing, pending_word, pending_first = (
                Signal.like(value, name=name, reset_less=True) for value, name in (
                    (missing, "pending_missing"), (word, "pending_word"),
                    (word, "pending_first")))
            merge_word = Signal(word_bits, reset_less=True)
            merge_first = Signal(word_bits, reset_less=True)
            settled_missing = delay(counted.missing, 1, "settled_missing")
            settled_word = delay(word, 1, "settled_word")
            settled_first = delay(counted.first_word, 1, "settled_first")
            m.d.comb += merge_start.eq((pending | (boot != 0)) & (~merging | hand))
            with m.If(merge_start):
                m.d.sync += [
                    threshold.eq(0), found.eq(0), missing.eq(pending_missing),
                    merge_word.eq(pending_word), merge_first.eq(pending_first),
                ]
                with m.If(boot == 0):
                    m.d.sync += pending.eq(0)
            with m.If(settled):
                m.d.sync += [
                    pending.eq(1), pending_missing.eq(settled_missing),
                    pending_word.eq(settled_word), pending_first.eq(settled_first),
                ]
        else:
            merge_word, merge_first = word, counted.first_word
            m.d.comb += merge_start.eq(settled | ((boot != 0) & ~merging))
            with m.If(claim):
                m.d.sync += [threshold.eq(0), found.eq(0), missing.eq(asked.missing)]

        # ---- Banks.
        # Without overlap memory comes first: what is out has a code that is no distance. A mark of
        # its own instead costs a bit, and saves logic.
        code_bits = distance_bits if overlap else len(Signal(range(self._key_bits + 2)))
        out_code = 0
        for bit in reversed(range(code_bits)):
            if out_code <= self._key_bits:
                out_code |= 1 << bit
        item = data.StructLayout({"code": code_bits, "normal": int(overlap), "forced": 1})
        word_items = data.ArrayLayout(item, lanes)
        bank_words = self.banks << word_bits
        m.submodules.items = items = block_ram(
            shape=data.ArrayLayout(word_items, ratio), depth=bank_words // ratio)
        item_write = items.write_port(granularity=1 if ratio > 1 else None)
        item_read = items.read_port()
        write_bank, scan_bank, emit_bank = (Signal(bank_bits, name=name) for name in (
            "write_bank", "scan_bank", "emit_bank"))
        arrived = delay_control(arrive, 1, "arrived")
        finished = delay_control(finish, 1, "finished")
        write_word = delay(word, 1, "write_word")
        with m.If(finished):
            m.d.sync += write_bank.eq(write_bank + 1)
        m.d.comb += [
            item_write.addr.eq(Cat(write_word, write_bank)[ratio_bits:]),
            item_write.en.eq(arrived << write_word[:ratio_bits]),
        ]
        marked: Any = Signal(word_items)
        for lane in range(lanes):
            is_out = ~normal[lane] & ~forced[lane]
            m.d.comb += [
                marked[lane].code.eq(
                    stored[lane] if overlap else stored[lane] | Mux(is_out, out_code, 0)),
                marked[lane].normal.eq(normal[lane]),
                marked[lane].forced.eq(forced[lane]),
            ]
        for part in range(ratio):
            m.d.comb += item_write.data[part].eq(marked)

        # ---- Scan: from the last word to the first.
        scan_busy, scan_start = Signal(), Signal()
        scan_word = Signal(word_bits - ratio_bits, reset_less=True)
        scan_first = Signal(word_bits, reset_less=True)
        scan_threshold = Signal(distance_bits, reset_less=True)
        scan_missing = Signal(missing_shape, reset_less=True)
        scan_part = Signal(ratio_bits, reset_less=True)
        scan_top = Signal(reset_less=True)
        scan_end = Signal()
        late = Signal(range(late_limit + 1)) # queries scanned and emitted
        # Values of the query before are in use for some cycles more.
        scan_rest = Signal(4 + exact_log2(groups))
        m.d.comb += [
            scan_end.eq(scan_busy & (scan_word == 0)),
            scan_start.eq(merge_ready & merge_real & ~scan_busy & ~scan_rest.any()
                          & (late != late_limit)),
            hand.eq(scan_start | (merge_ready & ~merge_real)),
        ]
        m.d.sync += [late.eq(late + scan_start - release),
                     scan_rest.eq(Cat(scan_end, scan_rest))]
        with m.If(scan_start):
            m.d.sync += [
                scan_busy.eq(1), scan_word.eq(merge_word[ratio_bits:]),
                scan_part.eq(merge_word[:ratio_bits]), scan_top.eq(1),
                scan_first.eq(merge_first), scan_threshold.eq(threshold),
                scan_bank.eq(scan_bank + 1),
            ]
        with m.Elif(scan_busy):
            m.d.sync += [scan_word.eq(scan_word - 1), scan_top.eq(0)]
            with m.If(scan_end):
                m.d.sync += scan_busy.eq(0)
        scanned_bank = Signal(bank_bits)
        m.d.comb += scanned_bank.eq(scan_bank - 1)

        # Two cycles to compare with the threshold, one to count.
        read_valid = delay_control(scan_busy, 1, "read_valid")
        read_top = delay(scan_top, 1, "read_top")
        below, level_ = (Signal(self._pass_lanes, name=name, reset_less=True)
                         for name in ("below", "level"))
        for part in range(ratio):
            # What a bank holds beyond the last word is of an older query.
            stale = Signal(name=f"stale_{part}")
            m.d.comb += stale.eq(read_top & (part > scan_part))
            stale_1 = delay(stale, 1, f"stale_{part}")
            for lane in range(lanes):
                source = item_read.data[part][lane]
                place = part * lanes + lane
                # The lowest bit alone, the others in pairs.
                low_bit, low_eq, is_normal, is_forced = (
                    Signal(name=f"{name}_{place}", reset_less=True)
                    for name in ("low_bit", "low_eq", "is_normal", "is_forced"))
                normal_here = source.normal if overlap else ~source.forced
                m.d.sync += [
                    low_bit.eq(source.code[0]),
                    low_eq.eq((source.code[0] == scan_threshold[0]) & normal_here),
                    is_normal.eq(normal_here),
                    is_forced.eq(source.forced),
                ]
                is_lt: Value = ~low_bit & scan_threshold[0]
                is_eq: Value = low_eq
                limit_code = Cat(scan_threshold, Const(0, code_bits - distance_bits))
                for low in range(1, code_bits, 2):
                    mine, other = source.code[low:low + 2], limit_code[low:low + 2]
                    lt, eq = (Signal(name=f"{name}_{place}_{low}", reset_less=True)
                              for name in ("lt", "eq"))
                    higher = ~mine[-1] & other[-1]
                    if len(mine) == 2:
                        higher = higher | ((mine[1] == other[1]) & ~mine[0] & other[0])
                    m.d.sync += [lt.eq(higher), eq.eq(mine == other)]
                    is_lt = lt | (eq & is_lt)
                    is_eq = is_eq & eq
                m.d.sync += [
                    below[place].eq(((is_lt & is_normal) | is_forced) & ~stale_1),
                    level_[place].eq(is_eq & ~stale_1),
                ]

        # ---- Scan: keys of a group, and whether the word has any.
        noted_below, noted_level = (Signal(self._pass_lanes, name=name, reset_less=True)
                                    for name in ("noted_below", "noted_level"))
        m.d.sync += [noted_below.eq(below), noted_level.eq(level_)]
        group_below, group_level = (
            [Signal(name=f"{name}_{index}", reset_less=True) for index in range(groups)]
            for name in ("group_has_below", "group_has_level"))
        group_count: list[Any] = [
            Signal(range(group + 1), name=f"group_count_{index}", reset_less=True)
            for index in range(groups)]
        for index in range(groups):
            part_lanes = slice(index * group, (index + 1) * group)
            m.d.sync += [group_below[index].eq(below[part_lanes].any()),
                         group_level[index].eq(level_[part_lanes].any()),
                         group_count[index].eq(sum(level_[part_lanes]))]
        def less_equal(a: Value, b: Value) -> Value:
            """Compare in LUTs; Yosys takes carry chains, which are larger."""
            less: Value = Const(1, 1)
            for low in range(0, len(a), 2):
                x, y = a[low:low + 2], b[low:low + 2]
                higher = ~x[-1] & y[-1]
                if len(x) == 2:
                    higher = higher | ((x[1] == y[1]) & ~x[0] & y[0])
                less = higher | ((x == y) & less)
            return less

        # How many keys at the threshold a group and those above it have.
        steps = exact_log2(groups)
        for step in range(steps):
            through_sums: list[Any] = []
            for index, term in enumerate(group_count):
                upper = (index >> step | 1) << step
                most = group * min(groups - index, 2 << step)
                through = Signal(range(most + 1), name=f"through_{step}_{index}", reset_less=True)
                m.d.sync += through.eq(
                    term if index >= upper else term + group_count[upper])
                through_sums.append(through)
            group_count = through_sums
        group_below = [delay(value, steps, f"group_below_{index}")
                       for index, value in enumerate(group_below)]
        group_level = [delay(value, steps, f"group_level_{index}")
                       for index, value in enumerate(group_level)]
        noted_below = delay(noted_below, steps, "noted_below")
        noted_level = delay(noted_level, steps, "noted_level")
        note_valid = delay_control(read_valid, 3 + steps, "note_valid")
        note_word = delay(scan_word, 4 + steps, "note_word")
        note_last = delay_control(scan_end, 4 + steps, "note_last")
        above = [*group_count[1:], Const(0, 1)]
        level_count = group_count[0]
        note_groups = Signal(groups)
        for index in range(groups):
            more = above[index] # than this many must be missing
            covered = (scan_missing[len(more):-1].all()
                       & ~less_equal(more, ~scan_missing[:len(more)]))
            m.d.comb += note_groups[index].eq(group_below[index] | (
                group_level[index] & scan_missing[-1] & ~covered))

        def wanted(missing: Value) -> Value:
            """Of the keys of a group at the threshold: whether as many as 1, 2, ... are taken."""
            return Cat(missing[-1] & (Const(1, 1) if number == 1 else ~missing[:-1].all())
                       & ~Cat(missing == -less for less in range(2, number)).any()
                       for number in range(1, group + 1))

        def resolve(below: Value, level: Value, wanted: Value) -> Value:
            """Which keys of a group are selected."""
            keys = Signal(group, name="keys", reset_less=True)
            for lane in range(group):
                above = sum(level[lane + 1:group], Const(0, 1))
                taken = Cat((above == number) & wanted[number]
                            for number in range(group - lane)).any()
                m.d.comb += keys[lane].eq(below[lane] | (level[lane] & taken))
            return keys

        # ---- Hits: at most one word for each key.
        most = min(self._top_n, self._capacity // self._pass_lanes)
        hit_depth = 1 << ceil_log2(2 * most if overlap else most + 1)
        above_shape = range(self._pass_lanes - group + 1)
        flag_layout = data.StructLayout({"below": group, "level": group})
        flag_read: Any = None
        distance_read: Any = None
        if groups > 1:
            hit = data.StructLayout({
                "word": word_bits - ratio_bits,
                "groups": groups,
                "missing": missing_shape,
                "above": data.ArrayLayout(above_shape, groups - 1),
            })
        else:
            hit = data.StructLayout({"word": word_bits, "keys": group})
        m.submodules.hits = hits = block_ram(shape=hit, depth=hit_depth)
        hit_write, hit_read = hits.write_port(), hits.read_port()
        produce, consume = Signal(range(hit_depth)), Signal(range(hit_depth))
        m.d.comb += [
            hit_write.addr.eq(produce),
            hit_write.en.eq(note_valid & note_groups.any()),
            hit_write.data.word.eq(note_word),
        ]
        with m.If(hit_write.en):
            m.d.sync += produce.eq(produce + 1)
        with m.If(note_valid & scan_missing[-1]):
            m.d.sync += scan_missing.eq(scan_missing + level_count)
        if groups > 1:
            m.d.comb += [
                hit_write.data.groups.eq(note_groups),
                hit_write.data.missing.eq(scan_missing),
                *(hit_write.data.above[index].eq(above[index]) for index in range(groups - 1)),
            ]
            m.submodules.flags = flags = block_ram(shape=flag_layout, depth=hit_depth * groups)
            flag_read = flags.read_port()
            for index in range(groups):
                flag_write = flags.write_port()
                part_lanes = slice(index * group, (index + 1) * group)
                m.d.comb += [
                    flag_write.addr.eq(Cat(Const(index, exact_log2(groups)), produce)),
                    flag_write.data.below.eq(noted_below[part_lanes]),
                    flag_write.data.level.eq(noted_level[part_lanes]),
                    flag_write.en.eq(hit_write.en),
                ]
        else:
            m.d.comb += hit_write.data.keys.eq(
                resolve(noted_below, noted_level, wanted(scan_missing)))

        # ---- Emit: control.
        emit_busy, emit_take, emit_done = Signal(), Signal(), Signal()
        emit_end = Signal.like(produce, reset_less=True)
        emit_first = Signal(word_bits, reset_less=True)
        ended_scan = delay_control(note_last, 1, "ended_scan")
        m.d.comb += release.eq(emit_done)
        if overlap:
            emit_wait = Signal()
            wait_end = Signal.like(produce, reset_less=True)
            wait_first = Signal(word_bits, reset_less=True)
            m.d.comb += emit_take.eq(emit_wait & (~emit_busy | emit_done))
            with m.If(ended_scan):
                m.d.sync += [emit_wait.eq(1), wait_end.eq(produce), wait_first.eq(scan_first)]
            with m.Elif(emit_take):
                m.d.sync += emit_wait.eq(0)
        else:
            wait_end, wait_first = produce, scan_first
            m.d.comb += emit_take.eq(ended_scan)
        with m.If(scan_start):
            m.d.sync += scan_missing.eq(missing)
        with m.If(emit_take):
            m.d.sync += [emit_busy.eq(1), emit_end.eq(wait_end), emit_first.eq(wait_first)]
        with m.Elif(emit_done):
            m.d.sync += emit_busy.eq(0)
        with m.If(emit_done):
            m.d.sync += emit_bank.eq(emit_bank + 1)

        # ---- Emit: the next hit.
        hit_valid, hit_move, hit_last = Signal(), Signal(), Signal()
        hit_more = Signal()
        m.d.comb += [
            hit_read.addr.eq(consume),
            hit_read.en.eq(hit_move),
            hit_more.eq(emit_busy & (consume != emit_end)),
            hit_last.eq(consume == emit_end),
        ]
        with m.If(hit_move):
            m.d.sync += [hit_valid.eq(hit_more), consume.eq(consume + hit_more)]

        # ---- Emit: the next group.
        advance = Signal()
        group_valid, group_done, group_last = (
            Signal(name=name) for name in ("group_valid", "group_done", "group_last"))
        group_keys = Signal(group, reset_less=True)
        held = Signal(data.ArrayLayout(distance_bits, group), reset_less=True)
        group_base = Signal(word_bits + lane_bits - group_bits, reset_less=True)
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)
        group_move = Signal()
        m.d.comb += group_move.eq(~group_valid | group_done)
        if overlap or groups > 1:
            m.submodules.distances = kept_distances = block_ram(
                shape=data.ArrayLayout(distance_bits, group), depth=bank_words * word_groups)
            distance_read = kept_distances.read_port()
            for index in range(word_groups):
                distance_write = kept_distances.write_port()
                m.d.comb += [
                    distance_write.addr.eq(Cat(
                        Const(index, exact_log2(word_groups)), write_word, write_bank)),
                    distance_write.data.eq(Cat(
                        stored[lane]
                        for lane in range(index * group, (index + 1) * group))),
                    distance_write.en.eq(arrived),
                ]
            m.d.comb += item_read.addr.eq(Cat(scan_word, scanned_bank))
        if groups > 1:
            # Groups of a word with hits, from the last one.
            word_valid, word_move, word_last = Signal(), Signal(), Signal(reset_less=True)
            pick: Any = Signal(hit, reset_less=True)
            slot = Signal.like(consume, reset_less=True)
            pick_slot = Signal.like(consume, reset_less=True)
            picked, above_picked = Signal(range(groups)), Signal(above_shape)
            rest = Signal(groups)
            for index in range(groups):
                with m.If(pick.groups[index]):
                    m.d.comb += [
                        picked.eq(index), rest.eq(pick.groups[:index]),
                        above_picked.eq(pick.above[index] if index < groups - 1 else 0)]
            fetch_valid, fetch_move = Signal(), Signal()
            flag_valid, flag_move = Signal(), Signal()
            m.d.comb += [
                flag_move.eq(~flag_valid | group_move),
                fetch_move.eq(~fetch_valid | flag_move),
                word_move.eq(~word_valid | (fetch_move & (rest == 0))),
                hit_move.eq(~hit_valid | word_move),
            ]
            with m.If(hit_move):
                m.d.sync += slot.eq(consume)
            with m.If(word_move):
                m.d.sync += [word_valid.eq(hit_valid), word_last.eq(hit_last),
                             pick.eq(hit_read.data), pick_slot.eq(slot)]
            with m.Elif(fetch_move):
                m.d.sync += pick.groups.eq(rest)

            fetch_last = Signal(reset_less=True)
            fetch_base = Signal.like(group_base, reset_less=True)
            fetch_missing = Signal(missing_shape, reset_less=True)
            split = exact_log2(word_groups)
            pick_word = Cat(picked[split:], pick.word)
            m.d.comb += [
                distance_read.addr.eq(Cat(picked[:split], pick_word, emit_bank)),
                distance_read.en.eq(fetch_move),
                flag_read.addr.eq(Cat(picked, pick_slot)),
                flag_read.en.eq(fetch_move),
            ]
            with m.If(fetch_move):
                m.d.sync += [
                    fetch_valid.eq(word_valid), fetch_last.eq(word_last & (rest == 0)),
                    fetch_base.eq(Cat(picked[:split], (pick_word + emit_first)[:word_bits])),
                    fetch_missing.eq(pick.missing + above_picked),
                ]
            # What was read is kept, then the keys are made out.
            flag: Any = Signal(flag_layout, reset_less=True)
            flag_wanted = Signal(group, reset_less=True)
            flag_last = Signal(reset_less=True)
            flag_base = Signal.like(group_base, reset_less=True)
            flag_distances = Signal.like(held, reset_less=True)
            with m.If(flag_move):
                m.d.sync += [
                    flag_valid.eq(fetch_valid), flag_last.eq(fetch_last),
                    flag_base.eq(fetch_base), flag_wanted.eq(wanted(fetch_missing)),
                    flag.eq(flag_read.data), flag_distances.eq(distance_read.data),
                ]
            with m.If(group_move):
                m.d.sync += [
                    group_valid.eq(flag_valid), group_last.eq(flag_last),
                    group_base.eq(flag_base), held.eq(flag_distances),
                    group_keys.eq(resolve(flag.below, flag.level, flag_wanted)),
                ]
            group_distances = [held[lane] for lane in range(group)]
        else:
            hit_base = hit_read.data.word + emit_first
            if overlap:
                fetch_valid, fetch_move = Signal(), Signal()
                fetch_last, fetch_keys, fetch_base = (
                    Signal.like(value, name=name, reset_less=True) for value, name in (
                        (group_last, "fetch_last"), (group_keys, "fetch_keys"),
                        (group_base, "fetch_base")))
                m.d.comb += [
                    fetch_move.eq(~fetch_valid | group_move),
                    hit_move.eq(~hit_valid | fetch_move),
                    distance_read.addr.eq(Cat(hit_read.data.word, emit_bank)),
                    distance_read.en.eq(fetch_move),
                ]
                with m.If(fetch_move):
                    m.d.sync += [fetch_valid.eq(hit_valid), fetch_last.eq(hit_last),
                                 fetch_keys.eq(hit_read.data.keys), fetch_base.eq(hit_base)]
                with m.If(group_move):
                    m.d.sync += [group_valid.eq(fetch_valid), group_last.eq(fetch_last),
                                 group_keys.eq(fetch_keys), group_base.eq(fetch_base),
                                 held.eq(distance_read.data)]
                group_distances = [held[lane] for lane in range(group)]
            else:
                m.d.comb += [
                    hit_move.eq(~hit_valid | group_move),
                    item_read.addr.eq(
                        Cat(Mux(scan_busy, scan_word, hit_read.data.word), emit_bank)),
                    item_read.en.eq(scan_busy | group_move),
                ]
                with m.If(group_move):
                    m.d.sync += [group_valid.eq(hit_valid), group_last.eq(hit_last),
                                 group_keys.eq(hit_read.data.keys), group_base.eq(hit_base)]
                group_distances = [item_read.data[0][lane].code[:distance_bits]
                                   for lane in range(group)]

        # ---- Emit: the next key of the group, the highest.
        key = Signal(group_bits)
        others = Signal(group)
        distance = Signal(distance_bits)
        for lane in range(group):
            with m.If(group_keys[lane]):
                m.d.comb += [key.eq(lane), others.eq(group_keys[:lane])]
        with m.Switch(key):
            for lane in range(group):
                with m.Case(lane):
                    m.d.comb += distance.eq(group_distances[lane])
        # How far reading is by then depends on where the keys lie; when the last leaves does not.
        m.d.comb += [group_done.eq(advance & (others == 0)),
                     emit_done.eq(group_valid & group_last & group_done)]
        with m.If(advance):
            m.d.sync += [
                self.o.valid.eq(group_valid),
                self.o.p.index.eq(Cat(key, group_base)),
                self.o.p.distance.eq(distance),
                self.o.p.last.eq(group_last & (others == 0)),
            ]
            with m.If(group_valid & ~group_done):
                m.d.sync += group_keys.eq(others)

        return m
