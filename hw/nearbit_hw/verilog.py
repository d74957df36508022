"""Verilog of a component: readable, and byte for byte the same on each run."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Literal, get_args

from amaranth.back import rtlil  # type: ignore[attr-defined]
from amaranth.hdl import Signal, Value
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring

from nearbit_hw import yosys
from nearbit_hw.ram import UNINITIALIZED


__all__ = ["Initial", "generate", "to_rtlil"]


Initial = Literal["all", "given", "none"]
"""State before a reset, as the Verilog gives it; see :func:`generate`."""


_PORT = re.compile(r"^(  wire width \d+ (?:input|output)) \d+  (\\\S+)$", re.MULTILINE)


# Yosys adds a dummy register to make simulators run combinational processes at time 0.
# SystemVerilog initializes declarations before any process waits, so the declaration's value
# triggers no event and the processes would not run; a non-blocking assignment always triggers one.
_START = re.compile(r"\\\$auto\$verilog_backend\.cc:\d+:dump_module\$\d+ ")
_START_DECLARATION = "  reg _start_ = 0;\n"
_START_EVENT = "  reg _start_;\n  initial _start_ <= 1'h0;\n"

# The words of a memory, as Yosys writes them: one per line. Runs of equal words can be loops.
_INITIAL = re.compile(r"^  initial begin\n"
                      r"((?:    (?:\S+|\\\S+ )\[\d+\] = \d+'h[0-9a-f]+;\n)+)"
                      r"  end\n", re.MULTILINE)
_WORDS = re.compile(r"    (\S+|\\\S+ )\[(\d+)\] = (\d+'h[0-9a-f]+);\n"
                    r"(?:    (?:\S+|\\\S+ )\[\d+\] = \3;\n){3,}")


# A memory without initial contents, in Verilog.
_BLANK = re.compile(r"^((?:  \(\* [^\n]* \*\)\n)*)"
                    r"(  reg (?:\[\d+:0\] )?(\S+|\\\S+ ) \[(\d+):0\];\n)(?!  initial)",
                    re.MULTILINE)
_UNINITIALIZED = f"  (* {UNINITIALIZED} = "


@contextmanager
def _without_collector() -> Iterator[None]:
    """Disable Python's cyclic garbage collector, which takes half of Amaranth's time.

    A netlist is millions of objects, all of them in use.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _without_zeros() -> Iterator[None]:
    """Keep Amaranth from emitting the contents of all-zero memories; :func:`_fill` adds them later.

    Amaranth makes an object of each bit, and Yosys reads it: 50 s and 4 GB for the preset `long`.
    This is the one place that reaches into Amaranth's internals, because Amaranth has no memory
    without initial contents: https://github.com/amaranth-lang/amaranth/issues/270.
    """
    emitter = rtlil.ModuleEmitter
    emit_memory = emitter.emit_memory

    def emit_contents(self, cell_index, cell):
        if any(cell.init):
            emit_memory(self, cell_index, cell)

    emitter.emit_memory = emit_contents
    try:
        yield
    finally:
        emitter.emit_memory = emit_memory


def _ports(component: wiring.Component, separator: str = "__"
           ) -> dict[str, tuple[Value, PortDirection]]:
    """List the ports of the signature, without constant (`always_ready`) or empty members."""
    ports: dict[str, tuple[Value, PortDirection]] = {}
    for path, member, value in component.signature.flatten(component):
        port = Value.cast(value)
        if isinstance(port, Signal) and len(port):
            direction = PortDirection.Input if member.flow is wiring.In else PortDirection.Output
            name = separator.join(map(str, path))
            if name in ports:
                raise ValueError(f"Separator {separator!r} gives two ports the name {name!r}")
            ports[name] = (port, direction)
    return ports


