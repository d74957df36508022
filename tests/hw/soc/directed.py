"""What random uses of the SoC core do not show: cycles, the whole register map, interrupts."""

import json
import random
from itertools import pairwise
from pathlib import Path

import cocotb
from cocotb.triggers import RisingEdge
from host import Host, pauses

from nearbit_hw.soc.registers import COUNTERS, Address, Command, SocError
from nearbit_model.cycles import Command as CoreCommand
from nearbit_model.cycles import Phase, load, predict, steady


async def fresh(dut):
    host = Host(dut, random.Random(cocotb.RANDOM_SEED))
    host.disturbs = False
    await host.reset()
    return host


async def fill(host, count):
    for what in ("keys", "values", *(["rescore"] if host.unit else [])):
        await host.load(what, 0, count)
    await host.load_exp_table(0)


def full_batch(host, count, trace=1, rescore=0):
    """Fields of a batch that sees all keys and selects as many as it can."""
    return {"first": 0, "n": min(count, host.config.top_n), "sink": 0, "recent": 0, "trace": trace,
            "rescore": rescore, "shared": 0,
            "queries": [{"count": count, "exp_table": 0, "multiplier": 0}] * host.config.queries}


async def ask(host, command, number):
    """Start an operation and send its packet; return the cycles of its beats and of the answers."""
    await host.field("NUMBER", number)
    batches = host.batch_packet(command, number)
    for codes, elements, _ in batches:
        host.expect(command, codes, elements)
    await host.start(Command.QUERY)
    host.monitor._clear()
    host.send([beat for *_, beats in batches for beat in beats])
    lengths = [len(packet) for packet in host.expected_results]
    await host.answers()
    taken = host.monitor.transfers["m_axis_result_"]
    ends = [taken[sum(lengths[:index + 1]) - 1] for index in range(len(lengths))]
    return host.monitor.transfers["s_axis_"], ends[host.config.queries - 1::host.config.queries]


def core_interval(config, command, count, number):
    """Cycles between the core's last answers to commands that follow each other without a pause."""
    rescored = bool(command["rescore"])
    asked = [CoreCommand(counts=(count,) * config.queries, n=command["n"], rescore=rescored,
                         trace=bool(command["trace"]))] * number
    beats = number * config.queries * config.rescore.beats if rescored else 0
    answers = predict(config, [load(config, count),
                               Phase(commands=asked, rescore_queries=beats)]).answers
    return answers[-1].end - answers[-1 - config.queries].end


