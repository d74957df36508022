import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

import nearbit
from nearbit.boards import BOARDS, show_boards
from nearbit.cli import console
from nearbit.cli.presets import show_presets
from nearbit_model.config import MEMORY_PRESETS, PRESETS, Config
from nearbit_sim.cache import cached


def test_version(run):
    outcome = run("--version")
    assert (outcome.status, outcome.out) == (0, f"nearbit {nearbit.__version__}\n")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help(run, arguments):
    outcome = run(*arguments)
    assert outcome.status == 0
    for command in ("simulate", "verilog", "presets"):
        assert command in outcome.out
        assert run(command, "--help").status == 0


def test_presets(run):
    outcome = run("presets")
    assert outcome.status == 0
    own, cached, _ = ([line.split() for line in part.splitlines()]
                      for part in outcome.out.split("\n\n"))
    assert own[1][:4] == ["preset", "bits", "dim", "capacity"]
    assert cached[1][:4] == ["memory", "bits", "dim", "capacity"]
    assert [row[0] for row in own[2:]] == list(PRESETS)
    assert [row[0] for row in cached[2:]] == list(MEMORY_PRESETS)
    for row in [*own[2:], *cached[2:]]:
        config = Config.preset(row[0])
        assert [int(cell) for cell in row[1:4]] == [config.key_bits, config.value_dim,
                                                    config.capacity]
        assert ("x" in " ".join(row[4:])) is (config.rescore is not None)
    assert "64x12, shared" in outcome.out


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize(("show", "names"), [
    (show_presets, [*PRESETS, *MEMORY_PRESETS]), (show_boards, [*BOARDS, *BOARDS])])
def test_names_are_not_cut(show, names, width):
    """On terminals of any width, every name is there, at the beginning of a line."""
    stream = io.StringIO()
    show(Console(file=stream, width=width))
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines if line.split() and line.split()[0] in names] == names
    assert "…" not in stream.getvalue()
    assert max(len(line) for line in lines if "nearbit" not in line) <= 80


def test_presets_json(run):
    outcome = run("presets", "--json")
    assert outcome.status == 0
    assert {name: Config.from_dict(fields)
            for name, fields in json.loads(outcome.out).items()} == {**PRESETS, **MEMORY_PRESETS}


def test_names():
    for name in nearbit.__all__:
        assert getattr(nearbit, name) is not None
        assert name in dir(nearbit)
    with pytest.raises(AttributeError, match=r"^module 'nearbit' has no attribute 'nothing'$"):
        nearbit.nothing # noqa: B018


def test_import_is_quick():
    """Neither NumPy nor Amaranth is imported before they are used."""
    program = "import sys, nearbit; print([m for m in ('numpy', 'amaranth') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True,
                            encoding="utf-8", check=True)
    assert result.stdout == "[]\n"


def test_verilog_with_a_device_s_cells(run, tmp_path):
    assert run("verilog", "--preset", "tiny", "--cell", "ecp5", "-o", tmp_path).status == 0
    assert "CCU2C" in (tmp_path / "nearbit.v").read_text(encoding="utf-8")
    assert Config.load(tmp_path / "nearbit.toml") == PRESETS["tiny"].replace(cell="ecp5")


def test_build_is_announced(monkeypatch, capsys, tmp_path):
    """Without a terminal, one line says what is built and about how long, if it is built."""
    monkeypatch.setenv("NEARBIT_CACHE_DIR", str(tmp_path))

    def make(path):
        path.write_bytes(b"x")

    def build(engine, *names):
        with (console.progress("preparing") as bar,
              console.building(bar, Config.preset("reference"), "preset reference", engine)):
            for name in names:
                cached(name, ".so", make)
        return capsys.readouterr().err

    line = build("compiled", "a", "b")
    assert line == "nearbit: building the hardware of preset reference (about 10 s), once\n"
    assert build("compiled", "a", "b") == ""
    assert build("icarus", "c") == "nearbit: building the hardware of preset reference, once\n"
    cached("d", ".so", make)
    assert capsys.readouterr().err == ""


def test_build_of_any_preset_has_an_estimate():
    for config in (*PRESETS.values(), *MEMORY_PRESETS.values()):
        assert 5 < console.seconds_to_build(config) < 120
