# amaranth: UnusedElaboratable=no
import cocotb
import pytest

from nearbit_hw.select.distance_sum import COMMANDS, DistanceSum
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import Bench


class Load:
    """Commands, and their words as ScoreArray presents them: a query one cycle after the one above.

    Queries above the last one say that their words are valid in some commands, and in others not.
    """

    def __init__(self, bench):
        self.bench, self.rng = bench, bench.rng
        self.key_bits, self.queries, self.lanes = (
            bench.parameters[name] for name in ("key_bits", "queries", "lanes"))
        self.due = {} # cycle -> what enters then
        self.last_words = []

    def distances(self):
        least = self.rng.choice([0, 0, self.key_bits])
        return [self.rng.randint(least, self.key_bits) for _ in range(self.lanes)]

    def words(self, start, shared, gaps, *, valid=True, expect=True):
        """Words of a command, the first at a cycle for the last query; the last query's words.

        `gaps` are the idle cycles before each word.
        """
        cycle = start - 1
        for place, gap in enumerate(gaps):
            cycle += 1 + gap
            last = int(place == len(gaps) - 1)
            each = [self.distances() for _ in range(self.queries)]
            for query, distances in enumerate(each):
                self.due.setdefault(cycle - (self.queries - 1) + query, []).append(
                    (query, {"distances": distances, "last": last},
                     valid or query == self.queries - 1))
            self.last_words.append(cycle)
            if expect:
                total = [sum(lane) for lane in zip(*each, strict=True)] if shared else each[-1]
                self.bench.sink("o").expect({"distances": total, "last": last})
        return cycle

    async def step(self):
        bench = self.bench
        entering = {query: (word, valid) for query, word, valid in self.due.pop(bench.cycle, [])}
        for query in range(self.queries):
            word, valid = entering.get(query, (None, False))
            source = bench.source(f"i__{query}")
            if word is not None:
                source.send(word)
            if query < self.queries - 1:
                # A source offers what it sends, or noise; here its `valid` is driven apart from it.
                source._valid = None
                getattr(bench.dut, f"i__{query}__valid").value = int(valid)
        await bench.step()

    async def run(self):
        while self.due:
            await self.step()
        await self.bench.finish()
        assert self.bench.sink("o").cycles == self.last_words


@cocotb.test()
async def commands(dut):
    """Of all lengths and mixed, each accepted at the latest in the cycle before its words."""
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    cycle, ends, accept = load.queries, [], {}
    for index in range(150):
        shared = bench.rng.getrandbits(1)
        accepted = cycle - 1 - bench.rng.choice([0, 0, 1, 7])
        # Neither before another one, nor before there is room.
        accepted = max(accepted, max(accept, default=-1) + 1,
                       ends[index - COMMANDS] + 1 if index >= COMMANDS else 0)
        cycle = max(cycle, accepted + 1)
        accept[accepted] = {"shared": shared}
        gaps = [bench.rng.choice([0, 0, 0, 1, 3])
                for _ in range(bench.rng.choice([1, 1, 2, bench.rng.randint(1, 9)]))]
        end = load.words(cycle, shared, gaps, valid=bench.rng.choice([True, not shared]))
        ends.append(end)
        cycle = end + 1
    sent = list(accept)
    while load.due:
        if bench.cycle in accept:
            bench.source("i_command").send(accept.pop(bench.cycle))
        await load.step()
    await bench.finish()
    assert bench.sink("o").cycles == load.last_words
    assert bench.source("i_command").cycles == sent


@cocotb.test()
async def as_many_commands_as_there_is_room_for(dut):
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    kinds = [bench.rng.getrandbits(1) for _ in range(COMMANDS + 1)]
    for shared in kinds:
        bench.source("i_command").send({"shared": shared})
    await bench.step(20)
    assert bench.source("i_command").cycles == list(range(COMMANDS))
    first = cycle = bench.cycle + load.queries
    for index, shared in enumerate(kinds):
        cycle = load.words(cycle, shared, [0] * (2 + index)) + 1
    await load.run()
    # A place is free in the cycle after the last word of a command.
    assert bench.source("i_command").cycles[-1] == first + 2


@cocotb.test()
async def extremes(dut):
    """The largest sums, with nothing in between."""
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    for most in (True, False):
        load.distances = lambda most=most: [load.key_bits * most] * load.lanes
        bench.source("i_command").send({"shared": 1}, {"shared": 0}, {"shared": 1})
        cycle = bench.cycle + load.queries + 3
        for shared in (1, 0, 1):
            cycle = load.words(cycle, shared, [0, 0]) + 1
        await load.run()


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    for cycles in range(1, 14):
        await bench.reset()
        load = Load(bench)
        cycle = load.queries
        bench.source("i_command").send({"shared": 1}, {"shared": 1}, {"shared": 1})
        for _ in range(2):
            cycle = load.words(cycle, 1, [0, 0, 0], expect=False) + 1
        for _ in range(cycles):
            await load.step()
        await bench.reset()
        load = Load(bench)
        cycle = load.queries
        for shared in (0, 1, 0, 1):
            bench.source("i_command").send({"shared": shared})
            cycle = load.words(max(cycle, 4), shared, [0, 1]) + 1
        await load.run()


@pytest.mark.parametrize(("key_bits", "queries", "lanes"), [
    (64, 3, 4), (8, 2, 1), (33, 5, 7), (1, 4, 3), (1, 1, 1), (7, 1, 2), (13, 9, 1),
])
def test_bench(key_bits, queries, lanes):
    given = {"key_bits": key_bits, "queries": queries, "lanes": lanes}
    run_bench(DistanceSum(**given), __file__, parameters=given)


GIVEN = {"key_bits": 8, "queries": 3, "lanes": 4}


def test_properties():
    dut = DistanceSum(**GIVEN)
    assert {name: getattr(dut, name) for name in GIVEN} == GIVEN


@pytest.mark.parametrize("value", [0, -1, 1.0, "8", None])
@pytest.mark.parametrize(("name", "text"), [
    ("key_bits", "Key bits"), ("queries", "Queries"), ("lanes", "Lanes")])
def test_wrong_parameter(name, text, value):
    with pytest.raises(TypeError, match=rf"^{text} must be a positive integer, not {value!r}$"):
        DistanceSum(**{**GIVEN, name: value})
