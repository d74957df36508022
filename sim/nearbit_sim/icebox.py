"""A netlist that icebox_vlog reads out of an iCE40 bitstream, as a native library.

Each LUT becomes one C expression, after those that it reads; then all flip-flops and block RAMs
take the clock edge together. This is several times as fast as general Verilog simulators, and
compiles in seconds. Anything in the text that is not understood is an error, never left out.
"""

import ctypes
import graphlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np

from nearbit_sim.cache import cached, key_of, load_library
from nearbit_sim.cxx import compile_library, compiler
from nearbit_sim.engine import SimulationError


__all__ = ["Chip", "ChipSession", "Pll", "read_chip"]


# Expressions of a function of C: compilers' time grows with more than the length.
_PART = 400


@dataclass(frozen=True)
class Pll:
    """A PLL as the bitstream sets it: ``reference * (divf + 1) / (divr + 1) / 2 ** divq``."""

    reference: str
    divr: int
    divf: int
    divq: int

    def output(self, reference: float) -> float:
        """Hz of the output."""
        return reference * (self.divf + 1) / (self.divr + 1) / (1 << self.divq)


@dataclass
class _FlipFlop:
    name: str
    clock: str
    enable: str
    data: str
    reset: str # of an asynchronous one
    value: str


@dataclass
class _Ram:
    name: str
    contents: list[int]
    modes: tuple[int, int]
    pins: dict[str, list[str]]


