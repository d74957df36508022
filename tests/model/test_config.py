import dataclasses
import itertools
import re

import numpy as np
import pytest

from nearbit_model.config import (
    MEMORY_PRESETS,
    PRESETS,
    Config,
    ConfigError,
    Memory,
    Rescore,
    fitting_preset,
)


SMALL = {"key_bits": 8, "value_dim": 8, "capacity": 64, "lanes": 4, "value_lanes": 4, "top_n": 16}
RANGES = {
    "key_bits": (1, 1024),
    "value_dim": (1, 1024),
    "value_bits": (2, 16),
    "capacity": (1, 1 << 20),
    "queries": (1, 64),
    "lanes": (1, 256),
    "value_lanes": (1, 1024),
    "top_n": (1, 1 << 20),
    "weight_bits": (2, 24),
    "output_fraction_bits": (0, 16),
    "exp_tables": (1, 256),
    "refine_lanes": (1, 1024),
    "divider_cycles": (1, 32),
    "fan_in": (2, 64),
    "value_ports": (1, 2),
    "selection_block": (0, 1 << 20),
}


MEMORY_RANGES = {
    "heads": (1, 1 << 16),
    "sequences": (1, 1 << 12),
    "page_tokens": (1, 1 << 20),
    "pages": (0, 1 << 20),
    "bus_bits": (32, 512),
    "address_bits": (16, 64),
    "row_ports": (1, 4),
    "burst_bytes": (16, 4096),
    "queue_beats": (2, 1 << 16),
    "outstanding": (1, 1024),
    "row_id_bits": (1, 8),
    "stride_bits": (1, 16),
    "timeout_bits": (1, 32),
}


def refuses_any():
    return pytest.raises(ConfigError, match=r"^selection_block must be at least")


def refuses(message):
    return pytest.raises(ConfigError, match=f"^{re.escape(message)}$")


def test_ranges_are_of_all_fields():
    assert {*RANGES, "selection", "normalizer", "cell", "rescore", "memory"} == {
        field.name for field in dataclasses.fields(Config)}


def test_documentation_has_all_fields_and_their_ranges():
    for cls, ranges in ((Config, RANGES), (Rescore, RESCORE_RANGES), (Memory, MEMORY_RANGES)):
        text = " ".join(cls.__doc__.split())
        for field in dataclasses.fields(cls):
            assert f" {field.name} {field.metadata['says'].split()[0]} " in text
            if field.name in ranges:
                least, most = ranges[field.name]
                assert f" {field.metadata['says']} From {least:,} to {most:,}." in text


@pytest.mark.parametrize(("changes", "properties"), [
    ({}, {"score_stages": 1, "rescore_query_slots": 8, "score_max": 0}),
    ({"queries": 5}, {"score_stages": 2, "rescore_query_slots": 64}),
    ({"queries": 3, "rescore": Rescore(head_dim=8, lanes=4, shared=True)},
     {"score_stages": 3, "rescore_query_slots": 32, "score_max": 8 << 14}),
    ({"key_bits": 1000, "rescore": Rescore(head_dim=1, lanes=1, element_bits=2)},
     {"score_max": 1000}),
])
def test_structure(changes, properties):
    config = Config(**{**SMALL, **changes})
    assert {name: getattr(config, name) for name in properties} == properties


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", ["8", 8.0, True, None, np.int64(8)])
def test_not_an_integer(name, value):
    with refuses(f"{name} must be an integer, not {value!r}"):
        Config(**{**SMALL, name: value})


@pytest.mark.parametrize("name", RANGES)
def test_out_of_range(name):
    least, most = RANGES[name]
    # 0 asks for the default of refine_lanes.
    for value in (-1 if name == "refine_lanes" else least - 1, most + 1):
        with refuses(f"{name} must be from {least} to {most}, not {value}"):
            Config(**{**SMALL, name: value})


