# amaranth: UnusedElaboratable=no
from pathlib import Path

import pytest

from nearbit_hw.select.histogram_top_n import HistogramTopN
from nearbit_sim.bench import run_bench


# The bench of the other implementation.
BENCH = Path(__file__).with_name("test_top_n.py")


SMALL = [
    (20, 1, 21, 3, 1), # one word more than bins
    (8, 2, 30, 5, 2),
    (8, 2, 32, 6, 8), # parts: more is scanned than counted
    (3, 1, 13, 4, 1),
    (3, 1, 64, 9, 1), # more keys than a count can tell from each other
    (1, 1, 1, 1, 1),
    (2, 4, 16, 3, 4), # fewer bins than levels of the sum
]
# Icarus takes many seconds for each; the first one says most.
LARGE = [
    (64, 4, 128, 16, 4),
    (33, 4, 80, 80, 16),
    (63, 8, 64, 7, 8),
    (8, 16, 128, 32, 16),
    (40, 2, 80, 4, 4), # as many words as bins
    (8, 16, 128, 3, 16),
    (64, 4, 256, 9, 8), # parts
    (32, 16, 128, 40, 32),
]
WAYS = [(False, 2), (True, 2), (True, 9)]


@pytest.mark.parametrize(("key_bits", "lanes", "capacity", "top_n", "refine_lanes", "overlap",
                          "lead"), [
    *((*shape, *way) for way in WAYS for shape in SMALL),
    *((*LARGE[0], *way) for way in WAYS[:2]),
    *(pytest.param(*shape, *way, marks=pytest.mark.slow)
      for way in WAYS for shape in LARGE if shape != LARGE[0] or way == WAYS[2]),
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


@pytest.mark.parametrize(("key_bits", "lanes", "capacity", "top_n", "refine_lanes", "block"), [
    (16, 1, 160, 6, 2, 32),
    pytest.param(8, 4, 192, 9, 16, 64, marks=pytest.mark.slow),
    (8, 4, 128, 9, 4, 32), # blocks that take longer than their words
    (3, 2, 96, 5, 4, 8),
    (33, 1, 40, 16, 4, 16),
    pytest.param(6, 8, 512, 20, 16, 256, marks=pytest.mark.slow),
    (2, 1, 19, 1, 1, 2),
    (8, 2, 64, 32, 4, 32),
    (5, 1, 24, 3, 2, 32),
])
def test_blocks(key_bits, lanes, capacity, top_n, refine_lanes, block):
    dut = HistogramTopN(key_bits=key_bits, lanes=lanes, capacity=capacity, top_n=top_n,
                        refine_lanes=refine_lanes, block=block)
    run_bench(dut, BENCH, parameters={
        "key_bits": key_bits, "lanes": lanes, "capacity": capacity, "top_n": top_n, "queries": 33,
        "block": block, "gapless": True, "latency": None,
    }, test_filter=r"^(?!.*\binterval$)")


@pytest.mark.parametrize(("changes", "message"), [
    ({"key_bits": 0}, r"^Key bits must be a positive integer, not 0$"),
    ({"lanes": 3}, r"^Lanes must be a power of two, not 3$"),
    ({"refine_lanes": 2}, r"^Refine lanes must be lanes times a power of two, not 2$"),
    ({"capacity": 63}, r"^Capacity must be a positive multiple of refine lanes, not 63$"),
    ({"top_n": 65}, r"^Top N must be from 1 to capacity, not 65$"),
    ({"lead": 1}, r"^Lead must be an integer greater than 1, not 1$"),
    ({"block": -1}, r"^A block must be a number of keys, or 0, not -1$"),
    ({"block": "8"}, r"^A block must be a number of keys, or 0, not '8'$"),
])
def test_wrong_parameter(changes, message):
    given = {"key_bits": 8, "lanes": 4, "capacity": 64, "top_n": 8, "refine_lanes": 4, **changes}
    with pytest.raises(TypeError, match=message):
        HistogramTopN(**given)


@pytest.mark.parametrize("block", [12, 4, 16])
def test_wrong_block(block):
    message = (r"^A block must be a power of two, at least twice refine lanes and at least top N, "
               f"not {block}$")
    with pytest.raises(ValueError, match=message):
        HistogramTopN(key_bits=8, lanes=4, capacity=64, top_n=20, refine_lanes=4, block=block)


def test_blocks_need_overlap():
    with pytest.raises(ValueError, match=r"^Blocks require overlap$"):
        HistogramTopN(key_bits=8, lanes=4, capacity=64, top_n=8, block=16, overlap=False)
