# amaranth: UnusedElaboratable=no
"""The protocol's numbers, and that docs/host-link.md has them."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from nearbit_boards.protocol import (
    IDENTITY,
    LAYOUT,
    STREAMS,
    Block,
    Identity,
    Layout,
    Message,
    Parser,
    ProtocolError,
    Reply,
    State,
    Status,
    crc,
    identity_bytes,
    reply,
    request,
    state_fields,
)
from nearbit_boards.simulated import SimulatedTransport
from nearbit_model.config import PRESETS, Config, Memory, Rescore


DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "host-link.md").read_text("utf-8")
TINY = PRESETS["tiny"]


def table(heading):
    """Rows of the table under a heading, as lists of cells."""
    _, found, rest = DOCUMENT.partition(f"| {heading} |")
    assert found, heading
    rows = re.match(r"(?:.*\n)((?:\|.*\n)+)", rest)[1].splitlines()[1:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows]


def example():
    """Requests and replies of the worked example."""
    block = re.search(r"^```text\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)[1].splitlines()
    assert [line[0] for line in block] == [">", "<"] * (len(block) // 2)
    lines = [bytes.fromhex(line[2:]) for line in block]
    return list(zip(lines[::2], lines[1::2], strict=True))


def test_documented_types():
    rows = table("type | name | payload | what the device does")
    assert [(int(row[0]), row[1]) for row in rows] == [(kind.value, kind.name) for kind in Message]
    for _, name, payload, _ in rows:
        stream = STREAMS.get(Message[name], "none")
        assert re.sub(r"`|beat`, then `", "", payload) == stream


def test_documented_statuses():
    assert [(int(row[0]), row[1]) for row in table("status | name | what happened")] == \
        [(status.value, status.name) for status in Status]


def test_documented_blocks():
    rows = table("tag | name | bytes | what")
    *plain, errors = rows
    assert [(int(row[0]), row[1]) for row in plain] == \
        [(block.value, block.name) for block in Block if block != Block.ERROR]
    assert errors[:2] == ["9 to 15", "ERROR"]
    assert plain[1][2] == "see below"
    assert plain[5][2] == str(Layout(TINY).block(Block.CYCLES))


def test_documented_fields():
    identity, state = re.findall(
        r"^\| field \| bytes \| what \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", DOCUMENT, re.MULTILINE)
    rows = re.findall(r"^\| `(\S+)` \| (\d+) \|", identity, re.MULTILINE)
    assert [(name, int(size)) for name, size in rows] == list(IDENTITY.items())
    assert f"{sum(IDENTITY.values())} in this release" in identity
    assert f"0x{LAYOUT:04x} in this release" in identity
    for name, known in Config.leaf_metadata().items():
        line = re.search(rf"^\| `{name}` \| .*$", identity, re.MULTILINE)[0]
        for number, choice in enumerate(known.get("choices", ())):
            said = {None: "none", False: "no", True: "yes"}.get(choice, f"`{choice}`")
            assert f"{number} {said}" in line
    rescoring = Config(key_bits=8, value_dim=8, capacity=32, value_lanes=8,
                       rescore=Rescore(head_dim=4, lanes=2))
    assert re.findall(r"^\| `(\S+)` \|", state, re.MULTILINE) == list(state_fields(rescoring))


def test_worked_example_requests():
    """The host's side makes these requests of these fields."""
    layout = Layout(TINY)
    token = {"token": 0}
    fields = [
        (Message.IDENTIFY, None), (Message.RESET, None),
        (Message.KEY, {**token, "code": 0x5C}),
        (Message.VALUE, {**token, "beat": 0, "elements": [100, -100, 1, -1], "scale": 0xFFFF}),
        (Message.VALUE, {**token, "beat": 1, "elements": [2, -2, 3, -3], "scale": 0xFFFF}),
        (Message.EXP_TABLE, {"exp_table": 0, "distance": 0, "weight": 0xFFFF}),
        (Message.COMMAND, {"first": 0, "n": 1, "sink": 0, "recent": 0, "trace": 1, "rescore": 0,
                           "shared": 0, "queries": [{"code": 0x5D, "count": 1, "exp_table": 0},
                                                    {"code": 0, "count": 0, "exp_table": 0}]}),
        (Message.STATUS, None),
    ]
    pairs = example()
    assert len(pairs) == len(fields) + 1
    for sequence, ((kind, values), (asked, _)) in enumerate(zip(fields, pairs, strict=False)):
        payload = b"" if values is None else layout.payload(kind, values)
        assert request(kind, sequence, payload) == asked
    assert pairs[-1][0] == bytes([0xA5, Message.COMMAND, 8, layout.length(Message.COMMAND) - 1])


