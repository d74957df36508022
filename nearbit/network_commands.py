"""The commands for real models: capture, evaluate, generate, learn codes, distil."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer


if TYPE_CHECKING:
    from nearbit_nets.evaluation import DecoderReport, EncoderReport
    from nearbit_nets.network import Network


__all__ = ["add_commands"]


ModelOption = Annotated[str, typer.Option(
    "--model", metavar="smollm2|minilm|hf:PATH", help=(
        "SmolLM2-135M or all-MiniLM-L6-v2, from their packages, or a folder of a Llama-like or "
        "BERT-like model."))]
TextOption = Annotated[Path, typer.Option("--text", metavar="FILE", help="A text, in UTF-8.")]
TextsOption = Annotated[list[Path], typer.Option(
    "--text", metavar="FILE", help="A text, in UTF-8; may be given more than once.")]
TokensOption = Annotated[int | None, typer.Option(
    "--tokens", metavar="T", help=(
        "The first T tokens of the text (default: 2048, or as many as there are)."))]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


METHODS = ("exact", "topn", "had", "hash")

MethodOption = Annotated[str, typer.Option(
    metavar="|".join(METHODS), help=(
        "exact: all keys. topn: those of largest q.k. had: those of nearest sign codes, weighted "
        "by distance. hash: those of nearest codes, weighted by exact scores."))]
CodesOption = Annotated[str | None, typer.Option(
    metavar="FILE|KIND", help=(
        "With --method hash, the mapping of all layers to codes: a .safetensors file, or sign (the "
        "default), hadamard, random."))]
NOption = Annotated[int, typer.Option(
    "--n", metavar="N", help="Keys selected by distance.")]
SinkOption = Annotated[int, typer.Option(
    "--sink", metavar="S", help="First keys, selected always.")]
RecentOption = Annotated[int, typer.Option(
    "--recent", metavar="R", help="Last keys, selected always.")]


def capture(
    model: ModelOption,
    text: TextOption,
    out: Annotated[Path, typer.Option(
        "-o", "--output", metavar="FILE.npz", help="What to write.")],
    layers: Annotated[str | None, typer.Option(
        metavar="LIST", help="Which layers: 0,2 or 0-3 or 5:10 (default: all).")] = None,
    heads: Annotated[str | None, typer.Option(
        metavar="LIST", help="Which query heads of each, likewise.")] = None,
    tokens: TokensOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write queries, keys and values of a model's heads, as 'nearbit simulate' reads them.

    They are those after the rotary embedding, of the model with its own attention. The exit status
    is 2 if the input is wrong.
    """
    import numpy as np

    from nearbit import indices
    from nearbit.cli import _progress
    from nearbit.files import OutputFile

    output = OutputFile(out, keep=[text])
    with _progress("loading the model") as bar:
        network = _load(model)
        from nearbit_nets import texts
        from nearbit_nets.capture import capture as capture_heads
        from nearbit_nets.distill import temperatures

        ids = texts.tokens(network, text, tokens)
        chosen = [list(range(size)) if given is None else indices.parse(given, size, what).tolist()
                  for given, size, what in ((layers, network.layers, "--layers"),
                                            (heads, network.heads, "--heads"))]
        bar.say("running the model")
        arrays = capture_heads(network, ids, *chosen)
        learned = temperatures(network)
        if learned is not None:
            arrays["temperature"] = learned[np.ix_(*chosen)].reshape(-1)
        bar.say("writing")
        with output.write() as path, path.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)
    shapes = {name: list(arrays[name].shape) for name in "qkv"}
    if as_json:
        print(json.dumps({"model": model, "text": str(text), "file": str(out), "tokens": len(ids),
                          "layers": chosen[0], "heads": chosen[1],
                          "causal": bool(arrays["causal"]), **shapes}, indent=2))
    else:
        print(f"{out}: q {shapes['q']}, k and v {shapes['k']}"
              f"{', causal' if arrays['causal'] else ''}: layers {_list(chosen[0])}, heads "
              f"{_list(chosen[1])} of {model} on the first {len(ids)} tokens of {text}")


