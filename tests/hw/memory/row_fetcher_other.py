"""A RowFetcher on other people's memory."""

import cocotb
from row_fetcher import Gather


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.6])
async def selections(dut, pause):
    gather = Gather(dut, other=True, pause=pause, stall=pause / 2)
    await gather.start()
    sent = [gather.selection() for _ in range(6)]
    for selection in sent:
        gather.ask(selection)
    for selection in sent:
        await gather.take(selection, passes=2)
