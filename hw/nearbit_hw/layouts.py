"""Payload layouts of the streams between the units, each defined once.

Sizes are those of :class:`nearbit_model.Config`. :py:`rescore` says whether there is a rescoring
unit, :py:`shared` whether queries may share a selection.
"""

from typing import Any

from amaranth import *
from amaranth.lib import data, enum

from nearbit_model.config import MULTIPLIER_BITS
from nearbit_model.structure import Error as Code


__all__ = ["CacheError", "Error", "code_layout", "code_word_layout", "codes_layout",
           "distance_word_layout", "elements_layout", "gathered_key_layout",
           "rescore_write_layout", "key_layout", "order_layout", "place_fields", "place_layout",
           "command_layout", "result_layout", "select_layout", "sums_layout", "exp_table_layout",
           "trace_layout", "value_layout", "value_word_layout", "value_write_layout",
           "weighted_layout",
           "softmax_command_layout", "word_layout"]


class Error(enum.Enum, shape=3):
    """Why a query has no result: the codes of :class:`nearbit_model.structure.Error`."""

    OK = Code.OK.value
    NO_N = Code.NO_N.value
    TOO_MANY = Code.TOO_MANY.value
    EMPTY = Code.EMPTY.value
    RANGE = Code.RANGE.value
    EXP_TABLE = Code.EXP_TABLE.value
    RESCORE = Code.RESCORE.value
    SHARED = Code.SHARED.value


class CacheError(enum.Enum, shape=4):
    """The same, for a core whose keys and values are in a memory."""

    OK = Code.OK.value
    NO_N = Code.NO_N.value
    TOO_MANY = Code.TOO_MANY.value
    EMPTY = Code.EMPTY.value
    RANGE = Code.RANGE.value
    EXP_TABLE = Code.EXP_TABLE.value
    RESCORE = Code.RESCORE.value
    SHARED = Code.SHARED.value
    NOT_SET = Code.NOT_SET.value
    CODES = Code.CODES.value
    ROWS = Code.ROWS.value


# ---- Commands.

def place_fields(*, heads: int, sequences: int) -> dict[str, Any]:
    """Fields that name a head and a sequence; none without heads."""
    return {"head": range(heads), "sequence": range(sequences)} if heads else {}


def command_layout(*, key_bits: int, capacity: int, queries: int, exp_tables: int,
                   rescore: bool = False, heads: int = 0, sequences: int = 0) -> data.StructLayout:
    """Layout of a command; see :class:`nearbit_hw.core.Core`. :py:`heads` with a memory only."""
    return data.StructLayout({
        **place_fields(heads=heads, sequences=sequences),
        "first": range(capacity),
        "n": range(capacity + 1),
        "sink": range(capacity + 1),
        "recent": range(capacity + 1),
        "trace": 1,
        "rescore": 1,
        "shared": 1,
        "queries": data.ArrayLayout(data.StructLayout({
            "code": key_bits,
            "count": range(capacity + 1),
            "exp_table": range(exp_tables),
            **({"multiplier": MULTIPLIER_BITS} if rescore else {}),
        }), queries),
    })


def order_layout(*, queries: int, exp_tables: int, rescore: bool = False, shared: bool = False,
                 heads: int = 0, sequences: int = 0) -> data.StructLayout:
    """Layout of a command's order for later units: each query's error and its weighting."""
    return data.StructLayout({
        **place_fields(heads=heads, sequences=sequences),
        "queries": data.ArrayLayout(data.StructLayout({
            "error": CacheError if heads else Error,
            "exp_table": range(exp_tables),
            **({"multiplier": MULTIPLIER_BITS} if rescore else {}),
        }), queries),
        "trace": 1,
        **({"rescore": 1} if rescore else {}),
        **({"shared": 1} if shared else {}),
    })


