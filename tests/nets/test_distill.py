import json

import numpy as np
import pytest


torch = pytest.importorskip("torch", reason="the extra models is not installed")

from torch.optim.swa_utils import AveragedModel

from nearbit import cli
from nearbit_model import quantize
from nearbit_nets import distill as distillation
from nearbit_nets.distill import Plan, distill, logit_scales
from nearbit_nets.errors import NetworkError
from nearbit_nets.golden import GoldenAttention, Method
from nearbit_nets.loading import load


WORDS = "the quick brown fox jumps over a lazy dog and then sleeps in the warm sun of may"


@pytest.fixture(autouse=True)
def _single_thread():
    torch.set_num_threads(1)


def _prose(seed, count=700):
    return " ".join(np.random.default_rng(seed).choice(WORDS.split(), count))


def _plan(**changes):
    return Plan(**{"n": 4, "steps": 30, "batch": 8, "passage": 40, "rate": 2e-3, "qk_rate": 4e-3,
                   **changes})


@pytest.mark.parametrize(("stages", "rounds", "rounded"), [
    ("straight-through", 1, True), ("straight-through", 1, False), ("straight-through", 3, False),
    ("published", 1, False)])
def test_encoder_comes_nearer(encoder, stages, rounds, rounded, monkeypatch):
    """With bfloat16, where the processor has it, or without."""
    if not rounded:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    before = {name: x.clone() for name, x in encoder.module.state_dict().items()}
    found = distill(encoder, [_prose(0)], _plan(stages=stages, rounds=rounds))
    assert found.after > found.before + 0.01
    assert found.teacher == pytest.approx(1, abs=1e-6)
    assert (found.steps, found.logit_scale.shape) == (30, (2, 4))
    # The teacher stays what it is.
    after = encoder.module.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items())
    assert not any(x.requires_grad for x in found.network.module.parameters())


def test_decoder(decoder):
    """Its hidden states come nearer to the teacher's; the loss of random weights says little."""
    found = distill(decoder, [_prose(0)], _plan())
    ids = torch.tensor([decoder.tokens(_prose(1))[:40]])
    method = Method(name="had", n=4, logit_scale=found.logit_scale)
    with torch.no_grad():
        wanted = decoder.hidden(ids)
        before, after = ((each.hidden(ids, GoldenAttention(each, method)) - wanted).square().mean()
                         for each in (decoder, found.network))
    assert after < 0.9 * before
    assert {found.before, found.after, found.teacher} != {found.after}


def test_student_is_the_golden_models(encoder):
    """Float signs, top N and weights of training are those of the integers, but for rounding."""
    generator = torch.Generator().manual_seed(4)
    q, k, v = (torch.randn((1, 4, 30, 8), generator=generator) for _ in range(3))
    sigma_q, sigma_k = torch.rand((2, 2, 4), generator=generator) + 0.5
    student = distillation._Student(_plan(n=5), sigma_q, sigma_k)
    student.done = 0.95
    counts, first = torch.full((1, 30), 27), torch.zeros((1, 30), dtype=torch.int64)
    with torch.no_grad():
        found = student(1, q, k, v, counts, first)
    logit_scale = (sigma_q * sigma_k / 8 ** 0.5).numpy()
    golden = GoldenAttention(encoder, Method(name="had", n=5, logit_scale=logit_scale))
    expected = golden(1, q, k, v, counts, first)
    assert torch.allclose(found, expected, atol=0.03)
    assert not torch.allclose(found, golden(0, q, k, v, counts, first), atol=0.03)


def test_stages_of_the_paper():
    """From nearly the number itself to its sign."""
    x, sigma = torch.linspace(-2, 2, 9), torch.tensor(0.5)
    soft = distillation._binary(x, sigma, 0.0, "published")
    assert torch.allclose(soft, 5 * torch.tanh(x / 2.5))
    assert torch.allclose(distillation._binary(x, sigma, 0.3, "published"), torch.tanh(x / 0.5))
    assert torch.allclose(distillation._binary(x, sigma, 0.2999, "published"),
                          torch.tanh(x / 0.5), atol=0.01)
    hard = torch.where(x > 0, 1.0, -1.0)
    assert torch.allclose(distillation._binary(x, sigma, 0.5999, "published")[x != 0], hard[x != 0])
    assert torch.equal(distillation._binary(x, sigma, 0.6, "published"), hard)
    assert torch.equal(distillation._binary(x, sigma, 0.0, "straight-through"), hard)


def test_gradient_of_the_sign():
    x = torch.tensor([-2.0, -0.4, 0.0, 0.5, 0.6], requires_grad=True)
    distillation._Sign.apply(x, torch.tensor(0.5)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 2, 2, 0]


