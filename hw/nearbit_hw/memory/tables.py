"""Tables of where heads and the pages of sequences are."""

from typing import Any

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.cache_map import CacheMap, Lookup
from nearbit_hw.memory.round_robin import round_robin
from nearbit_hw.memory.sizes import check_positive, is_power_of_two
from nearbit_hw.ram import Address, block_ram


__all__ = ["HeadTable", "PageTable", "PlaceTable"]


def _beyond(number: Value, count: int) -> Value:
    """Whether a number of just the bits that a count needs is beyond it."""
    return C(0, 1) if is_power_of_two(count) else number >= count


def _depth(words: int) -> int:
    """Words of a memory that has all addresses: those beyond a table are nobody else's."""
    return max(2, 1 << (words - 1).bit_length())


class _Clearing:
    """Clears a table after reset, a word in a cycle.

    Attributes
    ----------
    done
        All words are clear.
    address
        The word that is cleared.
    """

    def __init__(self, m: Module, depth: int):
        self.done = Signal()
        self.address = Signal(range(depth))
        with m.If(~self.done):
            m.d.sync += [self.address.eq(self.address + 1),
                         self.done.eq(self.address == depth - 1)]


class HeadTable(wiring.Component):
    """Where the codes and rows of each head are.

    A look-up accepted at cycle t is answered at cycle :py:`t + latency`; one per cycle, and no
    answer can be stalled. What is written at cycle t is found by look-ups of cycle t + 1 and later;
    a head must not be written in the cycle in which it is looked up. For :py:`depth` cycles after
    reset the table is cleared, and takes neither writes nor look-ups. Writes to heads beyond the
    table have no effect.

    Parameters
    ----------
    map : :class:`CacheMap`
        How many heads, and how large.

    Members
    -------
    i_write : :py:`In(stream.Signature(StructLayout({"head": ..., "set": 1, "entry": \
map.head_layout})))`
        An entry of a head, or that there is none.
    i : :py:`In(stream.Signature(range(heads)))`
        Heads to look up.
    o : :py:`Out(stream.Signature(StructLayout({"error": Lookup, "entry": map.head_layout}), \
always_ready=True))`
        Their entries; with an error they mean nothing.
    """

    i_write: stream.Interface
    i: stream.Interface
    o: stream.Interface

    def __init__(self, map: CacheMap): # noqa: A002
        if not isinstance(map, CacheMap):
            raise TypeError(f"Map must be a CacheMap, not {map!r}")
        self._map = map
        super().__init__({
            "i_write": In(stream.Signature(map.head_write_layout)),
            "i": In(stream.Signature(range(map.heads))),
            "o": Out(stream.Signature(
                data.StructLayout({"error": Lookup, "entry": map.head_layout}),
                always_ready=True)),
        })

    @property
    def map(self) -> CacheMap:
        return self._map

    @property
    def depth(self) -> int:
        """Words of the block RAM."""
        return _depth(self._map.heads)

    @property
    def latency(self) -> int:
        """Cycles from a look-up to its answer: that of the block RAM."""
        return 1

    def elaborate(self, platform) -> Module:
        m = Module()
        heads = self._map.heads
        m.submodules.entries = entries = block_ram(
            shape=data.StructLayout({"set": 1, "entry": self._map.head_layout}),
            depth=self.depth)
        write, read = entries.write_port(), entries.read_port()
        clearing = _Clearing(m, self.depth)
        beyond = Signal(reset_less=True)
        written = self.i_write.p
        m.d.comb += [
            self.i_write.ready.eq(clearing.done),
            write.addr.eq(Mux(clearing.done, written.head, clearing.address)),
            write.data.set.eq(clearing.done & written.set),
            write.data.entry.eq(written.entry),
            write.en.eq(~clearing.done | self.i_write.valid),
            self.i.ready.eq(clearing.done),
            read.addr.eq(self.i.payload),
            self.o.p.error.eq(Mux(beyond, Lookup.RANGE,
                                  Mux(read.data.set, Lookup.OK, Lookup.NOT_SET))),
            self.o.p.entry.eq(read.data.entry),
        ]
        m.d.sync += [
            self.o.valid.eq(self.i.valid & clearing.done),
            beyond.eq(_beyond(self.i.payload, heads)),
        ]
        return m


