"""Structure of the hardware that does not depend on the configuration.

The hardware (:mod:`nearbit_hw`), its cycle model (:mod:`nearbit_model.cycles`) and the derived
properties of :class:`~nearbit_model.Config` read these facts here. The golden arithmetic does not
depend on them.
"""

from dataclasses import dataclass
from enum import IntEnum


__all__ = ["ACCUMULATOR_DEPTH", "ACCUMULATOR_LATENCY", "BANKS", "CLEARING_GAP",
           "COMMANDS_IN_FLIGHT",
           "EMIT_LATENCY", "EMIT_WASTE", "RESCORE_KEY_STORE_LATENCY", "RESCORE_QUERIES", "FAN_IN",
           "KEY_STORE_LATENCY", "PART_FAN_IN", "RESCORER_DEPTH", "RESULTS_IN_FLIGHT",
           "QUERIES_PER_STAGE", "SCALING_GAP", "SHIFT_STEP", "TRACES_IN_FLIGHT",
           "VALUE_STORE_LATENCY", "SOFTMAX_BUFFERS", "CounterTimes", "Error", "HistogramTimes",
           "ReciprocalTimes", "rescorer_latency",
           "tree_latency", "softmax_latency"]


class Error(IntEnum):
    """Why a query of a command has no result: the first reason that applies, in this order."""

    OK = 0
    #: :py:`n` is 0.
    NO_N = 1
    #: :py:`n + sink + recent` is more than :py:`top_n`.
    TOO_MANY = 2
    #: The query's count is 0: the way to leave a query unused.
    EMPTY = 3
    #: The query's range exceeds the loaded tokens.
    RANGE = 4
    #: The query's exp table is not loaded. A command with :py:`rescore` needs none.
    EXP_TABLE = 5
    #: :py:`rescore` or :py:`shared` is set, but there is no unit for it.
    RESCORE = 6
    #: :py:`shared` is set without :py:`rescore`, or the queries' counts differ.
    SHARED = 7
    #: The head, or the first page of the range, was not set in the tables of the memory.
    NOT_SET = 8
    #: Codes could not be read from memory: it answered with an error, or not at all, or a page of
    #: the range was not set.
    CODES = 9
    #: The same for rows.
    ROWS = 10


# ---- Trees of adders.

FAN_IN = 4
"""Terms added per node: these fit one or two levels of 4-input LUTs."""


