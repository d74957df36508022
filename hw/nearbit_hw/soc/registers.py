"""The single source of the SoC interface: registers, packets, and their numbers.

Plain Python without Amaranth objects. The hardware is built from it, and so are the Markdown,
C header, JSON and SystemRDL exports of :mod:`nearbit`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from nearbit_hw.memory.cache import RowFields
from nearbit_hw.memory.cache_map import cache_map
from nearbit_hw.memory.code_fetcher import code_bits
from nearbit_model.config import MULTIPLIER_BITS, SCALE_BITS, Config, Memory


__all__ = [
    "ACCESSES", "COUNTERS", "DATA_BITS", "IDENTITY", "BATCHES_MAX", "MEMORY_REVISION", "REVISION",
    "WINDOW_BYTES", "Address", "CacheSocError", "Command", "Control", "Fault", "Field", "Flag",
    "Interrupt", "Packet", "Register", "RegisterMap", "SocError", "Status", "Unit", "commands",
    "register_map",
]


IDENTITY = 0x4e454152
"""Value of ID: "NEAR" in ASCII, the first letter in the highest byte."""

REVISION = 1
"""Revision of this interface; incremented with every change visible to software."""

MEMORY_REVISION = 3
"""The same of a core whose keys and values lie in a memory."""

BATCHES_MAX = 255
"""Batches that an operation can have in every configuration; if the capacity is larger, it is the
limit."""

WINDOW_BYTES = 4096
"""Bytes of the address space that the registers take."""

DATA_BITS = (32, 64, 128, 256, 512)
"""Widths that the streams may have."""

ACCESSES = ("ro", "rw", "wo", "w1c")
"""Read only, read and write, write only (reads as 0), and write 1 to clear."""


class Address(IntEnum):
    """Byte addresses of registers; of repeated ones, the first."""

    ID = 0x000
    VERSION = 0x004
    CAPABILITIES = 0x008
    STREAM = 0x00c
    KEY_BITS = 0x010
    VALUE_DIM = 0x014
    VALUE_BITS = 0x018
    VALUE_LANES = 0x01c
    CAPACITY = 0x020
    QUERIES = 0x024
    LANES = 0x028
    TOP_N = 0x02c
    WEIGHT_BITS = 0x030
    OUTPUT_FRACTION_BITS = 0x034
    EXP_TABLES = 0x038
    RESCORE = 0x03c
    HEADS = 0x040
    SEQUENCES = 0x044
    PAGE_TOKENS = 0x048
    PAGES = 0x04c
    MEMORY = 0x050
    CODE = 0x054
    ROW = 0x058
    ROW_FIELDS = 0x05c
    ROW_STRIDE = 0x060
    CONTROL = 0x080
    STATUS = 0x084
    ERROR = 0x088
    IRQ_ENABLE = 0x08c
    IRQ_STATUS = 0x090
    TOKEN = 0x0c0
    NUMBER = 0x0c4
    FIRST = 0x0c8
    N = 0x0cc
    SINK = 0x0d0
    RECENT = 0x0d4
    FLAGS = 0x0d8
    EXP_TABLE = 0x0dc
    COMMAND = 0x0e0
    HEAD = 0x0e4
    SEQUENCE = 0x0e8
    # The registers of query r are 16 r bytes further.
    QUERY_COUNT = 0x0f0
    QUERY_EXP_TABLE = 0x0f4
    QUERY_MULTIPLIER = 0x0f8
    TABLE_CODES_LOW = 0x600
    TABLE_CODES_HIGH = 0x604
    TABLE_ROWS_LOW = 0x608
    TABLE_ROWS_HIGH = 0x60c
    TABLE_STRIDE = 0x610
    TABLE_HEAD = 0x614
    TABLE_SEQUENCE = 0x618
    TABLE_INDEX = 0x61c
    TABLE_PAGE = 0x620
    TABLE_TOKENS = 0x624
    MEMORY_TIMEOUT = 0x628
    MEMORY_STATUS = 0x62c
    MEMORY_FAULT = 0x630
    # The words of counter c are 8 c bytes further.
    COUNTERS = 0x800


QUERY_STRIDE = 16
"""Bytes from the registers of a query to those of the next."""


class Command(IntEnum):
    """Operations, as COMMAND starts them."""

    LOAD_KEYS = 1
    LOAD_VALUES = 2
    LOAD_EXP_TABLE = 3
    LOAD_RESCORE_KEYS = 4
    QUERY = 5
    APPEND = 6


class SocError(IntEnum):
    """Error codes of ERROR, which keeps the first one until it is cleared."""

    NONE = 0
    #: A command field or COMMAND was written during an operation. The write had no effect.
    BUSY = 1
    #: A read-only register was written.
    READ_ONLY = 2
    #: COMMAND was written with an unknown command, one whose unit is absent, with NUMBER 0, or with
    #: tokens (weights of an exp table) beyond the end. No operation was started.
    COMMAND = 3
    #: A value does not fit its register. The write had no effect.
    FIELD = 4
    #: The packet ended before the operation did.
    EARLY = 5
    #: The packet did not end with the operation; the rest of the packet was dropped.
    LATE = 6
    #: The core answered a query of a batch with an error.
    QUERY = 7


class CacheSocError(IntEnum):
    """The same of a core whose keys and values lie in a memory."""

    NONE = SocError.NONE
    BUSY = SocError.BUSY
    READ_ONLY = SocError.READ_ONLY
    COMMAND = SocError.COMMAND
    FIELD = SocError.FIELD
    EARLY = SocError.EARLY
    LATE = SocError.LATE
    QUERY = SocError.QUERY
    #: A token could not be appended.
    APPEND = 8


class Control(IntEnum):
    """Bits of CONTROL."""

    CLEAR = 0
    ABANDON = 1
    CLEAR_COUNTERS = 2


class Status(IntEnum):
    """Bits of STATUS."""

    BUSY = 0
    ACTIVE = 1
    ERROR = 2
    DROPPING = 3


class Interrupt(IntEnum):
    """Bits of IRQ_ENABLE and IRQ_STATUS."""

    DONE = 0
    ERROR = 1


class Fault(IntEnum):
    """Bits of MEMORY_FAULT: queries were answered with the core's error of this name."""

    NOT_SET = 0
    CODES = 1
    ROWS = 2


