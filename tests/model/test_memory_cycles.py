"""Cycles from a memory; tests/hw/memory/test_cached_cycles.py compares them with the hardware."""

import random
from fractions import Fraction

import pytest

from nearbit_model.config import Config, ConfigError, Memory, Rescore
from nearbit_model.cycles import Command, Error, Phase, bound, load, predict
from nearbit_model.memories import MEMORIES
from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.memory_trace import MemoryTrace


DECODER = Config(key_bits=64, value_dim=64, capacity=4096, lanes=1, value_lanes=16, top_n=64,
                 refine_lanes=4, memory=Memory(heads=90))
FAR = MemoryTiming(latency=100)
NEEDS = "a configuration with a memory needs the memory's timing, and no other one does"
OTHERS = ("cycles are predicted of a memory that answers in order, with constant latency and a "
          "beat in each cycle, without pauses or faults; of others from a trace of their answers")


def tables(config):
    memory = config.memory
    return Phase(heads=range(memory.heads), pages=memory.sequences,
                 tokens=[(sequence, config.capacity) for sequence in range(memory.sequences)],
                 exp_tables=[(0, 0, 1)])


def random_config(rng):
    while True:
        lanes = 1 << rng.randint(0, 3)
        try:
            return Config(
                key_bits=rng.randint(2, 40), value_dim=8, value_lanes=rng.choice([4, 8]),
                capacity=32 * rng.randint(1, 8), lanes=lanes, top_n=rng.randint(1, 20),
                refine_lanes=lanes << rng.randint(0, 1), queries=rng.choice([1, 2, 3]),
                rescore=rng.choice([None, Rescore(head_dim=8, lanes=4, element_bits=8,
                                                  shared=True)]),
                memory=Memory(
                    heads=1, page_tokens=32, row_ports=rng.choice([1, 2, 4]),
                    burst_bytes=1 << rng.randint(4, 7), queue_beats=1 << rng.randint(5, 8),
                    outstanding=rng.choice([1, 4, 64]), row_id_bits=rng.randint(1, 4)))
        except ConfigError:
            continue


