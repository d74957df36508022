# amaranth: UnusedElaboratable=no
"""That quotients by the reciprocal are exact, and that its widths are needed."""

from dataclasses import dataclass

import cocotb
import numpy as np
import pytest

from nearbit_hw.attend.reciprocal_normalizer import ReciprocalNormalizer, reciprocal_table
from nearbit_model.golden import normalize
from nearbit_model.structure import ReciprocalTimes
from nearbit_sim.bench import BenchError, run_bench
from nearbit_sim.stream import Bench


# ---- The argument of docs/numerics.md, in integers: any reciprocal within one unit will do.

@dataclass
class Argument:
    """The arithmetic of the unit, with widths that may be wrong."""

    total_bits: int
    value_bits: int
    fraction_bits: int
    reciprocal_bits: int
    factor_bits: int

    def shift(self, totals):
        lengths = np.zeros_like(totals)
        for bit in range(self.total_bits):
            lengths += totals >> bit > 0
        return self.total_bits - lengths

    def quotients(self, sums, totals, reciprocals):
        drop = max(0, self.value_bits + self.total_bits - self.factor_bits)
        factors = sums << self.shift(totals) >> drop
        output_bits = self.value_bits + self.fraction_bits
        digits = (self.reciprocal_bits + self.value_bits + self.total_bits - drop - 1
                  - output_bits)
        estimates = factors * reciprocals + (1 << digits - 3) >> digits
        return estimates + ((sums << self.fraction_bits + 1) >= (2 * estimates + 1) * totals)

    def wrong(self, sums, totals):
        """How many quotients are not the golden model's, for some reciprocal within one unit."""
        true = normalize(sums[:, None], totals, self.fraction_bits)[:, 0]
        exact = 1 << self.reciprocal_bits + self.total_bits - 1
        normal = totals << self.shift(totals)
        wrong = 0
        for near in (-1, 0, 1):
            reciprocals = exact // normal + near
            allowed = ((np.abs(reciprocals * normal - exact) <= normal)
                       & (reciprocals <= 1 << self.reciprocal_bits))
            wrong += np.count_nonzero((self.quotients(sums, totals, reciprocals) != true)
                                      & allowed)
        return wrong


def every_case(total_bits, value_bits):
    """All totals, with all sums that weighted means can have."""
    limit = 1 << value_bits - 1
    sums = [np.arange(-limit * total, (limit - 1) * total + 1)
            for total in range(1, 1 << total_bits)]
    totals = [np.full(len(some), total) for total, some in enumerate(sums, 1)]
    return np.concatenate(sums), np.concatenate(totals)


