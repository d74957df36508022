"""Attention to the selected keys: weights, weighted sums of their values, and the division.

:class:`Softmax` weights each key by its distance, or by the dot-product score that
:class:`Rescorer` computes from the key in :class:`RescoreKeyStore`. :class:`ValueAccumulator`, or
:class:`ScalingAccumulator` if scales and values share a single-port memory, sums the values from
:class:`ValueStore`. A :class:`Normalizer`, which is a :class:`ReciprocalNormalizer` or a
:class:`DividingNormalizer`, divides by the sum of weights.
"""

from nearbit_hw.attend.dividing_normalizer import DividingNormalizer
from nearbit_hw.attend.normalizer import Normalizer
from nearbit_hw.attend.reciprocal_normalizer import ReciprocalNormalizer
from nearbit_hw.attend.rescore_key_store import RescoreKeyStore
from nearbit_hw.attend.rescorer import Rescorer
from nearbit_hw.attend.scaling_accumulator import ScalingAccumulator
from nearbit_hw.attend.softmax import Softmax
from nearbit_hw.attend.value_accumulator import ValueAccumulator
from nearbit_hw.attend.value_store import ValueStore


__all__ = ["DividingNormalizer", "RescoreKeyStore", "Normalizer", "ReciprocalNormalizer",
           "Rescorer",
           "ScalingAccumulator", "ValueAccumulator", "ValueStore", "Softmax"]
