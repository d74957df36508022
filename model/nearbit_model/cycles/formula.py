"""Commands of one shape in the long run, by formula."""

from dataclasses import dataclass
from fractions import Fraction

from nearbit_model.config import Config
from nearbit_model.structure import (
    ACCUMULATOR_LATENCY,
    BANKS,
    CLEARING_GAP,
    RESCORE_KEY_STORE_LATENCY,
    SCALING_GAP,
    VALUE_STORE_LATENCY,
    rescorer_latency,
    softmax_latency,
)


__all__ = ["Steady", "steady"]


@dataclass(frozen=True)
class Steady:
    """Commands of one shape, one after another without a pause, by formula.

    The latency is exact. So is the interval, but where queues between the stages are full: with
    several queries, if the selection is by histograms, or if ``top_n`` is hardly more than what is
    selected, or if value vectors have two or three elements. :func:`predict` knows them.

    Parameters
    ----------
    latency
        Cycles from the offer of a command to an idle core to its last beat, both included.
    interval
        Cycles from one command to the next in the long run: those of the slowest stage.
    stages
        For each stage, the cycles that a command takes of it: ``score``, ``refine``, ``emit``,
        ``rescore`` (if the core has rescoring), ``weigh`` (ValueAccumulator is as fast),
        ``normalize``. And ``banks``, no stage but the time
        from the start of a command to the end of its selection, by 3, or by 4 with histograms, as
        so many of them are in work at the same time; only three of the four are counted or merged.
    limit
        The first of the slowest.
    """

    latency: int
    interval: Fraction
    stages: dict[str, Fraction]
    limit: str


