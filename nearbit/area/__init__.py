"""FPGA resources: a model fitted to syntheses, and synthesis itself.

=================================  ===============================================================
:mod:`nearbit.area.fitted`         the model, its estimates and their check
:mod:`nearbit.area.synthesis`      blocks through Yosys, and what they take
=================================  ===============================================================
"""

from nearbit.area.fitted import (
    BLOCKS,
    QUANTITIES,
    TARGETS,
    AreaError,
    Block,
    Check,
    Estimate,
    apply,
    belongs,
    check,
    drivers,
    estimate,
    features,
    model,
    parts,
    show,
    validate,
)


__all__ = ["BLOCKS", "QUANTITIES", "TARGETS", "AreaError", "Block", "Check", "Estimate", "apply",
           "belongs", "check", "drivers", "estimate", "features", "model", "parts", "show",
           "validate"]
