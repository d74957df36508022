"""All blocks of a core and the queues between them: every cycle of a program."""

import dataclasses
from collections import deque
from collections.abc import Sequence

from nearbit_model.config import Config
from nearbit_model.cycles.cache import MemoryCache, ResidentCache, begin_bus, tables_ready
from nearbit_model.cycles.memory import Grants, SharedBus
from nearbit_model.cycles.pipeline import FOREVER, NEVER
from nearbit_model.cycles.selection import HistogramTopN, Selection, TopN
from nearbit_model.cycles.shapes import (
    Accepted,
    Answer,
    Command,
    Interval,
    Phase,
    Timeline,
)
from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.memory_trace import MemoryTrace
from nearbit_model.structure import COMMANDS_IN_FLIGHT, RESULTS_IN_FLIGHT, Error


__all__ = ["latency_limit", "predict"]


class _Core:
    """All blocks, and the queues between them."""

    def __init__(self, config: Config, cache: ResidentCache | MemoryCache) -> None:
        self._config = config
        self._cache = cache
        self._loads = cache.loads
        selector = TopN if config.selection == "counters" else HistogramTopN
        self._selectors = [selector(config, query) for query in range(config.queries)]
        self._replay = cache.replay
        # Dispatcher
        self._free = NEVER  # the command before may be followed by another
        self._announced = NEVER # its last block is announced
        # QueryMerge
        self._merge_turn = NEVER
        self._ordered = deque([NEVER] * (COMMANDS_IN_FLIGHT - 1), maxlen=COMMANDS_IN_FLIGHT - 1)
        # Results
        self._given = deque([NEVER] * RESULTS_IN_FLIGHT, maxlen=RESULTS_IN_FLIGHT)
        self._commands = 0
        self.answers: list[Answer] = []

    def run(self, phase: Phase, start: int) -> Accepted:
        """Offer a phase from a cycle on."""
        accepted = Accepted()
        self._loads.begin(phase, accepted, start)
        self._cache.selected.queries.begin(phase, accepted, start)
        offered = start
        for command in phase.commands:
            self._loads.advance(offered)
            accepted.commands.append(self._command(command, offered))
            offered = accepted.commands[-1] + 1
        self._loads.advance(FOREVER)
        self._cache.selected.queries.finish()
        return accepted

    def _command(self, command: Command, offered: int) -> int:
        """Work on a command that is first offered in a cycle; gives when it is accepted."""
        config, cache = self._config, self._cache
        queries = range(config.queries)
        presented = cache.present(command, offered)
        errors = [self._loads.error(command, query, config.top_n) for query in queries]
        good = [query for query in queries if errors[query] == Error.OK]
        # Queries that select; if they share, the last one does for all.
        selecting = good[-1:] if command.shared else good

        # ---- Dispatcher: checked in the cycle `presented`, then announced.
        announced = max(presented + 1, self._ordered[0] + 1)
        earliest = max(presented, self._announced) + 1
        claims = [self._selectors[query].claim(earliest) for query in selecting]
        words = 0
        selections: dict[int, tuple[Selection, dict[str, Interval]]] = {}
        if good:
            skip = command.first % config.lanes
            words = -(-(skip + max(command.counts[query] for query in good)) // config.lanes)
            claims.append(cache.fetch(command, words, presented + 1))
        accepted = max(announced, self._free, *claims)
        if good:
            # The words go out in the cycles after. The score array takes the first word two cycles
            # after the command is accepted, and the codes when that word is in its last stage.
            if config.selection_block:
                last_word = self._blocks(command, selecting, accepted, words, selections)
            else:
                last_word = cache.words(accepted, words)
                for query in selecting:
                    selections[query] = self._selectors[query].select(
                        last_word, words, command.survivors(query, command.counts[query]))
            for query in selecting:
                cache.wait(query, selections[query][0])
            self._free = max(last_word, cache.first_word + config.score_stages)

        # ---- QueryMerge: the queries in turns. The order leaves its queue when the one before is
        # done.
        ordered = max(self._merge_turn - 1, announced + 1)
        self._ordered.append(ordered)
        turn = ordered + 1
        for query in queries:
            noted = max(turn, self._given[0] + 1)
            # A result leaves when it is noted and the one before is out.
            leave = max(noted + 1, self._given[-1] + 1)
            if errors[query] == Error.OK:
                selection, stages = selections[config.queries - 1 if command.shared else query]
                commanded = max(turn, self._replay.free)
                cache.use(command, query, keeps=command.shared and query < config.queries - 1)
                last, gathering = cache.selected.run(
                    selection, turn, rescore=command.rescore, free=self._replay.free,
                    again=command.shared and query > 0)
                outputs, trace, later = self._replay.run(
                    selection.selected, last, leave, command.trace)
                answer = Answer(
                    command=self._commands, query=query, error=Error.OK, words=words,
                    selected=selection.selected, offered=offered, accepted=accepted,
                    beat_starts=outputs, outputs_per_beat=config.value_lanes,
                    output_cycles=config.divider_cycles, trace=trace,
                    stages={**cache.stages, **stages, **gathering, **later})
                turn = max(noted, commanded, selection.passed) + 1
            else:
                skipped = (cache.selected.skip(turn)
                           if command.rescore and config.rescore is not None else turn)
                answer = Answer(
                    command=self._commands, query=query, error=errors[query], words=0, selected=0,
                    offered=offered, accepted=accepted, beat_starts=(leave,), outputs_per_beat=1,
                    output_cycles=1, trace=(), stages={})
                turn = max(noted, skipped) + 1
            self.answers.append(answer)
            self._given.append(answer.end)
        self._merge_turn = turn
        self._loads.occupy(offered, self._given[-1])
        self._commands += 1
        return accepted


    def _blocks(self, command: Command, queries: list[int], accepted: int, words: int,
                selections: dict[int, tuple[Selection, dict[str, Interval]]]) -> int:
        """Select block by block; gives when the last word is asked for.

        A block is announced with the first word of the one before, and begins when that has ended
        and all queries have taken it.
        """
        config = self._config
        size = config.selection_block // config.lanes
        skip = command.first % config.lanes
        begins, last_word = accepted, accepted
        survivors = dict.fromkeys(queries, 0)
        for start in range(0, words, size):
            if start:
                begins = max(last_word, *(
                    self._selectors[query].claim(begins + 1) for query in queries))
                self._announced = begins
            end = min(start + size, words)
            last_word = self._cache.words(begins, end - start)
            for query in queries:
                selected = command.survivors(query, end * config.lanes - skip)
                selector = self._selectors[query]
                assert isinstance(selector, HistogramTopN)
                selection, stages = selector.select(
                    last_word, end - start, selected, survivors=survivors[query],
                    final=end == words)
                scored = Interval(accepted + 1, stages["score"].end)
                selections[query] = selection, {**stages, "score": scored}
                survivors[query] = selected
        return last_word


def predict(config: Config, phases: Sequence[Phase], *,
            memory: MemoryTiming | MemoryTrace | None = None) -> Timeline:
    """Predict when the core of a configuration takes its inputs and gives its results.

    Cycle 0 is the first after reset. In a phase, all sequences are offered at full rate in
    parallel; the next phase begins in the cycle after its last transfer, or ``delay`` cycles later.
    Outputs are always ready.

    Parameters
    ----------
    config
        The configuration.
    phases
        What is pushed.
    memory
        When the memory answers, if the configuration has one: with constant latency, in order, one
        beat a cycle; or at recorded times, such as
        :func:`nearbit_model.transfers.memory_trace` takes from a simulation.

    Raises
    ------
    TraceError
        A trace of other bursts than the program reads.
    ValueError
        What else is not predicted.
    """
    _check(config, phases, memory)
    if memory is None:
        return _run(config, phases, ResidentCache(config))
    grants = Grants(tables_ready(config))
    shared = None
    if config.memory is not None and config.memory.one_bus:
        shared = SharedBus(lambda: begin_bus(memory, 0),
                           memory.latency if isinstance(memory, MemoryTiming) else 1)
    while True:
        grants.begin()
        if shared is not None:
            shared.begin()
        cache = MemoryCache(config, memory, grants, shared)
        timeline = _run(config, phases, cache)
        # Both are to be settled anew.
        settled = [grants.settle(), shared is None or shared.settle()]
        if all(settled):
            cache.check()
            return dataclasses.replace(timeline, traffic=cache.traffic)


def latency_limit(timeout_bits: int) -> int:
    """Give the least latency of a memory, in cycles, that a core takes for silence."""
    return (1 << timeout_bits) - 1


def _check(config: Config, phases: Sequence[Phase], memory: MemoryTiming | MemoryTrace | None
           ) -> None:
    """Refuse what is not predicted."""
    if (config.memory is None) != (memory is None):
        raise ValueError("a configuration with a memory needs the memory's timing, and no other "
                         "one does")
    for phase in phases:
        for command in phase.commands:
            if len(command.counts) != config.queries:
                raise ValueError(f"a command must have {config.queries} counts, "
                                 f"not {len(command.counts)}")
        if memory is not None and (phase.keys or phase.values or phase.rescore_keys):
            raise ValueError("tokens of a configuration with a memory are not loaded into the core")
    if memory is None or config.memory is None:
        return
    if config.selection == "counters" and config.rescore is None:
        raise ValueError("with a memory and the selection 'counters' without rescoring, cycles "
                         "depend on data, because each key's row is asked for when the key is "
                         "found; take 'histograms'")
    if isinstance(memory, MemoryTrace):
        buses = 1 if config.memory.one_bus else 1 + config.memory.row_ports
        if len(memory.buses) != buses:
            raise ValueError(f"the configuration reads on {buses} buses, and the trace is of "
                             f"{len(memory.buses)}")
        return
    if memory.latency >= latency_limit(config.memory.timeout_bits):
        raise ValueError(f"the core gives up a memory with a latency of {memory.latency} cycles; "
                         f"take more memory.timeout_bits than {config.memory.timeout_bits}")
    if not memory.is_constant:
        raise ValueError("cycles are predicted of a memory that answers in order, with constant "
                         "latency and a beat in each cycle, without pauses or faults; of others "
                         "from a trace of their answers")


def _run(config: Config, phases: Sequence[Phase], cache: ResidentCache | MemoryCache) -> Timeline:
    core = _Core(config, cache)
    start = 0
    accepted = []
    for phase in phases:
        start += phase.delay
        accepted.append(core.run(phase, start))
        start = max((start - 1, *(cycles[-1] for cycles in vars(accepted[-1]).values() if cycles))
                    ) + 1
    return Timeline(accepted, core.answers)
