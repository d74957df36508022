import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("nearbit", "nearbit_boards", "nearbit_hw", "nearbit_model", "nearbit_nets",
            "nearbit_sim")


@pytest.mark.slow # pip fetches the build backend.
def test_wheel(tmp_path):
    """The wheel holds all packages, and the command works from it."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT], check=True,
                   capture_output=True)
    wheel, = tmp_path.glob("nearbit-*-py3-none-any.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True,
                   capture_output=True)
    for package in PACKAGES:
        assert (site / package / "py.typed").exists()
    # Ahead of the editable installation, from which only what nearbit needs may come.
    environment = {**os.environ, "PYTHONPATH": str(site)}
    program = f"import {', '.join(PACKAGES)}; print({', '.join(f'{p}.__file__' for p in PACKAGES)})"
    found = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment,
                           check=True, capture_output=True, encoding="utf-8").stdout.split()
    assert found == [str(site / package / "__init__.py") for package in PACKAGES]
    listed = subprocess.run([sys.executable, site / "bin" / "nearbit", "presets"], cwd=tmp_path,
                            env=environment, check=True, capture_output=True, encoding="utf-8")
    assert "reference" in listed.stdout
    # Templates and C files that are no Python.
    subprocess.run([sys.executable, site / "bin" / "nearbit", "verilog", "--preset", "tiny",
                    "--interface", "axi", "-o", tmp_path / "folder"], cwd=tmp_path, env=environment,
                   check=True, capture_output=True)
    assert (tmp_path / "folder" / "driver" / "nearbit.c").exists()
