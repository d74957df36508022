"""The rows that a RowFetcher reads into its RowBuffer."""

import cocotb
from memory_model import MemoryBench, ReadMemory, Tables, other_memory


class Gather:
    """A fetcher with its tables and memories, and what is expected of it."""

    def __init__(self, dut, *, stall=0.0, idle=0.0, limit=15_000, delay=(0, 0), timeout=0,
                 other=False, pause=0.0, **memory):
        self.bench = bench = MemoryBench(dut, stall=stall, idle=idle, limit=limit)
        self.parameters = parameters = bench.parameters
        self.tables = Tables(parameters, bench.rng)
        ports = range(parameters["ports"])
        if other:
            for port in ports:
                other_memory(dut, f"axi_{port}", self.tables.contents, bench.rng, pause)
        else:
            self.memories = [
                ReadMemory(bench, f"axi__{port}", self.tables.contents,
                           data_bits=parameters["data_bits"], **memory) for port in ports]
        self.tables.serve(bench, "o_lookup", "i_lookup", delay)
        bench.source("i_lookup").idle = 0
        dut.timeout.value = timeout
        self.read = bench.sink("o_read")
        self.opened = 0

    async def start(self):
        await self.bench.reset()
        self.opened = 0

    def selection(self, count=None):
        """Any tokens of any sequence."""
        rng, parameters = self.bench.rng, self.parameters
        count = count or rng.choice([1, parameters["top_n"], rng.randint(1, parameters["top_n"])])
        count = min(count, parameters["capacity"])
        return (rng.randrange(parameters["heads"]), rng.randrange(parameters["sequences"]),
                rng.sample(range(parameters["capacity"]), count))

    def ask(self, selection):
        head, sequence, tokens = selection
        self.bench.source("i_selection").send({"head": head, "sequence": sequence})
        self.bench.source("i").send(*(
            {"token": token, "last": int(index == len(tokens) - 1)}
            for index, token in enumerate(tokens)))

    def address(self, selection, position, beat=0):
        head, sequence, tokens = selection
        return (self.tables.row_address(head, sequence, tokens[position])
                + beat * self.parameters["data_bits"] // 8)

    def beat(self, selection, position, beat):
        size = self.parameters["data_bits"] // 8
        address = self.address(selection, position, beat)
        return int.from_bytes(self.tables.contents[address:address + size], "little")

    async def take(self, selection, *, passes=1, check=True):
        """Read all rows of the oldest set, some several times, and release it; return beats."""
        bench, rng = self.bench, self.bench.rng
        which = self.opened % 2
        self.opened += 1
        places = [(position, beat) for position in range(len(selection[2]))
                  for beat in range(self.parameters["row_beats"])]
        for _ in range(passes - 1):
            places += rng.sample(places, min(len(places), 30))
        begin = len(self.read.received)
        bench.source("i_read").send(*(
            {"set": which, "position": position, "word": beat} for position, beat in places))
        await bench.until(lambda: len(self.read.received) == begin + len(places))
        bench.source("i_release").send(which)
        found = self.read.received[begin:]
        if check:
            for (position, beat), got in zip(places, found, strict=True):
                assert got == {"data": self.beat(selection, position, beat), "failed": 0}
        return found

    @property
    def owed(self):
        return sum(memory.monitor.bursts for memory in self.memories)


MEMORIES = [
    {"latency": (1, 1)},
    {"latency": (60, 60), "stall": 0.3},
    {"latency": (5, 80), "reorder": True},
    {"latency": (5, 80), "reorder": True, "ar_stall": 0.6, "r_idle": 0.4, "idle": 0.3,
     "stall": 0.3, "delay": (0, 5)},
    {"latency": (1, 9), "pace": 0.4, "outstanding": 1, "idle": 0.5},
]


@cocotb.test()
@cocotb.parametrize(memory=MEMORIES)
async def selections(dut, memory):
    gather = Gather(dut, **memory)
    await gather.start()
    crossing = gather.tables.crossing(gather.parameters["row_beats"])[:6]
    sent = [gather.selection() for _ in range(6)]
    sent += [(head, sequence, [token]) for head, sequence, token in crossing]
    for selection in sent:
        gather.ask(selection)
    for selection in sent:
        await gather.take(selection, passes=3)
    await gather.bench.finish()
    assert not gather.owed
    # Each row once, with one burst, or two where it crosses 4 KiB.
    size, beats = gather.parameters["data_bits"] // 8, gather.parameters["row_beats"]
    expected = [[] for _ in gather.memories]
    for selection in sent:
        for position in range(len(selection[2])):
            bursts = expected[position % len(expected)]
            at, left = gather.address(selection, position), beats
            while left:
                length = min(left, (4096 - at % 4096) // size)
                bursts.append((at, length))
                at, left = at + length * size, left - length
    assert [memory.log for memory in gather.memories] == expected


@cocotb.test()
async def latency(dut):
    gather = Gather(dut, latency=(9, 9))
    await gather.start()
    # IDs are cleared after reset.
    await gather.bench.step(20)
    gather.ask(gather.selection(1))
    await gather.bench.until(lambda: gather.memories[0].addresses.cycles)
    assert (gather.memories[0].addresses.cycles[0]
            == gather.bench.source("i").cycles[0] + gather.parameters["latency"])


@cocotb.test()
async def errors_fail_their_selection_only(dut):
    gather = Gather(dut, latency=(3, 40), reorder=True, stall=0.2)
    await gather.start()
    rng = gather.bench.rng
    sent = [gather.selection() for _ in range(12)]
    faults = {}
    for memory in gather.memories:
        memory.faults = faults
    for selection in sent:
        if rng.random() < 0.4:
            address = gather.address(selection, rng.randrange(len(selection[2])),
                                     rng.randrange(gather.parameters["row_beats"]))
            faults[address] = rng.choice([2, 3])
    for selection in sent:
        gather.ask(selection)
    failures = 0
    for selection in sent:
        found = await gather.take(selection, check=False)
        fails = False
        beats = gather.parameters["row_beats"]
        for place, got in enumerate(found):
            position, beat = divmod(place, beats)
            fails = fails or any(gather.address(selection, position, each) in faults
                                 for each in range(beats))
            # A row is failed from its own beats on, or those of rows before it that were in time.
            assert got["failed"] or not fails
            assert got["failed"] or got["data"] == gather.beat(selection, position, beat)
        assert found[-1]["failed"] == fails
        failures += fails
    assert failures
    assert failures < 12 or len(gather.tables.contents) < 10_000


@cocotb.test()
async def what_is_not_set_fails(dut):
    gather = Gather(dut, latency=(3, 40), reorder=True)
    await gather.start()
    size = gather.parameters["page_tokens"]
    listed = gather.parameters["capacity"] // size
    gather.tables.unset = {(0, listed - 1)}
    sent = [gather.selection() for _ in range(12)]
    for selection in sent:
        gather.ask(selection)
    for selection in sent:
        found = await gather.take(selection, check=False)
        fails = any((selection[1], token // size) in gather.tables.unset
                    for token in selection[2])
        assert found[-1]["failed"] == fails
        if not fails:
            for place, got in enumerate(found):
                assert got["data"] == gather.beat(
                    selection, *divmod(place, gather.parameters["row_beats"]))
    assert not gather.owed


@cocotb.test()
@cocotb.parametrize(when=[0, 5, 30])
async def a_silent_memory_is_given_up(dut, when):
    """What is in work fails in the end; what then comes late disturbs nothing."""
    gather = Gather(dut, latency=(2, 20), reorder=True, timeout=200)
    await gather.start()
    bench = gather.bench
    sent = [gather.selection(gather.parameters["top_n"]) for _ in range(4)]
    for selection in sent:
        gather.ask(selection)
    await bench.until(lambda: any(memory.log for memory in gather.memories))
    await bench.step(when)
    gather.memories[-1].silent = True
    outcomes = []
    for selection in sent:
        found = await gather.take(selection, check=False)
        outcomes.append(found[-1]["failed"])
        for place, got in enumerate(found):
            assert got["failed"] or got["data"] == gather.beat(
                selection, *divmod(place, gather.parameters["row_beats"]))
    silent = gather.memories[-1].monitor.bursts
    if silent:
        assert outcomes[-1]
    gather.memories[-1].silent = False
    await bench.until(lambda: not gather.owed)
    await bench.step(40)
    for _ in range(3):
        selection = gather.selection()
        gather.ask(selection)
        await gather.take(selection, passes=2)


@cocotb.test()
async def a_late_memory_is_waited_for(dut):
    """The selection behind one that was given up is read when all that is owed has come."""
    gather = Gather(dut, latency=(300, 300), timeout=200)
    await gather.start()
    late, good = gather.selection(), gather.selection()
    gather.ask(late)
    found = await gather.take(late, check=False)
    assert found[-1]["failed"]
    for memory in gather.memories:
        memory.latency = (5, 20)
    await gather.bench.step(60)
    await gather.bench.until(lambda: not any(memory.bursts for memory in gather.memories))
    gather.ask(good)
    await gather.take(good)


@cocotb.test()
@cocotb.parametrize(timeout=[1, 20])
async def answers_that_come_just_when_it_is_given_up(dut, timeout):
    gather = Gather(dut, timeout=timeout, reorder=True)
    await gather.start()
    for late in range(-3, 7):
        for memory in gather.memories:
            memory.latency = (max(1, timeout + late),) * 2
        selection = gather.selection()
        gather.ask(selection)
        for place, got in enumerate(await gather.take(selection, check=False)):
            assert got["failed"] or got["data"] == gather.beat(
                selection, *divmod(place, gather.parameters["row_beats"]))
        await gather.bench.until(lambda: not gather.owed)
        await gather.bench.step(30)


@cocotb.test()
async def reset_forgets(dut):
    gather = Gather(dut, latency=(40, 40), reorder=True)
    await gather.start()
    for cycles in (3, 10, 45, 90):
        for _ in range(3):
            gather.ask(gather.selection())
        await gather.bench.step(cycles)
        await gather.start()
        selection = gather.selection()
        gather.ask(selection)
        await gather.take(selection)
