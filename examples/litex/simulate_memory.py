# SPDX-License-Identifier: Apache-2.0
"""A LiteX SoC whose Nearbit accelerator reads the cache of all heads from LiteDRAM, in Verilator.

    python simulate_memory.py sdr --heads 4

Fills LiteDRAM's model of a DRAM with random keys and values, asks three queries of each key head,
as SmolLM2 does for a token, and compares every answer with the golden model's. Prints how much of
the DRAM's peak bandwidth is taken by the bytes that the queries need; --json writes it to a file.
host.cpp takes the place of a processor and its DMA engine. Needs nearbit, litedram from PyPI, and
from Debian verilator and g++.
"""

import argparse
import json
import logging
import subprocess
import sys
from contextlib import chdir
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from litedram import modules
from litedram.phy.model import SDRAMPHYModel
from litex.build.generic_platform import Pins, Subsignal
from litex.build.sim import SimPlatform
from litex.soc.integration.soc import SoCRegion
from litex.soc.integration.soc_core import SoCMini
from litex.soc.interconnect import axi
from migen.genlib.io import CRG
from nearbit_litex import Nearbit

import nearbit
from nearbit.soc import bundle
from nearbit_hw.soc.registers import Address, Command, Status
from nearbit_model.memory import MemoryImage, plan_memory


HERE = Path(__file__).resolve().parent
CLOCK = 100_000_000
ORIGIN = 0x8000_0000
"""Address of the accelerator's registers on the bus of the SoC."""
TOKENS, N, GROUP = 1024, 64, 3
"""Tokens of the context, keys that a query selects, and queries of a key head."""
SEED = 1

WRITE, POLL, SEND, TAKE, START = range(5)
STEP = np.dtype([("kind", "<u4"), ("address", "<u4"), ("data", "<u8")])
BEAT = np.dtype([("cycle", "<u8"), ("data", "<u8")])
LAST = np.uint64(1 << 63)
"""Steps and beats of host.cpp, and the bit of a cycle that marks a packet's last beat."""


@dataclass(frozen=True)
class Dram:
    """A DRAM, what it gives in a cycle of the SoC, and the accelerator for it.

    `row_ports` is the number that suits it; `core` and `bus_bits` are fields in which the
    configuration differs from the preset `memory64`.
    """

    what: str
    module: Any
    rate: str
    data_bits: int
    peak_bytes: int
    bus_bits: int
    row_ports: int
    core: dict[str, int] = field(default_factory=dict)

    def config(self, heads: int) -> nearbit.Config:
        """Make the configuration of an accelerator for so many heads."""
        preset = nearbit.Config.preset("memory64")
        pages = TOKENS // preset.memory.page_tokens
        return preset.replace(top_n=N, **self.core, memory=replace(
            preset.memory, heads=heads, pages=pages, bus_bits=self.bus_bits,
            row_ports=self.row_ports))


DRAMS = {
    "sdr": Dram("SDR, 16 bits", modules.MT48LC16M16, "1:1", 16, 2, bus_bits=32, row_ports=2),
    "ddr3": Dram("DDR3-800, 16 bits", modules.MT41K128M16, "1:4", 16, 16, bus_bits=128,
                 row_ports=4, core={"lanes": 2, "refine_lanes": 4, "value_lanes": 16}),
}


class SimulatedSoC(SoCMini):
    """A SoC with an accelerator and a DRAM; its bus and the streams are pins for a host."""

    def __init__(self, dram, folder, octets):
        """Put them together; octets are the first bytes of the DRAM."""
        stream = [Subsignal("valid", Pins(1)), Subsignal("ready", Pins(1)),
                  Subsignal("last", Pins(1)), Subsignal("data", Pins(64))]
        host = axi.AXILiteInterface(data_width=32, address_width=32)
        platform = SimPlatform("SIM", [("sys_clk", 0, Pins(1)), *host.get_ios("host"),
                                       ("packet", 0, *stream), ("result", 0, *stream)])
        SoCMini.__init__(self, platform, clk_freq=CLOCK, bus_standard="axi-lite", ident="Nearbit")
        self.crg = CRG(platform.request("sys_clk"))
        self.bus.add_master("host", host)
        self.comb += host.connect_to_pads(platform.request("host"), mode="slave")

        chip = dram.module(CLOCK, dram.rate)
        whole = np.concatenate([octets, np.zeros(-len(octets) % 64, np.uint8)])
        # The model then checks the DRAM's timing, too.
        self.sdrphy = SDRAMPHYModel(module=chip, data_width=dram.data_bits, clk_freq=CLOCK,
                                    init=whole.view("<u4").tolist(), verbosity=1)
        self.add_sdram("sdram", phy=self.sdrphy, module=chip, l2_cache_size=0)
        add_accelerator(self, folder)

        packet, result = platform.request("packet"), platform.request("result")
        sink, source = self.accelerator.sink, self.accelerator.source
        self.comb += [
            sink.valid.eq(packet.valid), packet.ready.eq(sink.ready),
            sink.data.eq(packet.data), sink.last.eq(packet.last),
            result.valid.eq(source.valid), source.ready.eq(result.ready),
            result.data.eq(source.data), result.last.eq(source.last),
            self.accelerator.trace.ready.eq(1),
        ]