def test_sigmas(encoder):
    """Of one batch without padding they are those of the golden model's logit_scale."""
    passages = [encoder.tokens(_prose(i, 30))[:40] for i in range(4)]
    sigma_q, sigma_k = distillation._sigmas(encoder, passages, _plan(batch=4))
    kept = distillation._Teacher()
    with torch.no_grad():
        encoder.hidden(torch.tensor(passages), kept)
    for layer in range(2):
        q, k = (x.transpose(0, 1).reshape(4, -1, 8).numpy() for x in kept.kept[layer])
        found = (sigma_q[layer] * sigma_k[layer]).numpy() / 8 ** 0.5
        assert found == pytest.approx(quantize.logit_scale(q, k), rel=1e-2)


def test_same_seed_same_weights(encoder):
    first, second, other = (distill(encoder, [_prose(0)], _plan(steps=3, seed=seed))
                            for seed in (1, 1, 2))
    key = "encoder.layer.0.attention.self.query.weight"
    weights = [x.network.module.state_dict()[key] for x in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_going_on(encoder):
    first = distill(encoder, [_prose(0)], _plan())
    # Without a gradient worth the name it stays where it was.
    held = distill(encoder, [_prose(0)], _plan(steps=1, rate=1e-12, qk_rate=1e-12),
                   start=first.network)
    assert held.after == pytest.approx(first.after, abs=1e-3)
    assert (held.before, held.passages) == (first.before, first.passages)
    further = distill(encoder, [_prose(0)], _plan(rate=1e-3, qk_rate=2e-3), start=first.network)
    assert further.after > first.after


def test_rounds():
    """Shares 25, 15 and 9 of 49; what is left of each falls to 0."""
    plan = _plan(rounds=3)
    found = [distillation._round(plan, done / 49) for done in (0, 12.5, 25, 32.5, 40, 44.5, 49, 60)]
    assert [index for index, _ in found] == [0, 0, 1, 1, 2, 2, 2, 2]
    assert [share for _, share in found] == pytest.approx([0, 0.5, 0, 0.5, 0, 0.5, 1, 1])
    assert distillation._round(_plan(rounds=1), 0.7) == (0, pytest.approx(0.7))


def test_rates_and_stages_of_rounds(encoder, monkeypatch):
    """Further rounds have 0.6 of the rates, are hard from the start, and end without the maps."""
    done, rates = [], []
    loss, step = distillation._loss, torch.optim.AdamW.step
    monkeypatch.setattr(distillation, "_loss", lambda *given: (
        done.append(given[-1]), loss(*given))[1])
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: (
        rates.append([group["lr"] for group in self.param_groups]), step(self))[1])
    distill(encoder, [_prose(0)], _plan(steps=49, rounds=3, stages="published"))
    assert done[:25] == pytest.approx(np.arange(25) / 25)
    assert done[25:40] == pytest.approx(np.maximum(np.arange(15) / 15, 0.6))
    assert done[40:] == pytest.approx(np.maximum(np.arange(9) / 9, 0.6))
    own, others = np.array(rates).T
    assert own == pytest.approx(2 * others)
    for first, last, most in ((0, 25, 2e-3), (25, 40, 1.2e-3), (40, 49, 1.2e-3)):
        falling = most * (1 - np.arange(1, last - first) / (last - first)) / 0.97
        assert others[first + 1:last] == pytest.approx(falling)
        assert others[first] == pytest.approx(most * 1e-3 / 0.03)


def test_mean_of_rounds(encoder, monkeypatch):
    key = "encoder.layer.1.output.dense.weight"
    kept = []
    original = AveragedModel.update_parameters

    def watch(self, module):
        kept.append(module.state_dict()[key].clone())
        original(self, module)

    monkeypatch.setattr(AveragedModel, "update_parameters", watch)
    for steps, rounds, ends in ((7, 3, 3), (7, 1, 1), (1, 3, 1)):
        kept.clear()
        found = distill(encoder, [_prose(0)], _plan(steps=steps, rounds=rounds)).network.module
        assert len(kept) == ends
        assert torch.allclose(found.state_dict()[key], torch.stack(kept).mean(0), atol=1e-7)
        assert ends == 1 or not torch.allclose(kept[0], kept[-1], atol=1e-5)


def test_start_of_another_model(encoder, decoder_folder, encoder_folder, text, tmp_path, capsys):
    out = tmp_path / "made"
    assert cli.main([*_command(encoder_folder, out, text), "--steps", "1", "--start",
                     str(decoder_folder)]) == 2
    assert " is not a student of hf:" in capsys.readouterr().err
    assert not out.exists()


