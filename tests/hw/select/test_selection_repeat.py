# amaranth: UnusedElaboratable=no
import cocotb
import pytest

from nearbit_hw.select.selection_repeat import SelectionRepeat
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


class Load:
    """Selections, and how often each is wanted again."""

    def __init__(self, bench):
        self.bench, self.rng = bench, bench.rng
        self.capacity, self.distance_max, self.top_n = (
            bench.parameters[name] for name in ("capacity", "distance_max", "top_n"))
        self.sent = []
        # For each key that leaves, whether its selection is wanted again; None if it is not the
        # last one, when it makes no difference.
        self.again = []
        bench.sink("o").on_beat = lambda key, cycle: self.again and self.again.pop(0)

    def select(self, length=None, repeats=None, *, expect=True):
        rng = self.rng
        if length is None:
            length = rng.choice([1, self.top_n, rng.randint(1, self.top_n)])
        if repeats is None:
            repeats = rng.randint(0, 3)
        keys = [{"index": rng.randrange(self.capacity),
                 "distance": rng.randint(0, self.distance_max), "last": int(place == length - 1)}
                for place in range(length)]
        self.bench.source("i").send(*keys)
        for time in range(repeats + 1):
            if expect:
                self.bench.sink("o").expect(*keys)
            self.again += [None] * (length - 1) + [int(time < repeats)]
        self.sent.append((length, repeats))

    async def step(self, cycles=1):
        for _ in range(cycles):
            wanted = self.again[0] if self.again else None
            self.bench.dut.again.value = self.rng.getrandbits(1) if wanted is None else wanted
            await self.bench.step()

    async def run(self):
        while self.bench.sink("o").pending or self.bench.source("i").pending:
            await self.step()
        await self.step(10)
        await self.bench.finish(extra=0)
        self.check_cycles()

    def check_cycles(self):
        """Keys pass without delay; they are repeated from two cycles later on, not before."""
        accepted, left = iter(self.bench.source("i").cycles), iter(self.bench.sink("o").cycles)
        for length, repeats in self.sent:
            passed = [next(left) for _ in range(length)]
            assert passed == [next(accepted) for _ in range(length)]
            for _ in range(repeats):
                end = passed[-1]
                passed = [next(left) for _ in range(length)]
                assert passed[0] >= end + 2
        assert next(left, None) is None


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def selections(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    load = Load(bench)
    for _ in range(40):
        load.select()
    await load.run()


@cocotb.test()
async def cycles(dut):
    """Unstalled: a repetition takes a cycle more than its keys, all else as many as there are."""
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    expected, cycle = [], 0
    for length in (1, load.top_n, max(1, load.top_n - 1)):
        for repeats in range(4):
            load.select(length, repeats)
            for time in range(repeats + 1):
                cycle += time > 0
                expected += range(cycle, cycle + length)
                cycle += length
    await load.run()
    assert bench.sink("o").cycles == expected


@cocotb.test()
async def presented_two_cycles_later(dut):
    """Whether it is taken or not, and without a gap once it is."""
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    sink = bench.sink("o")
    for held in (1, 2, 3, 9):
        load.select(load.top_n, 1)
        load.select(1, 0)
        before = len(sink.cycles)
        while len(sink.cycles) < before + load.top_n:
            await load.step()
        end = sink.cycles[-1]
        sink.stall = 1
        for _ in range(held):
            # Between steps, the next cycle's state is seen.
            assert int(dut.o__valid.value) == (bench.cycle >= end + 2)
            await load.step()
        sink.stall = 0
        while sink.pending:
            await load.step()
        first = max(end + 2, end + held + 1)
        assert sink.cycles[before + load.top_n:] == list(range(first, first + load.top_n + 1))
    await load.run()


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    for cycles in range(1, 3 * bench.parameters["top_n"] + 6):
        await bench.reset()
        load = Load(bench)
        load.select(load.top_n, 3, expect=False)
        load.select(load.top_n, 0, expect=False)
        bench.sink("o").stall = bench.rng.choice([0, 0, 0.3])
        await load.step(cycles)
        await bench.reset()
        load = Load(bench)
        bench.sink("o").stall = 0
        for _ in range(3):
            load.select()
        await load.run()


@pytest.mark.parametrize(("capacity", "distance_max", "top_n"), [
    (64, 24, 16), (13, 9, 5), (4096, 192, 7), (3, 1, 2), (1, 1, 1), (2, 5, 1),
])
def test_bench(capacity, distance_max, top_n):
    given = {"capacity": capacity, "distance_max": distance_max, "top_n": top_n}
    run_bench(SelectionRepeat(**given), __file__, parameters=given)


GIVEN = {"capacity": 64, "distance_max": 24, "top_n": 16}


def test_properties():
    dut = SelectionRepeat(**GIVEN)
    assert {name: getattr(dut, name) for name in GIVEN} == GIVEN


@pytest.mark.parametrize("value", [0, -1, 1.0, "8", None])
@pytest.mark.parametrize(("name", "text"), [
    ("capacity", "Capacity"), ("distance_max", "Largest distance"), ("top_n", "Top N")])
def test_wrong_parameter(name, text, value):
    with pytest.raises(TypeError, match=rf"^{text} must be a positive integer, not {value!r}$"):
        SelectionRepeat(**{**GIVEN, name: value})
