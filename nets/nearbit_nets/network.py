"""A network of Transformers whose attention can be replaced, layer by layer.

What stands between hidden states and outputs is the model's own code, always. Before the first
answer, :meth:`Network.verify` compares the network, with exact attention in place of its own, to
the model as it is; a model that is not what it seems is refused there.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AttentionInterface, AttentionMaskInterface, Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import sdpa_mask

from nearbit_nets.errors import NetworkError


__all__ = ["Attend", "Network", "Past", "Sizes", "reference_attention", "sizes"]


# Rows of hidden states that become logits at a time: a vocabulary of 50,000 makes 100 MB of them.
_ROWS = 512

_NAME = "nearbit"

# The largest difference that is rounding, as a share of a token's hidden states or logits. Float32
# sums in another order differ by 1e-6 after 30 layers; a scale, a key or a bias that is left out
# changes them by a hundredth and more.
_ROUNDING = 1e-4

# Tokens that are compared; with a window, so many more than it holds.
_COMPARED = 128

# Positions of which logits are compared, of all of which hidden states are.
_COMPARED_LOGITS = 64

# What Transformers may give an attention beside its mask, and why that is refused.
_REFUSED = {
    "softcap": "caps its scores (softcap)",
    "s_aux": "has learned sinks (s_aux), logits that have no key in the range a query sees",
    "position_bias": "adds a bias by position to its scores (position_bias)",
}


class Attend(Protocol):
    """What stands in place of a network's attention."""

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                 counts: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Attention of one layer; its softmax is of ``q.k / sqrt(head_dim)``.

        Parameters
        ----------
        layer
            Which, from 0.
        q
            Queries after the rotary embedding, [batch, heads, queries, head_dim].
        k, v
            Keys and values, [batch, kv_heads, tokens, head_dim] and [..., value_dim]; head h uses
            key head h // (heads // kv_heads).
        counts
            Keys that each query sees, from its ``first`` on, int64 [batch, queries], at least 1.
            The tokens are those of k behind those of the :class:`Past`.
        first
            The first of them, int64 [batch, queries]: above 0 with a sliding window.

        Returns
        -------
        torch.Tensor
            [batch, heads, queries, value_dim], of q's dtype.
        """
        ...


def reference_attention(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                        counts: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Exact attention to all keys that a query sees: an :class:`Attend`."""
    group = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(group, dim=1) for x in (k, v))
    seen = _seen(k.shape[2], counts, first)[:, None]
    return torch.nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=seen)


