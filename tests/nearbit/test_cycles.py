"""`nearbit cycles`."""

import importlib.util
import io
import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from nearbit import workloads as cycles
from nearbit.cli import console as display
from nearbit_model.config import Config, Rescore
from nearbit_model.cycles import Phase, load, predict


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("cycles", ROOT / "benchmarks" / "cycles.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table(run):
    outcome = run("cycles", "--keys", 1024)
    assert outcome.status == 0
    assert outcome.out.startswith("preset reference: 1,024 keys of 64 bits, n 32, 64 values\n")
    assert re.search(r"^interval +65 *$", outcome.out, re.MULTILINE)
    assert re.search(r"^  merge +65 +100% +<- limits *$", outcome.out, re.MULTILINE)
    assert "CAMformer: interval 327, latency 721" in outcome.out
    assert "MHz" not in outcome.out


def test_clock(run):
    """Cycles, times at 48 MHz, and as many queries as fit into a second."""
    options = ("cycles", "--keys", 1024, "--clock", 48)
    outcome = run(*options)
    assert re.search(r"^ +cycles +at 48 MHz +share *$", outcome.out, re.MULTILINE)
    assert re.search(r"^latency .* 294 +6\.125 us *$", outcome.out, re.MULTILINE)
    assert re.search(r"^interval +65 +1\.354 us *$", outcome.out, re.MULTILINE)
    assert re.search(r"^queries per second +738,462 *$", outcome.out, re.MULTILINE)
    assert re.search(r"^  merge +65 +100% +<- limits *$", outcome.out, re.MULTILINE)
    figures = json.loads(run(*options, "--json").out)
    assert figures["clock_mhz"] == 48
    assert figures["latency_seconds"] == pytest.approx(294 / 48e6, rel=1e-12)
    assert figures["interval_seconds"] == pytest.approx(65 / 48e6, rel=1e-12)
    assert figures["queries_per_second"] == pytest.approx(48e6 / 65, rel=1e-12)


def test_clock_of_queries(run):
    """A command of three queries answers three queries in an interval."""
    figures = json.loads(run("cycles", "--keys", 4096, "--preset", "gqa3", "--clock", 0.001,
                             "--json").out)
    assert figures["interval"] == 192
    assert figures["queries_per_second"] == pytest.approx(1000 / 64, rel=1e-12)
    outcome = run("cycles", "--keys", 4096, "--preset", "gqa3", "--clock", 0.001)
    assert re.search(r"^interval  \(64 per query\) +192 +192 ms *$", outcome.out, re.MULTILINE)
    assert re.search(r"^queries per second +15\.6 *$", outcome.out, re.MULTILINE)


def test_queries(run):
    outcome = run("cycles", "--keys", 40, "--preset", "tiny", "--sink", 1, "--recent", 2)
    assert outcome.out.startswith(
        "preset tiny: 40 keys of 8 bits, n 13, sink 1, recent 2, 8 values, 2 queries per command\n")
    assert "(32 per query)" in outcome.out


@pytest.mark.parametrize("options", [[], ["--queries", 7], ["--queries", 1, "--n", 1]])
def test_check(run, options):
    outcome = run("cycles", "--preset", "tiny", "--keys", 60, "--check", "--json", *options)
    assert outcome.status == 0
    figures = json.loads(outcome.out)
    assert figures["equal"] is True
    assert figures["simulated"]["latency"] == figures["latency"]
    assert figures["simulated"]["cycles"] == figures["cycles"]
    if not options:
        assert figures["simulated"]["interval"] == figures["interval"]
    assert set(figures) == {
        "preset", "config", "keys", "queries", "n", "sink", "recent", "latency", "interval",
        "interval_per_query", "stages", "limit", "limits", "relief", "cycles", "simulated", "equal"}
    assert figures["limit"] == figures["limits"][0]
    assert figures["stages"][figures["limit"]] == {"cycles": figures["interval"], "share": 1}


def test_check_shown(run):
    outcome = run("cycles", "--preset", "tiny", "--keys", 60, "--check")
    assert re.search(r"^Simulated: latency \d+, interval 64; all [\d,]+ cycles as predicted, "
                     r"to the cycle\.$", outcome.out, re.MULTILINE)


def test_difference_is_found(run, monkeypatch):
    predict = cycles.predict

    def late(config, phases):
        timeline = predict(config, phases)
        timeline.accepted[-1].commands[-1:] = [timeline.accepted[-1].commands[-1] + 1]
        return timeline

    monkeypatch.setattr(cycles, "predict", late)
    outcome = run("cycles", "--preset", "tiny", "--keys", 60, "--check")
    assert outcome.status == 1
    assert "cycles NOT as predicted." in outcome.out


def test_every_stream_is_compared():
    config = Config.preset("tiny").replace(rescore=Rescore(head_dim=2, lanes=1))
    workload = cycles.Workload(keys=8, queries=2, n=2)
    timeline = cycles.measure(config, workload).timeline

    def transfers(timeline):
        names = {"i_key": "keys", "i_value": "values", "i_exp_table": "exp_tables",
                 "i_command": "commands",
                 "i_rescore_key": "rescore_keys", "i_rescore_query": "rescore_queries"}
        return SimpleNamespace(
            outputs={"o_result": SimpleNamespace(cycles=np.array(timeline.results)),
                     "o_trace": SimpleNamespace(cycles=np.array(timeline.trace))},
            accepted=[{name: np.array(getattr(phase, field)) for name, field in names.items()
                       if getattr(phase, field)} for phase in timeline.accepted], traffic=[])

    assert cycles.differences(timeline, transfers(timeline)) == []
    for name in ("o_result", "o_trace"):
        found = transfers(timeline)
        found.outputs[name].cycles = np.append(found.outputs[name].cycles, 7)
        assert cycles.differences(timeline, found) == [name]
    for phase, name in ((0, "i_key"), (0, "i_value"), (0, "i_exp_table"), (0, "i_rescore_key"),
                        (1, "i_command"), (2, "i_rescore_query")):
        found = transfers(timeline)
        found.accepted[phase][name][-1] += 1
        assert cycles.differences(timeline, found) == [f"{name} of phase {phase}"]
        del found.accepted[phase][name]
        assert cycles.differences(timeline, found) == [f"{name} of phase {phase}"]
    found = transfers(timeline)
    del found.accepted[-1]
    assert cycles.differences(timeline, found) == ["phases"]


def test_progress(monkeypatch):
    """On a terminal: what is done; in a simulation, the share of the cycles and the time left."""
    screen = io.StringIO()
    now = 0.0
    console = Console(file=screen, force_terminal=True, width=80, get_time=lambda: now)
    monkeypatch.setattr(display, "console", lambda **_: console)

    def shown():
        """Show it anew; give the last line without colours."""
        bar._progress.refresh()
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).splitlines()[-1].strip()

    with display.progress("thinking") as bar:
        assert "thinking" in shown()
        bar.say("building")
        now = 100.0
        assert re.search(r"building .* 0:01:40$", shown())
        move = bar.to(4000)
        # A speed needs two reports; the first is that of the start.
        now = 101.0
        move(1000, 0, 0)
        now = 102.0
        move(2000, 0, 0)
        assert re.search(r"simulating: cycle 2,000 .* 50% 0:00:01 0:00:02 left$", shown())
        now = 103.0
        move(3000, 0, 0)
        assert re.search(r"simulating: cycle 3,000 .* 75% 0:00:02 0:00:01 left$", shown())


