"""What programmers print, and what `nearbit flash` says of it.

The outputs are those of the programs, as their sources print them (see
:data:`nearbit_boards.flash.OUTPUTS`) or as they were printed by a board of somebody else's.
"""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nearbit.cli import main
from nearbit_boards.board import BoardError
from nearbit_boards.boards import BOARDS, find_board
from nearbit_boards.flash import OUTPUTS, RULES_FILE, FlashError, flash, udev_rule


ROOT = Path(__file__).resolve().parents[2]

# iceprog into the FPGA's own memory (-S), and into the flash memory.
SRAM = """init..
cdone: high
reset..
cdone: low
programming..
cdone: {}
Bye.
"""
FLASH = """init..
cdone: high
reset..
cdone: low
flash ID: {id}
file size: 104090
erase 64kB sector at 0x000000..
erase 64kB sector at 0x010000..
programming..
addr 0x000000   0%\raddr 0x019000  98%\rdone.
reading..
addr 0x000000   0%\raddr 0x019000  98%\rVERIFY OK
cdone: {cdone}
Bye.
"""
WINBOND = "0xEF 0x40 0x18 0x00"
NOT_FOUND = """init..
Can't find iCE FTDI USB device (vendor_id 0x0403, device_id 0x6010 or 0x6014).
ABORT.
"""
# openFPGALoader: before 1.0 the bar is drawn over itself.
LOADING = """empty
write to ram
Jtag frequency : requested 6000000Hz -> real 3000000Hz
ret 0
Open file: DONE
Parse file: DONE
Enable configuration: DONE
SRAM erase: DONE
\rLoading: [=========                                         ] 17.10%\
\rLoading: [==================================================] 100.00%
{}
"""
LOADED = LOADING.format("Done\nDisable configuration: DONE")
REGISTER = """Fail
displayReadReg
\tConfig Target Selection : 0
\tJTAG Active
\tISC Enable
\tWrite Enable
\tRead Enable
\tStd PreAmble
\tBSE Error Code
\t\t{}
\tEXEC Error
"""
WRITTEN = """empty
write to flash
Jtag frequency : requested 6000000Hz -> real 3000000Hz
Open file DONE
Parse file DONE
Enable configuration: DONE
SRAM erase: DONE
Detected: Winbond W25Q128 256 sectors size: 128Mb
00000000 00000000 00000000 00
\rErasing: [==================================================] 100.00%
Done
\rWriting: [==================================================] 100.00%
Done
Refresh: DONE
"""
OPEN = """empty
write to ram
unable to open ftdi device: {}
JTAG init failed with: unable to open ftdi device
"""

RULE_6010 = (f"write the line {udev_rule('0403:6010')} into {RULES_FILE}, type 'sudo udevadm "
             f"control --reload-rules', and plug the board in again")
RULE_6015 = RULE_6010.replace("6010", "6015")
EVN = "Lattice iCE40-HX8K Breakout Board"
LOST = ("the connection to {} failed while it was written ('{}'); plug the board in again, without "
        "a hub and with another cable, and flash again")
NO_FLASH = ("the flash memory of 1BitSquared iCEBreaker does not answer (its ID reads as all {}), "
            "so nothing was written; unplug the board for some seconds, check its jumpers, and "
            "flash again")
CDONE = ("the FPGA of {} has not started from the bitstream (cdone is low at the end); check the "
         "board's jumpers, which choose between flash and the FPGA's own memory, and flash again")


