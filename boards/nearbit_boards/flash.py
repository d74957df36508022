"""Writing a bitstream to a board, with the program that amaranth-boards uses for it."""

import os
import queue
import re
import shutil
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nearbit_boards.board import Board, BoardError
from nearbit_boards.tools import ended_by, split_command


__all__ = ["OUTPUTS", "RULES_FILE", "FlashError", "Output", "Sign", "flash", "flash_command",
           "udev_rule"]


class FlashError(BoardError):
    """A board that could not be flashed; the message is one sentence with the remedy."""


@dataclass(frozen=True)
class Sign:
    """What a programmer prints when a write has failed.

    Parameters
    ----------
    pattern
        Regular expression to find in its output. ``^`` and ``$`` match at each line.
    meaning
        One sentence with the remedy. It may contain ``{title}`` and ``{usb}`` of the board,
        ``{access}`` (how to give users access to it), ``{command}`` with its ``{options}``, the
        ``{bitstream}``, and the pattern's named groups.
    """

    pattern: str
    meaning: str


@dataclass(frozen=True)
class Output:
    """How to interpret a programmer's output, as its exit status alone is not reliable.

    Parameters
    ----------
    failures
        Signs of failure; the first one found counts.
    success
        For each option, what it prints at the end of a successful write; "" is for no option. A
        write counts as successful only if this is found.
    """

    failures: tuple[Sign, ...]
    success: Mapping[str, str]


RULES_FILE = "/etc/udev/rules.d/53-nearbit.rules"
"""File for the udev rules in docs/boards.md; numbered below 73, where systemd reads uaccess."""


def udev_rule(usb: str) -> str:
    """Return the udev rule that lets users access a USB device, such as 0403:6010.

    It matches only the USB device: a rule that also matches the serial ports would take them away
    from the group dialout.
    """
    vendor, _, product = usb.partition(":")
    return (f'SUBSYSTEM=="usb", ATTR{{idVendor}}=="{vendor}", ATTR{{idProduct}}=="{product}", '
            f'MODE="0660", GROUP="plugdev", TAG+="uaccess"')


_ACCESS = ("write the line {rule} into {file}, type 'sudo udevadm control --reload-rules', and "
           "plug the board in again")
_FORBIDDEN = "this user has no permission to use {title} (USB {usb}); {access}"
_MISSING = ("no {title} was found (USB {usb}); plug it in with a cable that carries data, and "
            "check that lsusb lists it")
_EITHER = ("{title} cannot be opened: if lsusb does not list {usb}, plug it in with a cable that "
           "carries data; if it does, this user has no permission to use it, so {access}")
_BUSY = ("{title} (USB {usb}) is in use by another program; close it, such as another programmer, "
         "and flash again")
_LOST = ("the connection to {title} failed while it was written ('{what}'); plug the board in "
         "again, without a hub and with another cable, and flash again")
_NO_FLASH = ("the flash memory of {title} does not answer (its ID reads as all {what}), so nothing "
             "was written; unplug the board for some seconds, check its jumpers, and flash again")
_DIFFERS = ("the flash memory of {title} does not hold what was written to it; unplug the board "
            "for some seconds and flash again")

_FORBIDDEN_SIGN = Sign(r"LIBUSB_ERROR_ACCESS|[Pp]ermission denied|insufficient permissions"
                       r"|inappropriate permissions", _FORBIDDEN)

