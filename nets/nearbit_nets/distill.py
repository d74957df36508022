"""Hamming attention distillation: a network learns to attend by the signs of queries and keys.

The student is a copy of the teacher whose queries and keys are replaced by their signs, times one
standard deviation for each head; of the keys only the N nearest are weighted. It is trained to do
what the teacher does. Source: HAD (arXiv 2502.01770). Training computes floats; what a checkpoint
is worth is measured with the golden model (:mod:`nearbit_nets.evaluation`).
"""

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from nearbit_nets.errors import NetworkError
from nearbit_nets.golden import GoldenAttention, Method
from nearbit_nets.loading import available_memory
from nearbit_nets.nearest_attention import nearest_attention
from nearbit_nets.network import Network, reference_attention


__all__ = ["STAGES", "LOGIT_SCALES", "Distilled", "Plan", "distill", "save", "logit_scales"]


STAGES = ("straight-through", "published")
"""See :class:`Plan`."""

LOGIT_SCALES = "nearbit_logit_scale.npz"
"""The file in a checkpoint's folder with the logit scale of each head."""

# Where the published stages end, as shares of the first round; the paper gives no such shares.
_SOFT, _SHARP = 0.3, 0.6

_WARM_UP = 0.03
_LAST = 0.92

# Of each further round: its time as a share of that of the one before, and its learning rates as
# a share of the first one's.
_SHORTER, _SLOWER = 0.6, 0.6

# Names of projections of queries and keys; some make values as well.
_PROJECTIONS = ("q_proj", "k_proj", ".query.", ".key.", "q_lin", "k_lin", "qkv", "query_key_value",
                "c_attn", "q_a_proj", "q_b_proj", "kv_a_proj", "kv_b_proj")

