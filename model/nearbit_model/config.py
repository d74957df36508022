"""The configuration of an accelerator, and its named presets."""

import dataclasses
import inspect
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli_w

from nearbit_model.errors import NearbitError
from nearbit_model.structure import (
    KEY_STORE_LATENCY,
    QUERIES_PER_STAGE,
    RESCORE_QUERIES,
    CounterTimes,
    HistogramTimes,
    ReciprocalTimes,
    tree_latency,
)


__all__ = ["CELLS", "DECAY_BITS", "MEMORY_PRESETS", "MULTIPLIER_BITS", "MULTIPLIER_SHIFT",
           "NORMALIZERS", "PRESETS", "SCALE_BITS", "SELECTIONS", "Config", "ConfigError", "Memory",
           "Rescore", "fitting_preset"]


SCALE_BITS = 16
"""Bits of a value vector's scale (item 6 of the numeric contract)."""

MULTIPLIER_BITS = 32
"""Bits of the logit scale of a rescored query (item 5 of the numeric contract)."""

MULTIPLIER_SHIFT = 24
"""Fraction bits of that scale."""

DECAY_BITS = 8
"""Fraction bits of an octave in the exponential's table (the same item)."""


CELLS = ("generic", "ecp5", "ice40", "xc7")
"""Devices with an XOR-popcount cell of their own; ``generic`` is for all others."""

SELECTIONS = ("counters", "histograms", "serial")
"""Ways to find the nearest keys: counting in logic, or in block RAM, overlapping queries or not."""

NORMALIZERS = ("reciprocal", "divider")
"""Ways to divide by the sum of weights: with multipliers, or in logic."""

_LARGEST_FILE = 1 << 20
"""Bytes of the largest file that is read as a configuration; a device file may never end."""


class ConfigError(NearbitError, ValueError):
    """A configuration that cannot be built; the message is one sentence for the user."""


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _within(least: int, most: int, says: str) -> dict[str, Any]:
    """Metadata of an integer field: its range and its documentation.

    The bounds keep every derived width and memory buildable.
    """
    return {"range": range(least, most + 1), "says": says}


def _one_of(choices: tuple[Any, ...], says: str) -> dict[str, Any]:
    """Metadata of any other field: its choices, in the order of their numbers."""
    return {"choices": choices, "says": says}


def _check_fields(config: Any, prefix: str = "") -> None:
    """Check the integers and choices of a configuration, or of a part of it."""
    for known in dataclasses.fields(config):
        name, value = prefix + known.name, getattr(config, known.name)
        if "range" in known.metadata:
            allowed = known.metadata["range"]
            if type(value) is not int:
                raise ConfigError(f"{name} must be an integer, not {value!r}")
            if value not in allowed:
                raise ConfigError(f"{name} must be from {allowed[0]} to {allowed[-1]}, "
                                  f"not {value}")
        elif "choices" in known.metadata:
            choices = known.metadata["choices"]
            # 1 equals True.
            if not any(type(value) is type(choice) and value == choice for choice in choices):
                named = "true or false" if choices == (False, True) else \
                    f"one of {', '.join(choice for choice in choices if choice is not None)}"
                raise ConfigError(f"{name} must be {named}, not {value!r}")


def _leaves(cls: type[Any], prefix: str = "") -> dict[str, Mapping[str, Any]]:
    """Metadata of a class's fields by name, with a part's fields in place of the part."""
    found: dict[str, Mapping[str, Any]] = {}
    for known in dataclasses.fields(cls):
        part = known.metadata.get("part")
        found |= {prefix + known.name: known.metadata} if part is None else \
            _leaves(part, f"{prefix}{known.name}.")
    return found


def _number(value: Any, known: Mapping[str, Any]) -> int:
    return int(known["choices"].index(value) if "choices" in known else value)


def _value(name: str, number: int, known: Mapping[str, Any]) -> Any:
    if "choices" not in known:
        return number
    choices = known["choices"]
    if number not in range(len(choices)):
        raise ConfigError(f"the number of {name} must be from 0 to {len(choices) - 1}, "
                          f"not {number}")
    return choices[number]


