"""The core as a block of a system on chip: a register map and AXI4-Stream."""
