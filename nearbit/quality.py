"""What `nearbit evaluate` shows: a table and a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from rich.console import Console


__all__ = ["draw", "show", "show_recall"]


_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#666666"


def show(reports: Sequence[Any], title: str, console: "Console") -> None:
    """Print a table with a line for each number of keys.

    Parameters
    ----------
    reports
        Of a decoder or an encoder (:mod:`nearbit_nets.evaluation`), at least one.
    title
        What was run on what.
    console
        Where to.
    """
    from rich.table import Table

    from nearbit.tables import print_table

    first = reports[0].to_dict()
    if "loss" in first:
        what = f"the last {first['scored']} of {first['tokens']} tokens"
        columns = {"loss": "loss", "perplexity": "perplexity", "loss_topn": "with true top",
                   "loss_reference": "baseline"}
    else:
        what = f"{first['passages']} passages, {first['tokens']} tokens"
        columns = {"cosine": "cosine", "cosine_topn": "with true top", "retrieval": "retrieval",
                   "retrieval_topn": "with true top", "retrieval_reference": "baseline"}
    console.print(f"{title}: {what}\n", soft_wrap=True, highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("n", "sink", "recent", *columns.values(), "keys read", "bytes read", "seconds"):
        table.add_column(name, justify="right")
    for report in reports:
        found = report.to_dict()
        table.add_row(
            *(str(found[name]) for name in ("n", "sink", "recent")),
            *("" if found[name] is None else f"{found[name]:.4f}" for name in columns),
            f"{found['keys_touched'] / found['keys_dense']:.2%}",
            f"{found['bytes_read'] / found['bytes_dense']:.2%}", f"{found['seconds']:.1f}")
    print_table(table, console)


def draw(path: Path, ending: str, reports: Sequence[Any]) -> None:
    """Draw loss, or cosine, against the keys that a query selects.

    Parameters
    ----------
    path, ending
        The file, and its format.
    reports
        As for :func:`show`; drawn in the order of their keys.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    from nearbit.report.figures import save, style

    rows = sorted((report.to_dict() for report in reports), key=lambda row: row["n"])
    what = "loss" if "loss" in rows[0] else "cosine"
    keys = [row["n"] + row["sink"] + row["recent"] for row in rows]
    with style():
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(keys, [row[what] for row in rows], "o-", color=_BLUE, label="method")
        if rows[0][f"{what}_topn"] is not None:
            axes.plot(keys, [row[f"{what}_topn"] for row in rows], "s--", color=_ORANGE,
                      label="keys of largest q·k")
        axes.axhline(rows[0].get("loss_reference", 1.0), color=_GREY, linestyle=":",
                     label="the unmodified model")
        axes.set_xscale("log", base=2)
        axes.set_xticks(keys)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.set_xlabel("keys selected by a query")
        axes.set_ylabel("loss, nats a token" if what == "loss"
                        else "mean cosine with the model's embedding")
        axes.legend(frameon=False)
    save(figure, path, ending)


def show_recall(layers: Sequence[int], nearest: Any, selected: Any, steps: Sequence[int],
                console: "Console") -> None:
    """Print what learned codes find, with a line for each layer.

    Parameters
    ----------
    layers
        Which.
    nearest, selected
        Float [layers, heads]: shares of the true top keys (:class:`nearbit_nets.codes.Recall`).
    steps
        Of each layer.
    console
        Where to.
    """
    from rich.table import Table

    from nearbit.tables import print_table

    console.print("Of the 32 keys of largest q.k, on held-out text: the share among the 32 nearest "
                  "by code,\nand the share that 4 sinks, 12 recent keys and the 48 nearest others "
                  "select\n", soft_wrap=True, highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("layer", "nearest 32", "least", "most", "selected", "steps"):
        table.add_column(name, justify="right")
    for layer, near, chosen, made in zip(layers, nearest, selected, steps, strict=True):
        table.add_row(str(layer), *(f"{x:.3f}" for x in (near.mean(), near.min(), near.max(),
                                                         chosen.mean())), str(made))
    table.add_row("all", *(f"{x:.3f}" for x in (nearest.mean(), nearest.min(), nearest.max(),
                                                selected.mean())), str(sum(steps)))
    print_table(table, console)
