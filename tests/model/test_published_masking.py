"""The selection against the masking rule that was published with HashAttention.

The rule (arXiv 2412.14468, and compute_mask of its code), written here from its words and in its
form, a mask over the tokens: keep the first ``sink`` tokens and the last ``window``; take them
out of the ranking; of the rest add the ``heavy`` ones of the largest score. ``heavy`` is a whole
number, or a fraction of all tokens, rounded down. A score is the inner product of two sign vectors.

Published code leaves open which of equal scores come first (its sort is not stable). Here the later
token does, as in Nearbit's contract: otherwise the sets could not be compared.
"""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearbit_model import golden
from nearbit_model.mapping import Mapping, heavy_budget
from nearbit_model.quantize import codes


DATA = Path(__file__).parents[1] / "data"
REAL = ["minilm-gpl3-512.npz", "smollm2-argparse-512.npz"]
NEVER = -10**9


def published_mask(scores, sink, window, heavy):
    """Which tokens are kept, bool [queries, tokens], of integer scores of that shape.

    Every query sees all tokens, as in a step of decoding.
    """
    tokens = scores.shape[1]
    keep = np.zeros(scores.shape, bool)
    keep[:, :sink] = True
    keep[:, max(0, tokens - window):] = True
    ranked = np.where(keep, NEVER, scores)
    # The last token first, so that a stable sort leaves the later of two equals in front.
    order = tokens - 1 - np.argsort(-ranked[:, ::-1], axis=1, kind="stable")
    np.put_along_axis(keep, order[:, :heavy], True, axis=1)
    return keep


def signs(x):
    return np.where(np.asarray(x, np.float64) > 0, 1, -1)


def selected_mask(q, k, counts, tokens, sink, window, heavy):
    """What Nearbit selects, as a mask bool [heads, queries, tokens]."""
    selected, _ = golden.select(codes(q), codes(k), counts=counts, n=heavy, sink=sink,
                                recent=window)
    mask = np.zeros((*selected.shape[:2], tokens + 1), bool)
    np.put_along_axis(mask, selected, True, axis=2)
    return mask[..., :tokens] # padding, -1, is in the last place


@settings(max_examples=500)
@given(tokens=st.integers(1, 60), bits=st.sampled_from([1, 2, 5, 32, 64, 70]),
       sink=st.integers(0, 20), window=st.integers(0, 20), heavy=st.integers(1, 60),
       seed=st.integers(0, 1 << 32))
def test_random_codes(tokens, bits, sink, window, heavy, seed):
    rng = np.random.default_rng(seed)
    q, k = signs(rng.normal(size=(1, 3, bits))), signs(rng.normal(size=(1, tokens, bits)))
    expected = published_mask(q[0] @ k[0].T, sink, window, heavy)
    assert (selected_mask(q, k, tokens, tokens, sink, window, heavy)[0] == expected).all()
    if sink + window + heavy >= tokens:
        assert expected.all()
    else:
        assert (expected.sum(axis=1) == sink + window + heavy).all()
        assert expected[:, :sink].all()
        assert expected[:, tokens - window:].all()


@given(tokens=st.integers(1, 300), fraction=st.sampled_from([1 / 32, 0.125, 0.25, 0.3, 1.0]),
       sink=st.integers(0, 16), window=st.integers(0, 16), seed=st.integers(0, 1 << 32))
def test_fractions_of_all_tokens(tokens, fraction, sink, window, seed):
    rng = np.random.default_rng(seed)
    q, k = signs(rng.normal(size=(1, 2, 32))), signs(rng.normal(size=(1, tokens, 32)))
    scores = q[0] @ k[0].T
    heavy = int(tokens * fraction)
    ours = selected_mask(q, k, tokens, tokens, sink, window, heavy_budget(tokens, fraction))[0]
    expected = published_mask(scores, sink, window, heavy)
    if heavy:
        assert (ours == expected).all()
    else:
        # A command selects at least one by distance: one more, unless all are kept anyway.
        assert (ours == published_mask(scores, sink, window, 1)).all()
        assert ours[expected].all()
        assert ((ours & ~expected).sum(axis=1) == (sink + window < tokens)).all()


def load(file):
    with np.load(DATA / file) as data:
        counts = data["qpos"] + 1 if data["causal"] else np.full(data["q"].shape[1],
                                                                 data["k"].shape[1])
        return data["q"], data["k"], counts


@pytest.mark.parametrize("file", REAL)
@pytest.mark.parametrize(("sink", "window", "heavy"), [
    (128, 128, 0.25), (128, 128, 0.125), (4, 12, 64), (4, 12, 1 / 32), (0, 0, 32), (0, 16, 48),
    (16, 0, 48), (128, 128, 255), (128, 128, 256), (300, 300, 1)])
def test_real_heads(file, sink, window, heavy):
    q, k, counts = load(file)
    tokens, group = k.shape[1], len(q) // len(k)
    number = heavy if isinstance(heavy, int) else heavy_budget(tokens, heavy)
    ours = selected_mask(q, k, counts, tokens, sink, window, number)
    for head in range(len(q)):
        scores = signs(q[head]) @ signs(k[head // group]).T
        for query, count in enumerate(counts):
            # A causal query is a step of decoding, at which there were no later tokens.
            expected = published_mask(scores[query:query + 1, :count], sink, window, number)[0]
            assert (ours[head, query, :count] == expected).all()
            assert not ours[head, query, count:].any()


@pytest.mark.parametrize("file", REAL)
def test_real_heads_by_a_mapping(file):
    q, k, counts = load(file)
    mapping = Mapping.hadamard(32, q.shape[2], heads=len(q), kv_heads=len(k), seed=3)
    q_codes, k_codes = mapping.query_codes(q), mapping.key_codes(k)
    selected, _ = golden.select(q_codes, k_codes, counts=counts, n=64, sink=4, recent=12)
    bit = np.arange(32, dtype=np.uint64)
    q_signs, k_signs = (signs(x >> bit & np.uint64(1)) for x in (q_codes, k_codes))
    for head in range(len(q)):
        scores = q_signs[head] @ k_signs[head // (len(q) // len(k))].T
        for query, count in enumerate(counts):
            expected = published_mask(scores[query:query + 1, :count], 4, 12, 64)[0]
            ours = selected[head, query]
            assert set(ours[ours >= 0].tolist()) == set(np.flatnonzero(expected).tolist())


def test_the_form_here_can_fail():
    # One tie among six: with the earlier token first the sets differ.
    q, k = np.ones((1, 1, 4)), np.ones((1, 6, 4))
    k[0, [1, 3]] = -1
    ours = selected_mask(q, k, 6, 6, 1, 1, 1)[0, 0]
    assert ours.tolist() == [True, False, False, False, True, True]
    scores = signs(q[0]) @ signs(k[0]).T
    assert (published_mask(scores, 1, 1, 1)[0] == ours).all()
    earlier = published_mask(scores[:, ::-1], 1, 1, 1)[0, ::-1]
    assert earlier.tolist() == [True, False, True, False, False, True]
