import json

import numpy as np
import pytest


torch = pytest.importorskip("torch", reason="the extra models is not installed")

from nearbit import cli
from nearbit.tensors import Tensors
from nearbit_nets import texts
from nearbit_nets.capture import capture
from nearbit_nets.network import reference_attention


def test_rotated_queries_of_chosen_heads(decoder):
    """What Transformers itself gives its attention."""
    ids = decoder.tokens("a text that is a little longer")
    seen = {}

    def attend(layer, q, k, v, counts, first):
        seen[layer] = tuple(x[0].numpy() for x in (q, k, v))
        return reference_attention(layer, q, k, v, counts, first)

    with torch.inference_mode():
        decoder.hidden(torch.tensor([ids]), attend)
    arrays = capture(decoder, ids, [0, 1], [2, 3])
    assert (arrays["q"] == np.concatenate([seen[0][0][2:], seen[1][0][2:]])).all()
    assert (arrays["k"] == np.stack([seen[0][1][1], seen[1][1][1]])).all()
    assert (arrays["v"] == np.stack([seen[0][2][1], seen[1][2][1]])).all()
    assert arrays["layer"].tolist() == [0, 0, 1, 1]
    assert arrays["head"].tolist() == [2, 3, 2, 3]


def test_uneven_heads_have_keys_of_their_own(decoder):
    arrays = capture(decoder, decoder.tokens("a text"), [1], [0, 2, 3])
    assert arrays["k"].shape == (3, 6, 8)
    assert (arrays["k"][1] == arrays["k"][2]).all()


def test_command(decoder_folder, text, tmp_path, capsys):
    file = tmp_path / "heads.npz"
    assert cli.main(["capture", "--model", f"hf:{decoder_folder}", "--text", str(text()),
                     "--layers", "1", "--tokens", "20", "-o", str(file), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["tokens"], said["layers"], said["heads"]) == (20, [1], [0, 1, 2, 3])
    tensors = Tensors.load(file)
    assert tensors.causal
    assert tensors.q.shape == (4, 20, 8)
    assert tensors.k.shape == tensors.v.shape == (2, 20, 8)


def test_encoder(encoder_folder, text, tmp_path, capsys):
    file = tmp_path / "heads.npz"
    assert cli.main(["capture", "--model", f"hf:{encoder_folder}", "--text", str(text()),
                     "--heads", "0,3", "-o", str(file)]) == 0
    assert "q [4, 96, 8], k and v [4, 96, 8]: layers 0,1, heads 0,3" in capsys.readouterr().out
    assert not Tensors.load(file).causal


def test_encoder_text_keeps_its_last_token(encoder, text):
    ids = texts.tokens(encoder, text(), 10)
    assert (len(ids), ids[0], ids[-1]) == (10, 2, 3)


@pytest.mark.parametrize(("options", "said"), [
    (["--tokens", "1000"], "takes at most 128 tokens, not 1000"),
    (["--tokens", "1"], "at least 2 tokens are needed, not 1"),
    (["--layers", "2"], "--layers: there is no 2, they are 0 to 1"),
    (["--heads", "x"], "--heads: 'x' is neither a number nor a range"),
])
def test_bad_choice(decoder_folder, text, tmp_path, capsys, options, said):
    assert cli.main(["capture", "--model", f"hf:{decoder_folder}", "--text", str(text()), "-o",
                     str(tmp_path / "o.npz"), *options]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o.npz").exists()


@pytest.mark.parametrize(("content", "said"), [
    (b"short", "has 5 tokens, fewer than the 20 requested; take a longer text or fewer"),
    (b"", "is empty"), (b"\xff\xfe", "is not a text file in UTF-8"),
])
def test_bad_text(decoder_folder, tmp_path, capsys, content, said):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    assert cli.main(["capture", "--model", f"hf:{decoder_folder}", "--text", str(path), "-o",
                     str(tmp_path / "o.npz"), "--tokens", "20"]) == 2
    assert said in capsys.readouterr().err


def test_memory_is_looked_at_before(decoder, monkeypatch, text):
    monkeypatch.setattr(texts, "available_memory", lambda: 1 << 20)
    with pytest.raises(texts.NetworkError, match=r"^50 tokens need about 0\.6 GB of memory, but "):
        texts.tokens(decoder, text(), 50)


def test_extra_is_named(monkeypatch, capsys, text, tmp_path):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["capture", "--model", "smollm2", "--text", str(text()), "-o",
                     str(tmp_path / "o.npz")]) == 2
    assert ("torch, which is not installed; in a clone of Nearbit, type: pip install "
            "'.[models]'") in capsys.readouterr().err