def test_worked_example_replies():
    """They say what the text says of them."""
    layout = Layout(TINY)
    found = [reply for _, answer in example() for reply in Parser(layout).feed(answer)]
    assert [reply.sequence for reply in found] == list(range(9))
    assert Identity.from_bytes(found[0].only(Block.IDENTITY)) == Identity(TINY, "0.1.0", 12_000_000)
    assert all(reply == Reply(Status.OK, number) for number, reply in enumerate(found[1:6], 1))
    (tag, trace), (result, elements), (error, _), (cycles, count) = found[6].blocks
    assert (tag, result, error, cycles) == (Block.TRACE, Block.RESULT, Block.ERROR + 3,
                                            Block.CYCLES)
    entry = next(port for port in layout.ports if port.name == "o_trace").shape.unpack(
        int.from_bytes(trace, "little"))
    assert entry == {"query": 0, "index": 0, "distance": 1, "weight": 0xFFFF, "last": 1}
    assert np.frombuffer(elements, "<i2").tolist() == [
        256 * value for value in (100, -100, 1, -1, 2, -2, 3, -3)]
    assert f"{int.from_bytes(count, 'little')} cycles" in DOCUMENT
    assert layout.state(found[7].only(Block.STATE)) == State(0, 0, 1, 1)
    assert found[8] == Reply(Status.LENGTH, 8)


def test_worked_example_on_the_device():
    transport = SimulatedTransport(TINY, version=(0, 1, 0), clock=12_000_000, timeout=256)
    layout = Layout(TINY)

    def read(octets):
        """All but how many cycles the core of this release takes."""
        found, = Parser(layout).feed(octets)
        return dataclasses.replace(found, blocks=tuple(
            (tag, b"" if tag == Block.CYCLES else content) for tag, content in found.blocks))

    for asked, answer in example():
        transport.write(asked)
        came = transport.read(0.002)
        assert read(came) == read(answer)
        assert len(came) == len(answer)
    transport.close()


def test_python_example(capsys):
    code, = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    # With the parameters that the other tests have, so that it is not compiled again.
    code = code.replace("SimulatedTransport(config)", "SimulatedTransport(config, version="
                        "(0, 1, 0), clock=12_000_000, timeout=256)")
    exec(compile(code, "docs/host-link.md", "exec"), {})
    assert capsys.readouterr().out == "(2, 4, 8) 40\n"


def test_crc():
    # The check value of the catalogue of parametrised CRC algorithms.
    assert crc(b"123456789") == 0x29B1


@pytest.mark.parametrize("config", [
    *PRESETS.values(),
    TINY.replace(cell="ecp5", fan_in=7, normalizer="divider", divider_cycles=4),
], ids=lambda config: f"{config.key_bits}x{config.capacity}")
def test_identity(config):
    octets = identity_bytes(config, (1, 22, 255), 48_000_000)
    assert Identity.from_bytes(octets) == Identity(config, "1.22.255", 48_000_000)
    assert Layout(config).payload_bytes <= 255


def test_identity_has_the_whole_configuration():
    parts = {"rescore": Rescore, "memory": Memory}
    names = [field.name for field in dataclasses.fields(Config) if field.name not in parts]
    names += [f"{name}.{field.name}" for name, part in parts.items()
              for field in dataclasses.fields(part)]
    assert names == list(IDENTITY)[6:]


def identity_with(**changes):
    """An identity of which some fields have other numbers."""
    octets, start = bytearray(identity_bytes(TINY, (1, 2, 3), 1)), 0
    for name, size in IDENTITY.items():
        number = changes.get(name.replace(".", "_"))
        if number is not None:
            octets[start:start + size] = number.to_bytes(size, "little")
        start += size
    return bytes(octets)


