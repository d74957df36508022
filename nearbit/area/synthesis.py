"""What a device needs for a component, by synthesis with Yosys."""

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Elaboratable, Fragment, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw import yosys
from nearbit_hw.score.popcount import XorPopcount, platform_target
from nearbit_hw.score.score_array import cell_operands
from nearbit_hw.verilog import generate
from nearbit_model.config import Config
from nearbit_sim.netlist import SYNTHESIS


__all__ = ["DEVICES", "Device", "Resources", "cell_verilog", "count", "key", "synthesize", "units",
           "verilog"]


@dataclass(frozen=True)
class Device:
    """A family of devices.

    Parameters
    ----------
    name
        For readers.
    part
        One of them: what components choose their form by.
    command
        How Yosys synthesizes for it.
    unit
        What ``luteq`` counts.
    luts
        Cells that take logic, and what each takes of the unit.
    dsps, rams
        Cells that multiply, and blocks of memory, with what each counts.
    """

    name: str
    part: str
    command: str
    unit: str
    luts: Mapping[str, int]
    dsps: Mapping[str, int]
    rams: Mapping[str, int]


# A DPR16X4 is two slices and half of another, whose LUTs write: six in all.
_ECP5 = Device("Lattice ECP5", "LFE5U-25F", SYNTHESIS["ecp5"], "LUT4 + 2 x CCU2C",
               {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}, {"MULT18X18D": 1},
               {"DP16KD": 1, "PDPW16KD": 1})
_ICE40 = Device("Lattice iCE40 HX and LP", "iCE40HX8K", SYNTHESIS["ice40"], "logic cells",
                {"SB_LUT4": 1}, {"SB_MAC16": 1}, {"SB_RAM40_4K": 1, "SB_SPRAM256KA": 1})

DEVICES: dict[str, Device] = {
    "ecp5": _ECP5,
    "ice40": _ICE40,
    # Without -spram: memories are counted in block RAMs.
    "up5k": Device("Lattice iCE40 UltraPlus", "iCE40UP5K", "synth_ice40 -dsp -device u",
                   _ICE40.unit, _ICE40.luts, _ICE40.dsps, _ICE40.rams),
    "xc7": Device(
        "AMD 7 series", "xc7a35t", SYNTHESIS["xc7"], "LUT6",
        {**{f"LUT{size}": 1 for size in range(1, 7)}, "LUT6_2": 1, "INV": 1, "RAM32M": 4,
         "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2, "SRL16E": 1, "SRLC32E": 1},
        {"DSP48E1": 1}, {"RAMB18E1": 1, "RAMB36E1": 2}),
}
"""Targets by name."""

_FLIP_FLOP = re.compile(r"TRELLIS_FF|SB_DFF\w*|FD[RSCP]E(_1)?|LD[CP]E")


@dataclass(frozen=True)
class Resources:
    """What a block takes.

    Parameters
    ----------
    luteq
        Logic, in the device's unit.
    ffs
        Flip-flops.
    brams
        Blocks of memory: DP16KD of 18 Kbit, SB_RAM40_4K of 4 Kbit, halves of a RAMB36E1.
    dsps
        MULT18X18D, SB_MAC16, DSP48E1.
    """

    luteq: float = 0
    ffs: float = 0
    brams: float = 0
    dsps: float = 0

    def __add__(self, other: "Resources") -> "Resources":
        """Add what two blocks take."""
        return Resources(self.luteq + other.luteq, self.ffs + other.ffs,
                         self.brams + other.brams, self.dsps + other.dsps)

    def to_dict(self) -> dict[str, int]:
        """Whole numbers, by name."""
        return {name: round(value) for name, value in vars(self).items()}


class _On(Elaboratable):
    """A component as it is for a device: its platform has a part, and nothing else."""

    def __init__(self, component: wiring.Component, part: str):
        self._component = component
        self.signature = component.signature
        self.device = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._component, name)

    def elaborate(self, platform: object) -> Any:
        return Fragment.get(self._component, self)


def verilog(component: wiring.Component, target: str, name: str = "top") -> str:
    """Generate the Verilog that a component has for a target."""
    # What a memory holds at the start costs nothing, but the time in which Yosys writes zeros into
    # each word of it.
    text = generate(_On(component, DEVICES[target].part), name, # type: ignore[arg-type]
                    initial="given")
    # The first line names the wrapper.
    return text.partition("\n")[2]


def key(text: str, target: str) -> str:
    """Identify a synthesis by its text and its command."""
    return hashlib.sha256(f"{DEVICES[target].command}\n{text}".encode()).hexdigest()[:16]


def synthesize(text: str, target: str, *, top: str = "top", keep: Iterable[str] = (),
               black: Iterable[str] = (), folder: Path | None = None) -> dict[str, Counter[str]]:
    """Synthesize Verilog and count the cells of each module that is left.

    Parameters
    ----------
    text
        Verilog, as :func:`verilog` makes it.
    target
        One of :data:`DEVICES`.
    top
        Its top module.
    keep
        Modules that are not dissolved into the ones above them, so that they are counted alone.
    black
        Modules that are left out: only their ports are there.
    folder
        Where the netlist ``top.json`` shall stay; without, it does not.

    Returns
    -------
    dict
        For each module, how many cells it has of each kind, and of ``logic cells`` on iCE40.
    """
    with tempfile.TemporaryDirectory(prefix="area-") as name:
        directory = Path(name) if folder is None else folder
        (directory / "top.v").write_text(text, encoding="utf-8")
        yosys.run([
            "read_verilog top.v",
            *(f"blackbox {module}" for module in black),
            *(f"setattr -mod -set keep_hierarchy 1 {module}" for module in keep),
            f"{DEVICES[target].command} -top {top}",
            "check -assert", "write_json top.json"], directory)
        modules = json.loads((directory / "top.json").read_text(encoding="utf-8"))["modules"]
    found = {}
    for module, contents in modules.items():
        if "blackbox" in contents["attributes"] or "whitebox" in contents["attributes"]:
            continue
        cells = contents["cells"].values()
        kinds = Counter(cell["type"] for cell in cells if not cell["type"].startswith("$"))
        if target in ("ice40", "up5k"):
            kinds["logic cells"] = _logic_cells(cells)
        found[module] = kinds
    return found


