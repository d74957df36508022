"""A configuration for heads of any size."""

from nearbit_model.config import Config, Rescore


__all__ = ["fit"]


_MOST_LANES = 64
_MOST_ELEMENTS = 128
_ELEMENT_BITS = 12


def fit(head_dim: int, value_dim: int, tokens: int, top_n: int, *, key_bits: int | None = None,
        rescore: bool = False, shared: int = 0) -> Config:
    """Make a configuration in which no stage is much slower than the others.

    An output element leaves in each cycle, and a selected key is listed in each, so a query takes
    as many cycles at least as there are of either. Keys are scored, and value vectors summed, in as
    many cycles, as far as 64 lanes and 128 elements per cycle go.

    Parameters
    ----------
    head_dim
        Elements of a query and of a key, 1 to 1,024.
    value_dim
        Elements of a value vector, 1 to 1,024.
    tokens
        Keys to hold, at least 1.
    top_n
        Keys to select (n + sink + recent), at least 1. The capacity is the next power of two of
        whichever is more: a command may ask for more keys than there are.
    key_bits
        Bits of a code; None is ``head_dim``.
    rescore
        Whether selected keys are scored by dot products, with elements of 12 bits.
    shared
        With rescoring, the heads that can share a selection, one for each query of a command; 0 for
        one query and none.

    Raises
    ------
    ConfigError
        Sizes beyond what can be built.

    Examples
    --------
    >>> from nearbit_model.config import Config
    >>> from nearbit_model.fitting import fit
    >>> fit(64, 64, tokens=1000, top_n=32) == Config.preset("reference")
    True
    """
    capacity = _power_of_two(max(tokens, top_n))
    cycles = max(value_dim, top_n)
    lanes = min(_power_of_two(-(-capacity // cycles)), _MOST_LANES)
    return Config(
        key_bits=head_dim if key_bits is None else key_bits, value_dim=value_dim,
        capacity=capacity, queries=max(1, shared), top_n=top_n, lanes=lanes,
        refine_lanes=min(2 * lanes, capacity),
        value_lanes=_elements(value_dim, top_n, cycles),
        rescore=Rescore(head_dim=head_dim, lanes=_elements(head_dim, top_n, cycles),
                        element_bits=_ELEMENT_BITS, shared=bool(shared)) if rescore else None)


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


def _elements(size: int, vectors: int, cycles: int) -> int:
    """Elements per cycle that take so many vectors in so many cycles; they divide a vector."""
    divisors = [number for number in range(1, min(size, _MOST_ELEMENTS) + 1) if size % number == 0]
    enough = [number for number in divisors if vectors * (size // number) <= cycles]
    return min(enough, default=max(divisors, default=1))
