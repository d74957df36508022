"""Codes and rows in memory: packed, read back, and where they lie."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nearbit_model.config import Config, Memory, Rescore
from nearbit_model.memory import (
    HeadPlace,
    LayoutError,
    MemoryImage,
    MemoryLayout,
    MemoryPlan,
    Tokens,
    plan_memory,
)
from nearbit_model.quantize import codes_from_ints, codes_to_ints

from .memory_configs import memory_configs


SMALL = Config(key_bits=12, value_dim=16, capacity=64, lanes=4, value_lanes=16, value_bits=6,
               top_n=16, rescore=Rescore(head_dim=16, lanes=16, element_bits=12),
               memory=Memory(heads=3, page_tokens=16, pages=5, bus_bits=32, address_bits=24,
                             burst_bytes=64))


def with_memory(**changes):
    return SMALL.replace(memory=dataclasses.replace(SMALL.memory, **changes))


def refuses(message):
    return pytest.raises(LayoutError, match=f"^{re.escape(message)}$")


def signed(rng, bits, shape):
    """Integers with the extremes among them."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    found = rng.integers(low, high, size=shape, endpoint=True)
    found.flat[:2] = (low, high)[:found.size]
    return found.astype(np.int8 if bits <= 8 else np.int16)


def some_tokens(config, count, seed):
    """Contents of tokens, all bits in use."""
    rng = np.random.default_rng(seed)
    codes = codes_from_ints(
        [int.from_bytes(rng.bytes(128), "little") % (1 << config.key_bits) for _ in range(count)],
        config.key_bits)
    unit = config.rescore
    return Tokens(codes, signed(rng, config.value_bits, (count, config.value_dim)),
                  rng.integers(0, 65535, size=count, endpoint=True).astype(np.uint16),
                  None if unit is None else
                  signed(rng, unit.element_bits, (count, unit.head_dim)))


def equal(first, second):
    for name in ("codes", "values", "scales", "keys"):
        found, wanted = getattr(first, name), getattr(second, name)
        if wanted is None:
            assert found is None
        else:
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)


def put(contents, *tokens):
    """The arguments of `write`."""
    return contents.codes[tokens], contents.values[tokens], contents.scales[tokens], (
        None if contents.keys is None else contents.keys[tokens])


def record(config, values, scale, keys):
    """A row as one number, by the words of docs/memory.md: one element after another."""
    bus = config.memory.bus_bits
    number = at = 0
    if keys is not None:
        for key in keys:
            number |= (int(key) % (1 << config.rescore.element_bits)) << at
            at += config.rescore.element_bits
    while at % bus:
        at += 1
    for value in values:
        number |= (int(value) % (1 << config.value_bits)) << at
        at += config.value_bits
    while at % 16:
        at += 1
    number |= int(scale) << at
    at += 16
    while at % bus:
        at += 1
    return number, at // 8


@given(memory_configs(), st.integers(0, 1 << 32))
def test_bits(config, seed):
    """Packed are the bits that the document says, and what is read back is what was packed."""
    layout = MemoryLayout.of(config)
    tokens = some_tokens(config, 3, seed)
    codes, rows = (layout.pack_codes(tokens.codes),
                   layout.pack_rows(tokens.values, tokens.scales, tokens.keys))
    assert 4 * layout.code_bytes < config.key_bits <= 8 * layout.code_bytes
    for index, code in enumerate(codes_to_ints(tokens.codes)):
        assert codes[index].tobytes() == code.to_bytes(layout.code_bytes, "little")
        number, size = record(config, tokens.values[index], tokens.scales[index],
                              None if tokens.keys is None else tokens.keys[index])
        assert rows[index].tobytes() == number.to_bytes(size, "little")
    equal(Tokens(layout.unpack_codes(codes), **vars(layout.unpack_rows(rows))), tokens)


