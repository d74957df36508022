"""What the models wrote into a memory comes out of the fetchers of codes and rows."""

import cocotb
import numpy as np
from image import Planned
from memory_model import ReadMemory

from nearbit_model.memory import MemoryImage
from nearbit_model.quantize import codes_from_ints


@cocotb.test()
async def reads(dut):
    planned = Planned(dut)
    bench, config = planned.bench, planned.config
    image = MemoryImage(planned.plan, planned.rng.integers(
        0, 256, size=planned.plan.size, dtype=np.uint8))
    written = {}
    for head in range(config.memory.heads):
        for sequence, pages in enumerate(planned.pages):
            codes, *rows = written[head, sequence] = planned.tokens(config.capacity)
            image.write(head, pages, 0, codes_from_ints(codes, config.key_bits), *rows)
    ReadMemory(bench, "axi", planned.contents(image), data_bits=config.memory.bus_bits,
               latency=(1, 20), reorder=True)
    await planned.start()
    top_n = bench.parameters["top_n"]
    beats = planned.plan.layout.row_beats
    released = 0

    def release(_, __):
        nonlocal released
        if len(bench.sink("o_read").received) % (top_n * beats) == top_n * beats - 1:
            bench.source("i_release").send(released % 2)
            released += 1

    bench.sink("o_read").on_beat = release
    # The last sequence that wrote a page has it.
    sequence = len(planned.pages) - 1
    for number, head in enumerate(range(config.memory.heads)):
        codes, *rows = written[head, sequence]
        bench.source("i_codes").send({"head": head, "sequence": sequence, "first": 0,
                                      "count": config.capacity})
        bench.sink("o_codes").expect(*(
            {"codes": [code], "last": int(token == config.capacity - 1), "failed": 0}
            for token, code in enumerate(codes)))
        bench.source("i_selection").send({"head": head, "sequence": sequence})
        words = planned.beats(*rows)
        tokens = planned.rng.choice(config.capacity, top_n, replace=False).tolist()
        for position, token in enumerate(tokens):
            bench.source("i").send({"token": token, "last": int(position == top_n - 1)})
            for beat in range(beats):
                bench.source("i_read").send(
                    {"set": number % 2, "position": position, "word": beat})
                bench.sink("o_read").expect({"data": words[token * beats + beat], "failed": 0})
    await bench.finish()
