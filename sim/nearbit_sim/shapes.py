"""What the cycle model needs of a program: its shapes."""

from nearbit_model.cycles import Command, Phase
from nearbit_sim.program import Program


__all__ = ["shapes"]


def shapes(program: Program) -> list[Phase]:
    """Reduce a program for the core to what :func:`nearbit_model.cycles.predict` takes."""
    phases = []
    for phase in program.phases:
        fields = {name: program.port(name, is_input=True).unpack(words)
                  for name, words in phase.inputs.items()}
        keys, values = fields.get("i_key"), fields.get("i_value")
        tables, queries = fields.get("i_table"), fields.get("i_query")
        commands: list[Command] = []
        if queries is not None:
            rows = queries["rows"]
            commands = [
                Command(counts=tuple(counts), n=n, sink=sink, recent=recent, first=first,
                        tables=tuple(loaded), trace=bool(trace))
                for counts, n, sink, recent, first, loaded, trace in zip(
                    rows["count"].tolist(), *(queries[name].tolist() for name in (
                        "n", "sink", "recent", "first")), rows["table"].tolist(),
                    queries["trace"].tolist(), strict=True)]
        phases.append(Phase(
            keys=[] if keys is None else keys["row"].tolist(),
            values=[] if values is None else list(zip(
                values["row"].tolist(), values["column"].tolist(), strict=True)),
            tables=[] if tables is None else list(zip(
                *(tables[name].tolist() for name in ("table", "distance", "weight")),
                strict=True)),
            commands=commands, delay=phase.delay))
    return phases
