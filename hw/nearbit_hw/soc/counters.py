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
# in turn. A visit to a low word adds the events since the visit before: those of the 15 cycles
# between, which a small counter has kept, and the one of its own cycle as the adder's carry in. A
# visit to a high word adds the carry of the low one. What was added up is written in the cycle
# after, and until then it can be read: a read waits for the word to come.
#
# The small counters are shift registers that go through all states in an order that takes one
# LUT; a table, behind the multiplexer of all, tells the number from the state.

PERIOD = 2 * len(COUNTERS)
"""Cycles from one visit of a word to the next; also the cycles that the first counter counts."""


def _next(state: Any) -> Any:
    """Bit to shift into a state of four bits: the order is a de Bruijn sequence from 0 on."""
    return state[3] ^ state[2] ^ (state[:3] == 0)


def _order() -> list[int]:
    """List the states, from 0 on."""
    states = [0]
    while len(states) < PERIOD:
        state = states[-1]
        bit = (state >> 3 ^ state >> 2) & 1 ^ (state & 7 == 0)
        states.append((state << 1 | bit) & 15)
    return states


class Counters(wiring.Component):
    """Eight counters of 64 bits that count events up, and never stop.

    Each word is presented once in 16 cycles. A low word then counts all events but those of the
    present cycle; the high word, which comes in the cycle after, belongs to it.

    A clear takes effect within 32 cycles, in which :py:`ready` is 0, and so does a reset: the
    counters begin at 0 at the end of that turn.

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

        states = _order()
        carry = Signal()
        state = Signal(4)           # of the small counter that is visited
        event = Signal()
        waiting: list[Value] = [C(states[-1], 4)]
        for index in range(1, len(COUNTERS)):
            # Each is visited in the turn that clears after a reset.
            kept = Signal(4, name=f"waiting_{index}", reset_less=True)
            with m.If(self.events[index]):
                m.d.sync += kept.eq(Cat(_next(kept), kept))
            with m.If(step == 2 * index):
                m.d.sync += kept.eq(0)
            waiting.append(kept)
        with m.Switch(step):
            for index, small in enumerate(waiting):
                with m.Case(2 * index):
                    m.d.comb += [state.eq(small), event.eq(self.events[index] if index else 1)]
            with m.Default():
                m.d.comb += event.eq(carry)
        addend = Signal(4)
        with m.Switch(state):
            for number, known in enumerate(states):
                with m.Case(known):
                    m.d.comb += addend.eq(number)

        total = Signal(33)
        below = Signal() # makes the carry in, so that there is one chain
        m.d.comb += [
            read_port.addr.eq(step),
            Cat(below, total).eq(Cat(C(1, 1), read_port.data) + Cat(event, addend)),
            write_port.addr.eq(self.index),
            write_port.data.eq(self.value),
            write_port.en.eq(1),
        ]
        m.d.sync += [Cat(self.value, carry).eq(total), self.index.eq(step)]
        with m.If(clearing):
            m.d.sync += Cat(self.value, carry).eq(0)
        return m
