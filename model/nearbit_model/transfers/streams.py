"""Streams of the core for a configuration, as a host sees them.

What :class:`nearbit_hw.core.Core` has, written down a second time: a host needs no hardware
description to pack payloads, and the tests compare both.
"""

from nearbit_model.config import MULTIPLIER_BITS, SCALE_BITS, Config
from nearbit_model.structure import Error
from nearbit_model.transfers.payload import Array, Bits, Port, Shape, Struct


__all__ = ["core_ports"]


def core_ports(config: Config) -> list[Port]:
    """List the streams of a core, in the order of its signature."""
    place, keys = _up_to(config.capacity - 1), _up_to(config.capacity)
    exp_table, query = _up_to(config.exp_tables - 1), _up_to(config.queries - 1)
    error = _up_to(max(Error) if config.memory is not None else Error.SHARED)
    unit = config.rescore
    multiplier: dict[str, Shape] = {} if unit is None else {"multiplier": Bits(MULTIPLIER_BITS)}
    score: dict[str, Shape] = {} if unit is None else {
        "score": Bits(config.score_max.bit_length() + 1, signed=True)}
    inputs: dict[str, Shape] = {
        "i_key": _struct(token=place, code=Bits(config.key_bits)),
        "i_value": _struct(
            token=place, beat=_up_to(config.beats - 1),
            elements=Array(config.value_lanes, Bits(config.value_bits, signed=True)),
            scale=Bits(SCALE_BITS)),
        "i_exp_table": _struct(
            exp_table=exp_table, distance=_up_to(config.key_bits), weight=Bits(config.weight_bits)),
    }
    if unit is not None:
        elements = Array(unit.lanes, Bits(unit.element_bits, signed=True))
        inputs["i_rescore_key"] = _struct(
            token=place, beat=_up_to(unit.beats - 1), elements=elements)
        inputs["i_rescore_query"] = elements
    inputs["i_command"] = _struct(
        first=place, n=keys, sink=keys, recent=keys, trace=Bits(1), rescore=Bits(1),
        shared=Bits(1),
        queries=Array(config.queries, _struct(
            code=Bits(config.key_bits), count=keys, exp_table=exp_table, **multiplier)))
    outputs: dict[str, Shape] = {
        "o_result": _struct(
            query=query, error=error, output=Bits(config.output_bits, signed=True), last=Bits(1)),
        "o_trace": _struct(
            query=query, index=place, distance=_up_to(config.distance_max), **score,
            weight=Bits(config.weight_bits), last=Bits(1)),
    }
    return [*(Port(name, True, shape) for name, shape in inputs.items()),
            *(Port(name, False, shape) for name, shape in outputs.items())]


def _up_to(most: int) -> Bits:
    """Describe a number from 0 to ``most``."""
    return Bits(most.bit_length())


def _struct(**fields: Shape) -> Struct:
    """Describe fields one after another without gaps, the first lowest."""
    places: list[tuple[str, int, Shape]] = []
    width = 0
    for name, shape in fields.items():
        places.append((name, width, shape))
        width += shape.width
    return Struct(width, tuple(places))
