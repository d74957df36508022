"""XOR-popcount on AMD's 7 series: full adders of three pairs, then chains that add three rows.

Two LUT6 read the same three pairs of bits and output the sum and the carry of their differences.
The remaining bits, about two thirds per pair, are added in *chains* of LUT6_2 and CARRY4. A
*place* of a chain is one LUT6_2: from three operands x, y, z of its weight and a bit m, it feeds
x ^ y ^ z ^ m to the carry logic, whose generated bit is m, and outputs the majority of x, y and z,
which is the m of the place above. So a place adds four bits and a carry: it removes two bits from
the count for one LUT. A chain starts with five bits of the same weight, as the lowest m and the
carry input are free, and leaves two bits of the weight above at its top, the last m and the carry.
As the LUT has one more input, x may be the difference of a pair that no full adder compared.

Chains are filled completely, level by level; the last one may have empty operands and outputs the
count. 64 bits take about 60 LUTs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from amaranth import *

from nearbit_hw.score.cells.chains import Delays


__all__ = ["distance"]


@dataclass(eq=False)
class _Bit:
    """A bit of a level: either one value, or the difference of a pair."""

    level: int
    value: tuple[Value, ...]

    @property
    def is_pair(self) -> bool:
        return len(self.value) == 2


@dataclass
class _Place:
    """Operands of one weight, m, and the sum of both."""

    operands: list[_Bit]
    m: _Bit | None
    total: _Bit
    next_m: _Bit | None


@dataclass
class _Chain:
    level: int
    carry_in: _Bit | None
    places: list[_Place] = field(default_factory=list)
    carry_out: _Bit | None = None


_Columns = list[list[_Bit]]


def _full_adders(count: int) -> int:
    """Number of initial full adders that leaves few enough pairs for the places of the chains."""
    adders = count // 3
    while adders and count - 3 * (adders - 1) <= (count - 2 * (adders - 1)) // 5:
        adders -= 1
    return adders


class _Plan:
    """Which bits meet in which chain, before the number of levels is known."""

    def __init__(self, columns: _Columns, count: int):
        self.chains: list[_Chain] = []
        self.compared: list[tuple[_Bit, _Bit]] = [] # pairs without a place, and their differences
        self._size = count.bit_length()
        self._names = 0
        level = 1
        while not self._is_last(columns):
            columns = self._reduce(columns, level)
            level += 1
        self.result = self._finish(columns, level)
        self.depth = level

    def bit(self, level: int, kind: str) -> _Bit:
        self._names += 1
        return _Bit(level, (Signal(name=f"{kind}_{self._names - 1}"),))

    @staticmethod
    def _usable(column: list[_Bit]) -> int:
        """Number of bits that a place of this weight can take; one of them may be a pair."""
        pairs = sum(bit.is_pair for bit in column)
        return len(column) - max(0, pairs - 1)

    @staticmethod
    def _is_last(columns: _Columns) -> bool:
        """Whether one chain can add all: five bits where it starts, three above."""
        heights = [len(column) for column in columns]
        start = next((place for place, height in enumerate(heights) if height > 1), len(heights))
        return (all(height <= 3 for height in heights[start + 1:])
                and all(height <= 5 for height in heights)
                and sum(bit.is_pair for column in columns for bit in column) <= 1)

    def _reduce(self, columns: _Columns, level: int) -> _Columns:
        """Build full chains of a level; if there are none, one of four bits."""
        made: _Columns = [[] for _ in range(self._size + 1)]
        least = 5 if max(map(self._usable, columns)) >= 5 else 4
        for weight in range(len(columns)):
            while self._usable(columns[weight]) >= least:
                self._chain(columns, weight, level, made)
                if least == 4:
                    break
        for weight, column in enumerate(columns):
            for bit in column:
                if bit.is_pair:
                    single = self.bit(level, "differs")
                    self.compared.append((bit, single))
                    bit = single
                made[weight].append(bit)
        while made and not made[-1]:
            made.pop()
        return made

    def _chain(self, columns: _Columns, weight: int, level: int, made: _Columns) -> None:
        column = columns[weight]
        pair = self._take_pair(column)
        m: _Bit = column.pop()
        chain = _Chain(level, column.pop()
                       if sum(not bit.is_pair for bit in column) > 3 - len(pair) else None)
        while True:
            operands = pair + [columns[weight].pop() for _ in range(3 - len(pair))]
            majority = self.bit(level, "majority")
            place = _Place(operands, m, self.bit(level, "sum"), majority)
            chain.places.append(place)
            made[weight].append(place.total)
            m, weight = majority, weight + 1
            if weight >= len(columns) or self._usable(columns[weight]) < 3:
                break
            pair = self._take_pair(columns[weight])
        chain.carry_out = self.bit(level, "carry")
        made[weight] += [m, chain.carry_out]
        self.chains.append(chain)

    @staticmethod
    def _take_pair(column: list[_Bit]) -> list[_Bit]:
        """Take a pair out of a column, if it has one, and sort the other pairs to its front."""
        pairs = [bit for bit in column if bit.is_pair][:1]
        column[:] = [bit for bit in column if bit not in pairs]
        column.sort(key=lambda bit: bit.is_pair, reverse=True)
        return pairs

    def _finish(self, columns: _Columns, level: int) -> list[_Bit]:
        """Add the remaining bits; those below the first column of two need no chain."""
        result = []
        weight = 0
        while weight < len(columns) and len(columns[weight]) == 1:
            result.append(columns[weight][0])
            weight += 1
        chain = _Chain(level, None)
        m: _Bit | None = None
        while weight < self._size:
            column = columns[weight] if weight < len(columns) else []
            operands = self._take_pair(column) + column
            if not operands and m is None:
                chain.carry_out = self.bit(level, "carry")
                result.append(chain.carry_out)
                break
            if not chain.places and len(operands) == 5:
                chain.carry_in = operands.pop()
            if m is None and not operands[-1].is_pair:
                m = operands.pop()
            next_m = self.bit(level, "majority") if len(operands) > 1 else None
            place = _Place(operands, m, self.bit(level, "sum"), next_m)
            chain.places.append(place)
            result.append(place.total)
            m, weight = next_m, weight + 1
        if chain.places:
            self.chains.append(chain)
        return result


def _table(function: Callable[[tuple[int, ...]], int], size: int) -> int:
    return sum(function(tuple(index >> place & 1 for place in range(size))) << index
               for index in range(1 << size))


class _Layout:
    def __init__(self, m: Module, latency: int, advance: Value, depth: int):
        self._m = m
        self._delays = Delays(m, advance)
        self._latency = latency
        self._depth = depth
        self._cells = 0

    def stage(self, level: int) -> int:
        """Number of registers before a level."""
        return level * self._latency // (self._depth + 1)

    def bring(self, bit: _Bit, stage: int) -> list[Value]:
        return [self._delays.delay(value, stage - self.stage(bit.level)) for value in bit.value]

    def cell(self, kind: str, **ports: object) -> None:
        self._cells += 1
        self._m.submodules[f"{kind.lower()}_{self._cells - 1}"] = Instance(kind, **ports)

    def chain(self, chain: _Chain) -> None:
        stage = self.stage(chain.level)
        carry: Value = Const(0)
        for first in range(0, len(chain.places), 4):
            places = chain.places[first:first + 4]
            selects, generates = [], []
            totals = Signal(4, name=f"totals_{self._cells}")
            carries = Signal(4, name=f"carries_{self._cells}")
            for index, place in enumerate(places):
                selects.append(self.place(place, stage))
                generates.append(Const(0) if place.m is None else self.bring(place.m, stage)[0])
                self._m.d.comb += place.total.value[0].eq(totals[index])
            start: Value = Const(0)
            if not first and chain.carry_in is not None:
                start = self.bring(chain.carry_in, stage)[0]
            padding = Const(0, 4 - len(places))
            self.cell("CARRY4", i_CI=carry, i_CYINIT=start, i_S=Cat(*selects, padding),
                      i_DI=Cat(*generates, padding), o_O=totals, o_CO=carries)
            carry = carries[len(places) - 1]
        if chain.carry_out is not None:
            self._m.d.comb += chain.carry_out.value[0].eq(carry)

    def place(self, place: _Place, stage: int) -> Value:
        """Build the LUT of a place; return its output to the carry logic."""
        inputs: list[Value] = []
        ends = []
        for bit in place.operands:
            inputs += self.bring(bit, stage)
            ends.append(len(inputs))
        if place.m is not None:
            inputs += self.bring(place.m, stage)

        def majority(bits: tuple[int, ...]) -> int:
            starts = [0, *ends]
            operands = [sum(bits[start:end]) & 1
                        for start, end in zip(starts, ends, strict=False)]
            return int(sum(operands) >= 2)

        select = Signal(name=f"select_{self._cells}")
        unused = Signal(name=f"unused_{self._cells}")
        table = _table(lambda bits: sum(bits[:len(inputs)]) & 1, 5) << 32 | _table(majority, 5)
        padded = [*inputs, *(Const(0) for _ in range(5 - len(inputs))), Const(1)]
        self.cell("LUT6_2", p_INIT=Const(table, 64), o_O6=select,
                  o_O5=unused if place.next_m is None else place.next_m.value[0],
                  **{f"i_I{index}": value for index, value in enumerate(padded)})
        return select


def distance(m: Module, a: Value, b: Value, *, latency: int, advance: Value) -> Value:
    """Add cells to a module that compute popcount(a ^ b), :py:`latency` cycles later.

    The registers load while :py:`advance` is high and are not reset.
    """
    pairs = list(zip(a, b, strict=True))
    if len(pairs) == 1:
        return Delays(m, advance).delay(a ^ b, latency)
    adders = _full_adders(len(pairs))
    ones: list[_Bit] = [_Bit(0, pair) for pair in pairs[3 * adders:]]
    twos: list[_Bit] = []
    for index in range(adders):
        bits = [bit for pair in pairs[3 * index:3 * index + 3] for bit in pair]
        for column, kind, least in ((ones, "odd", (1, 3)), (twos, "most", (2, 3))):
            output = Signal(name=f"{kind}_{index}")
            table = sum(1 << index for index in range(64)
                        if sum(index >> place & 1 ^ index >> place + 1 & 1
                               for place in (0, 2, 4)) in least)
            m.submodules[f"{kind}_lut_{index}"] = Instance(
                "LUT6", p_INIT=Const(table, 64), o_O=output,
                **{f"i_I{place}": bit for place, bit in enumerate(bits)})
            column.append(_Bit(0, (output,)))
    plan = _Plan([ones, twos] if twos else [ones], len(pairs))
    layout = _Layout(m, latency, advance, plan.depth)
    for pair, single in plan.compared:
        first, second = layout.bring(pair, layout.stage(single.level))
        m.d.comb += single.value[0].eq(first ^ second)
    for chain in plan.chains:
        layout.chain(chain)
    return Cat(layout.bring(bit, latency)[0] for bit in plan.result)
