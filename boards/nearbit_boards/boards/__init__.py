"""The boards known by name."""

from types import MappingProxyType

from nearbit_boards.board import Board, BoardError, suggest
from nearbit_boards.boards import ice40_hx8k_b_evn, icebreaker, icepi_zero, ulx3s


__all__ = ["BOARDS", "find_board"]


BOARDS: MappingProxyType[str, Board] = MappingProxyType({board.name: board for board in (
    icebreaker.BOARD, ice40_hx8k_b_evn.BOARD, *ulx3s.BOARDS, icepi_zero.BOARD)})
"""Boards by name."""


def find_board(name: str) -> Board:
    """Look a board up by its name, in any case of letters.

    :class:`BoardError` suggests others.
    """
    known = name.lower()
    if known not in BOARDS:
        raise BoardError(f"unknown board {name!r}; {suggest(known, list(BOARDS))}")
    return BOARDS[known]
