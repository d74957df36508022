"""Which families of models work, in docs/models.md: python benchmarks/families.py

A tiny model of each family, with random weights, is saved, loaded as ``hf:FOLDER`` and compared to
its own forward pass, as each command does; the table says what came of it. Takes half a minute.
tests/nets/test_families.py compares each row.
"""

import importlib.util
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig

from nearbit_nets.errors import NetworkError
from nearbit_nets.loading import load


ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- families: benchmarks/families.py -->\n", "<!-- /families -->\n"

_spec = importlib.util.spec_from_file_location("families", ROOT / "tests" / "nets" / "families.py")
assert _spec is not None
assert _spec.loader is not None
tiny_models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny_models)

_HEAD = {"head_dim": 8}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 48}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}

DECODERS: dict[str, dict[str, Any]] = {
    "qwen2_moe": {**_EXPERTS, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "olmoe": _EXPERTS,
    "ministral": {**_HEAD, "sliding_window": 12,
                  "layer_types": ["sliding_attention", "full_attention"]},
    "glm": _HEAD,
    "helium": _HEAD,
    "arcee": {},
    "apertus": {},
    "seed_oss": _HEAD,
    "hunyuan_v1_dense": _HEAD,
    "persimmon": {},
    "biogpt": {},
    "gpt_bigcode": _GPT,
    "codegen": {**_GPT, "rotary_dim": 4},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 4},
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4},
    "vaultgemma": _HEAD,
    "diffllama": {},
    "doge": {},
    "minimax": {**_HEAD, "num_local_experts": 2, "num_experts_per_tok": 1},
}
"""Decoders beside those of tests/nets/families.py, with what their configurations have."""

OTHERS: dict[str, dict[str, Any]] = {
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},
    "t5": {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_heads": 4, "num_layers": 2},
    "bart": {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48,
             "decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
    "gemma3": {
        "text_config": {
            "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0},
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 28, "patch_size": 14}},
}
"""Models of other kinds, with their whole configurations."""

FAMILIES = (*tiny_models.DECODERS, *DECODERS, *tiny_models.ENCODERS, *OTHERS)

# What a sentence begins with, and what stands for it behind "refused: ".
_BEGINNINGS = (
    (r"hf:\S+ is of the family \S+, (which|whose) ", ""),
    (r"the attention of \S+, layer \d+, ", "attention "),
    (r"\S+ holds a model of the type \S+, which ", ""),
    (r"\S+ holds ", "is "),
)


def _other(family: str, folder: Path) -> None:
    """Write a model of another kind."""
    config = AutoConfig.for_model(family, **{
        **({} if family == "gemma3" else {"vocab_size": 99, "pad_token_id": 0}), **OTHERS[family]})
    module: Any = next(mapping[type(config)] for mapping in (
        transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        transformers.MODEL_FOR_CAUSAL_LM_MAPPING) if type(config) in mapping)
    module(config).save_pretrained(folder)
    tiny_models.tokenizer(special=False).save(str(folder / "tokenizer.json"))


def row(family: str, folder: Path) -> str:
    """The row of a family, by a model that is written to a folder."""
    if family in OTHERS:
        _other(family, folder)
    else:
        tiny_models.tiny(family, folder, **DECODERS.get(family, {}))
    try:
        network = load(f"hf:{folder}")
        network.verify(torch.arange(4, 64)[None], steps=network.kind == "decoder")
    except NetworkError as error:
        said = str(error).partition("; ")[0]
        for beginning, instead in _BEGINNINGS:
            said, found = re.subn(rf"^{beginning}", instead, said)
            if found:
                break
        return f"| `{family}` | refused: {said} |"
    return f"| `{family}` | works |"


def table() -> str:
    """The whole table."""
    lines = ["| `model_type` | |", "|---|---|"]
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(family, Path(folder)))
    return "\n".join(lines) + "\n"


def main() -> None:
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(before + BEGIN + table() + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
