"""XOR-popcount on Lattice iCE40: LUTs that compare and add, then carry chains of SB_CARRY.

A logic cell has a LUT with inputs I0 to I3, and carry logic beside it: the majority of I1, I2 and
the carry from below, which is also the LUT's I3. The carry logic cannot compute an XOR of its
inputs, so LUTs do so first; but a LUT has room for two pairs of bits. For each *couple* of pairs,
one LUT tells whether exactly one of them differs, and one whether both do: as many LUTs as pairs,
and the first addition is done. Where the bits are differences already, two LUTs add three of them.

The rest is columns of bits of equal weight, and *sums* of three kinds of cells: an *inject* has a
bit on I1 and I2, which makes it the next carry, while its LUT outputs the carry from below, the top
bit of the previous sum; an *adder* adds two bits and the carry; an *end* only outputs the carry. A
sum takes three bits from a column, for the inject and the operands of an adder, and goes on with
two bits from each next column that has them. Where no column has three bits, a last sum also goes
on with single bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from amaranth import *

from nearbit_hw.score.cells.chains import Delays, cut


__all__ = ["distance"]


# Longest chain in logic cells: timing analysis assumes that the carry passes an inject, though it
# does not.
_LIMIT = 10

# LUTs by their inputs I3 I2 I1 I0.
_CARRY = 0xff00 # I3
_PARITY = 0xc33c # I1 ^ I2 ^ I3


@dataclass(eq=False)
class _Bit:
    """A bit of the plan, computed at a level; level 0 is the LUTs that compare."""

    level: int
    value: Value


@dataclass
class _Sum:
    """The bit injected, the adders' operands, and the outputs: their sums and the last carry."""

    inject: _Bit
    operands: list[tuple[_Bit, ...]]
    totals: list[_Bit]


def _signal(name: str, *indices: int) -> Signal:
    return Signal(name="_".join([name, *map(str, indices)]))


def _compare(m: Module, a: Value, b: Value) -> list[list[_Bit]]:
    """Return the columns of weight 1 and 2 that the comparing LUTs compute."""
    width = len(a)
    # One or two pairs stay uncoupled, so that columns have odd numbers of bits, which suits sums.
    couples = 1 if width == 2 else (width - 1) // 2
    columns: list[list[_Bit]] = [[], []]
    for index in range(width - couples):
        same = Signal(name=f"differs_{index}")
        if index < couples:
            low, high = a[2 * index] ^ b[2 * index], a[2 * index + 1] ^ b[2 * index + 1]
            both = Signal(name=f"differ_{index}")
            m.d.comb += [same.eq(low ^ high), both.eq(low & high)]
            columns[1].append(_Bit(0, both))
        else:
            m.d.comb += same.eq(a[index + couples] ^ b[index + couples])
        columns[0].append(_Bit(0, same))
    return columns


def _add(m: Module, bits: Value) -> list[list[_Bit]]:
    """Return the columns of weight 1 and 2 that the first LUTs compute from differences."""
    width = len(bits)
    # More of these triples save no cells, as the sums also take three bits each.
    triples = (width + 1) // 4
    columns: list[list[_Bit]] = [[], []]
    for index in range(triples):
        first, second, third = bits[3 * index:][:3]
        total, carry = Signal(name=f"total_{index}"), Signal(name=f"most_{index}")
        m.d.comb += [total.eq(first ^ second ^ third),
                     carry.eq((first & second) | (first & third) | (second & third))]
        columns[0].append(_Bit(0, total))
        columns[1].append(_Bit(0, carry))
    columns[0] += [_Bit(0, bit) for bit in bits[3 * triples:]]
    return columns


