"""`nearbit config`, and configurations changed by `--set`."""

import json
import re
import tomllib

import pytest

from nearbit.boards import BOARDS
from nearbit.configs import commented, with_settings
from nearbit_model.config import MEMORY_PRESETS, PRESETS, Config, ConfigError, Memory, Rescore
from nearbit_model.fitting import fit


@pytest.mark.parametrize("config", [
    *PRESETS.values(), *MEMORY_PRESETS.values(), *(board.config for board in BOARDS.values()),
    Config.preset("tiny").replace(cell="xc7")])
def test_commented(config):
    """What is written is the configuration, and every field has its comment."""
    text = commented(config, "anything")
    assert Config.from_toml(text) == config
    assert set(tomllib.loads(text)) >= set(config.to_dict()) - {"cell"}
    assert re.search(r"\n# Keys scored per cycle by each query; a power of two\. From 1 to 256\. "
                     r"Default: 16\.\nlanes = ", text)
    assert ("\n# [rescore]\n" in text) is (config.rescore is None)
    assert ":data:" not in text
    assert "``" not in text
    assert max(map(len, text.splitlines())) <= 90


def test_command(run, tmp_path):
    """A preset, a board in any case, or a file; on standard output, or in a file."""
    outcome = run("config")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.startswith("# preset reference, written by 'nearbit config'\n\n# Bits of")
    assert Config.from_toml(outcome.out) == Config.preset("reference")
    for name in ("ULX3S-85F", "ulx3s-85f"):
        assert Config.from_toml(run("config", "--preset", name).out) == BOARDS["ulx3s-85f"].config
    board, preset = (Config.from_toml(run("config", "--preset", name).out)
                     for name in ("board:icebreaker", "icebreaker"))
    assert (board, preset) == (BOARDS["icebreaker"].config, Config.preset("icebreaker"))
    path = tmp_path / "mine.toml"
    assert run("config", "--set", "top_n=8", "-o", path).out == f"{path}\n"
    assert Config.load(path) == Config.preset("reference").replace(top_n=8)
    assert run("config", "--config", path, "-o", path).err == (
        f"nearbit: cannot write {path}: it is an input\n")


@pytest.mark.parametrize("tokens", [20, 300])
@pytest.mark.parametrize("method", ["had", "hash"])
def test_fits_any_head(run, write, tmp_path, method, tokens):
    """What no preset fits, `config --fit` does, as the refusal says."""
    path = write(sizes={"heads": 2, "queries": 3, "tokens": tokens, "dim": 96, "value_dim": 80})
    options = ["--engine", "golden", "--json", *(["--method", method] if method == "hash" else [])]
    refused = run("simulate", path, *options)
    assert refused.status == 2
    offered = refused.err.partition("write a configuration that does with '")[2].partition("'")[0]
    assert offered.startswith(f"nearbit config --fit {path}")
    toml = tmp_path / "mine.toml"
    command = offered.replace("mine.toml", str(toml)).split()[1:]
    assert run(*command).status == 0
    figures = json.loads(run("simulate", path, "--config", toml, *options).out)
    assert figures["keys_read"] == min(256 + 9 if method == "hash" else 32, tokens) / tokens


@pytest.mark.parametrize(("sizes", "options"), [
    ((64, 64, 1000, 32), {}), ((96, 96, 4096, 64), {}), ((1, 1, 1, 1), {}), ((7, 5, 3, 300), {}),
    ((1024, 1024, 1 << 20, 1 << 20), {}), ((80, 48, 513, 31), {"key_bits": 32, "rescore": True}),
    ((128, 128, 32768, 2048), {"rescore": True, "shared": 4}),
])
def test_fit(sizes, options):
    head_dim, value_dim, tokens, top_n = sizes
    config = fit(*sizes, **options)
    assert config.key_bits == options.get("key_bits", head_dim)
    assert config.value_dim == value_dim
    assert max(tokens, top_n) <= config.capacity < 2 * max(tokens, top_n)
    assert config.top_n == top_n
    assert (config.rescore is not None) is options.get("rescore", False)
    # No stage takes longer than listing the keys or the output elements, up to the widest.
    cycles = max(value_dim, config.top_n)
    assert config.lanes == 64 or config.capacity / config.lanes <= cycles
    assert config.beats * config.top_n <= cycles or config.value_lanes >= 64
    if config.rescore is not None:
        assert config.queries == max(1, options.get("shared", 0))
        assert config.rescore.beats * config.top_n <= cycles or config.rescore.lanes >= 64


