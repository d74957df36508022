# amaranth: UnusedElaboratable=no
import cocotb
import numpy as np
import pytest

from nearbit_hw.attend.softmax import Softmax
from nearbit_model.golden import decay, lookup
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


KINDS = ("random", "equal", "ascending", "descending", "extremes")


class Replay:
    """Selections that a bench has sent, and what is expected of them."""

    def __init__(self, bench):
        self.bench = bench
        for name, value in bench.parameters.items():
            setattr(self, name, value)
        self.weight_max = (1 << self.weight_bits) - 1
        self.content = [[self.weight_max] * (self.key_bits + 1) for _ in range(self.exp_tables)]
        self.lengths = []
        self.scales, self.commanded, self.filled = [], 0, 0

    def scale(self, selection):
        """Whether a selection is rescored, and its multiplier; the same whenever it is asked."""
        rng = self.bench.rng
        while len(self.scales) <= selection:
            # Weights that differ little, in a few octaves, and all but the best in none.
            span = rng.choice([0.1, 4, self.weight_bits, 4 * self.weight_bits, 1000])
            multiplier = int(rng.random() * span * 256 * 2 ** 24 / max(1, 2 * self.score_max))
            self.scales.append((rng.getrandbits(1), rng.choice(
                [0, 1, 2 ** 32 - 1, *[min(2 ** 32 - 1, multiplier)] * 5])))
        return self.scales[selection]

    def load(self):
        entries = [(exp_table, distance) for exp_table in range(self.exp_tables)
                   for distance in range(self.key_bits + 1)]
        self.bench.rng.shuffle(entries)
        for exp_table, distance in entries:
            weight = self.bench.rng.randint(0, self.weight_max)
            self.content[exp_table][distance] = weight
            self.bench.source("i_exp_table").send(
                {"exp_table": exp_table, "distance": distance, "weight": weight})

        return self.bench.finish(extra=0)

    def command(self, exp_table, trace):
        rescore, multiplier = self.scale(self.commanded)
        self.commanded += 1
        scale = {"rescore": rescore, "multiplier": multiplier} if self.score_max else {}
        self.bench.source("i_command").send({"exp_table": exp_table, "trace": trace, **scale})

    def distances(self, kind, length):
        return self.numbers(kind, length, 0, self.key_bits)

    def numbers(self, kind, length, least, most):
        rng = self.bench.rng
        if kind == "equal":
            return [rng.randint(least, most)] * length
        if kind == "extremes":
            return [rng.choice([least, most]) for _ in range(length)]
        drawn = [rng.randint(least, most) for _ in range(length)]
        return {"random": drawn, "ascending": sorted(drawn),
                "descending": sorted(drawn, reverse=True)}[kind]

    def keys(self, length, exp_table, trace, kind="random"):
        """Send a selection's keys, and expect them."""
        self.lengths.append(length)
        indices = [self.bench.rng.randrange(self.capacity) for _ in range(length)]
        distances = self.distances(kind, length)
        rescore, multiplier = self.scale(self.filled)
        self.filled += 1
        scores = [-distance for distance in distances]
        if self.score_max and rescore:
            # What a key's distance is makes no difference then.
            distances = [self.bench.rng.randint(0, self.distance_max) for _ in range(length)]
            scores = self.numbers(kind, length, -self.score_max, self.score_max)
            weights = decay(np.array(scores), np.full(length, True), np.array(multiplier),
                            weight_bits=self.weight_bits).tolist()
        else:
            weights = lookup(np.array(distances, np.int32), self.content[exp_table]).tolist()
        for j, (index, distance, score, weight) in enumerate(
                zip(indices, distances, scores, weights, strict=True)):
            key = {"index": index, "distance": distance, "last": int(j == length - 1)}
            if self.score_max:
                key["score"] = score
            self.bench.source("i").send(key)
            if trace:
                self.bench.sink("o_trace").expect({**key, "weight": weight})
        for beat in range(self.beats):
            for j, (index, weight) in enumerate(zip(indices, weights, strict=True)):
                self.bench.sink("o").expect({"index": index, "beat": beat, "weight": weight,
                                             "last": int(j == length - 1)})

    def any_length(self):
        rng = self.bench.rng
        return rng.choice([1, self.top_n, rng.randint(1, self.top_n), rng.randint(1, self.top_n)])

    def selection(self, length=None, kind="random"):
        exp_table, trace = self.bench.rng.randrange(self.exp_tables), self.bench.rng.getrandbits(1)
        self.command(exp_table, trace)
        self.keys(length or self.any_length(), exp_table, trace, kind)

    def predict(self, key_start=0, command_start=0):
        """Cycles of all transfers at full rate, by the formulas of the docstring."""
        keys, commands, outputs = [], [], []
        start = []
        for k, length in enumerate(self.lengths):
            free = start[k - 2] + self.beats * self.lengths[k - 2] + 1 if k >= 2 else 0
            first = max(free, keys[-1] + 1 if keys else key_start)
            keys += range(first, first + length)
            commands.append(max(free, commands[-1] + 1 if commands else command_start))
            start.append(max(keys[-1] + (length == 1), commands[-1] + 1,
                             start[-1] + self.beats * self.lengths[k - 1] if start else 0))
            outputs += range(start[-1] + self.latency,
                             start[-1] + self.latency + self.beats * length)
        return keys, commands, outputs


