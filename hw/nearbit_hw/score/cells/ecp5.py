"""XOR-popcount on Lattice ECP5: carry chains of CCU2C, with the XOR inside.

A CCU2C has two identical *halves*. With P the function of a half's four inputs A, B, C, D, and G
the same function at C = D = 0, a half computes ::

    S    = P ^ carry_in
    COUT = carry_in if P else G

There are three kinds of halves:

- An *adder* of the operands x(A, B) and y(A, B, C, D) has P = x ^ y, where y is 0 at C = D = 0, so
  that G = x. Either operand can be the XOR of two bits, so the words are compared inside the cell.
- An *inject* has P = 0 at D = 1 and G = A ^ B: it starts a sum by making the XOR of two bits the
  next carry. Its S is the carry out of the half below, the top bit of the previous sum, which would
  otherwise be lost. So sums follow each other in one chain without a gap.
- An *end* has P = 0: its S is the carry out of the half below.

A *sum* of two numbers of w bits and one more bit takes an inject and w adders. 31 sums add 63 bits:
48 in groups of three, and 8 + 4 + 2 + 1 as the carries of the sums of sums. This takes 57 adders
and 31 injects.

A 64th bit does not fit: at some level four bits of weight 1 meet, r[0], s[0], the carry and e. The
two operands of the lowest adder are then e and r[0] ^ s[0], and the carry of r[0] and s[0], h[1],
joins the adder above: its operands are r[1] and s[1] ^ h[1], and so on with h[i + 1] = s[i] &
h[i], mostly in inputs that an adder of two bits leaves unused. At the top P is h: S is exact,
but a carry is lost if the number is 2^w; then all bits below are 0. So a later sum that adds the
number restores the lost bit as "h, and the top bit is 0".
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from amaranth import *
from amaranth.hdl import Fragment

from nearbit_hw.score.cells.chains import Delays, cut


__all__ = ["distance", "skew"]


# Longest chain in halves, with registers after each level, and without: timing analysis assumes
# that the carry passes an inject, though it does not.
_LIMIT = 28
_SHORT_LIMIT = 16

# The level at which the extra bit enters; a later one costs LUTs, an earlier one has no sum for it.
_EXTRA_LEVEL = 2


@dataclass(frozen=True)
class _Pair:
    """The XOR of the two words' bits at a place."""

    a: Value
    b: Value
    place: int


_Bit = Value | _Pair


def _inputs(*bits: _Bit | None) -> list[Value]:
    """Assign up to two bits to A, B and C, D."""
    inputs: list[Value] = []
    for bit in bits:
        match bit:
            case None:
                inputs += [Const(0), Const(0)]
            case _Pair(a, b, _):
                inputs += [a, b]
            case _:
                inputs += [bit, Const(0)]
    return inputs


def _init(function: Callable[[int, int, int, int], int]) -> int:
    """Contents of a LUT, indexed by D C B A."""
    return sum(function(*(index >> position & 1 for position in range(4))) << index
               for index in range(16))


_PARITY = _init(lambda a, b, c, d: a ^ b ^ c ^ d)
_PARITY_AND = _init(lambda a, b, c, d: a ^ c ^ (b & d))
_END = 0
_INJECT = _init(lambda a, b, c, d: (a ^ b) & ~c & ~d & 1)


@dataclass
class _Half:
    """Half of a CCU2C; `total` is its S."""

    init: int
    inputs: list[Value]
    total: Signal | None = None


@dataclass
class _Sum:
    """Halves of one sum, the inject first; `top` is its last carry, if there is one."""

    halves: list[_Half]
    top: Signal | None


_Literal = tuple[Value, bool]
"""A bit, and whether it must be 1."""


@dataclass
class _Number:
    """Bits, lowest first; if all literals in `lost` hold, the number is 2^len(bits) larger."""

    bits: list[_Bit]
    level: int
    lost: list[_Literal] = field(default_factory=list)


def _is_power(count: int) -> bool:
    """Whether a count of bits is one too many for plain sums, and large enough for the trick."""
    return count >= 8 and count & (count - 1) == 0


def _levels(count: int) -> int:
    """Number of sums on the longest path from a bit to the count."""
    if count <= 2:
        return count - 1
    first, second = _split(count)
    return 1 + max(_levels(first), _levels(second))


def _split(count: int) -> tuple[int, int]:
    """Sizes of the two groups that a sum adds together with one bit; the first fills its number."""
    if _is_power(count):
        return count // 2 - 1, count // 2 - 1
    full = 2 ** ((count - 1).bit_length() - 1) - 1
    if 2 * full + 1 < count:
        full = 2 * full + 1
    return full, count - 1 - full


