"""Common parts of carry-chain cells: registers between stages, and sums laid out on chains."""

from collections.abc import Sequence

from amaranth import *


__all__ = ["Delays", "cut"]


class Delays:
    """Registers that bring bits to later stages; each bit has at most one register of each age.

    The registers load while :py:`advance` is high and are not reset.
    """

    def __init__(self, m: Module, advance: Value):
        self._m = m
        self._advance = advance
        # Keep the values, so that their ids are not reused.
        self._registers: dict[int, tuple[Value, Signal]] = {}

    def delay(self, value: Value, cycles: int) -> Value:
        """Return a bit as it was some cycles before."""
        for _ in range(cycles):
            if id(value) not in self._registers:
                register = Signal(name=f"register_{len(self._registers)}", reset_less=True)
                with self._m.If(self._advance):
                    self._m.d.sync += register.eq(value)
                self._registers[id(value)] = value, register
            value = self._registers[id(value)][1]
        return value


def cut(sizes: Sequence[int], ends: Sequence[bool], *, limit: int, grain: int) -> list[int]:
    """Cut a row of sums into chains that take the fewest cells.

    Parameters
    ----------
    sizes
        Places that each sum takes in its chain.
    ends
        For each sum, whether a chain that ends with it needs one more place, for the last carry.
    limit
        The most places in a chain, unless one sum alone has more.
    grain
        Places per cell.

    Returns
    -------
    list
        Number of sums in each chain. Among the cuts with the fewest cells, the one with the most
        even chains.
    """
    best: list[tuple[int, int, list[int]]] = [(0, 0, [])]
    for stop in range(1, len(sizes) + 1):
        choices = []
        for start in range(stop):
            places = sum(sizes[start:stop]) + ends[stop - 1]
            if places <= limit or start == stop - 1:
                cells, squares, counts = best[start]
                choices.append((cells - -places // grain, squares + places ** 2,
                                [*counts, stop - start]))
        best.append(min(choices))
    return best[-1][2]
