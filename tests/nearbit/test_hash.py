"""`nearbit simulate --method hash` on real hardware: the compiled engine on one small core."""

import json

import numpy as np
import pytest

from nearbit_model import reference
from nearbit_model.attention import ORIGINS
from nearbit_model.mapping import Mapping


GROUPS = {"heads": 4, "kv_heads": 2, "queries": 5, "tokens": 30}
FEW = ["--sink", 2, "--recent", 3, "--n", 4]


@pytest.fixture
def simulate(run, write, hash_options, tmp_path):
    """Run the method hash on a file of these sizes; return figures and results."""
    def run_hash(*options, sizes=None, **arrays):
        path = write(sizes=sizes or GROUPS, **arrays)
        out = tmp_path / "out.npz"
        outcome = run("simulate", path, *hash_options, *options, "--json", "--out", out)
        assert (outcome.status, outcome.err) == (0, "")
        figures = json.loads(outcome.out)
        assert figures["bit_exact"] is True
        with np.load(path) as given, np.load(out) as results:
            return figures, dict(given), dict(results)

    return run_hash


def published(distances, *, n, sink, recent):
    """The rule as published: exclude, rank, add. A list of sets, one for each query."""
    chosen = []
    for row in distances.tolist():
        always = {*range(sink), *range(len(row) - recent, len(row))}
        ranked = sorted(set(range(len(row))) - always, key=lambda key: (row[key], -key))
        chosen.append(always | set(ranked[:n]))
    return chosen


def differing(q, k):
    """Bits in which the signs differ: [queries, tokens]."""
    return ((q > 0)[:, None] != (k > 0)[None]).sum(axis=2)


