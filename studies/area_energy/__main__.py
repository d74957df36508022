"""Area and energy of Nearbit and of standard attention in standard cells.

    python -m studies.area_energy LIBERTY [--heads FILE.npz] [--lanes L ...]

LIBERTY is a liberty file, also compressed with gzip; it may be given by the environment variable
NEARBIT_LIBERTY instead. Each design is synthesized module by module, and its netlist is simulated
on the heads of the file, 64 of their queries at a time; every output is compared with the golden
model. Writes studies/area_energy/results.json and, from it, the tables in docs/area-energy.md,
which says what is measured and where that ends. What is not measured again keeps its figures, if
they were taken under the same conditions. Without a liberty file, both are left alone.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from amaranth.lib import wiring
from numpy.typing import NDArray

from nearbit_hw import yosys
from nearbit_hw.core import Core
from nearbit_model import golden
from nearbit_model.config import Config, Rescore
from nearbit_model.prepare import Prepared, prepare
from nearbit_sim.engine import SimulationError
from studies.area_energy.activity import STREAMS, Simulation, pack, unpack
from studies.area_energy.liberty import Liberty, LibertyError
from studies.area_energy.standard import golden as standard_golden
from studies.area_energy.standard.design import FAN_IN, StandardAttention
from studies.area_energy.synthesis import Area, SynthesisError, synthesize


ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "studies" / "area_energy" / "results.json"
DOCUMENT = ROOT / "docs" / "area-energy.md"

KEYS, DIM, N = 1024, 64, 32
CLOCK_NS = 10.0
WARM_UP = 5    # queries before the measured ones, so that all units are at work
MEASURED = 4   # queries measured, in each of the 64 streams

# Memories are not in a liberty file of logic cells. These are of a macro of the same process that
# OpenRAM made, sky130_sram_1kbyte_1rw1r_32x256_8 (github.com/VLSIDA/sky130_sram_macros): area
# 199,138 um2 for 8,192 bits from its data sheet; 2.843 + 2.582 pJ for a read of 32 bits from its
# liberty file, of the typical corner.
MACRO_AREA = 199_138.0 / 8192
MACRO_ENERGY = (2.843456 + 2.581878) / 32


@dataclass(frozen=True)
class Subject:
    """A design to measure.

    Parameters
    ----------
    component
        Makes it.
    load
        Makes what is loaded before the queries: payloads of each stream, bits
        [beats, STREAMS, width].
    query
        Makes the payloads for query number i: by port, the same.
    expected
        Makes what query number i gives: integers [STREAMS, value_dim].
    """

    component: Callable[[], wiring.Component]
    load: Callable[[Any], dict[str, NDArray[np.uint8]]]
    query: Callable[[Any, int], dict[str, NDArray[np.uint8]]]
    expected: Callable[[int], NDArray[np.int64]]


@dataclass(frozen=True)
class Heads:
    """Real heads, and which of their queries each stream asks."""

    q: NDArray[Any]
    k: NDArray[Any]
    v: NDArray[Any]

    @classmethod
    def read(cls, path: Path) -> "Heads":
        """Read a file; exits with one sentence if it does not fit."""
        try:
            with np.load(path, allow_pickle=False) as file:
                made = cls(file["q"], file["k"][:, :KEYS], file["v"][:, :KEYS])
        except (OSError, KeyError, ValueError) as error:
            _refuse(f"{path} cannot be read as a file of heads: {error}")
        if made.k.shape[1] % 64 or made.k.shape[2] != DIM or made.v.shape[2] != DIM:
            _refuse(f"{path} has {made.k.shape[1]} keys of {made.k.shape[2]} and values of "
                    f"{made.v.shape[2]} elements, not a multiple of 64 keys and {DIM} elements")
        return made

    @property
    def keys(self) -> int:
        """Keys of a head."""
        return int(self.k.shape[1])

    def head(self) -> NDArray[np.int64]:
        """Head of each stream."""
        return np.arange(STREAMS) % len(self.q)

    def position(self, number: int) -> NDArray[np.int64]:
        """Which query of its head each stream asks as its query number `number`."""
        first, step = np.arange(STREAMS) // len(self.q), -(-STREAMS // len(self.q))
        return np.asarray((first + number * step) % self.q.shape[1])


def _refuse(sentence: str) -> NoReturn:
    print(sentence, file=sys.stderr)
    sys.exit(2)


def _shape(component: Any, port: str) -> Any:
    return getattr(component, port).payload.shape()


def nearbit(heads: Heads, lanes: int, *, rescore: bool) -> Subject:
    """Nearbit with what the rate of its keys needs and no more."""
    interval = heads.keys // lanes
    value_lanes = max(1, N * DIM // interval)
    config = Config(
        key_bits=DIM, value_dim=DIM, capacity=heads.keys, lanes=lanes, value_lanes=value_lanes,
        top_n=N, exp_tables=1, normalizer="divider", divider_cycles=_divider_cycles(interval),
        fan_in=FAN_IN, # registers as far apart as in standard attention's sums
        rescore=Rescore(head_dim=DIM, lanes=value_lanes) if rescore else None)
    prepared: Prepared = prepare(heads.q, heads.k, heads.v, config, n=N,
                                 method="hash" if rescore else "had")
    kv = heads.head() // prepared.group
    result = golden.attend(prepared.q_codes, prepared.k_codes, prepared.values,
                           prepared.exp_tables, config=config, counts=prepared.counts, n=prepared.n,
                           rescore=prepared.rescore)

    def code(codes: NDArray[np.uint64]) -> NDArray[np.int64]:
        return codes[..., 0].view(np.int64)

    def load(core: Core) -> dict[str, NDArray[np.uint8]]:
        tokens, beats = np.arange(heads.keys), config.beats
        places = {"token": np.repeat(tokens, beats)[:, None],
                  "beat": np.tile(np.arange(beats), heads.keys)[:, None]}
        elements = prepared.values.elements[kv].reshape(STREAMS, -1, config.value_lanes)
        loads = {
            "i_key": {"token": tokens[:, None], "code": code(prepared.k_codes[kv]).T},
            "i_value": {**places, "elements": elements.swapaxes(0, 1),
                        "scale": np.repeat(prepared.values.scales[kv].T, beats, axis=0)},
            "i_exp_table": {"exp_table": 0, "distance": np.arange(DIM + 1)[:, None],
                        "weight": prepared.exp_tables[heads.head()].T},
        }
        if rescore and prepared.rescore is not None and config.rescore is not None:
            unit = config.rescore
            keys = prepared.rescore.keys[kv].reshape(STREAMS, -1, unit.lanes)
            loads["i_rescore_key"] = {
                "token": np.repeat(tokens, unit.beats)[:, None],
                "beat": np.tile(np.arange(unit.beats), heads.keys)[:, None],
                "elements": keys.swapaxes(0, 1)}
        return {port: pack(_shape(core, port), fields) for port, fields in loads.items()}

    def query(core: Core, number: int) -> dict[str, NDArray[np.uint8]]:
        head, position = heads.head(), heads.position(number)
        fields = {"code": code(prepared.q_codes[head, position]), "count": heads.keys,
                  "exp_table": 0}
        inputs = {}
        if prepared.rescore is not None and config.rescore is not None:
            fields["multiplier"] = prepared.rescore.multipliers[head, position]
            elements = prepared.rescore.queries[head, position].reshape(
                STREAMS, -1, config.rescore.lanes)
            inputs["i_rescore_query"] = pack(_shape(core, "i_rescore_query"),
                                             elements.swapaxes(0, 1))
        # One query: the array of queries has one entry.
        command = {"first": 0, "n": N, "sink": 0, "recent": 0, "trace": 0,
                   "rescore": int(rescore), "shared": 0,
                   "queries": {name: np.asarray(value)[..., None] for name,
                               value in fields.items()}}
        bits = pack(_shape(core, "i_command"), command)
        return {"i_command": np.broadcast_to(bits, (STREAMS, bits.shape[-1]))[None], **inputs}

    def expected(number: int) -> NDArray[np.int64]:
        return result.output_int[heads.head(), heads.position(number)].astype(np.int64)

    return Subject(lambda: Core(config), load, query, expected)


def _divider_cycles(interval: int) -> int:
    """Cycles that the divider has for an output of 16 bits."""
    return max(1, min(16, interval // DIM))


def standard(heads: Heads, lanes: int, *, element_bits: int, weight_bits: int) -> Subject:
    """Standard attention at the same rate."""
    given = {"element_bits": element_bits, "weight_bits": weight_bits, "scale_bits": 16,
             "output_fraction_bits": 8}
    operands = standard_golden.quantize(heads.q, heads.k, element_bits)
    config = Config(key_bits=DIM, value_dim=DIM, capacity=heads.keys, lanes=lanes, top_n=N)
    values = prepare(heads.q, heads.k, heads.v, config, n=N).values
    head = heads.head()
    kv = head // (len(heads.q) // len(heads.k))

    def load(component: StandardAttention) -> dict[str, NDArray[np.uint8]]:
        tokens = np.arange(heads.keys)[:, None]
        return {
            "i_key": pack(_shape(component, "i_key"), {
                "token": tokens, "elements": operands.keys[head].swapaxes(0, 1)}),
            "i_value": pack(_shape(component, "i_value"), {
                "token": tokens, "elements": values.elements[kv].swapaxes(0, 1),
                "scale": values.scales[kv].T}),
        }

    def query(component: StandardAttention, number: int) -> dict[str, NDArray[np.uint8]]:
        position = heads.position(number)
        return {"i_query": pack(_shape(component, "i_query"), {
            "elements": operands.queries[head, position], "last_key": heads.keys - 1,
            "multiplier": operands.multipliers[head, position]})[None]}

    def expected(number: int) -> NDArray[np.int64]:
        return np.array([standard_golden.attend(
            operands.queries[h, p], operands.keys[h], int(operands.multipliers[h, p]),
            values.elements[key_head], values.scales[key_head], **given)
            for h, p, key_head in zip(head, heads.position(number), kv, strict=True)])

    return Subject(
        lambda: StandardAttention(capacity=heads.keys, lanes=lanes, **given,
                                  divider_cycles=_divider_cycles(heads.keys // lanes)),
        load, query, expected)


SUBJECTS: dict[str, tuple[str, Callable[[Heads, int], Subject]]] = {
    "standard": ("standard attention, int8", lambda heads, lanes: standard(
        heads, lanes, element_bits=8, weight_bits=16)),
    "standard_w8": ("standard attention, int8, 8-bit weights", lambda heads, lanes: standard(
        heads, lanes, element_bits=8, weight_bits=8)),
    "standard_16": ("standard attention, 16-bit q and k", lambda heads, lanes: standard(
        heads, lanes, element_bits=16, weight_bits=16)),
    "had": ("Nearbit, HAD", lambda heads, lanes: nearbit(heads, lanes, rescore=False)),
    "hash": ("Nearbit, HashAttention", lambda heads, lanes: nearbit(heads, lanes, rescore=True)),
}


def run(simulation: Simulation, component: Any, subject: Subject, keys: int) -> int:
    """Load, ask and check; activity is that of the measured queries.

    Returns
    -------
    int
        Cycles from one query to the next.
    """
    streams = {name for name, *_ in component.signature.members.items()
               if name.startswith("i_")}
    queues: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in streams}
    widths = {name: len(simulation.read(f"{name}__payload")[0]) for name in streams}
    results: list[NDArray[np.uint8]] = []
    result_shape = _shape(component, "o_result")
    output, last = result_shape["output"], result_shape["last"]

    def cycle() -> set[str]:
        """Simulate a cycle; which streams took a payload."""
        inputs = {"rst": np.zeros(1, np.uint8)}
        for name, queue in queues.items():
            inputs[f"{name}__valid"] = np.full(1, bool(queue), np.uint8)
            if queue:
                inputs[f"{name}__payload"] = queue[0]
        for name in ("o_result", "o_trace"):
            if f"{name}__ready" in simulation.ports:
                inputs[f"{name}__ready"] = np.ones(1, np.uint8)
        simulation.step(inputs)
        taken = {name for name, queue in queues.items()
                 if queue and (f"{name}__ready" not in simulation.ports
                               or simulation.is_set(f"{name}__ready"))}
        if simulation.is_set("o_result__valid"):
            results.append(simulation.read("o_result__payload"))
        simulation.edge()
        for name in taken:
            queues[name].pop(0)
        return taken

    simulation.step({"rst": np.ones(1, np.uint8)})
    simulation.edge()
    for name, beats in subject.load(component).items():
        queues[name] = list(beats)
        if beats.shape[-1] != widths[name]:
            raise ValueError(f"{name} has {widths[name]} bits, not {beats.shape[-1]}")
    while any(queues.values()):
        cycle()
    for _ in range(4):
        cycle()

    count = WARM_UP + MEASURED
    sent, starts = 0, []
    asks = "i_command" if isinstance(component, Core) else "i_query"
    for _ in range((count + 8) * (keys * 4 + 400)):
        for name, beats in (subject.query(component, sent).items() if sent < count + 3
                            and not queues[asks] else ()):
            queues[name] += list(beats)
            sent += name == asks
        if asks in cycle():
            starts.append(simulation.cycle)
            if len(starts) == WARM_UP:
                simulation.clear()
            if len(starts) == count:
                measured = simulation.cycle
                break
    else:
        raise ValueError("the netlist hangs")
    checked = len(results) // DIM
    for number in range(checked):
        beats = np.stack(results[number * DIM:(number + 1) * DIM], axis=1)
        found = unpack(beats[..., output.offset:output.offset + output.width], signed=True)
        if (found != subject.expected(number)).any() or (
                beats[:, :, last.offset].argmax(axis=1) != DIM - 1).any():
            raise ValueError(f"query {number} of the netlist differs from the golden model")
    if checked < 2:
        raise ValueError("no results of the netlist were compared")
    return measured // MEASURED


def measure(library: Liberty, heads: Heads, name: str, lanes: int) -> dict[str, Any]:
    start = time.perf_counter()
    subject = SUBJECTS[name][1](heads, lanes)
    component = subject.component()
    design = synthesize(component, library)
    synthesized = time.perf_counter()
    simulation = Simulation(design)
    interval = run(simulation, component, subject, heads.keys)
    energy = simulation.energy(CLOCK_NS)
    areas: dict[str, Area] = design.blocks()

    def memory_energy(block: str) -> float:
        return sum(accesses * width for (of, width, _), accesses
                   in energy.memory_accesses.items() if of == block) * MACRO_ENERGY / MEASURED

    blocks = {block or "rest": {
        "area": area.area, "cells": area.cells, "registers": area.registers,
        "memory_bits": area.memory_bits,
        "energy_switching": energy.switching[block] / MEASURED,
        "energy_clock": energy.clock[block] / MEASURED,
        "energy_leakage": energy.leakage[block] / MEASURED,
        "memory_energy": memory_energy(block),
    } for block, area in sorted(areas.items())}
    print(f"{name}, {lanes} lanes: synthesis {synthesized - start:.0f} s, simulation "
          f"{time.perf_counter() - synthesized:.0f} s, {len(blocks)} blocks, "
          f"{sum(block['area'] for block in blocks.values()):,.0f} um2, a query in {interval} "
          f"cycles", flush=True)
    return {"interval": interval, "logic_depth": simulation.depth, "blocks": blocks}


def total(result: dict[str, Any]) -> dict[str, float]:
    """Sums over the blocks; energies in picojoules a query."""
    blocks = result["blocks"].values()
    found = {key: sum(block[key] for block in blocks) for key in next(iter(blocks))}
    found["energy"] = sum(found[f"energy_{kind}"] for kind in ("switching", "clock", "leakage"))
    found["memory_area"] = found["memory_bits"] * MACRO_AREA
    found["all_area"] = found["area"] + found["memory_area"]
    found["all_energy"] = found["energy"] + found["memory_energy"]
    return found


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def summary(results: dict[str, Any]) -> Iterator[str]:
    """The table of totals."""
    yield _row("lanes", "design", "cycles per query", "logic area, mm2", "reduction",
               "memory, kbit", "area with memory, mm2", "reduction",
               "logic energy per query, nJ", "reduction", "energy with memory, nJ", "reduction")
    yield _row(*["---:", "---", *["---:"] * 10])
    for lanes, designs in results["designs"].items():
        if "standard" not in designs:
            continue
        base = total(designs["standard"])
        for name, result in designs.items():
            sums = total(result)

            def less(key: str, sums: dict[str, float] = sums, name: str = name,
                     base: dict[str, float] = base) -> str:
                return "" if name == "standard" else f"{100 * (1 - sums[key] / base[key]):.1f} %"

            yield _row(
                lanes, SUBJECTS[name][0], str(result["interval"]), f"{sums['area'] / 1e6:.3f}",
                less("area"), f"{sums['memory_bits'] / 1024:,.0f}", f"{sums['all_area'] / 1e6:.2f}",
                less("all_area"), f"{sums['energy'] / 1e3:.2f}", less("energy"),
                f"{sums['all_energy'] / 1e3:.2f}", less("all_energy"))


def by_block(results: dict[str, Any]) -> Iterator[str]:
    """A table of the blocks of each design at the most lanes."""
    lanes, designs = list(results["designs"].items())[-1]
    for name, result in designs.items():
        sums = total(result)
        yield f"**{SUBJECTS[name][0]}, {lanes} lanes**"
        yield ""
        yield _row("block", "logic area, um2", "share", "registers", "memory, bits",
                   "switching, pJ per query", "clock", "leakage", "memory, pJ per query")
        yield _row("---", *["---:"] * 8)
        for block, of in sorted(result["blocks"].items(), key=lambda item: -item[1]["area"]):
            yield _row(f"`{block}`", f"{of['area']:,.0f}",
                       f"{100 * of['area'] / sums['area']:.1f} %",
                       f"{of['registers']:,}", f"{of['memory_bits']:,}",
                       *(f"{of[key]:,.1f}" for key in ("energy_switching", "energy_clock",
                                                       "energy_leakage", "memory_energy")))
        yield ""


def conditions(results: dict[str, Any]) -> str:
    return (f"{results['keys']:,} keys, {DIM} dimensions, N = {N}; library {results['library']}; "
            f"{STREAMS} x {MEASURED} queries of {results['heads']}; a clock of "
            f"{1000 / CLOCK_NS:.0f} MHz for leakage; amaranth "
            f"{results['versions']['amaranth']}, {results['versions']['yosys']}.")


def write(results: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    document = DOCUMENT.read_text(encoding="utf-8")
    for marker, text in (("summary", "\n".join([*summary(results), "", conditions(results)])),
                         ("blocks", "\n".join(by_block(results)).rstrip())):
        before, begin, rest = document.partition(f"<!-- {marker} -->\n")
        _, end, after = rest.partition(f"<!-- /{marker} -->")
        if not end:
            raise ValueError(f"{DOCUMENT} has no place for {marker}")
        document = before + begin + text + "\n" + end + after
    DOCUMENT.write_text(document, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("liberty", type=Path, nargs="?")
    parser.add_argument("--heads", type=Path,
                        default=ROOT / "tests" / "data" / "smollm2-argparse-512.npz")
    parser.add_argument("--lanes", type=int, nargs="+", choices=(1, 2, 4, 8, 16),
                        default=[1, 4, 16])
    parser.add_argument("--designs", nargs="+", choices=tuple(SUBJECTS), default=[*SUBJECTS])
    parser.add_argument("--no-write", action="store_true", help="only print")
    given = parser.parse_args()
    path = given.liberty or (Path(os.environ["NEARBIT_LIBERTY"])
                             if os.environ.get("NEARBIT_LIBERTY") else None)
    if path is None:
        print("Nothing measured: this needs a liberty file, as its argument or in the environment "
              "variable NEARBIT_LIBERTY.")
        return
    try:
        library = Liberty(path)
    except LibertyError as error:
        _refuse(str(error))
    heads = Heads.read(given.heads)
    try:
        report(library, heads, given)
    except (SynthesisError, SimulationError, yosys.YosysError) as error:
        _refuse(f"{path}: {str(error).splitlines()[0]}")


def report(library: Liberty, heads: Heads, given: argparse.Namespace) -> None:
    conditions: dict[str, Any] = {
        "library": library.name, "heads": given.heads.name, "keys": heads.keys,
        "clock_ns": CLOCK_NS, "streams": STREAMS, "queries": MEASURED,
        "memory_area_per_bit": MACRO_AREA, "memory_energy_per_bit": MACRO_ENERGY,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"amaranth": metadata.version("amaranth"), "yosys": yosys.version()},
    }
    found: dict[tuple[int, str], Any] = {}
    if RESULTS.exists() and not given.no_write:
        former = json.loads(RESULTS.read_text(encoding="utf-8"))
        if {name: former[name] for name in conditions} == conditions:
            found = {(int(lanes), name): result for lanes, designs in former["designs"].items()
                     for name, result in designs.items()}
    for lanes in given.lanes:
        for name in given.designs:
            found[lanes, name] = measure(library, heads, name, lanes)
            results = {**conditions, "designs": {
                str(each): {other: found[each, other] for other in SUBJECTS
                            if (each, other) in found}
                for each in sorted({each for each, _ in found})}}
            if not given.no_write and (lanes, "standard") in found:
                write(results)
    print("\n".join(summary(results)))


if __name__ == "__main__":
    main()