@pytest.mark.parametrize(("changes", "message"), [
    ({"lanes": 12}, "lanes must be a power of two, not 12"),
    ({"refine_lanes": 2}, "refine_lanes must be lanes (4) times a power of two, not 2"),
    ({"refine_lanes": 12}, "refine_lanes must be lanes (4) times a power of two, not 12"),
    ({"capacity": 66}, "capacity must be a multiple of refine_lanes (4), not 66"),
    ({"capacity": 20, "refine_lanes": 8},
     "capacity must be a multiple of refine_lanes (8), not 20"),
    ({"value_lanes": 3}, "value_lanes must divide value_dim (8), not 3"),
    ({"value_lanes": 16}, "value_lanes must divide value_dim (8), not 16"),
    ({"top_n": 65}, "top_n must be at most capacity (64), not 65"),
    ({"selection": "queue"},
     "selection must be one of counters, histograms, serial, not 'queue'"),
    ({"selection": None},
     "selection must be one of counters, histograms, serial, not None"),
    ({"cell": "nexus"}, "cell must be one of generic, ecp5, ice40, xc7, not 'nexus'"),
    ({"cell": 4}, "cell must be one of generic, ecp5, ice40, xc7, not 4"),
    ({"normalizer": "divide"}, "normalizer must be one of reciprocal, divider, not 'divide'"),
    ({"normalizer": None}, "normalizer must be one of reciprocal, divider, not None"),
    ({"divider_cycles": 2}, "divider_cycles must be 1 unless normalizer is divider, not 2"),
    ({"normalizer": "divider", "divider_cycles": 3},
     "divider_cycles must divide value_bits + output_fraction_bits (16), not 3"),
])
def test_rules_between_fields(changes, message):
    with refuses(message):
        Config(**{**SMALL, **changes})


BLOCKS = {"key_bits": 64, "value_dim": 8, "capacity": 131072, "lanes": 1, "value_lanes": 4,
          "top_n": 64, "refine_lanes": 2, "selection": "histograms", "selection_block": 1024}


@pytest.mark.parametrize(("changes", "message"), [
    ({"selection": "serial"}, "selection_block needs the selection 'histograms', not 'serial'"),
    ({"selection": "counters"}, "selection_block needs the selection 'histograms', not 'counters'"),
    ({"selection_block": 1000}, "selection_block must be a power of two, or 0, not 1000"),
    ({"capacity": 512}, "selection_block must be at most capacity (512), not 1024"),
    ({"top_n": 1025}, "selection_block must be at least top_n (1025), not 1024"),
    ({"refine_lanes": 0}, (
        "refine_lanes must be at least 2 (twice lanes) with selection_block: a block is read "
        "again, and listed, while the next one is scored")),
    ({"top_n": 8, "selection_block": 8, "lanes": 4, "refine_lanes": 8},
     "selection_block must be at least twice refine_lanes (8), not 8"),
    ({"selection_block": 64}, (
        "selection_block must be at least 256, or 0 for no blocks: one of 64 keys is scored in "
        "64 cycles, but to list top_n keys takes 143")),
    ({"selection_block": 64, "top_n": 8, "key_bits": 128}, (
        "selection_block must be at least 256, or 0 for no blocks: one of 64 keys is scored in "
        "64 cycles, but to merge its distances takes 129")),
    ({"lanes": 16, "refine_lanes": 32, "top_n": 512, "selection_block": 1024}, (
        "selection_block must be at least 32768, or 0 for no blocks: one of 1024 keys is scored "
        "in 64 cycles, but to list top_n keys takes 1039")),
])
def test_blocks_of_a_selection(changes, message):
    Config(**BLOCKS)
    with refuses(message):
        Config(**{**BLOCKS, **changes})