class PageTable(wiring.Component):
    """The pages of each sequence, and how many tokens it has.

    A look-up accepted at cycle t is answered at cycle :py:`t + latency`; one per cycle, and no
    answer can be stalled. What is written at cycle t is found by look-ups of cycle t + 1 and later:
    until then the number of tokens is the former one, and a place in a list must not be looked up.
    For :py:`depth` cycles after reset the table is cleared, and takes neither writes nor look-ups;
    then no page is set, and no sequence has a token. Writes beyond the table have no effect.

    Nothing here compares tokens: whether a range is within a sequence is for who asks.

    Parameters
    ----------
    map : :class:`CacheMap`
        How many sequences, and how long.

    Members
    -------
    i_page : :py:`In(stream.Signature(StructLayout({"sequence": ..., "index": ..., "set": 1, \
"page": ...})))`
        The page in a place of a sequence's list, or that there is none.
    i_tokens : :py:`In(stream.Signature(StructLayout({"sequence": ..., "tokens": \
range(capacity + 1)})))`
        The number of tokens of a sequence.
    i : :py:`In(stream.Signature(map.page_layout))`
        Places to look up.
    o : :py:`Out(stream.Signature(StructLayout({"error": Lookup, "page": ..., "tokens": ...}), \
always_ready=True))`
        Their pages, which mean nothing with an error, and the tokens of their sequences.
    """

    i_page: stream.Interface
    i_tokens: stream.Interface
    i: stream.Interface
    o: stream.Interface

    def __init__(self, map: CacheMap): # noqa: A002
        if not isinstance(map, CacheMap):
            raise TypeError(f"Map must be a CacheMap, not {map!r}")
        self._map = map
        super().__init__({
            "i_page": In(stream.Signature(map.page_write_layout)),
            "i_tokens": In(stream.Signature(map.tokens_layout)),
            "i": In(stream.Signature(map.page_layout)),
            "o": Out(stream.Signature(data.StructLayout({
                "error": Lookup,
                "page": range(map.pages),
                "tokens": range(map.capacity + 1),
            }), always_ready=True)),
        })

    @property
    def map(self) -> CacheMap:
        return self._map

    @property
    def depth(self) -> int:
        """Words of the block RAM."""
        return _depth(Address(self._map.sequences, self._map.listed).depth)

    @property
    def latency(self) -> int:
        """Cycles from a look-up to its answer: that of the block RAM."""
        return 1

    def elaborate(self, platform) -> Module:
        m = Module()
        sizes = self._map
        address = Address(sizes.sequences, sizes.listed)
        m.submodules.lists = lists = block_ram(
            shape=data.StructLayout({"set": 1, "page": range(sizes.pages)}),
            depth=self.depth)
        # Read without a clock: a number that is just raised then is the former one.
        counts: memory.Memory = memory.Memory(
            shape=range(sizes.capacity + 1), depth=_depth(sizes.sequences), init=[])
        m.submodules.counts = counts
        write, read = lists.write_port(), lists.read_port()
        counts_write, counts_read = counts.write_port(), counts.read_port(domain="comb")
        clearing = _Clearing(m, self.depth)

        page, tokens, asked = self.i_page.p, self.i_tokens.p, self.i.p
        index_bits = len(Signal(range(sizes.listed)))
        beyond_sequence = _beyond(asked.sequence, sizes.sequences)
        beyond = Signal(reset_less=True)
        count = Signal(range(sizes.capacity + 1), reset_less=True)
        m.d.comb += [
            self.i_page.ready.eq(clearing.done),
            write.addr.eq(Mux(clearing.done, address(page.sequence, page.index),
                              clearing.address)),
            write.data.set.eq(clearing.done & page.set),
            write.data.page.eq(page.page),
            write.en.eq(~clearing.done | self.i_page.valid),
            self.i_tokens.ready.eq(clearing.done),
            counts_write.addr.eq(Mux(clearing.done, tokens.sequence, clearing.address)),
            counts_write.data.eq(Mux(clearing.done, tokens.tokens, 0)),
            counts_write.en.eq(~clearing.done | self.i_tokens.valid),
            self.i.ready.eq(clearing.done),
            read.addr.eq(address(asked.sequence, asked.index[:index_bits])),
            counts_read.addr.eq(asked.sequence),
            self.o.p.error.eq(Mux(
                beyond | (read.data.set & _beyond(read.data.page, sizes.pages)), Lookup.RANGE,
                Mux(read.data.set, Lookup.OK, Lookup.NOT_SET))),
            self.o.p.page.eq(read.data.page),
            self.o.p.tokens.eq(count),
        ]
        m.d.sync += [
            self.o.valid.eq(self.i.valid & clearing.done),
            beyond.eq(beyond_sequence | (asked.index >= sizes.listed)),
            count.eq(Mux(beyond_sequence, 0, counts_read.data)),
        ]
        return m


