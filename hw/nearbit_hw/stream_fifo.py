"""A queue between two streams."""

from typing import Any

from amaranth import *
from amaranth.lib import data, fifo, stream, wiring


__all__ = ["StreamFifo", "queue", "register"]


class StreamFifo(fifo.SyncFIFO):
    """Amaranth's synchronous FIFO with streams at both ends.

    A payload accepted at cycle t is presented at cycle t + 1 at the earliest. Both ends run at full
    rate, and neither end's handshake depends combinationally on the other's. Reset empties it.

    Parameters
    ----------
    layout : :class:`amaranth.lib.data.Layout`
        Layout of the payload.
    depth : :class:`int`
        Entries.

    Members
    -------
    i : :py:`In(stream.Signature(layout))`
        Write end.
    o : :py:`Out(stream.Signature(layout))`
        Read end: the oldest entry.
    """

    def __init__(self, layout: data.Layout, *, depth: int):
        super().__init__(width=Shape.cast(layout).width, depth=depth)
        signature = stream.Signature(layout)
        # The streams use the FIFO's own signals: there is no logic in between.
        put, got = signature.create(), signature.create()
        given: Any = data.View(layout, self.w_data)
        taken: Any = data.View(layout, self.r_data)
        put.payload, put.valid, put.ready = given, self.w_en, self.w_rdy
        got.payload, got.valid, got.ready = taken, self.r_rdy, self.r_en
        self.i: Any = wiring.flipped(put)
        self.o: Any = got


def queue(m: Module, source: Any, target: Any) -> None:
    """Connect two streams of the same layout, one of them an end of a queue."""
    m.d.comb += [
        target.payload.eq(source.payload),
        target.valid.eq(source.valid),
        source.ready.eq(target.ready),
    ]


def register(m: Module, source: Any, target: Any, name: str) -> None:
    """Connect two streams of the same layout through a register that loads whenever it is free.

    A payload accepted at cycle t is presented at cycle t + 1, at full rate.
    """
    move, valid = Signal(name=f"{name}_move"), Signal(name=f"{name}_valid")
    payload = Signal.like(Value.cast(source.payload), name=f"{name}_payload", reset_less=True)
    m.d.comb += [
        move.eq(~valid | target.ready),
        source.ready.eq(move),
        target.valid.eq(valid),
        Value.cast(target.payload).eq(payload),
    ]
    with m.If(move):
        m.d.sync += [valid.eq(source.valid), payload.eq(source.payload)]
