"""What is wrong with the input is one sentence on standard error, status 2, and no file."""

import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from nearbit_model.config import Config, Rescore
from nearbit_sim import simulation


@pytest.fixture(autouse=True)
def _nothing_is_simulated(monkeypatch):
    def simulate(*_arguments, **_options):
        raise AssertionError("simulated in spite of the input")

    monkeypatch.setattr(simulation, "run", simulate)


def contents(folder):
    """What is in a folder, empty folders too."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def refused(run, tmp_path):
    """Run the command, see that it is refused and leaves the folder as it was."""
    def run_refused(*arguments: object) -> str:
        before = contents(tmp_path)
        outcome = run(*arguments)
        assert outcome.status == 2
        assert outcome.out == ""
        assert outcome.err.count("\n") == 1
        assert "Traceback" not in outcome.err
        assert before == contents(tmp_path)
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
    ("--n 0", "--n must be at least 1, not 0"),
    ("--sink -1", "--sink must be at least 0, not -1"),
    ("--recent -2", "--recent must be at least 0, not -2"),
    ("--engine fast", ("Invalid value for '--engine': 'fast' is not one of 'compiled', 'icarus', "
                       "'golden'.")),
    ("--heads 2", "--heads: there is no 2, they are 0 to 1"),
    ("--queries x", "--queries: 'x' is neither a number nor a range such as 0-3 or 0:64:8"),
    ("--preset big", ("unknown preset 'big'; the presets are tiny, head32, reference, icebreaker, "
                      "head64, gqa3, hash64, hash64gqa3, head128, hash128, long, memory64, "
                      "memory256, memory512, and 'nearbit boards' lists the boards")),
    ("--preset tiny --config x.toml", ("--preset and --config exclude each other; give one of "
                                       "them")),
    ("--config none.toml", "none.toml: No such file or directory"),
    ("--config .", ".: Is a directory"),
])
def test_options(refused, write, options, message):
    assert refused("simulate", write(), *options.split()) == message


@pytest.mark.parametrize("options", [
    "--n many", "--n 1.5", "--sink", "--unknown", "extra",
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
    ({"dim": 64}, "--preset reference --n 300",
     ("n + sink + recent must be at most the configuration's top_n (32), not 300; the preset "
      "long fits")),
    ({"dim": 64}, "--preset reference --sink 20 --recent 12 --n 1",
     ("n + sink + recent must be at most the configuration's top_n (32), not 33; the preset "
      "head64 fits")),
    ({"dim": 64, "value_dim": 8}, "--preset reference",
     ("value_dim of v, shape (2, 20, 8), must equal the configuration's value_dim (64), not 8; "
      "no preset fits, so give a configuration")),
    ({"dim": 96}, "",
     ("no preset fits heads of 96 elements, value vectors of 96, 20 tokens and n + sink + recent "
      "of 1; {offer} -o mine.toml', and give it with --config mine.toml")),
    ({"dim": 8, "tokens": 65}, "--n 16",
     ("no preset fits heads of 8 elements, value vectors of 8, 65 tokens and n + sink + recent of "
      "16; {offer} --n 16 --sink 0 --recent 0 -o mine.toml', and give it with --config "
      "mine.toml")),
])
def test_misfit(refused, write, sizes, options, message):
    path = write(sizes=sizes)
    offer = f"write a configuration that does with 'nearbit config --fit {path}"
    assert refused("simulate", path, *options.split()) == f"{path}: {message}".replace(
        "{offer}", offer)


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

    monkeypatch.setattr(simulation, "run", simulate)
    path = write()
    outcome = run("simulate", path, "--out", tmp_path / "out.npz", "--vcd", tmp_path / "out.vcd",
                  "--json")
    assert (outcome.status, outcome.out, outcome.err) == (130, "", "nearbit: interrupted\n")
    assert list(tmp_path.iterdir()) == [path]


HASH = Config.preset("tiny").replace(
    top_n=64, rescore=Rescore(head_dim=8, lanes=4, element_bits=12, shared=True))


@pytest.mark.parametrize(("options", "message"), [
    ("--codes sign", "--codes needs --method hash"),
    ("--heavy 0.1", "--heavy needs --method hash"),
    ("--shared", "--shared needs --method hash"),
    ("--method had --shared", "--shared needs --method hash"),
    ("--method dense", "Invalid value for '--method': 'dense' is not one of 'had', 'hash'."),
    ("--method hash --dense --n 4",
     "--dense and --n exclude each other; give one of them"),
    ("--method hash --dense --heavy 0.1",
     "--dense and --heavy exclude each other; give one of them"),
    ("--method hash --dense --sink 4", "--dense and --sink exclude each other; give one of them"),
    ("--dense --recent 4", "--dense and --recent exclude each other; give one of them"),
    ("--method hash --heavy 0.5 --n 4",
     "--n and --heavy exclude each other; give one of them"),
    ("--method hash --heavy 0", "--heavy must be greater than 0 and at most 1, not 0"),
    ("--method hash --heavy 2", "--heavy must be greater than 0 and at most 1, not 2"),
    ("--method hash --heavy nan", "--heavy must be greater than 0 and at most 1, not nan"),
    ("--method hash --codes fourier",
     "--codes must be sign, hadamard, random or a .safetensors file, not 'fourier'"),
    ("--method hash --codes=", (
        "--codes must be sign, hadamard, random or a .safetensors file, not ''")),
    ("--method hash --codes none.safetensors", "none.safetensors: no such file"),
    ("--method hash --codes .", ".: a directory, not a file"),
])
def test_hash_options(refused, write, options, message):
    assert refused("simulate", write(), *options.split()) == message


@pytest.mark.parametrize(("config", "options", "message"), [
    (Config.preset("tiny"), "",
     ("method hash needs a configuration with rescoring; set rescore, with head_dim 8; no "
      "preset fits, so give a configuration")),
    (HASH.replace(rescore=Rescore(head_dim=16, lanes=8)), "",
     ("head_dim of q, shape (4, 3, 8), must equal the configuration's rescore.head_dim (16), not "
      "8; no preset fits, so give a configuration")),
    (HASH.replace(key_bits=16), "",
     ("codes of 8 bits do not fit the configuration's key_bits (16); no preset fits, so give a "
      "configuration, or take a mapping to 16 bits")),
    (HASH.replace(value_dim=4), "",
     ("value_dim of v, shape (2, 20, 8), must equal the configuration's value_dim (4), not 8; no "
      "preset fits, so give a configuration")),
    (HASH.replace(top_n=16), "--n 12",
     ("n + sink + recent must be at most the configuration's top_n (16), not 17; no preset fits, "
      "so give a configuration")),
    (HASH.replace(top_n=16), "--n 20",
     ("n + sink + recent must be at most the configuration's top_n (16), not 25; no preset fits, "
      "so give a configuration")),
    (HASH.replace(rescore=Rescore(head_dim=8, lanes=8)), "--shared",
     ("a shared selection needs rescore.shared in the configuration; no preset fits, so give a "
      "configuration")),
    (HASH, "--shared --heads 0",
     ("a shared selection needs the configuration's queries (2) to equal the heads of a group (1); "
      "no preset fits, so give a configuration")),
    (HASH.replace(queries=3), "--shared",
     ("a shared selection needs the configuration's queries (3) to equal the heads of a group (2); "
      "no preset fits, so give a configuration")),
])
def test_hash_misfit(refused, write, tmp_path, config, options, message):
    path = write(sizes={"heads": 4, "kv_heads": 2})
    file = tmp_path / "hash.toml"
    file.write_text(config.to_toml())
    assert refused("simulate", path, "--method", "hash", "--config", file, "--sink", 2,
                   "--recent", 3, *options.split()) == f"{path}: {message}"


def test_hash_dense_misfit(refused, write, tmp_path):
    path = write()
    file = tmp_path / "hash.toml"
    file.write_text(HASH.replace(top_n=16).to_toml())
    assert refused("simulate", path, "--method", "hash", "--config", file, "--dense") == (
        f"{path}: n + sink + recent must be at most the configuration's top_n (16), not 20; no "
        f"preset fits, so give a configuration")


@pytest.mark.parametrize(("sizes", "options", "message"), [
    ({"dim": 8}, "",
     ("no preset with rescoring fits heads of 8 elements, codes of 8 bits, value vectors of 8, 20 "
      "tokens and n + sink + recent of 257; {offer} --n 1 --sink 128 --recent 128 --method hash -o "
      "mine.toml', and give it with --config mine.toml")),
    ({"dim": 64, "heads": 2, "kv_heads": 1}, "--shared",
     ("no preset with rescoring for a shared selection fits heads of 64 elements, codes of 64 "
      "bits, value vectors of 64, 20 tokens and n + sink + recent of 257; {offer} --n 1 --sink 128 "
      "--recent 128 --method hash --shared -o mine.toml', and give it with --config mine.toml")),
    ({"dim": 64, "tokens": 4097}, "",
     ("no preset with rescoring fits heads of 64 elements, codes of 64 bits, value vectors of 64, "
      "4097 tokens and n + sink + recent of 384; {offer} --n 128 --sink 128 --recent 128 --method "
      "hash -o mine.toml', and give it with --config mine.toml")),
    ({"dim": 64}, "--preset reference",
     ("method hash needs a configuration with rescoring; set rescore, with head_dim 64; the "
      "preset hash64 fits")),
    ({"dim": 64, "heads": 3, "kv_heads": 1}, "--preset hash64 --shared",
     ("a shared selection needs rescore.shared in the configuration; the preset hash64gqa3 "
      "fits")),
])
def test_hash_presets(refused, write, sizes, options, message):
    path = write(sizes=sizes)
    offer = f"write a configuration that does with 'nearbit config --fit {path}"
    assert refused("simulate", path, "--method", "hash", *options.split()) == (
        f"{path}: {message}".replace("{offer}", offer))


def test_mapping(refused, write, hash_options, learned, tmp_path):
    """A mapping that cannot be read, or that is not of these tensors."""
    path = write(sizes={"heads": 4, "kv_heads": 2})
    few = ["--sink", 1, "--recent", 1, "--n", 4]

    def message(codes: Path, *options: object) -> str:
        return refused("simulate", path, *hash_options, *few, "--codes", codes, *options,
                       "--out", tmp_path / "out.npz", "--report", tmp_path / "report")

    good = learned().read_bytes()
    codes = tmp_path / "wrong.safetensors"
    codes.write_bytes(good[:len(good) // 2])
    assert message(codes) == f"{codes}: a safetensors file that is damaged or cut short"
    codes.write_text("weights")
    assert message(codes) == f"{codes}: not a safetensors file"
    save_file({"weight": np.ones((2, 8, 8), np.float32)}, codes)
    assert message(codes) == (f"{codes}: a safetensors file, but not of a code mapping: its "
                              f"metadata has no nearbit_mapping")
    with safe_open(learned(), "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()} # noqa: SIM118
        metadata = file.metadata()
    save_file({**tensors, "k.0.bias": tensors["k.0.bias"].astype(np.float64)}, codes, metadata)
    assert message(codes) == f"{codes}: tensor k.0.bias must be float32, not float64"
    for of_q, of_k, sizes in (
            ("[4, queries, 16]", "[2, tokens, 16]", {"dim": 16}),
            ("[2, queries, 8]", "[1, tokens, 8]", {"heads": 2, "kv_heads": 1}),
            ("[8, queries, 8]", "[4, tokens, 8]", {"heads": 8, "kv_heads": 4}),
            ("[4, queries, 8]", "[4, tokens, 8]", {"kv_heads": 4})):
        codes = learned(**sizes)
        assert message(codes) == (
            f"{codes}: the mapping is for q {of_q} and k {of_k}, but the tensors are q [4, 3, 8] "
            f"and k [2, 20, 8]; take the one made for this model and layer")
    assert message(learned(bits=16)) == (
        f"{path}: codes of 16 bits do not fit the configuration's key_bits (8); no preset fits, "
        f"so give a configuration, or take a mapping to 8 bits")
    assert message(learned(key_heads=4), "--shared") == (
        f"{path}: heads cannot share a selection with a mapping that gives a key another code "
        f"for each of them")
    assert not (tmp_path / "out.npz").exists()
    assert not (tmp_path / "report").exists()


def test_verilog(refused, tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    assert refused("verilog", "--preset", "tiny", "-o", file) == (
        f"{file} is a file, not a folder; give another name")
    assert refused("verilog", "--preset", "tiny", "-o", file / "new") == (
        f"cannot make the folder {file / 'new'}: Not a directory")
    assert refused("verilog", "--preset", "none", "-o", tmp_path).startswith("unknown preset")
    assert refused("verilog", "--preset", "tiny", "--cell", "nexus", "-o", tmp_path) == (
        "Invalid value for '--cell': 'nexus' is not one of 'generic', 'ecp5', 'ice40', 'xc7'.")


def test_message_of_one_line(refused, tmp_path):
    assert refused("simulate", "a\nb.npz") == "a b.npz: no such file"




LONG = "x" * 300
PRESETS = ("the presets are tiny, head32, reference, icebreaker, head64, gqa3, hash64, hash64gqa3, "
           "head128, hash128, long, memory64, memory256, memory512, and 'nearbit boards' lists the "
           "boards")
START = "key_bits = 8\nvalue_dim = 8\ncapacity = "
TEXTS = {
    "deep.toml": "a = " + "[" * 20_000,
    "digits.toml": f"key_bits = {'9' * 5000}",
    "inf.toml": "key_bits = inf\nvalue_dim = 8\ncapacity = 64",
    "date.toml": "key_bits = 1979-05-27\nvalue_dim = 8\ncapacity = 64",
    "minus.toml": "key_bits = -8\nvalue_dim = 8\ncapacity = 64",
    "true.toml": "key_bits = true\nvalue_dim = 8\ncapacity = 64",
    "list.toml": "key_bits = [8]\nvalue_dim = 8\ncapacity = 64",
    "large.toml": f"{START}99999999999999999999",
    "rescore.toml": f"{START}64\nrescore = 3",
    "lanes.toml": f"{START}64\n[rescore]\nhead_dim = 8",
    "cell.toml": f"{START}64\ncell = 3",
    "selection.toml": f"{START}64\nselection = ['serial']",
    "nul.toml": "\0",
    "twice.toml": "key_bits = 8\nkey_bits = 8",
    "mark.toml": "\ufeffkey_bits = 8\nvalue_dim = 8",
    "endless.toml": "#" * (1 << 20) + "#",
}
NOT_WHOLE = "Input should be a valid integer, unable to parse string as an integer"
NOT_NUMBER = "Input should be a valid number, unable to parse string as a number"
NAMED = "is empty; give it a name"
CLOCK = "--clock is in MHz, from 0.001 to 100,000, not"
MHZ = "--clock is in MHz, above 0 and at most 400, not"
BOTH = "give either --board or --platform; 'nearbit boards' lists the boards"
ONE = "one of --port, --virtual and --simulated must be given"
ENDINGS = "a plot's name must end in .avif, "


@pytest.fixture
def _place(write, tmp_path, monkeypatch):
    """A folder with files of many kinds, none of them of use."""
    monkeypatch.chdir(tmp_path)
    write("h.npz")
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "wide.toml").write_text("key_bits = 8", encoding="utf-16")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "h.npz").symlink_to(tmp_path / "h.npz")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")


@pytest.mark.usefixtures("_place")
@pytest.mark.parametrize(("line", "message"), [
    # No command, or arguments that no command has.
    ("''", "No such command ''."),
    ("nothing", "No such command 'nothing'."),
    ("--nothing", "No such option: --nothing"),
    ("simulate", "Missing argument 'FILE.npz'."),
    ("simulate --json", "Missing argument 'FILE.npz'."),
    ("simulate h.npz h.npz", "Got unexpected extra argument(s) (h.npz)"),
    ("simulate h.npz --out", "Option '--out' requires an argument."),
    ("simulate h.npz --n 0x10", f"Invalid value for '--n': {NOT_WHOLE}"),
    ("simulate h.npz --n ''", f"Invalid value for '--n': {NOT_WHOLE}"),
    ("simulate h.npz --method hash --heavy x", f"Invalid value for '--heavy': {NOT_NUMBER}"),
    # A configuration that is none.
    ("simulate h.npz --config deep.toml", "deep.toml: not TOML: nested too deeply"),
    ("simulate h.npz --config digits.toml", "digits.toml: not TOML: Exceeds the limit (4300"),
    ("simulate h.npz --config inf.toml", "inf.toml: key_bits must be an integer, not inf"),
    ("simulate h.npz --config date.toml", "date.toml: key_bits must be an integer, not datetime"),
    ("simulate h.npz --config minus.toml", "minus.toml: key_bits must be from 1 to 1024, not -8"),
    ("simulate h.npz --config true.toml", "true.toml: key_bits must be an integer, not True"),
    ("simulate h.npz --config list.toml", "list.toml: key_bits must be an integer, not [8]"),
    ("simulate h.npz --config large.toml", "large.toml: capacity must be from 1 to 1048576, not"),
    ("simulate h.npz --config rescore.toml", "rescore.toml: rescore must be a Rescore or None"),
    ("simulate h.npz --config lanes.toml", "lanes.toml: rescore.lanes is missing; "),
    ("simulate h.npz --config cell.toml", "cell.toml: cell must be one of generic, "),
    ("simulate h.npz --config selection.toml", "selection.toml: selection must be one of "),
    ("simulate h.npz --config nul.toml", "nul.toml: not TOML: Invalid statement (at line 1, "),
    ("simulate h.npz --config twice.toml", "twice.toml: not TOML: Cannot overwrite a value "),
    ("simulate h.npz --config mark.toml", "mark.toml: capacity is missing; "),
    ("simulate h.npz --config wide.toml", "wide.toml: not a text file"),
    ("simulate h.npz --config h.npz", "h.npz: not a text file"),
    ("simulate h.npz --config endless.toml", "endless.toml: too large for a configuration file"),
    ("simulate h.npz --config /dev/zero", "/dev/zero: too large for a configuration file"),
    ("simulate h.npz --config loop", "loop: Too many levels of symbolic links"),
    (f"simulate h.npz --config {LONG}", f"{LONG}: File name too long"),
    ("simulate h.npz --config ''", f"--config {NAMED}"),
    ("verilog -o new --config digits.toml", "digits.toml: not TOML: Exceeds the limit (4300"),
    ("cycles --keys 8 --config deep.toml", "deep.toml: not TOML: nested too deeply"),
    ("area --config nul.toml", "nul.toml: not TOML: Invalid statement"),
    ("build --board icebreaker --config wide.toml", "wide.toml: not a text file"),
    ("run h.npz --simulated --board icebreaker --config deep.toml",
     "deep.toml: not TOML: nested too deeply"),
    # A tensor file that is none.
    ("simulate ''", ".: a directory, not an .npz file"),
    ("simulate loop", "loop: no such file"),
    ("simulate pipe", "pipe: not a regular file"),
    ("simulate /dev/zero", "/dev/zero: not a regular file"),
    ("simulate h.npz/x", "h.npz/x: no such file"),
    ("simulate mark.toml", "mark.toml: not an .npz file, or one that is cut short"),
    (f"simulate {LONG}", f"{LONG}: File name too long"),
    ("simulate %FF.npz", "\\udcff.npz: no such file"),
    ("simulate 'a\x1b[31m\nb'", "a\\x1b[31m b: no such file"),
    ("run none.npz --simulated --board icebreaker", "none.npz: no such file"),
    # An output where none can be.
    ("simulate h.npz --out loop", "cannot write loop: Too many levels of symbolic links"),
    ("simulate h.npz --out pipe", "cannot write pipe: it is not a regular file"),
    ("simulate h.npz --out /dev/full", "cannot write /dev/full: it is not a regular file"),
    ("simulate h.npz --out dir", "cannot write dir: it is a directory"),
    ("simulate h.npz --out ''", f"--out {NAMED}"),
    ("simulate h.npz --out=", f"--out {NAMED}"),
    (f"simulate h.npz --out {LONG}", f"cannot write {LONG}: File name too long"),
    ("simulate h.npz --out dir/../h.npz", "cannot write dir/../h.npz: it is an input"),
    ("simulate h.npz --out dir/h.npz", "cannot write dir/h.npz: it is an input"),
    ("simulate h.npz --out new --vcd ./new", "cannot write new: it is another output, too"),
    ("simulate h.npz --report new --out new/report.html",
     "cannot write new/report.html: it is another output, too"),
    ("simulate h.npz --report h.npz", "h.npz is a file, not a folder; give another name"),
    ("simulate h.npz --report h.npz/a", "cannot make the folder h.npz/a: Not a directory"),
    ("simulate h.npz --report loop", "loop is a file, not a folder; give another name"),
    (f"simulate h.npz --report a/{LONG}", f"cannot make the folder a/{LONG}: File name too long"),
    ("verilog", "Missing option '-o' / '--output'."),
    ("verilog new", "Missing option '-o' / '--output'."),
    ("verilog -o ''", f"-o {NAMED}"),
    ("verilog --output=", f"--output {NAMED}"),
    ("verilog -o loop", "loop is a file, not a folder; give another name"),
    ("verilog -o pipe", "pipe is a file, not a folder; give another name"),
    (f"verilog -o {LONG}", f"cannot make the folder {LONG}: File name too long"),
    ("cycles --keys 8 --plot new", f"new: {ENDINGS}"),
    ("cycles --keys 8 --plot new.exe", f"new.exe: {ENDINGS}"),
    ("cycles --keys 8 --plot .svg", f".svg: {ENDINGS}"),
    ("cycles --keys 8 --plot none/a.svg", "cannot write none/a.svg: No such file or directory"),
    (f"cycles --keys 8 --plot {LONG}.svg", f"cannot write {LONG}.svg: File name too long"),
    ("build --board icebreaker -o h.npz", "h.npz is a file, not a folder; give another name"),
    ("build --board icebreaker -o ''", f"-o {NAMED}"),
    # Numbers that cannot be.
    ("simulate h.npz --n 99999999999999999999", "h.npz: no preset fits heads of 8 elements, "),
    ("simulate h.npz --sink 99999999999999999999", "h.npz: no preset fits heads of 8 elements, "),
    ("simulate h.npz --heads ''", "--heads: '' is neither a number nor a range "),
    ("simulate h.npz --heads 0,", "--heads: '' is neither a number nor a range "),
    ("simulate h.npz --heads 1-0", "--heads: '1-0' is empty"),
    ("simulate h.npz --heads 0-99999999999999999", "--heads: there is no 99999999999999999, "),
    ("simulate h.npz --heads ::0", "--heads: the step of '::0' is 0"),
    ("simulate h.npz --queries 0:0", "--queries: '0:0' is empty"),
    ("simulate h.npz --queries \u0661", "--queries: '\u0661' is neither a number nor a range "),
    ("simulate h.npz --method hash --heavy inf", "--heavy must be greater than 0 and at most 1, "),
    ("cycles", "Missing option '--keys'."),
    ("cycles --keys 0", "--keys must be at least 1, not 0"),
    ("cycles --keys 1.5", f"Invalid value for '--keys': {NOT_WHOLE}"),
    ("cycles --keys 999999999999999999999", "preset reference holds 1024 keys (capacity), not "),
    ("cycles --keys 8 --n 0", "--n must be at least 1, not 0"),
    ("cycles --keys 8 --n 999", "preset reference selects at most 32 keys (top_n), not "),
    ("cycles --keys 8 --queries 99999999999999", "--queries must be at most 1,000,000, not "),
    ("cycles --keys 8 --sink -1", "--sink must be at least 0, not -1"),
    ("cycles --keys 8 --recent -1", "--recent must be at least 0, not -1"),
    ("cycles --keys 8 --clock nan", f"{CLOCK} nan"),
    ("cycles --keys 8 --clock 1e-320", f"{CLOCK} 9.99989e-321"),
    ("build --board icebreaker --clock 0", f"{MHZ} 0"),
    ("build --board icebreaker --clock nan", f"{MHZ} nan"),
    ("build --board icebreaker --baud 1", "--baud must be from 115200 to 3000000, not 1"),
    ("build --board icebreaker --seed -1", "--seed must be from 0 to 2147483647, not -1"),
    ("run h.npz --simulated --board icebreaker --n 0", "--n must be at least 1, not 0"),
    ("run h.npz --simulated --board icebreaker --sink -1", "--sink must be at least 0, not -1"),
    ("run h.npz --simulated --board icebreaker --heads 7", "--heads: there is no 7, they are 0 "),
    # Names that nothing has.
    ("simulate h.npz --method ''", "Invalid value for '--method': '' is not one of 'had', 'hash'."),
    ("simulate h.npz --engine ''", ("Invalid value for '--engine': '' "
     "is not one of 'compiled', 'icarus', 'golden'.")),
    ("simulate h.npz --preset ''", f"unknown preset ''; {PRESETS}"),
    ("simulate h.npz --method hash --codes loop", "--codes must be sign, hadamard, random or a "),
    (f"simulate h.npz --method hash --codes {LONG}", f"{LONG}: File name too long"),
    ("simulate h.npz --method hash --codes h.npz", "h.npz: not a safetensors file"),
    ("verilog -o new --interface apb", ("Invalid value for '--interface': 'apb' "
     "is not one of 'stream', 'axi', 'wishbone'.")),
    ("verilog -o new --cell ''", ("Invalid value for '--cell': '' "
     "is not one of 'generic', 'ecp5', 'ice40', 'xc7'.")),
    ("area --target none", ("Invalid value for '--target': 'none' "
     "is not one of 'ecp5', 'ice40', 'up5k', 'xc7'.")),
    ("area extra", "Got unexpected extra argument(s) (extra)"),
    ("presets --preset tiny", "No such option: --preset"),
    ("boards --jsn", "No such option: --jsn (Possible options: --json)"),
    ("build", BOTH),
    ("build --board icebreaker --platform a:b", BOTH),
    ("build --board none", "unknown board 'none'; there are icebreaker, "),
    ("build --platform a:b", "--platform needs --config, as it has no preset"),
    ("build --board icebreaker --yosys none -o new", "the program 'none', which --yosys names "),
    ("flash", "--board is missing; 'nearbit boards' lists the boards"),
    ("flash --board none", "unknown board 'none'; there are icebreaker, "),
    ("flash --board icebreaker --bitstream none", "there is no bitstream none"),
    ("flash --board icebreaker --bitstream dir", "there is no bitstream dir"),
    ("flash --board icebreaker --bitstream pipe --dry-run", "there is no bitstream pipe"),
    ("flash --board icebreaker --bitstream h.npz", "h.npz is not a bitstream, and icebreaker has "),
    (f"flash --board icebreaker --bitstream {LONG}", f"{LONG}: File name too long"),
    ("run h.npz", ONE),
    ("run h.npz --virtual --simulated", ONE),
    ("run h.npz --simulated", "--simulated needs --board; 'nearbit boards' lists the boards"),
    ("run h.npz --port none", "--port needs --board, or --baud for what the bitstream was built "),
    ("run h.npz --virtual --bitstream none", "there is no bitstream none"),
    # The network commands, as far as they come without PyTorch.
    ("capture", "Missing option '--model'."),
    ("evaluate", "Missing option '--model'."),
    ("generate", "Missing option '--model'."),
    ("learn-codes", "Missing option '--model'."),
    ("distill", "Missing option '--model'."),
])
def test_wrong_use(refused, line, message):
    # A byte that is no text, as Python hands it over.
    line = line.replace("%FF", "\udcff")
    assert refused(*shlex.split(line)).startswith(message)
