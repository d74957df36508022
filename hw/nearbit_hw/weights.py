"""Weights of a selection: found in a table by the distance above the nearest key's."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.ram import Address, block_ram


__all__ = ["Weights"]


class Weights(wiring.Component):
    """Replay of each query's selection with weights, once for every column of the value rows.

    The keys of one query, a *selection*, are buffered while their smallest distance h_min is
    found. Then they are replayed :py:`columns` times, all keys in their order for column 0, then
    all for column 1 and so on, each with the weight :py:`table[distance - h_min]`. There are two
    buffers, so one selection is filled while the one before is replayed.

    For the k-th selection of m keys, if no output is stalled, with :py:`latency` = 3:

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
    tables, which hold the largest weight everywhere until they are loaded. Weights are taken as
    they are, so there is no rounding.

    Reference: :func:`nearbit_model.golden.lookup`.

    Parameters
    ----------
    capacity : :class:`int`
        Keys that an index distinguishes. At least 1.
    key_bits : :class:`int`
        The largest distance. At least 1.
    columns : :class:`int`
        Replays of a selection. At least 1.
    top_n : :class:`int`
        The most keys in a selection. At least 1.
    weight_bits : :class:`int`
        Bits of a weight. At least 1.
    tables : :class:`int`
        Resident tables. At least 1.

    Members
    -------
    i_table : :py:`In(stream.Signature(StructLayout({"table": ..., "distance": ..., "weight": ...\
})))`
        An entry of a table; always ready. A table must not be written while it is in use.
    i_command : :py:`In(stream.Signature(StructLayout({"table": range(tables), "trace": 1})))`
        For each selection, its table and whether :py:`o_trace` is wanted.
    i : :py:`In(stream.Signature(StructLayout({"index": ..., "distance": ..., "last": 1})))`
        Selected keys, :py:`last` on a selection's last one.
    o : :py:`Out(stream.Signature(StructLayout({"index": ..., "column": ..., "weight": ..., \
"last": 1})))`
        Keys with their weights for each column, :py:`last` on a column's last one.
    o_trace : :py:`Out(stream.Signature(StructLayout({"index": ..., "distance": ..., "weight": \
..., "last": 1})))`
        If the command asks for it: the keys of column 0, with :py:`last` on the last one.
    """

    i_table: stream.Interface
    i_command: stream.Interface
    i: stream.Interface
    o: stream.Interface
    o_trace: stream.Interface

    def __init__(self, *, capacity: int, key_bits: int, columns: int, top_n: int,
                 weight_bits: int, tables: int):
        for name, value in [("Capacity", capacity), ("Key bits", key_bits), ("Columns", columns),
                            ("Top N", top_n), ("Weight bits", weight_bits), ("Tables", tables)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        self._capacity = capacity
        self._key_bits = key_bits
        self._columns = columns
        self._top_n = top_n
        self._weight_bits = weight_bits
        self._tables = tables

        super().__init__({
            "i_table": In(stream.Signature(data.StructLayout({
                "table": range(tables),
                "distance": range(key_bits + 1),
                "weight": weight_bits,
            }), always_ready=True)),
            "i_command": In(stream.Signature(data.StructLayout({
                "table": range(tables),
                "trace": 1,
            }))),
            "i": In(stream.Signature(data.StructLayout({
                "index": range(capacity),
                "distance": range(key_bits + 1),
                "last": 1,
            }))),
            "o": Out(stream.Signature(data.StructLayout({
                "index": range(capacity),
                "column": range(columns),
                "weight": weight_bits,
                "last": 1,
            }))),
            "o_trace": Out(stream.Signature(data.StructLayout({
                "index": range(capacity),
                "distance": range(key_bits + 1),
                "weight": weight_bits,
                "last": 1,
            }))),
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
    def latency(self) -> int:
        """Cycles from a key's turn in the replay to presenting it: buffer, subtraction, table."""
        return 3

    def elaborate(self, platform) -> Module:
        m = Module()

        # How it works
        # ------------
        # There are two *banks*: half of the buffer, the place of a command, h_min, and the position
        # of the last key. Selections take banks in turns. A bank is `full` from its last key until
        # that key has passed the subtraction for the last time, the last use of the bank's h_min.
        #
        # The replay is a pipeline of three stages that moves as a whole: `key` (out of the
        # buffer), `excess` (h_min subtracted) and `weight` (out of the table). It may start in the
        # cycle in which the last key comes in: h_min is not needed before the next cycle, and
        # nothing is in the way but a selection of one key, which is then not in the buffer yet.
        distance_shape = range(self._key_bits + 1)
        position_shape = range(max(2, self._top_n)) # Amaranth has trouble with registers of 0 bits
        key_shape = data.StructLayout({"index": range(self._capacity), "distance": distance_shape})
        command_shape = data.StructLayout({"table": range(self._tables), "trace": 1})

        full = Signal(2)
        nearest = [Signal(distance_shape, name=f"nearest_{bank}", reset_less=True)
                   for bank in range(2)]
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
            buffer_write.data.index.eq(self.i.p.index),
            buffer_write.data.distance.eq(self.i.p.distance),
            buffer_write.en.eq(fill),
        ]
        is_nearer = Signal()
        m.d.comb += is_nearer.eq(is_first | (self.i.p.distance < Mux(fill_bank, *nearest[::-1])))
        with m.If(fill):
            m.d.sync += fill_position.eq(fill_position + 1)
            for bank in range(2):
                with m.If(fill_bank == bank):
                    m.d.sync += final_position[bank].eq(fill_position)
                    with m.If(is_nearer):
                        m.d.sync += nearest[bank].eq(self.i.p.distance)
            with m.If(self.i.p.last):
                m.d.sync += [
                    full.bit_select(fill_bank, 1).eq(1),
                    fill_position.eq(0),
                    fill_bank.eq(~fill_bank),
                ]

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
        excess_valid = Signal()
        excess = Signal(distance_shape, reset_less=True)
        excess_key = Signal(key_shape, reset_less=True)
        excess_column = Signal.like(column, reset_less=True)
        excess_last = Signal(reset_less=True)
        excess_command: Any = Signal(command_shape, reset_less=True)
        with m.If(advance):
            m.d.sync += [
                excess_valid.eq(key_valid),
                excess.eq(key.distance - Mux(key_bank, *nearest[::-1])),
                excess_key.eq(key),
                excess_column.eq(key_column),
                excess_last.eq(key_last),
                excess_command.eq(commands[key_bank]),
            ]

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
            table_read.addr.eq(address(excess_command.table, excess)),
            table_read.en.eq(advance),
        ]
        weight_valid, weight_trace = Signal(), Signal()
        weight_key: Any = Signal(key_shape, reset_less=True)
        weight_column = Signal.like(column, reset_less=True)
        weight_last = Signal(reset_less=True)
        with m.If(advance):
            m.d.sync += [
                weight_valid.eq(excess_valid),
                weight_trace.eq(excess_valid & excess_command.trace & (excess_column == 0)),
                weight_key.eq(excess_key),
                weight_column.eq(excess_column),
                weight_last.eq(excess_last),
            ]

        # ---- Outputs: each is valid until it has been taken, then waits for the other.
        m.d.comb += [
            self.o.valid.eq(weight_valid),
            self.o.p.index.eq(weight_key.index),
            self.o.p.column.eq(weight_column),
            self.o.p.weight.eq(table_read.data),
            self.o.p.last.eq(weight_last),
            self.o_trace.valid.eq(weight_trace),
            self.o_trace.p.index.eq(weight_key.index),
            self.o_trace.p.distance.eq(weight_key.distance),
            self.o_trace.p.weight.eq(table_read.data),
            self.o_trace.p.last.eq(weight_last),
            advance.eq((~weight_valid | self.o.ready) & (~weight_trace | self.o_trace.ready)),
        ]
        with m.If(~advance):
            with m.If(self.o.ready):
                m.d.sync += weight_valid.eq(0)
            with m.If(self.o_trace.ready):
                m.d.sync += weight_trace.eq(0)

        return m
