# amaranth: UnusedElaboratable=no
from dataclasses import asdict
from pathlib import Path

import pytest

from nearbit_hw.memory import CacheMap, CodeFetcher
from nearbit_sim.bench import run_bench

from .pins import Pins


HERE = Path(__file__).parent


def bench(module, cache_map, *, pins=False, **options):
    dut = CodeFetcher(cache_map, **options)
    parameters = asdict(cache_map) | {
        name: getattr(dut, name) for name in ("key_bits", "lanes", "code_bits", "latency", "depth",
                                              "commands")}
    run_bench(Pins(dut) if pins else dut, HERE / module, parameters=parameters)


CASES = {
    "beat": (CacheMap(heads=3, sequences=2, capacity=192, page_tokens=64, pages=5),
             {"key_bits": 64, "lanes": 1, "depth": 64}),
    # A beat is many words; a page is a burst; nothing is a power of two.
    "words": (CacheMap(heads=2, sequences=3, capacity=96, page_tokens=32, pages=7, data_bits=128),
              {"key_bits": 13, "lanes": 2, "depth": 32, "outstanding": 3}),
    # A word is many beats.
    "beats": (CacheMap(heads=1, sequences=1, capacity=256, page_tokens=64, pages=4, data_bits=32),
              {"key_bits": 16, "lanes": 8, "depth": 128, "commands": 1}),
    "least": (CacheMap(heads=1, sequences=1, capacity=8, page_tokens=8, pages=1, data_bits=8,
                       burst_bytes=16),
              {"key_bits": 1, "lanes": 1, "depth": 2, "outstanding": 1, "commands": 1,
               "timeout_bits": 9}),
}


@pytest.mark.parametrize("case", CASES)
def test_bench(case):
    cache_map, options = CASES[case]
    bench("code_fetcher.py", cache_map, **options)


@pytest.mark.parametrize("case", ["beat", "words", "beats"])
def test_other_memory(case):
    cache_map, options = CASES[case]
    bench("code_fetcher_other.py", cache_map, pins=True, **options)


@pytest.mark.parametrize(("data_bits", "lanes"), [(64, 1), (256, 4)])
def test_rate(data_bits, lanes):
    """A word in every cycle, whatever the latency, wherever the pages are."""
    cache_map = CacheMap(heads=2, sequences=1, capacity=8192, page_tokens=256, pages=64,
                         data_bits=data_bits)
    bench("code_fetcher_rate.py", cache_map, key_bits=64, lanes=lanes)


MAP = CASES["beat"][0]


def test_properties():
    dut = CodeFetcher(MAP, key_bits=48, lanes=2, depth=128, outstanding=7, commands=3,
                      timeout_bits=5)
    assert (dut.map, dut.key_bits, dut.lanes, dut.depth, dut.outstanding, dut.commands,
            dut.timeout_bits) == (MAP, 48, 2, 128, 7, 3, 5)
    assert (dut.code_bits, dut.word_bits, dut.chunk_bits, dut.burst_beats) == (64, 128, 128, 32)


@pytest.mark.parametrize("name", ["key_bits", "outstanding", "commands", "timeout_bits"])
@pytest.mark.parametrize("value", [0, -1, "4", None])
def test_wrong_numbers(name, value):
    with pytest.raises(TypeError, match=rf"^{name.replace('_', ' ').capitalize()} must be a "
                                        rf"positive integer, not {value!r}$"):
        CodeFetcher(MAP, **{"key_bits": 64, "lanes": 1, name: value})


@pytest.mark.parametrize("name", ["lanes", "depth"])
@pytest.mark.parametrize("value", [0, 3, -4, "4", None])
def test_wrong_powers(name, value):
    with pytest.raises(TypeError, match=rf"^{name.capitalize()} must be a power of two, "
                                        rf"not {value!r}$"):
        CodeFetcher(MAP, **{"key_bits": 64, "lanes": 1, name: value})


def test_sizes_that_do_not_fit():
    with pytest.raises(TypeError, match=r"^Map must be a CacheMap, not 1$"):
        CodeFetcher(1, key_bits=64, lanes=1)
    with pytest.raises(ValueError, match=r"^A page must hold a beat of the bus and a word of keys "
                                         r"\(128 bits\), not 64 bits$"):
        CodeFetcher(MAP, key_bits=1, lanes=128)
    with pytest.raises(ValueError, match=r"^Burst bytes must hold a word of keys \(512\), "
                                         r"not 256$"):
        CodeFetcher(MAP, key_bits=64, lanes=64)
    with pytest.raises(ValueError, match=r"^Depth must be two bursts \(64 beats\) at least, "
                                         r"not 32$"):
        CodeFetcher(MAP, key_bits=64, lanes=1, depth=32)
