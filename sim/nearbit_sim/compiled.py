"""The fast engine: the generated Verilog as a native library, driven in batches.

Yosys turns the Verilog into C++ (CXXRTL), the system's C++ compiler turns that and a small harness
into a shared library, and :mod:`ctypes` hands it whole arrays of payloads. Libraries are kept in
the user's cache directory, under a hash of everything they are made of.
"""

import ctypes
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np
from amaranth.lib import wiring

from nearbit_hw import yosys
from nearbit_hw.verilog import generate
from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.transfers.buses import Bus, split_buses
from nearbit_model.transfers.payload import Port, Struct, Words
from nearbit_model.transfers.program import Beats, Cycles, Outcome, Program, Progress
from nearbit_sim.cache import cached, key_of, load_library
from nearbit_sim.cxxrtl import split_eval
from nearbit_sim.engine import SimulationError, WaveformError
from nearbit_sim.memory_harness import (
    MEMORY_HARNESS,
    MEMORY_INTERFACE,
    CompiledMemory,
    bus_glue,
)
from nearbit_sim.payload import level_words, levels, ports


__all__ = ["CompiledEngine", "InputBuffer", "OutputBuffer", "compile_library", "compiler"]


_TOP = "dut"

# Seconds of one call into the library: what a progress bar and Ctrl-C wait for.
_CALL_SECONDS = 0.1

# -O2 takes a fifth longer to compile than -O1 and runs a fifth faster; waveforms are slow anyway.
_FLAGS = ("-std=c++17", "-DNDEBUG", "-fPIC", "-shared", "-w")

