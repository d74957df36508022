"""`nearbit simulate --report`: one page, which needs nothing else."""

import dataclasses
import itertools
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import nearbit
from nearbit.report import compare, explain, figures, page
from nearbit.tensors import Tensors
from nearbit_model import reference
from nearbit_model.attention import attend
from nearbit_model.config import Config, Rescore
from nearbit_model.transfers import Plan
from nearbit_sim import simulation


class Reader(HTMLParser):
    """Text, attributes and the nesting of tags."""

    VOID = ("meta", "link", "br")

    def __init__(self, text):
        super().__init__()
        self.attributes, self.open, self.cells, self.rows = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells = []
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attributes):
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "tr":
            self.rows.append(self.cells)

    def handle_data(self, text):
        if {"td", "th"} & set(self.open[-4:]):
            self.cells[-1] += text


def solve(tensors, config=None, **options):
    """Simulate, as the command does, on the preset `tiny` unless another is given."""
    hardware = nearbit.simulate(
        tensors.q, tensors.k, tensors.v, config or Config.preset("tiny"), causal=tensors.causal,
        qpos=tensors.qpos, logit_scale=tensors.logit_scale, **options)
    return hardware, compare(tensors, attend(hardware.prepared), hardware)


def rendered(tensors, hardware, report, file="heads.npz", **options):
    return page.render(file, "preset tiny", tensors, report, hardware,
                       Plan(hardware.prepared).predict(), **options)


@pytest.fixture
def problem(tensors):
    """A problem of grouped heads with several queries."""
    return Tensors.check(**tensors(heads=4, kv_heads=2, queries=5, tokens=30),
                         causal=np.array(True), qpos=np.array([0, 29, 7, 20, 24]))


def test_page(run, write, tmp_path):
    folder = tmp_path / "new" / "folder"
    outcome = run("simulate", write(), "--report", folder)
    assert outcome.status == 0, outcome.err
    assert outcome.out.endswith(f"Report: {folder / 'report.html'}\n")
    assert [file.name for file in folder.iterdir()] == ["report.html"]
    first = (folder / "report.html").read_bytes()
    assert run("simulate", write(), "--report", folder, "--json").status == 0
    assert (folder / "report.html").read_bytes() == first


