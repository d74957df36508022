"""A decoder and an encoder of random weights, small, in folders as Hugging Face lays them out."""

import pytest

from .families import WORDS, tokenizer


# What the extra models brings is imported where it is used: without it, the modules skip.


def _save(folder, module, *, special: bool):
    module.save_pretrained(folder)
    tokenizer(special=special).save(str(folder / "tokenizer.json"))
    return folder


def llama(**changes):
    """A Llama of two layers, with heads of 8 elements: four of queries, two of keys."""
    import torch
    import transformers

    torch.manual_seed(1)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{
        "vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "initializer_range": 0.3, "pad_token_id": 0,
        "bos_token_id": None, "eos_token_id": None, **changes}))


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory):
    """A folder of a Llama-like decoder."""
    return _save(tmp_path_factory.mktemp("decoder"), llama(), special=False)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    """A folder of a BERT-like encoder."""
    import torch
    import transformers

    torch.manual_seed(2)
    module = transformers.BertModel(transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=96, initializer_range=0.3),
        add_pooling_layer=False)
    return _save(tmp_path_factory.mktemp("encoder"), module, special=True)


@pytest.fixture(scope="session")
def decoder(decoder_folder):
    """The decoder, loaded."""
    from nearbit_nets.loading import load

    return load(f"hf:{decoder_folder}")


@pytest.fixture(scope="session")
def encoder(encoder_folder):
    """The encoder, loaded."""
    from nearbit_nets.loading import load

    return load(f"hf:{encoder_folder}")


@pytest.fixture
def text(tmp_path):
    """Write a text file."""
    def write(content: str = "the quick brown fox jumps over the lazy dog; " * 4,
              name: str = "text.txt"):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return path

    return write
