"""Tensor files: what `nearbit simulate` and `nearbit run` read, checked array by array."""

import dataclasses
import difflib
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from nearbit_model import quantize
from nearbit_model.prepare import TensorError


__all__ = ["TensorError", "Tensors", "load"]


_REQUIRED = ("q", "k", "v")
_OPTIONAL = ("qpos", "causal", "logit_scale")

# Where the heads come from, as `nearbit capture` and tests/data have it, and exact attention, which
# is computed here; nothing depends on them.
_ORIGIN = ("layer", "head", "layer_head", "source", "model", "o_exact")

_AXES = {
    "q": "[heads, queries, head_dim]",
    "k": "[kv heads, tokens, head_dim]",
    "v": "[kv heads, tokens, value_dim]",
}

# Everything is computed in float32 or wider and reported as float32.
_LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = float(np.finfo(np.float32).tiny)

# Up to this, every integer is a float64.
_LARGEST_INTEGER = 1 << 53


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
    logit_scale
        Logit scale of each head's softmax, [heads]: the file's, or what follows from all of the
        head's q and k, so that a choice of queries has the same.
    heads
        Which heads of the file these are, ascending.
    queries
        Which queries of the file these are, ascending.
    kv_heads
        Which key heads of the file these are.
    notes
        What was read otherwise than one might think, or not at all, for the user.
    """

    q: NDArray[np.floating]
    k: NDArray[np.floating]
    v: NDArray[np.floating]
    qpos: NDArray[np.int64] | None
    logit_scale: NDArray[np.float64]
    heads: NDArray[np.int64]
    queries: NDArray[np.int64]
    kv_heads: NDArray[np.int64]
    notes: tuple[str, ...] = ()

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
        """Elements of a value vector."""
        return int(self.v.shape[2])

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Tensors":
        """Read and check an ``.npz`` or ``.safetensors`` file.

        :class:`TensorError` names the file and what is wrong in it. Two-byte elements without a
        kind are bfloat16, which NumPy saves so; they become float32. Integers are numbers, as they
        are.
        """
        try:
            arrays, unused = _read(Path(path))
            tensors = cls.check(**arrays)
            return dataclasses.replace(tensors, notes=tuple(_notes(arrays, unused)))
        except TensorError as error:
            raise TensorError(f"{path}: {error}") from None

    @classmethod
    def check(cls, q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], *,
              qpos: NDArray[Any] | None = None, causal: NDArray[Any] | None = None,
              logit_scale: NDArray[Any] | None = None) -> "Tensors":
        """Check arrays as they are in a file; :class:`TensorError` says what is wrong."""
        q, k, v = (_numbers(name, array) for name, array in (("q", q), ("k", k), ("v", v)))
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
                              f"{kv_heads} heads of k and v{_question(k)}")

        positions = None
        if causal is not None and _flag("causal", causal):
            positions = _positions(qpos, queries, tokens)
        return cls(q, k, v, positions,
                   quantize.logit_scale(q, k) if logit_scale is None
                   else _logit_scale(logit_scale, heads),
                   np.arange(heads), np.arange(queries), np.arange(kv_heads))

    @property
    def options(self) -> dict[str, Any]:
        """What the file says besides q, k and v, by the names that :func:`nearbit.attention` has.

        Those are ``causal``, ``qpos`` and ``logit_scale``.
        """
        return {"causal": self.causal, "qpos": self.qpos, "logit_scale": self.logit_scale}

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
            self.logit_scale[chosen], self.heads[chosen], self.queries[asked],
            self.kv_heads[kv_heads])


def load(path: str | PathLike[str]) -> Tensors:
    """Read attention tensors of an ``.npz`` or ``.safetensors`` file; see :class:`Tensors`.

    :class:`TensorError` says what is wrong in the file.

    Examples
    --------
    ::

        tensors = nearbit.load("heads.safetensors")
        answer = nearbit.attention(tensors.q, tensors.k, tensors.v, "reference", **tensors.options)
    """
    return Tensors.load(path)


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """Read the arrays that are known, and the names of the others."""
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
            # The header's length in eight bytes, then the header, which is a JSON object.
            if stream.read(9)[8:] == b"{":
                return _read_safetensors(path)
            if path.suffix == ".safetensors":
                raise TensorError("not a safetensors file, or one that is cut short")
            stream.seek(0)
            try:
                archive = stack.enter_context(zipfile.ZipFile(stream))
            except Exception:
                # BadZipFile for most damages, but not for all.
                raise TensorError("not an .npz file, or one that is cut short") from None
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            known = _known(names)
            return ({name: _member(archive, name) for name in known},
                    [name for name in names if name not in known])
    except OSError as error:
        raise TensorError(error.strerror or str(error)) from None


def _known(names: list[str]) -> list[str]:
    """Choose the names to read; refuse a file without those that it must have."""
    for name in _REQUIRED:
        if name not in names:
            raise TensorError(_missing(name, names))
    known = [name for name in (*_REQUIRED, *_OPTIONAL) if name in names]
    for name in names:
        if names.count(name) > 1 and name in known:
            raise TensorError(f"array {name} is in the file twice")
        if name.lower() in _OPTIONAL and name.lower() not in known:
            raise TensorError(f"array {name} is not known; rename it to {name.lower()}")
    return known


def _read_safetensors(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            known = _known(names)
            arrays = {name: _tensor(path, name) if file.get_slice(name).get_dtype() == "BF16"
                      else file.get_tensor(name) for name in known}
    except SafetensorError:
        raise TensorError("a safetensors file that is damaged or cut short") from None
    except MemoryError:
        raise TensorError("its arrays do not fit in memory") from None
    except (AttributeError, TypeError):
        # So the library stumbles over a dtype that it knows and NumPy does not.
        raise TensorError("a safetensors file with elements of a kind that NumPy does not have; "
                          "store them as float32") from None
    return arrays, [name for name in names if name not in known]


def _tensor(path: Path, name: str) -> NDArray[Any]:
    """Read a tensor of bfloat16, which the library hands to PyTorch only, from a checked file."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        entry = json.loads(stream.read(size))[name]
        start, end = entry["data_offsets"]
        stream.seek(8 + size + start)
        halves = np.frombuffer(stream.read(end - start), "<u2")
    return _from_bfloat16(halves.reshape(entry["shape"]))


