"""Where a cache lies in a memory: the sizes that all its blocks share."""

from dataclasses import dataclass

from amaranth import *
from amaranth.lib import data, enum

from nearbit_hw.memory.axi import BOUNDARY_BYTES, check_bus
from nearbit_hw.memory.sizes import check_positive, check_power, log2
from nearbit_model.config import Config


__all__ = ["CacheMap", "Lookup", "cache_map"]


class Lookup(enum.Enum, shape=2):
    """What came of a look-up in a table."""

    OK = 0
    #: Nothing was set.
    NOT_SET = 1
    #: What was looked up, or what was found, is a number beyond the table's size.
    RANGE = 2


@dataclass(frozen=True, kw_only=True)
class CacheMap:
    """Where a cache lies in a memory, and the payloads that follow from it.

    A *head* has a base address of its codes and one of its rows. A *sequence* has a list of *pages*
    of :py:`page_tokens` tokens each. Token t of a sequence is in place
    :py:`list[t // page_tokens] * page_tokens + t % page_tokens` of every head; its code is so many
    codes behind the base of the head's codes, its row so many strides behind that of its rows.
    Addresses are in bytes; sums beyond :py:`address_bits` wrap around, so whoever sets bases
    sees to it that all pages of a head lie below.

    Parameters
    ----------
    heads : :class:`int`
        Heads. At least 1.
    sequences : :class:`int`
        Sequences at the same time. At least 1.
    capacity : :class:`int`
        Tokens of a sequence, at most; a multiple of :py:`page_tokens`.
    page_tokens : :class:`int`
        Tokens of a page, a power of two.
    pages : :class:`int`
        Pages of a head, of which lists give the numbers from 0. At least 1.
    address_bits : :class:`int`
        Bits of an address. 13 to 64.
    data_bits : :class:`int`
        Bits of the bus, a power of two from 8 to 1024.
    burst_bytes : :class:`int`
        Bytes of the longest burst of codes, a power of two from 16 to 4096 and from a beat to 256
        beats. Codes of a head begin at a multiple of it.
    stride_bits : :class:`int`
        Bits of the stride, in row units. At least 1.
    """

    heads: int
    sequences: int
    capacity: int
    page_tokens: int
    pages: int
    address_bits: int = 32
    data_bits: int = 64
    burst_bytes: int = 256
    stride_bits: int = 8

    def __post_init__(self) -> None:
        check_positive(heads=self.heads, sequences=self.sequences, pages=self.pages,
                       stride_bits=self.stride_bits)
        check_power(page_tokens=self.page_tokens, burst_bytes=self.burst_bytes)
        check_bus(address_bits=self.address_bits, data_bits=self.data_bits)
        if (not isinstance(self.capacity, int) or self.capacity < 1
                or self.capacity % self.page_tokens):
            raise TypeError(f"Capacity must be a positive multiple of the tokens of a page "
                            f"({self.page_tokens}), not {self.capacity!r}")
        low = max(16, self.data_bytes)
        high = min(BOUNDARY_BYTES, 256 * self.data_bytes)
        if not low <= self.burst_bytes <= high:
            raise ValueError(f"Burst bytes must be from {low} to {high}, not {self.burst_bytes!r}")

    @property
    def data_bytes(self) -> int:
        """Bytes of a beat."""
        return self.data_bits // 8

    @property
    def row_unit(self) -> int:
        """Bytes that bases of rows, and strides, are multiples of: 16, or a beat if more."""
        return max(16, self.data_bytes)

    @property
    def listed(self) -> int:
        """Pages of a sequence, at most."""
        return self.capacity // self.page_tokens

    @property
    def range_layout(self) -> data.StructLayout:
        """Tokens :py:`first` to :py:`first + count - 1` of a sequence, for a head."""
        return data.StructLayout({
            "head": range(self.heads),
            "sequence": range(self.sequences),
            "first": range(self.capacity),
            "count": range(self.capacity + 1),
        })

    @property
    def head_layout(self) -> data.StructLayout:
        """Bases of a head in units of :py:`burst_bytes` and :py:`row_unit`, and the stride."""
        return data.StructLayout({
            "codes": self.address_bits - log2(self.burst_bytes),
            "rows": self.address_bits - log2(self.row_unit),
            "stride": self.stride_bits,
        })

    @property
    def head_write_layout(self) -> data.StructLayout:
        """Entry of a head, or that there is none."""
        return data.StructLayout({
            "head": range(self.heads), "set": 1, "entry": self.head_layout})

    @property
    def page_write_layout(self) -> data.StructLayout:
        """Page in a place of a sequence's list, or that there is none."""
        return data.StructLayout({
            "sequence": range(self.sequences),
            "index": range(self.listed),
            "set": 1,
            "page": range(self.pages),
        })

    @property
    def tokens_layout(self) -> data.StructLayout:
        """Number of tokens of a sequence."""
        return data.StructLayout({
            "sequence": range(self.sequences), "tokens": range(self.capacity + 1)})

    @property
    def page_layout(self) -> data.StructLayout:
        """Place in a sequence's list; its index reaches beyond, so that what does is noticed."""
        return data.StructLayout({
            "sequence": range(self.sequences), "index": range(2 * self.listed)})

    @property
    def request_layout(self) -> data.StructLayout:
        """What is looked up: a head, and a place in a sequence's list."""
        return data.StructLayout({
            "head": range(self.heads), "page": self.page_layout})

    @property
    def answer_layout(self) -> data.StructLayout:
        """What is found: the head's bases, the page's number, the tokens of the sequence."""
        return data.StructLayout({
            "error": Lookup,
            "head": self.head_layout,
            "page": range(self.pages),
            "tokens": range(self.capacity + 1),
        })

    def index_of(self, token: Value) -> Value:
        """Index of a token's page in the list."""
        return token[log2(self.page_tokens):]

    def offset_of(self, token: Value) -> Value:
        """Place of a token within its page."""
        return token[:log2(self.page_tokens)]


def cache_map(config: Config) -> CacheMap:
    """Give the map of a configuration with a memory; :class:`ValueError` if it has none."""
    memory = config.memory
    if memory is None:
        raise ValueError("the configuration has no memory")
    return CacheMap(
        heads=memory.heads, sequences=memory.sequences, capacity=config.capacity,
        page_tokens=memory.page_tokens, pages=config.memory_pages,
        address_bits=memory.address_bits, data_bits=memory.bus_bits,
        burst_bytes=memory.burst_bytes, stride_bits=memory.stride_bits)
