# SPDX-License-Identifier: Apache-2.0
"""A LiteX SoC with a Nearbit accelerator, simulated with Verilator.

    python simulate.py

Writes build/, prints what the accelerator answers and whether it is what the golden model says. A
sequencer takes the place of a processor and its DMA engine: it writes registers over the bus of the
SoC, polls, sends packets, and compares results beat by beat. Needs nearbit, litex, migen and
pythondata-misc-tapcfg from PyPI, and from Debian verilator, libjson-c-dev and libevent-dev.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from litex.build.generic_platform import Pins
from litex.build.sim import SimPlatform
from litex.build.sim.config import SimConfig
from litex.gen import LiteXModule
from litex.soc.integration.builder import Builder
from litex.soc.integration.soc import SoCRegion
from litex.soc.integration.soc_core import SoCMini
from litex.soc.interconnect import axi
from migen import FSM, Array, Case, Display, Finish, If, NextState, NextValue, Signal
from migen.genlib.io import CRG
from nearbit_litex import Nearbit

import nearbit
from nearbit.soc import bundle
from nearbit_hw.soc.registers import Address, Command, register_map


ORIGIN = 0x3000_0000
CLOCK = 1_000_000
CONFIG = nearbit.Config.preset("tiny")

WRITE, POLL, SEND, END = range(4)


def packet(units):
    """Pack units, pairs of elements and their bits, into beats with `last`."""
    beats = []
    for elements, bits in units:
        word = 0
        for index, element in enumerate(elements):
            word |= (int(element) & (1 << bits) - 1) << index * bits
        for low in range(0, max(1, len(elements) * bits), 64):
            beats.append([SEND, 0, word >> low & (1 << 64) - 1])
    beats[-1][1] = 1
    return beats


def program():
    """Load a head and ask its queries: steps for the sequencer, and the beats of the answers."""
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((heads, count, 8)) for heads, count in
               ((2, 3), (1, 20), (1, 20)))
    golden = nearbit.attention(q, k, v, CONFIG, n=6, sink=1)
    prepared = golden.prepared
    tokens, lanes = prepared.tokens, CONFIG.value_lanes

    def write(address, value):
        return [WRITE, int(address), int(value)]

    def start(command, number, token=0):
        return [write(Address.TOKEN, token), write(Address.NUMBER, number),
                write(Address.COMMAND, command)]

    steps = [*start(Command.LOAD_KEYS, tokens),
             *packet([([code[0]], CONFIG.key_bits) for code in prepared.k_codes[0]]), [POLL, 0, 0],
             *start(Command.LOAD_VALUES, tokens)]
    values = []
    for scale, elements in zip(prepared.values.scales[0], prepared.values.elements[0], strict=True):
        values.append(([scale], 16))
        values += [(elements[first:first + lanes], CONFIG.value_bits)
                   for first in range(0, CONFIG.value_dim, lanes)]
    steps += [*packet(values), [POLL, 0, 0]]
    for exp_table in range(2):
        steps += [write(Address.EXP_TABLE, exp_table),
                  *start(Command.LOAD_EXP_TABLE, CONFIG.key_bits + 1),
                  *packet([([weight],
                            CONFIG.weight_bits) for weight in prepared.exp_tables[exp_table]]),
                  [POLL, 0, 0]]
    steps += [write(Address.FIRST, 0), write(Address.N, 6), write(Address.SINK, 1),
              write(Address.RECENT, 0), write(Address.FLAGS, 0)]
    answers = []
    for position, count in enumerate(prepared.counts):
        for query in range(2):
            steps += [write(Address.QUERY_COUNT + 16 * query, count),
                      write(Address.QUERY_EXP_TABLE + 16 * query, query)]
        steps += [*start(Command.QUERY, 1),
                  *packet([([code[0]], CONFIG.key_bits) for code in prepared.q_codes[:, position]]),
                  [POLL, 0, 0]]
        for query in range(2):
            header = query | CONFIG.value_dim << 16
            answers += [word for _, _, word in packet(
                [([header], 64), (golden.output_int[query, position], 16)])]
    return [*steps, [END, 0, 0]], answers


class Sequencer(LiteXModule):
    """Does the steps of a program on a bus and a stream, and compares the answers."""

    def __init__(self, sink, source, steps, answers):
        """Make the state machine."""
        self.bus = bus = axi.AXILiteInterface(data_width=32, address_width=32)
        kinds, addresses, words = (Array(column) for column in zip(*steps, strict=True))
        step = Signal(max=len(steps))
        kind, address, word = Signal(2), Signal(12), Signal(64)
        has_address, has_data = Signal(), Signal()
        self.comb += [kind.eq(kinds[step]), address.eq(addresses[step]), word.eq(words[step]),
                      bus.aw.addr.eq(ORIGIN + address), bus.w.data.eq(word), bus.w.strb.eq(15),
                      bus.ar.addr.eq(ORIGIN + Address.STATUS),
                      sink.data.eq(word), sink.last.eq(address[0])]
        then = [NextValue(step, step + 1), NextState("STEP")]

        self.fsm = fsm = FSM(reset_state="STEP")
        fsm.act("STEP", NextValue(has_address, 0), NextValue(has_data, 0), Case(kind, {
            WRITE: NextState("WRITE"), POLL: NextState("POLL"), SEND: NextState("SEND"),
            END: NextState("END")}))
        fsm.act("WRITE", bus.aw.valid.eq(~has_address), bus.w.valid.eq(~has_data),
                If(bus.aw.ready, NextValue(has_address, 1)),
                If(bus.w.ready, NextValue(has_data, 1)),
                If((has_address | bus.aw.ready) & (has_data | bus.w.ready), NextState("RESPONSE")))
        fsm.act("RESPONSE", bus.b.ready.eq(1), If(bus.b.valid, *then))
        fsm.act("POLL", bus.ar.valid.eq(1), If(bus.ar.ready, NextState("STATUS")))
        fsm.act("STATUS", bus.r.ready.eq(1),
                If(bus.r.valid, If(bus.r.data[0], NextState("POLL")).Else(*then)))
        fsm.act("SEND", sink.valid.eq(1), If(sink.ready, *then))
        fsm.act("END")

        answer = Signal(max=len(answers) + 1)
        cycles = Signal(32)
        expected = Signal(64)
        self.comb += [expected.eq(Array(answers)[answer]), source.ready.eq(1)]
        self.sync += [
            cycles.eq(cycles + 1),
            If(bus.b.valid & bus.b.ready & (bus.b.resp != 0),
               Display("step %d: the bus answers with an error", step), Finish()),
            If(source.valid,
               answer.eq(answer + 1),
               If(source.data != expected,
                  Display("beat %d: %x in place of %x", answer, source.data, expected), Finish()),
               If(answer == len(answers) - 1,
                  Display("all %d beats of answers equal the golden model's, in cycle %d",
                          len(answers), cycles),
                  Finish())),
            If(cycles == 100_000, Display("no end after 100,000 cycles"), Finish()),
        ]


class SimulatedSoC(SoCMini):
    """A SoC with a sequencer for a master and the accelerator for a slave."""

    def __init__(self, folder):
        """Put them on the bus."""
        platform = SimPlatform("SIM", [("sys_clk", 0, Pins(1))])
        SoCMini.__init__(self, platform, clk_freq=CLOCK, bus_standard="axi-lite",
                         ident="Nearbit")
        self.crg = CRG(platform.request("sys_clk"))
        self.nearbit = Nearbit(platform, folder)
        self.bus.add_slave("nearbit", self.nearbit.bus, SoCRegion(
            origin=ORIGIN, size=register_map(CONFIG).window_bytes, cached=False))
        self.comb += self.nearbit.trace.ready.eq(1)
        steps, answers = program()
        self.sequencer = Sequencer(self.nearbit.sink, self.nearbit.source, steps, answers)
        self.bus.add_master("sequencer", self.sequencer.bus)


def main():
    """Generate, build and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build-only", action="store_true", help="do not simulate")
    build_only = parser.parse_args().build_only
    folder = Path("build").resolve()
    bundle.write(folder / "nearbit", CONFIG, "axi")
    soc = SimulatedSoC(folder / "nearbit")
    clocks = SimConfig()
    clocks.add_clocker("sys_clk", freq_hz=CLOCK)
    builder = Builder(soc, output_dir=str(folder / "soc"), compile_software=False,
                      csr_json=str(folder / "soc" / "csr.json"))
    builder.build(sim_config=clocks, run=not build_only, interactive=False,
                  verbose=False)


if __name__ == "__main__":
    sys.exit(main())
