"""What is wrong with the input is one sentence on standard error, status 2, and no file."""

import os
from pathlib import Path

import pytest

import nearbit


@pytest.fixture(autouse=True)
def _nothing_is_simulated(monkeypatch):
    def simulate(*_arguments, **_options):
        raise AssertionError("simulated in spite of the input")

    monkeypatch.setattr(nearbit, "simulate", simulate, raising=False)


@pytest.fixture
def refused(run, tmp_path):
    """Run the command, see that it is refused and leaves the folder as it was."""
    def run_refused(*arguments: object) -> str:
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        outcome = run(*arguments)
        assert outcome.status == 2
        assert outcome.out == ""
        assert outcome.err.count("\n") == 1
        assert "Traceback" not in outcome.err
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*")
                          if path.is_file()}
        prefix, _, message = outcome.err.rstrip("\n").partition(": ")
        assert prefix == "nearbit"
        return message

    return run_refused


def test_file(refused, tmp_path, write):
    path = write(q=None)
    assert refused("simulate", path, "--out", tmp_path / "out.npz") == (
        f"{path}: array q [heads, queries, head_dim] is missing; the file has k, v")
    assert refused("simulate", tmp_path) == f"{tmp_path}: a directory, not an .npz file"
    assert refused("simulate", tmp_path / "x.npz") == f"{tmp_path / 'x.npz'}: no such file"


@pytest.mark.parametrize(("options", "message"), [
    ("--top-n 0", "--top-n must be at least 1, not 0"),
    ("--sink -1", "--sink must be at least 0, not -1"),
    ("--recent -2", "--recent must be at least 0, not -2"),
    ("--engine fast", "--engine must be compiled or icarus, not 'fast'"),
    ("--heads 2", "--heads: there is no 2, they are 0 to 1"),
    ("--queries x", "--queries: 'x' is neither a number nor a range such as 0-3 or 0:64:8"),
    ("--preset big", ("unknown preset 'big'; the presets are tiny, head32, reference, icebreaker, "
                      "head64, gqa3, hash64, hash64gqa3, head128, hash128, long")),
    ("--preset tiny --config x.toml", ("--preset and --config exclude each other; give one of "
                                       "them")),
    ("--config none.toml", "none.toml: No such file or directory"),
    ("--config .", ".: Is a directory"),
])
def test_options(refused, write, options, message):
    assert refused("simulate", write(), *options.split()) == message


@pytest.mark.parametrize("options", [
    "--top-n many", "--top-n 1.5", "--sink", "--unknown", "extra",
])
def test_usage(refused, write, options):
    assert refused("simulate", write(), *options.split())


def test_no_command(refused):
    assert refused("simulat") == "No such command 'simulat'. Did you mean 'simulate'?"


@pytest.mark.parametrize(("sizes", "options", "message"), [
    ({"dim": 64, "tokens": 1025}, "--preset reference",
     ("tokens of k and v, shape (2, 1025, 64), must be at most the configuration's capacity "
      "(1024), not 1025; the preset head64 fits")),
    ({"dim": 32}, "--preset reference",
     ("head_dim of q, shape (2, 3, 32), must equal the configuration's key_bits (64), not 32; "
      "the preset head32 fits")),
    ({"dim": 64}, "--preset reference --top-n 300",
     ("n + sink + recent must be at most the configuration's top_n (32), not 300; the preset "
      "long fits")),
    ({"dim": 64}, "--preset reference --sink 20 --recent 12 --top-n 1",
     ("n + sink + recent must be at most the configuration's top_n (32), not 33; the preset "
      "head64 fits")),
    ({"dim": 64, "value_dim": 8}, "--preset reference",
     ("value_dim of v, shape (2, 20, 8), must equal the configuration's value_dim (64), not 8; "
      "no preset fits, so give a configuration")),
    ({"dim": 96}, "",
     ("no preset fits heads of 96 elements, value rows of 96, 20 tokens and n + sink + recent "
      "of 1; describe an accelerator that does in a TOML file and give it with --config")),
    ({"dim": 8, "tokens": 65}, "--top-n 16",
     ("no preset fits heads of 8 elements, value rows of 8, 65 tokens and n + sink + recent of "
      "16; describe an accelerator that does in a TOML file and give it with --config")),
])
def test_misfit(refused, write, sizes, options, message):
    path = write(sizes=sizes)
    assert refused("simulate", path, *options.split()) == f"{path}: {message}"


@pytest.mark.parametrize(("text", "message"), [
    ("keybits = 8", ("unknown key 'keybits'; a configuration has the keys key_bits, value_dim, "
                     "capacity, ")),
    ("key_bits = 8\nvalue_dim = 8\ncapacity = 0", "capacity must be from 1 to 1048576, not 0"),
    ("key_bits = 8\nvalue_dim = 8", "capacity is missing; "),
    ("key_bits = ", "not TOML: "),
    ("key_bits = 8.0\nvalue_dim = 8\ncapacity = 64", "key_bits must be an integer, not 8.0"),
])
@pytest.mark.parametrize("command", ["simulate", "verilog"])
def test_config(refused, write, tmp_path, command, text, message):
    config = tmp_path / "mine.toml"
    config.write_text(text)
    arguments = [write()] if command == "simulate" else ["-o", tmp_path / "new"]
    assert refused(command, *arguments, "--config", config).startswith(f"{config}: {message}")


@pytest.mark.parametrize("option", ["--out", "--vcd"])
def test_unwritable(refused, write, tmp_path, option):
    path = write()
    old = tmp_path / "old"
    old.write_text("kept")

    def message(target: Path) -> str:
        return refused("simulate", path, option, target).removeprefix(f"cannot write {target}: ")

    assert message(tmp_path / "none" / "out") == "No such file or directory"
    assert message(old / "out") == "Not a directory"
    assert message(tmp_path) == "it is a directory"
    assert message(path) == "it is an input"
    assert message(Path(os.devnull)) == "it is not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("option", ["--out", "--vcd"])
def test_forbidden(refused, write, tmp_path, option):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    target = folder / "out"
    assert refused("simulate", write(), option, target) == (
        f"cannot write {target}: Permission denied")


def test_failure_in_the_middle_leaves_nothing(monkeypatch, run, write, tmp_path):
    def simulate(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(nearbit, "simulate", simulate)
    path = write()
    outcome = run("simulate", path, "--out", tmp_path / "out.npz", "--vcd", tmp_path / "out.vcd")
    assert (outcome.status, outcome.out, outcome.err) == (130, "", "nearbit: interrupted\n")
    assert list(tmp_path.iterdir()) == [path]


def test_verilog(refused, tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    assert refused("verilog", "--preset", "tiny", "-o", file) == (
        f"{file} is a file, not a folder; give another name")
    assert refused("verilog", "--preset", "tiny", "-o", file / "new") == (
        f"cannot make the folder {file / 'new'}: Not a directory")
    assert refused("verilog", "--preset", "none", "-o", tmp_path).startswith("unknown preset")


def test_message_of_one_line(refused, tmp_path):
    assert refused("simulate", "a\nb.npz") == "a b.npz: no such file"


