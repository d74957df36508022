# amaranth: UnusedElaboratable=no

"""Attention by the simulated hardware, with results in the golden model's format."""

# Help shows `ArrayLike`, not all that it stands for.
from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from os import PathLike, fspath
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from nearbit_hw import yosys
from nearbit_hw.core import Core
from nearbit_hw.verilog import Initial, generate
from nearbit_model.attention import attend
from nearbit_model.config import Config
from nearbit_model.mapping import Mapping
from nearbit_model.memory_timing import MemoryTiming, TimingError
from nearbit_model.prepare import prepare
from nearbit_model.transfers.attention import HardwareAttention
from nearbit_model.transfers.plan import Plan
from nearbit_model.transfers.program import Outcome, Progress
from nearbit_sim.cache import cached, key_of
from nearbit_sim.compiled import CompiledEngine
from nearbit_sim.engine import Engine, SimulationError
from nearbit_sim.icarus import IcarusEngine
from nearbit_sim.notebook import notebook_progress


__all__ = ["ENGINES", "core_engine", "run", "simulate"]


ENGINES = ("compiled", "icarus", "golden")
"""Names of the engines, the default first; the last is no hardware but the models of it."""


def simulate(q: ArrayLike, k: ArrayLike, v: ArrayLike, config: Config | str, *,
             n: int | None = None, sink: int = 0, recent: int = 0, causal: bool = False,
             qpos: ArrayLike | None = None, logit_scale: ArrayLike | None = None,
             rotate: bool = True, method: str = "had", mapping: Mapping | None = None,
             shared: bool = False, engine: str = "compiled", trace: bool = True,
             timing: MemoryTiming | None = None, vcd: str | PathLike[str] | None = None,
             progress: Progress | None = None) -> HardwareAttention:
    """Attention with binary codes of queries and keys, computed by the generated hardware.

    The result equals that of :func:`nearbit_model.attention.attention` bit for bit.

    Parameters
    ----------
    q, k, v, config, n, sink, recent, causal, qpos, logit_scale, rotate, method, mapping, shared
        As for :func:`nearbit_model.prepare.prepare`: q [heads, queries, head_dim], k [kv_heads,
        tokens, head_dim], v [kv_heads, tokens, value_dim], real numbers.
    engine
        ``"compiled"``: the Verilog compiled to a native library, which needs a C++ compiler.
        ``"icarus"``: the Verilog on Icarus Verilog, over a thousand times slower. Both give the
        same outputs and the same cycles. ``"golden"``: no hardware is built or run; the outputs are
        the golden model's and the cycles the cycle model's, which are those of the hardware.
    trace
        Whether to ask for the selected keys, their distances and weights.
    timing
        When the memory answers, of a configuration with a memory; None is a
        :class:`MemoryTiming` by default. The order of the pages follows from its seed.
    vcd
        File to write waveforms to.
    progress
        Called now and then with the cycle, the transfers so far, and all transfers. None: a line in
        the output of a notebook, and nothing elsewhere.

    Returns
    -------
    HardwareAttention

    Raises
    ------
    TensorError
        Tensors or numbers of keys do not match each other or the configuration.
    TimingError
        A timing, and a configuration without a memory.
    LayoutError
        More key heads or tokens than the configuration's memory has, or too few addresses.
    SimulationError
        A compiler or simulator is missing, a file cannot be written, or the hardware hangs; or the
        engine is "golden", and a VCD file is asked for or the memory's cycles are not predicted.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    if isinstance(config, str):
        config = Config.preset(config)
    _check_timing(config, timing)
    prepared = prepare(q, k, v, config, n=n, sink=sink, recent=recent, causal=causal, qpos=qpos,
                       logit_scale=logit_scale, rotate=rotate, method=method, mapping=mapping,
                       shared=shared)
    plan = Plan(prepared, trace=trace, seed=0 if timing is None else timing.seed)
    if engine == "golden":
        if vcd is not None:
            raise SimulationError("a VCD file needs hardware; the engine 'golden' has none")
        return _by_models(plan, timing, trace=trace)
    if progress is None:
        progress = notebook_progress(
            lambda: None if plan.config.memory is not None else plan.predict().cycles)
    return run(plan, engine=engine, timing=timing, vcd=vcd, progress=progress)


def run(plan: Plan, *, engine: str = "compiled", timing: MemoryTiming | None = None,
        log: bool = False, vcd: str | PathLike[str] | None = None,
        progress: Progress | None = None) -> HardwareAttention:
    """Simulate a prepared and packed problem; see :func:`simulate`.

    ``log`` asks for each burst and beat on the buses to a memory.
    """
    _check_timing(plan.config, timing)
    hardware = core_engine(plan.config, engine)
    patience = plan.patience + (0 if timing is None else timing.latest)
    return plan.read(hardware.run(plan.program, patience=patience, progress=progress,
                                  vcd=None if vcd is None else fspath(vcd), timing=timing,
                                  log=log))


def _by_models(plan: Plan, timing: MemoryTiming | None, *, trace: bool) -> HardwareAttention:
    """Give what the hardware would answer, by the golden model and the cycle model."""
    golden = attend(plan.prepared)
    try:
        predicted = plan.predict(timing, selected=golden.selected)
    except ValueError as error:
        raise SimulationError(f"the cycles are not predicted: {error}; nearbit.attention gives the "
                              f"answers alone") from None
    traced = slice(None if trace else 0)
    return HardwareAttention(
        output=golden.output, output_int=golden.output_int,
        selected=golden.selected[..., traced], distances=golden.distances[..., traced],
        weights=golden.weights[..., traced],
        errors=np.zeros(golden.output.shape[:2], np.int64), head_cycles=predicted.head_cycles,
        query_cycles=predicted.query_cycles, load_cycles=predicted.load_cycles,
        prepared=plan.prepared,
        outcome=Outcome(accepted=[], outputs={}, cycles=predicted.cycles, engine="golden",
                        seconds=0.0, build_seconds=0.0),
        scores=None if golden.scores is None else golden.scores[..., traced])


def _check_timing(config: Config, timing: MemoryTiming | None) -> None:
    if timing is not None and config.memory is None:
        raise TimingError("the configuration has no memory, so nothing says when one answers: "
                          "give it a table [memory], or leave out its timing")


def core_engine(config: Config, engine: str = "compiled") -> Engine:
    """Return an engine with the core of a configuration; later calls return the same one.

    Its XOR-popcount is the generic one: a device's has the same values and cycles, but consists of
    cells that a simulator does not know.
    """
    return _core_engine(config.replace(cell="generic"), engine)


@functools.lru_cache(maxsize=8)
def _core_engine(config: Config, engine: str) -> Engine:
    if engine not in ("compiled", "icarus"):
        raise ValueError(f"hardware needs the engine compiled or icarus, not {engine!r}")
    started = time.perf_counter()
    # Only this core's streams are used: the first line keeps Amaranth from warning of it.
    if engine == "compiled":
        return CompiledEngine(Core(config), verilog=_core_verilog(config, "given"), started=started)
    return IcarusEngine(Core(config), verilog=_core_verilog(config), started=started)


def _sources(folder: Traversable) -> Iterator[Traversable]:
    """All Python files below a folder, in the order of their names."""
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            yield from _sources(item)
        elif item.name.endswith(".py"):
            yield item


def _core_verilog(config: Config, initial: Initial = "all") -> str:
    """Return a core's Verilog, from the cache or newly generated, which takes seconds."""
    model = resources.files("nearbit_model")
    sources = [*_sources(resources.files("nearbit_hw")),
               model / "config.py", model / "structure.py"]
    key = key_of(repr(config), initial, *(item.read_text(encoding="utf-8") for item in sources),
                 metadata.version("amaranth"), yosys.version())

    def make(path: Path) -> None:
        path.write_text(generate(Core(config), "dut", initial=initial), encoding="utf-8")

    return cached(key, ".v", make).read_text(encoding="utf-8")
