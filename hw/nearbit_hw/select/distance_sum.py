"""Sums of the queries' distances."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import distance_word_layout
from nearbit_hw.stream_fifo import StreamFifo


__all__ = ["DistanceSum"]


COMMANDS = 4
"""Commands between their acceptance by the selector and their last word; two in a TopN."""


class DistanceSum(wiring.Component):
    """Passes on the last query's distances; sums all queries' for commands that share a selection.

    In :class:`~nearbit_hw.score.ScoreArray` each query is a stage of its own, so the queries
    present the same word in successive cycles. The sums move along with it: each query adds its
    distances to the sums from the query before, and the last query's words leave in the cycle in
    which they arrive. The other queries' distances are added whether or not they are valid.

    A command must be accepted before the cycle in which its first word arrives. Reset drops
    commands.

    Parameters
    ----------
    key_bits, queries, lanes : :class:`int`
        As in :class:`nearbit_model.Config`.

    Members
    -------
    i_command : :py:`In(stream.Signature(StructLayout({"shared": 1})))`
        For each command for which the last query has words: whether to sum. Never stalled while
        at most :py:`COMMANDS` are in flight.
    i : :py:`In(stream.Signature(...)).array(queries)`
        As :py:`ScoreArray.o`.
    o : :py:`Out(stream.Signature(...))`
        Words for :class:`~nearbit_hw.select.TopN`.
    """

    i_command: stream.Interface
    i: list[stream.Interface]
    o: stream.Interface

    def __init__(self, *, key_bits: int, queries: int, lanes: int):
        for name, value in [("Key bits", key_bits), ("Queries", queries), ("Lanes", lanes)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        self._key_bits = key_bits
        self._queries = queries
        self._lanes = lanes

        def words(most: int) -> stream.Signature:
            return stream.Signature(
                distance_word_layout(distance_max=most, lanes=lanes), always_ready=True)

        super().__init__({
            "i_command": In(stream.Signature(data.StructLayout({"shared": 1}))),
            "i": In(words(key_bits)).array(queries),
            "o": Out(words(key_bits * queries)),
        })

    @property
    def key_bits(self) -> int:
        return self._key_bits

    @property
    def queries(self) -> int:
        return self._queries

    @property
    def lanes(self) -> int:
        return self._lanes

    def elaborate(self, platform) -> Module:
        m = Module()

        own = self.i[-1]
        m.submodules.commands = commands = StreamFifo(
            self.i_command.payload.shape(), depth=COMMANDS)
        m.d.comb += [
            self.i_command.ready.eq(commands.i.ready),
            commands.i.payload.eq(self.i_command.payload),
            commands.i.valid.eq(self.i_command.valid),
            commands.o.ready.eq(own.valid & own.p.last),
            self.o.valid.eq(own.valid),
            self.o.p.last.eq(own.p.last),
        ]
        for lane in range(self._lanes):
            above: Any = Const(0)
            for query in range(self._queries - 1):
                total = Signal(range(self._key_bits * (query + 1) + 1),
                               name=f"sum_{query}_{lane}", reset_less=True)
                m.d.sync += total.eq(above + self.i[query].p.distances[lane])
                above = total
            m.d.comb += self.o.p.distances[lane].eq(
                own.p.distances[lane] + Mux(commands.o.p.shared, above, 0))

        return m
