"""Lets words of codes that were read from memory pass as they are asked for."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import code_word_layout, word_layout
from nearbit_hw.memory.sizes import check_positive, check_power
from nearbit_model.structure import KEY_STORE_LATENCY


__all__ = ["CodeGate"]


class CodeGate(wiring.Component):
    """A :class:`nearbit_hw.score.KeyStore` whose words come from a :class:`CodeFetcher`.

    Requests and words come in the same order, each command's last ones with :py:`last`. A request
    that is accepted at cycle t, as soon as its word has come, presents it at cycle
    :py:`t + latency`; one per cycle. With a command's last word :py:`o_outcome` says whether any of
    them failed.

    Parameters
    ----------
    capacity, lanes, key_bits : :class:`int`
        As of :class:`nearbit_hw.score.KeyStore`.

    Members
    -------
    i : :py:`In(stream.Signature(StructLayout({"word": range(capacity // lanes), "last": 1})))`
        Words that are asked for.
    i_word : :py:`In(stream.Signature(StructLayout({"codes": ..., "last": 1, "failed": 1})))`
        Words that have come.
    o : :py:`Out(stream.Signature(StructLayout({"codes": ..., "last": 1})))`
        The same.
    o_outcome : :py:`Out(stream.Signature(StructLayout({"failed": 1})))`
        For each command, whether its codes could not be read.
    """

    i: stream.Interface
    i_word: stream.Interface
    o: stream.Interface
    o_outcome: stream.Interface

    def __init__(self, *, capacity: int, lanes: int, key_bits: int):
        check_positive(capacity=capacity, key_bits=key_bits)
        check_power(lanes=lanes)
        self._capacity = capacity
        self._lanes = lanes
        self._key_bits = key_bits
        super().__init__({
            "i": In(stream.Signature(word_layout(capacity=capacity, lanes=lanes))),
            "i_word": In(stream.Signature(
                code_word_layout(key_bits=key_bits, lanes=lanes, fetched=True))),
            "o": Out(stream.Signature(code_word_layout(key_bits=key_bits, lanes=lanes))),
            "o_outcome": Out(stream.Signature(data.StructLayout({"failed": 1}))),
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
        """Cycles from accepting a request to presenting its word, as of a key store: a register."""
        return KEY_STORE_LATENCY

    def elaborate(self, platform) -> Module:
        m = Module()
        word = self.i_word.p
        move, both, take = Signal(), Signal(), Signal()
        codes = Signal(word.codes.shape(), reset_less=True)
        last = Signal(reset_less=True)
        m.d.comb += [
            move.eq(~self.o.valid | self.o.ready),
            both.eq(self.i.valid & self.i_word.valid & move),
            self.o_outcome.valid.eq(both & word.last),
            self.o_outcome.p.failed.eq(word.failed),
            take.eq(both & (~word.last | self.o_outcome.ready)),
            self.i.ready.eq(take),
            self.i_word.ready.eq(take),
            self.o.p.codes.eq(codes),
            self.o.p.last.eq(last),
        ]
        with m.If(move):
            m.d.sync += [self.o.valid.eq(take), codes.eq(word.codes), last.eq(word.last)]
        return m
