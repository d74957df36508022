import pickle
import zipfile

import numpy as np
import pytest

from nearbit.tensors import TensorError, Tensors
from nearbit_model import quantize


def test_load(write):
    path = write(qpos=[19, 0, 7], causal=True, temperature=np.array([0.1, 0.2]), note="text")
    tensors = Tensors.load(path)
    assert (tensors.tokens, tensors.head_dim, tensors.value_dim) == (20, 8, 8)
    assert tensors.qpos is not None
    assert tensors.qpos.tolist() == [19, 0, 7]
    assert tensors.causal
    assert tensors.temperature.tolist() == [0.1, 0.2]
    assert tensors.heads.tolist() == [0, 1]
    assert tensors.queries.tolist() == [0, 1, 2]


def test_defaults(write):
    tensors = Tensors.load(write())
    assert not tensors.causal
    assert tensors.temperature == pytest.approx(quantize.temperature(tensors.q, tensors.k))


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


def test_select_keeps_groups(write):
    tensors = Tensors.load(write(sizes={"heads": 6, "kv_heads": 2}))
    chosen = tensors.select(np.array([3, 4, 5]), np.array([2]))
    assert chosen.q.shape == (3, 1, 8)
    assert np.array_equal(chosen.q[:, 0], tensors.q[3:, 2])
    assert np.array_equal(chosen.k, tensors.k[1:])
    assert np.array_equal(chosen.v, tensors.v[1:])
    assert np.array_equal(chosen.temperature, tensors.temperature[3:])
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
    ({"k": np.ones((1, 2, 20, 8))},
     "k must have 3 axes [kv heads, tokens, head_dim], not 4 (its shape is 1 x 2 x 20 x 8)"),
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
    ({"temperature": [0.1]},
     "temperature must be one float for each of the 2 heads, not an array of float64 of shape 1"),
    ({"temperature": [0.1, -0.5]},
     "temperature[1] is -0.5; it must be finite and not negative"),
    ({"temperature": [np.nan, 0.1]},
     "temperature[0] is nan; it must be finite and not negative"),
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
