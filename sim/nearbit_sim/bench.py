'''Benches: cocotb tests of a component's generated Verilog on Icarus, run from pytest.

One file holds both halves. The simulator imports it too, and runs what is marked ``cocotb.test``;
pytest runs the functions named ``test_*``, which start a simulator with :func:`run_bench`::

    # amaranth: UnusedElaboratable=no (components that are refused are never elaborated)
    import cocotb
    import pytest

    from nearbit_hw.score.popcount import XorPopcount
    from nearbit_sim.bench import run_bench
    from nearbit_sim.stream import MATRIX, Bench


    @cocotb.test()
    @cocotb.parametrize(MATRIX)                    # idle x stall, all in one simulator start
    async def pairs(dut, idle, stall):
        bench = Bench(dut, idle=idle, stall=stall)
        await bench.reset()
        width = bench.parameters["width"]          # passed by run_bench
        for _ in range(100):
            a, b = bench.rng.getrandbits(width), bench.rng.getrandbits(width)
            bench.source("i").send({"a": a, "b": b})
            bench.sink("o").expect((a ^ b).bit_count())
        await bench.finish()                       # all accepted, all arrived, nothing else


    @cocotb.test()
    async def latency(dut):
        bench = Bench(dut)
        await bench.reset()
        bench.source("i").send({"a": 1, "b": 0}, {"a": 0, "b": 0})
        await bench.until(lambda: len(bench.sink("o").received) == 2)
        latency = bench.parameters["latency"]
        assert bench.sink("o").cycles == [latency, latency + 1]


    @pytest.mark.parametrize("width", [1, 7, 64])
    def test_bench(width):
        dut = XorPopcount(width)
        run_bench(dut, __file__, parameters={"width": width, "latency": dut.latency})

Streams are named as in the component, elements of an array of streams ``o__0``, ``o__1``. A sink
that expects nothing records what comes (``received``, ``cycles``); ``on_beat`` calls back, for
example to answer requests through another source. ``bench.reset()`` may come at any time. Single
steps: ``await bench.step(n)``; ``source.idle = 1`` and ``sink.stall = 1`` hold a stream. Ports
that are no stream: ``bench.dut.name.value``. The protocol monitor is always on.

Environment: ``NEARBIT_SEED`` (default 1) seeds a run; ``NEARBIT_BENCH_DIR`` keeps each run's
files there, with waveforms.
'''

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from amaranth.lib import wiring
from cocotb_tools.runner import get_runner

from nearbit_hw.verilog import generate
from nearbit_sim.payload import ports


__all__ = ["BenchError", "run_bench"]


_TOP = "dut"


class BenchError(AssertionError):
    """A cocotb test failed, or none ran; the message is the simulator's output."""


def run_bench(component: wiring.Component, module: str | os.PathLike[str], *,
              parameters: Mapping[str, Any] | None = None, verilog: str | None = None,
              test_filter: str | None = None, timeout: float = 300) -> None:
    """Run the cocotb tests of a module on a component; :class:`BenchError` unless all pass.

    Parameters
    ----------
    component
        What to test.
    module
        File with the cocotb tests, usually ``__file__``.
    parameters
        Contents of ``bench.parameters`` in the tests; anything JSON can hold.
    verilog
        Text to simulate instead of the component's own, with a top module of any name: a netlist
        or a mutant. Only the streams of the component are then used.
    test_filter
        Regular expression of the names of the tests to run; all by default.
    timeout
        Seconds after which the simulator is terminated.
    """
    __tracebackhide__ = True
    module = Path(module).resolve()
    description = {"ports": [port.to_json() for port in ports(component)],
                   "parameters": dict(parameters or {}), "timeout": timeout}
    if verilog is None:
        verilog, top = generate(component, _TOP), _TOP
    else:
        top = _top(verilog)

    kept = os.environ.get("NEARBIT_BENCH_DIR")
    if kept:
        Path(kept).mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{module.stem}-", dir=kept))
    try:
        _run(directory, verilog, top, module, description, test_filter, waves=bool(kept))
    finally:
        if not kept:
            shutil.rmtree(directory, ignore_errors=True)


def _top(verilog: str) -> str:
    """Name the module that no other instantiates; it comes first in generated text."""
    match = re.search(r"^\s*module\s+(\w+)", verilog, re.MULTILINE)
    if match is None:
        raise ValueError("there is no module in the Verilog text")
    return match[1]


@contextmanager
def _on_path(directory: Path) -> Iterator[None]:
    """Put a directory on the module path, which the runner hands to the simulator."""
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))


def _run(directory: Path, verilog: str, top: str, module: Path, description: dict[str, Any],
         test_filter: str | None, waves: bool) -> None:
    __tracebackhide__ = True
    source = directory / f"{top}.v"
    source.write_text(verilog, encoding="utf-8")
    settings = directory / "bench.json"
    settings.write_text(json.dumps(description), encoding="utf-8")
    log, results = directory / "log.txt", directory / "results.xml"

    runner = get_runner("icarus")
    # The runner reports through exceptions of several kinds and logs the rest; what happened is
    # read from its files.
    with suppress(RuntimeError, SystemExit):
        runner.build(sources=[source], hdl_toplevel=top, build_dir=directory, always=True,
                     waves=waves, build_args=["-Wall"], timescale=("1ns", "1ns"), log_file=log)
    said = log.read_text(encoding="utf-8", errors="replace")
    if said.strip() or not (directory / "sim.vvp").exists():
        raise BenchError(f"Icarus rejects the Verilog:\n{said}")

    environment = {
        "NEARBIT_BENCH": str(settings),
        "PYTHONWARNINGS": "error",
        "COCOTB_REWRITE_ASSERTION_FILES": module.name,
        "NO_COLOR": "1",
    }
    with _on_path(module.parent), suppress(RuntimeError, SystemExit):
        runner.test(test_module=module.stem, hdl_toplevel=top, build_dir=directory,
                    test_dir=directory, results_xml=str(results), waves=waves, log_file=log,
                    extra_env=environment, test_filter=test_filter,
                    seed=os.environ.get("NEARBIT_SEED", "1"))
    ran, failed = 0, 0
    if results.exists():
        cases = ElementTree.parse(results).getroot().iter("testcase")
        for case in cases:
            kinds = {element.tag for element in case}
            ran += "skipped" not in kinds
            failed += bool(kinds & {"failure", "error"})
    if failed or not ran:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        what = f"{failed} of {ran} tests failed" if failed else "no test ran to its end"
        raise BenchError("\n".join([f"{module.name}: {what}", *lines[-200:]]))
