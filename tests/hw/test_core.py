# amaranth: UnusedElaboratable=no
import random

import cocotb
import numpy as np
import pytest

from nearbit_hw.core import Core
from nearbit_hw.layouts import Error
from nearbit_hw.verilog import generate
from nearbit_model.config import Config, Rescore
from nearbit_model.golden import Result, attend, attend_one
from nearbit_model.quantize import RescoreOperands, Values, codes_from_ints
from nearbit_sim.bench import run_bench
from nearbit_sim.netlist import plain
from nearbit_sim.stream import MATRIX, Bench


class Driver:
    """A core, a copy of what it holds, and what it must answer."""

    def __init__(self, bench):
        self.bench = bench
        self.config = Config.from_dict(bench.parameters["config"])
        self.unit = self.config.rescore
        self.codes, self.elements, self.scales, self.rescore_keys = [], [], [], []
        self.exp_tables = {}

    def key(self, rng):
        config = self.config
        code = rng.getrandbits(config.key_bits)
        if self.codes and rng.random() < 0.3:
            code = rng.choice(self.codes) # ties
        extreme = rng.choice([None, None, None, "low", "high"])
        low, high = -(1 << config.value_bits - 1), (1 << config.value_bits - 1) - 1
        elements = [{"low": low, "high": high}.get(extreme, rng.randint(low, high))
                    for _ in range(config.value_dim)]
        return code, elements, rng.choice([rng.randrange(1 << 16), 0xffff, 0]), self.vector(rng)

    def vector(self, rng):
        """A query or a key for rescoring, if there is a unit for them."""
        if self.unit is None:
            return []
        limit = 1 << self.unit.element_bits - 1
        extreme = rng.choice([None, None, None, -limit, limit - 1])
        return [rng.randrange(-limit, limit) if extreme is None else extreme
                for _ in range(self.unit.head_dim)]

    def beats(self, vector):
        return [vector[start:start + self.unit.lanes]
                for start in range(0, len(vector), self.unit.lanes)] if vector else []

    def load(self, token, key):
        """Write a key and its value at a token, which may be the next one."""
        config = self.config
        code, elements, scale, rescore_key = key
        self.bench.source("i_key").send({"token": token, "code": code})
        for beat in range(config.beats):
            start = beat * config.value_lanes
            self.bench.source("i_value").send({
                "token": token, "beat": beat, "scale": scale,
                "elements": elements[start:start + config.value_lanes]})
        for place, beat in enumerate(self.beats(rescore_key)):
            self.bench.source("i_rescore_key").send({"token": token, "beat": place,
                                                     "elements": beat})
        stores = (self.codes, self.elements, self.scales, self.rescore_keys)
        for store, part in zip(stores, key, strict=True):
            store[token:token + 1] = [part]

    def append(self, count, rng):
        for _ in range(min(count, self.config.capacity - len(self.codes))):
            self.load(len(self.codes), self.key(rng))

    def load_exp_table(self, exp_table, rng):
        config = self.config
        top = (1 << config.weight_bits) - 1
        weights = sorted((rng.randint(0, top) for _ in range(config.key_bits)), reverse=True)
        if rng.random() < 0.3: # as steep as can be
            weights = [weight * (rng.random() < 0.2) for weight in weights]
        weights.insert(0, rng.choice([top, rng.randint(1, top), 1]))
        for distance, weight in enumerate(weights):
            self.bench.source("i_exp_table").send(
                {"exp_table": exp_table, "distance": distance, "weight": weight})
        self.exp_tables[exp_table] = weights

    def share(self, command, vectors):
        """Answers of the golden model to queries that share a selection."""
        config, asked = self.config, command["queries"]
        ones = [[1] * (config.key_bits + 1)] * len(asked)
        result = attend(
            np.array([codes_from_ints([each["code"]],
                                      config.key_bits) for each in command["queries"]]),
            codes_from_ints(self.codes, config.key_bits)[None],
            Values(np.array([self.elements]), np.array([self.scales])), ones, config=config,
            counts=asked[0]["count"], first=command["first"], n=command["n"],
            sink=command["sink"], recent=command["recent"], shared=True,
            rescore=RescoreOperands(np.array(vectors)[:, None], np.array([self.rescore_keys]),
                        np.array([[each["multiplier"]] for each in asked])))
        return [Result(result.output_int[query, 0], result.selected[query, 0],
                       result.distances[query, 0], result.weights[query, 0],
                       result.scores[query, 0])
                for query in range(len(asked))]

    async def settle(self):
        """Wait until all loads are taken: a command sees what came before it."""
        await self.bench.until(lambda: not any(
            self.bench.source(name).pending for name in self.loads))

    @property
    def loads(self):
        return ("i_key", "i_value", "i_exp_table", *(["i_rescore_key"] if self.unit else []))

    def command(self, rng, *, faulty=False, full=False):
        config, loaded = self.config, len(self.codes)
        first = 0 if full else rng.choice([0, rng.randrange(loaded)])
        n = config.top_n if full else rng.choice([1, rng.randint(1, config.top_n), config.top_n])
        sink = rng.choice([0, rng.randint(0, config.top_n - n)])
        recent = rng.choice([0, rng.randint(0, config.top_n - n - sink)])
        queries = [{
            "code": rng.choice([rng.getrandbits(config.key_bits), rng.choice(self.codes)]),
            "count": loaded if full else rng.choice(
                [rng.randint(1, loaded - first), loaded - first,
                 min(loaded - first, max(1, n + sink + recent + rng.randint(-1, 1)))]),
            "exp_table": rng.choice(list(self.exp_tables)),
        } for _ in range(config.queries)]
        if faulty:
            match rng.choice(["n", "many", "empty", "range", "exp_table", "rescore"]):
                case "n":
                    n = 0
                case "rescore":
                    self.ask({"first": first, "n": n, "sink": sink, "recent": recent,
                              "trace": rng.randrange(2), "rescore": 1, "queries": queries})
                    return
                case "many":
                    n = min(config.capacity, config.top_n + rng.randint(1, 9) - sink - recent)
                case "empty":
                    rng.choice(queries)["count"] = 0
                case "range":
                    query = rng.choice(queries)
                    query["count"] = min(config.capacity, loaded - first + rng.randint(1, 3))
                case "exp_table":
                    rng.choice(queries)["exp_table"] = rng.randrange(config.exp_tables)
        self.ask({"first": first, "n": n, "sink": sink, "recent": recent,
                  "trace": rng.randrange(2), "queries": queries,
                  **self.sharing(rng, queries, faulty)})

    def sharing(self, rng, queries, faulty):
        """Have all queries share a selection, or not."""
        if not self.shares or rng.random() < 0.5:
            return {"shared": rng.randrange(2) if faulty and rng.random() < 0.2 else 0}
        if not faulty:
            for query in queries:
                query["count"] = queries[0]["count"]
        return {"shared": 1, "rescore": int(not faulty or rng.random() < 0.8)}

    @property
    def shares(self):
        return self.unit is not None and self.unit.shared

    def error(self, command, query):
        if command["n"] == 0:
            return Error.NO_N
        if command["n"] + command["sink"] + command["recent"] > self.config.top_n:
            return Error.TOO_MANY
        if query["count"] == 0:
            return Error.EMPTY
        if command["first"] + query["count"] > len(self.codes):
            return Error.RANGE
        if not command["rescore"] and query["exp_table"] not in self.exp_tables:
            return Error.EXP_TABLE
        if ((command["rescore"] and self.unit is None)
                or (command["shared"] and not self.shares)):
            return Error.RESCORE
        if command["shared"] and (not command["rescore"]
                                  or len({other["count"] for other in command["queries"]}) > 1):
            return Error.SHARED
        return Error.OK

    def ask(self, command):
        """Send a command, and expect its answer; it is rescored or not, unless it says so."""
        rng = self.bench.rng
        command = {"rescore": rng.randrange(2) if self.unit else 0, "shared": 0, **command}
        if self.unit:
            span = 2 ** 24 * 256 * 20 // (2 * self.unit.score_max)
            command["queries"] = [
                {**query, "multiplier": rng.choice([0, rng.randrange(1 << 32),
                                                  *[rng.randrange(min(1 << 32, span + 2))] * 4])}
                for query in command["queries"]]
        self.bench.source("i_command").send(command)
        vectors = [self.vector(rng) for _ in command["queries"]]
        rescored = self.unit and command["rescore"]
        if rescored:
            for vector in vectors:
                self.bench.source("i_rescore_query").send(*self.beats(vector))
        shared = None
        if command["shared"] and self.error(command, command["queries"][0]) == Error.OK:
            shared = self.share(command, vectors)
        for index, query in enumerate(command["queries"]):
            error = self.error(command, query)
            if error != Error.OK:
                self.bench.sink("o_result").expect(
                    {"query": index, "error": error.value, "output": 0, "last": 1})
                continue
            exp_table = self.exp_tables.get(query["exp_table"], [1] * (self.config.key_bits + 1))
            rescore = RescoreOperands(np.array([[vectors[index]]]), np.array([self.rescore_keys]),
                          np.array([[query["multiplier"]]])) if rescored else None
            golden = shared[index] if shared else attend_one(
                query["code"], self.codes, self.elements, self.scales, exp_table,
                config=self.config, count=query["count"], first=command["first"], n=command["n"],
                sink=command["sink"], recent=command["recent"], rescore=rescore)
            outputs = golden.output_int.tolist()
            for element, output in enumerate(outputs):
                self.bench.sink("o_result").expect({
                    "query": index, "error": 0, "output": output,
                    "last": int(element == len(outputs) - 1)})
            if command["trace"]:
                order = np.argsort(-golden.selected)
                scores = -golden.distances if golden.scores is None else golden.scores
                for place in order.tolist():
                    self.bench.sink("o_trace").expect({
                        "query": index, "index": int(golden.selected[place]),
                        "distance": int(golden.distances[place]),
                        **({"score": int(scores[place])} if self.unit else {}),
                        "weight": int(golden.weights[place]),
                        "last": int(place == order[-1])})


