"""Selection of the nearest keys of each query.

:class:`TopN` and :class:`HistogramTopN` are two ways to select, with the parameters and streams of
:class:`Selector`. :class:`DistanceSum` and :class:`SelectionRepeat` let the queries of a command
share a selection. :class:`QueryMerge` merges the queries' selections into one stream, in order.
"""

from nearbit_hw.select.distance_sum import DistanceSum
from nearbit_hw.select.histogram_top_n import HistogramTopN
from nearbit_hw.select.query_merge import QueryMerge
from nearbit_hw.select.selection_repeat import SelectionRepeat
from nearbit_hw.select.selector import Selector
from nearbit_hw.select.top_n import TopN


__all__ = ["DistanceSum", "HistogramTopN", "QueryMerge", "SelectionRepeat", "Selector", "TopN"]
