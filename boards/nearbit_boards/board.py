"""Descriptions of boards and their devices."""

import difflib
import importlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nearbit_model.config import Config
from nearbit_model.errors import NearbitError


# Functions that use a platform import Amaranth themselves: hosts only read names and rates.


__all__ = ["DEVICES", "ICEPROG", "OPENFPGALOADER", "Board", "BoardError", "Device", "Programmer",
           "can_light", "reference_clock", "suggest"]


class BoardError(NearbitError):
    """A board that cannot be used as requested; the message is one sentence for the user."""


def suggest(name: str, known: list[str]) -> str:
    """Suggest the known names closest to one, or list all of them."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"


@dataclass(frozen=True)
class Device:
    """Resources of a device.

    Parameters
    ----------
    family
        ``ice40`` or ``ecp5``.
    luts
        Logic cells of an iCE40, LUT4 of an ECP5.
    brams
        Block RAMs: SB_RAM40_4K of 4 Kbit, DP16KD of 18 Kbit.
    sprams
        SB_SPRAM256KA of 256 Kbit.
    dsps
        SB_MAC16 or MULT18X18D.
    pll_at_pad
        Whether the PLL takes its reference from the adjacent pad, which then cannot be used as
        another input.
    """

    family: str
    luts: int
    brams: int
    sprams: int
    dsps: int
    pll_at_pad: bool = False


DEVICES = {
    "iCE40HX1K": Device("ice40", 1280, 16, 0, 0),
    "iCE40LP1K": Device("ice40", 1280, 16, 0, 0),
    # The 4K is the same chip as the 8K, and the open tools use all of it.
    "iCE40HX4K": Device("ice40", 7680, 32, 0, 0),
    "iCE40LP4K": Device("ice40", 7680, 32, 0, 0),
    "iCE40HX8K": Device("ice40", 7680, 32, 0, 0),
    "iCE40LP8K": Device("ice40", 7680, 32, 0, 0),
    "iCE40UP5K": Device("ice40", 5280, 30, 4, 8, pll_at_pad=True),
    # The 12F is a 25F, and the open tools use all of it.
    "LFE5U-12F": Device("ecp5", 24288, 56, 0, 28),
    "LFE5U-25F": Device("ecp5", 24288, 56, 0, 28),
    "LFE5U-45F": Device("ecp5", 43848, 108, 0, 72),
    "LFE5U-85F": Device("ecp5", 83640, 208, 0, 156),
    "LFE5UM-25F": Device("ecp5", 24288, 56, 0, 28),
    "LFE5UM-45F": Device("ecp5", 43848, 108, 0, 72),
    "LFE5UM-85F": Device("ecp5", 83640, 208, 0, 156),
    "LFE5UM5G-25F": Device("ecp5", 24288, 56, 0, 28),
    "LFE5UM5G-45F": Device("ecp5", 43848, 108, 0, 72),
    "LFE5UM5G-85F": Device("ecp5", 83640, 208, 0, 156),
}
"""Devices for which bitstreams can be built with open tools from PyPI, by Amaranth's names."""


@dataclass(frozen=True)
class Programmer:
    """The program that writes a bitstream to a board.

    Parameters
    ----------
    command
        Its name.
    arguments
        Its arguments, which precede the name of the bitstream.
    variable
        The environment variable that overrides the command, as in amaranth-boards.
    package
        How to install it.
    usb
        The board's USB vendor and product, for the udev rule.
    """

    command: str
    arguments: tuple[str, ...]
    variable: str
    package: str
    usb: str


