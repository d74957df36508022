"""`nearbit cycles`: what a workload takes, where it waits, and whether the simulation agrees."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from nearbit.tables import print_table
from nearbit_model.config import MULTIPLIER_BITS, Config, fitting_preset
from nearbit_model.cycles import Command, Phase, Timeline, load, predict, steady
from nearbit_model.errors import NearbitError
from nearbit_model.memory import HeadPlace, MemoryLayout, MemoryPlan
from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.prepare import DEFAULT_N
from nearbit_model.transfers.shapes import ACCEPTED


if TYPE_CHECKING:
    from nearbit_model.transfers.program import Outcome, Program, Progress


__all__ = ["PEERS", "Check", "Cycles", "Peer", "Workload", "WorkloadError", "check", "check_clock",
           "cycles", "differences", "measure", "plot", "plot_format", "relief_of", "show",
           "show_check"]


_STEADY_COMMANDS = 240
"""Commands after which the start is forgotten. The time of a half is a whole number of intervals,
which may be in halves or thirds of a cycle."""

_PLOT_ANSWERS = 8
"""Answers in a plot."""

_TAIL = 12
"""Commands that end faster with a memory, as no codes are read ahead of others."""

_MOST_QUERIES = 1_000_000

_UNFIT_FORMATS = {"pgf", "raw", "rgba"}
"""What matplotlib writes and nobody sees: it needs LaTeX, or does not tell its size."""

_CLOCKS = (0.001, 100_000.0)
"""MHz: from the slowest to the fastest that makes sense."""

_SEED = 1


class WorkloadError(NearbitError, ValueError):
    """A workload that the configuration cannot run; the message is one sentence."""


@dataclass(frozen=True)
class Peer:
    """What others have published, or what their algorithm takes, for the quoted workload."""

    name: str
    latency: int | None
    interval: int | None
    remark: str


PEERS = (
    Peer("CAMformer", 721, 327,
         "two-stage selection, which finds 97.4 % of the true top 32; as published in arXiv "
         "2511.19740"),
    Peer("SpAtten's selection alone", None, 148,
         "quick-select with 16 comparators, nothing else: mean of 1,000 random cases, the worst "
         "is 392; the algorithm of arXiv 2012.09852, counted by benchmarks/cycles.py"),
)
"""The workload that papers quote, elsewhere; docs/cycles.md has the table."""

_QUOTED = "1,024 keys of 64 bits, the top 32, 64 values"

# What would help, by the limiting stage.
_RELIEF = {
    "score": "more lanes: more keys are scored per cycle",
    "refine": "more refine_lanes: more distances are read per cycle",
    "merge": "the selection 'counters', which does not merge",
    "merge, serial": "another selection: with 'serial', a query's distances are counted only when "
                     "those of the one before have been added up",
    "merge, blocks": "a range that ends with a longer block: merging the last one takes longer "
                     "than scoring it",
    "scan": "more refine_lanes: more distances are compared per cycle",
    "emit": "a smaller n, or several queries: each lists one selected key per cycle",
    "rescore": "more rescore.lanes: a selected key is scored exactly in fewer cycles",
    "rescore, one beat": "a smaller n: one key is scored exactly per cycle already",
    "weigh": "more value_lanes: a key's value vector is read in fewer beats",
    "weigh, one beat": "a smaller n: one key is added up per cycle already",
    "normalize": "fewer divider_cycles: more units divide",
    "normalize, one cycle": "nothing, as one output element leaves per cycle already",
    "banks": "more refine_lanes: each of the selections in work ends sooner",
    "queues": "a larger top_n, if it is hardly more than what is selected: queues are full",
}


@dataclass(frozen=True)
class Workload:
    """Queries over the first ``keys`` keys; with rescoring, if the configuration has them."""

    keys: int
    queries: int
    n: int
    sink: int = 0
    recent: int = 0

    def validate(self, config: Config, name: str) -> None:
        """Raise :class:`WorkloadError` if a configuration cannot run it."""
        for option, value, least in (("--keys", self.keys, 1), ("--queries", self.queries, 1),
                                     ("--n", self.n, 1), ("--sink", self.sink, 0),
                                     ("--recent", self.recent, 0)):
            if value < least:
                raise WorkloadError(f"{option} must be at least {least}, not {value}")
        if self.queries > _MOST_QUERIES:
            raise WorkloadError(f"--queries must be at most {_MOST_QUERIES:,}, not {self.queries}")
        selected = self.n + self.sink + self.recent
        # Presets that fit by their sizes have no memory.
        fitting = None if config.memory is not None else fitting_preset(
            config.key_bits, config.value_dim, self.keys, selected)
        remedy = "give a configuration that does with --config, or raise it with --set" \
            if fitting is None else f"the preset {fitting} does"
        if self.keys > config.capacity:
            raise WorkloadError(f"{name} holds {config.capacity} keys (capacity), not {self.keys}; "
                                f"{remedy}")
        if selected > config.top_n:
            raise WorkloadError(f"{name} selects at most {config.top_n} keys (top_n), not "
                                f"n + sink + recent = {selected}; {remedy}")
        if config.memory is not None and self.pages(config) > config.memory_pages:
            raise WorkloadError(f"{self.keys} keys take {self.pages(config)} pages, and {name} has "
                                f"{config.memory_pages} (memory.pages)")

    def pages(self, config: Config) -> int:
        """Pages that the keys take in a memory."""
        assert config.memory is not None
        return -(-self.keys // config.memory.page_tokens)

    def commands(self, config: Config, count: int, *, full: bool = False) -> list[Command]:
        """Commands for some queries, or for that many commands; the last may have unused ones."""
        used = [config.queries] * (count // config.queries)
        if count % config.queries:
            used.append(count % config.queries)
        if full:
            used = [config.queries] * count
        return [Command(counts=(self.keys,) * queries + (0,) * (config.queries - queries), n=self.n,
                        sink=self.sink, recent=self.recent, rescore=config.rescore is not None)
                for queries in used]

    def ask(self, config: Config, count: int, *, full: bool = False, delay: int = 0) -> Phase:
        """Ask the commands of :meth:`commands`."""
        commands = self.commands(config, count, full=full)
        beats = 0 if config.rescore is None else config.rescore.beats
        return Phase(commands=commands, rescore_queries=len(commands) * config.queries * beats,
                     delay=delay)

    def first_phases(self, config: Config, count: int) -> list[Phase]:
        """Load, or set the tables of a memory; then ask commands, without a pause, of an idle core.
        """
        # An idle core has cleared its histograms.
        cleared = 0 if config.selection == "counters" else max(
            config.histogram_times(query).clear_cycles for query in range(config.queries))
        loads = load(config, self.keys) if config.memory is None else Phase(
            heads=[0], pages=self.pages(config), tokens=[(0, self.keys)],
            exp_tables=[(0, distance, 1) for distance in range(config.key_bits + 1)])
        return [loads, self.ask(config, count, full=True, delay=cleared)]

    def phases(self, config: Config, latency: int) -> list[Phase]:
        """Load, ask one command of an idle core, then all queries back to back."""
        return [*self.first_phases(config, 1), self.ask(config, self.queries, delay=latency)]


@dataclass(frozen=True)
class Cycles:
    """What a workload takes.

    Parameters
    ----------
    latency
        Cycles from the offer of a command to an idle core to its last beat, both included.
    interval
        Cycles from one command to the next in the long run.
    interval_per_query
        The same for each query: a command asks several.
    stages
        Cycles that a command takes of each stage.
    limits
        The stages that the interval is of.
    relief
        For each, what would make it less.
    timeline
        Of the phases of :meth:`Workload.phases`.
    """

    latency: int
    interval: Fraction
    interval_per_query: Fraction
    stages: dict[str, Fraction]
    limits: tuple[str, ...]
    relief: tuple[str, ...]
    timeline: Timeline

    def at_clock(self, mhz: float) -> dict[str, float]:
        """Times of latency and interval at a clock in MHz, and queries in a second."""
        cycle = 1e-6 / mhz
        return {"clock_mhz": mhz, "latency_seconds": self.latency * cycle,
                "interval_seconds": float(self.interval) * cycle,
                "queries_per_second": 1 / (float(self.interval_per_query) * cycle)}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the timeline, as JSON can hold it."""
        return {
            "latency": self.latency, "interval": _number(self.interval),
            "interval_per_query": _number(self.interval_per_query),
            "stages": {name: {"cycles": _number(cycles), "share": float(cycles / self.interval)}
                       for name, cycles in self.stages.items()},
            "limit": self.limits[0], "limits": self.limits, "relief": self.relief,
            "cycles": self.timeline.cycles,
        }


