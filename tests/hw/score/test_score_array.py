# amaranth: UnusedElaboratable=no
import cocotb
import pytest

from nearbit_hw.score.score_array import ScoreArray
from nearbit_hw.verilog import generate
from nearbit_sim.bench import run_bench
from nearbit_sim.netlist import plain
from nearbit_sim.stream import Bench


IDLE = ("idle", [0.0, 0.3, 0.8])


def send(bench, lengths, expect=True):
    """Commands of the given numbers of words; all queries' distances in plain Python."""
    key_bits, queries, lanes = (bench.parameters[name] for name in ("key_bits", "queries", "lanes"))
    for length in lengths:
        codes = [bench.rng.getrandbits(key_bits) for _ in range(queries)]
        active = bench.rng.getrandbits(queries)
        bench.source("i_queries").send({"codes": codes, "active": active})
        for index in range(length):
            last = int(index == length - 1)
            word = [bench.rng.choice([bench.rng.getrandbits(key_bits), codes[0], ~codes[0]])
                    & (1 << key_bits) - 1 for _ in range(lanes)]
            bench.source("i").send({"codes": word, "last": last})
            for query in range(queries):
                if expect and active >> query & 1:
                    bench.sink(f"o__{query}").expect({
                        "distances": [(codes[query] ^ code).bit_count() for code in word],
                        "last": last,
                    })


@cocotb.test()
@cocotb.parametrize(IDLE)
async def distances(dut, idle):
    bench = Bench(dut, idle=idle)
    await bench.reset()
    send(bench, [bench.rng.randint(1, 12) for _ in range(25)])
    await bench.finish()


@cocotb.test()
async def latency_and_rate(dut):
    bench = Bench(dut)
    await bench.reset()
    queries, lanes = bench.parameters["queries"], bench.parameters["lanes"]
    stage = bench.parameters["queries_per_stage"]
    length = queries + 3
    for _ in range(4):
        bench.source("i_queries").send({"codes": [0] * queries, "active": (1 << queries) - 1})
        for index in range(length):
            bench.source("i").send({"codes": [0] * lanes, "last": int(index == length - 1)})
    await bench.finish()
    entered = bench.source("i").cycles
    assert entered == list(range(4 * length))
    for query in range(queries):
        assert bench.sink(f"o__{query}").cycles == [
            cycle + bench.parameters["latency"] + query // stage for cycle in entered]
    last_stage = (queries - 1) // stage
    assert bench.source("i_queries").cycles == [last_stage + length * index for index in range(4)]


@cocotb.test()
async def short_commands_are_stages_apart(dut):
    bench = Bench(dut)
    await bench.reset()
    send(bench, [1] * 8)
    await bench.finish()
    stages = -(-bench.parameters["queries"] // bench.parameters["queries_per_stage"])
    assert bench.source("i").cycles == [stages * index for index in range(8)]


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    for cycles in range(1, 8):
        await bench.reset()
        send(bench, [9] * 2, expect=False)
        await bench.step(cycles)
        await bench.reset()
        send(bench, [3, 1, 4])
        await bench.finish()


@pytest.mark.parametrize(("key_bits", "queries", "lanes", "queries_per_stage"), [
    (1, 1, 1, 1), (64, 1, 16, 4), (64, 8, 2, 1), (33, 3, 5, 1), (128, 2, 3, 2), (7, 1, 64, 1),
    (9, 8, 2, 3), (16, 4, 3, 9),
])
def test_bench(key_bits, queries, lanes, queries_per_stage):
    given = {"key_bits": key_bits, "queries": queries, "lanes": lanes,
             "queries_per_stage": queries_per_stage}
    dut = ScoreArray(**given)
    run_bench(dut, __file__, parameters={**given, "latency": dut.latency})


@pytest.mark.parametrize(("key_bits", "queries", "lanes", "queries_per_stage", "fan_in", "target"),
                         [
    (64, 2, 3, 1, 2, "generic"), (64, 1, 4, 1, 4, "ecp5"), (64, 2, 2, 1, 2, "ecp5"),
    (33, 3, 2, 2, 4, "ecp5"), (64, 3, 2, 2, 2, "ecp5"),
    (64, 1, 4, 1, 4, "ice40"), (7, 1, 1, 1, 4, "ice40"), (33, 1, 3, 1, 2, "ice40"),
    (64, 2, 2, 1, 2, "ice40"), (33, 3, 2, 3, 4, "ice40"),
])
def test_bench_of_targets(key_bits, queries, lanes, queries_per_stage, fan_in, target):
    parameters = {"key_bits": key_bits, "queries": queries, "lanes": lanes,
                  "queries_per_stage": queries_per_stage}
    given = {**parameters, "fan_in": fan_in, "target": target}
    dut = ScoreArray(**given)
    run_bench(dut, __file__, parameters={**parameters, "latency": dut.latency},
              verilog=plain(generate(ScoreArray(**given), "dut"), target, synthesize=False))


@pytest.mark.parametrize("value", [0, -1, 1.0, "8", None])
@pytest.mark.parametrize(("name", "text"), [
    ("key_bits", "Key bits"), ("queries", "Queries"), ("lanes", "Lanes"),
    ("queries_per_stage", "Queries per stage")])
def test_wrong_parameter(name, text, value):
    given = {"key_bits": 8, "queries": 1, "lanes": 1, name: value}
    with pytest.raises(TypeError, match=rf"^{text} must be a positive integer, not {value!r}$"):
        ScoreArray(**given)


def test_wrong_cell():
    with pytest.raises(TypeError, match=r"^Fan-in must be an integer greater than 1, not 1$"):
        ScoreArray(key_bits=8, queries=1, lanes=1, fan_in=1)
    with pytest.raises(ValueError,
                       match=r"^Target must be one of generic, ecp5, ice40, xc7, not 'x'$"):
        ScoreArray(key_bits=8, queries=1, lanes=1, target="x")
