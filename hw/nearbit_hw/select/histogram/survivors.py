"""Survivors: keys selected from earlier blocks pass again, after those of the next block."""

from typing import Any

from amaranth import *
from amaranth.lib import data
from amaranth.utils import ceil_log2

from nearbit_hw.ram import block_ram
from nearbit_hw.select.histogram.scan import is_less
from nearbit_hw.select.histogram.sizes import Sizes


__all__ = ["Survivors"]


# A list holds the keys selected from a query's blocks up to some block, in one of two slots of a
# memory: first the `kept` keys of the previous list, then the block's own keys. As the own keys
# have higher indices, the list is read from the first own key to the last, which `total` marks, and
# then from 0 to the last kept one.
#
# Emitting a block begins with a filter pass: the previous list passes through the stages of Emit,
# and its keys that are still selected are written to the other slot. Then the block's own keys pass
# and are appended, and after them the kept keys pass. Only a query's last block lets keys leave.

class Survivors:
    """The lists of selected keys, and their passage through Emit beside a block's own keys.

    Attributes
    ----------
    filtering
        The previous list passes, not the block being emitted.
    final
        The block is its query's last one.
    threshold
        The block's threshold.
    hit_old
        A list key was read in place of a hit.
    group_old, group_item
        A list key takes the place of the group whose keys leave; that key.
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
        """Start emitting a block; unless it is a query's first, the previous list passes first."""
        m.d.sync += self._begins.eq(take)
        # A first block clears the place; else it is after the last kept key, where own keys begin.
        m.d.comb += self._clear.eq(take & self.final)
        with m.If(take):
            m.d.sync += [
                self.filtering.eq(~self.final), self.final.eq(block.origin.final),
                self.threshold.eq(block.threshold), self._missing.eq(block.missing),
                self._slot.eq(~self._slot), self._split.eq(self._kept), self._kept.eq(0),
                self._wrapped.eq(0), self._ended.eq(0),
            ]
        # The previous list's last key may be written as late as in the cycle of `take`.
        with m.If(self._begins):
            m.d.sync += [self._total.eq(self._count), self._count.eq(0)]

    def next_hit(self, m: Module, *, own: Value, move: Value) -> tuple[Value, Value]:
        """Read list keys one after another, alongside hits.

        Returns whether there is a next hit or key, and whether the one just read is the last.

        Parameters
        ----------
        own
            Whether the block has unread hits.
        move
            Whether the next hit or key may be read.
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
            # Every read moves on at once; an end mark follows the list.
            m.d.comb += step.eq(~self._begins & ~self._ended)
            with m.If(step):
                m.d.comb += self._clear.eq(end | gap)
                m.d.sync += [self._ended.eq(end), self._wrapped.eq(self._wrapped | gap)]
        with m.Elif(move & ~own & left):
            m.d.comb += step.eq(1)
        # One counter for both passes, as that is smaller.
        with m.If(self._clear):
            m.d.sync += self._place.eq(0)
        with m.Elif(step):
            m.d.sync += self._place.eq(self._place + 1)
        return (Mux(self.filtering, ~self._begins & ~self._ended & ~gap, own | left),
                Mux(self.filtering, self._ended, ~own & ~left))

    def follow(self, m: Module, *, fetch: Value, group: Value, word: Value | None = None,
               flag: Value | None = None) -> Value:
        """Carry list keys through the stages of Emit; each stage moves with its argument.

        Returns whether the item in the stage before the group is a list key.
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
        """Pass a key on: to a list, to the output, or to neither.

        Parameters
        ----------
        valid, last, index, own
            Whether there is a key; whether it is the last one; for a key of the block itself, its
            number, and its distance and mark.
        advance, done
            Driven here: whether the key moves; whether the block's last key passes.
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