def _seen(tokens: int, counts: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Which keys each query sees, bool [batch, queries, tokens]."""
    key = torch.arange(tokens)
    return (key >= first[..., None]) & (key < (first + counts)[..., None])


class _CountedLayer(DynamicLayer):
    """How many tokens a layer has seen, and nothing of them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tokens = 0

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *arguments: Any,
               **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self.tokens += key_states.shape[-2]
        return key_states, value_states

    def get_seq_length(self, *arguments: Any) -> int:
        return self.tokens


class Past(Cache):
    """How many tokens came before, for a network whose :class:`Attend` holds their keys."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__(layer_class_to_replicate=_CountedLayer)


class _Steps:
    """Exact attention that keeps the keys and values of all tokens before: an Attend."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                 counts: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        if layer in self._kept:
            k, v = (torch.cat(both, dim=2) for both in zip(self._kept[layer], (k, v), strict=True))
        self._kept[layer] = k, v
        return reference_attention(layer, q, k, v, counts, first)


class _Calls:
    """Exact attention that counts the calls of each layer, with their shapes: an Attend."""

    def __init__(self) -> None:
        self.shapes: dict[int, list[tuple[int, ...]]] = {}

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                 counts: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        self.shapes.setdefault(layer, []).append(
            (q.shape[1], k.shape[1], q.shape[3], v.shape[3]))
        return reference_attention(layer, q, k, v, counts, first)


@dataclass(eq=False)
class _Replacement:
    """What stands in place of a model's attention during one forward pass."""

    attend: Attend
    family: str
    kind: str
    lengths: torch.Tensor | None
    # Of each mask that was met, by its identity: layers of a kind have it in common.
    ranges: dict[int, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    calls: int = 0


_current: ContextVar[_Replacement] = ContextVar("nearbit_attention")


def _attention(module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor,
               value: torch.Tensor, attention_mask: torch.Tensor | None,
               scaling: float | None = None, **options: Any) -> tuple[torch.Tensor, None]:
    """Attention as Transformers calls it."""
    replacement = _current.get()
    # Some attentions do not say which layer they are in; all are called in their order.
    index = getattr(module, "layer_idx", None)
    layer = index if isinstance(index, int) else replacement.calls
    replacement.calls += 1
    for name, what in _REFUSED.items():
        if options.get(name) is not None:
            raise NetworkError(
                f"the attention of {replacement.family}, layer {layer}, {what}, which the "
                f"accelerator does not compute; take a model without")
    counts, first = _range(replacement, layer, query, key, attention_mask)
    head_dim = query.shape[3]
    if scaling is not None and abs(scaling * head_dim ** 0.5 - 1) > 1e-6:
        query = query * (scaling * head_dim ** 0.5)
    output = replacement.attend(layer, query, key, value, counts, first)
    return output.transpose(1, 2).contiguous(), None


def _range(replacement: _Replacement, layer: int, query: torch.Tensor, key: torch.Tensor,
           mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The keys that each query sees, counts and first, int64 [batch, queries]."""
    batch, queries, tokens = query.shape[0], query.shape[2], key.shape[2]
    if mask is None:
        if replacement.kind == "decoder":
            counts = torch.arange(tokens - queries + 1, tokens + 1).expand(batch, -1)
        elif replacement.lengths is None:
            counts = torch.full((batch, queries), tokens)
        else:
            counts = replacement.lengths[:, None].expand(-1, queries)
        return counts, torch.zeros_like(counts)
    if id(mask) not in replacement.ranges:
        where = f"the attention of {replacement.family}, layer {layer},"
        counts, first = _range_of_mask(mask, replacement.lengths, where)
        counts, first = (x.expand(batch, -1) for x in (counts, first))
        if replacement.kind == "decoder":
            at = torch.arange(mask.shape[3] - queries, mask.shape[3])
            wrong = (first + counts != at + 1).nonzero()
            if len(wrong):
                row, query_at = wrong[0].tolist()
                last = int(first[row, query_at] + counts[row, query_at]) - 1
                raise NetworkError(
                    f"{where} is not causal: token {int(at[query_at])} sees tokens up to {last}, "
                    f"not only up to itself; take a model that predicts each token "
                    f"from those before it")
        replacement.ranges[id(mask)] = mask, counts, first
    return replacement.ranges[id(mask)][1:]


def _range_of_mask(mask: torch.Tensor, lengths: torch.Tensor | None, where: str
                   ) -> tuple[torch.Tensor, torch.Tensor]:
    """Read which keys a mask lets each query see; they must be one range, of all heads alike."""
    seen = mask
    if mask.dtype != torch.bool:
        seen = mask == 0
        if (~seen & (mask > torch.finfo(mask.dtype).min / 2)).any():
            raise NetworkError(f"{where} adds a bias to its scores (ALiBi or relative positions), "
                               f"which the accelerator does not compute; take a model with rotary "
                               f"or learned positions")
    if mask.ndim != 4 or (seen != seen[:, :1]).any():
        raise NetworkError(f"{where} has a mask that differs from head to head, which the "
                           f"accelerator does not compute; take a model whose heads see the same "
                           f"keys")
    seen = seen[:, 0]
    if lengths is not None:
        # With a window, padding may see nothing; what it gives is not looked at.
        idle = (torch.arange(seen.shape[1]) >= lengths[:, None]) & ~seen.any(2)
        seen = seen | (idle[:, :, None] & (torch.arange(seen.shape[2]) == 0))
    counts, first = seen.sum(2), seen.to(torch.uint8).argmax(2)
    if (seen != _seen(seen.shape[2], counts, first)).any() or int(counts.min()) < 1:
        row, query = (seen != _seen(seen.shape[2], counts, first)).any(2).nonzero()[0].tolist() \
            if int(counts.min()) else (counts == 0).nonzero()[0].tolist()
        raise NetworkError(f"{where} lets query {query} see the keys "
                           f"{_listed(seen[row, query].nonzero().flatten().tolist())}, which are "
                           f"not one contiguous range; take a model with causal masks or sliding "
                           f"windows")
    return counts, first


def _listed(keys: Sequence[int]) -> str:
    """Show ascending numbers in short: 0-3,8."""
    parts: list[list[int]] = []
    for key in keys:
        if parts and key == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], key]
        else:
            parts.append([key])
    return ",".join("-".join(map(str, part)) for part in parts) or "of no token"


def _mask(*arguments: Any, **options: Any) -> torch.Tensor | None:
    """The mask as Transformers makes it, even where its own attention can do without."""
    options.update(allow_is_causal_skip=False, allow_is_bidirectional_skip=False)
    return sdpa_mask(*arguments, **options)


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)


@contextmanager
def _replaced(module: PreTrainedModel, replacement: _Replacement) -> Iterator[None]:
    """Put something in place of the attention of all layers of a model, for a while."""
    before: Any = module.config._attn_implementation
    token = _current.set(replacement)
    try:
        module.set_attn_implementation(_NAME)
        yield
    finally:
        module.set_attn_implementation(before)
        _current.reset(token)


class Sizes(NamedTuple):
    """Layers of attention; query and key heads of each; elements of a query and of a value."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int


def sizes(name: str, kind: str, module: PreTrainedModel) -> Sizes:
    """Look which sizes a model's attention has, by running it on a few tokens.

    Parameters
    ----------
    name, kind, module
        As of :class:`Network`.

    Raises
    ------
    NetworkError
        A model whose layers do not all have one attention that can be replaced, of one shape.
    """
    config: Any = module.config
    layers = int(config.num_hidden_layers)
    family = str(config.model_type)
    calls = _Calls()
    ids = torch.arange(2, 10).clamp_max(int(config.vocab_size) - 1)[None]
    with torch.no_grad(), _replaced(module, _Replacement(calls, family, kind, None)):
        module(input_ids=ids)
    _check_calls(name, family, layers, calls)
    return Sizes(layers, *calls.shapes[0][0])


def _check_calls(name: str, family: str, layers: int, calls: _Calls) -> None:
    """Refuse a model of which a layer has no attention, several, or one of another shape."""
    found = calls.shapes
    if not found:
        raise NetworkError(f"{name} is of the family {family}, which computes its attention in "
                           f"code that cannot be replaced; take a Llama-like or BERT-like model")
    missing = sorted(set(range(layers)) - set(found))
    if missing:
        raise NetworkError(f"{name} is of the family {family}, whose layer {missing[0]} has no "
                           f"attention: it is a hybrid with layers that the accelerator does not "
                           f"compute; take a model with attention in all layers")
    for layer, shapes in sorted(found.items()):
        if layer >= layers:
            raise NetworkError(f"{name} is of the family {family}, which has an attention of layer "
                               f"{layer} beside its {layers} layers; take another model")
        if len(shapes) != 1:
            raise NetworkError(f"{name} is of the family {family}, whose layer {layer} computes "
                               f"attention {len(shapes)} times instead of once; take another model")
        if shapes != found[0]:
            raise NetworkError(f"{name} is of the family {family}, whose layers 0 and {layer} "
                               f"differ in query heads, key heads and elements of queries and "
                               f"values, {found[0][0]} and {shapes[0]}; take a model whose layers "
                               f"are alike")


@dataclass(frozen=True, eq=False)
class Network:
    """A language model or a sentence encoder, in float32 and evaluation mode.

    Whatever stands in for the attention, the first use of it is preceded by :meth:`verify`.

    Parameters
    ----------
    name
        What it was loaded by.
    kind
        ``"decoder"``: predicts the next token. ``"encoder"``: embeds a text.
    module
        The model: of a decoder with its head (``AutoModelForCausalLM``), of an encoder without.
    tokenizer
        From text to tokens, special ones included, without padding and truncation.
    layers, heads, kv_heads, head_dim, value_dim
        As :func:`sizes` finds them.
    context
        The most tokens of a text.
    pooling
        ``"mean"`` or ``"cls"``: what an encoder makes its embedding of.
    """

    name: str
    kind: str
    module: PreTrainedModel
    tokenizer: Tokenizer
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    context: int
    pooling: str = "mean"
    _verified: set[str] = field(default_factory=set, init=False, repr=False)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text; :class:`NetworkError` if the model has no use for them."""
        try:
            ids = list(self.tokenizer.encode(text).ids)
        except Exception as error: # the library has no class of its own
            raise NetworkError(f"the tokenizer of {self.name} cannot split the text: {error}"
                               ) from None
        if not ids:
            raise NetworkError(f"the tokenizer of {self.name} makes no tokens of the text")
        embeddings: Any = self.module.get_input_embeddings()
        rows = len(embeddings.weight)
        if max(ids) >= rows:
            raise NetworkError(f"the tokenizer of {self.name} makes token {max(ids)} of the text, "
                               f"but the model has {rows} embeddings; take the tokenizer.json of "
                               f"this model")
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return str(self.tokenizer.decode(list(ids)))

    def run(self, ids: torch.Tensor, attend: Attend | None = None, *,
            lengths: torch.Tensor | None = None, past: Past | None = None,
            **options: Any) -> Any:
        """Call the model; gradients flow through ``attend``.

        Parameters
        ----------
        ids
            Tokens, int64 [batch, tokens]; those beyond a sequence's length are not looked at.
        attend
            What stands in place of the model's own attention.
        lengths
            Of a padded batch, int64 [batch].
        past
            The tokens that came before, whose keys ``attend`` then must hold; these are added.
        options
            Whatever the model's ``forward`` takes besides.

        Returns
        -------
        ModelOutput
            What the model returns.

        Raises
        ------
        NetworkError
            The first time: whatever :meth:`verify` refuses.
        """
        if attend is not None:
            self.verify(ids, lengths, steps=past is not None)
        return self._run(ids, attend, lengths, past, options)

    def _run(self, ids: torch.Tensor, attend: Attend | None, lengths: torch.Tensor | None,
             past: Past | None, options: dict[str, Any]) -> Any:
        inputs: dict[str, Any] = {"input_ids": ids, **options}
        if self.kind == "decoder":
            inputs["use_cache"] = past is not None
        if past is not None:
            # Transformers 5.20 or so renamed it, and warns about the old name.
            known = inspect.signature(self.module.forward).parameters
            inputs["cache" if "cache" in known else "past_key_values"] = past
        if lengths is not None:
            inputs["attention_mask"] = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        if attend is None:
            return self.module(**inputs)
        family = str(self.module.config.model_type)
        with _replaced(self.module, _Replacement(attend, family, self.kind, lengths)):
            return self.module(**inputs)

    def verify(self, ids: torch.Tensor, lengths: torch.Tensor | None = None, *,
               steps: bool = False) -> None:
        """Compare the network to the model as it is, the first time; later this does nothing.

        The network with exact attention in place of its own must give the hidden states and the
        logits of the model's own forward pass, but for rounding, and each layer must call what
        stands in its place once, with the sizes that are known. The first text that is longer than
        a sliding window is compared as well.

        Parameters
        ----------
        ids
            Tokens, int64 [batch, tokens], of which the first few hundred are taken, more than a
            sliding window holds.
        lengths
            Of a padded batch.
        steps
            Whether a text is to be continued token by token; the last token is then compared so.

        Raises
        ------
        NetworkError
            A network that is not the model, in one sentence.
        """
        config: Any = self.module.config
        windows = {size for name in ("sliding_window", "attention_chunk_size", "local_attention")
                   if isinstance(size := getattr(config, name, None), int)}
        needed = {"whole", *(["steps"] if steps else []),
                  *(f"window {size}" for size in windows if ids.shape[1] > size)}
        missing = needed - self._verified
        if not missing:
            return
        size = _COMPARED + max(windows, default=0)
        ids = ids[:, :size]
        lengths = None if lengths is None else lengths.clamp_max(size)
        options: dict[str, Any] = {"output_hidden_states": True}
        if self.kind == "decoder":
            options["logits_to_keep"] = torch.linspace(
                0, ids.shape[1] - 1, min(_COMPARED_LOGITS, ids.shape[1])).long()
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            wanted = self._run(ids, None, lengths, None, options)
            if missing != {"steps"}:
                self._verify_whole(ids, lengths, options, wanted)
            if "steps" in missing:
                self._verify_steps(ids, wanted.logits[:, -1:])
        self._verified.update(missing)

    def _verify_whole(self, ids: torch.Tensor, lengths: torch.Tensor | None,
                      options: dict[str, Any], wanted: Any) -> None:
        calls = _Calls()
        found = self._run(ids, calls, lengths, None, options)
        _check_calls(self.name, self.module.config.model_type, self.layers, calls)
        claimed = self.heads, self.kv_heads, self.head_dim, self.value_dim
        if calls.shapes[0][0] != claimed:
            raise NetworkError(f"{self.name} has query heads, key heads and elements of queries "
                               f"and of values {calls.shapes[0][0]}, not {claimed} as it was "
                               f"loaded with; load it again")
        real = torch.ones(ids.shape, dtype=torch.bool) if lengths is None \
            else torch.arange(ids.shape[1]) < lengths[:, None]
        self._compare("hidden states", _states(found)[real], _states(wanted)[real])
        if self.kind == "decoder":
            self._compare("logits", found.logits, wanted.logits)

    def _verify_steps(self, ids: torch.Tensor, wanted: torch.Tensor) -> None:
        if ids.shape[1] == 1: # the likeliest next token is the step
            ids = torch.cat([ids, wanted.argmax(2)], dim=1)
            wanted = self._run(ids, None, None, None, {"logits_to_keep": 1}).logits
        attend, past = _Steps(), Past()
        try:
            for part in (ids[:, :-1], ids[:, -1:]):
                found = self._run(part, attend, None, past, {"logits_to_keep": 1}).logits
        except NetworkError:
            raise
        except Exception: # whatever a model makes of a memory that holds less than it asks for
            raise NetworkError(f"{self.name} is of the family {self.module.config.model_type}, "
                               f"which remembers more of a text than keys and values, so it cannot "
                               f"generate text here; take a model with attention alone"
                               ) from None
        self._compare("logits of a next token", found, wanted)

    def _compare(self, what: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
        """Refuse the network if a row of numbers differs by more than rounding."""
        error = (found - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp_min(1e-30)
        most = float(error.max())
        if not most <= _ROUNDING:
            raise NetworkError(
                f"{self.name} is of the family {self.module.config.model_type}, whose {what} "
                f"differ by {most:.1e} of their size from the model's own if exact attention "
                f"replaces its attention, so it computes something that is not supported; take "
                f"another model")

    def hidden(self, ids: torch.Tensor, attend: Attend | None = None, *,
               lengths: torch.Tensor | None = None, past: Past | None = None) -> torch.Tensor:
        """Hidden states after the last layer and its norm, float32 [batch, tokens, width].

        The parameters are those of :meth:`run`.
        """
        options: dict[str, Any] = {"logits_to_keep": 1} if self.kind == "decoder" else {}
        output = self.run(ids, attend, lengths=lengths, past=past, output_hidden_states=True,
                          **options)
        return _states(output)

    def logits(self, ids: torch.Tensor, attend: Attend | None = None, *, last: int,
               past: Past | None = None) -> torch.Tensor:
        """Logits of the token after each of the ``last`` ones, float32 [batch, last, vocabulary].

        They are a decoder's own; the other parameters are those of :meth:`run`.
        """
        output = self.run(ids, attend, past=past, logits_to_keep=last)
        logits: torch.Tensor = output.logits
        return logits

    def losses(self, ids: Sequence[int], attend: Attend | None = None, *,
               scored: int | None = None) -> NDArray[np.float64]:
        """Cross-entropy of each of the last ``scored`` tokens, in nats, float64 [scored].

        None is all but the first, which nothing predicts. The mean of these is the loss, its
        exponential the perplexity.
        """
        count = len(ids) - 1 if scored is None else scored
        if not 1 <= count < len(ids):
            raise NetworkError(f"of {len(ids)} tokens, 1 to {len(ids) - 1} can be scored, "
                               f"not {count}")
        row = torch.tensor([list(ids)])
        at = torch.arange(len(ids) - 1 - count, len(ids) - 1)
        found = []
        with torch.inference_mode():
            for part, logits in zip(at.split(_ROWS), self._logits_of(row, attend, at), strict=True):
                found.append(torch.nn.functional.cross_entropy(
                    logits[0].float(), row[0, part + 1], reduction="none"))
        return torch.cat(found).double().numpy()

    def _logits_of(self, ids: torch.Tensor, attend: Attend | None, at: torch.Tensor
                   ) -> Iterator[torch.Tensor]:
        """Logits at some positions, a block at a time.

        The model's forward pass runs for each block, its body only for the first: it then gives
        what it gave before. So nothing that stands between body and logits can be left out.
        """
        kept: list[tuple[torch.nn.Module, Any]] = []
        bodies: list[Any] = list(self.module.children())
        handles = [body.register_forward_hook(
            lambda module, _, output: kept.append((module, output))
            if hasattr(output, "last_hidden_state") else None) for body in bodies]
        first, *others = at.split(_ROWS)
        try:
            logits = self.run(ids, attend, logits_to_keep=first).logits
        finally:
            for handle in handles:
                handle.remove()
        yield logits
        if not others:
            return
        if not kept:
            raise NetworkError(f"{self.name} is of the family {self.module.config.model_type}, of "
                               f"which at most {_ROWS} tokens can be scored; score fewer tokens")
        # The last call is that of this pass, others are those of verify.
        body, output = kept[-1]
        body.forward = lambda *_, **__: output
        try:
            for part in others:
                yield self._run(ids, None, None, None, {"logits_to_keep": part}).logits
        finally:
            del body.forward # what hid the method

    def embed(self, texts: Sequence[Sequence[int]], attend: Attend | None = None
              ) -> NDArray[np.float32]:
        """Embeddings of an encoder: unit vectors, float32 [texts, width].

        Texts are tokens, and are computed one by one, so that nothing is padded.
        """
        found = []
        with torch.inference_mode():
            for ids in texts:
                states = self.hidden(torch.tensor([list(ids)]), attend)[0]
                pooled = states[0] if self.pooling == "cls" else states.mean(dim=0)
                found.append(torch.nn.functional.normalize(pooled, dim=0))
        return torch.stack(found).float().numpy()


def _states(output: Any) -> torch.Tensor:
    """Hidden states after the last layer and its norm, of a decoder or an encoder."""
    states: torch.Tensor = output.last_hidden_state if hasattr(output, "last_hidden_state") \
        else output.hidden_states[-1]
    return states
