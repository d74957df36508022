"""Synthesis of Amaranth components to standard cells, module by module, with Yosys and ABC.

Modules stay apart: what is the same in many places (a lane, a multiplier) is synthesized once and
counted as often as it is there, and ABC never sees much arithmetic at once. Adders and multipliers
do not go through ABC at all: they are built of the library's full adders, as carry-save trees and
ripple-carry chains, which is smallest. Registers with an enable get gated clocks. Block RAM stays a
memory, counted by its bits.
"""

import json
import re
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amaranth.lib import wiring

from nearbit_hw import yosys
from nearbit_hw.verilog import to_rtlil
from studies.area_energy.liberty import Cell, Liberty


__all__ = ["Area", "Design", "Memory", "SynthesisError", "synthesize"]


TOP = "top"
CLOCK_GATE_SIZE = 4 # registers from which on a gated clock pays

CARRY = tuple(int(i.bit_count() > 1) for i in range(8))
SUM = tuple(i.bit_count() & 1 for i in range(8))
TRIPLES = [["0"] * zeros + ["1"] * (3 - zeros) for zeros in range(4)] # three constants, sorted

# Products as rows of Baugh and Wooley (IEEE Transactions on Computers C-22, 1973), which need no
# extension of signs; the rows go into the carry-save tree of what the product is added to.
MULTIPLIER = r"""
(* techmap_celltype = "$mul" *)
module _multiplier_ (A, B, Y);
  parameter A_SIGNED = 0, B_SIGNED = 0, A_WIDTH = 1, B_WIDTH = 1, Y_WIDTH = 1;
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  output [Y_WIDTH-1:0] Y;
  localparam S = A_SIGNED && B_SIGNED;
  localparam SWAP = A_WIDTH < B_WIDTH;
  localparam M = SWAP ? B_WIDTH : A_WIDTH, N = SWAP ? A_WIDTH : B_WIDTH;
  wire [M-1:0] a = SWAP ? B : A;
  wire [N-1:0] b = SWAP ? A : B;
  function [Y_WIDTH-1:0] correction(input integer unused);
    integer i, j;
    begin
      correction = 0;
      for (i = 0; i < N; i = i + 1)
        for (j = 0; j < M; j = j + 1)
          if (S && ((i == N - 1) != (j == M - 1)) && i + j < Y_WIDTH)
            correction = correction - ({{Y_WIDTH{1'b0}}, 1'b1} << (i + j));
    end
  endfunction
  wire [Y_WIDTH*(N+1)-1:0] sums;
  assign sums[Y_WIDTH-1:0] = correction(0);
  genvar g;
  generate for (g = 0; g < N; g = g + 1) begin : rows
    wire [M-1:0] plain = a & {M{b[g]}};
    wire [M-1:0] inverted = !S ? 0 : g == N - 1 ? {1'b0, {(M-1){1'b1}}} : {1'b1, {(M-1){1'b0}}};
    wire [Y_WIDTH-1:0] row = {{Y_WIDTH{1'b0}}, plain ^ inverted} << g;
    assign sums[Y_WIDTH*(g+2)-1:Y_WIDTH*(g+1)] = sums[Y_WIDTH*(g+1)-1:Y_WIDTH*g] + row;
  end endgenerate
  assign Y = sums[Y_WIDTH*(N+1)-1:Y_WIDTH*N];
endmodule
"""

