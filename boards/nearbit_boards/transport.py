"""Transports of a device's bytes: their interface, and serial ports.

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
        Name of the device for messages.
    seconds
        How long it has accepted no bytes.
    sent, total
        Number of bytes that were certainly sent, and of all bytes.
    """

    def __init__(self, name: str, seconds: float, sent: int, total: int) -> None:
        """State how many bytes were sent."""
        super().__init__(f"{name} has accepted no data for {seconds:g} seconds, after {sent} of "
                         f"{total}; reset the board or plug it in again")
        self.seconds = seconds
        self.sent = sent


class Transport(Protocol):
    """Bytes to a device and back."""

    @property
    def name(self) -> str:
        """Name of the device for messages."""
        ...

    @property
    def baud(self) -> int:
        """Bits per second on the wire; 0 if there is none."""
        ...

    def write(self, octets: bytes) -> None:
        """Send bytes; return when they are on their way."""
        ...

    def read(self, timeout: float) -> bytes:
        """Return the bytes received, at least one, or none after some seconds without any."""
        ...

    def close(self) -> None:
        """Release the device."""
        ...


# Bytes per write, which is the resolution at which the number of bytes sent is known.
_CHUNK = 256

# Seconds per wait for bytes; longer waits are split. To change the time of a wait, pySerial
# reconfigures the port, which takes an RFC 2217 server a tenth of a second.
_WAIT_SECONDS = 0.02

# Bytes after which a read returns, even if more are there.
_MOST_READ = 4096

# Seconds after which pySerial gives up on the socket of an RFC 2217 server, whose write time-out
# cannot be set.
_RFC2217_SECONDS = 5.0


class SerialTransport:
    """A serial port of this computer or of a server.

    Parameters
    ----------
    port
        Its name, such as ``/dev/ttyUSB0`` or ``COM3``; or a pySerial URL: ``rfc2217://host:port``
        for a server that sets the rate, ``socket://host:port`` for one that forwards raw bytes.
    baud
        Bits per second for which the device was built.
    write_timeout
        Seconds without an accepted byte after which :class:`WriteTimeout` is raised.

    Raises
    ------
    DeviceError
        The port does not exist, is busy, or this user has no permission to use it.
    """

    def __init__(self, port: str, baud: int = 1_000_000, *, write_timeout: float = 5.0) -> None:
        """Open the port; one of this computer is opened exclusively."""
        scheme = port.partition("://")[0].lower() if "://" in port else ""
        self.name = port
        # With these, bytes are forwarded as they are.
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
                # pySerial 3.5, the latest release, uses deprecated methods to name its thread.
                warnings.filterwarnings("ignore", r"set(Daemon|Name)\(\)", DeprecationWarning)
                self._serial.open()
        except (serial.SerialException, ValueError, OSError) as error:
            raise DeviceError(_port_problem(port, baud, error)) from None
        # FTDI adapters hold bytes back for up to 16 ms by default; others have no such mode.
        with contextlib.suppress(AttributeError, NotImplementedError, ValueError, OSError):
            self._serial.set_low_latency_mode(True)

    def write(self, octets: bytes) -> None:
        """Send bytes; :class:`WriteTimeout` if the port accepts none for some seconds."""
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
        """Return the bytes received."""
        end = time.monotonic() + timeout
        octets = b""
        try:
            while not octets:
                octets = self._serial.read(1)
                if not octets and time.monotonic() >= end:
                    return b""
            # A socket tells only that there are bytes, not how many.
            while len(octets) < _MOST_READ and (count := self._serial.in_waiting):
                octets += self._serial.read(count)
        except (serial.SerialException, OSError, TypeError) as error:
            # pySerial raises TypeError if a port vanishes during a call. "multiple access" means
            # that there is nothing to read although the system says so; it may have either cause.
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
            # pySerial leaves it open if the other side has already closed it.
            held.close()

    def _gone(self) -> str:
        if self._is_remote:
            return (f"the connection to {self.name} ended during use; check whether its server and "
                    f"the board are still there")
        return (f"{self.name} disappeared during use; check the cable and plug the board in "
                f"again")


# Schemes of servers, and the options that pySerial accepts for each.
_REMOTE = {"rfc2217": ("ign_set_control", "logging", "poll_modem", "timeout"),
           "socket": ("logging",)}


def _check_url(port: str, scheme: str) -> None:
    """Raise :class:`DeviceError` for a URL without host and port, or with unknown options."""
    try:
        parts = urllib.parse.urlsplit(port)
        is_whole = bool(parts.hostname) and bool(parts.port)
    except ValueError:
        is_whole = False
    if not is_whole:
        raise DeviceError(f"{port} needs a host and a port; write {scheme}://HOST:PORT, with a "
                          f"port from 1 to 65535")
    query = urllib.parse.urlsplit(port).query
    unknown = [option for option in urllib.parse.parse_qs(query, keep_blank_values=True)
               if option not in _REMOTE[scheme]]
    if unknown:
        raise DeviceError(f"{port} has the option {unknown[0]}, and {scheme}:// knows only "
                          f"{', '.join(_REMOTE[scheme])}")


def _port_problem(port: str, baud: int, error: Exception) -> str:
    """Describe why a port cannot be opened, in one sentence."""
    code = getattr(error, "errno", None)
    said = str(error)
    if "invalid URL" in said:
        return (f"{port} is not the URL of a serial port; use rfc2217://HOST:PORT or "
                f"socket://HOST:PORT")
    if "remote rejected value" in said or "does not accept parameter change" in said or (
            isinstance(error, ValueError) and not isinstance(error, serial.SerialException)):
        return f"{port} cannot be set to {baud} baud; build the device for another rate"
    if "does not seem to support RFC2217" in said:
        return (f"the server at {port} does not support RFC 2217; if it forwards raw bytes, use "
                f"socket://")
    match error.__context__:
        case ConnectionRefusedError():
            return f"nothing listens at {port}; start its server, or check host and port"
        case socket.gaierror():
            return f"there is no host of the name in {port}; check its spelling"
        case TimeoutError():
            return f"{port} does not answer; check host and port, and that nothing blocks the way"
    if code in (errno.ENOENT, errno.ENODEV, errno.ENXIO) or "FileNotFoundError" in said:
        return (f"there is no port {port}; plug the board in, and list the ports with `python -m "
                f"serial.tools.list_ports`")
    if code in (errno.EACCES, errno.EPERM) and "Access is denied" not in said:
        return (f"{port} cannot be opened by this user; join the group that owns it, usually with: "
                f"sudo usermod -a -G dialout $USER")
    if code in (errno.EBUSY, errno.EAGAIN, errno.EWOULDBLOCK) or "exclusively lock" in said \
            or "PermissionError" in said:
        return f"{port} is in use by another program; close it first"
    if code == errno.ENOTTY or "not a typewriter" in said or "Inappropriate" in said:
        return f"{port} is not a serial port"
    return f"{port} cannot be opened: {error}"
