"""Amaranth: datapath, core, bus adapters."""
