"""A SoC core whose cache lies in memory: its tables, its queries, and what can go wrong."""

import random

import cocotb
from cached_host import CachedHost

from nearbit_hw.soc.registers import (
    Address,
    CacheSocError,
    Command,
    Control,
    Fault,
    SocError,
)
from nearbit_model.structure import Error


async def started(dut, seed):
    host = CachedHost(dut, random.Random(f"{cocotb.RANDOM_SEED} {seed}"))
    await host.reset()
    await host.open()
    for number in range(host.config.exp_tables):
        await host.load_exp_table(number)
    await host.errors()
    return host


async def error_of_query(host, error):
    """ERROR says which query failed, and why."""
    detail = await host.read(Address.ERROR) >> 16
    assert detail & 15 == error.value
    assert detail >> 4 < host.config.queries
    host.error = SocError.QUERY
    await host.errors()


@cocotb.test()
async def queries(dut):
    """Queries of all heads and sequences, while sequences grow."""
    host = await started(dut, "queries")
    rng, config = host.rng, host.config
    for step in range(host.parameters["steps"]):
        if step % 3 == 0:
            host.pause(rng)
            host.pause_memory(rng)
        await host.query(host.random_batch(), rng.randint(1, 3))
        sequence = rng.randrange(config.memory.sequences)
        count = host.counts[sequence]
        if count < config.capacity and rng.random() < 0.7:
            # Batches in flight keep the number that they have seen.
            for head in range(config.memory.heads):
                if (head, host.place(sequence, count)) not in host.tokens: # not shared
                    host.store(head, sequence, count)
            await host.set_tokens(sequence, count + 1)
        await host.settle()
    assert await host.read(Address.ERROR) == 0
    assert await host.read(Address.MEMORY_FAULT) == 0


@cocotb.test()
async def registers(dut):
    """Table registers are written as whole words, within the tables, and read back."""
    host = await started(dut, "registers")
    config, memory = host.config, host.config.memory
    limits = {"TABLE_HEAD": memory.heads - 1, "TABLE_SEQUENCE": memory.sequences - 1,
              "TABLE_INDEX": config.capacity // memory.page_tokens - 1,
              "TABLE_PAGE": config.memory_pages - 1, "TABLE_TOKENS": config.capacity}
    tables = [register for register in host.map.registers
              if Address.TABLE_CODES_LOW <= register.address < Address.COUNTERS]
    for register in tables:
        if register.access == "rw":
            most = min(register.mask, limits.get(register.name, register.mask))
            for value in (most, host.rng.getrandbits(32) & register.mask & most, 0):
                await host.write(register.address, value)
                assert await host.read(register.address) == value
        elif register.access == "wo":
            assert await host.read(register.address) == 0
    for register in tables:
        wrong = [1 << bit for bit in range(32) if not register.mask >> bit & 1]
        if register.name in limits and register.mask != 0xffffffff:
            top = register.fields[0].mask
            wrong += [limits[register.name] + 1] if limits[register.name] < top else []
        kind = SocError.READ_ONLY if register.access == "ro" else SocError.FIELD
        cases = [(value, 15) for value in wrong] + [(0, 7), (0, 0)]
        for value, strobe in host.rng.sample(cases, min(5, len(cases))):
            await host.write(register.address, value, strobe=strobe, okay=False)
            host.error = kind
            assert await host.errors() == register.address
    await host.write(Address.MEMORY_STATUS, 1, okay=False)
    host.error = SocError.READ_ONLY
    assert await host.errors() == Address.MEMORY_STATUS
    # No entry was touched, but for what a write of 0 does to none of them.
    await host.query(host.random_batch())
    await host.settle()
    for name, count in (("HEAD", memory.heads), ("SEQUENCE", memory.sequences)):
        if count == 1:
            await host.write(Address[name], 1, okay=False)
            host.error = SocError.FIELD
            assert await host.errors() == Address[name]


@cocotb.test()
async def commands(dut):
    """Keys and values cannot be loaded."""
    host = await started(dut, "commands")
    for command in (Command.LOAD_KEYS, Command.LOAD_VALUES, Command.LOAD_RESCORE_KEYS, 7, 0):
        await host.start(command, 0, 1, okay=False)
        host.error = SocError.COMMAND
        assert await host.errors() == Address.COMMAND
    capacity = host.config.capacity
    for token, number in ((capacity, 1), (capacity - 1, 2), (0, 0)):
        await host.start(Command.APPEND, token, number, okay=False)
        host.error = SocError.COMMAND
        assert await host.errors() == Address.COMMAND
    await host.query(host.random_batch())
    await host.settle()


