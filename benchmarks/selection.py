"""What each way to select takes in each preset and board, in docs/decisions/0010.

    python benchmarks/selection.py [--synthesize]

Counts cycles of the largest range with N = 32 (or as many as the preset selects) by the cycle
model, and block RAMs of an ECP5 for the whole accelerator as `nearbit build` does before it
synthesizes: some seconds for each. With --synthesize, the selections of presets with up to 16 lanes
are also synthesized (minutes for each); what was synthesized before is kept otherwise. Writes
benchmarks/results/selection.json and the tables of the decision.
"""

import argparse
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from amaranth.hdl import UnusedElaboratable

from nearbit.area.synthesis import count, synthesize, verilog
from nearbit_boards.board import DEVICES, Device
from nearbit_boards.boards import BOARDS
from nearbit_boards.resources import expected, memories
from nearbit_boards.top import BoardTop
from nearbit_hw import yosys
from nearbit_hw.core import Core
from nearbit_hw.verilog import generate
from nearbit_model.config import PRESETS, SELECTIONS, Config
from nearbit_model.cycles import steady


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "selection.json"
DOCUMENT = ROOT / "docs" / "decisions" / "0010-histograms-where-block-ram-allows.md"
LARGEST = "LFE5U-85F"
MOST_LANES = 16
"""Lanes of the widest selection that is synthesized."""


def cycles(config: Config) -> dict[str, Any]:
    """Count the cycles of the largest range."""
    known = steady(config, words=config.capacity // config.lanes, selected=min(32, config.top_n),
                   rescore=config.rescore is not None)
    return {"latency": known.latency, "interval": float(known.interval), "limit": known.limit}


def blocks(text: str, device: Device) -> int:
    """Count the block RAMs that the memories of Verilog are made of."""
    return expected(memories(text), device)[0]


def logic(config: Config) -> dict[str, int]:
    """Synthesize the first query's selection for ECP5."""
    parts: Any = Core(config).elaborate(None)
    found = count(synthesize(verilog(parts.submodules["top_n_0"], "ecp5"), "ecp5")["top"], "ecp5")
    return {"luteq": round(found.luteq), "ffs": round(found.ffs), "brams": round(found.brams)}


def measure(kept: dict[str, Any], *, again: bool) -> dict[str, Any]:
    """Measure presets and boards; of what is not synthesized again, keep what there is."""
    device = DEVICES[LARGEST]
    found: dict[str, Any] = {"presets": {}, "boards": {}}
    for name, preset in PRESETS.items():
        for selection in SELECTIONS:
            config = preset.replace(selection=selection, refine_lanes=preset.refine_lanes)
            point = {"selection": selection, "config": config.to_dict(), **cycles(config),
                     "core_brams": blocks(generate(Core(config), "top"), device)}
            before = kept.get("presets", {}).get(f"{name} {selection}", {})
            if again and config.lanes <= MOST_LANES:
                point.update(logic(config))
            elif before.get("config") == point["config"]:
                point.update({key: before[key] for key in ("luteq", "ffs", "brams")
                              if key in before})
            found["presets"][f"{name} {selection}"] = point
            print(name, selection, {key: value for key, value in point.items()
                                    if key != "config"}, flush=True)
    for name, board in BOARDS.items():
        for selection in SELECTIONS:
            if selection == "histograms" and board.device.family == "ice40":
                continue
            config = board.config.replace(selection=selection,
                                          refine_lanes=board.config.refine_lanes)
            changed = replace(board, config=config)
            text = generate(BoardTop(config, clock=board.clock, baud=board.baud,
                                     version=(0, 0, 0)), "accelerator")
            found["boards"][f"{name} {selection}"] = {
                "selection": selection, **cycles(config),
                "brams": blocks(text, changed.device), "brams_total": changed.device.brams}
            print(name, selection, found["boards"][f"{name} {selection}"], flush=True)
    return found


def tables(found: dict[str, Any]) -> str:
    """Both tables of the decision."""
    lines = ["| preset | selection | latency | interval | block RAMs | logic of a selection |",
             "|---|---|--:|--:|--:|--:|"]
    for name, point in found["presets"].items():
        used = PRESETS[name.split()[0]].selection == point["selection"]
        mark = "**" if used else ""
        area = f"{point['luteq']:,}" if "luteq" in point else ""
        lines.append(f"| {name.split()[0]} | {mark}{point['selection']}{mark} "
                     f"| {point['latency']:,} | {point['interval']:,g} | {point['core_brams']:,} "
                     f"| {area} |")
    lines += ["", "| board | selection | latency | interval | block RAMs | of |",
              "|---|---|--:|--:|--:|--:|"]
    for name, point in found["boards"].items():
        used = BOARDS[name.split()[0]].config.selection == point["selection"]
        mark = "**" if used else ""
        lines.append(f"| {name.split()[0]} | {mark}{point['selection']}{mark} "
                     f"| {point['latency']:,} | {point['interval']:,g} | {point['brams']:,} "
                     f"| {point['brams_total']:,} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, keep and document."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--synthesize", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore", UnusedElaboratable)
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    found = measure(kept, again=options.synthesize)
    found["device"] = LARGEST
    found["tools"] = {"yosys": yosys.version()}
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    begin, end = "<!-- selection: benchmarks/selection.py -->\n", "<!-- /selection -->"
    before, _, rest = text.partition(begin)
    DOCUMENT.write_text(before + begin + tables(found) + end + rest.partition(end)[2],
                        encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
