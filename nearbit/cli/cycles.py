"""The command `cycles`: latency and interval of a workload."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearbit.cli.accelerators import given_or_default
from nearbit.cli.console import building, console, progress
from nearbit.cli.errors import NOT_BIT_EXACT
from nearbit.cli.options import (
    ConfigOption,
    JsonOption,
    PresetOption,
    SetOption,
)
from nearbit.files import OutputFile


if TYPE_CHECKING:
    from nearbit.workloads import Check, Workload
    from nearbit_model.config import Config
    from nearbit_model.cycles import Phase, Timeline
    from nearbit_model.memory_timing import MemoryTiming


__all__ = ["cycles"]


def cycles(
    keys: Annotated[int, typer.Option(
        "--keys", metavar="L", help="Keys that each query sees.")],
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
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
    memory_latency: Annotated[int | None, typer.Option(
        metavar="CYCLES", help="With a memory: cycles from an address to its first beat, constant "
                               "(default: 100).")] = None,
    memory: Annotated[str | None, typer.Option(
        metavar="sdr16|ddr3|ddr4|hbm2", help="With a memory: also give times with this one.",
        )] = None,
    as_json: JsonOption = False,
) -> None:
    """Predict latency and interval of queries, and the stage that limits them.

    The default preset is 'reference'. The exit status is 1 if --check finds a cycle that differs
    from the prediction, 2 if the input is wrong.
    """
    from nearbit import memory_cycles
    from nearbit import workloads as report
    from nearbit_model.prepare import DEFAULT_N

    accelerator, shown, name = given_or_default(preset, config, settings)
    if n is None:
        n = min(DEFAULT_N, max(1, accelerator.top_n - max(0, sink) - max(0, recent)))
    workload = report.Workload(keys=keys, queries=queries, n=n, sink=sink, recent=recent)
    workload.validate(accelerator, shown)
    if clock is not None:
        report.check_clock(clock)
    timing = memory_cycles.timing_of(accelerator, shown, memory_latency, memory)
    ending = "" if plot is None else report.plot_format(plot)
    drawing = None if plot is None else OutputFile(plot, keep=[config] if config else [])
    if timing is not None:
        _from_memory(accelerator, shown, name, workload, timing, memory, clock,
                     is_checked=is_checked, drawing=drawing, ending=ending, as_json=as_json)
        return

    predicted = report.measure(accelerator, workload)
    found = None
    if is_checked:
        found = _check(accelerator, shown, workload.phases(accelerator, predicted.latency),
                       predicted.timeline)
    if drawing is not None:
        with drawing.write() as path:
            report.plot(path, ending, predicted.timeline)
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
        _tell_of(drawing)
    _end(found)


def _check(config: "Config", shown: str, phases: "list[Phase]", timeline: "Timeline",
           timing: "MemoryTiming | None" = None) -> "Check":
    """Simulate, with a progress bar."""
    from nearbit.workloads import check

    with progress("preparing the hardware") as bar, building(bar, config, shown, "compiled"):
        return check(config, phases, timeline, timing=timing, progress=bar.to(timeline.cycles))


def _tell_of(drawing: OutputFile | None) -> None:
    """Say where the plot is."""
    if drawing is not None:
        console().print(f"\nPlot: {drawing.path}", soft_wrap=True, highlight=False, markup=False)


def _end(found: "Check | None") -> None:
    """Exit with the status of what was found."""
    if found is not None and not found.equal:
        raise typer.Exit(NOT_BIT_EXACT)


def _from_memory(config: "Config", shown: str, name: str | None, workload: "Workload",
                 timing: "MemoryTiming", memory: str | None, clock: float | None, *,
                 is_checked: bool, drawing: OutputFile | None, ending: str, as_json: bool) -> None:
    """Do the same for a configuration with a memory."""
    from nearbit import memory_cycles
    from nearbit import workloads as report

    found = whole = None
    with progress("predicting"):
        predicted = memory_cycles.measure(config, workload, timing)
        if is_checked or drawing is not None:
            whole = memory_cycles.phases_of(config, workload, timing, predicted.latency)
    if whole is not None and is_checked:
        found = _check(config, shown, *whole, timing)
    if whole is not None and drawing is not None:
        with drawing.write() as path:
            report.plot(path, ending, whole[1], memory_cycles.notes(predicted))
    dram = None if memory is None else memory_cycles.dram_times(config, predicted, memory, clock)
    if as_json:
        assert config.memory is not None
        print(json.dumps({
            "preset": name, "config": config.to_dict(), "keys": workload.keys,
            "queries": workload.queries, "n": workload.n, "sink": workload.sink,
            "recent": workload.recent, "memory_latency": timing.latency,
            **predicted.to_dict(config, config.memory),
            **({} if dram is None else {"memory": dram.to_dict(config, config.memory)}),
            **({} if found is None else {"simulated": found.to_dict(), "equal": found.equal}),
        }, indent=2, allow_nan=False))
    else:
        terminal = console()
        memory_cycles.show(config, shown, workload, timing, predicted, dram, terminal)
        if found is not None:
            report.show_check(found, terminal)
        _tell_of(drawing)
    _end(found)
