import hashlib
import os
import re
import subprocess
import sys

import pytest

from nearbit_model.config import Config


def generate(folder, hash_seed, *options):
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, "-m", "nearbit", "verilog", "-o", folder, *options], env=environment,
        capture_output=True, encoding="utf-8", check=True).stdout


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("options", [["--preset", "tiny"], []], ids=["tiny", "default"])
def test_reproducible(tmp_path, options):
    first, second = tmp_path / "first", tmp_path / "deeper" / "second"
    written = generate(first, "1", *options)
    generate(second, "2", *options)
    assert written.split() == [str(first / "nearbit.v"), str(first / "nearbit.toml")]
    assert {path.name for path in first.iterdir()} == {"nearbit.v", "nearbit.toml"}
    for name in ("nearbit.v", "nearbit.toml"):
        assert digest(first / name) == digest(second / name)


def test_text(run, tmp_path):
    (tmp_path / "nearbit.v").write_text("old")
    (tmp_path / "kept").write_text("kept")
    outcome = run("verilog", "--preset", "tiny", "-o", tmp_path)
    assert outcome.status == 0
    assert Config.load(tmp_path / "nearbit.toml") == Config.preset("tiny")
    text = (tmp_path / "nearbit.v").read_text()
    assert str(tmp_path) not in text
    assert "/work" not in text
    header = re.search(r"^module nearbit\((.*?)\);", text, re.MULTILINE | re.DOTALL)
    assert header is not None
    assert header[1].replace(" ", "").split(",")[:2] == ["clk", "rst"]
    for stream in ("i_key", "i_value", "i_table", "i_query", "o_result", "o_trace"):
        for part in ("payload", "valid", "ready"):
            assert f"{stream}__{part}" in header[1]
    assert {path.name for path in tmp_path.iterdir()} == {"nearbit.v", "nearbit.toml", "kept"}


def test_config(run, tmp_path):
    config = Config.preset("tiny").replace(lanes=8, capacity=32)
    source = tmp_path / "mine.toml"
    source.write_text(config.to_toml())
    assert run("verilog", "--config", source, "-o", tmp_path / "new" / "folder").status == 0
    assert Config.load(tmp_path / "new" / "folder" / "nearbit.toml") == config