@cocotb.test()
async def unset(dut):
    """What is not in the tables is an error of the query, and no more."""
    host = await started(dut, "unset")
    sequence = host.config.memory.sequences - 1
    given = {"sequence": sequence, "first": 0, "shared": 0, "rescore": 0, "head": 0}
    await host.clear_head(0)
    await host.query(host.random_batch(**given))
    await host.settle()
    await error_of_query(host, Error.NOT_SET)
    assert await host.read(Address.MEMORY_FAULT) == 1 << Fault.NOT_SET
    await host.set_head(0)
    await host.query(host.random_batch(**given))
    await host.settle()
    # A place in the list.
    await host.write(Address.TABLE_SEQUENCE, sequence)
    await host.write(Address.TABLE_INDEX, 0)
    await host.write(Address.TABLE_PAGE, host.pages[sequence][0])
    await host.query(host.random_batch(**given), fails=Error.NOT_SET)
    await host.settle()
    await error_of_query(host, Error.NOT_SET)
    await host.write(Address.MEMORY_FAULT, 1 << Fault.CODES)
    assert await host.read(Address.MEMORY_FAULT) == 1 << Fault.NOT_SET
    await host.write(Address.MEMORY_FAULT, 1 << Fault.NOT_SET)
    assert await host.read(Address.MEMORY_FAULT) == 0
    await host.set_pages(sequence, host.pages[sequence])
    # A sequence that is closed: no tokens.
    count = host.counts[sequence]
    await host.set_tokens(sequence, 0)
    await host.query(host.random_batch(**given))
    await host.settle()
    await error_of_query(host, Error.RANGE)
    assert await host.read(Address.MEMORY_FAULT) == 0
    await host.set_tokens(sequence, count)
    await host.query(host.random_batch(**given))
    await host.settle()


def whole(host, **given):
    """A batch that reads all keys of the first sequence, and selects the nearest of few."""
    count = min(host.counts[0], host.config.top_n)
    return {"head": 0, "sequence": 0, "first": 0, "n": host.config.top_n, "sink": 0, "recent": 0,
            "trace": 0, "shared": 0, "rescore": 0, "queries": [
                {"count": count, "exp_table": 0, "multiplier": 1}
                for _ in range(host.config.queries)], **given}


