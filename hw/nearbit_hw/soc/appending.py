"""Tokens that a SoC core appends to its memory, and when queries may see them."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import code_layout
from nearbit_hw.memory.appender import append_layout, appended_layout
from nearbit_hw.memory.cache_map import cache_map
from nearbit_model.config import Config


__all__ = ["Appending"]


class Appending(wiring.Component):
    """Hands tokens to the core, and raises the number of tokens when they are in memory.

    The core is not asked to raise the number itself: whether the row of a token is complete is not
    known when the token is handed over.

    A token is handed over in the cycle in which it comes. The number is raised in the cycle after
    the core has said that it is written, unless it is :py:`void`, or one since :py:`start` failed.

    Parameters
    ----------
    config : :class:`nearbit_model.config.Config`
        A configuration with a memory.

    Members
    -------
    start : :py:`In(1)`
        An operation starts, for one cycle.
    i : :py:`In(stream.Signature(code_layout(...)))`
        Tokens, with their codes.
    head, sequence : :py:`In(range(...))`, raises : :py:`In(1)`
        Which they are of, and whether the number of tokens is raised; they hold while
        :py:`busy`.
    void : :py:`In(1)`
        The token that was offered last is not complete, and none follows.
    o : :py:`Out(stream.Signature(append_layout(...)))`
        To the core.
    i_end : :py:`In(stream.Signature(appended_layout(), always_ready=True))`
        How a token ended.
    o_tokens : :py:`Out(stream.Signature(map.tokens_layout))`
        The number of tokens; to be taken at once.
    failed : :py:`Out(1)`
        A token was not written, for one cycle.
    busy : :py:`Out(1)`
        A token is being written, or the number raised.
    """

    start: Signal
    i: stream.Interface
    head: Signal
    sequence: Signal
    raises: Signal
    void: Signal
    o: stream.Interface
    i_end: stream.Interface
    o_tokens: stream.Interface
    failed: Signal
    busy: Signal

    def __init__(self, config: Config):
        sizes = cache_map(config)
        self._config = config
        super().__init__({
            "start": In(1),
            "i": In(stream.Signature(
                code_layout(capacity=config.capacity, key_bits=config.key_bits))),
            "head": In(range(sizes.heads)),
            "sequence": In(range(sizes.sequences)),
            "raises": In(1),
            "void": In(1),
            "o": Out(stream.Signature(append_layout(sizes, key_bits=config.key_bits))),
            "i_end": In(stream.Signature(appended_layout(), always_ready=True)),
            "o_tokens": Out(stream.Signature(sizes.tokens_layout)),
            "failed": Out(1),
            "busy": Out(1),
        })

    @property
    def config(self) -> Config:
        return self._config

    def elaborate(self, platform) -> Module:
        m = Module()
        token, tokens = self.o.p, self.o_tokens
        writing, broken = Signal(), Signal()
        number = Signal(range(self._config.capacity + 1), reset_less=True)
        m.d.comb += [
            token.head.eq(self.head),
            token.sequence.eq(self.sequence),
            token.token.eq(self.i.p.token),
            token.code.eq(self.i.p.code),
            self.o.valid.eq(self.i.valid),
            self.i.ready.eq(self.o.ready),
            tokens.p.sequence.eq(self.sequence),
            tokens.p.tokens.eq(number),
            self.failed.eq(self.i_end.valid & self.i_end.p.failed),
            self.busy.eq(writing | tokens.valid),
        ]
        with m.If(tokens.ready):
            m.d.sync += tokens.valid.eq(0)
        with m.If(self.i_end.valid):
            # While another one is offered, that is the one that is not complete.
            is_whole = ~self.void | self.i.valid
            m.d.sync += [writing.eq(0),
                         broken.eq(broken | self.i_end.p.failed),
                         tokens.valid.eq(~broken & ~self.i_end.p.failed & self.raises & is_whole)]
        with m.If(self.start):
            m.d.sync += broken.eq(0)
        with m.If(self.i.valid & self.o.ready):
            m.d.sync += [writing.eq(1), number.eq(self.i.p.token + 1)]
        return m
