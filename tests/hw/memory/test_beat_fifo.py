# amaranth: UnusedElaboratable=no
import cocotb
import pytest
from cocotb.triggers import Timer

from nearbit_hw.memory import BeatFifo
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def beats(dut, idle, stall):
    """A writer that counts: no more than have a place."""
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    put, got = bench.source("i"), bench.sink("o")
    for count in range(200):
        beat = bench.rng.getrandbits(bench.parameters["bits"])
        await bench.until(lambda count=count: count - len(got.received)
                          < bench.parameters["depth"])
        put.send(beat)
        got.expect(beat)
        await bench.step()
    await bench.finish()


@cocotb.test()
async def latency_and_rate(dut):
    bench = Bench(dut)
    await bench.reset()
    if bench.parameters["depth"] < 4:
        return
    for beat in range(20):
        bench.source("i").send(beat)
        bench.sink("o").expect(beat)
    await bench.finish()
    assert bench.source("i").cycles == list(range(20))
    assert bench.sink("o").cycles == list(range(2, 22))


@cocotb.test()
async def holds_as_many_as_there_are_places(dut):
    bench = Bench(dut, stall=1)
    await bench.reset()
    depth = bench.parameters["depth"]
    for round_ in range(4):
        sent = [round_ + beat & 1 for beat in range(depth)]
        bench.source("i").send(*sent)
        await bench.step(depth + 5)
        assert not bench.source("i").pending
        bench.sink("o").expect(*sent)
        bench.sink("o").stall = 0
        await bench.finish()
        bench.sink("o").stall = 1


@cocotb.test()
async def empty(dut):
    bench = Bench(dut, stall=1)
    await bench.reset()
    await bench.step(3)
    assert int(dut.empty.value) == 1
    bench.source("i").send(1)
    for _ in range(10):
        await bench.step()
        await Timer(1, "step")
        assert int(dut.empty.value) == 0
    bench.sink("o").stall = 0
    bench.sink("o").expect(1)
    await bench.finish()
    assert int(dut.empty.value) == 1


@cocotb.test()
async def reset_empties(dut):
    bench = Bench(dut, stall=1)
    await bench.reset()
    bench.source("i").send(*[0] * bench.parameters["depth"])
    await bench.step(bench.parameters["depth"] + 4)
    await bench.reset()
    bench.sink("o").stall = 0
    bench.source("i").send(1)
    bench.sink("o").expect(1)
    await bench.finish()


@pytest.mark.parametrize(("bits", "depth"), [(5, 1), (7, 2), (64, 16)])
def test_bench(bits, depth):
    run_bench(BeatFifo(bits, depth=depth), __file__, parameters={"bits": bits, "depth": depth})


def test_properties():
    dut = BeatFifo(7, depth=16)
    assert (dut.layout, dut.depth) == (7, 16)


@pytest.mark.parametrize("depth", [0, 3, -4, "4", None])
def test_wrong_depth(depth):
    with pytest.raises(TypeError, match=rf"^Depth must be a power of two, not {depth!r}$"):
        BeatFifo(8, depth=depth)
