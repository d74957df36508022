"""Attention to the selected keys: weights, weighted sums of their values, and the division.

:class:`Weights` weights each key by its distance, or by the exact score that :class:`Rescorer`
makes of the keys in :class:`ExactKeyStore`. :class:`ValueAccumulator` sums the rows of
:class:`ValueStore`, and a :class:`Normalizer`, a :class:`ReciprocalNormalizer` or a
:class:`DividingNormalizer`, divides by the sum of weights.
"""

from nearbit_hw.attend.dividing_normalizer import DividingNormalizer
from nearbit_hw.attend.exact_key_store import ExactKeyStore
from nearbit_hw.attend.normalizer import Normalizer
from nearbit_hw.attend.reciprocal_normalizer import ReciprocalNormalizer
from nearbit_hw.attend.rescorer import Rescorer
from nearbit_hw.attend.value_accumulator import ValueAccumulator
from nearbit_hw.attend.value_store import ValueStore
from nearbit_hw.attend.weights import Weights


__all__ = ["DividingNormalizer", "ExactKeyStore", "Normalizer", "ReciprocalNormalizer", "Rescorer",
           "ValueAccumulator", "ValueStore", "Weights"]
