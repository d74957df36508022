"""Random uses of the SoC core, with pauses on all channels and all kinds of mistakes."""

import random

import cocotb
from host import Host

from nearbit_hw.soc.registers import Address, Command, SocError


def fault_of(rng):
    return rng.choice([None, None, None, None, "early", "late"])


async def mistake(host, rng):
    """Do something that is answered with SLVERR and has no effect but an error."""
    kinds = ["read only", "out of map", "command", "wide", "past the end", "no number"]
    match rng.choice(kinds):
        case "read only":
            register = rng.choice([one for one in host.map.registers if one.access == "ro"])
            before = await host.read(register.address)
            await host.write(register.address, before ^ 0xffffffff, okay=False)
            kind = SocError.READ_ONLY
            if register.address < Address.CONTROL:
                assert await host.read(register.address) == before
        case "out of map":
            known = {register.address for register in host.map.registers}
            address = rng.choice([one for one in range(0, 4096, 4) if one not in known])
            await host.write(address, rng.getrandbits(32), okay=False)
            await host.read(address, okay=False)
            return
        case "command":
            command = rng.choice([0, 6, 7, 0 if host.unit else 4])
            await host.field("TOKEN", 0)
            await host.field("NUMBER", 1)
            await host.start(command, okay=False)
            kind = SocError.COMMAND
        case "wide":
            narrow = [one for one in host.map.registers if one.kept and one.bits < 32]
            register = rng.choice(narrow)
            before = await host.read(register.address)
            await host.write(register.address, 1 << rng.randint(register.bits, 31), okay=False)
            assert await host.read(register.address) == before
            kind = SocError.FIELD
        case "past the end":
            capacity = host.config.capacity
            token = rng.randint(1, capacity)
            await host.start(rng.choice([Command.LOAD_KEYS, Command.LOAD_VALUES]), token,
                             capacity - token + rng.randint(1, 9), okay=False)
            kind = SocError.COMMAND
        case "no number":
            await host.start(rng.choice(list(Command)), 0, 0, okay=False)
            kind = SocError.COMMAND
    assert not (await host.read(Address.STATUS)) & 1
    if host.error == SocError.NONE:
        host.error = kind


async def scenario(host, rng):
    """Load, ask, make mistakes, append, overwrite, ask."""
    host.rng = rng
    await host.reset()
    host.pause(rng)
    whats = ["keys", "values", *(["rescore"] if host.unit else [])]
    count = rng.randint(1, min(4, host.config.capacity))
    for what in rng.sample(whats, len(whats)):
        await host.load(what, 0, count, fault_of(rng))
        await settle(host)
    await host.load_exp_table(0, fault_of(rng))
    await settle(host)
    for _ in range(rng.randint(1, 2)):
        match rng.choice(["append", "overwrite", "ask", "ask", "ask", "mistake", "pause"]):
            case "append":
                room = min(3, host.config.capacity - count)
                if room:
                    more = rng.randint(1, room)
                    for what in rng.sample(whats, len(whats)):
                        await host.load(what, count, more, fault_of(rng))
                        await settle(host)
                    count += more
            case "overwrite":
                await host.answers()
                token = rng.randrange(count)
                await host.load(rng.choice(whats), token, rng.randint(1, count - token),
                                fault_of(rng))
            case "ask":
                await host.ask(rng.choice([1, 1, 2, 3]), fault_of(rng), faulty=rng.random() < 0.15)
                if rng.random() < 0.7:
                    await host.answers()
            case "mistake":
                await mistake(host, rng)
            case "pause":
                host.pause(rng)
        await settle(host)
    await host.ask(1)
    await host.answers()
    await settle(host)


async def settle(host):
    """Compare errors: now and then, or at once if it cannot be told which one comes first."""
    if host.error is None or (host.error == SocError.QUERY):
        await host.answers()
    if host.error is None:
        host.error = SocError((await host.read(Address.ERROR)) & 7)
        assert host.error in (SocError.QUERY, SocError.EARLY, SocError.LATE, SocError.BUSY)
    if host.error != SocError.NONE or host.rng.random() < 0.3:
        await host.errors()


@cocotb.test()
async def scenarios(dut):
    host = Host(dut, random.Random(0))
    first, number = host.parameters["first"], host.parameters["scenarios"]
    for index in range(first, first + number):
        seed = f"{cocotb.RANDOM_SEED} scenario {index}"
        try:
            await scenario(host, random.Random(seed))
        except BaseException:
            dut._log.error(f"seed {seed!r}, cycle {host.monitor.cycle}")
            raise
        if host.monitor.task.done():
            host.monitor.task.result()
