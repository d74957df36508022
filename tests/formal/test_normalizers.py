# amaranth: UnusedElaboratable=no
"""The quotients of both normalizers are exact, for all sums and totals at a small width."""

import pytest
from amaranth.hdl import Signal

from nearbit_hw.attend import DividingNormalizer, ReciprocalNormalizer

from .harness import Claim, Mutation, Proof, needs_abc, prove


pytestmark = needs_abc

SIZES = {"value_lanes": 1, "value_bits": 2, "sum_bits": 5, "total_max": 6,
         "output_fraction_bits": 1}
IN_WORK = 4


def claim_of(dut):
    claim = Claim(dut, resets=False)
    claim.attach(dut)
    m = claim.m
    total, value = dut.i.p.total, dut.i.p.sums[0]
    half = 1 << (SIZES["value_bits"] - 1)
    claim.assume("a weighted sum", ~dut.i.valid | (
        (total >= 1) & (total <= SIZES["total_max"])
        & (value >= -half * total) & (value <= (half - 1) * total)))

    # The sums of one turn, whichever.
    turn = claim.constant("turn", 3)
    came, left = Signal(3), Signal(3)
    kept_value, kept_total = Signal.like(value), Signal.like(total)
    accepts = dut.i.valid & dut.i.ready
    m.d.sync += [came.eq(came + accepts), left.eq(left + (dut.o.valid & dut.o.ready))]
    with m.If(accepts & (came == turn)):
        m.d.sync += [kept_value.eq(value), kept_total.eq(total)]
    # q = floor((a * 2**F + floor(Z / 2)) / Z), said without a division.
    numerator = (kept_value << SIZES["output_fraction_bits"]) + (kept_total >> 1)
    output = dut.o.p.output
    mine = dut.o.valid & (left == turn)
    exact = (output * kept_total <= numerator) & (numerator < (output + 1) * kept_total)
    claim.check("the quotient is exact", ~mine | exact)
    claim.check("nothing comes of nothing", ~dut.o.valid | (came != left))
    claim.cover("a negative quotient of the second sum", mine & (turn == 1) & (output < 0)
                & (kept_total == 5))
    return claim


CASES = {
    "DividingNormalizer": (
        lambda: DividingNormalizer(**SIZES, divider_cycles=1), 4,
        Mutation(DividingNormalizer.elaborate, "half = Cat(self.i.p.total[1:]",
                 "half = Cat(self.i.p.total[:-1]")),
    "ReciprocalNormalizer": (
        lambda: ReciprocalNormalizer(**SIZES), 12,
        Mutation(ReciprocalNormalizer._decide, "estimate + ~is_less", "estimate + 1")),
}


@pytest.mark.parametrize("name", CASES)
def test_quotients(name, tmp_path):
    component, cycle, mutation = CASES[name]
    prove(Proof(f"{name}: quotients are exact",
                ", ".join(f"{option} {value}" for option, value in SIZES.items()),
                lambda: claim_of(component()),
                {"a negative quotient of the second sum": cycle}, mutation, cycles=18), tmp_path)
