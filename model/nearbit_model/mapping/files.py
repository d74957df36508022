"""Files that hold named tensors, read and written with one sentence for whatever is wrong."""

import importlib
import os
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from nearbit_model.errors import NearbitError


__all__ = ["Contents", "MappingError", "read_npz", "read_safetensors", "read_torch",
           "write_safetensors"]


class MappingError(NearbitError, ValueError):
    """A mapping, or a file of one, that does not fit; the message is one sentence."""


class Contents(NamedTuple):
    """What a file holds: all names, the tensors that were wanted, and the metadata."""

    names: list[str]
    tensors: dict[str, NDArray[Any]]
    metadata: dict[str, str]


def read_safetensors(path: Path, wanted: Callable[[str], bool]) -> Contents:
    """Read the tensors whose names are wanted; :class:`MappingError` does not name the file."""
    # The header's length in eight bytes, then the header, which is a JSON object.
    if _start(path, 9)[8:] != b"{":
        raise MappingError("not a safetensors file")
    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            tensors = {name: _tensor(file, name) for name in names if wanted(name)}
            return Contents(names, tensors, file.metadata() or {})
    except SafetensorError:
        raise MappingError("a safetensors file that is damaged or cut short") from None


def _tensor(file: Any, name: str) -> NDArray[Any]:
    try:
        return np.asarray(file.get_tensor(name))
    except (AttributeError, TypeError):
        # So the library stumbles over a dtype that it knows and NumPy does not.
        raise MappingError(f"tensor {name} is {file.get_slice(name).get_dtype()}, which NumPy "
                           f"does not have; store it as float32") from None


def read_npz(path: Path, wanted: Callable[[str], bool]) -> Contents:
    """The same for an ``.npz`` file of NumPy."""
    _start(path, 0)
    # Not numpy.load: given a damaged archive, that leaves the file open.
    with ExitStack() as stack:
        stream = stack.enter_context(path.open("rb"))
        try:
            archive = stack.enter_context(zipfile.ZipFile(stream))
        except Exception:
            # BadZipFile for most damages, but not for all.
            raise MappingError("not an .npz file, or one that is cut short") from None
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        return Contents(names, {name: _member(archive, name) for name in names if wanted(name)}, {})


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    try:
        with archive.open(f"{name}.npy") as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
            # The checksum is looked at when the end is met.
            if stream.read(1):
                raise ValueError("has data beyond its end")
    except Exception as error:
        # A damaged member surfaces as almost any exception of zipfile, zlib, NumPy and ast.
        if "allow_pickle" in str(error):
            raise MappingError(f"tensor {name} holds Python objects, not numbers") from None
        raise MappingError(f"tensor {name} is damaged or cut short") from None
    return np.asarray(array)


def read_torch(path: Path, wanted: Callable[[str], bool]) -> Contents:
    """The same for a state dict that PyTorch saved, if PyTorch is there."""
    _start(path, 0)
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        raise MappingError("a file of PyTorch, which is not installed; docs/codes.md has the two "
                           "lines that turn it into .safetensors elsewhere") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        # Damage, or anything but tensors inside, surfaces as almost any exception.
        raise MappingError("not a state dict that PyTorch loads with weights_only=True") from None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise MappingError("not a state dict, which has a name for each tensor")
    tensors = {name: tensor for name, tensor in state.items() if wanted(name)}
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise MappingError(f"{name} must be a tensor, not {type(tensor).__name__}")
        # NumPy has no bfloat16; all of its numbers are float32's too.
        tensors[name] = np.asarray(tensor.detach().float().numpy())
    return Contents(list(state), tensors, {})


def _start(path: Path, size: int) -> bytes:
    """The first bytes of a file that can be read."""
    try:
        if path.is_dir():
            raise MappingError("a directory, not a file")
        if not path.exists():
            raise MappingError("no such file")
        if not path.is_file():
            raise MappingError("not a regular file")
        with path.open("rb") as stream:
            return stream.read(size)
    except OSError as error:
        raise MappingError(error.strerror or str(error)) from None


def write_safetensors(path: Path, tensors: dict[str, NDArray[Any]],
                      metadata: dict[str, str]) -> None:
    """Write a file that is there whole or not at all.

    :class:`MappingError` names the file.
    """
    # The library takes an array's memory as it lies, whatever its strides.
    data = safetensors.numpy.save(
        {name: np.ascontiguousarray(array) for name, array in tensors.items()}, metadata)
    # Through a symbolic link: the file that it points to is replaced, not the link.
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        try:
            temporary.write_bytes(data)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise MappingError(f"cannot write {path}: {error.strerror or error}") from None
