# amaranth: UnusedElaboratable=no
"""What reads and writes a memory obeys AXI4, and has a place for all that the memory gives.

The memory is anything that AXI4 allows: it takes addresses and answers whenever it likes, or never,
in order for each ID. Look-ups have any answer at any time.
"""

from itertools import pairwise

from amaranth.hdl import Mux, Signal

from nearbit_hw.memory import Appender, CacheMap, CodeFetcher, RowPort
from nearbit_hw.memory.axi import split_burst

from .harness import Claim, Mutation, Proof, needs_abc, prove
from .neighbours import answered


pytestmark = needs_abc

MAP = CacheMap(heads=1, sequences=1, capacity=8, page_tokens=4, pages=2, address_bits=13,
               data_bits=8, burst_bytes=16, stride_bits=1)


def looks_up(claim, dut):
    """The component asks for one look-up at a time."""
    asked = answered(claim, dut)
    claim.check("one look-up at a time", ~asked | ~dut.o_lookup.valid)


def bursts_stay(claim, address, data_bytes, name):
    """No burst crosses 4 KiB, or begins within a beat."""
    at = address.p.addr[:12]
    claim.check(f"{name}: no burst crosses 4 KiB",
                ~address.valid | (at + (address.p.len + 1) * data_bytes <= 4096))
    claim.check(f"{name}: bursts are of whole beats", ~address.valid | (at % data_bytes == 0))


def owed(claim, rule, *, opens, last, beats, limit, name, moves):
    """Rule that beats are those of bursts in their order; gives how many bursts are owed.

    The claim is that these are never more than the limit.
    """
    m = claim.m
    count = Signal(range(limit + 2), name=f"{name}_owed")
    lengths = [Signal(len(beats), name=f"{name}_length_{place}") for place in range(limit)]
    is_last = lengths[0] == 0
    rule(f"{name}: only what is owed", ~moves | (count != 0))
    if last is not None:
        rule(f"{name}: last beats are marked", ~moves | (last == is_last))
    closes = moves & is_last
    claim.check(f"{name}: no more bursts than allowed", ~opens | (count < limit))
    m.d.sync += count.eq(count + opens - closes)
    with m.If(moves & ~is_last):
        m.d.sync += lengths[0].eq(lengths[0] - 1)
    with m.If(closes):
        m.d.sync += [length.eq(following) for length, following in pairwise(lengths)]
    place = (count - closes)[:len(count)]
    with m.If(opens):
        for number, length in enumerate(lengths):
            with m.If(place == number):
                m.d.sync += length.eq(beats)
    return count


def count_of(claim, name, event):
    events = Signal(2, name=f"{name}_count")
    claim.m.d.sync += events.eq(events + event)
    return events


def code_fetcher():
    dut = CodeFetcher(MAP, key_bits=8, lanes=1, depth=8, outstanding=3, commands=2,
                      timeout_bits=2)
    claim = Claim(dut)
    claim.attach(dut, skip=("o_lookup",))
    looks_up(claim, dut)
    # A look-up that nobody has taken yet is withdrawn when the memory is given up, or in the next
    # cycle, if its command came just then.
    claim.m.d.comb += dut.o_lookup.ready.eq(claim.free("o_lookup_ready"))
    expired = claim.past(claim.inside.submodules.watchdog.expired, "expired")
    claim.check("o_lookup holds until the memory is given up",
                claim.holds(dut.o_lookup, "o_lookup") | expired | claim.past(expired, "earlier"))
    command = dut.i.p
    claim.assume("commands", ~dut.i.valid | (
        (command.count != 0) & (command.first + command.count <= MAP.capacity)))
    ar, r = dut.axi.ar, dut.axi.r
    bursts_stay(claim, ar, 1, "ar")
    takes = r.valid & r.ready
    count = owed(claim, claim.assume, opens=ar.valid & ar.ready, last=r.p.last,
                 beats=ar.p.len, limit=3, name="r", moves=takes)
    claim.check("responses are always taken", r.ready)

    beats = claim.inside.submodules.beats
    inside = Signal(range(2 * beats.depth))
    puts, leaves = beats.i.valid, beats.o.valid & beats.o.ready
    claim.m.d.sync += inside.eq(inside + puts - leaves)
    claim.check("each beat has a place", ~puts | (inside < beats.depth))
    claim.cover("the last place is needed", puts & (inside == beats.depth - 1))
    claim.cover("as many bursts as allowed", count == 3)
    claim.cover("a command is answered", dut.o.valid & dut.o.ready & dut.o.p.last
                & ~dut.o.p.failed)
    return claim


def test_code_fetcher(tmp_path):
    prove(Proof("CodeFetcher: obeys AXI4, beats have a place",
                "bursts of 4 beats, 8 places, 3 bursts, 2 commands", code_fetcher,
                {"the last place is needed": 12, "as many bursts as allowed": 12,
                 "a command is answered": 7},
                Mutation(CodeFetcher.elaborate, "room > issue.less_one",
                         "room >= issue.less_one"), cycles=15), tmp_path)