@pytest.mark.parametrize("queries", [1, 3])
def test_smallest_block(queries):
    """What is named as the least is enough, and half of it is not."""
    for key_bits, lanes, ratio, top_n in itertools.product(
            (1, 7, 64, 300), (1, 4, 32), (2, 8), (1, 9, 200)):
        given = {**BLOCKS, "key_bits": key_bits, "lanes": lanes, "refine_lanes": lanes * ratio,
                 "top_n": top_n, "queries": queries}
        block = 1 << max(2 * lanes * ratio, top_n).bit_length()
        try:
            Config(**{**given, "selection_block": block})
        except ConfigError as error:
            least = int(re.search(r"at least (\d+),", str(error))[1])
            assert least > block
            Config(**{**given, "selection_block": least})
            if least > 2 * block:
                with refuses_any():
                    Config(**{**given, "selection_block": least // 2})


def test_smallest_and_largest():
    one = Config(key_bits=1, value_dim=1, capacity=1, value_bits=2, queries=1, lanes=1,
                 value_lanes=1,
                 top_n=1, weight_bits=2, output_fraction_bits=0, exp_tables=1)
    assert (one.beats, one.output_bits, one.memory_bits) == (1, 2, 1 + 2 + 16)
    most = Config(**{name: most for name, (_, most) in RANGES.items()} | {"selection_block": 0},
                  normalizer="divider")
    assert (most.beats, most.output_bits) == (1, 32)


def test_derived():
    config = Config(**SMALL)
    assert (config.beats, config.output_bits, config.refine_lanes) == (2, 16, 4)
    assert config.memory_bits == 64 * (8 + 8 * 8 + 16)


def test_replace():
    config = Config(**SMALL, refine_lanes=8)
    assert config.replace(top_n=3) == Config(**{**SMALL, "top_n": 3}, refine_lanes=8)
    assert config.replace(lanes=8).refine_lanes == 8
    assert config.replace(lanes=2).refine_lanes == 2
    assert config.replace(lanes=2, refine_lanes=4).refine_lanes == 4
    with refuses("lanes must be a power of two, not 3"):
        config.replace(lanes=3)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config(**SMALL).lanes = 8 # type: ignore[misc]


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_round_trip(config, tmp_path):
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_toml(config.to_toml()) == config
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml())
    assert Config.load(path) == config
    assert Config.load(str(path)) == config


def test_unknown_key():
    keys = ", ".join([*Config(**SMALL).to_dict(), "cell", "rescore", "memory"])
    with refuses(f"unknown key 'lane'; a configuration has the keys {keys}"):
        Config.from_dict({**SMALL, "lane": 4})


@pytest.mark.parametrize("name", ["key_bits", "value_dim", "capacity"])
def test_missing_key(name):
    fields = {key: value for key, value in SMALL.items() if key != name}
    with refuses(f"{name} is missing; key_bits, value_dim and capacity have no default"):
        Config.from_dict(fields)


def test_files(tmp_path):
    path = tmp_path / "config.toml"
    with refuses(f"{path}: No such file or directory"):
        Config.load(path)
    with refuses(f"{tmp_path}: Is a directory"):
        Config.load(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with refuses(f"{path}: not a text file"):
        Config.load(path)
    path.write_text("key_bits = 8\nvalue_dim = 8\ncapacity = 64\nlanes = 3\n")
    with refuses(f"{path}: lanes must be a power of two, not 3"):
        Config.load(path)
    path.write_text("key_bits = \n")
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}: not TOML: [^\n]+$"):
        Config.load(path)


def test_unknown_preset():
    with refuses(f"unknown preset 'huge'; the presets are "
                 f"{', '.join([*PRESETS, *MEMORY_PRESETS])}"):
        Config.preset("huge")


def test_presets_are_ordered_by_size():
    sizes = [config.memory_bits for config in PRESETS.values()]
    assert sizes == sorted(sizes)
    assert Config.preset("tiny") is PRESETS["tiny"]


@pytest.mark.parametrize(("sizes", "name"), [
    ((8, 8, 64, 16), "tiny"),
    ((32, 32, 512, 32), "head32"),
    ((64, 64, 1, 1), "reference"),
    ((64, 64, 1024, 32), "reference"),
    ((64, 64, 1025, 32), "head64"),
    ((64, 64, 1024, 33), "head64"),
    ((64, 64, 4097, 32), "long"),
    ((64, 64, 100, 2048), "long"),
    ((64, 64, 65536, 2049), None),
    ((64, 64, 65537, 1), None),
    ((64, 32, 10, 1), None),
    ((63, 64, 10, 1), None),
])
def test_fitting_preset(sizes, name):
    assert fitting_preset(*sizes) == name


RESCORE = {"head_dim": 16, "lanes": 4}
RESCORE_RANGES = {"head_dim": (1, 1024), "lanes": (1, 1024), "element_bits": (2, 16)}


def test_rescore():
    unit = Rescore(**RESCORE)
    assert unit.element_bits == 8
    assert unit.beats == 4
    assert unit.score_max == 16 * 128 * 128
    config = Config(**SMALL, rescore=unit)
    plain = Config(**SMALL)
    assert plain.rescore is None
    assert "rescore" not in plain.to_dict()
    assert config.to_dict()["rescore"] == {**RESCORE, "element_bits": 8, "shared": False}
    assert config.distance_max == 8
    together = config.replace(queries=3, rescore=Rescore(**RESCORE, shared=True))
    assert together.distance_max == 24
    assert Config.from_toml(together.to_toml()) == together
    assert Config.from_toml(config.to_toml()) == config
    assert config.replace(lanes=2).rescore == unit
    assert config.replace(rescore=None) == plain
    assert config.memory_bits == plain.memory_bits + 64 * 16 * 8


@pytest.mark.parametrize("name", RESCORE_RANGES)
def test_rescore_out_of_range(name):
    least, most = RESCORE_RANGES[name]
    for value in (least - 1, most + 1):
        with refuses(f"rescore.{name} must be from {least} to {most}, not {value}"):
            Rescore(**{**RESCORE, name: value})
    with refuses(f"rescore.{name} must be an integer, not '4'"):
        Rescore(**{**RESCORE, name: "4"})


@pytest.mark.parametrize("config", [*PRESETS.values(), *MEMORY_PRESETS.values()],
                         ids=[*PRESETS, *MEMORY_PRESETS])
def test_numbers(config):
    numbers = config.to_numbers()
    assert Config.from_numbers(numbers) == config
    assert list(numbers) == list(Config.leaf_metadata())
    assert numbers["key_bits"] == config.key_bits
    unit = config.rescore
    assert [numbers[f"rescore.{name}"] for name in ("head_dim", "lanes", "element_bits")] == \
        ([0] * 3 if unit is None else [unit.head_dim, unit.lanes, unit.element_bits])
    with refuses("the number of cell must be from 0 to 4, not 5"):
        Config.from_numbers({**numbers, "cell": 5})


def test_metadata():
    """Every field says what it is, and what it may be; its default may be chosen."""
    for name, known in Config.leaf_metadata().items():
        assert known["says"], name
        assert ("range" in known) != ("choices" in known), name
    for known in dataclasses.fields(Config):
        if "choices" in known.metadata and known.default is not dataclasses.MISSING:
            assert known.default in known.metadata["choices"]


@pytest.mark.parametrize("name", MEMORY_RANGES)
def test_memory_out_of_range(name):
    least, most = MEMORY_RANGES[name]
    for value in (least - 1, most + 1):
        with refuses(f"memory.{name} must be from {least} to {most}, not {value}"):
            Memory(**{"heads": 3, name: value})


MEMORY_RULES = [
    ({"row_ports": 3}, {}, "memory.row_ports must be 1, 2 or 4, not 3"),
    ({"page_tokens": 24}, {}, "memory.page_tokens must be a power of two, not 24"),
    ({"bus_bits": 96}, {}, "memory.bus_bits must be a power of two, not 96"),
    ({"one_bus": True, "row_ports": 2}, {},
     "memory.row_ports must be 1 with memory.one_bus, not 2"),
    ({"burst_bytes": 4096}, {}, ("memory.burst_bytes must be from a beat (8) to 256 beats (2048), "
                                "not 4096")),
    ({"queue_beats": 32}, {}, "memory.queue_beats must be at least two bursts (64), not 32"),
    ({}, {"capacity": 72}, "memory.page_tokens must divide capacity (72), not 16"),
    ({}, {"value_ports": 1}, "value_ports must be 2 with memory, which has no store of values"),
    ({}, {"key_bits": 4}, ("key_bits must be at least 5 with memory, where a code has whole bytes, "
                          "not 4")),
    ({"page_tokens": 4}, {}, ("memory.page_tokens must be at least 8: the codes of a page hold a "
                             "beat of the bus and a word of lanes, not 4")),
    ({"burst_bytes": 16}, {"key_bits": 64}, ("memory.burst_bytes must be at least 32, a word of "
                                            "lanes, not 16")),
    ({}, {"value_bits": 6}, ("value_lanes * value_bits must be a multiple of memory.bus_bits (64), "
                            "or divide it, not 24")),
    ({}, {"rescore": Rescore(head_dim=8, lanes=4, element_bits=12)},
     ("rescore.lanes * rescore.element_bits must be a multiple of memory.bus_bits (64), or divide "
     "it, not 48")),
    ({"bus_bits": 32, "stride_bits": 16}, {"value_dim": 1024, "value_lanes": 4},
     ("a row must be at most 256 beats of memory.bus_bits (32) long, not 257: use a wider bus, or "
      "a smaller value_dim or value_bits")),
    ({"bus_bits": 32, "stride_bits": 16}, {"rescore": Rescore(head_dim=1024, lanes=4)},
     ("a row must be at most 256 beats of memory.bus_bits (32) long, not 259: use a wider bus, or "
      "a smaller value_dim or value_bits, or rescore.head_dim")),
    ({"row_ports": 2}, {"top_n": 1}, "memory.row_ports must be at most top_n (1), not 2"),
    ({"stride_bits": 2}, {"value_dim": 64}, ("memory.stride_bits must be at least 3, not 2: a row "
                                            "takes 80 bytes")),
]


@pytest.mark.parametrize(("memory", "changes", "message"), MEMORY_RULES)
def test_memory_rules(memory, changes, message):
    with refuses(message):
        Config(**{**SMALL, **changes,
                  "memory": Memory(**{"heads": 3, "page_tokens": 16, **memory})})


def test_memory():
    memory = Memory(heads=3, sequences=5, page_tokens=16)
    config = Config(**SMALL, memory=memory)
    assert config.memory_pages == 20
    assert config.replace(capacity=128).memory_pages == 40
    assert Config(**SMALL, memory=dataclasses.replace(memory, pages=7)).memory_pages == 7
    assert Config(**SMALL).memory_pages == 0
    assert Config.from_toml(config.to_toml()) == config
    assert Config.from_numbers(config.to_numbers()) == config
    with refuses("memory must be a Memory or None, not 5"):
        Config(**SMALL, memory=5)
    with refuses("memory.heads is missing; heads has no default"):
        Config.from_dict({**SMALL, "memory": {}})
    with refuses("memory.one_bus must be true or false, not 1"):
        Memory(heads=3, one_bus=1)


def test_wrong_rescore():
    with refuses("rescore.lanes must divide rescore.head_dim (16), not 3"):
        Rescore(head_dim=16, lanes=3)
    with refuses("rescore.shared must be true or false, not 1"):
        Rescore(head_dim=16, lanes=4, shared=1)
    with refuses("rescore must be a Rescore or None, not 5"):
        Config(**SMALL, rescore=5)
    with refuses("unknown key 'rescore.lane'; rescore has the keys head_dim, lanes, element_bits, "
                 "shared"):
        Config.from_dict({**SMALL, "rescore": {**RESCORE, "lane": 4}})
    with refuses("rescore.lanes is missing; head_dim and lanes have no default"):
        Config.from_dict({**SMALL, "rescore": {"head_dim": 16}})


def test_byte_order_mark(tmp_path):
    path = tmp_path / "marked.toml"
    path.write_bytes(b"\xef\xbb\xbf" + PRESETS["tiny"].to_toml().replace("\n", "\r\n").encode())
    assert Config.load(path) == PRESETS["tiny"]


@pytest.mark.parametrize(("text", "message"), [
    ("a = " + "[" * 20_000, "not TOML: nested too deeply"),
    (f"key_bits = {'9' * 5000}", "not TOML: Exceeds the limit"),
    ("#" * (1 << 20) + "#", "too large for a configuration file"),
])
def test_texts_that_are_too_much(tmp_path, text, message):
    path = tmp_path / "large.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")
