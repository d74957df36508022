"""A model is what it claims to be, or it is refused."""

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest


torch = pytest.importorskip("torch", reason="the extra models is not installed")

from nearbit import cli
from nearbit_model.attention import attention
from nearbit_model.mapping import Mapping
from nearbit_nets import codes, distill, loading, network
from nearbit_nets.capture import capture
from nearbit_nets.decoding import Decoder, generate
from nearbit_nets.errors import NetworkError
from nearbit_nets.evaluation import evaluate_decoder
from nearbit_nets.golden import GoldenAttention, Method, accelerator, by_range, codes_of
from nearbit_nets.network import Network, Past, Sizes, reference_attention, sizes

from .families import DECODERS, ENCODERS, tiny


TEXT = "the quick brown fox jumps over the lazy dog; and so on. "

OWN_CODE = r"computes its attention in code that cannot be replaced; take a"
HYBRID = r"whose layer 0 has no attention: it is a hybrid with layers that the accelerator does not"

REFUSED = {
    "gemma2": r"^the attention of gemma2, layer 0, caps its scores \(softcap\), which the ",
    "gpt_oss": r"^the attention of gpt_oss, layer 0, has learned sinks \(s_aux\), logits that have "
               r"no key in the range a query sees, which the accelerator does not compute; ",
    "bloom": OWN_CODE, "falcon": OWN_CODE, "mpt": OWN_CODE, "mpnet": OWN_CODE,
    "bamba": HYBRID, "jamba": HYBRID, "lfm2": HYBRID,
}
"""Families whose attention cannot be replaced, and what is said; all others work."""

WINDOWS = {"mistral": [12, 12], "qwen2": [60, 12], "gemma3_text": [12, 60], "phi3": [12, 12],
           "olmo3": [12, 60], "starcoder2": [12, 12], "cohere2": [12, 60], "exaone4": [12, 60],
           "llama4_text": [12, 60], "modernbert": [60, 17]}
"""The most keys that a query of each layer sees, of 60; in other families all."""


@pytest.fixture(autouse=True)
def _single_thread():
    torch.set_num_threads(1)


