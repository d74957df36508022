"""What the cells made of carry chains share: registers between stages, sums laid out on chains."""

from collections.abc import Sequence

from amaranth import *


__all__ = ["Delays", "cut"]


class Delays:
    """Registers that bring bits to later stages; a bit has one of each age, however often asked.

    The registers move while :py:`advance` is high and are not reset.
    """

    def __init__(self, m: Module, advance: Value):
        self._m = m
        self._advance = advance
        # The values are kept, so that none of their identities is used again.
        self._registers: dict[int, tuple[Value, Signal]] = {}

    def delay(self, value: Value, cycles: int) -> Value:
        """Bit as it was some cycles before."""
        for _ in range(cycles):
            if id(value) not in self._registers:
                register = Signal(name=f"register_{len(self._registers)}", reset_less=True)
                with self._m.If(self._advance):
                    self._m.d.sync += register.eq(value)
                self._registers[id(value)] = value, register
            value = self._registers[id(value)][1]
        return value


def cut(sizes: Sequence[int], ends: Sequence[bool], *, limit: int, grain: int) -> list[int]:
    """Cut a row of sums into chains, so that they take the fewest cells.

    Parameters
    ----------
    sizes
        Places that each sum takes in its chain.
    ends
        Whether a chain that ends with the sum needs one more place, for its last carry.
    limit
        Places of a chain at most, unless one sum alone has more.
    grain
        Places of a cell.

    Returns
    -------
    list
        Number of sums in each chain. Of the cuts with the fewest cells it is the one with the
        most even chains.
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
