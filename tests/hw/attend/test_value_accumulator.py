# amaranth: UnusedElaboratable=no
import itertools

import cocotb
import numpy as np
import pytest
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped

from nearbit_hw.attend.value_accumulator import ValueAccumulator
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
        shape = inner.o.payload.shape()
        aside = Signal(shape)
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


class Beats:
    """A store that answers, and what is expected of the keys that a bench has sent."""

    def __init__(self, bench):
        self.bench = bench
        for name, value in bench.parameters.items():
            setattr(self, name, value)
        self.sent = []
        self.answered = 0
        bench.sink("o_request").expect()
        bench.sink("o_request").on_beat = self.answer
        self.due = []

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
        """Weights, scales and elements of a beat."""
        rng = np.random.default_rng(self.bench.rng.getrandbits(64))
        weight_max, scale_max = (1 << self.weight_bits) - 1, (1 << self.scale_bits) - 1
        limit = 1 << self.value_bits - 1
        shape = (length, self.value_lanes)
        weights = rng.integers(0, weight_max, length, endpoint=True)
        scales = rng.integers(0, scale_max, length, endpoint=True)
        elements = rng.integers(-limit, limit, shape)
        if kind == "ties":
            # Products next to half of a unit.
            weights = 1 << rng.integers(0, self.weight_bits, length)
            half = (1 << self.scale_bits - 1) // weights
            scales = np.clip(half + rng.integers(-1, 2, length), 0, scale_max)
        elif kind != "random":
            weights[:], scales[:] = weight_max, scale_max
            elements[:] = -limit if kind == "most negative" else limit - 1
        return weights, scales, elements

    def beat(self, length, kind="random"):
        weights, scales, elements = self.draw(kind, length)
        beat = self.bench.rng.randrange(self.beats)
        for j in range(length):
            index = self.bench.rng.randrange(self.capacity)
            self.bench.source("i").send({"index": index, "beat": beat,
                                         "weight": weights[j], "last": int(j == length - 1)})
            self.bench.sink("o_request").expect({"token": index, "beat": beat})
            self.sent.append({"elements": elements[j].tolist(), "scale": scales[j]})
        sums, total = accumulate(weights, elements, scales, scale_bits=self.scale_bits)
        self.bench.sink("o").expect({"sums": sums.tolist(), "total": int(total)})

    def any_length(self):
        rng = self.bench.rng
        return rng.choice([1, self.top_n, rng.randint(1, self.top_n), rng.randint(1, self.top_n)])


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def beats(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    beats = Beats(bench)
    for kind in KINDS:
        beats.beat(beats.top_n, kind)
    for _ in range(10):
        beats.beat(beats.any_length(), bench.rng.choice(KINDS))
    await beats.finish()


@cocotb.test()
@cocotb.parametrize(kind=KINDS)
async def cycles(dut, kind):
    """A key per cycle, whatever the data; sums a fixed time after a beat's last key."""
    bench = Bench(dut)
    await bench.reset()
    beats = Beats(bench)
    lengths = [1, 1, 1, beats.top_n, 1, beats.top_n, beats.top_n]
    lengths += [beats.any_length() for _ in range(5)]
    for length in lengths:
        beats.beat(length, kind)
    await beats.finish()
    accepted = bench.source("i").cycles
    ends = np.cumsum(lengths) - 1
    if beats.depth >= beats.store_latency:
        assert accepted == list(range(sum(lengths)))
    assert bench.sink("o_request").cycles == accepted
    assert bench.sink("o").cycles == [
        accepted[end] + beats.store_latency + beats.latency for end in ends]


@cocotb.test()
async def stalled_sums_do_not_hold_the_next_beat(dut):
    bench = Bench(dut)
    await bench.reset()
    beats = Beats(bench)
    for _ in range(4):
        beats.beat(beats.top_n)
    bench.sink("o").stall = 1
    await beats.step(4 * beats.top_n + 20 * beats.store_latency)
    accepted = len(bench.source("i").cycles)
    # One beat is behind the unit, one at its output, and one complete before that.
    assert 3 * beats.top_n <= accepted
    # The rest is held by the pipeline's stages, the waiting weights and the next one.
    assert accepted <= 3 * beats.top_n + beats.latency + beats.depth
    bench.sink("o").stall = 0
    await beats.finish()


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    await bench.reset()
    beats = Beats(bench)
    for cycles in range(3, 3 + beats.store_latency + beats.top_n + 8):
        bench.sink("o").stall = cycles % 2
        for _ in range(3):
            beats.beat(beats.top_n, "most negative")
        await beats.step(cycles)
        await beats.reset()
    bench.sink("o").stall = 0
    for _ in range(5):
        beats.beat(beats.any_length())
    await beats.finish()


@pytest.mark.parametrize(("parameters", "store_latency"), [
    ({"capacity": 1, "beats": 1, "value_lanes": 1, "value_bits": 1, "weight_bits": 1,
      "scale_bits": 1, "top_n": 1, "depth": 1}, 2),
    ({"capacity": 9, "beats": 3, "value_lanes": 3, "value_bits": 2, "weight_bits": 2,
      "scale_bits": 16, "top_n": 5, "depth": 2}, 2),
    ({"capacity": 64, "beats": 2, "value_lanes": 4, "value_bits": 8, "weight_bits": 16,
      "scale_bits": 16, "top_n": 16, "depth": 3}, 3),
    ({"capacity": 64, "beats": 2, "value_lanes": 2, "value_bits": 16, "weight_bits": 24,
      "scale_bits": 16, "top_n": 7, "depth": 2}, 4),
    ({"capacity": 64, "beats": 1, "value_lanes": 1, "value_bits": 5, "weight_bits": 9,
      "scale_bits": 4, "top_n": 12, "depth": 9}, 9),
], ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value)
def test_bench(parameters, store_latency):
    dut = ValueAccumulator(**parameters)
    run_bench(Held(dut), __file__, parameters=parameters | {"latency": dut.latency,
                                                      "store_latency": store_latency})


GOOD = {"capacity": 8, "beats": 2, "value_lanes": 4, "value_bits": 8, "weight_bits": 16,
        "scale_bits": 16, "top_n": 32, "depth": 3}


def test_properties():
    dut = ValueAccumulator(**GOOD)
    assert {name: getattr(dut, name) for name in GOOD} == GOOD
    assert (dut.scaled_max, dut.total_max, dut.latency) == (65534, 32 * 65535, 4)
    # 32 * 65534 * 128 is below 2 ** 28.
    assert dut.acc_bits == 29


def test_defaults():
    dut = ValueAccumulator(**{name: value for name, value in GOOD.items()
                              if name not in ("scale_bits", "depth")})
    assert (dut.scale_bits, dut.depth) == (16, 2)


def test_widths_are_tight():
    """No sum needs more than the widths, and one needs them."""
    for weight_bits, scale_bits, value_bits, top_n in itertools.product(
            (1, 2, 9, 16, 24), (1, 2, 8, 16), (1, 2, 8, 16), (1, 2, 5, 32)):
        dut = ValueAccumulator(capacity=32, beats=1, value_lanes=1, value_bits=value_bits,
                               weight_bits=weight_bits, scale_bits=scale_bits, top_n=top_n)
        sums, total = accumulate(np.full(top_n, (1 << weight_bits) - 1),
                                 np.full((top_n, 1), -(1 << value_bits - 1)),
                                 np.full(top_n, (1 << scale_bits) - 1), scale_bits=scale_bits)
        limit = 1 << dut.acc_bits - 1
        assert -limit <= sums[0]
        assert 2 * sums[0] < -limit
        assert total == dut.total_max


@pytest.mark.parametrize("value", [0, -1, "8", None])
@pytest.mark.parametrize(("name", "text"), [
    ("capacity", "Capacity"), ("beats", "Beats"), ("value_lanes", "Value lanes"),
    ("value_bits", "Value bits"), ("weight_bits", "Weight bits"), ("scale_bits", "Scale bits"),
    ("top_n", "Top N"), ("depth", "Depth")])
def test_wrong_number(name, text, value):
    with pytest.raises(TypeError, match=rf"^{text} must be a positive integer, not {value!r}$"):
        ValueAccumulator(**GOOD | {name: value})
