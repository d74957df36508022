# amaranth: UnusedElaboratable=no
from collections import deque

import cocotb
import pytest

from nearbit_hw.layouts import Error
from nearbit_hw.select.query_merge import QueryMerge
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


class Load:
    """Commands with some queries in error, the selections of the others, and their order."""

    def __init__(self, bench):
        self.bench = bench
        self.capacity, self.distance_max, self.queries = (
            bench.parameters[name] for name in ("capacity", "distance_max", "queries"))
        self.exp_tables, self.rescore, self.shared = (
            bench.parameters[name] for name in ("exp_tables", "rescore", "shared"))
        self.sent = []
        # For each key of a selection that leaves: whether it is the last and the last query's,
        # which may be wanted again, and whether it is.
        self.again = deque()
        if self.shared:
            bench.sink("o").on_beat = self.check_again

    def ask(self, rng, *, lengths=None, rescore=0, shared=0, expect=True):
        """Send a command whose query r selects `lengths[r]` keys; 0 is an error.

        Without lengths, all else is random as well.
        """
        if lengths is None:
            rescore = rng.getrandbits(1) if self.rescore else 0
            shared = rng.getrandbits(1) if self.shared else 0
            spoiled = rng.choice([0, 0.3, 1])
            lengths = [0 if rng.random() < spoiled else rng.choice([1, rng.randint(1, 6)])
                       for _ in range(self.queries)]
            if shared:
                lengths = lengths[:1] * self.queries
        queries = [{
            "error": Error.OK.value if length else rng.randint(1, 7),
            "exp_table": rng.randrange(self.exp_tables),
            **({"multiplier": rng.getrandbits(32)} if self.rescore else {}),
        } for length in lengths]
        trace = rng.getrandbits(1)
        self.bench.source("i_order").send({
            "trace": trace, "queries": queries, **({"rescore": rescore} if self.rescore else {}),
            **({"shared": shared} if self.shared else {})})
        keys = []
        for query, length in enumerate(lengths):
            if not query or not shared:
                keys = [{"index": rng.randrange(self.capacity),
                         "distance": rng.randint(0, self.distance_max),
                         "last": int(key == length - 1)} for key in range(length)]
            source = self.queries - 1 if shared else query
            self.bench.source(f"i__{source}").send(*keys)
            if not expect:
                continue
            self.bench.sink("o_result").expect({
                "query": query, "error": queries[query]["error"],
                "final": int(query == self.queries - 1)})
            marks = {"rescore": rescore, "skip": 0} if self.rescore else {}
            if length:
                scale = {"rescore": rescore, "multiplier": queries[query]["multiplier"]} \
                    if self.rescore else {}
                self.bench.sink("o_command").expect(
                    {"query": query, "exp_table": queries[query]["exp_table"], "trace": trace,
                     **scale})
                self.bench.sink("o").expect(*({**key, **marks} for key in keys))
                self.again.extend((key["last"] and source == self.queries - 1,
                                   shared and query != source) for key in keys)
            elif rescore:
                self.bench.sink("o").expect(
                    {"index": 0, "distance": 0, "last": 0, **marks, "skip": 1})
                self.again.append((False, False))
            self.sent.append((query, source, length, rescore and not length))

    def check_again(self, key, cycle):
        if self.again:
            matters, again = self.again.popleft()
            assert not matters or int(self.bench.dut.again.value) == again, cycle

    def check_cycles(self):
        """A query begins in the cycle after the one before is done with, and not before."""
        result, command, keys = (iter(self.bench.sink(name).cycles)
                                 for name in ("o_result", "o_command", "o"))
        selections = [iter(self.bench.source(f"i__{query}").cycles)
                      for query in range(self.queries)]
        orders = iter(self.bench.source("i_order").cycles)
        done = -1
        for query, source, length, skips in self.sent:
            moved = [next(result)]
            if length:
                passed = [next(keys) for _ in range(length)]
                # Without delay: in the cycle in which the key is accepted.
                assert passed == [next(selections[source]) for _ in range(length)]
                moved += [next(command), *passed]
            if skips:
                moved.append(next(keys))
            assert min(moved) > done
            done = max(moved)
            if query == self.queries - 1:
                assert next(orders) == done


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def selections(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    load = Load(bench)
    for _ in range(25):
        load.ask(bench.rng)
    await bench.finish()
    load.check_cycles()


@cocotb.test()
@cocotb.parametrize(rescore=[0, 1], shared=[0, 1])
async def latency_and_rate(dut, rescore, shared):
    """Announcements and first key in a query's first cycle; keys of all queries without a gap."""
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    if rescore > load.rescore or shared > load.shared:
        return
    lengths = [[1 + ((0 if shared else query) + command) % 3 for query in range(load.queries)]
               for command in range(6)]
    for command in lengths:
        load.ask(bench.rng, lengths=command, rescore=rescore, shared=shared)
    await bench.finish()
    starts, end = [], 0
    for command in lengths:
        for length in command:
            starts.append(end)
            end += length
    assert bench.sink("o").cycles == list(range(end))
    assert bench.sink("o_result").cycles == bench.sink("o_command").cycles == starts
    load.check_cycles()


@cocotb.test()
@cocotb.parametrize(rescore=[0, 1], shared=[0, 1])
async def an_error_takes_one_cycle(dut, rescore, shared):
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    if rescore > load.rescore or shared > load.shared:
        return
    for _ in range(4):
        load.ask(bench.rng, lengths=[0] * load.queries, rescore=rescore, shared=shared)
    await bench.finish()
    cycles = list(range(4 * load.queries))
    assert bench.sink("o_result").cycles == cycles
    assert bench.sink("o").cycles == cycles * rescore
    assert bench.source("i_order").cycles == [
        load.queries - 1 + load.queries * index for index in range(4)]


@cocotb.test()
@cocotb.parametrize(rescore=[0, 1], shared=[0, 1], length=[0, 3])
async def outputs_do_not_wait_for_each_other(dut, rescore, shared, length):
    """Within a query; the next query waits for all of them."""
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    if rescore > load.rescore or shared > load.shared:
        return
    once = {"o_result": 1, "o_command": int(length > 0), "o": length or rescore}
    for held in (name for name, moves in once.items() if moves):
        before = {name: len(bench.sink(name).received) for name in once}
        bench.sink(held).stall = 1
        for _ in range(2):
            load.ask(bench.rng, lengths=[length] * load.queries, rescore=rescore, shared=shared)
        await bench.step(10)
        for name, count in before.items():
            moved = len(bench.sink(name).received) - count
            assert moved == (0 if name == held else once[name])
        bench.sink(held).stall = 0
        await bench.finish()
    load.check_cycles()


@cocotb.test()
async def nothing_moves_without_an_order(dut):
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    bench.source("i_order").idle = 1
    load.ask(bench.rng, lengths=[2] * load.queries)
    await bench.step(10)
    assert not any(bench.sink(name).received for name in ("o_result", "o_command", "o"))
    bench.source("i_order").idle = 0
    await bench.finish()
    load.check_cycles()


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    for cycles in range(1, 12):
        await bench.reset()
        load = Load(bench)
        for name in ("o_result", "o_command", "o"):
            bench.sink(name).stall = bench.rng.choice([0, 0, 0.5, 1])
        for _ in range(4):
            load.ask(bench.rng, expect=False)
        await bench.step(cycles)
        await bench.reset()
        load = Load(bench)
        for name in ("o_result", "o_command", "o"):
            bench.sink(name).stall = 0
        for _ in range(3):
            load.ask(bench.rng)
        await bench.finish()
        load.check_cycles()


@pytest.mark.parametrize(("capacity", "distance_max", "queries", "exp_tables", "rescore", "shared"),
                         [
    (1, 1, 1, 1, False, False),
    (64, 8, 2, 2, False, False),
    (13, 3, 3, 1, False, False),
    (256, 64, 8, 9, False, False),
    (1, 5, 5, 3, False, False),
    (64, 8, 2, 2, True, False),
    (64, 16, 2, 2, True, True),
    (13, 9, 3, 1, True, True),
    (7, 1, 1, 3, True, True),
    (1, 20, 4, 1, False, True),
])
def test_bench(capacity, distance_max, queries, exp_tables, rescore, shared):
    given = {"capacity": capacity, "distance_max": distance_max, "queries": queries,
             "exp_tables": exp_tables,
             "rescore": rescore, "shared": shared}
    run_bench(QueryMerge(**given), __file__, parameters=given)


GIVEN = {"capacity": 64, "distance_max": 8, "queries": 2, "exp_tables": 3}


@pytest.mark.parametrize(("rescore", "shared"), [(False, False), (True, False), (True, True)])
def test_properties(rescore, shared):
    given = {**GIVEN, "rescore": rescore, "shared": shared}
    dut = QueryMerge(**given)
    assert {name: getattr(dut, name) for name in given} == given
    assert hasattr(dut, "again") == shared


def test_neither_unit_by_default():
    dut = QueryMerge(**GIVEN)
    assert (dut.rescore, dut.shared) == (False, False)


@pytest.mark.parametrize("value", [0, -1, 1.0, "8", None])
@pytest.mark.parametrize(("name", "text"), [
    ("capacity", "Capacity"), ("distance_max", "Largest distance"), ("queries", "Queries"),
    ("exp_tables", "Exp tables")])
def test_wrong_parameter(name, text, value):
    with pytest.raises(TypeError, match=rf"^{text} must be a positive integer, not {value!r}$"):
        QueryMerge(**{**GIVEN, name: value})
