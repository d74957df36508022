"""Output files that are there whole or not at all."""

import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nearbit_model.errors import NearbitError


__all__ = ["OutputError", "OutputFile", "output_folder"]


# What writing to an open file says, without the file's name.
_FULL = {errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC}


class OutputError(NearbitError, OSError):
    """A file that cannot be written; the message is one sentence that names it."""


class OutputFile:
    """A file to be written later, checked now.

    What is written goes to a temporary file in the same folder, which takes the name at the end.
    If anything fails before, the name keeps what it had.

    Parameters
    ----------
    path
        Where to write. :class:`OutputError` if that cannot work.
    keep
        Files that must not be overwritten.
    apart
        Outputs of the same run, which must be other files; None is none.
    """

    def __init__(self, path: Path, keep: Sequence[Path] = (),
                 apart: Sequence["OutputFile | None"] = ()) -> None:
        """Check that a file of this name can be made, by making one beside it."""
        self.path = path
        """The name that was asked for."""
        # Through a symbolic link: the file that it points to is replaced, not the link. Not
        # Path.resolve, which before Python 3.13 stumbles over links in a circle.
        self._path = Path(os.path.realpath(path))
        # Short, for names may be as long as a file system allows; and of no process before.
        self._temporary = self._path.with_name(f".nearbit-{secrets.token_hex(8)}.tmp")
        try:
            self._check(keep, apart)
            with self._temporary.open("xb"):
                pass
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(self._cannot(error)) from None
        self._temporary.unlink()

    def _check(self, keep: Sequence[Path], apart: Sequence["OutputFile | None"]) -> None:
        path = self._path
        if path.is_dir():
            raise OutputError(f"cannot write {self.path}: it is a directory")
        if os.path.lexists(path) and not path.is_file():
            path.stat() # links in a circle
            raise OutputError(f"cannot write {self.path}: it is not a regular file")
        if any(_is_same(path, Path(os.path.realpath(each))) for each in keep):
            raise OutputError(f"cannot write {self.path}: it is an input")
        if any(each is not None and _is_same(path, each._path) for each in apart):
            raise OutputError(f"cannot write {self.path}: it is another output, too")
        if path.exists() and not os.access(path, os.W_OK):
            raise OutputError(f"cannot write {self.path}: {os.strerror(errno.EACCES)}")

    @contextmanager
    def write(self) -> Iterator[Path]:
        """Give the temporary file's path to write to; on leaving, it takes the name.

        Raises :class:`OutputError` if it cannot be written; an :class:`OSError` about another file
        passes.
        """
        try:
            yield self._temporary
            # What has no room is sometimes found out only when it goes to the disk.
            with self._temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(self._temporary, self._path)
        except OSError as error:
            is_full = error.filename is None and error.errno in _FULL
            if not is_full and error.filename != str(self._temporary):
                raise
            raise OutputError(self._cannot(error)) from None
        finally:
            self._temporary.unlink(missing_ok=True)

    def _cannot(self, error: OSError) -> str:
        return f"cannot write {self.path}: {error.strerror or error}"


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are of one file, as also on file systems without upper and lower case."""
    with suppress(OSError):
        return one.samefile(other)
    return one == other


@contextmanager
def output_folder(path: Path) -> Iterator[None]:
    """Make a folder, and those that it is in, unless they are there.

    If the block fails, folders that were made here and are empty are removed. Raises
    :class:`OutputError` if the folder cannot be made.
    """
    made: list[Path] = []
    try:
        try:
            missing = [folder for folder in (path, *path.parents) if not folder.exists()]
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True)
                made.append(folder)
            path.mkdir(exist_ok=True)
        except FileExistsError:
            raise OutputError(f"{path} is a file, not a folder; give another name") from None
        except OSError as error:
            raise OutputError(f"cannot make the folder {path}: {error.strerror or error}") from None
        yield
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise
