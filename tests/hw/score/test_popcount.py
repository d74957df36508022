# amaranth: UnusedElaboratable=no
import cocotb
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from nearbit_hw.score.popcount import TARGETS, XorPopcount, platform_target
from nearbit_hw.verilog import generate
from nearbit_model.structure import tree_latency
from nearbit_sim.bench import run_bench
from nearbit_sim.netlist import plain
from nearbit_sim.stream import MATRIX, Bench


class Bank(wiring.Component):
    """Cells side by side, each with streams of its own: one start of the simulator for all."""

    def __init__(self, shapes, target):
        self.cells = {f"{width}_{fan_in}_{operands}":
                      XorPopcount(width, fan_in=fan_in, target=target, operands=operands)
                      for width, fan_in, operands in shapes}
        super().__init__({f"{way}_{name}": cell.signature.members[way]
                          for name, cell in self.cells.items() for way in "io"})

    def elaborate(self, platform):
        m = Module()
        for name, cell in self.cells.items():
            m.submodules[f"cell_{name}"] = cell
            wiring.connect(m, wiring.flipped(getattr(self, f"i_{name}")), cell.i)
            wiring.connect(m, cell.o, wiring.flipped(getattr(self, f"o_{name}")))
        return m


class Cell:
    """The streams of one cell of a bank."""

    def __init__(self, bench, name):
        self.rng = bench.rng
        self.source, self.sink = bench.source(f"i_{name}"), bench.sink(f"o_{name}")
        self.width, _, self.operands = map(int, name.split("_"))
        self.latency = bench.parameters["latencies"][name]

    def pairs(self, count):
        """Random operands after those that differ nowhere and everywhere; all have distances."""
        top = 2 ** self.width - 1
        for a, b in [(0, 0), (top, 0), (0, top), (top, top), *(
                (self.rng.randint(0, top), self.rng.randint(0, top)) for _ in range(count))]:
            if self.operands == 2:
                yield {"a": a, "b": b}, (a ^ b).bit_count()
            else:
                yield {"a": a}, a.bit_count()


async def start(dut, **options):
    bench = Bench(dut, **options)
    await bench.reset()
    return bench, [Cell(bench, name) for name in bench.parameters["latencies"]]


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def distances(dut, idle, stall):
    bench, cells = await start(dut, idle=idle, stall=stall)
    for cell in cells:
        for given, distance in cell.pairs(100):
            cell.source.send(given)
            cell.sink.expect(distance)
    await bench.finish()


@cocotb.test()
async def latency_and_rate(dut):
    bench, cells = await start(dut)
    for cell in cells:
        cell.source.send(*[given for given, _ in cell.pairs(20)])
    await bench.until(lambda: all(len(cell.sink.received) == 24 for cell in cells))
    for cell in cells:
        assert cell.source.cycles == list(range(24)), cell.source.name
        assert cell.sink.cycles == list(range(cell.latency, cell.latency + 24)), cell.sink.name


@cocotb.test()
async def reset_forgets(dut):
    bench, cells = await start(dut)
    zeros = [dict.fromkeys("ab"[:cell.operands], 0) for cell in cells]
    for cell, zero in zip(cells, zeros, strict=True):
        cell.source.send(*[zero | {"a": 1}] * 50)
        cell.sink.stall = 1
    await bench.step(10)
    await bench.reset()
    for cell, zero in zip(cells, zeros, strict=True):
        cell.sink.stall = 0
        cell.source.send(zero)
        cell.sink.expect(0)
    await bench.finish()


# Width, fan-in, operands. Each has its own tree of sums. A width up to 2 is one level of any
# fan-in.
SHAPES = [
    (1, 2, 2), (2, 2, 2), *((width, fan_in, 2) for width in (7, 16, 64) for fan_in in (2, 3, 4)),
    *((width, 4, 2) for width in (1, 3, 6, 9, 31, 65, 128)), (64, 64, 2), (128, 2, 2),
    *((width, 4, 1) for width in (1, 2, 3, 4, 5, 7, 16, 33, 64, 127)),
]


@pytest.mark.parametrize("target", TARGETS)
def test_bench(target):
    run(SHAPES, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ecp5", "ice40", "xc7"])
def test_bench_of_more_shapes(target):
    run([*((width, 4, 2) for width in (4, 5, 8, 15, 32, 33, 48, 63, 96, 200, 256)),
         (64, 8, 2), (128, 16, 2)], target)


@pytest.mark.parametrize("target", ["ecp5", "ice40", "xc7"])
def test_netlist(target):
    """The synthesized netlist, with Yosys's models of the vendor's cells."""
    run([(1, 4, 2), (7, 3, 2), (16, 4, 2), (64, 4, 2), (64, 2, 2), (7, 4, 1), (64, 4, 1)], target,
        synthesize=True)


def run(shapes, target, *, synthesize=False):
    dut = Bank(shapes, target)
    for (width, fan_in, _), cell in zip(shapes, dut.cells.values(), strict=True):
        assert cell.latency == tree_latency(width, fan_in)
    verilog = plain(generate(Bank(shapes, target), "dut"), target, synthesize=synthesize)
    run_bench(dut, __file__, verilog=verilog, parameters={
        "latencies": {name: cell.latency for name, cell in dut.cells.items()}})


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
