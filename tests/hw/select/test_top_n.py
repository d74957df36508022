# amaranth: UnusedElaboratable=no
import random
from fractions import Fraction

import cocotb
import pytest

from nearbit_hw.select.top_n import TopN
from nearbit_model.golden import select_one
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


class Load:
    """Queries of random shapes, their distances, and the selections that must come."""

    def __init__(self, bench):
        self.bench = bench
        self.key_bits, self.lanes, self.capacity, self.top_n = (
            bench.parameters[name] for name in ("key_bits", "lanes", "capacity", "top_n"))
        self.lead = bench.parameters.get("lead", 2)
        self.block_words = bench.parameters.get("block", 0) // self.lanes
        self.taken = {"i_command": 0, "i_block": 0}
        self.waiting = []
        self.asked = 0 # of those that wait

    def shape(self, rng):
        count = rng.choice([rng.randint(1, self.capacity), self.capacity, 1])
        first = rng.randint(0, self.capacity - count)
        n = rng.choice([rng.randint(1, self.top_n), self.top_n, 1])
        sink = rng.choice([0, rng.randint(0, self.top_n - n)])
        recent = rng.choice([0, rng.randint(0, self.top_n - n - sink), self.top_n - n - sink])
        if self.block_words and rng.random() < 0.5:
            # A last block of few keys, so that those of the blocks before are selected.
            block = self.block_words * self.lanes
            blocks = rng.randint(1, max(self.capacity // block, 1))
            beyond = rng.choice([-1, 0, 1, rng.randint(0, self.top_n)])
            count = min(self.capacity, block * blocks + beyond) - first % self.lanes
            first = min(first, self.capacity - count)
        # Exactly as many keys as can be selected, one fewer, one more.
        edge = rng.choice([None, None, -1, 0, 1])
        if edge is not None:
            around = rng.choice([n + sink + recent, n + sink + recent, sink, recent])
            count = min(max(1, around + edge), self.capacity - first)
        return {"first": first, "count": count, "n": n, "sink": sink, "recent": recent}

    def distances(self, shape, kind, rng):
        count, top = shape["count"], self.key_bits
        values = [rng.randint(0, top) for _ in range(count)]
        match kind:
            case "ascending":
                values.sort()
            case "descending":
                values.sort(reverse=True)
            case "equal":
                values = [values[0]] * count
            case "near middle":
                spread = max(1, top // 8)
                values = [min(top, max(0, top // 2 + rng.randint(-spread, spread)))
                          for _ in range(count)]
            case "best first":
                values = [0 if index < shape["n"] - 1 else top for index in range(count)]
            case "best last":
                values = [0 if index >= count - shape["n"] + 1 else top for index in range(count)]
            case "nearer first": # Words with ties lie between those that have what is wanted.
                nearer = rng.randint(0, max(0, shape["n"] - 1))
                values = [index >= nearer for index in range(count)]
            case "one a word":
                values = [index % self.lanes != 0 for index in range(count)]
            case "by block":
                step = rng.randint(1, top)
                place = self.block_words * self.lanes or 7
                values = [(shape["first"] + index) // place * step % (top + 1)
                          for index in range(count)]
            case "parted":
                low, high = sorted((rng.randint(0, top), rng.randint(0, top)))
                values = [rng.choice((low, high)) for _ in range(count)]
        return [int(value) for value in values]

    KINDS = ("random", "ascending", "descending", "equal", "near middle", "best first",
             "best last", "nearer first", "one a word", "parted", "by block")

    def send(self, shape, distances, rng, beyond=0):
        skip = shape["first"] % self.lanes
        length = -(-(skip + shape["count"]) // self.lanes)
        length += min(beyond, self.capacity // self.lanes - length)
        lanes = [rng.randint(0, self.key_bits) for _ in range(length * self.lanes)]
        lanes[skip:skip + shape["count"]] = distances
        command = {"word": shape["first"] // self.lanes, "skip": skip,
                   **{name: shape[name] for name in ("count", "n", "sink", "recent")}}
        words = [{"distances": lanes[start:start + self.lanes],
                  "last": int(start + self.lanes == len(lanes))}
                 for start in range(0, len(lanes), self.lanes)]
        size = self.block_words or len(words)
        for start in range(0, len(words), size):
            name, payload = ("i_block", {}) if start else ("i_command", command)
            self.waiting.append((name, payload, words[start:start + size]))

    def expect(self, shape, distances):
        chosen = sorted(select_one(distances, n=shape["n"], sink=shape["sink"],
                                   recent=shape["recent"]).tolist(), reverse=True)
        for index in chosen:
            self.bench.sink("o").expect({
                "index": shape["first"] + index, "distance": distances[index],
                "last": int(index == chosen[-1])})

    def ask(self):
        """Offer what waits: commands as early as can be, but blocks and what follows in turn."""
        while self.asked < len(self.waiting) and (
                not self.block_words or not any(
                    self.bench.source(name).pending for name in self.taken)):
            name, payload, _ = self.waiting[self.asked]
            self.bench.source(name).send(payload)
            self.asked += 1

    async def run(self, before_step=lambda: None):
        """Words enter some cycles after their command or block was taken, at the earliest."""
        while self.waiting or self.bench.sink("o").pending:
            self.ask()
            if self.waiting:
                name, _, words = self.waiting[0]
                accepted = self.bench.source(name).cycles
                if (len(accepted) > self.taken[name]
                        and self.bench.cycle >= accepted[self.taken[name]] + self.lead):
                    self.bench.source("i").send(*words)
                    self.taken[name] += 1
                    self.waiting.pop(0)
                    self.asked -= 1
                    continue
            before_step()
            await self.bench.step()
        await self.bench.finish()


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def selections(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    load = Load(bench)
    for index in range(bench.parameters["queries"]):
        shape = load.shape(bench.rng)
        distances = load.distances(shape, load.KINDS[index % len(load.KINDS)], bench.rng)
        load.send(shape, distances, bench.rng, beyond=bench.rng.choice([0, 0, 1, 3]))
        load.expect(shape, distances)
    await load.run()


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    for cycles in (3, 11, 30, 60):
        await bench.reset()
        load = Load(bench)
        for _ in range(6):
            shape = load.shape(bench.rng)
            load.send(shape, load.distances(shape, "random", bench.rng), bench.rng)
        load.ask()
        bench.source("i").send(*load.waiting[0][2])
        await bench.step(cycles)
        await bench.reset()
        load = Load(bench)
        for kind in ("random", "equal", "parted"):
            shape = load.shape(bench.rng)
            distances = load.distances(shape, kind, bench.rng)
            load.send(shape, distances, bench.rng)
            load.expect(shape, distances)
        await load.run()


@cocotb.test()
async def cycles_do_not_depend_on_distances(dut):
    bench = Bench(dut)
    shapes_seed = bench.rng.getrandbits(32)
    last_keys = {}
    for kind in Load.KINDS:
        await bench.reset()
        load = Load(bench)
        shapes = random.Random(shapes_seed)
        for _ in range(4):
            shape = load.shape(shapes)
            distances = load.distances(shape, kind, bench.rng)
            load.send(shape, distances, shapes)
            load.expect(shape, distances)
        await load.run()
        sink = bench.sink("o")
        last_keys[kind] = (bench.source("i_command").cycles[:], [
            cycle for key, cycle in zip(sink.received, sink.cycles, strict=True)
            if key["last"] or bench.parameters["gapless"]])
    assert len(set(map(str, last_keys.values()))) == 1, str(last_keys)


@cocotb.test()
async def gaps(dut):
    """Keys of a query follow each other without a gap, and not later than they must."""
    bench = Bench(dut)
    for kind in Load.KINDS * 2:
        await bench.reset()
        load = Load(bench)
        for _ in range(4):
            shape = load.shape(bench.rng)
            distances = load.distances(shape, kind, bench.rng)
            load.send(shape, distances, bench.rng)
            load.expect(shape, distances)
        await load.run()
        sink = bench.sink("o")
        for key, cycle, after in zip(sink.received, sink.cycles, sink.cycles[1:], strict=False):
            assert key["last"] or after == cycle + 1


@cocotb.test()
async def long_stalls(dut):
    """Keys wait in the queue, as many as there is room for."""
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    for _ in range(12 + 96 // load.top_n):
        count = bench.rng.choice([1, load.capacity])
        shape = {"first": 0, "count": count, "n": load.top_n, "sink": 0, "recent": 0}
        distances = load.distances(shape, "random", bench.rng)
        load.send(shape, distances, bench.rng)
        load.expect(shape, distances)

    def stalls():
        while True:
            yield from [1] * bench.rng.choice([1, 60])
            yield from [0] * bench.rng.randint(1, 3)

    stall = stalls()
    await load.run(lambda: setattr(bench.sink("o"), "stall", next(stall)))


@cocotb.test()
async def latency(dut):
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    shape = {"first": 0, "count": load.capacity, "n": load.top_n, "sink": 0, "recent": 0}
    distances = load.distances(shape, "random", bench.rng)
    load.send(shape, distances, bench.rng)
    load.expect(shape, distances)
    await load.run()
    if bench.parameters["latency"] is not None:
        assert (bench.sink("o").cycles[-1] - bench.source("i").cycles[-1]
                == bench.parameters["latency"])


@cocotb.test()
async def interval(dut):
    """Queries that wait for nothing but each other."""
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    shape = {"first": 0, "count": load.capacity, "n": load.top_n, "sink": 0, "recent": 0}
    for _ in range(30):
        distances = load.distances(shape, "random", bench.rng)
        load.send(shape, distances, bench.rng)
        load.expect(shape, distances)
    await load.run()
    sink = bench.sink("o")
    ends = [cycle for key, cycle in zip(sink.received, sink.cycles, strict=True) if key["last"]]
    assert Fraction(ends[29] - ends[17], 12) == Fraction(bench.parameters["interval"])


SMALL = [
    (6, 32, 160, 4, 32),
    (6, 32, 160, 6, 32),
    (6, 16, 64, 5, 16),
    (6, 16, 64, 6, 16),
    (8, 2, 30, 5, 2),
    (8, 2, 32, 6, 8),
    (3, 1, 13, 4, 1),
    (1, 1, 1, 1, 1),
]
# Icarus takes many seconds for each.
LARGE = [
    (64, 16, 256, 32, 16),
    (64, 4, 128, 16, 32),
    (33, 8, 96, 96, 16),
    (127, 64, 128, 7, 64),
    (6, 32, 640, 40, 32),
]


@pytest.mark.parametrize("gapless", [False, True])
@pytest.mark.parametrize(("key_bits", "lanes", "capacity", "top_n", "refine_lanes"), [
    *SMALL, *(pytest.param(*shape, marks=pytest.mark.slow) for shape in LARGE)])
def test_bench(key_bits, lanes, capacity, top_n, refine_lanes, gapless):
    dut = TopN(key_bits=key_bits, lanes=lanes, capacity=capacity, top_n=top_n,
               refine_lanes=refine_lanes, gapless=gapless)
    words, reads = capacity // lanes, capacity // refine_lanes
    run_bench(dut, __file__, parameters={
        "key_bits": key_bits, "lanes": lanes, "capacity": capacity, "top_n": top_n, "queries": 27,
        "gapless": gapless,
        "latency": dut.count_latency + reads - 1 + dut.refine_latency
        + dut.emit_cycles(words=words, selected=top_n),
    }, test_filter=r"^(?!.*\binterval$)" if gapless else r"^(?!.*\b(gaps|interval)$)")


@pytest.mark.parametrize(("changes", "message"), [
    ({"key_bits": 0}, r"^Key bits must be a positive integer, not 0$"),
    ({"key_bits": "8"}, r"^Key bits must be a positive integer, not '8'$"),
    ({"lanes": 3}, r"^Lanes must be a power of two, not 3$"),
    ({"lanes": None}, r"^Lanes must be a power of two, not None$"),
    ({"refine_lanes": 2}, r"^Refine lanes must be lanes times a power of two, not 2$"),
    ({"refine_lanes": 12}, r"^Refine lanes must be lanes times a power of two, not 12$"),
    ({"capacity": 63}, r"^Capacity must be a positive multiple of refine lanes, not 63$"),
    ({"capacity": 0}, r"^Capacity must be a positive multiple of refine lanes, not 0$"),
    ({"top_n": 0}, r"^Top N must be from 1 to capacity, not 0$"),
    ({"top_n": 65}, r"^Top N must be from 1 to capacity, not 65$"),
])
def test_wrong_parameter(changes, message):
    given = {"key_bits": 8, "lanes": 4, "capacity": 64, "top_n": 8, "refine_lanes": 4, **changes}
    with pytest.raises(TypeError, match=message):
        TopN(**given)