def _steady_selection(config: Config, words: int, selected: int
                      ) -> tuple[int, dict[str, Fraction]]:
    """Cycles from the acceptance of a command to the last key into the queue, and the stages'."""
    reads = -(-words // (config.refine_lanes // config.lanes))
    scored = words + config.score_latency()
    if config.selection == "counters":
        times = config.counter_times
        emitted = times.emit_cycles(words=words, selected=selected) - times.key_latency
        return (scored + times.count_latency + reads - 1 + times.refine_latency + emitted
                + times.registers), {"refine": Fraction(reads), "emit": Fraction(emitted)}
    if config.selection_block:
        return _steady_blocks(config, words, selected)
    histogram = config.histogram_times(config.queries - 1)
    merged = scored + histogram.count_latency + histogram.merge_cycles
    emitted = histogram.scan_latency + histogram.emit_latency - 1 + selected - 1
    left = merged + reads + emitted + (config.queries - 1) * selected
    if not histogram.overlap:
        return merged + reads + emitted - 1, {
            "merge": Fraction(merged + config.score_stages),
            "scan": Fraction(reads + emitted + 1),
            "banks": Fraction(left + 2, histogram.banks)}
    # From the acceptance of a command until its last key is presented.
    whole = left + config.score_stages
    freed = scored + histogram.count_latency + histogram.free_latency + config.score_stages
    return merged + reads + emitted - 1, {
        "merge": max(Fraction(histogram.merge_interval), Fraction(freed, histogram.limit)),
        "scan": Fraction(reads + histogram.scan_gap),
        "emit": Fraction(histogram.emit_latency + selected - 2),
        # The last key leaves the queue of commands, too.
        "banks": max(Fraction(whole + 1, histogram.banks),
                     Fraction(merged + config.score_stages, histogram.unhanded))}


def _steady_blocks(config: Config, words: int, selected: int) -> tuple[int, dict[str, Fraction]]:
    """Give the same for a selection by blocks, the last of which may be shorter.

    Words do not wait for the selection of blocks before. Only the last block may begin to be listed
    later than it could, as the one before is whole.
    """
    times = config.histogram_times(config.queries - 1)
    size = config.selection_block // config.lanes
    whole = -(-words // size) - 1 # blocks before the last one
    lengths = [size] * whole + [words - size * whole]
    merges = scans = emits = merged = handed = scanned = left = survivors = seen = 0
    for index, length in enumerate(lengths):
        seen += length
        counted = seen + config.score_latency()
        merge = counted + times.count_latency
        reads = -(-length * config.lanes // config.refine_lanes)
        listed = min(selected, seen * config.lanes)
        if index:
            merge = max(merge, merged + times.merge_interval)
        merged = merge
        handed = max(merge + times.merge_cycles, scanned + times.scan_gap if index else 0)
        scanned = handed + reads
        emit = max(scanned + times.scan_latency, left if index else 0)
        filtering = times.filter_cycles(survivors) if index else 0
        left = emit + filtering + times.emit_latency - 1 + listed - 1
        # The bins of the block before must be promised before the next command is taken.
        merges += size if index < whole else max(
            times.merge_interval, times.count_latency + times.free_latency + times.lead)
        scans += reads + times.scan_gap
        emits += filtering + times.emit_latency + listed - 2
        survivors = listed
    return left - 1, {name: Fraction(cycles) for name, cycles in (
        ("merge", merges), ("scan", scans), ("emit", emits))}


def steady(config: Config, *, words: int, selected: int, rescore: bool = False) -> Steady:
    """Latency and interval of commands whose queries all have the same number of words and keys.

    Parameters
    ----------
    words
        Words of keys: the longest range by ``lanes``, rounded up, if it begins with a word.
    selected
        Keys that each query selects; with blocks, none of them for being recent.
    rescore
        Whether they are scored exactly.
    """
    selection, selecting = _steady_selection(config, words, selected)
    beat = config.value_lanes * config.divider_cycles
    beats = config.rescore.beats if config.rescore is not None and rescore else 1
    # The scales of all keys, if they come in a beat of their own; then sums are cleared in between.
    scaling = config.scale_beats * max(selected, SCALING_GAP)
    added = selected + config.scale_beats * (CLEARING_GAP - 1)
    weighed = scaling + config.beats * added
    if config.scale_beats and config.beats > 1:
        # No scales are read while a beat waits for the normalizer.
        weighed = max(weighed, scaling + added + 1 + (config.beats - 2) * beat
                      + (config.value_lanes - 1) * config.divider_cycles)
    stages = {
        "score": Fraction(max(words, config.score_stages + 1)),
        **selecting,
        **({} if config.rescore is None
           else {"rescore": Fraction(config.queries * beats * selected)}),
        "weigh": Fraction(config.queries * weighed),
        "normalize": Fraction(config.queries * config.beats * beat),
    }
    if config.selection == "counters":
        stages["banks"] = Fraction(selection + config.score_stages, BANKS)
    # From the last key into the queue to the last one into Softmax's buffer.
    handing = 2
    if config.rescore is not None:
        handing += (selected * (beats - 1) + RESCORE_KEY_STORE_LATENCY
                    + rescorer_latency(config.rescore.lanes))
    interval = max(stages.values())
    # Query 0 alone; the first beat must be complete before the first output. Then the queries
    # follow each other at the pace of the slowest of these stages.
    replay = (handing + (selected == 1) + softmax_latency(scores=config.rescore is not None)
              + VALUE_STORE_LATENCY + ACCUMULATOR_LATENCY
              + scaling + selected + (config.beats - 1) * max(added, beat)
              + (config.value_lanes - 1) * config.divider_cycles + config.normalizer_latency)
    paces = [stages[name] / config.queries
             for name in ("rescore", "weigh", "normalize") if name in stages]
    # Two buffers take three cycles for two queries of a single key and a single beat.
    following = int((config.queries - 1) * max(*paces, Fraction(3, 2) if paces[-2] == 1 else 1))
    return Steady(latency=1 + selection + replay + following, interval=interval, stages=stages,
                  limit=next(name for name, cycles in stages.items() if cycles == interval))
