"""The host link's messages: their numbers, and their conversion from and to bytes.

docs/host-link.md describes them byte by byte. The hardware (:mod:`nearbit_boards.link`) takes its
numbers and lengths from here, and the order of fields from the core's streams.
"""

import binascii
import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nearbit_model.config import Config, ConfigError
from nearbit_model.transfers.payload import Bits, Port, Shape, Struct
from nearbit_model.transfers.streams import core_ports


__all__ = ["IDENTITY", "LAYOUT", "PAYLOAD_MAX", "REPLY_SYNC", "REQUEST_SYNC", "STREAMS",
           "Block", "Layout", "Identity", "Message", "Parser", "ProtocolError", "Reply", "State",
           "Status", "crc", "identity_bytes", "reply", "request", "state_fields"]


REQUEST_SYNC = 0xA5
"""First byte of a request."""

REPLY_SYNC = 0x5A
"""First byte of a reply; it differs, so that an echo is not a reply."""

PAYLOAD_MAX = 255
"""Bytes in the longest payload of a request, whose length field is one byte."""


class ProtocolError(ValueError):
    """Bytes that violate the protocol, or a configuration that it cannot carry."""


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
"""Stream of the core that receives a message's payload."""


class Status(enum.IntEnum):
    """Outcome of a request. Unless it is OK, the request had no effect."""

    OK = 0
    CRC = 1
    TYPE = 2
    LENGTH = 3
    TIMEOUT = 4
    FIELD = 5
    ORDER = 6


class Block(enum.IntEnum):
    """Tag of a block of a reply; ``ERROR + e``, without bytes, is a query's error e."""

    END = 0
    IDENTITY = 1
    STATE = 2
    RESULT = 3
    TRACE = 4
    CYCLES = 5
    ERROR = 8


CYCLES_BYTES = 3
"""Bytes of the cycle counter."""


def crc(data: bytes) -> int:
    """CRC-16/IBM-3740 (polynomial 0x1021, initially 0xFFFF, most significant bit first)."""
    return binascii.crc_hqx(data, 0xFFFF)


