# amaranth: UnusedElaboratable=no
"""The dispatcher does what its documentation says, whatever comes and whenever it is taken.

What it should do is written anew here, in plain arithmetic and without its short cuts.
"""

import pytest
from amaranth.hdl import C, Cat, Const, Mux, Signal, Value

from nearbit_hw.dispatcher import Dispatcher
from nearbit_hw.layouts import CacheError, Error
from nearbit_hw.memory import CacheMap, Lookup

from .harness import Claim, Mutation, Proof, needs_abc, prove


pytestmark = needs_abc


def type_of(dut):
    return CacheError if hasattr(dut, "lookup") else Error


def codes_of(*, in_memory, rescores):
    """What the dispatcher can find; the others are found out by who reads keys and values."""
    never = {"CODES", "ROWS", "RESCORE" if rescores else "SHARED"}
    return [code for code in (CacheError if in_memory else Error) if code.name not in never]


def expected_error(dut, fields):
    """The first of these that is the case."""
    command = dut.i.p
    readable = dut.loaded
    in_memory = hasattr(dut, "lookup")
    if hasattr(dut, "rescore_loaded"):
        less = Mux(dut.rescore_loaded < dut.loaded, dut.rescore_loaded, dut.loaded)
        readable = Mux(command.rescore, less, dut.loaded)
    is_loaded = Cat((fields.exp_table == number) & dut.exp_tables_loaded[number]
                    for number in range(dut.exp_tables)).any()
    counts = [each.count for each in command.queries]
    kind = type_of(dut)
    cases = [
        (command.n == 0, Error.NO_N),
        (command.n + command.sink + command.recent > dut.top_n, Error.TOO_MANY),
        (fields.count == 0, Error.EMPTY),
        ((command.first + fields.count > readable)
         | (dut.lookup == Lookup.RANGE if in_memory else 0), Error.RANGE),
        (~command.rescore & ~is_loaded, Error.EXP_TABLE),
        ((command.rescore & (not dut.rescore)) | (command.shared & (not dut.shared)),
         Error.RESCORE),
        (command.shared & (~command.rescore | ~Cat(count == counts[0] for count in counts).all()),
         Error.SHARED),
    ]
    if in_memory:
        cases.append((dut.lookup == Lookup.NOT_SET, CacheError.NOT_SET))
    error: Value = C(0, 4)
    for condition, code in reversed(cases):
        error = Mux(condition, kind[code.name].value, error)
    return error


