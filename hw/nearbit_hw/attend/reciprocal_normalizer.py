"""Exact weighted means by the reciprocal of the total: one output per cycle, with multipliers."""

from fractions import Fraction
from functools import reduce
from operator import or_
from typing import Any

from amaranth import *
from amaranth.lib import data

from nearbit_hw.attend.normalizer import Normalizer, hold_output
from nearbit_hw.ram import block_ram
from nearbit_model.structure import SHIFT_STEP, ReciprocalTimes


__all__ = ["ReciprocalNormalizer", "reciprocal_table"]


# How it works
# ------------
# With Z the total, a a sum, F the fraction bits and n the bits of an output, the quotient is
# q = floor((a * 2**F + floor(Z / 2)) / Z). All elements of a beat have the same Z, so they are
# multiplied by its reciprocal. The result is the quotient or one less; multiplying back decides
# which. The proof is in docs/numerics.md.
#
# Normalize: s is the number of leading zeros of Z, and `normal` is Z * 2**s, at least half of
# 2**total_bits. As a is at most 2**(value_bits - 1) times Z, a * 2**s needs value_bits more bits.
# Its upper n + 2 bits are the `factor`. Multiplexers shift in steps of 16 places; a product with a
# power of two, `power`, does the rest.
#
# Reciprocal: 2**(n + 2) * 2**(total_bits - 1) / normal, more than half of 2**(n + 2) and at most
# that, known to within one unit. A table has it and its slope for sections of `normal`; for long
# outputs one step of Newton's method follows. Registers hold the reciprocal minus 2**(n + 2), which
# has n + 2 bits with its sign.
#
# Estimate: factor * reciprocal plus an eighth, of which the integer part is the quotient or one
# less.
#
# Decide: one more is right if and only if (2 * estimate + 1) * Z is not more than a * 2**(F + 1).
# Their difference is between -2 * Z and 2 * Z, so only total_bits + 2 bits of each count.
#
# Z is the same for a whole beat. Values derived from it, in stages of their own, are computed again
# in each cycle in which an element enters, and so follow this element through the pipeline. Where
# such a value has to wait for the element, one register holds it for the whole beat: it is loaded
# when element 0 arrives, and element 0 of the next beat arrives at least value_lanes cycles later.

_LANES = 16
"""Lanes ORed between two registers: two levels of 4-input LUTs."""

_FACTOR_BITS = 18
"""Bits of a multiplier's input, as in ECP5 and the 7 series."""


def reciprocal_table(times: ReciprocalTimes) -> list[dict[str, int]]:
    """Reciprocals for sections of the normalized totals.

    Section i begins at :py:`1 + i / 2**index_bits`. In units of the lowest guard bit, ``offset`` is
    the reciprocal there minus 1, plus half a unit of the reciprocal, so that dropping the guard
    bits rounds; ``slope`` is how much the reciprocal falls until the section's end. A chord lies
    above the curve, so it is lowered by half of its largest distance from it.
    """
    one = 1 << times.table_bits + times.guard_bits
    sections = 1 << times.index_bits

    def curve(place: Fraction) -> Fraction:
        return one / (1 + place / sections)

    table = []
    for index in range(sections):
        begin, middle, end = (curve(index + Fraction(half, 2)) for half in range(3))
        above = ((begin + end) / 2 - middle) / 2 if times.slope_bits else 0
        table.append({"offset": round(begin - above) - one + (1 << times.guard_bits - 1),
                      "slope": round(begin - end)})
    return table


