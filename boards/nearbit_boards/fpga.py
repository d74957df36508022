"""The logic around the accelerator on all boards: clock, reset, pins."""

from typing import Any

from amaranth import *
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer  # type: ignore[import-untyped]

from nearbit_boards.board import Board, reference_clock
from nearbit_boards.pll import Ice40Pll, find_pll


__all__ = ["Fpga"]


_READY_SECONDS = 15e-6
"""How long the block RAMs of an iCE40 read as zeros after configuration. Amaranth's own reset for
iCE40 waits as long."""


class Fpga(Elaboratable):
    """The logic around the accelerator on a board: clock, reset, pins.

    The clock is the PLL's. Reset is synchronous. It lasts until 15 us after the PLL has locked, and
    is asserted again if the lock is lost.

    Parameters
    ----------
    board
        The board.
    module
        Name of the Verilog module of the :class:`nearbit_boards.top.BoardTop`.
    """

    def __init__(self, board: Board, module: str):
        self._board = board
        self._module = module

    def elaborate(self, platform: Any) -> Module:
        """Build the logic for the board's platform."""
        m = Module()
        board = self._board

        reference = Signal()
        clock_port = platform.request(platform.default_clk, dir="-")
        m.domains.sync = ClockDomain()
        locked = Signal()
        pll = find_pll(board.device.family, reference_clock(platform), board.clock)
        clock = Signal()
        if pll is None or not board.device.pll_at_pad:
            m.submodules.clock_pin = clock_pin = io.Buffer(io.Direction.Input, clock_port)
            m.d.comb += reference.eq(clock_pin.i)
        if pll is None:
            m.d.comb += [clock.eq(reference), locked.eq(1)]
        elif isinstance(pll, Ice40Pll):
            m.submodules.pll = pll.instance(
                clock_port.io if board.device.pll_at_pad else reference, clock, locked,
                at_pad=board.device.pll_at_pad)
        else:
            m.submodules.pll = pll.instance(reference, clock, locked)
        m.d.comb += ClockSignal().eq(clock)

        # A domain without reset, for the logic that generates the reset.
        m.domains.ready = ClockDomain(reset_less=True)
        m.d.comb += ClockSignal("ready").eq(clock)
        stable = Signal()
        m.submodules.lock = FFSynchronizer(locked, stable, o_domain="ready")
        cycles = int(board.clock * _READY_SECONDS) + 1
        waited = Signal(range(cycles + 1))
        reset = Signal(init=1)
        with m.If(~stable):
            m.d.ready += [waited.eq(0), reset.eq(1)]
        with m.Elif(waited != cycles):
            m.d.ready += waited.eq(waited + 1)
        with m.Else():
            m.d.ready += reset.eq(0)
        m.d.comb += ResetSignal().eq(reset)

        uart = platform.request("uart", 0, dir="-")
        m.submodules.rx_pin = rx_pin = io.Buffer(io.Direction.Input, uart.rx)
        m.submodules.tx_pin = tx_pin = io.Buffer(io.Direction.Output, uart.tx)
        activity, error = Signal(), Signal()
        m.submodules.accelerator = Instance(
            self._module, i_clk=ClockSignal(), i_rst=ResetSignal(), i_rx=rx_pin.i,
            o_tx=tx_pin.o, o_activity=activity, o_error=error)
        for name, led, signal in (("activity", board.activity, self._stretch(m, activity)),
                                  ("error", board.error, error)):
            if led is None:
                continue
            m.submodules[f"{name}_led"] = pin = io.Buffer(
                io.Direction.Output, platform.request(*led, dir="-"))
            m.d.comb += pin.o.eq(signal.replicate(len(pin.o)))
        return m

    def _stretch(self, m: Module, signal: Signal) -> Signal:
        """Stretch a pulse to 50 to 100 ms, so that it is visible."""
        # The counter counts up from 0 until its top bit is set: loading a constant, or comparing,
        # would be the slowest path on an iCEBreaker.
        bits = (self._board.clock // 20 - 1).bit_length() + 1
        shown = Signal(bits, init=1 << bits - 1)
        seen = Signal()
        m.d.comb += seen.eq(~shown[-1])
        with m.If(signal):
            m.d.sync += shown.eq(0)
        with m.Elif(seen):
            m.d.sync += shown.eq(shown + 1)
        return seen