@dataclass
class Chip:
    """A netlist.

    Parameters
    ----------
    inputs, outputs
        Ports.
    clock
        The pin that everything is clocked from.
    pll
        The PLL between pin and clock; None if there is none.
    """

    inputs: list[str]
    outputs: list[str]
    clock: str
    pll: Pll | None
    _assigns: dict[str, str] = field(repr=False)
    _flip_flops: list[_FlipFlop] = field(repr=False)
    _rams: list[_Ram] = field(repr=False)
    _initial: dict[str, int] = field(repr=False)

    def library(self, rx: str, tx: str) -> ctypes.CDLL:
        """Compile it, with an input to drive and an output to watch; all others are low."""
        source = self._source(rx, tx)
        command = [*compiler(), "-O1", "-fPIC", "-shared", "-w"]
        maker = resources.files("nearbit_sim") / "icebox.py"
        path = cached(key_of(source, *command, maker.read_text(encoding="utf-8")), ".so",
                      lambda target: compile_library(command, source, target))
        found = load_library(path)
        found.chip_create.restype = ctypes.c_void_p
        found.chip_destroy.argtypes = (ctypes.c_void_p,)
        found.chip_destroy.restype = None
        found.chip_run.restype = ctypes.c_int64
        found.chip_run.argtypes = (
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64),
            ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64), ctypes.c_int64,
            ctypes.c_int)
        return found

    def _source(self, rx: str, tx: str) -> str:
        names = sorted({*self.inputs, *self._assigns, *self._initial,
                        *(flip_flop.name for flip_flop in self._flip_flops),
                        *(net for ram in self._rams for net in ram.pins["RDATA"]
                          if net.isidentifier())})
        number = {name: index for index, name in enumerate(names)}

        def value(expression: str) -> str:
            return _NET.sub(lambda net: f"s->n[{number[net[0]]}]", expression)

        statements = [f"s->n[{number[name]}] = {value(_bitwise(expression))};"
                      for name, expression in self._ordered()]
        parts = [statements[start:start + _PART] for start in range(0, len(statements), _PART)]
        edge = []
        for index, flip_flop in enumerate(self._flip_flops):
            data = _bitwise(flip_flop.data)
            if flip_flop.enable:
                data = (f"{flip_flop.name} ^ (({_bitwise(flip_flop.enable)}) & "
                        f"({flip_flop.name} ^ ({data})))")
            if flip_flop.reset:
                data = _bitwise(f"({flip_flop.reset} ? {flip_flop.value} : ({data}))") \
                    if "^" not in data else (f"({flip_flop.reset} & {flip_flop.value}) | "
                                             f"(({flip_flop.reset} ^ 1) & ({data}))")
            edge.append(f"s->f[{index}] = {value(data)};")
        commit = [f"s->n[{number[flip_flop.name]}] = s->f[{index}];"
                  for index, flip_flop in enumerate(self._flip_flops)]
        rams, initial = [], []
        for index, ram in enumerate(self._rams):
            def word(name: str, pins: dict[str, list[str]] = ram.pins) -> str:
                bits = pins[name]
                joined = " | ".join(f"({value(bit)}) << {place}"
                                    for place, bit in enumerate(reversed(bits)) if bit != "0")
                return f"({joined or '0'})"

            rams.append(
                f"ram(s->m[{index}], &s->r[{index}], {ram.modes[0]}, {ram.modes[1]}, "
                + ", ".join(word(name) for name in ("RADDR", "RE", "RCLKE", "WADDR", "WE", "WCLKE",
                                                    "WDATA", "MASK")) + ");")
            outputs = [(number[net], place) for place, net
                       in enumerate(reversed(ram.pins["RDATA"])) if net.isidentifier()]
            commit += [f"s->n[{net}] = s->r[{index}] >> {place} & 1;" for net, place in outputs]
            initial += [f"s->m[{index}][{place}] = {word_};"
                        for place, word_ in enumerate(ram.contents) if word_]
        initial += [f"s->n[{number[name]}] = 1;" for name, bit in self._initial.items() if bit]

        def functions(name: str, bodies: Sequence[Sequence[str]]) -> str:
            lines = "\n".join(f"static void {name}_{index}(struct chip *s)\n{{\n"
                              + "\n".join(body) + "\n}" for index, body in enumerate(bodies))
            calls = " ".join(f"{name}_{index}(s);" for index in range(len(bodies)))
            return f"{lines}\nstatic void {name}(struct chip *s) {{ {calls} }}\n"

        def cut(lines: list[str]) -> list[list[str]]:
            return [lines[start:start + _PART] for start in range(0, len(lines), _PART)]

        return _HEAD % {"nets": len(names), "flip_flops": max(1, len(edge)),
                        "rams": max(1, len(rams))} \
            + functions("settle", parts) + functions("edge", cut(edge)) \
            + functions("memories", cut(rams)) + functions("commit", cut(commit)) \
            + functions("start", cut(initial)) \
            + _TAIL % {"rx": number[rx], "tx": number[tx]}

    def _ordered(self) -> list[tuple[str, str]]:
        """Combinational nets, each after those that it reads."""
        graph = {name: [net for net in _NET.findall(expression) if net in self._assigns]
                 for name, expression in self._assigns.items()}
        try:
            order = list(graphlib.TopologicalSorter(graph).static_order())
        except graphlib.CycleError as error:
            raise SimulationError(f"the bitstream has a loop of logic without a register, through "
                                  f"{error.args[1][0]}") from None
        return [(name, self._assigns[name]) for name in order]


# A net of the chip, or a port of it.
_NET = re.compile(r"(?<![\w'>])(?!s->)[A-Za-z_]\w*")

_TERNARY = re.compile(r"\s*(\(|\)|\?|:|!|[A-Za-z_]\w*|1'b[01z]|[01])")


def _bitwise(text: str) -> str:
    """Write nested choices of bits with bitwise operators, which no branch can be mispredicted by.

    Texts with operators besides ``!`` and ``?`` are bitwise already.
    """
    if "&" in text or "^" in text:
        return re.sub(r"1'b([01])", r"\1", text)
    tokens = _TERNARY.findall(text)
    if "".join(tokens) != re.sub(r"\s", "", text):
        raise SimulationError(f"the bitstream's netlist has an expression {text!r}")
    place = 0

    def atom() -> str:
        nonlocal place
        token = tokens[place]
        place += 1
        if token == "(":
            inner = choice()
            place += 1
            return inner
        if token == "!":
            return _not(atom())
        # A pin that nobody drives is pulled up.
        return str({"1'b0": "0", "1'b1": "1", "1'bz": "1"}.get(token, token))

    def choice() -> str:
        nonlocal place
        first = atom()
        if place == len(tokens) or tokens[place] != "?":
            return first
        place += 1
        then = choice()
        place += 1
        return _choose(first, then, choice())

    found = choice()
    if place != len(tokens):
        raise SimulationError(f"the bitstream's netlist has an expression {text!r}")
    return found


