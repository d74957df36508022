import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from nearbit.tensors import TensorError, Tensors
from nearbit_model import quantize


def test_load(write):
    path = write(qpos=[19, 0, 7], causal=True, logit_scale=np.array([0.1, 0.2]), note="text")
    tensors = Tensors.load(path)
    assert (tensors.tokens, tensors.head_dim, tensors.value_dim) == (20, 8, 8)
    assert tensors.qpos is not None
    assert tensors.qpos.tolist() == [19, 0, 7]
    assert tensors.causal
    assert tensors.logit_scale.tolist() == [0.1, 0.2]
    assert tensors.heads.tolist() == [0, 1]
    assert tensors.queries.tolist() == [0, 1, 2]


def test_defaults(write):
    tensors = Tensors.load(write())
    assert not tensors.causal
    assert tensors.logit_scale == pytest.approx(quantize.logit_scale(tensors.q, tensors.k))


def test_positions_do_not_matter_unless_causal(write):
    assert Tensors.load(write(qpos=[1, 2, 3])).qpos is None
    assert Tensors.load(write(qpos=[1, 2, 99], causal=False)).qpos is None


def test_queries_without_positions_are_the_last_tokens(write):
    tensors = Tensors.load(write(causal=True))
    assert tensors.qpos is not None
    assert tensors.qpos.tolist() == [17, 18, 19]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_any_float(write, tensors, dtype):
    arrays = {name: array.astype(dtype) for name, array in tensors().items()}
    assert Tensors.load(write(**arrays)).q.dtype == dtype


@pytest.mark.parametrize("change", [
    lambda x: x.astype(x.dtype.newbyteorder(">")), np.asfortranarray,
    lambda x: x.astype(np.float64), lambda x: x.astype(np.longdouble),
])
def test_any_order_and_width(write, tensors, change):
    arrays = tensors()
    loaded = Tensors.load(write(**{name: change(array) for name, array in arrays.items()}))
    for name, array in arrays.items():
        found = getattr(loaded, name)
        assert np.array_equal(found, array)
        assert found.dtype.isnative
        assert found.flags.c_contiguous
        assert found.dtype.itemsize <= 8


def bfloat16(x):
    """Upper halves of float32, and what they are."""
    halves = (x.view(np.uint32) >> 16).astype("<u2")
    return halves, (halves.astype(np.uint32) << 16).view(np.float32)


def test_bfloat16(write, tensors):
    """NumPy saves it as two bytes of no kind; those of one byte could be anything."""
    pairs = {name: bfloat16(array) for name, array in tensors().items()}
    loaded = Tensors.load(write(**{name: halves.view("V2") for name, (halves, _) in pairs.items()}))
    for name, (_, expected) in pairs.items():
        assert np.array_equal(getattr(loaded, name), expected)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
def test_integers_are_numbers(write, tensors, dtype):
    arrays = {name: np.sign(array).astype(dtype) for name, array in tensors().items()}
    loaded = Tensors.load(write(**arrays))
    for name, array in arrays.items():
        assert getattr(loaded, name).dtype == np.float64
        assert np.array_equal(getattr(loaded, name), array)
    assert loaded.notes == ("the integers of q, k and v are taken as numbers, without a scale",)


def test_smallest_integers(write):
    v = np.full((2, 20, 8), -128, np.int8)
    assert Tensors.load(write(v=v)).v.min() == -128


def test_what_is_not_used(write):
    loaded = Tensors.load(write(mask=1, is_causal=True, qpos=[0, 1, 2], layer=[0], head=[0]))
    assert loaded.notes == (
        ("qpos is not used without causal: every query sees all keys; if each sees those up to its "
         "position, add causal = true"),
        "not used: mask, is_causal (if it is causal, rename it)")
    for causal in (False, True):
        assert Tensors.load(write(qpos=[0, 1, 2], causal=causal)).notes == ()
    many = Tensors.load(write(**{f"x{index}": 1 for index in range(9)}))
    origin = dict.fromkeys(("layer", "head", "layer_head", "source", "model", "o_exact"), 1)
    assert Tensors.load(write(**origin)).notes == ()
    assert many.notes == ("not used: x0, x1, x2, x3, x4, x5, x6, x7, ...",)


