"""Configurations as text: a commented file, single fields, and a table of all of them."""

import dataclasses
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tomli_w

from nearbit_model.config import Config, ConfigError


__all__ = ["commented", "table", "with_settings"]


_WIDTH = 88


def commented(config: Config, origin: str) -> str:
    """Write a configuration as TOML, with a comment on each field.

    Parameters
    ----------
    config
        What to write; reading the text gives the same configuration.
    origin
        What it is, in the first line.
    """
    lines = [f"# {origin}"]
    tables = []
    for known in dataclasses.fields(Config):
        part, value = known.metadata.get("part"), getattr(config, known.name)
        if part is None:
            lines += ["", *_comment(known), *_assignment(known, value)]
        else:
            tables += ["", "", *_comment(known)]
            if value is None:
                tables += [f"# [{known.name}]"]
            else:
                tables += [f"[{known.name}]"]
                for inner in dataclasses.fields(part):
                    tables += ["", *_comment(inner),
                               *_assignment(inner, getattr(value, inner.name))]
    return "\n".join([*lines, *tables]) + "\n"


def _comment(known: "dataclasses.Field[Any]") -> list[str]:
    says = " ".join(filter(None, [_says(known), _default(known, known.default)]))
    return textwrap.wrap(says, _WIDTH, initial_indent="# ", subsequent_indent="# ",
                         break_on_hyphens=False)


def _assignment(known: "dataclasses.Field[Any]", value: Any) -> list[str]:
    if value is None:
        # What it would look like.
        return [f"# {_toml(known.name, known.metadata['choices'][1])}"]
    return [_toml(known.name, value)]


def _toml(name: str, value: Any) -> str:
    return tomli_w.dumps({name: value}).rstrip("\n")


def _says(known: "dataclasses.Field[Any]", quote: str = "") -> str:
    """Say what a field is, without the markup of docstrings."""
    is_part = "part" in known.metadata
    text = re.sub(r"[Oo]ne of :data:`\w+`: ", "", known.metadata["says"])
    text = re.sub(r"``(.*?)``", rf"{quote}\1{quote}", text)
    none = "no table" if is_part else "leaving it out"
    text = re.sub(r"(^|\. )None\b", rf"\1{none.capitalize()}", text)
    text = re.sub(r"\bNone\b", none, text)
    return f"{text[0].upper()}{text[1:]} {_values(known.metadata, quote)}".strip()


def _values(metadata: Mapping[str, Any], quote: str = "") -> str:
    if "range" in metadata:
        return f"From {metadata['range'][0]:,} to {metadata['range'][-1]:,}."
    if "choices" in metadata:
        names = [_choice(choice, quote or '"' * isinstance(choice, str))
                 for choice in metadata["choices"] if choice is not None]
        return f"{', '.join(names[:-1])} or {names[-1]}."
    return ""


def _choice(choice: Any, quote: str) -> str:
    return f"{quote}{str(choice).lower() if isinstance(choice, bool) else choice}{quote}"


def _default(known: "dataclasses.Field[Any]", default: Any) -> str:
    if "part" in known.metadata or default is None:
        return ""
    if default is dataclasses.MISSING:
        return "No default."
    return f"Default: {_toml('value', default).partition(' = ')[2]}."


def _leaves(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, "dataclasses.Field[Any]"]]:
    """All fields by name, and those of each part behind it."""
    for known in dataclasses.fields(cls):
        yield prefix + known.name, known
        part = known.metadata.get("part")
        if part is not None:
            yield from _leaves(part, f"{known.name}.")


def table() -> str:
    """Describe all fields in Markdown, from what the fields themselves say."""
    lines = ["| field | default | |", "|---|---|---|"]
    for name, known in _leaves(Config):
        if "part" in known.metadata:
            name, default = f"[{name}]", "no table"
        elif known.default is dataclasses.MISSING:
            default = "none"
        else:
            default = "left out" if known.default is None else f"`{_choice(known.default, '')}`"
        lines.append(f"| `{name}` | {default} | {_says(known, '`')} |")
    return "\n".join(lines) + "\n"


def with_settings(config: Config, settings: Sequence[str]) -> Config:
    """Change single fields of a configuration.

    Parameters
    ----------
    config
        What is changed.
    settings
        Such as ``lanes=8`` or ``memory.heads=4``, with values as in TOML; strings need no quotes,
        and ``none`` leaves a table or a field without a default out. As in :meth:`Config.replace`,
        ``refine_lanes`` follows ``lanes`` unless it is given.

    Raises
    ------
    ConfigError
        A text that is no setting, an unknown field, or a value that cannot be built.
    """
    fields = config.to_dict()
    names = []
    for setting in settings:
        name, is_pair, text = (part.strip() for part in setting.partition("="))
        if not (name and is_pair):
            raise ConfigError(f"--set takes FIELD=VALUE, such as lanes=8, not {setting!r}")
        names.append(name)
        _set(fields, name, _value(text))
    if "lanes" in names and "refine_lanes" not in names:
        fields["refine_lanes"] = 0
    try:
        return Config.from_dict(fields)
    except ConfigError as error:
        raise ConfigError(f"--set {' --set '.join(settings)}: {error}") from None


def _set(fields: dict[str, Any], name: str, value: Any) -> None:
    parts = {known.name for known in dataclasses.fields(Config) if "part" in known.metadata}
    part, dot, inner = name.partition(".")
    if value is None:
        optional = [known.name for known in dataclasses.fields(Config) if known.default is None]
        if name not in optional:
            raise ConfigError(f"--set {name}=none: only {', '.join(sorted(optional))} can be "
                              f"left out")
        fields.pop(name, None)
    elif dot:
        if part not in parts:
            raise ConfigError(f"--set {name}: there is no table {part}; the tables are "
                              f"{', '.join(sorted(parts))}")
        fields.setdefault(part, {})[inner] = value
    elif name in parts:
        raise ConfigError(f"--set {name}: this is a table; set its fields, such as "
                          f"{name}.{_first(name)}=VALUE, or {name}=none")
    else:
        fields[name] = value


def _first(part: str) -> str:
    """The name of the first field of a part."""
    return next(name for name, _ in _leaves(Config) if name.startswith(f"{part}.")).partition(
        ".")[2]


def _value(text: str) -> Any:
    """Read a value as TOML does, else as a string; None for ``none``."""
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text
