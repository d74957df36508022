"""Codes and rows over one bus, of other people's memory."""

import cocotb
from cache import Mixed


@cocotb.test()
async def codes_and_rows(dut):
    mixed = Mixed(dut, other=True)
    await mixed.start()
    await mixed.run(2, 4)
