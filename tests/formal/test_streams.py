# amaranth: UnusedElaboratable=no
"""Every output stream holds what it offers until it is taken, with resets in any cycle.

Inputs are anything that obeys the rules of streams; what else the neighbours promise is assumed
only where the claim needs it.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from amaranth.hdl import Signal

from nearbit_hw.attend import (
    DividingNormalizer,
    ReciprocalNormalizer,
    RescoreKeyStore,
    Rescorer,
    ScalingAccumulator,
    Softmax,
    ValueAccumulator,
    ValueStore,
)
from nearbit_hw.attend.normalizer import hold_output
from nearbit_hw.dispatcher import Dispatcher
from nearbit_hw.memory import (
    BeatFifo,
    BlockFifo,
    CacheMap,
    CodeGate,
    CommandPlace,
    ReadMerge,
    RowBuffer,
    RowGather,
    RowReader,
)
from nearbit_hw.score import KeyStore, XorPopcount
from nearbit_hw.select import HistogramTopN, QueryMerge, SelectionRepeat, TopN
from nearbit_hw.select.counters.emit import Emit as CountersEmit
from nearbit_hw.select.histogram.emit import Emit as HistogramsEmit

from .harness import Claim, Mutation, Proof, needs_abc, prove
from .neighbours import answered


pytestmark = needs_abc


def next_ready(claim, dut):
    """The neighbour says a cycle before whether it is ready; after a reset it may be."""
    told = claim.past(dut.next_ready, "next_ready")
    first = Signal(init=1)
    claim.m.d.sync += first.eq(0)
    claim.assume("next_ready comes true", first | (dut.o.ready == told))


def room(claim, dut):
    """The writer of a queue counts."""
    inside = Signal(range(dut.depth + 1))
    puts, takes = dut.i.valid, dut.o.valid & dut.o.ready
    claim.m.d.sync += inside.eq(inside + puts - takes)
    claim.assume("room", ~puts | (inside < dut.depth))


def no_shift(claim, dut):
    """Nobody asks for the next sum while it waits."""
    claim.assume("no shift", ~dut.shift)


def buffered(claim, dut):
    """A word follows its request, and waits in the register that the next one needs."""
    waits, may_move = Signal(), Signal()
    claim.m.d.comb += may_move.eq(~waits | dut.i_word.ready)
    with claim.m.If(may_move):
        claim.m.d.sync += waits.eq(dut.o_request.valid & dut.o_request.ready)
    claim.assume("words", dut.i_word.valid == waits)
    claim.assume("requests", ~dut.o_request.ready | may_move)


@dataclass
class Case:
    """A component, a fault of it, what its neighbours promise, and when each stream can wait."""

    component: Any
    options: dict[str, Any]
    mutation: Mutation
    waits: dict[str, int]
    promises: list[Any] = field(default_factory=list)
    positional: tuple[Any, ...] = ()


MOVES = "advance.eq(~self.o.valid | self.o.ready)"
MAP = CacheMap(heads=2, sequences=1, capacity=4, page_tokens=2, pages=2, address_bits=13,
               data_bits=8, burst_bytes=16, stride_bits=1)
FULL = "next_full.eq(complete | (self.o.valid & ~self.o.ready))"
HOLDS = Mutation(hold_output, "Mux(advance, payload, aside)", "payload")

CASES = {
    "KeyStore": Case(KeyStore, {"capacity": 4, "lanes": 2, "key_bits": 2}, Mutation(
        KeyStore.elaborate, "read.en.eq(advance)", "read.en.eq(1)"), {"o": 2}),
    "XorPopcount": Case(XorPopcount, {"fan_in": 2}, Mutation(
        XorPopcount.elaborate, MOVES, "advance.eq(1)"), {"o": 3}, positional=(4,)),
    "QueryMerge": Case(QueryMerge, {"capacity": 2, "distance_max": 1, "queries": 2,
                                    "exp_tables": 2, "rescore": True, "shared": True,
                                    "heads": 2, "sequences": 2},
                       Mutation(QueryMerge.elaborate, "Cat(0, ~good", "Cat(1, ~good"),
                       {"o_result": 1, "o_command": 1, "o": 1}),
    "SelectionRepeat": Case(SelectionRepeat, {"capacity": 2, "distance_max": 1, "top_n": 2},
                            Mutation(SelectionRepeat.elaborate, "read.en.eq(~shown | self.o.ready)",
                                     "read.en.eq(1)"), {"o": 1}),
    "TopN": Case(TopN, {"key_bits": 3, "lanes": 2, "capacity": 4, "top_n": 2}, Mutation(
        CountersEmit._let_leave, "advance.eq(~o.valid | o.ready)", "advance.eq(1)"), {"o": 18}),
    "HistogramTopN": Case(
        HistogramTopN, {"key_bits": 3, "lanes": 1, "capacity": 4, "top_n": 2},
        Mutation(HistogramsEmit.next_key, "self._advance.eq(~o.valid | o.ready)",
                 "self._advance.eq(1)"), {"o": 36}),
    "HistogramTopN, serial": Case(
        HistogramTopN, {"key_bits": 3, "lanes": 1, "capacity": 4, "top_n": 2, "overlap": False},
        Mutation(HistogramsEmit.next_key, "self._advance.eq(~o.valid | o.ready)",
                 "self._advance.eq(1)"), {"o": 22}),
    "ValueStore": Case(ValueStore, {"capacity": 2, "value_dim": 2, "value_lanes": 1,
                                    "value_bits": 2, "scale_bits": 2},
                       Mutation(ValueStore._elaborate_two, "elements_read.en.eq(advance)",
                                "elements_read.en.eq(1)"), {"o": 3}),
    "ValueStore, single port": Case(
        ValueStore, {"capacity": 2, "value_dim": 2, "value_lanes": 1, "value_bits": 2,
                     "scale_bits": 2, "single_port": True},
        Mutation(ValueStore._elaborate_single, "advance & ~self.i_write.valid",
                 "~self.i_write.valid"), {"o": 3}),
    "RescoreKeyStore": Case(RescoreKeyStore, {"capacity": 2, "head_dim": 2, "lanes": 1,
                                              "element_bits": 2},
                            Mutation(RescoreKeyStore.elaborate, MOVES, "advance.eq(1)"), {"o": 2}),
    "Rescorer": Case(Rescorer, {"capacity": 2, "distance_max": 1, "head_dim": 2, "lanes": 1,
                                "element_bits": 2, "queries": 2},
                     Mutation(Rescorer.elaborate, MOVES, "advance.eq(1)"),
                     {"o_request": 3, "o": 5}),
    "Softmax": Case(Softmax, {"capacity": 2, "key_bits": 1, "beats": 2, "top_n": 2,
                              "weight_bits": 2, "exp_tables": 1},
                    Mutation(Softmax.elaborate, " & (~traces | self.o_trace.ready)", ""),
                    {"o": 5, "o_trace": 5}),
    "ValueAccumulator": Case(
        ValueAccumulator, {"capacity": 2, "beats": 1, "value_lanes": 1, "value_bits": 2,
                           "weight_bits": 2, "scale_bits": 2, "top_n": 2},
        Mutation(ValueAccumulator.elaborate, FULL, "next_full.eq(complete)"),
        {"o_request": 1, "o": 7}, [next_ready]),
    "ScalingAccumulator": Case(
        ScalingAccumulator, {"capacity": 2, "beats": 1, "value_lanes": 2, "value_bits": 2,
                             "weight_bits": 2, "scale_bits": 2, "top_n": 2},
        Mutation(ScalingAccumulator.elaborate, FULL, "next_full.eq(complete)"),
        {"o_request": 1, "o": 7}, [next_ready, no_shift]),
    "DividingNormalizer": Case(
        DividingNormalizer, {"value_lanes": 2, "value_bits": 2, "sum_bits": 5, "total_max": 6,
                             "output_fraction_bits": 0, "divider_cycles": 1}, HOLDS, {"o": 3}),
    "ReciprocalNormalizer": Case(
        ReciprocalNormalizer, {"value_lanes": 2, "value_bits": 2, "sum_bits": 5, "total_max": 6,
                               "output_fraction_bits": 0}, HOLDS, {"o": 12}),
    "Dispatcher": Case(
        Dispatcher, {"key_bits": 2, "capacity": 4, "queries": 2, "lanes": 2, "top_n": 2,
                     "exp_tables": 2, "rescore": True, "shared": True},
        Mutation(Dispatcher.elaborate, "m.If(busy & ~paused & self.o_words.ready)",
                 "m.If(busy & ~paused)"),
        {"o_order": 2, "o_select0": 2, "o_select1": 2, "o_queries": 3, "o_words": 3}),
    "Dispatcher, memory and blocks": Case(
        Dispatcher, {"key_bits": 2, "capacity": 8, "queries": 2, "lanes": 2, "top_n": 2,
                     "exp_tables": 2, "block": 4, "cache": replace(MAP, capacity=8)},
        Mutation(Dispatcher._announce_blocks,
                 "(ends | paused) & (taken | takes | ~active).all()", "ends | paused"),
        {"o_order": 2, "o_select0": 2, "o_select1": 2, "o_queries": 3, "o_words": 3,
         "o_range": 2, "o_block0": 3, "o_block1": 3}),
    "BeatFifo": Case(BeatFifo, {"depth": 2}, Mutation(
        BeatFifo.elaborate, MOVES, "advance.eq(1)"), {"o": 3}, [room], positional=(2,)),
    "BlockFifo": Case(BlockFifo, {"depth": 2}, Mutation(
        BeatFifo.elaborate, MOVES, "advance.eq(1)"), {"o": 3}, positional=(2,)),
    "CodeGate": Case(CodeGate, {"capacity": 4, "lanes": 2, "key_bits": 2}, Mutation(
        CodeGate.elaborate, "move.eq(~self.o.valid | self.o.ready)", "move.eq(1)"),
        {"o": 2, "o_outcome": 1}),
    "CommandPlace": Case(CommandPlace, {}, Mutation(
        CommandPlace.elaborate, "m.If(self.o.valid & self.o.ready)", "m.If(self.o.valid)"),
        {"o": 3, "o_lookup": 1}, [answered], positional=(MAP, MAP.range_layout)),
    "ReadMerge": Case(ReadMerge, {"address_bits": 13, "data_bits": 8, "id_bits": (1, 0)},
                      Mutation(ReadMerge.elaborate, "m.d.comb += manager.ar.ready.eq(~ar.valid & ",
                               "m.d.comb += manager.ar.ready.eq("),
                      {"o_ar": 2, "i_0_r": 1, "i_1_r": 1}),
    "RowBuffer": Case(RowBuffer, {"top_n": 2, "row_beats": 2, "data_bits": 2, "ports": 2},
                      Mutation(RowBuffer.elaborate, MOVES, "advance.eq(1)"), {"o_set": 1, "o": 3}),
    "RowGather": Case(RowGather, {"distance_max": 1, "rescore": True, "shared": True,
                                  "readers": 2},
                      Mutation(RowGather._offer, "(taken | takes | ~concerned).all()",
                               "takes.any()"),
                      {"o_selection": 1, "o_token": 2, "o_use0": 1, "o_use1": 1, "o": 1},
                      positional=(MAP,)),
    "RowReader": Case(RowReader, {"top_n": 2, "beats": 2, "beat_bits": 2, "word_bits": 4,
                                  "tail_bits": 1},
                      Mutation(RowReader.elaborate, "move.eq(~self.o.valid | self.o.ready)",
                               "move.eq(1)"), {"o_request": 2, "o": 4, "o_outcome": 3}, [buffered]),
}


def proof_of(name):
    case = CASES[name]

    def make():
        dut = case.component(*case.positional, **case.options)
        claim = Claim(dut)
        claim.attach(dut)
        for promise in case.promises:
            promise(claim, dut)
        for output, port in claim.outputs.items():
            waited = claim.past(port.valid & ~port.ready, f"{output}_waited")
            claim.cover(f"{output} waits", waited & port.valid & port.ready)
        return claim

    return Proof(f"{name}: outputs hold",
                 ", ".join(f"{option} {value}" for option, value in case.options.items()
                           if not isinstance(value, CacheMap)),
                 make, {f"{output} waits": cycle for output, cycle in case.waits.items()},
                 case.mutation)


@pytest.mark.parametrize("name", CASES)
def test_outputs_hold(name, tmp_path):
    prove(proof_of(name), tmp_path)
