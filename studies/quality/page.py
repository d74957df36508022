"""Tables and plot of docs/quality.md."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nearbit.report.figures import style


__all__ = ["LONG_TOKENS", "MAIN_N", "PAGE", "RECENT", "SINK", "filled", "tables", "write"]


PAGE = Path(__file__).resolve().parents[2] / "docs" / "quality.md"
PLOT = PAGE.with_suffix(".svg")
SINK, RECENT = 4, 12
MAIN_N = 48
LONG_TOKENS = 4096


def tables(results: dict[str, Any]) -> dict[str, str]:
    """The tables of the page, by the name of their place in it."""
    decoder = results.get("decoder", {})
    found = {"codes": _learned(results["learn"]), "losses": _recalls(results.get("losses")),
              "decoder": _losses(decoder),
              "long": _losses(results.get(f"decoder_{LONG_TOKENS}", {}))}
    if "encoder" in results:
        found["encoder"] = _encoder(results["distil"], results["encoder"])
    if "decoder_had" in results:
        found["decoder-had"] = _decoder_had(results["distil_decoder"], results["decoder_had"])
    return found


def filled(text: str, results: dict[str, Any]) -> str:
    """A page with the tables of some results in the places that it has for them."""
    for name, table in tables(results).items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(f"<!-- /{name} -->")
        if not (begin and end):
            raise ValueError(f"{PAGE} has no place for {name}")
        text = f"{before}{begin}{table}\n{end}{after}"
    return text


def write(results: dict[str, Any]) -> None:
    """Update the page and its plot."""
    _plot(results.get("decoder", {}))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8",
                    newline="\n")


def _table(columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |"
                     for row in (columns, ("---",) * len(columns), *rows))


def _time(found: dict[str, Any]) -> str:
    return f"{found['seconds'] / 60:.0f} minutes on {found['threads']} of {found['cores']} cores"


def _learned(found: dict[str, Any]) -> str:
    return _table(("", ""), [
        ("codes", f"{found['bits']} bits, `{found['kind']}`, {found['heads']} heads"),
        ("learned from", (f"{', '.join(found['texts'])}; the first "
         f"{' and the first '.join(f'{tokens:,}' for tokens in found['tokens_each'])} tokens of "
         f"each")),
        ("training", (f"loss `{found['loss']}`, {found['steps']} steps of {found['queries']} "
         f"queries a layer, seed {found['seed']}")),
        *([] if found["seconds"] is None else [("time", _time(found))]),
        ("measured on", " and ".join(found["held_out"])),
        ("recall of the true top 32 among the 32 nearest codes", f"{found['recall']:.3f}"),
        (f"recall among {SINK} sinks, {RECENT} recent keys and the {MAIN_N} nearest others",
         f"{found['recall_selected']:.3f}"),
        ("recall by layer, from 0", ", ".join(f"{x:.2f}" for x in found["recall_layers"]))])


def _recalls(found: dict[str, Any] | None) -> str:
    if found is None:
        return "Not measured."
    layers = ", ".join(map(str, found["layers"]))
    apart = " and ".join(found["measured_on"])
    return _table(("training loss", f"recall, layers {layers}, {apart}"), (
        (f"`{loss}`", f"{share:.3f}") for loss, share in found["recall"].items()))


def _losses(decoder: dict[str, Any]) -> str:
    return _table(("text", "codes", "n", "keys selected", "loss", "baseline", "delta",
                   "share of keys read"),
                  (_row(key, decoder[key]) for key in sorted(decoder, key=_order)))


def _row(key: str, row: dict[str, Any]) -> tuple[object, ...]:
    return (row["text"], key.split(", ")[1], row["n"], row["n"] + row["sink"] + row["recent"],
            f"{row['loss']:.3f}", f"{row['loss_reference']:.3f}", f"{row['above']:+.3f}",
            f"{row['keys_touched'] / row['keys_dense']:.3f}")


def _order(key: str) -> tuple[str, int, str]:
    text, name, n = key.split(", ")
    return text, int(n.split()[1]), name


def _training(made: dict[str, Any]) -> list[tuple[str, object]]:
    rounds = f"{made['rounds']} round{'s' * (made['rounds'] > 1)}"
    return [("time", (f"{_time(made)}, {made['minutes']:g} of them training: {made['steps']:,} "
                      f"steps in {rounds}")),
            ("trained on", (f"{made['passages']:,} passages of up to {made['passage']} tokens, of "
             f"{len(made['pages']):,} man pages and {len(made['modules'])} Python modules")),
            ("training", (f"stages `{made['stages']}`, N = {made['n']}, batches of "
             f"{made['batch']}, seed {made['seed']}"))]


def _encoder(made: dict[str, Any], found: dict[str, Any]) -> str:
    conditions = _table(("", ""), [
        *_training(made),
        ("measured on", (f"{found['passages']:,} passages of 33 to 256 tokens of "
         f"{len(found['held_out'])} other man pages"))])
    rows = [(row["student"], row["n"], f"{row['cosine']:.3f}", f"{row['retrieval']:.3f}")
            for row in found["rows"].values()]
    teacher = ("teacher", "all", "1.000", f"{found['retrieval_teacher']:.3f}")
    return f"{conditions}\n\n{_table(('student', 'N', 'cosine', 'retrieval'), [teacher, *rows])}"


def _decoder_had(made: dict[str, Any], found: dict[str, Any]) -> str:
    rows = found["rows"]
    pieces = " or ".join(map(str, sorted({row["pieces"] for row in rows.values()})))
    conditions = _table(("", ""), [
        *_training(made),
        ("measured on", (f"the last {made['passage'] // 2} of {made['passage']} tokens, mean of "
         f"{pieces} pieces of each text"))])
    losses = _table(("text", "attention", "N", "loss"), (
        (row["text"], row["student"], row["n"] or "all",
         f"{row['loss']:.3f}") for row in rows.values()))
    return f"{conditions}\n\n{losses}"


def _plot(decoder: dict[str, Any]) -> None:
    texts = sorted({row["text"] for row in decoder.values()}, reverse=True)
    with style():
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        for axes, text in zip(figure.subplots(1, len(texts), sharey=True), texts, strict=True):
            for name, colour in (("hadamard", "#d55e00"), ("learned", "#0072b2"),
                                 ("true top", "#666666")):
                points = sorted((row["n"] + SINK + RECENT, row["above"])
                                for key, row in decoder.items()
                                if key.split(", ")[:2] == [text, name])
                axes.plot([x for x, _ in points], [y for _, y in points], "o-", color=colour,
                          label=name)
            axes.set_title(text)
            axes.set_xlabel("keys selected by a query")
            axes.set_ylabel("loss above dense, nats a token")
            axes.legend(frameon=False)
        figure.savefig(PLOT, format="svg", metadata={"Date": None})
