"""The benches' memory behind a Through: the cycles of all transfers, for comparison."""

import json
from pathlib import Path

import cocotb
from memory_model import MemoryBench, ReadMemory, WriteMemory


@cocotb.test()
async def transfers(dut):
    """One phase: all payloads are pushed from the first cycle on."""
    bench = MemoryBench(dut, limit=20_000)
    parameters = bench.parameters
    contents = bytearray.fromhex(parameters["contents"])
    latency = (parameters["latency"],) * 2
    faults = {int(address): response for address, response in parameters["faults"]}
    reads = ReadMemory(bench, "axi__0", contents, data_bits=64, latency=latency,
                       pace=parameters["pace"], outstanding=parameters["outstanding"],
                       faults=faults)
    writes = WriteMemory(bench, "axi_w", contents, data_bits=64, latency=latency, faults=faults)
    dut.withdraw.value = dut.bend.value = 0
    await bench.reset()
    for name, payloads in parameters["inputs"].items():
        bench.source(name).send(*payloads)
    await bench.until(lambda: len(bench.sink("o_b").received) == len(parameters["inputs"]["i_aw"])
                      and not any(bench.source(name).pending for name in parameters["inputs"])
                      and not reads.bursts and not reads.beats.pending)
    await bench.step(5)
    cycles = {"ar": reads.addresses.cycles, "r": reads.beats.cycles, "aw": writes.addresses.cycles,
              "w": writes.beats.cycles, "b": writes.answers.cycles}
    Path(parameters["answer"]).write_text(json.dumps({
        "cycles": cycles, "contents": contents.hex(), "beats": bench.sink("o_r__0").received}))
