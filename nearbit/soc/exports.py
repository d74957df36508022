"""Exports of the register map: C, JSON, Markdown and SystemRDL; and of a memory's layout: C.

Those of registers are generated from :func:`nearbit_hw.soc.registers.register_map`, like the
hardware; that of a memory from :class:`nearbit_model.memory.MemoryLayout`.
"""

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from nearbit_hw.soc.registers import (
    QUERY_STRIDE,
    Address,
    Command,
    Field,
    Packet,
    Register,
    RegisterMap,
)
from nearbit_model.config import Config
from nearbit_model.memory import Field as RowField
from nearbit_model.memory import MemoryLayout


__all__ = ["LICENSE", "c_header", "describe_packet", "json_text", "markdown", "memory_header",
           "systemrdl"]


LICENSE = "SPDX-License-Identifier: Apache-2.0"
"""What every file of a bundle begins with."""

_WIDTH = 96
"""Columns of text that is wrapped."""


def _groups(registers: RegisterMap) -> Iterator[tuple[str, list[Register]]]:
    """Registers by what they are for; those of queries once, as the first query has them."""
    titles = [("Identification", Address.CONTROL - 4), ("Control", Address.IRQ_STATUS),
              ("Command", Address.SEQUENCE), ("Queries of a batch", Address.TABLE_CODES_LOW - 4),
              *([] if registers.config.memory is None else [("Memory", Address.COUNTERS - 4)]),
              ("Counters", registers.window_bytes)]
    left = [register for register in registers.registers if register.query in (None, 0)]
    for title, end in titles:
        yield title, [register for register in left if register.address <= end]
        left = [register for register in left if register.address > end]


def _query_name(register: Register) -> str:
    """Name of a register that each query has, without the query's number."""
    return register.name if register.query is None else f"QUERY_{register.name.partition('_')[2]}"


# --- C ----------------------------------------------------------------------------------------


def _defines(lines: list[tuple[str, str]]) -> str:
    wide = max(len(name) for name, _ in lines)
    return "".join(f"#define {name:<{wide}} {value}\n" for name, value in lines)


def _comment(text: str) -> str:
    lines = textwrap.wrap(text, _WIDTH - 6)
    return "/* " + "\n * ".join(lines) + " */\n"


def _c_field(prefix: str, field: Field) -> list[tuple[str, str]]:
    name = f"{prefix}_{field.name}"
    return [(f"{name}_SHIFT", f"{field.lowest}u"), (f"{name}_MASK", f"0x{field.mask:08x}u"),
            *((f"{name}_{value_name}", f"{value}u") for value_name, value in field.enumeration)]


def c_header(registers: RegisterMap, name: str = "nearbit") -> str:
    """Write addresses, fields and numbers as a C header; macros begin with the core's name."""
    prefix = f"{name.upper()}_REG_"
    guard = f"{name.upper()}_REGISTERS_H"
    parts = [f"/* {LICENSE} */\n\n",
             _comment("Registers of a Nearbit accelerator: byte offsets in the window, and "
                      "fields as shift and mask. Generated."),
             f"\n#ifndef {guard}\n#define {guard}\n"]
    for title, group in _groups(registers):
        parts.append(f"\n/* --- {title} {'-' * (_WIDTH - len(title) - 11)} */\n")
        for register in group:
            macro = prefix + _query_name(register)
            lines = [(macro, f"0x{register.address:03x}u")]
            # A name that stands twice says what it is once.
            alone = len(register.fields) == 1 and not register.fields[0].enumeration
            for field in register.fields:
                same = _query_name(register).endswith(field.name)
                lines += [line for line in _c_field(macro, field) if not alone] if not same \
                    else [(found.replace(f"{macro}_{field.name}", macro), value)
                          for found, value in _c_field(macro, field) if not alone]
            parts.append(_comment(register.description) + _defines(lines))
        if title == "Queries of a batch":
            there = {_query_name(register) for register in registers.registers}
            absent = [(f"{prefix}{address.name}", f"0x{address:03x}u") for address in Address
                      if address.name not in there and address != Address.COUNTERS]
            if absent:
                parts.append(_comment("Not in this accelerator; address in accelerators that have "
                                      "it.")
                             + _defines(absent))
            parts.append(_comment("Bytes from the registers of one query to those of the next.")
                         + _defines([(f"{prefix}QUERY_STRIDE", f"{QUERY_STRIDE}u")]))
    result = registers.packet("RESULT")
    parts.append(f"\n/* --- Packets {'-' * (_WIDTH - 18)} */\n")
    parts.append(_comment("First beat of a result packet.") + _defines(
        [line for field in result.fields for line in _c_field(f"{name.upper()}_RESULT", field)]))
    parts.append("\n#endif\n")
    return "".join(parts)


