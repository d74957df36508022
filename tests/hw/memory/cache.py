"""Codes and rows over one bus, of what was set in the tables."""

import cocotb
from memory_model import MemoryBench, ReadMemory, Tables, other_memory


class Mixed:
    def __init__(self, dut, *, other=False, limit=60_000, stall=0.0, **memory):
        self.bench = bench = MemoryBench(dut, stall=stall, limit=limit)
        self.parameters = bench.parameters
        self.tables = Tables(self.parameters, bench.rng)
        if other:
            other_memory(dut, "axi", self.tables.contents, bench.rng, 0.3)
        else:
            self.memory = ReadMemory(bench, "axi", self.tables.contents,
                                     data_bits=self.parameters["data_bits"], **memory)
        dut.timeout.value = 0

    async def start(self):
        """Set the tables."""
        bench, parameters = self.bench, self.parameters
        await bench.reset()
        unit = max(16, parameters["data_bits"] // 8)
        for head, at in self.tables.heads.items():
            bench.source("i_head").send({"head": head, "set": 1, "entry": {
                "codes": at["codes"] // parameters["burst_bytes"], "rows": at["rows"] // unit,
                "stride": at["stride"] // unit}})
        for sequence, pages in enumerate(self.tables.lists):
            for index, page in enumerate(pages):
                bench.source("i_page").send(
                    {"sequence": sequence, "index": index, "set": 1, "page": page})
        await bench.finish()

    async def run(self, commands, selections):
        """Ask for codes and rows at once, and take what comes as it comes."""
        bench, parameters = self.bench, self.parameters
        rng, capacity = bench.rng, parameters["capacity"]
        for _ in range(commands):
            head = rng.randrange(parameters["heads"])
            sequence = rng.randrange(parameters["sequences"])
            bench.source("i_codes").send(
                {"head": head, "sequence": sequence, "first": 0, "count": capacity})
            bench.sink("o_codes").expect(*(
                {"codes": [self.tables.code(head, sequence, token)],
                 "last": int(token == capacity - 1), "failed": 0} for token in range(capacity)))
        size = parameters["data_bits"] // 8
        for number in range(selections):
            head = rng.randrange(parameters["heads"])
            sequence = rng.randrange(parameters["sequences"])
            tokens = rng.sample(range(capacity), parameters["top_n"])
            bench.source("i_selection").send({"head": head, "sequence": sequence})
            for position, token in enumerate(tokens):
                bench.source("i").send({"token": token, "last": int(token == tokens[-1])})
                for beat in range(parameters["row_beats"]):
                    address = self.tables.row_address(head, sequence, token) + beat * size
                    bench.source("i_read").send(
                        {"set": number % 2, "position": position, "word": beat})
                    bench.sink("o_read").expect({
                        "data": int.from_bytes(self.tables.contents[address:address + size],
                                               "little"), "failed": 0})

        beats = parameters["top_n"] * parameters["row_beats"]
        released = 0

        def release(_, __):
            nonlocal released
            if len(bench.sink("o_read").received) % beats == beats - 1:
                bench.source("i_release").send(released % 2)
                released += 1

        bench.sink("o_read").on_beat = release
        await bench.finish()


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.3])
async def codes_and_rows(dut, stall):
    mixed = Mixed(dut, latency=(5, 60), reorder=True, ar_stall=stall, r_idle=stall, stall=stall)
    await mixed.start()
    await mixed.run(2, 4)


@cocotb.test()
@cocotb.parametrize(memory=[{"latency": (100, 100)}, {"latency": (20, 200), "reorder": True}])
async def the_bus_is_kept_busy(dut, memory):
    """While both have work, beats come in nearly all cycles."""
    mixed = Mixed(dut, **memory)
    await mixed.start()
    start = mixed.bench.cycle
    await mixed.run(4, 6)
    # Until the first of them has nothing to ask for any more.
    ends = [mixed.bench.sink(name).cycles[-1] for name in ("o_codes", "o_read")]
    begin, end = start + 250, min(ends) - 250
    assert end - begin > 1000
    beats = sum(begin <= cycle < end for cycle in mixed.memory.beats.cycles)
    dut._log.info(f"{beats / (end - begin):.3f} beats per cycle in {end - begin} cycles")
    assert beats >= 0.92 * (end - begin)
