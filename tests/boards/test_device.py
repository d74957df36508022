# amaranth: UnusedElaboratable=no
"""The host's driver, on the simulated device and on all that is none."""

import contextlib
import os
import pty
import random
import re
import threading
import tty

import numpy as np
import pytest

from nearbit_boards import transport as transports
from nearbit_boards.device import Device
from nearbit_boards.protocol import (
    Block,
    Message,
    Status,
    identity_bytes,
    reply,
    request,
)
from nearbit_boards.simulated import PinTransport, SimulatedTransport
from nearbit_boards.top import BoardTop
from nearbit_boards.transport import DeviceError, SerialTransport
from nearbit_model import golden
from nearbit_model.attention import attend
from nearbit_model.config import PRESETS, Config, Rescore
from nearbit_model.prepare import TensorError, prepare
from nearbit_model.quantize import Values, codes, exp_table, values
from nearbit_model.transfers.payload import Port


TINY = PRESETS["tiny"]
RESCORE = Config(key_bits=4, value_dim=2, capacity=8, lanes=1, value_lanes=2, top_n=3, exp_tables=1,
                 queries=2, weight_bits=8, rescore=Rescore(head_dim=4, lanes=2, shared=True))
SMALL = Config(key_bits=4, value_dim=2, capacity=4, lanes=1, value_lanes=2, top_n=2, exp_tables=1)
TIMEOUT = 0.005


def simulated(config=TINY):
    # The same parameters as in the other tests: each set of them is compiled.
    return SimulatedTransport(config, version=(0, 1, 0), clock=12_000_000, timeout=256)


def opened(transport=None, **options):
    return Device.open(simulated() if transport is None else transport, timeout=TIMEOUT,
                       **options)


def tensors(config, *, heads=2, kv_heads=1, queries=5, tokens=40, seed=1):
    rng = np.random.default_rng(seed)
    dim = config.key_bits
    return (rng.normal(size=(heads, queries, dim)), rng.normal(size=(kv_heads, tokens, dim)),
            rng.normal(size=(kv_heads, tokens, config.value_dim)))


def tokens(config, count, seed=1):
    """Codes, value vectors and two exp tables of one key head."""
    rng = np.random.default_rng(seed)
    return (codes(rng.normal(size=(count, config.key_bits))),
            values(rng.normal(size=(count, config.value_dim)), config.value_bits, unit=0.1),
            exp_table(np.array([0.2, 0.5]), config.key_bits, config.weight_bits))


class Noisy:
    """A transport that damages, drops and adds bytes in both directions."""

    def __init__(self, inner, seed, chance):
        self.inner = inner
        self.name, self.baud = inner.name, inner.baud
        self.rng = random.Random(seed)
        self.chance = chance

    def damage(self, octets):
        result = bytearray()
        for octet in octets:
            if self.rng.random() < self.chance:
                kind = self.rng.randrange(3)
                if kind == 0:
                    result.append(octet ^ 1 << self.rng.randrange(8))
                elif kind == 1:
                    result += bytes([octet, self.rng.randrange(256)])
                continue
            result.append(octet)
        return bytes(result)

    def write(self, octets):
        self.inner.write(self.damage(octets))

    def read(self, timeout):
        # Nothing means silence, so what is damaged to nothing is read on.
        while True:
            octets = self.inner.read(timeout)
            damaged = self.damage(octets)
            if damaged or not octets:
                return damaged

    def close(self):
        self.inner.close()


class Script:
    """A transport that answers each write with given bytes."""

    name = "the script"
    baud = 0

    def __init__(self, *answers):
        self.answers = list(answers)
        self.waiting = []
        self.closed = False

    def write(self, octets):
        if self.answers:
            answer = self.answers.pop(0)
            self.waiting.append(answer(octets) if callable(answer) else answer)

    def read(self, timeout):
        return self.waiting.pop(0) if self.waiting else b""

    def close(self):
        self.closed = True


@pytest.mark.parametrize("options", [
    {}, {"n": 3, "sink": 2, "recent": 4, "causal": True}, {"n": 16}])
