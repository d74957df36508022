"""A RowReader at a RowBuffer: rows come, and are read."""

import cocotb
from memory_model import MemoryBench

from nearbit_sim.stream import MATRIX


class Rows:
    """Selections whose rows come, and are read."""

    def __init__(self, dut, **options):
        self.bench = bench = MemoryBench(dut, limit=60_000, **options)
        parameters = bench.parameters
        self.rng = bench.rng
        self.top_n, self.beats, self.bits, self.word_bits, self.tail, self.row_beats = (
            parameters[name] for name in ("top_n", "beats", "beat_bits", "word_bits", "tail",
                                          "row_beats"))
        self.row_major, self.releases = parameters["row_major"], parameters["releases"]
        self.reset()
        bench.memories.append(self)

    def reset(self):
        self.coming, self.given, self.busy, self.ends, self.which = [], 0, None, [], 0

    def act(self, cycle):
        """Fill a set that was given with the rows of the next selection."""
        bench = self.bench
        sets = bench.sink("o_set").received
        if self.ends and len(bench.sink("o").received) >= self.ends[0][0]:
            bench.source("i_release").send(self.ends.pop(0)[1])
        if self.busy is not None:
            if not bench.source("i_write__0").pending:
                for failed in self.busy[1]:
                    bench.source("i_arrived__0").send({"set": self.busy[0], "failed": failed})
                self.busy = None
        elif self.coming and self.given < len(sets):
            rows, failed, keeps = self.coming.pop(0)
            # Nothing is asked for before there is a set for it.
            for each in keeps:
                self.read(rows, any(failed), each)
            which = sets[self.given]
            self.given += 1
            for position, beats in enumerate(rows):
                bench.source("i_write__0").send(*(
                    {"slot": {"set": which, "position": position}, "beat": beat, "data": data}
                    for beat, data in enumerate(beats)))
            self.busy = which, failed

    def select(self, count, *, fails=False, keeps=(0,)):
        """Have a selection come, and read it as often as it is kept, and once more."""
        rows = [[self.rng.getrandbits(self.word_bits) for _ in range(self.row_beats)]
                for _ in range(count)]
        failed = [int(fails and row == count - 1) for row in range(count)]
        self.coming.append((rows, failed, keeps))

    async def finish(self):
        await self.bench.until(lambda: not self.coming)
        await self.bench.finish()

    def read(self, rows, fails, keeps):
        bench, per_word = self.bench, self.word_bits // self.bits
        bench.source("i_use").send({"keeps": keeps, "skips": 0})
        places = [(row, beat) for row in range(len(rows)) for beat in range(self.beats)]
        for row, beat in places if self.row_major else sorted(places, key=lambda place: place[1]):
            bench.source("i").send({"beat": beat, "last": int(row == len(rows) - 1)})
            found = {"data": rows[row][beat // per_word] >> beat % per_word * self.bits
                     & (1 << self.bits) - 1}
            if self.tail is not None:
                at, first_bit, bits = self.tail
                found["tail"] = rows[row][at] >> first_bit & (1 << bits) - 1
            bench.sink("o").expect(found)
        if self.releases:
            bench.sink("o_outcome").expect({"failed": int(fails)})
        elif not keeps:
            self.ends.append((len(bench.sink("o").received) + bench.sink("o").pending,
                              self.which))
        if not keeps:
            self.which ^= 1


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def selections(dut, idle, stall):
    """Rows in the order of their positions, from the two sets in turns."""
    rows = Rows(dut, idle=idle, stall=stall)
    rng = rows.rng
    await rows.bench.reset()
    for _ in range(20):
        rows.select(rng.choice([1, rng.randint(1, rows.top_n), rows.top_n]),
                    fails=rng.random() < 0.2, keeps=(1, 1, 0) if rng.random() < 0.3 else (0,))
    await rows.finish()


@cocotb.test()
async def skipped(dut):
    """Nothing is read of a selection that has no use for what is read here."""
    rows = Rows(dut)
    bench = rows.bench
    if not rows.row_major:
        return
    await bench.reset()
    for _ in range(3):
        rows.select(rows.top_n)
        await rows.finish()
        bench.source("i_use").send({"keeps": 0, "skips": 1})
        rows.coming.append(([[0] * rows.row_beats], [0], ()))
        await bench.step(20)
        bench.source("i_release").send(rows.which)
        rows.which ^= 1
    rows.select(rows.top_n)
    await rows.finish()


@cocotb.test()
async def outcomes(dut):
    """That of a selection is told before the first beat of its last row passes."""
    rows = Rows(dut)
    bench = rows.bench
    if not rows.releases:
        return
    await bench.reset()
    seen = 0
    for fails in (False, True, False):
        bench.sink("o_outcome").stall = 1
        rows.select(rows.top_n, fails=fails)
        await bench.step(rows.top_n * (rows.beats + rows.row_beats) + 30)
        assert len(bench.sink("o").received) == seen + (
            (rows.top_n - 1) * (rows.beats if rows.row_major else 1))
        bench.sink("o_outcome").stall = 0
        await rows.finish()
        seen += rows.top_n * rows.beats


@cocotb.test()
async def latency_and_rate(dut):
    rows = Rows(dut)
    bench = rows.bench
    await bench.reset()
    # The rows are there before they are asked for.
    given = [[rows.rng.getrandbits(rows.word_bits) for _ in range(rows.row_beats)]
             for _ in range(rows.top_n)]
    rows.coming.append((given, [0] * rows.top_n, ()))
    await bench.step(rows.top_n * rows.row_beats + 20)
    start = bench.cycle
    rows.read(given, False, 0)
    await bench.finish()
    # A cycle for the use to come through its queue.
    first = start + 1 + bench.parameters["latency"]
    assert bench.sink("o").cycles == list(range(first, first + rows.top_n * rows.beats))


@cocotb.test()
async def reset_begins_with_set_0(dut):
    rows = Rows(dut)
    bench = rows.bench
    await bench.reset()
    for cycles in (5, 11, 23):
        rows.select(rows.top_n)
        rows.select(rows.top_n)
        await bench.step(rows.top_n * rows.row_beats + cycles)
        await bench.reset()
        rows.select(rows.top_n)
        await rows.finish()
        await bench.reset()
