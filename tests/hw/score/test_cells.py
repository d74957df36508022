# amaranth: UnusedElaboratable=no
"""Proofs that the cells of the devices equal the generic one."""

import json
from functools import cache

import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw import yosys
from nearbit_hw.score.cells.chains import cut
from nearbit_hw.score.popcount import XorPopcount, operand_skew
from nearbit_hw.verilog import generate
from nearbit_sim.netlist import models


@cache
def generic(width, operands=2):
    """Verilog of the generic cell, which those of all targets are compared with."""
    return generate(XorPopcount(width, target="generic", operands=operands), "gold")


def prove(gold, gate, target, latency, directory):
    """All outputs are equal after `latency` cycles from any state, for all inputs: SAT."""
    for name, verilog in [("gold", gold), ("gate", gate)]:
        (directory / f"{name}.v").write_text(verilog, encoding="utf-8")
    (directory / "models.v").write_text(models(gate, target), encoding="utf-8")
    sat = ("sat -verify -prove trigger 0 -set in_rst 0 -set in_o__ready 1 "
           f"-seq {latency + 1} -prove-skip {latency} miter")
    yosys.run([
        "read_verilog gold.v gate.v", "read_verilog -D ICE40_HX models.v", "hierarchy",
        "proc", "flatten gate", "miter -equiv -flatten gold gate miter", "hierarchy -top miter",
        "opt -full", sat,
    ], directory)


@pytest.mark.parametrize("target", ["ecp5", "ice40", "xc7"])
@pytest.mark.parametrize("width", [*range(1, 17)])
def test_proof(width, target, tmp_path):
    gate = XorPopcount(width, target=target)
    latency = gate.latency
    prove(generic(width), generate(gate, "gate"), target, latency, tmp_path)


@pytest.mark.parametrize("width", [*range(1, 17)])
def test_proof_of_one_operand(width, tmp_path):
    gate = XorPopcount(width, target="ice40", operands=1)
    latency = gate.latency
    prove(generic(width, operands=1), generate(gate, "gate"), "ice40", latency, tmp_path)


class Skewed(wiring.Component):
    """A skewed cell behind the registers that it wants."""

    def __init__(self, width, target):
        self.width, self.target = width, target
        super().__init__(XorPopcount(width, target="generic").signature)

    def elaborate(self, platform):
        m = Module()
        m.submodules.cell = cell = XorPopcount(self.width, target=self.target, skewed=True)
        wiring.connect(m, cell.o, wiring.flipped(self.o))
        m.d.comb += [cell.i.valid.eq(self.i.valid), self.i.ready.eq(cell.i.ready)]
        for word in "ab":
            bits = self.i.p[word]
            for place, age in enumerate(operand_skew(self.width, target=self.target)):
                pipe = Cat(bits[place], Signal(age, name=f"late_{word}_{place}"))
                m.d.sync += pipe[1:].eq(pipe)
                m.d.comb += cell.i.p[word][place].eq(pipe[age])
        return m


@pytest.mark.parametrize("width", [3, 8, 13, 16])
def test_proof_of_skewed(width, tmp_path):
    latency = XorPopcount(width).latency
    assert any(operand_skew(width, target="ecp5")) == (width > 7)
    prove(generic(width), generate(Skewed(width, "ecp5"), "gate"), "ecp5", latency, tmp_path)


@pytest.mark.parametrize(("target", "old", "new"), [
    ("ecp5", "16'h6996", "16'h6696"), ("ice40", "16'hc33c", "16'hc3c3"),
    ("xc7", "64'h6996966996696996", "64'h6996966996696997")])
def test_proof_can_fail(target, old, new, tmp_path):
    gate = generate(XorPopcount(8, target=target), "gate")
    assert old in gate
    latency = XorPopcount(8).latency
    with pytest.raises(yosys.YosysError, match="proof did fail"):
        prove(generic(8), gate.replace(old, new, 1), target, latency, tmp_path)


