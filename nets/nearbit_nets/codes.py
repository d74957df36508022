"""Codes that are learned from a network's own queries and keys, as in HashAttention.

All heads of a layer are trained at once. The codes of a head are those of a linear map of its
queries and one of its keys, or of the published network of three layers; the sign of each element
is a bit. A step takes queries of one text and all keys that they see, and a softmax or a sigmoid
of the codes' inner product (bits minus twice the Hamming distance, times a learned scale) is
compared with exact attention. Source of the form and of loss ``bce``: HashAttention
(arXiv 2412.14468).
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nearbit_model.mapping import Mapping
from nearbit_model.mapping.files import MappingError, read_safetensors, write_safetensors
from nearbit_nets.errors import NetworkError
from nearbit_nets.loading import available_memory
from nearbit_nets.network import Network, reference_attention


__all__ = ["KINDS", "LOSSES", "SURROGATES", "Learner", "Recall", "Recipe", "device_of",
           "fingerprint", "learn_layer", "longest_learned", "made_for", "recall", "save"]


KINDS = ("linear", "mlp")
"""A linear map; three linear layers with SiLU between them, as published."""

LOSSES = ("top", "kl", "bce")
"""See :class:`Recipe`."""

SURROGATES = ("straight-through", "tanh")
"""See :class:`Recipe`."""

TOP = 32
"""True top keys: those of ``top`` and ``bce``, and of recall."""

_POSITIVE_WEIGHT = 20.0

# How often a training looks at queries that it is not trained on, and how often in vain at most.
_CHECKS, _PATIENCE = 10, 3

# Every so manieth query of a text is kept for that.
_KEPT = 16

# The share of the variances' mean that is added to all of them, so that they can be inverted.
_RIDGE = 1e-4

# tanh(beta x) grows from a soft sign to nearly a hard one.
_SOFT, _HARD = 1.0, 10.0

_MASKED = -1e9

# Where the scale of codes' inner products, divided by their bits, may begin.
_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

_Progress = Callable[[int, float], None]
_Weights = list[tuple[torch.Tensor, torch.Tensor]]
# A text's queries, keys, and the first key that each query sees.
_Captured = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How codes are learned.

    Parameters
    ----------
    bits
        Bits of a code, at least 1.
    kind
        One of :data:`KINDS`. The hidden layers of ``mlp`` are twice as wide as the larger of a head
        and a code, which for heads of 64 elements is the published 128.
    loss
        ``"top"``: cross-entropy of the softmax over all keys to the :data:`TOP` keys of largest
        q.k, all alike. ``"kl"``: the divergence from exact attention. ``"bce"``, as published:
        binary cross-entropy of each key being among the :data:`TOP`, positive ones weighted by 20,
        sinks and recent keys left out.
    surrogate
        What the sign's gradient is: ``"straight-through"``, that of tanh; ``"tanh"``: training
        computes tanh itself, ever harder.
    steps, queries
        Steps of Adam, and queries of one text in each. Fewer steps, if it stops early.
    rate
        Learning rate, which falls to 0 by a cosine; a quarter of it with ``mlp``.
    seed
        Of all random choices; that of layer l follows from both.
    sink, recent
        Keys that are always selected, which ``bce`` leaves out.
    shares_keys
        The query heads of a group share the codes of keys.
    """

    bits: int = 64
    kind: str = "linear"
    loss: str = "top"
    surrogate: str = "straight-through"
    steps: int = 500
    queries: int = 64
    rate: float = 0.02
    seed: int = 0
    sink: int = 4
    recent: int = 12
    shares_keys: bool = False

    def __post_init__(self) -> None:
        """Check all of it."""
        for name, value, allowed in (("kind", self.kind, KINDS), ("loss", self.loss, LOSSES),
                                     ("surrogate", self.surrogate, SURROGATES)):
            if value not in allowed:
                raise NetworkError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
        for name, number, least in (
                ("bits", self.bits, 1), ("steps", self.steps, 1), ("queries", self.queries, 1),
                ("seed", self.seed, 0), ("sink", self.sink, 0), ("recent", self.recent, 0)):
            if number < least:
                raise NetworkError(f"{name} must be at least {least}, not {number}")
        if not 0 < self.rate < math.inf:
            raise NetworkError(f"the learning rate must be greater than 0, not {self.rate}")


