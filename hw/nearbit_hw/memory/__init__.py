"""A cache in the system's memory: its codes and rows are read and written over AXI4.

:class:`CacheMap` says how they lie, :class:`PlaceTable` where: a :class:`HeadTable` and a
:class:`PageTable`. :class:`CodeFetcher` has the output of :class:`nearbit_hw.score.KeyStore`, and
reads what it gives in long bursts into a queue, :class:`BeatFifo`. :class:`RowFetcher` reads the
rows of selected tokens, over some of :class:`RowPort`, into a :class:`RowBuffer`.
:class:`ReadMerge` lets several read over one bus. :class:`Appender` writes tokens. A
:class:`Watchdog` notices a memory that is silent.

What joins them to a core: :class:`CommandPlace` looks up where a command's tokens are,
:class:`CodeGate` lets its words pass as they are asked for, :class:`RowGather` has the rows of
selected keys read while the keys go on, and :class:`RowReader` gives what a store would.
"""

from nearbit_hw.memory.appender import Appender
from nearbit_hw.memory.beat_fifo import BeatFifo
from nearbit_hw.memory.block_fifo import BlockFifo
from nearbit_hw.memory.cache_map import CacheMap, Lookup
from nearbit_hw.memory.code_fetcher import CodeFetcher
from nearbit_hw.memory.code_gate import CodeGate
from nearbit_hw.memory.command_place import CommandPlace
from nearbit_hw.memory.read_merge import ReadMerge
from nearbit_hw.memory.row_buffer import RowBuffer, RowTail
from nearbit_hw.memory.row_fetcher import RowFetcher
from nearbit_hw.memory.row_gather import RowGather
from nearbit_hw.memory.row_port import RowPort
from nearbit_hw.memory.row_reader import RowReader
from nearbit_hw.memory.tables import HeadTable, PageTable, PlaceTable
from nearbit_hw.memory.watchdog import Watchdog


__all__ = ["Appender", "BeatFifo", "BlockFifo", "CacheMap", "CodeFetcher", "CodeGate",
           "CommandPlace", "HeadTable", "Lookup", "PageTable", "PlaceTable", "ReadMerge",
           "RowBuffer", "RowFetcher", "RowGather", "RowPort", "RowReader", "RowTail", "Watchdog"]
