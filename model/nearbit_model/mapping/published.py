"""What was published with HashAttention (arXiv 2412.14468): its checkpoints and its budget."""

import operator
import re
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearbit_model.mapping.files import (
    Contents,
    MappingError,
    read_npz,
    read_safetensors,
    read_torch,
)
from nearbit_model.mapping.mapping import Mapping


__all__ = ["heavy_budget", "import_published"]


_READERS = {".safetensors": read_safetensors, ".npz": read_npz, ".pt": read_torch,
            ".pth": read_torch}

_NAME = re.compile(r"([0-9]{1,6})\.learning_to_hash_transformation_([qk])\.([0-9]{1,6})\."
                   r"([0-9]{1,6})\.(?:weight|bias)")


def import_published(path: str | PathLike[str], layer: int, *, kv_heads: int) -> Mapping:
    """Read the mappings of one layer from a checkpoint of the layout that HashAttention publishes.

    Parameters
    ----------
    path
        ``.safetensors`` or ``.npz`` with the names and shapes of the published state dict; or that
        itself, ``.pt`` or ``.pth``, if PyTorch is installed. docs/codes.md has the names, and the
        two lines that turn a ``.pt`` into a ``.safetensors``.
    layer
        Layer of the model, from 0.
    kv_heads
        Heads of k, which the checkpoint does not say.

    Returns
    -------
    Mapping
        Kind ``layers`` (or ``linear``), with a mapping of keys for each query head.

    Raises
    ------
    MappingError
        A file that cannot be read or is not of that layout, or a layer that it does not have.
    """
    file = Path(path)
    try:
        if file.suffix not in _READERS:
            raise MappingError(f"not one of {', '.join(_READERS)} by its name")
        contents = _READERS[file.suffix](file, lambda name: name.startswith(f"{layer}."))
        q, k = _layers(contents, layer)
        return Mapping.learned(q, k, kv_heads=kv_heads, source=f"layer {layer} of {file.name}")
    except MappingError as error:
        raise MappingError(f"{path}: {error}") from None


def _layers(contents: Contents, layer: int) -> list[list[tuple[NDArray[Any], NDArray[Any]]]]:
    """Weights and biases for q and for k, the heads stacked."""
    places = [tuple(map(int, match.group(1, 3, 4))) for match in map(_NAME.fullmatch,
                                                                      contents.names) if match]
    if not places:
        raise MappingError(f"not a checkpoint of HashAttention, which has tensors such as "
                           f"{_name(0, 'q', 0, 0, 'weight')}")
    here = [place for place in places if place[0] == layer]
    if not here:
        last = max(place[0] for place in places)
        raise MappingError(f"no layer {layer!r}: the layers are 0 to {last}")
    heads = 1 + max(head for _, head, _ in here)
    # What stands between two linear layers has a number and no weights.
    depth = 1 + max(index for _, _, index in here) // 2
    sides = []
    for side in "qk":
        layers = []
        for i in range(depth):
            weights, biases = ([_of_head(contents, _name(layer, side, head, 2 * i, what))
                                for head in range(heads)] for what in ("weight", "bias"))
            layers.append((_stack(weights, _name(layer, side, 0, 2 * i, "weight")),
                           _stack(biases, _name(layer, side, 0, 2 * i, "bias"))))
        sides.append(layers)
    return sides


def _name(layer: int, side: str, head: int, index: int, what: str) -> str:
    return f"{layer}.learning_to_hash_transformation_{side}.{head}.{index}.{what}"


def _of_head(contents: Contents, name: str) -> NDArray[Any]:
    if name not in contents.tensors:
        raise MappingError(f"tensor {name} is missing")
    array = contents.tensors[name]
    if array.dtype.kind != "f":
        raise MappingError(f"tensor {name} must hold floats, not {array.dtype}")
    return array


def _stack(arrays: list[NDArray[Any]], first: str) -> NDArray[Any]:
    for array in arrays:
        if array.shape != arrays[0].shape:
            raise MappingError(f"tensor {first} must have the same shape in every head, not "
                               f"{arrays[0].shape} and {array.shape}")
    return np.stack(arrays)


def heavy_budget(tokens: int, fraction: float) -> int:
    """Keys that HashAttention selects by distance, besides sinks and the window.

    ``int(tokens * fraction)``, as published, with the product in float64; but at least 1, which is
    the least that a command may ask for. Published code then selects none by distance.

    Parameters
    ----------
    tokens
        All keys there are, sinks and window included; at least 1.
    fraction
        Greater than 0, at most 1.

    Raises
    ------
    ValueError
        Tokens or a fraction out of range.

    Examples
    --------
    >>> from nearbit_model.mapping import heavy_budget
    >>> heavy_budget(4096, 1 / 32)
    128
    """
    if operator.index(tokens) < 1:
        raise ValueError(f"tokens must be at least 1, not {tokens}")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be greater than 0 and at most 1, not {fraction}")
    return max(1, int(tokens * fraction))
