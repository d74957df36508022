# amaranth: UnusedElaboratable=no
from dataclasses import asdict
from pathlib import Path

import pytest

from nearbit_hw.memory import CacheMap, RowFetcher, RowPort
from nearbit_sim.bench import run_bench

from .parts import Rows
from .pins import Pins


HERE = Path(__file__).parent


def bench(module, cache_map, *, pins=False, stride, share=None, **options):
    dut = Rows(cache_map, **options)
    fetcher = dut.fetcher
    parameters = asdict(cache_map) | {"stride": stride, "share": share, "code_bits": 64} | {
        name: getattr(fetcher, name) for name in ("top_n", "row_beats", "ports", "latency")}
    run_bench(Pins(dut) if pins else dut, HERE / module, parameters=parameters)


CASES = {
    # Rows of 80 bytes, which cross 4 KiB.
    "one": (CacheMap(heads=3, sequences=2, capacity=192, page_tokens=64, pages=5),
            {"top_n": 12, "row_beats": 10, "stride": 80}),
    "two": (CacheMap(heads=2, sequences=3, capacity=96, page_tokens=32, pages=7, data_bits=128),
            {"top_n": 7, "row_beats": 7, "stride": 112, "ports": 2, "id_bits": 2}),
    "four": (CacheMap(heads=2, sequences=1, capacity=256, page_tokens=64, pages=4, data_bits=32),
             {"top_n": 16, "row_beats": 5, "stride": 48, "ports": 4, "id_bits": 1}),
    "least": (CacheMap(heads=1, sequences=1, capacity=16, page_tokens=16, pages=1, data_bits=128,
                       stride_bits=1),
              {"top_n": 1, "row_beats": 1, "stride": 16, "id_bits": 1, "timeout_bits": 8}),
}


@pytest.mark.parametrize("case", CASES)
def test_bench(case):
    cache_map, options = CASES[case]
    bench("row_fetcher.py", cache_map, **options)


@pytest.mark.parametrize("case", ["one", "two"])
def test_other_memory(case):
    cache_map, options = CASES[case]
    bench("row_fetcher_other.py", cache_map, pins=True, **options)


@pytest.mark.parametrize(("ports", "share"), [(1, 0.97), (2, 0.5), (4, 0.25)])
def test_rate(ports, share):
    """Rows are taken at one beat per cycle, which more ports share."""
    cache_map = CacheMap(heads=2, sequences=1, capacity=512, page_tokens=64, pages=16)
    bench("row_fetcher_rate.py", cache_map, top_n=32, row_beats=10, stride=80, ports=ports,
          share=0.97 * share)


MAP = CASES["one"][0]
SIZES = {"top_n": 12, "row_beats": 10}


def test_properties():
    dut = RowFetcher(MAP, top_n=13, row_beats=10, ports=4, id_bits=3, timeout_bits=5)
    assert (dut.map, dut.top_n, dut.row_beats, dut.ports, dut.id_bits, dut.timeout_bits,
            dut.positions) == (MAP, 13, 10, 4, 3, 5, 4)
    port = RowPort(positions=4, row_beats=10, address_bits=40, data_bits=128, id_bits=3,
                   timeout_bits=5)
    assert (port.positions, port.row_beats, port.address_bits, port.data_bits, port.id_bits,
            port.timeout_bits) == (4, 10, 40, 128, 3, 5)


@pytest.mark.parametrize("name", ["top_n", "row_beats", "id_bits", "timeout_bits"])
@pytest.mark.parametrize("value", [0, -1, "4", None])
def test_wrong_numbers(name, value):
    with pytest.raises(TypeError, match=rf"^{name.replace('_', ' ').capitalize()} must be a "
                                        rf"positive integer, not {value!r}$"):
        RowFetcher(MAP, **{**SIZES, name: value})


def test_sizes_that_do_not_fit():
    with pytest.raises(TypeError, match=r"^Map must be a CacheMap, not 1$"):
        RowFetcher(1, **SIZES)
    with pytest.raises(ValueError, match=r"^Ports must be 1, 2 or 4, not 3$"):
        RowFetcher(MAP, **SIZES, ports=3)
    with pytest.raises(ValueError, match=r"^Row beats must be at most 256, not 257$"):
        RowFetcher(MAP, top_n=12, row_beats=257)
    with pytest.raises(ValueError, match=r"^Row beats must be at most 32, not 33$"):
        RowPort(positions=4, row_beats=33, data_bits=1024)
