"""Times before and after all others, and stages that move together."""

from collections import deque


__all__ = ["FOREVER", "NEVER", "Pipeline"]


NEVER = -(1 << 62)
FOREVER = 1 << 62


class Pipeline:
    """Stages that all move in a cycle, or none does.

    What enters in one move leaves the stage k later k moves later, whatever the cycles. Moves are
    numbered such that, without any stall, move x is made in cycle x. A stall holds a move back, and
    with it all that follow. Stalls are added in order; old ones are forgotten, as nothing asks for
    the cycle of a move that long ago.
    """

    _MEMORY = 64 # more moves than any pipeline has stages

    def __init__(self) -> None:
        """Begin without any stall."""
        self._stalls: deque[tuple[int, int]] = deque() # the move, and by how many cycles
        self._total = 0
        self.last_held = NEVER

    def next_move(self, cycle: int) -> int:
        """The first move that is made in a cycle or after it."""
        late = self._total
        for move, cycles in reversed(self._stalls):
            if cycle > move + late:
                break
            late -= cycles
            if cycle >= move + late:
                return move
        return cycle - late

    def cycle(self, move: int) -> int:
        """The cycle in which a move is made."""
        late = self._total
        for held, cycles in reversed(self._stalls):
            if held <= move:
                break
            late -= cycles
        return move + late

    def shown(self, move: int) -> int:
        """The first cycle in which what leaves with a move is presented."""
        return self.cycle(move - 1) + 1

    def hold(self, move: int, until: int) -> None:
        """Make a move in this cycle at the earliest."""
        wait = until - self.cycle(move)
        if wait <= 0:
            return
        self._stalls.append((move, wait))
        self._total += wait
        self.last_held = move
        while self._stalls[0][0] < move - self._MEMORY:
            self._stalls.popleft()
