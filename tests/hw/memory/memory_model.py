"""The other end of AXI4 channels in a bench: a memory, and a monitor of the rules."""

import logging
import random
import warnings
from collections import deque

from cocotbext.axi import AxiRamRead, AxiRamWrite, AxiReadBus, AxiWriteBus

from nearbit_sim.stream import Bench


# cocotbext-axi 0.1.28 sets its initial values in a way that cocotb 2.1 has deprecated.
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"cocotbext\.axi\.")


class MemoryBench(Bench):
    """A bench whose memories act before each cycle."""

    def __init__(self, dut, **options):
        super().__init__(dut, **options)
        self.memories = []

    async def reset(self, cycles=1):
        await super().reset(cycles)
        for memory in self.memories:
            memory.reset()

    async def step(self, cycles=1):
        for _ in range(cycles):
            for memory in self.memories:
                memory.act(self.cycle)
            await super().step()


class Monitor:
    """What AXI4 asks of bursts and their answers; Bench sees to valid, ready and payloads."""

    def __init__(self, name, data_bits):
        self.name = name
        self.bytes = data_bits // 8
        self.owed = {}
        """For each ID, the beats that are still to come of each burst, oldest first."""

    def burst(self, payload):
        """An address is transferred."""
        beats = payload["len"] + 1
        address = payload["addr"]
        assert address % self.bytes == 0, f"{self.name}: {address:#x} is not a beat's"
        assert address % 4096 + beats * self.bytes <= 4096, (
            f"{self.name}: {beats} beats from {address:#x} cross 4 KiB")
        self.owed.setdefault(payload["id"], deque()).append(beats)

    def beat(self, number, last):
        """A beat of the oldest burst of an ID is transferred."""
        bursts = self.owed[number]
        bursts[0] -= 1
        assert bool(last) == (bursts[0] == 0), f"{self.name}: last is {last}, ID {number}"
        if last:
            bursts.popleft()

    @property
    def bursts(self):
        """Bursts that are not answered."""
        return sum(map(len, self.owed.values()))


class ReadMemory:
    """Answers the read channels of a component.

    latency
        Cycles from an address to the first beat at the earliest: from, to.
    pace
        Beats per cycle, at most.
    outstanding
        Bursts that are held; no more addresses are taken then.
    reorder
        Whether bursts of different IDs overtake each other, and beats of them mix.
    ar_stall, r_idle
        Probabilities of pauses.
    faults
        Responses for beats by their address.
    silent
        Whether nothing is answered; may be changed at any time, as all of these.
    """

    def __init__(self, bench, prefix, contents, *, data_bits, latency=(1, 1), pace=1.0,
                 outstanding=64, reorder=False, ar_stall=0.0, r_idle=0.0, faults=None):
        self.bench, self.contents, self.bytes = bench, contents, data_bits // 8
        self.latency, self.pace, self.outstanding = latency, pace, outstanding
        self.reorder, self.ar_stall = reorder, ar_stall
        self.faults = faults or {}
        self.silent = False
        self.rng = random.Random(f"{bench.seed} {prefix}")
        self.addresses, self.beats = bench.sink(f"{prefix}__ar"), bench.source(f"{prefix}__r")
        self.addresses.on_beat = self._take
        self.beats.idle = r_idle
        self.prefix = prefix
        self.log = []
        """Address and beats of each burst."""
        bench.memories.append(self)
        self.reset()

    def reset(self):
        self.monitor = Monitor(self.prefix, 8 * self.bytes)
        self.bursts, self.current, self.offered = [], None, None
        self.credit = 0.0
        self.log.clear()

    def _take(self, payload, cycle):
        self.monitor.burst(payload)
        self.log.append((payload["addr"], payload["len"] + 1))
        self.bursts.append({"id": payload["id"], "address": payload["addr"],
                            "beats": payload["len"] + 1,
                            "due": cycle + self.rng.randint(*self.latency)})

    def _choose(self, cycle):
        """The burst whose next beat is given."""
        if not self.reorder:
            return self.bursts[0] if self.bursts and self.bursts[0]["due"] <= cycle else None
        first = {}
        for burst in self.bursts:
            first.setdefault(burst["id"], burst)
        due = [burst for burst in first.values() if burst["due"] <= cycle]
        return self.rng.choice(due) if due else None

    def act(self, cycle):
        self.addresses.stall = 1 if len(self.bursts) >= self.outstanding else self.ar_stall
        if self.beats.pending:
            return
        if self.offered is not None:
            self.monitor.beat(*self.offered)
            self.offered = None
        self.credit = min(self.credit + self.pace, 1.0)
        burst = None if self.silent or self.credit < 1 else self._choose(cycle)
        if burst is None:
            return
        self.credit -= 1
        address = burst["address"]
        burst["address"] += self.bytes
        burst["beats"] -= 1
        last = int(burst["beats"] == 0)
        if last:
            self.bursts.remove(burst)
        self.beats.send({
            "id": burst["id"], "last": last, "resp": self.faults.get(address, 0),
            "data": int.from_bytes(self.contents[address:address + self.bytes], "little")})
        self.offered = burst["id"], last