ADDERS = r"""
(* techmap_celltype = "$fa" *)
module _carry_save_ (A, B, C, X, Y);
  parameter WIDTH = 1;
  input [WIDTH-1:0] A, B, C;
  output [WIDTH-1:0] X, Y;
  genvar g;
  generate for (g = 0; g < WIDTH; g = g + 1) begin : bits
    \full_adder fa (.A(A[g]), .B(B[g]), .C(C[g]), .X(X[g]), .Y(Y[g]));
  end endgenerate
endmodule

(* techmap_celltype = "$alu" *)
module _ripple_ (A, B, CI, BI, X, Y, CO);
  parameter A_SIGNED = 0, B_SIGNED = 0, A_WIDTH = 1, B_WIDTH = 1, Y_WIDTH = 1;
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  input CI, BI;
  output [Y_WIDTH-1:0] X, Y, CO;
  wire [Y_WIDTH-1:0] a, b;
  generate
    if (A_WIDTH == 0) assign a = 0;
    else \$pos #(.A_SIGNED(A_SIGNED), .A_WIDTH(A_WIDTH), .Y_WIDTH(Y_WIDTH))
      extend_a (.A(A), .Y(a));
  endgenerate
  generate
    if (B_WIDTH == 0) assign b = 0;
    else \$pos #(.A_SIGNED(B_SIGNED), .A_WIDTH(B_WIDTH), .Y_WIDTH(Y_WIDTH))
      extend_b (.A(B), .Y(b));
  endgenerate
  wire [Y_WIDTH-1:0] c = b ^ {Y_WIDTH{BI}};
  assign X = a ^ c;
  genvar g;
  generate for (g = 0; g < Y_WIDTH; g = g + 1) begin : bits
    wire carry;
    if (g == 0) assign carry = CI;
    else assign carry = CO[g-1];
    \full_adder fa (.A(a[g]), .B(c[g]), .C(carry), .X(CO[g]), .Y(Y[g]));
  end endgenerate
endmodule
"""


class SynthesisError(RuntimeError):
    """The library lacks a cell that a netlist has."""


@dataclass(frozen=True)
class Memory:
    """A memory that stays one.

    Parameters
    ----------
    width, depth
        Bits of a word, and words.
    reads, writes
        Ports.
    init
        Words of its initial contents, those that are not 0.
    ports
        Net lists of the ports, as in the Yosys cell ``$mem_v2``.
    """

    width: int
    depth: int
    reads: int
    writes: int
    init: dict[int, int]
    ports: dict[str, list[Any]]

    @property
    def bits(self) -> int:
        """Bits that it holds."""
        return self.width * self.depth


@dataclass
class Module:
    """A synthesized module: cells of the library, memories, and instances of other modules."""

    ports: dict[str, tuple[str, list[Any]]]
    cells: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    memories: dict[str, Memory] = field(default_factory=dict)
    instances: dict[str, tuple[str, dict[str, list[Any]]]] = field(default_factory=dict)


@dataclass
class Area:
    """What a part of a design takes."""

    area: float = 0.0
    cells: int = 0
    registers: int = 0
    memory_bits: int = 0
    memories: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add(self, other: "Area") -> None:
        """Add another part to this one."""
        self.area += other.area
        self.cells += other.cells
        self.registers += other.registers
        self.memory_bits += other.memory_bits
        self.memories.update(other.memories)


@dataclass(frozen=True)
class Design:
    """A synthesized design."""

    library: Liberty
    modules: dict[str, Module]

    def area(self, name: str = TOP) -> Area:
        """Count a module with all that is in it."""
        found = self.own(name)
        for kind, _ in self.modules[name].instances.values():
            found.add(self.area(kind))
        return found

    def own(self, name: str) -> Area:
        """Count a module without the modules in it."""
        module, found = self.modules[name], Area()
        for kind, _ in module.cells:
            cell = self.library.cells[kind]
            found.add(Area(cell.area, 1, int(cell.clock is not None)))
        for memory in module.memories.values():
            found.add(Area(memory_bits=memory.bits,
                           memories=Counter({(memory.width, memory.depth): 1})))
        return found

    def blocks(self) -> dict[str, Area]:
        """Count each block of the top module; what is numbered is one block, "" the rest."""
        found = {"": self.own(TOP)}
        for name, (kind, _) in self.modules[TOP].instances.items():
            found.setdefault(block_name(name), Area()).add(self.area(kind))
        return found


def block_name(instance: str) -> str:
    """Name the block that an instance belongs to: its name without numbers at the end."""
    return re.sub(r"(_\d+)+$", "", instance)


