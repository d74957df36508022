# amaranth: UnusedElaboratable=no
import cocotb
import pytest

from nearbit_hw.dispatcher import Dispatcher
from nearbit_hw.memory import CacheMap
from nearbit_model.structure import Error
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


class Load:
    """Commands of all kinds, and what must become of them."""

    def __init__(self, bench, *, loaded=None, exp_tables_loaded=None, rescore_loaded=None):
        self.bench = bench
        self.queries, self.lanes, self.capacity, self.top_n, self.exp_tables = (
            bench.parameters[name] for name in ("queries", "lanes", "capacity", "top_n",
                                                "exp_tables"))
        self.rescore, self.shared = bench.parameters["rescore"], bench.parameters["shared"]
        self.cached = bench.parameters["cached"]
        self.selects = [f"o_select__{query}" for query in range(self.queries)]
        self.receivers = ["o_order", *self.selects, *(["o_range"] if self.cached else [])]
        self.set_lookup(0)
        self.block_words = bench.parameters["block"] // self.lanes
        self.sent = []
        self.set_loaded(self.capacity if loaded is None else loaded,
                        (1 << self.exp_tables) - 1
                        if exp_tables_loaded is None else exp_tables_loaded,
                        self.capacity if rescore_loaded is None else rescore_loaded)

    def set_loaded(self, loaded, exp_tables_loaded, rescore_loaded):
        self.loaded, self.exp_tables_loaded = loaded, exp_tables_loaded
        # Keys without a code or a value cannot be rescored either.
        own_count = self.rescore and not self.cached
        self.readable = [loaded, min(loaded, rescore_loaded) if own_count else loaded]
        self.bench.dut.loaded.value = loaded
        self.bench.dut.exp_tables_loaded.value = exp_tables_loaded
        if own_count:
            self.bench.dut.rescore_loaded.value = rescore_loaded

    def set_lookup(self, lookup):
        """What came of looking up where tokens are: 0 is a place, 1 none, 2 none that could be."""
        self.lookup = lookup
        if self.cached:
            self.bench.dut.lookup.value = lookup

    def place(self):
        rng = self.bench.rng
        return {"head": rng.randrange(3), "sequence": rng.randrange(5)} if self.cached else {}

    def kinds(self):
        """Commands without an error: whether to rescore, and whether to share a selection."""
        return [(0, 0), *([(1, 0)] if self.rescore else []),
                *([(1, 1)] if self.rescore and self.shared else [])]

    def selected(self, rng):
        """n, sink and recent: good ones, such as are one too many, and any."""
        n = rng.randint(1, self.top_n)
        sink = rng.choice([0, rng.randint(0, self.top_n - n)])
        recent = rng.choice([0, self.top_n - n - sink])
        match rng.randrange(12):
            case 0:
                n = 0
            case 1:
                recent = min(self.capacity, self.top_n + 1 - n - sink)
            case 2:
                n, sink, recent = (rng.randint(0, self.capacity) for _ in range(3))
            case 3:
                n = sink = recent = self.capacity
        return {"n": n, "sink": sink, "recent": recent}

    def count(self, first, readable, rng):
        left = readable - first
        return min(self.capacity, max(0, rng.choice([
            rng.randint(0, self.capacity), left, left - 1, left + 1, 0, 1,
            # To the end of a word, and one beyond.
            self.lanes - first % self.lanes, self.lanes - first % self.lanes + 1])))

    def command(self, rng):
        rescore, shared = rng.choice([*self.kinds() * 3, (0, 1), (1, 0), (1, 1)])
        readable = self.readable[rescore]
        first = rng.choice([0, rng.randrange(self.capacity), rng.randrange(max(1, readable))])
        counts = [self.count(first, readable, rng) for _ in range(self.queries)]
        if shared and rng.random() < 0.7:
            counts = counts[:1] * self.queries
        return {**self.place(), "first": first, **self.selected(rng), "trace": rng.getrandbits(1),
                "rescore": rescore, "shared": shared,
                "queries": [self.query(count, rng.randrange(self.exp_tables),
                                       rng) for count in counts]}

    def query(self, count, exp_table, rng):
        scale = {"multiplier": rng.getrandbits(32)} if self.rescore else {}
        return {"code": rng.getrandbits(self.bench.parameters["key_bits"]), "count": count,
                "exp_table": exp_table, **scale}

    def plain(self, count, rescore=0, shared=0):
        """A command for the first keys."""
        return {**self.place(), "first": 0, "n": 1, "sink": 0, "recent": 0, "trace": 0,
                "rescore": rescore, "shared": shared,
                "queries": [self.query(count, 0, self.bench.rng) for _ in range(self.queries)]}

    def errors(self, command):
        def error(query):
            if command["n"] == 0:
                return Error.NO_N
            if command["n"] + command["sink"] + command["recent"] > self.top_n:
                return Error.TOO_MANY
            if query["count"] == 0:
                return Error.EMPTY
            if (command["first"] + query["count"] > self.readable[command["rescore"]]
                    or self.lookup == 2):
                return Error.RANGE
            if not command["rescore"] and not self.exp_tables_loaded >> query["exp_table"] & 1:
                return Error.EXP_TABLE
            if command["rescore"] > self.rescore or command["shared"] > self.shared:
                return Error.RESCORE
            if command["shared"] and (not command["rescore"] or len(counts) > 1):
                return Error.SHARED
            return Error.NOT_SET if self.lookup == 1 else Error.OK
        counts = {query["count"] for query in command["queries"]}
        return [error(query) for query in command["queries"]]

    def ask(self, command, expect=True):
        """Send a command, with the loads as they are now."""
        bench, queries, first = self.bench, command["queries"], command["first"]
        bench.source("i").send(command)
        if not expect:
            return
        errors = self.errors(command)
        good = [query for query, error in enumerate(errors) if error == Error.OK]
        if command["shared"]:
            # What is good in one query is good in all of them.
            assert len(good) in (0, self.queries)
            good = good[-1:]
        words = []
        marks = {name: command[name] for name, exists in [
            ("rescore", self.rescore), ("shared", self.shared)] if exists}
        place = {name: command[name] for name in ("head", "sequence") if self.cached}
        bench.sink("o_order").expect({"trace": command["trace"], **marks, **place, "queries": [
            {"error": error.value,
             **{name: value for name,
                value in query.items() if name in ("exp_table", "multiplier")}}
            for error, query in zip(errors, queries, strict=True)]})
        shared = {"shared": command["shared"]} if self.shared else {}
        for query in good:
            bench.sink(f"o_select__{query}").expect({
                "word": first // self.lanes, "skip": first % self.lanes,
                "count": queries[query]["count"], **shared,
                **{name: command[name] for name in ("n", "sink", "recent")}})
        if good:
            last = first + max(queries[query]["count"] for query in good) - 1
            words = list(range(first // self.lanes, last // self.lanes + 1))
            bench.sink("o_queries").expect({"codes": [query["code"] for query in queries],
                                            "active": sum(1 << query for query in good)})
            bench.sink("o_words").expect(*(
                {"word": word, "last": int(word == words[-1])} for word in words))
            if self.cached:
                bench.sink("o_range").expect({
                    **place, "first": words[0] * self.lanes, "count": len(words) * self.lanes})
            for query in good if self.block_words else []:
                bench.sink(f"o_block__{query}").expect(
                    *[{}] * ((len(words) - 1) // self.block_words))
        self.sent.append((good, len(words)))

    def check_cycles(self, *, unstalled):
        """Each command is accepted when it may be, and not before; its words come then."""
        order, codes, words = (iter(self.bench.sink(name).cycles)
                               for name in ("o_order", "o_queries", "o_words"))
        selects = [iter(self.bench.sink(f"o_select__{query}").cycles)
                   for query in range(self.queries)]
        accepted = iter(self.bench.source("i").cycles)
        ranges = iter(self.bench.sink("o_range").cycles) if self.cached else None
        blocks = [iter(self.bench.sink(f"o_block__{query}").cycles) if self.block_words else None
                  for query in range(self.queries)]
        before, busy = -2, -1
        for good, length in self.sent:
            announced = [next(order), *(next(selects[query]) for query in good)]
            if self.cached and good:
                announced.append(next(ranges))
            assert min(announced) >= before + 2
            now = next(accepted)
            assert now == max([*announced, busy])
            before = busy = now
            if good:
                moved = [next(words) for _ in range(length)]
                taken = next(codes)
                assert min(moved[0], taken) > now
                if unstalled:
                    assert taken == now + 1
                    assert moved == list(range(now + 1, now + 1 + length))
                size = self.block_words or length
                for start in range(size, length, size):
                    block = [next(blocks[query]) for query in good]
                    assert moved[start] > max(block)
                    # The block before began no later than its first word moved.
                    assert min(block) > (moved[start - size - 1] if start > size else now)
                    if unstalled:
                        assert block == [moved[start - size]] * len(good)
                busy = max(taken, moved[-1])


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def commands(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    load = Load(bench, loaded=0, exp_tables_loaded=0, rescore_loaded=0)
    rescore_loaded = 0
    for step in range(6):
        if step:
            rescore_loaded = bench.rng.choice([rescore_loaded, load.capacity,
                                               bench.rng.randint(rescore_loaded, load.capacity)])
            load.set_loaded(bench.rng.choice([load.capacity,
                                              bench.rng.randint(load.loaded, load.capacity)]),
                            load.exp_tables_loaded | bench.rng.getrandbits(load.exp_tables),
                            rescore_loaded)
        if step == 4:
            rescore_loaded = load.capacity
            load.set_loaded(load.capacity, (1 << load.exp_tables) - 1, rescore_loaded)
        for _ in range(12):
            load.ask(load.command(bench.rng))
        await bench.finish(extra=3)
    load.check_cycles(unstalled=stall == 0)


@cocotb.test()
@cocotb.parametrize(rescorable=["fewer", "more"])
async def every_error(dut, rescorable):
    """Each error alone, where the size lets it be, and with some that come after it."""
    bench = Bench(dut)
    await bench.reset()
    capacity, queries = bench.parameters["capacity"], bench.parameters["queries"]
    # All but the last key and the last exp table; for rescoring, one key fewer or all of them.
    loaded = capacity - 1
    rescore_loaded = capacity if rescorable == "more" else max(0, loaded - 1)
    load = Load(bench, loaded=loaded,
                exp_tables_loaded=(1 << bench.parameters["exp_tables"] - 1) - 1,
                rescore_loaded=rescore_loaded)
    top, last_exp_table = load.top_n, load.exp_tables - 1
    seen = set()
    for marks in [{}, {"rescore": 1}, {"shared": 1}, {"rescore": 1, "shared": 1}]:
        for changes in [
            {}, {"n": top, "count": loaded}, {"first": max(0, loaded - 1)},
            {"n": 0}, {"n": 0, "sink": top, "recent": capacity, "count": 0},
            {"n": top, "recent": 1}, {"n": top, "sink": 1, "count": 0},
            {"n": capacity, "sink": capacity, "recent": capacity, "count": capacity},
            {"count": 0}, {"count": 0, "first": capacity - 1, "exp_table": last_exp_table},
            {"count": capacity}, {"first": capacity - 1},
            {"first": capacity - 1, "count": capacity},
            {"count": capacity, "exp_table": last_exp_table},
            {"exp_table": last_exp_table}, {"count": loaded, "exp_table": last_exp_table},
            {"count": rescore_loaded, "exp_table": last_exp_table},
            {"first": max(0, rescore_loaded - 1), "exp_table": last_exp_table},
            # One query's count differs.
            {"others": 1, "count": 2}, {"others": 2, "count": 1}, {"others": 1, "count": 0},
            {"others": 1, "count": capacity},
            {"others": 1, "count": 2, "exp_table": last_exp_table},
        ]:
            command = {**load.plain(1), **marks, **changes}
            others, count, exp_table = (command.pop(name, value) for name, value in [
                ("others", None), ("count", 1), ("exp_table", 0)])
            counts = [min(capacity, count)] * queries
            if others is not None:
                counts = [min(capacity, others)] * queries
                counts[bench.rng.randrange(queries)] = min(capacity, count)
            command["queries"] = [load.query(each, exp_table, bench.rng) for each in counts]
            load.ask(command)
            seen.update(load.errors(command))
    assert seen >= {Error.NO_N, Error.TOO_MANY, Error.EMPTY, Error.RANGE}
    assert Error.NOT_SET not in seen
    by_exp_table = loaded > 0 and load.exp_tables > 1
    by_score = load.rescore and load.readable[1] > 0
    assert (Error.EXP_TABLE in seen) == (loaded > 0)
    assert (Error.OK in seen) == (by_exp_table or by_score)
    assert (Error.RESCORE in seen) == (loaded > 0 and not (load.rescore and load.shared))
    assert (Error.SHARED in seen) == (load.shared and (by_exp_table or (by_score and queries > 1)))
    await bench.finish()


@cocotb.test()
async def places_that_are_not_there(dut):
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    if not load.cached:
        return
    seen = set()
    for lookup in (1, 2, 0):
        load.set_lookup(lookup)
        for command in [*(load.plain(load.capacity, *kind) for kind in load.kinds()),
                        load.plain(0), {**load.plain(1), "n": 0}, load.command(bench.rng)]:
            load.ask(command)
            seen.update(load.errors(command))
        await bench.finish()
    assert seen >= {Error.OK, Error.NOT_SET, Error.RANGE, Error.EMPTY, Error.NO_N}


@cocotb.test()
async def checked_in_the_first_valid_cycle(dut):
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    exp_tables, most = load.exp_tables_loaded, load.capacity
    receivers = [bench.sink(name) for name in load.receivers]
    for rescore, shared in load.kinds():
        for before, after in [((most, exp_tables, most), (most, 0, most)),
                              ((most, 0, most), (most, exp_tables, most)),
                              ((most - 1, exp_tables, most), (most, exp_tables, most)),
                              ((most, exp_tables, most - 1), (most, exp_tables, most))]:
            for receiver in receivers:
                receiver.stall = 1
            load.set_loaded(*before)
            load.ask(load.plain(most, rescore, shared))
            await bench.step()
            load.set_loaded(*after)
            await bench.step(3)
            for receiver in receivers:
                receiver.stall = 0
            await bench.finish()


@cocotb.test()
async def latency(dut):
    bench = Bench(dut)
    for rescore, shared in Load(bench).kinds():
        await bench.reset()
        load = Load(bench)
        words = load.capacity // load.lanes
        load.ask(load.plain(load.capacity, rescore, shared))
        await bench.finish()
        latency = bench.parameters["latency"]
        announced = [name for name in load.receivers
                     if not shared or name not in load.selects[:-1]]
        for name in load.receivers:
            assert bench.sink(name).cycles == [latency - 1] * (name in announced)
        assert bench.source("i").cycles == [latency - 1]
        assert bench.sink("o_queries").cycles == [latency]
        assert bench.sink("o_words").cycles == list(range(latency, latency + words))


@cocotb.test()
async def rate(dut):
    """Words without a gap from two words on; a command every second cycle at the most."""
    bench = Bench(dut)
    for rescore, shared in Load(bench).kinds():
        for words in {0, 1, 2, 3, bench.parameters["capacity"] // bench.parameters["lanes"]}:
            await bench.reset()
            load = Load(bench)
            if words * load.lanes > load.capacity:
                continue
            for _ in range(5):
                load.ask(load.plain(words * load.lanes, rescore, shared))
            await bench.finish()
            interval = max(2, words)
            assert bench.source("i").cycles == [1 + interval * index for index in range(5)]
            assert bench.sink("o_words").cycles == [
                2 + interval * index + word for index in range(5) for word in range(words)]


@cocotb.test()
async def late_receivers(dut):
    """A command waits for the slowest: one of its receivers, or the codes of the one before."""
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    for name in [*load.receivers, "o_queries"]:
        bench.sink(name).stall = 1
        load.ask(load.plain(1))
        load.ask(load.plain(1))
        await bench.step(9)
        # Codes hold up the next command, the others their own.
        accepted = len(load.sent) - 2 + (name == "o_queries")
        assert len(bench.source("i").cycles) == accepted
        bench.sink(name).stall = 0
        await bench.step()
        assert len(bench.source("i").cycles) == accepted + 1
        await bench.finish()
    load.check_cycles(unstalled=False)


@cocotb.test()
async def blocks_wait_for_the_slowest_row(dut):
    """Words pause at a block that a query does not take; the next command is not announced."""
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    size, words = load.block_words, load.capacity // load.lanes
    if not size or words <= size:
        return
    queries = range(load.queries)
    for _ in queries:
        load.ask(load.plain(load.capacity))
    load.ask(load.plain(1))
    for query in queries:
        slow = bench.sink(f"o_block__{query}")
        slow.stall = 1
        await bench.step(2 * words)
        assert len(bench.sink("o_words").cycles) == query * words + size
        assert len(bench.sink("o_select__0").cycles) == query + 1
        slow.stall = 0
        await bench.until(lambda slow=slow, query=query:
                          len(slow.cycles) == (query + 1) * ((words - 1) // size))
    await bench.finish()
    load.check_cycles(unstalled=False)


@cocotb.test()
async def other_queries_do_not_hold_up_a_shared_selection(dut):
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    if (1, 1) not in load.kinds():
        return
    for name in load.selects[:-1]:
        bench.sink(name).stall = 1
    for _ in range(3):
        load.ask(load.plain(load.capacity, 1, 1))
    await bench.finish()
    load.check_cycles(unstalled=True)


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    for cycles in range(1, 12):
        await bench.reset()
        load = Load(bench)
        for sink in ("o_order", "o_queries", "o_words", "o_select__0"):
            bench.sink(sink).stall = bench.rng.choice([0, 0, 0.5, 1])
        for _ in range(6):
            load.ask(load.command(bench.rng), expect=False)
        await bench.step(cycles)
        await bench.reset()
        load = Load(bench)
        for sink in ("o_order", "o_queries", "o_words", "o_select__0"):
            bench.sink(sink).stall = 0
        for _ in range(3):
            load.ask(load.command(bench.rng))
        await bench.finish()
        load.check_cycles(unstalled=True)


@pytest.mark.parametrize(
    ("key_bits", "capacity", "queries", "lanes", "top_n", "exp_tables", "rescore", "shared",
     "block"), [
        (1, 1, 1, 1, 1, 1, False, False, 0),
        (8, 64, 2, 4, 16, 2, False, False, 0),
        (64, 256, 8, 16, 32, 9, False, False, 0),
        (3, 13, 3, 1, 13, 3, False, False, 0),
        (5, 30, 1, 2, 7, 5, False, False, 0),
        (9, 8, 2, 8, 3, 1, False, False, 0),
        (8, 64, 2, 4, 16, 2, True, False, 0),
        (8, 64, 2, 4, 16, 2, True, True, 0),
        (3, 13, 3, 1, 13, 3, True, True, 0),
        (5, 30, 1, 2, 7, 5, True, True, 0),
        (1, 1, 4, 1, 1, 1, True, True, 0),
        (7, 16, 5, 4, 9, 2, False, True, 0),
        (8, 64, 2, 4, 16, 2, True, True, 16),
        (3, 13, 3, 1, 13, 3, False, False, 4),
        (5, 30, 1, 2, 7, 5, False, False, 2),
        (8, 64, 1, 1, 16, 2, False, False, 32),
    ])
def test_bench(key_bits, capacity, queries, lanes, top_n, exp_tables, rescore, shared, block):
    given = {"key_bits": key_bits, "capacity": capacity, "queries": queries, "lanes": lanes,
             "top_n": top_n, "exp_tables": exp_tables, "rescore": rescore, "shared": shared,
             "block": block}
    dut = Dispatcher(**given)
    run_bench(dut, __file__, parameters=given | {"latency": dut.latency, "cached": False})


@pytest.mark.parametrize("given", [
    {"key_bits": 8, "capacity": 64, "queries": 2, "lanes": 4, "top_n": 16, "exp_tables": 2},
    {"key_bits": 8, "capacity": 64, "queries": 2, "lanes": 4, "top_n": 16, "exp_tables": 2,
     "rescore": True, "shared": True, "block": 16},
    {"key_bits": 3, "capacity": 13, "queries": 1, "lanes": 1, "top_n": 13, "exp_tables": 3,
     "rescore": True},
], ids=["plain", "shared-blocks", "one-lane"])
def test_memory(given):
    """Commands of a core whose keys and values lie in a memory."""
    given = {"rescore": False, "shared": False, "block": 0, **given}
    cache = CacheMap(heads=3, sequences=5, capacity=given["capacity"], pages=20,
                     page_tokens=8 if given["capacity"] % 8 == 0 else 1)
    dut = Dispatcher(**given, cache=cache)
    run_bench(dut, __file__, parameters=given | {"latency": dut.latency, "cached": True})


GIVEN = {"key_bits": 8, "capacity": 64, "queries": 2, "lanes": 4, "top_n": 16, "exp_tables": 3}


@pytest.mark.parametrize(("rescore", "shared", "block"), [
    (False, False, 0), (True, False, 8), (True, True, 0)])
def test_properties(rescore, shared, block):
    given = {**GIVEN, "rescore": rescore, "shared": shared, "block": block}
    dut = Dispatcher(**given)
    assert {name: getattr(dut, name) for name in given} == given
    assert hasattr(dut, "o_block") == (block > 0)
    assert hasattr(dut, "rescore_loaded") == rescore


def test_neither_unit_by_default():
    dut = Dispatcher(**GIVEN)
    assert (dut.rescore, dut.shared, dut.block) == (False, False, 0)


@pytest.mark.parametrize("value", [0, -1, 1.0, "8", None])
@pytest.mark.parametrize(("name", "text"), [
    ("key_bits", "Key bits"), ("capacity", "Capacity"), ("queries", "Queries"), ("top_n", "Top N"),
    ("exp_tables", "Exp tables")])
def test_wrong_parameter(name, text, value):
    with pytest.raises(TypeError, match=rf"^{text} must be a positive integer, not {value!r}$"):
        Dispatcher(**{**GIVEN, name: value})


@pytest.mark.parametrize("lanes", [0, -4, 3, 4.0, "4", None])
def test_wrong_lanes(lanes):
    with pytest.raises(TypeError, match=rf"^Lanes must be a power of two, not {lanes!r}$"):
        Dispatcher(**{**GIVEN, "lanes": lanes})


@pytest.mark.parametrize("block", [-4, 2, 6, 12, 8.0, "8", None])
def test_wrong_block(block):
    with pytest.raises(TypeError, match=r"^A block must be a power of two and a multiple of lanes, "
                                        rf"or 0, not {block!r}$"):
        Dispatcher(**{**GIVEN, "block": block})


def test_wrong_size():
    with pytest.raises(ValueError, match=r"^Capacity must be a multiple of lanes, not 62$"):
        Dispatcher(**{**GIVEN, "capacity": 62})
    with pytest.raises(ValueError, match=r"^Top N must be at most capacity, not 65$"):
        Dispatcher(**{**GIVEN, "top_n": 65})
