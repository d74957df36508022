"""Options and choices that commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nearbit.cli.errors import UserError


__all__ = [
    "DEFAULT_ALWAYS", "DEFAULT_HEAVY", "BaudOption", "BoardOption", "Cell", "ClockOption",
    "CodesOption", "ConfigOption", "Device", "Engine", "HeadsOption", "Interface", "JsonOption",
    "Loss", "MappingKind", "MemoryLatencyOption", "MemoryLatencyToOption",
    "MemoryOutstandingOption", "MemoryPaceOption", "MemoryPauseOption", "MemoryReorderOption",
    "MemorySeedOption", "MemorySharedPaceOption", "Method", "ModelMethod", "ModelOption",
    "PresetOption", "QueriesOption", "SetOption", "Stages", "Surrogate", "Target", "TextOption",
    "TextsOption", "TokensOption", "check_selection", "selection",
]


DEFAULT_HEAVY = 0.03125
DEFAULT_ALWAYS = 128 # sinks and recent keys, as published for HashAttention


# The choices are those of the packages that take them; a test compares the two, so that help needs
# to import none of them.

class Engine(StrEnum):
    """What answers: hardware, simulated in one of two ways, or the golden model alone."""

    COMPILED = "compiled"
    ICARUS = "icarus"
    GOLDEN = "golden"


class Method(StrEnum):
    """Ways that the hardware attends."""

    HAD = "had"
    HASH = "hash"


class ModelMethod(StrEnum):
    """Ways that a model attends."""

    DENSE = "dense"
    TOPN = "topn"
    HAD = "had"
    HASH = "hash"


class Interface(StrEnum):
    """What generated Verilog connects to."""

    STREAM = "stream"
    AXI = "axi"
    WISHBONE = "wishbone"


class Cell(StrEnum):
    """Families whose logic the XOR-popcount is written for."""

    GENERIC = "generic"
    ECP5 = "ecp5"
    ICE40 = "ice40"
    XC7 = "xc7"


class Target(StrEnum):
    """Families of which area is estimated."""

    ECP5 = "ecp5"
    ICE40 = "ice40"
    UP5K = "up5k"
    XC7 = "xc7"


class MappingKind(StrEnum):
    """Mappings that codes are learned for."""

    LINEAR = "linear"
    MLP = "mlp"


class Loss(StrEnum):
    """Losses that codes are learned by."""

    TOP = "top"
    KL = "kl"
    BCE = "bce"


class Surrogate(StrEnum):
    """What is differentiated in place of the sign."""

    STRAIGHT_THROUGH = "straight-through"
    TANH = "tanh"


class Stages(StrEnum):
    """Ways from soft to hard attention in distillation."""

    STRAIGHT_THROUGH = "straight-through"
    PUBLISHED = "published"


class Device(StrEnum):
    """Where PyTorch computes."""

    CPU = "cpu"
    CUDA = "cuda"


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

PresetOption = Annotated[str | None, typer.Option(
    "--preset", metavar="NAME", help=(
        "A preset or a board; 'nearbit presets' and 'nearbit boards' list them."))]
ConfigOption = Annotated[Path | None, typer.Option(
    "--config", metavar="FILE.toml", help="Your own configuration; 'nearbit config' writes one.")]
SetOption = Annotated[list[str] | None, typer.Option(
    "--set", metavar="FIELD=VALUE", help=(
        "Change a field of the configuration, such as lanes=8 or memory.heads=4; may be given more "
        "than once."))]

HeadsOption = Annotated[str | None, typer.Option(
    "--heads", metavar="LIST", help="Heads to run: 0,2 or 0-3 or 5:10 (10 excluded).")]
QueriesOption = Annotated[str | None, typer.Option(
    "--queries", metavar="LIST", help="Queries to run, in the same form; 0:64:8 is every eighth.")]

# Of a configuration with a memory; nearbit_model.memory_timing says what they mean to the cycle.
MemoryLatencyOption = Annotated[int | None, typer.Option(
    "--memory-latency", metavar="CYCLES", help=(
        "From an address to the memory's first beat (default: 100)."))]
MemoryLatencyToOption = Annotated[int | None, typer.Option(
    "--memory-latency-to", metavar="CYCLES", help=(
        "Draw each burst's latency, from --memory-latency to this."))]
MemoryPaceOption = Annotated[float | None, typer.Option(
    "--memory-pace", metavar="BEATS", help=(
        "Beats per cycle of each bus, at most (default: 1)."))]
MemorySharedPaceOption = Annotated[bool, typer.Option(
    "--memory-shared-pace", help="All buses together have this pace, as ports of one DRAM.")]
MemoryOutstandingOption = Annotated[int | None, typer.Option(
    "--memory-outstanding", metavar="BURSTS", help=(
        "Bursts that the memory holds on each bus (default: 64)."))]
MemoryReorderOption = Annotated[bool, typer.Option(
    "--memory-reorder", help="Answer bursts of different IDs in random order.")]
MemoryPauseOption = Annotated[float | None, typer.Option(
    "--memory-pause", metavar="SHARE", help=(
        "Probability of a pause, in every cycle and on every channel (default: 0)."))]
MemorySeedOption = Annotated[int | None, typer.Option(
    "--memory-seed", metavar="SEED", help=(
        "What is drawn, and the order of the pages in memory, follow from it (default: 0)."))]

BoardOption = Annotated[str | None, typer.Option(
    "--board", metavar="BOARD", help="A board; 'nearbit boards' lists them.")]
ClockOption = Annotated[float | None, typer.Option(
    "--clock", metavar="MHZ", help="The accelerator's clock (default: the board's).")]
BaudOption = Annotated[int | None, typer.Option(
    "--baud", metavar="RATE", help="Bits per second of the host link (default: the board's).")]

ModelOption = Annotated[str, typer.Option(
    "--model", metavar="smollm2|minilm|hf:PATH", help=(
        "SmolLM2-135M or all-MiniLM-L6-v2, from their packages, or a folder of a Llama-like or "
        "BERT-like model."))]
ModelMethodOption = Annotated[ModelMethod, typer.Option(
    "--method", help=(
        "dense: all keys. topn: keys of largest q.k. had: keys of nearest sign codes, weighted by "
        "distance. hash: keys of nearest codes, weighted by dot-product scores."))]
CodesOption = Annotated[str | None, typer.Option(
    "--codes", metavar="FILE|KIND", help=(
        "With --method hash, the mapping of all layers to codes: a .safetensors file, or sign (the "
        "default), hadamard, random."))]
TextOption = Annotated[Path, typer.Option("--text", metavar="FILE", help="UTF-8 text file.")]
TextsOption = Annotated[list[Path], typer.Option(
    "--text", metavar="FILE", help="UTF-8 text file; may be given more than once.")]
TokensOption = Annotated[int | None, typer.Option(
    "--tokens", metavar="T", help=(
        "Use the first T tokens of the text (default: 2048, or all if fewer)."))]
NOption = Annotated[int, typer.Option("--n", metavar="N", help="Keys selected by distance.")]
SinkOption = Annotated[int, typer.Option(
    "--sink", metavar="S", help="Always select the first S keys.")]
RecentOption = Annotated[int, typer.Option(
    "--recent", metavar="R", help="Always select the last R keys.")]


def check_selection(n: int | None, sink: int | None, recent: int | None) -> None:
    """Raise :class:`UserError` for numbers of keys that cannot be selected."""
    for option, value, least in (("--n", n, 1), ("--sink", sink, 0), ("--recent", recent, 0)):
        if value is not None and value < least:
            raise UserError(f"{option} must be at least {least}, not {value}")


def selection(method: Method, tokens: int, n: int | None, heavy: float | None, sink: int | None,
              recent: int | None, *, is_dense: bool) -> tuple[int | None, int, int]:
    """How many keys to select by distance, and always: as asked, or the method's defaults."""
    from nearbit_model.mapping import heavy_budget

    if is_dense:
        for option, value in (("--n", n), ("--heavy", heavy), ("--sink", sink),
                              ("--recent", recent)):
            if value is not None:
                raise UserError(f"--dense and {option} exclude each other; give one of them")
        return tokens, 0, 0
    if n is not None and heavy is not None:
        raise UserError("--n and --heavy exclude each other; give one of them")
    always = DEFAULT_ALWAYS if method == Method.HASH else 0
    if method == Method.HASH and n is None:
        share = DEFAULT_HEAVY if heavy is None else heavy
        if not 0 < share <= 1:
            raise UserError(f"--heavy must be greater than 0 and at most 1, not {share:g}")
        n = heavy_budget(tokens, share)
    return n, always if sink is None else sink, always if recent is None else recent
