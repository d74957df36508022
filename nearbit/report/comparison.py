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

from nearbit.tables import print_table
from nearbit.tensors import Tensors
from nearbit_model import reference
from nearbit_model.attention import Attention
from nearbit_model.comparison import differing


if TYPE_CHECKING:
    from nearbit_model.transfers import HardwareAttention, Prediction


__all__ = ["HeadPart", "Mismatch", "Part", "Report", "compare", "first_mismatch", "show",
           "show_proof"]


_ERRORS = ("error_reference", "error_top", "error_method")
_MEANS = ("keys_read", "recall", *_ERRORS)

_CYCLES = ("cycles", "of these\nloading", "cycles\n/query")
_FIGURES = ("keys\nread", "recall", "error\nagainst\nexact", "error of\ntrue\ntop N",
            "error\nagainst\nfloat")

# Errors, with the digits behind the point that say something.
_SHOWN = (("error_reference", 1), ("error_top", 1), ("error_method", 2))


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
        Whether every output, selected index, distance and weight of the hardware equals the golden
        model's; None if no hardware has answered.
    cycles
        Clock cycles, loading included: the hardware's, or else the cycle model's; None if neither
        tells.
    load_cycles
        Those of them in which keys, values and tables were loaded.
    seconds
        Wall time of the simulation; None without one.
    keys_read
        Share of the keys seen whose values were read.
    recall
        Share of the exact attention's top N that was selected, mean over the queries; NaN if no
        query had a choice.
    error_reference, error_reference_max
        Relative error against exact attention, mean and largest of the queries.
    error_top, error_top_max
        The same of exact attention to as many keys of largest q.k: the floor.
    error_method, error_method_max
        Relative error against the float form of the same method.
    """

    queries: int
    keys: int
    bit_exact: bool | None
    cycles: int | None
    load_cycles: int | None
    seconds: float | None
    keys_read: float
    recall: float
    error_reference: float
    error_reference_max: float
    error_top: float
    error_top_max: float
    error_method: float
    error_method_max: float

    @property
    def cycles_per_query(self) -> float | None:
        """Clock cycles for each query, loading not included."""
        if self.cycles is None or self.load_cycles is None:
            return None
        return (self.cycles - self.load_cycles) / self.queries

    @property
    def cycles_per_second(self) -> float | None:
        """Simulated clock cycles in a second of wall time."""
        if self.cycles is None or self.seconds is None:
            return None
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
            # Every head has the same queries; only recall may be of none.
            known = [number for head in heads if not math.isnan(number := getattr(head, name))]
            return float(np.mean(known)) if known else math.nan

        def total(name: str) -> Any:
            parts = [getattr(head, name) for head in heads]
            return None if None in parts else sum(parts)

        return Part(
            queries=total("queries"),
            keys=heads[0].keys,
            bit_exact=None if heads[0].bit_exact is None else all(
                head.bit_exact for head in heads),
            cycles=total("cycles"), load_cycles=total("load_cycles"), seconds=total("seconds"),
            **{name: mean(name) for name in _MEANS},
            **{f"{name}_max": max(getattr(head, f"{name}_max") for head in heads)
               for name in _ERRORS})

    def equals(self, predicted: int | None) -> bool:
        """Whether the hardware's bits are the golden model's, and its cycles those predicted.

        None stands for cycles that nobody predicts.
        """
        return bool(self.total.bit_exact) and predicted in (None, self.total.cycles)

    def to_dict(self) -> dict[str, Any]:
        """Total, and under ``heads`` each head, for JSON."""
        return {**self.total.to_dict(), "heads": [head.to_dict() for head in self.heads]}


def compare(tensors: Tensors, golden: Attention, hardware: "HardwareAttention | None" = None,
            prediction: "Prediction | None" = None) -> Report:
    """Compare answers with the golden model and with exact attention.

    Parameters
    ----------
    tensors
        What was asked.
    golden
        The golden model's answer.
    hardware
        What the hardware answered. None: the answers are the golden model's.
    prediction
        Without hardware, the cycles that the cycle model predicts; None if it does not.
    """
    prepared = golden.prepared
    if not (len(tensors.heads) and len(tensors.queries)):
        raise ValueError("there must be an answer to compare")
    answer = golden if hardware is None else hardware
    # Hardware that differs may have selected anything, even nothing or keys that are not there.
    with np.errstate(invalid="ignore"):
        measures = reference.measure(
            tensors.q, tensors.k, tensors.v, output=answer.output,
            selected=np.minimum(answer.selected, tensors.tokens - 1),
            distances=answer.distances, logit_scale=prepared.logit_scale,
            counts=prepared.counts, rescored=prepared.rescore is not None)
    counted = prediction if hardware is None else hardware
    heads = []
    for index, head in enumerate(tensors.heads):
        mismatch = None if hardware is None else first_mismatch(
            hardware, golden, index, tensors.queries)
        heads.append(HeadPart(
            head=int(head), mismatch=mismatch,
            bit_exact=None if hardware is None else mismatch is None,
            queries=len(tensors.queries), keys=tensors.tokens,
            cycles=None if counted is None else int(counted.head_cycles[index]),
            load_cycles=None if counted is None else _load_share(
                counted.load_cycles, index, prepared.group),
            seconds=None if hardware is None else float(hardware.head_seconds[index]),
            keys_read=float(measures.keys_read[index]),
            recall=float(measures.recall[index]),
            **{name: float(getattr(measures, name).mean[index]) for name in _ERRORS},
            **{f"{name}_max": float(getattr(measures, name).maximum[index])
               for name in _ERRORS}))
    return Report(heads)


def _load_share(load_cycles: NDArray[np.int64], head: int, group: int) -> int:
    """A query head's share of its key head's loading; all shares add up to it."""
    load, place = int(load_cycles[head // group]), head % group
    return load * (place + 1) // group - load * place // group


def show(report: Report, console: Console) -> None:
    """Print the figures of each head and of all as a table."""
    # Not wider than 80 columns, which a terminal would cut.
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    has_cycles = report.total.cycles is not None
    for title in ("head", *(_CYCLES if has_cycles else ()), *_FIGURES):
        table.add_column(title, justify="right", vertical="bottom")
    for head in report.heads:
        table.add_row(str(head.head), *(_cycles(head) if has_cycles else []), *_figures(head))
    table.add_section()
    total = report.total
    table.add_row("all", *(_cycles(total) if has_cycles else []), *_figures(total), style="bold")
    table.add_row("max", *[""] * ((len(_CYCLES) if has_cycles else 0) + 2), *(
        _share(getattr(total, f"{name}_max"), digits) for name, digits in _SHOWN))
    print_table(table, console)
    console.print()
    if math.isnan(total.recall):
        console.print("Recall: none, as no query sees more keys than it selects.\n",
                      soft_wrap=True, highlight=False)


def show_proof(report: Report, console: Console, *, engine: str | None = None,
               predicted: int | None = None) -> None:
    """Print whether the hardware's answers and cycles are those of the models.

    Parameters
    ----------
    report
        Of hardware.
    console
        Where to.
    engine
        What simulated it; None for a device.
    predicted
        Cycles that were predicted, if they were.
    """
    total = report.total
    if engine is not None and total.seconds is not None:
        console.print(
            f"Simulated in {total.seconds:.2f} s: {total.cycles:,} cycles, "
            f"{total.cycles_per_second:,.0f} per second; {engine} engine.", soft_wrap=True,
            highlight=False)
    if predicted is None and engine is not None:
        _show_cycles(report, console)
    if not report.equals(predicted):
        console.print("\nWhat the hardware itself answered:\n", highlight=False)
        show(report, console)
    for head in report.heads:
        if head.mismatch:
            console.print(f"head {head.head}: first difference in {head.mismatch}", soft_wrap=True,
                          markup=False)
    if predicted not in (None, total.cycles):
        console.print(f"Not cycle-exact: the hardware took {total.cycles:,} cycles, and the cycle "
                      f"model predicts {predicted:,}.", style="red", soft_wrap=True,
                      highlight=False)
    if total.bit_exact:
        cycles = "" if predicted != total.cycles else \
            f", and its {total.cycles:,} cycles the cycle model's"
        console.print(f"Bit-exact: the hardware's answers to all {total.queries} queries equal "
                      f"the golden model's{cycles}.", style="green", soft_wrap=True,
                      highlight=False)
    else:
        wrong = sum(not head.bit_exact for head in report.heads)
        console.print(f"Not bit-exact: {wrong} of {len(report.heads)} heads differ from the "
                      f"golden model.", style="red", soft_wrap=True, highlight=False)


def _show_cycles(report: Report, console: Console) -> None:
    """Print the cycles that nobody predicted."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("head", *_CYCLES):
        table.add_column(title, justify="right", vertical="bottom")
    for head in report.heads:
        table.add_row(str(head.head), *_cycles(head))
    table.add_section()
    table.add_row("all", *_cycles(report.total), style="bold")
    console.print()
    print_table(table, console)
    console.print()


def _cycles(part: Part) -> list[str]:
    return [f"{part.cycles:,}", f"{part.load_cycles:,}", f"{part.cycles_per_query:,.1f}"]


def _figures(part: Part) -> list[str]:
    return [_share(part.keys_read), _share(part.recall),
            *(_share(getattr(part, name), digits) for name, digits in _SHOWN)]


def _share(share: float, digits: int = 1) -> str:
    return "none" if math.isnan(share) else f"{share:.{digits}%}"
