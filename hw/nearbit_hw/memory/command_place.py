"""Looks up where a command's tokens are before it is checked."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.cache_map import CacheMap, Lookup


__all__ = ["CommandPlace"]


class CommandPlace(wiring.Component):
    """Holds each command up until its head, and the page of its first token, are looked up.

    A command that is presented at cycle t to :py:`i`, and looked up by :class:`PlaceTable` at once,
    is presented to :py:`o` from cycle :py:`t + latency` until it is accepted, with
    :py:`tokens` and :py:`error`; they do not change meanwhile. So tokens that are appended later
    are those of later commands.

    Parameters
    ----------
    map : :class:`CacheMap`
        Where heads and sequences are.
    layout : :class:`amaranth.lib.data.StructLayout`
        Layout of a command, with :py:`head`, :py:`sequence` and :py:`first`.

    Members
    -------
    i, o : :py:`In(stream.Signature(layout))`, :py:`Out(stream.Signature(layout))`
        Commands.
    tokens : :py:`Out(range(capacity + 1))`
        Tokens that the command's sequence has.
    error : :py:`Out(Lookup)`
        What came of the look-up.
    o_lookup : :py:`Out(stream.Signature(map.request_layout))`
        Look-ups of :class:`PlaceTable`.
    i_lookup : :py:`In(stream.Signature(map.answer_layout, always_ready=True))`
        Their answers.
    """

    i: stream.Interface
    o: stream.Interface
    tokens: Signal
    error: Signal
    o_lookup: stream.Interface
    i_lookup: stream.Interface

    def __init__(self, map: CacheMap, layout: data.StructLayout): # noqa: A002
        if not isinstance(map, CacheMap):
            raise TypeError(f"Map must be a CacheMap, not {map!r}")
        self._map = map
        super().__init__({
            "i": In(stream.Signature(layout)),
            "o": Out(stream.Signature(layout)),
            "tokens": Out(range(map.capacity + 1)),
            "error": Out(Lookup),
            "o_lookup": Out(stream.Signature(map.request_layout)),
            "i_lookup": In(stream.Signature(map.answer_layout, always_ready=True)),
        })

    @property
    def map(self) -> CacheMap:
        return self._map

    @property
    def latency(self) -> int:
        """Cycles from a command to the same with what was looked up: the table, a register."""
        return 2

    def elaborate(self, platform) -> Module:
        m = Module()
        command: Any = self.i.p
        asked, found = Signal(), Signal()
        tokens = Signal.like(self.tokens, reset_less=True)
        error = Signal(Lookup, reset_less=True)
        m.d.comb += [
            self.o_lookup.valid.eq(self.i.valid & ~asked & ~found),
            self.o_lookup.p.head.eq(command.head),
            self.o_lookup.p.page.sequence.eq(command.sequence),
            self.o_lookup.p.page.index.eq(self._map.index_of(command.first)),
            self.o.payload.eq(self.i.payload),
            self.o.valid.eq(found),
            self.i.ready.eq(found & self.o.ready),
            self.tokens.eq(tokens),
            self.error.eq(error),
        ]
        with m.If(self.o_lookup.valid & self.o_lookup.ready):
            m.d.sync += asked.eq(1)
        with m.If(self.i_lookup.valid):
            m.d.sync += [asked.eq(0), found.eq(1), tokens.eq(self.i_lookup.p.tokens),
                         error.eq(self.i_lookup.p.error)]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += found.eq(0)
        return m
