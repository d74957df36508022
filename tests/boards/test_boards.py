"""Boards: descriptions, clocks, memories, and what the commands say of bad input."""

import importlib.util
import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from nearbit.cli import main
from nearbit_boards import build as builds
from nearbit_boards import resources
from nearbit_boards.board import DEVICES, BoardError
from nearbit_boards.boards import BOARDS, find_board
from nearbit_boards.build import BuildError, _check_used, _read_report, build, device_of
from nearbit_boards.flash import flash_command
from nearbit_boards.pll import Ecp5Pll, Ice40Pll, PllError, find_pll
from nearbit_boards.resources import Memory, Used
from nearbit_boards.tools import ToolError, find_tool
from nearbit_boards.top import BoardTop
from nearbit_hw.core import Core
from nearbit_hw.verilog import generate
from nearbit_model.config import Config, Rescore
from nearbit_model.config import Memory as CacheMemory
from nearbit_sim.netlist import SYNTHESIS


ROOT = Path(__file__).resolve().parents[2]
TINY = Config(key_bits=8, value_dim=4, capacity=64, lanes=2, value_lanes=2, top_n=8, exp_tables=1,
              normalizer="divider", divider_cycles=4, selection="serial")


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.to_toml())
    return str(path)


def said(capsys, *arguments):
    """Run a command that fails; return its only sentence."""
    status = main(list(arguments))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nearbit: ")
    assert captured.err.count("\n") == 1
    return status, captured.err.removeprefix("nearbit: ").strip()


# ---- Descriptions and clocks.

@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_boards(board):
    board.check()
    assert board.config.cell == board.device.family
    reference = {"icebreaker": 12, "ice40-hx8k-b-evn": 12, "icepi-zero": 50}.get(board.name, 25)
    pll = find_pll(board.device.family, reference * 1_000_000, board.clock)
    assert pll.output == pytest.approx(board.clock, rel=1e-9)


@pytest.mark.parametrize(("reference", "clock"), [
    (12, 16.5), (12, 24), (12, 48), (12, 50.25), (25, 80), (100, 60)])
def test_ice40_pll(reference, clock):
    pll = find_pll("ice40", reference * 1_000_000, round(clock * 1e6))
    assert isinstance(pll, Ice40Pll)
    # The formula and the limits of Lattice FPGA-TN-02052.
    output = reference * (pll.divf + 1) / (pll.divr + 1) / 2 ** pll.divq
    assert output == pytest.approx(clock, rel=0.005)
    assert 10 <= reference / (pll.divr + 1) <= 133
    assert 533 <= output * 2 ** pll.divq <= 1066
    assert 1 <= pll.filter_range <= 6


@pytest.mark.parametrize(("reference", "clock"), [
    (25, 80), (50, 80), (25, 3.125), (25, 133), (12, 66)])
def test_ecp5_pll(reference, clock):
    pll = find_pll("ecp5", reference * 1_000_000, round(clock * 1e6))
    assert isinstance(pll, Ecp5Pll)
    output = reference * pll.clkfb_div / pll.clki_div
    assert output == pytest.approx(clock, rel=0.005)
    assert 400 <= output * pll.clkop_div <= 800
    assert 3.125 <= reference / pll.clki_div <= 400


def test_no_pll():
    assert find_pll("ice40", 12_000_000, 12_000_000) is None
    with pytest.raises(PllError, match=r"^the PLL cannot make 5 MHz from the board's 12 MHz; the "
                                       r"nearest is 16\.125 MHz$"):
        find_pll("ice40", 12_000_000, 5_000_000)


# ---- Memories.

def test_memories():
    """Counted by hand: two lanes of 32 words of 8 bits, and values of 2 x 8 bits by 128."""
    text = generate(BoardTop(TINY, clock=12_000_000, baud=1_000_000), "accelerator")
    found = resources.memories(text)
    stores = {(memory.width, memory.words) for memory in found if "_store." in memory.name}
    assert stores == {(8, 32), (16, 128), (16, 64)}
    assert all(memory.is_block for memory in found if "_store." in memory.name)
    # What is not in block RAM is small.
    assert all(memory.width * memory.words <= 256 for memory in found if not memory.is_block)


