import json
import math
import re
import struct
import sys
import zipfile
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nearbit_model import golden, quantize
from nearbit_model.mapping import KINDS, Mapping, MappingError, heavy_budget, import_published
from nearbit_model.mapping import mapping as module


DATA = Path(__file__).parents[1] / "data"


def refuses(message, error=MappingError):
    return pytest.raises(error, match=f"^{re.escape(message)}$")


def layer(rng, sets, out, width):
    """Weight and bias as torch.nn.Linear makes them: uniform to 1 / sqrt(in)."""
    bound = 1 / math.sqrt(width)
    return (rng.uniform(-bound, bound, (sets, out, width)).astype(np.float32),
            rng.uniform(-bound, bound, (sets, out)).astype(np.float32))


def layers(rng, sets, widths):
    return [layer(rng, sets, out, width) for width, out in pairwise(widths)]


def make(kind, *, bits=12, head_dim=12, heads=4, kv_heads=2, key_heads=None, hidden=(10, 7),
         seed=1):
    if kind == "sign":
        return Mapping.sign(head_dim, heads=heads, kv_heads=kv_heads)
    if kind in ("random", "hadamard"):
        return getattr(Mapping, kind)(bits, head_dim, heads=heads, kv_heads=kv_heads, seed=seed)
    rng = np.random.default_rng(seed)
    widths = [head_dim, *(hidden if kind == "layers" else ()), bits]
    return Mapping.learned(layers(rng, heads, widths), layers(rng, key_heads or heads, widths),
                           kv_heads=kv_heads, source="a test")


def tensors_of(mapping, rng, queries=5, tokens=9):
    q = rng.normal(size=(mapping.heads, queries, mapping.head_dim)).astype(np.float16)
    k = rng.normal(size=(mapping.kv_heads, tokens, mapping.head_dim)).astype(np.float16)
    return q, k


# An independent form: exact rationals where there is no SiLU, float64 matrix products where there
# is. A bit is given as None where it depends on rounding.


def weights_of(mapping, side, head):
    """[(weight, bias)] that a head of q, or a set of codes of keys, goes through."""
    group = mapping.heads // mapping.kv_heads
    if side == "k" and mapping.key_heads == mapping.kv_heads:
        kv, own = head, head
    else:
        kv, own = head // group, head
    if mapping.kind == "sign":
        return [(np.eye(mapping.head_dim), np.zeros(mapping.head_dim))]
    if mapping.kind == "random":
        return [(mapping.tensors["weight"][kv], np.zeros(mapping.bits))]
    if mapping.kind == "hadamard":
        size = 1
        while size < mapping.head_dim:
            size *= 2
        transform = np.ones((1, 1))
        while len(transform) < size:
            transform = np.kron(np.array([[1, 1], [1, -1]]), transform)
        rows = [transform[:, :mapping.head_dim] * signs for signs in mapping.tensors["signs"][kv]]
        return [(np.concatenate(rows)[:mapping.bits], np.zeros(mapping.bits))]
    return [(mapping.tensors[f"{side}.{i}.weight"][own], mapping.tensors[f"{side}.{i}.bias"][own])
            for i in range(len(mapping.hidden) + 1)]


def expected_bits(mapping, side, head, row):
    stack = weights_of(mapping, side, head)
    if len(stack) == 1:
        weight, bias = stack[0]
        exact = [sum((Fraction(float(w)) * Fraction(float(x)) for w, x in
                      zip(line, row, strict=True)), Fraction(float(b)))
                 for line, b in zip(weight, bias, strict=True)]
        return [None if 0 < abs(value) < 1e-9 else value > 0 for value in exact]
    value = row.astype(np.float64)
    for i, (weight, bias) in enumerate(stack):
        if i:
            value = value / (1 + np.exp(-value))
        value = weight.astype(np.float64) @ value + bias
    return [None if abs(x) < 1e-9 else bool(x > 0) for x in value]


