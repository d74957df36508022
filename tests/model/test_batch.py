import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearbit_model import batch
from nearbit_model.attention import attend
from nearbit_model.config import Config, Rescore
from nearbit_model.prepare import prepare


def _problem(seed, *, heads=4, kv_heads=2, queries=5, tokens=24, dim=8, element_bits=12,
             weight_bits=16, value_bits=8, scale=1.0, n=3, sink=1, recent=2, causal=True):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal(shape) * scale for shape in (
        (heads, queries, dim), (kv_heads, tokens, dim), (kv_heads, tokens, dim)))
    config = Config(key_bits=dim, value_dim=dim, capacity=1024, lanes=4, value_lanes=4, top_n=1024,
                    weight_bits=weight_bits, value_bits=value_bits,
                    rescore=Rescore(head_dim=dim, lanes=4, element_bits=element_bits))
    qpos = rng.integers(0, tokens, queries)
    return q, k, prepare(q, k, v, config, n=n, sink=sink, recent=recent, causal=causal, qpos=qpos,
                         method="hash")


PROBLEMS = st.fixed_dictionaries({
    "seed": st.integers(0, 1000), "kv_heads": st.sampled_from([1, 2, 4]),
    "queries": st.integers(1, 20), "tokens": st.integers(1, 40),
    "dim": st.sampled_from([4, 8, 20]), "element_bits": st.sampled_from([6, 8, 12, 16]),
    "weight_bits": st.sampled_from([2, 16, 24]), "value_bits": st.sampled_from([2, 8, 16]),
    "scale": st.sampled_from([1e-3, 1.0]), "causal": st.booleans()})


@settings(deadline=None)
@given(PROBLEMS, st.integers(1, 12), st.integers(0, 4), st.integers(0, 4))
def test_a_selection_equals_the_golden_model(sizes, n, sink, recent):
    _, _, prepared = _problem(**sizes, n=n, sink=sink, recent=recent)
    expected = attend(prepared)
    assert (batch.outputs(prepared, expected.selected) == expected.output_int).all()


@settings(deadline=None)
@given(PROBLEMS)
def test_all_keys_equal_the_golden_model(sizes):
    _, _, prepared = _problem(**sizes, n=1000, sink=0, recent=0)
    assert (batch.outputs(prepared) == attend(prepared).output_int).all()


def test_blocks(monkeypatch):
    _, _, prepared = _problem(1, queries=20)
    expected = attend(prepared)
    monkeypatch.setattr(batch, "_BLOCK", 50)
    assert (batch.outputs(prepared, expected.selected) == expected.output_int).all()
    _, _, prepared = _problem(1, queries=20, n=1000, sink=0, recent=0)
    assert (batch.outputs(prepared) == attend(prepared).output_int).all()


def test_order_of_a_selection_makes_no_difference():
    _, _, prepared = _problem(2)
    selected = attend(prepared).selected
    assert (batch.outputs(prepared, selected[..., ::-1])
            == batch.outputs(prepared, selected)).all()


@settings(deadline=None)
@given(PROBLEMS, st.integers(1, 50))
def test_nearest(sizes, m):
    q, k, prepared = _problem(**sizes)
    found = batch.nearest(q, k, m, counts=prepared.counts)
    for head in range(len(q)):
        scores = q[head] @ k[head // (len(q) // len(k))].T
        for query, count in enumerate(prepared.counts):
            chosen = found[head, query][found[head, query] >= 0]
            assert len(set(chosen.tolist())) == len(chosen) == min(m, count)
            rest = np.setdiff1d(np.arange(count), chosen)
            assert scores[query, chosen].min() >= scores[query, rest].max(initial=-np.inf) - 1e-9


def test_refused():
    _, _, prepared = _problem(3)
    selected = attend(prepared).selected
    for wrong in (selected[:, :2], selected[0], np.full_like(selected, -1),
                  np.full_like(selected, prepared.tokens)):
        with pytest.raises(ValueError, match=r"^selected must "):
            batch.outputs(prepared, wrong)
    rng = np.random.default_rng(0)
    q = rng.standard_normal((1, 2, 8))
    had = prepare(q, q, q, Config.preset("tiny"), n=1)
    with pytest.raises(ValueError, match=r"^the problem must have rescore operands"):
        batch.outputs(had)
