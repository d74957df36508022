"""`nearbit cycles`."""

import importlib.util
import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

from nearbit import cycles
from nearbit_model.config import Config


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
    assert re.search(r"^interval +64 *$", outcome.out, re.MULTILINE)
    assert re.search(r"^  score +64 +100% +<- limits *$", outcome.out, re.MULTILINE)
    assert "CAMformer: interval 327, latency 721" in outcome.out


def test_rows(run):
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


def test_wide_codes():
    """Random contents fit codes of more than a word."""
    config = Config(key_bits=100, value_dim=2, capacity=4, lanes=1, value_lanes=2, top_n=2)
    workload = cycles.Workload(keys=4, queries=3, n=2)
    predicted = cycles.measure(config, workload)
    found = cycles.check(config, workload, predicted, engine="icarus")
    assert found.equal
    assert found.latency == predicted.latency


def test_every_limit():
    """Each stage can be the one that limits; what it says of it is about a field."""
    small = {"key_bits": 16, "value_dim": 8, "capacity": 256, "lanes": 4, "value_lanes": 8,
             "top_n": 16}
    for limit, word, changes, keys, n in (
            ("score", "lanes", {}, 256, 4), ("emit", "n", {}, 16, 16),
            ("weigh", "value_lanes", {"value_lanes": 1}, 16, 16),
            ("weigh", "n", {"rows": 3}, 16, 16), ("banks", "pass_lanes", {"top_n": 40}, 40, 3),
            ("normalize", "output_cycles", {"output_cycles": 16}, 16, 1),
            ("normalize", "nothing", {"value_dim": 64, "value_lanes": 64}, 16, 1)):
        config = Config(**{**small, **changes})
        predicted = cycles.measure(config, cycles.Workload(keys=keys, queries=1, n=n))
        assert predicted.limits[0] == limit, (limit, predicted.stages)
        assert word in predicted.relief[0]
    config = Config(key_bits=30, value_dim=1, capacity=24, rows=2, lanes=1, value_lanes=1, top_n=6,
                    pass_lanes=4, output_cycles=4)
    predicted = cycles.measure(config, cycles.Workload(keys=4, queries=1, n=5))
    assert (predicted.limits, predicted.interval) == (("queues",), Fraction(12))


@pytest.mark.parametrize("ending", ["svg", "png", "PDF"])
def test_plot(run, tmp_path, ending):
    path = tmp_path / f"plot.{ending}"
    contents = []
    for _ in range(2):
        outcome = run("cycles", "--preset", "tiny", "--keys", 40, "--plot", path)
        assert (outcome.status, outcome.err) == (0, "")
        contents.append(path.read_bytes())
    if ending == "svg":
        assert b"score all keys" in contents[0]
        assert contents[0] == contents[1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("options", "message"), [
    ("--keys 1025", "preset reference holds 1024 keys (capacity), not 1025"),
    ("--keys 0", "--keys must be at least 1, not 0"),
    ("--keys 9 --queries 0", "--queries must be at least 1, not 0"),
    ("--keys 9 --queries 1000001", "--queries must be at most 1,000,000, not 1000001"),
    ("--keys 9 --n 0", "--n must be at least 1, not 0"),
    ("--keys 9 --sink -1", "--sink must be at least 0, not -1"),
    ("--keys 9 --recent -1", "--recent must be at least 0, not -1"),
    ("--keys 9 --n 33", ("preset reference selects at most 32 keys (top_n), not "
                         "n + sink + recent = 33")),
    ("--keys 9 --sink 40", ("preset reference selects at most 32 keys (top_n), not "
                            "n + sink + recent = 41")),
    ("--keys 9 --preset none", None),
    ("", None),
])
def test_bad_input(run, options, message):
    outcome = run("cycles", *options.split())
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.count("\n") == 1
    if message is not None:
        assert outcome.err == f"nearbit: {message}\n"


@pytest.mark.parametrize(("name", "message"), [
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
    select = recorded["quick_select"]
    peer = cycles.PEERS[1]
    assert peer.interval == select["mean"]
    assert f"worst of 1,000 is {select['worst']};" in peer.conditions


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