def _document(cls: type[Any]) -> None:
    """Append the fields' documentation to that of their class."""
    lines = ["Parameters", "----------"]
    for known in dataclasses.fields(cls):
        allowed, says = known.metadata.get("range"), known.metadata["says"]
        if allowed is not None:
            says += f" From {allowed[0]:,} to {allowed[-1]:,}."
        lines += [known.name, *textwrap.wrap(says, 90, initial_indent="    ",
                                             subsequent_indent="    ")]
    cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", *lines, ""])


def _from_table(cls: Any, table: dict[str, Any], what: str, prefix: str = "") -> Any:
    """Build a dataclass from a mapping whose keys must be its fields."""
    known = {field.name: field for field in dataclasses.fields(cls)}
    for name in table:
        if name not in known:
            raise ConfigError(f"unknown key {prefix + name!r}; {what} has the keys "
                              f"{', '.join(known)}")
    needed = [name for name, field in known.items() if field.default is dataclasses.MISSING]
    for name in needed:
        if name not in table:
            listed = " and ".join(filter(None, [", ".join(needed[:-1]), needed[-1]]))
            raise ConfigError(f"{prefix}{name} is missing; {listed} "
                              f"{'has' if len(needed) == 1 else 'have'} no default")
    return cls(**table)


@dataclass(frozen=True, kw_only=True)
class Rescore:
    """The unit that scores selected keys by dot products (HashAttention, arXiv 2412.14468)."""

    head_dim: int = field(metadata=_within(
        1, 1024, "Elements of a rescore query or key."))
    lanes: int = field(metadata=_within(
        1, 1024, "Elements loaded and multiplied per cycle; divides ``head_dim``."))
    element_bits: int = field(default=8, metadata=_within(
        2, 16, "Bits of an element, two's complement."))
    shared: bool = field(default=False, metadata=_one_of(
        (False, True), "Whether a command may have one selection for all its queries, by the sum "
                       "of their distances (the query heads of a GQA group)."))

    def __post_init__(self) -> None:
        """Check every field, and the rules between them."""
        _check_fields(self, "rescore.")
        if self.head_dim % self.lanes:
            raise ConfigError(f"rescore.lanes must divide rescore.head_dim ({self.head_dim}), "
                              f"not {self.lanes}")

    @property
    def beats(self) -> int:
        """Beats in which a key is read: ``head_dim / lanes``."""
        return self.head_dim // self.lanes

    @property
    def score_max(self) -> int:
        """The largest absolute value of a score: if all elements have the most negative value."""
        return self.head_dim << 2 * (self.element_bits - 1)


