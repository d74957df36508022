# amaranth: UnusedElaboratable=no
"""The hardware is as configuration and models take it to be."""

import pytest

from nearbit_hw.attend import DividingNormalizer, ReciprocalNormalizer, ValueAccumulator
from nearbit_hw.layouts import CacheError, Error
from nearbit_hw.score import ScoreArray
from nearbit_hw.select import HistogramTopN, TopN
from nearbit_model import PRESETS
from nearbit_model.cycles import Error as ModelError
from nearbit_model.structure import KEY_STORE_LATENCY


def test_error_codes():
    codes = {error.name: error.value for error in ModelError}
    assert {error.name: error.value for error in CacheError} == codes
    assert {error.name: error.value for error in Error} == {
        name: code for name, code in codes.items() if code < ModelError.NOT_SET}


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    config = PRESETS[name]
    array = ScoreArray(key_bits=config.key_bits, queries=config.queries, lanes=config.lanes,
                       queries_per_stage=config.queries_per_stage)
    assert array.stages == config.score_stages
    sizes = {"key_bits": config.distance_max, "lanes": config.lanes, "capacity": config.capacity,
             "top_n": config.top_n, "refine_lanes": config.refine_lanes}
    assert TopN(**sizes).times == config.counter_times
    sums = ValueAccumulator(
        capacity=config.capacity, beats=config.beats, value_lanes=config.value_lanes,
        value_bits=config.value_bits, weight_bits=config.weight_bits, top_n=config.top_n)
    assert sums.total_max == config.total_max
    given = {"value_lanes": config.value_lanes, "value_bits": config.value_bits,
             "sum_bits": sums.acc_bits, "total_max": sums.total_max,
             "output_fraction_bits": config.output_fraction_bits}
    divided = config.replace(normalizer="divider")
    assert DividingNormalizer(**given, divider_cycles=divided.divider_cycles).latency \
        == divided.normalizer_latency
    multiplied = config.replace(normalizer="reciprocal", divider_cycles=1)
    assert ReciprocalNormalizer(**given).latency == multiplied.normalizer_latency
    assert ReciprocalNormalizer(**given).times == multiplied.reciprocal_times
    for selection in ("histograms", "serial"):
        other = config.replace(selection=selection)
        lead = 1 + KEY_STORE_LATENCY + array.latency + config.score_stages - 1
        assert (HistogramTopN(**sizes, overlap=selection == "histograms", lead=lead).times
                == other.histogram_times(config.queries - 1))