class Running(wiring.Component):
    """A cell that is never idle and never stalled."""

    def __init__(self, width, target, *, skewed=False):
        self.cell = XorPopcount(width, target=target, skewed=skewed)
        super().__init__({"a": In(width), "b": In(width), "o": Out(range(width + 1))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.cell = cell = self.cell
        m.d.comb += [cell.i.p.a.eq(self.a), cell.i.p.b.eq(self.b), cell.i.valid.eq(1),
                     cell.o.ready.eq(1), self.o.eq(cell.o.payload)]
        return m


class Diagrams:
    """Reduced ordered binary decision diagrams: equal functions are the same number."""

    def __init__(self):
        self.nodes = [(1 << 30, 0, 0), (1 << 30, 1, 1)]
        self.numbers = {}
        self.known = {}

    def node(self, variable, low, high):
        if low == high:
            return low
        key = (variable, low, high)
        if key not in self.numbers:
            self.numbers[key] = len(self.nodes)
            self.nodes.append(key)
        return self.numbers[key]

    def choose(self, test, high, low):
        """If test then high else low."""
        if test < 2 or high == low:
            return high if test else low
        if (high, low) == (1, 0):
            return test
        key = (test, high, low)
        if key not in self.known:
            variable = min(self.nodes[part][0] for part in key)
            halves = [[self.nodes[part][side] if self.nodes[part][0] == variable else part
                       for part in key] for side in (1, 2)]
            self.known[key] = self.node(variable, *(self.choose(*half) for half in halves))
        return self.known[key]


def gates(width, target, directory, *, skewed=False):
    verilog = generate(Running(width, target, skewed=skewed), "top")
    (directory / "top.v").write_text(verilog, encoding="utf-8")
    (directory / "models.v").write_text(
        "" if target == "generic" else models(verilog, target), encoding="utf-8")
    yosys.run([
        "read_verilog top.v", "read_verilog -D ICE40_HX models.v", "hierarchy -top top", "proc",
        "flatten", "opt -full", "techmap", "opt", "dffunmap", "simplemap", "opt -nosdff",
        "write_json top.json"], directory)
    return json.loads((directory / "top.json").read_text(encoding="utf-8"))["modules"]["top"]


def functions(module, width, diagrams):
    """Diagrams of the output's bits, as if the registers were wires."""
    value = {"0": 0, "1": 1, "x": 0}
    for place, name in enumerate("ab"):
        for index, bit in enumerate(module["ports"][name]["bits"]):
            value[bit] = diagrams.node(2 * index + place, 0, 1)
    cells = {}
    for cell in module["cells"].values():
        if cell["type"] == "$scopeinfo":
            continue
        output = "Q" if "Q" in cell["connections"] else "Y"
        cells[cell["connections"][output][0]] = cell

    def find(bit):
        if bit not in value:
            cell = cells[bit]
            pins = {name: find(bits[0]) for name, bits in cell["connections"].items()
                    if name in "ABSD"}
            a, b = pins.get("A"), pins.get("B")
            choose = diagrams.choose
            match cell["type"]:
                case "$_DFF_P_":
                    value[bit] = pins["D"]
                case "$_NOT_":
                    value[bit] = choose(a, 0, 1)
                case "$_AND_":
                    value[bit] = choose(a, b, 0)
                case "$_OR_":
                    value[bit] = choose(a, 1, b)
                case "$_XOR_":
                    value[bit] = choose(a, choose(b, 0, 1), b)
                case "$_XNOR_":
                    value[bit] = choose(a, b, choose(b, 0, 1))
                case "$_MUX_":
                    value[bit] = choose(pins["S"], b, a)
                case other:
                    raise NotImplementedError(other)
        return value[bit]

    return [find(bit) for bit in module["ports"]["o"]["bits"]]


def specification(width, diagrams):
    """Bits of the count, by counting one pair after the other."""
    choose = diagrams.choose
    count = [0] * width.bit_length()
    for index in reversed(range(width)):
        a, b = (diagrams.node(2 * index + place, 0, 1) for place in (0, 1))
        carry = choose(a, choose(b, 0, 1), b)
        for place, bit in enumerate(count):
            count[place] = choose(bit, choose(carry, 0, 1), carry)
            carry = choose(bit, carry, 0)
    return count


@pytest.mark.parametrize(("width", "target", "skewed"), [
    (64, "generic", False), (64, "ecp5", False), (64, "ecp5", True), (32, "ice40", False),
    (33, "ecp5", False), (33, "ice40", False), (33, "xc7", False),
])
def test_full_width(width, target, skewed, tmp_path):
    """The whole function, which SAT cannot decide, is small as a decision diagram.

    Registers are taken for wires here; the bench shows that all paths have the same number.
    """
    diagrams = Diagrams()
    assert functions(gates(width, target, tmp_path, skewed=skewed), width,
                     diagrams) == specification(
        width, diagrams)


def test_cut():
    # Two chains of five and six places fill six pairs; all in one would be too long.
    assert cut([2, 2, 3, 3], [True, True, True, False], limit=6, grain=2) == [2, 2]
    assert cut([2, 2, 3, 3], [True, True, True, False], limit=100, grain=2) == [4]
    assert cut([9, 9], [True, True], limit=6, grain=1) == [1, 1]
