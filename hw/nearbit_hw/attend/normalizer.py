"""Exactly rounded division of weighted sums by the sum of weights."""

from functools import reduce
from operator import or_
from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import sums_layout


__all__ = ["Normalizer"]


# How it works
# ------------
# With Z the total, F the fraction bits and n the bits of an output, a radix-2 division of
#
#     numerator = a * 2**F + floor(Z / 2) + Z * 2**(n - 1)
#
# has a quotient of n bits, because -2**(n - 1 - F) * Z <= a < 2**(n - 1 - F) * Z for a weighted sum
# of elements of n - F bits with weights that add up to at most Z. The last term makes the numerator
# non-negative; it adds 2**(n - 1) to the quotient, which is to invert its highest bit.
#
# The division is non-restoring: step i subtracts 2**(n - 1 - i) * Z from what is left of the
# numerator if that is not negative, and adds it if it is. Quotient bit i is 1 if the outcome is not
# negative. Step 0 always subtracts, and what it subtracts is just the last term above: so it needs
# no subtractor, but is the addition of floor(Z / 2), with a signed outcome.
#
# Before step i >= 1 what is left lies between -2**(n - i) * Z and 2**(n - i) * Z - 1. Its bits
# from n - i up, the `remainder`, therefore lie between -Z and Z - 1: one bit more than Z has. A
# step doubles the remainder, puts the numerator's next bit below it, and adds or subtracts Z; the
# outcome is between -Z and Z - 1 again, so an adder of that width is enough. Bits of the numerator
# that are still to come and bits of the quotient share a shift register, `bits`.
#
# The n steps are shared out among n / divider_cycles units, each of which takes the element over
# from the unit before it, does one step per cycle, and hands it on.
#
# The sums stay in the input stream, unaccepted, until the last element has entered. So they need
# no register here, and Z needs one only for the elements that are still in work afterwards. Which
# of the two an element takes its Z from is `gone`: whether its beat was accepted. That register
# is free again when the next beat is accepted, value_lanes * divider_cycles cycles later; where a
# division takes longer, each unit has a register for Z of its own.
#
# Whether everything moves is a register, `advance`, because it goes to every other one. So an
# output that is not taken in the cycle in which the pipeline presents it is put `aside`, and the
# pipeline holds from the next cycle on until it is taken.

