"""The board that options name."""

from pathlib import Path
from typing import TYPE_CHECKING

import nearbit


if TYPE_CHECKING:
    from nearbit_boards.board import Board


__all__ = ["board_of", "version_numbers"]


def board_of(name: str | None, platform: str | None, config: Path | None, clock: float | None,
             baud: int | None) -> "Board":
    """The board that options name, with what they change of it."""
    from nearbit.boards import choose
    from nearbit_model.config import Config

    return choose(name, platform, None if config is None else Config.load(config), clock=clock,
                  baud=baud)


def version_numbers() -> tuple[int, int, int]:
    """The release, as a bitstream carries it."""
    major, minor, patch = (int(part) for part in nearbit.__version__.split(".")[:3])
    return major, minor, patch
