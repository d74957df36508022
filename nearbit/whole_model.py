"""All heads of a running model by the compiled hardware, from one memory, checked at every step."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearbit_model.attention import Attention
from nearbit_model.comparison import differing
from nearbit_model.config import Config
from nearbit_model.memory import MemoryImage, plan_memory
from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.prepare import Prepared
from nearbit_model.quantize import Values
from nearbit_model.transfers import Placement, Plan, Program
from nearbit_sim.simulation import core_engine


__all__ = ["WholeModel"]


_SEQUENCE = 0
_DENSE_BYTES = 2


class WholeModel:
    """A core and its memory for all heads (:class:`nearbit_nets.decoding.CacheWitness`).

    The memory has the caches of all heads of all layers, and each of a layer's heads is asked for
    its newest query in one run of the core, which begins with its tables. Every answer is compared
    with the golden model's.

    Parameters
    ----------
    config
        A configuration with a memory that has room for all heads.
    layers
        Layers.
    key_heads
        Heads of a layer that have a cache of their own.
    timing
        When the memory answers; the order of its pages, and the noise that is in it at first,
        follow from its seed.

    Raises
    ------
    LayoutError
        A memory without room for all heads.
    SimulationError
        A missing compiler.
    """

    def __init__(self, config: Config, layers: int, key_heads: int, *,
                 timing: MemoryTiming | None = None) -> None:
        """Build the hardware, which takes minutes the first time."""
        if config.memory is None:
            raise ValueError("config must have a memory")
        self.timing = timing or MemoryTiming()
        self.config = config
        self._layers = layers
        self._key_heads = key_heads
        self._tokens = np.zeros(layers, np.int64)
        plan = plan_memory(config, heads=layers * key_heads)
        rng = np.random.default_rng(self.timing.seed)
        self.image = MemoryImage(plan, np.frombuffer(rng.bytes(plan.size), np.uint8).copy())
        """The memory's bytes."""
        self._pages = rng.permutation(config.memory_pages)[
            :config.capacity // config.memory.page_tokens]
        self._tables = {"i_head": plan.head_entries(),
                        "i_page": plan.page_entries(_SEQUENCE, self._pages.tolist())}
        self._engine = core_engine(config)
        # A run without transfers compiles what is not in the cache.
        self._engine.run(Program(self._engine.ports))
        self.asked = 0
        """Runs so far: one for each layer of each token."""
        self.answers = 0
        """Queries answered so far."""
        self.differing = 0
        """Of them, those of which any bit was not the golden model's, and errors."""
        self.cycles = 0
        """Cycles of all runs, each from what is first sent after the tables to its last beat."""
        self.keys_seen = 0
        """Keys that the queries of each key head saw, over all runs and key heads."""
        self.beats: dict[str, int] = {}
        """Beats that were read, by the name of the bus."""

    @property
    def tokens(self) -> float:
        """Tokens whose heads were all computed."""
        return self.asked / self._layers

    @property
    def beat_bytes(self) -> int:
        """Bytes of a beat of each bus."""
        assert self.config.memory is not None
        return self.config.memory.bus_bits // 8

    @property
    def bytes_read(self) -> int:
        """Bytes of all beats that were read."""
        return sum(self.beats.values()) * self.beat_bytes

    @property
    def shares(self) -> dict[str, float]:
        """By the name of each bus that is read, the share of the cycles that had a beat."""
        return {name: beats / self.cycles for name, beats in self.beats.items()}

    @property
    def most_bytes(self) -> float:
        """Bytes a cycle that the buses to be read bring together, at most."""
        pace = self.timing.pace
        each = len(self.beats)
        return self.beat_bytes * (min(pace, each) if self.timing.shared_pace else pace * each)

    def dense_bytes(self, kv_heads: int, dim: int) -> int:
        """Bytes of the keys and values in 16 bits that exact attention would have read.

        Of all keys that a query sees, once for all query heads that share them; ``kv_heads`` is the
        number of key heads of the model, and ``dim`` elements of a key and its value.
        """
        return self.keys_seen * kv_heads // self._key_heads * dim * _DENSE_BYTES

    def append(self, layer: int, first: int, k_codes: NDArray[np.uint64], values: Values,
               rescore_keys: NDArray[Any] | None) -> None:
        """Write tokens of a layer to memory."""
        count, unit = k_codes.shape[1], self.config.rescore
        for row in range(self._key_heads):
            keys = None if rescore_keys is None else rescore_keys[row]
            if keys is None and unit is not None:
                # Rows have a place for them, which no command asks for.
                keys = np.zeros((count, unit.head_dim), np.int16)
            self.image.write(layer * self._key_heads + row, self._pages, first, k_codes[row],
                             values.elements[row], values.scales[row], keys)
        self._tokens[layer] = first + count

    def ask(self, layer: int, asked: Prepared, golden: Attention) -> NDArray[np.int32]:
        """Ask the core, and compare: outputs, selected keys, distances, weights, scores."""
        tables = {**self._tables, "i_tokens": {"sequence": np.array([_SEQUENCE]),
                                               "tokens": self._tokens[layer:layer + 1]}}
        plan = Plan(asked, placement=Placement(
            self.image.octets, tables, [], _SEQUENCE, layer * self._key_heads))
        outcome = self._engine.run(plan.program, patience=plan.patience + self.timing.latest,
                                   timing=self.timing)
        found = plan.read(outcome)
        self.asked += 1
        self.answers += found.errors.size
        wrong = [found.errors != 0, *(elements.any(axis=2)
                                      for elements in differing(found, golden).values())]
        self.differing += int(np.any(wrong, axis=0).sum())
        # The tables are the first phase.
        began = min(int(cycles[0]) for phase in outcome.accepted[1:] for cycles in phase.values())
        self.cycles += outcome.cycles - began
        self.keys_seen += int(asked.counts.sum()) * self._key_heads
        for bus in outcome.traffic:
            if bus.is_read:
                self.beats[bus.name] = self.beats.get(bus.name, 0) + bus.beats
        return found.output_int
