"""The registers of a SoC core on a plain bus, and that bus."""

from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import Any

from amaranth import *
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from nearbit_hw.soc.counters import Counters
from nearbit_hw.soc.registers import (
    WINDOW_BYTES,
    Address,
    CacheSocError,
    Command,
    Control,
    Interrupt,
    Register,
    RegisterMap,
    SocError,
    Status,
    commands,
)
from nearbit_hw.soc.table_registers import TableRegisters


__all__ = ["AccessSignature", "RegisterFile"]


ADDRESS_BITS = ceil_log2(WINDOW_BYTES)


class AccessSignature(wiring.Signature):
    """An access to a register, seen from who asks.

    What is asked is held from :py:`valid` on until the cycle in which :py:`done` is 1, which has
    the answer; the access takes effect in that cycle. Without :py:`valid`, nothing means anything.
    """

    def __init__(self) -> None:
        super().__init__({
            "valid": Out(1),
            "write": Out(1),
            "address": Out(ADDRESS_BITS),
            "data": Out(32),
            "strobe": Out(4),
            "done": In(1),
            "answer": In(32),
            "error": In(1),
        })


def _is_more(number: Value, limit: int) -> Value:
    """Tell whether a number is more than a limit of few ones: in less logic than a carry chain."""
    more: Value = C(0)
    for place, bit in enumerate(number):
        more = (bit & more) if limit >> place & 1 else (bit | more)
    return more


