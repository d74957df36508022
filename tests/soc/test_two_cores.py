"""Two different cores in one design: one simulation, one FuseSoC project, one C program."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from systemrdl import RDLCompiler

from nearbit.soc import bundle
from nearbit_hw import yosys
from nearbit_hw.soc.registers import IDENTITY, Address, register_map
from nearbit_model.config import Config, Rescore


CONFIGS = {
    "left": Config(key_bits=6, value_dim=4, capacity=16, lanes=2, value_lanes=2, top_n=4),
    "right": Config(key_bits=5, value_dim=2, capacity=8, queries=2, lanes=1, value_lanes=2, top_n=3,
                    rescore=Rescore(head_dim=4, lanes=2, element_bits=4)),
}
INTERFACES = {"left": "axi", "right": "wishbone"}
TOPS = {"left": "left_axi", "right": "right_wishbone"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Both cores, each in a folder of its own; the right one for VHDL and without initial values.

    They have no name in common, but those of their registers' documents.
    """
    path = tmp_path_factory.mktemp("cores")
    for name, config in CONFIGS.items():
        bundle.write(path / name, config, INTERFACES[name], name=name, initial=name == "left",
                     vhdl=name == "right")
    return path


def run_tool(*command, cwd, **environment):
    assert shutil.which(command[0]), f"{command[0]} is needed"
    done = subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", check=False,
                          env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def verilog_ports(path, top):
    """Ports of a Verilog module as Yosys reads them."""
    design = json.loads(yosys.run(["read_verilog <<text", path.read_text(), "text", "proc",
                                   "write_json"]))
    return {name: (port["direction"], len(port["bits"]))
            for name, port in design["modules"][top]["ports"].items()}


def test_names(folder):
    """No file of one is a file of the other, but what only people read."""
    names = [set(bundle.names(INTERFACES[name], name, vhdl=name == "right")) for name in CONFIGS]
    assert names[0] & names[1] == {"README.md", *(f"registers/registers.{ending}"
                                                  for ending in ("md", "json", "rdl"))}
    for name, top in TOPS.items():
        assert {str(path.relative_to(folder / name)) for path in (folder / name).rglob("*.*")} \
            == set(bundle.names(INTERFACES[name], name, vhdl=name == "right"))
        modules = re.findall(r"^module \\?(\S+?) ?\(", (folder / name / f"{top}.v").read_text(),
                             re.MULTILINE)
        assert modules[0] == top
        assert len(modules) > 10
        assert all(module.startswith(f"{top}.") for module in modules[1:])
        text = (folder / name / "README.md").read_text()
        for link in re.findall(r"\]\(([^)]+)\)", text):
            assert (folder / name / link).exists(), link
        # What is left of the general name is the make, not an identifier.
        for path in (folder / name).rglob("*.*"):
            left = re.sub(r"nearbit:ip:|nearbit_hw\.\S+|nearbit (verilog|cycles) ", "",
                          path.read_text())
            assert re.search(r"\bnearbit(?! \()|\bNEARBIT", left) is None, path


BENCH = """
`timescale 1ns/1ps
module bench;
  reg clock = 0;
  reg reset_n = 0;
  always #5 clock = ~clock;

  reg arvalid = 0;
  reg [11:0] address = 0;
  wire arready, rvalid, ack;
  wire [31:0] rdata, dat;
  reg cycle = 0;
  left_axi left(.aclk(clock), .aresetn(reset_n), .s_axi_araddr(address), .s_axi_arvalid(arvalid),
    .s_axi_arready(arready), .s_axi_rready(1'b1), .s_axi_rdata(rdata), .s_axi_rvalid(rvalid),
    .s_axi_arprot(3'b0), .s_axi_awaddr(12'b0), .s_axi_awprot(3'b0), .s_axi_awvalid(1'b0),
    .s_axi_wdata(32'b0), .s_axi_wstrb(4'b0), .s_axi_wvalid(1'b0), .s_axi_bready(1'b1),
    .s_axis_tdata(64'b0), .s_axis_tvalid(1'b0), .s_axis_tlast(1'b0),
    .m_axis_result_tready(1'b1), .m_axis_trace_tready(1'b1));
  right_wishbone right(.aclk(clock), .aresetn(reset_n), .wb_adr_i(address), .wb_cyc_i(cycle),
    .wb_stb_i(cycle), .wb_we_i(1'b0), .wb_sel_i(4'b1111), .wb_dat_i(32'b0), .wb_dat_o(dat),
    .wb_ack_o(ack), .s_axis_tdata(64'b0), .s_axis_tvalid(1'b0), .s_axis_tlast(1'b0),
    .m_axis_result_tready(1'b1), .m_axis_trace_tready(1'b1));

  task read(input [11:0] from);
    begin
      @(negedge clock);
      address = from;
      arvalid = 1;
      while (!arready) @(negedge clock);
      @(negedge clock);
      arvalid = 0;
      while (!rvalid) @(negedge clock);
      $display("left %0d %0d", from, rdata);
      @(negedge clock);
      cycle = 1;
      while (!ack) @(negedge clock);
      $display("right %0d %0d", from, dat);
      cycle = 0;
    end
  endtask

  initial begin
    repeat (4) @(negedge clock);
    reset_n = 1;
    read(ADDRESS_0);
    read(ADDRESS_1);
    read(ADDRESS_2);
    $finish;
  end
  initial #10000 $finish;
endmodule
"""


