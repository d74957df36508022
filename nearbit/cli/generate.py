"""The command `generate`: text by a model whose attention is the accelerator's."""

import json
import sys
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearbit.cli.console import BUILDING, count, progress
from nearbit.cli.errors import NOT_BIT_EXACT, UserError
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
)


if TYPE_CHECKING:
    from nearbit_nets.network import Network


__all__ = ["generate"]


def generate(
    model: ModelOption,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="Text to continue.")],
    tokens: Annotated[int, typer.Option(metavar="T", help="Maximum tokens to generate.")] = 32,
    method: ModelMethodOption = ModelMethod.HASH,
    codes: CodesOption = None,
    n: NOption = 64,
    sink: SinkOption = 4,
    recent: RecentOption = 12,
    hardware: Annotated[str | None, typer.Option(
        metavar="LAYER.HEAD", help=(
            "Compute this head of the running model on the compiled hardware, and compare every "
            "answer with the golden model."))] = None,
    as_json: JsonOption = False,
) -> None:
    """Generate text token by token, with the golden model's stores as attention: append, query.

    Decoding is greedy. With --hardware, the exit status is 1 if any bit of an answer differs from
    the golden model's, or if there was no answer to compare; it is 2 if the input is wrong.
    """

    check_codes(method, codes)
    if tokens < 1:
        raise UserError(f"--tokens must be at least 1, not {tokens}")
    if not prompt:
        raise UserError("--prompt must not be empty")
    with progress("loading the model") as bar:
        network = load_network(model)
        from nearbit_nets import decoding, texts

        ids = network.tokens(prompt)
        texts.check_length(network, len(ids) + tokens)
        decoder = decoding.Decoder(
            network, method_of(network, method, codes, n=n, sink=sink, recent=recent),
            len(ids) + tokens)
        place = None if hardware is None else _head(hardware, network)
        bar.say("comparing the network to the model")
        decoder.verify(ids)
        if place is not None:
            from nearbit.witness import HardwareHead

            bar.say(BUILDING)
            decoder.witness = HardwareHead(decoder.config, *place)
        bar.say("reading the prompt")
        started = perf_counter()
        found: list[int] = []
        for token in decoding.generate(network, ids, decoder, tokens):
            found.append(token)
            bar.say(f"{len(found)} of {tokens} tokens")
        seconds = perf_counter() - started
    witness: Any = decoder.witness
    if witness is not None:
        witness.close()
        if not witness.answers:
            print(f"nearbit: the hardware gave no answer for layer {witness.layer}, head "
                  f"{witness.head}, so that nothing was compared", file=sys.stderr)
            raise typer.Exit(NOT_BIT_EXACT)
    text = network.text(found)
    checked = {} if witness is None else {"hardware": {
        "layer": witness.layer, "head": witness.head, "answers": witness.answers,
        "equal": witness.answers - witness.differing, "cycles": witness.cycles}}
    if as_json:
        print(json.dumps({
            "model": model, "prompt": prompt, "text": text, "tokens": found, "method": method,
            "codes": (codes or "sign") if method == "hash" else None, "n": n, "sink": sink,
            "recent": recent, "saturated": decoder.saturated, "seconds": seconds, **checked},
            indent=2))
    else:
        print(f"{prompt}{text}\n")
        print(f"{count(len(found), 'token')} in {seconds:.1f} s, method {method}, n {n}, sink "
              f"{sink}, recent {recent}; {count(decoder.saturated, 'vector')} beyond the headroom")
        if witness is not None:
            print(f"Layer {witness.layer}, head {witness.head} by the hardware: "
                  f"{witness.answers - witness.differing} of {witness.answers} answers equal the "
                  f"golden model's bit for bit, {witness.cycles:,} cycles")
    if witness is not None and witness.differing:
        raise typer.Exit(NOT_BIT_EXACT)


def _head(place: str, network: "Network") -> tuple[int, int]:
    """The layer and head that --hardware names."""
    layer, _, head = place.partition(".")
    if not (layer.isdecimal() and head.isdecimal()):
        raise UserError(f"--hardware must be LAYER.HEAD such as 3.0, not {place!r}")
    if int(layer) >= network.layers or int(head) >= network.heads:
        raise UserError(f"--hardware {place}: there is no such head, the layers are 0 to "
                        f"{network.layers - 1} and their heads 0 to {network.heads - 1}")
    return int(layer), int(head)
