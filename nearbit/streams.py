"""Standard output and standard error of the command."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from nearbit.files import OutputError


__all__ = ["say", "standard_streams"]


class _Descriptor(io.FileIO):
    """A descriptor that, when nobody reads it any more, takes what is written and drops it.

    What else keeps it from being written is an :class:`OutputError`, once; on standard error, where
    nobody would see it, nothing.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._is_lost = False

    def write(self, data: Any, /) -> int:
        if not self._is_lost:
            try:
                return super().write(data)
            except BrokenPipeError:
                # The reader, say `head`, has what it wanted; the status is as without it.
                self._is_lost = True
            except OSError as error:
                self._is_lost = True
                if self.fileno() != 2:
                    raise OutputError(f"cannot write to standard output: "
                                      f"{error.strerror or error}") from None
        return len(data)


@contextmanager
def standard_streams() -> Iterator[bool]:
    """Let the interpreter's own streams report what they cannot write.

    Yields whether standard output is open; if not, what is written there is dropped. Characters
    that the locale does not have are written as escapes. Streams that someone has put in their
    place, as tests do, stay.
    """
    # Both are None where the descriptor was closed before the process began.
    kept: tuple[Any, Any] = sys.stdout, sys.stderr
    output, errors = kept
    if errors is None:
        # Else the next file that is opened is where programs write their complaints to.
        _point_to_null(2)
        errors = _stream(2, "utf-8")
    elif id(errors) == id(sys.__stderr__):
        errors = _stream(2, errors.encoding)
    if output is None:
        _point_to_null(1)
        output = _stream(1, "utf-8")
    elif id(output) == id(sys.__stdout__):
        output.flush()
        output = _stream(1, output.encoding)
    sys.stdout, sys.stderr = output, errors
    try:
        yield kept[0] is not None
    finally:
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = kept


def _stream(descriptor: int, encoding: str) -> TextIO:
    raw = _Descriptor(descriptor)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace",
                            line_buffering=descriptor == 2 or raw.isatty())


def _point_to_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


def say(sentence: str) -> None:
    """Print one line on standard error, with the command's name before it."""
    line = "".join(char if char.isprintable() else repr(char)[1:-1]
                   for char in " ".join(sentence.split()))
    print("nearbit:", line, file=sys.stderr)
