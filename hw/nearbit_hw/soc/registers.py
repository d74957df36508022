"""The one description of the SoC interface: its registers, its packets, and their numbers.

Plain Python without Amaranth objects. The hardware is built from it, and so are the Markdown table,
the C header and the JSON of :mod:`nearbit`.
"""

from dataclasses import dataclass
from enum import IntEnum

from nearbit_model.config import MULTIPLIER_BITS, SCALE_BITS, Config


__all__ = [
    "ACCESSES", "COUNTERS", "DATA_BITS", "IDENTITY", "QUERIES_MAX", "REVISION", "WINDOW_BYTES",
    "Address", "Command", "Control", "Field", "Flag", "Interrupt", "Packet", "Register",
    "RegisterMap", "SocError", "Status", "Unit", "register_map",
]


IDENTITY = 0x4e454152
"""What ID reads as: "NEAR" in ASCII, the first letter in the highest byte."""

REVISION = 1
"""Revision of this interface; it counts up whenever software has to know of a change."""

QUERIES_MAX = 255
"""Queries that an operation may have at least, whatever the configuration; with a capacity of more
keys, as many as that."""

WINDOW_BYTES = 4096
"""Bytes of the address space that the registers take."""

DATA_BITS = (32, 64, 128, 256, 512)
"""Widths that the streams may have."""

ACCESSES = ("ro", "rw", "wo", "w1c")
"""Read only, read and write, write only (reads as 0), and write 1 to clear."""


class Address(IntEnum):
    """Byte addresses of registers that are there once."""

    ID = 0x000
    VERSION = 0x004
    CAPABILITIES = 0x008
    STREAM = 0x00c
    KEY_BITS = 0x010
    VALUE_DIM = 0x014
    VALUE_BITS = 0x018
    VALUE_LANES = 0x01c
    CAPACITY = 0x020
    ROWS = 0x024
    LANES = 0x028
    TOP_N = 0x02c
    WEIGHT_BITS = 0x030
    OUTPUT_FRACTION_BITS = 0x034
    TABLES = 0x038
    RESCORE = 0x03c
    CONTROL = 0x080
    STATUS = 0x084
    ERROR = 0x088
    IRQ_ENABLE = 0x08c
    IRQ_STATUS = 0x090
    ROW = 0x0c0
    NUMBER = 0x0c4
    FIRST = 0x0c8
    N = 0x0cc
    SINK = 0x0d0
    RECENT = 0x0d4
    FLAGS = 0x0d8
    TABLE = 0x0dc
    COMMAND = 0x0e0
    # Row r has its registers 16 r bytes on.
    ROW_COUNT = 0x0f0
    ROW_TABLE = 0x0f4
    ROW_MULTIPLIER = 0x0f8
    # Counter c has its words 8 c bytes on.
    COUNTERS = 0x800


ROW_STRIDE = 16
"""Bytes from the registers of a row to those of the next."""


class Command(IntEnum):
    """Operations, as COMMAND starts them."""

    LOAD_KEYS = 1
    LOAD_VALUES = 2
    LOAD_TABLE = 3
    LOAD_EXACT_KEYS = 4
    QUERY = 5


class SocError(IntEnum):
    """What ERROR says; it keeps the first since it was cleared."""

    NONE = 0
    #: A command field or COMMAND was written during an operation. The write had no effect.
    BUSY = 1
    #: A read-only register was written.
    READ_ONLY = 2
    #: COMMAND was written with no command, one for which there is no unit, with NUMBER 0, or with
    #: rows (weights of a table) beyond the end. No operation was started.
    COMMAND = 3
    #: A value does not fit its register. The write had no effect.
    FIELD = 4
    #: The packet ended before the operation did.
    EARLY = 5
    #: The packet did not end with the operation; what came then, up to its end, was dropped.
    LATE = 6
    #: The core answered a row of a query with an error.
    QUERY = 7


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


class Flag(IntEnum):
    """Bits of FLAGS."""

    TRACE = 0
    RESCORE = 1
    SHARED = 2