def make(folder, family, **changes):
    """A tiny model of a family, loaded."""
    from tokenizers import Tokenizer
    from transformers import AutoModel, AutoModelForCausalLM

    is_encoder = family in ENCODERS
    tiny(family, folder, **changes)
    module = (AutoModel if is_encoder else AutoModelForCausalLM).from_pretrained(
        folder, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    return loading._network(f"hf:{folder}", "encoder" if is_encoder else "decoder", module,
                            tokenizer)


def _ids(count=60, seed=1, batch=1):
    return torch.randint(4, 99, (batch, count), generator=torch.Generator().manual_seed(seed))


def _nothing(layer, q, k, v, counts, first):
    return torch.zeros((*q.shape[:3], v.shape[3]))


def _states(network, ids, attend=None, **given):
    """What the model itself returns: logits, or the hidden states of an encoder."""
    with torch.no_grad():
        output = network.run(ids, attend, **given) if attend is not None \
            else network.module(ids)
    return output.logits if network.kind == "decoder" else output.last_hidden_state


def _difference(found, wanted):
    return float((found - wanted).abs().max() / wanted.std())


@pytest.mark.parametrize("family", [*DECODERS, *ENCODERS])
def test_exact_attention_is_the_models_own(family, tmp_path):
    """Logits, or hidden states, are the model's own to 1e-4, or there is a sentence."""
    if family in REFUSED:
        with pytest.raises(NetworkError, match=REFUSED[family]) as raised:
            make(tmp_path, family)
        assert "\n" not in str(raised.value)
        return
    made, ids = make(tmp_path, family), _ids()
    wanted = _states(made, ids)
    most = {}

    def attend(layer, q, k, v, counts, first):
        assert (first + counts - 1 >= torch.arange(60)).all()
        assert made.kind == "encoder" or (first + counts - 1 == torch.arange(60)).all()
        most[layer] = int(counts.max())
        return reference_attention(layer, q, k, v, counts, first)

    assert _difference(_states(made, ids, attend), wanted) < 1e-4
    assert most == dict(enumerate(WINDOWS.get(family, [60, 60])))
    # Attention has a part in them, and so has each key.
    assert _difference(_states(made, ids, _nothing), wanted) > 0.1
    fewer = _states(made, ids, lambda layer, q, k, v, counts, first: reference_attention(
        layer, q, k, v, counts - (counts > 1).long(), first))
    assert _difference(fewer, wanted) > 0.1
    # What learns at a rate of its own has a known name in each layer.
    names = [name for name, _ in made.module.named_parameters()
             if any(part in name for part in distill._PROJECTIONS)]
    assert {re.search(r"\.(\d+)\.", name)[1] for name in names} == {"0", "1"}


@pytest.mark.parametrize("family", [family for family in DECODERS if family not in REFUSED])
def test_steps_are_the_models_own(family, tmp_path):
    """Losses are the model's own, and so is a text that is continued token by token."""
    made, ids = make(tmp_path, family), _ids()
    with torch.no_grad():
        expected = made.module(input_ids=ids, labels=ids).loss.item()
    row = ids[0].tolist()
    assert made.losses(row, reference_attention).mean() == pytest.approx(expected, abs=1e-4)
    assert made.losses(row).mean() == pytest.approx(expected, abs=1e-5)
    keys = network._Steps()
    past, found = Past(), []
    for part in (ids[:, :20], *ids[:, 20:30].split(1, dim=1)):
        with torch.no_grad():
            found.append(made.logits(part, keys, last=1, past=past))
    wanted = _states(made, ids[:, :30])[:, 19:]
    assert _difference(torch.cat(found, dim=1), wanted) < 1e-4


@pytest.mark.parametrize("family", [family for family in ENCODERS if family not in REFUSED])
def test_padded_batches_are_the_models_own(family, tmp_path):
    made, ids = make(tmp_path, family), _ids(batch=2)
    lengths = torch.tensor([60, 23])
    together = made.hidden(ids, reference_attention, lengths=lengths)
    for states, row, length in zip(together, ids, lengths.tolist(), strict=True):
        assert _difference(states[:length], _states(made, row[None, :length])[0]) < 1e-4


@pytest.mark.parametrize("family", ["granite", "cohere", "gemma3_text", "llama4_text"])
def test_logits_in_blocks(family, tmp_path, monkeypatch):
    """What lies between hidden states and logits is in each block."""
    changes = {"final_logit_softcapping": 2.0} if family == "gemma3_text" else {}
    made, ids = make(tmp_path, family, **changes), _ids()[0].tolist()
    expected, without = made.losses(ids), made.losses(ids, _nothing)
    monkeypatch.setattr(network, "_ROWS", 7)
    # The first use, which runs the model for comparison, too.
    assert np.allclose(replace(made).losses(ids, _nothing), without, atol=1e-4)
    for attend in (None, reference_attention):
        assert np.allclose(made.losses(ids, attend), expected, atol=1e-4)
    assert np.allclose(made.losses(ids, scored=15), expected[-15:], atol=1e-4)
    assert np.allclose(made.losses(ids), expected, atol=1e-4)


def test_memory_beside_keys_and_values(tmp_path, monkeypatch):
    """Each layer of this hybrid has attention, and a state of its own beside it."""
    monkeypatch.setitem(DECODERS, "falcon_h1", {
        "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
        "mamba_chunk_size": 16})
    made = make(tmp_path, "falcon_h1")
    assert _difference(_states(made, _ids(), reference_attention), _states(made, _ids())) < 1e-4
    with pytest.raises(NetworkError, match=r"is of the family falcon_h1, which remembers more of a "
                                           r"text than keys and values, so it cannot "):
        made.verify(_ids(), steps=True)


def test_soft_cap_can_be_left_out(tmp_path):
    made = make(tmp_path, "gemma2", attn_logit_softcapping=None)
    assert _difference(_states(made, _ids(), reference_attention), _states(made, _ids())) < 1e-4


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [
    (2, 1, 80), (2, 2, 96), (1, 1, 128), (2, 1, 256), (6, 2, 8), (5, 1, 16)])
def test_head_sizes(heads, kv_heads, head_dim, tmp_path):
    made = make(tmp_path, "llama", num_attention_heads=heads, num_key_value_heads=kv_heads,
                head_dim=head_dim, hidden_size=8 * heads)
    _check_methods(made, _ids(40)[0].tolist())


@pytest.mark.parametrize("family", ["mistral", "gemma", "qwen2", "deepseek_v3", "llama4_text"])
def test_methods_on_families(family, tmp_path):
    """Windows, one key head for all, values of another width than keys."""
    _check_methods(make(tmp_path, family), _ids(40)[0].tolist())


