"""How a simulation compares with the golden model and with exact attention, head by head."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from nearbit.tensors import Tensors
from nearbit_model import reference
from nearbit_model.attention import Attention
from nearbit_model.comparison import differing


if TYPE_CHECKING:
    from nearbit_model.transfers import HardwareAttention


__all__ = ["HeadPart", "Mismatch", "Part", "Report", "compare", "first_mismatch", "show"]


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """Where a head of the hardware first differs from the golden model: the first such query,
    and of its arrays the one that is computed first.
    """

    query: int
    array: str
    element: int
    hardware: int
    golden: int

    def __str__(self) -> str:
        """Say it in half a sentence."""
        return (f"query {self.query}, {self.array}[{self.element}]: hardware {self.hardware}, "
                f"golden model {self.golden}")


def first_mismatch(hardware: "HardwareAttention", golden: Attention, head: int,
                   queries: NDArray[np.int64]) -> Mismatch | None:
    """Compare a head's outputs and trace; None if they are equal bit for bit.

    Parameters
    ----------
    hardware, golden
        What to compare.
    head
        Which head: an index into their arrays.
    queries
        The indices of the queries in the file.
    """
    differ = {name: wrong[0] for name, wrong in differing(
        hardware, golden, heads=slice(head, head + 1)).items()}
    wrong = np.any([elements.any(axis=1) for elements in differ.values()], axis=0)
    if not wrong.any():
        return None
    query = int(wrong.argmax())
    name = next(name for name, elements in differ.items() if elements[query].any())
    element = int(differ[name][query].argmax())
    ours, theirs = (_element(getattr(answer, name)[head, query], element)
                    for answer in (hardware, golden))
    return Mismatch(query=int(queries[query]), array=name, element=element, hardware=ours,
                    golden=theirs)


def _element(selection: NDArray[Any], element: int) -> int:
    """Read an element of an answer; -1 behind the last."""
    return int(selection[element]) if element < len(selection) else -1


@dataclass(frozen=True, kw_only=True)
class Part:
    """A head, or all heads together.

    Parameters
    ----------
    queries
        Queries answered.
    keys
        Keys of a head.
    bit_exact
        Whether every output, selected index, distance and weight equals the golden model's.
    cycles
        Clock cycles, loading included.
    load_cycles
        Those of them in which keys, values and tables were loaded.
    seconds
        Wall time of the simulation.
    recall
        Share of the exact attention's top N that was selected, mean over the queries.
    error_reference, error_reference_max
        Relative error against exact attention, mean and largest of the queries.
    error_method, error_method_max
        The same against the float form of the same method.
    """

    queries: int
    keys: int
    bit_exact: bool
    cycles: int
    load_cycles: int
    seconds: float
    recall: float
    error_reference: float
    error_reference_max: float
    error_method: float
    error_method_max: float

    @property
    def cycles_per_query(self) -> float:
        """Clock cycles for each query, loading not included."""
        return (self.cycles - self.load_cycles) / self.queries

    @property
    def cycles_per_second(self) -> float:
        """Simulated clock cycles in a second of wall time."""
        return self.cycles / self.seconds if self.seconds else math.inf

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        figures = dataclasses.asdict(self)
        figures["cycles_per_query"] = self.cycles_per_query
        figures["cycles_per_second"] = self.cycles_per_second
        return {name: _json_number(figure) for name, figure in figures.items()}


def _json_number(number: Any) -> Any:
    """JSON has no infinities and no NaN."""
    return None if isinstance(number, float) and not math.isfinite(number) else number


@dataclass(frozen=True, kw_only=True)
class HeadPart(Part):
    """One head: which, and where it first differs if it does."""

    head: int
    mismatch: Mismatch | None


@dataclass(frozen=True)
class Report:
    """All heads, each by itself and together."""

    heads: Sequence[HeadPart]

    @property
    def total(self) -> Part:
        """All heads together: sums, means over all queries, largest errors."""
        heads = self.heads

        def mean(name: str) -> float:
            # Every head has the same queries.
            return float(np.mean([getattr(head, name) for head in heads]))

        return Part(
            queries=sum(head.queries for head in heads),
            keys=heads[0].keys,
            bit_exact=all(head.bit_exact for head in heads),
            cycles=sum(head.cycles for head in heads),
            load_cycles=sum(head.load_cycles for head in heads),
            seconds=sum(head.seconds for head in heads),
            recall=mean("recall"),
            error_reference=mean("error_reference"),
            error_reference_max=max(head.error_reference_max for head in heads),
            error_method=mean("error_method"),
            error_method_max=max(head.error_method_max for head in heads))

    def to_dict(self) -> dict[str, Any]:
        """Total, and under ``heads`` each head, for JSON."""
        return {**self.total.to_dict(), "heads": [head.to_dict() for head in self.heads]}


def compare(tensors: Tensors, golden: Attention, hardware: "HardwareAttention") -> Report:
    """Compare what the hardware answered with the golden model and with exact attention."""
    prepared = golden.prepared
    if not (len(tensors.heads) and len(tensors.queries)):
        raise ValueError("there must be an answer to compare")
    # Hardware that differs may have selected anything, even nothing or keys that are not there.
    with np.errstate(invalid="ignore"):
        measures = reference.measure(
            tensors.q, tensors.k, tensors.v, output=hardware.output,
            selected=np.minimum(hardware.selected, tensors.tokens - 1),
            distances=hardware.distances, logit_scale=prepared.logit_scale,
            counts=prepared.counts, rescored=prepared.rescore is not None)
    heads = []
    # Query heads that share a key head share its loading.
    group = prepared.group
    loads = [int(hardware.load_cycles[index // group]) * (index % group + 1) // group
             - int(hardware.load_cycles[index // group]) * (index % group) // group
             for index in range(prepared.heads)]
    for index, head in enumerate(tensors.heads):
        mismatch = first_mismatch(hardware, golden, index, tensors.queries)
        heads.append(HeadPart(
            head=int(head), mismatch=mismatch, bit_exact=mismatch is None,
            queries=len(tensors.queries), keys=tensors.tokens,
            cycles=int(hardware.head_cycles[index]), load_cycles=loads[index],
            seconds=float(hardware.head_seconds[index]),
            recall=float(measures.recall[index]),
            error_reference=float(measures.error_reference.mean[index]),
            error_reference_max=float(measures.error_reference.maximum[index]),
            error_method=float(measures.error_method.mean[index]),
            error_method_max=float(measures.error_method.maximum[index])))
    return Report(heads)


def show(report: Report, console: Console, *, is_simulated: bool = True) -> None:
    """Print a report as a table, then where the hardware differs or that it does not."""
    # Not wider than 80 columns, which a terminal would cut.
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("head", justify="right")
    table.add_column("bits")
    for title in ("cycles", "of these\nloading", "cycles\n/query", "recall\nof top N",
                  "error against\nexact (max)", "error against\nfloat form (max)"):
        table.add_column(title, justify="right")
    total = report.total
    for head in report.heads:
        table.add_row(str(head.head), *_cells(head))
    table.add_section()
    table.add_row("all", *_cells(total), style="bold")
    console.print(table)
    console.print()
    if is_simulated:
        console.print(
            f"Simulated in {total.seconds:.2f} s: {total.cycles_per_second:,.0f} cycles per "
            f"second.", soft_wrap=True, highlight=False)
    for head in report.heads:
        if head.mismatch:
            console.print(f"head {head.head}: first difference in {head.mismatch}", soft_wrap=True,
                          markup=False)
    if total.bit_exact:
        console.print(f"Bit-exact: the hardware's answers to all {total.queries} queries equal "
                      f"the golden model's.", style="green", soft_wrap=True, highlight=False)
    else:
        wrong = sum(not head.bit_exact for head in report.heads)
        console.print(f"Not bit-exact: {wrong} of {len(report.heads)} heads differ from the "
                      f"golden model.", style="red", soft_wrap=True, highlight=False)


def _cells(part: Part) -> list[str]:
    return [
        "exact" if part.bit_exact else "differ",
        f"{part.cycles:,}",
        f"{part.load_cycles:,}",
        f"{part.cycles_per_query:,.1f}",
        f"{part.recall:.1%}",
        f"{part.error_reference:.1%} ({part.error_reference_max:.1%})",
        f"{part.error_method:.2%} ({part.error_method_max:.2%})",
    ]