def _plan(columns: list[list[_Bit]]) -> list[_Sum]:
    """Add until each column has at most one bit; only these bits are left in the columns."""
    sums: list[_Sum] = []
    level = 0
    while any(len(column) > 1 for column in columns):
        level += 1
        made: list[tuple[int, _Bit]] = []
        settled = True # no more bits come from the columns below
        for weight in range(len(columns)):
            while len(columns[weight]) >= 3 or (settled and len(columns[weight]) == 2):
                # The last sum goes on with single bits, as no others will join them.
                last = (settled and len(columns[weight]) <= 3
                        and all(len(column) <= 2 for column in columns[weight + 1:]))
                total = _Sum(columns[weight].pop(0), [], [])
                least = min(2, len(columns[weight]))
                place = weight
                while place < len(columns) and len(columns[place]) >= least:
                    total.operands.append(tuple(columns[place][:2]))
                    del columns[place][:2]
                    place += 1
                    least = 1 if last else 2
                for index in range(len(total.operands) + 1):
                    bit = _Bit(level, _signal("sum", len(sums), index))
                    total.totals.append(bit)
                    made.append((weight + index, bit))
                sums.append(total)
                settled = False
            settled = settled and len(columns[weight]) <= 1
        for weight, bit in made:
            if weight == len(columns):
                columns.append([])
            columns[weight].append(bit)
    return sums


class _Layout:
    def __init__(self, m: Module, latency: int, advance: Value, depth: int):
        self._m = m
        self._delays = Delays(m, advance)
        self._latency = latency
        self._depth = depth

    def stage(self, level: int) -> int:
        """Number of registers before a level."""
        return level * self._latency // (self._depth + 1)

    def bring(self, bit: _Bit, stage: int) -> Value:
        return self._delays.delay(bit.value, stage - self.stage(bit.level))

    def chain(self, number: int, sums: Sequence[_Sum]) -> None:
        """Lay sums out; each inject outputs the last carry of the sum before."""
        places: list[tuple[Value, Value, int, Value | None]] = [] # I1, I2, LUT, its output
        top: Value | None = None
        for total in sums:
            stage = self.stage(total.totals[0].level)
            injected = self.bring(total.inject, stage)
            places.append((injected, injected, _CARRY, top))
            for operands, result in zip(total.operands, total.totals, strict=False):
                first, second = (*(self.bring(bit, stage) for bit in operands), Const(0))[:2]
                places.append((first, second, _PARITY, result.value))
            top = total.totals[-1].value
        carry: Value = Const(0)
        for index, (first, second, init, output) in enumerate(places):
            next_carry = _signal("carry", number, index)
            self._m.submodules[f"carry_{number}_{index}"] = Instance(
                "SB_CARRY", i_I0=first, i_I1=second, i_CI=carry, o_CO=next_carry)
            if output is not None:
                self.lut(f"lut_{number}_{index}", init, first, second, carry, output)
            carry = next_carry
        assert top is not None
        self.lut(f"lut_{number}_{len(places)}", _CARRY, Const(0), Const(0), carry, top)

    def lut(self, name: str, init: int, first: Value, second: Value, carry: Value,
            output: Value) -> None:
        self._m.submodules[name] = Instance(
            "SB_LUT4", p_LUT_INIT=Const(init, 16), i_I0=Const(0), i_I1=first, i_I2=second,
            i_I3=carry, o_O=output)


def distance(m: Module, a: Value, b: Value | None, *, latency: int, advance: Value) -> Value:
    """Add cells to a module that compute popcount(a ^ b), :py:`latency` cycles later.

    Without b, they compute popcount(a). The registers load while :py:`advance` is high and are not
    reset.
    """
    columns = _add(m, a) if b is None else _compare(m, a, b)
    sums = _plan(columns)
    depth = sums[-1].totals[0].level if sums else 0
    layout = _Layout(m, latency, advance, depth)
    number = 0
    for _, same_level in groupby(sums, lambda total: total.totals[0].level):
        row = list(same_level)
        sizes = [1 + len(total.operands) for total in row]
        for count in cut(sizes, [True] * len(row), limit=_LIMIT, grain=1):
            layout.chain(number, row[:count])
            number += 1
            del row[:count]
    result = Cat(layout.bring(column[0], latency) for column in columns if column)
    return result[:len(a).bit_length()]