async def fresh(dut, **options):
    bench = Bench(dut, limit=400_000, **options)
    await bench.reset()
    driver = Driver(bench)
    # Traces that nobody takes must not hold the results of commands without a trace for ever.
    return bench, driver


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def random_mix(dut, idle, stall):
    """Appends, overwrites, exp table loads, good and faulty commands, in any order."""
    bench, driver = await fresh(dut, idle=idle, stall=stall)
    rng = bench.rng
    driver.append(rng.randint(1, 9), rng)
    driver.load_exp_table(0, rng)
    await driver.settle()
    for _ in range(bench.parameters["steps"]):
        match rng.choices(["append", "overwrite", "exp_table", "commands"], [3, 1, 1, 6])[0]:
            case "append":
                driver.append(rng.choice([1, 1, rng.randint(1, 3 * driver.config.lanes)]), rng)
            case "overwrite":
                driver.load(rng.randrange(len(driver.codes)), driver.key(rng))
            case "exp_table":
                driver.load_exp_table(rng.randrange(driver.config.exp_tables), rng)
            case "commands":
                for _ in range(rng.randint(1, 6)):
                    driver.command(rng, faulty=rng.random() < 0.2)
                # The next loads are offered while these commands are in work.
                await bench.until(lambda: not bench.source("i_command").pending)
        await driver.settle()
    await bench.finish()


