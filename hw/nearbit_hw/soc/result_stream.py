"""The stream of results out of a SoC core."""

from typing import Any

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import Out

from nearbit_hw.core import core_members
from nearbit_hw.layouts import CacheError, Error
from nearbit_hw.soc.input_stream import beat_layout
from nearbit_hw.soc.registers import RegisterMap


__all__ = ["ResultStream"]


# How it works
# ------------
# Elements are written to their places in `packed`, one per cycle. When it is full, or the query at
# its end, it moves to `spare`, and from there to the output register. A header goes straight to the
# output register; it is due from the cycle after its query's first element on. As it passes by
# `spare`, it holds up no element, and each register needs no more than one place to come from.
#
# What moves without regard to `o.ready` may be seen by `i.ready`: `packed` moves if `spare` is
# empty, or moves itself because the output register is empty.

class ResultStream(wiring.Component):
    """Packs the core's results into beats, with a header before each query.

    A query's header is there two cycles after its first element was taken; a beat, :py:`latency`
    cycles after its last element was. Elements of a query of at least 8 are taken without a gap,
    one per cycle, as long as the output is not stalled. No path leads from :py:`o.ready` to
    :py:`i.ready`.

    Parameters
    ----------
    description : :class:`nearbit_hw.soc.registers.RegisterMap`
        The interface.

    Members
    -------
    i : :py:`In(stream.Signature(...))`
        The core's results.
    o : :py:`Out(stream.Signature(beat_layout(data_bits)))`
        Packets.
    waiting : :py:`Out(1)`
        Something that was taken is not out.
    """

    i: stream.Interface
    o: stream.Interface
    waiting: Signal

    def __init__(self, description: RegisterMap):
        if not isinstance(description, RegisterMap):
            raise TypeError(f"Description must be a RegisterMap, not {description!r}")
        self._description = description
        super().__init__({
            "i": core_members(description.config)["o_result"].flip(),
            "o": Out(stream.Signature(beat_layout(description.data_bits))),
            "waiting": Out(1),
        })

    @property
    def description(self) -> RegisterMap:
        return self._description

    @property
    def latency(self) -> int:
        """Cycles from a beat's last element to the beat."""
        return 3

    @property
    def _places(self) -> int:
        """Elements in a beat."""
        return self._description.data_bits // self._description.result_bits

    def elaborate(self, platform) -> Module:
        m = Module()
        config, bits = self._description.config, self._description.data_bits
        places, width = self._places, self._description.result_bits
        source: Any = self.i.p
        errors: Any = Error if config.memory is None else CacheError

        take, leave = Signal(), Signal() # into `packed`, and out of it
        first = Signal(init=1)           # the next element is its query's first
        place = Signal(range(places))
        packed, spare = Signal(bits, reset_less=True), Signal(bits, reset_less=True)
        packed_last, spare_last = Signal(reset_less=True), Signal(reset_less=True)
        packed_full, spare_full = Signal(), Signal()
        header = Signal()                # one is due
        header_first = Signal()          # it goes before `spare`
        error = Signal(errors, reset_less=True)
        query = Signal(len(source.query), reset_less=True)

        # ---- Packing.
        m.d.comb += [
            leave.eq(packed_full & (~spare_full | (~self.o.valid & ~(header & header_first)))),
            self.i.ready.eq((~packed_full | leave) & ~(header & first)),
            take.eq(self.i.valid & self.i.ready),
        ]
        good = source.error == errors.OK
        with m.If(leave):
            m.d.sync += packed_full.eq(0)
        with m.If(take):
            m.d.sync += [first.eq(source.last), packed_last.eq(source.last)]
            with m.If(good):
                m.d.sync += [place.eq(place + 1),
                             packed_full.eq(source.last | (place == places - 1))]
                with m.If(source.last):
                    m.d.sync += place.eq(0)
            for index in range(places):
                target = packed[width * index:width * (index + 1)]
                with m.If(place == index):
                    m.d.sync += target.eq(source.output)
                if config.value_dim % places:
                    with m.Elif(place == 0):
                        m.d.sync += target.eq(0)

        # ---- Sending.
        free, spare_goes, header_goes = Signal(), Signal(), Signal()
        m.d.comb += [
            free.eq(~self.o.valid | self.o.ready),
            spare_goes.eq(free & spare_full & ~(header & header_first)),
            header_goes.eq(free & header & (~spare_full | header_first)),
            self.waiting.eq(packed_full | spare_full | header | self.o.valid),
        ]
        with m.If(free):
            m.d.sync += self.o.valid.eq(spare_full | header)
        with m.If(spare_goes):
            m.d.sync += [spare_full.eq(0), self.o.p.data.eq(spare), self.o.p.last.eq(spare_last)]
        with m.If(header_goes):
            m.d.sync += [
                header.eq(0), header_first.eq(0), self.o.p.last.eq(error != errors.OK),
                self.o.p.data.eq(Cat(query, C(0, 8 - len(query)), error,
                                     C(0, 8 - self._description.query_error_bits),
                                     Mux(error == errors.OK, config.value_dim, 0)))]
        with m.If(leave):
            m.d.sync += [spare.eq(packed), spare_last.eq(packed_last), spare_full.eq(1),
                         header_first.eq(header & ~header_goes)]
        with m.If(take & first):
            m.d.sync += [header.eq(1), query.eq(source.query), error.eq(source.error)]
        return m
