"""The command `area`: FPGA resources of each block."""

import json
from typing import Annotated

import typer

from nearbit.cli.accelerators import given_or_default
from nearbit.cli.console import console, progress
from nearbit.cli.options import (
    ConfigOption,
    JsonOption,
    PresetOption,
    SetOption,
    Target,
)


__all__ = ["area"]


def area(
    target: Annotated[Target, typer.Option(help="Device family.")] = Target.ECP5,
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    is_checked: Annotated[bool, typer.Option(
        "--check", help="Also synthesize (minutes), and compare.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Estimate logic, flip-flops, block RAMs and multipliers of each block on a device.

    The default preset is 'reference'. Of configurations with a memory, --check counts; without it,
    only presets are known. The exit status is 2 if the input is wrong.
    """
    from nearbit import area as report

    accelerator, shown, name = given_or_default(preset, config, settings)
    checked = None
    if is_checked and accelerator.memory is not None:
        # There is no model to be compared with it.
        with progress("synthesizing (minutes)"):
            found = report.count_all(accelerator, target)
    else:
        found = report.estimate(accelerator, target)
        if is_checked:
            with progress("synthesizing (minutes)"):
                checked = report.check(accelerator, target)
    if as_json:
        print(json.dumps({
            "preset": name, "config": accelerator.to_dict(), **found.to_dict(),
            **({} if checked is None else {"synthesized": checked.to_dict()}),
        }, indent=2, allow_nan=False))
    else:
        report.show(shown, accelerator, found, checked, console())
