# amaranth: UnusedElaboratable=no
"""Every platform of amaranth-boards with a device that is built for: a board top, or a sentence."""

import importlib
import inspect
import os
import pkgutil
from pathlib import Path

import amaranth_boards
import pytest
from amaranth.build import Attrs, Clock, Pins, Resource, Subsignal
from amaranth.vendor import LatticeICE40Platform

from nearbit.boards import choose
from nearbit.cli import main
from nearbit_boards.board import DEVICES, BoardError
from nearbit_boards.build import _prepare
from nearbit_model.config import Config


ROOT = Path(__file__).resolve().parents[2]
TINY = Config(key_bits=8, value_dim=4, capacity=64, lanes=2, value_lanes=2, top_n=8, exp_tables=1,
              normalizer="divider", divider_cycles=4, selection="serial")

NO_UART = "has no UART (a resource named uart) for the host link"

# Of each platform its own clock in MHz and its LEDs that are used, or why it is refused.
PLATFORMS = {
    "blackice:BlackIcePlatform": (100, "0, 1"),
    "blackice_ii:BlackIceIIPlatform": (100, "0, 1"),
    "butterstick:ButterStickPlatform": NO_UART,
    # Its LED is at the UART's pin.
    "colorlight_5a75b_r7_0:Colorlight_5A75B_R70Platform": (25, ""),
    "ecp5_5g_evn:ECP55GEVNPlatform": (12, "0, 1"),
    "ecpix5:ECPIX545Platform": (100, ""),
    "ecpix5:ECPIX585Platform": (100, ""),
    "fomu_hacker:FomuHackerPlatform": NO_UART,
    "fomu_pvt:FomuPVTPlatform": NO_UART,
    "ice40_hx1k_blink_evn:ICE40HX1KBlinkEVNPlatform": NO_UART,
    "ice40_hx8k_b_evn:ICE40HX8KBEVNPlatform": (12, "0, 1"),
    "ice40_up5k_b_evn:ICE40UP5KBEVNPlatform": NO_UART,
    "icebreaker:ICEBreakerPlatform": (12, "0, 1"),
    "icebreaker_bitsy:ICEBreakerBitsyPlatform": NO_UART,
    "icepi_zero:IcepiZero1_3Platform": (50, "0, 1"),
    "icestick:ICEStickPlatform": (12, "0, 1"),
    "icesugar:ICESugarPlatform": (12, "0, 1"),
    "icesugar_nano:ICESugarNanoPlatform": (12, "0"),
    "icesugar_pro:ICESugarProPlatform": (25, ""),
    "logicbone:Logicbone85FPlatform": NO_UART,
    "logicbone:LogicbonePlatform": NO_UART,
    "nandland_go:NandlandGoPlatform": (25, "0, 1"),
    "orangecrab_r0_1:OrangeCrabR0_1Platform": NO_UART,
    "orangecrab_r0_2:OrangeCrabR0_2Platform": NO_UART,
    "orangecrab_r0_2:OrangeCrabR0_2_25FPlatform": NO_UART,
    "orangecrab_r0_2:OrangeCrabR0_2_85FPlatform": NO_UART,
    "supercon19badge:Supercon19BadgePlatform": (
        "cannot be built for, as its own code fails: TypeError: amaranth.build.plat."
        "TemplatedPlatform.toolchain_prepare() got multiple values for keyword argument "
        "'synth_opts'"),
    "tinyfpga_bx:TinyFPGABXPlatform": NO_UART,
    "ulx3s:ULX3S_12F_Platform": (25, "0, 1"),
    "ulx3s:ULX3S_25F_Platform": (25, "0, 1"),
    "ulx3s:ULX3S_45F_Platform": (25, "0, 1"),
    "ulx3s:ULX3S_85F_Platform": (25, "0, 1"),
    "upduino_v1:UpduinoV1Platform": NO_UART,
    "upduino_v2:UpduinoV2Platform": NO_UART,
    "upduino_v3:UpduinoV3Platform": NO_UART,
    "versa_ecp5:VersaECP5Platform": (100, "0, 1"),
    "versa_ecp5_5g:VersaECP55GPlatform": (100, "0, 1"),
}


def platforms():
    """All classes of amaranth-boards with a device that is built for."""
    for module in pkgutil.iter_modules(amaranth_boards.__path__):
        if module.ispkg:
            continue
        name = f"amaranth_boards.{module.name}"
        for kind in vars(importlib.import_module(name)).values():
            if inspect.isclass(kind) and kind.__module__ == name \
                    and getattr(kind, "device", None) in DEVICES:
                yield f"{module.name}:{kind.__name__}", kind


def construct(platform, folder, **options):
    """Write all files of a build but the accelerator itself; return the board."""
    board = choose(None, platform, TINY, **options)
    _prepare(board, "module accelerator; endmodule\n", folder, 1)
    return board


def test_all_are_known():
    """A new release of amaranth-boards brings new ones here."""
    assert sorted(name for name, _ in platforms()) == sorted(PLATFORMS)


