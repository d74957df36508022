"""Transports to a simulated device, at its host link or at its UART's pins."""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_boards.top import TIMEOUT_BYTES, BoardTop, LinkedCore
from nearbit_model.config import Config
from nearbit_sim.compiled import CompiledEngine, InputBuffer, OutputBuffer


__all__ = ["LineDecoder", "PinTransport", "SimulatedTransport"]


class _Engine(CompiledEngine):
    """A compiled component with an input and an output."""

    @functools.cached_property
    def library(self) -> ctypes.CDLL:
        """The library, built on first use."""
        return self._load(False)


@functools.lru_cache(maxsize=8)
def _byte_engine(*parameters: Any) -> _Engine:
    config, version, clock, timeout = parameters
    return _Engine(LinkedCore(config, version=version, clock=clock, timeout=timeout))


@functools.lru_cache(maxsize=8)
def _pin_engine(*parameters: Any) -> _Engine:
    config, version, clock, baud, timeout_bytes = parameters
    return _Engine(_Pins(BoardTop(config, version=version, clock=clock, baud=baud,
                                  timeout_bytes=timeout_bytes)))


class _Session:
    """A run of an engine that continues from call to call, by slices of bytes or edges."""

    def __init__(self, engine: _Engine) -> None:
        self._library = engine.library
        self._handle = self._library.nearbit_create(None)

    def advance(self, cycles: int, words: Any = (), *, wait: bool = False) -> Any:
        """Push words, one per row, for at most some cycles, and return those that come out.

        Ends when all words are pushed or, with ``wait``, when one has come out.

        Returns
        -------
        words, pushed, done
            The words that came out, how many were pushed, and how many cycles it took.
        """
        rows = np.ascontiguousarray(np.asarray(words, np.uint64).reshape(-1, 1))
        accepted = np.zeros(len(rows), np.int64)
        capacity = 1 if wait else 1 << 16
        out = np.zeros((capacity, 1), np.uint64)
        times = np.zeros(capacity, np.int64)
        source = (InputBuffer * 1)(
            InputBuffer(rows.ctypes.data, accepted.ctypes.data, len(rows), 0))
        sink = (OutputBuffer * 1)(
            OutputBuffer(out.ctypes.data, times.ctypes.data, capacity, 0, capacity))
        done = self._library.nearbit_run(self._handle, source, sink, cycles, 1 if wait else 0)
        return out[:sink[0].count, 0], source[0].next, done

    def close(self) -> None:
        if self._handle:
            self._library.nearbit_destroy(self._handle)
            self._handle = None


# Cycles per call into the library; Ctrl-C takes effect between calls.
_SLICE = 200_000


class SimulatedTransport:
    """A simulation of the device at the host link's bytes, as fast as the link accepts them.

    Parameters
    ----------
    config, version, clock, timeout
        As for :class:`nearbit_boards.top.LinkedCore`. Time-outs are measured by this clock.

    Raises
    ------
    SimulationError
        The compiler is missing.
    """

    name = "the simulated device"
    baud = 0

    def __init__(self, config: Config, *, version: tuple[int, int, int] = (0, 0, 0),
                 clock: int = 1_000_000, timeout: int = 10_000) -> None:
        """Build the device and reset it."""
        self._session = _Session(_byte_engine(config, version, clock, timeout))
        self._clock = clock
        self._received = bytearray()
        self.cycles = 0
        """Simulated cycles."""

    def _advance(self, cycles: int, octets: bytes = b"", *, wait: bool = False) -> tuple[int, int]:
        words, pushed, done = self._session.advance(
            cycles, np.frombuffer(octets, np.uint8), wait=wait)
        self._received += words.astype(np.uint8).tobytes()
        self.cycles += done
        return pushed, done

    def write(self, octets: bytes) -> None:
        """Send bytes; replies that arrive meanwhile are kept."""
        while octets:
            pushed, _ = self._advance(_SLICE, octets)
            octets = octets[pushed:]

    def wait(self, cycles: int) -> None:
        """Simulate some cycles without sending a byte to the device."""
        while cycles > 0:
            _, done = self._advance(min(cycles, _SLICE), wait=True)
            cycles -= done

    def read(self, timeout: float) -> bytes:
        """Return the bytes received."""
        left = int(timeout * self._clock)
        while not self._received and left > 0:
            left -= self._advance(min(left, _SLICE), wait=True)[1]
        # Also the bytes that follow without a pause.
        while self._received and self._advance(64, wait=True)[1] < 64:
            pass
        octets = bytes(self._received)
        self._received.clear()
        return octets

    def close(self) -> None:
        """End the simulation."""
        self._session.close()


_HOLD_BITS = 32