def test_no_progress_elsewhere(run):
    assert run("cycles", "--preset", "tiny", "--keys", 60, "--check").err == ""


def test_wide_codes():
    """Random contents fit codes of more than a word."""
    config = Config(key_bits=100, value_dim=2, capacity=4, lanes=1, value_lanes=2, top_n=2)
    workload = cycles.Workload(keys=4, queries=3, n=2)
    predicted = cycles.measure(config, workload)
    found = cycles.check(config, workload.phases(config, predicted.latency), predicted.timeline,
                         engine="icarus")
    assert found.equal
    assert found.latency == predicted.latency


@pytest.mark.parametrize("queries", [1, 9])
def test_rescoring(run, tmp_path, queries):
    """A configuration with the rescoring unit uses it."""
    path = tmp_path / "config.toml"
    path.write_text(Config(key_bits=16, value_dim=4, capacity=16, queries=2, lanes=2, value_lanes=4,
                           top_n=6, rescore=Rescore(head_dim=6, lanes=2)).to_toml())
    options = ("cycles", "--config", path, "--keys", 15, "--queries", queries, "--check")
    outcome = run(*options)
    assert outcome.status == 0
    assert ", rescoring of 6 elements, 2 queries per command\n" in outcome.out
    figures = json.loads(run(*options, "--json").out)
    assert figures["equal"]
    assert figures["simulated"]["latency"] == figures["latency"]
    assert figures["limits"] == ["rescore"]
    assert figures["interval"] == 2 * 6 * 3


