# amaranth: UnusedElaboratable=no
"""The host link alone, with the bench in place of host and core."""

import cocotb
import pytest

from nearbit_boards.link import HostLink
from nearbit_boards.protocol import (
    Block,
    Identity,
    Layout,
    Message,
    Parser,
    ProtocolError,
    Status,
    request,
)
from nearbit_model.config import Config, Rescore
from nearbit_sim.bench import run_bench
from nearbit_sim.stream import MATRIX, Bench


# Nothing is a power of two, so that fields can be out of range.
PLAIN = Config(key_bits=5, value_dim=6, capacity=6, queries=2, lanes=2, value_lanes=2, top_n=3,
               exp_tables=3, value_bits=7, output_fraction_bits=5)
RESCORE = Config(key_bits=5, value_dim=1, capacity=6, lanes=1, value_lanes=1, top_n=3, exp_tables=1,
                 queries=3, rescore=Rescore(head_dim=6, lanes=3, element_bits=5, shared=True))
CONFIGS = {"plain": PLAIN, "rescore": RESCORE}
TIMEOUT = 64


class Host:
    """Sends requests and reads replies through a bench."""

    def __init__(self, bench):
        self.bench = bench
        self.layout = Layout(CONFIGS[bench.parameters["config"]])
        self.parser = Parser(self.layout)
        self.replies = []
        bench.sink("o").on_beat = lambda byte, _: self.replies.extend(
            self.parser.feed(bytes([byte])))

    def send(self, octets):
        self.bench.source("i").send(*octets)

    def random(self, kind):
        """Random fields of a message, all in range."""
        rng, config = self.bench.rng, self.layout.config
        unit = config.rescore

        def elements(count, bits):
            return [rng.randrange(-1 << bits - 1, 1 << bits - 1) for _ in range(count)]

        token = rng.randrange(config.capacity)
        match kind:
            case Message.KEY:
                return {"token": token, "code": rng.getrandbits(config.key_bits)}
            case Message.VALUE:
                return {"token": token, "beat": rng.randrange(config.beats),
                        "elements": elements(config.value_lanes, config.value_bits),
                        "scale": rng.getrandbits(16)}
            case Message.EXP_TABLE:
                return {"exp_table": rng.randrange(config.exp_tables),
                        "distance": rng.randrange(config.key_bits + 1),
                        "weight": rng.getrandbits(config.weight_bits)}
            case Message.RESCORE_KEY:
                return {"token": token, "beat": rng.randrange(unit.beats),
                        "elements": elements(unit.lanes, unit.element_bits)}
        more = {} if unit is None else {"multiplier": rng.getrandbits(32)}
        return {**{name: rng.randrange(config.capacity + 1) for name in ("n", "sink", "recent")},
                "first": token, "trace": rng.randrange(2), "rescore": 0, "shared": rng.randrange(2),
                "queries": [{"code": rng.getrandbits(config.key_bits),
                             "count": rng.randrange(config.capacity + 1),
                             "exp_table": rng.randrange(config.exp_tables), **more}
                            for _ in range(config.queries)]}

    async def replied(self, count):
        await self.bench.until(lambda: len(self.replies) >= count)
        await self.bench.step(8)
        assert len(self.replies) == count
        assert self.parser.skipped == 0

    async def ask(self, octets):
        count = len(self.replies)
        self.send(octets)
        await self.replied(count + 1)
        return self.replies[-1]

    async def state(self):
        reply = await self.ask(request(Message.STATUS, 77))
        assert (reply.status, reply.sequence) == (Status.OK, 77)
        return self.layout.state(reply.only(Block.STATE))


async def start(dut, **options):
    bench = Bench(dut, limit=400_000, **options)
    for name, value in (("loaded", 5), ("exp_tables_loaded", 1), ("lost", 0),
                        ("rescore_loaded", 3)):
        if hasattr(dut, name):
            getattr(dut, name).value = value
    await bench.reset()
    return bench, Host(bench)


