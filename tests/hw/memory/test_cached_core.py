# amaranth: UnusedElaboratable=no
from pathlib import Path

import pytest

from nearbit_hw.core import Core
from nearbit_model.config import Config, Memory, Rescore
from nearbit_sim.bench import run_bench


HERE = Path(__file__).parent

SMALL = {"key_bits": 8, "value_dim": 8, "capacity": 64, "lanes": 4, "value_lanes": 8, "top_n": 16}
CASES = {
    "codes": (Config(**SMALL, memory=Memory(heads=3, sequences=2, page_tokens=16,
                                            burst_bytes=16, queue_beats=16)), 12),
    "one bus": (Config(**{**SMALL, "key_bits": 16, "queries": 2, "value_dim": 16},
                       memory=Memory(heads=2, sequences=2, page_tokens=8, one_bus=True,
                                     bus_bits=32, burst_bytes=16, queue_beats=64)), 6),
}
LONG = {
    "shared": (Config(**{**SMALL, "queries": 2, "value_bits": 4, "value_lanes": 4},
                      rescore=Rescore(head_dim=8, lanes=8, element_bits=8, shared=True),
                      memory=Memory(heads=2, sequences=2, page_tokens=16, bus_bits=64,
                                    row_ports=4)), 6),
    "one lane": (Config(**{**SMALL, "key_bits": 16, "lanes": 1, "queries": 3, "value_dim": 16},
                        memory=Memory(heads=2, sequences=3, page_tokens=8, one_bus=True,
                                      bus_bits=32, burst_bytes=16, queue_beats=64)), 12),
    "rescore": (Config(**{**SMALL, "queries": 2},
                       rescore=Rescore(head_dim=16, lanes=8, element_bits=12),
                       memory=Memory(heads=2, sequences=2, page_tokens=32, bus_bits=32,
                                     row_ports=2)), 10),
    "blocks": (Config(**{**SMALL, "capacity": 256, "top_n": 4, "lanes": 1, "refine_lanes": 4,
                         "selection_block": 64, "queries": 2},
                      memory=Memory(heads=1, sequences=2, page_tokens=64)), 12),
}


@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow)
                                            for case in LONG)])
def test_bench(case):
    config, steps = {**CASES, **LONG}[case]
    run_bench(Core(config), HERE / "cached_core.py",
              parameters={"config": config.to_dict(), "steps": steps}, timeout=1200)
