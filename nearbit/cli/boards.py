"""The command `boards`: list the boards."""

import json

from nearbit.cli.console import console
from nearbit.cli.options import (
    JsonOption,
)


__all__ = ["boards"]


def boards(as_json: JsonOption = False) -> None:
    """List the boards, their presets and their device resources."""
    from nearbit.boards import board_list, show_boards
    if as_json:
        print(json.dumps(board_list(), indent=2))
    else:
        show_boards(console())
