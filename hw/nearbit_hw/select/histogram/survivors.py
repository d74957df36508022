"""Survivors: the keys selected of the blocks before pass once more behind the next block's."""

from typing import Any

from amaranth import *
from amaranth.lib import data
from amaranth.utils import ceil_log2

from nearbit_hw.ram import block_ram
from nearbit_hw.select.histogram.scan import is_less
from nearbit_hw.select.histogram.sizes import Sizes


__all__ = ["Survivors"]


# A list has the keys that are selected of a query up to a block, in one of two slots of a memory:
# first the `kept` ones of the list before, then the block's own. As the own ones are younger, it is
# read from the first own one to the last, `total`, and then from 0 to the last kept one.
#
# Emitting a block begins with its filter: the list before passes through the stages of Emit, and
# what is selected of it still goes to the other slot. Then the block's own keys pass, and are
# added, and the kept ones pass to be told. Those of a query's last block leave; all others do not.

class Survivors:
    """The lists of selected keys, and what Emit does with them besides a block's own keys.

    Attributes
    ----------
    filtering
        The list before passes, not the block that is emitted.
    final
        The block is its query's last one.
    threshold
        The block's threshold.
    hit_old
        What was read instead of a hit is a key of a list.
    group_old, group_item
        So is the group whose keys leave, and this is the key.
    """

    def __init__(self, m: Module, sizes: Sizes):
        self._layout = data.StructLayout({"index": range(sizes.capacity), **sizes.key.members})
        places = ceil_log2(sizes.top_n)
        m.submodules.survivors = memory = block_ram(shape=self._layout, depth=2 << places)
        self._read: Any = memory.read_port()
        self._write: Any = memory.write_port()
        self._places = places
        most = range(sizes.top_n + 1)
        self._slot = Signal(name="list_slot")
        self._total, self._split, self._kept, self._count, self._place = (
            Signal(most, name=f"list_{name}", reset_less=True)
            for name in ("total", "split", "kept", "count", "place"))
        self._wrapped, self._ended, self._begins, self._clear = (
            Signal(name=f"list_{name}") for name in ("wrapped", "ended", "begins", "clear"))
        self._hit_place = Signal(most, name="hit_place", reset_less=True)
        self._missing = Signal(sizes.missing_shape, name="list_missing", reset_less=True)
        self.filtering = Signal()
        self.final = Signal(name="emit_final", init=1)
        self.threshold = Signal(sizes.distance_bits, name="emit_threshold", reset_less=True)
        self.hit_old = Signal(reset_less=True)
        self.group_old = Signal(reset_less=True)
        self.group_item: Any = Signal(self._layout, reset_less=True)

    def start(self, m: Module, take: Value, block: Any) -> None:
        """Start to emit a block; unless it is a query's first one, the list before comes first."""
        m.d.sync += self._begins.eq(take)
        # Unless it is a first one, the place is behind the last kept key, where the own ones begin.
        m.d.comb += self._clear.eq(take & self.final)
        with m.If(take):
            m.d.sync += [
                self.filtering.eq(~self.final), self.final.eq(block.origin.final),
                self.threshold.eq(block.threshold), self._missing.eq(block.missing),
                self._slot.eq(~self._slot), self._split.eq(self._kept), self._kept.eq(0),
                self._wrapped.eq(0), self._ended.eq(0),
            ]
        # The last key of the list before may have been written in the cycle of `take`.
        with m.If(self._begins):
            m.d.sync += [self._total.eq(self._count), self._count.eq(0)]

    def next_hit(self, m: Module, *, own: Value, move: Value) -> tuple[Value, Value]:
        """Read keys of lists where hits are read, one after another.

        Gives whether there is a next hit or key, and whether the one that was read is the last.

        Parameters
        ----------
        own
            The block has hits that were not read.
        move
            The next one may be read.
        """
        end, gap, step = (Signal(name=f"list_{name}") for name in ("end", "gap", "step"))
        m.d.comb += [
            end.eq(self._wrapped & (self._place == self._split)),
            gap.eq(~end & (self._place == self._total)),
        ]
        left = self._place != self._kept
        with m.If(move):
            m.d.sync += [self.hit_old.eq(self.filtering | ~own), self._hit_place.eq(self._place)]
        with m.If(self.filtering):
            # All that is read moves; behind the list comes a mark that it has ended.
            m.d.comb += step.eq(~self._begins & ~self._ended)
            with m.If(step):
                m.d.comb += self._clear.eq(end | gap)
                m.d.sync += [self._ended.eq(end), self._wrapped.eq(self._wrapped | gap)]
        with m.Elif(move & ~own & left):
            m.d.comb += step.eq(1)
        # One counter for both, as that is smaller.
        with m.If(self._clear):
            m.d.sync += self._place.eq(0)
        with m.Elif(step):
            m.d.sync += self._place.eq(self._place + 1)
        return (Mux(self.filtering, ~self._begins & ~self._ended & ~gap, own | left),
                Mux(self.filtering, self._ended, ~own & ~left))

    def follow(self, m: Module, *, fetch: Value, group: Value, word: Value | None = None,
               flag: Value | None = None) -> Value:
        """Go through the stages of Emit, which move when they are told to.

        Gives whether it is a key of a list that is in front of the group.
        """
        old, place = self.hit_old, self._hit_place
        if word is not None:
            word_old = Signal(reset_less=True)
            word_place = Signal.like(place, name="word_place", reset_less=True)
            with m.If(word):
                m.d.sync += [word_old.eq(old), word_place.eq(place)]
            old, place = word_old, word_place
        fetch_old = Signal(reset_less=True)
        m.d.comb += [
            self._read.addr.eq(Cat(place[:self._places], self._slot ^ self.filtering)),
            self._read.en.eq(fetch),
        ]
        with m.If(fetch):
            m.d.sync += fetch_old.eq(old)
        old, item = fetch_old, self._read.data
        if flag is not None:
            flag_old = Signal(reset_less=True)
            flag_item = Signal.like(item, name="flag_item", reset_less=True)
            with m.If(flag):
                m.d.sync += [flag_old.eq(old), flag_item.eq(item)]
            old, item = flag_old, flag_item
        with m.If(group):
            m.d.sync += [self.group_old.eq(old), self.group_item.eq(item)]
        return old

    def next_key(self, m: Module, *, valid: Value, last: Value, index: Value, own: Any,
                 advance: Signal, done: Signal, o: Any) -> None:
        """Let a key pass: to a list, or out, or neither.

        Parameters
        ----------
        valid, last, index, own
            There is a key; it is the last one; its number, distance and mark, if it is the block's.
        advance, done
            To be driven: the key moves; the block's last one has passed.
        o
            Stream of selected keys.
        """
        key: Any = Signal(self._layout, name="key_item", reset_less=True)
        key_valid, key_last, passes = Signal(), Signal(), Signal()
        key_old, below, level = (Signal(name=f"key_{name}", reset_less=True)
                                 for name in ("old", "below", "level"))
        room = ~o.valid | o.ready
        m.d.comb += [
            passes.eq(self.filtering | ~self.final | room),
            advance.eq(~key_valid | passes),
            done.eq(key_valid & key_last & passes & ~self.filtering),
        ]
        old_distance = self.group_item.distance
        with m.If(advance):
            m.d.sync += [
                key_valid.eq(valid), key_last.eq(last), key_old.eq(self.group_old),
                level.eq(old_distance == self.threshold),
                below.eq(is_less(old_distance, self.threshold))]
            with m.If(self.group_old):
                m.d.sync += key.eq(self.group_item)
            with m.Else():
                m.d.sync += [key.index.eq(index), key.distance.eq(own.distance),
                             key.forced.eq(own.forced)]

        takes, selected = Signal(name="list_takes"), Signal(name="list_selected")
        m.d.comb += takes.eq(level & ~key.forced & self._missing[-1])
        with m.If(self.filtering):
            m.d.comb += selected.eq(key_valid & ~key_last & (key.forced | below | takes))
            with m.If(key_valid & key_last):
                m.d.sync += self.filtering.eq(0)
            with m.If(key_valid & ~key_last & takes):
                m.d.sync += self._missing.eq(self._missing + 1)
        with m.Else():
            m.d.comb += selected.eq(key_valid & ~self.final & ~key_old)
        more = (self._count + 1)[:len(self._count)]
        with m.If(selected):
            m.d.sync += self._count.eq(more)
            with m.If(self.filtering):
                m.d.sync += self._kept.eq(more)
        m.d.comb += [
            self._write.addr.eq(Cat(self._count[:self._places], self._slot)),
            self._write.data.eq(key),
            self._write.en.eq(selected),
        ]
        with m.If(room):
            m.d.sync += [
                o.valid.eq(key_valid & self.final & ~self.filtering),
                o.p.index.eq(key.index), o.p.distance.eq(key.distance), o.p.last.eq(key_last),
            ]
