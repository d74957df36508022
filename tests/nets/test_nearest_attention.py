import numpy as np
import pytest


torch = pytest.importorskip("torch", reason="the extra models is not installed")

from nearbit_nets.nearest_attention import nearest_attention


HEADS, TOKENS, HEAD_DIM = 3, 11, 8


@pytest.fixture(autouse=True)
def _single_thread():
    torch.set_num_threads(1)


def _reference(q, k, v, scale, counts, first, n, teacher):
    """The same by autograd and in NumPy's stable order."""
    key, begin = torch.arange(TOKENS), first[:, None, :, None]
    hidden = (key < begin) | (key >= begin + counts[:, None, :, None])
    scores = (q @ k.transpose(2, 3) * scale[:, None, None]).masked_fill(hidden, -torch.inf)
    # The best come first, the later one of equals before the earlier.
    order = np.argsort(-scores.detach().numpy()[..., ::-1], axis=3, kind="stable")
    chosen = torch.zeros(scores.shape, dtype=torch.bool)
    chosen.scatter_(3, torch.from_numpy(TOKENS - 1 - order[..., :n]), True)
    output = scores.masked_fill(~chosen, -torch.inf).softmax(3) @ v
    if teacher is None:
        return output, torch.zeros(())
    target = (teacher[0] @ teacher[1].transpose(2, 3) / HEAD_DIM ** 0.5
              ).masked_fill(hidden, -torch.inf).softmax(3)
    ours = scores.log_softmax(3).masked_fill(hidden, 0)
    log_target = target.log().masked_fill(hidden, 0)
    return output, (target * (log_target - ours)).sum(3).mean()


@pytest.mark.parametrize("signs", [True, False])
@pytest.mark.parametrize("n", [1, 4, 11, 12])
@pytest.mark.parametrize("seen", ["all", "padded", "causal", "window"])
@pytest.mark.parametrize("watched", [True, False])
def test_gradients_are_autograds(signs, n, seen, watched):
    generator = torch.Generator().manual_seed(n)
    q, k, v, *teacher = (torch.randn((2, HEADS, TOKENS, HEAD_DIM), generator=generator)
                         for _ in range(5))
    if signs:
        q, k = q.sign(), k.sign()
    counts = {"all": torch.full((2, TOKENS), TOKENS),
              "padded": torch.tensor([[TOKENS], [5]]).expand(2, TOKENS),
              "causal": torch.arange(1, TOKENS + 1).expand(2, -1),
              "window": torch.arange(1, TOKENS + 1).clamp_max(3).expand(2, -1)}[seen]
    first = torch.zeros_like(counts)
    if seen == "window":
        first = torch.arange(TOKENS) + 1 - counts
    scale = torch.tensor([0.3, 0.01, 2.0])
    weight = torch.randn(v.shape, generator=generator)
    found = []
    for compute in (nearest_attention, _reference):
        inputs = [x.clone().requires_grad_() for x in (q, k, v)]
        given = tuple(teacher) if watched else None
        output, divergence = compute(*inputs, scale, counts, first, n, teacher=given)
        ((output * weight).sum() + 3 * divergence).backward()
        found.append([output.detach(), divergence.detach(), *(x.grad for x in inputs)])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert float(found[0][1]) > 0 or not watched
