"""The command `presets`: list the configurations that have names."""

import json
from typing import TYPE_CHECKING

from nearbit.cli.console import console
from nearbit.cli.options import (
    JsonOption,
)


if TYPE_CHECKING:
    from nearbit_model.config import Config


__all__ = ["presets"]


def presets(
    as_json: JsonOption = False,
) -> None:
    """List the presets, smallest first."""
    from rich.table import Table

    from nearbit_model.config import MEMORY_PRESETS, PRESETS

    if as_json:
        print(json.dumps({name: config.to_dict()
                          for name, config in {**PRESETS, **MEMORY_PRESETS}.items()}, indent=2))
        return
    fields = ("key_bits", "value_dim", "capacity", "queries", "lanes", "value_lanes", "top_n",
              "exp_tables")
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("preset", style="bold")
    for field in (*fields, "memory KiB", "rescoring"):
        table.add_column(field, justify="right")
    for name, config in PRESETS.items():
        table.add_row(name, *(str(getattr(config, field)) for field in fields),
                      f"{config.memory_bits / 8192:,.0f}" if config.memory_bits >= 81920
                      else f"{config.memory_bits / 8192:.2f}", _rescoring(config))
    console().print(table)
    cached = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    cached.add_column("from memory", style="bold")
    for field in (*fields, "heads", "bus_bits", "rescoring"):
        cached.add_column(field, justify="right")
    for name, config in MEMORY_PRESETS.items():
        memory = config.memory
        cached.add_row(name, *(str(getattr(config, field)) for field in fields),
                       *(() if memory is None else (str(memory.heads), str(memory.bus_bits))),
                       _rescoring(config))
    console().print()
    console().print(cached)


def _rescoring(config: "Config") -> str:
    """Name the rescoring unit in the list of presets."""
    unit = config.rescore
    return "" if unit is None else (f"{unit.head_dim} x {unit.element_bits} bits"
                                    f"{', shared' if unit.shared else ''}")
