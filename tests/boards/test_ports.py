"""Serial ports of this computer and of servers, and all that goes wrong with them."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import tty

import numpy as np
import pytest
import serial
import serial.rfc2217
import serial.serialposix

from nearbit.cli import main
from nearbit_boards.device import Device
from nearbit_boards.exchange import Exchange
from nearbit_boards.protocol import Message
from nearbit_boards.simulated import SimulatedTransport
from nearbit_boards.transport import DeviceError, SerialTransport, WriteTimeout
from nearbit_model.attention import attend
from nearbit_model.config import PRESETS


TINY = PRESETS["tiny"]


@contextlib.contextmanager
def terminal():
    """A pseudo-terminal: the device's end, and the port's name."""
    master, slave = pty.openpty()
    tty.setraw(master)
    tty.setraw(slave)
    os.set_blocking(master, False)
    try:
        yield master, os.ttyname(slave)
    finally:
        for end in (master, slave):
            with contextlib.suppress(OSError):
                os.close(end)


@contextlib.contextmanager
def running(work, *arguments):
    """Run work(stop, ...) beside the block, and let its errors be seen."""
    stop, errors = threading.Event(), []

    def run():
        try:
            work(stop, *arguments)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert errors == []


def device(stop, read, write):
    """Be a device, simulated, at the other end of bytes; after no more come, end."""
    simulated = SimulatedTransport(TINY, version=(0, 1, 0), clock=12_000_000, timeout=256)
    while not stop.is_set():
        octets = read()
        if octets:
            simulated.write(octets)
        answer = simulated.read(0.0001)
        if answer:
            write(answer)
    simulated.close()


def at_terminal(stop, master):
    def read():
        select.select([master], [], [], 0.01)
        with contextlib.suppress(BlockingIOError):
            return os.read(master, 4096)
        return b""

    device(stop, read, lambda octets: os.write(master, octets))


@contextlib.contextmanager
def listener():
    """A socket that listens on this computer, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        yield server, server.getsockname()[1]


def at_socket(stop, server):
    connection, _ = server.accept()
    with connection:
        connection.settimeout(0.01)

        def read():
            with contextlib.suppress(TimeoutError):
                return connection.recv(4096)
            return b""

        device(stop, read, connection.sendall)


class Lineless(serial.Serial):
    """A port without control lines, as pseudo-terminals have none."""

    def _update_dtr_state(self):
        pass

    def _update_rts_state(self):
        pass

    cts = dsr = ri = cd = property(lambda self: True)


def rfc2217_server(stop, server, port):
    """Serve a port as the example of pySerial does, with its own protocol."""
    connection, _ = server.accept()
    with connection, Lineless(port, timeout=0.01) as settings:
        connection.settimeout(0.01)

        class Link:
            def write(self, octets):
                connection.sendall(octets)

        manager = serial.rfc2217.PortManager(settings, Link())
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                octets = connection.recv(4096)
                if not octets:
                    break
                settings.write(b"".join(manager.filter(octets)))
            waiting = settings.in_waiting
            if waiting:
                connection.sendall(b"".join(manager.escape(settings.read(waiting))))


def tensors():
    rng = np.random.default_rng(1)
    return (rng.normal(size=shape) for shape in ((2, 2, 8), (1, 20, 8), (1, 20, 8)))


def check_attention(url, **options):
    with Device.open(url, timeout=5, **options) as opened:
        run = opened.attention(*tensors(), n=4)
        assert run.result.difference(attend(run.result.prepared)) is None
        assert run.repeated == 0


# ---- Ports of servers.

def test_socket():
    """Through a socket that passes bytes on; the rate is the server's affair."""
    with listener() as (server, port), running(at_socket, server):
        check_attention(f"socket://127.0.0.1:{port}")
    with pytest.raises(DeviceError, match=rf"^nothing listens at socket://127\.0\.0\.1:{port}; "
                       r"start its server, or check host and port$"):
        Device.open(f"socket://127.0.0.1:{port}")


def test_rfc2217():
    """Through a server of RFC 2217, which has the port and is told the rate."""
    with terminal() as (master, name), listener() as (server, port), \
            running(at_terminal, master), running(rfc2217_server, server, name):
        check_attention(f"rfc2217://127.0.0.1:{port}", baud=115_200)
    with pytest.raises(DeviceError, match=rf"^nothing listens at rfc2217://127\.0\.0\.1:{port}; "):
        Device.open(f"rfc2217://127.0.0.1:{port}")


