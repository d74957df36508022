"""What an Appender writes, and when it says so."""

import cocotb
from memory_model import MemoryBench, Tables, WriteMemory, other_memory_to_write


class Append:
    """An appender with its tables and memory, and what is expected of it."""

    def __init__(self, dut, *, stall=0.0, idle=0.0, limit=40_000, delay=(0, 0), timeout=0,
                 other=False, **memory):
        self.bench = bench = MemoryBench(dut, stall=stall, idle=idle, limit=limit)
        self.parameters = bench.parameters
        self.tables = Tables(self.parameters, bench.rng)
        self.expected = bytearray(self.tables.contents)
        if other:
            self.memory = other_memory_to_write(dut, "axi", self.tables.contents, bench.rng, 0.3)
        else:
            self.memory = WriteMemory(bench, "axi", self.tables.contents,
                                      data_bits=self.parameters["data_bits"], **memory)
        self.tables.serve(bench, "o_lookup", "i_lookup", delay)
        bench.source("i_lookup").idle = 0
        dut.timeout.value = timeout
        self.ends = bench.sink("o")
        self.raised = bench.sink("o_tokens")

    def token(self):
        rng, parameters = self.bench.rng, self.parameters
        return {"head": rng.randrange(parameters["heads"]),
                "sequence": rng.randrange(parameters["sequences"]),
                "token": rng.randrange(parameters["capacity"]),
                "code": rng.getrandbits(parameters["key_bits"]), "raises": rng.randrange(2)}

    def addresses(self, token):
        """Bytes of the code, and of the row."""
        place = token["head"], token["sequence"], token["token"]
        code = (self.tables.heads[token["head"]]["codes"]
                + self.tables.place(token["sequence"], token["token"])
                * self.parameters["code_bits"] // 8)
        return code, self.tables.row_address(*place)

    def send(self, token, writes=True):
        bits, beats = self.parameters["data_bits"], self.parameters["row_beats"]
        self.bench.source("i").send(token)
        row = [self.bench.rng.getrandbits(bits) for _ in range(beats)]
        self.bench.source("i_row").send(*row)
        if writes:
            code, at = self.addresses(token)
            size = self.parameters["code_bits"] // 8
            self.expected[code:code + size] = token["code"].to_bytes(size, "little")
            for beat, word in enumerate(row):
                place = at + beat * bits // 8
                self.expected[place:place + bits // 8] = word.to_bytes(bits // 8, "little")


MEMORIES = [
    {},
    {"latency": (60, 60)},
    {"latency": (3, 30), "aw_stall": 0.6, "w_stall": 0.4, "b_idle": 0.4, "idle": 0.5, "stall": 0.5,
     "delay": (0, 5)},
    {"latency": (1, 9), "aw_stall": 0.9},
    {"latency": (1, 9), "w_stall": 0.9},
]


@cocotb.test()
@cocotb.parametrize(memory=MEMORIES)
async def tokens(dut, memory):
    append = Append(dut, **memory)
    await append.bench.reset()
    sent = [append.token() for _ in range(12)]
    crossing = append.tables.crossing(append.parameters["row_beats"])[:6]
    sent += [append.token() | dict(zip(("head", "sequence", "token"), place, strict=True))
             for place in crossing]
    for token in sent:
        append.send(token)
        append.ends.expect({"failed": 0})
        if token["raises"]:
            append.raised.expect({"sequence": token["sequence"], "tokens": token["token"] + 1})
    await append.bench.finish()
    assert append.tables.contents == append.expected


@cocotb.test()
async def nothing_is_raised_before_it_is_written(dut):
    append = Append(dut, latency=(5, 50), w_stall=0.3)
    bench = append.bench
    await bench.reset()
    for _ in range(6):
        token = append.token() | {"raises": 1}
        append.send(token)
        before = len(append.raised.received)
        while len(append.raised.received) == before:
            owed = append.memory.owed
            written = append.tables.contents == append.expected
            await bench.step()
        assert written
        assert not owed
        assert len(append.ends.received) == before


@cocotb.test()
async def latency(dut):
    append = Append(dut)
    await append.bench.reset()
    append.send(append.token())
    append.ends.expect({"failed": 0})
    await append.bench.finish()
    assert append.memory.addresses.cycles[0] == append.parameters["latency"]
    beats = append.memory.beats.cycles
    rows = beats[-append.parameters["row_beats"]:]
    # One gap, if the row is split.
    assert rows[-1] - rows[0] - len(rows) + 1 in (0, 1, 2)


@cocotb.test()
async def errors_fail_their_token_only(dut):
    append = Append(dut, latency=(3, 30))
    await append.bench.reset()
    for index in range(12):
        token = append.token() | {"raises": 1}
        kind = append.bench.rng.randrange(3) if index else 1
        append.memory.faults.clear()
        code, at = append.addresses(token)
        if kind:
            size = append.parameters["data_bits"] // 8
            append.memory.faults[(code // size * size) if kind == 1 else at] = 2
        append.send(token)
        append.ends.expect({"failed": int(kind > 0)})
        if not kind:
            append.raised.expect({"sequence": token["sequence"], "tokens": token["token"] + 1})
        await append.bench.finish()
    assert len(append.raised.received) < 12
    assert append.tables.contents == append.expected


@cocotb.test()
async def what_is_not_set_fails(dut):
    append = Append(dut)
    await append.bench.reset()
    listed = append.parameters["capacity"] // append.parameters["page_tokens"]
    append.tables.unset = {(0, listed - 1)}
    for index in range(12):
        token = append.token()
        if index == 0:
            token |= {"sequence": 0, "token": append.parameters["capacity"] - 1, "raises": 1}
        place = token["sequence"], token["token"] // append.parameters["page_tokens"]
        fails = place in append.tables.unset
        append.send(token, writes=not fails)
        append.ends.expect({"failed": int(fails)})
        if token["raises"] and not fails:
            append.raised.expect({"sequence": token["sequence"], "tokens": token["token"] + 1})
    await append.bench.finish()
    assert append.tables.contents == append.expected


@cocotb.test()
async def a_row_that_is_late_is_no_silence(dut):
    append = Append(dut, timeout=50)
    await append.bench.reset()
    append.bench.source("i_row").idle = 1
    append.send(append.token() | {"raises": 0})
    append.ends.expect({"failed": 0})
    await append.bench.step(200)
    append.bench.source("i_row").idle = 0
    await append.bench.finish()
    assert append.tables.contents == append.expected


@cocotb.test()
@cocotb.parametrize(when=[*range(0, 16, 2), 30])
async def a_silent_memory_is_given_up(dut, when):
    """Tokens fail while the silence goes on; then nothing more of them is written."""
    append = Append(dut, latency=(20, 20), timeout=100)
    bench = append.bench
    await bench.reset()
    sent = [append.token() | {"raises": 1} for _ in range(3)]
    for token in sent:
        append.send(token, writes=False)
    await bench.step(when)
    append.memory.silent = True
    begin = bench.cycle
    await bench.until(lambda: len(append.ends.received) == 3)
    assert 100 <= bench.cycle - begin < 500
    assert all(end["failed"] for end in append.ends.received)
    before, taken = bytes(append.tables.contents), len(append.memory.beats.received)
    append.memory.silent = False
    await bench.step(100)
    assert not append.memory.owed
    # What was on the bus by then may be written; none of the other tokens is.
    size = append.parameters["data_bits"] // 8
    code, at = append.addresses(sent[0])
    own = {*range(code, code + append.parameters["code_bits"] // 8),
           *range(at, at + append.parameters["row_beats"] * size)}
    changed = {place for place, byte in enumerate(before)
               if byte != append.tables.contents[place]}
    assert changed <= own
    assert sum(word["strb"] > 0 for word in append.memory.beats.received[taken:]) <= 1
    append.expected[:] = append.tables.contents
    for _ in range(3):
        append.send(append.token() | {"raises": 0})
        append.ends.expect({"failed": 0})
        await bench.finish()
    assert append.tables.contents == append.expected
    assert not append.raised.received


@cocotb.test()
async def reset_forgets(dut):
    append = Append(dut, latency=(20, 20))
    bench = append.bench
    for cycles in (1, 4, 7, 12, 30):
        await bench.reset()
        for _ in range(2):
            append.send(append.token(), writes=False)
        await bench.step(cycles)
        await bench.reset()
        append.expected[:] = append.tables.contents
        append.send(append.token() | {"raises": 0})
        append.ends.expect({"failed": 0})
        await bench.finish()
        assert append.tables.contents == append.expected
