"""Lattice iCE40-HX8K breakout board: 7,680 logic cells, 32 block RAMs, no DSPs."""

import dataclasses

from nearbit_boards.board import ICEPROG, Board
from nearbit_model.config import Config


__all__ = ["BOARD"]


BOARD = Board(
    name="ice40-hx8k-b-evn", title="Lattice iCE40-HX8K Breakout Board",
    platform="amaranth_boards.ice40_hx8k_b_evn:ICE40HX8KBEVNPlatform",
    config=Config(key_bits=32, value_dim=16, capacity=512, lanes=2, refine_lanes=2, value_lanes=4,
                  top_n=32, exp_tables=1, normalizer="divider", divider_cycles=8,
                  selection="serial", cell="ice40"),
    clock=48_000_000, baud=3_000_000,
    # Writes the FPGA's own memory; the board's jumpers choose between that and the flash.
    programmer=dataclasses.replace(ICEPROG, arguments=("-S",)), seed=2)
