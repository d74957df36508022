# amaranth: UnusedElaboratable=no
from dataclasses import asdict
from pathlib import Path

import pytest

from nearbit_hw.memory import Appender, CacheMap
from nearbit_sim.bench import run_bench

from .pins import Pins


HERE = Path(__file__).parent
CASES = {
    # Rows of 80 bytes, which cross 4 KiB; a code is a beat.
    "beat": (CacheMap(heads=3, sequences=2, capacity=192, page_tokens=64, pages=5),
             {"key_bits": 64, "row_beats": 10}, 80),
    "part": (CacheMap(heads=2, sequences=3, capacity=96, page_tokens=32, pages=7, data_bits=128),
             {"key_bits": 13, "row_beats": 7}, 112),
    "beats": (CacheMap(heads=1, sequences=1, capacity=64, page_tokens=64, pages=1, data_bits=32),
              {"key_bits": 100, "row_beats": 1}, 16),
    "least": (CacheMap(heads=1, sequences=1, capacity=16, page_tokens=16, pages=1, data_bits=8,
                       burst_bytes=16), {"key_bits": 5, "row_beats": 16, "timeout_bits": 7}, 16),
}


def bench(module, case, pins=False):
    cache_map, options, stride = CASES[case]
    dut = Appender(cache_map, **options)
    parameters = asdict(cache_map) | {"stride": stride} | {
        name: getattr(dut, name) for name in ("key_bits", "code_bits", "row_beats", "latency")}
    run_bench(Pins(dut) if pins else dut, HERE / module, parameters=parameters)


@pytest.mark.parametrize("case", CASES)
def test_bench(case):
    bench("appender.py", case)


@pytest.mark.parametrize("case", ["beat", "part", "beats"])
def test_other_memory(case):
    bench("appender_other.py", case, pins=True)


MAP = CASES["beat"][0]


def test_properties():
    dut = Appender(MAP, key_bits=48, row_beats=10, timeout_bits=5)
    assert (dut.map, dut.key_bits, dut.code_bits, dut.row_beats, dut.timeout_bits) == (
        MAP, 48, 64, 10, 5)


@pytest.mark.parametrize("name", ["key_bits", "row_beats", "timeout_bits"])
@pytest.mark.parametrize("value", [0, -1, "4", None])
def test_wrong_numbers(name, value):
    with pytest.raises(TypeError, match=rf"^{name.replace('_', ' ').capitalize()} must be a "
                                        rf"positive integer, not {value!r}$"):
        Appender(MAP, **{"key_bits": 64, "row_beats": 10, name: value})


def test_sizes_that_do_not_fit():
    with pytest.raises(TypeError, match=r"^Map must be a CacheMap, not 1$"):
        Appender(1, key_bits=64, row_beats=10)
    with pytest.raises(ValueError, match=r"^Key bits must be at least 5, not 4: of a byte in "
                                         r"memory, no part can be written alone$"):
        Appender(MAP, key_bits=4, row_beats=10)
    with pytest.raises(ValueError, match=r"^Row beats must be at most 256, not 257$"):
        Appender(MAP, key_bits=64, row_beats=257)
