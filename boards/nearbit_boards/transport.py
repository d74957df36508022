"""Transports of a device's bytes: what they have in common, and serial ports.

Simulated devices are in :mod:`nearbit_boards.simulated`.
"""

import contextlib
import errno
import os
import socket
import time
import urllib.parse
import warnings
from typing import Protocol

import serial
import serial.rfc2217

from nearbit_model.errors import NearbitError


__all__ = ["DeviceError", "SerialTransport", "Transport", "WriteTimeout"]


class DeviceError(NearbitError, RuntimeError):
    """A device that cannot be used, or does not answer; the message is one sentence."""


class WriteTimeout(DeviceError):
    """A device that no longer accepts bytes.

    Parameters
    ----------
    name
        What to call the device.
    seconds
        How long it has accepted none.
    sent, total
        Bytes that were certainly sent, and all bytes.
    """

    def __init__(self, name: str, seconds: float, sent: int, total: int) -> None:
        """Say how far it came."""
        super().__init__(f"{name} has accepted no data for {seconds:g} seconds, after {sent} of "
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
        """Release the device."""
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
        Seconds without an accepted byte after which :class:`WriteTimeout` is raised.

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
            raise DeviceError(f"{port} is a directory, not a serial port")
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
                raise DeviceError(f"{self.name} disappeared during use, or another program "
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
        return (f"{self.name} disappeared during use; check the cable and plug the board in "
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
        return f"{port} is not a serial port"
    return f"{port} cannot be opened: {error}"
