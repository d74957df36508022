"""HashAttention through the simulated core: bit for bit the golden model's answer, to the cycle."""

import re

import numpy as np
import pytest

from nearbit_model import reference
from nearbit_model.attention import ORIGINS, attention
from nearbit_model.config import Config, Rescore
from nearbit_model.mapping import Mapping
from nearbit_model.prepare import TensorError, prepare
from nearbit_model.transfers import Plan
from nearbit_sim import simulate
from nearbit_sim.simulation import run


# Few libraries to build: one query at a time and everything odd; a group of two that may share.
SINGLE = Config(key_bits=70, value_dim=6, capacity=40, value_bits=5, lanes=2, value_lanes=2,
                top_n=40, weight_bits=11, output_fraction_bits=3, normalizer="divider",
                divider_cycles=2,
                rescore=Rescore(head_dim=12, lanes=3, element_bits=12))
GROUP = Config(key_bits=8, value_dim=8, capacity=40, queries=2, lanes=4, value_lanes=4, top_n=40,
               rescore=Rescore(head_dim=12, lanes=12, shared=True))


def tensors(config, heads=2, kv_heads=1, queries=5, tokens=40, seed=0):
    rng = np.random.default_rng(seed)
    dim = config.rescore.head_dim
    return (rng.standard_normal((heads, queries, dim)),
            rng.standard_normal((kv_heads, tokens, dim)),
            rng.standard_normal((kv_heads, tokens, config.value_dim)))


def check(hardware, golden):
    for name in ("output", "output_int", "selected", "distances", "scores", "weights", "origins"):
        np.testing.assert_array_equal(getattr(hardware, name), getattr(golden, name))
    assert hardware.difference(golden) is None
    assert not hardware.errors.any()
    expected = Plan(hardware.prepared).predict()
    results = hardware.outcome.outputs["o_result"].cycles
    np.testing.assert_array_equal(expected.timeline.results, results)
    assert expected.cycles == hardware.cycles


@pytest.mark.parametrize(("config", "heads", "kv_heads"), [
    (SINGLE, 2, 2),
    (SINGLE, 3, 1),
    (GROUP, 4, 2),  # the group in a command
    (GROUP, 3, 1),  # groups that do not fill the commands
])
@pytest.mark.parametrize("options", [
    {"n": 4},
    {"n": 2, "sink": 3, "recent": 1, "causal": True, "qpos": [0, 1, 39, 7, 7]},
    {"n": 40, "rotate": False},
], ids=["plain", "causal", "dense"])
def test_bit_exact(config, heads, kv_heads, options):
    q, k, v = tensors(config, heads, kv_heads)
    mapping = Mapping.hadamard(config.key_bits, 12, heads=heads, kv_heads=kv_heads)
    options = {**options, "method": "hash", "mapping": mapping}
    check(simulate(q, k, v, config, **options), attention(q, k, v, config, **options))


def test_shared_selection():
    q, k, v = tensors(GROUP, 4, 2)
    mapping = Mapping.hadamard(8, 12, heads=4, kv_heads=2)
    options = {"method": "hash", "mapping": mapping, "n": 5, "sink": 2, "recent": 1,
               "causal": True}
    shared = simulate(q, k, v, GROUP, **options, shared=True)
    check(shared, attention(q, k, v, GROUP, **options, shared=True))
    alone = simulate(q, k, v, GROUP, **options)
    for head in (0, 2):
        np.testing.assert_array_equal(shared.selected[head], shared.selected[head + 1])
        assert (alone.selected[head] != alone.selected[head + 1]).any()
    # Scores are those of each head's own query.
    assert (shared.scores[0] != shared.scores[1]).any()
    assert shared.distances.max() > GROUP.key_bits


def test_codes_of_each_head():
    """A mapping that gives each query head its own codes of a key, as published."""
    rng = np.random.default_rng(1)
    q, k, v = tensors(SINGLE, 4, 2)
    layers = [[(rng.standard_normal((4, 70, 12)).astype(np.float32),
                rng.standard_normal((4, 70)).astype(np.float32))] for _ in "qk"]
    mapping = Mapping.learned(*layers, kv_heads=2)
    assert not mapping.shares_keys
    options = {"method": "hash", "mapping": mapping, "n": 3, "recent": 2}
    hardware = simulate(q, k, v, SINGLE, **options)
    check(hardware, attention(q, k, v, SINGLE, **options))
    # What is computed is the same as for heads that have keys of their own.
    golden = attention(q, np.repeat(k, 2, axis=0), np.repeat(v, 2, axis=0), SINGLE, **{
        **options, "mapping": Mapping.learned(*layers, kv_heads=4)})
    np.testing.assert_array_equal(hardware.output_int, golden.output_int)


