# amaranth: UnusedElaboratable=no
"""The documents say what is so."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from amaranth.lib import data, wiring

import nearbit
from nearbit.cli.app import app
from nearbit_hw.layouts import CacheError, Error
from nearbit_model.config import Config, Rescore
from nearbit_model.cycles import steady


ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md")])


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def first_column(document: str, heading: str) -> set[str]:
    """The code in the first column of the first table after a text."""
    _, found, rest = (ROOT / document).read_text(encoding="utf-8").partition(heading)
    assert found
    table = re.search(r"(?:^\|.*\n)+", rest, re.MULTILINE)
    assert table is not None
    return {name for row in table[0].splitlines()
            for name in re.findall(r"`(\w+)`", row.split("|")[1])}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(document):
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"),
                  flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)#]+)", text):
        if not link.startswith("https://"):
            assert (document.parent / link).exists(), link


def test_paths_of_architecture():
    """The files and folders that it names are there."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    paths = re.findall(r"`([\w.]+/[\w./]*)`", text)
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_readme_example(capsys):
    example, = blocks("README.md", "python")
    exec(compile(example, "README.md", "exec"), {})
    assert re.fullmatch(r"\d+ cycles for 20 queries\n\[0\.\d+ 0\.\d+\] \[.*\] \[.*\]\n",
                        capsys.readouterr().out)


def streams(config: Config) -> dict[str, tuple[str, list[str]]]:
    """Direction and fields of a core's streams, with a query's fields in place of the queries."""
    core = nearbit.Core(config)
    found = {}
    for name, member in core.signature.members.items():
        layout = getattr(core, name).payload.shape()
        fields = dict(layout.members) if isinstance(layout, data.StructLayout) else {}
        queries = fields.pop("queries", None)
        if queries is not None:
            fields |= queries.elem_shape.members
        found[name] = ("in" if member.flow == wiring.In else "out", list(fields))
    return found


def test_ports():
    """The table of streams has those of the core, with their fields in order."""
    documented = {}
    for line in (ROOT / "docs/verilog.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| `([io]_\w+)` \| (in|out) \| (.*) \|$", line):
            documented[match[1]] = (match[2], re.findall(r"`(\w+)`", match[3]))
    config = Config.preset("tiny")
    assert documented == streams(config.replace(rescore=Rescore(head_dim=8, lanes=4)))
    for name in ("i_rescore_key", "i_rescore_query"):
        del documented[name]
    documented["i_command"][1].remove("multiplier")
    documented["o_trace"][1].remove("score")
    assert documented == streams(config)


def test_errors():
    """The table of errors has those of the hardware, in their order."""
    text = (ROOT / "docs/verilog.md").read_text(encoding="utf-8")
    assert [(name, int(number)) for number, name in re.findall(r"^\| (\d+) \| `(\w+)` \|", text,
                                                               re.MULTILINE)] == [
        (error.name, error.value) for error in CacheError if error != CacheError.OK]
    # Those that only a core with a memory has, say so.
    assert set(re.findall(r"`(\w+)` \| with a memory: ", text)) == (
        {error.name for error in CacheError} - {error.name for error in Error})


def test_json_fields(run, write):
    figures = json.loads(run("simulate", write(), "--json").out)
    per_part = first_column("docs/simulate.md", "under\n`heads`, for each head:")
    settings = {"file", "method", "codes", "shared", "engine", "preset", "config", "n", "sink",
                "recent", "causal", "rotate", "cycles_predicted", "build_seconds"}
    text = (ROOT / "docs/simulate.md").read_text(encoding="utf-8")
    told = re.search(r"prints one object instead\. It has (.*?), then the following", text,
                     re.DOTALL)
    assert told is not None
    assert set(re.findall(r"`(\w+)`", told[1])) == settings
    only_heads = {"head", "mismatch"}
    assert set(figures) == settings | {"heads"} | per_part - only_heads
    assert set(figures["heads"][0]) == per_part


def test_error_of_plain_signs(run):
    """What docs/simulate.md warns of."""
    file = "tests/data/smollm2-argparse-512.npz"
    found = json.loads(run("simulate", ROOT / file, "--engine", "golden", "--json").out)
    told = f"`{file}` have an error of {100 * found['error_reference']:.0f} %."
    assert told in (ROOT / "docs/simulate.md").read_text(encoding="utf-8")


def test_results(run, write, tmp_path):
    out = tmp_path / "out.npz"
    assert run("simulate", write(), "--out", out).status == 0
    with np.load(out) as result:
        assert first_column("docs/simulate.md", "`--out FILE.npz` writes") == {
            *result.files, "scores"}


def test_options():
    """Every option of `nearbit simulate` is told."""
    command = typer.main.get_command(app)
    assert isinstance(command, typer.core.TyperGroup)
    text = (ROOT / "docs/simulate.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(--[a-z-]+)", text))
    options = {option for parameter in command.commands["simulate"].params
               for option in (*parameter.opts, *parameter.secondary_opts)
               if option.startswith("--")}
    assert options - told == {"--rotate"}
    assert told <= options


def script(path: str) -> Any:
    """Import a script of the repository."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_demo():
    """What the README shows of the demonstration is what the models say, and reaches its goals."""
    record = script("benchmarks/demo.py")
    recorded = json.loads(record.RESULT.read_text(encoding="utf-8"))
    assert record.block(recorded) in (ROOT / "README.md").read_text(encoding="utf-8")
    found, *_ = script("examples/demo.py").decoder()
    assert found == pytest.approx(recorded["figures"]["decoder"])
    assert found["error_top"] < found["error"] <= 0.12
    assert found["error_dense"] < 0.01
    assert found["selected"] <= 80
    hardware = recorded["figures"]["hardware"]
    assert hardware["bit_exact"]
    assert hardware["cycle_exact"]


@pytest.mark.slow # It compiles the accelerator.
def test_demo_runs(capsys):
    """The demonstration proves its hardware, and says what it shows."""
    demo = script("examples/demo.py")
    record = script("benchmarks/demo.py")
    recorded = json.loads(record.RESULT.read_text(encoding="utf-8"))
    assert demo.main([]) == 0
    output = capsys.readouterr().out.rstrip("\n").split("\n")
    assert re.sub(r"\d+\.\d s\.", "", " ".join(output)) == re.sub(
        r"\d+\.\d s\.", "", " ".join(recorded["output"]))
    assert max(map(len, output)) <= 80


def test_decision_on_histograms():
    """Its cycles are what the model says."""
    text = " ".join((ROOT / "docs/decisions/0010-histograms-where-block-ram-allows.md").read_text(
        encoding="utf-8").split())
    config = Config.preset("reference")
    counters, histograms = (
        steady(config.replace(selection=selection), words=64, selected=32)
        for selection in ("counters", "histograms"))
    assert (f"In the preset `reference`, latency is {histograms.latency} instead of "
            f"{counters.latency} cycles, and queries are {histograms.interval} instead of "
            f"{counters.interval} cycles apart") in text
