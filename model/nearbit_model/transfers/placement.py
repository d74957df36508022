"""The cache of a problem in the memory of a core: its bytes, and what the core is told of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearbit_model.memory import LayoutError, MemoryImage, MemoryLayout, plan_memory
from nearbit_model.prepare import Prepared


__all__ = ["Placement", "place"]


@dataclass(frozen=True)
class Placement:
    """Where the keys and values of a problem are, in the memory of a core.

    Parameters
    ----------
    octets
        The memory, uint8 [bytes]; what belongs to no token is noise.
    tables
        What sets the core's tables, for :meth:`nearbit_model.transfers.Program.add`.
    tokens
        For each key head, what appends its tokens, in the same form; empty if they are in memory.
    sequence
        The sequence of the tokens.
    first_head
        Head of the core's table that the first key head is; the others follow.
    """

    octets: NDArray[np.uint8]
    tables: dict[str, Any]
    tokens: list[dict[str, Any]]
    sequence: int
    first_head: int = 0


def place(prepared: Prepared, *, seed: int = 0, appends: bool = False) -> Placement:
    """Lay out the keys and values of a problem in pages of any order.

    Parameters
    ----------
    prepared
        The problem, of a configuration with a memory.
    seed
        The sequence, its pages and the noise follow from it.
    appends
        Whether the core writes the tokens itself. If not, they are in memory.

    Raises
    ------
    LayoutError
        More key heads or tokens than the configuration's memory has, or too few addresses.
    """
    config = prepared.config
    layout = MemoryLayout.of(config)
    memory = layout.memory
    count = prepared.k_codes.shape[1]
    if prepared.kv_heads > memory.heads:
        raise LayoutError(f"the tensors have {prepared.kv_heads} key heads, and the "
                          f"configuration's memory has {memory.heads} (memory.heads)")
    needed = -(-count // memory.page_tokens)
    if needed > config.memory_pages:
        raise LayoutError(f"{count} tokens take {needed} pages, and the configuration's memory has "
                          f"{config.memory_pages} (memory.pages)")
    rng = np.random.default_rng(seed)
    plan = plan_memory(config, heads=prepared.kv_heads)
    image = MemoryImage(plan, np.frombuffer(rng.bytes(plan.size), np.uint8).copy())
    pages = rng.permutation(config.memory_pages)[:needed]
    sequence = int(rng.integers(memory.sequences))
    tokens = [_Tokens.of(prepared, kv_head) for kv_head in range(prepared.kv_heads)]
    tables = {
        "i_head": plan.head_entries(),
        "i_page": plan.page_entries(sequence, pages.tolist()),
        "i_tokens": {"sequence": np.array([sequence]), "tokens": np.array([
            0 if appends else count])},
    }
    if appends:
        return Placement(image.octets, tables, [
            each.appends(layout, kv_head, sequence, is_last=kv_head == prepared.kv_heads - 1)
            for kv_head, each in enumerate(tokens)], sequence)
    for kv_head, each in enumerate(tokens):
        image.write(kv_head, pages, 0, each.codes, each.values, each.scales, each.keys)
    return Placement(image.octets, tables, [], sequence)


@dataclass(frozen=True)
class _Tokens:
    """What a key head's cache holds."""

    codes: NDArray[np.uint64]
    values: NDArray[Any]
    scales: NDArray[Any]
    keys: NDArray[Any] | None

    @classmethod
    def of(cls, prepared: Prepared, kv_head: int) -> "_Tokens":
        codes, unit = prepared.k_codes[kv_head], prepared.config.rescore
        keys = None
        if prepared.rescore is not None:
            keys = prepared.rescore.keys[kv_head]
        elif unit is not None:
            # Rows have a place for them, which no command asks for.
            keys = np.zeros((len(codes), unit.head_dim), np.int16)
        return cls(codes, prepared.values.elements[kv_head], prepared.values.scales[kv_head], keys)

    def appends(self, layout: MemoryLayout, head: int, sequence: int, *, is_last: bool
                ) -> dict[str, Any]:
        """Make what appends them; the last head of a token raises the number of tokens."""
        count = len(self.codes)
        bits = layout.config.key_bits
        return {
            "i_append": {
                "head": np.full(count, head), "sequence": np.full(count, sequence),
                "token": np.arange(count),
                "code": self.codes if bits > 64 else self.codes[:, 0],
                "raises": np.full(count, int(is_last))},
            "i_row": layout.beats(layout.pack_rows(self.values, self.scales, self.keys)),
        }
