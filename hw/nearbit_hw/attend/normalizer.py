"""Base class of the units that divide weighted sums by the sum of weights."""

from abc import abstractmethod
from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import sums_layout


__all__ = ["Normalizer", "hold_output"]


class Normalizer(wiring.Component):
    """Weighted means: the sums of a beat, one after another, divided by the total.

    Element j of the output is :py:`floor((sums[j] * 2**F + floor(total / 2)) / total)` with F
    fraction bits: an exact division, rounded to nearest, ties upward. It is defined for
    :py:`total >= 1` and :py:`-2**(value_bits - 1) * total <= sums[j] <
    2**(value_bits - 1) * total - total / 2**(F + 1)`, which includes all weighted means of
    elements of :py:`value_bits` bits.

    A beat *starts* in the first cycle in which it is presented and at least :py:`interval` cycles
    have passed since the previous beat started. If it starts at cycle t and the output is never
    stalled, its element j is presented at cycle :py:`t + j * output_cycles + latency`, and the beat
    is accepted at cycle :py:`t + (value_lanes - 1) * output_cycles`. A stall holds everything from
    the next cycle on, until the output is accepted. Cycles do not depend on the data. Reset drops
    the elements in flight.

    :class:`~nearbit_hw.attend.DividingNormalizer` and
    :class:`~nearbit_hw.attend.ReciprocalNormalizer` implement it.

    Reference: :func:`nearbit_model.golden.normalize`.

    Parameters
    ----------
    value_lanes : :class:`int`
        Elements of a beat. At least 1.
    value_bits : :class:`int`
        Bits of an element of the summed values. At least 1.
    sum_bits : :class:`int`
        Bits of a sum, two's complement. At least 1.
    total_max : :class:`int`
        Largest total. At least 1.
    output_fraction_bits : :class:`int`
        Fraction bits of an output. At least 0.

    Members
    -------
    i : :py:`In(stream.Signature(StructLayout({"sums": ..., "total": range(total_max + 1)})))`
        Sums of a beat, and the total.
    o : :py:`Out(stream.Signature(StructLayout({"output": ..., "last": 1})))`
        Outputs, element 0 first, two's complement of :py:`output_bits`; :py:`last` is set on a
        beat's last one.
    next_ready : :py:`Out(1)`
        :py:`i.ready` of the next cycle.
    """

    i: stream.Interface
    o: stream.Interface
    next_ready: Signal

    def __init__(self, *, value_lanes: int, value_bits: int, sum_bits: int, total_max: int,
                 output_fraction_bits: int, **members: wiring.Member):
        for name, value in [("Value lanes", value_lanes), ("Value bits", value_bits),
                            ("Sum bits", sum_bits), ("Largest total", total_max)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        if not isinstance(output_fraction_bits, int) or output_fraction_bits < 0:
            raise TypeError(f"Output fraction bits must be a non-negative integer, "
                            f"not {output_fraction_bits!r}")
        self._value_lanes = value_lanes
        self._value_bits = value_bits
        self._sum_bits = sum_bits
        self._total_max = total_max
        self._output_fraction_bits = output_fraction_bits

        super().__init__({
            "i": In(stream.Signature(sums_layout(
                sum_bits=sum_bits, value_lanes=value_lanes, total_max=total_max))),
            "o": Out(stream.Signature(data.StructLayout({
                "output": signed(self.output_bits),
                "last": 1,
            }))),
            "next_ready": Out(1),
            **members,
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
    def output_bits(self) -> int:
        """Bits of an output."""
        return self._value_bits + self._output_fraction_bits

    @abstractmethod
    def elaborate(self, platform) -> Module:
        """Build the unit."""

    @property
    @abstractmethod
    def output_cycles(self) -> int:
        """Cycles from one element of a beat to the next."""

    @property
    @abstractmethod
    def latency(self) -> int:
        """Cycles from an element's turn to its output."""

    @property
    def interval(self) -> int:
        """Cycles from the start of one beat to the start of the next."""
        return self._value_lanes * self.output_cycles


def hold_output(m: Module, o: Any, *, valid: Value, payload: Any) -> tuple[Signal, Signal]:
    """Present the end of a pipeline; return whether it moves, now and in the next cycle.

    The move signal drives every register of the pipeline, so it comes from a register itself. An
    output that is not accepted in the cycle in which the pipeline presents it is therefore put
    aside, and the pipeline holds from the next cycle on until that output is accepted.

    Parameters
    ----------
    m
        Module of the pipeline.
    o
        Output stream of the pipeline.
    valid, payload
        Contents of its last stage; they may change only if the pipeline moves.
    """
    advance, next_advance = Signal(init=1), Signal()
    aside = Signal.like(payload, reset_less=True)
    m.d.comb += [
        next_advance.eq(o.ready | (advance & ~valid)),
        o.valid.eq(valid | ~advance),
        o.payload.eq(Mux(advance, payload, aside)),
    ]
    m.d.sync += advance.eq(next_advance)
    with m.If(advance):
        m.d.sync += aside.eq(payload)
    return advance, next_advance
