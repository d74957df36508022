# amaranth: UnusedElaboratable=no
import os
import re
import subprocess
import sys

import pytest
from amaranth import Module, Signal
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw import yosys
from nearbit_hw.core import Core
from nearbit_hw.score.popcount import XorPopcount
from nearbit_hw.verilog import generate
from nearbit_model.config import Config


class Store(wiring.Component):
    """A memory and, if asked, fields and memories without any bits."""

    def __init__(self, depth, init=(), empty=False):
        self.depth = depth
        self.init = init
        self.empty = empty
        super().__init__({
            "o": Out(stream.Signature(data.StructLayout({"data": 16, "row": range(1)}))),
            "i": In(stream.Signature(data.StructLayout({"address": range(depth), "none": 0}))),
            "i_none": In(stream.Signature(range(1), always_ready=True)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = memory.Memory(shape=16, depth=self.depth, init=self.init)
        read, write = words.read_port(), words.write_port()
        m.d.comb += [read.addr.eq(self.i.p.address), write.addr.eq(self.i.p.address),
                     write.en.eq(self.i.valid), self.o.p.data.eq(read.data), self.i.ready.eq(1)]
        m.d.sync += self.o.valid.eq(self.i.valid)
        if self.empty:
            m.submodules.rows = rows = fifo.SyncFIFO(width=0, depth=4)
            row = Signal(range(1))
            m.d.comb += [rows.w_en.eq(self.i_none.valid), rows.w_data.eq(row),
                         rows.r_en.eq(self.o.ready), self.o.p.row.eq(rows.r_data)]
        return m


def ports(verilog):
    return re.search(r"^module dut\((.*)\);$", verilog, re.MULTILINE)[1].split(", ")


def icarus(verilog, tmp_path):
    """What Icarus says, in both languages."""
    path = tmp_path / "dut.v"
    path.write_text(verilog)
    said = []
    for language in ("-g2005", "-g2012"):
        said.append(subprocess.run(["iverilog", language, "-Wall", "-t", "null", str(path)],
                                   capture_output=True, encoding="utf-8", check=False).stderr)
    return "".join(said)


GENERATE = """
import sys
from nearbit_hw.core import Core
from nearbit_hw.verilog import generate
from nearbit_model.config import Config
sys.stdout.write(generate(Core(Config.preset("tiny")), "dut"))
"""


def test_reproducible(tmp_path):
    """Byte for byte the same in other processes, hash seeds and directories."""
    texts = {generate(Core(Config.preset("tiny")), "dut") for _ in range(2)}
    for seed in ("0", "1", "random"):
        texts.add(subprocess.run([sys.executable, "-c", GENERATE], cwd=tmp_path, check=True,
                                 env={**os.environ, "PYTHONHASHSEED": seed},
                                 capture_output=True, encoding="utf-8").stdout)
    text, = texts
    # Nothing of this machine is in it.
    for trace in (sys.prefix, os.getcwd(), "/work/", "site-packages", "src =", "git sha"):
        assert trace not in text
    assert text.startswith("// nearbit_hw.core.Core, by amaranth ")
    assert text.endswith("endmodule\n")
    assert icarus(text, tmp_path) == ""


def test_ports():
    assert ports(generate(XorPopcount(4), "dut")) == [
        "clk", "rst", "i__payload", "i__valid", "i__ready", "o__payload", "o__valid", "o__ready"]
    # What is always ready has no such port, nor has what has no bits.
    assert ports(generate(Store(4), "dut")) == [
        "clk", "rst", "o__payload", "o__valid", "o__ready", "i__payload", "i__valid", "i__ready",
        "i_none__valid"]


@pytest.mark.parametrize("depth", [1, 2, 1000])
@pytest.mark.parametrize("empty", [False, True])
def test_without_bits(depth, empty, tmp_path):
    text = generate(Store(depth, empty=empty), "dut")
    assert "[-1:0]" not in text
    assert "{0{" not in text
    assert icarus(text, tmp_path) == ""


def contents(text, tmp_path, depth):
    """Simulate what is in the memory at the start."""
    name = re.search(r"reg \[15:0\] (\S+) \[", text)[1]
    bench = (f"module bench;\n  wire [15:0] a;\n  dut dut();\n  integer i;\n"
             f"  initial begin\n    #1;\n    for (i = 0; i < {depth}; i = i + 1)\n"
             f"      $display(\"%0d\", dut.{name}[i]);\n    $finish;\n  end\nendmodule\n")
    (tmp_path / "dut.v").write_text(text)
    (tmp_path / "bench.v").write_text(bench)
    program = str(tmp_path / "bench.vvp")
    subprocess.run(["iverilog", "-g2012", "-s", "bench", "-o", program, str(tmp_path / "dut.v"),
                    str(tmp_path / "bench.v")], check=True, capture_output=True)
    said = subprocess.run(["vvp", "-n", program], check=True, capture_output=True,
                          encoding="utf-8").stdout
    return [int(line) for line in said.splitlines() if line.isdigit()]


@pytest.mark.parametrize("init", [
    [], [7] * 40, [1, 2, 3], [5, 5, 5, 5, 5, 5, 9, 9, 9, 9, 9, 1], list(range(40))])
def test_contents(init, tmp_path):
    """Equal words are a loop, and the same words."""
    text = generate(Store(40, init=init), "dut")
    assert contents(text, tmp_path, 40) == (init + [0] * 40)[:40]
    if init != list(range(40)):
        assert "for (word = " in text
        assert text.count("\n") < 70
    assert icarus(text, tmp_path) == ""


class Rom(wiring.Component):
    """A memory that is never written."""

    def __init__(self, words):
        self.words = words
        super().__init__({"i": In(range(len(words))), "o": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = memory.Memory(shape=8, depth=len(self.words), init=self.words)
        read = words.read_port()
        m.d.comb += [read.addr.eq(self.i), self.o.eq(read.data)]
        return m


def test_given():
    """Memories of which nothing is said are left open, all else is as it was."""
    for component in (lambda: Store(40), lambda: Core(Config.preset("tiny"))):
        text = generate(component(), "dut", initial="all")
        assert "_zeros_" in text
        without = re.sub(r"^  initial begin : \\?_zeros_.*?^  end\n", "", text,
                         flags=re.MULTILINE | re.DOTALL)
        assert generate(component(), "dut", initial="given") == without
    text = generate(Store(40, init=[1, 2, 3]), "dut")
    assert generate(Store(40, init=[1, 2, 3]), "dut", initial="given") == text


@pytest.mark.parametrize("component", [
    lambda: Store(40), lambda: Store(40, init=[7] * 40), lambda: Core(Config.preset("tiny"))])
def test_no_initial_values(component, tmp_path):
    text = generate(component(), "dut", initial="none")
    assert re.search(r"\binitial\b", text) is None
    assert re.search(r"^ *(reg|integer) [^;]*=", text, re.MULTILINE) is None
    # Nothing waits for an event that an initial value would be.
    assert set(re.findall(r"always @\([^)]*\)", text)) == {"always @(posedge clk)"}
    assert icarus(text, tmp_path) == ""
    assert ports(text) == ports(generate(component(), "dut"))


def test_rom_without_initial_values(tmp_path):
    """What nobody writes is there without a reset."""
    words = [3, 1, 4, 1, 5, 9, 2, 6, 5, 250]
    text = generate(Rom(words), "dut", initial="none")
    assert "initial" not in text
    (tmp_path / "dut.v").write_text(text)
    (tmp_path / "bench.v").write_text(
        "module bench;\n  reg clk = 0;\n  wire [7:0] o;\n  reg [3:0] i;\n"
        "  dut dut(.clk(clk), .rst(1'b0), .i(i), .o(o));\n"
        f"  initial for (i = 0; i < {len(words)}; i = i + 1) begin\n"
        "    #1 clk = 1;\n    #1 clk = 0;\n    $display(\"%0d\", o);\n  end\nendmodule\n")
    program = str(tmp_path / "bench.vvp")
    subprocess.run(["iverilog", "-g2005", "-s", "bench", "-o", program, str(tmp_path / "dut.v"),
                    str(tmp_path / "bench.v")], check=True)
    said = subprocess.run(["vvp", "-n", program], check=True, capture_output=True,
                          encoding="utf-8").stdout
    assert [int(line) for line in said.split()] == words


def test_wrong_initial():
    with pytest.raises(ValueError, match=r"^Initial must be all, given or none, not False$"):
        generate(XorPopcount(4), "dut", initial=False)


def test_separator():
    assert ports(generate(XorPopcount(4), "dut", separator="_")) == [
        "clk", "rst", "i_payload", "i_valid", "i_ready", "o_payload", "o_valid", "o_ready"]


def test_two_ports_of_one_name():
    class Alike(wiring.Component):
        i: In(stream.Signature(2))
        i_valid: In(1)

    with pytest.raises(ValueError, match=r"^Separator '_' gives two ports the name 'i_valid'$"):
        generate(Alike(), "dut", separator="_")


class Elements(wiring.Component):
    """An array beside a signal that already has the name of one of its elements."""

    def __init__(self):
        super().__init__({"i": In(data.ArrayLayout(4, 2)), "o": Out(data.ArrayLayout(4, 2))})

    def elaborate(self, platform):
        m = Module()
        codes = Signal(data.ArrayLayout(4, 2))
        codes_1 = Signal(4)
        m.d.sync += [codes.eq(self.i), codes_1.eq(codes[1] ^ codes[0])]
        m.d.comb += [self.o[0].eq(codes_1), self.o[1].eq(codes[1])]
        return m


def test_names_of_elements(tmp_path):
    """No brackets in names, which Yosys's ABC9 takes for bits; what has the name keeps it."""
    text = generate(Elements(), "dut")
    assert "\\" not in text
    assert re.search(r"reg \[3:0\] codes_1\b", text)
    assert re.search(r"wire \[3:0\] codes_1_\b", text)
    assert icarus(text, tmp_path) == ""
    assert yosys.run(["read_verilog <<text", text, "text", "synth_ecp5 -top dut",
                      "check -assert"]) == ""


def test_starts(tmp_path):
    """Combinational processes run at time 0, even if no input ever changes."""
    class Constant(wiring.Component):
        o: Out(8)
        i: In(1)

        def elaborate(self, platform):
            m = Module()
            m.d.comb += self.o.eq(3)
            with m.If(self.i):
                m.d.comb += self.o.eq(4)
            return m

    (tmp_path / "dut.v").write_text(generate(Constant(), "dut"))
    (tmp_path / "bench.v").write_text(
        "module bench;\n  wire [7:0] o;\n  reg i = 0;\n  dut dut(.o(o), .i(i));\n"
        "  initial #1 $display(\"%0d\", o);\nendmodule\n")
    for language in ("-g2005", "-g2012"):
        program = str(tmp_path / "bench.vvp")
        subprocess.run(["iverilog", language, "-s", "bench", "-o", program,
                        str(tmp_path / "dut.v"), str(tmp_path / "bench.v")], check=True)
        said = subprocess.run(["vvp", "-n", program], check=True, capture_output=True,
                              encoding="utf-8").stdout
        assert said.split() == ["3"]


@pytest.mark.parametrize("name", ["", "1st", "two words", "a-b"])
def test_wrong_name(name):
    with pytest.raises(ValueError, match=f"^Name must be a Verilog identifier, not {name!r}$"):
        generate(XorPopcount(4), name)
