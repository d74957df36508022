"""Makes the C++ that Yosys writes (CXXRTL) compile several times as fast."""

import re
from collections.abc import Iterator


__all__ = ["split_eval"]


# Characters of a part. Below, compilers gain nothing more; far above, they get slow.
_PART = 4000

# The functions to cut: how the definition begins and ends, the declaration in the class, and what
# the parts take and are given.
_EVAL_HEAD = """\
bool p_dut::eval(performer *performer) {
\tbool converged = true;
\tbool posedge_p_clk = this->posedge_p_clk();
"""
_EVAL = (_EVAL_HEAD, "\treturn converged;\n}\n",
         "\tbool eval(performer *performer = nullptr) override;\n",
         "bool posedge_p_clk, bool &converged", "posedge_p_clk, converged")
_DEBUG_EVAL = ("void p_dut::debug_eval() {\n", "\n}\n", "\tvoid debug_eval();\n", "", "")

_LOCAL = re.compile(r"\t(value<\d+>) (\w+);")
_TEMPORARY = re.compile(r"\tauto (tmp_\d+) =", re.MULTILINE)
_WORD = re.compile(r"\w+")


def split_eval(source: str) -> str:
    """Split the functions that evaluate the design into many.

    The time of optimizing compilers grows with more than the length of a function, and CXXRTL
    writes a single one: 40 s for the reference core, 10 s in parts, which run no slower. Local
    variables that more than one part uses become members; each is assigned in every evaluation
    before it is used. A text without such functions, or with others, is returned as it is.

    Parameters
    ----------
    source
        C++ of a flattened design with the top module ``dut``.
    """
    return _split(_split(source, "eval", *_EVAL), "debug_eval", *_DEBUG_EVAL)


def _split(source: str, name: str, head: str, tail: str, declaration: str, parameters: str,
           arguments: str) -> str:
    before, _, rest = source.partition(head)
    body, found, after = rest.partition(tail)
    if not found or declaration not in before or "performer" in body:
        return source

    types: dict[str, str] = {}
    statements: list[str] = []
    for statement in _statements(body):
        variable = _LOCAL.fullmatch(statement)
        if variable:
            types[variable[2]] = variable[1]
        else:
            statements.append(statement)
    parts = list(_parts(statements))

    # Where each local variable is used.
    uses: dict[str, set[int]] = {local: set() for local in types}
    for number, part in enumerate(parts):
        for local in uses.keys() & set(_WORD.findall(part)):
            uses[local].add(number)
    own: list[str] = [""] * len(parts)
    for local, numbers in uses.items():
        if len(numbers) == 1:
            own[next(iter(numbers))] += f"\t{types[local]} {local};\n"
    # With debug information there are members of the same names, computed on demand.
    shared = {local: f"{name}_{local}" for local in types if len(uses[local]) > 1}
    members = "".join(f"\t{types[local]} {member};\n" for local, member in shared.items())
    parts = [_WORD.sub(lambda word: shared.get(word[0], word[0]), part) for part in parts]

    declarations = "".join(f"\tvoid {name}_{number}({parameters});\n"
                           for number in range(len(parts)))
    before = before.replace(declaration, declaration + members + declarations, 1)
    functions = "\n".join(f"void p_dut::{name}_{number}({parameters}) {{\n{own[number]}{part}\n}}\n"
                          for number, part in enumerate(parts))
    calls = "".join(f"\t{name}_{number}({arguments});\n" for number in range(len(parts)))
    return f"{before}{functions}\n{head}{calls}{tail}{after}"


def _statements(body: str) -> Iterator[str]:
    """List a function's statements; those that share a temporary are one."""
    lines: list[str] = []
    pending: list[str] = []
    temporaries: set[str] = set()
    for line in body.splitlines():
        if line.startswith("\t//"):
            continue
        lines.append(line)
        # A line by itself, or the end of a block that does not go on with `else`.
        if not (line == "\t}" or (len(lines) == 1 and line.endswith(";"))):
            continue
        statement = "\n".join(lines)
        lines = []
        if pending and not temporaries & set(_WORD.findall(statement)):
            yield "\n".join(pending)
            pending, temporaries = [], set()
        pending.append(statement)
        temporaries.update(_TEMPORARY.findall(statement))
    if pending or lines:
        yield "\n".join([*pending, *lines])


def _parts(statements: list[str]) -> Iterator[str]:
    """Join statements into parts of a suitable length, in order."""
    part: list[str] = []
    length = 0
    for statement in statements:
        part.append(statement)
        length += len(statement)
        if length >= _PART:
            yield "\n".join(part)
            part, length = [], 0
    if part:
        yield "\n".join(part)