class _Stages:
    """Stages of the pipeline, and the values that pass through them.

    In stage 0, an element is in the input stream. It reaches stage k, k cycles after entering, if
    nothing was stalled.
    """

    def __init__(self, m: Module, *, advance: Signal, first: Value, lanes: int, depth: int):
        self.m = m
        self.advance = advance
        self._lanes = lanes
        # Bit k: the first element of a beat is in stage k.
        self._firsts = Cat(first, self.delay_each(first, depth, "first"))

    def register(self, value: Value, name: str) -> Signal:
        """The value in the next stage."""
        register = Signal.like(value, name=name, reset_less=True)
        with self.m.If(self.advance):
            self.m.d.sync += register.eq(value)
        return register

    def delay_each(self, value: Value, stages: int, name: str) -> list[Value]:
        """The value in each of the following stages."""
        values = [value]
        for stage in range(stages):
            values.append(self.register(values[-1], f"{name}_{stage}"))
        return values[1:]

    def delay(self, value: Value, stages: int, name: str) -> Value:
        """The value some stages later."""
        return [value, *self.delay_each(value, stages, name)][-1]

    def carry(self, value: Value, *, since: int, until: int, name: str) -> Value:
        """Carry a value common to all elements of a beat from one stage to a later one."""
        hops = -(-(until - since) // self._lanes)
        for hop in range(hops):
            stage = until - (hops - 1 - hop) * self._lanes
            register = Signal.like(value, name=f"{name}_{hop}", reset_less=True)
            with self.m.If(self.advance & self._firsts[stage - 1]):
                self.m.d.sync += register.eq(value)
            value = register
        return value


class ReciprocalNormalizer(Normalizer):
    """Weighted means by multiplying with the reciprocal of the total; one output per cycle.

    The contract, the parameters and the members are those of
    :class:`~nearbit_hw.attend.Normalizer`. All widths are exact. Outputs of up to 16 bits with
    totals of up to 22 take six multipliers of 18 bits and a block RAM of 512 words.

    Reference: :func:`nearbit_model.golden.normalize`.

    Raises
    ------
    ValueError
        If an output has more than 32 bits.
    """

    def __init__(self, *, value_lanes: int, value_bits: int, sum_bits: int, total_max: int,
                 output_fraction_bits: int):
        super().__init__(value_lanes=value_lanes, value_bits=value_bits, sum_bits=sum_bits,
                         total_max=total_max, output_fraction_bits=output_fraction_bits)
        # One step of Newton's method yields no more bits.
        if self.output_bits > 32:
            raise ValueError(f"Bits of an output must be at most 32, not {self.output_bits!r}")

    @property
    def times(self) -> ReciprocalTimes:
        """Widths and cycles."""
        return ReciprocalTimes(total_bits=len(self.i.p.total), output_bits=self.output_bits)

    @property
    def output_cycles(self) -> int:
        """Cycles from one element of a beat to the next."""
        return 1

    @property
    def latency(self) -> int:
        """Cycles from an element's turn to its output."""
        return self.times.latency

    def elaborate(self, platform) -> Module:
        m = Module()
        times = self.times
        found: Any = Signal(self.o.payload.shape())
        holds = Signal(times.latency) # bit k: stage k + 1 holds an element
        advance, next_advance = hold_output(m, self.o, valid=holds[-1], payload=found)

        # ---- Elements enter in turn.
        turn, next_turn = Signal(self._value_lanes, init=1), Signal(self._value_lanes)
        m.d.comb += [
            next_turn.eq(turn),
            self.i.ready.eq(advance & turn[-1]),
            self.next_ready.eq(next_advance & next_turn[-1]),
        ]
        with m.If(advance & self.i.valid):
            m.d.comb += next_turn.eq(turn.rotate_left(1))
        m.d.sync += turn.eq(next_turn)
        with m.If(advance):
            m.d.sync += holds.eq(Cat(self.i.valid, holds))

        stages = _Stages(m, advance=advance, first=self.i.valid & turn[0],
                         lanes=self._value_lanes, depth=times.latency)
        known = times.reciprocal_latency
        steps, power, reciprocal = self._invert(stages, self.i.p.total)
        picked, element = self._pick(stages, turn)
        begin = known - 2 - times.shift_steps
        factor = self._shift(
            stages, stages.delay(element, begin - picked, "element"), begin,
            [stages.carry(step, since=stage, until=begin + stage, name=f"step_{stage}")
             for stage, step in enumerate(steps)],
            stages.carry(power, since=times.shift_steps + 1, until=known - 2, name="power"))
        estimate = self._estimate(stages, factor, reciprocal)
        low_bits = max(0, times.total_bits + 1 - self._output_fraction_bits)
        total = stages.carry(self.i.p.total, since=0, until=known + 2, name="total")
        low = (stages.delay(element[:low_bits], known + 2 - picked, "low") if low_bits
               else Const(0, 0))
        m.d.comb += [
            found.output.eq(self._decide(stages, estimate, total, low)),
            found.last.eq(stages.delay(turn[-1], times.latency, "last")),
        ]
        return m

    def _invert(self, stages: _Stages, total: Value) -> tuple[list[Value], Value, Value]:
        """Return the steps of the shift, the power of two, and the reciprocal minus 2**bits.

        Step k is in stage k, the power in the stage after them all, the reciprocal in the last one.
        """
        times, bits = self.times, self.times.total_bits
        steps: list[Value] = []
        value = total
        for step in range(times.shift_steps):
            is_low = Signal(name=f"is_low_{step}")
            stages.m.d.comb += is_low.eq(~value[bits - SHIFT_STEP:].any())
            steps.append(is_low)
            # The bits shifted out at the top are 0.
            above = bits - SHIFT_STEP
            lower = Cat(Const(0, SHIFT_STEP), value)
            value = stages.register(Cat(
                value[place] | (is_low & lower[place]) if place >= above
                else Mux(is_low, lower[place], value[place]) for place in range(bits)),
                f"near_{step}")

        power = stages.register(_leading_one(value[max(0, bits - SHIFT_STEP):]), "power")
        value = stages.register(value, "near")
        normal = Signal(bits)
        stages.m.d.comb += normal.eq(_shifted(stages, value, power, width=bits, name="normal"))

        # ---- Look the reciprocal up: in block RAM, then a register.
        m, stage = stages.m, times.shift_steps + 2
        index = normal[bits - 1 - times.index_bits:bits - 1]
        rest = normal[bits - 1 - times.index_bits - times.slope_bits:bits - 1 - times.index_bits]
        content = reciprocal_table(times)
        shape: Any = data.StructLayout({
            "offset": signed(times.table_bits + times.guard_bits),
            "slope": range(max(entry["slope"] for entry in content) + 1)})
        entry: Any = Signal(shape, reset_less=True)
        if times.index_bits:
            m.submodules.table = table = block_ram(
                shape=shape, depth=1 << times.index_bits, init=content)
            read = table.read_port()
            m.d.comb += [read.addr.eq(index), read.en.eq(stages.advance)]
            with m.If(stages.advance):
                m.d.sync += entry.eq(read.data)
        else:
            m.d.comb += [entry[name].eq(value) for name, value in content[0].items()]
        loss: Value = Const(0)
        if times.slope_bits:
            loss = stages.register(
                (entry.slope * stages.delay(rest, 2, "rest"))[times.slope_bits:], "loss")
        offset = stages.register(entry.offset, "offset")
        found = Signal(signed(times.table_bits + times.guard_bits))
        m.d.comb += found.eq(offset - loss)
        reciprocal: Value = stages.register(found[times.guard_bits:].as_signed(), "reciprocal")
        if times.is_refined:
            reciprocal = self._refine(stages, reciprocal, stages.carry(
                normal, since=stage, until=stage + 4, name="normal"))
        return steps, power, reciprocal

    def _refine(self, stages: _Stages, reciprocal: Value, normal: Value) -> Value:
        """Newton's step, r + r * (1 - r * normal), in three stages."""
        times = self.times
        whole = Signal(times.table_bits + 1)
        stages.m.d.comb += whole.eq(reciprocal + (1 << times.table_bits))
        # The term 1 is the product's highest bit, above those that count.
        miss = stages.register(
            (-(whole * normal))[:times.total_bits + 2].as_signed(), "miss")
        drop = 2 * times.table_bits + times.total_bits - 1 - times.bits
        correction = stages.register(
            (stages.register(whole, "whole") * miss) >> drop - 1, "correction")
        refined = Signal(signed(times.bits))
        stages.m.d.comb += refined.eq(
            (stages.delay(reciprocal, 2, "coarse") << times.bits - times.table_bits)
            + ((correction + 1) >> 1))
        return stages.register(refined, "refined")

    def _pick(self, stages: _Stages, turn: Signal) -> tuple[int, Signal]:
        """Select the sum whose turn it is; return the stage at which it is available, and the sum.

        The other lanes are cleared by their registers' reset inputs, which takes no LUTs; so a LUT
        ORs four lanes.
        """
        bits = min(self._sum_bits, self._value_bits + self.times.total_bits)
        m, sums = stages.m, self.i.p.sums
        element = Signal(signed(self._value_bits + self.times.total_bits), name="element_wide")
        lanes: list[Value] = []
        for lane in range(self._value_lanes):
            register = Signal(signed(bits), name=f"lane_{lane}", reset_less=True)
            with m.If(stages.advance):
                m.d.sync += register.eq(
                    Mux(turn[lane], sums[lane], 0) if self._value_lanes > 1 else sums[lane])
            lanes.append(register)
        stage = 1
        while len(lanes) > 1:
            # The third level joins all that remain, to avoid a fourth.
            count = _LANES if stage < 3 else len(lanes)
            lanes = [stages.register(reduce(or_, lanes[start:start + count]).as_signed(),
                                     f"joined_{stage}_{start}")
                     for start in range(0, len(lanes), count)]
            stage += 1
        m.d.comb += element.eq(lanes[0])
        return stage, element

    def _shift(self, stages: _Stages, element: Value, stage: int, steps: list[Value],
               power: Value) -> Value:
        """Shift a sum as far as its total; return the upper bits, the factor."""
        width = self._value_bits + self.times.total_bits
        for number, step in enumerate(steps):
            element = stages.register(
                Mux(step, Cat(Const(0, SHIFT_STEP), element)[:width], element).as_signed(),
                f"near_element_{number}")
        drop = max(0, width - self.times.factor_bits)
        return stages.register(
            _shifted(stages, element, power, width=width, name="factor")[drop:].as_signed(),
            "factor")

    def _estimate(self, stages: _Stages, factor: Value, reciprocal: Value) -> Value:
        """Return the quotient or one less, two stages later."""
        bits = self.times.bits
        # The reciprocal is 2**bits larger than its register.
        drop = bits + len(factor) - 1 - self.output_bits - 3
        product = stages.register((factor * reciprocal) >> drop, "product")
        above = stages.register(factor, "above")
        sum_of_parts = product + Cat(Const(1, bits - drop), above).as_signed()
        return stages.register(
            sum_of_parts[3:3 + self.output_bits + 1].as_signed(), "estimate")

    def _decide(self, stages: _Stages, estimate: Value, total: Value, low: Value) -> Value:
        """Return the quotient, three stages after its estimate."""
        bits = self.times.total_bits + 2
        halves = Cat(Const(1, 1), estimate).as_signed()
        scaled: Value = Cat(Const(0, self._output_fraction_bits + 1), low, Const(0, bits))[:bits]
        # The total's lower bits go to a multiplier; the product with the rest is subtracted early.
        taken = _FACTOR_BITS - 1
        if bits - 2 > taken:
            count = bits - taken
            part, rest = _extended(halves, count), total[taken:]
            if len(rest) <= 6:
                product: Value = sum((Mux(bit, part << place, 0)
                                      for place, bit in enumerate(rest)), Const(0))
            else:
                product = part * rest
            scaled = Cat(scaled[:taken], (scaled[taken:] - product)[:count])
        back = stages.register(_extended(halves * total[:taken], bits), "back")
        difference = stages.register(scaled, "scaled") - back
        estimate = stages.register(estimate, "estimated")
        is_less = stages.register(difference[bits - 1], "is_less")
        estimate = stages.register(estimate[:self.output_bits], "compared")
        return stages.register((estimate + ~is_less)[:self.output_bits], "output").as_signed()


def _leading_one(value: Value) -> Value:
    """Return the power of two that shifts the highest 1 to the top: bit k if it is k below."""
    bits = list(value)[::-1]
    groups = [bits[start:start + 4] for start in range(0, len(bits), 4)]
    found: list[Value] = []
    above: Value = Const(0, 1)
    for group in groups:
        found += [bit & ~Cat(group[:place]).any() & ~above for place, bit in enumerate(group)]
        above = above | Cat(group).any()
    return Cat(found)


def _extended(value: Value, bits: int) -> Value:
    """Return the lowest bits of a value, sign-extended if it has fewer."""
    return Cat(value, value[-1].replicate(max(0, bits - len(value))))[:bits]


def _shifted(stages: _Stages, value: Value, power: Value, *, width: int, name: str) -> Value:
    """Return the lowest bits of a value times a power of two, one stage later.

    Each multiplier takes some bits of the value; the products' bits do not overlap.
    """
    is_signed = value.shape().signed
    shifted: Value = Const(0, width)
    for start in range(0, len(value), _FACTOR_BITS):
        part = value[start:start + _FACTOR_BITS]
        is_top = start + len(part) == len(value)
        if is_top and is_signed:
            part = part.as_signed()
        if is_top and not is_signed and len(part) <= 4:
            product: Value = Cat(reduce(or_, (power[less] & part[place - less]
                                              for less in range(min(place + 1, len(power)))))
                                 for place in range(len(part)))
        else:
            product = (part * power)[:width - start]
        if len(product) < width - start:
            sign = product[-1:] if is_top and is_signed else Const(0, 1)
            product = Cat(product, *[sign] * (width - start - len(product)))
        shifted = shifted | Cat(Const(0, start),
                                stages.register(product, f"{name}_{start}"))
    return shifted[:width]
