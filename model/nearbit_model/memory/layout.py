"""Bytes of codes and rows in memory, packed and read back (docs/memory.md).

Written after the document alone: the hardware derives the same offsets by its own means, and the
tests compare both.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nearbit_model.config import SCALE_BITS, Config, Memory
from nearbit_model.errors import NearbitError


__all__ = ["Field", "LayoutError", "MemoryLayout", "Octets", "Rows"]


Octets = NDArray[np.uint8]
"""Bytes of memory, the lowest address first."""

_WORD_BYTES = 8

_LEAST_UNIT = 16
"""Bytes that rows, and distances between them, are multiples of; a beat if that is more."""

_BLOCK = 1 << 22
"""Bits that are spread over bytes at once."""


class LayoutError(NearbitError, ValueError):
    """What cannot lie in memory, or not be read from there; the message is one sentence."""


@dataclass(frozen=True)
class Field:
    """Integers of a row, packed without gaps, the first one lowest.

    Attributes
    ----------
    offset
        Bytes of the row before it.
    elements
        How many integers.
    bits
        Bits of each.
    """

    offset: int
    elements: int
    bits: int

    @property
    def size(self) -> int:
        """Bytes that it reaches over; the spare bits of the last one belong to nothing."""
        return -(-self.elements * self.bits // 8)

    @property
    def end(self) -> int:
        """Bytes of the row up to its end."""
        return self.offset + self.size


@dataclass(frozen=True)
class Rows:
    """Contents of rows.

    Attributes
    ----------
    values
        Elements of the value vectors, int8 up to 8 bits, else int16 [..., value_dim].
    scales
        Their scales, uint16 [...].
    keys
        Elements of the rescore keys, int8 up to 8 bits, else int16 [..., head_dim]; None without a
        rescoring unit.
    """

    values: NDArray[Any]
    scales: NDArray[np.uint16]
    keys: NDArray[Any] | None = None


@dataclass(frozen=True)
class MemoryLayout:
    """How a code and a row are made up of bytes; little-endian, bit 0 first.

    Attributes
    ----------
    config
        The configuration.
    memory
        Its memory.
    code_bytes
        Bytes of a code: its bits, rounded up to a power of two.
    key
        Field of the rescore key; None without a rescoring unit.
    values
        Field of the value vector.
    scale
        Field of its scale.
    row_bytes
        Bytes of a row that are read and written: whole beats of the bus.
    """

    config: Config
    memory: Memory
    code_bytes: int
    key: Field | None
    values: Field
    scale: Field
    row_bytes: int

    @classmethod
    def of(cls, config: Config) -> "MemoryLayout":
        """Give the layout of a configuration; :class:`LayoutError` if it has no memory."""
        if config.memory is None:
            raise LayoutError("the configuration has no memory: give it a table [memory]")
        beat = config.memory.bus_bits // 8
        code_bytes = 1
        while 8 * code_bytes < config.key_bits:
            code_bytes *= 2
        key, end = None, 0
        if config.rescore is not None:
            key = Field(0, config.rescore.head_dim, config.rescore.element_bits)
            end = key.end
        values = Field(_rounded_up(end, beat), config.value_dim, config.value_bits)
        scale = Field(_rounded_up(values.end, SCALE_BITS // 8), 1, SCALE_BITS)
        return cls(config, config.memory, code_bytes, key, values, scale,
                   _rounded_up(scale.end, beat))

    @property
    def beat_bytes(self) -> int:
        """Bytes of a beat of the bus."""
        return self.memory.bus_bits // 8

    @property
    def row_beats(self) -> int:
        """Beats of a row."""
        return self.row_bytes // self.beat_bytes

    @property
    def row_unit(self) -> int:
        """Bytes that bases of rows, and strides, are multiples of."""
        return max(_LEAST_UNIT, self.beat_bytes)

    @property
    def code_unit(self) -> int:
        """Bytes that bases of codes are multiples of: those of the longest burst."""
        return self.memory.burst_bytes

    @property
    def least_stride(self) -> int:
        """Bytes from one row to the next, at least."""
        return _rounded_up(self.row_bytes, self.row_unit)

    @property
    def most_stride(self) -> int:
        """Bytes from one row to the next, at most: what a head's entry can say."""
        return ((1 << self.memory.stride_bits) - 1) * self.row_unit

    def pack_codes(self, codes: NDArray[np.uint64]) -> Octets:
        """Lay out codes.

        Parameters
        ----------
        codes
            uint64 [..., ceil(key_bits / 64)], as of :func:`nearbit_model.quantize.codes`.

        Returns
        -------
        uint8 [..., code_bytes]
            The bits above ``key_bits`` are 0.

        Raises
        ------
        LayoutError
            Another type or shape, or a bit above ``key_bits``.
        """
        key_bits = self.config.key_bits
        words = -(-key_bits // (8 * _WORD_BYTES))
        codes = np.asarray(codes)
        if codes.dtype != np.uint64:
            raise LayoutError(f"codes must be uint64, not {codes.dtype}")
        if codes.ndim == 0 or codes.shape[-1] != words:
            raise LayoutError(f"codes must be [..., {words}] for {key_bits} bits, not "
                              f"{list(codes.shape)}")
        spare = 8 * _WORD_BYTES * words - key_bits
        if spare and (codes[..., -1] >> np.uint64(8 * _WORD_BYTES - spare)).any():
            raise LayoutError(f"codes have bits above key_bits ({key_bits})")
        octets = np.ascontiguousarray(codes, "<u8").view(np.uint8)
        return _resized(octets, self.code_bytes)

    def unpack_codes(self, octets: Octets) -> NDArray[np.uint64]:
        """Read codes back, uint8 [..., code_bytes] to uint64 [..., ceil(key_bits / 64)].

        As in the hardware, bits above ``key_bits`` are ignored. :class:`LayoutError` if the type
        or the shape is another.
        """
        octets = self._octets(octets, "codes", self.code_bytes)
        key_bits = self.config.key_bits
        words = -(-key_bits // (8 * _WORD_BYTES))
        codes = np.ascontiguousarray(_resized(octets, words * _WORD_BYTES)).view("<u8")
        codes = codes.astype(np.uint64)
        spare = 8 * _WORD_BYTES * words - key_bits
        codes[..., -1] &= np.uint64((1 << 8 * _WORD_BYTES) - 1) >> np.uint64(spare)
        return codes

    def pack_rows(self, values: ArrayLike, scales: ArrayLike,
                  keys: ArrayLike | None = None) -> Octets:
        """Lay out rows.

        Parameters
        ----------
        values
            Integers of ``value_bits`` bits [..., value_dim].
        scales
            Integers of 16 bits, unsigned [...].
        keys
            Integers of ``rescore.element_bits`` bits [..., head_dim]; None without a rescoring
            unit.

        Returns
        -------
        uint8 [..., row_bytes]
            What belongs to no field is 0.

        Raises
        ------
        LayoutError
            No integers, another shape, an element of more bits, or keys where there is no
            rescoring unit for them, or none where there is one.
        """
        if (keys is None) != (self.key is None):
            raise LayoutError("keys must be given, as the configuration has a rescoring unit"
                              if keys is None else
                              "keys must be None, as the configuration has no rescoring unit")
        values, scales = np.asarray(values), np.asarray(scales)
        shape = scales.shape
        fields = [(self.values, _checked("values", values, (*shape, self.values.elements),
                                         self.values.bits)),
                  (self.scale, _checked("scales", scales, shape, SCALE_BITS,
                                        signed=False)[..., None])]
        if self.key is not None:
            fields.append((self.key, _checked("keys", np.asarray(keys),
                                              (*shape, self.key.elements), self.key.bits)))
        rows = np.zeros((*shape, self.row_bytes), np.uint8)
        for field, elements in fields:
            rows[..., field.offset:field.end] = _pack(elements, field.bits)
        return rows

    def unpack_rows(self, octets: Octets) -> Rows:
        """Read rows, uint8 [..., row_bytes]; what belongs to no field is ignored.

        :class:`LayoutError` if the type or the shape is another.
        """
        octets = self._octets(octets, "rows", self.row_bytes)

        def signed(field: Field) -> NDArray[Any]:
            found = _unpack(octets[..., field.offset:field.end], field)
            return found.astype(np.int8) if field.bits <= 8 else found

        scales = octets[..., self.scale.offset:self.scale.end]
        return Rows(
            values=signed(self.values),
            scales=np.ascontiguousarray(scales).view("<u2").astype(np.uint16)[..., 0],
            keys=None if self.key is None else signed(self.key))

    def beats(self, rows: Octets) -> NDArray[np.uint64]:
        """Cut rows, uint8 [tokens, row_bytes], into beats of the bus, as the core takes them.

        Returns
        -------
        uint64 [tokens * row_beats], or [tokens * row_beats, bus_bits / 64] of a wider bus
            The lowest word first.

        Raises
        ------
        LayoutError
            Another type or shape.
        """
        rows = self._octets(rows, "rows", self.row_bytes)
        beats = rows.reshape(-1, self.beat_bytes)
        words = np.ascontiguousarray(
            _resized(beats, max(self.beat_bytes, _WORD_BYTES))).view("<u8").astype(np.uint64)
        return words[:, 0] if words.shape[1] == 1 else words

    def _octets(self, octets: Octets, what: str, size: int) -> Octets:
        octets = np.asarray(octets)
        if octets.dtype != np.uint8:
            raise LayoutError(f"{what} must be uint8, not {octets.dtype}")
        if octets.ndim == 0 or octets.shape[-1] != size:
            raise LayoutError(f"{what} must be [..., {size}], not {list(octets.shape)}")
        return octets


def _rounded_up(number: int, unit: int) -> int:
    return number + -number % unit


def _resized(octets: Octets, size: int) -> Octets:
    """Cut the last axis, or append zeros to it."""
    missing = max(0, size - octets.shape[-1])
    if missing:
        octets = np.pad(octets, [(0, 0)] * (octets.ndim - 1) + [(0, missing)])
    return octets[..., :size]


def _checked(name: str, array: NDArray[Any], shape: tuple[int, ...], bits: int, *,
             signed: bool = True) -> NDArray[Any]:
    """Check integers of a number of bits; return them in 16 bits, little-endian."""
    if array.dtype.kind not in "iu":
        raise LayoutError(f"{name} must be integers, not {array.dtype}")
    if array.shape != shape:
        raise LayoutError(f"{name} must have shape {list(shape)}, not {list(array.shape)}")
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if array.size and (array.min() < low or array.max() > high):
        raise LayoutError(f"{name} must be from {low} to {high}, not from {array.min()} to "
                          f"{array.max()}")
    return array.astype("<i2" if signed else "<u2")


def _pack(elements: NDArray[Any], bits: int) -> Octets:
    """Pack 16-bit integers [..., dim] in a number of bits each, the first one lowest."""
    dim = elements.shape[-1]
    flat = np.ascontiguousarray(elements).reshape(-1, dim).view(np.uint8)
    packed = np.empty((len(flat), -(-dim * bits // 8)), np.uint8)
    step = max(1, _BLOCK // (16 * dim))
    for start in range(0, len(flat), step):
        spread = np.unpackbits(flat[start:start + step], axis=1, bitorder="little")
        kept = spread.reshape(-1, dim, 16)[:, :, :bits].reshape(-1, dim * bits)
        packed[start:start + step] = np.packbits(kept, axis=1, bitorder="little")
    return packed.reshape(*elements.shape[:-1], packed.shape[1])


def _unpack(octets: Octets, field: Field) -> NDArray[np.int16]:
    """Undo :func:`_pack` for a field, [..., size] to [..., elements]; of two's complement."""
    dim, bits = field.elements, field.bits
    flat = octets.reshape(-1, octets.shape[-1])
    found = np.empty((len(flat), dim), np.int16)
    step = max(1, _BLOCK // (16 * dim))
    for start in range(0, len(flat), step):
        kept = np.unpackbits(flat[start:start + step], axis=1, bitorder="little",
                             count=dim * bits).reshape(-1, dim, bits)
        spread = np.empty((*kept.shape[:2], 16), np.uint8)
        spread[:, :, :bits] = kept
        spread[:, :, bits:] = kept[:, :, bits - 1:]
        found[start:start + step] = np.packbits(
            spread, axis=2, bitorder="little").view("<i2")[:, :, 0]
    return found.reshape(*octets.shape[:-1], dim)
