"""What the benches of the SoC core share: other people's bus models, a monitor, and a host."""

import json
import logging
import os
import random
import warnings
from collections import deque
from itertools import cycle, repeat
from pathlib import Path

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, with_timeout
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiResp,
    AxiStreamBus,
    AxiStreamFrame,
    AxiStreamSink,
    AxiStreamSource,
)
from cocotbext.axi.axil_channels import (
    AxiLiteARTransaction,
    AxiLiteAWTransaction,
    AxiLiteWTransaction,
)

from nearbit_hw.soc.registers import COUNTERS, Address, Command, SocError, register_map
from nearbit_model.config import Config
from nearbit_model.golden import Result, attend, attend_one
from nearbit_model.quantize import RescoreOperands, Values, codes_from_ints


# cocotbext-axi 0.1.28 sets its initial values in a way that cocotb 2.1 has deprecated.
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"cocotbext\.axi\.")

NO_N, TOO_MANY, EMPTY, RANGE, EXP_TABLE, RESCORE, SHARED = range(1, 8)

PATTERNS = ("never", "rarely", "half", "mostly", "every other", "bursts")


def pauses(pattern, rng):
    """Endless sequence of whether a channel pauses in a cycle."""
    def bursts():
        while True:
            yield from repeat(True, rng.randrange(12))
            yield from repeat(False, rng.randrange(12))

    def chance(probability):
        while True:
            yield rng.random() < probability

    match pattern:
        case "never":
            return None
        case "rarely":
            return chance(0.1)
        case "half":
            return chance(0.5)
        case "mostly":
            return chance(0.75)
        case "every other":
            return cycle([True, False])
        case "bursts":
            return bursts()
    raise ValueError(pattern)


CHANNELS = {
    "s_axi_aw": ("valid", "ready", ("addr", "prot")),
    "s_axi_w": ("valid", "ready", ("data", "strb")),
    "s_axi_b": ("valid", "ready", ("resp",)),
    "s_axi_ar": ("valid", "ready", ("addr", "prot")),
    "s_axi_r": ("valid", "ready", ("data", "resp")),
    "s_axis_": ("tvalid", "tready", ("tdata", "tlast")),
    "m_axis_result_": ("tvalid", "tready", ("tdata", "tlast")),
    "m_axis_trace_": ("tvalid", "tready", ("tdata", "tlast")),
    "m_axi_append_aw": ("valid", "ready", ("addr", "len")),
    "m_axi_append_w": ("valid", "ready", ("data", "strb", "last")),
}


class Monitor:
    """Looks at every rising edge, on its own, for what AXI forbids."""

    def __init__(self, dut, streams_only=False):
        self.dut = dut
        self.cycle = 0
        self.transfers = {}
        """Cycles of the transfers of each channel since the reset."""
        self.channels = {
            prefix: (getattr(dut, prefix + valid), getattr(dut, prefix + ready),
                     [getattr(dut, prefix + part) for part in payload])
            for prefix, (valid, ready, payload) in CHANNELS.items()
            if hasattr(dut, prefix + valid) and not (
                streams_only and prefix.startswith("s_axi_"))}
        self.held = dict.fromkeys(self.channels)
        self.task = cocotb.start_soon(self._watch())

    def _clear(self):
        self.held = dict.fromkeys(self.channels)
        self.transfers = {prefix: [] for prefix in self.channels}

    async def _watch(self):
        edge = RisingEdge(self.dut.aclk)
        self._clear()
        while True:
            await edge
            self.cycle += 1
            if str(self.dut.aresetn.value) != "1":
                self._clear()
                continue
            for prefix, (valid, ready, payload) in self.channels.items():
                says = str(valid.value), str(ready.value)
                assert set(says) <= {"0", "1"}, f"{prefix}: valid, ready are {says}"
                held = self.held[prefix]
                if says[0] == "0":
                    assert held is None, f"{prefix}: valid fell before a transfer"
                    continue
                shown = [str(part.value) for part in payload]
                if held is not None:
                    assert shown == held, f"{prefix}: payload changed: {held} -> {shown}"
                self.held[prefix] = None
                if says[1] == "0":
                    self.held[prefix] = shown
                    continue
                assert all(set(part) <= {"0", "1"} for part in shown), f"{prefix}: {shown}"
                self.transfers[prefix].append(self.cycle)
            # A response is valid only after a request has been taken, in a cycle before.
            for response, requests in (("s_axi_b", ("s_axi_aw", "s_axi_w")),
                                       ("s_axi_r", ("s_axi_ar",))):
                if response not in self.channels:
                    continue
                answers = len(self.transfers[response]) + (self.held[response] is not None)
                for request in requests:
                    taken = sum(when < self.cycle for when in self.transfers[request][-2:]) + len(
                        self.transfers[request][:-2])
                    assert answers <= taken, f"{response}: a response to no {request}"