def sink_of(kind):
    return "o_" + kind.name.lower()


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def loads(dut, idle, stall):
    """Every field of every load reaches the core, once, and is acknowledged."""
    bench, host = await start(dut, idle=idle, stall=stall)
    kinds = [kind for kind in (Message.KEY, Message.VALUE, Message.EXP_TABLE, Message.RESCORE_KEY)
             if kind in host.layout.kinds]
    sequences = []
    for sequence in range(30):
        kind = bench.rng.choice(kinds)
        fields = host.random(kind)
        bench.sink(sink_of(kind)).expect(fields)
        host.send(request(kind, sequence, host.layout.payload(kind, fields)))
        sequences.append(sequence)
    await host.replied(30)
    await bench.finish()
    assert [reply.sequence for reply in host.replies] == sequences
    assert all(reply.status == Status.OK and not reply.blocks for reply in host.replies)


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def queries(dut, idle, stall):
    """Whatever the core answers comes back: results, errors of queries, traces."""
    bench, host = await start(dut, idle=idle, stall=stall)
    config = host.layout.config
    rng = bench.rng
    port = bench.source("i_trace").port
    for sequence in range(12):
        fields = host.random(Message.COMMAND)
        expected = []
        beats, traces = [], []
        for query in range(config.queries):
            error = rng.randrange(8) if rng.random() < 0.3 else 0
            if error:
                expected.append((Block.ERROR + error, b""))
                beats.append({"query": query, "error": error, "output": 0, "last": 1})
                continue
            for _ in range(fields["trace"] * rng.randrange(4)):
                bits = rng.getrandbits(port.shape.width)
                traces.append(port.shape.unpack(bits))
                expected.append((Block.TRACE, bits.to_bytes(host.layout.trace_bytes, "little")))
            size, outputs = host.layout.element_bytes, []
            for index in range(config.value_dim):
                output = rng.randrange(-1 << config.output_bits - 1, 1 << config.output_bits - 1)
                beats.append({"query": query, "error": 0, "output": output,
                              "last": int(index == config.value_dim - 1)})
                outputs.append(output.to_bytes(size, "little", signed=True))
            expected.append((Block.RESULT, b"".join(outputs)))
        bench.sink("o_command").expect(fields)
        host.send(request(Message.COMMAND, sequence, host.layout.payload(Message.COMMAND, fields)))
        await bench.until(lambda: not bench.sink("o_command").pending)
        # All of the traces first, as they leave before the results.
        bench.source("i_trace").send(*traces)
        await bench.until(lambda: not bench.source("i_trace").pending)
        bench.source("i_result").send(*beats)
        await host.replied(sequence + 1)
        reply = host.replies[-1]
        assert (reply.status, reply.sequence) == (Status.OK, sequence)
        *blocks, (tag, cycles) = reply.blocks
        assert tag == Block.CYCLES
        assert sorted(blocks) == sorted(expected)
        assert [block for block in blocks if block[0] != Block.TRACE] == \
            [block for block in expected if block[0] != Block.TRACE]
        # Bytes take time; none of it counts.
        assert int.from_bytes(cycles, "little") > len(beats)
    await bench.finish()


@cocotb.test()
async def computing(dut):
    """The cycles from the command to the last beat count, those of waiting for bytes do not."""
    bench, host = await start(dut)
    config = host.layout.config
    fields = {**host.random(Message.COMMAND), "trace": 0}
    counted = []
    for latency, stall in ((50, 0.0), (50, 0.8), (80, 0.5)):
        bench.sink("o").stall = stall
        host.send(request(Message.COMMAND, 1, host.layout.payload(Message.COMMAND, fields)))
        before = len(host.replies)
        taken = len(bench.sink("o_command").cycles)
        await bench.until(lambda taken=taken: len(bench.sink("o_command").cycles) > taken)
        await bench.step(latency)
        for query in range(config.queries):
            bench.source("i_result").send(*({"query": query, "error": 0, "output": 0,
                                             "last": int(last)}
                                            for last in [*[False] * (config.value_dim - 1), True]))
        await host.replied(before + 1)
        counted.append(int.from_bytes(host.replies[-1].blocks[-1][1], "little"))
    assert abs(counted[0] - counted[1]) <= 1
    assert abs(counted[2] - counted[0] - 30) <= 1
    assert 50 < counted[0] < 50 + config.queries * (config.value_dim + 2)


