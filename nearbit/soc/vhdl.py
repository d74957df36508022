"""The component declaration by which a design in VHDL instantiates the Verilog."""

from collections.abc import Sequence
from dataclasses import dataclass

from nearbit.soc.identifiers import is_vhdl_identifier


__all__ = ["Port", "package_text"]


@dataclass(frozen=True)
class Port:
    """A port of a Verilog module."""

    name: str
    direction: str
    bits: int

    @property
    def range(self) -> str:
        """As it stands in a declaration of Verilog."""
        return "" if self.bits == 1 else f"[{self.bits - 1}:0] "

    @property
    def vhdl(self) -> str:
        """As it stands in a declaration of VHDL."""
        kind = "std_logic" if self.bits == 1 else f"std_logic_vector({self.bits - 1} downto 0)"
        return f"{self.name} : {self.direction.removesuffix('put'):<3} {kind}"


def package_text(top: str, ports: Sequence[Port]) -> str:
    """Write a package, called like the module with `_pkg` behind, with the module's component.

    Raises
    ------
    ValueError
        If a port has a name that VHDL does not take.
    """
    for port in ports:
        if not is_vhdl_identifier(port.name):
            raise ValueError(f"Port {port.name!r} has a name that VHDL does not take")
    declarations = ";\n".join(f"      {port.vhdl}" for port in ports)
    return (f"-- SPDX-License-Identifier: Apache-2.0\n\n"
            f"library ieee;\nuse ieee.std_logic_1164.all;\n\n"
            f"package {top}_pkg is\n\n"
            f"  -- The Verilog module of this name.\n"
            f"  component {top} is\n    port (\n{declarations}\n    );\n"
            f"  end component {top};\n\n"
            f"end package {top}_pkg;\n")