@cocotb.test()
async def decode_loop(dut):
    """Append, ask, append, ask, without waiting for answers."""
    bench, driver = await fresh(dut)
    driver.load_exp_table(0, bench.rng)
    for _ in range(min(20, driver.config.capacity)):
        driver.append(1, bench.rng)
        await driver.settle()
        driver.command(bench.rng, full=True)
        await bench.until(lambda: not bench.source("i_command").pending)
    await bench.finish()


@cocotb.test()
async def several_heads(dut):
    """Ranges of several heads side by side, each with its own exp table."""
    bench, driver = await fresh(dut)
    config, rng = driver.config, bench.rng
    driver.append(config.capacity, rng)
    for exp_table in range(config.exp_tables):
        driver.load_exp_table(exp_table, rng)
    await driver.settle()
    heads = min(3, config.capacity)
    length = config.capacity // heads
    for index in range(3 * heads):
        head = index % heads
        driver.ask({"first": head * length, "n": config.top_n, "sink": 0, "recent": 0,
                    "trace": 1, "queries": [{
                        "code": rng.getrandbits(config.key_bits), "count": length,
                        "exp_table": head % config.exp_tables} for _ in range(config.queries)]})
    await bench.finish()


@cocotb.test()
async def every_error(dut):
    bench, driver = await fresh(dut)
    config, rng = driver.config, bench.rng
    driver.append(max(1, config.capacity - 1), rng)
    driver.load_exp_table(0, rng)
    await driver.settle()
    loaded = len(driver.codes)

    def ask(*, count=loaded, exp_table=0, first=0, n=1, sink=0, recent=0, rescore=0,
            shared=0):
        driver.ask({"first": first, "n": n, "sink": sink, "recent": recent, "trace": 1,
                    "rescore": rescore, "shared": shared,
                    "queries": [{"code": 0, "count": count,
                                 "exp_table": exp_table}] * config.queries})

    good = {}
    faults = [{"n": 0}, {"count": 0}, {"n": 0, "count": 0}]
    faults += [{"n": config.top_n + 1}] if config.top_n < config.capacity else []
    faults += [{"sink": config.top_n}, {"recent": config.top_n}]
    faults += [{"n": config.capacity, "sink": config.capacity, "recent": config.capacity}]
    faults += [{"count": loaded + 1}, {"first": loaded, "count": 1}] \
        if loaded < config.capacity else []
    faults += [{"first": config.capacity - 1, "count": config.capacity}] \
        if config.capacity > 1 else []
    faults += [{"exp_table": config.exp_tables - 1}] if config.exp_tables > 1 else []
    # An error without a unit; with it, the query is taken in either case, and no exp table is
    # needed.
    faults += [{**fault, "rescore": 1} for fault in [good, *faults]]
    faults += [{"shared": 1}, {"shared": 1, "rescore": 1}, {"shared": 1, "rescore": 1, "count": 0}]
    for fault in faults:
        ask(**fault)
        ask(**good)
    # An exp table whose first weight is 0 counts as not loaded.
    await bench.finish()
    for weight in (0, 1):
        bench.source("i_exp_table").send({"exp_table": 0, "distance": 0, "weight": weight})
        if weight:
            driver.exp_tables[0][0] = weight
        else:
            removed = driver.exp_tables.pop(0)
        await driver.settle()
        ask(**good)
        ask(**good, rescore=1)
        if not weight:
            driver.exp_tables[0] = removed
        await bench.finish()


