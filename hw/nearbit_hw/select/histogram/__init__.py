"""Stages of selection by histograms, and its two designs.

:class:`nearbit_hw.select.HistogramTopN` connects the stages ``count``, ``merge``, ``scan`` and
``emit``; all are one module of the netlist. ``design`` is the interface that the two designs,
``overlapped`` and ``serial``, implement.
"""
