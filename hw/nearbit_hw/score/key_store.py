"""Store of key codes, written one key at a time and read one word of lanes at a time."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import code_layout, code_word_layout, word_layout
from nearbit_hw.ram import block_ram
from nearbit_model.structure import KEY_STORE_LATENCY


__all__ = ["KeyStore"]


class KeyStore(wiring.Component):
    """Key codes in block RAM.

    Key :py:`token` is in lane :py:`token % lanes` of word :py:`token // lanes`. A write is accepted
    in every cycle. Words leave in the order of the requests, with :py:`last` of the request.

    The word of a request accepted at cycle t is presented at cycle :py:`t + latency`. Throughput is
    one request per cycle; a stall of the output holds the request after it. A code written at cycle
    t is visible to requests of cycle t + 1 or later; in a word requested at cycle t this code is
    undefined, and the others are as written. Reset drops the word presented; it does not touch the
    codes.

    Reference: the codes as given to :func:`nearbit_model.golden.attend`.

    Parameters
    ----------
    capacity : :class:`int`
        Keys held, a multiple of :py:`lanes`.
    lanes : :class:`int`
        Keys per word, a power of two.
    key_bits : :class:`int`
        Bits of a code. At least 1.

    Members
    -------
    i_write : :py:`In(stream.Signature(StructLayout({"token": range(capacity), "code": key_bits})))`
        A key's code; always ready.
    i : :py:`In(stream.Signature(StructLayout({"word": range(capacity // lanes), "last": 1})))`
        Words to read.
    o : :py:`Out(stream.Signature(StructLayout({"codes": ..., "last": 1})))`
        The codes of a word, lane 0 lowest.
    """

    i_write: stream.Interface
    i: stream.Interface
    o: stream.Interface

    def __init__(self, *, capacity: int, lanes: int, key_bits: int):
        if not isinstance(lanes, int) or lanes < 1 or lanes & (lanes - 1):
            raise TypeError(f"Lanes must be a power of two, not {lanes!r}")
        if not isinstance(capacity, int) or capacity < 1 or capacity % lanes:
            raise TypeError(f"Capacity must be a positive multiple of lanes, not {capacity!r}")
        if not isinstance(key_bits, int) or key_bits < 1:
            raise TypeError(f"Key bits must be a positive integer, not {key_bits!r}")
        self._capacity = capacity
        self._lanes = lanes
        self._key_bits = key_bits

        super().__init__({
            "i_write": In(stream.Signature(
                code_layout(capacity=capacity, key_bits=key_bits), always_ready=True)),
            "i": In(stream.Signature(word_layout(capacity=capacity, lanes=lanes))),
            "o": Out(stream.Signature(code_word_layout(key_bits=key_bits, lanes=lanes))),
        })

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def lanes(self) -> int:
        return self._lanes

    @property
    def key_bits(self) -> int:
        return self._key_bits

    @property
    def latency(self) -> int:
        """Cycles from accepting a request to presenting its word: block RAM."""
        return KEY_STORE_LATENCY

    def elaborate(self, platform) -> Module:
        m = Module()

        # The output register is the block RAM's own, which loads whenever it is free.
        advance = Signal()
        last = Signal(reset_less=True)
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance),
            self.o.p.last.eq(last),
        ]
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(self.i.valid), last.eq(self.i.p.last)]

        # One memory per lane, so that a write cannot disturb a read of the other lanes.
        lane_bits = len(Signal(range(self._lanes)))
        token = self.i_write.p.token
        for lane in range(self._lanes):
            m.submodules[f"lane_{lane}"] = codes = block_ram(
                shape=self._key_bits, depth=self._capacity // self._lanes)
            write, read = codes.write_port(), codes.read_port()
            m.d.comb += [
                write.addr.eq(token[lane_bits:]),
                write.data.eq(self.i_write.p.code),
                write.en.eq(self.i_write.valid & (token[:lane_bits] == lane)),
                read.addr.eq(self.i.p.word),
                read.en.eq(advance),
                self.o.p.codes[lane].eq(read.data),
            ]

        return m