@cocotb.test()
async def identity(dut):
    _, host = await start(dut)
    reply = await host.ask(request(Message.IDENTIFY, 200))
    assert reply.sequence == 200
    assert Identity.from_bytes(reply.only(Block.IDENTITY)) == Identity(
        host.layout.config, "1.2.3", 12_345_678)
    state = await host.state()
    assert (state.rejected, state.lost, state.loaded, state.exp_tables) == (0, 0, 5, 1)
    assert dut.error.value == 0


def refused(host):
    """Requests to refuse, and with what."""
    layout = host.layout
    yield request(0, 1), Status.TYPE
    yield request(Message.RESCORE_QUERY + 1, 2), Status.TYPE
    yield request(0x84, 3), Status.TYPE
    if layout.config.rescore is None:
        yield request(Message.RESCORE_KEY, 4), Status.TYPE
    for kind in layout.kinds:
        length = layout.length(kind)
        if kind == Message.RESCORE_QUERY:
            continue
        for wrong in {length - 1, length + 1, 255} - {-1}:
            yield request(kind, 5, bytes(wrong))[:4], Status.LENGTH
        good = request(kind, 6, bytes(length))
        for bit in range(8 * (len(good) - 2), 8 * len(good), 5):
            broken = bytearray(good)
            broken[bit // 8] ^= 1 << bit % 8
            yield bytes(broken), Status.CRC
    beyond = [(Message.KEY, {"token": layout.config.capacity}),
              (Message.VALUE, {"token": layout.config.capacity + 1}),
              (Message.EXP_TABLE, {"distance": layout.config.key_bits + 1})]
    if layout.config.beats == 3:
        beyond.append((Message.VALUE, {"beat": 3}))
    if layout.config.exp_tables == 3:
        beyond.append((Message.EXP_TABLE, {"exp_table": 3}))
        command = host.random(Message.COMMAND)
        command["queries"][1]["exp_table"] = 3
        beyond.append((Message.COMMAND, command))
    if layout.config.rescore is not None:
        beyond.append((Message.RESCORE_KEY, {"token": layout.config.capacity}))
    for kind, fields in beyond:
        yield (request(kind, 7, layout.payload(kind, {**host.random(kind), **fields})),
               Status.FIELD)
    for kind, shape in layout.shapes.items():
        if shape.width % 8 and kind != Message.RESCORE_QUERY:
            octets = bytearray(layout.payload(kind, host.random(kind)))
            octets[-1] |= 0x80
            yield request(kind, 8, bytes(octets)), Status.FIELD


@cocotb.test()
async def refuses(dut):
    """Each bad request is answered by its error, counted, and without effect."""
    bench, host = await start(dut)
    for port in ("o_key", "o_value", "o_exp_table", "o_command"):
        bench.sink(port).expect()
    count = 0
    for octets, status in refused(host):
        reply = await host.ask(octets)
        assert (reply.status, reply.sequence) == (status, octets[2]), octets.hex()
        assert dut.error.value == 1
        await bench.step(2 * len(octets) + 20)
        count += 1
    assert (await host.state()).rejected == count % 256
    assert count > 20
    # A reset clears the counters.
    await host.ask(request(Message.RESET, 9))
    assert (await host.state()).rejected == 0
    assert dut.error.value == 0


@cocotb.test()
async def silence(dut):
    """Any part of a request, and then nothing: given up and answered, the next one is good."""
    bench, host = await start(dut)
    bench.sink("o_key").expect()
    whole = request(Message.KEY, 100, bytes(host.layout.length(Message.KEY)))
    before = 77
    for cut in range(1, len(whole)):
        reply = await host.ask(whole[:cut])
        assert reply.status == Status.TIMEOUT
        # Without a sequence number it has that of the request before.
        assert reply.sequence == (100 if cut > 2 else before)
        assert (await host.state()).rejected == cut
        before = 77
    # Slow, but not silent.
    count = len(host.replies) + 1
    for byte in request(Message.IDENTIFY, 3):
        host.send([byte])
        await bench.step(TIMEOUT - 8)
    await host.replied(count)
    assert host.replies[-1].sequence == 3


@cocotb.test()
async def garbage(dut):
    """Bytes that are no request are passed over; each time they are is counted."""
    bench, host = await start(dut)
    for count in range(1, 20):
        host.send(byte for byte in bench.rng.randbytes(bench.rng.randrange(1, 30)) if byte != 0xA5)
        host.send([1])
        assert (await host.state()).lost == count
    dut.lost.value = 1
    await bench.step(3)
    dut.lost.value = 0
    assert (await host.state()).lost == 20
    assert dut.error.value == 1


@cocotb.test()
async def resets(dut):
    bench, host = await start(dut)
    strobes = 0
    host.send(request(Message.RESET, 5))
    for _ in range(60):
        await bench.step()
        strobes += int(dut.reset_core.value)
    assert strobes == 1
    assert [(reply.status, reply.sequence) for reply in host.replies] == [(Status.OK, 5)]


@cocotb.test()
async def rescore_queries(dut):
    """Beats are taken in order, once each, and a command with rescoring needs them all."""
    bench, host = await start(dut)
    layout = host.layout
    beats = layout.config.queries * layout.config.rescore.beats
    command = {**host.random(Message.COMMAND), "rescore": 1}
    asked = request(Message.COMMAND, 50, layout.payload(Message.COMMAND, command))

    def beat(number):
        fields = {"beat": number, "elements": [number, -number, 3]}
        return fields, request(Message.RESCORE_QUERY, number,
                               layout.payload(Message.RESCORE_QUERY, fields))

    for _ in range(2):
        assert (await host.ask(beat(1)[1])).status == Status.ORDER
        for number in range(beats):
            assert (await host.ask(asked)).status == Status.ORDER
            fields, octets = beat(number)
            bench.sink("o_rescore_query").expect(fields["elements"])
            for _ in range(2):
                assert (await host.ask(octets)).status == Status.OK
            assert (await host.state()).rescore_beats == number + 1
        bench.sink("o_command").expect(command)
        before = len(host.replies)
        host.send(asked)
        await bench.until(lambda: not bench.sink("o_command").pending)
        bench.source("i_result").send(*({"query": query, "error": 3, "output": 0, "last": 1}
                                        for query in range(layout.config.queries)))
        await host.replied(before + 1)
        assert [tag for tag, _ in host.replies[-1].blocks] == [Block.ERROR + 3] * 3 + [Block.CYCLES]
        assert (await host.state()).rescore_beats == 0
    bench.sink("o_rescore_query").expect([0, 0, 3])
    await host.ask(beat(0)[1])
    await host.ask(request(Message.RESET, 1))
    assert (await host.state()).rescore_beats == 0
    await bench.finish()


def link(config):
    return HostLink(config, version=(1, 2, 3), clock=12_345_678, timeout=TIMEOUT - 3)


def test_plain():
    run_bench(link(PLAIN), __file__, parameters={"config": "plain"},
              test_filter=r"loads|\.queries|computing|identity|refuses|silence|garbage|resets")


def test_rescore():
    run_bench(link(RESCORE), __file__, parameters={"config": "rescore"},
              test_filter=r"loads|\.queries.*idle=0.3|identity|refuses|rescore_queries")


def test_properties():
    dut = link(PLAIN)
    assert (dut.config, dut.version, dut.clock, dut.timeout) == (PLAIN, (1, 2, 3), 12_345_678, 64)
    assert dut.payload_bytes == Layout(PLAIN).length(Message.COMMAND)


def test_refused_parameters():
    with pytest.raises(TypeError, match=r"^Config must be a Config, not 3$"):
        HostLink(3)
    with pytest.raises(ValueError, match=r"^Version must be three integers from 0 to 255, "
                       r"not \(1, 2, 256\)$"):
        HostLink(PLAIN, version=(1, 2, 256))
    with pytest.raises(ValueError, match=r"^Clock must be from 1 to 2\*\*32 - 1 Hz, not 0$"):
        HostLink(PLAIN, clock=0)
    with pytest.raises(ValueError, match=r"^Timeout must be at least 2 cycles, not 1$"):
        HostLink(PLAIN, timeout=1)
    with pytest.raises(ProtocolError, match=r"^a command message of this configuration would have "
                       r"518 bytes, but the host link allows at most 255; fewer queries would make "
                       r"it shorter$"):
        HostLink(Config(key_bits=1024, value_dim=1, value_lanes=1, capacity=16, queries=4, top_n=1))
