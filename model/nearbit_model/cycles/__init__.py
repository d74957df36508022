"""Cycle model: when the hardware accepts every input and gives every beat, from shapes alone.

:func:`predict` takes what a program for the core pushes, without codes, values and weights, and
gives the cycles that a simulation would: the same ones, not estimates. Nothing in the hardware's
timing depends on data, so nothing else is needed. :func:`steady` says by formula what commands of
one shape take in the long run.

The time of each event is the latest of the times of what it waits for, plus a constant. A command
never waits for anything that a later one does, so commands are worked through one after another,
and each block keeps, of those before, the times that the next one may have to wait for. The
constants and rules are those in the docstrings of the blocks of :mod:`nearbit_hw` of the same name.

==============  =====================================================================
``shapes``      what goes into a core and what comes of it
``loads``       stores, exp tables and rescore queries
``cache``       what keys and values come from: stores, or rows and codes of a memory
``memory``      the fetchers, their look-ups and buses
``selection``   scores and the selection of the nearest keys
``replay``      dot-product scores, weights, values and the division
``pipeline``    stages that move as a whole, of which ``replay`` consists
``core``        all of them, and the queues between: :func:`predict`
``formula``     :func:`steady`
``bandwidth``   :func:`bound`: commands of one shape from a memory, in the long run
==============  =====================================================================

Cycles are counted from the first one after reset. Names of times say what happens then.

With a memory, look-ups in its tables are the one thing for which a command waits because of a later
one; where codes and rows share a bus, so are their bursts. These waits are assumed, found out from
the times that follow, and assumed anew, until they are the same. What rows cost may depend on where
they are: those that cross 4 KiB take two bursts, and a command says which do.

After the selection the blocks are pipelines that move as a whole or not at all, see
:class:`~nearbit_model.cycles.pipeline.Pipeline`; they wait for each other only where a query's
beats come faster than the normalizer takes them.
"""

from nearbit_model.cycles.bandwidth import Bound, Reads, bound, reads
from nearbit_model.cycles.core import latency_limit, predict
from nearbit_model.cycles.formula import Steady, steady
from nearbit_model.cycles.shapes import (
    Accepted,
    Answer,
    Command,
    Interval,
    Phase,
    Timeline,
    Traffic,
    load,
)
from nearbit_model.structure import Error, tree_latency


__all__ = ["Accepted", "Answer", "Bound", "Command", "Error", "Interval", "Phase", "Reads",
           "Steady", "Timeline", "Traffic", "bound", "latency_limit", "load", "predict",
           "reads", "steady", "tree_latency"]
