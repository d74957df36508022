"""A bitstream of a small design, built, read back, and asked over its UART pins."""

import dataclasses
import shutil

import numpy as np
import pytest

from nearbit_boards.board import BoardError
from nearbit_boards.boards import find_board
from nearbit_boards.build import build
from nearbit_boards.device import Device
from nearbit_boards.virtual import VirtualTransport
from nearbit_model.attention import attention
from nearbit_model.config import Config


SMALL = Config(key_bits=8, value_dim=4, capacity=64, lanes=1, value_lanes=1, top_n=8, exp_tables=1,
               normalizer="divider", divider_cycles=16, selection="counters",
               cell="ice40")


@pytest.fixture(scope="module")
def board():
    if shutil.which("icebox_vlog") is None:
        pytest.skip("needs icebox_vlog (apt-get install fpga-icestorm)")
    # A host link of 8 cycles a bit, and a clock that any placement reaches.
    return dataclasses.replace(find_board("ice40-hx8k-b-evn"), config=SMALL, clock=24_000_000,
                               baud=3_000_000)


@pytest.fixture(scope="module")
def built(board, tmp_path_factory):
    return build(board, tmp_path_factory.mktemp("virtual"), version=(1, 2, 3))


@pytest.mark.slow
def test_build(board, built):
    """What a build says is what the files say; a second one gives the same bitstream."""
    said = built.to_dict()
    assert {"bitstream", "device", "luts", "luts_total", "ffs", "brams", "dsps", "fmax_mhz",
            "target_mhz", "seconds", "tools"} <= set(said)
    assert said["device"] == "iCE40HX8K"
    assert 500 < said["luts"] < 7680
    assert said["target_mhz"] == 24
    assert said["fmax_mhz"] >= 24
    first = built.bitstream.read_bytes()
    assert build(board, built.bitstream.parent, version=(1, 2, 3)).bitstream.read_bytes() == first


@pytest.mark.slow
def test_attention(built):
    rng = np.random.default_rng(1)
    transport = VirtualTransport(built.bitstream, built.baud)
    with Device.open(transport, config=SMALL) as device:
        assert device.identity.version == "1.2.3"
        assert device.identity.clock == 24_000_000
        for tokens, n in ((20, 5), (64, 8)):
            q, k = rng.normal(size=(2, 3, 8)), rng.normal(size=(1, tokens, 8))
            v = rng.normal(size=(1, tokens, 4))
            answer = device.attention(q, k, v, n=n, recent=0)
            golden = attention(q, k, v, SMALL, n=n)
            np.testing.assert_array_equal(answer.result.output_int, golden.output_int)
            np.testing.assert_array_equal(answer.result.selected, golden.selected)
            np.testing.assert_array_equal(answer.result.weights, golden.weights)
            assert answer.repeated == 0
        assert device.info().state.loaded == 64


@pytest.mark.slow
def test_bad_files(built, tmp_path):
    alone = tmp_path / "alone.bin"
    shutil.copyfile(built.bitstream, alone)
    with pytest.raises(BoardError, match=r"^there is no constraint file .*alone\.pcf beside the "
                                         r"bitstream, which names the pins$"):
        VirtualTransport(alone, 3_000_000)
    (tmp_path / "alone.pcf").write_text("set_io nothing C3\n")
    with pytest.raises(BoardError, match=r"has no pin uart_0__rx|does not give the frequency"):
        VirtualTransport(alone, 3_000_000)
    octets = alone.read_bytes()
    alone.write_bytes(octets[:len(octets) // 2])
    with pytest.raises(BoardError, match=r"alone\.bin cannot be unpacked: "):
        VirtualTransport(alone, 3_000_000)
