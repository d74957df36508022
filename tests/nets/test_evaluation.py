import json

import numpy as np
import pytest


torch = pytest.importorskip("torch", reason="the extra models is not installed")

from nearbit import cli
from nearbit_model import golden
from nearbit_model.attention import attention
from nearbit_model.mapping import Mapping
from nearbit_nets import texts
from nearbit_nets.errors import NetworkError
from nearbit_nets.evaluation import evaluate_decoder, evaluate_encoder
from nearbit_nets.golden import GoldenAttention, Method, accelerator, codes_of
from nearbit_nets.network import reference_attention


TEXT = "the quick brown fox jumps over the lazy dog; "


# What each of 30 queries of a decoder sees: counts, and first keys.
CAUSAL = torch.arange(1, 31)[None], torch.zeros((1, 30), dtype=torch.int64)


def _learned(network, *, per_head, bits=16):
    """A mapping of random weights, of those that are learned, for a whole network."""
    rng = np.random.default_rng(5)
    heads, kv_heads = network.layers * network.heads, network.layers * network.kv_heads
    sets = heads if per_head else kv_heads

    def layer(count):
        return [(rng.standard_normal((count, bits, network.head_dim)), np.zeros((count, bits)))]

    return Mapping.learned(layer(heads), layer(sets), kv_heads=kv_heads)


def _heads(seed=0, batch=1, heads=4, kv_heads=2, tokens=30):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn((batch, count, tokens, 8), generator=generator)
                 for count in (heads, kv_heads, kv_heads))


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("per_head", [False, True])
def test_attention_is_the_golden_models(decoder, layer, per_head):
    """Each layer gets its part of the mapping, and the integers are those of the model."""
    q, k, v = _heads(layer)
    codes = _learned(decoder, per_head=per_head)
    method = Method(name="hash", n=5, sink=1, recent=2, codes=codes)
    found = GoldenAttention(decoder, method)(layer, q, k, v, *CAUSAL)
    part = codes.choose(range(layer * 4, layer * 4 + 4), range(layer * 2, layer * 2 + 2))
    expected = attention(q[0].numpy(), k[0].numpy(), v[0].numpy(),
                         accelerator(decoder, method, 30), n=5, sink=1, recent=2, causal=True,
                         method="hash", mapping=part)
    assert (found[0].numpy() == expected.output).all()


def test_had_by_the_golden_model(decoder):
    q, k, v = _heads()
    counts, first = CAUSAL
    method = Method(name="had", n=5)
    expected = attention(q[0].numpy(), k[0].numpy(), v[0].numpy(),
                         accelerator(decoder, method, 30), n=5, causal=True)
    assert (GoldenAttention(decoder, method)(0, q, k, v, counts, first)[0].numpy()
            == expected.output).all()
    given = np.array([[1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4]])
    warm = GoldenAttention(decoder, Method(name="had", n=5, logit_scale=given))
    expected = attention(q[0].numpy(), k[0].numpy(), v[0].numpy(),
                         accelerator(decoder, method, 30), n=5, causal=True, logit_scale=given[1])
    assert (warm(1, q, k, v, counts, first)[0].numpy() == expected.output).all()


def test_dense_is_near_exact_attention(decoder):
    q, k, v = _heads()
    counts, first = CAUSAL
    found = GoldenAttention(decoder, Method(name="dense"))(0, q, k, v, counts, first)
    assert torch.allclose(found, reference_attention(0, q, k, v, counts, first), atol=0.03)
    top = GoldenAttention(decoder, Method(name="topn", n=1000))(0, q, k, v, counts, first)
    assert (top == found).all()


def test_padded_batch(encoder):
    """What is padding has no part in an answer."""
    q, k, v = _heads(batch=2, kv_heads=4)
    attend = GoldenAttention(encoder, Method(name="had", n=5))
    seen = torch.tensor([[30], [17]]).expand(-1, 30), torch.zeros((2, 30), dtype=torch.int64)
    together = attend(0, q, k, v, *seen)
    k[1, :, 17:], v[1, :, 17:] = 99, 99
    assert torch.equal(attend(0, q, k, v, *seen), together)


def test_costs(decoder):
    q, k, v = _heads()
    method = Method(name="hash", n=5, sink=1, recent=2, codes=codes_of(decoder, "sign"))
    attend = GoldenAttention(decoder, method)
    attend(0, q, k, v, *CAUSAL)
    selected = sum(min(count, 8) for count in range(1, 31)) * 4
    seen = sum(range(1, 31)) * 4
    assert (attend.keys_touched, attend.keys_dense) == (selected, seen)
    # A code of 8 bits; a vector of 8 bytes, its scale, and a key of 12-bit elements.
    assert attend.bytes_read == seen * 1 + selected * (8 + 2 + 12)
    assert attend.bytes_dense == seen * 2 * 8 * 2


def test_all_layers_are_replaced(decoder, monkeypatch):
    """Not one query is answered by anything but the golden model."""
    layers = []
    answered = []
    attend = golden.attend
    monkeypatch.setattr(golden, "attend", lambda q_codes, *rest, **options: (
        answered.append(q_codes.shape[0] * q_codes.shape[1]), attend(q_codes, *rest, **options))[1])
    method = Method(name="hash", n=4, codes=codes_of(decoder, "sign"))
    decoder.losses(decoder.tokens(TEXT), GoldenAttention(decoder, method, layers.append))
    assert layers == [0, 1]
    assert answered == [4 * len(TEXT)] * 2