def test_self_contained(problem):
    text = rendered(problem, *solve(problem))
    reader = Reader(text)
    names = [value for name, value in reader.attributes if name == "id"]
    assert len(names) == len(set(names))
    for name, value in reader.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert value.startswith(("#", "data:")), value
            assert not value.startswith("#") or value[1:] in names
        elif not name.startswith("xmlns"):
            assert "://" not in (value or "")
    assert all(name in names for name in re.findall(r"url\(#([^)]*)\)", text))
    assert not re.search(r"url\([^#]|@import|<script", text)
    # Names of namespaces, which nobody fetches.
    assert set(re.findall(r'https?://[^"<\s]*', text)) <= {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_figures(problem):
    hardware, report = solve(problem)
    reader = Reader(rendered(problem, hardware, report))
    assert "Cycle-exact" in rendered(problem, hardware, report)
    rows = {row[0]: row for row in reader.rows if len(row) == 12}
    for part, name in [*((head, str(head.head)) for head in report.heads),
                       (report.total, "all")]:
        row = rows[name]
        assert row[1:6] == ["exact", f"{part.cycles:,}", f"{part.cycles:,}",
                            f"{part.load_cycles:,}", f"{part.cycles_per_query:,.1f}"]
        assert row[6:8] == [f"{part.recall:.1%}", f"{part.keys_read:.1%}"]
        assert row[9:] == [f"{part.error_reference:.1%} ({part.error_reference_max:.1%})",
                           f"{part.error_top:.1%} ({part.error_top_max:.1%})",
                           f"{part.error_method:.2%} ({part.error_method_max:.2%})"]


def test_prediction(problem):
    hardware, _ = solve(problem)
    prediction = Plan(hardware.prepared).predict()
    assert prediction.cycles == hardware.cycles
    for name in ("head_cycles", "query_cycles", "load_cycles"):
        np.testing.assert_array_equal(getattr(prediction, name), getattr(hardware, name))
    answers = [prediction.timeline.answers[index] for index in np.flatnonzero(
        prediction.heads >= 0)]
    assert len(answers) == 4 * 5


@pytest.mark.parametrize("options", [{}, {"n": 3, "sink": 1, "recent": 2}])
def test_explanation(problem, options):
    hardware, _ = solve(problem, **options)
    whole = np.zeros((4, 5, 30))
    for head, rows, weights in reference.weights(problem.q, problem.k,
                                                 counts=hardware.prepared.counts):
        whole[head, rows] = weights
    for head, explained in enumerate(explain.explain(problem, hardware)):
        maps = explained.maps
        assert maps.width == 1
        np.testing.assert_allclose(maps.reference, whole[head], atol=1e-6)
        np.testing.assert_allclose(np.nansum(maps.shares, axis=1), 1, atol=1e-6)
        covered = []
        for query in range(5):
            chosen = hardware.selected[head, query]
            chosen = chosen[chosen >= 0]
            assert set(np.flatnonzero(~np.isnan(maps.shares[query]))) == set(chosen)
            covered.append(whole[head, query, chosen].sum())
        assert explained.covered == pytest.approx(np.mean(covered))
        assert [told.reason for told in explained.queries] == [
            "smallest error", "median error", "largest error"][:len(explained.queries)]
        for told in explained.queries:
            assert told.covered == pytest.approx(covered[told.query])
            used = hardware.weights[head, told.query, :told.selected]
            for place, key in enumerate(told.keys):
                assert key.index == hardware.selected[head, told.query, place]
                assert key.distance == hardware.distances[head, told.query, place]
                assert key.share == pytest.approx(used[place] / used.sum())
                assert key.reference_share == pytest.approx(whole[head, told.query, key.index])
            chosen = set(hardware.selected[head, told.query].tolist())
            for key in told.missed:
                assert key.index not in chosen
                assert key.index < told.seen
                assert key.reference_rank <= 1 + (whole[head,
                                                        told.query] >= key.reference_share).sum()


HASH = Config.preset("tiny").replace(
    top_n=64, rescore=Rescore(head_dim=8, lanes=4, element_bits=12, shared=True))
TABLE = ["token", "selectedas", "distance(bits)", "dot-productscore", "weight",
         "exactattention's weight", "itsrank"]


@pytest.mark.parametrize("shared", [False, True])
def test_rescoring(problem, shared):
    """With the method hash: where a key comes from, its score, and the stage that made it."""
    hardware, report = solve(problem, HASH, method="hash", n=3, sink=2, recent=1, shared=shared)
    assert report.total.bit_exact
    text = rendered(problem, hardware, report, codes="of a test")
    assert "Cycle-exact" in text
    assert ">score them exactly</text>" in text
    assert ("by the sum of their distances" in text) is shared
    reader = Reader(text)
    conditions = {row[0]: row[1] for row in reader.rows if len(row) == 2}
    assert conditions["Method"].startswith("HashAttention: ")
    assert conditions["Method"].endswith("the heads of a group") is shared
    assert conditions["Codes"] == "8 bits, of a test"
    assert conditions["Keys"].endswith("8 elements of 12 bits for rescoring")
    assert "Softmax logit_scale" not in conditions
    assert "multiplies 4 elements" in conditions["Accelerator"]
    title = [*TABLE[:2], "sum ofdistances" if shared else TABLE[2], *TABLE[3:]]
    assert title in reader.rows

    told = [query for head in explain.explain(problem, hardware) for query in head.queries]
    tables = [row for row in reader.rows if len(row) == 7 and row != title]
    keys = [key for query in told for key in query.keys]
    assert [row[:4] for row in tables] == [
        [str(key.index), key.origin, str(key.distance), f"{key.score:.2f}"] for key in keys]
    assert {key.origin for key in keys} == {"rank", "sink", "recent"}
    for head, explained in enumerate(explain.explain(problem, hardware)):
        for query in explained.queries:
            assert [key.share for key in query.keys] == sorted(
                (key.share for key in query.keys), reverse=True)
            assert all(key.score is None and key.origin is None for key in query.missed)
            for key in query.keys:
                last = problem.qpos[query.query]
                assert key.origin == ("sink" if key.index < 2 else
                                      "recent" if key.index == last else "rank")
                real = problem.q[head, query.query] @ problem.k[head // 2, key.index] / np.sqrt(8)
                assert key.score == pytest.approx(real, abs=0.005)


def test_ranked_rescoring(problem):
    """Where no key is always selected, nothing is said of where keys come from."""
    hardware, report = solve(problem, HASH, method="hash", n=3)
    reader = Reader(rendered(problem, hardware, report))
    assert [name for name in TABLE if name != "selectedas"] in reader.rows


def test_all_keys(problem):
    hardware, report = solve(problem, HASH, method="hash", n=30)
    assert "here the accelerator also selects every token" in rendered(problem, hardware, report)
    hardware, report = solve(problem, HASH, method="hash", n=29)
    text = rendered(problem, hardware, report)
    assert "here the accelerator also selects every token" not in text


def test_timeline_bars_do_not_overlap(problem):
    """Where a stage takes up the next query before it is done, the bar ends there."""
    hardware, _ = solve(problem)
    answers = Plan(hardware.prepared).predict().timeline.answers
    figure = figures.timeline(answers, [""] * len(answers))
    bars = {}
    for patch in figure.axes[0].patches:
        bars.setdefault(patch.get_y(), []).append((patch.get_x(), patch.get_width()))
    assert len(bars) == 4 * 2 + 3 # of two queries each: scoring, merging, scanning, emitting
    for row in bars.values():
        row.sort()
        for (start, width), (following, _) in itertools.pairwise(row):
            assert width > 0
            assert start + width <= following


def test_single_query_of_a_single_key(tensors):
    problem = Tensors.check(**tensors(heads=1, queries=1, tokens=1))
    reader = Reader(rendered(problem, *solve(problem)))
    assert ["0", "100.0%", "100.0%", "1"] in [[row[0], *row[2:]] for row in reader.rows
                                              if len(row) == 5]


def test_large(monkeypatch, problem):
    """What is too large is left out, and the page says so."""
    monkeypatch.setattr(explain, "MAP_TOKENS", 10)
    monkeypatch.setattr(explain, "MAP_QUERIES", 3)
    hardware, report = solve(problem)
    maps = explain.explain(problem, hardware)[0].maps
    assert (maps.width, maps.shares.shape, maps.reference.shape) == (3, (3, 10), (3, 10))
    assert maps.queries.tolist() == [0, 2, 4]
    np.testing.assert_allclose(np.nansum(maps.shares, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(maps.reference.sum(axis=1), 1, atol=1e-6)
    whole = rendered(problem, hardware, report)
    assert "3 neighbouring tokens" in whole
    assert "the maps have 3 of the 5 queries" in whole
    assert "tables of heads" not in whole
    monkeypatch.setattr(page, "_ROOM", 90_000)
    short = rendered(problem, hardware, report)
    assert "the maps and tables of heads 2-3, " in short or "of heads 1-3, " in short
    assert len(short) < len(whole)
    Reader(short)


def test_broken_hardware(problem):
    """Answers that differ, keys that are not there, selections that are empty."""
    hardware, _ = solve(problem)
    broken = dataclasses.replace(
        hardware, selected=hardware.selected + 20, weights=hardware.weights * 0,
        output_int=hardware.output_int + 1)
    text = rendered(problem, broken, compare(problem, attend(hardware.prepared), broken))
    assert "Not bit-exact" in text
    assert "head 3: query 0, selected[0]: hardware 20, golden model 0" in text
    outputs = dict(hardware.outcome.outputs)
    outputs["o_result"] = dataclasses.replace(
        outputs["o_result"], cycles=outputs["o_result"].cycles + 1)
    late = dataclasses.replace(hardware, outcome=dataclasses.replace(
        hardware.outcome, outputs=outputs))
    assert "Not cycle-exact" in rendered(problem, late, compare(
        problem, attend(hardware.prepared), late))
    for width in (0, 16):
        nothing = dict.fromkeys(("selected", "distances", "weights"),
                                np.full((4, 5, width), -1))
        empty = dataclasses.replace(hardware, **nothing)
        Reader(rendered(problem, empty, compare(problem, attend(hardware.prepared), empty)))


def test_names_are_escaped(problem):
    hardware, report = solve(problem)
    text = rendered(problem, hardware, report, file="<b>&\"'.npz")
    assert "<b>" not in text
    assert "&lt;b&gt;&amp;" in text


def test_import_is_quick():
    """Neither library is loaded by those who ask for no report."""
    program = ("import sys, nearbit, nearbit.cli, nearbit.report; "
               "print({'jinja2', 'matplotlib'} & set(sys.modules))")
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True,
                          encoding="utf-8").stdout == "set()\n"


@pytest.fixture
def _nothing_is_simulated(monkeypatch):
    def simulate(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(simulation, "run", simulate)


@pytest.mark.usefixtures("_nothing_is_simulated")
@pytest.mark.parametrize(("name", "message"), [
    ("file", "{} is a file, not a folder; give another name"),
    ("file/new/folder", "cannot make the folder {}: Not a directory"),
    ("taken", "cannot write {}/report.html: it is a directory"),
    ("x" * 300, "cannot make the folder {}: File name too long"),
])
def test_bad_folder(run, write, tmp_path, name, message):
    (tmp_path / "file").write_text("kept")
    (tmp_path / "taken" / "report.html").mkdir(parents=True)
    path = write()
    before = sorted(tmp_path.rglob("*"))
    outcome = run("simulate", path, "--report", tmp_path / name)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == f"nearbit: {message.format(tmp_path / name)}\n"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("_nothing_is_simulated")
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_forbidden_folder(run, write, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    assert run("simulate", write(), "--report", folder).err == (
        f"nearbit: cannot write {folder / 'report.html'}: Permission denied\n")


@pytest.mark.usefixtures("_nothing_is_simulated")
def test_interruption_leaves_nothing(run, write, tmp_path):
    path = write()
    assert run("simulate", path, "--report", tmp_path / "new" / "folder").status == 130
    assert list(tmp_path.iterdir()) == [path]
    kept = tmp_path / "kept"
    kept.mkdir()
    assert run("simulate", path, "--report", kept).status == 130
    assert list(kept.iterdir()) == []