def test_bound():
    """No interval is shorter than the bound, and many are as short."""
    rng, reached = random.Random(1), 0
    for _ in range(40):
        config = random_config(rng)
        timing = MemoryTiming(latency=rng.choice([1, 10, 100, 300]),
                              outstanding=rng.choice([2, 64]))
        keys, n = rng.randint(1, config.capacity), rng.randint(1, config.top_n)
        rescore = config.rescore is not None
        shared = rescore and rng.random() < 0.5
        least = bound(config, words=-(-keys // config.lanes), selected=min(n, keys),
                      timing=timing, rescore=rescore, shared=shared)
        command = Command(counts=(keys,) * config.queries, n=n, rescore=rescore, shared=shared)
        beats = 24 * config.queries * config.rescore.beats if rescore else 0
        timeline = predict(config, [tables(config), Phase(
            commands=[command] * 24, rescore_queries=beats)], memory=timing)
        ends = [answer.end for answer in timeline.answers if answer.query == config.queries - 1]
        interval = Fraction(ends[-1] - ends[11], 12)
        # So long, whatever limits is in use for all commands.
        whole = ends[-1] - timeline.answers[0].offered + 1
        assert whole >= 24 * least.interval, (config, timing, keys, n)
        assert timeline.traffic[0].beats == 24 * sum(least.reads.bursts)
        assert (sum(bus.beats for bus in timeline.traffic[1:])
                == 24 * least.reads.rows * least.reads.row_beats)
        reached += interval < least.interval * Fraction(51, 50)
    assert reached >= 15


def test_bound_of_a_slow_memory():
    """A bus gives beats at its pace, and all buses at the one that they share."""
    slow, shared, one_bus = (
        bound(config, words=4096, selected=64, timing=timing).stages for config, timing in (
            (DECODER, MemoryTiming(pace=0.5)), (DECODER, MemoryTiming(pace=1.5, shared_pace=True)),
            (DECODER.replace(memory=Memory(heads=90, one_bus=True)), MemoryTiming(pace=0.5))))
    codes, rows = 4096, 64 * 9
    assert (slow["codes"], slow["rows"]) == (2 * codes, 2 * rows)
    assert (shared["codes"], shared["rows"]) == (codes, rows)
    assert shared["memory"] == (codes + rows) * Fraction(2, 3)
    assert one_bus["bus"] == 2 * (codes + rows)


def test_long_commands_take_a_beat_a_cycle():
    """Neither latency nor bursts nor other commands come between words."""
    timeline = predict(DECODER, [tables(DECODER), Phase(
        commands=[Command(counts=(4096,), n=64)] * 6)], memory=FAR)
    ends = [answer.end for answer in timeline.answers]
    assert ends[-1] - ends[-2] == 4096


def test_latency_grows_with_that_of_the_memory():
    """Once for the codes and once for the rows of an idle core."""
    ends = [predict(DECODER, [tables(DECODER), Phase(
        commands=[Command(counts=(300,), n=8)], delay=1000)],
        memory=MemoryTiming(latency=latency)).answers[-1].end for latency in (50, 150)]
    assert ends[1] - ends[0] == 200


def test_beyond_the_tables():
    """A head or a sequence that is in no table has no token; another is only not set."""
    for command, error in (({"head": 90}, Error.RANGE), ({"sequence": 1}, Error.RANGE),
                           ({"head": 1}, Error.NOT_SET), ({}, Error.OK)):
        timeline = predict(DECODER, [
            Phase(heads=[0], pages=1, tokens=[(0, 64)], exp_tables=[(0, 0, 1)]),
            Phase(commands=[Command(counts=(64,), n=4, **command)])], memory=FAR)
        assert timeline.answers[0].error == error


def test_rows_that_cross_a_boundary_take_two_bursts():
    command = Command(counts=(64,), n=4)
    split = Command(counts=(64,), n=4, bursts=((1, 0, 2, 0),))
    one, other = (predict(DECODER, [tables(DECODER), Phase(commands=[each])], memory=FAR)
                  for each in (command, split))
    assert other.traffic[1].bursts == one.traffic[1].bursts + 2
    assert other.traffic[1].beats == one.traffic[1].beats
    assert other.answers[-1].end > one.answers[-1].end


@pytest.mark.parametrize(("config", "phases", "timing", "message"), [
    (DECODER, [], None, NEEDS),
    (Config.preset("tiny"), [], FAR, NEEDS),
    (DECODER, [load(DECODER, 1)], FAR,
     "tokens of a configuration with a memory are not loaded into the core"),
    (DECODER.replace(selection="counters"), [], FAR,
     ("with a memory and the selection 'counters' without rescoring, cycles depend on data, "
      "because each key's row is asked for when the key is found; take 'histograms'")),
    (DECODER, [], MemoryTiming(latency=65535),
     ("the core gives up a memory with a latency of 65535 cycles; take more memory.timeout_bits "
      "than 16")),
    (DECODER, [], MemoryTrace(()), "the configuration reads on 2 buses, and the trace is of 0"),
    *((DECODER, [], MemoryTiming(**given), OTHERS) for given in (
        {"latency_to": 200}, {"pace": 0.5}, {"reorder": True}, {"r_pause": 0.1},
        {"faults": {0: 2}}, {"silent_from": 7})),
])
def test_refused(config, phases, timing, message):
    with pytest.raises(ValueError) as error:
        predict(config, phases, memory=timing)
    assert str(error.value) == message


def test_named_memories():
    """Efficiencies are those of rows that were measured, and rows between take times between."""
    for memory in MEMORIES.values():
        for ports, (short, long) in memory.gathers.items():
            assert memory.gather(64, ports) == pytest.approx(short)
            assert memory.gather(128, ports) == pytest.approx(long)
            assert short < memory.gather(96, ports) < long
    ddr3 = MEMORIES["ddr3"]
    codes, rows = ddr3.seconds(1 << 20, 100, 64, 2)
    assert codes == pytest.approx((1 << 20) / 1.6e9 / 0.888)
    assert rows == pytest.approx(6400 / 1.6e9 / 0.45)
    assert MEMORIES["ddr4"].gather(64, 2) == MEMORIES["ddr4"].gather(64, 1)