def corners(total_bits, value_bits, fraction_bits, *, seed, count=200_000):
    """Sums next to those at which the quotient steps, of totals of all lengths."""
    rng = np.random.default_rng(seed)
    limit = 1 << value_bits - 1
    lengths = rng.integers(1, total_bits, count, endpoint=True)
    totals = rng.integers(1 << lengths - 1, 1 << lengths)
    # Totals next to powers of two are as likely as all others.
    near = (1 << lengths - 1) + rng.integers(0, 3, count)
    totals = np.where(rng.random(count) < 0.5, totals, np.minimum(near, (1 << lengths) - 1))
    quotients = rng.integers(-limit << fraction_bits, (limit - 1 << fraction_bits) + 1, count)
    steps = -(-(quotients * totals - totals // 2) >> fraction_bits)
    sums = np.where(rng.random(count) < 0.8, steps + rng.integers(-1, 2, count),
                    rng.choice([-limit, limit - 1], count) * totals)
    return np.clip(sums, -limit * totals, (limit - 1) * totals), totals


SMALL = [(6, 3, 2), (7, 3, 3), (5, 4, 3), (8, 3, 2), (7, 4, 2), (9, 2, 2), (6, 2, 4), (1, 3, 2),
         (4, 2, 0), (3, 5, 6)]


@pytest.mark.parametrize(("total_bits", "value_bits", "fraction_bits"), SMALL)
def test_every_reciprocal_within_a_unit_will_do(total_bits, value_bits, fraction_bits):
    bits = value_bits + fraction_bits + 2
    argument = Argument(total_bits, value_bits, fraction_bits, bits, bits)
    assert argument.wrong(*every_case(total_bits, value_bits)) == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("total_bits", "value_bits", "fraction_bits"), [
    (21, 8, 8), (24, 8, 4), (16, 12, 8), (30, 4, 8)])
def test_full_widths(total_bits, value_bits, fraction_bits, seed):
    bits = value_bits + fraction_bits + 2
    argument = Argument(total_bits, value_bits, fraction_bits, bits, bits)
    assert argument.wrong(*corners(total_bits, value_bits, fraction_bits, seed=seed)) == 0


@pytest.mark.parametrize("narrower", ["reciprocal_bits", "factor_bits"])
@pytest.mark.parametrize(("total_bits", "value_bits", "fraction_bits"), [(8, 3, 2), (9, 2, 2)])
def test_widths_are_needed(total_bits, value_bits, fraction_bits, narrower):
    bits = value_bits + fraction_bits + 2
    argument = Argument(total_bits, value_bits, fraction_bits, bits, bits)
    setattr(argument, narrower, bits - 1)
    assert argument.wrong(*every_case(total_bits, value_bits))


@pytest.mark.parametrize("narrower", ["reciprocal_bits", "factor_bits"])
def test_full_widths_are_needed(narrower):
    argument = Argument(21, 8, 8, 18, 18)
    setattr(argument, narrower, 17)
    assert argument.wrong(*corners(21, 8, 8, seed=0))


# ---- The unit's reciprocals.

def unit_reciprocals(times, normals):
    """What the table, its slope and Newton's step give."""
    content = reciprocal_table(times)
    offsets, slopes = (np.array([entry[name] for entry in content])
                       for name in ("offset", "slope"))
    after = times.total_bits - 1 - times.index_bits
    index = (normals >> after) & ((1 << times.index_bits) - 1)
    rest = (normals >> after - times.slope_bits) & ((1 << times.slope_bits) - 1)
    reciprocals = (1 << times.table_bits) + (
        offsets[index] - (slopes[index] * rest >> times.slope_bits) >> times.guard_bits)
    if not times.is_refined:
        return reciprocals
    exact = 1 << times.table_bits + times.total_bits - 1
    drop = 2 * times.table_bits + times.total_bits - 1 - times.bits
    return (reciprocals << times.bits - times.table_bits) + (
        reciprocals * (exact - reciprocals * normals) + (1 << drop - 1) >> drop)


@pytest.mark.parametrize(("total_bits", "output_bits", "index_most"), [
    *[(total_bits, output_bits, 9) for total_bits in (1, 2, 5, 10, 11, 16)
      for output_bits in (1, 2, 3, 8, 15, 16, 17, 24, 31, 32)],
    (21, 16, 9), (21, 15, 9), (21, 12, 9), (9, 4, 2), (12, 8, 3)])
def test_reciprocals_are_within_a_unit(total_bits, output_bits, index_most):
    times = ReciprocalTimes(total_bits, output_bits, index_most)
    normals = np.arange(1 << total_bits - 1, 1 << total_bits)
    reciprocals = unit_reciprocals(times, normals)
    error = reciprocals * normals - (1 << times.bits + total_bits - 1)
    assert (np.abs(error) <= normals).all()
    assert (reciprocals >= 1 << times.bits - 1).all()
    assert (reciprocals <= 1 << times.bits).all()


class Coarse(ReciprocalTimes):
    """Sections of the table are four times as long."""

    @property
    def index_bits(self):
        return super().index_bits - 2

    @property
    def table_bits(self):
        return self.bits


def test_shorter_table_is_not_enough():
    times = Coarse(21, 16)
    normals = np.arange(1 << 20, 1 << 21)
    error = unit_reciprocals(times, normals) * normals - (1 << times.bits + 20)
    assert (np.abs(error) > normals).any()


# ---- The unit, with every total and every sum.

class Narrow(ReciprocalTimes):
    """A bit of a normalized sum is missing."""

    @property
    def factor_bits(self):
        return self.output_bits + 1


class Changed(ReciprocalNormalizer):
    """The unit with other facts."""

    def __init__(self, *, kind, index_most, **parameters):
        self._facts = kind, index_most
        super().__init__(**parameters)

    @property
    def times(self):
        kind, index_most = self._facts
        return kind(len(self.i.p.total), self.output_bits, index_most)


@cocotb.test()
async def every_quotient(dut):
    bench = Bench(dut)
    await bench.reset()
    lanes, bits = bench.parameters["value_lanes"], bench.parameters["value_bits"]
    fraction_bits = bench.parameters["output_fraction_bits"]
    limit = 1 << bits - 1
    for total in range(1, bench.parameters["total_max"] + 1):
        sums = list(range(-limit * total, (limit - 1) * total + 1))
        sums += sums[:-len(sums) % lanes]
        for start in range(0, len(sums), lanes):
            beat = sums[start:start + lanes]
            bench.source("i").send({"sums": beat, "total": total})
            outputs = normalize(np.array(beat), np.array(total), fraction_bits).tolist()
            for j, output in enumerate(outputs):
                bench.sink("o").expect({"output": output, "last": int(j == lanes - 1)})
    await bench.finish()


def run_all(total_bits, value_bits, fraction_bits, *, kind=ReciprocalTimes, index_most=9):
    parameters = {"value_lanes": 4, "value_bits": value_bits, "sum_bits": value_bits + total_bits,
                  "total_max": (1 << total_bits) - 1, "output_fraction_bits": fraction_bits}
    run_bench(Changed(kind=kind, index_most=index_most, **parameters), __file__,
              parameters=parameters)


@pytest.mark.parametrize(("total_bits", "value_bits", "fraction_bits", "index_most"), [
    (6, 3, 2, 9), (5, 4, 3, 9), (6, 2, 4, 9), (1, 3, 2, 9),
    (6, 2, 2, 2), (5, 3, 1, 2), (6, 3, 5, 3)])
def test_every_quotient(total_bits, value_bits, fraction_bits, index_most):
    run_all(total_bits, value_bits, fraction_bits, index_most=index_most)


def test_narrower_factor_is_found():
    with pytest.raises(BenchError, match="output"):
        run_all(6, 2, 2, kind=Narrow)