def _not(bit: str) -> str:
    return "1" if bit == "0" else "0" if bit == "1" else f"({bit} ^ 1)"


def _choose(condition: str, one: str, other: str) -> str:
    """Write ``condition ? one : other``."""
    if one == other:
        return one
    if one == _not(other):
        return _not(condition) if one == "0" else condition if one == "1" \
            else f"({condition} ^ {other})"
    if other == _not(one):
        return f"({condition} ^ {other})"
    match one, other:
        case "0", _:
            return f"({_not(condition)} & {other})"
        case _, "0":
            return f"({condition} & {one})"
        case "1", _:
            return f"({condition} | {other})"
        case _, "1":
            return f"({_not(condition)} | {one})"
    return f"({other} ^ ({condition} & ({one} ^ {other})))"


_HEAD = r"""
#include <cstdint>
#include <cstdlib>
#include <cstring>

struct chip {
    uint8_t n[%(nets)d], f[%(flip_flops)d];
    uint16_t m[%(rams)d][256], r[%(rams)d];
    int64_t cycle, held;
    uint8_t level, before;
};

/* An SB_RAM40_4K (Lattice FPGA-TN-02002). A narrow word is in every 2nd, 4th or 8th bit of a row
   of 16; address bits above the eighth choose which. What is written is read from the next cycle
   on. */
static void ram(uint16_t *m, uint16_t *out, int read_mode, int write_mode, unsigned raddr,
                unsigned re, unsigned rclke, unsigned waddr, unsigned we, unsigned wclke,
                unsigned wdata, unsigned mask)
{
    if (re & rclke) {
        unsigned row = m[raddr & 255], place = raddr >> 8, word = 0;
        if (read_mode == 0)
            word = row;
        if (read_mode == 1)
            for (int i = 0; i < 16; i += 2)
                word |= (row >> (i + (place & 1)) & 1) << i;
        if (read_mode == 2)
            for (int i = 0; i < 4; i++)
                word |= (row >> (4 * i + (place & 3)) & 1) << (4 * i + 1);
        if (read_mode == 3)
            for (int i = 0; i < 2; i++)
                word |= (row >> (8 * i + (place & 7)) & 1) << (8 * i + 3);
        *out = word;
    }
    if (we & wclke) {
        unsigned place = waddr >> 8, bits = 0, enabled = 0;
        if (write_mode == 0)
            bits = wdata, enabled = ~mask;
        if (write_mode == 1)
            for (int i = 0; i < 16; i += 2)
                bits |= (wdata >> i & 1) * 3 << i, enabled |= 1 << (i + (place & 1));
        if (write_mode == 2)
            for (int i = 0; i < 4; i++)
                bits |= (wdata >> (4 * i + 1) & 1) * 15 << 4 * i,
                enabled |= 1 << (4 * i + (place & 3));
        if (write_mode == 3)
            for (int i = 0; i < 2; i++)
                bits |= (wdata >> (8 * i + 3) & 1) * 255 << 8 * i,
                enabled |= 1 << (8 * i + (place & 7));
        uint16_t *row = &m[waddr & 255];
        *row = (*row & ~enabled) | (bits & enabled);
    }
}

"""

_TAIL = r"""
extern "C" {

chip *chip_create()
{
    chip *s = (chip *)calloc(1, sizeof(chip));
    start(s);
    s->level = s->before = 1;
    return s;
}

void chip_destroy(chip *s) { free(s); }

/* Levels to hold for some cycles in, edges with their cycles out: level | cycles << 1. */
int64_t chip_run(chip *s, const uint64_t *in, int64_t count, int64_t *next, uint64_t *out,
                 int64_t capacity, int64_t *edges, int64_t limit, int wait)
{
    int64_t done = 0;
    *next = *edges = 0;
    while (done < limit && *edges < capacity) {
        if (s->held == 0 && *next < count) {
            s->level = in[*next] & 1;
            s->held = in[(*next)++] >> 1;
        } else if (s->held == 0 && !wait) {
            break;
        }
        s->n[%(rx)d] = s->level;
        settle(s);
        uint8_t level = s->n[%(tx)d];
        if (level != s->before)
            out[(*edges)++] = level | (uint64_t)s->cycle << 1;
        s->before = level;
        edge(s);
        memories(s);
        commit(s);
        s->held -= s->held > 0;
        s->cycle++;
        done++;
    }
    return done;
}

}
"""