_MEMORY_FUNCTIONS = """
/* Place of a token: its page's number is looked up in the list of its sequence. */
static inline uint64_t {name}_place(const uint32_t *pages, uint32_t token)
{{
    return (uint64_t)pages[token / {macro}_PAGE_TOKENS] * {macro}_PAGE_TOKENS
        + token % {macro}_PAGE_TOKENS;
}}

/* Address of a code's first byte; `codes` is that of the head's first code. */
static inline uint64_t {name}_code_address(uint64_t codes, uint64_t place)
{{
    return codes + place * {macro}_CODE_BYTES;
}}

/* Address of a row's first byte; `rows` is that of the head's first row. */
static inline uint64_t {name}_row_address(uint64_t rows, uint64_t stride, uint64_t place)
{{
    return rows + place * stride;
}}

/* Pack integers of `bits` bits each, two's complement, the first one lowest. */
static inline void {name}_pack_elements(uint8_t *bytes, const int16_t *elements, uint32_t count,
                                        uint32_t bits)
{{
    const uint32_t mask = ((uint32_t)1 << bits) - 1;
    uint32_t pending = 0, filled = 0, index;
    for (index = 0; index < count; index++) {{
        pending |= ((uint32_t)elements[index] & mask) << filled;
        for (filled += bits; filled >= 8; filled -= 8) {{
            *bytes++ = (uint8_t)pending;
            pending >>= 8;
        }}
    }}
    if (filled > 0)
        *bytes = (uint8_t)pending;
}}

/* Make up the {macro}_ROW_BYTES bytes of a row. Without a rescoring unit, `key` is not read. */
static inline void {name}_pack_row(uint8_t *row, const int16_t *key, const int16_t *values,
                                   uint16_t scale)
{{
    uint32_t index;
    for (index = 0; index < {macro}_ROW_BYTES; index++)
        row[index] = 0;
    {name}_pack_elements(row + {macro}_ROW_KEY_OFFSET, key, {macro}_ROW_KEY_ELEMENTS,
                         {macro}_ROW_KEY_ELEMENT_BITS);
    {name}_pack_elements(row + {macro}_ROW_VALUE_OFFSET, values, {macro}_ROW_VALUE_ELEMENTS,
                         {macro}_ROW_VALUE_ELEMENT_BITS);
    row[{macro}_ROW_SCALE_OFFSET] = (uint8_t)scale;
    row[{macro}_ROW_SCALE_OFFSET + 1] = (uint8_t)(scale >> 8);
}}
"""