@dataclass(frozen=True, eq=False)
class Recall:
    """How many of the true top keys codes find, on texts that they were not learned from.

    Parameters
    ----------
    nearest
        The share of the :data:`TOP` keys of largest q.k that are among as many nearest by code,
        float64 [heads].
    selected
        The share of them that sinks, recent keys and the n nearest others select, likewise.
    """

    nearest: NDArray[np.float64]
    selected: NDArray[np.float64]


class _Sign(torch.autograd.Function):
    """The sign of each element, with the gradient of tanh."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.where(x > 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        x, = ctx.saved_tensors
        return gradients[0] * (1 - torch.tanh(x).square())


def _balance(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps A of queries and B of keys with (A q).(B k) = c q.k, whose images are spread alike.

    Both images then have the same, diagonal second moments (keys about their mean), so that the
    signs of a rotation of them say most about the product. q and k are [heads, rows, head_dim];
    the maps, float64 [heads, head_dim, head_dim], bring both to a mean square of 1.
    """
    moments = []
    for x in (q, k):
        moment = x.transpose(1, 2) @ x / x.shape[1]
        mean = moment.diagonal(dim1=1, dim2=2).mean(1)
        ridge = torch.where(mean > 0, _RIDGE * mean, torch.ones_like(mean))
        moments.append(moment + ridge[:, None, None] * torch.eye(x.shape[2]).to(x))
    root = torch.linalg.cholesky(moments[1])
    spread, axes = torch.linalg.eigh(root.transpose(1, 2) @ moments[0] @ root)
    quarter = spread.clamp_min(1e-12).pow(0.25)[:, :, None]
    to_q = axes.transpose(1, 2) @ root.transpose(1, 2) / quarter
    to_k = axes.transpose(1, 2) @ torch.linalg.inv(root) * quarter
    return to_q / _size(q @ to_q.transpose(1, 2)), to_k / _size(k @ to_k.transpose(1, 2))


def _size(x: torch.Tensor) -> torch.Tensor:
    size = x.square().mean((1, 2), keepdim=True).sqrt()
    return torch.where(size > 0, size, torch.ones_like(size))


