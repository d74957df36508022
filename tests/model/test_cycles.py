"""The cycle model by itself; tests/sim/test_cycles.py compares it with the hardware."""

import random
from fractions import Fraction
from itertools import pairwise

import pytest

from nearbit_model.config import NORMALIZERS, SELECTIONS, Config, ConfigError
from nearbit_model.cycles import Command, Error, Phase, load, predict, steady


REFERENCE = Config.preset("reference")
QUOTED = Command(counts=(1024,), n=32)


def test_quoted_workload():
    formula = steady(REFERENCE, words=64, selected=32)
    assert formula.latency <= 300
    assert formula.interval == 65
    timeline = predict(REFERENCE, [load(REFERENCE, 1024), Phase(commands=[QUOTED] * 100)])
    first, *_, before, last = timeline.answers
    assert first.end - first.offered + 1 == formula.latency
    assert last.end - before.end == formula.interval


def random_config(rng):
    while True:
        lanes, value_lanes = 1 << rng.randint(0, 6), 1 << rng.randint(0, 5)
        refine_lanes = lanes << rng.randint(0, 2)
        capacity = refine_lanes * rng.randint(1, 100)
        try:
            return Config(key_bits=rng.randint(1, 128), value_dim=value_lanes * rng.randint(1, 4),
                          capacity=capacity, lanes=lanes, refine_lanes=refine_lanes,
                          value_lanes=value_lanes, top_n=rng.randint(1, min(capacity, 100)),
                          queries=rng.choice([1, 1, 2, 3, 5]),
                          divider_cycles=(cycles := 1 << rng.randint(0, 4)),
                          normalizer="divider" if cycles > 1 else "reciprocal")
        except ConfigError:
            continue


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 5])
def test_formula_of_single_keys(queries, normalizer):
    """Queries of one key and one column follow each other as fast as buffers are free."""
    config = Config(key_bits=19, value_dim=1, capacity=264, queries=queries, lanes=2, value_lanes=1,
                    top_n=3, normalizer=normalizer)
    command = Command(counts=(144,) * queries, n=1)
    answers = predict(config, [load(config, 264), Phase(commands=[command], delay=1000)]).answers
    formula = steady(config, words=72, selected=1)
    assert answers[-1].end - answers[0].offered + 1 == formula.latency


