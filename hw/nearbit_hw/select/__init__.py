"""Selection: the nearest keys of each row, and all rows' selections in one order.

:class:`TopN` and :class:`HistogramTopN` are two ways to select, with the parameters and streams of
:class:`Selector`. :class:`DistanceSum` and :class:`SelectionRepeat` let the rows of a command share
a selection. :class:`RowMerge` passes the rows' selections on, one after another.
"""

from nearbit_hw.select.distance_sum import DistanceSum
from nearbit_hw.select.histogram_top_n import HistogramTopN
from nearbit_hw.select.row_merge import RowMerge
from nearbit_hw.select.selection_repeat import SelectionRepeat
from nearbit_hw.select.selector import Selector
from nearbit_hw.select.top_n import TopN


__all__ = ["DistanceSum", "HistogramTopN", "RowMerge", "SelectionRepeat", "Selector", "TopN"]