# Driver and design meet in one evaluation per cycle where the design has no combinational
# feedback. CXXRTL computes combinational values from the state before the clock edge and the next
# state from them, so after eval() all values are those of the cycle, and commit() is the edge.
_HARNESS = r"""
#include <cerrno>
#include <cstdint>
#include <cstdio>

namespace {

struct Input {
    const uint64_t *words;
    int64_t *cycles;
    int64_t count, next;
};

struct Output {
    uint64_t *words;
    int64_t *cycles;
    int64_t capacity, count, wanted, lasts, wanted_lasts;
};

template<size_t Bits>
void load(cxxrtl::value<Bits> &to, const uint64_t *from) {
    for (size_t i = 0; i < to.chunks; i++)
        to.data[i] = uint32_t(from[i / 2] >> (32 * (i % 2)));
}

template<size_t Bits>
void store(uint64_t *to, const cxxrtl::value<Bits> &from) {
    for (size_t i = 0; i < from.chunks; i += 2)
        to[i / 2] = from.data[i] | (i + 1 < from.chunks ? uint64_t(from.data[i + 1]) << 32 : 0);
}

template<size_t Bits> const cxxrtl::value<Bits> &now(const cxxrtl::value<Bits> &x) { return x; }
template<size_t Bits> const cxxrtl::value<Bits> &now(const cxxrtl::wire<Bits> &x) { return x.curr; }
template<class Any> bool bit(const Any &x) { return bool(now(x)); }
template<size_t Bits> size_t words_of(const cxxrtl::value<Bits> &) { return (Bits + 63) / 64; }

struct Simulation {
    cxxrtl_design::p_dut top;
    int64_t cycle = 0, active = 0;
    bool direct = true;
    int error = 0; // errno of the file of waveforms
#ifdef NEARBIT_BUSES
    Memory memory;

    bool is_broken() const { return !memory.broken.empty(); }
#else
    bool is_broken() const { return false; }
#endif
#ifdef NEARBIT_VCD
    cxxrtl::debug_items items;
    cxxrtl::vcd_writer vcd;
    FILE *file = nullptr;
    uint64_t time = 0;

    ~Simulation() {
        if (file)
            fclose(file);
    }

    void sample() {
        vcd.sample(time);
        time += 5;
        if (!error && fwrite(vcd.buffer.data(), 1, vcd.buffer.size(), file) != vcd.buffer.size())
            error = errno ? errno : EIO;
        vcd.buffer.clear();
    }
#endif

    // Everything up to the clock edge: afterwards all values are those of this cycle.
    void settle() {
        if (direct) {
            NEARBIT_CLOCK(1)
            top.eval();
        } else {
            NEARBIT_CLOCK(0)
            top.step();
        }
#ifdef NEARBIT_VCD
        if (file)
            sample();
#endif
    }

    void edge() {
        if (direct) {
            top.commit();
            NEARBIT_CLOCK(0)
            NEARBIT_FALL
        } else {
            NEARBIT_CLOCK(1)
            top.step();
        }
#ifdef NEARBIT_VCD
        if (file && direct)
            sample();
#endif
    }
};

}

extern "C" {

Simulation *nearbit_create(int direct, const char *vcd) {
    auto *sim = new Simulation;
    // eval() says whether one evaluation is enough; that is a property of the design.
    sim->direct = direct && sim->top.eval();
#ifdef NEARBIT_VCD
    if (vcd) {
        sim->file = fopen(vcd, "wb");
        if (!sim->file) {
            sim->error = errno;
            return sim;
        }
        sim->top.debug_info(&sim->items, nullptr, "dut ");
        sim->vcd.timescale(1, "ns");
        sim->vcd.add_without_memories(sim->items);
    }
#endif
    NEARBIT_RESET(1)
    sim->settle();
    sim->edge();
    NEARBIT_RESET(0)
    return sim;
}

void nearbit_destroy(Simulation *sim) { delete sim; }

// Ends the file of waveforms; the errno of the first that failed, else 0.
int nearbit_close(Simulation *sim) {
#ifdef NEARBIT_VCD
    if (sim->file && fclose(sim->file) && !sim->error)
        sim->error = errno ? errno : EIO;
    sim->file = nullptr;
#endif
    return sim->error;
}

int nearbit_error(Simulation *sim) { return sim->error; }

int64_t nearbit_cycle(Simulation *sim) { return sim->cycle; }

int64_t nearbit_active(Simulation *sim) { return sim->active; }

// Levels of ports that are no streams, 64-bit words of each one after another.
void nearbit_set(Simulation *sim, const uint64_t *words) {
    auto &top = sim->top;
    NEARBIT_LEVELS
}

// Simulates at most `limit` cycles: while inputs are left (mode 0), until the wanted beats have
// come (mode 1), or all of them (mode 2). Ends early when an output's buffer is full.
int64_t nearbit_run(Simulation *sim, Input *in, Output *out, int64_t limit, int mode) {
    auto &top = sim->top;
    int64_t done = 0;
    for (; done < limit; done++) {
        bool more = mode == 2;
        if (mode == 0)
            for (int i = 0; i < NEARBIT_INPUTS; i++)
                more |= in[i].next < in[i].count;
        if (mode == 1)
            for (int i = 0; i < NEARBIT_OUTPUTS; i++)
                more |= out[i].count < out[i].wanted || out[i].lasts < out[i].wanted_lasts;
        for (int i = 0; i < NEARBIT_OUTPUTS; i++)
            if (out[i].count == out[i].capacity)
                return done;
        if (!more || sim->error || sim->is_broken())
            return done;
        NEARBIT_DRIVE
        NEARBIT_DRIVE_BUSES
        sim->settle();
        NEARBIT_SAMPLE
        NEARBIT_SAMPLE_BUSES
        sim->edge();
        sim->cycle++;
    }
    return done;
}

}
"""


class InputBuffer(ctypes.Structure):
    """Words for an input of the native library, and the cycles in which it accepts them."""

    _fields_ = (("words", ctypes.c_void_p), ("cycles", ctypes.c_void_p),
                ("count", ctypes.c_int64), ("next", ctypes.c_int64))


class OutputBuffer(ctypes.Structure):
    """Room for the words of an output of the native library, and for their cycles."""

    _fields_ = (("words", ctypes.c_void_p), ("cycles", ctypes.c_void_p),
                ("capacity", ctypes.c_int64), ("count", ctypes.c_int64),
                ("wanted", ctypes.c_int64), ("lasts", ctypes.c_int64),
                ("wanted_lasts", ctypes.c_int64))


def _mangle(name: str) -> str:
    """Name a port as CXXRTL does."""
    return "p_" + name.replace("_", "__")