class WriteMemory:
    """Answers the write channels of a component.

    contents
        A bytearray that is written to.
    latency
        Cycles from a burst's address or last beat to its answer at the earliest: from, to.
    aw_stall, w_stall, b_idle
        Probabilities of pauses.
    faults
        Responses for bursts by their address.
    silent
        Whether nothing is taken or answered.
    """

    def __init__(self, bench, prefix, contents, *, data_bits, latency=(1, 1), aw_stall=0.0,
                 w_stall=0.0, b_idle=0.0, faults=None):
        self.contents, self.bytes = contents, data_bits // 8
        self.latency, self.aw_stall, self.w_stall = latency, aw_stall, w_stall
        self.faults = faults or {}
        self.silent = False
        self.prefix = prefix
        self.rng = random.Random(f"{bench.seed} {prefix}")
        self.addresses, self.beats = bench.sink(f"{prefix}__aw"), bench.sink(f"{prefix}__w")
        self.answers = bench.source(f"{prefix}__b")
        self.answers.idle = b_idle
        self.addresses.on_beat, self.beats.on_beat = self._take, self._write
        self.log = []
        """Address and beats of each burst."""
        bench.memories.append(self)
        self.reset()

    def reset(self):
        self.monitor = Monitor(self.prefix, 8 * self.bytes)
        self.bursts, self.words, self.due, self.sent = deque(), [], deque(), 0
        self.log.clear()

    def _take(self, payload, cycle):
        self.monitor.burst(payload)
        self.log.append((payload["addr"], payload["len"] + 1))
        self.bursts.append((payload["addr"], payload["len"] + 1))
        self._finish(cycle)

    def _write(self, payload, cycle):
        self.words.append(payload)
        self._finish(cycle)

    def _finish(self, cycle):
        """Write the oldest burst, if all of it is there."""
        while self.bursts and len(self.words) >= self.bursts[0][1]:
            address, beats = self.bursts.popleft()
            for beat in range(beats):
                word = self.words.pop(0)
                self.monitor.beat(0, word["last"])
                for byte in range(self.bytes):
                    if word["strb"] >> byte & 1:
                        self.contents[address + beat * self.bytes + byte] = (
                            word["data"] >> 8 * byte & 0xff)
            self.due.append((cycle + self.rng.randint(*self.latency), self.faults.get(address, 0)))

    def act(self, cycle):
        self.addresses.stall = 1 if self.silent else self.aw_stall
        self.beats.stall = 1 if self.silent else self.w_stall
        if self.due and self.due[0][0] <= cycle and not self.silent and not self.answers.pending:
            self.answers.send({"id": 0, "resp": self.due.popleft()[1]})
            self.sent += 1

    @property
    def owed(self):
        """Bursts that are not answered."""
        return len(self.log) - self.sent + self.answers.pending


def other_memory(dut, prefix, contents, rng, pause=0.0):
    """Other people's memory, on pins of AMBA's names."""
    def pauses():
        while True:
            yield rng.random() < pause

    for channel in ("ar", "r"):
        logging.getLogger(f"cocotb.{dut._name}.{prefix}.{channel}").setLevel(logging.WARNING)
    memory = AxiRamRead(AxiReadBus.from_prefix(dut, prefix), dut.clk, dut.rst,
                        size=len(contents))
    memory.log.setLevel(logging.WARNING)
    memory.write(0, bytes(contents))
    if pause:
        memory.ar_channel.set_pause_generator(pauses())
        memory.r_channel.set_pause_generator(pauses())
    return memory