OUTPUTS: Mapping[str, Output] = {
    # YosysHQ/icestorm, iceprog/iceprog.c and mpsse.c, releases of 2015 to 2023. `cdone` is the pin
    # by which the FPGA shows that it is configured; the last line with it counts.
    "iceprog": Output((
        _FORBIDDEN_SIGN,
        # Any error of libftdi's ftdi_usb_open, which includes a missing board (-3) and one without
        # permission to open it (-4).
        Sign(r"^Can't find iCE FTDI USB device", _EITHER),
        Sign(r"^(?P<what>Failed (?:to )?(?:reset|purge|get|set) .*|Read error\.|Write error .*)$",
             _LOST),
        Sign(r"^flash ID:(?: 0xFF){2,}$", _NO_FLASH.replace("{what}", "ones")),
        Sign(r"^flash ID:(?: 0x00){2,}$", _NO_FLASH.replace("{what}", "zeros")),
        Sign(r"^Found difference between flash and file!", _DIFFERS),
        Sign(r"^cdone: low\s(?![\s\S]*^cdone: )[\s\S]*^Bye\.",
             "the FPGA of {title} has not started from the bitstream (cdone is low at the end); "
             "check the board's jumpers, which choose between flash and the FPGA's own memory, and "
             "flash again"),
    ), {
        "-S": r"^cdone: high\s+Bye\.",
        "": r"^VERIFY OK[\s\S]*^cdone: high\s+Bye\.",
    }),
    # trabucayre/openFPGALoader, src/main.cpp, lattice.cpp, spiFlash.cpp, spiInterface.cpp,
    # jtag.cpp, ftdipp_mpsse.cpp, ftdiJtagBitbang.cpp, releases 0.1 to 1.0. The earliest always exit
    # with status 0.
    "openFPGALoader": Output((
        Sign(r"cannot find board '(?P<what>.*)'",
             "this release of {command} does not know the board '{what}'; install a newer one, "
             "such as from https://github.com/trabucayre/openFPGALoader"),
        _FORBIDDEN_SIGN,
        # libftdi: -3 is "usb device not found", -4 "unable to open device", if libusb_open was
        # refused. (In libusb itself, -3 is LIBUSB_ERROR_ACCESS and -4 LIBUSB_ERROR_NO_DEVICE.)
        Sign(r"unable to open ftdi device: -4\b", _FORBIDDEN),
        Sign(r"unable to open ftdi device: -3 \(device not found", _MISSING),
        Sign(r"default FTDI driver is not in use|unable to claim usb device|LIBUSB_ERROR_BUSY",
             _BUSY),
        Sign(r"unable to open ftdi device", _EITHER),
        Sign(r"(?P<what>TDO is stuck at \d|no device found|Unknown device with IDCODE: \w+)",
             "the USB chip of {title} is there, but its FPGA does not answer by JTAG ('{what}'); "
             "unplug the board for some seconds, and flash again"),
        Sign(r"(?P<what>problem -?\d+ (?:written|read)|write error: -?\d+ instead of \d+"
             r"|Error: ftdi_read_data|LIBUSB_ERROR_(?:NO_DEVICE|IO|PIPE|TIMEOUT))", _LOST),
        Sign(r"mismatch between target's idcode|F(?:AIL|ail)\b[\s\S]*\bID ERR",
             "the FPGA of {title} does not match the bitstream; read its name on the chip, and "
             "build for that board"),
        Sign(r"F(?:AIL|ail)\b[\s\S]*\bCRC ERR|CRC check ?: FAIL",
             "the FPGA of {title} found an error in the bitstream (CRC) and is not configured; "
             "plug the board in without a hub and with another cable, and flash again"),
        Sign(r"Read ID failed", _NO_FLASH.replace("{what}", "ones")),
        Sign(r"block protection is set",
             "the flash memory of {title} is write-protected; unprotect it with: {command} "
             "{options} --unprotect-flash {bitstream}"),
        Sign(r"Verification failed at|Verify Failure", _DIFFERS),
        Sign(r"Flash is blank", "the flash memory of {title} is empty afterwards; flash again"),
        Sign(r"^(?P<what>[A-Za-z][\w /]*?):? ?(?:\[[= ]*\] *[\d.]+%)?\s*F(?:AIL|ail)\b",
             "{title} was not written: {command} reports that '{what}' failed; unplug the board "
             "for some seconds, and flash again"),
        Sign(r"^(?:Error|error) ?:? ?(?P<what>.*)$",
             "{title} was not written: {command} reports '{what}'"),
    ), {
        "-m": r"^Loading:[\s\S]*\bDone\s[\s\S]*^Disable configuration: DONE",
        "": r"^Writing:[\s\S]*\bDone\s[\s\S]*^Refresh: DONE",
    }),
}
"""How to interpret each programmer's output, by the name of the program."""


# Seconds without output after which a programmer is terminated. iceprog waits forever for a flash
# memory that is always busy, as a missing one appears to be. In a successful write, the longest
# silence is some seconds, by an old iceprog while it writes.
_SILENCE_SECONDS = 60.0


