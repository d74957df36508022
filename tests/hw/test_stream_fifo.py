# amaranth: UnusedElaboratable=no
import cocotb
import pytest
from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.stream_fifo import StreamFifo, queue, register
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


LAYOUT = data.StructLayout({"number": 5, "last": 1})


class Queue(wiring.Component):
    """A queue as a component."""

    def __init__(self, depth):
        self._depth = depth
        super().__init__({"i": In(stream.Signature(LAYOUT)), "o": Out(stream.Signature(LAYOUT))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.fifo = fifo = StreamFifo(LAYOUT, depth=self._depth)
        queue(m, self.i, fifo.i)
        queue(m, fifo.o, self.o)
        return m


class Register(wiring.Component):
    """A register as a component."""

    i: In(stream.Signature(LAYOUT))
    o: Out(stream.Signature(LAYOUT))

    def elaborate(self, platform):
        m = Module()
        register(m, self.i, self.o, "held")
        return m


def beats(count):
    return [{"number": place % 32, "last": place % 3 == 0} for place in range(count)]


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def order_is_kept(dut, idle, stall):
    bench = Bench(dut, idle=idle, stall=stall)
    await bench.reset()
    bench.source("i").send(*beats(100))
    bench.sink("o").expect(*beats(100))
    await bench.finish()


@cocotb.test()
async def presented_in_the_next_cycle(dut):
    bench = Bench(dut)
    await bench.reset()
    bench.source("i").send(*beats(50))
    bench.sink("o").expect(*beats(50))
    await bench.finish()
    ways = zip(bench.source("i").cycles, bench.sink("o").cycles, strict=True)
    if bench.parameters["full_rate"]:
        assert all(left == accepted + 1 for accepted, left in ways)
        assert bench.sink("o").cycles == list(range(
            bench.sink("o").cycles[0], bench.sink("o").cycles[0] + 50))


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_bench(depth):
    run_bench(Queue(depth), __file__, parameters={"full_rate": depth > 1})


def test_register():
    run_bench(Register(), __file__, parameters={"full_rate": True})


def test_streams_are_the_signals_of_the_fifo():
    fifo = StreamFifo(LAYOUT, depth=2)
    assert fifo.width == LAYOUT.size
    assert fifo.o.valid is fifo.r_rdy
    assert fifo.i.ready is fifo.w_rdy