def test_engines_agree():
    q, k, v = tensors(GROUP, 2, 1)
    options = {"method": "hash", "n": 3, "sink": 1, "recent": 2, "shared": True,
               "mapping": Mapping.random(8, 12, heads=2, kv_heads=1)}
    ours, theirs = (simulate(q, k, v, GROUP, engine=engine, **options)
                    for engine in ("compiled", "icarus"))
    assert ours.difference(theirs) is None
    for name in ours.outcome.outputs:
        np.testing.assert_array_equal(ours.outcome.outputs[name].cycles,
                                      theirs.outcome.outputs[name].cycles)


def test_both_methods_on_one_core():
    config = GROUP.replace(rescore=Rescore(head_dim=8, lanes=4))
    q, k, v = tensors(config, 2, 1)
    for options in ({"method": "had"}, {"method": "hash"}, {"method": "had", "sink": 2}):
        hardware = simulate(q, k, v, config, n=4, **options)
        assert hardware.difference(attention(q, k, v, config, n=4, **options)) is None
        assert (hardware.scores is None) == (options["method"] == "had")


def test_without_trace():
    q, k, v = tensors(SINGLE)
    mapping = Mapping.hadamard(70, 12, heads=2, kv_heads=1)
    prepared = prepare(q, k, v, SINGLE, n=3, method="hash", mapping=mapping)
    traced, plain = run(Plan(prepared)), run(Plan(prepared, trace=False))
    np.testing.assert_array_equal(plain.output_int, traced.output_int)
    assert plain.cycles == traced.cycles
    assert plain.scores.shape == (2, 5, 0)


def test_dense_is_exact_attention():
    """All keys selected: what remains is the error of the integers."""
    q, k, v = tensors(GROUP, 2, 1)
    dense = attention(q, k, v, GROUP, n=40, method="hash",
                      mapping=Mapping.hadamard(8, 12, heads=2, kv_heads=1))
    assert reference.relative_error(dense.output, reference.attention(q, k, v)).queries.max() < 0.05
    assert (dense.origins == ORIGINS.index("rank")).all()


def test_origins():
    q, k, v = tensors(SINGLE)
    mapping = Mapping.hadamard(70, 12, heads=2, kv_heads=1)
    result = attention(q, k, v, SINGLE, n=4, sink=3, recent=2, method="hash", mapping=mapping,
                       causal=True, qpos=[39, 39, 3, 1, 8])
    for query, seen in enumerate([40, 40, 4, 2, 9]):
        for index, origin in zip(result.selected[0, query], result.origins[0, query], strict=True):
            expected = -1 if index < 0 else 1 if index < 3 else 2 if index >= seen - 2 else 0
            assert origin == expected


NO_PRESET = "no preset fits, so give a configuration"


@pytest.mark.parametrize(("changes", "options", "message"), [
    ({"rescore": None}, {},
     "method hash needs a configuration with rescoring; set rescore, with head_dim 12; "
     + NO_PRESET),
    ({"key_bits": 9}, {},
     (f"codes of 8 bits do not fit the configuration's key_bits (9); {NO_PRESET}, or take a "
     f"mapping to 9 bits")),
    ({"rescore": Rescore(head_dim=8, lanes=4)}, {},
     "head_dim of q, shape (2, 5, 12), must equal the configuration's rescore.head_dim (8), not "
     "12; " + NO_PRESET),
    ({"rescore": Rescore(head_dim=12, lanes=4)}, {"shared": True},
     f"a shared selection needs rescore.shared in the configuration; {NO_PRESET}"),
    ({"queries": 3}, {"shared": True},
     (f"a shared selection needs the configuration's queries (3) to equal the heads of a group "
      f"(2); "
     f"{NO_PRESET}")),
    ({}, {"method": "had"},
     ("mapping needs method hash: with method had the weights follow from the distances of sign "
     "codes")),
    ({}, {"method": "had", "mapping": None, "shared": True},
     ("shared needs method hash: with method had the weights follow from the distances of sign "
     "codes")),
    ({}, {"method": "full"}, "method must be had or hash, not 'full'"),
    ({}, {"mapping": Mapping.hadamard(8, 12, heads=4, kv_heads=1)},
     ("q has shape (2, 5, 12), but the mapping is for [4, queries, 12]; take the one made for this "
     "model and layer")),
    ({}, {"n": 41},
     f"n + sink + recent must be at most the configuration's top_n (40), not 41; {NO_PRESET}"),
])
def test_what_does_not_fit(changes, options, message):
    config = GROUP.replace(**changes)
    q, k, v = tensors(GROUP, 2, 1)
    given = {"n": 3, "method": "hash", "mapping": Mapping.hadamard(8, 12, heads=2, kv_heads=1)}
    with pytest.raises(TensorError, match=f"^{re.escape(message)}$"):
        prepare(q, k, v, config, **{**given, **options})
