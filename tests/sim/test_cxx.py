"""The C++ compiler, as it is called."""

from nearbit_sim.cxx import compile_files, temporary_folder


def test_place_for_temporary_files(tmp_path, monkeypatch):
    """The compiler writes where there is room, not where TMPDIR says."""
    program = tmp_path / "compiler"
    program.write_text('#!/bin/sh\necho "$TMPDIR" > said\n')
    program.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "full"))
    with temporary_folder() as folder:
        compile_files([str(program)], [], folder)
        assert (folder / "said").read_text() == f"{folder}\n"
