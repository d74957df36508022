"""`nearbit cycles` of a configuration with a memory."""

import dataclasses
import json
import re

import pytest

from nearbit import memory_cycles
from nearbit_model.config import Config, Memory, Rescore
from nearbit_model.cycles import bound
from nearbit_model.memory_timing import MemoryTiming


DECODER = Config(key_bits=64, value_dim=64, capacity=1024, lanes=1, value_lanes=16, top_n=64,
                 refine_lanes=4, queries=3, memory=Memory(heads=90))
WORKLOAD = ("--keys", 1024, "--n", 64)


@pytest.fixture
def decoder(tmp_path):
    path = tmp_path / "decoder.toml"
    path.write_text(DECODER.to_toml())
    return path


def test_table(run, decoder):
    outcome = run("cycles", "--config", decoder, *WORKLOAD, "--memory", "ddr3", "--clock", 100)
    assert outcome.status == 0
    assert "from a memory with a latency of 100 cycles, 3 queries per command" in outcome.out
    assert re.search(r"^  rows <- limits +1,728\.0 +100% *$", outcome.out, re.MULTILINE)
    assert "rows: more memory.row_ports" in outcome.out
    # 8,192 of codes; 3 x 64 rows of 64 values and a scale, in beats of 8 bytes.
    assert "Read per command: 22,016 bytes, 8,192 of codes and 13,824 of rows" in outcome.out
    assert "per token of 90 heads 1,981,440" in outcome.out
    assert "DDR3-800 x16: 34.6 us per command (5.77 codes, 28.8 rows, 17.3 core)" in outcome.out


def test_json(run, decoder):
    figures = json.loads(run("cycles", "--config", decoder, *WORKLOAD, "--memory-latency", 30,
                             "--memory", "hbm2", "--json").out)
    least = bound(DECODER, words=1024, selected=64, timing=MemoryTiming(latency=30))
    assert figures["interval"] == float(least.interval)
    assert figures["limits"] == [least.limit]
    assert figures["memory_latency"] == 30
    assert figures["bus_shares"] == pytest.approx([1024 / 1728, 1])
    dram = figures["memory"]
    assert dram["measured"] is False
    assert dram["token_seconds"] == pytest.approx(90 * dram["command_seconds"])
    assert dram["command_seconds"] == pytest.approx(dram["codes_seconds"] + dram["rows_seconds"])


@pytest.mark.parametrize(("options", "message"), [
    (("--memory", "sram"), "--memory must be one of sdr16, ddr3, ddr4, hbm2, not sram"),
    (("--memory-latency", 0), "--memory-latency must be an integer from 1 to 1048576, not 0"),
    (("--memory-latency", 65535),
     ("--memory-latency must be less than 65535, after which {path} gives a memory up "
      "(memory.timeout_bits), not 65535")),
])
def test_refused(run, decoder, options, message):
    outcome = run("cycles", "--config", decoder, *WORKLOAD, *options)
    assert outcome.status == 2
    assert outcome.err.strip() == f"nearbit: {message.format(path=decoder)}"


@pytest.mark.parametrize(("changes", "options", "says"), [
    ({"selection": "counters"}, (),
     ("selects by counters (selection) without rescoring: with a memory, its cycles depend on the "
      "data, because each key's row is asked for when the key is found; set selection = "
      "'histograms'")),
    ({"memory": Memory(heads=90, pages=3)}, (), "has 3 (memory.pages)"),
    ({"memory": Memory(heads=90, stride_bits=3)}, ("--check",),
     ("--check lets no row cross 4 KiB, for which the stride must be 128 bytes, and is at most "
      "112; take more memory.stride_bits than 3")),
])
def test_configurations_that_are_refused(run, decoder, changes, options, says):
    decoder.write_text(DECODER.replace(**changes).to_toml())
    outcome = run("cycles", "--config", decoder, "--keys", 1000, "--n", 8, *options)
    assert outcome.status == 2
    (line,) = outcome.err.splitlines()
    assert line.endswith(says)


