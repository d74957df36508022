"""Netlists out of bitstreams: read, and simulated like Icarus Verilog with Yosys's cell models."""

import random
import re
import subprocess

import pytest

from nearbit_hw import yosys
from nearbit_sim.engine import SimulationError
from nearbit_sim.icebox import ChipSession, Pll, read_chip


BITS = 48 # of a register that feeds back on itself, to make stimuli
TAPS = (47, 46, 20, 19)


def stimuli():
    """Statements for a register whose bits look random, fed by the input too."""
    feedback = "rx"
    for tap in TAPS:
        feedback = f"(n{tap} ? !({feedback}) : ({feedback}))"
    lines = [f"reg {', '.join(f'n{bit} = {bit % 3 == 0:d}' for bit in range(BITS))};",
             f"assign n100 = /* LUT 1 2 3 */ {feedback};",
             "/* FF 1 2 3 */ always @(posedge clk) if (1'b1) n0 <= 1'b0 ? 1'b0 : n100;"]
    lines += [f"/* FF 1 2 3 */ always @(posedge clk) if (1'b1) n{bit} <= 1'b0 ? 1'b0 : n{bit - 1};"
              for bit in range(1, BITS)]
    return lines


def parity(names):
    """Statements for an output that tells if any of some nets is wrong."""
    lines = ["assign n800 = 1'b0;"]
    lines += [f"assign n{801 + index} = ({name} ? !n{800 + index} : n{800 + index});"
              for index, name in enumerate(names)]
    return [*lines, f"assign tx = n{800 + len(names)};"]


def chip(lines):
    return "\n".join(["module chip (input clk, input rx, output tx);", "wire clk;", *lines,
                      "endmodule", ""])


def ram(read_mode, write_mode, rng):
    def vector(width, high=0):
        nets = ["1'b0"] * high + [f"n{rng.randrange(BITS)}" for _ in range(width - high)]
        return f"{{{', '.join(nets)}}}"

    def address(mode):
        return vector(11, 3 - mode)

    contents = [f".INIT_{index:X}(256'h{rng.getrandbits(256):064x})" for index in range(16)]
    outputs = [f"n{200 + bit}" for bit in reversed(range(16))]
    return [
        f"wire {', '.join(outputs)};",
        f"SB_RAM40_4K #(\n  .READ_MODE({read_mode}),\n  .WRITE_MODE({write_mode}),\n  "
        + ",\n  ".join(contents) + "\n) ram40_8_1 (\n  "
        f".WADDR({address(write_mode)}),\n  .RADDR({address(read_mode)}),\n  "
        f".MASK({vector(16)}),\n  .WDATA({vector(16)}),\n  .RDATA({{{', '.join(outputs)}}}),\n  "
        f".WE(n5),\n  .WCLKE(n9),\n  .WCLK(clk),\n  .RE(n13),\n  .RCLKE(1'b1),\n  .RCLK(clk)\n);",
        *parity(outputs),
    ]


def edges(text, levels):
    """Run the library, a cycle for each level."""
    session = ChipSession(read_chip(text).library("rx", "tx"))
    words = [level | 1 << 1 for level in levels]
    found, pushed, done = session.advance(len(levels), words)
    session.close()
    assert pushed == done == len(levels)
    value, position, bits = 1, 0, []
    for word in found.tolist():
        bits += [value] * ((word >> 1) - position)
        value, position = word & 1, word >> 1
    return bits + [value] * (len(levels) - position)


def icarus(text, levels, tmp_path):
    """The same with Icarus Verilog."""
    models = (yosys.share() / "ice40" / "cells_sim.v").read_text(encoding="utf-8")
    model = re.search(r"^module SB_RAM40_4K \(.*?^endmodule", models, re.MULTILINE | re.DOTALL)[0]
    model = model[:model.index("`ifdef ICE40_HX")] + "endmodule"
    model = re.sub(r"`ICE40_DEFAULT_ASSIGNMENT\w*(\([^)]*\))?", "", model)
    bench = f"""
module bench;
  reg clk = 0, rx; wire tx; integer i;
  reg [{len(levels) - 1}:0] levels = {len(levels)}'b{''.join(map(str, reversed(levels)))};
  chip chip(clk, rx, tx);
  initial for (i = 0; i < {len(levels)}; i = i + 1) begin
    rx = levels[i]; #5 $write("%b", tx); clk = 1; #5 clk = 0;
  end
endmodule
"""
    (tmp_path / "all.v").write_text("`timescale 1ns/1ps\n" + model + "\n" + text + bench)
    subprocess.run(["iverilog", "-g2005-sv", "-s", "bench", "-o", tmp_path / "bench",
                    tmp_path / "all.v"], check=True)
    said = subprocess.run(["vvp", "-n", tmp_path / "bench"], check=True, capture_output=True,
                          encoding="utf-8").stdout.strip()
    # Outputs of a block RAM are unknown until it is first read.
    known = said.lstrip("x")
    assert len(known) > 0.9 * len(levels)
    return [int(bit) for bit in known]


