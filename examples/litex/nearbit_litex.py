# SPDX-License-Identifier: Apache-2.0
"""The Verilog of `nearbit verilog --interface axi` as a LiteX module."""

import json
import re
from pathlib import Path

from litex.gen import LiteXModule
from litex.soc.interconnect import axi, stream
from migen import ClockSignal, Instance, ResetSignal, Signal


__all__ = ["Nearbit"]


_PIN = re.compile(r"^  (input|output) (?:\[(\d+):0\] )?(m_axi_[a-z0-9]+)_(ar|r|aw|w|b)([a-z]+);$",
                  re.MULTILINE)
"""A pin of a manager: direction, highest bit, manager, channel, name."""

_READ_BEATS = 64
"""Beats on the way from a port of LiteDRAM: they cover its latency."""

_BURST_BEATS = 256
"""Beats of the longest burst in AXI4."""


class Nearbit(LiteXModule):
    """A Nearbit accelerator, to be put on the bus of a SoC as a slave of 4 KiB.

    `sink` takes packets of loads and batches, `source` gives results and `trace` the selected keys:
    LiteX streams with `data` and `last`, which fit its DMA engines. `irq` is high until it is
    cleared in the registers. `managers` are the buses to the memory, if the configuration has one:
    :meth:`connect_memory` connects them to LiteDRAM.

    Parameters
    ----------
    platform
        Gets the Verilog.
    folder
        What `nearbit verilog --interface axi -o FOLDER` wrote.
    name
        Its `--name`.
    """

    def __init__(self, platform, folder, name="nearbit"):
        """Instantiate the Verilog."""
        folder = Path(folder)
        description = json.loads((folder / "registers" / "registers.json").read_text())
        bits = {packet["port"]: packet["bits"] for packet in description["packets"]}
        self._constants = {
            (register["name"], field["name"]): field["reset"]
            for register in description["registers"] for field in register["fields"]}

        self.bus = axi.AXILiteInterface(data_width=32, address_width=32)
        self.sink = stream.Endpoint([("data", bits["s_axis"])])
        self.source = stream.Endpoint([("data", bits["m_axis_result"])])
        self.trace = stream.Endpoint([("data", bits["m_axis_trace"])])
        self.irq = Signal()
        self.managers = {}

        bus = self.bus
        ports = {
            "i_aclk": ClockSignal(), "i_aresetn": ~ResetSignal(), "o_irq": self.irq,
            "i_s_axi_awaddr": bus.aw.addr[:12], "i_s_axi_awprot": 0,
            "i_s_axi_awvalid": bus.aw.valid, "o_s_axi_awready": bus.aw.ready,
            "i_s_axi_wdata": bus.w.data, "i_s_axi_wstrb": bus.w.strb,
            "i_s_axi_wvalid": bus.w.valid, "o_s_axi_wready": bus.w.ready,
            "o_s_axi_bresp": bus.b.resp, "o_s_axi_bvalid": bus.b.valid,
            "i_s_axi_bready": bus.b.ready,
            "i_s_axi_araddr": bus.ar.addr[:12], "i_s_axi_arprot": 0,
            "i_s_axi_arvalid": bus.ar.valid, "o_s_axi_arready": bus.ar.ready,
            "o_s_axi_rdata": bus.r.data, "o_s_axi_rresp": bus.r.resp,
            "o_s_axi_rvalid": bus.r.valid, "i_s_axi_rready": bus.r.ready,
            "i_s_axis_tdata": self.sink.data, "i_s_axis_tvalid": self.sink.valid,
            "o_s_axis_tready": self.sink.ready, "i_s_axis_tlast": self.sink.last,
        }
        for port, endpoint in (("m_axis_result", self.source), ("m_axis_trace", self.trace)):
            ports |= {
                f"o_{port}_tdata": endpoint.data, f"o_{port}_tvalid": endpoint.valid,
                f"i_{port}_tready": endpoint.ready, f"o_{port}_tlast": endpoint.last,
            }
        verilog = folder / f"{name}_axi.v"
        ports |= self._add_managers(verilog.read_text())
        self.specials += Instance(f"{name}_axi", **ports)
        platform.add_source(str(verilog))

    def _add_managers(self, verilog):
        """Make the buses to the memory from the pins of the module; return their connections."""
        pins = _PIN.findall(verilog.partition("endmodule")[0])
        # Addresses, data and IDs have the same width in all channels.
        widths = {(manager, name): int(highest or 0) + 1
                  for _, highest, manager, _, name in pins}
        ports = {}
        for direction, _, manager, channel, name in pins:
            if manager not in self.managers:
                self.managers[manager] = axi.AXIInterface(**{
                    f"{what}_width": widths[manager, pin] for what, pin in
                    (("data", "data"), ("address", "addr"), ("id", "id"))})
            ports[f"{direction[0]}_{manager}_{channel}{name}"] = getattr(
                getattr(self.managers[manager], channel), name)
        return ports

    def connect_memory(self, crossbar, origin):
        """Give each bus to the memory a port of LiteDRAM's crossbar, of the memory's own width.

        A bus that is wider than these ports, as on SDR SDRAM of 16 bits, gets LiteX's converter.

        Parameters
        ----------
        crossbar
            `soc.sdram.crossbar`.
        origin
            Address of the memory on the bus of the SoC, which the addresses of heads include.

        Raises
        ------
        ValueError
            If the ports are wider than the bus, or a burst has too many beats for them.
        """
        # Nobody else needs LiteDRAM.
        from litedram.frontend.axi import LiteDRAMAXI2Native

        longest = max(self._constants["CODE", "ALIGNMENT"], self._constants["ROW", "BYTES"])
        for name, bus in self.managers.items():
            port = crossbar.get_port()
            native = bus
            if port.data_width > bus.data_width:
                raise ValueError(f"memory.bus_bits must be {port.data_width}, the width of the "
                                 f"memory's ports, not {bus.data_width}")
            if port.data_width < bus.data_width:
                most = _BURST_BEATS * port.data_width // 8
                if longest > most:
                    raise ValueError(f"memory.burst_bytes and rows must be at most {most} bytes, "
                                     f"{_BURST_BEATS} beats of the memory's ports, not {longest}")
                native = axi.AXIInterface(data_width=port.data_width, id_width=bus.id_width,
                                          address_width=bus.address_width)
                self.add_module(f"{name}_converter", axi.AXIConverter(bus, native))
            self.add_module(name, LiteDRAMAXI2Native(
                native, port, r_buffer_depth=_READ_BEATS, base_address=origin))
