"""Systolic array of XOR-popcount cells: queries stay, keys move."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import code_word_layout, codes_layout, distance_word_layout
from nearbit_hw.score.popcount import TARGETS, XorPopcount, operand_skew, platform_target
from nearbit_model.structure import FAN_IN, tree_latency


__all__ = ["ScoreArray", "cell_operands"]


def cell_operands(rows: int, target: str) -> int:
    """Operands of the cells: 1, where the key registers hold the differences.

    On iCE40 a cell has no room for the XOR, but a register has a LUT in front of it that nothing
    else uses. Several rows would need registers of their own, which costs as much as it saves.
    """
    return 1 if target == "ice40" and rows == 1 else 2


class ScoreArray(wiring.Component):
    """Hamming distances between the resident queries and every key that passes.

    Each of the :py:`rows` rows holds one query code. A word of :py:`lanes` key codes enters the
    first stage, which is :py:`rows_per_stage` rows, and moves on by one stage per cycle, so all
    wires are between neighbours. The words up to and including one with :py:`last` set belong to
    one command; a stage's rows take their codes of the command when the command's first word
    reaches it, so commands follow each other without a gap.

    Accepted at cycle t, a word's distances leave row r at cycle
    :py:`t + 1 + r // rows_per_stage + latency_of_a_cell`, see :py:`latency`. Throughput is one word
    per cycle. The outputs cannot be stalled: whoever asks for words must have room for their
    distances.

    A command's codes are taken from :py:`i_query` while its first word passes the stages: the first
    word waits until :py:`i_query` is valid, and :py:`i_query` is accepted :py:`stages - 1` cycles
    after that word. Two commands are therefore at least :py:`stages` cycles apart.

    Where :func:`cell_operands` is 1, the key registers hold the differences to the query.

    The cells of some targets want some bits later than others. These are delayed once, the keys'
    where they enter the array, the query's in its row, and not in each cell.

    Reference: :func:`nearbit_model.popcount.hamming`.

    Parameters
    ----------
    key_bits : :class:`int`
        Bits of a code. At least 1.
    rows : :class:`int`
        Queries scored at the same time. At least 1.
    lanes : :class:`int`
        Keys per word. At least 1.
    fan_in : :class:`int`
        Terms added per node of a cell's tree, see :class:`XorPopcount`. At least 2.
    rows_per_stage : :class:`int`
        Rows that read the same registers of keys. At least 1. More of them save registers and
        cycles, and load the wires.
    target : :class:`str`, optional
        Device that the cells are written for, see :class:`XorPopcount`; by default what suits the
        platform. Values and cycles do not depend on it.

    Members
    -------
    i_query : :py:`In(stream.Signature(StructLayout({"codes": ..., "active": rows})))`
        A command's query code for each row, and which rows take part; the others stay silent.
    i : :py:`In(stream.Signature(StructLayout({"codes": ..., "last": 1})))`
        Words of key codes, lane 0 lowest; :py:`last` on a command's last word.
    o : :py:`Out(stream.Signature(StructLayout({"distances": ..., "last": 1}))).array(rows)`
        Distances of each row, lane 0 lowest; always taken.
    """

    i_query: stream.Interface
    i: stream.Interface
    o: list[stream.Interface]

    def __init__(self, *, key_bits: int, rows: int, lanes: int, fan_in: int = FAN_IN,
                 rows_per_stage: int = 1, target: str | None = None):
        for name, value in [("Key bits", key_bits), ("Rows", rows), ("Lanes", lanes),
                            ("Rows per stage", rows_per_stage)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        if not isinstance(fan_in, int) or fan_in < 2:
            raise TypeError(f"Fan-in must be an integer greater than 1, not {fan_in!r}")
        if target is not None and target not in TARGETS:
            raise ValueError(f"Target must be one of {', '.join(TARGETS)}, not {target!r}")
        self._key_bits = key_bits
        self._rows = rows
        self._lanes = lanes
        self._fan_in = fan_in
        self._rows_per_stage = rows_per_stage
        self._target = target

        super().__init__({
            "i_query": In(stream.Signature(codes_layout(key_bits=key_bits, rows=rows))),
            "i": In(stream.Signature(code_word_layout(key_bits=key_bits, lanes=lanes))),
            "o": Out(stream.Signature(
                distance_word_layout(distance_max=key_bits, lanes=lanes),
                always_ready=True)).array(rows),
        })

    @property
    def key_bits(self) -> int:
        return self._key_bits

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def lanes(self) -> int:
        return self._lanes

    @property
    def fan_in(self) -> int:
        return self._fan_in

    @property
    def rows_per_stage(self) -> int:
        return self._rows_per_stage

    @property
    def stages(self) -> int:
        """Sets of key registers that a word passes."""
        return -(-self._rows // self._rows_per_stage)

    @property
    def target(self) -> str | None:
        return self._target

    @property
    def latency(self) -> int:
        """Cycles from accepting a word to its distances at row 0; each further stage adds one."""
        return 1 + tree_latency(self._key_bits, self._fan_in)

    def elaborate(self, platform) -> Module:
        m = Module()

        # `start` walks down the stages beside a command's first word; a stage's rows load their
        # codes from `i_query`, which therefore must stay until the last stage has them.
        busy = Signal()  # inside a command
        start = Signal(self.stages)
        enter = Signal()
        m.d.comb += [
            self.i.ready.eq(busy | (self.i_query.valid & ~start[1:].any())),
            enter.eq(self.i.valid & self.i.ready),
            start[0].eq(enter & ~busy),
            self.i_query.ready.eq(start[-1]),
        ]
        m.d.sync += start[1:].eq(start)
        with m.If(enter):
            m.d.sync += busy.eq(~self.i.p.last)

        target = self._target or platform_target(platform)
        skew = operand_skew(self._key_bits, fan_in=self._fan_in, target=target)

        operands = cell_operands(self._rows, target)

        def skewed(code: Value, name: str) -> Value:
            """Delay each bit as the cells want it."""
            bits = list(code)
            for age in range(max(skew)):
                late = [place for place, cycles in enumerate(skew) if cycles > age]
                register = Signal(len(late), name=f"{name}_late_{age}", reset_less=True)
                m.d.sync += register.eq(Cat(bits[place] for place in late))
                for place, bit in zip(late, register, strict=True):
                    bits[place] = bit
            return Cat(bits)

        codes: list[Value] = [skewed(self.i.p.codes[lane], f"key_{lane}")
                              for lane in range(self._lanes)]
        valid, last = enter, self.i.p.last
        last_out: Value = Const(0)
        queries = [Signal(self._key_bits, name=f"query_{row}", reset_less=True)
                   for row in range(self._rows)]
        if operands == 1:
            # Not the difference to one Mux, which Yosys would share with the query's register.
            codes = [Mux(start[0], code ^ self.i_query.p.codes[0], code ^ queries[0])
                     for code in codes]
        for row in range(self._rows):
            stage, place = divmod(row, self._rows_per_stage)
            if place == 0:
                # Key registers of the stage: the word moves on from here to the next stage.
                stage_codes = Signal(data.ArrayLayout(self._key_bits, self._lanes),
                                     name=f"keys_{stage}", reset_less=True)
                stage_valid = Signal(name=f"valid_{stage}")
                stage_last = Signal(name=f"last_{stage}", reset_less=True)
                m.d.sync += [stage_codes.eq(Cat(codes)), stage_valid.eq(valid),
                             stage_last.eq(last)]
                codes = [stage_codes[lane] for lane in range(self._lanes)]
                valid, last = stage_valid, stage_last
                last_delay = Signal(self.latency - 1, name=f"last_delay_{stage}", reset_less=True)
                m.d.sync += last_delay.eq(Cat(last, last_delay))
                last_out = last_delay[-1]

            query = queries[row]
            active = Signal(name=f"active_{row}")
            with m.If(start[stage]):
                m.d.sync += [query.eq(self.i_query.p.codes[row]),
                             active.eq(self.i_query.p.active[row])]
            query_bits = skewed(query, f"query_{row}")

            for lane in range(self._lanes):
                m.submodules[f"cell_{row}_{lane}"] = cell = XorPopcount(
                    self._key_bits, fan_in=self._fan_in, target=target, skewed=True,
                    operands=operands)
                m.d.comb += [
                    cell.i.payload.eq(
                        codes[lane] if operands == 1 else Cat(query_bits, codes[lane])),
                    cell.i.valid.eq(valid & active),
                    cell.o.ready.eq(1),
                    self.o[row].p.distances[lane].eq(cell.o.payload),
                ]
                if lane == 0:
                    m.d.comb += self.o[row].valid.eq(cell.o.valid)
            m.d.comb += self.o[row].p.last.eq(last_out)

        return m
