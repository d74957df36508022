"""What cannot be written, and what nobody expected: a sentence, a status, nothing half-written."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import types
from contextlib import contextmanager
from pathlib import Path

import pytest

import nearbit
from nearbit import __main__ as program
from nearbit.files import OutputError, OutputFile
from nearbit_sim import simulation


@contextmanager
def files_of_at_most(octets):
    """As on a disk that is full; Python ignores the signal, so that writing fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("command", "option", "name"), [
    ("simulate", "--out", "o.npz"), ("simulate", "--vcd", "o.vcd"), ("cycles", "--plot", "o.svg"),
    ("cycles", "--plot", "o.svgz"), ("cycles", "--plot", "o.pdf"), ("cycles", "--plot", "o.png"),
    ("cycles", "--plot", "o.ps"),
])
def test_full(run, write, tmp_path, command, option, name):
    arguments = ([write(sizes={"tokens": 40, "queries": 9}), "--json"] if command == "simulate"
                 else ["--preset", "tiny", "--keys", 40])
    # What is built is in the cache by then.
    assert run(command, *arguments, option, tmp_path / name).status == 0
    (tmp_path / name).write_text("old")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with files_of_at_most(500):
        outcome = run(command, *arguments, option, tmp_path / name)
    assert outcome.err == f"nearbit: cannot write {tmp_path / name}: File too large\n"
    assert (outcome.status, outcome.out) == (2, "")
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize(("arguments", "name"), [
    (["simulate", "heads.npz", "--report", "made", "--json"], "report.html"),
    (["verilog", "--preset", "tiny", "-o", "made"], "nearbit.v"),
])
def test_full_folder(run, write, tmp_path, monkeypatch, arguments, name):
    monkeypatch.chdir(tmp_path)
    path = write()
    with files_of_at_most(500):
        outcome = run(*arguments)
    assert outcome.err == f"nearbit: cannot write made/{name}: File too large\n"
    assert (outcome.status, outcome.out) == (2, "")
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_are_no_text(run, write, tmp_path):
    """Bytes in the names of a folder's files that no encoding explains."""
    path = write("\udcff.npz", sizes={"heads": 1, "queries": 1, "tokens": 4})
    outcome = run("simulate", path, "--vcd", tmp_path / "\udcff.vcd", "--out",
                  tmp_path / "\udcff.out", "--report", tmp_path / "\udcff", "--json")
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["file"] == str(path)
    assert "\\udcff.npz" in (tmp_path / "\udcff" / "report.html").read_text(encoding="utf-8")


def test_long_and_odd_names(tmp_path):
    """As long as the file system allows, and with any characters."""
    for name in ("x" * 255, "a\nb", 'a"%s', " "):
        with OutputFile(tmp_path / name).write() as path:
            path.write_text("new")
        assert (tmp_path / name).read_text() == "new"


def test_two_names_of_one_file(tmp_path):
    """As on file systems that do not tell upper case from lower case."""
    path = tmp_path / "heads.npz"
    path.write_text("kept")
    (tmp_path / "HEADS.npz").hardlink_to(path)
    with pytest.raises(OutputError, match="it is an input"):
        OutputFile(tmp_path / "HEADS.npz", keep=[path])


