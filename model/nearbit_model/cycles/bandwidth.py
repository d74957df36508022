"""Commands of one shape from a memory, in the long run: what bounds them."""

from dataclasses import dataclass
from fractions import Fraction

from nearbit_model.config import Config, Memory
from nearbit_model.cycles.formula import steady
from nearbit_model.memory import MemoryLayout
from nearbit_model.memory_timing import MemoryTiming


__all__ = ["Bound", "Reads", "bound", "reads"]


@dataclass(frozen=True)
class Reads:
    """What a command reads.

    Parameters
    ----------
    bursts
        Beats of each burst of codes.
    rows
        Rows, of all its queries.
    port_rows
        Those on the bus that has the most.
    row_beats
        Beats of a row.
    beat_bytes
        Bytes of a beat.
    """

    bursts: tuple[int, ...]
    rows: int
    port_rows: int
    row_beats: int
    beat_bytes: int

    @property
    def code_bytes(self) -> int:
        """Bytes of codes."""
        return sum(self.bursts) * self.beat_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes of all rows."""
        return self.rows * self.row_beats * self.beat_bytes


@dataclass(frozen=True)
class Bound:
    """Commands of one shape, one after another without a pause: no interval is shorter.

    Parameters
    ----------
    interval
        Cycles from one command to the next in the long run, at least: those of the slowest stage.
    stages
        For each stage, the cycles that a command takes of it: those of
        :class:`~nearbit_model.cycles.Steady`, and

        - ``codes``, ``rows``: beats on their buses, the cycles between bursts included; or ``bus``,
          if they share one; and ``memory``, all beats at the pace that buses share;
        - ``look-ups``: the tokens of rows, one in two cycles;
        - ``code queue``, ``code bursts``, ``row IDs``: the time for which a command's beats, bursts
          or rows are on their way, by how many may be; more with a longer latency of the memory;
        - ``row sets``: the time from the first key of a selection until its last value is read, by
          two, as the rows of so many selections are held.
    limit
        The first of the slowest.
    reads
        What a command reads.
    """

    interval: Fraction
    stages: dict[str, Fraction]
    limit: str
    reads: Reads


def _memory(config: Config) -> Memory:
    if config.memory is None:
        raise ValueError("the configuration has no memory")
    return config.memory


def reads(config: Config, *, words: int, selected: int, shared: bool = False) -> Reads:
    """Give what a command reads whose queries all have these words, from token 0 on, and keys."""
    memory = _memory(config)
    code_bits = 1 << (config.key_bits - 1).bit_length()
    chunk = max(memory.bus_bits, config.lanes * code_bits)
    chunks = -(-words * config.lanes * code_bits // chunk)
    block = min(8 * memory.burst_bytes, memory.page_tokens * code_bits) // chunk
    beats = chunk // memory.bus_bits
    whole, rest = divmod(chunks, block)
    selections = 1 if shared else config.queries
    return Reads(
        bursts=(block * beats,) * whole + ((rest * beats,) if rest else ()),
        rows=selections * selected, port_rows=selections * -(-selected // memory.row_ports),
        row_beats=MemoryLayout.of(config).row_beats, beat_bytes=memory.bus_bits // 8)


def bound(config: Config, *, words: int, selected: int, timing: MemoryTiming,
          rescore: bool = False, shared: bool = False) -> Bound:
    """Bound the interval of commands whose queries have the same number of words and keys.

    Parameters
    ----------
    words
        Words of keys, from token 0 on.
    selected
        Keys that each query selects; with blocks, none of them for being recent.
    timing
        When the memory answers. What is drawn only makes it slower: latencies, their order and
        pauses count as if there were none above the least.
    rescore, shared
        Whether keys are scored exactly, and whether the queries share a selection.
    """
    memory, asked = _memory(config), reads(config, words=words, selected=selected, shared=shared)
    latency, row_beats = timing.latency, asked.row_beats
    stages = dict(steady(config, words=words, selected=selected, rescore=rescore).stages)
    # A burst of codes is looked up, added up and presented in three cycles, a row presented in two.
    pace = Fraction(*timing.beats_of_cycles)
    each = min(pace, Fraction(1)) # beats a cycle of a bus
    beats = sum(asked.bursts) + asked.rows * row_beats
    if memory.one_bus:
        stages["bus"] = max(beats / each, Fraction(2 * (len(asked.bursts) + asked.rows)))
    else:
        stages |= {"codes": max(sum(asked.bursts) / each, Fraction(3 * len(asked.bursts) + 1)),
                   "rows": asked.port_rows * max(row_beats / each, Fraction(2))}
    if timing.shared_pace:
        stages["memory"] = beats / pace
    stages["look-ups"] = Fraction(2 * asked.rows)
    # From the cycle of a burst's load to that in which its beats leave the queue.
    stages["code queue"] = Fraction(sum(
        beats * (latency + 3) + beats * (beats - 1) // 2 for beats in asked.bursts),
        memory.queue_beats)
    stages["code bursts"] = Fraction(sum(latency + beats for beats in asked.bursts),
                                     min(memory.outstanding, timing.outstanding))
    stages["row IDs"] = asked.port_rows * max(
        Fraction(latency + row_beats + 2, 1 << memory.row_id_bits),
        Fraction(latency + row_beats, timing.outstanding))
    # From the first key to the last row, then the beats of values after the first.
    held = 5 + 2 * (selected - 1) + latency + row_beats + 3 + (config.beats - 1) * selected
    stages["row sets"] = Fraction((asked.rows // selected) * held, 2)
    interval = max(stages.values())
    return Bound(interval=interval, stages=stages, reads=asked,
                 limit=next(name for name, cycles in stages.items() if cycles == interval))
