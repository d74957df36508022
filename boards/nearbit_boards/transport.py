"""Ways to a device's bytes: a serial port, or a simulation of the device."""

import contextlib
import ctypes
import errno
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import serial
from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_boards.top import TIMEOUT_BYTES, BoardTop, LinkedCore
from nearbit_model.config import Config
from nearbit_sim.compiled import CompiledEngine, InputBuffer, OutputBuffer


__all__ = ["DeviceError", "PinTransport", "SerialTransport", "SimulatedTransport", "Transport"]


class DeviceError(RuntimeError):
    """A device that cannot be used, or does not answer; the message is one sentence."""


class Transport(Protocol):
    """Bytes to a device and back."""

    @property
    def name(self) -> str:
        """What to call the device in messages."""
        ...

    @property
    def baud(self) -> int:
        """Bits in a second on the wire; 0 if there is none."""
        ...

    def write(self, octets: bytes) -> None:
        """Send bytes; returns when they are on their way."""
        ...

    def read(self, timeout: float) -> bytes:
        """Return what has come, at least a byte, or nothing after some seconds without any."""
        ...

    def close(self) -> None:
        """Give the device back."""
        ...


class SerialTransport:
    """A serial port.

    Parameters
    ----------
    port
        Its name, such as ``/dev/ttyUSB0`` or ``COM3``.
    baud
        Bits in a second: what the device was built with.

    Raises
    ------
    DeviceError
        A port that does not exist, is busy or may not be used.
    """

    def __init__(self, port: str, baud: int = 1_000_000) -> None:
        """Open the port, for this process alone."""
        self.name = port
        self.baud = baud
        try:
            self._serial = serial.Serial(port, baud, timeout=0, exclusive=True)
        except (serial.SerialException, ValueError, OSError) as error:
            raise DeviceError(_port_problem(port, baud, error)) from None
        # FTDI adapters keep bytes for up to 16 ms unless they are told; others have no such mode.
        with contextlib.suppress(AttributeError, NotImplementedError, ValueError, OSError):
            self._serial.set_low_latency_mode(True)

    def write(self, octets: bytes) -> None:
        """Send bytes."""
        try:
            self._serial.write(octets)
        except (serial.SerialException, OSError):
            raise DeviceError(_gone(self.name)) from None

    def read(self, timeout: float) -> bytes:
        """Return what has come."""
        try:
            self._serial.timeout = timeout
            first = self._serial.read(1)
            return bytes(first + self._serial.read(self._serial.in_waiting)) if first else b""
        except (serial.SerialException, OSError, TypeError):
            # pySerial subtracts from None where a port vanishes in the middle of a call.
            raise DeviceError(_gone(self.name)) from None

    def close(self) -> None:
        """Close the port."""
        self._serial.close()


def _gone(port: str) -> str:
    return f"{port} has gone while it was in use; check the cable and plug the board in again"


def _port_problem(port: str, baud: int, error: Exception) -> str:
    """One sentence on a port that cannot be opened."""
    code = getattr(error, "errno", None)
    if isinstance(error, ValueError) and not isinstance(error, serial.SerialException):
        return f"{port} cannot be set to {baud} baud; build the device for another rate"
    if code in (errno.ENOENT, errno.ENODEV, errno.ENXIO) or "FileNotFoundError" in str(error):
        return (f"there is no port {port}; plug the board in, and see `python -m "
                f"serial.tools.list_ports` for those that there are")
    if code in (errno.EACCES, errno.EPERM) and "Access is denied" not in str(error):
        return (f"{port} may not be used by this user; join the group that owns it, usually with: "
                f"sudo usermod -a -G dialout $USER")
    if code in (errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK) or "exclusively lock" in str(error) \
            or "PermissionError" in str(error):
        return f"{port} is in use by another program; close it first"
    if code == errno.ENOTTY or "not a typewriter" in str(error) or "Inappropriate" in str(error):
        return f"{port} is no serial port"
    return f"{port} cannot be opened: {error}"


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
    """A run of an engine that goes on between calls, a slice of bytes or edges at a time."""

    def __init__(self, engine: _Engine) -> None:
        self._library = engine.library
        self._handle = self._library.nearbit_create(1, None)

    def advance(self, cycles: int, words: Any = (), *, wait: bool = False) -> Any:
        """Push words, one a row, for some cycles at most, and return those that come out.

        Ends when all words are pushed, or with ``wait`` when one has come out.

        Returns
        -------
        words, pushed, done
            What came out, how many were pushed, and how many cycles that took.
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


# Cycles of one call into the library, between which Ctrl-C is heard.
_SLICE = 200_000


class SimulatedTransport:
    """A simulation of the device at the host link's bytes, as fast as the link takes them.

    Parameters
    ----------
    config, version, clock, timeout
        As for :class:`nearbit_boards.top.LinkedCore`. The clock is also that of time-outs.

    Raises
    ------
    SimulationError
        A missing compiler.
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
        """Send bytes; replies are kept meanwhile."""
        while octets:
            pushed, _ = self._advance(_SLICE, octets)
            octets = octets[pushed:]

    def wait(self, cycles: int) -> None:
        """Simulate some cycles without a byte to the device."""
        while cycles > 0:
            _, done = self._advance(min(cycles, _SLICE), wait=True)
            cycles -= done

    def read(self, timeout: float) -> bytes:
        """Return what has come."""
        left = int(timeout * self._clock)
        while not self._received and left > 0:
            left -= self._advance(min(left, _SLICE), wait=True)[1]
        # The rest of what follows without a pause.
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
    """A board at its pins: levels to hold for some cycles in, edges with their cycles out.

    Members
    -------
    i : :py:`In(stream.Signature(32))`
        Lowest bit: the level of ``rx``; above: for how many cycles.
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
    """A simulation of a board top at the pins of its UART, a bit at a time.

    Parameters
    ----------
    config, version, clock, baud, timeout_bytes
        As for :class:`nearbit_boards.top.BoardTop`.
    drift
        By how much the host's bits are longer than they should be, for example 0.02.

    Raises
    ------
    ValueError
        A clock and a baud rate that do not fit each other.
    SimulationError
        A missing compiler.
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
        self._decoder = _Decoder(self._bit)
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
                # Rounded to cycles, without a sum of errors.
                end = start + self._bit
                levels.append((bit, round(end) - round(start)))
                start = end
        self.levels(levels)

    def read(self, timeout: float) -> bytes:
        """Return what has come."""
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


class _Decoder:
    """Bytes from the edges of a line."""

    def __init__(self, bit: float) -> None:
        self._bit = bit
        self._edges: list[tuple[int, int]] = [] # cycle, new level

    def edges(self, words: Sequence[int]) -> None:
        self._edges += [(int(word) >> 1, int(word) & 1) for word in words]

    def take(self, now: int) -> bytes:
        """Return the bytes whose stop bit has begun; those without one are left out."""
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
