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
from nearbit.files import OutputError, OutputFile, output_folder
from nearbit.soc import exports
from nearbit.soc.identifiers import check_name
from nearbit.soc.packager import annotated, attributes_of
from nearbit.soc.vhdl import Port, package_text
from nearbit_model.config import Config
from nearbit_model.errors import NearbitError


__all__ = ["DEFAULT_NAME", "INTERFACES", "InterfaceError", "check", "names", "version", "write"]


DEFAULT_NAME = "nearbit"

INTERFACES = ("stream", "axi", "wishbone")
"""The core's own streams; registers on AXI4-Lite or Wishbone, and AXI4-Stream."""

_DESCRIPTIONS = {
    "axi": "Nearbit attention accelerator with AXI4-Lite registers and AXI4-Stream",
    "wishbone": "Nearbit attention accelerator with Wishbone registers and AXI4-Stream",
}

_KEYS_SELECTED = 32
"""Nearest keys of the query whose cycles the README gives."""

_DRIVER = ("c", "h")

_VHDL = "{top}_pkg.vhd"

_MEMORY_HEADER = "driver/{name}_memory.h"

_FILES = {
    "{top}.v": "the accelerator in Verilog 2005: module `{top}` and its submodules",
    _VHDL: "its VHDL component declaration: package `{top}_pkg`",
    "{name}_example.v": "example instantiation",
    "{name}.core": "FuseSoC core file (CAPI2)",
    "{top}.vlt": "waivers for unavoidable Verilator lint warnings, with reasons",
    "registers/registers.md": "registers and stream packets",
    "registers/registers.json": "the same, machine-readable",
    "registers/registers.rdl": "the registers as SystemRDL 2.0",
    "driver/{name}.h": "driver interface, C99",
    "driver/{name}.c": "driver implementation",
    "driver/{name}_registers.h": "register addresses, fields and numbers",
    _MEMORY_HEADER: "layout of codes and rows in memory",
    "{name}.toml": "the configuration",
    "README.md": "this file",
}


class InterfaceError(NearbitError, ValueError):
    """An interface or a name that cannot be, or not for a configuration: one sentence says why."""


@dataclass(frozen=True)
class _Core:
    """What to generate: see :func:`write`."""

    config: Config
    interface: str
    name: str
    initial: bool
    vhdl: bool

    @property
    def top(self) -> str:
        return _top(self.interface, self.name)

    @property
    def options(self) -> str:
        """Options of the command that are not the default, but `--config` and `-o`."""
        return "".join([
            f" --interface {self.interface}",
            f" --name {self.name}" if self.name != DEFAULT_NAME else "",
            "" if self.initial else " --no-initial", " --vhdl" if self.vhdl else ""])


