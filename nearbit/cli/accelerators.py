"""The configuration that options name, or that fits the tensors."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nearbit.cli.errors import UserError


if TYPE_CHECKING:
    from nearbit.tensors import Tensors
    from nearbit_model.config import Config
    from nearbit_model.mapping import Mapping


__all__ = ["Given", "configured", "given", "given_or_default", "smallest"]


DEFAULT_PRESET = "reference"

_BOARD = "board:"
"""Before a board's name, for a board that has the name of a preset."""


class Given(NamedTuple):
    """A configuration: what it is called, and the preset's name if it is one."""

    config: "Config"
    shown: str
    preset: str | None


def given(preset: str | None, path: Path | None, settings: Sequence[str] | None = None
          ) -> Given | None:
    """The configuration that options name, with what they change; None if they name none."""
    from nearbit_model.config import Config

    if preset is not None and path is not None:
        raise UserError("--preset and --config exclude each other; give one of them")
    if path is not None:
        return configured(Given(Config.load(path), str(path), None), settings)
    return None if preset is None else configured(_preset_of(preset), settings)


def given_or_default(preset: str | None, path: Path | None, settings: Sequence[str] | None = None
                     ) -> Given:
    """The same, or else the default preset, with what options change."""
    return given(preset, path, settings) or configured(_preset_of(DEFAULT_PRESET), settings)


def configured(chosen: Given, settings: Sequence[str] | None) -> Given:
    """Change fields of a configuration as options say."""
    from nearbit.configs import with_settings

    if not settings:
        return chosen
    return Given(with_settings(chosen.config, settings),
                 f"{chosen.shown} with {', '.join(settings)}", None)


def _preset_of(name: str) -> Given:
    """The configuration of a preset or a board, in any case of letters."""
    from nearbit_model.config import MEMORY_PRESETS, PRESETS, Config

    known = name.lower()
    board = known.removeprefix(_BOARD)
    if known not in PRESETS and known not in MEMORY_PRESETS:
        from nearbit_boards.boards import BOARDS, find_board

        if board in BOARDS or board != known:
            return Given(find_board(board).config, f"board {board}", board)
        raise UserError(f"unknown preset {name!r}; the presets are "
                        f"{', '.join([*PRESETS, *MEMORY_PRESETS])}, and 'nearbit boards' lists "
                        f"the boards")
    return Given(Config.preset(known), f"preset {known}", known)


def smallest(file: Path, tensors: "Tensors", n: int | None, sink: int, recent: int,
             mapping: "Mapping | None", *, shared: bool) -> Given:
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
            return _preset_of(name)
    options = "" if n is None else f" --n {n} --sink {sink} --recent {recent}"
    if mapping is not None:
        options += f" --method hash{' --shared' if shared else ''}"
        if mapping.bits != tensors.head_dim:
            options += f" --set key_bits={mapping.bits}"
    raise UserError(
        f"{file}: no preset{'' if mapping is None else ' with rescoring'}"
        f"{' for a shared selection' if shared else ''} fits heads of {tensors.head_dim} elements, "
        f"{'' if mapping is None else f'codes of {mapping.bits} bits, '}value vectors of "
        f"{tensors.value_dim}, {tensors.tokens} tokens and n + sink + recent of "
        f"{wishes[-1] + sink + recent}; write a configuration that does with 'nearbit config --fit "
        f"{file}{options} -o mine.toml', and give it with --config mine.toml")
