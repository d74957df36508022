"""What claims assume of the neighbours of more than one component."""

from amaranth.hdl import Signal


def answered(claim, dut):
    """Each look-up has an answer, after it and before the next one; gives whether one is due."""
    asked = Signal()
    with claim.m.If(dut.o_lookup.valid & dut.o_lookup.ready):
        claim.m.d.sync += asked.eq(1)
    with claim.m.Elif(dut.i_lookup.valid):
        claim.m.d.sync += asked.eq(0)
    claim.assume("look-ups are answered once", ~dut.i_lookup.valid | asked)
    return asked
