import json
import subprocess
import sys

import pytest

import nearbit
from nearbit_model.config import MEMORY_PRESETS, PRESETS, Config


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
    own, cached = ([line.split() for line in part.splitlines()]
                   for part in outcome.out.split("\n\n"))
    assert own[0][:4] == ["preset", "key_bits", "value_dim", "capacity"]
    assert cached[0][:5] == ["from", "memory", "key_bits", "value_dim", "capacity"]
    assert [row[0] for row in own[1:]] == list(PRESETS)
    assert [row[0] for row in cached[1:]] == list(MEMORY_PRESETS)
    for row in [*own[1:], *cached[1:]]:
        config = Config.preset(row[0])
        assert [int(cell) for cell in row[1:4]] == [config.key_bits, config.value_dim,
                                                    config.capacity]
        assert ("bits" in " ".join(row[4:])) is (config.rescore is not None)
    assert "64 x 12 bits, shared" in outcome.out


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
