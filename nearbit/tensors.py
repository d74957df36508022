"""Tensor files: what `nearbit simulate` reads, checked array by array."""

import difflib
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearbit_model import quantize
from nearbit_model.prepare import TensorError


__all__ = ["TensorError", "Tensors"]


_REQUIRED = ("q", "k", "v")
_OPTIONAL = ("qpos", "causal", "temperature")
_AXES = {
    "q": "[heads, queries, head_dim]",
    "k": "[kv heads, tokens, head_dim]",
    "v": "[kv heads, tokens, value_dim]",
}

# Everything is computed in float32 or wider and reported as float32.
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Tensors:
    """Attention tensors of one layer or of a choice of heads, checked.

    Parameters
    ----------
    q
        Queries, floats, [heads, queries, head_dim].
    k
        Keys, floats, [kv heads, tokens, head_dim]. The heads are split evenly among the kv heads,
        in order (grouped-query attention).
    v
        Values, floats, [kv heads, tokens, value_dim].
    qpos
        Position of each query, [queries]; a query sees keys 0 to its position. None: every query
        sees all keys.
    temperature
        Temperature of each head's softmax, [heads]: the file's, or what follows from all of the
        head's q and k, so that a choice of queries has the same.
    heads
        Which heads of the file these are, ascending.
    queries
        Which queries of the file these are, ascending.
    kv_heads
        Which key heads of the file these are.
    """

    q: NDArray[np.floating]
    k: NDArray[np.floating]
    v: NDArray[np.floating]
    qpos: NDArray[np.int64] | None
    temperature: NDArray[np.float64]
    heads: NDArray[np.int64]
    queries: NDArray[np.int64]
    kv_heads: NDArray[np.int64]

    @property
    def causal(self) -> bool:
        """Whether a query sees only the keys up to its own position."""
        return self.qpos is not None

    @property
    def tokens(self) -> int:
        """Keys of each head."""
        return int(self.k.shape[1])

    @property
    def head_dim(self) -> int:
        """Elements of a query and of a key."""
        return int(self.q.shape[2])

    @property
    def value_dim(self) -> int:
        """Elements of a value row."""
        return int(self.v.shape[2])

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Tensors":
        """Read and check a file; :class:`TensorError` names the file and what is wrong in it."""
        try:
            arrays = _read(Path(path))
            return cls.check(**arrays)
        except TensorError as error:
            raise TensorError(f"{path}: {error}") from None

    @classmethod
    def check(cls, q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], *,
              qpos: NDArray[Any] | None = None, causal: NDArray[Any] | None = None,
              temperature: NDArray[Any] | None = None) -> "Tensors":
        """Check arrays as they are in a file; :class:`TensorError` says what is wrong."""
        for name, array in (("q", q), ("k", k), ("v", v)):
            _check_floats(name, array)
        heads, queries, head_dim = q.shape
        kv_heads, tokens, _ = k.shape
        if k.shape[2] != head_dim:
            raise TensorError(f"q has head_dim {head_dim} and k has {k.shape[2]}; "
                              f"they must be equal")
        if v.shape[:2] != k.shape[:2]:
            raise TensorError(f"v has {v.shape[0]} heads of {v.shape[1]} tokens and k has "
                              f"{kv_heads} of {tokens}; they must be equal")
        if heads % kv_heads:
            raise TensorError(f"q has {heads} heads, which do not split evenly among the "
                              f"{kv_heads} heads of k and v")

        positions = None
        if causal is not None and _flag("causal", causal):
            positions = _positions(qpos, queries, tokens)
        return cls(q, k, v, positions,
                   quantize.temperature(q, k) if temperature is None
                   else _temperature(temperature, heads),
                   np.arange(heads), np.arange(queries), np.arange(kv_heads))

    def select(self, heads: NDArray[np.int64] | None = None,
               queries: NDArray[np.int64] | None = None) -> "Tensors":
        """Take some heads and some queries, given by their ascending indices.

        Key and value heads that no chosen head reads are left out. If the chosen heads are
        unevenly spread over them, each chosen head gets key and value heads of its own.
        """
        chosen = np.arange(len(self.heads)) if heads is None else heads
        asked = np.arange(len(self.queries)) if queries is None else queries
        group = len(self.q) // len(self.k)
        kv_heads, sizes = np.unique(chosen // group, return_counts=True)
        if np.any(sizes != sizes[0]):
            kv_heads = chosen // group
        return Tensors(
            self.q[chosen][:, asked], self.k[kv_heads], self.v[kv_heads],
            None if self.qpos is None else self.qpos[asked],
            self.temperature[chosen], self.heads[chosen], self.queries[asked],
            self.kv_heads[kv_heads])


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays that are known; whatever else a file holds is left alone."""
    try:
        if path.is_dir():
            raise TensorError("a directory, not an .npz file")
        if not path.exists():
            raise TensorError("no such file")
        if not path.is_file():
            raise TensorError("not a regular file")
        # Not numpy.load: given a damaged archive, that leaves the file open.
        with ExitStack() as stack:
            stream = stack.enter_context(path.open("rb"))
            try:
                archive = stack.enter_context(zipfile.ZipFile(stream))
            except Exception:
                # BadZipFile for most damages, but not for all.
                raise TensorError("not an .npz file, or one that is cut short") from None
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            for name in _REQUIRED:
                if name not in names:
                    raise TensorError(_missing(name, names))
            return {name: _member(archive, name) for name in (*_REQUIRED, *_OPTIONAL)
                    if name in names}
    except OSError as error:
        raise TensorError(error.strerror or str(error)) from None


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    try:
        with archive.open(f"{name}.npy") as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
            # The checksum is looked at when the end is met.
            rest = stream.read(1)
    except MemoryError:
        raise TensorError(f"array {name} does not fit in memory") from None
    except Exception as error:
        # A damaged member surfaces as almost any exception of zipfile, zlib, NumPy and ast.
        if "allow_pickle" in str(error):
            raise TensorError(f"array {name} holds Python objects, not numbers") from None
        raise TensorError(f"array {name} is damaged or cut short") from None
    if rest:
        raise TensorError(f"array {name} goes on after its end")
    return array


def _missing(name: str, names: list[str]) -> str:
    long_names = {"q": ["query", "queries"], "k": ["key", "keys"], "v": ["value", "values"]}[name]
    spellings = {candidate.lower(): candidate for candidate in names}
    guesses = [spellings[guess] for guess in (name, *long_names) if guess in spellings]
    guesses += difflib.get_close_matches(long_names[0], names, n=1)
    if guesses:
        remedy = f"rename {guesses[0]} to {name}"
    else:
        remedy = f"the file has {', '.join(names[:8])}" if names else "the file has none"
        remedy += ", ..." if len(names) > 8 else ""
    return f"array {name} {_AXES[name]} is missing; {remedy}"


def _check_floats(name: str, array: NDArray[Any]) -> None:
    if array.ndim != 3:
        raise TensorError(f"{name} must have 3 axes {_AXES[name]}, not {array.ndim} "
                          f"({_its_shape(array)})")
    if array.dtype.kind != "f":
        raise TensorError(f"{name} must be an array of floats, not of {array.dtype}")
    if array.size == 0:
        raise TensorError(f"{name} is empty (its shape is {_shape(array)})")
    # The sum of an axis at a time would hide infinities of both signs.
    if not np.isfinite(array).all():
        index = np.argwhere(~np.isfinite(array))[0]
        raise TensorError(f"{name}[{', '.join(map(str, index))}] is {array[tuple(index)]}; "
                          f"every element must be finite")
    if array.dtype.itemsize > 4 and np.abs(array).max() > _LARGEST:
        raise TensorError(f"{name} has elements beyond the range of float32")


def _shape(array: NDArray[Any]) -> str:
    return " x ".join(map(str, array.shape))


def _its_shape(array: NDArray[Any]) -> str:
    return f"its shape is {_shape(array)}" if array.ndim else "it is a single number"


def _flag(name: str, array: NDArray[Any]) -> bool:
    if array.size != 1 or array.dtype.kind not in "bui" or int(array.flat[0]) not in (0, 1):
        raise TensorError(f"{name} must be one boolean, not {_describe(array)}")
    return bool(array.flat[0])


def _positions(array: NDArray[Any] | None, queries: int, tokens: int) -> NDArray[np.int64]:
    if array is None:
        if queries > tokens:
            raise TensorError(f"qpos is missing, and {queries} queries cannot be the last of "
                              f"{tokens} tokens; add qpos, their positions")
        return np.arange(tokens - queries, tokens)
    if array.dtype.kind not in "ui":
        raise TensorError(f"qpos must be integers, not {array.dtype}")
    if array.shape != (queries,):
        raise TensorError(f"qpos must have one position for each of the {queries} queries, "
                          f"but {_its_shape(array)}")
    wrong = np.flatnonzero((array < 0) | (array >= tokens))
    if len(wrong):
        raise TensorError(f"qpos[{wrong[0]}] is {array[wrong[0]]}, but the keys are "
                          f"0 to {tokens - 1}")
    return array.astype(np.int64)


def _temperature(array: NDArray[Any], heads: int) -> NDArray[np.float64]:
    if array.dtype.kind != "f" or array.shape != (heads,):
        raise TensorError(f"temperature must be one float for each of the {heads} heads, "
                          f"not {_describe(array)}")
    wrong = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if len(wrong):
        raise TensorError(f"temperature[{wrong[0]}] is {array[wrong[0]]}; it must be finite and "
                          f"not negative")
    return array.astype(np.float64)


def _describe(array: NDArray[Any]) -> str:
    if array.ndim == 0:
        return f"{array[()]!s} ({array.dtype})"
    return f"an array of {array.dtype} of shape {_shape(array)}"
