"""The command `generate`: text by a model whose attention is the accelerator's."""

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearbit.cli import memory
from nearbit.cli.accelerators import given
from nearbit.cli.console import BUILDING, count, progress
from nearbit.cli.errors import NOT_BIT_EXACT, UserError
from nearbit.cli.models import check_codes, load_network, method_of
from nearbit.cli.options import (
    CodesOption,
    ConfigOption,
    JsonOption,
    MemoryLatencyOption,
    MemoryPaceOption,
    MemoryPauseOption,
    MemorySeedOption,
    MemorySharedPaceOption,
    ModelMethod,
    ModelMethodOption,
    ModelOption,
    NOption,
    PresetOption,
    RecentOption,
    SinkOption,
)


if TYPE_CHECKING:
    from nearbit.whole_model import WholeModel
    from nearbit_model.config import Config
    from nearbit_nets.golden import Method
    from nearbit_nets.network import Network


__all__ = ["generate"]


DEFAULT_WIDTH = 64
DEFAULT_CLOCK = 100.0


def generate(
    model: ModelOption,
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="Text to continue.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(
        metavar="FILE", help="UTF-8 text file to continue, instead of --prompt.")] = None,
    tokens: Annotated[int, typer.Option(metavar="T", help="Maximum tokens to generate.")] = 32,
    method: ModelMethodOption = ModelMethod.HASH,
    codes: CodesOption = None,
    n: NOption = 64,
    sink: SinkOption = 4,
    recent: RecentOption = 12,
    hardware: Annotated[str | None, typer.Option(
        metavar="LAYER.HEAD|all", help=(
            "Compute this head of the running model on the compiled hardware, or every head of "
            "every generated token on a core with one memory for all of them, and compare every "
            "answer with the golden model."))] = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    memory_width: Annotated[int | None, typer.Option(
        metavar="BITS", help=(
            f"With --hardware all and a configuration fitted to the model, bits of each bus to "
            f"the memory (default: {DEFAULT_WIDTH})."))] = None,
    memory_latency: MemoryLatencyOption = None,
    memory_pace: MemoryPaceOption = None,
    memory_shared_pace: MemorySharedPaceOption = False,
    memory_pause: MemoryPauseOption = None,
    memory_seed: MemorySeedOption = None,
    clock: Annotated[list[float] | None, typer.Option(
        metavar="MHZ", help=(
            f"With --hardware all, the clock that tokens per second are given for (default: "
            f"{DEFAULT_CLOCK:g}); may be given more than once."))] = None,
    as_json: JsonOption = False,
) -> None:
    """Generate text token by token, with the golden model's stores as attention: append, query.

    Decoding is greedy. With --hardware, the exit status is 1 if any bit of an answer differs from
    the golden model's, or if there was no answer to compare; it is 2 if the input is wrong.

    With --hardware all, the golden model reads the prompt, and the last token of it and all that
    follow are asked of the hardware; without --preset and --config, its configuration is fitted to
    the model.
    """

    check_codes(method, codes)
    if tokens < 1:
        raise UserError(f"--tokens must be at least 1, not {tokens}")
    timing = {"latency": memory_latency, "pace": memory_pace,
              "shared_pace": memory_shared_pace or None, "pause": memory_pause,
              "seed": memory_seed}
    clocks = clock or [DEFAULT_CLOCK]
    is_whole = hardware == "all"
    _check_options(is_whole, method, clocks, {
        "--preset": preset, "--config": config, "--memory-width": memory_width, "--clock": clock,
        **{f"--memory-{name.replace('_', '-')}": value for name, value in timing.items()}})
    named = given(preset, config)
    accelerator = None if named is None else named.config
    if accelerator is not None and memory_width is not None:
        raise UserError("--memory-width is that of a configuration fitted to the model; leave it "
                        "out, or leave out --preset and --config")
    text_before = _prompt(prompt, prompt_file)
    with progress("loading the model") as bar:
        network = load_network(model)
        from nearbit_nets import decoding, texts

        ids = network.tokens(text_before)
        texts.check_length(network, len(ids) + tokens)
        chosen = method_of(network, method, codes, n=n, sink=sink, recent=recent)
        if is_whole:
            accelerator = _accelerator(accelerator, network, chosen, len(ids) + tokens,
                                       memory_width)
        decoder = decoding.Decoder(network, chosen, len(ids) + tokens, given=accelerator)
        answering = None if accelerator is None else memory.timing_of(accelerator, **timing)
        place = None if hardware is None or is_whole else _head(hardware, network)
        bar.say("comparing the network to the model")
        decoder.verify(ids)
        if hardware is not None:
            bar.say(BUILDING)
        if place is not None:
            from nearbit.witness import HardwareHead

            decoder.witness = HardwareHead(decoder.config, *place)
        whole = None
        if is_whole:
            from nearbit.whole_model import WholeModel
            from nearbit_nets.accelerators import key_heads

            whole = decoder.cache_witness = WholeModel(
                decoder.config, network.layers, key_heads(network, chosen), timing=answering)
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
    if as_json:
        print(json.dumps({
            "model": model, "prompt": text_before, "text": text, "tokens": found,
            "method": method,
            "codes": (codes or "sign") if method == "hash" else None, "n": n, "sink": sink,
            "recent": recent, "saturated": decoder.saturated, "seconds": seconds,
            **_checked(witness), **_figures(whole, network, clocks)},
            indent=2))
    else:
        print(f"{text_before if prompt_file is None else ''}{text}\n")
        print(f"{count(len(found), 'token')} in {seconds:.1f} s, method {method}, n {n}, sink "
              f"{sink}, recent {recent}; {count(decoder.saturated, 'vector')} beyond the headroom")
        if witness is not None:
            print(f"Layer {witness.layer}, head {witness.head} by the hardware: "
                  f"{witness.answers - witness.differing} of {witness.answers} answers equal the "
                  f"golden model's bit for bit, {witness.cycles:,} cycles")
        if whole is not None:
            _show(whole, network, clocks)
    if any(each is not None and each.differing for each in (witness, whole)):
        raise typer.Exit(NOT_BIT_EXACT)