def test_start_by_command(encoder_folder, text, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli.main([*_command(encoder_folder, first, text), "--steps", "2"]) == 0
    assert cli.main([*_command(encoder_folder, second, text), "--steps", "2", "--start",
                     str(first)]) == 0
    assert cli.main([*_command(encoder_folder, tmp_path / "third", text), "--steps", "2",
                     "--start", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def _command(folder, out, text, *options):
    return ["distill", "--model", f"hf:{folder}", "-o", str(out), "--text",
            str(text(_prose(0), "a.txt")), "--n", "4", "--passage", "40", *options]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_command(kind, encoder_folder, decoder_folder, text, tmp_path, capsys):
    folder = encoder_folder if kind == "encoder" else decoder_folder
    measured = "cosine" if kind == "encoder" else "loss"
    out = tmp_path / "made"
    assert cli.main([*_command(folder, out, text), "--steps", "2", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {measured, f"{measured}_before", f"{measured}_teacher", "seconds"} <= said.keys()
    assert said["steps"] == 2
    network = load(f"hf:{out}")
    assert (network.kind, network.pooling) == (kind, "mean")
    found = logit_scales(network)
    assert found is not None
    assert found.tolist() == said["logit_scale"]
    passed = []
    original = GoldenAttention.__init__

    def watch(self, network, method, progress=None):
        passed.append(method.logit_scale)
        original(self, network, method, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GoldenAttention, "__init__", watch)
        assert cli.main(["evaluate", "--model", f"hf:{out}", "--text", str(tmp_path / "a.txt"),
                         "--method", "had", "--n", "4", "--tokens", "100",
                         *(["--passage", "40"] if kind == "encoder" else [])]) == 0
    assert (passed[0] == found).all()
    heads = tmp_path / "heads.npz"
    assert cli.main(["capture", "--model", f"hf:{out}", "--text", str(tmp_path / "a.txt"),
                     "--tokens", "30", "--layers", "1", "--heads", "0,2", "-o", str(heads)]) == 0
    with np.load(heads) as arrays:
        assert arrays["logit_scale"].tolist() == found[1, [0, 2]].tolist()
    # It is not overwritten.
    capsys.readouterr()
    assert cli.main([*_command(folder, out, text), "--steps", "2"]) == 2
    assert "made already exists; give another folder" in capsys.readouterr().err


def test_minutes(encoder_folder, text, tmp_path, capsys):
    assert cli.main([*_command(encoder_folder, tmp_path / "made", text), "--minutes", "0.005"]) == 0
    assert "distilled with n 4, " in capsys.readouterr().out


@pytest.mark.parametrize(("options", "said"), [
    (["--n", "0"], "n must be at least 1, not 0"),
    (["--steps", "0"], "steps must be at least 1, not 0"),
    (["--minutes", "0"], "minutes must be greater than 0, not 0.0"),
    (["--minutes", "1", "--steps", "1"], "either steps or minutes must be given"),
    (["--stages", "soft"], ("Invalid value for '--stages': 'soft' "
     "is not one of 'straight-through', 'published'.")),
    (["--rounds", "0"], "rounds must be at least 1, not 0"),
    (["--passage", "32"], "passage must be at least 33, not 32"),
    (["--passage", "97"], "takes at most 96 tokens, not 97"),
    (["--batch", "0"], "batch must be at least 1, not 0"),
    (["--rate", "-1"], "rate must be greater than 0, not -1.0"),
    (["--qk-rate", "inf"], "qk_rate must be greater than 0, not inf"),
    (["--seed", "-1"], "seed must be at least 0, not -1"),
])
def test_bad_options(encoder_folder, text, tmp_path, capsys, options, said):
    out = tmp_path / "made"
    assert cli.main(_command(encoder_folder, out, text, *options)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_short_text(encoder_folder, text, tmp_path, capsys):
    out = tmp_path / "made"
    assert cli.main(["distill", "--model", f"hf:{encoder_folder}", "-o", str(out), "--text",
                     str(text("a short text")), "--passage", "40", "--steps", "1"]) == 2
    assert "the texts make 0 passages of up to 40 tokens, but at least 4 are needed" in \
        capsys.readouterr().err


def test_too_little_memory(encoder, monkeypatch):
    monkeypatch.setattr(distillation, "available_memory", lambda: 1000)
    with pytest.raises(NetworkError, match=(
            r"^distilling hf:.* needs about 0.0 GB of memory, but only 0.0 GB are free; take a "
            r"smaller batch or shorter passages$")):
        distill(encoder, [_prose(0)], _plan())


def test_bad_logit_scales(encoder_folder, tmp_path):
    network = load(f"hf:{encoder_folder}")
    assert logit_scales(network) is None
    for content, said in ((b"x", "is damaged; distil the model again"), (None, (
            "must hold one logit scale for each of the 8 heads, finite and not negative"))):
        file = encoder_folder / distillation.LOGIT_SCALES
        try:
            if content is None:
                np.savez(file, logit_scale=np.ones(3))
            else:
                file.write_bytes(content)
            with pytest.raises(NetworkError, match=said):
                logit_scales(network)
        finally:
            file.unlink()
