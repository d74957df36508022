import math
import re
from pathlib import Path

import numpy as np
import pytest

from nearbit_model import golden, reference
from nearbit_model.attention import attention
from nearbit_model.config import Config


DATA = Path(__file__).parents[1] / "data"


def refuses(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def tensors(seed, heads=4, kv_heads=2, queries=5, tokens=12, head_dim=8, value_dim=3):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(heads, queries, head_dim)),
            rng.normal(size=(kv_heads, tokens, head_dim)),
            rng.normal(size=(kv_heads, tokens, value_dim)))


def brute_softmax(logits, rows):
    weights = [math.exp(x) for x in logits]
    return [math.fsum(w * row[j] for w, row in zip(weights, rows, strict=True)) / math.fsum(weights)
            for j in range(len(rows[0]))]


def test_attention():
    q, k, v = tensors(1)
    counts = np.array([1, 3, 12, 7, 5])
    result = reference.attention(q, k, v, counts=counts)
    assert result.dtype == np.float64
    for head in range(4):
        for query, count in enumerate(counts):
            logits = [math.fsum(q[head, query] * k[head // 2, i]) / math.sqrt(8)
                      for i in range(count)]
            np.testing.assert_allclose(
                result[head, query], brute_softmax(logits, v[head // 2, :count]), rtol=1e-12)
    np.testing.assert_array_equal(reference.attention(q, k, v),
                                  reference.attention(q, k, v, counts=np.full((4, 5), 12)))


def test_weights():
    q, k, v = tensors(1)
    counts = np.array([1, 3, 12, 7, 5])
    output = reference.attention(q, k, v, counts=counts)
    seen = []
    for head, rows, weights in reference.weights(q, k, counts=counts):
        np.testing.assert_allclose(weights.sum(axis=1), 1)
        np.testing.assert_array_equal(weights > 0, np.arange(12) < counts[rows, None])
        np.testing.assert_allclose(weights @ v[head // 2], output[head, rows], rtol=1e-12)
        seen += [(head, query) for query in range(*rows.indices(5))]
    assert seen == list(np.ndindex(4, 5))


def test_large_logits_do_not_overflow():
    q, k, v = tensors(2)
    result = reference.attention(q * 1e6, k * 1e6, v)
    best = (q @ np.repeat(k, 2, axis=0).transpose(0, 2, 1)).argmax(axis=-1)
    for head, query in np.ndindex(4, 5):
        np.testing.assert_allclose(result[head, query], v[head // 2, best[head, query]])


@pytest.mark.parametrize("name", ["minilm-gpl3-512", "smollm2-argparse-512"])
def test_attention_of_the_models(name):
    with np.load(DATA / f"{name}.npz") as file:
        counts = file["qpos"] + 1 if file["causal"] else None
        result = reference.attention(file["q"], file["k"], file["v"], counts=counts)
        # The file's own is rounded to float16.
        assert reference.relative_error(file["o_exact"], result).maximum.max() < 0.0005


def test_float_form():
    q, k, v = tensors(3)
    counts = np.array([1, 3, 12, 7, 5])
    result = attention(q, k, v, Config(key_bits=8, value_dim=3, value_lanes=3, capacity=16,
                                       top_n=6), n=4, sink=1, causal=True, qpos=counts - 1)
    logit_scale = np.array([0.1, 0.0, 1.0, 300.0])
    form = reference.float_form(v, result.selected, result.distances, logit_scale)
    for head, query in np.ndindex(4, 5):
        valid = result.selected[head, query] >= 0
        assert valid.sum() == min(counts[query], 5)
        distances = result.distances[head, query][valid]
        logits = -2 * logit_scale[head] * (distances - distances.min())
        np.testing.assert_allclose(
            form[head, query],
            brute_softmax(logits, v[head // 2][result.selected[head, query][valid]]), rtol=1e-12)


def test_blocks(monkeypatch):
    q, k, v = tensors(4, queries=9)
    whole = attention(q, k, v, Config(key_bits=8, value_dim=3, value_lanes=3, capacity=16,
                                      top_n=6), n=4)
    options = {"output": whole.output, "selected": whole.selected, "distances": whole.distances,
               "logit_scale": whole.prepared.logit_scale}
    one = reference.measure(q, k, v, **options)
    monkeypatch.setattr(reference, "_BLOCK", 30)
    other = reference.measure(q, k, v, **options)
    assert np.allclose(one.recall, other.recall)
    assert np.allclose(one.error_reference.queries, other.error_reference.queries)
    assert np.allclose(one.error_method.queries, other.error_method.queries)


def test_recall():
    q, k, _ = tensors(5)
    counts = np.array([3, 3, 12, 7, 5])
    scores = q @ np.repeat(k, 2, axis=0).transpose(0, 2, 1)
    rng = np.random.default_rng(6)
    selected = np.full((4, 5, 4), -1)
    shares = np.zeros((4, 5))
    for head, query in np.ndindex(4, 5):
        count = counts[query]
        m = min(4, count) if query else 3
        selected[head, query, :m] = rng.permutation(count)[:m]
        top = sorted(range(count), key=lambda i: -scores[head, query, i])[:m]
        shares[head, query] = len(set(top) & set(selected[head, query, :m].tolist())) / m
    # Queries 0 and 1 selected all of the 3 keys that they see.
    assert (shares[:, :2] == 1).all()
    np.testing.assert_allclose(reference.recall(q, k, selected, counts=counts),
                               shares[:, 2:].mean(axis=1))
    assert np.isnan(reference.recall(q[:, :2], k, selected[:, :2], counts=counts[:2])).all()


def test_top_and_keys_read():
    q, k, v = tensors(5)
    counts = np.array([3, 3, 12, 7, 5])
    scores = q @ np.repeat(k, 2, axis=0).transpose(0, 2, 1)
    selected = np.arange(4) * np.ones((4, 5, 1), np.int64)
    selected[:, :, 3] = -1 # Three keys, and one for query 2.
    selected[:, 2, 1:] = -1
    best = reference.top(q, k, selected, counts=counts)
    for head, query in np.ndindex(4, 5):
        order = scores[head, query, :counts[query]].argsort()[::-1]
        m = 1 if query == 2 else 3
        assert best[head, query].tolist() == [*order[:m], *[-1] * (4 - m)]
    assert reference.keys_read(selected, 12, counts=counts).tolist() == [13 / 30] * 4
    measures = reference.measure(q, k, v, output=reference.restricted(q, k, v, selected),
                                 selected=selected, distances=selected, logit_scale=np.ones(4),
                                 counts=counts, rescored=True)
    # All keys that queries 0 and 1 see are read; the others cannot be better than their top.
    assert measures.error_top.queries[:, :2].max() < 1e-12
    assert np.array_equal(measures.error_top.queries, reference.relative_error(
        reference.restricted(q, k, v, best), reference.attention(q, k, v, counts=counts)).queries)


def test_recall_of_the_best_and_the_worst():
    q, k, _ = tensors(7)
    order = (q @ np.repeat(k, 2, axis=0).transpose(0, 2, 1)).argsort(axis=-1)
    assert reference.recall(q, k, order[..., -5:]).tolist() == [1] * 4
    assert reference.recall(q, k, order[..., :5]).tolist() == [0] * 4


def test_recall_counts_ties_as_hits():
    q = np.ones((1, 1, 2))
    k = np.array([[[1.0, 1.0], [0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]])
    for second, expected in ((1, 1.0), (2, 1.0), (3, 0.5)):
        assert reference.recall(q, k, np.array([[[0, second]]])).tolist() == [expected]


def test_relative_error():
    b = np.array([[[3.0, 4.0], [0.0, 0.0]], [[0.0, 2.0], [0.0, 0.0]]])
    a = np.array([[[3.0, 4.5], [0.0, 0.0]], [[1.0, 2.0], [1e-3, 0.0]]])
    error = reference.relative_error(a, b)
    assert error.queries.tolist() == [[0.1, 0.0], [0.5, np.inf]]
    assert error.mean.tolist() == [0.05, np.inf]
    assert error.maximum.tolist() == [0.1, np.inf]


def test_measure():
    q, k, v = tensors(8)
    config = Config(key_bits=8, value_dim=3, value_lanes=3, capacity=16, top_n=6)
    result = attention(q, k, v, config, n=4, causal=True)
    counts = result.prepared.counts
    measures = reference.measure(q, k, v, output=result.output, selected=result.selected,
                                 distances=result.distances,
                                 logit_scale=result.prepared.logit_scale,
                                 counts=counts)
    assert (measures.recall == reference.recall(q, k, result.selected, counts=counts)).all()
    assert (measures.error_reference.queries == reference.relative_error(
        result.output, reference.attention(q, k, v, counts=counts)).queries).all()
    assert measures.error_method.maximum.max() < 0.02


def test_refusals():
    q, k, v = tensors(9)
    selected, distances = golden.select(np.zeros((4, 5, 1), np.uint64),
                                        np.zeros((2, 12, 1), np.uint64), counts=12, n=2)
    with refuses("counts must be from 1 to 12, not from 0 to 12"):
        reference.attention(q, k, v, counts=[0, 1, 2, 3, 12])
    with refuses("counts must be from 1 to 12, not from 13 to 13"):
        reference.recall(q, k, selected, counts=13)
    with refuses("kv heads (2) must divide heads (3)"):
        reference.attention(q[:3], k, v)
    with refuses("kv heads (2) must divide heads (3)"):
        reference.float_form(v, selected[:3], distances[:3], 1.0)
    v[1, 2, 0] = np.nan
    with refuses("v must be finite, but has nan at index [1, 2, 0]"):
        reference.float_form(v, selected, distances, 1.0)
    with refuses("v must be finite, but has nan at index [1, 2, 0]"):
        reference.attention(q, k, v)
