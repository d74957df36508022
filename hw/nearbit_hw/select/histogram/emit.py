"""Emit: words with selected keys are fetched again, and the keys leave, one per cycle."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream
from amaranth.utils import exact_log2

from nearbit_hw.pipeline import delay_control
from nearbit_hw.ram import block_ram
from nearbit_hw.select.histogram.design import Design
from nearbit_hw.select.histogram.merge import Merged
from nearbit_hw.select.histogram.scan import Found, Scan
from nearbit_hw.select.histogram.sizes import Strobes
from nearbit_hw.select.histogram.survivors import Survivors


__all__ = ["Emit", "Hits"]


def _wanted(group: int, missing: Value) -> Value:
    """Return whether at least 1, 2, ... of a group's keys at the threshold are taken."""
    return Cat(missing[-1] & (Const(1, 1) if number == 1 else ~missing[:-1].all())
               & ~Cat(missing == -less for less in range(2, number)).any()
               for number in range(1, group + 1))


def _resolve(m: Module, group: int, below: Value, level: Value, wanted: Value) -> Value:
    """Return which keys of a group are selected."""
    keys = Signal(group, name="keys", reset_less=True)
    for lane in range(group):
        above = sum(level[lane + 1:group], Const(0, 1))
        taken = Cat((above == number) & wanted[number]
                    for number in range(group - lane)).any()
        m.d.comb += keys[lane].eq(below[lane] | (level[lane] & taken))
    return keys