def row_port(row_beats=2):
    dut = RowPort(positions=1, row_beats=row_beats, address_bits=13, data_bits=8, id_bits=1,
                  timeout_bits=2)
    claim = Claim(dut)
    claim.attach(dut, skip=("clear",))
    claim.m.d.comb += dut.clear.eq(claim.free("clear") & dut.idle & dut.settled)
    claim.assume("what is given up is cleared",
                 ~claim.past(dut.give_up & ~dut.clear, "give_up") | dut.give_up)
    claim.assume("no row comes while the port is cleared", ~dut.clear | ~dut.i.valid)
    ar, r = dut.axi.ar, dut.axi.r
    bursts_stay(claim, ar, 1, "ar")
    takes = r.valid & r.ready
    for number in range(2):
        # A row is a burst or two.
        owed(claim, claim.assume, opens=ar.valid & ar.ready & (ar.p.id == number), last=None,
             beats=ar.p.len, limit=2, name=f"id_{number}", moves=takes & (r.p.id == number))
    claim.check("responses are always taken", r.ready)

    # ---- A row comes once, and is told of once.
    m = claim.m
    accepts = dut.i.valid & dut.i.ready
    rows = Signal(range(4))
    m.d.sync += rows.eq(rows + accepts - dut.o_arrived.valid)
    claim.check("no more rows than IDs", ~accepts | (rows < 2))
    claim.check("no row is told of that is not in work", ~dut.o_arrived.valid | (rows != 0))
    claim.check("idle", dut.idle == (rows == 0))
    claim.cover("a row that crosses 4 KiB has come",
                dut.o_arrived.valid & ~dut.o_arrived.p.failed
                & (count_of(claim, "bursts", ar.valid & ar.ready) == 2))
    claim.cover("two rows", rows == 2)
    return claim


def test_row_port(tmp_path):
    prove(Proof("RowPort: obeys AXI4, rows are told of once", "rows of 2 beats, 2 IDs", row_port,
                {"a row that crosses 4 KiB has come": 6, "two rows": 5},
                Mutation(split_burst, "beats - 2 - room", "beats - 3 - room")), tmp_path)


def appender():
    dut = Appender(MAP, key_bits=16, row_beats=2, timeout_bits=2)
    claim = Claim(dut)
    claim.attach(dut)
    looks_up(claim, dut)
    aw, w, b = dut.axi.aw, dut.axi.w, dut.axi.b
    m = claim.m
    bursts_stay(claim, aw, 1, "aw")

    # ---- Bursts whose address was offered; beats may come before the address is taken.
    new = aw.valid & ~claim.past(aw.valid & ~aw.ready, "aw_waited")
    begun, written, answers, taken = (Signal(3, name=name) for name in
                                      ("begun", "written", "answers", "taken"))
    takes = w.valid & w.ready
    m.d.sync += [begun.eq(begun + new), taken.eq(taken + (aw.valid & aw.ready)),
                 written.eq(written + (takes & w.p.last)), answers.eq(answers + b.valid)]
    owed(claim, claim.check, opens=new, last=w.p.last, beats=aw.p.len, limit=2, name="w",
         moves=takes)
    # An answer needs the address and all beats.
    done = Mux(((taken - answers)[:3]) < ((written - answers)[:3]), taken, written)
    claim.assume("only answers that are owed", ~b.valid | (done != answers))
    claim.check("answers are always taken", b.ready)
    claim.check("at most three unanswered", (begun - answers)[:3] <= 3)

    # ---- A token raises the number after all was acknowledged well, and is told of once.
    work = Signal()
    accepts, ends = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready
    m.d.sync += work.eq((work | accepts) & ~ends)
    claim.check("one token at a time", ~dut.i.ready | ~work)
    claim.check("each is told of once", ~dut.o.valid | work)
    bad = Signal()
    with m.If(accepts):
        m.d.sync += bad.eq(0)
    with m.Elif(b.valid & b.p.resp[1]):
        m.d.sync += bad.eq(1)
    claim.check("the number is raised when all is acknowledged",
                ~dut.o_tokens.valid | ((begun == answers) & ~bad & work))
    claim.check("success is told when all is acknowledged",
                ~dut.o.valid | dut.o.p.failed | ((begun == answers) & ~bad))
    claim.cover("a token with a row that crosses 4 KiB", dut.o.valid & ~dut.o.p.failed
                & (begun == 3))
    return claim


def test_appender(tmp_path):
    prove(Proof("Appender: obeys AXI4, raises the number last", "codes of 2 beats, rows of 2",
                appender, {"a token with a row that crosses 4 KiB": 22},
                Mutation(Appender.elaborate, "m.If(~aw.valid)", "m.If(1)")), tmp_path)
