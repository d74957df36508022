import json
import re
from dataclasses import replace

import numpy as np
import pytest


torch = pytest.importorskip("torch", reason="the extra models is not installed")

from nearbit import cli
from nearbit_model.mapping import Mapping
from nearbit_nets import codes
from nearbit_nets.codes import Learner, Recipe, learn_layer, recall
from nearbit_nets.errors import NetworkError
from nearbit_nets.golden import codes_of


TEXT = "the quick brown fox jumps over the lazy dog; "
SMALL = Recipe(bits=16, steps=40, queries=16, sink=2, recent=3)


@pytest.fixture(autouse=True)
def _single_thread():
    torch.set_num_threads(1)


def _skewed(texts=2, heads=4, kv_heads=2, tokens=160, dim=8, seed=0):
    """Keys vary most where queries do least, which plain signs do not see."""
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn((dim, dim), generator=torch.Generator().manual_seed(9)))[0]
    sides = ((heads, [1.0, 0.7, 0.5, *[0.02] * (dim - 3)]),
             (kv_heads, [1.0, 0.8, 1.5, *[4.0] * (dim - 3)]))
    return tuple([torch.randn((count, tokens, dim), generator=generator) * torch.tensor(weights)
                  @ turn for _ in range(texts)] for count, weights in sides)


@pytest.mark.parametrize("kind", codes.KINDS)
@pytest.mark.parametrize("loss", codes.LOSSES)
@pytest.mark.parametrize("surrogate", codes.SURROGATES)
def test_learned_codes_find_more(kind, loss, surrogate):
    recipe = replace(SMALL, kind=kind, loss=loss, surrogate=surrogate)
    mapping, steps = learn_layer(*_skewed(), recipe)
    apart = _skewed(seed=1)
    found = recall(mapping, *apart, n=8, sink=2, recent=3).nearest.mean()
    plain = Mapping.hadamard(16, 8, heads=4, kv_heads=2)
    assert found > recall(plain, *apart, n=8, sink=2, recent=3).nearest.mean() + 0.03
    assert 1 <= steps <= recipe.steps
    assert mapping.kind == {"linear": "linear", "mlp": "layers"}[kind]
    assert (mapping.bits, mapping.heads, mapping.kv_heads, mapping.key_heads) == (16, 4, 2, 4)


def test_training_finds_more_than_its_start():
    apart = _skewed(seed=1)
    start, trained = (
        recall(learn_layer(*_skewed(), replace(SMALL, bits=3, steps=steps, rate=rate))[0], *apart,
               n=8, sink=2, recent=3).nearest.mean()
        for steps, rate in ((1, 1e-9), (100, 0.02)))
    assert trained > start + 0.05


@pytest.mark.parametrize("bits", [1, 5, 8, 20])
@pytest.mark.parametrize("kind", codes.KINDS)
def test_shapes(bits, kind):
    """Fewer bits than elements and more; texts of different lengths; a group that shares."""
    q, k = _skewed(tokens=40)
    q[1], k[1] = q[1][:, :7], k[1][:, :7]
    mapping, _ = learn_layer(q, k, Recipe(bits=bits, kind=kind, steps=2, queries=3,
                                          shares_keys=True))
    assert (mapping.bits, mapping.key_heads) == (bits, 2)
    assert mapping.query_codes(q[0].numpy()).shape == (4, 40, 1)


def test_what_is_learned_is_what_is_computed():
    """The mapping's bits are the signs of what was trained, for keys far from 0 as well."""
    q, k = _skewed()
    k = [x + 30 for x in k]
    for kind in codes.KINDS:
        layer = codes._Layer(q, k, replace(SMALL, kind=kind), 0, torch.device("cpu"))
        with torch.no_grad():
            for side in "qk":
                for _, bias in layer._weights[side]:
                    bias += 0.1
        mapping = Mapping.learned(layer.weights("q"), layer.weights("k"), kv_heads=2)
        for side, x, bits in (("q", q, mapping.query_codes(q[0].numpy())),
                              ("k", k, mapping.key_codes(k[0].numpy()))):
            with torch.no_grad():
                found = codes._apply(layer._normal(x[0], side), layer._weights[side]).numpy()
            unpacked = (bits >> np.arange(16, dtype=np.uint64)) & np.uint64(1)
            certain = np.abs(found) > 1e-3
            assert certain.mean() > 0.99
            assert ((found > 0) == unpacked.astype(bool))[certain].all()


