"""Scoring: codes of keys in block RAM, and their Hamming distances to the queries.

:class:`KeyStore` feeds a word of keys per cycle to :class:`ScoreArray`, a systolic array of
:class:`XorPopcount`. For some devices, :mod:`~nearbit_hw.score.cells` builds it from native cells.
"""

from nearbit_hw.score.key_store import KeyStore
from nearbit_hw.score.popcount import TARGETS, XorPopcount, operand_skew, platform_target
from nearbit_hw.score.score_array import ScoreArray, cell_operands


__all__ = ["TARGETS", "KeyStore", "ScoreArray", "XorPopcount", "cell_operands", "operand_skew",
           "platform_target"]
