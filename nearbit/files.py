"""Output files that are there whole or not at all."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


__all__ = ["OutputError", "OutputFile", "output_folder"]


class OutputError(OSError):
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
    """

    def __init__(self, path: Path, keep: Sequence[Path] = ()) -> None:
        """Check that a file of this name can be made, by making one beside it."""
        self._shown = path
        # Through a symbolic link: the file that it points to is replaced, not the link.
        self._path = Path(path).resolve()
        self._temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        if self._path.is_dir():
            raise OutputError(f"cannot write {path}: it is a directory")
        if self._path.exists() and not self._path.is_file():
            raise OutputError(f"cannot write {path}: it is not a regular file")
        if self._path in [each.resolve() for each in keep]:
            raise OutputError(f"cannot write {path}: it is an input")
        if self._path.exists() and not os.access(self._path, os.W_OK):
            raise OutputError(f"cannot write {path}: {os.strerror(errno.EACCES)}")
        try:
            with self._temporary.open("xb"):
                pass
        except OSError as error:
            raise OutputError(self._cannot(error)) from None
        self._temporary.unlink()

    @contextmanager
    def write(self) -> Iterator[Path]:
        """Give the temporary file's path to write to; on leaving, it takes the name."""
        try:
            yield self._temporary
            os.replace(self._temporary, self._path)
        except OSError as error:
            raise OutputError(self._cannot(error)) from None
        finally:
            self._temporary.unlink(missing_ok=True)

    def _cannot(self, error: OSError) -> str:
        return f"cannot write {self._shown}: {error.strerror or error}"


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
