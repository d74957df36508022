"""Weights of a selection, by distance relative to the nearest key, or by dot-product score."""

from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.layouts import (
    exp_table_layout,
    key_layout,
    softmax_command_layout,
    trace_layout,
    weighted_layout,
)
from nearbit_hw.ram import Address, block_ram
from nearbit_model.config import DECAY_BITS, MULTIPLIER_BITS, MULTIPLIER_SHIFT
from nearbit_model.structure import softmax_latency


__all__ = ["Softmax"]


def exponential(weight_bits: int) -> list[int]:
    """Largest weight times :py:`2 ** -f`, rounded, for each fraction f of an octave."""
    steps = 1 << DECAY_BITS
    return [round(((1 << weight_bits) - 1) * 2 ** (-step / steps)) for step in range(steps)]


# How it works
# ------------
# There are two *banks*, each with half of the buffer, a command, the best key's distance or score,
# and the position of the last key. Selections use the banks in turn. A bank is `full` from the
# arrival of its last key until that key has passed the subtraction for the last time, which is the
# last use of the bank's best.
#
# The replay is a pipeline that moves as a whole: `key` (read from the buffer), `excess` (how far it
# is from the best), with scores `product` and `octaves`, then `weight` (read from an exp table),
# and with scores `shifted`. It may start in the cycle in which the last key arrives, as the best is
# needed only in the next cycle; except for a selection of one key, which is not in the buffer yet.

class _Banks:
    """The two banks, and the logic that fills them.

    Attributes
    ----------
    full, commanded
        For each bank, whether it has all keys of a selection, and whether it has a command.
    commands, best, final_position
        For each bank: the command, the best measure so far, the position of the last key.
    read
        Port that reads the buffer.
    closes
        The last key of a selection of several arrives.
    """

    def __init__(self, m: Module, softmax: "Softmax"):
        has_scores = softmax.score_max > 0
        self.has_scores = has_scores
        # Amaranth has trouble with registers of 0 bits
        self.position_shape = range(max(2, softmax.top_n))
        self._measure_shape: Any = (softmax.i.p.score.shape() if has_scores
                                    else softmax.i.p.distance.shape())
        self.key_shape = data.StructLayout({
            name: field.shape for name, field in softmax.i.payload.shape() if name != "last"})
        self.command_shape = softmax.i_command.payload.shape()

        self.full = Signal(2)
        self.best = [Signal(self._measure_shape, name=f"best_{bank}", reset_less=True)
                     for bank in range(2)]
        self.final_position = [
            Signal(self.position_shape, name=f"final_position_{bank}", reset_less=True)
            for bank in range(2)]
        self.commanded = Signal(2)
        self.commands: Any = Signal(data.ArrayLayout(self.command_shape, 2), reset_less=True)

        m.submodules.buffer = buffer = block_ram(shape=self.key_shape, depth=2 * softmax.top_n)
        self._write: Any
        self.read: Any
        self._write, self.read = buffer.write_port(), buffer.read_port()
        self.closes: Value = Const(0)
        self._taken_bank: Value = Const(0)
        self._is_better: Value = Const(0)
        self._taken_measure: Value = Const(0)

    def take_commands(self, m: Module, i_command: stream.Interface) -> None:
        """Put commands into the banks in turn."""
        command_bank = Signal()
        m.d.comb += i_command.ready.eq(~self.commanded.bit_select(command_bank, 1))
        with m.If(i_command.valid & i_command.ready):
            m.d.sync += [
                self.commanded.bit_select(command_bank, 1).eq(1),
                self.commands[command_bank].eq(i_command.p),
                command_bank.eq(~command_bank),
            ]

    def fill(self, m: Module, i: Any) -> None:
        """Put selections into the banks in turn, and find the best of each."""
        fill_bank = Signal()
        fill_position = Signal(self.position_shape)
        is_first, fill = Signal(), Signal()
        m.d.comb += [
            is_first.eq(fill_position == 0),
            i.ready.eq(~self.full.bit_select(fill_bank, 1)),
            fill.eq(i.valid & i.ready),
            self._write.addr.eq(Cat(fill_bank, fill_position)),
            self._write.en.eq(fill),
            *(self._write.data[name].eq(i.p[name]) for name, _ in self.key_shape),
        ]
        with m.If(fill):
            m.d.sync += fill_position.eq(fill_position + 1)
            for bank in range(2):
                with m.If(fill_bank == bank):
                    m.d.sync += self.final_position[bank].eq(fill_position)
            with m.If(i.p.last):
                m.d.sync += [
                    self.full.bit_select(fill_bank, 1).eq(1),
                    fill_position.eq(0),
                    fill_bank.eq(~fill_bank),
                ]
        self.closes = fill & i.p.last & ~is_first

        # Keys come from a memory, late in the cycle, so each is compared in the next cycle.
        measure = i.p.score if self.has_scores else i.p.distance
        taken, taken_first, taken_bank, is_better = Signal(), Signal(), Signal(), Signal()
        taken_measure = Signal(self._measure_shape, reset_less=True)
        bank_best = Mux(taken_bank, *self.best[::-1])
        m.d.sync += [taken.eq(fill), taken_first.eq(is_first), taken_bank.eq(fill_bank),
                     taken_measure.eq(measure)]
        m.d.comb += is_better.eq(taken & (taken_first | (
            taken_measure > bank_best if self.has_scores else taken_measure < bank_best)))
        for bank in range(2):
            with m.If(is_better & (taken_bank == bank)):
                m.d.sync += self.best[bank].eq(taken_measure)
        self._taken_bank, self._is_better = taken_bank, is_better
        self._taken_measure = taken_measure

    def best_of(self, bank: Value) -> Value:
        """The best measure in a bank, including the key that arrived in the cycle before."""
        return Mux(self._is_better & (self._taken_bank == bank), self._taken_measure,
                   Mux(bank, *self.best[::-1]))


