"""Payloads of the streams between the units, each in one place.

Sizes are those of :class:`nearbit_model.Config`; :py:`rescore` and :py:`shared` are whether there
is a unit for exact scores, and whether rows may share a selection.
"""

from typing import Any

from amaranth import *
from amaranth.lib import data, enum

from nearbit_model.config import MULTIPLIER_BITS
from nearbit_model.structure import Error as Code


__all__ = ["Error", "code_layout", "code_word_layout", "codes_layout", "distance_word_layout",
           "elements_layout", "exact_write_layout", "key_layout", "order_layout", "place_layout",
           "query_layout", "result_layout", "select_layout", "sums_layout", "table_layout",
           "trace_layout", "value_layout", "value_write_layout", "weighted_layout",
           "weights_command_layout", "word_layout"]


class Error(enum.Enum, shape=3):
    """Why a row of a command has no result: the codes of :class:`nearbit_model.structure.Error`."""

    OK = Code.OK.value
    NO_N = Code.NO_N.value
    TOO_MANY = Code.TOO_MANY.value
    EMPTY = Code.EMPTY.value
    RANGE = Code.RANGE.value
    TABLE = Code.TABLE.value
    RESCORE = Code.RESCORE.value
    SHARED = Code.SHARED.value


# ---- Commands.

def query_layout(*, key_bits: int, capacity: int, rows: int, tables: int,
                 rescore: bool = False) -> data.StructLayout:
    """Layout of a command, see :class:`nearbit_hw.core.Core`."""
    return data.StructLayout({
        "first": range(capacity),
        "n": range(capacity + 1),
        "sink": range(capacity + 1),
        "recent": range(capacity + 1),
        "trace": 1,
        "rescore": 1,
        "shared": 1,
        "rows": data.ArrayLayout(data.StructLayout({
            "code": key_bits,
            "count": range(capacity + 1),
            "table": range(tables),
            **({"multiplier": MULTIPLIER_BITS} if rescore else {}),
        }), rows),
    })


def order_layout(*, rows: int, tables: int, rescore: bool = False,
                 shared: bool = False) -> data.StructLayout:
    """Layout of what follows a command: whether each row is good, and how to weight it."""
    return data.StructLayout({
        "rows": data.ArrayLayout(data.StructLayout({
            "error": Error,
            "table": range(tables),
            **({"multiplier": MULTIPLIER_BITS} if rescore else {}),
        }), rows),
        "trace": 1,
        **({"rescore": 1} if rescore else {}),
        **({"shared": 1} if shared else {}),
    })


