"""The rate at which a RowFetcher reads selections that follow each other."""

import cocotb
from row_fetcher import Gather


@cocotb.test()
async def back_to_back(dut):
    """Every port gives a beat in nearly every cycle."""
    gather = Gather(dut, latency=(100, 100))
    await gather.start()
    await gather.bench.step(20)
    sent = [gather.selection(gather.parameters["top_n"]) for _ in range(8)]
    for selection in sent:
        gather.ask(selection)
    for selection in sent:
        await gather.take(selection)
    ports = gather.parameters["ports"]
    for memory in gather.memories:
        cycles = memory.beats.cycles
        assert len(cycles) == sum(
            len(selection[2]) for selection in sent) * gather.parameters["row_beats"] // ports
        # From the second selection on, not to count the latency.
        part = cycles[len(cycles) // 8:]
        share = len(part) / (part[-1] - part[0] + 1)
        dut._log.info(f"{share:.3f} beats per cycle")
        assert share >= gather.parameters["share"]