def test_attention(options):
    """Equal to the golden model to the bit, with several key heads and a trace."""
    q, k, v = tensors(TINY, heads=6, kv_heads=2, queries=7)
    with opened() as device:
        assert (device.config, device.identity.version) == (TINY, "0.1.0")
        run = device.attention(q, k, v, **options)
        prepared = prepare(q, k, v, TINY, **options)
        assert run.result.difference(attend(prepared)) is None
        assert not run.result.errors.any()
        assert run.result.selected.shape[-1] == prepared.n + prepared.sink + prepared.recent
        assert run.sent > 6 * 7 * 8
        assert run.received > 6 * 7 * 17
        assert 0 < run.compute_seconds == pytest.approx(
            (run.result.cycles - 2 * 40 * 2 - 6 * 9) / 12e6, rel=0.3)
        assert run.transfer_seconds <= run.seconds
        untraced = device.attention(q, k, v, trace=False, **options).result
        np.testing.assert_array_equal(untraced.output, run.result.output)
        state = device.info().state
        assert (state.rejected, state.lost, state.loaded) == (0, 0, 40)


def test_load_append_attend():
    """A decode loop: what is appended is there, what was loaded stays."""
    k_codes, v, exp_tables = tokens(TINY, 64)
    q_codes = codes(np.random.default_rng(2).normal(size=(2, 3, 8)))

    def part(start, stop):
        return Values(v.elements[start:stop], v.scales[start:stop], v.unit)

    with opened() as device:
        device.load(k_codes[:30], part(0, 30), exp_tables)
        for start, stop in ((30, 31), (31, 50), (50, 64)):
            device.append(k_codes[start:stop], part(start, stop))
            assert device.info().state.loaded == stop
            for options in ({"n": 4, "sink": 1, "recent": 2},
                            {"n": 3, "first": 7, "counts": np.array([5, 1, stop - 7])}):
                run = device.attend(q_codes, **options)
                wanted = golden.attend(
                    q_codes, k_codes[None, :stop],
                    Values(v.elements[None, :stop], v.scales[None, :stop], v.unit[None]),
                    exp_tables,
                    config=TINY, **{"counts": np.full(3, stop), **options})
                for name in ("output_int", "selected", "distances", "weights"):
                    np.testing.assert_array_equal(getattr(run.result, name), getattr(wanted, name))
        one = device.attend(q_codes[:1], n=2, trace=False)
        assert one.result.output_int.shape == (1, 3, 8)
        # A new load begins from nothing.
        device.load(k_codes[:2], part(0, 2), exp_tables[:1])
        assert device.info().state.loaded == 2
        device.reset()
        assert device.info().state.loaded == 0
        with pytest.raises(DeviceError, match=r"^nothing is loaded into the device yet; load keys "
                           r"and values first$"):
            device.attend(q_codes, n=1)


def test_appending_packs_what_is_appended(monkeypatch):
    """Not the whole store for each token; nor does a query pack what is loaded."""
    k_codes, v, exp_tables = tokens(TINY, 40)
    q_codes = codes(np.random.default_rng(2).normal(size=(2, 3, 8)))
    packed, pack = [], Port.pack

    def count(port, fields, number):
        packed.append((port.name, number))
        return pack(port, fields, number)

    monkeypatch.setattr(Port, "pack", count)
    with opened() as device:
        device.load(k_codes[:30], Values(v.elements[:30], v.scales[:30], v.unit), exp_tables)
        assert packed == [("i_key", 30), ("i_value", 60), ("i_exp_table", 18)]
        packed.clear()
        device.append(k_codes[30:31], Values(v.elements[30:31], v.scales[30:31], v.unit))
        assert packed == [("i_key", 1), ("i_value", 2)]
        packed.clear()
        run = device.attend(q_codes, n=4)
        assert [(name, number) for name, number in packed if name.startswith("i_")] == [
            ("i_command", 3)]
        # Nothing is loaded meanwhile: all cycles are the commands'.
        assert run.result.load_cycles.tolist() == [0]
        assert run.compute_seconds == run.result.cycles / 12e6


