import json

import pytest


torch = pytest.importorskip("torch", reason="the extra models is not installed")

from nearbit import cli
from nearbit_model import quantize
from nearbit_nets.decoding import HEADROOM, Decoder, generate
from nearbit_nets.errors import NetworkError
from nearbit_nets.golden import Method, codes_of
from nearbit_nets.network import Past


PROMPT = "the quick brown fox"


def _method(network, name="hash", **given):
    return Method(name=name, codes=codes_of(network, "hadamard") if name == "hash" else None,
                  **{"n": 4, **given})


@pytest.mark.parametrize("name", ["hash", "had", "dense"])
def test_token_by_token_equals_all_at_once(decoder, name):
    """Appending and asking gives what one call with all tokens gives, bit for bit.

    With the unit of values, the step of keys and the logit_scale fixed by the same prompt.
    """
    ids = decoder.tokens(PROMPT + " jumps")
    method = _method(decoder, name, sink=1, recent=1)
    outputs = []
    for cut in (len(PROMPT), len(ids)):
        attend, past = Decoder(decoder, method, 64), Past()
        with torch.inference_mode():
            decoder.hidden(torch.tensor([ids[:len(PROMPT)]]), attend, past=past)
            parts = [[token] for token in ids[cut:]] if cut == len(PROMPT) \
                else [ids[len(PROMPT):]]
            found = [decoder.hidden(torch.tensor([part]), attend, past=past) for part in parts]
        outputs.append(torch.cat(found, dim=1))
    assert torch.allclose(*outputs, atol=1e-4)


def test_all_keys_are_near_the_model_as_it_is(decoder):
    ids = decoder.tokens(PROMPT + " jumps")
    attend, past = Decoder(decoder, _method(decoder, "dense"), 64), Past()
    with torch.inference_mode():
        expected = decoder.hidden(torch.tensor([ids]))[0]
        found = torch.cat([decoder.hidden(torch.tensor([part]), attend, past=past)[0]
                           for part in (ids[:19], *([token] for token in ids[19:]))])
    assert ((found - expected).norm(dim=1) / expected.norm(dim=1)).max() < 0.04


def test_the_likeliest_token(decoder):
    ids = decoder.tokens(PROMPT)
    attend = Decoder(decoder, _method(decoder), 64)
    tokens = list(generate(decoder, ids, attend, 3))
    again, past, new = Decoder(decoder, _method(decoder), 64), Past(), ids
    with torch.inference_mode():
        for token in tokens:
            states = decoder.hidden(torch.tensor([new]), again, past=past)
            assert int(decoder.module.lm_head(states[0, -1]).argmax()) == token
            new = [token]


def test_stores_hold_what_quantizing_gives(decoder):
    q, k, v = (torch.randn((1, heads, 6, 8), generator=torch.Generator().manual_seed(heads))
               for heads in (4, 2, 2))
    attend = Decoder(decoder, _method(decoder), 64)
    first = torch.zeros((1, 6), dtype=torch.int64)
    attend(0, q, k, v, torch.arange(1, 7)[None], first)
    attend(0, q[:, :, :1], 5 * k[:, :, :1], 9 * v[:, :, :1], torch.tensor([[7]]), first[:, :1])
    assert attend.saturated > 0
    store = attend._stores[0]
    unit = HEADROOM * quantize.values(v[0].numpy(), rotated=True).unit
    expected = quantize.values(v[0].numpy(), unit=unit, rotated=True)
    assert store.tokens == 7
    assert (store.elements[:, :6] == expected.elements).all()
    assert (store.scales[:, :6] == expected.scales).all()
    assert (store.scales[:, 6] == 65535).all()


def test_room(decoder):
    attend = Decoder(decoder, _method(decoder), len(PROMPT))
    with pytest.raises(NetworkError, match=r"^the stores hold 19 tokens, not 20$"):
        list(generate(decoder, decoder.tokens(PROMPT), attend, 2))