def other_memory_to_write(dut, prefix, contents, rng, pause=0.0):
    """Other people's memory, to be written to."""
    def pauses():
        while True:
            yield rng.random() < pause

    for channel in ("aw", "w", "b"):
        logging.getLogger(f"cocotb.{dut._name}.{prefix}.{channel}").setLevel(logging.WARNING)
    memory = AxiRamWrite(AxiWriteBus.from_prefix(dut, prefix), dut.clk, dut.rst,
                         size=len(contents))
    memory.log.setLevel(logging.WARNING)
    memory.write(0, bytes(contents))
    for channel in (memory.aw_channel, memory.w_channel, memory.b_channel):
        channel.set_pause_generator(pauses())
    return memory


class Tables:
    """Heads and sequences, as a bench has them, and where tokens are by the contract's words."""

    def __init__(self, parameters, rng, *, scattered=True):
        self.parameters, self.rng = parameters, rng
        pages, listed = parameters["pages"], parameters["capacity"] // parameters["page_tokens"]
        self.code_bytes = parameters["code_bits"] / 8
        self.heads = {}
        self.lists = []
        for _ in range(parameters["sequences"]):
            numbers = list(range(pages))
            if scattered:
                rng.shuffle(numbers)
            # Sequences may share pages.
            self.lists.append(numbers[:listed])
        at = 0
        unit = parameters["burst_bytes"]
        for head in range(parameters["heads"]):
            size = pages * parameters["page_tokens"] * parameters["code_bits"] // 8
            self.heads[head] = {"codes": at}
            at += -(-size // unit) * unit + unit * rng.randrange(3)
        unit = max(16, parameters["data_bits"] // 8)
        stride = parameters.get("stride", unit)
        for head in range(parameters["heads"]):
            at = -(-at // unit) * unit + unit * rng.randrange(3)
            self.heads[head] |= {"rows": at, "stride": stride}
            at += pages * parameters["page_tokens"] * stride
        self.contents = bytearray(rng.randbytes(at + 4096))
        self.unset = set()
        """Heads, and pairs of sequence and index, that are not set."""

    def place(self, sequence, token):
        size = self.parameters["page_tokens"]
        return self.lists[sequence][token // size] * size + token % size

    def code(self, head, sequence, token):
        """A token's code: a number of key_bits."""
        bits = self.parameters["code_bits"]
        bit = 8 * self.heads[head]["codes"] + self.place(sequence, token) * bits
        number = int.from_bytes(self.contents[bit // 8:(bit + bits + 7) // 8], "little")
        return (number >> bit % 8) % (1 << self.parameters["key_bits"])

    def row_address(self, head, sequence, token):
        at = self.heads[head]
        return at["rows"] + self.place(sequence, token) * at["stride"]

    def crossing(self, row_beats):
        """Heads, sequences and tokens of the rows that cross 4 KiB, in any order."""
        size = row_beats * self.parameters["data_bits"] // 8
        found = [(head, sequence, token) for head in self.heads
                 for sequence in range(self.parameters["sequences"])
                 for token in range(self.parameters["capacity"])
                 if self.row_address(head, sequence, token) % 4096 + size > 4096]
        self.rng.shuffle(found)
        return found

    def code_address(self, head, sequence, token):
        """Address of the beat that a token's code begins in."""
        bits, size = self.parameters["code_bits"], self.parameters["data_bits"] // 8
        byte = self.heads[head]["codes"] + self.place(sequence, token) * bits // 8
        return byte // size * size

    def answer(self, request):
        """What a look-up finds."""
        head, sequence, index = request["head"], *request["page"].values()
        listed = self.parameters["capacity"] // self.parameters["page_tokens"]
        error = 0
        if index >= listed:
            error = 2
        elif head in self.unset or (sequence, index) in self.unset:
            error = 1
        at = self.heads[head]
        unit = max(16, self.parameters["data_bits"] // 8)
        return {
            "error": error,
            "head": {"codes": at["codes"] // self.parameters["burst_bytes"],
                     "rows": at["rows"] // unit, "stride": at["stride"] // unit},
            "page": self.lists[sequence][index] if index < listed else 0,
            "tokens": self.parameters["capacity"],
        }

    def serve(self, bench, request, answer, delay=(0, 0)):
        """Answer the look-ups of a component, in the cycle after or later."""
        source = bench.source(answer)
        due = deque()

        def take(payload, cycle):
            due.append((cycle + 1 + self.rng.randint(*delay), self.answer(payload)))

        class Acts:
            def reset(self):
                due.clear()

            def act(self, cycle):
                if due and due[0][0] <= cycle:
                    source.send(due.popleft()[1])

        bench.sink(request).on_beat = take
        bench.memories.append(Acts())
