"""Configurations with a memory, of any width that one may have."""

from hypothesis import reject
from hypothesis import strategies as st

from nearbit_model.config import Config, ConfigError, Memory, Rescore


def elements(bus_bits, bits, most=1024):
    """Pairs of dimension and lanes whose beats fill beats of the bus, or divide them."""
    lanes = [count for count in range(1, most + 1)
             if count * bits % bus_bits == 0 or bus_bits % (count * bits) == 0]
    return st.sampled_from(lanes).flatmap(
        lambda count: st.integers(1, min(most // count, 5)).map(lambda n: (n * count, count)))


@st.composite
def memory_configs(draw):
    """Small heads and pages, and all widths."""
    bus_bits = draw(st.sampled_from([32, 64, 128, 256, 512]))
    key_bits = draw(st.sampled_from([5, 8, 32, 64, 65]) | st.integers(5, 1024))
    lanes = draw(st.sampled_from([1, 2, 4]))
    value_bits, element_bits = draw(st.integers(2, 16)), draw(st.integers(2, 16))
    value_dim, value_lanes = draw(elements(bus_bits, value_bits))
    unit = None
    if draw(st.booleans()):
        head_dim, rescore_lanes = draw(elements(bus_bits, element_bits))
        unit = Rescore(head_dim=head_dim, lanes=rescore_lanes, element_bits=element_bits)
    code_bits = 1 << (key_bits - 1).bit_length()
    page_tokens = (max(bus_bits, lanes * code_bits, 8 * code_bits) // code_bits
                   << draw(st.integers(0, 2)))
    burst_bytes = max(bus_bits // 8, 16, lanes * code_bits // 8) << draw(st.integers(0, 2))
    listed = draw(st.integers(1, 4))
    memory = Memory(
        heads=draw(st.integers(1, 5)), sequences=draw(st.integers(1, 2)),
        page_tokens=page_tokens, pages=listed + draw(st.integers(0, 2)),
        bus_bits=bus_bits, burst_bytes=min(burst_bytes, 4096, 32 * bus_bits), stride_bits=9,
        address_bits=draw(st.sampled_from([24, 32, 64])))
    try:
        return Config(
            key_bits=key_bits, value_dim=value_dim, value_lanes=value_lanes, value_bits=value_bits,
            capacity=listed * page_tokens, lanes=lanes, top_n=1, rescore=unit, memory=memory)
    except ConfigError as error:
        if "a row must be at most" not in str(error):
            raise
        return reject()