def test_end_of_the_text(decoder, monkeypatch):
    ids = decoder.tokens(PROMPT)
    tokens = list(generate(decoder, ids, Decoder(decoder, _method(decoder), 64), 5))
    monkeypatch.setattr(decoder.module.config, "eos_token_id", tokens[2])
    found = list(generate(decoder, ids, Decoder(decoder, _method(decoder), 64), 5))
    assert found == tokens[:tokens.index(tokens[2])]


class _Broken:
    """A witness that answers one query wrongly."""

    layer, head = 1, 2

    def __init__(self):
        self.asked = []

    def append(self, tokens):
        self.tokens = tokens

    def ask(self, asked, golden):
        self.asked.append(asked)
        return golden.output_int + 40


def test_witness_answers_for_its_head(decoder):
    """What a witness says is what the network goes on with."""
    ids = decoder.tokens(PROMPT)
    states = []
    for witness in (None, _Broken()):
        attend = Decoder(decoder, _method(decoder), 64, witness)
        with torch.inference_mode():
            states.append(decoder.hidden(torch.tensor([ids]), attend))
    assert not torch.allclose(*states, atol=1e-3)
    assert witness.asked[0].heads == witness.asked[0].kv_heads == 1
    assert witness.tokens.k_codes.shape == (len(ids), 1)


def test_refused(decoder, encoder):
    with pytest.raises(NetworkError, match=r"is an encoder, which generates no text$"):
        Decoder(encoder, _method(encoder), 64)
    with pytest.raises(NetworkError, match=r"^method topn needs the keys themselves"):
        Decoder(decoder, _method(decoder, "topn"), 64)


def test_command(decoder_folder, capsys):
    arguments = ["generate", "--model", f"hf:{decoder_folder}", "--prompt", PROMPT, "--tokens", "5",
                 "--n", "4"]
    assert cli.main([*arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["tokens"]) == 5
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.startswith(PROMPT + said["text"])


def test_hardware_in_the_running_model(decoder_folder, capsys):
    """One head by the compiled hardware: every answer equals the golden model's."""
    assert cli.main(["generate", "--model", f"hf:{decoder_folder}", "--prompt", PROMPT, "--tokens",
                     "6", "--n", "4", "--sink", "1", "--recent", "2", "--hardware", "1.3",
                     "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["hardware"]
    assert (said["layer"], said["head"]) == (1, 3)
    assert said["answers"] == said["equal"] == len(PROMPT) + 5
    assert said["cycles"] > 0


def test_hardware_that_differs(decoder_folder, capsys, monkeypatch):
    from nearbit import witness

    attend = witness.Device.attend

    def broken(*arguments, **options):
        run = attend(*arguments, **options)
        run.result.output_int[0, 0, 0] ^= 1
        return run

    monkeypatch.setattr(witness.Device, "attend", broken)
    assert cli.main(["generate", "--model", f"hf:{decoder_folder}", "--prompt", PROMPT, "--tokens",
                     "3", "--n", "4", "--sink", "1", "--recent", "2", "--hardware", "0.0"]) == 1
    assert "18 of 21 answers equal the golden model's" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "said"), [
    (["--hardware", "1"], "--hardware must be LAYER.HEAD such as 3.0, or all, not '1'"),
    (["--hardware", "2.0"], "--hardware 2.0: there is no such head, the layers are 0 to 1"),
    (["--tokens", "0"], "--tokens must be at least 1, not 0"),
    (["--tokens", "500"], "takes at most 128 tokens, not 519"),
    (["--method", "topn"], "method topn needs the keys themselves"),
])
def test_bad_options(decoder_folder, capsys, options, said):
    assert cli.main(["generate", "--model", f"hf:{decoder_folder}", "--prompt", PROMPT,
                     *options]) == 2
    assert said in capsys.readouterr().err


def test_empty_prompt(decoder_folder, capsys):
    assert cli.main(["generate", "--model", f"hf:{decoder_folder}", "--prompt", ""]) == 2
    assert "--prompt must not be empty" in capsys.readouterr().err
