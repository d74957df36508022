"""Small tensor files, and the command run in this process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nearbit import cli


@dataclass(frozen=True)
class Outcome:
    """What a run of the command left."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys):
    """Run the command with arguments."""
    def run_with(*arguments: Any) -> Outcome:
        status = cli.main([str(argument) for argument in arguments])
        return Outcome(status, *capsys.readouterr())

    return run_with


def _tensors(heads=2, queries=3, tokens=20, dim=8, kv_heads=None, value_dim=None, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "q": rng.standard_normal((heads, queries, dim), np.float32),
        "k": rng.standard_normal((kv_heads or heads, tokens, dim), np.float32),
        "v": rng.standard_normal((kv_heads or heads, tokens, value_dim or dim), np.float32),
    }


@pytest.fixture
def tensors():
    """Random tensors; they fit the preset `tiny` unless sizes say otherwise."""
    return _tensors


@pytest.fixture
def write(tmp_path):
    """Write a tensor file: random but for the arrays given here, without those given as None."""
    def write_file(name: str = "heads.npz", *, sizes: dict[str, int] | None = None,
                   **arrays: Any) -> Path:
        merged = {**_tensors(**(sizes or {})), **arrays}
        path = tmp_path / name
        np.savez(path, **{key: np.asarray(value) for key, value in merged.items()
                          if value is not None})
        return path

    return write_file