@pytest.mark.parametrize(("width", "words", "ice40", "ecp5"), [
    (16, 256, 1, 1), (8, 512, 1, 1), (17, 256, 2, 1), (64, 256, 4, 2), (16, 1024, 4, 1),
    (2, 2048, 1, 1), (1, 2049, 2, 1), (36, 512, 5, 1), (512, 4096, 512, 114)])
def test_blocks(width, words, ice40, ecp5):
    memory = [Memory("m.m", width, words, True, False)]
    for name, count in (("iCE40HX8K", ice40), ("LFE5U-25F", ecp5)):
        assert resources.expected(memory, DEVICES[name]) == (count, 0)


def test_spram():
    memory = [Memory("m.m", 64, 8192, True, True)]
    assert resources.expected(memory, DEVICES["iCE40UP5K"]) == (0, 4)
    assert resources.expected(memory, DEVICES["iCE40HX8K"]) == (128, 0)


def test_lost_memory():
    """A netlist with a block RAM less than implied is refused."""
    board = find_board("ice40-hx8k-b-evn")
    found = [Memory("m.m", 16, 256, True, False)] * 3
    used = Used(luts=100, ffs=100, brams=3, sprams=0, dsps=0)
    _check_used(used, found, board)
    with pytest.raises(BuildError, match=r"^synthesis made 3 block RAMs where the configuration "
                                         r"for ice40-hx8k-b-evn implies 4; "):
        _check_used(used, [*found, found[0]], board)
    with pytest.raises(BuildError, match=r"^the design needs 7681 LUTs and iCE40HX8K has 7680; "):
        _check_used(Used(luts=7681, ffs=0, brams=3, sprams=0, dsps=0), found, board)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rescore"), [
    ("ulx3s-12f", Rescore(head_dim=8, lanes=4)),
    ("ulx3s-12f", Rescore(head_dim=16, lanes=2, element_bits=12)),
    ("icebreaker", Rescore(head_dim=4, lanes=1, element_bits=4)), # too narrow for a multiplier
    ("icebreaker", Rescore(head_dim=4, lanes=2)),
])
def test_multipliers_of_rescoring(tmp_path, name, rescore):
    """As many as synthesis makes, or no such configuration could be built."""
    board = find_board(name)
    is_small = board.part == "iCE40UP5K"
    config = TINY.replace(cell=board.device.family, rescore=rescore)
    if not is_small:
        config = config.replace(value_lanes=4, normalizer="reciprocal", divider_cycles=1)
    (tmp_path / "core.v").write_text(generate(Core(config), "dut"))
    synthesis = SYNTHESIS["up5k" if is_small else board.device.family]
    (tmp_path / "core.ys").write_text(
        f"read_verilog core.v\n{synthesis} -top dut\nwrite_json core.json\n")
    subprocess.run([*find_tool("yosys").command, "-q", "core.ys"], cwd=tmp_path, check=True)
    netlist = json.loads((tmp_path / "core.json").read_text())
    used = resources.count_cells(netlist, "dut", board.device)
    assert used.dsps == resources.dsps(config, board.device)


# ---- Commands.