@pytest.mark.parametrize("name", PLATFORMS)
def test_platform(name, tmp_path):
    platform, wanted = f"amaranth_boards.{name}", PLATFORMS[name]
    if isinstance(wanted, str):
        with pytest.raises(BoardError) as caught:
            construct(platform, tmp_path)
        assert str(caught.value) == f"{platform} {wanted}"
        assert os.listdir(tmp_path) == []
        return
    board = construct(platform, tmp_path)
    leds = [str(led[1]) for led in (board.activity, board.error) if led is not None]
    assert (board.clock / 1e6, ", ".join(leds)) == wanted
    constraints = next(path for path in tmp_path.iterdir() if path.suffix in (".pcf", ".lpf"))
    assert "uart_0__rx" in constraints.read_text()
    # Through the PLL, too.
    assert construct(platform, tmp_path, clock=60.0, baud=3_000_000).clock == 60_000_000


def table():
    """The table of docs/boards.md."""
    lines = ["| platform | device | own clock MHz | LEDs | |", "|---|---|---|---|---|"]
    kinds = dict(platforms())
    for name, wanted in PLATFORMS.items():
        clock, leds, why = ("", "", wanted) if isinstance(wanted, str) else (*wanted, "works")
        why = "has no resource `uart`" if why == NO_UART else why
        if why.startswith("cannot be built"):
            why = "its own code fails"
        lines.append(f"| `{name}` | {kinds[name].device} | {clock} | {leds} | {why} |")
    return "\n".join(lines)


def test_table_in_the_documentation():
    page = (ROOT / "docs" / "boards.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- platforms: begin -->\n")[2].partition("\n<!-- platforms: end")[0]
    assert shown == table(), f"docs/boards.md needs this table:\n{table()}"


def test_refused_by_the_command(tmp_path, capsys):
    config = tmp_path / "tiny.toml"
    config.write_text(TINY.to_toml())
    name = "supercon19badge:Supercon19BadgePlatform"
    assert main(["build", "--platform", f"amaranth_boards.{name}", "--config", str(config), "-o",
                 str(tmp_path / "out")]) == 2
    assert capsys.readouterr() == ("", f"nearbit: amaranth_boards.{name} {PLATFORMS[name]}\n")
    assert not (tmp_path / "out").exists()


# ---- Platforms of anybody.

class Small(LatticeICE40Platform):
    device = "iCE40HX1K"
    package = "TQ144"
    default_clk = "clk"
    resources = (
        Resource("clk", 0, Pins("21", dir="i"), Clock(12e6)),
        Resource("uart", 0, Subsignal("rx", Pins("9", dir="i")),
                 Subsignal("tx", Pins("8", dir="o"))),
        # One of several colours is no LED for one signal.
        Resource("led", 0, Subsignal("r", Pins("99", dir="o")),
                 Subsignal("g", Pins("98", dir="o"))),
        Resource("led", 1, Pins("97", dir="o")),
    )
    connectors = ()


class Abstract(Small):
    def __init__(self, colour):
        super().__init__()


class Clockless(Small):
    default_clk = None


class Timeless(Small):
    resources = (Resource("clk", 0, Pins("21", dir="i")), *Small.resources[1:])


class OneWay(Small):
    resources = (Small.resources[0], Resource("uart", 0, Subsignal("tx", Pins("8", dir="o"))))


class Crossed(Small):
    resources = (Small.resources[0],
                 Resource("uart", 0, Subsignal("rx", Pins("21", dir="i")),
                          Subsignal("tx", Pins("8", dir="o"))))


class Voltless(Small):
    resources = (Small.resources[0],
                 Resource("uart", 0, Subsignal("rx", Pins("9", dir="i")),
                          Subsignal("tx", Pins("8", dir="o")),
                          Attrs(IO_STANDARD=lambda platform: platform.voltage)))


def test_leds_of_several_colours(tmp_path):
    board = construct(f"{__name__}:Small", tmp_path)
    assert (board.activity, board.error) == (None, ("led", 1))


@pytest.mark.parametrize(("kind", "sentence"), [
    (Abstract, ("the platform {} cannot be instantiated: Abstract.__init__() missing 1 required "
                "positional argument: 'colour'")),
    (Clockless, "Clockless has no default clock of a known frequency"),
    (Timeless, "Timeless has no default clock of a known frequency"),
    (OneWay, "the UART of {} has no pin rx"),
    (Crossed, ("{} has no clock and UART that can be used together: Resource component uart_0.rx "
               "uses physical pin 21, but it is already used by resource component clk_0 that was "
               "requested earlier")),
    (Voltless, ("{} has no clock and UART that can be used together: 'Voltless' object has no "
                "attribute 'voltage'")),
])
def test_platforms_of_anybody(kind, sentence, tmp_path):
    platform = f"{__name__}:{kind.__name__}"
    with pytest.raises(BoardError) as caught:
        construct(platform, tmp_path)
    assert str(caught.value) == sentence.format(platform)


def test_module_that_fails(tmp_path, monkeypatch):
    (tmp_path / "broken_platform.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BoardError, match=r"^the platform's module broken_platform cannot be "
                                         r"imported: division by zero$"):
        construct("broken_platform:X", tmp_path)
