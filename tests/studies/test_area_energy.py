# amaranth: UnusedElaboratable=no
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from studies.area_energy.activity import STREAMS, Simulation, pack, unpack
from studies.area_energy.liberty import Function, Liberty, LibertyError
from studies.area_energy.synthesis import TOP, synthesize


ROOT = Path(__file__).resolve().parents[2]

HEAD = """
library ("test") {
    /* a comment { with a brace */
    voltage_unit : "1V";
    leakage_power_unit : "1nW";
    capacitive_load_unit(1.0, "pf");
    nom_voltage : 2.0;
    default_wire_load : "none";
    wire_load("none") { capacitance : 0.001; fanout_length(1, 2.0); }
"""


def gate(name, area, output, inputs, energy=0.01):
    """Write a gate: inputs of 0.002 pF, `energy` pJ for a rise and three times that for a fall."""
    pins = "".join(f'pin ("{pin}") {{ direction : "input"; capacitance : 0.002; }}\n'
                   for pin in inputs)
    return f"""
    cell ("{name}") {{
        area : {area};
        cell_leakage_power : 5.0;
        {pins}
        pin ("Y") {{
            direction : "output";
            function : "{output}";
            internal_power () {{
                rise_power ("x") {{ index_1("0.01, 0.1"); index_2("0.0, 1.0");
                    values("{energy}, {energy}", "{energy}, {energy}"); }}
                fall_power ("x") {{ index_1("0.01, 0.1"); index_2("0.0, 1.0");
                    values("{3 * energy}, {3 * energy}", "{3 * energy}, {3 * energy}"); }}
            }}
        }}
    }}"""


FLIP_FLOP = """
    cell ("dff") {
        area : 20.0;
        cell_leakage_power : 7.0;
        ff ("IQ", "IQ_N") { clocked_on : "CK"; next_state : "D"; }
        pin ("CK") { direction : "input"; capacitance : 0.003; clock : "true";
            internal_power () { rise_power ("x") { index_1("0.1"); values("0.05"); }
                                fall_power ("x") { index_1("0.1"); values("0.03"); } } }
        pin ("D") { direction : "input"; capacitance : 0.002; }
        pin ("Q") { direction : "output"; function : "IQ"; }
    }"""

FULL_ADDER = """
    cell ("add") {
        area : 12.0;
        pin ("A") { direction : "input"; capacitance : 0.002; }
        pin ("B") { direction : "input"; capacitance : 0.002; }
        pin ("C") { direction : "input"; capacitance : 0.002; }
        pin ("S") { direction : "output"; function : "A^B^C"; }
        pin ("K") { direction : "output"; function : "(A&B) | (A&C) | (B&C)"; }
    }"""

CELLS = [gate("inverter", 1, "!A", "A"), gate("nand", 2, "!(A & B)", "AB"),
         gate("nor", 3, "!A & !B", "AB"), gate("nor_twice", 6, "!(A + B)", "AB"),
         gate("buffer", 2, "A", "A"), gate("xor", 5, "A^B", "AB"), FLIP_FLOP]


def library(path, *extra):
    path.write_text(HEAD + "".join([*CELLS, *extra]) + "\n}\n", encoding="utf-8")
    return Liberty(path)


def test_functions_of_liberty_files():
    a, b, c = (np.array([0b01010101, 0b00110011, 0b00001111][i], np.uint64) for i in range(3))
    for text, expected in [
            ("A B + !C", (a & b) | ~c), ("(A*B)'|C", ~(a & b) | c), ("!A&B^C", ~a & (b ^ c)),
            ("A'", ~a), ("!(A|(B&!C))", ~(a | (b & ~c)))]:
        function = Function(text)
        given = {"A": a, "B": b, "C": c}
        assert function(*(given[name] for name in function.inputs)) == expected, text


def test_reading(tmp_path):
    cells = library(tmp_path / "test.lib", FULL_ADDER).cells
    assert set(cells) == {"inverter", "nand", "nor", "buffer", "xor", "dff", "add"}
    assert cells["dff"].clock == "CK"
    assert cells["dff"].pins["CK"].energy() == pytest.approx(0.04)
    assert cells["nand"].pins["Y"].energy(0.5) == pytest.approx(0.02)
    compressed = tmp_path / "test.lib.gz"
    compressed.write_bytes(gzip.compress((tmp_path / "test.lib").read_bytes()))
    assert set(Liberty(compressed).cells) == set(cells)


@pytest.mark.parametrize(("content", "message"), [
    (b"module x; endmodule", r"is not a liberty file: it does not begin with a library group$"),
    (b"\xff\xfe\x00", r"is not a liberty file: "),
    (b"\x1f\x8b\x00", r"is not a liberty file: "),
    (b'library ("x") { }', r"has no cells$"),
    (b'library ("x") { cell ("y") { pin ( } }', r"is not a liberty file that can be used here "),
    ((HEAD + CELLS[0] + "}").encode(), r"has no flip-flop$"),
])
def test_no_liberty_file(tmp_path, content, message):
    path = tmp_path / "bad.lib"
    path.write_bytes(content)
    with pytest.raises(LibertyError, match=message):
        Liberty(path)


