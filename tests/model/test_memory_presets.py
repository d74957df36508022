"""Cores with a memory for today's decoders: allowed, and what they take of a memory."""

import pytest

from nearbit_hw.core import core_members
from nearbit_model.config import MEMORY_PRESETS
from nearbit_model.memory import MemoryLayout, plan_memory


SIZES = {"memory64": (8, 80), "memory256": (4, 352), "memory512": (4, 384)}
"""Bytes of a code and of a row with its stride."""


@pytest.mark.parametrize("name", MEMORY_PRESETS)
def test_fits(name):
    """The cache of all heads at full length lies within the addresses, without a gap."""
    config = MEMORY_PRESETS[name]
    layout = MemoryLayout.of(config)
    assert (layout.code_bytes, layout.least_stride) == SIZES[name]
    assert plan_memory(config).size == (
        config.memory.heads * config.capacity * sum(SIZES[name]))
    assert {"axi_codes", "axi_rows"} <= set(core_members(config))


@pytest.mark.parametrize("name", MEMORY_PRESETS)
def test_selection_does_not_grow(name):
    """A longer context takes no larger block."""
    config = MEMORY_PRESETS[name]
    longer = config.replace(capacity=2 * config.capacity, refine_lanes=config.refine_lanes)
    assert longer.selection_block == config.selection_block < config.capacity
    assert longer.histogram_times(0) == config.histogram_times(0)
