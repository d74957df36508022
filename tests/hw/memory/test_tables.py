# amaranth: UnusedElaboratable=no
from dataclasses import asdict

import cocotb
import pytest

from nearbit_hw.memory import CacheMap, HeadTable, PageTable, PlaceTable
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import Bench


OK, NOT_SET, RANGE = range(3)


class Known:
    """What a bench has set."""

    def __init__(self, bench):
        self.bench, self.sizes = bench, bench.parameters
        self.listed = self.sizes["capacity"] // self.sizes["page_tokens"]
        self.heads, self.pages = {}, {}
        self.tokens = dict.fromkeys(range(self.sizes["sequences"]), 0)

    def number(self, count):
        """Any number that a field for so many can hold."""
        return self.bench.rng.randrange(1 << (count - 1).bit_length())

    def set_head(self, port):
        sizes = self.sizes
        head, is_set = self.number(sizes["heads"]), self.bench.rng.randrange(4) > 0
        entry = {name: self.bench.rng.getrandbits(bits) for name, bits in sizes["entry"].items()}
        self.bench.source(port).send({"head": head, "set": is_set, "entry": entry})
        self.heads[head] = entry if is_set else None

    def set_page(self, port):
        place = self.number(self.sizes["sequences"]), self.number(self.listed)
        is_set, page = self.bench.rng.randrange(4) > 0, self.number(self.sizes["pages"])
        self.bench.source(port).send(
            {"sequence": place[0], "index": place[1], "set": is_set, "page": page})
        self.pages[place] = page if is_set else None

    def set_tokens(self, port):
        sequence = self.number(self.sizes["sequences"])
        tokens = self.bench.rng.randint(0, self.sizes["capacity"])
        self.bench.source(port).send({"sequence": sequence, "tokens": tokens})
        self.tokens[sequence] = tokens

    def head(self, head):
        """Error, and the entry."""
        if head >= self.sizes["heads"]:
            return RANGE, None
        entry = self.heads.get(head)
        return (NOT_SET, None) if entry is None else (OK, entry)

    def page(self, sequence, index):
        """Error, page and tokens."""
        if sequence >= self.sizes["sequences"]:
            return RANGE, None, 0
        tokens = self.tokens[sequence]
        if index >= self.listed:
            return RANGE, None, tokens
        page = self.pages.get((sequence, index))
        if page is None:
            return NOT_SET, None, tokens
        return (RANGE if page >= self.sizes["pages"] else OK), page, tokens

    async def settle(self):
        await self.bench.finish(extra=2)


def places(known):
    return known.number(known.sizes["sequences"]), known.number(2 * known.listed)


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.5])
async def heads(dut, idle):
    bench = Bench(dut, idle=idle)
    await bench.reset()
    known = Known(bench)
    asked, got = bench.source("i"), bench.sink("o")
    for _ in range(4):
        got.received.clear()
        numbers = [known.number(known.sizes["heads"]) for _ in range(40)]
        asked.send(*numbers)
        await known.settle()
        for number, answer in zip(numbers, got.received, strict=True):
            error, entry = known.head(number)
            assert answer["error"] == error
            assert error or answer["entry"] == entry
        for _ in range(10):
            known.set_head("i_write")
        await known.settle()


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.5])
async def pages(dut, idle):
    bench = Bench(dut, idle=idle)
    await bench.reset()
    known = Known(bench)
    asked, got = bench.source("i"), bench.sink("o")
    for _ in range(4):
        got.received.clear()
        numbers = [places(known) for _ in range(60)]
        asked.send(*({"sequence": sequence, "index": index} for sequence, index in numbers))
        await known.settle()
        for place, answer in zip(numbers, got.received, strict=True):
            error, page, tokens = known.page(*place)
            assert answer["error"] == error
            assert answer["tokens"] == tokens
            assert error or answer["page"] == page
        for _ in range(15):
            known.set_page("i_page")
            known.set_tokens("i_tokens")
        await known.settle()


@cocotb.test()
async def latency_rate_and_clearing(dut):
    bench = Bench(dut)
    await bench.reset()
    zero = bench.source("i").port.shape.unpack(0)
    bench.source("i").send(*[zero] * 10)
    depth = bench.parameters["depth"]
    await bench.until(lambda: len(bench.sink("o").received) == 10)
    assert bench.source("i").cycles == list(range(depth, depth + 10))
    assert bench.sink("o").cycles == list(range(depth + 1, depth + 11))


