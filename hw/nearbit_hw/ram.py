"""Block RAM, and addressing of two-dimensional tables in it."""

from collections.abc import Iterable
from typing import Any

from amaranth import *
from amaranth.lib import memory


__all__ = ["UNINITIALIZED", "Address", "block_ram", "single_port_ram"]


UNINITIALIZED = "uninitialized"
"""Attribute of a memory whose contents are undefined at power-up."""


# Amaranth takes integers as attributes, though its stubs allow only strings.
_TRUE: Any = 1


def block_ram(*, shape: Any, depth: int, init: Iterable[Any] = ()) -> memory.Memory:
    """Memory in which the user never relies on a word read in the cycle that writes it.

    On such a collision, Amaranth's memories return the old word, which block RAM of ECP5 and iCE40
    does not guarantee: Yosys adds a comparator, a bypass and a register for each bit (1,000 LUTs
    around a key store of 16 lanes). The attribute ``no_rw_check`` says that any value will do.
    Yosys heeds it in Verilog, as written by :func:`nearbit_hw.verilog.generate`, not in RTLIL.

    The attribute ``ram_style`` keeps small memories out of LUTs, where they would cost more than
    expected: a buffer of 64 words of 17 bits takes 40 LUTs, and another 70 to multiplex them.
    """
    return memory.Memory(shape=shape, depth=depth, init=init, attrs={
        "no_rw_check": _TRUE, "ram_style": "block"})


def single_port_ram(*, shape: Any, depth: int) -> memory.Memory:
    """Memory with one address that either reads or writes in a cycle; undefined at power-up.

    The synthesizer chooses the kind: the large single-port RAM of an iCE40 UltraPlus (Yosys's
    ``synth_ice40 -spram``), or block RAM. It must be able to see that both ports share one address
    and are never enabled together. The large kind cannot be initialized.
    """
    return memory.Memory(shape=shape, depth=depth, init=[], attrs={
        "no_rw_check": _TRUE, UNINITIALIZED: _TRUE})


class Address:
    """Address of a place (a, b) with :py:`a < a_count` and :py:`b < b_count`, without arithmetic.

    The two indices are concatenated in the order that wastes less memory; if either count is a
    power of two, nothing is wasted.
    """

    def __init__(self, a_count: int, b_count: int):
        a_bits, b_bits = (len(Signal(range(count))) for count in (a_count, b_count))
        depth_a_low = (b_count - 1 << a_bits) + a_count
        depth_b_low = (a_count - 1 << b_bits) + b_count
        self._a_is_low = depth_a_low < depth_b_low
        self._depth = min(depth_a_low, depth_b_low)

    @property
    def depth(self) -> int:
        """Words that the memory needs."""
        return self._depth

    def __call__(self, a: Value, b: Value) -> Value:
        """Address of a place; the operands have exactly the bits that their counts need."""
        return Cat(a, b) if self._a_is_low else Cat(b, a)
