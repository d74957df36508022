"""The command `evaluate`: the accuracy that a model loses."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearbit.cli.console import console, progress
from nearbit.cli.errors import UserError
from nearbit.cli.models import check_codes, load_network, method_of
from nearbit.cli.options import (
    CodesOption,
    JsonOption,
    ModelMethod,
    ModelMethodOption,
    ModelOption,
    NOption,
    RecentOption,
    SinkOption,
    TextOption,
    TokensOption,
)
from nearbit.files import OutputFile


if TYPE_CHECKING:
    from nearbit_nets.evaluation import DecoderReport, EncoderReport


__all__ = ["evaluate"]


def evaluate(
    model: ModelOption,
    text: TextOption,
    method: ModelMethodOption = ModelMethod.HASH,
    codes: CodesOption = None,
    n: NOption = 64,
    sink: SinkOption = 0,
    recent: RecentOption = 0,
    tokens: TokensOption = None,
    scored: Annotated[int | None, typer.Option(
        metavar="M", help="Decoders: score the last M tokens (default: half of them).")] = None,
    passage: Annotated[int | None, typer.Option(
        metavar="P", help="Encoders: cut the text into passages of P tokens (default: 128).",
        )] = None,
    curve: Annotated[str | None, typer.Option(
        metavar="LIST", help="Also evaluate these values of --n: 16,32,64.")] = None,
    plot: Annotated[Path | None, typer.Option(
        metavar="FILE.svg", help="Plot loss or cosine against the keys selected.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model's accuracy with the golden model as attention in all layers.

    For a decoder, it gives the loss of the text's last tokens. For an encoder, it gives the cosine
    of its embeddings with those of the unmodified model, and how often a passage's first half
    retrieves its second. For comparison, it gives the same with as many keys of largest q.k. The
    exit status is 2 if the input is wrong.
    """
    from nearbit import workloads as drawing
    from nearbit.quality import draw, show

    points = _points(curve)
    ending = "" if plot is None else drawing.plot_format(plot)
    output = None if plot is None else OutputFile(plot, keep=[text])
    check_codes(method, codes)
    with progress("loading the model") as bar:
        network = load_network(model)
        from nearbit_nets import evaluation, texts
        from nearbit_nets.codes import longest_learned

        chosen = method_of(network, method, codes, n=n, sink=sink, recent=recent)
        reports: Sequence[DecoderReport | EncoderReport]
        if network.kind == "decoder":
            if passage is not None:
                raise UserError(f"--passage is for encoders, and {model} is a decoder")
            ids = texts.tokens(network, text, tokens)
            longest = None if chosen.codes is None else longest_learned(chosen.codes)
            if longest is not None and len(ids) > longest:
                print(f"nearbit: {codes} was learned from texts of at most {longest:,} tokens, "
                      f"and this one has {len(ids):,}; of keys farther away it may find few",
                      file=sys.stderr)
            reports = evaluation.evaluate_decoder(network, chosen, ids, scored=scored,
                                                  sweep=points, say=bar.say)
        else:
            if scored is not None:
                raise UserError(f"--scored is for decoders, and {model} is an encoder")
            parts = texts.passages(network, text, tokens, passage)
            reports = evaluation.evaluate_encoder(network, chosen, parts, sweep=points,
                                                  say=bar.say)
    if output is not None:
        with output.write() as path:
            draw(path, ending, reports)
    first, *rest = (report.to_dict() for report in reports)
    if as_json:
        print(json.dumps({"model": model, "text": str(text), "method": method,
                          "codes": (codes or "sign") if method == "hash" else None, **first,
                          **({"curve": rest} if points else {})}, indent=2, allow_nan=False))
    else:
        show(reports, f"{model} on {text}, method {method}"
             + (f", codes {codes or 'sign'}" if method == "hash" else ""), console())
        if plot is not None:
            print(f"\nPlot: {plot}")


def _points(curve: str | None) -> list[int]:
    """The numbers of --curve."""
    points: list[int] = []
    for item in [] if curve is None else curve.split(","):
        if not item.strip().isdecimal() or int(item) < 1:
            raise UserError(f"--curve must be numbers of keys such as 16,32,64, not {curve!r}")
        points.append(int(item))
    return points
