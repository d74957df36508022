# amaranth: UnusedElaboratable=no
import re
from dataclasses import replace

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.memory import BlockFifo

from .harness import Claim, Mutation, Proof, Refuted, Undecided, Vacuous, mutate, needs_abc, prove


pytestmark = needs_abc


class Counter(wiring.Component):
    """Counts up to a limit while it is enabled."""

    enable: Signal
    count: Signal

    def __init__(self):
        super().__init__({"enable": In(1), "count": Out(4)})

    def elaborate(self, platform):
        m = Module()
        with m.If(self.enable & (self.count < 9)):
            m.d.sync += self.count.eq(self.count + 1)
        return m


LIMIT = Mutation(Counter.elaborate, "self.count < 9", "self.count < 12")


def counter(highest=9, cover=3, assumed=None):
    def make():
        dut = Counter()
        claim = Claim(dut)
        claim.attach(dut)
        claim.check("limit", dut.count <= highest)
        claim.cover("some", dut.count == cover)
        if assumed is not None:
            claim.assume("what is wrong", assumed(claim, dut))
        return claim

    return Proof("counter", "4 bits", make, covers={"some": cover}, mutation=LIMIT)


def test_proves(tmp_path):
    prove(counter(), tmp_path)
    assert Counter.elaborate.__code__.co_filename == __file__ # The mutation is gone.


@pytest.mark.parametrize("cycles", [None, 12])
def test_finds_a_fault(tmp_path, cycles):
    proof = replace(counter(highest=6), cycles=cycles)
    message = r"^counter: 'limit' fails in cycle 7; the trace is "
    with pytest.raises(Refuted, match=message) as found:
        prove(proof, tmp_path)
    trace = found.value.trace
    assert str(trace) in str(found.value)
    text = trace.read_text()
    count = re.search(r"\$var \w+ 4 (\S+) count ", text)
    assert count is not None
    assert f"b111 {count[1]}\n" in text.replace("b0111", "b111")


def test_a_bound_is_a_bound(tmp_path):
    """The fault is in cycle 7: eight cycles show it, seven do not."""
    found = counter(highest=6)
    with pytest.raises(Refuted):
        prove(replace(found, cycles=8), tmp_path / "eight")
    with pytest.raises(Vacuous, match=r"refutes nothing$"):
        prove(replace(found, cycles=7), tmp_path / "seven")


@pytest.mark.parametrize(("proof", "message"), [
    (counter(assumed=lambda claim, dut: dut.count < 2),
     r"^counter: cover 'some' is not reached in cycle 3 but much later or never$"),
    (counter(assumed=lambda claim, dut: claim.rst & ~claim.rst),
     r"^counter: no register has to do with what is asked of cover_0$"),
    (replace(counter(), covers={"some": 4}),
     r"^counter: cover 'some' is not reached in cycle 4 but in 3$"),
    (replace(counter(), covers={}),
     r"^counter: the claim must have checks, and the proof's covers \[\], not \['some'\]$"),
    (replace(counter(), mutation=None),
     r"^counter: no mutation shows that the proof can fail$"),
    (counter(highest=12),
     r"^counter: 'self.count < 12' instead of 'self.count < 9' refutes nothing$"),
], ids=["assumed away", "contradiction", "late cover", "no cover", "no mutation", "weak check"])
def test_refuses_what_means_nothing(tmp_path, proof, message):
    with pytest.raises(Vacuous, match=message):
        prove(proof, tmp_path)


class Factors(wiring.Component):
    """Multiplies."""

    def __init__(self):
        super().__init__({"a": In(40), "b": In(40), "product": Out(80)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.product.eq(self.a * self.b)
        return m


def test_running_out_of_time_is_a_failure(tmp_path):
    def make():
        dut = Factors()
        claim = Claim(dut)
        claim.attach(dut)
        claim.assume("factors", (dut.a > 1) & (dut.b > 1) & (dut.a <= dut.b))
        claim.check("a prime", dut.product != 1_000_000_007 * 998_244_353 + 6)
        claim.cover("any", dut.product == 36)
        return claim

    proof = Proof("factors", "40 bits", make, covers={"any": 1},
                  mutation=Mutation(Factors.elaborate, "*", "+"), seconds=1)
    with pytest.raises(Undecided, match=r"^factors: \w+.* takes more than 1 s of processor time$"):
        prove(proof, tmp_path)


class Hasty(wiring.Component):
    """A stream that takes its payload back when nobody takes it."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(1)), "o": Out(stream.Signature(1))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(self.o.ready)
        m.d.sync += [self.o.valid.eq(self.i.valid & self.i.ready),
                     self.o.payload.eq(self.i.payload)]
        return m


def test_rules_of_streams(tmp_path):
    def make():
        dut = Hasty()
        claim = Claim(dut)
        claim.attach(dut)
        claim.cover("taken", dut.o.valid & dut.o.ready)
        return claim

    with pytest.raises(Refuted, match=r"^hasty: 'o holds' fails in cycle 2; "):
        prove(Proof("hasty", "1 bit", make, covers={"taken": 1},
                    mutation=Mutation(Hasty.elaborate, "self.i.valid & ", "")), tmp_path)


def test_mutations_are_exact():
    message = r"^Counter.elaborate must have 'count' once, not 3 times$"
    with (pytest.raises(ValueError, match=message),
          mutate(Counter.elaborate, "count", "limit")):
        pass


def test_memories(tmp_path):
    """A payload, whichever, comes out of a queue in its turn."""
    def make():
        dut = BlockFifo(2, depth=2)
        claim = Claim(dut)
        claim.attach(dut)
        turn = claim.constant("turn", 2)
        put, got = Signal(2), Signal(2)
        with claim.m.If(dut.i.valid & dut.i.ready):
            claim.m.d.sync += put.eq(put + 1)
        with claim.m.If(dut.o.valid & dut.o.ready):
            claim.m.d.sync += got.eq(got + 1)
        kept = Signal(2)
        with claim.m.If(dut.i.valid & dut.i.ready & (put == turn)):
            claim.m.d.sync += kept.eq(dut.i.payload)
        claim.check("order", ~dut.o.valid | (got != turn) | (dut.o.payload == kept))
        claim.cover("second", dut.o.valid & (got == 2) & (turn == 2) & (dut.o.payload == 3))
        return claim

    prove(Proof("queue", "2 places of 2 bits", make, covers={"second": 5},
                mutation=Mutation(BlockFifo.elaborate, "free != 0", "free + 1 != 0")), tmp_path)
