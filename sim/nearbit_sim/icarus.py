"""The reference engine: the generated Verilog on Icarus Verilog, driven by cocotb."""

import json
import os
import select
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.lib import wiring
from cocotb_tools.runner import Icarus

from nearbit_hw.verilog import generate
from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.transfers.buses import Bus, split_buses
from nearbit_model.transfers.payload import Port
from nearbit_model.transfers.program import (
    TRAFFIC_LOG,
    Beats,
    Cycles,
    Outcome,
    Program,
    Progress,
    Traffic,
)
from nearbit_sim.engine import SimulationError, WaveformError
from nearbit_sim.payload import level_words, levels, ports


__all__ = ["IcarusEngine"]


_TOP = "dut"
_DUMP = "nearbit_dump"
_WAVES = "waves.vcd"


class _Runner(Icarus):
    """Cocotb's runner with a VCD file, for which it has no option."""

    def _test_command(self) -> list[list[str]]:
        return [["-vcd" if word == "-none" else word for word in command]
                for command in super()._test_command()]


class IcarusEngine:
    """A component on Icarus Verilog. Satisfies :class:`nearbit_sim.engine.Engine`.

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

    name = "icarus"

    def __init__(self, component: wiring.Component, *, verilog: str | None = None,
                 started: float | None = None) -> None:
        """Generate the Verilog."""
        if shutil.which("iverilog") is None or shutil.which("vvp") is None:
            raise SimulationError("the icarus engine needs Icarus Verilog: "
                                  "apt-get install iverilog")
        started = time.perf_counter() if started is None else started
        self._buses, self._ports = split_buses(ports(component))
        self._levels = levels(component)
        self._verilog = generate(component, _TOP) if verilog is None else verilog
        self._build_seconds = time.perf_counter() - started

    @property
    def ports(self) -> list[Port]:
        """Streams of the component, without those of AXI4 buses."""
        return self._ports

    def run(self, program: Program, *, patience: int = 1_000_000,
            progress: Progress | None = None, vcd: str | None = None,
            timing: MemoryTiming | None = None, log: bool = False) -> Outcome:
        """Run a program from reset to its last beat: see :class:`nearbit_sim.engine.Engine`."""
        memory = {"buses": [bus.to_json() for bus in self._buses], "log": log,
                  "timing": (timing or MemoryTiming()).to_json()}
        try:
            with tempfile.TemporaryDirectory(prefix="nearbit-") as name:
                outcome = self._simulate(Path(name), program, patience, memory, progress, vcd)
        except WaveformError:
            raise
        except OSError as error:
            if tempfile.tempdir is None:
                raise # there is none
            raise SimulationError(f"the folder for temporary files {tempfile.tempdir} cannot be "
                                  f"used: {error.strerror or error}; TMPDIR can name another"
                                  ) from None
        if progress is not None:
            progress(outcome.cycles, program.transfers, program.transfers)
        return outcome

    def _simulate(self, directory: Path, program: Program, patience: int,
                  memory: dict[str, Any], progress: Progress | None, vcd: str | None) -> Outcome:
        started = time.perf_counter()
        runner = _Runner()
        self._build(runner, directory, has_waves=vcd is not None)
        built, self._build_seconds = self._build_seconds + time.perf_counter() - started, 0.0
        self._write(program, patience, memory, directory)
        log = directory / "log.txt"
        with _waveforms(directory / _WAVES, vcd), \
                _reports(directory / "progress", program, progress), \
                suppress(RuntimeError, SystemExit):
            runner.test(test_module="nearbit_sim.replay", hdl_toplevel=_TOP,
                        build_dir=directory, test_dir=directory, log_file=log,
                        results_xml=str(directory / "results.xml"),
                        # Ctrl-C ends the simulator instead of opening its prompt.
                        test_args=["-n"],
                        extra_env={"NEARBIT_REPLAY": str(directory),
                                   "COCOTB_REWRITE_ASSERTION_FILES": "",
                                   "COCOTB_LOG_LEVEL": "WARNING"})
        return self._read(program, directory, built)

    def _build(self, runner: _Runner, directory: Path, *, has_waves: bool) -> None:
        source = directory / "dut.v"
        source.write_text(self._verilog, encoding="utf-8")
        sources, options = [source], []
        if has_waves:
            dump = directory / "dump.v"
            dump.write_text(f'module {_DUMP};\n  initial begin\n    $dumpfile("{_WAVES}");\n'
                            f"    $dumpvars(0, {_TOP});\n  end\nendmodule\n", encoding="utf-8")
            sources, options = [*sources, dump], ["-s", _DUMP]
        log = directory / "build.txt"
        with suppress(RuntimeError, SystemExit):
            runner.build(sources=sources, hdl_toplevel=_TOP, build_dir=directory, always=True,
                         build_args=options, timescale=("1ns", "1ns"), log_file=log)
        if not (directory / "sim.vvp").exists():
            said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            raise SimulationError(f"Icarus Verilog cannot compile the design: {said.strip()}")

    def _write(self, program: Program, patience: int, memory: dict[str, Any],
               directory: Path) -> None:
        names = [port.name for port in self._ports if port.is_input]
        arrays = {
            "counts": np.array([[len(phase.inputs.get(name, ())) for name in names]
                                for phase in program.phases],
                               dtype=np.int64).reshape(-1, len(names)),
            "delays": np.array([phase.delay for phase in program.phases], dtype=np.int64),
            "memory": program.contents(),
        }
        for port in self._ports:
            if port.is_input:
                arrays[f"words_{port.name}"] = np.concatenate(
                    [np.zeros((0, port.words), dtype=np.uint64),
                     *(phase.inputs[port.name] for phase in program.phases
                       if port.name in phase.inputs)])
        # mypy takes the arrays for the option of the same call.
        np.savez(directory / "program.npz", **arrays) # type: ignore[arg-type]
        task = {"ports": [port.to_json() for port in self._ports], "beats": program.awaited,
                "lasts": program.lasts, "patience": patience, "memory": memory,
                "after": [dict(phase.after) for phase in program.phases],
                "levels": _numbers(self._levels, program.levels)}
        (directory / "task.json").write_text(json.dumps(task), encoding="utf-8")

    def _read(self, program: Program, directory: Path, built: float) -> Outcome:
        failure = directory / "error.txt"
        if failure.exists():
            raise SimulationError(failure.read_text(encoding="utf-8"))
        if not (directory / "answer.npz").exists():
            log = directory / "log.txt"
            said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            raise SimulationError("Icarus Verilog ended without an answer:\n"
                                  + "\n".join(said.splitlines()[-20:]))
        with np.load(directory / "answer.npz") as arrays:
            accepted: list[dict[str, Cycles]] = []
            position = dict.fromkeys((port.name for port in self._ports), 0)
            for phase in program.phases:
                cycles: dict[str, Cycles] = {}
                for name, words in phase.inputs.items():
                    start = position[name]
                    position[name] += len(words)
                    cycles[name] = arrays[f"accepted_{name}"][start:position[name]]
                accepted.append(cycles)
            outputs = {port.name: Beats(port, arrays[f"words_{port.name}"].astype(np.uint64),
                                        arrays[f"cycles_{port.name}"])
                       for port in self._ports if not port.is_input}
            return Outcome(accepted=accepted, outputs=outputs, cycles=int(arrays["cycles"]),
                           engine=self.name, seconds=float(arrays["seconds"]),
                           build_seconds=built,
                           traffic=[_traffic(bus, arrays) for bus in self._buses],
                           memory=arrays["memory"] if self._buses else None)


def _numbers(widths: dict[str, int], values: dict[str, int]) -> dict[str, int]:
    """Give each level its value; :class:`ValueError` if there is one without a level."""
    level_words(widths, values)
    return {name: values.get(name, 0) for name in widths}


def _traffic(bus: Bus, arrays: Any) -> Traffic:
    """Read what was transferred on a bus."""
    bursts, beats, failed = arrays[f"traffic_{bus.name}"].tolist()
    return Traffic(bus.name, bus.is_read, bus.beat_bytes, bursts, beats, failed,
                   **{part: arrays[f"{part}_of_{bus.name}"] for part in TRAFFIC_LOG})


@contextmanager
def _waveforms(pipe: Path, vcd: str | None) -> Iterator[None]:
    """Copy what a simulator in this block writes to a pipe into a file.

    Icarus Verilog ignores errors of its own file, and succeeds even if half of it is missing.
    """
    if vcd is None:
        yield
        return
    os.mkfifo(pipe)
    # To be a writer, too, keeps the pipe open before the simulator is one.
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    ended = threading.Event()
    failures: list[OSError] = []
    with os.fdopen(descriptor, "rb", buffering=0) as waves:
        try:
            target = os.open(vcd, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        except OSError as error:
            raise WaveformError(error.errno, error.strerror, vcd) from None
        stream = os.fdopen(target, "wb")

        def copy() -> None:
            # What is left when the simulator has ended is in the pipe by then.
            while select.select([waves], [], [], 0 if ended.is_set() else 0.1)[0] \
                    or not ended.is_set():
                with suppress(BlockingIOError):
                    data = waves.read(1 << 16)
                    try:
                        if data and not failures:
                            stream.write(data)
                    except OSError as error:
                        failures.append(error)

        thread = threading.Thread(target=copy, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            try:
                stream.close()
            except OSError as error:
                failures.append(error)
    if failures:
        raise WaveformError(failures[0].errno, failures[0].strerror, vcd)


@contextmanager
def _reports(path: Path, program: Program, progress: Progress | None) -> Iterator[None]:
    """Pass on the simulator's progress while it runs in this thread."""
    if progress is None:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.25):
            # It may be absent, or just being written.
            with suppress(OSError, ValueError):
                cycle, done = map(int, path.read_text(encoding="ascii").split())
                progress(cycle, done, program.transfers)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
