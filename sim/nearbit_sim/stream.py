"""The simulator's half of a cocotb bench: streams of a component, driven and checked.

See :mod:`nearbit_sim.bench` for how a bench is written and run.
"""

import faulthandler
import json
import os
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cocotb
from cocotb.triggers import Timer

from nearbit_model.transfers.payload import Port


__all__ = ["MATRIX", "Bench", "Sink", "Source"]


MATRIX = (("idle", "stall"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.3, 0.3), (0.8, 0.1),
                              (0.1, 0.8)])
"""Probabilities of idle and stalled cycles, as an argument of :func:`cocotb.parametrize`."""

# One cycle: inputs change, settle, are sampled; the clock rises; half a cycle passes.
_SETTLE = Timer(2, "step")

# In one of so many cycles the bench turns the `ready` inputs over, to see that no `valid` follows.
_PROBE = 8


class _Stream:
    """What both ends of a stream share."""

    def __init__(self, dut: Any, port: Port) -> None:
        self.port = port
        self.cycles: list[int] = []
        """Cycle of each transfer; 0 is the first after reset."""
        self._payload = getattr(dut, f"{port.name}__payload") if port.shape.width else None
        self._valid = getattr(dut, f"{port.name}__valid") if port.has_valid else None
        self._ready = getattr(dut, f"{port.name}__ready") if port.has_ready else None

    @property
    def name(self) -> str:
        """Name of the stream in the component."""
        return self.port.name

    def _read(self, handle: Any, what: str, cycle: int) -> str:
        """Sample a port that exists; one that does not is always 1."""
        bits = str(handle.value) if handle is not None else "1"
        assert bits in "01" or set(bits) <= {"0", "1"}, (
            f"{self.name}: {what} is {bits} in cycle {cycle}")
        return bits


class Source(_Stream):
    """Driver of an input stream: payloads in order, with random idle cycles before each.

    Parameters
    ----------
    idle
        Probability of an idle cycle while no payload waits to be accepted; may be changed at any
        time; 1 holds everything back.
    """

    def __init__(self, dut: Any, port: Port, rng: random.Random, idle: float) -> None:
        """Find the ports in the simulator."""
        super().__init__(dut, port)
        self.idle = idle
        self._rng = rng
        self._queue: deque[int] = deque()
        self._offers = False
        self._shown: int | None = None

    def send(self, *payloads: Any) -> None:
        """Queue payloads: numbers, dictionaries for structures, sequences for arrays."""
        self._queue.extend(map(self.port.shape.pack, payloads))

    @property
    def pending(self) -> int:
        """Payloads not accepted yet."""
        return len(self._queue)

    def _clear(self) -> None:
        self._queue.clear()
        self._offers = False
        self.cycles.clear()

    def _drive(self) -> None:
        if not self._offers and self._queue and (self.idle == 0 or self._rng.random() >= self.idle):
            self._offers = True
        if self._payload is not None:
            # Noise where nothing is offered: a component must not look at it.
            bits = (self._queue[0] if self._offers else
                    self._rng.getrandbits(self.port.shape.width))
            if bits != self._shown:
                self._payload.value = self._shown = bits
        if self._valid is not None:
            self._valid.value = int(self._offers)

    def _sample(self, cycle: int) -> None:
        ready = self._read(self._ready, "ready", cycle)
        if self._offers and ready == "1":
            self._queue.popleft()
            self._offers = False
            self.cycles.append(cycle)


class Sink(_Stream):
    """Receiver of an output stream, with random stalls; it records, compares and monitors.

    Parameters
    ----------
    stall
        Probability of a stalled cycle; may be changed at any time; 1 accepts nothing.
    """

    def __init__(self, dut: Any, port: Port, rng: random.Random, stall: float) -> None:
        """Find the ports in the simulator."""
        super().__init__(dut, port)
        self.stall = stall
        self.received: list[Any] = []
        """Payloads in order of arrival."""
        self.on_beat: Callable[[Any, int], None] | None = None
        """Called with each payload and its cycle."""
        self._rng = rng
        self._expected: deque[int] = deque()
        self._strict = False
        self._takes = False
        self._held: str | None = None

    def expect(self, *payloads: Any) -> None:
        """Queue expected payloads; from now on, an unexpected one fails the test."""
        self._strict = True
        self._expected.extend(map(self.port.shape.pack, payloads))

    @property
    def pending(self) -> int:
        """Payloads that are expected and have not arrived yet."""
        return len(self._expected)

    def _clear(self) -> None:
        self._expected.clear()
        self._strict = False
        self._held = None
        self.received.clear()
        self.cycles.clear()

    def _drive(self) -> None:
        self._takes = self.stall == 0 or self._rng.random() >= self.stall
        if self._ready is not None:
            self._ready.value = int(self._takes)
        else:
            self._takes = True

    def _peek(self, cycle: int) -> str | None:
        """Return the payload's bits, or None where there is none."""
        if self._read(self._valid, "valid", cycle) == "0":
            return None
        return self._read(self._payload, "payload", cycle) if self._payload is not None else "0"

    def _turn(self) -> None:
        if self._ready is not None:
            self._takes = not self._takes
            self._ready.value = int(self._takes)

    def _sample(self, cycle: int) -> None:
        bits = self._peek(cycle)
        if self._held is not None:
            assert bits is not None, f"{self.name}: valid fell before a transfer, cycle {cycle}"
            assert bits == self._held, (
                f"{self.name}: payload changed while stalled, cycle {cycle}: "
                f"{self._unpack(self._held)} -> {self._unpack(bits)}")
        self._held = bits if not self._takes else None
        if bits is None or not self._takes:
            return
        payload = self._unpack(bits)
        if self._strict:
            index = len(self.received)
            assert self._expected, f"{self.name}[{index}] is one too many: {payload}, cycle {cycle}"
            expected = self._expected.popleft()
            assert int(bits, 2) == expected, (
                f"{self.name}[{index}] is {payload}, not {self.port.shape.unpack(expected)}, "
                f"cycle {cycle}")
        self.received.append(payload)
        self.cycles.append(cycle)
        if self.on_beat is not None:
            self.on_beat(payload, cycle)

    def _unpack(self, bits: str) -> Any:
        return self.port.shape.unpack(int(bits, 2))


