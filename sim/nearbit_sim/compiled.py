"""The fast engine: the generated Verilog as a native library, driven in batches.

Verilator turns the Verilog into C++, the system's C++ compiler turns that and a small harness into
a shared library, and :mod:`ctypes` hands it whole arrays of payloads. Libraries are kept in the
user's cache directory, under a hash of everything they are made of.
"""

import ctypes
import os
import time
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np
from amaranth.lib import wiring

from nearbit_hw.verilog import generate
from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.transfers.buses import Bus, split_buses
from nearbit_model.transfers.payload import Port, Struct, Words
from nearbit_model.transfers.program import Beats, Cycles, Outcome, Program, Progress
from nearbit_sim import verilator
from nearbit_sim.cache import cached, key_of, load_library
from nearbit_sim.cxx import compiler, identify
from nearbit_sim.engine import SimulationError, WaveformError
from nearbit_sim.memory_harness import (
    MEMORY_HARNESS,
    MEMORY_INTERFACE,
    CompiledMemory,
    bus_glue,
)
from nearbit_sim.payload import level_words, levels, ports
from nearbit_sim.verilator import mangle


__all__ = ["CompiledEngine", "InputBuffer", "OutputBuffer"]


_TOP = "dut"

# Seconds of one call into the library: what a progress bar and Ctrl-C wait for.
_CALL_SECONDS = 0.1

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

// Ports of up to 64 bits are integers, wider ones arrays of 32-bit words.
template<class Port>
void load(Port &to, const uint64_t *from) { to = Port(*from); }

template<size_t Count>
void load(VlWide<Count> &to, const uint64_t *from) {
    for (size_t i = 0; i < Count; i++)
        to[i] = uint32_t(from[i / 2] >> (32 * (i % 2)));
}

template<class Port>
void store(uint64_t *to, const Port &from) { *to = from; }

template<size_t Count>
void store(uint64_t *to, const VlWide<Count> &from) {
    for (size_t i = 0; i < Count; i += 2)
        to[i / 2] = from[i] | (i + 1 < Count ? uint64_t(from[i + 1]) << 32 : 0);
}

template<class Port> size_t words_of(const Port &) { return (sizeof(Port) + 7) / 8; }

#ifdef NEARBIT_VCD
// Verilator's own does not say that a disk is full.
struct VcdFile final : VerilatedVcdFile {
    FILE *file = nullptr;
    int error = 0; // errno of the first failure

    bool open(const std::string &name) override {
        file = fopen(name.c_str(), "wb");
        if (!file)
            error = errno;
        return file;
    }

    ssize_t write(const char *bytes, ssize_t count) override {
        if (!error && fwrite(bytes, 1, size_t(count), file) != size_t(count))
            error = errno ? errno : EIO;
        return count;
    }

    void close() override {
        if (file && fclose(file) && !error)
            error = errno ? errno : EIO;
        file = nullptr;
    }
};
#endif

struct Simulation {
    VerilatedContext context;
    Design top{&context, ""};
    int64_t cycle = 0, active = 0;
#ifdef NEARBIT_BUSES
    Memory memory;

    bool is_broken() const { return !memory.broken.empty(); }
#else
    bool is_broken() const { return false; }
#endif
#ifdef NEARBIT_VCD
    VcdFile file;
    VerilatedVcdC vcd{&file};
    uint64_t time = 0;

    int error() const { return file.error; }

    void sample() {
        if (vcd.isOpen())
            vcd.dump(time);
        time += 5;
    }
#else
    int error() const { return 0; }
    void sample() {}
#endif

    // Everything up to the clock edge: afterwards all values are those of this cycle.
    void settle() {
        NEARBIT_CLOCK(0)
        top.eval();
        sample();
    }

    void edge() {
        NEARBIT_CLOCK(1)
        top.eval();
        sample();
    }
};

}

#define NEARBIT_PUBLIC __attribute__((visibility("default")))

