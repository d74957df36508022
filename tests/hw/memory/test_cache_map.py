import pytest

from nearbit_hw.memory import CacheMap


SIZES = {"heads": 3, "sequences": 2, "capacity": 192, "page_tokens": 64, "pages": 5}


def test_derived():
    sizes = CacheMap(**SIZES, data_bits=256, burst_bytes=1024)
    assert (sizes.data_bytes, sizes.row_unit, sizes.listed) == (32, 32, 3)
    assert CacheMap(**SIZES).row_unit == 16
    fields = {name: field.width for name, field in sizes.head_layout}
    assert fields == {"codes": 22, "rows": 27, "stride": 8}


@pytest.mark.parametrize(("name", "words"), [
    ("heads", "Heads"), ("sequences", "Sequences"), ("pages", "Pages"),
    ("stride_bits", "Stride bits")])
@pytest.mark.parametrize("value", [0, -1, "4", None])
def test_wrong_numbers(name, words, value):
    with pytest.raises(TypeError, match=rf"^{words} must be a positive integer, not {value!r}$"):
        CacheMap(**{**SIZES, name: value})


@pytest.mark.parametrize(("name", "words"), [
    ("page_tokens", "Page tokens"), ("burst_bytes", "Burst bytes")])
@pytest.mark.parametrize("value", [0, 3, -4, "4", None])
def test_wrong_powers(name, words, value):
    with pytest.raises(TypeError, match=rf"^{words} must be a power of two, not {value!r}$"):
        CacheMap(**{**SIZES, name: value})


@pytest.mark.parametrize("value", [0, 65, -64, "64", None])
def test_wrong_capacity(value):
    with pytest.raises(TypeError, match=rf"^Capacity must be a positive multiple of the tokens of "
                                        rf"a page \(64\), not {value!r}$"):
        CacheMap(**{**SIZES, "capacity": value})


@pytest.mark.parametrize("value", [12, 65, "32", None])
def test_wrong_address_bits(value):
    with pytest.raises(TypeError, match=rf"^Address bits must be an integer from 13 to 64, "
                                        rf"not {value!r}$"):
        CacheMap(**SIZES, address_bits=value)


@pytest.mark.parametrize("value", [4, 48, 2048, "64", None])
def test_wrong_data_bits(value):
    with pytest.raises(TypeError, match=rf"^Data bits must be a power of two from 8 to 1024, "
                                        rf"not {value!r}$"):
        CacheMap(**SIZES, data_bits=value)


@pytest.mark.parametrize(("data_bits", "burst_bytes", "low", "high"), [
    (64, 8, 16, 2048), (64, 4096, 16, 2048), (512, 32, 64, 4096), (512, 8192, 64, 4096)])
def test_wrong_burst_bytes(data_bits, burst_bytes, low, high):
    with pytest.raises(ValueError, match=rf"^Burst bytes must be from {low} to {high}, "
                                         rf"not {burst_bytes}$"):
        CacheMap(**SIZES, data_bits=data_bits, burst_bytes=burst_bytes)