def test_balance():
    """Inner products stay what they are, but for a factor; both sides are spread alike."""
    q, k = (torch.cat(x, dim=1).double() for x in _skewed(heads=2))
    to_q, to_k = codes._balance(q, k)
    images = q @ to_q.transpose(1, 2), k @ to_k.transpose(1, 2)
    ratio = (images[0] @ images[1].transpose(1, 2)) / (q @ k.transpose(1, 2))
    assert torch.allclose(ratio, ratio[:, :1, :1].expand_as(ratio), rtol=1e-6)
    for x in images:
        moment = x.transpose(1, 2) @ x / x.shape[1]
        spread = moment.diagonal(dim1=1, dim2=2)
        assert torch.allclose(moment, torch.diag_embed(spread), atol=0.1)
        assert torch.allclose(spread.mean(1), torch.ones(2).double(), atol=0.01)
    ratio = [x.square().mean(1) for x in images]
    assert torch.allclose(ratio[0], ratio[1], rtol=0.2)


def test_constant_vectors():
    """What does not vary cannot be balanced, and does not fail."""
    mapping, _ = learn_layer([torch.zeros(2, 20, 4)], [torch.ones(1, 20, 4)],
                             Recipe(bits=4, steps=2))
    assert mapping.heads == 2


def test_same_seed_same_codes():
    first, second, other = (learn_layer(*_skewed(), replace(SMALL, steps=5, seed=seed))[0]
                            for seed in (3, 3, 4))
    assert all((first.tensors[name] == second.tensors[name]).all() for name in first.tensors)
    assert any((first.tensors[name] != other.tensors[name]).any() for name in first.tensors)


def test_stops_early():
    """With a rate that spoils everything, the start is the best and is what is kept."""
    seen = []
    mapping, steps = learn_layer(*_skewed(), replace(SMALL, steps=200, rate=50.0),
                                 progress=lambda step, loss: seen.append(step))
    assert steps < 200
    assert seen == list(range(1, steps + 1))
    assert mapping.bits == 16


