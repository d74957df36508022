import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import nearbit_model
from nearbit_model import golden, reference
from nearbit_model.attention import attend, attention
from nearbit_model.config import Config
from nearbit_model.prepare import TensorError, prepare


DATA = Path(__file__).parents[1] / "data"
FILES = {"minilm-gpl3-512": "head32", "smollm2-argparse-512": "reference"}


def load(name):
    with np.load(DATA / f"{name}.npz") as file:
        return dict(file)


def test_it_is_public():
    assert nearbit_model.attention is attention


@pytest.mark.parametrize("name", FILES)
def test_it_is_the_golden_model(name):
    file = load(name)
    config = Config.preset(FILES[name])
    options = {"n": 20, "sink": 2, "recent": 4, "causal": bool(file["causal"]),
               "qpos": file["qpos"]}
    result = attention(file["q"], file["k"], file["v"], config, **options)
    prepared = prepare(file["q"], file["k"], file["v"], config, **options)
    expected = golden.attend(
        prepared.q_codes, prepared.k_codes, prepared.values, prepared.exp_tables, config=config,
        counts=prepared.counts, n=20, sink=2, recent=4)
    for field in ("output_int", "selected", "distances", "weights"):
        assert (getattr(result, field) == getattr(expected, field)).all()
    assert result.output.dtype == np.float32
    assert (result.output == prepared.outputs(expected.output_int)).all()
    assert (attend(prepared).output == result.output).all()


def test_options_reach_the_model():
    rng = np.random.default_rng(1)
    q, k, v = rng.normal(size=(2, 5, 8)), rng.normal(size=(1, 20, 8)), rng.normal(size=(1, 20, 8))
    config = Config.preset("tiny")
    plain = attention(q, k, v, config, n=3, rotate=False)
    assert not plain.prepared.values.rotated
    rotated = attention(q, k, v, config, n=3)
    assert rotated.prepared.values.rotated
    assert (plain.output_int != rotated.output_int).any()
    np.testing.assert_allclose(plain.output, rotated.output, atol=0.05)
    warm = attention(q, k, v, config, n=3, logit_scale=[0.0, 9.0])
    assert (warm.weights[0] == 65535).all()
    assert (warm.weights[1][warm.distances[1] > warm.distances[1, :, :1]] == 0).all()
    with pytest.raises(TensorError, match=r"^sink must be at least 0, not -1$"):
        attention(q, k, v, config, n=3, sink=-1)


def test_heads_of_a_group_have_their_own_logit_scale():
    rng = np.random.default_rng(2)
    q = rng.normal(size=(3, 4, 8)) * np.array([0.3, 1.0, 3.0])[:, None, None]
    k, v = rng.normal(size=(1, 20, 8)), rng.normal(size=(1, 20, 8))
    together = attention(q, k, v, Config.preset("tiny"), n=16)
    for head in range(3):
        alone = attention(q[head:head + 1], k, v, Config.preset("tiny"), n=16)
        assert (alone.output == together.output[head]).all()
        assert (alone.weights == together.weights[head]).all()
    assert len(np.unique(together.prepared.logit_scale)) == 3


@pytest.mark.parametrize("name", FILES)
def test_error_against_the_float_form(name):
    file = load(name)
    for n, sink, recent in ((32, 0, 0), (16, 4, 12), (32, 4, 12), (1, 0, 0), (240, 4, 12)):
        config = Config.preset(FILES[name]).replace(top_n=256)
        result = attention(file["q"], file["k"], file["v"], config, n=n, sink=sink, recent=recent,
                           causal=bool(file["causal"]), qpos=file["qpos"])
        error = reference.relative_error(result.output, reference.float_form(
            file["v"], result.selected, result.distances, result.prepared.logit_scale))
        assert error.mean.max() < 0.007
        assert error.maximum.max() < 0.012


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("rotate", [False, True])
def test_bound_on_dequantized_outputs(name, rotate):
    file = load(name)
    config = Config.preset(FILES[name]).replace(top_n=256)
    for n in (1, 32, 256):
        result = attention(file["q"], file["k"], file["v"], config, n=n, rotate=rotate,
                           causal=bool(file["causal"]), qpos=file["qpos"])
        float_output = reference.float_form(result.prepared.values.dequantized(), result.selected,
                                            result.distances, result.prepared.logit_scale)
        error = result.output - float_output
        bound = golden.error_bound(config, n) * result.prepared.unit
        if rotate: # then the bound is on each element in the other basis
            error = np.linalg.norm(error, axis=-1)
            bound = bound * np.sqrt(config.value_dim)
        assert (np.abs(error).reshape(len(error), -1).max(axis=1) <= bound * (1 + 1e-5)).all()


def test_memory_of_the_longest():
    rng = np.random.default_rng(3)
    q = rng.standard_normal((8, 64, 64), dtype=np.float32)
    k = rng.standard_normal((8, 65536, 64), dtype=np.float32)
    v = rng.standard_normal((8, 65536, 64), dtype=np.float32)
    tracemalloc.start()
    try:
        attention(q, k, v, Config.preset("long"), n=2000, sink=16, recent=32, causal=True)
        # Beside the float tensors; 272 MiB for those.
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()
