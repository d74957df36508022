import re
import subprocess

import pytest

from nearbit_hw import yosys
from nearbit_sim import ecp5
from nearbit_sim.netlist import plain


# A memory with contents, a read port, and perhaps a write port.
_RAM = """
module ram(input clk, input write, read, input [{top}:0] waddr, raddr, input [{high}:0] wdata,
           output reg [{high}:0] rdata);
  (* ram_style = "block", no_rw_check *) reg [{high}:0] memory [0:{last}];
  integer word;
  initial for (word = 0; word <= {last}; word = word + 1) memory[word] = word * 40503 >> 3;
  always @(posedge clk) begin
    {write}
    if (read) rdata <= memory[raddr];
  end
endmodule
"""

_BENCH = """
module bench;
  reg clk = 0, write = 0, read = 1;
  reg [{top}:0] waddr = 0, raddr = 0;
  reg [{high}:0] wdata = 0;
  wire [{high}:0] got, want;
  integer step, seed = 17, wrong = 0, compared = 0;
  reg known = 0;
  dut dut(clk, write, read, waddr, raddr, wdata, got);
  ram ram(clk, write, read, waddr, raddr, wdata, want);
  initial begin
    for (step = 0; step < 4000; step = step + 1) begin
      write = $urandom(seed); read = step < 2 || $urandom(seed);
      raddr = $urandom(seed) % {words}; waddr = $urandom(seed) % {words};
      wdata = {{$urandom(seed), $urandom(seed)}};
      #1 clk = 1; #1 clk = 0;
      // What is read while it is written is not promised.
      if (read) known = !({writes} && write && waddr == raddr);
      if (known) begin
        compared = compared + 1;
        if (got !== want) wrong = wrong + 1;
      end
    end
    $display("%0d wrong of %0d", wrong, compared);
  end
endmodule
"""


@pytest.mark.parametrize(("width", "words", "writes"), [
    (18, 1024, 1), (36, 512, 1), (36, 512, 0),
    *(pytest.param(*shape, marks=pytest.mark.slow) for shape in (
        (1, 16384, 1), (2, 8192, 1), (4, 4096, 1), (9, 2048, 1), (13, 700, 1), (40, 600, 1),
        (18, 1024, 0)))])
def test_block_ram(tmp_path, width, words, writes):
    """Memories of all shapes, made of block RAMs, are those that were described."""
    names = {"top": (words - 1).bit_length() - 1, "high": width - 1, "last": words - 1,
             "words": words, "writes": writes,
             "write": "if (write) memory[waddr] <= wdata;" if writes else ""}
    ram = _RAM.format(**names)
    netlist = plain(ram, "ecp5", synthesize=True)
    assert "DP16KD" in netlist
    (tmp_path / "bench.v").write_text(_BENCH.format(**names) + ram + netlist, encoding="utf-8")
    subprocess.run(["iverilog", "-g2012", "-s", "bench", "-o", "bench", "bench.v"], cwd=tmp_path,
                   check=True)
    said = subprocess.run(["vvp", "-n", "bench"], cwd=tmp_path, check=True, capture_output=True,
                          encoding="utf-8").stdout
    counts = re.fullmatch(r"(\d+) wrong of (\d+)\n", said)
    assert counts is not None, said
    assert int(counts[1]) == 0
    assert int(counts[2]) > 3000


@pytest.mark.parametrize("settings", [
    '.REGMODE_A("OUTREG")', '.WRITEMODE_B("WRITETHROUGH")', '.CSDECODE_A("0b001")'])
def test_what_has_no_model_is_refused(tmp_path, settings):
    (tmp_path / "text.v").write_text(
        f"module top; DP16KD #({settings}) ram(); endmodule\n{ecp5.models()}", encoding="utf-8")
    with pytest.raises(yosys.YosysError, match="is_used_in_a_way_without_a_model"):
        yosys.run(["read_verilog text.v", "hierarchy -check -top top"], tmp_path)
