"""The core with a register map and AXI4-Stream: what a system on chip instantiates."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.core import Core
from nearbit_hw.layouts import CacheError, Error
from nearbit_hw.memory.axi import (
    connect_read_pins,
    connect_write_pins,
    read_pins,
    write_pins,
)
from nearbit_hw.soc.appending import Appending
from nearbit_hw.soc.axi_lite import AxiLite
from nearbit_hw.soc.input_stream import LOADED, InputStream
from nearbit_hw.soc.register_file import ADDRESS_BITS, RegisterFile
from nearbit_hw.soc.registers import Fault, Flag, RegisterMap, register_map
from nearbit_hw.soc.result_stream import ResultStream
from nearbit_hw.soc.wishbone import Wishbone
from nearbit_hw.stream_fifo import StreamFifo, queue
from nearbit_model.config import Config


__all__ = ["APPEND_BUS", "BUSES", "SocCore", "memory_buses"]


BUSES = ("axi", "wishbone")
"""Buses that the registers can be on."""

APPEND_BUS = "m_axi_append"
"""Prefix of the pins of the bus on which tokens are written to a memory."""


_AXI = {
    "s_axi_awaddr": In(ADDRESS_BITS),
    "s_axi_awprot": In(3),
    "s_axi_awvalid": In(1),
    "s_axi_awready": Out(1),
    "s_axi_wdata": In(32),
    "s_axi_wstrb": In(4),
    "s_axi_wvalid": In(1),
    "s_axi_wready": Out(1),
    "s_axi_bresp": Out(2),
    "s_axi_bvalid": Out(1),
    "s_axi_bready": In(1),
    "s_axi_araddr": In(ADDRESS_BITS),
    "s_axi_arprot": In(3),
    "s_axi_arvalid": In(1),
    "s_axi_arready": Out(1),
    "s_axi_rdata": Out(32),
    "s_axi_rresp": Out(2),
    "s_axi_rvalid": Out(1),
    "s_axi_rready": In(1),
}

_WISHBONE = {
    "wb_cyc_i": In(1),
    "wb_stb_i": In(1),
    "wb_we_i": In(1),
    "wb_adr_i": In(ADDRESS_BITS),
    "wb_sel_i": In(4),
    "wb_dat_i": In(32),
    "wb_dat_o": Out(32),
    "wb_ack_o": Out(1),
    "wb_err_o": Out(1),
}


def memory_buses(config: Config) -> dict[str, dict[str, int]]:
    """Give prefixes of the pins of the buses that read a memory, codes first, and their sizes.

    The sizes are parameters of :func:`nearbit_hw.memory.axi.read_pins`. Empty without a memory.
    """
    memory = config.memory
    if memory is None:
        return {}
    sizes = {"address_bits": memory.address_bits, "data_bits": memory.bus_bits}
    if memory.one_bus:
        return {"m_axi_codes": {**sizes, "id_bits": memory.row_id_bits + 1}}
    return {"m_axi_codes": {**sizes, "id_bits": 0},
            **{f"m_axi_rows{port}": {**sizes, "id_bits": memory.row_id_bits}
               for port in range(memory.row_ports)}}


class SocCore(wiring.Component):
    """A :class:`nearbit_hw.core.Core` with registers on a bus and AXI4-Stream for all data.

    Software writes the command fields and COMMAND; the operation then takes one packet from
    :py:`s_axis`. Batches are answered query by query on :py:`m_axis_result`, and with traces on
    :py:`m_axis_trace`, which must both be taken. Registers and packets are described by
    :func:`nearbit_hw.soc.registers.register_map`.

    **Cycles.** The core's interval is kept as long as the streams are not held up, and if it is at
    least 4 cycles more than the beats of a batch. A batch reaches the core in the cycle after its
    last beat, with the rescoring unit two cycles after; a query's last beat leaves three
    cycles after the core's last element. So the latency from the last beat in to the last one out
    is :py:`latency` cycles more than the core's alone.

    **Handshakes.** Every :py:`valid` output is a register, and no :py:`ready` input reaches any
    output within a cycle. The names of ports are those of the AMBA and Wishbone specifications; the
    component has its own clock domain, so it takes its clock and its reset from its ports.

    Parameters
    ----------
    config : :class:`nearbit_model.Config`
        What to build.
    bus : :class:`str`
        One of :data:`BUSES`: AXI4-Lite, or Wishbone B4 with classic cycles.
    data_bits : :class:`int`
        Bits of a beat of :py:`s_axis` and :py:`m_axis_result`: 32, 64, 128, 256 or 512.
    version : :class:`tuple`
        Release of Nearbit, three integers from 0 to 255, as VERSION says it.
    resets_fields : :class:`bool`
        Whether a reset sets the command fields to 0; else they keep their values, and are 0 only
        where a device gives registers and memories their initial values.

    Members
    -------
    aclk : :py:`In(1)`
        Clock; all is done at its rising edge.
    aresetn : :py:`In(1)`
        Reset: synchronous, active low. What is loaded is gone.
    irq : :py:`Out(1)`
        Interrupt: active high, until it is cleared.
    s_axi_... : AXI4-Lite
        Registers, with :py:`bus="axi"`. Protection bits are not looked at.
    wb_... : Wishbone
        Registers, with :py:`bus="wishbone"`.
    s_axis_... : AXI4-Stream
        Packets of loads and batches.
    m_axis_result_..., m_axis_trace_... : AXI4-Stream
        Packets of results and traces.
    m_axi_codes_..., m_axi_rows0_... : AXI4
        The read channels of the buses to the memory, if the configuration has one:
        :func:`memory_buses`.
    m_axi_append_... : AXI4
        The write channels of the one for tokens that the core appends, the same.
    """

    aclk: Signal
    aresetn: Signal
    irq: Signal

    def __init__(self, config: Config, bus: str = "axi", data_bits: int = 64,
                 version: tuple[int, int, int] = (0, 0, 0), resets_fields: bool = False):
        self._registers = register_map(config, data_bits, version, resets_fields=resets_fields)
        if bus not in BUSES:
            raise ValueError(f"Bus must be one of {', '.join(BUSES)}, not {bus!r}")
        self._bus = bus

        def axis(name: str, flow: Any, bits: int) -> dict[str, Any]:
            other = In if flow is Out else Out
            return {f"{name}_tdata": flow(bits), f"{name}_tvalid": flow(1),
                    f"{name}_tready": other(1), f"{name}_tlast": flow(1)}

        self._reads = memory_buses(config)
        super().__init__({
            "aclk": In(1),
            "aresetn": In(1),
            "irq": Out(1),
            **(_AXI if bus == "axi" else _WISHBONE),
            **axis("s_axis", In, data_bits),
            **axis("m_axis_result", Out, data_bits),
            **axis("m_axis_trace", Out, self._registers.trace_bits),
            **{name: pin for prefix, sizes in self._reads.items()
               for name, pin in read_pins(prefix, **sizes).items()},
            **({} if config.memory is None else write_pins(
                APPEND_BUS, address_bits=config.memory.address_bits,
                data_bits=config.memory.bus_bits)),
        })

    @property
    def config(self) -> Config:
        return self._registers.config

    @property
    def bus(self) -> str:
        return self._bus

    @property
    def data_bits(self) -> int:
        return self._registers.data_bits

    @property
    def version(self) -> tuple[int, int, int]:
        return self._registers.version

    @property
    def resets_fields(self) -> bool:
        return self._registers.resets_fields

    @property
    def registers(self) -> RegisterMap:
        """What the registers and packets are."""
        return self._registers

    @property
    def latency(self) -> int:
        """Cycles from a batch's last beat in to its answer's last beat out, less the core's."""
        return 4 if self.config.rescore is None else 5

    def elaborate(self, platform) -> Module:
        m = Module()
        domain: Any = ClockDomain("sync", local=True)
        domain.clk = self.aclk
        m.domains += domain
        m.d.comb += domain.rst.eq(~self.aresetn)

        config = self.config
        core = Core(config)
        activity = core.observe()
        m.submodules.core = core
        m.submodules.registers = registers = RegisterFile(self._registers)
        m.submodules.input_stream = inputs = InputStream(self._registers)
        m.submodules.result_stream = results = ResultStream(self._registers)
        fields = registers.fields
        appending = None
        if config.memory is not None:
            m.submodules.appending = appending = Appending(config)

        # ---- Registers.
        if self._bus == "axi":
            m.submodules.axi_lite = axi_lite = AxiLite()
            wiring.connect(m, axi_lite.bus, registers.bus)
            self._connect_axi(m, axi_lite)
        else:
            m.submodules.wishbone = wishbone = Wishbone()
            wiring.connect(m, wishbone.bus, registers.bus)
            self._connect_wishbone(m, wishbone.wb)
        m.d.comb += self.irq.eq(registers.irq)

        # ---- Operations.
        self._connect_axis(m, "s_axis", inputs.i)
        for name in core.signature.members:
            if name in LOADED:
                wiring.connect(m, getattr(inputs, "o" + name[1:]), getattr(core, name))
        flags = fields["FLAGS"]
        m.d.comb += [
            inputs.start.eq(registers.start),
            inputs.command.eq(registers.command),
            inputs.token.eq(fields["TOKEN"]),
            inputs.rescore.eq(flags[Flag.RESCORE]),
            inputs.exp_table.eq(fields["EXP_TABLE"]),
            inputs.final.eq(registers.final),
            inputs.clear.eq(registers.clear),
            inputs.abandon.eq(registers.abandon),
            registers.advance.eq(inputs.advance),
            registers.early.eq(inputs.early),
            registers.late.eq(inputs.late),
            registers.busy.eq(inputs.busy if appending is None else inputs.busy | appending.busy),
            registers.dropping.eq(inputs.dropping),
        ]

        command: Any = core.i_command.p
        m.d.comb += [
            core.i_command.valid.eq(inputs.o_command.valid),
            inputs.o_command.ready.eq(core.i_command.ready),
            command.first.eq(fields["FIRST"]),
            command.n.eq(Mux(inputs.void, 0, fields["N"])),
            command.sink.eq(fields["SINK"]),
            command.recent.eq(fields["RECENT"]),
            command.trace.eq(flags[Flag.TRACE]),
            command.rescore.eq(flags[Flag.RESCORE]),
            command.shared.eq(flags[Flag.SHARED]),
        ]
        if appending is not None:
            self._connect_memory(m, core, registers, inputs, appending, command)
        for index in range(config.queries):
            query = command.queries[index]
            m.d.comb += [
                query.code.eq(inputs.o_command.payload[index]),
                query.count.eq(fields[f"QUERY{index}_COUNT"]),
                query.exp_table.eq(fields[f"QUERY{index}_EXP_TABLE"]),
            ]
            if config.rescore is not None:
                m.d.comb += query.multiplier.eq(fields[f"QUERY{index}_MULTIPLIER"])

        # ---- Answers.
        wiring.connect(m, core.o_result, results.i)
        self._connect_axis(m, "m_axis_result", results.o)
        result: Any = core.o_result.p
        result_taken = core.o_result.valid & core.o_result.ready
        trace_waiting = self._trace(m, core)
        errors: Any = Error if config.memory is None else CacheError
        m.d.comb += [
            registers.failed.eq(result_taken & (result.error != errors.OK)),
            registers.failure.eq(Cat(result.error, result.query)),
        ]
        out = [(getattr(self, f"{name}_tvalid"), getattr(self, f"{name}_tready"))
               for name in ("m_axis_result", "m_axis_trace")]
        # All through registers: the counters are far from where this is known.
        events = Cat(
            C(1, 1),
            core.i_command.valid & core.i_command.ready,
            activity.word,
            core.i_command.valid & ~core.i_command.ready,
            activity.score_waits,
            activity.select_waits,
            activity.value_waits,
            Cat(valid & ~ready for valid, ready in out).any(),
        )
        m.d.sync += [
            registers.events.eq(events),
            registers.active.eq(~activity.idle | results.waiting | trace_waiting),
        ]
        if config.memory is not None:
            m.d.comb += registers.faults.eq(Mux(result_taken, Cat(
                result.error == errors[fault.name] for fault in Fault), 0))
        return m

    def _connect_memory(self, m: Module, core: Core, registers: RegisterFile, inputs: InputStream,
                        appending: Appending, command: Any) -> None:
        """Give the core its tables and tokens, and the buses their pins."""
        inner: Any = core
        for name in ("head", "page"):
            wiring.connect(m, getattr(registers, f"o_{name}"), getattr(core, f"i_{name}"))
        wiring.connect(m, inputs.o_append, appending.i)
        wiring.connect(m, appending.o, inner.i_append)
        # That the bus has room is not to be seen on the stream within a cycle.
        m.submodules.rows = rows = StreamFifo(
            data.StructLayout({"data": len(inner.i_row.payload)}), depth=2)
        queue(m, rows.o, inner.i_row)
        # What is appended goes before what is set.
        raised = appending.o_tokens
        m.d.comb += [
            rows.i.p.data.eq(inputs.o_row.payload),
            rows.i.valid.eq(inputs.o_row.valid),
            inputs.o_row.ready.eq(rows.i.ready),
            inner.i_tokens.valid.eq(raised.valid | registers.o_tokens.valid),
            inner.i_tokens.payload.eq(
                Mux(raised.valid, raised.payload, registers.o_tokens.payload)),
            raised.ready.eq(inner.i_tokens.ready),
            registers.o_tokens.ready.eq(inner.i_tokens.ready & ~raised.valid),
            appending.start.eq(registers.start),
            appending.head.eq(registers.fields["HEAD"]),
            appending.sequence.eq(registers.fields["SEQUENCE"]),
            appending.raises.eq(registers.fields["FLAGS"][Flag.RAISE]),
            appending.void.eq(inputs.void),
            appending.i_end.valid.eq(inner.o_append.valid),
            appending.i_end.payload.eq(inner.o_append.payload),
            inner.o_append.ready.eq(1),
            registers.unwritten.eq(appending.failed),
            inner.timeout.eq(registers.timeout),
            command.head.eq(registers.fields["HEAD"]),
            command.sequence.eq(registers.fields["SEQUENCE"]),
        ]
        connect_write_pins(m, inner.axi_append, self, APPEND_BUS)
        codes, *others = self._reads
        connect_read_pins(m, inner.axi_codes, self, codes)
        if others:
            for prefix, port in zip(others, inner.axi_rows, strict=True):
                connect_read_pins(m, port, self, prefix)

    def _trace(self, m: Module, core: Core) -> Value:
        """Send traces through a register; return whether one is in it."""
        bits = self._registers.trace_bits
        source: Any = core.o_trace.p
        layout = data.StructLayout({
            "index": 24, "query": 8, "distance": 16,
            **({"weight": 16} if bits == 64 else {"gap": 16, "score": signed(32), "weight": 32})})
        beat: Any = Signal(layout)
        m.d.comb += [beat.index.eq(source.index), beat.query.eq(source.query),
                     beat.distance.eq(source.distance), beat.weight.eq(source.weight)]
        if bits == 128:
            m.d.comb += beat.score.eq(source.score if self.config.rescore is not None
                                      else -source.distance)
        port = stream.Signature(data.StructLayout({"data": bits, "last": 1})).create()
        ready = ~port.valid | port.ready
        m.d.comb += core.o_trace.ready.eq(ready)
        with m.If(ready):
            m.d.sync += [port.valid.eq(core.o_trace.valid), port.p.data.eq(beat),
                         port.p.last.eq(source.last)]
        self._connect_axis(m, "m_axis_trace", port)
        return port.valid

    def _connect_axis(self, m: Module, name: str, port: Any) -> None:
        tdata, tvalid, tready, tlast = (getattr(self, f"{name}_{part}") for part in
                                        ("tdata", "tvalid", "tready", "tlast"))
        if name == "s_axis":
            m.d.comb += [port.p.data.eq(tdata), port.p.last.eq(tlast), port.valid.eq(tvalid),
                         tready.eq(port.ready)]
        else:
            m.d.comb += [tdata.eq(port.p.data), tlast.eq(port.p.last), tvalid.eq(port.valid),
                         port.ready.eq(tready)]

    def _connect_axi(self, m: Module, axi_lite: Any) -> None:
        ports: Any = self
        for name, payloads in (
                ("aw", [(axi_lite.aw.payload, ports.s_axi_awaddr)]),
                ("w", [(axi_lite.w.p.data, ports.s_axi_wdata),
                       (axi_lite.w.p.strobe, ports.s_axi_wstrb)]),
                ("ar", [(axi_lite.ar.payload, ports.s_axi_araddr)]),
                ("b", [(ports.s_axi_bresp, axi_lite.b.payload)]),
                ("r", [(ports.s_axi_rdata, axi_lite.r.p.data),
                       (ports.s_axi_rresp, axi_lite.r.p.response)])):
            channel = getattr(axi_lite, name)
            valid, ready = getattr(self, f"s_axi_{name}valid"), getattr(self, f"s_axi_{name}ready")
            m.d.comb += [target.eq(source) for target, source in payloads]
            if name in ("b", "r"):
                m.d.comb += [valid.eq(channel.valid), channel.ready.eq(ready)]
            else:
                m.d.comb += [channel.valid.eq(valid), ready.eq(channel.ready)]

    def _connect_wishbone(self, m: Module, wb: Any) -> None:
        ports: Any = self
        m.d.comb += [
            wb.cyc.eq(ports.wb_cyc_i), wb.stb.eq(ports.wb_stb_i), wb.we.eq(ports.wb_we_i),
            wb.adr.eq(ports.wb_adr_i), wb.sel.eq(ports.wb_sel_i), wb.dat_w.eq(ports.wb_dat_i),
            ports.wb_dat_o.eq(wb.dat_r), ports.wb_ack_o.eq(wb.ack), ports.wb_err_o.eq(wb.err),
        ]