def test_simulation(folder, tmp_path):
    """Both answer on their buses, each with its own sizes."""
    asked = (Address.ID, Address.KEY_BITS, Address.VALUE_DIM)
    text = BENCH
    for index, address in enumerate(asked):
        text = text.replace(f"ADDRESS_{index}", str(int(address)))
    (tmp_path / "bench.v").write_text(text)
    said = run_tool("iverilog", "-g2005", "-Wall", "-Wno-portbind", "-Wno-timescale", "-s", "bench",
                    "-o", "bench.vvp", "bench.v", *(folder / name / f"{top}.v" for name, top in
                                                    TOPS.items()), cwd=tmp_path)
    assert said == ""
    found = run_tool("vvp", "-n", "bench.vvp", cwd=tmp_path).splitlines()
    assert [line for line in found if "finish" not in line] == [
        f"{name} {int(address)} {value}"
        for index, address in enumerate(asked)
        for name, config in CONFIGS.items()
        for value in [(IDENTITY, config.key_bits, config.value_dim)[index]]]


def test_fusesoc(folder, tmp_path):
    """A design that depends on both: Verilator's lint has nothing to say."""
    lines, connections = [], []
    for name, top in TOPS.items():
        ports = verilog_ports(folder / name / f"{top}.v", top)
        listed = []
        for port, (direction, bits) in ports.items():
            net = {"aclk": "clock", "aresetn": "reset_n"}.get(port, f"{bits}'d0")
            if direction == "output":
                net = f"unused_{name}_{port}"
                lines.append(f"  wire [{bits - 1}:0] {net};")
            listed.append(f".{port}({net})")
        connections.append(f"  {top} {name} ({', '.join(listed)});")
    (tmp_path / "soc.v").write_text("\n".join([
        "module soc (input wire clock, input wire reset_n);", *lines, *connections, "endmodule",
        ""]))
    (tmp_path / "soc.core").write_text(f"""CAPI=2:
name: some:soc:top:1.0.0
filesets:
  rtl:
    files: [soc.v: {{file_type: verilogSource-2005}}]
    depend: {[f"nearbit:ip:{top}" for top in TOPS.values()]}
targets:
  lint:
    filesets: [rtl]
    toplevel: soc
    flow: lint
    flow_options: {{tool: verilator, verilator_options: [-Wall]}}
""")
    said = run_tool(sys.executable, "-m", "fusesoc.main", "--cores-root", folder, "--cores-root",
                    tmp_path, "run", "--target", "lint", "--tool", "verilator", "some:soc:top",
                    cwd=tmp_path, XDG_CONFIG_HOME=str(tmp_path), XDG_DATA_HOME=str(tmp_path),
                    XDG_CACHE_HOME=str(tmp_path))
    assert "%Warning" not in said
    # The lint of the core itself and of its example, as it is generated without initial values.
    said = run_tool(sys.executable, "-m", "fusesoc.main", "--cores-root", folder, "run",
                    "--target", "lint", "nearbit:ip:right_wishbone", cwd=tmp_path,
                    XDG_CONFIG_HOME=str(tmp_path), XDG_DATA_HOME=str(tmp_path),
                    XDG_CACHE_HOME=str(tmp_path))
    assert "%Warning" not in said