def test_progress():
    """Never falls back, and ends with all requests; cycles are those of answered commands."""
    q, k, v = tensors(TINY, heads=4, kv_heads=2, queries=3, tokens=20)
    k_codes, stored, exp_tables = tokens(TINY, 20)
    seen = []

    def progress(*state):
        seen.append(state)

    with opened() as device:
        run = device.attention(q, k, v, progress=progress)
        # For each key head 20 keys, 40 beats of values, 18 entries, 3 commands of 2 queries.
        assert seen == sorted(seen)
        assert {total for _, _, total in seen} == {2 * 81}
        assert seen[-1][1] == 2 * 81
        assert 0 == seen[0][0] < seen[-1][0] < run.result.cycles
        seen.clear()
        device.load(k_codes, stored, exp_tables, progress=progress)
        assert seen == sorted(seen)
        assert seen[-1] == (0, 78, 78)


@pytest.mark.parametrize("shared", [False, True])
def test_rescoring(shared):
    rng = np.random.default_rng(4)
    q, k = rng.normal(size=(4, 5, 4)), rng.normal(size=(2, 8, 4))
    v = rng.normal(size=(2, 8, 2))
    with opened(simulated(RESCORE), config=RESCORE) as device:
        run = device.attention(q, k, v, n=2, recent=1, method="hash", shared=shared)
        golden_one = attend(run.result.prepared)
        assert run.result.difference(golden_one) is None
        assert run.result.scores is not None
        # By tokens of integers, for one key head.
        prepared = prepare(q[:2], k[:1], v[:1], RESCORE, n=2, method="hash", shared=shared)
        rescore, stored = prepared.rescore, prepared.values
        device.load(prepared.k_codes[0, :5], Values(stored.elements[0, :5], stored.scales[0, :5],
                                                    stored.unit[0], rotated=True),
                    prepared.exp_tables[:1], rescore_keys=rescore.keys[0, :5])
        device.append(prepared.k_codes[0, 5:], Values(
            stored.elements[0, 5:], stored.scales[0, 5:], stored.unit[0], rotated=True),
            rescore_keys=rescore.keys[0, 5:])
        answer = device.attend(prepared.q_codes, n=2, rescore_queries=rescore.queries,
                               multipliers=rescore.multipliers, shared=shared).result
        assert answer.difference(attend(prepared)) is None
        assert device.info().state.rescore_loaded == 8


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_noise(seed):
    """Bytes that are damaged, lost and added in both directions: repeated until all is right."""
    q, k, v = tensors(TINY, queries=6)
    inner = simulated()
    with opened(Noisy(inner, seed, 0.002), retries=20) as device:
        run = device.attention(q, k, v, n=5, recent=1)
        assert run.result.difference(attend(run.result.prepared)) is None
        assert run.repeated > 0


@pytest.mark.parametrize("seed", [1])
def test_noise_with_rescoring(seed):
    rng = np.random.default_rng(4)
    q, k, v = (rng.normal(size=shape) for shape in ((2, 10, 4), (1, 8, 4), (1, 8, 2)))
    with opened(Noisy(simulated(RESCORE), seed, 0.004), retries=20) as device:
        run = device.attention(q, k, v, n=3, method="hash")
        assert run.result.difference(attend(run.result.prepared)) is None
        assert run.repeated > 0


def test_half_a_reply_at_first():
    """What an earlier host had asked for, or began to, is no answer to this one."""
    transport = simulated()
    transport.write(request(Message.IDENTIFY, 0) * 3 + request(Message.KEY, 0, b"ab")[:5])
    with opened(transport) as device:
        assert device.config == TINY


@pytest.mark.parametrize("drift", [0.0, 0.02, -0.02])
def test_pins(drift):
    """A board top, bit by bit, with a host whose clock is off."""
    transport = PinTransport(SMALL, timeout_bytes=20, drift=drift)
    q, k, v = tensors(SMALL, heads=1, queries=4, tokens=4)
    with opened(transport) as device:
        assert device.identity.clock == 12_000_000
        run = device.attention(q, k, v, n=2)
        assert run.result.difference(attend(run.result.prepared)) is None
        assert run.repeated == 0
        assert device.info().state.lost == 0
        # Noise on the line: nothing that is loaded changes.
        k_codes, stored, exp_tables = tokens(SMALL, 4)
        device.load(k_codes, stored, exp_tables[:1])
        before = device.attend(k_codes[None], n=2).result
        rng = random.Random(7)
        for _ in range(40):
            transport.levels([(rng.randrange(2), rng.randrange(1, 60)) for _ in range(30)])
            transport.levels([(1, 12 * 12)])
        transport.read(0.01)
        state = device.info().state
        assert state.loaded == 4
        assert state.lost > 0
        after = device.attend(k_codes[None], n=2).result
        np.testing.assert_array_equal(after.output_int, before.output_int)


