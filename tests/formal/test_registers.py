# amaranth: UnusedElaboratable=no
"""AXI4-Lite and Wishbone answer each access once, in order, with what the registers said."""

from amaranth.hdl import C, Cat, Mux, Signal, Value

from nearbit_hw.soc.axi_lite import AxiLite
from nearbit_hw.soc.wishbone import Wishbone

from .harness import Claim, Mutation, Proof, needs_abc, prove


pytestmark = needs_abc


def count(claim, name, event):
    """Events before this cycle, modulo 4."""
    events = Signal(2, name=f"{name}_count")
    claim.m.d.sync += events.eq(events + event)
    return events


def said(claim, name, value, when):
    """What something was when it last happened."""
    kept = Signal(len(Value.cast(value)), name=f"{name}_said")
    with claim.m.If(when):
        claim.m.d.sync += kept.eq(value)
    return kept


def bus_holds(claim, bus):
    """What is asked of the registers is held until they have done it."""
    waits = claim.past(bus.valid & ~bus.done, "waits")
    asked = Cat(bus.write, bus.address, Mux(bus.write, Cat(bus.data, bus.strobe), 0))
    claim.check("accesses hold", ~waits | (bus.valid & (asked == claim.past(asked, "asked"))))


def axi_lite():
    dut = AxiLite()
    claim = Claim(dut)
    claim.attach(dut)
    bus = dut.bus
    done = bus.valid & bus.done
    came = {name: count(claim, name, getattr(dut, name).valid & getattr(dut, name).ready)
            for name in ("aw", "w", "ar", "b", "r")}
    writes = count(claim, "writes", done & bus.write)
    reads = count(claim, "reads", done & ~bus.write)

    # ---- An access for each request, and a response for each access.
    claim.check("a response to each write", (writes - came["b"])[:2] == dut.b.valid)
    claim.check("a response to each read", (reads - came["r"])[:2] == dut.r.valid)
    may_write = (came["aw"] != writes) & (came["w"] != writes)
    may_read = came["ar"] != reads
    claim.check("no access that was not asked for",
                ~bus.valid | Mux(bus.write, may_write, may_read))
    for name, accesses in (("aw", writes), ("w", writes), ("ar", reads)):
        claim.check(f"one {name} at a time", (came[name] - accesses)[:2] <= 1)

    # ---- Those of one turn, whichever, are what came in this turn.
    turn = claim.constant("turn", 2)
    for name, accesses, given in (
            ("aw", writes, bus.address), ("w", writes, Cat(bus.data, bus.strobe)),
            ("ar", reads, bus.address)):
        channel = getattr(dut, name)
        kept = said(claim, name, channel.payload,
                    channel.valid & channel.ready & (came[name] == turn))
        mine = bus.valid & (bus.write == (name != "ar")) & (accesses == turn)
        claim.check(f"accesses have their {name}", ~mine | (given == kept))
    response = Cat(C(0, 1), bus.error)
    claim.check("responses to writes", ~dut.b.valid | (
        dut.b.payload == said(claim, "b", response, done & bus.write)))
    claim.check("responses to reads", ~dut.r.valid | (
        Value.cast(dut.r.payload) == said(claim, "r", Cat(bus.answer, response),
                                          done & ~bus.write)))

    # ---- An access begins in the cycle after all of it has come, in turns.
    bus_holds(claim, bus)
    write, read = may_write & ~dut.b.valid, may_read & ~dut.r.valid
    idle = claim.past(~bus.valid, "idle")
    claim.check("accesses begin", ~idle | (bus.valid == claim.past(write | read, "may")))
    follows = claim.past(done & bus.write, "follows_a_write")
    claim.check("in turns", ~idle | ~claim.past(write & read, "both") | (
        bus.write == ~claim.past(follows, "follows")))

    claim.cover("a write is answered", dut.b.valid & dut.b.ready)
    claim.cover("the third read is answered", dut.r.valid & dut.r.ready & (reads == 3))
    return claim


def test_axi_lite(tmp_path):
    prove(Proof("AxiLite: each access once", "", axi_lite,
                {"a write is answered": 3, "the third read is answered": 9},
                Mutation(AxiLite.elaborate, "aw_full & w_full & ~self.b.valid",
                         "aw_full & w_full")), tmp_path)


def wishbone():
    dut = Wishbone()
    claim = Claim(dut)
    claim.attach(dut)
    wb, bus = dut.wb, dut.bus
    on, answers = wb.cyc & wb.stb, wb.ack | wb.err
    asked = Cat(on, wb.we, wb.adr, wb.sel, wb.dat_w)
    waits = claim.past(on & ~answers, "initiator_waits")
    claim.assume("the initiator holds", ~waits | (asked == claim.past(asked, "initiator")))

    done = bus.valid & bus.done
    claim.check("an answer to each access, in the next cycle",
                answers == claim.past(done, "done"))
    claim.check("none unless asked", ~answers | on)
    claim.check("one answer", ~(wb.ack & wb.err))
    claim.check("the error", ~answers | (wb.err == claim.past(bus.error, "error")))
    claim.check("the data", ~answers | (wb.dat_r == claim.past(bus.answer, "answer")))
    claim.check("no access while one is answered", ~bus.valid | ~answers)
    claim.check("the access", ~bus.valid | (on & (
        Cat(bus.write, bus.address, bus.strobe, bus.data) == asked[1:])))
    bus_holds(claim, bus)
    claim.cover("the second answer", wb.ack & (count(claim, "acks", answers) == 1))
    return claim


def test_wishbone(tmp_path):
    prove(Proof("Wishbone: each access once", "", wishbone, {"the second answer": 3},
                Mutation(Wishbone.elaborate, "wb.cyc & wb.stb & ~answered",
                         "wb.cyc & wb.stb")), tmp_path)
