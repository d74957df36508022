"""The figures of the report page, as SVG that stands inside a page."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from nearbit.report import HeadPart
from nearbit.report.explain import Maps
from nearbit_model.cycles import Answer, Error


if TYPE_CHECKING:
    from matplotlib.axes import Axes


__all__ = ["draw_heads", "draw_maps", "draw_timeline", "save", "style", "timeline"]


# Of Okabe and Ito's palette, which colour-blind readers tell apart.
_BLUE, _SKY, _ORANGE, _GREY = "#0072b2", "#56b4e9", "#d55e00", "#999999"

_QUERIES = ((_BLUE, "white"), (_ORANGE, "white"), ("#009e73", "white"), (_SKY, "black"),
            ("#cc79a7", "black"), ("#e69f00", "black"))
"""Colours of consecutive queries, and of text on them."""

_STAGES = {"codes": "read codes", "score": "score all keys", "refine": "find the N nearest",
           "merge": "find how near they are", "scan": "find them", "emit": "list them",
           "rows": "read rows", "rescore": "score them exactly", "weigh": "find weights",
           "accumulate": "add up values", "normalize": "divide, give out"}
"""What the stages do, in their order."""

_EACH_QUERY = ("codes", "score", "refine", "merge", "scan", "emit")
"""Stages that each query of a command has for itself; the others are shared."""

_FAINTEST = 1e-3
"""Least weight with a colour of its own."""

_HIDDEN = "#d9d9d9"
"""Colour of tokens that a query may not see."""


@contextmanager
def style() -> Iterator[None]:
    """Whatever the user's own settings are: equal figures give equal bytes."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({
            # Text stays text, in the page's font.
            "svg.fonttype": "none",
            "svg.hashsalt": "nearbit",
            "font.family": "sans-serif",
            "font.size": 9.0,
            "axes.titlesize": 9.5,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "hatch.linewidth": 0.6,
            "legend.frameon": False,
        })
        yield


def save(figure: Figure, path: Path, ending: str) -> None:
    """Write a figure to a file, in the format of that ending."""
    drawn = io.BytesIO()
    with style():
        # Without the date, equal plots are equal files.
        figure.savefig(drawn, format=ending,
                       metadata={"Date": None} if ending in ("svg", "svgz") else None)
    # Not by the library, whose writers of some formats say something else than what is wrong.
    path.write_bytes(drawn.getvalue())


def _svg(figure: Figure, name: str, label: str) -> str:
    """Write a figure for use inside a page: its identifiers begin with a name of its own."""
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(
        stream, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    _, _, drawing = stream.getvalue().partition("<svg ")
    drawing = re.sub(r'\bid="', f'id="{name}-', drawing)
    drawing = re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", drawing)
    return f'<svg role="img" aria-label="{label}" {drawing}'


def draw_heads(heads: Sequence[HeadPart], predicted: NDArray[np.int64],
               covered: Sequence[float]) -> str:
    """Draw the figures of all heads as bars."""
    with style():
        figure = Figure(figsize=(10, 5.8), layout=ConstrainedLayoutEngine(hspace=0.08, wspace=0.04))
        (cycles, recall), (error, rounding) = figure.subplots(2, 2)
        places = np.arange(len(heads))
        loads = np.array([head.load_cycles for head in heads])
        simulated = np.array([head.cycles for head in heads])

        for shift, total, title, colour in ((-0.2, predicted, "predicted", _SKY),
                                            (0.2, simulated, "simulated", _BLUE)):
            cycles.bar(places + shift, loads, 0.36, color="white", edgecolor=colour,
                       hatch="////", linewidth=0.8)
            cycles.bar(places + shift, total - loads, 0.36, bottom=loads, color=colour,
                       edgecolor=colour, linewidth=0.8, label=title)
        cycles.bar(places, np.zeros(len(heads)), color="white", edgecolor=_GREY, hatch="////",
                   label="of these loading")
        cycles.set_title("Clock cycles")
        cycles.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))

        for shift, shares, title, colour in (
                (-0.2, np.nan_to_num([head.recall for head in heads]), "recall of the top N",
                 _BLUE),
                (0.2, covered, "exact attention's weight covered", _SKY)):
            recall.bar(places + shift, shares, 0.36, color=colour, label=title)
        recall.set_title("How much of what matters was selected (more is better)")
        recall.set_ylim(0, 1)

        for axes, name, title in (
                (error, "error_reference", "Error against exact attention (less is better)"),
                (rounding, "error_method", "Part of it from rounding to integers")):
            # A head may have an infinite error, where the exact output is 0.
            means = _finite([getattr(head, name) for head in heads])
            largest = _finite([getattr(head, f"{name}_max") for head in heads])
            axes.bar(places, means, 0.5, color=_BLUE, label="mean of the queries")
            axes.plot(places, largest, linestyle="", marker="D", markersize=4, color=_ORANGE,
                      label="largest", clip_on=False)
            axes.set_title(title)
            axes.set_ylim(bottom=0)
        for axes in (recall, error, rounding):
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        for axes in (cycles, recall, error, rounding):
            axes.grid(axis="y")
            axes.set_xlim(-0.6, len(heads) - 0.4)
            _number(axes, [head.head for head in heads])
            axes.set_xlabel("head")
            # Below, where it hides no bar.
            axes.legend(loc="lower left", bbox_to_anchor=(0, -0.42), ncols=3, fontsize=8,
                        borderaxespad=0, handlelength=1.4, columnspacing=1.2)
        return _svg(figure, "heads", "Bar charts of cycles, recall and errors of each head")


