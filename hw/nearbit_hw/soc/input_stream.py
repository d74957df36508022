"""The stream into a SoC core: packets of loads, batches and tokens, cut to what the core takes."""

from dataclasses import dataclass
from typing import Any

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nearbit_hw.core import core_members
from nearbit_hw.layouts import code_layout
from nearbit_hw.memory.cache import RowFields
from nearbit_hw.soc.registers import Command, RegisterMap
from nearbit_model.config import SCALE_BITS


__all__ = ["LOADED", "InputStream", "beat_layout"]


# How it works
# ------------
# A packet is a sequence of *units*, what the core takes at once, each of whole beats: a code, a
# beat of a value vector, a weight. The codes of all queries of a batch are one unit. The beats of a
# unit are shifted into one register from its upper end, where a unit of any length is complete with
# its last beat; so neither the register nor what reads it has a multiplexer. The register is `full`
# until the core takes the unit, and the next beat comes in that cycle at the earliest. A scale does
# not go this way: it is kept beside for the elements that follow.
#
# A unit at the beginning of a token or batch is its `head`: the scale before elements of values,
# the codes before the rescore queries, the code before the row of a token to be appended.
#
# What a core with rescoring has got of a batch's rescore elements cannot be taken back. If the
# packet ends among them, the rest is padded with what there is, and the batch is sent with no keys
# to select; so its queries are answered with an error, and the core is ready for the next batch.
# A token whose row is not complete is padded, too, and not counted.

LOADED = ("i_key", "i_value", "i_exp_table", "i_rescore_key", "i_rescore_query")
"""The core's streams, beside that of commands, whose payloads come by packets."""


def beat_layout(data_bits: int) -> data.StructLayout:
    """Layout of a beat of an AXI4-Stream."""
    return data.StructLayout({"data": data_bits, "last": 1})


@dataclass(frozen=True)
class _Place:
    """A place in the packet."""

    beat: Signal
    core_beat: Signal
    head: Signal


