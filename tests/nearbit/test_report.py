import json
from types import SimpleNamespace

import numpy as np
import pytest

from nearbit import report
from nearbit.tensors import Tensors
from nearbit_model.attention import attend, attention
from nearbit_model.config import Config
from nearbit_sim import simulation


@pytest.fixture
def simulated(monkeypatch):
    """Replace the hardware by the golden model, spoilt as the test says."""
    spoilt = {}

    def simulate(plan, *, engine, vcd, progress, timing):
        golden = attend(plan.prepared)
        answers = {name: getattr(golden, name).copy() for name in
                   ("output", "output_int", "selected", "distances", "weights")}
        for (name, index), value in spoilt.items():
            answers[name][index] = value
        cycles = np.arange(1, len(golden.output) + 1) * 100
        return SimpleNamespace(**answers, head_cycles=cycles, cycles=int(cycles.sum()),
                               head_seconds=cycles / 1000, build_seconds=1.5,
                               load_cycles=np.full(plan.prepared.kv_heads, 10),
                               memory_use=None)

    monkeypatch.setattr(simulation, "run", simulate)
    return spoilt


def test_equal(simulated, run, write):
    outcome = run("simulate", write())
    assert outcome.status == 0
    assert "preset tiny: n 16, sink 0, recent 0; compiled engine" in outcome.out
    assert outcome.out.endswith("Bit-exact: the hardware's answers to all 6 queries equal the "
                                "golden model's.\n")


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
        load_cycles=5, seconds=0.5, recall=0.5 * head, error_reference=0.25,
        error_reference_max=0.5 + head,
        error_method=0.01 * head, error_method_max=0.125) for head in (0, 1)]
    total = report.Report(heads).total
    assert total.queries == 6
    assert total.keys == Tensors.load(path).tokens
    assert total.cycles == 61
    assert total.seconds == 1
    assert (total.cycles_per_query, total.cycles_per_second) == (51 / 6, 61)
    assert (total.recall, total.error_reference_max, total.error_method) == (0.25, 1.5, 0.005)


def test_no_answer_is_not_equal(tensors):
    """Nothing to compare is no success."""
    golden = attention(**tensors(), config=Config.preset("tiny"), n=4)
    none = Tensors.check(**tensors()).select(queries=np.arange(0))
    with pytest.raises(ValueError, match=r"^there must be an answer to compare$"):
        report.compare(none, golden, golden) # type: ignore[arg-type]
