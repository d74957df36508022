"""Attention by a core whose keys and values lie in a memory: the golden model's, whatever it does.
"""

import dataclasses
import functools
import random

import numpy as np
import pytest

from nearbit_model.attention import attend
from nearbit_model.config import PRESETS, Config, ConfigError, Memory, Rescore
from nearbit_model.cycles import bound
from nearbit_model.memory import LayoutError, MemoryLayout
from nearbit_model.memory_timing import SLVERR, MemoryTiming, TimingError
from nearbit_model.memory_trace import TraceError
from nearbit_model.prepare import prepare
from nearbit_model.structure import Error
from nearbit_model.transfers.plan import Plan
from nearbit_model.transfers.shapes import ACCEPTED, shapes
from nearbit_sim import simulation
from nearbit_sim.simulation import run, simulate


TINY = Config(key_bits=16, value_dim=8, capacity=64, lanes=4, value_lanes=4, top_n=16, queries=2,
              memory=Memory(heads=3, sequences=2, page_tokens=16, bus_bits=32, burst_bytes=32,
                            queue_beats=32, address_bits=20))

CONFIGS = {
    "tiny": TINY,
    # A decoder's head: a code is a beat, and rows have two buses.
    "ports": Config(key_bits=64, value_dim=64, capacity=512, lanes=1, value_lanes=8, top_n=24,
                    memory=Memory(heads=5, sequences=3, page_tokens=64, row_ports=2)),
    # All on one wide bus; pages that others have; codes that are no power of two.
    "one bus": Config(key_bits=48, value_dim=64, capacity=256, lanes=4, value_lanes=32, top_n=20,
                      memory=Memory(heads=2, page_tokens=128, pages=7, bus_bits=128,
                                    one_bus=True, row_id_bits=2, outstanding=5)),
    # HashAttention of a group, with one selection for all its heads or each with its own.
    "hash": Config(key_bits=32, value_dim=16, capacity=128, lanes=2, value_lanes=8, top_n=32,
                   queries=2, rescore=Rescore(head_dim=16, lanes=8, element_bits=8, shared=True),
                   memory=Memory(heads=2, sequences=2, page_tokens=32, row_ports=4)),
    # Codes of several words, in blocks.
    "blocks": Config(key_bits=80, value_dim=32, capacity=1024, lanes=2, value_lanes=16, top_n=8,
                     refine_lanes=8, selection_block=256,
                     memory=Memory(heads=1, page_tokens=1024, bus_bits=64)),
}

TIMINGS = {
    "at once": MemoryTiming(latency=1),
    "far": MemoryTiming(latency=150),
    "random": MemoryTiming(latency=10, latency_to=120, reorder=True, seed=5),
    "slow": MemoryTiming(latency=30, pace=0.3, shared_pace=True, outstanding=4, seed=6),
    "pauses": MemoryTiming(latency=1, latency_to=40, reorder=True, ar_pause=0.4, r_pause=0.3,
                           aw_pause=0.4, w_pause=0.3, b_pause=0.5, seed=7),
}


@functools.cache
def prepared(name, tokens=None, method="had", shared=False, kv_heads=None, queries=5):
    config = CONFIGS[name]
    kv_heads = min(2, config.memory.heads) if kv_heads is None else kv_heads
    heads = kv_heads * (config.queries if shared or config.queries > 1 else 2)
    rng = np.random.default_rng(len(name))
    tokens = config.capacity - 7 if tokens is None else tokens
    head_dim = config.key_bits if config.rescore is None else config.rescore.head_dim
    q, k, v = (rng.standard_normal((count, rows, dim)) for count, rows, dim in (
        (heads, queries, head_dim), (kv_heads, tokens, head_dim),
        (kv_heads, tokens, config.value_dim)))
    mapping = None
    if method == "hash":
        from nearbit_model.mapping import Mapping
        mapping = Mapping.random(config.key_bits, head_dim, heads=heads, kv_heads=kv_heads)
    return prepare(q, k, v, config, n=config.top_n - 3, sink=2, recent=1, method=method,
                   shared=shared, mapping=mapping)


