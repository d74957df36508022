import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from nearbit_model import quantize


def refuses(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


NOT_REAL = [
    (np.array([[1, 2j]]), "{} must hold real numbers, not complex128"),
    (np.array([[True, False]]), "{} must hold real numbers, not bool"),
    (np.array([["a", "b"]]), "{} must hold real numbers, not <U1"),
    (np.array([[None, 1]]), "{} must hold real numbers, not object"),
    (np.array([[1.0, np.nan]]), "{} must be finite, but has nan at index [0, 1]"),
    (np.array([[-np.inf, 1.0]], np.float16), "{} must be finite, but has -inf at index [0, 0]"),
    (np.array([[1.0, 1e39]]), "{} must be within the range of float32"),
]


@pytest.mark.parametrize(("array", "message"), NOT_REAL)
def test_not_real(array, message):
    with refuses(message.format("x")):
        quantize.codes(array)
    with refuses(message.format("v")):
        quantize.values(array)
    in_three = message.replace("[0, ", "[0, 0, ")
    with refuses(in_three.format("q")):
        quantize.logit_scale(array[None], np.ones((1, 3, 2)))
    with refuses(in_three.format("k")):
        quantize.logit_scale(np.ones((1, 3, 2)), array[None])
    with refuses(in_three.format("q")):
        quantize.rescore_operands(array[None], np.ones((1, 3, 2)))
    with refuses(in_three.format("k")):
        quantize.rescore_operands(np.ones((1, 3, 2)), array[None])
    with refuses(message.format("step")):
        quantize.rescore_operands(np.ones((2, 3, 4)), np.ones((2, 3, 4)), step=array)
    with refuses(message.format("logit_scale")):
        quantize.exp_table(array, 8)
    with refuses(message.format("unit")):
        quantize.values(np.ones((1, 2, 3, 4)), unit=array)


# Codes


@pytest.mark.parametrize("dim", [1, 2, 7, 8, 9, 63, 64, 65, 127, 128, 129, 130])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8])
def test_codes(dim, dtype):
    rng = np.random.default_rng(dim)
    x = rng.integers(-2, 3, size=(2, 5, dim)).astype(dtype)
    x[0, 0], x[0, 1] = 1, 0
    packed = quantize.codes(x)
    assert packed.dtype == np.uint64
    assert packed.shape == (2, 5, -(-dim // 64))
    for index in np.ndindex(2, 5):
        expected = sum(1 << j for j in range(dim) if x[index][j] > 0)
        assert sum(int(word) << 64 * i for i, word in enumerate(packed[index])) == expected


def test_sign_of_the_smallest():
    x = np.array([0.0, -0.0, 5e-324, -5e-324, 1.0, -1.0])
    assert quantize.codes(x).tolist() == [0b010100]


@pytest.mark.parametrize("shape", [(), (3, 0)])
def test_no_elements(shape):
    with refuses(f"x must have at least one element in its last axis, not shape {shape}"):
        quantize.codes(np.zeros(shape))


@given(st.integers(1, 130).flatmap(lambda bits: st.tuples(
    st.just(bits), st.lists(st.integers(0, (1 << bits) - 1), max_size=5))))
def test_codes_as_integers(drawn):
    bits, numbers = drawn
    packed = quantize.codes_from_ints(numbers, bits)
    assert packed.shape == (len(numbers), -(-bits // 64))
    assert quantize.codes_to_ints(packed) == numbers
    if numbers:
        signs = np.array([[1.0 if number >> j & 1 else -1.0 for j in range(bits)]
                          for number in numbers])
        assert (quantize.codes(signs) == packed).all()


@pytest.mark.parametrize("number", [-1, 128])
def test_code_out_of_range(number):
    with refuses(f"a code must be from 0 to 2**7 - 1, not {number}"):
        quantize.codes_from_ints([0, number], 7)


# Values


@pytest.mark.parametrize("bits", [2, 3, 8, 9, 16])
@pytest.mark.parametrize("rotated", [False, True])
def test_values_are_near(bits, rotated):
    rng = np.random.default_rng(bits)
    v = rng.normal(size=(3, 20, 8)) * 10.0 ** rng.integers(-1, 2, size=(3, 20, 1))
    values = quantize.values(v, bits, rotated=rotated)
    largest = 2 ** (bits - 1) - 1
    assert values.elements.dtype == (np.int8 if bits <= 8 else np.int16)
    assert values.scales.dtype == np.uint16
    assert values.unit.dtype == np.float64
    assert values.elements.shape == v.shape
    assert values.scales.shape == (3, 20)
    assert values.unit.shape == values.saturated.shape == (3,)
    assert (np.abs(values.elements).max(axis=-1) == largest).all()
    assert (values.scales.max(axis=-1) == 65535).all()
    assert (values.saturated == 0).all()
    assert values.rotated is rotated
    # Half a step of the row, and half a step of its scale times the largest element.
    basis = quantize.rotate if rotated else np.asarray
    step = np.abs(basis(v)).max(axis=-1) / largest
    bound = step / 2 + values.unit[:, None] / 65536 / 2 * largest
    error = np.abs(basis(values.dequantized()) - basis(v)).max(axis=-1)
    assert (error <= bound * (1 + 1e-9)).all()


def test_values_by_hand():
    # Real scales 2, 1 and 0; ties to even.
    v = np.array([[254.0, 1.0, 3.0, -254.0], [127.0, 0.5, -1.5, 2.5], [0.0, 0.0, -0.0, 0.0]])
    values = quantize.values(v)
    assert values.elements.tolist() == [[127, 0, 2, -127], [127, 0, -2, 2], [0, 0, 0, 0]]
    # 65535 / 2 is a tie; its even neighbour.
    assert values.scales.tolist() == [65535, 32768, 0]
    assert values.unit == 2 / 65535 * 65536
    assert values.saturated == 0


def test_scale_rounds_to_nearest():
    rows = np.array([65535, 2.4999, 2.5, 2.5001, 3.5, 0.5, 0.5001, 0.4999])
    values = quantize.values(rows[:, None] * np.array([1.0, -0.25]))
    assert values.scales.tolist() == [65535, 2, 2, 3, 4, 0, 1, 0]
    assert (values.elements == np.array([127, -32])).all()


def test_all_zero():
    values = quantize.values(np.zeros((2, 3, 4)))
    assert not values.elements.any()
    assert not values.scales.any()
    assert values.unit.tolist() == [0, 0]
    assert not values.dequantized().any()


def test_zero_head_beside_another():
    v = np.zeros((2, 3, 4))
    v[1] = 1
    values = quantize.values(v)
    assert values.unit[0] == 0
    assert values.unit[1] == pytest.approx(1 / 127, rel=1e-4)
    assert values.scales.tolist() == [[0] * 3, [65535] * 3]


@pytest.mark.parametrize("size", [5e-324, 1e-310, 1e-300, 1e38])
def test_extreme_sizes(size):
    v = np.array([[1.0, -0.5], [0.25, 0.125]]) * size
    values = quantize.values(v)
    if size < 1e-307: # below the normal numbers: as zero
        assert not values.scales.any()
        assert not values.elements.any()
    else:
        assert values.elements.tolist() == [[127, -64], [127, 64]]
        assert values.scales.tolist() == [65535, 16384]
        np.testing.assert_allclose(values.dequantized(), v, rtol=0.01)


def test_integers_and_any_leading_axes():
    v = np.arange(2 * 3 * 4 * 5, dtype=np.int64).reshape(2, 3, 4, 5)
    values = quantize.values(v)
    assert values.unit.shape == (2, 3)
    for index in np.ndindex(2, 3):
        alone = quantize.values(v[index].astype(np.float32))
        assert (values.elements[index] == alone.elements).all()
        assert (values.scales[index] == alone.scales).all()
        assert values.unit[index] == alone.unit


def test_given_unit_is_the_same_as_its_own():
    v = np.random.default_rng(3).normal(size=(2, 30, 8))
    own = quantize.values(v)
    again = quantize.values(v, unit=own.unit)
    assert (again.elements == own.elements).all()
    assert (again.scales == own.scales).all()
    assert (again.unit == own.unit).all()
    assert (again.saturated == 0).all()
    # Row by row, as a decode loop appends them.
    for token in range(30):
        row = quantize.values(v[:, token:token + 1], unit=own.unit)
        assert (row.elements[:, 0] == own.elements[:, token]).all()
        assert (row.scales[:, 0] == own.scales[:, token]).all()


def test_headroom_and_one_unit_for_all_heads():
    v = np.random.default_rng(4).normal(size=(2, 30, 8))
    unit = 2 * quantize.values(v).unit.max()
    values = quantize.values(v, unit=unit)
    assert values.unit.tolist() == [unit, unit]
    assert 32000 < values.scales.max() <= 32768
    np.testing.assert_allclose(values.dequantized(), v, atol=unit * 0.6)


def test_saturation():
    # With unit 1: rowscales of 0.5, just within, just beyond, 2 and nearly infinite.
    within, beyond = 65535.49 / 65536, 65535.51 / 65536
    rowscale = np.array([0.5, within, beyond, 2.0, 1e30])
    v = rowscale[:, None] * np.array([127.0, -127.0, 25.4])
    values = quantize.values(v, unit=1.0)
    assert values.scales.tolist() == [32768, 65535, 65535, 65535, 65535]
    assert values.saturated == 3
    assert values.elements.tolist() == [
        [127, -127, 25], [127, -127, 25], [127, -127, 25], [127, -127, 51], [127, -127, 127]]
    huge = quantize.values(v, unit=1e-300)
    assert huge.saturated == 5
    assert (huge.elements == [127, -127, 127]).all()


def test_saturation_is_counted_per_head():
    v = np.ones((3, 4, 2)) * np.array([1.0, 2.0, 4.0])[:, None, None]
    values = quantize.values(v, unit=2.5 / 127)
    assert values.saturated.tolist() == [0, 0, 4]


@pytest.mark.parametrize("unit", [0, -1.0, [1.0, 0.0]])
def test_wrong_unit(unit):
    with refuses(f"unit must be greater than 0, not {float(np.min(unit))}"):
        quantize.values(np.ones((2, 3, 4)), unit=unit)


@pytest.mark.parametrize("shape", [(), (4,), (0, 4), (3, 0), (0, 3, 4)])
def test_wrong_shape(shape):
    with refuses(f"v must be [..., tokens, dim] with no axis empty, not shape {shape}"):
        quantize.values(np.zeros(shape))


@pytest.mark.parametrize("bits", [1, 17])
def test_wrong_bits(bits):
    with refuses(f"bits must be from 2 to 16, not {bits}"):
        quantize.values(np.ones((3, 4)), bits)


# Rotation


@pytest.mark.parametrize("dim", [1, 2, 3, 4, 6, 31, 32, 64, 80, 96, 128])
def test_rotation_is_orthonormal(dim):
    matrix = quantize.rotate(np.eye(dim))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dim), atol=1e-12)
    v = np.random.default_rng(dim).normal(size=(2, 3, dim))
    np.testing.assert_allclose(quantize.rotate(v), v @ matrix, atol=1e-12)
    np.testing.assert_allclose(quantize.rotate_back(quantize.rotate(v)), v, atol=1e-12)
    block = dim & -dim
    assert np.count_nonzero(matrix) == dim * block


@pytest.mark.parametrize("dim", [32, 64, 128])
def test_rotation_spreads_outliers_and_constants(dim):
    # Perfectly, if the Rudin-Shapiro sequence is flat in this basis (even powers of two).
    flat = 1.0 if dim == 64 else math.sqrt(2)
    for row in (np.eye(dim)[3] * math.sqrt(dim), np.ones(dim)):
        assert np.abs(quantize.rotate(row)).max() <= flat * (1 + 1e-12)


def test_rotation_of_float16_is_exact():
    v = np.random.default_rng(5).normal(size=(50, 64)).astype(np.float16)
    matrix = np.rint(quantize.rotate(np.eye(64)) * 8).astype(int)
    for row, rotated in zip(v, quantize.rotate(v), strict=True):
        expected = [sum((Fraction(float(x)) * int(s) for x, s in zip(row, column, strict=True)),
                        Fraction()) / 8 for column in matrix.T]
        assert [Fraction(float(x)) for x in rotated] == expected


def test_rotated_rows_keep_precision():
    v = np.random.default_rng(6).normal(size=(1, 200, 64))
    v[..., 7] = 20

    def error(values):
        difference = np.linalg.norm(values.dequantized() - v, axis=-1)
        return (difference / np.linalg.norm(v, axis=-1)).max()

    assert error(quantize.values(v, rotated=True)) < error(quantize.values(v)) / 2


# Rescore operands


def fractions(row):
    return [Fraction(float(x)) for x in row]


@pytest.mark.parametrize("bits", [2, 3, 8, 9, 12, 16])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rescore_operands(bits, dtype):
    """Against the definition, in rational numbers of what is given."""
    rng = np.random.default_rng(bits)
    q = (rng.normal(size=(4, 3, 5)) * 10.0 ** rng.integers(-4, -1, size=(4, 3, 1))).astype(dtype)
    k = (rng.normal(size=(2, 6, 5)) * np.array([1.0, 3.0])[:, None, None]).astype(dtype)
    result = quantize.rescore_operands(q, k, bits, rotated=False)
    largest = 2**(bits - 1) - 1
    kind = np.int8 if bits <= 8 else np.int16
    assert (result.queries.dtype, result.keys.dtype) == (kind, kind)
    assert result.multipliers.dtype == np.uint32
    assert (result.queries.shape, result.keys.shape) == (q.shape, k.shape)
    assert result.saturated.tolist() == [0, 0]
    assert not result.rotated
    steps = [max(abs(x) for row in head for x in fractions(row)) / largest for head in k]
    for head, step in enumerate(steps):
        assert result.step[head] == pytest.approx(float(step), rel=1e-15)
        for row, elements in zip(k[head], result.keys[head].tolist(), strict=True):
            for x, element in zip(fractions(row), elements, strict=True):
                assert abs(x / step - element) <= Fraction(1, 2) + Fraction(1, 10**9)
    for head, query in np.ndindex(4, 3):
        row = fractions(q[head, query])
        step = max(map(abs, row)) / largest
        for x, element in zip(row, result.queries[head, query].tolist(), strict=True):
            assert abs(x / step - element) <= Fraction(1, 2) + Fraction(1, 10**9)
        assert np.abs(result.queries[head, query]).max() == largest
        # What a unit of the score adds to the logit, in octaves of e**logit, times 2**32.
        octaves = float(step * steps[head // 2]) / math.sqrt(5) / math.log(2)
        assert abs(int(result.multipliers[head, query]) - octaves * 2**32) <= 0.5 + 1e-3
    assert np.abs(result.keys).max(axis=(1, 2)).tolist() == [largest, largest]


def test_rescore_operands_round_to_even():
    x = np.array([[[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0]]])
    result = quantize.rescore_operands(x, x, rotated=False)
    expected = [127, 0, 2, 2, 0, -2, -127]
    assert result.queries[0, 0].tolist() == result.keys[0, 0].tolist() == expected
    assert result.step.tolist() == [1.0]


def test_rescore_operands_are_rotated_alike():
    rng = np.random.default_rng(31)
    q, k = rng.normal(size=(4, 3, 16)), rng.normal(size=(2, 6, 16))
    k[..., 5] = 40 # what rotation is for
    result = quantize.rescore_operands(q, k)
    assert result.rotated
    turned = quantize.rescore_operands(quantize.rotate(q), quantize.rotate(k), rotated=False)
    for name in ("queries", "keys", "multipliers", "step"):
        assert (getattr(result, name) == getattr(turned, name)).all()
    plain = quantize.rescore_operands(q, k, rotated=False)
    error, of_plain = (np.abs(each.keys * each.step[:, None, None] - rows).max()
                       for each, rows in ((result, quantize.rotate(k)), (plain, k)))
    assert error < of_plain / 3


def logits_of(q, k):
    group = len(q) // len(k)
    return q @ np.repeat(k, group, axis=0).swapaxes(1, 2) / math.sqrt(q.shape[-1])


def integer_logits(result):
    """The logits that the integer scores stand for."""
    group = len(result.queries) // len(result.keys)
    scores = result.queries.astype(np.int64) @ np.repeat(
        result.keys, group, axis=0).astype(np.int64).swapaxes(1, 2)
    return scores * (result.multipliers[..., None] * (math.log(2) / 2**32))


def softmax(logits):
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("rotated", [False, True])
def test_softmax_of_exact_scores_approaches_that_of_real_ones(rotated):
    rng = np.random.default_rng(32)
    q, k = 4 * rng.normal(size=(4, 20, 32)), rng.normal(size=(2, 50, 32))
    wanted = softmax(logits_of(q, k))
    errors = {bits: np.abs(softmax(integer_logits(quantize.rescore_operands(q, k, bits,
                                                                            rotated=rotated)))
                           - wanted).sum(axis=-1).max() for bits in (4, 6, 8, 10, 12, 13)}
    for bits, error in errors.items():
        # A quarter with two bits more, give or take.
        assert error < 40 * 2.0**-bits
        if bits - 2 in errors:
            assert error < errors[bits - 2] / 2
    assert errors[13] < 0.002


@pytest.mark.parametrize("rotated", [False, True])
def test_rescore_operands_of_zeros(rotated):
    rng = np.random.default_rng(33)
    q, k = rng.normal(size=(4, 3, 8)), rng.normal(size=(2, 6, 8))
    q[1, 2], k[0, 4], k[1] = 0, 0, 0
    result = quantize.rescore_operands(q, k, rotated=rotated)
    assert not result.queries[1, 2].any()
    assert not result.keys[0, 4].any()
    assert not result.keys[1].any()
    assert result.step[0] > 0
    assert result.step[1] == 0
    # A logit of 0 for every key: equal weights, whatever the scores are.
    assert not result.multipliers[1, 2]
    assert not result.multipliers[2:].any()
    assert result.multipliers[0].all()
    assert result.saturated.tolist() == [0, 0]
    nothing = quantize.rescore_operands(np.zeros((1, 2, 8)), k[1:], step=0.5, rotated=rotated)
    assert not nothing.queries.any()
    assert not nothing.multipliers.any()
    assert nothing.step.tolist() == [0.5]


@pytest.mark.parametrize("step", [0.5, [0.5, 0.25]])
def test_a_given_step_clips_keys(step):
    steps = np.broadcast_to(step, 2)
    within, beyond = 127.49, 127.51
    k = np.array([[1.0, -2.0, 0.5], [within, -within, 3.0], [beyond, 1.0, 1.0],
                  [1.0, -beyond, beyond], [1e30, -1e30, 0.0]]) * steps[:, None, None]
    result = quantize.rescore_operands(np.ones((2, 1, 3)), k, step=step, rotated=False)
    assert result.step.tolist() == steps.tolist()
    for head in range(2):
        assert result.keys[head].tolist() == [
            [1, -2, 0], [127, -127, 3], [127, 1, 1], [1, -127, 127], [127, -127, 0]]
    # Keys, not elements, are counted.
    assert result.saturated.tolist() == [3, 3]
    expected = np.rint(2.0**32 * math.log2(math.e) / 127 * steps / math.sqrt(3))
    assert result.multipliers[:, 0].tolist() == expected.tolist()


def test_a_given_step_is_that_of_the_operands():
    # The step that would be chosen, given: all is the same. With headroom, nothing is clipped.
    rng = np.random.default_rng(34)
    q, k = rng.normal(size=(4, 3, 8)), rng.normal(size=(2, 6, 8))
    chosen = quantize.rescore_operands(q, k, 12)
    given = quantize.rescore_operands(q, k, 12, step=chosen.step)
    for name in ("queries", "keys", "multipliers", "step", "saturated"):
        assert (getattr(chosen, name) == getattr(given, name)).all()
    wide = quantize.rescore_operands(q, k, 12, step=2 * chosen.step)
    assert np.abs(wide.keys).max() == 1024
    assert not wide.saturated.any()


@pytest.mark.parametrize("step", [0, -1.0, [1.0, 0.0]])
def test_wrong_step(step):
    with refuses(f"step must be greater than 0, not {float(np.min(step))}"):
        quantize.rescore_operands(np.ones((2, 3, 4)), np.ones((2, 3, 4)), step=step)


@pytest.mark.parametrize(("q", "k"), [
    ((2, 3), (1, 3, 4)), ((2, 3, 4), (3, 4)), ((2, 3, 4), (1, 3, 5)), ((0, 3, 4), (1, 3, 4)),
    ((2, 3, 4), (1, 0, 4)), ((2, 3, 0), (1, 3, 0)), ((1, 2, 3, 4), (1, 3, 4)),
])
def test_wrong_shapes_of_exact_operands(q, k):
    with refuses("q and k must be [heads, n, head_dim] with the same head_dim and no axis empty, "
                 f"not shapes {q} and {k}"):
        quantize.rescore_operands(np.zeros(q), np.zeros(k))


@pytest.mark.parametrize("bits", [1, 17])
def test_wrong_bits_of_exact_operands(bits):
    with refuses(f"bits must be from 2 to 16, not {bits}"):
        quantize.rescore_operands(np.ones((1, 3, 4)), np.ones((1, 3, 4)), bits)


def test_rescore_operands_of_heads_that_do_not_divide():
    with refuses("kv heads (2) must divide heads (3)"):
        quantize.rescore_operands(np.ones((3, 2, 4)), np.ones((2, 3, 4)))


def test_rescore_operands_that_are_too_large():
    # A unit of the score is worth up to one octave of the weight: 2**32 - 1 units of 2**-32.
    q, k = np.ones((1, 2, 4)), np.full((1, 3, 4), 2 * 127**2 * math.log(2))
    for factor, fits in ((1 - 1e-9, True), (1, False), (5, False)):
        q[0, 1] = factor
        if fits:
            q[0, 0] = factor
            result = quantize.rescore_operands(q, k, rotated=False)
            assert (result.multipliers > 2**32 - 10).all()
            continue
        with refuses(f"q and k of head 0 are too large for rescoring of 8 bits: one step of a "
                     f"score would be worth {factor} octaves of a weight, but may be at most "
                     f"1"):
            quantize.rescore_operands(q, k, rotated=False)


# Logit scale and exp tables


def test_logit_scale():
    rng = np.random.default_rng(7)
    q, k = rng.normal(size=(6, 10, 5)).astype(np.float16), 3 * rng.normal(size=(2, 20, 5)) + 100
    result = quantize.logit_scale(q, k)
    assert result.dtype == np.float64
    for head in range(6):
        exact = [[Fraction(float(x)) for x in part.ravel()] for part in (q[head], k[head // 3])]
        variance = [sum((x - sum(part) / len(part)) ** 2 for x in part) / len(part)
                    for part in exact]
        assert result[head] == pytest.approx(math.sqrt(variance[0] * variance[1] / 5), rel=1e-12)


def test_logit_scale_of_large_float16():
    # Squares of these overflow float16; the sums must be float64's.
    q = np.array([[[60000, -60000]]], np.float16)
    assert quantize.logit_scale(q, q) == pytest.approx(60000.0**2 / math.sqrt(2))


def test_logit_scale_of_constants():
    assert quantize.logit_scale(np.ones((1, 2, 4)), np.ones((1, 3, 4))).tolist() == [0]


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 2), (2, 3), (1, 2)])
def test_heads_that_do_not_divide(heads, kv_heads):
    with refuses(f"kv heads ({kv_heads}) must divide heads ({heads})"):
        quantize.logit_scale(np.ones((heads, 2, 4)), np.ones((kv_heads, 3, 4)))


@pytest.mark.parametrize("weight_bits", [2, 8, 16, 24])
@pytest.mark.parametrize("key_bits", [1, 8, 130])
def test_exp_table(weight_bits, key_bits):
    logit_scales = np.array([[0.0, 1e-3], [0.7, 1e3], [3e38, 0.1]])
    exp_tables = quantize.exp_table(logit_scales, key_bits, weight_bits)
    assert exp_tables.dtype == np.uint32
    assert exp_tables.shape == (3, 2, key_bits + 1)
    most = 2**weight_bits - 1
    for index in np.ndindex(3, 2):
        for d, weight in enumerate(exp_tables[index]):
            real = most * math.exp(-2 * logit_scales[index] * d)
            assert abs(int(weight) - real) <= 0.5 + 1e-6
    assert (exp_tables[..., 0] == most).all()
    assert (exp_tables[0, 0] == most).all()
    assert (np.diff(exp_tables.astype(int), axis=-1) <= 0).all()
    assert not exp_tables[2, 0, 1:].any()


def test_exp_table_rounds_to_even():
    # exp(-2 t) is exactly 1/2 of 2**2 - 1 = 3: a tie at 1.5 would need ln 2, which is not exact;
    # so close to it, both neighbours are within half a unit and a hair.
    for logit_scale in (math.log(2) / 2 * (1 - 1e-9), math.log(2) / 2 * (1 + 1e-9)):
        assert quantize.exp_table(logit_scale, 1, 2).tolist() == [
            3, 2 if logit_scale < math.log(2) / 2 else 1]


def test_negative_logit_scale():
    with refuses("logit_scale must be at least 0, not -0.5"):
        quantize.exp_table([1.0, -0.5], 8)


# Outputs


@pytest.mark.parametrize("fraction_bits", [0, 8, 16])
def test_outputs(fraction_bits):
    rng = np.random.default_rng(8)
    output_int = rng.integers(-1 << 15, 1 << 15, size=(2, 3, 4), dtype=np.int32)
    unit = np.array([0.3, 2.0])
    result = quantize.outputs(output_int, unit, fraction_bits)
    assert result.dtype == np.float32
    expected = output_int * unit[:, None, None] / 2.0**fraction_bits
    np.testing.assert_allclose(result, expected, rtol=1e-7)
    back = quantize.outputs(output_int, unit, fraction_bits, rotated=True)
    np.testing.assert_allclose(back, quantize.rotate_back(expected), rtol=1e-5, atol=1e-3)
    assert (quantize.outputs(output_int, 2.0, fraction_bits)[1] == result[1]).all()


@given(arrays.arrays(np.float32, (2, 5, 6), elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_round_trip_is_near(v):
    values = quantize.values(v)
    error = np.abs(values.dequantized() - v).max()
    assert error <= np.abs(v).max() / 127 * (0.5 + 127 / 65535) * (1 + 1e-6)


def test_rescore_operands_of_the_smallest_numbers():
    """Rows below float64's normal numbers are rows of zeros."""
    smallest = 5e-324
    tiny = np.array([[[190 * smallest, -95 * smallest]]])
    found = quantize.rescore_operands(tiny, tiny, rotated=False)
    assert not found.queries.any()
    assert not found.keys.any()
    assert not found.multipliers.any()
    assert found.saturated == 0


def test_rescore_operands_far_beyond_a_step():
    keys = np.array([[[1e38, -1e38], [0, 0]]])
    found = quantize.rescore_operands(keys[:, :1] * 0, keys, step=1e-300, rotated=False)
    np.testing.assert_array_equal(found.keys, [[[127, -127], [0, 0]]])
    assert found.saturated == 1