class ChipSession:
    """A run of a chip from its configuration on."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Configure it."""
        self._library = library
        self._handle = library.chip_create()

    def advance(self, cycles: int, words: Any = (), *, wait: bool = False) -> Any:
        """Hold levels, one a word, for some cycles at most, and return the edges that come.

        Ends when all levels have been held, or with ``wait`` after the cycles or at an edge.

        Returns
        -------
        tuple
            The edges, how many levels were begun, and how many cycles that took.
        """
        levels = np.ascontiguousarray(np.asarray(words, np.uint64))
        capacity = 1 if wait else 1 << 16
        out = np.zeros(capacity, np.uint64)
        pushed, edges = ctypes.c_int64(), ctypes.c_int64()
        done = self._library.chip_run(
            self._handle, levels.ctypes.data, len(levels), ctypes.byref(pushed), out.ctypes.data,
            capacity, ctypes.byref(edges), cycles, int(wait))
        return out[:edges.value], pushed.value, done

    def close(self) -> None:
        """Free the chip."""
        if self._handle:
            self._library.chip_destroy(self._handle)
            self._handle = None


_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_ASSIGN = re.compile(r"assign (\w+) = (.*)", re.DOTALL)
_ALWAYS = re.compile(r"always @\(posedge (\w+)(?:, posedge (\w+))?\) (.*)", re.DOTALL)
_RESET_FIRST = re.compile(r"if \((\S+)\) (\w+) <= (1'b[01]); else (.*)", re.DOTALL)
_UPDATE = re.compile(r"(?:if \((\S+)\) )?(\w+) <= (.*)", re.DOTALL)
_PARAMETER = re.compile(r"\.(\w+)\((?:\d+'[bh])?([^()]*?)\)")
_CELL = re.compile(r"(SB_\w+) #\((.*?)\) (\w+) \((.*)\)", re.DOTALL)


def read_chip(verilog: str) -> Chip:
    """Read the output of ``icebox_vlog -s -l -n chip``.

    Raises
    ------
    SimulationError
        The netlist has an unknown construct, or several clocks.
    """
    text = _COMMENT.sub("", verilog)
    header = re.search(r"module chip \((.*?)\);", text, re.DOTALL)
    if header is None:
        raise SimulationError("icebox_vlog wrote no module")
    ports = [port.split() for port in header[1].split(",")]
    inputs = [name for kind, name in ports if kind == "input"]
    outputs = [name for kind, name in ports if kind == "output"]
    assigns: dict[str, str] = {}
    flip_flops: list[_FlipFlop] = []
    rams: list[_Ram] = []
    initial: dict[str, int] = {}
    plls: list[tuple[Pll, list[str]]] = []
    for statement in _statements(text[header.end():]):
        if statement.startswith("wire "):
            continue
        if statement.startswith("reg "):
            for part in statement[4:].split(","):
                name, _, bit = part.partition("=")
                initial[name.strip()] = int(bit)
        elif (match := _ASSIGN.fullmatch(statement)) is not None:
            assigns[match[1]] = match[2]
        elif (match := _ALWAYS.fullmatch(statement)) is not None:
            flip_flops.append(_flip_flop(statement, match))
        elif (match := _CELL.fullmatch(statement)) is not None:
            parameters = dict(_PARAMETER.findall(match[2]))
            pins = {name: _bits(bits) for name, bits
                    in re.findall(r"\.(\w+)\((.*?)\)(?:,|$)", match[4].strip())}
            if match[1].startswith("SB_RAM40_4K"):
                rams.append(_ram(match[3], parameters, pins))
            elif match[1].startswith("SB_PLL40_"):
                plls.append((_pll(parameters, pins), pins["PLLOUTGLOBAL"] + pins["PLLOUTCORE"]))
                assigns[pins["LOCK"][0]] = "1"
            else:
                raise SimulationError(f"the bitstream has a cell {match[1]}, which is not known")
        else:
            raise SimulationError(f"the bitstream's netlist has {statement[:60]!r}, which is not "
                                  f"known")

    def origin(net: str) -> str:
        while assigns.get(net, "").isidentifier():
            net = assigns[net]
        return net

    clocks = {origin(name) for name in (
        *(flip_flop.clock for flip_flop in flip_flops),
        *(ram.pins[pin][0] for ram in rams for pin in ("RCLK", "WCLK"))) if name not in ("0", "1")}
    if len(clocks) != 1:
        raise SimulationError(f"the bitstream has {len(clocks)} clocks; one can be simulated")
    clock = clocks.pop()
    pll = next((pll for pll, nets in plls if clock in nets), None)
    pin = origin(clock if pll is None else pll.reference)
    if pin not in inputs:
        raise SimulationError(f"the bitstream's clock comes from {pin}, which is no pin")
    for _, nets in plls:
        # Nobody reads a clock as a bit but the clock inputs.
        initial.update(dict.fromkeys((net for net in nets if net.isidentifier()), 0))
    known = {*assigns, *initial, *inputs,
             *(net for ram in rams for net in ram.pins["RDATA"])}
    used = {net for expression in assigns.values() for net in _NET.findall(expression)
            if not re.search(rf"'{net}", expression)}
    # A net that nothing drives is low.
    initial.update(dict.fromkeys(sorted(used - known), 0))
    return Chip(inputs, outputs, pin, pll, assigns, flip_flops, rams, initial)


