"""The C header of a memory's layout: addresses and rows as the models have them."""

import importlib.util
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from nearbit.soc import exports
from nearbit_model.config import Config, Memory, Rescore
from nearbit_model.memory import LayoutError, MemoryLayout, plan_memory


C_FLAGS = ("-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion",
           "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes", "-Werror")

CONFIGS = {
    "12-bit keys": Config(
        key_bits=32, value_dim=128, capacity=1024, lanes=1, value_lanes=32,
        rescore=Rescore(head_dim=128, lanes=16, element_bits=12),
        memory=Memory(heads=3, page_tokens=64, pages=20)),
    "no keys, 6-bit values": Config(
        key_bits=5, value_dim=32, capacity=1024, lanes=4, value_lanes=32, value_bits=6,
        memory=Memory(heads=2, page_tokens=128, address_bits=40)),
    "wide": Config(
        key_bits=100, value_dim=512, capacity=256, lanes=1, value_lanes=512, value_bits=15,
        rescore=Rescore(head_dim=10, lanes=1, element_bits=16),
        memory=Memory(heads=5, page_tokens=32, bus_bits=512)),
}

PROGRAM = r"""
#include <inttypes.h>
#include <stdio.h>
#include "memory.h"

static const int16_t key[] = {@KEY@};
static const int16_t values[] = {@VALUES@};
static const uint32_t pages[] = {@PAGES@};

int main(void)
{
    static uint8_t row[NEARBIT_ROW_BYTES + 1];
    uint32_t index;
    row[NEARBIT_ROW_BYTES] = 0x5a;
    nearbit_pack_row(row, key, values, @SCALE@);
    for (index = 0; index <= NEARBIT_ROW_BYTES; index++)
        printf("%02x", (unsigned)row[index]);
    printf("\n");
    for (index = 0; index < @TOKENS@; index++) {
        uint64_t place = nearbit_place(pages, index);
        printf("%" PRIu64 " %" PRIu64 "\n", nearbit_code_address(@CODES@, place),
               nearbit_row_address(@ROWS@, @STRIDE@, place));
    }
    return 0;
}
"""


def compiler(language):
    for name in {"c": ("gcc", "clang", "cc"), "c++": ("g++", "clang++", "c++")}[language]:
        if shutil.which(name):
            return [name]
    assert importlib.util.find_spec("ziglang") is not None, "a C compiler is needed"
    return [sys.executable, "-m", "ziglang", "cc" if language == "c" else "c++"]


def defines(text):
    return {name: int(value) for name, value in
            re.findall(r"^#define NEARBIT_(\w+) +(\d+)u$", text, re.MULTILINE)}


@pytest.mark.parametrize("name", CONFIGS)
def test_program(name, tmp_path):
    """A program packs a row and computes addresses; all of it is what the models have."""
    config = CONFIGS[name]
    layout = MemoryLayout.of(config)
    rng = np.random.default_rng(len(name))
    plan = plan_memory(config, origin=1 << 31, stride=layout.least_stride + layout.row_unit)
    pages = rng.permutation(config.memory_pages)[:config.capacity // config.memory.page_tokens]
    head, tokens = 1, min(500, config.capacity)

    def some(field):
        low, high = -(1 << field.bits - 1), (1 << field.bits - 1) - 1
        found = rng.integers(low, high, size=field.elements, endpoint=True)
        found[:2] = low, high
        return found

    values, key = some(layout.values), None if layout.key is None else some(layout.key)
    scale = 0xa5c3
    given = {"KEY": [0] if key is None else key.tolist(), "VALUES": values.tolist(),
             "PAGES": [f"{page}u" for page in pages]}
    program = PROGRAM
    for mark, numbers in given.items():
        program = program.replace(f"@{mark}@", ", ".join(map(str, numbers)))
    for mark, text in {"SCALE": f"{scale}u", "TOKENS": f"{tokens}u",
                       "CODES": f"UINT64_C({plan.heads[head].codes})",
                       "ROWS": f"UINT64_C({plan.heads[head].rows})",
                       "STRIDE": f"{plan.heads[head].stride}u"}.items():
        program = program.replace(f"@{mark}@", text)
    (tmp_path / "memory.h").write_text(exports.memory_header(config))
    (tmp_path / "program.c").write_text(program)
    subprocess.run([*compiler("c"), *C_FLAGS, "program.c", "-o", "program"], cwd=tmp_path,
                   check=True)
    row, *addresses = subprocess.run(
        [tmp_path / "program"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert bytes.fromhex(row) == layout.pack_rows(values, scale, key).tobytes() + b"\x5a"
    places = plan.places_of(pages, 0, tokens).tolist()
    assert [tuple(map(int, line.split())) for line in addresses] == [
        (plan.code_address(head, place), plan.row_address(head, place)) for place in places]


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes(name):
    config = CONFIGS[name]
    layout = MemoryLayout.of(config)
    unit = config.rescore
    assert defines(exports.memory_header(config)) == {
        "HEADS": config.memory.heads, "SEQUENCES": config.memory.sequences,
        "SEQUENCE_TOKENS": config.capacity, "PAGE_TOKENS": config.memory.page_tokens,
        "PAGES": config.memory_pages, "CODE_BYTES": layout.code_bytes,
        "CODE_ALIGNMENT": layout.code_unit, "ROW_BYTES": layout.row_bytes,
        "ROW_ALIGNMENT": layout.row_unit, "ROW_STRIDE_MIN": layout.least_stride,
        "ROW_STRIDE_MAX": layout.most_stride, "ROW_KEY_OFFSET": 0,
        "ROW_KEY_ELEMENTS": 0 if unit is None else unit.head_dim,
        "ROW_KEY_ELEMENT_BITS": 0 if unit is None else unit.element_bits,
        "ROW_VALUE_OFFSET": layout.values.offset, "ROW_VALUE_ELEMENTS": config.value_dim,
        "ROW_VALUE_ELEMENT_BITS": config.value_bits, "ROW_SCALE_OFFSET": layout.scale.offset}


@pytest.mark.parametrize(("language", "standard"), [("c", "c99"), ("c++", "c++11")])
def test_two_names_in_one_program(language, standard, tmp_path):
    """Cores of different names have nothing in common; C++ takes them, too."""
    for name, config in zip(("left", "right"), CONFIGS.values(), strict=False):
        (tmp_path / f"{name}_memory.h").write_text(exports.memory_header(config, name))
    (tmp_path / "program.c").write_text(
        '#include "left_memory.h"\n#include "left_memory.h"\n#include "right_memory.h"\n'
        "int main(void) { return LEFT_HEADS != 3u || RIGHT_HEADS != 2u\n"
        "    || left_code_address(256, 3) != 256 + 3 * 4\n"
        "    || right_code_address(256, 3) != 256 + 3; }\n")
    subprocess.run([*compiler(language), f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-x",
                    language, "program.c", "-o", "program"], cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "program"], check=True)


def test_license():
    assert exports.LICENSE in exports.memory_header(CONFIGS["wide"]).splitlines()[0]


def test_no_memory():
    with pytest.raises(LayoutError, match=r"^the configuration has no memory: give it a table "):
        exports.memory_header(Config.preset("tiny"))
