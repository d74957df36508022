import dataclasses
import math
import re
import tracemalloc
from fractions import Fraction

import faiss
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nearbit_model import golden
from nearbit_model.config import Config
from nearbit_model.quantize import Values, codes_from_ints, codes_to_ints, weight_table


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


def brute_attend(q, keys, elements, scales, table, *, first, count, n, sink, recent, fraction):
    h = [bin(q ^ key).count("1") for key in keys[first:first + count]]
    chosen = brute_select(h, n, sink, recent)
    nearest = min(h[i] for i in chosen)
    w = [table[h[i] - nearest] for i in chosen]
    z = sum(w)
    u = [(wi * scales[first + i] + 2**15) >> 16 for wi, i in zip(w, chosen, strict=True)]
    output = []
    for j in range(len(elements[0])):
        a = sum(ui * elements[first + i][j] for ui, i in zip(u, chosen, strict=True))
        output.append(math.floor(Fraction(a * 2**fraction + z // 2, z)))
    return output, [first + i for i in chosen], [h[i] for i in chosen], w


@dataclasses.dataclass
class Problem:
    config: Config
    q: np.ndarray
    k: np.ndarray
    values: Values
    tables: np.ndarray
    counts: np.ndarray
    first: int
    n: int
    sink: int
    recent: int

    @property
    def command(self):
        return {"counts": self.counts, "first": self.first, "n": self.n, "sink": self.sink,
                "recent": self.recent}

    def attend(self, **changes):
        return golden.attend(self.q, self.k, self.values, self.tables,
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
        for name in ("selected", "distances", "weights"):
            assert getattr(result, name).shape == (heads, queries, most)
        for head in range(heads):
            keys = codes_to_ints(self.k[head // group])
            for query, q in enumerate(codes_to_ints(self.q[head])):
                expected = brute_attend(
                    q, keys, self.values.elements[head // group].tolist(),
                    self.values.scales[head // group].tolist(), self.tables[head].tolist(),
                    first=self.first, count=int(counts[head, query]), n=self.n, sink=self.sink,
                    recent=self.recent, fraction=self.config.output_fraction_bits)
                assert result.output_int[head, query].tolist() == expected[0]
                for name, want in zip(("selected", "distances", "weights"), expected[1:],
                                      strict=True):
                    padded = want + [-1] * (most - len(want))
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
         kind="random", extreme=False):
    rng = np.random.default_rng(seed)
    most = n + sink + recent
    config = Config(
        key_bits=key_bits, value_dim=value_dim, value_lanes=1, value_bits=value_bits, lanes=1,
        weight_bits=weight_bits, output_fraction_bits=fraction, capacity=max(tokens, most),
        top_n=most)
    q, k = random_codes(rng, kind, key_bits, (heads * group, queries), (heads, tokens))
    limit = 1 << value_bits - 1
    elements = rng.integers(-limit, limit, size=(heads, tokens, value_dim))
    scales = rng.integers(0, 1 << 16, size=(heads, tokens))
    tables = np.sort(rng.integers(0, 1 << weight_bits, size=(heads * group, key_bits + 1)))
    tables = np.maximum(tables[:, ::-1], [1] + [0] * key_bits)
    if extreme:
        elements[...] = rng.choice([-limit, limit - 1], size=(heads, tokens, 1))
        scales[...] = 65535
        tables[...] = (1 << weight_bits) - 1
    if counts is None:
        counts = rng.integers(1, tokens - first + 1, size=(heads * group, queries))
    values = Values(elements.astype(np.int8 if value_bits <= 8 else np.int16),
                    scales.astype(np.uint16))
    return Problem(config, q, k, values, tables.astype(np.uint32), np.asarray(counts), first, n,
                   sink, recent)


@st.composite
def problems(draw):
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
        kind=draw(st.sampled_from(KINDS)), extreme=draw(st.booleans()))


@settings(max_examples=500)
@given(problems())
def test_against_brute_force(problem):
    problem.check()


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
                problem.tables[head:head + 1], config=problem.config,
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


@given(problems())
def test_attend_one(problem):
    whole = problem.attend()
    group = len(problem.q) // len(problem.k)
    heads, queries, _ = problem.q.shape
    counts = np.broadcast_to(problem.counts, (heads, queries))
    head, query = heads - 1, queries - 1
    keys = codes_to_ints(problem.k[head // group])
    one = golden.attend_one(
        codes_to_ints(problem.q[head])[query], keys,
        problem.values.elements[head // group].tolist(),
        problem.values.scales[head // group].tolist(), problem.tables[head].tolist(),
        config=problem.config, first=problem.first, count=int(counts[head, query]), n=problem.n,
        sink=problem.sink, recent=problem.recent)
    assert (one.output_int == whole.output_int[head, query]).all()
    width = len(one.selected)
    for name in ("selected", "distances", "weights"):
        assert (getattr(one, name) >= 0).all()
        assert (getattr(one, name) == getattr(whole, name)[head, query, :width]).all()


def test_attend_one_takes_the_rest_of_the_store():
    problem = make(13, tokens=20, n=20)
    one = golden.attend_one(
        codes_to_ints(problem.q[0])[0], codes_to_ints(problem.k[0]), problem.values.elements[0],
        problem.values.scales[0], problem.tables[0], config=problem.config, first=7, n=20)
    assert sorted(one.selected.tolist()) == list(range(7, 20))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(1, 32),
       st.integers(0, 12), st.integers(0, 12))
def test_select_one(distances, n, sink, recent):
    assert golden.select_one(distances, n=n, sink=sink, recent=recent).tolist() == \
        brute_select(distances, n, sink, recent)


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


def softmax_of(problem, result, temperature):
    """Attention in float64 over the same selection, integer elements and scales."""
    group = len(problem.q) // len(problem.k)
    rows = problem.values.elements * (problem.values.scales[..., None] / 65536)
    output = np.empty(result.output_int.shape)
    for head, query in np.ndindex(output.shape[:2]):
        valid = result.selected[head, query] >= 0
        logits = -2 * temperature[head] * result.distances[head, query][valid]
        weights = np.exp(logits - logits.max())
        output[head, query] = (weights / weights.sum()) @ rows[head // group][
            result.selected[head, query][valid]]
    return output


def error_over_bound(problem, temperature):
    problem.tables = weight_table(temperature, problem.config.key_bits,
                                  problem.config.weight_bits)
    result = problem.attend()
    error = np.abs(result.output_int / 2.0**problem.config.output_fraction_bits
                   - softmax_of(problem, result, temperature)).max(axis=-1)
    sizes = (result.selected >= 0).sum(axis=-1)
    bounds = np.vectorize(lambda size: golden.error_bound(problem.config, int(size)))(sizes)
    return (error / bounds).max()


@settings(max_examples=300)
@given(problems(), st.floats(0, 1))
def test_error_is_bounded(problem, temperature):
    assert error_over_bound(problem, np.full(len(problem.q), temperature)) <= 1 + 1e-9


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
    problem, temperature = nearly_worst(weight, tokens, weight_bits)
    assert 0.85 <= error_over_bound(problem, temperature) <= 1


def test_error_bound_by_hand():
    config = Config.preset("reference")
    assert golden.error_bound(config, 1) == 128 / (2 * 65535) + 1 / 512
    assert golden.error_bound(config, 32) == 128 * 94 / (2 * 65535) + 1 / 512
    with refuses("selected must be at least 1, not 0"):
        golden.error_bound(config, 0)


# The stages


def test_lookup():
    distances = np.array([[3, 5, 9, -1], [7, 7, -1, -1]], np.int32)
    table = np.arange(100, 0, -10)
    assert golden.lookup(distances, table).tolist() == [[100, 80, 40, -1], [100, 100, -1, -1]]
    # In any order, as the hardware sees them.
    assert golden.lookup(distances[:, ::-1], table).tolist() == [[-1, 40, 80, 100],
                                                                 [-1, -1, 100, 100]]


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
    # 2**20 rows of the largest weight and element, and one that a float64 sum would lose.
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
    ({"counts": 21}, "the keys from 0 to 20 go past the 20 that there are"),
    ({"counts": 16, "first": 5}, "the keys from 5 to 20 go past the 20 that there are"),
    ({"counts": 1, "first": 20}, "the keys from 20 to 20 go past the 20 that there are"),
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
    ({"tables": np.ones((1, 70), int)}, "tables must have shape [1, 71], not [1, 70]"),
    ({"tables": np.full((1, 71), 65536)},
     "tables must be from 0 to 65535, not from 65536 to 65536"),
    ({"tables": np.full((1, 71), -1)}, "tables must be from 0 to 65535, not from -1 to -1"),
    ({"tables": np.ones((1, 71))}, "tables must be integers, not float64"),
    ({"tables": np.zeros((1, 71), int)}, "tables must not have a 0 at distance 0"),
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
    tables = weight_table(np.full(heads, 0.3), 64)
    results = []

    def run():
        results.append(golden.attend(q, k, values, tables, config=config, counts=tokens, n=32,
                                     sink=4, recent=12))

    peak = peak_of(run)
    assert peak < 8 << 20
    assert (results[0].selected >= 0).all()