def memory_header(config: Config, name: str = "nearbit") -> str:
    """Write the layout of a memory as a C header: sizes, offsets, addresses, and packing of rows.

    C99, for processors of any byte order; macros and functions begin with the core's name.
    :class:`~nearbit_model.memory.LayoutError` if the configuration has no memory.
    """
    layout, macro = MemoryLayout.of(config), name.upper()
    memory, guard = layout.memory, f"{macro}_MEMORY_H"
    sizes = [
        ("Key heads, and sequences at the same time.",
         {"HEADS": memory.heads, "SEQUENCES": memory.sequences}),
        ("Tokens of a sequence at most, tokens of a page, and pages of each head.",
         {"SEQUENCE_TOKENS": config.capacity, "PAGE_TOKENS": memory.page_tokens,
          "PAGES": config.memory_pages}),
        ("Bytes of a code; addresses of codes of place 0 are multiples of the second.",
         {"CODE_BYTES": layout.code_bytes, "CODE_ALIGNMENT": layout.code_unit}),
        (("Bytes of a row that are read and written; addresses of rows of place 0, and strides, "
          "are multiples of the second."),
         {"ROW_BYTES": layout.row_bytes, "ROW_ALIGNMENT": layout.row_unit}),
        ("Bytes from one row to the next.",
         {"ROW_STRIDE_MIN": layout.least_stride, "ROW_STRIDE_MAX": layout.most_stride}),
        (("Offsets of the fields of a row, in bytes; their integers, and the bits of each. Without "
          "a rescoring unit, a key has none."),
         {**_row_field("KEY", layout.key or RowField(0, 0, 0)),
          **_row_field("VALUE", layout.values), "ROW_SCALE_OFFSET": layout.scale.offset}),
    ]
    parts = [f"/* {LICENSE} */\n\n",
             _comment("The cache of a Nearbit accelerator in memory: where codes and rows are, and "
                      "what they are made up of (docs/memory.md). Generated."),
             f"\n#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n"]
    for says, numbers in sizes:
        parts.append("\n" + _comment(says) + _defines(
            [(f"{macro}_{size}", f"{number}u") for size, number in numbers.items()]))
    parts.append(_MEMORY_FUNCTIONS.format(name=name, macro=macro))
    parts.append("\n#endif\n")
    return "".join(parts)


def _row_field(what: str, field: RowField) -> dict[str, int]:
    return {f"ROW_{what}_OFFSET": field.offset, f"ROW_{what}_ELEMENTS": field.elements,
            f"ROW_{what}_ELEMENT_BITS": field.bits}


# --- JSON ---------------------------------------------------------------------------------------


def _field_dict(field: Field) -> dict[str, Any]:
    return {"name": field.name, "lowest": field.lowest, "bits": field.bits, "access": field.access,
            "reset": field.reset, "description": field.description,
            **({"enumeration": dict(field.enumeration)} if field.enumeration else {})}


def _packet_dict(packet: Packet) -> dict[str, Any]:
    return {"name": packet.name, "port": packet.port, "bits": packet.bits,
            "description": packet.description,
            "fields": [_field_dict(field) for field in packet.fields],
            "units": [{"name": unit.name, "elements": unit.elements,
                       "element_bits": unit.element_bits, "signed": unit.signed,
                       "count": unit.count, "beats": unit.beats(packet.bits)}
                      for unit in packet.units]}


def json_text(registers: RegisterMap) -> str:
    """Write registers and packets as JSON."""
    return json.dumps({
        "license": LICENSE,
        "version": ".".join(map(str, registers.version)),
        "config": registers.config.to_dict(),
        "window_bytes": registers.window_bytes,
        "registers": [
            {"name": register.name, "address": register.address, "access": register.access,
             "reset": register.reset, "kept": register.kept and not registers.resets_fields,
             **({} if register.query is None else {"query": register.query}),
             "description": register.description,
             "fields": [_field_dict(field) for field in register.fields]}
            for register in registers.registers],
        "packets": [_packet_dict(packet) for packet in registers.packets],
    }, indent=2) + "\n"


# --- Markdown -----------------------------------------------------------------------------------


def _bits(field: Field) -> str:
    return str(field.lowest) if field.bits == 1 else \
        f"{field.lowest + field.bits - 1}:{field.lowest}"


def _says(description: str, field: Field) -> str:
    values = ", ".join(f"{value} `{name}`" for name, value in field.enumeration)
    return f"{description} Values: {values}." if values else description


def _hex(value: int) -> str:
    return str(value) if value < 10 else f"0x{value:x}"


def describe_packet(packet: Packet) -> str:
    """Say in Markdown what a packet consists of."""
    lines = [(f"`{packet.name}`, on `{packet.port}`, {packet.bits} bits per beat. "
              f"{packet.description}\n\n")]
    if packet.fields:
        lines.append("| bits | field | |\n|---|---|---|\n")
        lines += [f"| {_bits(field)} | `{field.name}` | {field.description} |\n"
                  for field in packet.fields]
    if packet.fields and packet.units:
        lines.append("\n")
    if packet.units:
        lines.append("| beats | contents | elements | bits per element |\n|--:|---|--:|--:|\n")
        for unit in packet.units:
            beats = unit.beats(packet.bits)
            times = f"{unit.count} x {beats}" if unit.count > 1 else str(beats)
            sign = ", signed" if unit.signed else ""
            lines.append(f"| {times} | {unit.name} | {unit.elements} | "
                         f"{unit.element_bits}{sign} |\n")
    return "".join(lines)


