"""Cores with a memory for today's decoders: allowed, and what they take of a memory."""

import pytest

from nearbit_hw.core import core_members
from nearbit_model.config import Config, Memory, Rescore
from nearbit_model.memory import MemoryLayout, plan_memory


CONFIGS = {
    # SmolLM2: 64-element heads in groups of three queries, one key a cycle from a 64-bit bus.
    "memory64": Config(
        key_bits=64, value_dim=64, capacity=8192, queries=3, lanes=1, value_lanes=8, top_n=128,
        exp_tables=3, refine_lanes=2, selection_block=512, memory=Memory(heads=128)),
    # HashAttention on heads of 128 elements, 32 layers of 8 key heads, each of four query heads.
    "memory256": Config(
        key_bits=32, value_dim=128, capacity=32768, queries=4, lanes=4, value_lanes=32, top_n=128,
        exp_tables=4, refine_lanes=8, selection_block=2048,
        rescore=Rescore(head_dim=128, lanes=64, element_bits=12, shared=True),
        memory=Memory(heads=256, bus_bits=256, burst_bytes=1024)),
    # The same with longer contexts, in more memory than 32 bits of an address reach.
    "memory512": Config(
        key_bits=32, value_dim=128, capacity=65536, queries=4, lanes=8, value_lanes=64, top_n=128,
        exp_tables=4, refine_lanes=16, selection_block=4096,
        rescore=Rescore(head_dim=128, lanes=128, element_bits=12, shared=True),
        memory=Memory(heads=256, bus_bits=512, burst_bytes=2048, address_bits=40)),
}

SIZES = {"memory64": (8, 80), "memory256": (4, 352), "memory512": (4, 384)}
"""Bytes of a code and of a row with its stride."""


@pytest.mark.parametrize("name", CONFIGS)
def test_fits(name):
    """The cache of all heads at full length lies within the addresses, without a gap."""
    config = CONFIGS[name]
    layout = MemoryLayout.of(config)
    assert (layout.code_bytes, layout.least_stride) == SIZES[name]
    assert plan_memory(config).size == (
        config.memory.heads * config.capacity * sum(SIZES[name]))
    assert {"axi_codes", "axi_rows"} <= set(core_members(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_selection_does_not_grow(name):
    """A longer context takes no larger block."""
    config = CONFIGS[name]
    longer = config.replace(capacity=2 * config.capacity, refine_lanes=config.refine_lanes)
    assert longer.selection_block == config.selection_block < config.capacity
    assert longer.histogram_times(0) == config.histogram_times(0)