def synthesize(component: wiring.Component, library: Liberty) -> Design:
    """Synthesize a component, which cannot be used again."""
    text = _share_modules(to_rtlil(component, TOP))
    with tempfile.TemporaryDirectory(prefix="asic-") as name:
        directory = Path(name)
        (directory / "design.il").write_text(text, encoding="utf-8")
        (directory / "multiplier.v").write_text(MULTIPLIER, encoding="utf-8")
        (directory / "adders.v").write_text(ADDERS, encoding="utf-8")
        (directory / "cells.lib").write_text(library.text(), encoding="utf-8")
        (directory / "cells.genlib").write_text(library.genlib(), encoding="utf-8")
        yosys.run([
            "read_rtlil design.il", f"hierarchy -top {TOP}", "setattr -unset init w:*", "proc",
            # Resets go into the data and the enable, or else they keep clocks from being gated.
            "opt -nosdff", "wreduce", "peepopt", "opt_clean", "techmap -map multiplier.v t:$mul",
            "opt_expr", "opt_clean", "alumacc", "opt -nosdff", "memory -nomap",
            # What is not meant for block RAM: the few words of a FIFO.
            "memory_map t:$mem_v2 a:ram_style=block %d", "opt -nosdff", "maccmap",
            "techmap -map adders.v t:$fa t:$alu", "opt_expr", "opt_clean", "write_json coarse.json",
        ], directory)
        netlist = json.loads((directory / "coarse.json").read_text(encoding="utf-8"))
        for module in netlist["modules"].values():
            _map_adders(module, library)
        (directory / "adders.json").write_text(json.dumps(netlist), encoding="utf-8")
        gated = any(cell.gate_pins for cell in library.cells.values())
        yosys.run([
            "read_json adders.json", f"hierarchy -top {TOP}", "techmap", "opt -fast -nosdff",
            *([f"clockgate -liberty cells.lib -min_net_size {CLOCK_GATE_SIZE}", "opt_clean"]
              if gated else []),
            "dfflibmap -liberty cells.lib", "opt_clean", "abc -genlib cells.genlib",
            "opt_clean -purge", "write_json cells.json",
        ], directory)
        netlist = json.loads((directory / "cells.json").read_text(encoding="utf-8"))
    return Design(library, {module: _module(content, library, netlist["modules"])
                            for module, content in netlist["modules"].items()
                            if not _truth(content["attributes"].get("blackbox", "0"))})


def _truth(bits: str) -> bool:
    return "1" in str(bits)


def _share_modules(text: str) -> str:
    """Let instances of equal modules be instances of one."""
    head, *parts = re.split(r"^(?=(?:attribute [^\n]*\n)*module )", text, flags=re.MULTILINE)
    bodies = {}
    for part in parts:
        match = re.search(r"^module (\S+)\n", part, re.MULTILINE)
        if match:
            bodies[match[1]] = part[match.end():]
    names: dict[str, str] = {}
    chosen: dict[str, str] = {}

    def canonical(name: str) -> str:
        if name not in names:
            body = re.sub(r"^  cell (\\\S+) (\S+)$",
                          lambda cell: f"  cell {canonical(cell[1])} {cell[2]}"
                          if cell[1] in bodies else cell[0], bodies[name], flags=re.MULTILINE)
            names[name] = chosen.setdefault(body, name)
        return names[name]

    canonical(f"\\{TOP}")
    return head + "".join(f"module {name}\n{body}" for body, name in chosen.items())