def flash_command(board: Board, bitstream: Path) -> list[str]:
    """Return the command that writes a bitstream; :class:`BoardError` without a programmer."""
    programmer = board.programmer
    if programmer is None:
        raise BoardError(f"it is not known which program writes to {board.name}; write {bitstream} "
                         f"with the board's own")
    command = split_command(os.environ.get(programmer.variable), programmer.variable)
    return [*(command or [programmer.command]), *programmer.arguments, str(bitstream)]


def flash(board: Board, bitstream: Path, *, silence: float = _SILENCE_SECONDS) -> None:
    """Write a bitstream to a board.

    Returns only if the programmer reports that the board holds it; see :data:`OUTPUTS`.

    Parameters
    ----------
    board, bitstream
        The board, and the file.
    silence
        Seconds without output after which the programmer is terminated.

    Raises
    ------
    BoardError
        The programmer is not installed.
    FlashError
        The board is missing, the user has no permission to use it, or the programmer fails or does
        not report success.
    """
    programmer = board.programmer
    command = flash_command(board, bitstream)
    assert programmer is not None
    if shutil.which(command[0]) is None:
        raise BoardError(f"writing to {board.name} needs {command[0]}, which is not installed; "
                         f"type: {programmer.package}")
    said, status = _listen(command, silence)
    output = OUTPUTS[programmer.command]
    for sign in output.failures:
        found = re.search(sign.pattern, said, re.MULTILINE)
        if found is not None:
            rule = _ACCESS.format(rule=udev_rule(programmer.usb), file=RULES_FILE)
            raise FlashError(sign.meaning.format(
                title=board.title, usb=programmer.usb, access=rule, command=command[0],
                options=" ".join(programmer.arguments), bitstream=bitstream,
                **found.groupdict()))
    lines = [line.strip() for line in said.splitlines() if line.strip() not in ("", "ABORT.")]
    last = lines[-1] if lines else "nothing"
    if status is None:
        raise FlashError(f"{command[0]} printed nothing for {silence:g} seconds and was terminated "
                         f"(last output: {last}), so {board.title} may hold a part of the "
                         f"bitstream; unplug the board for some seconds, and flash again")
    if status < 0:
        raise FlashError(f"{command[0]} was terminated by {ended_by(status)}, so {board.title} may "
                         f"hold a part of the bitstream; flash again")
    if status != 0:
        raise FlashError(f"{command[0]} failed: {last if lines else f'status {status}'}")
    option = next((name for name in output.success if name in programmer.arguments), "")
    if re.search(output.success[option], said, re.MULTILINE) is None:
        raise FlashError(f"{command[0]} exited without an error, but did not report that it wrote "
                         f"{board.title} (last output: {last}); check whether the board answers, "
                         f"or use another release of {programmer.command}")


def _listen(command: list[str], silence: float) -> tuple[str, int | None]:
    """Run a program; return all its output, in order, and its status.

    Colours are removed, and a line that overwrites another becomes a separate line. The status is
    None if the program was terminated because it was silent.
    """
    end, entrance = os.pipe()
    chunks = queue.SimpleQueue[bytes]()

    def read() -> None:
        # In a thread, as Windows cannot wait for pipes. The thread runs on while a child of the
        # program holds the pipe, and nothing waits for it.
        with open(end, "rb", buffering=0) as pipe:
            while chunk := pipe.read(1 << 16):
                chunks.put(chunk)
        chunks.put(b"")

    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=entrance,
                                   stderr=subprocess.STDOUT)
    except OSError as error:
        os.close(end)
        raise BoardError(f"{command[0]} cannot be run: {error.strerror or error}") from None
    finally:
        os.close(entrance)
    threading.Thread(target=read, daemon=True).start()
    octets, status = b"", None
    try:
        while chunk := chunks.get(timeout=silence):
            octets += chunk
        status = process.wait(timeout=silence)
    except (queue.Empty, subprocess.TimeoutExpired):
        pass
    finally:
        process.kill()
        process.wait()
    said = octets.decode("utf-8", "replace")
    return re.sub(r"\x1b\[[0-9;]*m", "", said).replace("\r", "\n"), status
