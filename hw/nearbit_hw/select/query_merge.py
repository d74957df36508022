"""Merges the queries' selections into one stream, in order."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import (
    CacheError,
    Error,
    gathered_key_layout,
    key_layout,
    order_layout,
    softmax_command_layout,
)


__all__ = ["QueryMerge"]


class QueryMerge(wiring.Component):
    """Passes on the selections of a command's queries, query by query, command by command.

    For each query, in order, :py:`o_result` announces its result. A query without an error
    is also announced on :py:`o_command`, and its selection passes from :py:`i` to :py:`o` without
    delay, one key per cycle; the next query follows in the cycle after the selection's last key or
    the announcements, whichever is later. A query with an error takes one cycle. A stalled output
    does not hold up the other two within its query. Reset starts again with query 0.

    Parameters
    ----------
    capacity, queries, exp_tables : :class:`int`
        As in :class:`nearbit_model.Config`.
    distance_max : :class:`int`
        The largest distance. At least 1.
    rescore : :class:`bool`
        Whether there is a rescoring unit.
    shared : :class:`bool`
        Whether queries may share a selection.
    heads, sequences : :class:`int`
        Those of the memory from which rows are read; 0 without a memory.

    Members
    -------
    i_order : :py:`In(stream.Signature(...))`
        As :py:`Dispatcher.o_order`.
    i : :py:`In(stream.Signature(...)).array(queries)`
        Selections, as :py:`TopN.o`.
    again : :py:`Out(1)`
        With :py:`shared`: whether the last query's selection must be repeated; valid when its last
        key is accepted.
    o_result : :py:`Out(stream.Signature(...))`
        For each query: :py:`query`, :py:`error`, and :py:`final`, set for the command's last query;
        with a memory, also :py:`final_good`: all later queries of the command have an error.
    o_command : :py:`Out(stream.Signature(...))`
        For each query without an error: :py:`query`, :py:`exp_table`, :py:`trace`; if there is a
        rescoring unit, also :py:`rescore`, :py:`multiplier`.
    o : :py:`Out(stream.Signature(...))`
        Selections of the queries without an error. If there is a rescoring unit, also
        :py:`rescore`, and :py:`skip`, set for a placeholder key of a query with an error. With a
        memory, also :py:`head`, :py:`sequence` and, if there is :py:`shared`, whether the
        selection :py:`repeats` the one before, or :py:`keeps` its rows for the next.
    """

    i_order: stream.Interface
    i: list[stream.Interface]
    again: Signal
    o_result: stream.Interface
    o_command: stream.Interface
    o: stream.Interface

    def __init__(self, *, capacity: int, distance_max: int, queries: int, exp_tables: int,
                 rescore: bool = False, shared: bool = False, heads: int = 0, sequences: int = 0):
        for name, value in [("Capacity", capacity), ("Largest distance", distance_max),
                            ("Queries", queries), ("Exp tables", exp_tables)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        self._capacity = capacity
        self._distance_max = distance_max
        self._queries = queries
        self._exp_tables = exp_tables
        self._rescore = bool(rescore)
        self._shared = bool(shared)
        self._heads = heads
        self._error = CacheError if heads else Error
        place: dict[str, Any] = {"heads": heads, "sequences": sequences}
        key: dict[str, Any] = {
            "capacity": capacity, "distance_max": distance_max, "rescore": rescore}

        super().__init__({
            "i_order": In(stream.Signature(order_layout(
                queries=queries, exp_tables=exp_tables, rescore=rescore, shared=shared, **place))),
            "i": In(stream.Signature(
                key_layout(capacity=capacity, distance_max=distance_max))).array(queries),
            **({"again": Out(1)} if shared else {}),
            "o_result": Out(stream.Signature(data.StructLayout({
                "query": range(queries),
                "error": self._error,
                "final": 1,
                **({"final_good": 1} if heads else {}),
            }))),
            "o_command": Out(stream.Signature(
                softmax_command_layout(queries=queries, exp_tables=exp_tables, rescore=rescore))),
            "o": Out(stream.Signature(
                gathered_key_layout(**key, **place, shared=shared) if heads
                else key_layout(**key))),
        })

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def distance_max(self) -> int:
        return self._distance_max

    @property
    def queries(self) -> int:
        return self._queries

    @property
    def exp_tables(self) -> int:
        return self._exp_tables

    @property
    def rescore(self) -> bool:
        return self._rescore

    @property
    def shared(self) -> bool:
        return self._shared

    def elaborate(self, platform) -> Module:
        m = Module()

        query = Signal(range(self._queries))
        order = self.i_order.p.queries[query]
        good, final = Signal(), Signal()
        skip = Signal() # the query has an error, but its rescore query was sent
        if self._rescore:
            m.d.comb += skip.eq(~good & self.i_order.p.rescore)
        m.d.comb += [
            good.eq(order.error == self._error.OK),
            final.eq(query == self._queries - 1),
        ]

        # Each of the query's three outputs is done once.
        done = Signal(3)
        does = Signal(3)
        fire = Signal()
        m.d.comb += [
            self.o_result.valid.eq(self.i_order.valid & ~done[0]),
            self.o_command.valid.eq(self.i_order.valid & good & ~done[1]),
            does[0].eq(self.o_result.valid & self.o_result.ready),
            does[1].eq(self.o_command.valid & self.o_command.ready),
            does[2].eq(self.o.valid & self.o.ready & (self.o.p.last | skip)),
            fire.eq(self.i_order.valid & (done | does | Cat(0, ~good, ~(good | skip))).all()),
            self.i_order.ready.eq(fire & final),
        ]
        m.d.sync += done.eq(Mux(fire, 0, done | does))
        with m.If(fire):
            m.d.sync += query.eq(Mux(final, 0, query + 1))

        m.d.comb += [
            self.o_result.p.query.eq(query),
            self.o_result.p.error.eq(order.error),
            self.o_result.p.final.eq(final),
            self.o_command.p.query.eq(query),
            self.o_command.p.exp_table.eq(order.exp_table),
            self.o_command.p.trace.eq(self.i_order.p.trace),
        ]
        source = Signal.like(query)
        m.d.comb += source.eq(query)
        if self._shared:
            m.d.comb += self.again.eq(self.i_order.p.shared & ~final)
            with m.If(self.i_order.p.shared):
                m.d.comb += source.eq(self._queries - 1)
        for index in range(self._queries):
            key = self.i[index]
            with m.If((source == index) & self.i_order.valid & good & ~done[2]):
                m.d.comb += [
                    self.o.valid.eq(key.valid),
                    self.o.p.index.eq(key.p.index),
                    self.o.p.distance.eq(key.p.distance),
                    self.o.p.last.eq(key.p.last),
                    key.ready.eq(self.o.ready),
                ]
        if self._rescore:
            m.d.comb += [
                self.o_command.p.rescore.eq(self.i_order.p.rescore),
                self.o_command.p.multiplier.eq(order.multiplier),
                self.o.p.rescore.eq(self.i_order.p.rescore),
                self.o.p.skip.eq(skip),
            ]
            with m.If(self.i_order.valid & skip & ~done[2]):
                m.d.comb += self.o.valid.eq(1)
        if self._heads:
            self._gather(m, query, final)

        return m

    def _gather(self, m: Module, query: Signal, final: Signal) -> None:
        """Drive where the rows of a selection are, and whether queries share them."""
        order = self.i_order.p
        good = Cat(each.error == self._error.OK for each in order.queries)
        m.d.comb += [
            self.o.p.head.eq(order.head),
            self.o.p.sequence.eq(order.sequence),
            self.o_result.p.final_good.eq(~(good >> 1 >> query).any()),
        ]
        if self._shared:
            m.d.comb += [
                self.o.p.repeats.eq(order.shared & (query != 0)),
                self.o.p.keeps.eq(order.shared & ~final),
            ]