def test_formulas():
    """The formulas of the steady state are what the model of all events gives."""
    rng = random.Random(1)
    for index in range(100):
        config = random_config(rng)
        if config.queries == 1:
            config = config.replace(selection=SELECTIONS[index % len(SELECTIONS)])
        count, n = rng.randint(1, config.capacity), rng.randint(1, max(1, config.top_n // 2))
        command = Command(counts=(count,) * config.queries, n=n)
        formula = steady(config, words=-(-count // config.lanes), selected=min(count, n))
        loads = load(config, config.capacity)
        # Bins of histograms are cleared by then.
        cold = predict(config, [loads, Phase(commands=[command], delay=1000)]).answers
        assert cold[-1].end - cold[0].offered + 1 == formula.latency, (config, command)
        answers = predict(config, [loads, Phase(commands=[command] * 200)]).answers
        ends = [answer.end for answer in answers if answer.query == config.queries - 1]
        assert Fraction(ends[199] - ends[79], 120) == formula.interval, (config, command)
        assert formula.stages[formula.limit] == formula.interval


def blocks_config(rng):
    """A configuration with a selection by blocks, the smallest that are fast enough, or larger."""
    while True:
        lanes = 1 << rng.randint(0, 4)
        block = 1 << rng.randint(4, 11)
        try:
            return Config(key_bits=rng.randint(1, 80), value_dim=4, value_lanes=4,
                          capacity=16 * block, lanes=lanes, refine_lanes=lanes << rng.randint(1, 3),
                          top_n=rng.randint(1, 50), selection="histograms",
                          selection_block=block)
        except ConfigError:
            continue


def test_formulas_of_blocks():
    rng = random.Random(2)
    for _ in range(60):
        config = blocks_config(rng)
        size = config.selection_block
        count = rng.choice([rng.randint(1, 4 * size), size, 3 * size, 3 * size + 1])
        n = rng.randint(1, config.top_n)
        command, words = Command(counts=(count,), n=n), -(-count // config.lanes)
        formula = steady(config, words=words, selected=min(count, n))
        loads = load(config, config.capacity)
        cold = predict(config, [loads, Phase(commands=[command], delay=3000)]).answers
        assert cold[-1].end - cold[0].offered + 1 == formula.latency, (config, command)
        ends = [answer.end for answer in predict(config, [
            loads, Phase(commands=[command] * 40)]).answers]
        interval = Fraction(ends[39] - ends[15], 24)
        if count % size == 0:
            assert interval == max(words, formula.stages["normalize"], formula.stages["weigh"],
                                   formula.stages["emit"]), (config, command)
        if words > size // config.lanes:
            assert interval == formula.interval, (config, command)


def test_words_do_not_wait_within_a_command():
    """What a configuration with blocks is refused for does not happen to those that are not.

    With a query and a column, values take no longer than listing keys, and so hold up nothing.
    Words of a long command may wait for several commands of less than a block.
    """
    rng = random.Random(3)
    for _ in range(100):
        config = blocks_config(rng).replace(value_dim=1, value_lanes=1)
        block, commands = config.selection_block, []
        for _ in range(30):
            count = rng.choice([block, block + 1, 2 * block, config.capacity,
                                rng.randint(block, 2 * block),
                                rng.randint(block, config.capacity)])
            n = rng.choice([config.top_n, rng.randint(1, config.top_n)])
            commands.append(Command(counts=(count,), n=n, first=rng.choice([
                0, rng.randint(0, config.capacity - count)]),
                recent=rng.randint(0, config.top_n - n)))
        answers = predict(config, [load(config, config.capacity), Phase(commands=commands)]).answers
        for answer in answers:
            score = answer.stages["score"]
            assert score.start == answer.accepted + 1
            assert len(score) == answer.words + config.score_latency(), config


def test_survivors():
    """By the definition: the selection among the first keys, recent ones by the whole range."""
    rng = random.Random(4)
    for _ in range(2000):
        count, n, sink, recent = (rng.randint(least, 12) for least in (1, 1, 0, 0))
        seen = rng.randint(1, 14)
        keys = range(min(seen, count))
        forced = sum(key < sink or key >= count - recent for key in keys)
        command = Command(counts=(99, count), n=n, sink=sink, recent=recent)
        assert command.survivors(1, seen) == forced + min(n, len(keys) - forced)


def test_stages():
    """The stages of an answer follow each other, and no stage works on two queries at a time."""
    timeline = predict(REFERENCE, [load(REFERENCE, 1024), Phase(commands=[QUOTED] * 10)])
    for answer in timeline.answers:
        stages = list(answer.stages.values())
        assert list(answer.stages) == ["score", "merge", "scan", "emit", "weigh", "accumulate",
                                       "normalize"]
        assert all(before.start < after.start for before, after in pairwise(stages))
        assert stages[-1].end == answer.end
    for one, other in pairwise(timeline.answers):
        for stage in ("scan", "weigh"):
            assert one.stages[stage].end < other.stages[stage].start


def test_errors():
    tiny = Config.preset("tiny")
    commands = [Command(counts=(8, 8), n=0), Command(counts=(8, 8), n=15, sink=2),
                Command(counts=(0, 9), n=1), Command(counts=(8, 8), n=1, exp_tables=(0, 1)),
                Command(counts=(4, 4), n=1, first=5)]
    answers = predict(tiny, [load(tiny, 8), Phase(commands=commands)]).answers
    assert [answer.error for answer in answers] == [
        Error.NO_N, Error.NO_N, Error.TOO_MANY, Error.TOO_MANY, Error.EMPTY, Error.RANGE,
        Error.OK, Error.EXP_TABLE, Error.RANGE, Error.RANGE]
    assert [len(list(answer.beats)) for answer in answers] == [1] * 6 + [8] + [1] * 3


def test_nothing():
    assert predict(REFERENCE, []).cycles == 0
    assert predict(REFERENCE, [Phase(delay=5)]).cycles == 0


def test_wrong_rows():
    with pytest.raises(ValueError, match=r"^a command must have 2 counts, not 1$"):
        predict(Config.preset("tiny"), [Phase(commands=[Command(counts=(1,), n=1)])])
