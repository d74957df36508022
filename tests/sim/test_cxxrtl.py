# amaranth: UnusedElaboratable=no
import re

import numpy as np
import pytest

from nearbit_hw.select.top_n import TopN
from nearbit_model.transfers.program import Program
from nearbit_sim import compiled, cxxrtl
from nearbit_sim.compiled import CompiledEngine
from nearbit_sim.cxxrtl import split_eval


SELECTION = {"key_bits": 6, "lanes": 2, "capacity": 16, "top_n": 4}


def selected():
    """Keys that a selection unit reports: memories, registers, chains of comparisons."""
    engine = CompiledEngine(TopN(**SELECTION))
    program = Program(engine.ports)
    rng = np.random.default_rng(1)
    for _ in range(5):
        program.add({"i_command": {"word": [0], "skip": [0], "count": [16], "n": [3], "sink": [1],
                                   "recent": [0]}}, delay=60)
        program.add({"i": {"distances": rng.integers(0, 7, (8, 2)), "last": np.arange(8) == 7}},
                    delay=2)
    program.expect({"o": 20})
    outcome = engine.run(program, patience=1000)
    return outcome.outputs["o"].words.tolist(), outcome.outputs["o"].cycles.tolist()


def functions(source, name):
    return re.findall(rf"^void p_dut::{name}_\d+\(", source, re.MULTILINE)


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("part", [1, 500, 10**9])
def test_split(debug, part, monkeypatch):
    """Parts of any size, in both kinds of library, are the same design."""
    monkeypatch.setattr(cxxrtl, "_PART", part)
    engine = CompiledEngine(TopN(**SELECTION))
    whole = {}
    with monkeypatch.context() as context:
        context.setattr(compiled, "split_eval", lambda source: whole.setdefault("", source))
        compiled._source(engine._verilog, engine._glue, debug=debug, has_memory=False)
    source = split_eval(whole[""])
    for name in ("eval", "debug_eval") if debug else ("eval",):
        count = len(functions(source, name))
        assert count == 1 if part == 10**9 else count > (100 if part == 1 else 5)
    # Every statement is still there, once and in order.
    for text in (whole[""], source):
        assert text.count(".next = ") == whole[""].count(".next = ")


def test_same_outcome(monkeypatch, tmp_path):
    """The parts compute what the whole does, however small they are."""
    monkeypatch.setenv("NEARBIT_CACHE_DIR", str(tmp_path))
    outcomes = []
    for part in (1, 4000):
        monkeypatch.setattr(cxxrtl, "_PART", part)
        monkeypatch.setattr(compiled, "_FLAGS", (*compiled._FLAGS, f"-DPART_{part}"))
        outcomes.append(selected())
    monkeypatch.setattr(compiled, "split_eval", lambda source: source)
    monkeypatch.setattr(compiled, "_FLAGS", (*compiled._FLAGS, "-DWHOLE"))
    outcomes.append(selected())
    assert len(list(tmp_path.iterdir())) == 3
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert len(outcomes[0][0]) == 20


@pytest.mark.parametrize("source", ["", "int main() {}\n", "bool p_dut::eval(performer *p) {\n}\n"])
def test_other_texts(source):
    assert split_eval(source) == source
