# amaranth: UnusedElaboratable=no
from pathlib import Path

import pytest

from nearbit_hw.soc.soc_core import SocCore
from nearbit_model.config import Config, Rescore
from nearbit_sim.bench import run_bench


TINY = Config.preset("tiny")
CONFIGS = [
    (TINY, 64),
    (TINY.replace(rows=1), 32),
    (Config(key_bits=70, value_dim=6, capacity=40, rows=1, lanes=2, value_lanes=3, top_n=7,
            tables=3, pass_lanes=4, output_cycles=2), 64),
    (TINY.replace(rows=3, rescore=Rescore(head_dim=8, lanes=4, element_bits=10, shared=True)), 32),
    (Config(key_bits=5, value_dim=9, capacity=13, rows=2, lanes=1, value_lanes=9, top_n=3,
            value_bits=16, weight_bits=24, output_fraction_bits=16, output_cycles=32), 64),
]
NUMBERS = range(len(CONFIGS))


def bench(module, config, data_bits=64, bus="axi", test_filter=None, **more):
    dut = SocCore(config, bus=bus, data_bits=data_bits)
    parameters = {"config": config.to_dict(), "data_bits": data_bits, "latency": dut.latency}
    run_bench(dut, Path(__file__).with_name(module), parameters={**parameters, **more},
              test_filter=test_filter, timeout=3000)


@pytest.mark.parametrize("number", [0, 2, 3])
def test_scenarios(number):
    config, data_bits = CONFIGS[number]
    bench("scenarios.py", config, data_bits, scenarios=20, first=0)


@pytest.mark.parametrize("number", [0, 1])
def test_directed(number):
    config, data_bits = CONFIGS[number]
    bench("directed.py", config, data_bits, queries=24)


@pytest.mark.slow
def test_interval_of_reference():
    bench("directed.py", Config.preset("reference"), queries=16, interval=64,
          test_filter="cycles_are_the_cores")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("number", NUMBERS)
def test_thousand_scenarios(number, part):
    config, data_bits = CONFIGS[number]
    bench("scenarios.py", config, data_bits, scenarios=50, first=1000 + 50 * part)
