# amaranth: UnusedElaboratable=no
"""A host packs what the hardware unpacks: both descriptions of the core's streams are the same."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearbit_boards.boards import BOARDS
from nearbit_hw.core import Core
from nearbit_model.config import PRESETS, Config, Memory, Rescore
from nearbit_model.transfers import core_ports
from nearbit_model.transfers.buses import split_buses
from nearbit_model.transfers.streams import core_buses
from nearbit_sim.payload import ports


def test_named():
    """All presets, and what boards have."""
    configs = [*PRESETS.values(), *(board.config for board in BOARDS.values())]
    assert len(configs) > 10
    for config in configs:
        assert core_ports(config) == ports(Core(config))


@pytest.mark.parametrize("unit", [
    None, Rescore(head_dim=1, lanes=1), Rescore(head_dim=6, lanes=3, element_bits=5, shared=True)])
def test_degenerate(unit):
    """One of each: fields without a bit."""
    config = Config(key_bits=1, value_dim=1, capacity=1, lanes=1, value_lanes=1, top_n=1,
                    exp_tables=1,
                    queries=1, rescore=unit)
    assert core_ports(config) == ports(Core(config))
    for selection, queries in itertools.product(("histograms", "serial"), (1, 3)):
        other = config.replace(selection=selection, queries=queries, capacity=2)
        assert core_ports(other) == ports(Core(other))


@st.composite
def configs(draw):
    lanes = 1 << draw(st.integers(0, 4))
    capacity = lanes * draw(st.integers(1, 300))
    value_lanes = draw(st.integers(1, 20))
    rescore_lanes = draw(st.integers(1, 12))
    unit = draw(st.none() | st.builds(
        Rescore, head_dim=st.integers(1, 8).map(lambda beats: beats * rescore_lanes),
        lanes=st.just(rescore_lanes), element_bits=st.integers(2, 16), shared=st.booleans()))
    return Config(
        key_bits=draw(st.integers(1, 200)), value_lanes=value_lanes, capacity=capacity,
        value_dim=value_lanes * draw(st.integers(1, 9)), lanes=lanes, rescore=unit,
        value_bits=draw(st.integers(2, 16)), queries=draw(st.integers(1, 9)),
        top_n=draw(st.integers(1, min(capacity, 64))), weight_bits=draw(st.integers(2, 24)),
        output_fraction_bits=draw(st.integers(0, 16)), exp_tables=draw(st.integers(1, 9)))


@given(configs())
@settings(deadline=None)
def test_any(config):
    assert core_ports(config) == ports(Core(config))


@st.composite
def configs_with_memory(draw):
    bus_bits = 1 << draw(st.integers(5, 9))
    one_bus = draw(st.booleans())
    page_tokens = 1 << draw(st.integers(7, 9))
    unit = draw(st.none() | st.just(Rescore(head_dim=64, lanes=64, element_bits=8)))
    memory = draw(st.builds(
        Memory, heads=st.integers(1, 300), sequences=st.integers(1, 40),
        page_tokens=st.just(page_tokens), pages=st.integers(0, 300), bus_bits=st.just(bus_bits),
        burst_bytes=st.sampled_from([256, 1024]), address_bits=st.integers(16, 64),
        one_bus=st.just(one_bus), row_ports=st.just(1) if one_bus else st.sampled_from([1, 2, 4]),
        queue_beats=st.just(1 << 10), row_id_bits=st.integers(1, 8),
        stride_bits=st.integers(7, 16), timeout_bits=st.integers(1, 32)))
    return Config(
        key_bits=draw(st.integers(5, 128)), value_lanes=64, value_dim=draw(st.sampled_from(
            [64, 128])), capacity=page_tokens * draw(st.integers(1, 9)),
        lanes=1 << draw(st.integers(0, 3)), rescore=unit, queries=draw(st.integers(1, 4)),
        top_n=draw(st.integers(memory.row_ports, 64)), memory=memory)


@given(configs_with_memory())
@settings(deadline=None)
def test_memory(config):
    """Streams of the host and AXI4 channels are all of a core's streams, each of them once."""
    buses, others = split_buses(ports(Core(config)))
    assert others == core_ports(config)
    assert buses == core_buses(config)
    assert {name for name, member in Core(config).signature.members.items()
            if member.is_port} == {"timeout"}


def test_no_buses():
    assert core_buses(PRESETS["tiny"]) == []