_EMPTY_WIRE = re.compile(r"(?:  attribute [^\n]*\n)*  wire width 0 [^\n]*\n")
_EMPTY_CONNECTION = re.compile(r"^connect \S+ \{  \}\n", re.MULTILINE)
_EMPTY_PORT = re.compile(r"^    connect \S+ \{  \}\n", re.MULTILINE)
_EMPTY_MEMORY = re.compile(r"(?:  attribute [^\n]*\n)*  memory width 0 [^\n]* (\S+)\n")
_CELL = re.compile(r"(?:  attribute [^\n]*\n)*  cell (\S+) [^\n]*\n(?:    [^\n]*\n)*  end\n")


def _drop_empty(text: str) -> str:
    """Drop everything without bits, such as a signal of shape `range(1)`.

    Verilog has no empty vectors: Yosys would write `[-1:0]`, which has two bits, and it crashes on
    an empty memory.
    """
    def drop(module: str) -> str:
        memories = {f'"\\{name}"' for name in _EMPTY_MEMORY.findall(module)}

        def cell(match: re.Match[str]) -> str:
            if not match[1].startswith("$"):
                return _EMPTY_PORT.sub("", match[0])
            memory = match[1].startswith("$mem") and re.search(r"MEMID (\S+)", match[0])
            return "" if memory and memory[1] in memories else match[0]

        module = _EMPTY_CONNECTION.sub("", _EMPTY_WIRE.sub("", _EMPTY_MEMORY.sub("", module)))
        return _CELL.sub(cell, module)

    return "\nend\n".join(map(drop, text.split("\nend\n")))


def to_rtlil(component: wiring.Component, name: str, *, separator: str = "__") -> str:
    """Convert a component to RTLIL, the text that Yosys reads; signals without bits are dropped.

    The parameters are those of :func:`generate`. The component cannot be used again.
    """
    with _without_collector():
        return _drop_empty(rtlil.convert(component, name=name, ports=_ports(component, separator),
                                         emit_src=False))


_WIRE = re.compile(r"^  wire .*?(\\\S+)$", re.MULTILINE)
_ELEMENT = re.compile(r"\\[^\s\[]\S*\[\d+\]\S*")


def _rename_elements(text: str) -> str:
    """Rename array elements without brackets: ``codes[3]`` becomes ``codes_3``.

    ABC9 in Yosys 0.70 mistakes a wire ``codes[3]`` for a bit of a wire ``codes``, and fails an
    assertion. A name changes in the same way in all modules, because some names are ports.
    """
    taken = set(_WIRE.findall(text))
    names: dict[str, str] = {}
    for old in sorted(filter(_ELEMENT.fullmatch, taken)):
        new = re.sub(r"\[(\d+)\]", r"_\1", old)
        while new in taken:
            new += "_"
        taken.add(new)
        names[old] = new
    return _ELEMENT.sub(lambda match: names.get(match[0], match[0]), text)


def _number_ports(text: str, names: list[str]) -> str:
    """Put the ports of the top module, which comes first in the text, in the given order.

    Amaranth numbers ports from 0, inputs first, but Yosys takes port 0 as the last. Names that are
    not ports are ignored.
    """
    head, end, tail = text.partition("\nend\n")
    found = {port[2][1:] for port in _PORT.finditer(head)}
    names = [name for name in names if name in found]
    numbers = {f"\\{name}": number for number, name in enumerate(names, 1)}
    head = _PORT.sub(lambda port: f"{port[1]} {numbers[port[2]]}  {port[2]}", head)
    return head + end + tail


def _fill(memory: re.Match[str]) -> str:
    """Fill a memory without contents with zeros; an `UNINITIALIZED` one in simulation only."""
    attributes, declaration, name, last = memory.groups()
    label = f"_zeros_{name.strip()}_" if re.fullmatch(r"\w+", name) else f"\\_zeros_{name[1:]}"
    zeros = (f"  initial begin : {label}\n    integer word;\n"
             f"    for (word = 0; word <= {last}; word = word + 1)\n"
             f"      {name}[word] = 0;\n  end\n")
    if _UNINITIALIZED in attributes:
        zeros = f"`ifndef SYNTHESIS\n{zeros}`endif\n"
    return attributes + declaration + zeros


