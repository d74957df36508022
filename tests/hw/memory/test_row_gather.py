# amaranth: UnusedElaboratable=no
import cocotb
import pytest

from nearbit_hw.memory import CacheMap, RowGather
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


MAP = CacheMap(heads=3, sequences=5, capacity=64, page_tokens=16, pages=7)


class Selections:
    """Selections, and what is to come of them."""

    def __init__(self, bench):
        self.bench, self.rng = bench, bench.rng
        self.rescore, self.shared, self.readers = (
            bench.parameters[name] for name in ("rescore", "shared", "readers"))

    def send(self, kind):
        if kind == "shared" and self.shared:
            keys, place = self.keys(), self.place()
            count = self.rng.randint(1, 3)
            for number in range(count):
                self.select(keys, place, rescore=1, repeats=int(number > 0),
                            keeps=int(number < count - 1))
        elif kind == "skip" and self.rescore:
            key = {**self.key(), "last": self.rng.randrange(2), "rescore": 1, "skip": 1}
            self.bench.source("i").send({
                **key, **self.place(), **({"repeats": 0, "keeps": 0} if self.shared else {})})
            self.bench.sink("o").expect(key)
        else:
            self.select(self.keys(), self.place(), rescore=self.rng.randrange(2))

    def place(self):
        return {"head": self.rng.randrange(3), "sequence": self.rng.randrange(5)}

    def key(self):
        return {"index": self.rng.randrange(64), "distance": self.rng.randrange(9)}

    def keys(self):
        return [self.key() for _ in range(self.rng.choice([1, 1, 2, 7]))]

    def select(self, keys, place, *, rescore, repeats=0, keeps=0):
        bench = self.bench
        if not repeats:
            bench.sink("o_selection").expect(place)
        for reader in range(self.readers):
            bench.sink(f"o_use__{reader}").expect(
                {"keeps": keeps, "skips": int(self.rescore and not rescore)})
        for number, key in enumerate(keys):
            last = int(number == len(keys) - 1)
            key = {**key, "last": last, **({"rescore": rescore, "skip": 0} if self.rescore else {})}
            bench.source("i").send({
                **key, **place,
                **({"repeats": repeats, "keeps": keeps} if self.shared else {})})
            if not repeats:
                bench.sink("o_token").expect({"token": key["index"], "last": last})
            bench.sink("o").expect(key)


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def selections(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    sent = Selections(bench)
    for _ in range(50):
        sent.send(bench.rng.choice(["plain", "plain", "shared", "skip"]))
    await bench.finish()


@cocotb.test()
async def a_key_waits_for_all(dut):
    """The fetcher, every reader and the output hold it up, each alone."""
    bench = Bench(dut)
    await bench.reset()
    names = ["o_selection", "o_token", "o", *(
        f"o_use__{reader}" for reader in range(bench.parameters["readers"]))]
    for name in names:
        bench.sink(name).stall = 1
        Selections(bench).select([{"index": 5, "distance": 1}], {"head": 1, "sequence": 2},
                                 rescore=0)
        await bench.step(8)
        assert bench.source("i").pending == 1
        bench.sink(name).stall = 0
        await bench.finish()


@cocotb.test()
async def rate(dut):
    """A cycle for a selection, and one for each of its keys."""
    bench = Bench(dut)
    await bench.reset()
    sent = Selections(bench)
    start = bench.cycle
    for _ in range(4):
        sent.select([sent.key() for _ in range(5)], sent.place(), rescore=0)
    await bench.finish()
    assert bench.sink("o").cycles == [start + 6 * selection + 1 + key
                                      for selection in range(4) for key in range(5)]


@cocotb.test()
async def reset_begins_with_a_selection(dut):
    bench = Bench(dut)
    await bench.reset()
    bench.sink("o").stall = 1
    Selections(bench).select([{"index": 5, "distance": 1}] * 3, {"head": 1, "sequence": 2},
                             rescore=0)
    await bench.step(5)
    await bench.reset()
    bench.sink("o").stall = 0
    Selections(bench).select([{"index": 6, "distance": 2}] * 2, {"head": 2, "sequence": 4},
                             rescore=0)
    await bench.finish()


@pytest.mark.parametrize("parameters", [
    {"rescore": False, "shared": False, "readers": 1},
    {"rescore": True, "shared": False, "readers": 2},
    {"rescore": True, "shared": True, "readers": 2},
], ids=["plain", "rescore", "shared"])
def test_bench(parameters):
    run_bench(RowGather(MAP, distance_max=8, **parameters), __file__, parameters=parameters)


def test_properties():
    dut = RowGather(MAP, distance_max=8, rescore=True, readers=2)
    assert (dut.map, dut.distance_max, dut.rescore, dut.shared, dut.readers) == (
        MAP, 8, True, False, 2)


@pytest.mark.parametrize(("given", "message"), [
    ({"distance_max": 0}, "Distance max must be a positive integer, not 0"),
    ({"distance_max": 8, "readers": 0}, "Readers must be a positive integer, not 0"),
])
def test_wrong_parameters(given, message):
    with pytest.raises(TypeError, match=f"^{message}$"):
        RowGather(MAP, **given)
