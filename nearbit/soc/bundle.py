"""The folder that an engineer drops into a design: Verilog, core file, registers, driver."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

import nearbit
from nearbit.files import OutputFile, output_folder
from nearbit.soc import exports
from nearbit_model.config import Config


__all__ = ["INTERFACES", "InterfaceError", "check", "names", "version", "write"]


INTERFACES = ("stream", "axi", "wishbone")
"""The core's own streams; registers on AXI4-Lite or Wishbone, and AXI4-Stream."""

_DESCRIPTIONS = {
    "axi": "Nearbit attention accelerator with AXI4-Lite registers and AXI4-Stream",
    "wishbone": "Nearbit attention accelerator with Wishbone registers and AXI4-Stream",
}

_KEYS_SELECTED = 32
"""Nearest keys of the query whose cycles the README gives."""

_DRIVER = ("nearbit.c", "nearbit.h")

_FILES = {
    "{top}.v": "the accelerator, Verilog 2005: module `{top}` and what it is made of",
    "nearbit_example.v": "how to instantiate it",
    "nearbit.core": "the core file for FuseSoC (CAPI2)",
    "{top}.vlt": "the warnings of Verilator's lint that generated Verilog cannot avoid, and why",
    "registers/registers.md": "registers, and packets of all streams",
    "registers/registers.json": "the same, for programs",
    "registers/registers.rdl": "the registers as SystemRDL 2.0",
    "driver/nearbit.h": "the driver, C99: what it offers",
    "driver/nearbit.c": "the driver",
    "driver/nearbit_registers.h": "addresses, fields and numbers, for the driver and for yours",
    "nearbit.toml": "the configuration",
    "README.md": "this file",
}


class InterfaceError(ValueError):
    """An interface that there is not, or not for a configuration; the message is one sentence."""


@dataclass(frozen=True)
class _Port:
    """A port of a Verilog module."""

    name: str
    direction: str
    bits: int

    @property
    def range(self) -> str:
        """As it stands in a declaration."""
        return "" if self.bits == 1 else f"[{self.bits - 1}:0] "


def version() -> tuple[int, int, int]:
    """Release of Nearbit as three numbers."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", nearbit.__version__)
    major, minor, patch = map(int, found.groups()) if found else (0, 0, 0)
    return major, minor, patch


def check(interface: str) -> None:
    """Raise :class:`InterfaceError` if there is no such interface."""
    if interface not in INTERFACES:
        raise InterfaceError(f"--interface must be {', '.join(INTERFACES[:-1])} or "
                             f"{INTERFACES[-1]}, not {interface!r}")


def names(interface: str) -> list[str]:
    """Paths of the files of an interface's folder; the Verilog comes first."""
    if interface == "stream":
        return ["nearbit.v", "nearbit.toml"]
    return [name.format(top=_top(interface)) for name in _FILES]


def write(directory: Path, config: Config, interface: str) -> list[Path]:
    """Write the folder of an interface, all of its files or none.

    Parameters
    ----------
    directory
        Made if it is not there. What else is in it stays.
    config
        What to generate.
    interface
        One of :data:`INTERFACES`.

    Returns
    -------
    list of pathlib.Path
        What was written.

    Raises
    ------
    InterfaceError
        If there is no such interface, or not for this configuration.
    OutputError
        If a file cannot be written.
    """
    check(interface)
    paths = names(interface)
    with ExitStack() as stack:
        for folder in dict.fromkeys((directory / name).parent for name in paths):
            stack.enter_context(output_folder(folder))
        files = {name: OutputFile(directory / name) for name in paths}
        texts = _stream_texts if interface == "stream" else _soc_texts
        found = texts(config, interface)
        # Each takes its name when all are written.
        with ExitStack() as written:
            for name, output in files.items():
                path = written.enter_context(output.write())
                path.write_text(found[name], encoding="utf-8", newline="\n")
    return [directory / name for name in paths]


def _top(interface: str) -> str:
    return f"nearbit_{interface}"


def _stream_texts(config: Config, _interface: str) -> dict[str, str]:
    from nearbit_hw.core import Core
    from nearbit_hw.verilog import generate

    return {"nearbit.v": generate(Core(config), "nearbit"), "nearbit.toml": config.to_toml()}