COUNTERS = (
    ("CYCLES", "Clock cycles."),
    ("QUERIES", "Queries accepted by the core, each with all its rows."),
    ("KEYS", "Words of LANES keys scored, each by all rows of its query: times LANES, keys."),
    ("STALL_QUERY", "Cycles in which a query waits for the core to accept it."),
    ("STALL_SCORE", "Cycles in which a query to be scored waits for a selection to be free."),
    ("STALL_SELECT", "Cycles in which selected keys wait for the weighting or the exact scores."),
    ("STALL_VALUE", "Cycles in which weighted keys wait for their values to be added up."),
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
        How many; 0 is not possible.
    access
        One of :data:`ACCESSES`.
    description
        A sentence or more.
    reset
        What it reads as after reset; of a constant, its value.
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
    """A word of 32 bits. What no field has reads as 0 and must be written as 0.

    Parameters
    ----------
    name
        Upper case.
    address
        In bytes from the window's beginning; a multiple of 4.
    access
        One of :data:`ACCESSES`.
    description
        A sentence or more.
    fields
        The lowest one first.
    kept
        Whether it is a command field. Reset leaves it as it is, and it is 0 when the device is
        configured; unless :attr:`RegisterMap.resets_fields`.
    row
        Of a register that each query row has: the row's number.
    """

    name: str
    address: int
    access: str
    description: str
    fields: tuple[Field, ...]
    kept: bool = False
    row: int | None = None

    @property
    def reset(self) -> int:
        """What the register reads as after reset; if it is kept, at first."""
        return sum(field.reset << field.lowest for field in self.fields)

    @property
    def bits(self) -> int:
        """Bits up to the highest one of a field."""
        return max(field.lowest + field.bits for field in self.fields)

    @property
    def mask(self) -> int:
        """Ones where there are fields."""
        return sum(field.mask for field in self.fields)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What begins with a beat of its own: some elements, packed, with zeros up to a whole beat.

    Parameters
    ----------
    name
        What it is.
    elements
        How many; the first one is lowest.
    element_bits
        Bits of each; there are none between them.
    signed
        Whether they are two's complement.
    count
        Such units, one after another.
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
    """What an operation takes or gives.

    Parameters
    ----------
    name
        The command's, or that of the stream.
    port
        Prefix of the ports: ``s_axis``, ``m_axis_result``, ``m_axis_trace``.
    description
        How often the units come, and where ``tlast`` is.
    units
        What comes NUMBER times (loads, queries), or once (results).
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
        """Beats of all units; a header comes on top."""
        return sum(unit.count * unit.beats(self.bits) for unit in self.units)


@dataclass(frozen=True, kw_only=True)
class RegisterMap:
    """The interface of one SoC core.

    With ``resets_fields``, a reset sets the command fields to 0, for devices whose registers and
    memories hold anything before it.
    """

    config: Config
    data_bits: int
    version: tuple[int, int, int]
    registers: tuple[Register, ...]
    packets: tuple[Packet, ...]
    resets_fields: bool = False

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
        """Look a register up by its name."""
        return next(register for register in self.registers if register.name == name)

    def packet(self, name: str) -> Packet:
        """Look a packet up by its name."""
        return next(packet for packet in self.packets if packet.name == name)


def _bits(largest: int) -> int:
    """Bits of a register that holds 0 up to a number; at least one."""
    return max(1, largest.bit_length())


def _constants(config: Config, data_bits: int, version: tuple[int, int, int], result_bits: int,
               trace_bits: int) -> list[Register]:
    unit = config.rescore

    def register(name: str, description: str, fields: list[tuple[str, int, int, int, str]]
                 ) -> Register:
        return Register(name=name, address=Address[name], access="ro", description=description,
                        fields=tuple(Field(name=field, lowest=lowest, bits=bits, access="ro",
                                           reset=value, description=says)
                                     for field, lowest, bits, value, says in fields))

    def number(name: str, value: int, description: str) -> Register:
        return register(name, description, [(name, 0, 32, value, description)])

    major, minor, patch = version
    return [
        number("ID", IDENTITY, 'Identification: "NEAR".'),
        register("VERSION", "Release of Nearbit that this core is of.", [
            ("PATCH", 0, 8, patch, "Patch level."),
            ("MINOR", 8, 8, minor, "Minor version."),
            ("MAJOR", 16, 8, major, "Major version.")]),
        register("CAPABILITIES", "What this core can do.", [
            ("RESCORE", 0, 1, int(unit is not None), "There is the unit for exact scores."),
            ("SHARED", 1, 1, int(unit is not None and unit.shared),
             "Rows can share a selection."),
            ("APPEND_VALUES", 2, 1, int(config.value_ports > 1),
             "New value rows are taken beside queries; if 0, when all are answered."),
            ("REVISION", 8, 8, REVISION, "Revision of this interface."),
            ("COUNTERS", 16, 8, len(COUNTERS), "Counters.")]),
        register("STREAM", "Widths of the streams.", [
            ("DATA_BITS", 0, 16, data_bits, "Bits of a beat of s_axis and m_axis_result."),
            ("RESULT_BITS", 16, 8, result_bits, "Bits of an element in m_axis_result."),
            ("TRACE_BITS", 24, 8, trace_bits, "Bits of a beat of m_axis_trace.")]),
        number("KEY_BITS", config.key_bits, "Bits of a code."),
        number("VALUE_DIM", config.value_dim, "Elements of a value row and of a result."),
        number("VALUE_BITS", config.value_bits, "Bits of a value element."),
        number("VALUE_LANES", config.value_lanes, "Elements in a unit of a value row."),
        number("CAPACITY", config.capacity, "Keys and value rows held."),
        number("ROWS", config.rows, "Rows of a query."),
        number("LANES", config.lanes, "Keys scored in a cycle by each row."),
        number("TOP_N", config.top_n, "The most keys that a query may select."),
        number("WEIGHT_BITS", config.weight_bits, "Bits of a weight."),
        number("OUTPUT_FRACTION_BITS", config.output_fraction_bits,
               "Fraction bits of a result's elements."),
        number("TABLES", config.tables, "Weight tables."),
        register("RESCORE", "The unit for exact scores; 0 if there is none.", [
            ("HEAD_DIM", 0, 12, unit.head_dim if unit else 0, "Elements of an exact key."),
            ("LANES", 12, 12, unit.lanes if unit else 0, "Elements in a unit of an exact key."),
            ("ELEMENT_BITS", 24, 8, unit.element_bits if unit else 0, "Bits of an element.")]),
    ]


def _control() -> list[Register]:
    def flag(number: IntEnum, access: str, description: str) -> Field:
        return Field(name=number.name, lowest=number.value, bits=1, access=access,
                     description=description)

    def interrupts(access: str, done: str, error: str) -> tuple[Field, ...]:
        return (flag(Interrupt.DONE, access, done), flag(Interrupt.ERROR, access, error))

    return [
        Register(
            name="CONTROL", address=Address.CONTROL, access="wo",
            description="Ones act once. What is loaded, and queries that the core has, stay.",
            fields=(
                flag(Control.CLEAR, "wo",
                     "Clear ERROR, and end the operation: if some of its packet has come, the rest "
                     "is dropped up to tlast, during which STATUS.BUSY stays 1."),
                flag(Control.ABANDON, "wo",
                     "As CLEAR, but nothing more is dropped: for a source that was reset and sends "
                     "no rest."),
                flag(Control.CLEAR_COUNTERS, "wo",
                     "Set all counters to 0; a read of one waits until that is done."))),
        Register(
            name="STATUS", address=Address.STATUS, access="ro",
            description="What goes on.",
            fields=(
                flag(Status.BUSY, "ro", "An operation takes its packet; no other can be started, "
                                        "and the command fields cannot be written."),
                flag(Status.ACTIVE, "ro", "The core works on queries, or answers wait for their "
                                          "streams."),
                flag(Status.ERROR, "ro", "ERROR is not 0."),
                flag(Status.DROPPING, "ro", "The rest of a packet is being dropped."))),
        Register(
            name="ERROR", address=Address.ERROR, access="ro",
            description="The first error since CONTROL.CLEAR; it stops nothing but the operation "
                        "that it is of.",
            fields=(
                Field(name="CODE", lowest=0, bits=3, access="ro", description="What it is.",
                      enumeration=tuple((code.name, code.value) for code in SocError)),
                Field(name="DETAIL", lowest=16, bits=12, access="ro",
                      description="BUSY, READ_ONLY, COMMAND, FIELD: address of the register. "
                                  "QUERY: the core's error code (3 bits), above it the row. "
                                  "EARLY, LATE: 0; ROW and NUMBER say how far it came."))),
        Register(name="IRQ_ENABLE", address=Address.IRQ_ENABLE, access="rw",
                 description="Which bits of IRQ_STATUS raise irq.",
                 fields=interrupts("rw", "Enables DONE.", "Enables ERROR.")),
        Register(name="IRQ_STATUS", address=Address.IRQ_STATUS, access="w1c",
                 description="What has happened since it was cleared.",
                 fields=interrupts("w1c", "An operation has ended and all its answers have left: "
                                          "BUSY and ACTIVE have become 0 since its COMMAND.",
                                   "An error, also one that ERROR does not show because of an "
                                   "earlier one.")),
    ]


def _command(config: Config) -> list[Register]:
    capacity = config.capacity
    entries = config.key_bits + 1
    unit = config.rescore
    rows_bits = _bits(max(capacity, entries))
    number_bits = max(QUERIES_MAX.bit_length(), rows_bits)
    flags = [(Flag.TRACE, "Answer with traces, too."),
             (Flag.RESCORE, "Weights from exact scores; exact queries follow the codes."),
             (Flag.SHARED, "One selection for all rows.")]

    def register(name: str, bits: int, description: str) -> Register:
        return Register(name=name, address=Address[name], access="rw", description=description,
                        kept=True, fields=(Field(name=name, lowest=0, bits=bits, access="rw",
                                                 description=description),))

    def of_row(row: int, name: str, bits: int, description: str) -> Register:
        return Register(
            name=f"ROW{row}_{name}", address=Address[f"ROW_{name}"] + ROW_STRIDE * row,
            access="rw", description=description, kept=True, row=row,
            fields=(Field(name=name, lowest=0, bits=bits, access="rw", description=description),))

    registers = [
        register("ROW", rows_bits,
                 "First row of a load, or first distance of LOAD_TABLE. It counts up with what is "
                 "taken: at an error it is the row that is not whole."),
        register("NUMBER", number_bits,
                 f"Rows of a load, weights of LOAD_TABLE, or queries, as many as fit {number_bits} "
                 "bits. It counts down with what is taken, to 0."),
        register("FIRST", _bits(capacity - 1), "First key that queries see."),
        register("N", _bits(capacity), "Nearest keys to select."),
        register("SINK", _bits(capacity), "Keys to select at the beginning of the range."),
        register("RECENT", _bits(capacity), "Keys to select at its end."),
        Register(name="FLAGS", address=Address.FLAGS, access="rw", kept=True,
                 description="How queries are answered.",
                 fields=tuple(Field(name=flag.name, lowest=flag.value, bits=1, access="rw",
                                    description=says) for flag, says in flags)),
        register("TABLE", _bits(config.tables - 1), "Table that LOAD_TABLE loads."),
        Register(name="COMMAND", address=Address.COMMAND, access="wo",
                 description="Writing it starts an operation, which then takes one packet from "
                             "s_axis.",
                 fields=(Field(name="COMMAND", lowest=0, bits=3, access="wo",
                               description="The operation.",
                               enumeration=tuple((command.name, command.value) for command in
                                                 Command)),)),
    ]
    for row in range(config.rows):
        registers += [
            of_row(row, "COUNT", _bits(capacity), "Keys that the row sees, from FIRST on; 0: none, "
                                                  "the row is not used."),
            of_row(row, "TABLE", _bits(config.tables - 1), "Table that weights the row."),
        ]
        if unit is not None:
            registers.append(of_row(row, "MULTIPLIER", MULTIPLIER_BITS,
                                    "Scale of the row's exact scores, with 24 fraction bits."))
    return registers


def _counters() -> list[Register]:
    return [
        Register(name=f"{name}_{half}", address=Address.COUNTERS + 8 * index + 4 * high,
                 access="ro", description=f"{description} {says}",
                 fields=(Field(name=f"{name}_{half}", lowest=0, bits=32, access="ro",
                               description=description),))
        for index, (name, description) in enumerate(COUNTERS)
        for high, (half, says) in enumerate([
            ("LOW", "Low word; exact at the time of the answer."),
            ("HIGH", "High word; read it before and after the low one, again if they differ.")])]


def _packets(config: Config, data_bits: int, result_bits: int, trace_bits: int) -> list[Packet]:
    unit = config.rescore

    def one(name: str, bits: int, count: int = 1) -> Unit:
        return Unit(name=name, elements=1, element_bits=bits, signed=False, count=count)

    def load(command: Command, description: str, *units: Unit) -> Packet:
        return Packet(name=command.name, port="s_axis", bits=data_bits, units=units,
                      description=description + " All NUMBER times, tlast with the last beat.")

    def field(name: str, lowest: int, bits: int, description: str) -> Field:
        return Field(name=name, lowest=lowest, bits=bits, access="ro", description=description)

    packets = [
        load(Command.LOAD_KEYS, "For each row its code.", one("code", config.key_bits)),
        load(Command.LOAD_VALUES, "For each row a beat with its scale, then its elements.",
             one("scale", SCALE_BITS),
             Unit(name="elements", elements=config.value_lanes, element_bits=config.value_bits,
                  signed=True, count=config.columns)),
        load(Command.LOAD_TABLE, "A beat for each distance with its weight.",
             one("weight", config.weight_bits)),
    ]
    exact: tuple[Unit, ...] = ()
    if unit is not None:
        elements = Unit(name="elements", elements=unit.lanes, element_bits=unit.element_bits,
                        signed=True, count=unit.columns)
        exact = (Unit(name="exact elements", elements=unit.lanes, element_bits=unit.element_bits,
                      signed=True, count=config.rows * unit.columns),)
        packets.append(load(Command.LOAD_EXACT_KEYS, "For each row the elements of its exact key.",
                            elements))
    packets.append(load(
        Command.QUERY, "For each query the codes of all rows, unused ones too; with FLAGS.RESCORE "
                       "then the elements of all rows' exact queries, one row after another.",
        one("code", config.key_bits, config.rows), *exact))
    packets.append(Packet(
        name="RESULT", port="m_axis_result", bits=data_bits,
        description="For each row of each query, in order: a header, then its elements. A row with "
                    "an error is a header alone. tlast with the row's last beat.",
        fields=(field("ROW", 0, 8, "Row of the query."),
                field("ERROR", 8, 8, "0, or the core's error code."),
                field("ELEMENTS", 16, 16, "Elements that follow: VALUE_DIM, or 0.")),
        units=(Unit(name="result", elements=config.value_dim, element_bits=result_bits, signed=True,
                    count=1),)))
    narrow = (field("WEIGHT", 48, 16, "Its weight."),) if trace_bits == 64 else (
        field("SCORE", 64, 32, "Its score, two's complement: minus the distance without exact "
                               "scores."),
        field("WEIGHT", 96, 32, "Its weight."))
    packets.append(Packet(
        name="TRACE", port="m_axis_trace", bits=trace_bits,
        description="For each row without an error, if FLAGS.TRACE: a beat for each selected key, "
                    "the highest index first. tlast with the row's last beat.",
        fields=(field("INDEX", 0, 24, "Row of the store that the key is at."),
                field("ROW", 24, 8, "Row of the query."),
                field("DISTANCE", 32, 16, "Its Hamming distance; with a shared selection, the "
                                          "sum of all rows'."),
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
                   *_control(), *_command(config), *_counters()),
        packets=tuple(_packets(config, data_bits, result_bits, trace_bits)),
        resets_fields=resets_fields)
