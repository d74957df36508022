# amaranth: UnusedElaboratable=no
"""docs/memory.md says what is so."""

import dataclasses
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from amaranth.lib import data, wiring

from nearbit.soc import exports
from nearbit_hw.core import core_members
from nearbit_hw.layouts import CacheError, Error
from nearbit_hw.memory import Appender
from nearbit_hw.memory.cache_map import cache_map
from nearbit_model.config import Config, Memory
from nearbit_model.memory import HeadPlace, MemoryImage, MemoryLayout, plan_memory
from nearbit_model.quantize import codes_from_ints
from nearbit_sim.cxx import compiler


TEXT = (Path(__file__).resolve().parents[2] / "docs/memory.md").read_text(encoding="utf-8")


def block(language, mark=""):
    found, = re.findall(rf"{mark}```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return found


def rows(after):
    """Cells of the first table after a text, without its head."""
    _, found, rest = TEXT.partition(after)
    assert found
    table = re.search(r"(?:^\|.*\n)+", rest, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in row.strip("|").split("|")]
            for row in table[0].splitlines()[2:]]


@pytest.fixture
def config():
    return Config.from_toml(block("toml"))


def test_configuration():
    """The table of keys has all of them, with their defaults."""
    told = {name.strip("`"): default for name, default, _ in rows("has these keys")}
    assert told == {
        known.name: "" if known.default is dataclasses.MISSING else str(known.default).lower()
        for known in dataclasses.fields(Memory)}


def test_sizes(config):
    """Offsets of the fields, and where the heads are."""
    layout = MemoryLayout.of(config)
    plan = plan_memory(config)
    fields = {name: (int(offset), int(size)) for name, offset, size in rows("it is 32 at least")}
    assert fields == {
        name: (field.offset, field.size) for name, field in
        {"rescore key": layout.key, "values": layout.values, "scale": layout.scale}.items()}
    assert f"{layout.row_bytes} bytes in five beats of {layout.beat_bytes}" in TEXT
    assert layout.row_beats == 5
    assert layout.least_stride == 32
    assert f"{plan.places} places, so {plan.code_bytes} bytes of codes" in TEXT
    assert f"and {plan.places * 32} of rows" in TEXT
    heads = [HeadPlace(codes=int(codes, 16), rows=int(base, 16), stride=int(stride))
             for _, codes, base, stride in rows("in the least memory")]
    assert heads == list(plan.heads)


def test_example(config):
    """The token of the example is made of the bytes of the example, and no other byte is set."""
    contents = dict(rows("these contents"))
    image = MemoryImage(plan_memory(config))
    numbers = {name: [[int(element) for element in contents[name].split(",")]]
               for name in ("rescore key", "values")}
    image.write(1, [2, 0], 5, codes_from_ints([int(contents["code"], 16)], config.key_bits),
                numbers["values"], [int(contents["scale"])], numbers["rescore key"])
    wanted = np.zeros_like(image.octets)
    listed = rows("these bytes of memory are set")
    assert [name for _, _, name in listed] == list(contents)
    for address, octets, _ in listed:
        found = bytes.fromhex(octets.strip("`"))
        wanted[int(address, 16):int(address, 16) + len(found)] = list(found)
    np.testing.assert_array_equal(image.octets, wanted)