def test_list(capsys):
    assert main(["boards", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [board["board"] for board in listed] == list(BOARDS)
    assert {"device", "config", "clock_mhz", "programmer", "luts"} <= set(listed[0])
    assert main(["boards"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in BOARDS)


@pytest.mark.parametrize(("arguments", "message"), [
    (["build"], ("give either --board or --platform; 'nearbit boards' lists the boards")),
    (["build", "--board", "icebraker"], ("unknown board 'icebraker'; did you mean icebreaker or "
                                        "icepi-zero?")),
    (["build", "--board", "zzz"], f"unknown board 'zzz'; there are {', '.join(BOARDS)}"),
    (["build", "--board", "icebreaker", "--clock", "5"],
     "icebreaker: the PLL cannot make 5 MHz from the board's 12 MHz; the nearest is 16.125 MHz"),
    (["build", "--board", "icebreaker", "--clock", "nan"],
     "--clock is in MHz, above 0 and at most 400, not nan"),
    (["build", "--board", "icebreaker", "--baud", "9600"],
     "--baud must be from 115200 to 3000000, not 9600"),
    (["build", "--board", "icebreaker", "--seed", "-1"],
     "--seed must be from 0 to 2147483647, not -1"),
    (["build", "--board", "icebreaker", "--config", "none.toml"],
     "none.toml: No such file or directory"),
    (["build", "--platform", "amaranth_boards.icebreaker:ICEBreakerPlatform"],
     "--platform needs --config, as it has no preset"),
    (["flash"], "--board is missing; 'nearbit boards' lists the boards"),
    (["flash", "--board", "icebreaker", "--bitstream", "none.bin"],
     "there is no bitstream none.bin"),
    (["flash", "--board", "ulx3s-85f", "--bitstream", "README.md"],
     "README.md is not a bitstream, and ulx3s-85f has LFE5U-85F"),
    (["run", "none.npz"], "one of --port, --virtual and --simulated must be given"),
    (["run", "none.npz", "--simulated"],
     "--simulated needs --board; 'nearbit boards' lists the boards"),
    (["run", "none.npz", "--port", "/dev/null"],
     "--port needs --board, or --baud for what the bitstream was built with"),
    (["run", "none.npz", "--port", "/dev/null", "--board", "icebreaker", "--bitstream", "x.bin"],
     "--bitstream needs --virtual; a board has the one that is flashed"),
    (["run", "none.npz", "--virtual", "--n", "0"], "--n must be at least 1, not 0"),
    (["run", "none.npz", "--virtual"], "none.npz: no such file"),
    (["run", "tests/data/minilm-gpl3-64.npz", "--virtual", "--bitstream", "none.bin"],
     "there is no bitstream none.bin"),
    (["run", "tests/data/minilm-gpl3-64.npz", "--board", "icebreaker", "--port", "/dev/nothing"],
     ("there is no port /dev/nothing; plug the board in, and list the ports with `python -m "
     "serial.tools.list_ports`")),
])
def test_bad_input(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert said(capsys, *arguments) == (2, message)


@pytest.mark.parametrize(("platform", "message"), [
    ("x", ("--platform must be module:Class, such as "
          "amaranth_boards.icebreaker:ICEBreakerPlatform, not 'x'")),
    ("nowhere:X", "the platform's module nowhere cannot be imported: No module named 'nowhere'"),
    ("amaranth_boards.icebreaker:X", "the module amaranth_boards.icebreaker has no platform X"),
    ("amaranth_boards.tinyfpga_bx:TinyFPGABXPlatform",
     ("amaranth_boards.tinyfpga_bx:TinyFPGABXPlatform has no UART (a resource named uart) for "
      "the host link")),
])
def test_bad_platform(platform, message, tiny, capsys):
    assert said(capsys, "build", "--platform", platform, "--config", tiny) == (2, message)


def test_other_family(tiny, capsys):
    status, message = said(capsys, "build", "--platform",
                           "amaranth_boards.arty_a7:ArtyA7_35Platform", "--config", tiny)
    assert status == 2
    assert message.startswith("amaranth_boards.arty_a7:ArtyA7_35Platform is for xc7a35ti; "
                              "bitstreams can be built for iCE40HX1K, ")


def test_too_large(tmp_path, capsys):
    """What cannot fit is refused before any tool runs."""
    path = tmp_path / "large.toml"
    path.write_text(TINY.replace(capacity=4096, value_dim=64).to_toml())
    folder = tmp_path / "out"
    status, message = said(capsys, "build", "--board", "ice40-hx8k-b-evn", "--config", str(path),
                           "-o", str(folder), "--yosys", "true")
    assert status == 2
    assert message.startswith("the configuration for ice40-hx8k-b-evn needs ")
    assert " block RAMs and iCE40HX8K has 32 (most: value_store " in message
    assert not folder.exists()


def test_selection_without_its_memory(tmp_path, capsys):
    path = tmp_path / "histograms.toml"
    path.write_text(TINY.replace(selection="histograms").to_toml())
    folder = tmp_path / "out"
    assert said(capsys, "build", "--board", "icebreaker", "--config", str(path), "-o",
                str(folder)) == (
        2, ("icebreaker: the selection 'histograms' needs block RAM with two full ports, which "
            "iCE40 does not have; take 'serial' or 'counters'"))
    assert not folder.exists()


@pytest.mark.parametrize("command", ["build", "run"])
def test_memory_without_a_way_to_it(tmp_path, capsys, command):
    path = tmp_path / "memory.toml"
    path.write_text(TINY.replace(memory=CacheMemory(heads=2, page_tokens=32)).to_toml())
    given = ["-o", str(tmp_path / "out")] if command == "build" else ["--virtual", "no.npz"]
    assert said(capsys, command, "--board", "icebreaker", "--config", str(path), *given) == (
        2, ("icebreaker: boards with a host link hold keys and values in block RAM; leave [memory] "
            "out, or generate the core for a system on chip with 'nearbit verilog'"))
    assert not (tmp_path / "out").exists()


def test_normalizer_without_multipliers(tmp_path, capsys):
    path = tmp_path / "reciprocal.toml"
    path.write_text(TINY.replace(normalizer="reciprocal", divider_cycles=1).to_toml())
    folder = tmp_path / "out"
    assert said(capsys, "build", "--board", "icebreaker", "--config", str(path), "-o",
                str(folder)) == (
        2, ("icebreaker: the normalizer 'reciprocal' needs multipliers of 18 bits, which iCE40 "
            "does not have; take 'divider'"))
    assert not folder.exists()


def test_missing_tool(tiny, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTPNR_ICE40", "/nowhere/nextpnr")
    assert said(capsys, "build", "--board", "icebreaker", "--config", tiny, "-o",
                str(tmp_path / "out")) == (
        2, ("the program '/nowhere/nextpnr', which NEXTPNR_ICE40 names for nextpnr-ice40, is not "
           "found"))
    assert said(capsys, "build", "--board", "icebreaker", "--config", tiny, "-o",
                str(tmp_path / "out"), "--yosys", "/nowhere/yosys") == (
        2, "the program '/nowhere/yosys', which --yosys names for yosys, is not found")


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_failing_tool(tiny, capsys, tmp_path):
    """A tool of the user's own that fails is named, with what it said."""
    yosys = program(tmp_path / "yosys", 'if [ "$1" = --version ]; then echo "Yosys 9"; else '
                                        'echo "ERROR: no luck" >&2; exit 1; fi')
    status = main(["build", "--board", "icebreaker", "--config", tiny, "-o",
                   str(tmp_path / "out"), "--yosys", yosys])
    assert status == 1
    assert capsys.readouterr().err == "nearbit: yosys failed: ERROR: no luck\n"
    assert not (tmp_path / "out" / "nearbit.bin").exists()


ICE40_BITS = bytes.fromhex("ff0000ff7eaa997e51000105920020") + bytes([0x62]) + bytes([3, 0x67])


# WAKEUP, as icepack ends each bitstream; ISC_PROGRAM_DONE, as ecppack does.
ICE40_END = bytes.fromhex("010600")
ECP5_END = bytes.fromhex("5e000000ffffffff")


@pytest.fixture
def bitstream(tmp_path):
    path = tmp_path / "chip.bin"
    path.write_bytes(ICE40_BITS + bytes(100) + ICE40_END)
    return path


def test_device_of(bitstream, tmp_path):
    assert device_of(bitstream) == "iCE40HX8K"
    other = tmp_path / "chip.bit"
    other.write_bytes(b"\xff\x00Part: LFE5U-25F-6CABGA381\x00\xff\xff\xbd\xb3")
    assert device_of(other) == "LFE5U-25F"
    other.write_bytes(b"nothing")
    assert device_of(other) is None


def test_flash(bitstream, tmp_path, capsys, monkeypatch):
    arguments = ["flash", "--board", "ice40-hx8k-b-evn", "--bitstream", str(bitstream)]
    assert said(capsys, "flash", "--board", "icebreaker", "--bitstream", str(bitstream)) == (
        2, f"{bitstream} is for iCE40HX8K, and icebreaker has iCE40UP5K")
    assert main([*arguments, "--dry-run"]) == 0
    assert capsys.readouterr().out == f"iceprog -S {bitstream}\n"
    monkeypatch.setenv("ICEPROG", str(tmp_path / "nothing"))
    assert said(capsys, *arguments) == (
        2, (f"writing to ice40-hx8k-b-evn needs {tmp_path / 'nothing'}, which is not installed; "
           f"type: sudo apt-get install fpga-icestorm"))
    monkeypatch.setenv("ICEPROG", program(
        tmp_path / "iceprog", f'echo "$@" > {tmp_path}/given; echo "cdone: high"; echo Bye.'))
    assert main(arguments) == 0
    assert (tmp_path / "given").read_text() == f"-S {bitstream}\n"
    assert capsys.readouterr().out == f"{bitstream} is on ice40-hx8k-b-evn.\n"


@pytest.mark.parametrize(("name", "command"), [
    ("icebreaker", "iceprog x.bit"), ("ulx3s-12f", "openFPGALoader -b ulx3s -m x.bit"),
    ("icepi-zero", "openFPGALoader -b icepi-zero --write-flash x.bit")])
def test_programmers(name, command):
    """As the platforms of amaranth-boards call them."""
    assert " ".join(flash_command(find_board(name), Path("x.bit"))) == command


def test_bitstream_cut_short(bitstream, tmp_path, capsys):
    """What a full disk or a half copy leaves is not flashed."""
    whole = bitstream.read_bytes()
    bitstream.write_bytes(whole[:-2])
    arguments = ["flash", "--board", "ice40-hx8k-b-evn", "--dry-run", "--bitstream", str(bitstream)]
    assert said(capsys, *arguments) == (
        2, (f"{bitstream} is cut short: the command that starts the FPGA is not at its end; build "
            f"it again"))
    bitstream.write_bytes(whole + bytes(50))
    assert main(arguments) == 0
    ecp5 = tmp_path / "x.bit"
    start = b"\xff\x00Part: LFE5U-25F-6CABGA256\x00\xff\xff\xbd\xb3" + bytes(50)
    arguments = ["flash", "--board", "icepi-zero", "--dry-run", "--bitstream", str(ecp5)]
    ecp5.write_bytes(start + ECP5_END)
    assert main(arguments) == 0
    capsys.readouterr()
    ecp5.write_bytes(start + ECP5_END[:3])
    assert said(capsys, *arguments)[1].startswith(f"{ecp5} is cut short: ")


def without_verilog(monkeypatch):
    """Leave out what takes a build without programs most of its time."""
    monkeypatch.setattr(builds, "BoardTop", lambda *args, **options: None)
    def generated(component, name, *, initial):
        assert initial == "given"
        return f"module {name}; endmodule\n"

    monkeypatch.setattr(builds, "generate", generated)


class Tools:
    """The programs of a build, of which one does something else."""

    def __init__(self, monkeypatch, **others):
        self.files = {"yosys": ("json", b"{}"), "nextpnr": ("report.json", b"{}"),
                      "icepack": ("bin", ICE40_BITS + ICE40_END)}
        self.others = others
        without_verilog(monkeypatch)
        monkeypatch.setattr(builds, "run_tool", self.run)
        monkeypatch.setattr(resources, "count_cells", lambda *args: Used(1, 1, 1, 0, 0))
        monkeypatch.setattr(builds, "_check_used", lambda *args: None)

        def read_report(folder, *args):
            builds._read_json(folder / "nearbit.report.json")
            return 1, 99.0, ["a", "b"]

        monkeypatch.setattr(builds, "_read_report", read_report)

    def run(self, tool, arguments, folder, **options):
        name = tool.name.partition("-")[0]
        ending, octets = self.files[name]
        octets = self.others.get(name, octets)
        if callable(octets):
            octets = octets(folder)
        if octets is not None:
            (folder / f"nearbit.{ending}").write_bytes(octets)


def test_build_whole(tmp_path, tiny, monkeypatch, capsys):
    Tools(monkeypatch)
    out = tmp_path / "out"
    assert main(["build", "--board", "icebreaker", "--config", tiny, "-o", str(out)]) == 0
    assert json.loads((out / "report.json").read_text())["bitstream"] == str(out / "nearbit.bin")


@pytest.mark.parametrize(("name", "file", "octets"), [
    ("yosys", "json", b'{"modules": '), ("yosys", "json", None),
    ("nextpnr", "report.json", b'{"utilization"'), ("nextpnr", "report.json", b"\xff\xff"),
    ("icepack", "bin", ICE40_BITS), ("icepack", "bin", b""), ("icepack", "bin", None)])
def test_full_disk_of_a_program(name, file, octets, tmp_path, tiny, monkeypatch, capsys):
    """Programs do not say so; a file of theirs that is not whole is no result."""
    Tools(monkeypatch, **{name: octets})
    out = tmp_path / "out"
    what = "bitstream" if file == "bin" else "file"
    assert said(capsys, "build", "--board", "icebreaker", "--config", tiny, "-o", str(out)) == (
        1, (f"the {what} {out / f'nearbit.{file}'} is incomplete, though no program "
            f"reported an error; check whether the disk is full"))
    assert not {"nearbit.bin", "nearbit.toml", "report.json"} & set(os.listdir(out))


@pytest.mark.parametrize("name", ["report.json", "nearbit.toml", "accelerator.v"])
def test_full_disk(name, tmp_path, tiny, monkeypatch, capsys):
    """A file of our own that cannot be written is named, and nothing looks like a result."""
    Tools(monkeypatch)
    out = tmp_path / "out"
    writes = {kind: getattr(Path, kind) for kind in ("write_text", "write_bytes")}

    def full(kind):
        def write(self, text, *args, **options):
            if self.name == name:
                writes[kind](self, text[:5], *args, **options)
                raise OSError(28, "No space left on device", str(self))
            return writes[kind](self, text, *args, **options)

        return write

    for kind in writes:
        monkeypatch.setattr(Path, kind, full(kind))
    assert said(capsys, "build", "--board", "icebreaker", "--config", tiny, "-o", str(out)) == (
        2, f"cannot write {out / name}: No space left on device")
    assert not {"nearbit.bin", "nearbit.toml", "report.json"} & set(os.listdir(out))


@pytest.mark.parametrize("error", [ToolError("icepack was terminated by the signal SIGKILL"),
                                   KeyboardInterrupt()])
def test_half_a_bitstream_goes(error, tmp_path, tiny, monkeypatch, capsys):
    def half(folder):
        (folder / "nearbit.bin").write_bytes(ICE40_BITS)
        raise error

    Tools(monkeypatch, icepack=half)
    out = tmp_path / "out"
    status, message = said(capsys, "build", "--board", "icebreaker", "--config", tiny, "-o",
                           str(out))
    assert (status, message) == ((1, str(error)) if str(error) else (130, "interrupted"))
    assert "nearbit.bin" not in os.listdir(out)


def test_folder_that_cannot_be_written(tmp_path, tiny, capsys):
    """A folder stands where the bitstream should."""
    out = tmp_path / "out"
    (out / "nearbit.bin").mkdir(parents=True)
    assert said(capsys, "build", "--board", "icebreaker", "--config", tiny, "-o", str(out)) == (
        2, f"cannot write {out / 'nearbit.bin'}: Is a directory")


@pytest.mark.parametrize(("text", "sentence"), [
    ("kill -11 $$", "yosys was terminated by the signal SIGSEGV"),
    ("kill -9 $$", "yosys was terminated by the signal SIGKILL (memory may be short)"),
    ("printf 'ERROR: \\377Ger\\344t'; exit 1", "yosys failed: ERROR: \ufffdGer\ufffdt")])
def test_program_that_dies(text, sentence, tmp_path, tiny, monkeypatch, capsys):
    without_verilog(monkeypatch)
    yosys = program(tmp_path / "yosys", f'[ "$1" = --version ] && exit 0\n{text}')
    assert said(capsys, "build", "--board", "icebreaker", "--config", tiny, "-o",
                str(tmp_path / "out"), "--yosys", yosys) == (1, sentence)


def test_program_that_cannot_run(tmp_path, tiny, capsys, monkeypatch):
    path = tmp_path / "yosys"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    out = str(tmp_path / "out")
    arguments = ["build", "--board", "icebreaker", "--config", tiny, "-o", out]
    assert said(capsys, *arguments, "--yosys", str(path)) == (
        2, f"the program '{path}', which --yosys names for yosys, cannot be run: Exec format error")
    monkeypatch.setenv("ICEPACK", "icepack 'x")
    assert said(capsys, *arguments) == (
        2, "ICEPACK is not a command, \"icepack 'x\": no closing quotation")


def test_growth():
    spec = importlib.util.spec_from_file_location("boards", ROOT / "benchmarks" / "boards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.growth("b", {"luts": 1000}, {"luts": 1030}) is None
    assert module.growth("b", {"luts": 1000}, {"luts": 900}) is None
    assert module.growth("b", {"luts": 1000}, {"luts": 1031}) == (
        "b takes 1,031 of its device's logic, 3.1 % more than the 1,000 in "
        "benchmarks/results/boards.json; where that is right, run: python benchmarks/boards.py b")


def test_old_bitstream_goes(tmp_path):
    """A build that is refused leaves no bitstream of an earlier one behind."""
    import dataclasses

    board = dataclasses.replace(find_board("ice40-hx8k-b-evn"),
                                config=TINY.replace(capacity=8192))
    (tmp_path / "nearbit.bin").write_bytes(b"old")
    with pytest.raises(BoardError, match="block RAMs"):
        build(board, tmp_path)
    assert os.listdir(tmp_path) == []


def test_slowest_path(tmp_path):
    """The units in which the longest path within the clock begins and ends."""
    def path(domains, delays, *cells):
        return {"from": domains[0], "to": domains[1], "path": [
            {"delay": delay, "from": {"cell": cells[0]}, "to": {"cell": cells[-1]}}
            for delay in delays]}

    clock = ("posedge clk", "posedge clk")
    (tmp_path / "nearbit.report.json").write_text(json.dumps({
        "utilization": {"TRELLIS_COMB": {"used": 70}},
        "fmax": {"clk": {"achieved": 61.2, "constraint": 60.0}},
        "critical_paths": [
            path(clock, [9.0], "accelerator.inner.link.error_Q", "accelerator.inner.link.error_Q"),
            path(clock, [8.0, 8.3], "accelerator.inner.core.order.level_Q", "accelerator.uart_Q"),
            path(("<async>", clock[1]), [40.0], "rx_pin.buf", "accelerator.receiver.first")]}))
    found = _read_report(tmp_path, BOARDS["ulx3s-25f"].device, 60_000_000, 1)
    assert found == (70, 61.2, ["order", "nearbit"])
