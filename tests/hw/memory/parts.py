"""Blocks of the cache joined, for benches."""

from amaranth.hdl import Module
from amaranth.lib import wiring

from nearbit_hw.memory import RowBuffer, RowFetcher


class Rows(wiring.Component):
    """A RowFetcher with its RowBuffer."""

    def __init__(self, cache_map, *, top_n, row_beats, ports=1, **options):
        self.fetcher = RowFetcher(cache_map, top_n=top_n, row_beats=row_beats, ports=ports,
                                  **options)
        self.buffer = RowBuffer(top_n=top_n, row_beats=row_beats, data_bits=cache_map.data_bits,
                                ports=ports)
        fetcher, buffer = self.fetcher.signature.members, self.buffer.signature.members
        super().__init__({
            **{name: fetcher[name] for name in ("i_selection", "i", "o_lookup", "i_lookup", "axi",
                                                "timeout")},
            "i_read": buffer["i"],
            "o_read": buffer["o"],
            "i_release": buffer["i_release"],
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.fetcher = fetcher = self.fetcher
        m.submodules.buffer = buffer = self.buffer
        for name in ("i_selection", "i", "i_lookup"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(fetcher, name))
        wiring.connect(m, fetcher.o_lookup, wiring.flipped(self.o_lookup))
        for port, outer in zip(fetcher.axi, self.axi, strict=True):
            wiring.connect(m, port, wiring.flipped(outer))
        m.d.comb += fetcher.timeout.eq(self.timeout)
        wiring.connect(m, buffer.o_set, fetcher.i_set)
        for number in range(fetcher.ports):
            wiring.connect(m, fetcher.o[number], buffer.i_write[number])
            wiring.connect(m, fetcher.o_arrived[number], buffer.i_arrived[number])
        wiring.connect(m, wiring.flipped(self.i_read), buffer.i)
        wiring.connect(m, buffer.o, wiring.flipped(self.o_read))
        wiring.connect(m, wiring.flipped(self.i_release), buffer.i_release)
        return m
