"""Building a bitstream for a board."""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nearbit_boards import resources
from nearbit_boards.board import DEVICES, Board, BoardError, Device
from nearbit_boards.fpga import Fpga
from nearbit_boards.tools import ToolError, find_tool, run_tool
from nearbit_boards.top import BoardTop
from nearbit_hw.verilog import generate
from nearbit_sim.netlist import SYNTHESIS


__all__ = ["NAME", "Build", "BuildError", "build", "default_folder", "device_of",
           "find_bitstream"]


NAME = "nearbit"
"""Stem of the names of all files of a build."""

_ACCELERATOR = "accelerator"

_ENDINGS = {"ice40": ".bin", "ecp5": ".bit"}

# Seconds after which routing an iCE40 is given up: its router never ends where there are too few
# wires. Most designs take two minutes.
_ROUTING_LIMIT = {"ice40": 600.0}

_PLACEMENT = {
    # Router 1 can hang on carry chains.
    "ice40": "--router router2",
    # With the default placer, the wires of a full 85F are too long to route.
    "ecp5": "--placer static",
}


class BuildError(RuntimeError):
    """A failed build; the message is one sentence with the figures and a remedy."""


@dataclass(frozen=True)
class Build:
    """A bitstream, and the resources that it uses.

    Parameters
    ----------
    bitstream
        The file.
    board, device
        Names.
    config
        What it was built from.
    luts, luts_total
        Logic cells (iCE40) or LUT4 (ECP5) used, and in the device.
    ffs
        Flip-flops.
    brams, brams_total, sprams, sprams_total, dsps, dsps_total
        Blocks used, and in the device.
    fmax_mhz, target_mhz
        The highest clock by timing analysis, and the PLL's clock.
    slowest_path
        The units where the critical path begins and ends.
    baud, seed
        Baud rate of the host link; placement seed.
    seconds
        Duration of each stage.
    tools
        Release of each program.
    """

    bitstream: Path
    board: str
    device: str
    config: dict[str, Any]
    luts: int
    luts_total: int
    ffs: int
    brams: int
    brams_total: int
    sprams: int
    sprams_total: int
    dsps: int
    dsps_total: int
    fmax_mhz: float
    target_mhz: float
    slowest_path: list[str]
    baud: int
    seed: int
    seconds: dict[str, float]
    tools: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """All fields, in types that JSON can hold."""
        return {**asdict(self), "bitstream": str(self.bitstream)}


def build(board: Board, folder: Path, *, seed: int | None = None,
          tools: Mapping[str, str] | None = None, version: tuple[int, int, int] = (0, 0, 0),
          progress: Callable[[str], None] | None = None) -> Build:
    """Build a board's bitstream.

    All files of the build stay in the folder, which has a bitstream only if the build succeeded.

    Parameters
    ----------
    board
        The board.
    folder
        Output folder; must exist.
    seed
        Placement seed; None is the board's.
    tools
        Commands to use instead of those from PyPI, by name: ``yosys``, ``nextpnr-ice40``, ...
    version
        Release of Nearbit that the device reports.
    progress
        Called with each stage before it begins.

    Raises
    ------
    BoardError
        The board cannot be used, the memories do not fit it, or a program is missing.
    BuildError
        The design does not fit, misses its clock, or uses other cells than expected; a program
        fails or leaves its file incomplete.
    OSError
        A file cannot be written.
    """
    say = progress or (lambda doing: None)
    seed = board.seed if seed is None else seed
    board.check()
    device, part = board.device, board.part
    seconds: dict[str, float] = {}
    bitstream = folder / f"{NAME}{_ENDINGS[device.family]}"
    results = (bitstream, folder / f"{NAME}.toml", folder / "report.json")
    for path in results:
        path.unlink(missing_ok=True)
    used_tools = {name: find_tool(name, tools) for name in (
        "yosys", f"nextpnr-{device.family}",
        {"ice40": "icepack", "ecp5": "ecppack"}[device.family])}

    def stage(name: str, doing: str, work: Callable[[], Any]) -> Any:
        say(doing)
        started = time.perf_counter()
        try:
            return work()
        except ToolError as error:
            raise BuildError(str(error)) from None
        finally:
            seconds[name] = round(time.perf_counter() - started, 1)

    # "given", as Yosys would write zeros word by word, and no word is read before it is written.
    verilog = stage("generate", "generating Verilog", lambda: generate(
        BoardTop(board.config, clock=board.clock, baud=board.baud, version=version),
        _ACCELERATOR, initial="given"))
    found = resources.memories(verilog)
    resources.check_memories(found, device, part, f"the configuration for {board.name}")
    commands = _prepare(board, verilog, folder, seed)
    names = iter(used_tools.values())

    def run(doing: str) -> Callable[[], str]:
        tool = next(names)
        return lambda: run_tool(tool, commands[tool.name], folder,
                                limit=_ROUTING_LIMIT.get(device.family))

    stage("synthesis", "synthesizing", run("yosys"))
    netlist = _read_json(folder / f"{NAME}.json")
    used = resources.count_cells(netlist, NAME, device)
    _check_used(used, found, board)
    stage("placement", "placing and routing", run("nextpnr"))
    luts, fmax, slowest_path = _read_report(folder, device, board.clock, used.luts)
    result = Build(
        bitstream=bitstream, board=board.name, device=part, config=board.config.to_dict(),
        luts=luts, luts_total=device.luts, ffs=used.ffs,
        brams=used.brams, brams_total=device.brams, sprams=used.sprams,
        sprams_total=device.sprams, dsps=used.dsps, dsps_total=device.dsps,
        fmax_mhz=round(fmax, 2), target_mhz=board.clock / 1e6,
        slowest_path=slowest_path, baud=board.baud, seed=seed,
        seconds=seconds, tools={tool.name: tool.version for tool in used_tools.values()})
    if fmax < board.clock / 1e6:
        raise BuildError(f"{board.name} reaches {fmax:.1f} MHz and its clock is "
                         f"{board.clock / 1e6:g} MHz; try another --seed, a lower --clock, or a "
                         f"configuration with a smaller fan_in or fewer lanes")
    try:
        stage("packing", "writing the bitstream", run("pack"))
        if not bitstream.is_file() or not _is_whole(bitstream.read_bytes()):
            raise BuildError(f"the bitstream {bitstream} is incomplete, though no program "
                             f"reported an error; check whether the disk is full")
        results[1].write_text(board.config.to_toml(), encoding="utf-8", newline="\n")
        results[2].write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8",
                              newline="\n")
    except BaseException:
        for path in results:
            path.unlink(missing_ok=True)
        raise
    return result


