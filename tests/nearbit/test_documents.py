# amaranth: UnusedElaboratable=no
"""The documents say what is so."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from amaranth.lib import wiring

import nearbit
from nearbit_hw.dispatcher import Error
from nearbit_model.config import Config


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


def test_readme_example(capsys):
    example, = blocks("README.md", "python")
    exec(compile(example, "README.md", "exec"), {})
    assert re.fullmatch(r"\d+ cycles for 20 queries\n", capsys.readouterr().out)


def test_configuration():
    """The example of a configuration has every field, with its default."""
    text, = blocks("docs/simulate.md", "toml")
    config = Config.from_toml(text)
    assert config.to_toml() == text
    assert config == Config(key_bits=64, value_dim=64, capacity=2048)


def test_ports():
    """The table of streams has those of the core, with their fields in order."""
    core = nearbit.Core(Config.preset("tiny"))
    documented = {}
    for line in (ROOT / "docs/verilog.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| `([io]_\w+)` \| (in|out) \| (.*) \|$", line):
            documented[match[1]] = (match[2], re.findall(r"`(\w+)`", match[3]))
    found = {}
    for name, member in core.signature.members.items():
        fields = list(getattr(core, name).payload.shape().members)
        if name == "i_query":
            fields[fields.index("rows"):] = ["code", "count", "table"]
        found[name] = ("in" if member.flow == wiring.In else "out", fields)
    assert documented == found


def test_errors():
    """The table of errors has those of the hardware, in their order."""
    text = (ROOT / "docs/verilog.md").read_text(encoding="utf-8")
    assert {name: int(number) for number, name in re.findall(r"^\| (\d) \| `(\w+)` \|", text,
                                                              re.MULTILINE)} == {
        error.name: error.value for error in Error if error != Error.OK}


def test_json_fields(run, write):
    figures = json.loads(run("simulate", write(), "--json").out)
    per_part = first_column("docs/simulate.md", "under\n`heads`, for each by itself:")
    settings = {"file", "engine", "preset", "config", "n", "sink", "recent", "causal", "rotate",
                "build_seconds"}
    only_heads = {"head", "mismatch"}
    assert set(figures) == settings | {"heads"} | per_part - only_heads
    assert set(figures["heads"][0]) == per_part


def test_demo(run):
    """What the README shows of the demonstration is what it does, but for wall times."""
    spec = importlib.util.spec_from_file_location("demo", ROOT / "benchmarks" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)

    recorded = json.loads(demo.RESULT.read_text(encoding="utf-8"))
    assert demo.block(recorded) in (ROOT / "README.md").read_text(encoding="utf-8")
    outcome = run("simulate", ROOT / demo.FILE, "--json")
    assert outcome.status == 0
    figures = json.loads(outcome.out)
    for now, then in zip([figures, *figures["heads"]],
                         [recorded["figures"], *recorded["figures"]["heads"]], strict=True):
        for name in ("bit_exact", "cycles", "queries", "keys"):
            assert now[name] == then[name]
        for name in ("recall", "error_exact", "error_method"):
            assert now[name] == pytest.approx(then[name])
