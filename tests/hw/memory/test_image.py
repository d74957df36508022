"""The blocks that read and write a memory agree with the models where everything is in it."""

from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from nearbit_hw.memory import Appender, PlaceTable
from nearbit_hw.memory.cache import RowFields
from nearbit_hw.memory.cache_map import cache_map
from nearbit_model.config import Config, Memory, Rescore
from nearbit_sim.bench import run_bench

from .parts import Cache


HERE = Path(__file__).parent

CONFIGS = {
    "keys": Config(
        key_bits=32, value_dim=64, value_lanes=8, capacity=128, lanes=1,
        rescore=Rescore(head_dim=64, lanes=16, element_bits=12),
        memory=Memory(heads=3, sequences=2, page_tokens=32, pages=7)),
    "wide": Config(
        key_bits=100, value_dim=128, value_lanes=128, value_bits=6, capacity=96, lanes=1,
        memory=Memory(heads=2, page_tokens=32, pages=5, bus_bits=256, address_bits=24)),
    "narrow": Config(
        key_bits=12, value_dim=3, value_lanes=1, capacity=64, lanes=1,
        rescore=Rescore(head_dim=8, lanes=8, element_bits=12),
        memory=Memory(heads=2, sequences=3, page_tokens=16, pages=6, bus_bits=32, address_bits=16,
                      burst_bytes=16)),
}


class Appending(wiring.Component):
    """An appender with its tables."""

    def __init__(self, config):
        sizes = cache_map(config)
        self.appender = Appender(sizes, key_bits=config.key_bits,
                                 row_beats=RowFields.of(config).beats)
        self.tables = PlaceTable(sizes)
        tables, appender = self.tables.signature.members, self.appender.signature.members
        super().__init__({
            **{name: tables[name] for name in ("i_head", "i_page")},
            **{name: appender[name] for name in ("i", "i_row", "o", "axi", "timeout")},
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.tables = tables = self.tables
        m.submodules.appender = appender = self.appender
        for name in ("i_head", "i_page"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(tables, name))
        wiring.connect(m, appender.o_lookup, tables.i[0])
        wiring.connect(m, tables.o[0], appender.i_lookup)
        wiring.connect(m, appender.o_tokens, tables.i_tokens)
        for name in ("i", "i_row"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(appender, name))
        for name in ("o", "axi"):
            wiring.connect(m, getattr(appender, name), wiring.flipped(getattr(self, name)))
        m.d.comb += appender.timeout.eq(self.timeout)
        return m


def bench(dut, module, name, **parameters):
    run_bench(dut, HERE / module, parameters={
        "config": CONFIGS[name].to_dict(), "origin": 0x1230, **parameters})


@pytest.mark.parametrize("name", CONFIGS)
def test_reads(name):
    config, top_n = CONFIGS[name], 8
    bench(Cache(cache_map(config), key_bits=config.key_bits, lanes=1, top_n=top_n,
                row_beats=RowFields.of(config).beats), "image_reads.py", name, top_n=top_n)


@pytest.mark.parametrize("name", CONFIGS)
def test_writes(name):
    bench(Appending(CONFIGS[name]), "image_writes.py", name)
