"""`nearbit simulate` on a core with a memory: its options, and what is told of it."""

import dataclasses
import json
import re

import numpy as np
import pytest

import nearbit
from nearbit_model.config import Config, Memory
from nearbit_model.cycles import bound
from nearbit_model.memory_timing import MemoryTiming


CONFIG = Config(key_bits=8, value_dim=8, capacity=64, queries=2, lanes=4, value_lanes=4, top_n=16,
                memory=Memory(heads=2, sequences=2, page_tokens=16, bus_bits=32, burst_bytes=16,
                              queue_beats=16, address_bits=20))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "memory.toml"
    path.write_text(CONFIG.to_toml())
    return path


@pytest.fixture
def refused(run, write):
    def refused_with(*arguments):
        outcome = run("simulate", write(), *arguments)
        assert (outcome.status, outcome.out) == (2, "")
        (line,) = outcome.err.splitlines()
        return line.removeprefix("nearbit: ").removeprefix("error: ")

    return refused_with


def test_figures(run, write, config):
    path = write()
    outcome = run("simulate", path, "--config", config, "--json", "--memory-latency", 40)
    assert (outcome.status, outcome.err) == (0, "")
    figures = json.loads(outcome.out)
    assert figures["bit_exact"] is True
    memory = figures["memory"]
    assert memory["timing"] == {
        "latency": 40, "latency_to": None, "pace": 1.0, "shared_pace": False, "outstanding": 64,
        "reorder": False, "ar_pause": 0.0, "r_pause": 0.0, "aw_pause": 0.0, "w_pause": 0.0,
        "b_pause": 0.0, "seed": 0}
    # Three queries of two heads, two of one head in a command; 20 bytes of codes, 16 rows of 12.
    assert memory["commands"] == 4
    assert memory["bytes_read"] == 4 * 20 + 6 * 16 * 12
    assert memory["bytes_per_query"] == memory["bytes_read"] / 6
    assert memory["bytes_per_command"] == memory["bytes_read"] / 4
    codes, rows = memory["buses"]
    assert (codes["name"], codes["beats"], codes["bytes"]) == ("axi_codes", 20, 80)
    assert (rows["name"], rows["bursts"], rows["bytes"]) == ("axi_rows__0", 96, 1152)
    for bus in memory["buses"]:
        assert bus["share"] == bus["beats"] / memory["cycles"]
    assert 0 < memory["cycles"] < figures["cycles"]

    slower = json.loads(run(
        "simulate", path, "--config", config, "--json", "--memory-latency", 40,
        "--memory-latency-to", 90, "--memory-pace", 0.5, "--memory-shared-pace",
        "--memory-outstanding", 3, "--memory-reorder", "--memory-pause", 0.2, "--memory-seed",
        5).out)
    assert slower["bit_exact"] is True
    assert slower["cycles"] > figures["cycles"]
    assert slower["memory"]["bytes_read"] == memory["bytes_read"]
    assert slower["memory"]["timing"] == {
        "latency": 40, "latency_to": 90, "pace": 0.5, "shared_pace": True, "outstanding": 3,
        "reorder": True, "ar_pause": 0.2, "r_pause": 0.2, "aw_pause": 0.2, "w_pause": 0.2,
        "b_pause": 0.2, "seed": 5}


def test_models(run, write, config):
    """Cycles from a memory with constant latency are there without hardware, which takes them."""
    path = write()
    options = ("--config", config, "--memory-latency", 30, "--json")
    golden, hardware = (json.loads(run("simulate", path, *options, *more).out)
                        for more in (("--engine", "golden"), ()))
    assert golden["bit_exact"] is None
    assert golden["cycles"] == golden["cycles_predicted"] == hardware["cycles_predicted"]
    for mine, theirs in zip(golden["heads"], hardware["heads"], strict=True):
        assert (mine["cycles"], mine["load_cycles"]) == (theirs["cycles"], theirs["load_cycles"])
    with np.load(path) as tensors:
        answer = nearbit.simulate(*(tensors[name] for name in "qkv"), CONFIG, engine="golden",
                                  timing=MemoryTiming(latency=30))
    assert answer.cycles == hardware["cycles"]
    # A memory that pauses is only simulated.
    drawn = run("simulate", path, *options[:-1], "--memory-pause", 0.1, "--engine", "golden")
    assert "Cycles: not predicted for this memory; " in drawn.out
    assert drawn.out.endswith("Nothing was simulated: the answers are the golden model's. Without "
                              "--engine golden, the hardware is run and compared.\n")


def test_table(run, write, config):
    outcome = run("simulate", write(), "--config", config, "--memory-latency", 30,
                  "--memory-pause", 0.1, "--memory-pace", 0.5)
    assert outcome.status == 0
    assert "; memory with latency 30, pace 0.5, pauses 0.1, seed 0\n" in outcome.out
    assert re.search(r"^Memory: 205\.3 bytes read per query, 308\.0 per command\. Buses busy from "
                     r"the first command on: axi_codes \d+\.\d%, axi_rows__0 \d+\.\d%\.$",
                     outcome.out, re.MULTILINE)
    assert "Bit-exact: " in outcome.out
    usual = run("simulate", write(), "--config", config).out
    assert "; memory with latency 100\n" in usual


