"""Streams of the core for a configuration, as a host sees them.

What :class:`nearbit_hw.core.Core` has, written down a second time: a host needs no hardware
description to pack payloads, and the tests compare both.
"""

from nearbit_model.config import MULTIPLIER_BITS, SCALE_BITS, Config, Memory
from nearbit_model.structure import Error
from nearbit_model.transfers.buses import Bus
from nearbit_model.transfers.payload import Array, Bits, Port, Shape, Struct


__all__ = ["core_buses", "core_ports"]


def core_ports(config: Config) -> list[Port]:
    """List the streams of a core, in the order of its signature, without AXI4 channels."""
    place, keys = _up_to(config.capacity - 1), _up_to(config.capacity)
    exp_table, query = _up_to(config.exp_tables - 1), _up_to(config.queries - 1)
    error = _up_to(max(Error) if config.memory is not None else Error.SHARED)
    unit = config.rescore
    multiplier: dict[str, Shape] = {} if unit is None else {"multiplier": Bits(MULTIPLIER_BITS)}
    score: dict[str, Shape] = {} if unit is None else {
        "score": Bits(config.score_max.bit_length() + 1, signed=True)}
    memory = config.memory
    inputs: dict[str, Shape] = {
        "i_key": _struct(token=place, code=Bits(config.key_bits)),
        "i_value": _struct(
            token=place, beat=_up_to(config.beats - 1),
            elements=Array(config.value_lanes, Bits(config.value_bits, signed=True)),
            scale=Bits(SCALE_BITS)),
    } if memory is None else _tables(config, memory)
    inputs["i_exp_table"] = _struct(
        exp_table=exp_table, distance=_up_to(config.key_bits), weight=Bits(config.weight_bits))
    if unit is not None:
        elements = Array(unit.lanes, Bits(unit.element_bits, signed=True))
        if memory is None:
            inputs["i_rescore_key"] = _struct(
                token=place, beat=_up_to(unit.beats - 1), elements=elements)
        inputs["i_rescore_query"] = elements
    inputs["i_command"] = _struct(
        **({} if memory is None else _places(memory)), first=place, n=keys, sink=keys,
        recent=keys, trace=Bits(1), rescore=Bits(1), shared=Bits(1),
        queries=Array(config.queries, _struct(
            code=Bits(config.key_bits), count=keys, exp_table=exp_table, **multiplier)))
    outputs: dict[str, Shape] = {
        "o_result": _struct(
            query=query, error=error, output=Bits(config.output_bits, signed=True), last=Bits(1)),
        "o_trace": _struct(
            query=query, index=place, distance=_up_to(config.distance_max), **score,
            weight=Bits(config.weight_bits), last=Bits(1)),
    }
    listed = [*(Port(name, True, shape) for name, shape in inputs.items()),
              *(Port(name, False, shape) for name, shape in outputs.items())]
    if memory is not None:
        # Where tokens go in, it also comes out how that ended.
        listed.insert(list(inputs).index("i_row") + 1,
                      Port("o_append", False, _struct(failed=Bits(1))))
    return listed


def core_buses(config: Config) -> list[Bus]:
    """List the AXI4 buses of a core, in the order of its signature; none without a memory."""
    memory = config.memory
    if memory is None:
        return []
    ids = memory.row_id_bits
    # On one bus, the highest bit of an ID says whether it is of a row.
    read = {"axi_codes": ids + 1} if memory.one_bus else {
        "axi_codes": 0, **{f"axi_rows__{port}": ids for port in range(memory.row_ports)}}
    return [*(Bus(name, True, memory.address_bits, memory.bus_bits, bits)
              for name, bits in read.items()),
            Bus("axi_append", False, memory.address_bits, memory.bus_bits)]


def _places(memory: Memory) -> dict[str, Shape]:
    """Fields that say of which head and sequence something is."""
    return {"head": _up_to(memory.heads - 1), "sequence": _up_to(memory.sequences - 1)}


def _tables(config: Config, memory: Memory) -> dict[str, Shape]:
    """Streams that set the tables of a memory, and that append tokens to it."""
    beat_bytes = memory.bus_bits // 8
    row_unit = max(16, beat_bytes)
    places = _places(memory)
    return {
        "i_head": _struct(head=places["head"], set=Bits(1), entry=_struct(
            codes=Bits(memory.address_bits - (memory.burst_bytes - 1).bit_length()),
            rows=Bits(memory.address_bits - (row_unit - 1).bit_length()),
            stride=Bits(memory.stride_bits))),
        "i_page": _struct(
            sequence=places["sequence"],
            index=_up_to(config.capacity // memory.page_tokens - 1), set=Bits(1),
            page=_up_to(config.memory_pages - 1)),
        "i_tokens": _struct(sequence=places["sequence"], tokens=_up_to(config.capacity)),
        "i_append": _struct(**places, token=_up_to(config.capacity - 1),
                            code=Bits(config.key_bits), raises=Bits(1)),
        "i_row": Bits(memory.bus_bits),
    }


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