def _glue(inputs: list[Port], outputs: list[Port], buses: list[Bus], plain: dict[str, int],
          verilog: str) -> str:
    """Write the part of the harness that depends on the ports."""
    drive: list[str] = []
    sample: list[str] = []
    for index, port in enumerate(inputs):
        name, i = f"top.{_mangle(port.name)}__", f"in[{index}]"
        drive.append(f"bool v{index} = {i}.next < {i}.count;")
        if port.has_valid:
            drive.append(f"{name}__valid = cxxrtl::value<1>{{uint32_t(v{index})}};")
        if port.shape.width:
            drive.append(f"if (v{index}) load({name}__payload, {i}.words + "
                         f"{i}.next * {port.words});")
        ready = f" && bit({name}__ready)" if port.has_ready else ""
        sample.append(f"if (v{index}{ready}) {{ {i}.cycles[{i}.next++] = sim->cycle; "
                      f"sim->active = sim->cycle; }}")
    for index, port in enumerate(outputs):
        name, o = f"top.{_mangle(port.name)}__", f"out[{index}]"
        if port.has_ready:
            drive.append(f"{name}__ready = cxxrtl::value<1>{{1u}};")
        store = (f"store({o}.words + {o}.count * {port.words}, now({name}__payload)); "
                 if port.shape.width else "")
        last = _last(port)
        if last is not None:
            store += (f"{o}.lasts += {o}.words[{o}.count * {port.words} + {last // 64}] "
                      f">> {last % 64} & 1; ")
        sample.append((f"if (bit({name}__valid)) " if port.has_valid else "")
                      + f"{{ {store}{o}.cycles[{o}.count++] = sim->cycle; "
                        f"sim->active = sim->cycle; }}")
    header = verilog[verilog.index("module dut("):]
    names = header[:header.index(")")].split("(")[1].replace(",", " ").split()
    clock = "top.p_clk = cxxrtl::value<1>{uint32_t(x)};" if "clk" in names else ""
    macros = {
        "NEARBIT_INPUTS": str(len(inputs)),
        "NEARBIT_OUTPUTS": str(len(outputs)),
        "NEARBIT_CLOCK(x)": clock,
        "NEARBIT_FALL": "top.prev_p_clk = cxxrtl::value<1>{0u};" if clock else "",
        "NEARBIT_RESET(x)": ("sim->top.p_rst = cxxrtl::value<1>{uint32_t(x)};"
                             if "rst" in names else ""),
        "NEARBIT_DRIVE": " ".join(drive),
        "NEARBIT_SAMPLE": " ".join(sample),
        "NEARBIT_LEVELS": " ".join(
            f"load(top.{_mangle(name)}, words + {_offset(plain, name)});"
            for name in plain if name in names),
        "NEARBIT_DRIVE_BUSES": "",
        "NEARBIT_SAMPLE_BUSES": "",
        **bus_glue(buses, [f"top.{_mangle(port.name)}__" for bus in buses
                           for port in bus.channels.values()]),
    }
    return "".join(f"#define {name} {text}\n" for name, text in macros.items())


def _last(port: Port) -> int | None:
    """Bit of a payload that says that it is the last one of a part; None if it has none."""
    fields = port.shape.fields if isinstance(port.shape, Struct) else ()
    return next((offset for name, offset, shape in fields if (name, shape.width) == ("last", 1)),
                None)


