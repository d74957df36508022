"""What the cycle model needs of a program: its shapes."""

from nearbit_model.cycles import Command, Phase
from nearbit_model.transfers.program import Program


__all__ = ["shapes"]


def shapes(program: Program) -> list[Phase]:
    """Reduce a program for the core to what :func:`nearbit_model.cycles.predict` takes."""
    phases = []
    for phase in program.phases:
        fields = {name: program.port(name, is_input=True).unpack(words)
                  for name, words in phase.inputs.items()}
        keys, values = fields.get("i_key"), fields.get("i_value")
        rescore_keys = fields.get("i_rescore_key")
        exp_tables, asked = fields.get("i_exp_table"), fields.get("i_command")
        commands: list[Command] = []
        if asked is not None:
            queries = asked["queries"]
            commands = [
                Command(counts=tuple(counts), n=n, sink=sink, recent=recent, first=first,
                        exp_tables=tuple(loaded), trace=bool(trace), rescore=bool(rescore),
                        shared=bool(shared))
                for counts, loaded, n, sink, recent, first, trace, rescore, shared in zip(
                    queries["count"].tolist(), queries["exp_table"].tolist(),
                    *(asked[name].tolist() for name in (
                        "n", "sink", "recent", "first", "trace", "rescore", "shared")),
                    strict=True)]
        phases.append(Phase(
            keys=[] if keys is None else keys["token"].tolist(),
            values=[] if values is None else list(zip(
                values["token"].tolist(), values["beat"].tolist(), strict=True)),
            exp_tables=[] if exp_tables is None else list(zip(
                *(exp_tables[name].tolist() for name in ("exp_table", "distance", "weight")),
                strict=True)),
            rescore_keys=[] if rescore_keys is None else list(zip(
                rescore_keys["token"].tolist(), rescore_keys["beat"].tolist(), strict=True)),
            rescore_queries=len(phase.inputs.get("i_rescore_query", ())),
            commands=commands, delay=phase.delay))
    return phases
