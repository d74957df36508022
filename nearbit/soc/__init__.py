"""What a system on chip takes of Nearbit: Verilog, register map, core file and C driver."""
