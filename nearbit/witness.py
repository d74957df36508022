"""One head of a running model by the compiled hardware, checked at every step."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearbit_boards.device import Device
from nearbit_boards.simulated import SimulatedTransport
from nearbit_model.attention import Attention
from nearbit_model.comparison import differing
from nearbit_model.config import Config
from nearbit_model.prepare import Prepared


__all__ = ["HardwareHead"]


class HardwareHead:
    """A device of one head of one layer (:class:`nearbit_nets.decoding.Witness`).

    It is the design of a board's core and host link, compiled, and keeps what was appended to it,
    as a board does. Every answer is compared with the golden model's.

    Parameters
    ----------
    config
        The accelerator.
    layer, head
        Which head it computes.

    Raises
    ------
    SimulationError
        A missing compiler.
    """

    def __init__(self, config: Config, layer: int, head: int) -> None:
        """Build the device, which takes minutes the first time."""
        self._transport = SimulatedTransport(config)
        self._device = Device.open(self._transport, config=config)
        self.layer = layer
        self.head = head
        self._is_loaded = False
        self.answers = 0
        """Queries answered so far."""
        self.differing = 0
        """Of them, those of which any bit was not the golden model's."""
        self.cycles = 0
        """Cycles that the core worked on commands."""

    def append(self, tokens: Any) -> None:
        """Load tokens behind those that are there."""
        if self._is_loaded:
            self._device.append(tokens.k_codes, tokens.values, rescore_keys=tokens.rescore_keys)
        else:
            self._device.load(tokens.k_codes, tokens.values, tokens.exp_tables,
                              rescore_keys=tokens.rescore_keys)
            self._is_loaded = True

    def ask(self, asked: Prepared, golden: Attention) -> NDArray[np.int32]:
        """Ask the device, and compare: outputs, selected keys, distances, weights, scores."""
        rescore = asked.rescore
        found = self._device.attend(
            asked.q_codes, counts=asked.counts, first=asked.first, n=asked.n, sink=asked.sink,
            recent=asked.recent, rescore_queries=None if rescore is None else rescore.queries,
            multipliers=None if rescore is None else rescore.multipliers).result
        self.answers += asked.queries
        self.cycles += found.cycles
        wrong = [elements.any(axis=(0, 2)) for elements in differing(found, golden).values()]
        self.differing += int(np.any(wrong, axis=0).sum())
        return found.output_int

    def close(self) -> None:
        """End the simulation."""
        self._device.close()
