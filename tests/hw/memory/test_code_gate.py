# amaranth: UnusedElaboratable=no
import cocotb
import pytest

from nearbit_hw.memory import CodeGate
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


def words(bench, count):
    """Requests, fetched words, words that pass, and outcomes of some commands."""
    rng, lanes, bits = bench.rng, bench.parameters["lanes"], bench.parameters["key_bits"]
    asked, fetched, passed, outcomes = [], [], [], []
    for _ in range(count):
        length, failed = rng.choice([1, 1, 2, 5]), 0
        for number in range(length):
            last = int(number == length - 1)
            codes = [rng.getrandbits(bits) for _ in range(lanes)]
            failed |= int(rng.random() < 0.1)
            asked.append({"word": rng.randrange(bench.parameters["capacity"] // lanes),
                          "last": last})
            fetched.append({"codes": codes, "last": last, "failed": failed})
            passed.append({"codes": codes, "last": last})
        outcomes.append({"failed": failed})
    return asked, fetched, passed, outcomes


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def words_pass(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    asked, fetched, passed, outcomes = words(bench, 60)
    bench.source("i").send(*asked)
    bench.source("i_word").send(*fetched)
    bench.sink("o").expect(*passed)
    bench.sink("o_outcome").expect(*outcomes)
    await bench.finish()


@cocotb.test()
async def both_are_needed(dut):
    """A word waits for its request, a request for its word, and a last word for the outcome."""
    bench = Bench(dut)
    await bench.reset()
    asked, fetched, passed, outcomes = words(bench, 4)
    got = bench.sink("o").received
    bench.source("i").send(*asked)
    await bench.step(5)
    assert not got
    bench.source("i_word").send(fetched[0])
    await bench.step(5)
    assert got == passed[:1]
    bench.sink("o_outcome").stall = 1
    bench.source("i_word").send(*fetched[1:])
    await bench.step(40)
    first = next(number for number, word in enumerate(passed) if word["last"] and number)
    assert got == passed[:first]
    bench.sink("o_outcome").stall = 0
    await bench.finish()
    assert got == passed
    assert bench.sink("o_outcome").received == outcomes


@cocotb.test()
async def latency_and_rate(dut):
    bench = Bench(dut)
    await bench.reset()
    asked, fetched, passed, outcomes = words(bench, 20)
    start = bench.cycle
    bench.source("i").send(*asked)
    bench.source("i_word").send(*fetched)
    bench.sink("o").expect(*passed)
    bench.sink("o_outcome").expect(*outcomes)
    await bench.finish()
    latency = bench.parameters["latency"]
    assert bench.sink("o").cycles == list(range(start + latency, start + latency + len(asked)))


@pytest.mark.parametrize("parameters", [
    {"capacity": 64, "lanes": 4, "key_bits": 8}, {"capacity": 3, "lanes": 1, "key_bits": 1}])
def test_bench(parameters):
    dut = CodeGate(**parameters)
    run_bench(dut, __file__, parameters={**parameters, "latency": dut.latency})


@pytest.mark.parametrize(("changes", "message"), [
    ({"capacity": 0}, "Capacity must be a positive integer, not 0"),
    ({"key_bits": "8"}, "Key bits must be a positive integer, not '8'"),
    ({"lanes": 3}, "Lanes must be a power of two, not 3"),
])
def test_wrong_parameters(changes, message):
    with pytest.raises(TypeError, match=f"^{message}$"):
        CodeGate(**{"capacity": 64, "lanes": 4, "key_bits": 8, **changes})
