"""Each preset with a memory can be built, and computes what the golden model does."""

import numpy as np
import pytest

from nearbit_model.attention import attention
from nearbit_model.config import MEMORY_PRESETS
from nearbit_model.mapping import Mapping
from nearbit_model.memory_timing import MemoryTiming
from nearbit_sim import simulate


@pytest.mark.slow
@pytest.mark.parametrize("name", MEMORY_PRESETS)
def test_preset(name):
    config = MEMORY_PRESETS[name]
    unit, heads = config.rescore, config.queries
    rng = np.random.default_rng(1)
    methods = [("had", config.key_bits, False)]
    if unit is not None:
        methods += [("hash", unit.head_dim, False), ("hash", unit.head_dim, True)]
    for method, dim, shared in methods:
        q = rng.standard_normal((heads, 4, dim))
        k, v = (rng.standard_normal((1, 1500, size)) for size in (dim, config.value_dim))
        options = {"n": 60, "sink": 2, "recent": 3, "causal": True, "method": method,
                   "shared": shared}
        if method == "hash":
            options["mapping"] = Mapping.hadamard(config.key_bits, dim, heads=heads, kv_heads=1)
        hardware = simulate(q, k, v, config, **options, timing=MemoryTiming(latency=60))
        golden = attention(q, k, v, config, **options)
        assert hardware.difference(golden) is None
