# amaranth: UnusedElaboratable=no
import cocotb
import pytest
from amaranth.lib import data

from nearbit_hw.memory import CacheMap, CommandPlace
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


MAP = CacheMap(heads=3, sequences=5, capacity=64, page_tokens=16, pages=7)
LAYOUT = data.StructLayout({"head": range(3), "sequence": range(5), "first": range(64), "n": 5})


def command(rng):
    return {"head": rng.randrange(3), "sequence": rng.randrange(5), "first": rng.randrange(64),
            "n": rng.randrange(32)}


async def fresh(dut, **options):
    """A bench that answers look-ups, with what of each command it answered."""
    bench = Bench(dut, **options)
    answers = []

    def look_up(request, cycle):
        answer = {"tokens": bench.rng.randrange(65), "error": bench.rng.randrange(3)}
        answers.append((request, answer))
        bench.source("i_lookup").send({
            "error": answer["error"], "head": {"codes": 0, "rows": 0, "stride": 0}, "page": 0,
            "tokens": answer["tokens"]})

    bench.sink("o_lookup").on_beat = look_up
    await bench.reset()
    return bench, answers


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def commands(dut, idle, stall):
    """Each is looked up once, and comes with what was found."""
    bench, answers = await fresh(dut, idle=idle, stall=stall)
    seen = []
    bench.sink("o").on_beat = lambda payload, cycle: seen.append(
        (payload, int(dut.tokens.value), int(dut.error.value)))
    sent = [command(bench.rng) for _ in range(30)]
    bench.source("i").send(*sent)
    bench.sink("o").expect(*sent)
    await bench.finish()
    assert [request for request, _ in answers] == [
        {"head": each["head"],
         "page": {"sequence": each["sequence"], "index": each["first"] // 16}} for each in sent]
    assert seen == [(each, answer["tokens"], answer["error"])
                    for each, (_, answer) in zip(sent, answers, strict=True)]


@cocotb.test()
async def latency(dut):
    bench, _ = await fresh(dut)
    sent = [command(bench.rng) for _ in range(3)]
    bench.source("i").send(*sent)
    bench.sink("o").expect(*sent)
    start = bench.cycle
    await bench.finish()
    assert bench.sink("o").cycles == [start + bench.parameters["latency"] + 3 * number
                                      for number in range(3)]


@cocotb.test()
async def what_was_found_holds(dut):
    """While a command waits, later tokens are not its own."""
    bench, answers = await fresh(dut)
    bench.sink("o").stall = 1
    sent = command(bench.rng)
    bench.source("i").send(sent)
    bench.sink("o").expect(sent)
    await bench.step(10)
    before = int(dut.tokens.value), int(dut.error.value)
    assert before == (answers[0][1]["tokens"], answers[0][1]["error"])
    await bench.step(10)
    assert before == (int(dut.tokens.value), int(dut.error.value))
    assert len(answers) == 1
    bench.sink("o").stall = 0
    await bench.finish()


@cocotb.test()
async def reset_forgets(dut):
    bench, answers = await fresh(dut)
    bench.sink("o").stall = 1
    bench.source("i").send(command(bench.rng))
    await bench.step(6)
    await bench.reset()
    answers.clear()
    bench.sink("o").stall = 0
    sent = command(bench.rng)
    bench.source("i").send(sent)
    bench.sink("o").expect(sent)
    await bench.finish()
    assert len(answers) == 1


def test_bench():
    dut = CommandPlace(MAP, LAYOUT)
    run_bench(dut, __file__, parameters={"latency": dut.latency})


def test_wrong_map():
    with pytest.raises(TypeError, match=r"^Map must be a CacheMap, not 5$"):
        CommandPlace(5, LAYOUT)