def select_layout(*, capacity: int, lanes: int, top_n: int,
                  shared: bool = False) -> data.StructLayout:
    """Layout of what a row is to select, see :class:`nearbit_hw.select.Selector`."""
    return data.StructLayout({
        "word": range(capacity // lanes),
        "skip": range(lanes),
        "count": range(capacity + 1),
        "n": range(top_n + 1),
        "sink": range(top_n + 1),
        "recent": range(top_n + 1),
        **({"shared": 1} if shared else {}),
    })


def weights_command_layout(*, tables: int, rescore: bool, rows: int = 0) -> data.StructLayout:
    """Layout of how a selection is weighted; with :py:`rows`, also of which row it is."""
    return data.StructLayout({
        **({"row": range(rows)} if rows else {}),
        "table": range(tables),
        "trace": 1,
        **({"rescore": 1, "multiplier": MULTIPLIER_BITS} if rescore else {}),
    })


# ---- Keys, and their distances.

def code_layout(*, capacity: int, key_bits: int) -> data.StructLayout:
    """Layout of a key's code, to be stored."""
    return data.StructLayout({"row": range(capacity), "code": key_bits})


def codes_layout(*, key_bits: int, rows: int) -> data.StructLayout:
    """Layout of a command's codes, and of which rows take part."""
    return data.StructLayout({"codes": data.ArrayLayout(key_bits, rows), "active": rows})


def word_layout(*, capacity: int, lanes: int) -> data.StructLayout:
    """Layout of a word of keys that is asked for; :py:`last` with a command's last one."""
    return data.StructLayout({"word": range(capacity // lanes), "last": 1})


def code_word_layout(*, key_bits: int, lanes: int, fetched: bool = False) -> data.StructLayout:
    """Layout of a word of keys' codes, lane 0 lowest; if fetched from a memory, which may fail.

    A word is :py:`failed` if it, or a word before it of the same command, could not be read.
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
    """Fields of a key's distance, and of its score if scores are not 0."""
    return {
        "distance": range(distance_max + 1),
        **({"score": range(-score_max, score_max + 1)} if score_max else {}),
    }


def key_layout(*, capacity: int, distance_max: int, score_max: int = 0,
               rescore: bool = False) -> data.StructLayout:
    """Layout of a selected key; :py:`last` with a selection's last one.

    With :py:`rescore`, of one on its way to the unit for exact scores: also whether it is to be
    rescored, and whether it stands for a selection that failed.
    """
    return data.StructLayout({
        "index": range(capacity),
        **_measures(distance_max, score_max),
        "last": 1,
        **({"rescore": 1, "skip": 1} if rescore else {}),
    })


def weighted_layout(*, capacity: int, columns: int, weight_bits: int) -> data.StructLayout:
    """Layout of a selected key with its weight, for a column of the values."""
    return data.StructLayout({
        "index": range(capacity),
        "column": range(columns),
        "weight": weight_bits,
        "last": 1,
    })


def trace_layout(*, capacity: int, distance_max: int, score_max: int, weight_bits: int,
                 rows: int = 0) -> data.StructLayout:
    """Layout of a selected key as it is told; with :py:`rows`, also of which row it is."""
    return data.StructLayout({
        **({"row": range(rows)} if rows else {}),
        "index": range(capacity),
        **_measures(distance_max, score_max),
        "weight": weight_bits,
        "last": 1,
    })


# ---- Stores and tables.

def place_layout(*, capacity: int, columns: int) -> data.StructLayout:
    """Layout of a beat of a row that is asked for."""
    return data.StructLayout({"row": range(capacity), "column": range(columns)})


def elements_layout(bits: int, lanes: int) -> data.ArrayLayout:
    """Layout of the elements of a beat, two's complement, the first lowest."""
    return data.ArrayLayout(signed(bits), lanes)


def exact_write_layout(*, capacity: int, columns: int, element_bits: int,
                       lanes: int) -> data.StructLayout:
    """Layout of a beat of a key for exact scores, to be stored."""
    return data.StructLayout({
        "row": range(capacity),
        "column": range(columns),
        "elements": elements_layout(element_bits, lanes),
    })


def value_layout(*, value_bits: int, value_lanes: int, scale_bits: int) -> data.StructLayout:
    """Layout of a beat of a value row, with the row's scale."""
    return data.StructLayout({
        "elements": elements_layout(value_bits, value_lanes), "scale": scale_bits})


def value_write_layout(*, capacity: int, columns: int, value_bits: int, value_lanes: int,
                       scale_bits: int) -> data.StructLayout:
    """Layout of a beat of a value row, to be stored."""
    return data.StructLayout({
        "row": range(capacity),
        "column": range(columns),
        "elements": elements_layout(value_bits, value_lanes),
        "scale": scale_bits,
    })


def table_layout(*, tables: int, key_bits: int, weight_bits: int) -> data.StructLayout:
    """Layout of an entry of a weight table."""
    return data.StructLayout({
        "table": range(tables), "distance": range(key_bits + 1), "weight": weight_bits})


# ---- Results.

def sums_layout(*, sum_bits: int, value_lanes: int, total_max: int) -> data.StructLayout:
    """Layout of a column's sums, and of the sum of the weights."""
    return data.StructLayout({
        "sums": data.ArrayLayout(signed(sum_bits), value_lanes), "total": range(total_max + 1)})


def result_layout(*, rows: int, output_bits: int) -> data.StructLayout:
    """Layout of an element of a result, or of the error in its place."""
    return data.StructLayout({
        "row": range(rows), "error": Error, "output": signed(output_bits), "last": 1})
