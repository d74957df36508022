"""The cache of one head in block RAM, loaded over the core's streams."""

from typing import Any

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring

from nearbit_hw.attend.rescore_key_store import RescoreKeyStore
from nearbit_hw.attend.rescorer import Rescorer
from nearbit_hw.attend.softmax import Softmax
from nearbit_hw.attend.value_accumulator import ValueAccumulator
from nearbit_hw.attend.value_store import ValueStore
from nearbit_hw.dispatcher import Dispatcher
from nearbit_hw.score.key_store import KeyStore
from nearbit_hw.score.score_array import ScoreArray
from nearbit_hw.select.query_merge import QueryMerge
from nearbit_model.config import SCALE_BITS, Config, Rescore


__all__ = ["ResidentCache"]


def _registered(m: Module, port: Any) -> Any:
    """Return a stream whose transfers reach an always ready port one cycle later."""
    early = port.signature.create()
    payload = Signal.like(early.payload, reset_less=True)
    m.d.sync += [port.valid.eq(early.valid), payload.eq(early.payload)]
    m.d.comb += port.payload.eq(payload)
    return early


class ResidentCache:
    """Stores of a core without a memory, added to the core's module, and the logic to load them.

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
        self._core = core
        self._config = config
        m.submodules.key_store = self._key_store = KeyStore(
            capacity=config.capacity, lanes=config.lanes, key_bits=config.key_bits)
        m.submodules.value_store = self._value_store = ValueStore(
            capacity=config.capacity, value_dim=config.value_dim,
            value_lanes=config.value_lanes, value_bits=config.value_bits, scale_bits=SCALE_BITS,
            single_port=config.value_ports == 1)

    @property
    def key_latency(self) -> int:
        """Cycles from requesting a word of keys to its codes."""
        return self._key_store.latency

    def command(self, m: Module, dispatcher: Dispatcher) -> None:
        """Connect commands to the dispatcher."""
        command = self._core.i_command
        m.d.comb += [
            dispatcher.i.valid.eq(command.valid),
            dispatcher.i.payload.eq(command.payload),
            command.ready.eq(dispatcher.i.ready),
        ]

    def score(self, m: Module, dispatcher: Dispatcher, score_array: ScoreArray) -> None:
        """Connect words of keys, and the codes to compare them with, to the array."""
        wiring.connect(m, dispatcher.o_words, self._key_store.i)
        wiring.connect(m, dispatcher.o_queries, score_array.i_queries)
        wiring.connect(m, self._key_store.o, score_array.i)

    def wait(self, m: Module, keys: stream.Interface, query: int) -> stream.Interface:
        """Return a query's selected keys, which need no further buffering here."""
        return keys

    def select(self, m: Module, query_merge: QueryMerge) -> stream.Interface:
        """Return the selected keys."""
        return query_merge.o

    def add_rescore_keys(self, m: Module, unit: Rescore) -> None:
        """Add the store of rescore keys."""
        m.submodules.rescore_key_store = self._rescore_key_store = RescoreKeyStore(
            capacity=self._config.capacity, head_dim=unit.head_dim, lanes=unit.lanes,
            element_bits=unit.element_bits)

    def rescore(self, m: Module, rescorer: Rescorer) -> None:
        """Connect rescore keys to the rescorer."""
        wiring.connect(m, rescorer.o_request, self._rescore_key_store.i)
        wiring.connect(m, self._rescore_key_store.o, rescorer.i_beat)

    def load_rescore_keys(self, m: Module, unit: Rescore, dispatcher: Dispatcher,
                          idle: Signal) -> None:
        """Load rescore keys, and tell the dispatcher how many of them commands may use."""
        config, core = self._config, self._core
        rescore_loaded = Signal(range(config.capacity + 1))
        new_rescore_key = Signal()
        exact_write = _registered(m, self._rescore_key_store.i_write)
        m.d.comb += [
            new_rescore_key.eq(core.i_rescore_key.p.token >= rescore_loaded),
            core.i_rescore_key.ready.eq(idle | new_rescore_key),
            exact_write.valid.eq(core.i_rescore_key.valid & core.i_rescore_key.ready),
            exact_write.payload.eq(core.i_rescore_key.payload),
            dispatcher.rescore_loaded.eq(rescore_loaded),
        ]
        with m.If(exact_write.valid & new_rescore_key
                  & (core.i_rescore_key.p.beat == unit.beats - 1)):
            m.d.sync += rescore_loaded.eq(core.i_rescore_key.p.token + 1)

    def attend(self, m: Module, softmax: Softmax, accumulator: ValueAccumulator) -> None:
        """Connect values to the accumulator."""
        wiring.connect(m, accumulator.o_request, self._value_store.i)
        wiring.connect(m, self._value_store.o, accumulator.i_beat)

    def load(self, m: Module, idle: Signal) -> None:
        """Load keys and values: new ones while commands run, others only when the core is idle."""
        config, core = self._config, self._core
        keys_loaded = Signal(range(config.capacity + 1))
        values_loaded = Signal(range(config.capacity + 1))
        self._keys_loaded, self._values_loaded = keys_loaded, values_loaded
        new_key, new_value = Signal(), Signal()
        key_write: Any = self._key_store.i_write
        value_write: Any = self._value_store.i_write
        if config.value_ports > 1:
            # No command reads a new token so soon.
            key_write, value_write = (_registered(m, port) for port in (key_write, value_write))
            value_ready = idle | (new_value & (config.value_ports > 1))
            value_valid = core.i_value.valid & core.i_value.ready
            value_taken = value_write.valid
        else:
            # Single-port memories are for small devices, where no wire is long. The store takes two
            # cycles for some beats.
            value_ready = idle & value_write.ready
            value_valid = core.i_value.valid & idle
            value_taken = value_write.valid & value_write.ready
        m.d.comb += [
            new_key.eq(core.i_key.p.token >= keys_loaded),
            core.i_key.ready.eq(idle | new_key),
            key_write.valid.eq(core.i_key.valid & core.i_key.ready),
            key_write.payload.eq(core.i_key.payload),
            new_value.eq(core.i_value.p.token >= values_loaded),
            core.i_value.ready.eq(value_ready),
            value_write.valid.eq(value_valid),
            value_write.payload.eq(core.i_value.payload),
        ]
        self._loads_key = key_write.valid & new_key
        self._loads_value = value_taken & new_value

    def count(self, m: Module, dispatcher: Dispatcher) -> None:
        """Tell the dispatcher how many tokens commands may use."""
        config, core = self._config, self._core
        keys_loaded, values_loaded = self._keys_loaded, self._values_loaded
        # Commands are checked against the smaller count, so which one that is is kept in a
        # register. It is computed from the counts before a load, not from those after it.
        values_ahead = Signal()
        key_row, value_row = core.i_key.p.token, core.i_value.p.token
        next_key, next_value = Signal(), Signal()
        m.d.comb += [
            next_key.eq(self._loads_key),
            next_value.eq(self._loads_value & (core.i_value.p.beat == config.beats - 1)),
        ]
        with m.If(next_key):
            m.d.sync += [keys_loaded.eq(key_row + 1), values_ahead.eq(key_row < values_loaded)]
        with m.If(next_value):
            m.d.sync += [values_loaded.eq(value_row + 1), values_ahead.eq(keys_loaded <= value_row)]
        with m.If(next_key & next_value):
            m.d.sync += values_ahead.eq(key_row <= value_row)
        m.d.comb += dispatcher.loaded.eq(Mux(values_ahead, keys_loaded, values_loaded))