_document(Rescore)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The memory that holds the cache of all heads, and the buses to it (docs/memory.md)."""

    heads: int = field(metadata=_within(
        1, 1 << 16, "Key heads of all layers whose codes and rows are in memory."))
    sequences: int = field(default=1, metadata=_within(
        1, 1 << 12, "Sequences that are open at the same time."))
    page_tokens: int = field(default=256, metadata=_within(
        1, 1 << 20, "Tokens per page, a power of two; divides ``capacity``, the most tokens of a "
                    "sequence."))
    pages: int = field(default=0, metadata=_within(
        0, 1 << 20, "Pages of each head, shared by all sequences. The default, 0, means as many "
                    "as all sequences need at full length."))
    bus_bits: int = field(default=64, metadata=_within(
        32, 512, "Bits of the AXI4 buses, a power of two."))
    address_bits: int = field(default=32, metadata=_within(
        16, 64, "Bits of an address, in bytes."))
    row_ports: int = field(default=1, metadata=_within(
        1, 4, "Buses on which rows are read: 1, 2 or 4."))
    one_bus: bool = field(default=False, metadata=_one_of(
        (False, True), "Whether codes and rows are read on one bus instead of separate ones; "
                       "requires ``row_ports`` of 1."))
    burst_bytes: int = field(default=256, metadata=_within(
        16, 4096, "Bytes of the longest burst of codes, a power of two; codes of a head begin at "
                  "a multiple of it."))
    queue_beats: int = field(default=512, metadata=_within(
        2, 1 << 16, "Beats of codes in flight or waiting, a power of two; they hide the memory's "
                    "latency."))
    outstanding: int = field(default=64, metadata=_within(
        1, 1024, "Most bursts of codes in flight on the bus."))
    row_id_bits: int = field(default=4, metadata=_within(
        1, 8, "Bits of the ID of a row's burst; a bus has at most ``2 ** row_id_bits`` rows in "
              "flight."))
    stride_bits: int = field(default=8, metadata=_within(
        1, 16, "Bits of the distance from one row to the next, in units of 16 bytes or of a beat, "
               "whichever is larger."))
    timeout_bits: int = field(default=16, metadata=_within(
        1, 32, "Bits of the time-out, the number of cycles after which a silent memory is given "
               "up."))

    def __post_init__(self) -> None:
        """Check every field, and the rules between them."""
        _check_fields(self, "memory.")
        if self.row_ports == 3:
            raise ConfigError("memory.row_ports must be 1, 2 or 4, not 3")
        for name in ("page_tokens", "bus_bits", "burst_bytes", "queue_beats"):
            if not _is_power_of_two(getattr(self, name)):
                raise ConfigError(f"memory.{name} must be a power of two, "
                                  f"not {getattr(self, name)}")
        if self.one_bus and self.row_ports != 1:
            raise ConfigError(f"memory.row_ports must be 1 with memory.one_bus, "
                              f"not {self.row_ports}")
        beat = self.bus_bits // 8
        if not beat <= self.burst_bytes <= 256 * beat:
            raise ConfigError(f"memory.burst_bytes must be from a beat ({beat}) to 256 beats "
                              f"({256 * beat}), not {self.burst_bytes}")
        if self.queue_beats * beat < 2 * self.burst_bytes:
            raise ConfigError(f"memory.queue_beats must be at least two bursts "
                              f"({2 * self.burst_bytes // beat}), not {self.queue_beats}")


_document(Memory)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The parameters of an accelerator, shared by hardware, models, engines and boards.

    Construction raises :class:`ConfigError` if a value cannot be built. The metadata of each field
    has its documentation, ``says``, and the ``range`` of an integer, the ``choices`` of another
    value, or the class of a ``part``.
    """

    key_bits: int = field(metadata=_within(1, 1024, "Bits of a code (query or key)."))
    value_dim: int = field(metadata=_within(1, 1024, "Elements of a value vector and of a result."))
    capacity: int = field(metadata=_within(
        1, 1 << 20, "Capacity in keys and value vectors; a multiple of ``refine_lanes``."))
    value_bits: int = field(default=8, metadata=_within(
        2, 16, "Bits of a value element, two's complement."))
    queries: int = field(default=1, metadata=_within(
        1, 64, "Queries scored at the same time against the same keys (a GQA group or a tile of a "
               "prefill)."))
    lanes: int = field(default=16, metadata=_within(
        1, 256, "Keys scored per cycle by each query; a power of two."))
    value_lanes: int = field(default=32, metadata=_within(
        1, 1024, "Value elements loaded and accumulated per cycle; divides ``value_dim``."))
    top_n: int = field(default=32, metadata=_within(
        1, 1 << 20, "Maximum number of keys that a command can select (n + sink + recent); at most "
                    "``capacity``."))
    weight_bits: int = field(default=16, metadata=_within(2, 24, "Bits of a softmax weight."))
    output_fraction_bits: int = field(default=8, metadata=_within(
        0, 16, "Fraction bits of an output element."))
    exp_tables: int = field(default=2, metadata=_within(
        1, 256, "Resident exp tables; scoring a GQA group in one pass takes one per head."))
    refine_lanes: int = field(default=0, metadata=_within(
        1, 1024, "Distances per cycle read by the second pass of the selection; ``lanes`` times a "
                 "power of two. The default, 0, means ``lanes``, the narrowest. A larger value "
                 "shortens the latency, but hardly the interval."))
    normalizer: str = field(default="reciprocal", metadata=_one_of(
        NORMALIZERS,
        "One of :data:`NORMALIZERS`: how sums are divided by the sum of weights; outputs are the "
        "same. ``reciprocal`` gives an output element per cycle and, for up to 16 bits of it, "
        "takes six multipliers and one block RAM. ``divider`` takes neither; it is for devices "
        "without multipliers (iCE40 HX)."))
    divider_cycles: int = field(default=1, metadata=_within(
        1, 32, "Cycles per output element of a ``divider``; divides ``value_bits + "
               "output_fraction_bits``. 1 is an unrolled divider; a larger value is smaller and "
               "slower."))
    fan_in: int = field(default=4, metadata=_within(
        2, 64, "Terms added between two registers of the XOR-popcount. Fewer terms reach a higher "
               "clock and take more cycles."))
    value_ports: int = field(default=2, metadata=_within(
        1, 2, "With 1, value vectors and their scales are in one memory that either reads or "
              "writes in a cycle, such as an iCE40 UltraPlus SPRAM. A value vector is accepted "
              "only while no command is in flight, and a query's scales are read before its "
              "values, which takes a cycle for each key."))
    selection: str = field(default="histograms", metadata=_one_of(
        SELECTIONS,
        "One of :data:`SELECTIONS`: how the nearest keys are found. ``histograms`` takes two block "
        "RAMs with two full ports (unlike iCE40's) per lane and query. ``serial`` takes one of any "
        "kind per lane and query, and counts a query's distances only when those of the one "
        "before have been added up. ``counters`` takes few block RAMs and two to three times the "
        "logic."))
    selection_block: int = field(default=0, metadata=_within(
        0, 1 << 20, "Keys per block, from which the selection ``histograms`` selects at a time; a "
                    "power of two. The keys selected from a block compete with those of the next "
                    "one. The result is the same, but the memory for selection grows with the "
                    "block, not with ``capacity``. The default, 0, selects from all keys at once."))
    cell: str | None = field(default=None, metadata=_one_of(
        (None, *CELLS),
        "One of :data:`CELLS`: the XOR-popcount to build. None selects the platform's, or the "
        "generic one without a platform. Cycles and values are the same for all."))
    rescore: Rescore | None = field(default=None, metadata={
        "part": Rescore,
        "says": "The rescoring unit; None leaves it out, and commands cannot request it."})
    memory: Memory | None = field(default=None, metadata={
        "part": Memory,
        "says": "The memory from which keys and values of all heads are read. None keeps those of "
                "one head in block RAM, into which they are loaded."})

    def __post_init__(self) -> None:
        """Check every field, and the rules between them."""
        if self.refine_lanes == 0 and type(self.refine_lanes) is int:
            object.__setattr__(self, "refine_lanes", self.lanes)
        _check_fields(self)
        if self.rescore is not None and not isinstance(self.rescore, Rescore):
            raise ConfigError(f"rescore must be a Rescore or None, not {self.rescore!r}")
        if not _is_power_of_two(self.lanes):
            raise ConfigError(f"lanes must be a power of two, not {self.lanes}")
        if self.refine_lanes % self.lanes or not _is_power_of_two(self.refine_lanes):
            raise ConfigError(f"refine_lanes must be lanes ({self.lanes}) times a power of two, "
                              f"not {self.refine_lanes}")
        if self.capacity % self.refine_lanes:
            raise ConfigError(f"capacity must be a multiple of refine_lanes ({self.refine_lanes}), "
                              f"not {self.capacity}")
        if self.value_dim % self.value_lanes:
            raise ConfigError(f"value_lanes must divide value_dim ({self.value_dim}), "
                              f"not {self.value_lanes}")
        if self.top_n > self.capacity:
            raise ConfigError(f"top_n must be at most capacity ({self.capacity}), "
                              f"not {self.top_n}")
        if self.normalizer != "divider" and self.divider_cycles != 1:
            raise ConfigError(f"divider_cycles must be 1 unless normalizer is divider, "
                              f"not {self.divider_cycles}")
        if self.output_bits % self.divider_cycles:
            raise ConfigError(f"divider_cycles must divide value_bits + output_fraction_bits "
                              f"({self.output_bits}), not {self.divider_cycles}")
        if self.selection_block:
            self._check_block()
        if self.memory is not None:
            if not isinstance(self.memory, Memory):
                raise ConfigError(f"memory must be a Memory or None, not {self.memory!r}")
            self._check_memory(self.memory)

    def _check_memory(self, memory: Memory) -> None:
        """Check that pages, codes and rows fit the bus and the address; count the pages."""
        if self.capacity % memory.page_tokens:
            raise ConfigError(f"memory.page_tokens must divide capacity ({self.capacity}), "
                              f"not {memory.page_tokens}")
        if self.value_ports != 2:
            raise ConfigError("value_ports must be 2 with memory, which has no store of values")
        if self.key_bits < 5:
            raise ConfigError(f"key_bits must be at least 5 with memory, where a code has whole "
                              f"bytes, not {self.key_bits}")
        if memory.row_ports > self.top_n:
            raise ConfigError(f"memory.row_ports must be at most top_n ({self.top_n}), "
                              f"not {memory.row_ports}")
        bus = memory.bus_bits
        code_bits = 1 << (self.key_bits - 1).bit_length()
        needed = max(bus, self.lanes * code_bits)
        if memory.page_tokens * code_bits < needed:
            raise ConfigError(f"memory.page_tokens must be at least {needed // code_bits}: the "
                              f"codes of a page hold a beat of the bus and a word of lanes, "
                              f"not {memory.page_tokens}")
        if 8 * memory.burst_bytes < self.lanes * code_bits:
            raise ConfigError(f"memory.burst_bytes must be at least "
                              f"{self.lanes * code_bits // 8}, a word of lanes, "
                              f"not {memory.burst_bytes}")
        reads = {"value_lanes * value_bits": self.value_lanes * self.value_bits}
        if self.rescore is not None:
            reads["rescore.lanes * rescore.element_bits"] = (
                self.rescore.lanes * self.rescore.element_bits)
        for name, bits in reads.items():
            if bits % bus and bus % bits:
                raise ConfigError(f"{name} must be a multiple of memory.bus_bits ({bus}), or "
                                  f"divide it, not {bits}")
        self._check_row(memory)

    def _check_row(self, memory: Memory) -> None:
        """Check that a row takes at most two bursts, and that its stride fits ``stride_bits``."""
        bus = memory.bus_bits
        key = 0 if self.rescore is None else self.rescore.head_dim * self.rescore.element_bits
        values = -(-self.value_dim * self.value_bits // SCALE_BITS) * SCALE_BITS
        beats = -(-key // bus) + -(-(values + SCALE_BITS) // bus)
        most = min(256, 8 * 4096 // bus)
        if beats > most:
            raise ConfigError(f"a row must be at most {most} beats of memory.bus_bits ({bus}) "
                              f"long, not {beats}: use a wider bus, or a smaller value_dim or "
                              f"value_bits" + (", or rescore.head_dim" if self.rescore else ""))
        unit = max(16, bus // 8)
        stride = -(-beats * bus // 8 // unit)
        if stride >= 1 << memory.stride_bits:
            raise ConfigError(f"memory.stride_bits must be at least {stride.bit_length()}, not "
                              f"{memory.stride_bits}: a row takes {stride * unit} bytes")

    def _check_block(self) -> None:
        """Check that selection can process blocks, and as fast as they are scored."""
        block = self.selection_block
        if self.selection != "histograms":
            raise ConfigError(f"selection_block needs the selection 'histograms', "
                              f"not {self.selection!r}")
        if not _is_power_of_two(block):
            raise ConfigError(f"selection_block must be a power of two, or 0, not {block}")
        if block > self.capacity:
            raise ConfigError(f"selection_block must be at most capacity ({self.capacity}), "
                              f"not {block}")
        if block < self.top_n:
            raise ConfigError(f"selection_block must be at least top_n ({self.top_n}), "
                              f"not {block}")
        if self.refine_lanes == self.lanes:
            raise ConfigError(f"refine_lanes must be at least {2 * self.lanes} (twice lanes) with "
                              f"selection_block: a block is read again, and listed, while the next "
                              f"one is scored")
        if block < 2 * self.refine_lanes:
            raise ConfigError(f"selection_block must be at least twice refine_lanes "
                              f"({self.refine_lanes}), not {block}")
        times = self.histogram_times(self.queries - 1)
        slowest, cycles = times.slowest_stage
        words = block // self.lanes
        if cycles > words:
            least = block
            while cycles > least // self.lanes:
                least *= 2
                _, cycles = dataclasses.replace(times, block=least).slowest_stage
            raise ConfigError(
                f"selection_block must be at least {least}, or 0 for no blocks: one of {block} "
                f"keys is scored in {words} cycles, but to {slowest} takes "
                f"{times.slowest_stage[1]}")

    @property
    def beats(self) -> int:
        """Beats in which a value vector is read: ``value_dim / value_lanes``."""
        return self.value_dim // self.value_lanes

    @property
    def memory_pages(self) -> int:
        """Pages of each head in memory; 0 without a memory."""
        if self.memory is None:
            return 0
        return (self.memory.pages
                or self.memory.sequences * (self.capacity // self.memory.page_tokens))

    @property
    def scale_beats(self) -> int:
        """Beats to read a vector's scale before its elements: 1 if both share one port, else 0."""
        return int(self.value_ports == 1)

    @property
    def output_bits(self) -> int:
        """Bits of an output element, two's complement."""
        return self.value_bits + self.output_fraction_bits

    @property
    def total_max(self) -> int:
        """The largest sum of weights."""
        return self.top_n * ((1 << self.weight_bits) - 1)

    @property
    def reciprocal_times(self) -> ReciprocalTimes:
        """Widths and cycles of a division by the reciprocal."""
        return ReciprocalTimes(total_bits=self.total_max.bit_length(),
                               output_bits=self.output_bits)

    @property
    def normalizer_latency(self) -> int:
        """Cycles from a sum's turn in the normalizer to its output."""
        return (self.output_bits if self.normalizer == "divider"
                else self.reciprocal_times.latency)

    @property
    def distance_max(self) -> int:
        """The largest distance by which keys may be selected."""
        shared = self.rescore is not None and self.rescore.shared
        return self.key_bits * (self.queries if shared else 1)

    @property
    def queries_per_stage(self) -> int:
        """Queries of the array that read the same key registers.

        1 if queries can share a selection, whose sums move down with the keys.
        """
        shared = self.rescore is not None and self.rescore.shared
        return 1 if shared else min(self.queries, QUERIES_PER_STAGE)

    @property
    def score_stages(self) -> int:
        """Stages of the array that a word of keys passes through."""
        return -(-self.queries // self.queries_per_stage)

    def score_latency(self, query: int = 0) -> int:
        """Cycles from requesting a word of keys to a query's distances."""
        return (KEY_STORE_LATENCY + 1 + query // self.queries_per_stage
                + tree_latency(self.key_bits, self.fan_in))

    @property
    def counter_times(self) -> CounterTimes:
        """Sizes and cycles of a query's selection by counters."""
        return CounterTimes(lanes=self.lanes, refine_lanes=self.refine_lanes, top_n=self.top_n)

    def histogram_times(self, query: int) -> HistogramTimes:
        """Sizes and cycles of selection by histograms; the last query may select for all."""
        return HistogramTimes(
            key_bits=self.distance_max if query == self.queries - 1 else self.key_bits,
            lanes=self.lanes, refine_lanes=self.refine_lanes,
            overlap=self.selection == "histograms", lead=1 + self.score_latency(query),
            block=self.selection_block, top_n=self.top_n)

    @property
    def rescore_query_slots(self) -> int:
        """Rescore queries that the core holds, for all queries of a command: a power of two."""
        return 1 << (RESCORE_QUERIES * self.queries - 1).bit_length()

    @property
    def score_max(self) -> int:
        """The largest absolute value of a score, or of minus a distance; 0 without rescoring."""
        return 0 if self.rescore is None else max(self.rescore.score_max, self.distance_max)

    @property
    def memory_bits(self) -> int:
        """Bits of the key, value and scale stores: the size by which presets are ordered."""
        rescore = 0 if self.rescore is None else self.rescore.head_dim * self.rescore.element_bits
        return self.capacity * (self.key_bits + self.value_dim * self.value_bits + SCALE_BITS
                                + rescore)

    def replace(self, **changes: Any) -> "Config":
        """Return a copy with some fields changed, checked like any other.

        ``refine_lanes`` follows ``lanes`` unless it is given.
        """
        if "lanes" in changes and "refine_lanes" not in changes:
            changes["refine_lanes"] = 0
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields with their values, in order of definition, without those that are None."""
        return {name: value for name, value in dataclasses.asdict(self).items()
                if value is not None}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Config":
        """Build a configuration from a mapping; a name that is not a field is refused."""
        for known in dataclasses.fields(cls):
            part, table = known.metadata.get("part"), fields.get(known.name)
            if part is not None and isinstance(table, dict):
                fields = {**fields,
                          known.name: _from_table(part, table, known.name, f"{known.name}.")}
        config: Config = _from_table(cls, fields, "a configuration")
        return config

    @staticmethod
    def leaf_metadata() -> dict[str, Mapping[str, Any]]:
        """Metadata of each field by name, in order of definition.

        The fields of a part take its place: ``rescore.head_dim``, ...
        """
        return _leaves(Config)

    def to_numbers(self) -> dict[str, int]:
        """Each field of :meth:`leaf_metadata` as a number.

        An integer stands for itself, and any other value becomes its place among the choices.
        Fields of a part that is left out are 0.
        """
        found = {}
        for name, known in self.leaf_metadata().items():
            *part, last = name.split(".")
            owner = getattr(self, part[0]) if part else self
            found[name] = 0 if owner is None else _number(getattr(owner, last), known)
        return found

    @classmethod
    def from_numbers(cls, numbers: Mapping[str, int]) -> "Config":
        """Build a configuration from the result of :meth:`to_numbers`."""
        fields: dict[str, Any] = {}
        for known in dataclasses.fields(cls):
            part = known.metadata.get("part")
            if part is None:
                fields[known.name] = _value(known.name, numbers[known.name], known.metadata)
                continue
            inner = _leaves(part, f"{known.name}.")
            if any(numbers[name] for name in inner):
                fields[known.name] = part(**{
                    name.partition(".")[2]: _value(name, numbers[name], metadata)
                    for name, metadata in inner.items()})
        return cls(**fields)

    def to_toml(self) -> str:
        """The configuration as TOML text."""
        return tomli_w.dumps(self.to_dict())

    @classmethod
    def from_toml(cls, text: str) -> "Config":
        """Build a configuration from TOML text."""
        try:
            fields = tomllib.loads(text)
        except RecursionError:
            raise ConfigError("not TOML: nested too deeply") from None
        except ValueError as error:
            # TOMLDecodeError, and Python's error for numbers with thousands of digits.
            raise ConfigError(f"not TOML: {error}") from None
        return cls.from_dict(fields)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Config":
        """Read a TOML file; :class:`ConfigError` names the file and what is wrong with it."""
        try:
            with Path(path).open("rb") as stream:
                octets = stream.read(_LARGEST_FILE + 1)
            if len(octets) > _LARGEST_FILE:
                raise ConfigError("too large for a configuration file")
            # Some editors put a byte order mark before the text.
            return cls.from_toml(octets.decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: not a text file") from None
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from None
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def preset(cls, name: str) -> "Config":
        """Look up a preset by name; :class:`ConfigError` if there is none.

        Examples
        --------
        >>> from nearbit_model.config import Config
        >>> Config.preset("reference").replace(lanes=8, refine_lanes=8).lanes
        8
        """
        known = {**PRESETS, **MEMORY_PRESETS}
        try:
            return known[name]
        except KeyError:
            raise ConfigError(f"unknown preset {name!r}; the presets are "
                              f"{', '.join(known)}") from None


_document(Config)


# From 32 lanes on, the stores leave too little block RAM for histograms (docs/decisions/0010).
PRESETS: MappingProxyType[str, Config] = MappingProxyType({
    # For tests: every dimension small, several queries.
    "tiny": Config(key_bits=8, value_dim=8, capacity=64, queries=2, lanes=4, value_lanes=4,
                   top_n=16),
    # Sentence encoders with 32-element heads (all-MiniLM-L6-v2).
    "head32": Config(key_bits=32, value_dim=32, capacity=512, lanes=8, value_lanes=16, top_n=64),
    # The workload usually quoted in the field: 1,024 keys of 64 bits, 64 values, top 32.
    "reference": Config(key_bits=64, value_dim=64, capacity=1024, lanes=16, value_lanes=32,
                        top_n=32, refine_lanes=32),
    # The same in a quarter of the logic, for small FPGAs such as an iCE40 UP5K.
    "icebreaker": Config(key_bits=64, value_dim=64, capacity=1024, lanes=4, value_lanes=8,
                         top_n=32, refine_lanes=16, normalizer="divider", divider_cycles=4,
                         selection="counters"),
    # Decoders with 64-element heads, a wider choice of N, and sinks.
    "head64": Config(key_bits=64, value_dim=64, capacity=4096, lanes=32, value_lanes=64,
                     top_n=256, selection="counters"),
    # A GQA group of three query heads on one key head (SmolLM2), in one pass over the keys.
    "gqa3": Config(key_bits=64, value_dim=64, capacity=4096, queries=3, lanes=32, value_lanes=64,
                   top_n=256, exp_tables=3, selection="counters"),
    # HashAttention on decoders with 64-element heads; up to all keys can be selected and rescored.
    "hash64": Config(key_bits=64, value_dim=64, capacity=4096, lanes=32, value_lanes=64,
                     top_n=4096, selection="counters",
                     rescore=Rescore(head_dim=64, lanes=64, element_bits=12)),
    # The same for a GQA group of three, each head for itself or all with one selection.
    "hash64gqa3": Config(key_bits=64, value_dim=64, capacity=4096, queries=3, lanes=32,
                         value_lanes=64, top_n=4096, selection="counters",
                         rescore=Rescore(head_dim=64, lanes=64, element_bits=12, shared=True)),
    # Decoders with 128-element heads.
    "head128": Config(key_bits=128, value_dim=128, capacity=8192, lanes=32, value_lanes=64,
                      top_n=256, selection="counters"),
    # HashAttention as published: heads of 128 elements ranked by learned codes of 32 bits.
    "hash128": Config(key_bits=32, value_dim=128, capacity=8192, lanes=64, value_lanes=128,
                      top_n=8192, selection="counters",
                      rescore=Rescore(head_dim=128, lanes=128, element_bits=12)),
    # Long contexts; larger than any board, for simulation.
    "long": Config(key_bits=64, value_dim=64, capacity=65536, lanes=64, value_lanes=64,
                   top_n=2048, selection="counters"),
})
"""Named configurations without a memory, smallest first."""


MEMORY_PRESETS: MappingProxyType[str, Config] = MappingProxyType({
    # SmolLM2: 64-element heads in groups of three queries, one key per cycle from a 64-bit bus.
    "memory64": Config(
        key_bits=64, value_dim=64, capacity=8192, queries=3, lanes=1, value_lanes=8, top_n=128,
        exp_tables=3, refine_lanes=2, selection_block=512, memory=Memory(heads=128)),
    # HashAttention on heads of 128 elements, 32 layers of 8 key heads, each of four query heads.
    "memory256": Config(
        key_bits=32, value_dim=128, capacity=32768, queries=4, lanes=4, value_lanes=32, top_n=128,
        exp_tables=4, refine_lanes=8, selection_block=2048,
        rescore=Rescore(head_dim=128, lanes=64, element_bits=12, shared=True),
        memory=Memory(heads=256, bus_bits=256, burst_bytes=1024)),
    # The same with longer contexts, in more memory than 32-bit addresses reach.
    "memory512": Config(
        key_bits=32, value_dim=128, capacity=65536, queries=4, lanes=8, value_lanes=64, top_n=128,
        exp_tables=4, refine_lanes=16, selection_block=4096,
        rescore=Rescore(head_dim=128, lanes=128, element_bits=12, shared=True),
        memory=Memory(heads=256, bus_bits=512, burst_bytes=2048, address_bits=40)),
})
"""Named configurations whose cache is in a memory, by the width of their bus."""


def fitting_preset(head_dim: int, value_dim: int, tokens: int, top_n: int, *,
                   key_bits: int | None = None, rescore: bool = False,
                   shared: int = 0) -> str | None:
    """Name the smallest preset for heads of these sizes, or None if there is none.

    Parameters
    ----------
    head_dim
        Elements of a query and of a key.
    value_dim
        Elements of a value vector; a preset's must equal it.
    tokens
        Keys to hold, at most ``capacity``.
    top_n
        Keys to select (n + sink + recent), at most a preset's ``top_n``.
    key_bits
        Bits of a code; None is ``head_dim``. A preset's must equal it.
    rescore
        Whether the preset must have rescoring of ``head_dim`` elements; otherwise it must have
        none.
    shared
        If not 0, the number of heads that must be able to share a selection; the preset's
        ``queries`` must equal it.
    """
    bits = head_dim if key_bits is None else key_bits
    for name, config in PRESETS.items():
        unit = config.rescore
        if (config.memory is None and config.key_bits == bits and config.value_dim == value_dim
                and tokens <= config.capacity and top_n <= config.top_n
                and (unit is not None and unit.head_dim == head_dim if rescore else unit is None)
                and (not shared or (unit is not None and unit.shared
                                    and config.queries == shared))):
            return name
    return None