extern "C" {

NEARBIT_PUBLIC Simulation *nearbit_create(const char *vcd) {
    auto *sim = new Simulation;
#ifdef NEARBIT_VCD
    if (vcd) {
        sim->context.traceEverOn(true);
        sim->top.trace(&sim->vcd, 99);
        sim->vcd.open(vcd);
        if (sim->error())
            return sim;
    }
#endif
    NEARBIT_RESET(1)
    sim->settle();
    sim->edge();
    NEARBIT_RESET(0)
    return sim;
}

NEARBIT_PUBLIC void nearbit_destroy(Simulation *sim) { delete sim; }

// Ends the file of waveforms; the errno of the first that failed, else 0.
NEARBIT_PUBLIC int nearbit_close(Simulation *sim) {
#ifdef NEARBIT_VCD
    sim->vcd.close();
#endif
    return sim->error();
}

NEARBIT_PUBLIC int nearbit_error(Simulation *sim) { return sim->error(); }

NEARBIT_PUBLIC int64_t nearbit_cycle(Simulation *sim) { return sim->cycle; }

NEARBIT_PUBLIC int64_t nearbit_active(Simulation *sim) { return sim->active; }

// Levels of ports that are no streams, 64-bit words of each one after another.
NEARBIT_PUBLIC void nearbit_set(Simulation *sim, const uint64_t *words) {
    auto &top = sim->top;
    NEARBIT_LEVELS
}

// Simulates at most `limit` cycles: while inputs are left (mode 0), until the wanted beats have
// come (mode 1), or all of them (mode 2). Ends early when an output's buffer is full.
NEARBIT_PUBLIC int64_t nearbit_run(Simulation *sim, Input *in, Output *out, int64_t limit,
                                   int mode) {
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
        if (!more || sim->error() || sim->is_broken())
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


def _glue(inputs: list[Port], outputs: list[Port], buses: list[Bus], plain: dict[str, int],
          verilog: str) -> str:
    """Write the part of the harness that depends on the ports."""
    drive: list[str] = []
    sample: list[str] = []
    for index, port in enumerate(inputs):
        name, i = f"top.{mangle(port.name + '__')}", f"in[{index}]"
        drive.append(f"bool v{index} = {i}.next < {i}.count;")
        if port.has_valid:
            drive.append(f"{name}valid = v{index};")
        if port.shape.width:
            drive.append(f"if (v{index}) load({name}payload, {i}.words + "
                         f"{i}.next * {port.words});")
        ready = f" && {name}ready" if port.has_ready else ""
        sample.append(f"if (v{index}{ready}) {{ {i}.cycles[{i}.next++] = sim->cycle; "
                      f"sim->active = sim->cycle; }}")
    for index, port in enumerate(outputs):
        name, o = f"top.{mangle(port.name + '__')}", f"out[{index}]"
        if port.has_ready:
            drive.append(f"{name}ready = 1;")
        store = (f"store({o}.words + {o}.count * {port.words}, {name}payload); "
                 if port.shape.width else "")
        last = _last(port)
        if last is not None:
            store += (f"{o}.lasts += {o}.words[{o}.count * {port.words} + {last // 64}] "
                      f">> {last % 64} & 1; ")
        sample.append((f"if ({name}valid) " if port.has_valid else "")
                      + f"{{ {store}{o}.cycles[{o}.count++] = sim->cycle; "
                        f"sim->active = sim->cycle; }}")
    header = verilog[verilog.index("module dut("):]
    names = header[:header.index(")")].split("(")[1].replace(",", " ").split()
    macros = {
        "NEARBIT_INPUTS": str(len(inputs)),
        "NEARBIT_OUTPUTS": str(len(outputs)),
        "NEARBIT_CLOCK(x)": "top.clk = x;" if "clk" in names else "",
        "NEARBIT_RESET(x)": "sim->top.rst = x;" if "rst" in names else "",
        "NEARBIT_DRIVE": " ".join(drive),
        "NEARBIT_SAMPLE": " ".join(sample),
        "NEARBIT_LEVELS": " ".join(
            f"load(top.{mangle(name)}, words + {_offset(plain, name)});"
            for name in plain if name in names),
        "NEARBIT_DRIVE_BUSES": "",
        "NEARBIT_SAMPLE_BUSES": "",
        **bus_glue(buses, [f"top.{mangle(port.name + '__')}" for bus in buses
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


def _library(verilog: str, glue: str, *, debug: bool, has_memory: bool) -> Path:
    """Return the library of a design, from the cache or newly built."""
    command = compiler()
    makers = (resources.files("nearbit_sim") / name for name in (
        "compiled.py", "verilator.py", *(["memory_harness.py"] if has_memory else [])))
    key = key_of(verilog, glue, str(debug), identify(command), verilator.version(),
                 *(maker.read_text(encoding="utf-8") for maker in makers))
    vcd = "#define NEARBIT_VCD\n#include <verilated_vcd_c.h>\n" if debug else ""
    before, after = (MEMORY_HARNESS, MEMORY_INTERFACE) if has_memory else ("", "")
    harness = f"{vcd}{glue}{before}{_HARNESS}{after}"
    return cached(key, ".so", lambda path: verilator.build(
        verilog, harness, path, command=command, waveforms=debug))


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
        # Verilator fills memories with zeros.
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
            library.nearbit_create.argtypes = (ctypes.c_char_p,)
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
            timing: MemoryTiming | None = None, log: bool = False) -> Outcome:
        """Run a program from reset to its last beat: see :class:`nearbit_sim.engine.Engine`."""
        started = time.perf_counter()
        library = self._load(vcd is not None)
        built, self._build_seconds = self._build_seconds + time.perf_counter() - started, 0.0
        handle = library.nearbit_create(None if vcd is None else os.fsencode(vcd))
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
