"""XOR-popcount cells in the carry logic of particular devices.

Each module has the same function ``distance(m, a, b, *, latency, advance)``, which adds to a module
the logic for the Hamming distance of two words, with :py:`latency` registers on each path. That for
iCE40 also accepts the difference alone. :class:`nearbit_hw.score.XorPopcount` picks one.
"""
