"""The host link's messages: their numbers, and how bytes become messages and back.

What docs/host-link.md describes byte by byte. The hardware (:mod:`nearbit_boards.link`) takes its
numbers and lengths from here, and its field orders from the streams of the core.
"""

import binascii
import dataclasses
import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nearbit_model.config import CELLS, SELECTIONS, Config, ConfigError, Rescore
from nearbit_model.transfers.payload import Bits, Port, Shape, Struct
from nearbit_model.transfers.streams import core_ports


__all__ = ["IDENTITY", "LAYOUT_VERSION", "PAYLOAD_MAX", "REPLY_SYNC", "REQUEST_SYNC", "STREAMS",
           "Block", "Layout", "Identity", "Message", "Parser", "ProtocolError", "Reply", "State",
           "Status", "crc", "identity_bytes", "reply", "request", "state_fields"]


REQUEST_SYNC = 0xA5
"""First byte of a request."""

REPLY_SYNC = 0x5A
"""First byte of a reply; another one, so that an echo is no reply."""

PAYLOAD_MAX = 255
"""Bytes of the longest payload of a request: its length is one byte."""

LAYOUT_VERSION = 1
"""First byte of an identity: which fields follow."""


class ProtocolError(ValueError):
    """Bytes that the protocol does not allow, or a configuration that it cannot carry."""


class Message(enum.IntEnum):
    """Type of a request."""

    IDENTIFY = 1
    STATUS = 2
    RESET = 3
    COMMAND = 4
    KEY = 5
    VALUE = 6
    EXP_TABLE = 7
    RESCORE_KEY = 8
    RESCORE_QUERY = 9


STREAMS = {Message.COMMAND: "i_command", Message.KEY: "i_key", Message.VALUE: "i_value",
           Message.EXP_TABLE: "i_exp_table", Message.RESCORE_KEY: "i_rescore_key",
           Message.RESCORE_QUERY: "i_rescore_query"}
"""Stream of the core that a message's payload goes to."""


class Status(enum.IntEnum):
    """What became of a request. All but the first are without effect on what is loaded."""

    OK = 0
    CRC = 1
    TYPE = 2
    LENGTH = 3
    TIMEOUT = 4
    FIELD = 5
    ORDER = 6


class Block(enum.IntEnum):
    """Tag of a part of a reply; ``ERROR + e`` is a query's error e of the core, without bytes."""

    END = 0
    IDENTITY = 1
    STATE = 2
    RESULT = 3
    TRACE = 4
    CYCLES = 5
    ERROR = 8


CYCLES_BYTES = 3
"""Bytes of the counter of cycles."""

IDENTITY: dict[str, int] = {
    "layout_version": 1, "major": 1, "minor": 1, "patch": 1, "clock": 4,
    "key_bits": 2, "value_dim": 2, "capacity": 3, "value_bits": 1, "queries": 1, "lanes": 2,
    "value_lanes": 2, "top_n": 3, "weight_bits": 1, "output_fraction_bits": 1, "exp_tables": 2,
    "refine_lanes": 2, "divider_cycles": 1, "fan_in": 1, "value_ports": 1, "cell": 1,
    "selection": 1, "selection_block": 3,
    "rescore.head_dim": 2, "rescore.lanes": 2, "rescore.element_bits": 1, "rescore.shared": 1,
}
"""Fields of an identity with their bytes, in order."""

_CHOICES: dict[str, tuple[str | None, ...]] = {"cell": (None, *CELLS), "selection": SELECTIONS}


def crc(data: bytes) -> int:
    """CRC-16/IBM-3740 (polynomial 0x1021, initially 0xFFFF, most significant bit first)."""
    return binascii.crc_hqx(data, 0xFFFF)


def request(kind: int, sequence: int, payload: bytes = b"") -> bytes:
    """All bytes of a request."""
    body = bytes([kind, sequence, len(payload)]) + payload
    return bytes([REQUEST_SYNC]) + body + crc(body).to_bytes(2, "big")


def reply(status: int, sequence: int, blocks: bytes = b"") -> bytes:
    """All bytes of a reply, of its blocks with their tags but for the last."""
    body = bytes([sequence, status]) + blocks + bytes([Block.END])
    return bytes([REPLY_SYNC]) + body + crc(body).to_bytes(2, "big")