def test_overrun():
    """Requests in a row without waiting: some are lost, none does harm, and it is counted."""
    transport = PinTransport(SMALL, timeout_bytes=20)
    with opened(transport) as device:
        transport.write(request(Message.IDENTIFY, 9) * 8)
        came = b""
        while octets := transport.read(0.001):
            came += octets
        assert came.count(bytes([0x5A, 9, Status.OK, Block.IDENTITY])) in range(2, 8)
        assert device.info().state.lost > 0
        assert device.info().identity == device.identity


def serve(master, transport, stop):
    """Join a pseudo-terminal and a simulated device."""
    while not stop.is_set():
        with contextlib.suppress(BlockingIOError):
            transport.write(os.read(master, 4096))
        octets = transport.read(0.0001)
        if octets:
            os.write(master, octets)


@contextlib.contextmanager
def terminal():
    master, slave = pty.openpty()
    tty.setraw(master)
    tty.setraw(slave)
    os.set_blocking(master, False)
    try:
        yield master, os.ttyname(slave)
    finally:
        os.close(master)
        os.close(slave)


def test_serial_port():
    """The whole way through the operating system's serial port."""
    q, k, v = tensors(TINY, queries=2)
    with terminal() as (master, port):
        stop = threading.Event()
        transport = simulated()
        thread = threading.Thread(target=serve, args=(master, transport, stop))
        thread.start()
        try:
            with Device.open(port, timeout=5) as device:
                run = device.attention(q, k, v, n=4)
                assert run.result.difference(attend(run.result.prepared)) is None
                with pytest.raises(DeviceError, match=rf"^{port} is in use by another program; "
                                   r"close it first$"):
                    Device.open(port)
        finally:
            stop.set()
            thread.join()
        transport.close()
        with pytest.raises(DeviceError, match=rf"^{port} does not answer, though it was asked 2 "
                           r"times; check that the board has its bitstream, that this is its port, "
                           r"and its baud rate \(this is 115200\)$"):
            Device.open(port, baud=115_200, timeout=0.01, retries=1)


def test_no_port(tmp_path):
    with pytest.raises(DeviceError, match=r"^there is no port /dev/ttyNONE; plug the board in, and "
                       r"list the ports with `python -m serial.tools.list_ports`$"):
        Device.open("/dev/ttyNONE")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DeviceError, match=rf"^{re.escape(str(file))} is not a serial port$"):
        Device.open(str(file))


def test_port_that_vanishes():
    with terminal() as (_, port):
        transport = SerialTransport(port)
        os.close(transport._serial.fd)
        for act in (lambda: transport.write(b"a"), lambda: transport.read(0.01)):
            with pytest.raises(DeviceError, match=rf"^{port} disappeared during use; check "
                               r"the cable and plug the board in again$"):
                act()
        transport._serial.fd = None


@pytest.mark.parametrize(("error", "sentence"), [
    (PermissionError(13, "Permission denied"),
     (r"cannot be opened by this user; join the group that owns it, usually with: sudo usermod -a "
      r"-G dialout \$USER")),
    (OSError(16, "Device or resource busy"), "is in use by another program; close it first"),
    (OSError(5, "Input/output error"), r"cannot be opened: \[Errno 5\] Input/output error"),
    (ValueError("Invalid baud rate"), "cannot be set to 9 baud; build the device for another rate"),
])
def test_port_problems(monkeypatch, error, sentence):
    def refuse(*args, **options):
        raise error

    monkeypatch.setattr(transports.serial, "Serial", refuse)
    with pytest.raises(DeviceError, match=f"^port {sentence}$"):
        Device.open("port", baud=9)


def test_silent_device():
    script = Script()
    with pytest.raises(DeviceError, match=r"^the script does not answer, though it was asked 4 "
                       r"times; check that the board has its bitstream, that this is its port, and "
                       r"its baud rate$"):
        opened(script)
    assert script.closed


@pytest.mark.parametrize("octets", [b"login: ", b"\x5a" * 50, bytes(range(256)) * 40])
def test_device_of_garbage(octets):
    with pytest.raises(DeviceError, match=r"^the script sends data that is not a Nearbit message; "
                       r"check that this is the board's port, and the baud rate of its "
                       r"bitstream$"):
        opened(Script(*[octets] * 9))


