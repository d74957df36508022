"""All heads of a running model by the hardware, from one memory."""

import json
from types import SimpleNamespace

import numpy as np
import pytest


torch = pytest.importorskip("torch", reason="the extra models is not installed")

from nearbit import cli, whole_model
from nearbit_model.attention import attend
from nearbit_model.config import Config, Memory, Rescore
from nearbit_model.mapping import Mapping
from nearbit_model.memory import plan_memory
from nearbit_nets.accelerators import check_fit, fitted
from nearbit_nets.decoding import Decoder, generate
from nearbit_nets.errors import NetworkError
from nearbit_nets.golden import Method, codes_of


PROMPT = "the quick brown fox"
TOKENS = 4
N, SINK, RECENT = 4, 1, 2
KEYS = N + SINK + RECENT
SEED = 3

# SmolLM2: 30 layers of 9 query heads on 3 key heads of 64 elements.
SMOLLM2 = SimpleNamespace(name="smollm2", layers=30, heads=9, kv_heads=3, head_dim=64,
                          value_dim=64)


def _method(network, name="hash", n=N, sink=SINK, recent=RECENT):
    return Method(name=name, n=n, sink=sink, recent=recent,
                  codes=codes_of(network, "sign") if name == "hash" else None)


def _arguments(folder, *options):
    return ["generate", "--model", f"hf:{folder}", "--prompt", PROMPT, "--tokens", str(TOKENS),
            "--n", str(N), "--sink", str(SINK), "--recent", str(RECENT), "--memory-seed", str(SEED),
            "--memory-latency", "20", "--hardware", "all", *options]


# Beats of a row on a bus of 64 bits: 8 values of 8 bits and a scale, after a key of 8 x 16 bits.
@pytest.mark.parametrize(("method", "row_beats"), [("hash", 4), ("had", 2)])
def test_all_heads(decoder, decoder_folder, capsys, method, row_beats):
    """Every head of every token equals the golden model, and reads what it selects."""
    assert cli.main(_arguments(decoder_folder, "--method", method, "--json", "--clock", "50",
                               "--clock", "200")) == 0
    said = json.loads(capsys.readouterr().out)
    ids, chosen = decoder.tokens(PROMPT), _method(decoder, method)
    room = len(ids) + TOKENS
    attention = Decoder(decoder, chosen, room, given=fitted(decoder, chosen, room))
    assert said["tokens"] == list(generate(decoder, ids, attention, TOKENS))
    found = said["hardware"]
    heads, key_heads = decoder.layers * decoder.heads, decoder.layers * decoder.kv_heads
    assert found["answers"] == found["equal"] == TOKENS * heads
    assert found["tokens"] == TOKENS
    # A code is a byte, and from 19 to 22 of them are three beats.
    assert found["bytes_per_token"] == 8 * (3 * key_heads + KEYS * row_beats * heads)
    seen = sum(range(len(ids), room)) / TOKENS
    assert found["dense_bytes_per_token"] == key_heads * seen * (8 + 8) * 2
    assert found["dense_cycles_per_token"] == found["dense_bytes_per_token"] / 16
    cycles = found["cycles_per_token"]
    assert sum(found["shares"].values()) == pytest.approx(found["bytes_per_token"] / 8 / cycles)
    assert [at["tokens_per_second"] for at in found["at"]] == pytest.approx(
        [50e6 / cycles, 200e6 / cycles])


@pytest.mark.parametrize("method", ["hash", "had"])
def test_stalls(decoder_folder, capsys, method):
    """Whenever the memory answers, answers are the same; slower ones take more cycles."""
    cycles = []
    for options in ([], ["--memory-pause", "0.3"]):
        assert cli.main(_arguments(decoder_folder, "--method", method, *options, "--json")) == 0
        found = json.loads(capsys.readouterr().out)["hardware"]
        assert found["answers"] == found["equal"] == 32
        cycles.append(found["cycles_per_token"])
    assert cycles[1] > cycles[0]