class _Replay:
    """The pipeline through which the keys of a bank pass, once for each beat.

    Attributes
    ----------
    advance
        The pipeline moves.
    valid, step
        Of the stage added last: whether it holds a key; the key, its beat, whether it is the beat's
        last, and its command.
    traces
        The key presented belongs to the trace.
    """

    def __init__(self, banks: _Banks, *, beats: int):
        self._banks = banks
        self._beats = beats
        self.advance = Signal()
        self.traces = Signal()
        beat = range(beats)
        self._step_shape = data.StructLayout({
            "key": banks.key_shape, "beat": beat, "last": 1, "command": banks.command_shape})
        self.valid = Signal(name="excess_valid")
        self.step: Any = Signal(self._step_shape, name="excess_step", reset_less=True)

    def read(self, m: Module, *, excess_max: int) -> Signal:
        """Add stages `key` and `excess`; return how far a key is from the best."""
        banks, advance = self._banks, self.advance
        replay_bank = Signal()
        position = Signal(banks.position_shape)
        beat = Signal(range(self._beats))
        is_full, issue, is_last, is_final = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            is_full.eq(banks.full.bit_select(replay_bank, 1)),
            # If the bank whose turn it is is not full, it is the one being filled.
            issue.eq((is_full | banks.closes) & banks.commanded.bit_select(replay_bank, 1)),
            is_last.eq(is_full & (position == Mux(replay_bank, *banks.final_position[::-1]))),
            is_final.eq(is_last & (beat == self._beats - 1)),
            banks.read.addr.eq(Cat(replay_bank, position)),
            banks.read.en.eq(advance),
        ]
        with m.If(advance & issue):
            m.d.sync += position.eq(position + 1)
            with m.If(is_last):
                m.d.sync += [position.eq(0), beat.eq(beat + 1)]
            with m.If(is_final):
                m.d.sync += [beat.eq(0), replay_bank.eq(~replay_bank)]

        # ---- Stage `key`.
        key = banks.read.data
        key_valid = Signal()
        key_bank, key_last, key_final = (Signal(name=f"key_{name}", reset_less=True)
                                         for name in ("bank", "last", "final"))
        key_beat = Signal.like(beat, reset_less=True)
        with m.If(advance):
            m.d.sync += [key_valid.eq(issue), key_bank.eq(replay_bank), key_beat.eq(beat),
                         key_last.eq(is_last), key_final.eq(is_final)]
            with m.If(key_valid & key_final):
                m.d.sync += [banks.full.bit_select(key_bank, 1).eq(0),
                             banks.commanded.bit_select(key_bank, 1).eq(0)]

        # ---- Stage `excess`.
        excess = Signal(range(excess_max + 1), name="excess", reset_less=True)
        best = banks.best_of(key_bank)
        with m.If(advance):
            m.d.sync += [
                self.valid.eq(key_valid),
                excess.eq(best - key.score if banks.has_scores else key.distance - best),
                self.step.key.eq(key),
                self.step.beat.eq(key_beat),
                self.step.last.eq(key_last),
                self.step.command.eq(banks.commands[key_bank]),
            ]
        return excess

    def delay(self, m: Module, name: str) -> None:
        """Add a stage for the key and the state that follows it."""
        next_valid = Signal(name=f"{name}_valid")
        next_step: Any = Signal(self._step_shape, name=f"{name}_step", reset_less=True)
        with m.If(self.advance):
            m.d.sync += [next_valid.eq(self.valid), next_step.eq(self.step)]
        self.valid, self.step = next_valid, next_step

    def present(self, m: Module, name: str) -> None:
        """Add the last stage, which is presented."""
        with m.If(self.advance):
            m.d.sync += self.traces.eq(
                self.valid & self.step.command.trace & (self.step.beat == 0))
        self.delay(m, name)


