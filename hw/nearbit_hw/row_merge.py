"""Brings the rows' selections into one order."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.dispatcher import Error


__all__ = ["RowMerge"]


class RowMerge(wiring.Component):
    """Passes the selections of a command's rows on, row by row, command by command.

    For each row, in order, :py:`o_result` says what result is to come. A row without an error is
    also announced to :py:`o_command`, and its selection passes from :py:`i` to :py:`o` without
    delay, one key per cycle; the next row follows in the cycle after the selection's last key or
    the announcements, whatever is later. A row with an error takes one cycle. A stalled output does
    not hold up the other two within its row. Reset starts again with row 0.

    Parameters
    ----------
    capacity, key_bits, rows, tables : :class:`int`
        As in :class:`nearbit_model.Config`.

    Members
    -------
    i_order : :py:`In(stream.Signature(...))`
        As :py:`Dispatcher.o_order`.
    i : :py:`In(stream.Signature(...)).array(rows)`
        Selections, as :py:`TopN.o`.
    o_result : :py:`Out(stream.Signature(...))`
        For each row: :py:`row`, :py:`error`, and :py:`final`, set for the command's last row.
    o_command : :py:`Out(stream.Signature(...))`
        For each row without an error: :py:`row`, :py:`table`, :py:`trace`.
    o : :py:`Out(stream.Signature(...))`
        Selections of the rows without an error.
    """

    i_order: stream.Interface
    i: list[stream.Interface]
    o_result: stream.Interface
    o_command: stream.Interface
    o: stream.Interface

    def __init__(self, *, capacity: int, key_bits: int, rows: int, tables: int):
        for name, value in [("Capacity", capacity), ("Key bits", key_bits), ("Rows", rows),
                            ("Tables", tables)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        self._capacity = capacity
        self._key_bits = key_bits
        self._rows = rows
        self._tables = tables

        selection = stream.Signature(data.StructLayout({
            "index": range(capacity),
            "distance": range(key_bits + 1),
            "last": 1,
        }))
        super().__init__({
            "i_order": In(stream.Signature(data.StructLayout({
                "rows": data.ArrayLayout(data.StructLayout({
                    "error": Error,
                    "table": range(tables),
                }), rows),
                "trace": 1,
            }))),
            "i": In(selection).array(rows),
            "o_result": Out(stream.Signature(data.StructLayout({
                "row": range(rows),
                "error": Error,
                "final": 1,
            }))),
            "o_command": Out(stream.Signature(data.StructLayout({
                "row": range(rows),
                "table": range(tables),
                "trace": 1,
            }))),
            "o": Out(selection),
        })

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def key_bits(self) -> int:
        return self._key_bits

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def tables(self) -> int:
        return self._tables

    def elaborate(self, platform) -> Module:
        m = Module()

        row = Signal(range(self._rows))
        order = self.i_order.p.rows[row]
        good, final = Signal(), Signal()
        m.d.comb += [
            good.eq(order.error == Error.OK),
            final.eq(row == self._rows - 1),
        ]

        # What the row still owes: each of the three is done once.
        done = Signal(3)
        does = Signal(3)
        fire = Signal()
        m.d.comb += [
            self.o_result.valid.eq(self.i_order.valid & ~done[0]),
            self.o_command.valid.eq(self.i_order.valid & good & ~done[1]),
            does[0].eq(self.o_result.valid & self.o_result.ready),
            does[1].eq(self.o_command.valid & self.o_command.ready),
            does[2].eq(self.o.valid & self.o.ready & self.o.p.last),
            fire.eq(self.i_order.valid & (done | does | Cat(0, ~good, ~good)).all()),
            self.i_order.ready.eq(fire & final),
        ]
        m.d.sync += done.eq(Mux(fire, 0, done | does))
        with m.If(fire):
            m.d.sync += row.eq(Mux(final, 0, row + 1))

        m.d.comb += [
            self.o_result.p.row.eq(row),
            self.o_result.p.error.eq(order.error),
            self.o_result.p.final.eq(final),
            self.o_command.p.row.eq(row),
            self.o_command.p.table.eq(order.table),
            self.o_command.p.trace.eq(self.i_order.p.trace),
        ]
        for index in range(self._rows):
            with m.If((row == index) & self.i_order.valid & good & ~done[2]):
                m.d.comb += [
                    self.o.valid.eq(self.i[index].valid),
                    self.o.payload.eq(self.i[index].payload),
                    self.i[index].ready.eq(self.o.ready),
                ]

        return m
