# amaranth: UnusedElaboratable=no
"""The bench parts themselves: each kind of fault must fail a bench."""

import re

import cocotb
import pytest
from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.score.popcount import XorPopcount
from nearbit_hw.verilog import generate
from nearbit_sim.bench import BenchError, run_bench
from nearbit_sim.stream import MATRIX, Bench


class Fault(wiring.Component):
    """A register between two streams, with a fault."""

    def __init__(self, fault=None):
        self.fault = fault
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        valid, payload, count = Signal(), Signal(8), Signal(5)
        m.d.sync += count.eq(count + 1)
        taken = valid & self.o.ready
        m.d.comb += [
            self.i.ready.eq(~valid | self.o.ready),
            self.o.valid.eq(valid),
            self.o.payload.eq(payload),
        ]
        with m.If(self.i.ready):
            m.d.sync += [valid.eq(self.i.valid), payload.eq(self.i.payload)]
        match self.fault:
            case "drops valid":
                with m.If((count == 0) & valid & ~taken):
                    m.d.sync += valid.eq(0)
            case "changes payload":
                with m.If((count == 0) & valid & ~taken):
                    m.d.sync += payload.eq(payload + 1)
            case "valid needs ready":
                m.d.comb += self.o.valid.eq(valid & self.o.ready)
            case "payload needs ready":
                m.d.comb += self.o.payload.eq(Mux(self.o.ready, payload, 0))
            case "wrong once":
                with m.If(payload == 99):
                    m.d.comb += self.o.payload.eq(98)
            case "one too many":
                with m.If(taken & (payload == 99)):
                    m.d.sync += [valid.eq(1), payload.eq(98)]
            case "one is lost":
                with m.If(self.i.valid & (self.i.payload == 99)):
                    m.d.comb += self.i.ready.eq(1)
                    m.d.sync += valid.eq(0)
            case "looks at idle payload":
                with m.If(self.i.ready):
                    m.d.sync += payload.eq(payload ^ self.i.payload)
            case "stuck":
                m.d.comb += self.i.ready.eq(0)
        return m


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def passes_on(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall, limit=5000)
    await bench.reset()
    numbers = [*bench.rng.sample(range(256), 150), 99, 100]
    bench.source("i").send(*numbers)
    bench.sink("o").expect(*numbers)
    await bench.finish()


@pytest.mark.parametrize(("fault", "message"), [
    (None, None),
    ("drops valid", "o: valid fell before a transfer, cycle "),
    ("changes payload", "o: payload changed while stalled, cycle "),
    ("valid needs ready", "o: valid or payload depends on ready, cycle "),
    ("payload needs ready", "o: valid or payload depends on ready, cycle "),
    ("wrong once", r"\] is 98, not 99, cycle "),
    ("one too many", r"\] is 98, not \d+, cycle "),
    ("one is lost", r"\] is \d+, not 99, cycle "),
    ("looks at idle payload", r"o\[\d+\] is \d+, not \d+, cycle "),
    ("stuck", r"still waiting after 5000 cycles for i \(152\), o \(152\)"),
])
def test_fault(fault, message):
    if fault is None:
        run_bench(Fault(), __file__, test_filter="passes_on")
        return
    with pytest.raises(BenchError, match=r"^test_bench.py: \d of 6 tests failed\n") as caught:
        run_bench(Fault(fault), __file__, test_filter="passes_on")
    assert re.search(message, str(caught.value))
    assert "seed " in str(caught.value)
    assert "idle=0.5/stall=0.0" in str(caught.value)


@pytest.mark.parametrize(("ready", "valid", "payload", "message"), [
    ("x", "0", "0", "i: ready is X in cycle 0"),
    ("1", "x", "0", "o: valid is X in cycle 0"),
    ("1", "1", "{8{x}}", "o: payload is XXXXXXXX in cycle 0"),
])
def test_unknown(ready, valid, payload, message):
    verilog = f"""
        module dut(input clk, input rst,
                   input [7:0] i__payload, input i__valid, output i__ready,
                   output [7:0] o__payload, output o__valid, input o__ready);
          reg x;
          assign i__ready = {ready};
          assign o__valid = {valid};
          assign o__payload = {payload};
        endmodule
    """
    with pytest.raises(BenchError, match=message):
        run_bench(Fault(), __file__, verilog=verilog, test_filter="passes_on")


def test_surplus():
    """More answers than expected fail at the end, too."""
    class Surplus(Fault):
        def elaborate(self, platform):
            m = super().elaborate(platform)
            count = Signal(8)
            with m.If(self.o.valid & self.o.ready):
                m.d.sync += count.eq(count + 1)
            with m.If(count == 152):
                m.d.comb += self.o.valid.eq(1)
            return m

    with pytest.raises(BenchError, match=r"o\[152\] is one too many: \d+, cycle "):
        run_bench(Surplus(), __file__, test_filter="passes_on")


