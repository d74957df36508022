"""The command `config`: a configuration to start from, with comments."""

from pathlib import Path
from typing import Annotated

import typer

from nearbit.cli.accelerators import Given, configured, given_or_default
from nearbit.cli.errors import UserError
from nearbit.cli.options import (
    DEFAULT_ALWAYS,
    ConfigOption,
    Method,
    PresetOption,
    SetOption,
    check_selection,
    selection,
)
from nearbit.files import OutputFile


__all__ = ["config"]


def config(
    preset: PresetOption = None,
    path: ConfigOption = None,
    file: Annotated[Path | None, typer.Option(
        "--fit", metavar="FILE.npz", help=(
            "Fit a configuration to these tensors, of any head size: as many keys, and stages of "
            "about the same speed."))] = None,
    method: Annotated[Method | None, typer.Option(
        help="With --fit, what it computes (default: had).")] = None,
    n: Annotated[int | None, typer.Option(
        "--n", metavar="N", help=(
            "With --fit, keys selected by distance (default: 32; hash: 1/32 of the tokens)."),
        )] = None,
    sink: Annotated[int | None, typer.Option(
        metavar="S", help=f"With --fit, first keys selected (default: 0; hash: {DEFAULT_ALWAYS}).",
        )] = None,
    recent: Annotated[int | None, typer.Option(
        metavar="R", help=f"With --fit, last keys selected (default: 0; hash: {DEFAULT_ALWAYS}).",
        )] = None,
    shared: Annotated[bool, typer.Option(
        "--shared", help="With --fit and --method hash, one selection for all heads of a group."),
        ] = False,
    settings: SetOption = None,
    out: Annotated[Path | None, typer.Option(
        "-o", "--output", metavar="FILE.toml", help="Output file (default: standard output)."),
        ] = None,
) -> None:
    """Write a configuration with a comment on every field, to start from.

    It is that of a preset or a board, by default 'reference', or fitted to tensors. The commands
    that have --config take it. The exit status is 2 if the input is wrong.
    """
    from nearbit.configs import commented

    if file is None:
        for option, value in (("--method", method), ("--n", n), ("--sink", sink),
                              ("--recent", recent), ("--shared", shared or None)):
            if value is not None:
                raise UserError(f"{option} needs --fit")
        chosen = given_or_default(preset, path, settings)
    else:
        if preset is not None or path is not None:
            raise UserError("--fit excludes --preset and --config; --set changes what it fits")
        check_selection(n, sink, recent)
        chosen = configured(_fitted(file, method or Method.HAD, n, sink, recent, shared=shared),
                            settings)
    output = None if out is None else OutputFile(out, [each for each in (file, path) if each])
    text = commented(chosen.config, f"{chosen.shown}, written by 'nearbit config'")
    if output is None:
        print(text, end="")
        return
    with output.write() as place:
        # Names of files need not be text.
        place.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    print(out)


def _fitted(file: Path, method: Method, n: int | None, sink: int | None, recent: int | None, *,
            shared: bool) -> Given:
    """A configuration for the tensors of a file."""
    from nearbit.tensors import Tensors
    from nearbit_model.fitting import fit
    from nearbit_model.prepare import DEFAULT_N

    if shared and method != Method.HASH:
        raise UserError("--shared needs --method hash")
    tensors = Tensors.load(file)
    n, sink, recent = selection(method, tensors.tokens, n, None, sink, recent, is_dense=False)
    try:
        found = fit(tensors.head_dim, tensors.value_dim, tensors.tokens,
                    (n or DEFAULT_N) + sink + recent, rescore=method == Method.HASH,
                    shared=len(tensors.q) // len(tensors.k) if shared else 0)
    except ValueError as error:
        raise UserError(f"{file}: no configuration fits: {error}") from None
    return Given(found, f"fitted to {file}", None)