def _shorten(verilog: str) -> str:
    """Write runs of equal words in the initial contents of memories as loops."""
    count = 0

    def loop(words: re.Match[str]) -> str:
        memory, first, value = words.groups()
        last = int(first) + words[0].count("\n") - 1
        return (f"    for (word = {first}; word <= {last}; word = word + 1)\n"
                f"      {memory}[word] = {value};\n")

    def block(initial: re.Match[str]) -> str:
        nonlocal count
        body, loops = _WORDS.subn(loop, initial[1])
        if not loops:
            return initial[0]
        count += 1
        return f"  initial begin : _contents_{count}_\n    integer word;\n{body}  end\n"

    return _INITIAL.sub(block, verilog)


# The same passes as amaranth.back.verilog, for the same form: one process for each register.
_PROCESSES = ("proc -nomux -norom", "memory_collect")

# The same without initial values. Combinational processes need the event that an initial value
# triggers, so continuous assignments replace them. A memory that is never written becomes logic, as
# nothing else could hold its contents.
_PROCESSES_UNINITIALIZED = (
    "proc -norom", "pmuxtree", "memory_collect", "memory_map -rom-only", "opt_expr -keepdc",
    "clean", "setattr -unset init w:*", "setparam -set INIT 1'bx t:$mem_v2")


def generate(component: wiring.Component, name: str, *, separator: str = "__",
             initial: Initial = "all") -> str:
    """Generate the Verilog of a component.

    The text depends only on the component and on the releases of Amaranth and Yosys, not on the
    run, the hash seed, the directory or the machine. Ports are ``clk``, ``rst`` (synchronous,
    active high), then the signature's members in order, joined with the separator:
    ``i__payload``, ``i__valid``, ``i__ready``. A structure is one vector, its first field lowest. A
    component that makes its clock domain itself, from its members, has no ``clk`` and ``rst``
    besides these.

    Parameters
    ----------
    component : :class:`amaranth.lib.wiring.Component`
        The component. It cannot be used again, as Amaranth elaborates only once.
    name : :class:`str`
        Name of the top module. The names of all other modules begin with it and a period.
    separator : :class:`str`
        Between the parts of a port's name.
    initial : :class:`str`
        What registers and memories hold before a reset. ``"all"``: the component's initial values,
        zeros where it gives none. ``"given"``: the same, but memories without initial contents stay
        undefined, because tools take long to process their zeros. ``"none"``: everything is
        undefined, and there is no ``initial`` block.

    Returns
    -------
    :class:`str`
        Verilog 2005.

    Raises
    ------
    ValueError
        If the name is not a Verilog identifier, or the separator gives two ports the same name.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"Name must be a Verilog identifier, not {name!r}")
    if initial not in get_args(Initial):
        raise ValueError(f"Initial must be all, given or none, not {initial!r}")
    ports = _ports(component, separator)
    with _without_zeros():
        design = to_rtlil(component, name, separator=separator)
    design = _number_ports(_rename_elements(design), ["clk", "rst", *ports])
    verilog = yosys.run([
        "read_rtlil <<rtlil", design, "rtlil",
        *(_PROCESSES_UNINITIALIZED if initial == "none" else _PROCESSES),
        *(f"attrmap {scope} -remove generator -remove top -remove src "
          f"-remove amaranth.hierarchy -remove amaranth.decoding" for scope in ("", "-modattr")),
        "write_verilog",
    ])
    _, _, body = verilog.partition("\n")
    body = _shorten(_START.sub("_start_", body).replace(_START_DECLARATION, _START_EVENT))
    if initial == "all":
        body = _BLANK.sub(_fill, body)
    kind = type(component)
    return (f"// {kind.__module__}.{kind.__qualname__}, by amaranth {metadata.version('amaranth')} "
            f"and yosys {yosys.release()}\n{body.rstrip()}\n")