def test_decoder(decoder):
    ids = decoder.tokens(TEXT * 2)
    method = Method(name="hash", n=4, sink=1, recent=1, codes=codes_of(decoder, "sign"))
    first, second = evaluate_decoder(decoder, method, ids, sweep=[1000])
    assert (first.n, second.n, first.scored) == (4, 1000, len(ids) // 2)
    assert first.loss_reference == pytest.approx(decoder.losses(ids, scored=len(ids) // 2).mean())
    # With all keys there is nothing left to lose but rounding.
    assert second.loss == pytest.approx(first.loss_reference, abs=0.02)
    assert second.loss == pytest.approx(second.loss_topn, abs=1e-6)
    assert first.loss != pytest.approx(second.loss, abs=1e-3)
    assert second.costs.keys_touched == second.costs.keys_dense


def test_encoder(encoder, text):
    parts = texts.passages(encoder, text(TEXT * 4), length=40)
    assert [len(part) for part in parts] == [40] * 4
    assert all((part[0], part[-1]) == (2, 3) for part in parts)
    method = Method(name="hash", n=2, codes=codes_of(encoder, "hadamard"))
    first, second = evaluate_encoder(encoder, method, parts, sweep=[1000])
    assert first.cosine < second.cosine
    assert second.cosine > 0.999
    assert second.retrieval == second.retrieval_reference == second.retrieval_topn
    dense_report, = evaluate_encoder(encoder, Method(name="dense"), parts)
    assert dense_report.cosine == pytest.approx(second.cosine)
    assert dense_report.cosine_topn is None


def test_command(decoder_folder, text, tmp_path, capsys):
    plot = tmp_path / "curve.svg"
    arguments = ["evaluate", "--model", f"hf:{decoder_folder}", "--text", str(text()), "--method",
                 "topn", "--n", "4", "--curve", "8,16", "--plot", str(plot)]
    assert cli.main([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {"loss", "loss_reference", "loss_topn", "keys_touched", "keys_dense", "seconds",
            "bytes_read", "bytes_dense", "perplexity"} <= said.keys()
    assert [point["n"] for point in said["curve"]] == [8, 16]
    assert said["loss"] == said["loss_topn"]
    assert "keys selected by a query" in plot.read_text(encoding="utf-8")
    assert cli.main(arguments) == 0
    assert "with true top" in capsys.readouterr().out


def test_command_on_an_encoder(encoder_folder, text, capsys):
    assert cli.main(["evaluate", "--model", f"hf:{encoder_folder}", "--text", str(text()),
                     "--method", "had", "--n", "4", "--passage", "40", "--json"]) == 0
    assert {"cosine", "cosine_topn", "retrieval", "retrieval_reference", "retrieval_topn",
            "keys_touched", "keys_dense", "seconds"} <= json.loads(capsys.readouterr().out).keys()


def test_codes_from_a_file(decoder, decoder_folder, text, tmp_path, capsys):
    file = tmp_path / "codes.safetensors"
    _learned(decoder, per_head=True).save(file)
    assert cli.main(["evaluate", "--model", f"hf:{decoder_folder}", "--text", str(text()),
                     "--codes", str(file), "--n", "4"]) == 0
    assert "method hash, codes" in capsys.readouterr().out


def test_codes_of_another_model(encoder, decoder, tmp_path):
    file = tmp_path / "codes.safetensors"
    _learned(decoder, per_head=False).save(file)
    with pytest.raises(NetworkError, match=(
            r"the mapping is for 8 heads on 4 key heads of 8 elements, but hf:.* has 8 on 8 of 8 "
            r"in its 2 layers; take the one made for this model$")):
        codes_of(encoder, str(file))


@pytest.mark.parametrize(("options", "said"), [
    (["--method", "best"], ("Invalid value for '--method': 'best' "
     "is not one of 'dense', 'topn', 'had', 'hash'.")),
    (["--method", "had", "--codes", "sign"], "--codes needs --method hash"),
    (["--codes", "none"], "codes must be sign, hadamard, random or a .safetensors file, not"),
    (["--n", "0"], "n must be at least 1, not 0"),
    (["--sink", "-1"], "sink must be at least 0, not -1"),
    (["--curve", "4,x"], "--curve must be numbers of keys such as 16,32,64, not '4,x'"),
    (["--plot", "curve.docx"], "curve.docx: a plot's name must end in"),
    (["--scored", "5000"], "tokens, 1 to "),
    (["--passage", "40"], "--passage is for encoders, and "),
])
def test_bad_options(decoder_folder, text, capsys, options, said):
    assert cli.main(["evaluate", "--model", f"hf:{decoder_folder}", "--text", str(text(TEXT)),
                     *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("options", "said"), [
    (["--passage", "20"], "a passage must have 33 to 96 tokens, not 20"),
    (["--tokens", "5000"], "fewer than the 5000 requested"),
    (["--passage", "96", "--tokens", "90"], "retrieval needs at least 2 passages"),
    (["--scored", "5"], "--scored is for decoders, and "),
])
def test_bad_passages(encoder_folder, text, capsys, options, said):
    assert cli.main(["evaluate", "--model", f"hf:{encoder_folder}", "--text", str(text(TEXT * 3)),
                     "--method", "had", *options]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("given", "said"), [
    ({"name": "none"}, "the method must be one of dense, topn, had, hash, not 'none'"),
    ({"name": "hash"}, "method hash needs codes, and other methods take none"),
    ({"name": "hash", "recent": -1}, "recent must be at least 0, not -1"),
    ({"name": "dense", "logit_scale": np.ones((2, 4))}, "a logit scale needs method had"),
])
def test_bad_method(given, said):
    with pytest.raises(NetworkError, match=f"^{said}$"):
        Method(**given)
