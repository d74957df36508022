"""The command `presets`: list the configurations that have names."""

import json
from typing import TYPE_CHECKING

from nearbit.cli.console import console
from nearbit.cli.options import (
    JsonOption,
)


if TYPE_CHECKING:
    from rich.console import Console

    from nearbit_model.config import Config


__all__ = ["presets", "show_presets"]


_FIELDS = ("key_bits", "value_dim", "capacity", "queries", "lanes", "value_lanes", "top_n")

# Over two lines, for terminals of 80 columns.
_TITLES = {"key_bits": "key_\nbits", "value_dim": "value_\ndim", "queries": "que-\nries",
           "value_lanes": "value_\nlanes"}


def presets(
    as_json: JsonOption = False,
) -> None:
    """List the presets, smallest first."""
    from nearbit_model.config import MEMORY_PRESETS, PRESETS

    if as_json:
        print(json.dumps({name: config.to_dict()
                          for name, config in {**PRESETS, **MEMORY_PRESETS}.items()}, indent=2))
    else:
        show_presets(console())


def show_presets(console: "Console") -> None:
    """Print the presets without a memory, and below those with one."""
    from rich.table import Table

    from nearbit.tables import print_table
    from nearbit_model.config import MEMORY_PRESETS, PRESETS

    own, cached = (Table(box=None, pad_edge=False, padding=(0, 1, 0, 0)) for _ in range(2))
    for table, title, more in ((own, "preset", ("KiB",)),
                               (cached, "from\nmemory", ("heads", "bus\nbits"))):
        table.add_column(title, style="bold", vertical="bottom")
        for name in (*_FIELDS, *more, "rescoring"):
            table.add_column(_TITLES.get(name, name), justify="right", vertical="bottom")
    for name, config in PRESETS.items():
        size = config.memory_bits / 8192
        own.add_row(name, *_cells(config), f"{size:,.0f}" if size >= 10 else f"{size:.2f}",
                    _rescoring(config))
    for name, config in MEMORY_PRESETS.items():
        memory = config.memory
        cached.add_row(name, *_cells(config),
                       *(() if memory is None else (str(memory.heads), str(memory.bus_bits))),
                       _rescoring(config))
    print_table(own, console)
    console.print()
    print_table(cached, console)
    console.print("\nKiB: of codes, values and keys for rescoring. 'nearbit config --preset NAME' "
                  "shows all fields.", soft_wrap=True, highlight=False)


def _cells(config: "Config") -> list[str]:
    return [str(getattr(config, name)) for name in _FIELDS]


def _rescoring(config: "Config") -> str:
    """Name the rescoring unit in the list of presets."""
    unit = config.rescore
    return "" if unit is None else (f"{unit.head_dim}x{unit.element_bits}"
                                    f"{', shared' if unit.shared else ''}")