def safetensors_file(path, tensors):
    """Write a file byte by byte as the format says: for each name dtype, shape and bytes."""
    header, data = {}, b""
    for name, (dtype, shape, octets) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape),
                        "data_offsets": [len(data), len(data) + len(octets)]}
        data += octets
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def floats(tensors):
    return {name: ("F32", array.shape, array.tobytes()) for name, array in tensors.items()}


@pytest.mark.parametrize("flag", [
    ("BOOL", [], b"\1"), ("BOOL", [1], b"\1"), ("U8", [], b"\1"), ("I64", [1], b"\1" + bytes(7)),
])
@pytest.mark.parametrize("name", ["heads.safetensors", "heads"])
def test_safetensors(tmp_path, tensors, flag, name):
    arrays = tensors()
    loaded = Tensors.load(safetensors_file(tmp_path / name, {
        **floats(arrays), "causal": flag, "other": ("F8_E4M3", [1], b"0")}))
    assert loaded.causal
    assert loaded.notes == ("not used: other",)
    for key, array in arrays.items():
        assert np.array_equal(getattr(loaded, key), array)


def test_safetensors_of_bfloat16(tmp_path, tensors):
    pairs = {name: bfloat16(array) for name, array in tensors().items()}
    loaded = Tensors.load(safetensors_file(tmp_path / "heads.safetensors", {
        name: ("BF16", halves.shape, halves.tobytes()) for name, (halves, _) in pairs.items()}))
    for name, (_, expected) in pairs.items():
        assert np.array_equal(getattr(loaded, name), expected)


def test_safetensors_refused(tmp_path, tensors):
    path = tmp_path / "heads.safetensors"

    def message():
        with pytest.raises(TensorError) as caught:
            Tensors.load(path)
        return str(caught.value).removeprefix(f"{path}: ")

    whole = safetensors_file(path, floats(tensors())).read_bytes()
    path.write_bytes(whole[:-1])
    assert message() == "a safetensors file that is damaged or cut short"
    path.write_bytes(whole[:100])
    assert message() == "a safetensors file that is damaged or cut short"
    path.write_bytes(b"text")
    assert message() == "not a safetensors file, or one that is cut short"
    safetensors_file(path, {**floats(tensors()), "q": ("F8_E4M3", [2, 3, 8], bytes(48))})
    assert message() == ("a safetensors file with elements of a kind that NumPy does not have; "
                         "store them as float32")
    arrays = floats(tensors())
    safetensors_file(path, {"Q": arrays["q"], "k": arrays["k"], "v": arrays["v"]})
    assert message() == "array q [heads, queries, head_dim] is missing; rename Q to q"


def test_twice_in_an_archive(write):
    path = write()
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("q.npy", archive.read("q.npy"))
    with pytest.raises(TensorError) as caught:
        Tensors.load(path)
    assert str(caught.value) == f"{path}: array q is in the file twice"


def test_more_than_fits_in_memory(write, monkeypatch):
    """By the sizes in the archive, before anything is unpacked."""
    path = write()
    monkeypatch.setattr("nearbit.tensors._memory", lambda: 500)
    with pytest.raises(TensorError) as caught:
        Tensors.load(path)
    assert str(caught.value) == f"{path}: array k does not fit in memory"


def test_shape_that_no_memory_holds(write):
    """A header promises far more than there is."""
    path = write(k=None)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (99999, 99999, 9999)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("k.npy", header.getvalue() + bytes(100))
    with pytest.raises(TensorError, match=r"array k (is damaged or cut short|does not fit in)"):
        Tensors.load(path)


def test_select_keeps_groups(write):
    tensors = Tensors.load(write(sizes={"heads": 6, "kv_heads": 2}))
    chosen = tensors.select(np.array([3, 4, 5]), np.array([2]))
    assert chosen.q.shape == (3, 1, 8)
    assert np.array_equal(chosen.q[:, 0], tensors.q[3:, 2])
    assert np.array_equal(chosen.k, tensors.k[1:])
    assert np.array_equal(chosen.v, tensors.v[1:])
    assert np.array_equal(chosen.logit_scale, tensors.logit_scale[3:])
    assert (chosen.heads.tolist(), chosen.queries.tolist()) == ([3, 4, 5], [2])
    assert chosen.select(np.array([1])).heads.tolist() == [4]


def test_select_parts_of_groups(write):
    tensors = Tensors.load(write(sizes={"heads": 6, "kv_heads": 2}))
    uneven = tensors.select(np.array([0, 2, 4]))
    assert np.array_equal(uneven.k, tensors.k[[0, 0, 1]])
    even = tensors.select(np.array([0, 2, 4, 5]))
    assert np.array_equal(even.k, tensors.k)


