# amaranth: UnusedElaboratable=no
import cocotb
import pytest

from nearbit_hw.attend.rescore_key_store import RescoreKeyStore
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


class Store:
    """The beats that a bench has written."""

    def __init__(self, bench):
        self.bench = bench
        self.capacity, self.beats, self.lanes, self.bits = (
            bench.parameters[name] for name in ("capacity", "beats", "lanes", "element_bits"))
        self.elements = {}

    def write(self, token, beat):
        limit = 1 << self.bits - 1
        elements = [self.bench.rng.randrange(-limit, limit) for _ in range(self.lanes)]
        self.elements[token, beat] = elements
        self.bench.source("i_write").send({"token": token, "beat": beat, "elements": elements})

    def write_all(self):
        places = [(token, beat) for token in range(self.capacity) for beat in range(self.beats)]
        self.bench.rng.shuffle(places)
        for place in places:
            self.write(*place)

    def ask(self, token, beat):
        self.bench.source("i").send({"token": token, "beat": beat})
        self.bench.sink("o").expect(self.elements[token, beat])

    def ask_any(self, tokens):
        self.ask(self.bench.rng.randrange(tokens), self.bench.rng.randrange(self.beats))


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def beats(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    store = Store(bench)
    for _ in range(2):
        store.write_all()
        await bench.finish(extra=0)
        for place in store.elements:
            store.ask(*place)
        for _ in range(60):
            store.ask_any(store.capacity)
        await bench.finish()


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def appends_between_reads(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    store = Store(bench)
    for token in range(store.capacity):
        for _ in range(10 if token else 0):
            store.ask_any(token)
        for beat in range(store.beats):
            store.write(token, beat)
        await bench.finish(extra=0)


@cocotb.test()
async def latency_and_rate(dut):
    bench = Bench(dut)
    await bench.reset()
    store = Store(bench)
    store.write_all()
    await bench.finish(extra=0)
    assert bench.source("i_write").cycles == list(range(store.capacity * store.beats))
    for _ in range(20):
        store.ask_any(store.capacity)
    await bench.finish()
    asked = bench.source("i").cycles
    assert asked == list(range(asked[0], asked[0] + 20))
    latency = bench.parameters["latency"]
    assert bench.sink("o").cycles == [cycle + latency for cycle in asked]


@cocotb.test()
async def one_answer_waits_at_a_stalled_output(dut):
    bench = Bench(dut)
    await bench.reset()
    store = Store(bench)
    store.write_all()
    await bench.finish(extra=0)
    for _ in range(3):
        bench.sink("o").stall = 1
        before, first = len(bench.source("i").cycles), bench.cycle
        store.ask_any(store.capacity)
        store.ask_any(store.capacity)
        await bench.step(6)
        assert bench.source("i").cycles[before:] == [first]
        bench.sink("o").stall = 0
        await bench.finish()


@cocotb.test()
async def reset_keeps_keys(dut):
    bench = Bench(dut)
    await bench.reset()
    store = Store(bench)
    store.write_all()
    await bench.finish(extra=0)
    bench.source("i").send({"token": 0, "beat": 0})
    bench.sink("o").stall = 1
    await bench.step(4)
    await bench.reset()
    bench.sink("o").stall = 0
    for place in store.elements:
        store.ask(*place)
    await bench.finish()


@pytest.mark.parametrize(("capacity", "head_dim", "lanes", "element_bits"), [
    (24, 4, 2, 8),
    (7, 6, 2, 12),
    (16, 3, 3, 5),
    (1, 1, 1, 1),
])
def test_bench(capacity, head_dim, lanes, element_bits):
    dut = RescoreKeyStore(capacity=capacity, head_dim=head_dim, lanes=lanes,
                          element_bits=element_bits)
    run_bench(dut, __file__, parameters={
        "capacity": capacity, "beats": dut.beats, "lanes": lanes,
        "element_bits": element_bits, "latency": dut.latency})


@pytest.mark.parametrize(("changes", "message"), [
    ({"capacity": 0}, r"^Capacity must be a positive integer, not 0$"),
    ({"lanes": "2"}, r"^Lanes must be a positive integer, not '2'$"),
    ({"element_bits": 0}, r"^Element bits must be a positive integer, not 0$"),
    ({"head_dim": 5}, r"^Head dimension must be a positive multiple of lanes, not 5$"),
    ({"head_dim": 0}, r"^Head dimension must be a positive multiple of lanes, not 0$"),
])
def test_wrong_parameter(changes, message):
    given = {"capacity": 8, "head_dim": 4, "lanes": 2, "element_bits": 8, **changes}
    with pytest.raises(TypeError, match=message):
        RescoreKeyStore(**given)
