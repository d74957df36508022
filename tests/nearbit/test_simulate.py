"""The command on real hardware: the compiled engine on the preset `tiny`."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

import nearbit
from nearbit_model import quantize
from nearbit_model.config import Config
from nearbit_model.transfers.payload import Port


def simulate(run, *arguments):
    outcome = run("simulate", *arguments, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.err == ""
    return json.loads(outcome.out)


def test_figures(run, write):
    figures = simulate(run, write())
    assert figures["bit_exact"] is True
    assert figures["preset"] == "tiny"
    assert figures["engine"] == "compiled"
    assert figures["config"] == Config.preset("tiny").to_dict()
    assert (figures["n"], figures["sink"], figures["recent"]) == (16, 0, 0)
    assert (figures["queries"], figures["keys"]) == (6, 20)
    heads = figures["heads"]
    assert [head["head"] for head in heads] == [0, 1]
    assert [head["queries"] for head in heads] == [3, 3]
    assert sum(head["cycles"] for head in heads) == figures["cycles"] > 0
    assert sum(head["load_cycles"] for head in heads) == figures["load_cycles"] > 0
    assert figures["cycles_per_query"] == (figures["cycles"] - figures["load_cycles"]) / 6
    assert figures["cycles_per_second"] == pytest.approx(figures["cycles"] / figures["seconds"])
    assert 0 < figures["recall"] <= 1
    assert 0 < figures["error_method"] <= figures["error_method_max"] < 0.05
    assert 0 < figures["error_reference"] <= figures["error_reference_max"]


def test_prepared_and_packed_once(monkeypatch, run, write):
    """Golden model, cycle model and hardware take the same integers and the same words."""
    calls: Counter[str] = Counter()
    values, pack = quantize.values, Port.pack

    def counted(*arguments, **options):
        calls["values"] += 1
        return values(*arguments, **options)

    def packed(port, fields, count):
        calls[port.name] += count
        return pack(port, fields, count)

    monkeypatch.setattr(quantize, "values", counted)
    monkeypatch.setattr(Port, "pack", packed)
    simulate(run, write())
    # Two key heads of 20 tokens with two beats of values; 9 distances; 3 commands of 2 queries
    # each.
    assert calls == {"values": 1, "i_key": 40, "i_value": 80, "i_exp_table": 18, "i_command": 4}


def test_no_rotate(run, write, tmp_path):
    """Without rotation, a single selected key comes out as its value vector does."""
    path = write()
    out = tmp_path / "out.npz"
    outcome = run("simulate", path, "--no-rotate", "--n", "1", "--json", "--out", out)
    assert outcome.status == 0
    assert json.loads(outcome.out)["rotate"] is False
    with np.load(path) as given, np.load(out) as got:
        v, selected = given["v"].astype(float), got["selected"][..., 0]
        rows = np.take_along_axis(v, selected[..., None], axis=1)
        largest = np.abs(rows).max(-1, keepdims=True)
        # Half a step of the row's scale, and a little for the rounding of scale and output.
        assert (np.abs(got["output"] - rows) <= 0.6 / 127 * largest).all()
        signs = np.sign(np.rint(rows / largest * 127))
        assert (np.sign(got["output_int"]) == signs)[np.abs(signs) > 0].all()


@pytest.mark.parametrize("options", [
    "--n 1",
    "--n 5 --sink 2 --recent 3",
    "--sink 8 --recent 8",
    "--heads 1 --queries 0,2",
    "--queries -1:",
])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [
    {"heads": 2, "queries": 5, "tokens": 33},
    {"heads": 6, "kv_heads": 2, "queries": 3, "tokens": 17},
    {"heads": 3, "kv_heads": 1, "queries": 3, "tokens": 64},
    {"heads": 2, "kv_heads": 1, "queries": 3, "tokens": 1},
])
def test_bit_exact(run, write, sizes, causal, options):
    rng = np.random.default_rng(0)
    positions = rng.integers(0, sizes["tokens"], sizes["queries"])
    if options == "--sink 8 --recent 8":
        options += " --config" # No room for n is left in the preset.
        config = write().with_name("wide.toml")
        config.write_text(Config.preset("tiny").replace(top_n=32).to_toml())
        options += f" {config}"
    figures = simulate(run, write(sizes=sizes, causal=causal, qpos=positions), *options.split())
    assert figures["bit_exact"] is True
    assert figures["causal"] is causal


def test_out(run, write, tmp_path, tensors):
    arrays = tensors(heads=4, kv_heads=2, queries=5, tokens=30)
    path = write(**arrays, causal=True, qpos=[29, 3, 0, 12, 20])
    out = tmp_path / "result" # The name is used as it is, without another .npz behind it.
    out.write_text("old")
    simulate(run, path, "--out", out, "--n", 6, "--sink", 1, "--recent", 2)
    config = Config.preset("tiny")
    golden = nearbit.attention(arrays["q"], arrays["k"], arrays["v"], config, causal=True,
                               qpos=[29, 3, 0, 12, 20], n=6, sink=1, recent=2)
    with np.load(out) as result:
        assert set(result.files) == {"output", "output_int", "selected", "origins", "distances",
                                     "weights", "heads", "queries"}
        assert result["output"].dtype == np.float32
        for name in ("output", "output_int", "selected", "distances", "weights"):
            assert np.array_equal(result[name], getattr(golden, name))
        assert result["output_int"].shape == (4, 5, 8)
        assert result["selected"].shape == (4, 5, 9)
        assert (result["selected"][:, 1, 4:] == -1).all()
        assert result["heads"].tolist() == [0, 1, 2, 3]
    assert sorted(tmp_path.iterdir()) == sorted([path, out])
    umask = os.umask(0)
    os.umask(umask)
    assert out.stat().st_mode & 0o777 == 0o666 & ~umask


def test_choice_is_part_of_the_whole(run, write, tmp_path):
    """A query answers the same whether it is asked alone or among all."""
    path = write(sizes={"heads": 6, "kv_heads": 2, "queries": 7, "tokens": 40})
    simulate(run, path, "--out", tmp_path / "all.npz")
    simulate(run, path, "--out", tmp_path / "some.npz", "--heads", "1,4-5", "--queries", "2:5")
    with np.load(tmp_path / "all.npz") as whole, np.load(tmp_path / "some.npz") as part:
        assert part["heads"].tolist() == [1, 4, 5]
        assert part["queries"].tolist() == [2, 3, 4]
        for name in ("output", "output_int", "selected", "distances", "weights"):
            assert np.array_equal(part[name], whole[name][[1, 4, 5]][:, 2:5])


def test_logit_scale(run, write):
    """A file's own logit_scale is used: with 0 every selected key weighs the same."""
    path = write(logit_scale=[0.0, 0.0])
    out = path.with_name("out.npz")
    simulate(run, path, "--out", out)
    with np.load(out) as result:
        assert (result["weights"] == 65535).all()


