"""The command `verilog`: write the accelerator for other designs."""

from pathlib import Path
from typing import Annotated

import typer

from nearbit.cli.accelerators import given_or_default
from nearbit.cli.console import progress
from nearbit.cli.options import Cell, ConfigOption, Interface, PresetOption


__all__ = ["verilog"]


def verilog(
    directory: Annotated[Path, typer.Option(
        "-o", "--output", metavar="DIR", help="Where to write; made if it is not there.")],
    preset: PresetOption = None,
    config: ConfigOption = None,
    interface: Annotated[Interface, typer.Option(
        help=(
            "What it connects to: streams as they are, or for a system on chip registers on "
            "AXI4-Lite or Wishbone, and AXI4-Stream."))] = Interface.STREAM,
    cell: Annotated[Cell | None, typer.Option(
        help=(
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

    bundle.check(str(interface), name)
    accelerator, _, _ = given_or_default(preset, config)
    if cell is not None:
        accelerator = accelerator.replace(cell=str(cell))
    with progress("generating Verilog"):
        written = bundle.write(directory, accelerator, str(interface), name=name,
                               initial=not no_initial, vhdl=vhdl, source=config)
    for path in written:
        print(path)
