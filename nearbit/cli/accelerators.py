"""The configuration that options name, or that fits the tensors."""

from pathlib import Path
from typing import TYPE_CHECKING

from nearbit.cli.errors import UserError


if TYPE_CHECKING:
    from nearbit.tensors import Tensors
    from nearbit_model.config import Config
    from nearbit_model.mapping import Mapping


__all__ = ["given", "given_or_default", "smallest"]


DEFAULT_PRESET = "reference"


def given(preset: str | None, path: Path | None) -> "tuple[Config | None, str | None]":
    """The configuration that options name, and the preset's name; None if they name none."""
    from nearbit_model.config import Config

    if preset is not None and path is not None:
        raise UserError("--preset and --config exclude each other; give one of them")
    if path is not None:
        return Config.load(path), None
    return (None, None) if preset is None else preset_of(preset)


def given_or_default(preset: str | None, path: Path | None) -> "tuple[Config, str, str | None]":
    """The configuration that options name, how to call it, and the preset's name if it has one."""
    config, name = given(preset, path)
    if config is None:
        config, name = preset_of(DEFAULT_PRESET)
    return config, f"preset {name}" if name else str(path), name


def preset_of(name: str) -> "tuple[Config, str]":
    """The configuration of a preset or a board, and the name."""
    from nearbit_model.config import MEMORY_PRESETS, PRESETS, Config

    if name not in PRESETS and name not in MEMORY_PRESETS:
        from nearbit_boards.boards import BOARDS

        if name in BOARDS:
            return BOARDS[name].config, name
    return Config.preset(name), name


def smallest(file: Path, tensors: "Tensors", n: int | None, sink: int, recent: int,
              mapping: "Mapping | None", *, shared: bool) -> "tuple[Config, str]":
    """The smallest preset that fits tensors and options."""
    from nearbit_model.config import fitting_preset
    from nearbit_model.prepare import DEFAULT_N

    # Where n is left open, a preset with room for the usual number is better than one without.
    wishes = (DEFAULT_N, 1) if n is None else (n,)
    for wish in wishes:
        name = fitting_preset(
            tensors.head_dim, tensors.value_dim, tensors.tokens, wish + sink + recent,
            key_bits=None if mapping is None else mapping.bits, rescore=mapping is not None,
            shared=len(tensors.q) // len(tensors.k) if shared else 0)
        if name is not None:
            return preset_of(name)
    raise UserError(
        f"{file}: no preset{'' if mapping is None else ' with rescoring'}"
        f"{' for a shared selection' if shared else ''} fits heads of {tensors.head_dim} elements, "
        f"{'' if mapping is None else f'codes of {mapping.bits} bits, '}value vectors of "
        f"{tensors.value_dim}, {tensors.tokens} tokens and n + sink + recent of "
        f"{wishes[-1] + sink + recent}; describe an accelerator that does in a TOML file and "
        f"give it with --config")