PROBLEMS = [("tiny", "had", False), ("ports", "had", False), ("one bus", "had", False),
            ("hash", "hash", True), ("hash", "hash", False), ("blocks", "had", False)]


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize(("name", "method", "shared"), PROBLEMS)
def test_bit_exact(name, method, shared, timing):
    problem = prepared(name, method=method, shared=shared)
    golden = attend(problem)
    given, plan = TIMINGS[timing], Plan(problem, seed=TIMINGS[timing].seed)
    hardware = run(plan, timing=given, log=True)
    assert hardware.difference(golden) is None
    assert not hardware.errors.any()
    assert hardware.head_cycles.sum() == hardware.cycles
    # From response times all cycles follow, and from a constant latency these.
    equal_cycles(plan.predict(plan.trace(hardware.outcome), selected=golden.selected), hardware)
    if given.is_constant:
        equal_cycles(plan.predict(given), hardware)
    # All queries see as many keys. What is bound is bound by any memory.
    least = bound(problem.config, words=-(-int(problem.counts[0]) // problem.config.lanes),
                  selected=golden.selected.shape[-1], timing=given, rescore=method == "hash",
                  shared=shared)
    use = hardware.memory_use
    assert use.cycles >= use.commands * least.interval


def equal_cycles(predicted, hardware):
    """Every cycle, and what is read on each bus."""
    timeline, outcome = predicted.timeline, hardware.outcome
    for expected, found in zip(timeline.accepted, outcome.accepted, strict=True):
        for stream, cycles in found.items():
            assert getattr(expected, ACCEPTED[stream]) == cycles.tolist(), stream
    assert timeline.results == outcome.outputs["o_result"].cycles.tolist()
    assert timeline.trace == outcome.outputs["o_trace"].cycles.tolist()
    assert predicted.cycles == outcome.cycles
    for name in ("head_cycles", "query_cycles", "load_cycles"):
        np.testing.assert_array_equal(getattr(predicted, name), getattr(hardware, name))
    assert [(bus.bursts, bus.beats) for bus in timeline.traffic] == [
        (bus.bursts, bus.beats) for bus in outcome.traffic if bus.is_read]


def random_config(rng):
    """Any widths, selections and buses; small, and with queues that are too short."""
    while True:
        lanes, page = 1 << rng.randint(0, 3), 1 << rng.randint(3, 5)
        refine, value_lanes = lanes << rng.randint(0, 2), 1 << rng.randint(0, 3)
        capacity, one_bus = max(refine, page * rng.randint(1, 4)), rng.random() < 0.3
        unit, top_n = None, rng.randint(1, min(capacity, 20))
        if rng.random() < 0.5:
            unit = Rescore(head_dim=8, lanes=1 << rng.randint(0, 3),
                           element_bits=rng.choice([4, 8, 16]), shared=rng.random() < 0.5)
        try:
            return Config(
                key_bits=8, value_dim=value_lanes * rng.randint(1, 4),
                value_bits=rng.choice([4, 8, 16]), capacity=capacity, lanes=lanes,
                refine_lanes=refine, value_lanes=value_lanes, top_n=top_n,
                queries=rng.choice([1, 2, 3]), exp_tables=3, rescore=unit,
                selection=rng.choice(["histograms", "serial", "counters"]
                                     if unit else ["histograms", "serial"]),
                memory=Memory(
                    heads=2, sequences=2, page_tokens=page, one_bus=one_bus,
                    bus_bits=rng.choice([32, 64, 128]),
                    row_ports=1 if one_bus or top_n < 4 else rng.choice([1, 2, 4]),
                    burst_bytes=1 << rng.randint(4, 8), queue_beats=1 << rng.randint(1, 8),
                    outstanding=rng.choice([1, 2, 3, 64]), row_id_bits=rng.randint(1, 4)))
        except ConfigError:
            continue


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_random_cores(seed):
    """All cycles follow from the response times of any memory, in both engines."""
    rng = random.Random(seed)
    config, heads = random_config(rng), rng.randint(1, 2)
    method = "had" if config.rescore is None else "hash"
    tensors = np.random.default_rng(seed)
    q, k, v = (tensors.standard_normal((count, rows, dim)) for count, rows, dim in (
        (heads * config.queries, rng.randint(1, 9), 8), (heads, config.capacity, 8),
        (heads, config.capacity, config.value_dim)))
    problem = prepare(q, k, v, config, n=rng.randint(1, config.top_n), method=method, causal=True,
                      shared=config.rescore is not None and config.rescore.shared
                      and rng.random() < 0.5, qpos=np.sort(tensors.integers(
                          0, config.capacity, q.shape[1])))
    plan = Plan(problem, seed=seed)
    for reorder, engine in ((False, "compiled"), (True, "compiled"), (True, "icarus")):
        latency = rng.choice([1, 10, 50])
        timing = MemoryTiming(
            latency=latency, latency_to=latency * rng.choice([1, 3, 20]), reorder=reorder,
            pace=rng.choice([1.0, 0.6]), shared_pace=rng.random() < 0.3,
            outstanding=rng.choice([1, 3, 64]), seed=rng.getrandbits(30),
            **{f"{channel}_pause": rng.choice([0, 0.3, 0.8]) for channel in ("ar", "r")})
        hardware = run(plan, timing=timing, engine=engine, log=True)
        assert hardware.difference(attend(problem)) is None, (config, timing)
        equal_cycles(plan.predict(plan.trace(hardware.outcome)), hardware)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_read(name):
    """Each command reads its words of codes once, and a row for each selected key."""
    shared = name == "hash"
    problem = prepared(name, method="hash" if shared else "had", shared=shared)
    config, layout = problem.config, MemoryLayout.of(problem.config)
    use = run(Plan(problem), timing=MemoryTiming(latency=3)).memory_use
    groups = problem.heads * problem.queries / config.queries
    assert (use.commands, use.queries) == (np.ceil(groups), problem.heads * problem.queries)
    tokens = problem.k_codes.shape[1]
    unit = max(layout.beat_bytes, config.lanes * layout.code_bytes)
    codes = -(-tokens * layout.code_bytes // unit) * unit * use.commands
    rows = (problem.n + problem.sink + problem.recent) * layout.row_bytes * (
        use.commands if shared else use.queries)
    read = {bus.name: bus.bytes for bus in use.buses}
    assert use.bytes_read == codes + rows
    assert use.bytes_per_query == (codes + rows) / use.queries
    assert use.bytes_per_command == (codes + rows) / use.commands
    if not config.memory.one_bus:
        assert read["axi_codes"] == codes
    assert read["axi_append"] == 0
    assert use.shares == {bus.name: bus.beats / use.cycles for bus in use.buses if bus.is_read}
    assert all(0 < share <= 1 for share in use.shares.values())


def equal_outcomes(ours, theirs):
    assert ours.cycles == theirs.cycles
    for one, other in zip(ours.accepted, theirs.accepted, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    for name in ours.outputs:
        np.testing.assert_array_equal(ours.outputs[name].cycles, theirs.outputs[name].cycles)
        np.testing.assert_array_equal(ours.outputs[name].words, theirs.outputs[name].words)
    np.testing.assert_array_equal(ours.memory, theirs.memory)
    for one, other in zip(ours.traffic, theirs.traffic, strict=True):
        for field in dataclasses.fields(one):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


@pytest.mark.parametrize("timing", ["far", "pauses"])
def test_both_engines(timing):
    """The same to the cycle, with tokens that the core writes itself."""
    plan = Plan(prepared("tiny", tokens=37, queries=2), appends=True, seed=1)
    ours, theirs = (run(plan, engine=engine, timing=TIMINGS[timing], log=True)
                    for engine in ("compiled", "icarus"))
    equal_outcomes(ours.outcome, theirs.outcome)
    assert ours.difference(attend(plan.prepared)) is None


@pytest.mark.parametrize("timing", ["at once", "pauses"])
@pytest.mark.parametrize("name", ["tiny", "ports", "hash"])
def test_appended(name, timing):
    """What the core writes itself it reads, and the memory is what a host would have made."""
    problem = prepared(name, method="hash" if name == "hash" else "had")
    given, appended = Plan(problem, seed=3), Plan(problem, seed=3, appends=True)
    hardware = run(appended, timing=TIMINGS[timing])
    assert hardware.difference(attend(problem)) is None
    assert not hardware.outcome.outputs["o_append"].payloads["failed"].any()
    np.testing.assert_array_equal(hardware.outcome.memory, given.program.memory)
    assert (appended.program.memory != given.program.memory).any()


def test_pages_are_scattered():
    """Any order of the pages gives the same answers; with a constant latency, in the same cycles.
    """
    problem = prepared("ports")
    timing = MemoryTiming(latency=20)
    plans = [Plan(problem, seed=seed) for seed in range(3)]
    pages = [plan.program.port("i_page", is_input=True).unpack(
        plan.program.phases[0].inputs["i_page"])["page"].tolist() for plan in plans]
    assert len(set(map(tuple, pages))) == 3
    assert all(sorted(each) != each for each in pages)
    first, *others = (run(plan, timing=timing) for plan in plans)
    for other in others:
        assert other.difference(attend(problem)) is None
        np.testing.assert_array_equal(other.output_int, first.output_int)
        np.testing.assert_array_equal(other.query_cycles, first.query_cycles)


def test_long_reads_are_no_silence():
    """What moves on the buses moves, although a query gives no sign for long."""
    plan = Plan(prepared("blocks", queries=1), trace=False)
    hardware = simulation.core_engine(plan.config)
    outcome = hardware.run(plan.program, patience=5000, timing=MemoryTiming(pace=0.05))
    moved = np.sort(np.concatenate([
        *(cycles for phase in outcome.accepted for cycles in phase.values()),
        *(beats.cycles for beats in outcome.outputs.values())]))
    assert np.diff(moved).max() > 30_000


def row_of(plan, kv_head, token):
    """A byte of a token's row."""
    layout = MemoryLayout.of(plan.config)
    heads = plan.program.port("i_head", is_input=True).unpack(
        plan.program.phases[0].inputs["i_head"])["entry"]
    pages = plan.program.port("i_page", is_input=True).unpack(
        plan.program.phases[0].inputs["i_page"])["page"]
    size = layout.memory.page_tokens
    place = int(pages[token // size]) * size + token % size
    return (int(heads["rows"][kv_head]) + place * int(heads["stride"][kv_head])) * layout.row_unit


def test_faults():
    """A row that cannot be read is an error of the queries that select it, and of no others."""
    plan = Plan(prepared("ports"))
    golden = attend(plan.prepared)
    token = int(golden.selected[1, 2, 5])
    hardware = run(plan, timing=MemoryTiming(latency=9, faults={row_of(plan, 0, token): SLVERR}),
                   log=True)
    expected = np.zeros_like(hardware.errors)
    expected[:2] = (golden.selected[:2] == token).any(axis=2) * Error.ROWS
    np.testing.assert_array_equal(hardware.errors, expected)
    assert hardware.errors.any()
    good = hardware.errors == 0
    np.testing.assert_array_equal(hardware.output_int[good], golden.output_int[good])
    # What was selected is known all the same.
    np.testing.assert_array_equal(hardware.selected, golden.selected)
    with pytest.raises(TraceError, match=r"^\d+ beats of axi_rows__\d were an error, "):
        plan.trace(hardware.outcome)


def test_silence():
    """Queries during a silence fail; those that come after are answered."""
    plan = Plan(prepared("ports"))
    golden = attend(plan.prepared)
    plan.program.levels = {"timeout": 200}
    usual = run(plan, timing=MemoryTiming(latency=9))
    begin = usual.cycles // 2
    hardware = run(plan, timing=MemoryTiming(latency=9, silent_from=begin, silent_to=begin + 900),
                   log=True)
    with pytest.raises(TraceError, match=r" was silent for \d+ cycles, and the core gives a "
                                         r"memory up after 200 \(timeout\); "):
        plan.trace(hardware.outcome)
    assert set(np.unique(hardware.errors)) <= {0, Error.CODES, Error.ROWS}
    assert 0 < (hardware.errors != 0).sum() < hardware.errors.size
    assert not hardware.errors[-1, -1]
    good = hardware.errors == 0
    for name in ("output_int", "selected", "weights"):
        np.testing.assert_array_equal(getattr(hardware, name)[good], getattr(golden, name)[good])


def test_simulate():
    """The same from tensors."""
    rng = np.random.default_rng(8)
    q, k, v = rng.standard_normal((2, 3, 16)), rng.standard_normal((1, 50, 16)), \
        rng.standard_normal((1, 50, 8))
    timing = MemoryTiming(latency=50)
    hardware = simulate(q, k, v, TINY, n=9, timing=timing)
    golden = attend(prepare(q, k, v, TINY, n=9))
    assert hardware.difference(golden) is None
    near = simulate(q, k, v, TINY, n=9, timing=MemoryTiming(latency=1))
    assert near.cycles < hardware.cycles
    # Without a timing, the default one.
    usual = simulate(q, k, v, TINY, n=9)
    assert usual.cycles == simulate(q, k, v, TINY, n=9, timing=MemoryTiming()).cycles


def test_what_does_not_fit():
    rng = np.random.default_rng(8)

    def ask(config, kv_heads=1, tokens=50, **options):
        return simulate(rng.standard_normal((kv_heads, 3, 16)),
                        rng.standard_normal((kv_heads, tokens, 16)),
                        rng.standard_normal((kv_heads, tokens, 8)), config, n=9, **options)

    with pytest.raises(LayoutError, match=r"^the tensors have 4 key heads, and the configuration's "
                                          r"memory has 3 \(memory.heads\)$"):
        ask(TINY, kv_heads=4)
    small = TINY.replace(memory=dataclasses.replace(TINY.memory, pages=3))
    with pytest.raises(LayoutError, match=r"^50 tokens take 4 pages, and the configuration's "
                                          r"memory has 3 \(memory.pages\)$"):
        ask(small)
    with pytest.raises(TimingError, match=r"^the configuration has no memory, so nothing says when "
                                          r"one answers: give it a table \[memory\], or leave out "
                                          r"its timing$"):
        ask(TINY.replace(memory=None), timing=MemoryTiming())
    with pytest.raises(ValueError, match=r"^cycles are not predicted of programs that append "
                                         r"tokens, or whose phases wait for beats; put the tokens "
                                         r"into the memory before$"):
        Plan(prepared("tiny"), appends=True).predict()
    program = Plan(prepared("tiny")).program
    program.add({"i_page": {"sequence": [0], "index": [0], "set": [0], "page": [0]}})
    with pytest.raises(ValueError, match=r"^cycles are not predicted of programs that remove heads "
                                         r"or pages$"):
        shapes(program)


def test_without_a_memory():
    """Other cores have no buses."""
    rng = np.random.default_rng(8)
    hardware = simulate(rng.standard_normal((1, 3, 8)), rng.standard_normal((1, 50, 8)),
                        rng.standard_normal((1, 50, 8)), PRESETS["tiny"], n=9)
    assert hardware.memory_use is None
    assert hardware.outcome.memory is None
    assert simulation.core_engine(PRESETS["tiny"]).ports == Plan(hardware.prepared).program.ports