def tree_latency(count: int, fan_in: int = FAN_IN) -> int:
    """Return the levels, and so the cycles, of a tree over :py:`count` terms; at least one."""
    levels, terms = 1, -(-count // fan_in)
    while terms > 1:
        levels, terms = levels + 1, -(-terms // fan_in)
    return levels


# ---- Scoring.

KEY_STORE_LATENCY = 1
"""Cycles from requesting a word of keys to its codes: block RAM."""

QUERIES_PER_STAGE = 4
"""Most queries of the array that read the same key registers."""


# ---- Selection.

REGISTERED_LANES = 16
"""Lanes above which the banks are spread over a device. Keys read from them are then registered
before they are compared, and again between being chosen and entering the key queue."""


BANKS = 3
"""Queries in flight in a selection by counters: one is counted, one refined, one emitted."""

EMIT_LATENCY = 7
"""Cycles from the start of emitting a query to its first key, if that is in the first word."""

EMIT_WASTE = 3
"""Cycles spent on words fetched just before the quota was reached."""


@dataclass(frozen=True)
class CounterTimes:
    """Sizes and cycles of a selection by counters (:class:`nearbit_hw.select.TopN`)."""

    lanes: int
    refine_lanes: int
    top_n: int

    @property
    def group(self) -> int:
        """Words whose summaries are examined per cycle."""
        return max(8, self.refine_lanes // self.lanes)

    @property
    def registers(self) -> int:
        """Registers after each bank and before the key queue."""
        return int(self.lanes > REGISTERED_LANES)

    @property
    def count_latency(self) -> int:
        """Cycles from a query's last word to the first read of refining it."""
        return 4 + tree_latency(self.lanes)

    @property
    def refine_latency(self) -> int:
        """Cycles from the last read of refining a query to the start of emitting it."""
        return 4 + tree_latency(self.refine_lanes) + self.registers

    @property
    def key_latency(self) -> int:
        """Cycles from choosing a key, through the key queue, until it is presented."""
        return 2 + self.registers

    @property
    def key_depth(self) -> int:
        """Places of the key queue.

        One stays free, so that a full queue differs from an empty one, and one is for the key that
        may be written in the cycle in which the next query is allowed to start. Keys that are
        leaving by then must not delay that, as when they leave depends on when they were found.
        """
        return 1 << (self.top_n + 2 + self.registers).bit_length()

    @property
    def queue_limit(self) -> int:
        """Most keys in the queue when emitting a query may start; its own then have room."""
        return self.key_depth - self.top_n - 2

    def emit_cycles(self, *, words: int, selected: int) -> int:
        """Cycles from the start of emitting a query to its last key, if never stalled.

        With registers, a word arrives a cycle later, and two more words are fetched in vain.
        """
        return (-(-words // self.group) + selected - 2 + EMIT_LATENCY + EMIT_WASTE
                + 4 * self.registers)


PART_FAN_IN = 16
"""Lanes added between two registers when the parts of the bins are counted."""


@dataclass(frozen=True)
class HistogramTimes:
    """Sizes and cycles of a selection by histograms (:class:`nearbit_hw.select.HistogramTopN`)."""

    key_bits: int
    lanes: int
    refine_lanes: int
    overlap: bool
    #: Minimum number of cycles from accepting a command to its first distances.
    lead: int = 2
    #: Keys per block, or 0, and the most keys that a query selects, which matters with blocks only.
    block: int = 0
    top_n: int = 0

    @property
    def limit(self) -> int:
        """Most queries whose bins are in use; as many others may be scanned or emitted."""
        return 2 if self.overlap else 1

    @property
    def unhanded(self) -> int:
        """Most queries being counted or merged at the same time."""
        return 3 if self.overlap else 1

    @property
    def banks(self) -> int:
        """Queries in flight at the same time."""
        if self.block:
            # If this holds, no more than three are in flight, even with short blocks.
            return 3 if self.block_cycles + self.lead <= self.block // self.lanes else 4
        return 4 if self.overlap else 2

    @property
    def group(self) -> int:
        """Lanes searched for a selected key at once."""
        return min(4, self.lanes)

    @property
    def groups(self) -> int:
        """Groups of lanes scanned per cycle."""
        return self.refine_lanes // self.group

    @property
    def steps(self) -> int:
        """Levels of a tree over the groups."""
        return self.groups.bit_length() - 1

    @property
    def parts(self) -> int:
        """Parts of the bins; counting finds the one with the threshold.

        This is worth its logic where low latency matters: if more lanes are scanned than counted.
        With blocks, all bins are needed, as they are carried to the next block.
        """
        part = self.key_bits // 4
        whole = self.key_bits % 4 == 0 and part & (part - 1) == 0
        quick = self.overlap and not self.block and self.refine_lanes > self.lanes
        return 4 if whole and quick else 1

    @property
    def part_bins(self) -> int:
        """Bins searched for the threshold."""
        return self.bins // self.parts

    @property
    def settle_latency(self) -> int:
        """Cycles from a query's last word until it can be merged."""
        return 1 if self.parts == 1 else 2 + tree_latency(self.lanes, PART_FAN_IN)

    @property
    def count_latency(self) -> int:
        """Cycles from a query's last word to the start of merging it; the word is counted by then.
        """
        return self.settle_latency + int(self.overlap and self.parts == 1)

    @property
    def bins(self) -> int:
        """Bins read and cleared in each memory; that of the largest distance is not."""
        return self.key_bits if self.overlap else 2 * self.key_bits

    @property
    def merge_interval(self) -> int:
        """Minimum number of cycles from the start of one merge to the start of the next."""
        levels = self.lanes.bit_length() - 1
        # A query's state waits with its bins until the first one is summed.
        return max(self.bins + 1, 4 + levels) if self.overlap else self.bins + 1

    @property
    def merge_cycles(self) -> int:
        """Cycles from the start of merging a query to its hand-over, if the scan is free."""
        return self.part_bins + (6 if self.overlap else 5) + self.lanes.bit_length() - 1

    @property
    def last_kept(self) -> int:
        """The bin being read when the query's bins may be released to the next query but one.

        The distances of that one cannot come before the remaining bins have been read, and the
        next query's merge has started; the count continues after the last bin.
        """
        return max(self.merge_interval - 3 - self.lead, 0)

    @property
    def free_latency(self) -> int:
        """With overlap, cycles from the start of merging a query to the release of its bins."""
        return 1 + self.last_kept

    @property
    def clear_cycles(self) -> int:
        """Cycles from reset until all bins are cleared, by merging them as if for queries."""
        return (self.limit - 1) * self.merge_interval + max(self.merge_cycles, self.bins) + 1

    @property
    def scan_gap(self) -> int:
        """Cycles from a query's last read to the earliest hand-over of the next."""
        return 5 + self.steps

    @property
    def scan_latency(self) -> int:
        """Cycles from a query's last read to the start of emitting it, if that is free."""
        return (6 if self.overlap else 5) + self.steps

    @property
    def emit_latency(self) -> int:
        """Cycles from the start of emitting a query to its first key, if never stalled."""
        if self.groups > 1:
            return 7 + (self.block > 0)
        return (5 if self.overlap else 4) + (self.block > 0)

    def filter_cycles(self, survivors: int) -> int:
        """Cycles by which emitting a block is delayed as survivors of earlier blocks pass first."""
        return survivors + self.emit_latency + 1

    @property
    def slowest_stage(self) -> tuple[str, int]:
        """The stage that limits the rate of successive blocks, and its cycles per block.

        If these are no more than a block's words, words never wait for the selection of a block of
        the same query.
        """
        stages = {
            "merge its distances": max(
                self.merge_interval, self.count_latency + self.free_latency + self.lead,
                -(-(self.count_latency + self.merge_cycles + self.lead) // 2)),
            "read them again": self.block // self.refine_lanes + self.scan_gap,
            "list top_n keys": self.filter_cycles(self.top_n) + self.emit_latency + self.top_n - 2,
            "do all of that": -(-(self.block_cycles + self.lead) // (self.banks - 1)),
        }
        return max(stages.items(), key=lambda stage: stage[1])

    @property
    def block_cycles(self) -> int:
        """Cycles from a full block's last word until it is emitted, if nothing delays it."""
        return (self.count_latency + self.merge_cycles + self.block // self.refine_lanes
                + self.scan_latency + self.filter_cycles(self.top_n) + self.emit_latency
                + self.top_n)


# ---- From the selection to the results.

COMMANDS_IN_FLIGHT = 4
"""Commands between their start and the merging of their queries, one of which is in a register;
three are in the selection."""

RESULTS_IN_FLIGHT = 8
"""Queries between their selection and their result; no unit holds more than two, except of those
with a single key."""

TRACES_IN_FLIGHT = 4
"""Queries between their command to Softmax and the end of their trace: at most two in its buffers,
and two of a single key each in its pipeline, which is longer with rescoring."""

RESCORE_QUERIES = 8
"""Rescore queries held for each query of a command, so that a host may send them with their
commands: as many commands as are in flight before the values."""

RESCORER_DEPTH = 2
"""Keys in front of the rescorer's pipeline, whose beats are requested or that need none."""

RESCORE_KEY_STORE_LATENCY = 1
"""Cycles from requesting a beat of a key to its elements: block RAM."""


def rescorer_latency(lanes: int) -> int:
    """Return the cycles from a key's last beat to its score: operands, products, tree, sum."""
    return 3 + (tree_latency(lanes) if lanes > 1 else 0)


SOFTMAX_BUFFERS = 2
"""Selections in Softmax: one is filled, one replayed."""


def softmax_latency(*, scores: bool) -> int:
    """Return the cycles from a key's turn in the replay to its weight.

    One each for buffer, subtraction and exp table; with scores, also two for a product and one for
    a shift.
    """
    return 6 if scores else 3


VALUE_STORE_LATENCY = 2
"""Cycles from requesting a beat of values to its elements: block RAM, and a register."""

ACCUMULATOR_LATENCY = 4
"""Cycles from the elements of a beat's last key to its sums: two products, two sums."""

SCALING_GAP = 3
"""Where scales have their own beat, minimum number of cycles from a key's scale to its first
elements: until the scaled weight is stored."""

CLEARING_GAP = 2
"""There, cycles from the last key of a beat of elements to what follows: until the sums are clear.
"""

ACCUMULATOR_DEPTH = 2
"""Weights that wait for their beats of values, not counting the next one."""


# ---- Division by the reciprocal.

SHIFT_STEP = 16
"""Places by which a total is shifted at once; a product with a power of two does the rest."""


@dataclass(frozen=True)
class ReciprocalTimes:
    """Widths and cycles of a division by the reciprocal
    (:class:`nearbit_hw.attend.ReciprocalNormalizer`).

    Parameters
    ----------
    total_bits
        Bits of the divisor.
    output_bits
        Bits of the quotient.
    index_most
        The most bits that index the table of reciprocals; 9 fill a block RAM.
    """

    total_bits: int
    output_bits: int
    index_most: int = 9

    @property
    def bits(self) -> int:
        """Bits of the reciprocal."""
        return self.output_bits + 2

    @property
    def factor_bits(self) -> int:
        """The most bits of a normalized sum that are multiplied by the reciprocal."""
        return self.output_bits + 2

    @property
    def shift_steps(self) -> int:
        """Steps of 16 places in which a total is normalized."""
        return (self.total_bits - 1) // SHIFT_STEP

    @property
    def index_bits(self) -> int:
        """Bits of a normalized total, after its leading 1, that index the table."""
        most = min(-(-self.bits // 2), self.index_most)
        return min(most, self.total_bits - 1)

    @property
    def table_bits(self) -> int:
        """Bits of a reciprocal from the table and its slope."""
        if self.index_bits == self.total_bits - 1:
            return self.bits
        return min(self.bits, 2 * self.index_bits)

    @property
    def guard_bits(self) -> int:
        """Bits that the table has below the lowest bit of a reciprocal."""
        return 3

    @property
    def slope_bits(self) -> int:
        """Bits of a normalized total, after the index, by which the slope is multiplied."""
        return min(self.total_bits - 1 - self.index_bits,
                   self.table_bits + 3 - self.index_bits)

    @property
    def is_refined(self) -> bool:
        """Whether a step of Newton's method follows the table."""
        return self.table_bits < self.bits

    def products(self, value_bits: int) -> list[tuple[int, int]]:
        """Bits of the two factors of each product, for sums of values with that many bits.

        Products: the shifts of a sum and of a total, the slope, the estimate, and the
        multiplication back by the total's lower bits; Newton's step adds two.
        """
        width, power = value_bits + self.total_bits, min(SHIFT_STEP, self.total_bits)
        # A remainder of up to four bits is shifted, and one of up to six multiplied, in logic.
        shifted = self.total_bits - self.total_bits % 18 * (self.total_bits % 18 <= 4)
        found = [(width, power), (shifted, power), (min(self.factor_bits, width), self.bits),
                 (self.bits, min(self.total_bits, 17))]
        if self.total_bits > 23:
            found.append((self.total_bits - 15, self.total_bits - 17))
        if self.slope_bits:
            found.append((self.slope_bits, self.table_bits + 3 - self.index_bits))
        if self.is_refined:
            found += [(self.table_bits + 1, self.total_bits),
                      (self.table_bits + 1, self.total_bits + 2)]
        return found

    @property
    def reciprocal_latency(self) -> int:
        """Cycles from a total to its reciprocal.

        Steps of the shift, the power of two, its product; two for the table, two for its slope;
        three for Newton's step if there is one.
        """
        return self.shift_steps + 6 + 3 * self.is_refined

    @property
    def latency(self) -> int:
        """Cycles from a sum to its quotient: two products, rounding, comparison, correction."""
        return self.reciprocal_latency + 5