class _Pins(wiring.Component):
    """A board at its pins: levels to hold for some cycles go in, edges with their cycles come out.

    Members
    -------
    i : :py:`In(stream.Signature(32))`
        Lowest bit: the level of ``rx``; above: the number of cycles to hold it.
    o : :py:`Out(stream.Signature(32))`
        Lowest bit: the new level of ``tx``; above: cycles since reset.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, top: BoardTop) -> None:
        self._top = top
        super().__init__({"i": In(stream.Signature(_HOLD_BITS)),
                          "o": Out(stream.Signature(_HOLD_BITS))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.top = top = self._top
        level, left = Signal(init=1), Signal(_HOLD_BITS - 1)
        now, before = Signal(_HOLD_BITS - 1), Signal(init=1)
        m.d.comb += [top.rx.eq(level), self.i.ready.eq(left == 0),
                     self.o.valid.eq(top.tx != before), self.o.payload.eq(Cat(top.tx, now))]
        m.d.sync += [now.eq(now + 1), before.eq(top.tx)]
        with m.If(left != 0):
            m.d.sync += left.eq(left - 1)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [level.eq(self.i.payload[0]), left.eq(self.i.payload[1:] - 1)]
        return m


class PinTransport:
    """A simulation of a board top at the pins of its UART, bit by bit.

    Parameters
    ----------
    config, version, clock, baud, timeout_bytes
        As for :class:`nearbit_boards.top.BoardTop`.
    drift
        Relative error of the host's bit time: with 0.02, its bits are 2 % too long.

    Raises
    ------
    ValueError
        The clock cannot be divided to the baud rate.
    SimulationError
        The compiler is missing.
    """

    def __init__(self, config: Config, *, version: tuple[int, int, int] = (0, 0, 0),
                 clock: int = 12_000_000, baud: int = 1_000_000,
                 timeout_bytes: int = TIMEOUT_BYTES, drift: float = 0.0) -> None:
        """Build the board and reset it."""
        self.name = "the simulated board"
        self.baud = baud
        self._clock = clock
        self._bit = clock / baud * (1 + drift)
        self._session = _Session(_pin_engine(config, version, clock, baud, timeout_bytes))
        self._decoder = LineDecoder(self._bit)
        self.cycles = 0
        """Simulated cycles."""

    def levels(self, levels: Sequence[tuple[int, int]]) -> None:
        """Hold the line at levels, each for some cycles."""
        words = np.array([level | cycles << 1 for level, cycles in levels if cycles > 0],
                         np.uint64)
        while len(words):
            pushed = self._advance(_SLICE, words)
            words = words[pushed:]

    def _advance(self, cycles: int, words: Any = (), *, wait: bool = False) -> int:
        edges, pushed, done = self._session.advance(cycles, words, wait=wait)
        self.cycles += done
        self._decoder.edges(edges.tolist())
        return int(pushed)

    def write(self, octets: bytes) -> None:
        """Send bytes without a pause."""
        levels: list[tuple[int, int]] = []
        start = 0.0
        for octet in octets:
            for bit in (0, *(octet >> place & 1 for place in range(8)), 1):
                # Rounded to cycles, without accumulating errors.
                end = start + self._bit
                levels.append((bit, round(end) - round(start)))
                start = end
        self.levels(levels)

    def read(self, timeout: float) -> bytes:
        """Return the bytes received."""
        end = self.cycles + int(timeout * self._clock)
        while True:
            octets = self._decoder.take(self.cycles)
            if octets or self.cycles >= end:
                return octets
            self._advance(min(end - self.cycles, int(12 * self._bit)), wait=False,
                          words=[1 | int(12 * self._bit) << 1])

    def close(self) -> None:
        """End the simulation."""
        self._session.close()


class LineDecoder:
    """Decodes bytes from the edges of a line.

    Parameters
    ----------
    bit
        Cycles per bit.
    """

    def __init__(self, bit: float) -> None:
        """Start with an idle line."""
        self._bit = bit
        self._edges: list[tuple[int, int]] = [] # cycle, new level

    def edges(self, words: Sequence[int]) -> None:
        """Add edges: the new level in the lowest bit, the cycle above."""
        self._edges += [(int(word) >> 1, int(word) & 1) for word in words]

    def take(self, now: int) -> bytes:
        """Return the bytes whose stop bit has begun; those without a stop bit are dropped."""
        octets = bytearray()
        while self._edges:
            start, level = self._edges[0]
            if level:
                del self._edges[0]
                continue
            if now < start + 10 * self._bit:
                break
            samples, place, value = [], 0, 0
            for index in range(1, 10):
                when = start + (index + 0.5) * self._bit
                while place < len(self._edges) and self._edges[place][0] <= when:
                    value = self._edges[place][1]
                    place += 1
                samples.append(value)
            del self._edges[:place]
            if samples[8]:
                octets.append(sum(bit << index for index, bit in enumerate(samples[:8])))
        return bytes(octets)