# Both write over USB; boards override only the arguments.
ICEPROG = Programmer("iceprog", (), "ICEPROG", "sudo apt-get install fpga-icestorm", "0403:6010")
OPENFPGALOADER = Programmer("openFPGALoader", (), "OPENFPGALOADER",
                            "sudo apt-get install openfpgaloader", "0403:6015")


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board with its preset.

    Parameters
    ----------
    name, title
        What the user types, and the product name.
    platform
        Its amaranth-boards platform, ``module:Class``.
    config
        A configuration that makes good use of its device.
    clock
        Clock frequency in Hz.
    baud
        Bits per second of the host link.
    activity, error
        LEDs, as name and number of a platform resource; None for no LED.
    programmer
        The program that writes the bitstream; None if it is unknown.
    seed
        Placement seed with which the preset meets its clock.
    """

    name: str
    title: str
    platform: str
    config: Config
    clock: int
    baud: int = 1_000_000
    activity: tuple[str, int] | None = ("led", 0)
    error: tuple[str, int] | None = ("led", 1)
    programmer: Programmer | None = None
    seed: int = 1

    @cached_property
    def platform_class(self) -> Any:
        """The platform's class; :class:`BoardError` if it is missing or its device unsupported."""
        module, colon, name = self.platform.partition(":")
        if not colon or not module or not name:
            raise BoardError(f"--platform must be module:Class, such as "
                             f"amaranth_boards.icebreaker:ICEBreakerPlatform, not "
                             f"{self.platform!r}")
        try:
            found = getattr(importlib.import_module(module), name)
        except AttributeError:
            raise BoardError(f"the module {module} has no platform {name}") from None
        except Exception as error: # The module may be anyone's.
            raise BoardError(f"the platform's module {module} cannot be imported: {error}"
                             ) from None
        if getattr(found, "device", None) not in DEVICES:
            what = getattr(found, "device", None)
            what = "not a platform" if not isinstance(what, str) else f"for {what}"
            raise BoardError(f"{self.platform} is {what}; bitstreams can be built for "
                             f"{', '.join(DEVICES)}")
        return found

    @property
    def part(self) -> str:
        """The device's name."""
        name: str = self.platform_class.device
        return name

    @property
    def device(self) -> Device:
        """The device's resources."""
        return DEVICES[self.part]

    def new_platform(self) -> Any:
        """Instantiate the platform; :class:`BoardError` if that fails."""
        made = self.platform_class
        try:
            return made()
        except Exception as error: # The class may be anyone's.
            raise BoardError(f"the platform {self.platform} cannot be instantiated: {error}"
                             ) from None

    def claim(self) -> Any:
        """Instantiate the platform and request its clock and UART, so other pins can be checked.

        Raises :class:`BoardError` if either is missing or they share a pin.
        """
        from amaranth.build.res import ResourceError

        platform = self.new_platform()
        reference_clock(platform)
        try:
            platform.lookup("uart")
        except ResourceError:
            raise BoardError(f"{self.platform} has no UART (a resource named uart) for the host "
                             f"link") from None
        try:
            platform.request(platform.default_clk, dir="-")
            uart = platform.request("uart", 0, dir="-")
        except Exception as error: # Its attributes may be anyone's functions.
            raise BoardError(f"{self.platform} has no clock and UART that can be used together: "
                             f"{error}") from None
        missing = [name for name in ("rx", "tx") if not hasattr(uart, name)]
        if missing:
            raise BoardError(f"the UART of {self.platform} has no pin {missing[0]}")
        return platform

    def check(self) -> None:
        """Raise :class:`BoardError` if the board cannot be built as described.

        Reasons: a clock or baud rate out of reach, no UART, pins used twice, a selection that needs
        another kind of block RAM, a normalizer that needs multipliers, or a cache in a memory,
        which the host link cannot reach.
        """
        from nearbit_boards.pll import PllError, find_pll
        from nearbit_boards.uart import divisor

        if self.config.memory is not None:
            raise BoardError(f"{self.name}: boards with a host link hold keys and values in block "
                             f"RAM; leave [memory] out, or generate the core for a system on chip "
                             f"with 'nearbit verilog'")
        if self.config.selection == "histograms" and self.device.family == "ice40":
            raise BoardError(f"{self.name}: the selection 'histograms' needs block RAM with two "
                             f"full ports, which iCE40 does not have; take 'serial' or 'counters'")
        if self.config.normalizer == "reciprocal" and self.device.family == "ice40":
            raise BoardError(f"{self.name}: the normalizer 'reciprocal' needs multipliers of 18 "
                             f"bits, which iCE40 does not have; take 'divider'")
        platform = self.claim()
        for led in (self.activity, self.error):
            if led is not None and not can_light(platform, led):
                raise BoardError(f"{self.platform} has no LED {led[0]} {led[1]} whose pin is free")
        try:
            find_pll(self.device.family, reference_clock(platform), self.clock)
            divisor(self.clock, self.baud)
        except (PllError, ValueError) as error:
            said = str(error)
            raise BoardError(f"{self.name}: {said[:1].lower()}{said[1:]}") from None


def can_light(platform: Any, led: tuple[str, int]) -> bool:
    """Request an LED of a platform; return whether it exists and its pin is free."""
    from amaranth.build.res import ResourceError
    from amaranth.lib.io import PortLike

    try:
        port = platform.request(*led, dir="-")
    except ResourceError:
        return False
    return isinstance(port, PortLike)


def reference_clock(platform: Any) -> int:
    """Hz of the platform's default clock; :class:`BoardError` if it is missing or unknown."""
    if platform.default_clk is None or platform.default_clk_constraint is None:
        raise BoardError(f"{type(platform).__name__} has no default clock of a known frequency")
    return round(platform.default_clk_frequency)