def select_layout(*, capacity: int, lanes: int, top_n: int,
                  shared: bool = False) -> data.StructLayout:
    """Layout of a query's command to its selector; see :class:`nearbit_hw.select.Selector`."""
    return data.StructLayout({
        "word": range(capacity // lanes),
        "skip": range(lanes),
        "count": range(capacity + 1),
        "n": range(top_n + 1),
        "sink": range(top_n + 1),
        "recent": range(top_n + 1),
        **({"shared": 1} if shared else {}),
    })


def softmax_command_layout(*, exp_tables: int, rescore: bool,
                           queries: int = 0) -> data.StructLayout:
    """Layout of a selection's weighting; with :py:`queries`, also the query's number."""
    return data.StructLayout({
        **({"query": range(queries)} if queries else {}),
        "exp_table": range(exp_tables),
        "trace": 1,
        **({"rescore": 1, "multiplier": MULTIPLIER_BITS} if rescore else {}),
    })


# ---- Keys and their distances.

def code_layout(*, capacity: int, key_bits: int) -> data.StructLayout:
    """Layout of a write of a key's code."""
    return data.StructLayout({"token": range(capacity), "code": key_bits})


def codes_layout(*, key_bits: int, queries: int) -> data.StructLayout:
    """Layout of a command's codes, with one bit for each active query."""
    return data.StructLayout({"codes": data.ArrayLayout(key_bits, queries), "active": queries})


def word_layout(*, capacity: int, lanes: int) -> data.StructLayout:
    """Layout of a request for a word of keys; :py:`last` is set on a command's last one."""
    return data.StructLayout({"word": range(capacity // lanes), "last": 1})


def code_word_layout(*, key_bits: int, lanes: int, fetched: bool = False) -> data.StructLayout:
    """Layout of a word of keys' codes, lane 0 lowest; with :py:`fetched`, read from a memory.

    A fetched word is :py:`failed` if it, or a word before it in the same command, could not be
    read.
    """
    return data.StructLayout({
        "codes": data.ArrayLayout(key_bits, lanes),
        "last": 1,
        **({"failed": 1} if fetched else {}),
    })


def distance_word_layout(*, distance_max: int, lanes: int) -> data.StructLayout:
    """Layout of a word of keys' distances, lane 0 lowest."""
    return data.StructLayout({
        "distances": data.ArrayLayout(range(distance_max + 1), lanes), "last": 1})


# ---- Selected keys.

def _measures(distance_max: int, score_max: int) -> dict[str, Any]:
    """Field for a key's distance, and one for its score unless :py:`score_max` is 0."""
    return {
        "distance": range(distance_max + 1),
        **({"score": range(-score_max, score_max + 1)} if score_max else {}),
    }


def key_layout(*, capacity: int, distance_max: int, score_max: int = 0,
               rescore: bool = False) -> data.StructLayout:
    """Layout of a selected key; :py:`last` is set on a selection's last one.

    With :py:`rescore`, that of a key on its way to the rescoring unit: :py:`rescore` asks for its
    score, and :py:`skip` marks a placeholder for a selection that failed.
    """
    return data.StructLayout({
        "index": range(capacity),
        **_measures(distance_max, score_max),
        "last": 1,
        **({"rescore": 1, "skip": 1} if rescore else {}),
    })


def gathered_key_layout(*, capacity: int, distance_max: int, heads: int, sequences: int,
                        rescore: bool = False, shared: bool = False) -> data.StructLayout:
    """Layout of a selected key whose row must be read from memory.

    Where queries may share selections, a selection with :py:`repeats` has the same keys as the one
    before, and one with :py:`keeps` the same keys as the next.
    """
    key = key_layout(capacity=capacity, distance_max=distance_max, rescore=rescore)
    return data.StructLayout({
        **{name: field.shape for name, field in key},
        **place_fields(heads=heads, sequences=sequences),
        **({"repeats": 1, "keeps": 1} if shared else {}),
    })


def weighted_layout(*, capacity: int, beats: int, weight_bits: int) -> data.StructLayout:
    """Layout of a selected key with its weight, for one beat of the values."""
    return data.StructLayout({
        "index": range(capacity),
        "beat": range(beats),
        "weight": weight_bits,
        "last": 1,
    })


def trace_layout(*, capacity: int, distance_max: int, score_max: int, weight_bits: int,
                 queries: int = 0) -> data.StructLayout:
    """Layout of a trace entry, a selected key; with :py:`queries`, also the query's number."""
    return data.StructLayout({
        **({"query": range(queries)} if queries else {}),
        "index": range(capacity),
        **_measures(distance_max, score_max),
        "weight": weight_bits,
        "last": 1,
    })


# ---- Stores and exp tables.

def place_layout(*, capacity: int, beats: int) -> data.StructLayout:
    """Layout of a request for a beat of a key or a value vector."""
    return data.StructLayout({"token": range(capacity), "beat": range(beats)})


def elements_layout(bits: int, lanes: int) -> data.ArrayLayout:
    """Layout of the elements of a beat, two's complement, the first lowest."""
    return data.ArrayLayout(signed(bits), lanes)


def rescore_write_layout(*, capacity: int, beats: int, element_bits: int,
                         lanes: int) -> data.StructLayout:
    """Layout of a write of a beat of a rescore key."""
    return data.StructLayout({
        "token": range(capacity),
        "beat": range(beats),
        "elements": elements_layout(element_bits, lanes),
    })


def value_layout(*, value_bits: int, value_lanes: int, scale_bits: int) -> data.StructLayout:
    """Layout of a beat of a value vector, with the vector's scale."""
    return data.StructLayout({
        "elements": elements_layout(value_bits, value_lanes), "scale": scale_bits})


def value_word_layout(*, value_bits: int, value_lanes: int, scale_bits: int) -> data.UnionLayout:
    """Layout of a beat of a value vector, or of the vector's scale as a beat of its own."""
    return data.UnionLayout({
        "elements": elements_layout(value_bits, value_lanes), "scale": scale_bits})


def value_write_layout(*, capacity: int, beats: int, value_bits: int, value_lanes: int,
                       scale_bits: int) -> data.StructLayout:
    """Layout of a write of a beat of a value vector."""
    return data.StructLayout({
        "token": range(capacity),
        "beat": range(beats),
        "elements": elements_layout(value_bits, value_lanes),
        "scale": scale_bits,
    })


def exp_table_layout(*, exp_tables: int, key_bits: int, weight_bits: int) -> data.StructLayout:
    """Layout of an entry of an exp table."""
    return data.StructLayout({
        "exp_table": range(exp_tables), "distance": range(key_bits + 1), "weight": weight_bits})


# ---- Results.

def sums_layout(*, sum_bits: int, value_lanes: int, total_max: int) -> data.StructLayout:
    """Layout of a beat's sums, with the sum of the weights."""
    return data.StructLayout({
        "sums": data.ArrayLayout(signed(sum_bits), value_lanes), "total": range(total_max + 1)})


def result_layout(*, queries: int, output_bits: int, cached: bool = False) -> data.StructLayout:
    """Layout of an element of a result, or an error in its place; :py:`cached` with a memory."""
    return data.StructLayout({
        "query": range(queries), "error": CacheError if cached else Error,
        "output": signed(output_bits), "last": 1})