def _offset(plain: dict[str, int], name: str) -> int:
    """Words in front of a level's."""
    return sum(-(-width // 64) for width in list(plain.values())[:list(plain).index(name)])


def compiler() -> list[str]:
    """Find a C++ compiler: ``$CXX``, the system's, or the one of the ``compiler`` extra."""
    chosen = os.environ.get("CXX")
    if chosen:
        try:
            command = shlex.split(chosen)
        except ValueError:
            command = [] # quotes without an end
        if not command or shutil.which(command[0]) is None:
            raise SimulationError(f"the C++ compiler of the environment variable CXX, {chosen!r}, "
                                  f"is not found")
        return command
    for name in ("g++", "clang++", "c++"):
        found = shutil.which(name)
        if found is not None:
            return [found]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "c++"]
    raise SimulationError("the compiled engine needs a C++ compiler: install g++ or clang++, or "
                          "the one from PyPI with: pip install 'nearbit[compiler]'")


# What Yosys has named itself, `_123_`, says nothing in a waveform.
_NAMELESS = " ".join(f"w:*_{'?' * digits}_" for digits in range(1, 7))


def _source(verilog: str, glue: str, *, debug: bool, has_memory: bool) -> str:
    """Translate Verilog to C++ and add the harness."""
    try:
        design = yosys.run([
            "read_verilog <<verilog", verilog, "verilog",
            f"hierarchy -check -top {_TOP}",
            "proc -noopt", "flatten",
            *([f"rename -hide {_NAMELESS}"] if debug else []),
            # More passes cost Yosys and the compiler twice the time and gain no speed; `memory`,
            # which moves registers into memories and merges ports, even four times.
            "opt_expr", "opt_merge", "opt_dff", "opt_clean", "memory_collect",
            # Without this, bits of one vector that depend on each other look like feedback.
            "splitnets -driver",
            "opt_clean" if debug else "opt_clean -purge",
            f"write_cxxrtl -O6 {'-g4' if debug else '-g0'}",
        ])
    except yosys.YosysError as error:
        raise SimulationError(f"Yosys cannot compile the design: {error}") from None
    vcd = "#define NEARBIT_VCD\n#include <cxxrtl/cxxrtl_vcd.h>\n" if debug else ""
    before, after = (MEMORY_HARNESS, MEMORY_INTERFACE) if has_memory else ("", "")
    return f"{split_eval(design)}\n{vcd}{glue}{before}{_HARNESS}{after}"


def compile_library(command: list[str], source: str, target: Path) -> None:
    """Compile C++ to a shared library; :class:`SimulationError` quotes the compiler."""
    try:
        with tempfile.TemporaryDirectory(prefix="nearbit-") as directory:
            path = Path(directory, "simulation.cc")
            path.write_text(source, encoding="utf-8")
            result = subprocess.run([*command, str(path), "-o", str(target)],
                                    capture_output=True, encoding="utf-8", errors="replace",
                                    check=False)
    except OSError as error:
        raise SimulationError(f"the C++ compiler {command[0]} cannot be run in "
                              f"{_temporary_folder()}: {error.strerror or error}") from None
    if result.returncode != 0:
        said = "\n".join(result.stderr.strip().splitlines()[:10])
        raise SimulationError(f"the C++ compiler {command[0]} failed:\n"
                              f"{said or f'status {result.returncode}, and nothing said'}")


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        return "any folder for temporary files"


def _compile(command: list[str], source: str, target: Path) -> None:
    """Compile C++ that needs CXXRTL's headers."""
    runtime = yosys.share() / "include" / "backends" / "cxxrtl" / "runtime"
    compile_library([*command, f"-I{runtime}"], source, target)


def _library(verilog: str, glue: str, *, debug: bool, has_memory: bool) -> Path:
    """Return the library of a design, from the cache or newly built."""
    command = [*compiler(), *_FLAGS, "-O1" if debug else "-O2"]
    try:
        version = subprocess.run([*compiler(), "--version"], capture_output=True, encoding="utf-8",
                                 errors="replace", check=False).stdout
    except OSError as error:
        raise SimulationError(f"the C++ compiler {command[0]} cannot be run: "
                              f"{error.strerror or error}") from None
    makers = (resources.files("nearbit_sim") / name for name in (
        "compiled.py", "cxxrtl.py", *(["memory_harness.py"] if has_memory else [])))
    key = key_of(verilog, glue, str(debug), *command, version, yosys.version(),
                 *(maker.read_text(encoding="utf-8") for maker in makers))
    return cached(key, ".so", lambda path: _compile(
        command, _source(verilog, glue, debug=debug, has_memory=has_memory), path))


class CompiledEngine:
    """A component as a native library. Satisfies :class:`nearbit_sim.engine.Engine`.

    Parameters
    ----------
    component
        What to simulate.
    verilog
        Text to simulate instead of the component's own, with a top module ``dut``. Only the streams
        of the component are then used.
    started
        Start of the build time, by :func:`time.perf_counter`; None is now.
    """

    name = "compiled"

    def __init__(self, component: wiring.Component, *, verilog: str | None = None,
                 started: float | None = None) -> None:
        """Generate the Verilog; the library is built by the first run that needs it."""
        started = time.perf_counter() if started is None else started
        self._buses, self._ports = split_buses(ports(component))
        self._levels = levels(component)
        self._inputs = [port for port in self._ports if port.is_input]
        self._outputs = [port for port in self._ports if not port.is_input]
        # CXXRTL fills memories with zeros; Yosys would unroll loops that do so for many seconds.
        self._verilog = generate(component, _TOP, initial="given") if verilog is None else verilog
        self._glue = _glue(self._inputs, self._outputs, self._buses, self._levels, self._verilog)
        self._libraries: dict[bool, ctypes.CDLL] = {}
        self._build_seconds = time.perf_counter() - started

    @property
    def ports(self) -> list[Port]:
        """Streams of the component, without those of AXI4 buses."""
        return self._ports

    def _load(self, debug: bool) -> ctypes.CDLL:
        if debug not in self._libraries:
            library = load_library(_library(self._verilog, self._glue, debug=debug,
                                            has_memory=bool(self._buses)))
            library.nearbit_create.restype = ctypes.c_void_p
            library.nearbit_create.argtypes = (ctypes.c_int, ctypes.c_char_p)
            library.nearbit_destroy.restype = None
            library.nearbit_destroy.argtypes = (ctypes.c_void_p,)
            library.nearbit_set.restype = None
            library.nearbit_set.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
            for function in (library.nearbit_close, library.nearbit_error):
                function.restype = ctypes.c_int
                function.argtypes = (ctypes.c_void_p,)
            for function in (library.nearbit_cycle, library.nearbit_active):
                function.restype = ctypes.c_int64
                function.argtypes = (ctypes.c_void_p,)
            library.nearbit_run.restype = ctypes.c_int64
            library.nearbit_run.argtypes = (
                ctypes.c_void_p, ctypes.POINTER(InputBuffer), ctypes.POINTER(OutputBuffer),
                ctypes.c_int64, ctypes.c_int)
            self._libraries[debug] = library
        return self._libraries[debug]

    def run(self, program: Program, *, patience: int = 1_000_000,
            progress: Progress | None = None, vcd: str | None = None,
            timing: MemoryTiming | None = None, log: bool = False,
            direct: bool = True) -> Outcome:
        """Run a program from reset to its last beat: see :class:`nearbit_sim.engine.Engine`.

        With ``direct`` unset, every cycle is evaluated until nothing changes, both at a low and at
        a high clock, as is necessary for a design with combinational feedback.
        """
        started = time.perf_counter()
        library = self._load(vcd is not None)
        built, self._build_seconds = self._build_seconds + time.perf_counter() - started, 0.0
        handle = library.nearbit_create(int(direct), None if vcd is None else os.fsencode(vcd))
        started = time.perf_counter()
        try:
            _check_file(library.nearbit_error(handle), vcd)
            words = level_words(self._levels, program.levels)
            library.nearbit_set(handle, words.ctypes.data)
            contents = program.contents()
            memory = None if not self._buses else CompiledMemory(
                library, handle, self._buses, timing or MemoryTiming(), contents, log=log)
            run = _Run(library, handle, self._inputs, self._outputs, program, patience, progress,
                       vcd, memory)
            accepted = run.phases()
            traffic = [] if memory is None else memory.traffic()
            _check_file(library.nearbit_close(handle), vcd)
        finally:
            library.nearbit_destroy(handle)
        return Outcome(accepted=accepted, outputs=run.beats(), cycles=run.cycles,
                       engine=self.name, seconds=time.perf_counter() - started,
                       build_seconds=built, traffic=traffic,
                       memory=None if memory is None else contents)


def _check_file(error: int, vcd: str | None) -> None:
    """Raise :class:`WaveformError` if a library could not write its waveforms."""
    if error:
        raise WaveformError(error, os.strerror(error), vcd)


class _Run:
    """One run of a program: its buffers, calls and time limits."""

    def __init__(self, library: ctypes.CDLL, handle: int, inputs: list[Port], outputs: list[Port],
                 program: Program, patience: int, progress: Progress | None,
                 vcd: str | None, memory: CompiledMemory | None) -> None:
        self.cycles = 0
        self._library = library
        self._handle = handle
        self._ports = outputs
        self._names = [port.name for port in inputs]
        self._program = program
        self._patience = patience
        self._progress = progress
        self._vcd = vcd
        self._memory = memory
        self._accepted = 0
        self._chunk = 1000
        self._in = (InputBuffer * max(1, len(inputs)))()
        self._out = (OutputBuffer * max(1, len(outputs)))()
        self._words: list[Words] = []
        self._cycles: list[Cycles] = []
        for index, port in enumerate(outputs):
            wanted = program.beats.get(port.name, 0)
            self._words.append(np.empty((0, port.words), dtype=np.uint64))
            self._cycles.append(np.empty(0, dtype=np.int64))
            self._grow(index, max(wanted + 1, 1024))

    def _grow(self, index: int, capacity: int) -> None:
        """Give an output a larger buffer."""
        words = np.zeros((capacity, self._words[index].shape[1]), dtype=np.uint64)
        cycles = np.zeros(capacity, dtype=np.int64)
        words[:len(self._words[index])] = self._words[index]
        cycles[:len(self._cycles[index])] = self._cycles[index]
        self._words[index], self._cycles[index] = words, cycles
        self._out[index].words = self._words[index].ctypes.data
        self._out[index].cycles = self._cycles[index].ctypes.data
        self._out[index].capacity = capacity

    def phases(self) -> list[dict[str, Cycles]]:
        """Run all phases, and return the cycles in which inputs were accepted."""
        accepted: list[dict[str, Cycles]] = []
        for phase in self._program.phases:
            for entry in self._in:
                entry.count = entry.next = 0
            if phase.after:
                self._wait(phase.after)
            self._advance(2, phase.delay)
            cycles: dict[str, Cycles] = {}
            kept: list[Words] = []
            for name, words in phase.inputs.items():
                entry = self._in[self._names.index(name)]
                kept.append(np.ascontiguousarray(words, dtype=np.uint64))
                cycles[name] = np.zeros(len(words), dtype=np.int64)
                entry.words, entry.cycles = kept[-1].ctypes.data, cycles[name].ctypes.data
                entry.count = len(words)
            self._advance(0)
            self._accepted += sum(map(len, kept))
            accepted.append(cycles)
        for entry in self._in:
            entry.count = entry.next = 0
        self._wait(self._program.awaited, self._program.lasts)
        self.cycles = self._library.nearbit_active(self._handle) + 1 if self._transfers() else 0
        self._report()
        return accepted

    def _wait(self, beats: Mapping[str, int], lasts: Mapping[str, int] | None = None) -> None:
        """Simulate until so many beats have come, and so many of them with ``last``."""
        for index, port in enumerate(self._ports):
            self._out[index].wanted = beats.get(port.name, 0)
            self._out[index].wanted_lasts = (lasts or {}).get(port.name, 0)
        self._advance(1)

    def _advance(self, mode: int, cycles: int | None = None) -> None:
        """Simulate, in calls of bounded duration, until the library has nothing left to do."""
        began = self._library.nearbit_cycle(self._handle)
        while cycles is None or cycles > 0:
            limit = self._chunk if cycles is None else min(self._chunk, cycles)
            started = time.perf_counter()
            done = self._library.nearbit_run(self._handle, self._in, self._out, limit, mode)
            seconds = time.perf_counter() - started
            _check_file(self._library.nearbit_error(self._handle), self._vcd)
            if self._memory is not None and self._memory.broken:
                raise SimulationError(self._memory.broken)
            if cycles is not None:
                cycles -= done
            full = False
            for index in range(len(self._ports)):
                if self._out[index].count == self._out[index].capacity:
                    full = True
                    self._grow(index, 2 * self._out[index].capacity)
            if done == limit:
                # A delay of a few cycles says nothing of the time that a whole call takes.
                if limit == self._chunk:
                    self._chunk = max(100, int(limit * min(4.0, _CALL_SECONDS
                                                           / max(seconds, 1e-6))))
                self._report()
            elif not full:
                return
            if cycles is None:
                self._check(began)

    def _check(self, began: int) -> None:
        cycle = self._library.nearbit_cycle(self._handle)
        moved = 0 if self._memory is None else self._memory.last
        if cycle - max(began, moved,
                       self._library.nearbit_active(self._handle)) > self._patience:
            raise SimulationError(f"the hardware has stopped: nothing moved in the "
                                  f"{self._patience} cycles before cycle {cycle}")

    def _transfers(self) -> int:
        beats = sum(self._out[index].count for index in range(len(self._ports)))
        return int(self._accepted + sum(entry.next for entry in self._in) + beats)

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._library.nearbit_cycle(self._handle), self._transfers(),
                           self._program.transfers)

    def beats(self) -> dict[str, Beats]:
        """Cut the buffers to the words received."""
        return {port.name: Beats(port, self._words[index][:self._out[index].count].copy(),
                                 self._cycles[index][:self._out[index].count].copy())
                for index, port in enumerate(self._ports)}
