import hashlib
import os
import re
import subprocess
import sys

import pytest

from nearbit.soc.identifiers import RESERVED
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
    (tmp_path / "nearbit.v").write_text("// nearbit_hw.core.Core, by an earlier release\n")
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
    for stream in ("i_key", "i_value", "i_exp_table", "i_command", "o_result", "o_trace"):
        for part in ("payload", "valid", "ready"):
            assert f"{stream}__{part}" in header[1]
    assert {path.name for path in tmp_path.iterdir()} == {"nearbit.v", "nearbit.toml", "kept"}


def test_config(run, tmp_path):
    config = Config.preset("tiny").replace(lanes=8, capacity=32)
    source = tmp_path / "mine.toml"
    source.write_text(config.to_toml())
    assert run("verilog", "--config", source, "-o", tmp_path / "new" / "folder").status == 0
    assert Config.load(tmp_path / "new" / "folder" / "nearbit.toml") == config


def test_name(run, tmp_path):
    """The module, those below it and both files have the name; the rest of the text is the same."""
    run("verilog", "--preset", "tiny", "-o", tmp_path / "a")
    assert run("verilog", "--preset", "tiny", "--name", "left", "-o", tmp_path / "b").status == 0
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"left.v", "left.toml"}
    text = (tmp_path / "a" / "nearbit.v").read_text()
    assert re.sub(r"\\nearbit\.|(?<=^module )nearbit(?=\()", lambda found: found[0].replace(
        "nearbit", "left"), text, flags=re.MULTILINE) == (tmp_path / "b" / "left.v").read_text()
    assert digest(tmp_path / "a" / "nearbit.toml") == digest(tmp_path / "b" / "left.toml")


def test_no_reserved_words(run, tmp_path):
    """Of the words of SystemVerilog, only those that make up the text stand there unescaped."""
    run("verilog", "--preset", "tiny", "--interface", "axi", "-o", tmp_path / "soc")
    for options in ([], ["--no-initial"]):
        run("verilog", "--preset", "tiny", "--vhdl", *options, "-o", tmp_path)
        for path in (tmp_path / "nearbit.v", tmp_path / "soc" / "nearbit_axi.v"):
            text = re.sub(r"//.*|\(\*.*?\*\)|\\\S+ |\d+'s?[hbd]\w+", " ", path.read_text())
            words = set(re.findall(r"(?<![\w$`])[A-Za-z_]\w*", text))
            assert words & (RESERVED["Verilog"] | RESERVED["SystemVerilog"]) <= {
                "always", "assign", "begin", "case", "casez", "default", "else", "end", "endcase",
                "endmodule", "for", "if", "initial", "input", "integer", "module", "output",
                "posedge", "reg", "signed", "wire"}


def test_no_initial(run, tmp_path):
    assert run("verilog", "--preset", "tiny", "--no-initial", "-o", tmp_path).status == 0
    text = (tmp_path / "nearbit.v").read_text()
    assert re.search(r"\binitial\b|^ *reg [^;]*=", text, re.MULTILINE) is None


def test_vhdl(run, tmp_path):
    """Ports have names that VHDL takes, and a package declares them."""
    assert run("verilog", "--preset", "tiny", "--vhdl", "-o", tmp_path).out.split() == [
        str(tmp_path / name) for name in ("nearbit.v", "nearbit_pkg.vhd", "nearbit.toml")]
    header = re.search(r"^module nearbit\((.*?)\);", (tmp_path / "nearbit.v").read_text(),
                       re.MULTILINE)
    assert header is not None
    ports = header[1].split(", ")
    assert "i_key_payload" in ports
    assert not any("__" in port for port in ports)
    assert re.findall(r"^      (\w+) :", (tmp_path / "nearbit_pkg.vhd").read_text(),
                      re.MULTILINE) == ports