def test_every_limit():
    """Each stage can be the one that limits; what it says of it is about a field."""
    small = {"key_bits": 16, "value_dim": 8, "capacity": 256, "lanes": 4, "value_lanes": 8,
             "top_n": 16, "selection": "counters"}
    for limit, word, changes, keys, n in (
            ("score", "lanes", {}, 256, 4), ("emit", "n", {}, 16, 16),
            ("weigh", "value_lanes", {"value_lanes": 1}, 16, 16),
            ("weigh", "n", {"queries": 3}, 16, 16), ("banks", "refine_lanes", {"top_n": 40}, 40, 3),
            ("normalize", "divider_cycles", {"normalizer": "divider", "divider_cycles": 16},
             16, 1),
            ("normalize", "nothing", {"value_dim": 64, "value_lanes": 64}, 16, 1),
            ("rescore", "rescore.lanes", {"rescore": Rescore(head_dim=8, lanes=4)}, 16, 16)):
        config = Config(**{**small, **changes})
        predicted = cycles.measure(config, cycles.Workload(keys=keys, queries=1, n=n))
        assert predicted.limits[0] == limit, (limit, predicted.stages)
        assert word in predicted.relief[0]
    config = Config(**{**small, "value_dim": 4, "value_lanes": 4, "queries": 3,
                       "rescore": Rescore(head_dim=8, lanes=8)})
    predicted = cycles.measure(config, cycles.Workload(keys=16, queries=1, n=16))
    assert dict(zip(predicted.limits, predicted.relief, strict=True)).keys() == {"weigh", "rescore"}
    assert all(relief.startswith("a smaller n: ") for relief in predicted.relief)
    for limit, changes, keys, n in (
            ("merge", {"key_bits": 90}, 16, 4), ("scan", {}, 256, 4), ("emit", {}, 16, 16),
            ("banks", {"key_bits": 9, "refine_lanes": 32}, 40, 3),
            ("merge", {"selection": "serial"}, 256, 4),
            ("scan", {"selection": "serial", "key_bits": 1}, 256, 16)):
        config = Config(**{**small, "selection": "histograms", **changes})
        predicted = cycles.measure(config, cycles.Workload(keys=keys, queries=1, n=n))
        assert predicted.limits[0] == limit, (limit, predicted.stages)
    config = Config(key_bits=30, value_dim=1, capacity=24, queries=3, lanes=1, value_lanes=1,
                    top_n=2,
                    refine_lanes=4, normalizer="divider", divider_cycles=1,
                    selection="counters")
    predicted = cycles.measure(config, cycles.Workload(keys=4, queries=1, n=1))
    assert (predicted.limits, predicted.interval) == (("queues",), Fraction(19, 2))


@pytest.mark.parametrize("ending", ["svg", "png", "PDF"])
def test_plot(run, tmp_path, ending):
    path = tmp_path / f"plot.{ending}"
    contents = []
    for _ in range(2):
        outcome = run("cycles", "--preset", "tiny", "--keys", 40, "--plot", path)
        assert (outcome.status, outcome.err) == (0, "")
        contents.append(path.read_bytes())
    assert outcome.out.endswith(f"\nPlot: {path}\n")
    if ending == "svg":
        assert b"score all keys" in contents[0]
        assert contents[0] == contents[1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("options", "message"), [
    ("--keys 1025", ("preset reference holds 1024 keys (capacity), not 1025; the preset head64 "
                     "does")),
    ("--keys 65537 --preset long", ("preset long holds 65536 keys (capacity), not 65537; give a "
                                    "configuration that does with --config, or raise it with "
                                    "--set")),
    ("--keys 9000 --preset memory64 --memory-latency 9", (
        "preset memory64 holds 8192 keys (capacity), not 9000; give a configuration that does with "
        "--config, or raise it with --set")),
    ("--keys 0", "--keys must be at least 1, not 0"),
    ("--keys 9 --queries 0", "--queries must be at least 1, not 0"),
    ("--keys 9 --queries 1000001", "--queries must be at most 1,000,000, not 1000001"),
    ("--keys 9 --n 0", "--n must be at least 1, not 0"),
    ("--keys 9 --sink -1", "--sink must be at least 0, not -1"),
    ("--keys 9 --recent -1", "--recent must be at least 0, not -1"),
    ("--keys 9 --n 33", ("preset reference selects at most 32 keys (top_n), not "
                         "n + sink + recent = 33; the preset head64 does")),
    ("--keys 9 --sink 4000", ("preset reference selects at most 32 keys (top_n), not "
                              "n + sink + recent = 4001; give a configuration that does with "
                              "--config, or raise it with --set")),
    *[(f"--keys 9 --clock {clock}", f"--clock is in MHz, from 0.001 to 100,000, not {shown}")
      for clock, shown in (("0", "0"), ("-1", "-1"), ("nan", "nan"), ("inf", "inf"),
                           ("12e6", "1.2e+07"), ("1e-320", "9.99989e-321"))],
    ("--keys 9 --preset none", None),
    ("", "Missing option '--keys'."),
    ("--key 9", "No such option: --key (Possible options: --keys, --memory, --set)"),
])
def test_bad_input(run, options, message):
    outcome = run("cycles", *options.split())
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1
    if message is not None:
        assert outcome.err == f"nearbit: {message}\n"