SMALL = Config(key_bits=8, value_dim=8, capacity=64, queries=2, lanes=4, value_lanes=4, top_n=16,
               memory=Memory(heads=2, sequences=2, page_tokens=16, bus_bits=32, burst_bytes=16,
                             queue_beats=16, address_bits=20))


@pytest.mark.parametrize("changes", [
    {}, *(pytest.param(each, marks=pytest.mark.slow) for each in (
        {"lanes": 2, "refine_lanes": 8, "top_n": 6, "capacity": 256, "selection_block": 128},
        {"memory": dataclasses.replace(SMALL.memory, one_bus=True)},
        {"memory": dataclasses.replace(SMALL.memory, row_ports=2),
         "rescore": Rescore(head_dim=8, lanes=4, element_bits=8)}))])
def test_check_and_plot(run, decoder, tmp_path, changes):
    config, drawn = SMALL.replace(**changes), tmp_path / "plot.svg"
    decoder.write_text(config.to_toml())
    workload = ("--config", decoder, "--keys", config.capacity - 7, "--n", 4, "--queries", 79)
    outcome = run("cycles", *workload, "--memory-latency", 40, "--check", "--plot", drawn)
    assert (outcome.status, outcome.err) == (0, "")
    assert re.search(r"^Simulated: latency \S+, interval \S+; all \S+ cycles as predicted, "
                     r"to the cycle\.$", outcome.out, re.MULTILINE)
    assert outcome.out.endswith(f"\nPlot: {drawn}\n")
    text = drawn.read_text()
    figures = json.loads(run("cycles", *workload, "--memory-latency", 40, "--check", "--json").out)
    assert figures["equal"] is True
    assert figures["simulated"]["latency"] == figures["latency"]
    assert figures["simulated"]["interval"] == figures["interval"]
    size = figures["code_bytes"] + figures["row_bytes"]
    assert f"Per command: {figures['interval']:,.1f} cycles, {size} bytes" in text
    assert f"what limits: {', '.join(figures['limits'])}" in text
    for stage in ("read codes", "score all keys", "read rows"):
        assert stage in text


def test_check_finds_a_difference(run, decoder, monkeypatch):
    """Of a transfer, or of what is read on a bus."""
    decoder.write_text(SMALL.to_toml())
    predict = memory_cycles.predict

    def late(config, phases, memory):
        timeline = predict(config, phases, memory=memory)
        return dataclasses.replace(timeline, traffic=(
            timeline.traffic[0], dataclasses.replace(timeline.traffic[1], bursts=1)))

    monkeypatch.setattr(memory_cycles, "predict", late)
    outcome = run("cycles", "--config", decoder, "--keys", 50, "--n", 8, "--check")
    assert outcome.status == 1
    assert "cycles NOT as predicted." in outcome.out


@pytest.mark.parametrize("options", [("--memory-latency", 30), ("--memory", "ddr3")])
def test_refused_without_a_memory(run, options):
    outcome = run("cycles", "--keys", 64, *options)
    assert outcome.status == 2
    assert outcome.err.strip() == (f"nearbit: {options[0]} needs a configuration with a table "
                                   f"[memory], which preset reference has not")


def test_one_bus(run, decoder):
    """The bus is busy with the beats of both."""
    decoder.write_text(DECODER.replace(memory=Memory(heads=90, one_bus=True)).to_toml())
    outcome = run("cycles", "--config", decoder, "--keys", 256, "--n", 16)
    assert outcome.status == 0
    # 256 of codes, and nine for each of 48 rows.
    assert re.search(r"^  bus +688\.0 +\d+% *$", outcome.out, re.MULTILINE) or re.search(
        r"^  bus <- limits +688\.0 +100% *$", outcome.out, re.MULTILINE)
    assert re.search(r"^The bus of codes and rows is busy (9\d|100)% of the time\.$", outcome.out,
                     re.MULTILINE)
