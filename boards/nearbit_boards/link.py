"""The host link's hardware, between the bytes of messages and the core's streams."""

from typing import Any

from amaranth import *
from amaranth.lib import crc, stream, wiring  # type: ignore[attr-defined]
from amaranth.lib.wiring import In, Out

from nearbit_boards.protocol import (
    CYCLES_BYTES,
    REPLY_SYNC,
    REQUEST_SYNC,
    STREAMS,
    Block,
    Layout,
    Message,
    Status,
    identity_bytes,
    state_fields,
)
from nearbit_hw.core import Error, core_members
from nearbit_model.config import Config


__all__ = ["HostLink"]


def _members(config: Config) -> dict[str, wiring.Member]:
    """Streams of the core, seen from the link: ``o_key`` for its ``i_key``."""
    turned = {"i_": "o_", "o_": "i_"}
    return {turned[name[:2]] + name[2:]: member.flip()
            for name, member in core_members(config).items()}


def _beyond(kind: Message, fields: Any) -> list[Value]:
    """List conditions under which fields of a message are out of range.

    For a command, only its exp tables: the core itself reports everything else.
    """
    if kind == Message.COMMAND:
        return [wrong for query in fields.queries for wrong in _beyond_range(query, ["exp_table"])]
    return _beyond_range(fields, [name for name, _ in fields.shape()])


def _beyond_range(fields: Any, names: list[str]) -> list[Value]:
    shapes = fields.shape().members
    return [fields[name] > shapes[name][-1] for name in names
            if isinstance(shapes[name], range) and len(shapes[name]) != 1 << len(fields[name])]


def _octets(bits: Value, count: int) -> list[Value]:
    """Split bits into bytes, lowest first, padded with zeros."""
    filled = Cat(bits, C(0, 8 * count))
    return [filled[8 * index:8 * index + 8] for index in range(count)]


