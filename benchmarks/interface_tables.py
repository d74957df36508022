"""The tables of the configuration's fields, and of host link and registers that follow from them.

    python benchmarks/interface_tables.py [--check]

Writes docs/soc-registers.md, docs/soc-memory-registers.md, in docs/configuration.md the fields, and
in docs/host-link.md the fields of the identity and its bytes in the example. With --check nothing
is written: it fails if a document would change.
"""

import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nearbit import configs
from nearbit.soc import bundle, exports
from nearbit_boards.protocol import (
    IDENTITY,
    LAYOUT,
    Block,
    Status,
    identity_bytes,
    reply,
)
from nearbit_hw.soc.registers import register_map
from nearbit_model.config import Config


ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
REGISTERS = "reference"
MEMORY = "soc-memory.md"
"""Page with the configuration whose registers are those of an accelerator with a memory."""

EXAMPLE = ("tiny", 12_000_000)
"""Preset and clock of the host link's example."""

FIXED = {
    "size": f"bytes of the identity, this one included: {sum(IDENTITY.values())} in this release",
    "major": "release of Nearbit that the bitstream was built with",
    "minor": "",
    "patch": "",
    "layout": f"changes with the fields that follow: 0x{LAYOUT:04x} in this release",
    "clock": "cycles per second",
}
"""Descriptions of the fields that are not the configuration's."""

NAMES = {None: "none", False: "no", True: "yes"}


def values(name: str, known: Mapping[str, Any]) -> str:
    """Say which values a field of the configuration may have."""
    if "choices" in known:
        return ", ".join(f"{number} {NAMES.get(choice, f'`{choice}`')}"
                         for number, choice in enumerate(known["choices"]))
    allowed = f"{known['range'][0]:,} to {known['range'][-1]:,}"
    part, _, _ = name.rpartition(".")
    return f"{allowed}; 0 without `[{part}]`" if part else allowed


def identity_table() -> str:
    """Describe the fields of an identity in Markdown."""
    known = Config.leaf_metadata()
    return "| field | bytes | what |\n|---|---|---|\n" + "".join(
        f"| `{name}` | {size} | {FIXED[name] if name in FIXED else values(name, known[name])} |\n"
        for name, size in IDENTITY.items()).replace("|  |", "| |")


def host_link(text: str) -> str:
    """Replace what is made in docs/host-link.md."""
    preset, clock = EXAMPLE
    octets = identity_bytes(Config.preset(preset), bundle.version(), clock)
    answer = reply(Status.OK, 0, bytes([Block.IDENTITY]) + octets)
    for pattern, made in (
            (r"(?<=### Identity\n\n)\| field .*?\n(?=\n)", identity_table()),
            (r"(?<=> a5 01 00 00 fb ac\n)< .*?\n", f"< {answer.hex(' ')}\n")):
        places = list(re.finditer(pattern, text, re.DOTALL))
        if len(places) != 1:
            raise ValueError(f"docs/host-link.md must have one place like {pattern!r}, "
                             f"not {len(places)}")
        text = text[:places[0].start()] + made + text[places[0].end():]
    return text


def configuration(text: str) -> str:
    """Replace what is made in docs/configuration.md."""
    begin, end = "<!-- fields: benchmarks/interface_tables.py -->\n", "<!-- /fields -->\n"
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise ValueError("docs/configuration.md must have a place for the fields")
    return head + begin + configs.table() + end + tail


def memory_config() -> Config:
    """Give the configuration of the page about an accelerator with a memory."""
    text = (DOCS / MEMORY).read_text(encoding="utf-8")
    _, _, rest = text.partition("```toml\n")
    return Config.from_dict(tomllib.loads(rest.partition("```")[0]))


def main(arguments: Sequence[str]) -> int:
    """Write the documents, or compare them with what is there."""
    registers = register_map(Config.preset(REGISTERS), version=bundle.version())
    link = DOCS / "host-link.md"
    fields = DOCS / "configuration.md"
    cached = register_map(memory_config(), version=bundle.version())
    texts = {DOCS / "soc-registers.md": exports.markdown(registers),
             DOCS / "soc-memory-registers.md": exports.markdown(cached),
             link: host_link(link.read_text(encoding="utf-8")),
             fields: configuration(fields.read_text(encoding="utf-8"))}
    wrong = [path for path, text in texts.items()
             if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in wrong:
        if "--check" in arguments:
            print(f"{path.relative_to(ROOT)} is out of date: run "
                  f"python benchmarks/interface_tables.py")
        else:
            path.write_text(texts[path], encoding="utf-8", newline="\n")
            print(path.relative_to(ROOT))
    return int(bool(wrong)) if "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