@pytest.mark.parametrize("content", [None, b"hello"])
def test_bad_input_is_one_sentence(tmp_path, content):
    path = tmp_path / "bad.lib"
    if content is not None:
        path.write_bytes(content)
    ran = subprocess.run([sys.executable, "-m", "studies.area_energy", str(path)], cwd=ROOT,
                         capture_output=True, encoding="utf-8", check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(str(path))
    assert ran.stderr.count("\n") == 1


class Part(wiring.Component):
    """Something with a product, a sum and an enable."""

    def __init__(self):
        super().__init__({"a": In(signed(5)), "b": In(signed(4)), "enable": In(1),
                          "total": Out(signed(12)), "passed": Out(signed(5))})

    def elaborate(self, platform):
        m = Module()
        total = Signal(signed(12))
        with m.If(self.enable):
            m.d.sync += total.eq(total + self.a * self.b)
        m.d.comb += [self.total.eq(total), self.passed.eq(self.a)]
        return m


class Whole(wiring.Component):
    """Two parts, whose sums go through a memory."""

    def __init__(self):
        ports = data.ArrayLayout(signed(5), 2)
        super().__init__({"a": In(ports), "b": In(data.ArrayLayout(signed(4), 2)), "enable": In(1),
                          "address": In(2), "stored": Out(signed(12)), "passed": Out(signed(5))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.store = store = memory.Memory(
            shape=signed(12), depth=4, init=[5], attrs={"ram_style": "block"})
        write, read = store.write_port(), store.read_port()
        parts = [Part(), Part()]
        m.submodules.part_0, m.submodules.part_1 = parts
        for i, part in enumerate(parts):
            m.d.comb += [part.a.eq(self.a[i]), part.b.eq(self.b[i]), part.enable.eq(self.enable)]
        m.d.comb += [
            write.addr.eq(self.address), write.en.eq(self.enable),
            write.data.eq(parts[0].total - parts[1].total),
            read.addr.eq(self.address), read.en.eq(1),
            self.stored.eq(read.data), self.passed.eq(parts[1].passed),
        ]
        return m


@pytest.mark.parametrize("extra", [(), (FULL_ADDER,)])
def test_netlist_computes_the_same(tmp_path, extra):
    design = synthesize(Whole(), library(tmp_path / "test.lib", *extra))
    areas = design.blocks()
    assert set(areas) == {"", "part"} # numbered ones are one block
    assert design.area().memory_bits == 48
    assert areas["part"].registers == 24
    assert ("add" in {kind for module in design.modules.values() for kind, _ in module.cells}
            ) == bool(extra)
    assert len([name for name in design.modules if name != TOP]) == 1 # equal ones are one
    simulation = Simulation(design)
    rng = np.random.default_rng(1)
    totals, stored = np.zeros((2, STREAMS), np.int64), np.zeros((STREAMS, 4), np.int64)
    stored[:, 0] = 5
    simulation.step({"rst": np.ones(1, np.uint8)})
    simulation.edge()
    expected = None
    for _ in range(200):
        a, b = rng.integers(-16, 16, (STREAMS, 2)), rng.integers(-8, 8, (STREAMS, 2))
        enable, address = rng.integers(0, 2, STREAMS), rng.integers(0, 4, STREAMS)
        simulation.step({
            "rst": np.zeros(1, np.uint8), "a": pack(data.ArrayLayout(signed(5), 2), a),
            "b": pack(data.ArrayLayout(signed(4), 2), b), "enable": pack(1, enable),
            "address": pack(2, address)})
        np.testing.assert_array_equal(unpack(simulation.read("passed"), signed=True), a[:, 1])
        if expected is not None:
            np.testing.assert_array_equal(unpack(simulation.read("stored"), signed=True), expected)
        simulation.edge()
        streams = np.arange(STREAMS)
        expected = stored[streams, address].copy()
        difference = (totals[0] - totals[1] + 2048) % 4096 - 2048
        stored[streams, address] = np.where(enable, difference, expected)
        totals = np.where(enable, (totals + (a * b).T + 2048) % 4096 - 2048, totals)


class Inverter(wiring.Component):
    """One inverter and one register."""

    def __init__(self):
        super().__init__({"a": In(1), "o": Out(1), "q": Out(1)})

    def elaborate(self, platform):
        m = Module()
        q = Signal(reset_less=True)
        m.d.sync += q.eq(~self.a)
        m.d.comb += self.q.eq(q)
        return m


def test_energy_by_hand(tmp_path):
    """An inverter that drives a register, at 2 V: every picojoule is counted."""
    design = synthesize(Inverter(), library(tmp_path / "test.lib"))
    assert design.area().area == 21
    simulation = Simulation(design)
    for value in (0, 0):
        simulation.step({"a": np.full(1, value, np.uint8)})
        simulation.edge()
    simulation.clear()
    for value in (1, 0, 0, 1, 1): # three transitions, of the last one the register sees all
        simulation.step({"a": np.full(1, value, np.uint8)})
        simulation.edge()
    energy = simulation.energy(clock_ns=10)
    wire = 0.002 # a wire to one pin: 2.0 long, 0.001 each
    inside = 3 * 0.02
    driven = 3 * (2.0 ** 2 / 2) * ((0.002 + wire) + (0.002 + wire)) # the input's net, the output's
    assert energy.switching[""] == pytest.approx(inside + driven)
    assert energy.clock[""] == pytest.approx(5 * (2 * 0.04 + 2.0 ** 2 * (0.003 + wire)))
    assert energy.leakage[""] == pytest.approx((5 + 7) * 5 * 10 * 1e-6)
