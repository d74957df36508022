"""The folder of `nearbit verilog --interface`, read by the tools that others wrote."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from nearbit.area.synthesis import count, synthesize
from nearbit.soc import bundle, exports
from nearbit_hw import yosys
from nearbit_model.config import Config, Memory, Rescore


ROOT = Path(__file__).resolve().parents[2]

SMALL = Config(key_bits=6, value_dim=4, capacity=16, lanes=2, value_lanes=2, top_n=4)

CONFIGS = {
    "axi": SMALL,
    "wishbone": SMALL.replace(queries=2, selection="histograms", rescore=Rescore(
        head_dim=4, lanes=2, element_bits=4, shared=True)),
}


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request, tmp_path_factory):
    """A folder, named like its interface."""
    path = tmp_path_factory.mktemp("bundle") / request.param
    bundle.write(path, CONFIGS[request.param], request.param)
    return path


def run_tool(*command, cwd, **environment):
    return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", check=False,
                          env={**os.environ, **environment})


def verilator():
    found = shutil.which("verilator")
    assert found, "Verilator is needed: sudo apt-get install verilator"
    return found


def fusesoc(folder, cwd, *arguments):
    """Run FuseSoC with a configuration of its own."""
    return run_tool(sys.executable, "-m", "fusesoc.main", "--cores-root", folder, *arguments,
                    cwd=cwd, XDG_CONFIG_HOME=str(cwd), XDG_DATA_HOME=str(cwd),
                    XDG_CACHE_HOME=str(cwd))


def test_license(folder):
    """Each file says its license in the first lines, or where its format has room for it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == len(bundle.names(folder.name))
    for path in files:
        assert exports.LICENSE in "".join(path.read_text().splitlines()[:2]), path


def test_readme(folder):
    """Links lead to files, and the ports are those of the Verilog."""
    text = (folder / "README.md").read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (folder / link).exists(), link
    listed = re.findall(r"^\| `(\w+)` \| (input|output) \| (\d+) \|$", text, re.MULTILINE)
    verilog = (folder / f"nearbit_{folder.name}.v").read_text()
    _, _, top = verilog.partition(f"module nearbit_{folder.name}(")
    header, _, body = top.partition(");")
    assert [name for name, _, _ in listed] == header.replace(",", " ").split()
    for name, direction, bits in listed:
        size = "" if bits == "1" else f"[{int(bits) - 1}:0] "
        assert f"\n  {direction} {size}{name};\n" in body


