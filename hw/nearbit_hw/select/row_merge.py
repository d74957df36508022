"""Brings the rows' selections into one order."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import Error, key_layout, order_layout, weights_command_layout


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
    again : :py:`Out(1)`
        Whether the last row's selection is wanted once more, when its last key is accepted; if
        there is :py:`shared`.
    o_result : :py:`Out(stream.Signature(...))`
        For each row: :py:`row`, :py:`error`, and :py:`final`, set for the command's last row.
    o_command : :py:`Out(stream.Signature(...))`
        For each row without an error: :py:`row`, :py:`table`, :py:`trace`; and for a unit for
        exact scores :py:`rescore`, :py:`multiplier`.
    o : :py:`Out(stream.Signature(...))`
        Selections of the rows without an error; for a unit for exact scores with :py:`rescore`,
        :py:`skip`.
    """

    i_order: stream.Interface
    i: list[stream.Interface]
    again: Signal
    o_result: stream.Interface
    o_command: stream.Interface
    o: stream.Interface

    def __init__(self, *, capacity: int, distance_max: int, rows: int, tables: int,
                 rescore: bool = False, shared: bool = False):
        for name, value in [("Capacity", capacity), ("Largest distance", distance_max),
                            ("Rows", rows), ("Tables", tables)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        self._capacity = capacity
        self._distance_max = distance_max
        self._rows = rows
        self._tables = tables
        self._rescore = bool(rescore)
        self._shared = bool(shared)

        super().__init__({
            "i_order": In(stream.Signature(order_layout(
                rows=rows, tables=tables, rescore=rescore, shared=shared))),
            "i": In(stream.Signature(
                key_layout(capacity=capacity, distance_max=distance_max))).array(rows),
            **({"again": Out(1)} if shared else {}),
            "o_result": Out(stream.Signature(data.StructLayout({
                "row": range(rows),
                "error": Error,
                "final": 1,
            }))),
            "o_command": Out(stream.Signature(
                weights_command_layout(rows=rows, tables=tables, rescore=rescore))),
            "o": Out(stream.Signature(key_layout(
                capacity=capacity, distance_max=distance_max, rescore=rescore))),
        })

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def distance_max(self) -> int:
        return self._distance_max

    @property
    def rows(self) -> int:
        return self._rows

    @property
    def tables(self) -> int:
        return self._tables

    @property
    def rescore(self) -> bool:
        return self._rescore

    @property
    def shared(self) -> bool:
        return self._shared

    def elaborate(self, platform) -> Module:
        m = Module()

        row = Signal(range(self._rows))
        order = self.i_order.p.rows[row]
        good, final = Signal(), Signal()
        skip = Signal() # the row failed, but its query for exact scores was sent
        if self._rescore:
            m.d.comb += skip.eq(~good & self.i_order.p.rescore)
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
            does[2].eq(self.o.valid & self.o.ready & (self.o.p.last | skip)),
            fire.eq(self.i_order.valid & (done | does | Cat(0, ~good, ~(good | skip))).all()),
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
        source = Signal.like(row)
        m.d.comb += source.eq(row)
        if self._shared:
            m.d.comb += self.again.eq(self.i_order.p.shared & ~final)
            with m.If(self.i_order.p.shared):
                m.d.comb += source.eq(self._rows - 1)
        for index in range(self._rows):
            key = self.i[index]
            with m.If((source == index) & self.i_order.valid & good & ~done[2]):
                m.d.comb += [
                    self.o.valid.eq(key.valid),
                    self.o.p.index.eq(key.p.index),
                    self.o.p.distance.eq(key.p.distance),
                    self.o.p.last.eq(key.p.last),
                    key.ready.eq(self.o.ready),
                ]
        if self._rescore:
            m.d.comb += [
                self.o_command.p.rescore.eq(self.i_order.p.rescore),
                self.o_command.p.multiplier.eq(order.multiplier),
                self.o.p.rescore.eq(self.i_order.p.rescore),
                self.o.p.skip.eq(skip),
            ]
            with m.If(self.i_order.valid & skip & ~done[2]):
                m.d.comb += self.o.valid.eq(1)

        return m
