# amaranth: UnusedElaboratable=no
import random

import cocotb
import pytest
from cocotb.triggers import Timer

from nearbit_hw.memory.watchdog import Watchdog
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import Bench


@cocotb.test()
@cocotb.parametrize(timeout=[1, 2, 5, 0])
async def counts(dut, timeout):
    bench = Bench(dut)
    rng = random.Random(cocotb.RANDOM_SEED)
    limit, bits = bench.parameters["limit"], bench.parameters["timeout_bits"]
    dut.timeout.value = timeout
    dut.begin.value = dut.end.value = dut.beat.value = 0
    await bench.reset()
    owed, silent, chance, ever = 0, 0, 0.5, 0
    for cycle in range(2000):
        if cycle % 50 == 0:
            chance = rng.choice([0, 0.1, 0.5, 0.9])
        begin = owed < limit and rng.random() < 0.5
        beat = owed > 0 and rng.random() < chance
        end = beat and rng.random() < 0.5
        dut.begin.value, dut.beat.value, dut.end.value = begin, beat, end
        await Timer(1, "step")
        assert int(dut.room.value) == (owed < limit)
        assert int(dut.none.value) == (owed == 0)
        expired = silent >= (timeout or 1 << bits)
        ever += expired
        assert int(dut.expired.value) == expired
        await bench.step()
        silent = 0 if beat or not owed else silent + 1
        owed += begin - end
    assert ever


@pytest.mark.parametrize(("limit", "timeout_bits"), [(1, 3), (5, 4)])
def test_bench(limit, timeout_bits):
    run_bench(Watchdog(limit=limit, timeout_bits=timeout_bits), __file__,
              parameters={"limit": limit, "timeout_bits": timeout_bits})


def test_properties():
    dut = Watchdog(limit=5, timeout_bits=4)
    assert (dut.limit, dut.timeout_bits) == (5, 4)


@pytest.mark.parametrize(("name", "words"), [("limit", "Limit"), ("timeout_bits", "Timeout bits")])
@pytest.mark.parametrize("value", [0, -1, "4", None])
def test_wrong_parameters(name, words, value):
    with pytest.raises(TypeError, match=rf"^{words} must be a positive integer, not {value!r}$"):
        Watchdog(**{"limit": 5, "timeout_bits": 4, name: value})
