import numpy as np
import pytest

from nearbit_model.popcount import distances, hamming


def test_hamming_counts_bits():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 1 << 64, size=(2, 200), dtype=np.uint64)
    b[:3] = a[0], ~a[1], 0
    a[3:5], b[3:5] = 0, (0, np.iinfo(np.uint64).max)
    expected = [(int(x) ^ int(y)).bit_count() for x, y in zip(a, b, strict=True)]
    assert hamming(a, b).tolist() == expected
    assert {0, 64} <= set(expected)


@pytest.mark.parametrize("words", [1, 2, 3, 16])
def test_distances_sum_over_words(words):
    rng = np.random.default_rng(words)
    a = rng.integers(0, 1 << 64, size=(3, 1, words), dtype=np.uint64)
    b = rng.integers(0, 1 << 64, size=(5, words), dtype=np.uint64)
    b[0] = ~a[0, 0]
    result = distances(a, b)
    assert result.dtype == np.int32
    assert result.shape == (3, 5)
    for i in range(3):
        for j in range(5):
            assert result[i, j] == sum((int(x) ^ int(y)).bit_count()
                                       for x, y in zip(a[i, 0], b[j], strict=True))
    assert result[0, 0] == 64 * words


def test_different_widths_are_refused():
    with pytest.raises(ValueError, match=r"^codes must have equally many words, not 1 and 2$"):
        distances(np.zeros((3, 1), np.uint64), np.zeros((3, 2), np.uint64))
