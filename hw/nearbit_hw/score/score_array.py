"""Systolic array of XOR-popcount cells: queries stay, keys move."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import code_word_layout, codes_layout, distance_word_layout
from nearbit_hw.score.popcount import TARGETS, XorPopcount, operand_skew, platform_target
from nearbit_model.structure import FAN_IN, tree_latency


__all__ = ["ScoreArray", "cell_operands"]


def cell_operands(queries: int, target: str) -> int:
    """Number of operands of the cells: 1 where the key registers hold the differences.

    On iCE40 a cell has no room for the XOR, but each register has an unused LUT in front of it.
    Several queries would each need their own registers, which costs as much as it saves.
    """
    return 1 if target == "ice40" and queries == 1 else 2


class ScoreArray(wiring.Component):
    """Hamming distances between the resident queries and every key that passes.

    The array holds the codes of :py:`queries` queries. A word of :py:`lanes` key codes enters the
    first stage, which has :py:`queries_per_stage` queries, and moves by one stage per cycle, so
    all wires connect neighbours. A command's words end with the one that has :py:`last` set. The
    queries of a stage load the command's codes when its first word reaches the stage, so commands
    follow each other without a gap.

    The distances of a word accepted at cycle t leave query r at cycle
    :py:`t + 1 + r // queries_per_stage + latency_of_a_cell`; see :py:`latency`. Throughput is one
    word per cycle. The outputs cannot be stalled: the requester of words must have room for their
    distances.

    A command's codes are taken from :py:`i_queries` while its first word passes the stages: the
    first word waits until :py:`i_queries` is valid, and :py:`i_queries` is accepted
    :py:`stages - 1` cycles after that word. Two commands are therefore at least :py:`stages` cycles
    apart.

    Where :func:`cell_operands` is 1, the key registers hold the differences from the query.

    The cells of some targets take some bits later than others. These are delayed once, for keys
    where they enter the array and for a query beside its cells, not in each cell.

    Reference: :func:`nearbit_model.popcount.hamming`.

    Parameters
    ----------
    key_bits : :class:`int`
        Bits of a code. At least 1.
    queries : :class:`int`
        Queries scored at the same time. At least 1.
    lanes : :class:`int`
        Keys per word. At least 1.
    fan_in : :class:`int`
        Terms added per node of a cell's tree; see :class:`XorPopcount`. At least 2.
    queries_per_stage : :class:`int`
        Queries that read the same key registers. At least 1. More of them save registers and
        cycles, and increase the load on the wires.
    target : :class:`str`, optional
        Device for which cells are built; see :class:`XorPopcount`. By default the one that suits
        the platform. Values and cycles do not depend on it.

    Members
    -------
    i_queries : :py:`In(stream.Signature(StructLayout({"codes": ..., "active": queries})))`
        A command's codes, and which queries take part; the others present nothing.
    i : :py:`In(stream.Signature(StructLayout({"codes": ..., "last": 1})))`
        Words of key codes, lane 0 lowest; :py:`last` is set on a command's last word.
    o : :py:`Out(stream.Signature(StructLayout({"distances": ..., "last": 1}))).array(queries)`
        Distances of each query, lane 0 lowest; always ready.
    """

    i_queries: stream.Interface
    i: stream.Interface
    o: list[stream.Interface]

    def __init__(self, *, key_bits: int, queries: int, lanes: int, fan_in: int = FAN_IN,
                 queries_per_stage: int = 1, target: str | None = None):
        for name, value in [("Key bits", key_bits), ("Queries", queries), ("Lanes", lanes),
                            ("Queries per stage", queries_per_stage)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        if not isinstance(fan_in, int) or fan_in < 2:
            raise TypeError(f"Fan-in must be an integer greater than 1, not {fan_in!r}")
        if target is not None and target not in TARGETS:
            raise ValueError(f"Target must be one of {', '.join(TARGETS)}, not {target!r}")
        self._key_bits = key_bits
        self._queries = queries
        self._lanes = lanes
        self._fan_in = fan_in
        self._queries_per_stage = queries_per_stage
        self._target = target

        super().__init__({
            "i_queries": In(stream.Signature(codes_layout(key_bits=key_bits, queries=queries))),
            "i": In(stream.Signature(code_word_layout(key_bits=key_bits, lanes=lanes))),
            "o": Out(stream.Signature(
                distance_word_layout(distance_max=key_bits, lanes=lanes),
                always_ready=True)).array(queries),
        })

    @property
    def key_bits(self) -> int:
        return self._key_bits

    @property
    def queries(self) -> int:
        return self._queries

    @property
    def lanes(self) -> int:
        return self._lanes

    @property
    def fan_in(self) -> int:
        return self._fan_in

    @property
    def queries_per_stage(self) -> int:
        return self._queries_per_stage

    @property
    def stages(self) -> int:
        """Sets of key registers that a word passes through."""
        return -(-self._queries // self._queries_per_stage)

    @property
    def target(self) -> str | None:
        return self._target

    @property
    def latency(self) -> int:
        """Cycles from accepting a word to its distances at query 0; each further stage adds one."""
        return 1 + tree_latency(self._key_bits, self._fan_in)

    def elaborate(self, platform) -> Module:
        m = Module()

        # `start` moves down the stages with a command's first word; each stage's queries then load
        # their codes from `i_queries`, which therefore must stay until the last stage has them.
        busy = Signal()  # inside a command
        start = Signal(self.stages)
        enter = Signal()
        m.d.comb += [
            self.i.ready.eq(busy | (self.i_queries.valid & ~start[1:].any())),
            enter.eq(self.i.valid & self.i.ready),
            start[0].eq(enter & ~busy),
            self.i_queries.ready.eq(start[-1]),
        ]
        m.d.sync += start[1:].eq(start)
        with m.If(enter):
            m.d.sync += busy.eq(~self.i.p.last)

        target = self._target or platform_target(platform)
        skew = operand_skew(self._key_bits, fan_in=self._fan_in, target=target)

        operands = cell_operands(self._queries, target)

        def skewed(code: Value, name: str) -> Value:
            """Delay each bit as the cells require."""
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
        held = [Signal(self._key_bits, name=f"query_{query}", reset_less=True)
                for query in range(self._queries)]
        if operands == 1:
            # Not an XOR with one Mux: Yosys would share that Mux with the query's register.
            codes = [Mux(start[0], code ^ self.i_queries.p.codes[0], code ^ held[0])
                     for code in codes]
        for query in range(self._queries):
            stage, place = divmod(query, self._queries_per_stage)
            if place == 0:
                # Key registers of the stage, from which the word moves to the next stage.
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

            code = held[query]
            active = Signal(name=f"active_{query}")
            with m.If(start[stage]):
                m.d.sync += [code.eq(self.i_queries.p.codes[query]),
                             active.eq(self.i_queries.p.active[query])]
            query_bits = skewed(code, f"query_{query}")

            for lane in range(self._lanes):
                m.submodules[f"cell_{query}_{lane}"] = cell = XorPopcount(
                    self._key_bits, fan_in=self._fan_in, target=target, skewed=True,
                    operands=operands)
                m.d.comb += [
                    cell.i.payload.eq(
                        codes[lane] if operands == 1 else Cat(query_bits, codes[lane])),
                    cell.i.valid.eq(valid & active),
                    cell.o.ready.eq(1),
                    self.o[query].p.distances[lane].eq(cell.o.payload),
                ]
                if lane == 0:
                    m.d.comb += self.o[query].valid.eq(cell.o.valid)
            m.d.comb += self.o[query].p.last.eq(last_out)

        return m
