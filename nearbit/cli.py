"""The command `nearbit`: simulate tensors, predict cycles and area, write Verilog, list presets."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import nearbit
from nearbit import board_commands, failures, network_commands
from nearbit.files import OutputError, OutputFile
from nearbit.streams import say, standard_streams


if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, Task

    from nearbit.tensors import Tensors
    from nearbit_model.config import Config
    from nearbit_model.mapping import Mapping


# Each command imports what it needs: NumPy, Amaranth and what is built on them take a second,
# and `nearbit --help` needs none of it.


__all__ = ["main"]


DEFAULT_PRESET = "reference"
ENGINES = ("compiled", "icarus")
METHODS = ("had", "hash")
DEFAULT_HEAVY = 0.03125
DEFAULT_ALWAYS = 128 # sinks and recent keys, as published for HashAttention
BUILDING = "building the hardware (minutes, once)"

NOT_EXACT = 1
BAD_INPUT = 2
INTERRUPTED = 130


class UserError(Exception):
    """Something that the user can mend; the message is one sentence."""


app = typer.Typer(name="nearbit", invoke_without_command=True, add_completion=False,
                  pretty_exceptions_enable=False,
                  help="Nearbit: an open attention accelerator for long contexts.")

PresetOption = Annotated[str | None, typer.Option(
    "--preset", metavar="NAME", help=(
        "A preset or a board; 'nearbit presets' and 'nearbit boards' list them."))]
ConfigOption = Annotated[Path | None, typer.Option(
    "--config", metavar="FILE.toml", help="A configuration of your own.")]


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print(f"nearbit {nearbit.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option(
        "--version", callback=_show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def simulate(
    file: Annotated[Path, typer.Argument(metavar="FILE.npz", help=(
        "Float arrays q (heads, queries, head_dim) and k, v (kv heads, tokens, head_dim); "
        "optional: qpos, causal, temperature. Or a .safetensors file."))],
    preset: PresetOption = None,
    config: ConfigOption = None,
    engine: Annotated[str, typer.Option(
        metavar="|".join(ENGINES),
        help="The design compiled to C++, or Icarus Verilog with cocotb (slow).")] = ENGINES[0],
    heads: Annotated[str | None, typer.Option(
        metavar="LIST", help="Which heads: 0,2 or 0-3 or 5:10 (10 not included).")] = None,
    queries: Annotated[str | None, typer.Option(
        metavar="LIST", help="Which queries, likewise; 0:64:8 is every eighth.")] = None,
    method: Annotated[str, typer.Option(
        metavar="|".join(METHODS), help=(
            "had: weights by distance. hash: codes choose the keys, exact scores weight them."),
        )] = METHODS[0],
    codes: Annotated[str | None, typer.Option(
        metavar="FILE|KIND", help=(
            "With --method hash, the mapping to codes: a .safetensors file, or sign (the default), "
            "hadamard, random."))] = None,
    top_n: Annotated[int | None, typer.Option(
        metavar="N", help=(
            "Keys selected by distance (default: 32, or as many as fit; with --method hash as "
            "--heavy says)."))] = None,
    heavy: Annotated[float | None, typer.Option(
        metavar="SHARE", help=(
            f"The same as a share of all keys, with --method hash (default: {DEFAULT_HEAVY})."),
        )] = None,
    sink: Annotated[int | None, typer.Option(
        metavar="S", help=f"First keys, selected always (default: 0; hash: {DEFAULT_ALWAYS}).",
        )] = None,
    recent: Annotated[int | None, typer.Option(
        metavar="R", help=f"Last keys, selected always (default: 0; hash: {DEFAULT_ALWAYS}).",
        )] = None,
    is_dense: Annotated[bool, typer.Option(
        "--dense", help=(
            "Select every key; with --method hash that is exact attention, in the hardware's "
            "integers."))] = False,
    shared: Annotated[bool, typer.Option(
        "--shared", help=(
            "With --method hash, one selection for all heads of a group, by the sum of their "
            "distances."))] = False,
    rotate: Annotated[bool, typer.Option(
        "--rotate/--no-rotate", help=(
            "Rotate value rows into a basis without outliers before they become integers, and "
            "outputs back: less error. Without, integers are those of v itself."))] = True,
    out: Annotated[Path | None, typer.Option(
        metavar="FILE.npz", help="Write outputs, selected keys, distances and weights.")] = None,
    vcd: Annotated[Path | None, typer.Option(
        metavar="FILE.vcd", help="Write waveforms.")] = None,
    report_folder: Annotated[Path | None, typer.Option(
        "--report", metavar="DIR", help=(
            "Write DIR/report.html: figures and plots, and which tokens each answer comes "
            "from."))] = None,
    as_json: Annotated[bool, typer.Option(
        "--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Run attention tensors through the hardware; compare with golden model and exact attention.

    Without --preset and --config, the smallest preset that fits is taken. The exit status is 0 if
    every bit equals the golden model's, 1 if one does not, 2 if the input is wrong.
    """
    import numpy as np

    from nearbit import indices
    from nearbit.files import output_folder
    from nearbit.report import compare, show
    from nearbit.tensors import Tensors
    from nearbit_model.attention import attention
    from nearbit_sim.simulation import predict

    for option, value, least in (("--top-n", top_n, 1), ("--sink", sink, 0),
                                 ("--recent", recent, 0)):
        if value is not None and value < least:
            raise UserError(f"{option} must be at least {least}, not {value}")
    for option, given, choices in (("--engine", engine, ENGINES), ("--method", method, METHODS)):
        if given not in choices:
            raise UserError(f"{option} must be {' or '.join(choices)}, not {given!r}")
    _check_method(method, {"--codes": codes is not None, "--heavy": heavy is not None,
                           "--shared": shared})
    accelerator, name = _given(preset, config)
    tensors = Tensors.load(file)
    top_n, sink, recent = _selection(method, tensors.tokens, top_n, heavy, sink, recent,
                                     is_dense=is_dense)
    mapping = None if method == "had" else _mapping(codes, tensors, accelerator)
    if accelerator is None:
        accelerator, name = _smallest(file, tensors, top_n, sink, recent, mapping,
                                      shared=shared)
    chosen = tensors.select(
        None if heads is None else indices.parse(heads, len(tensors.heads), "--heads"),
        None if queries is None else indices.parse(queries, len(tensors.queries), "--queries"))
    if mapping is not None:
        mapping = mapping.choose(chosen.heads.tolist(), chosen.kv_heads.tolist())

    inputs = [file, *(Path(each) for each in (config, codes) if each is not None)]
    with ExitStack() as folders:
        # A name that cannot be written is found out now, not after minutes.
        page = None
        if report_folder is not None:
            folders.enter_context(output_folder(report_folder))
            page = OutputFile(report_folder / "report.html", inputs)
        results = None if out is None else OutputFile(out, inputs, [page])
        waveforms = None if vcd is None else OutputFile(vcd, inputs, [page, results])

        with ExitStack() as stack:
            vcd_path = None if waveforms is None else stack.enter_context(waveforms.write())
            bar = stack.enter_context(_progress("computing the golden model"))
            asked: dict[str, Any] = {
                "n": top_n, "sink": sink, "recent": recent, "causal": chosen.causal,
                "qpos": chosen.qpos, "temperature": chosen.temperature, "rotate": rotate,
                "method": method, "mapping": mapping, "shared": shared}
            try:
                golden = attention(chosen.q, chosen.k, chosen.v, accelerator, **asked)
            except ValueError as error:
                raise UserError(f"{file}: {error}") from None
            _say_notes(file, tensors)
            prediction = predict(golden.prepared)
            bar.say(BUILDING)
            hardware = nearbit.simulate(
                chosen.q, chosen.k, chosen.v, accelerator, **asked, engine=engine, vcd=vcd_path,
                progress=bar.to(prediction.cycles))

        report = compare(chosen, golden, hardware)
        if results is not None:
            arrays: dict[str, Any] = {name: getattr(hardware, name) for name in (
                "output", "output_int", "selected", "origins", "distances", "scores", "weights")
                if getattr(hardware, name) is not None}
            with results.write() as path, path.open("wb") as stream:
                np.savez_compressed(stream, **arrays, heads=chosen.heads, queries=chosen.queries)
        if page is not None:
            from nearbit.page import render

            with page.write() as path:
                path.write_text(
                    render(str(file), f"preset {name}" if name else str(config), chosen, report,
                           hardware, prediction, _codes(codes, mapping)),
                    # Names of files need not be text.
                    encoding="utf-8", errors="backslashreplace", newline="\n")

    if as_json:
        prepared = golden.prepared
        print(json.dumps({
            "file": str(file), "method": method, "codes": None if mapping is None else mapping.kind,
            "shared": shared, "engine": engine, "preset": name, "config": accelerator.to_dict(),
            "n": prepared.n, "sink": sink, "recent": recent, "causal": chosen.causal,
            "rotate": rotate, "build_seconds": hardware.build_seconds, **report.to_dict()},
            indent=2, allow_nan=False))
    else:
        prepared = golden.prepared
        console = _console()
        kv_heads = len(chosen.k)
        groups = "" if kv_heads == len(chosen.q) else f" on {kv_heads} key heads"
        console.print(
            f"{file}: {_count(len(chosen.q), 'head')}{groups}, "
            f"{_count(len(chosen.queries), 'query', 'queries')} each, {chosen.tokens} keys of "
            f"{accelerator.key_bits} bits{', causal' if chosen.causal else ''}\n"
            f"{_describe(method, mapping, shared=shared)}"
            f"{f'preset {name}' if name else config}: n {prepared.n}, sink {sink}, "
            f"recent {recent}; {engine} engine\n", highlight=False, soft_wrap=True,
            markup=False)
        show(report, console)
        if report_folder is not None:
            console.print(f"Report: {report_folder / 'report.html'}", soft_wrap=True,
                          highlight=False, markup=False)
    if not report.total.bit_exact:
        raise typer.Exit(NOT_EXACT)