def _logic_cells(cells: Iterable[dict[str, Any]]) -> int:
    """Count the logic cells that nextpnr packs LUTs, flip-flops and carries of an iCE40 into.

    A flip-flop shares the cell of a LUT that drives nothing else, a carry the cell of a LUT that
    looks at the same two bits and the carry's input, or else of one that drives it and has two
    inputs at most. A carry that ends as an ordinary bit, and a chain that begins with one, need a
    cell to cross.
    """
    luts, flip_flops, carries = [], [], []
    readers: Counter[Any] = Counter()
    for cell in cells:
        pins = {name: bits[0] for name, bits in cell["connections"].items() if len(bits) == 1}
        match cell["type"]:
            case "SB_LUT4":
                luts.append(pins)
            case "SB_CARRY":
                carries.append(pins)
            case kind if kind.startswith("SB_DFF"):
                flip_flops.append(pins)
        for name, bits in cell["connections"].items():
            if cell["port_directions"].get(name) == "input":
                readers.update(bits)
    drivers = {pins["O"]: pins for pins in luts}
    alone = sum(1 for pins in flip_flops if pins["D"] not in drivers or readers[pins["D"]] > 1)
    adders: dict[Any, list[Any]] = {}
    for pins in luts:
        adders.setdefault((pins.get("I1"), pins.get("I2"), pins.get("I3")), []).append(pins["O"])
    outputs = {pins["CO"]: pins for pins in carries}
    beside = {pins["I3"] for pins in luts if "I3" in pins}
    taken = set() # outputs of the LUTs with a carry
    without = []
    entered = 0
    for pins in carries:
        place = (pins["I0"], pins["I1"], pins["CI"])
        swapped = (pins["I1"], pins["I0"], pins["CI"])
        for choice in (place, swapped):
            if adders.get(choice):
                taken.add(adders[choice].pop())
                break
        else:
            without.append(pins)
        if pins["CI"] not in ("0", "1", "x") and pins["CI"] not in outputs:
            entered += 1
    loose = len(without) + entered
    for pins in without:
        for bit in (pins["I0"], pins["I1"]):
            lut = drivers.get(bit)
            if lut is not None and bit not in taken and all(
                    lut.get(name) in (None, "0", "x") for name in ("I0", "I1")):
                taken.add(bit)
                loose -= 1
                break
    # A last carry is read by the LUT above it as its I3; any other way out crosses in a cell.
    crossing = sum(1 for bit in outputs
                   if readers[bit] and bit not in beside
                   and not any(pins["CI"] == bit for pins in carries))
    return len(luts) + alone + loose + crossing


def count(kinds: Mapping[str, int], target: str) -> Resources:
    """Count what cells take."""
    device = DEVICES[target]
    known = {*device.luts, *device.dsps, *device.rams, "SB_CARRY", "CARRY4", "logic cells"}
    for kind in kinds:
        if kind not in known and not _FLIP_FLOP.fullmatch(kind):
            raise ValueError(f"{device.name}: a cell {kind}, of which nobody knows what it takes")

    def total(prices: Mapping[str, int]) -> int:
        return sum(price * kinds.get(kind, 0) for kind, price in prices.items())

    return Resources(
        luteq=kinds["logic cells"] if "logic cells" in kinds else total(device.luts),
        ffs=sum(number for kind, number in kinds.items() if _FLIP_FLOP.fullmatch(kind)),
        brams=total(device.rams), dsps=total(device.dsps))


def units(text: str, top: str) -> list[str]:
    """Name the modules directly below the top."""
    return re.findall(rf"^module \\{top}\.([^\s.]+) ", text, re.MULTILINE)


class _Cell(wiring.Component):
    """A cell as in an array: never stalled, with inputs delayed elsewhere as it wants them."""

    a: Signal
    o: Signal

    def __init__(self, bits: int, fan_in: int, kind: str, operands: int):
        self._cell = XorPopcount(bits, fan_in=fan_in, target=kind, operands=operands, skewed=True)
        super().__init__({**dict.fromkeys("ab"[:operands], In(bits)), "o": Out(range(bits + 1))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.cell = cell = self._cell
        m.d.comb += [cell.i.p[name].eq(getattr(self, name))
                     for name in "ab"[:self._cell.operands]]
        m.d.comb += [cell.i.valid.eq(1), cell.o.ready.eq(1), self.o.eq(cell.o.payload)]
        return m


def cell_verilog(config: Config, target: str) -> str:
    """Generate the Verilog of one cell of a configuration's array."""
    kind = config.cell or platform_target(SimpleNamespace(device=DEVICES[target].part))
    return verilog(_Cell(config.key_bits, config.fan_in, kind, cell_operands(config.queries, kind)),
                   target)
