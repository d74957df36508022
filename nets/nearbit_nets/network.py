"""A network of Transformers whose attention can be replaced, layer by layer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AttentionInterface, PreTrainedModel

from nearbit_nets.errors import NetworkError


__all__ = ["Attend", "Network", "exact", "replaced"]


# Rows of hidden states that become logits at a time: a vocabulary of 50,000 makes 100 MB of them.
_ROWS = 512

_NAME = "nearbit"


class Attend(Protocol):
    """What stands in place of a network's attention."""

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                 counts: torch.Tensor) -> torch.Tensor:
        """Attention of one layer; its softmax is of ``q.k / sqrt(head_dim)``.

        Parameters
        ----------
        layer
            Which, from 0.
        q
            Queries after the rotary embedding, [batch, heads, queries, head_dim].
        k, v
            Keys, likewise, and values, [batch, kv_heads, tokens, head_dim]; head h uses key head
            h // (heads // kv_heads).
        counts
            Keys from 0 on that each query sees, int64 [batch, queries].

        Returns
        -------
        torch.Tensor
            [batch, heads, queries, head_dim], of q's dtype.
        """
        ...


def exact(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
          counts: torch.Tensor) -> torch.Tensor:
    """Exact attention to all keys that a query sees: an :class:`Attend`."""
    group = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(group, dim=1) for x in (k, v))
    seen = torch.arange(k.shape[2]) < counts[:, None, :, None]
    return torch.nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=seen)


@dataclass(frozen=True)
class _Replacement:
    attend: Attend
    lengths: torch.Tensor | None


_current: ContextVar[_Replacement] = ContextVar("nearbit_attention")


def _attention(module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor,
               value: torch.Tensor, attention_mask: torch.Tensor | None,
               scaling: float | None = None, **options: Any) -> tuple[torch.Tensor, None]:
    """Attention as Transformers calls it."""
    for name in ("sliding_window", "softcap", "s_aux"):
        if options.get(name) is not None:
            raise NetworkError(f"the model's attention has {name}, which the accelerator does not "
                               f"compute; take a Llama-like or BERT-like model")
    replacement = _current.get()
    batch, _, queries, head_dim = query.shape
    tokens = key.shape[2]
    if getattr(module, "is_causal", False):
        counts = torch.arange(tokens - queries + 1, tokens + 1).expand(batch, -1)
    elif replacement.lengths is None:
        counts = torch.full((batch, queries), tokens)
    else:
        counts = replacement.lengths[:, None].expand(-1, queries)
    if scaling is not None and abs(scaling * head_dim ** 0.5 - 1) > 1e-6:
        query = query * (scaling * head_dim ** 0.5)
    output = replacement.attend(_layer(module), query, key, value, counts)
    return output.transpose(1, 2).contiguous(), None


def _layer(module: torch.nn.Module) -> int:
    index = getattr(module, "layer_idx", None)
    if not isinstance(index, int):
        raise NetworkError("the model's attention does not say which layer it is in; take a "
                           "Llama-like or BERT-like model")
    return index


AttentionInterface.register(_NAME, _attention)


@contextmanager
def replaced(module: PreTrainedModel, attend: Attend,
             lengths: torch.Tensor | None = None) -> Iterator[None]:
    """Put ``attend`` in place of the attention of all layers of a model, for a while.

    Gradients flow through it. ``lengths``, int64 [batch], are the tokens of each sequence of a
    padded batch of an encoder; None: there is no padding.
    """
    before: Any = module.config._attn_implementation
    token = _current.set(_Replacement(attend, lengths))
    try:
        module.set_attn_implementation(_NAME)
        yield
    finally:
        module.set_attn_implementation(before)
        _current.reset(token)


@dataclass(frozen=True, eq=False)
class Network:
    """A language model or a sentence encoder, in float32 and evaluation mode.

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
    layers, heads, kv_heads, head_dim
        Layers of attention, query and key heads of each, elements of a query.
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
    context: int
    pooling: str = "mean"

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text; :class:`NetworkError` if the model has no use for them."""
        try:
            ids = list(self.tokenizer.encode(text).ids)
        except Exception as error: # the library has no class of its own
            raise NetworkError(f"the tokenizer of {self.name} cannot split the text: {error}"
                               ) from None
        if not ids:
            raise NetworkError(f"the tokenizer of {self.name} makes no token of the text")
        embeddings: Any = self.module.get_input_embeddings()
        rows = len(embeddings.weight)
        if max(ids) >= rows:
            raise NetworkError(f"the tokenizer of {self.name} makes token {max(ids)} of the text, "
                               f"and the model has embeddings of {rows}; take the tokenizer.json "
                               f"of this model")
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return str(self.tokenizer.decode(list(ids)))

    def hidden(self, ids: torch.Tensor, attend: Attend | None = None, *,
               lengths: torch.Tensor | None = None, first: int = 0) -> torch.Tensor:
        """Hidden states after the last layer and its norm.

        Parameters
        ----------
        ids
            Tokens, int64 [batch, tokens]; those beyond a sequence's length are not looked at.
        attend
            What stands in place of the model's own attention.
        lengths
            Of a padded batch of an encoder, int64 [batch].
        first
            Position of the first token; above 0, ``attend`` must know the tokens before.

        Returns
        -------
        torch.Tensor
            Float32 [batch, tokens, width].
        """
        body = self.module.base_model
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
        if self.kind == "encoder":
            del inputs["use_cache"]
        if first:
            inputs["position_ids"] = torch.arange(first, first + ids.shape[1])[None]
        if attend is not None:
            with replaced(self.module, attend, lengths):
                return _states(body(**inputs))
        if lengths is not None:
            inputs["attention_mask"] = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return _states(body(**inputs))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of the next token, [..., vocabulary], from a decoder's hidden states."""
        head: Any = self.module.get_output_embeddings()
        logits: torch.Tensor = head(hidden)
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
        found = []
        with torch.inference_mode():
            states = self.hidden(row, attend)[0, -count - 1:-1]
            targets = row[0, -count:]
            for start in range(0, count, _ROWS):
                part = slice(start, start + _ROWS)
                found.append(torch.nn.functional.cross_entropy(
                    self.logits(states[part]).float(), targets[part], reduction="none"))
        return torch.cat(found).double().numpy()

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
    states: torch.Tensor = output.last_hidden_state
    return states
