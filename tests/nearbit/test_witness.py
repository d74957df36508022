# amaranth: UnusedElaboratable=no
"""A head by the hardware: what it appends, answers and compares, without a network."""

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np
import pytest

from nearbit import witness
from nearbit_boards.simulated import SimulatedTransport
from nearbit_model.attention import attend
from nearbit_model.config import PRESETS
from nearbit_model.prepare import prepare
from nearbit_model.quantize import Values


TINY = PRESETS["tiny"]


def tokens(prepared, start, stop):
    values = prepared.values
    return SimpleNamespace(
        k_codes=prepared.k_codes[0, start:stop], rescore_keys=None, tables=prepared.exp_tables,
        values=Values(values.elements[0, start:stop], values.scales[0, start:stop],
                      values.unit[0], rotated=values.rotated))


@pytest.fixture
def problem():
    rng = np.random.default_rng(5)
    q, k, v = (rng.standard_normal((1, count, 8)) for count in (3, 12, 12))
    return prepare(q, k, v, TINY, n=4, recent=1)


def test_answers(problem, monkeypatch):
    # The same parameters as in tests/boards: each set of them is compiled.
    monkeypatch.setattr(witness, "SimulatedTransport", functools.partial(
        SimulatedTransport, version=(0, 1, 0), clock=12_000_000, timeout=256))
    head = witness.HardwareHead(TINY, 0, 0)
    try:
        for start, stop in ((0, 10), (10, 11), (11, 12)):
            head.append(tokens(problem, start, stop))
        golden = attend(problem)
        np.testing.assert_array_equal(head.ask(problem, golden), golden.output_int)
        assert (head.answers, head.differing) == (3, 0)
        assert head.cycles > 0
        # One element of two queries: each is counted once, whichever array it is in.
        for name in ("selected", "distances", "weights", "output_int"):
            spoilt = getattr(golden, name).copy()
            spoilt[0, 1:, 2:] += 1
            head.differing = 0
            head.ask(problem, dataclasses.replace(golden, **{name: spoilt}))
            assert head.differing == 2
        assert head.answers == 15
    finally:
        head.close()
