"""Memories by name: their peak, and how much of it reads of codes and rows get."""

from dataclasses import dataclass
from types import MappingProxyType


__all__ = ["MEMORIES", "NamedMemory"]


@dataclass(frozen=True)
class NamedMemory:
    """A memory, and its efficiency: the share of the peak that is read.

    Codes are read in long bursts of successive addresses, rows one by one from anywhere.

    Parameters
    ----------
    title
        Kind, width and rate.
    peak
        Bytes a second.
    linear
        Efficiency of reading codes.
    gathers
        By ports: efficiency of reading rows of 64 and of 128 bytes.
    source
        What these were measured with; None, if they are assumed.
    """

    title: str
    peak: int
    linear: float
    gathers: MappingProxyType[int, tuple[float, float]]
    source: str | None

    @property
    def is_measured(self) -> bool:
        """Whether the efficiency was measured."""
        return self.source is not None

    def gather(self, size: int, ports: int) -> float:
        """Efficiency of reading rows of some bytes over some ports.

        The time of a row is taken to be a constant and a time for each byte. Of ports that were not
        measured those of the next lower number count.
        """
        known = max(number for number in self.gathers if number <= ports)
        times = [length / share for length, share in zip((64, 128), self.gathers[known],
                                                         strict=True)]
        each = (times[1] - times[0]) / 64
        return size / (times[0] + each * (size - 64))

    def seconds(self, code_bytes: int, rows: int, row_bytes: int, ports: int
                ) -> tuple[float, float]:
        """Time to read codes, and that to read rows; both share the memory."""
        return (code_bytes / (self.peak * self.linear),
                rows * row_bytes / (self.peak * self.gather(row_bytes, ports)))


_LITEDRAM = "LiteDRAM 2024.12 with its model of the DRAM"
"""``SDRAMPHYModel`` in Verilator; read masters on ports of the crossbar, and the data checked."""

MEMORIES: MappingProxyType[str, NamedMemory] = MappingProxyType({
    "sdr16": NamedMemory("SDR x16 at 100 MHz", 200_000_000, 0.968, MappingProxyType({
        1: (0.813, 0.890), 2: (0.88, 0.93), 4: (0.90, 0.94)}), _LITEDRAM),
    "ddr3": NamedMemory("DDR3-800 x16", 1_600_000_000, 0.888, MappingProxyType({
        1: (0.276, 0.430), 2: (0.45, 0.63), 4: (0.636, 0.805)}), _LITEDRAM),
    "ddr4": NamedMemory("DDR4-2400 x64", 19_200_000_000, 0.877, MappingProxyType({
        1: (0.074, 0.127), 4: (0.224, 0.381)}), _LITEDRAM),
    "hbm2": NamedMemory("one pseudo-channel of HBM2", 14_400_000_000, 0.92, MappingProxyType({
        1: (0.5, 0.6)}), None),
})
"""Memories whose efficiency is known, or assumed."""
