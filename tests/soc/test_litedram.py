# amaranth: UnusedElaboratable=no
"""The LiteX example with a memory: its module, LiteDRAM behind it, and what documents say."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import litedram
from nearbit.soc import bundle
from nearbit_model.config import Config, Memory


ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "litex"

SMALL = Config(key_bits=8, value_dim=4, capacity=16, lanes=2, value_lanes=2, top_n=4,
               memory=Memory(heads=2, page_tokens=8, bus_bits=64, row_ports=2, burst_bytes=512))


class Platform:
    """What the module asks of a LiteX platform."""

    def __init__(self):
        self.sources = []

    def add_source(self, path):
        self.sources.append(path)


class Crossbar:
    """LiteDRAM's ports, of one width."""

    def __init__(self, data_bits):
        self.data_bits = data_bits

    def get_port(self):
        from litedram.common import LiteDRAMNativePort

        return LiteDRAMNativePort("both", address_width=24, data_width=self.data_bits)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("litex")
    bundle.write(path, SMALL, "axi")
    return path


@pytest.fixture
def accelerator(folder, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    from nearbit_litex import Nearbit

    return Nearbit(Platform(), folder)


def test_pins(accelerator, folder):
    """All ports are connected, in their directions and widths, those of the managers too."""
    from migen import Instance

    listed = re.findall(r"^\| `(\w+)` \| (input|output) \| (\d+) \|$",
                        (folder / "README.md").read_text(), re.MULTILINE)
    instance, = accelerator._fragment.specials
    connected = [(item.name, "input" if isinstance(item, Instance.Input) else "output",
                  len(item.expr)) for item in instance.items]
    # A number for protection bits has no width of its own.
    narrow = {"s_axi_awprot", "s_axi_arprot"}
    assert sorted(item for item in connected if item[0] not in narrow) == sorted(
        (name, direction, int(bits)) for name, direction, bits in listed if name not in narrow)
    assert narrow < {name for name, _, _ in connected}
    assert list(accelerator.managers) == ["m_axi_codes", "m_axi_rows0", "m_axi_rows1",
                                          "m_axi_append"]


@pytest.mark.parametrize(("data_bits", "message"), [
    (128, r"^memory\.bus_bits must be 128, the width of the memory's ports, not 64$"),
    (8, r"^memory\.burst_bytes and rows must be at most 256 bytes, .* not 512$"),
])
def test_refused(accelerator, data_bits, message):
    with pytest.raises(ValueError, match=message):
        accelerator.connect_memory(Crossbar(data_bits), 0)


def test_documents():
    """The table is that of the JSON, which keeps the bounds; the snippet is what is simulated."""
    results = json.loads(litedram.RESULTS.read_text())
    assert litedram.table(results) in litedram.DOCUMENT.read_text()
    for (dram, row_ports), case in zip(litedram.CASES, results["cases"], strict=True):
        assert case["heads"] == litedram.HEADS
        assert case["config"]["memory"]["row_ports"] == row_ports
        assert case["share"] >= litedram.BOUNDS.get((dram, row_ports), 0)
    last = results["cases"][-1]
    assert (f"{last['bytes']:,} bytes in {last['cycles']:,} cycles are {100 * last['share']:.1f} % "
            f"of the peak of {last['what']}\n") in (EXAMPLE / "README.md").read_text()
    snippet, = re.findall(r"<!-- litex -->\n```python\n(.*?)```",
                          (ROOT / "docs" / "soc-memory.md").read_text(), re.DOTALL)
    imports, _, function = snippet.partition("\n\n\n")
    source = (EXAMPLE / "simulate_memory.py").read_text()
    assert function in source
    assert set(imports.splitlines()) < set(source.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize(("dram", "row_ports"), litedram.BOUNDS)
def test_token(dram, row_ports, tmp_path):
    """A token of SmolLM2: every answer, the DRAM's timing, and the share of its peak."""
    figures = litedram.run(dram, row_ports, tmp_path)
    assert figures["bit_exact"]
    assert figures["queries"] == 270
    assert litedram.BOUNDS[dram, row_ports] <= figures["share"] < 1
