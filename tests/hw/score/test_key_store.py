# amaranth: UnusedElaboratable=no
import cocotb
import pytest

from nearbit_hw.score.key_store import KeyStore
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


class Store:
    """The codes that a bench has written."""

    def __init__(self, bench):
        self.bench = bench
        self.lanes, self.capacity = bench.parameters["lanes"], bench.parameters["capacity"]
        self.words = self.capacity // self.lanes
        self.codes = [0] * self.capacity

    def write(self, token):
        self.codes[token] = self.bench.rng.getrandbits(self.bench.parameters["key_bits"])
        self.bench.source("i_write").send({"token": token, "code": self.codes[token]})

    def write_all(self):
        tokens = list(range(self.capacity))
        self.bench.rng.shuffle(tokens)
        for token in tokens:
            self.write(token)

    def word(self, word, last=0):
        return {"codes": self.codes[word * self.lanes:(word + 1) * self.lanes], "last": last}

    def ask(self, word):
        last = self.bench.rng.getrandbits(1)
        self.bench.source("i").send({"word": word, "last": last})
        self.bench.sink("o").expect(self.word(word, last))


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def words(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    store = Store(bench)
    for _ in range(2):
        store.write_all()
        await bench.finish(extra=0)
        for word in range(store.words):
            store.ask(word)
        for _ in range(60):
            store.ask(bench.rng.randrange(store.words))
        await bench.finish()


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def appends_between_reads(dut, idle, stall):
    """Words are read while keys are appended beyond them, and beside them in the last word."""
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    store = Store(bench)
    received = bench.sink("o").received
    for token in range(min(store.capacity, 20)):
        known = store.codes[:token]
        words = -(-token // store.lanes)
        bench.source("i").send(*({"word": word, "last": 0} for word in range(words)))
        store.write(token)
        await bench.until(lambda words=words: len(received) == words
                          and not bench.source("i_write").pending)
        assert [code for beat in received for code in beat["codes"]][:token] == known
        received.clear()


@cocotb.test()
async def latency_and_rate(dut):
    bench = Bench(dut)
    await bench.reset()
    store = Store(bench)
    store.write_all()
    await bench.finish(extra=0)
    assert bench.source("i_write").cycles == list(range(store.capacity))
    start = bench.cycle
    for count in range(20):
        store.ask(count % store.words)
    await bench.finish()
    latency = bench.parameters["latency"]
    assert bench.source("i").cycles == list(range(start, start + 20))
    assert bench.sink("o").cycles == list(range(start + latency, start + latency + 20))


@cocotb.test()
async def written_is_read_in_the_next_cycle(dut):
    bench = Bench(dut)
    await bench.reset()
    store = Store(bench)
    store.write_all()
    await bench.finish(extra=0)
    for _ in range(20):
        token = bench.rng.randrange(store.capacity)
        store.write(token)
        await bench.step()
        store.ask(token // store.lanes)
        await bench.step()
        assert bench.source("i_write").cycles[-1] + 1 == bench.source("i").cycles[-1]
    await bench.finish()


@cocotb.test()
async def reset_forgets_requests_only(dut):
    bench = Bench(dut)
    await bench.reset()
    store = Store(bench)
    store.write_all()
    await bench.finish(extra=0)
    bench.sink("o").stall = 1
    for _ in range(5):
        store.ask(0)
    await bench.step(5)
    await bench.reset()
    bench.sink("o").stall = 0
    store.ask(store.words - 1)
    await bench.finish()


@pytest.mark.parametrize("parameters", [
    {"capacity": 1, "lanes": 1, "key_bits": 1},
    {"capacity": 5, "lanes": 1, "key_bits": 3},
    {"capacity": 8, "lanes": 8, "key_bits": 2},
    {"capacity": 24, "lanes": 4, "key_bits": 7},
    {"capacity": 32, "lanes": 8, "key_bits": 64},
], ids=lambda parameters: "-".join(map(str, parameters.values())))
def test_bench(parameters):
    dut = KeyStore(**parameters)
    run_bench(dut, __file__, parameters=parameters | {"latency": dut.latency})


def test_properties():
    dut = KeyStore(capacity=24, lanes=4, key_bits=7)
    assert (dut.capacity, dut.lanes, dut.key_bits, dut.latency) == (24, 4, 7, 1)


@pytest.mark.parametrize("lanes", [0, 3, -4, "4", None])
def test_wrong_lanes(lanes):
    with pytest.raises(TypeError, match=rf"^Lanes must be a power of two, not {lanes!r}$"):
        KeyStore(capacity=12, lanes=lanes, key_bits=8)


@pytest.mark.parametrize("capacity", [0, 10, -4, "8", None])
def test_wrong_capacity(capacity):
    with pytest.raises(TypeError, match=rf"^Capacity must be a positive multiple of lanes, "
                                        rf"not {capacity!r}$"):
        KeyStore(capacity=capacity, lanes=4, key_bits=8)


@pytest.mark.parametrize("key_bits", [0, -1, "8", None])
def test_wrong_key_bits(key_bits):
    with pytest.raises(TypeError, match=rf"^Key bits must be a positive integer, "
                                        rf"not {key_bits!r}$"):
        KeyStore(capacity=8, lanes=4, key_bits=key_bits)
