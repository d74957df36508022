# amaranth: UnusedElaboratable=no
import re

import cocotb
import pytest

from nearbit_hw.memory import RowBuffer, RowTail
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


class Filled:
    """A buffer that a bench fills, and what is in it."""

    def __init__(self, bench):
        self.bench = bench
        self.top_n, self.beats, self.bits, self.ports, kept, self.word_beats = (
            bench.parameters[name] for name in (
                "top_n", "row_beats", "data_bits", "ports", "kept", "word_beats"))
        self.kept = range(*kept)
        self.tail = bench.parameters["tail"]
        self.rows = {}

    def write(self, which, position):
        """The beats of a row, in any order."""
        for beat in self.bench.rng.sample(range(self.beats), self.beats):
            word = self.bench.rng.getrandbits(self.bits)
            self.rows[which, position, beat] = word
            self.bench.source(f"i_write__{position % self.ports}").send({
                "slot": {"set": which, "position": position // self.ports}, "beat": beat,
                "data": word})

    async def fill(self, which, positions, failed=0):
        """Write rows and tell of them."""
        for position in positions:
            self.write(which, position)
            await self.bench.until(lambda: not any(
                self.bench.source(f"i_write__{port}").pending for port in range(self.ports)))
            self.tell(which, position, failed)

    def tell(self, which, position, failed=0):
        self.bench.source(f"i_arrived__{position % self.ports}").send(
            {"set": which, "failed": failed})

    def read(self, which, position, word):
        self.bench.source("i").send({"set": which, "position": position, "word": word})

    def word(self, which, position, word, failed=0):
        """What a word is answered with."""
        beats = self.kept[word * self.word_beats:(word + 1) * self.word_beats]
        found = {"data": sum(self.rows[which, position, beat] << self.bits * place
                             for place, beat in enumerate(beats)), "failed": failed}
        if self.tail is not None:
            beat, first_bit, bits = self.tail
            found["tail"] = self.rows[which, position, beat] >> first_bit & (1 << bits) - 1
        return found

    def expect(self, which, position, word, failed=0):
        self.read(which, position, word)
        self.bench.sink("o").expect(self.word(which, position, word, failed))

    @property
    def words(self):
        return len(self.kept) // self.word_beats

    def places(self):
        return [(position, word) for position in range(self.top_n) for word in range(self.words)]


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def beats(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    bench.sink("o_set").stall = 0
    await bench.reset()
    filled = Filled(bench)
    for round_ in range(4):
        which = round_ % 2
        await filled.fill(which, range(filled.top_n))
        for position, beat in filled.places():
            filled.expect(which, position, beat)
        for position, beat in bench.rng.choices(filled.places(), k=30):
            filled.expect(which, position, beat)
        await bench.finish(extra=0)
        bench.source("i_release").send(which)
        await bench.finish(extra=0)


@cocotb.test()
async def sets_are_given_in_turns(dut):
    bench = Bench(dut)
    await bench.reset()
    sets = bench.sink("o_set").received
    await bench.step(5)
    assert sets == [0, 1]
    lengths = []
    for which in (0, 1, 1, 0):
        bench.source("i_release").send(which)
        await bench.step(5)
        lengths.append(len(sets))
    # The second was free, but it was not its turn until the first was.
    assert lengths == [3, 4, 4, 6]
    assert sets == [0, 1] * 3


@cocotb.test()
async def a_beat_waits_for_its_row_and_those_before(dut):
    bench = Bench(dut)
    await bench.reset()
    filled = Filled(bench)
    for position in range(filled.top_n):
        filled.write(0, position)
    await bench.step(filled.top_n * filled.beats + 5)
    got = bench.sink("o").received
    for position in range(filled.top_n):
        filled.read(0, position, 0)
        await bench.step(10)
        assert len(got) == position
        filled.tell(0, position)
        await bench.step(3)
        assert got[-1] == filled.word(0, position, 0)
    bench.source("i_release").send(0)
    await bench.step(3)
    filled.read(0, 0, 0)
    await bench.step(10)
    assert len(got) == filled.top_n
    await filled.fill(0, [0])
    await bench.step(3)
    assert got[-1] == filled.word(0, 0, 0)


@cocotb.test()
async def failures_are_of_their_set(dut):
    bench = Bench(dut)
    await bench.reset()
    filled = Filled(bench)
    for _ in range(2):
        await filled.fill(0, range(filled.top_n), failed=1)
        await filled.fill(1, range(filled.top_n))
        filled.expect(0, filled.top_n - 1, 0, failed=1)
        filled.expect(1, filled.top_n - 1, 0)
        filled.expect(0, 0, filled.words - 1, failed=1)
        await bench.finish()
        bench.source("i_release").send(0, 1)
        await bench.finish()
    await filled.fill(0, range(filled.top_n))
    filled.expect(0, filled.top_n - 1, 0)
    await bench.finish()


@cocotb.test()
async def latency_and_rate(dut):
    bench = Bench(dut)
    await bench.reset()
    filled = Filled(bench)
    await filled.fill(0, range(filled.top_n))
    await bench.step(5)
    start = bench.cycle
    places = bench.rng.choices(filled.places(), k=20)
    for position, beat in places:
        filled.expect(0, position, beat)
    await bench.finish()
    assert bench.source("i").cycles == list(range(start, start + 20))
    assert bench.sink("o").cycles == list(range(start + 1, start + 21))


@cocotb.test()
async def reset_frees(dut):
    bench = Bench(dut)
    await bench.reset()
    filled = Filled(bench)
    await filled.fill(0, range(filled.top_n), failed=1)
    await bench.step(5)
    await bench.reset()
    await bench.step(5)
    assert bench.sink("o_set").received == [0, 1]
    filled.read(0, 0, 0)
    await bench.step(10)
    assert not bench.sink("o").received
    await filled.fill(0, range(filled.top_n))
    await bench.step(5)
    assert bench.sink("o").received == [filled.word(0, 0, 0)]


@pytest.mark.parametrize("parameters", [
    {"top_n": 1, "row_beats": 1, "data_bits": 1, "ports": 1},
    {"top_n": 6, "row_beats": 10, "data_bits": 64, "ports": 1},
    {"top_n": 7, "row_beats": 3, "data_bits": 8, "ports": 2},
    {"top_n": 8, "row_beats": 4, "data_bits": 32, "ports": 4},
    {"top_n": 6, "row_beats": 9, "data_bits": 64, "ports": 1, "kept": [0, 8],
     "tail": [8, 0, 16]},
    {"top_n": 4, "row_beats": 8, "data_bits": 16, "ports": 2, "kept": [1, 7], "word_beats": 3,
     "tail": [7, 5, 9]},
    {"top_n": 3, "row_beats": 7, "data_bits": 8, "ports": 1, "kept": [2, 6], "word_beats": 4},
], ids=lambda parameters: "-".join(str(value) for value in parameters.values()
                                   if isinstance(value, int)))
def test_bench(parameters):
    given = {"kept": [0, parameters["row_beats"]], "word_beats": 1, "tail": None, **parameters}
    tail = given["tail"]
    dut = RowBuffer(**{**given, "kept": range(*given["kept"]),
                       "tail": None if tail is None else RowTail(*tail)})
    run_bench(dut, __file__, parameters=given)


@pytest.mark.parametrize(("changes", "message"), [
    ({"kept": range(0)}, "Kept beats must be successive ones of 4, not range(0, 0)"),
    ({"kept": range(1, 5)}, "Kept beats must be successive ones of 4, not range(1, 5)"),
    ({"kept": range(0, 4, 2)}, "Kept beats must be successive ones of 4, not range(0, 4, 2)"),
    ({"word_beats": 3}, "Word beats must divide the beats that are kept (4), not 3"),
    ({"tail": RowTail(4, 0, 1)}, ("Tail must be within one of 4 beats of 8 bits, not "
                                 "RowTail(beat=4, first_bit=0, bits=1)")),
    ({"tail": RowTail(0, 7, 2)}, ("Tail must be within one of 4 beats of 8 bits, not "
                                 "RowTail(beat=0, first_bit=7, bits=2)")),
])
def test_wrong_parts(changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        RowBuffer(**{"top_n": 2, "row_beats": 4, "data_bits": 8, **changes})


def test_properties():
    dut = RowBuffer(top_n=7, row_beats=3, data_bits=8, ports=4)
    assert (dut.top_n, dut.row_beats, dut.data_bits, dut.ports, dut.positions, dut.latency) == (
        7, 3, 8, 4, 2, 1)


@pytest.mark.parametrize("name", ["top_n", "row_beats", "data_bits"])
@pytest.mark.parametrize("value", [0, -1, "4", None])
def test_wrong_numbers(name, value):
    with pytest.raises(TypeError, match=rf"^{name.replace('_', ' ').capitalize()} must be a "
                                        rf"positive integer, not {value!r}$"):
        RowBuffer(**{"top_n": 7, "row_beats": 3, "data_bits": 8, name: value})


@pytest.mark.parametrize("ports", [0, 3, 8, "1", None])
def test_wrong_ports(ports):
    with pytest.raises(ValueError, match=rf"^Ports must be 1, 2 or 4, not {ports!r}$"):
        RowBuffer(top_n=7, row_beats=3, ports=ports)
