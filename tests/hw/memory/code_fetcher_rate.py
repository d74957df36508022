"""The rate at which a CodeFetcher reads commands that follow each other."""

import cocotb
from code_fetcher import Fetch


COMMANDS = 2


async def interval(dut, **memory):
    """Cycles from one command of all tokens to the next."""
    fetch = Fetch(dut, limit=100_000, **memory)
    await fetch.start()
    capacity = fetch.parameters["capacity"]
    for index in range(COMMANDS):
        fetch.send((index % fetch.parameters["heads"], 0, 0, capacity))
    await fetch.bench.finish()
    words = capacity // fetch.parameters["lanes"]
    ends = fetch.words.cycles[words - 1::words]
    assert len(ends) == COMMANDS
    mean = (ends[-1] - ends[0]) / (COMMANDS - 1)
    dut._log.info(f"{mean:.1f} cycles for {capacity} keys")
    return mean / words


@cocotb.test()
async def back_to_back(dut):
    contiguous = await interval(dut, latency=(100, 100), scattered=False)
    assert contiguous <= 1.03
    scattered = await interval(dut, latency=(100, 100), scattered=True)
    assert scattered <= 1.01 * contiguous


@cocotb.test()
async def random_latency(dut):
    assert await interval(dut, latency=(20, 200), outstanding=64) <= 1.15
