"""The public names of the package `nearbit`."""

import inspect
import json
import pydoc
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

import nearbit
from nearbit_model import reference
from nearbit_model.config import Config, ConfigError, Rescore
from nearbit_model.errors import NearbitError
from nearbit_model.mapping import Mapping


def test_names_of_presets(tensors):
    arrays = tensors()
    by_name = nearbit.attention(**arrays, config="tiny", n=4)
    assert by_name.prepared.config == Config.preset("tiny")
    hardware = nearbit.simulate(**arrays, config="tiny", n=4, engine="golden")
    assert np.array_equal(by_name.output_int, hardware.output_int)
    for function in (nearbit.attention, nearbit.simulate):
        with pytest.raises(ConfigError, match=r"^unknown preset 'teeny'; the presets are tiny, "):
            function(**arrays, config="teeny")


@pytest.mark.parametrize("method", ["had", "hash"])
def test_compare(run, write, hash_options, method):
    """Answers compare themselves as the command does, also with other codes for each head."""
    path = write(sizes={"heads": 4, "kv_heads": 2, "queries": 5, "tokens": 30}, causal=True)
    options = hash_options if method == "hash" else ["--preset", "tiny"]
    figures = json.loads(run("simulate", path, *options, "--n", 6, "--sink", 1, "--recent", 2,
                             "--engine", "golden", "--json").out)
    tensors = nearbit.load(path)
    config = Config.from_dict(figures["config"])
    asked = {"config": config, "n": 6, "sink": 1, "recent": 2, "method": method, **tensors.options}
    arrays = (tensors.q, tensors.k, tensors.v)
    for answer in (nearbit.attention(*arrays, **asked),
                   nearbit.simulate(*arrays, **asked, engine="golden")):
        measures = answer.compare()
        for head, found in enumerate(figures["heads"]):
            assert measures.keys_read[head] == found["keys_read"]
            assert measures.recall[head] == found["recall"]
            for name in ("error_reference", "error_top", "error_method"):
                error = getattr(measures, name)
                assert (error.mean[head], error.maximum[head]) == (found[name],
                                                                   found[f"{name}_max"])
    with pytest.raises(ValueError, match=r"^an answer without a trace cannot be compared"):
        nearbit.simulate(*arrays, **asked, engine="golden", trace=False).compare()


def test_compare_codes_of_each_head(tensors, learned):
    """Codes for each query head repeat the keys; the comparison is still that of the tensors."""
    arrays = tensors(heads=4, kv_heads=2, queries=3, tokens=20)
    config = Config.preset("hash64").replace(
        key_bits=8, value_dim=8, value_lanes=8, capacity=64, top_n=32, lanes=4,
        rescore=Rescore(head_dim=8, lanes=8))
    answer = nearbit.attention(**arrays, config=config, method="hash", n=5,
                               mapping=Mapping.load(learned(key_heads=4)))
    assert np.array_equal(
        answer.compare().error_reference.queries,
        reference.relative_error(answer.output, reference.attention(**arrays)).queries)


def test_batch_of_one(run, write, tensors):
    arrays = tensors()
    batch = {name: array[None] for name, array in arrays.items()}
    one, other = (nearbit.attention(**given, config="tiny", n=4) for given in (arrays, batch))
    assert np.array_equal(one.output_int, other.output_int)
    assert one.output.shape == other.output.shape
    loaded = nearbit.load(write(**batch))
    assert loaded.notes == ()
    assert np.array_equal(loaded.k, arrays["k"])


def test_load_safetensors(tmp_path, tensors):
    path = tmp_path / "heads.safetensors"
    save_file({**tensors(), "causal": np.array(True)}, path)
    loaded = nearbit.load(path)
    assert loaded.options["causal"] is True
    answer = nearbit.attention(loaded.q, loaded.k, loaded.v, "tiny", **loaded.options)
    assert answer.prepared.counts.tolist() == [18, 19, 20]


def test_progress_in_a_notebook(monkeypatch, tensors):
    """A line of the output is updated, up to the last cycle; a shell on a terminal has none."""
    shown = []
    handle = SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))

    def display(data, raw, display_id):
        assert raw
        assert display_id
        shown.append(data["text/plain"])
        return handle

    shell = SimpleNamespace(kernel=None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    nearbit.simulate(**tensors(), config="tiny")
    assert shown == []
    shell.kernel = object()
    cycles = nearbit.simulate(**tensors(), config="tiny").cycles
    assert shown[0] == "building the hardware, once"
    assert re.fullmatch(rf"simulating: cycle [\d,]+ of {cycles:,}", shown[-1])


def test_cycles():
    found = nearbit.cycles(1024)
    assert (found.latency, found.interval) == (294, 65)
    assert nearbit.cycles(1024, Config.preset("reference")) == found
    assert nearbit.cycles(64, "tiny", n=4, sink=2).timeline.cycles > 0
    with pytest.raises(NearbitError, match=r"^the preset tiny holds 64 keys \(capacity\), not 65"):
        nearbit.cycles(65, "tiny")
    with pytest.raises(NearbitError, match=r"^the preset memory64 has a memory, on whose latency "):
        nearbit.cycles(65, "memory64")


@pytest.mark.parametrize("name", ["attention", "cycles", "load", "simulate"])
def test_help_is_readable(name):
    """Help shows names of types, not what they stand for."""
    signature = str(inspect.signature(getattr(nearbit, name)))
    assert len(signature) < 700
    assert "Union" not in signature
    assert "Raises" in pydoc.render_doc(getattr(nearbit, name)) or name == "load"
