"""1BitSquared iCEBreaker: an iCE40 UP5K, with SPRAM for values and DSPs to multiply them."""

from nearbit_boards.board import ICEPROG, Board
from nearbit_model.config import PRESETS


__all__ = ["BOARD"]


BOARD = Board(
    name="icebreaker", title="1BitSquared iCEBreaker",
    platform="amaranth_boards.icebreaker:ICEBreakerPlatform",
    # The preset, cut to fit the device: it takes 29 of the 30 block RAMs, and all SPRAMs together
    # are as wide as eight value lanes.
    config=PRESETS["icebreaker"].replace(
        selection="serial", refine_lanes=4, value_ports=1, exp_tables=1, cell="ice40"),
    clock=24_000_000, baud=3_000_000,
    activity=("led_g", 0), error=("led_r", 0), programmer=ICEPROG, seed=6)
