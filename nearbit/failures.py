"""Unexpected exceptions: a sentence for the user, a file for whoever fixes the bug."""

import errno
import os
import platform
import tempfile
import traceback
from collections.abc import Sequence

import nearbit


__all__ = ["FAULT", "of_the_machine", "report"]


FAULT = 70
"""Exit status of unexpected exceptions: EX_SOFTWARE of sysexits.h."""

# What is full, forbidden or impossible on this machine is no fault of a program.
_MACHINE = {errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP,
            errno.EMFILE, errno.ENAMETOOLONG, errno.ENFILE, errno.ENOMEM, errno.ENOSPC,
            errno.ENOTDIR, errno.EPERM, errno.EROFS}


def of_the_machine(error: BaseException) -> str | None:
    """Give the sentence for a resource that this machine lacks; None for any other error."""
    if isinstance(error, MemoryError):
        return "the memory of this machine is not enough for this; try it with less at a time"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "nearbit").startswith(
            "nearbit"):
        return (f"this needs the module {error.name}, which is not installed; install Nearbit with "
                f"all that it needs; in a clone of it, type: pip install .")
    if not isinstance(error, OSError):
        return None
    said = error.strerror or str(error)
    if isinstance(error, FileNotFoundError) and "temporary directory" in said:
        return f"there is no folder for temporary files ({said}); TMPDIR can name one"
    if error.errno not in _MACHINE:
        return None
    return said if error.filename is None else f"{os.fsdecode(error.filename)}: {said}"


def report(error: BaseException, arguments: Sequence[str]) -> str:
    """Write the traceback to a temporary file, and give the sentence that names it."""
    system = f"Python {platform.python_version()}, {platform.platform()}"
    trace = "".join(traceback.format_exception(error))
    text = f"nearbit {nearbit.__version__}, {system}\narguments: {list(arguments)}\n\n{trace}"
    try:
        handle, path = tempfile.mkstemp(prefix="nearbit-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
        where = f"report it with the file {path}"
    except OSError as failure:
        where = (f"report it (its traceback could not be kept: "
                 f"{failure.strerror or failure})")
    what = " ".join([type(error).__name__, *str(error).split()[:40]])
    return f"a fault in Nearbit itself: {what}; please {where}"

