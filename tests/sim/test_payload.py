# amaranth: UnusedElaboratable=no
import json

import numpy as np
import pytest
from amaranth.hdl import signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from hypothesis import given
from hypothesis import strategies as st

from nearbit_model.transfers.payload import Array, Bits, Port, Struct
from nearbit_sim.payload import describe, ports


FIELDS = {"a": signed(4), "b": data.ArrayLayout(data.StructLayout({"x": range(3), "y": 7}), 3),
          "none": 0, "c": 70, "d": 1}
LAYOUT = data.StructLayout(FIELDS)


def plain_shapes():
    return st.builds(lambda width, sign: (signed if sign else unsigned)(width),
                     st.integers(1, 64), st.booleans())


shapes = st.recursive(
    plain_shapes(),
    lambda inner: st.builds(data.ArrayLayout, inner, st.integers(1, 4))
    | st.builds(data.StructLayout, st.dictionaries(st.sampled_from("pqrs"), inner, min_size=1)),
    max_leaves=6)


def values(shape):
    """Values of a shape of Amaranth, as Amaranth takes them."""
    if isinstance(shape, data.ArrayLayout):
        return st.lists(values(shape.elem_shape), min_size=shape.length, max_size=shape.length)
    if isinstance(shape, data.StructLayout):
        return st.fixed_dictionaries({name: values(field.shape) for name, field in shape})
    least = -(1 << (shape.width - 1)) if shape.signed else 0
    return st.integers(least, least + (1 << shape.width) - 1)


def amaranth_bits(shape, value):
    """What Amaranth makes of the same value: the independent oracle."""
    if isinstance(shape, data.Layout):
        return shape.const(value).as_value().value
    return value & ((1 << shape.width) - 1)


@given(st.data())
def test_one_value(draw):
    shape = draw.draw(shapes)
    value = draw.draw(values(shape))
    described = describe(shape)
    assert described.pack(value) == amaranth_bits(shape, value)
    assert described.unpack(described.pack(value)) == value
    assert described.unpack(described.pack(value) | (1 << described.width)) == value


def transpose(shape, rows):
    """Many values as arrays."""
    if isinstance(shape, data.ArrayLayout):
        columns = [transpose(shape.elem_shape, [row[index] for row in rows])
                   for index in range(shape.length)]
        return stack(columns)
    if isinstance(shape, data.StructLayout):
        return {name: transpose(field.shape, [row[name] for row in rows])
                for name, field in shape}
    return np.array(rows, dtype=np.int64 if shape.signed or shape.width < 64 else np.uint64)


def stack(parts):
    if isinstance(parts[0], dict):
        return {name: stack([part[name] for part in parts]) for name in parts[0]}
    return np.stack(parts, axis=1)


@given(st.data())
def test_many_values(draw):
    shape = draw.draw(shapes)
    rows = draw.draw(st.lists(values(shape), min_size=1, max_size=5))
    port = Port("i", True, describe(shape))
    words = port.pack(transpose(shape, rows), len(rows))
    for row, packed in zip(rows, words, strict=True):
        assert int.from_bytes(packed.tobytes(), "little") == amaranth_bits(shape, row)
    again = port.unpack(words)
    np.testing.assert_equal(again, transpose(shape, rows))


def test_wide_numbers():
    port = Port("i", True, describe(LAYOUT))
    wide = np.array([[2**64 - 1, 0], [5, 63]], dtype=np.uint64)
    words = port.pack({"a": np.array([-8, 7]), "b": {"x": np.ones((2, 3), int),
                                                     "y": np.full((2, 3), 127)},
                       "none": np.zeros(2, int), "c": wide, "d": np.array([True, False])}, 2)
    assert words.shape == (2, 2)
    np.testing.assert_array_equal(port.unpack(words)["c"], wide)
    one = port.shape.unpack(int.from_bytes(words[1].tobytes(), "little"))
    assert one == {"a": 7, "b": [{"x": 1, "y": 127}] * 3, "none": 0, "c": 5 + (63 << 64), "d": 0}


@pytest.mark.parametrize(("value", "message"), [
    (8, "8 is outside -8 to 7"), (-9, "-9 is outside -8 to 7")])
def test_out_of_range(value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Bits(4, True).pack(value)
    with pytest.raises(ValueError, match=f"^i: {message}$"):
        Port("i", True, Bits(4, True)).pack(np.array([0, value]), 2)


@pytest.mark.parametrize(("value", "message"), [
    ({"a": 1}, r"\{'a': 1\} is not a dictionary with the fields a, b"),
    (5, "5 is not a dictionary with the fields a, b"),
    ({"a": 1, "b": 9}, "b: 9 is outside 0 to 1"),
])
def test_wrong_structure(value, message):
    shape = describe(data.StructLayout({"a": 4, "b": 1}))
    with pytest.raises(ValueError, match=f"^{message}$"):
        shape.pack(value)


@pytest.mark.parametrize(("shape", "array", "message"), [
    (Bits(8), np.zeros(2), "numbers must be integers, not float64"),
    (Bits(8), np.zeros(3, int), r"2 numbers are needed, not shape \(3,\)"),
    (Bits(65), np.zeros((2, 1), np.uint64),
     r"numbers of 65 bits are rows of 2 uint64, not uint64 of shape \(2, 1\)"),
    (Array(3, Bits(2)), np.zeros((2, 4), int),
     r"the second dimension must be 3, not shape \(2, 4\)"),
    (Struct(1, (("a", 0, Bits(1)),)), {"b": np.zeros(2)},
     "values must be a dictionary with the fields a"),
])
def test_wrong_arrays(shape, array, message):
    with pytest.raises(ValueError, match=f"^i: {message}$"):
        Port("i", True, shape).pack(array, 2)


def test_wrong_length_of_array():
    with pytest.raises(ValueError, match=r"^2 elements are needed, not 3$"):
        Array(2, Bits(1)).pack([0, 0, 0])


class Streams(wiring.Component):
    def __init__(self):
        super().__init__({
            "i": In(stream.Signature(LAYOUT, always_ready=True)),
            "o": Out(stream.Signature(signed(5))).array(2, 2),
            "w": Out(stream.Signature(range(1), always_valid=True)),
            "plain": In(3),
            "bus": Out(wiring.Signature({"i": In(stream.Signature(1)),
                                         "o": Out(stream.Signature(2)), "level": Out(1)})),
        })

    def elaborate(self, platform):
        raise NotImplementedError


def test_ports():
    found = ports(Streams())
    assert [(port.name, port.is_input, port.has_valid, port.has_ready, port.shape.width)
            for port in found] == [
        ("i", True, True, False, 4 + 27 + 70 + 1),
        ("o__0__0", False, True, True, 5), ("o__0__1", False, True, True, 5),
        ("o__1__0", False, True, True, 5), ("o__1__1", False, True, True, 5),
        ("w", False, False, True, 0),
        ("bus__i", True, True, True, 1), ("bus__o", False, True, True, 2),
    ]
    for port in found:
        assert Port.from_json(json.loads(json.dumps(port.to_json()))) == port