def _from_bfloat16(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    """A bfloat16 is the upper half of a float32."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def _memory() -> int:
    """Bytes of memory that this machine has."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 62 # not known


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    try:
        size = archive.getinfo(f"{name}.npy").file_size
        # A small file may unpack to more than there is room for.
        if size > _memory():
            raise MemoryError
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
        raise TensorError(f"array {name} has data beyond its end")
    return _named(array)


def _is_bfloat16(array: NDArray[Any]) -> bool:
    """Of the kinds that NumPy saves without a name, only bfloat16 has two bytes."""
    return array.dtype.kind == "V" and array.dtype.fields is None and array.dtype.itemsize == 2


def _named(array: NDArray[Any]) -> NDArray[Any]:
    return _from_bfloat16(array.view(np.uint16)) if _is_bfloat16(array) else array


def _notes(arrays: dict[str, NDArray[Any]], unused: list[str]) -> Iterator[str]:
    integers = [name for name in _REQUIRED if arrays[name].dtype.kind in "iu"]
    if integers:
        yield f"the integers of {_and(integers)} are taken as numbers, without a scale"
    others = [f"{name}{_hint(name, arrays)}" for name in unused if name not in _ORIGIN]
    if "qpos" in arrays and "causal" not in arrays:
        yield ("qpos is not used without causal: every query sees all keys; if each sees those up "
               "to its position, add causal = true")
    keys = arrays["k"].reshape(arrays["k"].shape[-3:])
    if question := _question(keys):
        yield f"k is read as {_counts(keys)}{question}"
    if others:
        yield f"not used: {', '.join(others[:8])}{', ...' if len(others) > 8 else ''}"


def _question(k: NDArray[Any]) -> str:
    """Ask about the order of axes if there are more heads than tokens; else nothing."""
    return ("" if k.shape[0] <= k.shape[1] else
            "; if its axes are [tokens, heads, head_dim], swap the first two of q, k and v")


def _counts(k: NDArray[Any]) -> str:
    return f"{k.shape[0]} heads of {k.shape[1]} token{'s' * (k.shape[1] != 1)}"


def _hint(name: str, arrays: dict[str, NDArray[Any]]) -> str:
    close = difflib.get_close_matches(
        name.lower(), [known for known in _OPTIONAL if known not in arrays], n=1)
    return f" (if it is {close[0]}, rename it)" if close else ""


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


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


def _numbers(name: str, array: NDArray[Any]) -> NDArray[np.floating]:
    """Check an array of q, k or v, and give it in this machine's order of bytes and elements."""
    if array.ndim == 4 and len(array) == 1:
        array = array[0] # a batch of one
    if array.ndim != 3:
        raise TensorError(f"{name} must have 3 axes {_AXES[name]}, not {array.ndim} "
                          f"({_its_shape(array)})")
    kind = array.dtype.kind
    if kind == "V":
        raise TensorError(f"{name} has elements of a kind that NumPy does not have "
                          f"({array.dtype}); store them as float32")
    if kind == "b" or (kind == "u" and name in ("q", "k")):
        raise TensorError(f"{name} is of {array.dtype}, which has no signs; store codes as -1 and "
                          f"1, and numbers as floats")
    if kind not in "fiu":
        raise TensorError(f"{name} must be an array of floats, not of {array.dtype}")
    if array.size == 0:
        raise TensorError(f"{name} is empty (its shape is {_shape(array)})")
    if kind != "f":
        return _from_integers(name, array)
    # The sum of an axis at a time would hide infinities of both signs.
    if not np.isfinite(array).all():
        index = np.argwhere(~np.isfinite(array))[0]
        raise TensorError(f"{name}[{', '.join(map(str, index))}] is {array[tuple(index)]}; "
                          f"every element must be finite")
    if array.dtype.itemsize > 4:
        largest = np.abs(array).max(axis=(1, 2))
        if largest.max() > _LARGEST:
            raise TensorError(f"{name} has elements beyond the range of float32")
        faint = np.flatnonzero((largest > 0) & (largest < _SMALLEST))
        if name == "v" and len(faint):
            raise TensorError(f"v[{faint[0]}] is below the range of float32: its largest element "
                              f"is {largest[faint[0]]:.3g}; multiply v by a number")
    # Wider than float64 are only some machines' own.
    width = np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
    return np.asarray(array, width, order="C")


def _from_integers(name: str, array: NDArray[Any]) -> NDArray[np.float64]:
    if name in ("q", "k") and array.min() == 0 and array.max() <= 1:
        raise TensorError(f"{name} holds only 0 and 1; store codes as -1 and 1, and numbers as "
                          f"floats")
    if array.max() > _LARGEST_INTEGER or array.min() < -_LARGEST_INTEGER:
        raise TensorError(f"{name} has integers beyond 2**53, which floats do not all have")
    return np.asarray(array, np.float64, order="C")


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


def _logit_scale(array: NDArray[Any], heads: int) -> NDArray[np.float64]:
    if array.dtype.kind != "f" or array.shape != (heads,):
        raise TensorError(f"logit_scale must be one float for each of the {heads} heads, "
                          f"not {_describe(array)}")
    wrong = np.flatnonzero(~(np.isfinite(array) & (array >= 0)))
    if len(wrong):
        raise TensorError(f"logit_scale[{wrong[0]}] is {array[wrong[0]]}; it must be finite and "
                          f"not negative")
    return array.astype(np.float64)


def _describe(array: NDArray[Any]) -> str:
    if array.ndim == 0:
        return f"{array[()]!s} ({array.dtype})"
    return f"an array of {array.dtype} of shape {_shape(array)}"
