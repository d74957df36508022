"""The codes that a CodeFetcher reads, from a memory that does what memories may do."""

import cocotb
from memory_model import MemoryBench, ReadMemory, Tables, other_memory


class Fetch:
    """A fetcher with its tables and memory, and what is expected of it."""

    def __init__(self, dut, *, stall=0.0, idle=0.0, limit=10_000, delay=(0, 0), scattered=True,
                 timeout=0, other=False, pause=0.0, **memory):
        self.bench = bench = MemoryBench(dut, stall=stall, idle=idle, limit=limit)
        self.parameters = bench.parameters
        self.tables = Tables(self.parameters, bench.rng, scattered=scattered)
        if other:
            other_memory(dut, "axi", self.tables.contents, bench.rng, pause)
        else:
            self.memory = ReadMemory(bench, "axi", self.tables.contents,
                                     data_bits=self.parameters["data_bits"], **memory)
        self.tables.serve(bench, "o_lookup", "i_lookup", delay)
        bench.sink("o_lookup").stall = stall
        bench.source("i_lookup").idle = 0
        self.timeout = timeout
        dut.timeout.value = timeout
        self.words = bench.sink("o")

    async def start(self):
        await self.bench.reset()

    def expected(self, head, sequence, first, count):
        """Words of a command that does not fail."""
        lanes = self.parameters["lanes"]
        begin, end = first // lanes, (first + count - 1) // lanes
        return [{"codes": [self.tables.code(head, sequence, word * lanes + lane)
                           for lane in range(lanes)],
                 "last": int(word == end), "failed": 0} for word in range(begin, end + 1)]

    def ask(self, head, sequence, first, count):
        self.bench.source("i").send(
            {"head": head, "sequence": sequence, "first": first, "count": count})

    def command(self):
        """Any range."""
        rng, capacity = self.bench.rng, self.parameters["capacity"]
        count = rng.choice([1, rng.randint(1, capacity), rng.randint(1, min(capacity, 70)),
                            capacity])
        return (rng.randrange(self.parameters["heads"]),
                rng.randrange(self.parameters["sequences"]),
                rng.randint(0, capacity - count), count)

    def send(self, command):
        self.ask(*command)
        self.words.expect(*self.expected(*command))

    def commands(self):
        """What was received, cut into commands."""
        found = [[]]
        for word in self.words.received:
            found[-1].append(word)
            if word["last"]:
                found.append([])
        assert not found.pop(), "a command without its last word"
        return found


MEMORIES = [
    {"latency": (1, 1)},
    {"latency": (1, 1), "stall": 0.5},
    {"latency": (100, 100)},
    {"latency": (20, 200), "idle": 0.3},
    {"latency": (1, 9), "pace": 0.3, "outstanding": 1},
    {"latency": (3, 30), "ar_stall": 0.7, "r_idle": 0.4, "stall": 0.3, "delay": (0, 5)},
]


@cocotb.test()
@cocotb.parametrize(memory=MEMORIES)
async def commands(dut, memory):
    fetch = Fetch(dut, **memory)
    await fetch.start()
    for _ in range(12):
        fetch.send(fetch.command())
    await fetch.bench.finish()
    assert not fetch.memory.monitor.bursts


@cocotb.test()
async def latency(dut):
    for delay in (1, 2, 17):
        fetch = Fetch(dut, latency=(delay, delay))
        await fetch.start()
        fetch.send((0, 0, 0, 1))
        await fetch.bench.finish()
        assert fetch.words.cycles == [fetch.parameters["latency"] + delay]


