"""`nearbit cycles` of a configuration with a memory: cycles, bytes, and what limits."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rich.console import Console
from rich.table import Table

from nearbit.tables import print_table
from nearbit.workloads import Workload, WorkloadError, relief_of
from nearbit_model.config import Config, Memory
from nearbit_model.cycles import Phase, Reads, Timeline, bound, latency_limit, predict
from nearbit_model.memories import MEMORIES, NamedMemory
from nearbit_model.memory_timing import MemoryTiming, TimingError


__all__ = ["DramTimes", "MemoryCycles", "dram_times", "measure", "notes", "phases_of", "show",
           "timing_of"]


# Commands that are predicted, and the two between whose ends the interval is measured: the start is
# forgotten by then, and codes of commands behind are still read ahead.
_COMMANDS = (36, 11, 23)
_ONE_BUS_COMMANDS = (24, 5, 11) # each takes the model several passes over all of them

# What would help, by the limiting stage; those of the core are as without a memory.
_RELIEF = {
    "score": "more lanes: more keys are scored per cycle",
    "codes": "a wider memory.bus_bits: a beat brings more codes",
    "rows": "more memory.row_ports, or a wider memory.bus_bits: rows come in fewer cycles",
    "rows, four ports": "a wider memory.bus_bits, or a smaller n: rows come in fewer cycles",
    "look-ups": "a smaller n: a row is looked up every two cycles",
    "code queue": "more memory.queue_beats: more codes are on their way",
    "code bursts": "more memory.outstanding, or larger memory.burst_bytes: more codes are on their "
                   "way",
    "row IDs": "more memory.row_id_bits, or more memory.row_ports: more rows are on their way",
    "row sets": "a smaller n, or a memory with a shorter latency: rows of two selections are held",
    "bus": "buses for codes and rows of their own (memory.one_bus = false), or a wider "
           "memory.bus_bits",
    "waits": "a memory with a shorter latency, or more lanes: blocks wait for each other",
}


@dataclass(frozen=True)
class DramTimes:
    """What a command takes of a memory that has a name, in seconds.

    Parameters
    ----------
    name
        Its name in :data:`nearbit_model.memories.MEMORIES`.
    codes, rows
        The time to read codes and rows, which share the memory.
    core
        That of the core at its clock; None, if no clock is given.
    """

    name: str
    codes: float
    rows: float
    core: float | None

    @property
    def memory(self) -> NamedMemory:
        """The memory."""
        return MEMORIES[self.name]

    @property
    def command(self) -> float:
        """Time of a command, at least."""
        return max(self.codes + self.rows, self.core or 0.0)

    @property
    def limit(self) -> str:
        """What limits: the core, or what takes longest of the memory."""
        if self.core is not None and self.core >= self.codes + self.rows:
            return "core"
        return "codes" if self.codes >= self.rows else "rows"

    def relief(self, ports: int) -> str:
        """What would make it less."""
        if self.limit == "core":
            return "a faster clock, or what lowers the interval"
        if self.limit == "rows" and ports < 4:
            return "more memory.row_ports: a DRAM reads more rows at a time; or a smaller n"
        return {"rows": "a smaller n, or a faster memory",
                "codes": "shorter codes, more queries per command, or a faster memory"}[self.limit]

    def to_dict(self, config: Config, memory: Memory) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"name": self.name, "codes_seconds": self.codes, "rows_seconds": self.rows,
                "command_seconds": self.command, "query_seconds": self.command / config.queries,
                "token_seconds": self.command * memory.heads, "limit": self.limit,
                "relief": self.relief(memory.row_ports), "measured": self.memory.is_measured}


@dataclass(frozen=True)
class MemoryCycles:
    """What a workload takes of a core and a memory with constant latency.

    Parameters
    ----------
    latency
        Cycles from the offer of a command to an idle core to its last beat, both included.
    interval
        Cycles from one command to the next in the long run.
    stages
        Cycles that a command takes of each stage; ``waits``, if the interval is longer than any.
    limits, relief
        The stages that the interval is of, and for each what would make it less.
    reads
        What a command reads.
    shares
        For each bus, the share of cycles in which it has a beat.
    """

    latency: int
    interval: Fraction
    stages: dict[str, Fraction]
    limits: tuple[str, ...]
    relief: tuple[str, ...]
    reads: Reads
    shares: tuple[float, ...]

    @property
    def busy(self) -> str:
        """The shares in words."""
        codes, *rows = (f"{share:.0%}" for share in self.shares)
        if not rows:
            return f"The bus of codes and rows is busy {codes} of the time"
        return f"Buses busy: codes {codes}, rows {', '.join(rows)}"

    def to_dict(self, config: Config, memory: Memory) -> dict[str, Any]:
        """As JSON can hold it."""
        size = self.reads.code_bytes + self.reads.row_bytes
        return {
            "latency": self.latency, "interval": float(self.interval),
            "interval_per_query": float(self.interval / config.queries),
            "stages": {name: float(cycles) for name, cycles in self.stages.items()},
            "limits": self.limits, "relief": self.relief,
            "code_bytes": self.reads.code_bytes, "row_bytes": self.reads.row_bytes,
            "bytes_per_query": size / config.queries, "bytes_per_token": size * memory.heads,
            "bus_shares": list(self.shares)}


def timing_of(config: Config, name: str, latency: int | None, memory: str | None
              ) -> MemoryTiming | None:
    """Make the timing that options ask for; None for a configuration without a memory."""
    if config.memory is None:
        for option, value in (("--memory-latency", latency), ("--memory", memory)):
            if value is not None:
                raise WorkloadError(f"{option} needs a configuration with a table [memory], which "
                                    f"{name} has not")
        return None
    if config.selection == "counters" and config.rescore is None:
        raise WorkloadError(f"{name} selects by counters (selection) without rescoring: with a "
                            f"memory, its cycles depend on the data, because each key's row is "
                            f"asked for when the key is found; set selection = 'histograms'")
    if memory is not None and memory not in MEMORIES:
        raise WorkloadError(f"--memory must be one of {', '.join(MEMORIES)}, not {memory}")
    try:
        timing = MemoryTiming(latency=100 if latency is None else latency)
    except TimingError as error:
        raise WorkloadError(f"--memory-{error}") from None
    limit = latency_limit(config.memory.timeout_bits)
    if timing.latency >= limit:
        raise WorkloadError(f"--memory-latency must be less than {limit}, after which {name} gives "
                            f"a memory up (memory.timeout_bits), not {timing.latency}")
    return timing


def measure(config: Config, workload: Workload, timing: MemoryTiming) -> MemoryCycles:
    """Predict what a workload takes; rows do not cross 4 KiB."""
    words = -(-workload.keys // config.lanes)
    selected = min(workload.keys, workload.n + workload.sink + workload.recent)
    least = bound(config, words=words, selected=selected, timing=timing,
                  rescore=config.rescore is not None)
    memory = config.memory
    assert memory is not None
    count, begin, end = _ONE_BUS_COMMANDS if memory.one_bus else _COMMANDS
    one = predict(config, workload.first_phases(config, 1), memory=timing).answers
    many = predict(config, workload.first_phases(config, count), memory=timing)
    ends = [answer.end for answer in many.answers[config.queries - 1::config.queries]]
    interval = Fraction(ends[end] - ends[begin], end - begin)
    stages = dict(least.stages)
    if interval > least.interval:
        stages["waits"] = interval
    limits = tuple(stage for stage, cycles in stages.items() if cycles == interval)
    return MemoryCycles(
        latency=one[-1].end - one[0].offered + 1, interval=interval, stages=stages, limits=limits,
        relief=tuple(_relief(config, memory, stage) for stage in limits), reads=least.reads,
        shares=tuple(float(traffic.beats / count / interval) for traffic in many.traffic))


def phases_of(config: Config, workload: Workload, timing: MemoryTiming, latency: int
              ) -> tuple[list[Phase], Timeline]:
    """Give the phases of :meth:`Workload.phases`, and what happens when."""
    phases = workload.phases(config, latency)
    return phases, predict(config, phases, memory=timing)


def _relief(config: Config, memory: Memory, stage: str) -> str:
    """Say what would make a stage faster."""
    if stage == "rows" and memory.row_ports == 4:
        stage = "rows, four ports"
    return _RELIEF[stage] if stage in _RELIEF else relief_of(config, stage)


def dram_times(config: Config, found: MemoryCycles, name: str, clock: float | None) -> DramTimes:
    """Give the time that a command takes of a memory by name."""
    assert config.memory is not None
    codes, rows = MEMORIES[name].seconds(
        found.reads.code_bytes, found.reads.rows,
        found.reads.row_beats * found.reads.beat_bytes, config.memory.row_ports)
    core = None if clock is None else float(found.interval) / clock * 1e-6
    return DramTimes(name, codes, rows, core)


def notes(found: MemoryCycles) -> list[str]:
    """Say in two lines what a command takes, above a plot."""
    read = found.reads
    return [(f"Per command: {float(found.interval):,.1f} cycles, "
             f"{read.code_bytes + read.row_bytes:,} bytes ({read.code_bytes:,} of codes, "
             f"{read.row_bytes:,} of rows)"),
            f"{found.busy}; what limits: {', '.join(found.limits)}"]


def show(config: Config, name: str, workload: Workload, timing: MemoryTiming,
         found: MemoryCycles, dram: DramTimes | None, console: Console) -> None:
    """Print a workload's cycles, bytes, and what limits."""
    memory, read = config.memory, found.reads
    assert memory is not None
    console.print(
        f"{name}: {workload.keys:,} keys of {config.key_bits} bits, n {workload.n}, "
        f"{config.value_dim} values, from a memory with a latency of {timing.latency} cycles"
        + (f", {config.queries} queries per command" if config.queries > 1 else ""),
        markup=False, highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in ("", "cycles", "share"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("latency of a command, idle core", f"{found.latency:,}")
    table.add_row("interval", f"{float(found.interval):,.1f}")
    for stage, cycles in found.stages.items():
        mark = " <- limits" if stage in found.limits else ""
        table.add_row(f"  {stage}{mark}", f"{float(cycles):,.1f}",
                      f"{float(cycles / found.interval):.0%}")
    console.print()
    print_table(table, console)
    size = read.code_bytes + read.row_bytes
    lines = [
        (f"Read per command: {size:,} bytes, {read.code_bytes:,} of codes and {read.row_bytes:,} "
         f"of rows; per query {size / config.queries:,.0f}; per token of {memory.heads:,} heads "
         f"{size * memory.heads:,}."),
        f"{found.busy}.",
        "What would lower the interval" + (", all of it at once" if found.relief[1:] else "") + ":"
        + "".join(f"\n  {stage}: {relief}"
                  for stage, relief in zip(found.limits, found.relief, strict=True))]
    if dram is not None:
        kind = "" if dram.memory.is_measured else " (its efficiency is assumed)"
        lines.append(
            f"{dram.memory.title}{kind}: {dram.command * 1e6:,.3g} us per command "
            f"({dram.codes * 1e6:,.3g} codes, {dram.rows * 1e6:,.3g} rows"
            + ("" if dram.core is None else f", {dram.core * 1e6:,.3g} core")
            + f"), {dram.command / config.queries * 1e6:,.3g} us per query, "
            f"{dram.command * memory.heads * 1e3:,.3g} ms per token; limited by the "
            f"{dram.limit}. What would help: {dram.relief(memory.row_ports)}.")
    for line in lines:
        console.print("\n" + line, markup=False, highlight=False, soft_wrap=True)