def _statements(text: str) -> list[str]:
    """Cut at semicolons, but not between the two halves of a choice."""
    body = text.replace("endmodule", "")
    joined = re.sub(r";\s*else\b", "; else", body)
    parts: list[str] = []
    for part in re.split(r";(?! else\b)", joined):
        stripped = " ".join(part.split())
        if stripped:
            parts.append(stripped)
    return parts


def _flip_flop(statement: str, match: re.Match[str]) -> _FlipFlop:
    clock, reset, rest = match.groups()
    value = ""
    if reset is not None:
        first = _RESET_FIRST.fullmatch(rest)
        if first is None or first[1] != reset:
            raise SimulationError(f"the bitstream's netlist has {statement[:60]!r}, which is not "
                                  f"known")
        value, rest = first[3][-1], first[4]
    update = _UPDATE.fullmatch(rest)
    if update is None:
        raise SimulationError(f"the bitstream's netlist has {statement[:60]!r}, which is not known")
    enable = update[1] or ""
    return _FlipFlop(update[2], clock, "" if enable == "1'b1" else enable, update[3], reset or "",
                     value)


def _bits(text: str) -> list[str]:
    """Nets of a pin, the highest first."""
    return [{"1'b0": "0", "1'b1": "1"}.get(bit.strip(), bit.strip())
            for bit in text.strip("{}").split(",")]


def _ram(name: str, parameters: dict[str, str], pins: dict[str, list[str]]) -> _Ram:
    contents: list[int] = []
    for index in range(16):
        bits = int(parameters.get(f"INIT_{index:X}", "0"), 16)
        contents += [bits >> 16 * place & 0xffff for place in range(16)]
    for pin in ("RCLKE", "WCLKE", "RE", "WE"):
        pins.setdefault(pin, ["1"])
    pins.setdefault("MASK", ["0"])
    return _Ram(name, contents, (int(parameters["READ_MODE"]), int(parameters["WRITE_MODE"])),
                pins)


def _pll(parameters: dict[str, str], pins: dict[str, list[str]]) -> Pll:
    if parameters["FEEDBACK_PATH"] != '"SIMPLE"':
        raise SimulationError(f"the bitstream's PLL has {parameters['FEEDBACK_PATH']} feedback; "
                              f"only a simple one can be simulated")
    reference = pins.get("REFERENCECLK") or pins["PACKAGEPIN"]
    return Pll(reference[0], *(int(parameters[name], 2) for name in ("DIVR", "DIVF", "DIVQ")))


