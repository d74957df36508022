"""Response times of a memory, taken from a log; tests/sim/test_memory.py predicts cycles of them.
"""

import dataclasses

import numpy as np
import pytest

from nearbit_model.config import Config, Memory
from nearbit_model.cycles import Command, Phase, predict
from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.memory_trace import BusTrace, MemoryTrace, TraceError
from nearbit_model.transfers import memory_trace
from nearbit_model.transfers.program import Traffic


CONFIG = Config(key_bits=64, value_dim=64, capacity=1024, lanes=1, value_lanes=16, top_n=8,
                refine_lanes=4, memory=Memory(heads=1, row_id_bits=2, timeout_bits=6))
PHASES = [Phase(heads=[0], pages=1, tokens=[(0, 256)], exp_tables=[(0, 0, 1)]),
          Phase(commands=[Command(counts=(100,), n=3)] * 2)]


def traffic(**changes):
    """Two bursts of different IDs, whose beats mix, and a third one."""
    fields = {
        "name": "axi_rows__0", "is_read": True, "beat_bytes": 8, "bursts": 3, "beats": 6,
        "failed": 0, "addresses": [0, 64, 128], "lengths": [2, 3, 1], "numbers": [1, 0, 1],
        "shown": [10, 12, 20], "asked": [10, 15, 20], "cycles": [30, 31, 32, 33, 34, 50],
        "beat_numbers": [0, 1, 0, 1, 1, 0]}
    arrays = {name: np.array(value) if isinstance(value, list) else value
              for name, value in {**fields, **changes}.items()}
    return Traffic(**arrays)


def codes():
    """A burst on the other bus, and what is written counts for nothing."""
    return [traffic(name="axi_codes", bursts=1, beats=1, addresses=[0], lengths=[1], numbers=[0],
                    shown=[3], asked=[3], cycles=[9], beat_numbers=[0]),
            traffic(name="axi_append", is_read=False, failed=1)]


def test_beats_belong_to_the_bursts_of_their_ids():
    first, rows = memory_trace(CONFIG, [*codes(), traffic()]).buses
    assert (first.name, first.waits.tolist(), first.delays.tolist()) == ("axi_codes", [0], [6])
    assert rows.beats.tolist() == [2, 3, 1]
    assert rows.waits.tolist() == [0, 3, 0]
    assert rows.delays.tolist() == [31 - 10, 33 - 10, 30 - 15, 32 - 15, 50 - 15, 34 - 20]


NONE = {name: [] for name in ("addresses", "lengths", "numbers", "shown", "asked", "cycles",
                              "beat_numbers")}


@pytest.mark.parametrize(("changes", "timeout", "says"), [
    (NONE, 0, "the traffic of axi_rows__0 has no log: simulate with log=True"),
    ({"failed": 2}, 0,
     "2 beats of axi_rows__0 were an error, and cycles are not predicted of faults"),
    ({"beats": 5, "cycles": [30, 31, 32, 33, 34], "beat_numbers": [0, 1, 0, 1, 1]}, 0,
     "1 beats of axi_rows__0 had not come when the run ended"),
    ({}, 21, ("axi_rows__0 was silent for 20 cycles, and the core gives a memory up after 21 "
              "(timeout); cycles are not predicted of faults")),
    ({"cycles": [30, 31, 32, 33, 34, 97]}, 0,
     ("axi_rows__0 was silent for 63 cycles, and the core gives a memory up after 64 (timeout); "
      "cycles are not predicted of faults")),
])
def test_refused(changes, timeout, says):
    with pytest.raises(TraceError) as error:
        memory_trace(CONFIG, [*codes(), traffic(**changes)], timeout=timeout)
    assert str(error.value) == says


