"""The part of a liberty file that area and energy need: functions, areas, capacitances, energies.

Units are those that nearly all liberty files have, and are checked: volts, picofarads, hence
picojoules, and nanowatts of leakage. Areas are in the file's unit, by custom square micrometres.
"""

import gzip
import itertools
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


__all__ = ["Cell", "Function", "Liberty", "LibertyError", "Pin"]


SLEW = 0.05
"""Input transition time in nanoseconds at which energies are looked up."""


class LibertyError(Exception):
    """A file that is not a usable liberty file; the message is one sentence for the user."""


@dataclass
class _Group:
    """A group of a liberty file: its attributes and its sub-groups."""

    kind: str
    names: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    groups: list["_Group"] = field(default_factory=list)

    def of(self, kind: str) -> list["_Group"]:
        return [group for group in self.groups if group.kind == kind]


_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|([{}();:,])|([^\s{}();:,"\\]+)', re.DOTALL)
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def _parse(text: str) -> _Group:
    """Parse one group, the first of the text."""
    tokens = [(match[1] if match[1] is not None else match[2] or match[3], match[1] is None)
              for match in _TOKEN.finditer(text)]
    place = 0

    def arguments() -> list[str]:
        nonlocal place
        found = []
        while tokens[place] != (")", True):
            if tokens[place] != (",", True):
                found.append(tokens[place][0])
            place += 1
        place += 1
        return found

    def group(kind: str) -> _Group:
        nonlocal place
        made = _Group(kind, arguments())
        place += 1 # {
        while tokens[place] != ("}", True):
            name = tokens[place][0]
            place += 1
            if tokens[place] == (":", True):
                words = []
                place += 1
                while tokens[place] not in ((";", True), ("}", True)):
                    words.append(tokens[place][0])
                    place += 1
                made.attributes[name] = " ".join(words)
            elif tokens[place] == ("(", True):
                place += 1
                before = place
                found = arguments()
                if tokens[place] == ("{", True):
                    place = before
                    made.groups.append(group(name))
                else:
                    made.attributes[name] = found
            if tokens[place] == (";", True):
                place += 1
        place += 1
        return made

    kind = tokens[0][0]
    place = 2
    return group(kind)


class Function:
    """A Boolean function of a cell's pins, evaluated on words of bits.

    Parameters
    ----------
    text
        In liberty's syntax: ``!`` or ``'`` for not, ``&``, ``*`` or a space for and, ``|`` or ``+``
        for or, ``^`` for exclusive or. :attr:`expression` is the same in Python's and C's, but for
        the constants ``ZERO`` and ``ONE``.
    """

    def __init__(self, text: str) -> None:
        """Parse the text."""
        self.text = text
        self._tokens = re.findall(r"[A-Za-z_]\w*|[!'&*|+^()01]", text)
        self._place = 0
        self.expression = self._or()
        self.inputs = sorted({token for token in self._tokens if re.match(r"[A-Za-z_]", token)})
        # Nothing but names of pins and operators comes out of the parser.
        self._code = eval(f"lambda {', '.join(self.inputs)}: {self.expression}",
                          {"__builtins__": {}, "ZERO": np.uint64(0),
                           "ONE": np.uint64(0xffff_ffff_ffff_ffff)})

    def __call__(self, *inputs: Any) -> Any:
        """Evaluate, bit for bit, with a word for each of :attr:`inputs`."""
        return self._code(*inputs)

    def table(self, pins: list[str]) -> tuple[int, ...]:
        """Truth table over some pins, which include all inputs; the first pin counts least."""
        rows = list(itertools.product((0, 1), repeat=len(pins)))
        columns = {pin: np.array([row[-1 - i] for row in rows], np.uint64)
                   for i, pin in enumerate(pins)}
        result = self(*(columns[pin] for pin in self.inputs))
        return tuple(int(x) for x in np.broadcast_to(result, len(rows)) & np.uint64(1))

    def _next(self) -> str:
        return self._tokens[self._place] if self._place < len(self._tokens) else ""

    def _or(self) -> str:
        source = self._and()
        while self._next() and self._next() in "|+":
            self._place += 1
            source = f"({source} | {self._and()})"
        return source

    def _and(self) -> str:
        source = self._xor()
        while self._next() and self._next() not in "|+)^'":
            if self._next() in "&*":
                self._place += 1
            source = f"({source} & {self._xor()})"
        return source

    def _xor(self) -> str:
        source = self._not()
        while self._next() == "^":
            self._place += 1
            source = f"({source} ^ {self._not()})"
        return source

    def _not(self) -> str:
        token = self._next()
        self._place += 1
        if token == "!":
            return f"~{self._not()}"
        if token == "(":
            source = self._or()
            self._place += 1
        else:
            source = {"0": "ZERO", "1": "ONE"}.get(token, token)
        while self._next() == "'":
            self._place += 1
            source = f"~{source}"
        return f"({source})"


@dataclass(frozen=True)
class Pin:
    """A pin of a cell.

    Parameters
    ----------
    is_output
        Whether the cell drives it.
    capacitance
        Of an input, in picofarads.
    function
        Of an output of a gate, of the inputs; of a register, of its state; or None.
    energies
        Internal energy of a rise and of a fall, as tables: loads in picofarads, picojoules.
    """

    is_output: bool
    capacitance: float
    function: Function | None
    energies: tuple[tuple[np.ndarray, np.ndarray], ...]

    def energy(self, load: float = 0.0) -> float:
        """Picojoules inside the cell for one transition, the mean of rise and fall."""
        if not self.energies:
            return 0.0
        return float(np.mean([np.interp(load, *table) for table in self.energies]))


@dataclass(frozen=True)
class Cell:
    """A cell.

    Parameters
    ----------
    area
        In the file's unit.
    leakage
        In nanowatts.
    pins
        By name, without those of the supply.
    clock, next_state
        Of a register: its clock's pin, and what it takes on; else None.
    gate_pins
        Of a clock gate: the pins of clock, enable, test enable or None, and gated clock; else None.
    text
        In the file.
    """

    name: str
    area: float
    leakage: float
    pins: dict[str, Pin]
    clock: str | None
    next_state: Function | None
    gate_pins: tuple[str, str, str | None, str] | None
    text: str

    @property
    def inputs(self) -> list[str]:
        """Input pins by name."""
        return sorted(name for name, pin in self.pins.items() if not pin.is_output)

    @property
    def outputs(self) -> list[str]:
        """Output pins by name."""
        return sorted(name for name, pin in self.pins.items() if pin.is_output)


# Cells that are for other things than logic, by customary parts of their names.
_UNWANTED = re.compile(r"lpflow|dly|probe|sparecell|clkinv|clkbuf|bufbuf|bufinv|conb|ebuf|einv")


class Liberty:
    """A liberty file.

    Of cells with the same function only the smallest is kept, because nothing is sized here;
    isolation cells, delays and the like are left out.
    """

    def __init__(self, path: Path) -> None:
        """Read a file, also one compressed with gzip; :class:`LibertyError` if it is none."""
        try:
            content = path.read_bytes()
            if content[:2] == b"\x1f\x8b":
                content = gzip.decompress(content)
            text = _COMMENT.sub("", content.decode("utf-8").replace("\\\n", " "))
        except OSError as error:
            raise LibertyError(f"{path}: {error.strerror or error}") from None
        except (UnicodeDecodeError, EOFError, zlib.error) as error:
            raise LibertyError(f"{path} is not a liberty file: {error}") from None
        if not re.match(r"\s*library\s*\(", text):
            raise LibertyError(f"{path} is not a liberty file: it does not begin with a library "
                               f"group")
        starts = [match.start() for match in re.finditer(r"\bcell\s*\(", text)]
        if not starts:
            raise LibertyError(f"{path} has no cells")
        try:
            self._read(text, starts)
        except (LookupError, ValueError, TypeError, SyntaxError, StopIteration) as error:
            raise LibertyError(f"{path} is not a liberty file that can be used here "
                               f"({error!r})") from None
        if not any(cell.clock for cell in self.cells.values()):
            raise LibertyError(f"{path} has no flip-flop")

    def _read(self, text: str, starts: list[int]) -> None:
        self.head = text[:starts[0]]
        library = _parse(self.head + "}")
        self.name = library.names[0]
        self.voltage = float(library.attributes.get("nom_voltage", 0) or next(
            group.attributes["voltage"] for group in library.of("operating_conditions")))
        for attribute, unit in (("voltage_unit", "1V"), ("leakage_power_unit", "1nW")):
            if library.attributes.get(attribute, unit) != unit:
                raise ValueError(f"{attribute} is not {unit}")
        amount, unit = library.attributes["capacitive_load_unit"]
        if float(amount) != 1 or unit.lower() != "pf":
            raise ValueError("capacitive_load_unit is not 1 pf")
        # The default wire load: capacitance by fan-out.
        self._wire = [0.0]
        for group in library.of("wire_load"):
            if group.names[0] == library.attributes.get("default_wire_load"):
                lengths = {int(a): float(b) for a, b in [group.attributes["fanout_length"]]}
                each = max(length / count for count, length in lengths.items())
                self._wire.append(float(group.attributes["capacitance"]) * each)

        smallest: dict[Any, Cell] = {}
        for start, end in itertools.pairwise([*starts, len(text)]):
            cell = _cell(text[start:end])
            key = None if cell is None or _UNWANTED.search(cell.name) else _kind(cell)
            if cell is not None and key is not None \
                    and (key not in smallest or cell.area < smallest[key].area):
                smallest[key] = cell
        self.cells = {cell.name: cell for cell in smallest.values()}

    def wire(self, fan_out: int) -> float:
        """Picofarads of a wire to so many pins."""
        return self._wire[-1] * fan_out

    def text(self) -> str:
        """The file with nothing but :attr:`cells`."""
        return self.head + "".join(cell.text for cell in self.cells.values()) + "}\n"

    def genlib(self) -> str:
        """The gates of one output in ABC's own format, which needs no delays."""
        lines = []
        for cell in self.cells.values():
            if cell.clock is None and cell.gate_pins is None and len(cell.outputs) == 1:
                function = cell.pins[cell.outputs[0]].function
                assert function is not None
                text = function.expression.replace("~", "!").replace("&", "*").replace("|", "+")
                if "^" not in text:
                    lines.append(f"GATE {cell.name} {cell.area} {cell.outputs[0]}={text};\n"
                                 f"PIN * UNKNOWN 1 999 1.0 0.0 1.0 0.0\n")
        lines += ["GATE _const0_ 0 z=CONST0;\n", "GATE _const1_ 0 z=CONST1;\n"]
        return "".join(lines)

    def adder(self, tables: list[tuple[int, ...]]) -> Cell | None:
        """Find a cell with these truth tables as outputs, such as a full adder's."""
        for cell in self.cells.values():
            found = [cell.pins[pin].function for pin in cell.outputs]
            if cell.clock is None and len(found) == len(tables) and all(found) \
                    and len(cell.inputs) == len(tables[0]).bit_length() - 1 \
                    and sorted(f.table(cell.inputs) for f in found if f) == sorted(tables):
                return cell
        return None


def _truth(value: Any) -> bool:
    return str(value).lower() == "true"


def _cell(text: str) -> Cell | None:
    """Read a cell; None for one that is neither a gate, a register nor a clock gate."""
    group = _parse(text[:_end(text)])
    text = text[:_end(text)] + "\n"
    if _truth(group.attributes.get("dont_use", "")) or group.of("latch") or group.of("bus"):
        return None
    pins: dict[str, Pin] = {}
    roles: dict[str, str] = {}
    for pin in group.of("pin"):
        name, of = pin.names[0], pin.attributes
        for role in ("clock_pin", "enable_pin", "test_pin", "out_pin"):
            if _truth(of.get(f"clock_gate_{role}", "")):
                roles[role] = name
        if of["direction"] == "internal":
            continue
        if of["direction"] not in ("input", "output"):
            return None
        pins[name] = Pin(
            of["direction"] == "output", float(of.get("capacitance", 0)),
            Function(of["function"]) if "function" in of else None,
            tuple(table for power in pin.of("internal_power") for table in _tables(power)))
    if "clock_gating_integrated_cell" in group.attributes:
        if group.attributes["clock_gating_integrated_cell"] not in (
                "latch_posedge", "latch_posedge_precontrol"):
            return None
        gate_pins = (roles["clock_pin"], roles["enable_pin"], roles.get("test_pin"),
                     roles["out_pin"])
    elif group.of("statetable"):
        return None
    else:
        gate_pins = None
    clock, next_state = None, None
    for register in group.of("ff"):
        of = register.attributes
        if {"clear", "preset"} & of.keys() or not re.fullmatch(r"\w+", of["clocked_on"]):
            return None
        clock, next_state = of["clocked_on"], Function(of["next_state"])
        state = register.names[0]
        # Outputs that are not the state itself are not needed.
        if [pin.function.text for pin in pins.values() if pin.function] != [state]:
            return None
        if state in next_state.inputs or len(next_state.inputs) != 1:
            return None
    if clock is None and gate_pins is None and not all(
            pin.function for pin in pins.values() if pin.is_output):
        return None
    attributes = group.attributes
    leakages = [float(state.attributes["value"]) for state in group.of("leakage_power")]
    leakage = float(attributes.get("cell_leakage_power", np.mean(leakages or [0.0])))
    return Cell(group.names[0], float(attributes["area"]), leakage, pins, clock, next_state,
                gate_pins, text)


def _end(text: str) -> int:
    """Where the first group of a text ends."""
    depth = 0
    for match in re.finditer(r"[{}]", text):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return match.end()
    raise ValueError("a group does not end")


def _tables(power: _Group) -> list[tuple[np.ndarray, np.ndarray]]:
    """Energy by load, at the one slew, of a rise and of a fall."""
    found = []
    for table in (*power.of("rise_power"), *power.of("fall_power")):
        of = table.attributes
        rows = np.array([[float(x) for x in row.replace(",", " ").split()]
                         for row in of["values"]])
        first = _numbers(of["index_1"]) if "index_1" in of else np.zeros(1)
        if "index_2" not in of:
            found.append((np.zeros(1), np.array([np.interp(SLEW, first, rows.ravel())])))
        else:
            at_slew = np.array([np.interp(SLEW, first, column) for column in rows.T])
            found.append((_numbers(of["index_2"]), at_slew))
    return found


def _numbers(words: list[str]) -> np.ndarray:
    return np.array([float(x) for x in " ".join(words).replace(",", " ").split()])


def _kind(cell: Cell) -> Any:
    """What cells that could replace each other share."""
    if cell.gate_pins is not None:
        return "gate" if cell.gate_pins[2] is None else None
    if cell.next_state is not None:
        return ("register", cell.next_state.table(cell.next_state.inputs))
    if not cell.inputs:
        return None
    return tuple(sorted(f.table(cell.inputs) for pin in cell.outputs
                        if (f := cell.pins[pin].function)))
