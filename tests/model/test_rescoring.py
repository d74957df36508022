"""How near weights by dot-product scores come to real attention, on the heads of real models."""

from pathlib import Path

import numpy as np
import pytest

from nearbit_model import golden, quantize
from nearbit_model.config import Config, Rescore


DATA = Path(__file__).parents[1] / "data"
N, SINK, RECENT = 64, 4, 12
BITS = 12


def load(name):
    with np.load(DATA / f"{name}.npz") as file:
        q, k, v = (file[each].astype(np.float64) for each in "qkv")
        counts = file["qpos"] + 1 if file["causal"] else np.full(q.shape[1], k.shape[1])
        return q, k, v, counts


def selected_attention(q, k, v, selected):
    """Attention in float64 over the selected keys, and over no others."""
    group = len(q) // len(k)
    output = np.empty((*q.shape[:2], v.shape[-1]))
    for head, query in np.ndindex(output.shape[:2]):
        keys = selected[head, query][selected[head, query] >= 0]
        logits = k[head // group][keys] @ q[head, query] / np.sqrt(q.shape[-1])
        weights = np.exp(logits - logits.max())
        output[head, query] = weights @ v[head // group][keys] / weights.sum()
    return output


@pytest.mark.parametrize("name", ["minilm-gpl3-512", "smollm2-argparse-512"])
def test_error_on_real_heads(name):
    q, k, v, counts = load(name)
    head_dim = q.shape[-1]
    config = Config(
        key_bits=head_dim, value_dim=v.shape[-1], capacity=512, top_n=N + SINK + RECENT,
        rescore=Rescore(head_dim=head_dim, lanes=head_dim, element_bits=BITS))
    values = quantize.values(v, rotated=True)
    result = golden.attend(
        quantize.codes(q), quantize.codes(k), values,
        np.ones((len(q), head_dim + 1), np.int64), config=config, counts=counts, n=N, sink=SINK,
        recent=RECENT, rescore=quantize.rescore_operands(q, k, BITS))
    output = quantize.outputs(result.output_int, np.repeat(values.unit, len(q) // len(k)),
                              config.output_fraction_bits, rotated=True)
    wanted = selected_attention(q, k, v, result.selected)
    error = (np.linalg.norm(output - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1))
    print(f"{name}: mean {error.mean():.3%}, most {error.max():.3%}")
    assert error.mean() < 0.008
    assert error.max() < 0.02


@pytest.mark.parametrize("name", ["minilm-gpl3-512", "smollm2-argparse-512"])
def test_error_with_fewer_bits(name):
    """Why 12: the error of the scores is what the bits of their operands decide."""
    q, k, _, _ = load(name)
    group = len(q) // len(k)
    logits = q @ np.repeat(k, group, axis=0).swapaxes(1, 2) / np.sqrt(q.shape[-1])
    errors = []
    for bits in (8, 10, 12):
        rescore = quantize.rescore_operands(q, k, bits)
        scores = golden.score(rescore.queries, np.repeat(rescore.keys, group, axis=0)[:, None])
        found = scores * (rescore.multipliers[..., None] * (np.log(2) / 2**32))
        errors.append(np.abs(found - logits).max())
    print(f"{name}: largest error of a logit {errors}")
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
