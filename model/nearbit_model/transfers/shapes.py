"""What the cycle model needs of a program: its shapes."""

from collections.abc import Mapping
from typing import Any

from nearbit_model.cycles import Command, Phase
from nearbit_model.transfers.program import Program


__all__ = ["ACCEPTED", "shapes"]


ACCEPTED = {
    "i_head": "heads", "i_page": "pages", "i_tokens": "tokens", "i_key": "keys",
    "i_value": "values", "i_exp_table": "exp_tables", "i_rescore_key": "rescore_keys",
    "i_rescore_query": "rescore_queries", "i_command": "commands"}
"""By input stream of the core, the field of :class:`nearbit_model.cycles.Accepted`."""


def shapes(program: Program) -> list[Phase]:
    """Reduce a program for the core to what :func:`nearbit_model.cycles.predict` takes.

    Of a program for a core with a memory, no command says which rows cross 4 KiB
    (:attr:`Command.bursts`), as that depends on what is selected.

    Raises
    ------
    ValueError
        A program of which the cycle model knows no shape: it appends tokens, waits for beats, or
        removes entries of tables.
    """
    phases = []
    for phase in program.phases:
        if "i_append" in phase.inputs or phase.after:
            raise ValueError("cycles are not predicted of programs that append tokens, or whose "
                             "phases wait for beats; put the tokens into the memory before")
        fields = {name: program.port(name, is_input=True).unpack(words)
                  for name, words in phase.inputs.items()}
        if any((fields[name]["set"] == 0).any() for name in ("i_head", "i_page")
               if name in fields):
            raise ValueError("cycles are not predicted of programs that remove heads or pages")

        def rows(stream: str, *names: str, fields: dict[str, Any] = fields) -> list[Any]:
            found = fields.get(stream)
            if found is None:
                return []
            return list(zip(*(found[name].tolist() for name in names), strict=True))

        asked = fields.get("i_command")
        phases.append(Phase(
            keys=[token for token, in rows("i_key", "token")],
            values=rows("i_value", "token", "beat"),
            exp_tables=rows("i_exp_table", "exp_table", "distance", "weight"),
            rescore_keys=rows("i_rescore_key", "token", "beat"),
            rescore_queries=len(phase.inputs.get("i_rescore_query", ())),
            commands=[] if asked is None else _commands(asked), delay=phase.delay,
            heads=[head for head, in rows("i_head", "head")],
            pages=len(phase.inputs.get("i_page", ())),
            tokens=rows("i_tokens", "sequence", "tokens")))
    return phases


def _commands(asked: Mapping[str, Any]) -> list[Command]:
    """Reduce commands, given as arrays."""
    numbers = {name: asked[name].tolist() for name in (
        "first", "n", "sink", "recent", "head", "sequence") if name in asked}
    flags = {name: asked[name].astype(bool).tolist() for name in ("trace", "rescore", "shared")}
    fields = {**numbers, **flags, **{
        name: [tuple(each) for each in asked["queries"][field].tolist()]
        for name, field in (("counts", "count"), ("exp_tables", "exp_table"))}}
    return [Command(**dict(zip(fields, values, strict=True)))
            for values in zip(*fields.values(), strict=True)]