@cocotb.test()
async def bursts_are_as_long_as_can_be(dut):
    fetch = Fetch(dut)
    await fetch.start()
    capacity = fetch.parameters["capacity"]
    fetch.send((0, 0, 0, capacity))
    await fetch.bench.finish()
    bits = fetch.parameters["page_tokens"] * fetch.parameters["code_bits"]
    beats = min(bits, 8 * fetch.parameters["burst_bytes"]) // fetch.parameters["data_bits"]
    assert {length for _, length in fetch.memory.log} == {beats}
    addresses = [address for address, _ in fetch.memory.log]
    assert addresses == [
        fetch.tables.code_address(0, 0, token) for token in range(
            0, capacity, beats * fetch.parameters["data_bits"] // fetch.parameters["code_bits"])]


@cocotb.test()
async def bursts_come_soon(dut):
    """Three cycles apart in a command, four from one command to the next."""
    fetch = Fetch(dut)
    await fetch.start()
    fetch.send((0, 0, 0, fetch.parameters["capacity"]))
    await fetch.bench.finish()
    cycles = list(fetch.memory.addresses.cycles)
    if len(cycles) > 1:
        assert cycles[1] - cycles[0] == 3
    fetch.send((0, 0, 0, 1))
    fetch.send((0, 0, 0, 1))
    await fetch.bench.finish()
    gap = fetch.memory.addresses.cycles[-1] - fetch.memory.addresses.cycles[-2]
    assert gap == 4 or (fetch.parameters["commands"] == 1 and gap > 4)


@cocotb.test()
async def no_burst_without_room(dut):
    """While nothing is taken, no more is asked for than the queue holds."""
    fetch = Fetch(dut, stall=1)
    await fetch.start()
    bench = fetch.bench
    bench.sink("o_lookup").stall = 0
    for _ in range(3):
        fetch.send((0, 0, 0, fetch.parameters["capacity"]))
    await bench.step(3000)
    beats = sum(length for _, length in fetch.memory.log)
    in_all = (min(3, fetch.parameters["commands"])
              * fetch.parameters["capacity"] * fetch.parameters["code_bits"])
    assert beats == min(fetch.parameters["depth"], in_all // fetch.parameters["data_bits"])
    fetch.words.stall = 0
    await bench.finish()


@cocotb.test()
async def errors_fail_their_command_only(dut):
    fetch = Fetch(dut, latency=(3, 30), r_idle=0.2, stall=0.2)
    await fetch.start()
    rng = fetch.bench.rng
    sent = []
    # Beats are in several commands; only then is it known which ones fail.
    for _ in range(20):
        sent.append(fetch.command())
        head, sequence, first, count = sent[-1]
        if rng.random() < 0.5:
            address = fetch.tables.code_address(head, sequence, rng.randrange(first, first + count))
            fetch.memory.faults[address] = rng.choice([2, 3])
    for command in sent:
        fetch.ask(*command)
    await fetch.bench.until(lambda: sum(word["last"] for word in fetch.words.received) == 20)
    await fetch.bench.step(20)
    faults = fetch.memory.faults
    failures = 0
    lanes = fetch.parameters["lanes"]
    for (head, sequence, first, count), words in zip(sent, fetch.commands(), strict=True):
        failed = 0
        expected = fetch.expected(head, sequence, first, count)
        assert len(words) == len(expected)
        for index, (word, good) in enumerate(zip(words, expected, strict=True)):
            token = (first // lanes + index) * lanes
            failed |= int(any(fetch.tables.code_address(head, sequence, token + lane) in faults
                              for lane in range(lanes)))
            assert word["failed"] == failed
            assert failed or word == good
        failures += failed
    assert failures
    assert failures < 20 or fetch.parameters["capacity"] == fetch.parameters["page_tokens"]


@cocotb.test()
async def what_is_not_set_fails(dut):
    fetch = Fetch(dut, latency=(5, 50), stall=0.2)
    await fetch.start()
    rng, size = fetch.bench.rng, fetch.parameters["page_tokens"]
    listed = fetch.parameters["capacity"] // size
    fetch.tables.unset = {(rng.randrange(fetch.parameters["sequences"]), listed - 1),
                          fetch.parameters["heads"] - 1}
    sent = [fetch.command() for _ in range(20)]
    for command in sent:
        fetch.ask(*command)
    await fetch.bench.until(lambda: sum(word["last"] for word in fetch.words.received) == 20)
    await fetch.bench.step(20)
    assert not fetch.memory.monitor.bursts
    for (head, sequence, first, count), words in zip(sent, fetch.commands(), strict=True):
        expected = fetch.expected(head, sequence, first, count)
        assert len(words) == len(expected)
        used = range(first // size, (first + count - 1) // size + 1)
        fails = head in fetch.tables.unset or any(
            (sequence, index) in fetch.tables.unset for index in used)
        assert words[-1]["failed"] == fails
        for word, good in zip(words, expected, strict=True):
            assert word["failed"] or word == good


@cocotb.test()
async def beyond_the_capacity_fails(dut):
    fetch = Fetch(dut)
    await fetch.start()
    capacity = fetch.parameters["capacity"]
    fetch.ask(0, 0, capacity - 1, capacity)
    await fetch.bench.until(lambda: fetch.words.received and fetch.words.received[-1]["last"])
    assert fetch.words.received[-1]["failed"]
    fetch.words.received.clear()
    fetch.send((0, 0, 0, capacity))
    await fetch.bench.finish()


@cocotb.test()
@cocotb.parametrize(when=[0, 1, 7, 40], stall=[0.0, 0.5])
async def a_silent_memory_is_given_up(dut, when, stall):
    """What is in work fails in the end; what then comes late disturbs nothing."""
    fetch = Fetch(dut, latency=(2, 20), timeout=300)
    await fetch.start()
    bench = fetch.bench
    capacity = fetch.parameters["capacity"]
    fetch.words.stall = stall
    fetch.ask(0, 0, 0, capacity)
    fetch.ask(0, 0, 0, 1)
    await bench.until(lambda: len(fetch.memory.log) > 0)
    await bench.step(when)
    fetch.memory.silent = True
    begin = bench.cycle
    await bench.until(lambda: sum(word["last"] for word in fetch.words.received) == 2)
    words = fetch.commands()
    expected = [fetch.expected(0, 0, 0, capacity), fetch.expected(0, 0, 0, 1)]
    assert [len(part) for part in words] == [len(part) for part in expected]
    for word, good in zip(words[0], expected[0], strict=True):
        assert word["failed"] or word == good
    # The second was in work, or came while the silence went on; it had no chance.
    if fetch.memory.monitor.bursts:
        assert bench.cycle - begin >= 300
        assert words[1][-1]["failed"]
        fetch.ask(0, 0, 0, capacity)
        await bench.until(lambda: sum(word["last"] for word in fetch.words.received) == 3)
        assert all(word["failed"] for word in fetch.commands()[2])
    fetch.memory.silent = False
    await bench.until(lambda: not fetch.memory.monitor.bursts)
    fetch.words.received.clear()
    for _ in range(3):
        fetch.send(fetch.command())
    await bench.finish()


@cocotb.test()
async def a_late_memory_is_waited_for(dut):
    """The command behind one that was given up is read when all that is owed has come."""
    fetch = Fetch(dut, latency=(400, 400), timeout=300)
    await fetch.start()
    fetch.ask(0, 0, 0, 1)
    await fetch.bench.until(lambda: fetch.words.received)
    assert fetch.words.received[0]["failed"]
    fetch.words.received.clear()
    await fetch.bench.step(50)
    fetch.memory.latency = (10, 20)
    await fetch.bench.until(lambda: not fetch.memory.bursts)
    fetch.send((0, 0, 0, fetch.parameters["capacity"]))
    await fetch.bench.finish()


@cocotb.test()
@cocotb.parametrize(timeout=[1, 2, 20])
async def answers_that_come_just_when_it_is_given_up(dut, timeout):
    fetch = Fetch(dut, timeout=timeout)
    await fetch.start()
    count = min(fetch.parameters["capacity"], 40)
    expected = fetch.expected(0, 0, 0, count)
    outcomes = set()
    for late in range(-3, 7):
        fetch.memory.latency = (max(1, timeout + late),) * 2
        fetch.ask(0, 0, 0, count)
        await fetch.bench.until(lambda: len(fetch.words.received) == len(expected))
        for word, good in zip(fetch.words.received, expected, strict=True):
            assert word["failed"] or word == good
        outcomes.add(fetch.words.received[-1]["failed"])
        await fetch.bench.until(lambda: not fetch.memory.bursts)
        await fetch.bench.step(10)
        assert len(fetch.words.received) == len(expected)
        fetch.words.received.clear()
    assert outcomes == {0, 1} if timeout > 2 else 1 in outcomes


@cocotb.test()
async def reset_forgets(dut):
    fetch = Fetch(dut, latency=(50, 50))
    await fetch.start()
    for cycles in (3, 10, 70, 130):
        for _ in range(4):
            fetch.send((0, 0, 0, fetch.parameters["capacity"]))
        await fetch.bench.step(cycles)
        await fetch.bench.reset()
        fetch.send(fetch.command())
        await fetch.bench.finish()
