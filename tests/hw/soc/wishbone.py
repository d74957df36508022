"""The SoC core on Wishbone: the random uses, and the protocol."""

import random

import cocotb
from cocotb.triggers import RisingEdge
from host import Host
from scenarios import scenario

from nearbit_hw.soc.registers import Address


class Initiator:
    """Classic cycles, with pauses between and, as the rules allow, a held cycle line."""

    def __init__(self, dut, rng):
        self.dut, self.rng = dut, rng
        for name in ("cyc", "stb", "we", "adr", "sel", "dat"):
            getattr(dut, f"wb_{name}_i").value = 0
        cocotb.start_soon(self._watch())

    async def _watch(self):
        """Answers only during a cycle, one for each strobe, and never both."""
        dut = self.dut
        pending = 0
        while True:
            await RisingEdge(dut.aclk)
            if str(dut.aresetn.value) != "1":
                pending = 0
                continue
            answers = int(dut.wb_ack_o.value) + int(dut.wb_err_o.value)
            assert answers <= 1
            if answers:
                assert int(dut.wb_cyc_i.value), "an answer outside of a cycle"
                assert int(dut.wb_stb_i.value), "an answer to no strobe"
                assert pending, "an answer in the cycle of the strobe"
                pending = 0
            else:
                pending = int(dut.wb_cyc_i.value) & int(dut.wb_stb_i.value)

    async def _cycle(self, write, address, data, select):
        dut, rng = self.dut, self.rng
        while rng.random() < 0.3:
            dut.wb_cyc_i.value = rng.randrange(2)
            await RisingEdge(dut.aclk)
        dut.wb_cyc_i.value = dut.wb_stb_i.value = 1
        dut.wb_we_i.value, dut.wb_adr_i.value = write, address
        dut.wb_dat_i.value, dut.wb_sel_i.value = data, select
        for _ in range(100):
            await RisingEdge(dut.aclk)
            if int(dut.wb_ack_o.value) or int(dut.wb_err_o.value):
                break
        else:
            raise AssertionError(f"no answer to {address:#x}")
        okay = bool(int(dut.wb_ack_o.value))
        value = int(dut.wb_dat_o.value)
        dut.wb_stb_i.value = 0
        dut.wb_we_i.value = rng.randrange(2)
        return okay, value

    async def write(self, address, value, select=15):
        return (await self._cycle(1, address, value, select))[0]

    async def read(self, address):
        return await self._cycle(0, address, self.rng.getrandbits(32), 15)


@cocotb.test()
async def scenarios(dut):
    rng = random.Random(cocotb.RANDOM_SEED)
    host = Host(dut, rng, wishbone=Initiator(dut, random.Random(1)))
    for index in range(host.parameters["scenarios"]):
        try:
            await scenario(host, random.Random(f"{cocotb.RANDOM_SEED} wishbone {index}"))
        except BaseException:
            dut._log.error(f"scenario {index}, cycle {host.monitor.cycle}")
            raise


@cocotb.test()
async def every_address(dut):
    rng = random.Random(cocotb.RANDOM_SEED)
    host = Host(dut, rng, wishbone=Initiator(dut, random.Random(1)))
    await host.reset()
    registers = {register.address: register for register in host.map.registers}
    for address in range(4096):
        if address % 4 and address > 0x300:
            continue
        value = await host.read(address, okay=address in registers)
        if address in registers and address < Address.CONTROL:
            assert value == registers[address].reset


@cocotb.test()
async def given_up(dut):
    """An initiator may end its cycle; the next access is answered for itself."""
    rng = random.Random(cocotb.RANDOM_SEED)
    initiator = Initiator(dut, random.Random(1))
    host = Host(dut, rng, wishbone=initiator)
    await host.reset()
    for wait in range(1, 20):
        dut.wb_cyc_i.value = dut.wb_stb_i.value = 1
        dut.wb_we_i.value, dut.wb_adr_i.value = 0, Address.COUNTERS
        for _ in range(wait):
            await RisingEdge(dut.aclk)
            if int(dut.wb_ack_o.value):
                break
        dut.wb_cyc_i.value = dut.wb_stb_i.value = 0
        await host.cycles(2)
        assert await host.read(Address.VALUE_DIM) == host.config.value_dim