@cocotb.test()
async def cycles_are_the_cores(dut):
    """The core's latency, a constant more; the core's interval, and the core's results."""
    host = await fresh(dut)
    config, count = host.config, host.config.capacity
    await fill(host, count)
    for trace, rescore in [(0, 0), (1, 0), *([(0, 1)] if host.unit else [])]:
        command = full_batch(host, count, trace, rescore)
        await host.write_fields(command)
        core = steady(config, words=count // config.lanes, selected=command["n"],
                      rescore=bool(rescore))
        if "interval" in host.parameters:
            assert core.interval == host.parameters["interval"]
        for _ in range(2):
            taken, (end,) = await ask(host, command, 1)
            # The model counts the cycle of the offer, and that of the last beat.
            first = taken[-1]
            assert end - first + 1 == core.latency + host.parameters["latency"]
        number = host.parameters["queries"]
        taken, ends = await ask(host, command, number)
        gaps = [later - one for one, later in pairwise(ends)]
        interval = core_interval(config, command, count, number)
        assert interval >= core.interval
        assert gaps[number // 2:] == [interval] * (number - 1 - number // 2), gaps
        if "report" in host.parameters:
            Path(host.parameters["report"]).write_text(json.dumps({
                "core_latency": core.latency, "latency": end - first + 1,
                "core_interval": interval, "interval": gaps[-1]}), encoding="utf-8")
    await host.errors()


@cocotb.test()
async def beats_come_in_every_cycle(dut):
    """Loads take a beat per cycle."""
    host = await fresh(dut)
    for what in ("keys", "values"):
        tokens, beats = host.new_tokens(what, 4)
        packet = [beat for token in beats for beat in token]
        await host.start(Command.LOAD_KEYS if what == "keys" else Command.LOAD_VALUES, 0, 4)
        host.monitor._clear()
        host.send(packet)
        await host.idle()
        taken = host.monitor.transfers["s_axis_"]
        assert taken == list(range(taken[0], taken[0] + len(packet)))
        host.keep(what, 0, tokens)


@cocotb.test()
async def every_address(dut):
    """All addresses of the window: what is there, and SLVERR for what is not."""
    host = await fresh(dut)
    registers = {register.address: register for register in host.map.registers}
    for address in range(0, 4096, 4):
        register = registers.get(address)
        value = await host.read(address, okay=register is not None)
        if register is None:
            await host.write(address, 0xffffffff, okay=False)
        elif address < Address.COUNTERS and not register.kept:
            assert value == register.reset, register.name
    assert await host.read(Address.ERROR) == 0
    for register in registers.values():
        for offset in (1, 2, 3):
            await host.write(register.address + offset, 0, strobe=15, okay=False)
            await host.read_word(register.address + offset, okay=False)
        if register.access == "ro":
            await host.write(register.address, 0, strobe=0, okay=False)
    host.error = SocError.READ_ONLY
    detail = await host.errors()
    assert detail == min(address for address, register in registers.items()
                         if register.access == "ro")
    # Each bit of each field, alone, and read back.
    for register in registers.values():
        if register.access == "rw":
            for bit in range(register.bits):
                await host.write(register.address, 1 << bit)
                assert await host.read(register.address) == 1 << bit
            await host.write(register.address, 0)


@cocotb.test()
async def many_accesses_at_once(dut):
    """Reads and writes offered without waiting for answers come back in order, each once."""
    host = await fresh(dut)
    constants = [register for register in host.map.registers if register.address < Address.CONTROL]
    for _ in range(8):
        host.pause(host.rng)
        asked = [host.rng.choice(constants) for _ in range(12)]
        reads = [cocotb.start_soon(host.axi.read(register.address, 4)) for register in asked]
        writes = [cocotb.start_soon(host.axi.write(Address.SINK, bytes([number, 0, 0, 0])))
                  for number in range(12)]
        for register, task in zip(asked, reads, strict=True):
            answer = await task
            assert int.from_bytes(answer.data, "little") == register.reset, register.name
        for task in writes:
            assert (await task).resp == 0
        assert await host.read(Address.SINK) == 11


@cocotb.test()
async def interrupts(dut):
    host = await fresh(dut)
    await fill(host, 2)
    assert await host.read(Address.IRQ_STATUS) == 1
    assert not int(dut.irq.value)
    await host.write(Address.IRQ_ENABLE, 1)
    await host.cycles(2)
    assert int(dut.irq.value)
    await host.write(Address.IRQ_STATUS, 2)
    await host.cycles(2)
    assert int(dut.irq.value), "another bit was cleared"
    await host.write(Address.IRQ_STATUS, 1, strobe=14)
    await host.cycles(2)
    assert int(dut.irq.value), "a byte was cleared that has no strobe"
    await host.write(Address.IRQ_STATUS, 1)
    await host.cycles(2)
    assert not int(dut.irq.value)
    # Done means that the answers are out.
    command = full_batch(host, 2)
    await host.write_fields(command)
    host.results.pause = True
    await host.field("NUMBER", 1)
    batches = host.batch_packet(command, 1)
    host.expect(command, *batches[0][:2])
    await host.start(Command.QUERY)
    host.send(batches[0][2])
    await host.cycles(300)
    assert (await host.read(Address.STATUS)) & 3 == 2
    assert not int(dut.irq.value)
    host.results.pause = False
    while not int(dut.irq.value):
        await RisingEdge(dut.aclk)
    assert await host.read(Address.IRQ_STATUS) == 1
    await host.write(Address.IRQ_STATUS, 1)
    await host.answers()
    # An error raises the other one.
    await host.write(Address.IRQ_ENABLE, 2)
    await host.write(Address.ID, 0, okay=False)
    host.error = SocError.READ_ONLY
    await host.cycles(2)
    assert int(dut.irq.value)
    await host.errors()
    await host.cycles(2)
    assert not int(dut.irq.value)


@cocotb.test()
async def ends_of_operations(dut):
    """CLEAR drops the rest of a packet, ABANDON does not, and what is loaded stays."""
    host = await fresh(dut)
    config = host.config
    await fill(host, 4)
    command = full_batch(host, 4)
    await host.write_fields(command)
    tokens, beats = host.new_tokens("values", 3)
    packet = [beat for token in beats for beat in token]
    cut = len(beats[0]) + 1 # a token is whole, another is not
    for control in (1, 2, 3):
        for number in (0, cut):
            await host.start(Command.LOAD_VALUES, 4, 3)
            if number:
                # A packet without an end, as yet.
                host.source.pause = False
                await host.raw(packet[:number])
            status = await host.read(Address.STATUS)
            assert status & 9 == 1
            await host.write(Address.CONTROL, control)
            await host.cycles(3)
            status = await host.read(Address.STATUS)
            if control == 1 and number:
                assert status & 9 == 9
                await host.write(Address.COMMAND, Command.QUERY, okay=False)
                await host.raw(packet[number:], last=True)
                await host.cycles(3)
                status = await host.read(Address.STATUS)
                host.error = SocError.BUSY
                await host.errors()
            assert status & 9 == 0
            assert await host.read(Address.TOKEN) == 4 + (number > 0)
            assert await host.read(Address.ERROR) == 0
            await ask(host, command, 2)
    if config.capacity >= 7:
        host.keep("values", 4, tokens[:1])
        await host.load("values", 5, 2)
        await host.load("keys", 4, 3)
        if host.unit:
            await host.load("rescore", 4, 3)
        command = full_batch(host, 7)
        await host.write_fields(command)
        await ask(host, command, 2)


@cocotb.test()
async def queries_given_up(dut):
    """A batch that is cut off is answered with errors if the core had rescore elements of it."""
    host = await fresh(dut)
    if not host.unit:
        return
    await fill(host, 4)
    command = full_batch(host, 4, rescore=1)
    await host.write_fields(command)
    heads = host.config.queries * -(-host.config.key_bits // host.map.data_bits)
    for control in (1, 2):
        batches = host.batch_packet(command, 3)
        packet = [beat for *_, beats in batches for beat in beats]
        size = len(batches[0][2])
        for into in sorted({1, heads, heads + 1, size - 1}):
            host.expect(command, *batches[0][:2])
            if into >= heads:
                host.expect({**command, "n": 0}, *batches[1][:2])
                host.error = SocError.QUERY
            await host.start(Command.QUERY, None, 3)
            await host.raw(packet[:size + into])
            await host.write(Address.CONTROL, control)
            if control == 1:
                await host.raw(packet[size + into:], last=True)
            await host.answers()
            await host.errors()
            await ask(host, command, 2)
            await host.errors()


@cocotb.test()
async def cut_off_behind_a_waiting_batch(dut):
    """Only the batch that is cut off is answered with errors, not the one that waits before it."""
    host = await fresh(dut)
    if not host.unit:
        return
    # Keys to score for longer than a batch's beats, and one to rescore: batches wait for words.
    await fill(host, host.config.capacity)
    command = {**full_batch(host, host.config.capacity, trace=0, rescore=1), "n": 1}
    await host.write_fields(command)
    for number in (6, 7, 8):
        batches = host.batch_packet(command, number + 1)
        await host.start(Command.QUERY, None, number + 9)
        # One waits, and the codes of the next have come.
        packet = [beat for *_, beats in batches for beat in beats]
        await host.raw(packet[:number * len(batches[0][2]) + 1])
        await host.write(Address.CONTROL, 2)
        for codes, elements, _ in batches[:-1]:
            host.expect(command, codes, elements)
        host.expect({**command, "n": 0}, *batches[-1][:2])
        await host.answers()
        await host.errors()
    await ask(host, command, 2)


@cocotb.test()
async def errors_one_after_another(dut):
    """Answers that are headers alone, with and without a stream that takes them."""
    host = await fresh(dut)
    await fill(host, 4)
    command = {**full_batch(host, 4), "n": 0}
    await host.write_fields(command)
    for pattern in ("never", "half", "mostly"):
        generator = pauses(pattern, random.Random(1))
        host.results.set_pause_generator(generator)
        await ask(host, command, 8)
        host.results.clear_pause_generator()
        host.results.pause = False
        await host.errors()


@cocotb.test()
async def counters(dut):
    host = await fresh(dut)
    first = await host.counter("CYCLES")
    before = host.monitor.cycle
    await host.cycles(100)
    second = await host.counter("CYCLES")
    passed = host.monitor.cycle - before
    # Each is exact at its time, which is some cycles before the end of the read.
    assert abs(second - first - passed) <= 16 + 4
    assert (second - first) % 16 == 0
    await fill(host, 4)
    command = full_batch(host, 4)
    await host.write_fields(command)
    host.results.pause = True
    batches = host.batch_packet(command, 12)
    for codes, elements, _ in batches:
        host.expect(command, codes, elements)
    await host.start(Command.QUERY, None, 12)
    host.send([beat for *_, beats in batches for beat in beats])
    await host.cycles(1500)
    start = host.monitor.cycle
    stalled = {name: await host.counter(name) for name, _ in COUNTERS}
    await host.cycles(64)
    for name, value in stalled.items():
        grown = await host.counter(name) - value
        if name in ("BATCHES", "KEYS"):
            assert grown == 0
        elif name in ("CYCLES", "STALL_RESULT", "STALL_QUERY"):
            assert 64 <= grown <= host.monitor.cycle - start
    assert stalled["STALL_RESULT"] > 1000
    host.results.pause = False
    await host.answers()
    for address in range(Address.COUNTERS, Address.COUNTERS + 8 * len(COUNTERS), 8):
        assert await host.read(address + 4) == 0
    await host.write(Address.CONTROL, 4)
    for name, _ in COUNTERS:
        assert await host.counter(name) < (200 if name == "CYCLES" else 1), name


@cocotb.test()
async def reset_at_any_time(dut):
    host = await fresh(dut)
    for cycles in (3, 40, 100, 170):
        await fill(host, 3)
        command = full_batch(host, 3)
        await host.write_fields(command)
        await host.field("NUMBER", 20)
        await host.start(Command.QUERY)
        host.send([0] * 100)
        await host.cycles(cycles)
        await host.reset()
        host.source.clear()
        host.results.clear()
        host.traces.clear()
        assert await host.read(Address.STATUS) == 0
        assert await host.read(Address.ERROR) == 0
        assert await host.counter("BATCHES") == 0
        # Fields stay, and read as what they are.
        assert await host.read(host.map.register("QUERY0_COUNT").address) == 3
    await fill(host, 3)
    await ask(host, command, 2)