def _octets(width: int) -> int:
    return max(1, -(-width // 8))


def _field_bytes(known: Mapping[str, Any]) -> int:
    largest: int = known["range"][-1] if "range" in known else len(known["choices"]) - 1
    return _octets(largest.bit_length())


_FIXED = {"size": 1, "major": 1, "minor": 1, "patch": 1, "layout": 2}
"""Fields with which an identity begins in every release."""

IDENTITY: dict[str, int] = {
    **_FIXED, "clock": 4,
    **{name: _field_bytes(known) for name, known in Config.leaf_metadata().items()}}
"""Fields of an identity with their sizes in bytes, in order; a configuration's fields come last."""

LAYOUT = crc(repr([(name, size, Config.leaf_metadata().get(name, {}).get("choices"))
                   for name, size in IDENTITY.items()]).encode())
"""The identity's ``layout``; it changes with the names, sizes and choices of the fields."""


def request(kind: int, sequence: int, payload: bytes = b"") -> bytes:
    """Return all bytes of a request."""
    body = bytes([kind, sequence, len(payload)]) + payload
    return bytes([REQUEST_SYNC]) + body + crc(body).to_bytes(2, "big")


def reply(status: int, sequence: int, blocks: bytes = b"") -> bytes:
    """Return all bytes of a reply, given its blocks with their tags, without the END block."""
    body = bytes([sequence, status]) + blocks + bytes([Block.END])
    return bytes([REPLY_SYNC]) + body + crc(body).to_bytes(2, "big")


@dataclass(frozen=True)
class Identity:
    """How a device identifies itself.

    Parameters
    ----------
    config
        Its configuration.
    version
        Release of Nearbit with which it was built, such as ``0.1.0``.
    clock
        Its clock frequency in Hz.
    """

    config: Config
    version: str
    clock: int

    @classmethod
    def from_bytes(cls, octets: bytes) -> "Identity":
        """Read the bytes of an identity block; :class:`ProtocolError` if they are not valid."""
        if len(octets) < sum(_FIXED.values()) or octets[0] != len(octets):
            raise ProtocolError(f"an identity cannot have {len(octets)} bytes")
        fields = dict(_cut(octets, IDENTITY))
        version = ".".join(str(fields[part]) for part in ("major", "minor", "patch"))
        if fields["layout"] != LAYOUT or len(octets) != sum(IDENTITY.values()):
            raise ProtocolError(f"it was built with Nearbit {version}, whose configurations have "
                                f"other fields than those of this release; build and flash it "
                                f"with this release")
        try:
            return cls(Config.from_numbers(fields), version, fields["clock"])
        except ConfigError as error:
            raise ProtocolError(f"the identity describes no valid configuration: {error}") from None


def identity_bytes(config: Config, version: tuple[int, int, int], clock: int) -> bytes:
    """Bytes of an identity block."""
    fields = {"size": sum(IDENTITY.values()), "major": version[0], "minor": version[1],
              "patch": version[2], "layout": LAYOUT, "clock": clock, **config.to_numbers()}
    return b"".join(fields[name].to_bytes(size, "little") for name, size in IDENTITY.items())


def _cut(octets: bytes, fields: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    start = 0
    for name, size in fields.items():
        yield name, int.from_bytes(octets[start:start + size], "little")
        start += size


@dataclass(frozen=True)
class State:
    """A device's answer to a request for its status.

    Parameters
    ----------
    rejected
        Requests answered with an error, modulo 256.
    lost
        Requests preceded by lost bytes or by bytes of no request, modulo 256.
    loaded
        Number of tokens, from token 0, whose key and value are loaded.
    exp_tables
        Exp tables that are loaded, bit t for exp table t.
    rescore_loaded
        Number of tokens, from token 0, whose rescore key is loaded; 0 without a rescoring unit.
    rescore_beats
        Beats of rescore queries waiting for their command; 0 without a rescoring unit.
    """

    rejected: int
    lost: int
    loaded: int
    exp_tables: int
    rescore_loaded: int = 0
    rescore_beats: int = 0


def state_fields(config: Config) -> dict[str, int]:
    """Fields of a state with their sizes in bytes, in order."""
    rescore = {} if config.rescore is None else {"rescore_loaded": 3, "rescore_beats": 2}
    return {"rejected": 1, "lost": 1, "loaded": 3, "exp_tables": -(-config.exp_tables // 8),
            **rescore}


class Layout:
    """Sizes of messages and blocks for a configuration.

    Parameters
    ----------
    config
        The device's configuration.

    Raises
    ------
    ProtocolError
        A message of the configuration would be longer than the longest request.
    """

    def __init__(self, config: Config) -> None:
        """Look up the streams of the core."""
        self.config = config
        self.ports: list[Port] = core_ports(config)
        """Streams of the core."""
        self.shapes: dict[Message, Shape] = {}
        """Shape of the payload of each message that has one."""
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
                    f"have {_octets(shape.width)} bytes, but the host link allows at most "
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
        """Bytes of a block after its tag.

        None if there is no such block, or if its first byte gives its size, as in an identity.
        """
        if Block.ERROR < tag < 2 * Block.ERROR:
            return 0
        return self._blocks.get(tag, _COMMON.get(tag))


_REMEDIES = {Message.COMMAND: "fewer queries", Message.KEY: "fewer key_bits",
             Message.VALUE: "fewer value_lanes", Message.EXP_TABLE: "fewer weight_bits",
             Message.RESCORE_KEY: "fewer rescore.lanes",
             Message.RESCORE_QUERY: "fewer rescore.lanes"}

_COMMON: dict[int, int] = {Block.END: 0, Block.CYCLES: CYCLES_BYTES}


@dataclass(frozen=True)
class Reply:
    """A reply of a device.

    Parameters
    ----------
    status
        Outcome of the request.
    sequence
        Its sequence number.
    blocks
        Tags and bytes of the blocks, without the last.
    """

    status: Status
    sequence: int
    blocks: tuple[tuple[int, bytes], ...] = ()

    def only(self, tag: Block) -> bytes:
        """Return the bytes of the only block; :class:`ProtocolError` unless it has this tag."""
        if len(self.blocks) != 1 or self.blocks[0][0] != tag:
            raise ProtocolError(f"the reply should have the block {tag.name}, and has "
                                f"{[block for block, _ in self.blocks]}")
        return self.blocks[0][1]


class Parser:
    """Finds replies in a stream of bytes, and skips all other bytes.

    Parameters
    ----------
    layout
        Sizes of the blocks; None while the configuration is unknown, which skips replies with
        blocks that depend on it.
    """

    def __init__(self, layout: Layout | None = None) -> None:
        """Start without bytes."""
        self.layout = layout
        self.skipped = 0
        """Bytes skipped."""
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
        """Add bytes, and return the replies that they complete."""
        self._buffer += octets
        replies: list[Reply] = []
        while True:
            found = self._parse()
            if found is None:
                return replies
            replies.append(found)

    def flush(self) -> list[Reply]:
        """Discard an incomplete reply, as no more bytes follow; return any replies inside it."""
        replies: list[Reply] = []
        while self._buffer:
            self._skip(1)
            replies += self.feed(b"")
        return replies

    def _size(self, tag: int) -> int | None:
        if tag == Block.IDENTITY:
            # Its first byte gives its size, but may not have arrived yet.
            return next(iter(self._buffer[self._position + 1:self._position + 2]), 1)
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
