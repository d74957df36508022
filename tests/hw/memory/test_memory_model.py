"""The benches' monitor sees what AXI4 forbids."""

import pytest

from .memory_model import Monitor


def test_bursts():
    monitor = Monitor("bus", 64)
    monitor.burst({"id": 0, "addr": 4096 - 8 * 3, "len": 2})
    with pytest.raises(AssertionError, match="cross 4 KiB"):
        monitor.burst({"id": 0, "addr": 4096 - 8 * 3, "len": 3})
    with pytest.raises(AssertionError, match="is not a beat's"):
        monitor.burst({"id": 0, "addr": 4, "len": 0})


def test_beats():
    monitor = Monitor("bus", 64)
    monitor.burst({"id": 0, "addr": 0, "len": 1})
    monitor.burst({"id": 0, "addr": 0, "len": 0})
    monitor.burst({"id": 1, "addr": 0, "len": 0})
    monitor.beat(1, 1)
    monitor.beat(0, 0)
    with pytest.raises(AssertionError, match="last is 0"):
        monitor.beat(0, 0)
    with pytest.raises(IndexError):
        monitor.beat(1, 1)
