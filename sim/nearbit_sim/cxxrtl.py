"""Makes the C++ that Yosys writes (CXXRTL) compile several times as fast."""

import re
from collections.abc import Iterator


__all__ = ["split_eval"]


# Characters of a part. Below, compilers gain nothing more; far above, they get slow.
_PART = 4000

_HEAD = ("bool p_dut::eval(performer *performer) {\n"
         "\tbool converged = true;\n"
         "\tbool posedge_p_clk = this->posedge_p_clk();\n")
_TAIL = "\treturn converged;\n}\n"
_DECLARATION = "\tbool eval(performer *performer = nullptr) override;\n"
_PARAMETERS = "bool posedge_p_clk, bool &converged"

_LOCAL = re.compile(r"\t(value<\d+>) (\w+);")
_TEMPORARY = re.compile(r"\tauto (tmp_\d+) =", re.MULTILINE)
_WORD = re.compile(r"\w+")


def split_eval(source: str) -> str:
    """Cut the function that evaluates the design into many.

    The time of optimizing compilers grows with more than the length of a function, and CXXRTL
    writes a single one: 40 s for the reference core, 10 s in parts, which run no slower. Local
    variables that more than one part uses become members; each is assigned in every evaluation
    before it is used. A text without such a function, or with one of another form, is returned as
    it is.

    Parameters
    ----------
    source
        C++ of a flattened design with the top module ``dut``.
    """
    before, head, rest = source.partition(_HEAD)
    body, tail, after = rest.partition(_TAIL)
    if not head or not tail or _DECLARATION not in before or "performer" in body:
        return source

    types: dict[str, str] = {}
    statements: list[str] = []
    for statement in _statements(body):
        local = _LOCAL.fullmatch(statement)
        if local:
            types[local[2]] = local[1]
        else:
            statements.append(statement)
    parts = list(_parts(statements))

    # Where each local variable is used.
    uses: dict[str, set[int]] = {name: set() for name in types}
    for number, part in enumerate(parts):
        for name in uses.keys() & set(_WORD.findall(part)):
            uses[name].add(number)
    locals_: list[str] = [""] * len(parts)
    for name, numbers in uses.items():
        if len(numbers) == 1:
            locals_[next(iter(numbers))] += f"\t{types[name]} {name};\n"
    # With debug information there are members of the same names, computed on demand.
    shared = {name: f"shared_{name}" for name in types if len(uses[name]) > 1}
    members = "".join(f"\t{types[name]} {member};\n" for name, member in shared.items())
    parts = [_WORD.sub(lambda word: shared.get(word[0], word[0]), part) for part in parts]

    declarations = "".join(f"\tvoid eval_{number}({_PARAMETERS});\n"
                           for number in range(len(parts)))
    before = before.replace(_DECLARATION, _DECLARATION + members + declarations, 1)
    functions = "\n".join(f"void p_dut::eval_{number}({_PARAMETERS}) {{\n"
                          f"{locals_[number]}{part}\n}}\n" for number, part in enumerate(parts))
    calls = "".join(f"\teval_{number}(posedge_p_clk, converged);\n"
                    for number in range(len(parts)))
    return f"{before}{functions}\n{head}{calls}{tail}{after}"


def _statements(body: str) -> Iterator[str]:
    """List the statements of a function with those that use the same temporary in one."""
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
    """Join statements to parts of a good length, in order."""
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