@pytest.mark.parametrize("part", ["code", "row"])
def test_spoilt_byte(decoder_folder, capsys, monkeypatch, part):
    """A bit of what memory has of one head is noticed in the answers that depend on it."""
    append = whole_model.WholeModel.append

    def spoiling(self, layer, first, *arguments):
        append(self, layer, first, *arguments)
        if layer == 1 and first == 0:
            # The first token of key head 1, which is a sink.
            plan, head, place = self.image.plan, 1 * 2 + 1, int(self._pages[0]) * 256
            at = plan.code_address(head, place) if part == "code" \
                else plan.row_address(head, place) + 16 # behind the key
            self.image.octets[at] ^= 0x80

    monkeypatch.setattr(whole_model.WholeModel, "append", spoiling)
    assert cli.main(_arguments(decoder_folder, "--json")) == 1
    found = json.loads(capsys.readouterr().out)["hardware"]
    assert found["answers"] == 32
    # Two query heads have the key head; a distance is that of a changed bit, a value may not count.
    wrong = found["answers"] - found["equal"]
    assert wrong == 2 * TOKENS if part == "code" else 1 <= wrong <= 2 * TOKENS


def test_given_configuration(decoder, decoder_folder, capsys, tmp_path):
    """A configuration of one's own; a rescoring unit that the method does not use is left idle.

    With an exp table for one of the two heads of a command.
    """
    path = tmp_path / "own.toml"
    path.write_text(fitted(decoder, _method(decoder), len(PROMPT) + TOKENS).to_toml())
    options = ["--method", "had", "--config", str(path)]
    assert cli.main(_arguments(decoder_folder, *options)) == 0
    said = capsys.readouterr().out
    assert "All 8 heads by the hardware" in said
    assert "32 of 32 answers equal the golden model's bit for bit" in said
    assert "Attention at 100 MHz" in said


def test_the_hardware_answers(decoder, monkeypatch):
    """What it says is what the network goes on with, for the newest token of each layer."""
    class Witness:
        appended, asked = [], []

        def append(self, layer, first, k_codes, values, rescore_keys):
            self.appended.append((layer, first, k_codes.shape[1], len(rescore_keys)))

        def ask(self, layer, asked, golden):
            self.asked.append((layer, asked.queries, int(asked.counts[0])))
            np.testing.assert_array_equal(golden.output_int, attend(asked).output_int)
            return golden.output_int + 40

    ids, states = decoder.tokens(PROMPT), []
    for witness in (None, Witness()):
        attention = Decoder(decoder, _method(decoder), 64, cache_witness=witness)
        with torch.inference_mode():
            states.append(decoder.hidden(torch.tensor([ids]), attention)[0])
    assert torch.allclose(states[0][:-1], states[1][:-1])
    assert not torch.allclose(states[0][-1], states[1][-1], atol=1e-3)
    assert witness.appended == [(0, 0, 19, 2), (1, 0, 19, 2)]
    assert witness.asked == [(0, 1, 19), (1, 1, 19)]


def test_fitted_to_smollm2():
    method = Method(name="had", n=112, sink=4, recent=12)
    assert fitted(SMOLLM2, method, 8000) == Config(
        key_bits=64, value_dim=64, capacity=8192, queries=3, lanes=1, value_lanes=8, top_n=128,
        exp_tables=9, refine_lanes=2, selection_block=512, memory=Memory(heads=90))
    method = Method(name="hash", codes=Mapping.sign(64, heads=270, kv_heads=90), n=112, sink=4,
                    recent=12)
    assert fitted(SMOLLM2, method, 8000).rescore == Rescore(
        head_dim=64, lanes=16, element_bits=12)


@pytest.mark.parametrize("bus_bits", [32, 64, 128, 256, 512])
@pytest.mark.parametrize("sizes", [
    {"head_dim": 8, "value_dim": 8}, {"head_dim": 80, "value_dim": 12},
    {"head_dim": 128, "value_dim": 128, "heads": 32, "kv_heads": 8, "layers": 80},
    {"head_dim": 256, "value_dim": 512, "heads": 16, "kv_heads": 1},
], ids=lambda sizes: "-".join(map(str, sizes.values())))
def test_fitted(sizes, bus_bits):
    """Models of other sizes have a configuration, which fits them and its memory."""
    network = SimpleNamespace(**{**vars(SMOLLM2), **sizes})
    heads, kv_heads = (network.layers * each for each in (network.heads, network.kv_heads))
    for method in (Method(name="had"), Method(name="hash", codes=Mapping.hadamard(
            32, network.head_dim, heads=heads, kv_heads=kv_heads))):
        config = fitted(network, method, 5000, bus_bits=bus_bits)
        check_fit(config, network, method, 5000)
        assert config.capacity == 5120
        assert plan_memory(config).end <= 1 << config.memory.address_bits


