"""The report as a page: one HTML file that needs nothing else."""

import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, StrictUndefined

import nearbit
from nearbit.report import Report
from nearbit.report.explain import MAP_QUERIES, HeadExplanation, QueryExplanation, explain
from nearbit.report.figures import draw_heads, draw_maps, draw_timeline
from nearbit.report.memory import memory_report
from nearbit.tensors import Tensors
from nearbit_hw import yosys
from nearbit_model.memory_timing import MemoryTiming


if TYPE_CHECKING:
    from nearbit_model.transfers import HardwareAttention, Prediction


__all__ = ["render"]


_TEMPLATE = "page.html.jinja"

_METHODS = {
    "had": "HAD: the weights follow from the distances of sign codes",
    "hash": "HashAttention: codes choose the keys, dot-product scores weight them",
}

_TIMELINE_QUERIES = 8

_ROOM = 8_000_000
"""Characters for the heads' maps and tables; with the rest, a page stays below ten million."""


@dataclass(frozen=True)
class _Section:
    """A head's part of the page."""

    head: int
    figure: str
    queries: Sequence[QueryExplanation]


def render(file: str, source: str, tensors: Tensors, report: Report, hardware: "HardwareAttention",
           prediction: "Prediction", codes: str = "", *, timing: MemoryTiming | None = None,
           memory: str = "") -> str:
    """Make the page; the same inputs give the same text.

    Parameters
    ----------
    file
        Name of the tensor file.
    source
        Where the configuration comes from.
    tensors
        What was asked.
    report, hardware, prediction
        What came of it, and the cycles that the cycle model predicts.
    codes
        Where the codes come from, unless they are signs of queries and keys.
    timing, memory
        When the memory answered, and the same in words, of a configuration with one.
    """
    explained = explain(tensors, hardware)
    covered = [head.covered for head in explained]
    sections = _sections(explained)
    results = hardware.outcome.outputs["o_result"]
    maps = explained[0].maps
    prepared = hardware.prepared
    rescored = prepared.rescore is not None
    always = " and ".join(what for what, number in (("first", prepared.sink),
                                                    ("last", prepared.recent)) if number)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    environment.filters |= {"count": _count, "percent": _percent}
    template = environment.from_string(
        (resources.files("nearbit.report") / _TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        file=file, conditions=_conditions(file, source, tensors, hardware, codes, memory),
        memory=memory_report(hardware, prediction, timing),
        toml=hardware.prepared.config.to_toml(), total=report.total, heads=report.heads,
        wrong=[head for head in report.heads if not head.bit_exact],
        cycles_equal=np.array_equal(prediction.timeline.results, results.cycles),
        beats=len(results), predicted=prediction.head_cycles.tolist(),
        predicted_total=prediction.cycles, explained=explained,
        covered_total=float(np.mean(covered)),
        heads_figure=draw_heads(report.heads, prediction.head_cycles, covered),
        timeline=_timeline(tensors, prediction), width=maps.width, causal=tensors.causal,
        rescored=rescored, shared=prepared.shared, always=always,
        selects_all=bool((hardware.prepared.counts
                          <= prepared.n + prepared.sink + prepared.recent).all()),
        columns=5 + rescored + bool(always),
        sections=sections, left_out=_left_out(tensors, explained, sections)) + "\n"


def _timeline(tensors: Tensors, prediction: "Prediction") -> str:
    """Draw the first queries."""
    first = np.flatnonzero(prediction.heads >= 0)[:_TIMELINE_QUERIES]
    heads = tensors.heads[prediction.heads[first]]
    queries = tensors.queries[prediction.queries[first]]
    # Of queries side by side, heads are worked on in turns.
    has_turns = len(set(heads.tolist())) > 1
    return draw_timeline(
        [prediction.timeline.answers[index] for index in first],
        [f"{head}:{query}" if has_turns else str(query)
         for head, query in zip(heads, queries, strict=True)])


def _sections(explained: Sequence[HeadExplanation]) -> list[_Section]:
    """Draw heads as long as there is room."""
    sections = []
    room = _ROOM
    for head in explained:
        figure = draw_maps(head.maps, head.head)
        # A query's table is a few thousand characters.
        room -= len(figure) + 6000 * len(head.queries)
        if room < 0:
            break
        sections.append(_Section(head.head, figure, head.queries))
    return sections


def _left_out(tensors: Tensors, explained: Sequence[HeadExplanation],
              sections: Sequence[_Section]) -> list[str]:
    notes = []
    asked, shown = len(tensors.queries), len(explained[0].maps.queries)
    if shown < asked:
        notes.append(f"the maps have {shown} of the {asked} queries, evenly spread, as there is "
                     f"room for {MAP_QUERIES}; --queries chooses others.")
    if len(sections) < len(explained):
        rest = _ranges([head.head for head in explained[len(sections):]])
        notes.append(f"the maps and tables of heads {rest}, as the page would become too large; "
                     f"--heads chooses others.")
    return notes


def _conditions(file: str, source: str, tensors: Tensors, hardware: "HardwareAttention", codes: str,
                memory: str) -> list[tuple[str, str]]:
    prepared = hardware.prepared
    config = prepared.config
    unit = None if prepared.rescore is None else config.rescore
    kv_heads = ("" if prepared.group == 1
                else f", {prepared.group} for each of {prepared.kv_heads} key heads")
    seen = (f"{tensors.tokens:,}, of which a query sees those up to its own position (causal)"
            if tensors.causal else f"{tensors.tokens:,}, all seen by every query")
    always = [f"the {what} {number} ({option})" for what, number, option in (
        ("first", prepared.sink, "sink"), ("last", prepared.recent, "recent")) if number]
    products = f", multiplies {unit.lanes} elements for rescoring" if unit else ""
    logit_scale = ", ".join(f"{number:.4g}" for number in prepared.logit_scale)
    versions = ", ".join(f"{name} {version}" for name, version in (
        ("Nearbit", nearbit.__version__), ("Python", platform.python_version()),
        ("Amaranth", metadata.version("amaranth")), ("Yosys", yosys.release()),
        ("NumPy", metadata.version("numpy"))))
    return [
        ("File", file),
        ("Heads", f"{_ranges(tensors.heads.tolist())}{kv_heads}"),
        ("Queries", f"{_ranges(tensors.queries.tolist())} of each head"),
        ("Method", _METHODS[prepared.method]
                   + (", one selection for the heads of a group" if prepared.shared else "")),
        ("Keys", (f"{seen}; {tensors.head_dim} elements"
                  + (f" of {unit.element_bits} bits for rescoring" if unit else ""))),
        ("Codes", f"{config.key_bits} bits, {codes or 'the signs of queries and keys'}"),
        ("Values", (f"{tensors.value_dim} elements of {config.value_bits} bits"
                    f"{', rotated' if prepared.values.rotated else ''}")),
        ("Selected keys", ", ".join([
            f"the {prepared.n} nearest of each {'group' if prepared.shared else 'query'} (n)",
            *always])),
        *([("Softmax logit_scale", f"{logit_scale} (head by head)" if len(tensors.heads) > 1
                                   else logit_scale)] if prepared.rescore is None else []),
        ("Accelerator", (f"{source}: each cycle scores {config.lanes} keys for "
                         f"{config.queries} {'query' if config.queries == 1 else 'queries'}"
                         f"{products} and adds up {config.value_lanes} value elements; room for "
                         f"{config.capacity:,} keys")),
        ("Simulation", f"{hardware.engine} engine" + (f", {memory}" if memory else "")),
        ("Versions", versions),
    ]


def _ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers as the options --heads and --queries take them, shortly."""
    parts: list[str] = []
    start = 0
    for end in range(1, len(numbers) + 1):
        if end == len(numbers) or numbers[end] != numbers[end - 1] + 1:
            parts.append(str(numbers[start]) if end == start + 1
                         else f"{numbers[start]}-{numbers[end - 1]}")
            start = end
    if len(parts) > 20:
        parts[10:-3] = ["..."]
    return ", ".join(parts)


def _count(number: int) -> str:
    return f"{number:,}"


def _percent(share: float, digits: int = 1) -> str:
    if math.isnan(share):
        return "none"
    return f"{100 * share:.{digits}f}%" if math.isfinite(share) else "∞"
