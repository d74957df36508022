"""A SoC core whose cache lies in memory, with that memory behind its AXI4 managers."""

import logging

import numpy as np
from cocotb.triggers import with_timeout
from cocotbext.axi import (
    AxiReadBus,
    AxiSlaveRead,
    AxiSlaveWrite,
    AxiStreamFrame,
    AxiWriteBus,
)
from host import Host, pauses

from nearbit_hw.soc.registers import Address, Command, Control, SocError
from nearbit_hw.soc.soc_core import APPEND_BUS, memory_buses
from nearbit_model.golden import Result, attend, attend_one
from nearbit_model.memory import MemoryImage, plan_memory
from nearbit_model.quantize import RescoreOperands, Values, codes_from_ints
from nearbit_model.structure import Error


class Memory:
    """What other people's subordinates access: bytes, of which some cannot be."""

    def __init__(self, contents, beat_bytes):
        self.contents = contents
        self.beat_bytes = beat_bytes
        self.faults = set()
        """Addresses of beats."""

    async def read(self, address, length):
        if address in self.faults:
            raise ValueError(address)
        return bytes(self.contents[address:address + length])

    async def write(self, address, data):
        # At most a beat.
        if address // self.beat_bytes * self.beat_bytes in self.faults:
            raise ValueError(address)
        self.contents[address:address + len(data)] = data