class Bench:
    """A component in the simulator: its clock, its reset, and both ends of all its streams.

    Every input stream has a :class:`Source` and every output stream a :class:`Sink`. Both draw
    from generators seeded with :attr:`seed`. In every cycle, the bench checks that, for every
    stream,

    - ``valid`` and ``payload`` of an output hold while it is stalled,
    - no output depends on its own ``ready`` within a cycle (tried in every eighth cycle),
    - there is no X or Z on ``valid``, ``ready`` and the payloads that ``valid`` goes with.

    Parameters
    ----------
    dut
        The argument of a cocotb test.
    idle, stall
        Probability of idle cycles of all sources and of stalled cycles of all sinks.
    limit
        Cycles, resets included, after which the test fails.
    """

    def __init__(self, dut: Any, *, idle: float = 0.0, stall: float = 0.0,
                 limit: int = 20_000) -> None:
        """Find the ports in the simulator and start the monitor."""
        bench = json.loads(Path(os.environ["NEARBIT_BENCH"]).read_text(encoding="utf-8"))
        # A combinational loop hangs the simulator inside one time step.
        faulthandler.dump_traceback_later(bench["timeout"], exit=True)
        self.dut = dut
        self.parameters: dict[str, Any] = bench["parameters"]
        """What the pytest side passed."""
        self.seed: int = cocotb.RANDOM_SEED
        """Seed of this test; the log shows it."""
        self.rng = random.Random(self.seed)
        """For the test itself."""
        self.limit = limit
        self.cycle = 0
        """Number of the cycle that the next :meth:`step` simulates; 0 is the first after reset."""
        self._total = 0
        self._clock = getattr(dut, "clk", None)
        self._reset = getattr(dut, "rst", None)
        self._probes = random.Random(f"{self.seed} probes")
        self._sources: dict[str, Source] = {}
        self._sinks: dict[str, Sink] = {}
        for port in map(Port.from_json, bench["ports"]):
            rng = random.Random(f"{self.seed} {port.name}")
            if port.is_input:
                self._sources[port.name] = Source(dut, port, rng, idle)
            else:
                self._sinks[port.name] = Sink(dut, port, rng, stall)
        if self._reset is not None:
            self._reset.value = 0
        dut._log.info(f"seed {self.seed}, idle {idle}, stall {stall}")

    def source(self, name: str) -> Source:
        """Look up the driver of an input stream."""
        return self._sources[name]

    def sink(self, name: str) -> Sink:
        """Look up the receiver of an output stream."""
        return self._sinks[name]

    def _ends(self) -> list[Source | Sink]:
        return [*self._sources.values(), *self._sinks.values()]

    async def reset(self, cycles: int = 1) -> None:
        """Reset the component, and discard everything queued, expected and received."""
        for end in self._ends():
            end._clear()
        if self._reset is not None:
            self._reset.value = 1
            for _ in range(cycles):
                await self._tick(checks=False)
            self._reset.value = 0
        self.cycle = 0

    async def _tick(self, checks: bool) -> None:
        self._total += 1
        if self._total > self.limit:
            waiting = [f"{end.name} ({end.pending})" for end in self._ends() if end.pending]
            raise AssertionError(f"still waiting after {self.limit} cycles for "
                                 f"{', '.join(waiting) or 'the test'}")
        if self._clock is not None:
            self._clock.value = 0
        for source in self._sources.values():
            source._drive()
        for sink in self._sinks.values():
            sink._drive()
        await _SETTLE
        if checks:
            if self._probes.randrange(_PROBE) == 0:
                await self._probe()
            for sink in self._sinks.values():
                sink._sample(self.cycle)
            for source in self._sources.values():
                source._sample(self.cycle)
        if self._clock is not None:
            self._clock.value = 1
        await _SETTLE

    async def _probe(self) -> None:
        """Toggle every ``ready`` and restore it: no output of the same stream may follow."""
        for sink in self._sinks.values():
            before = sink._peek(self.cycle)
            sink._turn()
            await _SETTLE
            assert sink._peek(self.cycle) == before, (
                f"{sink.name}: valid or payload depends on ready, cycle {self.cycle}")
            sink._turn()
            await _SETTLE

    async def step(self, cycles: int = 1) -> None:
        """Simulate some cycles."""
        for _ in range(cycles):
            await self._tick(checks=True)
            self.cycle += 1

    async def until(self, condition: Callable[[], bool]) -> None:
        """Simulate until a condition, evaluated between cycles, holds."""
        while not condition():
            await self.step()

    async def finish(self, extra: int = 16) -> None:
        """Simulate until all payloads are accepted and all expected ones have arrived.

        A few more cycles follow, in which nothing else may arrive where anything was expected.
        """
        await self.until(lambda: not any(end.pending for end in self._ends()))
        await self.step(extra)
