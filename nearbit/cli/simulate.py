"""The command `simulate`: attention tensors through the hardware."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearbit import indices
from nearbit.cli import memory
from nearbit.cli.accelerators import configured, given, smallest
from nearbit.cli.console import building, console, count, progress, say_notes
from nearbit.cli.errors import NOT_BIT_EXACT, UserError
from nearbit.cli.options import (
    DEFAULT_ALWAYS,
    DEFAULT_HEAVY,
    ConfigOption,
    Engine,
    HeadsOption,
    MemoryLatencyOption,
    MemoryLatencyToOption,
    MemoryOutstandingOption,
    MemoryPaceOption,
    MemoryPauseOption,
    MemoryReorderOption,
    MemorySeedOption,
    MemorySharedPaceOption,
    Method,
    PresetOption,
    QueriesOption,
    SetOption,
    check_selection,
    selection,
)
from nearbit.files import OutputFile, output_folder


if TYPE_CHECKING:
    from nearbit.report import Report
    from nearbit.tensors import Tensors
    from nearbit_model.attention import Attention
    from nearbit_model.config import Config
    from nearbit_model.mapping import Mapping
    from nearbit_model.memory_timing import MemoryTiming
    from nearbit_model.transfers.attention import HardwareAttention, MemoryUse
    from nearbit_model.transfers.plan import Plan, Prediction


__all__ = ["simulate"]


def simulate(
    file: Annotated[Path, typer.Argument(metavar="FILE.npz", help=(
        "Float arrays q (heads, queries, head_dim) and k, v (kv heads, tokens, head_dim); "
        "optional: qpos, causal, logit_scale. Or a .safetensors file."))],
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    engine: Annotated[Engine, typer.Option(
        help=(
            "compiled: the design as C++. icarus: Icarus Verilog with cocotb (slow). golden: no "
            "hardware; answers and cycles are those of the models, which the hardware equals."),
        )] = Engine.COMPILED,
    heads: HeadsOption = None,
    queries: QueriesOption = None,
    method: Annotated[Method, typer.Option(help=(
        "had: weights by distance. hash: codes select the keys, dot-product scores weight them."),
        )] = Method.HAD,
    codes: Annotated[str | None, typer.Option(
        metavar="FILE|KIND", help=(
            "With --method hash, the mapping to codes: a .safetensors file, or sign (the default), "
            "hadamard, random."))] = None,
    n: Annotated[int | None, typer.Option(
        metavar="N", help=(
            "Keys selected by distance (default: 32, or as many as fit; with --method hash, see "
            "--heavy)."))] = None,
    heavy: Annotated[float | None, typer.Option(
        metavar="SHARE", help=(
            f"With --method hash, the same as a fraction of all keys (default: {DEFAULT_HEAVY})."),
        )] = None,
    sink: Annotated[int | None, typer.Option(
        metavar="S", help=f"Always select the first S keys (default: 0; hash: {DEFAULT_ALWAYS}).",
        )] = None,
    recent: Annotated[int | None, typer.Option(
        metavar="R", help=f"Always select the last R keys (default: 0; hash: {DEFAULT_ALWAYS}).",
        )] = None,
    is_dense: Annotated[bool, typer.Option(
        "--dense", help=(
            "Select every key; with --method hash, this is exact attention in the hardware's "
            "integers."))] = False,
    shared: Annotated[bool, typer.Option(
        "--shared", help=(
            "With --method hash, one selection for all heads of a group, by the sum of their "
            "distances."))] = False,
    rotate: Annotated[bool, typer.Option(
        "--rotate/--no-rotate", help=(
            "Rotate value vectors into a basis without outliers before quantization, and rotate "
            "outputs back, which lowers the error. Without rotation, the integers are those of v "
            "itself."))] = True,
    memory_latency: MemoryLatencyOption = None,
    memory_latency_to: MemoryLatencyToOption = None,
    memory_pace: MemoryPaceOption = None,
    memory_shared_pace: MemorySharedPaceOption = False,
    memory_outstanding: MemoryOutstandingOption = None,
    memory_reorder: MemoryReorderOption = False,
    memory_pause: MemoryPauseOption = None,
    memory_seed: MemorySeedOption = None,
    out: Annotated[Path | None, typer.Option(
        metavar="FILE.npz", help="Write outputs, selected keys, distances and weights.")] = None,
    vcd: Annotated[Path | None, typer.Option(
        metavar="FILE.vcd", help="Write waveforms.")] = None,
    report_folder: Annotated[Path | None, typer.Option(
        "--report", metavar="DIR", help=(
            "Write DIR/report.html: figures, plots, and the tokens behind each answer."))] = None,
    as_json: Annotated[bool, typer.Option(
        "--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Show answers and cycles by the models, then prove both on the simulated hardware.

    The table is that of the golden model and the cycle model, and is there in seconds. Then the
    hardware is built and run, and every bit and the cycles are compared. Without --preset and
    --config, the smallest preset that fits is used. The exit status is 0 if all is equal, 1 if
    anything differs, 2 if the input is wrong.
    """
    from nearbit.report import compare
    from nearbit.tensors import Tensors
    from nearbit_model.attention import attend
    from nearbit_model.prepare import prepare
    from nearbit_model.transfers import Plan

    _check_engine(engine, {"--vcd": vcd is not None, "--report": report_folder is not None})
    check_selection(n, sink, recent)
    _check_method(method, {"--codes": codes is not None, "--heavy": heavy is not None,
                           "--shared": shared})
    named = given(preset, config, settings)
    tensors = Tensors.load(file)
    n, sink, recent = selection(method, tensors.tokens, n, heavy, sink, recent, is_dense=is_dense)
    mapping = None if method == Method.HAD else _mapping(codes, tensors, named and named.config)
    accelerator, shown, name = named or configured(
        smallest(file, tensors, n, sink, recent, mapping, shared=shared), settings)
    timing = memory.timing_of(
        accelerator, latency=memory_latency, latency_to=memory_latency_to, pace=memory_pace,
        shared_pace=memory_shared_pace, outstanding=memory_outstanding, reorder=memory_reorder,
        pause=memory_pause, seed=memory_seed)
    chosen = _choose(tensors, heads, queries)
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

        with progress("computing the golden model"):
            try:
                prepared = prepare(
                    chosen.q, chosen.k, chosen.v, accelerator, n=n, sink=sink, recent=recent,
                    causal=chosen.causal, qpos=chosen.qpos, logit_scale=chosen.logit_scale,
                    rotate=rotate, method=str(method), mapping=mapping, shared=shared)
                golden = attend(prepared)
            except ValueError as error:
                raise UserError(f"{file}: {error}") from None
            plan = Plan(prepared, seed=0 if timing is None else timing.seed)
            prediction = _predict(plan, golden, timing, is_compared=page is not None)
            report = compare(chosen, golden, prediction=prediction)
        say_notes(file, tensors)
        if not as_json:
            _show(file, chosen, accelerator, f"{_describe(method, mapping, shared=shared)}{shown}: "
                  f"n {prepared.n}, sink {sink}, recent {recent}", timing, report)
        hardware = None
        if engine != Engine.GOLDEN:
            hardware, prediction = _simulate(plan, golden, str(engine), timing, shown, waveforms,
                                             prediction, is_compared=page is not None)
            report = compare(chosen, golden, hardware)
        if results is not None:
            _write_results(results, chosen, hardware or golden)
        if page is not None and hardware is not None and prediction is not None:
            _write_page(page, file, shown, chosen, report, hardware, prediction,
                        _codes(codes, mapping), timing)

    predicted = None if prediction is None else prediction.cycles
    use = None if hardware is None else hardware.memory_use
    if as_json:
        print(json.dumps({
            "file": str(file), "method": method, "codes": None if mapping is None else mapping.kind,
            "shared": shared, "engine": engine, "preset": name, "config": accelerator.to_dict(),
            "n": prepared.n, "sink": sink, "recent": recent, "causal": chosen.causal,
            "rotate": rotate, "cycles_predicted": predicted,
            "build_seconds": None if hardware is None else hardware.build_seconds,
            **({} if use is None or timing is None else {"memory": memory.figures(timing, use)}),
            **report.to_dict()},
            indent=2, allow_nan=False))
    else:
        _conclude(engine, report, predicted, use, page)
    if hardware is not None and not report.equals(predicted):
        raise typer.Exit(NOT_BIT_EXACT)


