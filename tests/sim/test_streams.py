# amaranth: UnusedElaboratable=no
"""A host packs what the hardware unpacks: both descriptions of the core's streams are the same."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearbit_boards.boards import BOARDS
from nearbit_hw.core import Core
from nearbit_model.config import PRESETS, Config, Rescore
from nearbit_model.transfers import core_ports
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