def _rotation(sets: int, rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """Random matrices, of which each block of as many rows as columns is orthogonal."""
    blocks = -(-rows // columns)
    made = torch.randn((sets, blocks, columns, columns), generator=generator, dtype=torch.float64)
    return torch.linalg.qr(made)[0].reshape(sets, -1, columns)[:, :rows]


def _start(rotation: torch.Tensor, recipe: Recipe, generator: torch.Generator) -> _Weights:
    """Weights that compute the first rows of a rotation."""
    def bias(rows: int) -> torch.Tensor:
        return torch.zeros(len(rotation), rows)

    if recipe.kind == "linear":
        return [(rotation.float(), bias(recipe.bits))]
    # SiLU(x) - SiLU(-x) = x: a pair of neurons passes a number on.
    width = rotation.shape[1]
    one = torch.eye(width).expand(len(rotation), -1, -1)
    both = torch.cat([one, -one], dim=2)
    weights = [torch.cat([rotation, -rotation], dim=1).float(), torch.cat([both, -both], dim=1),
               both[:, :recipe.bits]]
    # Those of a pair must come to differ.
    return [(w + 0.01 * torch.randn(w.shape, generator=generator), bias(w.shape[1]))
            for w in weights]


def _apply(x: torch.Tensor, weights: _Weights) -> torch.Tensor:
    """What the weights make of x [heads, rows, in]; in x's dtype but for the last sum."""
    for i, (weight, bias) in enumerate(weights):
        sets = len(x) // len(weight)
        weight, bias = (each.repeat_interleave(sets, 0) if sets > 1 else each
                        for each in (weight, bias))
        if i:
            x = torch.nn.functional.silu(x)
        x = torch.baddbmm(bias[:, None].to(x.dtype), x, weight.transpose(1, 2).to(x.dtype))
    return x


def _fast_dtype(device: torch.device) -> torch.dtype:
    """The dtype of matrix products: signs, and sums of up to 256 of them, are exact in bfloat16."""
    if device.type == "cuda" or torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32


class _Layer:
    """A layer in training: normalized queries and keys of all texts, and the weights."""

    def __init__(self, q: Sequence[torch.Tensor], k: Sequence[torch.Tensor], recipe: Recipe,
                 layer: int, device: torch.device,
                 first: Sequence[torch.Tensor] | None = None) -> None:
        self._recipe = recipe
        self._q, self._k = [x.to(device) for x in q], [x.to(device) for x in k]
        self._first = [x.to(device) for x in first or _from_the_start(q)]
        self._dtype = _fast_dtype(device)
        heads, kv_heads, dim = len(q[0]), len(k[0]), q[0].shape[2]
        self._group = heads // kv_heads
        # A set of keys' weights for each of these.
        self._sets = kv_heads if recipe.shares_keys else heads
        self.generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + layer)

        all_q, all_k = (torch.cat(list(x), dim=1).double() for x in (q, k))
        centre = all_k.mean(dim=1, keepdim=True)
        # Of a group that shares keys, the queries of all of it balance them.
        parts = all_q.reshape(self._sets, -1, dim)
        own = (all_k - centre).repeat_interleave(self._sets // kv_heads, 0)
        to_q, to_k = _balance(parts, own)
        self._to = {"q": to_q.repeat_interleave(heads // self._sets, 0), "k": to_k}
        self._off = {"q": torch.zeros(1, 1, dim, dtype=torch.float64),
                     "k": centre.repeat_interleave(self._sets // kv_heads, 0)}
        rows = recipe.bits if recipe.kind == "linear" else max(recipe.bits, dim)
        rotation = _rotation(self._sets, rows, dim, self.generator)
        start_k = _start(rotation, recipe, self.generator)
        start_q = [tuple(x.repeat_interleave(heads // self._sets, 0) for x in pair)
                   for pair in start_k]
        self._weights: dict[str, _Weights] = {
            side: [(w.to(device).clone().requires_grad_(), b.to(device).clone().requires_grad_())
                   for w, b in start] for side, start in (("q", start_q), ("k", start_k))}
        self._scale = torch.zeros((heads, 1, 1), device=device, requires_grad=True)
        self._offset = torch.zeros((heads, 1, 1), device=device, requires_grad=True)
        self._inputs = {side: [self._normal(x, side).to(device, self._dtype) for x in texts]
                        for side, texts in (("q", q), ("k", k))}
        rate = recipe.rate if recipe.kind == "linear" else recipe.rate / 4
        groups: list[dict[str, Any]] = [
            {"params": [x for side in self._weights.values() for pair in side for x in pair],
             "lr": rate}, {"params": [self._scale, self._offset]}]
        self.optimizer = torch.optim.Adam(groups, lr=recipe.rate, betas=(0.9, 0.99))

    def _normal(self, x: torch.Tensor, side: str) -> torch.Tensor:
        x = x.double()
        x = x.repeat_interleave(len(self._to[side]) // len(x), 0)
        return ((x - self._off[side]) @ self._to[side].transpose(1, 2)).float()

    def weights(self, side: str) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """The weights, of queries and keys as they are, which :meth:`Mapping.learned` takes."""
        found = [(w.detach().cpu().double(), b.detach().cpu().double())
                 for w, b in self._weights[side]]
        first, bias = found[0]
        first = first @ self._to[side]
        found[0] = first, bias - (first @ self._off[side].transpose(1, 2)).squeeze(2)
        return [(w.numpy(), b.numpy()) for w, b in found]

    def snapshot(self) -> dict[str, _Weights]:
        """A copy of the weights."""
        return {side: [(w.detach().clone(), b.detach().clone()) for w, b in weights]
                for side, weights in self._weights.items()}

    def restore(self, kept: dict[str, _Weights]) -> None:
        """Go back to a copy."""
        with torch.no_grad():
            for side, weights in kept.items():
                for own, old in zip(self._weights[side], weights, strict=True):
                    for x, y in zip(own, old, strict=True):
                        x.copy_(y)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [x.shape[1] for x in self._q]

    def _code(self, x: torch.Tensor, side: str, beta: float | None) -> torch.Tensor:
        found = _apply(x, self._weights[side])
        return _Sign.apply(found) if beta is None else torch.tanh(found * beta)

    def fit_scale(self, text: int, at: torch.Tensor) -> None:
        """Set each head's scale to the best of some.

        From one that is too large, the shortest way down is to codes that say nothing.
        """
        with torch.no_grad():
            found = []
            for scale in _SCALES:
                self._scale.fill_(math.log(scale))
                found.append(self.loss(text, at, None))
            best = torch.stack(found).argmin(0)
            self._scale.copy_(torch.tensor(_SCALES).log().to(best.device)[best][:, None, None])

    def loss(self, text: int, at: torch.Tensor, beta: float | None) -> torch.Tensor:
        """The loss of some queries of a text, the mean of them, [heads]."""
        recipe = self._recipe
        q, k = self._q[text][:, at], self._k[text].repeat_interleave(self._group, 0)
        codes_q = self._code(self._inputs["q"][text][:, at], "q", beta)
        codes_k = self._code(self._inputs["k"][text], "k", beta)
        codes_k = codes_k.repeat_interleave(len(codes_q) // len(codes_k), 0)
        score = (codes_q @ codes_k.transpose(1, 2)).float() * (self._scale.exp() / recipe.bits)
        key, at = torch.arange(k.shape[1], device=k.device), at[:, None].to(k.device)
        first = self._first[text][at]
        seen = (key >= first) & (key <= at)
        with torch.no_grad():
            true = q @ k.transpose(1, 2) / math.sqrt(q.shape[2])
            if recipe.loss == "bce":
                seen = seen & (key >= first + recipe.sink) & (key <= at - recipe.recent)
            true = true.masked_fill(~seen, _MASKED)
            if recipe.loss == "kl":
                target = true.softmax(2)
            else:
                least = true.topk(min(TOP, true.shape[2]), dim=2).values[..., -1:]
                target = ((true >= least) & seen).float()
        if recipe.loss == "bce":
            # Scores of the published form, and a threshold that it holds constant.
            each = torch.nn.functional.binary_cross_entropy_with_logits(
                score + self._offset, target, reduction="none",
                pos_weight=torch.tensor(_POSITIVE_WEIGHT, device=k.device))
            return ((each * seen).sum(2) / seen.sum(1).clamp_min(1)).mean(1)
        target = target / target.sum(2, keepdim=True)
        given = score.masked_fill(~seen, _MASKED).log_softmax(2)
        return -(target * given).sum(2).mean(1)


def learn_layer(q: Sequence[torch.Tensor], k: Sequence[torch.Tensor], recipe: Recipe, *,
                first: Sequence[torch.Tensor] | None = None, layer: int = 0, device: str = "cpu",
                progress: _Progress = lambda step, loss: None) -> tuple[Mapping, int]:
    """Learn the codes of all heads of a layer.

    Parameters
    ----------
    q
        Queries of each text, float32 [heads, tokens, head_dim].
    k
        Keys, likewise, [kv_heads, tokens, head_dim].
    recipe
        How.
    first
        The first key that each query of a text sees, int64 [tokens]; None is key 0.
    layer
        Which, for the random choices.
    device
        Where to compute: ``"cpu"`` or ``"cuda"``.
    progress
        Called after each step, with its number from 1 and the loss where it was just measured on
        queries that are kept apart, else the one before.

    Returns
    -------
    Mapping
        Of this layer, kind ``linear`` or ``layers``.
    int
        Steps that were made: fewer than asked if the loss got no better.
    """
    trained = _Layer(q, k, recipe, layer, torch.device(device), first)
    generator, optimizer = trained.generator, trained.optimizer
    lengths, steps = trained.lengths, recipe.steps
    kept = [torch.arange(length - 1, 0, -_KEPT)[:recipe.queries] for length in lengths]
    trained.fit_scale(0, kept[0])
    learned_from = [_others(length, apart) for length, apart in zip(lengths, kept, strict=True)]
    every = max(1, steps // _CHECKS)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    best, best_weights, in_vain, step, apart_loss = math.inf, trained.snapshot(), 0, 0, math.inf
    for step in range(1, steps + 1):
        text = int(torch.randint(len(lengths), (1,), generator=generator))
        among = learned_from[text]
        at = among[torch.randint(len(among), (recipe.queries,), generator=generator)]
        beta = None if recipe.surrogate == "straight-through" \
            else _SOFT * (_HARD / _SOFT) ** (step / steps)
        optimizer.zero_grad()
        trained.loss(text, at, beta).sum().backward()
        optimizer.step()
        schedule.step()
        if step % every == 0 or step == steps:
            with torch.no_grad():
                apart_loss = float(np.mean([float(trained.loss(i, apart, None).mean())
                                            for i, apart in enumerate(kept)]))
            if apart_loss < best:
                best, best_weights, in_vain = apart_loss, trained.snapshot(), 0
            else:
                in_vain += 1
        progress(step, apart_loss)
        if in_vain == _PATIENCE:
            break
    trained.restore(best_weights)
    return Mapping.learned(trained.weights("q"), trained.weights("k"), kv_heads=len(k[0])), step


def _others(length: int, apart: torch.Tensor) -> torch.Tensor:
    """The queries that are not kept apart and see more keys than are looked for, if any do."""
    chosen = torch.ones(length, dtype=torch.bool)
    chosen[apart] = False
    if chosen[TOP:].any():
        chosen[:TOP] = False
    return chosen.nonzero().squeeze(1) if chosen.any() else torch.arange(length)


def _from_the_start(q: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The first key of queries that see all keys before them."""
    return [torch.zeros(x.shape[1], dtype=torch.int64) for x in q]


def recall(mapping: Mapping, q: Sequence[torch.Tensor], k: Sequence[torch.Tensor], *,
           first: Sequence[torch.Tensor] | None = None, n: int = 48, sink: int = 4,
           recent: int = 12, every: int = 16) -> Recall:
    """Look how many of the true top keys a layer's codes find.

    Parameters
    ----------
    mapping
        Of the layer.
    q, k, first
        As for :func:`learn_layer`; causal.
    n, sink, recent
        What is selected by distance besides the first and the last keys.
    every
        Of the second half of each text, one query in so many is asked.
    """
    nearest, selected = [], []
    for queries, keys, starts in zip(q, k, first or _from_the_start(q), strict=True):
        tokens = keys.shape[1]
        at = np.arange(tokens // 2, tokens, every)
        key, start = np.arange(tokens), starts.numpy()[at, None]
        hidden = (key < start) | (key > at[:, None])
        true = queries[:, at].double().numpy() @ np.repeat(
            keys.double().numpy(), len(queries) // len(keys), axis=0).transpose(0, 2, 1)
        k_codes = mapping.key_codes(keys.numpy())
        k_codes = np.repeat(k_codes, len(queries) // len(k_codes), axis=0)
        q_codes = mapping.query_codes(queries[:, at].numpy())
        distance = np.bitwise_count(q_codes[:, :, None] ^ k_codes[:, None]).sum(
            axis=3, dtype=np.int64)
        # The later of two keys at the same distance comes first.
        rank = -(distance * tokens + (tokens - 1 - key)).astype(np.float64)
        true[:, hidden] = -np.inf
        rank[:, hidden] = -np.inf
        wanted = _top(true, TOP)
        count = wanted.sum(axis=2)
        always = ~hidden & ((key < start + sink) | (key > at[:, None] - recent))
        others = np.where(always, -np.inf, rank)
        nearest.append(((wanted & _top(rank, TOP)).sum(axis=2) / count).mean(axis=1))
        selected.append(((wanted & (_top(others, n) | always)).sum(axis=2) / count).mean(axis=1))
    return Recall(np.mean(nearest, axis=0), np.mean(selected, axis=0))


def _top(score: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """Which of the last axis are the largest; never those of minus infinity."""
    places = min(count, score.shape[-1])
    chosen = np.argpartition(-score, places - 1, axis=-1)[..., :places]
    found = np.zeros(score.shape, bool)
    np.put_along_axis(found, chosen, True, axis=-1)
    return found & np.isfinite(score)


def device_of(name: str | None) -> str:
    """Where to compute: what is asked for, if it is there; None is CUDA where it is."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise NetworkError(f"the device must be cpu or cuda, not {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise NetworkError("there is no CUDA device, or PyTorch was installed without CUDA; take "
                           "cpu")
    return name


def fingerprint(network: Network) -> str:
    """A number that tells a network's weights from others': 12 hexadecimal digits."""
    found = hashlib.sha256()
    for name, weight in network.module.base_model.named_parameters():
        # What tells models apart is not in a few elements.
        found.update(f"{name} {tuple(weight.shape)}".encode())
        found.update(weight.detach().reshape(-1)[::61].contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def made_for(mapping: Mapping, network: Network) -> bool:
    """Whether codes were learned from this network, or do not say of which."""
    match = re.search(r"\bweights ([0-9a-f]{12})\b", mapping.source)
    return match is None or match[1] == fingerprint(network)


def longest_learned(mapping: Mapping) -> int | None:
    """Tokens of the longest text that codes were learned from, if they say it."""
    match = re.search(r"\btexts of at most (\d+) tokens\b", mapping.source)
    return None if match is None else int(match[1])


def save(path: Path, mapping: Mapping, found: Recall, steps: Sequence[int]) -> None:
    """Write a mapping, and beside it what reads mappings leaves alone.

    These are the tensors ``recall`` and ``recall_selected``, float32 [heads], and ``steps``, int64
    [layers].
    """
    mapping.save(path)
    contents = read_safetensors(path, lambda _: True)
    write_safetensors(path, {**contents.tensors, "recall": found.nearest.astype(np.float32),
                             "recall_selected": found.selected.astype(np.float32),
                             "steps": np.asarray(steps, np.int64)}, contents.metadata)


class Learner:
    """Learns the codes of a network's layers one by one, and keeps each as soon as it is there.

    Parameters
    ----------
    network
        The network.
    texts, held_out
        Tokens of the texts to learn from, and of those to measure recall on, at least one each.
    recipe
        How.
    layers
        Ascending.
    folder
        Where layers are kept until all are there; what is in it is not learned again.
    device
        ``"cpu"`` or ``"cuda"``.
    say
        Called with what is done now.

    Raises
    ------
    NetworkError
        A network that is not the model (:meth:`nearbit_nets.network.Network.verify`), a folder of
        another training, or too little memory.
    """

    def __init__(self, network: Network, texts: Sequence[Sequence[int]],
                 held_out: Sequence[Sequence[int]], recipe: Recipe, layers: Sequence[int],
                 folder: Path, *, device: str = "cpu",
                 say: Callable[[str], None] = lambda doing: None) -> None:
        """Look what is in the folder already."""
        self._network, self._recipe, self._layers = network, recipe, list(layers)
        self._texts, self._held_out = texts, held_out
        self._folder, self._device, self._say = folder, device, say
        self._weights = fingerprint(network)
        # Refused before anything is written.
        network.verify(torch.tensor([list(texts[0])]))
        self._begin()

    @property
    def missing(self) -> list[int]:
        """Layers that are still to be learned."""
        return [layer for layer in self._layers if not self._part(layer).exists()]

    def run(self) -> tuple[Mapping, Recall, list[int]]:
        """Learn what is missing.

        Returns
        -------
        Mapping
            Of all chosen layers, one layer after the other.
        Recall
            Of its heads, in the same order, on the texts that were held out.
        list of int
            Steps of each layer.
        """
        missing = self.missing
        size = self._layers_at_once()
        for start in range(0, len(missing), size):
            part = missing[start:start + size]
            learned = self._capture(self._texts, part, is_exact=False)
            apart = self._capture(self._held_out, part, is_exact=True)
            for layer in part:
                self._learn(layer, learned.pop(layer), apart.pop(layer))
        return self._join()

    def _begin(self) -> None:
        """Write down what is learned, or see that it is the same."""
        settings = {
            "weights": self._weights, **asdict(self._recipe),
            "texts": [_digest(ids) for ids in self._texts],
            "held_out": [_digest(ids) for ids in self._held_out]}
        file = self._folder / "settings.json"
        try:
            known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        except (OSError, ValueError):
            known = {}
        if known is None:
            file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        elif known != settings:
            other = [name for name in settings if known.get(name) != settings[name]]
            raise NetworkError(
                f"{self._folder} holds layers that were learned with other settings "
                f"({', '.join(other)}); give the same settings to resume, or remove the folder")

    def _part(self, layer: int) -> Path:
        return self._folder / f"layer-{layer}.safetensors"

    def _layers_at_once(self) -> int:
        """How many layers' queries and keys there is memory for."""
        network = self._network
        rows = sum(map(len, self._texts)) + sum(map(len, self._held_out))
        one = rows * (network.heads + network.kv_heads) * network.head_dim * 4
        free = available_memory()
        # A layer in training has its own copies, in float64 for a moment.
        size = len(self._layers) if free is None else int((free - 8 * one) // (2 * one))
        if size < 1:
            raise NetworkError(f"{rows} tokens of texts need about {10 * one / 1e9:.1f} GB of "
                               f"memory, but only {(free or 0) / 1e9:.1f} GB are free; take "
                               f"fewer or shorter texts")
        return size

    def _capture(self, texts: Sequence[Sequence[int]], layers: Sequence[int], *,
                 is_exact: bool) -> dict[int, list[_Captured]]:
        """What some layers are given on each text, to measure on or to learn from."""
        # Several times as fast, and nothing beside what differs from text to text.
        rounded = not is_exact and _fast_dtype(torch.device("cpu")) == torch.bfloat16
        found: dict[int, list[_Captured]] = {x: [] for x in layers}

        def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                   counts: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
            if layer in found:
                found[layer].append((q[0].float(), k[0].float(), first[0]))
            return reference_attention(layer, q, k, v, counts, first)

        for i, ids in enumerate(texts):
            self._say(f"running the model on text {i + 1} of {len(texts)}")
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=rounded):
                self._network.run(torch.tensor([list(ids)]), attend)
        return found

    def _learn(self, layer: int, learned: list[_Captured], apart: list[_Captured]) -> None:
        recipe = self._recipe
        done = self._layers.index(layer) + 1
        of_all = f"layer {layer} ({done} of {len(self._layers)})"
        mapping, steps = learn_layer(
            [q for q, _, _ in learned], [k for _, k, _ in learned], recipe,
            first=[first for _, _, first in learned], layer=layer, device=self._device,
            progress=lambda step, loss: self._say(
                f"{of_all}: step {step} of {recipe.steps}"
                + (f", loss {loss:.3f}" if math.isfinite(loss) else "")))
        found = recall(mapping, [q for q, _, _ in apart], [k for _, k, _ in apart],
                       first=[first for _, _, first in apart], sink=recipe.sink,
                       recent=recipe.recent)
        temporary = self._part(layer).with_suffix(".tmp")
        save(temporary, mapping, found, [steps])
        temporary.replace(self._part(layer))

    def _join(self) -> tuple[Mapping, Recall, list[int]]:
        tensors: list[dict[str, NDArray[Any]]] = []
        for layer in self._layers:
            try:
                tensors.append(read_safetensors(self._part(layer), lambda _: True).tensors)
            except MappingError as error:
                raise NetworkError(f"{self._part(layer)}: {error}; remove the file to learn the "
                                   f"layer again") from None

        def joined(name: str) -> NDArray[Any]:
            return np.concatenate([each[name] for each in tensors])

        depth = 1 if self._recipe.kind == "linear" else 3
        found = Recall(joined("recall").astype(np.float64),
                       joined("recall_selected").astype(np.float64))
        recipe = self._recipe
        sides = [[(joined(f"{side}.{i}.weight"), joined(f"{side}.{i}.bias"))
                  for i in range(depth)] for side in "qk"]
        layers = "all layers" if len(self._layers) == self._network.layers \
            else f"layers {', '.join(map(str, self._layers))}"
        mapping = Mapping.learned(
            *sides, kv_heads=len(self._layers) * self._network.kv_heads, source=(
                f"learned from {self._network.name}, weights {self._weights}, {layers}; loss "
                f"{recipe.loss}, {recipe.surrogate}, {recipe.steps} steps, seed {recipe.seed}, "
                f"{len(self._texts)} texts of at most {max(map(len, self._texts))} tokens; "
                f"recall of the top {TOP} on held-out text {found.nearest.mean():.3f}"))
        return mapping, found, [int(each["steps"][0]) for each in tensors]


def _digest(ids: Sequence[int]) -> str:
    return hashlib.sha256(np.asarray(ids, np.int64).tobytes()).hexdigest()[:16]
