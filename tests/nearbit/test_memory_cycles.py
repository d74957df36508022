"""`nearbit cycles` of a configuration with a memory."""

import json
import re

import pytest

from nearbit_model.config import Config, Memory
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
    (("--check",), "--check needs a configuration without a memory"),
    (("--plot", "x.svg"), "--plot needs a configuration without a memory"),
    (("--memory", "sram"), "--memory must be one of sdr16, ddr3, ddr4, hbm2, not sram"),
    (("--memory-latency", 0), "--memory-latency must be an integer from 1 to 1048576, not 0"),
])
def test_refused(run, decoder, options, message):
    outcome = run("cycles", "--config", decoder, *WORKLOAD, *options)
    assert outcome.status == 2
    assert outcome.err.strip() == f"nearbit: {message}"


@pytest.mark.parametrize("options", [("--memory-latency", 30), ("--memory", "ddr3")])
def test_refused_without_a_memory(run, options):
    outcome = run("cycles", "--keys", 64, *options)
    assert outcome.status == 2
    assert outcome.err.strip() == (f"nearbit: {options[0]} needs a configuration with a table "
                                   f"[memory], which preset reference has not")


def test_refused_on_one_bus(run, tmp_path):
    path = tmp_path / "one.toml"
    path.write_text(DECODER.replace(memory=Memory(heads=90, one_bus=True)).to_toml())
    outcome = run("cycles", "--config", path, *WORKLOAD)
    assert outcome.status == 2
    assert "memory.one_bus" in outcome.err
