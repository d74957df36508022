# amaranth: UnusedElaboratable=no
import cocotb
import numpy as np
import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped
from cocotb.triggers import RisingEdge

from nearbit_hw.attend.dividing_normalizer import DividingNormalizer
from nearbit_hw.attend.reciprocal_normalizer import ReciprocalNormalizer
from nearbit_model.golden import normalize
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


KINDS = ("random", "lowest", "highest", "ties", "multiples")


class Beats:
    """Beats that a bench has sent, and what is expected of them."""

    def __init__(self, bench):
        self.bench = bench
        for name, value in bench.parameters.items():
            setattr(self, name, value)

    def draw(self, kind):
        """Sums and total of a beat: all that weighted means can be."""
        rng = self.bench.rng
        total = rng.choice([1, self.total_max, rng.randint(1, self.total_max),
                            rng.randint(1, min(9, self.total_max))])
        limit = 1 << self.value_bits - 1
        lowest, highest = -limit * total, (limit - 1) * total
        sums = [rng.randint(lowest, highest) for _ in range(self.value_lanes)]
        if kind == "lowest":
            sums = [lowest + rng.randint(0, 1) for _ in sums]
        elif kind == "highest":
            sums = [highest - rng.randint(0, 1) for _ in sums]
        elif kind == "multiples":
            sums = [total * rng.randint(-limit, limit - 1) + rng.randint(-1, 1) for _ in sums]
        elif kind == "ties":
            # Next to half of an output's unit.
            unit = 1 << self.output_fraction_bits
            sums = [(2 * rng.randint(-limit * unit, (limit - 1) * unit) + 1) * total
                    // (2 * unit) + rng.randint(0, 1) for _ in sums]
        return [min(max(value, lowest), highest) for value in sums], total

    def beat(self, kind="random"):
        sums, total = self.draw(kind)
        self.bench.source("i").send({"sums": sums, "total": total})
        outputs = normalize(np.array(sums), np.array(total), self.output_fraction_bits)
        for j, output in enumerate(outputs.tolist()):
            self.bench.sink("o").expect({"output": output,
                                         "last": int(j == self.value_lanes - 1)})


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def beats(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    beats = Beats(bench)
    for _ in range(max(2, 40 // beats.interval)):
        for kind in KINDS:
            beats.beat(kind)
    await bench.finish()


@cocotb.test()
@cocotb.parametrize(kind=KINDS)
async def cycles(dut, kind):
    """An element every output_cycles, whatever the data, also from one beat to the next."""
    bench = Bench(dut)
    await bench.reset()
    beats = Beats(bench)
    count = 2 + 40 // beats.interval
    for _ in range(count):
        beats.beat(kind)
    await bench.finish()
    assert bench.source("i").cycles == [
        beats.interval * n + (beats.value_lanes - 1) * beats.output_cycles
        for n in range(count)]
    assert bench.sink("o").cycles == [
        beats.latency + beats.output_cycles * n for n in range(beats.value_lanes * count)]


@cocotb.test()
async def sparse_beats(dut):
    """A beat starts at any time after the one before it, without waiting for a phase."""
    bench = Bench(dut)
    await bench.reset()
    beats = Beats(bench)
    cycles = []
    for gap in range(beats.output_cycles + 3):
        beats.beat()
        start = bench.cycle
        cycles += [start + beats.latency + beats.output_cycles * n
                   for n in range(beats.value_lanes)]
        await bench.step(beats.interval + gap)
    await bench.finish()
    assert bench.sink("o").cycles == cycles


@cocotb.test()
async def next_ready_comes_true(dut):
    bench = Bench(dut, idle=0.3, stall=0.5)
    await bench.reset()
    beats = Beats(bench)
    seen = []

    async def watch():
        promised = None
        while True:
            await RisingEdge(dut.clk)
            ready = int(dut.i__ready.value)
            if promised is not None:
                seen.append(ready)
                assert ready == promised
            promised = int(dut.next_ready.value)

    watching = cocotb.start_soon(watch())
    for _ in range(20):
        beats.beat()
    await bench.finish()
    watching.cancel()
    assert set(seen) == {0, 1}


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    await bench.reset()
    beats = Beats(bench)
    most = beats.interval + beats.latency + 3
    for cycles in range(1, most, -(-most // 20)):
        bench.sink("o").stall = cycles % 2
        for _ in range(most):
            beats.beat()
        await bench.step(cycles)
        await bench.reset()
    bench.sink("o").stall = 0
    for _ in range(3):
        beats.beat()
    await bench.finish()
    assert bench.sink("o").cycles[0] == beats.latency


WIDTHS = [ # lanes, bits of values, largest total, fraction bits, cycles of the divider
    (1, 1, 1, 0, 1),
    (1, 2, 1, 0, 2),
    (1, 8, 1000, 8, 1),     # a division takes longer than a beat
    (3, 5, 77, 2, 1),
    (3, 8, 255, 4, 4),
    (5, 4, 3, 3, 7),        # one unit, which does all
    (4, 8, 32 * 65535, 8, 4),
    (16, 8, 32 * 65535, 8, 1),
    (20, 16, 5 * (2 ** 24 - 1), 0, 1),
    (2, 16, 9 * (2 ** 24 - 1), 16, 8),
    (1, 16, 3, 16, 4),
    (33, 3, 2 ** 33, 1, 2),
]


class Shifted(wiring.Component):
    """A divider whose sums are shifted for it; those that have gone are garbage."""

    def __init__(self, inner):
        self.inner = inner
        super().__init__({name: member for name, member in inner.signature.members.items()
                          if name != "shift"})

    @property
    def latency(self):
        return self.inner.latency

    @property
    def interval(self):
        return self.inner.interval

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = self.inner
        connect(m, inner.o, flipped(self.o))
        gone = Signal(range(inner.value_lanes + 1))
        sums = self.i.p.sums.as_value()
        bits = inner.sum_bits
        m.d.comb += [
            inner.i.valid.eq(self.i.valid),
            self.i.ready.eq(inner.i.ready),
            inner.i.p.total.eq(self.i.p.total),
            inner.i.p.sums.as_value().eq(~sums),
            inner.i.p.sums.as_value()[:bits].eq(sums >> gone * bits),
            self.next_ready.eq(inner.next_ready),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += gone.eq(0)
        with m.Elif(inner.shift):
            m.d.sync += gone.eq(gone + 1)
        return m


def normalizer(kind, *, output_cycles, **parameters):
    if kind == "shifting divider":
        return Shifted(DividingNormalizer(**parameters, divider_cycles=output_cycles, shifts=True))
    if kind == "divider":
        return DividingNormalizer(**parameters, divider_cycles=output_cycles)
    return ReciprocalNormalizer(**parameters)


@pytest.mark.parametrize("spare", [
    0, pytest.param(3, marks=pytest.mark.slow)]) # bits of a sum that are copies of its sign
@pytest.mark.parametrize(("value_lanes", "value_bits", "total_max", "fraction_bits", "cycles"),
                         WIDTHS)
@pytest.mark.parametrize("kind", ["divider", "shifting divider", "reciprocal"])
def test_bench(kind, value_lanes, value_bits, total_max, fraction_bits, cycles, spare):
    sum_bits = ((total_max << value_bits - 1) - 1).bit_length() + 1 + spare
    parameters = {"value_lanes": value_lanes, "value_bits": value_bits, "total_max": total_max,
                  "sum_bits": sum_bits, "output_fraction_bits": fraction_bits,
                  "output_cycles": 1 if kind == "reciprocal" else cycles}
    dut = normalizer(kind, **parameters)
    run_bench(dut, __file__, parameters=parameters | {"latency": dut.latency,
                                                      "interval": dut.interval})


GOOD = {"value_lanes": 4, "value_bits": 8, "sum_bits": 29, "total_max": 32 * 65535,
        "output_fraction_bits": 4}


def test_properties():
    dut = DividingNormalizer(**GOOD, divider_cycles=3)
    assert {name: getattr(dut, name) for name in GOOD} == GOOD
    assert (dut.divider_cycles, dut.output_bits, dut.latency, dut.interval) == (3, 12, 12, 12)
    dut = ReciprocalNormalizer(**GOOD)
    assert {name: getattr(dut, name) for name in GOOD} == GOOD
    # A step of 16 places, of 21.
    assert (dut.output_bits, dut.output_cycles, dut.latency, dut.interval) == (12, 1, 12, 4)


def test_latencies_of_the_reciprocal():
    """One step for each 16 places; three cycles more where the table is refined."""
    for total_max, value_bits, latency in [
            (2 ** 16 - 1, 12, 11), (2 ** 16, 12, 12), (2 ** 32, 12, 13), (2 ** 16, 13, 15),
            (2 ** 10 - 1, 16, 11), (2 ** 10, 16, 14)]:
        dut = ReciprocalNormalizer(value_lanes=1, value_bits=value_bits, sum_bits=50,
                                   total_max=total_max, output_fraction_bits=4)
        assert dut.latency == latency


@pytest.mark.parametrize("make", [lambda **given: DividingNormalizer(**given, divider_cycles=3),
                                  ReciprocalNormalizer], ids=["divider", "reciprocal"])
@pytest.mark.parametrize("value", [0, -1, "8", None])
@pytest.mark.parametrize(("name", "text"), [
    ("value_lanes", "Value lanes"), ("value_bits", "Value bits"), ("sum_bits", "Sum bits"),
    ("total_max", "Largest total")])
def test_wrong_number(make, name, text, value):
    with pytest.raises(TypeError, match=rf"^{text} must be a positive integer, not {value!r}$"):
        make(**GOOD | {name: value})


@pytest.mark.parametrize("value", [-1, "8", None])
def test_wrong_output_fraction_bits(value):
    with pytest.raises(TypeError, match=rf"^Output fraction bits must be a non-negative integer, "
                                        rf"not {value!r}$"):
        ReciprocalNormalizer(**GOOD | {"output_fraction_bits": value})


def test_too_wide_for_the_reciprocal():
    with pytest.raises(ValueError, match=r"^Bits of an output must be at most 32, not 33$"):
        ReciprocalNormalizer(**GOOD | {"output_fraction_bits": 25})


@pytest.mark.parametrize("value", [0, -1, 5, 24, "8", None])
def test_wrong_divider_cycles(value):
    with pytest.raises(TypeError, match=rf"^Divider cycles must divide the bits of an output, "
                                        rf"not {value!r}$"):
        DividingNormalizer(**GOOD, divider_cycles=value)