def _cycle_bits(config: Config) -> int:
    """Bits to count the cycles of any command, with a large margin."""
    rescore_beats = 0 if config.rescore is None else config.rescore.beats
    selected = config.queries * config.top_n * (config.beats + rescore_beats)
    results = config.queries * config.value_dim * config.divider_cycles
    return (2 * (3 * config.capacity // config.lanes + selected + results + 100)).bit_length()


class HostLink(wiring.Component):
    """Answers a host's requests with a core.

    The messages are those of docs/host-link.md. A request's payload is held in a shift register
    of :py:`payload_bytes` bytes, the only buffer: it must be handed over, or rejected, before the
    next request is accepted. Only a request with the right CRC has any effect. Each request is
    answered by one reply, except that a request that ends before its sequence number is only
    counted.

    A request may arrive while the reply to the one before is being sent. Its first byte is accepted
    once the request before is handed over: when the core has accepted its load or command. It is
    answered after the previous reply has been sent.

    One byte is accepted per cycle, but none for at least four cycles after a request, until the
    request is handed over. At most one byte of a reply is sent per cycle. Results and traces wait
    for :py:`o`.

    Parameters
    ----------
    config : :class:`nearbit_model.Config`
        The core's configuration.
    version : :class:`tuple`
        Release of Nearbit, three integers from 0 to 255.
    clock : :class:`int`
        Cycles per second, 1 to 2**32 - 1; only reported to the host.
    timeout : :class:`int`
        Cycles without a byte after which an incomplete request is dropped, at least 2; rounded up
        to a power of two.

    Members
    -------
    i : :py:`In(stream.Signature(8))`
        Bytes from the host.
    o : :py:`Out(stream.Signature(8))`
        Bytes to the host.
    lost : :py:`In(1)`
        High for one cycle for each byte that was lost before :py:`i`.
    o_key, o_value, o_exp_table, o_command, o_rescore_key, o_rescore_query : \
:py:`Out(stream.Signature(...))`
        To the core's streams of these names.
    i_result, i_trace : :py:`In(stream.Signature(...))`
        From the core's.
    reset_core : :py:`Out(1)`
        High for one cycle to reset the core.
    loaded, exp_tables_loaded, rescore_loaded : :py:`In(...)`
        What is loaded into the core, as in :class:`nearbit_hw.dispatcher.Dispatcher`; only reported
        to the host.
    activity : :py:`Out(1)`
        High while a request is being received or answered.
    error : :py:`Out(1)`
        High from the first counted error until the host resets the core.
    """

    i: stream.Interface
    o: stream.Interface
    lost: Signal
    o_command: stream.Interface
    i_result: stream.Interface
    i_trace: stream.Interface
    reset_core: Signal
    loaded: Signal
    exp_tables_loaded: Signal
    rescore_loaded: Signal
    activity: Signal
    error: Signal

    def __init__(self, config: Config, *, version: tuple[int, int, int] = (0, 0, 0),
                 clock: int = 1_000_000, timeout: int = 1 << 20):
        if not isinstance(config, Config):
            raise TypeError(f"Config must be a Config, not {config!r}")
        if len(version) != 3 or not all(isinstance(part, int) and 0 <= part < 256
                                        for part in version):
            raise ValueError(f"Version must be three integers from 0 to 255, not {version!r}")
        if not isinstance(clock, int) or not 1 <= clock < 1 << 32:
            raise ValueError(f"Clock must be from 1 to 2**32 - 1 Hz, not {clock!r}")
        if not isinstance(timeout, int) or timeout < 2:
            raise ValueError(f"Timeout must be at least 2 cycles, not {timeout!r}")
        self._config = config
        self._version = version
        self._clock = clock
        self._timeout = 1 << (timeout - 1).bit_length()
        self._layout = Layout(config)
        rescore = {} if config.rescore is None else {
            "rescore_loaded": In(range(config.capacity + 1))}
        super().__init__({
            "i": In(stream.Signature(8)),
            "o": Out(stream.Signature(8)),
            "lost": In(1),
            **_members(config),
            "reset_core": Out(1),
            "loaded": In(range(config.capacity + 1)),
            "exp_tables_loaded": In(config.exp_tables),
            **rescore,
            "activity": Out(1),
            "error": Out(1),
        })

    @property
    def config(self) -> Config:
        return self._config

    @property
    def version(self) -> tuple[int, int, int]:
        return self._version

    @property
    def clock(self) -> int:
        return self._clock

    @property
    def timeout(self) -> int:
        """Cycles, rounded up to a power of two."""
        return self._timeout

    @property
    def payload_bytes(self) -> int:
        """Bytes of the longest payload."""
        return self._layout.payload_bytes

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self._config
        unit = config.rescore

        # ---- Receiving. A request stays `complete` until it is taken.
        request = _Request(m, self._layout, self._timeout)
        m.d.comb += [request.i_valid.eq(self.i.valid), request.i_payload.eq(self.i.payload),
                     self.i.ready.eq(request.i_ready)]

        # The payload of a message is at the upper end of the register.
        parts = {kind: request.payload[8 * (self.payload_bytes - self._layout.length(kind)):]
                 for kind in self._layout.shapes}

        # Beats of rescore queries that the core has for the next command.
        rescore_beats = Signal(range(1 if unit is None else config.queries * unit.beats + 1))
        order_error, repeated = Signal(), Signal()

        # ---- Taking a request, once no reply is being sent.
        free, take = Signal(), Signal()
        verdict = Signal(Status)
        act = Signal() # the request is good, and may be handed over
        # Registered, as a payload is stable before the request is complete.
        field_error, beyond = Signal(reset_less=True), Signal()
        m.d.sync += field_error.eq(beyond)
        m.d.comb += [verdict.eq(request.status),
                     act.eq(request.complete & free & (verdict == Status.OK)),
                     take.eq(request.complete & free)]
        with m.If(request.status == Status.OK):
            with m.If(field_error):
                m.d.comb += verdict.eq(Status.FIELD)
            with m.Elif(order_error):
                m.d.comb += verdict.eq(Status.ORDER)
        m.d.comb += request.take.eq(take)

        for kind, part in parts.items():
            port = getattr(self, "o" + STREAMS[kind][1:])
            offered = act & (request.kind == kind)
            bits: Value = part
            if kind == Message.RESCORE_QUERY:
                assert unit is not None
                beats = config.queries * unit.beats
                beat = part[:(beats - 1).bit_length()]
                bits = part[len(beat):]
                offered &= ~repeated
                ahead, missing = beat > rescore_beats, rescore_beats != beats
                with m.If(request.kind == kind):
                    m.d.comb += [order_error.eq(ahead), repeated.eq(beat < rescore_beats)]
                with m.If((request.kind == Message.COMMAND) & self.o_command.p.rescore):
                    m.d.comb += order_error.eq(missing)
                with m.If(port.valid & port.ready):
                    m.d.sync += rescore_beats.eq(rescore_beats + 1)
                with m.If(self.o_command.valid & self.o_command.ready & self.o_command.p.rescore):
                    m.d.sync += rescore_beats.eq(0)
            width = port.payload.shape().size
            m.d.comb += [port.payload.as_value().eq(bits[:width]), port.valid.eq(offered)]
            with m.If(port.valid & ~port.ready):
                m.d.comb += take.eq(0)
            wrong = [bits[width:].any()]
            if kind != Message.RESCORE_QUERY:
                wrong += _beyond(kind, port.payload)
            with m.If(request.kind == kind):
                m.d.comb += beyond.eq(Cat(wrong).any())

        # ---- Errors, counted when a request is taken, so that they do not change during a reply.
        fields = state_fields(config)
        rejected, lost = Signal(8 * fields["rejected"]), Signal(8 * fields["lost"])
        gap = Signal() # bytes were lost since the last request
        m.d.comb += self.reset_core.eq(act & (request.kind == Message.RESET))
        with m.If(take):
            m.d.sync += [gap.eq(0), lost.eq(lost + gap),
                         rejected.eq(rejected + (verdict != Status.OK))]
        with m.If(request.lose | self.lost):
            m.d.sync += gap.eq(1)
        with m.If(gap | (take & (verdict != Status.OK))):
            m.d.sync += self.error.eq(1)
        with m.If(self.reset_core):
            m.d.sync += [rejected.eq(0), lost.eq(0), self.error.eq(0), rescore_beats.eq(0)]

        # ---- Answering.
        state: dict[str, Value] = {"rejected": rejected, "lost": lost, "loaded": self.loaded,
                                   "exp_tables": self.exp_tables_loaded}
        if unit is not None:
            state |= {"rescore_loaded": self.rescore_loaded, "rescore_beats": rescore_beats}
        octets = [octet for name, size in fields.items() for octet in _octets(state[name], size)]
        self._answer(m, request, take, verdict, free, octets)
        m.d.comb += self.activity.eq(request.busy | ~free)
        return m

    def _answer(self, m: Module, request: "_Request", take: Signal, verdict: Any, free: Signal,
                state: list[Value]) -> None:
        """Send replies.

        A reply consists of blocks: a HEADER without a tag, the blocks of the answer, and END, whose
        bytes are the CRC.
        """
        config, layout = self._config, self._layout
        status = Signal(Status, reset_less=True)
        blocks = [Block.END, Block.IDENTITY, Block.STATE, Block.RESULT, Block.TRACE, Block.CYCLES]
        header = max(blocks) + 1
        block = Signal(range(header + 1), reset_less=True)
        # The block after this one: END, or one of the answer; RESULT stands for all queries.
        following = Signal.like(block)
        result, trace = self.i_result, self.i_trace

        identity = identity_bytes(config, self._version, self._clock)
        cycles = Signal(min(8 * CYCLES_BYTES, _cycle_bits(config)), reset_less=True)
        output = Cat(result.p.output, *[result.p.output[-1]] * 8) # its sign
        entry = trace.payload.as_value()
        contents: dict[int, list[Any]] = {
            header: [C(REPLY_SYNC, 8), request.sequence, status],
            Block.IDENTITY: list(identity),
            Block.STATE: state,
            Block.RESULT: _octets(output, layout.element_bytes),
            Block.TRACE: _octets(entry, layout.trace_bytes),
            Block.CYCLES: _octets(cycles, CYCLES_BYTES),
        }
        index = Signal(range(max(map(len, contents.values()))))
        begin = Signal()
        checker = crc.catalog.CRC16_IBM_3740(data_width=8).create()
        m.submodules.reply_checker = ResetInserter(begin)(checker)
        # After END's tag, the checker is fed its own upper half, which moves the lower one up.
        contents[Block.END] = [checker.crc[8:], checker.crc[8:]]

        failed = Signal() # the query's result is an error
        sent, last = Signal(), Signal()
        m.d.comb += [sent.eq(self.o.valid & self.o.ready), checker.data.eq(self.o.payload),
                     checker.valid.eq(sent)]
        data_byte, tag_byte = Signal(8), Signal(8)
        selected = {name: self._select(m, index, octets, f"byte_{int(name)}")
                    for name, octets in contents.items()}
        with m.Switch(block):
            for name, octets in contents.items():
                ones = [bit for place, bit in enumerate(index) if (len(octets) - 1) >> place & 1]
                with m.Case(int(name)):
                    # The index counts up to the last place, so comparing its ones is enough.
                    m.d.comb += [data_byte.eq(selected[name]), last.eq(Cat(ones).all())]
        m.d.comb += tag_byte.eq(block)
        with m.If(failed):
            m.d.comb += tag_byte.eq(result.p.error.as_value() | Block.ERROR.value)

        query = Signal(range(config.queries))
        query_done = Signal()
        with m.FSM():
            with m.State("Free"):
                m.d.comb += [free.eq(1), begin.eq(1)]
                m.d.sync += [index.eq(0), block.eq(header), query.eq(0), following.eq(Block.END)]
                with m.If(take):
                    m.d.sync += status.eq(verdict)
                    with m.If(verdict == Status.OK):
                        for kind, name in ((Message.IDENTIFY, Block.IDENTITY),
                                           (Message.STATUS, Block.STATE),
                                           (Message.COMMAND, Block.RESULT)):
                            with m.If(request.kind == kind):
                                m.d.sync += following.eq(name)
                    m.next = "Data"
            with m.State("Next"):
                m.d.sync += [block.eq(following), index.eq(0),
                             failed.eq((following == Block.RESULT) & ~trace.valid
                                       & (result.p.error != Error.OK))]
                m.next = "Tag"
                with m.If(following != Block.RESULT):
                    m.d.sync += following.eq(Block.END)
                with m.Elif(trace.valid):
                    m.d.sync += block.eq(Block.TRACE)
                with m.Elif(~result.valid):
                    m.next = "Next"
            with m.State("Tag"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(tag_byte)]
                with m.If(self.o.ready):
                    m.next = "Data"
                    with m.If(failed):
                        m.d.comb += [result.ready.eq(1), query_done.eq(1)]
                        m.next = "Next"
            with m.State("Data"):
                m.d.comb += [self.o.valid.eq((block != Block.RESULT) | result.valid),
                             self.o.payload.eq(data_byte),
                             begin.eq((block == header) & (index == 0))]
                # Not gated by `valid`: the path through the core would be too long.
                taken = self.o.ready & last
                m.d.comb += [trace.ready.eq(taken & (block == Block.TRACE)),
                             result.ready.eq(taken & (block == Block.RESULT))]
                with m.If(sent):
                    m.d.sync += index.eq(index + 1)
                    with m.If(last):
                        m.d.sync += index.eq(0)
                        m.next = "Next"
                        with m.Switch(block):
                            with m.Case(Block.END):
                                m.next = "Free"
                            with m.Case(Block.RESULT):
                                m.d.comb += query_done.eq(result.p.last)
                                with m.If(~result.p.last):
                                    m.next = "Data"
        with m.If(query_done):
            m.d.sync += query.eq(query + 1)
            with m.If(query == config.queries - 1):
                m.d.sync += following.eq(Block.CYCLES)

        # The sequence number is needed until the header has been sent.
        m.d.comb += request.keep.eq(~free & (block == header))

        # Cycles in which the core works on a command and does not wait for the link.
        asked = Signal()
        m.d.comb += asked.eq(self.o_command.valid)
        waits = (trace.valid & ~trace.ready) | (result.valid & ~result.ready)
        with m.If(free & ~asked):
            m.d.sync += cycles.eq(0)
        with m.Elif((asked | (following == Block.RESULT)) & ~waits):
            m.d.sync += cycles.eq(cycles + 1)


    @staticmethod
    def _select(m: Module, index: Signal, octets: list[Any], name: str) -> Signal:
        """Select one of some bytes; any of them if the index is out of range."""
        byte = Signal(8, name=name)
        with m.Switch(index[:(len(octets) - 1).bit_length()]):
            for place, octet in enumerate(octets[:-1]):
                with m.Case(place):
                    m.d.comb += byte.eq(octet)
            with m.Default():
                m.d.comb += byte.eq(octets[-1])
        return byte


class _Request:
    """Assembles a request from bytes: signals of the link, with the logic that drives them."""

    def __init__(self, m: Module, layout: Layout, timeout: int) -> None:
        # Stream of bytes.
        self.i_valid, self.i_ready = Signal(), Signal()
        self.i_payload = Signal(8)
        # The request may be taken: all of it is there, or enough to know that it is wrong.
        self.complete = Signal()
        # The request is taken.
        self.take = Signal()
        self.kind = Signal(4, reset_less=True)
        # The sequence number must stay.
        self.keep = Signal()
        self.sequence = Signal(8, reset_less=True)
        self.payload = Signal(8 * layout.payload_bytes, reset_less=True)
        # What is wrong with its bytes.
        self.status = Signal(Status)
        # A byte that belongs to no request arrives.
        self.lose = Signal()
        self.busy = Signal()

        # State that is reset with each request uses the flip-flops' reset pins, not logic.
        fresh = Module()
        m.submodules.request = ResetInserter(self.take)(fresh)
        begin = Signal()
        checker = crc.catalog.CRC16_IBM_3740(data_width=8).create()
        m.submodules.checker = ResetInserter(begin)(checker)
        taken, full, expired, at_sequence = Signal(), Signal(), Signal(), Signal()
        error = Signal(Status)
        m.d.comb += [
            taken.eq(self.i_valid & self.i_ready),
            self.i_ready.eq(~(full | expired) & ~(at_sequence & self.keep)),
            checker.data.eq(self.i_payload), checker.valid.eq(taken), self.busy.eq(~begin),
        ]

        # The counter expires when its highest bit is set.
        silence = Signal(range(timeout + 1))
        m.d.comb += expired.eq(silence[-1])
        with m.If(~expired):
            m.d.sync += silence.eq(silence + 1)
        with m.If(taken | begin):
            m.d.sync += silence.eq(0)

        # Registered, because from here a load drives all memories of keys.
        fresh.d.sync += [self.complete.eq(full | expired), self.status.eq(error)]
        with fresh.If(~full):
            fresh.d.sync += self.status.eq(Status.TIMEOUT)
        with fresh.Elif((error == Status.OK) & ~checker.match_detected):
            fresh.d.sync += self.status.eq(Status.CRC)

        length = Signal(8)
        with m.Switch(self.kind):
            for kind in layout.kinds:
                with m.Case(kind.value):
                    m.d.comb += length.eq(layout.length(kind))
        left = Signal(range(layout.payload_bytes + 1), reset_less=True)

        with fresh.FSM():
            with fresh.State("Sync"):
                fresh.d.comb += begin.eq(1)
                with fresh.If(taken):
                    with fresh.If(self.i_payload == REQUEST_SYNC):
                        fresh.next = "Type"
                    with fresh.Else():
                        fresh.d.comb += self.lose.eq(1)
            with fresh.State("Type"), fresh.If(taken):
                fresh.d.sync += self.kind.eq(self.i_payload)
                with fresh.If(~self.i_payload.matches(*map(int, layout.kinds))):
                    fresh.d.sync += error.eq(Status.TYPE)
                fresh.next = "Sequence"
            with fresh.State("Sequence"):
                fresh.d.comb += at_sequence.eq(1)
                with fresh.If(taken):
                    fresh.d.sync += self.sequence.eq(self.i_payload)
                    fresh.next = "Length"
                    with fresh.If(error != Status.OK):
                        fresh.next = "Full"
            with fresh.State("Length"), fresh.If(taken):
                fresh.d.sync += left.eq(self.i_payload)
                fresh.next = "Payload"
                with fresh.If(length == 0):
                    fresh.next = "Check"
                with fresh.If(self.i_payload != length):
                    fresh.d.sync += error.eq(Status.LENGTH)
                    fresh.next = "Full"
            with fresh.State("Payload"):
                # Equals `taken` here. It enables all bits, so its path must not have more logic.
                with fresh.If(self.i_valid & ~expired):
                    fresh.d.sync += self.payload.eq(Cat(self.payload[8:], self.i_payload))
                with fresh.If(taken):
                    fresh.d.sync += left.eq(left - 1)
                    with fresh.If(left == 1):
                        fresh.next = "Check"
            with fresh.State("Check"), fresh.If(taken):
                fresh.next = "Check more"
            with fresh.State("Check more"), fresh.If(taken):
                fresh.next = "Full"
            with fresh.State("Full"):
                fresh.d.comb += full.eq(1)
