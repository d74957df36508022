# amaranth: UnusedElaboratable=no
from itertools import pairwise

import cocotb
import numpy as np
import pytest

from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench
from studies.area_energy.standard.design import StandardAttention
from studies.area_energy.standard.golden import attend, multiplier_shift, quantize


class Load:
    """Keys and values in the stores, and queries with what they are to give."""

    def __init__(self, bench):
        self.bench, self.rng, self.given = bench, bench.rng, bench.parameters
        given = self.given
        self.key_limit = 1 << given["element_bits"] - 1
        self.value_limit = 1 << given["value_bits"] - 1
        self.fill()

    def vector(self, limit, size):
        kind = self.rng.choice(["random", "random", "small", "least", "most"])
        if kind in ("least", "most"):
            return [-limit if kind == "least" else limit - 1] * size
        bound = limit if kind == "random" else max(1, limit // 8)
        return [self.rng.randrange(-bound, bound) for _ in range(size)]

    def fill(self):
        given = self.given
        tokens = range(given["capacity"])
        self.keys = [self.vector(self.key_limit, given["head_dim"]) for _ in tokens]
        self.values = [self.vector(self.value_limit, given["value_dim"]) for _ in tokens]
        most = (1 << given["scale_bits"]) - 1
        self.scales = [self.rng.choice([0, most, self.rng.randint(0, most)]) for _ in tokens]
        for token in tokens:
            self.bench.source("i_key").send({"token": token, "elements": self.keys[token]})
            self.bench.source("i_value").send(
                {"token": token, "elements": self.values[token], "scale": self.scales[token]})

    async def loaded(self):
        while self.bench.source("i_key").pending or self.bench.source("i_value").pending:
            await self.bench.step()

    def ask(self, count):
        given = self.given
        elements = self.vector(self.key_limit, given["head_dim"])
        keys = np.array(self.keys[:count])
        # Weights over a few octaves, or none, or too many.
        scores = keys @ np.array(elements)
        spread = max(1, int(scores.max() - scores.min()))
        wanted = self.rng.choice([0, 3, 20, 200]) << 8 + multiplier_shift(given["element_bits"])
        multiplier = self.rng.choice([0, 0xffff, *[min(0xffff, wanted // spread)] * 5])
        output = attend(np.array(elements), keys, multiplier, np.array(self.values[:count]),
                        np.array(self.scales[:count]),
                        **{name: given[name] for name in (
                            "element_bits", "weight_bits", "scale_bits", "output_fraction_bits")})
        self.bench.source("i_query").send(
            {"elements": elements, "last_key": count - 1, "multiplier": multiplier})
        self.bench.sink("o_result").expect(*(
            {"output": int(x), "last": int(place == len(output) - 1)}
            for place, x in enumerate(output)))


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def queries(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall, limit=60_000)
    await bench.reset()
    load = Load(bench)
    await load.loaded()
    capacity = bench.parameters["capacity"]
    for _ in range(20):
        load.ask(bench.rng.choice([1, 2, capacity, capacity, bench.rng.randint(1, capacity)]))
    await bench.finish()


@cocotb.test()
async def long_stalls(dut):
    """The output is held until nothing more is accepted; nothing may be lost."""
    bench = Bench(dut, limit=60_000)
    await bench.reset()
    load = Load(bench)
    await load.loaded()
    capacity = bench.parameters["capacity"]
    for length in (1, capacity):
        bench.sink("o_result").stall = 1
        for _ in range(24):
            load.ask(length)
        await bench.step(12 * capacity)
        assert bench.source("i_query").pending
        bench.sink("o_result").stall = 0
        await bench.finish()


@cocotb.test()
async def rate(dut):
    bench = Bench(dut, limit=60_000)
    await bench.reset()
    load = Load(bench)
    await load.loaded()
    given = bench.parameters
    for _ in range(12):
        load.ask(given["capacity"])
    await bench.finish()
    interval = max(given["capacity"] // given["lanes"],
                   given["value_dim"] * given["divider_cycles"])
    ends = bench.sink("o_result").cycles[given["value_dim"] - 1::given["value_dim"]]
    assert {b - a for a, b in pairwise(ends[4:])} == {interval}


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    for cycles in (1, 7, 20, 43):
        await bench.reset()
        load = Load(bench)
        await load.loaded()
        for _ in range(4):
            load.ask(bench.rng.randint(1, bench.parameters["capacity"]))
        await bench.step(cycles)
        await bench.reset()
        load = Load(bench)
        await load.loaded()
        for _ in range(3):
            load.ask(bench.parameters["capacity"])
        await bench.finish()


GIVEN = {"capacity": 32, "lanes": 4, "head_dim": 8, "value_dim": 4, "element_bits": 8,
         "value_bits": 8, "weight_bits": 16, "scale_bits": 16, "output_fraction_bits": 8,
         "divider_cycles": 1}


@pytest.mark.parametrize("changes", [
    {},
    pytest.param({"element_bits": 16, "value_bits": 16, "head_dim": 3, "value_dim": 2},
                 marks=pytest.mark.slow),
    {"lanes": 1, "divider_cycles": 8},
    pytest.param({"lanes": 16, "capacity": 128, "head_dim": 9, "value_dim": 2, "value_bits": 4,
                  "weight_bits": 8}, marks=pytest.mark.slow),
    {"lanes": 2, "capacity": 6, "head_dim": 1, "value_dim": 1, "element_bits": 4, "value_bits": 3,
     "weight_bits": 5, "scale_bits": 4, "output_fraction_bits": 0, "divider_cycles": 3},
], ids=lambda changes: "-".join(f"{name}={value}" for name, value in changes.items()) or "default")
def test_bench(changes):
    given = {**GIVEN, **changes}
    run_bench(StandardAttention(**given), __file__, parameters=given)


@pytest.mark.parametrize(("changes", "kind", "message"), [
    ({"lanes": 3}, ValueError, r"^Lanes must be a power of two, not 3$"),
    ({"lanes": 0}, TypeError, r"^Lanes must be a positive integer, not 0$"),
    ({"capacity": 30}, ValueError,
     r"^Capacity must be a multiple of lanes and at least 2, not 30$"),
    ({"head_dim": "8"}, TypeError, r"^Head dimension must be a positive integer, not '8'$"),
])
def test_wrong_parameter(changes, kind, message):
    with pytest.raises(kind, match=message):
        StandardAttention(**{**GIVEN, **changes})


@pytest.mark.parametrize(("element_bits", "bound"), [(8, 0.03), (16, 0.006)])
def test_golden_is_near_softmax(element_bits, bound):
    """Against float64; what is left is rounding: of operands, and of weights to 16 bits."""
    rng = np.random.default_rng(1)
    q, k = rng.standard_normal((2, 5, 64)), rng.standard_normal((1, 200, 64))
    elements = rng.integers(-127, 128, (200, 16))
    scales = rng.integers(20000, 65536, 200)
    operands = quantize(q, k, element_bits)
    for head in range(2):
        for query in range(5):
            logits = k[0] @ q[head, query] / 8
            weights = np.exp(logits - logits.max())
            exact = weights / weights.sum() @ (elements * scales[:, None] / 65536)
            output = attend(
                operands.queries[head, query], operands.keys[head],
                int(operands.multipliers[head, query]), elements, scales,
                element_bits=element_bits, weight_bits=16, scale_bits=16, output_fraction_bits=8)
            assert np.abs(output / 256 - exact).max() < bound * np.abs(exact).max()