_SIGMA_BATCHES = 8
_LEAST = 33
_APART = 20
_MOST_APART = 48


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a network is distilled.

    Parameters
    ----------
    n
        Keys that a query attends to.
    stages
        ``"straight-through"``: signs from the start, with the gradient 1 / sigma where an element
        is within sigma of 0; the last 8 % of a round without the loss of the attention maps.
        ``"published"``: for 30 % of the first round ``c tanh(x / (c sigma))`` with c from 5 to 1,
        for 30 % ``tanh(x / (c sigma))`` with c from 1 to 0.05, then as before; both times sigma.
    steps, minutes
        Steps of AdamW, or wall time; one of them.
    rounds
        Times that the learning rates rise and fall to 0. The student is the mean of the weights
        after each (stochastic weight averaging, arXiv 1803.05407). A round has 0.6 of the time of
        the one before it; those after the first have 0.6 of its rates, and hard signs only.
    batch
        Passages in a step.
    passage
        The most tokens of a passage, at least 33.
    rate, qk_rate
        Largest learning rates: of all weights, and of the projections of queries and keys (with
        the values', where one weight makes all).
    seed
        Of all random choices.
    """

    n: int = 32
    stages: str = STAGES[0]
    steps: int | None = None
    minutes: float | None = None
    rounds: int = 1
    batch: int = 16
    passage: int = 128
    rate: float = 2.5e-4
    qk_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        """Check all of it."""
        if self.stages not in STAGES:
            raise NetworkError(f"stages must be one of {', '.join(STAGES)}, not {self.stages!r}")
        if (self.steps is None) == (self.minutes is None):
            raise NetworkError("either steps or minutes must be given")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise NetworkError(f"minutes must be greater than 0, not {self.minutes}")
        for name, value, least in (("n", self.n, 1), ("steps", self.steps, 1),
                                   ("rounds", self.rounds, 1), ("batch", self.batch, 1),
                                   ("passage", self.passage, _LEAST), ("seed", self.seed, 0)):
            if value is not None and value < least:
                raise NetworkError(f"{name} must be at least {least}, not {value}")
        for name, rate in (("rate", self.rate), ("qk_rate", self.qk_rate)):
            if not 0 < rate < math.inf:
                raise NetworkError(f"{name} must be greater than 0, not {rate}")


@dataclass(frozen=True, eq=False)
class Distilled:
    """What came out.

    Parameters
    ----------
    network
        The student.
    logit_scale
        Float64 [layers, heads], for :class:`nearbit_nets.golden.Method`.
    steps, seconds
        Steps that were made, and the time they took.
    passages
        Passages that were learned from.
    before, after
        On passages that were kept apart, with the golden model's method ``had``: of an encoder the
        mean cosine with the teacher's embedding, of a decoder the loss in nats; of the teacher's
        own weights with plain signs, and of the student's.
    teacher
        The same of the teacher with exact attention: 1, or its loss.
    """

    network: Network
    logit_scale: NDArray[np.float64]
    steps: int
    seconds: float
    passages: int
    before: float
    after: float
    teacher: float


class _Sign(torch.autograd.Function):
    """The sign of x, with the gradient 1 / sigma where x is within sigma of 0."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, sigma)
        one = x.new_ones(())
        return torch.where(x > 0, one, -one)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, sigma = ctx.saved_tensors
        return gradients[0] * (x.abs() <= sigma) / sigma, None


def _binary(x: torch.Tensor, sigma: torch.Tensor, done: float, stages: str) -> torch.Tensor:
    """What stands for x / sigma when a share of the training is done."""
    if stages == "published" and done < _SOFT:
        c = 5.0 + (1.0 - 5.0) * done / _SOFT
        return c * torch.tanh(x / (c * sigma))
    if stages == "published" and done < _SHARP:
        c = 1.0 + (0.05 - 1.0) * (done - _SOFT) / (_SHARP - _SOFT)
        return torch.tanh(x / (c * sigma))
    return _Sign.apply(x, sigma)


class _Teacher:
    """Exact attention, which keeps its queries and keys."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                 counts: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        self.kept[layer] = q, k
        return reference_attention(layer, q, k, v, counts, first)


class _Student:
    """Attention by signs, and how far its maps are from the teacher's."""

    def __init__(self, plan: Plan, sigma_q: torch.Tensor, sigma_k: torch.Tensor) -> None:
        self._plan, self._sigma = plan, (sigma_q, sigma_k)
        self.done = 0.0
        self.teacher: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.divergence: list[torch.Tensor] = []

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                 counts: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        sigma_q, sigma_k = (each[layer][None, :, None, None].to(q.dtype) for each in self._sigma)
        group = q.shape[1] // k.shape[1]
        scale = self._sigma[0][layer] * self._sigma[1][layer].repeat_interleave(group)
        keys, values = (
            x.repeat_interleave(group, dim=1)
            for x in (_binary(k, sigma_k, self.done, self._plan.stages), v))
        teacher = None
        if self.done < _LAST:
            teacher_q, teacher_k = self.teacher[layer]
            teacher = teacher_q, teacher_k.repeat_interleave(group, dim=1)
        output, divergence = nearest_attention(
            _binary(q, sigma_q, self.done, self._plan.stages), keys, values,
            scale / math.sqrt(q.shape[3]), counts, first, self._plan.n, teacher=teacher)
        self.divergence.append(divergence)
        return output


def distill(network: Network, texts: Sequence[str], plan: Plan, *,
            start: Network | None = None,
            say: Callable[[str], None] = lambda doing: None) -> Distilled:
    """Distil a network.

    Parameters
    ----------
    network
        The teacher.
    texts
        What to learn from. One passage of 20, but 48 at most, is kept apart.
    plan
        How. To go on with the same passages apart, the texts and the seed must be the same.
    start
        A student to go on with, which then sees the passages in reverse order; None is the
        teacher itself.
    say
        Called with what is done now.

    Raises
    ------
    NetworkError
        Texts that are too short, a student of another model, or too little memory.
    """
    _check_memory(network, plan)
    torch.manual_seed(plan.seed)
    rng = np.random.default_rng(plan.seed)
    learned, apart = _passages(network, texts, plan, rng)
    say("measuring the spread of queries and keys")
    sigma_q, sigma_k = _sigmas(network, learned, plan)
    group = network.heads // network.kv_heads
    logit_scale = (sigma_q * sigma_k.repeat_interleave(group, 1) / math.sqrt(network.head_dim)
                   ).double().numpy()
    module = copy.deepcopy(network.module)
    if start is not None:
        _check_student(start, network)
        module.load_state_dict(start.module.state_dict())
    module.requires_grad_(True)
    student = replace(network, module=module)
    attend = _Student(plan, sigma_q, sigma_k)
    started = time.perf_counter()
    steps = _train(network, student, attend, learned, plan, rng, say, further=start is not None)
    seconds = time.perf_counter() - started
    module.requires_grad_(False)
    say("measuring with the golden model")
    teacher = _measure(network, network, apart, None)
    before, after = (
        _measure(each, network, apart, Method(name="had", n=plan.n, logit_scale=logit_scale))
        for each in (network, student))
    return Distilled(student, logit_scale, steps, seconds, len(learned), before, after, teacher)


def _check_student(student: Network, teacher: Network) -> None:
    """Refuse weights of another model."""
    found, wanted = ({key: value.shape for key, value in network.module.state_dict().items()}
                     for network in (student, teacher))
    if found != wanted:
        raise NetworkError(f"{student.name} is not a student of {teacher.name}: its weights have "
                           f"other names or shapes")


def _check_memory(network: Network, plan: Plan) -> None:
    """Refuse what does not fit, before it takes long."""
    free = available_memory()
    weights = sum(weight.numel() for weight in network.module.parameters())
    rows = plan.batch * plan.passage
    config: Any = network.module.config
    outputs = config.vocab_size if network.kind == "decoder" else 0
    # The copy, its mean, its gradients and two moments; what a step keeps of each layer, and the
    # outputs.
    need = 4 * (5 * weights + rows * (
        network.layers * (24 * config.hidden_size + 2 * network.heads * plan.passage)
        + 6 * outputs))
    if free is not None and need > free:
        raise NetworkError(f"distilling {network.name} needs about {need / 1e9:.1f} GB of memory, "
                           f"but only {free / 1e9:.1f} GB are free; take a smaller batch or "
                           f"shorter passages")


def _passages(network: Network, texts: Sequence[str], plan: Plan, rng: np.random.Generator
              ) -> tuple[list[list[int]], list[list[int]]]:
    """Passages to learn from, and those kept apart."""
    if plan.passage > network.context:
        raise NetworkError(f"{network.name} takes at most {network.context} tokens, not "
                           f"{plan.passage}")
    found: list[list[int]] = []
    for text in texts:
        ids = network.tokens(text)
        if network.kind == "encoder":
            first, *inner, last = ids
            start = 0
            while len(inner) - start >= _LEAST - 2:
                size = int(rng.integers(_LEAST, plan.passage + 1)) - 2
                found.append([first, *inner[start:start + size], last])
                start += size
        else:
            found += [ids[start:start + plan.passage]
                      for start in range(0, len(ids) - plan.passage + 1, plan.passage)]
    found = [ids for ids in found if len(ids) >= _LEAST]
    if len(found) < 4:
        raise NetworkError(f"the texts make {len(found)} passages of up to {plan.passage} tokens, "
                           f"but at least 4 are needed; give longer texts, or more")
    order = rng.permutation(len(found))
    count = min(_MOST_APART, max(2, len(found) // _APART))
    return [found[i] for i in order[count:]], [found[i] for i in order[:count]]


def _batches(passages: Sequence[Sequence[int]], size: int, rng: np.random.Generator
             ) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One pass over all passages: tokens [batch, longest], padded by 0, and their lengths."""
    order = rng.permutation(len(passages))
    made = []
    # Passages of nearly the same length go together, among each 32 batches.
    for start in range(0, len(order), 32 * size):
        part = sorted(order[start:start + 32 * size], key=lambda i: len(passages[i]))
        for begin in range(0, len(part), size):
            chosen = [passages[i] for i in part[begin:begin + size]]
            lengths = torch.tensor([len(ids) for ids in chosen])
            ids = torch.zeros((len(chosen), int(lengths.max())), dtype=torch.int64)
            for row, each in zip(ids, chosen, strict=True):
                row[:len(each)] = torch.tensor(list(each))
            made.append((ids, lengths))
    return [made[i] for i in rng.permutation(len(made))]


def _forward(network: Network, ids: torch.Tensor, lengths: torch.Tensor, attend: Any
             ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
    """Hidden states before and after each layer, the last after the final norm; logits."""
    output = network.run(ids, attend, lengths=lengths if network.kind == "encoder" else None,
                         output_hidden_states=True)
    return tuple(output.hidden_states), output.logits if network.kind == "decoder" else None


def _sigmas(network: Network, passages: Sequence[Sequence[int]], plan: Plan
            ) -> tuple[torch.Tensor, torch.Tensor]:
    """Standard deviations of each head's queries and keys in the first batches."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    for ids, lengths in _batches(passages, plan.batch, np.random.default_rng(plan.seed)
                                 )[:_SIGMA_BATCHES]:
        teacher = _Teacher()
        with torch.no_grad():
            _forward(network, ids, lengths, teacher)
        real = torch.arange(ids.shape[1]) < lengths[:, None]
        sides = [torch.stack([teacher.kept[layer][side].transpose(1, 2)[real].float()
                              .std(dim=(0, 2)) for layer in range(network.layers)])
                 for side in (0, 1)]
        found.append((sides[0], sides[1]))
    q, k = (torch.stack(list(side)).mean(0).clamp_min(1e-6) for side in zip(*found, strict=True))
    return q, k


def _round(plan: Plan, done: float) -> tuple[int, float]:
    """Which round of a training it is, from 0, and what share of that is done."""
    lengths = _SHORTER ** np.arange(plan.rounds)
    ends = np.cumsum(lengths / lengths.sum())
    index = min(int(np.searchsorted(ends, done, side="right")), plan.rounds - 1)
    begin = ends[index - 1] if index else 0.0
    return index, float(min((done - begin) / (ends[index] - begin), 1.0))


def _train(teacher: Network, student: Network, attend: _Student,
           passages: Sequence[Sequence[int]], plan: Plan, rng: np.random.Generator,
           say: Callable[[str], None], *, further: bool) -> int:
    """Train the student in place; return the steps."""
    own: list[torch.Tensor] = []
    others: list[torch.Tensor] = []
    for name, weight in student.module.named_parameters():
        (own if any(part in name for part in _PROJECTIONS) else others).append(weight)
    if not own:
        raise NetworkError(f"the projections of queries and keys of {student.name} have unknown "
                           f"names, but need a learning rate of their own; take a Llama-like or "
                           f"BERT-like model")
    groups: list[dict[str, Any]] = [{"params": own, "lr": plan.qk_rate},
                                    {"params": others, "lr": plan.rate}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    rounded = torch.cpu._is_avx512_bf16_supported()
    mean = AveragedModel(student.module)
    started, step, index = time.perf_counter(), 0, 0
    while True:
        # Going on begins with what the first training came to last, or not at all.
        way = -1 if further and step == 0 else 1
        for ids, lengths in _batches(passages, plan.batch, rng)[::way]:
            done = step / plan.steps if plan.steps is not None else \
                (time.perf_counter() - started) / (60 * (plan.minutes or 1))
            before, (index, share) = index, _round(plan, done)
            if step and (index > before or done >= 1):
                mean.update_parameters(student.module)
            if done >= 1:
                student.module.load_state_dict(mean.module.state_dict())
                return step
            slower = _SLOWER if index else 1.0
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = slower * rate * min(
                    1.0, (share + 1e-3) / _WARM_UP, (1 - share) / (1 - _WARM_UP))
            with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
                loss = _loss(teacher, student, attend, ids, lengths,
                             max(share, _SHARP) if index else share)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*own, *others], 1.0)
            optimizer.step()
            step += 1
            say(f"step {step}{'' if plan.steps is None else f' of {plan.steps}'}, "
                f"{100 * done:.0f} % done, loss {float(loss.detach()):.3f}")


def _loss(teacher: Network, student: Network, attend: _Student, ids: torch.Tensor,
          lengths: torch.Tensor, done: float) -> torch.Tensor:
    """How far the student is from the teacher: attention maps, hidden states, and outputs."""
    watched = _Teacher()
    with torch.no_grad():
        wanted, target = _forward(teacher, ids, lengths, watched)
    attend.done, attend.teacher, attend.divergence = done, watched.kept, []
    found, given = _forward(student, ids, lengths, attend)
    real = (torch.arange(ids.shape[1]) < lengths[:, None])[:, :, None]
    states = sum((_distance(x, y, real) for x, y in zip(found[1:], wanted[1:], strict=True)),
                 torch.zeros(()))
    loss = states / len(wanted[1:]) + _distance(found[-1], wanted[-1], real)
    loss = loss + torch.stack(attend.divergence).mean()
    if given is None or target is None: # an encoder has no logits
        cosine = functional.cosine_similarity(
            _pooled(found[-1].float(), lengths, student.pooling),
            _pooled(wanted[-1].float(), lengths, student.pooling))
        return loss + (1 - cosine).mean()
    given, target = (logits.float().log_softmax(2) for logits in (given, target))
    return loss + (target.exp() * (target - given)).sum(2).mean()


def _distance(found: torch.Tensor, wanted: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Mean square error of what is no padding, as a share of the mean square."""
    found, wanted = found.float() * real, wanted.float() * real
    return (found - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)


def _pooled(states: torch.Tensor, lengths: torch.Tensor, pooling: str) -> torch.Tensor:
    if pooling == "cls":
        return states[:, 0]
    real = torch.arange(states.shape[1]) < lengths[:, None]
    return (states * real[:, :, None]).sum(1) / lengths[:, None]


def _measure(network: Network, teacher: Network, passages: Sequence[Sequence[int]],
             method: Method | None) -> float:
    """The mean cosine with the teacher's embeddings, or the loss."""
    attend = None if method is None else GoldenAttention(network, method)
    if network.kind == "decoder":
        return float(np.mean([network.losses(ids, attend).mean() for ids in passages]))
    found, wanted = network.embed(passages, attend), teacher.embed(passages)
    return float((found.astype(np.float64) * wanted).sum(1).mean())


def save(folder: Path, distilled: Distilled, plan: Plan) -> None:
    """Write a checkpoint that :func:`nearbit_nets.loading.load` takes as ``hf:FOLDER``.

    Beside the weights and the tokenizer stands :data:`LOGIT_SCALES`: ``logit_scale`` float64
    [layers * heads], layer by layer, the array of `nearbit simulate`, and ``layer`` and ``head``
    int64, which head each is of.
    """
    network = distilled.network
    network.module.save_pretrained(folder)
    network.tokenizer.save(str(folder / "tokenizer.json"))
    if network.kind == "encoder":
        pooling = folder / "1_Pooling"
        pooling.mkdir(exist_ok=True)
        (pooling / "config.json").write_text(json.dumps({
            "word_embedding_dimension": network.module.config.hidden_size,
            "pooling_mode_cls_token": network.pooling == "cls",
            "pooling_mode_mean_tokens": network.pooling == "mean"}, indent=2) + "\n",
            encoding="utf-8")
    np.savez(folder / LOGIT_SCALES, allow_pickle=False,
             logit_scale=distilled.logit_scale.reshape(-1),
             layer=np.repeat(np.arange(network.layers), network.heads),
             head=np.tile(np.arange(network.heads), network.layers), n=np.array(plan.n))


def logit_scales(network: Network) -> NDArray[np.float64] | None:
    """Those of a network from a distilled checkpoint's folder, float64 [layers, heads], or None.

    Raises :class:`NetworkError` if the file is damaged or of another network.
    """
    file = Path(network.name.removeprefix("hf:")) / LOGIT_SCALES
    if not network.name.startswith("hf:") or not file.exists():
        return None
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = np.asarray(arrays["logit_scale"], np.float64)
    except Exception: # a damaged archive surfaces as almost any
        raise NetworkError(f"{file} is damaged; distil the model again, or remove the file to take "
                           f"the logit scale of each text") from None
    if found.shape != (network.layers * network.heads,) or not np.isfinite(found).all() \
            or (found < 0).any():
        raise NetworkError(f"{file} must hold one logit scale for each of the "
                           f"{network.layers * network.heads} heads, finite and not negative")
    return found.reshape(network.layers, network.heads)