def test_fusesoc_lint(folder, tmp_path):
    """FuseSoC takes the core file, and Verilator has nothing to say but what is waived."""
    verilator()
    name = f"nearbit:ip:nearbit_{folder.name}"
    done = fusesoc(folder, tmp_path, "run", "--target", "lint", name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "%Warning" not in done.stdout + done.stderr
    shown = fusesoc(folder, tmp_path, "core-info", name)
    assert re.search(r"Targets:.*default.*driver.*lint.*synth", shown.stdout, re.DOTALL)


def test_fusesoc_depend(folder, tmp_path):
    """A core of somebody else that depends on it is linted with the waivers, too."""
    (tmp_path / "nearbit_example.v").write_text((folder / "nearbit_example.v").read_text())
    (tmp_path / "soc.core").write_text(f"""CAPI=2:
name: some:soc:top:1.0.0
filesets:
  rtl:
    files: [nearbit_example.v: {{file_type: verilogSource-2005}}]
    depend: ["nearbit:ip:nearbit_{folder.name}"]
targets:
  lint:
    filesets: [rtl]
    toplevel: nearbit_example
    flow: lint
    flow_options: {{tool: verilator, verilator_options: [-Wall]}}
""")
    done = fusesoc(folder, tmp_path, "--cores-root", tmp_path, "run", "--target", "lint",
                   "--tool", "verilator", "some:soc:top")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "%Warning" not in done.stdout + done.stderr


@pytest.mark.parametrize("target", ["default", "driver", "synth"])
def test_fusesoc_set_up(folder, tmp_path, target):
    """The other targets find their files."""
    # Those that only list files leave the tool open.
    tool = [] if target == "synth" else ["--tool", "verilator"]
    done = fusesoc(folder, tmp_path, "run", "--setup", "--target", target, *tool,
                   f"nearbit:ip:nearbit_{folder.name}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_waivers(folder):
    """What is waived does occur, so that no waiver outlives its reason."""
    top = f"nearbit_{folder.name}"
    done = run_tool(verilator(), "--lint-only", "-Wall", "--top-module", top, f"{top}.v",
                    cwd=folder)
    found = Counter(re.findall(r"%Warning-(\w+):", done.stderr))
    waivers = (folder / f"{top}.vlt").read_text()
    waived = re.findall(r"^lint_off -rule (\w+) -file", waivers, re.MULTILINE)
    assert set(found) <= set(waived)
    # Not every configuration has all of them.
    assert set(waived) - set(found) <= {"CMPCONST", "VARHIDDEN"}
    assert len(re.findall(r"^//.*\.\nlint_off", waivers, re.MULTILINE)) == len(waived)


def test_example_is_complete(folder):
    """The lint of the example is without waivers: a port that it misses would be told."""
    assert "example" not in (folder / f"nearbit_{folder.name}.vlt").read_text()
    text = (folder / "nearbit_example.v").read_text()
    broken = text.replace("    .irq(irq),\n", "")
    assert broken != text
    path = folder.parent / f"broken_{folder.name}.v"
    path.write_text(broken)
    top = f"nearbit_{folder.name}"
    done = run_tool(verilator(), "--lint-only", "-Wall", "--top-module", "nearbit_example",
                    f"{top}.vlt", f"{top}.v", path, cwd=folder)
    assert done.returncode != 0
    assert "PINMISSING" in done.stderr


def test_xilinx(folder):
    """Yosys maps the Verilog to cells of AMD's 7 series that are known to count."""
    top = f"nearbit_{folder.name}"
    cells = synthesize((folder / f"{top}.v").read_text(), "xc7", top=top)
    found = count(cells[top], "xc7")
    assert set(cells) == {top}
    assert found.luteq > 200
    assert found.brams > 0
    assert found.dsps > 0


def test_device_cell(tmp_path):
    """A lint cannot know the cells of a device, so a folder with them has no such target."""
    bundle.write(tmp_path, SMALL.replace(cell="ecp5"), "axi")
    assert "CCU2C" in (tmp_path / "nearbit_axi.v").read_text()
    assert "lint" not in (tmp_path / "nearbit.core").read_text()
    assert "lint" not in (tmp_path / "README.md").read_text().partition("## First")[2]
    done = fusesoc(tmp_path, tmp_path, "core-info", "nearbit:ip:nearbit_axi")
    assert done.returncode == 0, done.stderr


MEMORY = SMALL.replace(key_bits=8, value_bits=16, memory=Memory(
    heads=2, sequences=2, page_tokens=8, bus_bits=32, row_ports=2))


@pytest.mark.parametrize("interface", ["axi", "wishbone"])
def test_memory(tmp_path, interface):
    """A folder of a core with a memory: lint has nothing to say, and the README lists all ports."""
    bundle.write(tmp_path, MEMORY, interface)
    paths = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")
                   if path.is_file())
    assert paths == sorted(bundle.names(interface, memory=True))
    assert "driver/nearbit_memory.h" in paths
    text = (tmp_path / "README.md").read_text()
    for name in ("m_axi_codes_araddr", "m_axi_rows0_rready", "m_axi_rows1_rdata",
                 "m_axi_append_wstrb"):
        assert f"| `{name}` |" in text
    # They depend on the memory, and on what nobody has fitted.
    assert "## Cycles" not in text
    assert "## Area" not in text
    verilator()
    done = fusesoc(tmp_path, tmp_path, "run", "--target", "lint",
                   f"nearbit:ip:nearbit_{interface}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "%Warning" not in done.stdout + done.stderr


def port_attributes(verilog, top):
    """Let Yosys read the attributes of the ports of a module."""
    design = json.loads(yosys.run([
        "read_verilog <<verilog", verilog, "verilog", f"hierarchy -top {top}", "proc -noopt",
        "write_json"]))
    module = design["modules"][top]
    return {port: {name: value for name, value in module["netnames"][port]["attributes"].items()
                   if name.startswith("X_INTERFACE")} for port in module["ports"]}


def test_interfaces_of_ports(tmp_path):
    """Attributes name the interface of each port, the clock of each bus, and the polarity."""
    bundle.write(tmp_path, MEMORY, "axi")
    found = port_attributes((tmp_path / "nearbit_axi.v").read_text(), "nearbit_axi")
    buses = ["s_axi", "s_axis", "m_axis_result", "m_axis_trace", "m_axi_append", "m_axi_codes",
             "m_axi_rows0", "m_axi_rows1"]
    for port, attributes in found.items():
        info = attributes["X_INTERFACE_INFO"]
        bus = max((bus for bus in buses if port.startswith(f"{bus}_")), key=len, default=None)
        if bus is not None:
            kind = "axis" if "axis" in bus else "aximm"
            signal = port.removeprefix(f"{bus}_").upper()
            assert info == f"xilinx.com:interface:{kind}:1.0 {bus} {signal}"
    assert found["aclk"]["X_INTERFACE_PARAMETER"] == (
        f"ASSOCIATED_BUSIF {':'.join(buses)}, ASSOCIATED_RESET aresetn")
    assert found["aresetn"]["X_INTERFACE_PARAMETER"] == "POLARITY ACTIVE_LOW"
    for bus in buses[4:]:
        said, = (attributes["X_INTERFACE_PARAMETER"] for port, attributes in found.items()
                 if port.startswith(f"{bus}_") and "X_INTERFACE_PARAMETER" in attributes)
        mode = "WRITE_ONLY" if bus == "m_axi_append" else "READ_ONLY"
        assert f"PROTOCOL AXI4, READ_WRITE_MODE {mode}" in said
        assert "DATA_WIDTH 32, ADDR_WIDTH 32" in said


def test_packaged():
    """All that folders are made of is beside the code."""
    source = Path(bundle.__file__).parent
    assert {path.name for path in (source / "driver").iterdir()} == {"nearbit.c", "nearbit.h"}
    for path in (source / "templates").iterdir():
        assert path.suffix == ".jinja"


def test_litex_example(tmp_path):
    """The LiteX module connects all ports of the AXI top, in their directions."""
    bundle.write(tmp_path, SMALL, "axi")
    listed = re.findall(r"^\| `(\w+)` \| (i|o)\w+ \|", (tmp_path / "README.md").read_text(),
                        re.MULTILINE)
    source = (ROOT / "examples" / "litex" / "nearbit_litex.py").read_text()
    connected = re.findall(r'"([io])_(\w+)":', source)
    for port in ("m_axis_result", "m_axis_trace"):
        assert f'("{port}", self.' in source
        connected += [(direction, f"{port}_{name}") for direction, name in
                      re.findall(r'f"([io])_\{port\}_(\w+)":', source)]
    assert sorted(connected) == sorted((direction, name) for name, direction in listed)