@app.command()
def verilog(
    directory: Annotated[Path, typer.Option(
        "-o", "--output", metavar="DIR", help="Where to write; made if it is not there.")],
    preset: PresetOption = None,
    config: ConfigOption = None,
    interface: Annotated[str, typer.Option(
        metavar="stream|axi|wishbone", help=(
            "What it connects to: streams as they are, or for a system on chip registers on "
            "AXI4-Lite or Wishbone, and AXI4-Stream."))] = "stream",
    cell: Annotated[str | None, typer.Option(
        metavar="generic|ecp5|ice40|xilinx7", help=(
            "The device for whose logic to write the XOR-popcount (default: what the "
            "configuration says, else generic)."))] = None,
    name: Annotated[str, typer.Option(
        metavar="NAME", help=(
            "Takes the place of 'nearbit' in the names of modules, files and C symbols, so that "
            "several cores can be in one design."))] = "nearbit",
    no_initial: Annotated[bool, typer.Option(
        "--no-initial", help=(
            "Registers and memories have no initial values: reset does all. For ASICs, and FPGAs "
            "such as PolarFire."))] = False,
    vhdl: Annotated[bool, typer.Option(
        "--vhdl", help=(
            "Write a VHDL component declaration, too; port names have single underscores."))
        ] = False,
) -> None:
    """Generate Verilog: DIR/nearbit.v, and DIR/nearbit.toml with the configuration.

    With --interface axi or wishbone also a core file for FuseSoC, the register map, a driver in C
    and an example; DIR/README.md lists them. The same byte for byte on each run. Without --preset
    and --config, it is the preset 'reference'.
    """
    from nearbit.soc import bundle

    bundle.check(interface, name)
    accelerator, _ = _given(preset, config)
    if accelerator is None:
        accelerator, _ = _preset(DEFAULT_PRESET)
    if cell is not None:
        accelerator = accelerator.replace(cell=cell)
    with _progress("generating Verilog"):
        written = bundle.write(directory, accelerator, interface, name=name,
                               initial=not no_initial, vhdl=vhdl, source=config)
    for path in written:
        print(path)