@dataclass(frozen=True)
class Identity:
    """What a device says of itself.

    Parameters
    ----------
    config
        What it was built from.
    version
        Release of Nearbit that it was built with, such as ``0.1.0``.
    clock
        Its cycles in a second.
    """

    config: Config
    version: str
    clock: int

    @classmethod
    def from_bytes(cls, octets: bytes) -> "Identity":
        """Read the bytes of an identity block; :class:`ProtocolError` if they are none."""
        if octets[:1] != bytes([LAYOUT_VERSION]):
            raise ProtocolError(f"the identity has layout version {octets[0] if octets else None}, "
                                f"and this release of Nearbit knows {LAYOUT_VERSION} only")
        if len(octets) != sum(IDENTITY.values()):
            raise ProtocolError(f"an identity has {sum(IDENTITY.values())} bytes, "
                                f"not {len(octets)}")
        fields = dict(_cut(octets, IDENTITY))
        version = ".".join(str(fields[part]) for part in ("major", "minor", "patch"))
        unit = {name.removeprefix("rescore."): value for name, value in fields.items()
                if name.startswith("rescore.")}
        plain: dict[str, Any] = {field.name: fields[field.name]
                                 for field in dataclasses.fields(Config) if field.name in fields}
        for name, choices in _CHOICES.items():
            if plain[name] >= len(choices):
                raise ProtocolError(f"the identity has {name} {plain[name]}, and this release of "
                                    f"Nearbit knows those up to {len(choices) - 1}")
            plain[name] = choices[plain[name]]
        try:
            if unit["head_dim"]:
                plain["rescore"] = Rescore(
                    head_dim=unit["head_dim"], lanes=unit["lanes"],
                    element_bits=unit["element_bits"], shared=bool(unit["shared"]))
            return cls(Config(**plain), version, fields["clock"])
        except ConfigError as error:
            raise ProtocolError(f"the identity is of no configuration: {error}") from None


def identity_bytes(config: Config, version: tuple[int, int, int], clock: int) -> bytes:
    """Bytes of an identity block."""
    unit = config.rescore
    fields = {"layout_version": LAYOUT_VERSION, "major": version[0], "minor": version[1],
              "patch": version[2], "clock": clock}
    for name in IDENTITY:
        if name.startswith("rescore."):
            fields[name] = 0 if unit is None else int(getattr(unit, name[len("rescore."):]))
        elif name in _CHOICES:
            fields[name] = _CHOICES[name].index(getattr(config, name))
        elif name not in fields:
            fields[name] = getattr(config, name)
    return b"".join(fields[name].to_bytes(size, "little") for name, size in IDENTITY.items())


