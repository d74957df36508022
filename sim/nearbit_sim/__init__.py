"""Engines that run the hardware: cocotb benches, compiled simulation."""
