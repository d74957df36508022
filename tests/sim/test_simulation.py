# amaranth: UnusedElaboratable=no
"""Tensors through the simulated core: bit for bit the golden model's answer."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from nearbit_hw.core import Core
from nearbit_model.attention import attention
from nearbit_model.config import Config
from nearbit_model.prepare import TensorError, prepare
from nearbit_model.transfers import Plan
from nearbit_sim import simulate, simulation
from nearbit_sim.compiled import CompiledEngine
from nearbit_sim.engine import SimulationError
from nearbit_sim.simulation import core_engine, run


def tensors(config, heads=2, kv_heads=1, queries=5, tokens=40, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((heads, queries, config.key_bits)),
            rng.standard_normal((kv_heads, tokens, config.key_bits)),
            rng.standard_normal((kv_heads, tokens, config.value_dim)))


TINY = Config.preset("tiny")

# Few libraries to build, and every way of packing: queries and exp tables against the size of a
# group.
SINGLE = TINY.replace(queries=1)
WIDE = Config(key_bits=70, value_dim=6, capacity=40, value_bits=5, queries=3, lanes=2,
              value_lanes=2, top_n=9, weight_bits=11, output_fraction_bits=3, exp_tables=3,
              normalizer="divider", divider_cycles=2, selection="counters")


@pytest.mark.parametrize(("config", "heads", "kv_heads"), [
    (TINY, 2, 2),   # groups of one: consecutive queries in the commands
    (TINY, 4, 2),   # groups of two: the group in a command
    (TINY, 6, 2),   # more heads in a group than exp tables: one after another
    (SINGLE, 3, 3), # one query
    (SINGLE, 2, 1), # one query, both exp tables resident
    (WIDE, 6, 2),   # codes of two words, groups that fill the commands
    (WIDE, 4, 2),   # groups that do not
])
@pytest.mark.parametrize("options", [
    {"n": 4},
    {"n": 2, "sink": 3, "recent": 1, "causal": True, "qpos": [0, 1, 39, 7, 7]},
    {"n": 9, "logit_scale": 0.3, "rotate": False},
], ids=["plain", "causal", "logit_scale"])
def test_bit_exact(config, heads, kv_heads, options):
    q, k, v = tensors(config, heads, kv_heads)
    golden = attention(q, k, v, config, **options)
    hardware = simulate(q, k, v, config, **options)
    for name in ("output", "output_int", "selected", "distances", "weights"):
        ours, theirs = getattr(hardware, name), getattr(golden, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert hardware.difference(golden) is None
    assert not hardware.errors.any()

    assert hardware.head_cycles.sum() == hardware.cycles == hardware.outcome.cycles
    assert (hardware.head_cycles > 0).all()
    assert hardware.head_seconds.sum() == pytest.approx(hardware.seconds)
    loads = 40 * config.beats # the value vectors take longest
    sets = 1 if heads // kv_heads <= config.exp_tables else heads // kv_heads
    exp_table = config.key_bits + 1
    exp_tables = exp_table * (heads // kv_heads if sets == 1 else 1)
    np.testing.assert_array_equal(
        hardware.load_cycles, [max(loads, exp_tables) + (sets - 1) * exp_table] * kv_heads)
    # Loading is over before the first query of a head.
    assert (hardware.query_cycles <= hardware.cycles - hardware.load_cycles[0]).all()


BLOCKS = Config(key_bits=16, value_dim=2, capacity=700, queries=2, lanes=2, value_lanes=2, top_n=20,
                refine_lanes=4, selection="histograms", selection_block=256)


@pytest.mark.parametrize("kind", ["all equal", "few codes", "by block", "nearer and nearer",
                                  "farther and farther", "spread"])
def test_bit_exact_with_blocks(kind):
    """Selections block by block are the golden model's, which knows of none; ties by index."""
    rng = np.random.default_rng(7)
    bits, tokens = BLOCKS.key_bits, BLOCKS.capacity
    signs = np.array([(1 << ones) - 1 >> np.arange(bits) & 1 for ones in range(bits + 1)]) * 2. - 1
    ones = {"all equal": np.full(tokens, 3), "few codes": rng.choice([2, 3, 9], tokens),
            "by block": np.arange(tokens) // 128 * 7 % 17,
            "nearer and nearer": bits - np.arange(tokens) * bits // tokens,
            "farther and farther": np.arange(tokens) * bits // tokens,
            "spread": rng.integers(0, bits + 1, tokens)}[kind]
    k, v = signs[ones][None], rng.standard_normal((1, tokens, BLOCKS.value_dim))
    q = np.stack([signs[[0, 3, 16, 8]], signs[[3, 0, 5, 16]]])
    for options in ({"n": 20}, {"n": 1}, {"n": 9, "sink": 6, "recent": 5},
                    {"n": 3, "sink": 17}, {"n": 3, "recent": 17},
                    {"n": 12, "sink": 2, "recent": 6, "causal": True, "qpos": [511, 512, 516, 19]},
                    {"n": 12, "recent": 8, "causal": True, "qpos": [255, 256, 257, 262]}):
        golden = attention(q, k, v, BLOCKS, **options)
        assert simulate(q, k, v, BLOCKS, **options).difference(golden) is None