@cocotb.test()
async def loads_beside_commands(dut):
    """New tokens are taken at once, everything else when all commands are answered.

    New values are something else, too, if their memory has a single port.
    """
    bench, driver = await fresh(dut)
    config, rng = driver.config, bench.rng
    driver.append(max(1, config.capacity - 2), rng)
    driver.load_exp_table(0, rng)
    await driver.settle()
    for _ in range(3):
        bench.sink("o_result").stall = 1
        driver.command(rng, full=True)
        await bench.until(lambda: not bench.source("i_command").pending)
        room = config.capacity - len(driver.codes)
        driver.append(1, rng)
        await bench.step(max(config.beats, driver.unit.beats if driver.unit else 0))
        assert not bench.source("i_key").pending
        waiting = config.beats if config.value_ports == 1 and room > 0 else 0
        assert bench.source("i_value").pending == waiting
        assert driver.unit is None or not bench.source("i_rescore_key").pending
        taken = len(bench.source("i_exp_table").cycles)
        driver.load(0, driver.key(rng))
        driver.load_exp_table(0, rng)
        await bench.step(80)
        assert bench.source("i_key").pending == 1
        assert bench.source("i_value").pending == waiting + config.beats
        assert bench.source("i_exp_table").pending == config.key_bits + 1
        bench.sink("o_result").stall = 0
        await bench.finish()
        answered = bench.sink("o_result").cycles[-1]
        assert bench.source("i_key").cycles[-1] == answered + 1
        assert bench.source("i_value").cycles[-waiting - config.beats] == answered + 1
        assert bench.source("i_exp_table").cycles[taken] == answered + 1
        if driver.unit:
            assert (bench.source("i_rescore_key").cycles[-driver.unit.beats] == answered + 1)


