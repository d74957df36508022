"""Mappings from the floats of queries and keys to the bits of their codes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearbit_model import quantize
from nearbit_model.mapping.files import MappingError, read_safetensors, write_safetensors
from nearbit_model.quantize import WORD_BITS, real_array


__all__ = ["KINDS", "Mapping"]


KINDS = ("sign", "random", "hadamard", "linear", "layers")
"""See :class:`Mapping`."""

_METADATA = "nearbit_mapping"
_VERSION = 1
_MOST_HIDDEN = 2

# Elements of the temporary arrays of a block of rows: half a MiB, which stays in the cache.
_BLOCK = 1 << 16

# Weights [sets, out, in] and biases [sets, out], or none.
_Layer = tuple[NDArray[Any], NDArray[Any] | None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Mapping:
    """A mapping of the queries and keys of one attention layer to codes of ``bits`` bits.

    Bit j of a code is 1 where element j of what the mapping computes is greater than 0; bit j is
    bit j % 64 of word j // 64, as :func:`nearbit_model.quantize.codes` packs. What is computed,
    by kind:

    ============  ================================================================================
    ``sign``      the vector itself; ``bits`` equals ``head_dim``
    ``random``    a Gaussian projection, the same for a key head and the queries that use it
    ``hadamard``  a Walsh-Hadamard transform after random sign changes, again with other signs
                  if ``bits`` is larger than the transform; likewise shared
    ``linear``    a learned linear map with bias for queries and one for keys, of each head
    ``layers``    the form of HashAttention (arXiv 2412.14468; its code, class USA): two or three
                  linear layers with SiLU between them, likewise
    ============  ================================================================================

    Everything is computed in float64 from float32 weights, and every sum is made in the order of
    its terms, bias last. So codes do not depend on what else is mapped in the same call, and are
    the same on every machine with IEEE arithmetic. One thing may differ: the last bit of SiLU's
    exponential, and with it, in kind ``layers``, a bit of the code whose element is within
    rounding (about 1e-14 of the sum of its terms' magnitudes) of 0.

    Make one with :meth:`sign`, :meth:`random`, :meth:`hadamard` or :meth:`learned`, or
    :meth:`load` one.

    Parameters
    ----------
    kind
        One of :data:`KINDS`.
    bits
        Bits of a code, at least 1.
    head_dim
        Elements of a query and of a key.
    heads, kv_heads
        Heads of q, and of k; head h uses key head h // (heads // kv_heads).
    key_heads
        Codes that each key has: ``kv_heads`` where the queries of a group rank by the same code of
        a key, ``heads`` where each query head has its own mapping of keys (as published).
    tensors
        Weights by name, as docs/codes.md lists them; copied.
    hidden
        Widths between the layers of kind ``layers``: one or two; else empty.
    seed
        What the random numbers came from, or None for the other kinds.
    source
        Where the mapping comes from, for people.

    Raises
    ------
    MappingError
        A value, or a tensor's absence, dtype, shape or content, that does not fit the others.
    """

    kind: str
    bits: int
    head_dim: int
    heads: int
    kv_heads: int
    key_heads: int
    tensors: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    hidden: tuple[int, ...] = ()
    seed: int | None = None
    source: str = ""

    def __post_init__(self) -> None:
        """Check everything, and keep copies of the tensors that nobody can change."""
        if self.kind not in KINDS:
            raise MappingError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        for name in ("bits", "head_dim", "heads", "kv_heads", "key_heads"):
            object.__setattr__(self, name, _integer(name, getattr(self, name), 1))
        self._check_heads()
        self._check_hidden()
        if self.kind in ("random", "hadamard"):
            object.__setattr__(self, "seed", _integer("seed", self.seed, 0))
        elif self.seed is not None:
            raise MappingError(f"seed must be absent with kind {self.kind}, not {self.seed!r}")
        if not isinstance(self.source, str):
            raise MappingError(f"source must be text, not {self.source!r}")
        if self.kind == "sign" and self.bits != self.head_dim:
            raise MappingError(f"bits must equal head_dim ({self.head_dim}) with kind sign, not "
                               f"{self.bits}")
        object.__setattr__(self, "tensors", {
            name: _checked(name, self.tensors, dtype, shape)
            for name, (dtype, shape) in self._schema().items()})

    def _check_heads(self) -> None:
        if self.heads % self.kv_heads:
            raise MappingError(f"kv_heads ({self.kv_heads}) must divide heads ({self.heads})")
        if self.key_heads == self.kv_heads:
            return
        if self.kind not in ("linear", "layers"):
            raise MappingError(f"key_heads must be kv_heads ({self.kv_heads}) with kind "
                               f"{self.kind}, not {self.key_heads}")
        if self.key_heads != self.heads:
            raise MappingError(f"key_heads must be kv_heads ({self.kv_heads}) or heads "
                               f"({self.heads}), not {self.key_heads}")

    def _check_hidden(self) -> None:
        if not isinstance(self.hidden, (list, tuple)):
            raise MappingError(f"hidden must be a list of widths, not {self.hidden!r}")
        hidden = tuple(_integer("hidden", width, 1) for width in self.hidden)
        object.__setattr__(self, "hidden", hidden)
        least, most = (1, _MOST_HIDDEN) if self.kind == "layers" else (0, 0)
        if not least <= len(hidden) <= most:
            allowed = f"{least} or {most} widths" if most else "no widths"
            raise MappingError(f"hidden must have {allowed} with kind {self.kind}, not "
                               f"{len(hidden)}")

    def _schema(self) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
        """Dtype and shape of each tensor."""
        if self.kind == "random":
            return {"weight": (np.float32, (self.kv_heads, self.bits, self.head_dim))}
        if self.kind == "hadamard":
            patterns = -(-self.bits // _transform_size(self.head_dim))
            return {"signs": (np.int8, (self.kv_heads, patterns, self.head_dim))}
        schema: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {}
        if self.kind != "sign":
            widths = (self.head_dim, *self.hidden, self.bits)
            for side, sets in (("q", self.heads), ("k", self.key_heads)):
                for i, (inputs, outputs) in enumerate(pairwise(widths)):
                    schema[f"{side}.{i}.weight"] = np.float32, (sets, outputs, inputs)
                    schema[f"{side}.{i}.bias"] = np.float32, (sets, outputs)
        return schema

    @classmethod
    def sign(cls, head_dim: int, *, heads: int, kv_heads: int) -> "Mapping":
        """Signs of the head's own vector, the codes of HAD (arXiv 2502.01770)."""
        return cls(kind="sign", bits=head_dim, head_dim=head_dim, heads=heads, kv_heads=kv_heads,
                   key_heads=kv_heads)

    @classmethod
    def random(cls, bits: int, head_dim: int, *, heads: int, kv_heads: int,
               seed: int = 0) -> "Mapping":
        """Signs of a Gaussian random projection, one for each key head.

        The weights are ``numpy.random.Generator(PCG64(seed)).standard_normal``, [kv_heads, bits,
        head_dim], rounded to float32. NumPy does not promise that another version draws the same:
        a file holds the weights, not only the seed.
        """
        shape = _sizes(kv_heads=kv_heads, bits=bits, head_dim=head_dim)
        generator = np.random.Generator(np.random.PCG64(_integer("seed", seed, 0)))
        weight = generator.standard_normal(shape).astype(np.float32)
        return cls(kind="random", bits=bits, head_dim=head_dim, heads=heads, kv_heads=kv_heads,
                   key_heads=kv_heads, tensors={"weight": weight}, seed=seed)

    @classmethod
    def hadamard(cls, bits: int, head_dim: int, *, heads: int, kv_heads: int,
                 seed: int = 0) -> "Mapping":
        """Signs of Walsh-Hadamard transforms after random sign changes, for each key head.

        The vector is padded with zeros to a power of two. One transform gives as many bits as
        that; for more, it is repeated with other sign changes, and of the last one the first bits
        are taken. Element i of a transform is the sum over j of
        ``(-1)**popcount(i & j) * sign[j] * x[j]``. For the same number of bits its elements are
        less alike than those of a Gaussian projection.

        Sign j of pattern p of key head h is bit 63 of number ``(h * patterns + p) * head_dim + j``
        of ``numpy.random.PCG64(seed).random_raw``: 1 is -1. NumPy promises that stream.
        """
        kv, size, dim = _sizes(kv_heads=kv_heads, bits=bits, head_dim=head_dim)
        shape = kv, -(-size // _transform_size(dim)), dim
        raw = np.random.PCG64(_integer("seed", seed, 0)).random_raw(shape)
        signs = np.where(raw >> np.uint64(63), np.int8(-1), np.int8(1))
        return cls(kind="hadamard", bits=bits, head_dim=head_dim, heads=heads, kv_heads=kv_heads,
                   key_heads=kv_heads, tensors={"signs": signs}, seed=seed)

    @classmethod
    def learned(cls, q: Sequence[tuple[ArrayLike, ArrayLike]],
                k: Sequence[tuple[ArrayLike, ArrayLike]], *, kv_heads: int,
                source: str = "") -> "Mapping":
        """A learned mapping from its weights: kind ``linear`` for one layer, else ``layers``.

        Parameters
        ----------
        q
            Weight and bias of each of one to three layers: real numbers [heads, out, in] and
            [heads, out], as ``torch.nn.Linear`` has them for a head; rounded to float32.
        k
            The same for keys, with heads or kv_heads on the first axis: a mapping for each query
            head, or one that the query heads of a group share.
        kv_heads
            Heads of k.
        source
            Where the mapping comes from, for people.

        Raises
        ------
        MappingError
            Weights that are not finite real numbers, or whose shapes do not fit each other.
        """
        if len(q) != len(k) or not 1 <= len(q) <= _MOST_HIDDEN + 1:
            raise MappingError(f"q and k must have the same number of layers, 1 to "
                               f"{_MOST_HIDDEN + 1}, not {len(q)} and {len(k)}")
        tensors: dict[str, NDArray[Any]] = {}
        for side, layers in (("q", q), ("k", k)):
            for i, (weight, bias) in enumerate(layers):
                for name, x, axes in ((f"{side}.{i}.weight", weight, "[heads, out, in]"),
                                      (f"{side}.{i}.bias", bias, "[heads, out]")):
                    array = _real(x, name).astype(np.float32)
                    if array.ndim != axes.count(",") + 1:
                        raise MappingError(f"{name} must be {axes}, not shape {array.shape}")
                    tensors[name] = array
        heads, _, head_dim = tensors["q.0.weight"].shape
        widths = tuple(tensors[f"q.{i}.weight"].shape[1] for i in range(len(q)))
        return cls(kind="layers" if len(q) > 1 else "linear", bits=widths[-1], head_dim=head_dim,
                   heads=heads, kv_heads=kv_heads, key_heads=tensors["k.0.weight"].shape[0],
                   tensors=tensors, hidden=widths[:-1], source=source)

    @property
    def words(self) -> int:
        """64-bit words of a code."""
        return -(-self.bits // WORD_BITS)

    @property
    def shares_keys(self) -> bool:
        """Whether the query heads of a group rank by the same codes of keys.

        If not, :meth:`key_codes` has a set for each query head, and a store must hold as many.
        """
        return self.key_heads == self.kv_heads

    def query_codes(self, q: ArrayLike) -> NDArray[np.uint64]:
        """Codes of queries.

        Parameters
        ----------
        q
            Real numbers [heads, queries, head_dim].

        Returns
        -------
        uint64 [heads, queries, words]

        Raises
        ------
        MappingError
            No finite real numbers, or a shape that the mapping is not for.
        """
        return self._codes(self._input("q", q, self.heads), "q", self.heads)

    def key_codes(self, k: ArrayLike) -> NDArray[np.uint64]:
        """Codes of keys.

        Parameters
        ----------
        k
            Real numbers [kv_heads, tokens, head_dim].

        Returns
        -------
        uint64 [key_heads, tokens, words]
            Query head h ranks by ``[h // (heads // key_heads)]``, the rule by which
            :func:`nearbit_model.golden.select` pairs heads. The key itself and its value are still
            those of key head ``h // (heads // kv_heads)``.

        Raises
        ------
        MappingError
            No finite real numbers, or a shape that the mapping is not for.
        """
        return self._codes(self._input("k", k, self.kv_heads), "k", self.key_heads)

    def _input(self, name: str, x: ArrayLike, heads: int) -> NDArray[Any]:
        array = _real(x, name)
        if array.ndim != 3 or (array.shape[0], array.shape[2]) != (heads, self.head_dim):
            axis = "queries" if name == "q" else "tokens"
            raise MappingError(f"{name} has shape {array.shape}, but the mapping is for [{heads}, "
                               f"{axis}, {self.head_dim}]; take the one made for this model and "
                               f"layer")
        return array

    def _codes(self, x: NDArray[Any], side: str, sets: int) -> NDArray[np.uint64]:
        layers = self._layers(side)
        rows = x.shape[1]
        block = max(1, _BLOCK // max(self.head_dim, self.bits, *self.hidden))
        packed = np.empty((sets, rows, self.words), np.uint64)
        for i in range(sets):
            own = [(weight[i * len(weight) // sets],
                    None if bias is None else bias[i * len(bias) // sets])
                   for weight, bias in layers]
            for start in range(0, rows, block):
                part = slice(start, start + block)
                values = x[i * len(x) // sets, part].astype(np.float64)
                for depth, (weight, bias) in enumerate(own):
                    values = _linear(_silu(values) if depth else values, weight, bias)
                packed[i, part] = quantize.codes((values > 0).astype(np.int8, order="C"))
        return packed

    def _layers(self, side: str) -> list[_Layer]:
        """What is computed for q or k: none for the sign of the vector itself."""
        if self.kind == "sign":
            return []
        if self.kind == "random":
            return [(self.tensors["weight"], None)]
        if self.kind == "hadamard":
            return [(_hadamard(self.tensors["signs"])[:, :self.bits], None)]
        return [(self.tensors[f"{side}.{i}.weight"], self.tensors[f"{side}.{i}.bias"])
                for i in range(len(self.hidden) + 1)]

    def choose(self, heads: Sequence[int], kv_heads: Sequence[int]) -> "Mapping":
        """The mapping of some heads.

        Parameters
        ----------
        heads, kv_heads
            Indices of the heads of q, and of those of k in the order in which they are used: the
            head in place i of the first uses the key head in place
            ``i // (len(heads) // len(kv_heads))`` of the second.

        Raises
        ------
        MappingError
            An index out of range, or key heads that are not those of the heads.
        """
        chosen = _indices("heads", heads, self.heads)
        chosen_kv = _indices("kv_heads", kv_heads, self.kv_heads)
        used = [head // (self.heads // self.kv_heads) for head in chosen]
        if used != np.repeat(chosen_kv, len(chosen) // len(chosen_kv)).tolist():
            raise MappingError(f"heads {chosen} use the kv_heads {used}, not {chosen_kv}")
        keys = chosen_kv if self.shares_keys else chosen
        tensors = {name: array[chosen if name.startswith("q.") else keys]
                   for name, array in self.tensors.items()}
        return replace(self, heads=len(chosen), kv_heads=len(chosen_kv), key_heads=len(keys),
                       tensors=tensors)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a safetensors file, as docs/codes.md describes it.

        The file is there whole or not at all, and the same mapping gives the same bytes. Raises
        :class:`MappingError`, naming the file, if it cannot be written.
        """
        fields = {name: getattr(self, name)
                  for name in ("kind", "bits", "head_dim", "heads", "kv_heads", "key_heads",
                               "hidden", "seed", "source")}
        # One entry of JSON: the library writes several in another order every time.
        description = json.dumps({"version": _VERSION, **fields})
        write_safetensors(Path(path), self.tensors, {_METADATA: description})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Mapping":
        """Read what :meth:`save` wrote; :class:`MappingError` names the file and what is wrong."""
        try:
            contents = read_safetensors(Path(path), lambda _: True)
            return cls(tensors=contents.tensors, **_fields(contents.metadata))
        except MappingError as error:
            raise MappingError(f"{path}: {error}") from None


def _fields(metadata: dict[str, str]) -> dict[str, Any]:
    """The fields in a file's metadata, of which the values are not checked yet."""
    if _METADATA not in metadata:
        raise MappingError(f"a safetensors file, but not of a code mapping: its metadata has no "
                           f"{_METADATA}")
    try:
        found = json.loads(metadata[_METADATA])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise MappingError(f"{_METADATA} in the metadata must be a JSON object")
    if "version" in found and found["version"] != _VERSION:
        raise MappingError(f"version {found['version']!r} of the format, but this Nearbit reads "
                           f"version {_VERSION}")
    for name in ("version", "kind", "bits", "head_dim", "heads", "kv_heads", "key_heads"):
        if name not in found:
            raise MappingError(f"{_METADATA} in the metadata has no {name}")
    return {name: found[name] for name in (
        "kind", "bits", "head_dim", "heads", "kv_heads", "key_heads", "hidden", "seed", "source")
        if name in found}


def _integer(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise MappingError(f"{name} must be an integer of at least {least}, not {value!r}")
    return int(value)


def _sizes(**sizes: int) -> tuple[int, ...]:
    return tuple(_integer(name, size, 1) for name, size in sizes.items())


def _indices(name: str, chosen: Sequence[int], size: int) -> list[int]:
    indices = [int(index) for index in chosen]
    if not indices or min(indices) < 0 or max(indices) >= size:
        raise MappingError(f"{name} must be indices from 0 to {size - 1}, not {indices}")
    return indices


def _real(x: ArrayLike, name: str) -> NDArray[Any]:
    try:
        return real_array(x, name)
    except ValueError as error:
        raise MappingError(str(error)) from None


def _checked(name: str, tensors: dict[str, NDArray[Any]], dtype: type[np.generic],
             shape: tuple[int, ...]) -> NDArray[Any]:
    """A copy of a tensor that nobody can change."""
    if name not in tensors:
        raise MappingError(f"tensor {name} is missing")
    array = np.array(tensors[name])
    if array.dtype != dtype:
        raise MappingError(f"tensor {name} must be {np.dtype(dtype)}, not {array.dtype}")
    if array.shape != shape:
        raise MappingError(f"tensor {name} must have shape {shape}, not {array.shape}")
    if dtype is np.int8 and not (np.abs(array) == 1).all():
        raise MappingError(f"tensor {name} must hold 1 and -1 only, not "
                           f"{array[np.abs(array) != 1][0]}")
    _real(array, f"tensor {name}")
    array.setflags(write=False)
    return array


def _transform_size(head_dim: int) -> int:
    """The smallest power of two that is not below."""
    return 1 << (head_dim - 1).bit_length()


def _hadamard(signs: NDArray[np.int8]) -> NDArray[np.int8]:
    """The transforms as matrices, [sets, patterns * size, dim], of signs [sets, patterns, dim]."""
    sets, patterns, dim = signs.shape
    row, column = np.ogrid[:_transform_size(dim), :dim]
    transform = np.where(np.bitwise_count(row & column) & 1, np.int8(-1), np.int8(1))
    return (transform * signs[:, :, None, :]).reshape(sets, patterns * len(row), dim)


def _linear(x: NDArray[np.float64], weight: NDArray[Any],
            bias: NDArray[Any] | None) -> NDArray[np.float64]:
    """``x @ weight.T + bias``, x [rows, in], weight [out, in], bias [out] or none."""
    # Summed in order. A matrix product of BLAS has an order of its own on every machine, and
    # another one for a single row.
    columns = np.ascontiguousarray(weight.T, np.float64)
    total = np.zeros((len(x), len(weight)))
    term = np.empty_like(total)
    for j, column in enumerate(columns):
        total += np.multiply(x[:, j, None], column, out=term)
    return total if bias is None else total + bias


def _silu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    # Far below 0 the exponential overflows to infinity, and the quotient is 0, as it should be.
    with np.errstate(over="ignore"):
        return np.asarray(x / (1 + np.exp(-x)), np.float64)
