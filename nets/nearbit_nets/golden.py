"""The golden model as the attention of a network."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nearbit_model import batch
from nearbit_model.attention import attend
from nearbit_model.config import Config, Rescore
from nearbit_model.mapping import Mapping as Codes
from nearbit_model.prepare import Prepared, prepare
from nearbit_nets.codes import made_for
from nearbit_nets.errors import NetworkError
from nearbit_nets.network import Network


__all__ = ["METHODS", "GoldenAttention", "Method", "accelerator", "by_range", "codes_of"]


METHODS: Mapping[str, str] = {
    "dense": "all keys, weighted by their dot-product scores",
    "topn": "the keys of largest q.k, weighted by their dot-product scores: the best that codes "
            "can do",
    "had": "the keys of nearest sign codes, weighted by distance (arXiv 2502.01770)",
    "hash": "the keys of nearest codes, weighted by their dot-product scores (arXiv 2412.14468)",
}
"""How keys are chosen and weighted; all of it in the integers of the numeric contract."""

ELEMENT_BITS = 12
"""Bits of queries and keys for rescoring, as in the presets."""

# Of the cache that the model would read otherwise, and of a scale beside each value vector.
_DENSE_BYTES = 2
_SCALE_BYTES = 2


@dataclass(frozen=True, eq=False, kw_only=True)
class Method:
    """What is computed in place of a network's attention.

    Parameters
    ----------
    name
        One of :data:`METHODS`.
    n, sink, recent
        Keys selected by distance, and first and last ones that always are. Method ``topn`` takes
        as many keys in all, whichever they are; ``dense`` takes all.
    codes
        With method ``hash``, the mapping of the whole network (:func:`codes_of`).
    logit_scale
        With method ``had``, float [layers, heads]; None is that of each text
        (:func:`nearbit_model.quantize.logit_scale`).
    """

    name: str
    n: int = 64
    sink: int = 0
    recent: int = 0
    codes: Codes | None = None
    logit_scale: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        """Check the numbers, and that the method has what it needs."""
        if self.name not in METHODS:
            raise NetworkError(f"the method must be one of {', '.join(METHODS)}, not "
                               f"{self.name!r}")
        for name, value, least in (("n", self.n, 1), ("sink", self.sink, 0),
                                   ("recent", self.recent, 0)):
            if value < least:
                raise NetworkError(f"{name} must be at least {least}, not {value}")
        if (self.codes is not None) != (self.name == "hash"):
            raise NetworkError("method hash needs codes, and other methods take none")
        if self.logit_scale is not None and self.name != "had":
            raise NetworkError("a logit scale needs method had")

    @property
    def keys(self) -> int:
        """Keys that a query selects, if it sees as many."""
        return self.n + self.sink + self.recent


def codes_of(network: Network, codes: str) -> Codes:
    """The mapping of a whole network.

    Parameters
    ----------
    network
        The network.
    codes
        ``"sign"``, ``"hadamard"`` or ``"random"`` (as many bits as a head has elements), or a file
        of a mapping (docs/codes.md) whose heads are those of all layers, one layer after the
        other: head h of layer l is l * heads + h, and so for key heads.

    Raises
    ------
    NetworkError
        A mapping of another network.
    MappingError
        A file that cannot be read.
    """
    heads, kv_heads = network.layers * network.heads, network.layers * network.kv_heads
    dim = network.head_dim
    if codes == "sign":
        return Codes.sign(dim, heads=heads, kv_heads=kv_heads)
    if codes in ("hadamard", "random"):
        make = Codes.hadamard if codes == "hadamard" else Codes.random
        return make(dim, dim, heads=heads, kv_heads=kv_heads)
    if not codes or ("." not in codes and not Path(codes).exists()):
        raise NetworkError(f"codes must be sign, hadamard, random or a .safetensors file, not "
                           f"{codes!r}")
    mapping = Codes.load(codes)
    if (mapping.heads, mapping.kv_heads, mapping.head_dim) != (heads, kv_heads, dim):
        raise NetworkError(
            f"{codes}: the mapping is for {mapping.heads} heads on {mapping.kv_heads} key heads of "
            f"{mapping.head_dim} elements, but {network.name} has {heads} on {kv_heads} of {dim} "
            f"in its {network.layers} layers; take the one made for this model")
    if not made_for(mapping, network):
        raise NetworkError(f"{codes}: the codes were {mapping.source.partition(',')[0]}, whose "
                           f"weights are not those of {network.name}; learn codes of this model")
    return mapping


def accelerator(network: Network, method: Method, tokens: int) -> Config:
    """A configuration that has room for a network's heads and so many tokens.

    Its widths are those of the presets; its lanes, which outputs do not depend on, are 16.
    """
    dim, value_dim = network.head_dim, network.value_dim
    capacity = max(64, 1 << (tokens - 1).bit_length())
    return Config(
        key_bits=dim if method.codes is None else method.codes.bits, value_dim=value_dim,
        capacity=capacity, lanes=16, value_lanes=gcd(value_dim, 64),
        top_n=capacity if method.name == "dense" else min(method.keys, capacity),
        rescore=None if method.name == "had" else Rescore(
            head_dim=dim, lanes=gcd(dim, 64), element_bits=ELEMENT_BITS))


def by_range(prepared: Prepared, counts: NDArray[np.int64], first: NDArray[np.int64]
             ) -> Iterator[tuple[slice, Prepared]]:
    """Split a problem into those of neighbouring queries whose keys begin at the same one.

    A command has one ``first``, and a sliding window one for each query.

    Parameters
    ----------
    prepared
        The problem.
    counts, first
        Keys that each query sees, from ``first`` on: int64 [queries].

    Yields
    ------
    slice
        Which queries.
    Prepared
        Their problem.
    """
    starts = [0, *(np.flatnonzero(np.diff(first)) + 1).tolist()]
    for start, end in zip(starts, [*starts[1:], len(first)], strict=True):
        rows = slice(start, end)
        rescore = prepared.rescore
        yield rows, replace(
            prepared, q_codes=prepared.q_codes[:, rows], counts=counts[rows],
            first=int(first[start]),
            rescore=None if rescore is None else replace(rescore, queries=rescore.queries[:, rows],
                                                         multipliers=rescore.multipliers[:, rows]))


class GoldenAttention:
    """An :class:`nearbit_nets.network.Attend` that computes the numeric contract.

    Every sequence is a problem of its own, as :func:`nearbit_model.prepare.prepare` makes it of
    the layer's queries, keys and values; its outputs, as real numbers, go back to the network.
    The arithmetic is that of :func:`nearbit_model.golden.attend`.

    Parameters
    ----------
    network
        The network.
    method
        What to compute.
    progress
        Called with each layer before it is computed.
    """

    def __init__(self, network: Network, method: Method,
                 progress: Callable[[int], None] | None = None) -> None:
        """Start all counts at 0."""
        self._network = network
        self._method = method
        self._progress = progress
        self.keys_touched = 0
        """Keys selected, over all layers, heads and queries so far."""
        self.keys_dense = 0
        """Keys seen, likewise: what exact attention weights."""
        self.bytes_read = 0
        """Bytes of codes, keys, values and scales that the accelerator reads for that."""
        self.bytes_dense = 0
        """Bytes of keys and values in 16 bits that exact attention reads."""

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
                 counts: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Attention of one layer, as :class:`nearbit_nets.network.Attend` says."""
        if self._progress is not None:
            self._progress(layer)
        output = q.new_empty((*q.shape[:3], v.shape[3]))
        for row in range(len(q)):
            seen, begin = (x[row].numpy().astype(np.int64) for x in (counts, first))
            end = int((begin + seen).max())
            arrays = (x[row].detach().float().numpy() for x in (q, k[:, :, :end], v[:, :, :end]))
            output[row] = torch.from_numpy(self._compute(layer, *arrays, counts=seen, first=begin))
        return output

    def _compute(self, layer: int, q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], *,
                 counts: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.float32]:
        """Outputs of one text, float32 [heads, queries, value_dim]."""
        method = self._method
        config = accelerator(self._network, method, k.shape[1])
        self._count(config, len(q), counts)
        prepared = self._prepare(layer, q, k, v, config)
        output = np.empty((*q.shape[:2], v.shape[2]), np.int32)
        for rows, part in by_range(prepared, counts, first):
            if method.name == "dense":
                output[:, rows] = batch.outputs(part)
            elif method.name == "topn":
                chosen = batch.nearest(q[:, rows], k[:, part.first:], method.keys,
                                       counts=part.counts)
                output[:, rows] = batch.outputs(
                    part, np.where(chosen < 0, -1, chosen + part.first))
            else:
                output[:, rows] = attend(part).output_int
        return prepared.outputs(output)

    def _prepare(self, layer: int, q: NDArray[Any], k: NDArray[Any], v: NDArray[Any],
                 config: Config) -> Prepared:
        """The problem of one text, but for the keys that each query sees."""
        method, heads = self._method, len(q)
        if method.name in ("dense", "topn"):
            return prepare(q, k, v, config, n=1, method="hash")
        asked: dict[str, Any] = {
            "n": min(method.n, config.top_n - method.sink - method.recent)
            if method.keys > config.top_n else method.n,
            "sink": method.sink, "recent": method.recent}
        if method.codes is None:
            if method.logit_scale is not None:
                asked["logit_scale"] = method.logit_scale[layer]
            return prepare(q, k, v, config, **asked)
        kv_heads = len(k)
        mapping = method.codes.choose(range(layer * heads, (layer + 1) * heads),
                                      range(layer * kv_heads, (layer + 1) * kv_heads))
        return prepare(q, k, v, config, method="hash", mapping=mapping, **asked)

    def _count(self, config: Config, heads: int, counts: NDArray[np.int64]) -> None:
        method, network = self._method, self._network
        dense = heads * int(counts.sum())
        touched = dense if method.name == "dense" \
            else heads * int(np.minimum(counts, method.keys).sum())
        rescore_bytes = 0 if config.rescore is None \
            else network.head_dim * config.rescore.element_bits / 8
        vector = network.value_dim * config.value_bits / 8 + _SCALE_BYTES + rescore_bytes
        self.keys_dense += dense
        self.keys_touched += touched
        self.bytes_dense += dense * (network.head_dim + network.value_dim) * _DENSE_BYTES
        codes = config.key_bits / 8 if method.name in ("had", "hash") else 0
        self.bytes_read += round(dense * codes + touched * vector)