@pytest.fixture
def programmer(tmp_path, monkeypatch):
    """Make a board's programmer one that prints a text, and ends with a status."""
    def make(board, text, status=0, *, after=""):
        path = tmp_path / "programmer"
        output = tmp_path / "output"
        output.write_bytes(text if isinstance(text, bytes) else text.encode())
        # One half to each of the two streams, as programmers do it.
        path.write_text(f"#!/bin/sh\nhead -n 3 {output}\ntail -n +4 {output} >&2\n{after}\n"
                        f"exit {status}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv(board.programmer.variable, str(path))
        return path

    return make


@pytest.mark.parametrize(("name", "text"), [
    ("ice40-hx8k-b-evn", SRAM.format("high")),
    ("icebreaker", FLASH.format(id=WINBOND, cdone="high")),
    ("ulx3s-12f", LOADED),
    # In colours, and without a bar.
    ("ulx3s-12f", re.sub(r"(DONE|Done)", "\x1b[32m\\1\x1b[0m", LOADED)),
    ("ulx3s-12f", re.sub(r"\r.*\n?", "", LOADED).replace("Done", "Loading: Done")),
    ("icepi-zero", WRITTEN),
])
def test_success(programmer, name, text):
    board = find_board(name)
    programmer(board, text)
    flash(board, Path("x.bit"))


def failures():
    """Board, output, status, sentence; {} is the programmer's path."""
    evn, breaker, ulx, icepi = "ice40-hx8k-b-evn", "icebreaker", "ulx3s-85f", "icepi-zero"
    title = "Radiona ULX3S 85F"
    either = (f"{EVN} cannot be opened: if lsusb does not list 0403:6010, plug it in with a cable "
              f"that carries data; if it does, this user has no permission to use it, so "
              f"{RULE_6010}")
    forbidden = f"this user has no permission to use {title} (USB 0403:6015); {RULE_6015}"
    busy = (f"{title} (USB 0403:6015) is in use by another program; close it, such as another "
            f"programmer, and flash again")
    jtag = (f"the USB chip of {title} is there, but its FPGA does not answer by JTAG ('%s'); "
            f"unplug the board for some seconds, and flash again")
    other = (f"the FPGA of {title} does not match the bitstream; read its name on the chip, and "
             f"build for that board")
    return [
        (evn, NOT_FOUND, 2, either),
        (evn, "init..\nFailed to reset iCE FTDI USB device.\nABORT.\n", 2,
         LOST.format(EVN, "Failed to reset iCE FTDI USB device.")),
        (breaker, FLASH.format(id=WINBOND, cdone="x").partition("done.")[0]
         + "\nWrite error (chunk, rc=-4, expected 256).\nABORT.\n", 2,
         LOST.format("1BitSquared iCEBreaker", "Write error (chunk, rc=-4, expected 256).")),
        (evn, SRAM.format("low"), 0, CDONE.format(EVN)),
        (breaker, FLASH.format(id=WINBOND, cdone="low"), 0,
         CDONE.format("1BitSquared iCEBreaker")),
        (breaker, FLASH.format(id="0xFF 0xFF 0xFF 0xFF", cdone="low"), 0, NO_FLASH.format("ones")),
        (breaker, FLASH.format(id=" ".join(["0x00"] * 20), cdone="high"), 0,
         NO_FLASH.format("zeros")),
        (breaker, FLASH.format(id=WINBOND, cdone="x").partition("VERIFY")[0]
         + "\nFound difference between flash and file!\nABORT.\n", 3,
         ("the flash memory of 1BitSquared iCEBreaker does not hold what was written to it; unplug "
          "the board for some seconds and flash again")),
        (breaker, "iceprog: can't open 'x.bit' for reading: No such file or directory\n", 1,
         "{} failed: iceprog: can't open 'x.bit' for reading: No such file or directory"),
        (breaker, "", 3, "{} failed: status 3"),
        (breaker, "sudo: a terminal is required\nPermission denied\n", 1,
         f"this user has no permission to use 1BitSquared iCEBreaker (USB 0403:6010); {RULE_6010}"),
        # Nothing is wrong, and nothing is right.
        (breaker, "", 0, ("{} exited without an error, but did not report that it wrote "
                          "1BitSquared iCEBreaker (last output: nothing); check whether the board "
                          "answers, or use another release of iceprog")),
        (breaker, SRAM.format("high"), 0,
         ("{} exited without an error, but did not report that it wrote 1BitSquared iCEBreaker "
          "(last output: Bye.); check whether the board answers, or use another release of "
          "iceprog")),
        (ulx, OPEN.format("-3 (device not found)"), 1,
         (f"no {title} was found (USB 0403:6015); plug it in with a cable that carries data, and "
          f"check that lsusb lists it")),
        (ulx, OPEN.format("-4 (usb_open() failed)"), 1, forbidden),
        (ulx, OPEN.format("-8 (inappropriate permissions on device!)"), 1, forbidden),
        (ulx, "Error: libusb_open() failed: LIBUSB_ERROR_ACCESS\n", 1, forbidden),
        (ulx, OPEN.format("-5 (unable to claim usb device. Make sure the default FTDI driver is "
                          "not in use)"), 1, busy),
        (ulx, OPEN.format("-3 (unable to set usb configuration. Make sure the default FTDI driver "
                          "is not in use)"), 1, busy),
        (ulx, OPEN.format("-12 (libusb_get_device_list() failed)"), 1,
         either.replace(EVN, title).replace("6010", "6015")),
        (ulx, "empty\nwrite to ram\nJTAG init failed with: TDO is stuck at 0\n", 1,
         jtag % "TDO is stuck at 0"),
        (ulx, ("empty\nwrite to ram\nJtag frequency : requested 6000000Hz -> real 3000000Hz\n"
               "Error: no device found\n"), 1, jtag % "no device found"),
        (ulx, LOADING.format("Done\nDisable configuration: DONE").replace(
            "\rLoading: [====", "problem -1 written\n\rLoading: [===="), 0,
         LOST.format(title, "problem -1 written")),
        (ulx, LOADING.format("").partition("Loading")[0] + "write error: -1 instead of 512\n", 0,
         LOST.format(title, "write error: -1 instead of 512")),
        (ulx, LOADING.format(REGISTER.format("CRC ERR")), 0,
         (f"the FPGA of {title} found an error in the bitstream (CRC) and is not configured; plug "
          f"the board in without a hub and with another cable, and flash again")),
        (ulx, LOADING.format(REGISTER.format("ID ERR")), 0, other),
        (ulx, ("Open file: DONE\nParse file: DONE\nmismatch between target's idcode and bitstream "
               "idcode\n\tbitstream has 0x41112043 hardware requires 0x41113043\nError: Failed to "
               "program FPGA: std::exception\n"), 1, other),
        (ulx, LOADING.format(REGISTER.format("Preamble ERR")), 0,
         (f"{title} was not written: {{}} reports that 'Loading' failed; unplug the board for "
          f"some seconds, and flash again")),
        (ulx, LOADED.replace("configuration: DONE\nSRAM", "configuration: FAIL\nSRAM"), 0,
         (f"{title} was not written: {{}} reports that 'Enable configuration' failed; unplug the "
          f"board for some seconds, and flash again")),
        (ulx, "Open file FAIL\n", 0,
         (f"{title} was not written: {{}} reports that 'Open file' failed; unplug the board for "
          f"some seconds, and flash again")),
        (ulx, "write to ram\nError: bitfile not specified\n", 0,
         f"{title} was not written: {{}} reports 'bitfile not specified'"),
        (ulx, LOADING.format("Done\n"), 0,
         (f"{{}} exited without an error, but did not report that it wrote {title} (last output: "
          f"Done); check whether the board answers, or use another release of openFPGALoader")),
        (icepi, "empty\nwrite to flash\nError: cannot find board 'icepi-zero'\n", 1,
         ("this release of {} does not know the board 'icepi-zero'; install a newer one, such "
          "as from https://github.com/trabucayre/openFPGALoader")),
        (icepi, WRITTEN.partition("Detected")[0] + "Read ID failed\nRefresh: DONE\n", 0,
         NO_FLASH.format("ones").replace("1BitSquared iCEBreaker", "Icepi Zero 1.3")),
        (icepi, WRITTEN.partition("\rErasing")[0] + "unlock blocks\nError: block protection is set"
         "\n       can't unlock without --unprotect-flash\nRefresh: DONE\n", 0,
         ("the flash memory of Icepi Zero 1.3 is write-protected; unprotect it with: {} -b "
          "icepi-zero --write-flash --unprotect-flash x.bit")),
        (icepi, WRITTEN + "Flash is blank\n", 0,
         "the flash memory of Icepi Zero 1.3 is empty afterwards; flash again"),
        (icepi, WRITTEN.replace("Refresh: DONE", "Verification failed at 4096\nRefresh: DONE"), 0,
         ("the flash memory of Icepi Zero 1.3 does not hold what was written to it; unplug the "
          "board for some seconds and flash again")),
        (icepi, WRITTEN.replace("Refresh: DONE", "Refresh: FAIL\ndisplayReadReg\n"), 0,
         ("Icepi Zero 1.3 was not written: {} reports that 'Refresh' failed; unplug the board for "
          "some seconds, and flash again")),
        (icepi, WRITTEN.replace("Refresh: DONE\n", ""), 0,
         ("{} exited without an error, but did not report that it wrote Icepi Zero 1.3 (last "
          "output: Done); check whether the board answers, or use another release of "
          "openFPGALoader")),
    ]


@pytest.mark.parametrize(("name", "text", "status", "sentence"), failures())
def test_failure(programmer, name, text, status, sentence):
    board = find_board(name)
    path = programmer(board, text, status)
    with pytest.raises(FlashError) as caught:
        flash(board, Path("x.bit"))
    assert str(caught.value) == sentence.format(path) if "{}" in sentence \
        else str(caught.value) == sentence


def test_each_sign_is_tested():
    """No sign of the table is without an output above."""
    texts = [text.replace("\r", "\n") for _, text, _, _ in failures()]
    for output in OUTPUTS.values():
        for sign in output.failures:
            assert any(re.search(sign.pattern, text, re.MULTILINE) for text in texts), sign
    assert {board.programmer.command for board in BOARDS.values()} == set(OUTPUTS)


def test_verbose_output_of_an_earlier_bitstream(programmer):
    """With -v, the register is shown before, too: what it says then is of the bitstream before."""
    board = find_board("ulx3s-12f")
    programmer(board, LOADED.replace(
        "Enable configuration", "displayReadReg\n\tStd PreAmble\n\t\tID ERR\nEnable configuration"))
    flash(board, Path("x.bit"))


def test_not_utf_8(programmer):
    board = find_board("icebreaker")
    path = programmer(board, b"Err\xf6\xff: Ger\xe4t\n", 1)
    with pytest.raises(FlashError, match=f"^{re.escape(str(path))} failed: Err\ufffd\ufffd: "
                                         f"Ger\ufffdt$"):
        flash(board, Path("x.bit"))


def test_killed(programmer):
    board = find_board("icebreaker")
    path = programmer(board, "init..\n", after="kill -9 $$")
    with pytest.raises(FlashError, match=re.escape(
            f"{path} was terminated by the signal SIGKILL (memory may be short), so 1BitSquared "
            f"iCEBreaker may hold a part of the bitstream; flash again")):
        flash(board, Path("x.bit"))


def test_hanging(programmer):
    """iceprog waits for ever for a flash memory that is always busy."""
    board = find_board("icebreaker")
    text = FLASH.format(id="0xFF 0xFF 0xFF", cdone="low").partition("programming")[0]
    programmer(board, text, after="exec sleep 600")
    with pytest.raises(FlashError, match=re.escape(NO_FLASH.format("ones"))):
        flash(board, Path("x.bit"), silence=1.5)
    path = programmer(board, "init..\n", after="exec sleep 600")
    with pytest.raises(FlashError, match=re.escape(
            f"{path} printed nothing for 1.5 seconds and was terminated (last output: init..), so "
            f"1BitSquared iCEBreaker may hold a part of the bitstream; unplug the board for some "
            f"seconds, and flash again")):
        flash(board, Path("x.bit"), silence=1.5)


def test_no_command(monkeypatch, tmp_path):
    board = find_board("icebreaker")
    monkeypatch.setenv("ICEPROG", "iceprog 'x")
    with pytest.raises(BoardError, match=r"^ICEPROG is not a command, \"iceprog 'x\": no closing "
                                         r"quotation$"):
        flash(board, Path("x.bit"))
    # A file that may be run, and cannot.
    path = tmp_path / "iceprog"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    monkeypatch.setenv("ICEPROG", str(path))
    with pytest.raises(BoardError, match=f"^{re.escape(str(path))} cannot be run: Exec format "
                                         f"error$"):
        flash(board, Path("x.bit"))


def test_status(programmer, tmp_path, capsys):
    """The command says it in one sentence, with the status of bad input."""
    bits = tmp_path / "x.bit"
    bits.write_bytes(b"\xff\x00Part: LFE5U-12F-6CABGA381\x00\xff\xff\xbd\xb3\x5e\0\0\0\xff")
    programmer(find_board("ulx3s-12f"), LOADING.format(REGISTER.format("CRC ERR")))
    assert main(["flash", "--board", "ulx3s-12f", "--bitstream", str(bits)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("nearbit: the FPGA of Radiona ULX3S 12F found an error in ")
    assert captured.err.count("\n") == 1


def test_interrupted(tmp_path):
    """Ctrl-C ends the programmer, too, and says what may be left."""
    bits = tmp_path / "x.bit"
    bits.write_bytes(b"\xff\x00Part: LFE5U-12F-6CABGA381\x00\xff\xff\xbd\xb3\x5e\0\0\0\xff")
    path = tmp_path / "programmer"
    path.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/new\nmv {tmp_path}/new {tmp_path}/pid\n"
                    f"exec sleep 600\n")
    path.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-m", "nearbit", "flash", "--board", "ulx3s-12f", "--bitstream",
         str(bits)], env={**os.environ, "OPENFPGALOADER": str(path)}, stderr=subprocess.PIPE,
        encoding="utf-8")
    try:
        while not (tmp_path / "pid").exists() and process.poll() is None:
            time.sleep(0.01)
        # The program may run before its caller knows its number.
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert said == ("nearbit: Radiona ULX3S 12F may hold a part of the bitstream; flash it again\n"
                    "nearbit: interrupted\n")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_rules_in_the_documentation():
    """The page has the rule of each board's USB chip, as the sentences have it."""
    page = (ROOT / "docs" / "boards.md").read_text(encoding="utf-8")
    for board in BOARDS.values():
        assert udev_rule(board.programmer.usb) in page
    assert RULES_FILE in page
