"""Blocks of the cache joined, for benches."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from nearbit_hw.memory import CodeFetcher, PlaceTable, ReadMerge, RowBuffer, RowFetcher
from nearbit_hw.memory.axi import ReadSignature


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


class Cache(wiring.Component):
    """Codes and rows over one bus, and the tables that say where they are."""

    def __init__(self, cache_map, *, key_bits, lanes, top_n, row_beats, depth=512):
        self.codes = CodeFetcher(cache_map, key_bits=key_bits, lanes=lanes, depth=depth)
        self.rows = Rows(cache_map, top_n=top_n, row_beats=row_beats)
        self.tables = PlaceTable(cache_map, readers=2)
        self.merge = ReadMerge(address_bits=cache_map.address_bits, data_bits=cache_map.data_bits,
                               id_bits=(0, self.rows.fetcher.id_bits))
        tables = self.tables.signature.members
        codes, rows = self.codes.signature.members, self.rows.signature.members
        super().__init__({
            **{name: tables[name] for name in ("i_head", "i_page", "i_tokens")},
            "i_codes": codes["i"],
            "o_codes": codes["o"],
            **{name: rows[name] for name in ("i_selection", "i", "i_read", "o_read",
                                             "i_release", "timeout")},
            "axi": Out(ReadSignature(address_bits=cache_map.address_bits,
                                     data_bits=cache_map.data_bits,
                                     id_bits=self.merge.out_id_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.codes = codes = self.codes
        m.submodules.rows = rows = self.rows
        m.submodules.tables = tables = self.tables
        m.submodules.merge = merge = self.merge
        for name in ("i_head", "i_page", "i_tokens"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(tables, name))
        for number, fetcher in enumerate((codes, rows)):
            wiring.connect(m, fetcher.o_lookup, tables.i[number])
            wiring.connect(m, tables.o[number], fetcher.i_lookup)
            m.d.comb += fetcher.timeout.eq(self.timeout)
        wiring.connect(m, codes.axi, merge.i_0)
        wiring.connect(m, rows.axi[0], merge.i_1)
        wiring.connect(m, merge.o, wiring.flipped(self.axi))
        wiring.connect(m, wiring.flipped(self.i_codes), codes.i)
        wiring.connect(m, codes.o, wiring.flipped(self.o_codes))
        for name in ("i_selection", "i", "i_read", "i_release"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(rows, name))
        wiring.connect(m, rows.o_read, wiring.flipped(self.o_read))
        return m
