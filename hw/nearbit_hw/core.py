"""The accelerator: connects stores, scoring, selection, weighting and normalization."""

from dataclasses import dataclass, field
from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.attend.dividing_normalizer import DividingNormalizer
from nearbit_hw.attend.normalizer import Normalizer
from nearbit_hw.attend.reciprocal_normalizer import ReciprocalNormalizer
from nearbit_hw.attend.rescorer import Rescorer
from nearbit_hw.attend.scaling_accumulator import ScalingAccumulator
from nearbit_hw.attend.softmax import Softmax
from nearbit_hw.attend.value_accumulator import ValueAccumulator
from nearbit_hw.dispatcher import Dispatcher
from nearbit_hw.layouts import (
    CacheError,
    Error,
    code_layout,
    command_layout,
    elements_layout,
    exp_table_layout,
    rescore_write_layout,
    result_layout,
    trace_layout,
    value_write_layout,
)
from nearbit_hw.memory.cache import MemoryCache, cache_members
from nearbit_hw.memory.cache_map import cache_map
from nearbit_hw.resident_cache import ResidentCache
from nearbit_hw.score.score_array import ScoreArray
from nearbit_hw.select.distance_sum import DistanceSum
from nearbit_hw.select.histogram_top_n import HistogramTopN
from nearbit_hw.select.query_merge import QueryMerge
from nearbit_hw.select.selection_repeat import SelectionRepeat
from nearbit_hw.select.top_n import TopN
from nearbit_hw.stream_fifo import StreamFifo, queue, register
from nearbit_model.config import SCALE_BITS, Config, Rescore
from nearbit_model.structure import (
    COMMANDS_IN_FLIGHT,
    RESULTS_IN_FLIGHT,
    TRACES_IN_FLIGHT,
    softmax_latency,
)


__all__ = ["Activity", "Core", "Error", "core_members"]


def core_members(config: Config) -> dict[str, wiring.Member]:
    """Members of :class:`Core`."""
    unit, memory = config.rescore, config.memory
    places = {} if memory is None else {"heads": memory.heads, "sequences": memory.sequences}
    return {
        **(_loads(config) if memory is None else cache_members(config)),
        "i_exp_table": In(stream.Signature(exp_table_layout(
            exp_tables=config.exp_tables, key_bits=config.key_bits,
            weight_bits=config.weight_bits))),
        **({} if unit is None or memory is not None else {
            "i_rescore_key": In(stream.Signature(rescore_write_layout(
                capacity=config.capacity, beats=unit.beats, element_bits=unit.element_bits,
                lanes=unit.lanes)))}),
        **({} if unit is None else {
            "i_rescore_query": In(stream.Signature(
                elements_layout(unit.element_bits, unit.lanes)))}),
        "i_command": In(stream.Signature(command_layout(
            key_bits=config.key_bits, capacity=config.capacity, queries=config.queries,
            exp_tables=config.exp_tables, rescore=unit is not None, **places))),
        "o_result": Out(stream.Signature(result_layout(
            queries=config.queries, output_bits=config.output_bits, cached=memory is not None))),
        "o_trace": Out(stream.Signature(trace_layout(
            queries=config.queries, capacity=config.capacity, distance_max=config.distance_max,
            score_max=config.score_max, weight_bits=config.weight_bits))),
    }


def _loads(config: Config) -> dict[str, wiring.Member]:
    """Members that load keys and values into block RAM."""
    return {
        "i_key": In(stream.Signature(
            code_layout(capacity=config.capacity, key_bits=config.key_bits))),
        "i_value": In(stream.Signature(value_write_layout(
            capacity=config.capacity, beats=config.beats, value_bits=config.value_bits,
            value_lanes=config.value_lanes, scale_bits=SCALE_BITS))),
    }