def test_codes_of_each_query_head():
    """If each query head has codes of its own, it has a cache of its own, too."""
    rng = np.random.default_rng(SEED)
    weights = [(rng.standard_normal((270, 32, 64)), np.zeros((270, 32)))]
    method = Method(name="hash", codes=Mapping.learned(weights, weights, kv_heads=90))
    config = fitted(SMOLLM2, method, 1000)
    assert (config.queries, config.memory.heads) == (1, 270)


FITTED = Config(
    key_bits=64, value_dim=64, capacity=1024, queries=3, lanes=1, value_lanes=8, top_n=80,
    exp_tables=3, refine_lanes=2, memory=Memory(heads=90))


@pytest.mark.parametrize(("config", "said"), [
    (FITTED.replace(memory=None), "has no memory, which all heads need"),
    (FITTED.replace(key_bits=32), r"^key_bits of the configuration must be 64 for smollm2"),
    (FITTED.replace(value_dim=32), r"^value_dim of the configuration must be 64 "),
    (FITTED.replace(memory=Memory(heads=89)), r"^memory\.heads .* at least 90 .* not 89$"),
    (FITTED.replace(capacity=768), r"^capacity .* at least 1000 .* not 768$"),
    (FITTED.replace(top_n=79), r"^top_n .* at least 80 .* not 79$"),
    (FITTED.replace(memory=Memory(heads=90, pages=3)), r"^memory\.pages .* at least 4 .* not 3$"),
    (FITTED.replace(memory=Memory(heads=90, address_bits=16)), "beyond the addresses"),
])
def test_does_not_fit(config, said):
    with pytest.raises(ValueError if "addresses" in said else NetworkError, match=said):
        check_fit(config, SMOLLM2, Method(name="had", sink=4, recent=12), 1000)


def test_hash_needs_rescoring():
    method = Method(name="hash", codes=Mapping.sign(64, heads=270, kv_heads=90), n=64, sink=4,
                    recent=12)
    with pytest.raises(NetworkError, match=r"^method hash needs .* a rescoring unit"):
        check_fit(FITTED, SMOLLM2, method, 1000)
    check_fit(FITTED.replace(rescore=Rescore(head_dim=64, lanes=16, element_bits=12)), SMOLLM2,
              method, 1000)


@pytest.mark.parametrize(("options", "said"), [
    (["--hardware", "0.0", "--memory-latency", "9"], "--memory-latency needs --hardware all"),
    (["--memory-shared-pace"], "--memory-shared-pace needs --hardware all"),
    (["--preset", "tiny"], "--preset needs --hardware all"),
    (["--clock", "100"], "--clock needs --hardware all"),
    (["--hardware", "all", "--method", "dense"],
     "--hardware all needs --method had or hash, not dense"),
    (["--hardware", "all", "--clock", "0"], "--clock must be more than 0 MHz"),
    (["--hardware", "all", "--memory-width", "65"],
     "--memory-width must be 32, 64, 128, 256 or 512, not 65"),
    (["--hardware", "all", "--preset", "tiny", "--memory-width", "64"],
     "--memory-width is that of a configuration fitted to the model"),
    (["--hardware", "all", "--preset", "tiny"], "the configuration has no memory"),
    (["--hardware", "all", "--memory-pace", "2"], "--memory-pace must be from 0.001 to 1"),
    (["--prompt-file", "other.txt"], "--prompt and --prompt-file exclude each other"),
])
def test_bad_options(decoder_folder, capsys, options, said):
    assert cli.main(["generate", "--model", f"hf:{decoder_folder}", "--prompt", PROMPT,
                     *options]) == 2
    assert said in capsys.readouterr().err


def test_prompt_file(decoder_folder, capsys, tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text(PROMPT, encoding="utf-8")
    texts = []
    for options in (["--prompt", PROMPT], ["--prompt-file", str(path)]):
        assert cli.main(["generate", "--model", f"hf:{decoder_folder}", "--tokens", "3", "--json",
                         *options]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1]
    assert cli.main(["generate", "--model", f"hf:{decoder_folder}"]) == 2
    assert "--prompt is missing" in capsys.readouterr().err
    assert cli.main(["generate", "--model", f"hf:{decoder_folder}", "--prompt-file",
                     str(tmp_path / "none.txt")]) == 2
    assert "none.txt: No such file or directory" in capsys.readouterr().err