def test_without_a_memory(run, write):
    outcome = run("simulate", write(), "--preset", "tiny")
    assert outcome.status == 0
    assert "Memory: " not in outcome.out
    assert "; memory with " not in outcome.out
    assert "memory" not in json.loads(run("simulate", write(), "--preset", "tiny", "--json").out)


@pytest.mark.parametrize("option", [
    ["--memory-latency", "5"], ["--memory-latency-to", "5"], ["--memory-pace", "0.5"],
    ["--memory-shared-pace"], ["--memory-outstanding", "1"], ["--memory-reorder"],
    ["--memory-pause", "0"], ["--memory-seed", "0"]])
@pytest.mark.parametrize("preset", [["--preset", "tiny"], []])
def test_needs_a_memory(refused, option, preset):
    assert refused(*preset, *option) == (
        f"{option[0]} needs a configuration with a memory; give one that has a table [memory] with "
        f"--config, or a preset such as memory64")


@pytest.mark.parametrize(("options", "says"), [
    (["--memory-latency", "0"], "--memory-latency must be an integer from 1 to 1048576, not 0"),
    (["--memory-latency-to", "5"], "--memory-latency-to must be at least latency (100), not 5"),
    (["--memory-pace", "2"], "--memory-pace must be from 0.001 to 1 on each bus, not 2.0"),
    (["--memory-pace", "20", "--memory-shared-pace"],
     "--memory-pace must be from 0.001 to 16, not 20.0"),
    (["--memory-pause", "1"], "--memory-pause must be a probability from 0 to 0.99, not 1.0"),
    (["--memory-outstanding", "0"],
     "--memory-outstanding must be an integer from 1 to 65536, not 0"),
    (["--memory-seed", "-1"],
     f"--memory-seed must be an integer from 0 to {2**63 - 1}, not -1"),
])
def test_values(refused, config, options, says):
    assert refused("--config", config, *options) == says


@pytest.mark.parametrize("options", [
    ["--memory-latency", "40"],
    ["--memory-latency-to", "150", "--memory-pace", "0.7", "--memory-reorder", "--memory-pause",
     "0.1"]])
def test_report(run, write, config, tmp_path, options):
    """The page compares all cycles, also of a memory whose latency is not constant."""
    outcome = run("simulate", write(), "--config", config, "--report", tmp_path, *options)
    assert (outcome.status, outcome.err) == (0, "")
    text = " ".join((tmp_path / "report.html").read_text().split())
    assert "<strong>Cycle-exact.</strong>" in text
    assert ("from the recorded response times of the memory" in text) == (len(options) > 2)
    assert ("and reads 308.0 bytes of codes and rows, or 205.3 per query; means of 4 commands"
            in text)
    least = bound(CONFIG, words=5, selected=16, timing=MemoryTiming(
        latency=40 if len(options) == 2 else 100, pace=1 if len(options) == 2 else 0.7))
    assert (f"What limits is <code>{least.limit}</code>: by formula, it alone takes "
            f"{float(least.interval):,.1f} of these cycles" in text)
    for bus, bursts, beats, size in (("axi_codes", 8, 20, 80), ("axi_rows__0", 96, 288, "1,152")):
        assert (f'<th scope="row">{bus}</th><td>{bursts}</td><td>{beats}</td> <td>{size}</td>'
                in text)
    assert "axi_append" not in text
    assert ">read codes</text>" in text
    assert ">read rows</text>" in text


@pytest.mark.parametrize(("changes", "options", "says"), [
    ({"selection": "counters"}, [],
     ("--report compares with the cycle model, and cycles depend on data with a memory and the "
      "selection 'counters' without rescoring; take a configuration with selection = "
      "'histograms'")),
    ({"memory": dataclasses.replace(CONFIG.memory, one_bus=True)}, [],
     ("--report of codes and rows on one bus (memory.one_bus) takes at most 3 commands, not 4; "
      "choose fewer with --heads or --queries")),
    ({}, ["--memory-latency", "65535"],
     ("--report needs memory latencies of less than 65535 cycles, after which the core gives a "
      "memory up (memory.timeout_bits), not 65535")),
])
def test_report_refused(refused, config, tmp_path, monkeypatch, changes, options, says):
    monkeypatch.setattr("nearbit.cli.memory.MOST_ON_ONE_BUS", 3)
    config.write_text(CONFIG.replace(**changes).to_toml())
    folder = tmp_path / "page"
    assert refused("--config", config, "--report", folder, *options) == says
    assert not folder.exists()


def test_does_not_fit(refused, config):
    config.write_text(CONFIG.replace(
        memory=dataclasses.replace(CONFIG.memory, heads=1)).to_toml())
    assert refused("--config", config) == (
        "the tensors have 2 key heads, and the configuration's memory has 1 (memory.heads)")
