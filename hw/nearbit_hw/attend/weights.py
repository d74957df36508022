"""Weights of a selection: by the distance above the nearest key's, or by exact score."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import (
    key_layout,
    table_layout,
    trace_layout,
    weighted_layout,
    weights_command_layout,
)
from nearbit_hw.ram import Address, block_ram
from nearbit_model.config import DECAY_BITS, MULTIPLIER_BITS, MULTIPLIER_SHIFT


__all__ = ["Weights"]


def exponential(weight_bits: int) -> list[int]:
    """Largest weight times :py:`2 ** -f` for the fractions f of an octave, rounded."""
    steps = 1 << DECAY_BITS
    return [round(((1 << weight_bits) - 1) * 2 ** (-step / steps)) for step in range(steps)]


class Weights(wiring.Component):
    """Replay of each query's selection with weights, once for every column of the value rows.

    The keys of one query, a *selection*, are buffered while their smallest distance h_min is
    found. Then they are replayed :py:`columns` times, all keys in their order for column 0, then
    all for column 1 and so on, each with the weight :py:`table[distance - h_min]`. There are two
    buffers, so one selection is filled while the one before is replayed.

    With :py:`score_max` not 0, a key comes with a *score* (minus its distance, if nothing better is
    known), and what counts is how far it is below the best. A command with :py:`rescore` gets
    weights from that by an exponential, :py:`exp2[t % 256] >> t // 256`, where
    :py:`t = (best - score) * multiplier >> 24` and :py:`exp2[f]` is the largest weight times
    :py:`2 ** (-f / 256)`, rounded; 0 if t // 256 is at least :py:`weight_bits`. Another one gets
    them from the table, as above.

    For the k-th selection of m keys, if no output is stalled:

    - Its keys are accepted one per cycle; the first at the earliest two cycles after
      :py:`start(k - 2) + columns * m(k - 2) - 1`, because it takes that selection's buffer. Its
      command is accepted under the same condition.
    - Its replay starts at :py:`start(k)`, the latest of: the cycle in which its last key is
      accepted, or the one after if m is 1; the cycle after that in which its command is accepted;
      and :py:`start(k - 1) + columns * m(k - 1)`, which is without a gap.
    - Replayed key j (0 to :py:`columns * m - 1`) is presented at cycle
      :py:`start(k) + latency + j`, on :py:`o_trace` as well where it belongs there.

    Either output may be stalled; the other presents its part of the same key at most once, and
    both go on to the next key together. Reset drops selections and commands; it does not touch the
    tables, which hold the largest weight everywhere until they are loaded. Weights of a table are
    taken as they are; those of the exponential are rounded down.

    Reference: :func:`nearbit_model.golden.lookup` and :func:`nearbit_model.golden.decay`.

    Parameters
    ----------
    capacity : :class:`int`
        Keys that an index distinguishes. At least 1.
    key_bits : :class:`int`
        The largest distance that a table has a weight for. At least 1.
    columns : :class:`int`
        Replays of a selection. At least 1.
    top_n : :class:`int`
        The most keys in a selection. At least 1.
    weight_bits : :class:`int`
        Bits of a weight. At least 1.
    tables : :class:`int`
        Resident tables. At least 1.
    score_max : :class:`int`
        Largest absolute value of a score; 0 if keys have none.
    distance_max : :class:`int`
        The largest distance, if it is more than :py:`key_bits`.

    Members
    -------
    i_table : :py:`In(stream.Signature(StructLayout({"table": ..., "distance": ..., "weight": ...\
})))`
        An entry of a table; always ready. A table must not be written while it is in use.
    i_command : :py:`In(stream.Signature(StructLayout({"table": range(tables), "trace": 1})))`
        For each selection, its table and whether :py:`o_trace` is wanted; with scores, also
        :py:`rescore` and :py:`multiplier`.
    i : :py:`In(stream.Signature(StructLayout({"index": ..., "distance": ..., "last": 1})))`
        Selected keys, :py:`last` on a selection's last one; with scores, also :py:`score`.
    o : :py:`Out(stream.Signature(StructLayout({"index": ..., "column": ..., "weight": ..., \
"last": 1})))`
        Keys with their weights for each column, :py:`last` on a column's last one.
    o_trace : :py:`Out(stream.Signature(StructLayout({"index": ..., "distance": ..., "weight": \
..., "last": 1})))`
        If the command asks for it: the keys of column 0, with :py:`last` on the last one; with
        scores, also :py:`score`.
    """

    i_table: stream.Interface
    i_command: stream.Interface
    i: stream.Interface
    o: stream.Interface
    o_trace: stream.Interface

    def __init__(self, *, capacity: int, key_bits: int, columns: int, top_n: int,
                 weight_bits: int, tables: int, score_max: int = 0, distance_max: int = 0):
        for name, value in [("Capacity", capacity), ("Key bits", key_bits), ("Columns", columns),
                            ("Top N", top_n), ("Weight bits", weight_bits), ("Tables", tables)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        if not isinstance(score_max, int) or score_max < 0:
            raise TypeError(f"Largest score must be an integer of at least 0, not {score_max!r}")
        if not isinstance(distance_max, int) or distance_max < 0:
            raise TypeError(f"Largest distance must be an integer of at least 0, "
                            f"not {distance_max!r}")
        distance_max = max(key_bits, distance_max)
        if 0 < score_max < distance_max:
            raise ValueError(f"Largest score must be at least the largest distance "
                             f"({distance_max}), not {score_max!r}")
        self._capacity = capacity
        self._key_bits = key_bits
        self._columns = columns
        self._top_n = top_n
        self._weight_bits = weight_bits
        self._tables = tables
        self._score_max = score_max
        self._distance_max = distance_max

        key: dict[str, Any] = {
            "capacity": capacity, "distance_max": distance_max, "score_max": score_max}
        super().__init__({
            "i_table": In(stream.Signature(
                table_layout(tables=tables, key_bits=key_bits, weight_bits=weight_bits),
                always_ready=True)),
            "i_command": In(stream.Signature(
                weights_command_layout(tables=tables, rescore=bool(score_max)))),
            "i": In(stream.Signature(key_layout(**key))),
            "o": Out(stream.Signature(weighted_layout(
                capacity=capacity, columns=columns, weight_bits=weight_bits))),
            "o_trace": Out(stream.Signature(trace_layout(**key, weight_bits=weight_bits))),
        })

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def key_bits(self) -> int:
        return self._key_bits

    @property
    def columns(self) -> int:
        return self._columns

    @property
    def top_n(self) -> int:
        return self._top_n

    @property
    def weight_bits(self) -> int:
        return self._weight_bits

    @property
    def tables(self) -> int:
        return self._tables

    @property
    def score_max(self) -> int:
        return self._score_max

    @property
    def distance_max(self) -> int:
        return self._distance_max

    @property
    def latency(self) -> int:
        """Cycles from a key's turn in the replay to presenting it.

        Buffer, subtraction and table; with scores, two for a product and one for a shift as well.
        """
        return 6 if self._score_max else 3

    def elaborate(self, platform) -> Module:
        m = Module()

        # How it works
        # ------------
        # There are two *banks*: half of the buffer, the place of a command, the best key's distance
        # or score, and the position of the last key. Selections take banks in turns. A bank is
        # `full` from its last key until that key has passed the subtraction for the last time, the
        # last use of the bank's best.
        #
        # The replay is a pipeline that moves as a whole: `key` (out of the buffer), `excess`
        # (behind the best), with scores `product` and `octaves`, then `weight` (out of a table),
        # and with scores `shifted`. It may start in the cycle in which the last key comes in: the
        # best is not needed before the next cycle, and nothing is in the way but a selection of one
        # key, which is then not in the buffer yet.
        has_scores = self._score_max > 0
        position_shape = range(max(2, self._top_n)) # Amaranth has trouble with registers of 0 bits
        measure_shape: Any = self.i.p.score.shape() if has_scores else self.i.p.distance.shape()
        key_shape = data.StructLayout({
            name: field.shape for name, field in self.i.payload.shape() if name != "last"})
        command_shape = self.i_command.payload.shape()

        full = Signal(2)
        best = [Signal(measure_shape, name=f"best_{bank}", reset_less=True) for bank in range(2)]
        final_position = [Signal(position_shape, name=f"final_position_{bank}", reset_less=True)
                          for bank in range(2)]
        commanded = Signal(2)
        commands: Any = Signal(data.ArrayLayout(command_shape, 2), reset_less=True)

        m.submodules.buffer = buffer = block_ram(shape=key_shape, depth=2 * self._top_n)
        buffer_write, buffer_read = buffer.write_port(), buffer.read_port()

        # ---- Commands.
        command_bank = Signal()
        m.d.comb += self.i_command.ready.eq(~commanded.bit_select(command_bank, 1))
        with m.If(self.i_command.valid & self.i_command.ready):
            m.d.sync += [
                commanded.bit_select(command_bank, 1).eq(1),
                commands[command_bank].eq(self.i_command.p),
                command_bank.eq(~command_bank),
            ]

        # ---- Fill.
        fill_bank = Signal()
        fill_position = Signal(position_shape)
        is_first, fill = Signal(), Signal()
        m.d.comb += [
            is_first.eq(fill_position == 0),
            self.i.ready.eq(~full.bit_select(fill_bank, 1)),
            fill.eq(self.i.valid & self.i.ready),
            buffer_write.addr.eq(Cat(fill_bank, fill_position)),
            buffer_write.en.eq(fill),
            *(buffer_write.data[name].eq(self.i.p[name]) for name, _ in key_shape),
        ]
        with m.If(fill):
            m.d.sync += fill_position.eq(fill_position + 1)
            for bank in range(2):
                with m.If(fill_bank == bank):
                    m.d.sync += final_position[bank].eq(fill_position)
            with m.If(self.i.p.last):
                m.d.sync += [
                    full.bit_select(fill_bank, 1).eq(1),
                    fill_position.eq(0),
                    fill_bank.eq(~fill_bank),
                ]

        # Keys come out of a memory, late in the cycle: each is compared in the next one.
        measure = self.i.p.score if has_scores else self.i.p.distance
        taken, taken_first, taken_bank, is_better = Signal(), Signal(), Signal(), Signal()
        taken_measure = Signal(measure_shape, reset_less=True)
        bank_best = Mux(taken_bank, *best[::-1])
        m.d.sync += [taken.eq(fill), taken_first.eq(is_first), taken_bank.eq(fill_bank),
                     taken_measure.eq(measure)]
        m.d.comb += is_better.eq(taken & (taken_first | (
            taken_measure > bank_best if has_scores else taken_measure < bank_best)))
        for bank in range(2):
            with m.If(is_better & (taken_bank == bank)):
                m.d.sync += best[bank].eq(taken_measure)

        # ---- Replay: which key is next.
        advance = Signal()
        replay_bank = Signal()
        position = Signal(position_shape)
        column = Signal(range(self._columns))
        is_full, issue, is_last, is_final = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            is_full.eq(full.bit_select(replay_bank, 1)),
            # If the bank in turn is not full, it is the one that is filled.
            issue.eq((is_full | (fill & self.i.p.last & ~is_first))
                     & commanded.bit_select(replay_bank, 1)),
            is_last.eq(is_full & (position == Mux(replay_bank, *final_position[::-1]))),
            is_final.eq(is_last & (column == self._columns - 1)),
            buffer_read.addr.eq(Cat(replay_bank, position)),
            buffer_read.en.eq(advance),
        ]
        with m.If(advance & issue):
            m.d.sync += position.eq(position + 1)
            with m.If(is_last):
                m.d.sync += [position.eq(0), column.eq(column + 1)]
            with m.If(is_final):
                m.d.sync += [column.eq(0), replay_bank.eq(~replay_bank)]

        # ---- Stage `key`.
        key = buffer_read.data
        key_valid = Signal()
        key_bank, key_last, key_final = (Signal(name=f"key_{name}", reset_less=True)
                                         for name in ("bank", "last", "final"))
        key_column = Signal.like(column, reset_less=True)
        with m.If(advance):
            m.d.sync += [key_valid.eq(issue), key_bank.eq(replay_bank), key_column.eq(column),
                         key_last.eq(is_last), key_final.eq(is_final)]
            with m.If(key_valid & key_final):
                m.d.sync += [full.bit_select(key_bank, 1).eq(0),
                             commanded.bit_select(key_bank, 1).eq(0)]

        # ---- Stage `excess`.
        excess_max = 2 * self._score_max if has_scores else self._distance_max
        excess = Signal(range(excess_max + 1), name="excess", reset_less=True)
        valid = Signal(name="excess_valid")
        step_shape = data.StructLayout({
            "key": key_shape, "column": column.shape(), "last": 1, "command": command_shape})
        step: Any = Signal(step_shape, name="excess_step", reset_less=True)
        first_best = Mux(is_better & (taken_bank == key_bank), taken_measure,
                         Mux(key_bank, *best[::-1]))
        with m.If(advance):
            m.d.sync += [
                valid.eq(key_valid),
                excess.eq(first_best - key.score if has_scores else key.distance - first_best),
                step.key.eq(key),
                step.column.eq(key_column),
                step.last.eq(key_last),
                step.command.eq(commands[key_bank]),
            ]

        def delay(name: str) -> None:
            """Let what goes with a key follow it to the next stage."""
            nonlocal valid, step
            next_valid = Signal(name=f"{name}_valid")
            next_step: Any = Signal(step_shape, name=f"{name}_step", reset_less=True)
            with m.If(advance):
                m.d.sync += [next_valid.eq(valid), next_step.eq(step)]
            valid, step = next_valid, next_step

        traces = Signal() # what is presented belongs to the trace

        def present(name: str) -> None:
            """The last stage: what it holds is presented."""
            with m.If(advance):
                m.d.sync += traces.eq(valid & step.command.trace & (step.column == 0))
            delay(name)

        # ---- Stages `product` and `octaves`. The product is made in two halves of the multiplier;
        # of its lower half only what carries into the octaves matters. All shifts that leave
        # nothing are one.
        distance_above = excess
        fraction = Signal(DECAY_BITS, reset_less=True)
        shift = Signal(range(self._weight_bits + 1), reset_less=True)
        if has_scores:
            half = MULTIPLIER_BITS // 2
            low = Signal(len(excess) + half, reset_less=True)
            high = Signal(len(excess) + half, reset_less=True)
            product_excess = Signal(range(self._key_bits + 1), reset_less=True)
            octaves_excess = Signal.like(product_excess, reset_less=True)
            octaves = Signal(len(high) + 1 - (MULTIPLIER_SHIFT - half))
            whole = octaves[DECAY_BITS:]
            m.d.comb += octaves.eq((high + low[half:]) >> (MULTIPLIER_SHIFT - half))
            with m.If(advance):
                m.d.sync += [
                    low.eq(excess * step.command.multiplier[:half]),
                    high.eq(excess * step.command.multiplier[half:]),
                    product_excess.eq(excess),
                    octaves_excess.eq(product_excess),
                    fraction.eq(octaves),
                    shift.eq(Mux(whole < self._weight_bits, whole, self._weight_bits)),
                ]
            delay("product")
            delay("octaves")
            distance_above = octaves_excess

        # ---- Stage `weight`.
        address = Address(self._tables, self._key_bits + 1)
        m.submodules.table = table = block_ram(
            shape=self._weight_bits, depth=address.depth,
            init=[(1 << self._weight_bits) - 1] * address.depth)
        table_write, table_read = table.write_port(), table.read_port()
        m.d.comb += [
            table_write.addr.eq(address(self.i_table.p.table, self.i_table.p.distance)),
            table_write.data.eq(self.i_table.p.weight),
            table_write.en.eq(self.i_table.valid),
            table_read.addr.eq(address(
                step.command.table, distance_above[:len(self.i_table.p.distance)])),
            table_read.en.eq(advance),
        ]
        if not has_scores:
            weight = table_read.data
            present("weight")

        # ---- Stage `shifted`.
        else:
            delay("weight")
            m.submodules.exp2 = exp2 = block_ram(
                shape=self._weight_bits, depth=1 << DECAY_BITS, init=exponential(self._weight_bits))
            exp2_read = exp2.read_port()
            weight_shift = Signal.like(shift, reset_less=True)
            weight = Signal(self._weight_bits, name="weight", reset_less=True)
            m.d.comb += [exp2_read.addr.eq(fraction), exp2_read.en.eq(advance)]
            with m.If(advance):
                m.d.sync += [
                    weight_shift.eq(shift),
                    weight.eq(Mux(step.command.rescore, exp2_read.data >> weight_shift,
                                  table_read.data)),
                ]
            present("shifted")

        # ---- Outputs: each is valid until it has been taken, then waits for the other.
        m.d.comb += [
            self.o.valid.eq(valid),
            self.o.p.index.eq(step.key.index),
            self.o.p.column.eq(step.column),
            self.o.p.weight.eq(weight),
            self.o.p.last.eq(step.last),
            self.o_trace.valid.eq(traces),
            self.o_trace.p.weight.eq(weight),
            self.o_trace.p.last.eq(step.last),
            *(self.o_trace.p[name].eq(step.key[name]) for name, _ in key_shape),
            advance.eq((~valid | self.o.ready) & (~traces | self.o_trace.ready)),
        ]
        with m.If(~advance):
            with m.If(self.o.ready):
                m.d.sync += valid.eq(0)
            with m.If(self.o_trace.ready):
                m.d.sync += traces.eq(0)

        return m