def test_replies_to_others():
    """A device that never stops to answer what was not asked."""
    answers = reply(Status.OK, 99) * 1000

    class Endless(Script):
        def read(self, timeout):
            return answers

    with pytest.raises(DeviceError, match=r"^the script does not answer, though it was asked 4 "):
        opened(Endless())


def test_echo():
    with pytest.raises(DeviceError, match=r"^the script sends data that is not a Nearbit message"):
        opened(Script(*[lambda octets: octets] * 9))


def test_damaged_each_time():
    with pytest.raises(DeviceError, match=r"^the script received a request 4 times and found it "
                       r"damaged each time \(CRC\); check the cable$"):
        opened(Script(*[lambda octets: reply(Status.CRC, octets[2])] * 9))


def identified(config, version=(1, 2, 3)):
    block = bytes([Block.IDENTITY]) + identity_bytes(config, version, 12_000_000)
    return lambda octets: reply(Status.OK, octets[2], block)


def test_another_configuration():
    script = Script(identified(TINY.replace(capacity=32, value_bits=7)))
    with pytest.raises(DeviceError, match=r"^the script was built from another configuration, with "
                       r"value_dim 8 instead of 4, capacity 32 instead of 64, value_bits 7 instead "
                       r"of 8; build and flash your configuration, or prepare the problem for the "
                       r"device's$"):
        opened(script, config=TINY.replace(value_dim=4))
    assert script.closed
    with opened(Script(identified(TINY.replace(cell="ice40"))), config=TINY) as device:
        assert device.config.cell == "ice40"
        with pytest.raises(DeviceError, match="another configuration"):
            device.run(prepare(*tensors(SMALL, heads=1, tokens=4, queries=1), SMALL, n=1))


def test_other_fields():
    octets = identity_bytes(TINY, (1, 2, 3), 1)
    block = bytes([Block.IDENTITY, len(octets) + 1, *octets[1:], 0])
    with pytest.raises(DeviceError, match=r"^the script cannot be used: it was built with Nearbit "
                       r"1\.2\.3, whose configurations have other fields than those of this "
                       r"release; build and flash it with this release$"):
        opened(Script(lambda octets: reply(Status.OK, octets[2], block)))


def test_another_device_than_before():
    with opened(Script(identified(TINY), identified(TINY, (1, 2, 4)))) as device, \
            pytest.raises(DeviceError, match=r"^the script is another device than the one that was "
                          r"opened; open it again$"):
        device.info()


def test_refused_request():
    def refuse(octets):
        return reply(Status.FIELD, octets[2])

    with opened(Script(identified(TINY), refuse)) as device, \
            pytest.raises(DeviceError, match=r"^the script refuses a request of type RESET with "
                          r"the status FIELD; the request does not match its configuration$"):
        device.reset()


def test_broken_device():
    def short(octets):
        return reply(Status.OK, octets[2], bytes([Block.ERROR + 3, Block.CYCLES, 1, 0, 0]))

    def fine(octets):
        return reply(Status.OK, octets[2])

    k_codes, v, exp_tables = tokens(TINY, 1)
    script = Script(identified(TINY), fine, lambda octets: b"".join(
        reply(Status.OK, sequence) for sequence in range(256)), short)
    with opened(script) as device:
        device.load(k_codes, v, exp_tables)
        with pytest.raises(DeviceError, match=r"^the script answers a command of 2 queries with 1; "
                                              r"its "
                           r"bitstream is broken$"):
            device.attend(codes(np.ones((1, 1, 8))), n=1)


