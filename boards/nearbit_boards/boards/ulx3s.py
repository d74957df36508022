"""Radiona ULX3S, with each of its four ECP5 devices."""

import dataclasses

from nearbit_boards.board import OPENFPGALOADER, Board
from nearbit_model.config import Config


__all__ = ["BOARDS"]


# Values and keys fill the block RAMs, which leaves none for histograms. All keys are scored in 128
# cycles. In that time, 16 value lanes weight 32 vectors, and two cycles are left for each output.
# The 85F has 32 value lanes, as its values would need more block RAMs with 16.
_SMALL = Config(key_bits=64, value_dim=64, capacity=1024, lanes=8, value_lanes=16, top_n=32,
                normalizer="divider", divider_cycles=2, selection="counters",
                cell="ecp5")
_MIDDLE = Config(key_bits=64, value_dim=64, capacity=2048, lanes=16, value_lanes=16, top_n=32,
                 normalizer="divider", divider_cycles=2, selection="counters",
                 cell="ecp5")
_LARGE = Config(key_bits=64, value_dim=64, capacity=4096, lanes=32, value_lanes=32, top_n=32,
                normalizer="divider", divider_cycles=2, selection="counters",
                cell="ecp5")

BOARDS = tuple(
    Board(name=f"ulx3s-{size.lower()}", title=f"Radiona ULX3S {size}",
          platform=f"amaranth_boards.ulx3s:ULX3S_{size}_Platform", config=config,
          # The USB chip generates 3 Mbaud and 2 Mbaud exactly, and few rates in between.
          clock=clock, baud=baud, seed=seed,
          programmer=dataclasses.replace(OPENFPGALOADER, arguments=("-b", "ulx3s", "-m")))
    for size, config, clock, baud, seed in (
        ("12F", _SMALL, 75_000_000, 3_000_000, 1), ("25F", _SMALL, 75_000_000, 3_000_000, 1),
        ("45F", _MIDDLE, 70_000_000, 2_000_000, 1), ("85F", _LARGE, 80_000_000, 2_000_000, 2)))
