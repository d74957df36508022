"""Amaranth: datapath, core, bus adapters.

The stages of a query, in order: :mod:`~nearbit_hw.dispatcher` checks commands,
:mod:`~nearbit_hw.score` computes distances, :mod:`~nearbit_hw.select` selects the nearest keys, and
:mod:`~nearbit_hw.attend` computes the weighted means of their values. :mod:`~nearbit_hw.core`
connects the stages, and :mod:`~nearbit_hw.soc` wraps the core in registers and AXI4-Stream.
:mod:`~nearbit_hw.memory` reads keys and values from the system's memory. All share stream payloads
(:mod:`~nearbit_hw.layouts`), memories (:mod:`~nearbit_hw.ram`), queues
(:mod:`~nearbit_hw.stream_fifo`), reduction trees (:mod:`~nearbit_hw.tree`) and delays
(:mod:`~nearbit_hw.pipeline`). :mod:`~nearbit_hw.verilog` generates Verilog from any component, with
:mod:`~nearbit_hw.yosys`.
"""