def _number(cycles: Fraction) -> int | float:
    return int(cycles) if cycles.denominator == 1 else float(cycles)


def cycles(keys: int, config: Config | str = "reference", *, n: int | None = None, sink: int = 0,
           recent: int = 0, queries: int = 64) -> Cycles:
    """Predict what queries over so many keys take, and the stage that limits them.

    Nothing is built or simulated: the cycle model equals the hardware.

    Parameters
    ----------
    keys
        Keys that each query sees, 1 to the configuration's ``capacity``.
    config
        The accelerator, without a memory, or the name of a preset.
    n, sink, recent
        Keys to select, as for :func:`nearbit.attention`.
    queries
        Queries that are asked back to back, 1 to 1,000,000.

    Raises
    ------
    WorkloadError
        What the configuration has no room for, or a configuration with a memory.
    ConfigError
        A name that no preset has.

    Examples
    --------
    >>> import nearbit
    >>> found = nearbit.cycles(keys=1024)
    >>> found.latency, int(found.interval), found.limits
    (294, 65, ('merge',))
    """
    accelerator = Config.preset(config) if isinstance(config, str) else config
    name = f"the preset {config}" if isinstance(config, str) else "the configuration"
    if accelerator.memory is not None:
        raise WorkloadError(f"{name} has a memory, on whose latency its cycles depend; ask "
                            f"'nearbit cycles' with --memory-latency")
    most = min(DEFAULT_N, max(1, accelerator.top_n - max(0, sink) - max(0, recent)))
    workload = Workload(keys=keys, queries=queries, n=most if n is None else n, sink=sink,
                        recent=recent)
    workload.validate(accelerator, name)
    return measure(accelerator, workload)


