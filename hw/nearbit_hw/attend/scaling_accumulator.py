"""Weighted sums of value vectors whose scales are read before them."""

from typing import Any

from amaranth import *
from amaranth.lib import data

from nearbit_hw.attend.value_accumulator import ValueAccumulator
from nearbit_hw.ram import block_ram
from nearbit_model.structure import SCALING_GAP


__all__ = ["ScalingAccumulator"]


class ScalingAccumulator(ValueAccumulator):
    """Weighted sums of value vectors, one beat at a time, after a beat of their scales.

    The contract, the parameters and the members are those of :class:`ValueAccumulator`, with these
    differences. Beat 0 of a key is its vector's scale, and the beats of elements are numbered from
    1. :py:`i` first presents all keys of a selection with beat 0, then the same keys in the same
    order with beat 1, and so on. No sums are presented for beat 0. Later beats use the weights and
    total of beat 0, whatever :py:`i` presents.

    A key's product of weight and scale is computed once and stored, so no multipliers are needed
    beyond those of the elements: that of lane 0 computes it. A key's elements are taken from
    :py:`i_beat` at least :py:`gap` cycles after its scale, when the product is stored. What follows
    the last key of a beat of elements is taken at least two cycles after that key, when the sums
    are cleared. Otherwise, throughput is one key per cycle.

    Reference: :func:`nearbit_model.golden.accumulate`.

    Members
    -------
    i_beat : :py:`In(stream.Signature(UnionLayout({"elements": ..., "scale": scale_bits})))`
        Scales and beats of elements, in the order of the requests.
    shift : :py:`In(1)`
        Moves each sum to the place of the one before, from the next cycle on. May stay low.
    """

    shift: Signal

    _SCALE_BEATS = 1

    @property
    def key_layout(self) -> data.StructLayout:
        """Layout of a key that waits for its beat."""
        return data.StructLayout({"weight": self._weight_bits, "last": 1, "is_scale": 1})

    @property
    def gap(self) -> int:
        """Minimum number of cycles from taking a key's scale to taking its first elements."""
        return SCALING_GAP

    def elaborate(self, platform) -> Module:
        m = Module()
        scale_bits = self._scale_bits

        # ---- Request.
        next_key = self.request(m, self.i.p.beat == 0)
        key = next_key.p

        # The pipeline moves as in ValueAccumulator. Elements wait until their key's scaled weight
        # is stored, if it may still be in the pipeline. After the last key of a sum there is a gap,
        # in which the sum is handed on and cleared. So an adder and its sum share cells, as nothing
        # else needs the adder's output.
        advance, complete = Signal(init=1), Signal()
        next_complete, next_full = Signal(), Signal()
        moves, take = Signal(), Signal()
        operand_first = Signal()
        has_scale, has_elements = Signal(), Signal()
        term_scale, term_elements = Signal(), Signal()
        # Amaranth has trouble with registers of 0 bits.
        places = range(max(2, self._top_n))
        read_place, write_place = Signal(places), Signal(places)
        operand_key: Any = Signal(self.key_layout, reset_less=True)
        m.d.sync += advance.eq(~next_complete | ~next_full | self.next_ready)
        m.d.comb += [
            moves.eq(advance & ~(has_elements & operand_key.last)
                     & ~(~key.is_scale & (has_scale | term_scale) & (read_place >= write_place))),
            self.i_beat.ready.eq(next_key.valid & moves),
            next_key.ready.eq(self.i_beat.valid & moves),
            take.eq(next_key.valid & self.i_beat.valid & moves),
        ]

        # ---- Operands: beats, and scaled weights from the memory, by the keys' places.
        scaled_shape = range(self.scaled_max + 1)
        m.submodules.scaled = scaled = block_ram(shape=scaled_shape, depth=self._top_n)
        write, read = scaled.write_port(), scaled.read_port()
        operand: Any = Signal(self.i_beat.payload.shape(), reset_less=True)
        m.d.comb += [read.addr.eq(read_place), read.en.eq(advance)]
        with m.If(take):
            m.d.sync += read_place.eq(Mux(key.last, 0, read_place + 1))
        with m.If(advance):
            m.d.sync += [
                has_scale.eq(take & key.is_scale),
                has_elements.eq(take & ~key.is_scale),
                operand_first.eq(take & key.is_scale & (read_place == 0)),
                operand.eq(self.i_beat.p),
                operand_key.eq(key),
            ]

        # ---- Products. The signed multiplier takes a scale with its highest bit set as negative,
        # 2**scale_bits too small; `missing` corrects this below.
        factor = Signal(self._weight_bits)
        m.d.comb += factor.eq(Mux(operand_key.is_scale, operand_key.weight, read.data))
        sign = operand.scale[-1]
        terms: list[Signal] = []
        for lane in range(self._value_lanes):
            other: Value = operand.elements[lane]
            if lane == 0:
                other = Mux(operand_key.is_scale, operand.scale.as_signed(), other)
            term = Signal(signed(len(factor) + len(other)), name=f"term_{lane}", reset_less=True)
            with m.If(advance):
                m.d.sync += term.eq(factor * other)
            terms.append(term)
        term_last = Signal(reset_less=True)
        term_weight, missing = (Signal(self._weight_bits, name=name, reset_less=True)
                                for name in ("term_weight", "missing"))
        with m.If(advance):
            m.d.sync += [
                term_scale.eq(has_scale), term_elements.eq(has_elements),
                term_last.eq(operand_key.last),
                term_weight.eq(operand_key.weight),
                missing.eq(operand_key.weight & sign.replicate(self._weight_bits)),
            ]

        # ---- Scaled weights: rounded and stored.
        m.d.comb += [
            write.addr.eq(write_place),
            write.data.eq(terms[0][scale_bits:] + missing + terms[0][scale_bits - 1]),
            write.en.eq(term_scale & advance),
        ]
        with m.If(write.en):
            m.d.sync += write_place.eq(Mux(term_last, 0, write_place + 1))

        # ---- Sums. The total is cleared ahead of the first weight.
        sums_shape = data.ArrayLayout(signed(self.acc_bits), self._value_lanes)
        sums = Signal(sums_shape)
        total = Signal(range(self.total_max + 1), reset_less=True)
        o_sums = Signal(sums_shape, reset_less=True)
        o_total = Signal.like(total, reset_less=True)
        element_bits = self._weight_bits + self._value_bits
        with m.If(complete & advance):
            m.d.sync += [sums.eq(0), o_sums.eq(sums), o_total.eq(total)]
        with m.Else():
            with m.If(term_elements & advance):
                m.d.sync += [sums[lane].eq(sums[lane] + terms[lane][:element_bits].as_signed())
                             for lane in range(self._value_lanes)]
            with m.If(self.shift):
                m.d.sync += [o_sums[lane].eq(o_sums[lane + 1])
                             for lane in range(self._value_lanes - 1)]
        with m.If(operand_first & advance):
            m.d.sync += total.eq(0)
        with m.Elif(term_scale & advance):
            m.d.sync += total.eq(total + term_weight)

        m.d.comb += [
            next_complete.eq(Mux(advance, term_elements & term_last, complete)),
            next_full.eq(complete | (self.o.valid & ~self.o.ready)),
            self.o.p.sums.eq(o_sums),
            self.o.p.total.eq(o_total),
        ]
        m.d.sync += [complete.eq(next_complete), self.o.valid.eq(next_full)]

        return m
