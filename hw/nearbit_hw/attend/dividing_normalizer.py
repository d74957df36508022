"""Weighted means by a divider without multipliers: small, or one output per cycle."""

from functools import reduce
from operator import or_
from typing import Any

from amaranth import *
from amaranth.lib.wiring import Out

from nearbit_hw.attend.normalizer import Normalizer, hold_output


__all__ = ["DividingNormalizer"]


# How it works
# ------------
# With Z the total, F the fraction bits and n the bits of an output, a radix-2 division of
#
#     numerator = a * 2**F + floor(Z / 2) + Z * 2**(n - 1)
#
# has a quotient of n bits, because -2**(n - 1 - F) * Z <= a < 2**(n - 1 - F) * Z for a weighted sum
# of elements of n - F bits with weights that add up to at most Z. The last term makes the numerator
# non-negative; it adds 2**(n - 1) to the quotient, which inverts the quotient's highest bit.
#
# The division is non-restoring: step i subtracts 2**(n - 1 - i) * Z from the rest of the numerator
# if the rest is non-negative, and adds it otherwise. Quotient bit i is 1 if the outcome is
# non-negative. Step 0 always subtracts, and it subtracts exactly the last term above: so instead of
# a subtractor it only needs the addition of floor(Z / 2), with a signed outcome.
#
# Before step i >= 1 the rest lies between -2**(n - i) * Z and 2**(n - i) * Z - 1. Its bits
# from n - i up, the `remainder`, therefore lie between -Z and Z - 1: one bit more than Z has. A
# step doubles the remainder, appends the numerator's next bit below it, and adds or subtracts Z;
# the outcome lies between -Z and Z - 1 again, so an adder of that width is enough. The numerator's
# remaining bits and the quotient's bits so far share a shift register, `bits`.
#
# The n steps are divided among n / divider_cycles units. Each takes an element from the unit before
# it, does one step per cycle, and hands it on.
#
# The sums stay in the input stream, unaccepted, until the last element has entered. So they need
# no register here, and Z needs one only for the elements still in flight afterwards. `gone` tells
# which of the two an element takes its Z from: whether its beat was accepted. That register is free
# again when the next beat is accepted, value_lanes * divider_cycles cycles later; if a division
# takes longer, each unit has its own register for Z.

class DividingNormalizer(Normalizer):
    """Weighted means by non-restoring division.

    The contract, the other parameters and the members are those of
    :class:`~nearbit_hw.attend.Normalizer`. :py:`output_cycles` is :py:`divider_cycles`.

    Reference: :func:`nearbit_model.golden.normalize`.

    Parameters
    ----------
    divider_cycles : :class:`int`
        Cycles per output. Divides the bits of an output.
    shifts : :class:`bool`
        Whether the source of the sums shifts them on request: then every sum is taken from the
        place of element 0.

    Members
    -------
    shift : :py:`Out(1)`
        With :py:`shifts`: from the next cycle on, each sum must be in the place of the one before.
        May be ignored with the last element, when the beat is accepted.
    """

    shift: Signal

    def __init__(self, *, value_lanes: int, value_bits: int, sum_bits: int, total_max: int,
                 output_fraction_bits: int, divider_cycles: int, shifts: bool = False):
        super().__init__(value_lanes=value_lanes, value_bits=value_bits, sum_bits=sum_bits,
                         total_max=total_max, output_fraction_bits=output_fraction_bits,
                         **({"shift": Out(1)} if shifts else {}))
        if (not isinstance(divider_cycles, int) or divider_cycles < 1
                or self.output_bits % divider_cycles):
            raise TypeError(f"Divider cycles must divide the bits of an output, "
                            f"not {divider_cycles!r}")
        self._divider_cycles = divider_cycles
        self._shifts = bool(shifts)

    @property
    def shifts(self) -> bool:
        return self._shifts

    @property
    def divider_cycles(self) -> int:
        return self._divider_cycles

    @property
    def output_cycles(self) -> int:
        """Cycles from one element of a beat to the next."""
        return self._divider_cycles

    @property
    def latency(self) -> int:
        """Cycles from an element's turn to its output: one per step of the division."""
        return self.output_bits

    def elaborate(self, platform) -> Module:
        m = Module()

        steps, unit_steps = self.output_bits, self._divider_cycles
        units = steps // unit_steps
        total_bits = len(self.i.p.total)

        # ---- Elements enter in turn. `age` has a bit for each step: bit s is set while an element
        # is ready for step s + 1, so the last bit is set while an output is ready.
        age = Signal(steps)
        found: Any = Signal(self.o.payload.shape())
        advance, next_advance = hold_output(m, self.o, valid=age[-1], payload=found)
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

        # The first element comes straight from the input. The others are selected one turn ahead,
        # so that no adder waits for a multiplexer over all elements.
        sums = self.i.p.sums
        element = Signal(signed(self._sum_bits))
        m.d.comb += element.eq(sums[0])
        if self._shifts:
            m.d.comb += self.shift.eq(advance & enter)
        elif self._value_lanes > 1:
            ahead = Signal(self._sum_bits, reset_less=True)
            with m.If(advance & enter):
                m.d.sync += ahead.eq(reduce(or_, (
                    sums[lane] & turn[lane - 1].replicate(self._sum_bits)
                    for lane in range(1, self._value_lanes))))
            with m.If(~turn[0]):
                m.d.comb += element.eq(ahead)

        # ---- Step 0. The lowest F bits of its outcome are those of floor(Z / 2). They are the same
        # for all elements of a beat, so a pipeline of single steps takes them from Z when needed,
        # and `bits` starts with only the `carried` bits above them.
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

        # ---- Units. Unit u starts with the outcome of step u * unit_steps.
        for unit in range(units):
            # A unit that does a single step may load even without a valid element.
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
            # The lowest bit of this sum generates the carry that completes the negation of Z.
            outcome = (Cat(Const(1, 1), next_bit, unit_remainder[:-1])
                       + Cat(subtract, unit_total ^ subtract.replicate(total_bits), subtract))
            remainder = outcome[1:total_bits + 2]
            bits = Cat(subtract, kept_bits)
            quotient = Cat(subtract, unit_bits)
            last = unit_last

            if unit_steps > 1:
                with m.If(advance & ~load):
                    m.d.sync += [unit_remainder.eq(remainder), unit_bits.eq(bits)]

        # ---- Output: the last unit's, as soon as its last step is done. The quotient's highest bit
        # is inverted.
        m.d.comb += [
            found.output.eq(Cat(quotient[:-1], ~quotient[-1]).as_signed()),
            found.last.eq(last),
        ]

        return m
