"""Stages of a selection by counters.

``count``, ``refine`` and ``emit`` are the stages, which :class:`nearbit_hw.select.TopN` joins, and
``digit`` is the counter that the first two have; all are one module of the netlist.
"""