class Normalizer(wiring.Component):
    """Weighted means: the sums of a beat, one after another, divided by the total.

    Element j of the output is :py:`floor((sums[j] * 2**F + floor(total / 2)) / total)`, F the
    fraction bits: an exact division, rounded to the nearest, ties upward. It is defined for
    :py:`total >= 1` and :py:`-2**(value_bits - 1) * total <= sums[j] <
    2**(value_bits - 1) * total - total / 2**(F + 1)`, which includes all weighted means of
    elements of :py:`value_bits` bits.

    A beat *starts* in the first cycle in which it is presented and :py:`interval` cycles have
    passed since the beat before it started. Started at cycle t, its element j is presented at
    cycle :py:`t + j * divider_cycles + latency`, and it is accepted at cycle
    :py:`t + (value_lanes - 1) * divider_cycles`, all if the output is never stalled; a stall holds
    everything from the next cycle on, until the output is taken. Cycles do not depend on the data.
    Reset drops the elements in work.

    Reference: :func:`nearbit_model.golden.normalize`.

    Parameters
    ----------
    value_lanes : :class:`int`
        Elements of a beat. At least 1.
    value_bits : :class:`int`
        Bits of an element of the values that were summed. At least 1.
    sum_bits : :class:`int`
        Bits of a sum, two's complement. At least 1.
    total_max : :class:`int`
        Largest total. At least 1.
    output_fraction_bits : :class:`int`
        Fraction bits of an output. At least 0.
    divider_cycles : :class:`int`
        Cycles per output. Divides the bits of an output.

    Members
    -------
    i : :py:`In(stream.Signature(StructLayout({"sums": ..., "total": range(total_max + 1)})))`
        Sums of a beat, and the total.
    o : :py:`Out(stream.Signature(StructLayout({"output": ..., "last": 1})))`
        Outputs, element 0 first, two's complement of :py:`output_bits`; :py:`last` on a beat's
        last one.
    next_ready : :py:`Out(1)`
        What :py:`i.ready` will be in the next cycle.
    """

    i: stream.Interface
    o: stream.Interface
    next_ready: Signal

    def __init__(self, *, value_lanes: int, value_bits: int, sum_bits: int, total_max: int,
                 output_fraction_bits: int, divider_cycles: int):
        for name, value in [("Value lanes", value_lanes), ("Value bits", value_bits),
                            ("Sum bits", sum_bits), ("Largest total", total_max)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        if not isinstance(output_fraction_bits, int) or output_fraction_bits < 0:
            raise TypeError(f"Output fraction bits must be a non-negative integer, "
                            f"not {output_fraction_bits!r}")
        if (not isinstance(divider_cycles, int) or divider_cycles < 1
                or (value_bits + output_fraction_bits) % divider_cycles):
            raise TypeError(f"Output cycles must be a divisor of the bits of an output, "
                            f"not {divider_cycles!r}")
        self._value_lanes = value_lanes
        self._value_bits = value_bits
        self._sum_bits = sum_bits
        self._total_max = total_max
        self._output_fraction_bits = output_fraction_bits
        self._divider_cycles = divider_cycles

        super().__init__({
            "i": In(stream.Signature(sums_layout(
                sum_bits=sum_bits, value_lanes=value_lanes, total_max=total_max))),
            "o": Out(stream.Signature(data.StructLayout({
                "output": signed(self.output_bits),
                "last": 1,
            }))),
            "next_ready": Out(1),
        })

    @property
    def value_lanes(self) -> int:
        return self._value_lanes

    @property
    def value_bits(self) -> int:
        return self._value_bits

    @property
    def sum_bits(self) -> int:
        return self._sum_bits

    @property
    def total_max(self) -> int:
        return self._total_max

    @property
    def output_fraction_bits(self) -> int:
        return self._output_fraction_bits

    @property
    def divider_cycles(self) -> int:
        return self._divider_cycles

    @property
    def output_bits(self) -> int:
        """Bits of an output."""
        return self._value_bits + self._output_fraction_bits

    @property
    def latency(self) -> int:
        """Cycles from an element's turn to its output: a step of the division in each."""
        return self.output_bits

    @property
    def interval(self) -> int:
        """Cycles from the start of one beat to the start of the next."""
        return self._value_lanes * self._divider_cycles

    def elaborate(self, platform) -> Module:
        m = Module()

        steps, unit_steps = self.output_bits, self._divider_cycles
        units = steps // unit_steps
        total_bits = len(self.i.p.total)

        advance = Signal(init=1)
        next_advance = Signal()
        m.d.sync += advance.eq(next_advance)

        # ---- Elements enter in turns. `age` has a bit for each step: bit s is set while an element
        # is ready for step s + 1, so the last one is set while an output is ready.
        age = Signal(steps)
        turn = Signal(self._value_lanes, init=1) # one-hot
        free, enter, accept = Signal(), Signal(), Signal()
        m.d.comb += [
            free.eq(~age[:unit_steps - 1].any()),
            enter.eq(self.i.valid & free),
            accept.eq(enter & turn[-1]),
            self.i.ready.eq(advance & free & turn[-1]),
        ]
        next_age, next_turn = Signal.like(age), Signal.like(turn)
        m.d.comb += [next_age.eq(age), next_turn.eq(turn)]
        with m.If(advance):
            m.d.comb += next_age.eq(Cat(enter, age))
            with m.If(enter):
                m.d.comb += next_turn.eq(turn.rotate_left(1))
        m.d.sync += [age.eq(next_age), turn.eq(next_turn)]
        m.d.comb += self.next_ready.eq(
            next_advance & ~next_age[:unit_steps - 1].any() & next_turn[-1])

        # The first element comes straight from the input. The others have been picked out one turn
        # ahead, so that no adder waits for a multiplexer of all elements.
        sums = self.i.p.sums
        element = Signal(signed(self._sum_bits))
        m.d.comb += element.eq(sums[0])
        if self._value_lanes > 1:
            ahead = Signal(self._sum_bits, reset_less=True)
            with m.If(advance & enter):
                m.d.sync += ahead.eq(reduce(or_, (
                    sums[lane] & turn[lane - 1].replicate(self._sum_bits)
                    for lane in range(1, self._value_lanes))))
            with m.If(~turn[0]):
                m.d.comb += element.eq(ahead)

        # ---- Step 0. Its outcome has the bits of floor(Z / 2) as its lowest F. These are the same
        # for all elements of a beat, so a pipeline of single steps takes them from Z when they
        # are due, and `bits` begins with only the `carried` bits above them.
        fraction_bits = self._output_fraction_bits
        half = Cat(self.i.p.total[1:], Const(0, fraction_bits))
        upper = Signal(signed(total_bits + self._value_bits))
        m.d.comb += upper.eq(element + half[fraction_bits:])
        numerator = Cat(half[:fraction_bits], upper)
        carried = self._value_bits - 1 if unit_steps == 1 else steps - 1

        remainder: Value = numerator[steps - 1:]
        bits: Value = numerator[steps - 1 - carried:steps - 1]
        quotient: Value = bits
        last: Value = turn[-1]
        gone: Value = Const(0)
        total: Value = self.i.p.total

        is_shared = units > 1 and steps - 1 <= self.interval
        kept_total = Signal.like(total, reset_less=True)
        if is_shared:
            with m.If(advance & accept):
                m.d.sync += kept_total.eq(total)

        # ---- Units. Unit u begins with the outcome of step u * unit_steps.
        for unit in range(units):
            # Without steps of its own, a unit may as well take over what is no element.
            load = Signal(name=f"load_{unit}")
            if unit_steps == 1:
                m.d.comb += load.eq(1)
            else:
                m.d.comb += load.eq(enter if unit == 0 else age[unit * unit_steps - 1])

            unit_remainder = Signal(total_bits + 1, name=f"remainder_{unit}", reset_less=True)
            unit_bits = Signal(len(bits), name=f"bits_{unit}", reset_less=True)
            unit_last = Signal(name=f"last_{unit}", reset_less=True)
            with m.If(advance & load):
                m.d.sync += [unit_remainder.eq(remainder), unit_bits.eq(bits), unit_last.eq(last)]

            unit_total = Signal(total_bits, name=f"total_{unit}", reset_less=True)
            if is_shared:
                unit_gone = Signal(name=f"gone_{unit}", reset_less=True)
                with m.If(advance):
                    m.d.sync += unit_gone.eq(Mux(load, gone, unit_gone) | accept)
                m.d.comb += unit_total.eq(Mux(unit_gone, kept_total, self.i.p.total))
                gone = unit_gone
            else:
                with m.If(advance & load):
                    m.d.sync += unit_total.eq(total)
                total = unit_total

            # ---- The next step.
            step = unit * unit_steps + 1
            subtract = ~unit_remainder[-1]
            if unit_steps > 1 or step <= carried:
                next_bit, kept_bits = unit_bits[-1:], unit_bits[:-1]
            else:
                next_bit, kept_bits = Cat(unit_total, Const(0, steps))[steps - step], unit_bits
            # The lowest place of this sum makes the carry that completes a negation.
            outcome = (Cat(Const(1, 1), next_bit, unit_remainder[:-1])
                       + Cat(subtract, unit_total ^ subtract.replicate(total_bits), subtract))
            remainder = outcome[1:total_bits + 2]
            bits = Cat(subtract, kept_bits)
            quotient = Cat(subtract, unit_bits)
            last = unit_last

            if unit_steps > 1:
                with m.If(advance & ~load):
                    m.d.sync += [unit_remainder.eq(remainder), unit_bits.eq(bits)]

        # ---- Output: the last unit's, as soon as it has done its last step. The quotient's highest
        # bit is inverted.
        found: Any = Signal(self.o.payload.shape())
        aside = Signal.like(found, reset_less=True)
        m.d.comb += [
            found.output.eq(Cat(quotient[:-1], ~quotient[-1]).as_signed()),
            found.last.eq(last),
            next_advance.eq(self.o.ready | (advance & ~age[-1])),
            self.o.valid.eq(age[-1] | ~advance),
            self.o.payload.eq(Mux(advance, found, aside)),
        ]
        with m.If(advance):
            m.d.sync += aside.eq(found)

        return m
