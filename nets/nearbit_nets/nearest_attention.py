"""Attention to the keys of largest score, with its gradient, for training.

What autograd would keep of each layer are a dozen arrays of all queries by all keys. Here a
sequence is computed at a time, so that they stay in the processor's cache, and two of them are
kept: the weights, and how far the map is from the teacher's. The gradients are those of a softmax
and of the divergence between two.
"""

import math
from typing import Any

import numpy as np
import torch


__all__ = ["nearest_attention"]


_TIE = 1e-5
"""What the score of each later key is larger by, where two of signs differ by 2 at least."""


def nearest_attention(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: torch.Tensor,
        counts: torch.Tensor, first: torch.Tensor, n: int, *,
        teacher: tuple[torch.Tensor, torch.Tensor] | None = None
        ) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend to the ``n`` keys of largest score, and compare the map with a teacher's.

    Parameters
    ----------
    q, k, v
        Queries [batch, heads, queries, head_dim], keys and values [batch, heads, tokens, head_dim]
        and [batch, heads, tokens, value_dim].
    scale
        What ``q.k`` is multiplied by to be a logit, float32 [heads].
    counts, first
        Keys that each query sees, from ``first`` on: int64 [batch, queries], at least 1 and 0.
    n
        Keys that are weighted; among equals the later ones, as in the hardware.
    teacher
        Its queries and keys, of the same shapes, with logits ``q.k / sqrt(head_dim)``; no gradient
        flows into them.

    Returns
    -------
    outputs
        [batch, heads, queries, value_dim], of v's dtype.
    divergence
        Kullback-Leibler divergence of the map of all keys seen, the n and the others, from the
        teacher's, in nats, mean of all queries; 0 without a teacher.
    """
    made: tuple[torch.Tensor, torch.Tensor] = _NearestAttention.apply(
        q, k, v, scale, counts, first, n, teacher)
    return made


class _NearestAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: torch.Tensor,
                counts: torch.Tensor, first: torch.Tensor, n: int,
                teacher: tuple[torch.Tensor, torch.Tensor] | None
                ) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = v.new_empty(*q.shape[:3], v.shape[3])
        divergence = scale.new_zeros(())
        weights, apart = [], []
        for i, seen in enumerate(counts):
            begin, end = first[i, :, None], (first[i] + seen)[:, None]
            width, key = int(end.max()), torch.arange(int(end.max()))
            # Nothing is hidden from a query that sees them all, as in an encoder.
            hidden = None if int(seen.min()) == width else (key < begin) | (key >= end)
            scores = _logits(q[i], k[i, :, :width], scale[:, None, None], hidden)
            log_map = scores.log_softmax(2)
            whole = log_map.exp()
            if teacher is not None:
                wanted = _logits(teacher[0][i], teacher[1][i, :, :width],
                                 1 / math.sqrt(q.shape[3]), hidden).log_softmax(2)
                target = wanted.exp()
                divergence += torch.dot(target.flatten(), wanted.sub_(log_map).flatten())
                apart.append(torch.sub(whole, target, out=target).to(v.dtype))
            if n < width:
                whole.masked_fill_(_others(scores, scale, n), 0)
                whole /= whole.sum(2, keepdim=True)
            weights.append(whole.to(v.dtype))
            torch.bmm(weights[-1], v[i, :, :width], out=outputs[i])
        ctx.save_for_backward(q, k, v, scale, *weights, *apart)
        return outputs, divergence / q[..., 0].numel()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, scale, *kept = ctx.saved_tensors
        weights, apart = kept[:len(q)], kept[len(q):]
        of_outputs, of_divergence = gradients
        share = float(of_divergence) / q[..., 0].numel()
        of_q, of_k, of_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for i, used in enumerate(weights):
            width = used.shape[2]
            of_v[i, :, :width] = used.transpose(1, 2) @ of_outputs[i]
            of_scores = (of_outputs[i] @ v[i, :, :width].transpose(1, 2)).float()
            used = used.float()
            of_scores -= (used * of_scores).sum(2, keepdim=True)
            of_scores *= used
            if apart:
                of_scores.add_(apart[i], alpha=share)
            of_scores *= scale[:, None, None]
            rounded = of_scores.to(q.dtype)
            of_q[i] = rounded @ k[i, :, :width]
            of_k[i, :, :width] = rounded.transpose(1, 2) @ q[i]
        return of_q, of_k, of_v, None, None, None, None, None


def _logits(q: torch.Tensor, k: torch.Tensor, scale: torch.Tensor | float,
            hidden: torch.Tensor | None) -> torch.Tensor:
    """Float32 [heads, queries, tokens]."""
    logits = (q @ k.transpose(1, 2)).float().mul_(scale)
    return logits if hidden is None else logits.masked_fill_(hidden, -1e9)


def _others(scores: torch.Tensor, scale: torch.Tensor, n: int) -> torch.Tensor:
    """Which keys are not among the n of largest score, bool [heads, queries, tokens]."""
    later = _TIE * torch.arange(scores.shape[2]) * scale[:, None, None]
    rank = (scores + later).numpy()
    place = rank.shape[2] - n
    # Several times as fast as torch.topk.
    least = np.partition(rank, place, axis=2)[..., place:place + 1]
    return torch.from_numpy(rank < least)