@app.command()
def cycles(
    keys: Annotated[int, typer.Option(
        "--keys", metavar="L", help="Keys that each query sees.")],
    preset: PresetOption = None,
    config: ConfigOption = None,
    queries: Annotated[int, typer.Option(
        metavar="M", help="Queries to simulate with --check.")] = 64,
    top_n: Annotated[int | None, typer.Option(
        "--n", metavar="N", help="Keys selected by distance (default: 32, or as many as fit).",
        )] = None,
    sink: Annotated[int, typer.Option(
        metavar="S", help="First keys, selected always.")] = 0,
    recent: Annotated[int, typer.Option(
        metavar="R", help="Last keys, selected always.")] = 0,
    is_checked: Annotated[bool, typer.Option(
        "--check", help="Simulate as well, and compare every cycle.")] = False,
    clock: Annotated[float | None, typer.Option(
        metavar="MHZ", help=(
            "Give times and queries per second at this clock, too. Presets have no clock of "
            "their own."))] = None,
    plot: Annotated[Path | None, typer.Option(
        metavar="FILE.svg", help="Draw which stage works on which query at which cycle.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Predict latency and interval of queries, and say which stage limits them.

    Without --preset and --config, it is the preset 'reference'. The exit status is 1 if --check
    finds a cycle that is not as predicted, 2 if the input is wrong.
    """
    from nearbit import cycles as report
    from nearbit_model.prepare import DEFAULT_N

    accelerator, name = _given(preset, config)
    if accelerator is None:
        accelerator, name = _preset(DEFAULT_PRESET)
    shown = f"preset {name}" if name else str(config)
    if top_n is None:
        top_n = min(DEFAULT_N, max(1, accelerator.top_n - max(0, sink) - max(0, recent)))
    workload = report.Workload(keys=keys, queries=queries, n=top_n, sink=sink, recent=recent)
    workload.validate(accelerator, shown)
    if clock is not None:
        report.check_clock(clock)
    ending = "" if plot is None else report.plot_format(plot)
    drawing = None if plot is None else OutputFile(plot, keep=[config] if config else [])

    predicted = report.measure(accelerator, workload)
    found = None
    if is_checked:
        with _progress(BUILDING) as bar:
            found = report.check(accelerator, workload, predicted,
                                 progress=bar.to(predicted.timeline.cycles))
    if drawing is not None:
        with drawing.write() as path:
            report.plot(path, ending, predicted)
    if as_json:
        print(json.dumps({
            "preset": name, "config": accelerator.to_dict(), "keys": keys, "queries": queries,
            "n": top_n, "sink": sink, "recent": recent, **predicted.to_dict(),
            **({} if clock is None else predicted.at_clock(clock)),
            **({} if found is None else {"simulated": found.to_dict(), "equal": found.equal}),
        }, indent=2, allow_nan=False))
    else:
        console = _console()
        report.show(accelerator, shown, workload, predicted, found, console, clock)
        if plot is not None:
            console.print(f"\nPlot: {plot}", soft_wrap=True, highlight=False, markup=False)
    if found is not None and not found.equal:
        raise typer.Exit(NOT_EXACT)


@app.command()
def area(
    target: Annotated[str, typer.Option(
        metavar="ecp5|ice40|up5k|xc7", help="The family of devices.")] = "ecp5",
    preset: PresetOption = None,
    config: ConfigOption = None,
    is_checked: Annotated[bool, typer.Option(
        "--check", help="Synthesize as well (minutes), and compare.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Estimate logic, flip-flops, block RAMs and multipliers of each block on a device.

    Without --preset and --config, it is the preset 'reference'. The exit status is 2 if the input
    is wrong.
    """
    from nearbit import area as report

    accelerator, name = _given(preset, config)
    if accelerator is None:
        accelerator, name = _preset(DEFAULT_PRESET)
    found = report.estimate(accelerator, target)
    checked = None
    if is_checked:
        with _progress("synthesizing (minutes)"):
            checked = report.check(accelerator, target)
    if as_json:
        print(json.dumps({
            "preset": name, "config": accelerator.to_dict(), **found.to_dict(),
            **({} if checked is None else {"synthesized": checked.to_dict()}),
        }, indent=2, allow_nan=False))
    else:
        report.show(f"preset {name}" if name else str(config), accelerator, found, checked,
                    _console())


@app.command()
def presets(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the presets, smallest first."""
    from rich.table import Table

    from nearbit_model.config import PRESETS

    if as_json:
        print(json.dumps({name: config.to_dict() for name, config in PRESETS.items()}, indent=2))
        return
    fields = ("key_bits", "value_dim", "capacity", "rows", "lanes", "value_lanes", "top_n",
              "tables")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("preset", style="bold")
    for field in (*fields, "memory KiB", "exact scores"):
        table.add_column(field, justify="right")
    for name, config in PRESETS.items():
        table.add_row(name, *(str(getattr(config, field)) for field in fields),
                      f"{config.memory_bits / 8192:,.0f}" if config.memory_bits >= 81920
                      else f"{config.memory_bits / 8192:.2f}", _exact_scores(config))
    _console().print(table)


board_commands.add_commands(app)
network_commands.add_commands(app)


def _exact_scores(config: "Config") -> str:
    """Name the unit for exact scores in the list of presets."""
    unit = config.rescore
    return "" if unit is None else (f"{unit.head_dim} x {unit.element_bits} bits"
                                    f"{', shared' if unit.shared else ''}")


def _console(is_error: bool = False) -> "Console":
    """Make a console that does not break lines at 80 columns where nobody sees them."""
    from rich.console import Console

    stream = sys.stderr if is_error else sys.stdout
    return Console(stderr=is_error, width=None if stream.isatty() else 120)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _describe(method: str, mapping: "Mapping | None", *, shared: bool) -> str:
    """Say in the line of conditions what is not the usual."""
    if method == "had":
        return ""
    kind = "sign" if mapping is None else mapping.kind
    return f"method {method}, codes {kind}{', shared' if shared else ''}, "


def _codes(given: str | None, mapping: "Mapping | None") -> str:
    """Say where codes come from that are not the signs of queries and keys."""
    if mapping is None or mapping.kind == "sign":
        return ""
    return mapping.kind if given == mapping.kind else f"{mapping.kind}, of {given}"


def _check_method(method: str, given: dict[str, bool]) -> None:
    """Refuse options that have no meaning with the method."""
    for option, is_given in given.items():
        if is_given and method != "hash":
            raise UserError(f"{option} needs --method hash")


def _selection(method: str, tokens: int, n: int | None, heavy: float | None, sink: int | None,
               recent: int | None, *, is_dense: bool) -> tuple[int | None, int, int]:
    """How many keys to select by distance, and always: as asked, or the method's defaults."""
    from nearbit_model.mapping import heavy_budget

    if is_dense:
        for option, value in (("--top-n", n), ("--heavy", heavy), ("--sink", sink),
                              ("--recent", recent)):
            if value is not None:
                raise UserError(f"--dense and {option} exclude each other; give one of them")
        return tokens, 0, 0
    if n is not None and heavy is not None:
        raise UserError("--top-n and --heavy exclude each other; give one of them")
    always = DEFAULT_ALWAYS if method == "hash" else 0
    if method == "hash" and n is None:
        share = DEFAULT_HEAVY if heavy is None else heavy
        if not 0 < share <= 1:
            raise UserError(f"--heavy must be greater than 0 and at most 1, not {share:g}")
        n = heavy_budget(tokens, share)
    return n, always if sink is None else sink, always if recent is None else recent


def _mapping(codes: str | None, tensors: "Tensors", accelerator: "Config | None") -> "Mapping":
    """The mapping that --codes names."""
    from nearbit_model.mapping import Mapping

    heads, kv_heads, head_dim = len(tensors.q), len(tensors.k), tensors.head_dim
    bits = head_dim if accelerator is None else accelerator.key_bits
    match codes:
        case None | "sign":
            return Mapping.sign(head_dim, heads=heads, kv_heads=kv_heads)
        case "hadamard":
            return Mapping.hadamard(bits, head_dim, heads=heads, kv_heads=kv_heads)
        case "random":
            return Mapping.random(bits, head_dim, heads=heads, kv_heads=kv_heads)
        case _:
            if not codes or ("." not in codes and not Path(codes).exists()):
                raise UserError(f"--codes must be sign, hadamard, random or a .safetensors file, "
                                f"not {codes!r}")
            mapping = Mapping.load(codes)
            if (mapping.heads, mapping.kv_heads, mapping.head_dim) != (heads, kv_heads, head_dim):
                raise UserError(
                    f"{codes}: the mapping is for q [{mapping.heads}, queries, "
                    f"{mapping.head_dim}] and k [{mapping.kv_heads}, tokens, {mapping.head_dim}], "
                    f"but the tensors are q {list(tensors.q.shape)} and k "
                    f"{list(tensors.k.shape)}; take the one made for this model and layer")
            return mapping


def _given(preset: str | None, path: Path | None) -> "tuple[Config | None, str | None]":
    """The configuration that options name, and the preset's name; None if they name none."""
    from nearbit_model.config import Config

    if preset is not None and path is not None:
        raise UserError("--preset and --config exclude each other; give one of them")
    if path is not None:
        return Config.load(path), None
    return (None, None) if preset is None else _preset(preset)


def _preset(name: str) -> "tuple[Config, str]":
    from nearbit_model.config import PRESETS, Config

    if name not in PRESETS:
        from nearbit_boards.boards import BOARDS

        if name in BOARDS:
            return BOARDS[name].config, name
    return Config.preset(name), name


def _smallest(file: Path, tensors: "Tensors", n: int | None, sink: int, recent: int,
              mapping: "Mapping | None", *, shared: bool) -> "tuple[Config, str]":
    """The smallest preset that fits tensors and options."""
    from nearbit_model.config import fitting_preset
    from nearbit_model.prepare import DEFAULT_N

    # Where n is left open, a preset with room for the usual number is better than one without.
    wishes = (DEFAULT_N, 1) if n is None else (n,)
    for wish in wishes:
        name = fitting_preset(
            tensors.head_dim, tensors.value_dim, tensors.tokens, wish + sink + recent,
            key_bits=None if mapping is None else mapping.bits, rescore=mapping is not None,
            shared=len(tensors.q) // len(tensors.k) if shared else 0)
        if name is not None:
            return _preset(name)
    raise UserError(
        f"{file}: no preset{'' if mapping is None else ' with exact scores'}"
        f"{' for a shared selection' if shared else ''} fits heads of {tensors.head_dim} elements, "
        f"{'' if mapping is None else f'codes of {mapping.bits} bits, '}value rows of "
        f"{tensors.value_dim}, {tensors.tokens} tokens and n + sink + recent of "
        f"{wishes[-1] + sink + recent}; describe an accelerator that does in a TOML file and "
        f"give it with --config")


def _say_notes(file: Path, tensors: "Tensors") -> None:
    """Say what one might not expect of a tensor file, once nothing else is wrong."""
    for note in tensors.notes:
        say(f"{file}: {note}")


class _Bar:
    """What is done now, on a terminal; in a simulation, how far it is and how long it will take."""

    def __init__(self, progress: "Progress", doing: str) -> None:
        self._progress = progress
        self._task = progress.add_task(doing, total=None)

    def say(self, doing: str) -> None:
        """Show what is done now, without an estimate."""
        self._progress.reset(self._task, total=None, description=doing)

    def to(self, cycles: int) -> Callable[[int, int, int], None]:
        """Give a function that shows a simulation's way to so many cycles, as engines call it."""
        def move(cycle: int, _done: int, _total: int) -> None:
            if self._progress.tasks[0].total is None:
                # Only what is simulated counts for the time left.
                self._progress.reset(self._task, total=cycles)
            self._progress.update(self._task, completed=cycle,
                                  description=f"simulating: cycle {cycle:,}")

        return move


@contextmanager
def _progress(doing: str) -> Iterator[_Bar]:
    """Show a bar on a terminal, and nothing elsewhere."""
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.text import Text

    class TimeLeftColumn(ProgressColumn):
        max_refresh = 0.5

        def render(self, task: "Task") -> Text:
            seconds = task.time_remaining
            return Text("" if seconds is None else f"{timedelta(seconds=int(seconds))} left")

    console = _console(is_error=True)
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20),
                  TaskProgressColumn(), TimeElapsedColumn(), TimeLeftColumn(), console=console,
                  transient=True, disable=not console.is_terminal) as progress:
        yield _Bar(progress, doing)


def _user_errors() -> tuple[type[Exception], ...]:
    """The exceptions whose message is one sentence for the user."""
    from nearbit.area import AreaError
    from nearbit.cycles import WorkloadError
    from nearbit.indices import IndexListError
    from nearbit.soc.bundle import InterfaceError
    from nearbit_boards.board import BoardError
    from nearbit_boards.transport import DeviceError
    from nearbit_model.config import ConfigError
    from nearbit_model.mapping import MappingError
    from nearbit_model.prepare import TensorError
    from nearbit_nets.errors import NetworkError
    from nearbit_sim.program import SimulationError

    return (typer.TyperException, UserError, AreaError, OutputError, IndexListError, ConfigError,
            InterfaceError, MappingError, NetworkError, TensorError, SimulationError, WorkloadError,
            BoardError, DeviceError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status; what goes wrong is one sentence."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    with standard_streams() as is_open:
        try:
            if not is_open:
                raise OutputError("standard output is closed; send it to a file, or to /dev/null")
            status = _run(given)
            sys.stdout.flush()
            return status
        except KeyboardInterrupt:
            status, sentence = INTERRUPTED, "interrupted"
        except BaseException as error:
            status, sentence = _explain(error, given)
        say(sentence)
        return status


def _run(arguments: Sequence[str]) -> int:
    """Run the command; not by Typer's own main, which ends the process where a pipe breaks."""
    command = typer.main.get_command(app)
    try:
        _check_names(command, arguments)
        with command.make_context("nearbit", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as end:
        return int(end.exit_code)
    return 0


def _check_names(command: Any, arguments: Sequence[str]) -> None:
    """Refuse an empty name of a file, which would be this folder: a shell variable is not set."""
    for parameter in getattr(command.commands.get(next(iter(arguments), "")), "params", ()):
        if re.fullmatch(r"DIR|FILE(\.\w+)?", parameter.metavar or ""):
            for option in parameter.opts:
                if f"{option}=" in arguments or (option, "") in pairwise(arguments):
                    raise UserError(f"{option} is empty; give it a name")


def _explain(error: BaseException, arguments: Sequence[str]) -> tuple[int, str]:
    """Give the status and the sentence of an exception."""
    try:
        if isinstance(error, typer.TyperException):
            return BAD_INPUT, error.format_message()
        if isinstance(error, _user_errors()):
            return BAD_INPUT, str(error)
        sentence = failures.of_the_machine(error)
        if sentence is not None:
            return BAD_INPUT, sentence
        return failures.FAULT, failures.report(error, arguments)
    except KeyboardInterrupt:
        return INTERRUPTED, "interrupted"
    except Exception:
        # Of the two, the first says more.
        return failures.FAULT, failures.report(error, arguments)
