"""The codes of tests/data/smollm2-argparse-512.npz, cut from those of three layers.

    nearbit learn-codes --model smollm2 --layers 5,13,20 --tokens 1024 \
        --text tarfile.py --text subprocess.py --text mailbox.py --text zipfile.py \
        --text inspect.py --text GFDL-1.3 --held-out argparse.py -o codes.safetensors
    python benchmarks/demo_codes.py codes.safetensors

The texts are modules of Python 3.11's standard library, and a licence; none is the text of the
heads. In the file, the elements of a rotary pair are side by side, in the model in two halves.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nearbit_model.mapping import Mapping


ROOT = Path(__file__).resolve().parent.parent
HEADS = ROOT / "tests" / "data" / "smollm2-argparse-512.npz"
CODES = ROOT / "tests" / "data" / "smollm2-argparse-512-codes.safetensors"
LAYERS, LAYER_HEADS, LAYER_KV_HEADS = (5, 13, 20), 9, 3


def cut(codes: Mapping) -> Mapping:
    """Take the heads of the file, and reorder what their maps multiply."""
    with np.load(HEADS) as file:
        places = [(LAYERS.index(layer), head) for layer, head in file["layer_head"].tolist()]
    group = LAYER_HEADS // LAYER_KV_HEADS
    chosen = codes.choose([layer * LAYER_HEADS + head for layer, head in places],
                          [layer * LAYER_KV_HEADS + head // group for layer, head in places])
    order = np.arange(chosen.head_dim).reshape(2, -1).T.reshape(-1)

    def layers(side: str) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(chosen.tensors[f"{side}.0.weight"][:, :, order],
                 chosen.tensors[f"{side}.0.bias"])]

    return Mapping.learned(layers("q"), layers("k"), kv_heads=len(places),
                           source="SmolLM2-135M-Instruct, layers 5, 13, 20, heads 0, 4, 8; "
                                  "learned by nearbit learn-codes, cut by benchmarks/demo_codes.py")


def main(arguments: Sequence[str]) -> None:
    """Write the file."""
    path, = arguments
    cut(Mapping.load(path)).save(CODES)
    print(CODES.relative_to(ROOT))


if __name__ == "__main__":
    main(sys.argv[1:])
