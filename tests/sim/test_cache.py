"""The cache on folders of other people's machines."""

import os
import resource
import shutil
import subprocess
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nearbit_sim import cache
from nearbit_sim.engine import SimulationError


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A cache directory that is not there yet."""
    monkeypatch.setenv("NEARBIT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(text="content", key="key", suffix=".txt"):
    return cache.cached(cache.key_of(key), suffix, lambda path: path.write_text(text))


def forbid(monkeypatch, *names):
    """Let some functions of files fail as in a folder of somebody else."""
    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied", "somewhere")

    for name in names:
        monkeypatch.setattr(Path, name, refuse)


def test_hit_in_a_read_only_folder(place, monkeypatch):
    path = kept()
    forbid(monkeypatch, "touch", "unlink", "mkdir")
    assert cache.cached(cache.key_of("key"), ".txt", pytest.fail) == path


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_miss_in_a_read_only_folder(place):
    place.mkdir(mode=0o500)
    with pytest.raises(SimulationError, match=(
            r"^the cache directory .*/cache cannot be used: Permission denied; NEARBIT_CACHE_DIR "
            r"can name another$")):
        kept()


def test_damaged_file_in_a_read_only_folder(place, monkeypatch):
    kept().write_text("damaged")
    forbid(monkeypatch, "unlink")
    assert kept().read_text() == "content"


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_others_may_read(place, umask):
    before = os.umask(umask)
    try:
        assert kept().stat().st_mode & 0o777 == 0o666 & ~umask
    finally:
        os.umask(before)


@pytest.mark.usefixtures("place")
def test_library_that_cannot_be_loaded():
    path = kept("no library", suffix=".so")
    with pytest.raises(SimulationError) as caught:
        cache.load_library(path)
    said = str(caught.value)
    assert said.startswith(f"a library in the cache directory {path.parent} cannot be loaded: ")
    assert said.endswith("; perhaps programs may not run from there (noexec), or another machine "
                         "made it: NEARBIT_CACHE_DIR can name another")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs to mount")
def test_folder_without_programs(place, tmp_path):
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,noexec", "tmpfs", place],
                             capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("needs to mount")
    try:
        source = tmp_path / "empty.c"
        source.write_text("")
        path = cache.cached(cache.key_of("empty"), ".so", lambda target: subprocess.run(
            ["gcc", "-shared", "-o", target, source], check=True))
        with pytest.raises(SimulationError, match=r"failed to map .*\(noexec\)"):
            cache.load_library(path)
    finally:
        # Lazily, for something else may look into it.
        subprocess.run(["umount", "-l", place], check=True)


def test_no_room(place):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(SimulationError, match=(
                r"^the cache directory .*/cache cannot be used: File too large; ")):
            kept("x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(place.iterdir()) == []


def test_no_home_directory(monkeypatch):
    monkeypatch.setenv("NEARBIT_CACHE_DIR", "~nobody-of-this-name/cache")
    with pytest.raises(SimulationError, match=(
            r"^there is no home directory to keep compiled simulations in \(~nobody-of-this-name/"
            r"cache\); NEARBIT_CACHE_DIR can name a directory$")):
        cache.directory()


def test_names_of_the_directory(monkeypatch, tmp_path):
    """A library without a directory in its name would be looked for elsewhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, expected in (("~/cache", tmp_path / "home" / "cache"), (".", tmp_path)):
        monkeypatch.setenv("NEARBIT_CACHE_DIR", name)
        assert cache.directory() == expected


def test_another_kind_of_machine(monkeypatch):
    here = cache.key_of("design")
    monkeypatch.setattr(sysconfig, "get_platform", lambda: "linux-other")
    assert cache.key_of("design") != here


def test_what_killed_processes_left(place):
    kept()
    old, new = place / "a.part", place / "b.part"
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 90_000,) * 2)
    kept(key="another")
    assert not old.exists()
    assert new.exists()


def test_many_at_once(place):
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: kept("x" * 100_000), range(32)))
    assert list(place.iterdir()) == list(paths)