@cocotb.test()
async def commands_go_before_loads_offered_with_them(dut):
    """One that was checked when an exp table was there must not meet it without."""
    bench, driver = await fresh(dut)
    driver.append(1, bench.rng)
    driver.load_exp_table(0, bench.rng)
    await driver.settle()
    for delay in (0, 1):
        driver.command(bench.rng, full=True)
        await bench.step(delay)
        bench.source("i_exp_table").send({"exp_table": 0, "distance": 0, "weight": 0})
        bench.source("i_exp_table").send({"exp_table": 0, "distance": 0,
                                          "weight": driver.exp_tables[0][0]})
        await bench.finish()
        assert bench.source("i_exp_table").cycles[-2] > bench.sink("o_result").cycles[-1]


@cocotb.test()
async def tokens_count_when_they_are_whole(dut):
    bench, driver = await fresh(dut)
    config, rng = driver.config, bench.rng
    driver.load_exp_table(0, rng)
    await driver.settle()
    count = min(2, config.capacity)
    keys = [driver.key(rng) for _ in range(count)]

    async def ask(loaded, rescore=0):
        driver.codes, driver.elements, driver.scales, driver.rescore_keys = (
            [key[part] for key in keys[:loaded]] for part in range(4))
        for tokens in range(1, count + 1):
            driver.ask({"first": 0, "n": 1, "sink": 0, "recent": 0, "trace": 1,
                        "rescore": rescore,
                        "queries": [{"code": 0, "count": tokens, "exp_table": 0}] * config.queries})
        await bench.finish()

    await ask(0)
    # The highest token counts, and so do those below it, from then on.
    for token in reversed(range(count)):
        bench.source("i_key").send({"token": token, "code": keys[token][0]})
    await ask(0)
    for token in range(count):
        for beat in range(config.beats):
            start = beat * config.value_lanes
            bench.source("i_value").send({
                "token": token, "beat": beat, "scale": keys[token][2],
                "elements": keys[token][1][start:start + config.value_lanes]})
            await driver.settle()
            await ask(token + (beat == config.beats - 1))
    if driver.unit is None:
        return
    # Rescored commands see rescore keys as well, the others do not.
    await ask(0, rescore=1)
    await ask(count)
    for token in range(count):
        for place, beat in enumerate(driver.beats(keys[token][3])):
            bench.source("i_rescore_key").send({"token": token, "beat": place, "elements": beat})
            await driver.settle()
            await ask(token + (place == driver.unit.beats - 1), rescore=1)