@cocotb.test()
async def exp_tables_at_power_up(dut):
    """Must be the first test: reset does not bring them back."""
    bench = Bench(dut)
    await bench.reset()
    replay = Replay(bench)
    for exp_table in range(replay.exp_tables):
        replay.command(exp_table, 1)
        replay.keys(replay.top_n, exp_table, 1, "extremes")
    await bench.finish()


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def selections(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    replay = Replay(bench)
    for _ in range(2):
        await replay.load()
        for kind in KINDS:
            replay.selection(kind=kind)
        await bench.finish()


@cocotb.test()
@cocotb.parametrize(stalled=["o", "o_trace"])
async def one_output_is_stalled(dut, stalled):
    """The other one presents its part of the key once, and waits."""
    bench = Bench(dut, stall=0.0)
    await bench.reset()
    replay = Replay(bench)
    await replay.load()
    other = {"o": "o_trace", "o_trace": "o"}[stalled]
    for _ in range(2):
        replay.command(0, 1)
        replay.keys(replay.top_n, 0, 1)
    bench.sink(stalled).stall = 1
    await bench.step(3 * replay.top_n + 10)
    assert not bench.sink(stalled).received
    assert len(bench.sink(other).received) == 1
    bench.sink(stalled).stall = 0.5
    await bench.finish()


@cocotb.test()
@cocotb.parametrize(kind=KINDS)
async def cycles(dut, kind):
    """All cycles follow from the shapes, whatever the distances are."""
    bench = Bench(dut)
    await bench.reset()
    replay = Replay(bench)
    await replay.load()
    start = bench.cycle
    lengths = [1, replay.top_n, replay.top_n, replay.top_n, 1, 1, 1, 1]
    lengths += [bench.rng.randint(1, replay.top_n) for _ in range(6)]
    for length in lengths:
        replay.selection(length, kind)
    await bench.finish()
    keys, commands, outputs = replay.predict(start, start)
    assert bench.source("i").cycles == keys
    assert bench.source("i_command").cycles == commands
    assert bench.sink("o").cycles == outputs


@cocotb.test()
async def keys_before_the_command(dut):
    """Two selections are filled, and wait."""
    bench = Bench(dut)
    await bench.reset()
    replay = Replay(bench)
    await replay.load()
    first = bench.cycle
    replay.keys(replay.top_n, 0, 1)
    replay.keys(1, replay.exp_tables - 1, 0)
    replay.keys(replay.top_n, 0, 1)
    await bench.step(2 * replay.top_n + 10)
    assert len(bench.source("i").cycles) == replay.top_n + 1
    for sink in ("o", "o_trace"):
        assert not bench.sink(sink).received
    start = bench.cycle
    for exp_table, trace in [(0, 1), (replay.exp_tables - 1, 0), (0, 1)]:
        replay.command(exp_table, trace)
    await bench.finish()
    assert bench.sink("o").cycles == replay.predict(first, start)[2]


@cocotb.test()
async def commands_before_the_keys(dut):
    bench = Bench(dut)
    await bench.reset()
    replay = Replay(bench)
    await replay.load()
    first = bench.cycle
    for _ in range(3):
        replay.command(0, 1)
    await bench.step(10)
    assert bench.source("i_command").cycles == [first, first + 1]
    start = bench.cycle
    for length in (replay.top_n, 1, replay.top_n):
        replay.keys(length, 0, 1)
    await bench.finish()
    assert bench.sink("o").cycles == replay.predict(start, first)[2]


@cocotb.test()
async def reset_forgets_all_but_the_exp_tables(dut):
    bench = Bench(dut)
    await bench.reset()
    replay = Replay(bench)
    await replay.load()
    # With the trace stalled, reset comes while one selection is replayed and one is filled; then in
    # each of the cycles in which a replay begins.
    bench.sink("o_trace").stall = 1
    for cycles in (3 * replay.top_n + 10, *range(replay.top_n, replay.top_n + 6)):
        for _ in range(3):
            replay.command(0, 1)
            replay.keys(replay.top_n, 0, 1)
        await bench.step(cycles)
        await bench.reset()
    bench.sink("o_trace").stall = 0
    replay.lengths.clear()
    for _ in range(4):
        replay.selection()
    await bench.finish()
    assert bench.sink("o").cycles == replay.predict()[2]


@pytest.mark.parametrize("parameters", [
    {"capacity": 1, "key_bits": 1, "beats": 1, "top_n": 1, "weight_bits": 1, "exp_tables": 1},
    {"capacity": 9, "key_bits": 7, "beats": 1, "top_n": 5, "weight_bits": 2, "exp_tables": 3},
    {"capacity": 64, "key_bits": 8, "beats": 2, "top_n": 2, "weight_bits": 16, "exp_tables": 2},
    {"capacity": 64, "key_bits": 12, "beats": 3, "top_n": 5, "weight_bits": 24, "exp_tables": 5},
    {"capacity": 256, "key_bits": 64, "beats": 4, "top_n": 16, "weight_bits": 16, "exp_tables": 1},
    {"capacity": 1, "key_bits": 1, "beats": 1, "top_n": 1, "weight_bits": 2, "exp_tables": 1,
     "score_max": 1},
    {"capacity": 64, "key_bits": 8, "beats": 2, "top_n": 6, "weight_bits": 16, "exp_tables": 2,
     "score_max": 1 << 20},
    {"capacity": 64, "key_bits": 12, "beats": 1, "top_n": 5, "weight_bits": 24, "exp_tables": 3,
     "score_max": 1 << 40, "distance_max": 36},
], ids=lambda parameters: "-".join(map(str, parameters.values())))
def test_bench(parameters):
    dut = Softmax(**parameters)
    run_bench(dut, __file__, parameters=parameters | {
        "latency": dut.latency, "score_max": dut.score_max, "distance_max": dut.distance_max})


GOOD = {"capacity": 8, "key_bits": 7, "beats": 2, "top_n": 5, "weight_bits": 16, "exp_tables": 3}


def test_properties():
    dut = Softmax(**GOOD)
    assert {name: getattr(dut, name) for name in GOOD} == GOOD
    assert dut.latency == 3
    assert dut.score_max == 0
    assert dut.distance_max == 7
    assert Softmax(**GOOD, score_max=100).latency == 6


@pytest.mark.parametrize("value", [0, -1, "8", None])
@pytest.mark.parametrize(("name", "text"), [
    ("capacity", "Capacity"), ("key_bits", "Key bits"), ("beats", "Beats"),
    ("top_n", "Top N"), ("weight_bits", "Weight bits"), ("exp_tables", "Exp tables")])
def test_wrong_number(name, text, value):
    with pytest.raises(TypeError, match=rf"^{text} must be a positive integer, not {value!r}$"):
        Softmax(**GOOD | {name: value})


@pytest.mark.parametrize(("changes", "kind", "message"), [
    ({"score_max": -1}, TypeError, r"^Largest score must be an integer of at least 0, not -1$"),
    ({"score_max": "8"}, TypeError, r"^Largest score must be an integer of at least 0, not '8'$"),
    ({"distance_max": None}, TypeError,
     r"^Largest distance must be an integer of at least 0, not None$"),
    ({"score_max": 20, "distance_max": 21}, ValueError,
     r"^Largest score must be at least the largest distance \(21\), not 20$"),
])
def test_wrong_scores(changes, kind, message):
    with pytest.raises(kind, match=message):
        Softmax(**GOOD | changes)