def test_identity_bytes():
    """The first, counted by hand, and numbers of choices."""
    octets = identity_bytes(TINY, (1, 2, 3), 0x12345678)
    assert octets[0] == len(octets)
    assert octets[1:4] == bytes([1, 2, 3])
    assert octets[6:17] == bytes([0x78, 0x56, 0x34, 0x12, 8, 0, 8, 0, 64, 0, 0])
    assert Identity.from_bytes(identity_with(cell=2, selection=2)).config == \
        TINY.replace(cell="ecp5", selection="serial")


def foreign_identity():
    """An identity of a release whose configurations have one more field."""
    octets = identity_bytes(TINY, (9, 8, 7), 1)
    return bytes([len(octets) + 1, *octets[1:4], octets[4] ^ 1, *octets[5:], 0])


def test_foreign_identity():
    """It is read, though nothing is known of its fields, and refused with what to do."""
    octets = foreign_identity()
    found, = Parser().feed(reply(Status.OK, 1, bytes([Block.IDENTITY]) + octets))
    with pytest.raises(ProtocolError, match=r"^it was built with Nearbit 9\.8\.7, whose "
                       r"configurations have other fields than those of this release; build and "
                       r"flash it with this release$"):
        Identity.from_bytes(found.only(Block.IDENTITY))


@pytest.mark.parametrize(("octets", "message"), [
    (b"", "an identity cannot have 0 bytes"),
    (b"\x02\x01", "an identity cannot have 2 bytes"),
    (identity_bytes(TINY, (1, 2, 3), 1)[:-1], r"an identity cannot have \d+ bytes"),
    (identity_with(cell=9),
     ("the identity describes no valid configuration: "
      "the number of cell must be from 0 to 4, not 9")),
    (identity_with(rescore_lanes=1),
     ("the identity describes no valid configuration: "
      "rescore.head_dim must be from 1 to 1024, not 0")),
    (identity_with(key_bits=0),
     "the identity describes no valid configuration: key_bits must be from 1 to 1024, not 0"),
])
def test_wrong_identity(octets, message):
    with pytest.raises(ProtocolError, match=f"^{message}$"):
        Identity.from_bytes(octets)


def test_parser():
    """Replies are found wherever bytes are cut, and between any garbage."""
    layout = Layout(TINY)
    rng = np.random.default_rng(3)
    element = bytes(layout.block(Block.RESULT))
    good = [
        reply(Status.OK, 1), reply(Status.FIELD, 0x5A),
        reply(Status.OK, 2, bytes([Block.RESULT]) + element + bytes([Block.ERROR + 2])
              + bytes([Block.CYCLES, 1, 2, 3])),
        reply(Status.OK, 3, bytes([Block.TRACE]) + b"\x5a\x00\x00\x00" * 1),
    ]
    expected, stream, garbage = [], b"", 0
    for _ in range(300):
        choice = good[rng.integers(len(good))]
        expected.append(choice[1])
        noise = rng.integers(0, 256, rng.integers(0, 12)).astype(np.uint8).tobytes()
        noise = noise.replace(b"\x5a", b"\x5b")
        # Half a reply, and one with a flipped bit.
        if rng.random() < 0.3:
            broken = bytearray(choice)
            broken[rng.integers(len(broken))] ^= 1 << rng.integers(8)
            noise += broken
        garbage += len(noise)
        stream += noise + choice
    parser = Parser(layout)
    found = []
    while stream:
        size = int(rng.integers(1, 20))
        found += parser.feed(stream[:size])
        stream = stream[size:]
    found += parser.flush()
    assert [reply.sequence for reply in found] == expected
    assert parser.skipped == garbage
    assert not parser.feed(good[0][:4])
    assert not parser.flush()
    assert [reply.sequence for reply in parser.feed(good[0])] == [1]


def test_parser_without_a_configuration():
    assert not Parser().feed(reply(Status.OK, 1, bytes([Block.RESULT, *[0] * 16])))
    assert Parser().feed(reply(Status.TYPE, 1)) == [Reply(Status.TYPE, 1)]


def test_only():
    with pytest.raises(ProtocolError, match=r"^the reply should have the block STATE, and has "
                       r"\[5\]$"):
        Reply(Status.OK, 0, ((5, b"abc"),)).only(Block.STATE)


def test_payload_out_of_range():
    with pytest.raises(ValueError, match="token: 64 is outside 0 to 63"):
        Layout(TINY).payload(Message.KEY, {"token": 64, "code": 0})