def test_nothing_is_owed_between_bursts():
    """That is no silence."""
    late = traffic(shown=[10, 12, 70], asked=[10, 15, 70],
                   cycles=[16, 17, 20, 22, 33, 75], beat_numbers=[0, 1, 0, 1, 0, 1])
    memory_trace(CONFIG, [*codes(), late], timeout=22)
    shared = CONFIG.replace(memory=dataclasses.replace(CONFIG.memory, one_bus=True))
    # On one bus the rows' beats, of IDs from 4 on, do not end the silence for codes.
    late = dataclasses.replace(late, numbers=late.numbers * 4,
                               beat_numbers=late.beat_numbers * 4)
    with pytest.raises(TraceError, match="was silent for 13 cycles"):
        memory_trace(shared, [late], timeout=14)
    mixed = dataclasses.replace(late, numbers=late.numbers // 4,
                                beat_numbers=late.beat_numbers // 4)
    memory_trace(shared, [mixed], timeout=14)


@pytest.mark.parametrize(("config", "buses", "says"), [
    (CONFIG, [], "the configuration reads on 2 buses, and the traffic is of 0"),
    (Config.preset("tiny"), [],
     "the configuration has no memory whose response times could be taken"),
])
def test_other_configurations(config, buses, says):
    with pytest.raises(TraceError) as error:
        memory_trace(config, buses)
    assert str(error.value) == says


def constant(name, lengths, latency):
    """Response times of a memory that answers each burst after the one before."""
    lengths = np.array(lengths)
    return BusTrace(name, lengths, lengths * 0, np.concatenate([
        latency + np.arange(length) for length in lengths]))


def test_program_reads_what_the_trace_is_of():
    buses = constant("axi_codes", [32, 32, 32, 4] * 2, 40), constant("axi_rows__0", [9] * 6, 40)
    timeline = predict(CONFIG.replace(memory=Memory(heads=1)), PHASES, memory=MemoryTrace(buses))
    assert [each.beats for each in timeline.traffic] == [200, 54]
    for wrong, says in (
            ((buses[0], constant("axi_rows__0", [9] * 5, 40)),
             ("the trace of axi_rows__0 is of other bursts than the program reads: they differ "
              "from burst 5 on, of 5 in the trace and 6 of the program")),
            ((constant("axi_codes", [32, 32, 31, 4] * 2, 40), buses[1]),
             ("the trace of axi_codes is of other bursts than the program reads: they differ from "
              "burst 2 on, of 8 in the trace and 8 of the program"))):
        with pytest.raises(TraceError) as error:
            predict(CONFIG.replace(memory=Memory(heads=1)), PHASES, memory=MemoryTrace(wrong))
        assert str(error.value) == says


def test_later_answers_make_later_results():
    """Of a row in the middle, of which all that follow wait to be told."""
    config = CONFIG.replace(memory=Memory(heads=1))
    buses = constant("axi_codes", [32, 32, 32, 4] * 2, 40), constant("axi_rows__0", [9] * 6, 40)
    late = dataclasses.replace(buses[1], delays=buses[1].delays + 300 * (np.arange(54) // 9 == 1))
    one, other = (predict(config, PHASES, memory=MemoryTrace((buses[0], rows)))
                  for rows in (buses[1], late))
    shifts = [after.end - before.end for before, after in zip(one.answers, other.answers,
                                                              strict=True)]
    assert 280 < shifts[0] <= 300
    near = predict(config, PHASES, memory=MemoryTiming(latency=40))
    assert near.answers[0].accepted == one.answers[0].accepted


@pytest.mark.parametrize(("parts", "says"), [
    (([2], [0], [1]), ("the trace of axi must have a wait for each of 1 bursts and a delay for "
                       "each of 2 beats, not 1 and 1")),
    (([1], [-1], [1]), "waits of the trace of axi must be at least 0, not -1"),
    (([1], [0], [0]), "delays of the trace of axi must be at least 1, not 0"),
    (([1, 3], [0, 0], [9, 1, 3, 3]),
     "beats of burst 1 of the trace of axi must come one after another"),
])
def test_wrong_traces(parts, says):
    with pytest.raises(TraceError) as error:
        BusTrace("axi", *map(np.array, parts))
    assert str(error.value) == says