def test_wrong_arguments():
    k_codes, v, exp_tables = tokens(TINY, 64)
    part = Values(v.elements[:4], v.scales[:4], v.unit)
    q_codes = codes(np.ones((2, 1, 8)))
    with opened(Script(identified(TINY), *[
            lambda octets: b"".join(reply(Status.OK, sequence) for sequence in range(256))] * 9)
                ) as device:
        for arguments, message in [
            ((k_codes[:4], part, exp_tables[:, :3]),
             r"exp_tables must be \[heads, 9\] with 1 to 2 heads, not shape \(2, 3\)"),
            ((k_codes[0], part, exp_tables),
             r"k_codes must be \[tokens, 1\] with at least one token, not shape \(1,\)"),
            ((k_codes[:5], part, exp_tables),
             (r"values must have elements of shape \(5, 8\) and scales of shape \(5,\), not "
              r"\(4, 8\) and \(4,\)")),
        ]:
            with pytest.raises(ValueError, match=f"^{message}$"):
                device.load(*arguments)
        with pytest.raises(ValueError, match=r"^rescore_keys cannot be loaded: the device has no "
                           r"rescoring unit$"):
            device.load(k_codes[:4], part, exp_tables, rescore_keys=np.zeros((4, 8), np.int8))
        with pytest.raises(DeviceError, match=r"^nothing is loaded"):
            device.append(k_codes[:4], part)
        device.load(k_codes[:4], part, exp_tables)
        with pytest.raises(ValueError, match=r"^k_codes must have at most 60 tokens, as the "
                                             r"device's "
                           r"capacity is 64 and 4 are loaded, not 64$"):
            device.append(k_codes, v)
        with pytest.raises(ValueError, match=r"^values must have the unit and rotation of those "
                           r"that are loaded \(0\.1\), not 0\.2$"):
            device.append(k_codes[:1], Values(v.elements[:1], v.scales[:1], np.array(0.2)))
        for options, message in [
            ({"n": 17}, r"n \+ sink \+ recent must be at most top_n \(16\), not 17"),
            ({"n": 1, "first": 1, "counts": np.array([4])},
             (r"counts must be from 1 to 3, the keys that are loaded from first \(1\) on, not 4 to "
              r"4")),
            ({"n": 1, "counts": np.array([1.5])},
             r"counts must be 1 integers, not float64 of shape \(1,\)"),
            ({"n": 1, "shared": True}, "rescoring needs rescore keys, and none are loaded"),
        ]:
            with pytest.raises(ValueError, match=f"^{message}$"):
                device.attend(q_codes, **options)
        with pytest.raises(ValueError, match=r"^q_codes must have at most as many heads as "
                                             r"exp_tables "
                           r"are loaded \(2\), not 3$"):
            device.attend(codes(np.ones((3, 1, 8))), n=1)
        with pytest.raises(ValueError, match=r"^q_codes must be \[heads, queries, 1\] with no axis "
                           r"empty, not shape \(1, 1\)$"):
            device.attend(q_codes[0], n=1)
        with pytest.raises(TensorError, match="must equal the configuration's key_bits"):
            device.attention(*tensors(SMALL, tokens=4))


def test_exact_arguments():
    rng = np.random.default_rng(4)
    prepared = prepare(*(rng.normal(size=shape) for shape in ((2, 1, 4), (1, 8, 4), (1, 8, 2))),
                       RESCORE, n=2, method="hash")
    whole = Values(prepared.values.elements[0], prepared.values.scales[0],
                   prepared.values.unit[0])
    with opened(simulated(RESCORE)) as device:
        with pytest.raises(ValueError, match=r"^rescore_keys must have shape \(8, 4\), not "
                           r"\(8, 3\)$"):
            device.load(prepared.k_codes[0], whole, prepared.exp_tables[:1],
                        rescore_keys=prepared.rescore.keys[0, :, :3])
        device.load(prepared.k_codes[0, :4], Values(whole.elements[:4], whole.scales[:4],
                                                    whole.unit),
                    prepared.exp_tables[:1], rescore_keys=prepared.rescore.keys[0, :4])
        with pytest.raises(ValueError, match=r"^rescore_keys must be given for all tokens or for "
                           r"none$"):
            device.append(prepared.k_codes[0, :1], Values(
                whole.elements[:1], whole.scales[:1], whole.unit))
        with pytest.raises(ValueError, match=r"^rescore_queries and multipliers are needed: "
                                             r"rescore "
                           r"keys are loaded$"):
            device.attend(prepared.q_codes, n=1)


def test_refused_top():
    with pytest.raises(ValueError, match=r"^Timeout must be at least 2 bytes, not 1$"):
        BoardTop(SMALL, clock=12_000_000, timeout_bytes=1)
    with pytest.raises(ValueError, match=r"^Baud must be within 2 %"):
        BoardTop(SMALL, clock=25_000_000, baud=3_000_000)
