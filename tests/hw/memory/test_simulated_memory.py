# amaranth: UnusedElaboratable=no
"""The memory of the engines: in C++, in Python, and that of the benches, which is another one."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest

from nearbit_model.memory_timing import DECERR, SLVERR, MemoryTiming
from nearbit_model.transfers.program import Program
from nearbit_sim.bench import run_bench
from nearbit_sim.compiled import CompiledEngine
from nearbit_sim.engine import SimulationError
from nearbit_sim.icarus import IcarusEngine

from .through import Through


HERE = Path(__file__).parent
SIZE = 1 << 15


@functools.cache
def engine(kind, **options):
    return kind(Through(**options))


def bursts(rng, count, *, id_bits=2, beat=8, longest=16, size=SIZE):
    """Bursts that AXI4 allows."""
    beats = rng.integers(1, longest + 1, count)
    room = 4096 // beat
    first = rng.integers(0, room - beats + 1)
    address = rng.integers(0, size // 4096, count) * 4096 + first * beat
    return {"id": rng.integers(0, 1 << id_bits, count), "addr": address, "len": beats - 1}


def words(rng, asked, beat=8):
    """Beats that belong to bursts to write."""
    beats = asked["len"] + 1
    last = np.zeros(beats.sum(), np.int64)
    last[np.cumsum(beats) - 1] = 1
    return {"data": rng.integers(0, 1 << 63, len(last), dtype=np.uint64),
            "strb": rng.integers(0, 1 << beat, len(last)), "last": last}


def program(hardware, rng, *, reads=1, count=40, **options):
    """Some bursts on all buses, one phase after another."""
    made = Program(hardware.ports)
    made.memory = rng.integers(0, 256, SIZE, dtype=np.uint8)
    for part in range(2):
        asked = {f"i_ar__{bus}": bursts(rng, count, **options) for bus in range(reads)}
        writes = bursts(rng, count // 2, **options)
        made.add({**asked, "i_aw": writes, "i_w": words(rng, writes)}, delay=13 * part)
        made.expect({"o_b": count // 2, **{
            f"o_r__{bus}": int((asked[f"i_ar__{bus}"]["len"] + 1).sum())
            for bus in range(reads)}})
    return made


def asserts_equal(ours, theirs):
    assert ours.cycles == theirs.cycles
    for one, other in zip(ours.accepted, theirs.accepted, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    for name in ours.outputs:
        np.testing.assert_array_equal(ours.outputs[name].cycles, theirs.outputs[name].cycles)
        np.testing.assert_array_equal(ours.outputs[name].words, theirs.outputs[name].words)
    np.testing.assert_array_equal(ours.memory, theirs.memory)
    for one, other in zip(ours.traffic, theirs.traffic, strict=True):
        assert (one.name, one.is_read, one.beat_bytes, one.bursts, one.beats) == (
            other.name, other.is_read, other.beat_bytes, other.bursts, other.beats)
        for name in ("addresses", "lengths", "asked", "cycles"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


TIMINGS = {
    "fast": {"latency": 1},
    "constant": {"latency": 37},
    "random": {"latency": 5, "latency_to": 90, "seed": 7},
    "slow": {"latency": 3, "pace": 0.3, "outstanding": 2},
    "reordered": {"latency": 1, "latency_to": 60, "reorder": True, "seed": 11},
    "paused": {"latency": 9, "latency_to": 12, "reorder": True, "ar_pause": 0.5, "r_pause": 0.3,
               "aw_pause": 0.6, "w_pause": 0.4, "b_pause": 0.7, "seed": 2**63 - 1},
    "shared": {"latency": 4, "shared_pace": True},
    "shared slowly": {"latency": 4, "shared_pace": True, "pace": 1 / 3, "r_pause": 0.2},
    "shared, two": {"latency": 4, "shared_pace": True, "pace": 1.5, "outstanding": 3},
    "faults": {"latency": 20, "faults": {8 * beat + beat % 8: 2 + beat % 2
                                         for beat in range(0, SIZE // 8, 3)}},
    "silent": {"latency": 20, "silent_from": 150, "silent_to": 900},
    "some silent": {"latency": 20, "silent_at": tuple(range(0, SIZE, 777)), "silent_to": 700},
}


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("name", TIMINGS)
def test_both_engines(name, slow):
    """The same transfers in the same cycles, whatever is drawn."""
    rng = np.random.default_rng(sorted(TIMINGS).index(name))
    compiled, icarus = (engine(kind, reads=3, slow=slow) for kind in (CompiledEngine, IcarusEngine))
    made = program(compiled, rng, reads=3)
    timing = MemoryTiming(**TIMINGS[name])
    before = made.memory.copy()
    one, other = (hardware.run(made, timing=timing, log=True, patience=3000)
                  for hardware in (compiled, icarus))
    asserts_equal(one, other)
    np.testing.assert_array_equal(made.memory, before)
    assert [traffic.name for traffic in one.traffic] == ["axi__0", "axi__1", "axi__2", "axi_w"]
    assert [traffic.bytes for traffic in one.traffic] == [8 * len(traffic.cycles)
                                                          for traffic in one.traffic]


@pytest.mark.parametrize("timing", [
    {"latency": 1}, {"latency": 2}, {"latency": 100}, {"latency": 7, "outstanding": 3},
    {"latency": 13, "pace": 0.25}, {"latency": 5, "faults": {0x108: SLVERR, 0x2008: DECERR}}])
@pytest.mark.parametrize("slow", [False, True])
def test_as_in_the_benches(timing, slow, tmp_path):
    """With a constant latency, the cycles of all transfers are those of the benches' memory."""
    rng = np.random.default_rng(3)
    hardware = engine(CompiledEngine, slow=slow)
    made = Program(hardware.ports)
    # The lower half is read, the upper half written.
    asked, writes = bursts(rng, 60, size=SIZE // 2), bursts(rng, 25, size=SIZE // 2)
    asked["addr"][:2], asked["len"][:2] = [0x100, 0x2000], 4
    writes["addr"] += SIZE // 2
    writes["id"][:] = 0
    sent = {"i_ar__0": asked, "i_aw": writes, "i_w": words(rng, writes)}
    made.memory = rng.integers(0, 256, SIZE, dtype=np.uint8)
    made.add(sent)
    made.expect({"o_r__0": int((asked["len"] + 1).sum()), "o_b": 25})
    given = MemoryTiming(**timing)
    outcome = hardware.run(made, timing=given, log=True)

    answer = tmp_path / "answer.json"
    run_bench(Through(slow=slow), HERE / "through_bench.py", parameters={
        "contents": made.memory.tobytes().hex(), "latency": given.latency, "pace": given.pace,
        "outstanding": given.outstanding, "faults": sorted(given.faults.items()),
        "answer": str(answer), "inputs": {
            name: [dict(zip(fields, map(int, row), strict=True))
                   for row in zip(*fields.values(), strict=True)]
            for name, fields in sent.items()}})
    theirs = json.loads(answer.read_text())
    read, write = outcome.traffic
    ours = {"ar": read.asked, "r": read.cycles, "aw": write.asked, "w": write.cycles,
            "b": outcome.outputs["o_b"].cycles}
    # That memory takes what is written as it comes.
    is_limited = "pace" in timing or "outstanding" in timing
    for channel in ("ar", "r") if is_limited else ours:
        assert ours[channel].tolist() == theirs["cycles"][channel], channel
    assert outcome.memory.tobytes().hex() == theirs["contents"]
    for field, numbers in outcome.outputs["o_r__0"].payloads.items():
        assert [beat[field] for beat in theirs["beats"]] == numbers.tolist()


def reads(hardware, asked, timing, **options):
    """Run some bursts on the buses, one of dictionaries of lists each."""
    made = Program(hardware.ports)
    made.memory = (np.arange(SIZE) * 7 % 251).astype(np.uint8)
    made.add({f"i_ar__{bus}": {name: np.array(values) for name, values in fields.items()}
              for bus, fields in enumerate(asked)})
    made.expect({f"o_r__{bus}": sum(length + 1 for length in fields["len"])
                 for bus, fields in enumerate(asked)})
    return hardware.run(made, timing=timing, log=True, **options)


@pytest.mark.parametrize("latency", [1, 2, 50])
def test_latency(latency):
    """From the address to the first beat; then a beat a cycle, also from burst to burst."""
    outcome = reads(engine(CompiledEngine), [{"id": [0, 0], "addr": [64, 4096], "len": [3, 1]}],
                    MemoryTiming(latency=latency))
    (read, _) = outcome.traffic
    assert read.asked.tolist() == [0, 1]
    assert read.cycles.tolist() == list(range(latency, latency + 6))
    beats = outcome.outputs["o_r__0"].payloads
    assert beats["last"].tolist() == [0, 0, 0, 1, 0, 1]
    expected = (np.arange(SIZE) * 7 % 251).astype(np.uint8).view("<u8")
    np.testing.assert_array_equal(beats["data"], expected[[8, 9, 10, 11, 512, 513]])
    assert not beats["resp"].any()
    assert (read.bursts, read.beats, read.bytes) == (2, 6, 48)
    assert (read.addresses.tolist(), read.lengths.tolist()) == ([64, 4096], [4, 2])


@pytest.mark.parametrize(("pace", "gaps"), [(1, [1] * 11), (1 / 3, [3] * 11), (0.75, [
    1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1]), (0.1, [10] * 11)])
def test_pace(pace, gaps):
    outcome = reads(engine(CompiledEngine), [{"id": [0], "addr": [0], "len": [11]}],
                    MemoryTiming(latency=30, pace=pace))
    assert np.diff(outcome.traffic[0].cycles).tolist() == gaps


@pytest.mark.parametrize(("pace", "rate"), [(1, 1), (0.5, 0.5), (2, 2), (2.5, 2.5)])
def test_shared_pace(pace, rate):
    """Ports of one memory: together they get its pace, and each its share."""
    asked = [{"id": [0] * 16, "addr": [0] * 16, "len": [15] * 16}] * 3
    outcome = reads(engine(CompiledEngine, reads=3), asked,
                    MemoryTiming(latency=3, pace=pace, shared_pace=True))
    cycles = np.concatenate([traffic.cycles for traffic in outcome.traffic[:3]])
    _, counts = np.unique(cycles, return_counts=True)
    assert counts.max() <= -(-pace // 1)
    span = cycles.max() - cycles.min() + 1
    assert abs(len(cycles) / span - rate) < 0.02 * rate
    for traffic in outcome.traffic[:3]:
        early = (traffic.cycles < cycles.min() + span // 2).sum()
        assert abs(early - 128) <= 2


def test_outstanding():
    outcome = reads(engine(CompiledEngine), [{"id": [0] * 9, "addr": [0] * 9, "len": [1] * 9}],
                    MemoryTiming(latency=20, outstanding=3))
    read = outcome.traffic[0]
    assert read.asked[:3].tolist() == [0, 1, 2]
    # Room is there in the cycle after one in which the last beat of a burst was offered.
    assert read.asked[3:].tolist() == (read.cycles[1::2][:6] + 1).tolist()


def test_order():
    """Of an ID in order, of different ones not."""
    rng = np.random.default_rng(5)
    asked = bursts(rng, 200)
    timing = MemoryTiming(latency=1, latency_to=200, reorder=True, seed=1)
    outcome = reads(engine(CompiledEngine), [asked], timing)
    beats = outcome.outputs["o_r__0"].payloads
    expected = (np.arange(SIZE) * 7 % 251).astype(np.uint8).view("<u8")
    for number in range(4):
        chosen = asked["id"] == number
        places = np.concatenate([address // 8 + np.arange(length + 1) for address, length in zip(
            asked["addr"][chosen], asked["len"][chosen], strict=True)])
        np.testing.assert_array_equal(beats["data"][beats["id"] == number], expected[places])
    assert (np.diff(beats["id"]) != 0).sum() > 500
    same = reads(engine(CompiledEngine), [asked], timing)
    asserts_equal(outcome, same)
    other = reads(engine(CompiledEngine), [asked], dataclasses.replace(timing, seed=2))
    assert (other.outputs["o_r__0"].payloads["id"] != beats["id"]).any()


@pytest.mark.parametrize("kind", [CompiledEngine, IcarusEngine])
def test_faults(kind):
    timing = MemoryTiming(latency=2, faults={0x13: SLVERR, 0x20: DECERR, 0x8010: SLVERR})
    hardware = engine(kind)
    outcome = reads(hardware, [{"id": [0, 0], "addr": [0, SIZE - 8], "len": [4, 0]}], timing)
    assert outcome.outputs["o_r__0"].payloads["resp"].tolist() == [0, 0, 2, 0, 3, 0]
    # Beyond the memory there is none.
    outcome = reads(hardware, [{"id": [1], "addr": [SIZE - 8 + 8], "len": [1]}], timing)
    assert outcome.outputs["o_r__0"].payloads["resp"].tolist() == [DECERR, DECERR]

    made = Program(hardware.ports)
    made.memory = np.zeros(SIZE, np.uint8)
    made.add({"i_aw": {"id": np.array([1, 2, 3, 0]), "addr": np.array([0, 0x40, SIZE, 0x20]),
                       "len": np.array([2, 1, 0, 0])},
              "i_w": {"data": np.arange(1, 8).astype(np.uint64), "strb": np.array([255] * 7),
                      "last": np.array([0, 0, 1, 0, 1, 1, 1])}})
    made.expect({"o_b": 4})
    outcome = hardware.run(made, timing=timing)
    answers = outcome.outputs["o_b"].payloads
    assert answers["id"].tolist() == [1, 2, 3, 0]
    assert answers["resp"].tolist() == [SLVERR, 0, DECERR, DECERR]
    assert outcome.memory[[0x40, 0x48]].tolist() == [4, 5]
    assert outcome.traffic[0].cycles.tolist() == [] # no log


def test_silence():
    asked = [{"id": [0, 1, 0, 1], "addr": [0, 64, 128, 192], "len": [1] * 4}]
    outcome = reads(engine(CompiledEngine), asked, MemoryTiming(
        latency=2, silent_from=4, silent_to=300))
    assert outcome.traffic[0].cycles.tolist() == [2, 3, 300, 301, 302, 303, 304, 305]
    assert outcome.traffic[0].asked.tolist() == [0, 1, 2, 3]
    outcome = reads(engine(CompiledEngine), asked, MemoryTiming(
        latency=2, silent_at=(72,), silent_to=300, reorder=True))
    ids = outcome.outputs["o_r__0"].payloads["id"]
    assert ids[:4].tolist() == [0] * 4 # of the other ID nothing comes before
    assert outcome.traffic[0].cycles[4:].tolist() == [300, 301, 302, 303]
    with pytest.raises(SimulationError, match=r"^the hardware has stopped: "):
        reads(engine(CompiledEngine), asked, MemoryTiming(latency=2, silent_from=4), patience=2000)


@pytest.mark.parametrize("kind", [CompiledEngine, IcarusEngine])
def test_waits(kind):
    """A phase that begins after some beats, and a run that ends with some last ones."""
    hardware = engine(kind)
    made = Program(hardware.ports)
    made.memory = np.zeros(SIZE, np.uint8)
    asked = {"id": np.array([1, 2]), "addr": np.array([0, 64]), "len": np.array([1, 2])}
    made.add({"i_ar__0": asked})
    made.add({"i_ar__0": asked}, after={"o_r__0": 3}, delay=5)
    made.lasts = {"o_r__0": 3}
    made.expect({"o_r__0": 100}) # of which nothing is waited for
    outcome = hardware.run(made, timing=MemoryTiming(latency=10))
    assert outcome.outputs["o_r__0"].cycles.tolist() == [10, 11, 12, 13, 14, 28, 29]
    assert [cycles["i_ar__0"].tolist() for cycles in outcome.accepted] == [[0, 1], [18, 19]]
    with pytest.raises(KeyError, match="there is no output stream 'o_r'"):
        made.add({"i_ar__0": asked}, after={"o_r": 3})


GOOD = {"id": [0, 1], "addr": [0, 8], "len": [0, 1]}


@pytest.mark.parametrize("kind", [CompiledEngine, IcarusEngine])
@pytest.mark.parametrize(("sent", "says"), [
    ({"i_ar__0": {"id": [0], "addr": [4092 - 4], "len": [1]}},
     r"axi__0 in cycle 0: 2 beats from 0xff8 on cross 4 KiB"),
    ({"i_ar__0": {"id": [0, 0], "addr": [0, 12], "len": [1, 1]}},
     r"axi__0 in cycle 1: the address 0xc is not that of a beat of 8 bytes"),
    ({"i_aw": {"id": [0], "addr": [4096 - 16], "len": [2]}},
     r"axi_w in cycle 0: 3 beats from 0xff0 on cross 4 KiB"),
    ({"i_aw": GOOD, "i_w": {"data": [1, 2, 3], "strb": [1, 1, 1], "last": [1, 1, 1]}},
     r"axi_w in cycle 2: wlast is 1 with beat 1 of 2 of the burst at 0x8"),
    ({"i_aw": GOOD, "i_w": {"data": [1, 2, 3], "strb": [1, 1, 1], "last": [0, 0, 1]}},
     r"axi_w in cycle 0: wlast is 0 with beat 1 of 1 of the burst at 0x0"),
])
def test_broken_bursts(kind, sent, says):
    hardware = engine(kind)
    made = Program(hardware.ports)
    made.memory = np.zeros(SIZE, np.uint8)
    made.add({name: {field: np.array(values, np.uint64 if field == "data" else np.int64)
                     for field, values in fields.items()} for name, fields in sent.items()})
    made.expect({"o_r__0": 1})
    with pytest.raises(SimulationError,
                       match=rf"^the hardware breaks a rule of AXI4 on {says}$"):
        hardware.run(made, timing=MemoryTiming(latency=1), patience=1000)


@pytest.mark.parametrize("kind", [CompiledEngine, IcarusEngine])
@pytest.mark.parametrize(("level", "says"), [
    ("withdraw", r"{}valid falls before a transfer"),
    ("bend", r"the payload of {} changes before a transfer")])
@pytest.mark.parametrize("channel", ["ar", "aw", "w"])
def test_broken_handshakes(kind, level, says, channel):
    hardware = engine(kind)
    made = Program(hardware.ports)
    rng = np.random.default_rng(9)
    asked = bursts(rng, 50, longest=1)
    sent = {"ar": {"i_ar__0": asked}, "aw": {"i_aw": asked},
            "w": {"i_w": {"data": np.zeros(50, np.uint64), "strb": np.zeros(50, np.int64),
                          "last": np.ones(50, np.int64)}}}
    made.memory = np.zeros(SIZE, np.uint8)
    made.add(sent[channel])
    made.levels = {level: 1}
    bus = "axi__0" if channel == "ar" else "axi_w"
    with pytest.raises(SimulationError, match=rf"^the hardware breaks a rule of AXI4 on {bus} in "
                                              rf"cycle \d+: {says.format(channel)}$"):
        hardware.run(made, timing=MemoryTiming(
            latency=1, ar_pause=0.7, aw_pause=0.7, w_pause=0.7), patience=1000)


@pytest.mark.parametrize("kind", [CompiledEngine, IcarusEngine])
def test_what_cannot_be_run(kind):
    hardware = engine(kind)
    made = Program(hardware.ports)
    made.levels = {"bent": 1}
    with pytest.raises(ValueError, match=r"^there is no input 'bent' that is no stream$"):
        hardware.run(made)
    made.levels = {"bend": 2}
    with pytest.raises(ValueError, match=r"^2 is outside 0 to 1$"):
        hardware.run(made)
    made.levels = {}
    made.memory = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"^a memory must be uint8 \[bytes\], not uint8 of shape "
                                         r"\(4, 4\)$"):
        hardware.run(made)


@pytest.mark.parametrize("data_bits", [8, 32, 256, 512])
def test_widths(data_bits):
    """Beats of any width: what is written is read."""
    beat = data_bits // 8
    rng = np.random.default_rng(data_bits)
    outcomes = []
    asked = {"id": np.zeros(8, np.int64), "addr": np.arange(8) * 16 * beat,
             "len": np.full(8, 15)}
    strobes = rng.integers(0, 256, (128, beat // 8 or 1), dtype=np.uint64)
    number = (rng.integers(0, 1 << min(data_bits, 63), 128, dtype=np.uint64) if data_bits <= 64
              else rng.integers(0, 1 << 63, (128, data_bits // 64), dtype=np.uint64))
    strb = np.zeros(128, np.uint64)
    for byte in range(strobes.shape[1]):
        strb |= strobes[:, byte] << np.uint64(8 * byte)
    strb &= np.uint64((1 << beat) - 1)
    for kind in (CompiledEngine, IcarusEngine):
        hardware = engine(kind, data_bits=data_bits, id_bits=0, address_bits=64)
        made = Program(hardware.ports)
        made.memory = rng.integers(0, 256, 128 * beat, dtype=np.uint8) * 0
        made.add({"i_aw": asked, "i_w": {"data": number, "strb": strb, "last": np.tile(
            np.arange(16) == 15, 8).astype(np.int64)}})
        made.add({"i_ar__0": asked}, delay=50)
        made.expect({"o_r__0": 128, "o_b": 8})
        outcomes.append(hardware.run(made, timing=MemoryTiming(latency=4), log=True))
    asserts_equal(*outcomes)
    raw = number.astype(f"<u{beat}") if data_bits <= 64 else number.astype("<u8")
    bytes_written = raw.reshape(128, -1).view(np.uint8)
    enabled = strb[:, None] >> np.arange(beat, dtype=np.uint64) & np.uint64(1)
    expected = np.where(enabled, bytes_written, 0)
    np.testing.assert_array_equal(outcomes[0].memory.reshape(128, beat), expected)
    read = outcomes[0].outputs["o_r__0"].payloads["data"]
    np.testing.assert_array_equal(
        read.astype(raw.dtype).reshape(128, -1).view(np.uint8), expected)
