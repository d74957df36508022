# amaranth: UnusedElaboratable=no

"""The cache of all heads in a memory, as the core sees it."""

from dataclasses import dataclass

from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.appender import Appender
from nearbit_hw.memory.axi import ReadSignature, WriteSignature
from nearbit_hw.memory.cache_map import cache_map
from nearbit_model.config import SCALE_BITS, Config


__all__ = ["RowFields", "cache_members"]


@dataclass(frozen=True)
class RowFields:
    """Where the fields of a row are: the rescore key, the values, and their scale (docs/memory.md).

    Attributes
    ----------
    value_beat
        Beat of the bus with which the values begin.
    scale_bit
        Bit of the row with which the scale begins, a multiple of its bits.
    beats
        Beats of a row.
    """

    value_beat: int
    scale_bit: int
    beats: int

    @classmethod
    def of(cls, config: Config) -> "RowFields":
        """Give those of a configuration with a memory."""
        memory, unit = config.memory, config.rescore
        if memory is None:
            raise ValueError("the configuration has no memory")
        bus = memory.bus_bits
        key_bits = 0 if unit is None else unit.head_dim * unit.element_bits
        value_beat = -(-key_bits // bus)
        values_end = value_beat * bus + config.value_dim * config.value_bits
        scale_bit = -(-values_end // SCALE_BITS) * SCALE_BITS
        return cls(value_beat=value_beat, scale_bit=scale_bit,
                   beats=-(-(scale_bit + SCALE_BITS) // bus))


def cache_members(config: Config) -> dict[str, wiring.Member]:
    """Members of a core with a memory: its tables, tokens that it appends, and the buses."""
    sizes, memory = cache_map(config), config.memory
    if memory is None:
        raise ValueError("the configuration has no memory")
    appender = Appender(sizes, key_bits=config.key_bits, row_beats=RowFields.of(config).beats,
                        timeout_bits=memory.timeout_bits).signature.members
    bus = {"address_bits": memory.address_bits, "data_bits": memory.bus_bits}
    row_ids = memory.row_id_bits
    return {
        "i_head": In(stream.Signature(sizes.head_write_layout)),
        "i_page": In(stream.Signature(sizes.page_write_layout)),
        "i_tokens": In(stream.Signature(sizes.tokens_layout)),
        "i_append": appender["i"],
        "i_row": appender["i_row"],
        "o_append": appender["o"],
        "timeout": In(memory.timeout_bits),
        # On one bus, the highest bit of an ID says whether it is of a row.
        "axi_codes": Out(ReadSignature(**bus, id_bits=row_ids + 1 if memory.one_bus else 0)),
        **({} if memory.one_bus else {
            "axi_rows": Out(ReadSignature(**bus, id_bits=row_ids)).array(memory.row_ports)}),
        "axi_append": Out(WriteSignature(**bus)),
    }
