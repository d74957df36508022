"""A core behind its host link, and the same behind a UART."""

from typing import Any

from amaranth import *
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_boards.link import HostLink
from nearbit_boards.uart import Receiver, Transmitter, divisor
from nearbit_hw.core import Core
from nearbit_model.config import Config


__all__ = ["TIMEOUT_BYTES", "BoardTop", "LinkedCore"]


TIMEOUT_BYTES = 1024
"""Silence after which an incomplete request is dropped, in byte times; USB may hold bytes back for
some milliseconds."""


class _Core(Core):
    """A core that also exposes what its dispatcher counts as loaded."""

    def __init__(self, config: Config):
        super().__init__(config)
        self.loaded = Signal(range(config.capacity + 1))
        self.exp_tables_loaded = Signal(config.exp_tables)
        self.rescore_loaded = Signal(range(config.capacity + 1))

    def elaborate(self, platform) -> Module:
        m = super().elaborate(platform)
        dispatcher = m.submodules.dispatcher
        m.d.comb += [self.loaded.eq(dispatcher.loaded),
                     self.exp_tables_loaded.eq(dispatcher.exp_tables_loaded)]
        if self.config.rescore is not None:
            m.d.comb += self.rescore_loaded.eq(dispatcher.rescore_loaded)
        return m


class LinkedCore(wiring.Component):
    """A core behind its host link: bytes in, bytes out.

    Parameters
    ----------
    config, version, clock, timeout
        As for :class:`nearbit_boards.link.HostLink`.

    Members
    -------
    i : :py:`In(stream.Signature(8))`
        Bytes from the host.
    o : :py:`Out(stream.Signature(8))`
        Bytes to the host.
    lost : :py:`In(1)`
        High for one cycle for each byte that was lost before :py:`i`.
    activity, error : :py:`Out(1)`
        As of :class:`nearbit_boards.link.HostLink`.
    """

    i: stream.Interface
    o: stream.Interface
    lost: Signal
    activity: Signal
    error: Signal

    def __init__(self, config: Config, *, version: tuple[int, int, int] = (0, 0, 0),
                 clock: int = 1_000_000, timeout: int = 1 << 20):
        self._link = HostLink(config, version=version, clock=clock, timeout=timeout)
        super().__init__({
            "i": In(stream.Signature(8)),
            "o": Out(stream.Signature(8)),
            "lost": In(1),
            "activity": Out(1),
            "error": Out(1),
        })

    @property
    def config(self) -> Config:
        return self._link.config

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.link = link = self._link
        core = _Core(self.config)
        m.submodules.core = ResetInserter(link.reset_core)(core)

        for name in core.signature.members:
            ours = getattr(core, name)
            theirs = getattr(link, {"i": "o", "o": "i"}[name[0]] + name[1:])
            if name.startswith("i_"):
                wiring.connect(m, ours, theirs)
                continue
            # Buffers, so that no path leads from the transmitter through the link into the core.
            if name == "o_result":
                self._hold(m, link.reset_core, ours, theirs)
                continue
            # A trace must not pause, as the link would then go on to the result.
            buffer = fifo.SyncFIFO(width=Value.cast(ours.payload).shape().width, depth=2)
            m.submodules[f"{name}_buffer"] = ResetInserter(link.reset_core)(buffer)
            m.d.comb += [
                buffer.w_data.eq(ours.payload), buffer.w_en.eq(ours.valid),
                ours.ready.eq(buffer.w_rdy),
                Value.cast(theirs.payload).eq(buffer.r_data), theirs.valid.eq(buffer.r_rdy),
                buffer.r_en.eq(theirs.ready),
            ]
        m.d.comb += [link.loaded.eq(core.loaded), link.exp_tables_loaded.eq(core.exp_tables_loaded)]
        if self.config.rescore is not None:
            m.d.comb += link.rescore_loaded.eq(core.rescore_loaded)

        wiring.connect(m, wiring.flipped(self.i), link.i)
        wiring.connect(m, link.o, wiring.flipped(self.o))
        m.d.comb += [link.lost.eq(self.lost), self.activity.eq(link.activity),
                     self.error.eq(link.error)]
        return m

    def _hold(self, m: Module, reset: Signal, source: Any, target: Any) -> None:
        """Connect streams through a register that is free again in the cycle after it is read."""
        held = Signal()
        payload = Signal.like(Value.cast(source.payload), name="held_payload", reset_less=True)
        m.d.comb += [source.ready.eq(~held), target.valid.eq(held),
                     Value.cast(target.payload).eq(payload)]
        with m.If(reset):
            m.d.sync += held.eq(0)
        with m.Elif(~held):
            m.d.sync += [held.eq(source.valid), payload.eq(source.payload)]
        with m.Elif(target.ready):
            m.d.sync += held.eq(0)


class BoardTop(wiring.Component):
    """The design common to all boards: a core, its host link and a UART.

    Parameters
    ----------
    config : :class:`nearbit_model.Config`
        The core to build.
    clock : :class:`int`
        Cycles per second.
    baud : :class:`int`
        Bits per second; see :func:`nearbit_boards.uart.divisor`.
    version : :class:`tuple`
        Release of Nearbit, three integers from 0 to 255.
    timeout_bytes : :class:`int`
        Silence after which an incomplete request is dropped, in byte times.

    Members
    -------
    rx : :py:`In(1)`
        The line from the host; it may change at any time.
    tx : :py:`Out(1)`
        The line to the host.
    activity, error : :py:`Out(1)`
        As of :class:`nearbit_boards.link.HostLink`.
    """

    rx: Signal
    tx: Signal
    activity: Signal
    error: Signal

    def __init__(self, config: Config, *, clock: int, baud: int = 1_000_000,
                 version: tuple[int, int, int] = (0, 0, 0), timeout_bytes: int = TIMEOUT_BYTES):
        if not isinstance(timeout_bytes, int) or timeout_bytes < 2:
            raise ValueError(f"Timeout must be at least 2 bytes, not {timeout_bytes!r}")
        self._clock = clock
        self._baud = baud
        self._divisor = divisor(clock, baud)
        self._inner = LinkedCore(config, version=version, clock=clock,
                                 timeout=timeout_bytes * 10 * self._divisor)
        super().__init__({
            "rx": In(1),
            "tx": Out(1),
            "activity": Out(1),
            "error": Out(1),
        })

    @property
    def config(self) -> Config:
        return self._inner.config

    @property
    def clock(self) -> int:
        return self._clock

    @property
    def baud(self) -> int:
        return self._baud

    @property
    def divisor(self) -> int:
        """Cycles per bit."""
        return self._divisor

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.inner = inner = self._inner
        m.submodules.receiver = receiver = Receiver(self._divisor)
        m.submodules.transmitter = transmitter = Transmitter(self._divisor)
        # There is no flow control: a byte that the link cannot take is lost.
        m.d.comb += [
            inner.i.valid.eq(receiver.o.valid), inner.i.payload.eq(receiver.o.payload),
            inner.lost.eq(receiver.error | (receiver.o.valid & ~inner.i.ready)),
        ]
        wiring.connect(m, inner.o, transmitter.i)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx),
                     self.activity.eq(inner.activity), self.error.eq(inner.error)]
        return m
