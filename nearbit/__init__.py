"""Nearbit: an open attention accelerator for long contexts.

Queries and keys are reduced to binary codes. For each query, the accelerator computes the Hamming
distance to every key, selects exactly the N nearest keys, and sums only their values, weighted by
an integer softmax: of the distances (Hamming Attention Distillation, arXiv 2502.01770), or of the
dot products with the selected keys (HashAttention, arXiv 2412.14468). The hardware equals the
golden model bit for bit.

===================  ==========================================================================
:class:`Config`      An accelerator: its widths and sizes, from a preset, TOML or Python.
:func:`attention`    Attention as the golden model computes it, on NumPy arrays.
:func:`simulate`     The same on the generated hardware, simulated cycle by cycle.
:func:`cycles`       The cycles of a workload, predicted by the cycle model.
:func:`load`         Attention tensors of an .npz or .safetensors file.
:class:`Core`        The hardware: an Amaranth component with streams.
===================  ==========================================================================

Names are imported on first use, to keep ``import nearbit`` fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from nearbit.tensors import load
    from nearbit.workloads import cycles
    from nearbit_hw.core import Core
    from nearbit_model.attention import attention
    from nearbit_model.config import Config
    from nearbit_sim import simulate


__all__ = ["Config", "Core", "attention", "cycles", "load", "simulate", "__version__"]


__version__ = "0.1.0"

_MODULES = {
    "Config": "nearbit_model.config",
    "Core": "nearbit_hw.core",
    "attention": "nearbit_model.attention",
    "cycles": "nearbit.workloads",
    "load": "nearbit.tensors",
    "simulate": "nearbit_sim",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Kept, so that the next use finds it without coming here.
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
