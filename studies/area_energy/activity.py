"""Gate-level simulation of a synthesized design on 64 sets of data at once, and its energy.

A word holds a net's value in each of 64 simulations, the *streams*, which differ in their data
only: the hardware's cycles do not depend on data, so all are in the same state of control. Every
net is evaluated once a cycle, after the nets that it depends on; there are no delays, and so no
glitches. A transition costs what the liberty file says that the driving cell takes inside, and half
of C V**2 for the capacitance of the pins and the wire that it drives.
"""

import ctypes
import re
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.hdl import Shape
from amaranth.lib import data
from numpy.typing import NDArray

from nearbit_sim.cxx import compiler
from studies.area_energy.liberty import Pin
from studies.area_energy.synthesis import TOP, Design, Memory, block_name


__all__ = ["STREAMS", "Energy", "Simulation", "pack", "unpack"]


STREAMS = 64
PINS = 8 # of a gate, at most

_HEAD = """
#include <cstdint>
extern "C" void evaluate(int64_t count, const int32_t *kinds, const int32_t *pins, uint64_t *v,
                         uint64_t *toggles) {
    for (int64_t i = 0; i < count; i++, pins += 8) {
        uint64_t x;
        switch (kinds[i]) {
"""
_TAIL = "        }\n    }\n}\n"


def pack(shape: Any, value: Any) -> NDArray[np.uint8]:
    """Turn integers [..., *axes of arrays in the shape] into bits [..., width].

    Parameters
    ----------
    shape
        Of a payload: its structures are dictionaries in `value`, its arrays the last axis of them.
    """
    if isinstance(shape, data.ArrayLayout):
        items = pack(shape.elem_shape, value)
        return items.reshape(*items.shape[:-2], -1)
    if isinstance(shape, data.StructLayout):
        fields = [pack(field.shape, value[name]) for name, field in shape]
        axes = np.broadcast_shapes(*(bits.shape[:-1] for bits in fields))
        return np.concatenate([np.broadcast_to(bits, (*axes, bits.shape[-1])) for bits in fields],
                              axis=-1)
    width = Shape.cast(shape).width
    numbers = np.asarray(value).astype(np.int64)[..., None]
    return (numbers >> np.arange(width) & 1).astype(np.uint8)


def unpack(bits: NDArray[np.uint8], signed: bool) -> NDArray[np.int64]:
    """Turn bits [..., width] into integers."""
    weights = 1 << np.arange(bits.shape[-1], dtype=np.int64)
    if signed:
        weights[-1] = -weights[-1]
    return np.asarray(bits.astype(np.int64) @ weights)


@dataclass
class Energy:
    """Picojoules by block, and what they are for."""

    switching: dict[str, float]
    clock: dict[str, float]
    leakage: dict[str, float]
    memory_accesses: dict[tuple[str, int, int], float]
    """Reads and writes by block, width and depth of the memory."""

    def logic(self, block: str) -> float:
        """Of a block, without memories."""
        return self.switching[block] + self.clock[block] + self.leakage[block]


class _Memory:
    """Contents of a memory in each stream, and its ports."""

    def __init__(self, memory: Memory, nets: dict[str, NDArray[np.int64]], block: str) -> None:
        self.width, self.depth, self.block = memory.width, memory.depth, block
        self.bits = np.zeros((STREAMS, memory.depth, memory.width), np.uint8)
        for word, value in memory.init.items():
            self.bits[:, word] = [value >> bit & 1 for bit in range(memory.width)]

        def split(name: str, count: int) -> list[NDArray[np.int64]]:
            return list(nets[name].reshape(count, -1)) if count else []

        self.reads = list(zip(split("RD_ADDR", memory.reads), split("RD_EN", memory.reads),
                              split("RD_DATA", memory.reads), strict=True))
        self.writes = list(zip(split("WR_ADDR", memory.writes), split("WR_EN", memory.writes),
                               split("WR_DATA", memory.writes), strict=True))
        self.accesses = 0


