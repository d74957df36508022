"""Small tensor files, and the command run in this process."""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nearbit import cli
from nearbit_model.config import Config, Rescore
from nearbit_model.mapping import Mapping


HASH = Config.preset("tiny").replace(
    top_n=64, rescore=Rescore(head_dim=8, lanes=4, element_bits=12, shared=True))
"""The preset `tiny` with rescoring, two beats a key: the only such hardware of these tests."""


@dataclass(frozen=True)
class Outcome:
    """What a run of the command left."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys):
    """Run the command with arguments; what it says of a build, once for a cache, is left out."""
    def run_with(*arguments: Any) -> Outcome:
        status = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Outcome(status, out, re.sub(r"^nearbit: building the hardware .*\n", "", err,
                                           flags=re.MULTILINE))

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


@pytest.fixture
def hash_options(tmp_path):
    """Options for the method hash on :data:`HASH`, whose file is beside the tensors."""
    path = tmp_path / "hash.toml"
    path.write_text(HASH.to_toml())
    return ["--method", "hash", "--config", path]


@pytest.fixture
def learned(tmp_path):
    """Write a mapping of random weights, of those that are learned; return its path."""
    def write_mapping(name: str = "codes.safetensors", *, heads: int = 4, kv_heads: int = 2,
                      key_heads: int | None = None, dim: int = 8, bits: int = 8,
                      hidden: tuple[int, ...] = ()) -> Path:
        rng = np.random.default_rng(bits)
        widths = (dim, *hidden, bits)

        def layers(sets: int) -> list[tuple[Any, Any]]:
            return [(rng.standard_normal((sets, to, of)), rng.standard_normal((sets, to)))
                    for of, to in itertools.pairwise(widths)]

        path = tmp_path / name
        Mapping.learned(layers(heads), layers(key_heads or kv_heads), kv_heads=kv_heads).save(path)
        return path

    return write_mapping
