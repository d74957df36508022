"""Accelerators whose memory holds the caches of all heads of all layers of a network."""

from math import gcd

from nearbit_model.config import Config, ConfigError, Memory, Rescore
from nearbit_model.memory import plan_memory
from nearbit_nets.errors import NetworkError
from nearbit_nets.golden import ELEMENT_BITS, Method
from nearbit_nets.network import Network


__all__ = ["check_fit", "fitted", "key_heads"]


_PAGE_TOKENS = 256
_LEAST_BLOCK = 512
_LEAST_BURST = 256
_ADDRESS_BITS = 32
_VALUE_BITS = 8
_MOST_TABLES = 256
_MOST_QUERIES = 64


def key_heads(network: Network, method: Method) -> int:
    """Heads of a layer whose keys have codes of their own, and so a cache of their own."""
    return network.kv_heads if method.codes is None else method.codes.key_heads // network.layers


def fitted(network: Network, method: Method, tokens: int, *, bus_bits: int = 64) -> Config:
    """A configuration that reads the caches of all heads of a network from one memory.

    A command has the query heads of a key head; codes are scored, and value vectors taken, as fast
    as the bus brings them; there is an exp table for each query head of a layer.

    Parameters
    ----------
    network, method
        What is computed.
    tokens
        The most tokens of a text; rounded up to whole pages.
    bus_bits
        Bits of each bus to the memory: a power of two, 32 to 512.

    Raises
    ------
    NetworkError
        Heads that no such configuration has room for.
    """
    heads = key_heads(network, method)
    group = network.heads // heads
    bits = network.head_dim if method.codes is None else method.codes.bits
    lanes = max(1, bus_bits // max(8, 1 << (bits - 1).bit_length()))
    capacity = -(-tokens // _PAGE_TOKENS) * _PAGE_TOKENS
    top_n = min(method.keys, capacity)

    def made(block: int, address_bits: int) -> Config:
        return Config(
            key_bits=bits, value_dim=network.value_dim, capacity=capacity,
            queries=min(group, _MOST_QUERIES), lanes=lanes, refine_lanes=2 * lanes,
            value_lanes=gcd(network.value_dim, bus_bits // _VALUE_BITS), top_n=top_n,
            exp_tables=min(network.heads, _MOST_TABLES) if method.name == "had" else 1,
            selection_block=block,
            rescore=None if method.name == "had" else _rescore(network.head_dim, bus_bits),
            memory=Memory(
                heads=network.layers * heads, page_tokens=_PAGE_TOKENS, bus_bits=bus_bits,
                burst_bytes=max(_LEAST_BURST, 4 * bus_bits), address_bits=address_bits))

    try:
        end = plan_memory(made(0, 64)).end
    except ConfigError as error:
        raise NetworkError(f"no core with a memory fits {network.name}: {error}") from None
    address_bits = max(_ADDRESS_BITS, (end - 1).bit_length())
    block = max(_LEAST_BLOCK, 1 << (top_n - 1).bit_length())
    while block < capacity:
        try:
            return made(block, address_bits)
        except ConfigError:
            block *= 2 # a stage behind the scoring would be slower than it
    return made(0, address_bits)


def _rescore(head_dim: int, bus_bits: int) -> Rescore:
    """A unit whose elements come in whole beats of a bus, or are whole parts of one."""
    # Three beats have four times as many elements of 12 bits as a quarter of their bits.
    lanes = bus_bits // 4
    if head_dim % lanes == 0:
        return Rescore(head_dim=head_dim, lanes=lanes, element_bits=ELEMENT_BITS)
    return Rescore(head_dim=head_dim, lanes=gcd(head_dim, bus_bits // 16), element_bits=16)


def check_fit(config: Config, network: Network, method: Method, tokens: int) -> None:
    """Refuse a configuration that cannot compute all heads of a network.

    Parameters
    ----------
    config
        The configuration.
    network, method, tokens
        As of :func:`fitted`.

    Raises
    ------
    NetworkError
        What does not fit, in one sentence.
    LayoutError
        Too few addresses for the caches.
    """
    if config.memory is None:
        raise NetworkError("the configuration has no memory, which all heads need: give it a "
                           "table [memory]")
    wanted = {"key_bits": (config.key_bits, network.head_dim if method.codes is None
                           else method.codes.bits),
              "value_dim": (config.value_dim, network.value_dim)}
    if method.name != "had":
        if config.rescore is None:
            raise NetworkError(f"method {method.name} needs a configuration with a rescoring unit: "
                               f"give it a table [rescore], or take --method had")
        wanted["rescore.head_dim"] = (config.rescore.head_dim, network.head_dim)
    for name, (found, needed) in wanted.items():
        if found != needed:
            raise NetworkError(f"{name} of the configuration must be {needed} for {network.name} "
                               f"with these codes, not {found}")
    heads = network.layers * key_heads(network, method)
    least = {"memory.heads": (config.memory.heads, heads),
             "capacity": (config.capacity, tokens),
             "top_n": (config.top_n, min(method.keys, config.capacity)),
             "memory.pages": (config.memory_pages, -(-tokens // config.memory.page_tokens))}
    for name, (found, needed) in least.items():
        if found < needed:
            raise NetworkError(f"{name} of the configuration must be at least {needed} for "
                               f"{network.name}, {tokens} tokens and {method.keys} keys, "
                               f"not {found}")
    plan_memory(config, heads=heads)