def test_what_a_killed_process_has_left(tmp_path, monkeypatch):
    """A process of the same number had no time to remove its file."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    (tmp_path / ".out.7.tmp").write_text("left")
    with OutputFile(tmp_path / "out").write() as path:
        path.write_text("new")
    assert (tmp_path / "out").read_text() == "new"


def test_errors_of_other_files_pass(tmp_path):
    output = OutputFile(tmp_path / "out")
    with pytest.raises(FileNotFoundError) as caught, output.write():
        (tmp_path / "other").read_text()
    assert caught.value.filename == str(tmp_path / "other")
    assert list(tmp_path.iterdir()) == []


def test_integers_are_mentioned(run, write):
    """And arrays that are not used; on standard error, so that JSON stays JSON."""
    path = write(v=[[[1] * 8] * 20] * 2, mask=1)
    outcome = run("simulate", path, "--json")
    assert outcome.status == 0
    assert json.loads(outcome.out)["bit_exact"] is True
    assert outcome.err == (
        f"nearbit: {path}: the integers of v are taken as numbers, without a scale\n"
        f"nearbit: {path}: not used: mask\n")


def raising(error):
    def simulate(*_arguments, **_options):
        raise error

    return simulate


@pytest.mark.parametrize(("error", "said"), [
    (ValueError("odd\nand long"), "ValueError odd and long"),
    (RecursionError("too deep"), "RecursionError too deep"),
    (SystemExit("a library's"), "SystemExit a library's"),
    (SystemExit(0), "SystemExit 0"),
    (KeyError(), "KeyError"),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), "BrokenPipeError [Errno 32] Broken pipe"),
    (AssertionError("\udcff"), "AssertionError \\udcff"),
])
def test_unexpected(monkeypatch, run, write, tmp_path, error, said):
    monkeypatch.setattr(simulation, "run", raising(error))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "reports"))
    (tmp_path / "reports").mkdir()
    outcome = run("simulate", write(), "--json", "--out", tmp_path / "out", "--vcd",
                  tmp_path / "vcd")
    kept, = (tmp_path / "reports").iterdir()
    assert outcome.err == (f"nearbit: a fault in Nearbit itself: {said}; please report it with the "
                           f"file {kept}\n")
    assert (outcome.status, outcome.out) == (70, "")
    text = kept.read_text(encoding="utf-8")
    assert text.startswith(f"nearbit {nearbit.__version__}, Python 3.")
    assert "Traceback (most recent call last):" in text
    assert "'simulate'" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heads.npz", "reports"]


def test_unexpected_without_room(monkeypatch, run, write, tmp_path):
    monkeypatch.setattr(simulation, "run", raising(ValueError("odd")))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    outcome = run("simulate", write())
    assert outcome.err == ("nearbit: a fault in Nearbit itself: ValueError odd; please report it "
                           "(its traceback could not be kept: No such file or directory)\n")
    assert outcome.status == 70


@pytest.mark.parametrize(("error", "said"), [
    (MemoryError(),
     "the memory of this machine is not enough for this; try it with less at a time"),
    (OSError(errno.ENOSPC, "No space left on device", "/tmp/x"), "/tmp/x: No space left on device"),
    (OSError(errno.ENOSPC, "No space left on device", b"/tmp/x"),
     "/tmp/x: No space left on device"),
    (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
    (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
     ("there is no folder for temporary files (No usable temporary directory found in ['/tmp']); "
      "TMPDIR can name one")),
])
def test_a_machine_without_room(monkeypatch, run, write, error, said):
    monkeypatch.setattr(simulation, "run", raising(error))
    outcome = run("simulate", write(), "--json")
    assert (outcome.status, outcome.out, outcome.err) == (2, "", f"nearbit: {said}\n")
    # What the models say is shown before, and no more.
    outcome = run("simulate", write())
    assert (outcome.status, outcome.err) == (2, f"nearbit: {said}\n")
    assert "recall" in outcome.out
    assert "imulated" not in outcome.out


def shell(line):
    command = f"set -o pipefail; nearbit() {{ '{sys.executable}' -m nearbit \"$@\"; }}; {line}"
    return subprocess.run(["bash", "-c", command], capture_output=True, encoding="utf-8",
                          check=False)


@pytest.mark.parametrize(("line", "status", "said"), [
    ("nearbit presets --json > /dev/full", 2,
     "nearbit: cannot write to standard output: No space left on device\n"),
    ("nearbit presets >&-", 2,
     "nearbit: standard output is closed; send it to a file, or to /dev/null\n"),
    ("PYTHONUNBUFFERED=1 nearbit presets --json | true", 0, ""),
    ("PYTHONIOENCODING=ascii nearbit simulate \u00e4.npz", 2, "nearbit: \\xe4.npz: no such file\n"),
    ("nearbit nothing 2> /dev/full", 2, ""),
    ("nearbit nothing 2>&-", 2, ""),
])
def test_standard_streams(line, status, said):
    result = shell(line)
    assert result.stdout == ""
    assert result.stderr == said
    assert result.returncode == status


def test_interrupted_while_it_is_imported(monkeypatch, capsys):
    module = types.ModuleType("nearbit.cli")
    monkeypatch.setattr(module, "main", raising(KeyboardInterrupt()), raising=False)
    monkeypatch.setitem(sys.modules, "nearbit.cli", module)
    monkeypatch.setattr(program, "_set_up", lambda: None)
    assert program.main() == 130
    assert capsys.readouterr() == ("", "nearbit: interrupted\n")


def test_broken_installation(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "nearbit.cli", None)
    monkeypatch.setattr(program, "_set_up", lambda: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert program.main() == 70
    kept, = tmp_path.iterdir()
    _, said = capsys.readouterr()
    assert said.startswith("nearbit: a fault in Nearbit itself: ModuleNotFoundError ")
    assert said.endswith(f"; please report it with the file {kept}\n")


@pytest.mark.parametrize("lines", [
    "signal.raise_signal(signal.SIGTERM)",
    "signal.raise_signal(signal.SIGHUP)",
    # Where Python drops exceptions.
    ("class Last:\n    def __del__(self): signal.raise_signal(signal.SIGINT)\n"
     "Last()\nimport time\ntime.sleep(30)"),
])
def test_signals(lines):
    code = f"import signal\nfrom nearbit.__main__ import _set_up\n_set_up()\n{lines}\n"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8",
                            check=False)
    assert result.returncode == -signal.SIGINT
    assert result.stderr.rstrip().endswith("KeyboardInterrupt")
    assert "ignored" not in result.stderr


def test_warnings_are_one_line():
    code = ("import warnings\nfrom nearbit.__main__ import _set_up\n_set_up()\n"
            "warnings.warn('first\\nsecond')\n")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8",
                            check=True)
    assert result.stderr == "nearbit: warning: first second (UserWarning, <string>:4)\n"


def test_both_ways_to_the_command():
    """What pip installs and `python -m nearbit` are the same."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert 'nearbit = "nearbit.__main__:main"' in text
