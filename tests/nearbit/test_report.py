import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

import nearbit
from nearbit import report
from nearbit.tensors import Tensors
from nearbit_model.attention import attend, attention
from nearbit_model.config import Config
from nearbit_sim import simulation


@pytest.fixture
def simulated(monkeypatch):
    """Replace the hardware by the golden model, spoilt as the test says."""
    spoilt = {}

    def simulate(plan, *, engine, vcd, progress, timing, log):
        golden, predicted = attend(plan.prepared), plan.predict()
        answers = {name: getattr(golden, name).copy() for name in
                   ("output", "output_int", "selected", "distances", "weights")}
        answers["head_cycles"] = predicted.head_cycles.copy()
        for (name, index), value in spoilt.items():
            answers[name][index] = value
        cycles = answers["head_cycles"]
        return SimpleNamespace(**answers, cycles=int(cycles.sum()), head_seconds=cycles / 1000,
                               build_seconds=1.5, load_cycles=predicted.load_cycles,
                               memory_use=None)

    monkeypatch.setattr(simulation, "run", simulate)
    return spoilt


def test_equal(simulated, run, write):
    outcome = run("simulate", write())
    assert outcome.status == 0
    assert "preset tiny: n 16, sink 0, recent 0\n" in outcome.out
    cycles = re.search(r" all +(\d+) ", outcome.out)
    assert cycles is not None
    assert outcome.out.endswith("Bit-exact: the hardware's answers to all 6 queries equal the "
                                f"golden model's, and its {cycles[1]} cycles the cycle model's.\n")


def test_other_cycles(simulated, run, write):
    """Hardware that takes other cycles than predicted fails, and both are told."""
    predicted = json.loads(run("simulate", write(), "--json").out)["cycles_predicted"]
    simulated["head_cycles", 1] = 7
    outcome = run("simulate", write())
    assert outcome.status == 1
    assert re.search(rf"\nNot cycle-exact: the hardware took \d+ cycles, and the cycle model "
                     rf"predicts {predicted}\.\n", outcome.out)
    assert outcome.out.count("keys") == 3 # The table, and the hardware's own.
    figures = json.loads(run("simulate", write(), "--json").out)
    assert figures["heads"][1]["cycles"] == 7
    assert figures["cycles_predicted"] == predicted


def test_golden(monkeypatch, run, write, tmp_path):
    """Answers and predicted cycles are there without hardware, and the last line says so."""
    def fail(*_arguments, **_options):
        raise AssertionError

    monkeypatch.setattr(simulation, "core_engine", fail)
    path = write(sizes={"heads": 4, "kv_heads": 2, "queries": 3, "tokens": 20})
    outcome = run("simulate", path, "--engine", "golden", "--out", tmp_path / "out.npz")
    assert outcome.status == 0, outcome.err
    assert outcome.out.endswith(
        "\nNothing was simulated: the answers are the golden model's, and the cycles the cycle "
        "model's. Without --engine golden, the hardware is run and compared.\n")
    assert "exact:" not in outcome.out
    with np.load(path) as given, np.load(tmp_path / "out.npz") as out:
        hardware = nearbit.simulate(given["q"], given["k"], given["v"], "tiny", engine="golden")
        for name in ("output", "output_int", "selected", "origins", "distances", "weights"):
            assert np.array_equal(out[name], getattr(hardware, name)), name
    figures = json.loads(run("simulate", path, "--engine", "golden", "--json").out)
    assert figures["bit_exact"] is None
    assert figures["seconds"] is figures["build_seconds"] is None
    assert figures["cycles"] == figures["cycles_predicted"] == hardware.cycles > 0
    assert [head["cycles"] for head in figures["heads"]] == hardware.head_cycles.tolist()
    for option in ("--vcd", "--report"):
        assert run("simulate", path, "--engine", "golden", option, tmp_path / "x").err == (
            f"nearbit: {option} needs hardware; leave out --engine golden\n")


def test_nothing_to_choose(simulated, run, write):
    """No recall where every query sees at most N keys."""
    outcome = run("simulate", write(sizes={"heads": 2, "queries": 3, "tokens": 9}))
    assert "100.0%    none " in outcome.out
    assert "\nRecall: none, as no query sees more keys than it selects.\n" in outcome.out
    figures = json.loads(run("simulate", write(sizes={"heads": 2, "queries": 3, "tokens": 9}),
                             "--json").out)
    assert figures["recall"] is None
    assert figures["keys_read"] == 1
    assert figures["error_top"] < 1e-6