def _check_methods(made, ids):
    """All methods with all keys lose little, with one key more."""
    for method in (Method(name="dense"), Method(name="topn", n=40), Method(
            name="hash", n=40, codes=codes_of(made, "hadamard"))):
        report, = evaluate_decoder(made, method, ids)
        assert report.loss == pytest.approx(report.loss_reference, abs=0.1)
        assert report.costs.keys_touched == report.costs.keys_dense
    for name in ("had", "topn"):
        report, = evaluate_decoder(made, Method(name=name, n=1), ids)
        assert abs(report.loss - report.loss_reference) > 0.005
        assert report.costs.keys_touched < report.costs.keys_dense
    assert report.loss == report.loss_topn


def test_costs_of_values_of_another_width(tmp_path):
    made = make(tmp_path, "deepseek_v3")
    assert sizes(made.name, made.kind, made.module) == Sizes(2, 4, 4, 24, 16)
    report, = evaluate_decoder(made, Method(name="had", n=5), _ids(40)[0].tolist())
    seen, touched = (2 * 4 * sum(min(count, most) for count in range(1, 41)) for most in (40, 5))
    assert report.costs.bytes_dense == seen * (24 + 16) * 2
    assert report.costs.bytes_read == seen * 3 + touched * (16 + 2)


@pytest.mark.parametrize("method", ["dense", "topn", "had", "hash"])
def test_window_by_the_golden_model(decoder, method):
    """Each query's answer is that to a store which holds no other keys than its own."""
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn((1, heads, 20, 8), generator=generator) for heads in (4, 2, 2))
    counts = torch.arange(1, 21).clamp_max(6)[None]
    first = torch.arange(20) + 1 - counts
    given = Method(name=method, n=3, sink=1, recent=1,
                   codes=codes_of(decoder, "hadamard") if method == "hash" else None,
                   logit_scale=np.full((2, 4), 0.5) if method == "had" else None)
    attend = GoldenAttention(decoder, given)
    found = attend(1, q, k, v, counts, first)[0]
    assert (attend.keys_dense, attend.keys_touched) == (
        4 * int(counts.sum()),
        4 * int(counts.clamp_max(20 if method == "dense" else 5).sum()))
    if method in ("dense", "topn"):
        weights = reference_attention(1, q, k, v, counts, first)[0]
        if method == "dense":
            assert torch.allclose(found, weights, atol=0.03)
        best = (q.reshape(2, 2, 20, 8) @ k[0, :, None].transpose(2, 3)).reshape(4, 20, 20)
        hidden = ~network._seen(20, counts, first)[0]
        most = best.masked_fill(hidden, -torch.inf).topk(5, dim=2).values[:, :, -1:]
        kept = (best >= most) & ~hidden
        if method == "topn":
            expected = torch.nn.functional.scaled_dot_product_attention(
                q, *(x.repeat_interleave(2, dim=1) for x in (k, v)), attn_mask=kept[None])[0]
            assert torch.allclose(found, expected, atol=0.03)
        return
    for query in range(20):
        part = slice(int(first[0, query]), query + 1)
        scale = {} if method == "had" else {
            "mapping": given.codes.choose(range(4, 8), range(2, 4)), "method": "hash"}
        expected = attention(
            q[0, :, query:query + 1].numpy(), k[0, :, part].numpy(), v[0, :, part].numpy(),
            accelerator(decoder, given, 20), n=3, sink=1, recent=1,
            logit_scale=np.full(4, 0.5), **scale).output[:, 0]
        # The units of values and keys are of fewer tokens here.
        assert np.allclose(found[:, query], expected, atol=0.03)


def test_problems_by_range(decoder):
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn((4, 5, 8), generator=generator).numpy() for _ in range(3))
    method = Method(name="hash", codes=codes_of(decoder, "sign"))
    prepared = attention(q, k, v, accelerator(decoder, method, 5), n=2, causal=True,
                         method="hash").prepared
    first, counts = np.array([0, 0, 1, 1, 2]), np.array([1, 2, 2, 3, 3])
    parts = list(by_range(prepared, counts, first))
    assert [(rows.start, rows.stop, part.first, part.counts.tolist()) for rows, part in parts] == [
        (0, 2, 0, [1, 2]), (2, 4, 1, [2, 3]), (4, 5, 2, [3])]
    assert all((part.rescore.queries == prepared.rescore.queries[:, rows]).all()
               and (part.rescore.multipliers == prepared.rescore.multipliers[:, rows]).all()
               and (part.q_codes == prepared.q_codes[:, rows]).all() for rows, part in parts)


