"""Files kept between runs in the user's cache directory.

A file is kept under a key, the hash of all that it was made from. Its name also holds the hash of
its content, so a damaged file is detected and made again. Files appear whole or not at all,
so processes side by side do not disturb each other.
"""

import ctypes
import hashlib
import os
import secrets
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

import platformdirs

from nearbit_sim.engine import SimulationError


__all__ = ["announcing", "cached", "directory", "key_of", "load_library"]


# Files of a kind that are kept; those unused for longest go first.
_KEPT = 64

# Seconds after which nobody is still writing a file: what a killed process has left.
_ABANDONED = 24 * 3600

_REMEDY = "NEARBIT_CACHE_DIR can name another"

_ANNOUNCE: ContextVar[Callable[[], None]] = ContextVar("_ANNOUNCE", default=lambda: None)


@contextmanager
def announcing(announce: Callable[[], None]) -> Iterator[None]:
    """Call a function before each file that is made because the cache does not have it."""
    token = _ANNOUNCE.set(announce)
    try:
        yield
    finally:
        _ANNOUNCE.reset(token)


def directory() -> Path:
    """Return the cache directory; the environment variable ``NEARBIT_CACHE_DIR`` overrides it.

    :class:`SimulationError` if this user has no home directory.
    """
    chosen = os.environ.get("NEARBIT_CACHE_DIR")
    place = Path(chosen) if chosen else platformdirs.user_cache_path("nearbit", appauthor=False)
    try:
        return place.expanduser().absolute()
    except RuntimeError:
        raise SimulationError(f"there is no home directory to keep compiled simulations in "
                              f"({place}); NEARBIT_CACHE_DIR can name a directory") from None


def key_of(*parts: str) -> str:
    """Hash the texts that a file is made from, and the kind of machine.

    Machines of different kinds that share a home directory thus keep separate libraries.
    """
    kind = (sysconfig.get_platform(), str(sysconfig.get_config_var("SOABI")))
    return _digest("\0".join((*parts, *kind)).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def cached(key: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """Return the file of a key; if there is no intact one, ``make`` writes it to a path.

    Other users may read it if the directory permits. A directory that has the file need not be
    writable. Raises :class:`SimulationError` if the file cannot be made.
    """
    place = directory()
    # Not tempfile, whose files are for this user only.
    part = place / f"{key}-{secrets.token_hex(8)}.part"
    try:
        found = _find(place, key, suffix)
        if found is not None:
            return found
        place.mkdir(parents=True, exist_ok=True)
        part.open("xb").close()
    except OSError as error:
        raise _unusable(place, error) from None
    try:
        _ANNOUNCE.get()()
        make(part)
        path = place / f"{key}-{_digest(part.read_bytes())}{suffix}"
        os.replace(part, path)
    except OSError as error:
        if error.filename not in (None, str(part)):
            raise
        raise _unusable(place, error) from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    _prune(place, suffix)
    return path


def load_library(path: Path) -> ctypes.CDLL:
    """Load a cached library; :class:`SimulationError` names the directory if that fails."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise SimulationError(
            f"a library in the cache directory {path.parent} cannot be loaded: {error}; perhaps "
            f"programs may not run from there (noexec), or another machine made it: {_REMEDY}"
            ) from None


def _unusable(place: Path, error: OSError) -> SimulationError:
    return SimulationError(f"the cache directory {place} cannot be used: "
                           f"{error.strerror or error}; {_REMEDY}")


def _find(place: Path, key: str, suffix: str) -> Path | None:
    for path in sorted(place.glob(f"{key}-*{suffix}")):
        with suppress(OSError):
            if path.stem == f"{key}-{_digest(path.read_bytes())}":
                # Another user's file is as good, though its time cannot be set.
                with suppress(OSError):
                    path.touch()
                return path
            path.unlink()
    return None


def _prune(place: Path, suffix: str) -> None:
    def used(path: Path) -> float:
        with suppress(OSError):
            return path.stat().st_mtime
        return 0.0

    for path in sorted(place.glob(f"*{suffix}"), key=used, reverse=True)[_KEPT:]:
        with suppress(OSError):
            path.unlink()

    for path in place.glob("*.part"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()