@cocotb.test()
async def reset_clears_all(dut):
    bench = Bench(dut)
    await bench.reset()
    known = Known(bench)
    is_heads = "entry" in bench.sink("o").port.shape.unpack(0)
    for _ in range(100):
        if is_heads:
            known.set_head("i_write")
        else:
            known.set_page("i_page")
            known.set_tokens("i_tokens")
    await known.settle()
    await bench.reset()
    known = Known(bench)
    unpack = bench.source("i").port.shape.unpack
    if is_heads:
        asked = list(range(known.sizes["heads"]))
    else:
        asked = [unpack(0) | {"sequence": sequence, "index": index}
                 for sequence in range(known.sizes["sequences"]) for index in range(known.listed)]
    bench.source("i").send(*asked)
    await known.settle()
    assert [answer["error"] for answer in bench.sink("o").received] == [NOT_SET] * len(asked)
    assert not any(answer.get("tokens", 0) for answer in bench.sink("o").received)


@cocotb.test()
async def tokens_are_the_former_ones_in_their_cycle(dut):
    bench = Bench(dut)
    await bench.reset()
    capacity = bench.parameters["capacity"]
    place = {"sequence": 0, "index": 0}
    await bench.step(bench.parameters["depth"])
    bench.source("i").send(*[place] * 5)
    await bench.step(2)
    bench.source("i_tokens").send({"sequence": 0, "tokens": capacity})
    await bench.step(5)
    assert bench.source("i").cycles[2] == bench.source("i_tokens").cycles[0]
    assert [answer["tokens"] for answer in bench.sink("o").received] == [
        0, 0, 0, capacity, capacity]


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.5, 0.9])
async def readers(dut, idle):
    """Each is answered for itself, in its order."""
    bench = Bench(dut, idle=idle)
    await bench.reset()
    known = Known(bench)
    count = bench.parameters["readers"]
    for _ in range(30):
        known.set_head("i_head")
        known.set_page("i_page")
        known.set_tokens("i_tokens")
    await known.settle()
    asked = [[(known.number(known.sizes["heads"]), *places(known)) for _ in range(40)]
             for _ in range(count)]
    start = bench.cycle
    for number in range(count):
        bench.source(f"i__{number}").send(*(
            {"head": head, "page": {"sequence": sequence, "index": index}}
            for head, sequence, index in asked[number]))
    await known.settle()
    for number in range(count):
        source, sink = bench.source(f"i__{number}"), bench.sink(f"o__{number}")
        assert [cycle + 1 for cycle in source.cycles] == sink.cycles
        if not idle:
            # In turns, without a gap.
            assert source.cycles == list(range(source.cycles[0], start + 40 * count, count))
        for (head, sequence, index), answer in zip(asked[number], sink.received, strict=True):
            head_error, entry = known.head(head)
            error, page, tokens = known.page(sequence, index)
            assert answer["error"] == (head_error or error)
            assert answer["tokens"] == tokens
            if not answer["error"]:
                assert answer["head"] == entry
                assert answer["page"] == page


MAPS = {
    "powers": CacheMap(heads=8, sequences=4, capacity=512, page_tokens=64, pages=16),
    "others": CacheMap(heads=5, sequences=3, capacity=320, page_tokens=64, pages=11),
    "least": CacheMap(heads=1, sequences=1, capacity=64, page_tokens=64, pages=1),
}


def run(dut, cache_map, test_filter, **more):
    entry = {name: field.width for name, field in cache_map.head_layout}
    run_bench(dut, __file__, test_filter=test_filter,
              parameters={**asdict(cache_map), "entry": entry, **more})


@pytest.mark.parametrize(("name", "depth"), [("powers", 8), ("others", 8), ("least", 2)])
def test_head_table(name, depth):
    run(HeadTable(MAPS[name]), MAPS[name], "heads|latency|reset",
        depth=depth)


@pytest.mark.parametrize(("name", "depth"), [("powers", 32), ("others", 32), ("least", 2)])
def test_page_table(name, depth):
    run(PageTable(MAPS[name]), MAPS[name], "pages|latency|reset|former", depth=depth)


@pytest.mark.parametrize(("name", "readers"), [("powers", 1), ("others", 3), ("least", 2)])
def test_place_table(name, readers):
    run(PlaceTable(MAPS[name], readers=readers), MAPS[name], "readers", readers=readers)


def test_properties():
    cache_map = MAPS["powers"]
    for dut in (HeadTable(cache_map), PageTable(cache_map), PlaceTable(cache_map, readers=3)):
        assert dut.map == cache_map
        assert dut.latency == 1
    assert PlaceTable(cache_map, readers=3).readers == 3


def test_wrong_parameters():
    for table in (HeadTable, PageTable, PlaceTable):
        with pytest.raises(TypeError, match=r"^Map must be a CacheMap, not 1$"):
            table(1)
    for readers in (0, -1, "1", None):
        with pytest.raises(TypeError, match=rf"^Readers must be a positive integer, "
                                            rf"not {readers!r}$"):
            PlaceTable(MAPS["powers"], readers=readers)