def big(value, shape=(2, 3, 8), dtype=np.float64):
    array = np.ones(shape, dtype)
    array[1, 2, 3] = value
    return array


@pytest.mark.parametrize(("arrays", "message"), [
    ({"q": None}, "array q [heads, queries, head_dim] is missing; the file has k, v"),
    ({"k": None, "key": np.ones(1)},
     "array k [kv heads, tokens, head_dim] is missing; rename key to k"),
    ({"v": None, "V": np.ones(1)},
     "array v [kv heads, tokens, value_dim] is missing; rename V to v"),
    ({"q": None, "querys": np.ones(1)},
     "array q [heads, queries, head_dim] is missing; rename querys to q"),
    ({"q": np.ones((3, 8))},
     "q must have 3 axes [heads, queries, head_dim], not 2 (its shape is 3 x 8)"),
    ({"k": np.ones((2, 2, 20, 8))},
     "k must have 3 axes [kv heads, tokens, head_dim], not 4 (its shape is 2 x 2 x 20 x 8)"),
    ({"v": 1.0},
     "v must have 3 axes [kv heads, tokens, value_dim], not 0 (it is a single number)"),
    ({"q": np.ones((2, 3, 8), np.uint8)},
     ("q is of uint8, which has no signs; store codes as -1 and 1, and numbers as floats")),
    ({"v": np.ones((2, 20, 8), bool)},
     ("v is of bool, which has no signs; store codes as -1 and 1, and numbers as floats")),
    ({"k": np.resize(np.array([0, 1], np.int8), (2, 20, 8))},
     "k holds only 0 and 1; store codes as -1 and 1, and numbers as floats"),
    ({"v": np.full((2, 20, 8), 2 ** 53 + 1)},
     "v has integers beyond 2**53, which floats do not all have"),
    ({"q": np.zeros((2, 3, 8), "V1")}, (
        "q has elements of a kind that NumPy does not have (|V1); store them as float32")),
    ({"causal": None, "Causal": True}, "array Causal is not known; rename it to causal"),
    ({"q": np.ones((2, 3, 8), np.complex64)}, "q must be an array of floats, not of complex64"),
    ({"v": np.full((2, 20, 8), "x")}, "v must be an array of floats, not of <U1"),
    ({"q": np.ones((2, 0, 8))}, "q is empty (its shape is 2 x 0 x 8)"),
    ({"k": np.ones((2, 0, 8)), "v": np.ones((2, 0, 8))}, "k is empty (its shape is 2 x 0 x 8)"),
    ({"q": big(np.nan)}, "q[1, 2, 3] is nan; every element must be finite"),
    ({"k": big(-np.inf, (2, 20, 8), np.float16)},
     "k[1, 2, 3] is -inf; every element must be finite"),
    ({"v": big(np.inf, (2, 20, 8))}, "v[1, 2, 3] is inf; every element must be finite"),
    ({"v": big(1e39, (2, 20, 8))}, "v has elements beyond the range of float32"),
    ({"k": np.ones((2, 20, 9))}, "q has head_dim 8 and k has 9; they must be equal"),
    ({"v": np.ones((2, 19, 8))},
     "v has 2 heads of 19 tokens and k has 2 of 20; they must be equal"),
    ({"v": np.ones((1, 20, 8))},
     "v has 1 heads of 20 tokens and k has 2 of 20; they must be equal"),
    ({"v": np.full((2, 20, 8), 1e-100)}, (
        "v[0] is below the range of float32: its largest element is 1e-100; multiply v by a "
        "number")),
    ({"q": np.ones((3, 3, 8))},
     "q has 3 heads, which do not split evenly among the 2 heads of k and v"),
    ({"causal": [True, False]},
     "causal must be one boolean, not an array of bool of shape 2"),
    ({"causal": 2}, "causal must be one boolean, not 2 (int64)"),
    ({"causal": "yes"}, "causal must be one boolean, not yes (<U3)"),
    ({"causal": True, "qpos": [0, 1]},
     "qpos must have one position for each of the 3 queries, but its shape is 2"),
    ({"causal": True, "qpos": [0.0, 1.0, 2.0]}, "qpos must be integers, not float64"),
    ({"causal": True, "qpos": [0, 20, 2]}, "qpos[1] is 20, but the keys are 0 to 19"),
    ({"causal": True, "qpos": [0, 1, -1]}, "qpos[2] is -1, but the keys are 0 to 19"),
    ({"causal": True, "q": np.ones((2, 21, 8))},
     "qpos is missing, and 21 queries cannot be the last of 20 tokens; add qpos, their positions"),
    ({"logit_scale": [0.1]},
     "logit_scale must be one float for each of the 2 heads, not an array of float64 of shape 1"),
    ({"logit_scale": [0.1, -0.5]},
     "logit_scale[1] is -0.5; it must be finite and not negative"),
    ({"logit_scale": [np.nan, 0.1]},
     "logit_scale[0] is nan; it must be finite and not negative"),
])
def test_refused(write, arrays, message):
    path = write(**arrays)
    with pytest.raises(TensorError) as caught:
        Tensors.load(path)
    assert str(caught.value) == f"{path}: {message}"


