# amaranth: UnusedElaboratable=no
"""Verilog without initial values: after a reset, nothing unknown is ever seen.

Icarus begins with every register and word of memory unknown, X. The benches that compare cores with
the golden model run on them, while a monitor looks at all outputs.
"""

import re
from pathlib import Path

import pytest

from nearbit_hw.core import Core
from nearbit_hw.soc.soc_core import SocCore
from nearbit_hw.verilog import generate
from nearbit_model.config import Config, Rescore
from nearbit_sim.bench import BenchError, run_bench


HERE = Path(__file__).parent
TINY = Config.preset("tiny")
RESCORE = TINY.replace(queries=3, selection="counters",
                       rescore=Rescore(head_dim=8, lanes=4, shared=True))

# What an output says counts, and an input's value is known, only while another port is 1.
GUARDS = [("__payload", "__valid"), ("__ready", "__valid"), ("_tdata", "_tvalid"),
          ("_tlast", "_tvalid"), ("_tready", "_tvalid"), ("_awaddr", "_awvalid"),
          ("_wdata", "_wvalid"), ("_wstrb", "_wvalid"), ("_araddr", "_arvalid"),
          ("_bresp", "_bvalid"), ("_rdata", "_rvalid"), ("_rresp", "_rvalid"),
          ("wb_dat_o", "wb_ack_o"), ("wb_adr_i", "wb_stb_i"), ("wb_dat_i", "wb_stb_i")]


def watched(verilog, clock, running):
    """Put a module `inner` into a module `dut` that makes and finds what is unknown.

    Inputs that do not count are X, and the simulation ends at the first output that counts and is.
    """
    _, _, rest = verilog.partition("module inner(")
    header, _, body = rest.partition(");")
    body, _, _ = body.partition("\nendmodule")
    names = header.replace(",", " ").split()
    lines = [f"module dut({', '.join(names)});"]
    connections, checks = [], []
    for name in names:
        found = re.search(rf"^  (input|output) (?:\[(\d+):0\] )?{name};$", body, re.MULTILINE)
        bits = 1 + int(found[2] or 0)
        lines.append(f"  {found[1]} [{bits - 1}:0] {name};")
        guards = [name.removesuffix(end) + guard for end, guard in GUARDS if name.endswith(end)
                  and name.removesuffix(end) + guard in names]
        guard, = guards or ["1'b1"]
        if found[1] == "input":
            connections.append(f".{name}({guard} ? {name} : {{{bits}{{1'bx}}}})")
            continue
        lines.append(f"  wire [{bits - 1}:0] _{name};")
        # Who drives an unknown payload gets an unknown ready.
        is_ready = name.endswith("ready")
        lines.append(f"  assign {name} = {f'{guard} & ' if is_ready else ''}_{name};")
        connections.append(f".{name}(_{name})")
        checks.append(f"    if ({running} && {guard} && ^{name} === 1'bx) begin\n"
                      f"      $display(\"UNKNOWN: {name} is %b\", {name});\n      $finish;\n"
                      f"    end")
    return "\n".join([*lines, f"  inner inner({', '.join(connections)});",
                      f"  always @(negedge {clock}) begin", *checks, "  end", "endmodule",
                      verilog])


@pytest.mark.parametrize(("config", "steps"), [
    (TINY.replace(queries=1, selection="histograms"), 3),
    (TINY.replace(queries=1, selection="serial", value_ports=1), 3),
    (RESCORE, 2),
], ids=["histograms", "serial", "rescore"])
def test_core(config, steps):
    verilog = watched(generate(Core(config), "inner", initial="none"), "clk", "!rst")
    run_bench(Core(config), HERE / "test_core.py", verilog=verilog,
              parameters={"config": config.to_dict(), "steps": steps},
              test_filter="idle=0.3|several_heads|every_error|reset_in_the_middle")


def soc(config, bus, scenarios, **options):
    dut = SocCore(config, bus, **options)
    verilog = watched(generate(SocCore(config, bus, **options), "inner", initial="none"),
                      "aclk", "aresetn")
    run_bench(dut, HERE / "soc" / {"axi": "scenarios.py", "wishbone": "wishbone.py"}[bus],
              parameters={"config": config.to_dict(), "data_bits": 64, "latency": dut.latency,
                          "scenarios": scenarios, "first": 0}, verilog=verilog)


@pytest.mark.parametrize(("config", "bus", "scenarios"), [
    (RESCORE, "axi", 2), (TINY, "wishbone", 2)])
def test_soc(config, bus, scenarios):
    soc(config, bus, scenarios, resets_fields=True)


def test_monitor():
    """A core whose command fields no reset reaches shows what they were before."""
    with pytest.raises(BenchError, match=r"UNKNOWN: s_axi_rdata is [01]*x"):
        soc(TINY, "axi", 2)
