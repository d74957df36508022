"""Yosys as a program of its own, out of the library that pyosys brings.

    python -m nearbit_hw.yosys_main [-q] [-l LOG] SCRIPT

Runs a script, ``-`` for standard input, with the meaning that ``yosys`` gives to these arguments,
but that the log goes to standard error, and always: standard output has only what the script writes
there. An error ends the log and the process.
"""

import argparse
import importlib
import sys


__all__ = ["main"]


# As Yosys's own program has, for the recursion over deep logic. It grows in use only.
_STACK_OCTETS = 128 << 20


def main(arguments: list[str]) -> int:
    """Run a script of Yosys, and return the exit status."""
    parser = argparse.ArgumentParser(prog="yosys", allow_abbrev=False)
    parser.add_argument("-q", action="store_true")
    parser.add_argument("-l", metavar="LOG")
    parser.add_argument("script")
    given = parser.parse_args(arguments)
    _raise_stack()
    try:
        yosys = importlib.import_module("pyosys.libyosys")
        # `tee` takes the log off standard output, where the bindings put it. Standard error may be
        # a file, which -o would begin anew. Of run_pass the first line would stay.
        tee = ["tee", "-q", "-a", "/dev/stderr", *(["-o", given.l] if given.l else [])]
        yosys.Pass.call(yosys.Globals.yosys_design, [*tee, "script", given.script])
    except Exception as error: # One of C++ that Yosys did not expect either, or no such library.
        print(f"ERROR: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _raise_stack() -> None:
    if sys.platform == "linux":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
        unlimited = resource.RLIM_INFINITY
        if soft != unlimited and soft < _STACK_OCTETS:
            wanted = _STACK_OCTETS if hard == unlimited else min(hard, _STACK_OCTETS)
            resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
