"""The command `distill`: a model that attends by signs (HAD)."""

import json
from pathlib import Path
from typing import Annotated

import typer

from nearbit.cli.console import count, progress
from nearbit.cli.errors import UserError
from nearbit.cli.models import load_network
from nearbit.cli.options import (
    JsonOption,
    ModelOption,
    Stages,
    TextsOption,
)
from nearbit.files import output_folder


__all__ = ["distill"]


def distill(
    model: ModelOption,
    text: TextsOption,
    out: Annotated[Path, typer.Option(
        "-o", "--output", metavar="FOLDER", help="Output folder of the checkpoint.")],
    minutes: Annotated[float | None, typer.Option(
        metavar="M", help="Minutes to train (default: 30, without --steps).")] = None,
    steps: Annotated[int | None, typer.Option(
        metavar="N", help="Steps to train, instead of --minutes.")] = None,
    n: Annotated[int, typer.Option("--n", metavar="N", help="Keys attended to per query.")] = 32,
    stages: Annotated[Stages, typer.Option(
        help=(
            "straight-through: signs from the start. published: from soft to hard in four stages."),
        )] = Stages.STRAIGHT_THROUGH,
    rounds: Annotated[int, typer.Option(
        metavar="R", help="Times the learning rates fall to 0; weights are averaged over them."),
        ] = 1,
    passage: Annotated[int, typer.Option(
        metavar="P", help="Maximum tokens per passage.")] = 128,
    batch: Annotated[int, typer.Option(metavar="B", help="Passages per step.")] = 16,
    rate: Annotated[float, typer.Option(metavar="R", help="Peak learning rate.")] = 2.5e-4,
    qk_rate: Annotated[float, typer.Option(
        metavar="R", help="Peak learning rate of the query and key projections.")] = 1e-3,
    seed: Annotated[int, typer.Option(metavar="S", help="Random seed.")] = 0,
    start: Annotated[Path | None, typer.Option(
        metavar="FOLDER", help="Checkpoint of this command to continue from.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Distil a model to attend by the signs of its queries and keys (HAD).

    'evaluate --method had' and 'capture' read the checkpoint, including the logit scales of its
    heads. The output folder must not exist. The exit status is 2 if the input is wrong.
    """

    if out.exists():
        raise UserError(f"{out} already exists; give another folder, or remove it")
    if minutes is None and steps is None:
        minutes = 30.0
    with progress("loading the model") as bar, output_folder(out):
        network = load_network(model)
        from nearbit_nets import distill as distillation
        from nearbit_nets import texts

        plan = distillation.Plan(n=n, stages=stages, steps=steps, minutes=minutes, rounds=rounds,
                                 batch=batch, passage=passage, rate=rate, qk_rate=qk_rate,
                                 seed=seed)
        found = distillation.distill(network, [texts.read(path) for path in text], plan,
                                     start=None if start is None else load_network(f"hf:{start}"),
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
            "logit_scale": found.logit_scale.tolist()}, indent=2))
    else:
        print(f"{out}: {model} distilled with n {n}, {count(found.steps, 'step')} in "
              f"{found.seconds:.0f} s on {count(found.passages, 'passage')}; {measured} on others "
              f"{found.before:.4f} before, {found.after:.4f} after, {found.teacher:.4f} of the "
              f"teacher")
