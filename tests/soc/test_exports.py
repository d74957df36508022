"""The register map as others read it: the same numbers in every form."""

import json
import re

import pytest
from systemrdl import RDLCompiler
from systemrdl.node import FieldNode, RegNode

from nearbit.soc import exports
from nearbit_hw.soc.registers import QUERY_STRIDE, Address, Command, SocError, register_map
from nearbit_model.config import PRESETS, Config, Memory


NAMES = ["tiny", "reference", "hash64gqa3", "memory"]

MEMORY = Config.preset("hash64gqa3").replace(memory=Memory(
    heads=5, sequences=3, page_tokens=64, address_bits=40, row_ports=2))


@pytest.fixture(params=NAMES)
def registers(request):
    config = MEMORY if request.param == "memory" else Config.preset(request.param)
    return register_map(config, 128, (1, 2, 3))


def elaborate(text, folder):
    """Read SystemRDL with the compiler of others."""
    path = folder / "registers.rdl"
    path.write_text(text)
    compiler = RDLCompiler()
    compiler.compile_file(str(path))
    return compiler.elaborate().top


def access(field):
    """Name the access of a field of SystemRDL as the description does."""
    if field.get_property("onwrite") is not None:
        assert field.get_property("onwrite").name == "woclr"
        return "w1c"
    return {"r": "ro", "w": "wo", "rw": "rw"}[field.get_property("sw").name]


def test_systemrdl(registers, tmp_path):
    """The compiler of SystemRDL finds the registers where the description has them."""
    top = elaborate(exports.systemrdl(registers), tmp_path)
    found = {node.inst_name: node for node in top.children() if isinstance(node, RegNode)}
    assert list(found) == [register.name for register in registers.registers]
    assert top.size <= registers.window_bytes
    for register in registers.registers:
        node = found[register.name]
        assert node.absolute_address == register.address
        assert node.size == 4
        fields = {field.inst_name: field for field in node.children()
                  if isinstance(field, FieldNode)}
        assert set(fields) == {field.name for field in register.fields}
        for field in register.fields:
            read = fields[field.name]
            assert (read.low, read.width) == (field.lowest, field.bits)
            assert access(read) == field.access
            assert read.get_property("reset", default=0) == field.reset
            assert read.get_property("desc") == field.description
            encoded = read.get_property("encode")
            assert ({member.name: member.value for member in encoded} if encoded else {}) == dict(
                field.enumeration)


def test_json(registers):
    """Addresses, access and resets of the JSON are those of the description."""
    found = json.loads(exports.json_text(registers))
    assert found["version"] == "1.2.3"
    assert Config.from_dict(found["config"]) == registers.config
    for register, entry in zip(registers.registers, found["registers"], strict=True):
        assert (entry["name"], entry["address"], entry["access"], entry["reset"]) == (
            register.name, register.address, register.access, register.reset)
        for field, part in zip(register.fields, entry["fields"], strict=True):
            assert ((1 << part["bits"]) - 1) << part["lowest"] == field.mask
    for packet, entry in zip(registers.packets, found["packets"], strict=True):
        assert entry["name"] == packet.name
        assert sum(unit["count"] * unit["beats"] for unit in entry["units"]) == packet.beats


def defines(text):
    return {name: int(value, 0) for name, value in
            re.findall(r"^#define (\w+) +(\w+)u$", text, re.MULTILINE)}


def test_c_header(registers):
    """The C header has each address, and shift and mask of each field of several."""
    found = defines(exports.c_header(registers))
    prefix = "NEARBIT_REG_"
    for register in registers.registers:
        name = register.name.replace("QUERY0_", "QUERY_")
        if register.query not in (None, 0):
            base, _, rest = register.name.partition("_")
            assert int(base[5:]) == register.query
            assert register.address == (found[f"{prefix}QUERY_{rest}"]
                                        + register.query * found[f"{prefix}QUERY_STRIDE"])
            continue
        assert found[prefix + name] == register.address
        if len(register.fields) > 1:
            for field in register.fields:
                assert found[f"{prefix}{name}_{field.name}_MASK"] == field.mask
                assert field.mask >> found[f"{prefix}{name}_{field.name}_SHIFT"] == (
                    1 << field.bits) - 1
    assert {f"{prefix}ERROR_CODE_{code.name}": code.value for code in SocError}.items() \
        <= found.items()
    assert {f"{prefix}COMMAND_{code.name}": code.value for code in Command}.items() <= found.items()
    assert found[f"{prefix}QUERY_STRIDE"] == QUERY_STRIDE


def test_c_header_is_whole():
    """What a driver for all configurations needs is there, whatever this one has."""
    for config in (*PRESETS.values(), MEMORY):
        found = defines(exports.c_header(register_map(config)))
        assert {f"NEARBIT_REG_{address.name}" for address in Address} - set(found) == {
            "NEARBIT_REG_COUNTERS"}


def test_markdown(registers):
    """Each register and field has its row, and each packet its tables."""
    text = exports.markdown(registers)
    for register in registers.registers:
        if register.query in (None, 0):
            name = register.name.replace("QUERY0_", "QUERY_")
            assert f"| 0x{register.address:03x} | `{name}`" in text
            assert all(field.description in text for field in register.fields
                       if len(register.fields) > 1)
    for packet in registers.packets:
        assert f"\n`{packet.name}`, on `{packet.port}`" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {4, 5, 8}


def test_license(registers):
    for form in (exports.c_header, exports.json_text, exports.markdown, exports.systemrdl):
        assert exports.LICENSE in "".join(form(registers).splitlines()[:2])
