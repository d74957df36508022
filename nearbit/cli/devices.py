"""The board that options name."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import nearbit


if TYPE_CHECKING:
    from nearbit_boards.board import Board


__all__ = ["board_of", "version_numbers"]


def board_of(name: str | None, platform: str | None, config: Path | None, clock: float | None,
             baud: int | None, settings: Sequence[str] | None = None) -> "Board":
    """The board that options name, with what they change of it."""
    from nearbit.boards import choose, find_board
    from nearbit.configs import with_settings
    from nearbit_model.config import Config

    chosen = None if config is None else Config.load(config)
    if settings and chosen is None and name is not None:
        chosen = find_board(name).config
    if settings and chosen is not None:
        chosen = with_settings(chosen, settings)
    return choose(name, platform, chosen, clock=clock, baud=baud)


def version_numbers() -> tuple[int, int, int]:
    """The release, as a bitstream carries it."""
    major, minor, patch = (int(part) for part in nearbit.__version__.split(".")[:3])
    return major, minor, patch
