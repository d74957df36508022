"""Tiny models of many families, with random weights, in folders as save_pretrained writes them."""

from pathlib import Path
from typing import Any


# What the extra models brings is imported where it is used: without it, the modules skip.


__all__ = ["DECODERS", "ENCODERS", "WORDS", "tiny", "tokenizer"]


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *(chr(code) for code in range(32, 127)), "\n")

# Layers of 4 query heads on 2 key heads of 8 elements, 128 tokens, as most families call them.
_LLAMA: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128}
_HEAD = {"head_dim": 8}
_WINDOWS = {"sliding_window": 12, "layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 48}
_LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
           "v_head_dim": 16, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1,
           "topk_group": 1, "n_shared_experts": 1, "num_experts_per_tok": 2,
           "moe_intermediate_size": 16, "first_k_dense_replace": 1}
_MAMBA = {"mamba_d_state": 8, "mamba_d_conv": 4, "mamba_expand": 2}

DECODERS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {**_HEAD, "sliding_window": 12},
    "mixtral": _EXPERTS,
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 12},
    "qwen3": _HEAD,
    "qwen3_moe": {**_HEAD, **_EXPERTS, "moe_intermediate_size": 16},
    "gemma": {**_HEAD, "num_key_value_heads": 1},
    "gemma2": {**_HEAD, **_WINDOWS, "query_pre_attn_scalar": 16},
    "gemma3_text": {**_HEAD, **_WINDOWS, "query_pre_attn_scalar": 16},
    "phi": {"num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    "phi3": {"sliding_window": 12},
    "olmo": {"clip_qkv": 2.0},
    "olmo2": {},
    "olmo3": _WINDOWS,
    "gpt_neox": {"rotary_pct": 0.25},
    "gpt2": {**_GPT, "scale_attn_by_inverse_layer_idx": True},
    "gptj": {**_GPT, "rotary_dim": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128},
    "falcon": {"num_kv_heads": 4, "ffn_hidden_size": 48},
    "starcoder2": {"sliding_window": 12},
    "stablelm": {"partial_rotary_factor": 0.5, "qk_layernorm": True},
    "cohere": {"logit_scale": 0.25, "use_qk_norm": True},
    "cohere2": {**_HEAD, **_WINDOWS, "logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5,
                "embedding_multiplier": 2.0},
    "granitemoe": {**_EXPERTS, "logits_scaling": 4.0, "attention_multiplier": 0.2},
    "deepseek_v2": {**_LATENT, "topk_method": "greedy"},
    "deepseek_v3": _LATENT,
    "llama4_text": {**_HEAD, "intermediate_size_mlp": 48, "num_local_experts": 2,
                    "attention_chunk_size": 12, "no_rope_layer_interval": 2},
    "gpt_oss": {**_HEAD, **_EXPERTS, **_WINDOWS},
    "jamba": {**_MAMBA, "mamba_dt_rank": 4, "use_mamba_kernels": False, "num_experts": 2,
              "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts_per_tok": 1},
    "bamba": {**_MAMBA, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1,
              "mamba_chunk_size": 16, "attn_layer_indices": [1]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "smollm3": {"no_rope_layers": [1, 0]},
    "nemotron": _HEAD,
    "exaone4": {**_WINDOWS, "sliding_window_pattern": 2},
    "glm4": _HEAD,
    "ernie4_5": _HEAD,
}
"""Model types, and what their configurations have beside the usual sizes."""

ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"pad_token_id": 1, "max_position_embeddings": 130},
    "xlm-roberta": {"pad_token_id": 1, "max_position_embeddings": 130},
    "electra": {"embedding_size": 16},
    "camembert": {"pad_token_id": 1, "max_position_embeddings": 130},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 16, "cls_token_id": 2,
                   "sep_token_id": 3},
    "mpnet": {"pad_token_id": 1, "max_position_embeddings": 130},
}
"""The same of encoders."""


def tokenizer(*, special: bool) -> Any:
    """A token for each character, and those that an encoder's text begins and ends with."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    if special:
        made.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
        made.enable_truncation(8) # as all-MiniLM-L6-v2's file has it; it must be undone
    return made


def tiny(family: str, folder: Path, **changes: Any) -> Path:
    """Write a model of two layers with its tokenizer, and return its folder.

    Weights are large enough for attention to have a part in every logit. ``family`` is a model
    type of :data:`DECODERS` or :data:`ENCODERS`, or of another decoder; ``changes`` are further
    fields of its configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    encoder = family in ENCODERS
    sizes = dict(_LLAMA)
    if encoder:
        del sizes["num_key_value_heads"]
    config = AutoConfig.for_model(family, **{
        **sizes, "vocab_size": len(WORDS), "pad_token_id": 0, "bos_token_id": None,
        "eos_token_id": None, **(ENCODERS if encoder else DECODERS).get(family, {}), **changes})
    torch.manual_seed(3)
    module: Any = (AutoModel if encoder else AutoModelForCausalLM).from_config(config)
    with torch.no_grad():
        for weight in module.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
            else:
                weight += 0.1 * torch.randn_like(weight)
    module.save_pretrained(folder)
    tokenizer(special=encoder).save(str(folder / "tokenizer.json"))
    return folder
