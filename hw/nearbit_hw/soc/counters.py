"""Counters of events, in a memory with one adder."""

from typing import Any

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.soc.registers import COUNTERS


__all__ = ["Counters"]


# How it works
# ------------
# A counter is two words of a memory, the low one first. One word is *visited* in each cycle, all 16
# in turn. A visit to a low word adds the events since the visit before, which a small counter of
# each event has kept; one to a high word adds the carry. What was added up is written in the cycle
# after, and until then it can be read: a read waits for the word to come.

PERIOD = 2 * len(COUNTERS)
"""Cycles from one visit of a word to the next; also the cycles that the first counter counts."""


class Counters(wiring.Component):
    """Eight counters of 64 bits that count events up, and never stop.

    Each word is presented once in 16 cycles. A low word then counts all events but those of the
    last cycle and of the present one; the high word, which comes in the cycle after, belongs to it.

    A clear takes effect within 32 cycles, in which :py:`ready` is 0, and so does a reset: the
    counters begin at 0 with the first visits in it.

    Members
    -------
    events : :py:`In(8)`
        High for each cycle in which a counter is to count. The first counts all cycles.
    clear : :py:`In(1)`
        High for one cycle to set all counters to 0.
    index : :py:`Out(4)`
        The word that is presented:
    value : :py:`Out(32)`
        what it is.
    ready : :py:`Out(1)`
        No clear is being done.
    """

    events: Signal
    clear: Signal
    index: Signal
    value: Signal
    ready: Signal

    def __init__(self):
        super().__init__({
            "events": In(len(COUNTERS)),
            "clear": In(1),
            "index": Out(range(PERIOD)),
            "value": Out(32),
            "ready": Out(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()

        words: Any = memory.Memory(shape=32, depth=PERIOD, init=[],
                                   attrs={"ram_style": "distributed"})
        m.submodules.words = words
        read_port, write_port = words.read_port(domain="comb"), words.write_port()

        step = Signal(range(PERIOD))
        m.d.sync += step.eq(step + 1)

        # A clear is one whole turn.
        asked, clearing = Signal(init=1), Signal()
        with m.If(step == PERIOD - 1):
            m.d.sync += [clearing.eq(asked), asked.eq(0)]
        with m.If(self.clear):
            m.d.sync += asked.eq(1)
        m.d.comb += self.ready.eq(~asked & ~clearing)

        carry = Signal()
        addend = Signal(range(PERIOD + 1))
        waiting: list[Value] = [C(PERIOD)]
        for index in range(1, len(COUNTERS)):
            events = Signal(range(PERIOD + 1), name=f"waiting_{index}")
            carried: Value = self.events[index]
            visited = step == 2 * index
            # Bit by bit: a carry chain would be larger.
            for place, bit in enumerate(events):
                m.d.sync += bit.eq(carried if place == 0 else 0)
                with m.If(~visited):
                    m.d.sync += bit.eq(bit ^ carried)
                carried = carried & bit
            waiting.append(events)
        with m.Switch(step):
            for index, count in enumerate(waiting):
                with m.Case(2 * index):
                    m.d.comb += addend.eq(count)
            with m.Default():
                m.d.comb += addend.eq(carry)

        total = Signal(33)
        m.d.comb += [
            read_port.addr.eq(step),
            total.eq(read_port.data + addend),
            write_port.addr.eq(self.index),
            write_port.data.eq(self.value),
            write_port.en.eq(1),
        ]
        m.d.sync += [Cat(self.value, carry).eq(total), self.index.eq(step)]
        with m.If(clearing):
            m.d.sync += Cat(self.value, carry).eq(0)
        return m