def test_no_server_of_rfc2217():
    with listener() as (server, port), running(at_socket, server):
        url = f"rfc2217://127.0.0.1:{port}?timeout=0.2"
        with pytest.raises(DeviceError, match=(
                rf"^the server at {re.escape(url)} does not support RFC 2217; if it forwards raw "
                r"bytes, use socket://$")):
            Device.open(url)


def test_loop():
    """What is sent comes back: no device."""
    with pytest.raises(DeviceError, match=r"^loop:// sends data that is not a Nearbit message"):
        Device.open("loop://", timeout=0.01)


@pytest.mark.parametrize(("url", "sentence"), [
    ("nothing://somewhere", (r"is not the URL of a serial port; use rfc2217://HOST:PORT or "
                             r"socket://HOST:PORT")),
    ("://", r"is not the URL of a serial port; .*"),
    ("socket://127.0.0.1", (r"needs a host and a port; write socket://HOST:PORT, with a port from "
                            r"1 to 65535")),
    ("socket://:7000", r"needs a host and a port; write socket://HOST:PORT, .*"),
    ("rfc2217://127.0.0.1:70000", r"needs a host and a port; write rfc2217://HOST:PORT, .*"),
    ("rfc2217://127.0.0.1:x", r"needs a host and a port; write rfc2217://HOST:PORT, .*"),
    ("socket://127.0.0.1:1?colour=red", "has the option colour, and socket:// knows only logging"),
    ("rfc2217://[::1:9", r"needs a host and a port; write rfc2217://HOST:PORT, .*"),
])
def test_wrong_url(url, sentence):
    with pytest.raises(DeviceError, match=f"^{re.escape(url)} {sentence}$"):
        Device.open(url)


@pytest.mark.parametrize(("error", "sentence"), [
    (socket.gaierror(-2, "Name or service not known"),
     "there is no host of the name in {}; check its spelling"),
    (TimeoutError("timed out"),
     "{} does not answer; check host and port, and that nothing blocks the way"),
])
@pytest.mark.parametrize("scheme", ["socket", "rfc2217"])
def test_host_that_is_not_there(monkeypatch, scheme, error, sentence):
    def refuse(*args, **options):
        raise error

    monkeypatch.setattr(socket, "create_connection", refuse)
    url = f"{scheme}://boards.example:7000"
    with pytest.raises(DeviceError, match=f"^{re.escape(sentence.format(url))}$"):
        Device.open(url)


@pytest.mark.parametrize("scheme", ["socket", "rfc2217"])
def test_server_that_ends(scheme):
    with contextlib.ExitStack() as stack:
        server, port = stack.enter_context(listener())
        url = f"{scheme}://127.0.0.1:{port}"
        if scheme == "socket":
            served = running(lambda stop: server.accept()[0].close())
        else:
            _, name = stack.enter_context(terminal())
            served = running(rfc2217_server, server, name)
        with served:
            transport = SerialTransport(url)
        try:
            def use():
                for _ in range(1000):
                    transport.write(b"a" * 1000)
                    transport.read(0.01)

            with pytest.raises(DeviceError, match=rf"^the connection to {url} ended during use; "
                               r"check whether its server and the board are still there$"):
                use()
        finally:
            transport.close()


# ---- Ports that stop, or go.

@pytest.mark.parametrize("kind", ["terminal", "socket"])
def test_write_timeout(kind):
    """A device that reads no more is given up, with how much it was sent."""
    with contextlib.ExitStack() as stack:
        if kind == "terminal":
            _, port = stack.enter_context(terminal())
        else:
            server, number = stack.enter_context(listener())
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            port = f"socket://127.0.0.1:{number}"
        transport = SerialTransport(port, write_timeout=0.2)
        stack.callback(transport.close)
        size = 1 << 24
        with pytest.raises(WriteTimeout, match=rf"^{port} has accepted no data for 0\.2 seconds, "
                           rf"after \d+ of {size}; reset the board or plug it in again$") as caught:
            transport.write(bytes(size))
        assert 0 < caught.value.sent < size


def test_write_timeout_of_rfc2217(monkeypatch):
    """There the time-out is that of the socket."""
    with terminal() as (_, name), listener() as (server, port), \
            running(rfc2217_server, server, name):
        transport = SerialTransport(f"rfc2217://127.0.0.1:{port}")

        def stuck(octets):
            raise TimeoutError("timed out")

        inner = transport._serial
        monkeypatch.setattr(inner, "_socket", type("Stuck", (), {"sendall": staticmethod(stuck)}))
        with pytest.raises(WriteTimeout, match=r"has accepted no data for 5 seconds, after 0 of "
                                               r"3; "):
            transport.write(b"abc")
        monkeypatch.undo()
        transport.close()


