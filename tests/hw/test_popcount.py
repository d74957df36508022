# amaranth: UnusedElaboratable=no
import cocotb
import pytest

from nearbit_hw.popcount import XorPopcount
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


def pairs(bench, count):
    """Random operands after those that differ nowhere and everywhere."""
    top = 2 ** bench.parameters["width"] - 1
    yield from [(0, 0), (top, 0), (0, top), (top, top)]
    for _ in range(count):
        yield bench.rng.randint(0, top), bench.rng.randint(0, top)


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def distances(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    for a, b in pairs(bench, 100):
        bench.source("i").send({"a": a, "b": b})
        bench.sink("o").expect((a ^ b).bit_count())
    await bench.finish()


@cocotb.test()
async def latency_and_rate(dut):
    bench = Bench(dut)
    await bench.reset()
    for a, b in pairs(bench, 20):
        bench.source("i").send({"a": a, "b": b})
    await bench.until(lambda: len(bench.sink("o").received) == 24)
    assert bench.source("i").cycles == list(range(24))
    latency = bench.parameters["latency"]
    assert bench.sink("o").cycles == list(range(latency, latency + 24))


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    await bench.reset()
    bench.source("i").send(*[{"a": 1, "b": 0}] * 50)
    bench.sink("o").stall = 1
    await bench.step(10)
    await bench.reset()
    bench.sink("o").stall = 0
    bench.source("i").send({"a": 1, "b": 1})
    bench.sink("o").expect(0)
    await bench.finish()


@pytest.mark.parametrize("fan_in", [2, 3, 4])
@pytest.mark.parametrize("width", [1, 2, 7, 16, 64])
def test_bench(width, fan_in):
    dut = XorPopcount(width, fan_in=fan_in)
    run_bench(dut, __file__, parameters={"width": width, "latency": dut.latency})


@pytest.mark.parametrize("width", [0, -1, "8", None])
def test_wrong_width(width):
    with pytest.raises(TypeError, match=r"^Width must be a positive integer, not "):
        XorPopcount(width)


@pytest.mark.parametrize("fan_in", [1, 0, "2", None])
def test_wrong_fan_in(fan_in):
    with pytest.raises(TypeError, match=r"^Fan-in must be an integer greater than 1, not "):
        XorPopcount(8, fan_in=fan_in)
