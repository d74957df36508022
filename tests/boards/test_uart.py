# amaranth: UnusedElaboratable=no
import cocotb
import numpy as np
import pytest

from nearbit_boards.uart import Receiver, Transmitter, divisor
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


def bits_of(byte, stop=1):
    return [0, *(byte >> place & 1 for place in range(8)), stop]


async def send(bench, levels, bit):
    """Hold each level for a bit, whose length in cycles need not be whole."""
    start = 0.0
    for level in levels:
        bench.dut.rx.value = level
        await bench.step(round(start + bit) - round(start))
        start += bit


async def start(dut, **options):
    bench = Bench(dut, limit=200_000, **options)
    if bench.parameters["receiver"]:
        dut.rx.value = 1
    await bench.reset()
    await bench.step(20)
    return bench, bench.parameters["divisor"]


@cocotb.test()
@cocotb.parametrize(rate=[0.0, 0.02, -0.02])
async def receives(dut, rate):
    bench, divisor = await start(dut)
    data = [0x00, 0xFF, 0x55, 0xAA, *bench.rng.randbytes(40)]
    for index, byte in enumerate(data):
        await send(bench, bits_of(byte), divisor * (1 + rate))
        if index % 3 == 2:
            await bench.step(bench.rng.randrange(3 * divisor))
    await bench.step(2 * divisor)
    assert bench.sink("o").received == data


@cocotb.test()
async def damaged(dut):
    """Glitches, bytes without a stop bit and a line that stays low: none makes a byte of itself."""
    bench, divisor = await start(dut)
    lost = 0
    for byte in bench.rng.randbytes(20):
        dut.rx.value = 0
        await bench.step(divisor // 2 - 1)
        dut.rx.value = 1
        await bench.step(2 * divisor)
        before = len(bench.sink("o").received)
        dut.rx.value = 0
        for level in bits_of(byte, stop=0) + [0] * bench.rng.randrange(20):
            dut.rx.value = level
            for _ in range(divisor):
                await bench.step()
                lost += int(dut.error.value)
        dut.rx.value = 1
        for _ in range(4):
            await bench.step()
            lost += int(dut.error.value)
        await bench.step(divisor)
        assert len(bench.sink("o").received) == before
        await send(bench, bits_of(byte), divisor)
        await bench.step(divisor)
        assert bench.sink("o").received[before:] == [byte]
    assert lost == 20


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def transmits(dut, idle, stall):
    bench, divisor = await start(dut, idle=idle, stall=stall)
    data = list(bench.rng.randbytes(20))
    bench.source("i").send(*data)
    received = []
    while len(received) < len(data):
        await bench.step()
        if dut.tx.value == 1:
            continue
        # The first cycle of the start bit has passed.
        await bench.step(divisor // 2)
        levels = []
        while len(levels) < 10:
            levels.append(int(dut.tx.value))
            await bench.step(divisor if len(levels) < 10 else 1)
        assert (levels[0], levels[9]) == (0, 1)
        received.append(sum(level << place for place, level in enumerate(levels[1:9])))
    assert received == data
    await bench.step(20 * divisor)
    assert dut.tx.value == 1


@cocotb.test()
async def transmits_back_to_back(dut):
    bench, divisor = await start(dut)
    bench.source("i").send(*range(5))
    await bench.until(lambda: len(bench.source("i").cycles) == 5)
    cycles = bench.source("i").cycles
    assert np.diff(cycles).tolist() == [10 * divisor] * 4


@pytest.mark.parametrize("cycles", [4, 5, 16])
def test_receiver(cycles):
    # The rates are for divisors that can show 2 %.
    names = "receives|damaged" if cycles == 16 else r"receives.*rate=0\.0|damaged"
    run_bench(Receiver(cycles), __file__, test_filter=names,
              parameters={"divisor": cycles, "receiver": True})


@pytest.mark.parametrize("cycles", [4, 7])
def test_transmitter(cycles):
    run_bench(Transmitter(cycles), __file__, test_filter="transmits",
              parameters={"divisor": cycles, "receiver": False})


@pytest.mark.parametrize(("clock", "baud", "cycles"), [
    (12_000_000, 115_200, 104), (12_000_000, 1_000_000, 12), (12_000_000, 3_000_000, 4),
    (25_000_000, 3_000_000, 8), (48_000_000, 3_000_000, 16), (24_000_000, 921_600, 26),
])
def test_divisor(clock, baud, cycles):
    if abs(clock / cycles / baud - 1) <= 0.02:
        assert divisor(clock, baud) == cycles
    else:
        with pytest.raises(ValueError, match=r"^Baud must be within 2 % of what the clock "
                           r"\(25000000 Hz\) divides to, not 3000000, for which 3125000 is nearest "
                           r"\(\+4\.2%\)$"):
            divisor(clock, baud)


def test_divisor_refused():
    with pytest.raises(ValueError, match=r"^Baud must be at most a 4th of the clock "
                       r"\(12000000 Hz\), not 4000000$"):
        divisor(12_000_000, 4_000_000)
    with pytest.raises(ValueError, match=r"^Clock must be a positive integer, not 1\.5$"):
        divisor(1.5, 1)
    with pytest.raises(ValueError, match=r"^Baud must be a positive integer, not 0$"):
        divisor(1, 0)
    for kind in (Receiver, Transmitter):
        with pytest.raises(ValueError, match=r"^Divisor must be an integer of at least 4, not 3$"):
            kind(3)