def markdown(registers: RegisterMap) -> str:
    """Write registers and packets as Markdown tables."""
    kept = "" if registers.resets_fields else "Registers marked * keep their value across reset. "
    parts = [(f"<!-- {LICENSE} -->\n\n# Registers\n\n"
              f"Words of 32 bits in a window of {registers.window_bytes} bytes. `ro` is read only, "
              f"`rw` read and write, `wo` write only (reads as 0), `w1c` write 1 to clear. "
              f"{kept}Bits not listed read as 0 and must be written as 0.\n")]
    for title, group in _groups(registers):
        parts.append(f"\n## {title}\n\n")
        if title == "Queries of a batch":
            queries = registers.config.queries
            parts.append(f"The registers of query r, 0 to {queries - 1}, are {QUERY_STRIDE} r "
                         f"bytes "
                         f"further.\n\n"
                         if queries > 1 else "There is one query.\n\n")
        if title == "Counters":
            parts.append("64 bits each, as two words.\n\n")
        if title == "Memory":
            parts.append("Written as whole words. A reset sets them to 0.\n\n")
        parts.append("| address | register | access | bits | field | reset | |\n"
                     "|---|---|---|---|---|---|---|\n")
        for register in group:
            mark = " *" if register.kept and not registers.resets_fields else ""
            first = (f"| 0x{register.address:03x} | `{_query_name(register)}`{mark} | "
                     f"{register.access} |")
            if len(register.fields) == 1:
                field = register.fields[0]
                parts.append(f"{first} {_bits(field)} | | {_hex(field.reset)} | "
                             f"{_says(register.description, field)} |\n")
                continue
            parts.append(f"{first} | | {_hex(register.reset)} | {register.description} |\n")
            parts += [f"| | | | {_bits(field)} | `{field.name}` | {_hex(field.reset)} | "
                      f"{_says(field.description, field)} |\n" for field in register.fields]
    parts.append("\n# Packets\n\nBeats are filled from the lowest bit. Consecutive elements are "
                 "packed without "
                 "gaps; the last beat is padded with zeros.\n")
    for packet in registers.packets:
        parts.append("\n" + describe_packet(packet))
    return "".join(parts)


# --- SystemRDL ----------------------------------------------------------------------------------

_RDL_ACCESS = {
    "ro": "sw = r; hw = w;",
    "rw": "sw = rw; hw = r;",
    "wo": "sw = w; hw = r;",
    "w1c": "sw = rw; hw = w; woclr;",
}


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def systemrdl(registers: RegisterMap, name: str = "nearbit") -> str:
    """Write the registers as SystemRDL 2.0: an address map with the core's name."""
    errors = " ".join(f"{each.name} = {each.value};" for each in registers.errors)
    commands = " ".join(f"{each.name} = {each.value};" for each in Command)
    lines = [f"// {LICENSE}", "", f"enum {name}_error {{ {errors} }};",
             f"enum {name}_command {{ {commands} }};", "",
             f"addrmap {name} {{", "    default regwidth = 32;", "    default accesswidth = 32;"]
    encodings = {("ERROR", "CODE"): f"{name}_error",
                 ("COMMAND", "COMMAND"): f"{name}_command"}
    for register in registers.registers:
        lines += ["", "    reg {", f"        desc = {_quote(register.description)};"]
        for field in register.fields:
            encode = encodings.get((register.name, field.name))
            lines += ["        field {", f"            desc = {_quote(field.description)};",
                      f"            {_RDL_ACCESS[field.access]}",
                      *([f"            encode = {encode};"] if encode else []),
                      # Writing has an effect, and no value that stays.
                      *([] if field.access == "wo" else [f"            reset = {field.reset};"]),
                      f"        }} {field.name}[{field.lowest + field.bits - 1}:{field.lowest}];"]
        lines.append(f"    }} {register.name} @ 0x{register.address:03x};")
    lines += ["};", ""]
    return "\n".join(lines)
