# amaranth: UnusedElaboratable=no
from pathlib import Path

import pytest

from nearbit_hw.select.histogram_top_n import HistogramTopN
from nearbit_sim.bench import run_bench


# The bench of the other implementation.
BENCH = Path(__file__).with_name("test_top_n.py")


@pytest.mark.parametrize(("overlap", "lead"), [(False, 2), (True, 2), (True, 9)])
@pytest.mark.parametrize(("key_bits", "lanes", "capacity", "top_n", "refine_lanes"), [
    (64, 4, 128, 16, 4),
    pytest.param(33, 4, 80, 80, 16, marks=pytest.mark.slow),
    pytest.param(63, 8, 64, 7, 8, marks=pytest.mark.slow),
    (8, 16, 128, 32, 16),
    (40, 2, 80, 4, 4), # as many words as bins
    (20, 1, 21, 3, 1), # one more
    pytest.param(8, 16, 128, 3, 16, marks=pytest.mark.slow),
    (8, 2, 30, 5, 2),
    (8, 2, 32, 6, 8), # from here on with parts, where more is scanned than counted
    (64, 4, 256, 9, 8),
    pytest.param(32, 16, 128, 40, 32, marks=pytest.mark.slow),
    (4, 32, 128, 5, 64),
    (3, 1, 13, 4, 1),
    (3, 1, 64, 9, 1), # more keys than a count can tell from each other
    (1, 1, 1, 1, 1),
])
def test_bench(key_bits, lanes, capacity, top_n, refine_lanes, overlap, lead):
    dut = HistogramTopN(key_bits=key_bits, lanes=lanes, capacity=capacity, top_n=top_n,
                        refine_lanes=refine_lanes, overlap=overlap, lead=lead)
    words = capacity // lanes
    run_bench(dut, BENCH, parameters={
        "key_bits": key_bits, "lanes": lanes, "capacity": capacity, "top_n": top_n, "queries": 27,
        "gapless": True, "lead": lead, "latency": dut.latency(words=words, selected=top_n),
        "interval": str(dut.interval(words=words, selected=top_n)),
    })


@pytest.mark.parametrize(("changes", "message"), [
    ({"key_bits": 0}, r"^Key bits must be a positive integer, not 0$"),
    ({"lanes": 3}, r"^Lanes must be a power of two, not 3$"),
    ({"refine_lanes": 2}, r"^Refine lanes must be lanes times a power of two, not 2$"),
    ({"capacity": 63}, r"^Capacity must be a positive multiple of refine lanes, not 63$"),
    ({"top_n": 65}, r"^Top N must be from 1 to capacity, not 65$"),
    ({"lead": 1}, r"^Lead must be an integer greater than 1, not 1$"),
])
def test_wrong_parameter(changes, message):
    given = {"key_bits": 8, "lanes": 4, "capacity": 64, "top_n": 8, "refine_lanes": 4, **changes}
    with pytest.raises(TypeError, match=message):
        HistogramTopN(**given)