def _map_adders(module: dict[str, Any], library: Liberty) -> None:
    """Replace full adders by cells of the library, and by less where less is needed."""
    full, half = library.adder([CARRY, SUM]), library.adder([(0, 0, 0, 1), (0, 1, 1, 0)])
    cells = module["cells"]
    adders = {name: cell for name, cell in cells.items() if cell["type"] == "full_adder"}
    uses = Counter(bit for name, cell in cells.items()
                   for port, bits in cell["connections"].items()
                   if not (name in adders and port in "XY") for bit in bits)
    uses.update(bit for port in module["ports"].values() if port["direction"] != "input"
                for bit in port["bits"])
    known: dict[Any, str] = {"0": "0", "1": "1", "x": "0"}
    gates = 0

    def gate(kind: str, output: Any, **inputs: Any) -> None:
        nonlocal gates
        gates += 1
        cells[f"$adder${gates}"] = {
            "hide_name": 1, "type": kind, "parameters": {}, "attributes": {},
            "port_directions": {**dict.fromkeys(inputs, "input"), "Y": "output"},
            "connections": {**{name: [bit] for name, bit in inputs.items()}, "Y": [output]}}

    def instance(cell: Cell, inputs: list[Any], outputs: dict[tuple[int, ...], Any]) -> None:
        nonlocal gates
        gates += 1
        wires = dict(zip(cell.inputs, inputs, strict=True))
        for pin in cell.outputs:
            function = cell.pins[pin].function
            assert function is not None
            wires[pin] = outputs[function.table(cell.inputs)]
        cells[f"$adder${gates}"] = {
            "hide_name": 1, "type": cell.name, "parameters": {}, "attributes": {},
            "port_directions": {pin: "output" if pin in cell.outputs else "input"
                                for pin in wires},
            "connections": {pin: [bit] for pin, bit in wires.items()}}

    # A carry that is known makes others known.
    changed = True
    while changed:
        changed = False
        for cell in adders.values():
            wires = {port: bits[0] for port, bits in cell["connections"].items()}
            constants = sorted(known[wires[port]] for port in "ABC" if wires[port] in known)
            if "X" in wires and wires["X"] not in known \
                    and constants in (["0", "0"], ["1", "1"], *TRIPLES):
                known[wires["X"]] = constants[1]
                changed = True
    for name, cell in adders.items():
        del cells[name]
        wires = {port: bits[0] for port, bits in cell["connections"].items()}
        carry, total = (wires.get(port) if uses[wires.get(port)] else None for port in "XY")
        constants = sorted(known[wires[port]] for port in "ABC" if wires[port] in known)
        inputs = [wires[port] for port in "ABC" if wires[port] not in known]
        if len(inputs) == 3 and carry is not None and total is not None and full:
            instance(full, inputs, {CARRY: carry, SUM: total})
        elif constants == ["0"] and carry is not None and total is not None and half:
            instance(half, inputs, {(0, 0, 0, 1): carry, (0, 1, 1, 0): total})
        else:
            a, b, c = (known.get(wires[port], wires[port]) for port in "ABC")
            nets = [_new_net(module) for _ in range(4)]
            gate("$_XOR_", nets[0], A=a, B=b)
            if total is not None:
                gate("$_XOR_", total, A=nets[0], B=c)
            if carry is not None:
                gate("$_AND_", nets[1], A=a, B=b)
                gate("$_AND_", nets[2], A=nets[0], B=c)
                gate("$_OR_", carry, A=nets[1], B=nets[2])


def _new_net(module: dict[str, Any]) -> int:
    if "next_net" not in module:
        module["next_net"] = 1 + max((bit for net in module["netnames"].values()
                                      for bit in net["bits"] if isinstance(bit, int)), default=1)
    module["next_net"] += 1
    return int(module["next_net"])


def _module(content: dict[str, Any], library: Liberty, modules: dict[str, Any]) -> Module:
    made = Module({name: (port["direction"], port["bits"])
                   for name, port in content["ports"].items()})
    for name, cell in content["cells"].items():
        kind, wires = cell["type"], cell["connections"]
        if kind in library.cells:
            made.cells.append((kind, {pin: bits[0] for pin, bits in wires.items() if bits}))
        elif kind == "$mem_v2":
            made.memories[name] = _memory(cell["parameters"], wires)
        elif kind in modules:
            made.instances[name] = (kind, wires)
        elif kind not in ("$scopeinfo",):
            raise SynthesisError(f"the library has nothing for a cell {kind} ({name})")
    return made


def _memory(parameters: dict[str, str], wires: dict[str, list[Any]]) -> Memory:
    number = {name: int(re.sub("[xz]", "0", value), 2) for name, value in parameters.items()
              if re.fullmatch("[01xz]+", value)}
    width, depth = number["WIDTH"], number["SIZE"]
    init = number.get("INIT", 0)
    mask = (1 << width) - 1
    words = {word: init >> word * width & mask for word in range(depth)} if init else {}
    return Memory(width, depth, number["RD_PORTS"], number["WR_PORTS"],
                  {word: value for word, value in words.items() if value}, wires)