@pytest.mark.parametrize(("config", "heads", "kv_heads"), [(TINY, 4, 2), (WIDE, 2, 1)])
def test_engines_agree(config, heads, kv_heads):
    q, k, v = tensors(config, heads, kv_heads)
    options = {"n": 3, "sink": 1, "recent": 2, "causal": True}
    ours, theirs = (simulate(q, k, v, config, engine=engine, **options)
                    for engine in ("compiled", "icarus"))
    assert (ours.engine, theirs.engine) == ("compiled", "icarus")
    for name in ("output_int", "selected", "distances", "weights", "errors", "head_cycles",
                 "query_cycles", "load_cycles"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert ours.cycles == theirs.cycles
    for name in ours.outcome.outputs:
        np.testing.assert_array_equal(ours.outcome.outputs[name].cycles,
                                      theirs.outcome.outputs[name].cycles)


def test_without_trace():
    q, k, v = tensors(TINY)
    traced = simulate(q, k, v, TINY, n=3)
    plain = simulate(q, k, v, TINY, n=3, trace=False)
    np.testing.assert_array_equal(plain.output_int, traced.output_int)
    assert plain.cycles == traced.cycles
    for name in ("selected", "distances", "weights"):
        assert getattr(plain, name).shape == (2, 5, 0)
    assert plain.difference(attention(q, k, v, TINY, n=3)) is None


@pytest.mark.parametrize("exp_tables", [2, 1])
def test_loading_is_shared(exp_tables):
    """Heads of a group that answer in turns share the loading; queries are left for each."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((heads, size, 8)) for heads, size in ((4, 1), (2, 60), (2, 60)))
    config = Config.preset("tiny").replace(queries=1, exp_tables=exp_tables)
    prediction = Plan(prepare(q, k, v, config, n=4)).predict()
    assert prediction.head_cycles.sum() == prediction.cycles
    # The second head of a group is asked when the first is answered, or in its shadow.
    own = prediction.head_cycles - np.repeat(prediction.load_cycles, 2) / 2
    assert (own > 0).all()
    assert (own < 100).all()


def test_same_head_twice():
    """Heads do not disturb each other: equal ones have equal answers and equal cycles."""
    q, k, v = (np.concatenate([x] * 3) for x in tensors(SINGLE, heads=1))
    hardware = simulate(q, k, v, SINGLE, n=3)
    assert (hardware.output_int == hardware.output_int[:1]).all()
    assert len(set(hardware.query_cycles)) == 1
    assert len(set(hardware.head_cycles)) == 1


def test_difference():
    q, k, v = tensors(TINY)
    golden = attention(q, k, v, TINY, n=3)
    hardware = simulate(q, k, v, TINY, n=3)
    golden.output_int[1, 2, 3] += 1
    was = golden.output_int[1, 2, 3]
    assert hardware.difference(golden) == f"output_int[1, 2, 3] is {was - 1}, not {was}"
    golden.weights[0, 4, 1] = -7
    assert hardware.difference(golden) == (
        f"weights[0, 4, 1] is {hardware.weights[0, 4, 1]}, not -7")
    other = attention(q, k, v, TINY, n=4)
    assert hardware.difference(other) == "selected has shape (2, 5, 3), not (2, 5, 4)"


def broken(monkeypatch, change):
    """Let the simulation run on a changed Verilog text."""
    verilog = simulation._core_verilog(TINY)
    changed = change(verilog)
    assert changed != verilog
    monkeypatch.setattr(simulation, "core_engine",
                        lambda config, name: CompiledEngine(Core(config), verilog=changed))


def test_wrong_hardware(monkeypatch):
    """Hardware that computes something else is reported, not hidden."""
    def change(text):
        before, module, after = text.partition("module \\dut.score_array")
        return before + module + after.replace(" ^ ", " | ", 3)

    broken(monkeypatch, change)
    q, k, v = tensors(TINY)
    difference = simulate(q, k, v, TINY, n=3).difference(attention(q, k, v, TINY, n=3))
    assert difference is not None


def test_refusing_hardware(monkeypatch):
    """Answers without outputs leave the engine waiting; it says so."""
    prepared = prepare(*tensors(TINY), TINY, n=3)
    zero = prepared.exp_tables.copy()
    zero[:, 0] = 0
    object.__setattr__(prepared, "exp_tables", zero)
    with pytest.raises(SimulationError, match=r"^the hardware has stopped: nothing moved in "):
        run(Plan(prepared))


def test_progress_and_waveforms(tmp_path):
    q, k, v = tensors(TINY)
    seen = []
    simulate(q, k, v, TINY, n=3, vcd=tmp_path / "waves.vcd",
             progress=lambda *state: seen.append(state))
    assert seen[-1][1] == seen[-1][2] > 0
    assert (tmp_path / "waves.vcd").stat().st_size > 10_000


def test_unknown_engine():
    with pytest.raises(ValueError, match=r"^engine must be one of compiled, icarus, golden, not "
                                         r"'fast'$"):
        simulate(*tensors(TINY), TINY, engine="fast")


def test_wrong_tensors():
    q, k, v = tensors(TINY)
    with pytest.raises(TensorError, match="q and k must have the same head_dim"):
        simulate(q[..., :7], k, v, TINY)


def test_engine_is_kept():
    assert core_engine(TINY) is core_engine(TINY, "compiled")


def test_verilog_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("NEARBIT_CACHE_DIR", str(tmp_path))
    calls = []
    real = simulation.generate
    monkeypatch.setattr(simulation, "generate",
                        lambda *arguments, **options: (calls.append(1),
                                                       real(*arguments, **options))[1])
    texts = {simulation._core_verilog(TINY) for _ in range(2)}
    assert len(texts) == len(calls) == 1
    simulation._core_verilog(SINGLE)
    assert len(calls) == 2


def test_interrupt(tmp_path):
    """Ctrl-C ends a long simulation at once."""
    # A shell that runs the tests in the background lets its children ignore the signal.
    code = ("import signal\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "import numpy as np\n"
            "from nearbit_model.config import Config\n"
            "from nearbit_sim import simulate\n"
            "x = np.ones((1, 400_000, 8))\n"
            "shown = []\n"
            "def progress(*state):\n"
            "    shown or print('started', flush=True)\n"
            "    shown.append(state)\n"
            "simulate(x, x[:, :40], x[:, :40], Config.preset('tiny'), progress=progress)\n")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, encoding="utf-8",
                               env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert time.monotonic() - sent < 10