def check(mapping, q, k):
    q_codes, k_codes = mapping.query_codes(q), mapping.key_codes(k)
    assert q_codes.dtype == k_codes.dtype == np.uint64
    assert q_codes.shape == (mapping.heads, q.shape[1], -(-mapping.bits // 64))
    assert k_codes.shape == (mapping.key_heads, k.shape[1], -(-mapping.bits // 64))
    assert mapping.words == q_codes.shape[2]
    for side, codes, x in (("q", q_codes, q), ("k", k_codes, k)):
        for head in range(len(codes)):
            source = x[head // (len(codes) // len(x))]
            for row, code in zip(source, quantize.codes_to_ints(codes[head]), strict=True):
                bits = expected_bits(mapping, side, head, row)
                assert code >> mapping.bits == 0
                for j, bit in enumerate(bits):
                    assert bit is None or (code >> j & 1) == bit


@st.composite
def mappings(draw, most=24):
    kind = draw(st.sampled_from(KINDS))
    kv_heads = draw(st.integers(1, 2))
    heads = kv_heads * draw(st.integers(1, 3))
    head_dim = draw(st.integers(1, most))
    hidden = draw(st.lists(st.integers(1, 8), min_size=1, max_size=2))
    return make(kind, bits=draw(st.integers(1, 3 * most)), head_dim=head_dim, heads=heads,
                kv_heads=kv_heads, key_heads=draw(st.sampled_from([heads, kv_heads])),
                hidden=tuple(hidden), seed=draw(st.integers(0, 1 << 70)))


@given(mappings(), st.integers(0, 1 << 32))
def test_codes_against_exact_arithmetic(mapping, seed):
    check(mapping, *tensors_of(mapping, np.random.default_rng(seed), queries=2, tokens=3))


@given(mappings(), st.data())
def test_codes_of_small_integers(mapping, data):
    # Of sums that cancel exactly, unless the weights are not whole: elements that are 0 or nearly.
    values = st.integers(-2, 2)
    q = data.draw(arrays.arrays(np.int8, (mapping.heads, 2, mapping.head_dim), elements=values))
    k = data.draw(arrays.arrays(np.int8, (mapping.kv_heads, 2, mapping.head_dim), elements=values))
    check(mapping, q, k)


@pytest.mark.parametrize("kind", KINDS)
def test_published_widths(kind):
    head_dim = bits = 128
    if kind in ("linear", "layers"):
        bits = 32
    mapping = make(kind, bits=bits, head_dim=head_dim, hidden=(128, 128))
    check(mapping, *tensors_of(mapping, np.random.default_rng(2), queries=2, tokens=3))


def test_zero_is_no_bit():
    weight = np.array([[[1, 1], [1, -1], [0, 0], [0, 0], [0, 0]]])
    bias = np.array([[0, 0, 0, 5e-324, -1.0]])
    mapping = Mapping.learned([(weight, bias.astype(np.float64))], [(weight, bias)], kv_heads=1)
    # The smallest float64 is 0 as float32.
    assert mapping.query_codes([[[1, 1], [1, -1], [-1, 2]]]).ravel().tolist() == [1, 2, 1]
    tiny = bias + np.float32(1e-45)
    mapping = Mapping.learned([(weight, tiny)], [(weight, tiny)], kv_heads=1)
    assert mapping.query_codes([[[0, 0]]]).ravel().tolist() == [0b01111]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_mapped_alike_in_any_company(kind):
    mapping = make(kind, bits=64, head_dim=64, hidden=(64, 64))
    rows = module._BLOCK // 64 * 2 + 3
    q, k = tensors_of(mapping, np.random.default_rng(3), queries=rows, tokens=rows)
    # Weights and elements on a coarse grid: many elements are within rounding of 0.
    q, k = np.rint(q * 2), np.rint(k * 2)
    q_codes, k_codes = mapping.query_codes(q), mapping.key_codes(k)
    for row in (0, 1, rows // 2 - 1, rows - 2, rows - 1):
        assert (mapping.query_codes(q[:, row:row + 1])[:, 0] == q_codes[:, row]).all()
        assert (mapping.key_codes(k[:, row:row + 1])[:, 0] == k_codes[:, row]).all()
    assert (mapping.key_codes(k[:, ::-1])[:, ::-1] == k_codes).all()
    assert (mapping.key_codes(np.asfortranarray(k)) == k_codes).all()


def test_sums_are_made_in_order():
    # What is added to a large number is lost; in another order, or in partial sums, it is not.
    big, width = 2.0**60, 64
    weight = np.ones((1, 4, width))
    weight[0, 0, [0, -1]] = big, -big
    weight[0, 1, [0, 1]] = big, -big
    weight[0, 2, [-2, -1]] = big, -big
    bias = np.array([[0, 0, 0, -width]])
    for rows in (1, 5, 300):
        mapping = Mapping.learned([(weight, bias)], [(weight, bias)], kv_heads=1)
        codes = mapping.query_codes(np.ones((1, rows, width)))
        assert np.unique(codes).tolist() == [0b0010]


@given(st.integers(1, 40), st.integers(0, 1 << 32))
def test_sign_is_the_code_of_the_vector(head_dim, seed):
    mapping = Mapping.sign(head_dim, heads=2, kv_heads=1)
    q, k = tensors_of(mapping, np.random.default_rng(seed))
    assert (mapping.query_codes(q) == quantize.codes(q)).all()
    assert (mapping.key_codes(k) == quantize.codes(k)).all()


def test_extreme_inputs():
    # The largest float32 in every place: nothing overflows, and SiLU's far side is 0.
    largest = float(np.finfo(np.float32).max)
    weights = [(np.full((1, 4, 4), largest), np.zeros((1, 4)))] * 3
    mapping = Mapping.learned(weights, weights, kv_heads=1)
    x = np.full((1, 1, 4), largest)
    assert mapping.query_codes(x).item() == 0b1111
    assert mapping.query_codes(-x).item() == 0
    assert mapping.key_codes(x * 0).item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(kind):
    mapping = make(kind)
    assert mapping.query_codes(np.zeros((4, 0, 12))).shape == (4, 0, 1)
    assert mapping.key_codes(np.zeros((2, 0, 12))).shape == (mapping.key_heads, 0, 1)


# Who shares what


@pytest.mark.parametrize("kind", ["random", "hadamard"])
def test_a_group_shares_its_projection(kind):
    mapping = make(kind, bits=40, heads=4, kv_heads=2)
    x = np.random.default_rng(4).normal(size=(2, 7, 12))
    codes = mapping.key_codes(x)
    assert mapping.shares_keys
    assert (mapping.query_codes(np.repeat(x, 2, axis=0)) == np.repeat(codes, 2, axis=0)).all()
    same = mapping.key_codes(np.stack([x[0], x[0]]))
    assert not (same[0] == same[1]).all()


def test_learned_keys_of_each_query_head():
    own = make("layers", key_heads=4)
    shared = make("layers", key_heads=2)
    assert (own.key_heads, own.shares_keys) == (4, False)
    assert (shared.key_heads, shared.shares_keys) == (2, True)
    k = np.random.default_rng(5).normal(size=(2, 30, 12))
    assert own.key_codes(k).shape == (4, 30, 1)
    assert shared.key_codes(k).shape == (2, 30, 1)
    # Key head 1 serves query heads 2 and 3, each by a mapping of its own.
    k[0] = 0
    codes = own.key_codes(k)
    assert len(np.unique(codes[0])) == len(np.unique(codes[1])) == 1
    assert len(np.unique(codes[2])) > 2
    assert not (codes[2] == codes[3]).all()
    assert Mapping.sign(3, heads=2, kv_heads=2).shares_keys


def test_codes_go_into_the_selection():
    mapping = make("layers", bits=32)
    q, k = tensors_of(mapping, np.random.default_rng(6), tokens=40)
    q_codes, k_codes = mapping.query_codes(q), mapping.key_codes(k)
    selected, _ = golden.select(q_codes, k_codes, counts=40, n=5)
    for head in range(4):
        alone, _ = golden.select(q_codes[head:head + 1], k_codes[head:head + 1], counts=40, n=5)
        assert (alone[0] == selected[head]).all()


@given(mappings(most=8), st.data())
def test_choose(mapping, data):
    group = mapping.heads // mapping.kv_heads
    q, k = tensors_of(mapping, np.random.default_rng(7))
    kv = data.draw(st.lists(st.integers(0, mapping.kv_heads - 1), min_size=1, max_size=3))
    each = data.draw(st.integers(1, 3))
    heads = [group * head + data.draw(st.integers(0, group - 1)) for head in kv
             for _ in range(each)]
    chosen = mapping.choose(np.array(heads), kv)
    assert (chosen.heads, chosen.kv_heads) == (len(heads), len(kv))
    assert (chosen.query_codes(q[heads]) == mapping.query_codes(q)[heads]).all()
    keys = mapping.key_codes(k)
    pairs = [mapping.key_heads * head // mapping.heads for head in heads]
    ours = np.repeat(chosen.key_codes(k[kv]), len(heads) // chosen.key_heads, axis=0)
    assert (ours == keys[pairs]).all()
    assert (chosen.kind, chosen.bits, chosen.seed) == (mapping.kind, mapping.bits, mapping.seed)


@pytest.mark.parametrize(("heads", "kv_heads", "message"), [
    ([], [0], "heads must be indices from 0 to 3, not []"),
    ([0], [], "kv_heads must be indices from 0 to 1, not []"),
    ([4], [0], "heads must be indices from 0 to 3, not [4]"),
    ([-1], [0], "heads must be indices from 0 to 3, not [-1]"),
    ([0], [2], "kv_heads must be indices from 0 to 1, not [2]"),
    ([0, 2], [0], "heads [0, 2] use the kv_heads [0, 1], not [0]"),
    ([0, 1, 2], [0, 1], "heads [0, 1, 2] use the kv_heads [0, 0, 1], not [0, 1]"),
])
def test_wrong_choice(heads, kv_heads, message):
    with refuses(message):
        make("layers").choose(heads, kv_heads)


# Random numbers


FROZEN_SIGNS = "-++--+++++--"


FROZEN_NORMAL = [1.0288569, 1.6419201, 1.1467196, -0.9731795, -1.3928001, 0.067196354]


def test_random_is_what_it_says():
    mapping = Mapping.random(70, 12, heads=4, kv_heads=2, seed=9)
    weight = np.random.Generator(np.random.PCG64(9)).standard_normal((2, 70, 12))
    assert (mapping.tensors["weight"] == weight.astype(np.float32)).all()
    # As drawn by NumPy 2.4: another version that draws differently should be noticed.
    frozen = Mapping.random(2, 3, heads=1, kv_heads=1, seed=2024).tensors["weight"]
    assert frozen.ravel().tolist() == np.array(FROZEN_NORMAL, np.float32).tolist()


def test_hadamard_signs_are_frozen():
    signs = Mapping.hadamard(40, 12, heads=2, kv_heads=2, seed=2024).tensors["signs"]
    assert signs.shape == (2, 3, 12)
    raw = np.random.PCG64(2024).random_raw(72)
    assert signs.ravel().tolist() == [-1 if int(number) >> 63 else 1 for number in raw]
    text = "".join("+-"[int(sign) < 0] for sign in signs[0, 0])
    assert text == FROZEN_SIGNS


@pytest.mark.parametrize("kind", ["random", "hadamard"])
def test_seeds(kind):
    one, again, other = (make(kind, bits=64, seed=seed) for seed in (5, 5, 6))
    name = next(iter(one.tensors))
    assert one.seed == 5
    assert (one.tensors[name] == again.tensors[name]).all()
    assert not (one.tensors[name] == other.tensors[name]).all()


@given(st.integers(1, 20), st.integers(1, 70))
def test_transforms_are_orthogonal(head_dim, bits):
    mapping = Mapping.hadamard(bits, head_dim, heads=1, kv_heads=1, seed=head_dim)
    size = 1 << (head_dim - 1).bit_length()
    assert mapping.tensors["signs"].shape == (1, -(-bits // size), head_dim)
    if head_dim == size:
        ((weight, _),) = mapping._layers("q")
        for start in range(0, bits, size):
            block = weight[0, start:start + size].astype(int)
            assert (block @ block.T == size * np.eye(len(block))).all()


def recall(q_codes, k_codes, q, k, counts, n):
    """Share of the n keys of largest q.k that are among the n nearest."""
    found = []
    group = len(q) // len(k)
    selected, _ = golden.select(q_codes, k_codes, counts=counts, n=n)
    for head in range(len(q)):
        scores = q[head].astype(np.float64) @ k[head // group].astype(np.float64).T
        for row, count in enumerate(counts):
            if count > n:
                best = np.argsort(-scores[row, :count], kind="stable")[:n]
                found.append(len(np.intersect1d(best, selected[head, row])) / n)
    return np.mean(found)


@pytest.mark.parametrize("file", ["minilm-gpl3-512.npz", "smollm2-argparse-512.npz"])
@pytest.mark.parametrize("factor", [1, 2])
def test_hadamard_ranks_better_than_gaussian_on_real_heads(file, factor):
    with np.load(DATA / file) as data:
        q, k, causal, qpos = (data[name] for name in ("q", "k", "causal", "qpos"))
    counts = qpos + 1 if causal else np.full(q.shape[1], k.shape[1])
    sizes = {"heads": len(q), "kv_heads": len(k)}
    mean = {}
    for kind in ("random", "hadamard"):
        made = [getattr(Mapping, kind)(factor * q.shape[2], q.shape[2], seed=seed, **sizes)
                for seed in range(3)]
        mean[kind] = np.mean([recall(mapping.query_codes(q), mapping.key_codes(k), q, k, counts,
                                     32) for mapping in made])
    assert mean["hadamard"] > mean["random"] + 0.01


# Files


@given(mapping=mappings())
@settings(max_examples=50)
def test_saved_and_loaded(mapping, tmp_path_factory):
    path = tmp_path_factory.mktemp("mapping") / "codes.safetensors"
    mapping.save(path)
    again = Mapping.load(str(path))
    for name in ("kind", "bits", "head_dim", "heads", "kv_heads", "key_heads", "hidden", "seed",
                 "source"):
        assert getattr(again, name) == getattr(mapping, name)
    assert again.tensors.keys() == mapping.tensors.keys()
    for name, tensor in mapping.tensors.items():
        assert again.tensors[name].dtype == tensor.dtype
        assert (again.tensors[name] == tensor).all()
    q, k = tensors_of(mapping, np.random.default_rng(8))
    assert (again.query_codes(q) == mapping.query_codes(q)).all()
    assert (again.key_codes(k) == mapping.key_codes(k)).all()
    first = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == first


def test_the_documented_schema(tmp_path):
    path = tmp_path / "codes.safetensors"
    make("layers", bits=40, key_heads=4).save(path)
    with safetensors.safe_open(path, "np") as file:
        slices = {name: file.get_slice(name) for name in list(file.keys())}
        shapes = {name: (each.get_dtype(), each.get_shape()) for name, each in slices.items()}
        metadata = file.metadata()
    assert shapes == {
        f"{side}.{i}.{what}": ("F32", [4, out, *([] if what == "bias" else [width])])
        for side in "qk" for i, (width, out) in enumerate([(12, 10), (10, 7), (7, 40)])
        for what in ("weight", "bias")}
    assert list(metadata) == ["nearbit_mapping"]
    assert json.loads(metadata["nearbit_mapping"]) == {
        "version": 1, "kind": "layers", "bits": 40, "head_dim": 12, "heads": 4, "kv_heads": 2,
        "key_heads": 4, "hidden": [10, 7], "seed": None, "source": "a test"}


def test_tensors_that_lie_otherwise_in_memory(tmp_path):
    # The library would write the memory of such an array as it lies.
    rng = np.random.default_rng(10)
    weight, bias = rng.normal(size=(6, 5, 4)).T, rng.normal(size=(5, 4)).T
    mapping = Mapping.learned([(weight, bias)], [(weight, bias)], kv_heads=4)
    mapping.save(tmp_path / "codes.safetensors")
    loaded = Mapping.load(tmp_path / "codes.safetensors")
    assert (loaded.tensors["q.0.weight"] == weight.astype(np.float32)).all()
    assert (loaded.tensors["k.0.bias"] == bias.astype(np.float32)).all()


def test_nobody_changes_the_weights():
    weight, bias = np.ones((1, 2, 3), np.float32), np.ones((1, 2), np.float32)
    mapping = Mapping.learned([(weight, bias)], [(weight, bias)], kv_heads=1)
    weight[...] = -9
    assert (mapping.tensors["q.0.weight"] == 1).all()
    with pytest.raises(ValueError, match="read-only"):
        mapping.tensors["q.0.weight"][...] = 0
    tensors = {name: tensor.copy() for name, tensor in mapping.tensors.items()}
    other = replace(mapping, tensors=tensors)
    tensors["q.0.weight"][...] = -9
    assert (other.tensors["q.0.weight"] == 1).all()


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "codes.safetensors"
    path.write_bytes(b"what was there")

    def full(self, data):
        with self.open("wb") as stream:
            stream.write(data[:20])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with refuses(f"cannot write {path}: No space left on device"):
            make("layers").save(path)
    assert path.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [path]
    with refuses(f"cannot write {tmp_path / 'no' / 'codes'}: No such file or directory"):
        make("sign").save(tmp_path / "no" / "codes")
    with refuses(f"cannot write {tmp_path}: Is a directory"):
        make("sign").save(tmp_path)


def test_saving_through_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "codes.safetensors")
    make("sign").save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert Mapping.load(tmp_path / "codes.safetensors").kind == "sign"


def written(path, fields=None, tensors=None, **changes):
    """A file of a linear mapping with other metadata or tensors."""
    mapping = make("linear")
    mapping.save(path)
    if fields is None:
        with safetensors.safe_open(path, "np") as file:
            fields = json.loads(file.metadata()["nearbit_mapping"])
        fields = {name: value for name, value in {**fields, **changes}.items() if value != "drop"}
    content = {**mapping.tensors, **(tensors or {})}
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(array) for name, array in content.items()
         if array is not None}, path,
        {"nearbit_mapping": fields if isinstance(fields, str) else json.dumps(fields)})
    return path


def test_files_that_are_none(tmp_path):
    path = tmp_path / "codes.safetensors"

    def refuses_file(message):
        return refuses(f"{path}: {message}")

    with refuses_file("no such file"):
        Mapping.load(path)
    with refuses(f"{tmp_path}: a directory, not a file"):
        Mapping.load(tmp_path)
    with refuses("/dev/null: not a regular file"):
        Mapping.load("/dev/null")
    for content in (b"", b"short", b"PK\x03\x04" * 99, b"q = [1, 2, 3]\n"):
        path.write_bytes(content)
        with refuses_file("not a safetensors file"):
            Mapping.load(path)


def test_unreadable_file(tmp_path, monkeypatch):
    path = written(tmp_path / "codes.safetensors")

    def denied(self, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with refuses(f"{path}: Permission denied"):
        Mapping.load(path)


def test_truncated_at_any_place(tmp_path):
    path = tmp_path / "codes.safetensors"
    make("linear", bits=1, head_dim=1, heads=1, kv_heads=1).save(path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with refuses(f"{path}: " + ("not a safetensors file" if size < 9 else
                                    "a safetensors file that is damaged or cut short")):
            Mapping.load(path)
    path.write_bytes(whole + b"\0")
    with refuses(f"{path}: a safetensors file that is damaged or cut short"):
        Mapping.load(path)


@settings(max_examples=300)
@given(st.data())
def test_damage_is_never_a_traceback(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damage") / "codes.safetensors"
    make(data.draw(st.sampled_from(KINDS)), bits=3, head_dim=3).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        Mapping.load(path)
    except MappingError as caught:
        message = str(caught)
    else:
        return
    assert message.startswith(f"{path}: ")


@pytest.mark.parametrize(("fields", "message"), [
    ("[1]", "nearbit_mapping in the metadata must be a JSON object"),
    ("{", "nearbit_mapping in the metadata must be a JSON object"),
    ("[" * 100000, "nearbit_mapping in the metadata must be a JSON object"),
    ("{}", "nearbit_mapping in the metadata has no version"),
])
def test_wrong_metadata(tmp_path, fields, message):
    path = written(tmp_path / "codes.safetensors", fields)
    with refuses(f"{path}: {message}"):
        Mapping.load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_of_something_else(tmp_path, metadata):
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"a": np.ones(3)}, path, metadata)
    with refuses(f"{path}: a safetensors file, but not of a code mapping: its metadata has no "
                 f"nearbit_mapping"):
        Mapping.load(path)


@pytest.mark.parametrize(("changes", "message"), [
    ({"version": 2}, "version 2 of the format, but this Nearbit reads version 1"),
    ({"version": "drop"}, "nearbit_mapping in the metadata has no version"),
    ({"kind": "drop"}, "nearbit_mapping in the metadata has no kind"),
    ({"bits": "drop"}, "nearbit_mapping in the metadata has no bits"),
    ({"key_heads": "drop"}, "nearbit_mapping in the metadata has no key_heads"),
    ({"kind": "lsh"}, "kind must be one of sign, random, hadamard, linear, layers, not 'lsh'"),
    ({"kind": ["sign"]},
     "kind must be one of sign, random, hadamard, linear, layers, not ['sign']"),
    ({"bits": 0}, "bits must be an integer of at least 1, not 0"),
    ({"bits": "12"}, "bits must be an integer of at least 1, not '12'"),
    ({"head_dim": 1.5}, "head_dim must be an integer of at least 1, not 1.5"),
    ({"heads": True}, "heads must be an integer of at least 1, not True"),
    ({"kv_heads": None}, "kv_heads must be an integer of at least 1, not None"),
    ({"kv_heads": 3}, "kv_heads (3) must divide heads (4)"),
    ({"key_heads": 1}, "key_heads must be kv_heads (2) or heads (4), not 1"),
    ({"hidden": 4}, "hidden must be a list of widths, not 4"),
    ({"hidden": [4]}, "hidden must have no widths with kind linear, not 1"),
    ({"kind": "layers"}, "hidden must have 1 or 2 widths with kind layers, not 0"),
    ({"kind": "layers", "hidden": [1, 2, 3]},
     "hidden must have 1 or 2 widths with kind layers, not 3"),
    ({"kind": "layers", "hidden": [0]}, "hidden must be an integer of at least 1, not 0"),
    ({"kind": "layers", "hidden": [6]},
     "tensor q.0.weight must have shape (4, 6, 12), not (4, 12, 12)"),
    ({"seed": 3}, "seed must be absent with kind linear, not 3"),
    ({"kind": "random"}, "key_heads must be kv_heads (2) with kind random, not 4"),
    ({"kind": "random", "key_heads": 2}, "seed must be an integer of at least 0, not None"),
    ({"kind": "random", "key_heads": 2, "seed": -1},
     "seed must be an integer of at least 0, not -1"),
    ({"kind": "random", "key_heads": 2, "seed": 1}, "tensor weight is missing"),
    ({"kind": "hadamard", "key_heads": 2, "seed": 1}, "tensor signs is missing"),
    ({"kind": "sign", "key_heads": 2, "bits": 8},
     "bits must equal head_dim (12) with kind sign, not 8"),
    ({"source": 5}, "source must be text, not 5"),
    ({"head_dim": 16}, "tensor q.0.weight must have shape (4, 12, 16), not (4, 12, 12)"),
    ({"heads": 6, "kv_heads": 2, "key_heads": 6},
     "tensor q.0.weight must have shape (6, 12, 12), not (4, 12, 12)"),
    ({"key_heads": 2}, "tensor k.0.weight must have shape (2, 12, 12), not (4, 12, 12)"),
])
def test_wrong_fields(tmp_path, changes, message):
    path = written(tmp_path / "codes.safetensors", **changes)
    with refuses(f"{path}: {message}"):
        Mapping.load(path)


@pytest.mark.parametrize(("name", "tensor", "message"), [
    ("q.0.weight", None, "tensor q.0.weight is missing"),
    ("k.0.bias", None, "tensor k.0.bias is missing"),
    ("q.0.weight", np.zeros((4, 12, 12)), "tensor q.0.weight must be float32, not float64"),
    ("q.0.bias", np.zeros((4, 12), np.float16), "tensor q.0.bias must be float32, not float16"),
    ("q.0.bias", np.zeros((4, 12), np.int64), "tensor q.0.bias must be float32, not int64"),
    ("k.0.weight", np.zeros((4, 12), np.float32),
     "tensor k.0.weight must have shape (4, 12, 12), not (4, 12)"),
    ("k.0.bias", np.full((4, 12), np.nan, np.float32),
     "tensor k.0.bias must be finite, but has nan at index [0, 0]"),
    ("q.0.weight", np.full((4, 12, 12), -np.inf, np.float32),
     "tensor q.0.weight must be finite, but has -inf at index [0, 0, 0]"),
])
def test_wrong_tensors(tmp_path, name, tensor, message):
    path = written(tmp_path / "codes.safetensors", tensors={name: tensor})
    with refuses(f"{path}: {message}"):
        Mapping.load(path)


def test_signs_that_are_none():
    mapping = make("hadamard")
    for wrong in (0, 2, -128):
        signs = mapping.tensors["signs"].copy()
        signs[1, 0, 3] = wrong
        with refuses(f"tensor signs must hold 1 and -1 only, not {wrong}"):
            replace(mapping, tensors={"signs": signs})
    with refuses("tensor signs must be int8, not int64"):
        replace(mapping, tensors={"signs": mapping.tensors["signs"].astype(np.int64)})


def test_other_tensors_are_left_alone(tmp_path):
    path = written(tmp_path / "codes.safetensors", tensors={"loss": np.ones(3)}, hidden="drop",
                   seed="drop", source="drop", trained_on="prose")
    mapping = Mapping.load(path)
    assert set(mapping.tensors) == {"q.0.weight", "q.0.bias", "k.0.weight", "k.0.bias"}
    assert (mapping.hidden, mapping.seed, mapping.source) == ((), None, "")


def bfloat16_file(path, metadata, names):
    """A safetensors file of bfloat16 ones of shape [1], byte by byte as the format says."""
    header = {"__metadata__": metadata}
    for i, name in enumerate(names):
        header[name] = {"dtype": "BF16", "shape": [1], "data_offsets": [2 * i, 2 * i + 2]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\x80\x3f" * len(names))


def test_dtypes_that_numpy_does_not_have(tmp_path):
    path = tmp_path / "codes.safetensors"
    bfloat16_file(path, {"nearbit_mapping": "{}"}, ["weight"])
    with refuses(f"{path}: tensor weight is BF16, which NumPy does not have; store it as float32"):
        Mapping.load(path)


# Use


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_of_another_model(kind):
    mapping = make(kind)
    remedy = "take the one made for this model and layer"
    for shape in ((4, 5, 16), (6, 5, 12), (4, 12), (1, 4, 5, 12), ()):
        with refuses(f"q has shape {shape}, but the mapping is for [4, queries, 12]; {remedy}"):
            mapping.query_codes(np.ones(shape))
    for shape in ((2, 9, 16), (4, 9, 12), (9, 12)):
        with refuses(f"k has shape {shape}, but the mapping is for [2, tokens, 12]; {remedy}"):
            mapping.key_codes(np.ones(shape))


@pytest.mark.parametrize(("x", "message"), [
    (np.ones((2, 9, 12), complex), "{} must hold real numbers, not complex128"),
    (np.ones((2, 9, 12), bool), "{} must hold real numbers, not bool"),
    (np.full((2, 9, 12), "a"), "{} must hold real numbers, not <U1"),
    (np.full((2, 9, 12), np.nan), "{} must be finite, but has nan at index [0, 0, 0]"),
    (np.full((2, 9, 12), np.inf), "{} must be finite, but has inf at index [0, 0, 0]"),
    (np.full((2, 9, 12), 1e39), "{} must be within the range of float32"),
])
def test_inputs_that_are_no_numbers(x, message):
    mapping = make("linear", heads=2, kv_heads=2)
    with refuses(message.format("q")):
        mapping.query_codes(x)
    with refuses(message.format("k")):
        mapping.key_codes(x)


def test_wrong_weights():
    good = layers(np.random.default_rng(11), 2, [4, 3, 5])
    (w0, b0), (w1, b1) = good

    def learned(q, k=good, kv_heads=2):
        return Mapping.learned(q, k, kv_heads=kv_heads)

    assert learned(good).bits == 5
    with refuses("q and k must have the same number of layers, 1 to 3, not 1 and 2"):
        learned(good[:1])
    with refuses("q and k must have the same number of layers, 1 to 3, not 0 and 0"):
        learned([], [])
    with refuses("q and k must have the same number of layers, 1 to 3, not 4 and 4"):
        learned(good * 2, good * 2)
    with refuses("q.0.weight must be [heads, out, in], not shape (3, 4)"):
        learned([(w0[0], b0), (w1, b1)])
    with refuses("q.1.bias must be [heads, out], not shape (5,)"):
        learned([(w0, b0), (w1, b1[0])])
    with refuses("q.0.weight must be finite, but has nan at index [0, 0, 0]"):
        learned([(w0 * np.nan, b0), (w1, b1)])
    with refuses("q.0.bias must hold real numbers, not complex64"):
        learned([(w0, b0 * 1j), (w1, b1)])
    with refuses("q.1.weight must be within the range of float32"):
        learned([(w0, b0), (w1.astype(float) * 1e40, b1)])
    with refuses("tensor q.1.weight must have shape (2, 5, 3), not (2, 5, 4)"):
        learned([(w0, b0), (np.ones((2, 5, 4)), b1)])
    with refuses("tensor q.0.bias must have shape (2, 3), not (2, 4)"):
        learned([(w0, np.ones((2, 4))), (w1, b1)])
    with refuses("tensor k.1.weight must have shape (2, 5, 3), not (2, 6, 3)"):
        learned(good, [(w0, b0), (np.ones((2, 6, 3)), np.ones((2, 6)))])
    with refuses("key_heads must be kv_heads (1) or heads (2), not 3"):
        learned(good, layers(np.random.default_rng(0), 3, [4, 3, 5]), kv_heads=1)
    with refuses("kv_heads (3) must divide heads (2)"):
        learned(good, kv_heads=3)
    with refuses("bits must be an integer of at least 1, not 0"):
        empty = [(np.ones((2, 0, 4)), np.ones((2, 0)))]
        learned(empty, empty)


@pytest.mark.parametrize("kind", ["random", "hadamard"])
def test_wrong_sizes(kind):
    maker = getattr(Mapping, kind)
    with refuses("bits must be an integer of at least 1, not 0"):
        maker(0, 12, heads=1, kv_heads=1)
    with refuses("head_dim must be an integer of at least 1, not 2.0"):
        maker(8, 2.0, heads=1, kv_heads=1)
    with refuses("heads must be an integer of at least 1, not 0"):
        maker(8, 2, heads=0, kv_heads=1)
    with refuses("kv_heads must be an integer of at least 1, not -1"):
        maker(8, 2, heads=1, kv_heads=-1)
    with refuses("seed must be an integer of at least 0, not -1"):
        maker(8, 2, heads=1, kv_heads=1, seed=-1)
    with refuses("seed must be an integer of at least 0, not None"):
        maker(8, 2, heads=1, kv_heads=1, seed=None)


# The published checkpoints


PUBLISHED = [128, 128, 128, 32]


def state_dict(rng, model_layers=2, heads=4, widths=PUBLISHED, dtype=np.float32):
    """The names and shapes of the published state dict: torch.nn.Linear in torch.nn.Sequential."""
    state = {}
    for number in range(model_layers):
        for side in "kq":
            for head in range(heads):
                for i, (weight, bias) in enumerate(layers(rng, 1, widths)):
                    prefix = f"{number}.learning_to_hash_transformation_{side}.{head}.{2 * i}"
                    state[f"{prefix}.weight"] = weight[0].astype(dtype)
                    state[f"{prefix}.bias"] = bias[0].astype(dtype)
    return state


def published_bits(state, number, side, head, x):
    """What the published module computes of rows x, with its weights as columns."""
    depth = sum(name.startswith(f"{number}.learning_to_hash_transformation_q.0.") and
                name.endswith(".weight") for name in state)
    for i in range(depth):
        prefix = f"{number}.learning_to_hash_transformation_{side}.{head}.{2 * i}"
        if i:
            x = x * (1 / (1 + np.exp(-x)))
        x = x @ state[f"{prefix}.weight"].T.astype(np.float64) + state[f"{prefix}.bias"]
    assert np.abs(x).min() > 1e-9
    return x > 0


def save_state(path, state):
    if path.suffix == ".npz":
        np.savez(path, **state)
    else:
        safetensors.numpy.save_file(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("widths", [PUBLISHED, [128, 128, 64], [64, 32]])
def test_import_published(tmp_path, suffix, widths):
    rng = np.random.default_rng(12)
    state = state_dict(rng, widths=widths)
    path = save_state(tmp_path / f"patch{suffix}", state)
    mapping = import_published(path, 1, kv_heads=2)
    assert mapping.kind == ("layers" if len(widths) > 2 else "linear")
    assert (mapping.head_dim, mapping.bits) == (widths[0], widths[-1])
    assert (mapping.heads, mapping.kv_heads, mapping.key_heads) == (4, 2, 4)
    assert mapping.source == f"layer 1 of patch{suffix}"
    q, k = rng.normal(size=(4, 6, widths[0])), rng.normal(size=(2, 7, widths[0]))
    q_codes, k_codes = mapping.query_codes(q), mapping.key_codes(k)
    for head in range(4):
        for side, codes, x in (("q", q_codes, q[head]), ("k", k_codes, k[head // 2])):
            bits = published_bits(state, 1, side, head, x)
            assert quantize.codes_to_ints(codes[head]) == [
                sum(1 << j for j in np.flatnonzero(row).tolist()) for row in bits]
    mapping.save(tmp_path / "codes.safetensors")
    loaded = Mapping.load(tmp_path / "codes.safetensors")
    assert (loaded.key_codes(k) == k_codes).all()
    assert loaded.source == mapping.source


def test_half_precision_is_taken_as_it_is(tmp_path):
    state = state_dict(np.random.default_rng(13), model_layers=1, dtype=np.float16)
    mapping = import_published(save_state(tmp_path / "half.safetensors", state), 0, kv_heads=4)
    name = "0.learning_to_hash_transformation_k.3.4.weight"
    assert (mapping.tensors["k.2.weight"][3] == state[name]).all()


def test_heads_and_layers_of_two_digits(tmp_path):
    state = state_dict(np.random.default_rng(14), model_layers=12, heads=11, widths=[2, 3])
    path = save_state(tmp_path / "many.npz", state)
    for number in (1, 10, 11):
        mapping = import_published(path, number, kv_heads=1)
        name = f"{number}.learning_to_hash_transformation_q.10.0.weight"
        assert (mapping.tensors["q.0.weight"][10] == state[name]).all()


def test_ranking_of_the_published_kernel():
    # Published kernels keep 32-bit codes in 64-bit words and rank by popcount(~(q ^ k)), the
    # largest first: 32 more than the bits that agree, for the upper halves always do. The
    # published module ranks by the inner product of signs. Both are ours, turned around.
    mapping = make("layers", bits=32, head_dim=16, heads=1, kv_heads=1)
    q, k = tensors_of(mapping, np.random.default_rng(15), queries=20, tokens=300)
    q_codes, k_codes = mapping.query_codes(q)[0], mapping.key_codes(k)[0]
    selected, distances = golden.select(q_codes[None], k_codes[None], counts=300, n=300)
    for row, code in enumerate(quantize.codes_to_ints(q_codes)):
        keys = quantize.codes_to_ints(k_codes)
        matches = [bin(~(code ^ key) & 2**64 - 1).count("1") for key in keys]
        products = [sum((1 if code >> j & 1 else -1) * (1 if key >> j & 1 else -1)
                        for j in range(32)) for key in keys]
        distance = np.empty(300, int)
        distance[selected[0, row]] = distances[0, row]
        assert matches == [32 + 32 - int(h) for h in distance]
        assert products == [32 - 2 * int(h) for h in distance]
        for score in (matches, products):
            # Among equals the later key, which the published sort leaves open.
            order = np.lexsort((-np.arange(300), -np.array(score))).tolist()
            assert order == selected[0, row].tolist()


def test_published_files_that_are_none(tmp_path):
    def attempt(name, content, message, number=0, kv_heads=2):
        path = tmp_path / name
        if isinstance(content, dict):
            save_state(path, content)
        elif content is not None:
            path.write_bytes(content)
        with refuses(f"{path}: {message}"):
            import_published(path, number, kv_heads=kv_heads)

    attempt("patch.pkl", b"", "not one of .safetensors, .npz, .pt, .pth by its name")
    for name in ("no.safetensors", "no.npz", "no.pt"):
        attempt(name, None, "no such file")
    attempt("a.safetensors", b"zip", "not a safetensors file")
    attempt("a.npz", b"zip", "not an .npz file, or one that is cut short")

    good = state_dict(np.random.default_rng(16), widths=[4, 3, 2])
    prefix = "0.learning_to_hash_transformation_"
    for kind in (".safetensors", ".npz"):
        def altered(message, name, tensor=None, kind=kind, **options):
            state = {**good, name: tensor}
            attempt(f"b{kind}", {key: x for key, x in state.items() if x is not None}, message,
                    **options)

        attempt(f"b{kind}", {"weight": np.ones(3)}, f"not a checkpoint of HashAttention, which has "
                f"tensors such as {prefix}q.0.0.weight")
        attempt(f"b{kind}", good, "no layer 2: the layers are 0 to 1", number=2)
        attempt(f"b{kind}", good, "no layer -1: the layers are 0 to 1", number=-1)
        attempt(f"b{kind}", good, "kv_heads (3) must divide heads (4)", kv_heads=3)
        altered(f"tensor {prefix}q.2.0.weight is missing", f"{prefix}q.2.0.weight")
        altered(f"tensor {prefix}k.3.2.bias is missing", f"{prefix}k.3.2.bias")
        altered(f"tensor {prefix}q.4.0.weight is missing", f"{prefix}k.4.0.weight",
                np.ones((3, 4)))
        altered(f"tensor {prefix}k.0.2.bias must hold floats, not int64", f"{prefix}k.0.2.bias",
                np.ones(2, np.int64))
        altered(f"tensor {prefix}q.0.0.weight must have the same shape in every head, not (3, 4) "
                f"and (3, 5)", f"{prefix}q.1.0.weight", np.ones((3, 5)))
        altered("q.1.weight must be finite, but has nan at index [1, 0, 0]",
                f"{prefix}q.1.2.weight", np.full((2, 3), np.nan))
    wrong = {name: x[..., :2] if name.endswith("k.0.2.weight") or ".2.weight" in name else x
             for name, x in good.items()}
    attempt("c.npz", wrong, "tensor q.1.weight must have shape (4, 2, 3), not (4, 2, 2)")
    deep = state_dict(np.random.default_rng(17), widths=[4, 3, 3, 3, 2])
    attempt("d.npz", deep, "q and k must have the same number of layers, 1 to 3, not 4 and 4")
    flat = {name: x.ravel() for name, x in good.items()}
    attempt("e.npz", flat, "q.0.weight must be [heads, out, in], not shape (4, 12)")


def test_published_in_bfloat16(tmp_path):
    path = tmp_path / "patch.safetensors"
    name = "0.learning_to_hash_transformation_q.0.0.weight"
    bfloat16_file(path, {}, [name])
    with refuses(f"{path}: tensor {name} is BF16, which NumPy does not have; store it as float32"):
        import_published(path, 0, kv_heads=1)


def test_damaged_npz(tmp_path):
    path = tmp_path / "patch.npz"
    name = "0.learning_to_hash_transformation_q.0.0.weight"
    np.savez(path, **{name: np.array([None, 1], object)})
    with refuses(f"{path}: tensor {name} holds Python objects, not numbers"):
        import_published(path, 0, kv_heads=1)
    save_state(path, {name: np.ones((30, 30))})
    content = bytearray(path.read_bytes())
    content[3000] ^= 255
    path.write_bytes(content)
    with refuses(f"{path}: tensor {name} is damaged or cut short"):
        import_published(path, 0, kv_heads=1)
    with np.load(save_state(path, {name: np.ones((30, 30))})) as archive:
        assert archive.files == [name]
    with zipfile.ZipFile(path) as archive:
        member = archive.read(f"{name}.npy")
    for wrong in ({f"{name}.npy": member + b"more"}, {f"{name}.npy": member[:-1]},
                  {name: b"no suffix"}):
        with zipfile.ZipFile(path, "w") as archive:
            for key, content in wrong.items():
                archive.writestr(key, content)
        with refuses(f"{path}: tensor {name} is damaged or cut short"):
            import_published(path, 0, kv_heads=1)


class FakeTensor:
    """As much of a bfloat16 tensor of PyTorch as there is to call."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    def float(self):
        return SimpleNamespace(numpy=lambda: self.array.astype(np.float32))


def test_files_of_pytorch(tmp_path, monkeypatch):
    path = tmp_path / "patch.pt"
    path.write_bytes(b"pickle")
    monkeypatch.setitem(sys.modules, "torch", None)
    with refuses(f"{path}: a file of PyTorch, which is not installed; docs/codes.md has the two "
                 f"lines that turn it into .safetensors elsewhere"):
        import_published(path, 0, kv_heads=2)

    state = state_dict(np.random.default_rng(18), widths=[4, 3, 2])
    results = [{name: FakeTensor(x) for name, x in state.items()}, [1, 2], {1: 2}, {"0.loss": 3}]

    def load(file, *, map_location, weights_only):
        assert (file, map_location, weights_only) == (path, "cpu", True)
        if not results:
            raise RuntimeError("a long story")
        return results.pop(0)

    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(load=load, Tensor=FakeTensor))
    mapping = import_published(path, 1, kv_heads=2)
    other = import_published(save_state(tmp_path / "patch.npz", state), 1, kv_heads=2)
    for name, tensor in other.tensors.items():
        assert (mapping.tensors[name] == tensor).all()
    for _ in range(2):
        with refuses(f"{path}: not a state dict, which has a name for each tensor"):
            import_published(path, 0, kv_heads=2)
    with refuses(f"{path}: 0.loss must be a tensor, not int"):
        import_published(path, 0, kv_heads=2)
    with refuses(f"{path}: not a state dict that PyTorch loads with weights_only=True"):
        import_published(path, 0, kv_heads=2)


# The budget


@pytest.mark.parametrize(("tokens", "fraction", "expected"), [
    (32768, 0.25, 8192), (1024, 0.125, 128), (1000, 1 / 3, 333), (7, 1, 7), (7, 1.0, 7),
    (100, 0.29, 28), # 28.999999999999996 in float64, as published code computes it
    (8, 0.125, 1), (7, 0.125, 1), (1, 0.001, 1), # published code selects none in the last two
])
def test_heavy_budget(tokens, fraction, expected):
    assert heavy_budget(tokens, fraction) == expected
    assert type(heavy_budget(np.int64(tokens), np.float32(1))) is int


@pytest.mark.parametrize(("tokens", "fraction", "message"), [
    (0, 0.5, "tokens must be at least 1, not 0"),
    (5, 0, "fraction must be greater than 0 and at most 1, not 0"),
    (5, -0.5, "fraction must be greater than 0 and at most 1, not -0.5"),
    (5, 1.5, "fraction must be greater than 0 and at most 1, not 1.5"),
    (5, math.nan, "fraction must be greater than 0 and at most 1, not nan"),
])
def test_wrong_budget(tokens, fraction, message):
    with refuses(message, ValueError):
        heavy_budget(tokens, fraction)