class Hits:
    """The list of words with a selected key: at most one entry for each key.

    Where words have a single group, a hit holds the group's keys. Otherwise it holds the groups
    with a key, and what is needed to determine the keys selected in each; the groups' marks are in
    `flags`.

    Attributes
    ----------
    read, flags
        Ports that read hits and a group's marks; the latter exists with several groups only.
    layout, flag_layout, above_shape
        Shapes of a hit, of a group's marks, and of the number of keys above a group.
    produce, consume
        Places of the next hit to write, and of the next one to read.
    """

    def __init__(self, m: Module, design: Design, scan: Scan, found: Found):
        sizes = design.sizes
        group, groups = sizes.group, sizes.groups
        depth = design.hit_depth(min(sizes.top_n, sizes.capacity // sizes.refine_lanes))
        self.above_shape = range(sizes.refine_lanes - group + 1)
        self.flag_layout = data.StructLayout({"below": group, "level": group})
        self.flags: Any = None
        if groups > 1:
            self.layout = data.StructLayout({
                "word": sizes.word_bits - sizes.ratio_bits,
                "groups": groups,
                "missing": sizes.missing_shape,
                "above": data.ArrayLayout(self.above_shape, groups - 1),
            })
        else:
            self.layout = data.StructLayout({"word": sizes.word_bits, "keys": group})
        m.submodules.hits = hits = block_ram(shape=self.layout, depth=depth)
        hit_write: Any = hits.write_port()
        hit_read = hits.read_port()
        self.read: Any = hit_read
        self.produce = Signal(range(depth))
        self.consume = Signal(range(depth))
        m.d.comb += [
            hit_write.addr.eq(self.produce),
            hit_write.en.eq(found.valid & found.groups.any()),
            hit_write.data.word.eq(found.word),
        ]
        with m.If(hit_write.en):
            m.d.sync += self.produce.eq(self.produce + 1)
        with m.If(found.valid & scan.missing[-1]):
            m.d.sync += scan.missing.eq(scan.missing + found.level_count)
        if groups > 1:
            m.d.comb += [
                hit_write.data.groups.eq(found.groups),
                hit_write.data.missing.eq(scan.missing),
                *(hit_write.data.above[index].eq(found.above[index])
                  for index in range(groups - 1)),
            ]
            m.submodules.flags = flags = block_ram(shape=self.flag_layout, depth=depth * groups)
            flag_read = flags.read_port()
            self.flags = flag_read
            for index in range(groups):
                flag_write = flags.write_port()
                part_lanes = slice(index * group, (index + 1) * group)
                m.d.comb += [
                    flag_write.addr.eq(Cat(Const(index, exact_log2(groups)), self.produce)),
                    flag_write.data.below.eq(found.below[part_lanes]),
                    flag_write.data.level.eq(found.level[part_lanes]),
                    flag_write.en.eq(hit_write.en),
                ]
        else:
            m.d.comb += hit_write.data.keys.eq(_resolve(
                m, group, found.below, found.level, _wanted(group, scan.missing)))


class Emit:
    """Emission of a query: from its hits, to its groups with a selected key, to its keys.

    Attributes
    ----------
    bank, origin
        The query's bank, and where the query begins.
    hit_valid, hit_last, hit_move
        Whether a hit has been read, whether it is the last one, and whether the next may be read.
    group_valid, group_last, group_keys, group_base, held, group_move
        The group whose keys leave: whether there is one; whether it is the last one; its keys that
        have yet to leave; the number of the key in its lane 0; its distances and marks, unless the
        bank's read port holds them; whether the next group may replace it.
    distances
        Port that reads a group's distances, if they are in a separate memory.
    survivors
        With blocks, the keys selected from the blocks before.
    """

    def __init__(self, m: Module, design: Design, scan: Scan, hits: Hits):
        sizes = design.sizes
        self._design = design
        self._sizes = sizes
        self.scan = scan
        self.hits = hits
        self._busy = Signal(name="emit_busy")
        self._take = Signal(name="emit_take")
        self._done = Signal(name="emit_done")
        self._end = Signal.like(hits.produce, name="emit_end", reset_less=True)
        self.origin: Any = Signal(sizes.origin, name="emit_origin", reset_less=True)
        self.bank = Signal(sizes.bank_bits, name="emit_bank")
        self.hit_valid = Signal()
        self.hit_move = Signal()
        self.hit_last = Signal()
        self._advance = Signal(name="advance")
        self.group_valid, self._group_done, self.group_last = (
            Signal(name=name) for name in ("group_valid", "group_done", "group_last"))
        self.group_keys = Signal(sizes.group, reset_less=True)
        self.held: Any = Signal(data.ArrayLayout(sizes.key, sizes.group), reset_less=True)
        self.group_base = Signal(
            sizes.index_bits + sizes.lane_bits - sizes.group_bits, reset_less=True)
        self.group_move = Signal()
        self.distances: Any = None
        self.survivors = Survivors(m, sizes) if sizes.block else None

    def control(self, m: Module, strobes: Strobes, found: Found, merged: Merged) -> None:
        """Start emitting scanned queries."""
        scan = self.scan
        ended_scan = delay_control(m, found.last, 1, "ended_scan")
        m.d.comb += strobes.release.eq(self._done)
        known = {"end": self.hits.produce, "origin": scan.origin}
        if self.survivors is not None:
            # `missing`: keys at the threshold left to take after the block's own.
            known |= {"threshold": scan.threshold, "missing": scan.missing}
        scanned: Any = Signal(data.StructLayout({
            name: value.shape() for name, value in known.items()}))
        m.d.comb += [scanned[name].eq(value) for name, value in known.items()]
        started = self._design.start_emit(
            m, ended=ended_scan, scanned=scanned, is_free=~self._busy | self._done,
            take=self._take)
        if self.survivors is not None:
            self.survivors.start(m, self._take, started)
        with m.If(strobes.scan_start):
            m.d.sync += scan.missing.eq(merged.missing)
        with m.If(self._take):
            m.d.sync += [self._busy.eq(1), self._end.eq(started.end),
                         self.origin.eq(started.origin)]
        with m.Elif(self._done):
            m.d.sync += self._busy.eq(0)
        with m.If(self._done):
            m.d.sync += self.bank.eq(self._sizes.next_bank(self.bank))

    def next_hit(self, m: Module) -> None:
        """Read the query's hits, one after another."""
        consume = self.hits.consume
        hit_more = Signal()
        more: Value = consume != self._end
        last: Value = ~more
        own: Value = Const(1)
        if self.survivors is not None:
            own = more & ~self.survivors.filtering
            more, last = self.survivors.next_hit(m, own=consume != self._end, move=self.hit_move)
        m.d.comb += [
            self.hits.read.addr.eq(consume),
            self.hits.read.en.eq(self.hit_move),
            hit_more.eq(self._busy & more),
            self.hit_last.eq(last),
        ]
        with m.If(self.hit_move):
            m.d.sync += [self.hit_valid.eq(hit_more), consume.eq(consume + (hit_more & own))]

    def _keep_distances(self, m: Module, stored: list[Value]) -> None:
        """Also write distances to a memory, separate from the banks, that is read a group wide."""
        sizes, bank = self._sizes, self.scan.bank
        group, word_groups = sizes.group, sizes.word_groups
        m.submodules.distances = kept_distances = block_ram(
            shape=data.ArrayLayout(sizes.key, group),
            depth=sizes.bank_words * word_groups)
        distance_read = kept_distances.read_port()
        self.distances = distance_read
        for index in range(word_groups):
            distance_write = kept_distances.write_port()
            m.d.comb += [
                distance_write.addr.eq(Cat(
                    Const(index, exact_log2(word_groups)), bank.write_word, bank.write_bank)),
                distance_write.data.eq(Cat(
                    stored[lane]
                    for lane in range(index * group, (index + 1) * group))),
                distance_write.en.eq(bank.arrived),
            ]
        m.d.comb += bank.read.addr.eq(Cat(self.scan.word, self.scan.number))

    def next_group(self, m: Module, stored: list[Value]) -> list[Value]:
        """Fetch the query's next group; return its distances and, with blocks, its marks."""
        m.d.comb += self.group_move.eq(~self.group_valid | self._group_done)
        several = self._sizes.groups > 1
        if several or self._sizes.times.overlap:
            self._keep_distances(m, stored)
        return self._groups(m) if several else self._design.read_hits(m, self)

    def _groups(self, m: Module) -> list[Value]:
        """Fetch the groups of a word with hits, from the last one on."""
        sizes, hits = self._sizes, self.hits
        group, groups = sizes.group, sizes.groups
        word_valid, word_move, word_last = Signal(), Signal(), Signal(reset_less=True)
        pick: Any = Signal(hits.layout, reset_less=True)
        slot = Signal.like(self.hits.consume, name="slot", reset_less=True)
        pick_slot = Signal.like(self.hits.consume, name="pick_slot", reset_less=True)
        picked, above_picked = Signal(range(groups)), Signal(hits.above_shape)
        rest = Signal(groups)
        for index in range(groups):
            with m.If(pick.groups[index]):
                m.d.comb += [
                    picked.eq(index), rest.eq(pick.groups[:index]),
                    above_picked.eq(pick.above[index] if index < groups - 1 else 0)]
        fetch_valid, fetch_move = Signal(), Signal()
        flag_valid, flag_move = Signal(), Signal()
        m.d.comb += [
            flag_move.eq(~flag_valid | self.group_move),
            fetch_move.eq(~fetch_valid | flag_move),
            word_move.eq(~word_valid | (fetch_move & (rest == 0))),
            self.hit_move.eq(~self.hit_valid | word_move),
        ]
        with m.If(self.hit_move):
            m.d.sync += slot.eq(self.hits.consume)
        with m.If(word_move):
            m.d.sync += [word_valid.eq(self.hit_valid), word_last.eq(self.hit_last),
                         pick.eq(hits.read.data), pick_slot.eq(slot)]
            if self.survivors is not None:
                # A survivor is alone in its group.
                with m.If(self.survivors.hit_old):
                    m.d.sync += pick.groups.eq(1)
        with m.Elif(fetch_move):
            m.d.sync += pick.groups.eq(rest)

        fetch_last = Signal(reset_less=True)
        fetch_base = Signal.like(self.group_base, name="fetch_base", reset_less=True)
        fetch_missing = Signal(sizes.missing_shape, reset_less=True)
        split = exact_log2(sizes.word_groups)
        pick_word = Cat(picked[split:], pick.word)
        m.d.comb += [
            self.distances.addr.eq(Cat(picked[:split], pick_word, self.bank)),
            self.distances.en.eq(fetch_move),
            hits.flags.addr.eq(Cat(picked, pick_slot)),
            hits.flags.en.eq(fetch_move),
        ]
        with m.If(fetch_move):
            m.d.sync += [
                fetch_valid.eq(word_valid), fetch_last.eq(word_last & (rest == 0)),
                fetch_base.eq(Cat(picked[:split],
                                  (pick_word + self.origin.word)[:sizes.index_bits])),
                fetch_missing.eq(pick.missing + above_picked),
            ]
        # The data read are registered before the selected keys are determined.
        flag: Any = Signal(hits.flag_layout, reset_less=True)
        flag_wanted = Signal(group, reset_less=True)
        flag_last = Signal(reset_less=True)
        flag_base = Signal.like(self.group_base, name="flag_base", reset_less=True)
        flag_distances = Signal.like(self.held, name="flag_distances", reset_less=True)
        with m.If(flag_move):
            m.d.sync += [
                flag_valid.eq(fetch_valid), flag_last.eq(fetch_last),
                flag_base.eq(fetch_base), flag_wanted.eq(_wanted(group, fetch_missing)),
                flag.eq(hits.flags.data), flag_distances.eq(self.distances.data),
            ]
        with m.If(self.group_move):
            m.d.sync += [
                self.group_valid.eq(flag_valid), self.group_last.eq(flag_last),
                self.group_base.eq(flag_base), self.held.eq(flag_distances),
                self.group_keys.eq(_resolve(m, group, flag.below, flag.level, flag_wanted)),
            ]
        if self.survivors is not None:
            old = self.survivors.follow(m, word=word_move, fetch=fetch_move, flag=flag_move,
                                        group=self.group_move)
            with m.If(self.group_move & old):
                m.d.sync += self.group_keys.eq(1)
        return [self.held[lane] for lane in range(group)]

    def next_key(self, m: Module, distances: list[Value], o: stream.Interface) -> None:
        """Let the group's next key leave, the highest."""
        group = self._sizes.group
        key = Signal(self._sizes.group_bits)
        others = Signal(group)
        kept: Any = Signal(self._sizes.key, name="key_kept")
        for lane in range(group):
            with m.If(self.group_keys[lane]):
                m.d.comb += [key.eq(lane), others.eq(self.group_keys[:lane])]
        with m.Switch(key):
            for lane in range(group):
                with m.Case(lane):
                    m.d.comb += kept.eq(distances[lane])
        m.d.comb += self._group_done.eq(self._advance & (others == 0))
        with m.If(self._advance & self.group_valid & ~self._group_done):
            m.d.sync += self.group_keys.eq(others)
        index, last = Cat(key, self.group_base), self.group_last & (others == 0)
        if self.survivors is not None:
            self.survivors.next_key(m, valid=self.group_valid, last=last, index=index, own=kept,
                                    advance=self._advance, done=self._done, o=o)
            return
        # The progress of reading depends on where the keys lie; when the last key leaves does not.
        m.d.comb += [self._advance.eq(~o.valid | o.ready),
                     self._done.eq(self.group_valid & self.group_last & self._group_done)]
        with m.If(self._advance):
            m.d.sync += [
                o.valid.eq(self.group_valid),
                o.p.index.eq(index),
                o.p.distance.eq(kept.distance),
                o.p.last.eq(last),
            ]
