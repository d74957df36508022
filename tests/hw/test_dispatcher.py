# amaranth: UnusedElaboratable=no
import cocotb
import pytest

from nearbit_hw.dispatcher import Dispatcher, Error
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


class Load:
    """Commands of all kinds, and what must become of them."""

    def __init__(self, bench, *, loaded=None, tables_loaded=None):
        self.bench = bench
        self.rows, self.lanes, self.capacity, self.top_n, self.tables = (
            bench.parameters[name] for name in ("rows", "lanes", "capacity", "top_n", "tables"))
        self.receivers = ["o_order", *(f"o_select__{row}" for row in range(self.rows))]
        self.sent = []
        self.set_loaded(self.capacity if loaded is None else loaded,
                        (1 << self.tables) - 1 if tables_loaded is None else tables_loaded)

    def set_loaded(self, loaded, tables_loaded):
        self.loaded, self.tables_loaded = loaded, tables_loaded
        self.bench.dut.loaded.value = loaded
        self.bench.dut.tables_loaded.value = tables_loaded

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

    def count(self, first, rng):
        left = self.loaded - first
        return min(self.capacity, max(0, rng.choice([
            rng.randint(0, self.capacity), left, left - 1, left + 1, 0, 1,
            # To the end of a word, and one beyond.
            self.lanes - first % self.lanes, self.lanes - first % self.lanes + 1])))

    def command(self, rng):
        first = rng.choice([0, rng.randrange(self.capacity),
                            rng.randrange(max(1, self.loaded))])
        return {"first": first, **self.selected(rng), "trace": rng.getrandbits(1), "rows": [
            {"code": rng.getrandbits(self.bench.parameters["key_bits"]),
             "count": self.count(first, rng), "table": rng.randrange(self.tables)}
            for _ in range(self.rows)]}

    def plain(self, count):
        """A command for the first keys."""
        return {"first": 0, "n": 1, "sink": 0, "recent": 0, "trace": 0, "rows": [
            {"code": row & 1, "count": count, "table": 0} for row in range(self.rows)]}

    def errors(self, command):
        def error(row):
            if command["n"] == 0:
                return Error.NO_N
            if command["n"] + command["sink"] + command["recent"] > self.top_n:
                return Error.TOO_MANY
            if row["count"] == 0:
                return Error.EMPTY
            if command["first"] + row["count"] > self.loaded:
                return Error.RANGE
            if not self.tables_loaded >> row["table"] & 1:
                return Error.TABLE
            return Error.OK
        return [error(row) for row in command["rows"]]

    def ask(self, command, expect=True):
        """Send a command, with the loads as they are now."""
        bench, rows, first = self.bench, command["rows"], command["first"]
        bench.source("i").send(command)
        if not expect:
            return
        errors = self.errors(command)
        good = [row for row, error in enumerate(errors) if error == Error.OK]
        words = []
        bench.sink("o_order").expect({"trace": command["trace"], "rows": [
            {"error": error.value, "table": row["table"]}
            for error, row in zip(errors, rows, strict=True)]})
        for row in good:
            bench.sink(f"o_select__{row}").expect({
                "word": first // self.lanes, "skip": first % self.lanes,
                "count": rows[row]["count"],
                **{name: command[name] for name in ("n", "sink", "recent")}})
        if good:
            last = first + max(rows[row]["count"] for row in good) - 1
            words = list(range(first // self.lanes, last // self.lanes + 1))
            bench.sink("o_query").expect({"codes": [row["code"] for row in rows],
                                          "active": sum(1 << row for row in good)})
            bench.sink("o_words").expect(*(
                {"word": word, "last": int(word == words[-1])} for word in words))
        self.sent.append((good, len(words)))

    def check_cycles(self, *, unstalled):
        """Each command is accepted when it may be, and not before; its words come then."""
        order, query, words = (iter(self.bench.sink(name).cycles)
                               for name in ("o_order", "o_query", "o_words"))
        selects = [iter(self.bench.sink(f"o_select__{row}").cycles) for row in range(self.rows)]
        accepted = iter(self.bench.source("i").cycles)
        before, busy = -2, -1
        for good, length in self.sent:
            announced = [next(order), *(next(selects[row]) for row in good)]
            assert min(announced) >= before + 2
            now = next(accepted)
            assert now == max(*announced, busy)
            before = busy = now
            if good:
                moved = [next(words) for _ in range(length)]
                taken = next(query)
                assert min(moved[0], taken) > now
                if unstalled:
                    assert taken == now + 1
                    assert moved == list(range(now + 1, now + 1 + length))
                busy = max(taken, moved[-1])


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def commands(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    load = Load(bench, loaded=0, tables_loaded=0)
    for step in range(6):
        if step:
            load.set_loaded(bench.rng.choice([load.capacity,
                                              bench.rng.randint(load.loaded, load.capacity)]),
                            load.tables_loaded | bench.rng.getrandbits(load.tables))
        if step == 4:
            load.set_loaded(load.capacity, (1 << load.tables) - 1)
        for _ in range(12):
            load.ask(load.command(bench.rng))
        await bench.finish(extra=3)
    load.check_cycles(unstalled=stall == 0)


@cocotb.test()
async def every_error(dut):
    """Each error alone, where the size lets it be, and with some that come after it."""
    bench = Bench(dut)
    await bench.reset()
    # All but the last key and the last table.
    load = Load(bench, loaded=bench.parameters["capacity"] - 1,
                tables_loaded=(1 << bench.parameters["tables"] - 1) - 1)
    top, loaded, capacity, last_table = load.top_n, load.loaded, load.capacity, load.tables - 1
    seen = set()
    for changes in [
        {}, {"n": top, "count": loaded}, {"first": max(0, loaded - 1)},
        {"n": 0}, {"n": 0, "sink": top, "recent": capacity, "count": 0},
        {"n": top, "recent": 1}, {"n": top, "sink": 1, "count": 0},
        {"n": capacity, "sink": capacity, "recent": capacity, "count": capacity},
        {"count": 0}, {"count": 0, "first": capacity - 1, "table": last_table},
        {"count": capacity}, {"first": capacity - 1}, {"first": capacity - 1, "count": capacity},
        {"count": capacity, "table": last_table},
        {"table": last_table}, {"count": loaded, "table": last_table},
    ]:
        row = {"code": 0, "count": 1, "table": 0}
        command = {"first": 0, "n": 1, "sink": 0, "recent": 0, "trace": 0, **changes}
        row = {name: command.pop(name, value) for name, value in row.items()}
        load.ask({**command, "rows": [row] * load.rows})
        seen.update(load.errors({**command, "rows": [row]}))
    assert seen >= {Error.NO_N, Error.TOO_MANY, Error.EMPTY, Error.RANGE}
    assert (Error.TABLE in seen) == (loaded > 0)
    assert (Error.OK in seen) == (loaded > 0 and load.tables > 1)
    await bench.finish()


@cocotb.test()
async def checked_in_the_first_valid_cycle(dut):
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    all_tables = load.tables_loaded
    receivers = [bench.sink(name) for name in load.receivers]
    for before, after in [((load.capacity, all_tables), (load.capacity, 0)),
                          ((load.capacity, 0), (load.capacity, all_tables)),
                          ((load.capacity - 1, all_tables), (load.capacity, all_tables))]:
        for receiver in receivers:
            receiver.stall = 1
        load.set_loaded(*before)
        load.ask(load.plain(load.capacity))
        await bench.step()
        load.set_loaded(*after)
        await bench.step(3)
        for receiver in receivers:
            receiver.stall = 0
        await bench.finish()


@cocotb.test()
async def latency(dut):
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    words = load.capacity // load.lanes
    load.ask(load.plain(load.capacity))
    await bench.finish()
    latency = bench.parameters["latency"]
    for name in load.receivers:
        assert bench.sink(name).cycles == [latency - 1]
    assert bench.source("i").cycles == [latency - 1]
    assert bench.sink("o_query").cycles == [latency]
    assert bench.sink("o_words").cycles == list(range(latency, latency + words))


@cocotb.test()
async def rate(dut):
    """Words without a gap from two words on; a command every second cycle at the most."""
    bench = Bench(dut)
    for words in {0, 1, 2, 3, bench.parameters["capacity"] // bench.parameters["lanes"]}:
        await bench.reset()
        load = Load(bench)
        if words * load.lanes > load.capacity:
            continue
        for _ in range(5):
            load.ask(load.plain(words * load.lanes))
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
    for name in [*load.receivers, "o_query"]:
        bench.sink(name).stall = 1
        load.ask(load.plain(1))
        load.ask(load.plain(1))
        await bench.step(9)
        # Codes hold up the next command, the others their own.
        accepted = len(load.sent) - 2 + (name == "o_query")
        assert len(bench.source("i").cycles) == accepted
        bench.sink(name).stall = 0
        await bench.step()
        assert len(bench.source("i").cycles) == accepted + 1
        await bench.finish()
    load.check_cycles(unstalled=False)


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    for cycles in range(1, 12):
        await bench.reset()
        load = Load(bench)
        for sink in ("o_order", "o_query", "o_words", "o_select__0"):
            bench.sink(sink).stall = bench.rng.choice([0, 0, 0.5, 1])
        for _ in range(6):
            load.ask(load.command(bench.rng), expect=False)
        await bench.step(cycles)
        await bench.reset()
        load = Load(bench)
        for sink in ("o_order", "o_query", "o_words", "o_select__0"):
            bench.sink(sink).stall = 0
        for _ in range(3):
            load.ask(load.command(bench.rng))
        await bench.finish()
        load.check_cycles(unstalled=True)


@pytest.mark.parametrize("parameters", [
    {"key_bits": 1, "capacity": 1, "rows": 1, "lanes": 1, "top_n": 1, "tables": 1},
    {"key_bits": 8, "capacity": 64, "rows": 2, "lanes": 4, "top_n": 16, "tables": 2},
    {"key_bits": 64, "capacity": 256, "rows": 8, "lanes": 16, "top_n": 32, "tables": 9},
    {"key_bits": 3, "capacity": 13, "rows": 3, "lanes": 1, "top_n": 13, "tables": 3},
    {"key_bits": 5, "capacity": 30, "rows": 1, "lanes": 2, "top_n": 7, "tables": 5},
    {"key_bits": 9, "capacity": 8, "rows": 2, "lanes": 8, "top_n": 3, "tables": 1},
], ids=lambda parameters: "-".join(map(str, parameters.values())))
def test_bench(parameters):
    dut = Dispatcher(**parameters)
    run_bench(dut, __file__, parameters=parameters | {"latency": dut.latency})


GIVEN = {"key_bits": 8, "capacity": 64, "rows": 2, "lanes": 4, "top_n": 16, "tables": 3}


def test_properties():
    dut = Dispatcher(**GIVEN)
    assert {name: getattr(dut, name) for name in GIVEN} == GIVEN


@pytest.mark.parametrize("value", [0, -1, 1.0, "8", None])
@pytest.mark.parametrize(("name", "text"), [
    ("key_bits", "Key bits"), ("capacity", "Capacity"), ("rows", "Rows"), ("top_n", "Top N"),
    ("tables", "Tables")])
def test_wrong_parameter(name, text, value):
    with pytest.raises(TypeError, match=rf"^{text} must be a positive integer, not {value!r}$"):
        Dispatcher(**{**GIVEN, name: value})


@pytest.mark.parametrize("lanes", [0, -4, 3, 4.0, "4", None])
def test_wrong_lanes(lanes):
    with pytest.raises(TypeError, match=rf"^Lanes must be a power of two, not {lanes!r}$"):
        Dispatcher(**{**GIVEN, "lanes": lanes})


def test_wrong_size():
    with pytest.raises(ValueError, match=r"^Capacity must be a multiple of lanes, not 62$"):
        Dispatcher(**{**GIVEN, "capacity": 62})
    with pytest.raises(ValueError, match=r"^Top N must be at most capacity, not 65$"):
        Dispatcher(**{**GIVEN, "top_n": 65})
