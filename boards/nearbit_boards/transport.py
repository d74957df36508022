"""Ways to a device's bytes: a serial port, or a simulation of the device."""

import contextlib
import ctypes
import errno
import functools
import os
import socket
import time
import urllib.parse
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import serial
import serial.rfc2217
from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_boards.top import TIMEOUT_BYTES, BoardTop, LinkedCore
from nearbit_model.config import Config
from nearbit_sim.compiled import CompiledEngine, InputBuffer, OutputBuffer


__all__ = ["DeviceError", "PinTransport", "SerialTransport", "SimulatedTransport", "Transport",
           "WriteTimeout"]


class DeviceError(RuntimeError):
    """A device that cannot be used, or does not answer; the message is one sentence."""


class WriteTimeout(DeviceError):
    """A device that takes no bytes any more.

    Parameters
    ----------
    name
        What to call the device.
    seconds
        For how long it has taken none.
    sent, total
        Bytes that were certainly sent, of how many.
    """

    def __init__(self, name: str, seconds: float, sent: int, total: int) -> None:
        """Say how far it came."""
        super().__init__(f"{name} has taken no byte for {seconds:g} seconds, after {sent} of "
                         f"{total}; reset the board or plug it in again")
        self.seconds = seconds
        self.sent = sent


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


# Bytes that are written at once: how many were sent is known to so many.
_CHUNK = 256

# Seconds of one wait for bytes. Longer waits are several: to change the time of a wait, pySerial
# sets a port up anew, which takes a server of RFC 2217 a tenth of a second.
_WAIT_SECONDS = 0.02

# Bytes after which a read returns, even if more are there.
_MOST_READ = 4096

# Seconds after which pySerial gives up the socket of a server of RFC 2217, which has no time-out of
# writing that could be set.
_RFC2217_SECONDS = 5.0


class SerialTransport:
    """A serial port, of this computer or of a server.

    Parameters
    ----------
    port
        Its name, such as ``/dev/ttyUSB0`` or ``COM3``; or a URL of pySerial:
        ``rfc2217://host:port`` for a server that sets the rate, ``socket://host:port`` for one that
        passes bytes on as they are.
    baud
        Bits in a second: what the device was built with.
    write_timeout
        Seconds after which a port that takes no bytes is given up.

    Raises
    ------
    DeviceError
        A port that does not exist, is busy or may not be used.
    """

    def __init__(self, port: str, baud: int = 1_000_000, *, write_timeout: float = 5.0) -> None:
        """Open the port; one of this computer for this process alone."""
        scheme = port.partition("://")[0].lower() if "://" in port else ""
        self.name = port
        # Others than these pass bytes on as they are.
        self.baud = 0 if scheme in ("socket", "loop") else baud
        self._is_remote = scheme in _REMOTE
        self._write_timeout = _RFC2217_SECONDS if scheme == "rfc2217" else write_timeout
        if self._is_remote:
            _check_url(port, scheme)
        if os.path.isdir(port):
            raise DeviceError(f"{port} is a directory, no serial port")
        try:
            self._serial = serial.serial_for_url(port, baud, timeout=_WAIT_SECONDS,
                                                 do_not_open=True)
            if isinstance(self._serial, serial.Serial):
                self._serial.exclusive = True
            if not isinstance(self._serial, serial.rfc2217.Serial):
                self._serial.write_timeout = write_timeout
            with warnings.catch_warnings():
                # pySerial 3.5 names its thread in the old way; there is no later release.
                warnings.filterwarnings("ignore", r"set(Daemon|Name)\(\)", DeprecationWarning)
                self._serial.open()
        except (serial.SerialException, ValueError, OSError) as error:
            raise DeviceError(_port_problem(port, baud, error)) from None
        # FTDI adapters keep bytes for up to 16 ms unless they are told; others have no such mode.
        with contextlib.suppress(AttributeError, NotImplementedError, ValueError, OSError):
            self._serial.set_low_latency_mode(True)

    def write(self, octets: bytes) -> None:
        """Send bytes; :class:`WriteTimeout` if the port takes none for some seconds."""
        for start in range(0, len(octets), _CHUNK):
            try:
                self._serial.write(octets[start:start + _CHUNK])
            except (serial.SerialException, OSError) as error:
                if isinstance(error, serial.SerialTimeoutException) \
                        or isinstance(error.__context__, TimeoutError):
                    raise WriteTimeout(self.name, self._write_timeout, start,
                                       len(octets)) from None
                raise DeviceError(self._gone()) from None

    def read(self, timeout: float) -> bytes:
        """Return what has come."""
        end = time.monotonic() + timeout
        octets = b""
        try:
            while not octets:
                octets = self._serial.read(1)
                if not octets and time.monotonic() >= end:
                    return b""
            # A socket says only that there are bytes, not how many.
            while len(octets) < _MOST_READ and (count := self._serial.in_waiting):
                octets += self._serial.read(count)
        except (serial.SerialException, OSError, TypeError) as error:
            # pySerial subtracts from None where a port vanishes in the middle of a call. Where
            # there is nothing to read though the system says so, it may be either.
            if "multiple access" in str(error):
                raise DeviceError(f"{self.name} has gone while it was in use, or another program "
                                  f"reads it as well; close that, or check the cable and plug the "
                                  f"board in again") from None
            raise DeviceError(self._gone()) from None
        return octets

    def close(self) -> None:
        """Close the port."""
        held = getattr(self._serial, "_socket", None)
        self._serial.close()
        if held is not None:
            # pySerial forgets to, where the other side has closed it already.
            held.close()

    def _gone(self) -> str:
        if self._is_remote:
            return (f"the connection to {self.name} has ended while it was in use; see whether its "
                    f"server and the board are still there")
        return (f"{self.name} has gone while it was in use; check the cable and plug the board in "
                f"again")