def add_accelerator(soc, folder):
    """Add what `nearbit verilog --interface axi -o FOLDER` wrote to a SoC with an SDRAM."""
    soc.accelerator = Nearbit(soc.platform, folder)
    soc.bus.add_slave("accelerator", soc.accelerator.bus,
                      SoCRegion(origin=ORIGIN, size=4096, cached=False))
    soc.accelerator.connect_memory(soc.sdram.crossbar, soc.bus.regions["main_ram"].origin)


class Program:
    """Steps of the host: writes of registers, waiting, and packets."""

    def __init__(self):
        """Begin without a step."""
        self.steps = []

    def write(self, **values):
        """Write registers, in the order in which they are given."""
        for name, value in values.items():
            self.write_at(Address[name], value)

    def write_at(self, address, value):
        """Write the register at an address."""
        self.steps.append((WRITE, ORIGIN + address, int(value)))

    def wait(self, register, bits):
        """Read a register until these bits are 0."""
        self.steps.append((POLL, ORIGIN + register, bits))

    def send(self, words):
        """Send a packet."""
        self.steps += [(SEND, int(number == len(words)), int(word))
                       for number, word in enumerate(words, 1)]

    def set_up(self, plan, pages, exp_tables, main_ram):
        """Set what stays from one token to the next: heads, pages and exp tables."""
        for number, head in enumerate(plan.heads):
            self.write(TABLE_CODES_LOW=main_ram + head.codes, TABLE_ROWS_LOW=main_ram + head.rows,
                       TABLE_STRIDE=head.stride, TABLE_HEAD=number | 1 << 31)
        self.write(TABLE_SEQUENCE=0)
        for index, page in enumerate(pages):
            self.write(TABLE_INDEX=index, TABLE_PAGE=int(page) | 1 << 31)
        for number, weights in enumerate(exp_tables):
            self.write(EXP_TABLE=number, TOKEN=0, NUMBER=len(weights),
                       COMMAND=Command.LOAD_EXP_TABLE)
            self.send(weights)
            self.wait(Address.STATUS, 1 << Status.BUSY)
        self.write(SEQUENCE=0, FIRST=0, N=N, SINK=0, RECENT=0, FLAGS=0)
        for query in range(GROUP):
            self.write_at(Address.QUERY_COUNT + 16 * query, TOKENS)
            self.write_at(Address.QUERY_EXP_TABLE + 16 * query, query)

    def ask(self, q_codes):
        """Ask for a token: codes of the queries of all heads, [heads, GROUP]."""
        self.steps.append((START, 0, 0))
        self.write(TABLE_TOKENS=TOKENS)
        for head, codes in enumerate(q_codes):
            self.wait(Address.STATUS, 1 << Status.BUSY)
            self.write(HEAD=head, NUMBER=1, COMMAND=Command.QUERY)
            self.send(codes)
        self.steps.append((TAKE, 0, q_codes.size))
        self.wait(Address.ERROR, (1 << 32) - 1)


def build(soc, folder):
    """Compile the simulation of a SoC in the folder."""
    soc.finalize()
    verilog = soc.platform.get_verilog(soc, name="soc")
    # Contents of memories go to the working directory.
    with chdir(folder):
        verilog.write("soc.v")
    command = ["verilator", "--cc", "--exe", "--build", "-j", "1", "-O3", "-MAKEFLAGS",
               "OPT_FAST=-O1", "--x-assign", "fast", "--x-initial", "fast", "-Wno-fatal",
               "-Wno-lint", "-Wno-style", "--top-module", "soc", "--prefix", "Vsoc",
               "soc.v", "nearbit/nearbit_axi.v", str(HERE / "host.cpp")]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8",
                              check=False)
    except FileNotFoundError:
        sys.exit("This needs Verilator; please type: sudo apt-get install verilator g++")
    if done.returncode:
        sys.exit(f"Verilator failed:\n{done.stderr}")


