"""Scoring: codes of keys in block RAM, and their Hamming distances to the queries.

:class:`KeyStore` gives a word of keys per cycle to :class:`ScoreArray`, a systolic array of
:class:`XorPopcount`, which :mod:`~nearbit_hw.score.cells` makes of the logic of some devices.
"""

from nearbit_hw.score.key_store import KeyStore
from nearbit_hw.score.popcount import TARGETS, XorPopcount, operand_skew, platform_target
from nearbit_hw.score.score_array import ScoreArray, cell_operands


__all__ = ["TARGETS", "KeyStore", "ScoreArray", "XorPopcount", "cell_operands", "operand_skew",
           "platform_target"]
