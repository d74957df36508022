"""Netlists of a vendor's cells as plain Verilog, for simulators and proofs.

The vendor's cells are replaced by their models in Yosys, so nothing else is needed to simulate.
"""

import re
import tempfile
from pathlib import Path

from nearbit_hw import yosys
from nearbit_sim import ecp5


__all__ = ["SYNTHESIS", "models", "plain"]


SYNTHESIS = {
    # With wide multiplexers popcounts become twice as large.
    "ecp5": "synth_ecp5 -nowidelut",
    "ice40": "synth_ice40",
    "up5k": "synth_ice40 -device u -dsp -spram",
    "xc7": "synth_xilinx -flatten -family xc7 -nowidelut -noiopad -noclkbuf",
}
"""Yosys command for each target: for simulation, for boards, and to count cells."""

_MODELS = {
    "ecp5": ("ecp5/common_sim.vh", "ecp5/ccu2c_sim.vh", "ecp5/cells_ff.vh", "ecp5/cells_sim.v"),
    "ice40": ("ice40/cells_sim.v",),
    "up5k": ("ice40/cells_sim.v",),
    "xc7": ("xilinx/cells_sim.v",),
}

_MODULE = re.compile(r"^module +(\w+).*?^endmodule", re.MULTILINE | re.DOTALL)


def models(verilog: str, target: str) -> str:
    """Collect Yosys's models of those vendor cells that a text uses: all would take minutes."""
    folder = yosys.share()
    text = "\n".join((folder / name).read_text(encoding="utf-8") for name in _MODELS[target])
    found = {match[1]: match[0] for match in _MODULE.finditer(text)}
    chosen: dict[str, str] = {}
    waiting = [verilog]
    while waiting:
        for word in sorted(set(re.findall(r"\w+", waiting.pop())) & found.keys() - chosen.keys()):
            chosen[word] = found[word]
            waiting.append(found[word])
    # What stands in front of the first module are macros.
    macros = "\n".join(re.findall(r"^`define .*?(?<!\\)$", text, re.MULTILINE | re.DOTALL))
    return "\n".join([macros, *chosen.values()])


def plain(verilog: str, target: str, *, synthesize: bool) -> str:
    """Replace a vendor's cells by their models.

    Parameters
    ----------
    verilog
        Text whose first module is the top.
    target
        One of :data:`SYNTHESIS`; a target without cells of its own leaves the text as it is.
    synthesize
        Whether to make a netlist of the vendor's cells first; if not, only those that the text
        names itself are replaced.

    Returns
    -------
    str
        A module named ``dut``, with the ports of the top; models of large blocks may follow.
    """
    if target not in SYNTHESIS:
        return verilog
    first = _MODULE.search(verilog)
    if first is None:
        raise ValueError("there is no module in the Verilog text")
    top = first[1]
    with tempfile.TemporaryDirectory(prefix="netlist-") as name:
        directory = Path(name)
        (directory / "text.v").write_text(verilog, encoding="utf-8")
        if synthesize:
            yosys.run(["read_verilog text.v", f"{SYNTHESIS[target]} -top {top}",
                       "write_verilog -noattr text.v"], directory)
            verilog = (directory / "text.v").read_text(encoding="utf-8")
        (directory / "models.v").write_text(models(verilog, target), encoding="utf-8")
        # Yosys would need minutes to flatten these.
        blocks = ecp5.models() if re.search("DP16KD|MULT18X18D", verilog) else ""
        (directory / "blocks.v").write_text(blocks, encoding="utf-8")
        device = "ICE40_U" if target == "up5k" else "ICE40_HX"
        yosys.run([
            "read_verilog text.v", f"read_verilog -D {device} models.v",
            "read_verilog -lib blocks.v", f"hierarchy -check -top {top}",
            "proc", "flatten", "opt_clean -purge", f"rename {top} dut",
            "write_verilog -noattr plain.v",
        ], directory)
        return (directory / "plain.v").read_text(encoding="utf-8") + blocks