def test_recall_by_hand():
    """Against counting with Python's own sorting."""
    q, k = _skewed(texts=1, tokens=100)
    mapping = Mapping.hadamard(8, 8, heads=4, kv_heads=2)
    found = recall(mapping, q, k, n=20, sink=2, recent=3, every=7)
    for head in range(4):
        nearest, selected = [], []
        for at in range(50, 100, 7):
            product = (q[0][head, at].double() @ k[0][head // 2, :at + 1].double().T).tolist()
            code_q, = mapping.query_codes(q[0][:, at:at + 1].numpy())[head, 0].tolist()
            code_k = mapping.key_codes(k[0].numpy())[head // 2, :, 0].tolist()
            distance = [(code_q ^ code_k[j]).bit_count() for j in range(at + 1)]
            order = sorted(range(at + 1), key=lambda j: (distance[j], -j))
            true = set(sorted(range(at + 1), key=lambda j: -product[j])[:32])
            always = {0, 1, at, at - 1, at - 2}
            near = [j for j in order if j not in always][:20]
            nearest.append(len(true & set(order[:32])) / 32)
            selected.append(len(true & (always | set(near))) / 32)
        assert found.nearest[head] == pytest.approx(np.mean(nearest))
        assert found.selected[head] == pytest.approx(np.mean(selected))


def _learner(decoder, folder, recipe=SMALL, layers=(0, 1), texts=2):
    ids = [decoder.tokens(TEXT * 2 + str(i)) for i in range(texts + 1)]
    return Learner(decoder, ids[:-1], ids[-1:], replace(recipe, steps=4), layers, folder)


def test_goes_on(decoder, tmp_path, monkeypatch):
    """Interrupted after a layer, the rest gives what would have come at once."""
    learn = codes.learn_layer

    def interrupted(*arguments, layer, **options):
        if layer == 1:
            raise KeyboardInterrupt
        return learn(*arguments, layer=layer, **options)

    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    whole, found, steps = _learner(decoder, first).run()
    monkeypatch.setattr(codes, "learn_layer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _learner(decoder, second).run()
    monkeypatch.setattr(codes, "learn_layer", learn)
    learner = _learner(decoder, second)
    assert learner.missing == [1]
    again, found_again, _ = learner.run()
    assert all((whole.tensors[name] == again.tensors[name]).all() for name in whole.tensors)
    assert (found.nearest == found_again.nearest).all()
    assert (whole.heads, whole.kv_heads, whole.key_heads, steps) == (8, 4, 8, [4, 4])
    assert found.nearest.shape == (8,)
    with pytest.raises(NetworkError, match=(
            r"b holds layers that were learned with other settings \(seed\); give the same "
            r"settings to resume, or remove the folder$")):
        _learner(decoder, second, replace(SMALL, seed=1))


def test_damaged_part(decoder, tmp_path):
    _learner(decoder, tmp_path).run()
    (tmp_path / "layer-1.safetensors").write_bytes(b"x")
    with pytest.raises(NetworkError, match=(
            r"layer-1.safetensors: not a safetensors file; remove the file to learn the layer "
            r"again$")):
        _learner(decoder, tmp_path).run()


def test_in_parts_where_memory_is_short(decoder, tmp_path, monkeypatch):
    one = _learner(decoder, tmp_path)
    whole, *_ = one.run()
    rows = sum(map(len, one._texts)) + len(one._held_out[0])
    layer = rows * 6 * 8 * 4
    monkeypatch.setattr(codes, "available_memory", lambda: 10 * layer)
    other = tmp_path / "other"
    other.mkdir()
    parts = _learner(decoder, other)
    assert parts._layers_at_once() == 1
    found, *_ = parts.run()
    assert all((whole.tensors[name] == found.tensors[name]).all() for name in whole.tensors)
    monkeypatch.setattr(codes, "available_memory", lambda: 8 * layer)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(NetworkError, match=(
            rf"^{rows} tokens of texts need about 0.0 GB of memory, but only 0.0 GB are free; take "
            r"fewer or shorter texts$")):
        _learner(decoder, empty).run()


def _command(folder, out, text, *options):
    return ["learn-codes", "--model", f"hf:{folder}", "-o", str(out), "--steps", "3", "--bits",
            "16", "--text", str(text(TEXT * 2, "a.txt")), "--text", str(text(TEXT * 3, "b.txt")),
            *options]


def test_command(decoder, decoder_folder, text, tmp_path, capsys):
    out = tmp_path / "codes.safetensors"
    arguments = _command(decoder_folder, out, text, "--tokens", "80", "--device", "cpu")
    assert cli.main([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["layers"], said["steps"], said["bits"]) == ([0, 1], [3, 3], 16)
    assert np.mean(said["recall_heads"]) == pytest.approx(said["recall"])
    assert np.shape(said["recall_heads"]) == (2, 4)
    assert said["held_out"] == [str(tmp_path / "b.txt")]
    assert not (tmp_path / "codes.safetensors.parts").exists()
    mapping = codes_of(decoder, str(out))
    assert re.search(r"weights [0-9a-f]{12}, all layers; loss top", mapping.source)
    assert cli.main(["evaluate", "--model", f"hf:{decoder_folder}", "--text",
                     str(tmp_path / "a.txt"), "--codes", str(out), "--n", "4"]) == 0
    said = capsys.readouterr()
    assert "method hash, codes" in said.out
    assert "was learned from texts of at most 80 tokens, and this one has " in said.err
    assert cli.main(["evaluate", "--model", f"hf:{decoder_folder}", "--text",
                     str(tmp_path / "a.txt"), "--codes", str(out), "--n", "4", "--tokens", "80",
                     ]) == 0
    assert "was learned from" not in capsys.readouterr().err
    assert cli.main([*arguments, "--kind", "mlp", "--layers", "1", "--shared-keys"]) == 0
    assert "codes of 16 bits for 4 heads of hf:" in capsys.readouterr().out
    assert Mapping.load(out).key_heads == 2


def test_interrupted_command(decoder_folder, text, tmp_path, capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    out = tmp_path / "codes.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(codes, "learn_layer", interrupted)
        assert cli.main(_command(decoder_folder, out, text)) == 130
    assert re.search(r"0 of 2 layers are in .*codes.safetensors.parts; run the same command to "
                     r"resume",
                     capsys.readouterr().err)
    assert not out.exists()
    assert cli.main(_command(decoder_folder, out, text)) == 0
    assert out.exists()


def test_codes_of_another_model_of_the_same_shape(decoder, decoder_folder, text, tmp_path,
                                                  monkeypatch):
    out = tmp_path / "codes.safetensors"
    assert cli.main(_command(decoder_folder, out, text)) == 0
    weight = decoder.module.model.layers[0].self_attn.q_proj.weight
    kept = weight.clone()
    try:
        weight[0, 0] += 1
        with pytest.raises(NetworkError, match=(
                r"the codes were learned from hf:.*, whose weights are not those of hf:.*; learn "
                r"codes of this model$")):
            codes_of(decoder, str(out))
    finally:
        weight.copy_(kept)
    codes_of(decoder, str(out))


@pytest.mark.parametrize(("options", "said"), [
    (["--bits", "0"], "bits must be at least 1, not 0"),
    (["--kind", "deep"], "Invalid value for '--kind': 'deep' is not one of 'linear', 'mlp'."),
    (["--loss", "mse"], "Invalid value for '--loss': 'mse' is not one of 'top', 'kl', 'bce'."),
    (["--surrogate", "x"], ("Invalid value for '--surrogate': 'x' "
     "is not one of 'straight-through', 'tanh'.")),
    (["--steps", "0"], "steps must be at least 1, not 0"),
    (["--queries", "0"], "queries must be at least 1, not 0"),
    (["--rate", "0"], "the learning rate must be greater than 0, not 0.0"),
    (["--rate", "nan"], "the learning rate must be greater than 0, not nan"),
    (["--seed", "-1"], "seed must be at least 0, not -1"),
    (["--layers", "2"], "--layers: there is no 2, they are 0 to 1"),
    (["--tokens", "5000"], "takes at most 128 tokens, not 5000"),
    (["--tokens", "120"], "fewer than the 120 requested"),
    (["--device", "tpu"], "Invalid value for '--device': 'tpu' is not one of 'cpu', 'cuda'."),
])
def test_bad_options(decoder_folder, text, tmp_path, capsys, options, said):
    out = tmp_path / "codes.safetensors"
    assert cli.main(_command(decoder_folder, out, text, *options)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not out.exists()
    assert not out.with_name("codes.safetensors.parts").exists()


def test_no_cuda(decoder_folder, text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    out = tmp_path / "codes.safetensors"
    assert cli.main(_command(decoder_folder, out, text, "--device", "cuda")) == 2
    assert "there is no CUDA device" in capsys.readouterr().err


def test_bad_texts(decoder_folder, encoder_folder, text, tmp_path, capsys):
    one = str(text())
    out = str(tmp_path / "codes.safetensors")
    for arguments, said in (
            (["--text", one, "-o", out], "at least two texts are needed"),
            (["--text", one, "--held-out", one, "-o", out],
             "is given to learn from and to measure recall on"),
            (["--text", one, "--text", one, "-o", out],
             "is given to learn from and to measure recall on"),
            (["--text", one, "-o", str(tmp_path / "codes.npz")],
             "the name of a file of codes must end in .safetensors"),
            (["--text", one, "--held-out", str(tmp_path / "none"), "-o", out],
             "No such file")):
        assert cli.main(["learn-codes", "--model", f"hf:{decoder_folder}", *arguments]) == 2
        assert said in capsys.readouterr().err
    other = str(text(TEXT, "other.txt"))
    assert cli.main(["learn-codes", "--model", f"hf:{encoder_folder}", "--text", one, "--text",
                     other, "-o", out]) == 2
    assert "is an encoder, and codes are learned from decoders" in capsys.readouterr().err