def _finite(numbers: Sequence[float]) -> NDArray[np.float64]:
    array = np.array(numbers)
    return np.where(np.isfinite(array), array, np.nan)


def _number(axes: "Axes", numbers: Sequence[int]) -> None:
    """Name the places of the x axis, as many as there is room for."""
    step = -(-len(numbers) // 24)
    axes.set_xticks(range(0, len(numbers), step), [str(number) for number in numbers[::step]])


def timeline(answers: Sequence[Answer], names: Sequence[str], notes: Sequence[str] = ()
             ) -> Figure:
    """Plot which stage works on which query at which cycle.

    Parameters
    ----------
    answers
        Consecutive answers of a timeline; those that are errors are left out. Cycle 0 is that in
        which the first one's command is offered.
    names
        What to write into the bars of each answer: short.
    notes
        Lines of text above the plot.
    """
    shown = [(answer, name) for answer, name in zip(answers, names, strict=True)
             if answer.error == Error.OK]
    with style():
        figure = Figure(figsize=(10, 3.2 + 0.2 * len(notes)), layout="constrained")
        axes = figure.subplots()
        if notes:
            axes.set_title("\n".join(notes))
        start = min((answer.offered for answer, _ in shown), default=0)
        span = max((answer.end + 1 for answer, _ in shown), default=1) - start
        queries = max((answer.query for answer, _ in shown), default=0) + 1
        stages = [stage for stage in _STAGES if any(stage in answer.stages for answer, _ in shown)]
        # A stage may take a query up before it is done with the one before, whose bar ends there.
        following: dict[tuple[str, int], int] = {}
        for number, (answer, name) in reversed(list(enumerate(shown))):
            colour, ink = _QUERIES[number % len(_QUERIES)]
            for place, stage in enumerate(stages):
                work = answer.stages.get(stage)
                if work is None:
                    continue
                lanes = queries if stage in _EACH_QUERY else 1
                lane = answer.query if lanes > 1 else 0
                end = work.start + len(work)
                length = min(end, following.get((stage, lane), end)) - work.start
                following[stage, lane] = work.start
                height = 0.76 / lanes
                top = place - 0.38 + lane * height
                axes.barh(top, length, left=work.start - start, height=height, align="edge",
                          color=colour, edgecolor="white", linewidth=0.5)
                # A digit takes about a hundredth of the width.
                if lanes <= 2 and length > 0.012 * span * len(name):
                    axes.text(work.start - start + length / 2, top + height / 2, name,
                              ha="center", va="center", color=ink, fontsize=8 if lanes == 1 else 7,
                              fontweight="bold")
        axes.set_yticks(range(len(stages)), [_STAGES[stage] for stage in stages])
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_xlim(0, span)
        axes.set_xlabel("clock cycles since the first query was offered")
        axes.grid(axis="x")
        return figure


def draw_timeline(answers: Sequence[Answer], names: Sequence[str]) -> str:
    """Draw a timeline for the page."""
    with style():
        return _svg(timeline(answers, names), "timeline",
                    "Timeline: which stage works on which query in which clock cycle")


def draw_maps(maps: Maps, head: int) -> str:
    """Draw a head's weights, those of the hardware above those of exact attention."""
    with style():
        rows, columns = maps.shares.shape
        height = min(max(0.025 * rows, 1.2), 2.6)
        figure = Figure(figsize=(10, 2 * height + 1.3), layout="constrained")
        panels = figure.subplots(2, 1, sharex=True, sharey=True)
        # Without its palest tenth, which is hardly seen on white.
        base = matplotlib.colormaps["viridis_r"]
        colours = ListedColormap(base(np.linspace(0.1, 1, 256)))
        scale = LogNorm(_FAINTEST, 1, clip=True)
        hidden = (np.arange(columns) * maps.width)[None] >= maps.seen[:, None]
        edge = columns * maps.width
        for axes, shares, title in (
                (panels[0], maps.shares,
                 "Nearbit: weight of each selected token (white: not selected)"),
                (panels[1], np.where(maps.reference >= _FAINTEST, maps.reference, np.nan),
                 f"Exact attention: weight of each token (white: below {_FAINTEST:.1%})")):
            blank = np.isnan(shares)
            image = colours(scale(np.where(blank, _FAINTEST, shares)))
            image[blank] = 1
            image[blank & hidden] = to_rgba(_HIDDEN)
            # Pixels as they are, a cell each; the browser makes them as large as the page.
            axes.imshow((image * 255).round().astype(np.uint8), aspect="auto",
                        interpolation="none", extent=(0, edge, rows, 0))
            axes.set_title(title)
            axes.set_ylabel("query")
            axes.set_xlim(0, maps.tokens)
            axes.spines[["top", "right"]].set_visible(True)
        panels[1].set_xlabel("token (index of the key)")
        panels[1].xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True))
        ticks = [int(tick) for tick in MaxNLocator(
            5, steps=[1, 2, 5, 10], integer=True).tick_values(0, rows - 1) if 0 <= tick < rows]
        panels[0].set_yticks([tick + 0.5 for tick in ticks],
                             [str(query) for query in maps.queries[ticks]])
        bar = figure.colorbar(ScalarMappable(scale, colours), ax=panels, pad=0.01, fraction=0.03,
                              extend="min", label="share of the query's weight")
        bar.ax.yaxis.set_major_formatter(FuncFormatter(_percent))
        return _svg(figure, f"map-{head}", f"Heat maps of the weights of head {head}")


def _percent(value: Any, _place: Any = None) -> str:
    return f"{100 * value:g}%"