def _read_json(path: Path) -> Any:
    """Read a file that a program has written, which may be incomplete: none notices a full disk."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        raise BuildError(f"the file {path} is incomplete, though no program reported an error; "
                         f"check whether the disk is full") from None


def _prepare(board: Board, verilog: str, folder: Path, seed: int) -> dict[str, list[str]]:
    """Write the files of a build, and return each program's arguments.

    The board's platform generates the constraints, the device's options and the design around the
    accelerator. The accelerator itself is Verilog, because Yosys heeds attributes of memories only
    there.
    """
    device = board.device
    platform = board.new_platform()
    platform.add_file(f"{_ACCELERATOR}.v", verilog)
    target, placement = device.family, _PLACEMENT[device.family]
    before = ""
    if board.part == "iCE40UP5K":
        target = "up5k"
        # With the default weights, the router never ends where the device is three quarters full.
        placement += " --router2-alt-weights"
        before = _soft_multiplication(board)
        if before:
            platform.add_file("soft.vh", _soft(board))
    try:
        plan = platform.prepare(
            Fpga(board, _ACCELERATOR), NAME, synth_opts=SYNTHESIS[target].partition(" ")[2],
            script_after_read=before,
            script_after_synth="check -assert",
            nextpnr_opts=f"{placement} --seed {seed} --report {NAME}.report.json "
                         f"--timing-allow-fail")
    except Exception as error: # The platform may be anyone's.
        raise BoardError(f"{board.platform} cannot be built for, as its own code fails: "
                         f"{type(error).__name__}: {error}") from error
    for name, text in plan.files.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    script = json.loads(plan.files[f"build_{NAME}.json"])
    return {command[0]: command[1:] for command in script["commands"]}


def _soft_multiplication(board: Board) -> str:
    """Return Yosys commands that build the product of weight and scale in logic if DSPs run out."""
    if resources.dsps(board.config, board.device) <= board.device.dsps:
        return ""
    bits = board.config.weight_bits
    return "\n".join([
        f"hierarchy -top {NAME}", "proc",
        f"techmap -map soft.vh t:$mul r:A_WIDTH={bits} %i r:B_WIDTH=16 %i"])


def _soft(board: Board) -> str:
    """Return the Verilog of an unsigned multiplier: a tree of adders."""
    bits = board.config.weight_bits
    terms = [f"({{{bits + 16}{{B[{place}]}}}} & (A << {place}))" for place in range(16)]
    while len(terms) > 1:
        terms = [f"({' + '.join(terms[start:start + 2])})" for start in range(0, len(terms), 2)]
    return (f'(* techmap_celltype = "$mul" *)\nmodule soft(A, B, Y);\n'
            f"  parameter A_SIGNED = 0, B_SIGNED = 0, A_WIDTH = 1, B_WIDTH = 1, Y_WIDTH = 1;\n"
            f"  input [{bits - 1}:0] A;\n  input [15:0] B;\n  output [Y_WIDTH-1:0] Y;\n"
            f"  wire [{bits + 15}:0] product = {terms[0]};\n"
            f"  assign Y = product;\nendmodule\n")


def _check_used(used: resources.Used, found: list[resources.Memory], board: Board) -> None:
    """Raise :class:`BuildError` if a netlist has unexpected cells or does not fit."""
    device = board.device
    brams, sprams = resources.expected(found, device)
    dsps = resources.dsps(board.config, device)
    if _soft_multiplication(board):
        dsps -= 1
    for kind, is_used, implied in (("block RAMs", used.brams, brams),
                                   ("SPRAMs", used.sprams, sprams),
                                   ("DSPs", used.dsps, dsps)):
        if is_used != implied:
            raise BuildError(f"synthesis made {is_used} {kind} where the configuration for "
                             f"{board.name} implies {implied}; a memory or a product has become "
                             f"something else, so another release of Yosys may be at work")
    for kind, is_used, there in (("LUTs", used.luts, device.luts),
                                 ("DSPs", used.dsps, device.dsps)):
        if is_used > there:
            raise BuildError(f"the design needs {is_used} {kind} and {board.part} has {there}; "
                             f"take fewer lanes or value_lanes, or a divider with more cycles")


def _read_report(folder: Path, device: Device, clock: int, luts: int
                 ) -> tuple[int, float, list[str]]:
    """Read the logic used, the fastest clock in MHz, and where the slowest path begins and ends."""
    report = _read_json(folder / f"{NAME}.report.json")
    utilization = report["utilization"]
    cell = {"ice40": "ICESTORM_LC", "ecp5": "TRELLIS_COMB"}[device.family]
    speeds = [entry["achieved"] for entry in report["fmax"].values()
              if abs(entry["constraint"] / (clock / 1e6) - 1) < 0.01]
    if not speeds:
        raise BuildError(f"the timing report has no clock of {clock / 1e6:g} MHz")
    slowest = max((path["path"] for path in report["critical_paths"]
                   if "<async>" not in (path["from"], path["to"])),
                  key=lambda steps: sum(step["delay"] for step in steps))
    return (int(utilization.get(cell, {"used": luts})["used"]), float(min(speeds)),
            [_unit(slowest[0]["from"]["cell"]), _unit(slowest[-1]["to"]["cell"])])


def _unit(cell: str) -> str:
    """Name the unit of the core, or around it, that a cell belongs to."""
    found = re.match(rf"{_ACCELERATOR}\.(?:inner\.)?(?:core\.)?(\w+)\.", cell)
    return found[1] if found else NAME


def find_bitstream(board: Board, given: Path | None) -> Path:
    """Name the bitstream of a board: the one given, or that of the last build.

    Raises
    ------
    BoardError
        The file does not exist, is for another device, or is incomplete.
    """
    path = given or default_folder(board) / (NAME + _ENDINGS[board.device.family])
    if not path.is_file():
        remedy = "" if given else f"; make it with: nearbit build --board {board.name}"
        raise BoardError(f"there is no bitstream {path}{remedy}")
    found = device_of(path)
    names = {name for name in DEVICES if _same_chip(name, board.part)}
    if found not in names:
        raise BoardError(f"{path} is {f'for {found}' if found else 'not a bitstream'}, and "
                         f"{board.name} has {board.part}")
    if not _is_whole(path.read_bytes()):
        raise BoardError(f"{path} is cut short: the command that starts the FPGA is not at its "
                         f"end; build it again")
    return path


def _same_chip(one: str, other: str) -> bool:
    """Whether bitstreams cannot tell two devices apart."""
    return one == other or (DEVICES[one].family == "ice40" and DEVICES[one] == DEVICES[other])


def _is_whole(octets: bytes) -> bool:
    """Whether a bitstream ends with the command that starts the FPGA, and padding.

    This is WAKEUP (1, 6) for iCE40, as documented by the IceStorm project, and ISC_PROGRAM_DONE
    (0x5E) for ECP5 (Lattice FPGA-TN-02039).
    """
    return (octets.rstrip(b"\x00\xff").endswith(b"\x01\x06")
            or octets.rstrip(b"\xff").endswith(b"\x5e\x00\x00\x00"))


def device_of(path: Path) -> str | None:
    """Name the device that a bitstream is for, by its contents; None if it is not a bitstream."""
    try:
        octets = path.read_bytes()
    except OSError as error:
        raise BoardError(f"{path} cannot be read: {error.strerror or error}") from None
    part = re.search(rb"Part: (LFE5U\w*-\d+F)", octets[:4096])
    if octets[:2] == b"\xff\x00" and part:
        return part[1].decode()
    if b"\x7e\xaa\x99\x7e" not in octets[:4096]:
        return None
    # The first bank's width tells the chip (the command 0x62, Lattice FPGA-TN-02001).
    width = re.search(rb"\x62(..)", octets[octets.index(b"\x7e\xaa\x99\x7e"):][:256], re.DOTALL)
    return None if width is None else _ICE40_WIDTHS.get(int.from_bytes(width[1], "big"))


# Bits per row of configuration memory, minus one.
_ICE40_WIDTHS = {331: "iCE40HX1K", 871: "iCE40HX8K", 691: "iCE40UP5K"}


def default_folder(board: Board) -> Path:
    """The default folder of a board's build."""
    return Path("build", board.name)