@pytest.mark.parametrize(("option", "value"), [("--keys", "1e3"), ("--clock", "fast")])
def test_not_a_number(run, option, value):
    outcome = run("cycles", "--keys", 9, option, value)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith(f"nearbit: Invalid value for '{option}': ")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(("name", "message"), [
    ("plot.pgf", "a plot's name must end in ."),
    ("plot.xyz", "a plot's name must end in ."), ("plot", "a plot's name must end in ."),
    ("no/plot.svg", "No such file or directory"), ("folder.svg", "it is a directory"),
])
def test_bad_plot(run, tmp_path, name, message):
    (tmp_path / "folder.svg").mkdir()
    outcome = run("cycles", "--keys", 9, "--plot", tmp_path / name)
    assert (outcome.status, outcome.out) == (2, "")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder.svg"]


def test_benchmark(benchmark):
    """What the benchmark recorded is what the model predicts now, and reaches what it must."""
    recorded = json.loads(benchmark.RESULTS.read_text(encoding="utf-8"))
    assert set(recorded["workloads"]) == set(benchmark.WORKLOADS)
    for name, (config, workload) in benchmark.WORKLOADS.items():
        run = recorded["workloads"][name]
        assert run["equal"]
        assert run["simulated"]["latency"] == run["latency"]
        assert run["simulated"]["interval"] == run["interval"]
        predicted = json.loads(json.dumps(cycles.measure(config, workload).to_dict()))
        assert {field: run[field] for field in predicted} == predicted
    for name, latency, interval in (("reference", 300, 70), ("icebreaker", 721, 264)):
        assert recorded["workloads"][name]["latency"] <= latency
        assert recorded["workloads"][name]["interval"] <= interval
    assert recorded["workloads"]["64 lanes"]["interval"] <= 1.02 * 128
    many = json.loads(json.dumps(benchmark.many()))
    assert recorded["many"] == many
    select = recorded["quick_select"]
    assert select == benchmark.quick_select()
    peer = cycles.PEERS[1]
    assert peer.interval == select["mean"]
    assert f"the worst is {select['worst']};" in peer.remark


def test_long_context(benchmark):
    """The record is exact, in the time that was asked for, and what the model predicts now."""
    recorded = json.loads(benchmark.RESULTS.read_text(encoding="utf-8"))["long_context"]
    assert recorded["bit_exact"]
    assert recorded["cycle_exact"]
    assert recorded["machine"]["cores_used"] == 1
    assert recorded["seconds"] < 600
    assert (recorded["preset"], recorded["keys"], recorded["queries"], recorded["n"]) == (
        "long", 65536, 64, 2048)
    config, workload = benchmark.WORKLOADS["long"]
    asked = [replace(command, trace=True)
             for command in workload.commands(config, workload.queries)]
    assert predict(config, [load(config, workload.keys), Phase(commands=asked)]).cycles \
        == recorded["cycles"] == recorded["predicted_cycles"]


def test_documents(benchmark):
    tables = benchmark.tables(json.loads(benchmark.RESULTS.read_text(encoding="utf-8")))
    for document, names in benchmark.DOCUMENTS.items():
        text = document.read_text(encoding="utf-8")
        for name in names:
            assert f"<!-- {name} -->\n{tables[name]}\n<!-- /{name} -->" in text


def test_example(capsys):
    text = (ROOT / "docs" / "cycles.md").read_text(encoding="utf-8")
    example, = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    exec(compile(example, "docs/cycles.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2
