"""Stages of selection by counters.

:class:`nearbit_hw.select.TopN` connects the stages ``count``, ``refine`` and ``emit``; ``digit`` is
the counter of the first two. All are one module of the netlist.
"""