def _cut(octets: bytes, fields: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    start = 0
    for name, size in fields.items():
        yield name, int.from_bytes(octets[start:start + size], "little")
        start += size


@dataclass(frozen=True)
class State:
    """What a device answers to a request for its status.

    Parameters
    ----------
    rejected
        Requests answered with an error, modulo 256.
    lost
        Requests before which bytes were lost that belong to no answered request, modulo 256.
    loaded
        Tokens from 0 that commands may read: keys and values are there.
    exp_tables
        Exp tables that may be used, bit t for exp table t.
    rescore_loaded
        Tokens from 0 that may be rescored, as far as their rescore keys go; 0 without the unit.
    rescore_beats
        Beats of rescore queries that wait for their command; 0 without the unit.
    """

    rejected: int
    lost: int
    loaded: int
    exp_tables: int
    rescore_loaded: int = 0
    rescore_beats: int = 0


def state_fields(config: Config) -> dict[str, int]:
    """Fields of a state with their bytes, in order."""
    rescore = {} if config.rescore is None else {"rescore_loaded": 3, "rescore_beats": 2}
    return {"rejected": 1, "lost": 1, "loaded": 3, "exp_tables": -(-config.exp_tables // 8),
            **rescore}


def _octets(width: int) -> int:
    return max(1, -(-width // 8))


class Layout:
    """Sizes of messages and blocks for a configuration.

    Parameters
    ----------
    config
        The device's.

    Raises
    ------
    ProtocolError
        A message of the configuration would be longer than a request can be.
    """

    def __init__(self, config: Config) -> None:
        """Look up the streams of the core."""
        self.config = config
        self.ports: list[Port] = core_ports(config)
        """Streams of the core."""
        self.shapes: dict[Message, Shape] = {}
        """What the payload of each message is, for those that have one."""
        by_name = {port.name: port for port in self.ports}
        for kind, name in STREAMS.items():
            if name in by_name:
                self.shapes[kind] = by_name[name].shape
        unit = config.rescore
        if unit is not None:
            beats = Bits((config.queries * unit.beats - 1).bit_length())
            elements = self.shapes[Message.RESCORE_QUERY]
            self.shapes[Message.RESCORE_QUERY] = Struct(
                beats.width + elements.width,
                (("beat", 0, beats), ("elements", beats.width, elements)))
        self.kinds: tuple[Message, ...] = tuple(
            kind for kind in Message if kind not in STREAMS or kind in self.shapes)
        """Messages that the device knows."""
        for kind, shape in self.shapes.items():
            if self.length(kind) > PAYLOAD_MAX:
                raise ProtocolError(
                    f"a {kind.name.lower().replace('_', ' ')} message of this configuration would "
                    f"have {_octets(shape.width)} bytes, and the host link's have at most "
                    f"{PAYLOAD_MAX}; {_REMEDIES[kind]} would make it shorter")
        self._result = by_name["o_result"]
        self._trace = by_name["o_trace"]
        self.element_bytes = _octets(config.output_bits)
        """Bytes of a result's element."""
        self.trace_bytes = _octets(self._trace.shape.width)
        """Bytes of an entry of the trace."""
        self._blocks: dict[int, int] = {
            Block.STATE: sum(state_fields(config).values()),
            Block.RESULT: config.value_dim * self.element_bytes,
            Block.TRACE: self.trace_bytes,
        }

    def length(self, kind: Message) -> int:
        """Bytes of the payload of a message."""
        return _octets(self.shapes[kind].width) if kind in self.shapes else 0

    @property
    def payload_bytes(self) -> int:
        """Bytes of the longest payload."""
        return max(map(self.length, self.kinds))

    @property
    def reply_bytes(self) -> int:
        """Bytes of the longest reply."""
        config = self.config
        query = 1 + self._blocks[Block.RESULT] + config.top_n * (1 + self.trace_bytes)
        others = sum(IDENTITY.values()) + self._blocks[Block.STATE] + 16
        return config.queries * query + others

    def payload(self, kind: Message, fields: Any) -> bytes:
        """Pack the fields of one message; :class:`ValueError` if one is out of range."""
        return self.shapes[kind].pack(fields).to_bytes(self.length(kind), "little")

    def state(self, octets: bytes) -> State:
        """Read a state block."""
        return State(**dict(_cut(octets, state_fields(self.config))))

    def block(self, tag: int) -> int | None:
        """Bytes of a block after its tag; None if there is no such block."""
        if Block.ERROR < tag < 2 * Block.ERROR:
            return 0
        return self._blocks.get(tag, _COMMON.get(tag))


_REMEDIES = {Message.COMMAND: "fewer queries", Message.KEY: "fewer key_bits",
             Message.VALUE: "fewer value_lanes", Message.EXP_TABLE: "fewer weight_bits",
             Message.RESCORE_KEY: "fewer rescore.lanes",
             Message.RESCORE_QUERY: "fewer rescore.lanes"}

_COMMON: dict[int, int] = {Block.END: 0, Block.IDENTITY: sum(IDENTITY.values()),
                           Block.CYCLES: CYCLES_BYTES}


@dataclass(frozen=True)
class Reply:
    """What a device answered.

    Parameters
    ----------
    status
        What became of the request.
    sequence
        Its sequence number.
    blocks
        Tags and bytes of the blocks, without the last.
    """

    status: Status
    sequence: int
    blocks: tuple[tuple[int, bytes], ...] = ()

    def only(self, tag: Block) -> bytes:
        """Return the bytes of the one block that there is; :class:`ProtocolError` if another."""
        if len(self.blocks) != 1 or self.blocks[0][0] != tag:
            raise ProtocolError(f"the reply should have the block {tag.name}, and has "
                                f"{[block for block, _ in self.blocks]}")
        return self.blocks[0][1]


class Parser:
    """Finds replies in bytes. What is no reply is passed over, byte by byte.

    Parameters
    ----------
    layout
        Sizes of the blocks; None while the configuration is not known, and then blocks that depend
        on it are no part of a reply.
    """

    def __init__(self, layout: Layout | None = None) -> None:
        """Begin without any bytes."""
        self.layout = layout
        self.skipped = 0
        """Bytes passed over."""
        self._buffer = bytearray()
        self._restart()

    def _restart(self) -> None:
        self._position = 3
        self._blocks: list[tuple[int, bytes]] = []

    def _skip(self, count: int) -> None:
        del self._buffer[:count]
        self.skipped += count
        self._restart()

    def feed(self, octets: bytes) -> list[Reply]:
        """Take bytes, and return the replies that they complete."""
        self._buffer += octets
        replies: list[Reply] = []
        while True:
            found = self._parse()
            if found is None:
                return replies
            replies.append(found)

    def flush(self) -> list[Reply]:
        """Give up what is incomplete: no more bytes will come. Returns replies hidden in it."""
        replies: list[Reply] = []
        while self._buffer:
            self._skip(1)
            replies += self.feed(b"")
        return replies

    def _size(self, tag: int) -> int | None:
        if self.layout is not None:
            return self.layout.block(tag)
        return _COMMON.get(tag)

    def _parse(self) -> Reply | None:
        """Take the next reply from the buffer; None if there is none yet."""
        buffer = self._buffer
        while True:
            if self._position == 3:
                start = buffer.find(REPLY_SYNC)
                if start:
                    self._skip(len(buffer) if start < 0 else start)
                if len(buffer) > 2 and buffer[2] > max(Status):
                    self._skip(1)
                    continue
            if len(buffer) <= self._position:
                return None
            tag = buffer[self._position]
            size = self._size(tag)
            if size is None:
                self._skip(1)
                continue
            end = self._position + 1 + (2 if tag == Block.END else size)
            if len(buffer) < end:
                return None
            if tag != Block.END:
                self._blocks.append((tag, bytes(buffer[self._position + 1:end])))
                self._position = end
                continue
            if crc(bytes(buffer[1:end])) != 0:
                self._skip(1)
                continue
            found = Reply(Status(buffer[2]), buffer[1], tuple(self._blocks))
            del buffer[:end]
            self._restart()
            return found
