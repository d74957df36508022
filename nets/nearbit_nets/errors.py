"""What a user can mend."""

from nearbit_model.errors import NearbitError


__all__ = ["NetworkError", "need_extra"]


class NetworkError(NearbitError, ValueError):
    """A network, a text or a choice that does not fit; the message is one sentence."""


def need_extra() -> None:
    """Raise :class:`NetworkError` if what the extra ``models`` brings is not installed."""
    from importlib.util import find_spec

    for package in ("torch", "transformers", "tokenizers", "gguf"):
        if find_spec(package) is None:
            raise NetworkError(
                f"real models need {package}, which is not installed; in a clone of Nearbit, type: "
                f"pip install '.[models]'")
