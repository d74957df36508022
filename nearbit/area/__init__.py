"""FPGA resources: a model fitted to syntheses, and synthesis itself.

=================================  ===============================================================
:mod:`nearbit.area.fitted`         the model, its estimates and their check
:mod:`nearbit.area.synthesis`      blocks through Yosys, and what they take
=================================  ===============================================================
"""

from nearbit.area.fitted import (
    BLOCKS,
    MEMORY_UNITS,
    QUANTITIES,
    TARGETS,
    AreaError,
    Block,
    Check,
    Estimate,
    apply,
    belongs,
    check,
    count_all,
    drivers,
    estimate,
    features,
    model,
    parts,
    show,
    validate,
)


__all__ = ["BLOCKS", "MEMORY_UNITS", "QUANTITIES", "TARGETS", "AreaError", "Block", "Check",
           "Estimate", "apply", "belongs", "check", "count_all", "drivers", "estimate", "features",
           "model", "parts", "show", "validate"]