class Host:
    """A SoC core with bus models around it, a copy of what it holds, and what it must answer."""

    def __init__(self, dut, rng, *, wishbone=None):
        settings = json.loads(Path(os.environ["NEARBIT_BENCH"]).read_text(encoding="utf-8"))
        self.parameters = settings["parameters"]
        self.dut, self.rng = dut, rng
        self.config = Config.from_dict(self.parameters["config"])
        self.unit = self.config.rescore
        self.map = register_map(self.config, self.parameters["data_bits"])
        for name in ("cocotb.dut", "cocotb"):
            logging.getLogger(name).setLevel(logging.WARNING)
        dut.aresetn.value = 0
        # The simulator's own clock: a tenth less time. Inputs have values before its first edge.
        Clock(dut.aclk, 10, "ns", impl="gpi").start(start_high=False)
        self.monitor = Monitor(dut, streams_only=wishbone is not None)
        around = (dut.aclk, dut.aresetn, False)
        if wishbone is None:
            self.axi = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), *around)
        self.wishbone = wishbone
        self.disturbs = True
        """Whether fields and commands are written during operations, now and then."""
        self.source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), *around,
                                      byte_lanes=1)
        self.results = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis_result"), *around,
                                     byte_lanes=1)
        self.traces = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis_trace"), *around,
                                    byte_lanes=1)
        self._forget()

    def _forget(self):
        capacity = self.config.capacity
        self.loaded = {"keys": 0, "values": 0, "rescore": 0}
        self.codes, self.values, self.rescore = ([None] * capacity for _ in range(3))
        self.exp_tables = {}
        self.batches = self.words = 0
        self.error = SocError.NONE
        self.expected_results, self.expected_traces = deque(), deque()

    async def cycles(self, count):
        for _ in range(count):
            await RisingEdge(self.dut.aclk)

    async def reset(self):
        self.dut.aresetn.value = 0
        await self.cycles(3)
        self.dut.aresetn.value = 1
        await self.cycles(1)
        self._forget()

    def pause(self, rng, patterns=PATTERNS):
        """Choose how each channel pauses."""
        ends = [self.source, self.results, self.traces]
        if self.wishbone is None:
            write, read = self.axi.write_if, self.axi.read_if
            ends += [write.aw_channel, write.w_channel, write.b_channel,
                     read.ar_channel, read.r_channel]
        chosen = []
        for end in ends:
            pattern = rng.choice(patterns)
            chosen.append(pattern)
            end.clear_pause_generator()
            end.pause = False
            generator = pauses(pattern, random.Random(rng.getrandbits(32)))
            if generator is not None:
                end.set_pause_generator(generator)
        return chosen

    # ---- Registers.
    async def write(self, address, value, strobe=15, okay=True):
        if self.wishbone is not None:
            response = await self.wishbone.write(address, value, strobe)
        else:
            if strobe == 15 and not address & 3:
                answer = await with_timeout(
                    self.axi.write(address, value.to_bytes(4, "little")), 20, "us")
                code = answer.resp
            else:
                # The master's bytes come with addresses of their own.
                ends = self.axi.write_if
                ends.aw_channel.send_nowait(AxiLiteAWTransaction(awaddr=address, awprot=0))
                ends.w_channel.send_nowait(AxiLiteWTransaction(wdata=value, wstrb=strobe))
                code = AxiResp(int((await with_timeout(ends.b_channel.recv(), 20, "us")).bresp))
            assert code in (AxiResp.OKAY, AxiResp.SLVERR)
            response = code == AxiResp.OKAY
        assert response == okay, f"write {value:#x} to {address:#x}: {response}"

    async def read(self, address, okay=True):
        if self.wishbone is not None:
            response, value = await self.wishbone.read(address)
        else:
            answer = await with_timeout(self.axi.read(address, 4), 20, "us")
            assert answer.resp in (AxiResp.OKAY, AxiResp.SLVERR)
            response, value = answer.resp == AxiResp.OKAY, int.from_bytes(answer.data, "little")
        assert response == okay, f"read of {address:#x}: {response}"
        return value

    async def read_word(self, address, okay=True):
        """Read a word at any address, which the master would make two of."""
        ends = self.axi.read_if
        ends.ar_channel.send_nowait(AxiLiteARTransaction(araddr=address, arprot=0))
        answer = await with_timeout(ends.r_channel.recv(), 20, "us")
        assert (AxiResp(int(answer.rresp)) == AxiResp.OKAY) == okay, f"read of {address:#x}"
        return int(answer.rdata)

    async def field(self, name, value):
        """Write a command field whole, or byte by byte with narrow strobes."""
        address = self.map.register(name).address
        if self.rng.random() < 0.9:
            await self.write(address, value)
        else:
            for lane in self.rng.sample(range(4), 4):
                noise = self.rng.getrandbits(32) & ~(0xff << 8 * lane)
                await self.write(address, (value & 0xff << 8 * lane) | noise, strobe=1 << lane)

    async def counter(self, name):
        index = [counter for counter, _ in COUNTERS].index(name)
        return await self.read(Address.COUNTERS + 8 * index)

    async def idle(self, *, active=False):
        """Wait until the operation has ended, or also all answers have left."""
        for _ in range(3000):
            status = await self.read(Address.STATUS)
            if not status & (3 if active else 1):
                return
        raise AssertionError("still busy")

    async def errors(self):
        """Compare ERROR with what it must be, and clear it."""
        value = await self.read(Address.ERROR)
        assert value & 0xffff == self.error, (
            f"{self.map.errors(value & 15).name}, not {self.error.name}")
        assert (await self.read(Address.STATUS)) >> 2 & 1 == (self.error != SocError.NONE)
        if self.error != SocError.NONE:
            assert (await self.read(Address.IRQ_STATUS)) & 2
            await self.write(Address.CONTROL, 1)
            await self.write(Address.IRQ_STATUS, 2)
            self.error = SocError.NONE
            assert await self.read(Address.ERROR) == 0
            assert not (await self.read(Address.IRQ_STATUS)) & 2
        return value >> 16

    # ---- Packets.
    def beats(self, elements, bits):
        """Pack elements, the first lowest, to whole beats."""
        mask = (1 << bits) - 1
        total = sum((element & mask) << bits * place for place, element in enumerate(elements))
        width = self.map.data_bits
        return [total >> width * place & ((1 << width) - 1)
                for place in range(-(-len(elements) * bits // width))]

    def groups(self, elements, lanes, bits):
        return [beat for start in range(0, len(elements), lanes)
                for beat in self.beats(elements[start:start + lanes], bits)]

    def send(self, beats):
        self.source.send_nowait(AxiStreamFrame(list(beats)))

    async def raw(self, beats, last=False):
        """Send beats past the source, which must be idle: a packet that need not end."""
        bus = self.source.bus
        for index, beat in enumerate(beats):
            bus.tdata.value = beat
            bus.tlast.value = int(last and index == len(beats) - 1)
            bus.tvalid.value = 1
            while True:
                await RisingEdge(self.dut.aclk)
                if int(bus.tready.value):
                    break
        bus.tvalid.value = 0

    def vector(self):
        limit = 1 << self.unit.element_bits - 1
        return [self.rng.randrange(-limit, limit) for _ in range(self.unit.head_dim)]

    # ---- Loads.
    def new_tokens(self, what, count):
        """Random tokens, and the beats of each."""
        config, rng = self.config, self.rng
        match what:
            case "keys":
                tokens = [rng.getrandbits(config.key_bits) for _ in range(count)]
                return tokens, [self.beats([token], config.key_bits) for token in tokens]
            case "values":
                low, high = -(1 << config.value_bits - 1), (1 << config.value_bits - 1) - 1
                tokens = [([rng.randint(low, high) for _ in range(config.value_dim)],
                         rng.randrange(1 << 16)) for _ in range(count)]
                return tokens, [
                    [scale, *self.groups(elements, config.value_lanes, config.value_bits)]
                    for elements, scale in tokens]
            case "rescore":
                tokens = [self.vector() for _ in range(count)]
                return tokens, [self.groups(token, self.unit.lanes, self.unit.element_bits)
                              for token in tokens]
        raise ValueError(what)

    def keep(self, what, start, tokens):
        store = {"keys": self.codes, "values": self.values, "rescore": self.rescore}[what]
        store[start:start + len(tokens)] = tokens
        if tokens:
            self.loaded[what] = max(self.loaded[what], start + len(tokens))

    async def start(self, command, token=None, number=None, okay=True):
        if token is not None:
            await self.field("TOKEN", token)
        if number is not None:
            await self.field("NUMBER", number)
        await self.write(Address.COMMAND, command, okay=okay)

    async def load(self, what, start, count, fault=None):
        """Load tokens, and with a fault the rest of them after it."""
        command = {"keys": Command.LOAD_KEYS, "values": Command.LOAD_VALUES,
                   "rescore": Command.LOAD_RESCORE_KEYS}[what]
        tokens, beats = self.new_tokens(what, count)
        packet = [beat for token in beats for beat in token]
        await self._packet(command, start, count, beats, packet, fault,
                           lambda place, number: self.keep(what, place, tokens[place - start:][
                               :number]))

    async def load_exp_table(self, exp_table, fault=None):
        config, rng = self.config, self.rng
        top = (1 << config.weight_bits) - 1
        weights = sorted((rng.randint(0, top) for _ in range(config.key_bits)), reverse=True)
        weights.insert(0, rng.choice([top, rng.randint(1, top)]))
        await self.field("EXP_TABLE", exp_table)
        await self._packet(Command.LOAD_EXP_TABLE, 0, len(weights),
                           [[weight] for weight in weights],
                           weights, fault, lambda place, number: None)
        self.exp_tables[exp_table] = weights

    async def _packet(self, command, start, count, beats, packet, fault, keep):
        rng = self.rng
        if fault == "early" and len(packet) > 1:
            short = rng.randint(1, len(packet) - 1)
            whole, left = 0, short
            while left >= len(beats[whole]):
                left -= len(beats[whole])
                whole += 1
            await self._run(command, start, count, packet[:short])
            keep(start, whole)
            if self.error == SocError.NONE:
                self.error = SocError.EARLY
            assert await self.read(Address.TOKEN) == start + whole
            assert await self.read(Address.NUMBER) == count - whole
            await self.errors()
            # TOKEN and NUMBER stand where it goes on.
            rest = [beat for token in beats[whole:] for beat in token]
            await self._run(command, None, None, rest)
            keep(start + whole, count - whole)
        else:
            extra = [rng.getrandbits(self.map.data_bits) for _ in range(rng.randint(1, 9))]
            await self._run(command, start, count, packet + (extra if fault == "late" else []))
            keep(start, count)
            if fault == "late" and self.error == SocError.NONE:
                self.error = SocError.LATE
        assert await self.read(Address.NUMBER) == 0
        assert await self.read(Address.TOKEN) == start + count

    async def _run(self, command, start, count, packet):
        """Send a packet before or after its command, and wait for the end."""
        before = self.rng.random() < 0.5
        if before:
            self.send(packet)
        await self.start(command, start, count)
        if not before:
            if self.disturbs and self.rng.random() < 0.2:
                await self._disturb()
            self.send(packet)
        await self.idle()

    async def _disturb(self):
        """Write fields and commands during an operation, which must not notice."""
        assert (await self.read(Address.STATUS)) & 1
        name = self.rng.choice(["TOKEN", "NUMBER", "FIRST", "N", "SINK", "RECENT", "FLAGS",
                                "EXP_TABLE",
                                "COMMAND", "QUERY0_COUNT", "QUERY0_EXP_TABLE"])
        await self.write(self.map.register(name).address, self.rng.randrange(2), okay=False)
        if self.error == SocError.NONE:
            self.error = SocError.BUSY
        elif self.error == SocError.QUERY:
            self.error = None # whichever comes first

    # ---- Queries.
    def query_error(self, command, query):
        config = self.config
        if command["n"] == 0:
            return NO_N
        if command["n"] + command["sink"] + command["recent"] > config.top_n:
            return TOO_MANY
        if query["count"] == 0:
            return EMPTY
        readable = min(self.loaded["keys"], self.loaded["values"])
        if command["rescore"] and self.unit is not None:
            readable = min(readable, self.loaded["rescore"])
        if command["first"] + query["count"] > readable:
            return RANGE
        if not command["rescore"] and query["exp_table"] not in self.exp_tables:
            return EXP_TABLE
        can_share = self.unit is not None and self.unit.shared
        if (command["rescore"] and self.unit is None) or (command["shared"] and not can_share):
            return RESCORE
        if command["shared"] and (not command["rescore"]
                                  or len({other["count"] for other in command["queries"]}) > 1):
            return SHARED
        return 0

    def header(self, query, error):
        return query | error << 8 | (0 if error else self.config.value_dim) << 16

    def expect(self, command, codes, elements):
        """Queue what a batch must be answered with."""
        config, lanes = self.config, self.config.lanes
        store = min(self.loaded["keys"], self.loaded["values"])
        known = self.codes[:store]
        errors = [self.query_error(command, query) for query in command["queries"]]
        self.batches += 1
        self.words += max([0, *((command["first"] % lanes + query["count"] - 1) // lanes + 1
                                for query, error in zip(command["queries"], errors, strict=True)
                                if not error)])
        vectors = [value[0] for value in self.values[:store]]
        scales = [value[1] for value in self.values[:store]]
        rescored = bool(self.unit and command["rescore"])
        if rescored:
            # Rescore keys are for the tokens that have them.
            held = min(store, self.loaded["rescore"])
            known, vectors, scales = known[:held], vectors[:held], scales[:held]
        shared = None
        if command["shared"] and not errors[0]:
            ones = [[1] * (config.key_bits + 1)] * config.queries
            result = attend(
                np.array([codes_from_ints([code], config.key_bits) for code in codes]),
                codes_from_ints(known, config.key_bits)[None],
                Values(np.array([vectors]), np.array([scales])), ones, config=config,
                counts=command["queries"][0]["count"], first=command["first"], n=command["n"],
                sink=command["sink"], recent=command["recent"], shared=True,
                rescore=RescoreOperands(
                    np.array(elements)[:, None], np.array([self.rescore[:len(known)]]),
                    np.array([[query["multiplier"]] for query in command["queries"]])))
            shared = [Result(result.output_int[query, 0], result.selected[query, 0],
                             result.distances[query, 0], result.weights[query, 0],
                             result.scores[query, 0]) for query in range(config.queries)]
        for index, (query, error) in enumerate(zip(command["queries"], errors, strict=True)):
            if error:
                self.expected_results.append([self.header(index, error)])
                if self.error == SocError.NONE:
                    self.error = SocError.QUERY
                continue
            golden = shared[index] if shared else attend_one(
                codes[index], known, vectors, scales,
                self.exp_tables.get(query["exp_table"], [1] * (config.key_bits + 1)), config=config,
                count=query["count"], first=command["first"], n=command["n"], sink=command["sink"],
                recent=command["recent"],
                rescore=RescoreOperands(
                    np.array([[elements[index]]]), np.array([self.rescore[:len(known)]]),
                    np.array([[query["multiplier"]]])) if rescored else None)
            self.expected_results.append([
                self.header(index, 0),
                *self.beats(golden.output_int.tolist(), self.map.result_bits)])
            if command["trace"]:
                self.expected_traces.append(self.trace(index, golden))

    def trace(self, query, golden):
        scores = -golden.distances if golden.scores is None else golden.scores
        packet = []
        for place in np.argsort(-golden.selected).tolist():
            low = (int(golden.selected[place]) | query << 24 | int(golden.distances[place]) << 32)
            weight = int(golden.weights[place])
            if self.map.trace_bits == 64:
                packet.append(low | weight << 48)
            else:
                packet.append(low | (int(scores[place]) & 0xffffffff) << 64 | weight << 96)
        return packet

    def random_command(self, faulty):
        config, rng = self.config, self.rng
        store = min(self.loaded["keys"], self.loaded["values"])
        first = rng.choice([0, rng.randrange(store)])
        n = rng.choice([1, rng.randint(1, config.top_n), config.top_n])
        sink = rng.choice([0, rng.randint(0, config.top_n - n)])
        recent = rng.choice([0, rng.randint(0, config.top_n - n - sink)])
        command = {
            "first": first, "n": n, "sink": sink, "recent": recent, "trace": rng.randrange(2),
            "rescore": rng.randrange(2) if self.unit else 0, "shared": 0,
            "queries": [{"count": rng.randint(1, store - first),
                         "exp_table": rng.choice([*self.exp_tables]),
                         "multiplier": rng.choice([0, rng.randrange(1 << 32),
                                                   rng.randrange(1 << 20)])}
                        for _ in range(config.queries)]}
        if self.unit and self.unit.shared and command["rescore"] and rng.random() < 0.5:
            command["shared"] = 1
            for query in command["queries"]:
                query["count"] = command["queries"][0]["count"]
        if faulty:
            query = rng.choice(command["queries"])
            match rng.choice(["n", "many", "empty", "range", "rescore", "shared", "exp_table"]):
                case "n":
                    command["n"] = 0
                case "many":
                    command["recent"] = config.capacity
                case "empty":
                    query["count"] = 0
                case "range":
                    query["count"] = config.capacity
                case "rescore":
                    command["rescore"] = 1
                case "shared":
                    command["shared"] = 1
                case "exp_table":
                    query["exp_table"] = rng.randrange(config.exp_tables)
        return command

    def batch_packet(self, command, number):
        """Codes, rescore queries and beats of some random batches."""
        config, rng = self.config, self.rng
        batches = []
        for _ in range(number):
            codes = [rng.getrandbits(config.key_bits) for _ in range(config.queries)]
            beats = [beat for code in codes for beat in self.beats([code], config.key_bits)]
            elements = []
            if self.unit and command["rescore"]:
                elements = [self.vector() for _ in range(config.queries)]
                beats += [beat for query in elements
                          for beat in self.groups(query, self.unit.lanes, self.unit.element_bits)]
            batches.append((codes, elements, beats))
        return batches

    async def write_fields(self, command):
        """Write the fields of a batch, in any order."""
        values = {"FIRST": command["first"], "N": command["n"], "SINK": command["sink"],
                  "RECENT": command["recent"],
                  "FLAGS": command["trace"] | command["rescore"] << 1 | command["shared"] << 2}
        for index, query in enumerate(command["queries"]):
            values |= {f"QUERY{index}_{name.upper()}": query[name]
                       for name in ("count", "exp_table")}
            if self.unit:
                values[f"QUERY{index}_MULTIPLIER"] = query["multiplier"]
        for name in self.rng.sample(list(values), len(values)):
            await self.field(name, values[name])
        name = self.rng.choice(list(values))
        assert await self.read(self.map.register(name).address) == values[name]

    async def ask(self, number, fault=None, faulty=False):
        """Send an operation of some batches, and expect its answers."""
        rng = self.rng
        command = self.random_command(faulty)
        await self.write_fields(command)
        batches = self.batch_packet(command, number)
        packet = [beat for *_, beats in batches for beat in beats]
        if fault == "early" and len(packet) > 1:
            short = rng.randint(1, len(packet) - 1)
            left = short
            complete = 0
            while left >= len(batches[complete][2]):
                left -= len(batches[complete][2])
                complete += 1
            for codes, elements, _ in batches[:complete]:
                self.expect(command, codes, elements)
            heads = self.config.queries * -(-self.config.key_bits // self.map.data_bits)
            if self.unit and command["rescore"] and left >= heads:
                # The core may have some of its rescore elements: it is answered with errors.
                self.expect({**command, "n": 0}, batches[complete][0], batches[complete][1])
            packet = packet[:short]
            kind = SocError.EARLY
        else:
            for codes, elements, _ in batches:
                self.expect(command, codes, elements)
            kind = SocError.LATE
            if fault == "late":
                packet += [rng.getrandbits(self.map.data_bits) for _ in range(rng.randint(1, 9))]
        await self._run(Command.QUERY, None, number, packet)
        if fault == "late" or kind == SocError.EARLY:
            if self.error == SocError.QUERY:
                self.error = None # whichever comes first
            elif self.error == SocError.NONE:
                self.error = kind

    async def answers(self):
        """Compare all answers that are to come."""
        for sink, expected in ((self.results, self.expected_results),
                               (self.traces, self.expected_traces)):
            while expected:
                frame = await with_timeout(sink.recv(), 200, "us")
                packet = expected.popleft()
                assert list(frame.tdata) == packet, (
                    f"{[hex(beat) for beat in frame.tdata]}, not {[hex(beat) for beat in packet]}")
        await self.idle(active=True)
        assert self.results.empty()
        assert self.traces.empty()
        assert await self.counter("BATCHES") == self.batches
        assert await self.counter("KEYS") == self.words
