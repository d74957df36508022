"""Repetition of selections."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import key_layout
from nearbit_hw.ram import block_ram


__all__ = ["SelectionRepeat"]


class SelectionRepeat(wiring.Component):
    """Passes selections on, and repeats the last one as often as requested.

    Keys pass from :py:`i` to :py:`o` without delay. If :py:`again` is set in the cycle in which a
    selection's last key is accepted, its keys leave once more, the first presented two cycles
    later and the others without a gap. This repeats until :py:`again` is clear when a last key is
    accepted. Reset drops any repetition.

    Parameters
    ----------
    capacity : :class:`int`
        Number of keys that can be indexed. At least 1.
    distance_max : :class:`int`
        The largest distance. At least 1.
    top_n : :class:`int`
        The most keys in a selection. At least 1.

    Members
    -------
    i : :py:`In(stream.Signature(StructLayout({"index": ..., "distance": ..., "last": 1})))`
        Selected keys; :py:`last` is set on a selection's last one.
    again : :py:`In(1)`
        Whether to repeat the selection that is ending.
    o : :py:`Out(stream.Signature(StructLayout({"index": ..., "distance": ..., "last": 1})))`
        The selections, each once or more.
    """

    i: stream.Interface
    again: Signal
    o: stream.Interface

    def __init__(self, *, capacity: int, distance_max: int, top_n: int):
        for name, value in [("Capacity", capacity), ("Largest distance", distance_max),
                            ("Top N", top_n)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        self._capacity = capacity
        self._distance_max = distance_max
        self._top_n = top_n

        selection = stream.Signature(key_layout(capacity=capacity, distance_max=distance_max))
        super().__init__({"i": In(selection), "again": In(1), "o": Out(selection)})

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def distance_max(self) -> int:
        return self._distance_max

    @property
    def top_n(self) -> int:
        return self._top_n

    def elaborate(self, platform) -> Module:
        m = Module()

        m.submodules.keys = keys = block_ram(shape=self.i.payload.shape(), depth=self._top_n)
        write, read = keys.write_port(), keys.read_port()

        # The place of the key being written, or read: then one ahead of the key presented.
        repeats, shown = Signal(), Signal()
        position = Signal(range(max(2, self._top_n)))
        accept, ends = Signal(), Signal()
        m.d.comb += [
            accept.eq(self.o.valid & self.o.ready),
            ends.eq(accept & self.o.p.last),
            write.addr.eq(position),
            write.data.eq(self.i.payload),
            write.en.eq(accept & ~repeats),
            read.addr.eq(position),
            read.en.eq(~shown | self.o.ready),
        ]
        with m.If(repeats):
            m.d.comb += [self.o.valid.eq(shown), self.o.payload.eq(read.data)]
            with m.If(read.en):
                m.d.sync += [shown.eq(1), position.eq(position + 1)]
        with m.Else():
            m.d.comb += [
                self.o.valid.eq(self.i.valid),
                self.o.payload.eq(self.i.payload),
                self.i.ready.eq(self.o.ready),
            ]
            with m.If(accept):
                m.d.sync += position.eq(position + 1)
        with m.If(ends):
            m.d.sync += [repeats.eq(self.again), shown.eq(0), position.eq(0)]

        return m
