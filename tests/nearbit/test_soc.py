"""`nearbit verilog --interface`: the same files on each run, all of them or none."""

import os
import subprocess
import sys

import pytest

from nearbit.soc import bundle
from nearbit_model.config import Config, Rescore


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file()}


def generate(folder, hash_seed, interface):
    return subprocess.run(
        [sys.executable, "-m", "nearbit", "verilog", "--preset", "tiny", "--interface", interface,
         "-o", folder], env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True,
        encoding="utf-8", check=True).stdout


@pytest.mark.parametrize("interface", ["axi", "wishbone"])
def test_reproducible(tmp_path, interface):
    first, second = tmp_path / "first", tmp_path / "deeper" / "second"
    written = generate(first, "1", interface)
    generate(second, "2", interface)
    assert written.split() == [str(first / name) for name in bundle.names(interface)]
    assert set(contents(first)) == set(bundle.names(interface))
    assert contents(first) == contents(second)
    for text in contents(first).values():
        assert str(tmp_path).encode() not in text
    # What it was made of makes it again.
    assert Config.load(first / "nearbit.toml") == Config.preset("tiny")


def test_keeps_other_files(run, tmp_path):
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "mine.c").write_text("kept")
    (tmp_path / "README.md").write_text("old")
    assert run("verilog", "--preset", "tiny", "--interface", "axi", "-o", tmp_path).status == 0
    assert set(contents(tmp_path)) == {*bundle.names("axi"), "driver/mine.c"}
    assert (tmp_path / "README.md").read_text() != "old"


@pytest.fixture
def refused(run, tmp_path):
    """Run the command, see that it is refused and leaves the folder as it was."""
    def run_refused(*arguments):
        before = contents(tmp_path)
        outcome = run("verilog", *arguments)
        assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert contents(tmp_path) == before
        return outcome.err.removeprefix("nearbit: ").rstrip("\n")

    return run_refused


def test_wrong_interface(refused, tmp_path):
    assert refused("--interface", "apb", "-o", tmp_path / "new") == (
        "--interface must be stream, axi or wishbone, not 'apb'")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("interface", ["stream", "axi"])
def test_wrong_folder(refused, tmp_path, interface):
    path = tmp_path / "file"
    path.write_text("kept")
    assert refused("--interface", interface, "-o", path) == (
        f"{path} is a file, not a folder; give another name")


def test_folder_in_the_way(refused, tmp_path):
    """A name inside that cannot be written, known before anything is."""
    (tmp_path / "driver").write_text("kept")
    assert refused("--interface", "axi", "-o", tmp_path) == (
        f"{tmp_path / 'driver'} is a file, not a folder; give another name")
    (tmp_path / "driver").unlink()
    (tmp_path / "nearbit.core").mkdir()
    assert refused("--interface", "axi", "-o", tmp_path) == (
        f"cannot write {tmp_path / 'nearbit.core'}: it is a directory")
    assert not (tmp_path / "registers").exists()


def test_no_such_interface_for_it(refused, tmp_path):
    """Scores that do not fit a beat of the trace."""
    config = Config.preset("tiny").replace(rescore=Rescore(head_dim=1024, lanes=8, element_bits=16))
    path = tmp_path / "mine.toml"
    path.write_text(config.to_toml())
    assert refused("--interface", "axi", "--config", path, "-o", tmp_path / "new").startswith(
        "the configuration has no interface 'axi': Scores must be below 2**31 ")
    assert not (tmp_path / "new").exists()


def test_nothing_half_written(run, tmp_path, monkeypatch):
    """If something fails late, there is no file and no folder."""
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(bundle.exports, "systemrdl", fail)
    assert run("verilog", "--preset", "tiny", "--interface", "axi", "-o",
               tmp_path / "new").status == 130
    assert not list(tmp_path.iterdir())


def test_stream_is_the_default(run, tmp_path):
    run("verilog", "--preset", "tiny", "-o", tmp_path / "a")
    run("verilog", "--preset", "tiny", "--interface", "stream", "-o", tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert set(contents(tmp_path / "a")) == {"nearbit.v", "nearbit.toml"}
