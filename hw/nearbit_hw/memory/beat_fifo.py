"""A queue in block RAM, for beats that were asked for."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.sizes import check_power
from nearbit_hw.ram import block_ram


__all__ = ["BeatFifo"]


class BeatFifo(wiring.Component):
    """A queue in block RAM whose writer never gives it more than it holds.

    The writer counts: of what it has put in, no more than :py:`depth` payloads may not have left.
    Then nothing is ever refused, and the queue need not know that it is full.

    What comes at cycle t is presented at cycle t + 2 at the earliest; one payload goes in and one
    out per cycle. A stall holds the payload. Reset empties it.

    Parameters
    ----------
    layout : shape
        What is queued.
    depth : :class:`int`
        Places, a power of two.

    Members
    -------
    i : :py:`In(stream.Signature(layout, always_ready=True))`
        What is put in.
    o : :py:`Out(stream.Signature(layout))`
        The oldest of what is in.
    empty : :py:`Out(1)`
        Whether nothing is in; what came in the cycle before is.
    """

    i: stream.Interface
    o: stream.Interface
    empty: Signal

    def __init__(self, layout: Any, *, depth: int):
        check_power(depth=depth)
        self._layout = layout
        self._depth = depth

        super().__init__({
            "i": In(stream.Signature(layout, always_ready=True)),
            "o": Out(stream.Signature(layout)),
            "empty": Out(1),
        })

    @property
    def layout(self) -> Any:
        return self._layout

    @property
    def depth(self) -> int:
        return self._depth

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.beats = beats = block_ram(shape=self._layout, depth=self._depth)
        write, read = beats.write_port(), beats.read_port()

        # The lap is one bit more: equal addresses are all or nothing, but the word in the output
        # register has a place of its own by then, so that of both only nothing comes about.
        written, fetched = Signal(range(2 * self._depth)), Signal(range(2 * self._depth))
        advance, waits = Signal(), Signal()
        m.d.comb += [
            write.addr.eq(written),
            write.data.eq(self.i.payload),
            write.en.eq(self.i.valid),
            advance.eq(~self.o.valid | self.o.ready),
            waits.eq(written != fetched),
            read.addr.eq(fetched),
            read.en.eq(advance),
            self.o.payload.eq(read.data),
            self.empty.eq(~self.o.valid & ~waits),
        ]
        with m.If(self.i.valid):
            m.d.sync += written.eq(written + 1)
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(waits), fetched.eq(fetched + waits)]

        return m
