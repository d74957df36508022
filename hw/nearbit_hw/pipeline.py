"""Delay registers alongside a pipeline that never stalls."""

from typing import Any

from amaranth import *


__all__ = ["delay", "delay_control"]


def delay(m: Module, value: Any, cycles: int, name: str) -> Any:
    """Delay a value by some cycles; the registers are not reset."""
    for cycle in range(cycles):
        delayed = Signal.like(value, name=f"{name}_{cycle}", reset_less=True)
        m.d.sync += delayed.eq(value)
        value = delayed
    return value


def delay_control(m: Module, value: Value, cycles: int, name: str) -> Value:
    """Delay a bit by some cycles; the registers are reset."""
    if not cycles:
        return value
    pipe = Signal(cycles, name=name)
    m.d.sync += pipe.eq(Cat(value, pipe))
    return pipe[-1]
