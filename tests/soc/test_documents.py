# amaranth: UnusedElaboratable=no
"""docs/soc.md and its diagrams say what is so."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks import interface_tables, soc, timing_diagrams
from nearbit.soc import bundle
from nearbit_hw.core import Core
from nearbit_hw.dispatcher import Error
from nearbit_hw.soc.registers import COUNTERS, SocError
from nearbit_hw.soc.soc_core import SocCore
from nearbit_model.config import Config
from nearbit_model.transfers.program import Program
from nearbit_sim.cxx import compiler
from nearbit_sim.icarus import IcarusEngine


DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_diagrams(capsys):
    """The diagrams are those of the present hardware; python benchmarks/timing_diagrams.py."""
    assert timing_diagrams.main(["--check"]) == 0, capsys.readouterr().out
    text = (DOCS / "soc.md").read_text()
    for path in timing_diagrams.FOLDER.glob("*.svg"):
        assert f"(wavedrom/{path.name})" in text


def test_tables(capsys):
    """They are those of the present fields; python benchmarks/interface_tables.py."""
    assert interface_tables.main(["--check"]) == 0, capsys.readouterr().out


def test_files():
    text = (DOCS / "soc.md").read_text()
    assert re.findall(r"^accelerator/(\S+)$", text, re.MULTILINE) == bundle.names("axi")


def test_errors_and_counters():
    text = (DOCS / "soc.md").read_text()
    _, _, errors = text.partition("## Errors")
    assert re.findall(r"^\| `([A-Z_]+)` \|", errors, re.MULTILINE) == [
        code.name for code in SocError if code.name != "NONE"]
    for name, _ in COUNTERS:
        assert f"`{name}`" in text


def test_latency():
    text = " ".join((DOCS / "soc.md").read_text().split())
    found = re.search(r"adds latency only: (\d) cycles .*?, (\d) with the rescoring unit", text)
    assert found is not None
    for name, cycles in zip(("reference", "hash64"), found.groups(), strict=True):
        assert SocCore(Config.preset(name)).latency == int(cycles)


def test_size():
    """The tables have the figures of the JSON, and those are within the limit."""
    results = json.loads(soc.RESULTS.read_text())
    text = (DOCS / "soc.md").read_text()
    assert soc.document(text, results) == text
    assert soc.ecp5_table(results) in text
    assert soc.seven_series_table(results) in text
    area = results["area"]["axi"]
    assert max(area["alone"]["luteq"], area["over_core"]["luteq"]) < soc.LIMIT
    assert f"is {soc.LIMIT} or more" in text


@pytest.mark.parametrize("page", ["soc.md", "soc-memory.md"])
def test_driver_example(tmp_path, page):
    """The example compiles without a warning."""
    text = (DOCS / page).read_text()
    example, = re.findall(r"<!-- driver -->\n```c\n(.*?)```", text, re.DOTALL)
    header = Path(bundle.__file__).parent / "driver"
    (tmp_path / "example.c").write_text(example)
    command = compiler()
    subprocess.run([*command, *(["-x", "c"] if "++" in command[-1] else []), "-std=c99", "-Wall",
                    "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-fsyntax-only",
                    f"-I{header}", "example.c"], cwd=tmp_path, check=True)


def test_functions_of_the_memory():
    """The page names the functions of the header that are for a memory, and no others."""
    text = (DOCS / "soc-memory.md").read_text()
    header = (Path(bundle.__file__).parent / "driver" / "nearbit.h").read_text()
    _, _, part = header.partition("--- Keys and values in memory")
    part, _, _ = part.partition("/* The first error")
    table, _, _ = text.partition("## The driver")[2].partition("<!--")
    rows = "".join(line.partition(" | ")[0] for line in table.splitlines()
                   if line.startswith("| `"))
    assert set(re.findall(r"`(nearbit_\w+)`", rows)) == set(re.findall(
        r"\b(nearbit_\w+)\((?:const )?struct", part))


def test_error_before_the_command_is_accepted():
    """A query that fails is answered while the other query waits for its unit."""
    for page in ("soc.md", "verilog.md"):
        assert "that fails may be answered" in " ".join((DOCS / page).read_text().split())
    config = Config(key_bits=8, value_dim=2, capacity=8, queries=2, lanes=1, value_lanes=2, top_n=2,
                    exp_tables=1, selection="histograms")
    engine = IcarusEngine(Core(config))
    program = Program(engine.ports)
    program.add({
        "i_key": {"token": [0], "code": [1]},
        "i_value": {"token": [0], "beat": [0], "elements": np.array([[1, 2]]), "scale": [65535]},
        "i_exp_table": {"exp_table": np.zeros(9, int), "distance": np.arange(9),
                        "weight": np.full(9, 65535)}})
    zero = np.zeros(1, int)
    program.add({"i_command": {
        "first": zero, "n": zero + 1, "sink": zero, "recent": zero, "trace": zero, "rescore": zero,
        "shared": zero, "queries": {"code": np.zeros((1, 2), int), "count": np.array([[0, 1]]),
                                    "exp_table": np.zeros((1, 2), int)}}})
    program.expect({"o_result": 3})
    outcome = engine.run(program)
    beats = outcome.outputs["o_result"]
    assert beats.payloads["error"].tolist() == [Error.EMPTY.value, 0, 0]
    assert beats.cycles[0] < outcome.accepted[1]["i_command"][0] < beats.cycles[1]
