"""Amaranth: datapath, core, bus adapters.

What a query meets, in order: :mod:`~nearbit_hw.dispatcher` checks commands;
:mod:`~nearbit_hw.score` gives distances, :mod:`~nearbit_hw.select` the nearest keys, and
:mod:`~nearbit_hw.attend` the weighted means of their values. :mod:`~nearbit_hw.core` joins them,
and :mod:`~nearbit_hw.soc` puts registers and AXI4-Stream around. :mod:`~nearbit_hw.memory` reads
keys and values from the system's memory. Shared by all are payloads
(:mod:`~nearbit_hw.layouts`), memories (:mod:`~nearbit_hw.ram`), queues
(:mod:`~nearbit_hw.stream_fifo`), trees of adders (:mod:`~nearbit_hw.tree`) and delays
(:mod:`~nearbit_hw.pipeline`). :mod:`~nearbit_hw.verilog` writes the Verilog of any of them, with
:mod:`~nearbit_hw.yosys`.
"""
