# amaranth: UnusedElaboratable=no
"""Proofs that the cells of the devices equal the generic one."""

import pytest

from nearbit_hw.cells.chains import cut
from nearbit_hw.popcount import XorPopcount
from nearbit_hw.verilog import YosysError, generate
from nearbit_sim.netlist import models, run_script


def prove(gold, gate, target, latency, directory):
    """All outputs are equal after `latency` cycles from any state, for all inputs: SAT."""
    for name, verilog in [("gold", gold), ("gate", gate)]:
        (directory / f"{name}.v").write_text(verilog, encoding="utf-8")
    (directory / "models.v").write_text(models(gate, target), encoding="utf-8")
    sat = ("sat -verify -prove trigger 0 -set in_rst 0 -set in_o__ready 1 "
           f"-seq {latency + 1} -prove-skip {latency} miter")
    run_script([
        "read_verilog gold.v gate.v", "read_verilog -D ICE40_HX models.v", "hierarchy",
        "proc", "flatten gate", "miter -equiv -flatten gold gate miter", "hierarchy -top miter",
        "opt -full", sat,
    ], directory)


@pytest.mark.parametrize("target", ["ecp5", "ice40"])
@pytest.mark.parametrize("width", [*range(1, 17)])
def test_proof(width, target, tmp_path):
    generic = XorPopcount(width, target="generic")
    latency = generic.latency
    prove(generate(generic, "gold"), generate(XorPopcount(width, target=target), "gate"), target,
          latency, tmp_path)


@pytest.mark.parametrize(("target", "old", "new"), [
    ("ecp5", "16'h6996", "16'h6696"), ("ice40", "16'hc33c", "16'hc3c3")])
def test_proof_can_fail(target, old, new, tmp_path):
    gate = generate(XorPopcount(8, target=target), "gate")
    assert old in gate
    generic = XorPopcount(8, target="generic")
    latency = generic.latency
    with pytest.raises(YosysError, match="proof did fail"):
        prove(generate(generic, "gold"), gate.replace(old, new, 1), target, latency, tmp_path)


def test_cut():
    # Two chains of five and six places fill six pairs; all in one would be too long.
    assert cut([2, 2, 3, 3], [True, True, True, False], limit=6, grain=2) == [2, 2]
    assert cut([2, 2, 3, 3], [True, True, True, False], limit=100, grain=2) == [4]
    assert cut([9, 9], [True, True], limit=6, grain=1) == [1, 1]
