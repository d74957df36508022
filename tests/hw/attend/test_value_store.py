# amaranth: UnusedElaboratable=no
import itertools
import json
from collections import Counter

import cocotb
import pytest

from nearbit_hw import yosys
from nearbit_hw.attend.value_store import ValueStore
from nearbit_hw.verilog import generate
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


class Store:
    """The beats that a bench has written, and each token's scale."""

    def __init__(self, bench):
        self.bench = bench
        self.parameters = bench.parameters
        self.capacity, self.beats = self.parameters["capacity"], self.parameters["beats"]
        self.single_port = self.parameters.get("single_port", False)
        self.elements, self.scales = {}, {}

    def write(self, token, beat):
        limit = 1 << self.parameters["value_bits"] - 1
        elements = [self.bench.rng.randrange(-limit, limit)
                    for _ in range(self.parameters["value_lanes"])]
        self.elements[token, beat] = elements
        scale = self.bench.rng.getrandbits(self.parameters["scale_bits"])
        if not self.single_port or beat == self.beats - 1:
            self.scales[token] = scale
        self.bench.source("i_write").send({"token": token, "beat": beat, "elements": elements,
                                           "scale": scale})

    def write_all(self):
        places = [(token, beat) for token in range(self.capacity) for beat in range(self.beats)]
        self.bench.rng.shuffle(places)
        for place in places:
            self.write(*place)

    def word(self, token, beat):
        """The elements in one number."""
        bits, word = self.parameters["value_bits"], 0
        for element in reversed(self.elements[token, beat]):
            word = word << bits | element % (1 << bits)
        return word

    def ask_scale(self, token):
        bits = self.parameters["scale_bits"]
        self.bench.source("i").send({"token": token, "beat": 0})
        self.bench.sink("o").expect(
            self.word(token, self.beats - 1) >> bits << bits | self.scales[token])

    def ask(self, token, beat):
        if self.single_port:
            self.bench.source("i").send({"token": token, "beat": beat + 1})
            self.bench.sink("o").expect(self.word(token, beat))
            return
        self.bench.source("i").send({"token": token, "beat": beat})
        self.bench.sink("o").expect({"elements": self.elements[token, beat],
                                     "scale": self.scales[token]})

    def ask_any(self):
        if self.single_port and self.bench.rng.random() < 0.3:
            self.ask_scale(self.bench.rng.randrange(self.capacity))
            return
        self.ask(self.bench.rng.randrange(self.capacity), self.bench.rng.randrange(self.beats))


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
        for token in store.scales if store.single_port else ():
            store.ask_scale(token)
        for _ in range(60):
            store.ask_any()
        await bench.finish()


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def appends_between_reads(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    store = Store(bench)
    for token in range(store.capacity):
        for _ in range(10 if token else 0):
            store.ask(bench.rng.randrange(token), bench.rng.randrange(store.beats))
        if store.single_port:
            await bench.finish(extra=0)
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
    # With a single port, a vector's last beat takes two cycles.
    assert bench.source("i_write").cycles == list(itertools.accumulate(
        (1 + (store.single_port and beat == store.beats - 1) for _, beat in store.elements),
        initial=-1))[1:]
    start = bench.cycle
    for _ in range(20):
        store.ask_any()
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
        place = bench.rng.randrange(store.capacity), bench.rng.randrange(store.beats)
        store.write(*place)
        while bench.source("i_write").pending:
            await bench.step()
        store.ask(*place)
        await bench.finish(extra=0)
        assert bench.source("i_write").cycles[-1] + 1 == bench.source("i").cycles[-1]


@cocotb.test()
async def reset_forgets_requests_only(dut):
    bench = Bench(dut)
    await bench.reset()
    store = Store(bench)
    store.write_all()
    await bench.finish(extra=0)
    bench.sink("o").stall = 1
    for _ in range(5):
        store.ask_any()
    await bench.step(5)
    await bench.reset()
    bench.sink("o").stall = 0
    store.ask_any()
    await bench.finish()


@pytest.mark.parametrize("parameters", [
    {"capacity": 1, "value_dim": 1, "value_lanes": 1, "value_bits": 1, "scale_bits": 1},
    {"capacity": 1, "value_dim": 3, "value_lanes": 1, "value_bits": 2, "scale_bits": 5},
    {"capacity": 7, "value_dim": 9, "value_lanes": 3, "value_bits": 5, "scale_bits": 16},
    {"capacity": 12, "value_dim": 8, "value_lanes": 4, "value_bits": 8, "scale_bits": 16},
    {"capacity": 16, "value_dim": 15, "value_lanes": 3, "value_bits": 16, "scale_bits": 12},
    {"capacity": 32, "value_dim": 32, "value_lanes": 32, "value_bits": 8, "scale_bits": 16},
    {"capacity": 7, "value_dim": 9, "value_lanes": 3, "value_bits": 5, "scale_bits": 16,
     "single_port": True},
    {"capacity": 16, "value_dim": 16, "value_lanes": 4, "value_bits": 8, "scale_bits": 16,
     "single_port": True},
    {"capacity": 1, "value_dim": 2, "value_lanes": 2, "value_bits": 1, "scale_bits": 1,
     "single_port": True},
], ids=lambda parameters: "-".join(map(str, parameters.values())))
def test_bench(parameters):
    dut = ValueStore(**parameters)
    run_bench(dut, __file__, parameters=parameters | {"latency": dut.latency,
                                                      "beats": dut.beats})


@pytest.mark.parametrize("command", ["synth_ice40 -device u -spram", "synth_ice40", "synth_ecp5"])
def test_memories(command, tmp_path):
    """A memory with a single port becomes one that is uninitialized, where there are such."""
    verilog = generate(ValueStore(capacity=2048, value_dim=32, value_lanes=4, value_bits=8,
                                  single_port=True), "dut")
    (tmp_path / "dut.v").write_text(verilog, encoding="utf-8")
    yosys.run(["read_verilog dut.v", f"{command} -top dut", "check -assert",
               "write_json dut.json"], tmp_path)
    netlist = json.loads((tmp_path / "dut.json").read_text(encoding="utf-8"))["modules"]["dut"]
    kinds = Counter(cell["type"] for cell in netlist["cells"].values())
    memories = {kind: count for kind, count in kinds.items() if "RAM" in kind or kind == "DP16KD"}
    assert memories == {
        "synth_ice40 -device u -spram": {"SB_SPRAM256KA": 4},
        "synth_ice40": {"SB_RAM40_4K": 144},
        "synth_ecp5": {"DP16KD": 36},
    }[command]


def test_properties():
    dut = ValueStore(capacity=7, value_dim=9, value_lanes=3, value_bits=5)
    assert (dut.capacity, dut.value_dim, dut.value_lanes, dut.value_bits) == (7, 9, 3, 5)
    assert (dut.scale_bits, dut.beats, dut.latency) == (16, 3, 2)


GOOD = {"capacity": 4, "value_dim": 8, "value_lanes": 4, "value_bits": 8, "scale_bits": 16}


@pytest.mark.parametrize("value", [0, -1, "8", None])
@pytest.mark.parametrize(("name", "text"), [
    ("capacity", "Capacity"), ("value_lanes", "Value lanes"), ("value_bits", "Value bits"),
    ("scale_bits", "Scale bits")])
def test_wrong_number(name, text, value):
    with pytest.raises(TypeError, match=rf"^{text} must be a positive integer, not {value!r}$"):
        ValueStore(**GOOD | {name: value})


@pytest.mark.parametrize("value_dim", [0, 6, -4, "8", None])
def test_wrong_value_dim(value_dim):
    with pytest.raises(TypeError, match=rf"^Value dimension must be a positive multiple of value "
                                        rf"lanes, not {value_dim!r}$"):
        ValueStore(**GOOD | {"value_dim": value_dim})