def _prompt(prompt: str | None, path: Path | None) -> str:
    """The text to continue."""
    if prompt is not None and path is not None:
        raise UserError("--prompt and --prompt-file exclude each other; give one of them")
    if path is not None:
        from nearbit_nets.errors import need_extra

        need_extra()

        from nearbit_nets.texts import read

        return read(path)
    if prompt is None:
        raise UserError("--prompt is missing: give a text to continue, or --prompt-file")
    if not prompt:
        raise UserError("--prompt must not be empty")
    return prompt


def _check_options(is_whole: bool, method: ModelMethod, clocks: list[float],
                   options: dict[str, Any]) -> None:
    """Refuse options that have no meaning without --hardware all, and what it cannot compute."""
    if not is_whole:
        for option, value in options.items():
            if value is not None:
                raise UserError(f"{option} needs --hardware all")
        return
    if method not in (ModelMethod.HAD, ModelMethod.HASH):
        raise UserError(f"--hardware all needs --method had or hash, not {method}")
    for each in clocks:
        if not 0 < each < 1e6:
            raise UserError(f"--clock must be more than 0 MHz and less than 1,000,000, "
                            f"not {each:g}")


def _accelerator(accelerator: "Config | None", network: "Network", method: "Method", tokens: int,
                 width: int | None) -> "Config":
    """The configuration for all heads: the given one if it fits, or one that does."""
    from nearbit_nets.accelerators import check_fit, fitted

    if accelerator is None:
        bus_bits = DEFAULT_WIDTH if width is None else width
        if bus_bits not in (32, 64, 128, 256, 512):
            raise UserError(f"--memory-width must be 32, 64, 128, 256 or 512, not {bus_bits}")
        return fitted(network, method, tokens, bus_bits=bus_bits)
    check_fit(accelerator, network, method, tokens)
    return accelerator


def _checked(witness: Any) -> dict[str, Any]:
    """What one head was compared, for JSON."""
    return {} if witness is None else {"hardware": {
        "layer": witness.layer, "head": witness.head, "answers": witness.answers,
        "equal": witness.answers - witness.differing, "cycles": witness.cycles}}


def _figures(whole: "WholeModel | None", network: "Network", clocks: list[float]
             ) -> dict[str, Any]:
    """What all heads were compared, and what they read, for JSON."""
    if whole is None:
        return {}
    cycles, dense = whole.cycles / whole.tokens, _dense_bytes(whole, network)
    dense_cycles = dense / whole.most_bytes
    return {"hardware": {
        "heads": "all", "config": whole.config.to_dict(), "memory_bytes": len(whole.image.octets),
        "timing": memory.parameters(whole.timing),
        "tokens": whole.tokens, "answers": whole.answers,
        "equal": whole.answers - whole.differing, "cycles_per_token": cycles,
        "bytes_per_token": whole.bytes_read / whole.tokens, "shares": whole.shares,
        "dense_bytes_per_token": dense, "dense_cycles_per_token": dense_cycles,
        "at": [{"clock_mhz": clock, "tokens_per_second": clock * 1e6 / cycles,
                "dense_tokens_per_second": clock * 1e6 / dense_cycles} for clock in clocks]}}


def _dense_bytes(whole: "WholeModel", network: "Network") -> float:
    """Bytes that exact attention would read for a token, in 16 bits."""
    return whole.dense_bytes(network.kv_heads, network.head_dim + network.value_dim) / whole.tokens


def _show(whole: "WholeModel", network: "Network", clocks: list[float]) -> None:
    """Print what all heads were compared, and what they read."""
    figures = _figures(whole, network, clocks)["hardware"]
    shares = ", ".join(f"{name} {share:.1%}" for name, share in whole.shares.items())
    print(f"All {network.heads * network.layers} heads by the hardware, from one memory of "
          f"{len(whole.image.octets) / 1e6:,.1f} MB: {whole.answers - whole.differing} of "
          f"{whole.answers} answers equal the golden model's bit for bit")
    print(f"Per token: {figures['cycles_per_token']:,.0f} cycles, "
          f"{figures['bytes_per_token']:,.0f} bytes read; buses of {8 * whole.beat_bytes} bits "
          f"busy: {shares}; {memory.describe(whole.timing)}")
    print(f"Exact attention in fp16: {figures['dense_bytes_per_token']:,.0f} bytes, in "
          f"{figures['dense_cycles_per_token']:,.0f} cycles at least if all these buses bring them")
    for at in figures["at"]:
        print(f"Attention at {at['clock_mhz']:g} MHz: {at['tokens_per_second']:,.1f} tokens/s; "
              f"exact in fp16 {at['dense_tokens_per_second']:,.1f} at most")


def _head(place: str, network: "Network") -> tuple[int, int]:
    """The layer and head that --hardware names."""
    layer, _, head = place.partition(".")
    if not (layer.isdecimal() and head.isdecimal()):
        raise UserError(f"--hardware must be LAYER.HEAD such as 3.0, or all, not "
                        f"{place!r}")
    if int(layer) >= network.layers or int(head) >= network.heads:
        raise UserError(f"--hardware {place}: there is no such head, the layers are 0 to "
                        f"{network.layers - 1} and their heads 0 to {network.heads - 1}")
    return int(layer), int(head)
