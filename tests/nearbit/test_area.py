# amaranth: UnusedElaboratable=no
"""`nearbit area`, and the model that it estimates by."""

import importlib.util
import json
import math
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from nearbit import area
from nearbit.area.synthesis import DEVICES, Resources, cell_verilog, count, synthesize, verilog
from nearbit_hw.attend.rescorer import Rescorer
from nearbit_hw.attend.value_accumulator import ValueAccumulator
from nearbit_hw.attend.value_store import ValueStore
from nearbit_hw.select.histogram_top_n import HistogramTopN
from nearbit_hw.verilog import generate
from nearbit_model.config import MEMORY_PRESETS, PRESETS, Config, Memory, Rescore


ROOT = Path(__file__).resolve().parents[2]
NAMES = {"cell", "score_array", "top_n", "softmax", "values", "divider", "key_store", "rest"}


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("area_script", ROOT / "benchmarks" / "area.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["area_script"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(benchmark):
    return json.loads(benchmark.RESULTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("target", area.TARGETS)
def test_json(run, target):
    outcome = run("area", "--preset", "icebreaker", "--target", target, "--json")
    assert outcome.status == 0
    found = json.loads(outcome.out)
    assert found["preset"] == "icebreaker"
    assert found["target"] == target
    assert found["config"] == PRESETS["icebreaker"].to_dict()
    assert set(found["blocks"]) == NAMES
    for block in found["blocks"].values():
        assert list(block) == list(area.QUANTITIES)
        assert all(isinstance(number, int) and number >= 0 for number in block.values())
    for quantity in area.QUANTITIES:
        parts = sum(block[quantity] for name, block in found["blocks"].items() if name != "cell")
        assert found["total"][quantity] == pytest.approx(parts, abs=len(NAMES))
    assert set(found["error_percent"]) == NAMES
    assert found["extrapolates"] == {}
    assert (found["total"]["dsps"] > 0) == (target != "ice40")


def test_rescorer(run):
    found = json.loads(run("area", "--preset", "hash64", "--json").out)
    assert set(found["blocks"]) == (NAMES - {"divider"}) | {"reciprocal", "rescorer"}
    assert found["blocks"]["rescorer"]["dsps"] == 64


def test_table(run):
    outcome = run("area", "--preset", "icebreaker")
    assert outcome.out.startswith("preset icebreaker on Lattice ECP5\n")
    assert re.search(r"^cell \(one of 4\) +\d+ ", outcome.out, re.MULTILINE)
    assert re.search(r"^total, without cell +[\d,]+ +[\d,]+ +\d+ +9 +[\d.]+ % *$", outcome.out,
                     re.MULTILINE)
    assert "extrapolates" not in outcome.out


def test_default(run):
    assert run("area").out.startswith("preset reference on Lattice ECP5\n")


def test_beyond(run, tmp_path):
    """What lies beyond the sweep is named, with the bounds."""
    config = PRESETS["icebreaker"].replace(lanes=256, capacity=4096)
    path = tmp_path / "wide.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    outcome = run("area", "--config", path, "--target", "ecp5")
    assert outcome.status == 0
    assert re.search(r"^The estimate extrapolates for score_array, top_n, key_store: lanes 256 "
                     r"\(the sweep has 1 to 64\); refine_lanes 256 \(the sweep has 1 to 64\)\.$",
                     outcome.out, re.MULTILINE)
    found = json.loads(run("area", "--config", path, "--json").out)
    assert found["extrapolates"]["score_array"] == {
        "lanes": {"value": 256, "least": 1, "most": 64}}


@pytest.mark.parametrize(("arguments", "message"), [
    ("--target nexus", ("Invalid value for '--target': 'nexus' "
     "is not one of 'ecp5', 'ice40', 'up5k', 'xc7'.")),
    ("--target ecp5 --preset big", "unknown preset 'big'; the presets are tiny, "),
    ("--config none.toml", "none.toml: No such file or directory"),
    ("--preset tiny --config none.toml", "--preset and --config exclude each other; "),
])
def test_bad_input(run, arguments, message):
    outcome = run("area", *arguments.split())
    assert outcome.status == 2
    assert outcome.out == ""
    assert outcome.err.startswith(f"nearbit: {message}")
    assert outcome.err.count("\n") == 1


def test_foreign_cell(run, tmp_path):
    path = tmp_path / "forced.toml"
    path.write_text(PRESETS["tiny"].replace(cell="generic").to_toml(), encoding="utf-8")
    outcome = run("area", "--config", path)
    assert outcome.status == 2
    assert outcome.err == (
        "nearbit: the configuration forces the cell 'generic', but the areas known for ecp5 are "
        "of 'ecp5'; leave cell out\n")
    path.write_text(PRESETS["tiny"].replace(cell="ecp5").to_toml(), encoding="utf-8")
    assert run("area", "--config", path).status == 0


@pytest.mark.parametrize("target", ["ice40", "up5k"])
def test_selection_without_its_memory(run, tmp_path, target):
    path = tmp_path / "histograms.toml"
    path.write_text(PRESETS["tiny"].replace(selection="histograms").to_toml(), encoding="utf-8")
    outcome = run("area", "--config", path, "--target", target)
    assert outcome.status == 2
    assert outcome.err == (
        "nearbit: the selection 'histograms' needs block RAM with two full ports, which "
        f"{target} does not have; take 'serial' or 'counters'\n")
    assert run("area", "--config", path, "--target", "ecp5").status == 0


@pytest.mark.parametrize("target", ["ice40", "up5k"])
def test_normalizer_without_multipliers(run, tmp_path, target):
    path = tmp_path / "reciprocal.toml"
    config = PRESETS["tiny"].replace(selection="serial")
    path.write_text(config.to_toml(), encoding="utf-8")
    outcome = run("area", "--config", path, "--target", target)
    assert outcome.status == 2
    assert outcome.err == ("nearbit: the normalizer 'reciprocal' needs multipliers of 18 bits, "
                           f"which {target} does not have; take 'divider'\n")
    path.write_text(config.replace(normalizer="divider").to_toml(), encoding="utf-8")
    assert run("area", "--config", path, "--target", target).status == 0


def test_fit_is_of_sweep(benchmark, results):
    """The committed model is what the committed sweep gives."""
    made, kept = benchmark.fit(results["results"]), area.model()
    assert made["targets"].keys() == kept["targets"].keys() == set(area.TARGETS)
    for target, blocks in made["targets"].items():
        without = set() if target == "ecp5" else {"reciprocal"}
        assert blocks.keys() == kept["targets"][target].keys() == area.BLOCKS.keys() - without
        for name, fit in blocks.items():
            other = kept["targets"][target][name]
            assert fit["range"] == other["range"]
            assert fit["points"] == other["points"]
            for quantity, coefficients in fit["coefficients"].items():
                assert coefficients == pytest.approx(other["coefficients"][quantity], rel=1e-4)
            assert fit["error_percent"]["mean"] == pytest.approx(
                other["error_percent"]["mean"], abs=0.2)


def test_document_is_of_results(benchmark, results):
    """The tables of the document are what the script makes of the committed results."""
    text = benchmark.DOCUMENT.read_text(encoding="utf-8")
    for name, table in benchmark.tables(results, area.model()["targets"]).items():
        assert f"<!-- {name}: benchmarks/area.py -->\n{table}\n<!-- end -->" in text, name


def test_mark(benchmark, monkeypatch):
    """A figure of other Verilog is marked, and not made again; one of the same stays as it is."""
    monkeypatch.setattr(benchmark, "texts", lambda *_: {"unit": ("module a;", [])})
    monkeypatch.setattr(benchmark, "synthesize", None)
    config = PRESETS["tiny"]
    current = benchmark.fingerprint({"unit": ("module a;", [])}, "ecp5")
    kept, old = ({"key": key, "luteq": 1} for key in (current, "0123456789abcdef"))
    assert benchmark.measure("cell", config, "ecp5", kept, place=True, mark=True) is kept
    assert benchmark.measure("cell", config, "ecp5", old, place=False, mark=True) == {
        **old, "earlier": True}


@pytest.mark.parametrize(("preset", "parts"), [
    ("tiny", 1), ("reference", 4), ("icebreaker", 1), ("head64", 1)])
def test_parts(preset, parts):
    """Where a part of the bins is found first, lanes are compared with each part."""
    config = PRESETS[preset]
    assert area.drivers(config, "top_n")["parts"] == parts
    assert area.features(config, "top_n", "ecp5").get("histograms parts", 0) == (
        config.lanes if parts > 1 else 0)


def test_units_reach_the_published_line(results):
    """LUT6 of 7-series units with the parts of BISMO's, at 64 and 256 bits."""
    units = {found["bits"]: found for found in results["units"] if found["cell"] == "xc7"}
    for bits in (64, 256):
        assert units[bits]["bismo"] == pytest.approx(1.17 * bits + 44, abs=0.1)
        assert units[bits]["unit"]["luteq"] <= units[bits]["bismo"]


def test_terms():
    """Every block has terms that are finite, for every preset that has the block."""
    for config in PRESETS.values():
        for block in area.parts(config):
            terms = area.features(config, block, "ecp5")
            # Selections have names of their own.
            assert terms.get("one", terms.get(f"{config.selection} one", 0)) >= 1
            assert all(math.isfinite(value) and value >= 0 for value in terms.values())


def test_least_squares(benchmark):
    """Exact data gives its coefficients back; what would be negative is left out."""
    terms = benchmark.np.array([[1, x, y] for x in (1, 2, 5) for y in (1, 3, 4)], float)
    found = benchmark.least_squares(terms, terms @ [5, 3, 2])
    assert found == pytest.approx([5, 3, 2])
    found = benchmark.least_squares(terms, terms @ [50, 3, -2])
    assert found[2] == 0
    assert found.min() >= 0


def cells_of(component, target):
    return synthesize(verilog(component, target), target)["top"]


@pytest.mark.parametrize(("target", "multiplier"), [
    ("ecp5", "MULT18X18D"), ("up5k", "SB_MAC16"),
    pytest.param("xc7", "DSP48E1", marks=pytest.mark.slow)])
def test_multipliers(target, multiplier):
    """One for each lane and one for the scale; one for each element of a rescore key."""
    accumulator = ValueAccumulator(capacity=64, beats=2, value_lanes=2, value_bits=8,
                                   weight_bits=16, top_n=8)
    assert cells_of(accumulator, target)[multiplier] == 3
    rescorer = Rescorer(capacity=64, distance_max=8, head_dim=4, lanes=2, element_bits=8,
                        queries=8)
    assert cells_of(rescorer, target)[multiplier] == 2


@pytest.mark.parametrize(("target", "ram", "number"), [
    ("ecp5", "DP16KD", 2), ("ice40", "SB_RAM40_4K", 3), ("up5k", "SB_RAM40_4K", 3)])
def test_memories(target, ram, number):
    """256 rows of 32 bits and 16 of scale: block RAM, and no LUT for the words."""
    cells = cells_of(ValueStore(capacity=256, value_dim=4, value_lanes=4, value_bits=8), target)
    assert cells[ram] == number
    assert count(cells, target).luteq < 64


@pytest.mark.parametrize("changes", [
    {}, {"selection_block": 4096}, {"lanes": 4, "refine_lanes": 16}, {"key_bits": 33, "top_n": 7}])
def test_memories_of_blocks(changes):
    """As many bits as the memories that are there have."""
    config = Config(**{"key_bits": 64, "value_dim": 4, "capacity": 131072, "lanes": 1,
                       "value_lanes": 4, "top_n": 64, "refine_lanes": 2, "selection": "histograms",
                       "selection_block": 1024, **changes})
    dut = HistogramTopN(key_bits=config.key_bits, lanes=config.lanes, capacity=config.capacity,
                        top_n=config.top_n, refine_lanes=config.refine_lanes,
                        lead=1 + config.score_latency(), block=config.selection_block)
    found = re.findall(r"^ *reg \[(\d+):0\] \w+ \[(\d+):0\];$", generate(dut, "top"), re.MULTILINE)
    assert len(found) > 7
    counted, whole = (
        sum(width * words for width, words in area.BLOCKS["top_n"].memories(each))
        for each in (config, config.replace(selection_block=0)))
    assert counted == pytest.approx(
        sum((int(width) + 1) * (int(last) + 1) for width, last in found), rel=0.1)
    assert counted < whole / 5


def test_blocks_are_not_fitted(run, tmp_path):
    path = tmp_path / "blocks.toml"
    path.write_text(PRESETS["tiny"].replace(
        selection="histograms", capacity=512, top_n=4, refine_lanes=8,
        selection_block=512).to_toml(), encoding="utf-8")
    outcome = run("area", "--config", path)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == ("nearbit: the logic of a selection with selection_block was not fitted; "
                           "set it to 0 to estimate all other blocks\n")


CACHED = PRESETS["tiny"].replace(memory=Memory(heads=2, page_tokens=32),
                                 rescore=Rescore(head_dim=4, lanes=2))


def test_memory_has_no_model(run, tmp_path):
    path = tmp_path / "memory.toml"
    path.write_text(CACHED.to_toml(), encoding="utf-8")
    known = [entry["preset"] for entry in area.model()["memory"] if entry["target"] == "ecp5"]
    for target, synthesized in (("ecp5", f"only {', '.join(known)}"), ("xc7", "none")):
        outcome = run("area", "--config", path, "--target", target)
        assert (outcome.status, outcome.out) == (2, "")
        assert outcome.err == (
            f"nearbit: of cores that read a cache in memory there is no model, and on {target} "
            f"{synthesized} has been synthesized; --check synthesizes this one (minutes)\n")


@pytest.mark.parametrize("index", range(len(area.model()["memory"])))
def test_known_memories(run, results, index):
    """Presets are those of the committed syntheses, with all blocks that they have."""
    entry = area.model()["memory"][index]
    preset, config = entry["preset"], MEMORY_PRESETS[entry["preset"]]
    assert Config.from_dict(entry["config"]) == config
    made = {name: results["memory"][index][name] for name in ("seconds", "yosys")}
    assert {**entry, **made} == results["memory"][index]
    outcome = run("area", "--preset", preset, "--target", entry["target"], "--json")
    assert outcome.status == 0
    found = json.loads(outcome.out)
    assert found["counted"]
    assert set(found["blocks"]) == set(area.parts(config))
    assert found["blocks"] == entry["blocks"]
    assert "nothing is estimated" in run("area", "--preset", preset, "--target",
                                         entry["target"]).out


def test_check_of_a_memory(run, tmp_path, monkeypatch):
    """What is synthesized is all there is, and each unit belongs to a block."""
    def synthesized(text, target, *, top="top", keep=(), **_):
        return {top: Counter({"LUT4": 1}), **{name: Counter({"LUT4": 2}) for name in keep}}

    monkeypatch.setattr("nearbit.area.synthesis.synthesize", synthesized)
    path = tmp_path / "memory.toml"
    path.write_text(CACHED.to_toml(), encoding="utf-8")
    outcome = run("area", "--config", path, "--check", "--json")
    assert outcome.status == 0
    found = json.loads(outcome.out)
    assert found["counted"]
    assert "synthesized" not in found
    assert {name: block["luteq"] for name, block in found["blocks"].items()} == {
        "cell": 1, "score_array": 2, "top_n": 4, "softmax": 2, "values": 2, "reciprocal": 2,
        "rescorer": 2, "codes": 6, "rows": 20, "tables": 4, "appender": 2, "rest": 1}


def test_count():
    assert count({"LUT4": 3, "CCU2C": 2, "TRELLIS_DPR16X4": 1, "TRELLIS_FF": 5, "DP16KD": 1,
                  "MULT18X18D": 2}, "ecp5") == Resources(3 + 4 + 6, 5, 1, 2)
    assert count({"LUT6": 1, "LUT2": 1, "LUT6_2": 1, "CARRY4": 1, "FDRE": 2, "RAMB36E1": 1},
                 "xc7") == Resources(3, 2, 2, 0)
    with pytest.raises(ValueError, match=r"^Lattice ECP5: a cell PFUMX, of which nobody knows"):
        count({"PFUMX": 1}, "ecp5")


def test_logic_cells():
    """On iCE40 a flip-flop whose LUT drives nothing else shares its logic cell."""
    cells = synthesize(cell_verilog(Config(key_bits=16, value_dim=8, capacity=64, value_lanes=8),
                                    "ice40"), "ice40")["top"]
    assert cells["SB_LUT4"] <= cells["logic cells"] <= cells["SB_LUT4"] + sum(
        number for kind, number in cells.items() if kind.startswith("SB_DFF")) + cells["SB_CARRY"]


def test_packed_logic_cells(results):
    """What nextpnr packs the presets' blocks into is what the netlists were counted to."""
    compared = [
        (result["luteq"], sum(unit["packed"] for unit in result["placed"].values()))
        for result in results["results"]
        if result["target"] == "ice40" and result.get("placed")
        and all("packed" in unit for unit in result["placed"].values())]
    assert len(compared) >= 10
    for counted, packed in compared:
        assert counted == pytest.approx(packed, rel=0.03, abs=4)


def test_devices():
    assert tuple(DEVICES) == area.TARGETS


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ecp5", "ice40"])
def test_check(run, tmp_path, target):
    """The whole preset, synthesized: each block near its estimate, as the errors promise."""
    path = tmp_path / "tiny.toml"
    config = PRESETS["tiny"]
    if target == "ice40":
        config = config.replace(normalizer="divider", selection="serial")
    path.write_text(config.to_toml(), encoding="utf-8")
    outcome = run("area", "--config", path, "--target", target, "--check", "--json")
    assert outcome.status == 0
    found = json.loads(outcome.out)
    real = found["synthesized"]
    assert set(real["blocks"]) == set(found["blocks"])
    assert real["total"]["luteq"] == sum(
        block["luteq"] for name, block in real["blocks"].items() if name != "cell")
    assert found["total"]["luteq"] == pytest.approx(real["total"]["luteq"], rel=0.15)
    assert found["total"]["brams"] == real["total"]["brams"]
    assert found["total"]["dsps"] == real["total"]["dsps"]


def test_check_of_rescoring(monkeypatch):
    """Blocks of the check are those of the estimate, also where a core has more units."""
    config = PRESETS["tiny"].replace(rescore=Rescore(head_dim=4, lanes=2, shared=True))
    seen = {}

    def synthesized(text, target, *, top="top", keep=(), **_):
        seen[top] = list(keep)
        return {top: Counter({"LUT4": 1}), **{name: Counter({"LUT4": 2}) for name in keep}}

    monkeypatch.setattr("nearbit.area.synthesis.synthesize", synthesized)
    found = area.check(config, "ecp5")
    assert list(found.blocks) == area.parts(config)
    assert found.blocks["top_n"].luteq == 2 * config.queries
    assert found.blocks["rescorer"].luteq == 4
    assert found.blocks["rest"].luteq == 1
    assert "core.rescore_key_store" in seen["core"]
