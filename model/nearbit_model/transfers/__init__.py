"""The core's streams without the hardware: payloads, what to send, and how to read the answers.

For whoever talks to hardware, be it simulated or on a board; needs NumPy only.
"""

from nearbit_model.transfers.attention import HardwareAttention, MemoryUse
from nearbit_model.transfers.placement import Placement
from nearbit_model.transfers.plan import Plan, Prediction
from nearbit_model.transfers.program import Outcome, Program, Progress
from nearbit_model.transfers.streams import core_ports
from nearbit_model.transfers.traces import memory_trace


__all__ = ["HardwareAttention", "MemoryUse", "Outcome", "Placement", "Plan", "Prediction",
           "Program", "Progress", "core_ports", "memory_trace"]
