"""A CodeFetcher on other people's memory."""

import cocotb
from code_fetcher import Fetch


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.6])
async def commands(dut, pause):
    fetch = Fetch(dut, other=True, pause=pause, stall=pause / 2)
    await fetch.start()
    for _ in range(8):
        fetch.send(fetch.command())
    await fetch.bench.finish()
