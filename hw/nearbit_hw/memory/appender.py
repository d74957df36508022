"""Writes tokens into a cache in memory."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory.axi import BOUNDARY_BYTES, ERROR_BIT, WriteSignature, split_burst
from nearbit_hw.memory.cache_map import CacheMap, Lookup
from nearbit_hw.memory.code_fetcher import code_bits
from nearbit_hw.memory.row_port import check_row_beats
from nearbit_hw.memory.sizes import check_positive, log2
from nearbit_hw.memory.watchdog import Watchdog


__all__ = ["Appender", "append_layout", "appended_layout"]


def append_layout(sizes: CacheMap, *, key_bits: int) -> data.StructLayout:
    """Layout of a token to be appended; with :py:`raises` the number of tokens is raised to it."""
    return data.StructLayout({
        "head": range(sizes.heads),
        "sequence": range(sizes.sequences),
        "token": range(sizes.capacity),
        "code": key_bits,
        "raises": 1,
    })


def appended_layout() -> data.StructLayout:
    """Layout of how a token ended."""
    return data.StructLayout({"failed": 1})


# How it works
# ------------
# One token after another: its page is looked up, its code is a burst, its row another one or two,
# and when all of them were acknowledged the number of tokens is raised. A burst is an address in
# the register of `aw`, and `left` beats that go through the register of `w`.
#
# A token that is given up is answered at once. What AXI4 does not let it take back goes on beside:
# the address stays, and the beats that are left are sent with no byte enabled.

class Appender(wiring.Component):
    """Writes the code and the row of tokens into memory, and raises the number of tokens after.

    A token comes as its code, and as :py:`row_beats` beats of its row, which go to memory as they
    are (:class:`CacheMap` says where). When the memory has acknowledged both, and :py:`raises` is
    1, the sequence's number of tokens becomes :py:`token + 1`. So whoever sees the number finds
    what is behind it; who appends to several heads raises with the last one. Then :py:`o` says how
    it ended, in the order of the tokens.

    One token at a time, its row's beats at one per cycle. A token that is accepted at cycle t, and
    looked up at once, has its first address on the bus at cycle t + 4. Nothing else is read or
    written; of a code's beat only the code's bytes are.

    **Faults.** A token failed if its page, or the head, could not be looked up; if a write ended in
    SLVERR or DECERR; or if the memory, while it owed anything, was silent for :py:`timeout` cycles.
    Then the number is not raised; what was written of the token is undefined. The beats of its row
    are taken in any case. The next token is begun when the memory owes nothing, and fails as well
    while the silence goes on.

    Reset forgets all; the memory must be reset with it.

    Parameters
    ----------
    map : :class:`CacheMap`
        Where codes and rows are.
    key_bits : :class:`int`
        Bits of a code. At least 5: a code has whole bytes.
    row_beats : :class:`int`
        Beats of a row. At least 1.
    timeout_bits : :class:`int`
        Bits of :py:`timeout`. At least 1.

    Members
    -------
    i : :py:`In(stream.Signature(StructLayout({"head": ..., "sequence": ..., "token": ..., \
"code": key_bits, "raises": 1})))`
        Tokens.
    i_row : :py:`In(stream.Signature(data_bits))`
        The beats of their rows.
    o_lookup : :py:`Out(stream.Signature(map.request_layout))`
        Look-ups of :class:`PlaceTable`.
    i_lookup : :py:`In(stream.Signature(map.answer_layout, always_ready=True))`
        Their answers.
    axi : :py:`Out(WriteSignature(...))`
        To the memory.
    o_tokens : :py:`Out(stream.Signature(map.tokens_layout))`
        Numbers of tokens, for :class:`PlaceTable`.
    o : :py:`Out(stream.Signature(StructLayout({"failed": 1})))`
        How each token ended.
    timeout : :py:`In(timeout_bits)`
        Cycles of silence, as of :class:`Watchdog`.
    """

    i: stream.Interface
    i_row: stream.Interface
    o_lookup: stream.Interface
    i_lookup: stream.Interface
    axi: Any
    o_tokens: stream.Interface
    o: stream.Interface
    timeout: Signal

    def __init__(self, map: CacheMap, *, key_bits: int, row_beats: int, # noqa: A002
                 timeout_bits: int = 16):
        if not isinstance(map, CacheMap):
            raise TypeError(f"Map must be a CacheMap, not {map!r}")
        check_positive(key_bits=key_bits, timeout_bits=timeout_bits)
        check_row_beats(row_beats, map.data_bits)
        if key_bits < 5:
            raise ValueError(f"Key bits must be at least 5, not {key_bits}: of a byte in memory, "
                             f"no part can be written alone")
        self._map = map
        self._key_bits = key_bits
        self._row_beats = row_beats
        self._timeout_bits = timeout_bits

        super().__init__({
            "i": In(stream.Signature(append_layout(map, key_bits=key_bits))),
            "i_row": In(stream.Signature(map.data_bits)),
            "o_lookup": Out(stream.Signature(map.request_layout)),
            "i_lookup": In(stream.Signature(map.answer_layout, always_ready=True)),
            "axi": Out(WriteSignature(address_bits=map.address_bits, data_bits=map.data_bits)),
            "o_tokens": Out(stream.Signature(map.tokens_layout)),
            "o": Out(stream.Signature(appended_layout())),
            "timeout": In(timeout_bits),
        })

    @property
    def map(self) -> CacheMap:
        return self._map

    @property
    def key_bits(self) -> int:
        return self._key_bits

    @property
    def row_beats(self) -> int:
        return self._row_beats

    @property
    def timeout_bits(self) -> int:
        return self._timeout_bits

    @property
    def code_bits(self) -> int:
        """Bits that a code takes in memory."""
        return code_bits(self._key_bits)

    @property
    def latency(self) -> int:
        """Cycles from a token to its first address: look-up, answer, product, sum."""
        return 4

    def elaborate(self, platform) -> Module:
        m = Module()
        sizes = self._map
        aw, w, b = self.axi.aw, self.axi.w, self.axi.b
        answer = self.i_lookup.p
        beat_bits = log2(sizes.data_bytes)
        code_beats = max(1, self.code_bits // sizes.data_bits)
        beats_max = max(code_beats, self._row_beats)
        m.submodules.watchdog = watchdog = Watchdog(limit=3, timeout_bits=self._timeout_bits)

        token: Any = Signal(self.i.payload.shape(), reset_less=True)
        failed = Signal(reset_less=True)
        rows_left = Signal(range(self._row_beats + 1))
        left = Signal(range(beats_max + 1))
        quiet, may_load, loads, begins = Signal(), Signal(), Signal(), Signal()
        pads, waits = Signal(), Signal()
        m.d.comb += [
            quiet.eq(watchdog.none & (left == 0) & ~w.valid),
            may_load.eq(~w.valid | w.ready),
            b.ready.eq(1),
            watchdog.timeout.eq(self.timeout),
            watchdog.begin.eq(begins),
            watchdog.end.eq(b.valid),
            # While the row does not come, the memory has nothing to answer.
            watchdog.beat.eq(b.valid | (aw.valid & aw.ready) | (w.valid & w.ready) | waits),
        ]
        with m.If(b.valid & b.p.resp[ERROR_BIT]):
            m.d.sync += failed.eq(1)

        code_address, row_address = self._addresses(m, token.token)
        first_less_one, rest_less_one, is_split = split_burst(
            m, row_address, beats=self._row_beats, data_bits=sizes.data_bits)

        # ---- Registers of the bus.
        address = Signal(sizes.address_bits, reset_less=True)
        less_one = Signal(8, reset_less=True)
        word = Signal(sizes.data_bits, reset_less=True)
        strobe = Signal(sizes.data_bytes, reset_less=True)
        last = Signal(reset_less=True)
        m.d.comb += [aw.p.addr.eq(address), aw.p.len.eq(less_one), w.p.data.eq(word),
                     w.p.strb.eq(strobe), w.p.last.eq(last)]
        with m.If(aw.ready):
            m.d.sync += aw.valid.eq(0)
        with m.If(w.ready):
            m.d.sync += w.valid.eq(0)
        with m.If(loads):
            m.d.sync += [w.valid.eq(1), left.eq(left - 1), last.eq(left == 1)]

        def begin(at: Any, beats_less_one: Any) -> None:
            m.d.comb += begins.eq(1)
            m.d.sync += [aw.valid.eq(1), address.eq(at), less_one.eq(beats_less_one),
                         left.eq(beats_less_one + 1)]

        def give_up() -> None:
            with m.If(watchdog.expired):
                m.d.sync += failed.eq(1)
                m.next = "discard"

        # ---- One token after another.
        again = Signal()
        low = log2(BOUNDARY_BYTES)
        with m.FSM():
            with m.State("idle"):
                m.d.comb += [pads.eq(1), self.i.ready.eq(quiet | watchdog.expired)]
                with m.If(self.i.valid & self.i.ready):
                    m.d.sync += [token.eq(self.i.payload), failed.eq(~quiet), again.eq(0),
                                 rows_left.eq(self._row_beats)]
                    m.next = "discard"
                    with m.If(quiet):
                        m.next = "look up"
            with m.State("look up"):
                m.d.comb += [
                    self.o_lookup.valid.eq(1),
                    self.o_lookup.p.head.eq(token.head),
                    self.o_lookup.p.page.sequence.eq(token.sequence),
                    self.o_lookup.p.page.index.eq(sizes.index_of(token.token)),
                ]
                with m.If(self.o_lookup.ready):
                    m.next = "answer"
            with m.State("answer"), m.If(self.i_lookup.valid):
                m.next = "code"
                with m.If(answer.error != Lookup.OK):
                    m.d.sync += failed.eq(1)
                    m.next = "discard"
            with m.State("code"):
                begin(Cat(C(0, beat_bits), code_address[beat_bits:]), code_beats - 1)
                m.next = "code beats"
            with m.State("code beats"):
                m.d.comb += loads.eq(may_load)
                with m.If(loads):
                    self._load_code(m, token.code, code_address, left, word, strobe)
                with m.If(loads & (left == 1)):
                    m.next = "row"
                give_up()
            with m.State("row"):
                with m.If(~aw.valid):
                    begin(Mux(again, Cat(C(0, low), row_address[low:] + 1), row_address),
                          Mux(again, rest_less_one, first_less_one))
                    m.next = "row beats"
                give_up()
            with m.State("row beats"):
                m.d.comb += [self.i_row.ready.eq(may_load), waits.eq(~self.i_row.valid),
                             loads.eq(self.i_row.valid & may_load)]
                with m.If(loads):
                    m.d.sync += [word.eq(self.i_row.payload), strobe.eq(~0),
                                 rows_left.eq(rows_left - 1)]
                    with m.If(left == 1):
                        m.d.sync += again.eq(1)
                        m.next = "acknowledge"
                        with m.If(is_split & ~again):
                            m.next = "row"
                give_up()
            with m.State("acknowledge"):
                with m.If(watchdog.none):
                    m.next = "respond"
                    with m.If(token.raises & ~failed):
                        m.next = "raise"
                give_up()
            with m.State("raise"):
                m.d.comb += [
                    self.o_tokens.valid.eq(1),
                    self.o_tokens.p.sequence.eq(token.sequence),
                    self.o_tokens.p.tokens.eq(token.token + 1),
                ]
                with m.If(self.o_tokens.ready):
                    m.next = "respond"
            with m.State("discard"):
                m.d.comb += [pads.eq(1), self.i_row.ready.eq(rows_left != 0)]
                with m.If(self.i_row.valid & self.i_row.ready):
                    m.d.sync += rows_left.eq(rows_left - 1)
                with m.If(rows_left == 0):
                    m.next = "respond"
            with m.State("respond"):
                m.d.comb += [pads.eq(1), self.o.valid.eq(1), self.o.p.failed.eq(failed)]
                with m.If(self.o.ready):
                    m.next = "idle"

        with m.If(pads & (left != 0) & may_load):
            m.d.comb += loads.eq(1)
            m.d.sync += strobe.eq(0)
        return m

    def _addresses(self, m: Module, token: Value) -> tuple[Value, Value]:
        """Addresses of the code and the row of a token whose page was looked up.

        That of the row is there two cycles after the answer.
        """
        answer = self.i_lookup.p
        sizes = self._map
        entry: Any = Signal(sizes.head_layout, reset_less=True)
        place = Signal(range(sizes.pages * sizes.page_tokens), reset_less=True)
        product = Signal(len(entry.rows), reset_less=True)
        m.d.sync += product.eq(place * entry.stride)
        with m.If(self.i_lookup.valid):
            m.d.sync += [entry.eq(answer.head),
                         place.eq(Cat(sizes.offset_of(token), answer.page))]
        unit = log2(sizes.burst_bytes)
        code_place = Cat(C(0, log2(self.code_bits // 8)), place)
        # All pages may be less than the unit of bases.
        code_place = Cat(code_place, C(0, max(0, unit - len(code_place))))
        code_address = Cat(code_place[:unit], (entry.codes + code_place[unit:])[:len(entry.codes)])
        row_address = Signal(sizes.address_bits)
        m.d.comb += row_address.eq(Cat(C(0, log2(sizes.row_unit)),
                                       (entry.rows + product)[:len(entry.rows)]))
        return code_address, row_address

    def _load_code(self, m: Module, code: Value, address: Value, left: Signal, word: Signal,
                   strobe: Signal) -> None:
        """Put a code's next beat into the register of the bus."""
        data_bits, width = self._map.data_bits, self.code_bits
        padded = Cat(code, C(0, width - self._key_bits))
        if width < data_bits:
            lane = address[log2(width // 8):log2(data_bits // 8)]
            m.d.sync += [word.eq(padded.replicate(data_bits // width)),
                         strobe.eq(((1 << width // 8) - 1) << (lane * (width // 8)))]
        else:
            count = width // data_bits
            beat = (count - left)[:log2(count)]
            m.d.sync += [word.eq(padded.word_select(beat, data_bits) if count > 1 else padded),
                         strobe.eq(~0)]
