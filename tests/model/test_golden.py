import dataclasses
import functools
import math
import re
import tracemalloc
from decimal import Context, Decimal
from fractions import Fraction

import faiss
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nearbit_model import golden
from nearbit_model.config import Config, Rescore
from nearbit_model.quantize import (
    RescoreOperands,
    Values,
    codes_from_ints,
    codes_to_ints,
    exp_table,
)


def refuses(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


# An independent form: the contract, sentence by sentence, in plain Python integers.


def brute_select(h, n, sink, recent):
    count = len(h)
    if sink + recent + n >= count:
        chosen = set(range(count))
    else:
        chosen = set(range(sink)) | set(range(count - recent, count))
        rest = [i for i in range(count) if i not in chosen]
        chosen |= set(sorted(rest, key=lambda i: (h[i], -i))[:n])
    return sorted(chosen, key=lambda i: (h[i], -i))


@functools.cache
def brute_exp2(weight_bits):
    """The 256 weights of an octave, from powers of 50 digits."""
    digits = Context(prec=50)
    largest = 2**weight_bits - 1
    return [int((largest * digits.power(2, Decimal(-f) / 256) + Decimal("0.5")).to_integral_value(
        "ROUND_FLOOR")) for f in range(256)]


def brute_decay(s, multiplier, weight_bits):
    weights = []
    for each in s:
        t = math.floor(Fraction((max(s) - each) * multiplier, 2**24))
        octaves, fraction = t // 256, t % 256
        weights.append(0 if octaves >= weight_bits else
                       brute_exp2(weight_bits)[fraction] // 2**octaves)
    return weights


def brute_attend(group, own, keys, elements, scales, exp_table, *, first, count, n, sink, recent,
                 fraction, rescore=None, weight_bits=None):
    """Of the queries of a group that shares a selection, one's; `rescore` are its q, k, multiplier.

    Returned are the output, and of the selected keys token, distance, weight and dot-product score.
    """
    h = [sum(bin(q ^ key).count("1") for q in group) for key in keys[first:first + count]]
    chosen = brute_select(h, n, sink, recent)
    s = None
    if rescore is None:
        assert group == [own]
        nearest = min(h[i] for i in chosen)
        w = [exp_table[h[i] - nearest] for i in chosen]
    else:
        q8, k8, multiplier = rescore
        s = [sum(a * b for a, b in zip(q8, k8[first + i], strict=True)) for i in chosen]
        w = brute_decay(s, multiplier, weight_bits)
    z = sum(w)
    u = [(wi * scales[first + i] + 2**15) >> 16 for wi, i in zip(w, chosen, strict=True)]
    output = []
    for j in range(len(elements[0])):
        a = sum(ui * elements[first + i][j] for ui, i in zip(u, chosen, strict=True))
        output.append(math.floor(Fraction(a * 2**fraction + z // 2, z)))
    return output, [first + i for i in chosen], [h[i] for i in chosen], w, s


@dataclasses.dataclass
class Problem:
    config: Config
    q: np.ndarray
    k: np.ndarray
    values: Values
    exp_tables: np.ndarray
    counts: np.ndarray
    first: int
    n: int
    sink: int
    recent: int
    rescore: RescoreOperands | None = None
    shared: bool = False

    @property
    def command(self):
        return {"counts": self.counts, "first": self.first, "n": self.n, "sink": self.sink,
                "recent": self.recent, "rescore": self.rescore, "shared": self.shared}

    def attend(self, **changes):
        return golden.attend(self.q, self.k, self.values, self.exp_tables,
                             **{"config": self.config, **self.command, **changes})

    def check(self):
        result = self.attend()
        group = len(self.q) // len(self.k)
        heads, queries, _ = self.q.shape
        counts = np.broadcast_to(self.counts, (heads, queries))
        most = min(self.n + self.sink + self.recent, int(counts.max()))
        assert result.output_int.shape == (heads, queries, self.config.value_dim)
        assert result.output_int.dtype == result.distances.dtype == np.int32
        assert result.selected.dtype == result.weights.dtype == np.int64
        names = ["selected", "distances", "weights"]
        if self.rescore is None:
            assert result.scores is None
        else:
            names.append("scores")
            assert result.scores.dtype == np.int64
        for name in names:
            assert getattr(result, name).shape == (heads, queries, most)
        codes = [codes_to_ints(head) for head in self.q]
        for head in range(heads):
            pair = head // group
            keys = codes_to_ints(self.k[pair])
            together = range(pair * group, (pair + 1) * group) if self.shared else [head]
            for query in range(queries):
                rescore = None if self.rescore is None else (
                    self.rescore.queries[head, query].tolist(), self.rescore.keys[pair].tolist(),
                    int(self.rescore.multipliers[head, query]))
                expected = brute_attend(
                    [codes[each][query] for each in together], codes[head][query], keys,
                    self.values.elements[pair].tolist(), self.values.scales[pair].tolist(),
                    self.exp_tables[head].tolist(), first=self.first,
                    count=int(counts[head, query]),
                    n=self.n, sink=self.sink, recent=self.recent,
                    fraction=self.config.output_fraction_bits, rescore=rescore,
                    weight_bits=self.config.weight_bits)
                assert result.output_int[head, query].tolist() == expected[0]
                for name, want in zip(names, expected[1:], strict=False):
                    padded = want + [0 if name == "scores" else -1] * (most - len(want))
                    assert getattr(result, name)[head, query].tolist() == padded, name


KINDS = ["random", "equal keys", "equal distances", "near"]


def random_codes(rng, kind, key_bits, q_shape, k_shape):
    """Queries and keys as ±1; keys may be all equal, all equally far, or differ in few bits."""
    q = rng.choice([-1, 1], size=(*q_shape, key_bits))
    k = rng.choice([-1, 1], size=(*k_shape, key_bits))
    if kind == "equal keys":
        k[...] = k[0, 0]
    elif kind == "equal distances":
        # Every key differs from the one query in equally many bits.
        q[...] = q[0, 0]
        flips = rng.permuted(np.broadcast_to(np.arange(key_bits), k.shape), axis=-1)
        k = np.where(flips < rng.integers(0, key_bits + 1), -q[0, 0], q[0, 0])
    elif kind == "near":
        q[...] = q[0, 0]
        k = np.where(rng.random(k.shape) < 1.5 / key_bits, -q[0, 0], q[0, 0])

    def pack(x):
        words = -(-key_bits // 64)
        bits = [sum(1 << j for j in np.flatnonzero(row > 0).tolist())
                for row in x.reshape(-1, key_bits)]
        return codes_from_ints(bits, key_bits).reshape(*x.shape[:-1], words)

    return pack(q), pack(k)


def make(seed, *, key_bits=64, value_dim=4, value_bits=8, weight_bits=16, fraction=8, heads=1,
         group=1, queries=1, tokens=20, first=0, counts=None, n=1, sink=0, recent=0,
         kind="random", extreme=False, head_dim=0, element_bits=8, shared=False):
    """With `head_dim`, operands of rescoring, which may be `shared` by the heads of a group."""
    rng = np.random.default_rng(seed)
    most = n + sink + recent
    config = Config(
        key_bits=key_bits, value_dim=value_dim, value_lanes=1, value_bits=value_bits, lanes=1,
        weight_bits=weight_bits, output_fraction_bits=fraction, capacity=max(tokens, most),
        top_n=most, rescore=Rescore(head_dim=head_dim, lanes=1, element_bits=element_bits,
                                    shared=shared) if head_dim else None)
    q, k = random_codes(rng, kind, key_bits, (heads * group, queries), (heads, tokens))
    limit = 1 << value_bits - 1
    elements = rng.integers(-limit, limit, size=(heads, tokens, value_dim))
    scales = rng.integers(0, 1 << 16, size=(heads, tokens))
    exp_tables = np.sort(rng.integers(0, 1 << weight_bits, size=(heads * group, key_bits + 1)))
    exp_tables = np.maximum(exp_tables[:, ::-1], [1] + [0] * key_bits)
    if extreme:
        elements[...] = rng.choice([-limit, limit - 1], size=(heads, tokens, 1))
        scales[...] = 65535
        exp_tables[...] = (1 << weight_bits) - 1
    if counts is None:
        counts = rng.integers(1, tokens - first + 1, size=(heads * group, queries))
        if shared:
            counts = np.repeat(counts[::group], group, axis=0)
    rescore = random_operands(rng, heads, group, queries, tokens, head_dim, element_bits) \
        if head_dim else None
    values = Values(elements.astype(np.int8 if value_bits <= 8 else np.int16),
                    scales.astype(np.uint16))
    return Problem(config, q, k, values, exp_tables.astype(np.uint32), np.asarray(counts), first, n,
                   sink, recent, rescore, shared)


def random_operands(rng, heads, group, queries, tokens, head_dim, element_bits):
    """Operands with equal and with the largest scores, and multipliers of all kinds."""
    limit = 1 << element_bits - 1
    kind = np.int8 if element_bits <= 8 else np.int16
    q = rng.integers(-limit, limit, size=(heads * group, queries, head_dim))
    k = rng.integers(-limit, limit, size=(heads, tokens, head_dim))
    q[:, ::3], k[:, ::5] = -limit, -limit
    k[:, 1::7] = k[:, :1]
    # Of about a unit of score, and up to some octaves for all the range of scores.
    largest = np.minimum(2**32 - 1, 2.0**32 * 8 / (head_dim * limit**2)
                         * rng.random(size=(heads * group, queries)))
    multipliers = np.choose(rng.integers(0, 6, size=largest.shape), [
        np.uint32(0), np.uint32(1), np.uint32(2**32 - 1),
        rng.integers(0, 1 << 32, size=largest.shape).astype(np.uint32),
        *[largest.astype(np.uint32)] * 2])
    return RescoreOperands(q.astype(kind), k.astype(kind), multipliers)


NEVER, ALWAYS = st.just(False), st.just(True)


@st.composite
def problems(draw, rescored=NEVER):
    extra = {}
    if draw(rescored):
        extra = {"head_dim": draw(st.integers(1, 9)), "element_bits": draw(st.integers(2, 16)),
                 "shared": draw(st.booleans())}
    tokens = draw(st.integers(1, 40))
    first = draw(st.integers(0, tokens - 1))
    return make(
        draw(st.integers(0, 1 << 32)), key_bits=draw(st.integers(1, 130)),
        value_dim=draw(st.integers(1, 5)), value_bits=draw(st.integers(2, 16)),
        weight_bits=draw(st.integers(2, 24)), fraction=draw(st.integers(0, 16)),
        heads=draw(st.integers(1, 2)), group=draw(st.integers(1, 3)),
        queries=draw(st.integers(1, 4)), tokens=tokens, first=first,
        counts=draw(st.none() | st.integers(1, tokens - first)), n=draw(st.integers(1, 45)),
        sink=draw(st.integers(0, 12)), recent=draw(st.integers(0, 12)),
        kind=draw(st.sampled_from(KINDS)), extreme=draw(st.booleans()), **extra)


@settings(max_examples=500)
@given(problems())
def test_against_brute_force(problem):
    problem.check()


@settings(max_examples=300)
@given(problems(rescored=ALWAYS))
def test_exact_scores_against_brute_force(problem):
    problem.check()


@pytest.mark.parametrize("shared", [False, True])
def test_exact_scores_of_whole_ranges(shared):
    # Every key selected: then it makes no difference what the codes are.
    problem = make(20, heads=2, group=3, queries=4, tokens=30, n=30, head_dim=6, shared=shared)
    problem.check()
    result = problem.attend()
    problem.q, problem.k = random_codes(np.random.default_rng(21), "random", 64, (6, 4), (2, 30))
    other = problem.attend()
    assert (result.output_int == other.output_int).all()


def test_tables_are_not_looked_at_with_rescoring():
    problem = make(22, heads=1, group=2, queries=3, head_dim=4, n=5)
    result = problem.attend()
    problem.exp_tables = np.ones_like(problem.exp_tables)
    assert (problem.attend().output_int == result.output_int).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key_bits", [1, 2, 63, 64, 65, 130])
def test_borders_of_the_selection(kind, key_bits):
    # Around sink + recent + n == count, sinks and recent keys that overlap, everything once.
    count = 9
    for sink in (0, 1, 4, 8, 9, 12):
        for recent in (0, 1, 4, 8, 9, 12):
            for n in {1, 2, count - sink - recent - 1, count - sink - recent,
                      count - sink - recent + 1, count, 30}:
                if n >= 1:
                    make(n, key_bits=key_bits, tokens=13, first=2, counts=count, n=n, sink=sink,
                         recent=recent, kind=kind).check()


@pytest.mark.parametrize("kind", KINDS)
def test_borders_of_a_shared_selection(kind):
    for sink, recent, n in [(0, 0, 8), (0, 0, 9), (1, 2, 5), (1, 2, 6), (1, 2, 7), (5, 5, 1),
                            (9, 0, 1), (0, 9, 2), (12, 12, 12)]:
        make(n, key_bits=65, group=3, tokens=13, first=2, counts=9, n=n, sink=sink, recent=recent,
             kind=kind, head_dim=3, shared=True).check()


@pytest.mark.parametrize("count", [1, 2, 19, 20])
def test_short_ranges(count):
    for n in (1, count, 30):
        make(count, counts=count, n=n).check()
        make(count, counts=count, n=n, sink=1, recent=1).check()


def test_a_causal_prefill():
    problem = make(9, group=3, queries=30, tokens=30, n=5, sink=2, recent=3,
                   counts=np.arange(1, 31))
    problem.check()
    assert (problem.attend().selected[0, 3] >= 0).sum() == 4


@pytest.mark.parametrize(("weight_bits", "value_bits"), [(16, 8), (24, 16)])
def test_largest_sums(weight_bits, value_bits):
    # Every key with the largest weight, scale and element: the accumulator's full range.
    make(10, weight_bits=weight_bits, value_bits=value_bits, fraction=16, tokens=1000, counts=1000,
         queries=2, n=1000, extreme=True, kind="equal keys").check()


def test_blocks_join_without_seams():
    # More sort keys than a block of temporaries holds, counts that differ within and between.
    tokens, queries = 700, golden._BLOCK // 700 * 2 + 5
    rng = np.random.default_rng(11)
    counts = rng.integers(1, tokens + 1, size=(2, queries))
    problem = make(12, tokens=tokens, queries=queries, group=2, n=5, sink=1, recent=2,
                   counts=counts)
    result = problem.attend()
    for query in range(0, queries, 37):
        for head in range(2):
            alone = golden.attend(
                problem.q[head:head + 1, query:query + 1], problem.k, problem.values,
                problem.exp_tables[head:head + 1], config=problem.config,
                counts=counts[head, query], n=5, sink=1, recent=2)
            width = alone.selected.shape[-1]
            for name in ("output_int", "selected", "distances", "weights"):
                got = getattr(result, name)[head, query]
                want = getattr(alone, name)[0, 0]
                if name == "output_int":
                    assert (got == want).all()
                else:
                    assert (got[:width] == want).all()
                    assert (got[width:] == -1).all()


# The other entrances


@given(problems(rescored=st.booleans()))
def test_attend_one(problem):
    problem.shared = False
    whole = problem.attend()
    group = len(problem.q) // len(problem.k)
    heads, queries, _ = problem.q.shape
    counts = np.broadcast_to(problem.counts, (heads, queries))
    head, query = heads - 1, queries - 1
    keys = codes_to_ints(problem.k[head // group])
    one = golden.attend_one(
        codes_to_ints(problem.q[head])[query], keys,
        problem.values.elements[head // group].tolist(),
        problem.values.scales[head // group].tolist(), problem.exp_tables[head].tolist(),
        config=problem.config, first=problem.first, count=int(counts[head, query]), n=problem.n,
        sink=problem.sink, recent=problem.recent, rescore=problem.rescore and RescoreOperands(
            problem.rescore.queries[head:, query:][:1, :1],
            problem.rescore.keys[head // group][None],
            problem.rescore.multipliers[head:, query:][:1, :1]))
    assert (one.output_int == whole.output_int[head, query]).all()
    width = len(one.selected)
    for name in ("selected", "distances", "weights"):
        assert (getattr(one, name) >= 0).all()
        assert (getattr(one, name) == getattr(whole, name)[head, query, :width]).all()
    if problem.rescore is None:
        assert one.scores is None
    else:
        assert (one.scores == whole.scores[head, query, :width]).all()


def test_attend_one_takes_the_rest_of_the_store():
    problem = make(13, tokens=20, n=20)
    one = golden.attend_one(
        codes_to_ints(problem.q[0])[0], codes_to_ints(problem.k[0]), problem.values.elements[0],
        problem.values.scales[0], problem.exp_tables[0], config=problem.config, first=7, n=20)
    assert sorted(one.selected.tolist()) == list(range(7, 20))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(1, 32),
       st.integers(0, 12), st.integers(0, 12))
def test_select_one(distances, n, sink, recent):
    assert golden.select_one(distances, n=n, sink=sink, recent=recent).tolist() == \
        brute_select(distances, n, sink, recent)


@given(problems(), st.booleans())
def test_select(problem, shared):
    """A shared selection is that by the sum of the distances, for each head of the group."""
    heads, queries, _ = problem.q.shape
    group = heads // len(problem.k)
    counts = np.broadcast_to(problem.counts, (heads, queries))
    if shared:
        counts = np.repeat(counts[::group], group, axis=0)
    selected, found = golden.select(
        problem.q, problem.k, counts=counts, first=problem.first, n=problem.n, sink=problem.sink,
        recent=problem.recent, shared=shared)
    assert (selected.dtype, found.dtype) == (np.int64, np.int32)
    codes = [codes_to_ints(head) for head in problem.q]
    for head, query in np.ndindex(heads, queries):
        pair = head // group
        together = range(pair * group, (pair + 1) * group) if shared else [head]
        keys = codes_to_ints(problem.k[pair])[problem.first:][:counts[head, query]]
        h = [sum(bin(codes[each][query] ^ key).count("1") for each in together) for key in keys]
        chosen = brute_select(h, problem.n, problem.sink, problem.recent)
        width = len(chosen)
        assert selected[head, query, :width].tolist() == [problem.first + i for i in chosen]
        assert found[head, query, :width].tolist() == [h[i] for i in chosen]
        assert (selected[head, query, width:] == -1).all()
        assert (found[head, query, width:] == -1).all()


def test_counts_broadcast():
    problem = make(14, heads=2, group=2, queries=3, tokens=20, n=4)
    for shape in ((), (3,), (4, 1), (4, 3)):
        counts = np.random.default_rng(15).integers(1, 21, size=shape)
        one = problem.attend(counts=counts)
        other = problem.attend(counts=np.broadcast_to(counts, (4, 3)))
        assert (one.selected == other.selected).all()
        assert (one.output_int == other.output_int).all()


# Oracles of other people


@pytest.mark.parametrize("key_bits", [8, 64, 72, 128, 256])
@pytest.mark.parametrize("n", [1, 32, 300])
def test_against_faiss(key_bits, n):
    rng = np.random.default_rng(key_bits + n)
    octets = key_bits // 8
    k = rng.integers(0, 256, size=(2, 500, octets), dtype=np.uint8)
    q = rng.integers(0, 256, size=(4, 20, octets), dtype=np.uint8)
    k[:, 100:200] = k[:, :100] # certain ties

    def pack(x):
        numbers = [int.from_bytes(row.tobytes(), "little") for row in x.reshape(-1, octets)]
        return codes_from_ints(numbers, key_bits).reshape(*x.shape[:-1], -1)

    selected, found = golden.select(pack(q), pack(k), counts=500, n=n)
    for head in range(4):
        index = faiss.IndexBinaryFlat(key_bits)
        index.add(k[head // 2])
        distances, indices = index.search(q[head], n)
        assert (found[head] == distances).all()
        all_distances, all_indices = index.search(q[head], 500)
        for query in range(20):
            last = distances[query, -1]
            theirs = indices[query][distances[query] < last]
            ours = selected[head, query]
            below = found[head, query] < last
            assert set(theirs) == set(ours[below])
            # Of the keys at the last distance, the most recent ones.
            at_last = np.sort(all_indices[query][all_distances[query] == last])[::-1]
            assert (ours[~below] == at_last[:(~below).sum()]).all()


def softmax_of(problem, result, logit_scale):
    """Attention in float64 over the same selection, integer elements and scales."""
    group = len(problem.q) // len(problem.k)
    rows = problem.values.elements * (problem.values.scales[..., None] / 65536)
    output = np.empty(result.output_int.shape)
    for head, query in np.ndindex(output.shape[:2]):
        valid = result.selected[head, query] >= 0
        logits = -2 * logit_scale[head] * result.distances[head, query][valid]
        weights = np.exp(logits - logits.max())
        output[head, query] = (weights / weights.sum()) @ rows[head // group][
            result.selected[head, query][valid]]
    return output


def error_over_bound(problem, logit_scale):
    problem.exp_tables = exp_table(logit_scale, problem.config.key_bits,
                                   problem.config.weight_bits)
    result = problem.attend()
    error = np.abs(result.output_int / 2.0**problem.config.output_fraction_bits
                   - softmax_of(problem, result, logit_scale)).max(axis=-1)
    sizes = (result.selected >= 0).sum(axis=-1)
    bounds = np.vectorize(lambda size: golden.error_bound(problem.config, int(size)))(sizes)
    return (error / bounds).max()


@settings(max_examples=300)
@given(problems(), st.floats(0, 1))
def test_error_is_bounded(problem, logit_scale):
    assert error_over_bound(problem, np.full(len(problem.q), logit_scale)) <= 1 + 1e-9


def nearly_worst(weight, tokens, weight_bits=16):
    """One near key with the least element; the rest far, with weight - 1/2 rounded up to weight.

    Their elements are the largest and their scales so that the product with the weight ends in a
    half as well: both roundings go the same way in every row.
    """
    problem = make(16, weight_bits=weight_bits, value_dim=1, tokens=tokens, counts=tokens, n=tokens)
    near = (1 << problem.config.key_bits) - 1
    keys = [near] + [near - 1] * (tokens - 1)
    problem.q, problem.k = (codes_from_ints(numbers, 64)[None] for numbers in ([near], keys))
    problem.values.elements[...] = 127
    problem.values.elements[0, 0] = -128
    problem.values.scales[...] = math.ceil((weight - 0.5) / weight * 65536)
    problem.values.scales[0, 0] = 65535
    most = (1 << weight_bits) - 1
    return problem, np.array([math.log(most / (weight - 0.5 + 1e-6)) / 2])


@pytest.mark.parametrize(("weight", "tokens", "weight_bits"), [
    (4, 32, 16), (3, 1000, 16), (9, 64, 20)])
def test_error_bound_is_nearly_attained(weight, tokens, weight_bits):
    problem, logit_scale = nearly_worst(weight, tokens, weight_bits)
    assert 0.85 <= error_over_bound(problem, logit_scale) <= 1


def test_error_bound_by_hand():
    config = Config.preset("reference")
    assert golden.error_bound(config, 1) == 128 / (2 * 65535) + 1 / 512
    assert golden.error_bound(config, 32) == 128 * 94 / (2 * 65535) + 1 / 512
    with refuses("selected must be at least 1, not 0"):
        golden.error_bound(config, 0)


# The stages


def test_lookup():
    distances = np.array([[3, 5, 9, -1], [7, 7, -1, -1]], np.int32)
    exp_table = np.arange(100, 0, -10)
    assert golden.lookup(distances, exp_table).tolist() == [[100, 80, 40, -1], [100, 100, -1, -1]]
    # In any order, as the hardware sees them.
    assert golden.lookup(distances[:, ::-1], exp_table).tolist() == [[-1, 40, 80, 100],
                                                                     [-1, -1, 100, 100]]


@given(st.integers(1, 20), st.integers(1, 40), st.integers(2, 16), st.integers(0, 1 << 32))
def test_score(head_dim, count, bits, seed):
    rng = np.random.default_rng(seed)
    limit = 1 << bits - 1
    kind = np.int8 if bits <= 8 else np.int16
    queries = rng.integers(-limit, limit, size=(2, 3, head_dim)).astype(kind)
    keys = rng.integers(-limit, limit, size=(2, 3, count, head_dim)).astype(kind)
    scores = golden.score(queries, keys)
    assert scores.dtype == np.int64
    for head, query in np.ndindex(2, 3):
        q = queries[head, query].tolist()
        assert scores[head, query].tolist() == [
            sum(a * b for a, b in zip(q, k, strict=True)) for k in keys[head, query].tolist()]


def test_largest_scores():
    # 1,024 products of 30 bits, and one unit more or less, which float32 would lose.
    queries = np.full(1024, -32768, np.int16)
    keys = np.stack([queries, queries, queries, -32767 - queries])
    keys[1, 7], keys[2, 7] = -32767, 32767
    assert golden.score(queries, keys).tolist() == [
        2**40, 2**40 - 2**15, 2**40 - 2**30 - 32768 * 32767, -1024 * 32768]


MOST = 2**32 - 1
OF_SCORES = st.integers(-(2**41), 2**41)


@pytest.mark.parametrize("weight_bits", [2, 3, 8, 16, 23, 24])
def test_octave(weight_bits):
    # A multiplier of 2**24 makes t the score itself. n is rint(W * 2**(-f / 256)) if W is between
    # n - 1/2 and n + 1/2, times 2**(f / 256): in integers, raised to the 256th power.
    weights = golden.decay(-np.arange(256), np.full(256, True), np.array(2**24),
                           weight_bits=weight_bits)
    largest = 2**weight_bits - 1
    assert weights[0] == largest
    for f, n in enumerate(weights.tolist()):
        assert (2 * n - 1)**256 * 2**f < (2 * largest)**256 < (2 * n + 1)**256 * 2**f
    assert weights.tolist() == brute_exp2(weight_bits)


@settings(max_examples=500)
@given(st.lists(OF_SCORES, min_size=1, max_size=8), st.lists(st.integers(0, 2**20), max_size=8),
       st.integers(0, MOST), st.integers(2, 24))
@example([2**41, -(2**41), 0, 2**41], [], MOST, 2)
@example([2**41, -(2**41), 0, 2**41], [], MOST, 24)
@example([2**41, -(2**41), 0, 2**41], [], 0, 24)
@example([2**41, -(2**41), 0, 2**41], [], 1, 24)
@example([2**24 - 1, 2**24, -1, 0], [], 2**24, 16)
@example([0, -1, -2], [], MOST, 24)
def test_decay(scores, near, multiplier, weight_bits):
    scores = scores + [scores[0] - each for each in near]
    weights = golden.decay(np.array(scores), np.full(len(scores), True), np.array(multiplier),
                           weight_bits=weight_bits)
    assert weights.dtype == np.int64
    assert weights.tolist() == brute_decay(scores, multiplier, weight_bits)
    assert weights.max() == 2**weight_bits - 1


@given(st.integers(2, 24), st.integers(0, 1 << 32))
def test_decay_of_many(weight_bits, seed):
    """Of rows with padding, each with its own multiplier, among them the extremes."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-(2**41), 2**41, size=(3, 4, 6), endpoint=True) >> rng.integers(
        0, 41, size=(3, 4, 1))
    valid = rng.random(size=scores.shape) < 0.7
    valid[..., 2] = True
    multipliers = rng.integers(0, 1 << 32, size=(3, 4)) >> rng.integers(0, 32, size=(3, 4))
    multipliers[0, :2] = 0, MOST
    weights = golden.decay(scores, valid, multipliers.astype(np.uint32), weight_bits=weight_bits)
    for index in np.ndindex(3, 4):
        assert (weights[index][~valid[index]] == -1).all()
        assert weights[index][valid[index]].tolist() == brute_decay(
            scores[index][valid[index]].tolist(), int(multipliers[index]), weight_bits)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=8), st.integers(0, MOST),
       st.integers(2, 24))
def test_decay_is_near_the_exponential(behind, multiplier, weight_bits):
    # t is at most 1/256 octave too small, the entry off by half a unit, its shift by less than one.
    largest = 2**weight_bits - 1
    weights = golden.decay(-np.array([0, *behind]), np.full(len(behind) + 1, True),
                           np.array(multiplier), weight_bits=weight_bits)
    for each, weight in zip(behind, weights[1:].tolist(), strict=True):
        real = largest * 2.0 ** -min(each * multiplier / 2**32, 1000)
        assert -1.5 < weight - real < real * (2 ** (1 / 256) - 1) + 0.5 + 1e-6


@pytest.mark.parametrize(("weight", "scale", "scale_bits", "expected"), [
    (1, 32767, 16, 0), (1, 32768, 16, 1), (3, 32768, 16, 2), (65535, 65535, 16, 65534),
    (0, 65535, 16, 0), (-1, 65535, 16, 0), (5, 1, 1, 3), (4, 1, 1, 2),
])
def test_accumulate_rounds_up_at_half(weight, scale, scale_bits, expected):
    sums, total = golden.accumulate(np.array([weight]), np.array([[-7, 1]], np.int8),
                                    np.array([scale]), scale_bits=scale_bits)
    assert sums.tolist() == [-7 * expected, expected]
    assert total == max(weight, 0)


@given(st.integers(1, 30), st.integers(0, 24), st.integers(0, 1 << 32))
def test_accumulate_is_exact(rows, weight_bits, seed):
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 1 << weight_bits, size=(2, rows), endpoint=True)
    elements = rng.integers(-1 << 15, 1 << 15, size=(2, rows, 3)).astype(np.int16)
    scales = rng.integers(0, 1 << 16, size=(2, rows)).astype(np.uint16)
    sums, total = golden.accumulate(weights, elements, scales)
    assert sums.dtype == total.dtype == np.int64
    for i in range(2):
        u = [(int(w) * int(c) + 32768) // 65536 for w, c in zip(weights[i], scales[i], strict=True)]
        assert total[i] == sum(map(int, weights[i]))
        assert sums[i].tolist() == [
            sum(ui * int(v) for ui, v in zip(u, elements[i, :, j], strict=True)) for j in range(3)]


def test_accumulate_beyond_float64():
    # 2**20 vectors of the largest weight and element, and one that a float64 sum would lose.
    weights = np.full(1 << 20, (1 << 24) - 1)
    elements = np.full((1 << 20, 1), -32768, np.int16)
    elements[5] = 1
    scales = np.full(1 << 20, 65535, np.uint16)
    u = ((1 << 24) - 1) * 65535 + 32768 >> 16
    sums, total = golden.accumulate(weights, elements, scales)
    assert sums.tolist() == [u - u * 32768 * ((1 << 20) - 1)]
    assert total == ((1 << 24) - 1) << 20


@given(st.integers(0, 16), st.integers(1, (1 << 44) - 1), st.integers(2, 16), st.data())
@example(0, 1, 8, None)
def test_normalize(fraction, total, value_bits, data):
    limit = total << value_bits - 1
    sums = [-limit, -1, 0, 1, limit, total // 2, -(total // 2), -total]
    if data:
        sums += data.draw(st.lists(st.integers(-limit, limit), max_size=5))
    result = golden.normalize(np.array([sums]), np.array([total]), fraction)
    assert result.dtype == np.int64
    for a, o in zip(sums, result[0].tolist(), strict=True):
        assert o == math.floor(Fraction(a * 2**fraction + total // 2, total))
        assert abs(Fraction(o) - Fraction(a * 2**fraction, total)) <= Fraction(1, 2)


def test_normalize_ties_go_up():
    sums = np.array([-6, -5, -3, -2, -1, 1, 2, 3, 6])
    assert golden.normalize(sums, np.array(4), 0).tolist() == [-1, -1, -1, 0, 0, 0, 1, 1, 2]


def test_normalize_by_nothing():
    with refuses("total must be at least 1, not 0"):
        golden.normalize(np.zeros((2, 3), int), np.array([1, 0]), 8)


# Bad input


@pytest.mark.parametrize(("change", "message"), [
    ({"queries": np.zeros((2, 3, 5), np.int8)},
     "rescore queries must have shape [2, 3, 6], not [2, 3, 5]"),
    ({"queries": np.zeros((2, 1, 6), np.int8)},
     "rescore queries must have shape [2, 3, 6], not [2, 1, 6]"),
    ({"queries": np.zeros((2, 3, 6))}, "rescore queries must be integers, not float64"),
    ({"queries": np.full((2, 3, 6), 32)},
     "rescore queries must be from -32 to 31, not from 32 to 32"),
    ({"keys": np.zeros((2, 20, 6), np.int8)},
     "rescore keys must have shape [1, 20, 6], not [2, 20, 6]"),
    ({"keys": np.zeros((1, 19, 6), np.int8)},
     "rescore keys must have shape [1, 20, 6], not [1, 19, 6]"),
    ({"keys": np.full((1, 20, 6), -33)},
     "rescore keys must be from -32 to 31, not from -33 to -33"),
    ({"multipliers": np.zeros(2, np.uint32)}, "multipliers must have shape [2, 3], not [2]"),
    ({"multipliers": np.full((2, 3), 1 << 32)},
     "multipliers must be from 0 to 4294967295, not from 4294967296 to 4294967296"),
    ({"multipliers": np.full((2, 3), -1)},
     "multipliers must be from 0 to 4294967295, not from -1 to -1"),
    ({"multipliers": np.ones((2, 3))}, "multipliers must be integers, not float64"),
])
def test_rescore_operands_that_do_not_fit(change, message):
    problem = make(23, group=2, queries=3, tokens=20, counts=20, n=4, head_dim=6, element_bits=6)
    problem.rescore = dataclasses.replace(problem.rescore, **change)
    with refuses(message):
        problem.attend()


def test_exact_scores_without_a_unit():
    problem = make(24, n=4, head_dim=6)
    with refuses("the configuration has no rescoring unit; set rescore"):
        problem.attend(config=problem.config.replace(rescore=None))


def test_shared_selections_that_cannot_be():
    problem = make(25, group=2, queries=3, tokens=20, counts=20, n=4, head_dim=6, shared=True)
    with refuses("a shared selection needs rescoring: a sum of several distances does not "
                 "measure a single head's weight"):
        problem.attend(rescore=None)
    for counts in ([[20], [19]], [[20] * 3, [20, 19, 20]]):
        for refused in (problem.attend, functools.partial(
                golden.select, problem.q, problem.k, n=4, shared=True)):
            with refuses("counts of heads that share a selection must be equal"):
                refused(counts=counts)


def test_largest_sums_of_distances():
    # Two heads of the widest codes among as many keys as their sums leave room for.
    tokens = 1 << 19
    q = np.full((2, 1, 16), np.iinfo(np.uint64).max, np.uint64)
    k = np.broadcast_to(np.zeros((1, 1, 16), np.uint64), (1, tokens, 16))
    selected, found = golden.select(q, k, counts=tokens, n=2, sink=1, shared=True)
    assert selected.tolist() == [[[tokens - 1, tokens - 2, 0]]] * 2
    assert (found == 2048).all()
    k = np.broadcast_to(k[:, :1], (1, tokens + 1, 16))
    with refuses("2 heads of 1024 bits cannot share a selection among 524289 keys"):
        golden.select(q, k, counts=1, n=2, shared=True)
    golden.select(q, k, counts=1, n=2)


@pytest.mark.parametrize(("command", "message"), [
    ({"n": 0}, "n must be at least 1, not 0"),
    ({"n": -3}, "n must be at least 1, not -3"),
    ({"sink": -1}, "sink must be at least 0, not -1"),
    ({"recent": -1}, "recent must be at least 0, not -1"),
    ({"n": 3, "sink": 1, "recent": 1}, "n + sink + recent must be at most top_n (4), not 5"),
    ({"first": -1}, "first must be at least 0, not -1"),
    ({"counts": 0}, "count must be at least 1, not 0"),
    ({"counts": [[5, 0]]}, "count must be at least 1, not 0"),
    ({"counts": -1}, "count must be at least 1, not -1"),
    ({"counts": 2.0}, "counts must be integers, not float64"),
    ({"counts": 21}, "the keys from 0 to 20 exceed the 20 keys"),
    ({"counts": 16, "first": 5}, "the keys from 5 to 20 exceed the 20 keys"),
    ({"counts": 1, "first": 20}, "the keys from 20 to 20 exceed the 20 keys"),
])
def test_commands_that_cannot_be(command, message):
    problem = make(17, queries=2, tokens=20, counts=20, n=4)
    with refuses(message):
        problem.attend(**command)
    if "top_n" not in message:
        with refuses(message):
            golden.select(problem.q, problem.k, **{"counts": 20, "n": 4, **command})


def test_select_one_refuses():
    with refuses("count must be at least 1, not 0"):
        golden.select_one(np.zeros(0, int), n=1)
    with refuses("n must be at least 1, not 0"):
        golden.select_one([1, 2], n=0)
    with refuses("distances must be integers, not float64"):
        golden.select_one([0.5], n=1)


def test_select_refuses_what_it_cannot_hold():
    one = np.zeros((1, 1, 1), np.uint64)
    with refuses("at most 1048576 keys of 1024 bits can be selected from, not 1048577 of 64"):
        golden.select(one, np.broadcast_to(one, (1, (1 << 20) + 1, 1)), counts=1, n=1)
    wide = np.zeros((1, 1, 17), np.uint64)
    with refuses("at most 1048576 keys of 1024 bits can be selected from, not 1 of 1088"):
        golden.select(wide, wide, counts=1, n=1)


def test_largest_sort_keys():
    # The farthest of the widest codes in the longest store, beside one that is nearer.
    q = np.full((1, 1, 16), np.iinfo(np.uint64).max, np.uint64)
    k = np.broadcast_to(np.zeros((1, 1, 16), np.uint64), (1, 1 << 20, 16))
    for sink, recent, expected in ((0, 0, [(1 << 20) - 1, (1 << 20) - 2]),
                                   (1, 0, [(1 << 20) - 1, 0]),
                                   (0, 1, [(1 << 20) - 1, (1 << 20) - 2])):
        selected, found = golden.select(q, k, counts=1 << 20, n=2 - sink - recent, sink=sink,
                                        recent=recent)
        assert selected[0, 0].tolist() == expected
        assert found[0, 0].tolist() == [1024, 1024]


@pytest.mark.parametrize(("change", "message"), [
    ({"q": np.zeros((1, 2), np.uint64)},
     "q_codes must be [heads, n, 2] with no axis empty for 70 bits, not [1, 2]"),
    ({"k": np.zeros((1, 20, 1), np.uint64)},
     "k_codes must be [heads, n, 2] with no axis empty for 70 bits, not [1, 20, 1]"),
    ({"q": np.zeros((1, 0, 2), np.uint64)},
     "q_codes must be [heads, n, 2] with no axis empty for 70 bits, not [1, 0, 2]"),
    ({"k": np.zeros((1, 20, 2), np.int64)}, "k_codes must be uint64, not int64"),
    ({"q": np.full((1, 2, 2), 64, np.uint64)}, "q_codes has bits above key_bits (70)"),
    ({"k": np.zeros((2, 20, 2), np.uint64)}, "kv heads (2) must divide heads (1)"),
    ({"k": np.zeros((1, 21, 2), np.uint64)}, "keys must be at most capacity (20), not 21"),
    ({"values": Values(np.zeros((1, 20, 3), np.int8), np.zeros((1, 20), np.uint16))},
     "elements must have shape [1, 20, 4], not [1, 20, 3]"),
    ({"values": Values(np.zeros((1, 20, 4)), np.zeros((1, 20), np.uint16))},
     "elements must be integers, not float64"),
    ({"values": Values(np.full((1, 20, 4), 128), np.zeros((1, 20), np.uint16))},
     "elements must be from -128 to 127, not from 128 to 128"),
    ({"values": Values(np.full((1, 20, 4), -129), np.zeros((1, 20), np.uint16))},
     "elements must be from -128 to 127, not from -129 to -129"),
    ({"values": Values(np.zeros((1, 20, 4), np.int8), np.zeros((1, 19), np.uint16))},
     "scales must have shape [1, 20], not [1, 19]"),
    ({"values": Values(np.zeros((1, 20, 4), np.int8), np.full((1, 20), 65536, np.uint32))},
     "scales must be from 0 to 65535, not from 65536 to 65536"),
    ({"exp_tables": np.ones((1, 70), int)}, "exp_tables must have shape [1, 71], not [1, 70]"),
    ({"exp_tables": np.full((1, 71), 65536)},
     "exp_tables must be from 0 to 65535, not from 65536 to 65536"),
    ({"exp_tables": np.full((1, 71), -1)}, "exp_tables must be from 0 to 65535, not from -1 to -1"),
    ({"exp_tables": np.ones((1, 71))}, "exp_tables must be integers, not float64"),
    ({"exp_tables": np.zeros((1, 71), int)}, "exp_tables must not have a 0 at distance 0"),
])
def test_integers_that_do_not_fit(change, message):
    problem = make(18, key_bits=70, queries=2, tokens=20, counts=20, n=4)
    for name, value in change.items():
        setattr(problem, name, value)
    with refuses(message):
        problem.attend()


# Size


def peak_of(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_bounded():
    # 64 queries, 65,536 keys, 8 heads: 32 Mi distances, of which only a block is held at a time.
    rng = np.random.default_rng(19)
    heads, queries, tokens = 8, 64, 65536
    q = rng.integers(0, 1 << 64, size=(heads, queries, 1), dtype=np.uint64)
    k = rng.integers(0, 1 << 64, size=(heads, tokens, 1), dtype=np.uint64)
    values = Values(rng.integers(-128, 128, size=(heads, tokens, 64)).astype(np.int8),
                    rng.integers(0, 65536, size=(heads, tokens)).astype(np.uint16))
    config = Config.preset("long")
    exp_tables = exp_table(np.full(heads, 0.3), 64)
    results = []

    def run():
        results.append(golden.attend(q, k, values, exp_tables, config=config, counts=tokens, n=32,
                                     sink=4, recent=12))

    peak = peak_of(run)
    assert peak < 8 << 20
    assert (results[0].selected >= 0).all()
