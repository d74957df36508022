"""What an appender writes into a memory is what the models write, and they read it."""

import cocotb
import numpy as np
from image import Planned
from memory_model import WriteMemory

from nearbit_model.memory import MemoryImage
from nearbit_model.quantize import codes_from_ints


@cocotb.test()
async def writes(dut):
    planned = Planned(dut)
    bench, config, plan = planned.bench, planned.config, planned.plan
    octets = planned.rng.integers(0, 256, size=plan.size, dtype=np.uint8)
    expected, found = MemoryImage(plan, octets.copy()), MemoryImage(plan, octets)
    contents = planned.contents(found)
    WriteMemory(bench, "axi", contents, data_bits=config.memory.bus_bits, latency=(1, 9))
    await planned.start()
    sequence = len(planned.pages) - 1
    pages, count = planned.pages[sequence], config.memory.page_tokens + 2
    for head in range(config.memory.heads):
        codes, *rows = planned.tokens(count)
        expected.write(head, pages, 1, codes_from_ints(codes, config.key_bits), *rows)
        bench.source("i_row").send(*planned.beats(*rows))
        for token, code in enumerate(codes, start=1):
            bench.source("i").send(
                {"head": head, "sequence": sequence, "token": token, "code": code, "raises": 1})
            bench.sink("o").expect({"failed": 0})
    await bench.finish()
    found.octets[:] = contents[plan.origin:]
    np.testing.assert_array_equal(found.octets, expected.octets)
    for head in range(config.memory.heads):
        found.mark(head, pages, 1, count)
        first, second = (image.read(head, pages, 1, count) for image in (found, expected))
        np.testing.assert_array_equal(first.codes, second.codes)
        np.testing.assert_array_equal(first.values, second.values)
