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
        exact_keys = fields.get("i_exact_key")
        tables, queries = fields.get("i_table"), fields.get("i_query")
        commands: list[Command] = []
        if queries is not None:
            rows = queries["rows"]
            commands = [
                Command(counts=tuple(counts), n=n, sink=sink, recent=recent, first=first,
                        tables=tuple(loaded), trace=bool(trace), rescore=bool(rescore),
                        shared=bool(shared))
                for counts, loaded, n, sink, recent, first, trace, rescore, shared in zip(
                    rows["count"].tolist(), rows["table"].tolist(),
                    *(queries[name].tolist() for name in (
                        "n", "sink", "recent", "first", "trace", "rescore", "shared")),
                    strict=True)]
        phases.append(Phase(
            keys=[] if keys is None else keys["row"].tolist(),
            values=[] if values is None else list(zip(
                values["row"].tolist(), values["column"].tolist(), strict=True)),
            tables=[] if tables is None else list(zip(
                *(tables[name].tolist() for name in ("table", "distance", "weight")),
                strict=True)),
            exact_keys=[] if exact_keys is None else list(zip(
                exact_keys["row"].tolist(), exact_keys["column"].tolist(), strict=True)),
            exact_queries=len(phase.inputs.get("i_exact_query", ())),
            commands=commands, delay=phase.delay))
    return phases
