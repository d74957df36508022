"""The command `verilog`: write the accelerator for other designs."""

from pathlib import Path
from typing import Annotated

import typer

from nearbit.cli.accelerators import given_or_default
from nearbit.cli.console import progress
from nearbit.cli.options import Cell, ConfigOption, Interface, PresetOption, SetOption


__all__ = ["verilog"]


def verilog(
    directory: Annotated[Path, typer.Option(
        "-o", "--output", metavar="DIR", help="Output folder; created if necessary.")],
    preset: PresetOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    interface: Annotated[Interface, typer.Option(
        help=(
            "stream: the core's own streams. axi, wishbone: for a system on chip, registers on "
            "AXI4-Lite or Wishbone, and data on AXI4-Stream."))] = Interface.STREAM,
    cell: Annotated[Cell | None, typer.Option(
        help=(
            "The device family to optimize the XOR-popcount for (default: the configuration's "
            "cell, else generic)."))] = None,
    name: Annotated[str, typer.Option(
        metavar="NAME", help=(
            "Replaces 'nearbit' in the names of modules, files and C symbols, so that one design "
            "can contain several cores."))] = "nearbit",
    no_initial: Annotated[bool, typer.Option(
        "--no-initial", help=(
            "Give registers and memories no initial values; reset initializes everything. For "
            "ASICs, and FPGAs such as PolarFire."))] = False,
    vhdl: Annotated[bool, typer.Option(
        "--vhdl", help=(
            "Also write a VHDL component declaration; port names have single underscores."))
        ] = False,
) -> None:
    """Generate Verilog: DIR/nearbit.v, and DIR/nearbit.toml with the configuration.

    With --interface axi or wishbone, it also writes a FuseSoC core file, the register map, a C
    driver and an example, listed in DIR/README.md. The output is reproducible byte for byte. The
    default preset is 'reference'.
    """
    from nearbit.soc import bundle

    bundle.check(str(interface), name)
    accelerator, _, _ = given_or_default(preset, config, settings)
    if cell is not None:
        accelerator = accelerator.replace(cell=str(cell))
    with progress("generating Verilog"):
        written = bundle.write(directory, accelerator, str(interface), name=name,
                               initial=not no_initial, vhdl=vhdl, source=config)
    for path in written:
        print(path)
