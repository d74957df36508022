"""Attributes of ports by which Vivado's IP packager knows interfaces, clock and reset (UG1118)."""

import re
from collections.abc import Mapping, Sequence

from nearbit_model.config import Memory


__all__ = ["annotated", "attributes_of"]


_INFO = "X_INTERFACE_INFO"
_PARAMETER = "X_INTERFACE_PARAMETER"

_STREAMS = ("s_axis", "m_axis_result", "m_axis_trace")


def attributes_of(ports: Sequence[str], memory: Memory) -> dict[str, dict[str, str]]:
    """Give the attributes of the ports of a SoC core.

    Parameters
    ----------
    ports
        Names of all ports; those of a bus begin with its name, as AMBA's do.
    memory
        The memory that its managers are for.

    Returns
    -------
    dict
        Attributes by name, for those ports that have any; Wishbone's have none, as Vivado knows no
        such interface.
    """
    managers = {port.removesuffix(ending): mode for port in sorted(ports)
                for ending, mode in (("_araddr", "READ_ONLY"), ("_awaddr", "WRITE_ONLY"))
                if port.startswith("m_axi_") and port.endswith(ending)}
    buses = [*(["s_axi"] if "s_axi_araddr" in ports else []), *_STREAMS, *managers]
    parameters = {
        "s_axi": "PROTOCOL AXI4LITE",
        **{manager: f"PROTOCOL AXI4, READ_WRITE_MODE {mode}, SUPPORTS_NARROW_BURST 0, "
                    f"DATA_WIDTH {memory.bus_bits}, ADDR_WIDTH {memory.address_bits}"
           for manager, mode in managers.items()},
    }
    found = {
        "aclk": {_INFO: "xilinx.com:signal:clock:1.0 aclk CLK",
                 _PARAMETER: f"ASSOCIATED_BUSIF {':'.join(buses)}, ASSOCIATED_RESET aresetn"},
        "aresetn": {_INFO: "xilinx.com:signal:reset:1.0 aresetn RST",
                    _PARAMETER: "POLARITY ACTIVE_LOW"},
        "irq": {_INFO: "xilinx.com:signal:interrupt:1.0 irq INTERRUPT",
                _PARAMETER: "SENSITIVITY LEVEL_HIGH"},
    }
    for bus in buses:
        kind = "axis" if bus in _STREAMS else "aximm"
        pins = [port for port in ports if port.startswith(f"{bus}_")]
        for port in pins:
            found[port] = {_INFO: f"xilinx.com:interface:{kind}:1.0 {bus} "
                                  f"{port.removeprefix(f'{bus}_').upper()}"}
        if bus in parameters:
            # One port of a bus says what is of the whole.
            found[pins[0]][_PARAMETER] = parameters[bus]
    return found


def annotated(verilog: str, top: str, attributes: Mapping[str, Mapping[str, str]]) -> str:
    """Write attributes in front of the declarations of a module's ports.

    In the text, because Amaranth makes one wire of ports that have the same value, with the
    attributes of all of them.
    """
    before, module, rest = verilog.partition(f"module {top}(")
    body, end, after = rest.partition("\nendmodule")

    def declaration(match: re.Match[str]) -> str:
        lines = "".join(f'  (* {name} = "{value}" *)\n'
                        for name, value in attributes.get(match[1], {}).items())
        return lines + match[0]

    body = re.sub(r"^  (?:input|output) (?:\[\d+:0\] )?(\w+);$", declaration, body,
                  flags=re.MULTILINE)
    return before + module + body + end + after
