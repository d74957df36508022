# amaranth: UnusedElaboratable=no
"""The hardware is as configuration and models take it to be."""

import pytest

from nearbit_hw.layouts import Error
from nearbit_hw.score import ScoreArray
from nearbit_hw.select import HistogramTopN, TopN
from nearbit_model import PRESETS
from nearbit_model.cycles import Error as ModelError
from nearbit_model.structure import KEY_STORE_LATENCY


def test_error_codes():
    assert {error.name: error.value for error in Error} == {
        error.name: error.value for error in ModelError}


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    config = PRESETS[name]
    array = ScoreArray(key_bits=config.key_bits, queries=config.queries, lanes=config.lanes,
                       queries_per_stage=config.queries_per_stage)
    assert array.stages == config.score_stages
    sizes = {"key_bits": config.distance_max, "lanes": config.lanes, "capacity": config.capacity,
             "top_n": config.top_n, "refine_lanes": config.refine_lanes}
    assert TopN(**sizes).times == config.counter_times
    assert TopN(**sizes).registers == config.memory_registers
    for selection in ("histograms", "serial"):
        other = config.replace(selection=selection)
        lead = 1 + KEY_STORE_LATENCY + array.latency + config.score_stages - 1
        assert (HistogramTopN(**sizes, overlap=selection == "histograms", lead=lead).times
                == other.histogram_times(config.queries - 1))
