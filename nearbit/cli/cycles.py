"""The command `cycles`: latency and interval of a workload."""

import json
from pathlib import Path
from typing import Annotated

import typer

from nearbit.cli.accelerators import given_or_default
from nearbit.cli.console import BUILDING, console, progress
from nearbit.cli.errors import NOT_BIT_EXACT
from nearbit.cli.options import (
    ConfigOption,
    JsonOption,
    PresetOption,
)
from nearbit.files import OutputFile


__all__ = ["cycles"]


def cycles(
    keys: Annotated[int, typer.Option(
        "--keys", metavar="L", help="Keys that each query sees.")],
    preset: PresetOption = None,
    config: ConfigOption = None,
    queries: Annotated[int, typer.Option(
        metavar="M", help="Queries to simulate with --check.")] = 64,
    n: Annotated[int | None, typer.Option(
        "--n", metavar="N", help="Keys selected by distance (default: 32, or as many as fit).",
        )] = None,
    sink: Annotated[int, typer.Option(
        metavar="S", help="Always select the first S keys.")] = 0,
    recent: Annotated[int, typer.Option(
        metavar="R", help="Always select the last R keys.")] = 0,
    is_checked: Annotated[bool, typer.Option(
        "--check", help="Also simulate, and compare every cycle.")] = False,
    clock: Annotated[float | None, typer.Option(
        metavar="MHZ", help=(
            "Also give times and queries per second at this clock. Presets do not define a "
            "clock."))] = None,
    plot: Annotated[Path | None, typer.Option(
        metavar="FILE.svg", help="Draw which stage works on which query in each cycle.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict latency and interval of queries, and the stage that limits them.

    The default preset is 'reference'. The exit status is 1 if --check finds a cycle that differs
    from the prediction, 2 if the input is wrong.
    """
    from nearbit import cycles as report
    from nearbit_model.prepare import DEFAULT_N

    accelerator, shown, name = given_or_default(preset, config)
    if n is None:
        n = min(DEFAULT_N, max(1, accelerator.top_n - max(0, sink) - max(0, recent)))
    workload = report.Workload(keys=keys, queries=queries, n=n, sink=sink, recent=recent)
    workload.validate(accelerator, shown)
    if clock is not None:
        report.check_clock(clock)
    ending = "" if plot is None else report.plot_format(plot)
    drawing = None if plot is None else OutputFile(plot, keep=[config] if config else [])

    predicted = report.measure(accelerator, workload)
    found = None
    if is_checked:
        with progress(BUILDING) as bar:
            found = report.check(accelerator, workload, predicted,
                                 progress=bar.to(predicted.timeline.cycles))
    if drawing is not None:
        with drawing.write() as path:
            report.plot(path, ending, predicted)
    if as_json:
        print(json.dumps({
            "preset": name, "config": accelerator.to_dict(), "keys": keys, "queries": queries,
            "n": n, "sink": sink, "recent": recent, **predicted.to_dict(),
            **({} if clock is None else predicted.at_clock(clock)),
            **({} if found is None else {"simulated": found.to_dict(), "equal": found.equal}),
        }, indent=2, allow_nan=False))
    else:
        terminal = console()
        report.show(accelerator, shown, workload, predicted, found, terminal, clock)
        if plot is not None:
            terminal.print(f"\nPlot: {plot}", soft_wrap=True, highlight=False, markup=False)
    if found is not None and not found.equal:
        raise typer.Exit(NOT_BIT_EXACT)