class RegisterFile(wiring.Component):
    """The registers of :func:`nearbit_hw.soc.registers.register_map`.

    An access is done in the cycle in which it is asked for, that of a counter up to 16 cycles
    later, or 47 if the counters are being cleared. Constants are read from a ROM, command fields
    from a RAM beside the registers that hold them, so that neither needs a multiplexer.

    A write with an error has no effect but on ERROR and IRQ_STATUS. Reset leaves the command fields
    as they are, unless the description says that it sets them to 0: then they are read from their
    registers, through a multiplexer, because no reset reaches a RAM.

    Parameters
    ----------
    description : :class:`nearbit_hw.soc.registers.RegisterMap`
        What there is.

    Members
    -------
    bus : :py:`In(AccessSignature())`
        Accesses.
    events : :py:`In(8)`
        What the counters count, in their order; that of CYCLES is not looked at.
    busy, active, dropping : :py:`In(1)`
        As in STATUS. What is high for a cycle in :py:`start` must raise :py:`busy` in the next.
    advance : :py:`In(1)`
        A token or batch is taken: TOKEN counts up and NUMBER down.
    early, late : :py:`In(1)`
        An error of a packet, for one cycle.
    failed : :py:`In(1)`
        A query of a batch is answered with an error, for one cycle:
    failure : :py:`In(query_error_bits + 6)`
        the core's code, and above it the query.
    unwritten : :py:`In(1)`
        With a memory: a token was not appended, for one cycle.
    start : :py:`Out(1)`
        An operation starts, for one cycle:
    command : :py:`Out(3)`
        which one; it holds until the next.
    clear, abandon : :py:`Out(1)`
        Bits of CONTROL, for one cycle.
    final : :py:`Out(1)`
        NUMBER is 1.
    irq : :py:`Out(1)`
        The interrupt.
    o_head, o_page, o_tokens, timeout, faults
        With a memory, as of :class:`nearbit_hw.soc.table_registers.TableRegisters`.

    The command fields are in :attr:`fields`, by the names of their registers.
    """

    bus: wiring.PureInterface
    events: Signal
    busy: Signal
    active: Signal
    dropping: Signal
    advance: Signal
    early: Signal
    late: Signal
    failed: Signal
    failure: Signal
    unwritten: Signal
    start: Signal
    command: Signal
    clear: Signal
    abandon: Signal
    final: Signal
    irq: Signal
    o_head: stream.Interface
    o_page: stream.Interface
    o_tokens: stream.Interface
    timeout: Signal
    faults: Signal

    def __init__(self, description: RegisterMap):
        if not isinstance(description, RegisterMap):
            raise TypeError(f"Description must be a RegisterMap, not {description!r}")
        self._description = description
        self._tables = None if description.config.memory is None else TableRegisters(description)
        super().__init__({
            "bus": In(AccessSignature()),
            "events": In(8),
            "busy": In(1),
            "active": In(1),
            "dropping": In(1),
            "advance": In(1),
            "early": In(1),
            "late": In(1),
            "failed": In(1),
            "failure": In(description.query_error_bits + 6),
            "start": Out(1),
            "command": Out(3),
            "clear": Out(1),
            "abandon": Out(1),
            "final": Out(1),
            "irq": Out(1),
            **({} if self._tables is None else {
                "unwritten": In(1),
                **{name: self._tables.signature.members[name]
                   for name in ("o_head", "o_page", "o_tokens", "timeout", "faults")}}),
        })
        # Those that keep their values through reset do so like the RAM that they are read from.
        self.fields: dict[str, Signal] = {
            register.name: Signal(register.bits, name=register.name.lower(),
                                  reset_less=not description.resets_fields)
            for register in description.registers if register.kept}

    @property
    def description(self) -> RegisterMap:
        return self._description

    def elaborate(self, platform) -> Module:
        m = Module()
        registers = {register.name: register for register in self._description.registers}
        bus: Any = self.bus
        word = bus.address[2:]
        # Where it is known that there is a register, few bits of the address tell which one: the
        # highest whether it is a counter's, and the low ones, of those that can be written or
        # change, are no counter's.
        near = [register for register in registers.values()
                if register.address < Address.COUNTERS]
        low_word = word[:max(register.address >> 2 for register in near).bit_length()]
        is_counter = word[-1]

        def at(name: str) -> Value:
            return low_word == registers[name].address >> 2

        # ---- What an access is to.
        kept = [register for register in registers.values() if register.kept]
        constants = [register for register in registers.values()
                     if register.address < Address.CONTROL]
        mapped, is_ro, is_command_field, is_command = Signal(), Signal(), Signal(), Signal()
        blocks: dict[int, list[int]] = {}
        for register in registers.values():
            blocks.setdefault(register.address >> 6, []).append(register.address >> 2 & 15)
        with m.Switch(word[4:]):
            for block, places in blocks.items():
                with m.Case(block), m.Switch(word[:4]), m.Case(*places):
                    m.d.comb += mapped.eq(~bus.address[:2].any())
        with m.Switch(low_word):
            for register in near:
                with m.Case(register.address >> 2):
                    m.d.comb += [
                        is_ro.eq(register.access == "ro"),
                        is_command_field.eq(register.kept),
                        is_command.eq(register.name == "COMMAND")]

        # ---- Tables of a memory.
        tables = self._tables
        is_table = Signal()
        if tables is not None:
            m.submodules.tables = tables
            m.d.comb += is_table.eq(low_word >= Address.TABLE_CODES_LOW >> 2)

        # ---- Writing.
        wide = self._is_wide(m, [*kept, registers["COMMAND"]], low_word)
        is_wrong_command = self._is_wrong_command(m, bus.data[:3])
        refusal = Signal(SocError)
        accepted = Signal()
        m.d.comb += accepted.eq(bus.valid & bus.write & mapped & (refusal == SocError.NONE))
        with m.If(is_ro | is_counter):
            m.d.comb += refusal.eq(SocError.READ_ONLY)
        with m.Elif((is_command_field | is_command) & self.busy):
            m.d.comb += refusal.eq(SocError.BUSY)
        with m.Elif(wide if tables is None else wide | (is_table & tables.wide)):
            m.d.comb += refusal.eq(SocError.FIELD)
        with m.Elif(is_command & bus.strobe[0] & is_wrong_command):
            m.d.comb += refusal.eq(SocError.COMMAND)

        token, number = self.fields["TOKEN"], self.fields["NUMBER"]
        m.d.comb += self.final.eq(number == 1)
        with m.If(self.advance):
            # Bit by bit: with what else they can be set to, carry chains would be larger.
            for target, turns in ((token, token), (number, ~number)):
                for place, bit in enumerate(target):
                    m.d.sync += bit.eq(bit ^ turns[:place].all())
        for register in kept:
            target = self.fields[register.name]
            with m.If(accepted & at(register.name)):
                for lane in range(0, len(target), 8):
                    with m.If(bus.strobe[lane // 8]):
                        m.d.sync += target[lane:lane + 8].eq(bus.data[lane:lane + 8])
        if tables is not None:
            self._connect_tables(m, tables, accepted & is_table & ~is_counter)
        m.d.comb += self.start.eq(accepted & is_command & bus.strobe[0])
        with m.If(self.start):
            m.d.sync += self.command.eq(bus.data)

        low = accepted & bus.strobe[0]
        control = low & at("CONTROL")
        clear_counters = Signal()
        m.d.comb += [
            self.clear.eq(control & bus.data[Control.CLEAR]),
            self.abandon.eq(control & bus.data[Control.ABANDON]),
            clear_counters.eq(control & bus.data[Control.CLEAR_COUNTERS]),
        ]

        # ---- Errors and interrupts.
        code, detail, enable, status = self._record(m, at, low, refusal, mapped)

        # ---- Reading.
        m.submodules.counters = counters = Counters()
        m.d.comb += [counters.events.eq(self.events), counters.clear.eq(clear_counters)]
        live: dict[str, Value] = {
            "STATUS": Cat(self.busy, self.active, code != SocError.NONE, self.dropping),
            "ERROR": Cat(code, C(0, 16 - len(code)), detail),
            "IRQ_ENABLE": enable,
            "IRQ_STATUS": status,
            "TOKEN": token,
            "NUMBER": number,
        }
        if self._description.resets_fields:
            live |= self.fields
        assert list(Status) == [Status.BUSY, Status.ACTIVE, Status.ERROR, Status.DROPPING]
        rom, live_answer = Signal(32), Signal(32)
        with m.Switch(word[:ceil_log2(len(constants))]):
            for register in constants:
                with m.Case((register.address >> 2) % len(constants)):
                    m.d.comb += rom.eq(register.reset)
        with m.Switch(low_word):
            for name, value in live.items():
                with m.Case(registers[name].address >> 2):
                    m.d.comb += live_answer.eq(value)
        # An answer with an error may be anything. Of what is in the block of the command fields and
        # not in the RAM, the RAM has zeros.
        sources: list[tuple[Any, Value]] = [
            (~is_counter & (low_word < Address.CONTROL >> 2), rom),
            (is_counter, counters.value),
            (C(1), live_answer),
        ]
        copied = [register for register in kept if register.name not in live]
        if copied:
            ram = self._read_back(m, copied, low_word, accepted)
            sources.insert(1, ((low_word >= Address.TOKEN >> 2) if tables is None
                               else (low_word >= Address.TOKEN >> 2) & ~is_table, ram))
        if tables is not None:
            sources.append((is_table & ~is_counter, tables.answer))
        ends = (bus.write | ~is_counter | ~mapped
                | (counters.ready & (counters.index == word[:4])))
        if tables is not None:
            ends &= tables.done
        m.d.comb += [
            bus.answer.eq(reduce(or_, (Mux(chosen, value, 0) for chosen, value in sources))),
            bus.error.eq(~mapped | (bus.write & (refusal != SocError.NONE))),
            bus.done.eq(bus.valid & ends),
        ]
        return m

    def _record(self, m: Module, at: Callable[[str], Value], low: Value, refusal: Value,
                mapped: Value) -> tuple[Value, Value, Value, Value]:
        """Keep errors and interrupts: code and detail of ERROR, IRQ_ENABLE and IRQ_STATUS.

        Parameters
        ----------
        at
            Whether the access is to a register.
        low
            The low byte of a register is written.
        refusal
            Why a write has no effect.
        mapped
            There is a register.
        """
        bus: Any = self.bus
        word = bus.address[2:]
        has_memory = self._tables is not None
        code, detail = Signal(self._description.errors), Signal(12)
        refused = bus.valid & bus.write & mapped & (refusal != SocError.NONE)
        error = self.early | self.late | self.failed | refused
        if has_memory:
            error |= self.unwritten
        # As long as there is no error, the detail is 0.
        with m.If(code == SocError.NONE):
            with m.If(self.early | self.late):
                m.d.sync += code.eq(Mux(self.early, SocError.EARLY, SocError.LATE))
            with m.Elif(self.failed):
                m.d.sync += [code.eq(SocError.QUERY), detail.eq(self.failure)]
            if has_memory:
                with m.Elif(self.unwritten):
                    m.d.sync += code.eq(CacheSocError.APPEND)
            with m.Elif(refused):
                m.d.sync += [code.eq(refusal), detail.eq(Cat(C(0, 2), word))]
        with m.If(self.clear | self.abandon):
            m.d.sync += [code.eq(SocError.NONE), detail.eq(0)]

        enable, status = Signal(2), Signal(2)
        running = Signal() # an operation whose end has not been told
        done = running & ~self.busy & ~self.active & ~self.start
        with m.If(self.start):
            m.d.sync += running.eq(1)
        with m.Elif(done):
            m.d.sync += running.eq(0)
        with m.If(low & at("IRQ_ENABLE")):
            m.d.sync += enable.eq(bus.data)
        cleared = Signal(2)
        with m.If(low & at("IRQ_STATUS")):
            m.d.comb += cleared.eq(bus.data)
        happens = Signal(2)
        m.d.comb += [happens[Interrupt.DONE].eq(done), happens[Interrupt.ERROR].eq(error)]
        m.d.sync += [status.eq((status & ~cleared) | happens), self.irq.eq((enable & status).any())]
        return code, detail, enable, status

    def _connect_tables(self, m: Module, tables: TableRegisters, accepted: Value) -> None:
        bus: Any = self.bus
        m.d.comb += [
            tables.word.eq(bus.address[2:]),
            tables.data.eq(bus.data),
            tables.strobe.eq(bus.strobe),
            tables.write.eq(accepted),
            tables.faults.eq(self.faults),
            self.timeout.eq(tables.timeout),
        ]
        for name in ("o_head", "o_page", "o_tokens"):
            wiring.connect(m, getattr(tables, name), wiring.flipped(getattr(self, name)))

    def _is_wide(self, m: Module, limited: list[Register], word: Value) -> Signal:
        """Tell whether what is written does not fit the register of a word."""
        bus: Any = self.bus

        memory = self._description.config.memory
        # Where there is one only, its number has a bit that must be 0.
        alone = set() if memory is None else {
            name for name, count in (("HEAD", memory.heads), ("SEQUENCE", memory.sequences))
            if count == 1}
        widths = {register.name: 0 if register.name in alone else register.bits
                  for register in limited}

        def is_given(start: int, stop: int) -> Value:
            """Tell whether a bit from one number to another is written as 1."""
            parts = [(max(start, lane), min(stop, lane + 8)) for lane in range(0, 32, 8)]
            return Cat(bus.data[low:high].any() & bus.strobe[low // 8]
                       for low, high in parts if low < high).any()

        wide = Signal() # the value does not fit
        beyond: dict[int, Value] = {32: C(0)} # some bit from there on is 1
        for bits in sorted({*widths.values()} - {32}, reverse=True):
            beyond[bits] = is_given(bits, min(beyond)) | beyond[min(beyond)]
        with m.Switch(word):
            for register in limited:
                with m.Case(register.address >> 2):
                    m.d.comb += wide.eq(beyond[widths[register.name]])
        return wide

    def _is_wrong_command(self, m: Module, command: Value) -> Value:
        """Tell whether an operation cannot be started."""
        config = self._description.config
        token, number = self.fields["TOKEN"], self.fields["NUMBER"]
        end = Signal(len(number) + 1)
        m.d.comb += end.eq(token + number)
        is_wrong = Signal(init=1)
        with m.Switch(command):
            for known in commands(config):
                beyond: Value = C(0)
                if known == Command.LOAD_EXP_TABLE:
                    beyond = _is_more(end, config.key_bits + 1)
                elif known != Command.QUERY:
                    beyond = _is_more(end, config.capacity)
                with m.Case(known.value):
                    m.d.comb += is_wrong.eq(beyond | (number == 0))
        return is_wrong

    def _read_back(self, m: Module, kept: list[Register], word: Value, accepted: Value) -> Value:
        """Keep a copy of what is written, a memory for each byte lane."""
        bus: Any = self.bus
        words = [register.address >> 2 for register in kept]
        index = word[:ceil_log2(max(words) - (Address.TOKEN >> 2) + 1)]
        in_ram = Signal()
        with m.Switch(word):
            for place in words:
                with m.Case(place):
                    m.d.comb += in_ram.eq(1)
        lanes: list[Value] = []
        width = max(register.bits for register in kept)
        for lane in range(0, width, 8):
            copy: Any = memory.Memory(shape=min(8, width - lane), depth=1 << len(index), init=[],
                                 attrs={"ram_style": "distributed"})
            m.submodules[f"copy_{lane // 8}"] = copy
            read_port = copy.read_port(domain="comb")
            write_port = copy.write_port()
            m.d.comb += [
                read_port.addr.eq(index),
                write_port.addr.eq(index),
                write_port.data.eq(bus.data[lane:]),
                write_port.en.eq(accepted & in_ram & bus.strobe[lane // 8]),
            ]
            lanes.append(read_port.data)
        return Cat(lanes)