def evaluate(
    model: ModelOption,
    text: TextOption,
    method: MethodOption = "hash",
    codes: CodesOption = None,
    n: NOption = 64,
    sink: SinkOption = 0,
    recent: RecentOption = 0,
    tokens: TokensOption = None,
    scored: Annotated[int | None, typer.Option(
        metavar="M", help="Of a decoder, score the last M tokens (default: half of them).")] = None,
    passage: Annotated[int | None, typer.Option(
        metavar="P", help="Of an encoder, cut the text into passages of P tokens (default: 128).",
        )] = None,
    curve: Annotated[str | None, typer.Option(
        metavar="LIST", help="Evaluate for these --n, too: 16,32,64.")] = None,
    plot: Annotated[Path | None, typer.Option(
        metavar="FILE.svg", help="Draw loss, or cosine, against the keys selected.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a model with the golden model in place of its attention, in all layers.

    Of a decoder it gives the loss of the text's last tokens, of an encoder the cosine of its
    embeddings with those of the model as it is, and how often a passage's first half finds its
    second; beside them the same with as many keys of largest q.k. The exit status is 2 if the input
    is wrong.
    """
    from nearbit import cycles as drawing
    from nearbit.cli import UserError, _console, _progress
    from nearbit.files import OutputFile
    from nearbit.quality import draw, show

    points = _points(curve)
    ending = "" if plot is None else drawing.plot_format(plot)
    output = None if plot is None else OutputFile(plot, keep=[text])
    _check_method(method, codes)
    with _progress("loading the model") as bar:
        network = _load(model)
        from nearbit_nets import evaluation, texts
        from nearbit_nets.codes import longest_learned
        from nearbit_nets.distill import temperatures
        from nearbit_nets.golden import Method, codes_of

        chosen = Method(
            name=method, n=n, sink=sink, recent=recent,
            codes=codes_of(network, codes or "sign") if method == "hash" else None,
            temperature=temperatures(network) if method == "had" else None)
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
             + (f", codes {codes or 'sign'}" if method == "hash" else ""), _console())
        if plot is not None:
            print(f"\nPlot: {plot}")


def generate(
    model: ModelOption,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What the text begins with.")],
    tokens: Annotated[int, typer.Option(metavar="T", help="Tokens to generate, at most.")] = 32,
    method: MethodOption = "hash",
    codes: CodesOption = None,
    n: NOption = 64,
    sink: SinkOption = 4,
    recent: RecentOption = 12,
    hardware: Annotated[str | None, typer.Option(
        metavar="LAYER.HEAD", help=(
            "Compute this head by the compiled hardware, in the running model, and compare every "
            "answer with the golden model."))] = None,
    as_json: JsonOption = False,
) -> None:
    """Generate text token by token, all attention by the golden model's stores: append, ask.

    Always the likeliest token. With --hardware the exit status is 1 if any bit of an answer was not
    the golden model's, or if there was none to compare; it is 2 if the input is wrong.
    """
    from time import perf_counter

    from nearbit.cli import BUILDING, NOT_EXACT, UserError, _count, _progress

    _check_method(method, codes)
    if tokens < 1:
        raise UserError(f"--tokens must be at least 1, not {tokens}")
    if not prompt:
        raise UserError("--prompt must not be empty")
    with _progress("loading the model") as bar:
        network = _load(model)
        import torch

        from nearbit_nets import decoding, texts
        from nearbit_nets.distill import temperatures
        from nearbit_nets.golden import Method, codes_of

        ids = network.tokens(prompt)
        texts.check_length(network, len(ids) + tokens)
        decoder = decoding.Decoder(network, Method(
            name=method, n=n, sink=sink, recent=recent,
            codes=codes_of(network, codes or "sign") if method == "hash" else None,
            temperature=temperatures(network) if method == "had" else None),
            len(ids) + tokens)
        place = None if hardware is None else _head(hardware, network)
        bar.say("comparing the network to the model")
        network.verify(torch.tensor([ids]), steps=True)
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
            raise typer.Exit(NOT_EXACT)
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
        print(f"{_count(len(found), 'token')} in {seconds:.1f} s, method {method}, n {n}, sink "
              f"{sink}, recent {recent}; {_count(decoder.saturated, 'row')} beyond the headroom")
        if witness is not None:
            print(f"Layer {witness.layer}, head {witness.head} by the hardware: "
                  f"{witness.answers - witness.differing} of {witness.answers} answers equal the "
                  f"golden model's bit for bit, {witness.cycles:,} cycles")
    if witness is not None and witness.differing:
        raise typer.Exit(NOT_EXACT)


def learn_codes(
    model: ModelOption,
    text: TextsOption,
    out: Annotated[Path, typer.Option(
        "-o", "--output", metavar="FILE.safetensors", help="What to write.")],
    held_out: Annotated[list[Path] | None, typer.Option(
        "--held-out", metavar="FILE", help=(
            "A text to measure recall on; may be given more than once (default: the last --text, "
            "which then is not learned from)."))] = None,
    bits: Annotated[int, typer.Option(metavar="B", help="Bits of a code.")] = 64,
    kind: Annotated[str, typer.Option(
        metavar="linear|mlp", help=(
            "A linear map for each head, or the published network of three layers."))] = "linear",
    loss: Annotated[str, typer.Option(
        metavar="top|kl|bce", help=(
            "top: cross-entropy to the true top 32 keys. kl: divergence from exact attention. bce: "
            "weighted binary cross-entropy on the true top 32, as published."))] = "top",
    surrogate: Annotated[str, typer.Option(
        metavar="straight-through|tanh", help="What is differentiated in place of the sign.",
        )] = "straight-through",
    steps: Annotated[int, typer.Option(
        metavar="N", help="Steps for each layer, at most.")] = 500,
    queries: Annotated[int, typer.Option(metavar="M", help="Queries of a text in a step.")] = 64,
    rate: Annotated[float, typer.Option(metavar="R", help="Learning rate, at first.")] = 0.02,
    sink: Annotated[int, typer.Option(
        metavar="S", help="First keys, which loss bce leaves out.")] = 4,
    recent: Annotated[int, typer.Option(
        metavar="R", help="Last keys, which loss bce leaves out.")] = 12,
    shares_keys: Annotated[bool, typer.Option(
        "--shared-keys", help=(
            "One code for each key, which the query heads of a group share, instead of one for "
            "each query head."))] = False,
    layers: Annotated[str | None, typer.Option(
        metavar="LIST", help="Which layers: 0,2 or 0-3 or 5:10 (default: all).")] = None,
    tokens: TokensOption = None,
    seed: Annotated[int, typer.Option(metavar="S", help="Seed of all random choices.")] = 0,
    device: Annotated[str | None, typer.Option(
        metavar="cpu|cuda", help="Where to compute (default: cuda where it is).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Learn the codes of a model's queries and keys, and measure what they find.

    Layers that are done are kept in a folder beside the output until all are there: interrupted,
    the same command goes on. The file is for 'evaluate' and 'generate' with --codes; with --layers
    it is for 'simulate', of heads that 'capture' with the same --layers writes. The exit status is
    2 if the input is wrong.
    """
    import shutil
    from time import perf_counter

    from nearbit import indices
    from nearbit.cli import UserError, _console, _count, _progress
    from nearbit.files import OutputFile, output_folder
    from nearbit.quality import show_recall

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: the name of a file of codes must end in .safetensors")
    if not held_out and len(text) < 2:
        raise UserError("at least two texts are needed, one of them to measure recall on; give "
                        "another --text, or --held-out")
    apart = held_out or text[-1:]
    learned = text if held_out else text[:-1]
    both = sorted({str(path) for path in learned} & {str(path) for path in apart})
    if both:
        raise UserError(f"{both[0]} is given to learn from and to measure recall on; take another "
                        f"text for one of them")
    output = OutputFile(out, keep=[*text, *apart])
    folder = out.with_name(f"{out.name}.parts")
    started = perf_counter()
    with _progress("loading the model") as bar:
        network = _load(model)
        from nearbit_nets import codes, texts

        recipe = codes.Recipe(
            bits=bits, kind=kind, loss=loss, surrogate=surrogate, steps=steps, queries=queries,
            rate=rate, seed=seed, sink=sink, recent=recent, shares_keys=shares_keys)
        where = codes.device_of(device)
        if network.kind != "decoder":
            raise UserError(f"{model} is an encoder, and codes are learned from decoders; distil "
                            f"it with 'nearbit distill'")
        chosen = list(range(network.layers)) if layers is None \
            else indices.parse(layers, network.layers, "--layers").tolist()
        ids, ids_apart = ([texts.tokens(network, path, tokens) for path in paths]
                          for paths in (learned, apart))
        with output_folder(folder):
            learner = codes.Learner(network, ids, ids_apart, recipe, chosen, folder,
                                    device=where, say=bar.say)
            try:
                mapping, found, made = learner.run()
            except KeyboardInterrupt:
                print(f"nearbit: {len(chosen) - len(learner.missing)} of "
                      f"{_count(len(chosen), 'layer')} are in {folder}; the same command goes on",
                      file=sys.stderr)
                raise
            with output.write() as path:
                codes.save(path, mapping, found, made)
        shutil.rmtree(folder)
    seconds = perf_counter() - started
    if as_json:
        by_layer = (len(chosen), network.heads)
        print(json.dumps({
            "model": model, "file": str(out), "texts": list(map(str, learned)),
            "held_out": list(map(str, apart)), "tokens": sum(map(len, ids)), "bits": bits,
            "kind": kind, "loss": loss, "surrogate": surrogate, "seed": seed, "device": where,
            "layers": chosen, "steps": made, "recall": found.nearest.mean(),
            "recall_selected": found.selected.mean(),
            "recall_heads": found.nearest.reshape(by_layer).tolist(),
            "recall_selected_heads": found.selected.reshape(by_layer).tolist(),
            "seconds": seconds}, indent=2))
    else:
        show_recall(chosen, found.nearest.reshape(len(chosen), -1),
                    found.selected.reshape(len(chosen), -1), made, _console())
        print(f"\n{out}: codes of {bits} bits for {_count(mapping.heads, 'head')} of {model}, "
              f"{seconds:.0f} s")


def distill(
    model: ModelOption,
    text: TextsOption,
    out: Annotated[Path, typer.Option(
        "-o", "--output", metavar="FOLDER", help="Where to write the checkpoint.")],
    minutes: Annotated[float | None, typer.Option(
        metavar="M", help="How long to train (default: 30, without --steps).")] = None,
    steps: Annotated[int | None, typer.Option(
        metavar="N", help="How many steps to train, instead.")] = None,
    n: Annotated[int, typer.Option("--n", metavar="N", help="Keys that a query attends to.")] = 32,
    stages: Annotated[str, typer.Option(
        metavar="straight-through|published", help=(
            "Signs from the start, or the published way from soft to hard in four stages."),
        )] = "straight-through",
    rounds: Annotated[int, typer.Option(
        metavar="R", help="Times that the rates fall to 0; the mean of the weights then is taken."),
        ] = 1,
    passage: Annotated[int, typer.Option(
        metavar="P", help="Tokens of a passage, at most.")] = 128,
    batch: Annotated[int, typer.Option(metavar="B", help="Passages in a step.")] = 16,
    rate: Annotated[float, typer.Option(metavar="R", help="Largest learning rate.")] = 2.5e-4,
    qk_rate: Annotated[float, typer.Option(
        metavar="R", help="The same of the projections of queries and keys.")] = 1e-3,
    seed: Annotated[int, typer.Option(metavar="S", help="Seed of all random choices.")] = 0,
    start: Annotated[Path | None, typer.Option(
        metavar="FOLDER", help="A checkpoint of this command to go on with.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Distil a model to attend by the signs of its queries and keys (HAD).

    The checkpoint is for 'evaluate --method had' and 'capture', which take the temperatures of its
    heads from it. The folder must not exist. The exit status is 2 if the input is wrong.
    """
    from nearbit.cli import UserError, _count, _progress
    from nearbit.files import output_folder

    if out.exists():
        raise UserError(f"{out} exists already; give another folder, or remove it")
    if minutes is None and steps is None:
        minutes = 30.0
    with _progress("loading the model") as bar, output_folder(out):
        network = _load(model)
        from nearbit_nets import distill as distillation
        from nearbit_nets import texts

        plan = distillation.Plan(n=n, stages=stages, steps=steps, minutes=minutes, rounds=rounds,
                                 batch=batch, passage=passage, rate=rate, qk_rate=qk_rate,
                                 seed=seed)
        found = distillation.distill(network, [texts.read(path) for path in text], plan,
                                     start=None if start is None else _load(f"hf:{start}"),
                                     say=bar.say)
        bar.say("writing")
        distillation.save(out, found, plan)
    measured = "cosine" if network.kind == "encoder" else "loss"
    if as_json:
        print(json.dumps({
            "model": model, "folder": str(out), "texts": list(map(str, text)), "n": n,
            "stages": stages, "rounds": rounds, "seed": seed, "passages": found.passages,
            "steps": found.steps, "seconds": found.seconds, f"{measured}_before": found.before,
            measured: found.after, f"{measured}_teacher": found.teacher,
            "temperature": found.temperature.tolist()}, indent=2))
    else:
        print(f"{out}: {model} distilled with n {n}, {_count(found.steps, 'step')} in "
              f"{found.seconds:.0f} s on {_count(found.passages, 'passage')}; {measured} on others "
              f"{found.before:.4f} before, {found.after:.4f} after, {found.teacher:.4f} of the "
              f"teacher")


def add_commands(app: typer.Typer) -> None:
    """Give an application these commands."""
    for command in (capture, distill, evaluate, generate, learn_codes):
        app.command()(command)


def _head(place: str, network: "Network") -> tuple[int, int]:
    """The layer and head that --hardware names."""
    from nearbit.cli import UserError

    layer, _, head = place.partition(".")
    if not (layer.isdecimal() and head.isdecimal()):
        raise UserError(f"--hardware must be LAYER.HEAD such as 3.0, not {place!r}")
    if int(layer) >= network.layers or int(head) >= network.heads:
        raise UserError(f"--hardware {place}: there is no such head, the layers are 0 to "
                        f"{network.layers - 1} and their heads 0 to {network.heads - 1}")
    return int(layer), int(head)


def _points(curve: str | None) -> list[int]:
    """The numbers of --curve."""
    from nearbit.cli import UserError

    points: list[int] = []
    for item in [] if curve is None else curve.split(","):
        if not item.strip().isdecimal() or int(item) < 1:
            raise UserError(f"--curve must be numbers of keys such as 16,32,64, not {curve!r}")
        points.append(int(item))
    return points


def _check_method(method: str, codes: str | None) -> None:
    """Refuse what needs no model to be seen wrong."""
    from nearbit.cli import UserError

    if method not in METHODS:
        raise UserError(f"--method must be one of {', '.join(METHODS)}, not {method!r}")
    if codes is not None and method != "hash":
        raise UserError("--codes needs --method hash")


def _load(name: str) -> "Network":
    """Load a network, on as many threads as there are cores for this process."""
    from nearbit_nets.errors import need_extra

    need_extra()

    from nearbit_nets.loading import load, use_all_cores

    use_all_cores()
    return load(name)


def _list(numbers: list[int]) -> str:
    """Show ascending indices in short."""
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))