def test_fit_is_refused(run, write):
    path = write(sizes={"dim": 1025})
    assert run("config", "--fit", path).err == (
        f"nearbit: {path}: no configuration fits: key_bits must be from 1 to 1024, not 1025\n")


def test_settings():
    memory = Config.preset("memory64")
    tiny = Config.preset("tiny")
    assert with_settings(Config.preset("reference"), ["lanes=8"]) == Config.preset(
        "reference").replace(lanes=8)
    assert with_settings(tiny, [" lanes = 2", "refine_lanes=16", "selection=counters"]) == \
        tiny.replace(lanes=2, refine_lanes=16, selection="counters")
    assert with_settings(memory, ["memory.heads=4", "memory.one_bus=true"]).memory == \
        Memory(heads=4, one_bus=True)
    assert with_settings(tiny, ["rescore.head_dim=8", "rescore.lanes=4"]).rescore == \
        Rescore(head_dim=8, lanes=4)
    assert with_settings(Config.preset("hash64"), ["rescore=none"]) == Config.preset(
        "hash64").replace(rescore=None)
    assert with_settings(tiny.replace(cell="ecp5"), ["cell=none"]) == tiny


@pytest.mark.parametrize(("setting", "said"), [
    ("lanes", "--set takes FIELD=VALUE, such as lanes=8, not 'lanes'"),
    ("=8", "--set takes FIELD=VALUE, such as lanes=8, not '=8'"),
    ("lanes=5", "--set lanes=5: lanes must be a power of two, not 5"),
    ("lanes=many", "--set lanes=many: lanes must be an integer, not 'many'"),
    ("memory.heads=1", ("--set memory.heads=1: memory.page_tokens must divide capacity (64), not "
                        "256")),
    ("rescore.lanes=1", ("--set rescore.lanes=1: rescore.head_dim is missing; head_dim and lanes "
                         "have no default")),
    ("memory=3", ("--set memory: this is a table; set its fields, such as memory.heads=VALUE, or "
                  "memory=none")),
    *((f"{name}=none", f"--set {name}=none: only cell, memory, rescore can be left out")
      for name in ("memroy", "lanes", "rescore.head_dim")),
    ("boards.lanes=3", ("--set boards.lanes: there is no table boards; the tables are memory, "
                        "rescore")),
])
def test_wrong_settings(setting, said):
    with pytest.raises(ConfigError) as caught:
        with_settings(Config.preset("tiny"), [setting])
    assert str(caught.value) == said


def test_settings_of_commands(run, write, tmp_path):
    """Every command that takes a configuration takes changes to it, and says so."""
    lanes = ("--set", "lanes=2")
    figures = json.loads(run("simulate", write(), *lanes, "--engine", "golden", "--json").out)
    assert figures["config"]["lanes"] == 2
    assert figures["preset"] is None
    assert "\npreset tiny with lanes=2: n 16," in run(
        "simulate", write(), *lanes, "--engine", "golden").out
    for command in (("cycles", "--keys", "64", "--n", "4"), ("area",)):
        figures = json.loads(run(*command, "--preset", "tiny", *lanes, "--json").out)
        assert figures["config"]["lanes"] == 2
    assert run("verilog", "--preset", "tiny", *lanes, "-o", tmp_path / "v").status == 0
    assert Config.load(tmp_path / "v" / "nearbit.toml") == Config.preset("tiny").replace(lanes=2)
    assert run("build", "--board", "icebreaker", "--set", "lanes=3").err == (
        "nearbit: --set lanes=3: lanes must be a power of two, not 3\n")
