"""The command `nearbit`: a file for each of its commands.

===================================  ============================================================
:mod:`nearbit.cli.app`               the command as a whole: its statuses, and what goes wrong
:mod:`nearbit.cli.options`           options and choices that commands share
:mod:`nearbit.cli.accelerators`      the configuration that options name
:mod:`nearbit.cli.console`           tables, counts and progress on a terminal
:mod:`nearbit.cli.errors`            statuses, and errors of what was typed
===================================  ============================================================

Commands import what they need when they run: NumPy, Amaranth and what is built on them take a
second, and ``nearbit --help`` needs none of it.
"""

from nearbit.cli.app import main


__all__ = ["main"]
