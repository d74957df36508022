"""Llama-like decoders from GGUF files.

Transformers can read them, too, but only with a further package, and parses the file three times.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from nearbit_nets.errors import NetworkError


__all__ = ["interleaved_to_halves", "read_llama"]


_TENSORS = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight":
          "model.norm.weight", "output.weight": "lm_head.weight"}

# What is read of the architecture; further fields change what is computed.
_FIELDS = ("block_count", "context_length", "embedding_length", "feed_forward_length",
           "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon",
           "rope.dimension_count", "rope.freq_base", "vocab_size")

# What the tokenizers of these names split by, before byte pairs.
_SPLITS = {"smollm": [pre_tokenizers.Digits(individual_digits=True)], "gpt-2": []}

_CONTROL = 3 # a type of token: one that is not text


def read_llama(path: Path) -> tuple[LlamaForCausalLM, Tokenizer]:
    """Read a decoder with its tokenizer.

    Parameters
    ----------
    path
        A GGUF file of the architecture ``llama`` with a byte-pair tokenizer. Quantized weights
        become the float32 that they stand for.

    Raises
    ------
    NetworkError
        A file that cannot be read, of another architecture or tokenizer, or with fields or tensors
        that would be passed over.
    """
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type))
                   for tensor in reader.tensors}
    except (OSError, ValueError, IndexError, KeyError, NotImplementedError) as error:
        raise NetworkError(f"{path} cannot be read as GGUF: {error}") from None
    architecture = fields.get("general.architecture")
    if architecture != "llama":
        raise NetworkError(f"{path} holds a model of the architecture {architecture}; only llama "
                           f"can be read")
    for name in fields:
        if name.startswith("llama.") and name.removeprefix("llama.") not in _FIELDS:
            raise NetworkError(f"{path} has {name} {fields[name]!r}, a setting that Nearbit does "
                               f"not know and that may change what the model computes")
    try:
        config = _config(path, fields, tensors)
        state = {name: torch.from_numpy(np.array(array, np.float32))
                 for name, array in _state(path, config, tensors).items()}
        tokenizer = _tokenizer(path, fields)
    except KeyError as error:
        raise NetworkError(f"{path} lacks {error.args[0]}") from None
    with torch.device("meta"):
        module = LlamaForCausalLM(config)
    # The table of the rotary embedding is made, not read.
    module.load_state_dict(state, strict=False, assign=True)
    module.model.rotary_emb = type(module.model.rotary_emb)(config)
    module.tie_weights()
    absent = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    if absent:
        raise NetworkError(f"{path} lacks the weights for {absent[0]}")
    return module, tokenizer


def _config(path: Path, fields: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Any:
    heads = int(fields["llama.attention.head_count"])
    width = int(fields["llama.embedding_length"])
    head_dim = len(tensors["blk.0.attn_q.weight"]) // heads
    if fields.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise NetworkError(f"{path} has llama.rope.dimension_count "
                           f"{fields['llama.rope.dimension_count']}, but heads have {head_dim} "
                           f"elements; only heads that are rotated whole can be read")
    return LlamaConfig(
        vocab_size=len(tensors["token_embd.weight"]), hidden_size=width,
        intermediate_size=int(fields["llama.feed_forward_length"]),
        num_hidden_layers=int(fields["llama.block_count"]), num_attention_heads=heads,
        num_key_value_heads=int(fields.get("llama.attention.head_count_kv", heads)),
        head_dim=head_dim,
        max_position_embeddings=int(fields["llama.context_length"]),
        rms_norm_eps=float(fields["llama.attention.layer_norm_rms_epsilon"]),
        rope_parameters={"rope_type": "default",
                         "rope_theta": float(fields.get("llama.rope.freq_base", 10000.0))},
        tie_word_embeddings="output.weight" not in tensors,
        bos_token_id=fields.get("tokenizer.ggml.bos_token_id"),
        eos_token_id=fields.get("tokenizer.ggml.eos_token_id"))


def _state(path: Path, config: Any, tensors: Mapping[str, NDArray[Any]]
           ) -> dict[str, NDArray[Any]]:
    """Weights under the names of Transformers."""
    known = {*_OUTER, *(f"blk.{layer}.{name}.weight" for layer in range(config.num_hidden_layers)
                        for name in _TENSORS)}
    for name in tensors:
        if name not in known:
            raise NetworkError(f"{path} has a tensor {name}, so it is not a plain llama model")
    state = {theirs: tensors[ours] for ours, theirs in _OUTER.items() if ours in tensors}
    for layer in range(config.num_hidden_layers):
        for ours, theirs in _TENSORS.items():
            weight = tensors[f"blk.{layer}.{ours}.weight"]
            if ours in ("attn_q", "attn_k"):
                weight = interleaved_to_halves(weight, config.head_dim)
            state[f"model.layers.{layer}.{theirs}.weight"] = weight
    return state


def interleaved_to_halves(weight: NDArray[Any], head_dim: int) -> NDArray[Any]:
    """Reorder the rows of a projection to queries or keys for the rotary embedding.

    GGUF's llama rotates the elements 2j and 2j + 1 of a head together, Transformers j and
    j + head_dim / 2. Queries and keys are reordered alike, so that q.k stays as it is.

    Parameters
    ----------
    weight
        [heads * head_dim, inputs].
    head_dim
        Even.
    """
    pairs = weight.reshape(-1, head_dim // 2, 2, weight.shape[1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))


def _tokenizer(path: Path, fields: Mapping[str, Any]) -> Tokenizer:
    kind, split = fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or split not in _SPLITS:
        raise NetworkError(f"{path} has the tokenizer {kind} / {split}; only gpt2 with the "
                           f"splits {', '.join(_SPLITS)} can be read")
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ", 1)) for pair in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        *_SPLITS[split], pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([
        AddedToken(token, special=True) for token, type_of in zip(
            tokens, fields["tokenizer.ggml.token_type"], strict=True) if type_of == _CONTROL])
    return tokenizer
