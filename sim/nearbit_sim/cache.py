"""Files that are worth keeping between runs, in the user's cache directory.

A file is kept under a key, the hash of all that it was made from. Its name also holds the hash of
its content, so one that was damaged is found out and made again. Files appear whole or not at all,
so processes side by side do not disturb each other.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import platformdirs

from nearbit_sim.program import SimulationError


__all__ = ["cached", "directory", "key_of"]


# Files of a kind that are kept; those unused for longest go first.
_KEPT = 64


def directory() -> Path:
    """Return where files are kept; the environment variable ``NEARBIT_CACHE_DIR`` overrides it."""
    chosen = os.environ.get("NEARBIT_CACHE_DIR")
    return Path(chosen) if chosen else platformdirs.user_cache_path("nearbit", appauthor=False)


def key_of(*parts: str) -> str:
    """Hash texts that together say what a file is made from."""
    return _digest("\0".join(parts).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def cached(key: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """Return the file of a key; unless there is an intact one, ``make`` writes it to a path."""
    place = directory()
    try:
        place.mkdir(parents=True, exist_ok=True)
        found = _find(place, key, suffix)
        if found is not None:
            return found
        handle, name = tempfile.mkstemp(prefix=f"{key}-", suffix=".part", dir=place)
        os.close(handle)
    except OSError as error:
        raise SimulationError(f"the cache directory {place} cannot be used: "
                              f"{error.strerror or error}; NEARBIT_CACHE_DIR can name another"
                              ) from None
    part = Path(name)
    try:
        make(part)
        path = place / f"{key}-{_digest(part.read_bytes())}{suffix}"
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _prune(place, suffix)
    return path


def _find(place: Path, key: str, suffix: str) -> Path | None:
    for path in sorted(place.glob(f"{key}-*{suffix}")):
        with suppress(OSError):
            if path.stem == f"{key}-{_digest(path.read_bytes())}":
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
