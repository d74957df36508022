"""Text token by token: the accelerator's stores are the network's only memory of what came before.

Every layer appends the keys and values of new tokens to its store, and asks with their queries, as
a host does with a device. Nothing is computed again, and no cache of floats is kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from nearbit_model import quantize
from nearbit_model.attention import Attention, attend
from nearbit_model.config import Config
from nearbit_model.mapping import Mapping
from nearbit_model.prepare import Prepared
from nearbit_model.quantize import RescoreOperands, Values
from nearbit_nets.errors import NetworkError
from nearbit_nets.golden import Method, accelerator, by_range
from nearbit_nets.network import Network, Past


__all__ = ["HEADROOM", "CacheWitness", "Decoder", "Tokens", "Witness", "generate"]


HEADROOM = 2.0
"""How much larger than the prompt's largest value vector, and key, those of later tokens may be."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """What is appended to the store of one head.

    Parameters
    ----------
    k_codes
        uint64 [tokens, words].
    values
        Elements [tokens, value_dim], scales [tokens], unit [].
    rescore_keys
        Elements for rescoring [tokens, head_dim], or None.
    exp_tables
        The head's weights by distance, uint32 [1, key_bits + 1].
    """

    k_codes: NDArray[np.uint64]
    values: Values
    rescore_keys: NDArray[Any] | None
    exp_tables: NDArray[np.uint32]


class Witness(Protocol):
    """Something that computes one head as well, such as hardware."""

    @property
    def layer(self) -> int:
        """Layer of the head."""
        ...

    @property
    def head(self) -> int:
        """Query head in that layer."""
        ...

    def append(self, tokens: Tokens) -> None:
        """Take more keys and values; the first time, into an empty store."""
        ...

    def ask(self, asked: Prepared, golden: Attention) -> NDArray[np.int32]:
        """Answer queries of the head.

        Parameters
        ----------
        asked
            The problem of this head alone.
        golden
            The golden model's answer to it, to be compared.

        Returns
        -------
        int32 [1, queries, value_dim]
        """
        ...


class CacheWitness(Protocol):
    """Something that computes all heads as well, such as hardware whose memory has all caches."""

    def append(self, layer: int, first: int, k_codes: NDArray[np.uint64], values: Values,
               rescore_keys: NDArray[Any] | None) -> None:
        """Take more keys and values of a layer.

        Parameters
        ----------
        layer
            The layer.
        first
            Token of the first of them.
        k_codes
            uint64 [kv_heads, tokens, words].
        values
            Elements [kv_heads, tokens, value_dim], scales [kv_heads, tokens].
        rescore_keys
            Elements for rescoring [kv_heads, tokens, head_dim], or None.
        """
        ...

    def ask(self, layer: int, asked: Prepared, golden: Attention) -> NDArray[np.int32]:
        """Answer the newest query of each head of a layer.

        Parameters
        ----------
        layer
            The layer.
        asked
            The problem, whose keys and values are those that were appended.
        golden
            The golden model's answer to it, to be compared.

        Returns
        -------
        int32 [heads, 1, value_dim]
        """
        ...


@dataclass(eq=False)
class _Store:
    """One layer's keys and values, as the accelerator holds them.

    With a mapping that gives each query head codes of its own, each has a store of its own.
    """

    k_codes: NDArray[np.uint64]
    elements: NDArray[Any]
    scales: NDArray[np.uint16]
    rescore_keys: NDArray[Any] | None
    unit: NDArray[np.float64]
    step: NDArray[np.float64] | None
    logit_scale: NDArray[np.float64]
    exp_tables: NDArray[np.uint32]
    tokens: int = 0

    def values(self, saturated: NDArray[np.int64]) -> Values:
        """The value vectors so far."""
        return Values(self.elements[:, :self.tokens], self.scales[:, :self.tokens], self.unit,
                      saturated, True)


@dataclass(eq=False)
class Decoder:
    """An :class:`nearbit_nets.network.Attend` with a store for each layer.

    The first call for a layer, with the prompt, fixes the unit of values and the step of keys,
    :data:`HEADROOM` times those of the prompt, and the logit scale of method ``had``.

    Parameters
    ----------
    network
        The decoder.
    method
        What to compute; not ``topn``, which would need the keys themselves.
    capacity
        The most tokens, those of the prompt included.
    witness
        Computes one head as well, and its answers are what the network goes on with.
    given
        The accelerator, if it is not that of :func:`nearbit_nets.golden.accelerator`; it fits the
        network and the method.
    cache_witness
        Computes all heads of each token that is generated as well, from the last one of the prompt
        on, and its answers are what the network goes on with.
    """

    network: Network
    method: Method
    capacity: int
    witness: Witness | None = None
    given: Config | None = None
    cache_witness: CacheWitness | None = None
    saturated: int = 0
    """Value vectors and keys beyond the headroom so far, which were clipped."""
    _stores: dict[int, _Store] = field(default_factory=dict)
    _mappings: dict[int, Mapping] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the method, and make the configuration."""
        if self.network.kind != "decoder":
            raise NetworkError(f"{self.network.name} is an encoder, which generates no text")
        if self.method.name == "topn":
            raise NetworkError("method topn needs the keys themselves, which no store holds; take "
                               "hash, had or dense")
        self._config = accelerator(self.network, self.method, self.capacity) \
            if self.given is None else self.given
        # A rescoring unit that the method does not use is left idle.
        self._rescore = None if self.method.name == "had" else self._config.rescore

    @property
    def config(self) -> Config:
        """The accelerator: of the golden model, and of a witness."""
        return self._config

    def verify(self, ids: Sequence[int]) -> None:
        """Compare the network to the model on a prompt: see :meth:`Network.verify`."""
        self.network.verify(torch.tensor([list(ids)]), steps=True)

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                 counts: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Append the tokens of k and v, and ask with q."""
        queries, keys, values = (x[0].detach().float().numpy() for x in (q, k, v))
        mapping = self._mapping(layer)
        if mapping is not None:
            k_codes = mapping.key_codes(keys)
            q_codes = mapping.query_codes(queries)
        else:
            k_codes, q_codes = quantize.codes(keys), quantize.codes(queries)
        if len(k_codes) > len(keys):
            keys, values = (np.repeat(x, len(k_codes) // len(x), axis=0) for x in (keys, values))
        if layer not in self._stores:
            self._stores[layer] = self._open(layer, queries, keys, values, k_codes)
        store = self._stores[layer]
        rescore = self._append(layer, store, queries, keys, values, k_codes)
        asked = self._ask(store, q_codes, rescore)
        output_int = np.empty((*queries.shape[:2], values.shape[2]), np.int32)
        for rows, part in by_range(asked, counts[0].numpy(), first[0].numpy()):
            output_int[:, rows] = attend(part).output_int
            if self.witness is not None and self.witness.layer == layer:
                head = self.witness.head
                alone = _of_head(part, head)
                output_int[head, rows] = self.witness.ask(alone, attend(alone))[0]
        if self.cache_witness is not None:
            newest = _newest(asked, counts[0].numpy(), first[0].numpy())
            output_int[:, -1:] = self.cache_witness.ask(layer, newest, attend(newest))
        output = torch.from_numpy(asked.outputs(output_int))
        return output.to(q.dtype)[None]

    def _mapping(self, layer: int) -> Mapping | None:
        codes = self.method.codes
        if codes is None:
            return None
        if layer not in self._mappings:
            heads, kv_heads = self.network.heads, self.network.kv_heads
            self._mappings[layer] = codes.choose(
                range(layer * heads, (layer + 1) * heads),
                range(layer * kv_heads, (layer + 1) * kv_heads))
        return self._mappings[layer]

    def _open(self, layer: int, q: NDArray[np.float32], k: NDArray[np.float32],
              v: NDArray[np.float32], k_codes: NDArray[np.uint64]) -> _Store:
        """An empty store, with what the prompt fixes."""
        config, room = self._config, self.capacity
        unit = HEADROOM * quantize.values(v, config.value_bits, rotated=True).unit
        step = None
        rescore_keys = None
        if self._rescore is not None:
            found = quantize.rescore_operands(q, k, self._rescore.element_bits)
            step = np.where(found.step > 0, HEADROOM * found.step, 1.0)
            rescore_keys = np.zeros((len(k), room, k.shape[2]), found.keys.dtype)
        given = self.method.logit_scale
        logit_scale = quantize.logit_scale(q, k) if given is None \
            else np.asarray(given[layer], np.float64)
        elements = np.zeros((len(v), room, v.shape[2]),
                            np.int8 if config.value_bits <= 8 else np.int16)
        return _Store(
            np.zeros((len(k_codes), room, k_codes.shape[2]), np.uint64), elements,
            np.zeros((len(v), room), np.uint16), rescore_keys, np.where(unit > 0, unit, 1.0), step,
            logit_scale, quantize.exp_table(logit_scale, config.key_bits, config.weight_bits))

    def _append(self, layer: int, store: _Store, q: NDArray[np.float32], k: NDArray[np.float32],
                v: NDArray[np.float32], k_codes: NDArray[np.uint64]) -> RescoreOperands | None:
        """Add tokens; return the rescore operands, of which the queries are used now."""
        config, new = self._config, k.shape[1]
        if store.tokens + new > self.capacity:
            raise NetworkError(f"the stores hold {self.capacity} tokens, not "
                               f"{store.tokens + new}")
        part = slice(store.tokens, store.tokens + new)
        values = quantize.values(v, config.value_bits, unit=store.unit, rotated=True)
        store.k_codes[:, part] = k_codes
        store.elements[:, part] = values.elements
        store.scales[:, part] = values.scales
        self.saturated += int(values.saturated.sum())
        rescore = None
        if self._rescore is not None and store.rescore_keys is not None:
            try:
                rescore = quantize.rescore_operands(q, k, self._rescore.element_bits,
                                                    step=store.step)
            except ValueError as error:
                raise NetworkError(f"layer {layer}: {error}") from None
            store.rescore_keys[:, part] = rescore.keys
            self.saturated += int(rescore.saturated.sum())
        store.tokens += new
        if self.witness is not None and self.witness.layer == layer:
            head = self.witness.head
            row = head * len(k) // len(q)
            self.witness.append(Tokens(
                k_codes[head * len(k_codes) // len(q)],
                Values(values.elements[row], values.scales[row], store.unit[row],
                       values.saturated[row], True),
                None if rescore is None else rescore.keys[row], store.exp_tables[head:head + 1]))
        if self.cache_witness is not None:
            self.cache_witness.append(layer, part.start, k_codes, values,
                                      None if rescore is None else rescore.keys)
        return rescore

    def _ask(self, store: _Store, q_codes: NDArray[np.uint64],
             rescore: RescoreOperands | None) -> Prepared:
        """The problem of the newest queries, but for the keys that each of them sees."""
        method, tokens = self.method, store.tokens
        operands = None
        if rescore is not None and store.rescore_keys is not None:
            operands = RescoreOperands(rescore.queries, store.rescore_keys[:, :tokens],
                                       rescore.multipliers,
                                       rescore.step, rescore.saturated, rescore.rotated)
        counts = np.full(q_codes.shape[1], tokens)
        # What a store cannot hold cannot be asked for; it is all there is in any case.
        n, sink, recent = (self._config.top_n, 0, 0) \
            if method.name == "dense" or method.keys > self._config.top_n \
            else (method.n, method.sink, method.recent)
        return Prepared(
            self._config, q_codes, store.k_codes[:, :tokens],
            store.values(np.zeros(len(store.unit), np.int64)), store.logit_scale, store.exp_tables,
            counts, 0, n, sink, recent, operands)


def _of_head(asked: Prepared, head: int) -> Prepared:
    """The part of a problem that is of one query head."""
    row = head // asked.group
    values, rescore = asked.values, asked.rescore
    return Prepared(
        asked.config, asked.q_codes[head:head + 1], asked.k_codes[row:row + 1],
        Values(values.elements[row:row + 1], values.scales[row:row + 1], values.unit[row:row + 1],
               values.saturated[row:row + 1], values.rotated),
        asked.logit_scale[head:head + 1], asked.exp_tables[head:head + 1], asked.counts,
        asked.first,
        asked.n, asked.sink, asked.recent,
        None if rescore is None else RescoreOperands(
            rescore.queries[head:head + 1], rescore.keys[row:row + 1],
            rescore.multipliers[head:head + 1], rescore.step[row:row + 1],
            rescore.saturated[row:row + 1], rescore.rotated))


def _newest(asked: Prepared, counts: NDArray[np.int64], first: NDArray[np.int64]) -> Prepared:
    """The part of a problem that is of the last query of each head."""
    rescore = asked.rescore
    return replace(
        asked, q_codes=asked.q_codes[:, -1:], counts=counts[-1:].astype(np.int64),
        first=int(first[-1]),
        rescore=None if rescore is None else replace(
            rescore, queries=rescore.queries[:, -1:], multipliers=rescore.multipliers[:, -1:]))


def generate(network: Network, ids: Sequence[int], decoder: Decoder, count: int) -> Iterator[int]:
    """Continue a text, always with the likeliest token.

    Parameters
    ----------
    network
        The network.
    ids
        Tokens of the prompt, at least one.
    decoder
        Its attention, which has seen nothing yet and has room for ``len(ids) + count - 1`` tokens.
    count
        Tokens to generate; fewer, if the network ends the text.

    Yields
    ------
    int
        Each token as soon as it is known; the one that ends a text is not given.
    """
    config: Any = network.module.config
    ends = config.eos_token_id
    ending = set(ends) if isinstance(ends, list) else {ends}
    new, past = list(ids), Past()
    for _ in range(count):
        with torch.inference_mode():
            logits = network.logits(torch.tensor([new]), decoder, last=1, past=past)
        token = int(logits.argmax())
        new = [token]
        if token in ending:
            return
        yield token
