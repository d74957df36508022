"""The table of families in docs/models.md is what comes of loading them."""

import importlib.util
from pathlib import Path

import pytest


torch = pytest.importorskip("torch", reason="the extra models is not installed")

ROOT = Path(__file__).resolve().parents[2]


def _benchmark():
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "benchmarks" / "families.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


families = _benchmark()


@pytest.fixture(autouse=True)
def _single_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def rows():
    _, _, rest = families.DOCUMENT.read_text(encoding="utf-8").partition(families.BEGIN)
    text, found, _ = rest.partition(families.END)
    assert found
    return text.splitlines()[2:]


def test_each_family_has_a_row(rows):
    assert [line.split("`")[1] for line in rows] == list(families.FAMILIES)
    assert sum(line.endswith("| works |") for line in rows) >= 20


@pytest.mark.parametrize("family", families.FAMILIES)
def test_family(rows, family, tmp_path):
    assert families.row(family, tmp_path) in rows
