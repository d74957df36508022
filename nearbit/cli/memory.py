"""When the memory of a simulation answers, as options say, and what was read from it."""

from typing import TYPE_CHECKING, Any

from rich.console import Console

from nearbit.cli.errors import UserError


if TYPE_CHECKING:
    from nearbit_model.config import Config
    from nearbit_model.memory_timing import MemoryTiming
    from nearbit_model.transfers.attention import MemoryUse


__all__ = ["MOST_ON_ONE_BUS", "check_report", "describe", "figures", "parameters", "show",
           "timing_of"]


MOST_ON_ONE_BUS = 64
"""Commands of which a page is made where codes and rows share a bus, at most: the time to predict
them grows with the square of their number."""

_CHANNELS = ("ar", "r", "aw", "w", "b")


def timing_of(config: "Config", **options: Any) -> "MemoryTiming | None":
    """Make the timing that options ask for; None for a configuration without a memory.

    Options are named like fields of :class:`MemoryTiming`, with ``pause`` for all channels; None
    and False stand for what was not given. :class:`UserError` for a value that cannot be, or any
    option without a memory.
    """
    from nearbit_model.memory_timing import MemoryTiming, TimingError

    given = {name: value for name, value in options.items() if value is not None and value != ""
             and value is not False}
    if config.memory is None:
        if given:
            raise UserError(f"{_option(next(iter(given)))} needs a configuration with a memory; "
                            f"give one that has a table [memory] with --config, or a preset "
                            f"such as memory64")
        return None
    pause = given.pop("pause", None)
    if pause is not None:
        given |= {f"{channel}_pause": pause for channel in _CHANNELS}
    try:
        return MemoryTiming(**given)
    except TimingError as error:
        name, _, rest = str(error).partition(" ")
        if name.endswith("_pause"):
            name = "pause"
        raise UserError(f"{_option(name)} {rest}") from None


def check_report(config: "Config", timing: "MemoryTiming | None", commands: int) -> None:
    """Refuse a page for which the cycle model would take minutes, or that it knows nothing of."""
    from nearbit_model.cycles import latency_limit

    if config.memory is None or timing is None:
        return
    limit = latency_limit(config.memory.timeout_bits)
    if timing.latest >= limit:
        raise UserError(f"--report needs memory latencies of less than {limit} cycles, after which "
                        f"the core gives a memory up (memory.timeout_bits), not {timing.latest}")
    if config.selection == "counters" and config.rescore is None:
        raise UserError("--report compares with the cycle model, and cycles depend on data with a "
                        "memory and the selection 'counters' without rescoring; take a "
                        "configuration with selection = 'histograms'")
    if config.memory.one_bus and commands > MOST_ON_ONE_BUS:
        raise UserError(f"--report of codes and rows on one bus (memory.one_bus) takes at most "
                        f"{MOST_ON_ONE_BUS} commands, not {commands}; choose fewer with --heads or "
                        f"--queries")


def _option(name: str) -> str:
    return f"--memory-{name.replace('_', '-')}"


def describe(timing: "MemoryTiming") -> str:
    """Say in half a sentence how the memory answers."""
    parts = [f"latency {timing.latency}"
             + (f" to {timing.latest}" if timing.latest != timing.latency else "")]
    if timing.pace != 1 or timing.shared_pace:
        parts.append(f"pace {timing.pace:g}{' of all buses' if timing.shared_pace else ''}")
    if timing.outstanding != 64:
        parts.append(f"{timing.outstanding} bursts outstanding")
    if timing.reorder:
        parts.append("reordered")
    if timing.r_pause:
        parts.append(f"pauses {timing.r_pause:g}")
    if timing.is_drawn:
        parts.append(f"seed {timing.seed}")
    return f"memory with {', '.join(parts)}"


def parameters(timing: "MemoryTiming") -> dict[str, Any]:
    """When the memory answers, for JSON."""
    return {name: value for name, value in timing.to_json().items()
            if not name.startswith(("silent", "faults"))}


def figures(timing: "MemoryTiming", use: "MemoryUse") -> dict[str, Any]:
    """What was read, for JSON."""
    shares = use.shares
    return {
        "timing": parameters(timing),
        "cycles": use.cycles, "commands": use.commands, "bytes_read": use.bytes_read,
        "bytes_per_query": use.bytes_per_query, "bytes_per_command": use.bytes_per_command,
        "buses": [{"name": bus.name, "beat_bytes": bus.beat_bytes, "bursts": bus.bursts,
                   "beats": bus.beats, "bytes": bus.bytes, "share": shares[bus.name]}
                  for bus in use.buses if bus.is_read]}


def show(use: "MemoryUse", console: Console) -> None:
    """Print what was read."""
    shares = ", ".join(f"{name} {share:.1%}" for name, share in use.shares.items())
    console.print(
        f"Memory: {use.bytes_per_query:,.1f} bytes read per query, {use.bytes_per_command:,.1f} "
        f"per command. Buses busy from the first command on: {shares}.",
        soft_wrap=True, highlight=False)
