"""The virtual board: simulates an iCE40 bitstream itself, with the host at its UART pins."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from nearbit_boards.board import BoardError
from nearbit_boards.build import device_of
from nearbit_boards.simulated import LineDecoder, PinTransport, SimulatedTransport
from nearbit_boards.tools import ToolError, find_tool, run_tool
from nearbit_sim.cache import cached, key_of
from nearbit_sim.icebox import Chip, ChipSession, read_chip


__all__ = ["QuickTransport", "VirtualTransport", "netlist"]


_VLOG = "icebox_vlog"

# The board's reset lasts half as long.
_RESET_SECONDS = 30e-6

# No answer takes as long, as there is no USB in between.
_SILENCE_SECONDS = 1e-3


def netlist(bitstream: Path, constraints: Path) -> str:
    """Turn an iCE40 bitstream back into Verilog, with pins named by a constraint file.

    Raises
    ------
    BoardError
        A file is missing or not a bitstream for an HX1K or HX8K, or a program is missing.
    """
    part = device_of(bitstream)
    if part is None or not part.startswith("iCE40HX"):
        raise BoardError(f"{bitstream} is {f'for {part}' if part else 'not a bitstream'}; the "
                         f"virtual board runs those for an iCE40 HX, such as that of "
                         f"ice40-hx8k-b-evn")
    if not constraints.is_file():
        raise BoardError(f"there is no constraint file {constraints} beside the bitstream, which "
                         f"names the pins")
    program = shutil.which(_VLOG)
    if program is None:
        raise BoardError(f"the virtual board needs {_VLOG}, which is not installed; type: sudo "
                         f"apt-get install fpga-icestorm")
    unpack = find_tool("iceunpack")
    pins = constraints.read_text(encoding="utf-8")
    key = key_of(bitstream.read_bytes().hex(), pins, unpack.version)

    def make(target: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="nearbit-") as name:
            folder = Path(name)
            shutil.copyfile(bitstream, folder / "chip.bin")
            # icebox_vlog accepts only pins.
            (folder / "chip.pcf").write_text("".join(
                line for line in pins.splitlines(keepends=True) if line.startswith("set_io")),
                encoding="utf-8")
            try:
                run_tool(unpack, ["chip.bin", "chip.asc"], folder)
            except ToolError as error:
                raise BoardError(f"{bitstream} cannot be unpacked: {error}") from None
            result = subprocess.run(
                [program, "-s", "-l", "-n", "chip", "-p", "chip.pcf", "chip.asc"], cwd=folder,
                capture_output=True, encoding="utf-8", errors="replace", check=False)
            if result.returncode != 0:
                lines = result.stderr.strip().splitlines()
                raise BoardError(f"{_VLOG} failed: {lines[-1] if lines else result.returncode}")
            target.write_text(result.stdout, encoding="utf-8")

    return cached(key, ".v", make).read_text(encoding="utf-8")


def _pin(chip_pins: list[str], name: str, bitstream: Path) -> str:
    """Find a pin of the UART by the name that the platform gives it."""
    found = [pin for pin in chip_pins if re.fullmatch(rf"uart_0__{name}(__io)?", pin)]
    if len(found) != 1:
        raise BoardError(f"{bitstream} has no pin uart_0__{name} for the host link")
    return found[0]


def _clock(chip: Chip, constraints: Path) -> float:
    """Hz at which the chip runs: its clock pin's, from the constraint file, through the PLL."""
    found = re.search(rf"^set_frequency {re.escape(chip.clock)} ([\d.]+)$",
                      constraints.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise BoardError(f"{constraints} does not give the frequency of the clock pin {chip.clock}")
    reference = float(found[1]) * 1e6
    return reference if chip.pll is None else chip.pll.output(reference)


class VirtualTransport(PinTransport):
    """A bitstream for an iCE40 HX, simulated with the UART bit by bit.

    The chip starts as it does after configuration, and its design generates its own reset. The PLL
    locks at once; only its output is simulated, at the frequency given by the bitstream's dividers
    and the constraint file's clock.

    Parameters
    ----------
    bitstream
        The file; the constraint file of the same name, ``.pcf``, must be beside it.
    baud
        Bits per second for which it was built.
    progress
        Called with each stage before it begins.

    Raises
    ------
    BoardError
        The bitstream cannot be used, or a program is missing.
    SimulationError
        The compiler is missing, or the netlist is not understood.
    """

    def __init__(self, bitstream: Path, baud: int, *,
                 progress: Callable[[str], None] | None = None) -> None:
        """Build the chip from its bitstream and power it up."""
        say = progress or (lambda doing: None)
        constraints = bitstream.with_suffix(".pcf")
        say("reading the bitstream back")
        chip = read_chip(netlist(bitstream, constraints))
        clock = _clock(chip, constraints)
        say("compiling the chip")
        library = chip.library(_pin(chip.inputs, "rx", bitstream),
                               _pin(chip.outputs, "tx", bitstream))
        self.name = "the virtual board"
        self.baud = baud
        self._clock = round(clock)
        self._bit = clock / baud
        self._session = ChipSession(library)  # type: ignore[assignment]
        self._decoder = LineDecoder(self._bit)
        self.cycles = 0
        # Wait for the design's reset to end: bytes before that are lost.
        self.levels([(1, int(clock * _RESET_SECONDS))])

    def read(self, timeout: float) -> bytes:
        """Return the bytes received, after at most a millisecond of chip time: seconds of ours."""
        return super().read(min(timeout, _SILENCE_SECONDS))




class QuickTransport(SimulatedTransport):
    """A simulated design that waits for an answer as briefly as a virtual board."""

    def read(self, timeout: float) -> bytes:
        """Return the bytes received, after at most a millisecond of device time."""
        return super().read(min(timeout, _SILENCE_SECONDS))