def _bits(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Words [n] to bits [STREAMS, n]."""
    return np.unpackbits(words[:, None].view(np.uint8), axis=1, bitorder="little").T


def _words(bits: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Bits [STREAMS, n] to words [n]."""
    packed = np.packbits(np.ascontiguousarray(bits.T), axis=1, bitorder="little")
    return packed.view(np.uint64)[:, 0]


class Simulation:
    """A design with all its instances as flat arrays, and its state.

    Parameters
    ----------
    design
        What to simulate. Its clock is ``clk``, its reset ``rst``.
    """

    def __init__(self, design: Design) -> None:
        """Flatten the design; all its nets are 0."""
        self._design = design
        self._library = design.library
        self._nets = 2 # 0 and 1 are constants
        self._gates: dict[tuple[str, str], list[NDArray[np.int64]]] = defaultdict(list)
        self._memories: list[_Memory] = []
        self._templates: dict[str, Any] = {}
        ports = {name: self._new(len(bits))
                 for name, (_, bits) in design.modules[TOP].ports.items()}
        self._ports = ports
        self._aliases: list[tuple[int, int]] = []
        self._add(TOP, ports, "")
        self._join()
        self._prepare()

    # ---- Construction.

    def _new(self, count: int) -> NDArray[np.int64]:
        self._nets += count
        return np.arange(self._nets - count, self._nets)

    def _template(self, name: str) -> Any:
        """Cells of a module as arrays of local nets; 0 and 1 are constants."""
        if name in self._templates:
            return self._templates[name]
        module = self._design.modules[name]
        numbers: dict[Any, int] = {"0": 0, "1": 1, "x": 0, "z": 0}

        def local(bits: list[Any]) -> NDArray[np.int64]:
            return np.array([numbers.setdefault(bit, len(numbers) - 2) for bit in bits], np.int64)

        ports = {port: local(bits) for port, (_, bits) in module.ports.items()}
        cells: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
        for kind, wires in module.cells:
            # An output that goes nowhere gets a net of its own.
            cells[kind].append(local([
                wires.get(pin, ("0" if pin in self._library.cells[kind].inputs
                                else object()))
                for pin in self._library.cells[kind].pins]))
        memories = [(memory, {port: local(bits) for port, bits in memory.ports.items()})
                    for memory in module.memories.values()]
        instances = [(instance, kind, {port: local(bits) for port, bits in wires.items()})
                     for instance, (kind, wires) in module.instances.items()]
        made = (ports, {kind: np.array(rows) for kind, rows in cells.items()}, memories, instances,
                len(numbers) - 2)
        self._templates[name] = made
        return made

    def _add(self, name: str, given: dict[str, NDArray[np.int64]], block: str) -> None:
        ports, cells, memories, instances, count = self._template(name)
        nets = np.full(count, -1, np.int64)
        nets[:2] = 0, 1
        for port, locals_ in ports.items():
            for local, outer in zip(locals_, given.get(port, ()), strict=False):
                if nets[local] < 0:
                    nets[local] = outer
                elif nets[local] != outer:
                    # An output that is an input, another output or a constant.
                    self._aliases.append((int(nets[local]), int(outer)))
        fresh = np.flatnonzero(nets < 0)
        nets[fresh] = self._new(len(fresh))
        for kind, rows in cells.items():
            self._gates[block, kind].append(nets[rows])
        for memory, wires in memories:
            self._memories.append(_Memory(
                memory, {port: nets[bits] for port, bits in wires.items()}, block))
        for instance, kind, wires in instances:
            self._add(kind, {port: nets[bits] for port, bits in wires.items()},
                      block or block_name(instance))

    def _join(self) -> None:
        """Make one net of those that are connected through a module."""
        root: NDArray[np.int64] = np.arange(self._nets, dtype=np.int64)

        def find(net: int) -> int:
            while root[net] != net:
                net = int(root[net])
            return net

        for a, b in self._aliases:
            a, b = sorted((find(a), find(b)))
            root[b] = a
        for _, b in self._aliases:
            root[b] = find(b)
        for a, _ in self._aliases:
            root[a] = find(a)
        for parts in self._gates.values():
            parts[:] = [root[part] for part in parts]
        for memory in self._memories:
            memory.reads = [(root[a], root[b], root[c]) for a, b, c in memory.reads]
            memory.writes = [(root[a], root[b], root[c]) for a, b, c in memory.writes]
        self._ports = {name: root[nets] for name, nets in self._ports.items()}

    def _prepare(self) -> None:
        library = self._library
        rows = {key: np.concatenate(parts) for key, parts in self._gates.items()}
        self._rows = rows
        self._values = np.zeros(self._nets, np.uint64)
        self._values[1] = ~np.uint64(0)
        self.toggles = np.zeros(self._nets, np.uint64)

        # Registers, and the clock gate of each, or -1.
        gates, registers = [], []
        for (block, kind), nets in rows.items():
            cell = library.cells[kind]
            place = {pin: i for i, pin in enumerate(cell.pins)}
            if cell.gate_pins is not None:
                _, enable, _, output = cell.gate_pins
                gates.append(nets[:, [place[enable], place[output]]])
            elif cell.clock is not None:
                assert cell.next_state is not None
                registers.append((block, kind, nets[:, [place[cell.next_state.inputs[0]],
                                                        place[cell.outputs[0]],
                                                        place[cell.clock]]],
                                  cell.next_state.text.startswith("!")))
        gate_nets = np.concatenate(gates) if gates else np.zeros((0, 2), np.int64)
        self._gate_enables = gate_nets[:, 0]
        self._gate_active = np.zeros(len(gate_nets))
        number = np.full(self._nets, -1)
        number[gate_nets[:, 1]] = np.arange(len(gate_nets))
        if any(inverted for *_, inverted in registers):
            raise ValueError("registers that invert are not simulated")
        self._registers = [(block, kind, nets, number[nets[:, 2]])
                           for block, kind, nets, _ in registers]
        pins = np.concatenate([nets for *_, nets, _ in self._registers])
        self._d, self._q = pins[:, 0].copy(), pins[:, 1].copy()
        self._q_gate = np.concatenate([gate for *_, gate in self._registers])
        self._is_gated = self._q_gate >= 0
        self._q_gate_or_0 = np.maximum(self._q_gate, 0) if len(gate_nets) else None

        # Gates in an order in which each comes after those that it depends on.
        kinds = sorted({kind for (_, kind) in rows if library.cells[kind].clock is None
                        and library.cells[kind].gate_pins is None})
        tables: list[NDArray[np.int32]] = []
        codes: list[NDArray[np.int32]] = []
        source = _HEAD
        levels = np.zeros(self._nets, np.int32)
        parts = []
        for code, kind in enumerate(kinds):
            cell, nets = library.cells[kind], np.concatenate(
                [nets for (_, of), nets in rows.items() if of == kind])
            places = {pin: i for i, pin in enumerate(cell.pins)}
            parts.append((nets, [places[pin] for pin in cell.inputs],
                          [places[pin] for pin in cell.outputs]))
            table = np.zeros((len(nets), PINS), np.int32)
            table[:, :nets.shape[1]] = nets
            tables.append(table)
            codes.append(np.full(len(nets), code, np.int32))
            source += f"        case {code}:\n"
            for pin in cell.outputs:
                function = cell.pins[pin].function
                assert function is not None
                words = {"ONE": "~0ull", "ZERO": "0ull",
                         **{name: f"v[pins[{i}]]" for name, i in places.items()}}
                text = "".join(words.get(token, token) for token
                               in re.split(r"([A-Za-z_]\w*)", function.expression))
                output = f"pins[{places[pin]}]"
                source += (f"            x = {text};\n"
                           f"            toggles[{output}] += __builtin_popcountll(x ^ "
                           f"v[{output}]);\n            v[{output}] = x;\n")
            source += "            break;\n"
        for _ in range(10_000):
            changed = False
            for nets, inputs, outputs in parts:
                level = levels[nets[:, inputs]].max(axis=1) + 1
                if (levels[nets[:, outputs[0]]] != level).any():
                    changed = True
                    for column in outputs:
                        levels[nets[:, column]] = level
            if not changed:
                break
        else:
            raise ValueError("the netlist has a combinational loop")
        order_by = np.concatenate([levels[nets[:, outputs[0]]] for nets, _, outputs in parts])
        order = np.argsort(order_by, kind="stable")
        self.depth = int(order_by.max())
        self._kinds = np.ascontiguousarray(np.concatenate(codes)[order])
        self._pins = np.ascontiguousarray(np.concatenate(tables)[order])
        self._evaluate = _compile(source + _TAIL)
        self.cycle = 0

    # ---- Running.

    def step(self, inputs: dict[str, NDArray[np.uint8]]) -> None:
        """Let inputs, bits [STREAMS, width] or [width], settle; :meth:`edge` ends the cycle."""
        for name, bits in inputs.items():
            self._set(self._ports[name], _words(np.broadcast_to(bits, (STREAMS, bits.shape[-1]))))
        self._evaluate(len(self._kinds), self._kinds.ctypes.data, self._pins.ctypes.data,
                       self._values.ctypes.data, self.toggles.ctypes.data)

    @property
    def ports(self) -> set[str]:
        """Ports of the design."""
        return set(self._ports)

    def read(self, name: str) -> NDArray[np.uint8]:
        """Bits [STREAMS, width] of a port."""
        return _bits(self._values[self._ports[name]])

    def is_set(self, name: str) -> bool:
        """Whether a port of one bit is 1, which must be the same in all streams."""
        bits = self.read(name)
        if bits.min() != bits.max():
            raise ValueError(f"{name} is not the same in all streams")
        return bool(bits[0, 0])

    def edge(self) -> None:
        """The clock's rising edge."""
        v = self._values
        enables = v[self._gate_enables]
        self._gate_active += np.bitwise_count(enables)
        new = v[self._d]
        if self._q_gate_or_0 is not None:
            mask = np.where(self._is_gated, enables[self._q_gate_or_0], ~np.uint64(0))
            new = (new & mask) | (v[self._q] & ~mask)
        results = []
        for memory in self._memories:
            for address, enable, output in memory.reads:
                active = _bits(v[enable])[:, 0].astype(bool)
                if not active.any():
                    continue
                memory.accesses += int(active.sum())
                place = np.minimum(unpack(_bits(v[address]), signed=False), memory.depth - 1)
                found = _words(memory.bits[np.arange(STREAMS), place])
                mask = _words(active[:, None].astype(np.uint8))
                results.append((output, (found & mask) | (v[output] & ~mask)))
        for memory in self._memories:
            for address, enable, given in memory.writes:
                if not v[enable].any():
                    continue
                mask_bits = _bits(v[enable]).astype(bool)
                memory.accesses += int(mask_bits.any(axis=1).sum())
                place = np.minimum(unpack(_bits(v[address]), signed=False), memory.depth - 1)
                streams = np.arange(STREAMS)
                memory.bits[streams, place] = np.where(
                    mask_bits, _bits(v[given]), memory.bits[streams, place])
        self._set(self._q, new)
        for output, words in results:
            self._set(output, words)
        self.cycle += 1

    def _set(self, nets: NDArray[np.int64], words: NDArray[np.uint64]) -> None:
        self.toggles[nets] += np.bitwise_count(words ^ self._values[nets])
        self._values[nets] = words

    def clear(self) -> None:
        """Forget all activity so far."""
        self.toggles[:] = 0
        self._gate_active[:] = 0
        for memory in self._memories:
            memory.accesses = 0
        self.cycle = 0

    # ---- Energy.

    def energy(self, clock_ns: float) -> Energy:
        """Energy since :meth:`clear`, the mean of the streams."""
        library = self._library
        volts2 = library.voltage ** 2
        load, fan_out = np.zeros(self._nets), np.zeros(self._nets)
        for (_, kind), nets in self._rows.items():
            cell = library.cells[kind]
            for place, (name, pin) in enumerate(cell.pins.items()):
                if not pin.is_output and name != cell.clock:
                    np.add.at(load, nets[:, place], pin.capacitance)
                    np.add.at(fan_out, nets[:, place], 1)
        load += library.wire(1) * fan_out
        rate = self.toggles / STREAMS

        made = Energy(*(defaultdict(float) for _ in range(4)))
        driven = np.zeros(self._nets, bool)
        for (block, kind), nets in self._rows.items():
            cell = library.cells[kind]
            made.leakage[block] += cell.leakage * len(nets) * self.cycle * clock_ns * 1e-6
            for place, (name, pin) in enumerate(cell.pins.items()):
                ends = nets[:, place]
                if pin.is_output and cell.gate_pins is None:
                    driven[ends] = True
                    each = _energies(pin, load[ends]) + volts2 / 2 * load[ends]
                    made.switching[block] += float(each @ rate[ends])
                elif not pin.is_output and name != cell.clock \
                        and (cell.gate_pins is None or name != cell.gate_pins[0]):
                    made.switching[block] += pin.energy() * float(rate[ends].sum())
        # What memories and ports drive.
        for memory in self._memories:
            for _, _, output in memory.reads:
                driven[output] = True
                made.switching[memory.block] += float(volts2 / 2 * load[output] @ rate[output])
            made.memory_accesses[memory.block, memory.width, memory.depth] += (
                memory.accesses / STREAMS)
        for name, nets in self._ports.items():
            mine = nets[~driven[nets]]
            if name != "clk":
                made.switching[""] += float(volts2 / 2 * load[mine] @ rate[mine])

        # The clock rises and falls once in each cycle in which it is not gated.
        active = self._gate_active / STREAMS
        for block, kind, _, gate in self._registers:
            clock = library.cells[kind].pins[library.cells[kind].clock or ""]
            per_cycle = 2 * clock.energy() + volts2 * (clock.capacitance + library.wire(1))
            cycles = np.where(gate >= 0, np.append(active, 0.0)[gate], self.cycle)
            made.clock[block] += per_cycle * float(cycles.sum())
        start = 0
        for (block, kind), nets in self._rows.items():
            gate_pins = library.cells[kind].gate_pins
            if gate_pins is None:
                continue
            clock_pin, _, _, gated_pin = gate_pins
            clock, gated = (library.cells[kind].pins[pin] for pin in (clock_pin, gated_pin))
            opened = float(active[start:start + len(nets)].sum())
            start += len(nets)
            per_cycle = 2 * clock.energy() + volts2 * (clock.capacitance + library.wire(1))
            made.clock[block] += per_cycle * len(nets) * self.cycle + 2 * gated.energy() * opened
        return made


def _energies(pin: Pin, loads: NDArray[np.float64]) -> NDArray[np.float64]:
    """As :meth:`Pin.energy`, for many loads."""
    if not pin.energies:
        return np.zeros(len(loads))
    return np.asarray(np.mean([np.interp(loads, *table) for table in pin.energies], axis=0))


def _compile(source: str) -> Any:
    with tempfile.TemporaryDirectory(prefix="gates-") as name:
        path, library = Path(name) / "gates.cpp", Path(name) / "gates.so"
        path.write_text(source, encoding="utf-8")
        subprocess.run([*compiler(), "-O2", "-shared", "-fPIC", "-o", str(library), str(path)],
                       check=True)
        evaluate = ctypes.CDLL(str(library)).evaluate
    evaluate.argtypes = [ctypes.c_int64, *[ctypes.c_void_p] * 4]
    evaluate.restype = None
    return evaluate
