"""A queue between two streams, in block RAM."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.beat_fifo import BeatFifo
from nearbit_hw.memory.sizes import check_power


__all__ = ["BlockFifo"]


class BlockFifo(wiring.Component):
    """A :class:`nearbit_hw.stream_fifo.StreamFifo` for more than a few payloads.

    What is accepted at cycle t is presented at cycle t + 2 at the earliest. Both ends go at full
    rate, and neither end's handshake depends on the other's within a cycle; a place is free in the
    cycle after its payload has left. Reset empties it.

    Parameters
    ----------
    layout : shape
        What is queued.
    depth : :class:`int`
        Places, a power of two.

    Members
    -------
    i : :py:`In(stream.Signature(layout))`
        What is put in.
    o : :py:`Out(stream.Signature(layout))`
        The oldest of what is in.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, layout: Any, *, depth: int):
        check_power(depth=depth)
        self._layout = layout
        self._depth = depth
        super().__init__({"i": In(stream.Signature(layout)), "o": Out(stream.Signature(layout))})

    @property
    def layout(self) -> Any:
        return self._layout

    @property
    def depth(self) -> int:
        return self._depth

    @property
    def latency(self) -> int:
        """Cycles from accepting a payload to presenting it."""
        return 2

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.fifo = fifo = BeatFifo(self._layout, depth=self._depth)
        free = Signal(range(self.depth + 1), init=self.depth)
        puts, takes = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(free != 0),
            puts.eq(self.i.valid & self.i.ready),
            takes.eq(self.o.valid & self.o.ready),
            fifo.i.valid.eq(puts),
            fifo.i.payload.eq(self.i.payload),
        ]
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        m.d.sync += free.eq(free + takes - puts)
        return m
