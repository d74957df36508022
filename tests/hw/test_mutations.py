"""The list of mutations is of the hardware and the benches of now."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


HERE = Path(__file__).parent
MUTATIONS = json.loads(HERE.joinpath("mutations.json").read_text(encoding="utf-8"))


def test_places():
    hardware = HERE.parents[1] / "hw" / "nearbit_hw"
    texts = {path: (hardware / path).read_text(encoding="utf-8")
             for path in {mutation["path"] for mutation in MUTATIONS}}
    assert [mutation for mutation in MUTATIONS
            if texts[mutation["path"]].count(mutation["old"]) != 1] == []


@pytest.mark.slow
def test_benches():
    said = subprocess.run([sys.executable, "-m", "pytest", "--collect-only", "-q", str(HERE)],
                          capture_output=True, encoding="utf-8", check=True).stdout
    there = {line.removeprefix("tests/hw/") for line in said.splitlines()}
    assert {mutation["bench"] for mutation in MUTATIONS} - there == set()
