"""Each preset can be built, and computes what the golden model does in the cycles predicted."""

import numpy as np
import pytest

from nearbit_model.attention import attention
from nearbit_model.config import PRESETS
from nearbit_model.mapping import Mapping
from nearbit_model.transfers import Plan
from nearbit_sim import simulate


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_preset(name):
    config = PRESETS[name]
    unit = config.rescore
    rng = np.random.default_rng(1)
    tokens, heads = min(config.capacity, 600), config.queries
    methods = [("had", config.key_bits)] if unit is None \
        else [("had", config.key_bits), ("hash", unit.head_dim)]
    for method, dim in methods:
        q = rng.standard_normal((heads, 6, dim))
        k, v = (rng.standard_normal((1, tokens, size)) for size in (dim, config.value_dim))
        options = {"n": min(40, config.top_n // 2), "sink": min(2, config.top_n // 4),
                   "recent": min(3, config.top_n // 4), "causal": True, "method": method}
        if method == "hash":
            options["mapping"] = Mapping.hadamard(config.key_bits, dim, heads=heads, kv_heads=1)
        shares = [False, True] if method == "hash" and unit.shared else [False]
        for shared in shares:
            hardware = simulate(q, k, v, config, **options, shared=shared)
            golden = attention(q, k, v, config, **options, shared=shared)
            assert hardware.difference(golden) is None
            assert Plan(hardware.prepared).predict().cycles == hardware.cycles
