"""The cache of all heads in a memory, as the core sees it."""

from dataclasses import dataclass
from typing import Any

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from nearbit_hw.layouts import CacheError
from nearbit_hw.memory.appender import Appender, append_layout, appended_layout
from nearbit_hw.memory.axi import ReadSignature, WriteSignature
from nearbit_hw.memory.block_fifo import BlockFifo
from nearbit_hw.memory.cache_map import cache_map
from nearbit_hw.memory.code_fetcher import CodeFetcher
from nearbit_hw.memory.code_gate import CodeGate
from nearbit_hw.memory.command_place import CommandPlace
from nearbit_hw.memory.read_merge import ReadMerge
from nearbit_hw.memory.row_buffer import RowBuffer, RowTail
from nearbit_hw.memory.row_fetcher import RowFetcher
from nearbit_hw.memory.row_gather import RowGather
from nearbit_hw.memory.row_reader import RowReader
from nearbit_hw.memory.tables import PlaceTable
from nearbit_hw.stream_fifo import StreamFifo, queue, register
from nearbit_model.config import SCALE_BITS, Config, Memory, Rescore
from nearbit_model.structure import COMMANDS_IN_FLIGHT, RESULTS_IN_FLIGHT


__all__ = ["MemoryCache", "RowFields", "cache_members"]


def _memory(config: Config) -> Memory:
    if config.memory is None:
        raise ValueError("the configuration has no memory")
    return config.memory


