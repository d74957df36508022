# amaranth: UnusedElaboratable=no
import cocotb
import pytest

from nearbit_hw.score.popcount import TARGETS, XorPopcount, platform_target
from nearbit_hw.verilog import generate
from nearbit_model.structure import tree_latency
from nearbit_sim.bench import run_bench
from nearbit_sim.netlist import plain
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
        given, expected = (({"a": a, "b": b}, a ^ b) if bench.parameters["operands"] == 2
                           else ({"a": a}, a))
        bench.source("i").send(given)
        bench.sink("o").expect(expected.bit_count())
    await bench.finish()


@cocotb.test()
async def latency_and_rate(dut):
    bench = Bench(dut)
    await bench.reset()
    for a, b in pairs(bench, 20):
        bench.source("i").send(dict(zip("ab"[:bench.parameters["operands"]], (a, b), strict=False)))
    await bench.until(lambda: len(bench.sink("o").received) == 24)
    assert bench.source("i").cycles == list(range(24))
    latency = bench.parameters["latency"]
    assert bench.sink("o").cycles == list(range(latency, latency + 24))


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    await bench.reset()
    names = "ab"[:bench.parameters["operands"]]
    bench.source("i").send(*[dict.fromkeys(names, 0) | {"a": 1}] * 50)
    bench.sink("o").stall = 1
    await bench.step(10)
    await bench.reset()
    bench.sink("o").stall = 0
    bench.source("i").send(dict.fromkeys(names, 0))
    bench.sink("o").expect(0)
    await bench.finish()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("fan_in", [2, 3, 4])
@pytest.mark.parametrize("width", [1, 2, 7, 16, 64])
def test_bench(width, fan_in, target):
    run(width, fan_in, target)


@pytest.mark.parametrize("target", ["ecp5", "ice40", "xc7"])
@pytest.mark.parametrize(("width", "fan_in"), [
    *((width, 4) for width in (3, 6, 9, 31, 65, 128)), (64, 64), (128, 2),
    *(pytest.param(*shape, marks=pytest.mark.slow) for shape in (
        *((width, 4) for width in (4, 5, 8, 15, 32, 33, 48, 63, 96, 200, 256)),
        (64, 8), (128, 16))),
])
def test_bench_of_shapes(width, fan_in, target):
    """Each of these has its own tree of sums; the generic cell has one for all."""
    run(width, fan_in, target)


@pytest.mark.parametrize("target", ["ecp5", "ice40", "xc7"])
@pytest.mark.parametrize(("width", "fan_in"), [(1, 4), (7, 3), (16, 4), (64, 4), (64, 2)])
def test_netlist(width, fan_in, target):
    """The synthesized netlist, with Yosys's models of the vendor's cells."""
    run(width, fan_in, target, synthesize=True)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 16, 33, 64, 127])
def test_one_operand(width, target):
    """Of differences that are made elsewhere."""
    run(width, 4, target, operands=1)


@pytest.mark.parametrize("width", [7, 64])
def test_netlist_of_one_operand(width):
    run(width, 4, "ice40", operands=1, synthesize=True)


def run(width, fan_in, target, *, operands=2, synthesize=False):
    def make():
        return XorPopcount(width, fan_in=fan_in, target=target, operands=operands)

    dut = make()
    assert dut.latency == tree_latency(width, fan_in)
    verilog = plain(generate(make(), "dut"), target, synthesize=synthesize)
    run_bench(dut, __file__, parameters={
        "width": width, "latency": dut.latency, "operands": operands}, verilog=verilog)


class Platform:
    def __init__(self, device):
        self.device = device


@pytest.mark.parametrize(("platform", "target"), [
    (None, "generic"), (Platform("LFE5U-25F"), "ecp5"), (Platform("LFE5UM5G-85F"), "ecp5"),
    (Platform("iCE40HX8K"), "ice40"), (Platform("iCE40UP5K"), "ice40"),
    (Platform("xc7a35ti"), "xc7"), (Platform("xcvu9p"), "generic"),
    (Platform("LFE2-12"), "generic"),
])
def test_platform(platform, target):
    assert platform_target(platform) == target


@pytest.mark.parametrize("width", [0, -1, "8", None])
def test_wrong_width(width):
    with pytest.raises(TypeError, match=r"^Width must be a positive integer, not "):
        XorPopcount(width)


@pytest.mark.parametrize("fan_in", [1, 0, "2", None])
def test_wrong_fan_in(fan_in):
    with pytest.raises(TypeError, match=r"^Fan-in must be an integer greater than 1, not "):
        XorPopcount(8, fan_in=fan_in)


@pytest.mark.parametrize("operands", [0, 3, "2", None])
def test_wrong_operands(operands):
    with pytest.raises(TypeError, match=r"^Operands must be 1 or 2, not "):
        XorPopcount(8, operands=operands)


@pytest.mark.parametrize("target", ["", "ECP5", "xilinx", 5])
def test_wrong_target(target):
    with pytest.raises(ValueError, match=rf"^Target must be one of generic, ecp5, ice40, xc7, "
                                         rf"not {target!r}$"):
        XorPopcount(8, target=target)