def test_objects_are_refused(tmp_path, tensors):
    path = tmp_path / "objects.npz"
    np.savez(path, **{**tensors(), "k": np.array([[["a", None]]], dtype=object)})
    with pytest.raises(TensorError) as caught:
        Tensors.load(path)
    assert str(caught.value) == f"{path}: array k holds Python objects, not numbers"


NOT_NPZ = "not an .npz file, or one that is cut short"


@pytest.mark.parametrize("content", [
    b"", b"q", b"PK\x03\x04", b"q = 1\n" * 100, pickle.dumps([1, 2]),
])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(TensorError) as caught:
        Tensors.load(path)
    assert str(caught.value) == f"{path}: {NOT_NPZ}"


def test_one_array_is_refused(tmp_path):
    path = tmp_path / "q.npy"
    np.save(path, np.ones((2, 3, 8)))
    with pytest.raises(TensorError) as caught:
        Tensors.load(path)
    assert str(caught.value) == f"{path}: {NOT_NPZ}"


def test_other_archives_are_refused(tmp_path):
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in "qkv":
            archive.writestr(f"{name}.npy", "text")
    with pytest.raises(TensorError) as caught:
        Tensors.load(path)
    assert str(caught.value) == f"{path}: array q is damaged or cut short"


def test_directory_is_refused(tmp_path):
    with pytest.raises(TensorError) as caught:
        Tensors.load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: a directory, not an .npz file"


def test_nothing_is_refused(tmp_path):
    path = tmp_path / "nothing.npz"
    with pytest.raises(TensorError) as caught:
        Tensors.load(path)
    assert str(caught.value) == f"{path}: no such file"


@pytest.mark.parametrize("compressed", [False, True])
def test_cut_or_damaged_anywhere(tmp_path, tensors, compressed):
    """Wherever a file is cut, or a byte of it is turned over, it is refused or read unharmed."""
    path = tmp_path / "heads.npz"
    arrays = tensors()
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in rng.integers(0, len(content), 40):
        path.write_bytes(content[:length])
        with pytest.raises(TensorError, match=NOT_NPZ):
            Tensors.load(path)
    messages = []
    for position in rng.integers(0, len(content), 200):
        damaged = bytearray(content)
        damaged[position] ^= 0xff
        path.write_bytes(damaged)
        try:
            loaded = Tensors.load(path)
        except TensorError as error:
            messages.append(str(error))
        else:
            for name, array in arrays.items():
                assert np.array_equal(getattr(loaded, name), array)
    assert len(messages) > 100
    assert all(message.startswith(f"{path}: ") for message in messages)
    assert not any("\n" in message for message in messages)


def test_order_of_axes(write, tensors):
    """More heads than tokens are questioned, as note or with the error."""
    advice = "if its axes are [tokens, heads, head_dim], swap the first two of q, k and v"
    def turned(queries):
        return {name: array.transpose(1, 0, 2)
                for name, array in tensors(heads=3, queries=queries).items()}

    loaded = Tensors.load(write(**turned(20)))
    assert loaded.notes == (f"k is read as 20 heads of 3 tokens; {advice}",)
    with pytest.raises(TensorError) as caught:
        Tensors.check(**turned(9))
    assert str(caught.value) == ("q has 9 heads, which do not split evenly among the 20 heads of k "
                                 f"and v; {advice}")
    assert Tensors.load(write(sizes={"heads": 2, "tokens": 2})).notes == ()