def run(folder, heads):
    """Simulate the program; give the cycle of the last beat, and the elements of all answers."""
    done = subprocess.run(["obj_dir/Vsoc", "program", "answers", str(50_000 * heads + 50_000)],
                          cwd=folder, capture_output=True, encoding="utf-8", check=False)
    broken = [line for line in done.stdout.splitlines() if "violation" in line]
    if done.returncode or broken:
        sys.exit("\n".join(["the simulation failed:", *broken[:5], done.stderr]))
    beats = np.fromfile(folder / "answers", BEAT)
    words = beats["data"].reshape(heads * GROUP, -1)
    headers = [query | 64 << 16 for query in range(GROUP)] * heads
    if words[:, 0].tolist() != headers:
        sys.exit("an answer has an error, or its elements are not all there")
    return int(beats["cycle"][-1] & ~LAST) + 1, words[:, 1:].copy().view("<i2")


def simulate(dram, folder, heads):
    """Ask for a token, compare its answers, and give figures; docs/memory.md defines them."""
    config = dram.config(heads)
    bundle.write(folder / "nearbit", config, "axi")
    rng = np.random.default_rng(SEED)
    q = rng.standard_normal((GROUP * heads, 1, config.key_bits), dtype=np.float32)
    k, v = (rng.standard_normal((heads, TOKENS, config.key_bits), dtype=np.float32)
            for _ in range(2))
    # Each query of a group has an exp table of its own, the same for all groups.
    golden = nearbit.attention(q, k, v, config, n=N, logit_scale=[0.05, 0.1, 0.2] * heads)
    prepared = golden.prepared

    plan = plan_memory(config)
    image = MemoryImage(plan, rng.integers(0, 256, plan.size, np.uint8))
    pages = rng.permutation(config.memory_pages)
    for head, codes in enumerate(prepared.k_codes):
        image.write(head, pages, 0, codes, prepared.values.elements[head],
                    prepared.values.scales[head])
    soc = SimulatedSoC(dram, folder / "nearbit", image.octets)
    build(soc, folder)

    program = Program()
    program.set_up(plan, pages, prepared.exp_tables[:GROUP], soc.bus.regions["main_ram"].origin)
    program.ask(prepared.q_codes.reshape(heads, GROUP))
    np.array(program.steps, STEP).tofile(folder / "program")
    cycles, answers = run(folder, heads)
    if not np.array_equal(answers, golden.output_int[:, 0]):
        sys.exit("the accelerator's answers are not the golden model's")

    layout = plan.layout
    codes, rows = heads * TOKENS * layout.code_bytes, heads * GROUP * N
    needed = codes + rows * layout.row_bytes
    return {
        "what": dram.what, "config": config.to_dict(), "seed": SEED, "heads": heads,
        "tokens": TOKENS, "n": N, "queries": GROUP * heads, "cycles": cycles, "bytes": needed,
        "field_bytes": codes + rows * layout.scale.end, "peak_bytes_per_cycle": dram.peak_bytes,
        "share": needed / (cycles * dram.peak_bytes), "bit_exact": True,
    }


def main():
    """Simulate a token."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dram", choices=DRAMS)
    parser.add_argument("--heads", type=int, default=4, help="key heads, of SmolLM2's 90")
    parser.add_argument("--row-ports", type=int, choices=(1, 2, 4), help="buses for rows")
    parser.add_argument("--build", type=Path, default=Path("build"), help="folder for all files")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if not 1 <= options.heads <= 90:
        parser.error(f"--heads must be from 1 to 90, not {options.heads}")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"there is no folder {options.json.parent} for --json; create it")
    logging.disable(logging.INFO)
    folder = (options.build / options.dram).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    dram = DRAMS[options.dram]
    if options.row_ports:
        dram = replace(dram, row_ports=options.row_ports)
    figures = simulate(dram, folder, options.heads)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"all {figures['queries']} answers equal the golden model's; {figures['bytes']:,} bytes "
          f"in {figures['cycles']:,} cycles are {100 * figures['share']:.1f} % of the peak of "
          f"{figures['what']}")


if __name__ == "__main__":
    main()
