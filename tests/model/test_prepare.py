import re

import numpy as np
import pytest

from nearbit_model import quantize
from nearbit_model.config import Config
from nearbit_model.prepare import DEFAULT_N, TensorError, prepare


CONFIG = Config(key_bits=6, value_dim=4, value_lanes=4, capacity=16, lanes=4, top_n=8)
RNG = np.random.default_rng(1)
Q = RNG.normal(size=(4, 5, 6))
K = RNG.normal(size=(2, 10, 6))
V = RNG.normal(size=(2, 10, 4))


def refuses(message):
    return pytest.raises(TensorError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize("rotate", [True, False])
def test_what_is_prepared(rotate):
    prepared = prepare(Q, K, V, CONFIG, n=3, sink=1, recent=2, rotate=rotate)
    assert prepared.config is CONFIG
    assert (prepared.heads, prepared.kv_heads, prepared.group) == (4, 2, 2)
    assert (prepared.queries, prepared.tokens) == (5, 10)
    assert (prepared.first, prepared.n, prepared.sink, prepared.recent) == (0, 3, 1, 2)
    assert (prepared.q_codes == quantize.codes(Q)).all()
    assert (prepared.k_codes == quantize.codes(K)).all()
    values = quantize.values(V, rotated=rotate)
    assert (prepared.values.elements == values.elements).all()
    assert (prepared.values.scales == values.scales).all()
    assert (prepared.unit == np.repeat(values.unit, 2)).all()
    assert (prepared.logit_scale == quantize.logit_scale(Q, K)).all()
    assert (prepared.exp_tables == quantize.exp_table(prepared.logit_scale, 6)).all()
    assert prepared.counts.tolist() == [10] * 5
    output_int = RNG.integers(-1000, 1000, size=(4, 5, 4)).astype(np.int32)
    assert (prepared.outputs(output_int) == quantize.outputs(
        output_int, prepared.unit, 8, rotated=rotate)).all()


def test_widths_are_the_configurations():
    config = CONFIG.replace(value_bits=12, weight_bits=10, output_fraction_bits=4)
    prepared = prepare(Q, K, V, config)
    assert prepared.values.elements.max() > 1000
    assert prepared.exp_tables.max() == 1023
    one = np.ones((4, 5, 4), np.int32)
    assert np.allclose(quantize.rotate(prepared.outputs(one)), prepared.unit[:, None, None] / 16)


@pytest.mark.parametrize(("top_n", "sink", "recent", "expected"), [
    (256, 4, 12, DEFAULT_N), (32, 0, 0, 32), (8, 1, 2, 5), (8, 3, 4, 1)])
def test_n_by_default(top_n, sink, recent, expected):
    config = CONFIG.replace(capacity=256, top_n=top_n)
    assert prepare(Q, K, V, config, sink=sink, recent=recent).n == expected


def test_dtypes():
    for dtype in (np.float16, np.float32, np.int32):
        prepared = prepare(Q.astype(dtype), K.astype(dtype), V.astype(dtype), CONFIG)
        assert prepared.logit_scale.dtype == np.float64
    assert prepare(Q.tolist(), K.tolist(), V.tolist(), CONFIG).tokens == 10


# Which keys a query sees


def test_causal():
    def counts(**options):
        return prepare(Q, K, V, CONFIG, **options).counts.tolist()

    assert counts(causal=True) == [6, 7, 8, 9, 10]
    assert counts(causal=np.bool_(True), qpos=np.array([0, 9, 3, 3, 5], np.int32)) == [
        1, 10, 4, 4, 6]
    # Not looked at otherwise, whatever it is.
    assert counts(qpos=[0, 1, 2]) == [10] * 5
    square = prepare(K, K, V, CONFIG, causal=True)
    assert square.counts.tolist() == list(range(1, 11))


def test_wrong_positions():
    with refuses("q has more queries (10) than k has tokens (5), so give qpos, each query's "
                 "position"):
        prepare(K, Q[:2], np.ones((2, 5, 4)), CONFIG, causal=True)
    for qpos, message in (
            ([1, 2, 3, 4], "qpos must have shape (5,), one position for each query of q, not (4,)"),
            ([[1, 2, 3, 4, 5]],
             "qpos must have shape (5,), one position for each query of q, not (1, 5)"),
            ([0.0, 1, 2, 3, 4], "qpos must be integers, not float64"),
            ([0, 1, 2, 3, -1], "qpos must be from 0 to 9, the positions of k, not -1"),
            ([0, 1, 10, 3, 4], "qpos must be from 0 to 9, the positions of k, not 10")):
        with refuses(message):
            prepare(Q, K, V, CONFIG, causal=True, qpos=qpos)


# Logit scale


def test_given_logit_scale():
    assert prepare(Q, K, V, CONFIG, logit_scale=0.25).logit_scale.tolist() == [0.25] * 4
    each = [0, 0.1, 0.2, 0.3]
    prepared = prepare(Q, K, V, CONFIG, logit_scale=each)
    assert prepared.logit_scale.tolist() == each
    assert (prepared.exp_tables == quantize.exp_table(each, 6)).all()


@pytest.mark.parametrize(("logit_scale", "message"), [
    ([0.1, 0.2], ("logit_scale must be one number or have shape (4,), one for each head of q, "
                 "not (2,)")),
    ([0.1, 0.2, -0.5, 0.3], "logit_scale must be at least 0, not -0.5"),
    (np.nan, "logit_scale must be finite, but has nan at index []"),
    ("warm", "logit_scale must hold real numbers, not <U4"),
])
def test_wrong_logit_scale(logit_scale, message):
    with refuses(message):
        prepare(Q, K, V, CONFIG, logit_scale=logit_scale)


# Tensors that do not fit


@pytest.mark.parametrize(("name", "axes"), [
    ("q", "[heads, queries, head_dim]"), ("k", "[kv_heads, tokens, head_dim]"),
    ("v", "[kv_heads, tokens, value_dim]")])
def test_single_tensors(name, axes):
    good = {"q": Q, "k": K, "v": V}

    def attempt(array):
        prepare(config=CONFIG, **{**good, name: array})

    with refuses(f"{name} must have three axes {axes}, not shape {good[name][0].shape}"):
        attempt(good[name][0])
    with refuses(f"{name} must have three axes {axes}, not shape ()"):
        attempt(1.0)
    empty = good[name][:, :0]
    with refuses(f"{name} must have at least one element on each axis {axes}, not shape "
                 f"{empty.shape}"):
        attempt(empty)
    with refuses(f"{name} must hold real numbers, not complex128"):
        attempt(good[name] * 1j)
    for wrong in (np.nan, np.inf, -np.inf):
        broken = good[name].copy()
        broken[1, 2, 3] = wrong
        with refuses(f"{name} must be finite, but has {wrong} at index [1, 2, 3]"):
            attempt(broken)
    with refuses(f"{name} must be within the range of float32"):
        attempt(good[name] * 1e39)


def test_tensors_that_do_not_fit_each_other():
    with refuses("q and k must have the same head_dim, not shapes (4, 5, 6) and (2, 10, 5)"):
        prepare(Q, K[..., :5], V, CONFIG)
    for wrong in (V[:1], V[:, :9]):
        with refuses(f"k and v must have the same heads and tokens, not shapes (2, 10, 6) and "
                     f"{wrong.shape}"):
            prepare(Q, K, wrong, CONFIG)
    with refuses("the heads of q must be a multiple of those of k and v, not shapes (3, 5, 6) "
                 "and (2, 10, 6)"):
        prepare(Q[:3], K, V, CONFIG)


def zeros(head_dim, value_dim, tokens):
    return np.zeros((1, 2, head_dim)), np.zeros((1, tokens, head_dim)), np.zeros(
        (1, tokens, value_dim))


@pytest.mark.parametrize(("sizes", "preset", "options", "message"), [
    ((64, 64, 512), "head32", {},
     ("head_dim of q, shape (1, 2, 64), must equal the configuration's key_bits (32), not 64; "
     "the preset reference fits")),
    ((60, 64, 512), "head32", {},
     ("head_dim of q, shape (1, 2, 60), must equal the configuration's key_bits (32), not 60; "
     "no preset fits, so give a configuration")),
    ((64, 32, 512), "reference", {},
     ("value_dim of v, shape (1, 512, 32), must equal the configuration's value_dim (64), not 32; "
     "no preset fits, so give a configuration")),
    ((64, 64, 1025), "reference", {},
     ("tokens of k and v, shape (1, 1025, 64), must be at most the configuration's capacity "
     "(1024), not 1025; the preset head64 fits")),
    ((64, 64, 1024), "reference", {"n": 32, "sink": 4, "recent": 12},
     ("n + sink + recent must be at most the configuration's top_n (32), not 48; "
     "the preset head64 fits")),
    ((64, 64, 1024), "reference", {"sink": 20, "recent": 12},
     ("n + sink + recent must be at most the configuration's top_n (32), not 33; "
     "the preset head64 fits")),
    ((64, 64, 1024), "reference", {"n": 2049},
     ("n + sink + recent must be at most the configuration's top_n (32), not 2049; "
     "no preset fits, so give a configuration")),
])
def test_the_preset_that_fits(sizes, preset, options, message):
    with refuses(message):
        prepare(*zeros(*sizes), Config.preset(preset), **options)


@pytest.mark.parametrize(("options", "message"), [
    ({"n": 0}, "n must be at least 1, not 0"),
    ({"sink": -1}, "sink must be at least 0, not -1"),
    ({"recent": -2}, "recent must be at least 0, not -2"),
])
def test_wrong_numbers_of_keys(options, message):
    with refuses(message):
        prepare(Q, K, V, CONFIG, **options)
