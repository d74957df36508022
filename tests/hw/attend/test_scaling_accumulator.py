# amaranth: UnusedElaboratable=no
import cocotb
import numpy as np
import pytest
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped

from nearbit_hw.attend.scaling_accumulator import ScalingAccumulator
from nearbit_model.golden import accumulate
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


KINDS = ("random", "most negative", "most positive", "ties")


class Held(wiring.Component):
    """The unit with room for one beat more behind it, which knows its next cycle's ready."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__({name: member for name, member in inner.signature.members.items()
                          if name != "next_ready"})

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = self.inner
        connect(m, flipped(self.i), inner.i)
        connect(m, inner.o_request, flipped(self.o_request))
        connect(m, flipped(self.i_beat), inner.i_beat)
        aside = Signal(inner.o.payload.shape())
        free = Signal(init=1)
        m.d.comb += [
            inner.o.ready.eq(free),
            inner.next_ready.eq(self.o.ready | (free & ~inner.o.valid)),
            self.o.valid.eq(inner.o.valid | ~free),
            self.o.payload.eq(Mux(free, inner.o.payload, aside)),
        ]
        m.d.sync += free.eq(inner.next_ready)
        with m.If(free):
            m.d.sync += aside.eq(inner.o.payload)
        return m


class Queries:
    """A store that answers, and what is expected of the queries that a bench has sent."""

    def __init__(self, bench):
        self.bench = bench
        for name, value in bench.parameters.items():
            setattr(self, name, value)
        self.sent = []
        self.answered = 0
        self.due = []
        bench.sink("o_request").expect()
        bench.sink("o_request").on_beat = self.answer

    def answer(self, payload, cycle):
        self.due.append((cycle + self.store_latency, self.sent[self.answered]))
        self.answered += 1

    async def step(self, cycles=1):
        for _ in range(cycles):
            while self.due and self.due[0][0] <= self.bench.cycle:
                self.bench.source("i_beat").send(self.due.pop(0)[1])
            await self.bench.step()

    async def finish(self):
        while self.bench.source("i").pending or self.bench.sink("o").pending:
            await self.step()
        assert self.answered == len(self.sent)
        await self.bench.finish()

    async def reset(self):
        await self.bench.reset()
        self.sent.clear()
        self.due.clear()
        self.answered = 0

    def draw(self, kind, length):
        """Weights, scales and elements of all beats."""
        rng = np.random.default_rng(self.bench.rng.getrandbits(64))
        weight_max, scale_max = (1 << self.weight_bits) - 1, (1 << self.scale_bits) - 1
        limit = 1 << self.value_bits - 1
        weights = rng.integers(0, weight_max, length, endpoint=True)
        scales = rng.integers(0, scale_max, length, endpoint=True)
        elements = rng.integers(-limit, limit, (self.beats, length, self.value_lanes))
        if kind == "ties":
            # Products next to half of a unit.
            weights = 1 << rng.integers(0, self.weight_bits, length)
            half = (1 << self.scale_bits - 1) // weights
            scales = np.clip(half + rng.integers(-1, 2, length), 0, scale_max)
        elif kind != "random":
            weights[:], scales[:] = weight_max, scale_max
            elements[:] = -limit if kind == "most negative" else limit - 1
        return weights, scales, elements

    def send(self, beat, keys, weights, words, bits):
        """A beat of keys, and the words that the store has for it, with any bits above."""
        rng = self.bench.rng
        width = max(self.scale_bits, self.value_bits * self.value_lanes)
        for j, (index, weight, word) in enumerate(zip(keys, weights, words, strict=True)):
            self.bench.source("i").send({"index": index, "beat": beat, "weight": int(weight),
                                         "last": int(j == len(keys) - 1)})
            self.bench.sink("o_request").expect({"token": index, "beat": beat})
            self.sent.append(word | rng.getrandbits(width) >> bits << bits)

    def query(self, length, kind="random"):
        rng, bits = self.bench.rng, self.value_bits
        weights, scales, elements = self.draw(kind, length)
        keys = [rng.randrange(self.capacity) for _ in range(length)]
        self.send(0, keys, weights, [int(scale) for scale in scales], self.scale_bits)
        for beat in range(self.beats):
            # Weights matter with the scales only.
            others = [rng.getrandbits(self.weight_bits) for _ in range(length)]
            words = [sum(int(element) % (1 << bits) << bits * lane
                         for lane, element in enumerate(row)) for row in elements[beat]]
            self.send(beat + 1, keys, others, words, bits * self.value_lanes)
            sums, total = accumulate(weights, elements[beat], scales, scale_bits=self.scale_bits)
            self.bench.sink("o").expect({"sums": sums.tolist(), "total": int(total)})

    def any_length(self):
        rng = self.bench.rng
        return rng.choice([1, min(2, self.top_n), self.top_n, rng.randint(1, self.top_n)])


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def queries(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    queries = Queries(bench)
    for kind in KINDS:
        queries.query(queries.top_n, kind)
    for _ in range(14):
        queries.query(queries.any_length(), bench.rng.choice(KINDS))
    await queries.finish()


@cocotb.test()
@cocotb.parametrize(kind=KINDS)
async def cycles(dut, kind):
    """A key per cycle, whatever the data, but for the first after its scale and after a sum."""
    bench = Bench(dut)
    await bench.reset()
    queries = Queries(bench)
    lengths = [1, 1, min(2, queries.top_n), queries.top_n, 1, queries.top_n, queries.top_n]
    lengths += [queries.any_length() for _ in range(5)]
    expected, shown = [], []
    cycle = queries.store_latency + 2 # one to request, one until the weight may go
    for length in lengths:
        queries.query(length, kind)
        begin = cycle
        for beat in range(queries.beats + 1):
            if beat == 1:
                cycle = max(cycle, begin + queries.gap)
            expected += range(cycle, cycle + length)
            cycle += length
            if beat:
                shown.append(cycle - 1 + queries.latency)
                cycle += 1
    await queries.finish()
    taken = bench.source("i_beat").cycles
    late = taken[0] - expected[0]
    assert abs(late) <= 2
    assert taken == [cycle + late for cycle in expected]
    assert bench.sink("o").cycles == [cycle + late for cycle in shown]


@cocotb.test()
async def stalled_sums_do_not_hold_the_next_beat(dut):
    bench = Bench(dut)
    await bench.reset()
    queries = Queries(bench)
    for _ in range(5):
        queries.query(queries.top_n)
    bench.sink("o").stall = 1
    await queries.step((5 * queries.top_n + 20) * (queries.beats + 1) + 20 * queries.store_latency)
    taken = len(bench.source("i_beat").cycles)
    # One beat is behind the unit, one at its output, and one complete before that.
    full, rest = divmod(3, queries.beats)
    keys = full * (queries.beats + 1) + (rest + 1 if rest else 0)
    assert keys * queries.top_n <= taken <= keys * queries.top_n + 2
    bench.sink("o").stall = 0
    await queries.finish()


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    await bench.reset()
    queries = Queries(bench)
    for cycles in range(3, 3 + queries.store_latency + 2 * queries.top_n + 8):
        bench.sink("o").stall = cycles % 2
        for _ in range(3):
            queries.query(queries.top_n, "most negative")
        await queries.step(cycles)
        await queries.reset()
    bench.sink("o").stall = 0
    for _ in range(5):
        queries.query(queries.any_length())
    await queries.finish()


@pytest.mark.parametrize(("parameters", "store_latency"), [
    ({"capacity": 1, "beats": 1, "value_lanes": 1, "value_bits": 1, "weight_bits": 1,
      "scale_bits": 1, "top_n": 1, "depth": 2}, 2),
    ({"capacity": 9, "beats": 3, "value_lanes": 3, "value_bits": 2, "weight_bits": 2,
      "scale_bits": 16, "top_n": 5, "depth": 2}, 2),
    ({"capacity": 64, "beats": 2, "value_lanes": 4, "value_bits": 8, "weight_bits": 16,
      "scale_bits": 16, "top_n": 16, "depth": 3}, 3),
    ({"capacity": 64, "beats": 1, "value_lanes": 2, "value_bits": 16, "weight_bits": 24,
      "scale_bits": 16, "top_n": 7, "depth": 4}, 4),
    ({"capacity": 64, "beats": 2, "value_lanes": 1, "value_bits": 5, "weight_bits": 9,
      "scale_bits": 4, "top_n": 3, "depth": 2}, 2),
], ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value)
def test_bench(parameters, store_latency):
    dut = ScalingAccumulator(**parameters)
    run_bench(Held(dut), __file__, parameters=parameters | {
        "latency": dut.latency, "gap": dut.gap, "store_latency": store_latency})


def test_properties():
    dut = ScalingAccumulator(capacity=8, beats=2, value_lanes=4, value_bits=8, weight_bits=16,
                             scale_bits=16, top_n=32, depth=3)
    assert (dut.beats, dut.scaled_max, dut.acc_bits, dut.total_max) == (2, 65534, 29, 32 * 65535)
    assert (dut.latency, dut.gap) == (4, 3)


def test_wrong_number():
    with pytest.raises(TypeError, match=r"^Beats must be a positive integer, not 0$"):
        ScalingAccumulator(capacity=8, beats=0, value_lanes=4, value_bits=8, weight_bits=16,
                           top_n=32)