# --- Masks --------------------------------------------------------------------------------------


def _mask(rows):
    return torch.tensor([[[[char == "x" for char in row] for row in rows]]])


@pytest.mark.parametrize(("rows", "first", "counts"), [
    (["x..", "xx.", "xxx"], [0, 0, 0], [1, 2, 3]),
    (["x..", "xx.", ".xx"], [0, 0, 1], [1, 2, 2]),
    (["xx.", "xxx", ".xx"], [0, 0, 1], [2, 3, 2])])
def test_ranges_of_masks(rows, first, counts):
    mask = _mask(rows)
    for given in (mask, torch.where(mask, 0.0, torch.finfo(torch.float32).min),
                  torch.where(mask, 0.0, -torch.inf)):
        found = network._range_of_mask(given, None, "here")
        assert [x.tolist() for x in found] == [[counts], [first]]


@pytest.mark.parametrize(("mask", "said"), [
    (_mask(["x...", "xx..", "x.x.", "xx.x"]),
     r"lets query 2 see the keys 0,2, which are not one contiguous range; take a model"),
    (_mask(["xx..", "xx..", "xxx.", "xxxx"]),
     r"is not causal: token 0 sees tokens up to 1, not only up to itself; take"),
    (_mask(["x...", "xx..", "xx..", "xxxx"]), r"is not causal: token 2 sees tokens up to 1, "),
    (_mask(["x...", "xx..", "....", "xxxx"]), r"lets query 2 see the keys of no token, which are "),
    (_mask(["x...", "xx..", "xxx.", "xxxx"]).float(), r"adds a bias to its scores \(ALiBi or "),
    (torch.cat([_mask(["x...", "xx..", "xxx.", "xxxx"]), _mask(["x...", ".x..", "xxx.", "xxxx"]),
                *[_mask(["x...", "xx..", "xxx.", "xxxx"])] * 2], dim=1),
     r"has a mask that differs from head to head, which the accelerator does not compute; "),
])
def test_masks_that_are_refused(decoder, mask, said):
    with pytest.raises(NetworkError, match=r"^the attention of llama, layer 0, " + said):
        decoder.run(_ids(4), reference_attention, attention_mask=mask)


def test_decoder_that_sees_what_comes(tmp_path):
    """Its mask says so, whatever the attention calls itself."""
    with pytest.raises(NetworkError, match=r"^the attention of llama, layer 0, is not causal: "
                                           r"token 0 sees tokens up to 7, not only up to"):
        make(tmp_path, "llama", is_causal=False)


def test_attributes_are_not_trusted(decoder, monkeypatch):
    """A decoder is causal by kind, and by its masks, whatever its attention says."""
    ids = _ids(30)
    wanted = _states(decoder, ids)
    for layer in decoder.module.model.layers:
        monkeypatch.delattr(layer.self_attn, "is_causal")
    assert _difference(_states(decoder, ids, reference_attention), wanted) < 1e-4