def test_table(run, write):
    outcome = run("simulate", write())
    assert outcome.status == 0
    assert outcome.err == ""
    lines = outcome.out.splitlines()
    assert lines[0].endswith("heads.npz: 2 heads, 3 queries each, 20 keys of 8 bits")
    assert [line.split()[0] for line in lines[3:10]] == [
        "error", "of", "head", "0", "1", "all", "max"]
    assert all(len(line) <= 80 for line in lines[3:10])
    assert lines[-1].startswith("Bit-exact: ")
    assert lines[-1].endswith(" cycles the cycle model's.")


def test_models_are_the_hardware(tensors):
    """`engine="golden"` gives what the hardware gives: every array, cycles, loads, and no trace."""
    arrays = tensors(heads=4, kv_heads=2, queries=5, tokens=30)
    options = {**arrays, "config": Config.preset("tiny"), "causal": True,
               "qpos": [29, 3, 0, 12, 20], "n": 6}
    hardware, models = (nearbit.simulate(**options, engine=engine)
                        for engine in ("compiled", "golden"))
    for name in ("output", "output_int", "selected", "distances", "weights", "errors",
                 "head_cycles", "query_cycles", "load_cycles"):
        ours, theirs = getattr(models, name), getattr(hardware, name)
        assert np.array_equal(ours, theirs), name
        assert ours.dtype == theirs.dtype
    assert models.cycles == hardware.cycles
    assert models.engine == "golden"
    untraced = nearbit.simulate(**options, engine="golden", trace=False)
    assert untraced.selected.shape == (4, 5, 0)
    assert untraced.cycles == nearbit.simulate(**options, trace=False).cycles


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="needs Icarus Verilog")
def test_engines_agree(run, write):
    """Both engines count the same cycles, head by head."""
    path = write(sizes={"heads": 2, "queries": 2, "tokens": 9})
    compiled = simulate(run, path)
    icarus = simulate(run, path, "--engine", "icarus")
    assert icarus["bit_exact"] is True
    assert icarus["engine"] == "icarus"
    assert [head["cycles"] for head in icarus["heads"]] == [
        head["cycles"] for head in compiled["heads"]]


@pytest.mark.parametrize("engine", ["compiled", pytest.param("icarus", marks=pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="needs Icarus Verilog"))])
def test_vcd(run, write, tmp_path, engine):
    path = write(sizes={"heads": 1, "queries": 1, "tokens": 4})
    vcd = tmp_path / "waves.vcd"
    simulate(run, path, "--vcd", vcd, "--engine", engine)
    text = vcd.read_text()
    assert "$enddefinitions" in text
    assert "i_command__valid" in text
    assert sorted(tmp_path.iterdir()) == sorted([path, vcd])


def test_pipe_that_closes():
    """`nearbit presets | head -1` ends quietly."""
    command = f"'{sys.executable}' -m nearbit presets --json | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, encoding="utf-8",
                            check=False)
    assert result.stdout == "{\n"
    assert result.stderr == ""
