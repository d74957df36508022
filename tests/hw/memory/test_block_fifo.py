# amaranth: UnusedElaboratable=no
import cocotb
import pytest

from nearbit_hw.memory import BlockFifo
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def payloads(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    sent = [bench.rng.getrandbits(bench.parameters["bits"]) for _ in range(200)]
    bench.source("i").send(*sent)
    bench.sink("o").expect(*sent)
    await bench.finish()


@cocotb.test()
async def latency_and_rate(dut):
    bench = Bench(dut)
    await bench.reset()
    if bench.parameters["depth"] < 4:
        return
    bench.source("i").send(*[1] * 20)
    bench.sink("o").expect(*[1] * 20)
    await bench.finish()
    latency = bench.parameters["latency"]
    assert bench.source("i").cycles == list(range(20))
    assert bench.sink("o").cycles == list(range(latency, latency + 20))


@cocotb.test()
async def takes_as_many_as_it_has_places(dut):
    bench = Bench(dut, stall=1)
    await bench.reset()
    depth = bench.parameters["depth"]
    for _ in range(3):
        bench.source("i").send(*[1] * (depth + 3))
        bench.sink("o").expect(*[1] * (depth + 3))
        await bench.step(depth + 10)
        assert bench.source("i").pending == 3
        bench.sink("o").stall = 0
        await bench.finish()
        bench.sink("o").stall = 1


@cocotb.test()
async def reset_empties(dut):
    bench = Bench(dut, stall=1)
    await bench.reset()
    bench.source("i").send(*[1] * bench.parameters["depth"])
    await bench.step(bench.parameters["depth"] + 4)
    await bench.reset()
    bench.sink("o").stall = 0
    await bench.step(6)
    assert not bench.sink("o").received
    bench.source("i").send(0, 1)
    bench.sink("o").expect(0, 1)
    await bench.finish()


@pytest.mark.parametrize(("bits", "depth"), [(1, 1), (9, 2), (5, 16)])
def test_bench(bits, depth):
    dut = BlockFifo(bits, depth=depth)
    run_bench(dut, __file__, parameters={"bits": bits, "depth": depth, "latency": dut.latency})


def test_wrong_depth():
    with pytest.raises(TypeError, match=r"^Depth must be a power of two, not 3$"):
        BlockFifo(8, depth=3)
