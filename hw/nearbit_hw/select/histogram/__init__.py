"""Stages of a selection by histograms, and the two designs of it.

``count``, ``merge``, ``scan`` and ``emit`` are the stages, which
:class:`nearbit_hw.select.HistogramTopN` joins; all are one module of the netlist. What is done in
one way by ``overlapped`` and in another by ``serial`` is a ``design``.
"""