def test_requests_that_were_not_sent():
    """Which request a device has not read any more, and how many it has answered."""
    with terminal() as (_, port):
        transport = SerialTransport(port, write_timeout=0.2)
        exchange = Exchange(transport, timeout=0.01, retries=100)
        with pytest.raises(DeviceError) as caught:
            exchange.run([(Message.KEY, bytes(14))] * 1000, window=128)
        transport.close()
    found = re.fullmatch(
        rf"{port} has accepted no data for 0\.2 seconds: ([\d,]+) bytes were sent since it was "
        r"opened, request ([\d,]+) of 1,000 \(KEY\) is the first that was not sent whole, and 0 "
        r"were answered; reset the board or plug it in again, and run again", str(caught.value))
    assert found
    assert int(found[1].replace(",", "")) >= 2000
    assert 1 <= int(found[2].replace(",", "")) <= 128


def test_port_that_goes():
    """The other end is closed: what a pulled plug looks like (EIO)."""
    with terminal() as (master, port):
        transport = SerialTransport(port)
        os.close(master)
        for act in (lambda: transport.write(b"a"), lambda: transport.read(0.01)):
            # Linux says either that reading fails, or that there is something and gives nothing.
            with pytest.raises(DeviceError, match=rf"^{port} disappeared during use(; |, or "
                               r"another program .* or )check the cable and plug the board in "
                               r"again$"):
                act()
        transport.close()


def test_port_of_two_programs(monkeypatch):
    """The system says that there are bytes, and there are none: gone, or read by another."""
    with terminal() as (master, port):
        transport = SerialTransport(port)
        os.write(master, b"a")
        with monkeypatch.context() as patch:
            patch.setattr(serial.serialposix.os, "read", lambda *args: b"")
            with pytest.raises(DeviceError, match=rf"^{port} disappeared during use, or "
                               r"another program reads it as well; close that, or check the cable "
                               r"and plug the board in again$"):
                transport.read(0.01)
        transport.close()


def test_directory(tmp_path):
    with pytest.raises(DeviceError, match=rf"^{re.escape(str(tmp_path))} is a directory, not a "
                       r"serial port$"):
        Device.open(str(tmp_path))


# ---- The command.

@pytest.fixture
def problem(tmp_path):
    q, k, v = tensors()
    np.savez(tmp_path / "problem.npz", q=q, k=k, v=v)
    return str(tmp_path / "problem.npz")


def test_run_through_a_socket(problem, capsys):
    with listener() as (server, port), running(at_socket, server):
        url = f"socket://127.0.0.1:{port}"
        assert main(["run", problem, "--port", url, "--baud", "1000000", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["device"], shown["bit_exact"], shown["queries"]) == (url, True, 4)


@pytest.mark.parametrize(("port", "sentence"), [
    ("/", "/ is a directory, not a serial port"),
    ("/dev/null", "/dev/null is not a serial port"),
    ("/dev/ttyNONE", ("there is no port /dev/ttyNONE; plug the board in, and list the ports with "
                      "`python -m serial.tools.list_ports`")),
    ("socket://127.0.0.1", ("socket://127.0.0.1 needs a host and a port; write socket://HOST:PORT, "
                            "with a port from 1 to 65535")),
])
def test_run_without_a_port(problem, capsys, port, sentence):
    assert main(["run", problem, "--port", port, "--baud", "1000000"]) == 2
    assert capsys.readouterr() == ("", f"nearbit: {sentence}\n")


def test_interrupted_run(problem):
    """Ctrl-C while a device keeps its host waiting: the port is given back."""
    with terminal() as (master, port):
        process = subprocess.Popen(
            [sys.executable, "-m", "nearbit", "run", problem, "--port", port, "--baud", "1000000"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
        try:
            # Until it has asked.
            while not select.select([master], [], [], 0.01)[0] and process.poll() is None:
                pass
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
        assert (process.returncode, *said) == (130, "", "nearbit: interrupted\n")
        SerialTransport(port).close()


def test_closed_in_any_case(monkeypatch):
    """Whatever ends the opening of a device, its port is closed."""
    class Port:
        name, baud, closed = "the port", 0, 0

        def read(self, timeout):
            raise KeyboardInterrupt

        def close(self):
            self.closed += 1

    port = Port()
    with pytest.raises(KeyboardInterrupt):
        Device.open(port)
    assert port.closed == 1