def test_waivers(folder):
    """What is waived without initial values does occur."""
    done = subprocess.run(["verilator", "--lint-only", "-Wall", "--top-module", "right_wishbone",
                           "right_wishbone.v"], cwd=folder / "right", capture_output=True,
                          encoding="utf-8", check=False)
    found = set(re.findall(r"%Warning-(\w+):", done.stderr))
    waived = set(re.findall(r"^lint_off -rule (\w+) -file",
                            (folder / "right" / "right_wishbone.vlt").read_text(), re.MULTILINE))
    assert found <= waived
    assert waived - found <= {"CMPCONST"}


def test_time_scale(folder, tmp_path):
    """A time scale of somebody else's file is no warning, with the option that the docs name."""
    (tmp_path / "top.v").write_text(
        "`timescale 1ns/1ps\nmodule top(input a, output b);\n  assign b = a;\n"
        "  left_axi left();\nendmodule\n")
    command = ["verilator", "--lint-only", "-Wno-PINMISSING", "--top-module", "top",
               folder / "left" / "left_axi.vlt", folder / "left" / "left_axi.v", "top.v"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert "TIMESCALEMOD" in done.stderr
    run_tool(*command, "--timescale", "1ns/1ps", cwd=tmp_path)


def test_default_net_type(folder, tmp_path):
    """The Verilog declares its nets, and the example leaves the directive as it usually is."""
    for name, top in TOPS.items():
        (tmp_path / "first.v").write_text("`default_nettype none\n")
        (tmp_path / "last.v").write_text("module last(output o);\n  assign implicit = 1;\n"
                                         "  assign o = implicit;\nendmodule\n")
        said = run_tool("iverilog", "-g2005", "-t", "null", "first.v", folder / name / f"{top}.v",
                        folder / name / f"{name}_example.v", "last.v", cwd=tmp_path)
        assert said == ""
        text = (folder / name / f"{top}.v").read_text()
        assert set(re.findall(r"`\w+", text)) <= {"`ifndef", "`endif"}
        assert re.search(r"\bparameter\b|\bdefparam\b", text) is None


C_FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow",
           "-Wmissing-prototypes", "-Wredundant-decls", "-Werror")

MAIN = """
#include <stdio.h>
#include "left.h"
#include "right.h"
#include "left_registers.h"
#include "right_registers.h"

static int none(void *context, const uint8_t *bytes, size_t length)
{ (void)context; (void)bytes; (void)length; return 1; }
static int nothing(void *context, uint8_t *bytes, size_t room, size_t *length)
{ (void)context; (void)bytes; (void)room; (void)length; return 1; }

int main(void)
{
    static volatile uint32_t registers[2][1024] = {REGISTERS};
    static uint8_t buffer[1024];
    struct left left;
    struct right right;
    struct left_port left_port = {.registers = registers[0], .send = none, .receive = nothing,
                                  .buffer = buffer, .buffer_bytes = sizeof buffer, .polls = 1};
    struct right_port right_port = {.registers = registers[1], .send = none, .receive = nothing,
                                    .buffer = buffer, .buffer_bytes = sizeof buffer, .polls = 1};
    printf("%s\\n", left_text(left_probe(&left, &left_port)));
    printf("%s\\n", right_text(right_probe(&right, &right_port)));
    printf("%u %u\\n", (unsigned)left.config.key_bits, (unsigned)right.config.key_bits);
    printf("%u %u\\n", LEFT_REG_KEY_BITS, RIGHT_REG_KEY_BITS);
    return 0;
}
"""


@pytest.mark.parametrize("units", ["one", "two"])
def test_program(folder, tmp_path, units):
    """Both drivers in one program, as files of their own and as one."""
    registers = ", ".join(
        "{" + ", ".join(f"[{register.address // 4}] = {register.reset}u"
                        for register in register_map(config).registers if register.reset) + "}"
        for config in CONFIGS.values())
    sources = [str(folder / name / "driver" / f"{name}.c") for name in CONFIGS]
    text = MAIN.replace("REGISTERS}", registers + "}")
    if units == "one":
        text = "".join(f'#include "{source}"\n' for source in sources) + text
        sources = []
    (tmp_path / "main.c").write_text(text)
    run_tool("gcc", *C_FLAGS, *(f"-I{folder / name / 'driver'}" for name in CONFIGS), "main.c",
             *sources, "-o", "main", cwd=tmp_path)
    said = run_tool(str(tmp_path / "main"), cwd=tmp_path)
    address = int(Address.KEY_BITS)
    assert said.splitlines() == ["no error", "no error", "6 5", f"{address} {address}"]