def _check_engine(engine: Engine, given: dict[str, bool]) -> None:
    """Refuse options that need hardware without it."""
    for option, is_given in given.items():
        if is_given and engine == Engine.GOLDEN:
            raise UserError(f"{option} needs hardware; leave out --engine golden")


def _predict(plan: "Plan", golden: "Attention", timing: "MemoryTiming | None", *,
             is_compared: bool) -> "Prediction | None":
    """Ask the cycle model; None where it predicts nothing, or not without a recorded run."""
    if timing is None:
        return plan.predict()
    try:
        memory.check_report(plan.config, timing, plan.commands)
    except UserError:
        if is_compared:
            raise
        return None
    return plan.predict(timing, selected=golden.selected) if timing.is_constant else None


def _simulate(plan: "Plan", golden: "Attention", engine: str, timing: "MemoryTiming | None",
              shown: str, waveforms: OutputFile | None, prediction: "Prediction | None", *,
              is_compared: bool) -> "tuple[HardwareAttention, Prediction | None]":
    """Build the hardware and run it; predict from what it recorded if that is needed."""
    from nearbit_sim import simulation

    is_recorded = is_compared and prediction is None
    with ExitStack() as stack:
        vcd_path = None if waveforms is None else stack.enter_context(waveforms.write())
        bar = stack.enter_context(progress("preparing the hardware"))
        stack.enter_context(building(bar, plan.config, shown, engine))
        hardware = simulation.run(
            plan, engine=engine, timing=timing, vcd=vcd_path, log=is_recorded,
            progress=bar.to(None if prediction is None else prediction.cycles))
        if is_recorded:
            prediction = plan.predict(plan.trace(hardware.outcome), selected=golden.selected)
    return hardware, prediction


