"""Payloads between Python values and the one bit vector that generated Verilog has for each.

A :class:`Shape` describes a payload without Amaranth, so that it can travel to a simulator as
JSON. One value is a plain Python object: a number for a number, a dictionary for a structure, a
list for an array. Many values are NumPy arrays with the number of values as the first dimension,
and bits are packed in 64-bit words, lowest first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray


__all__ = ["Array", "Bits", "Port", "Shape", "Struct", "Words"]


Words: TypeAlias = NDArray[np.uint64]


@dataclass(frozen=True)
class Bits:
    """A number of ``width`` bits."""

    width: int
    signed: bool = False

    def pack(self, value: Any) -> int:
        """Bits of a number; :class:`ValueError` if it does not fit."""
        number = int(value)
        low = -(1 << (self.width - 1)) if self.signed and self.width else 0
        high = (1 << (self.width - self.signed)) - 1 if self.width else 0
        if not low <= number <= high:
            raise ValueError(f"{number} is outside {low} to {high}")
        return number & ((1 << self.width) - 1)

    def unpack(self, bits: int) -> int:
        """Take a number out of the lowest bits."""
        number = bits & ((1 << self.width) - 1)
        if self.signed and number >> (self.width - 1):
            number -= 1 << self.width
        return number

    def pack_many(self, values: Any, words: Words, offset: int) -> None:
        """Add numbers ``values[i]`` to the rows of ``words`` at a bit offset.

        Numbers of more than 64 bits are rows of 64-bit words, as codes are in the golden model.
        """
        if self.width == 0:
            return
        array = np.asarray(values)
        if self.width > 64:
            if array.dtype != np.uint64 or array.shape != (len(words), -(-self.width // 64)):
                raise ValueError(f"numbers of {self.width} bits are rows of "
                                 f"{-(-self.width // 64)} uint64, not {array.dtype} of shape "
                                 f"{array.shape}")
            for index in range(array.shape[1]):
                part = Bits(min(64, self.width - 64 * index))
                part.pack_many(array[:, index], words, offset + 64 * index)
            return
        if array.shape != (len(words),):
            raise ValueError(f"{len(words)} numbers are needed, not shape {array.shape}")
        if array.dtype.kind not in "iub":
            raise ValueError(f"numbers must be integers, not {array.dtype}")
        if len(array):
            self.pack(array.min())
            self.pack(array.max())
        number = array.astype(np.int64 if array.dtype.kind == "i" else np.uint64).view(np.uint64)
        if self.width < 64:
            number = number & np.uint64((1 << self.width) - 1)
        index, shift = divmod(offset, 64)
        words[:, index] |= number << np.uint64(shift)
        if shift + self.width > 64:
            words[:, index + 1] |= number >> np.uint64(64 - shift)

    def unpack_many(self, words: Words, offset: int) -> Any:
        """Take numbers out of the rows of ``words``: int64, or uint64 if 64 bits are unsigned."""
        if self.width > 64:
            return np.stack([
                np.asarray(Bits(min(64, self.width - start)).unpack_many(words, offset + start),
                           dtype=np.uint64)
                for start in range(0, self.width, 64)], axis=1)
        if self.width == 0:
            return np.zeros(len(words), dtype=np.int64)
        index, shift = divmod(offset, 64)
        number = words[:, index] >> np.uint64(shift)
        if shift + self.width > 64:
            number = number | (words[:, index + 1] << np.uint64(64 - shift))
        if self.width == 64:
            return number.view(np.int64) if self.signed else number
        spare = np.uint64(64 - self.width)
        if self.signed:
            return (number << spare).view(np.int64) >> spare.astype(np.int64)
        return (number & np.uint64((1 << self.width) - 1)).view(np.int64)


@dataclass(frozen=True)
class Struct:
    """Named fields at bit offsets."""

    width: int
    fields: tuple[tuple[str, int, "Shape"], ...]

    def pack(self, value: Any) -> int:
        """Bits of a dictionary with a value for each field."""
        names = [name for name, _, _ in self.fields]
        if not isinstance(value, Mapping) or set(value) != set(names):
            raise ValueError(f"{value!r} is not a dictionary with the fields {', '.join(names)}")
        bits = 0
        for name, offset, shape in self.fields:
            try:
                bits |= shape.pack(value[name]) << offset
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return bits

    def unpack(self, bits: int) -> dict[str, Any]:
        """Take a dictionary out of the lowest bits."""
        return {name: shape.unpack(bits >> offset) for name, offset, shape in self.fields}

    def pack_many(self, values: Any, words: Words, offset: int) -> None:
        """Add a dictionary of arrays to the rows of ``words`` at a bit offset."""
        names = [name for name, _, _ in self.fields]
        if not isinstance(values, Mapping) or set(values) != set(names):
            raise ValueError(f"values must be a dictionary with the fields {', '.join(names)}")
        for name, field_offset, shape in self.fields:
            try:
                shape.pack_many(values[name], words, offset + field_offset)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None

    def unpack_many(self, words: Words, offset: int) -> dict[str, Any]:
        """Take a dictionary of arrays out of the rows of ``words``."""
        return {name: shape.unpack_many(words, offset + field_offset)
                for name, field_offset, shape in self.fields}


@dataclass(frozen=True)
class Array:
    """Equal elements, the first lowest."""

    length: int
    element: "Shape"

    @property
    def width(self) -> int:
        """Bits of all elements."""
        return self.length * self.element.width

    def pack(self, value: Any) -> int:
        """Bits of a sequence with a value for each element."""
        if len(value) != self.length:
            raise ValueError(f"{self.length} elements are needed, not {len(value)}")
        width = self.element.width
        return sum(self.element.pack(part) << (index * width) for index, part in enumerate(value))

    def unpack(self, bits: int) -> list[Any]:
        """Take a list out of the lowest bits."""
        width = self.element.width
        return [self.element.unpack(bits >> (index * width)) for index in range(self.length)]

    def pack_many(self, values: Any, words: Words, offset: int) -> None:
        """Add arrays, whose second dimension is the element, to the rows of ``words``."""
        for index in range(self.length):
            self.element.pack_many(_element(values, index, self.length), words,
                                   offset + index * self.element.width)

    def unpack_many(self, words: Words, offset: int) -> Any:
        """Take arrays, whose second dimension is the element, out of the rows of ``words``."""
        return _stack([self.element.unpack_many(words, offset + index * self.element.width)
                       for index in range(self.length)])


Shape: TypeAlias = Bits | Struct | Array


def _element(values: Any, index: int, length: int) -> Any:
    if isinstance(values, Mapping):
        return {name: _element(part, index, length) for name, part in values.items()}
    array = np.asarray(values)
    if array.ndim < 2 or array.shape[1] != length:
        raise ValueError(f"the second dimension must be {length}, not shape {array.shape}")
    return array[:, index]


def _stack(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], dict):
        return {name: _stack([part[name] for part in parts]) for name in parts[0]}
    return np.stack(parts, axis=1)


@dataclass(frozen=True)
class Port:
    """A stream of a component, as generated Verilog has it.

    Parameters
    ----------
    name
        Prefix of the three ports (``name__payload``), such as ``i`` or ``o__0``.
    is_input
        Whether payloads go into the component.
    shape
        The payload.
    has_valid, has_ready
        Whether there is such a port; a stream that is always valid or always ready has none.
    """

    name: str
    is_input: bool
    shape: Shape
    has_valid: bool = True
    has_ready: bool = True

    @property
    def words(self) -> int:
        """64-bit words of a packed payload; at least one."""
        return max(1, -(-self.shape.width // 64))

    def pack(self, values: Any, count: int) -> Words:
        """Pack many payloads into rows of 64-bit words."""
        words = np.zeros((count, self.words), dtype=np.uint64)
        try:
            self.shape.pack_many(values, words, 0)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None
        return words

    def unpack(self, words: Words) -> Any:
        """Unpack many payloads from rows of 64-bit words."""
        return self.shape.unpack_many(words, 0)

    def to_json(self) -> dict[str, Any]:
        """Describe the port with what JSON can hold."""
        return {"name": self.name, "is_input": self.is_input, "shape": _shape_to_json(self.shape),
                "has_valid": self.has_valid, "has_ready": self.has_ready}

    @classmethod
    def from_json(cls, port: dict[str, Any]) -> "Port":
        """Make a port of its description."""
        return cls(**{**port, "shape": _shape_from_json(port["shape"])})


def _shape_to_json(shape: Shape) -> Any:
    match shape:
        case Bits(width, signed):
            return [width, signed]
        case Struct(width, fields):
            return {"width": width, "fields": [[name, offset, _shape_to_json(field)]
                                               for name, offset, field in fields]}
        case Array(length, element):
            return {"length": length, "element": _shape_to_json(element)}


def _shape_from_json(shape: Any) -> Shape:
    if isinstance(shape, list):
        return Bits(*shape)
    if "length" in shape:
        return Array(shape["length"], _shape_from_json(shape["element"]))
    return Struct(shape["width"], tuple((name, offset, _shape_from_json(field))
                                        for name, offset, field in shape["fields"]))