class _Counter:
    """Sums of all levels, built from the bits up and then laid out on chains."""

    def __init__(self, m: Module, pairs: Sequence[_Pair], latency: int, advance: Value, *,
                 skewed: bool):
        self.skew = [0] * len(pairs) # the stage at which each pair is used
        self._m = m
        self._skewed = skewed
        self._delays = Delays(m, advance)
        self._pairs = list(pairs)
        self._latency = latency
        self._depth = max(_levels(len(pairs)), 1)
        self._sums: defaultdict[int, list[_Sum]] = defaultdict(list)
        self._names: Counter[str] = Counter()

    def signal(self, name: str) -> Signal:
        """Create a bit with a unique name."""
        self._names[name] += 1
        return Signal(name=f"{name}_{self._names[name] - 1}")

    def stage(self, level: int) -> int:
        """Number of registers before the sums of a level; the first level has none."""
        return max(min(level * self._latency // (self._depth + 1), level - 1), 0)

    def bring(self, bit: _Bit, level: int, stage: int) -> _Bit:
        """Delay a bit of a number from its level to a stage."""
        if isinstance(bit, _Pair):
            self.skew[bit.place] = stage
            if self._skewed:
                return bit
            return _Pair(self._delays.delay(bit.a, stage), self._delays.delay(bit.b, stage),
                         bit.place)
        return self._delays.delay(bit, stage - self.stage(level))

    def lut(self, function: Value, name: str) -> Signal:
        """Compute a bit in a separate LUT."""
        result = self.signal(name)
        self._m.d.comb += result.eq(function)
        return result

    def adder(self, init: int, inputs: Sequence[Value]) -> tuple[_Half, Signal]:
        """Create a half and its S."""
        total = self.signal("sum")
        return _Half(init, list(inputs), total), total

    def inject(self, stage: int) -> _Half:
        """Use a pair as the carry into the adders that follow."""
        bit = self.bring(self._pairs.pop(0), 0, stage)
        return _Half(_INJECT, [*_inputs(bit), Const(0), Const(1)])

    def count(self, count: int) -> _Number:
        """Count how many of the next pairs differ."""
        if count == 0:
            return _Number([], 0)
        if count == 1:
            return _Number([self._pairs.pop(0)], 0)
        if count == 2:
            x, y = (pair.a ^ pair.b for pair in (self._pairs.pop(0), self._pairs.pop(0)))
            return _Number([self.lut(x ^ y, "differs"), self.lut(x & y, "differ")], 1)
        if _is_power(count):
            return self.power(count, last=True)
        first, second = (self.count(size) for size in _split(count))
        level = 1 + max(first.level, second.level)
        stage = self.stage(level)
        r, s = self.operands(first, level), self.operands(second, level)
        halves, totals = [self.inject(stage)], []
        for index, bit in enumerate(r):
            half, total = self.adder(_PARITY, _inputs(bit, s[index] if index < len(s) else None))
            halves.append(half)
            totals.append(total)
        top = self.signal("sum")
        self._sums[level].append(_Sum(halves, top))
        return _Number([*totals, top], level)

    def operands(self, number: _Number, level: int) -> list[_Bit]:
        """Bring the bits of a number to the sums of a level."""
        return [self.bring(bit, number.level, self.stage(level)) for bit in number.bits]

    def power(self, count: int, *, last: bool) -> _Number:
        """Count 2^k pairs; the result lacks its highest bit, unless this sum is the last."""
        level = count.bit_length() - 2 # also the bits of an operand
        stage = self.stage(level)
        first = self.count(count // 2 - 1)
        if level <= _EXTRA_LEVEL:
            second = self.count(count // 2 - 1)
            extra = self.bring(self._pairs.pop(0), 0, stage)
        else:
            second, extra = self.power(count // 2, last=False), None
        # All operands are sums, so none of their bits is a pair.
        r = [cast(Value, bit) for bit in self.operands(first, level)]
        s = [cast(Value, bit) for bit in self.operands(second, level)]
        halves = [self.inject(stage)]
        totals: list[Value] = []

        def add(init: int, *inputs: Value) -> None:
            half, total = self.adder(init, inputs)
            halves.append(half)
            totals.append(total)

        literals: list[_Literal]
        if extra is not None:
            add(_PARITY, *_inputs(extra), r[0], s[0])
            carry: list[Value] = [r[0], s[0]] # whose AND is h
            for x, y in zip(r[1:], s[1:], strict=True):
                if len(carry) == 2:
                    add(_PARITY_AND, x, carry[0], y, carry[1])
                else:
                    carry = [self.lut(Cat(carry).all(), "carry")]
                    add(_PARITY, x, Const(0), y, carry[0])
                carry.append(y)
            literals = [(bit, True) for bit in carry]
        else:
            for x, y in zip(r, s, strict=True):
                add(_PARITY, *_inputs(x, y))
            literals = second.lost
            if len(literals) > 4:
                # The last literal arrives late.
                early = Cat(bit if sign else ~bit for bit, sign in literals[:-1]).all()
                literals = [(self.lut(early, "carry"), True), literals[-1]]
            literals = [(self._delays.delay(bit, stage - self.stage(second.level)), sign)
                        for bit, sign in literals]

        # A bit that must be 1 goes last, to D, so that G is 0; there is always one.
        ordered = sorted(literals, key=lambda literal: literal[1])
        ordered = [(Const(1), True)] * (4 - len(ordered)) + ordered
        signs = tuple(sign for _, sign in ordered)
        add(_init(lambda *bits: int(bits == signs)), *(bit for bit, _ in ordered))
        if not last:
            self._sums[level].append(_Sum(halves, None))
            return _Number([*totals], level, [*literals, (totals[-1], False)])
        top = self.signal("sum")
        self._sums[level].append(_Sum(halves, top))
        return _Number([*totals, top], level)

    def result(self, bits: Sequence[Value], level: int) -> Value:
        """Bring the bits of a number to the last registers."""
        return Cat(self._delays.delay(bit, self._latency - self.stage(level)) for bit in bits)

    def lay_out(self) -> None:
        """Lay the sums out on chains."""
        # A chain never has two levels of the same stage: timing analysis would see paths that loop
        # from the chain back into itself.
        rows: list[list[_Sum]] = []
        for level in sorted(self._sums):
            if not rows or (level - 1 in self._sums and self.stage(level - 1) == self.stage(level)):
                rows.append([])
            rows[-1] += self._sums[level]
        limit = _LIMIT if self._latency >= self._depth else _SHORT_LIMIT
        number = 0
        for row in rows:
            for count in cut([len(total.halves) for total in row],
                             [total.top is not None for total in row], limit=limit, grain=2):
                self.chain(number, row[:count])
                del row[:count]
                number += 1

    def chain(self, number: int, sums: Sequence[_Sum]) -> None:
        """Join sums; each inject outputs the top bit of the sum before."""
        halves: list[_Half] = []
        top: Signal | None = None
        for total in sums:
            total.halves[0].total = top
            halves += total.halves
            top = total.top
        if top is not None:
            halves.append(_Half(_END, [Const(0)] * 4, top))
        if len(halves) % 2:
            halves.append(_Half(_END, [Const(0)] * 4))
        carry: Value = Const(0)
        for index, pair in enumerate(zip(halves[::2], halves[1::2], strict=True)):
            ports: dict[str, object] = {"i_CIN": carry}
            for place, half in enumerate(pair):
                ports[f"p_INIT{place}"] = Const(half.init, 16)
                ports[f"p_INJECT1_{place}"] = "NO"
                for letter, value in zip("ABCD", half.inputs, strict=True):
                    ports[f"i_{letter}{place}"] = value
                if half.total is not None:
                    ports[f"o_S{place}"] = half.total
            carry = Signal(name=f"carry_{number}_{index}")
            ports["o_COUT"] = carry
            self._m.submodules[f"adders_{number}_{index}"] = Instance("CCU2C", **ports)


def _counter(m: Module, a: Value, b: Value, latency: int, advance: Value, *, skewed: bool,
             ) -> tuple[_Counter, _Number]:
    pairs = [_Pair(*bits, place) for place, bits in enumerate(zip(a, b, strict=True))]
    counter = _Counter(m, pairs, latency, advance, skewed=skewed)
    return counter, counter.count(len(pairs))


def distance(m: Module, a: Value, b: Value, *, latency: int, advance: Value,
             skewed: bool = False) -> Value:
    """Add cells to a module that compute popcount(a ^ b), :py:`latency` cycles later.

    The registers load while :py:`advance` is high and are not reset. With :py:`skewed`, each bit
    arrives at the stage given by :func:`skew`.
    """
    counter, number = _counter(m, a, b, latency, advance, skewed=skewed)
    bits = [counter.lut(bit.a ^ bit.b, "differs") if isinstance(bit, _Pair) else bit
            for bit in number.bits]
    counter.lay_out()
    return counter.result(bits, number.level)


def skew(width: int, *, latency: int) -> list[int]:
    """Return the stage at which each bit of the words is used."""
    m, word = Module(), Signal(width)
    counter, _ = _counter(m, word, word, latency, Const(1), skewed=True)
    Fragment.get(m, None) # Amaranth warns of a module that is never used
    return counter.skew