class Softmax(wiring.Component):
    """Replay of each query's selection with weights, once for every beat of the value vectors.

    The keys of one query, a *selection*, are buffered while their smallest distance h_min is
    found. Then they are replayed :py:`beats` times: all keys in order for beat 0, then
    all for beat 1, and so on, each with the weight :py:`exp_table[distance - h_min]`. There are two
    buffers, so that one selection is filled while the one before is replayed.

    If :py:`score_max` is not 0, each key has a *score* (minus its distance, unless it was
    rescored), and its weight depends on how far the score is below the best. With :py:`rescore` in
    the command, the weight is an exponential, :py:`exp2[t % 256] >> t // 256`, where
    :py:`t = (best - score) * multiplier >> 24` and :py:`exp2[f]` is the largest weight times
    :py:`2 ** (-f / 256)`, rounded; it is 0 if t // 256 is at least :py:`weight_bits`. Otherwise,
    the weight comes from the exp table, as above.

    For the k-th selection of m keys, if no output is stalled:

    - Its keys are accepted one per cycle, the first at the earliest two cycles after
      :py:`start(k - 2) + beats * m(k - 2) - 1`, because it reuses that selection's buffer. Its
      command is accepted under the same condition.
    - Its replay starts at :py:`start(k)`, the latest of: the cycle in which its last key is
      accepted, or the one after if m is 1; the cycle after its command is accepted;
      and :py:`start(k - 1) + beats * m(k - 1)`, which leaves no gap.
    - Replayed key j (0 to :py:`beats * m - 1`) is presented at cycle
      :py:`start(k) + latency + j`, also on :py:`o_trace` if it belongs to the trace.

    Either output may be stalled; the other presents its part of the same key at most once, and
    both move to the next key together. Reset drops selections and commands; it does not touch the
    exp tables, which hold the largest weight everywhere until they are loaded. Weights from an exp
    table are used unchanged; those of the exponential are rounded down.

    Reference: :func:`nearbit_model.golden.lookup` and :func:`nearbit_model.golden.decay`.

    Parameters
    ----------
    capacity : :class:`int`
        Number of keys that can be indexed. At least 1.
    key_bits : :class:`int`
        The largest distance for which an exp table has a weight. At least 1.
    beats : :class:`int`
        Replays of a selection. At least 1.
    top_n : :class:`int`
        The most keys in a selection. At least 1.
    weight_bits : :class:`int`
        Bits of a weight. At least 1.
    exp_tables : :class:`int`
        Resident exp tables. At least 1.
    score_max : :class:`int`
        Largest absolute value of a score; 0 if keys have none.
    distance_max : :class:`int`
        The largest distance, if greater than :py:`key_bits`.

    Members
    -------
    i_exp_table : :py:`In(stream.Signature(StructLayout({"exp_table": ..., "distance": ..., \
"weight": ...})))`
        An entry of an exp table; always ready. An exp table must not be written while it is in use.
    i_command : :py:`In(stream.Signature(StructLayout({"exp_table": range(exp_tables), \
"trace": 1})))`
        For each selection, its exp table and whether to trace it; with scores, also :py:`rescore`
        and :py:`multiplier`.
    i : :py:`In(stream.Signature(StructLayout({"index": ..., "distance": ..., "last": 1})))`
        Selected keys; :py:`last` is set on a selection's last one; with scores, also :py:`score`.
    o : :py:`Out(stream.Signature(StructLayout({"index": ..., "beat": ..., "weight": ..., \
"last": 1})))`
        Keys with their weights for each beat; :py:`last` is set on a beat's last one.
    o_trace : :py:`Out(stream.Signature(StructLayout({"index": ..., "distance": ..., "weight": \
..., "last": 1})))`
        If the command requests a trace: the keys of beat 0; :py:`last` is set on the last one; with
        scores, also :py:`score`.
    """

    i_exp_table: stream.Interface
    i_command: stream.Interface
    i: stream.Interface
    o: stream.Interface
    o_trace: stream.Interface

    def __init__(self, *, capacity: int, key_bits: int, beats: int, top_n: int,
                 weight_bits: int, exp_tables: int, score_max: int = 0, distance_max: int = 0):
        for name, value in [("Capacity", capacity), ("Key bits", key_bits), ("Beats", beats),
                            ("Top N", top_n), ("Weight bits", weight_bits),
                            ("Exp tables", exp_tables)]:
            if not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a positive integer, not {value!r}")
        if not isinstance(score_max, int) or score_max < 0:
            raise TypeError(f"Largest score must be an integer of at least 0, not {score_max!r}")
        if not isinstance(distance_max, int) or distance_max < 0:
            raise TypeError(f"Largest distance must be an integer of at least 0, "
                            f"not {distance_max!r}")
        distance_max = max(key_bits, distance_max)
        if 0 < score_max < distance_max:
            raise ValueError(f"Largest score must be at least the largest distance "
                             f"({distance_max}), not {score_max!r}")
        self._capacity = capacity
        self._key_bits = key_bits
        self._beats = beats
        self._top_n = top_n
        self._weight_bits = weight_bits
        self._exp_tables = exp_tables
        self._score_max = score_max
        self._distance_max = distance_max

        key: dict[str, Any] = {
            "capacity": capacity, "distance_max": distance_max, "score_max": score_max}
        super().__init__({
            "i_exp_table": In(stream.Signature(
                exp_table_layout(exp_tables=exp_tables, key_bits=key_bits, weight_bits=weight_bits),
                always_ready=True)),
            "i_command": In(stream.Signature(
                softmax_command_layout(exp_tables=exp_tables, rescore=bool(score_max)))),
            "i": In(stream.Signature(key_layout(**key))),
            "o": Out(stream.Signature(weighted_layout(
                capacity=capacity, beats=beats, weight_bits=weight_bits))),
            "o_trace": Out(stream.Signature(trace_layout(**key, weight_bits=weight_bits))),
        })

    @property
    def capacity(self) -> int:
        return self._capacity

    @property
    def key_bits(self) -> int:
        return self._key_bits

    @property
    def beats(self) -> int:
        return self._beats

    @property
    def top_n(self) -> int:
        return self._top_n

    @property
    def weight_bits(self) -> int:
        return self._weight_bits

    @property
    def exp_tables(self) -> int:
        return self._exp_tables

    @property
    def score_max(self) -> int:
        return self._score_max

    @property
    def distance_max(self) -> int:
        return self._distance_max

    @property
    def latency(self) -> int:
        """Cycles from a key's turn in the replay to presenting it.

        One each for buffer, subtraction and exp table; with scores, also two for a product and one
        for a shift.
        """
        return softmax_latency(scores=self._score_max > 0)

    def elaborate(self, platform) -> Module:
        m = Module()
        banks = _Banks(m, self)
        banks.take_commands(m, self.i_command)
        banks.fill(m, self.i)
        replay = _Replay(banks, beats=self._beats)
        excess = replay.read(
            m, excess_max=2 * self._score_max if banks.has_scores else self._distance_max)
        if banks.has_scores:
            weight = self._weigh_scores(m, replay, excess)
        else:
            weight = self._look_up(m, replay, excess)
            replay.present(m, "weight")

        # ---- Outputs. Each is valid until it is accepted, then waits for the other.
        valid, step, traces, advance = replay.valid, replay.step, replay.traces, replay.advance
        m.d.comb += [
            self.o.valid.eq(valid),
            self.o.p.index.eq(step.key.index),
            self.o.p.beat.eq(step.beat),
            self.o.p.weight.eq(weight),
            self.o.p.last.eq(step.last),
            self.o_trace.valid.eq(traces),
            self.o_trace.p.weight.eq(weight),
            self.o_trace.p.last.eq(step.last),
            *(self.o_trace.p[name].eq(step.key[name]) for name, _ in banks.key_shape),
            advance.eq((~valid | self.o.ready) & (~traces | self.o_trace.ready)),
        ]
        with m.If(~advance):
            with m.If(self.o.ready):
                m.d.sync += valid.eq(0)
            with m.If(self.o_trace.ready):
                m.d.sync += traces.eq(0)

        return m

    def _look_up(self, m: Module, replay: _Replay, distance_above: Value) -> Value:
        """Add the exp table of stage `weight`; return its weight."""
        address = Address(self._exp_tables, self._key_bits + 1)
        m.submodules.exp_table = exp_table = block_ram(
            shape=self._weight_bits, depth=address.depth,
            init=[(1 << self._weight_bits) - 1] * address.depth)
        exp_table_write, exp_table_read = exp_table.write_port(), exp_table.read_port()
        m.d.comb += [
            exp_table_write.addr.eq(address(self.i_exp_table.p.exp_table,
                                            self.i_exp_table.p.distance)),
            exp_table_write.data.eq(self.i_exp_table.p.weight),
            exp_table_write.en.eq(self.i_exp_table.valid),
            exp_table_read.addr.eq(address(
                replay.step.command.exp_table, distance_above[:len(self.i_exp_table.p.distance)])),
            exp_table_read.en.eq(replay.advance),
        ]
        return exp_table_read.data

    def _weigh_scores(self, m: Module, replay: _Replay, excess: Signal) -> Value:
        """Add stages `product`, `octaves`, `weight` and `shifted`; return the weight.

        The multiplier is split into two halves, each with its own product; of the lower product,
        only the bits that carry into the octaves matter. All shifts that leave 0 share one code.
        """
        fraction = Signal(DECAY_BITS, reset_less=True)
        shift = Signal(range(self._weight_bits + 1), reset_less=True)
        half = MULTIPLIER_BITS // 2
        low = Signal(len(excess) + half, reset_less=True)
        high = Signal(len(excess) + half, reset_less=True)
        product_excess = Signal(range(self._key_bits + 1), reset_less=True)
        octaves_excess = Signal.like(product_excess, reset_less=True)
        octaves = Signal(len(high) + 1 - (MULTIPLIER_SHIFT - half))
        whole = octaves[DECAY_BITS:]
        m.d.comb += octaves.eq((high + low[half:]) >> (MULTIPLIER_SHIFT - half))
        multiplier = replay.step.command.multiplier
        with m.If(replay.advance):
            m.d.sync += [
                low.eq(excess * multiplier[:half]),
                high.eq(excess * multiplier[half:]),
                product_excess.eq(excess),
                octaves_excess.eq(product_excess),
                fraction.eq(octaves),
                shift.eq(Mux(whole < self._weight_bits, whole, self._weight_bits)),
            ]
        replay.delay(m, "product")
        replay.delay(m, "octaves")
        exp_table_weight = self._look_up(m, replay, octaves_excess)
        replay.delay(m, "weight")
        m.submodules.exp2 = exp2 = block_ram(
            shape=self._weight_bits, depth=1 << DECAY_BITS, init=exponential(self._weight_bits))
        exp2_read = exp2.read_port()
        weight_shift = Signal.like(shift, reset_less=True)
        weight = Signal(self._weight_bits, name="weight", reset_less=True)
        m.d.comb += [exp2_read.addr.eq(fraction), exp2_read.en.eq(replay.advance)]
        with m.If(replay.advance):
            m.d.sync += [
                weight_shift.eq(shift),
                weight.eq(Mux(replay.step.command.rescore, exp2_read.data >> weight_shift,
                              exp_table_weight)),
            ]
        replay.present(m, "shifted")
        return weight
