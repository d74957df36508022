# amaranth: UnusedElaboratable=no
import cocotb
import pytest

from nearbit_hw.dispatcher import Error
from nearbit_hw.row_merge import RowMerge
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


class Load:
    """Commands with some rows in error, the selections of the others, and their order."""

    def __init__(self, bench):
        self.bench = bench
        self.capacity, self.key_bits, self.rows, self.tables = (
            bench.parameters[name] for name in ("capacity", "key_bits", "rows", "tables"))
        self.sent = []

    def ask(self, rng, *, lengths=None, expect=True):
        """Send a command whose row r selects `lengths[r]` keys; 0 is an error."""
        if lengths is None:
            spoiled = rng.choice([0, 0.3, 1])
            lengths = [0 if rng.random() < spoiled else rng.choice([1, rng.randint(1, 6)])
                       for _ in range(self.rows)]
        tables = [rng.randrange(self.tables) for _ in range(self.rows)]
        errors = [Error.OK.value if length else rng.randint(1, 5) for length in lengths]
        trace = rng.getrandbits(1)
        self.bench.source("i_order").send({"trace": trace, "rows": [
            {"error": error, "table": table}
            for error, table in zip(errors, tables, strict=True)]})
        for row, length in enumerate(lengths):
            keys = [{"index": rng.randrange(self.capacity),
                     "distance": rng.randint(0, self.key_bits), "last": int(key == length - 1)}
                    for key in range(length)]
            self.bench.source(f"i__{row}").send(*keys)
            if not expect:
                continue
            self.bench.sink("o_result").expect(
                {"row": row, "error": errors[row], "final": int(row == self.rows - 1)})
            if length:
                self.bench.sink("o_command").expect(
                    {"row": row, "table": tables[row], "trace": trace})
                self.bench.sink("o").expect(*keys)
            self.sent.append((row, length))

    def check_cycles(self):
        """A row begins in the cycle after the one before is done with, and not before."""
        result, command, keys = (iter(self.bench.sink(name).cycles)
                                 for name in ("o_result", "o_command", "o"))
        selections = [iter(self.bench.source(f"i__{row}").cycles) for row in range(self.rows)]
        orders = iter(self.bench.source("i_order").cycles)
        done = -1
        for row, length in self.sent:
            moved = [next(result)]
            if length:
                passed = [next(keys) for _ in range(length)]
                # Without delay: in the cycle in which the key is accepted.
                assert passed == [next(selections[row]) for _ in range(length)]
                moved += [next(command), *passed]
            assert min(moved) > done
            done = max(moved)
            if row == self.rows - 1:
                assert next(orders) == done


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def selections(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    load = Load(bench)
    for _ in range(25):
        load.ask(bench.rng)
    await bench.finish()
    load.check_cycles()


@cocotb.test()
async def latency_and_rate(dut):
    """Announcements and first key in a row's first cycle; keys of all rows without a gap."""
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    lengths = [[1 + (row + command) % 3 for row in range(load.rows)] for command in range(6)]
    for command in lengths:
        load.ask(bench.rng, lengths=command)
    await bench.finish()
    starts, end = [], 0
    for command in lengths:
        for length in command:
            starts.append(end)
            end += length
    assert bench.sink("o").cycles == list(range(end))
    assert bench.sink("o_result").cycles == bench.sink("o_command").cycles == starts
    load.check_cycles()


@cocotb.test()
async def an_error_takes_one_cycle(dut):
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    for _ in range(4):
        load.ask(bench.rng, lengths=[0] * load.rows)
    await bench.finish()
    assert bench.sink("o_result").cycles == list(range(4 * load.rows))
    assert bench.source("i_order").cycles == [
        load.rows - 1 + load.rows * index for index in range(4)]


@cocotb.test()
async def outputs_do_not_wait_for_each_other(dut):
    """Within a row; the next row waits for all three."""
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    for held in ("o_result", "o_command", "o"):
        before = {name: len(bench.sink(name).received) for name in ("o_result", "o_command", "o")}
        bench.sink(held).stall = 1
        for _ in range(2):
            load.ask(bench.rng, lengths=[3] * load.rows)
        await bench.step(10)
        for name, count in before.items():
            moved = len(bench.sink(name).received) - count
            assert moved == (0 if name == held else 3 if name == "o" else 1)
        bench.sink(held).stall = 0
        await bench.finish()
    load.check_cycles()


@cocotb.test()
async def nothing_moves_without_an_order(dut):
    bench = Bench(dut)
    await bench.reset()
    load = Load(bench)
    bench.source("i_order").idle = 1
    load.ask(bench.rng, lengths=[2] * load.rows)
    await bench.step(10)
    assert not any(bench.sink(name).received for name in ("o_result", "o_command", "o"))
    bench.source("i_order").idle = 0
    await bench.finish()
    load.check_cycles()


@cocotb.test()
async def reset_forgets(dut):
    bench = Bench(dut)
    for cycles in range(1, 12):
        await bench.reset()
        load = Load(bench)
        for name in ("o_result", "o_command", "o"):
            bench.sink(name).stall = bench.rng.choice([0, 0, 0.5, 1])
        for _ in range(4):
            load.ask(bench.rng, expect=False)
        await bench.step(cycles)
        await bench.reset()
        load = Load(bench)
        for name in ("o_result", "o_command", "o"):
            bench.sink(name).stall = 0
        for _ in range(3):
            load.ask(bench.rng)
        await bench.finish()
        load.check_cycles()


@pytest.mark.parametrize("parameters", [
    {"capacity": 1, "key_bits": 1, "rows": 1, "tables": 1},
    {"capacity": 64, "key_bits": 8, "rows": 2, "tables": 2},
    {"capacity": 13, "key_bits": 3, "rows": 3, "tables": 1},
    {"capacity": 256, "key_bits": 64, "rows": 8, "tables": 9},
    {"capacity": 1, "key_bits": 5, "rows": 5, "tables": 3},
], ids=lambda parameters: "-".join(map(str, parameters.values())))
def test_bench(parameters):
    run_bench(RowMerge(**parameters), __file__, parameters=parameters)


GIVEN = {"capacity": 64, "key_bits": 8, "rows": 2, "tables": 3}


def test_properties():
    dut = RowMerge(**GIVEN)
    assert {name: getattr(dut, name) for name in GIVEN} == GIVEN


@pytest.mark.parametrize("value", [0, -1, 1.0, "8", None])
@pytest.mark.parametrize(("name", "text"), [
    ("capacity", "Capacity"), ("key_bits", "Key bits"), ("rows", "Rows"), ("tables", "Tables")])
def test_wrong_parameter(name, text, value):
    with pytest.raises(TypeError, match=rf"^{text} must be a positive integer, not {value!r}$"):
        RowMerge(**{**GIVEN, name: value})
