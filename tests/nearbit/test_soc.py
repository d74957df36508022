"""`nearbit verilog --interface`: the same files on each run, all of them or none."""

import os
import re
import subprocess
import sys

import pytest

from nearbit.soc import bundle, identifiers
from nearbit_hw.soc.registers import register_map
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
    command = ("verilog", "--preset", "tiny", "--interface", "axi", "-o", tmp_path)
    assert run(*command).status == 0
    assert set(contents(tmp_path)) == {*bundle.names("axi"), "driver/mine.c"}
    # Its own files are written again.
    before = contents(tmp_path)
    (tmp_path / "driver" / "nearbit.c").write_text("old")
    assert run(*command).status == 0
    assert contents(tmp_path) == before


def test_regenerates(run, tmp_path):
    """The command in the README writes the same files again, also beside its configuration."""
    run("verilog", "--preset", "tiny", "--interface", "wishbone", "--name", "mine", "--no-initial",
        "--vhdl", "-o", tmp_path / "a")
    before = contents(tmp_path / "a")
    assert set(before) == set(bundle.names("wishbone", "mine", vhdl=True))
    command, = re.findall(r"`nearbit (verilog .*) -o DIR`", before["README.md"].decode())
    words = command.replace("mine.toml", str(tmp_path / "a" / "mine.toml")).split()
    assert run(*words, "-o", tmp_path / "b").status == 0
    assert contents(tmp_path / "b") == before
    assert run(*words, "-o", tmp_path / "a").status == 0
    assert contents(tmp_path / "a") == before


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
        "Invalid value for '--interface': 'apb' is not one of 'stream', 'axi', 'wishbone'.")
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


@pytest.mark.parametrize(("interface", "name", "inside"), [
    ("axi", "README.md", "# Mine\n"), ("axi", "nearbit.core", "CAPI=2:\n"),
    ("axi", "registers/registers.md", ""), ("stream", "nearbit.v", "module nearbit; endmodule\n"),
    ("stream", "nearbit.toml", "rows = 1\n"), ("stream", "nearbit.v", b"\xff")])
def test_others_files(refused, tmp_path, interface, name, inside):
    """A file of somebody else, of the same name, is not replaced."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(inside if isinstance(inside, bytes) else inside.encode())
    top = {"axi": "nearbit_axi", "stream": "nearbit"}[interface]
    assert refused("--preset", "tiny", "--interface", interface, "-o", tmp_path) == (
        f"{path} would be replaced, and is not of an earlier {top!r}: give another folder or "
        f"--name, or move it")


def test_two_in_a_folder(run, refused, tmp_path):
    """The core alone may be beside another; folders with documents are one core's."""
    tiny = ("--preset", "tiny", "-o", tmp_path)
    assert run("verilog", *tiny, "--name", "left").status == 0
    assert run("verilog", *tiny, "--name", "right").status == 0
    assert set(contents(tmp_path)) == {"left.v", "left.toml", "right.v", "right.toml"}
    assert refused(*tiny, "--name", "left", "--interface", "axi").startswith(
        f"{tmp_path / 'left.toml'} would be replaced, and is not of an earlier 'left_axi': ")
    assert run("verilog", *tiny, "--interface", "axi").status == 0
    assert refused(*tiny, "--interface", "axi", "--name", "third").startswith(
        f"{tmp_path / 'registers' / 'registers.md'} would be replaced, and is not of an earlier "
        f"'third_axi': ")
    assert refused(*tiny, "--interface", "wishbone").startswith(
        f"{tmp_path / 'nearbit_example.v'} would be replaced, and is not of an earlier "
        f"'nearbit_wishbone': ")
    assert refused(*tiny).startswith(
        f"{tmp_path / 'nearbit.toml'} would be replaced, and is not of an earlier 'nearbit': ")


def test_own_configuration(run, refused, tmp_path):
    """A configuration that is one of the files stays as its owner wrote it, or nothing is done."""
    path = tmp_path / "nearbit.toml"
    text = f"# Mine.\n{Config.preset('tiny').to_toml()}"
    path.write_text(text)
    assert refused("--config", path, "--cell", "ecp5", "-o", tmp_path) == (
        f"cannot write {path}: it is an input")
    assert run("verilog", "--config", path, "-o", tmp_path).status == 0
    assert path.read_text() == text
    assert set(contents(tmp_path)) == {"nearbit.v", "nearbit.toml"}


@pytest.mark.parametrize("name", ["", "Left", "1st", "_left", "left_", "le__ft", "a-b", "a b",
                                  "a.b", "../left", "lëft", "left\n", "a" * 25])
def test_wrong_name(refused, tmp_path, name):
    assert refused("--preset", "tiny", "--name", name, "-o", tmp_path / "new") == (
        " ".join(f"--name must be at most 24 lower-case letters, digits and single underscores, "
                 f"with a letter first and no underscore last, not {name!r}".split()))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("name", "language"), [
    ("module", "Verilog"), ("strong0", "Verilog"), ("logic", "SystemVerilog"),
    ("unique0", "SystemVerilog"), ("signal", "VHDL"), ("downto", "VHDL"), ("double", "C or C++"),
    ("template", "C or C++"), ("linux", "C or C++"), ("addrmap", "SystemRDL"), ("rw", "SystemRDL")])
def test_reserved_word(refused, tmp_path, name, language):
    assert refused("--preset", "tiny", "--name", name, "-o", tmp_path / "new") == (
        f"--name {name!r} is a reserved word of {language}; give another")


def test_longest_name():
    """With it, C99 still tells all macros apart: by 63 characters."""
    for preset in ("reference", "hash64gqa3"):
        text = bundle.exports.c_header(register_map(Config.preset(preset)),
                                       "a" * identifiers.LONGEST_NAME)
        macros = re.findall(r"^#define (\w+)", text, re.MULTILINE)
        assert 50 < max(map(len, macros)) <= 63


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
