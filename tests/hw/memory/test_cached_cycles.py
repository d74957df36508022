# amaranth: UnusedElaboratable=no
import random
from pathlib import Path

import pytest

from nearbit_hw.core import Core
from nearbit_model.config import Config, ConfigError, Memory, Rescore
from nearbit_sim.bench import run_bench


HERE = Path(__file__).parent

SMALL = {"key_bits": 8, "value_dim": 8, "capacity": 64, "lanes": 4, "value_lanes": 8, "top_n": 16}
CASES = {
    "codes": Config(**SMALL, memory=Memory(heads=3, sequences=2, page_tokens=16,
                                           burst_bytes=16, queue_beats=16)),
    "one bus": Config(**{**SMALL, "key_bits": 16, "lanes": 1, "queries": 3, "value_dim": 16},
                      memory=Memory(heads=2, sequences=3, page_tokens=8, one_bus=True,
                                    bus_bits=32, burst_bytes=16, queue_beats=64)),
    "rescore": Config(**{**SMALL, "queries": 2},
                      rescore=Rescore(head_dim=16, lanes=8, element_bits=12),
                      memory=Memory(heads=2, sequences=2, page_tokens=32, bus_bits=32,
                                    row_ports=2)),
    "shared": Config(**{**SMALL, "queries": 2, "value_bits": 4, "value_lanes": 4},
                     rescore=Rescore(head_dim=8, lanes=8, element_bits=8, shared=True),
                     memory=Memory(heads=2, sequences=2, page_tokens=16, bus_bits=64,
                                   row_ports=4)),
    # An eighth of the rows crosses 4 KiB.
    "boundary": Config(**{**SMALL, "value_dim": 256, "value_bits": 16, "top_n": 4},
                       memory=Memory(heads=2, page_tokens=16, bus_bits=128)),
    # Words of several beats, in blocks; bursts of a word.
    "blocks": Config(**{**SMALL, "key_bits": 20, "capacity": 256, "lanes": 2, "refine_lanes": 8,
                        "top_n": 6}, selection_block=128,
                     memory=Memory(heads=1, page_tokens=64, bus_bits=32, burst_bytes=16,
                                   queue_beats=8)),
    "serial": Config(**{**SMALL, "top_n": 1}, selection="serial", memory=Memory(
        heads=2, page_tokens=16, outstanding=1, row_id_bits=1)),
    "counters": Config(**{**SMALL, "value_lanes": 4, "refine_lanes": 8}, selection="counters",
                       rescore=Rescore(head_dim=8, lanes=4, element_bits=8),
                       memory=Memory(heads=2, page_tokens=16, one_bus=True, burst_bytes=32)),
}
TIMINGS = [(1, 64), (200, 64), (30, 3)]


def compare(config, timings, **parameters):
    run_bench(Core(config), HERE / "cached_cycles.py", parameters={
        "config": config.to_dict(), "timings": timings, "steps": 8, "rounds": 3, **parameters},
        timeout=1200)


@pytest.mark.parametrize("case", [
    pytest.param(case, marks=pytest.mark.slow if case in ("one bus", "blocks", "boundary") else [])
    for case in CASES])
def test_bench(case):
    compare(CASES[case], TIMINGS)


def random_config(rng):
    while True:
        def power(least, most):
            return 1 << rng.randint(least, most)

        bus, lanes = rng.choice([32, 32, 64, 64, 128]), power(0, 3)
        unit = None
        if rng.random() < 0.5:
            rescore_lanes = power(0, 3)
            unit = Rescore(head_dim=rescore_lanes * rng.randint(1, 3), lanes=rescore_lanes,
                           element_bits=rng.choice([4, 8, 16]), shared=rng.random() < 0.5)
        one_bus, page = rng.random() < 0.2, power(2, 5)
        refine = lanes << rng.randint(0, 2)
        capacity = max(refine, page * rng.randint(1, 4))
        value_lanes = power(0, 3)
        top_n = rng.randint(1, min(capacity, 20))
        try:
            return Config(
                key_bits=rng.randint(1, 40), value_dim=value_lanes * rng.randint(1, 4),
                value_bits=rng.choice([4, 8, 16]), capacity=capacity, lanes=lanes,
                refine_lanes=refine, value_lanes=value_lanes,
                top_n=top_n, queries=rng.choice([1, 1, 2, 3]),
                selection=rng.choice(["histograms", "histograms", "serial", "counters"]),
                exp_tables=rng.randint(1, 2), rescore=unit,
                selection_block=rng.choice([0, 0, power(3, 7)]),
                memory=Memory(
                    heads=rng.randint(1, 4), sequences=rng.randint(1, 3), page_tokens=page,
                    bus_bits=bus, one_bus=one_bus,
                    row_ports=1 if one_bus or top_n < 4 else rng.choice([1, 2, 4]),
                    burst_bytes=power(4, 8), queue_beats=power(1, 8),
                    outstanding=rng.choice([1, 2, 3, 64]), row_id_bits=rng.randint(1, 4)))
        except ConfigError:
            continue


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_random(seed):
    rng = random.Random(seed)
    config = random_config(rng)
    while config.selection == "counters" and config.rescore is None:
        config = random_config(rng)
    timings = [(rng.choice([1, 2, rng.randint(1, 40), 100]), rng.choice([1, 2, 5, 64]))
               for _ in range(2)]
    compare(config, timings, rounds=2)
