# amaranth: UnusedElaboratable=no
from dataclasses import asdict
from pathlib import Path

import cocotb
import pytest

from nearbit_hw.memory import CacheMap, ReadMerge
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


HERE = Path(__file__).parent


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def bursts(dut, idle, stall):
    """Each manager's bursts in its order, all of them, and beats where they belong."""
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    id_bits = bench.parameters["id_bits"]
    low = max(id_bits)
    asked = [[{"id": bench.rng.getrandbits(bits), "addr": bench.rng.getrandbits(32),
               "len": bench.rng.getrandbits(8)} for _ in range(30)] for bits in id_bits]
    for number, bursts in enumerate(asked):
        bench.source(f"i_{number}__ar").send(*bursts)
    for _ in range(60):
        number = bench.rng.randrange(len(id_bits))
        beat = {"id": bench.rng.getrandbits(id_bits[number]), "data": bench.rng.getrandbits(64),
                "resp": bench.rng.getrandbits(2), "last": bench.rng.getrandbits(1)}
        bench.source("o__r").send(beat | {"id": beat["id"] | number << low})
        bench.sink(f"i_{number}__r").expect(beat)
    await bench.until(lambda: len(bench.sink("o__ar").received) == 30 * len(id_bits))
    await bench.finish()
    got = [[] for _ in id_bits]
    for burst in bench.sink("o__ar").received:
        number, name = divmod(burst["id"], 1 << low)
        got[number].append(burst | {"id": name})
    assert got == asked


@cocotb.test()
async def in_turns(dut):
    bench = Bench(dut)
    await bench.reset()
    count = len(bench.parameters["id_bits"])
    for number in range(count):
        bench.source(f"i_{number}__ar").send(*[{"id": 0, "addr": number, "len": 0}] * 10)
    await bench.until(lambda: len(bench.sink("o__ar").received) == 10 * count)
    order = [burst["addr"] for burst in bench.sink("o__ar").received]
    assert order == [*range(1, count), 0] * 10
    assert bench.sink("o__ar").cycles == list(range(1, 1 + 20 * count, 2))


@pytest.mark.parametrize("id_bits", [(0,), (0, 4), (2, 0, 1)])
def test_bench(id_bits):
    run_bench(ReadMerge(id_bits=id_bits), __file__, parameters={"id_bits": id_bits})


MAP = CacheMap(heads=2, sequences=2, capacity=512, page_tokens=64, pages=11)
SIZES = {"top_n": 32, "row_beats": 10}


@pytest.mark.parametrize(("module", "has_pins"), [("cache.py", False), ("cache_other.py", True)])
def test_cache(module, has_pins):
    """Fetchers of codes and rows on one bus, with their tables."""
    from .parts import Cache
    from .pins import Pins

    dut = Cache(MAP, key_bits=64, lanes=1, **SIZES)
    run_bench(Pins(dut) if has_pins else dut, HERE / module, parameters={
        **asdict(MAP), **SIZES, "stride": 80, "code_bits": 64, "key_bits": 64})


def test_properties():
    dut = ReadMerge(address_bits=40, data_bits=128, id_bits=[2, 0, 1])
    assert (dut.address_bits, dut.data_bits, dut.id_bits, dut.out_id_bits) == (
        40, 128, (2, 0, 1), 4)


def test_wrong_id_bits():
    with pytest.raises(ValueError, match=r"^There must be at least one manager$"):
        ReadMerge(id_bits=())
    for bits in (-1, "1", None):
        with pytest.raises(TypeError, match=rf"^ID bits must be integers of at least 0, "
                                            rf"not {bits!r}$"):
            ReadMerge(id_bits=(0, bits))
