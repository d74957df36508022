"""Tables that a narrow terminal does not cut."""

from rich.console import Console
from rich.table import Table


__all__ = ["print_table"]


def print_table(table: Table, console: Console) -> None:
    """Print a table as wide as it is: a terminal that is narrower wraps its lines."""
    width = console.width
    natural = console.measure(table, options=console.options.update(width=10_000)).maximum
    console.width = max(width, natural)
    try:
        console.print(table)
    finally:
        console.width = width
