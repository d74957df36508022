"""Texts to run networks on, checked before anything takes long."""

from pathlib import Path

from nearbit_nets.errors import NetworkError
from nearbit_nets.loading import available_memory
from nearbit_nets.network import Network


__all__ = ["DEFAULT_PASSAGE", "DEFAULT_TOKENS", "check_length", "passages", "read", "tokens"]


DEFAULT_TOKENS = 2048
"""Tokens of a text that are taken if nothing else is said and there are as many."""

DEFAULT_PASSAGE = 128
"""Tokens of a passage, if nothing else is said."""

LEAST_PASSAGE = 33
"""Tokens below which the end of a text is no passage."""

# Bytes that do not grow with the text: blocks of logits, of the golden model, and the libraries.
_FIXED = 600 << 20

# Hidden states, and what a layer makes of them, at once; measured, rounded up.
_STATES = 24


def read(path: Path) -> str:
    """The text of a file; :class:`NetworkError` says why there is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise NetworkError(f"{path} is not a text file in UTF-8") from None
    except OSError as error:
        raise NetworkError(f"{path}: {error.strerror or error}") from None
    if not text.strip():
        raise NetworkError(f"{path} is empty")
    return text


def tokens(network: Network, path: Path, count: int | None = None) -> list[int]:
    """The first tokens of a text file.

    Parameters
    ----------
    network
        Whose tokens. An encoder's text keeps its last, special token.
    path
        The file.
    count
        How many; None is :data:`DEFAULT_TOKENS`, or as many as the text and the model have.

    Raises
    ------
    NetworkError
        No text, a text shorter than asked, a length that the model or the memory has no room for.
    """
    wanted = min(DEFAULT_TOKENS, network.context) if count is None else count
    if wanted < 2:
        raise NetworkError(f"at least 2 tokens are needed, not {wanted}")
    check_length(network, wanted)
    ids = network.tokens(read(path))
    if count is not None and len(ids) < count:
        raise NetworkError(f"{path} has {len(ids)} tokens, fewer than the {count} requested; take "
                           f"a longer text or fewer tokens")
    if len(ids) < 2:
        raise NetworkError(f"{path} has {len(ids)} tokens, but at least 2 are needed")
    if len(ids) > wanted:
        ids = [*ids[:wanted - 1], ids[-1]] if network.kind == "encoder" else ids[:wanted]
    return ids


def check_length(network: Network, count: int) -> None:
    """Refuse a length that the model was not made for, or that memory has no room for."""
    if count > network.context:
        raise NetworkError(f"{network.name} takes at most {network.context} tokens, "
                           f"not {count}")
    free = available_memory()
    need = _FIXED + count * 4 * (
        _STATES * network.module.config.hidden_size
        + 8 * (network.heads + 2 * network.kv_heads) * network.head_dim)
    if free is not None and need > free:
        raise NetworkError(f"{count} tokens need about {need / 1e9:.1f} GB of memory, but "
                           f"only {free / 1e9:.1f} GB are free; take fewer tokens")


def passages(network: Network, path: Path, count: int | None = None,
             length: int | None = None) -> list[list[int]]:
    """Cut a text file into passages for an encoder, one behind the other.

    Parameters
    ----------
    network
        The encoder, whose texts begin and end with a token of their own.
    path
        The file.
    count
        Tokens of the text, without those; None is :data:`DEFAULT_TOKENS`, or as many as there are.
    length
        Tokens of a passage, with them, at least :data:`LEAST_PASSAGE`; None is
        :data:`DEFAULT_PASSAGE`, or as many as the model takes. The last passage may be shorter,
        down to :data:`LEAST_PASSAGE`.

    Raises
    ------
    NetworkError
        No text, one shorter than asked, or a length that the model has no room for.
    """
    size = min(DEFAULT_PASSAGE, network.context) if length is None else length
    if not LEAST_PASSAGE <= size <= network.context:
        raise NetworkError(f"a passage must have {LEAST_PASSAGE} to {network.context} tokens, not "
                           f"{size}")
    check_length(network, size)
    first, *inner, last = network.tokens(read(path))
    if count is not None and len(inner) < count:
        raise NetworkError(f"{path} has {len(inner)} tokens, fewer than the {count} requested; "
                           f"take a longer text or fewer tokens")
    inner = inner[:DEFAULT_TOKENS if count is None else count]
    parts = [inner[start:start + size - 2] for start in range(0, len(inner), size - 2)]
    return [[first, *part, last] for part in parts if len(part) >= LEAST_PASSAGE - 2]