@pytest.mark.parametrize(("place", "value", "message"), [
    (("output_int", (1, 2, 3)), 12345, "query 2, output_int[3]: hardware 12345, golden model "),
    (("selected", (1, 0, 15)), 99, "query 0, selected[15]: hardware 99, golden model "),
    (("weights", (1, 1, 0)), -1, "query 1, weights[0]: hardware -1, golden model 65535"),
    (("distances", (1, 1, 0)), 7, "query 1, distances[0]: hardware 7, golden model "),
])
def test_different(simulated, run, write, place, value, message):
    simulated[place] = value
    # A difference in a later query and a later array does not hide the first.
    simulated["output_int", (1, 2, 7)] = 54321
    path = write()
    outcome = run("simulate", path)
    assert outcome.status == 1
    assert f"head 1: first difference in {message}" in outcome.out
    assert "What the hardware itself answered:" in outcome.out
    assert outcome.out.endswith("Not bit-exact: 1 of 2 heads differ from the golden model.\n")

    outcome = run("simulate", path, "--json")
    assert outcome.status == 1
    figures = json.loads(outcome.out)
    assert figures["bit_exact"] is False
    assert [head["bit_exact"] for head in figures["heads"]] == [True, False]
    assert figures["heads"][0]["mismatch"] is None
    mismatch = figures["heads"][1]["mismatch"]
    assert (mismatch["array"], mismatch["hardware"]) == (place[0], value)


def test_names_of_the_file(simulated, run, write):
    """A choice is reported under the indices that the file has."""
    simulated["output_int", (0, 1, 0)] = 12345
    outcome = run("simulate", write(), "--heads", 1, "--queries", "0,2", "--json")
    head, = json.loads(outcome.out)["heads"]
    assert head["head"] == 1
    assert head["mismatch"]["query"] == 2


def test_different_numbers_of_selected(tensors):
    golden = attention(**tensors(), config=Config.preset("tiny"), n=4)
    more = attention(**tensors(), config=Config.preset("tiny"), n=5)
    mismatch = report.first_mismatch(more, golden, 0, np.arange(3)) # type: ignore[arg-type]
    assert mismatch is not None
    assert (mismatch.query, mismatch.array, mismatch.element) == (0, "selected", 4)
    assert mismatch.golden == -1


def test_infinite_error(simulated, run, write):
    """Values of 0 have an exact output of 0; JSON knows no infinities."""
    simulated["output", (0, 0, 0)] = 1.0
    outcome = run("simulate", write(v=np.zeros((2, 20, 8), np.float32)), "--json")
    assert outcome.status == 0
    figures = json.loads(outcome.out)
    assert figures["error_reference_max"] is None
    assert figures["heads"][1]["error_reference_max"] == 0


def test_total(write):
    path = write()
    heads = [report.HeadPart(
        head=head, queries=3, keys=20, bit_exact=True, mismatch=None, cycles=30 + head,
        load_cycles=5, seconds=0.5, keys_read=0.5, recall=0.5 if head else math.nan,
        error_reference=0.25, error_reference_max=0.5 + head, error_top=0.125, error_top_max=0.5,
        error_method=0.01 * head, error_method_max=0.125) for head in (0, 1)]
    total = report.Report(heads).total
    assert total.queries == 6
    assert total.keys == Tensors.load(path).tokens
    assert total.cycles == 61
    assert total.seconds == 1
    assert (total.cycles_per_query, total.cycles_per_second) == (51 / 6, 61)
    assert (total.recall, total.error_reference_max, total.error_method) == (0.5, 1.5, 0.005)


def test_no_answer_is_not_equal(tensors):
    """Nothing to compare is no success."""
    golden = attention(**tensors(), config=Config.preset("tiny"), n=4)
    none = Tensors.check(**tensors()).select(queries=np.arange(0))
    with pytest.raises(ValueError, match=r"^there must be an answer to compare$"):
        report.compare(none, golden, golden) # type: ignore[arg-type]
