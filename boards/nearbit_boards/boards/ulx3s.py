"""Radiona ULX3S with each of its four ECP5."""

import dataclasses

from nearbit_boards.board import OPENFPGALOADER, Board
from nearbit_model.config import Config


__all__ = ["BOARDS"]


_SMALL = Config(key_bits=64, value_dim=64, capacity=1024, lanes=16, value_lanes=16, top_n=32,
                pass_lanes=16, output_cycles=2, cell="ecp5")
_MIDDLE = Config(key_bits=64, value_dim=64, capacity=2048, lanes=32, value_lanes=32, top_n=64,
                 cell="ecp5")
_LARGE = Config(key_bits=64, value_dim=64, capacity=4096, lanes=32, value_lanes=64, top_n=128,
                cell="ecp5")

BOARDS = tuple(
    Board(name=f"ulx3s-{size.lower()}", title=f"Radiona ULX3S {size}",
          platform=f"amaranth_boards.ulx3s:ULX3S_{size}_Platform", config=config,
          # The FT231X divides 3 MHz, except for 2 MHz.
          clock=80_000_000, baud=2_000_000,
          programmer=dataclasses.replace(OPENFPGALOADER, arguments=("-b", "ulx3s", "-m")))
    for size, config in (("12F", _SMALL), ("25F", _SMALL), ("45F", _MIDDLE), ("85F", _LARGE)))