class Mixed(wiring.Component):
    """An input that is always ready, an output that always is valid, an array, a plain port."""

    def __init__(self):
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"a": 3, "b": data.ArrayLayout(2, 2)}),
                                     always_ready=True)),
            "o": Out(stream.Signature(3)).array(2),
            "level": Out(stream.Signature(4, always_valid=True, always_ready=True)),
            "offset": In(2),
        })

    def elaborate(self, platform):
        m = Module()
        held = Signal(data.StructLayout({"a": 3, "b": data.ArrayLayout(2, 2)}))
        with m.If(self.i.valid):
            m.d.sync += held.eq(self.i.payload)
        for index in range(2):
            m.d.comb += [self.o[index].valid.eq(1),
                         self.o[index].payload.eq(held.b[index] + self.offset)]
        m.d.comb += self.level.payload.eq(held.a)
        return m


@cocotb.test()
async def mixed(dut):
    dut.offset.value = 1
    bench = Bench(dut)
    await bench.reset()
    seen = []
    bench.sink("o__1").on_beat = lambda payload, cycle: seen.append((payload, cycle))
    bench.source("i").send({"a": 5, "b": [3, 2]}, {"a": 6, "b": [0, 1]})
    bench.sink("o__0").stall = 1
    await bench.step(4)
    assert seen == [(1, 0), (3, 1), (2, 2), (2, 3)]
    assert bench.sink("o__1").received == [1, 3, 2, 2]
    assert bench.sink("o__0").received == []
    assert bench.sink("level").received == [0, 5, 6, 6]
    assert bench.source("i").cycles == [0, 1]
    await bench.reset()
    assert bench.cycle == 0
    assert bench.sink("level").received == []
    assert bench.parameters == {"text": "x", "numbers": [1, 2]}


def test_mixed():
    # The output that is stalled changes its payload: a fault, and not the one looked for here.
    with pytest.raises(BenchError, match="o__0: payload changed while stalled, cycle 1: 1 -> "):
        run_bench(Mixed(), __file__, test_filter="mixed",
                  parameters={"text": "x", "numbers": [1, 2]})
    held = re.compile(r"assign o__0__payload = [^;]*;")
    verilog, count = held.subn("assign o__0__payload = 3'h0;", generate(Mixed(), "dut"))
    assert count == 1
    run_bench(Mixed(), __file__, verilog=verilog, test_filter="mixed",
              parameters={"text": "x", "numbers": [1, 2]})


def test_no_test():
    with pytest.raises(BenchError, match="no test ran to its end"):
        run_bench(Fault(), __file__, test_filter="absent")


def test_wrong_verilog():
    with pytest.raises(BenchError, match=r"^Icarus rejects the Verilog:\n"):
        run_bench(Fault(), __file__, verilog="module dut(input clk);\n  wire a = b;\nendmodule\n")
    with pytest.raises(ValueError, match=r"^there is no module in the Verilog text$"):
        run_bench(Fault(), __file__, verilog="")


def test_warning():
    """Warnings of Icarus are errors."""
    verilog = generate(Fault(), "dut").replace(
        "endmodule", "  wire [3:0] extra;\n  assign extra = i__payload[11:8];\nendmodule")
    with pytest.raises(BenchError, match="warning: "):
        run_bench(Fault(), __file__, verilog=verilog)


def test_loop():
    """A combinational loop hangs within one time step; the clock on the wall ends it."""
    verilog = generate(Fault(), "dut").replace(
        "endmodule", "  reg a = 0;\n  always @(a) a <= ~a;\n  initial #5 a <= 1;\nendmodule")
    with pytest.raises(BenchError, match="no test ran to its end"):
        run_bench(Fault(), __file__, verilog=verilog, timeout=3)


def test_kept_files(tmp_path, monkeypatch):
    monkeypatch.setenv("NEARBIT_BENCH_DIR", str(tmp_path / "kept"))
    run_bench(Fault(), __file__, test_filter="passes_on")
    directory, = (tmp_path / "kept").iterdir()
    assert {"bench.json", "dut.v", "dut.fst", "log.txt", "results.xml"} <= {
        path.name for path in directory.iterdir()}


def test_popcount_mutants():
    """The bench of the popcount fails on each of its mutants."""
    bench = __file__.replace("sim/test_bench", "hw/score/test_popcount")
    dut = XorPopcount(7, fan_in=3)
    parameters = {"width": 7, "latency": dut.latency}
    verilog = generate(XorPopcount(7, fan_in=3), "dut")
    for old, new in [("_[0]", "_[1]"), (" ^ ", " | "), ("if (i__ready)", "if (1'h1)"),
                     ("~ valid[1]", "~ valid[0]"), ("{ valid[0], i__valid }", "{ 2{i__valid} }")]:
        assert old in verilog
        with pytest.raises(BenchError, match=r"\d of 8 tests failed"):
            run_bench(XorPopcount(7, fan_in=3), bench, parameters=parameters,
                      verilog=verilog.replace(old, new, 1))
