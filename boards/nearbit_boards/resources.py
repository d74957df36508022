"""Resources that a design needs: estimated from its memories, or counted in its netlist."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nearbit_boards.board import BoardError, Device
from nearbit_hw.ram import UNINITIALIZED
from nearbit_model.config import MULTIPLIER_BITS, SCALE_BITS, Config


__all__ = ["Memory", "Used", "check_memories", "count_cells", "dsps", "expected", "memories"]


@dataclass(frozen=True)
class Memory:
    """A memory of a design.

    Parameters
    ----------
    name
        Module and name.
    width, words
        Bits per word, and number of words.
    is_block
        Whether it must be in block RAM; other memories are small, and may use any resource.
    is_large
        Whether it may use the large memories of an iCE40 UltraPlus.
    """

    name: str
    width: int
    words: int
    is_block: bool
    is_large: bool


_MODULE = re.compile(r"^module (\S+?) ?\(", re.MULTILINE)
_MEMORY = re.compile(r"^((?:  \(\* [^\n]* \*\)\n)*)"
                     r"  reg (?:\[(\d+):0\] )?(\S+) +\[(\d+):0\];$", re.MULTILINE)


def memories(verilog: str) -> list[Memory]:
    """List the memories in Verilog that :func:`nearbit_hw.verilog.generate` has written.

    Each module appears as often as it is used.
    """
    places = [(match.start(), match[1].lstrip("\\")) for match in _MODULE.finditer(verilog)]
    found = []
    for match in _MEMORY.finditer(verilog):
        attributes, width, name, words = match.groups()
        module = [name for start, name in places if start < match.start()][-1]
        is_large = f"(* {UNINITIALIZED} = " in attributes
        found.append(Memory(
            f"{module}.{name.lstrip(chr(92))}", int(width or 0) + 1, int(words) + 1,
            is_large or 'ram_style = "block"' in attributes, is_large))
    return found


# Width and number of words of each shape that a block RAM can have.
_SHAPES = {
    "ice40": ((16, 256), (8, 512), (4, 1024), (2, 2048)),
    "ecp5": ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384)),
}
_LARGE = (16, 16384) # an SB_SPRAM256KA


def _blocks(memory: Memory, shapes: Iterable[tuple[int, int]]) -> int:
    return min(-(-memory.width // width) * -(-memory.words // words) for width, words in shapes)


@dataclass(frozen=True)
class Used:
    """Resources of a device that are used.

    Parameters
    ----------
    luts
        Logic cells of an iCE40; LUT4 of an ECP5, including those of carry chains and small
        memories.
    ffs, brams, sprams, dsps
        Flip-flops, and blocks as in :class:`nearbit_boards.board.Device`.
    """

    luts: int
    ffs: int
    brams: int
    sprams: int
    dsps: int


def expected(found: Iterable[Memory], device: Device) -> tuple[int, int]:
    """Count the block RAMs and SPRAMs that memories need."""
    brams = sprams = 0
    for memory in found:
        if memory.is_large and device.sprams:
            sprams += _blocks(memory, (_LARGE,))
        elif memory.is_block:
            brams += _blocks(memory, _SHAPES[device.family])
    return brams, sprams


def check_memories(found: Iterable[Memory], device: Device, part: str, what: str) -> None:
    """Raise :class:`BoardError` if the memories alone do not fit a device."""
    known = list(found)
    brams, sprams = expected(known, device)
    for kind, needed, there in (("block RAMs", brams, device.brams),
                                ("SPRAMs", sprams, device.sprams)):
        if needed > there:
            sizes = Counter[str]()
            for memory in known:
                if memory.is_block and (memory.is_large and bool(device.sprams)) \
                        == (kind == "SPRAMs"):
                    unit = memory.name.rpartition(".")[0].rpartition(".")[2]
                    sizes[unit] += sum(expected([memory], device))
            parts = ", ".join(f"{unit} {count}" for unit, count in sizes.most_common(3))
            raise BoardError(f"{what} needs {needed} {kind} and {part} has {there} (most: "
                             f"{parts}); take fewer keys (capacity) or smaller value vectors "
                             f"(value_dim), or a larger device")


def dsps(config: Config, device: Device) -> int:
    """Count the multipliers that a configuration implies.

    One for each value lane, one for the weights, and those of the reciprocal. With a single value
    port, the first value lane's multiplier scales the weights. Rescoring has one for each of its
    lanes, and two products that scale its scores. On an iCE40 UltraPlus, what does not fit its
    eight is built from logic. Devices without multipliers have none.
    """
    if not device.dsps:
        return 0
    products = [(config.weight_bits + 1, config.value_bits)] * config.value_lanes
    if config.scale_beats:
        products[0] = config.weight_bits + 1, max(config.value_bits, SCALE_BITS)
    else:
        products.append((config.weight_bits, SCALE_BITS))
    if config.rescore is not None:
        bits = config.rescore.element_bits
        products += [(bits, bits)] * config.rescore.lanes
        products += [((2 * config.score_max).bit_length(), MULTIPLIER_BITS // 2)] * 2
    if config.normalizer == "reciprocal":
        products += config.reciprocal_times.products(config.value_bits)
    return sum(_tiles(*product, device) for product in products)


# Width of a multiplier's operands, and of the narrowest product that Yosys does not build in logic.
_WIDTHS = {"ice40": (16, 11), "ecp5": (18, 0)}


def _tiles(first: int, second: int, device: Device) -> int:
    """Count the multipliers of a product. A bit by itself is multiplied in logic."""
    size, narrowest = _WIDTHS[device.family]
    if first + second < narrowest:
        return 0
    return math.prod(width // size + (width % size > 1) for width in (first, second))


_CELLS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "ice40": {"brams": ("SB_RAM40_4K",), "sprams": ("SB_SPRAM256KA",), "dsps": ("SB_MAC16",)},
    "ecp5": {"brams": ("DP16KD", "PDPW16KD"), "sprams": (), "dsps": ("MULT18X18D",)},
}
_FLIP_FLOP = re.compile(r"SB_DFF\w*|TRELLIS_FF")
# Number of LUT4 that a cell of an ECP5 takes.
_ECP5_LUTS = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}


def count_cells(netlist: Mapping[str, Any], top: str, device: Device) -> Used:
    """Count what a synthesized netlist (JSON as Yosys writes it) uses.

    ``luts`` excludes flip-flops that need a separate logic cell: placement counts them.
    """
    cells = netlist["modules"][top]["cells"].values()
    kinds = Counter(re.sub(r"(?<=SB_RAM40_4K)N[RW]+$", "", cell["type"]) for cell in cells)
    blocks = {name: sum(kinds[kind] for kind in names)
              for name, names in _CELLS[device.family].items()}
    luts = kinds["SB_LUT4"] if device.family == "ice40" else sum(
        price * kinds[kind] for kind, price in _ECP5_LUTS.items())
    return Used(luts=luts, ffs=sum(number for kind, number in kinds.items()
                                   if _FLIP_FLOP.fullmatch(kind)), **blocks)