class CachedHost(Host):
    """As its base, with tables, a memory, and a copy of what is in it."""

    def __init__(self, dut, rng):
        super().__init__(dut, rng)
        config = self.config
        self.plan = plan_memory(config, origin=4096 * rng.randrange(3))
        self.contents = bytearray(rng.randbytes(self.plan.end + 4096))
        self.image = MemoryImage(self.plan, np.frombuffer(self.contents, np.uint8)[
            self.plan.origin:][:self.plan.size])
        self.memory = Memory(self.contents, self.plan.layout.beat_bytes)
        self.slaves = {}
        for prefix, channels, kind, bus in (
                *((prefix, ("ar", "r"), AxiSlaveRead, AxiReadBus)
                  for prefix in memory_buses(config)),
                (APPEND_BUS, ("aw", "w", "b"), AxiSlaveWrite, AxiWriteBus)):
            for channel in channels:
                logging.getLogger(f"cocotb.{dut._name}.{prefix}.{channel}").setLevel(
                    logging.WARNING)
            self.slaves[prefix] = slave = kind(
                bus.from_prefix(dut, prefix), dut.aclk, dut.aresetn, self.memory,
                reset_active_level=False)
            slave.log.setLevel(logging.ERROR)
        self.writes = self.slaves.pop(APPEND_BUS)
        self.heads, self.pages, self.counts, self.tokens = set(), {}, {}, {}
        self.asked = []

    def _forget(self):
        super()._forget()
        self.heads, self.pages, self.counts = set(), {}, {}
        self.asked = []

    def pause_memory(self, rng, patterns=("never", "rarely", "half", "mostly")):
        channels = [channel for slave in self.slaves.values()
                    for channel in (slave.ar_channel, slave.r_channel)]
        channels += [self.writes.aw_channel, self.writes.w_channel, self.writes.b_channel]
        for channel in channels:
            channel.clear_pause_generator()
            channel.pause = False
            generator = pauses(rng.choice(patterns), rng)
            if generator is not None:
                channel.set_pause_generator(generator)

    # ---- Tables.
    async def set_head(self, number, *, okay=True):
        place = self.plan.heads[number]
        for name, address in (("CODES", place.codes), ("ROWS", place.rows)):
            await self.write(Address[f"TABLE_{name}_LOW"], address & 0xffffffff)
            if self.config.memory.address_bits > 32:
                await self.write(Address[f"TABLE_{name}_HIGH"], address >> 32)
        await self.write(Address.TABLE_STRIDE, place.stride)
        await self.write(Address.TABLE_HEAD, number | 1 << 31, okay=okay)
        self.heads.add(number)

    async def clear_head(self, number):
        await self.write(Address.TABLE_HEAD, number)
        self.heads.discard(number)

    async def set_pages(self, sequence, pages):
        await self.write(Address.TABLE_SEQUENCE, sequence)
        for index, page in enumerate(pages):
            await self.write(Address.TABLE_INDEX, index)
            await self.write(Address.TABLE_PAGE, page | 1 << 31)
        self.pages[sequence] = pages

    async def set_tokens(self, sequence, count):
        await self.write(Address.TABLE_SEQUENCE, sequence)
        await self.write(Address.TABLE_TOKENS, count)
        self.counts[sequence] = count

    # ---- What is in memory.
    def place(self, sequence, token):
        size = self.config.memory.page_tokens
        return self.pages[sequence][token // size] * size + token % size

    def some(self, size, bits):
        limit = 1 << bits - 1
        return [self.rng.randrange(-limit, limit) for _ in range(size)]

    def token(self):
        """A random token: code, values, scale, rescore key."""
        config, rng, unit = self.config, self.rng, self.unit
        return (rng.getrandbits(config.key_bits), self.some(config.value_dim, config.value_bits),
                rng.randrange(1 << 16), self.some(unit.head_dim, unit.element_bits) if unit else [])

    def store(self, head, sequence, token):
        """Write a random token to memory, as a processor does."""
        config, unit = self.config, self.unit
        code, values, scale, key = self.token()
        self.image.write(head, self.pages[sequence], token,
                         codes_from_ints([code], config.key_bits), np.array([values]),
                         np.array([scale]), np.array([key]) if unit else None)
        self.tokens[head, self.place(sequence, token)] = code, values, scale, key

    def bytes_of(self, head, sequence, number, token):
        """Addresses of a token's code and row, and their bytes."""
        layout, place = self.plan.layout, self.place(sequence, number)
        code, values, scale, key = token
        return ((self.plan.code_address(head, place), layout.pack_codes(
                    codes_from_ints([code], self.config.key_bits))[0].tobytes()),
                (self.plan.row_address(head, place), layout.pack_rows(
                    [values], [scale], [key] if self.unit else None)[0].tobytes()))

    def append_beats(self, row, code):
        """A token's beats in a packet."""
        size = self.plan.layout.beat_bytes
        return [*self.beats([code], self.config.key_bits),
                *(beat for at in range(0, len(row), size) for beat in self.beats(
                    [int.from_bytes(row[at:at + size], "little")], 8 * size))]

    async def append(self, head, sequence, count, *, raises, cut=None, rest=None):
        """Have the core write random tokens; of the packet only beats up to `cut` are sent.

        With `rest` the operation is then ended by this bit of CONTROL. The memory must be what it
        was but for the tokens; what is cut off is undefined.
        """
        first = self.counts[sequence]
        expected, packet, ends = bytearray(self.contents), [], []
        tokens = [self.token() for _ in range(count)]
        parts = [self.bytes_of(head, sequence, first + number, token)
                 for number, token in enumerate(tokens)]
        for token, (_, (_, row)) in zip(tokens, parts, strict=True):
            packet += self.append_beats(row, token[0])
            ends.append(len(packet))
        for name, value in (("HEAD", head), ("SEQUENCE", sequence), ("FLAGS", raises << 3)):
            await self.field(name, value)
        await self.start(Command.APPEND, first, count)
        if rest is None:
            self.send(packet[:cut])
        else:
            await self.raw(packet[:cut])
            await self.write(Address.CONTROL, 1 << rest)
            if rest == Control.CLEAR:
                await self.raw(packet[cut:], last=True)
        await self.idle()
        whole = count if cut is None else sum(end <= cut for end in ends)
        for number, (token, located) in enumerate(zip(tokens, parts, strict=True)):
            for address, octets in located:
                at = slice(address, address + len(octets))
                if number < whole:
                    expected[at] = octets
                else:
                    expected[at] = self.contents[at]
            if number < whole:
                self.tokens[head, self.place(sequence, first + number)] = token
        if self.error == SocError.NONE or cut is not None:
            assert self.contents == expected
        return whole

    def known(self, head, sequence, count):
        return [list(part) for part in zip(*(
            self.tokens[head, self.place(sequence, token)] for token in range(count)),
            strict=True)]

    async def open(self):
        """All heads, and sequences of some length; the second shares the first one's beginning."""
        config, memory, rng = self.config, self.config.memory, self.rng
        for head in range(memory.heads):
            await self.set_head(head)
        listed = config.capacity // memory.page_tokens
        free = rng.sample(range(config.memory_pages), config.memory_pages)
        for sequence in range(memory.sequences):
            shared = self.pages[0][:listed // 2] if sequence == 1 else []
            await self.set_pages(sequence, shared + [free.pop() for _ in range(
                listed - len(shared))])
            count = rng.randint(1, config.capacity)
            for head in range(memory.heads):
                for token in range(count):
                    if (head, self.place(sequence, token)) not in self.tokens:
                        self.store(head, sequence, token)
            await self.set_tokens(sequence, count)

    # ---- Queries.
    def error_of(self, command, query):
        if command["n"] == 0:
            return Error.NO_N
        if command["n"] + command["sink"] + command["recent"] > self.config.top_n:
            return Error.TOO_MANY
        if query["count"] == 0:
            return Error.EMPTY
        if command["first"] + query["count"] > self.counts.get(command["sequence"], 0):
            return Error.RANGE
        if command["head"] not in self.heads:
            return Error.NOT_SET
        return Error.OK

    def random_batch(self, **given):
        config, rng = self.config, self.rng
        sequence = given.get("sequence", rng.randrange(config.memory.sequences))
        count = self.counts.get(sequence, 0) or 1
        first = rng.choice([0, rng.randrange(count)])
        n = rng.randint(1, config.top_n)
        shared = int(bool(self.unit and self.unit.shared and rng.random() < 0.5))
        alike = rng.randint(1, count - first)
        return {"head": rng.randrange(config.memory.heads), "sequence": sequence, "first": first,
                "n": n, "sink": rng.randint(0, config.top_n - n), "recent": 0,
                "trace": rng.randrange(2), "shared": shared,
                "rescore": shared or (rng.randrange(2) if self.unit else 0),
                "queries": [{"count": alike if shared else rng.randint(1, count - first),
                             "exp_table": rng.randrange(config.exp_tables),
                             "multiplier": rng.randrange(1 << 20)}
                            for _ in range(config.queries)], **given}

    async def write_fields(self, command):
        for name in ("head", "sequence"):
            await self.field(name.upper(), command[name])
        await super().write_fields(command)

    async def query(self, command, number=1, *, fails=None):
        """Send batches; expect their answers, or an error in place of all of them."""
        await self.write_fields(command)
        batches = self.batch_packet(command, number)
        await self.start(Command.QUERY, None, number)
        self.source.send_nowait(AxiStreamFrame(
            [beat for *_, beats in batches for beat in beats]))
        for codes, elements, _ in batches:
            self.foresee(command, codes, elements, fails)
        await self.idle()

    def foresee(self, command, codes, elements, fails=None):
        """Queue what a batch must be answered with."""
        config, queries = self.config, command["queries"]
        errors = [self.error_of(command, query) if fails is None else fails for query in queries]
        shared = None
        if command["shared"] and errors[0] == Error.OK:
            shared = self._share(command, codes, elements)
        for index, (query, error) in enumerate(zip(queries, errors, strict=True)):
            if error != Error.OK:
                self.expected_results.append([self.header(index, error.value)])
                continue
            known, values, scales, keys = self.known(
                command["head"], command["sequence"], command["first"] + query["count"])
            golden = shared[index] if shared else attend_one(
                codes[index], known, values, scales, self.exp_tables[query["exp_table"]],
                config=config, count=query["count"], first=command["first"], n=command["n"],
                sink=command["sink"], recent=command["recent"],
                rescore=RescoreOperands(
                    np.array([[elements[index]]]), np.array([keys]),
                    np.array([[query["multiplier"]]])) if command["rescore"] else None)
            self.expected_results.append([
                self.header(index, 0),
                *self.beats(golden.output_int.tolist(), self.map.result_bits)])
            if command["trace"]:
                self.expected_traces.append(self.trace(index, golden))

    def _share(self, command, codes, elements):
        config, queries = self.config, command["queries"]
        known, values, scales, keys = self.known(
            command["head"], command["sequence"], command["first"] + queries[0]["count"])
        found = attend(
            np.array([codes_from_ints([code], config.key_bits) for code in codes]),
            codes_from_ints(known, config.key_bits)[None],
            Values(np.array([values]), np.array([scales])),
            [[1] * (config.key_bits + 1)] * len(queries), config=config,
            counts=queries[0]["count"], first=command["first"], n=command["n"],
            sink=command["sink"], recent=command["recent"], shared=True,
            rescore=RescoreOperands(np.array(elements)[:, None], np.array([keys]), np.array(
                [[query["multiplier"]] for query in queries])))
        return [Result(found.output_int[query, 0], found.selected[query, 0],
                       found.distances[query, 0], found.weights[query, 0],
                       found.scores[query, 0]) for query in range(len(queries))]

    async def settle(self, *, traces=True):
        """Compare all answers; traces of queries that met a fault are of no use."""
        for sink, expected in ((self.results, self.expected_results),
                               (self.traces, self.expected_traces if traces else [])):
            while expected:
                frame = await with_timeout(sink.recv(), 400, "us")
                packet = expected.popleft()
                assert list(frame.tdata) == packet, (
                    f"{[hex(beat) for beat in frame.tdata]}, not {[hex(beat) for beat in packet]}")
        await self.idle(active=True)
        assert self.results.empty()
        if traces:
            assert self.traces.empty()
