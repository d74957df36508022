"""Tables that a narrow terminal does not cut."""

from rich.console import Console
from rich.table import Table


__all__ = ["print_table"]


def print_table(table: Table, console: Console) -> None:
    """Print a table as wide as it is: a terminal that is narrower wraps its lines."""
    wide = console.options.update(width=10_000)
    console.print(table, width=max(console.width, console.measure(table, options=wide).maximum),
                  crop=False, no_wrap=True)
