"""XOR-popcount cells in the carry logic of particular devices.

Each module has the same function ``distance(m, a, b, *, latency, advance)``, which adds to a module
what computes the Hamming distance of two words, with :py:`latency` registers on each path. That of
iCE40 takes the difference alone, too.
:class:`nearbit_hw.score.XorPopcount` picks one.
"""