# Schemes of servers, and the options that pySerial knows of each.
_REMOTE = {"rfc2217": ("ign_set_control", "logging", "poll_modem", "timeout"),
           "socket": ("logging",)}


def _check_url(port: str, scheme: str) -> None:
    """Raise :class:`DeviceError` for a URL that names no host and port, or unknown options."""
    try:
        parts = urllib.parse.urlsplit(port)
        is_whole = bool(parts.hostname) and bool(parts.port)
    except ValueError:
        is_whole = False
    if not is_whole:
        raise DeviceError(f"{port} names no host and port; write {scheme}://HOST:PORT, with a port "
                          f"from 1 to 65535")
    query = urllib.parse.urlsplit(port).query
    unknown = [option for option in urllib.parse.parse_qs(query, keep_blank_values=True)
               if option not in _REMOTE[scheme]]
    if unknown:
        raise DeviceError(f"{port} has the option {unknown[0]}, and {scheme}:// knows only "
                          f"{', '.join(_REMOTE[scheme])}")


def _port_problem(port: str, baud: int, error: Exception) -> str:
    """One sentence on a port that cannot be opened."""
    code = getattr(error, "errno", None)
    said = str(error)
    if "invalid URL" in said:
        return (f"{port} is no URL of a serial port; there are rfc2217://HOST:PORT and "
                f"socket://HOST:PORT")
    if "remote rejected value" in said or "does not accept parameter change" in said or (
            isinstance(error, ValueError) and not isinstance(error, serial.SerialException)):
        return f"{port} cannot be set to {baud} baud; build the device for another rate"
    if "does not seem to support RFC2217" in said:
        return (f"what answers at {port} is no server of RFC 2217; if it passes bytes on as they "
                f"are, name it socket://")
    match error.__context__:
        case ConnectionRefusedError():
            return f"nothing listens at {port}; start its server, or check host and port"
        case socket.gaierror():
            return f"there is no host of the name in {port}; check its spelling"
        case TimeoutError():
            return f"{port} does not answer; check host and port, and that nothing blocks the way"
    if code in (errno.ENOENT, errno.ENODEV, errno.ENXIO) or "FileNotFoundError" in said:
        return (f"there is no port {port}; plug the board in, and see `python -m "
                f"serial.tools.list_ports` for those that there are")
    if code in (errno.EACCES, errno.EPERM) and "Access is denied" not in said:
        return (f"{port} may not be used by this user; join the group that owns it, usually with: "
                f"sudo usermod -a -G dialout $USER")
    if code in (errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK) or "exclusively lock" in said \
            or "PermissionError" in said:
        return f"{port} is in use by another program; close it first"
    if code == errno.ENOTTY or "not a typewriter" in said or "Inappropriate" in said:
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