class PlaceTable(wiring.Component):
    """:class:`HeadTable` and :class:`PageTable` side by side, for several who ask.

    One look-up per cycle, in turns among those who ask; it is answered :py:`latency` cycles after
    it was accepted, to who asked for it, and cannot be stalled. Otherwise as the two tables; an
    error of the head goes before one of the page.

    Parameters
    ----------
    map : :class:`CacheMap`
        How large the tables are.
    readers : :class:`int`
        Those who ask. At least 1.

    Members
    -------
    i_head, i_page, i_tokens : :py:`In(stream.Signature(...))`
        What is set, as of the two tables.
    i : :py:`In(stream.Signature(map.request_layout)).array(readers)`
        Look-ups.
    o : :py:`Out(stream.Signature(map.answer_layout, always_ready=True)).array(readers)`
        Their answers.
    """

    i_head: stream.Interface
    i_page: stream.Interface
    i_tokens: stream.Interface
    i: list[stream.Interface]
    o: list[stream.Interface]

    def __init__(self, map: CacheMap, *, readers: int = 1): # noqa: A002
        if not isinstance(map, CacheMap):
            raise TypeError(f"Map must be a CacheMap, not {map!r}")
        check_positive(readers=readers)
        self._map = map
        self._readers = readers
        super().__init__({
            "i_head": In(stream.Signature(map.head_write_layout)),
            "i_page": In(stream.Signature(map.page_write_layout)),
            "i_tokens": In(stream.Signature(map.tokens_layout)),
            "i": In(stream.Signature(map.request_layout)).array(readers),
            "o": Out(stream.Signature(map.answer_layout, always_ready=True)).array(readers),
        })

    @property
    def map(self) -> CacheMap:
        return self._map

    @property
    def readers(self) -> int:
        return self._readers

    @property
    def latency(self) -> int:
        """Cycles from a look-up to its answer."""
        return 1

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.heads = heads = HeadTable(self._map)
        m.submodules.pages = pages = PageTable(self._map)
        wiring.connect(m, wiring.flipped(self.i_head), heads.i_write)
        wiring.connect(m, wiring.flipped(self.i_page), pages.i_page)
        wiring.connect(m, wiring.flipped(self.i_tokens), pages.i_tokens)

        last = Signal(range(self._readers))
        chosen = round_robin(m, [reader.valid for reader in self.i], last)
        # Both take what they are given once both are clear.
        ready = heads.i.ready & pages.i.ready
        asked: Any = Signal(self._map.request_layout)
        valid = Cat(reader.valid for reader in self.i).any() & ready
        m.d.comb += [
            heads.i.payload.eq(asked.head),
            heads.i.valid.eq(valid),
            pages.i.payload.eq(asked.page),
            pages.i.valid.eq(valid),
        ]
        with m.If(valid):
            m.d.sync += last.eq(chosen)
        error = Signal(Lookup)
        m.d.comb += error.eq(Mux(heads.o.p.error == Lookup.OK, pages.o.p.error, heads.o.p.error))
        for number, (reader, answer) in enumerate(zip(self.i, self.o, strict=True)):
            with m.If(chosen == number):
                m.d.comb += [asked.eq(reader.payload), reader.ready.eq(ready)]
            m.d.comb += [
                answer.valid.eq(heads.o.valid & (last == number)),
                answer.p.error.eq(error),
                answer.p.head.eq(heads.o.p.entry),
                answer.p.page.eq(pages.o.p.page),
                answer.p.tokens.eq(pages.o.p.tokens),
            ]
        return m
