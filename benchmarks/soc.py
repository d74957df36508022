"""What the SoC interface adds to a core: logic, latency, interval.

    python benchmarks/soc.py [--check]

Synthesizes the core and both SoC cores of the reference preset for ECP5, measures the cycles of the
AXI one in simulation, maps core and AXI one for AMD's 7 series, and writes
benchmarks/results/soc.json and the figures in docs/soc.md. About fifteen minutes.

With --check nothing is written, and nothing mapped for the 7 series: it fails if the AXI interface
takes 600 LUT4 or more on ECP5, or if a query takes other cycles than the result says.
"""

import json
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from nearbit.area.synthesis import DEVICES, count, synthesize, verilog
from nearbit_hw import yosys
from nearbit_hw.core import Core
from nearbit_hw.soc.soc_core import BUSES, SocCore
from nearbit_model.config import Config
from nearbit_sim.bench import run_bench


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "soc.json"
DOCUMENT = ROOT / "docs" / "soc.md"
BENCH = ROOT / "tests" / "hw" / "soc" / "directed.py"
TARGET = "ecp5"
XILINX = "xc7"
PRESET = "reference"
DATA_BITS = 64
LIMIT = 600


def logic(kinds: Counter[str]) -> dict[str, int]:
    """Count logic, and apart from it the memory that is made of it (6 each, with their control)."""
    return {"luteq": kinds["LUT4"] + 2 * kinds["CCU2C"], "ffs": kinds["TRELLIS_FF"],
            "distributed_memories": kinds["TRELLIS_DPR16X4"]}


def areas(config: Config) -> dict[str, Any]:
    """Measure a core with and without its interface, and the interface alone."""
    bare = logic(synthesize(verilog(Core(config), TARGET), TARGET)["top"])
    found: dict[str, Any] = {"core": bare}
    for bus in BUSES:
        text = verilog(SocCore(config, bus=bus, data_bits=DATA_BITS), TARGET)
        # The difference of two whole designs has in it what the synthesis of the core varies by;
        # the interface alone, around a core of which there are only the ports, does not.
        alone = logic(synthesize(text, TARGET, black=(r"\top.core",))["top"])
        found[bus] = {"alone": alone}
        if bus == "axi":
            whole = logic(synthesize(text, TARGET)["top"])
            found[bus] |= {"with_core": whole,
                           "over_core": {name: whole[name] - bare[name] for name in whole}}
        print(bus, found[bus], flush=True)
    return found


def seven_series(config: Config) -> dict[str, Any]:
    """Map a core with and without its interface for AMD's 7 series; nothing is placed."""
    # As `nearbit verilog` writes it, unless it is asked for a device's cells.
    config = config.replace(cell="generic")
    texts = [verilog(dut, XILINX) for dut in (Core(config), SocCore(config, data_bits=DATA_BITS))]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda text: synthesize(text, XILINX)["top"], texts))
    return {"device": DEVICES[XILINX].name, "command": DEVICES[XILINX].command,
            **{name: count(kinds, XILINX).to_dict()
               for name, kinds in zip(("core", "axi"), found, strict=True)}}


def ecp5_table(results: dict[str, Any]) -> str:
    """Tell what the interface takes of an ECP5, as Markdown."""
    area = results["area"]
    rows = [("core alone", area["core"]), ("with AXI4-Lite and AXI4-Stream",
                                            area["axi"]["with_core"]),
            ("the difference", area["axi"]["over_core"]),
            ("the AXI interface, synthesized alone", area["axi"]["alone"]),
            ("the same with Wishbone", area["wishbone"]["alone"])]
    return (f"| preset `{results['preset']}` | {results['unit']} | flip-flops | TRELLIS_DPR16X4 |\n"
            "|---|--:|--:|--:|\n" + "".join(
                f"| {name} | {found['luteq']:,} | {found['ffs']:,} | "
                f"{found['distributed_memories']} |\n" for name, found in rows))


def seven_series_table(results: dict[str, Any]) -> str:
    """Tell what a core with its interface takes of AMD's 7 series, as Markdown."""
    names = {"core": "core alone", "axi": "with AXI4-Lite and AXI4-Stream"}
    return (f"| preset `{results['preset']}` | LUT6 | flip-flops | RAMB36 | DSP48 |\n"
            "|---|--:|--:|--:|--:|\n" + "".join(
                f"| {names[key]} | {found['luteq']:,} | {found['ffs']:,} | "
                f"{found['brams'] / 2:g} | {found['dsps']} |\n"
                for key, found in results["seven_series"].items() if key in names))


def document(text: str, results: dict[str, Any]) -> str:
    """Put the figures into docs/soc.md."""
    for mark, table in (("ecp5", ecp5_table(results)), ("xilinx", seven_series_table(results))):
        before, begin, rest = text.partition(f"<!-- {mark} -->\n")
        _, end, after = rest.partition(f"<!-- /{mark} -->")
        text = before + begin + table + end + after
    return text


def cycles(config: Config) -> dict[str, int]:
    """Measure the cycles of queries in simulation; their results are compared there as well."""
    dut = SocCore(config, data_bits=DATA_BITS)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "cycles.json"
        run_bench(dut, BENCH, test_filter="cycles_are_the_cores", timeout=600, parameters={
            "config": config.to_dict(), "data_bits": DATA_BITS, "latency": dut.latency,
            "queries": 16, "report": str(report)})
        measured: dict[str, int] = json.loads(report.read_text(encoding="utf-8"))
    return measured


def main(arguments: list[str]) -> int:
    config = Config.preset(PRESET)
    results: dict[str, Any] = {
        "preset": PRESET,
        "data_bits": DATA_BITS,
        "tools": {"amaranth": metadata.version("amaranth"), "yosys": yosys.version()},
        "device": DEVICES[TARGET].name,
        "command": DEVICES[TARGET].command,
        "unit": "LUT4 + 2 x CCU2C",
        "cycles": cycles(config),
    }
    print(results["cycles"], flush=True)
    is_check = "--check" in arguments
    results["area"] = areas(config)
    failures = []
    luts = results["area"]["axi"]["over_core"]["luteq"]
    if luts >= LIMIT:
        failures.append(f"the AXI interface takes {luts} LUT4, not fewer than {LIMIT}")
    if is_check:
        known = json.loads(RESULTS.read_text(encoding="utf-8"))
        if known["cycles"] != results["cycles"]:
            failures.append(f"cycles are {results['cycles']}, not {known['cycles']}")
    else:
        results["seven_series"] = seven_series(config)
        print(results["seven_series"], flush=True)
        DOCUMENT.write_text(document(DOCUMENT.read_text(encoding="utf-8"), results),
                            encoding="utf-8", newline="\n")
        RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8", newline="\n")
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
