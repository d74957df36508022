"""An Appender on other people's memory."""

import cocotb
from appender import Append


@cocotb.test()
async def tokens(dut):
    append = Append(dut, other=True)
    await append.bench.reset()
    for _ in range(12):
        append.send(append.token())
        append.ends.expect({"failed": 0})
    await append.bench.finish()
    assert append.memory.read(0, len(append.expected)) == append.expected
