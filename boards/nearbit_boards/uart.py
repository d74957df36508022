"""UART: bytes on a wire, 8 data bits, no parity, one stop bit."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer  # type: ignore[import-untyped]
from amaranth.lib.wiring import In, Out


__all__ = ["Receiver", "Transmitter", "divisor"]


# A receiver samples its last bit 9.5 bit times after the start bit's edge, so half a bit of error
# is 5 %, shared by both ends and the edges' slopes.
_ERROR_MAX = 0.02

# With fewer, sampling the start bit's edge alone is off by more than a quarter of a bit.
_DIVISOR_MIN = 4


def divisor(clock: int, baud: int) -> int:
    """Cycles per bit, rounded.

    Parameters
    ----------
    clock
        Cycles per second.
    baud
        Bits per second.

    Raises
    ------
    ValueError
        The rounded rate differs by more than 2 %, or a bit has fewer than four cycles.
    """
    for name, value in (("Clock", clock), ("Baud", baud)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, not {value!r}")
    cycles = (clock + baud // 2) // baud
    if cycles < _DIVISOR_MIN:
        raise ValueError(f"Baud must be at most a {_DIVISOR_MIN}th of the clock ({clock} Hz), "
                         f"not {baud}")
    error = clock / cycles / baud - 1
    if abs(error) > _ERROR_MAX:
        raise ValueError(f"Baud must be within 2 % of what the clock ({clock} Hz) divides to, not "
                         f"{baud}, for which {clock // cycles} is nearest ({error:+.1%})")
    return cycles


def _check(cycles: int) -> None:
    if not isinstance(cycles, int) or cycles < _DIVISOR_MIN:
        raise ValueError(f"Divisor must be an integer of at least {_DIVISOR_MIN}, not {cycles!r}")


class Receiver(wiring.Component):
    """Receives bytes.

    The line is sampled in the middle of each bit, and a byte is presented for one cycle in the
    middle of its stop bit. A byte without a stop bit is dropped. After it, as after reset, the line
    must be high before a byte can begin. A pulse that ends before the middle of the start bit is
    ignored.

    Parameters
    ----------
    divisor : :class:`int`
        Cycles per bit, at least 4; see :func:`divisor`.

    Members
    -------
    rx : :py:`In(1)`
        The line; asynchronous.
    o : :py:`Out(stream.Signature(8, always_ready=True))`
        Bytes.
    error : :py:`Out(1)`
        High for one cycle in place of a byte without a stop bit.
    """

    rx: Signal
    o: stream.Interface
    error: Signal

    def __init__(self, divisor: int):
        _check(divisor)
        self._divisor = divisor
        super().__init__({
            "rx": In(1),
            "o": Out(stream.Signature(8, always_ready=True)),
            "error": Out(1),
        })

    @property
    def divisor(self) -> int:
        return self._divisor

    def elaborate(self, platform) -> Module:
        m = Module()

        line = Signal()
        m.submodules.synchronizer = FFSynchronizer(self.rx, line)

        # Cycles to the next sample. The synchronizer's delay is the same for all edges.
        wait = Signal(range(self._divisor))
        sample = Signal()
        m.d.comb += sample.eq(wait == 0)
        m.d.sync += wait.eq(Mux(sample, self._divisor - 1, wait - 1))

        # The highest bit of the initial value is shifted out as the last data bit enters.
        byte = Signal(8, init=0x80)
        m.d.comb += self.o.payload.eq(byte)
        with m.FSM():
            with m.State("Break"), m.If(line):
                m.next = "Idle"
            with m.State("Idle"):
                m.d.sync += [byte.eq(0x80), wait.eq(self._divisor // 2 - 1)]
                with m.If(~line):
                    m.next = "Start"
            with m.State("Start"), m.If(sample):
                m.next = "Data"
                with m.If(line):
                    m.next = "Idle"
            with m.State("Data"), m.If(sample):
                m.d.sync += byte.eq(Cat(byte[1:], line))
                with m.If(byte[0]):
                    m.next = "Stop"
            with m.State("Stop"), m.If(sample):
                m.d.comb += [self.o.valid.eq(line), self.error.eq(~line)]
                m.next = "Break"

        return m


class Transmitter(wiring.Component):
    """Sends bytes.

    A byte occupies the line for ten bits. Bytes follow each other without a gap if they are offered
    in time.

    Parameters
    ----------
    divisor : :class:`int`
        Cycles per bit, at least 4; see :func:`divisor`.

    Members
    -------
    i : :py:`In(stream.Signature(8))`
        Bytes.
    tx : :py:`Out(1)`
        The line.
    """

    i: stream.Interface
    tx: Signal

    def __init__(self, divisor: int):
        _check(divisor)
        self._divisor = divisor
        super().__init__({
            "i": In(stream.Signature(8)),
            "tx": Out(1),
        })

    @property
    def divisor(self) -> int:
        return self._divisor

    def elaborate(self, platform) -> Module:
        m = Module()

        # Cycles left of the bit, after this one.
        wait = Signal(range(self._divisor))
        over = Signal()
        m.d.comb += over.eq(wait == 0)
        # The lowest bit is on the line; the highest 1 is the stop bit.
        bits = Signal(10, init=1)
        m.d.comb += [self.tx.eq(bits[0]), self.i.ready.eq(over & (bits[1:] == 0))]
        with m.If(~over):
            m.d.sync += wait.eq(wait - 1)
        with m.Elif(self.i.valid | (bits[1:] != 0)):
            m.d.sync += wait.eq(self._divisor - 1)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += bits.eq(Cat(C(0, 1), self.i.payload, C(1, 1)))
        with m.Elif(over & (bits[1:] != 0)):
            m.d.sync += bits.eq(bits[1:])

        return m