@cocotb.test()
async def faults(dut):
    """Errors of the memory are those of the queries that meet them, and of no others."""
    host = await started(dut, "faults")
    size = host.config.memory.bus_bits // 8
    token = host.rng.randrange(min(host.counts[0], host.config.top_n))
    place = host.place(0, token)
    for error, address in ((Error.CODES, host.plan.code_address(0, place)),
                           (Error.ROWS, host.plan.row_address(0, place))):
        await host.query(whole(host))
        await host.settle()
        host.memory.faults.add(address // size * size)
        await host.query(whole(host), 2, fails=error)
        await host.settle()
        await error_of_query(host, error)
        assert await host.read(Address.MEMORY_FAULT) == 1 << Fault[error.name]
        await host.write(Address.MEMORY_FAULT, 7)
        host.memory.faults.clear()
        await host.query(whole(host))
        await host.settle()
    assert await host.read(Address.ERROR) == 0


@cocotb.test()
async def silence(dut):
    """A memory that does not answer is given up after MEMORY_TIMEOUT cycles."""
    host = await started(dut, "silence")
    await host.write(Address.MEMORY_TIMEOUT, 200)
    for prefix, slave in host.slaves.items():
        await host.query(whole(host))
        await host.settle()
        slave.r_channel.clear_pause_generator()
        slave.r_channel.pause = True
        codes = prefix == "m_axi_codes"
        await host.query(whole(host), fails=Error.CODES if codes else Error.ROWS)
        await host.settle()
        await error_of_query(host, Error.CODES if codes else Error.ROWS)
        slave.r_channel.pause = False
        await host.cycles(600)
        await host.query(whole(host))
        await host.settle()
    await host.write(Address.MEMORY_FAULT, 7)


async def shortened(dut, seed):
    """A host, and a sequence with pages of its own that has few tokens in them."""
    host = await started(dut, seed)
    config, memory = host.config, host.config.memory
    sequence = memory.sequences - 1
    listed = config.capacity // memory.page_tokens
    count = listed // 2 * memory.page_tokens + 1 if sequence == 1 else 1
    for head in range(memory.heads):
        for token in range(count):
            if (head, host.place(sequence, token)) not in host.tokens:
                host.store(head, sequence, token)
    await host.set_tokens(sequence, count)
    return host, sequence


async def sees(host, sequence, count):
    """Queries see so many tokens of a sequence, and no more."""
    host.counts[sequence] = count
    for fails, keys in ((None, count), (Error.RANGE, count + 1)):
        if keys <= host.config.capacity:
            await host.query(whole(host, sequence=sequence, first=count - 1, n=1, queries=[
                {"count": keys - count + 1, "exp_table": 0, "multiplier": 1}
                for _ in range(host.config.queries)]), fails=fails)
            await host.settle()
    if count < host.config.capacity:
        await error_of_query(host, Error.RANGE)


@cocotb.test()
async def appended(dut):
    """Tokens that the core writes are in memory, and seen by queries, when the operation ends."""
    host, sequence = await shortened(dut, "appended")
    rng, memory = host.rng, host.config.memory
    count = host.counts[sequence]
    for number in (1, 4, rng.randint(2, 3)):
        host.pause(rng)
        host.pause_memory(rng)
        for head in range(memory.heads):
            last = head == memory.heads - 1
            await host.append(head, sequence, number, raises=last)
            await sees(host, sequence, count + number * last)
            host.counts[sequence] = count
        count += number
        host.counts[sequence] = count
        await host.query(host.random_batch(sequence=sequence), 2)
        await host.settle()
    assert await host.read(Address.MEMORY_FAULT) == 0


@cocotb.test()
async def appended_in_part(dut):
    """A token whose row does not come whole is not seen, and the next one is."""
    host, sequence = await shortened(dut, "in part")
    count = host.counts[sequence]
    token_beats = len(host.append_beats(bytes(host.plan.layout.row_bytes), 0))
    code_beats = len(host.beats([0], host.config.key_bits))
    for cut, rest in ((1, None), (code_beats, Control.CLEAR), (code_beats + 1, Control.ABANDON),
                      (token_beats - 1, None), (token_beats, Control.CLEAR),
                      (token_beats + code_beats, Control.ABANDON)):
        host.pause_memory(host.rng)
        host.error = SocError.EARLY if rest is None else SocError.NONE
        written = await host.append(0, sequence, 2, raises=True, cut=cut, rest=rest)
        await host.errors()
        await sees(host, sequence, count + written)
        await host.set_tokens(sequence, count)
        await host.append(0, sequence, 1, raises=True)
        await sees(host, sequence, count + 1)
        await host.set_tokens(sequence, count)


@cocotb.test()
async def append_fails(dut):
    """A token that cannot be written is an error, and is not seen."""
    host, sequence = await shortened(dut, "append fails")
    count, plan = host.counts[sequence], host.plan
    size = host.config.memory.bus_bits // 8
    await host.write(Address.MEMORY_TIMEOUT, 200)
    place = host.place(sequence, count)
    for address in (plan.code_address(0, place), plan.row_address(0, place), None, "silent"):
        if address is None:
            await host.clear_head(0)
        elif address == "silent":
            host.writes.b_channel.pause = True
        else:
            host.memory.faults.add(address // size * size)
        host.error = CacheSocError.APPEND
        # A token after one that failed would be the first one that is missing.
        await host.append(0, sequence, 2, raises=True)
        await host.errors()
        host.memory.faults.clear()
        host.writes.b_channel.pause = False
        await host.set_head(0)
        await sees(host, sequence, count)
        await host.append(0, sequence, 1, raises=True)
        await sees(host, sequence, count + 1)
        await host.set_tokens(sequence, count)


@cocotb.test()
async def first_write(dut):
    """A write to a table waits until the tables are clear; no other access does."""
    host = CachedHost(dut, random.Random(f"{cocotb.RANDOM_SEED} first"))
    await host.reset()
    assert await host.read(Address.MEMORY_STATUS) == 0
    start = host.monitor.cycle
    await host.write(Address.TABLE_CODES_LOW, 0)
    assert host.monitor.cycle - start < 16
    await host.write(Address.TABLE_PAGE, 1 << 31)
    assert await host.read(Address.MEMORY_STATUS) == 1
    memory = host.config.memory
    entries = memory.sequences * host.config.capacity // memory.page_tokens
    assert host.monitor.cycle - start >= entries // 2
    await host.open()
    await host.load_exp_table(0)
    await host.query(whole(host))
    await host.settle()
    # Nothing of before a reset is left.
    command = whole(host)
    await host.reset()
    await host.load_exp_table(0)
    await host.query(command, fails=Error.RANGE)
    await host.settle()
