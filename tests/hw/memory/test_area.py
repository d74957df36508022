# amaranth: UnusedElaboratable=no
"""The logic of a cache in memory stays small: it comes in the place of block RAM."""

from nearbit.area.synthesis import count, synthesize, verilog
from nearbit_hw.memory import CacheMap, CodeFetcher, PlaceTable, RowFetcher


def test_area():
    """64-bit bus, one lane, 128 heads: LUT4 + 2 x CCU2C of an ECP5."""
    cache_map = CacheMap(heads=128, sequences=16, capacity=8192, page_tokens=256, pages=1024)
    parts = {
        "codes": CodeFetcher(cache_map, key_bits=64, lanes=1),
        "rows": RowFetcher(cache_map, top_n=128, row_beats=9),
        "tables": PlaceTable(cache_map, readers=4),
    }
    found = {name: count(synthesize(verilog(part, "ecp5"), "ecp5")["top"], "ecp5")
             for name, part in parts.items()}
    assert sum(part.luteq for part in found.values()) <= 900, found
    assert found["codes"].brams == 2
    assert found["tables"].brams <= 3
