"""What each board's preset takes of its device, and how fast it is.

    python benchmarks/boards.py [--check] [BOARD...]

Builds the bitstreams of the boards, those with an iCE40 if none are named, `all` for all of them,
and writes logic and clock to benchmarks/results/boards.json; boards that are not built keep their
entries. The table in docs/boards.md is made from it. Minutes for each, and for each
further seed of one that misses its clock.

With --check nothing is written: it fails if a board has no entry, or takes over 3 % more logic than
its entry says.
"""

import json
import sys
from pathlib import Path
from typing import Any

import nearbit
from nearbit_boards.board import BoardError
from nearbit_boards.boards import BOARDS, find_board
from nearbit_boards.build import Build, BuildError, build, default_folder


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "boards.json"
DOCUMENT = ROOT / "docs" / "boards.md"
GROWTH = 0.03
SEEDS = (1, 2, 3, 4)
BEGIN, END = "<!-- boards: begin -->\n", "<!-- boards: end -->\n"


def entry(result: Build) -> dict[str, Any]:
    """Give what is kept of a build."""
    kept = result.to_dict()
    for name in ("bitstream", "board", "seconds"):
        del kept[name]
    return kept


def read() -> dict[str, dict[str, Any]]:
    """Give what is kept of all boards."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def growth(name: str, before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """Say by how much a board's logic has grown, if that is too much."""
    old, new = before["luts"], after["luts"]
    if new <= old * (1 + GROWTH):
        return None
    return (f"{name} takes {new:,} of its device's logic, {100 * (new / old - 1):.1f} % more than "
            f"the {old:,} in {RESULTS.relative_to(ROOT)}; where that is right, run: python "
            f"benchmarks/boards.py {name}")


def table(results: dict[str, dict[str, Any]]) -> str:
    """Write the table of the document."""
    lines = [
        ("| board | keys x bits | values | lanes | logic | flip-flops | block RAMs | SPRAMs | DSPs "
        "| Fmax MHz | clock MHz | slowest path |"),
        "|---|---|---|---|---|---|---|---|---|---|---|---|"]
    for name in BOARDS:
        if name not in results:
            continue
        found, config = results[name], results[name]["config"]
        lines.append(
            f"| {name} | {config['capacity']:,} x {config['key_bits']} | {config['value_dim']} "
            f"| {config['lanes']} | {found['luts']:,} of {found['luts_total']:,} "
            f"| {found['ffs']:,} | {found['brams']} of {found['brams_total']} "
            f"| {found['sprams']} of {found['sprams_total']} | {found['dsps']} of "
            f"{found['dsps_total']} | {found['fmax_mhz']:.1f} | {found['target_mhz']:g} "
            f"| {' to '.join(dict.fromkeys(found['slowest_path']))} |")
    return "\n".join(lines) + "\n"


def write_document(results: dict[str, dict[str, Any]]) -> None:
    """Put the table into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(before + BEGIN + table(results) + END + after, encoding="utf-8",
                        newline="\n")


def main(arguments: list[str]) -> int:
    is_check = "--check" in arguments
    names = [name for name in arguments if name != "--check"]
    if names == ["all"]:
        names = list(BOARDS)
    results = read()
    failures = []
    try:
        boards = [find_board(name) for name in names] or [
            board for board in BOARDS.values() if board.device.family == "ice40"]
    except BoardError as error:
        print(error, file=sys.stderr)
        return 2
    major, minor, patch = (int(part) for part in nearbit.__version__.split("."))
    for board in boards:
        folder = ROOT / default_folder(board)
        folder.mkdir(parents=True, exist_ok=True)
        # Another seed moves the clock by some percent; the preset's own comes first.
        built, problem = None, ""
        for seed in (board.seed, *(seed for seed in SEEDS if seed != board.seed)):
            try:
                built = build(board, folder, seed=seed, version=(major, minor, patch),
                              progress=lambda doing, name=board.name: print(f"{name}: {doing}"))
                break
            except (BoardError, BuildError) as error:
                problem = str(error)
                print(problem)
                if "--seed" not in problem:
                    break
        if built is None:
            failures.append(problem)
            continue
        new = entry(built)
        print(f"{board.name}: {new['luts']:,} of {new['luts_total']:,} logic, "
              f"{new['fmax_mhz']:.1f} MHz ({new['target_mhz']:g})")
        if not is_check:
            # Read again: another run may have written its boards in between.
            results = read() | {board.name: new}
            RESULTS.write_text(json.dumps(
                {name: results[name] for name in BOARDS if name in results}, indent=2) + "\n",
                encoding="utf-8", newline="\n")
        elif board.name not in results:
            failures.append(f"{RESULTS.relative_to(ROOT)} has no figures of {board.name}; run: "
                            f"python benchmarks/boards.py {board.name}")
        else:
            said = growth(board.name, results[board.name], new)
            failures += [said] if said else []
    if not is_check:
        write_document(results)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
