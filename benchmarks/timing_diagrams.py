"""Timing diagrams of the channels of the SoC interface.

    python benchmarks/timing_diagrams.py [--check]

Simulates the SoC core of the preset `tiny`, records its ports in every cycle, and writes the
diagrams that docs/soc.md shows: docs/wavedrom/*.json5 for WaveDrom, and the SVG of each. With
--check nothing is written, and the status is 1 if a file is not what it would be. Takes a minute.
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wavedrom
from amaranth.sim import Simulator

from nearbit_hw.soc.registers import Address, Command
from nearbit_hw.soc.soc_core import SocCore
from nearbit_model.config import Config


ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "wavedrom"
CONFIG = Config.preset("tiny")
SEED = 1
TOKENS = 5

# Cycles of a pause that is longer than twice this are left out of the middle.
MARGIN = 2

Sample = dict[str, int]


class Bench:
    """Moves the ports of a core, cycle by cycle, and records all of them."""

    def __init__(self, core: SocCore) -> None:
        """Take the ports."""
        self.names = list(core.signature.members)
        self.core = core
        self.samples: list[Sample] = []
        self.labels: list[dict[str, str]] = []
        self.marks: dict[str, int] = {}
        self.ctx: Any = None

    def set(self, **values: int) -> None:
        """Drive inputs."""
        for name, value in values.items():
            self.ctx.set(getattr(self.core, name), value)

    async def tick(self) -> Sample:
        """Record a cycle, and go to the next."""
        await self.ctx.delay(4e-7)
        sample = {name: self.ctx.get(getattr(self.core, name)) for name in self.names}
        self.samples.append(sample)
        self.labels.append({})
        await self.ctx.delay(1e-7)
        self.set(aclk=1)
        await self.ctx.delay(5e-7)
        self.set(aclk=0)
        return sample

    def label(self, port: str, name: Callable[[int, int], str]) -> None:
        """Call the beats of a stream something, by their place in the packet and their data."""
        place = 0
        for sample, labels in zip(self.samples, self.labels, strict=True):
            if sample[f"{port}_tvalid"]:
                labels[f"{port}_tdata"] = name(place, sample[f"{port}_tdata"])
                if sample[f"{port}_tready"]:
                    place = 0 if sample[f"{port}_tlast"] else place + 1

    def mark(self, name: str) -> None:
        """Give the present cycle a name."""
        self.marks[name] = len(self.samples)

    async def idle(self, cycles: int = 1) -> None:
        """Let cycles pass."""
        for _ in range(cycles):
            await self.tick()

    async def transfer(self, channel: str, **payload: int) -> None:
        """Offer a beat on a channel until it is taken."""
        self.set(**{f"{channel}valid": 1},
                 **{f"{channel}{name}": value for name, value in payload.items()})
        while not (await self.tick())[f"{channel}ready"]:
            pass
        self.set(**{f"{channel}valid": 0})

    async def take(self, channel: str) -> Sample:
        """Take a beat of a channel."""
        self.set(**{f"{channel}ready": 1})
        while not (sample := await self.tick())[f"{channel}valid"]:
            pass
        self.set(**{f"{channel}ready": 0})
        return sample

    async def write(self, address: int, data: int) -> None:
        """Write a register on AXI4-Lite, address and data in the same cycle."""
        self.set(s_axi_awaddr=address, s_axi_wdata=data, s_axi_wstrb=15, s_axi_awvalid=1,
                 s_axi_wvalid=1)
        waits = {"aw", "w"}
        while waits:
            sample = await self.tick()
            for channel in sorted(waits):
                if sample[f"s_axi_{channel}ready"]:
                    self.set(**{f"s_axi_{channel}valid": 0})
                    waits.discard(channel)
        await self.take("s_axi_b")

    async def read(self, address: int) -> int:
        """Read a register on AXI4-Lite."""
        await self.transfer("s_axi_ar", addr=address)
        return (await self.take("s_axi_r"))["s_axi_rdata"]

    async def packet(self, beats: Sequence[int]) -> None:
        """Send a packet, a beat in each cycle."""
        for index, beat in enumerate(beats):
            await self.transfer("s_axis_t", data=beat, last=int(index == len(beats) - 1))

    async def load(self, command: Command, beats: Sequence[int], number: int) -> None:
        """Load something from token 0 on."""
        await self.write(Address.TOKEN, 0)
        await self.write(Address.NUMBER, number)
        await self.write(Address.COMMAND, command)
        await self.packet(beats)
        while await self.read(Address.STATUS) & 1:
            pass

    async def wishbone(self, address: int, *, data: int | None = None) -> None:
        """Do a cycle of Wishbone: a write if there is data, else a read."""
        self.set(wb_cyc_i=1, wb_stb_i=1, wb_we_i=int(data is not None), wb_adr_i=address,
                 wb_sel_i=15, wb_dat_i=data or 0)
        while True:
            sample = await self.tick()
            if sample["wb_ack_o"] or sample["wb_err_o"]:
                break
        self.set(wb_cyc_i=0, wb_stb_i=0, wb_we_i=0)

    def run(self, script: Callable[["Bench"], Any]) -> None:
        """Reset the core and do a script."""
        async def testbench(ctx: Any) -> None:
            self.ctx = ctx
            self.set(aresetn=0)
            await self.idle(2)
            self.set(aresetn=1)
            await self.idle(2)
            await script(self)

        simulator = Simulator(self.core)
        simulator.add_testbench(testbench)
        simulator.run()


async def axi(bench: Bench) -> None:
    """Load a few keys and ask for them, and stop at what is to be seen."""
    rng = np.random.default_rng(SEED)
    bench.mark("write")
    await bench.write(Address.N, 3)
    await bench.idle()
    # The data first, the address later.
    bench.set(s_axi_wvalid=1, s_axi_wdata=1, s_axi_wstrb=1)
    await bench.tick()
    bench.set(s_axi_wvalid=0)
    await bench.idle()
    await bench.transfer("s_axi_aw", addr=int(Address.SINK))
    bench.set(s_axi_bready=0)
    await bench.idle(2)
    await bench.take("s_axi_b")
    await bench.idle(2)
    bench.mark("read")
    await bench.read(Address.ID)
    await bench.idle()
    await bench.read(0x044)
    await bench.idle(2)
    bench.mark("load")
    await bench.load(Command.LOAD_KEYS, [int(code) for code in rng.integers(0, 256, TOKENS)],
                     TOKENS)
    await bench.idle(2)
    bench.mark("loaded")
    beats = []
    for _ in range(TOKENS):
        beats += [0x4000, *(int(word) for word in rng.integers(0, 1 << 32, 2))]
    await bench.load(Command.LOAD_VALUES, beats, TOKENS)
    await bench.load(Command.LOAD_EXP_TABLE, [0xffff >> distance for distance in range(9)], 9)
    for address, value in ((Address.FIRST, 0), (Address.N, 3), (Address.SINK, 0),
                           (Address.RECENT, 0), (Address.FLAGS, 1), (Address.QUERY_COUNT, TOKENS),
                           (Address.QUERY_EXP_TABLE, 0), (Address.QUERY_COUNT + 16, 0),
                           (Address.QUERY_EXP_TABLE + 16, 0), (Address.IRQ_ENABLE, 1),
                           (Address.IRQ_STATUS, 3), (Address.NUMBER, 1)):
        await bench.write(address, value)
    bench.mark("query")
    bench.set(m_axis_result_tready=1, m_axis_trace_tready=1)
    await bench.write(Address.COMMAND, Command.QUERY)
    await bench.packet([0x5a, 0])
    is_held = False
    while True:
        sample = await bench.tick()
        # The sink pauses once, in the middle of the query's answer.
        if sample["m_axis_result_tvalid"] and not is_held:
            is_held = True
            bench.set(m_axis_result_tready=0)
            while not (await bench.tick())["m_axis_result_tvalid"]:
                pass
            await bench.idle(2)
            bench.set(m_axis_result_tready=1)
        if sample["irq"]:
            break
    await bench.idle(2)
    bench.mark("end")


async def wishbone(bench: Bench) -> None:
    """Write, read, and write what is read only."""
    bench.mark("access")
    await bench.wishbone(Address.N, data=3)
    await bench.idle()
    await bench.wishbone(Address.ID)
    await bench.idle()
    await bench.wishbone(Address.ID, data=0)
    await bench.idle(2)
    bench.mark("end")


# What a diagram shows: ports by channel, each with what says when its payload counts.
WRITE = [("write address", ["s_axi_awvalid", "s_axi_awready", "s_axi_awaddr"]),
         ("write data", ["s_axi_wvalid", "s_axi_wready", "s_axi_wdata", "s_axi_wstrb"]),
         ("response", ["s_axi_bvalid", "s_axi_bready", "s_axi_bresp"])]
READ = [("read address", ["s_axi_arvalid", "s_axi_arready", "s_axi_araddr"]),
        ("read data", ["s_axi_rvalid", "s_axi_rready", "s_axi_rdata", "s_axi_rresp"])]
INPUT = [("s_axis", ["s_axis_tvalid", "s_axis_tready", "s_axis_tdata", "s_axis_tlast"])]
RESULT = [("m_axis_result", ["m_axis_result_tvalid", "m_axis_result_tready",
                             "m_axis_result_tdata", "m_axis_result_tlast"])]
TRACE = [("m_axis_trace", ["m_axis_trace_tvalid", "m_axis_trace_tready", "m_axis_trace_tdata",
                           "m_axis_trace_tlast"])]
WISHBONE = [("wishbone", ["wb_cyc_i", "wb_stb_i", "wb_we_i", "wb_adr_i", "wb_dat_i", "wb_dat_o",
                          "wb_ack_o", "wb_err_o"])]

PAYLOADS = ("addr", "data", "strb", "resp", "last", "adr_i", "dat_i", "dat_o")


def counts(name: str, sample: Sample) -> bool:
    """Tell whether a payload means something in a cycle."""
    if name.startswith("wb_"):
        if name == "wb_dat_o":
            return bool(sample["wb_ack_o"]) and not sample["wb_we_i"]
        return bool(sample["wb_cyc_i"]) and (name != "wb_dat_i" or bool(sample["wb_we_i"]))
    channel = next(name[:-len(payload)] for payload in PAYLOADS if name.endswith(payload))
    return bool(sample[f"{channel}valid"])


def shorten(samples: Sequence[Sample], names: Iterable[str]) -> list[int | None]:
    """List the samples to show: not the middle of long times without a change, but None."""
    names = list(names)
    kept: list[int | None] = []
    run: list[int] = []
    for index in range(len(samples) + 1):
        if index < len(samples) and (not run or all(
                samples[index][name] == samples[run[-1]][name] for name in names)):
            run.append(index)
            continue
        kept += [*run[:MARGIN], None, *run[-MARGIN:]] if len(run) > 2 * MARGIN + 1 else run
        run = [index]
    return kept


def wave(name: str, samples: Sequence[Sample], given: Sequence[dict[str, str]],
         kept: Sequence[int | None]) -> dict[str, Any]:
    """Write a port as a lane of WaveDrom."""
    last, text, labels = "", "", []
    for index in kept:
        if index is None:
            text += "|"
            continue
        value = samples[index][name]
        state = str(value)
        if name.endswith(PAYLOADS):
            is_vector = not name.endswith("last")
            if not counts(name, samples[index]):
                state = "x"
            elif is_vector:
                state = given[index].get(name, f"0x{value:x}" if value > 9 else str(value))
        if state == last:
            text += "."
        elif name.endswith(PAYLOADS) and is_vector and state != "x":
            text += "="
            labels.append(state)
        else:
            text += state
        last = state
    return {"name": name, "wave": text, **({"data": labels} if labels else {})}


def diagram(bench: Bench, first: str, end: str, groups: list[tuple[str, list[str]]]
            ) -> dict[str, Any]:
    """Cut a diagram out of a record, from one mark to another."""
    begin = bench.marks[first] - 1
    samples = bench.samples[begin:bench.marks[end]]
    labels = bench.labels[begin:bench.marks[end]]
    names = [name for _, ports in groups for name in ports]
    kept = shorten(samples, names)
    clock = "".join("|" if index is None else "p" if index == 0 else "." for index in kept)
    lanes: list[Any] = [{"name": "aclk", "wave": clock}]
    for title, ports in groups:
        lanes += [{}, [title, *(wave(name, samples, labels, kept) for name in ports)]]
    return {
        "signal": lanes,
        "config": {"hscale": 2 if any("data" in name for name in names) else 1},
    }


def sources() -> dict[str, str]:
    """Simulate, and give the text of each diagram."""
    bench = Bench(SocCore(CONFIG))
    bench.run(axi)
    # The first packet is of keys, the last one of the codes of a batch.
    query = bench.marks["query"]
    bench.label("s_axis", lambda place, _: f"key {place}")
    for labels in bench.labels[query:]:
        if "s_axis_tdata" in labels:
            labels["s_axis_tdata"] = labels["s_axis_tdata"].replace("key", "code")
    bench.label("m_axis_result", lambda place, data: (
        (f"query {data & 0xff}" + (f", error {data >> 8 & 0xff}" if data >> 8 & 0xff else ""))
        if place == 0 else f"{4 * place - 4} to {4 * place - 1}"))
    bench.label("m_axis_trace", lambda _, data: f"key {data & 0xffffff}")
    other = Bench(SocCore(CONFIG, bus="wishbone"))
    other.run(wishbone)
    irq = ("", ["irq"])
    diagrams = {
        "axi_write": diagram(bench, "write", "read", WRITE),
        "axi_read": diagram(bench, "read", "load", READ),
        "load": diagram(bench, "load", "loaded", [WRITE[0], *INPUT]),
        "query": diagram(bench, "query", "end", [*INPUT, *RESULT, irq]),
        "trace": diagram(bench, "query", "end", [*INPUT, *TRACE]),
        "wishbone": diagram(other, "access", "end", WISHBONE),
    }
    return {name: "// SPDX-License-Identifier: Apache-2.0\n// Made by benchmarks/timing_diagrams.py"
                  f"\n{_dump(content)}\n" for name, content in diagrams.items()}


def _dump(content: dict[str, Any]) -> str:
    """Write a diagram with a line for each lane."""
    lanes = []
    for lane in content["signal"]:
        lanes.append(json.dumps(lane) if isinstance(lane, dict) else "[" + ",\n    ".join(
            json.dumps(part) for part in lane) + "]")
    return ('{"signal": [\n  ' + ",\n  ".join(lanes)
            + f'\n ],\n "config": {json.dumps(content["config"])}}}')


def render(source: str) -> str:
    """Draw a diagram."""
    text = "".join(line for line in source.splitlines(True) if not line.startswith("//"))
    drawing: str = wavedrom.render(text).tostring()
    # Readable on a dark page, too.
    return drawing.replace("<svg ", '<svg style="background: white" ', 1) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the diagrams, or compare them with what is there."""
    texts = {}
    for name, source in sources().items():
        texts[FOLDER / f"{name}.json5"] = source
        texts[FOLDER / f"{name}.svg"] = render(source)
    if "--check" in arguments:
        wrong = [path for path, text in texts.items()
                 if not path.exists() or path.read_text(encoding="utf-8") != text]
        for path in wrong:
            print(f"{path} is not what the simulation shows")
        return int(bool(wrong))
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8", newline="\n")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