def test_python(config, tmp_path, monkeypatch, capsys):
    """The example in Python prints what is shown."""
    (tmp_path / "example.toml").write_text(block("toml"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    exec(compile(block("python", "<!-- python -->\n"), "memory.md", "exec"), {})
    assert capsys.readouterr().out == block("text")


def test_c(config, tmp_path):
    """The example in C compiles without a warning."""
    (tmp_path / "nearbit_memory.h").write_text(exports.memory_header(config))
    (tmp_path / "example.c").write_text(block("c", "<!-- c -->\n"))
    command = compiler()
    subprocess.run([*command, *(["-x", "c"] if "++" in command[-1] else []), "-std=c99", "-Wall",
                    "-Wextra", "-Werror", "-c", "example.c", "-o", "example.o"], cwd=tmp_path,
                   check=True)


def payload(member):
    return member.signature.members["payload"].shape


def leaves(shape):
    """Names of a payload's fields, those of a structure in it in its place."""
    found = []
    for name, inner in shape.members.items() if isinstance(shape, data.StructLayout) else ():
        found += leaves(inner) if isinstance(inner, data.StructLayout) else [name]
    return found


def test_streams(config):
    """The table has the streams that only a core with a memory has, with their fields."""
    without = core_members(dataclasses.replace(config, memory=None))
    members = core_members(config)
    streams = {
        name: ("in" if member.flow == wiring.In else "out", leaves(payload(member)))
        for name, member in members.items()
        if name not in without and not name.startswith("axi_") and member.is_signature}
    told = {name.strip("`"): (direction, [
        field for field in re.findall(r"`(\w+)`", fields) if field != "burst_bytes"])
        for name, direction, fields in rows("the streams not listed here")}
    assert told == streams
    absent = set(without) - set(members)
    assert absent == set(re.findall(r"`(\w+)`", TEXT[TEXT.index("The streams for loading"):
                                                     TEXT.index(" are absent.")]))
    old, new = (payload(core["i_command"]).members for core in (without, members))
    assert list(new) == ["head", "sequence", *old]
    assert payload(members["o_result"])["error"].width == 4
    assert members["timeout"].shape == config.memory.timeout_bits


@pytest.mark.parametrize("one_bus", [False, True])
def test_buses(config, one_bus):
    """The tables of buses and of their channels."""
    told = {name.strip("`"): re.findall(r"`(\w+)`", channels)
            for names, channels, _ in rows("such as `axi_codes__ar__payload`")
            for name in names.split(",")[:1]}
    fields = {name.strip("`"): re.findall(r"`(\w+)`", listed)
              for name, listed in rows("| `axi_append` |")}
    if one_bus:
        del told["axi_rows__0"]
    members = core_members(dataclasses.replace(
        config, memory=dataclasses.replace(config.memory, one_bus=one_bus)))
    buses = {f"{name}__0" if member.dimensions else name: member.signature.members
             for name, member in members.items() if name.startswith("axi_")}
    assert {name: list(channels) for name, channels in buses.items()} == told
    for channels in buses.values():
        for channel, member in channels.items():
            assert list(payload(member).members) == fields[channel]
    ids = {name: payload(next(iter(channels.values())))["id"].width
           for name, channels in buses.items()}
    bits = config.memory.row_id_bits
    assert ids == ({"axi_codes": bits + 1, "axi_append": 0} if one_bus else
                   {"axi_codes": 0, "axi_rows__0": bits, "axi_append": 0})


def test_errors():
    """Numbers and names of the errors that depend on the memory."""
    numbers = {name.strip("`"): int(number) for number, name, *_ in rows("depend on\nthe memory")}
    assert numbers == {
        "RANGE": Error.RANGE.value,
        **{error.name: error.value for error in CacheError if error.name not in Error.__members__}}


def test_code_bytes():
    """Sizes that a code may have."""
    memory = dataclasses.replace(Config.from_toml(block("toml")).memory, burst_bytes=128)
    sizes = {MemoryLayout.of(Config(
        key_bits=bits, value_dim=8, capacity=256, lanes=1, value_lanes=8,
        memory=memory)).code_bytes for bits in range(5, 1025)}
    assert sorted(sizes) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert "1, 2, 4, ... 128" in TEXT


def test_rows_are_limited(config):
    """A row has at most 256 beats and 4 KiB."""
    assert "at most 256 beats and 4 KiB" in TEXT
    for bus_bits, beats in ((32, 256), (128, 256), (256, 128), (512, 64)):
        sizes = cache_map(config.replace(rescore=None, capacity=64, memory=dataclasses.replace(
            config.memory, page_tokens=64, bus_bits=bus_bits, burst_bytes=64)))
        assert Appender(sizes, key_bits=12, row_beats=beats).row_beats == beats
        with pytest.raises(ValueError, match=rf"^Row beats must be at most {beats}, "
                                             rf"not {beats + 1}$"):
            Appender(sizes, key_bits=12, row_beats=beats + 1)
