"""A board's serial port, found by its USB chip."""

from types import SimpleNamespace

import pytest
from serial.tools import list_ports

from nearbit_boards.boards import find_board
from nearbit_boards.ports import find_port
from nearbit_boards.transport import DeviceError


def port(device, product, location):
    return SimpleNamespace(device=device, vid=0x0403, pid=product, location=location,
                           serial_number="A")


OTHER = SimpleNamespace(device="/dev/ttyS0", vid=None, pid=None, location=None, serial_number=None)
ULX3S = port("/dev/ttyUSB2", 0x6015, "1-5:1.0")
# FT2232H: the first port programs, the second is the UART.
FIRST, SECOND = port("/dev/ttyUSB0", 0x6010, "1-4:1.0"), port("/dev/ttyUSB1", 0x6010, "1-4:1.1")


@pytest.fixture
def plugged(monkeypatch):
    def plug(*ports):
        monkeypatch.setattr(list_ports, "comports", lambda: list(ports))

    return plug


def test_found(plugged):
    plugged(OTHER, SECOND, ULX3S, FIRST)
    assert find_port(find_board("icebreaker")) == "/dev/ttyUSB1"
    assert find_port(find_board("ULX3S-85F")) == "/dev/ttyUSB2"


def test_refused(plugged):
    plugged(OTHER, ULX3S)
    with pytest.raises(DeviceError, match=r"^no serial port of 1BitSquared iCEBreaker was found "
                                          r"\(USB 0403:6010\); plug it in"):
        find_port(find_board("icebreaker"))
    plugged(ULX3S, port("/dev/ttyUSB7", 0x6015, "2-1:1.0"))
    with pytest.raises(DeviceError, match=r"^2 boards with the USB chip of Radiona ULX3S 25F "
                                          r"\(0403:6015\) are plugged in, at /dev/ttyUSB2 and "
                                          r"/dev/ttyUSB7; name one with --port$"):
        find_port(find_board("ulx3s-25f"))
