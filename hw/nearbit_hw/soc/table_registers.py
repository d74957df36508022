"""The registers of a SoC core by which software sets the tables of a memory."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.cache_map import cache_map
from nearbit_hw.soc.registers import Address, Fault, Register, RegisterMap


__all__ = ["TableRegisters"]


class TableRegisters(wiring.Component):
    """The registers from TABLE_CODES_LOW on.

    They are written as whole words. A write that sets an entry of a table is done when the table
    takes it: at once, but for the time after reset in which the tables are cleared. All others, and
    reads, are done in the cycle in which they are asked for.

    Reset sets all of them to 0.

    Parameters
    ----------
    description : :class:`nearbit_hw.soc.registers.RegisterMap`
        The interface of a core with a memory.

    Members
    -------
    word : :py:`In(4)`
        The register: words from TABLE_CODES_LOW on.
    data : :py:`In(32)`, strobe : :py:`In(4)`
        What is written.
    write : :py:`In(1)`
        It is written, and must be, from then on until :py:`done`.
    wide : :py:`Out(1)`
        The value does not fit the register, or is no whole word; it must not be written.
    done : :py:`Out(1)`
        A write takes effect in this cycle.
    answer : :py:`Out(32)`
        What is read.
    faults : :py:`In(3)`
        What sets bits of MEMORY_FAULT, for one cycle.
    o_head, o_page, o_tokens : :py:`Out(stream.Signature(...))`
        To the core's streams of these names.
    timeout : :py:`Out(timeout_bits)`
        To the core.
    """

    word: Signal
    data: Signal
    strobe: Signal
    write: Signal
    wide: Signal
    done: Signal
    answer: Signal
    faults: Signal
    o_head: stream.Interface
    o_page: stream.Interface
    o_tokens: stream.Interface
    timeout: Signal

    def __init__(self, description: RegisterMap):
        if not isinstance(description, RegisterMap):
            raise TypeError(f"Description must be a RegisterMap, not {description!r}")
        self._description = description
        self._sizes = sizes = cache_map(description.config)
        super().__init__({
            "word": In(4),
            "data": In(32),
            "strobe": In(4),
            "write": In(1),
            "wide": Out(1),
            "done": Out(1),
            "answer": Out(32),
            "faults": In(len(Fault)),
            "o_head": Out(stream.Signature(sizes.head_write_layout)),
            "o_page": Out(stream.Signature(sizes.page_write_layout)),
            "o_tokens": Out(stream.Signature(sizes.tokens_layout)),
            "timeout": Out(description.register("MEMORY_TIMEOUT").bits),
        })

    @property
    def description(self) -> RegisterMap:
        return self._description

    def elaborate(self, platform) -> Module:
        m = Module()
        sizes = self._sizes
        registers = {register.name: register for register in self._description.registers
                     if Address.TABLE_CODES_LOW <= register.address < Address.COUNTERS}
        limits = {"TABLE_HEAD": sizes.heads - 1, "TABLE_SEQUENCE": sizes.sequences - 1,
                  "TABLE_INDEX": sizes.listed - 1, "TABLE_PAGE": sizes.pages - 1,
                  "TABLE_TOKENS": sizes.capacity}

        # ---- What is kept until an entry is set.
        kept = {name: Signal(32, name=name.lower()) for name, register in registers.items()
                if register.access == "rw"}
        takes: dict[str, Signal] = {}
        m.d.comb += self.done.eq(1)
        with m.Switch(self.word):
            for name, register in registers.items():
                takes[name] = take = Signal(name=f"writes_{name.lower()}")
                with m.Case(register.address >> 2 & 15):
                    m.d.comb += [take.eq(self.write),
                                 self.wide.eq(self._is_wide(register, limits.get(name)))]
                    if name in kept:
                        m.d.comb += self.answer.eq(kept[name])
                        with m.If(self.write):
                            m.d.sync += kept[name].eq(self.data)
        m.d.comb += self.timeout.eq(kept["MEMORY_TIMEOUT"])

        # ---- Entries.
        def address(name: str, unit: int) -> Value:
            high = kept.get(f"TABLE_{name}_HIGH", C(0, 32))
            return Cat(kept[f"TABLE_{name}_LOW"], high)[unit.bit_length() - 1:]

        head, page, tokens = self.o_head, self.o_page, self.o_tokens
        m.d.comb += [
            head.p.head.eq(self.data),
            head.p.set.eq(self.data[-1]),
            head.p.entry.codes.eq(address("CODES", sizes.burst_bytes)),
            head.p.entry.rows.eq(address("ROWS", sizes.row_unit)),
            head.p.entry.stride.eq(kept["TABLE_STRIDE"][sizes.row_unit.bit_length() - 1:]),
            page.p.sequence.eq(kept["TABLE_SEQUENCE"]),
            page.p.index.eq(kept["TABLE_INDEX"]),
            page.p.set.eq(self.data[-1]),
            page.p.page.eq(self.data),
            tokens.p.sequence.eq(kept["TABLE_SEQUENCE"]),
            tokens.p.tokens.eq(self.data),
        ]
        ends: list[tuple[str, Any]] = [
            ("TABLE_HEAD", head), ("TABLE_PAGE", page), ("TABLE_TOKENS", tokens)]
        for name, target in ends:
            m.d.comb += target.valid.eq(takes[name])
            with m.If(takes[name]):
                m.d.comb += self.done.eq(target.ready)

        # ---- What becomes of it.
        faults = Signal(len(Fault))
        cleared = Mux(takes["MEMORY_FAULT"], self.data[:len(Fault)], 0)
        m.d.sync += faults.eq((faults & ~cleared) | self.faults)
        with m.If(self.word == Address.MEMORY_STATUS >> 2 & 15):
            m.d.comb += self.answer.eq(Cat(head.ready & page.ready & tokens.ready))
        with m.If(self.word == Address.MEMORY_FAULT >> 2 & 15):
            m.d.comb += self.answer.eq(faults)
        return m

    def _is_wide(self, register: Register, limit: int | None) -> Value:
        """Tell whether what is written does not fit a register."""
        spare = ~register.mask & 0xffffffff
        wide = ~self.strobe.all() | (self.data & C(spare, 32)).any()
        if limit is not None:
            wide |= self.data[:register.fields[0].bits] > limit
        return wide