def make(dut):
    claim = Claim(dut)
    claim.attach(dut)
    m = claim.m
    command = dut.i.p
    queries = range(dut.queries)
    fires = dut.i.valid & dut.i.ready

    # ---- What the neighbours promise.
    for name in ("loaded", "rescore_loaded"):
        if hasattr(dut, name):
            count = getattr(dut, name)
            claim.assume(f"{name} counts tokens", count <= dut.capacity)
            claim.assume(f"{name} does not fall", count >= claim.past(count, name))
    if hasattr(dut, "lookup"):
        claim.assume("look-ups have an answer", Value.cast(dut.lookup) != 3)

    # ---- Errors, as of the cycle in which a command is first valid.
    seen = Signal()
    m.d.sync += seen.eq(dut.i.valid & ~fires)
    errors = []
    for query in queries:
        now, kept, error = (Signal(4, name=f"{name}_{query}") for name in ("now", "kept", "error"))
        m.d.comb += [now.eq(expected_error(dut, command.queries[query])),
                     error.eq(Mux(seen, kept, now))]
        with m.If(~seen):
            m.d.sync += kept.eq(now)
        errors.append(error)
        claim.check(f"error {query}", ~dut.o_order.valid | (
            Value.cast(dut.o_order.p.queries[query].error) == error))
    good = Signal(dut.queries)
    active = Signal(dut.queries)
    m.d.comb += [good.eq(Cat(error == 0 for error in errors)),
                 active.eq(good & Mux(command.shared, 1 << (dut.queries - 1), -1))]

    # ---- Each receiver takes a command once, from the cycle after its first one on.
    receivers = {"order": (dut.o_order, Const(1)),
                 **{f"select {query}": (dut.o_select[query], active[query]) for query in queries}}
    if hasattr(dut, "lookup"):
        receivers["range"] = dut.o_range, active.any()
    all_have = []
    for name, (port, concerned) in receivers.items():
        has = Signal(name=f"{name.replace(' ', '_')}_has")
        takes = port.valid & port.ready
        m.d.sync += has.eq(~fires & (has | takes))
        claim.check(f"{name} is offered once", port.valid == (seen & concerned & ~has))
        all_have.append(has | takes | ~concerned)

    # ---- What each is told.
    claim.check("trace", ~dut.o_order.valid | (dut.o_order.p.trace == command.trace))
    if dut.rescore:
        claim.check("rescore", ~dut.o_order.valid | (dut.o_order.p.rescore == command.rescore))
    if dut.shared:
        claim.check("shared", ~dut.o_order.valid | (dut.o_order.p.shared == command.shared))
    for query in queries:
        fields, told = command.queries[query], dut.o_order.p.queries[query]
        claim.check(f"exp table {query}", ~dut.o_order.valid | (
            told.exp_table == fields.exp_table))
        select = dut.o_select[query]
        claim.check(f"selection {query}", ~select.valid | (
            (select.p.word * dut.lanes + select.p.skip == command.first)
            & (select.p.count == fields.count) & (select.p.n == command.n)
            & (select.p.sink == command.sink) & (select.p.recent == command.recent)))
        # What a selector relies on.
        claim.check(f"range {query}", ~select.valid | (
            (select.p.n != 0) & (select.p.count != 0)
            & (select.p.n + select.p.sink + select.p.recent <= dut.top_n)
            & (select.p.word * dut.lanes + select.p.skip + select.p.count <= dut.loaded)))

    # ---- Words and codes of the command that was accepted last.
    longest: Value = C(0, 1)
    for query in queries:
        count = Mux(active[query], command.queries[query].count, 0)
        longest = Mux(count > longest, count, longest)
    begin, word, final = Signal(8), Signal(8), Signal(8)
    has_words, has_codes = Signal(), Signal()
    codes, taking_part = Signal(dut.queries * dut.key_bits), Signal(dut.queries)
    takes_word = dut.o_words.valid & dut.o_words.ready
    takes_codes = dut.o_queries.valid & dut.o_queries.ready
    first_word = command.first // dut.lanes
    final_word = (command.first + longest - 1)[:8] // dut.lanes
    with m.If(takes_word):
        m.d.sync += [word.eq(word + 1), has_words.eq(word != final)]
    with m.If(takes_codes):
        m.d.sync += has_codes.eq(0)
    with m.If(fires):
        m.d.sync += [
            begin.eq(first_word), word.eq(first_word), final.eq(final_word),
            has_words.eq(active.any()), has_codes.eq(active.any()),
            codes.eq(Cat(fields.code for fields in command.queries)), taking_part.eq(active),
        ]
    claim.check("words are offered", dut.o_words.valid == has_words)
    claim.check("word", ~has_words | ((dut.o_words.p.word == word)
                                      & (dut.o_words.p.last == (word == final))))
    claim.check("no word beyond what is loaded", ~has_words | (word * dut.lanes < dut.loaded))
    claim.check("codes are offered", dut.o_queries.valid == has_codes)
    claim.check("codes", ~has_codes | ((Value.cast(dut.o_queries.p.codes) == codes)
                                       & (dut.o_queries.p.active == taking_part)))
    if hasattr(dut, "lookup"):
        asked = dut.o_range.p
        claim.check("range asks for the words", ~dut.o_range.valid | (
            (asked.first == first_word * dut.lanes)
            & (asked.count == (final_word - first_word + 1) * dut.lanes)
            & (asked.head == command.head) & (asked.sequence == command.sequence)))

    # ---- Acceptance, in the cycle of what is latest.
    claim.check("acceptance", dut.i.ready == (
        seen & Cat(all_have).all() & (~has_words | (takes_word & (word == final)))
        & (~has_codes | takes_codes)))

    claim.cover("a good command is accepted", fires & good.all())
    claim.cover("its second word is its last", takes_word & (word == begin + 1) & (word == final))
    for code in codes_of(in_memory=hasattr(dut, "lookup"), rescores=dut.rescore):
        claim.cover(f"error {code.name}", dut.o_order.valid & (errors[-1] == code.value))
    return claim


SIZES = {"key_bits": 1, "capacity": 6, "queries": 2, "lanes": 2, "top_n": 3, "exp_tables": 3}
CACHE = CacheMap(heads=2, sequences=2, capacity=6, page_tokens=2, pages=2, address_bits=13,
                 data_bits=8, burst_bytes=16, stride_bits=1)
CASES = {
    "Dispatcher": ({}, Mutation(Dispatcher.elaborate, "command.n == 0", "command.n == 1")),
    "Dispatcher, rescore, shared": (
        {"rescore": True, "shared": True},
        Mutation(Dispatcher.elaborate, "query == self._queries - 1", "query == 0")),
    "Dispatcher, memory": (
        {"cache": CACHE}, Mutation(Dispatcher._ask, "last_word + 1", "last_word")),
}


@pytest.mark.parametrize("name", CASES)
def test_dispatcher(name, tmp_path):
    options, mutation = CASES[name]
    codes = codes_of(in_memory="cache" in options, rescores="rescore" in options)
    covers = {"a good command is accepted": 1, "its second word is its last": 3,
              **{f"error {code.name}": 1 for code in codes}}
    prove(Proof(f"{name}: equals its documentation",
                ", ".join(f"{option} {value}" for option, value in SIZES.items()),
                lambda: make(Dispatcher(**SIZES, **options)), covers, mutation), tmp_path)