@dataclass(frozen=True)
class Activity:
    """What a core is doing in a cycle: signals driven by the core."""

    idle: Signal = field(default_factory=Signal)
    """No command is in flight or offered."""
    word: Signal = field(default_factory=Signal)
    """A word of keys is being read for all queries to score."""
    score_waits: Signal = field(default_factory=Signal)
    """A command waits for a free selector."""
    select_waits: Signal = field(default_factory=Signal)
    """A selected key waits for the softmax, or for the rescorer."""
    value_waits: Signal = field(default_factory=Signal)
    """A weighted key waits for the accumulator."""


def _join(m: Module, source: Any, target: Any) -> None:
    """Connect streams whose payloads have the same fields, possibly of different widths."""
    m.d.comb += [target.valid.eq(source.valid), source.ready.eq(target.ready),
                 *(target.p[name].eq(source.p[name]) for name, _ in target.payload.shape())]


class Core(wiring.Component):
    """Binary attention: for each query, the exact weighted mean of the values of its nearest keys.

    Bit-exact to the numeric contract (docs/numerics.md). Each unit's docstring states its latency
    and throughput. The units overlap: while one query is normalized, later ones are weighted,
    selected and scored.

    **Loading.** Keys and values are written one token at a time, in any order; a value vector takes
    :py:`beats` beats. Commands can read a token once it and every token before it have been
    written; the core tracks only the highest token written. A load of a new token is accepted at
    once. A load of an older token or of a weight waits until no command is in flight or offered, so
    that a result never mixes old and new data; so does any value if the value memory has a single
    port. Rescore keys are loaded like values.

    **Commands.** Query r of a command attends to :py:`queries[r].count` keys, starting at
    :py:`first`. Selection follows :class:`nearbit_hw.select.Selector`; the weights come from
    exp table :py:`queries[r].exp_table`. Queries are answered in order, each with the
    :py:`value_dim` elements of its result or with a single beat that carries an error, after which
    the core carries on; see :class:`nearbit_model.structure.Error`.

    **Rescoring.** With a rescoring unit, a command with :py:`rescore` computes its weights from the
    dot products of its queries and the selected keys instead of reading an exp table; the scale
    of the exponential is :py:`queries[r].multiplier`. See :class:`nearbit_hw.attend.Rescorer` and
    :class:`nearbit_hw.attend.Softmax`. The elements of every query of such a command, even an
    unused or failing one, must be sent to :py:`i_rescore_query` in command order, before or after
    the command itself. If the unit supports it, a command with :py:`shared` makes one selection
    for all its queries, by the sum of their distances; their counts must be equal.

    **Memory.** With a memory in the configuration, the core reads the codes and rows of all heads
    over AXI4 (docs/memory.md). A command names its head and its sequence, whose tables are looked
    up when the command arrives; its range and the indices in its trace count the sequence's tokens.
    Exp tables are loaded as above; nothing else is. The memory's latency and response order
    affect only the cycles, never the answers. A query whose codes or rows could not be read
    returns the error :py:`CODES` or :py:`ROWS`, and its trace is meaningless.

    Reference: :func:`nearbit_model.golden.attend`.

    Parameters
    ----------
    config : :class:`nearbit_model.Config`
        The core to build.

    Members
    -------
    i_key : :py:`In(stream.Signature(...))`
        Loads :py:`code` as the key of :py:`token`. Without a memory only.
    i_value : :py:`In(stream.Signature(...))`
        Loads :py:`elements` as beat :py:`beat` of the value vector of :py:`token`, and the
        token's :py:`scale`, the same for all beats. Without a memory only.
    i_exp_table : :py:`In(stream.Signature(...))`
        Loads :py:`weight` into :py:`exp_table` for a distance that exceeds the smallest by
        :py:`distance`. An exp table counts as loaded once its weight 0 is loaded and is not 0.
    i_rescore_key : :py:`In(stream.Signature(...))`
        Loads :py:`elements` as beat :py:`beat` of the rescore key of :py:`token`. With
        :py:`rescore` in the configuration and without a memory only.
    i_rescore_query : :py:`In(stream.Signature(...))`
        Queries for rescoring, one beat of elements per transfer. With :py:`rescore` in the
        configuration only.
    i_command : :py:`In(stream.Signature(...))`
        Commands: :py:`first`, :py:`n`, :py:`sink`, :py:`recent`, :py:`trace`,
        :py:`rescore`, :py:`shared`; for each query :py:`code`, :py:`count`, :py:`exp_table`, and
        :py:`multiplier` if there is a rescoring unit.
    o_result : :py:`Out(stream.Signature(...))`
        Results: :py:`query`, :py:`error`, :py:`output` (two's complement, with
        :py:`output_fraction_bits` fraction bits), and :py:`last`, set with the query's last
        element.
    o_trace : :py:`Out(stream.Signature(...))`
        For commands with :py:`trace`, each query's selection by descending index: :py:`query`,
        :py:`index`, :py:`distance`, :py:`weight`, :py:`last`, and, if there is a rescoring unit,
        :py:`score`, which is minus the distance unless the command rescores. The trace of a query
        leaves before its result.
    i_head, i_page, i_tokens : :py:`In(stream.Signature(...))`
        With a memory: table entries; see :class:`nearbit_hw.memory.PlaceTable`.
    i_append, i_row, o_append : :py:`In(...)`, :py:`In(...)`, :py:`Out(stream.Signature(...))`
        With a memory: tokens to write into it; see :class:`nearbit_hw.memory.Appender`.
    axi_codes : :py:`Out(ReadSignature(...))`
        Reads codes; with a single bus, rows as well.
    axi_rows : :py:`Out(ReadSignature(...)).array(row_ports)`
        Reads rows, unless codes and rows share a bus.
    axi_append : :py:`Out(WriteSignature(...))`
        Writes tokens.
    timeout : :py:`In(timeout_bits)`
        Cycles of silence after which the core gives up waiting for the memory; see
        :class:`nearbit_hw.memory.CodeFetcher`.
    """

    i_key: stream.Interface
    i_value: stream.Interface
    i_exp_table: stream.Interface
    i_rescore_key: stream.Interface
    i_rescore_query: stream.Interface
    i_command: stream.Interface
    o_result: stream.Interface
    o_trace: stream.Interface

    def __init__(self, config: Config):
        if not isinstance(config, Config):
            raise TypeError(f"Config must be a Config, not {config!r}")
        self._config = config
        self._activity: Activity | None = None
        self._error: Any = Error if config.memory is None else CacheError

        super().__init__(core_members(config))

    @property
    def config(self) -> Config:
        return self._config

    def observe(self) -> Activity:
        """Return signals that show an enclosing component what the core does.

        Call before elaboration. The signals are not ports; a core that is not observed lacks them.
        """
        if self._activity is None:
            self._activity = Activity()
        return self._activity

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self._config
        unit = config.rescore
        shared = unit is not None and unit.shared

        memory = config.memory
        places = {} if memory is None else {"heads": memory.heads, "sequences": memory.sequences}
        cache: ResidentCache | MemoryCache = (
            ResidentCache if memory is None else MemoryCache)(m, self, config)
        m.submodules.dispatcher = dispatcher = Dispatcher(
            key_bits=config.key_bits, capacity=config.capacity, queries=config.queries,
            lanes=config.lanes, top_n=config.top_n, exp_tables=config.exp_tables,
            rescore=unit is not None, shared=shared, block=config.selection_block,
            cache=None if memory is None else cache_map(config))
        m.submodules.score_array = score_array = ScoreArray(
            key_bits=config.key_bits, queries=config.queries, lanes=config.lanes,
            fan_in=config.fan_in, queries_per_stage=config.queries_per_stage, target=config.cell)
        # The last query's selector also makes shared selections.
        selectors = [
            # A command's first word is requested in the cycle after the command is accepted.
            self._selector(key_bits, lead=1 + cache.key_latency + score_array.latency
                           + query // config.queries_per_stage)
            for query, key_bits in enumerate(
                [config.key_bits] * (config.queries - 1) + [config.distance_max])
        ]
        for query, selector in enumerate(selectors):
            m.submodules[f"top_n_{query}"] = selector
        m.submodules.query_merge = query_merge = QueryMerge(
            capacity=config.capacity, distance_max=config.distance_max, queries=config.queries,
            exp_tables=config.exp_tables, rescore=unit is not None, shared=shared, **places)
        m.submodules.softmax = softmax = Softmax(
            capacity=config.capacity, key_bits=config.key_bits,
            beats=config.beats + config.scale_beats,
            top_n=config.top_n, weight_bits=config.weight_bits, exp_tables=config.exp_tables,
            score_max=config.score_max, distance_max=config.distance_max)
        accumulator_kind = ScalingAccumulator if config.scale_beats else ValueAccumulator
        m.submodules.value_accumulator = accumulator = accumulator_kind(
            capacity=config.capacity, beats=config.beats, value_lanes=config.value_lanes,
            value_bits=config.value_bits, weight_bits=config.weight_bits,
            scale_bits=SCALE_BITS, top_n=config.top_n)
        m.submodules.normalizer = normalizer = self._normalizer(accumulator)

        # ---- The datapath.
        idle = Signal() # no command is in flight or offered

        m.submodules.order = order = StreamFifo(
            dispatcher.o_order.payload.shape(), depth=COMMANDS_IN_FLIGHT - 1)
        queue(m, dispatcher.o_order, order.i)
        # The order decides whether keys move; a register takes the FIFO's read off that path.
        register(m, order.o, query_merge.i_order, "order")
        cache.score(m, dispatcher, score_array)
        self._connect_queries(m, dispatcher, score_array, selectors, query_merge, cache)
        selected = cache.select(m, query_merge)
        if unit is None:
            wiring.connect(m, selected, softmax.i)
        else:
            self._rescore(m, unit, selected, softmax.i, cache)
            cache.load_rescore_keys(m, unit, dispatcher, idle)
        wiring.connect(m, softmax.o, accumulator.i)
        cache.attend(m, softmax, accumulator)
        wiring.connect(m, accumulator.o, normalizer.i)
        m.d.comb += accumulator.next_ready.eq(normalizer.next_ready)
        if isinstance(accumulator, ScalingAccumulator) \
                and isinstance(normalizer, DividingNormalizer):
            m.d.comb += accumulator.shift.eq(normalizer.shift)

        cache.load(m, idle)
        self._load_exp_tables(m, softmax, idle)
        cache.count(m, dispatcher)
        self._count_exp_tables(m, dispatcher, softmax)

        # ---- Commands in flight.
        accept, complete = Signal(), Signal()
        in_flight = Signal(range(COMMANDS_IN_FLIGHT + RESULTS_IN_FLIGHT + 3))
        cache.command(m, dispatcher)
        m.d.comb += [
            accept.eq(self.i_command.valid & self.i_command.ready),
            # A command is checked in the cycle in which it is first valid, before it is accepted.
            idle.eq((in_flight == 0) & ~self.i_command.valid),
        ]
        m.d.sync += in_flight.eq(in_flight + accept - complete)

        self._trace(m, query_merge, softmax)
        self._answer(m, query_merge, normalizer, complete, cache)

        if self._activity is not None:
            activity, words = self._activity, dispatcher.o_words
            m.d.comb += [
                activity.idle.eq(idle),
                activity.word.eq(words.valid & words.ready),
                activity.score_waits.eq(Cat(select.valid & ~select.ready
                                            for select in dispatcher.o_select).any()),
                activity.select_waits.eq(query_merge.o.valid & ~query_merge.o.ready),
                activity.value_waits.eq(softmax.o.valid & ~softmax.o.ready),
            ]
            if config.selection_block:
                with m.If(~words.valid & Cat(block.valid & ~block.ready
                                             for block in dispatcher.o_block).any()):
                    m.d.comb += activity.score_waits.eq(1)

        return m

    def _connect_queries(self, m: Module, dispatcher: Dispatcher, score_array: ScoreArray,
                         selectors: list[TopN | HistogramTopN], query_merge: QueryMerge,
                         cache: "ResidentCache | MemoryCache") -> None:
        """Connect each query's distances to its selector, and the selections to the merge."""
        config = self._config
        shared = config.rescore is not None and config.rescore.shared
        for query, selector in enumerate(selectors):
            _join(m, dispatcher.o_select[query], selector.i_command)
            if config.selection_block:
                wiring.connect(m, dispatcher.o_block[query], selector.i_block)
            words, keys = score_array.o[query], cache.wait(m, selector.o, query)
            if shared and query == config.queries - 1:
                # This query's selector also makes shared selections.
                m.submodules.distance_sum = distance_sum = DistanceSum(
                    key_bits=config.key_bits, queries=config.queries, lanes=config.lanes)
                m.submodules.selection_repeat = repeat = SelectionRepeat(
                    capacity=config.capacity, distance_max=config.distance_max,
                    top_n=config.top_n)
                for source, target in zip(score_array.o, distance_sum.i, strict=True):
                    m.d.comb += [target.valid.eq(source.valid), target.payload.eq(source.payload)]
                m.d.comb += [
                    distance_sum.i_command.valid.eq(
                        selector.i_command.valid & selector.i_command.ready),
                    distance_sum.i_command.p.shared.eq(dispatcher.o_select[query].p.shared),
                    repeat.again.eq(query_merge.again),
                ]
                wiring.connect(m, keys, repeat.i)
                words, keys = distance_sum.o, repeat.o
            wiring.connect(m, words, selector.i)
            _join(m, keys, query_merge.i[query])

    def _load_exp_tables(self, m: Module, softmax: Softmax, idle: Signal) -> None:
        """Load exp tables while the core is idle."""
        m.d.comb += [
            self.i_exp_table.ready.eq(idle),
            softmax.i_exp_table.valid.eq(self.i_exp_table.valid & idle),
            softmax.i_exp_table.payload.eq(self.i_exp_table.payload),
        ]

    def _count_exp_tables(self, m: Module, dispatcher: Dispatcher, softmax: Softmax) -> None:
        """Track which exp tables commands may use."""
        exp_tables_loaded = Signal(self._config.exp_tables)
        with m.If(softmax.i_exp_table.valid & (self.i_exp_table.p.distance == 0)):
            m.d.sync += exp_tables_loaded.bit_select(self.i_exp_table.p.exp_table, 1).eq(
                self.i_exp_table.p.weight != 0)
        m.d.comb += dispatcher.exp_tables_loaded.eq(exp_tables_loaded)

    def _trace(self, m: Module, query_merge: QueryMerge, softmax: Softmax) -> None:
        """Command the softmax and connect the trace; with several queries, add the query number."""
        config = self._config
        command = query_merge.o_command
        m.d.comb += [
            *(softmax.i_command.p[name].eq(command.p[name])
              for name, _ in softmax.i_command.payload.shape()),
            softmax.i_command.valid.eq(command.valid),
            command.ready.eq(softmax.i_command.ready),
            self.o_trace.valid.eq(softmax.o_trace.valid),
            softmax.o_trace.ready.eq(self.o_trace.ready),
            *(self.o_trace.p[name].eq(softmax.o_trace.p[name])
              for name, _ in softmax.o_trace.payload.shape()),
        ]
        if config.queries > 1:
            m.submodules.trace_queries = trace_queries = StreamFifo(
                data.StructLayout({"query": range(config.queries)}),
                depth=TRACES_IN_FLIGHT + softmax.latency - softmax_latency(scores=False))
            m.d.comb += [
                trace_queries.i.p.query.eq(command.p.query),
                trace_queries.i.valid.eq(command.valid & command.ready & command.p.trace),
                self.o_trace.p.query.eq(trace_queries.o.p.query),
                trace_queries.o.ready.eq(
                    self.o_trace.valid & self.o_trace.ready & self.o_trace.p.last),
            ]

    def _answer(self, m: Module, query_merge: QueryMerge, normalizer: Normalizer,
                complete: Signal, cache: "ResidentCache | MemoryCache") -> None:
        """Emit results in the order in which the queries were merged."""
        config = self._config
        m.submodules.results = results = StreamFifo(
            query_merge.o_result.payload.shape(), depth=RESULTS_IN_FLIGHT)
        queue(m, query_merge.o_result, results.i)
        result = results.o.p
        beat = Signal(range(config.beats))
        failed, last = Signal(), Signal()
        is_final = normalizer.o.p.last & (beat == config.beats - 1)
        found: Value = normalizer.o.valid
        taken: Value = self.o_result.ready
        error, is_blank = result.error, Value.cast(failed)
        if isinstance(cache, MemoryCache):
            # If keys or rows could not be read, drop the result's elements, except for the last
            # one, which the error replaces.
            known, broken, code = cache.outcome(m, result, results.o.ready & ~failed)
            found = found & known & (~broken | is_final)
            taken = known & (taken | (broken & ~is_final))
            error, is_blank = Mux(failed, result.error, code), failed | broken
        m.d.comb += [
            failed.eq(result.error != self._error.OK),
            last.eq(failed | is_final),
            self.o_result.valid.eq(results.o.valid & (failed | found)),
            self.o_result.p.query.eq(result.query),
            self.o_result.p.error.eq(error),
            self.o_result.p.output.eq(Mux(is_blank, 0, normalizer.o.p.output)),
            self.o_result.p.last.eq(last),
            normalizer.o.ready.eq(results.o.valid & ~failed & taken),
            results.o.ready.eq(self.o_result.valid & self.o_result.ready & last),
            complete.eq(results.o.ready & result.final),
        ]
        with m.If(normalizer.o.valid & normalizer.o.ready & normalizer.o.p.last):
            m.d.sync += beat.eq(Mux(beat == config.beats - 1, 0, beat + 1))

    def _normalizer(self, accumulator: ValueAccumulator) -> Normalizer:
        config = self._config
        given: dict[str, int] = {
            "value_lanes": config.value_lanes, "value_bits": config.value_bits,
            "sum_bits": accumulator.acc_bits, "total_max": accumulator.total_max,
            "output_fraction_bits": config.output_fraction_bits}
        if config.normalizer == "divider":
            return DividingNormalizer(**given, divider_cycles=config.divider_cycles,
                                      shifts=config.scale_beats > 0)
        return ReciprocalNormalizer(**given)

    def _selector(self, key_bits: int, *, lead: int) -> TopN | HistogramTopN:
        config = self._config
        given: dict[str, Any] = {
            "key_bits": key_bits, "lanes": config.lanes, "capacity": config.capacity,
            "top_n": config.top_n, "refine_lanes": config.refine_lanes}
        if config.selection == "counters":
            return TopN(**given, gapless=config.rescore is not None)
        return HistogramTopN(**given, overlap=config.selection == "histograms", lead=lead,
                             block=config.selection_block)

    def _rescore(self, m: Module, unit: Rescore, selected: stream.Interface,
                 rescored: stream.Interface, cache: "ResidentCache | MemoryCache") -> None:
        """Insert the rescorer between selection and softmax, and connect its queries."""
        config = self._config
        cache.add_rescore_keys(m, unit)
        m.submodules.rescorer = rescorer = Rescorer(
            capacity=config.capacity, distance_max=config.distance_max, head_dim=unit.head_dim,
            lanes=unit.lanes, element_bits=unit.element_bits,
            queries=config.rescore_query_slots)
        wiring.connect(m, wiring.flipped(self.i_rescore_query), rescorer.i_query)
        wiring.connect(m, selected, rescorer.i)
        cache.rescore(m, rescorer)
        wiring.connect(m, rescorer.o, rescored)