def _choose(tensors: "Tensors", heads: str | None, queries: str | None) -> "Tensors":
    """Take the heads and queries that options list, or all."""
    return tensors.select(
        None if heads is None else indices.parse(heads, len(tensors.heads), "--heads"),
        None if queries is None else indices.parse(queries, len(tensors.queries), "--queries"))


def _write_results(output: OutputFile, chosen: "Tensors",
                   answer: "HardwareAttention | Attention") -> None:
    """Write what was answered, as arrays."""
    import numpy as np

    arrays: dict[str, Any] = {
        name: getattr(answer, name)
        for name in ("output", "output_int", "selected", "origins", "distances", "scores",
                     "weights")
        if getattr(answer, name) is not None}
    with output.write() as path, path.open("wb") as stream:
        np.savez_compressed(stream, **arrays, heads=chosen.heads, queries=chosen.queries)


def _write_page(page: OutputFile, file: Path, shown: str, chosen: "Tensors", report: "Report",
                hardware: "HardwareAttention", prediction: "Prediction", codes: str,
                timing: "MemoryTiming | None") -> None:
    """Write the report as a page."""
    from nearbit.report.page import render

    with page.write() as path:
        path.write_text(render(str(file), shown, chosen, report, hardware, prediction, codes,
                               timing=timing,
                               memory="" if timing is None else memory.describe(timing)),
                        # Names of files need not be text.
                        encoding="utf-8", errors="backslashreplace", newline="\n")


def _show(file: Path, chosen: "Tensors", config: "Config", conditions: str,
          timing: "MemoryTiming | None", report: "Report") -> None:
    """Print the models' table, below what it is of."""
    from nearbit.report import show

    terminal = console()
    kv_heads = len(chosen.k)
    groups = "" if kv_heads == len(chosen.q) else f" on {count(kv_heads, 'key head')}"
    terminal.print(
        f"{file}: {count(len(chosen.q), 'head')}{groups}, "
        f"{count(len(chosen.queries), 'query', 'queries')} each, {chosen.tokens} keys of "
        f"{config.key_bits} bits{', causal' if chosen.causal else ''}\n{conditions}"
        f"{'' if timing is None else f'; {memory.describe(timing)}'}\n",
        highlight=False, soft_wrap=True, markup=False)
    show(report, terminal)
    if report.total.cycles is None:
        terminal.print("Cycles: not predicted for this memory; the simulation counts them.",
                       highlight=False, soft_wrap=True)
    # Seen before the hardware is built, also through a pipe.
    sys.stdout.flush()


def _conclude(engine: Engine, report: "Report", predicted: int | None, use: "MemoryUse | None",
              page: OutputFile | None) -> None:
    """Print what the hardware proves, or that there was none."""
    from nearbit.report import show_proof

    terminal = console()
    if engine == Engine.GOLDEN:
        cycles = "" if predicted is None else ", and the cycles the cycle model's"
        terminal.print(f"Nothing was simulated: the answers are the golden model's{cycles}. "
                       f"Without --engine golden, the hardware is run and compared.",
                       highlight=False, soft_wrap=True)
        return
    show_proof(report, terminal, engine=str(engine), predicted=predicted)
    if use is not None:
        memory.show(use, terminal)
    if page is not None:
        terminal.print(f"Report: {page.path}", soft_wrap=True, highlight=False, markup=False)


def _describe(method: Method, mapping: "Mapping | None", *, shared: bool) -> str:
    """Say in the line of conditions what is not the usual."""
    if method == Method.HAD:
        return ""
    kind = "sign" if mapping is None else mapping.kind
    return f"method {method}, codes {kind}{', shared' if shared else ''}, "


def _codes(given: str | None, mapping: "Mapping | None") -> str:
    """Say where codes come from that are not the signs of queries and keys."""
    if mapping is None or mapping.kind == "sign":
        return ""
    return mapping.kind if given == mapping.kind else f"{mapping.kind}, of {given}"


def _check_method(method: Method, given: dict[str, bool]) -> None:
    """Refuse options that have no meaning with the method."""
    for option, is_given in given.items():
        if is_given and method != Method.HASH:
            raise UserError(f"{option} needs --method hash")


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