@cocotb.test()
async def reset_in_the_middle(dut):
    bench, driver = await fresh(dut)
    for cycles in (1, 5, 17, 40, 90, 160):
        driver.append(driver.config.capacity, bench.rng)
        driver.load_exp_table(0, bench.rng)
        await driver.settle()
        for _ in range(4):
            driver.command(bench.rng, full=True)
        await bench.step(cycles)
        await bench.reset()
        driver = Driver(bench)
        # Nothing is loaded after a reset.
        query = {"code": 0, "count": 1, "exp_table": 0,
                 **({"multiplier": 0} if driver.unit else {})}
        bench.source("i_command").send({"first": 0, "n": 1, "sink": 0, "recent": 0, "trace": 1,
                                      "rescore": 0, "shared": 0,
                                      "queries": [query] * driver.config.queries})
        bench.sink("o_result").expect(*(
            {"query": query, "error": Error.RANGE.value, "output": 0, "last": 1}
            for query in range(driver.config.queries)))
        await bench.finish()
        driver.append(min(9, driver.config.capacity), bench.rng)
        driver.load_exp_table(0, bench.rng)
        await driver.settle()
        for _ in range(3):
            driver.command(bench.rng)
        await bench.finish()


@cocotb.test()
async def cycles_do_not_depend_on_data(dut):
    bench, driver = await fresh(dut)
    shapes = bench.rng.getrandbits(32)
    seen = set()
    for kind in ("random", "all equal", "ascending", "descending"):
        await bench.reset()
        driver = Driver(bench)
        config = driver.config
        for token in range(config.capacity):
            ones = {"random": bench.rng.randint(0, config.key_bits), "all equal": 0,
                    "ascending": token * config.key_bits // config.capacity,
                    "descending": config.key_bits - token * config.key_bits // config.capacity}
            driver.load(token, ((1 << ones[kind]) - 1, *driver.key(bench.rng)[1:]))
        driver.load_exp_table(0, bench.rng)
        await driver.settle()
        await bench.step(bench.cycle % 2)
        start = bench.cycle
        rng = random.Random(shapes)
        for _ in range(5):
            count = rng.randint(1, config.capacity)
            n = rng.randint(1, config.top_n)
            driver.ask({"first": config.capacity - count, "n": n, "sink": 0,
                        "recent": rng.randint(0, config.top_n - n), "trace": 1,
                        "rescore": rng.randrange(2) if driver.unit else 0,
                        "queries": [{"code": 0, "count": rng.randint(1, count), "exp_table": 0}
                                 for _ in range(config.queries)]})
        await bench.finish()
        seen.add(tuple(cycle - start for name in ("o_result", "o_trace")
                       for cycle in bench.sink(name).cycles))
    assert len(seen) == 1


@pytest.mark.parametrize(("config", "steps"), [
    (Config.preset("tiny").replace(selection="counters"), 40),
    (Config(key_bits=16, value_dim=6, capacity=40, queries=1, lanes=2, value_lanes=3, top_n=7,
            exp_tables=3, refine_lanes=4, normalizer="divider", divider_cycles=2,
            selection="counters"), 30),
    pytest.param(Config(
        key_bits=9, value_dim=3, capacity=32, queries=8, lanes=4, value_lanes=1, top_n=32,
        value_bits=5, weight_bits=7, output_fraction_bits=0, exp_tables=1,
        selection="counters"), 8,
        marks=pytest.mark.slow),
    pytest.param(Config(
        key_bits=12, value_dim=4, capacity=128, queries=1, lanes=64, value_lanes=4, top_n=16,
        exp_tables=2, selection="counters"), 10, marks=pytest.mark.slow),
    (Config(key_bits=1, value_dim=1, capacity=1, lanes=1, value_lanes=1, top_n=1, exp_tables=1),
     20),
    (Config(key_bits=5, value_dim=2, capacity=13, queries=2, lanes=1, value_lanes=2, top_n=1,
            value_bits=16, weight_bits=24, output_fraction_bits=16,
            normalizer="divider", divider_cycles=32, selection="counters"), 20),
    (Config(key_bits=5, value_dim=2, capacity=13, lanes=1, value_lanes=2, top_n=1,
            value_bits=16, weight_bits=24, output_fraction_bits=16), 10),
    (Config.preset("tiny").replace(rescore=Rescore(head_dim=8, lanes=4)), 30),
    (Config.preset("tiny").replace(selection="histograms", refine_lanes=8), 20),
    (Config.preset("tiny").replace(selection="serial", value_ports=1), 20),
    (Config(key_bits=16, value_dim=6, capacity=40, lanes=2, value_lanes=3, top_n=7, exp_tables=3,
            refine_lanes=4, rescore=Rescore(head_dim=15, lanes=5, element_bits=12)), 20),
    (Config(key_bits=1, value_dim=1, capacity=1, lanes=1, value_lanes=1, top_n=1, exp_tables=1,
            rescore=Rescore(head_dim=1, lanes=1, element_bits=2)), 20),
    (Config(key_bits=5, value_dim=2, capacity=12, lanes=2, value_lanes=2, top_n=1, exp_tables=1,
            selection="counters", rescore=Rescore(head_dim=4, lanes=4, shared=True)), 20),
    pytest.param(Config.preset("tiny").replace(
        queries=3, rescore=Rescore(head_dim=8, lanes=4, shared=True)), 30, marks=pytest.mark.slow),
    pytest.param(Config(
        key_bits=6, value_dim=4, capacity=32, queries=3, lanes=4, value_lanes=4, top_n=32,
        weight_bits=24, selection="counters",
        rescore=Rescore(head_dim=3, lanes=1, element_bits=16)), 10,
        marks=pytest.mark.slow),
    (Config(key_bits=5, value_dim=2, capacity=160, queries=2, lanes=1, value_lanes=2, top_n=9,
            refine_lanes=2, selection="histograms", selection_block=64), 6),
    (Config(key_bits=6, value_dim=2, capacity=256, queries=2, lanes=2, value_lanes=2, top_n=4,
            refine_lanes=8, selection="histograms", selection_block=128,
            rescore=Rescore(head_dim=3, lanes=3, shared=True)), 6),
    pytest.param(Config.preset("reference").replace(capacity=128), 8, marks=pytest.mark.slow),
    pytest.param(Config.preset("reference").replace(
        capacity=128, rescore=Rescore(head_dim=64, lanes=32)), 6, marks=pytest.mark.slow),
],
ids=["tiny", "odd", "eight-queries", "wide", "one", "narrow", "fine", "rescore-tiny", "histograms",
        "serial", "rescore-odd", "rescore-one", "shared-one", "shared", "rescore-queries",
        "blocks", "blocks-shared", "reference", "rescore-reference"])
def test_bench(config, steps):
    run_bench(Core(config), __file__, parameters={"config": config.to_dict(), "steps": steps},
              timeout=1200)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "changes"), [
    ("ice40", {"cell": "ice40", "selection": "counters"}),
    ("up5k", {"cell": "ice40", "queries": 1, "selection": "serial", "value_ports": 1}),
    ("ecp5", {"cell": "ecp5", "selection": "counters"}),
    ("ecp5", {"cell": "ecp5", "queries": 1, "selection": "histograms",
              "rescore": Rescore(head_dim=8, lanes=4)}),
])
def test_netlist(target, changes):
    """What synthesis makes of the core, of the vendor's cells with Yosys's models of them."""
    config = Config.preset("tiny").replace(**changes)
    verilog = plain(generate(Core(config), "dut"), target, synthesize=True)
    run_bench(Core(config), __file__, parameters={"config": config.to_dict(), "steps": 4},
              verilog=verilog, timeout=1200)


@pytest.mark.parametrize("config", [None, {}, 64])
def test_wrong_parameter(config):
    with pytest.raises(TypeError, match=rf"^Config must be a Config, not {config!r}$"):
        Core(config)