def test_with_the_default_driver(folder, tmp_path):
    """The driver of another name and the one without, in one translation unit."""
    bundle.write(tmp_path / "other", CONFIGS["left"], "axi")
    (tmp_path / "main.c").write_text(
        '#include "nearbit.c"\n#include "left.c"\nint main(void) { return 0; }\n')
    run_tool("gcc", *C_FLAGS, "-Iother/driver", f"-I{folder / 'left' / 'driver'}", "main.c", "-o",
             "main", cwd=tmp_path)


def test_systemrdl(folder, tmp_path):
    """One address map with both."""
    (tmp_path / "soc.rdl").write_text(
        "addrmap soc {\n  left left @ 0x0;\n  right right @ 0x1000;\n};\n")
    compiler = RDLCompiler()
    for path in (*(folder / name / "registers" / "registers.rdl" for name in CONFIGS),
                 tmp_path / "soc.rdl"):
        compiler.compile_file(str(path))
    top = compiler.elaborate("soc").top
    assert [node.inst_name for node in top.children()] == list(CONFIGS)
    for name, base in (("left", 0), ("right", 0x1000)):
        node = top.find_by_path(f"{name}.KEY_BITS")
        assert node.absolute_address == base + Address.KEY_BITS
        assert node.get_property("desc")


def vhdl_ports(text, top):
    """Ports of a component declaration."""
    component, = re.findall(rf"component {top} is\s+port \((.*)\);\s+end component {top};", text,
                            re.DOTALL)
    found = {}
    for declaration in component.split(";"):
        name, direction, bits = re.fullmatch(
            r"\s*(\w+) : (in|out) +std_logic(?:_vector\((\d+) downto 0\))?\s*",
            declaration).groups()
        found[name] = ({"in": "input", "out": "output"}[direction], 1 + int(bits or 0))
    return found


@pytest.mark.parametrize("interface", ["stream", "wishbone"])
def test_vhdl(folder, tmp_path, interface):
    """GHDL takes the package and a design that instantiates its component; ports are Verilog's."""
    top = TOPS["right"] if interface == "wishbone" else "core"
    source = folder / "right"
    if interface == "stream":
        source = tmp_path
        bundle.write(source, CONFIGS["left"], "stream", name="core", vhdl=True)
    package = source / f"{top}_pkg.vhd"
    ports = vhdl_ports(package.read_text(), top)
    assert ports == verilog_ports(source / f"{top}.v", top)
    assert list(ports)[:2] == (["clk", "rst"] if interface == "stream" else ["aclk", "aresetn"])
    signals = "".join(
        f"  signal {port} : std_logic{f'_vector({bits - 1} downto 0)' if bits > 1 else ''};\n"
        for port, (_, bits) in ports.items())
    connections = ", ".join(f"{port} => {port}" for port in ports)
    (tmp_path / "design.vhd").write_text(f"""library ieee;
use ieee.std_logic_1164.all;
use work.{top}_pkg.all;

entity design is end entity;

architecture structure of design is
{signals}begin
  inner : {top} port map ({connections});
end architecture;
""")
    for standard in ("93", "08"):
        assert run_tool("ghdl", "-a", f"--std={standard}", f"--workdir={tmp_path}", package,
                        "design.vhd", cwd=tmp_path) == ""
    # It is these ports that are checked.
    broken = (tmp_path / "design.vhd").read_text().replace(f"inner : {top} port map (",
                                                           f"inner : {top} port map (no => open, ")
    (tmp_path / "broken.vhd").write_text(broken)
    done = subprocess.run(["ghdl", "-a", "--std=08", f"--workdir={tmp_path}", "broken.vhd"],
                          cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode != 0


def test_command_fields_are_reset(folder):
    """Without initial values no register keeps what it had, and the documents say so."""
    for name in CONFIGS:
        text = (folder / name / "registers" / "registers.md").read_text()
        kept = [register["kept"] for register in json.loads(
            (folder / name / "registers" / "registers.json").read_text())["registers"]]
        assert any(kept) == (name == "left") == ("` *" in text) == ("marked *" in text)
    assert "the command fields keep their values" in (folder / "left" / "README.md").read_text()
    assert "the command fields become 0" in (folder / "right" / "README.md").read_text()