class InputStream(wiring.Component):
    """Takes an operation's packet and hands its units to the core.

    One beat per cycle is taken, if the core takes units when they are complete. A unit is offered
    to the core in the cycle after its last beat. A batch is offered then, too, and the next beat is
    taken from the cycle after its acceptance on; with the rescoring unit, a batch is offered
    one cycle after its last unit was taken, and the next batch's codes are taken meanwhile.

    :py:`i.ready` depends on no other stream's :py:`ready` but those of loads, rescore queries and
    tokens, which depend on registers. A unit that is offered stays until it is taken, whatever
    is cleared.

    Parameters
    ----------
    description : :class:`nearbit_hw.soc.registers.RegisterMap`
        The interface.

    Members
    -------
    i : :py:`In(stream.Signature(beat_layout(data_bits)))`
        Packets.
    o_key, o_value, o_exp_table, o_rescore_key, o_rescore_query, o_command : \
:py:`Out(stream.Signature(...))`
        To the core's streams of these names, as far as it has them. Of :py:`o_command`, only the
        codes are driven, and :py:`n` if it must be 0: :py:`void`.
    o_append : :py:`Out(stream.Signature(code_layout(...)))`, o_row : :py:`Out(...)`
        With a memory: tokens to be appended, and beats of their rows.
    void : :py:`Out(1)`
        The batch that is offered, or the token whose row is, was not complete.
    start : :py:`In(1)`
        An operation starts, for one cycle, with
    command : :py:`In(3)`
        from the next cycle on.
    token : :py:`In(...)`, rescore : :py:`In(1)`, exp_table : :py:`In(...)`
        Token of the next load, and flags; they hold while :py:`busy`.
    final : :py:`In(1)`
        The token or batch that is being taken is the last one.
    clear, abandon : :py:`In(1)`
        End the operation, with or without dropping the rest of its packet.
    advance : :py:`Out(1)`
        A token or batch has been taken; :py:`token` and :py:`final` change in the next cycle.
    early, late : :py:`Out(1)`
        The packet ended before the operation, or not with it; for one cycle.
    busy : :py:`Out(1)`
        An operation takes its packet, or what it took waits for the core.
    dropping : :py:`Out(1)`
        The rest of a packet is being dropped.
    """

    i: stream.Interface
    o_key: stream.Interface
    o_value: stream.Interface
    o_exp_table: stream.Interface
    o_rescore_key: stream.Interface
    o_rescore_query: stream.Interface
    o_command: stream.Interface
    o_append: stream.Interface
    o_row: stream.Interface
    void: Signal
    start: Signal
    command: Signal
    token: Signal
    rescore: Signal
    exp_table: Signal
    final: Signal
    clear: Signal
    abandon: Signal
    advance: Signal
    early: Signal
    late: Signal
    busy: Signal
    dropping: Signal

    def __init__(self, description: RegisterMap):
        if not isinstance(description, RegisterMap):
            raise TypeError(f"Description must be a RegisterMap, not {description!r}")
        self._description = description
        config = description.config
        super().__init__({
            "i": In(stream.Signature(beat_layout(description.data_bits))),
            **{"o" + name[1:]: member.flip() for name, member in core_members(config).items()
               if name in LOADED},
            "o_command": Out(stream.Signature(data.ArrayLayout(config.key_bits, config.queries))),
            **({} if config.memory is None else {
                "o_append": Out(stream.Signature(
                    code_layout(capacity=config.capacity, key_bits=config.key_bits))),
                "o_row": Out(stream.Signature(config.memory.bus_bits))}),
            "void": Out(1),
            "start": In(1),
            "command": In(3),
            "token": In(description.register("TOKEN").bits),
            "rescore": In(1),
            "exp_table": In(description.register("EXP_TABLE").bits),
            "final": In(1),
            "clear": In(1),
            "abandon": In(1),
            "advance": Out(1),
            "early": Out(1),
            "late": Out(1),
            "busy": Out(1),
            "dropping": Out(1),
        })

    @property
    def description(self) -> RegisterMap:
        return self._description

    def elaborate(self, platform) -> Module:
        m = Module()
        config, bits = self._description.config, self._description.data_bits
        unit = config.rescore
        loads = config.memory is None # keys and values
        code_beats = -(-config.key_bits // bits)
        beats = {
            **({Command.LOAD_KEYS: code_beats,
                Command.LOAD_VALUES: -(-config.value_lanes * config.value_bits // bits)}
               if loads else {}),
            Command.LOAD_EXP_TABLE: 1,
            Command.QUERY: config.queries * code_beats,
        }
        rescore_beats = 0 # of rescore queries, after the head
        core_beats = {Command.LOAD_VALUES: config.beats} if loads else {}
        if unit is not None:
            rescore_beats = -(-unit.lanes * unit.element_bits // bits)
            if loads:
                beats[Command.LOAD_RESCORE_KEYS] = rescore_beats
                core_beats[Command.LOAD_RESCORE_KEYS] = unit.beats
            core_beats[Command.QUERY] = config.queries * unit.beats
        row_beats = 0 # of a beat of a row
        if config.memory is not None:
            row_beats = -(-config.memory.bus_bits // bits)
            beats[Command.APPEND] = code_beats
            core_beats[Command.APPEND] = RowFields.of(config).beats

        def is_command(command: Command) -> Value:
            return self.command == command

        # ---- The place in the packet.
        longest = max(*beats.values(), rescore_beats, row_beats)
        beat = Signal(range(longest))
        core_beat = Signal(range(max(core_beats.values(), default=1)))
        head = Signal(init=1)      # the token's or batch's first unit is being taken
        place = _Place(beat, core_beat, head)
        is_head = Signal()         # and it is something else than those that follow
        has_rest = Signal()        # units follow it
        last_beat, last_core_beat = Signal(), Signal()
        item_end = Signal()         # the beat is the last of its token or batch
        # The first unit of a token is another one than the rest of it.
        mixed = is_command(Command.LOAD_VALUES if loads else Command.APPEND)
        m.d.comb += [
            is_head.eq(head & (mixed | is_command(Command.QUERY))),
            has_rest.eq(mixed | (self.rescore & (unit is not None))),
            item_end.eq(last_beat & Mux(is_head, ~has_rest, last_core_beat)),
        ]
        with m.Switch(self.command):
            for command, count in beats.items():
                with m.Case(command.value):
                    m.d.comb += [last_beat.eq(beat == count - 1),
                                 last_core_beat.eq(core_beat == core_beats.get(command, 1) - 1)]
                    if command == Command.LOAD_VALUES:
                        with m.If(is_head):
                            m.d.comb += last_beat.eq(1)
                    if command == Command.QUERY and unit is not None:
                        with m.If(~is_head):
                            m.d.comb += last_beat.eq(beat == rescore_beats - 1)
                    if command == Command.APPEND:
                        with m.If(~is_head):
                            m.d.comb += last_beat.eq(beat == row_beats - 1)

        # ---- Taking beats.
        take = Signal()    # a beat goes on: one of the stream, or padding
        room = Signal()    # the unit before is gone, or going
        active = Signal()
        void = Signal()
        waiting = Signal() # a batch is offered to the core, by registers of its own
        m.d.comb += self.void.eq(void)
        with m.If(take):
            m.d.sync += beat.eq(beat + 1)
            with m.If(last_beat):
                m.d.sync += [beat.eq(0), head.eq(0), core_beat.eq(core_beat + ~is_head)]
            with m.If(item_end):
                m.d.sync += [head.eq(1), core_beat.eq(0)]

        self._run(m, place, take=take, item_end=item_end, room=room, active=active, void=void,
                  waiting=waiting)

        # ---- Handing units over.
        full = Signal()
        collected = Signal(longest * bits, reset_less=True)
        held_token = Signal(len(self.token), reset_less=True)
        held_core_beat = Signal(len(core_beat), reset_less=True)
        scale = Signal(SCALE_BITS, reset_less=True)
        keeps_scale = is_head & is_command(Command.LOAD_VALUES)
        taken = Signal()
        m.d.comb += room.eq(~full | taken)
        with m.If(taken | (self.o_command.valid & self.o_command.ready & (unit is None))):
            m.d.sync += full.eq(0)
        with m.If(take & keeps_scale):
            m.d.sync += scale.eq(self.i.p.data)
        with m.If(take & ~keeps_scale):
            m.d.sync += Cat(collected).eq(Cat(collected[bits:], self.i.p.data))
            with m.If(last_beat):
                m.d.sync += [full.eq(1), held_token.eq(self.token), held_core_beat.eq(core_beat)]

        def hand(target: stream.Interface, offered: Value, beats: int, field: str | None = None,
                 **fields: Value) -> None:
            """Offer the unit, of a number of beats, to a stream of the core."""
            payload: Any = target.payload
            part = Value.cast(payload if field is None else payload[field])
            m.d.comb += [target.valid.eq(full & offered), part.eq(collected[-bits * beats:]),
                         *(payload[name].eq(value) for name, value in fields.items())]
            with m.If(full & offered):
                m.d.comb += taken.eq(target.ready)

        if loads:
            hand(self.o_key, is_command(Command.LOAD_KEYS), code_beats, "code", token=held_token)
            hand(self.o_value, is_command(Command.LOAD_VALUES), beats[Command.LOAD_VALUES],
                 "elements", token=held_token, beat=held_core_beat, scale=scale)
        hand(self.o_exp_table, is_command(Command.LOAD_EXP_TABLE), 1, "weight", distance=held_token,
             exp_table=self.exp_table)
        codes = collected[-beats[Command.QUERY] * bits:]
        held_head, held_end = Signal(), Signal()
        if unit is not None or not loads:
            with m.If(take & last_beat):
                m.d.sync += [held_head.eq(is_head), held_end.eq(item_end)]
        if not loads:
            is_append = is_command(Command.APPEND)
            hand(self.o_append, is_append & held_head, code_beats, "code", token=held_token)
            hand(self.o_row, is_append & ~held_head, row_beats)
        if unit is None:
            m.d.comb += self.o_command.valid.eq(full & is_command(Command.QUERY))
        else:
            if loads:
                hand(self.o_rescore_key, is_command(Command.LOAD_RESCORE_KEYS), rescore_beats,
                     "elements", token=held_token, beat=held_core_beat)
            hand(self.o_rescore_query, is_command(Command.QUERY) & ~held_head, rescore_beats)
            kept = Signal(len(codes), reset_less=True)
            m.d.comb += self.o_command.valid.eq(waiting)
            with m.If(self.o_command.ready):
                m.d.sync += waiting.eq(0)
            with m.If(full & is_command(Command.QUERY)):
                with m.If(held_head & ~waiting):
                    m.d.comb += taken.eq(1)
                    m.d.sync += kept.eq(codes)
                with m.If(taken & held_end):
                    m.d.sync += waiting.eq(1)
            codes = kept
        m.d.comb += [code.eq(codes[place * code_beats * bits:])
                     for place, code in enumerate(self.o_command.payload)]
        m.d.comb += self.busy.eq(active | full | waiting)
        return m

    def _run(self, m: Module, place: _Place, *, take: Signal, item_end: Signal, room: Signal,
             active: Signal, void: Signal, waiting: Signal) -> None:
        """Go through an operation's packet, beat by beat.

        Parameters
        ----------
        take, active, void
            To be driven: a beat goes on, one of the stream or padding; the packet is not at its
            end; the batch that is padded is not complete.
        item_end
            The beat is the last of its token or batch.
        room
            A beat can go on.
        waiting
            A batch is offered to the core.
        """
        config = self._description.config
        padded = [command for command, is_there in (
            (Command.QUERY, config.rescore is not None),
            (Command.APPEND, config.memory is not None)) if is_there]
        touched = Signal() # some of the packet has come
        stop = self.clear | self.abandon
        with m.FSM():
            with m.State("Idle"):
                m.d.sync += touched.eq(0)
                with m.If(self.start):
                    m.d.sync += void.eq(0)
                    m.next = "Run"
            with m.State("Run"):
                m.d.comb += [active.eq(1), self.i.ready.eq(room & ~stop),
                             take.eq(self.i.valid & self.i.ready), self.advance.eq(take & item_end)]
                with m.If(stop):
                    m.next = "End"
                    with m.If(touched & ~self.abandon):
                        m.next = "Drop"
                with m.Elif(take):
                    m.d.sync += touched.eq(1)
                    with m.If(item_end & self.final):
                        m.next = "Idle"
                        with m.If(~self.i.p.last):
                            m.d.comb += self.late.eq(1)
                            m.next = "Drop"
                    with m.Elif(self.i.p.last):
                        m.d.comb += self.early.eq(1)
                        m.next = "End"
            with m.State("Drop"):
                m.d.comb += [active.eq(1), self.dropping.eq(1), self.i.ready.eq(1)]
                with m.If(self.abandon | (self.i.valid & self.i.p.last)):
                    m.next = "End"
            with m.State("End"):
                m.d.comb += active.eq(1)
                m.next = "Idle"
                m.d.sync += [place.beat.eq(0), place.head.eq(1), place.core_beat.eq(0)]
                if padded:
                    with m.If(Cat(self.command == command for command in padded).any()
                              & ~place.head):
                        m.d.sync += [place.beat.eq(place.beat), place.head.eq(0),
                                     place.core_beat.eq(place.core_beat)]
                        m.next = "End"
                        with m.If(~waiting): # a batch before it is not void
                            m.d.sync += void.eq(1)
                            m.next = "Pad"
            if padded:
                with m.State("Pad"):
                    m.d.comb += [active.eq(1), take.eq(room)]
                    with m.If(take & item_end):
                        m.next = "Idle"
