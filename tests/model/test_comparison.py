"""One comparison of bits: the golden model's answers with spoilt ones."""

import dataclasses

import numpy as np
import pytest

from nearbit_model.attention import attention
from nearbit_model.comparison import ARRAYS, differing
from nearbit_model.config import Config, Rescore


TINY = Config.preset("tiny")
HASH = TINY.replace(rescore=Rescore(head_dim=8, lanes=4))


def answer(config=TINY, n=4, **options):
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal(shape) for shape in ((2, 3, 8), (1, 9, 8), (1, 9, 8)))
    return attention(q, k, v, config, n=n, **options)


@pytest.mark.parametrize("name", ARRAYS)
def test_every_array(name):
    """A single element of any array is found where it is, and nowhere else."""
    golden = answer(HASH, method="hash")
    spoilt = getattr(golden, name).copy()
    spoilt[1, 2, 3] += 1
    found = differing(dataclasses.replace(golden, **{name: spoilt}), golden)
    assert tuple(found) == ARRAYS
    for each, wrong in found.items():
        assert np.argwhere(wrong).tolist() == ([[1, 2, 3]] if each == name else [])
    only = differing(dataclasses.replace(golden, **{name: spoilt}), golden, heads=slice(0, 1))
    assert not any(wrong.any() for wrong in only.values())
    # Without a trace there are outputs alone.
    outputs = differing(dataclasses.replace(golden, **{name: spoilt}), golden, trace=False)
    assert tuple(outputs) == ("output_int",)
    assert outputs["output_int"].any() == (name == "output_int")


def test_other_widths():
    """More keys than the golden model selects differ; what a query has in common does not."""
    golden = answer(causal=True, qpos=np.array([0, 1, 8]), n=4)
    more = answer(causal=True, qpos=np.array([0, 1, 8]), n=5)
    for found in (differing(more, golden), differing(golden, more)):
        assert tuple(found) == ("selected", "distances", "weights", "output_int")
        # Of the first two queries both select all keys that these see.
        assert not found["selected"][:, :2].any()
        assert found["selected"].shape == (2, 3, 5)
        assert found["selected"][:, 2, 4].all()