@given(memory_configs(), st.integers(0, 1 << 32))
def test_beats(config, seed):
    """Beats are the row from its lowest bit on."""
    layout = MemoryLayout.of(config)
    tokens = some_tokens(config, 2, seed)
    rows = layout.pack_rows(tokens.values, tokens.scales, tokens.keys)
    beats = layout.beats(rows)
    bus = config.memory.bus_bits
    assert beats.shape == (2 * layout.row_beats, *([bus // 64] if bus > 64 else []))
    octets = b"".join(number.to_bytes(bus // 8, "little")
                      for number in codes_to_ints(beats.reshape(len(beats), -1)))
    assert octets == rows.tobytes()


@given(memory_configs(), st.integers(0, 1 << 32))
def test_spare_bits_are_ignored(config, seed):
    """What is around the fields, whatever it is, is not read."""
    layout = MemoryLayout.of(config)
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 255, size=(2, layout.row_bytes), dtype=np.uint8, endpoint=True)
    codes = rng.integers(0, 255, size=(2, layout.code_bytes), dtype=np.uint8, endpoint=True)
    found = layout.unpack_rows(rows)
    again = layout.pack_rows(found.values, found.scales, found.keys)
    assert (again & ~rows == 0).all()
    equal(Tokens(layout.unpack_codes(codes), **vars(layout.unpack_rows(again))),
          Tokens(layout.unpack_codes(codes), **vars(found)))
    for octets, read in zip(codes, codes_to_ints(layout.unpack_codes(codes)), strict=True):
        assert read == int.from_bytes(octets.tobytes(), "little") % (1 << config.key_bits)


def test_leading_axes():
    """Heads and tokens at once, and none of them."""
    layout = MemoryLayout.of(SMALL)
    tokens = some_tokens(SMALL, 6, 1)
    codes = layout.pack_codes(tokens.codes.reshape(2, 3, -1))
    rows = layout.pack_rows(tokens.values.reshape(2, 3, -1), tokens.scales.reshape(2, 3),
                            tokens.keys.reshape(2, 3, -1))
    assert codes.shape == (2, 3, 2)
    assert rows.shape == (2, 3, layout.row_bytes)
    equal(Tokens(layout.unpack_codes(codes.reshape(6, -1)),
                 **vars(layout.unpack_rows(rows.reshape(6, -1)))), tokens)
    empty = layout.pack_rows(tokens.values[:0], tokens.scales[:0], tokens.keys[:0])
    assert empty.shape == (0, layout.row_bytes)
    assert layout.unpack_rows(empty).values.shape == (0, 16)


@given(memory_configs(), st.integers(0, 1 << 32))
@settings(max_examples=50)
def test_image(config, seed):
    """A cache of several heads and sequences, in any pages, at any stride and origin."""
    rng = np.random.default_rng(seed)
    layout = MemoryLayout.of(config)
    plan = plan_memory(config, origin=int(rng.integers(0, 4096)), stride=layout.least_stride
                       + int(rng.integers(0, 3)) * layout.row_unit)
    octets = rng.integers(0, 255, size=plan.size + 5, dtype=np.uint8, endpoint=True)
    before = octets.copy()
    image = MemoryImage(plan, octets)
    pages = rng.permutation(config.memory_pages)[:config.capacity // config.memory.page_tokens]
    count = config.capacity
    wanted, used = {}, np.zeros(len(octets), np.bool_)
    for head in range(config.memory.heads):
        contents = wanted[head] = some_tokens(config, count, seed + head)
        split = int(rng.integers(0, count, endpoint=True))
        for start, end in ((split, count), (0, split)):
            image.write(head, pages, start, *put(contents, slice(start, end)))
        for token in range(count):
            place = (int(pages[token // config.memory.page_tokens]) * config.memory.page_tokens
                     + token % config.memory.page_tokens)
            assert plan.places_of(pages, token, 1).tolist() == [place]
            for start, size in ((plan.code_address(head, place), layout.code_bytes),
                                (plan.row_address(head, place), layout.row_bytes)):
                part = slice(start - plan.origin, start - plan.origin + size)
                assert not used[part].any()
                used[part] = True
    np.testing.assert_array_equal(octets[~used], before[~used])
    for head, contents in wanted.items():
        equal(image.read(head, pages, 0, count), contents)
        first = int(rng.integers(0, count))
        equal(image.read(head, pages, first, count - first), Tokens(*put(
            contents, slice(first, None))))


def test_sequences_share_pages():
    """Two texts with a common beginning: what one wrote of it, the other reads."""
    image = MemoryImage(plan_memory(SMALL))
    contents = some_tokens(SMALL, 32, 5)
    image.write(1, [4, 0], 0, *put(contents, slice(None)))
    equal(image.read(1, [4, 2], 0, 16), Tokens(*put(contents, slice(16))))
    with refuses("token 16 of head 1 was not written"):
        image.read(1, [4, 2], 0, 17)
    with refuses("token 0 of head 0 was not written"):
        image.read(0, [4, 2], 0, 16)


def test_mark():
    """Bytes of others are read once they are known to be written."""
    plan = plan_memory(SMALL)
    first, second = MemoryImage(plan), MemoryImage(plan)
    contents = some_tokens(SMALL, 20, 6)
    first.write(2, [1, 3], 0, *put(contents, slice(None)))
    second.octets[:] = first.octets
    second.mark(2, [1, 3], 4, 8)
    equal(second.read(2, [1, 3], 4, 8), Tokens(*put(contents, slice(4, 12))))
    with refuses("token 12 of head 2 was not written"):
        second.read(2, [1, 3], 4, 9)


@given(memory_configs(), st.integers(0, 5000))
def test_plan(config, origin):
    """All heads, one behind the other, in as many bytes as codes and rows take."""
    plan = plan_memory(config, origin=origin)
    layout, memory = plan.layout, config.memory
    assert len(plan.heads) == memory.heads
    parts = []
    for head in plan.heads:
        assert head.codes % memory.burst_bytes == 0
        assert head.rows % layout.row_unit == head.stride % layout.row_unit == 0
        parts += [(head.codes, head.codes + plan.code_bytes, memory.burst_bytes),
                  (head.rows, head.rows + plan.places * head.stride, layout.row_unit)]
    end = origin
    for start, stop, unit in sorted(parts):
        assert end <= start < end + unit
        end = stop
    assert plan.end == end == origin + plan.size
    assert MemoryImage(plan).octets.shape == (plan.size,)


def test_entries():
    """Numbers for the core's tables."""
    plan = MemoryPlan(MemoryLayout.of(SMALL), (
        HeadPlace(codes=0x400, rows=0x10000, stride=64),
        HeadPlace(codes=0x1000, rows=0x20010, stride=48)), origin=0x400)
    entries = plan.head_entries()
    assert entries["head"].tolist() == [0, 1]
    assert entries["set"].tolist() == [1, 1]
    assert {name: numbers.tolist() for name, numbers in entries["entry"].items()} == {
        "codes": [0x10, 0x40], "rows": [0x1000, 0x2001], "stride": [4, 3]}
    assert {name: numbers.tolist() for name, numbers in plan.page_entries(0, [3, 1]).items()} == {
        "sequence": [0, 0], "index": [0, 1], "set": [1, 1], "page": [3, 1]}
    with refuses("sequence must be from 0 to 0, not 1"):
        plan.page_entries(1, [0])
    with refuses("pages must be from 0 to 4, not from 0 to 5"):
        plan.page_entries(0, [0, 5])


def test_wide_addresses():
    """Bases near the end of 64 bits, of which the entries are told exactly."""
    config = with_memory(address_bits=64)
    origin = (1 << 64) - 0x8000
    plan = plan_memory(config, origin=origin)
    entry = plan.head_entries()["entry"]
    assert int(entry["rows"][2]) * 16 == plan.heads[2].rows > 1 << 63
    image = MemoryImage(plan)
    contents = some_tokens(config, 4, 7)
    image.write(2, [4], 0, *put(contents, slice(None)))
    equal(image.read(2, [4], 0, 4), contents)


WRONG_PLANS = [
    ({"stride": 40}, "stride must be a multiple of 16 bytes, and at least 48, not 40"),
    ({"stride": 32}, "stride must be a multiple of 16 bytes, and at least 48, not 32"),
    ({"heads": 4}, "a plan has from 1 to 3 heads (memory.heads), not 4"),
    ({"heads": 0}, "a plan has from 1 to 3 heads (memory.heads), not 0"),
    ({"stride": 4096}, ("stride must be at most 4080, not 4096: take more memory.stride_bits than "
                       "8")),
    ({"origin": -1}, "origin must be from 0 to 16777215, not -1"),
    ({"origin": 0xffffc0}, ("rows of head 2 reach to 0x1002ee0, beyond the addresses of 0x1000000 "
                           "bytes: take more memory.address_bits than 24, or fewer heads or "
                           "memory.pages")),
    ({"memory_bytes": 12000}, ("the cache takes 12064 bytes, and there are 12000: take fewer heads "
                              "or memory.pages, or a smaller stride")),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG_PLANS)
def test_wrong_plan(arguments, message):
    with refuses(message):
        plan_memory(SMALL, **arguments)


def test_fits_exactly():
    """The last byte of the addresses and of the memory may be used."""
    size = plan_memory(SMALL).size
    assert plan_memory(SMALL, memory_bytes=size).size == size
    with pytest.raises(LayoutError, match=r"^the cache takes"):
        plan_memory(SMALL, memory_bytes=size - 1)
    unit = SMALL.memory.burst_bytes
    last = ((1 << 24) - size) // unit * unit
    assert plan_memory(SMALL, origin=last).end <= 1 << 24
    with pytest.raises(LayoutError, match="beyond the addresses"):
        plan_memory(SMALL, origin=last + unit)


def test_no_memory():
    with refuses("the configuration has no memory: give it a table [memory]"):
        plan_memory(Config.preset("tiny"))


def place(**changes):
    return HeadPlace(**{"codes": 0, "rows": 0x1000, "stride": 48, **changes})


WRONG_PLACES = [
    ([place(codes=32)], "codes of head 0 must be a multiple of 64 bytes, not 32"),
    ([place(), place(codes=0x4000, rows=0x8)],
     "rows of head 1 must be a multiple of 16 bytes, not 8"),
    ([place(rows=0x90)], "rows of head 0 begin at 0x90, but codes of head 0 reach to 0xa0"),
    ([place(), place(codes=0x100, rows=0x1000)],
     "rows of head 1 begin at 0x1000, but rows of head 0 reach to 0x1f00"),
    ([place(stride=8)], "stride of head 0 must be a multiple of 16 bytes, not 8"),
]


@pytest.mark.parametrize(("heads", "message"), WRONG_PLACES)
def test_wrong_places(heads, message):
    with refuses(message):
        MemoryPlan(MemoryLayout.of(SMALL), tuple(heads))


def test_before_the_origin():
    with refuses("codes of head 0 begin at 0x0, before the origin, 0x40"):
        MemoryPlan(MemoryLayout.of(SMALL), (place(),), origin=0x40)


PAGES = [
    ([0, 5], 0, 1, "pages must be from 0 to 4, not from 0 to 5"),
    ([-1], 0, 1, "pages must be from 0 to 4, not from -1 to -1"),
    ([1, 1], 0, 1, "pages must each be listed once: tokens of two would share a place"),
    ([1, 2], 0, 33, "tokens 0 to 32 reach beyond the pages that are listed, 32 tokens"),
    ([0, 1, 2, 3, 4], 60, 5, "tokens 60 to 64 reach beyond capacity, 64 tokens"),
    ([1], -1, 1, "first and count must be at least 0, not -1 and 1"),
    ([0.5], 0, 1, "pages must be a list of integers, not [0.5]"),
]


@pytest.mark.parametrize(("pages", "first", "count", "message"), PAGES)
def test_wrong_pages(pages, first, count, message):
    image = MemoryImage(plan_memory(SMALL))
    with refuses(message):
        image.read(0, pages, first, count)
    if count > 0:
        contents = some_tokens(SMALL, count, 8)
        with refuses(message):
            image.write(0, pages, first, *put(contents, slice(None)))
        assert not image.octets.any()


def test_wrong_head():
    image = MemoryImage(plan_memory(SMALL))
    with refuses("head must be from 0 to 2, not 3"):
        image.read(3, [0], 0, 1)
    with refuses("head must be from 0 to 2, not -1"):
        image.write(-1, [0], 0, *put(some_tokens(SMALL, 1, 0), slice(None)))


CONTENTS = some_tokens(SMALL, 2, 9)

WRONG_CONTENTS = [
    ({"codes": CONTENTS.codes.astype(np.int64)}, "codes must be uint64, not int64"),
    ({"codes": np.zeros((2, 2), np.uint64)}, "codes must be [..., 1] for 12 bits, not [2, 2]"),
    ({"codes": CONTENTS.codes | np.uint64(4096)}, "codes have bits above key_bits (12)"),
    ({"codes": CONTENTS.codes[:1]},
     "codes and rows must be of the same tokens, not [1, 1] codes and [2] scales"),
    ({"values": CONTENTS.values.astype(float)}, "values must be integers, not float64"),
    ({"values": CONTENTS.values[:, :8]}, "values must have shape [2, 16], not [2, 8]"),
    ({"values": np.full((2, 16), 32)}, "values must be from -32 to 31, not from 32 to 32"),
    ({"scales": np.array([0, 65536])}, "scales must be from 0 to 65535, not from 0 to 65536"),
    ({"keys": np.full((2, 16), -2049)}, ("keys must be from -2048 to 2047, not from -2049 to "
                                        "-2049")),
    ({"keys": None}, "keys must be given, as the configuration has a rescoring unit"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_CONTENTS)
def test_wrong_contents(changes, message):
    image = MemoryImage(plan_memory(SMALL))
    given_ = {**vars(CONTENTS), **changes}
    with refuses(message):
        image.write(0, [0], 0, **given_)
    assert not image.octets.any()


def test_keys_without_a_unit():
    layout = MemoryLayout.of(SMALL.replace(rescore=None))
    with refuses("keys must be None, as the configuration has no rescoring unit"):
        layout.pack_rows(CONTENTS.values, CONTENTS.scales, CONTENTS.keys)


def test_wrong_octets():
    layout = MemoryLayout.of(SMALL)
    with refuses("rows must be uint8, not int64"):
        layout.unpack_rows(np.zeros((2, layout.row_bytes), np.int64))
    with refuses("codes must be [..., 2], not [2, 3]"):
        layout.unpack_codes(np.zeros((2, 3), np.uint8))
    plan = plan_memory(SMALL)
    with refuses(f"the cache takes {plan.size} bytes, and the memory has {plan.size - 1}"):
        MemoryImage(plan, np.zeros(plan.size - 1, np.uint8))
    with refuses("a memory must be uint8 [bytes], not uint8 of shape [2, 5]"):
        MemoryImage(plan, np.zeros((2, 5), np.uint8))
