"""Clocks: the PLLs of iCE40 and ECP5, and how to choose their dividers."""

from dataclasses import dataclass
from typing import Any

from amaranth import *


__all__ = ["Ecp5Pll", "Ice40Pll", "PllError", "find_pll"]


class PllError(ValueError):
    """A clock that the PLL cannot generate; the message is one sentence."""


_ERROR_MAX = 0.005
"""Largest relative error of the clock; a UART's two ends share 5 %."""


@dataclass(frozen=True)
class Ice40Pll:
    """Dividers of an SB_PLL40_CORE with simple feedback.

    The output is ``reference * (divf + 1) / (divr + 1) / 2 ** divq`` (Lattice FPGA-TN-02052).

    Parameters
    ----------
    reference
        Hz of the input, 10 to 133 MHz.
    divr, divf, divq
        0 to 15, 0 to 127, 1 to 6.
    """

    reference: int
    divr: int
    divf: int
    divq: int

    @property
    def pfd(self) -> float:
        """Hz at the phase detector, 10 to 133 MHz."""
        return self.reference / (self.divr + 1)

    @property
    def vco(self) -> float:
        """Hz of the oscillator, 533 to 1,066 MHz."""
        return self.pfd * (self.divf + 1)

    @property
    def output(self) -> float:
        """Hz of the output, 16 to 275 MHz."""
        return self.vco / 2 ** self.divq

    @property
    def filter_range(self) -> int:
        """Setting of the loop filter for the frequency at the phase detector."""
        return next((setting for limit, setting in ((17e6, 1), (26e6, 2), (44e6, 3), (66e6, 4),
                                                    (101e6, 5)) if self.pfd < limit), 6)

    @classmethod
    def choices(cls, reference: int) -> "list[Ice40Pll]":
        """Return all settings within the limits."""
        found = (cls(reference, divr, divf, divq) for divr in range(16) for divf in range(128)
                 for divq in range(1, 7))
        return [pll for pll in found if 10e6 <= pll.pfd <= 133e6 and 533e6 <= pll.vco <= 1066e6
                and 16e6 <= pll.output <= 275e6]

    def instance(self, reference: Any, clock: Value, locked: Value, *,
                 at_pad: bool = False) -> Instance:
        """Instantiate the PLL between a reference and a clock.

        The reference is a signal or, with ``at_pad``, the port of the pad beside the PLL.
        """
        kind, pin = ("SB_PLL40_PAD", {"i_PACKAGEPIN": reference}) if at_pad else (
            "SB_PLL40_CORE", {"i_REFERENCECLK": reference})
        return Instance(
            kind, p_FEEDBACK_PATH="SIMPLE", p_PLLOUT_SELECT="GENCLK",
            p_DIVR=Const(self.divr, 4), p_DIVF=Const(self.divf, 7), p_DIVQ=Const(self.divq, 3),
            p_FILTER_RANGE=Const(self.filter_range, 3), **pin,
            i_RESETB=Const(1), i_BYPASS=Const(0), o_PLLOUTGLOBAL=clock, o_LOCK=locked)


@dataclass(frozen=True)
class Ecp5Pll:
    """Dividers of an EHXPLLL whose output is its feedback.

    The output is ``reference * clkfb_div / clki_div`` (Lattice FPGA-TN-02200).

    Parameters
    ----------
    reference
        Hz of the input, 8 to 400 MHz.
    clki_div, clkfb_div, clkop_div
        Each 1 to 128.
    """

    reference: int
    clki_div: int
    clkfb_div: int
    clkop_div: int

    @property
    def pfd(self) -> float:
        """Hz at the phase detector, 3.125 to 400 MHz."""
        return self.reference / self.clki_div

    @property
    def vco(self) -> float:
        """Hz of the oscillator, 400 to 800 MHz."""
        return self.output * self.clkop_div

    @property
    def output(self) -> float:
        """Hz of the output, 3.125 to 400 MHz."""
        return self.pfd * self.clkfb_div

    @classmethod
    def choices(cls, reference: int) -> "list[Ecp5Pll]":
        """Return all settings within the limits, with the oscillator near its mid-range."""
        found = []
        for clki_div in range(1, 129):
            for clkfb_div in range(1, 129):
                output = reference / clki_div * clkfb_div
                if not 3.125e6 <= output <= 400e6:
                    continue
                clkop_div = min(128, max(1, round(600e6 / output)))
                pll = cls(reference, clki_div, clkfb_div, clkop_div)
                if 3.125e6 <= pll.pfd <= 400e6 and 400e6 <= pll.vco <= 800e6:
                    found.append(pll)
        return found

    def instance(self, reference: Value, clock: Value, locked: Value) -> Instance:
        """Instantiate the PLL between a reference and a clock."""
        attributes: dict[str, Any] = {
            "a_FREQUENCY_PIN_CLKI": f"{self.reference / 1e6:g}",
            "a_FREQUENCY_PIN_CLKOP": f"{self.output / 1e6:g}",
            "a_ICP_CURRENT": "12", "a_LPF_RESISTOR": "8", "a_MFG_ENABLE_FILTEROPAMP": "1",
            "a_MFG_GMCREF_SEL": "2",
        }
        return Instance(
            "EHXPLLL", **attributes, p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED", p_DPHASE_SOURCE="DISABLED", p_OUTDIVIDER_MUXA="DIVA",
            p_CLKOP_ENABLE="ENABLED", p_CLKOP_DIV=self.clkop_div,
            p_CLKOP_CPHASE=self.clkop_div // 2, p_CLKOP_FPHASE=0, p_FEEDBK_PATH="CLKOP",
            p_CLKI_DIV=self.clki_div, p_CLKFB_DIV=self.clkfb_div, i_CLKI=reference,
            i_CLKFB=clock, i_RST=Const(0), i_STDBY=Const(0), i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0), i_PHASEDIR=Const(1), i_PHASESTEP=Const(1),
            i_PHASELOADREG=Const(1), i_PLLWAKESYNC=Const(0), i_ENCLKOP=Const(0),
            o_CLKOP=clock, o_LOCK=locked)


def find_pll(family: str, reference: int, clock: int) -> Ice40Pll | Ecp5Pll | None:
    """Choose the dividers that come closest to a clock.

    Parameters
    ----------
    family
        ``ice40`` or ``ecp5``.
    reference, clock
        Hz.

    Returns
    -------
    Ice40Pll, Ecp5Pll or None
        None if the reference already is the clock.

    Raises
    ------
    PllError
        If no setting comes within 0.5 %.
    """
    if reference == clock:
        return None
    choices: list[Any] = (Ice40Pll if family == "ice40" else Ecp5Pll).choices(reference)
    # Among equals, take the least division of the reference, for less jitter.
    best = min(choices, key=lambda pll: (abs(pll.output - clock), -pll.pfd), default=None)
    if best is None or abs(best.output / clock - 1) > _ERROR_MAX:
        nearest = "" if best is None else f"; the nearest is {best.output / 1e6:.3f} MHz"
        raise PllError(f"the PLL cannot make {clock / 1e6:g} MHz from the board's "
                       f"{reference / 1e6:g} MHz{nearest}")
    found: Ice40Pll | Ecp5Pll = best
    return found
