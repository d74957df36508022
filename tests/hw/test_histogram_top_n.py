# amaranth: UnusedElaboratable=no
from pathlib import Path

import pytest

from nearbit_hw.histogram_top_n import HistogramTopN
from nearbit_sim.bench import run_bench


# The bench of the other implementation.
BENCH = Path(__file__).with_name("test_top_n.py")


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("key_bits", "lanes", "capacity", "top_n", "pass_lanes"), [
    (64, 4, 128, 16, 4),
    (33, 4, 80, 80, 16),
    (127, 8, 64, 7, 8),
    (8, 16, 128, 32, 16),
    (8, 2, 30, 5, 2),
    (8, 2, 32, 6, 8),
    (3, 1, 13, 4, 1),
    (1, 1, 1, 1, 1),
])
def test_bench(key_bits, lanes, capacity, top_n, pass_lanes, overlap):
    dut = HistogramTopN(key_bits=key_bits, lanes=lanes, capacity=capacity, top_n=top_n,
                        pass_lanes=pass_lanes, overlap=overlap)
    run_bench(dut, BENCH, parameters={
        "key_bits": key_bits, "lanes": lanes, "capacity": capacity, "top_n": top_n, "queries": 27,
        "gapless": True, "latency": dut.latency(words=capacity // lanes, selected=top_n),
    })