@dataclass(frozen=True)
class RowFields:
    """Where the fields of a row are: the rescore key, the values, and their scale (docs/memory.md).

    Attributes
    ----------
    value_beat
        Beat of the bus with which the values begin.
    scale_bit
        Bit of the row with which the scale begins, a multiple of its bits.
    beats
        Beats of a row.
    """

    value_beat: int
    scale_bit: int
    beats: int

    @classmethod
    def of(cls, config: Config) -> "RowFields":
        """Give those of a configuration with a memory."""
        unit, bus = config.rescore, _memory(config).bus_bits
        key_bits = 0 if unit is None else unit.head_dim * unit.element_bits
        value_beat = -(-key_bits // bus)
        values_end = value_beat * bus + config.value_dim * config.value_bits
        scale_bit = -(-values_end // SCALE_BITS) * SCALE_BITS
        return cls(value_beat=value_beat, scale_bit=scale_bit,
                   beats=-(-(scale_bit + SCALE_BITS) // bus))


def cache_members(config: Config) -> dict[str, wiring.Member]:
    """Members of a core with a memory: its tables, tokens that it appends, and the buses."""
    sizes, memory = cache_map(config), _memory(config)
    bus = {"address_bits": memory.address_bits, "data_bits": memory.bus_bits}
    row_ids = memory.row_id_bits
    return {
        "i_head": In(stream.Signature(sizes.head_write_layout)),
        "i_page": In(stream.Signature(sizes.page_write_layout)),
        "i_tokens": In(stream.Signature(sizes.tokens_layout)),
        "i_append": In(stream.Signature(append_layout(sizes, key_bits=config.key_bits))),
        "i_row": In(stream.Signature(memory.bus_bits)),
        "o_append": Out(stream.Signature(appended_layout())),
        "timeout": In(memory.timeout_bits),
        # On one bus, the highest bit of an ID says whether it is of a row.
        "axi_codes": Out(ReadSignature(**bus, id_bits=row_ids + 1 if memory.one_bus else 0)),
        **({} if memory.one_bus else {
            "axi_rows": Out(ReadSignature(**bus, id_bits=row_ids)).array(memory.row_ports)}),
        "axi_append": Out(WriteSignature(**bus)),
    }


class MemoryCache:
    """What a core with a memory has instead of stores, within its module.

    The counterpart of :class:`nearbit_hw.resident_cache.ResidentCache`.

    Parameters
    ----------
    m
        The core's module.
    core
        The core.
    config
        Its configuration.
    """

    def __init__(self, m: Module, core: Any, config: Config):
        self._core, self._config = core, config
        self._sizes = sizes = cache_map(config)
        self._fields = fields = RowFields.of(config)
        memory = _memory(config)
        given: dict[str, Any] = {"timeout_bits": memory.timeout_bits}
        m.submodules.places = self._places = PlaceTable(sizes, readers=4)
        m.submodules.command_place = self._command_place = CommandPlace(
            sizes, core.i_command.payload.shape())
        m.submodules.code_fetcher = self._code_fetcher = CodeFetcher(
            sizes, key_bits=config.key_bits, lanes=config.lanes, depth=memory.queue_beats,
            outstanding=memory.outstanding, **given)
        m.submodules.code_gate = self._code_gate = CodeGate(
            capacity=config.capacity, lanes=config.lanes, key_bits=config.key_bits)
        m.submodules.row_fetcher = self._row_fetcher = RowFetcher(
            sizes, top_n=config.top_n, row_beats=fields.beats, ports=memory.row_ports,
            id_bits=memory.row_id_bits, **given)
        m.submodules.appender = self._appender = Appender(
            sizes, key_bits=config.key_bits, row_beats=fields.beats, **given)
        m.submodules.row_gather = self._row_gather = RowGather(
            sizes, distance_max=config.distance_max, rescore=config.rescore is not None,
            shared=config.rescore is not None and config.rescore.shared,
            readers=1 if config.rescore is None else 2)

        for part in (self._code_fetcher, self._row_fetcher, self._appender):
            m.d.comb += part.timeout.eq(core.timeout)
        readers: list[Any] = [self._command_place, self._code_fetcher, self._row_fetcher,
                              self._appender]
        for number, reader in enumerate(readers):
            wiring.connect(m, reader.o_lookup, self._places.i[number])
            wiring.connect(m, self._places.o[number], reader.i_lookup)
        self._connect_buses(m, memory)

    def _connect_buses(self, m: Module, memory: Memory) -> None:
        core = self._core
        wiring.connect(m, self._appender.axi, wiring.flipped(core.axi_append))
        if not memory.one_bus:
            wiring.connect(m, self._code_fetcher.axi, wiring.flipped(core.axi_codes))
            for port, outer in zip(self._row_fetcher.axi, core.axi_rows, strict=True):
                wiring.connect(m, port, wiring.flipped(outer))
            return
        merge: Any = ReadMerge(
            address_bits=memory.address_bits, data_bits=memory.bus_bits,
            id_bits=(0, memory.row_id_bits))
        m.submodules.read_merge = merge
        for port, inner in ((self._code_fetcher.axi, merge.i_0),
                            (self._row_fetcher.axi[0], merge.i_1)):
            wiring.connect(m, port, inner)
        wiring.connect(m, merge.o, wiring.flipped(core.axi_codes))

    @property
    def key_latency(self) -> int:
        """Cycles from asking for a word of keys to its codes, if they have come."""
        return self._code_gate.latency

    def command(self, m: Module, dispatcher: Any) -> None:
        """Give commands to the dispatcher, with what is in the tables."""
        place = self._command_place
        wiring.connect(m, wiring.flipped(self._core.i_command), place.i)
        wiring.connect(m, place.o, dispatcher.i)
        m.d.comb += [dispatcher.loaded.eq(place.tokens), dispatcher.lookup.eq(place.error)]

    def score(self, m: Module, dispatcher: Any, score_array: Any) -> None:
        """Give words of keys to the array, and to it the codes to compare them with."""
        gate = self._code_gate
        wiring.connect(m, dispatcher.o_range, self._code_fetcher.i)
        wiring.connect(m, dispatcher.o_words, gate.i)
        wiring.connect(m, self._code_fetcher.o, gate.i_word)
        wiring.connect(m, dispatcher.o_queries, score_array.i_queries)
        wiring.connect(m, gate.o, score_array.i)
        m.submodules.code_outcomes = self._code_outcomes = StreamFifo(
            gate.o_outcome.payload.shape(), depth=COMMANDS_IN_FLIGHT + RESULTS_IN_FLIGHT)
        queue(m, gate.o_outcome, self._code_outcomes.i)

    def wait(self, m: Module, keys: stream.Interface, query: int) -> stream.Interface:
        """Give a query's selected keys, which wait for the rows of those of other queries.

        Meanwhile the selection is free for the next command.
        """
        return self._queue(m, keys, f"selected_{query}")

    def _queue(self, m: Module, keys: stream.Interface, name: str) -> stream.Interface:
        """Add a queue for a whole selection."""
        found: Any = BlockFifo(keys.payload.shape(), depth=1 << ceil_log2(self._config.top_n))
        m.submodules[name] = found
        wiring.connect(m, keys, found.i)
        queued: stream.Interface = found.o
        return queued

    def select(self, m: Module, query_merge: Any) -> stream.Interface:
        """Have the rows of selected keys read; give the keys.

        Those to be rescored may wait for their rows, while later ones are asked for.
        """
        gather, fetcher = self._row_gather, self._row_fetcher
        wiring.connect(m, query_merge.o, gather.i)
        wiring.connect(m, gather.o_selection, fetcher.i_selection)
        register(m, gather.o_token, fetcher.i, "token")
        if self._config.rescore is None:
            keys: stream.Interface = gather.o
            return keys
        return self._queue(m, gather.o, "gathered")

    def add_rescore_keys(self, m: Module, unit: Rescore) -> None:
        """Add a buffer for the keys of rows, and its reader."""
        self._key_buffer, self._key_reader = self._read(
            m, "key", first=0, beats=unit.beats, beat_bits=unit.lanes * unit.element_bits,
            row_major=True, releases=False)

    def rescore(self, m: Module, rescorer: Any) -> None:
        """Give keys to the rescorer."""
        reader = self._key_reader
        m.d.comb += [
            reader.i.valid.eq(rescorer.o_request.valid),
            reader.i.p.beat.eq(rescorer.o_request.p.beat),
            reader.i.p.last.eq(rescorer.i.p.last),
            rescorer.o_request.ready.eq(reader.i.ready),
            rescorer.i_beat.valid.eq(reader.o.valid),
            Value.cast(rescorer.i_beat.payload).eq(reader.o.p.data),
            reader.o.ready.eq(rescorer.i_beat.ready),
        ]
        wiring.connect(m, self._row_gather.o_use[1], reader.i_use)

    def attend(self, m: Module, softmax: Any, accumulator: Any) -> None:
        """Give values to the accumulator."""
        config, fields = self._config, self._fields
        bus = self._sizes.data_bits
        buffer, reader = self._read(
            m, "value", first=fields.value_beat, beats=config.beats,
            beat_bits=config.value_lanes * config.value_bits,
            tail=RowTail(fields.scale_bit // bus, fields.scale_bit % bus, SCALE_BITS))
        m.d.comb += [
            reader.i.valid.eq(accumulator.o_request.valid),
            reader.i.p.beat.eq(accumulator.o_request.p.beat),
            # The accumulator asks in the cycle in which it is given the key.
            reader.i.p.last.eq(softmax.o.p.last),
            accumulator.o_request.ready.eq(reader.i.ready),
            accumulator.i_beat.valid.eq(reader.o.valid),
            Value.cast(accumulator.i_beat.p.elements).eq(reader.o.p.data),
            accumulator.i_beat.p.scale.eq(reader.o.p.tail),
            reader.o.ready.eq(accumulator.i_beat.ready),
        ]
        wiring.connect(m, self._row_gather.o_use[0], reader.i_use)
        m.submodules.row_outcomes = self._row_outcomes = StreamFifo(
            reader.o_outcome.payload.shape(), depth=RESULTS_IN_FLIGHT)
        queue(m, reader.o_outcome, self._row_outcomes.i)

        # All buffers have the same sets.
        buffers = [buffer] if config.rescore is None else [buffer, self._key_buffer]
        m.d.comb += [
            self._row_fetcher.i_set.valid.eq(buffer.o_set.valid),
            self._row_fetcher.i_set.payload.eq(buffer.o_set.payload),
            *(each.o_set.ready.eq(self._row_fetcher.i_set.ready) for each in buffers),
            *(each.i_release.valid.eq(reader.o_release.valid) for each in buffers),
            *(each.i_release.payload.eq(reader.o_release.payload) for each in buffers),
        ]

    def _read(self, m: Module, name: str, *, first: int, beats: int, beat_bits: int,
              tail: RowTail | None = None, **options: Any) -> tuple[RowBuffer, RowReader]:
        """Add the buffer of a field of the rows, and its reader."""
        config, bus = self._config, self._sizes.data_bits
        word_beats = max(1, beat_bits // bus)
        kept = -(-beats * beat_bits // bus)
        buffer = RowBuffer(
            top_n=config.top_n, row_beats=self._fields.beats, data_bits=bus,
            ports=_memory(config).row_ports, kept=range(first, first + kept),
            word_beats=word_beats, tail=tail)
        reader = RowReader(
            top_n=config.top_n, beats=beats, beat_bits=beat_bits, word_bits=word_beats * bus,
            tail_bits=0 if tail is None else tail.bits, **options)
        m.submodules[f"{name}_buffer"] = buffer
        m.submodules[f"{name}_reader"] = reader
        for number in range(self._row_fetcher.ports):
            source, arrived = self._row_fetcher.o[number], self._row_fetcher.o_arrived[number]
            for port, target in ((source, buffer.i_write[number]),
                                 (arrived, buffer.i_arrived[number])):
                m.d.comb += [target.valid.eq(port.valid), target.payload.eq(port.payload)]
        wiring.connect(m, reader.o_request, buffer.i)
        wiring.connect(m, buffer.o, reader.i_word)
        return buffer, reader

    def load_rescore_keys(self, m: Module, unit: Rescore, dispatcher: Any, idle: Signal) -> None:
        """They are in the rows, and need no loading."""

    def count(self, m: Module, dispatcher: Any) -> None:
        """How many tokens there are is looked up with each command."""

    def load(self, m: Module, idle: Signal) -> None:
        """Set the tables, and append tokens."""
        core, appender, places = self._core, self._appender, self._places
        wiring.connect(m, wiring.flipped(core.i_head), places.i_head)
        wiring.connect(m, wiring.flipped(core.i_page), places.i_page)
        wiring.connect(m, wiring.flipped(core.i_append), appender.i)
        wiring.connect(m, wiring.flipped(core.i_row), appender.i_row)
        wiring.connect(m, appender.o, wiring.flipped(core.o_append))
        # What is appended goes before what is set.
        counts = places.i_tokens
        m.d.comb += [
            counts.valid.eq(appender.o_tokens.valid | core.i_tokens.valid),
            counts.payload.eq(Mux(appender.o_tokens.valid, appender.o_tokens.payload,
                                  core.i_tokens.payload)),
            appender.o_tokens.ready.eq(counts.ready),
            core.i_tokens.ready.eq(counts.ready & ~appender.o_tokens.valid),
        ]

    def outcome(self, m: Module, result: data.View, takes: Value) -> tuple[Value, Value, Value]:
        """Tell whether keys and rows of a result could be read.

        Gives whether it is known, whether they could not, and the error. It is done with when the
        result is taken.
        """
        codes, rows = self._code_outcomes.o, self._row_outcomes.o
        m.d.comb += [rows.ready.eq(takes), codes.ready.eq(takes & result.final_good)]
        broken = codes.p.failed | rows.p.failed
        code = Mux(codes.p.failed, CacheError.CODES,
                   Mux(rows.p.failed, CacheError.ROWS, CacheError.OK))
        return rows.valid, broken, code
