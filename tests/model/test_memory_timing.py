"""Parameters of a simulated memory: what is refused, and what follows from them."""

import json
import re

import pytest

from nearbit_model.memory_timing import DECERR, SLVERR, MemoryTiming, TimingError


@pytest.mark.parametrize(("given", "says"), [
    ({"latency": 0}, "latency must be an integer from 1 to 1048576, not 0"),
    ({"latency": 1.5}, "latency must be an integer from 1 to 1048576, not 1.5"),
    ({"latency": True}, "latency must be an integer from 1 to 1048576, not True"),
    ({"latency_to": 99}, "latency_to must be at least latency (100), not 99"),
    ({"latency_to": "x"}, "latency_to must be an integer from 1 to 1048576, not 'x'"),
    ({"outstanding": 0}, "outstanding must be an integer from 1 to 65536, not 0"),
    ({"seed": -1}, f"seed must be an integer from 0 to {2**63 - 1}, not -1"),
    ({"pace": 0}, "pace must be from 0.001 to 1 on each bus, not 0"),
    ({"pace": 1.01}, "pace must be from 0.001 to 1 on each bus, not 1.01"),
    ({"pace": float("nan")}, "pace must be from 0.001 to 1 on each bus, not nan"),
    ({"pace": 17, "shared_pace": True}, "pace must be from 0.001 to 16, not 17"),
    ({"shared_pace": 1}, "shared_pace must be true or false, not 1"),
    ({"reorder": "yes"}, "reorder must be true or false, not 'yes'"),
    ({"r_pause": 1}, "r_pause must be a probability from 0 to 0.99, not 1"),
    ({"b_pause": -0.1}, "b_pause must be a probability from 0 to 0.99, not -0.1"),
    ({"aw_pause": None}, "aw_pause must be a probability from 0 to 0.99, not None"),
    ({"faults": {8: 1}},
     "the response of a fault must be 2 (SLVERR) or 3 (DECERR), not 1"),
    ({"faults": {-8: 2}}, f"an address must be an integer from 0 to {2**64 - 1}, not -8"),
    ({"silent_at": ("8",)}, f"an address must be an integer from 0 to {2**64 - 1}, not '8'"),
    ({"silent_from": -1}, f"silent_from must be an integer from 0 to {2**40}, not -1"),
    ({"silent_to": 0.5}, f"silent_to must be an integer from 0 to {2**40}, not 0.5"),
])
def test_refused(given, says):
    with pytest.raises(TimingError, match=f"^{re.escape(says)}$"):
        MemoryTiming(**given)


def test_latest():
    assert MemoryTiming(latency=7).latest == 7
    assert MemoryTiming(latency=7, latency_to=9).latest == 9


@pytest.mark.parametrize(("pace", "fraction"), [
    (1, (1, 1)), (0.5, (1, 2)), (1 / 3, (1, 3)), (0.1, (1, 10)), (0.999, (999, 1000))])
def test_pace(pace, fraction):
    assert MemoryTiming(pace=pace).beats_of_cycles == fraction


def test_shared_pace():
    assert MemoryTiming(pace=2.25, shared_pace=True).beats_of_cycles == (9, 4)


@pytest.mark.parametrize(("given", "is_drawn"), [
    ({}, False), ({"latency": 5, "latency_to": 5}, False), ({"pace": 0.3}, False),
    ({"latency": 5, "latency_to": 6}, True), ({"reorder": True}, True), ({"w_pause": 0.1}, True)])
def test_is_drawn(given, is_drawn):
    assert MemoryTiming(**given).is_drawn == is_drawn


def test_is_silent():
    def silent(**given):
        return [MemoryTiming(**given).is_silent(cycle) for cycle in range(4)]

    assert silent() == [False] * 4
    assert silent(silent_to=2) == [False] * 4
    assert silent(silent_from=1) == [False, True, True, True]
    assert silent(silent_from=1, silent_to=3) == [False, True, True, False]


def test_json():
    timing = MemoryTiming(latency=3, latency_to=8, faults={64: SLVERR, 8: DECERR}, seed=4,
                          silent_at=(1, 2), silent_to=9, pace=0.25, r_pause=0.5)
    assert MemoryTiming.from_json(json.loads(json.dumps(timing.to_json()))) == timing