def version() -> tuple[int, int, int]:
    """Release of Nearbit as three numbers."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", nearbit.__version__)
    major, minor, patch = map(int, found.groups()) if found else (0, 0, 0)
    return major, minor, patch


def check(interface: str, name: str = DEFAULT_NAME) -> None:
    """Raise :class:`InterfaceError` if there is no such interface, or the name cannot be one."""
    if interface not in INTERFACES:
        raise InterfaceError(f"--interface must be {', '.join(INTERFACES[:-1])} or "
                             f"{INTERFACES[-1]}, not {interface!r}")
    try:
        check_name(name)
    except ValueError as error:
        raise InterfaceError(str(error)) from None


def names(interface: str, name: str = DEFAULT_NAME, *, vhdl: bool = False,
          memory: bool = False) -> list[str]:
    """Paths of the files of an interface's folder; the Verilog comes first.

    Two of them depend on whether VHDL is asked for, and whether the core has a memory.
    """
    files = ["{name}.v", _VHDL, "{name}.toml"] if interface == "stream" else list(_FILES)
    return [file.format(name=name, top=_top(interface, name)) for file in files
            if _is_there(file, vhdl=vhdl, memory=memory)]


def _is_there(file: str, *, vhdl: bool, memory: bool) -> bool:
    return {_VHDL: vhdl, _MEMORY_HEADER: memory}.get(file, True)


def write(directory: Path, config: Config, interface: str, *, name: str = DEFAULT_NAME,
          initial: bool = True, vhdl: bool = False, source: Path | None = None) -> list[Path]:
    """Write the folder of an interface, all of its files or none.

    Parameters
    ----------
    directory
        Made if it is not there. What else is in it stays; a file that would be replaced must be
        of the same core.
    config
        What to generate.
    interface
        One of :data:`INTERFACES`.
    name
        In place of `nearbit` in the names of modules, files, C symbols and the address map, so
        that differently named cores can be in one design and one program.
    initial
        Whether registers and memories have initial values; else the reset does all.
    vhdl
        Whether to write a component declaration, too. Ports of the streams then have names that
        VHDL takes: `i_key_payload` for `i_key__payload`.
    source
        File that the configuration comes from. If it is one of those to be written, it stays as it
        is, and must hold just this configuration.

    Returns
    -------
    list of pathlib.Path
        What was written.

    Raises
    ------
    InterfaceError
        If there is no such interface, or not for this configuration, or if the name is not an
        identifier in all languages that it is for.
    OutputError
        If a file cannot be written, or is another's.
    """
    check(interface, name)
    core = _Core(config, interface, name, initial, vhdl)
    paths = names(interface, name, vhdl=vhdl, memory=config.memory is not None)
    configuration = directory / f"{name}.toml"
    if source is not None and source.resolve() == configuration.resolve():
        if Config.load(source) != config:
            raise OutputError(f"cannot write {configuration}: it is an input")
        paths.remove(configuration.name)
    with ExitStack() as stack:
        for folder in dict.fromkeys((directory / path).parent for path in paths):
            stack.enter_context(output_folder(folder))
        files = {path: OutputFile(directory / path) for path in paths}
        _check_folder(directory, core, paths)
        found = (_stream_texts if interface == "stream" else _soc_texts)(core)
        # Each takes its name when all are written.
        with ExitStack() as written:
            for name_, output in files.items():
                path = written.enter_context(output.write())
                path.write_text(found[name_], encoding="utf-8", newline="\n")
    return [directory / path for path in paths]


def _check_folder(directory: Path, core: _Core, paths: list[str]) -> None:
    """Raise :class:`OutputError` if a file would be replaced that is not of the same core."""
    there = [directory / path for path in paths if (directory / path).exists()]
    marked, mark = (f"{core.name}.v", r"// nearbit_hw\.\S+, by ") \
        if core.interface == "stream" else \
        ("README.md", rf"<!-- .* -->\n\n# {core.top}\n\n.*\nGenerated by Nearbit ")
    try:
        is_own = re.match(mark, (directory / marked).read_text(encoding="utf-8")) is not None
    except (OSError, UnicodeDecodeError):
        is_own = False
    if there and not is_own:
        raise OutputError(f"{there[0]} would be replaced, and is not of an earlier {core.top!r}: "
                          f"give another folder or --name, or move it")


def _top(interface: str, name: str) -> str:
    return name if interface == "stream" else f"{name}_{interface}"


def _stream_texts(core: _Core) -> dict[str, str]:
    from nearbit_hw.core import Core
    from nearbit_hw.verilog import generate

    verilog = generate(Core(core.config), core.name, separator="_" if core.vhdl else "__",
                       initial="all" if core.initial else "none")
    return {
        f"{core.name}.v": verilog,
        **_vhdl_texts(core, list(_ports(verilog, core.top))),
        f"{core.name}.toml": core.config.to_toml(),
    }


def _vhdl_texts(core: _Core, ports: list[Port]) -> dict[str, str]:
    return {_VHDL.format(top=core.top): package_text(core.top, ports)} if core.vhdl else {}


def _soc_texts(core: _Core) -> dict[str, str]:
    from nearbit_hw.soc.registers import register_map
    from nearbit_hw.soc.soc_core import SocCore
    from nearbit_hw.verilog import generate

    name, top = core.name, core.top
    try:
        # What has no initial value needs a reset.
        registers = register_map(core.config, version=version(), resets_fields=not core.initial)
    except ValueError as error:
        raise InterfaceError(f"the configuration has no interface {core.interface!r}: {error}"
                             ) from None
    soc_core = SocCore(core.config, core.interface, registers.data_bits, registers.version,
                       registers.resets_fields)
    pins = [*soc_core.signature.members]
    generated = generate(soc_core, top, initial="all" if core.initial else "none")
    if core.config.memory is not None:
        # Cores without a memory have no such attributes, and their Verilog is to stay the same.
        generated = annotated(generated, top, attributes_of(pins, core.config.memory))
    verilog = f"// {exports.LICENSE}\n{generated}"
    ports = list(_ports(verilog, top))
    facts = _facts(core, registers, ports) | {"adapter_latency": soc_core.latency}
    driver = resources.files("nearbit.soc") / "driver"
    return {
        f"{top}.v": verilog,
        **_vhdl_texts(core, ports),
        f"{name}_example.v": _render("nearbit_example.v", facts),
        f"{name}.core": _render("nearbit.core", facts),
        f"{top}.vlt": _render("lint.vlt", facts),
        "registers/registers.md": exports.markdown(registers),
        "registers/registers.json": exports.json_text(registers),
        "registers/registers.rdl": exports.systemrdl(registers, name),
        f"driver/{name}_registers.h": exports.c_header(registers, name),
        **({} if core.config.memory is None else {
            f"driver/{name}_memory.h": exports.memory_header(core.config, name)}),
        **{f"driver/{name}.{ending}": driver_text(
            (driver / f"nearbit.{ending}").read_text(encoding="utf-8"), name)
           for ending in _DRIVER},
        f"{name}.toml": f"# {exports.LICENSE}\n\n{core.config.to_toml()}",
        "README.md": _render("README.md", facts),
    }


_PRIVATE = re.compile(r"^#define (?P<macro>\w+)|^struct (?P<structure>\w+) \{"
                      r"|^static [^;={]*?\b(?P<function>\w+)\(", re.MULTILINE)


def driver_text(text: str, name: str) -> str:
    """Give a source of the driver the name of a core.

    Its own name is replaced in symbols, macros and files; what is private to the file gets the name
    in front, so that drivers of several names can also be in one translation unit.
    """
    if name == DEFAULT_NAME:
        return text
    for private in _PRIVATE.finditer(text):
        for kind, pattern, prefix in (("macro", r"\b{}\b", name.upper()),
                                      ("structure", r"(?<=\bstruct ){}\b", name),
                                      # A member of a structure may be called like a function.
                                      ("function", r"(?<![\w.>]){}(?=\()", name)):
            found = private[kind]
            if found is not None and not re.match(rf"{DEFAULT_NAME}(_|$)", found, re.IGNORECASE):
                text = re.sub(pattern.format(found), f"{prefix}_{found}", text)
    text = re.sub(rf"\b{DEFAULT_NAME}(?=\b|_)", name, text)
    return re.sub(rf"\b{DEFAULT_NAME.upper()}(?=_)", name.upper(), text)


def _ports(verilog: str, top: str) -> Iterator[Port]:
    """Read the ports of a module in the order of its header."""
    _, _, rest = verilog.partition(f"module {top}(")
    header, _, body = rest.partition(");")
    body, _, _ = body.partition("\nendmodule")
    for name in header.replace(",", " ").split():
        found = re.search(rf"^  (input|output) (?:\[(\d+):0\] )?{name};$", body, re.MULTILINE)
        if found is None:
            raise AssertionError(f"port {name} has no declaration")
        yield Port(name, found[1], 1 + int(found[2] or 0))


def _facts(core: _Core, registers: Any, ports: list[Port]) -> dict[str, Any]:
    """Everything that a template may name."""
    from nearbit.workloads import Workload, measure
    from nearbit_hw.soc.registers import IDENTITY
    from nearbit_hw.soc.soc_core import memory_buses

    config, interface = core.config, core.interface
    clock, reset = "aclk", "aresetn"
    trace = [port for port in ports if port.name.startswith("m_axis_trace_")
             and port.direction == "output"]
    inside = {clock: "clock", reset: "running[1]", "m_axis_trace_tready": "1'b1",
              **{port.name: port.name for port in trace}}
    outer = [port for port in ports if port.name not in inside]
    pad = " " * max(len(port.range) for port in outer)
    workload = Workload(keys=config.capacity, queries=1, n=min(_KEYS_SELECTED, config.top_n))
    # With a memory, they depend on it.
    cycles = None if config.memory is not None else _cycles(measure(config, workload))
    return {
        "name": core.name, "top": core.top, "interface": interface, "options": core.options,
        "initial": core.initial, "vhdl": core.vhdl, "version": nearbit.__version__,
        "description": _DESCRIPTIONS[interface], "config": config, "registers": registers,
        "identity": IDENTITY,
        # The lint knows no cells of devices.
        "is_generic": config.cell in (None, "generic"),
        "files": [(file.format(name=core.name, top=core.top), says.format(top=core.top))
                  for file, says in _FILES.items()
                  if _is_there(file, vhdl=core.vhdl, memory=config.memory is not None)],
        "clock": clock, "reset": reset, "ports": ports, "pad": pad, "trace": trace,
        "outer": [{"declaration": f"{port.direction:<6} wire {port.range:<{len(pad)}}{port.name}"}
                  for port in outer],
        "connections": [(port.name, inside.get(port.name, port.name)) for port in ports],
        "keys": workload.keys, "n": workload.n,
        "cycles": cycles, "area": _areas(config),
        "buses": memory_buses(config),
    }


def _cycles(found: Any) -> dict[str, Any]:
    """Give the latency, and the interval as text."""
    interval = found.interval
    return {"latency": found.latency,
            "interval": f"{interval.numerator:,}" if interval.denominator == 1
                        else f"{float(interval):,.2f}"}


def _areas(config: Config) -> list[dict[str, Any]]:
    """Rows of the table of areas."""
    from nearbit.area import TARGETS, AreaError, estimate
    from nearbit.area.synthesis import DEVICES

    rows: list[dict[str, Any]] = []
    if config.memory is not None:
        # Of most configurations nothing is known.
        return rows
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
