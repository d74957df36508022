# amaranth: UnusedElaboratable=no
from collections import deque

import cocotb
import numpy as np
import pytest

from nearbit_hw.attend.rescorer import Rescorer
from nearbit_model.golden import score
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


class Load:
    """Selections, queries, and a store of keys that answers requests."""

    def __init__(self, bench, delay=1):
        self.bench, self.rng = bench, bench.rng
        self.capacity, self.distance_max, self.head_dim, self.lanes, self.bits = (
            bench.parameters[name] for name in (
                "capacity", "distance_max", "head_dim", "lanes", "element_bits"))
        self.limit = 1 << self.bits - 1
        self.keys = [self.vector() for _ in range(self.capacity)]
        # Those with the largest scores there are.
        self.keys[0] = [-self.limit] * self.head_dim
        self.keys[-1] = [self.limit - 1] * self.head_dim
        self.delay = delay
        self.asked = deque()
        bench.sink("o_request").on_beat = lambda beat, cycle: self.asked.append((cycle, beat))

    def vector(self):
        return [self.rng.randrange(-self.limit, self.limit) for _ in range(self.head_dim)]

    def send_query(self, query):
        for start in range(0, self.head_dim, self.lanes):
            self.bench.source("i_query").send(query[start:start + self.lanes])

    def select(self, count, kind):
        """Send a selection of a kind: rescored, plain or skipped."""
        query = self.rng.choice([self.vector(), [-self.limit] * self.head_dim])
        if kind != "plain":
            self.send_query(query)
        if kind == "skip":
            self.bench.source("i").send({
                "index": self.rng.randrange(self.capacity), "distance": 0,
                "last": self.rng.getrandbits(1), "rescore": 1, "skip": 1})
            return
        indices = [self.rng.choice([0, self.capacity - 1, self.rng.randrange(self.capacity)])
                   for _ in range(count)]
        scores = score(np.array(query), np.array([self.keys[index] for index in indices]))
        for place, index in enumerate(indices):
            distance = self.rng.randint(0, self.distance_max)
            key = {"index": index, "distance": distance, "last": int(place == count - 1)}
            self.bench.source("i").send({**key, "rescore": int(kind == "rescore"), "skip": 0})
            self.bench.sink("o").expect(
                {**key, "score": int(scores[place]) if kind == "rescore" else -distance})

    def answer(self):
        """Answer what was asked at least `delay` cycles ago."""
        while self.asked and self.asked[0][0] + self.delay <= self.bench.cycle:
            _, beat = self.asked.popleft()
            start = beat["beat"] * self.lanes
            self.bench.source("i_beat").send(self.keys[beat["token"]][start:start + self.lanes])

    async def run(self):
        bench = self.bench
        while (bench.sink("o").pending or bench.source("i").pending
               or bench.source("i_query").pending):
            self.answer()
            await bench.step()
        await bench.finish()


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def selections(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    load = Load(bench, delay=bench.rng.choice([1, 1, 4]))
    for _ in range(40):
        kind = bench.rng.choice(["rescore", "rescore", "plain", "skip"])
        load.select(bench.rng.choice([1, 1, 2, bench.rng.randint(1, 9)]), kind)
    await load.run()


@cocotb.test()
async def queries_wait_for_room(dut):
    """All that are held are sent before any selection, and no more are accepted."""
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    bench.source("i").idle = 1
    for _ in range(3 * bench.parameters["queries"]):
        load.select(2, bench.rng.choice(["rescore", "skip"]))
    await bench.step(3 * bench.parameters["queries"] * bench.parameters["beats"])
    assert (len(bench.source("i_query").cycles)
            == bench.parameters["queries"] * bench.parameters["beats"])
    bench.source("i").idle = 0
    await load.run()


@cocotb.test()
async def keys_wait_for_their_query(dut):
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    bench.source("i_query").idle = 1
    load.select(3, "plain")
    load.select(3, "rescore")
    for _ in range(40):
        load.answer()
        await bench.step()
    assert len(bench.source("i").cycles) == 3
    bench.source("i_query").idle = 0
    await load.run()


@cocotb.test()
async def latency_and_rate(dut):
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    beats, latency = bench.parameters["beats"], bench.parameters["latency"]
    bench.source("i").idle = 1
    for kind in ("rescore", "rescore", "plain"):
        load.select(5, kind)
    await bench.step(3 * beats)
    bench.source("i").idle = 0
    await load.run()
    accepted = bench.source("i").cycles
    first = accepted[0]
    assert accepted == [*(first + beats * key for key in range(10)),
                        *(first + beats * 9 + 1 + key for key in range(5))]
    assert bench.sink("o").cycles == [cycle + 1 + latency for cycle in accepted]


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    for cycles in (1, 2, 5, 11, 24):
        await bench.reset()
        load = Load(bench)
        for _ in range(4):
            load.select(3, bench.rng.choice(["rescore", "plain", "skip"]))
        for _ in range(cycles):
            load.answer()
            await bench.step()
        await bench.reset()
        load = Load(bench)
        for kind in ("rescore", "skip", "plain", "rescore"):
            load.select(3, kind)
        await load.run()


@pytest.mark.parametrize(
    ("capacity", "distance_max", "head_dim", "lanes", "element_bits", "queries"), [
        (16, 64, 64, 32, 8, 8),
        (24, 9, 12, 4, 12, 4),
        (7, 200, 5, 5, 16, 2),
        (9, 3, 6, 1, 3, 2),
        (2, 1, 1, 1, 1, 2),
    ])
def test_bench(capacity, distance_max, head_dim, lanes, element_bits, queries):
    given = {"capacity": capacity, "distance_max": distance_max, "head_dim": head_dim,
             "lanes": lanes, "element_bits": element_bits, "queries": queries}
    dut = Rescorer(**given)
    run_bench(dut, __file__, parameters={**given, "beats": dut.beats, "latency": dut.latency})


@pytest.mark.parametrize(("changes", "message"), [
    ({"capacity": 0}, r"^Capacity must be a positive integer, not 0$"),
    ({"distance_max": 0}, r"^Largest distance must be a positive integer, not 0$"),
    ({"lanes": None}, r"^Lanes must be a positive integer, not None$"),
    ({"element_bits": "8"}, r"^Element bits must be a positive integer, not '8'$"),
    ({"depth": 0}, r"^Depth must be a positive integer, not 0$"),
    ({"head_dim": 6}, r"^Head dimension must be a positive multiple of lanes, not 6$"),
    ({"queries": 3}, r"^Queries must be a power of two greater than 1, not 3$"),
    ({"queries": 1}, r"^Queries must be a power of two greater than 1, not 1$"),
])
def test_wrong_parameter(changes, message):
    given = {"capacity": 8, "distance_max": 8, "head_dim": 8, "lanes": 4, "element_bits": 8,
             "queries": 4, **changes}
    with pytest.raises(TypeError, match=message):
        Rescorer(**given)
