"""Pipelined reduction trees, with registers after every level."""

from collections.abc import Callable, Sequence

from amaranth import *

from nearbit_model.structure import FAN_IN, tree_latency


__all__ = ["any_tree", "sum_tree"]


def _tree(m: Module, terms: Sequence[Value], join: Callable[[Sequence[Value], str], Signal],
          fan_in: int, name: str) -> Value:
    for level in range(tree_latency(len(terms), fan_in)):
        terms = [join(terms[start:start + fan_in], f"{name}_{level}_{start // fan_in}")
                 for start in range(0, len(terms), fan_in)]
    return terms[0]


def sum_tree(m: Module, terms: Sequence[Value], *, name: str, advance: Value | None = None,
             fan_in: int = FAN_IN) -> Value:
    """Add single bits, with a latency of :func:`tree_latency` cycles.

    The registers load while :py:`advance` is high (always, if it is :py:`None`) and are not reset.
    """
    enable = Const(1) if advance is None else advance
    weights = {id(term): 1 for term in terms} # largest value of each term

    def join(group: Sequence[Value], node: str) -> Signal:
        largest = sum(weights[id(term)] for term in group)
        total = Signal(range(largest + 1), name=node, reset_less=True)
        weights[id(total)] = largest
        with m.If(enable):
            m.d.sync += total.eq(sum(group))
        return total

    return _tree(m, terms, join, fan_in, name)


def any_tree(m: Module, terms: Sequence[Value], *, name: str, fan_in: int = FAN_IN) -> Value:
    """OR bits, with a latency of :func:`tree_latency` cycles; the registers are not reset."""
    def join(group: Sequence[Value], node: str) -> Signal:
        found = Signal(name=node, reset_less=True)
        m.d.sync += found.eq(Cat(*group).any())
        return found

    return _tree(m, terms, join, fan_in, name)
