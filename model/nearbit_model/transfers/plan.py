"""From a prepared problem to transfers on the core's streams, and from their beats to an answer."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearbit_model import cycles as cycle_model
from nearbit_model.attention import attend
from nearbit_model.config import Config
from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.memory_trace import MemoryTrace
from nearbit_model.prepare import Prepared
from nearbit_model.structure import Error
from nearbit_model.transfers.attention import HardwareAttention
from nearbit_model.transfers.crossing import RowBursts
from nearbit_model.transfers.placement import Placement, place
from nearbit_model.transfers.program import Cycles, Outcome, Program
from nearbit_model.transfers.shapes import ACCEPTED, shapes
from nearbit_model.transfers.streams import core_ports
from nearbit_model.transfers.traces import memory_trace


__all__ = ["Plan", "Prediction", "token_loads", "exp_table_loads"]


# Cycles without any transfer, as a multiple of what the longest command can take, after which the
# hardware is taken to be stuck.
_PATIENCE = 20


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the cycle model says of a problem, counted as in :class:`HardwareAttention`.

    Parameters
    ----------
    cycles, head_cycles, query_cycles, load_cycles
        As those of :class:`HardwareAttention`, which they equal.
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


class Plan:
    """The program of a problem, and how to read its outcome.

    For each key head: its keys, values and exp tables are loaded, then all queries of its heads
    follow back to back. A command is filled with the heads of
    the group at the same position if there is an exp table for each head, or if none is needed;
    otherwise with consecutive queries of one head. What is left of the last command's queries sees
    no keys.

    For a core with a memory, keys and values of all key heads lie in it (:mod:`.placement`) instead
    of being loaded, and the tables are set before anything else.

    Parameters
    ----------
    prepared
        The problem.
    trace
        Whether each command asks for its selection as well.
    loads
        Whether anything is loaded. If not, the keys and values of the only key head are there, and
        an exp table for each head that needs one.
    seed
        With a memory, the order of the pages follows from it.
    appends
        With a memory, whether the core writes the tokens to it, before anything is asked.
    placement
        With a memory, where the tokens are, if they are in it; None lays them out. If there is an
        exp table for each head, all of them are then loaded before the first command.
    """

    def __init__(self, prepared: Prepared, *, trace: bool = True, loads: bool = True,
                 seed: int = 0, appends: bool = False, placement: Placement | None = None
                 ) -> None:
        """Write the whole program; :class:`LayoutError` if the memory cannot hold the problem."""
        self._prepared = prepared
        self._trace = trace
        # Commands wait for the next key head's exp tables to be loaded, and these for the commands.
        self._has_all_tables = (placement is not None and prepared.rescore is None
                                and prepared.heads <= prepared.config.exp_tables)
        self._has_loads = loads
        self._config = prepared.config
        self.program = Program(core_ports(prepared.config))
        if placement is None and prepared.config.memory is not None:
            placement = place(prepared, seed=seed, appends=appends)
        self._placement = placement
        # For each answer the head and the query that it is to, or -1 for one without.
        self._heads: list[NDArray[np.int64]] = []
        self._queries: list[NDArray[np.int64]] = []
        # For each phase the key head that it loads, or -1.
        self._loads: list[int] = []
        if self._placement is not None:
            self._fill_memory(self._placement)
        for kv_head in range(prepared.kv_heads):
            self._add_group(kv_head)
        answers = np.concatenate(self._heads)
        used = int((answers >= 0).sum())
        beats = {"o_result": used * self._config.value_dim + (len(answers) - used)}
        if trace:
            beats["o_trace"] = int(self._selected_counts()[answers >= 0].sum())
        self.program.expect(beats)
        if self._placement is not None:
            # What cannot be read is answered by one beat. A trace leaves before its result.
            self.program.lasts = {"o_result": len(answers), "o_trace": 0}

    @property
    def config(self) -> Config:
        """The accelerator."""
        return self._config

    @property
    def prepared(self) -> Prepared:
        """The problem."""
        return self._prepared

    @property
    def commands(self) -> int:
        """Commands of the program."""
        return sum(map(len, self._heads)) // self._config.queries

    @property
    def patience(self) -> int:
        """Cycles without any transfer that no command takes."""
        config = self._config
        beats = config.beats + (0 if config.rescore is None else config.rescore.beats)
        return _PATIENCE * (1000 + config.capacity // config.lanes + config.queries * beats
                            * (config.top_n + config.value_lanes * config.divider_cycles))

    def _selected_counts(self) -> NDArray[np.int64]:
        """Keys that each answer's query selects."""
        prepared = self._prepared
        most = prepared.n + prepared.sink + prepared.recent
        return np.minimum(prepared.counts, most)[np.concatenate(self._queries)]

    def _fill_memory(self, placement: Placement) -> None:
        """Set the tables, and append tokens."""
        self.program.memory = placement.octets
        self._loads.append(0)
        self.program.add(placement.tables)
        written = 0
        for kv_head, tokens in enumerate(placement.tokens):
            self._loads.append(kv_head)
            # Rows of tokens that failed would be taken, too, but no next head's be of use.
            self.program.add(tokens, after={"o_append": written})
            written += len(tokens["i_append"]["token"])
        if written:
            self.program.expect({"o_append": written})

    def _add_group(self, kv_head: int) -> None:
        prepared, config = self._prepared, self._config
        heads = np.arange(kv_head * prepared.group, (kv_head + 1) * prepared.group)
        together = prepared.rescore is not None or prepared.group <= config.exp_tables
        rescore = prepared.rescore
        load = token_loads(
            config, prepared.k_codes[kv_head], prepared.values.elements[kv_head],
            prepared.values.scales[kv_head], None if rescore is None else rescore.keys[kv_head]
            ) if self._has_loads and self._placement is None else {}
        if self._has_loads and together:
            tables = prepared.exp_tables[heads]
            if self._has_all_tables:
                tables = prepared.exp_tables[:prepared.heads if kv_head == 0 else 0]
            loads = load if rescore is not None or not len(tables) else {
                **load, **exp_table_loads(tables)}
            if loads:
                self._loads.append(kv_head)
                self.program.add(loads)
        for sequence in self._sequences(heads, together):
            if not together:
                self._loads.append(kv_head)
                self.program.add({**load, **exp_table_loads(prepared.exp_tables[sequence[0][:1]])})
                load = {}
            self._add_queries(heads, *sequence, together=together)

    def _sequences(self, heads: NDArray[np.int64], together: bool
                   ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """List heads and queries of the answers, in the order of the commands."""
        queries = np.arange(self._prepared.queries)
        if together and self._config.queries > 1:
            yield np.tile(heads, len(queries)), np.repeat(queries, len(heads))
        else:
            for head in heads:
                yield np.full(len(queries), head), queries

    def _add_queries(self, group: NDArray[np.int64], heads: NDArray[np.int64],
                     queries: NDArray[np.int64], *, together: bool) -> None:
        prepared, config = self._prepared, self._config
        rescore, unit = prepared.rescore, config.rescore
        spare = -len(heads) % config.queries
        commands = (len(heads) + spare) // config.queries

        def by_command(x: NDArray[Any]) -> NDArray[Any]:
            filled = np.concatenate([x, np.zeros((spare, *x.shape[1:]), x.dtype)])
            return filled.reshape(commands, config.queries, *x.shape[1:])

        def every(number: int) -> NDArray[np.int64]:
            return np.full(commands, number)

        table = heads if self._has_all_tables else heads - group[0]
        exp_tables = by_command(table if together and rescore is None else np.zeros_like(heads))
        fields = {"code": by_command(_code(prepared.q_codes[heads, queries], config.key_bits)),
                  "count": by_command(prepared.counts[queries]), "exp_table": exp_tables}
        inputs: dict[str, Any] = {}
        if unit is not None:
            fields["multiplier"] = by_command(np.zeros_like(heads) if rescore is None
                                              else rescore.multipliers[heads,
                                                                       queries].astype(np.int64))
        if unit is not None and rescore is not None:
            # One for every query, also for those that are left.
            inputs["i_rescore_query"] = by_command(rescore.queries[heads, queries]).reshape(-1,
                                                                                            unit.lanes)

        place_of = {} if self._placement is None else {
            "head": every(self._placement.first_head + int(group[0]) // prepared.group),
            "sequence": every(self._placement.sequence)}
        self._loads.append(-1)
        self.program.add({**inputs, "i_command": {
            **place_of, "first": every(prepared.first),
            "n": every(prepared.n), "sink": every(prepared.sink), "recent": every(prepared.recent),
            "trace": every(int(self._trace)), "rescore": every(int(rescore is not None)),
            "shared": every(int(prepared.shared)), "queries": fields,
        }}, after=dict(self.program.beats))
        unused = np.full(spare, -1)
        self._heads.append(np.concatenate([heads, unused]))
        self._queries.append(np.concatenate([queries, unused]))

    def read(self, outcome: Outcome) -> HardwareAttention:
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
        # Those that memory fails were selected from before, if from anything.
        traced = used & np.isin(fields["error"][ends], (Error.OK, Error.CODES, Error.ROWS))
        selected, distances, weights, scores = self._read_trace(
            outcome, heads[traced], queries[traced])

        head_cycles, query_cycles, load_cycles = self._count_cycles(
            outcome.accepted, results.cycles[ends], heads, outcome.cycles)
        return HardwareAttention(
            output=prepared.outputs(output), output_int=output, selected=selected,
            distances=distances, weights=weights, errors=errors, head_cycles=head_cycles,
            query_cycles=query_cycles, load_cycles=load_cycles, prepared=prepared,
            outcome=outcome, scores=scores)

    def predict(self, memory: MemoryTiming | MemoryTrace | None = None, *,
                selected: NDArray[np.int64] | None = None) -> Prediction:
        """Ask the cycle model, and count its cycles as those of the hardware.

        Parameters
        ----------
        memory
            When the memory answers, of a core with one: as of
            :func:`nearbit_model.cycles.predict`. None is a :class:`MemoryTiming` by default.
        selected
            The keys that each query selects, int64 [heads, queries, m], -1 where there is none, as
            of :attr:`nearbit_model.attention.Attention.selected`; None computes them if cycles
            depend on them, as rows cross 4 KiB.

        Raises
        ------
        ValueError
            What is not predicted: tokens that the core appends, or as of
            :func:`nearbit_model.cycles.predict`.
        """
        phases = shapes(self.program)
        if self._placement is not None:
            memory = MemoryTiming() if memory is None else memory
            phases = self._with_bursts(phases, self._placement, selected)
        timeline = cycle_model.predict(self._config, phases, memory=memory)
        heads, queries = np.concatenate(self._heads), np.concatenate(self._queries)
        accepted = [{name: np.array(transfers, np.int64) for name, field in ACCEPTED.items()
                     if (transfers := getattr(phase, field))} for phase in timeline.accepted]
        ended = np.array([answer.end for answer in timeline.answers], np.int64)
        return Prediction(timeline.cycles, *self._count_cycles(
            accepted, ended, heads, timeline.cycles), timeline, heads, queries)

    def trace(self, outcome: Outcome) -> MemoryTrace:
        """Take the memory's response times from a run with a log, for :meth:`predict`.

        :class:`TraceError` as of :func:`.memory_trace`.
        """
        return memory_trace(self._config, outcome.traffic,
                            timeout=self.program.levels.get("timeout", 0))

    def _with_bursts(self, phases: list[cycle_model.Phase], placement: Placement,
                     selected: NDArray[np.int64] | None) -> list[cycle_model.Phase]:
        """Say of each command which rows are read in two bursts."""
        rows = RowBursts(self._config, placement.tables)
        if rows.none_cross:
            return phases
        if selected is None:
            selected = attend(self._prepared).selected
        filled = []
        answered = iter(zip(np.concatenate(self._heads).tolist(),
                            np.concatenate(self._queries).tolist(), strict=True))
        for phase in phases:
            commands = []
            for command in phase.commands:
                bursts = []
                for _ in command.counts:
                    head, query = next(answered)
                    chosen = selected[head, query] if head >= 0 else selected[0, 0, :0]
                    bursts.append(rows.first(command.head, command.sequence,
                                             np.sort(chosen[chosen >= 0])[::-1]))
                commands.append(dataclasses.replace(command, bursts=tuple(bursts)))
            filled.append(dataclasses.replace(phase, commands=commands))
        return filled

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
                None if prepared.rescore is None else spread("score", np.int64, 0))

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
        phases = [accepted["i_command"] for kv_head, accepted
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
                first = asked[np.flatnonzero(phase == head)[0] // self._config.queries]
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


def token_loads(config: Config, k_codes: NDArray[np.uint64], elements: NDArray[Any],
                scales: NDArray[Any], rescore_keys: NDArray[Any] | None, *, first: int = 0
                ) -> dict[str, Any]:
    """Make what :meth:`Program.add` takes of keys and values that stand one after another.

    Parameters
    ----------
    config
        The accelerator.
    k_codes
        uint64 [tokens, words].
    elements, scales
        Integers [tokens, value_dim] and [tokens].
    rescore_keys
        Integers [tokens, head_dim]; None without rescoring.
    first
        Token of the first of them.
    """
    tokens = np.arange(first, first + len(k_codes))
    rescore: dict[str, Any] = {}
    if rescore_keys is not None and config.rescore is not None:
        beats = config.rescore.beats
        rescore["i_rescore_key"] = {"token": np.repeat(tokens, beats),
                                    "beat": np.tile(np.arange(beats), len(tokens)),
                                    "elements": rescore_keys.reshape(-1, config.rescore.lanes)}
    return {
        **rescore,
        "i_key": {"token": tokens, "code": _code(k_codes, config.key_bits)},
        "i_value": {"token": np.repeat(tokens, config.beats),
                    "beat": np.tile(np.arange(config.beats), len(tokens)),
                    "elements": elements.reshape(-1, config.value_lanes),
                    "scale": np.repeat(scales, config.beats)},
    }


def exp_table_loads(exp_tables: NDArray[np.uint32]) -> dict[str, Any]:
    """Make what :meth:`Program.add` takes of exp tables [heads, key_bits + 1], from 0 on."""
    heads, entries = exp_tables.shape
    return {"i_exp_table": {"exp_table": np.repeat(np.arange(heads), entries),
                            "distance": np.tile(np.arange(entries), heads),
                            "weight": exp_tables.reshape(-1)}}


def _code(words: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """Give codes the form of a payload: a number, or words if it has more than 64 bits."""
    return words if bits > 64 else words[..., 0]


def _segments(last: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut beats at those with ``last``: the index of each, and how many beats end there."""
    ends = np.flatnonzero(last)
    return ends, np.diff(ends, prepend=-1)