@pytest.mark.parametrize("mode", range(4))
def test_ram(mode, tmp_path):
    """Block RAM in each shape, with what it holds at the start, writes and enables."""
    rng = random.Random(mode)
    text = chip([*stimuli(), *ram(mode, (mode + rng.randrange(4)) % 4, rng)])
    levels = [rng.randrange(2) for _ in range(3000)]
    bits = edges(text, levels)
    known = icarus(text, levels, tmp_path)
    assert bits[-len(known):] == known
    assert 0.3 < sum(bits) / len(bits) < 0.7


def test_logic(tmp_path):
    """LUTs, carries, flip-flops with enable, synchronous and asynchronous reset."""
    rng = random.Random(1)
    lines = [*stimuli()]

    def choice(depth):
        if depth == 0:
            return rng.choice(["1'b0", "1'b1", *[f"{rng.choice(['', '!'])}n{rng.randrange(BITS)}"
                                                  for _ in range(6)]])
        return f"(n{rng.randrange(BITS)} ? {choice(depth - 1)} : {choice(depth - 1)})"

    names = []
    for index in range(60):
        lines.append(f"assign n{400 + index}  = /* LUT {index} */ {choice(rng.randrange(4))};")
        lines.append(f"assign n{500 + index}  = /* CARRY 1 */ (n{400 + index} & 1'b1) | "
                     f"((n{400 + index} | 1'b1) & n{rng.randrange(BITS)});")
        lines.append(f"reg n{600 + index} = {index % 2};")
        reset = f"n{rng.randrange(BITS)}"
        update = (f"if (n{rng.randrange(BITS)}) n{600 + index} <= {reset} ? 1'b{index % 2} : "
                  f"n{500 + index};")
        lines.append(f"always @(posedge clk) {update}")
        names.append(f"n{600 + index}")
    text = chip([*lines, *parity(names)])
    levels = [rng.randrange(2) for _ in range(2000)]
    assert edges(text, levels) == icarus(text, levels, tmp_path)


PLL = """SB_PLL40_CORE #(
  .FEEDBACK_PATH("SIMPLE"),
  .DIVR(4'b0000),
  .DIVF(7'b0111111),
  .DIVQ(3'b100)
) PLL_16_0 (
  .REFERENCECLK(n2),
  .PLLOUTCORE(n3),
  .PLLOUTGLOBAL(n4),
  .LOCK(n5)
);
assign n2 = clk;
reg n1 = 0;
always @(posedge n4) n1 <= n5 ? rx : 1'b0;
assign tx = n1;"""


def test_pll():
    found = read_chip(chip([PLL]))
    assert found.clock == "clk"
    assert found.pll == Pll("n2", 0, 63, 4)
    assert found.pll.output(12e6) == 48e6


@pytest.mark.parametrize(("lines", "message"), [
    (["assign n1 = n2;", "assign n2 = n1;", "assign tx = n1;", "reg n3 = 0;",
      "always @(posedge clk) n3 <= rx;"],
     r"^the bitstream has a loop of logic without a register, through n[12]$"),
    (["reg n3 = 0;", "always @(negedge clk) n3 <= rx;"],
     r"^the bitstream's netlist has 'always @\(negedge clk\) n3 <= rx', which is not known$"),
    (["SB_MAC16 #(\n .A(1)\n) m (\n .O(n1)\n);"],
     r"^the bitstream has a cell SB_MAC16, which is not known$"),
    (["reg n3 = 0, n4 = 0;", "always @(posedge clk) n3 <= rx;", "always @(posedge rx) n4 <= n3;"],
     r"^the bitstream has 2 clocks; one can be simulated$"),
])
def test_unknown(lines, message):
    with pytest.raises(SimulationError, match=message):
        read_chip(chip(lines)).library("rx", "tx")
