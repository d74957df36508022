# SPDX-License-Identifier: Apache-2.0
"""The Verilog of `nearbit verilog --interface axi` as a LiteX module."""

import json
from pathlib import Path

from litex.gen import LiteXModule
from litex.soc.interconnect import axi, stream
from migen import ClockSignal, Instance, ResetSignal, Signal


__all__ = ["Nearbit"]


class Nearbit(LiteXModule):
    """A Nearbit accelerator, to be put on the bus of a SoC as a slave of 4 KiB.

    `sink` takes packets of loads and batches, `source` gives results and `trace` the selected keys:
    LiteX streams with `data` and `last`, which fit its DMA engines. `irq` is high until it is
    cleared in the registers.

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

        self.bus = axi.AXILiteInterface(data_width=32, address_width=32)
        self.sink = stream.Endpoint([("data", bits["s_axis"])])
        self.source = stream.Endpoint([("data", bits["m_axis_result"])])
        self.trace = stream.Endpoint([("data", bits["m_axis_trace"])])
        self.irq = Signal()

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
        self.specials += Instance(f"{name}_axi", **ports)
        platform.add_source(str(folder / f"{name}_axi.v"))
