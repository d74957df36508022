"""Has the rows of selected keys read while the keys go on."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import gathered_key_layout, key_layout, place_fields
from nearbit_hw.memory.cache_map import CacheMap
from nearbit_hw.memory.sizes import check_positive


__all__ = ["RowGather", "use_layout"]


def use_layout() -> data.StructLayout:
    """Layout of how a selection's rows are used.

    With :py:`keeps` the next selection has the same; with :py:`skips` no rescore key is read.
    """
    return data.StructLayout({"keeps": 1, "skips": 1})


class RowGather(wiring.Component):
    """Passes selected keys on, and tells a :class:`RowFetcher` of them.

    Selections come one after another, each with its head and sequence. From the cycle in which a
    selection's first key comes, the fetcher is offered the selection, and every reader of rows its
    use; when all have taken them, from the cycle after, its keys pass without delay, each when both
    the fetcher and the output have taken it. A selection that :py:`repeats` the one before has its
    rows already, and is not fetched again. A key with :py:`skip` stands for a selection that
    failed: it passes on, and there is nothing to fetch or to use.

    Reset begins with a selection.

    Parameters
    ----------
    map : :class:`CacheMap`
        Where the rows are.
    distance_max : :class:`int`
        The largest distance. At least 1.
    rescore : :class:`bool`
        Whether there is a rescoring unit.
    shared : :class:`bool`
        Whether queries may share a selection.
    readers : :class:`int`
        Readers of rows. At least 1.

    Members
    -------
    i : :py:`In(stream.Signature(gathered_key_layout(...)))`
        Selected keys.
    o_selection : :py:`Out(stream.Signature(StructLayout({"head": ..., "sequence": ...})))`
        Selections for the fetcher.
    o_token : :py:`Out(stream.Signature(StructLayout({"token": range(capacity), "last": 1})))`
        Their tokens.
    o_use : :py:`Out(stream.Signature(use_layout())).array(readers)`
        Uses of rows, for each reader.
    o : :py:`Out(stream.Signature(key_layout(...)))`
        The keys.
    """

    i: stream.Interface
    o_selection: stream.Interface
    o_token: stream.Interface
    o_use: list[stream.Interface]
    o: stream.Interface

    def __init__(self, map: CacheMap, *, distance_max: int, rescore: bool = False, # noqa: A002
                 shared: bool = False, readers: int = 1):
        if not isinstance(map, CacheMap):
            raise TypeError(f"Map must be a CacheMap, not {map!r}")
        check_positive(distance_max=distance_max, readers=readers)
        self._map = map
        self._distance_max = distance_max
        self._rescore = bool(rescore)
        self._shared = bool(shared)
        self._readers = readers
        place: dict[str, Any] = {"heads": map.heads, "sequences": map.sequences}
        key: dict[str, Any] = {
            "capacity": map.capacity, "distance_max": distance_max, "rescore": rescore}
        super().__init__({
            "i": In(stream.Signature(gathered_key_layout(
                **key, **place, shared=shared))),
            "o_selection": Out(stream.Signature(data.StructLayout(place_fields(**place)))),
            "o_token": Out(stream.Signature(data.StructLayout({
                "token": range(map.capacity), "last": 1}))),
            "o_use": Out(stream.Signature(use_layout())).array(readers),
            "o": Out(stream.Signature(key_layout(**key))),
        })

    @property
    def map(self) -> CacheMap:
        return self._map

    @property
    def distance_max(self) -> int:
        return self._distance_max

    @property
    def rescore(self) -> bool:
        return self._rescore

    @property
    def shared(self) -> bool:
        return self._shared

    @property
    def readers(self) -> int:
        return self._readers

    def elaborate(self, platform) -> Module:
        m = Module()
        key: Any = self.i.p
        skip = key.skip if self._rescore else C(0, 1)
        fetches, begun = Signal(), Signal()
        m.d.comb += fetches.eq(~key.repeats if self._shared else 1)

        # ---- The selection, and its uses.
        m.d.comb += [self.o_selection.p.head.eq(key.head),
                     self.o_selection.p.sequence.eq(key.sequence)]
        for use in self.o_use:
            m.d.comb += [use.p.keeps.eq(key.keeps if self._shared else 0),
                         use.p.skips.eq(~key.rescore if self._rescore else 0)]
        begins = self._offer(m, self.i.valid & ~begun & ~skip, [self.o_selection, *self.o_use],
                             Cat(fetches, C(-1, self._readers)), "begin")
        with m.If(begins):
            m.d.sync += begun.eq(1)

        # ---- Its keys.
        m.d.comb += [
            self.o_token.p.token.eq(key.index),
            self.o_token.p.last.eq(key.last),
            *(self.o.p[name].eq(key[name]) for name, _ in self.o.payload.shape()),
        ]
        passes = self._offer(m, self.i.valid & (begun | skip), [self.o, self.o_token],
                             Cat(C(1, 1), fetches & ~skip), "pass")
        m.d.comb += self.i.ready.eq(passes)
        with m.If(passes & key.last & ~skip):
            m.d.sync += begun.eq(0)
        return m

    def _offer(self, m: Module, valid: Value, receivers: list[Any], concerned: Value,
               name: str) -> Signal:
        """Offer something to all who are concerned, to each once; tells when all have it."""
        count = len(receivers)
        taken, takes = Signal(count, name=f"{name}_taken"), Signal(count, name=f"{name}_takes")
        done = Signal(name=f"{name}_done")
        for number, receiver in enumerate(receivers):
            m.d.comb += [
                receiver.valid.eq(valid & concerned[number] & ~taken[number]),
                takes[number].eq(receiver.valid & receiver.ready),
            ]
        m.d.comb += done.eq(valid & (taken | takes | ~concerned).all())
        m.d.sync += taken.eq(Mux(done, 0, taken | takes))
        return done