def test_listed():
    assert network._listed([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


# --- What is compared before the first answer -----------------------------------------------------


def _scaled(layer, q, k, v, counts, first):
    return 1.01 * reference_attention(layer, q, k, v, counts, first)


@pytest.fixture
def wrong(monkeypatch):
    """Exact attention that is not the model's."""
    monkeypatch.setattr(network, "reference_attention", _scaled)


DIFFERS = (r"is of the family llama, whose hidden states differ by [0-9.e-]+ of their size from "
           r"the model's own if exact attention replaces its attention, so it computes something ")


@pytest.mark.parametrize("use", [
    lambda made, ids: made.losses(ids, reference_attention), lambda made,
    ids: capture(made, ids, [0], [0]),
    lambda made, ids: made.hidden(torch.tensor([ids]), reference_attention),
    lambda made, ids: made.logits(torch.tensor([ids]), reference_attention, last=1),
    lambda made, ids: next(generate(made, ids, Decoder(made, Method(name="had"), 64), 1)),
    lambda made, ids: evaluate_decoder(made, Method(name="had"), ids)])
def test_first_use_is_compared(decoder, wrong, use):
    made = replace(decoder)
    with pytest.raises(NetworkError, match=DIFFERS):
        use(made, _ids(30)[0].tolist())


def test_encoder_is_compared(encoder, wrong):
    with pytest.raises(NetworkError, match=r"is of the family bert, whose hidden states differ "):
        replace(encoder).embed([[2, 40, 50, 60, 3]], reference_attention)


def test_compared_once(decoder, monkeypatch):
    made = replace(decoder)
    made.losses(_ids(30)[0].tolist(), reference_attention)
    monkeypatch.setattr(network, "reference_attention", _scaled)
    made.losses(_ids(30)[0].tolist(), reference_attention)
    with pytest.raises(NetworkError, match=r"whose logits of a next token differ by "):
        made.logits(_ids(30), reference_attention, last=1, past=Past())


def test_more_than_a_window_is_compared(tmp_path, monkeypatch):
    """A difference that begins behind the window is seen, on a text that is longer."""
    made = make(tmp_path, "mistral", sliding_window=12, max_position_embeddings=512)
    monkeypatch.setattr(network, "_COMPARED", 4)
    made.verify(_ids(100))
    lengths = []
    monkeypatch.setattr(network.Network, "_verify_whole",
                        lambda self, ids, *rest: lengths.append(ids.shape[1]))
    again = replace(made)
    for length in (10, 11, 12, 100, 90):
        again.verify(_ids(length))
    # The first text, and the first that is longer than the window.
    assert lengths == [10, 16]


def test_logits_are_compared(decoder, monkeypatch):
    """A head that is not the same with other attention."""
    made = replace(decoder)
    head = made.module.lm_head.forward
    monkeypatch.setattr(made.module.lm_head, "forward", lambda x: head(x) * (
        1.001 if made.module.config._attn_implementation == "nearbit" else 1))
    with pytest.raises(NetworkError, match=r"whose logits differ by 1\.0e-03 of their size"):
        made.losses(_ids(30)[0].tolist(), reference_attention)


SHAPE = (4, 2, 8, 8)


@pytest.mark.parametrize(("shapes", "said"), [
    ({}, r"computes its attention in code that cannot be replaced"),
    ({0: [SHAPE]}, r"whose layer 1 has no attention: it is a hybrid"),
    ({0: [SHAPE], 1: [SHAPE, SHAPE]}, r"whose layer 1 computes attention 2 times instead of once"),
    ({0: [SHAPE], 1: [SHAPE], 2: [SHAPE]}, r"has an attention of layer 2 beside its 2 layers"),
    ({0: [SHAPE], 1: [(4, 2, 16, 8)]},
     r"whose layers 0 and 1 differ in .* \(4, 2, 8, 8\) and \(4, 2, 16, 8\)"),
])
def test_calls(shapes, said):
    calls = network._Calls()
    calls.shapes = shapes
    with pytest.raises(NetworkError, match=r"^some is of the family llama, .*" + said):
        network._check_calls("some", "llama", 2, calls)


def test_other_sizes_than_known(decoder):
    with pytest.raises(NetworkError, match=r"has query heads, key heads and elements of queries "
                                           r"and of values \(4, 2, 8, 8\), not \(4, 4, 8, 8\) "):
        replace(decoder, kv_heads=4).losses(_ids(30)[0].tolist(), reference_attention)


def test_attention_that_is_called_no_more(decoder, monkeypatch):
    """Known sizes are not trusted either."""
    made = replace(decoder)
    layer = made.module.model.layers[1]
    monkeypatch.setattr(layer.self_attn, "forward", lambda hidden_states, **_: (
        hidden_states, None))
    with pytest.raises(NetworkError, match=r"whose layer 1 has no attention"):
        made.losses(_ids(30)[0].tolist(), reference_attention)


# --- Commands -------------------------------------------------------------------------------------


COMMANDS = {
    "capture": ["-o", "out.npz"], "evaluate": ["--method", "had", "--n", "4"],
    "generate": ["--prompt", TEXT], "learn-codes": ["-o", "out.safetensors", "--steps", "1"],
    "distill": ["-o", "out", "--steps", "1", "--passage", "40"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_what_differs(command, decoder_folder, text, tmp_path, capsys, wrong,
                                      monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [str(text(TEXT * 20, name)) for name in ("a.txt", "b.txt")]
    given = {"generate": 0, "learn-codes": 2}.get(command, 1)
    assert cli.main([command, "--model", f"hf:{decoder_folder}", *COMMANDS[command],
                     *itertools.chain(*(("--text", path) for path in texts[:given]))]) == 2
    said = capsys.readouterr()
    assert "whose hidden states differ by" in said.err
    assert not said.out
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("out")]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_families(command, text, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [str(text(TEXT * 20, name)) for name in ("a.txt", "b.txt")]
    given = {"generate": 0, "learn-codes": 2}.get(command, 1)
    tiny("falcon", tmp_path / "falcon")
    assert cli.main([command, "--model", f"hf:{tmp_path / 'falcon'}", *COMMANDS[command],
                     *itertools.chain(*(("--text", path) for path in texts[:given]))]) == 2
    assert "is of the family falcon, which computes its attention" in capsys.readouterr().err
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_methods_that_answer_nothing_have_failed(decoder, monkeypatch):
    monkeypatch.setattr(Network, "losses", lambda self, ids, attend, *, scored: np.ones(scored))
    with pytest.raises(NetworkError, match=r"^method had answered no query of hf:.*, so its "):
        evaluate_decoder(decoder, Method(name="had"), _ids(30)[0].tolist())


def test_hardware_that_is_not_asked_has_failed(decoder_folder, capsys, monkeypatch):
    from nearbit import witness

    class Idle:
        layer, head, answers, differing, cycles = 0, 0, 0, 0, 0

        def __init__(self, config, *place):
            pass

        def append(self, tokens):
            pass

        def ask(self, asked, golden):
            return golden.output_int

        def close(self):
            pass

    monkeypatch.setattr(witness, "HardwareHead", Idle)
    assert cli.main(["generate", "--model", f"hf:{decoder_folder}", "--prompt", "a text",
                     "--tokens", "2", "--hardware", "0.0"]) == 1
    said = capsys.readouterr()
    assert said.err.strip().endswith("the hardware gave no answer for layer 0, head 0, so that "
                                     "nothing was compared")
    assert not said.out


def test_capture_of_values_of_another_width(tmp_path):
    from nearbit.tensors import Tensors

    made, ids = make(tmp_path, "deepseek_v3"), _ids(30)[0].tolist()
    file = tmp_path / "heads.npz"
    arrays = capture(made, ids, [1], [0, 1])
    np.savez(file, **arrays)
    tensors = Tensors.load(file)
    assert (tensors.q.shape, tensors.v.shape) == ((2, 30, 24), (2, 30, 16))
    config = accelerator(made, Method(name="had", n=4), 30)
    assert attention(tensors.q, tensors.k, tensors.v, config, n=4, causal=True
                     ).output.shape == (2, 30, 16)


def test_capture_with_windows(tmp_path, text, capsys):
    """A file of tensors has no windows: fewer tokens, or layers without."""
    made = make(tmp_path, "qwen2")
    assert capture(made, _ids(60)[0].tolist(), [0], [0])["q"].shape == (1, 60, 8)
    assert capture(made, _ids(12)[0].tolist(), [0, 1], [0])["q"].shape == (2, 12, 8)
    assert cli.main(["capture", "--model", f"hf:{tmp_path}", "--text", str(text(TEXT)), "-o",
                     str(tmp_path / "o.npz"), "--tokens", "13"]) == 2
    assert "layer 1 of hf:" in (said := capsys.readouterr().err)
    assert "take at most 12 tokens, or other layers" in said
    assert not (tmp_path / "o.npz").exists()


def test_capture_with_windows_of_an_encoder(tmp_path):
    made = make(tmp_path, "modernbert")
    with pytest.raises(NetworkError, match=r"take at most 9 tokens, or other layers$"):
        capture(made, _ids(10)[0].tolist(), [0, 1], [0])
    assert not capture(made, _ids(9)[0].tolist(), [0, 1], [0])["causal"]


@pytest.mark.parametrize("family", ["mistral", "llama4_text", "deepseek_v3"])
def test_generating(family, tmp_path):
    """Stores with windows, and with values of another width, are near the model as it is."""
    made = make(tmp_path, family)
    attend, past, ids = Decoder(made, Method(name="dense"), 64), Past(), _ids(30)
    found = []
    for part in (ids[:, :20], *ids[:, 20:].split(1, dim=1)):
        with torch.no_grad():
            found.append(made.hidden(part, attend, past=past))
    with torch.no_grad():
        wanted = made.hidden(ids)
    error = (torch.cat(found, dim=1) - wanted).norm(dim=2) / wanted.norm(dim=2)
    assert error.mean() < 0.04
    assert len(list(generate(made, ids[0].tolist(), Decoder(
        made, Method(name="had", n=4), 40), 5))) == 5


def test_hardware_with_windows(tmp_path, capsys):
    """The device is asked for ranges that do not begin at key 0."""
    tiny("mistral", tmp_path, sliding_window=9)
    assert cli.main(["generate", "--model", f"hf:{tmp_path}", "--prompt", "the quick brown fox",
                     "--tokens", "6", "--n", "4", "--sink", "1", "--recent", "2", "--hardware",
                     "1.3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["hardware"]
    assert said["answers"] == said["equal"] == 24


# --- Training -------------------------------------------------------------------------------------


def test_recall_in_a_window():
    """It is that of a text of which there is no more than the window."""
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn((2, 160, 8), generator=generator) for _ in range(2))
    mapping = Mapping.random(16, 8, heads=2, kv_heads=2)
    sizes = {"n": 8, "sink": 2, "recent": 3, "every": 160} # query 80 alone
    first = torch.full((160,), 20)
    found = codes.recall(mapping, [q], [k], first=[first], **sizes)
    part = slice(20, 140)
    alone = codes.recall(mapping, [q[:, part]], [k[:, part]], **sizes)
    assert found.nearest.tolist() == alone.nearest.tolist()
    assert found.selected.tolist() == alone.selected.tolist()
    whole = codes.recall(mapping, [q], [k], **sizes)
    assert found.selected.tolist() != whole.selected.tolist()


def test_learning_in_a_window():
    """Keys that no query sees have no part in what is learned."""
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn((2, 80, 8), generator=generator) for _ in range(2))
    first = (torch.arange(80) - 20).clamp_min(0)
    recipe = codes.Recipe(bits=8, steps=3, queries=8)
    layer = codes._Layer([q], [k], recipe, 0, torch.device("cpu"), [first])
    at = torch.tensor([70, 75])
    before = layer.loss(0, at, None)
    layer._k[0][:, :50] = 9
    layer._inputs["k"][0][:, :50] = 9
    assert torch.equal(layer.loss(0, at, None), before)
    layer._inputs["k"][0][:, 50:55] *= -1
    assert not torch.equal(layer.loss(0, at, None), before)


def test_no_projection_of_a_known_name(encoder, monkeypatch):
    monkeypatch.setattr(distill, "_PROJECTIONS", ("nothing",))
    with pytest.raises(NetworkError, match=r"^the projections of queries and keys of hf:.* have "):
        distill.distill(encoder, [TEXT * 40], distill.Plan(steps=1, batch=4, passage=40))


def test_distilling_with_windows(tmp_path):
    """A model with windows, and one whose queries, keys and values are one projection."""
    words = "one two three four five six seven eight nine ten "
    for family in ("modernbert", "phi3"):
        made = make(tmp_path / family, family)
        found = distill.distill(made, [words * 12], distill.Plan(
            n=4, steps=2, batch=4, passage=40))
        assert found.steps == 2
        assert np.isfinite([found.before, found.after, found.teacher]).all()


def test_values_of_another_width_to_the_hardware(text, tmp_path, capsys, monkeypatch):
    """From a model whose keys have 24 elements and values 16, by file, to the last bit."""
    monkeypatch.chdir(tmp_path)
    tiny("deepseek_v3", tmp_path / "model")
    assert cli.main(["capture", "--model", f"hf:{tmp_path / 'model'}", "--text", str(text()),
                     "--tokens", "40", "--layers", "0", "--heads", "1", "-o", "heads.npz"]) == 0
    assert "q [1, 40, 24], k [1, 40, 24], v [1, 40, 16], causal" in capsys.readouterr().out
    (tmp_path / "mine.toml").write_text("key_bits = 24\nvalue_dim = 16\nvalue_lanes = 4\n"
                                        "lanes = 4\nrefine_lanes = 4\ncapacity = 40\ntop_n = 8\n")
    assert cli.main(["simulate", "heads.npz", "--config", "mine.toml", "--n", "4"]) == 0
    assert "Bit-exact: the hardware's answers to all 40 queries" in capsys.readouterr().out