def measure(config: Config, workload: Workload) -> Cycles:
    """Predict what a workload takes."""
    words = -(-workload.keys // config.lanes)
    selected = min(workload.keys, workload.n + workload.sink + workload.recent)
    formula = steady(config, words=words, selected=selected, rescore=config.rescore is not None)
    # The formulas know all stages but not the waits for room in queues between them.
    answers = predict(config, [load(config, workload.keys), workload.ask(
        config, _STEADY_COMMANDS, full=True)]).answers
    ends = [answer.end for answer in answers[config.queries - 1::config.queries]]
    half = _STEADY_COMMANDS // 2
    interval = Fraction(ends[-1] - ends[-1 - half], half)
    stages = dict(formula.stages)
    if interval > formula.interval:
        stages["queues"] = interval
    limits = tuple(stage for stage, cycles in stages.items() if cycles == interval)
    return Cycles(
        latency=formula.latency, interval=interval, interval_per_query=interval / config.queries,
        stages=stages, limits=limits,
        relief=tuple(relief_of(config, stage) for stage in limits),
        timeline=predict(config, workload.phases(config, formula.latency)))


def relief_of(config: Config, stage: str) -> str:
    """Say what would make a stage faster."""
    if stage == "weigh" and config.beats == 1:
        stage = "weigh, one beat"
    elif stage == "normalize" and config.divider_cycles == 1:
        stage = "normalize, one cycle"
    elif stage == "merge" and config.selection_block:
        stage = "merge, blocks"
    elif stage == "merge" and config.selection == "serial":
        stage = "merge, serial"
    elif stage == "rescore" and config.rescore is not None and config.rescore.beats == 1:
        stage = "rescore, one beat"
    return _RELIEF[stage]


@dataclass(frozen=True)
class Check:
    """What a simulation says.

    Parameters
    ----------
    latency
        As that of :class:`Cycles`.
    interval
        Cycles from one command to the next in the second half of the queries; None if there are
        too few. With a memory, the last commands do not count.
    cycles
        All, loading included.
    equal
        Whether all transfers are in the cycles that were predicted.
    seconds, build_seconds
        Wall time of the simulation, and of compiling before.
    """

    latency: int
    interval: int | float | None
    cycles: int
    equal: bool
    seconds: float
    build_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Everything but ``equal``."""
        return {"latency": self.latency, "interval": self.interval, "cycles": self.cycles,
                "seconds": self.seconds, "build_seconds": self.build_seconds}


def check_clock(mhz: float) -> None:
    """Raise :class:`WorkloadError` if no clock is of that many MHz."""
    slowest, fastest = _CLOCKS
    # False of what is no number, too.
    if not slowest <= mhz <= fastest:
        raise WorkloadError(f"--clock is in MHz, from {slowest:g} to {fastest:,.0f}, not {mhz:g}")


def differences(predicted: Timeline, found: "Outcome") -> list[str]:
    """Name the streams of a core that a simulation has at other cycles than the prediction.

    With a trace, if the simulation has one; outputs first, then the inputs of each phase, then the
    buses on which it reads another number of bursts or beats.
    """
    different = [name for name, cycles in (("o_result", predicted.results),
                                           ("o_trace", predicted.trace))
                 if found.outputs[name].cycles.tolist() != cycles]
    if len(predicted.accepted) != len(found.accepted):
        different.append("phases")
    different += [
        f"{name} of phase {phase}"
        for phase, (expected, accepted) in enumerate(
            zip(predicted.accepted, found.accepted, strict=False))
        for name, field in ACCEPTED.items()
        if accepted.get(name, np.empty(0)).tolist() != getattr(expected, field)]
    read = [bus for bus in found.traffic if bus.is_read]
    if len(read) != len(predicted.traffic):
        different.append("buses")
    return different + [bus.name for bus, expected in zip(read, predicted.traffic, strict=False)
                        if (bus.bursts, bus.beats) != (expected.bursts, expected.beats)]


def check(config: Config, phases: Sequence[Phase], timeline: Timeline, *,
          timing: MemoryTiming | None = None, engine: str = "compiled",
          progress: "Progress | None" = None) -> Check:
    """Simulate the phases of a workload with random keys and compare them with their prediction.

    With a memory, rows do not cross 4 KiB; :class:`WorkloadError` if no stride can see to that.
    """
    from nearbit_model.transfers.program import Program
    from nearbit_sim.simulation import core_engine

    hardware = core_engine(config, engine)
    program = Program(hardware.ports)
    rng = np.random.default_rng(_SEED)
    for phase in phases:
        program.add({**_tables(config, phase, program, rng), **_inputs(config, phase, rng)},
                    delay=phase.delay)
    program.expect({"o_result": len(timeline.results)})
    first = timeline.answers[0]
    outcome = hardware.run(program, patience=100 * (first.end - first.offered), progress=progress,
                           timing=timing)

    beats = outcome.outputs["o_result"]
    ends = beats.cycles[beats.payloads["last"] == 1][config.queries - 1::config.queries].tolist()
    loaded = max(int(cycles[-1]) for cycles in outcome.accepted[0].values())
    offered = loaded + 1 + phases[1].delay
    commands = ends[1:len(ends) - (0 if timing is None else _TAIL)]
    # A multiple of 6 commands, as an interval may be in halves or thirds of a cycle.
    half = len(commands) // 2
    half = half // 6 * 6 or half
    return Check(
        latency=ends[0] - offered + 1,
        interval=_number(Fraction(commands[-1] - commands[-1 - half], half)) if half else None,
        cycles=outcome.cycles, equal=not differences(timeline, outcome), seconds=outcome.seconds,
        build_seconds=outcome.build_seconds)


def _tables(config: Config, phase: Phase, program: "Program", rng: np.random.Generator
            ) -> dict[str, Any]:
    """Fill the memory of a program with noise, if a phase sets its tables, and set these."""
    if not phase.heads:
        return {}
    layout = MemoryLayout.of(config)
    # Rows whose stride divides 4 KiB do not cross such a boundary.
    stride = 1 << (layout.least_stride - 1).bit_length()
    if stride > layout.most_stride:
        raise WorkloadError(
            f"--check lets no row cross 4 KiB, for which the stride must be {stride} bytes, and is "
            f"at most {layout.most_stride}; take more memory.stride_bits than "
            f"{layout.memory.stride_bits}")
    codes = config.memory_pages * layout.memory.page_tokens * layout.code_bytes
    plan = MemoryPlan(layout, (HeadPlace(codes=0, rows=-(-codes // stride) * stride,
                                         stride=stride),))
    # Scattered, but not over more memory than is needed.
    pages = rng.permutation(min(config.memory_pages, 2 * phase.pages))[:phase.pages]
    end = plan.row_address(0, (int(pages.max()) + 1) * layout.memory.page_tokens)
    program.memory = np.frombuffer(rng.bytes(end), np.uint8)
    sequences, tokens = np.array(phase.tokens).T
    return {"i_head": plan.head_entries(), "i_page": plan.page_entries(0, pages.tolist()),
            "i_tokens": {"sequence": sequences, "tokens": tokens}}


def _inputs(config: Config, phase: Phase, rng: np.random.Generator) -> dict[str, Any]:
    """Give the shapes of a phase random contents."""
    inputs: dict[str, Any] = {}
    words = -(-config.key_bits // 64)
    mask = np.uint64((1 << min(config.key_bits, 64)) - 1)

    def codes(*shape: int) -> Any:
        random = rng.integers(0, 1 << 64, size=(*shape, words), dtype=np.uint64)
        random[..., -1] &= np.uint64((1 << config.key_bits - 64 * (words - 1)) - 1)
        return random if words > 1 else random[..., 0] & mask

    def elements(count: int, lanes: int, bits: int) -> Any:
        return rng.integers(-1 << bits - 1, 1 << bits - 1, size=(count, lanes))

    unit = config.rescore
    if unit is not None and phase.rescore_keys:
        tokens, beats = np.array(phase.rescore_keys).T
        inputs["i_rescore_key"] = {"token": tokens, "beat": beats, "elements": elements(
            len(tokens), unit.lanes, unit.element_bits)}
    if unit is not None and phase.rescore_queries:
        inputs["i_rescore_query"] = elements(phase.rescore_queries, unit.lanes, unit.element_bits)
    if phase.keys:
        inputs["i_key"] = {"token": np.array(phase.keys), "code": codes(len(phase.keys))}
        tokens, beats = np.array(phase.values).T
        inputs["i_value"] = {
            "token": tokens, "beat": beats, "scale": tokens * 0 + 0xffff,
            "elements": elements(len(tokens), config.value_lanes, config.value_bits)}
    if phase.exp_tables:
        exp_tables, distances, weights = np.array(phase.exp_tables).T
        inputs["i_exp_table"] = {"exp_table": exp_tables, "distance": distances, "weight": weights}
    if phase.commands:
        def every(name: str) -> Any:
            return np.array([getattr(command, name) for command in phase.commands])

        counts = every("counts")
        scales = {} if unit is None else {
            "multiplier": rng.integers(0, 1 << MULTIPLIER_BITS, size=counts.shape)}
        inputs["i_command"] = {
            **{name: every(name) for name in (
                "first", "n", "sink", "recent",
                *(("head", "sequence") if config.memory is not None else ()))},
            **{name: every(name).astype(int) for name in ("trace", "rescore", "shared")},
            "queries": {"code": codes(*counts.shape), "count": counts, "exp_table": counts * 0,
                        **scales}}
    return inputs


def show_check(found: Check, console: Console) -> None:
    """Print what a simulation says."""
    interval = "" if found.interval is None else f", interval {found.interval:g}"
    console.print(
        f"\nSimulated: latency {found.latency:,}{interval}; all {found.cycles:,} cycles "
        + ("as predicted, to the cycle." if found.equal else "NOT as predicted."),
        markup=False, highlight=False, soft_wrap=True)


def show(config: Config, name: str, workload: Workload, predicted: Cycles, found: Check | None,
         console: Console, clock: float | None = None) -> None:
    """Print a workload's cycles, its times at a clock in MHz, stages and peers."""
    sinks = f", sink {workload.sink}, recent {workload.recent}" \
        if workload.sink or workload.recent else ""
    console.print(
        f"{name}: {workload.keys:,} keys of {config.key_bits} bits, n {workload.n}{sinks}, "
        f"{config.value_dim} values"
        + (f", rescoring of {config.rescore.head_dim} elements" if config.rescore else "")
        + (f", {config.queries} queries per command" if config.queries > 1 else ""),
        markup=False, highlight=False, soft_wrap=True)

    per_query = "" if config.queries == 1 \
        else f"  ({_text(predicted.interval_per_query)} per query)"
    rows = [["latency of a command, idle core", f"{predicted.latency:,}"],
            [f"interval{per_query}", _text(predicted.interval)],
            *([f"  {stage}", _text(cycles), f"{float(cycles / predicted.interval):.0%}",
               "<- limits" if stage in predicted.limits else ""]
              for stage, cycles in predicted.stages.items())]
    columns = ["", "cycles", "share"]
    if clock is not None:
        times = predicted.at_clock(clock)
        columns.insert(2, f"at {clock:g} MHz")
        for cells, time in zip(rows, (_time(times["latency_seconds"]),
                                      _time(times["interval_seconds"]),
                                      *[""] * len(predicted.stages)), strict=True):
            cells.insert(2, time)
        rows.append(["queries per second", "", _rate(times["queries_per_second"])])
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for cells in rows:
        table.add_row(*cells)
    console.print()
    print_table(table, console)
    together = "" if len(predicted.limits) == 1 else ", all of it at once"
    console.print(f"\nWhat would lower the interval{together}:", markup=False, highlight=False)
    for stage, relief in zip(predicted.limits, predicted.relief, strict=True):
        console.print(f"  {stage}: {relief}", markup=False, highlight=False, soft_wrap=True)
    if found is not None:
        show_check(found, console)
    console.print(f"\nElsewhere, for {_QUOTED}:", markup=False, highlight=False)
    for peer in PEERS:
        latency = "" if peer.latency is None else f", latency {peer.latency}"
        console.print(f"  {peer.name}: interval {peer.interval}{latency} ({peer.remark})",
                      markup=False, highlight=False, soft_wrap=True)


def _text(cycles: Fraction) -> str:
    return f"{int(cycles):,}" if cycles.denominator == 1 else f"{float(cycles):,.1f}"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds * 1e9:.4g} ns"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def plot_formats() -> Sequence[str]:
    """Formats that a plot may have, by the ending of its name."""
    from matplotlib.backend_bases import FigureCanvasBase

    return sorted(FigureCanvasBase.get_supported_filetypes().keys() - _UNFIT_FORMATS)


def plot_format(path: Path) -> str:
    """Look up the format of a plot's file; :class:`WorkloadError` if there is none."""
    ending = path.suffix[1:].lower()
    if ending not in plot_formats():
        raise WorkloadError(f"{path}: a plot's name must end in .{', .'.join(plot_formats())}")
    return ending


def plot(path: Path, ending: str, timeline: Timeline, notes: Sequence[str] = ()) -> None:
    """Draw the first queries' way through the stages, below some lines of text."""
    from nearbit.report import figures

    answers = [answer for answer in timeline.answers
               if answer.command > 0 and answer.stages][:_PLOT_ANSWERS]
    figure = figures.timeline(answers, [str(index) for index in range(len(answers))], notes)
    figures.save(figure, path, ending)