class Flag(IntEnum):
    """Bits of FLAGS."""

    TRACE = 0
    RESCORE = 1
    SHARED = 2
    #: With a memory.
    RAISE = 3


COUNTERS = (
    ("CYCLES", "Clock cycles."),
    ("BATCHES", "Batches of queries accepted by the core."),
    ("KEYS",
     "Words of LANES keys scored by all queries of a batch; multiply by LANES to get keys."),
    ("STALL_QUERY", "Cycles in which a batch waits for the core to accept it."),
    ("STALL_SCORE", "Cycles in which a batch waits for a free selection before scoring."),
    ("STALL_SELECT", "Cycles in which selected keys wait to be weighted or scored exactly."),
    ("STALL_VALUE", "Cycles in which weighted keys wait for their values to be accumulated."),
    ("STALL_RESULT", "Cycles in which a result or a trace waits for its stream."),
)
"""Names and meanings of the counters, in order of address. Each has 64 bits, the low word first."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """Some bits of a register.

    Parameters
    ----------
    name
        Upper case; equal to the register's if it is the only one.
    lowest
        Bit number of its lowest bit.
    bits
        Width, at least 1.
    access
        One of :data:`ACCESSES`.
    description
        One or more sentences.
    reset
        Value after reset; of a constant, its value.
    enumeration
        Names of values and the values, if it has such.
    """

    name: str
    lowest: int
    bits: int
    access: str
    description: str
    reset: int = 0
    enumeration: tuple[tuple[str, int], ...] = ()

    @property
    def mask(self) -> int:
        """Ones where the field is in its register."""
        return ((1 << self.bits) - 1) << self.lowest


@dataclass(frozen=True, kw_only=True)
class Register:
    """A word of 32 bits. Bits without a field read as 0 and must be written as 0.

    Parameters
    ----------
    name
        Upper case.
    address
        Byte offset in the window; a multiple of 4.
    access
        One of :data:`ACCESSES`.
    description
        One or more sentences.
    fields
        Lowest first.
    kept
        Whether it is a command field. Unless :attr:`RegisterMap.resets_fields`, it is 0 when the
        device is configured and keeps its value across reset.
    query
        Number of the query, if each query has such a register.
    """

    name: str
    address: int
    access: str
    description: str
    fields: tuple[Field, ...]
    kept: bool = False
    query: int | None = None

    @property
    def reset(self) -> int:
        """Value after reset; if it is kept, after configuration."""
        return sum(field.reset << field.lowest for field in self.fields)

    @property
    def bits(self) -> int:
        """Width up to the highest bit of a field."""
        return max(field.lowest + field.bits for field in self.fields)

    @property
    def mask(self) -> int:
        """Ones where there are fields."""
        return sum(field.mask for field in self.fields)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Packed elements that start at a beat boundary and are zero-padded to whole beats.

    Parameters
    ----------
    name
        What it contains.
    elements
        Number of elements; the first one is lowest.
    element_bits
        Bits per element, without padding between them.
    signed
        Whether they are two's complement.
    count
        Number of such units, one after another.
    """

    name: str
    elements: int
    element_bits: int
    signed: bool
    count: int

    def beats(self, data_bits: int) -> int:
        """Beats of one unit."""
        return -(-self.elements * self.element_bits // data_bits)


@dataclass(frozen=True, kw_only=True)
class Packet:
    """What an operation receives or sends.

    Parameters
    ----------
    name
        The command's, or that of the stream.
    port
        Prefix of the ports: ``s_axis``, ``m_axis_result``, ``m_axis_trace``.
    description
        How often the units are repeated, and where ``tlast`` is.
    units
        What is repeated NUMBER times (loads, batches), or sent once (results).
    fields
        Of a header or of a trace beat: the bits of the first or only beat.
    bits
        Width of the stream.
    """

    name: str
    port: str
    description: str
    units: tuple[Unit, ...]
    bits: int
    fields: tuple[Field, ...] = ()

    @property
    def beats(self) -> int:
        """Beats of all units, without the header."""
        return sum(unit.count * unit.beats(self.bits) for unit in self.units)


@dataclass(frozen=True, kw_only=True)
class RegisterMap:
    """The interface of one SoC core.

    With ``resets_fields``, reset sets the command fields to 0, for devices whose registers and
    memories power up with arbitrary contents.
    """

    config: Config
    data_bits: int
    version: tuple[int, int, int]
    registers: tuple[Register, ...]
    packets: tuple[Packet, ...]
    resets_fields: bool = False

    @property
    def query_error_bits(self) -> int:
        """Bits of the core's error codes."""
        return 3 if self.config.memory is None else 4

    @property
    def errors(self) -> type[SocError] | type[CacheSocError]:
        """Codes of ERROR."""
        return SocError if self.config.memory is None else CacheSocError

    @property
    def window_bytes(self) -> int:
        """Bytes of the address space that the registers take."""
        return WINDOW_BYTES

    @property
    def result_bits(self) -> int:
        """Bits of an element in the result stream: 16, or 32 if it needs them."""
        return 16 if self.config.output_bits <= 16 else 32

    @property
    def trace_bits(self) -> int:
        """Bits of a beat of the trace stream: 64 or 128."""
        return 128 if self.config.rescore is not None or self.config.weight_bits > 16 else 64

    def register(self, name: str) -> Register:
        """Look up a register by name."""
        return next(register for register in self.registers if register.name == name)

    def packet(self, name: str) -> Packet:
        """Look up a packet by name."""
        return next(packet for packet in self.packets if packet.name == name)


def _bits(largest: int) -> int:
    """Bits of a register that holds 0 up to a number; at least one."""
    return max(1, largest.bit_length())


def _plain(says: str) -> str:
    """A field's documentation without markup; what a driver can read has the name it reads."""
    def name(match: re.Match[str]) -> str:
        upper = match[1].upper()
        is_read = upper in Address.__members__ or f"rescore.{match[1]}" in Config.leaf_metadata()
        return upper if is_read else match[1]

    return re.sub("``(.*?)``", name, says)


def _constants(config: Config, data_bits: int, version: tuple[int, int, int], result_bits: int,
               trace_bits: int) -> list[Register]:
    known, numbers = config.leaf_metadata(), config.to_numbers()

    def register(name: str, description: str, fields: list[tuple[str, int, int, int, str]]
                 ) -> Register:
        return Register(name=name, address=Address[name], access="ro", description=description,
                        fields=tuple(Field(name=field, lowest=lowest, bits=bits, access="ro",
                                           reset=value, description=says)
                                     for field, lowest, bits, value, says in fields))

    def number(name: str, value: int, description: str) -> Register:
        return register(name, description, [(name, 0, 32, value, description)])

    def of_unit(name: str, lowest: int, bits: int) -> tuple[str, int, int, int, str]:
        full = f"rescore.{name}"
        return name.upper(), lowest, bits, numbers[full], _plain(known[full]["says"])

    major, minor, patch = version
    return [
        number("ID", IDENTITY, 'Identification: "NEAR".'),
        register("VERSION", "Nearbit release that generated this core.", [
            ("PATCH", 0, 8, patch, "Patch level."),
            ("MINOR", 8, 8, minor, "Minor version."),
            ("MAJOR", 16, 8, major, "Major version.")]),
        register("CAPABILITIES", "Features of this core.", [
            ("RESCORE", 0, 1, int(config.rescore is not None),
             "The rescoring unit is present."),
            of_unit("shared", 1, 1),
            ("APPEND_VALUES", 2, 1, int(config.value_ports > 1),
             "Value vectors can be appended while batches are in flight; if 0, only when idle."),
            ("MEMORY", 3, 1, int(config.memory is not None),
             "Keys and values lie in the system's memory; they are not loaded."),
            ("REVISION", 8, 8, REVISION if config.memory is None else MEMORY_REVISION,
             "Revision of this interface."),
            ("COUNTERS", 16, 8, len(COUNTERS), "Number of counters.")]),
        register("STREAM", "Stream widths.", [
            ("DATA_BITS", 0, 16, data_bits, "Bits per beat of s_axis and m_axis_result."),
            ("RESULT_BITS", 16, 8, result_bits, "Bits per element in m_axis_result."),
            ("TRACE_BITS", 24, 8, trace_bits, "Bits per beat of m_axis_trace.")]),
        # Those fields of the configuration that a driver needs have an address.
        *(number(address.name, numbers[address.name.lower()],
                 _plain(known[address.name.lower()]["says"]))
          for address in Address if address.name.lower() in known),
        register("RESCORE", "The rescoring unit; 0 if absent.", [
            of_unit("head_dim", 0, 12), of_unit("lanes", 12, 12),
            of_unit("element_bits", 24, 8)]),
        *([] if config.memory is None else
          _memory_constants(config, config.memory, register, number)),
    ]


def _memory_constants(config: Config, memory: Memory, register: Callable[..., Register],
                      number: Callable[..., Register]) -> list[Register]:
    """Sizes of the memory, and of what lies there (docs/memory.md)."""
    sizes, fields = cache_map(config), RowFields.of(config)
    return [
        number("HEADS", sizes.heads, "Key heads that the table of heads has room for."),
        number("SEQUENCES", sizes.sequences, "Sequences that are open at the same time."),
        number("PAGE_TOKENS", sizes.page_tokens, "Tokens of a page, a power of two."),
        number("PAGES", sizes.pages, "Pages of each head, shared by all sequences."),
        register("MEMORY", "Buses to the memory.", [
            ("BUS_BITS", 0, 16, sizes.data_bits, "Bits of a beat."),
            ("ADDRESS_BITS", 16, 8, sizes.address_bits, "Bits of an address, in bytes."),
            ("TIMEOUT_BITS", 24, 8, memory.timeout_bits, "Bits of MEMORY_TIMEOUT.")]),
        register("CODE", "Codes in memory.", [
            ("BYTES", 0, 16, code_bits(config.key_bits) // 8, "Bytes of a code."),
            ("ALIGNMENT", 16, 16, sizes.burst_bytes,
             "Bytes that addresses of a head's codes are multiples of.")]),
        register("ROW", "Rows in memory.", [
            ("BYTES", 0, 16, fields.beats * sizes.data_bytes, "Bytes of a row that are read."),
            ("ALIGNMENT", 16, 16, sizes.row_unit,
             "Bytes that addresses of a head's rows, and strides, are multiples of.")]),
        register("ROW_FIELDS", "Bytes of a row in front of its fields; the rescore key is first.", [
            ("VALUES", 0, 16, fields.value_beat * sizes.data_bytes,
             "The elements of the value vector."),
            ("SCALE", 16, 16, fields.scale_bit // 8, "Its scale.")]),
        number("ROW_STRIDE", ((1 << sizes.stride_bits) - 1) * sizes.row_unit,
               "Bytes from one row to the next, at most."),
    ]


_WRITING = ", or APPEND is writing its tokens"


def _control(config: Config) -> list[Register]:
    error_bits, errors = (3, SocError) if config.memory is None else (4, CacheSocError)

    def flag(number: IntEnum, access: str, description: str) -> Field:
        return Field(name=number.name, lowest=number.value, bits=1, access=access,
                     description=description)

    def interrupts(access: str, done: str, error: str) -> tuple[Field, ...]:
        return (flag(Interrupt.DONE, access, done), flag(Interrupt.ERROR, access, error))

    return [
        Register(
            name="CONTROL", address=Address.CONTROL, access="wo",
            description="Write 1 to trigger; self-clearing. Loaded data and batches already in the "
                        "core are kept.",
            fields=(
                flag(Control.CLEAR, "wo",
                     "Clear ERROR and end the operation. If part of its packet has arrived, the "
                     "rest is dropped up to tlast, and STATUS.BUSY stays 1 until then."),
                flag(Control.ABANDON, "wo",
                     "Like CLEAR, but drops nothing further: for a source that was reset and will "
                     "not send the rest."),
                flag(Control.CLEAR_COUNTERS, "wo",
                     "Set all counters to 0; reading a counter waits until this is done."))),
        Register(
            name="STATUS", address=Address.STATUS, access="ro",
            description="Current state.",
            fields=(
                flag(Status.BUSY, "ro", "An operation is receiving its packet"
                                        f"{'' if config.memory is None else _WRITING}; no other "
                                        "can be started, and the command fields cannot be "
                                        "written."),
                flag(Status.ACTIVE, "ro", "Batches are in flight, or answers wait for their "
                                          "streams."),
                flag(Status.ERROR, "ro", "ERROR is not 0."),
                flag(Status.DROPPING, "ro", "The rest of a packet is being dropped."))),
        Register(
            name="ERROR", address=Address.ERROR, access="ro",
            description="The first error since CONTROL.CLEAR; it stops only the operation that "
                        "caused it.",
            fields=(
                Field(name="CODE", lowest=0, bits=error_bits, access="ro",
                      description="Error code.",
                      enumeration=tuple((code.name, code.value) for code in errors)),
                Field(name="DETAIL", lowest=16, bits=12, access="ro",
                      description="BUSY, READ_ONLY, COMMAND, FIELD: address of the register. "
                                  f"QUERY: the core's error code in the low {error_bits} bits, "
                                  "the query above. "
                                  f"{'' if config.memory is None else 'APPEND: 0. '}"
                                  "EARLY, LATE: 0; TOKEN and NUMBER show how far the operation "
                                  "got."))),
        Register(name="IRQ_ENABLE", address=Address.IRQ_ENABLE, access="rw",
                 description="Selects the bits of IRQ_STATUS that assert irq.",
                 fields=interrupts("rw", "Enable DONE.", "Enable ERROR.")),
        Register(name="IRQ_STATUS", address=Address.IRQ_STATUS, access="w1c",
                 description="Pending interrupts; write 1 to clear.",
                 fields=interrupts("w1c", "An operation has ended and all its answers have left: "
                                          "BUSY and ACTIVE have returned to 0 since its COMMAND.",
                                   "An error has occurred, even if ERROR still holds an "
                                   "earlier one.")),
    ]


def _command(config: Config) -> list[Register]:
    capacity = config.capacity
    entries = config.key_bits + 1
    unit, memory = config.rescore, config.memory
    tokens_bits = _bits(max(capacity, entries))
    number_bits = max(BATCHES_MAX.bit_length(), tokens_bits)
    flags = [(Flag.TRACE, "Send traces in addition to results."),
             (Flag.RESCORE, "Weight by dot-product scores; the queries' elements follow."),
             (Flag.SHARED, "Make one selection for all queries."),
             *([] if memory is None else [
                 (Flag.RAISE, ("Of APPEND: raise the sequence's number of tokens with each token "
                               "that is in memory."))])]

    def register(name: str, bits: int, description: str) -> Register:
        return Register(name=name, address=Address[name], access="rw", description=description,
                        kept=True, fields=(Field(name=name, lowest=0, bits=bits, access="rw",
                                                 description=description),))

    def of_query(query: int, name: str, bits: int, description: str) -> Register:
        return Register(
            name=f"QUERY{query}_{name}", address=Address[f"QUERY_{name}"] + QUERY_STRIDE * query,
            access="rw", description=description, kept=True, query=query,
            fields=(Field(name=name, lowest=0, bits=bits, access="rw", description=description),))

    if memory is None:
        counted = (("First token of a load, or first distance of LOAD_EXP_TABLE. Counts up as "
                    "tokens are received: after an error, it is the token that is incomplete."),
                   "Number of tokens, of weights (LOAD_EXP_TABLE) or of batches")
    else:
        counted = (("First token of APPEND, or first distance of LOAD_EXP_TABLE. Counts up as "
                    "tokens are received: after an error of the packet, it is the token that is "
                    "incomplete."),
                   "Number of tokens (APPEND), of weights (LOAD_EXP_TABLE) or of batches")
    registers = [
        register("TOKEN", tokens_bits, counted[0]),
        register("NUMBER", number_bits,
                 f"{counted[1]}, in {number_bits} bits. Counts down to 0 as they are received."),
        register("FIRST", _bits(capacity - 1), "First key that the queries see."),
        register("N", _bits(capacity), "Number of nearest keys to select."),
        register("SINK", _bits(capacity), "Number of keys at the beginning of the range that are "
                                          "always selected."),
        register("RECENT", _bits(capacity), "Number of keys at the end of the range that are "
                                            "always selected."),
        Register(name="FLAGS", address=Address.FLAGS, access="rw", kept=True,
                 description="Options of a batch." if memory is None else
                             "Options of a batch, or of APPEND.",
                 fields=tuple(Field(name=flag.name, lowest=flag.value, bits=1, access="rw",
                                    description=says) for flag, says in flags)),
        register("EXP_TABLE", _bits(config.exp_tables - 1), "Exp table written by LOAD_EXP_TABLE."),
        Register(name="COMMAND", address=Address.COMMAND, access="wo",
                 description="A write starts an operation, which then receives one packet on "
                             "s_axis.",
                 fields=(Field(name="COMMAND", lowest=0, bits=3, access="wo",
                               description="Operation to start.",
                               enumeration=tuple((command.name, command.value) for command in
                                                 Command)),)),
        *([] if memory is None else [
            register("HEAD", _bits(memory.heads - 1),
                     "Key head that the queries see, or that APPEND is for."),
            register("SEQUENCE", _bits(memory.sequences - 1),
                     "Sequence that they see, or that APPEND is for."),
        ]),
    ]
    for query in range(config.queries):
        registers += [
            of_query(query, "COUNT", _bits(capacity), "Number of keys that the query sees, "
                                                  "starting at FIRST; 0 if the query is unused."),
            of_query(query, "EXP_TABLE", _bits(config.exp_tables - 1), "Exp table of the query."),
        ]
        if unit is not None:
            registers.append(of_query(query, "MULTIPLIER", MULTIPLIER_BITS,
                                      "Scale of the query's dot-product scores, with 24 fraction "
                                      "bits."))
    return registers


def _tables(config: Config, memory: Memory) -> list[Register]:
    """Registers of the tables, and of what becomes of reading the memory."""
    sizes = cache_map(config)
    is_set = ("SET", 31, 1, "1 sets the entry, 0 removes it.")

    def register(name: str, access: str, description: str,
                 *fields: tuple[str, int, int, str]) -> Register:
        return Register(name=name, address=Address[name], access=access, description=description,
                        fields=tuple(Field(name=field, lowest=lowest, bits=bits, access=access,
                                           description=says)
                                     for field, lowest, bits, says in fields))

    def only(name: str, access: str, lowest: int, bits: int, description: str) -> Register:
        return register(name, access, description, (name, lowest, bits, description))

    def address(name: str, unit: int, what: str) -> list[Register]:
        lowest = unit.bit_length() - 1
        return [
            only(f"TABLE_{name}_LOW", "rw", lowest, min(32, memory.address_bits) - lowest,
                 f"Address of the head's first {what}, in bytes; a multiple of {unit}."),
            *([only(f"TABLE_{name}_HIGH", "rw", 0, memory.address_bits - 32,
                    "Its bits from 32 on.")] if memory.address_bits > 32 else [])]

    return [
        *address("CODES", sizes.burst_bytes, "code"),
        *address("ROWS", sizes.row_unit, "row"),
        only("TABLE_STRIDE", "rw", sizes.row_unit.bit_length() - 1, memory.stride_bits,
             f"Bytes from one row of the head to the next; a multiple of {sizes.row_unit}."),
        register("TABLE_HEAD", "wo",
                 "A write sets the entry of a head to the registers above, or removes it.",
                 ("NUMBER", 0, _bits(memory.heads - 1), "The head."), is_set),
        only("TABLE_SEQUENCE", "rw", 0, _bits(memory.sequences - 1),
             "Sequence that TABLE_PAGE and TABLE_TOKENS are for."),
        only("TABLE_INDEX", "rw", 0, _bits(sizes.listed - 1),
             "Place in the sequence's list of pages that TABLE_PAGE is for, from 0 on."),
        register("TABLE_PAGE", "wo", "A write sets a place of a sequence's list, or removes it.",
                 ("NUMBER", 0, _bits(sizes.pages - 1), "The page."), is_set),
        only("TABLE_TOKENS", "wo", 0, _bits(config.capacity),
             ("A write sets the sequence's number of tokens. Codes and rows of all of them must "
              "have reached the memory before.")),
        only("MEMORY_TIMEOUT", "rw", 0, memory.timeout_bits,
             ("Cycles without a transfer after which a memory that owes an answer is given up; 0 "
              f"stands for 2**{memory.timeout_bits}.")),
        only("MEMORY_STATUS", "ro", 0, 1,
             "1 when the tables have been cleared after reset; a write to them waits until then."),
        register("MEMORY_FAULT", "w1c",
                 "Errors of the memory in queries since they were cleared; write 1 to clear.",
                 ("NOT_SET", Fault.NOT_SET, 1,
                  "A head, or the first page of a range, was not set."),
                 ("CODES", Fault.CODES, 1, "Codes could not be read."),
                 ("ROWS", Fault.ROWS, 1, "Rows could not be read.")),
    ]


def _counters() -> list[Register]:
    return [
        Register(name=f"{name}_{half}", address=Address.COUNTERS + 8 * index + 4 * high,
                 access="ro", description=f"{description} {says}",
                 fields=(Field(name=f"{name}_{half}", lowest=0, bits=32, access="ro",
                               description=description),))
        for index, (name, description) in enumerate(COUNTERS)
        for high, (half, says) in enumerate([
            ("LOW", "Low word; exact at the time of the read response."),
            ("HIGH", "High word; read it before and after the low word; repeat if it changed.")])]


def commands(config: Config) -> tuple[Command, ...]:
    """Operations that a core of a configuration has."""
    absent: set[Command] = set()
    if config.rescore is None:
        absent.add(Command.LOAD_RESCORE_KEYS)
    if config.memory is None:
        absent.add(Command.APPEND)
    else:
        absent |= {Command.LOAD_KEYS, Command.LOAD_VALUES, Command.LOAD_RESCORE_KEYS}
    return tuple(command for command in Command if command not in absent)


def _packets(config: Config, data_bits: int, result_bits: int, trace_bits: int) -> list[Packet]:
    unit = config.rescore

    def one(name: str, bits: int, count: int = 1) -> Unit:
        return Unit(name=name, elements=1, element_bits=bits, signed=False, count=count)

    def load(command: Command, description: str, *units: Unit) -> Packet:
        return Packet(name=command.name, port="s_axis", bits=data_bits, units=units,
                      description=description + " Repeated NUMBER times; tlast on the last beat.")

    def field(name: str, lowest: int, bits: int, description: str) -> Field:
        return Field(name=name, lowest=lowest, bits=bits, access="ro", description=description)

    packets = [
        load(Command.LOAD_KEYS, "The code of a token.", one("code", config.key_bits)),
        load(Command.LOAD_VALUES, "A beat with the scale of a token, then its elements.",
             one("scale", SCALE_BITS),
             Unit(name="elements", elements=config.value_lanes, element_bits=config.value_bits,
                  signed=True, count=config.beats)),
        load(Command.LOAD_EXP_TABLE, "A beat with the weight of a distance.",
             one("weight", config.weight_bits)),
    ]
    rescore: tuple[Unit, ...] = ()
    if unit is not None:
        elements = Unit(name="elements", elements=unit.lanes, element_bits=unit.element_bits,
                        signed=True, count=unit.beats)
        rescore = (Unit(name="rescore elements", elements=unit.lanes,
                        element_bits=unit.element_bits,
                        signed=True, count=config.queries * unit.beats),)
        packets.append(load(Command.LOAD_RESCORE_KEYS, "The elements of a token's rescore key.",
                            elements))
    packets.append(load(
        Command.QUERY, "The codes of all queries of a batch, unused ones included; with "
                       "FLAGS.RESCORE, "
                       "then the elements of all queries, one query after another.",
        one("code", config.key_bits, config.queries), *rescore))
    if config.memory is not None:
        sizes = cache_map(config)
        packets.append(load(
            Command.APPEND, "The code of a token, then its row as it lies in memory, one beat of "
                            "the bus after another.",
            one("code", config.key_bits),
            Unit(name="bytes of the row", elements=sizes.data_bytes, element_bits=8, signed=False,
                 count=RowFields.of(config).beats)))
    known = {command.name for command in commands(config)}
    packets = [packet for packet in packets if packet.name in known]
    packets.append(Packet(
        name="RESULT", port="m_axis_result", bits=data_bits,
        description="For each query of each batch, in order: a header, then its elements. A query "
                    "with an error is a header only. tlast on the query's last beat.",
        fields=(field("QUERY", 0, 8, "Query of the batch."),
                field("ERROR", 8, 8, "0, or the core's error code."),
                field("ELEMENTS", 16, 16, "Number of elements that follow: VALUE_DIM, or 0.")),
        units=(Unit(name="result", elements=config.value_dim, element_bits=result_bits, signed=True,
                    count=1),)))
    narrow = (field("WEIGHT", 48, 16, "Weight of the key."),) if trace_bits == 64 else (
        field("SCORE", 64, 32, "Score of the key, two's complement; minus the distance without "
                               "dot-product scores."),
        field("WEIGHT", 96, 32, "Weight of the key."))
    packets.append(Packet(
        name="TRACE", port="m_axis_trace", bits=trace_bits,
        description="For each query without an error, if FLAGS.TRACE is set: a beat for each "
                    "selected "
                    "key, the highest index first. tlast on the query's last beat.",
        fields=(field("INDEX", 0, 24, "Token of the key."),
                field("QUERY", 24, 8, "Query of the batch."),
                field("DISTANCE", 32, 16, "Hamming distance of the key; with a shared selection, "
                                          "the sum over all queries."),
                *narrow),
        units=()))
    return packets


def register_map(config: Config, data_bits: int = 64, version: tuple[int, int, int] = (0, 0, 0), *,
                 resets_fields: bool = False) -> RegisterMap:
    """Describe the interface of a SoC core.

    Parameters
    ----------
    config
        The core's.
    data_bits
        Bits of a beat of the streams in and of results, one of :data:`DATA_BITS`; at least two
        elements of a result.
    version
        Release of Nearbit: three integers from 0 to 255.
    resets_fields
        Whether a reset sets the command fields to 0; else they keep their values.
    """
    if not isinstance(config, Config):
        raise TypeError(f"Config must be a Config, not {config!r}")
    if data_bits not in DATA_BITS:
        raise ValueError(f"Data bits must be one of {', '.join(map(str, DATA_BITS))}, "
                         f"not {data_bits!r}")
    if len(version) != 3 or not all(isinstance(part, int) and 0 <= part < 256 for part in version):
        raise ValueError(f"Version must be three integers from 0 to 255, not {version!r}")
    result_bits = 16 if config.output_bits <= 16 else 32
    if data_bits < 2 * result_bits:
        raise ValueError(f"Data bits must be at least {2 * result_bits} for results of "
                         f"{config.output_bits} bits, not {data_bits}")
    if config.distance_max >= 1 << 16:
        raise ValueError(f"Distances must be below 65536 for a beat of the trace, not up to "
                         f"{config.distance_max}")
    if config.rescore is not None and config.rescore.score_max >= 1 << 31:
        raise ValueError(f"Scores must be below 2**31 for a beat of the trace, not up to "
                         f"{config.rescore.score_max}")
    trace_bits = 128 if config.rescore is not None or config.weight_bits > 16 else 64
    return RegisterMap(
        config=config, data_bits=data_bits, version=version,
        registers=(*_constants(config, data_bits, version, result_bits, trace_bits),
                   *_control(config), *_command(config),
                   *([] if config.memory is None else _tables(config, config.memory)),
                   *_counters()),
        packets=tuple(_packets(config, data_bits, result_bits, trace_bits)),
        resets_fields=resets_fields)