@pytest.mark.parametrize("shared", [False, True])
def test_results(simulate, shared):
    figures, given, results = simulate(*FEW, *["--shared"] * shared)
    assert {name: figures[name] for name in (
        "method", "codes", "shared", "n", "sink", "recent", "preset")} == {
        "method": "hash", "codes": "sign", "shared": shared, "n": 4, "sink": 2, "recent": 3,
        "preset": None}
    assert 0 < figures["error_method"] <= figures["error_method_max"] < 0.02

    distances = np.array([differing(q, given["k"][head // 2])
                          for head, q in enumerate(given["q"])])
    if shared:
        distances = np.repeat(distances[::2] + distances[1::2], 2, axis=0)
    for head in range(4):
        assert [set(keys) for keys in results["selected"][head].tolist()] == published(
            distances[head], n=4, sink=2, recent=3)
    assert np.array_equal(results["distances"], np.take_along_axis(
        distances, results["selected"], axis=2))
    expected = np.select([results["selected"] < 2, results["selected"] >= 27],
                         [ORIGINS.index("sink"), ORIGINS.index("recent")], ORIGINS.index("rank"))
    assert np.array_equal(results["origins"], expected)

    # Scores are in units of rounded queries and keys, one unit for all keys of a query.
    real = np.take_along_axis(given["q"] @ given["k"].repeat(2, axis=0).transpose(0, 2, 1),
                              results["selected"], axis=2)
    unit = (real * results["scores"]).sum(axis=2) / (results["scores"] ** 2).sum(axis=2)
    assert (unit > 0).all()
    assert np.abs(real - unit[..., None] * results["scores"]).max() < 0.01
    # The integers drop less than a 256th of an octave.
    octaves = (real - real.max(axis=2, keepdims=True)) / np.sqrt(8) * np.log2(np.e)
    assert np.abs(results["weights"] / 65535 / 2 ** octaves - 1).max() < 0.01


SIZES = [
    GROUPS,
    {"heads": 2, "kv_heads": 1, "queries": 7, "tokens": 64},
    {"heads": 3, "queries": 3, "tokens": 17},
    {"heads": 6, "kv_heads": 2, "queries": 4, "tokens": 9},
]


@pytest.mark.parametrize(("sizes", "options"), [
    *((sizes, options) for sizes in SIZES for options in ([], ["--heads", "-1:", "--queries", 2])),
    # Heads of a group that are as many as the core has queries.
    *((sizes, ["--shared"]) for sizes in SIZES[:2]),
    (GROUPS, ["--shared", "--heads", "2-3"]),
])
@pytest.mark.parametrize("causal", [False, True])
def test_bit_exact(simulate, sizes, causal, options):
    positions = np.random.default_rng(0).integers(0, sizes["tokens"], sizes["queries"])
    figures, _, _ = simulate(*FEW, *options, sizes=sizes, causal=causal, qpos=positions)
    assert figures["causal"] is causal


def test_dense(simulate):
    """All keys: exact attention, but for rounding; the same, however they are asked for."""
    figures, given, dense = simulate("--dense")
    assert (figures["n"], figures["sink"], figures["recent"]) == (30, 0, 0)
    assert figures["recall"] is None # There is no choice.
    assert figures["error_reference"] == pytest.approx(figures["error_method"])
    assert 0 < figures["error_reference"] <= figures["error_reference_max"] < 0.02
    error = reference.relative_error(dense["output"], reference.attention(
        given["q"], given["k"], given["v"]))
    assert figures["error_reference_max"] == pytest.approx(error.queries.max())
    _, _, ranked = simulate("--n", 30, "--sink", 0, "--recent", 0)
    for name, array in dense.items():
        assert np.array_equal(ranked[name], array)
    # More than there are, in parts: they overlap, and still every key is there once.
    _, _, forced = simulate("--n", 10, "--sink", 12, "--recent", 20)
    for name in set(dense) - {"origins"}:
        assert np.array_equal(forced[name], dense[name])
    assert np.array_equal(np.unique(forced["origins"]), [1, 2])
    _, _, together = simulate("--dense", "--shared")
    assert np.array_equal(together["output_int"], dense["output_int"])


@pytest.mark.parametrize("options", [
    {}, {"key_heads": 4}, {"hidden": (16,)}, {"hidden": (16, 5), "key_heads": 4},
])
def test_learned_codes(simulate, learned, options):
    path = learned(**options)
    figures, given, results = simulate(*FEW, "--codes", path)
    assert figures["codes"] == ("layers" if "hidden" in options else "linear")
    mapping = Mapping.load(path)
    q_codes, k_codes = mapping.query_codes(given["q"]), mapping.key_codes(given["k"])
    distances = np.bitwise_count(q_codes[:, :, None, 0]
                                 ^ k_codes.repeat(4 // len(k_codes), axis=0)[:, None, :, 0])
    for head in range(4):
        assert [set(keys) for keys in results["selected"][head].tolist()] == published(
            distances[head], n=4, sink=2, recent=3)
    # A choice of heads takes their part of the mapping.
    _, _, part = simulate(*FEW, "--codes", path, "--heads", "1,3")
    for name in ("output_int", "selected", "distances", "scores", "weights"):
        assert np.array_equal(part[name], results[name][[1, 3]])


def test_kinds_of_codes(simulate):
    found = [simulate(*FEW, *options)[2]["selected"] for options in (
        [], ["--codes", "sign"], ["--codes", "hadamard"], ["--codes", "random"])]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[1], found[2])
    assert not np.array_equal(found[2], found[3])


@pytest.mark.parametrize(("options", "n"), [
    (["--heavy", 0.1], 3), (["--heavy", 0.999], 29), (["--heavy", 1], 30), (["--heavy", 1e-9], 1),
    ([], 1),
])
def test_budget(simulate, options, n):
    """A share of all keys, rounded down, and at least one."""
    figures, _, _ = simulate(*options, "--sink", 1, "--recent", 1)
    assert figures["n"] == n


def test_both_methods(run, write, hash_options, simulate):
    """The same core weights by distance as well."""
    path = write(sizes=GROUPS)
    outcome = run("simulate", path, *hash_options[2:], *FEW, "--json")
    assert outcome.status == 0
    figures = json.loads(outcome.out)
    assert figures["bit_exact"] is True
    assert (figures["method"], figures["codes"]) == ("had", None)
    assert figures["error_reference"] > simulate(*FEW)[0]["error_reference"]


def test_page_names_the_codes(run, write, hash_options, learned, tmp_path):
    codes = learned()
    for options, told in (([], "the signs of queries and keys"),
                          (["--codes", "random"], "random"),
                          (["--codes", codes], f"linear, of {codes}")):
        assert run("simulate", write(sizes=GROUPS), *hash_options, *FEW, *options, "--report",
                   tmp_path).status == 0
        assert f"<td>8 bits, {told}</td>" in (tmp_path / "report.html").read_text()


def test_table(run, write, hash_options):
    outcome = run("simulate", write(sizes=GROUPS), *hash_options, *FEW, "--shared", "--codes",
                  "hadamard")
    assert outcome.status == 0
    assert outcome.out.splitlines()[1] == (
        f"method hash, codes hadamard, shared, {hash_options[-1]}: n 4, sink 2, recent 3")