def _soc_texts(config: Config, interface: str) -> dict[str, str]:
    from nearbit_hw.soc.registers import register_map
    from nearbit_hw.soc.soc_core import SocCore
    from nearbit_hw.verilog import generate

    try:
        registers = register_map(config, version=version())
    except ValueError as error:
        raise InterfaceError(f"the configuration has no interface {interface!r}: {error}") from None
    core = SocCore(config, interface, registers.data_bits, registers.version)
    top = _top(interface)
    verilog = f"// {exports.LICENSE}\n{generate(core, top)}"
    ports = list(_ports(verilog, top))
    facts = _facts(config, interface, registers, ports) | {"adapter_latency": core.latency}
    driver = resources.files("nearbit.soc") / "driver"
    return {
        f"{top}.v": verilog,
        "nearbit_example.v": _render("nearbit_example.v", facts),
        "nearbit.core": _render("nearbit.core", facts),
        f"{top}.vlt": _render("lint.vlt", facts),
        "registers/registers.md": exports.markdown(registers),
        "registers/registers.json": exports.json_text(registers),
        "registers/registers.rdl": exports.systemrdl(registers),
        "driver/nearbit_registers.h": exports.c_header(registers),
        **{f"driver/{name}": (driver / name).read_text(encoding="utf-8") for name in _DRIVER},
        "nearbit.toml": f"# {exports.LICENSE}\n\n{config.to_toml()}",
        "README.md": _render("README.md", facts),
    }


def _ports(verilog: str, top: str) -> Iterator[_Port]:
    """Read the ports of a module in the order of its header."""
    _, _, rest = verilog.partition(f"module {top}(")
    header, _, body = rest.partition(");")
    body, _, _ = body.partition("\nendmodule")
    for name in header.replace(",", " ").split():
        found = re.search(rf"^  (input|output) (?:\[(\d+):0\] )?{name};$", body, re.MULTILINE)
        if found is None:
            raise AssertionError(f"port {name} has no declaration")
        yield _Port(name, found[1], 1 + int(found[2] or 0))


def _facts(config: Config, interface: str, registers: Any, ports: list[_Port]) -> dict[str, Any]:
    """Everything that a template may name."""
    from nearbit.cycles import Workload, measure
    from nearbit_hw.soc.registers import IDENTITY

    clock, reset = "aclk", "aresetn"
    trace = [port for port in ports if port.name.startswith("m_axis_trace_")
             and port.direction == "output"]
    inside = {clock: "clock", reset: "running[1]", "m_axis_trace_tready": "1'b1",
              **{port.name: port.name for port in trace}}
    outer = [port for port in ports if port.name not in inside]
    pad = " " * max(len(port.range) for port in outer)
    workload = Workload(keys=config.capacity, queries=1, n=min(_KEYS_SELECTED, config.top_n))
    cycles = measure(config, workload)
    interval = cycles.interval
    return {
        "top": _top(interface), "interface": interface, "version": nearbit.__version__,
        "description": _DESCRIPTIONS[interface], "config": config, "registers": registers,
        "identity": IDENTITY,
        # The lint knows no cells of devices.
        "is_generic": config.cell in (None, "generic"),
        "files": [(name.format(top=_top(interface)), says.format(top=_top(interface)))
                  for name, says in _FILES.items()],
        "clock": clock, "reset": reset, "ports": ports, "pad": pad, "trace": trace,
        "outer": [{"declaration": f"{port.direction:<6} wire {port.range:<{len(pad)}}{port.name}"}
                  for port in outer],
        "connections": [(port.name, inside.get(port.name, port.name)) for port in ports],
        "keys": workload.keys, "n": workload.n,
        "interval": f"{interval.numerator:,}" if interval.denominator == 1
                    else f"{float(interval):,.2f}",
        "latency": cycles.latency, "area": _areas(config),
    }


def _areas(config: Config) -> list[dict[str, Any]]:
    """Rows of the table of areas."""
    from nearbit.area import TARGETS, AreaError, estimate
    from nearbit.synthesis import DEVICES

    rows = []
    for target in TARGETS:
        try:
            found = estimate(config, target)
        except AreaError:
            # A device that cannot have it, or of which the cell was forced to be another's.
            continue
        device, total = DEVICES[target], found.total
        beyond = {name for reasons in found.beyond.values() for name, *_ in reasons}
        rows.append({"device": device.name, "unit": device.unit, "logic": round(total.luteq),
                     "ffs": round(total.ffs), "brams": round(total.brams),
                     "dsps": round(total.dsps), "error": f"{found.total_error:.1f}",
                     "beyond": ", ".join(sorted(beyond))})
    return rows


def _render(name: str, facts: dict[str, Any]) -> str:
    """Fill in a template."""
    source = resources.files("nearbit.soc") / "templates" / f"{name}.jinja"
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
                              keep_trailing_newline=True, autoescape=False)
    return environment.from_string(source.read_text(encoding="utf-8")).render(facts)
