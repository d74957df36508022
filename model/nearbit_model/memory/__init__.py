"""The cache of all heads in a memory: the bytes of codes and rows, and where they lie."""

from nearbit_model.memory.image import MemoryImage, Tokens
from nearbit_model.memory.layout import Field, LayoutError, MemoryLayout, Rows
from nearbit_model.memory.plan import HeadPlace, MemoryPlan, plan_memory


__all__ = ["Field", "HeadPlace", "LayoutError", "MemoryImage", "MemoryLayout", "MemoryPlan",
           "Rows", "Tokens", "plan_memory"]
