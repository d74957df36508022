"""Two derivations of where a cache lies, that of the hardware and that of the models, agree."""

from hypothesis import given

from nearbit_hw.memory.cache import RowFields
from nearbit_hw.memory.cache_map import cache_map
from nearbit_hw.memory.code_fetcher import code_bits
from nearbit_model.memory import MemoryLayout, plan_memory

from .memory_configs import memory_configs


@given(memory_configs())
def test_layout(config):
    """Fields of a row, bytes of a code, and the units of bases and strides."""
    layout, fields, sizes = MemoryLayout.of(config), RowFields.of(config), cache_map(config)
    assert layout.values.offset * 8 == fields.value_beat * config.memory.bus_bits
    assert layout.scale.offset * 8 == fields.scale_bit
    assert layout.row_beats == fields.beats
    assert layout.beat_bytes == sizes.data_bytes
    assert layout.code_bytes * 8 == code_bits(config.key_bits)
    assert layout.row_unit == sizes.row_unit
    assert layout.code_unit == sizes.burst_bytes
    assert layout.least_stride == (
        -(-fields.beats * sizes.data_bytes // sizes.row_unit) * sizes.row_unit)


@given(memory_configs())
def test_entries(config):
    """A planned head fits the fields of its entry, and a page those of its own."""
    plan, sizes = plan_memory(config), cache_map(config)
    assert plan.places == sizes.pages * sizes.page_tokens
    entries = plan.head_entries()
    layout = sizes.head_layout
    assert list(entries["entry"]) == list(layout.members)
    for name, numbers in entries["entry"].items():
        assert int(numbers.max()) < 1 << layout.members[name]
    assert list(entries) == list(sizes.head_write_layout.members)
    # Bases and strides that an entry has as numbers are those of the plan.
    for number, head in enumerate(plan.heads):
        assert int(entries["entry"]["codes"][number]) * sizes.burst_bytes == head.codes
        assert int(entries["entry"]["rows"][number]) * sizes.row_unit == head.rows
        assert int(entries["entry"]["stride"][number]) * sizes.row_unit == head.stride
    listed = plan.page_entries(0, list(range(sizes.listed)))
    assert list(listed) == list(sizes.page_write_layout.members)
